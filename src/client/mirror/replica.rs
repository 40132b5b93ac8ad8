//! A mirror's copy without its connection: what was told goes in, differences come out.
//!
//! **Cuts.** [`Gatherer`] holds events back until the `sync` that says that they are whole, and
//! [`Replica`] takes them in at once. The subscription asks for a `sync` wherever it has been told
//! everything (`cuts`), and only whole batches lie between two of them, so nobody sees half of one.
//! When a connection is lost, what was held back is forgotten: the next one begins at the last cut.
//!
//! **Only true differences are changes.** Of the events of one key the last counts. A put of the value
//! that is there already moves the revision and nothing else. Where all entries are told anew, after a
//! `reset` or for the first time, they are compared with the copy: what did not come again was
//! deleted.
//!
//! A value that does not parse is a change like any other, which says why. The copy then has no typed
//! value for that key, and everything else goes on.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use crate::client::{Error, Event, Position, Value};
use crate::key::{Key, Pattern};

/// How a mirror reads its values.
pub(crate) type Parse<T> = fn(&Arc<Value>) -> Result<Arc<T>, Error>;

/// A difference between two states of a mirror. `old` is the value before, as this mirror had it;
/// there is none where that value did not parse.
#[derive(Debug)]
#[non_exhaustive]
pub enum Change<T = Value> {
    /// There is an entry that was not there.
    Created {
        /// Its key.
        key: Key,
        /// Its value.
        value: Arc<T>,
        /// The revision of its last change.
        rev: u64,
    },
    /// An entry has another value.
    Modified {
        /// Its key.
        key: Key,
        /// The value before.
        old: Option<Arc<T>>,
        /// The value now.
        value: Arc<T>,
        /// The revision of its last change.
        rev: u64,
    },
    /// An entry is gone.
    Deleted {
        /// Its key.
        key: Key,
        /// The value before.
        old: Option<Arc<T>>,
        /// A revision at which it was gone.
        rev: u64,
    },
    /// An entry, a new one or one that was there, has a value that is not of the mirror's type.
    Invalid {
        /// Its key.
        key: Key,
        /// The value before.
        old: Option<Arc<T>>,
        /// The value as it is.
        raw: Arc<Value>,
        /// Why it is not of the type: an [`Error::Value`].
        error: Arc<Error>,
        /// The revision of its last change.
        rev: u64,
    },
}

/// What is different between two moments at which a mirror had been told everything.
#[derive(Debug)]
#[non_exhaustive]
pub struct Cut<T = Value> {
    /// The copy is exactly the keyspace at this revision.
    pub rev: u64,
    /// The differences, in the order of their revisions. There may be none.
    pub changes: Vec<Change<T>>,
    /// Whether all entries were told anew, for the first time or because the history was lost, and
    /// compared with the copy. What changed and changed back meanwhile is not among the changes.
    pub is_reset: bool,
}

/// What has been told since the last cut.
#[derive(Debug)]
pub(crate) struct Gatherer {
    events: Vec<Event>,
    /// Whether the events are a whole state, from nothing on.
    is_whole: bool,
}

/// Everything that was told between two cuts.
#[derive(Debug)]
pub(crate) struct Told {
    events: Vec<Event>,
    is_whole: bool,
    /// Where the copy stands afterwards.
    position: Position,
}

/// The entries that a mirror holds.
#[derive(Debug)]
pub(crate) struct Replica<T> {
    entries: BTreeMap<Key, Held<T>>,
    parse: Parse<T>,
    /// Where the copy stands, after the first cut.
    position: Option<Position>,
}

/// One entry of the copy.
#[derive(Debug)]
pub(crate) struct Held<T> {
    raw: Arc<Value>,
    value: Result<Arc<T>, Arc<Error>>,
    rev: u64,
}

impl Gatherer {
    /// Begins with a connection: from the last cut on, or from nothing.
    pub(crate) fn new(since: Option<&Position>) -> Gatherer {
        Gatherer {
            events: Vec::new(),
            is_whole: since.is_none(),
        }
    }

