//! Who may do what: rules, and what follows from them for one peer.
//!
//! A rule is a line: who, what, which keys. **The first line that says something about a peer, an action
//! and a key decides**, and what no line speaks of is denied, to root as well. So a file is read from
//! the top like a list of exceptions, and why something is allowed or not is always one line
//! ([`Rules::decide`] names it). The alternative, that the most specific rule wins, needs an order
//! between `net.*.mtu` and `net.eth0.*`, which nobody guesses right.
//!
//! A file that speaks of lifetimes only leaves everything allowed, as no file does.
//!
//! Names of users and groups become numbers when the rules are read. For a connection the rules that
//! concern it are picked out once ([`Rules::grants`]); a key is then held against those only.
//!
//! **Quotas** are lines of the same file: how much of something a user may hold. Here they are only
//! read; what is held, and what counts where no line says anything, is the broker's.
//!
//! Left out: rules about parts of values, and about time. `hello`, `ping`, `stats` and `clients` tell
//! nothing of keys or values, and are everybody's.

use std::fmt;
use std::sync::Arc;

use crate::key::{KeyRef, Pattern};
use crate::wire::Lifetime;

/// Something that a peer may do to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// To get it, to subscribe to it, to hold a condition against it.
    Read,
    /// To put and to delete it.
    Write,
    /// To claim it.
    Own,
}

/// Whom rules are held against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A user of this machine, with all groups.
    User {
        /// The user's number.
        uid: u32,
        /// The numbers of the groups, the first one and the others.
        gids: Vec<u32>,
    },
    /// Somebody who has come over TCP.
    Tcp,
}

/// The rules of a file.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    rules: Vec<Rule>,
    lifetimes: Vec<Bound>,
    quotas: Vec<Quota>,
}

/// Something of which a user may hold only so much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Connections.
    Connections,
    /// Subscriptions, of all connections together.
    Subscriptions,
    /// Keys that the user has put last.
    Keys,
    /// Bytes of these keys and their values.
    Bytes,
    /// Bytes of unfinished requests and unread answers, of all connections together.
    Buffered,
}

/// What the rules say of one peer.
#[derive(Clone, Debug)]
pub struct Grants {
    rules: Arc<Rules>,
    /// The rules that concern this peer, in their order.
    concerned: Box<[u32]>,
}

/// Why something is allowed or denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<'r> {
    /// Whether it is allowed.
    pub is_allowed: bool,
    /// The line that decides, by its number from 1 and its text; none where no line speaks of it.
    pub line: Option<(usize, &'r str)>,
}

/// Why a text is no set of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulesError {
    /// The line's number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub message: String,
}

/// How names become numbers. A name that is a number is not asked for.
pub trait Names {
    /// The number of a user.
    fn user(&self, name: &str) -> Option<u32>;
    /// The number of a group.
    fn group(&self, name: &str) -> Option<u32>;
}

#[derive(Clone, Debug)]
struct Rule {
    is_allowed: bool,
    who: Who,
    actions: Actions,
    pattern: Pattern,
    line: usize,
    text: Box<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    User(u32),
    Group(u32),
    Tcp,
    Anyone,
}

/// A set of actions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Actions {
    read: bool,
    write: bool,
    own: bool,
}

/// How long entries may live at most.
#[derive(Clone, Debug)]
struct Bound {
    pattern: Pattern,
    lifetime: Lifetime,
    line: usize,
    text: Box<str>,
}

/// How much of something a user may hold.
#[derive(Clone, Debug)]
struct Quota {
    who: Who,
    resource: Resource,
    amount: u64,
    line: usize,
    text: Box<str>,
}

