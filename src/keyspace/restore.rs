//! Making a keyspace anew from what was written down of an earlier one.
//!
//! Records may come in any order, and more than one of a key: the one with the highest revision
//! counts. So two journals can be read one after the other.

use crate::key::{Key, KeyRef};
use crate::wire::{Lifetime, Payload};

use super::{Account, Class, Keyspace, Terms, Time, parts};

/// One thing that was written down of a key.
#[derive(Clone, Debug)]
pub enum Restored<'a> {
    /// It had this value.
    Put {
        /// The value.
        payload: Payload<'a>,
        /// What may end it from outside.
        lifetime: Lifetime,
        /// When it ends by itself.
        deadline: Option<Time>,
        /// Whom it is charged to.
        account: Account,
    },
    /// It was deleted, when it was kept here.
    Deleted(Class),
    /// From this revision on it is not kept in the place of this class.
    Displaced(Class),
    /// The deadline was set anew of what was put at this revision and is kept here.
    Renewed(Class, Time),
}

impl Keyspace {
    /// Takes in one record of a key at a revision. [`Keyspace::restored`] comes last.
    ///
    /// Returns whether it took the place of an entry of the other class. Where all of that class was
    /// taken in before, a record is missing there: the one that displaces the entry.
    pub fn restore(&mut self, key: KeyRef<'_>, rev: u64, record: &Restored<'_>) -> bool {
        let known = self.slot_of(key.as_str());
        let known_rev = known.map_or(0, |slot| self.slots[slot].rev);
        let holder = known
            .map(|slot| &self.slots[slot])
            .filter(|entry| entry.value.is_some())
            .map(|entry| Class::of(entry.lifetime));
        let mut successor = None;
        match record {
            Restored::Put {
                payload,
                lifetime,
                deadline,
                account,
            } if rev > known_rev => {
                let (bytes, form) = parts(payload);
                let slot = self.restored_slot(known, key.to_key());
                let terms = Terms {
                    lifetime: *lifetime,
                    owner: None,
                    deadline: *deadline,
                    account: *account,
                };
                self.leases.end(slot);
                self.leases.begin(slot, terms.lease());
                let entry = &mut self.slots[slot];
                entry.value = Some(Box::from(bytes));
                entry.form = form;
                entry.lifetime = *lifetime;
                entry.account = *account;
                entry.rev = rev;
                self.join(slot);
                successor = Some(Class::of(*lifetime));
            }
            Restored::Deleted(class) if rev > known_rev => {
                let slot = self.restored_slot(known, key.to_key());
                self.leases.end(slot);
                let entry = &mut self.slots[slot];
                entry.value = None;
                entry.rev = rev;
                entry.lifetime = match class {
                    Class::Durable => Lifetime::Durable,
                    Class::Boot => Lifetime::Boot,
                };
                self.join(slot);
                successor = Some(*class);
            }
            Restored::Displaced(class) => {
                if let Some(slot) = known
                    && Class::of(self.slots[slot].lifetime) == *class
                    && known_rev < rev
                {
                    self.remove_slot(slot);
                }
            }
            Restored::Renewed(class, deadline) => {
                if let Some(slot) = known
                    && holder == Some(*class)
                    && known_rev == rev
                {
                    let mut lease = self.leases.end(slot);
                    lease.deadline = Some(*deadline);
                    self.leases.begin(slot, lease);
                }
            }
            Restored::Put { .. } | Restored::Deleted(_) => {}
        }
        self.rev = self.rev.max(rev);
        successor.is_some() && holder.is_some() && successor != holder
    }

    /// Ends the restoring: the next change takes the revision after `rev` or after the highest that
    /// was restored, and tombstones up to `floor` may be missing.
    pub fn restored(&mut self, rev: u64, floor: u64) {
        self.rev = self.rev.max(rev);
        self.floor = floor.min(self.rev);
        self.tombstones_after = self.floor;
        let is_too_old = |entry: &super::Slot| entry.value.is_none() && entry.rev <= floor;
        let slots = self.slots.iter();
        let old: Vec<usize> = slots
            .filter_map(|(slot, entry)| is_too_old(entry).then_some(slot))
            .collect();
        for slot in old {
            self.remove_slot(slot);
        }
        self.index.rebuild(&self.slots);
        self.drop_tombstones();
        self.keep();
    }

