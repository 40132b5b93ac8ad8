//! The rules, held against requests and against what is told.
//!
//! A request about a key that a peer may not see is refused in the same way whether there is such a key
//! or not. A request about a pattern covers what the peer may see, and says nothing of the rest; where
//! it can't be about anything that the peer may see it is refused, because that is a mistake of
//! whoever wrote the rules or the program, and the rules are no secret.

use std::sync::Arc;

use crate::access::{Action, Grants, Rules, Subject, rank};
use crate::key::{KeyRef, Pattern};
use crate::wire::{ErrorCode, Lifetime, Put};

use super::{Broker, Peer, Refusal, epoch_under};

impl Broker {
    /// Replaces the rules. Subscriptions of sessions of which the new rules say something else start
    /// over, with a `reset`, and where anything else is said of anybody the epoch changes, so that nobody
    /// resumes with what was to be seen before. To be called between two turns.
    pub fn set_rules(&mut self, rules: Option<Arc<Rules>>) {
        let mark = |rules: &Option<Arc<Rules>>| rules.as_ref().and_then(|rules| rules.mark());
        if mark(&rules) != mark(&self.rules) {
            self.rules_changed += 1;
            self.epoch = epoch_under(&self.history, rules.as_deref(), self.rules_changed);
        }
        self.rules = rules;
        let numbers: Vec<usize> = self.sessions.iter().map(|(number, _)| number).collect();
        for number in numbers {
            self.renew_quotas(number);
            let grants = self.grants_of(&self.sessions[number].peer);
            if grants != self.grants[number] {
                self.grants[number] = grants;
                self.sessions[number].restart_subscriptions();
                self.set_due(number);
            }
        }
    }

    pub(super) fn grants_of(&self, peer: &Peer) -> Option<Grants> {
        self.rules.as_ref()?.grants(&subject(peer))
    }

    /// Refuses what the session may not do to a key.
    pub(super) fn check_access(
        &self,
        session: usize,
        action: Action,
        key: KeyRef<'_>,
    ) -> Result<(), Refusal> {
        if self.may(session, action, key) {
            Ok(())
        } else {
            Err(denied(action, key.as_str()))
        }
    }

    /// Refuses what the session may not do to any key of a pattern.
    pub(super) fn check_access_to_some(
        &self,
        session: usize,
        action: Action,
        pattern: &Pattern,
    ) -> Result<(), Refusal> {
        match &self.grants[session] {
            Some(grants) if !grants.allow_some(action, pattern) => {
                Err(denied(action, pattern.as_str()))
            }
            _ => Ok(()),
        }
    }

    /// Refuses to let a session claim a subtree, unless it may own every key of it.
    pub(super) fn check_owns(&self, session: usize, key: KeyRef<'_>) -> Result<(), Refusal> {
        let subtree = Pattern::new(key.as_str())?.with_descendants();
        match &self.grants[session] {
            Some(grants) if !grants.allow_all(Action::Own, &subtree) => {
                Err(denied(Action::Own, subtree.as_str()))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn may(&self, session: usize, action: Action, key: KeyRef<'_>) -> bool {
        let grants = self.grants[session].as_ref();
        grants.is_none_or(|grants| grants.allow(action, key))
    }

    /// Refuses a put that the session may not make. A condition tells of what is there, so it takes
    /// the right to read.
    pub(super) fn check_put(
        &self,
        session: usize,
        key: KeyRef<'_>,
        put: &Put<'_>,
    ) -> Result<(), Refusal> {
        self.check_access(session, Action::Write, key)?;
        self.check_claims(session, key)?;
        if put.if_rev.is_some() || put.if_changed {
            self.check_access(session, Action::Read, key)?;
        }
        Ok(())
    }

    /// Refuses a deletion of a key that the session may not make. Its answer tells whether there was such
    /// a key, so it takes the right to read.
    pub(super) fn check_deletion(&self, session: usize, key: KeyRef<'_>) -> Result<(), Refusal> {
        self.check_access(session, Action::Write, key)?;
        self.check_access(session, Action::Read, key)?;
        self.check_claims(session, key)
    }

    /// Whether a deletion by pattern covers a key: what can't be seen is not deleted in passing, and
    /// neither is what another connection has claimed.
    pub(super) fn may_sweep(&self, session: usize, key: KeyRef<'_>) -> bool {
        self.may(session, Action::Write, key)
            && self.may(session, Action::Read, key)
            && self.check_claims(session, key).is_ok()
    }

    /// The lifetime that a put asks for, or by default gets, within what the rules allow.
    pub(super) fn lifetime(&self, key: KeyRef<'_>, put: &Put<'_>) -> Result<Lifetime, Refusal> {
        let by_default = if put.ttl_ms.is_some() {
            Lifetime::Boot
        } else {
            Lifetime::Durable
        };
        let rules = self.rules.as_ref();
        let Some((longest, ..)) = rules.and_then(|rules| rules.longest_lifetime(key)) else {
            return Ok(put.lifetime.unwrap_or(by_default));
        };
        match put.lifetime {
            Some(asked) if rank(asked) > rank(longest) => {
                let (asked, longest) = (asked.as_str(), longest.as_str());
                let message = format!("{key} may be {longest} at the longest, not {asked}");
                Err(Refusal::new(ErrorCode::Denied, message))
            }
            Some(asked) => Ok(asked),
            None if rank(by_default) > rank(longest) => Ok(longest),
            None => Ok(by_default),
        }
    }
}

fn denied(action: Action, what: &str) -> Refusal {
    let message = format!("this client may not {} {what}", action.as_str());
    Refusal::new(ErrorCode::Denied, message)
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
