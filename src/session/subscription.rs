//! A subscription: a position in the order of revisions, and what it still owes its subscriber.
//!
//! Its life has two stages. The **walk** tells the current entries in the order of their keys, less
//! those that have changed since the subscription began. **Following** reads the change index from
//! the position on; when it gets to the end, the subscriber holds exactly the keyspace's state, and
//! that is where a `sync` stands. From then on the subscription is at the end until a change marks
//! it, which sets its position just before that change.
//!
//! Where deletions that it has not told are no longer remembered, it starts over: a `reset`, a walk,
//! and so on as at first. That serves one that resumes from too far back and one that lags alike.

use crate::key::{Key, Pattern};
use crate::keyspace::{Entry, Keyspace};
use crate::wire::{EventLine, Id};

use super::{Counters, Steps};

/// Where a new subscription starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// The current entries first.
    Entries,
    /// Only changes from now on.
    Now,
    /// What has changed after this revision.
    After(u64),
    /// It can't be told what has changed: a `reset`, then the current entries.
    Reset,
}

/// One subscription of a session.
#[derive(Debug)]
pub(crate) struct Subscription {
    id: Id<'static>,
    /// What it covers: descendants included unless it is exact.
    pattern: Pattern,
    cuts: bool,
    stage: Stage,
    /// All changes up to this revision are told; of no meaning while nothing is owed.
    position: u64,
    /// Whether it is in its session's order of those that have something to tell.
    behind: bool,
    /// Whether a `sync` is due when it has caught up.
    owes_sync: bool,
    /// Changes that concerned it and events that told of them, since it last caught up. The
    /// difference is what coalescing spared the subscriber.
    marked: u64,
    told: u64,
    /// Changes up to this revision came before it was there to be marked.
    marked_after: u64,
}

#[derive(Debug)]
enum Stage {
    Reset,
    Walk { after: Option<Key> },
    Follow,
}

impl Subscription {
    pub(crate) fn new(
        id: &Id<'_>,
        pattern: Pattern,
        cuts: bool,
        start: Start,
        keyspace: &Keyspace,
    ) -> Subscription {
        let now = keyspace.rev();
        let (stage, position) = match start {
            Start::Entries => (Stage::Walk { after: None }, now),
            Start::Now => (Stage::Follow, now),
            Start::After(since) => (Stage::Follow, since),
            Start::Reset => (Stage::Reset, now),
        };
        Subscription {
            id: id.canonical(),
            pattern,
            cuts,
            stage,
            position,
            behind: true,
            owes_sync: true,
            marked: 0,
            told: 0,
            marked_after: now,
        }
    }

    pub(crate) fn id(&self) -> &Id<'static> {
        &self.id
    }

    pub(crate) fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Notes a change of a covered key; true where the subscription was at the end until now.
    pub(crate) fn mark(&mut self, rev: u64) -> bool {
        self.marked += 1;
        if self.behind {
            return false;
        }
        self.behind = true;
        self.position = rev - 1;
        true
    }

    /// Tells what is to be told until about `chunk` bytes stand in `out`, steps are used up, or
    /// nothing is left, which it returns.
    pub(crate) fn advance(
        &mut self,
        keyspace: &Keyspace,
        out: &mut Vec<u8>,
        chunk: usize,
        steps: &mut Steps,
        counters: &mut Counters,
    ) -> bool {
        if self.position < keyspace.floor() {
            self.stage = Stage::Reset;
        }
        if matches!(self.stage, Stage::Reset) {
            self.position = keyspace.rev();
            self.stage = Stage::Walk { after: None };
            self.owes_sync = true;
            self.settle(counters);
            self.marked_after = self.position;
            EventLine::reset(out, &self.id, self.position);
            counters.events += 1;
        }
        if !self.walk(keyspace, out, chunk, steps, counters)
            || !self.follow(keyspace, out, chunk, steps, counters)
        {
            return false;
        }
        if self.owes_sync {
            EventLine::sync(out, &self.id, keyspace.rev());
            counters.events += 1;
            self.owes_sync = false;
        }
        self.settle(counters);
        self.behind = false;
        true
    }

    /// The first stage; true once it is over.
    fn walk(
        &mut self,
        keyspace: &Keyspace,
        out: &mut Vec<u8>,
        chunk: usize,
        steps: &mut Steps,
        counters: &mut Counters,
    ) -> bool {
        let Stage::Walk { after } = std::mem::replace(&mut self.stage, Stage::Follow) else {
            return true;
        };
        for (key, entry) in keyspace.walk(&self.pattern, after.as_ref().map(Key::as_str)) {
            // What has changed since is told by following, in its place.
            if let Some(entry) = entry.filter(|entry| entry.rev <= self.position) {
                put(out, &self.id, &entry);
                counters.events += 1;
            }
            steps.take(1);
            if out.len() >= chunk || !steps.are_left() {
                self.stage = Stage::Walk {
                    after: Some(key.clone()),
                };
                return false;
            }
        }
        true
    }

    /// The second stage; true at the end of the index.
    fn follow(
        &mut self,
        keyspace: &Keyspace,
        out: &mut Vec<u8>,
        chunk: usize,
        steps: &mut Steps,
        counters: &mut Counters,
    ) -> bool {
        for (rev, change) in keyspace.changes_after(self.position) {
            if out.len() >= chunk || !steps.are_left() {
                return false;
            }
            self.position = rev;
            steps.take(1);
            let Some(change) = change else { continue };
            if !self.pattern.matches(change.key.borrowed()) {
                continue;
            }
            match change.entry {
                Some(entry) => put(out, &self.id, &entry),
                None => EventLine::delete(out, &self.id, change.key.as_str(), rev),
            }
            counters.events += 1;
            self.told += u64::from(rev > self.marked_after);
            self.owes_sync |= self.cuts;
        }
        true
    }

    /// Counts what coalescing has spared since this was last called.
    fn settle(&mut self, counters: &mut Counters) {
        counters.coalesced += self.marked.saturating_sub(self.told);
        self.marked = 0;
        self.told = 0;
    }
}

fn put(out: &mut Vec<u8>, sub: &Id<'_>, entry: &Entry<'_>) {
    EventLine::put(out, sub, entry.key.as_str(), entry.value, entry.rev);
}