impl Rules {
    /// Reads rules from a text, one a line; what follows a `#` at a line's beginning or after white space
    /// is a comment.
    ///
    /// ```text
    /// allow user:netd read,write net.*
    /// allow group:staff read *
    /// lifetime metrics.* boot
    /// quota user:netd bytes 16M
    /// ```
    ///
    /// # Errors
    /// [`RulesError`] for the first line that is no rule. Nothing of the text counts then.
    pub fn parse(text: &str, names: &dyn Names) -> Result<Rules, RulesError> {
        let mut rules = Rules::default();
        for (line, text) in (1..).zip(text.lines()) {
            let text = without_comment(text).trim();
            let words: Vec<&str> = text.split_whitespace().collect();
            let failed = |message: String| RulesError { line, message };
            match words.as_slice() {
                [] => {}
                [verdict @ ("allow" | "deny"), who, actions, pattern] => rules.rules.push(Rule {
                    is_allowed: *verdict == "allow",
                    who: Who::parse(who, names).map_err(failed)?,
                    actions: Actions::parse(actions).map_err(failed)?,
                    pattern: parse_pattern(pattern).map_err(failed)?,
                    line,
                    text: text.into(),
                }),
                ["lifetime", pattern, lifetime] => rules.lifetimes.push(Bound {
                    pattern: parse_pattern(pattern).map_err(failed)?,
                    lifetime: parse_lifetime(lifetime).map_err(failed)?,
                    line,
                    text: text.into(),
                }),
                ["quota", who, resource, amount] => rules.quotas.push(Quota {
                    who: Who::parse(who, names).map_err(failed)?,
                    resource: Resource::parse(resource).map_err(failed)?,
                    amount: parse_size(amount).map_err(failed)?,
                    line,
                    text: text.into(),
                }),
                ["allow" | "deny", ..] => {
                    let form = "it takes three words after it: who, what, which keys";
                    return Err(failed(format!("{}: {form}", words[0])));
                }
                ["lifetime", ..] => {
                    let form = "it takes two words after it: which keys, and a lifetime";
                    return Err(failed(format!("lifetime: {form}")));
                }
                ["quota", ..] => {
                    let form = "it takes three words after it: who, of what, how much";
                    return Err(failed(format!("quota: {form}")));
                }
                [other, ..] => {
                    let known = "is none of allow, deny, lifetime and quota";
                    return Err(failed(format!("{other:?} {known}")));
                }
            }
        }
        Ok(rules)
    }

    /// Whether a subject may do something to a key, and which line says so.
    #[must_use]
    pub fn decide(&self, subject: &Subject, action: Action, key: KeyRef<'_>) -> Decision<'_> {
        if self.rules.is_empty() {
            return Decision {
                is_allowed: true,
                line: None,
            };
        }
        let mut concerned = self.rules.iter().filter(|rule| rule.who.is(subject));
        let rule = concerned.find(|rule| rule.speaks_of(action, key));
        Decision {
            is_allowed: rule.is_some_and(|rule| rule.is_allowed),
            line: rule.map(|rule| (rule.line, &*rule.text)),
        }
    }

    /// Whether a subject may do something to every key of a pattern, as a claim needs it, and which line says
    /// so: one that allows it for all of them, or one before that which denies it for some.
    #[must_use]
    pub fn decide_all(&self, subject: &Subject, action: Action, pattern: &Pattern) -> Decision<'_> {
        let concerned = self.rules.iter().filter(|rule| rule.who.is(subject));
        let rule = deciding_all(concerned, action, pattern);
        Decision {
            is_allowed: self.rules.is_empty() || rule.is_some_and(|rule| rule.is_allowed),
            line: rule.map(|rule| (rule.line, &*rule.text)),
        }
    }

    /// Whether nothing is said at all.
    #[must_use]
    pub fn are_empty(&self) -> bool {
        self.rules.is_empty() && self.lifetimes.is_empty() && self.quotas.is_empty()
    }

    /// The longest lifetime that an entry under this key may have, with the line that says so; none where
    /// no line does.
    #[must_use]
    pub fn longest_lifetime(&self, key: KeyRef<'_>) -> Option<(Lifetime, usize, &str)> {
        let mut bounds = self.lifetimes.iter();
        let bound = bounds.find(|bound| bound.pattern.matches(key))?;
        Some((bound.lifetime, bound.line, &bound.text))
    }

    /// How much of something a subject may hold, with the line that says so; none where no line does.
    #[must_use]
    pub fn quota(&self, subject: &Subject, resource: Resource) -> Option<(u64, usize, &str)> {
        let mut quotas = self.quotas.iter();
        let quota = quotas.find(|quota| quota.resource == resource && quota.who.is(subject))?;
        Some((quota.amount, quota.line, &quota.text))
    }

