//! Batches: all of it or nothing.
//!
//! A batch is judged before it touches anything. Its conditions (`check`, `if_rev`) are held against
//! the keyspace as it was before the batch. Its operations take effect in their order, so they are
//! planned over an overlay that says what the operations before them leave of each key they name;
//! `if_changed` looks at that. The quota is held against what the whole batch leaves. Only then is
//! the plan carried out, and nothing in that can fail.
//!
//! A batch can't go on in a later turn, so the keys that its patterns may look at are limited. For a client
//! that may not see all keys the limit must be no measure of the others: so for such a client each pattern
//! takes a fixed number of steps, which are enough for as much that is hidden.

use std::collections::BTreeMap;

use crate::access::Action;
use crate::key::{Key, KeyRef};
use crate::keyspace::{Account, Class, Held, Terms, Time};
use crate::session::Steps;
use crate::wire::{BatchOp, Delete, ErrorCode, Payload, Put};

use super::ops::{check_rev, held_by, is_unchanged};
use super::{Broker, Refusal, writable_key, writable_pattern};

/// How many keys the patterns of one batch may look at, all together.
const BATCH_WALK_MAX: u32 = 65_536;

/// So many steps a pattern takes for hidden keys where there can be such, whether there are any or not.
const HIDDEN_STEPS: u32 = 256;

/// One change that a batch makes.
enum Planned<'a> {
    Put {
        key: KeyRef<'a>,
        payload: &'a Payload<'a>,
        terms: Terms,
    },
    Renew {
        key: KeyRef<'a>,
        terms: Terms,
    },
    Delete {
        key: Key,
    },
}

/// What a batch does, and what it leaves behind as far as it is planned.
struct Plan<'a> {
    changes: Vec<Planned<'a>>,
    /// What each key that is put or deleted is left as.
    overlay: BTreeMap<Key, Left<'a>>,
    /// What the changes so far take away and add, and what of the former is the user's own.
    removed: Held,
    own: Held,
    added: Held,
    account: Account,
    /// For the keys that its patterns look at.
    steps: Steps,
}

#[derive(Clone, Copy)]
enum Left<'a> {
    Put(&'a Put<'a>, Terms),
    Deleted,
}

impl Broker {
    /// Carries out a batch and returns the revision of its last change, or the current one.
    pub(super) fn batch(
        &mut self,
        session: usize,
        ops: &[BatchOp<'_>],
        steps: &mut Steps,
        now: Time,
    ) -> Result<u64, Refusal> {
        let mut plan = Plan {
            changes: Vec::with_capacity(ops.len()),
            overlay: BTreeMap::new(),
            removed: Held::default(),
            own: Held::default(),
            added: Held::default(),
            account: self.credits[session].account,
            steps: Steps::new(BATCH_WALK_MAX),
        };
        for (at, op) in ops.iter().enumerate() {
            let planned = match op {
                BatchOp::Check { key, if_rev } => {
                    KeyRef::new(key).map_err(Refusal::from).and_then(|key| {
                        self.check_access(session, Action::Read, key)?;
                        self.judge(key, Some(*if_rev))
                    })
                }
                BatchOp::Put(put) => self.plan_put(&mut plan, session, put, now),
                BatchOp::Delete(delete) => self.plan_delete(&mut plan, session, delete),
            };
            if let Err(refusal) = planned {
                // It has been looked at, even if nothing comes of it.
                steps.take(plan.steps.taken());
                let at = Some(at);
                return Err(Refusal { at, ..refusal });
            }
        }
        steps.take(plan.steps.taken());
        self.check_stored(session, plan.removed, plan.own, plan.added)?;
        for op in ops {
            match op {
                BatchOp::Put(_) => self.counters.puts += 1,
                BatchOp::Delete(_) => self.counters.deletes += 1,
                BatchOp::Check { .. } => {}
            }
        }
        for change in &plan.changes {
            match change {
                Planned::Put {
                    key,
                    payload,
                    terms,
                } => {
                    let rev = self.keyspace.put(*key, payload, *terms);
                    self.mark(*key, rev);
                }
                Planned::Renew { key, terms } => {
                    self.keyspace.renew(*key, terms.owner, terms.deadline);
                }
                Planned::Delete { key } => {
                    self.delete_key(key.borrowed());
                }
            }
        }
        Ok(self.keyspace.rev())
    }

    /// Holds a condition against the state before the batch.
    fn judge(&self, key: KeyRef<'_>, if_rev: Option<u64>) -> Result<(), Refusal> {
        check_rev(key, self.keyspace.entry(key).as_ref(), if_rev)
    }

    fn plan_put<'a>(
        &self,
        plan: &mut Plan<'a>,
        session: usize,
        put: &'a Put<'a>,
        now: Time,
    ) -> Result<(), Refusal> {
        let key = writable_key(&put.key)?;
        self.check_put(session, key, put)?;
        let terms = self.terms(session, key, put, now)?;
        self.judge(key, put.if_rev)?;
        let left = plan.overlay.get(key.as_str()).copied();
        let is_unchanged = put.if_changed
            && match left {
                Some(Left::Put(earlier, earlier_terms)) => {
                    earlier.payload == put.payload && earlier_terms.lifetime == terms.lifetime
                }
                Some(Left::Deleted) => false,
                None => {
                    let entry = self.keyspace.entry(key);
                    entry.is_some_and(|entry| is_unchanged(&entry, put, terms.lifetime))
                }
            };
        if is_unchanged {
            if terms.deadline.is_some() {
                self.check_writable(Class::of(terms.lifetime))?;
            }
            plan.changes.push(Planned::Renew { key, terms });
            return Ok(());
        }
        self.check_replaceable(key, left)?;
        self.check_writable(Class::of(terms.lifetime))?;
        plan.take_away(self.held(key, left));
        plan.added += held_by(put);
        plan.overlay.insert(key.to_key(), Left::Put(put, terms));
        plan.changes.push(Planned::Put {
            key,
            payload: &put.payload,
            terms,
        });
        Ok(())
    }

