//! The events of one subscription that have been received and not yet taken.
//!
//! Whoever reads the socket reads for everyone, so events pile up here while their owner is busy. What
//! is kept must not grow with the number of changes. Beyond [`EVENTS_MAX`] the inbox is compacted to
//! what a slow subscriber would have been told by the daemon:
//!
//! - **Of one key's events only the newest stays**, where it stood. Taking them in order still ends
//!   in the same state, and revisions still grow, as something is only ever left out.
//! - **Of `sync`s only the last stays**, and the rule above is applied to what is before it and to
//!   what is after it apart. A `sync` promises that what was told so far is the state at its
//!   revision. That holds for the last one, since the newest event of each key before it is kept
//!   even where a newer one follows after it. It would not hold for earlier ones, whose events are
//!   thinned out; the longer stretch between two `sync`s is still a whole number of batches.
//! - **A `reset` drops what is before it**, at any length: it tells the owner to do just that.
//!
//! So an inbox holds at most two events for each key, one `reset` and one `sync`, or
//! [`EVENTS_MAX`]. It is compacted only when it has doubled since the last time, which makes the cost
//! of an event constant on average.

use std::collections::{HashSet, VecDeque};

use super::Event;

/// How many events an inbox holds before it is compacted for the first time.
pub(super) const EVENTS_MAX: usize = 1024;

/// What has been received for one subscription, oldest first.
#[derive(Debug)]
pub(super) struct Inbox {
    events: VecDeque<Event>,
    /// The length beyond which it is compacted.
    compact_beyond: usize,
}

impl Inbox {
    pub(super) fn new() -> Inbox {
        Inbox {
            events: VecDeque::new(),
            compact_beyond: EVENTS_MAX,
        }
    }

    pub(super) fn push(&mut self, event: Event) {
        if matches!(event, Event::Reset { .. }) {
            self.events.clear();
        }
        self.events.push_back(event);
        if self.events.len() > self.compact_beyond {
            self.compact();
            self.compact_beyond = EVENTS_MAX.max(self.events.len() * 2);
        }
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn compact(&mut self) {
        let mut newest = HashSet::new();
        let mut sync_is_kept = false;
        let mut keep: Vec<bool> = Vec::with_capacity(self.events.len());
        for event in self.events.iter().rev() {
            keep.push(match event {
                Event::Put { key, .. } | Event::Delete { key, .. } => newest.insert(key.as_str()),
                Event::Sync { .. } if sync_is_kept => false,
                Event::Sync { .. } => {
                    sync_is_kept = true;
                    newest.clear();
                    true
                }
                Event::Reset { .. } => true,
            });
        }
        // Judged from the back, dropped from the front.
        self.events
            .retain(|_| keep.pop().expect("each event has been judged"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Value;
    use crate::key::Key;

    /// `a5` is a put of `a` at revision 5, `-a5` a delete, `s5` a sync and `r5` a reset.
    fn event(text: &str) -> Event {
        let (name, rev) = text.split_at(text.find(|c: char| c.is_ascii_digit()).unwrap());
        let rev = rev.parse().unwrap();
        match name {
            "s" => Event::Sync { rev },
            "r" => Event::Reset { rev, epoch: None },
            name => match name.strip_prefix('-') {
                Some(key) => Event::Delete {
                    key: Key::new(key).unwrap(),
                    rev,
                },
                None => Event::Put {
                    key: Key::new(name).unwrap(),
                    value: Value::of(&rev).unwrap(),
                    rev,
                },
            },
        }
    }

    #[test]
    fn compaction_keeps_what_matters() {
        let check = |events: &str, expected: &str| {
            let mut inbox = Inbox::new();
            events
                .split_whitespace()
                .map(event)
                .for_each(|event| inbox.push(event));
            inbox.compact();
            let expected: Vec<_> = expected.split_whitespace().map(event).collect();
            assert_eq!(Vec::from(inbox.events), expected, "{events}");
        };
        check("", "");
        check("a1 b2 a3", "b2 a3");
        check("a1 -a2 b3", "-a2 b3");
        check("-a1 a2", "a2");
        // The state at the last sync is told before it, however often it changed since.
        check("a1 s1 a2 s2 a3 a4", "a2 s2 a4");
        check("a1 b2 s2 b3", "a1 b2 s2 b3");
        check("s1 s2 s3", "s3");
        check("a1 s1 r5 a1 b4", "r5 a1 b4");
        check("r5 a1 a6 s6 a7", "r5 a6 s6 a7");
    }

    #[test]
    fn an_unread_inbox_is_bounded() {
        let mut inbox = Inbox::new();
        for rev in 1..100_000_u64 {
            let key = Key::new(&format!("k{}", rev % 700)).unwrap();
            inbox.push(Event::Put {
                key,
                value: Value::of(&rev).unwrap(),
                rev,
            });
            inbox.push(Event::Sync { rev });
            assert!(inbox.events.len() <= 2 * EVENTS_MAX + 1);
        }
        let revs: Vec<u64> = inbox.events.iter().map(Event::rev).collect();
        assert!(revs.is_sorted());
        assert_eq!(revs.last(), Some(&99_999));
    }
}
