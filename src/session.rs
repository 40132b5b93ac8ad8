//! One connection without its socket: lines in, bytes out, subscriptions with their positions.
//!
//! **In.** Bytes come in pieces of any size. A session owns bytes only while a line is unfinished,
//! or while lines wait because too many responses are unread; otherwise requests are taken straight
//! from the buffer that the socket was read into. A line over the limit is dropped as it comes and
//! only remembered as one that is skipped.
//!
//! **Out.** Responses are appended as requests are carried out. Events are made only when nothing
//! much is left to write ([`Session::fill`]): they are read from the keyspace at the subscription's
//! position at that moment, so there is no queue of events, and what a subscriber is behind costs
//! nothing. An idle session owns no buffer at all.
//!
//! A request that has to look at more of the keyspace than a turn allows leaves a [`Job`] behind.
//! Until it is done the connection's later requests wait; its events go on, because the response is
//! written in one piece at the end.

mod large;
mod recent;
mod subscription;

use std::collections::VecDeque;
use std::net::SocketAddr;

use slab::Slab;

use crate::key::{Key, Pattern};
use crate::keyspace::{Keyspace, Owner};
use crate::watch::Watch;
use crate::wire::Id;

use subscription::Teller;

pub(crate) use large::{Large, LargeEvents};
pub(crate) use recent::RecentEvents;
pub(crate) use subscription::{Sees, Start, Subscription};

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A Unix socket, and whom the kernel says it belongs to (`SO_PEERCRED`).
    Unix {
        /// The process that connected.
        pid: i32,
        /// Its effective user.
        uid: u32,
        /// Its effective group.
        gid: u32,
        /// Its other groups (`SO_PEERGROUPS`).
        groups: Vec<u32>,
    },
    /// A TCP socket and its remote address.
    Tcp(SocketAddr),
}

/// How much more a connection may do in this turn. Everything that takes time takes steps.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Steps {
    left: u32,
    /// What was taken, which may be more than there was: nothing stops in its middle.
    taken: u32,
}

/// A buffer for what is to be written is not made smaller than this.
const OUT_BYTES_KEPT: usize = 4 << 10;
/// A larger buffer does not become the spare one.
const SPARE_BYTES_MAX: usize = 16 << 10;
/// Looking at a key takes a step, and another one for so many of its bytes.
const KEY_BYTES_PER_STEP: usize = 16;

/// What the daemon has counted since its start. The names are those of `stats`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) requests: u64,
    pub(crate) puts: u64,
    pub(crate) gets: u64,
    pub(crate) deletes: u64,
    pub(crate) events: u64,
    pub(crate) coalesced: u64,
    pub(crate) errors: u64,
}

/// The state of one connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) peer: Peer,
    /// Who `session` entries of this connection belong to.
    pub(crate) owner: Owner,
    /// The name given in `hello`.
    pub(crate) name: Option<Box<str>>,
    /// Whether it may do more than say hello.
    pub(crate) authenticated: bool,
    /// Whether it was given up before that.
    pub(crate) expelled: bool,
    /// Whether nobody is there any more to read what is written.
    pub(crate) gone: bool,
    /// Whether the server has been told that there is something to write.
    pub(crate) due: bool,
    pub(crate) input: Input,
    pub(crate) out: Vec<u8>,
    /// How much of `out` is written.
    sent: usize,
    /// A large event, which belongs in the middle of `out`.
    large: Option<Large>,
    /// Whether it waits for memory, to be told of a large value.
    pub(crate) starved: bool,
    pub(crate) job: Option<Box<Job>>,
    pub(crate) subscriptions: Slab<Subscription>,
    /// The subscriptions that have something to tell, in the order of their turns.
    behind: VecDeque<usize>,
}

/// What events are made of, and how much of it at most.
pub(crate) struct Source<'a> {
    pub(crate) keyspace: &'a Keyspace,
    pub(crate) watch: &'a mut Watch,
    /// Names what is to be seen: the history, and the rules under which this is told.
    pub(crate) epoch: &'a str,
    /// How many bytes of events may be pending, about.
    pub(crate) chunk: usize,
    pub(crate) steps: &'a mut Steps,
    pub(crate) recent: &'a mut RecentEvents,
    pub(crate) counters: &'a mut Counters,
    /// Tells of a key whether it may be seen; without it all may. Of others nothing is told.
    pub(crate) sees: Option<&'a Sees<'a>>,
    /// The large events that the session's user holds, and how many more bytes of them it may hold.
    pub(crate) larges: &'a mut LargeEvents,
    pub(crate) room: u64,
    /// A buffer for whoever has none.
    pub(crate) spare: &'a mut Vec<u8>,
}

/// What has come in and is not carried out.
#[derive(Debug, Default)]
pub(crate) struct Input {
    pub(crate) bytes: Vec<u8>,
    /// How much of `bytes` is known to have no line end.
    pub(crate) searched: usize,
    /// Why the rest of a line is being dropped, if it is.
    pub(crate) skipping: Option<Skip>,
    /// Whether no more will come.
    pub(crate) ended: bool,
}

