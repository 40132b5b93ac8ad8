//! Quotas: how much of the daemon one user may hold and use, so that no one starves the others.
//!
//! Whatever a connection holds is charged to its user, and all who come over TCP are one user. What
//! is **held** is bounded: connections, subscriptions, keys and bytes stored, and bytes of the daemon's
//! memory in requests that are unfinished and answers that are unread. Who wants more than that is
//! refused; nobody else is. What is **used**, the time of a turn, is shared out: each user has so much
//! of it, however many connections it comes with, and what is left over has to wait for the next turn.
//! So a turn is short, and who asks little is served in each.
//!
//! Root has no quotas, unless the rules say so, and neither has the user whose daemon it is. The
//! others may hold half of each limit.
//!
//! An event of a large value counts once, however many of its user's subscribers are in the middle of it.
//! Where there is no room for one, who is to be told of it waits until there is. Small ones are always made.
//!
//! A connection's first few kilobytes of memory are not charged: almost every one stays within them,
//! and then there is nothing to be counted.

use std::collections::{BTreeMap, BTreeSet};

use slab::Slab;

use crate::access::{Action, Resource, Subject};
use crate::key::{KeyRef, Pattern};
use crate::keyspace::{Account, Held};
use crate::session::{Large, LargeEvents, Peer, Sees, Session, Source, Steps};
use crate::wire::{ErrorCode, Limits};

use super::{Broker, EVENT_CHUNK_BYTES, Refusal, STEPS_PER_TURN, Share};

/// How many steps a user has a turn for requests, and as many for events.
const ACCOUNT_STEPS_PER_TURN: u32 = 4 * STEPS_PER_TURN;
/// How many bytes a user is written a turn.
const ACCOUNT_BYTES_PER_TURN: usize = 4 << 20;
/// How many bytes are written to one connection a turn.
const BYTES_PER_TURN: usize = 256 << 10;
/// A step is taken for so many bytes that have come in.
const BYTES_PER_STEP: usize = 256;
/// A step is taken for so many bytes of a line that is carried out.
const LINE_BYTES_PER_STEP: usize = 64;
/// How many bytes a connection may hold without their being charged.
const FREE_BYTES: u64 = 4 << 10;
/// A user may hold so many messages of the largest size in unfinished requests and unread answers.
const BUFFERED_MESSAGES: u64 = 64;
/// A user may have so many times the subscriptions of one connection.
const SUBSCRIPTIONS_FACTOR: u64 = 16;
/// A subscription whose pattern has more segments counts as several.
const SEGMENTS_FREE: u64 = 8;
/// How many users are told about at most.
const USERS_TOLD: usize = 1000;

/// Whom a session is charged to, and how much that may be.
#[derive(Debug)]
pub(super) struct Credit {
    pub(super) account: Account,
    /// Where the ledger has the account.
    place: usize,
    quotas: Quotas,
    /// How much of `buffered` is this session's.
    charged: u64,
    /// Whether its user holds more than it may, so that its requests are refused.
    is_over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Quotas {
    connections: u64,
    subscriptions: u64,
    keys: u64,
    bytes: u64,
    buffered: u64,
}

/// What each user with a connection holds, apart from keys, and has left of this turn.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    places: BTreeMap<Account, usize>,
    accounts: Slab<Use>,
    turn: u64,
}

#[derive(Debug, Default)]
struct Use {
    connections: u64,
    subscriptions: u64,
    /// Bytes of unfinished requests, answers and small events.
    charged: u64,
    larges: LargeEvents,
    /// Sessions that are to be told of a large value when there is room for it.
    starved: BTreeSet<usize>,
    /// With no more than this buffered, one of them can be.
    starved_above: u64,
    /// The turn that the rest is about.
    turn: u64,
    steps: u32,
    share: Share,
}

/// One element of `users`.
#[derive(serde::Serialize)]
pub(super) struct UserUse {
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    tcp: bool,
    connections: u64,
    subscriptions: u64,
    keys: u64,
    bytes: u64,
    buffered: u64,
}

impl Ledger {
    pub(super) fn next_turn(&mut self) {
        self.turn += 1;
    }

