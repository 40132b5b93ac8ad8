//! Carrying out a turn again, after storage has not taken it.
//!
//! A change counts when it is written down, and only then anyone may hear of it. So when that fails,
//! the turn must not have happened: the keyspace goes back to where the turn began, and every request
//! that depends on it is carried out again, now with those refused that can't be kept. Its response
//! takes the place of the one that was made at first. Responses of other requests stay, and so do
//! subscriptions: a position is a revision, and none is given twice.
//!
//! For that, the lines of such requests are kept until the commit, from the turn's first write on:
//! until then everything that is read is committed. A write that has changed nothing counts, too:
//! whatever a session has carried out after it is carried out again. Where commits can't fail nothing is
//! kept.

use std::collections::HashMap;
use std::ops::Range;

use crate::keyspace::Time;
use crate::session::{Counters, Job, Steps};
use crate::wire::{Op, Request};

use super::Broker;

/// What a turn has carried out, in its order.
#[derive(Debug, Default)]
pub(super) struct Carried {
    items: Vec<Item>,
    lines: Vec<u8>,
    /// What was counted before the first of them.
    counted: Counters,
}

/// A buffer of lines larger than this is given back after use.
const LINES_BYTES_KEPT: usize = 64 << 10;

#[derive(Debug)]
struct Item {
    session: usize,
    /// How many times it was refused.
    refusals: u64,
    /// Where its response stands among what the session has to write; empty if there is none yet.
    response: Range<usize>,
    what: What,
}

#[derive(Debug)]
enum What {
    /// A line of input, as a part of [`Carried::lines`].
    Line(Range<usize>),
    /// What an earlier turn has left over, as it was then.
    Job(Box<Job>),
}

/// What a session has to write, as it was before, and how much of it stands again.
struct Before {
    bytes: Vec<u8>,
    start: usize,
    done: usize,
}

impl Carried {
    pub(super) fn clear(&mut self) {
        self.items.clear();
        self.lines.clear();
        self.lines.shrink_to(LINES_BYTES_KEPT);
    }
}

impl Broker {
    /// Undoes what the turn has changed and carries it out again. To be called where a commit has
    /// failed, after [`Broker::set_storage`] has said what can be written.
    pub fn redo(&mut self, now: Time) {
        assert!(self.can_redo, "a storage that can fail has said so");
        self.keyspace.roll_back();
        let Carried {
            items,
            lines,
            counted,
        } = std::mem::take(&mut self.carried);
        self.counters.puts = counted.puts;
        self.counters.gets = counted.gets;
        self.counters.deletes = counted.deletes;
        let mut before: HashMap<usize, Before> = HashMap::new();
        for item in &items {
            before.entry(item.session).or_insert_with(|| {
                let state = &mut self.sessions[item.session];
                // Whatever it has to do yet was left by this turn, which does it again.
                state.job = None;
                let start = item.response.start;
                Before {
                    bytes: state.out.split_off(start),
                    start,
                    done: 0,
                }
            });
        }
        for item in items {
            let session = item.session;
            let before = before.get_mut(&session).expect("each has been taken in");
            let kept = item.response.start - before.start;
            let out = &mut self.sessions[session].out;
            out.extend_from_slice(&before.bytes[before.done..kept]);
            before.done = item.response.end - before.start;
            self.counters.errors -= item.refusals;
            self.carry_out_again(session, item.what, &lines, now);
        }
        for (session, before) in before {
            let rest = &before.bytes[before.done..];
            self.sessions[session].out.extend_from_slice(rest);
            self.charge(session);
            self.set_due(session);
        }
    }

    /// Keeps a request's line if it may have to be carried out again, and returns where.
    pub(super) fn note(&mut self, session: usize, op: &Op<'_>, line: &[u8]) -> Option<usize> {
        if !self.can_redo {
            return None;
        }
        let reads = matches!(op, Op::Get(_) | Op::Stats);
        let writes = matches!(
            op,
            Op::Put(_) | Op::Delete(_) | Op::Batch { .. } | Op::Claim { .. } | Op::Release { .. }
        );
        // What was refused for want of a token is not to be judged again: the token may have come since.
        let is_judged = self.sessions[session].authenticated;
        let depends = writes || (reads && !self.carried.items.is_empty());
        if !is_judged || !depends {
            return None;
        }
        let start = self.carried.lines.len();
        self.carried.lines.extend_from_slice(line);
        let line = start..self.carried.lines.len();
        Some(self.note_item(session, What::Line(line)))
    }

    /// Keeps what a session has left over, before it goes on.
    pub(super) fn note_job(&mut self, session: usize, job: &Job) -> Option<usize> {
        self.can_redo
            .then(|| self.note_item(session, What::Job(Box::new(job.clone()))))
    }

    /// Says that what was noted has been carried out.
    pub(super) fn noted(&mut self, session: usize, noted: Option<usize>) {
        if let Some(at) = noted {
            let item = &mut self.carried.items[at];
            item.response.end = self.sessions[session].out.len();
            item.refusals = self.counters.errors - item.refusals;
        }
    }

    fn note_item(&mut self, session: usize, what: What) -> usize {
        if self.carried.items.is_empty() {
            self.carried.counted = self.counters;
        }
        let start = self.sessions[session].out.len();
        self.carried.items.push(Item {
            session,
            // The difference is taken when it is done.
            refusals: self.counters.errors,
            response: start..start,
            what,
        });
        self.carried.items.len() - 1
    }

    fn carry_out_again(&mut self, session: usize, what: What, lines: &[u8], now: Time) {
        // All of it at once: it was bounded when it was carried out at first.
        let mut steps = Steps::new(u32::MAX);
        match what {
            What::Line(line) => {
                let line = &lines[line];
                let request = Request::parse(line).expect("it was a request before");
                let noted = self.note(session, &request.op, line);
                self.request(session, request, &mut steps, now);
                self.noted(session, noted);
            }
            What::Job(job) => {
                let noted = self.note_job(session, &job);
                self.go_on(session, job, &mut steps, now);
                self.noted(session, noted);
            }
        }
    }
}
