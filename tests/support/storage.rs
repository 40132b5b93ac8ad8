//! A storage that keeps what it is told to keep, and fails when a test says so.
//!
//! It holds what two journals would hold after a start: for each class the newest record of each key.
//! A class **breaks** when a test says so; the next commit that concerns it fails, and from then on it
//! is refused until a test **mends** it, upon which [`Storage::tend`] writes it anew from the keyspace.
//!
//! One that can't fail keeps nothing either: most tests want no storage.

use std::collections::BTreeMap;

use nkv::Key;
use nkv::journal::{Figures, LoadError, ORPHAN_PATIENCE, Storage, Unkept, Wake, Writable};
use nkv::keyspace::{Account, Change, Class, Entry, Keyspace, Restored, Time};
use nkv::wire::{Lifetime, Payload};

const CLASSES: [Class; 2] = [Class::Durable, Class::Boot];

#[derive(Clone, Debug, Default)]
pub struct Fake {
    pub can_fail: bool,
    kept: [BTreeMap<Key, Kept>; 2],
    is_broken: [bool; 2],
    has_failed: [bool; 2],
    rev: u64,
    floor: u64,
}

/// The newest that is known of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    rev: u64,
    /// Nothing where it was deleted.
    put: Option<(Payload<'static>, Lifetime, Option<Time>, Account)>,
}

impl Fake {
    /// One that keeps, and can fail.
    pub fn keeping() -> Fake {
        Fake {
            can_fail: true,
            ..Fake::default()
        }
    }

    pub fn break_down(&mut self, class: Class) {
        self.is_broken[class as usize] = true;
    }

    pub fn mend(&mut self, class: Class) {
        self.is_broken[class as usize] = false;
    }

    pub fn is_broken(&self, class: Class) -> bool {
        self.is_broken[class as usize]
    }

    /// Tombstones up to this revision are not kept.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Panics where it does not hold what the keyspace holds, of what can be written.
    pub fn assert_holds(&self, keyspace: &Keyspace) {
        for class in CLASSES.into_iter().filter(|class| self.writes(*class)) {
            let changes = keyspace.changes_after(0).filter_map(|(rev, change)| {
                let change = change.filter(|change| change.class == class)?;
                Some((change.key.clone(), Kept::new(rev, change.entry.as_ref())))
            });
            let changes: BTreeMap<Key, Kept> = changes.collect();
            let kept = &self.kept[class as usize];
            for (key, change) in &changes {
                assert_eq!(kept.get(key), Some(change), "{key} is kept as {class:?}");
            }
            // Tombstones that the keyspace has dropped, or that have changed their class, may be left.
            let extra = kept.iter().filter(|(key, _)| !changes.contains_key(*key));
            for (key, kept) in extra {
                assert_eq!(kept.put, None, "{key} is kept as {class:?}");
            }
        }
    }

    fn writes(&self, class: Class) -> bool {
        !self.has_failed[class as usize]
    }

    /// What a commit concerns.
    fn concerns(keyspace: &Keyspace, after: u64) -> [bool; 2] {
        let mut concerns = [false; 2];
        for (_, change) in keyspace.changes_after(after) {
            if let Some(Change { class, .. }) = change {
                concerns[class as usize] = true;
            }
        }
        if !keyspace.displaced().is_empty() {
            concerns = [true; 2];
        }
        concerns[Class::Boot as usize] |= !keyspace.renewed().is_empty();
        concerns
    }

    fn apply(&mut self, class: Class, keyspace: &Keyspace, after: u64) {
        let kept = &mut self.kept[class as usize];
        for (rev, change) in keyspace.changes_after(after) {
            if let Some(change) = change.filter(|change| change.class == class) {
                kept.insert(change.key.clone(), Kept::new(rev, change.entry.as_ref()));
            }
        }
        for key in keyspace.displaced() {
            if keyspace.class(key.borrowed()) != Some(class) {
                kept.remove(key);
            }
        }
        for key in keyspace.renewed() {
            let entry = keyspace.entry(key.borrowed());
            if let Some(entry) = entry.filter(|entry| Class::of(entry.lifetime) == class)
                && let Some(known) = kept.get_mut(key)
                && known.rev == entry.rev
            {
                *known = Kept::new(entry.rev, Some(&entry));
            }
        }
    }

    fn write_anew(&mut self, class: Class, keyspace: &Keyspace) {
        self.kept[class as usize].clear();
        let displaced = [keyspace.displaced(), keyspace.renewed()];
        assert_eq!(displaced, [&[]; 2], "everything is committed");
        self.apply(class, keyspace, 0);
        self.floor = keyspace.floor();
        self.has_failed[class as usize] = false;
    }
}

impl Kept {
    fn new(rev: u64, entry: Option<&Entry<'_>>) -> Kept {
        let put = entry.map(|entry| {
            let payload = entry.payload().into_owned();
            (payload, entry.lifetime, entry.deadline, entry.account)
        });
        Kept { rev, put }
    }
}

impl Storage for Fake {
    fn load(&mut self, keyspace: &mut Keyspace, now: Time, _: Wake) -> Result<String, LoadError> {
        for class in CLASSES {
            for (key, kept) in &self.kept[class as usize] {
                let record = match kept.put.clone() {
                    Some((payload, lifetime, deadline, account)) => Restored::Put {
                        payload,
                        lifetime,
                        deadline,
                        account,
                    },
                    None => Restored::Deleted(class),
                };
                keyspace.restore(key.borrowed(), kept.rev, &record);
            }
        }
        keyspace.restored(self.rev, self.floor);
        let patience = u64::try_from(ORPHAN_PATIENCE.as_millis())?;
        keyspace.orphan_sessions(Time(now.0 + patience));
        self.is_broken = [false; 2];
        self.has_failed = [false; 2];
        Ok("e1".into())
    }

    fn commit(&mut self, keyspace: &Keyspace, after: u64, _: Time) -> Result<(), Unkept> {
        if !self.can_fail {
            return Ok(());
        }
        let concerns = Fake::concerns(keyspace, after);
        for class in CLASSES.into_iter().rev() {
            let number = class as usize;
            if concerns[number] && self.is_broken[number] && self.writes(class) {
                self.has_failed[number] = true;
                return Err(Unkept);
            }
        }
        assert!(
            self.writes(Class::Durable) || !concerns[Class::Durable as usize],
            "durable changes are refused"
        );
        for class in CLASSES {
            if self.writes(class) {
                self.apply(class, keyspace, after);
            }
        }
        self.rev = keyspace.rev();
        Ok(())
    }

    fn tend(&mut self, keyspace: &Keyspace, _: Time) {
        for class in CLASSES {
            if !self.writes(class) && !self.is_broken(class) {
                self.write_anew(class, keyspace);
            }
        }
    }

    fn next_deadline(&self) -> Option<Time> {
        None
    }

    fn writable(&self) -> Writable {
        Writable {
            durable: self.writes(Class::Durable),
            boot: self.writes(Class::Boot),
        }
    }

    fn can_fail(&self) -> bool {
        self.can_fail
    }

    fn figures(&self) -> Figures {
        Figures::default()
    }

    fn close(&mut self, _: &Keyspace) {}
}