    /// The place of an account, which it keeps while it has a connection.
    fn place(&mut self, account: Account) -> usize {
        let place = self.places.entry(account);
        *place.or_insert_with(|| {
            // The share of a turn is made when it is first looked at.
            let turn = u64::MAX;
            self.accounts.insert(Use {
                turn,
                ..Use::default()
            })
        })
    }

    /// What an account has, its share of this turn made anew with the turn.
    fn of(&mut self, credit: &Credit) -> &mut Use {
        let held = &mut self.accounts[credit.place];
        if held.turn != self.turn {
            held.turn = self.turn;
            held.steps = ACCOUNT_STEPS_PER_TURN;
            held.share = Share {
                bytes: ACCOUNT_BYTES_PER_TURN,
                steps: Steps::new(ACCOUNT_STEPS_PER_TURN),
                is_short: false,
            };
        }
        held
    }

    fn look(&self, credit: &Credit) -> &Use {
        &self.accounts[credit.place]
    }

    fn connections(&self, account: Account) -> u64 {
        let place = self.places.get(&account);
        place.map_or(0, |&place| self.accounts[place].connections)
    }
}

impl Broker {
    /// Charges a new connection, unless its user has too many. The line that refuses it then.
    pub(super) fn admit(&mut self, peer: &Peer) -> Result<Credit, Refusal> {
        let (account, quotas) = self.quotas_of(peer);
        let used = self.ledger.connections(account);
        quotas.check(account, Resource::Connections, used)?;
        let credit = Credit {
            account,
            place: self.ledger.place(account),
            quotas,
            charged: 0,
            is_over: false,
        };
        self.ledger.of(&credit).connections += 1;
        Ok(credit)
    }

    /// Gives back what a connection has held.
    pub(super) fn dismiss(&mut self, number: usize, credit: &Credit, state: &mut Session) {
        let patterns = state.subscriptions.iter();
        let subscriptions: u64 = patterns.map(|(_, one)| weight(one.pattern())).sum();
        let held = self.ledger.of(credit);
        held.connections -= 1;
        held.subscriptions -= subscriptions;
        held.charged -= credit.charged;
        held.starved.remove(&number);
        if let Some(large) = state.discard() {
            held.larges.let_go(large);
        }
        if held.connections == 0 {
            self.ledger.accounts.remove(credit.place);
            self.ledger.places.remove(&credit.account);
        } else {
            self.feed(credit.place);
        }
    }

    /// What the rules that are in force now say of a peer.
    fn quotas_of(&self, peer: &Peer) -> (Account, Quotas) {
        let account = account(peer);
        let is_free = account == Account::ROOT || Some(account) == self.owner.map(Account::user);
        let subject = subject(peer);
        let by_default = Quotas::by_default(&self.limits, is_free);
        let amount = |resource: Resource| {
            let rules = self.rules.as_ref();
            let said = rules.and_then(|rules| rules.quota(&subject, resource));
            said.map_or(by_default.of(resource), |(amount, ..)| amount)
        };
        let quotas = Quotas {
            connections: amount(Resource::Connections),
            subscriptions: amount(Resource::Subscriptions),
            keys: amount(Resource::Keys),
            bytes: amount(Resource::Bytes),
            buffered: amount(Resource::Buffered),
        };
        (account, quotas)
    }

    /// Holds a session to the quotas of the rules that are in force now. What is held already stays.
    pub(super) fn renew_quotas(&mut self, session: usize) {
        let (_, quotas) = self.quotas_of(&self.sessions[session].peer);
        self.credits[session].quotas = quotas;
    }

    /// The steps that a session has for its requests in this turn.
    pub(super) fn begin_requests(&mut self, session: usize) -> Steps {
        self.extra.set(0);
        let credit = &mut self.credits[session];
        let held = self.ledger.of(credit);
        credit.is_over = held.buffered() > credit.quotas.buffered;
        Steps::new(held.steps.min(STEPS_PER_TURN))
    }

