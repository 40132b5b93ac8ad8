//! Which slot a key has: a hash table of places beside the ordered map.
//!
//! Among very many keys what counts is how often memory has to be waited for. A way down the ordered map
//! reads the texts of some keys in each node, and each text stands somewhere else. Here it is the table,
//! the slot and the one key. The table holds a place and the key's hash, for the key is in the slot.
//!
//! No single request should have to wait until a table has grown for a million keys. So there are many small
//! tables, which grow one at a time, and by the hashes alone: to read the keys again, each from somewhere
//! else in memory, took thirty times as long.
//!
//! Keys come from anyone, so they are hashed with numbers that nobody knows.

use std::hash::{BuildHasher, Hasher, RandomState};

use hashbrown::HashTable;
use slab::Slab;

use super::{Place, Slot};

/// A power of two.
const TABLES: usize = 64;

/// The places of all keys.
#[derive(Debug)]
pub(super) struct Lookup {
    tables: [HashTable<Known>; TABLES],
    hasher: RandomState,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    hash: Hash,
    place: Place,
}

/// Half of what the hasher gives: a table takes its lowest and its highest bits, and those between
/// choose the table. They are enough for some thirty million keys; with more, chains get longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hash(u32);

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
        let hash = self.hash(key);
        let is_its =
            |known: &Known| known.hash == hash && slots[known.place.slot()].key.as_str() == key;
        let known = self.tables[hash.table()].find(hash.wide(), is_its)?;
        Some(known.place)
    }

    /// Takes in the place of a slot whose key isn't known yet.
    pub(super) fn insert(&mut self, place: Place, slots: &Slab<Slot>) {
        let hash = self.hash(slots[place.slot()].key.as_str());
        let table = &mut self.tables[hash.table()];
        table.insert_unique(hash.wide(), Known { hash, place }, |known| {
            known.hash.wide()
        });
    }

    /// Takes out the place of a slot, which is still there.
    pub(super) fn remove(&mut self, place: Place, slots: &Slab<Slot>) {
        let hash = self.hash(slots[place.slot()].key.as_str());
        let table = &mut self.tables[hash.table()];
        if let Ok(entry) = table.find_entry(hash.wide(), |known| known.place == place) {
            entry.remove();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.tables.iter().map(HashTable::len).sum()
    }

    fn hash(&self, key: &str) -> Hash {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(key.as_bytes());
        Hash((hasher.finish() >> 32) as u32)
    }
}

impl Hash {
    fn table(self) -> usize {
        (self.0 >> 19) as usize % TABLES
    }

    /// As a table wants it.
    fn wide(self) -> u64 {
        u64::from(self.0) << 32 | u64::from(self.0)
    }
}