    /// A number that stands for who may do what; nothing where everybody may do everything. It is the
    /// CRC-32 of the rules as lines of this form, however they were written:
    ///
    /// ```text
    /// allow user:100 read,write net.*
    /// ```
    #[must_use]
    pub fn mark(&self) -> Option<u32> {
        let lines: String = self.rules.iter().map(|rule| format!("{rule}\n")).collect();
        (!lines.is_empty()).then(|| crc32fast::hash(lines.as_bytes()))
    }

    /// What the rules say of one subject; nothing where they allow everybody everything.
    #[must_use]
    pub fn grants(self: &Arc<Rules>, subject: &Subject) -> Option<Grants> {
        if self.rules.is_empty() {
            return None;
        }
        let numbers = (0..).zip(&self.rules);
        let concerned = numbers.filter(|(_, rule)| rule.who.is(subject));
        Some(Grants {
            concerned: concerned.map(|(number, _)| number).collect(),
            rules: Arc::clone(self),
        })
    }
}

impl Grants {
    /// Whether something may be done to a key.
    #[must_use]
    pub fn allow(&self, action: Action, key: KeyRef<'_>) -> bool {
        let mut rules = self.rules();
        rules
            .find(|rule| rule.speaks_of(action, key))
            .is_some_and(|rule| rule.is_allowed)
    }

    /// Whether there can be a key of the pattern to which something may be done. It may be true where
    /// there is none in the end, but is never false where there is one.
    #[must_use]
    pub fn allow_some(&self, action: Action, pattern: &Pattern) -> bool {
        for rule in self.rules().filter(|rule| rule.actions.has(action)) {
            if rule.is_allowed && rule.pattern.intersects(pattern) {
                return true;
            }
            if !rule.is_allowed && rule.pattern.covers(pattern) {
                return false;
            }
        }
        false
    }

    /// Whether something may be done to every key of the pattern. It may be false where the rules do so
    /// only by several lines together, but is never true where there is a key to which it may not be done.
    #[must_use]
    pub fn allow_all(&self, action: Action, pattern: &Pattern) -> bool {
        deciding_all(self.rules(), action, pattern).is_some_and(|rule| rule.is_allowed)
    }

    /// The rules, in their order.
    fn rules(&self) -> impl Iterator<Item = &Rule> {
        let all = &self.rules.rules;
        self.concerned.iter().map(|&number| &all[number as usize])
    }
}

/// Two say the same where the same rules concern the peer, wherever they stand.
impl PartialEq for Grants {
    fn eq(&self, other: &Grants) -> bool {
        let said = |rule: &Rule| (rule.is_allowed, rule.actions, rule.pattern.clone());
        self.rules().map(said).eq(other.rules().map(said))
    }
}

impl Rule {
    fn speaks_of(&self, action: Action, key: KeyRef<'_>) -> bool {
        self.actions.has(action) && self.pattern.matches(key)
    }
}

impl Who {
    fn parse(text: &str, names: &dyn Names) -> Result<Who, String> {
        let number = |name: &str, known: Option<u32>, kind: &str| {
            let number = parse_number(name).or(known);
            number.ok_or_else(|| format!("there is no {kind} {name:?}"))
        };
        match text.split_once(':') {
            None if text == "anyone" => Ok(Who::Anyone),
            None if text == "tcp" => Ok(Who::Tcp),
            Some(("user", name)) => Ok(Who::User(number(name, names.user(name), "user")?)),
            Some(("group", name)) => Ok(Who::Group(number(name, names.group(name), "group")?)),
            _ => Err(format!(
                "{text:?} is nobody: user:NAME, group:NAME, tcp and anyone are somebody"
            )),
        }
    }

    fn is(self, subject: &Subject) -> bool {
        match (self, subject) {
            (Who::Anyone, _) | (Who::Tcp, Subject::Tcp) => true,
            (Who::User(user), Subject::User { uid, .. }) => user == *uid,
            (Who::Group(group), Subject::User { gids, .. }) => gids.contains(&group),
            _ => false,
        }
    }
}

impl Actions {
    fn parse(text: &str) -> Result<Actions, String> {
        let mut actions = Actions::default();
        for word in text.split(',') {
            match word {
                "read" => actions.read = true,
                "write" => actions.write = true,
                "own" => actions.own = true,
                "all" => {
                    actions = Actions {
                        read: true,
                        write: true,
                        own: true,
                    }
                }
                _ => {
                    return Err(format!(
                        "{word:?} is no action: read, write, own and all are, with commas between them"
                    ));
                }
            }
        }
        Ok(actions)
    }