    /// Ends what [`Broker::begin_requests`] began: `taken` steps are used.
    pub(super) fn end_requests(&mut self, session: usize, taken: u32) {
        let held = self.ledger.of(&self.credits[session]);
        held.steps = held.steps.saturating_sub(taken);
        self.charge(session);
    }

    /// Whether a connection's user has something left of this turn for requests. Otherwise it waits for
    /// the next, and nothing is to be read for it.
    #[must_use]
    pub fn has_turn(&mut self, session: usize) -> bool {
        self.ledger.of(&self.credits[session]).steps > 0
    }

    /// Whether a connection's user has had some of this turn for requests already.
    #[must_use]
    pub fn has_asked(&mut self, session: usize) -> bool {
        self.ledger.of(&self.credits[session]).steps < ACCOUNT_STEPS_PER_TURN
    }

    /// Whether a connection's user has been written something in this turn already.
    #[must_use]
    pub fn has_been_told(&mut self, session: usize) -> bool {
        let left = self.ledger.of(&self.credits[session]).share;
        left.bytes < ACCOUNT_BYTES_PER_TURN || left.steps.left() < ACCOUNT_STEPS_PER_TURN
    }

    /// What a connection may be given in this turn's delivery; nothing where its user has had its share,
    /// and the connection waits for the next turn ([`Broker::wait`]).
    pub fn share(&mut self, session: usize) -> Option<Share> {
        let credit = &self.credits[session];
        let held = self.ledger.of(credit);
        let left = held.share;
        (left.bytes > 0 && left.steps.are_left()).then(|| Share {
            bytes: left.bytes.min(BYTES_PER_TURN),
            steps: Steps::new(left.steps.left().min(STEPS_PER_TURN)),
            is_short: held.buffered() > credit.quotas.buffered,
        })
    }

    /// Says what is left of a share: the rest is charged to the turn.
    pub fn end_share(&mut self, session: usize, given: Share, left: Share) {
        let share = &mut self.ledger.of(&self.credits[session]).share;
        let bytes = given.bytes - left.bytes;
        share.bytes = share.bytes.saturating_sub(bytes);
        share.steps.take(given.steps.left() - left.steps.left());
    }

    /// Puts sessions that have had nothing in this turn before all others of the next.
    pub fn wait(&mut self, sessions: &mut Vec<usize>) {
        sessions.retain(|&session| !std::mem::replace(&mut self.sessions[session].due, true));
        sessions.append(&mut self.due);
        std::mem::swap(sessions, &mut self.due);
    }

    /// Charges what a session holds in memory beyond what is free.
    pub(super) fn charge(&mut self, session: usize) {
        let now = held_bytes(&self.sessions[session]).saturating_sub(FREE_BYTES);
        let credit = &mut self.credits[session];
        if now != credit.charged {
            let held = self.ledger.of(credit);
            held.charged = held.charged - credit.charged + now;
            credit.charged = now;
            let place = credit.place;
            self.feed(place);
        }
    }

