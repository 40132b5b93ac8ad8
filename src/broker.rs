//! Every decision is made here: a request comes in, a response and changes go out.
//!
//! The broker is plain data. It owns the keyspace, the trie of watchers and the sessions, and knows
//! neither sockets nor files nor clocks: bytes and the time are handed in, bytes are taken out. The
//! loop in `server` drives it in the phases of a turn, and a test drives it in the same way with
//! lines of text:
//!
//! 1. [`Broker::connect`], [`Broker::receive`], [`Broker::resume`], [`Broker::disconnect`] and
//!    [`Broker::expire`] carry out requests and let entries end. Changes are made in the keyspace at
//!    once and mark the subscriptions that they concern, but no event is made.
//! 2. The keyspace's changes after [`Broker::committed_rev`] are what the turn has changed, newest
//!    state once a key, for whoever keeps it; [`Broker::committed`] says that it is as safe as was
//!    promised. Where it can't be kept, [`Broker::redo`] undoes the turn and carries it out again
//!    with less allowed ([`Broker::set_storage`]).
//! 3. [`Broker::fill`] gives the bytes to be written to a connection, making events as there is room
//!    for them; [`Broker::sent`] says how many were written. Only committed state is ever shown.
//! 4. [`Broker::end_turn`] drops tombstones over the bound.
//!
//! Time is shared out by **steps**: a request takes some, each key that is looked at takes one, and
//! a connection has so many a turn. A list or a deletion by pattern that needs more goes on in the
//! next turn, where it left off. Only a batch can't be cut in pieces; it is bounded by the length of
//! its line and by a limit on the keys that its patterns may look at.

mod access;
mod batch;
mod buffers;
mod claims;
mod jobs;
mod ops;
mod quotas;
mod redo;
mod shares;
mod strangers;

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;

use slab::Slab;

use crate::access::{Grants, Rules};
use crate::journal::{Figures, Writable};
use crate::key::{KeyError, KeyRef, Pattern};
use crate::keyspace::{Class, Keyspace, Owner, Time};
use crate::session::{Counters, RecentEvents, Session, Skip, Steps};
use crate::watch::Watch;
use crate::wire::{ErrorCode, Id, Limits, Reply, Request};

use quotas::{Credit, Ledger};
use redo::Carried;
use shares::{steps_of, steps_to_read};
use strangers::Strangers;

pub use crate::session::Peer;
pub use shares::Share;
pub use strangers::TOKEN_BYTES_MAX;

/// How many steps a connection has a turn for its requests, and as many for its events.
const STEPS_PER_TURN: u32 = 4096;
/// What carrying out one request, or one operation of a batch, takes.
const STEPS_PER_REQUEST: u32 = 16;
/// A step is taken for so many subscriptions, claims, connections or places in the trie of patterns that
/// a request makes the daemon look at.
const LOOKS_PER_STEP: usize = 2;
/// One of so many places for clients is kept for root, and one of fewer as well.
const CLIENTS_PER_KEPT_PLACE: u64 = 64;
/// With fewer places none is kept: that would be much of what there is.
const CLIENTS_FOR_KEPT_PLACE: u64 = 8;
/// How many keys that belong to ended connections, or have expired, are deleted a turn.
const ENDINGS_PER_TURN: usize = 1024;
/// A buffer for what has come in is not made smaller than this.
const INPUT_BYTES_KEPT: usize = 4 << 10;
/// How many bytes of responses are provided for at once: enough for one, or for some small ones.
const OUT_BYTES: usize = 256;
/// How many bytes of events are made ahead of being written. More would make a slow subscriber's
/// events staler and its buffer larger; less would mean more system calls for one that keeps up.
const EVENT_CHUNK_BYTES: usize = 8 << 10;

