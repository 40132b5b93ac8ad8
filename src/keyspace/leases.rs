//! What ends by itself: entries with a deadline, and those that belong to a connection.
//!
//! Few entries do, so this stands beside the slots, and costs the others nothing.

use std::collections::{BTreeSet, HashMap};

use super::{Owner, Time};

/// The leases of all slots that have one.
#[derive(Debug, Default)]
pub(super) struct Leases {
    by_slot: HashMap<usize, Lease>,
    ends: BTreeSet<(Time, usize)>,
    owned: BTreeSet<(Owner, usize)>,
}

/// What ends one entry.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lease {
    pub(super) owner: Option<Owner>,
    pub(super) deadline: Option<Time>,
    /// When an entry ends whose owner has gone with an earlier daemon and does not come back.
    pub(super) orphan_end: Option<Time>,
}

impl Lease {
    /// When the entry ends by itself.
    fn end(self) -> Option<Time> {
        [self.deadline, self.orphan_end].into_iter().flatten().min()
    }
}

impl Leases {
    pub(super) fn begin(&mut self, slot: usize, lease: Lease) {
        if lease.owner.is_none() && lease.end().is_none() {
            return;
        }
        self.by_slot.insert(slot, lease);
        if let Some(owner) = lease.owner {
            self.owned.insert((owner, slot));
        }
        if let Some(end) = lease.end() {
            self.ends.insert((end, slot));
        }
    }

    pub(super) fn end(&mut self, slot: usize) -> Lease {
        if self.by_slot.is_empty() {
            return Lease::default();
        }
        let Some(lease) = self.by_slot.remove(&slot) else {
            return Lease::default();
        };
        if let Some(owner) = lease.owner {
            self.owned.remove(&(owner, slot));
        }
        if let Some(end) = lease.end() {
            self.ends.remove(&(end, slot));
        }
        lease
    }

    pub(super) fn of(&self, slot: usize) -> Lease {
        if self.by_slot.is_empty() {
            return Lease::default();
        }
        self.by_slot.get(&slot).copied().unwrap_or_default()
    }

    pub(super) fn has(&self, slot: usize) -> bool {
        self.by_slot.contains_key(&slot)
    }

    /// The slot that ends first by itself, and when.
    pub(super) fn first_end(&self) -> Option<(Time, usize)> {
        self.ends.first().copied()
    }

    /// A slot that belongs to a connection, while there is one.
    pub(super) fn owned_by(&self, owner: Owner) -> Option<usize> {
        let mut owned = self.owned.range((owner, 0)..=(owner, usize::MAX));
        owned.next().map(|&(_, slot)| slot)
    }

    pub(super) fn assert_invariants(&self) {
        let ends = self.by_slot.values().filter_map(|lease| lease.end());
        let owned = self.by_slot.values().filter_map(|lease| lease.owner);
        assert_eq!(
            (self.ends.len(), self.owned.len()),
            (ends.count(), owned.count())
        );
    }
}