/// Why a line is not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Skip {
    /// It is longer than the limit.
    TooLong,
    /// Its user holds too much already.
    OverQuota,
}

/// A request that goes on in the next turn.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) id: Option<Id<'static>>,
    pub(crate) pattern: Pattern,
    /// The last key that was looked at.
    pub(crate) after: Option<Key>,
    pub(crate) task: Task,
}

/// What a [`Job`] does with each key that matches.
#[derive(Clone, Debug)]
pub(crate) enum Task {
    List(Listing),
    Delete(Deletion),
}

/// A page of a list while it is gathered.
#[derive(Clone, Debug)]
pub(crate) struct Listing {
    pub(crate) keys_only: bool,
    /// How many entries may still be added.
    pub(crate) left: u64,
    /// The keyspace's revision when it was asked for.
    pub(crate) rev: u64,
    /// The elements so far, with commas between them.
    pub(crate) entries: Vec<u8>,
    /// Whether there are entries beyond the page.
    pub(crate) more: bool,
}

/// A deletion by pattern while it goes on.
#[derive(Clone, Debug)]
pub(crate) struct Deletion {
    pub(crate) deleted: u64,
    /// The revision of the last deletion, or the keyspace's when it was asked for.
    pub(crate) rev: u64,
}

impl Steps {
    pub(crate) fn new(steps: u32) -> Steps {
        Steps {
            left: steps,
            taken: 0,
        }
    }

    pub(crate) fn take(&mut self, steps: u32) {
        self.left = self.left.saturating_sub(steps);
        self.taken = self.taken.saturating_add(steps);
    }

    /// Takes what a look at a key takes: long ones are longer to be compared with patterns.
    pub(crate) fn take_key(&mut self, key: &Key) {
        let pieces = key.as_str().len() / KEY_BYTES_PER_STEP;
        self.take(1 + u32::try_from(pieces).unwrap_or(u32::MAX));
    }

    pub(crate) fn are_left(self) -> bool {
        self.left > 0
    }

    pub(crate) fn left(self) -> u32 {
        self.left
    }

    pub(crate) fn taken(self) -> u32 {
        self.taken
    }
}

impl Job {
    /// How many bytes it has gathered.
    pub(crate) fn gathered(&self) -> usize {
        match &self.task {
            Task::List(listing) => listing.entries.len(),
            Task::Delete(_) => 0,
        }
    }
}

impl Session {
    pub(crate) fn new(peer: Peer, owner: Owner, authenticated: bool) -> Session {
        Session {
            peer,
            owner,
            name: None,
            authenticated,
            expelled: false,
            gone: false,
            due: false,
            input: Input::default(),
            out: Vec::new(),
            sent: 0,
            large: None,
            starved: false,
            job: None,
            subscriptions: Slab::new(),
            behind: VecDeque::new(),
        }
    }

    /// The bytes to be written next: what is made and not written, or the beginning of it.
    pub(crate) fn pending(&self) -> &[u8] {
        match &self.large {
            Some(large) if self.sent == large.at => large.left(),
            Some(large) => &self.out[self.sent..large.at],
            None => &self.out[self.sent..],
        }
    }

    /// How many bytes are made and not written.
    pub(crate) fn pending_bytes(&self) -> usize {
        let large = self.large.as_ref().map_or(0, |large| large.left().len());
        self.out.len() - self.sent + large
    }

    /// Notes that so many of the pending bytes are written, and returns the large event that they have
    /// ended. The buffer becomes the spare one when nothing is left, or goes. What is written goes when it is
    /// most of the buffer: a client that reads steadily but never all would otherwise make it grow for ever.
    #[must_use]
    pub(crate) fn sent(&mut self, bytes: usize, spare: &mut Vec<u8>) -> Option<Large> {
        assert!(
            bytes <= self.pending().len(),
            "no more can be written than there was"
        );
        if let Some(large) = &mut self.large
            && self.sent == large.at
        {
            large.take(bytes);
            return self.large.take_if(|large| large.left().is_empty());
        }
        self.sent += bytes;
        if self.sent > self.out.len() / 2 {
            self.drop_sent(spare);
        }
        None
    }

    /// Has a buffer that can hold so many bytes, made of the spare one where it had none.
    pub(crate) fn provide(&mut self, bytes: usize, spare: &mut Vec<u8>) {
        if self.out.capacity() == 0 {
            self.out = std::mem::take(spare);
            self.out.reserve(bytes);
        }
    }

    /// Throws away what is pending, and returns the large event among it.
    #[must_use]
    pub(crate) fn discard(&mut self) -> Option<Large> {
        self.out = Vec::new();
        self.sent = 0;
        self.large.take()
    }

    /// Whether a subscription has something to tell.
    pub(crate) fn is_behind(&self) -> bool {
        !self.behind.is_empty()
    }

