//! A key names one entry of the keyspace; a pattern names many.
//!
//! Both are parsed once, at the edge, and are valid for as long as they exist: no code behind this
//! file asks again whether a segment is empty or a star stands where it may not. A [`Key`] owns its
//! text and is cheap to clone (its entry and whoever walks share one allocation); a [`KeyRef`]
//! borrows it, so that a request can be looked up without allocating.
//!
//! A key is one or more segments joined by `.`. A pattern is a key in which a segment may be `*`:
//! in the middle it stands for exactly one segment, at the end for the whole subtree, the node
//! above it included. That last rule turns every pattern into two parts, which is how
//! [`Pattern`] keeps it: the segments that must be there, and whether more may follow.
//!
//! Left out: stars inside a segment (`ab*`), and a "many segments" star in the middle. Both would
//! make a pattern's keys discontiguous in ways that a walk by key can't bound.

use std::borrow::{Borrow, Cow};
use std::fmt;

use arcstr::ArcStr;

/// The longest key or pattern, in bytes of UTF-8.
pub const KEY_BYTES_MAX: usize = 512;

/// A valid key that owns its text. Clones share one allocation.
///
/// Keys order by their bytes, as the protocol's lists do.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(ArcStr);

/// A valid key that borrows its text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyRef<'a>(&'a str);

/// A valid pattern: a key in which segments may be `*`. A plain key is a pattern too.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Pattern {
    /// As it was written.
    text: Box<str>,
    /// How many bytes of `text` are the segments that must be there (all of it, less a final star).
    required_bytes: usize,
    /// How many bytes of `text` come before the first star, less the dot before it.
    literal_bytes: usize,
    /// Whether keys below the required segments belong to it.
    subtree: bool,
}

/// Why a text is not a key, or not a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyError {
    /// There is no text, or two dots with nothing between them, or a dot at either end.
    EmptySegment,
    /// Longer than [`KEY_BYTES_MAX`]; carries the length in bytes.
    TooLong(usize),
    /// A white space or control character.
    Character(char),
    /// A star that is only a part of a segment.
    PartialStar,
    /// A pattern where a key is needed.
    Pattern,
}

impl Key {
    /// Parses a key.
    ///
    /// # Errors
    /// [`KeyError`] where the text breaks the rules for keys, or is a pattern with a star.
    ///
    /// ```
    /// use nkv::Key;
    /// assert_eq!(Key::new("net.eth0.mtu")?.as_str(), "net.eth0.mtu");
    /// assert!(Key::new("net..mtu").is_err());
    /// assert!(Key::new("net.*").is_err());
    /// # Ok::<(), nkv::KeyError>(())
    /// ```
    pub fn new(text: &str) -> Result<Key, KeyError> {
        KeyRef::new(text).map(KeyRef::to_key)
    }

    /// Builds a key from segments of any text, escaping what a segment can't hold (see [`escape`]).
    ///
    /// # Errors
    /// [`KeyError::EmptySegment`] where a segment is empty or there is none, and
    /// [`KeyError::TooLong`] where the escaped key exceeds [`KEY_BYTES_MAX`].
    ///
    /// ```
    /// use nkv::Key;
    /// let key = Key::from_segments(["hosts", "edge-7.example.org", "up"])?;
    /// assert_eq!(key.as_str(), "hosts.edge-7%2Eexample%2Eorg.up");
    /// assert_eq!(key.segments().nth(1).unwrap(), "edge-7.example.org");
    /// # Ok::<(), nkv::KeyError>(())
    /// ```
    pub fn from_segments<I>(segments: I) -> Result<Key, KeyError>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut text = String::new();
        for (position, segment) in segments.into_iter().enumerate() {
            if position > 0 {
                text.push('.');
            }
            text.push_str(&escape(segment.as_ref()));
        }
        Key::new(&text)
    }

    /// The key as it travels: segments joined by dots, escapes as they are.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Borrows it.
    #[must_use]
    pub fn borrowed(&self) -> KeyRef<'_> {
        KeyRef(&self.0)
    }

    /// The segments' texts, escapes undone.
    pub fn segments(&self) -> impl Iterator<Item = Cow<'_, str>> {
        self.0.split('.').map(unescape)
    }
}

