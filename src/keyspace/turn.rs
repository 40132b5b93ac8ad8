//! A turn's changes, until they are kept: how to undo them, and what the change index doesn't tell.
//!
//! Undoing puts back the state of every slot as it was when the turn began. Only the first change of
//! a slot in a turn has to remember it. Revisions that the turn has given are not given again.
//!
//! The index tells which keys have changed and what they are now. Who writes changes down has to know
//! two more things, which stand here as lists of keys: **displaced** entries, whose key has a value of
//! the other [`Class`] now, so that the old one has to go where it is kept; and **renewed** deadlines.
//! An entry that has been deleted since the last turn was kept is displaced as well: its place has not
//! heard of the deletion, and the index has only the value that came after.

use crate::key::Key;
use crate::wire::Lifetime;

use super::accounts::Charges;
use super::leases::Lease;
use super::{Account, Class, Form, Keyspace, Slot, Time, Totals};

/// What a turn has changed so far. Does nothing, and costs nothing, while it is off.
#[derive(Debug, Default)]
pub(super) struct Turn {
    is_on: bool,
    /// The revision and the sums when it began.
    rev: u64,
    totals: Totals,
    /// The revision when the last turn was kept.
    kept: u64,
    undo: Vec<Undo>,
    displaced: Vec<Key>,
    renewed: Vec<Key>,
    bytes: u64,
}

/// A list of so many is kept for the next turn.
const UNDO_KEPT: usize = 256;

#[derive(Debug)]
enum Undo {
    Created(usize),
    Renewed(usize, Lease),
    Changed(usize, Before),
}

/// A slot as it was.
#[derive(Debug)]
struct Before {
    value: Option<Box<[u8]>>,
    rev: u64,
    form: Form,
    lifetime: Lifetime,
    account: Account,
    lease: Lease,
}

impl Keyspace {
    /// From now on changes can be undone, until [`Keyspace::keep`] or [`Keyspace::roll_back`]. What
    /// was changed before stays as it is.
    pub fn begin(&mut self) {
        assert!(self.turn.undo.is_empty(), "a turn ends before the next");
        self.turn.is_on = true;
        self.turn.rev = self.rev;
        self.turn.totals = self.totals;
    }

    /// Ends the turn: its changes can't be undone any more.
    pub fn keep(&mut self) {
        let turn = &mut self.turn;
        turn.is_on = false;
        turn.kept = self.rev;
        turn.bytes = 0;
        turn.undo.clear();
        turn.undo.shrink_to(UNDO_KEPT);
        turn.displaced = Vec::new();
        turn.renewed = Vec::new();
    }

    /// Undoes what has changed since [`Keyspace::begin`]; the turn goes on. The revisions that it has
    /// given are used up.
    ///
    /// # Panics
    /// Where no turn has begun.
    pub fn roll_back(&mut self) {
        assert!(self.turn.is_on, "a turn begins before it is undone");
        let undo = std::mem::take(&mut self.turn.undo);
        for undo in undo.into_iter().rev() {
            match undo {
                Undo::Created(slot) => {
                    self.leases.end(slot);
                    self.take_slot(slot);
                }
                Undo::Renewed(slot, lease) => {
                    self.leases.end(slot);
                    self.leases.begin(slot, lease);
                }
                Undo::Changed(slot, before) => {
                    self.leases.end(slot);
                    self.leases.begin(slot, before.lease);
                    let entry = &mut self.slots[slot];
                    entry.value = before.value;
                    entry.rev = before.rev;
                    entry.form = before.form;
                    entry.lifetime = before.lifetime;
                    entry.account = before.account;
                }
            }
        }
        self.totals = self.turn.totals;
        self.charges = Charges::of_all(self.slots.iter().map(|(_, slot)| slot));
        self.turn.displaced.clear();
        self.turn.renewed.clear();
        self.turn.bytes = 0;
        // Pairs that were stale may be live again, and may have been swept out.
        self.index.rebuild(&self.slots);
        self.begin();
    }

    /// Whether the turn has changed anything that would have to be undone.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        !self.turn.undo.is_empty()
    }

    /// About how many bytes of keys and values the turn has put, and of keys that it has deleted.
    #[must_use]
    pub fn turn_bytes(&self) -> u64 {
        self.turn.bytes
    }

    /// Keys whose entry was replaced during this turn by one of the other class, or was deleted since the
    /// last turn was kept and then put as one.
    #[must_use]
    pub fn displaced(&self) -> &[Key] {
        &self.turn.displaced
    }

    /// Keys that were given a new deadline during this turn without a change.
    #[must_use]
    pub fn renewed(&self) -> &[Key] {
        &self.turn.renewed
    }
}

impl Turn {
    pub(super) fn created(&mut self, slot: usize) {
        if self.is_on {
            self.undo.push(Undo::Created(slot));
        }
    }

    pub(super) fn put_over(
        &mut self,
        slot: usize,
        entry: &mut Slot,
        lease: Lease,
        lifetime: Lifetime,
    ) {
        if self.is_on {
            let is_displaced = Class::of(entry.lifetime) != Class::of(lifetime);
            if is_displaced && (entry.value.is_some() || entry.rev > self.kept) {
                self.displaced.push(entry.key.clone());
            }
            self.changing(slot, entry, lease);
        }
    }

