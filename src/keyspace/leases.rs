//! What ends by itself: entries with a deadline, and those that belong to a connection.
//!
//! Few entries do, so this stands beside the slots, and costs the others nothing.

use std::collections::{BTreeSet, HashMap};

use super::{Owner, Time};

/// The leases of all slots that have one.
#[derive(Debug, Default)]
pub(super) struct Leases {
    by_slot: HashMap<usize, Lease>,
    deadlines: BTreeSet<(Time, usize)>,
    owned: BTreeSet<(Owner, usize)>,
}

/// What ends one entry.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lease {
    pub(super) owner: Option<Owner>,
    pub(super) deadline: Option<Time>,
}

impl Leases {
    pub(super) fn begin(&mut self, slot: usize, lease: Lease) {
        if lease.owner.is_none() && lease.deadline.is_none() {
            return;
        }
        self.by_slot.insert(slot, lease);
        if let Some(owner) = lease.owner {
            self.owned.insert((owner, slot));
        }
        if let Some(deadline) = lease.deadline {
            self.deadlines.insert((deadline, slot));
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
        if let Some(deadline) = lease.deadline {
            self.deadlines.remove(&(deadline, slot));
        }
        lease
    }

    pub(super) fn of(&self, slot: usize) -> Lease {
        if self.by_slot.is_empty() {
            return Lease::default();
        }
        self.by_slot.get(&slot).copied().unwrap_or_default()
    }

    /// The slot whose deadline comes first.
    pub(super) fn first_deadline(&self) -> Option<(Time, usize)> {
        self.deadlines.first().copied()
    }

    /// A slot that belongs to a connection, while there is one.
    pub(super) fn owned_by(&self, owner: Owner) -> Option<usize> {
        let mut owned = self.owned.range((owner, 0)..=(owner, usize::MAX));
        owned.next().map(|&(_, slot)| slot)
    }

    pub(super) fn assert_invariants(&self) {
        let deadlines = self.by_slot.values().filter_map(|lease| lease.deadline);
        let owned = self.by_slot.values().filter_map(|lease| lease.owner);
        assert_eq!(
            (self.deadlines.len(), self.owned.len()),
            (deadlines.count(), owned.count())
        );
    }
}