    fn has(self, action: Action) -> bool {
        match action {
            Action::Read => self.read,
            Action::Write => self.write,
            Action::Own => self.own,
        }
    }
}

impl Action {
    /// All of them, in the order in which they are explained.
    pub const ALL: [Action; 3] = [Action::Read, Action::Write, Action::Own];

    /// Its name in a rule.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Read => "read",
            Action::Write => "write",
            Action::Own => "own",
        }
    }
}

impl Resource {
    /// All of them, in the order in which they are told.
    pub const ALL: [Resource; 5] = [
        Resource::Connections,
        Resource::Subscriptions,
        Resource::Keys,
        Resource::Bytes,
        Resource::Buffered,
    ];

    /// Its name in a rule and in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Resource::Connections => "connections",
            Resource::Subscriptions => "subscriptions",
            Resource::Keys => "keys",
            Resource::Bytes => "bytes",
            Resource::Buffered => "buffered",
        }
    }

    fn parse(text: &str) -> Result<Resource, String> {
        let named = Resource::ALL.into_iter().find(|one| one.as_str() == text);
        named.ok_or_else(|| {
            let all = Resource::ALL.map(Resource::as_str).join(", ");
            format!("{text:?} has no quota: {all} have")
        })
    }
}

/// The rule as a line, with numbers for names and nothing that could be written in another way.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_allowed { "allow " } else { "deny " })?;
        match self.who {
            Who::User(user) => write!(f, "user:{user}")?,
            Who::Group(group) => write!(f, "group:{group}")?,
            Who::Tcp => f.write_str("tcp")?,
            Who::Anyone => f.write_str("anyone")?,
        }
        let has = |action: &Action| self.actions.has(*action);
        let actions = Action::ALL.into_iter().filter(has).map(Action::as_str);
        let actions: Vec<&str> = actions.collect();
        write!(f, " {} {}", actions.join(","), self.pattern.as_str())
    }
}

impl fmt::Display for RulesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for RulesError {}

/// The first of the rules that allows something for all keys of a pattern, or denies it for some.
fn deciding_all<'r>(
    mut rules: impl Iterator<Item = &'r Rule>,
    action: Action,
    pattern: &Pattern,
) -> Option<&'r Rule> {
    rules.find(|rule| {
        rule.actions.has(action)
            && match rule.is_allowed {
                true => rule.pattern.covers(pattern),
                false => rule.pattern.intersects(pattern),
            }
    })
}

/// How long a lifetime is beside the others: the higher, the longer.
#[must_use]
pub fn rank(lifetime: Lifetime) -> u8 {
    match lifetime {
        Lifetime::Session => 0,
        Lifetime::Boot => 1,
        Lifetime::Durable => 2,
    }
}

/// Reads a number of things or bytes: digits, and `k`, `M` or `G` for powers of 1024.
///
/// # Errors
/// A message that quotes the text, where it is no such number or none of 64 bits.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1 << 10),
        Some(b'M') => (&text[..text.len() - 1], 1 << 20),
        Some(b'G') => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    let number: Option<u64> = digits
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| digits.parse().ok())
        .flatten();
    number
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(|| format!("{text:?} is no number (like 512, 64k, 1M or 2G)"))
}

/// Reads the number of a user or group: digits and nothing else, not even a sign.
#[must_use]
pub fn parse_number(text: &str) -> Option<u32> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

fn without_comment(text: &str) -> &str {
    let mut before = None;
    for (position, character) in text.char_indices() {
        if character == '#' && before.is_none_or(char::is_whitespace) {
            return &text[..position];
        }
        before = Some(character);
    }
    text
}

fn parse_pattern(text: &str) -> Result<Pattern, String> {
    Pattern::new(text).map_err(|error| format!("{text:?}: {error}"))
}

