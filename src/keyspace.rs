//! The keyspace: every entry, and the order in which they last changed.
//!
//! Four views of one set of slots:
//!
//! - `order`, the slots in the order of their keys, walked for lists and for the first entries of a
//!   subscription;
//! - `lookup`, a table from key to slot in no order, for everything that concerns one key, as most
//!   requests do;
//! - `index`, the **change index**: a pair of revision and slot for each change, in the order of
//!   revisions. A pair is live while its slot still has that revision, and stale once the key has
//!   changed again. Read from any revision on, the live pairs give each key that changed since,
//!   once, newest last. That is all that a follower needs to know, so a follower is one number;
//! - `leases`, what ends by itself: entries with a deadline, and those owned by a connection.
//!
//! A deleted key keeps its slot, without a value, as a **tombstone**, so that followers hear of the
//! deletion. Tombstones are bounded: the oldest are dropped, and `floor` remembers the revision up
//! to which some are gone. A follower that stands below it can't be told every deletion any more and
//! has to start over.
//!
//! What a turn changes can be undone until it is kept ([`Keyspace::begin`], [`Keyspace::roll_back`]):
//! storage may turn out not to take it, and then it must not have happened.
//!
//! The index is appended to and searched by bisection, and swept a little with each change. Left out: a
//! linked list through the slots, which would need no sweep, but could not be searched by revision, and
//! every follower would have to be moved when the slot that it stands on moves.
//!
//! Nothing here reads a clock, does input or output, or knows who follows.

mod accounts;
mod index;
mod leases;
mod lookup;
mod order;
mod restore;
mod turn;
mod walk;

use slab::Slab;

use crate::key::{Key, KeyRef, Pattern};
use crate::wire::{Lifetime, Payload, Stored};

use accounts::Charges;
use index::Index;
use leases::{Lease, Leases};
use lookup::Lookup;
use order::Order;
use turn::Turn;
use walk::Walk;

pub use accounts::{Account, Held};
pub use restore::Restored;

/// A point in time, in milliseconds on a clock that only the caller reads. It must not run back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

/// Names the connection that a `session` entry belongs to. Never used for two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(pub u64);

/// How long an entry is to live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// What may end it from outside.
    pub lifetime: Lifetime,
    /// The connection it ends with; for [`Lifetime::Session`] alone.
    pub owner: Option<Owner>,
    /// When it ends by itself.
    pub deadline: Option<Time>,
    /// Whom it is charged to.
    pub account: Account,
}

/// Every entry, and the order in which they last changed.
#[derive(Debug)]
pub struct Keyspace {
    slots: Slab<Slot>,
    order: Order,
    lookup: Lookup,
    index: Index,
    leases: Leases,
    /// The last revision that was given.
    rev: u64,
    totals: Totals,
    charges: Charges,
    tombstones_max: u64,
    /// No pair of the index up to this revision is a tombstone: where to look for the oldest.
    tombstones_after: u64,
    /// The revision of the newest tombstone that was dropped.
    floor: u64,
    turn: Turn,
}

/// Sums over all slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    /// Bytes of live keys and their values.
    bytes: u64,
    tombstones: u64,
    /// Live keys that belong to the daemon.
    reserved: u64,
    /// About how many bytes it takes to write down the slots of each [`Class`].
    written: [u64; 2],
}

/// Where an entry is kept for longer than the daemon's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// On the disk: entries with the lifetime `durable`.
    Durable,
    /// In memory that goes with the machine: entries with the lifetimes `boot` and `session`.
    Boot,
}

/// A slot's number, in half the memory: there is one for every key, twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place(u32);

#[derive(Debug)]
struct Slot {
    key: Key,
    /// Absent in a tombstone.
    value: Option<Box<[u8]>>,
    rev: u64,
    form: Form,
    /// In a tombstone, that of the entry which was deleted.
    lifetime: Lifetime,
    account: Account,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Json,
    Bytes,
}

/// One entry as it is now.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its key.
    pub key: &'a Key,
    /// The revision of its last change.
    pub rev: u64,
    /// Its lifetime.
    pub lifetime: Lifetime,
    /// The connection it ends with; none where that has gone with an earlier daemon.
    pub owner: Option<Owner>,
    /// When it ends by itself, if it does.
    pub deadline: Option<Time>,
    /// Whom it is charged to: whoever put it last.
    pub account: Account,
    pub(crate) value: Stored<'a>,
}