impl<'a> KeyRef<'a> {
    /// Parses a key without copying it.
    ///
    /// # Errors
    /// As [`Key::new`].
    pub fn new(text: &'a str) -> Result<KeyRef<'a>, KeyError> {
        match check(text)? {
            Stars::None => Ok(KeyRef(text)),
            Stars::Some => Err(KeyError::Pattern),
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// Copies it into a key of its own.
    #[must_use]
    pub fn to_key(self) -> Key {
        Key(ArcStr::from(self.0))
    }

    /// Whether the key belongs to the daemon: its first segment begins with `$`.
    #[must_use]
    pub fn is_reserved(self) -> bool {
        self.0.starts_with('$')
    }
}

impl Pattern {
    /// Parses a pattern; a plain key is one that matches itself.
    ///
    /// # Errors
    /// [`KeyError`] where the text breaks the rules for patterns.
    ///
    /// ```
    /// use nkv::{Key, Pattern};
    /// let pattern = Pattern::new("net.*.mtu")?;
    /// assert!(pattern.matches(Key::new("net.eth0.mtu")?.borrowed()));
    /// assert!(!pattern.matches(Key::new("net.mtu")?.borrowed()));
    /// # Ok::<(), nkv::KeyError>(())
    /// ```
    pub fn new(text: &str) -> Result<Pattern, KeyError> {
        check(text)?;
        let (required_bytes, subtree) = match text.strip_suffix('*') {
            Some(required) => (required.len().saturating_sub(1), true),
            None => (text.len(), false),
        };
        let required = &text[..required_bytes];
        // A star is a segment of its own, so the byte before the first one is a dot.
        let literal_bytes = required
            .find('*')
            .map_or(required_bytes, |star| star.saturating_sub(1));
        Ok(Pattern {
            text: Box::from(text),
            required_bytes,
            literal_bytes,
            subtree,
        })
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it has a star, so that it can match more than one key.
    #[must_use]
    pub fn has_star(&self) -> bool {
        self.text.len() != self.literal_bytes
    }

    /// The same pattern with every descendant of its keys: what a subscription covers.
    #[must_use]
    pub fn with_descendants(self) -> Pattern {
        Pattern {
            subtree: true,
            ..self
        }
    }

    /// Whether keys below the required segments belong to it.
    #[must_use]
    pub fn is_subtree(&self) -> bool {
        self.subtree
    }

    /// Whether it names keys that belong to the daemon. A leading star never does.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.text.starts_with('$')
    }

    /// The segments that a key must have, a star standing for any one.
    pub fn required_segments(&self) -> impl Iterator<Item = &str> {
        let required = &self.text[..self.required_bytes];
        required.split('.').filter(|segment| !segment.is_empty())
    }

    /// The text that every key it matches begins with: whole segments, without the dot after them.
    /// Empty where the pattern begins with a star.
    #[must_use]
    pub fn literal(&self) -> &str {
        &self.text[..self.literal_bytes]
    }

    /// Whether all keys of the other pattern are its keys, too.
    #[must_use]
    pub fn covers(&self, other: &Pattern) -> bool {
        if self.stands_for_any_first() && other.is_reserved() {
            return false;
        }
        // Every key has a first segment.
        let any_first = (other.required_bytes == 0).then_some("*");
        let mut theirs = any_first.into_iter().chain(other.required_segments());
        let fits = self.required_segments().all(|ours| {
            theirs
                .next()
                .is_some_and(|theirs| ours == "*" || ours == theirs)
        });
        let ends = theirs.next().is_none();
        fits && (self.subtree || (ends && !other.subtree))
    }

    /// Whether some key could belong to both.
    #[must_use]
    pub fn intersects(&self, other: &Pattern) -> bool {
        if (self.stands_for_any_first() && other.is_reserved())
            || (other.stands_for_any_first() && self.is_reserved())
        {
            return false;
        }
        let (mut ours, mut theirs) = (self.required_segments(), other.required_segments());
        loop {
            match (ours.next(), theirs.next()) {
                (Some(ours), Some(theirs)) => {
                    if ours != "*" && theirs != "*" && ours != theirs {
                        return false;
                    }
                }
                (Some(_), None) => return other.subtree,
                (None, Some(_)) => return self.subtree,
                (None, None) => return true,
            }
        }
    }

    /// Whether its first segment is a star, which never stands for the daemon's own keys.
    fn stands_for_any_first(&self) -> bool {
        self.literal_bytes == 0
    }

    /// Whether the key is one of its keys.
    ///
    /// A star never stands for a first segment that begins with `$`.
    #[must_use]
    pub fn matches(&self, key: KeyRef<'_>) -> bool {
        if self.literal_bytes == self.required_bytes && self.literal_bytes > 0 {
            return match key.0.strip_prefix(self.literal()) {
                Some("") => true,
                Some(rest) => self.subtree && rest.starts_with('.'),
                None => false,
            };
        }
        if self.literal_bytes == 0 && key.is_reserved() {
            return false;
        }
        let mut segments = key.0.split('.');
        let required_match = self.required_segments().all(|required| {
            segments
                .next()
                .is_some_and(|segment| required == "*" || required == segment)
        });
        required_match && (self.subtree || segments.next().is_none())
    }

    /// Where a walk in byte order may go on from a key that belongs to this pattern's
    /// [literal](Pattern::literal): no key that the pattern matches stands between the two. Writes it to
    /// `target`; false where it may be the very next key.
    ///
    /// The star nearest to the key's end that stands for one of its segments decides. What follows that
    /// star up to the next is fixed. The key stands before that text, within it, or behind it; in the last
    /// case all below the star's segment is done with.
    #[cfg(feature = "server")]
    pub(crate) fn skip(&self, key: KeyRef<'_>, target: &mut String) -> bool {
        target.clear();
        if self.stands_for_any_first() && key.is_reserved() {
            // The least text behind all that begin with a dollar sign.
            target.push('%');
            return true;
        }
        // Of the key, up to the end of the star's segment; of the pattern, what is behind that star.
        let mut decided = None;
        let mut end = 0;
        let mut required = self.required_segments();
        let mut rest = &self.text[..self.required_bytes];
        for segment in key.0.split('.') {
            let Some(wanted) = required.next() else { break };
            end += segment.len();
            rest = rest.get(wanted.len() + 1..).unwrap_or("");
            if wanted == "*" {
                decided = Some((end, rest));
            } else if wanted != segment {
                break;
            }
            end += 1;
        }
        let Some((end, rest)) = decided else {
            return false;
        };
        let (above, below) = key.0.split_at(end);
        // Where the star's segment is the last, others may stand before those below it: `a`, `a-b`, `a.b`.
        let Some(below) = below.strip_prefix('.') else {
            return false;
        };
        let fixed = rest.find('*').map_or(rest, |star| &rest[..star]);
        let is_all = fixed.len() == rest.len();
        target.push_str(above);
        match below.strip_prefix(fixed) {
            None if below < fixed => {
                target.push('.');
                target.push_str(fixed);
            }
            Some(more) if is_all && self.subtree && more < "." => {
                target.extend([".", fixed, "."]);
            }
            // It matches.
            Some(more) if fixed.is_empty() || (self.subtree && more.starts_with('.')) => {
                return false;
            }
            // The least text behind all that begin with the segment and a dot.
            _ => target.push('/'),
        }
        true
    }
}

/// Makes a text fit to be one segment of a key: a dot, star, percent sign, white space, control
/// character, or dollar sign at the front becomes `%XX`, the UTF-8 bytes in upper-case hexadecimal.
///
/// The form is that of RFC 3986's percent-encoding. [`unescape`] is its inverse. An empty text stays
/// empty, which no key accepts.
#[must_use]
pub fn escape(text: &str) -> Cow<'_, str> {
    let special = |(position, character): (usize, char)| {
        matches!(character, '.' | '*' | '%')
            || (position == 0 && character == '$')
            || character.is_whitespace()
            || character.is_control()
    };
    if !text.char_indices().any(special) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for (position, character) in text.char_indices() {
        if special((position, character)) {
            let mut utf8 = [0; 4];
            for byte in character.encode_utf8(&mut utf8).bytes() {
                escaped.push('%');
                escaped.push(char::from(HEX[usize::from(byte >> 4)]));
                escaped.push(char::from(HEX[usize::from(byte & 15)]));
            }
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

/// Undoes [`escape`]. Text that is no escape stays as it is, and so does an escape whose bytes are
/// not UTF-8: keys come from anyone, and to the daemon a percent sign is text like any other.
#[must_use]
pub fn unescape(segment: &str) -> Cow<'_, str> {
    if !segment.contains('%') {
        return Cow::Borrowed(segment);
    }
    let bytes = segment.as_bytes();
    let mut unescaped = Vec::with_capacity(bytes.len());
    let mut position = 0;
    while position < bytes.len() {
        let escaped = match bytes[position..] {
            [b'%', high, low, ..] => hex_digit(high).zip(hex_digit(low)),
            _ => None,
        };
        match escaped {
            Some((high, low)) => {
                unescaped.push(high << 4 | low);
                position += 3;
            }
            None => {
                unescaped.push(bytes[position]);
                position += 1;
            }
        }
    }
    String::from_utf8(unescaped).map_or(Cow::Borrowed(segment), Cow::Owned)
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Key {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Key, KeyError> {
        Key::new(text)
    }
}

impl std::str::FromStr for Pattern {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Pattern, KeyError> {
        Pattern::new(text)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.0)
    }
}

impl fmt::Display for KeyRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for KeyRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRef({})", self.0)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Pattern({}{})",
            self.text,
            if self.subtree { " and below" } else { "" }
        )
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyError::EmptySegment => f.write_str("a key has no empty segment"),
            KeyError::TooLong(bytes) => {
                write!(
                    f,
                    "a key has at most {KEY_BYTES_MAX} bytes, this one has {bytes}"
                )
            }
            KeyError::Character(character) => {
                write!(
                    f,
                    "a key has no white space or control character, this one has {character:?}"
                )
            }
            KeyError::PartialStar => f.write_str("'*' is a segment of its own or nothing"),
            KeyError::Pattern => f.write_str("a key is needed here, not a pattern with '*'"),
        }
    }
}

