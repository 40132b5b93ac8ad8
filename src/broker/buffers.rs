//! The memory that a user's connections hold: unfinished requests, lists that are being gathered, answers
//! and events that are unread.
//!
//! All of it is charged to the user. With more than the quota allows, its requests are refused and its
//! unfinished lines are not taken in. Events are made all the same while they are small, so that each
//! connection gets on. An event of a large value counts once, however many of the user's subscribers are in
//! the middle of it; where there is no room for one, whoever is to be told of it waits until there is.
//!
//! A connection's first few kilobytes are not charged: almost every one stays within them, and then there
//! is nothing to be counted.

use std::collections::BTreeSet;

use crate::access::{Action, Resource};
use crate::key::KeyRef;
use crate::session::{Large, LargeEvents, Sees, Session, Source};

use super::{Broker, EVENT_CHUNK_BYTES, Refusal, Share};

/// How many bytes a connection may hold without their being charged.
const FREE_BYTES: u64 = 4 << 10;

/// What one user's connections hold.
#[derive(Debug, Default)]
pub(super) struct Buffered {
    /// What is charged to one connection or another.
    charged: u64,
    larges: LargeEvents,
    /// Sessions that are to be told of a large value when there is room for it.
    starved: BTreeSet<usize>,
    /// With no more than this held, one of them can be.
    enough: u64,
}

impl Buffered {
    pub(super) fn bytes(&self) -> u64 {
        self.charged + self.larges.bytes()
    }

    /// Forgets a session that has been charged so much.
    pub(super) fn forget(&mut self, number: usize, charged: u64, state: &mut Session) {
        self.charged -= charged;
        self.starved.remove(&number);
        if let Some(large) = state.discard() {
            self.larges.let_go(large);
        }
    }

    fn recharge(&mut self, from: u64, to: u64) {
        self.charged = self.charged - from + to;
    }

    fn starve(&mut self, number: usize, enough: u64) {
        self.enough = match self.starved.is_empty() {
            true => enough,
            false => self.enough.max(enough),
        };
        self.starved.insert(number);
    }

    /// Those that can try again, if any.
    fn take_fed(&mut self) -> BTreeSet<usize> {
        if self.bytes() <= self.enough || self.larges.bytes() == 0 {
            std::mem::take(&mut self.starved)
        } else {
            BTreeSet::new()
        }
    }
}

impl Broker {
    /// Charges what a session holds beyond what is free.
    pub(super) fn charge(&mut self, session: usize) {
        let now = held_bytes(&self.sessions[session]).saturating_sub(FREE_BYTES);
        let credit = &mut self.credits[session];
        let before = std::mem::replace(&mut credit.charged, now);
        if now != before {
            let place = credit.place;
            self.ledger.at(place).buffered.recharge(before, now);
            self.feed(place);
        }
    }

    /// Looks whether a session's user holds too much for requests to be taken in this turn.
    pub(super) fn look_whether_over(&mut self, session: usize) {
        let credit = &mut self.credits[session];
        let held = self.ledger.at(credit.place).buffered.bytes();
        credit.is_over = held > credit.quota(Resource::Buffered);
    }

    /// Refuses a request of a session whose user holds too much already.
    pub(super) fn check_buffered(&self, session: usize) -> Result<(), Refusal> {
        if self.credits[session].is_over {
            Err(self.over_buffered(session))
        } else {
            Ok(())
        }
    }

    pub(super) fn over_buffered(&self, session: usize) -> Refusal {
        let credit = &self.credits[session];
        let used = self.ledger.look(credit).buffered.bytes();
        credit.refusal(Resource::Buffered, used)
    }

    /// Whether a session's user may hold so many more bytes of an unfinished line.
    pub(super) fn may_buffer(&self, session: usize, bytes: usize) -> bool {
        let charge = (bytes as u64).saturating_sub(FREE_BYTES);
        if charge == 0 {
            return true;
        }
        let credit = &self.credits[session];
        let others = self.ledger.look(credit).buffered.bytes() - credit.charged;
        others + charge <= credit.quota(Resource::Buffered)
    }

    /// Makes events for a session, as far as its share of the turn allows and there is room for them.
    pub(super) fn make_events(&mut self, session: usize, share: &mut Share) {
        let credit = &self.credits[session];
        let quota = credit.quota(Resource::Buffered);
        let held = &mut self.ledger.at(credit.place).buffered;
        let room = quota.checked_sub(held.bytes());
        let grants = self.grants[session].as_ref();
        let sees = grants.map(|grants| |key: KeyRef<'_>| grants.allow(Action::Read, key));
        let state = &mut self.sessions[session];
        let wants = state.fill(Source {
            keyspace: &self.keyspace,
            watch: &mut self.watch,
            epoch: &self.epoch,
            // Each connection gets on by an event at least, whatever others of its user hold.
            chunk: room.map_or(1, |_| EVENT_CHUNK_BYTES),
            steps: &mut share.steps,
            recent: &mut self.recent,
            counters: &mut self.counters,
            sees: sees.as_ref().map(|sees| sees as &Sees<'_>),
            larges: &mut held.larges,
            room: room.unwrap_or(0),
            spare: &mut self.spare,
        });
        if let Some(bytes) = wants {
            held.starve(session, quota.saturating_sub(bytes));
        } else if state.starved {
            held.starved.remove(&session);
        }
        state.starved = wants.is_some();
        self.charge(session);
    }

    /// Takes a large event back that a session has read, or will not read.
    pub(super) fn take_back(&mut self, session: usize, large: Large) {
        let place = self.credits[session].place;
        self.ledger.at(place).buffered.larges.let_go(large);
        self.feed(place);
    }

    /// Lets those sessions of a user try again that have waited for room, if there is some.
    pub(super) fn feed(&mut self, place: usize) {
        let buffered = &mut self.ledger.at(place).buffered;
        if buffered.starved.is_empty() {
            return;
        }
        for session in buffered.take_fed() {
            self.sessions[session].starved = false;
            self.set_due(session);
        }
    }
}

/// How many bytes a session holds alone.
fn held_bytes(session: &Session) -> u64 {
    let job = session.job.as_ref().map_or(0, |job| job.gathered());
    (session.input.bytes.len() + session.out.len() + job) as u64
}