/// A key and where it is, until the next change ([`Keyspace::locate`]).
#[derive(Clone, Copy, Debug)]
pub struct Located<'k> {
    key: KeyRef<'k>,
    slot: Option<usize>,
    /// The keyspace's revision when it was found.
    rev: u64,
}

/// One live pair of the change index.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// The key that changed.
    pub key: &'a Key,
    /// The entry as it is now; absent where the key is deleted.
    pub entry: Option<Entry<'a>>,
    /// Where this is kept.
    pub class: Class,
}

impl Keyspace {
    /// An empty keyspace that remembers at most so many deleted keys.
    #[must_use]
    pub fn new(tombstones_max: u64) -> Keyspace {
        Keyspace {
            slots: Slab::new(),
            order: Order::default(),
            lookup: Lookup::default(),
            index: Index::default(),
            leases: Leases::default(),
            rev: 0,
            totals: Totals::default(),
            charges: Charges::default(),
            tombstones_max,
            tombstones_after: 0,
            floor: 0,
            turn: Turn::default(),
        }
    }

    /// The last revision that was given; `0` before the first change.
    #[must_use]
    pub fn rev(&self) -> u64 {
        self.rev
    }

    /// How many keys there are, tombstones not counted.
    #[must_use]
    pub fn keys(&self) -> u64 {
        self.slots.len() as u64 - self.totals.tombstones
    }