/// What a broker is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// The limits that it imposes.
    pub limits: Limits,
    /// Names its history; to be told apart from every other one's.
    pub epoch: String,
    /// What the `hello` of a TCP peer must carry, if anything.
    pub token: Option<Token>,
    /// Who may do what. Without rules everybody may do everything.
    pub rules: Option<Arc<Rules>>,
    /// The user whose daemon it is. As root, that user has no quotas of its own.
    pub owner: Option<u32>,
    /// Whether commits can fail, so that [`Broker::redo`] may be needed.
    pub can_redo: bool,
}

/// A secret that TCP peers have to know. Comparing takes the same time wherever a guess is wrong.
#[derive(Clone)]
pub struct Token(Box<[u8]>);

/// The keyspace, its sessions, and the rules between them.
#[derive(Debug)]
pub struct Broker {
    limits: Limits,
    /// The history of the keyspace, and with the rules what clients know it as.
    history: String,
    epoch: String,
    rules_changed: u64,
    token: Option<Token>,
    rules: Option<Arc<Rules>>,
    owner: Option<u32>,
    /// What the rules say of each session, by its number; nothing where it may do everything.
    grants: Vec<Option<Grants>>,
    /// Whom each session is charged to.
    credits: Slab<Credit>,
    ledger: Ledger,
    keyspace: Keyspace,
    watch: Watch,
    sessions: Slab<Session>,
    strangers: Strangers,
    /// Sessions that may have something to write.
    due: Vec<usize>,
    /// Connections that have ended and may still own entries.
    departed: VecDeque<Owner>,
    owners: u64,
    recent: RecentEvents,
    /// The buffer of the session that was last done with its own.
    spare: Vec<u8>,
    counters: Counters,
    /// What the request at hand takes beyond what each does, in steps.
    extra: Cell<u32>,
    started: Time,
    committed: u64,
    can_redo: bool,
    /// What this turn has carried out since its first change.
    carried: Carried,
    writable: Writable,
    figures: Figures,
}

/// Why a request is refused. Answered where it is raised, and never further up.
#[derive(Debug)]
struct Refusal {
    code: ErrorCode,
    message: String,
    rev: Option<u64>,
    at: Option<usize>,
}

impl Broker {
    /// A broker of a keyspace, which may hold what was kept of an earlier one. `now` is the time from
    /// which `uptime_ms` counts.
    #[must_use]
    pub fn new(options: Options, keyspace: Keyspace, now: Time) -> Broker {
        Broker {
            committed: keyspace.rev(),
            keyspace,
            limits: options.limits,
            epoch: epoch_under(&options.epoch, options.rules.as_deref(), 0),
            history: options.epoch,
            rules_changed: 0,
            token: options.token,
            rules: options.rules,
            owner: options.owner,
            grants: Vec::new(),
            credits: Slab::new(),
            ledger: Ledger::default(),
            watch: Watch::default(),
            sessions: Slab::new(),
            strangers: Strangers::default(),
            due: Vec::new(),
            departed: VecDeque::new(),
            owners: 0,
            recent: RecentEvents::default(),
            spare: Vec::new(),
            counters: Counters::default(),
            extra: Cell::new(0),
            started: now,
            can_redo: options.can_redo,
            carried: Carried::default(),
            writable: Writable::default(),
            figures: Figures::default(),
        }
    }

    /// Takes in a connection and gives the number by which it is called until it is disconnected.
    /// Numbers are small and are used again.
    ///
    /// # Errors
    /// The line to be written before closing, where there are as many clients as there may be, or as many
    /// of this user. A few places are kept for root, so that an operator can always look in.
    pub fn connect(&mut self, peer: Peer, now: Time) -> Result<usize, Vec<u8>> {
        let admitted = self.check_place(&peer).and_then(|()| self.admit(&peer));
        let credit = admitted.map_err(|refusal| {
            self.counters.errors += 1;
            let mut line = Vec::new();
            Reply::error(&mut line, None, refusal.code, &refusal.message).end();
            line
        })?;
        self.owners += 1;
        let authenticated = matches!(peer, Peer::Unix { .. }) || self.token.is_none();
        let grants = self.grants_of(&peer);
        let session = Session::new(peer, Owner(self.owners), authenticated);
        let number = self.sessions.insert(session);
        let same = self.credits.insert(credit);
        assert_eq!(number, same, "sessions and credits come and go together");
        if self.grants.len() <= number {
            self.grants.resize(number + 1, None);
        }
        self.grants[number] = grants;
        if !authenticated {
            self.take_in_stranger(number, now);
        }
        Ok(number)
    }

