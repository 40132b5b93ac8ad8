//! What a mirror has told, held against what it tells next.
//!
//! The witness knows nothing but the changes that came before. Of each cut it wants that
//!
//! - revisions grow, within the cut and from one cut to the next,
//! - each change is one: created is only what was not there, modified only what has another value now,
//!   and `old` is the value that was told last,
//! - a group of keys that are only ever put by one batch is all of one generation, or not there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use nkv::client::{Change, Cut, Value, View};
use serde::{Deserialize, Serialize};

use crate::writer::{GROUP, GROUP_KEYS};

/// What most values are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Item {
    /// No two of one writer are the same, but for those of one batch.
    pub(crate) generation: u64,
    pub(crate) filling: String,
}

/// A value that a generation can be read from.
pub(crate) trait Told: PartialEq + Debug {
    fn generation(&self) -> u64;
}

impl Told for Value {
    fn generation(&self) -> u64 {
        self.json::<Item>().unwrap().generation
    }
}

impl Told for Item {
    fn generation(&self) -> u64 {
        self.generation
    }
}

/// The account of one mirror.
pub(crate) struct Witness<T> {
    /// What was told last of each key; no value where it was not of the mirror's type.
    told: BTreeMap<String, (Option<Arc<T>>, u64)>,
    rev: u64,
    pub(crate) cuts: u64,
    pub(crate) resets: u64,
    pub(crate) changes: u64,
}

impl<T: Told> Witness<T> {
    pub(crate) fn new() -> Witness<T> {
        Witness {
            told: BTreeMap::new(),
            rev: 0,
            cuts: 0,
            resets: 0,
            changes: 0,
        }
    }

    pub(crate) fn rev(&self) -> u64 {
        self.rev
    }

    /// Takes a cut into account.
    pub(crate) fn take(&mut self, cut: &Cut<T>) {
        // Over a reboot the revisions go on as well, because there is a durable journal.
        assert!(
            cut.rev >= self.rev,
            "a cut at {} after {}",
            cut.rev,
            self.rev
        );
        let mut last = self.rev;
        let mut groups = BTreeSet::new();
        for change in &cut.changes {
            let (key, rev) = (change.key().as_str(), change.rev());
            // Deletions that were found by comparing all have the cut's revision.
            let is_found = cut.is_reset && rev == cut.rev;
            assert!(
                rev > last || (is_found && rev == last),
                "{key} changed at {rev} after a change at {last}"
            );
            assert!(
                rev <= cut.rev,
                "{key} changed at {rev} in a cut at {}",
                cut.rev
            );
            last = rev;
            if let Some((group, _)) = key.split_once(GROUP) {
                groups.insert(format!("{group}{GROUP}"));
            }
            self.take_change(change);
        }
        for group in groups {
            self.check_group(&group, cut.rev);
        }
        self.rev = cut.rev;
        self.cuts += 1;
        self.resets += u64::from(cut.is_reset);
        self.changes += cut.changes.len() as u64;
    }

    fn take_change(&mut self, change: &Change<T>) {
        let key = change.key().as_str();
        let held = self.told.get(key);
        let (old, is_there) = (held.and_then(|held| held.0.clone()), held.is_some());
        assert_eq!(change.old(), old.as_ref(), "{key}: what was there before");
        match change {
            Change::Created { value, rev, .. } => {
                assert!(!is_there, "{key} is created and was there");
                self.told
                    .insert(key.into(), (Some(Arc::clone(value)), *rev));
            }
            Change::Modified { value, rev, .. } => {
                assert!(is_there, "{key} is modified and was not there");
                assert_ne!(old.as_ref(), Some(value), "{key} is modified and the same");
                self.told
                    .insert(key.into(), (Some(Arc::clone(value)), *rev));
            }
            Change::Deleted { .. } => {
                assert!(is_there, "{key} is deleted and was not there");
                self.told.remove(key);
            }
            Change::Invalid { rev, .. } => {
                self.told.insert(key.into(), (None, *rev));
            }
            other => panic!("what is {other:?}?"),
        }
    }

    fn check_group(&self, group: &str, rev: u64) {
        let members = self.told.range(group.to_owned()..);
        let members = members.take_while(|(key, _)| key.starts_with(group));
        let generations: Vec<u64> = members
            .map(|(_, (value, _))| value.as_ref().unwrap().generation())
            .collect();
        let is_whole = generations.is_empty() || generations.len() == GROUP_KEYS.len();
        assert!(
            is_whole && generations.windows(2).all(|pair| pair[0] == pair[1]),
            "half a batch is visible at {rev}: {group}* has {generations:?}"
        );
    }

    /// Holds the mirror's copy against what it has told. Returns a sum over keys, revisions and values.
    pub(crate) fn check(&self, view: &View<'_, T>) -> u64 {
        assert_eq!(view.rev(), Some(self.rev));
        assert_eq!(view.len(), self.told.len(), "entries that were not told of");
        let mut sum = Sum::default();
        for (key, (value, told_rev)) in &self.told {
            assert_eq!(view.get(key), value.as_ref(), "{key} is not what was told");
            let rev = view.key_rev(key).unwrap();
            assert!(rev >= *told_rev, "{key} is at {rev}, told at {told_rev}");
            sum.add(key, rev, view.raw(key).unwrap());
        }
        sum.finish()
    }

    /// What is told of each key: its revision in the copy.
    pub(crate) fn revs(&self, view: &View<'_, T>) -> Vec<String> {
        let keys = self.told.keys();
        keys.map(|key| format!("{key}@{}", view.key_rev(key).unwrap_or(0)))
            .collect()
    }
}

/// A sum over entries in the order of their keys.
#[derive(Default)]
pub(crate) struct Sum(DefaultHasher);

impl Sum {
    pub(crate) fn add(&mut self, key: &str, rev: u64, value: &Value) {
        self.0.write(key.as_bytes());
        self.0.write_u64(rev);
        match value.as_json_text() {
            Some(json) => self.0.write(json.as_bytes()),
            None => self.0.write(value.bytes().unwrap()),
        }
    }

    pub(crate) fn finish(&self) -> u64 {
        self.0.finish()
    }
}
