//! The change index: a pair of revision and place for each change, in the order of revisions.
//!
//! A pair is live while its slot still has that revision, and stale once the key has changed again. Stale ones
//! are swept out when they outnumber the live ones, a few with each change: a sweep of a million pairs at
//! once would be a long time for everybody to wait. While a sweep goes on, live pairs go to a second list,
//! and the index is that one, and behind it what is not swept yet.

use slab::Slab;

use super::{Place, Slot};

/// How many stale pairs the index may hold beyond one for each slot.
const SLACK: usize = 1024;
/// So many pairs are swept with each change. More than one, so that a sweep ends.
const SWEPT_PER_CHANGE: usize = 8;

/// One pair, in 12 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    /// The revision's high and low half.
    rev: [u32; 2],
    place: Place,
}

/// All pairs.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// What a sweep has left so far; empty while none goes on.
    swept: Vec<Pair>,
    pairs: Vec<Pair>,
    /// How many of `pairs` the sweep has read: `swept` stands for these.
    read: usize,
}

impl Index {
    /// The pairs after a revision.
    pub(super) fn after(&self, rev: u64) -> impl Iterator<Item = Pair> + '_ {
        let swept = beyond(&self.swept, rev);
        let unread = beyond(&self.pairs[self.read..], rev);
        swept.iter().chain(unread).copied()
    }

    /// Adds the pair of the newest change.
    pub(super) fn push(&mut self, rev: u64, slot: usize, slots: &Slab<Slot>) {
        self.pairs.push(Pair::new(rev, slot));
        self.sweep(slots);
    }

    /// Goes on with a sweep, or begins one where there is much to be swept. To be called with each change,
    /// and for each slot that goes.
    pub(super) fn sweep(&mut self, slots: &Slab<Slot>) {
        if self.read == 0 && self.pairs.len() <= 2 * slots.len() + SLACK {
            return;
        }
        for _ in 0..SWEPT_PER_CHANGE {
            let Some(pair) = self.pairs.get(self.read) else {
                self.pairs = std::mem::take(&mut self.swept);
                self.read = 0;
                return;
            };
            if pair.is_live(slots) {
                self.swept.push(*pair);
            }
            self.read += 1;
        }
    }

    /// Makes it anew.
    pub(super) fn rebuild(&mut self, slots: &Slab<Slot>) {
        *self = Index::default();
        let pairs = slots.iter().map(|(slot, entry)| Pair::new(entry.rev, slot));
        self.pairs.extend(pairs);
        self.pairs.sort_unstable_by_key(Pair::both);
    }

    pub(super) fn assert_invariants(&self, slots: &Slab<Slot>) {
        let all: Vec<Pair> = self.after(0).collect();
        assert!(all.is_sorted_by_key(Pair::both));
        let live = all.iter().filter(|pair| pair.is_live(slots)).count();
        assert_eq!(live, slots.len(), "each slot has a pair");
        // A little more comes while a sweep goes on, and slots may go meanwhile.
        assert!(self.pairs.len() <= 3 * slots.len() + 2 * SLACK);
    }
}

impl Pair {
    #[expect(clippy::cast_possible_truncation, reason = "the halves make the whole")]
    fn new(rev: u64, slot: usize) -> Pair {
        Pair {
            rev: [(rev >> 32) as u32, rev as u32],
            place: Place::new(slot),
        }
    }

    pub(super) fn rev(&self) -> u64 {
        u64::from(self.rev[0]) << 32 | u64::from(self.rev[1])
    }

    pub(super) fn slot(&self) -> usize {
        self.place.slot()
    }

    fn both(&self) -> (u64, usize) {
        (self.rev(), self.slot())
    }

    fn is_live(&self, slots: &Slab<Slot>) -> bool {
        let entry = slots.get(self.slot());
        entry.is_some_and(|entry| entry.rev == self.rev())
    }
}

/// Those of the pairs that come after a revision. Nearly everybody who asks stands near the end, so the search
/// begins there, and goes back by twice as many pairs each time. One that began in the middle of a million would
/// wait for places in memory that nobody has used for long.
fn beyond(pairs: &[Pair], rev: u64) -> &[Pair] {
    let mut back = 1;
    while back <= pairs.len() && pairs[pairs.len() - back].rev() > rev {
        back *= 2;
    }
    let (from, to) = (pairs.len().saturating_sub(back), pairs.len() - back / 2);
    let at = from + pairs[from..to].partition_point(|pair| pair.rev() <= rev);
    &pairs[at..]
}

#[cfg(test)]
mod tests {
    use super::{Pair, beyond};
    use crate::key::KeyRef;
    use crate::keyspace::{Keyspace, Terms};
    use crate::wire::Payload;

    /// From each revision that there is, and from those in between.
    #[test]
    fn a_search_from_the_end_finds_what_one_from_the_beginning_would() {
        for length in 0..40u64 {
            let pairs: Vec<Pair> = (1..=length).map(|rev| Pair::new(rev * 2, 0)).collect();
            for rev in 0..=2 * length + 2 {
                let expected = pairs.iter().filter(|pair| pair.rev() > rev);
                assert!(expected.eq(beyond(&pairs, rev)), "{rev} of {length}");
            }
        }
    }

    /// Whatever a sweep has got to, each key is found once and in its place.
    #[test]
    fn a_sweep_goes_on_unnoticed() {
        let (keys, rounds) = (500, 6000);
        let mut keyspace = Keyspace::new(0);
        let mut last = vec![0; keys];
        let (mut sweeping, mut ended) = (0, 0);
        for round in 0..rounds {
            let number = round * 7919 % (keys - round % 3);
            let key = format!("key{number}");
            let value = Payload::Json("1".into());
            last[number] = keyspace.put(KeyRef::new(&key).unwrap(), &value, Terms::default());
            let was_sweeping = sweeping > 0 && keyspace.index.read == 0;
            ended += usize::from(was_sweeping);
            sweeping = keyspace.index.read;
            if round % 13 > 0 {
                continue;
            }
            keyspace.assert_invariants();
            let since = last[round % keys];
            let mut expected: Vec<u64> = last.iter().copied().filter(|rev| *rev > since).collect();
            expected.sort_unstable();
            let live = keyspace.changes_after(since);
            let found: Vec<u64> = live.filter_map(|(rev, live)| live.map(|_| rev)).collect();
            assert_eq!(found, expected, "round {round}");
        }
        assert!(ended >= 3, "{ended} sweeps");
    }
}
