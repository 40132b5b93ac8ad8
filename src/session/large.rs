//! Events of large values. A user holds one copy of each, however many of its subscribers are in the
//! middle of reading it.
//!
//! A subscriber that has begun to read an event must be given the rest of it, whatever has happened to the
//! entry since. For small events that is a few kilobytes. A large one is kept here while somebody reads
//! it, and counts once as memory that is held for the user; where there is no room for another one, whoever
//! is to be told of it waits until there is.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

/// The large events that the subscribers of one user are in the middle of.
#[derive(Debug, Default)]
pub(crate) struct LargeEvents {
    /// The ends of their lines, without the part that differs between subscriptions. A revision names one.
    ends: BTreeMap<u64, Arc<Vec<u8>>>,
    bytes: u64,
}

/// A large event while it is written to one connection.
#[derive(Debug)]
pub(crate) struct Large {
    rev: u64,
    end: Arc<Vec<u8>>,
    /// How much of it is written.
    sent: usize,
    /// Before which byte of the session's other output it is to be written.
    pub(super) at: usize,
}

impl LargeEvents {
    /// How many bytes they have, each counted once.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives an event of about `bytes` bytes to one more subscriber, made by `make` if nobody has it yet.
    /// Nothing where there is no room for it; one event there may always be.
    pub(super) fn hold(
        &mut self,
        rev: u64,
        bytes: usize,
        room: u64,
        make: impl FnOnce() -> Vec<u8>,
    ) -> Option<Large> {
        let is_first = self.ends.is_empty();
        let end = match self.ends.entry(rev) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(_) if !is_first && bytes as u64 > room => return None,
            Entry::Vacant(place) => {
                let end = make();
                self.bytes += end.len() as u64;
                place.insert(Arc::new(end))
            }
        };
        Some(Large {
            rev,
            end: Arc::clone(end),
            sent: 0,
            at: 0,
        })
    }

    /// Takes an event back from a subscriber that has read it, or is gone.
    pub(crate) fn let_go(&mut self, large: Large) {
        let Large { rev, end, .. } = large;
        // This one and the one that is kept here.
        if Arc::strong_count(&end) == 2 && self.ends.remove(&rev).is_some() {
            self.bytes -= end.len() as u64;
        }
    }
}

impl Large {
    pub(super) fn left(&self) -> &[u8] {
        &self.end[self.sent..]
    }

    pub(super) fn take(&mut self, bytes: usize) {
        self.sent += bytes;
    }
}