    /// How many bytes the keys and their values have.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.totals.bytes
    }

    /// About how many bytes it takes to write down all that is kept in one place, tombstones included.
    #[must_use]
    pub fn written_bytes(&self, class: Class) -> u64 {
        self.totals.written[class as usize]
    }

    /// How much is charged to an account.
    #[must_use]
    pub fn held(&self, account: Account) -> Held {
        self.charges.of(account)
    }

    /// Whom something is charged to, and how much.
    pub fn accounts(&self) -> impl Iterator<Item = (Account, Held)> {
        self.charges.iter()
    }

    /// How many of the keys belong to the daemon ([`KeyRef::is_reserved`]).
    #[must_use]
    pub fn reserved_keys(&self) -> u64 {
        self.totals.reserved
    }

    /// How many deleted keys are remembered.
    #[must_use]
    pub fn tombstones(&self) -> u64 {
        self.totals.tombstones
    }

    /// A follower at a smaller revision than this may have missed a deletion.
    #[must_use]
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// The entry of a key.
    #[must_use]
    pub fn entry(&self, key: KeyRef<'_>) -> Option<Entry<'_>> {
        self.entry_of(self.locate(key))
    }

    /// Finds where a key is, for whoever looks at its entry and then puts it.
    #[must_use]
    pub fn locate<'k>(&self, key: KeyRef<'k>) -> Located<'k> {
        Located {
            key,
            slot: self.slot_of(key.as_str()),
            rev: self.rev,
        }
    }

    /// The entry of a key that was located.
    #[must_use]
    pub fn entry_of(&self, located: Located<'_>) -> Option<Entry<'_>> {
        self.entry_at(located.slot?)
    }

    /// Where a key is kept, or was when it was deleted; nothing where it is not known.
    #[must_use]
    pub fn class(&self, key: KeyRef<'_>) -> Option<Class> {
        let slot = self.slot_of(key.as_str())?;
        Some(Class::of(self.slots[slot].lifetime))
    }

    /// Gives a key a value and returns the revision of the change.
    pub fn put(&mut self, key: KeyRef<'_>, payload: &Payload<'_>, terms: Terms) -> u64 {
        self.put_at(self.locate(key), payload, terms)
    }

    /// The same for a key that was located, after which nothing has changed.
    pub fn put_at(&mut self, located: Located<'_>, payload: &Payload<'_>, terms: Terms) -> u64 {
        assert_eq!(
            located.rev, self.rev,
            "a key stays where it is until a change"
        );
        let (bytes, form) = parts(payload);
        self.rev += 1;
        let slot = match located.slot {
            Some(slot) => {
                let lease = self.leases.end(slot);
                self.totals.leave(&self.slots[slot]);
                self.charges.leave(&self.slots[slot]);
                self.turn
                    .put_over(slot, &mut self.slots[slot], lease, terms.lifetime);
                slot
            }
            None => {
                let slot = self.add_slot(located.key.to_key());
                self.turn.created(slot);
                slot
            }
        };
        let entry = &mut self.slots[slot];
        match &mut entry.value {
            Some(value) if value.len() == bytes.len() => value.copy_from_slice(bytes),
            value => *value = Some(Box::from(bytes)),
        }
        entry.rev = self.rev;
        entry.form = form;
        entry.lifetime = terms.lifetime;
        entry.account = terms.account;
        self.totals.join(entry);
        self.charges.join(entry);
        self.turn.count(entry);
        self.leases.begin(slot, terms.lease());
        self.append(slot);
        self.rev
    }

    /// Starts an entry's terms anew without a change of its value: nobody is told. The lifetime
    /// stays, and so does a deadline where none is given; an orphan has an owner again. Does nothing
    /// where there is no such entry.
    pub fn renew(&mut self, key: KeyRef<'_>, owner: Option<Owner>, deadline: Option<Time>) {
        if let Some(slot) = self.slot_of(key.as_str()) {
            if self.slots[slot].value.is_none() {
                return;
            }
            let before = self.leases.end(slot);
            self.turn
                .renewed(slot, &self.slots[slot].key, before, deadline);
            let renewed = Lease {
                owner,
                deadline: deadline.or(before.deadline),
                orphan_end: None,
            };
            self.leases.begin(slot, renewed);
        }
    }

    /// Deletes a key and returns the revision of the change; nothing where there is no such entry.
    pub fn delete(&mut self, key: KeyRef<'_>) -> Option<u64> {
        let slot = self.slot_of(key.as_str())?;
        self.slots[slot].value.as_ref()?;
        self.rev += 1;
        let lease = self.leases.end(slot);
        let entry = &mut self.slots[slot];
        self.totals.leave(entry);
        self.charges.leave(entry);
        self.turn.deleting(slot, entry, lease);
        entry.value = None;
        entry.rev = self.rev;
        self.totals.join(entry);
        self.turn.count(entry);
        self.append(slot);
        Some(self.rev)
    }

    /// The first key whose deadline has come.
    #[must_use]
    pub fn expired(&self, now: Time) -> Option<Key> {
        let (end, slot) = self.leases.first_end()?;
        (end <= now).then(|| self.slots[slot].key.clone())
    }

    /// When the next entry ends by itself.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        self.leases.first_end().map(|(end, _)| end)
    }

    /// A key that belongs to this connection, while there is one.
    #[must_use]
    pub fn owned_by(&self, owner: Owner) -> Option<Key> {
        let slot = self.leases.owned_by(owner)?;
        Some(self.slots[slot].key.clone())
    }

    /// Walks the keys that a pattern may match, in byte order, from behind `after` on.
    ///
    /// Every step is given, so that the caller can count them: a key that the pattern doesn't match
    /// after all, or that is deleted, comes without its entry. Where many in a row can't match, they are
    /// leapt over. A walk can be ended at any step and gone on with from behind its key.
    pub fn walk<'a>(
        &'a self,
        pattern: &'a Pattern,
        after: Option<&str>,
    ) -> impl Iterator<Item = (&'a Key, Option<Entry<'a>>)> {
        Walk::new(self, pattern, after)
    }

    /// Reads the change index from behind a revision on.
    ///
    /// Every step is given with its revision, so that the caller can count them: a stale pair comes
    /// without its change.
    pub fn changes_after(&self, rev: u64) -> impl Iterator<Item = (u64, Option<Change<'_>>)> {
        self.index.after(rev).map(|pair| {
            let (rev, slot) = (pair.rev(), pair.slot());
            let live = self.slots.get(slot).filter(|entry| entry.rev == rev);
            (
                rev,
                live.map(|entry| Change {
                    key: &entry.key,
                    entry: self.entry_at(slot),
                    class: Class::of(entry.lifetime),
                }),
            )
        })
    }

    /// Drops the oldest tombstones over the bound. To be called once a turn, after delivery, so that
    /// followers that keep up have read them.
    pub fn drop_tombstones(&mut self) {
        if self.totals.tombstones <= self.tombstones_max {
            return;
        }
        let index = std::mem::take(&mut self.index);
        let mut dropped = 0;
        for pair in index.after(self.tombstones_after) {
            if self.totals.tombstones <= self.tombstones_max {
                break;
            }
            let (rev, slot) = (pair.rev(), pair.slot());
            self.tombstones_after = rev;
            let is_tombstone = self
                .slots
                .get(slot)
                .is_some_and(|entry| entry.rev == rev && entry.value.is_none());
            if is_tombstone {
                let entry = self.take_slot(slot);
                self.totals.leave(&entry);
                self.floor = rev;
                dropped += 1;
            }
        }
        self.index = index;
        for _ in 0..dropped {
            self.index.sweep(&self.slots);
        }
    }

    /// Panics where the views disagree. For tests: it looks at everything.
    #[doc(hidden)]
    pub fn assert_invariants(&self) {
        self.order.assert_invariants(&self.slots);
        assert_eq!(self.lookup.len(), self.slots.len());
        let mut totals = Totals::default();
        for (slot, entry) in &self.slots {
            let key = &entry.key;
            assert_eq!(self.slot_of(key.as_str()), Some(slot));
            totals.join(entry);
            if entry.value.is_none() {
                assert!(entry.rev > self.floor && entry.rev > self.tombstones_after);
                assert!(!self.leases.has(slot), "{key} is deleted");
            }
        }
        assert_eq!(self.totals, totals);
        let slots = self.slots.iter().map(|(_, slot)| slot);
        let charges = Charges::of_all(slots);
        assert!(self.charges.iter().eq(charges.iter()));
        self.index.assert_invariants(&self.slots);
        assert!(self.floor <= self.rev);
        self.leases.assert_invariants();
    }

    fn slot_of(&self, key: &str) -> Option<usize> {
        let place = self.lookup.find(key, &self.slots)?;
        Some(place.slot())
    }

    fn entry_at(&self, slot: usize) -> Option<Entry<'_>> {
        let entry = &self.slots[slot];
        let value = entry.value.as_deref()?;
        let lease = self.leases.of(slot);
        Some(Entry {
            key: &entry.key,
            rev: entry.rev,
            lifetime: entry.lifetime,
            owner: lease.owner,
            deadline: lease.deadline,
            account: entry.account,
            value: match entry.form {
                Form::Json => Stored::Json(value),
                Form::Bytes => Stored::Bytes(value),
            },
        })
    }

    /// A slot for a key that has none: a tombstone that nothing counts yet.
    fn add_slot(&mut self, key: Key) -> usize {
        let slot = self.slots.insert(Slot {
            key,
            value: None,
            rev: 0,
            form: Form::Json,
            lifetime: Lifetime::default(),
            account: Account::default(),
        });
        self.order.insert(Place::new(slot), &self.slots);
        self.lookup.insert(Place::new(slot), &self.slots);
        slot
    }

    /// Takes a slot away. It may still be in the index, where it is stale, and in the sums.
    fn take_slot(&mut self, slot: usize) -> Slot {
        self.order.remove(Place::new(slot), &self.slots);
        self.lookup.remove(Place::new(slot), &self.slots);
        self.slots.remove(slot)
    }

    fn append(&mut self, slot: usize) {
        self.index.push(self.rev, slot, &self.slots);
    }
}