    /// Refuses a connection where there is no place for it.
    fn check_place(&self, peer: &Peer) -> Result<(), Refusal> {
        let there = self.sessions.len() as u64;
        let kept = match (peer, self.limits.clients) {
            (Peer::Unix { uid: 0, .. }, _) | (_, ..CLIENTS_FOR_KEPT_PLACE) => 0,
            (_, clients) => (clients / CLIENTS_PER_KEPT_PLACE).max(1),
        };
        if there + kept < self.limits.clients {
            return Ok(());
        }
        let mut message = format!("there are {there} clients already");
        if there < self.limits.clients {
            message.push_str(&match kept {
                1 => ", and one more place is root's".to_owned(),
                kept => format!(", and {kept} more places are root's"),
            });
        }
        Err(Refusal::new(ErrorCode::Limit, message))
    }

    /// Carries out what has come in from a connection, as far as its turn allows. To be called once
    /// a turn at most, and only while [`Broker::wants_input`]; the rest goes on with
    /// [`Broker::resume`].
    pub fn receive(&mut self, session: usize, bytes: &[u8], now: Time) {
        if self.sessions[session].input.bytes.is_empty() {
            let mut steps = self.begin_requests(session);
            let done = self.carry_out(session, bytes, 0, &mut steps, now);
            self.keep(session, &bytes[done..]);
            self.end_requests(session, steps.taken().saturating_add(steps_of(bytes.len())));
        } else {
            self.sessions[session].input.bytes.extend_from_slice(bytes);
            self.end_requests(session, steps_of(bytes.len()));
            self.resume(session, now);
        }
    }

    /// Says that nothing more will come in from a connection: a last line without a line end counts.
    pub fn end_input(&mut self, session: usize, now: Time) {
        self.sessions[session].input.ended = true;
        self.resume(session, now);
    }

    /// Goes on with what a connection's last turn left over. To be called once a turn while
    /// [`Broker::wants_turn`].
    pub fn resume(&mut self, session: usize, now: Time) {
        let mut steps = self.begin_requests(session);
        self.go_on_with(session, &mut steps, now);
        self.end_requests(session, steps.taken());
    }

    fn go_on_with(&mut self, session: usize, steps: &mut Steps, now: Time) {
        if let Some(job) = self.sessions[session].job.take() {
            let noted = self.note_job(session, &job);
            self.go_on(session, job, steps, now);
            self.noted(session, noted);
        }
        let input = &mut self.sessions[session].input;
        let mut bytes = std::mem::take(&mut input.bytes);
        let searched = std::mem::take(&mut input.searched);
        let done = self.carry_out(session, &bytes, searched, steps, now);
        let unsearched = done.max(searched);
        let last = memchr::memchr(b'\n', &bytes[unsearched..]).is_none();
        let ended = self.sessions[session].input.ended;
        if ended && last && self.may_go_on(session, *steps) {
            if done < bytes.len() || self.sessions[session].input.skipping.is_some() {
                self.line(session, &bytes[done..], steps, now);
            }
            return;
        }
        if done > 0 {
            bytes.drain(..done);
        }
        if bytes.is_empty() {
            return;
        }
        if last && self.drops(session, bytes.len()) {
            return;
        }
        let input = &mut self.sessions[session].input;
        input.searched = if last { bytes.len() } else { 0 };
        // A buffer that was large does not stay so for the beginning of another line.
        if bytes.capacity() / 4 > bytes.len().max(INPUT_BYTES_KEPT) {
            bytes.shrink_to(INPUT_BYTES_KEPT);
        }
        input.bytes = bytes;
    }