    /// Makes events until about `chunk` bytes are pending, steps are used up, or all is told. Where there
    /// is no room for a large one it is starved, and the number of bytes that it wants is returned.
    pub(crate) fn fill(&mut self, source: Source<'_>) -> Option<u64> {
        if self.behind.is_empty() || self.pending_bytes() >= source.chunk || self.large.is_some() {
            return None;
        }
        self.drop_sent(source.spare);
        self.provide(0, source.spare);
        let mut teller = Teller {
            source,
            out: &mut self.out,
            large: &mut self.large,
            wants: None,
        };
        // One that is not done has made it full, or wants what there is no room for.
        for _ in 0..self.behind.len() {
            if teller.is_full() {
                return None;
            }
            let number = self.behind.pop_front();
            let number = number.expect("there are as many as there were");
            if !self.subscriptions[number].advance(&mut teller) {
                self.behind.push_back(number);
            }
        }
        teller.wants.filter(|_| !teller.is_full())
    }

    /// Adds a subscription, which then has something to tell: at least its `sync`. It has the number that
    /// was the next one.
    pub(crate) fn subscribe(&mut self, subscription: Subscription) {
        let number = self.subscriptions.insert(subscription);
        self.behind.push_back(number);
    }

    /// The number of the next subscription.
    pub(crate) fn next_number(&self) -> usize {
        self.subscriptions.vacant_key()
    }

    /// The number of the subscription with this id.
    pub(crate) fn subscription(&self, id: &Id<'_>) -> Option<usize> {
        let id = id.canonical();
        let mut all = self.subscriptions.iter();
        all.find_map(|(number, subscription)| (*subscription.id() == id).then_some(number))
    }

    /// Makes all subscriptions start over: what they may see has changed.
    pub(crate) fn restart_subscriptions(&mut self) {
        for (number, subscription) in &mut self.subscriptions {
            if subscription.restart() {
                self.behind.push_back(number);
            }
        }
    }

    /// Ends a subscription. What it has written already stands before the response.
    pub(crate) fn unsubscribe(&mut self, number: usize) -> Subscription {
        self.behind.retain(|candidate| *candidate != number);
        self.subscriptions.remove(number)
    }

    /// Tells a subscription that a key it covers has changed at this revision.
    pub(crate) fn mark(&mut self, number: usize, rev: u64) {
        if self.subscriptions[number].mark(rev) {
            self.behind.push_back(number);
        }
    }

    /// How many revisions its slowest subscription is behind.
    pub(crate) fn lag(&self, keyspace: &Keyspace) -> u64 {
        let positions = self
            .behind
            .iter()
            .map(|&number| self.subscriptions[number].position());
        positions
            .min()
            .map_or(0, |position| keyspace.rev() - position)
    }

    /// A buffer does not stay when nothing is left in it, and a large one not for a little. Of those that are
    /// written to in a turn, one after the other mostly needs a buffer for a moment: the same one will do.
    fn drop_sent(&mut self, spare: &mut Vec<u8>) {
        if let Some(large) = &mut self.large {
            large.at -= self.sent;
        }
        self.out.drain(..self.sent);
        self.sent = 0;
        let needed = self.out.len().max(OUT_BYTES_KEPT);
        if self.out.is_empty() {
            let buffer = std::mem::take(&mut self.out);
            if buffer.capacity() > spare.capacity() && buffer.capacity() <= SPARE_BYTES_MAX {
                *spare = buffer;
            }
        } else if self.out.capacity() / 4 > needed {
            self.out.shrink_to(needed);
        }
    }

    /// Whether nothing of what has come in, and nothing of what was made of it, is left.
    pub(crate) fn is_drained(&self) -> bool {
        self.input.ended
            && self.input.bytes.is_empty()
            && self.input.skipping.is_none()
            && self.job.is_none()
            && self.pending_bytes() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        Peer::Unix {
            pid: 1,
            uid: 1,
            gid: 1,
            groups: Vec::new(),
        }
    }

    /// A client that reads as much as it is answered, but is always one answer behind.
    #[test]
    fn what_is_written_does_not_pile_up() {
        let mut session = Session::new(peer(), Owner(1), true);
        let answer = |number: usize| format!("{number:1000}").into_bytes();
        session.out.extend(answer(0));
        for number in 1..1000 {
            session.out.extend(answer(number));
            assert_eq!(session.pending()[..1000], answer(number - 1));
            assert!(session.sent(1000, &mut Vec::new()).is_none());
            assert!(session.out.len() <= 4000, "{} bytes", session.out.len());
        }
        assert_eq!(session.pending(), answer(999));
        assert!(session.sent(1000, &mut Vec::new()).is_none());
        assert_eq!(session.out.capacity(), 0);
    }

    /// One that reads a large answer up to the last few bytes.
    #[test]
    fn what_is_left_of_a_large_answer_is_held_alone() {
        let mut session = Session::new(peer(), Owner(1), true);
        session.out = vec![b'x'; 1 << 20];
        while session.pending().len() > 1000 {
            let some = session.pending().len().min(10_000) - 500;
            assert!(session.sent(some, &mut Vec::new()).is_none());
            let (left, held) = (session.pending().len(), session.out.capacity());
            assert!(held <= 8 * left.max(OUT_BYTES_KEPT), "{left} in {held}");
        }
        assert!(session.out.capacity() <= 4 * OUT_BYTES_KEPT);
    }
}