impl Place {
    fn new(slot: usize) -> Place {
        Place(u32::try_from(slot).expect("memory ends before slots have such numbers"))
    }

    fn slot(self) -> usize {
        self.0 as usize
    }
}

impl Entry<'_> {
    /// Whether the entry has this very value, in this form.
    #[must_use]
    pub fn is(&self, payload: &Payload<'_>) -> bool {
        match (self.value, payload) {
            (Stored::Json(mine), Payload::Json(other)) => mine == other.as_bytes(),
            (Stored::Bytes(mine), Payload::Bytes(other)) => mine == &**other,
            _ => false,
        }
    }

    /// The value.
    #[must_use]
    pub fn payload(&self) -> Payload<'_> {
        match self.value {
            Stored::Json(json) => {
                let text = std::str::from_utf8(json).expect("a JSON value was put as text");
                Payload::Json(text.into())
            }
            Stored::Bytes(bytes) => Payload::Bytes(bytes.into()),
        }
    }

    /// What its account holds with it.
    #[must_use]
    pub fn held(&self) -> Held {
        let (Stored::Json(value) | Stored::Bytes(value)) = self.value;
        Held {
            keys: 1,
            bytes: (self.key.as_str().len() + value.len()) as u64,
        }
    }
}

impl Terms {
    fn lease(self) -> Lease {
        Lease {
            owner: self.owner,
            deadline: self.deadline,
            orphan_end: None,
        }
    }
}

impl Class {
    /// Where an entry of this lifetime is kept.
    #[must_use]
    pub fn of(lifetime: Lifetime) -> Class {
        match lifetime {
            Lifetime::Durable => Class::Durable,
            Lifetime::Boot | Lifetime::Session => Class::Boot,
        }
    }
}