    /// Lets `session` entries end at a time, unless they end before or are put again: their owners are
    /// gone.
    pub fn orphan_sessions(&mut self, end: Time) {
        for (slot, entry) in &self.slots {
            if entry.lifetime == Lifetime::Session && entry.value.is_some() {
                let mut lease = self.leases.end(slot);
                lease.owner = None;
                lease.orphan_end = Some(end);
                self.leases.begin(slot, lease);
            }
        }
    }

    /// The slot to be written to, not counted in the sums.
    fn restored_slot(&mut self, known: Option<usize>, key: Key) -> usize {
        match known {
            Some(slot) => {
                self.totals.leave(&self.slots[slot]);
                self.charges.leave(&self.slots[slot]);
                slot
            }
            None => self.add_slot(key),
        }
    }

    /// Counts a slot that was written to.
    fn join(&mut self, slot: usize) {
        self.totals.join(&self.slots[slot]);
        self.charges.join(&self.slots[slot]);
    }

    fn remove_slot(&mut self, slot: usize) {
        self.leases.end(slot);
        let entry = self.take_slot(slot);
        self.totals.leave(&entry);
        self.charges.leave(&entry);
    }
}

#[cfg(test)]
mod tests {
    use crate::keyspace::Owner;

    use super::*;

    #[test]
    fn the_newest_record_counts_in_whatever_order() {
        let put = |value: &'static str, lifetime| Restored::Put {
            payload: Payload::Json(value.into()),
            lifetime,
            deadline: None,
            account: Account::ROOT,
        };
        let durable = Lifetime::Durable;
        let mut keyspace = Keyspace::new(10);
        let mut taken_over = Vec::new();
        for (key, rev, record) in [
            ("a", 3, put("new", durable)),
            ("a", 1, put("old", durable)),
            ("b", 4, put("1", durable)),
            ("b", 5, Restored::Deleted(Class::Durable)),
            ("gone", 2, Restored::Deleted(Class::Durable)),
            ("c", 6, put("durable", durable)),
            ("c", 7, Restored::Displaced(Class::Durable)),
            ("c", 7, put("boot", Lifetime::Boot)),
            ("c", 7, Restored::Renewed(Class::Boot, Time(9))),
            ("c", 7, Restored::Renewed(Class::Durable, Time(8))),
            ("d", 8, put("boot", Lifetime::Boot)),
            ("d", 9, put("durable", durable)),
            ("d", 9, Restored::Displaced(Class::Boot)),
            ("e", 10, put("of a session", Lifetime::Session)),
            ("f", 11, put("durable", durable)),
            ("f", 12, Restored::Deleted(Class::Boot)),
        ] {
            if keyspace.restore(KeyRef::new(key).unwrap(), rev, &record) {
                taken_over.push((key, rev));
            }
        }
        assert_eq!(taken_over, [("d", 9), ("f", 12)]);
        keyspace.restored(20, 2);
        keyspace.orphan_sessions(Time(30));
        keyspace.assert_invariants();
        let changes = keyspace.changes_after(0).filter_map(|(_, change)| change);
        let shown: Vec<String> = changes
            .map(|change| {
                let entry = change.entry.map(|entry| (entry.rev, entry.deadline));
                format!("{} {entry:?}", change.key)
            })
            .collect();
        let expected = [
            "a Some((3, None))",
            "b None",
            "c Some((7, Some(Time(9))))",
            "d Some((9, None))",
            "e Some((10, None))",
            "f None",
        ];
        assert_eq!(shown, expected);
        assert_eq!((keyspace.rev(), keyspace.floor()), (20, 2));
        let ends = |keyspace: &Keyspace| keyspace.next_deadline();
        assert_eq!(ends(&keyspace), Some(Time(9)));
        keyspace.delete(KeyRef::new("c").unwrap());
        assert_eq!(ends(&keyspace), Some(Time(30)), "an orphan waits");
        keyspace.renew(KeyRef::new("e").unwrap(), Some(Owner(1)), None);
        assert_eq!(ends(&keyspace), None, "its owner is back");
        let is_new = Payload::Json("new".into());
        assert!(
            keyspace
                .entry(KeyRef::new("a").unwrap())
                .unwrap()
                .is(&is_new)
        );
    }
}
