//! Claims: subtrees that one connection alone may write.
//!
//! A claim of `a.b` is an entry under `$claims.a.b`, of lifetime `session`, that belongs to the
//! connection. So everything that entries can do claims can do as well: they end with their connection,
//! are written to the boot journal, wait for ten seconds after a restart, and can be listed and
//! subscribed to. No one else can put or delete such an entry, because the key is the daemon's.
//!
//! The value says who holds the claim, and after a restart who may have it back: the same process
//! (or, over TCP, the same remote address), not whoever is quickest.
//!
//! Whether a key is claimed is looked up for each of its ancestors, but only while there are claims
//! at all.

use std::collections::HashMap;

use crate::access::Action;
use crate::key::{KEY_BYTES_MAX, Key, KeyRef, Pattern};
use crate::keyspace::{Class, Entry, Held, Owner, Terms};
use crate::session::{Peer, Session};
use crate::wire::{ErrorCode, Lifetime, Payload};

use super::{Broker, Refusal, writable_key};

/// How many claims one request looks at, at most: `clients` tells of no more, and a key with more claims
/// below it can't be claimed.
const LOOKED_AT_MAX: usize = 1024;
/// What looking at a claim takes, and looking for one above a key, beside a look at something smaller.
const LOOKS_PER_CLAIM: usize = 8;
const LOOKS_PER_ANCESTOR: usize = 4;

/// What stands before a key that is claimed.
const PREFIX: &str = "$claims.";

impl Broker {
    /// Claims a key and all below it for a session, and returns the revision of the claim.
    pub(super) fn claim(&mut self, session: usize, key: &str) -> Result<u64, Refusal> {
        let key = writable_key(key)?;
        self.check_owns(session, key)?;
        let claim = claim_key(key)?;
        self.check_no_overlap(session, key, claim.borrowed())?;
        self.check_writable(Class::Boot)?;
        let owner = self.sessions[session].owner;
        if let Some(entry) = self.keyspace.entry(claim.borrowed()) {
            let rev = entry.rev;
            self.keyspace.renew(claim.borrowed(), Some(owner), None);
            return Ok(rev);
        }
        let holder = holder(&self.sessions[session]);
        let new = Held {
            keys: 1,
            bytes: (claim.as_str().len() + holder.len()) as u64,
        };
        self.check_stored(session, Held::default(), Held::default(), new)?;
        let terms = Terms {
            lifetime: Lifetime::Session,
            owner: Some(owner),
            deadline: None,
            account: self.credits[session].account,
        };
        let payload = Payload::Json(holder.into());
        let rev = self.keyspace.put(claim.borrowed(), &payload, terms);
        self.mark(claim.borrowed(), rev);
        Ok(rev)
    }

    /// Lets go of a claim, and returns the revision of that.
    pub(super) fn release(&mut self, session: usize, key: &str) -> Result<u64, Refusal> {
        let key = writable_key(key)?;
        let claim = claim_key(key)?;
        let entry = self.keyspace.entry(claim.borrowed());
        if !entry.is_some_and(|entry| self.holds(session, &entry)) {
            let message = format!("this connection has not claimed {key}");
            return Err(Refusal::new(ErrorCode::NotFound, message));
        }
        self.check_writable(Class::Boot)?;
        let rev = self.delete_key(claim.borrowed());
        Ok(rev.unwrap_or(self.keyspace.rev()))
    }

    /// Refuses a claim where another connection has claimed something above or below.
    fn check_no_overlap(
        &self,
        session: usize,
        key: KeyRef<'_>,
        claim: KeyRef<'_>,
    ) -> Result<(), Refusal> {
        let conflict = |held| {
            let message = self.is_claimed(session, key, held);
            Err(Refusal::new(ErrorCode::Conflict, message))
        };
        if let Some(held) = self.held_by_another(session, key) {
            return conflict(held);
        }
        let subtree = Pattern::new(claim.as_str())?.with_descendants();
        for (number, (_, entry)) in self.keyspace.walk(&subtree, None).enumerate() {
            self.take_for(LOOKS_PER_CLAIM);
            if number == LOOKED_AT_MAX {
                let message = format!("there are more than {LOOKED_AT_MAX} claims below {key}");
                return Err(Refusal::new(ErrorCode::Limit, message));
            }
            if let Some(held) = entry.filter(|held| !self.holds(session, held)) {
                return conflict(held);
            }
        }
        Ok(())
    }

