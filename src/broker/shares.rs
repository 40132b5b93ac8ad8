//! What one user may have of a turn, however many connections it comes with: so that a turn is short, and
//! who asks little is served in each.
//!
//! A user has so many steps for its requests, and so many steps and bytes for what it is written. What is
//! left over waits for the next turn and comes first there. Where a turn takes long already, a user that
//! has had anything of it gets nothing more.

use crate::session::Steps;

use super::{Broker, STEPS_PER_TURN};

/// How many steps a user has a turn for requests, and as many for events.
const USER_STEPS_PER_TURN: u32 = 4 * STEPS_PER_TURN;
/// How many bytes a user is written a turn.
const USER_BYTES_PER_TURN: usize = 4 << 20;
/// How many bytes are written to one connection a turn.
const BYTES_PER_TURN: usize = 256 << 10;
/// Who takes no more than this takes next to no time.
const BYTES_LITTLE: usize = 4 << 10;
const STEPS_LITTLE: u32 = 64;
/// A step is taken for so many bytes that have come in.
const BYTES_PER_STEP: usize = 256;
/// A step is taken for so many bytes of a line that is carried out.
const LINE_BYTES_PER_STEP: usize = 64;

/// What a connection may still be given in one turn's delivery. [`Broker::share`] gives it, and
/// [`Broker::end_share`] takes back what is left.
#[derive(Clone, Copy, Debug, Default)]
pub struct Share {
    pub(super) bytes: usize,
    pub(super) steps: Steps,
}

/// What a user has left of a turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Left {
    pub(super) turn: u64,
    requests: u32,
    delivery: Share,
}

impl Left {
    pub(super) fn all_of(turn: u64) -> Left {
        Left {
            turn,
            requests: USER_STEPS_PER_TURN,
            delivery: Share {
                bytes: USER_BYTES_PER_TURN,
                steps: Steps::new(USER_STEPS_PER_TURN),
            },
        }
    }
}

impl Share {
    /// Whether little has been taken of it where this is left.
    #[must_use]
    pub fn is_little(self, left: Share) -> bool {
        self.bytes - left.bytes <= BYTES_LITTLE
            && self.steps.left() - left.steps.left() <= STEPS_LITTLE
    }

    fn is_untouched(self) -> bool {
        self.bytes == USER_BYTES_PER_TURN && self.steps.left() == USER_STEPS_PER_TURN
    }
}

impl Broker {
    /// Whether a connection's user has something left of this turn for requests. Otherwise it waits for
    /// the next, and nothing is to be read for it. `is_late` is asked where that user has had some of the
    /// turn already.
    #[must_use]
    pub fn may_ask(&mut self, session: usize, is_late: impl FnOnce() -> bool) -> bool {
        let left = self.ledger.left(&self.credits[session]).requests;
        left > 0 && (left == USER_STEPS_PER_TURN || !is_late())
    }

    /// The steps that a session has for its requests in this turn.
    pub(super) fn begin_requests(&mut self, session: usize) -> Steps {
        self.extra.set(0);
        self.look_whether_over(session);
        let left = self.ledger.left(&self.credits[session]).requests;
        Steps::new(left.min(STEPS_PER_TURN))
    }

    /// Ends what [`Broker::begin_requests`] began: `taken` steps are used.
    pub(super) fn end_requests(&mut self, session: usize, taken: u32) {
        let left = &mut self.ledger.left(&self.credits[session]).requests;
        *left = left.saturating_sub(taken);
        self.charge(session);
    }

    /// What a connection may be given in this turn's delivery; nothing where its user has had its share,
    /// and the connection waits for the next turn ([`Broker::wait`]). `is_late` is asked where that user
    /// has been given something in this turn already.
    pub fn share(&mut self, session: usize, is_late: impl FnOnce() -> bool) -> Option<Share> {
        let left = self.ledger.left(&self.credits[session]).delivery;
        let is_some = left.bytes > 0 && left.steps.are_left();
        (is_some && (left.is_untouched() || !is_late())).then(|| Share {
            bytes: left.bytes.min(BYTES_PER_TURN),
            steps: Steps::new(left.steps.left().min(STEPS_PER_TURN)),
        })
    }

    /// Says what is left of a share: the rest is charged to the turn.
    pub fn end_share(&mut self, session: usize, given: Share, left: Share) {
        let delivery = &mut self.ledger.left(&self.credits[session]).delivery;
        let bytes = given.bytes - left.bytes;
        delivery.bytes = delivery.bytes.saturating_sub(bytes);
        delivery.steps.take(given.steps.left() - left.steps.left());
    }

    /// Puts sessions that have had nothing in this turn before all others of the next.
    pub fn wait(&mut self, sessions: &mut Vec<usize>) {
        sessions.retain(|&session| !std::mem::replace(&mut self.sessions[session].due, true));
        sessions.append(&mut self.due);
        std::mem::swap(sessions, &mut self.due);
    }
}

/// The steps that taking in so many bytes takes.
pub(super) fn steps_of(bytes: usize) -> u32 {
    u32::try_from(1 + bytes / BYTES_PER_STEP).unwrap_or(u32::MAX)
}

/// The steps that reading a line takes, and doing with its value whatever is to be done.
pub(super) fn steps_to_read(bytes: usize) -> u32 {
    u32::try_from(bytes / LINE_BYTES_PER_STEP).unwrap_or(u32::MAX)
}
