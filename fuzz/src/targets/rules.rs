//! Files of rules: the daemon's reading of them beside the plain one of [`crate::rights`].

use std::collections::BTreeSet;
use std::sync::Arc;

use nkv::access::{Action, Names, Resource, Rules, Subject};
use nkv::{Key, Pattern};

use crate::pattern::{is_key, is_pattern, key_of_both, matches};
use crate::rights::Rights;

/// Lines that are no part of the file begin with this: keys and patterns that are asked about.
const ASKED: &str = "?";
/// What stands between two files, of which the second one replaces the first.
const NEXT: &str = "---";
/// More keys, and more patterns, than these take long.
const ASKED_MAX: usize = 24;

/// More lines than these are not turned into their opposites.
const TURNED_MAX: usize = 8;

/// Nobody has a name here.
struct Nobody;

/// Two files of rules, and keys and patterns.
pub fn rules(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let mut files = [String::new(), String::new()];
    let mut asked = Vec::new();
    let mut file = 0;
    for line in text.split_inclusive('\n') {
        let word = line.trim_end_matches('\n');
        match word.strip_prefix(ASKED) {
            Some(word) => asked.push(word),
            None if word == NEXT => file = 1,
            None => files[file].push_str(line),
        }
    }
    let read = files.each_ref().map(|file| read(file));
    let [Some((rules, rights)), next] = read else {
        return;
    };
    let (keys, patterns) = questions(&asked, &rights);
    decide(&rules, &rights, &keys);
    overlook(&rules, &keys, &patterns);
    if let Some((next, _)) = next {
        replace(&rules, &next, &keys);
    }
    for turned in (0..TURNED_MAX).filter_map(|at| rights.turned(at)) {
        let turned = Rules::parse(&turned.to_string(), &Nobody);
        replace(
            &rules,
            &Arc::new(turned.expect("it is written as it is read")),
            &keys,
        );
    }
}

/// Reads a file in both ways, which agree on the first line that is no rule, and writes it again.
fn read(text: &str) -> Option<(Arc<Rules>, Rights)> {
    let (rules, rights) = (Rules::parse(text, &Nobody), Rights::parse(text));
    let refused = rules.as_ref().err().map(|error| error.line);
    assert_eq!(
        refused,
        rights.as_ref().err().copied(),
        "{rules:?} {rights:?}"
    );
    if let Err(error) = &rules {
        let message = error.to_string();
        assert!(message.starts_with(&format!("line {}: ", error.line)));
        assert!(!message.contains('\n'), "{message:?} is one line");
    }
    let (rules, rights) = (Arc::new(rules.ok()?), rights.ok()?);
    let written = rights.to_string();
    Rules::parse(&written, &Nobody).expect("what is read can be written and read");
    Some((rules, rights))
}

/// Keys and patterns to ask about: those that are given, those of the file, and keys that two patterns
/// have in common or just don't.
fn questions<'a>(asked: &[&'a str], rights: &'a Rights) -> (BTreeSet<String>, BTreeSet<&'a str>) {
    let given = asked.iter().copied().filter(|text| is_pattern(text));
    let patterns: BTreeSet<&str> = given.chain(rights.patterns()).take(ASKED_MAX).collect();
    let mut keys = BTreeSet::new();
    for pattern in &patterns {
        for other in &patterns {
            let key = key_of_both(pattern, other);
            keys.extend(key.iter().map(|key| format!("{key}.y")));
            keys.extend(key);
        }
    }
    keys.retain(|key| is_key(key));
    (keys, patterns)
}

fn subjects() -> Vec<Subject> {
    let user = |uid: u32, gids: &[u32]| Subject::User {
        uid,
        gids: gids.to_vec(),
    };
    vec![
        Subject::Tcp,
        user(0, &[0]),
        user(1, &[]),
        user(2, &[1, 2]),
        user(u32::MAX, &[u32::MAX]),
    ]
}

/// For everybody, every action and every key: the same line decides, and so it is granted.
fn decide(rules: &Arc<Rules>, rights: &Rights, keys: &BTreeSet<String>) {
    for key in keys {
        let known = Key::new(key).expect("both ways to read a key agree");
        let known = known.borrowed();
        let longest = rules.longest_lifetime(known);
        let longest = longest.map(|(lifetime, line, _)| (lifetime, line));
        assert_eq!(
            longest,
            rights.longest_lifetime(key),
            "how long {key} may live"
        );
        for subject in subjects() {
            for resource in Resource::ALL {
                let quota = rules.quota(&subject, resource);
                let quota = quota.map(|(amount, line, _)| (amount, line));
                assert_eq!(
                    quota,
                    rights.quota(&subject, resource),
                    "{resource:?} of {subject:?}"
                );
            }
            let grants = rules.grants(&subject);
            for action in Action::ALL {
                let decision = rules.decide(&subject, action, known);
                let decided = (decision.is_allowed, decision.line.map(|(line, _)| line));
                let expected = rights.decide(&subject, action, key);
                assert_eq!(decided, expected, "{action:?} {key} by {subject:?}");
                let is_granted = grants
                    .as_ref()
                    .is_none_or(|grants| grants.allow(action, known));
                assert_eq!(is_granted, expected.0, "{action:?} {key} by {subject:?}");
            }
        }
    }
}

/// Where something may be done to a key of a pattern, the pattern is not refused; where it may not be done
/// to one, it is not granted as a whole.
fn overlook(rules: &Arc<Rules>, keys: &BTreeSet<String>, patterns: &BTreeSet<&str>) {
    for subject in subjects() {
        let Some(grants) = rules.grants(&subject) else {
            continue;
        };
        for text in patterns {
            let pattern = Pattern::new(text).expect("both ways to read a pattern agree");
            for (pattern, exact) in [(pattern.clone(), true), (pattern.with_descendants(), false)] {
                for action in Action::ALL {
                    let keys = keys.iter().filter(|key| matches(text, exact, key));
                    let (may, must_not): (Vec<&String>, Vec<&String>) = keys.partition(|key| {
                        let key = Key::new(key).expect("it is a key");
                        grants.allow(action, key.borrowed())
                    });
                    assert!(
                        may.is_empty() || grants.allow_some(action, &pattern),
                        "{action:?} {text} ({exact}) by {subject:?}, who may do so to {may:?}"
                    );
                    assert!(
                        must_not.is_empty() || !grants.allow_all(action, &pattern),
                        "{action:?} {text} ({exact}) by {subject:?}, who may not to {must_not:?}"
                    );
                }
            }
        }
    }
}

/// Where other rules are said to be the same for somebody, they decide the same.
fn replace(rules: &Arc<Rules>, next: &Arc<Rules>, keys: &BTreeSet<String>) {
    for subject in subjects() {
        let (before, after) = (rules.grants(&subject), next.grants(&subject));
        if before != after {
            continue;
        }
        for key in keys {
            let key = Key::new(key).expect("it is a key");
            for action in Action::ALL {
                let [before, after] = [rules, next]
                    .map(|rules| rules.decide(&subject, action, key.borrowed()).is_allowed);
                assert_eq!(before, after, "{action:?} {key} by {subject:?}");
            }
        }
    }
}

impl Names for Nobody {
    fn user(&self, _: &str) -> Option<u32> {
        None
    }

    fn group(&self, _: &str) -> Option<u32> {
        None
    }
}
