//! The events that were made last, for those who are to be told the same.
//!
//! What changes in a turn is often told to many, one subscriber after the other, each from the first change
//! to the last. A put's event is the same for all of them, but for its beginning, and a revision names it. So
//! a turn's events are kept while it lasts, and for longer where they are few.

/// When the events have so many bytes, all make room for the next.
const BYTES_MAX: usize = 32 << 10;
/// What is kept of memory from one turn to the next.
const BYTES_KEPT: usize = 4 << 10;
const ENDS_KEPT: usize = 64;

/// The events of puts that were made last, each without its beginning.
#[derive(Debug, Default)]
pub(crate) struct RecentEvents {
    bytes: Vec<u8>,
    /// The revision of each, and where in `bytes` it ends, in the order of revisions.
    ends: Vec<(u64, usize)>,
    /// The place behind the one that was asked for last, which is mostly asked for next.
    next: usize,
}

impl RecentEvents {
    /// The event of a revision; it is made where it is not here. What makes it appends it.
    pub(super) fn of(&mut self, rev: u64, make: impl FnOnce(&mut Vec<u8>)) -> &[u8] {
        let at = match self.find(rev) {
            Ok(at) => at,
            Err(at) => {
                if at < self.ends.len() || self.bytes.len() >= BYTES_MAX {
                    self.forget();
                }
                make(&mut self.bytes);
                self.ends.push((rev, self.bytes.len()));
                self.ends.len() - 1
            }
        };
        self.next = at + 1;
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before].1);
        &self.bytes[start..self.ends[at].1]
    }

    /// Ends a turn.
    pub(crate) fn end_turn(&mut self) {
        if self.bytes.len() > BYTES_KEPT || self.ends.len() > ENDS_KEPT {
            self.forget();
        }
        self.bytes.shrink_to(BYTES_KEPT);
        self.ends.shrink_to(ENDS_KEPT);
    }

    fn find(&self, rev: u64) -> Result<usize, usize> {
        match self.ends.get(self.next) {
            Some((next, _)) if *next == rev => Ok(self.next),
            _ => self.ends.binary_search_by_key(&rev, |(rev, _)| *rev),
        }
    }

    fn forget(&mut self) {
        self.ends.clear();
        self.bytes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_made_once_while_it_is_kept() {
        let mut recent = RecentEvents::default();
        let mut made = 0;
        let mut tell = |recent: &mut RecentEvents, rev: u64, bytes: usize| {
            let event = format!("{rev}:{}", "x".repeat(bytes));
            let told = recent.of(rev, |out| {
                made += 1;
                out.extend_from_slice(event.as_bytes());
            });
            assert_eq!(told, event.as_bytes());
            made
        };
        for rev in [1, 3, 4] {
            tell(&mut recent, rev, 10);
        }
        assert_eq!(tell(&mut recent, 1, 10), 3, "all are here");
        assert_eq!(tell(&mut recent, 4, 10), 3);
        assert_eq!(tell(&mut recent, 2, 10), 4, "one of before makes room");
        assert_eq!(tell(&mut recent, 3, 10), 5);
        recent.end_turn();
        assert_eq!(tell(&mut recent, 3, 10), 5, "few are kept");
        for rev in 4..100 {
            tell(&mut recent, rev, 1000);
            assert!(recent.bytes.len() < BYTES_MAX + 1010);
        }
        assert_eq!(tell(&mut recent, 99, 1000), 101);
        recent.end_turn();
        assert!(recent.bytes.capacity() <= BYTES_KEPT && recent.ends.is_empty());
    }
}