    pub(super) fn deleting(&mut self, slot: usize, entry: &mut Slot, lease: Lease) {
        if self.is_on {
            self.changing(slot, entry, lease);
        }
    }

    pub(super) fn renewed(
        &mut self,
        slot: usize,
        key: &Key,
        before: Lease,
        deadline: Option<Time>,
    ) {
        if self.is_on {
            self.undo.push(Undo::Renewed(slot, before));
            if deadline.is_some() {
                self.renewed.push(key.clone());
            }
        }
    }

    /// Counts what an entry has become.
    pub(super) fn count(&mut self, entry: &Slot) {
        if self.is_on {
            let value = entry.value.as_deref().map_or(0, <[u8]>::len);
            self.bytes += (entry.key.as_str().len() + value) as u64;
        }
    }

    /// Takes the value out of a slot whose first change in this turn is about to be made.
    fn changing(&mut self, slot: usize, entry: &mut Slot, lease: Lease) {
        if entry.rev <= self.rev {
            let before = Before {
                value: entry.value.take(),
                rev: entry.rev,
                form: entry.form,
                lifetime: entry.lifetime,
                account: entry.account,
                lease,
            };
            self.undo.push(Undo::Changed(slot, before));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::key::KeyRef;
    use crate::keyspace::{Owner, Terms};
    use crate::wire::Payload;

    use super::*;

    fn put(keyspace: &mut Keyspace, key: &str, value: &str, lifetime: Lifetime) -> u64 {
        let terms = Terms {
            lifetime,
            owner: (lifetime == Lifetime::Session).then_some(Owner(1)),
            deadline: (lifetime == Lifetime::Boot).then_some(Time(70)),
            account: Account::user(u32::try_from(value.len()).unwrap()),
        };
        keyspace.put(
            KeyRef::new(key).unwrap(),
            &Payload::Json(value.into()),
            terms,
        )
    }

    /// Everything that can be seen of a keyspace but its last revision.
    fn shown(keyspace: &Keyspace) -> String {
        keyspace.assert_invariants();
        let changes = keyspace.changes_after(0).filter_map(|(_, change)| change);
        let changes: Vec<_> = changes.collect();
        let leases = (keyspace.next_deadline(), keyspace.owned_by(Owner(1)));
        let sums = (keyspace.keys(), keyspace.bytes(), keyspace.tombstones());
        let charges: Vec<_> = keyspace.accounts().collect();
        format!("{changes:?} {leases:?} {sums:?} {charges:?}")
    }

    #[test]
    fn a_turn_is_undone_as_if_it_had_not_been() {
        let mut keyspace = Keyspace::new(10);
        put(&mut keyspace, "kept", "1", Lifetime::Durable);
        put(&mut keyspace, "replaced", "1", Lifetime::Durable);
        put(&mut keyspace, "displaced", "1", Lifetime::Boot);
        put(&mut keyspace, "owned", "1", Lifetime::Session);
        put(&mut keyspace, "deleted", "1", Lifetime::Durable);
        put(&mut keyspace, "back", "1", Lifetime::Durable);
        keyspace.delete(KeyRef::new("back").unwrap());
        keyspace.keep();
        put(&mut keyspace, "ended", "1", Lifetime::Boot);
        keyspace.delete(KeyRef::new("ended").unwrap());
        let before = shown(&keyspace);

        keyspace.begin();
        for round in 0..2000 {
            let value = format!("{round}");
            put(&mut keyspace, "replaced", &value, Lifetime::Boot);
        }
        put(&mut keyspace, "displaced", "2", Lifetime::Durable);
        put(&mut keyspace, "back", "2", Lifetime::Session);
        put(&mut keyspace, "created", "2", Lifetime::Boot);
        keyspace.delete(KeyRef::new("deleted").unwrap());
        put(&mut keyspace, "deleted", "2", Lifetime::Session);
        put(&mut keyspace, "ended", "2", Lifetime::Durable);
        keyspace.renew(KeyRef::new("owned").unwrap(), Some(Owner(2)), Some(Time(5)));
        keyspace.delete(KeyRef::new("owned").unwrap());
        keyspace.delete(KeyRef::new("created").unwrap());
        let names = |keys: &[Key]| keys.iter().map(Key::to_string).collect::<Vec<_>>();
        assert_eq!(
            names(keyspace.displaced()),
            ["replaced", "displaced", "deleted", "ended"]
        );
        assert_eq!(names(keyspace.renewed()), ["owned"]);
        assert_ne!(shown(&keyspace), before);
        let rev = keyspace.rev();

        keyspace.roll_back();
        assert_eq!(shown(&keyspace), before);
        assert_eq!(keyspace.rev(), rev, "revisions are not given twice");
        assert!(!keyspace.has_changed() && keyspace.displaced().is_empty());
        assert_eq!(keyspace.turn_bytes(), 0);
        assert_eq!(put(&mut keyspace, "kept", "2", Lifetime::Durable), rev + 1);
        keyspace.keep();
        assert_ne!(shown(&keyspace), before);
    }
}
