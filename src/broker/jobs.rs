//! Requests that look at many keys: lists and deletions by pattern, a turn's worth at a time.
//!
//! A [`Job`] remembers the last key that it has looked at and what it has gathered. Between two turns
//! others have theirs, so a list is no snapshot and a deletion is not atomic; what that means to
//! clients is told in `docs/protocol.md`. The response is written in one piece when the job is done.

use crate::access::Action;
use crate::key::{Key, Pattern};
use crate::keyspace::{Class, Entry, Time};
use crate::session::{Deletion, Job, Listing, Steps, Task};
use crate::wire::Reply;

use super::ops::with_terms;
use super::{Broker, Refusal};

/// How many keys a deletion finds before it deletes them: the walk borrows the keyspace.
const DELETED_AT_ONCE: usize = 256;
/// What a deletion takes besides the look at the key.
const STEPS_PER_DELETION: u32 = 8;

impl Broker {
    /// Does a turn's worth of a job, and answers it when it is done.
    pub(super) fn go_on(
        &mut self,
        session: usize,
        mut job: Box<Job>,
        steps: &mut Steps,
        now: Time,
    ) {
        if self.sessions[session].gone && matches!(job.task, Task::List(_)) {
            return;
        }
        let Job {
            pattern,
            after,
            task,
            ..
        } = &mut *job;
        let is_done = match task {
            Task::List(listing) => self
                .check_listing(session, listing)
                .map(|()| self.list_on(session, pattern, after, listing, steps, now)),
            Task::Delete(deletion) => self.delete_on(session, pattern, after, deletion, steps),
        };
        match is_done {
            Ok(false) => return self.sessions[session].job = Some(job),
            Ok(true) => self.answer(session, *job),
            Err(refusal) => self.refuse(session, job.id.as_ref(), &refusal),
        }
        self.set_due(session);
    }

    /// Refuses to go on with a list of a user who holds too much meanwhile: many that are begun at the
    /// same time hold nothing at first.
    fn check_listing(&self, session: usize, listing: &Listing) -> Result<(), Refusal> {
        if listing.entries.is_empty() {
            Ok(())
        } else {
            self.check_buffered(session)
        }
    }

    /// Gathers entries while there are steps; true when the page is full or the walk is over.
    fn list_on(
        &self,
        session: usize,
        pattern: &Pattern,
        after: &mut Option<Key>,
        listing: &mut Listing,
        steps: &mut Steps,
        now: Time,
    ) -> bool {
        let bytes_max = usize::try_from(self.limits.message).unwrap_or(usize::MAX);
        let from = after.take();
        for (key, entry) in self.keyspace.walk(pattern, from.as_ref().map(Key::as_str)) {
            let sees = |entry: &Entry<'_>| self.may(session, Action::Read, entry.key.borrowed());
            if let Some(entry) = entry.filter(sees) {
                let before = listing.entries.len();
                if listing.left > 0 {
                    append(&mut listing.entries, &entry, listing.keys_only, now);
                }
                // The first entry goes out however large it is, so that every page gets further.
                if listing.left == 0 || (before > 0 && listing.entries.len() > bytes_max) {
                    listing.entries.truncate(before);
                    listing.more = true;
                    return true;
                }
                listing.left -= 1;
            }
            steps.take_key(key);
            if !steps.are_left() {
                *after = Some(key.clone());
                return false;
            }
        }
        true
    }

    /// Deletes keys while there are steps; true when the walk is over. What was deleted stays so where
    /// it then comes upon an entry that can't be.
    fn delete_on(
        &mut self,
        session: usize,
        pattern: &Pattern,
        after: &mut Option<Key>,
        deletion: &mut Deletion,
        steps: &mut Steps,
    ) -> Result<bool, Refusal> {
        while steps.are_left() {
            let mut found = Vec::new();
            let mut is_over = Ok(true);
            let from = after.take();
            for (key, entry) in self.keyspace.walk(pattern, from.as_ref().map(Key::as_str)) {
                steps.take_key(key);
                if let Some(entry) = entry.filter(|_| self.may_sweep(session, key.borrowed())) {
                    if let Err(refusal) = self.check_writable(Class::of(entry.lifetime)) {
                        is_over = Err(refusal);
                        break;
                    }
                    steps.take(STEPS_PER_DELETION);
                    found.push(key.clone());
                }
                if found.len() == DELETED_AT_ONCE || !steps.are_left() {
                    *after = Some(key.clone());
                    is_over = Ok(false);
                    break;
                }
            }
            for key in found {
                if let Some(rev) = self.delete_key(key.borrowed()) {
                    deletion.deleted += 1;
                    deletion.rev = rev;
                }
            }
            steps.take(self.extra.take());
            if is_over? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn answer(&mut self, session: usize, job: Job) {
        let reply = Reply::ok(&mut self.sessions[session].out, job.id.as_ref());
        match job.task {
            Task::List(Listing {
                rev, entries, more, ..
            }) => {
                reply
                    .list("entries", &entries)
                    .number("rev", rev)
                    .flag("more", more)
                    .end();
            }
            Task::Delete(Deletion { deleted, rev }) => {
                reply.number("deleted", deleted).number("rev", rev).end();
            }
        }
    }
}

/// Appends an element of a list, and the comma before it.
fn append(entries: &mut Vec<u8>, entry: &Entry<'_>, keys_only: bool, now: Time) {
    if !entries.is_empty() {
        entries.push(b',');
    }
    let mut element = Reply::element(entries, entry.key.as_str());
    if !keys_only {
        element = element.stored(entry.value);
    }
    with_terms(element.number("rev", entry.rev), entry, now).end_element();
}