    /// Whether bytes may be read for a connection: all that came before are carried out or are the
    /// beginning of a line, and not too many responses are unread.
    #[must_use]
    pub fn wants_input(&self, session: usize) -> bool {
        let state = &self.sessions[session];
        let waiting = state.input.bytes.len() > state.input.searched;
        !state.input.ended && !waiting && state.job.is_none() && self.has_room(state)
    }

    /// Whether a connection has requests that can go on without more input.
    #[must_use]
    pub fn wants_turn(&self, session: usize) -> bool {
        let state = &self.sessions[session];
        let waiting = state.input.bytes.len() > state.input.searched
            || (state.input.ended
                && (!state.input.bytes.is_empty() || state.input.skipping.is_some()));
        state.job.is_some() || (waiting && self.has_room(state))
    }

    /// Whether a connection's input has ended and every request in it has been carried out and its
    /// response written. A subscription may still have events to come.
    #[must_use]
    pub fn is_drained(&self, session: usize) -> bool {
        self.sessions[session].is_drained()
    }

    /// Whether a connection has a subscription.
    #[must_use]
    pub fn has_subscriptions(&self, session: usize) -> bool {
        !self.sessions[session].subscriptions.is_empty()
    }

    /// Forgets a connection. Its subscriptions end, and so do the `session` entries that it put last;
    /// where those are very many, the rest of them goes in the turns that follow.
    pub fn disconnect(&mut self, session: usize) {
        let mut state = self.sessions.remove(session);
        let credit = self.credits.remove(session);
        self.dismiss(session, &credit, &mut state);
        for (_, removed) in &state.subscriptions {
            self.watch.remove(removed.pattern(), removed.member());
        }
        self.due.retain(|candidate| *candidate != session);
        self.strangers.remove(session);
        self.departed.push_back(state.owner);
    }

    /// Lets entries end whose time has come or whose connection is gone, a bounded number of them. To
    /// be called first in a turn: what it does is not done again by [`Broker::redo`], for time is not
    /// asked.
    pub fn expire(&mut self, now: Time) {
        self.expel_late(now);
        self.end_entries(now);
        if self.can_redo {
            self.keyspace.begin();
        }
    }

    fn end_entries(&mut self, now: Time) {
        for _ in 0..ENDINGS_PER_TURN {
            let key = loop {
                match self.departed.front() {
                    None => break self.keyspace.expired(now),
                    Some(&owner) => match self.keyspace.owned_by(owner) {
                        Some(key) => break Some(key),
                        None => self.departed.pop_front(),
                    },
                };
            };
            let Some(key) = key else { return };
            self.delete_key(key.borrowed());
        }
    }