    /// Takes an event, and gives what was gathered where that is whole.
    pub(crate) fn push(&mut self, event: Event, epoch: &str) -> Option<Told> {
        match event {
            Event::Sync { rev } => Some(Told {
                events: std::mem::take(&mut self.events),
                is_whole: std::mem::take(&mut self.is_whole),
                position: Position {
                    rev,
                    epoch: epoch.to_owned(),
                },
            }),
            Event::Reset { .. } => {
                self.events.clear();
                self.is_whole = true;
                None
            }
            event => {
                self.events.push(event);
                None
            }
        }
    }
}

impl<T> Replica<T> {
    pub(crate) fn new(parse: Parse<T>) -> Replica<T> {
        Replica {
            entries: BTreeMap::new(),
            parse,
            position: None,
        }
    }

    pub(crate) fn position(&self) -> Option<&Position> {
        self.position.as_ref()
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Held<T>> {
        self.entries.get(key)
    }

    /// The entries of a pattern, in the order of their keys.
    pub(crate) fn matching<'a>(
        &'a self,
        pattern: &'a Pattern,
    ) -> impl Iterator<Item = (&'a Key, &'a Held<T>)> {
        let start = pattern.literal();
        self.entries
            .range::<str, _>((Bound::Included(start), Bound::Unbounded))
            .take_while(move |(key, _)| key.as_str().starts_with(start))
            .filter(|(key, _)| pattern.matches(key.borrowed()))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Key, &Held<T>)> {
        self.entries.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Takes in what was told up to a cut.
    pub(crate) fn apply(&mut self, told: Told) -> Cut<T> {
        let Told {
            events,
            is_whole,
            position,
        } = told;
        let mut changes = Vec::new();
        let newest: HashMap<Key, u64> = events
            .iter()
            .filter_map(|event| Some((event.key()?.clone(), event.rev())))
            .collect();
        let gone: Vec<Key> = if is_whole {
            let keys = self.entries.keys();
            keys.filter(|key| !newest.contains_key(*key))
                .cloned()
                .collect()
        } else {
            Vec::new()
        };
        for event in events {
            let is_newest = |key: &Key, rev| newest.get(key) == Some(&rev);
            match event {
                Event::Put { key, value, rev } if is_newest(&key, rev) => {
                    changes.extend(self.put(key, value, rev));
                }
                Event::Delete { key, rev } if is_newest(&key, rev) => {
                    changes.extend(self.remove(key, rev));
                }
                _ => {}
            }
        }
        let rev = position.rev;
        changes.extend(gone.into_iter().filter_map(|key| self.remove(key, rev)));
        changes.sort_by_key(Change::rev);
        self.position = Some(position);
        Cut {
            rev,
            changes,
            is_reset: is_whole,
        }
    }

    fn put(&mut self, key: Key, value: Value, rev: u64) -> Option<Change<T>> {
        if let Some(held) = self.entries.get_mut(key.as_str())
            && *held.raw == value
        {
            held.rev = rev;
            return None;
        }
        let raw = Arc::new(value);
        let value = (self.parse)(&raw).map_err(Arc::new);
        let held = Held {
            raw: Arc::clone(&raw),
            value: value.clone(),
            rev,
        };
        let before = self.entries.insert(key.clone(), held);
        let was_there = before.is_some();
        let old = before.and_then(|held| held.value.ok());
        Some(match value {
            Ok(value) if was_there => Change::Modified {
                key,
                old,
                value,
                rev,
            },
            Ok(value) => Change::Created { key, value, rev },
            Err(error) => Change::Invalid {
                key,
                old,
                raw,
                error,
                rev,
            },
        })
    }

    fn remove(&mut self, key: Key, rev: u64) -> Option<Change<T>> {
        let held = self.entries.remove(key.as_str())?;
        let old = held.value.ok();
        Some(Change::Deleted { key, old, rev })
    }
}

impl<T> Held<T> {
    /// The value as the mirror's type, or why it is not of that type.
    pub(crate) fn value(&self) -> Result<&Arc<T>, &Arc<Error>> {
        self.value.as_ref()
    }

