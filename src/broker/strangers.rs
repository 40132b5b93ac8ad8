//! Strangers: who has come over TCP to a daemon with a token, and has not shown it yet.
//!
//! Whoever reaches the port can be one, so a stranger is given no more than it takes to say hello: some
//! seconds, short lines, a few tries, and one of a few places. One that has used up any of these is
//! **dismissed**: what it has sent is dropped, and its connection is closed once it has been told why.
//! The few lines that it was answered with fit into any socket's buffer, so that is at once.
//!
//! All have the same patience, so they stand in a queue as they came. Whoever is first has the next
//! deadline; and whoever is first goes when somebody comes for whom there is no place. So connections
//! that only sit there keep nobody out who says hello at once. Turning away the newcomer would be
//! simpler, and a handful of silent connections could then shut the door for good.

use std::collections::VecDeque;

use crate::keyspace::Time;
use crate::wire::{ErrorCode, Limits};

use super::{Broker, Refusal};

/// The longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 1024;
/// The longest line of a stranger, without its end. A hello with the longest token, name and id fits,
/// also in letters that are no ASCII and are escaped.
const LINE_BYTES_MAX: u64 = 4096;
/// How long one may take to show the token.
const PATIENCE_MS: u64 = 10_000;
/// How many lines may be refused before one is dismissed.
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
    pub fn is_dismissed(&self, session: usize) -> bool {
        self.sessions[session].dismissed
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
        if self.strangers.0.len() as u64 >= places(&self.limits)
            && let Some(first) = self.strangers.0.front()
        {
            let message = "too many others have connected and have not shown the token either";
            self.dismiss(first.session, Some((ErrorCode::Limit, message)));
        }
        self.strangers.0.push_back(Stranger {
            session,
            deadline: Time(now.0 + PATIENCE_MS),
            tries: TRIES,
        });
    }

    /// Dismisses those whose time is up.
    pub(super) fn dismiss_late(&mut self, now: Time) {
        while let Some(first) = self.strangers.0.front()
            && first.deadline <= now
        {
            let message = "the token has not been shown in time";
            self.dismiss(first.session, Some((ErrorCode::Unauthenticated, message)));
        }
    }

    /// Notes that a line has been answered; to a stranger it was refused.
    pub(super) fn take_try(&mut self, session: usize) {
        let mut strangers = self.strangers.0.iter_mut();
        if let Some(stranger) = strangers.find(|stranger| stranger.session == session) {
            stranger.tries -= 1;
            if stranger.tries == 0 {
                self.dismiss(session, None);
            }
        }
    }

    /// Drops a line that has become too long, what is still to come of it included. A stranger has to
    /// go for it.
    pub(super) fn skip_line(&mut self, session: usize) {
        if self.sessions[session].authenticated {
            self.sessions[session].input.skipping = true;
        } else {
            self.counters.requests += 1;
            self.refuse_line(session);
        }
    }

    /// Answers a line that was too long.
    pub(super) fn refuse_line(&mut self, session: usize) {
        let message = format!("a line has at most {} bytes", self.line_bytes_max(session));
        if self.sessions[session].authenticated {
            self.refuse(session, None, &Refusal::new(ErrorCode::TooLarge, message));
        } else {
            self.dismiss(session, Some((ErrorCode::TooLarge, &message)));
        }
    }

    /// Gives a stranger up, with a last word or after one.
    fn dismiss(&mut self, session: usize, last_word: Option<(ErrorCode, &str)>) {
        self.strangers.remove(session);
        if let Some((code, message)) = last_word {
            self.refuse(session, None, &Refusal::new(code, message));
        }
        let state = &mut self.sessions[session];
        state.dismissed = true;
        state.input.bytes = Vec::new();
        state.input.searched = 0;
        state.input.ended = true;
        self.set_due(session);
    }
}

/// How many strangers there may be at a time.
fn places(limits: &Limits) -> u64 {
    let few = PLACES_MIN.min(limits.clients / 2).max(1);
    few.max(limits.clients / CLIENTS_PER_STRANGER)
}
