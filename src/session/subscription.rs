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

use crate::key::{Key, KeyRef, Pattern};
use crate::keyspace::{Entry, Keyspace};
use crate::watch::Member;
use crate::wire::{EventLine, Id};

use super::Source;
use super::large::Large;

/// What telling takes: what there is to tell, and where to.
pub(crate) struct Teller<'a> {
    pub(crate) source: Source<'a>,
    pub(crate) out: &'a mut Vec<u8>,
    /// Nothing more is told while there is one.
    pub(crate) large: &'a mut Option<Large>,
    /// The least that was wanted for a large event without there being room for it.
    pub(crate) wants: Option<u64>,
}

/// Values longer than this are not kept for the next subscriber.
const VALUE_BYTES_KEPT: usize = 4 << 10;
/// Events of values longer than this are large.
const VALUE_BYTES_LARGE: usize = 16 << 10;

/// As many bytes as most beginnings of an event line have.
const SUB_BYTES: usize = 32;

/// Whether a key may be seen.
pub(crate) type Sees<'a> = dyn Fn(KeyRef<'_>) -> bool + 'a;

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
    /// Where it is met by changes.
    member: Member,
    /// What was counted there when it last caught up, and how many events have told of changes since. The
    /// difference is what coalescing spares the subscriber.
    counted: u64,
    told: u64,
    /// Changes up to this revision came before it was there to be met.
    met_after: u64,
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
        (member, counted): (Member, u64),
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
            member,
            counted,
            told: 0,
            met_after: now,
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

    pub(crate) fn member(&self) -> Member {
        self.member
    }

    /// Notes a change of a covered key; true where the subscription was at the end until now.
    pub(crate) fn mark(&mut self, rev: u64) -> bool {
        if self.behind {
            return false;
        }
        self.behind = true;
        self.position = rev - 1;
        true
    }

    /// Makes it start over, and tells whether it was at the end until now.
    pub(crate) fn restart(&mut self) -> bool {
        self.stage = Stage::Reset;
        !std::mem::replace(&mut self.behind, true)
    }

    /// Tells what is to be told until the teller can take no more or nothing is left, which it
    /// returns.
    pub(crate) fn advance(&mut self, teller: &mut Teller<'_>) -> bool {
        let keyspace = teller.source.keyspace;
        if self.position < keyspace.floor() {
            self.stage = Stage::Reset;
        }
        if matches!(self.stage, Stage::Reset) {
            self.position = keyspace.rev();
            self.stage = Stage::Walk { after: None };
            self.owes_sync = true;
            self.met_after = self.position;
            EventLine::reset(teller.out, &self.id, teller.source.epoch, self.position);
            teller.source.counters.events += 1;
        }
        if !self.walk(teller) || !self.follow(teller) {
            if teller.wants.is_some() {
                // Another change of what there is no room for may make it smaller.
                teller.source.watch.wake(self.member);
            }
            return false;
        }
        if self.owes_sync {
            EventLine::sync(teller.out, &self.id, keyspace.rev());
            teller.source.counters.events += 1;
            self.owes_sync = false;
        }
        self.behind = false;
        let counted = teller.source.watch.wake(self.member);
        let met = counted - std::mem::replace(&mut self.counted, counted);
        let told = std::mem::take(&mut self.told);
        teller.source.counters.coalesced += met.saturating_sub(told);
        true
    }

    /// The first stage; true once it is over.
    fn walk(&mut self, teller: &mut Teller<'_>) -> bool {
        let Stage::Walk { after } = std::mem::replace(&mut self.stage, Stage::Follow) else {
            return true;
        };
        let keyspace = teller.source.keyspace;
        let mut last = None;
        for (key, entry) in keyspace.walk(&self.pattern, after.as_ref().map(Key::as_str)) {
            // What has changed since is told by following, in its place.
            let is_told = |entry: &Entry<'_>| {
                entry.rev <= self.position && teller.may_tell(entry.key.borrowed())
            };
            let is_held_up = match entry.filter(is_told) {
                Some(entry) => !teller.put(&self.id, &entry),
                None => false,
            };
            if !is_held_up {
                last = Some(key);
                teller.source.steps.take_key(key);
            }
            if is_held_up || teller.is_full() {
                self.stage = Stage::Walk {
                    after: last.or(after.as_ref()).cloned(),
                };
                return false;
            }
        }
        true
    }

    /// The second stage; true at the end of the index.
    fn follow(&mut self, teller: &mut Teller<'_>) -> bool {
        for (rev, change) in teller.source.keyspace.changes_after(self.position) {
            if teller.is_full() {
                return false;
            }
            let before = std::mem::replace(&mut self.position, rev);
            let Some(change) = change else {
                teller.source.steps.take(1);
                continue;
            };
            teller.source.steps.take_key(change.key);
            if !self.pattern.matches(change.key.borrowed()) {
                continue;
            }
            if !teller.may_tell(change.key.borrowed()) {
                self.told += u64::from(rev > self.met_after);
                continue;
            }
            match change.entry {
                Some(entry) => {
                    if !teller.put(&self.id, &entry) {
                        self.position = before;
                        return false;
                    }
                }
                None => teller.delete(&self.id, change.key, rev),
            }
            self.told += u64::from(rev > self.met_after);
            self.owes_sync |= self.cuts;
        }
        true
    }
}

impl Teller<'_> {
    pub(crate) fn is_full(&self) -> bool {
        self.large.is_some() || self.out.len() >= self.source.chunk || !self.source.steps.are_left()
    }

    fn may_tell(&self, key: KeyRef<'_>) -> bool {
        self.source.sees.is_none_or(|sees| sees(key))
    }

    /// Tells of an entry; false where it can't yet, because it is large and there is no room for it.
    #[must_use]
    fn put(&mut self, sub: &Id<'_>, entry: &Entry<'_>) -> bool {
        let (key, length) = (entry.key.as_str(), entry.value.len());
        if length > VALUE_BYTES_LARGE {
            if !self.put_large(sub, entry) {
                return false;
            }
        } else if length > VALUE_BYTES_KEPT {
            EventLine::put(self.out, sub, key, entry.value, entry.rev);
        } else {
            let end = self.source.recent.of(entry.rev, |out| {
                EventLine::put_end(out, key, entry.value, entry.rev);
            });
            self.out.reserve(SUB_BYTES + end.len());
            EventLine::begin(self.out, sub);
            self.out.extend_from_slice(end);
        }
        self.source.counters.events += 1;
        true
    }

    fn put_large(&mut self, sub: &Id<'_>, entry: &Entry<'_>) -> bool {
        let (key, bytes) = (entry.key.as_str(), entry.value.len());
        let make = || {
            let mut end = Vec::new();
            EventLine::put_end(&mut end, key, entry.value, entry.rev);
            end
        };
        let Source { larges, room, .. } = &mut self.source;
        let Some(mut large) = larges.hold(entry.rev, bytes, *room, make) else {
            let bytes = bytes as u64;
            self.wants = Some(self.wants.map_or(bytes, |wants| wants.min(bytes)));
            return false;
        };
        EventLine::begin(self.out, sub);
        large.at = self.out.len();
        *self.large = Some(large);
        true
    }

    fn delete(&mut self, sub: &Id<'_>, key: &Key, rev: u64) {
        EventLine::delete(self.out, sub, key.as_str(), rev);
        self.source.counters.events += 1;
    }
}