    pub(crate) fn raw(&self) -> &Arc<Value> {
        &self.raw
    }

    pub(crate) fn rev(&self) -> u64 {
        self.rev
    }
}

impl<T> Change<T> {
    /// The key that it is about.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Change::Created { key, .. }
            | Change::Modified { key, .. }
            | Change::Deleted { key, .. }
            | Change::Invalid { key, .. } => key,
        }
    }

    /// The revision of the change; of a deletion that was found out by comparing, one at which the
    /// key was gone.
    #[must_use]
    pub fn rev(&self) -> u64 {
        match self {
            Change::Created { rev, .. }
            | Change::Modified { rev, .. }
            | Change::Deleted { rev, .. }
            | Change::Invalid { rev, .. } => *rev,
        }
    }

    /// The value now; none where the key is gone or the value does not parse.
    #[must_use]
    pub fn value(&self) -> Option<&Arc<T>> {
        match self {
            Change::Created { value, .. } | Change::Modified { value, .. } => Some(value),
            Change::Deleted { .. } | Change::Invalid { .. } => None,
        }
    }

    /// The value before, as this mirror had it.
    #[must_use]
    pub fn old(&self) -> Option<&Arc<T>> {
        match self {
            Change::Created { .. } => None,
            Change::Modified { old, .. }
            | Change::Deleted { old, .. }
            | Change::Invalid { old, .. } => old.as_ref(),
        }
    }
}