impl Totals {
    fn join(&mut self, slot: &Slot) {
        match slot.live_bytes() {
            Some(bytes) => {
                self.bytes += bytes;
                self.reserved += u64::from(slot.key.borrowed().is_reserved());
            }
            None => self.tombstones += 1,
        }
        self.written[Class::of(slot.lifetime) as usize] += slot.written_bytes();
    }

    fn leave(&mut self, slot: &Slot) {
        match slot.live_bytes() {
            Some(bytes) => {
                self.bytes -= bytes;
                self.reserved -= u64::from(slot.key.borrowed().is_reserved());
            }
            None => self.tombstones -= 1,
        }
        self.written[Class::of(slot.lifetime) as usize] -= slot.written_bytes();
    }
}

impl Slot {
    /// About how many bytes it takes to write this down: what surrounds a key and its value in a
    /// record of `journal`, and a revision of some digits.
    fn written_bytes(&self) -> u64 {
        let value = match (&self.value, self.form) {
            (None, _) => 0,
            (Some(value), Form::Json) => value.len(),
            (Some(value), Form::Bytes) => value.len().div_ceil(3) * 4,
        };
        (self.key.as_str().len() + value + 48) as u64
    }

    /// How many bytes its key and value have, unless it is a tombstone.
    fn live_bytes(&self) -> Option<u64> {
        let value = self.value.as_ref()?;
        Some((self.key.as_str().len() + value.len()) as u64)
    }
}