    /// When [`Broker::expire`] is to be called next, if nothing else happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        if self.departed.is_empty() {
            let deadlines = [
                self.keyspace.next_deadline(),
                self.strangers.next_deadline(),
            ];
            deadlines.into_iter().flatten().min()
        } else {
            Some(Time(0))
        }
    }

    /// The revision of the last change that is committed.
    #[must_use]
    pub fn committed_rev(&self) -> u64 {
        self.committed
    }

    /// Says that all changes are as safe as they have to be before anyone is told of them.
    pub fn committed(&mut self) {
        self.committed = self.keyspace.rev();
        self.carried.clear();
        self.keyspace.keep();
    }

    /// Says what can be written from now on, and the figures for `stats`.
    pub fn set_storage(&mut self, writable: Writable, figures: Figures) {
        self.writable = writable;
        self.figures = figures;
    }

    /// Gives the sessions that may have something to write, each once, in exchange for an empty list
    /// whose memory is used for the next ones.
    pub fn take_due(&mut self, due: &mut Vec<usize>) {
        assert!(due.is_empty(), "the list that is given is used up");
        for &session in &self.due {
            self.sessions[session].due = false;
        }
        std::mem::swap(&mut self.due, due);
    }

    /// Whether some session may have something to write.
    #[must_use]
    pub fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Puts a session among those that may have something to write: its socket has room again.
    pub fn set_due(&mut self, session: usize) {
        let state = &mut self.sessions[session];
        if !state.due {
            state.due = true;
            self.due.push(session);
        }
    }

    /// The bytes to write to a connection next. Empty where there is nothing; where its share of the turn
    /// is used up, and then it is due again; and where it has to wait until others of its user have read
    /// theirs, and then it will be. To be called after [`Broker::committed`].
    pub fn fill(&mut self, session: usize, share: &mut Share) -> &[u8] {
        assert_eq!(
            self.committed,
            self.keyspace.rev(),
            "only what is committed may be shown"
        );
        let state = &self.sessions[session];
        if share.bytes > 0 && (state.is_behind() || state.starved) {
            self.make_events(session, share);
        }
        let state = &self.sessions[session];
        let is_pending = !state.pending().is_empty();
        if is_pending && share.bytes > 0 {
            return self.sessions[session].pending();
        }
        if is_pending || (state.is_behind() && !state.starved) {
            self.set_due(session);
        }
        &[]
    }

    /// Says that so many bytes of what [`Broker::fill`] gave are written.
    pub fn sent(&mut self, session: usize, bytes: usize, share: &mut Share) {
        share.bytes = share.bytes.saturating_sub(bytes);
        if let Some(large) = self.sessions[session].sent(bytes, &mut self.spare) {
            self.take_back(session, large);
        }
        self.charge(session);
    }

    /// Whether a connection has bytes or events to be written.
    #[must_use]
    pub fn has_output(&self, session: usize) -> bool {
        let state = &self.sessions[session];
        !state.pending().is_empty() || state.is_behind()
    }

    /// Whether a connection has bytes to be written that answer its requests, or stand before such.
    #[must_use]
    pub fn owes(&self, session: usize) -> bool {
        !self.sessions[session].pending().is_empty()
    }

    /// Throws away what would be written to a connection: nobody is there to read it. What it has asked
    /// to be told is not looked for from then on.
    pub fn discard_output(&mut self, session: usize) {
        let state = &mut self.sessions[session];
        state.gone = true;
        if let Some(large) = state.discard() {
            self.take_back(session, large);
        }
        self.charge(session);
    }

    /// Drops tombstones over the bound, and gives every user its share of the next turn. To be called when
    /// a turn's delivery is done.
    pub fn end_turn(&mut self) {
        self.ledger.next_turn();
        self.recent.end_turn();
        self.keyspace.drop_tombstones();
    }

    /// How many connections there are.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.sessions.len()
    }

    /// The keyspace, to look at.
    #[must_use]
    pub fn keyspace(&self) -> &Keyspace {
        &self.keyspace
    }

    /// The limits that this broker imposes.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Replaces the token. Connections that are authenticated stay so.
    pub fn set_token(&mut self, token: Option<Token>) {
        self.token = token;
    }

    /// The statistics as the JSON object that `stats` answers, for a log.
    #[must_use]
    pub fn statistics(&self, now: Time) -> String {
        let mut out = Vec::new();
        self.write_stats(Reply::ok(&mut out, None), now);
        String::from_utf8(out)
            .expect("a response is UTF-8")
            .trim_end()
            .to_owned()
    }

    /// Carries out whole lines while the turn allows it, and returns how many bytes that took.
    fn carry_out(
        &mut self,
        session: usize,
        bytes: &[u8],
        mut searched: usize,
        steps: &mut Steps,
        now: Time,
    ) -> usize {
        let mut done = 0;
        while self.may_go_on(session, *steps) {
            let Some(end) = memchr::memchr(b'\n', &bytes[searched..]) else {
                break;
            };
            let end = searched + end;
            self.line(session, &bytes[done..end], steps, now);
            done = end + 1;
            searched = done;
        }
        if self.is_expelled(session) {
            return bytes.len();
        }
        done
    }

    /// Carries out one line, or what is left of one that is too long.
    fn line(&mut self, session: usize, line: &[u8], steps: &mut Steps, now: Time) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let state = &mut self.sessions[session];
        let skipped = std::mem::take(&mut state.input.skipping);
        if line.is_empty() && skipped.is_none() {
            return steps.take(1);
        }
        state.provide(OUT_BYTES, &mut self.spare);
        steps.take(STEPS_PER_REQUEST);
        steps.take(steps_to_read(line.len()));
        self.counters.requests += 1;
        if let Err(refusal) = self.check_line(session, line, skipped) {
            self.refuse(session, None, &refusal);
            if refusal.code == ErrorCode::TooLarge {
                self.expel_stranger(session);
            }
        } else {
            match Request::parse(line) {
                Ok(request) => {
                    let noted = self.note(session, &request.op, line);
                    self.request(session, request, steps, now);
                    self.noted(session, noted);
                }
                Err(error) => {
                    let refusal = Refusal::new(error.code, error.message);
                    self.refuse(session, error.id.as_ref(), &refusal);
                }
            }
        }
        self.take_try(session);
        steps.take(self.extra.take());
        self.set_due(session);
    }

    /// Notes that the request at hand takes more than any other: so many small things are looked at.
    fn take_for(&self, looks: usize) {
        let steps = u32::try_from(looks / LOOKS_PER_STEP).unwrap_or(u32::MAX);
        self.extra.set(self.extra.get().saturating_add(steps));
    }

    /// Refuses a line before it is read.
    fn check_line(&self, session: usize, line: &[u8], skip: Option<Skip>) -> Result<(), Refusal> {
        if skip == Some(Skip::OverQuota) {
            return Err(self.over_buffered(session));
        }
        if skip.is_some() || line.len() as u64 > self.line_bytes_max(session) {
            return Err(self.too_long(session));
        }
        self.check_buffered(session)
    }

    /// Keeps what could not be carried out yet.
    fn keep(&mut self, session: usize, rest: &[u8]) {
        let last = memchr::memchr(b'\n', rest).is_none();
        if last && self.drops(session, rest.len()) {
            return;
        }
        let input = &mut self.sessions[session].input;
        input.bytes.extend_from_slice(rest);
        input.searched = if last { rest.len() } else { 0 };
    }

    /// Whether a line that is so long already, without its end, is not to be taken in. The rest of it is
    /// skipped then.
    fn drops(&mut self, session: usize, bytes: usize) -> bool {
        let carriage_return = 1;
        let skip = if let Some(skip) = self.sessions[session].input.skipping {
            skip
        } else if bytes as u64 > self.line_bytes_max(session) + carriage_return {
            Skip::TooLong
        } else if !self.may_buffer(session, bytes) {
            Skip::OverQuota
        } else {
            return false;
        };
        self.skip_line(session, skip);
        true
    }

    fn may_go_on(&self, session: usize, steps: Steps) -> bool {
        let state = &self.sessions[session];
        steps.are_left() && !state.expelled && state.job.is_none() && self.has_room(state)
    }

    fn has_room(&self, state: &Session) -> bool {
        state.pending_bytes() as u64 <= self.limits.output
    }

    fn refuse(&mut self, session: usize, id: Option<&Id<'_>>, refusal: &Refusal) {
        self.counters.errors += 1;
        let out = &mut self.sessions[session].out;
        let mut reply = Reply::error(out, id, refusal.code, &refusal.message);
        if let Some(rev) = refusal.rev {
            reply = reply.number("rev", rev);
        }
        if let Some(at) = refusal.at {
            reply = reply.number("at", at as u64);
        }
        reply.end();
    }

    /// Refuses what can't be kept at present.
    fn check_writable(&self, class: Class) -> Result<(), Refusal> {
        if self.writable.allows(class) {
            return Ok(());
        }
        let message = match class {
            Class::Durable => "storage has failed, so durable entries can't be changed for now",
            Class::Boot => {
                "the runtime directory has failed, so boot and session entries can't be changed for now"
            }
        };
        Err(Refusal::new(ErrorCode::ReadOnly, message))
    }

    /// Deletes a key, marks whom it concerns, and returns the revision.
    fn delete_key(&mut self, key: KeyRef<'_>) -> Option<u64> {
        let rev = self.keyspace.delete(key)?;
        self.mark(key, rev);
        Some(rev)
    }

    /// Marks every subscription that a change concerns.
    fn mark(&mut self, key: KeyRef<'_>, rev: u64) {
        let Broker {
            watch,
            sessions,
            due,
            ..
        } = self;
        let nodes = watch.visit(key, |watcher| {
            let session = &mut sessions[watcher.session];
            session.mark(watcher.subscription, rev);
            if !session.due {
                session.due = true;
                due.push(watcher.session);
            }
        });
        self.take_for(nodes);
    }
}