// By hand, because `T` need not be `Clone` for it.
impl<T> Clone for Change<T> {
    fn clone(&self) -> Change<T> {
        match self {
            Change::Created { key, value, rev } => Change::Created {
                key: key.clone(),
                value: Arc::clone(value),
                rev: *rev,
            },
            Change::Modified {
                key,
                old,
                value,
                rev,
            } => Change::Modified {
                key: key.clone(),
                old: old.clone(),
                value: Arc::clone(value),
                rev: *rev,
            },
            Change::Deleted { key, old, rev } => Change::Deleted {
                key: key.clone(),
                old: old.clone(),
                rev: *rev,
            },
            Change::Invalid {
                key,
                old,
                raw,
                error,
                rev,
            } => Change::Invalid {
                key: key.clone(),
                old: old.clone(),
                raw: Arc::clone(raw),
                error: Arc::clone(error),
                rev: *rev,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a=1@5` is a put, `-a@5` a delete, `s5` a sync, `r5` a reset, `lost` a lost connection.
    fn play(script: &str) -> (Replica<u32>, Vec<String>) {
        let parse: Parse<u32> = |raw| raw.json().map(Arc::new);
        let mut replica = Replica::new(parse);
        let mut gatherer = Gatherer::new(None);
        let mut cuts = Vec::new();
        for word in script.split_whitespace() {
            if word == "lost" {
                gatherer = Gatherer::new(replica.position());
                continue;
            }
            if let Some(told) = gatherer.push(event(word), "e") {
                let cut = replica.apply(told);
                let mut text: Vec<String> = cut.changes.iter().map(shown).collect();
                if cut.is_reset {
                    text.insert(0, "anew".into());
                }
                cuts.push(text.join(" "));
            }
        }
        (replica, cuts)
    }

    fn event(word: &str) -> Event {
        let number = |text: &str| text.parse().unwrap();
        if let Some((what, rev)) = word.split_once('@') {
            let rev = number(rev);
            return match what.split_once('=') {
                Some((key, value)) => Event::Put {
                    key: Key::new(key).unwrap(),
                    value: Value::from_json_text(value).unwrap(),
                    rev,
                },
                None => Event::Delete {
                    key: Key::new(&what[1..]).unwrap(),
                    rev,
                },
            };
        }
        let rev = number(&word[1..]);
        match &word[..1] {
            "s" => Event::Sync { rev },
            _ => Event::Reset { rev, epoch: None },
        }
    }

    fn shown(change: &Change<u32>) -> String {
        let old = change.old().map_or("?".to_owned(), |old| old.to_string());
        match change {
            Change::Created { key, value, .. } => format!("+{}={value}", key.as_str()),
            Change::Modified { key, value, .. } => format!("{}:{old}>{value}", key.as_str()),
            Change::Deleted { key, .. } => format!("-{}:{old}", key.as_str()),
            Change::Invalid { key, .. } => format!("!{}:{old}", key.as_str()),
        }
    }

    #[test]
    fn only_true_differences_are_told() {
        let check = |script: &str, expected: &[&str]| {
            assert_eq!(play(script).1, expected, "{script}");
        };
        check("s0", &["anew"]);
        check("a=1@1 b=2@2 s2", &["anew +a=1 +b=2"]);
        check(
            "s0 a=1@1 s1 a=2@2 s2 -a@3 s3",
            &["anew", "+a=1", "a:1>2", "-a:2"],
        );
        // Of one key the last event counts, and the same value again is no change.
        check("s0 a=1@1 a=2@2 s2", &["anew", "+a=2"]);
        check("s0 a=1@1 -a@2 s2", &["anew", ""]);
        check("a=1@1 s1 a=1@2 s2", &["anew +a=1", ""]);
        check("a=1@1 s1 -a@2 a=1@3 s3", &["anew +a=1", ""]);
        check("s0 -a@1 s1", &["anew", ""]);
        // A reset is compared with the copy, in another history as well.
        check(
            "a=1@1 b=2@2 c=3@3 s3 r1 b=2@1 c=4@2 s2",
            &["anew +a=1 +b=2 +c=3", "anew c:3>4 -a:1"],
        );
        check("a=1@1 s1 b=2@2 r3 a=1@1 s3", &["anew +a=1", "anew"]);
    }

    #[test]
    fn a_lost_connection_takes_along_what_was_not_whole() {
        let check = |script: &str, expected: &[&str]| {
            assert_eq!(play(script).1, expected, "{script}");
        };
        check("a=1@1 s1 a=2@2 lost b=3@3 s3", &["anew +a=1", "+b=3"]);
        // Before the first cut there is nothing to resume from: all comes again.
        check("a=1@1 lost b=2@2 s2", &["anew +b=2"]);
        check(
            "a=1@1 s1 r9 b=2@2 lost r9 b=2@2 s9",
            &["anew +a=1", "anew +b=2 -a:1"],
        );
    }

    #[test]
    fn a_value_of_another_type_hinders_nothing() {
        let (replica, cuts) = play(r#"a=1@1 b="x"@2 s2 a="y"@3 s3 a=5@4 b=6@5 s5"#);
        assert_eq!(cuts, ["anew +a=1 !b:?", "!a:1", "a:?>5 b:?>6"]);
        assert_eq!(replica.len(), 2);
        let (replica, _) = play(r#"b="x"@2 s2"#);
        let held = replica.get("b").unwrap();
        assert!(matches!(**held.value().unwrap_err(), Error::Value(_)));
        assert_eq!(held.raw().as_json_text(), Some("\"x\""));
        assert_eq!(held.rev(), 2);
    }

    #[test]
    fn entries_are_found_by_pattern() {
        let (replica, _) = play("a=0@1 a.b=1@2 a.b.c=2@3 a.c=3@4 ab=4@5 s5");
        let check = |pattern: &str, expected: &str| {
            let pattern = Pattern::new(pattern).unwrap();
            let keys: Vec<&str> = replica
                .matching(&pattern)
                .map(|(key, _)| key.as_str())
                .collect();
            assert_eq!(keys.join(" "), expected, "{pattern:?}");
        };
        check("a", "a");
        check("a.*", "a a.b a.b.c a.c");
        check("*.b", "a.b");
        check("*", "a a.b a.b.c a.c ab");
        assert_eq!(replica.iter().count(), 5);
    }
}
