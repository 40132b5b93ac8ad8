//! Strangers: who has come over TCP to a daemon with a token, and has not shown it yet.
//!
//! Whoever reaches the port can be one, so a stranger is given no more than it takes to say hello: some
//! seconds, short lines, a few tries, and one of a few places. One that has used up any of these is
//! **expelled**: what it has sent is dropped, and its connection is closed once it has been told why.
//! The few lines that it was answered with fit into any socket's buffer, so that is at once.
//!
//! All have the same patience, so they stand in a queue as they came. Whoever is first has the next
//! deadline; and whoever is first goes when somebody comes for whom there is no place. So connections
//! that only sit there keep nobody out who says hello at once. Turning away the newcomer would be
//! simpler, and a handful of silent connections could then shut the door for good.

use std::collections::VecDeque;

use crate::access::Resource;
use crate::keyspace::Time;
use crate::session::{Input, Skip};
use crate::wire::ErrorCode;

use super::{Broker, Refusal};

/// The longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 1024;
/// The longest line of a stranger, without its end. A hello with the longest token, name and id fits,
/// also in letters that are no ASCII and are escaped.
const LINE_BYTES_MAX: u64 = 4096;
/// How long one may take to show the token.
const PATIENCE_MS: u64 = 10_000;
/// How many lines may be refused before one is expelled.
const TRIES: u32 = 3;
/// One of so many places for clients can be a stranger's.
const CLIENTS_PER_STRANGER: u64 = 16;
/// So many are strangers' even if that is more, as long as others have as many: clients that start at the
/// same moment are not to be in each other's way.
const PLACES_MIN: u64 = 8;

/// Everyone who has yet to show the token, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Strangers(VecDeque<Stranger>);

#[derive(Debug)]
struct Stranger {
    session: usize,
    deadline: Time,
    tries: u32,
}

impl Strangers {
    /// When the next of them runs out of time.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.0.front().map(|stranger| stranger.deadline)
    }

    /// Says that a session is none, or none any more.
    pub(super) fn remove(&mut self, session: usize) {
        self.0.retain(|stranger| stranger.session != session);
    }
}

impl Broker {
    /// Whether a session was given up because it did not show the token.
    #[must_use]
    pub fn is_expelled(&self, session: usize) -> bool {
        self.sessions[session].expelled
    }

    /// The longest line that a session may send, without its end.
    pub(super) fn line_bytes_max(&self, session: usize) -> u64 {
        if self.sessions[session].authenticated {
            self.limits.message
        } else {
            self.limits.message.min(LINE_BYTES_MAX)
        }
    }

    /// Takes in a stranger, for whom another one may have to go.
    pub(super) fn take_in_stranger(&mut self, session: usize, now: Time) {
        let clients = self.limits.clients;
        let clients = clients.min(self.credits[session].quota(Resource::Connections));
        if self.strangers.0.len() as u64 >= places(clients)
            && let Some(first) = self.strangers.0.front()
        {
            let message = "too many others have connected and have not shown the token either";
            let refusal = Refusal::new(ErrorCode::Limit, message);
            self.expel(first.session, Some(&refusal));
        }
        self.strangers.0.push_back(Stranger {
            session,
            deadline: Time(now.0 + PATIENCE_MS),
            tries: TRIES,
        });
    }

    /// Expels those whose time is up.
    pub(super) fn expel_late(&mut self, now: Time) {
        while let Some(first) = self.strangers.0.front()
            && first.deadline <= now
        {
            let message = "the token has not been shown in time";
            let refusal = Refusal::new(ErrorCode::Unauthenticated, message);
            self.expel(first.session, Some(&refusal));
        }
    }

    /// Notes that a line has been answered; to a stranger it was refused.
    pub(super) fn take_try(&mut self, session: usize) {
        let mut strangers = self.strangers.0.iter_mut();
        if let Some(stranger) = strangers.find(|stranger| stranger.session == session) {
            stranger.tries -= 1;
            if stranger.tries == 0 {
                self.expel(session, None);
            }
        }
    }

    /// Drops a line that is not taken in, what is still to come of it included. A stranger has to go if
    /// it is too long.
    pub(super) fn skip_line(&mut self, session: usize, skip: Skip) {
        if skip == Skip::OverQuota || self.sessions[session].authenticated {
            self.sessions[session].input.skipping = Some(skip);
        } else {
            self.counters.requests += 1;
            let refusal = self.too_long(session);
            self.expel(session, Some(&refusal));
        }
    }

    pub(super) fn too_long(&self, session: usize) -> Refusal {
        let message = format!("a line has at most {} bytes", self.line_bytes_max(session));
        Refusal::new(ErrorCode::TooLarge, message)
    }

    /// Gives a session up if it is a stranger's.
    pub(super) fn expel_stranger(&mut self, session: usize) {
        if !self.sessions[session].authenticated {
            self.expel(session, None);
        }
    }

    /// Gives a stranger up, with a last word or after one.
    fn expel(&mut self, session: usize, last_word: Option<&Refusal>) {
        self.strangers.remove(session);
        if let Some(refusal) = last_word {
            self.refuse(session, None, refusal);
        }
        let state = &mut self.sessions[session];
        state.expelled = true;
        state.input = Input {
            ended: true,
            ..Input::default()
        };
        self.set_due(session);
    }
}

/// How many strangers there may be at a time among so many clients over TCP.
fn places(clients: u64) -> u64 {
    let few = PLACES_MIN.min(clients / 2).max(1);
    few.max(clients / CLIENTS_PER_STRANGER)
}
