//! All keys in byte order: a map of runs.
//!
//! A run is a short list of places, sorted by the keys in their slots, and stands in the map under a text
//! that none of its keys comes before. A place takes four bytes there, where a map of keys takes some
//! thirty. To look at a key here is to look into its slot, so this serves walks, and keys that come and
//! go; who has one key in mind asks [`Lookup`](super::lookup::Lookup).

use std::collections::BTreeMap;
use std::collections::btree_map::Range;
use std::ops::Bound;
use std::slice;

use slab::Slab;

use crate::key::Key;

use super::{Place, Slot};

/// A run that gets longer is cut in two.
const RUN_MAX: usize = 64;

/// The places of all keys, in their keys' order.
#[derive(Debug, Default)]
pub(super) struct Order {
    runs: BTreeMap<Key, Vec<Place>>,
}

/// Places from some key on.
#[derive(Debug)]
pub(super) struct Places<'a> {
    run: slice::Iter<'a, Place>,
    more: Range<'a, Key, Vec<Place>>,
}

impl Order {
    /// Takes in the place of a slot whose key isn't here yet.
    pub(super) fn insert(&mut self, place: Place, slots: &Slab<Slot>) {
        let key = &slots[place.slot()].key;
        let first = self.runs.first_key_value();
        if first.is_none_or(|(first, _)| key < first) {
            let run = self.runs.pop_first().map(|(_, run)| run);
            self.runs.insert(key.clone(), run.unwrap_or_default());
        }
        let Some((_, run)) = self.runs.range_mut::<Key, _>(..=key).next_back() else {
            return;
        };
        let at = run.partition_point(|other| slots[other.slot()].key < *key);
        run.insert(at, place);
        if run.len() > RUN_MAX {
            let behind = run.split_off(RUN_MAX / 2);
            run.shrink_to_fit();
            let first = slots[behind[0].slot()].key.clone();
            self.runs.insert(first, behind);
        }
    }

    /// Takes out the place of a slot, which is still there.
    pub(super) fn remove(&mut self, place: Place, slots: &Slab<Slot>) {
        let key = &slots[place.slot()].key;
        let Some((first, run)) = self.runs.range_mut::<Key, _>(..=key).next_back() else {
            return;
        };
        run.retain(|other| *other != place);
        if run.is_empty() {
            let first = first.clone();
            self.runs.remove(&first);
        } else if run.len() < run.capacity() / 4 {
            run.shrink_to(run.len() * 2);
        }
    }

    /// The places of keys from a text on, or behind it.
    pub(super) fn from<'a>(&'a self, from: Bound<&str>, slots: &Slab<Slot>) -> Places<'a> {
        let (Bound::Included(text) | Bound::Excluded(text)) = from else {
            return self.all();
        };
        let before = (Bound::Unbounded, Bound::Included(text));
        let run = match self.runs.range::<str, _>(before).next_back() {
            Some((_, run)) => run.as_slice(),
            None => &[],
        };
        let is_before = |place: &Place| {
            let key = slots[place.slot()].key.as_str();
            key < text || (key == text && matches!(from, Bound::Excluded(_)))
        };
        let behind = (Bound::Excluded(text), Bound::Unbounded);
        Places {
            run: run[run.partition_point(is_before)..].iter(),
            more: self.runs.range::<str, _>(behind),
        }
    }

    /// All places.
    pub(super) fn all(&self) -> Places<'_> {
        Places {
            run: [].iter(),
            more: self.runs.range::<str, _>(..),
        }
    }

    pub(super) fn assert_invariants(&self, slots: &Slab<Slot>) {
        let keys = self.all().map(|place| &slots[place.slot()].key);
        assert!(keys.is_sorted_by(|one, other| one < other));
        for (first, run) in &self.runs {
            assert!((1..=RUN_MAX).contains(&run.len()));
            assert!(*first <= slots[run[0].slot()].key);
        }
        assert_eq!(self.all().count(), slots.len());
    }
}

impl Iterator for Places<'_> {
    type Item = Place;

    fn next(&mut self) -> Option<Place> {
        loop {
            if let Some(place) = self.run.next() {
                return Some(*place);
            }
            let (_, run) = self.more.next()?;
            self.run = run.iter();
        }
    }
}