/// A value's bytes, and what they are.
fn parts<'a>(payload: &'a Payload<'_>) -> (&'a [u8], Form) {
    match payload {
        Payload::Json(json) => (json.as_bytes(), Form::Json),
        Payload::Bytes(bytes) => (bytes, Form::Bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        keyspace: Keyspace,
    }

    impl Fixture {
        fn new(tombstones_max: u64) -> Fixture {
            Fixture {
                keyspace: Keyspace::new(tombstones_max),
            }
        }

        fn put(&mut self, key: &str, json: &str) -> u64 {
            self.put_on(key, json, Terms::default())
        }

        fn put_on(&mut self, key: &str, json: &str, terms: Terms) -> u64 {
            let key = KeyRef::new(key).unwrap();
            let rev = self.keyspace.put(key, &Payload::Json(json.into()), terms);
            self.keyspace.assert_invariants();
            rev
        }

        fn delete(&mut self, key: &str) -> Option<u64> {
            let rev = self.keyspace.delete(KeyRef::new(key).unwrap());
            self.keyspace.assert_invariants();
            rev
        }

        fn changes_after(&self, rev: u64) -> Vec<String> {
            let changes = self.keyspace.changes_after(rev);
            changes
                .filter_map(|(rev, change)| {
                    let change = change?;
                    let sign = if change.entry.is_some() { '+' } else { '-' };
                    Some(format!("{sign}{}@{rev}", change.key))
                })
                .collect()
        }

        fn walk(&self, pattern: &str, after: Option<&str>) -> Vec<String> {
            let pattern = Pattern::new(pattern).unwrap();
            let steps = self.keyspace.walk(&pattern, after);
            steps
                .filter_map(|(key, entry)| entry.map(|_| key.to_string()))
                .collect()
        }
    }

    #[test]
    fn the_index_gives_each_key_once_newest_last() {
        let mut fixture = Fixture::new(10);
        for (key, rev) in [("a", 1), ("b", 2), ("a", 3), ("c", 4)] {
            assert_eq!(fixture.put(key, "1"), rev);
        }
        assert_eq!(fixture.delete("b"), Some(5));
        assert_eq!(fixture.delete("b"), None);
        assert_eq!(fixture.delete("nothing"), None);
        assert_eq!(fixture.changes_after(0), ["+a@3", "+c@4", "-b@5"]);
        assert_eq!(fixture.changes_after(3), ["+c@4", "-b@5"]);
        assert_eq!(fixture.changes_after(5), [""; 0]);
        fixture.put("b", "2");
        assert_eq!(fixture.changes_after(0), ["+a@3", "+c@4", "+b@6"]);
        assert_eq!(fixture.keyspace.tombstones(), 0);
    }

    #[test]
    fn the_index_stays_in_proportion() {
        let mut fixture = Fixture::new(10);
        for round in 0..5000 {
            fixture.keyspace.put(
                KeyRef::new(["a", "b", "c"][round % 3]).unwrap(),
                &Payload::Json("1".into()),
                Terms::default(),
            );
        }
        fixture.keyspace.assert_invariants();
        assert_eq!(fixture.changes_after(0), ["+c@4998", "+a@4999", "+b@5000"]);
    }

    #[test]
    fn the_oldest_tombstones_go_first() {
        let mut fixture = Fixture::new(2);
        for key in ["a", "b", "c", "d"] {
            fixture.put(key, "1");
        }
        for key in ["a", "b", "c"] {
            fixture.delete(key);
        }
        fixture.keyspace.drop_tombstones();
        fixture.keyspace.assert_invariants();
        assert_eq!(fixture.keyspace.floor(), 5);
        assert_eq!(fixture.changes_after(0), ["+d@4", "-b@6", "-c@7"]);
        fixture.put("b", "again");
        fixture.delete("d");
        fixture.keyspace.drop_tombstones();
        fixture.keyspace.assert_invariants();
        assert_eq!(fixture.keyspace.floor(), 5, "two are left: c and d");
        fixture.delete("b");
        fixture.keyspace.drop_tombstones();
        assert_eq!(fixture.keyspace.floor(), 7);
        assert_eq!(fixture.changes_after(7), ["-d@9", "-b@10"]);
    }

    #[test]
    fn walks_stay_within_the_pattern() {
        let mut fixture = Fixture::new(10);
        for key in [
            "a", "a-b", "a.b", "a.b.c", "a.c", "a.d.c", "ab", "b", "$s.a",
        ] {
            fixture.put(key, "1");
        }
        fixture.delete("a.c");
        let check = |pattern: &str, after: Option<&str>, expected: &[&str]| {
            assert_eq!(
                fixture.walk(pattern, after),
                expected,
                "{pattern} after {after:?}"
            );
        };
        check("a", None, &["a"]);
        check("a", Some("a"), &[]);
        check("a.*", None, &["a", "a.b", "a.b.c", "a.d.c"]);
        check("a.*", Some("a"), &["a.b", "a.b.c", "a.d.c"]);
        check("a.*", Some("a-b"), &["a.b", "a.b.c", "a.d.c"]);
        check("a.*", Some("a.b"), &["a.b.c", "a.d.c"]);
        check("a.*", Some("b"), &[]);
        check("a.*", Some("Z"), &["a", "a.b", "a.b.c", "a.d.c"]);
        check("a.*.c", None, &["a.b.c", "a.d.c"]);
        check("*", None, &["a", "a-b", "a.b", "a.b.c", "a.d.c", "ab", "b"]);
        check("*", Some("ab"), &["b"]);
        check("*.b", None, &["a.b"]);
        check("$s.*", None, &["$s.a"]);
        check("nothing.*", None, &[]);
    }

    #[test]
    fn leases_end_and_move() {
        let mut fixture = Fixture::new(10);
        let (first, second) = (Owner(1), Owner(2));
        let session = |owner, deadline| Terms {
            lifetime: Lifetime::Session,
            owner: Some(owner),
            deadline,
            account: Account::ROOT,
        };
        fixture.put_on("a", "1", session(first, None));
        fixture.put_on("b", "1", session(first, Some(Time(50))));
        fixture.put_on("a", "2", session(second, None));
        assert_eq!(fixture.keyspace.owned_by(first).unwrap().as_str(), "b");
        assert_eq!(fixture.keyspace.owned_by(second).unwrap().as_str(), "a");
        assert_eq!(fixture.keyspace.next_deadline(), Some(Time(50)));
        assert_eq!(fixture.keyspace.expired(Time(49)), None);
        assert_eq!(fixture.keyspace.expired(Time(50)).unwrap().as_str(), "b");
        fixture
            .keyspace
            .renew(KeyRef::new("b").unwrap(), Some(second), Some(Time(90)));
        assert_eq!(fixture.keyspace.owned_by(first), None);
        assert_eq!(fixture.keyspace.next_deadline(), Some(Time(90)));
        fixture
            .keyspace
            .renew(KeyRef::new("b").unwrap(), Some(second), None);
        assert_eq!(
            fixture.keyspace.next_deadline(),
            Some(Time(90)),
            "none given, none changed"
        );
        fixture.put("b", "durable now");
        assert_eq!(fixture.keyspace.next_deadline(), None);
        fixture.delete("a");
        assert_eq!(fixture.keyspace.owned_by(second), None);
        fixture
            .keyspace
            .renew(KeyRef::new("a").unwrap(), Some(second), Some(Time(1)));
        assert_eq!(
            fixture.keyspace.next_deadline(),
            None,
            "a tombstone has no lease"
        );
    }
}