/// What a client holds is what the rules let it see, so under other rules nobody can resume: that is
/// another epoch. Each `reset` names the one that it begins. For clients that don't look there, a number
/// tells apart rules that come back while the daemon runs.
fn epoch_under(history: &str, rules: Option<&Rules>, changed: u64) -> String {
    let mark = rules.and_then(Rules::mark);
    match (mark, changed) {
        (None, 0) => history.to_owned(),
        (mark, changed) => format!("{history}-{:08x}.{changed}", mark.unwrap_or(0)),
    }
}

impl Token {
    /// A token from what a file holds: white space around it is dropped. Nothing where nothing is
    /// left, because an empty secret is none.
    #[must_use]
    pub fn new(text: &str) -> Option<Token> {
        let text = text.trim();
        (!text.is_empty()).then(|| Token(Box::from(text.as_bytes())))
    }

    fn accepts(&self, guess: &str) -> bool {
        use subtle::ConstantTimeEq;
        self.0.ct_eq(guess.as_bytes()).into()
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Refusal {
    fn new(code: ErrorCode, message: impl Into<String>) -> Refusal {
        Refusal {
            code,
            message: message.into(),
            rev: None,
            at: None,
        }
    }

    fn bad_request(message: impl Into<String>) -> Refusal {
        Refusal::new(ErrorCode::BadRequest, message)
    }

    fn conflict(key: KeyRef<'_>, rev: u64) -> Refusal {
        let message = match rev {
            0 => format!("{key} does not exist"),
            rev => format!("{key} is at revision {rev}"),
        };
        Refusal {
            rev: Some(rev),
            ..Refusal::new(ErrorCode::Conflict, message)
        }
    }
}

impl From<KeyError> for Refusal {
    fn from(error: KeyError) -> Refusal {
        let code = match error {
            KeyError::TooLong(_) => ErrorCode::TooLarge,
            _ => ErrorCode::BadKey,
        };
        Refusal::new(code, error.to_string())
    }
}

/// A key that a client may write.
fn writable_key(text: &str) -> Result<KeyRef<'_>, Refusal> {
    let key = KeyRef::new(text)?;
    if key.is_reserved() {
        Err(reserved())
    } else {
        Ok(key)
    }
}

/// A pattern whose keys a client may write.
fn writable_pattern(text: &str) -> Result<Pattern, Refusal> {
    let pattern = Pattern::new(text)?;
    if pattern.is_reserved() {
        Err(reserved())
    } else {
        Ok(pattern)
    }
}

fn reserved() -> Refusal {
    Refusal::new(
        ErrorCode::BadKey,
        "keys that begin with '$' belong to the daemon",
    )
}