    fn plan_delete<'a>(
        &self,
        plan: &mut Plan<'a>,
        session: usize,
        delete: &'a Delete<'a>,
    ) -> Result<(), Refusal> {
        let pattern = writable_pattern(&delete.key)?;
        if !pattern.has_star() {
            let key = KeyRef::new(&delete.key)?;
            self.check_deletion(session, key)?;
            self.judge(key, delete.if_rev)?;
            return self.plan_delete_key(plan, key.to_key());
        }
        if delete.if_rev.is_some() {
            return Err(Refusal::bad_request(
                "`if_rev` goes with a key, this is a pattern",
            ));
        }
        self.check_access_to_some(session, Action::Write, &pattern)?;
        // These are looked at whether or not there is any other key.
        let planned = u32::try_from(plan.overlay.len()).unwrap_or(u32::MAX);
        plan.steps.take(planned);
        plan.check_steps()?;
        let put_before = plan.overlay.iter().filter(|(key, left)| {
            matches!(left, Left::Put(..))
                && pattern.matches(key.borrowed())
                && self.may_sweep(session, key.borrowed())
        });
        let mut found: Vec<Key> = put_before.map(|(key, _)| key.clone()).collect();
        let mut hidden = Steps::default();
        if self.grants[session].is_some() {
            hidden = Steps::new(HIDDEN_STEPS);
            plan.steps.take(HIDDEN_STEPS);
            plan.check_steps()?;
        }
        for (key, entry) in self.keyspace.walk(&pattern, None) {
            let is_seen = self.may(session, Action::Read, key.borrowed());
            let steps = match is_seen || !hidden.are_left() {
                true => &mut plan.steps,
                false => &mut hidden,
            };
            steps.take_key(key);
            plan.check_steps()?;
            let is_swept = entry.is_some() && self.may_sweep(session, key.borrowed());
            if is_swept && !plan.overlay.contains_key(key) {
                found.push(key.clone());
            }
        }
        found.sort_unstable();
        for key in found {
            self.plan_delete_key(plan, key)?;
        }
        Ok(())
    }

    /// Plans the deletion of a key, if there will be such a key.
    fn plan_delete_key(&self, plan: &mut Plan<'_>, key: Key) -> Result<(), Refusal> {
        let left = plan.overlay.get(&key).copied();
        let held = self.held(key.borrowed(), left);
        if held.is_none() {
            return Ok(());
        }
        self.check_replaceable(key.borrowed(), left)?;
        plan.take_away(held);
        plan.overlay.insert(key.clone(), Left::Deleted);
        plan.changes.push(Planned::Delete { key });
        Ok(())
    }

    /// Refuses to change what can't be written at present. What the batch itself has put is checked
    /// where it is planned.
    fn check_replaceable(&self, key: KeyRef<'_>, left: Option<Left<'_>>) -> Result<(), Refusal> {
        match (left, self.keyspace.entry(key)) {
            (None, Some(entry)) => self.check_writable(Class::of(entry.lifetime)),
            _ => Ok(()),
        }
    }

    /// What is held with a key, and whose it is, as the plan leaves it so far; nothing where there is
    /// no such key.
    fn held(&self, key: KeyRef<'_>, left: Option<Left<'_>>) -> Option<(Account, Held)> {
        match left {
            Some(Left::Put(put, terms)) => Some((terms.account, held_by(put))),
            Some(Left::Deleted) => None,
            None => {
                let entry = self.keyspace.entry(key)?;
                Some((entry.account, entry.held()))
            }
        }
    }
}

impl Plan<'_> {
    fn check_steps(&self) -> Result<(), Refusal> {
        if self.steps.are_left() {
            return Ok(());
        }
        let message = format!(
            "the patterns of a batch may look at {BATCH_WALK_MAX} keys, of which long ones count as \
             several; delete by key, or by pattern outside a batch"
        );
        Err(Refusal::new(ErrorCode::Limit, message))
    }

    fn take_away(&mut self, held: Option<(Account, Held)>) {
        if let Some((account, held)) = held {
            self.removed += held;
            if account == self.account {
                self.own += held;
            }
        }
    }
}
