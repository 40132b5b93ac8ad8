//! Keys and patterns by their definition: lists of segments, compared one by one.

/// The most bytes of a key or a pattern.
const BYTES_MAX: usize = 512;

/// Whether a text is a pattern.
pub(crate) fn is_pattern(text: &str) -> bool {
    let is_segment = |segment: &str| {
        let is_text = !segment.contains(|c: char| c.is_whitespace() || c.is_control() || c == '*');
        segment == "*" || (!segment.is_empty() && is_text)
    };
    text.len() <= BYTES_MAX && text.split('.').all(is_segment)
}

/// Whether a text is a key.
pub(crate) fn is_key(text: &str) -> bool {
    is_pattern(text) && !text.contains('*')
}

/// Whether a pattern matches a key, or covers it where it is not exact.
pub(crate) fn matches(pattern: &str, exact: bool, key: &str) -> bool {
    fn go(pattern: &[&str], exact: bool, key: &[&str]) -> bool {
        match (pattern, key) {
            (["*"], _) | ([], []) => true,
            ([], _) => !exact,
            ([first, pattern @ ..], [segment, key @ ..]) => {
                (*first == "*" || first == segment) && go(pattern, exact, key)
            }
            _ => false,
        }
    }
    let pattern: Vec<&str> = pattern.split('.').collect();
    let key: Vec<&str> = key.split('.').collect();
    // The daemon's own keys are only found by name.
    let is_meant = pattern[0] != "*" || !key[0].starts_with('$');
    is_meant && go(&pattern, exact, &key)
}

/// A key that both patterns match, if there is any: each star that has nothing beside it stands for
/// one segment, and a star at the end for what the other one asks for.
pub(crate) fn key_of_both(one: &str, other: &str) -> Option<String> {
    let (one, other): (Vec<&str>, Vec<&str>) =
        (one.split('.').collect(), other.split('.').collect());
    let mut key = Vec::new();
    let mut at = 0;
    loop {
        // What each has here; nothing behind its end, and nothing in particular from its last star on.
        let [ours, theirs] = [&one, &other].map(|pattern| {
            let is_open = pattern.last() == Some(&"*") && at + 1 >= pattern.len();
            (pattern.get(at).copied().filter(|_| !is_open), is_open)
        });
        match (ours, theirs) {
            ((None, _), (None, _)) => break,
            ((Some(_), _), (None, false)) | ((None, false), (Some(_), _)) => return None,
            ((Some(segment), _), (None, true)) | ((None, true), (Some(segment), _)) => {
                key.push(segment);
            }
            ((Some("*"), _), (Some(segment), _)) | ((Some(segment), _), (Some("*"), _)) => {
                key.push(segment);
            }
            ((Some(ours), _), (Some(theirs), _)) if ours == theirs => key.push(ours),
            _ => return None,
        }
        at += 1;
    }
    if key.is_empty() {
        key.push("x");
    }
    let key: Vec<&str> = key
        .iter()
        .map(|segment| if *segment == "*" { "x" } else { segment })
        .collect();
    let key = key.join(".");
    let is_found = matches(&one.join("."), true, &key) && matches(&other.join("."), true, &key);
    is_found.then_some(key)
}

/// Whether a pattern matches whatever another one matches: the least and the most particular of its
/// keys, with segments that stand in no pattern.
pub(crate) fn covers(pattern: &str, other: &str) -> bool {
    let strange = |text: &str| {
        text.split('.')
            .map(|segment| if segment == "*" { "\u{fffd}" } else { segment })
            .collect::<Vec<_>>()
            .join(".")
    };
    let mut keys = vec![strange(other)];
    if other == "*" {
        keys.push("\u{fffd}.\u{fffd}".into());
    } else if let Some(node) = other.strip_suffix(".*") {
        keys.push(strange(node));
        keys.push(format!("{}.\u{fffd}", strange(other)));
    }
    keys.iter().all(|key| matches(pattern, true, key))
}
