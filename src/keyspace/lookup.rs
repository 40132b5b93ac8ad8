//! Which slot a key has: a hash table of places beside the ordered map.
//!
//! Among very many keys what counts is how often memory has to be waited for. A way down the ordered map
//! reads the texts of some keys in each node, and each text stands somewhere else. Here it is the table,
//! the slot and the one key. The places are all that the table holds, for the keys are in the slots.
//!
//! It is made of many small tables, which grow one at a time: to grow a table is to hash all keys
//! in it again, and no single request should have to wait until that is done for a million.
//!
//! Keys come from anyone, so they are hashed with numbers that nobody knows.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use slab::Slab;

use super::{Place, Slot};

/// A power of two.
const TABLES: usize = 64;

/// The places of all keys.
#[derive(Debug)]
pub(super) struct Lookup {
    tables: [HashTable<Place>; TABLES],
    hasher: RandomState,
}

impl Default for Lookup {
    fn default() -> Lookup {
        Lookup {
            tables: [const { HashTable::new() }; TABLES],
            hasher: RandomState::new(),
        }
    }
}

impl Lookup {
    pub(super) fn find(&self, key: &str, slots: &Slab<Slot>) -> Option<Place> {
        let hash = self.hasher.hash_one(key);
        let is_its = |place: &Place| slots[place.slot()].key.as_str() == key;
        self.tables[table_of(hash)].find(hash, is_its).copied()
    }

    /// Takes in the place of a slot whose key isn't known yet.
    pub(super) fn insert(&mut self, place: Place, slots: &Slab<Slot>) {
        let hasher = &self.hasher;
        let hash_of = |place: &Place| hasher.hash_one(slots[place.slot()].key.as_str());
        let hash = hash_of(&place);
        self.tables[table_of(hash)].insert_unique(hash, place, hash_of);
    }

    /// Takes out the place of a slot, which is still there.
    pub(super) fn remove(&mut self, place: Place, slots: &Slab<Slot>) {
        let hash = self.hasher.hash_one(slots[place.slot()].key.as_str());
        let found = self.tables[table_of(hash)].find_entry(hash, |other| *other == place);
        if let Ok(entry) = found {
            entry.remove();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.tables.iter().map(HashTable::len).sum()
    }
}

/// The table for a hash, by bits that the table itself doesn't go by.
fn table_of(hash: u64) -> usize {
    usize::from(hash.to_le_bytes()[6]) % TABLES
}