fn parse_lifetime(text: &str) -> Result<Lifetime, String> {
    let all = [Lifetime::Session, Lifetime::Boot, Lifetime::Durable];
    let named = all.into_iter().find(|lifetime| lifetime.as_str() == text);
    named.ok_or_else(|| format!("{text:?} is no lifetime: session, boot and durable are"))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Book;

    impl Names for Book {
        fn user(&self, name: &str) -> Option<u32> {
            [("root", 0), ("netd", 100), ("web", 101)]
                .iter()
                .find_map(|(known, number)| (*known == name).then_some(*number))
        }

        fn group(&self, name: &str) -> Option<u32> {
            (name == "staff").then_some(50)
        }
    }

    const RULES: &str = "\
# the network
allow user:netd read,write net.*   # its own
deny  anyone    read       net.*.secret
allow group:50  read       net.*

allow tcp       read       public.*
allow user:0    all        *
lifetime net.*.rx session
lifetime net.* boot
quota user:netd keys 10
quota group:50 bytes 1M
quota anyone keys 2k
quota tcp keys 3
";

    fn user(uid: u32, gids: &[u32]) -> Subject {
        Subject::User {
            uid,
            gids: gids.to_vec(),
        }
    }

    fn rules(text: &str) -> Arc<Rules> {
        Arc::new(Rules::parse(text, &Book).unwrap())
    }

    #[test]
    fn the_first_line_that_speaks_of_it_decides() {
        let rules = rules(RULES);
        let check = |subject: &Subject, action: Action, key: &str, expected: (bool, usize)| {
            let key = KeyRef::new(key).unwrap();
            let decision = rules.decide(subject, action, key);
            let line = decision.line.map_or(0, |(line, _)| line);
            assert_eq!((decision.is_allowed, line), expected, "{subject:?} {key}");
            let grants = rules.grants(subject).unwrap();
            assert_eq!(grants.allow(action, key), expected.0, "{subject:?} {key}");
        };
        use Action::{Own, Read, Write};
        let netd = user(100, &[100]);
        check(&netd, Write, "net.eth0.mtu", (true, 2));
        check(&netd, Read, "net.eth0.secret", (true, 2));
        check(&netd, Own, "net.eth0", (false, 0));
        check(&netd, Read, "public.a", (false, 0));
        // By the second of its groups.
        let staff = user(7, &[7, 50]);
        check(&staff, Read, "net.eth0.mtu", (true, 4));
        check(&staff, Read, "net.eth0.secret", (false, 3));
        check(&staff, Write, "net.eth0.mtu", (false, 0));
        check(&Subject::Tcp, Read, "public.a.b", (true, 6));
        check(&Subject::Tcp, Read, "net.eth0.mtu", (false, 0));
        // Root, too, meets what stands before.
        let root = user(0, &[0]);
        check(&root, Read, "net.eth0.secret", (false, 3));
        check(&root, Own, "anything", (true, 7));
    }

    /// The mark names an epoch over restarts and over versions, so its number is held to.
    #[test]
    fn the_mark_is_of_what_the_rules_say() {
        let rules = rules(RULES);
        let lines: Vec<String> = rules.rules.iter().map(ToString::to_string).collect();
        let expected = [
            "allow user:100 read,write net.*",
            "deny anyone read net.*.secret",
            "allow group:50 read net.*",
            "allow tcp read public.*",
            "allow user:0 read,write,own *",
        ];
        assert_eq!(lines, expected);
        let mark = |text: &str| Rules::parse(text, &Book).unwrap().mark();
        assert_eq!(mark(&lines.join("\n")), rules.mark());
        let one = mark("allow anyone read a");
        assert_eq!(one, Some(0x02fe_1df0));
        assert_eq!(mark("\n  allow\tanyone read,read a # all"), one);
        assert_eq!(
            mark("lifetime a boot\nallow anyone read a\nquota tcp keys 1"),
            one
        );
        for other in [
            "deny anyone read a",
            "allow tcp read a",
            "allow anyone own a",
            "allow anyone read a.*",
        ] {
            assert_ne!(mark(other), one, "{other}");
        }
        assert_eq!(mark(""), None);
        assert_eq!(mark("lifetime a boot"), None);
    }

    #[test]
    fn without_rules_everything_is_allowed() {
        for text in ["", "# nothing\n\n", "lifetime a.* boot"] {
            let rules = rules(text);
            let key = KeyRef::new("a").unwrap();
            assert!(rules.decide(&Subject::Tcp, Action::Own, key).is_allowed);
            assert!(rules.grants(&Subject::Tcp).is_none());
        }
    }

    #[test]
    fn lifetimes_are_bounded_by_the_first_line_that_speaks_of_the_key() {
        let rules = rules(RULES);
        let check = |key: &str, expected: Option<(Lifetime, usize)>| {
            let found = rules.longest_lifetime(KeyRef::new(key).unwrap());
            let found = found.map(|(lifetime, line, _)| (lifetime, line));
            assert_eq!(found, expected, "{key}");
        };
        check("net.eth0.rx", Some((Lifetime::Session, 8)));
        check("net.eth0.mtu", Some((Lifetime::Boot, 9)));
        check("other", None);
        assert!(rank(Lifetime::Session) < rank(Lifetime::Boot));
        assert!(rank(Lifetime::Boot) < rank(Lifetime::Durable));
    }

    #[test]
    fn quotas_are_told_by_the_first_line_that_speaks_of_the_user() {
        let rules = rules(RULES);
        let check = |subject: &Subject, resource: Resource, expected: Option<(u64, usize)>| {
            let found = rules.quota(subject, resource);
            let found = found.map(|(amount, line, _)| (amount, line));
            assert_eq!(found, expected, "{subject:?} {resource:?}");
        };
        check(&user(100, &[]), Resource::Keys, Some((10, 10)));
        check(&user(7, &[7, 50]), Resource::Bytes, Some((1 << 20, 11)));
        check(&user(7, &[7]), Resource::Bytes, None);
        check(&user(0, &[0]), Resource::Keys, Some((2048, 12)));
        check(&Subject::Tcp, Resource::Keys, Some((2048, 12)));
        check(&Subject::Tcp, Resource::Connections, None);
    }

    #[test]
    fn patterns_with_nothing_to_see_are_known() {
        let check = |text: &str, pattern: &str, expected: bool| {
            let grants = rules(text).grants(&user(1, &[1])).unwrap();
            let pattern = Pattern::new(pattern).unwrap();
            let found = grants.allow_some(Action::Read, &pattern);
            assert_eq!(found, expected, "{text}: {pattern:?}");
        };
        check("allow anyone read a.*", "a.b", true);
        check("allow anyone read a.*", "*", true);
        check("allow anyone read a.*", "b.*", false);
        check("allow anyone write a.*", "a.*", false);
        check("allow user:2 read a.*", "a.*", false);
        check("deny anyone read a.*\nallow anyone read *", "a.b.*", false);
        check("deny anyone read a.b\nallow anyone read *", "a.*", true);
    }

    #[test]
    fn what_is_no_rule_is_named() {
        let check = |text: &str, line: usize, expected: &str| {
            let error = Rules::parse(text, &Book).unwrap_err();
            assert_eq!(error.line, line, "{text}");
            let message = error.to_string();
            assert!(message.contains(expected), "{text}: {message}");
        };
        check("allow anyone read", 1, "three words");
        check("\n\nallow anyone read a b", 3, "three words");
        check("permit anyone read a", 1, "\"permit\" is none of");
        check(
            "allow user:nobody1 read a",
            1,
            "there is no user \"nobody1\"",
        );
        // A sign is none of a number.
        check("allow user:+5 read a", 1, "there is no user \"+5\"");
        check("allow group:x read a", 1, "there is no group \"x\"");
        check("allow user: read a", 1, "there is no user \"\"");
        check("allow everyone read a", 1, "\"everyone\" is nobody");
        check("allow anyone see a", 1, "\"see\" is no action");
        check("allow anyone read, a", 1, "\"\" is no action");
        check("allow anyone read a..b", 1, "\"a..b\"");
        check("quota anyone keys", 1, "three words");
        check(
            "quota anyone key 1",
            1,
            "\"key\" has no quota: connections,",
        );
        check("quota anyone keys many", 1, "\"many\" is no number");
        check("quota anyone bytes 16777216T", 1, "is no number");
        check("quota anyone bytes 17179869184G", 1, "is no number");
        check("lifetime a.*", 1, "two words");
        check("lifetime a.* always", 1, "\"always\" is no lifetime");
    }

    #[test]
    fn a_comment_begins_where_a_word_could() {
        let rules = rules("allow anyone read a#b#.* # c # d\n#allow\n   # x");
        assert_eq!(rules.rules[0].pattern.as_str(), "a#b#.*");
        assert_eq!(&*rules.rules[0].text, "allow anyone read a#b#.*");
    }
}