    /// Refuses what would change a key that another connection has claimed.
    pub(super) fn check_claims(&self, session: usize, key: KeyRef<'_>) -> Result<(), Refusal> {
        match self.held_by_another(session, key) {
            Some(held) => {
                let message = self.is_claimed(session, key, held);
                Err(Refusal::new(ErrorCode::Denied, message))
            }
            None => Ok(()),
        }
    }

    /// What is claimed, as far as a session may know it, by the connection that has claimed it.
    pub(super) fn claims_seen_by(&self, session: usize) -> HashMap<Owner, Vec<String>> {
        let mut claims: HashMap<Owner, Vec<String>> = HashMap::new();
        if self.keyspace.reserved_keys() == 0 {
            return claims;
        }
        let all = Pattern::new("$claims.*").expect("this is a pattern");
        for (key, entry) in self.keyspace.walk(&all, None).take(LOOKED_AT_MAX) {
            self.take_for(LOOKS_PER_CLAIM);
            let Some(owner) = entry.and_then(|entry| entry.owner) else {
                continue;
            };
            let claimed = &key.as_str()[PREFIX.len()..];
            let is_seen =
                KeyRef::new(claimed).is_ok_and(|claimed| self.may(session, Action::Read, claimed));
            if is_seen {
                claims.entry(owner).or_default().push(claimed.to_owned());
            }
        }
        claims
    }

    /// Why a session can't have a key: what is claimed, and by whom, as far as the session may know it.
    fn is_claimed(&self, session: usize, wanted: KeyRef<'_>, claim: Entry<'_>) -> String {
        let key = &claim.key.as_str()[PREFIX.len()..];
        let sees = |key| self.may(session, Action::Read, key);
        if !sees(claim.key.borrowed()) && !KeyRef::new(key).is_ok_and(sees) {
            return format!(
                "{wanted} is claimed by another connection, or something above or below it is"
            );
        }
        let holder = match claim.payload() {
            Payload::Json(holder) => holder,
            Payload::Bytes(_) => "somebody".into(),
        };
        match claim.owner {
            Some(_) => format!("{key} is claimed by {holder}"),
            None => format!("{key} was claimed by {holder}, who may still come back for it"),
        }
    }

    /// The claim that keeps a session from writing a key.
    fn held_by_another(&self, session: usize, key: KeyRef<'_>) -> Option<Entry<'_>> {
        if self.keyspace.reserved_keys() == 0 {
            return None;
        }
        let claim = claim_of(key);
        let ends = memchr::memchr_iter(b'.', claim.as_bytes()).skip(1);
        let claims = ends.chain([claim.len()]).map(|end| {
            self.take_for(LOOKS_PER_ANCESTOR);
            &claim[..end]
        });
        claims
            .filter_map(|claim| self.keyspace.entry(KeyRef::new(claim).ok()?))
            .find(|entry| !self.holds(session, entry))
    }

    /// Whether a claim is a session's, or was before the daemon was started again.
    fn holds(&self, session: usize, claim: &Entry<'_>) -> bool {
        let state = &self.sessions[session];
        match claim.owner {
            Some(owner) => owner == state.owner,
            None => claim.is(&Payload::Json(holder(state).into())),
        }
    }
}

fn claim_of(key: KeyRef<'_>) -> String {
    format!("{PREFIX}{key}")
}

/// The key of a key's claim, which has to be one itself.
fn claim_key(key: KeyRef<'_>) -> Result<Key, Refusal> {
    match KeyRef::new(&claim_of(key)) {
        Ok(claim) => Ok(claim.to_key()),
        Err(_) => Err(Refusal::new(
            ErrorCode::TooLarge,
            format!(
                "a key that is claimed has at most {} bytes, this one has {}",
                KEY_BYTES_MAX - PREFIX.len(),
                key.as_str().len()
            ),
        )),
    }
}

/// Who a session is, as the value of a claim.
fn holder(session: &Session) -> String {
    match &session.peer {
        Peer::Unix { pid, uid, .. } => format!(r#"{{"uid":{uid},"pid":{pid}}}"#),
        Peer::Tcp(address) => format!(r#"{{"address":"{}"}}"#, address.ip()),
    }
}
