//! Quotas: how much of the daemon one user may hold, so that no one starves the others.
//!
//! Whatever a connection holds is charged to its user, and all who come over TCP are one user. Bounded are
//! connections, subscriptions, keys and bytes stored, and bytes of the daemon's memory (`buffers`). Who wants
//! more than that is refused; nobody else is. What is used and not held, the time of a turn, is shared out
//! (`shares`).
//!
//! Root has no quotas, unless the rules say so, and neither has the user whose daemon it is. The
//! others may hold half of each limit.

use std::collections::BTreeMap;

use slab::Slab;

use crate::access::Resource;
use crate::key::Pattern;
use crate::keyspace::{Account, Held};
use crate::session::{Peer, Session};
use crate::wire::{ErrorCode, Limits};

use super::access::subject;
use super::buffers::Buffered;
use super::shares::Left;
use super::{Broker, Refusal};

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
    pub(super) place: usize,
    quotas: Quotas,
    /// How much of what is buffered is this session's.
    pub(super) charged: u64,
    /// Whether its user has more buffered than it may, so that its requests are refused.
    pub(super) is_over: bool,
}

/// A number for each [`Resource`].
type Quotas = [u64; Resource::ALL.len()];

/// What each user with a connection holds, apart from keys, and has left of this turn.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    places: BTreeMap<Account, usize>,
    accounts: Slab<Use>,
    turn: u64,
}

#[derive(Debug)]
pub(super) struct Use {
    connections: u64,
    subscriptions: u64,
    pub(super) buffered: Buffered,
    left: Left,
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
            self.accounts.insert(Use {
                connections: 0,
                subscriptions: 0,
                buffered: Buffered::default(),
                left: Left::all_of(self.turn),
            })
        })
    }

    pub(super) fn at(&mut self, place: usize) -> &mut Use {
        &mut self.accounts[place]
    }

    pub(super) fn look(&self, credit: &Credit) -> &Use {
        &self.accounts[credit.place]
    }

    /// What an account has left of this turn.
    pub(super) fn left(&mut self, credit: &Credit) -> &mut Left {
        let left = &mut self.accounts[credit.place].left;
        if left.turn != self.turn {
            *left = Left::all_of(self.turn);
        }
        left
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
        let mut credit = Credit {
            account,
            place: 0,
            quotas,
            charged: 0,
            is_over: false,
        };
        credit.check(Resource::Connections, used, 1)?;
        credit.place = self.ledger.place(account);
        self.ledger.at(credit.place).connections += 1;
        Ok(credit)
    }

    /// Gives back what a connection has held.
    pub(super) fn dismiss(&mut self, number: usize, credit: &Credit, state: &mut Session) {
        let patterns = state.subscriptions.iter();
        let subscriptions: u64 = patterns.map(|(_, one)| weight(one.pattern())).sum();
        let held = self.ledger.at(credit.place);
        held.connections -= 1;
        held.subscriptions -= subscriptions;
        held.buffered.forget(number, credit.charged, state);
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
        let quotas = Resource::ALL.map(|resource| {
            let rules = self.rules.as_ref();
            match rules.and_then(|rules| rules.quota(&subject, resource)) {
                Some((amount, ..)) => amount,
                None if is_free => u64::MAX,
                None => by_default(&self.limits, resource),
            }
        });
        (account, quotas)
    }

    /// Holds a session to the quotas of the rules that are in force now. What is held already stays.
    pub(super) fn renew_quotas(&mut self, session: usize) {
        let (_, quotas) = self.quotas_of(&self.sessions[session].peer);
        self.credits[session].quotas = quotas;
    }

    pub(super) fn check_subscriptions(
        &self,
        session: usize,
        pattern: &Pattern,
    ) -> Result<(), Refusal> {
        let credit = &self.credits[session];
        let used = self.ledger.look(credit).subscriptions;
        credit.check(Resource::Subscriptions, used, weight(pattern))
    }

    /// Counts a subscription that is made, or ends.
    pub(super) fn count_subscription(&mut self, session: usize, pattern: &Pattern, is_made: bool) {
        let held = self.ledger.at(self.credits[session].place);
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
        if grows(own.keys, new.keys, held.keys, credit.quota(Resource::Keys)) {
            return Err(credit.refusal(Resource::Keys, held.keys));
        }
        if grows(
            own.bytes,
            new.bytes,
            held.bytes,
            credit.quota(Resource::Bytes),
        ) {
            return Err(credit.refusal(Resource::Bytes, held.bytes));
        }
        Ok(())
    }

    /// What each user holds, of those who hold anything.
    pub(super) fn users(&self) -> Vec<UserUse> {
        let mut users: BTreeMap<Account, (Option<&Use>, Held)> = BTreeMap::new();
        for (account, place) in &self.ledger.places {
            users.entry(*account).or_default().0 = Some(&self.ledger.accounts[*place]);
        }
        for (account, held) in self.keyspace.accounts() {
            users.entry(account).or_default().1 = held;
        }
        let users = users.into_iter().take(USERS_TOLD);
        users
            .map(|(account, (now, stored))| UserUse {
                uid: account.uid(),
                tcp: account == Account::TCP,
                connections: now.map_or(0, |now| now.connections),
                subscriptions: now.map_or(0, |now| now.subscriptions),
                keys: stored.keys,
                bytes: stored.bytes,
                buffered: now.map_or(0, |now| now.buffered.bytes()),
            })
            .collect()
    }
}

impl Credit {
    pub(super) fn quota(&self, resource: Resource) -> u64 {
        self.quotas[resource as usize]
    }

    /// Refuses so much more.
    fn check(&self, resource: Resource, used: u64, more: u64) -> Result<(), Refusal> {
        if used + more > self.quota(resource) {
            Err(self.refusal(resource, used))
        } else {
            Ok(())
        }
    }

    pub(super) fn refusal(&self, resource: Resource, used: u64) -> Refusal {
        let (account, name, limit) = (self.account, resource.as_str(), self.quota(resource));
        let message = format!("{account} has used up the quota `{name}`: {used} of {limit}");
        Refusal::new(ErrorCode::Limit, message)
    }
}

/// What a user may hold of whom the rules say nothing.
fn by_default(limits: &Limits, resource: Resource) -> u64 {
    match resource {
        Resource::Connections => limits.clients.div_ceil(2),
        Resource::Subscriptions => limits.subscriptions.saturating_mul(SUBSCRIPTIONS_FACTOR),
        Resource::Keys => limits.keys.div_ceil(2),
        Resource::Bytes => limits.bytes.div_ceil(2),
        Resource::Buffered => limits.message.saturating_mul(BUFFERED_MESSAGES),
    }
}

/// Whom a peer is charged to.
fn account(peer: &Peer) -> Account {
    match peer {
        Peer::Unix { uid, .. } => Account::user(*uid),
        Peer::Tcp(_) => Account::TCP,
    }
}

/// How many subscriptions one with this pattern counts as: one, unless it is long. It takes as much more memory
/// then, and time to be held against a key.
fn weight(pattern: &Pattern) -> u64 {
    let segments = pattern.required_segments().count() as u64;
    segments.div_ceil(SEGMENTS_FREE).max(1).pow(2)
}