impl std::error::Error for KeyError {}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

enum Stars {
    None,
    Some,
}

/// Checks what keys and patterns have in common, and tells whether there is a star.
///
/// Every request comes through here, so most texts, which are ASCII, are looked at as bytes.
fn check(text: &str) -> Result<Stars, KeyError> {
    if text.len() > KEY_BYTES_MAX {
        return Err(KeyError::TooLong(text.len()));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let bad = |c: &char| c.is_whitespace() || c.is_control();
        if let Some(character) = text.chars().find(bad) {
            return Err(KeyError::Character(character));
        }
    }
    let mut stars = Stars::None;
    let mut before = b'.';
    let mut bytes = text.bytes().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'.' if before == b'.' => return Err(KeyError::EmptySegment),
            b'*' if before == b'.' && matches!(bytes.peek(), None | Some(b'.')) => {
                stars = Stars::Some;
            }
            b'*' => return Err(KeyError::PartialStar),
            _ => {}
        }
        before = byte;
    }
    if before == b'.' {
        return Err(KeyError::EmptySegment);
    }
    Ok(stars)
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_checked() {
        let check = |text: &str, expected: Result<(), KeyError>| {
            assert_eq!(Key::new(text).map(|_| ()), expected, "{text:?}");
        };
        check("a", Ok(()));
        check("a.b.c", Ok(()));
        check("$sys.x", Ok(()));
        check("größe.温度", Ok(()));
        check("a%2Eb", Ok(()));
        check(&"k".repeat(KEY_BYTES_MAX), Ok(()));
        check("", Err(KeyError::EmptySegment));
        check(".", Err(KeyError::EmptySegment));
        check("a.", Err(KeyError::EmptySegment));
        check(".a", Err(KeyError::EmptySegment));
        check("a..b", Err(KeyError::EmptySegment));
        check("a b", Err(KeyError::Character(' ')));
        check("a\u{a0}b", Err(KeyError::Character('\u{a0}')));
        check("a\0", Err(KeyError::Character('\0')));
        check("a.\u{7f}", Err(KeyError::Character('\u{7f}')));
        check("a*", Err(KeyError::PartialStar));
        check("**", Err(KeyError::PartialStar));
        check("*", Err(KeyError::Pattern));
        check("a.*.b", Err(KeyError::Pattern));
        check(
            &"k".repeat(KEY_BYTES_MAX + 1),
            Err(KeyError::TooLong(KEY_BYTES_MAX + 1)),
        );
    }

    #[test]
    fn patterns_match() {
        let check = |pattern: &str, keys: &[&str], others: &[&str]| {
            let pattern = Pattern::new(pattern).unwrap();
            for key in keys {
                assert!(
                    pattern.matches(KeyRef::new(key).unwrap()),
                    "{pattern} matches {key}"
                );
            }
            for key in others {
                assert!(
                    !pattern.matches(KeyRef::new(key).unwrap()),
                    "{pattern} spares {key}"
                );
            }
        };
        check("a", &["a"], &["b", "a.b", "ab"]);
        check("a.*", &["a", "a.b", "a.b.c"], &["b", "ab", "a-b", "b.a"]);
        check("*", &["a", "a.b", "a.$b"], &["$a", "$a.b"]);
        check(
            "a.*.c",
            &["a.b.c"],
            &["a.c", "a.b", "a.b.c.d", "a.b.b.c", "b.b.c"],
        );
        check("*.b", &["a.b"], &["b", "a", "a.b.c", "$a.b"]);
        check("*.*", &["a", "a.b", "a.b.c"], &["$a", "$a.b"]);
        check("a.*.*", &["a.b", "a.b.c", "a.b.c.d"], &["a", "b.b"]);
        check("a.*.c.*", &["a.b.c", "a.b.c.d.e"], &["a.b", "a.b.d.c"]);
        check("$s.*", &["$s", "$s.a"], &["$t", "s"]);
    }

    #[test]
    fn descendants_are_covered() {
        let check = |pattern: &str, key: &str, expected: bool| {
            let pattern = Pattern::new(pattern).unwrap().with_descendants();
            assert_eq!(
                pattern.matches(KeyRef::new(key).unwrap()),
                expected,
                "{pattern} {key}"
            );
        };
        check("a", "a.b.c", true);
        check("a", "ab", false);
        check("a.*.c", "a.b.c.d", true);
        check("a.*.c", "a.b", false);
        check("*.c", "a.c.d", true);
        check("*.c", "$a.c.d", false);
    }

    #[test]
    fn literals_are_whole_segments() {
        let check = |pattern: &str, literal: &str, star: bool| {
            let pattern = Pattern::new(pattern).unwrap();
            assert_eq!(pattern.literal(), literal, "{pattern}");
            assert_eq!(pattern.has_star(), star, "{pattern}");
        };
        check("a.b", "a.b", false);
        check("a.b.*", "a.b", true);
        check("a.*.b", "a", true);
        check("*", "", true);
        check("*.a", "", true);
        check("a.*", "a", true);
    }

    #[test]
    fn segments_escape_and_return() {
        let check = |text: &str, escaped: &str| {
            assert_eq!(escape(text), escaped);
            assert_eq!(unescape(escaped), text);
            assert!(Key::from_segments([text]).is_ok());
        };
        check("plain", "plain");
        check("a.b", "a%2Eb");
        check("*", "%2A");
        check("100%", "100%25");
        check("$x$", "%24x$");
        check("a b\u{2003}c", "a%20b%E2%80%83c");
        check("\n", "%0A");
        check("é", "é");
        assert_eq!(unescape("50%"), "50%");
        assert_eq!(unescape("%FF"), "%FF");
        assert_eq!(unescape("%zz%2e"), "%zz.");
        assert_eq!(Key::from_segments([""]), Err(KeyError::EmptySegment));
        assert_eq!(
            Key::from_segments::<[&str; 0]>([]),
            Err(KeyError::EmptySegment)
        );
    }

    #[test]
    fn patterns_are_compared() {
        let check = |one: &str, other: &str, covers: bool, intersects: bool| {
            let [one, other] = [one, other].map(|text| Pattern::new(text).unwrap());
            assert_eq!(one.covers(&other), covers, "{one:?} covers {other:?}");
            assert_eq!(one.intersects(&other), intersects, "{one:?} and {other:?}");
            assert_eq!(other.intersects(&one), intersects, "{other:?} and {one:?}");
        };
        check("a", "a", true, true);
        check("a", "b", false, false);
        check("a", "a.b", false, false);
        check("a.*", "a", true, true);
        check("a.*", "a.b.*", true, true);
        check("a.b.*", "a.*", false, true);
        check("a", "a.*", false, true);
        check("*", "a.*.c", true, true);
        check("*", "*", true, true);
        check("*", "$a.*", false, false);
        check("*.b", "a.*", false, true);
        check("*.b", "a.b", true, true);
        check("a.*.c", "a.b.*", false, true);
        check("a.*.c", "a.*.d", false, false);
        check("a.*.c", "a.b.c", true, true);
        check("a.b.c", "a.*.c", false, true);
    }

    proptest::proptest! {
        #[test]
        fn comparing_agrees_with_matching(
            one in "(a|b|\\*)(\\.(a|b|\\*)){0,2}",
            other in "(a|b|\\*)(\\.(a|b|\\*)){0,2}",
        ) {
            let [one, other] = [&one, &other].map(|text| Pattern::new(text).unwrap());
            // Every key of up to four segments of three kinds: a third stands for all others.
            let mut keys = vec![String::new()];
            for _ in 0..4 {
                let longer = keys.iter().flat_map(|key| {
                    ["a", "b", "x"].map(|segment| match key.as_str() {
                        "" => segment.to_owned(),
                        key => format!("{key}.{segment}"),
                    })
                });
                let longer: Vec<String> = longer.collect();
                keys.extend(longer);
                keys.sort();
                keys.dedup();
            }
            let keys = keys.iter().filter(|key| !key.is_empty()).map(|key| KeyRef::new(key).unwrap());
            let (mut covers, mut intersects) = (true, false);
            for key in keys {
                covers &= one.matches(key) || !other.matches(key);
                intersects |= one.matches(key) && other.matches(key);
            }
            proptest::prop_assert_eq!(one.covers(&other), covers);
            proptest::prop_assert_eq!(one.intersects(&other), intersects);
        }
    }
}