    /// Makes events for a session, as far as its share of the turn allows and there is room for them.
    pub(super) fn make_events(&mut self, session: usize, share: &mut Share) {
        let credit = &self.credits[session];
        let held = self.ledger.of(credit);
        let room = credit.quotas.buffered.saturating_sub(held.buffered());
        let grants = self.grants[session].as_ref();
        let sees = grants.map(|grants| |key: KeyRef<'_>| grants.allow(Action::Read, key));
        let state = &mut self.sessions[session];
        let wants = state.fill(Source {
            keyspace: &self.keyspace,
            epoch: &self.epoch,
            // Each connection gets on by an event at least, whatever others of its user hold.
            chunk: if share.is_short { 1 } else { EVENT_CHUNK_BYTES },
            steps: &mut share.steps,
            last: &mut self.last_event,
            counters: &mut self.counters,
            sees: sees.as_ref().map(|sees| sees as &Sees<'_>),
            larges: &mut held.larges,
            room,
        });
        if let Some(bytes) = wants {
            let enough = credit.quotas.buffered.saturating_sub(bytes);
            held.starved_above = match held.starved.is_empty() {
                true => enough,
                false => held.starved_above.max(enough),
            };
            held.starved.insert(session);
        } else if state.starved {
            held.starved.remove(&session);
        }
        state.starved = wants.is_some();
        self.charge(session);
    }

    /// Takes a large event back that a session has read, or will not read.
    pub(super) fn take_back(&mut self, session: usize, large: Large) {
        let place = self.credits[session].place;
        self.ledger.accounts[place].larges.let_go(large);
        self.feed(place);
    }

    /// Lets those sessions of a user try again that have waited for room, if there is some.
    fn feed(&mut self, place: usize) {
        let held = &mut self.ledger.accounts[place];
        if held.starved.is_empty()
            || (held.buffered() > held.starved_above && held.larges.bytes() > 0)
        {
            return;
        }
        for session in std::mem::take(&mut held.starved) {
            self.sessions[session].starved = false;
            self.set_due(session);
        }
    }

    /// Whether a session's user may hold so many more bytes of an unfinished line.
    pub(super) fn may_buffer(&self, session: usize, bytes: usize) -> bool {
        let charge = (bytes as u64).saturating_sub(FREE_BYTES);
        if charge == 0 {
            return true;
        }
        let credit = &self.credits[session];
        let others = self.ledger.look(credit).buffered() - credit.charged;
        others + charge <= credit.quotas.buffered
    }

    /// Refuses a request of a session whose user holds too much already.
    pub(super) fn check_buffered(&self, session: usize) -> Result<(), Refusal> {
        let credit = &self.credits[session];
        if credit.is_over {
            Err(self.over_buffered(session))
        } else {
            Ok(())
        }
    }

    pub(super) fn over_buffered(&self, session: usize) -> Refusal {
        let credit = &self.credits[session];
        let used = self.ledger.look(credit).buffered();
        credit.refusal(Resource::Buffered, used)
    }

    pub(super) fn check_subscriptions(
        &self,
        session: usize,
        pattern: &Pattern,
    ) -> Result<(), Refusal> {
        let credit = &self.credits[session];
        let used = self.ledger.look(credit).subscriptions;
        if used + weight(pattern) > credit.quotas.subscriptions {
            return Err(credit.refusal(Resource::Subscriptions, used));
        }
        Ok(())
    }

    /// Counts a subscription that is made, or ends.
    pub(super) fn count_subscription(&mut self, session: usize, pattern: &Pattern, is_made: bool) {
        let held = self.ledger.of(&self.credits[session]);
        if is_made {
            held.subscriptions += weight(pattern);
        } else {
            held.subscriptions -= weight(pattern);
        }
    }

    /// Whether so much may be put in the place of so much, of which so much is the session's user's own.
    pub(super) fn check_stored(
        &self,
        session: usize,
        old: Held,
        own: Held,
        new: Held,
    ) -> Result<(), Refusal> {
        let grows =
            |old: u64, new: u64, total: u64, limit: u64| new > old && total + new - old > limit;
        let limits = &self.limits;
        let limit = |message| Err(Refusal::new(ErrorCode::Limit, message));
        if grows(old.keys, new.keys, self.keyspace.keys(), limits.keys) {
            return limit(format!("the keyspace holds at most {} keys", limits.keys));
        }
        if grows(old.bytes, new.bytes, self.keyspace.bytes(), limits.bytes) {
            return limit(format!(
                "the keyspace holds at most {} bytes of keys and values",
                limits.bytes
            ));
        }
        let credit = &self.credits[session];
        let held = self.keyspace.held(credit.account);
        if grows(own.keys, new.keys, held.keys, credit.quotas.keys) {
            return Err(credit.refusal(Resource::Keys, held.keys));
        }
        if grows(own.bytes, new.bytes, held.bytes, credit.quotas.bytes) {
            return Err(credit.refusal(Resource::Bytes, held.bytes));
        }
        Ok(())
    }

    /// What each user holds, of those who hold anything.
    pub(super) fn users(&self) -> Vec<UserUse> {
        let none = Use::default();
        let mut users: BTreeMap<Account, (&Use, Held)> = BTreeMap::new();
        for (account, place) in &self.ledger.places {
            let now = &self.ledger.accounts[*place];
            users.insert(*account, (now, Held::default()));
        }
        for (account, held) in self.keyspace.accounts() {
            users.entry(account).or_insert((&none, held)).1 = held;
        }
        let users = users.into_iter().take(USERS_TOLD);
        users
            .map(|(account, (now, stored))| UserUse {
                uid: account.uid(),
                tcp: account == Account::TCP,
                connections: now.connections,
                subscriptions: now.subscriptions,
                keys: stored.keys,
                bytes: stored.bytes,
                buffered: now.buffered(),
            })
            .collect()
    }
}

impl Use {
    fn buffered(&self) -> u64 {
        self.charged + self.larges.bytes()
    }
}

impl Credit {
    pub(super) fn connections_max(&self) -> u64 {
        self.quotas.connections
    }

    fn refusal(&self, resource: Resource, used: u64) -> Refusal {
        self.quotas.refusal(self.account, resource, used)
    }
}

impl Quotas {
    fn by_default(limits: &Limits, is_free: bool) -> Quotas {
        let share = |limit: u64| if is_free { u64::MAX } else { limit.div_ceil(2) };
        let times = |limit: u64, factor: u64| match is_free {
            true => u64::MAX,
            false => limit.saturating_mul(factor),
        };
        Quotas {
            connections: share(limits.clients),
            subscriptions: times(limits.subscriptions, SUBSCRIPTIONS_FACTOR),
            keys: share(limits.keys),
            bytes: share(limits.bytes),
            buffered: times(limits.message, BUFFERED_MESSAGES),
        }
    }

    /// Refuses one more.
    fn check(&self, account: Account, resource: Resource, used: u64) -> Result<(), Refusal> {
        if used >= self.of(resource) {
            Err(self.refusal(account, resource, used))
        } else {
            Ok(())
        }
    }

    fn refusal(&self, account: Account, resource: Resource, used: u64) -> Refusal {
        let (name, limit) = (resource.as_str(), self.of(resource));
        let message = format!("{account} has used up the quota `{name}`: {used} of {limit}");
        Refusal::new(ErrorCode::Limit, message)
    }

    fn of(&self, resource: Resource) -> u64 {
        match resource {
            Resource::Connections => self.connections,
            Resource::Subscriptions => self.subscriptions,
            Resource::Keys => self.keys,
            Resource::Bytes => self.bytes,
            Resource::Buffered => self.buffered,
        }
    }
}

/// Whom a peer is charged to.
fn account(peer: &Peer) -> Account {
    match peer {
        Peer::Unix { uid, .. } => Account::user(*uid),
        Peer::Tcp(_) => Account::TCP,
    }
}

/// Whom the rules are held against.
pub(super) fn subject(peer: &Peer) -> Subject {
    match peer {
        Peer::Unix {
            uid, gid, groups, ..
        } => Subject::User {
            uid: *uid,
            gids: [&[*gid], groups.as_slice()].concat(),
        },
        Peer::Tcp(_) => Subject::Tcp,
    }
}

/// The steps that taking in so many bytes takes.
pub(super) fn steps_of(bytes: usize) -> u32 {
    u32::try_from(1 + bytes / BYTES_PER_STEP).unwrap_or(u32::MAX)
}

/// How many subscriptions one with this pattern counts as: one, unless it is long. Each segment is a place
/// of its own, with some hundred bytes, and a key with as many segments may lead to all of those of
/// patterns with stars.
fn weight(pattern: &Pattern) -> u64 {
    let segments = pattern.required_segments().count() as u64;
    segments.div_ceil(SEGMENTS_FREE).max(1).pow(2)
}

/// The steps that reading a line takes, and doing with its value whatever is to be done.
pub(super) fn steps_to_read(bytes: usize) -> u32 {
    u32::try_from(bytes / LINE_BYTES_PER_STEP).unwrap_or(u32::MAX)
}

/// How many bytes a session holds.
fn held_bytes(session: &Session) -> u64 {
    let job = session.job.as_ref().map_or(0, |job| job.gathered());
    (session.input.bytes.len() + session.out.len() + job) as u64
}
