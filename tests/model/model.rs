//! The keyspace as a person would keep it on paper: a map of entries, and for each key everything
//! that ever happened to it. No index, no trie, no slots; every question is a scan.

use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;

use nkv::access::{Action, Resource, rank};
use nkv::journal::{ORPHAN_PATIENCE, Writable};
use nkv::keyspace::{Account, Class};
use nkv::wire::{ErrorCode, Lifetime, Limits, Payload};

use super::pattern::matches;
use super::rights::View;

/// What stands before a key that is claimed.
const CLAIMS: &str = "$claims.";

pub(crate) type Value = Rc<Payload<'static>>;

/// A request with nothing left to look up.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    Put(Put),
    Get(String),
    List(List),
    Delete(String, Option<u64>),
    DeleteAll(String),
    Batch(Vec<Item>),
    Subscribe(Subscribe),
    Unsubscribe(&'static str),
    Claim(String),
    Release(String),
    Hello,
    Stats,
    Ping,
    /// No request at all, and what it is refused with.
    Malformed(ErrorCode),
}

#[derive(Clone, Debug)]
pub(crate) enum Item {
    Put(Put),
    Delete(String, Option<u64>),
    DeleteAll(String),
    Check(String, u64),
}

#[derive(Clone, Debug)]
pub(crate) struct Put {
    pub(crate) key: String,
    pub(crate) value: Value,
    pub(crate) if_rev: Option<u64>,
    pub(crate) if_changed: bool,
    pub(crate) lifetime: Option<Lifetime>,
    pub(crate) ttl: Option<u64>,
}

#[derive(Clone, Debug)]
pub(crate) struct List {
    pub(crate) pattern: String,
    pub(crate) limit: Option<u64>,
    pub(crate) after: Option<String>,
    pub(crate) keys_only: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Subscribe {
    pub(crate) name: &'static str,
    pub(crate) cover: Cover,
    pub(crate) initial: bool,
    pub(crate) cuts: bool,
    /// The revision and the epoch.
    pub(crate) since: Option<(u64, String)>,
    /// What was to be seen where it resumes from, if that is known.
    pub(crate) held: Option<View>,
}

/// Which keys a subscription covers.
#[derive(Clone, Debug)]
pub(crate) struct Cover {
    pub(crate) pattern: String,
    pub(crate) exact: bool,
}

/// A refusal as it is to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) code: ErrorCode,
    pub(crate) rev: Option<u64>,
    pub(crate) at: Option<u64>,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) value: Value,
    pub(crate) rev: u64,
    pub(crate) lifetime: Lifetime,
    /// The connection that it ends with.
    pub(crate) owner: Option<u64>,
    pub(crate) deadline: Option<u64>,
    /// Who put it last.
    account: Account,
    /// When it ends if nobody puts it again, after a start without its owner.
    orphan_end: Option<u64>,
}

#[derive(Clone)]
pub(crate) struct Model {
    pub(crate) entries: BTreeMap<String, Entry>,
    /// What every key became, and when; nothing where it was deleted.
    history: BTreeMap<String, Vec<(u64, Option<Value>)>>,
    pub(crate) rev: u64,
    /// Revisions that more of the same batch follows.
    inside: HashSet<u64>,
    /// Deleted keys that the broker is to remember.
    tombstones: BTreeMap<u64, String>,
    pub(crate) floor: u64,
    pub(crate) limits: Limits,
    /// Connections that have ended and may own entries.
    pub(crate) departed: HashSet<u64>,
    pub(crate) now: u64,
    /// What can be kept at present.
    pub(crate) writable: Writable,
}

/// Who asks: a connection, by its number, and what it may do.
#[derive(Clone, Debug)]
pub(crate) struct By {
    pub(crate) owner: u64,
    pub(crate) view: View,
    pub(crate) account: Account,
    /// Whether it may hold as much as everybody together.
    pub(crate) is_free: bool,
    /// Who it is, as a claim says it.
    pub(crate) holder: String,
}

/// Keys and bytes, and those of one user.
#[derive(Clone, Copy, Debug)]
struct Size {
    all: (u64, u64),
    own: (u64, u64),
}

/// Keys and revisions and values of a part of the keyspace.
pub(crate) type Picture = BTreeMap<String, (u64, Value)>;

impl Request {
    /// Whether it may change something.
    pub(crate) fn is_write(&self) -> bool {
        matches!(
            self,
            Request::Put(_)
                | Request::Delete(..)
                | Request::DeleteAll(_)
                | Request::Batch(_)
                | Request::Claim(_)
                | Request::Release(_)
        )
    }
}

impl Cover {
    pub(crate) fn covers(&self, key: &str) -> bool {
        matches(&self.pattern, self.exact, key)
    }
}

fn refused(code: ErrorCode) -> Refused {
    Refused {
        code,
        rev: None,
        at: None,
    }
}

impl Model {
    pub(crate) fn new(limits: Limits) -> Model {
        Model {
            entries: BTreeMap::new(),
            history: BTreeMap::new(),
            rev: 0,
            inside: HashSet::new(),
            tombstones: BTreeMap::new(),
            floor: 0,
            limits,
            departed: HashSet::new(),
            now: 0,
            writable: Writable::default(),
        }
    }

    /// The model as it was before a turn that is undone: only revisions are used up.
    pub(crate) fn undo(&mut self, before: &Model) {
        let rev = self.rev;
        *self = before.clone();
        self.rev = rev;
    }

    /// All that was kept is there again; deletions up to a revision may not be remembered.
    pub(crate) fn restart(&mut self, floor: u64) {
        let patience = u64::try_from(ORPHAN_PATIENCE.as_millis()).expect("it is seconds");
        for entry in self.entries.values_mut() {
            entry.owner = None;
            entry.orphan_end = (entry.lifetime == Lifetime::Session).then_some(self.now + patience);
        }
        self.departed.clear();
        let last = self.history.iter().filter_map(|(key, history)| {
            let (rev, value) = history.last()?;
            (value.is_none() && *rev > floor).then(|| (*rev, key.clone()))
        });
        self.tombstones = last.collect();
        self.floor = floor;
        self.writable = Writable::default();
        self.end_turn();
    }

    pub(crate) fn keys_matching(&self, pattern: &str) -> Vec<String> {
        let keys = self.entries.keys();
        keys.filter(|key| matches(pattern, true, key))
            .cloned()
            .collect()
    }

    pub(crate) fn bytes(&self) -> u64 {
        let sizes = self.entries.iter();
        sizes
            .map(|(key, entry)| (key.len() + entry.value.len()) as u64)
            .sum()
    }

    pub(crate) fn tombstones(&self) -> u64 {
        self.tombstones.len() as u64
    }

    pub(crate) fn rev_of(&self, key: &str) -> u64 {
        self.entries.get(key).map_or(0, |entry| entry.rev)
    }

    /// The revision, and whether the value was there before.
    pub(crate) fn put(&mut self, put: &Put, by: &By) -> Result<(u64, bool), Refused> {
        self.check_unclaimed(&put.key, by)?;
        let lifetime = terms(put, &by.view)?;
        self.judge(&put.key, put.if_rev)?;
        if self.is_unchanged(put, lifetime) {
            self.check_renewal(put, lifetime)?;
            self.renew(put, lifetime, by.owner);
            return Ok((self.rev_of(&put.key), true));
        }
        self.check_put(&put.key, lifetime)?;
        self.check_put_quota(&put.key, &put.value, by)?;
        self.set(put, lifetime, by);
        Ok((self.rev, false))
    }

    /// All or nothing: carried out on a copy that replaces the model if nothing is refused.
    pub(crate) fn batch(&mut self, items: &[Item], by: &By) -> Result<u64, Refused> {
        let mut copy = self.clone();
        for (at, item) in items.iter().enumerate() {
            let done = match item {
                Item::Check(key, if_rev) => {
                    may(by, &[Action::Read], key).and_then(|()| self.judge(key, Some(*if_rev)))
                }
                Item::Put(put) => self.check_unclaimed(&put.key, by).and_then(|()| {
                    let lifetime = terms(put, &by.view)?;
                    self.judge(&put.key, put.if_rev)?;
                    if copy.is_unchanged(put, lifetime) {
                        copy.check_renewal(put, lifetime)?;
                        copy.renew(put, lifetime, by.owner);
                        return Ok(());
                    }
                    copy.check_put(&put.key, lifetime)?;
                    copy.set(put, lifetime, by);
                    Ok(())
                }),
                Item::Delete(key, if_rev) => may_delete(by, key).and_then(|()| {
                    self.check_unclaimed(key, by)?;
                    self.judge(key, *if_rev)?;
                    copy.check_there(key)?;
                    copy.delete(key);
                    Ok(())
                }),
                Item::DeleteAll(pattern) => may_some(by, Action::Write, pattern, true)
                    .and_then(|()| copy.delete_all(pattern, by).map(drop)),
            };
            done.map_err(|refused| Refused {
                at: Some(at as u64),
                ..refused
            })?;
        }
        self.check_quota(self.size(by), copy.size(by), by)?;
        copy.inside.extend(self.rev + 1..copy.rev);
        *self = copy;
        Ok(self.rev)
    }

    pub(crate) fn delete_if(
        &mut self,
        key: &str,
        if_rev: Option<u64>,
        by: &By,
    ) -> Result<bool, Refused> {
        may_delete(by, key)?;
        self.check_unclaimed(key, by)?;
        self.judge(key, if_rev)?;
        self.check_there(key)?;
        Ok(self.delete(key))
    }

    /// Deletes what a pattern matches and a client may delete in passing, in the order of keys up to the
    /// first that can't be, and returns how many.
    pub(crate) fn delete_all(&mut self, pattern: &str, by: &By) -> Result<u64, Refused> {
        let mut keys = self.keys_matching(pattern);
        keys.retain(|key| self.sweeps(key, by));
        for key in &keys {
            self.check_there(key)?;
            self.delete(key);
        }
        Ok(keys.len() as u64)
    }

    /// The revision of the claim.
    pub(crate) fn claim(&mut self, key: &str, by: &By) -> Result<u64, Refused> {
        if !by.view.may_all(Action::Own, key) {
            return Err(refused(ErrorCode::Denied));
        }
        let below = format!("{key}.*");
        let overlaps =
            |claimed: &str| is_at_or_below(key, claimed) || matches(&below, true, claimed);
        if self.claims_of_others(by).any(overlaps) {
            return Err(refused(ErrorCode::Conflict));
        }
        self.check_writable(Lifetime::Session)?;
        let put = Put {
            key: format!("{CLAIMS}{key}"),
            value: Rc::new(Payload::Json(by.holder.clone().into())),
            if_rev: None,
            if_changed: false,
            lifetime: Some(Lifetime::Session),
            ttl: None,
        };
        if self.entries.contains_key(&put.key) {
            self.renew(&put, Lifetime::Session, by.owner);
        } else {
            self.check_put_quota(&put.key, &put.value, by)?;
            self.set(&put, Lifetime::Session, by);
        }
        Ok(self.rev_of(&put.key))
    }

    /// The revision of its end.
    pub(crate) fn release(&mut self, key: &str, by: &By) -> Result<u64, Refused> {
        let claim = format!("{CLAIMS}{key}");
        let is_own = self
            .entries
            .get(&claim)
            .is_some_and(|entry| entry.is_held_by(by));
        if !is_own {
            return Err(refused(ErrorCode::NotFound));
        }
        self.check_there(&claim)?;
        self.delete(&claim);
        Ok(self.rev)
    }

    /// Whether a deletion by pattern covers a key.
    pub(crate) fn sweeps(&self, key: &str, by: &By) -> bool {
        by.view.sweeps(key) && self.check_unclaimed(key, by).is_ok()
    }

    /// Whether somebody has claimed a key, or let go of it, after a revision.
    pub(crate) fn is_claimed_after(&self, key: &str, rev: u64) -> bool {
        let claims = self.history.range(CLAIMS.to_owned()..);
        let mut claims = claims.map_while(|(claim, history)| {
            let changed = history.last().is_some_and(|(change, _)| *change > rev);
            Some((claim.strip_prefix(CLAIMS)?, changed))
        });
        claims.any(|(claimed, changed)| changed && is_at_or_below(key, claimed))
    }

    /// Refuses to touch what another connection has claimed.
    fn check_unclaimed(&self, key: &str, by: &By) -> Result<(), Refused> {
        let mut claims = self.claims_of_others(by);
        if claims.any(|claimed| is_at_or_below(key, claimed)) {
            return Err(refused(ErrorCode::Denied));
        }
        Ok(())
    }

    fn claims_of_others(&self, by: &By) -> impl Iterator<Item = &str> {
        self.entries
            .range(CLAIMS.to_owned()..)
            .map_while(|(key, entry)| Some((key.strip_prefix(CLAIMS)?, entry)))
            .filter_map(|(claimed, entry)| (!entry.is_held_by(by)).then_some(claimed))
    }

    /// Whether there was such a key.
    pub(crate) fn delete(&mut self, key: &str) -> bool {
        if self.entries.remove(key).is_none() {
            return false;
        }
        self.rev += 1;
        self.note(key, None);
        self.tombstones.insert(self.rev, key.to_owned());
        true
    }

    /// Keys that are to end: their connection is gone, or their time has come.
    pub(crate) fn endings(&self) -> HashSet<&str> {
        let entries = self.entries.iter();
        let ending = entries.filter(|(_, entry)| {
            entry
                .owner
                .is_some_and(|owner| self.departed.contains(&owner))
                || entry.deadline.is_some_and(|deadline| deadline <= self.now)
                || entry.orphan_end.is_some_and(|end| end <= self.now)
        });
        ending.map(|(key, _)| key.as_str()).collect()
    }

    /// The broker may forget the oldest deletions over the bound.
    pub(crate) fn end_turn(&mut self) {
        while self.tombstones.len() as u64 > self.limits.tombstones {
            if let Some((rev, _)) = self.tombstones.pop_first() {
                self.floor = rev;
            }
        }
    }

    /// What became of the key at this revision; nothing where it did not change then.
    pub(crate) fn change(&self, key: &str, rev: u64) -> Option<Option<&Value>> {
        let history = self.history.get(key)?;
        let at = history.binary_search_by_key(&rev, |(rev, _)| *rev).ok()?;
        Some(history[at].1.as_ref())
    }

    /// The key's change after that of this revision.
    pub(crate) fn next_change(&self, key: &str, rev: u64) -> Option<u64> {
        let history = self.history.get(key)?;
        let mut revs = history.iter().map(|(rev, _)| *rev);
        revs.find(|later| *later > rev)
    }

    pub(crate) fn last_change(&self, key: &str) -> u64 {
        let history = self.history.get(key);
        history
            .and_then(|history| history.last())
            .map_or(0, |(rev, _)| *rev)
    }

    /// Whether a batch ends at this revision (a single change is a batch of one).
    pub(crate) fn is_boundary(&self, rev: u64) -> bool {
        rev <= self.rev && !self.inside.contains(&rev)
    }

    /// The covered keys as they were at a revision.
    pub(crate) fn picture(&self, cover: &Cover, rev: u64) -> Picture {
        let mut picture = Picture::new();
        for (key, history) in self.history.iter().filter(|(key, _)| cover.covers(key)) {
            let then = history.iter().rev().find(|(change, _)| *change <= rev);
            if let Some((rev, Some(value))) = then {
                picture.insert(key.clone(), (*rev, value.clone()));
            }
        }
        picture
    }

    fn judge(&self, key: &str, if_rev: Option<u64>) -> Result<(), Refused> {
        let rev = self.rev_of(key);
        match if_rev {
            Some(expected) if expected != rev => Err(Refused {
                rev: Some(rev),
                ..refused(ErrorCode::Conflict)
            }),
            _ => Ok(()),
        }
    }

    fn is_unchanged(&self, put: &Put, lifetime: Lifetime) -> bool {
        let entry = self.entries.get(&put.key);
        put.if_changed
            && entry.is_some_and(|entry| entry.value == put.value && entry.lifetime == lifetime)
    }

    fn set(&mut self, put: &Put, lifetime: Lifetime, by: &By) {
        self.rev += 1;
        self.tombstones.retain(|_, key| *key != put.key);
        let entry = Entry {
            value: put.value.clone(),
            rev: self.rev,
            lifetime,
            owner: (lifetime == Lifetime::Session).then_some(by.owner),
            account: by.account,
            deadline: put.ttl.map(|ttl| self.now + ttl),
            orphan_end: None,
        };
        self.entries.insert(put.key.clone(), entry);
        self.note(&put.key, Some(put.value.clone()));
    }

    fn renew(&mut self, put: &Put, lifetime: Lifetime, owner: u64) {
        let now = self.now;
        if let Some(entry) = self.entries.get_mut(&put.key) {
            entry.owner = (lifetime == Lifetime::Session).then_some(owner);
            entry.deadline = put.ttl.map(|ttl| now + ttl).or(entry.deadline);
            entry.orphan_end = None;
        }
    }

    fn note(&mut self, key: &str, value: Option<Value>) {
        let history = self.history.entry(key.to_owned()).or_default();
        history.push((self.rev, value));
    }

    /// Refuses what would change a place that can't be written to: where the key is, and where it
    /// would be.
    fn check_put(&self, key: &str, lifetime: Lifetime) -> Result<(), Refused> {
        self.check_there(key)?;
        self.check_writable(lifetime)
    }

    /// A new deadline has to be written, too.
    fn check_renewal(&self, put: &Put, lifetime: Lifetime) -> Result<(), Refused> {
        match put.ttl {
            Some(_) => self.check_writable(lifetime),
            None => Ok(()),
        }
    }

    fn check_there(&self, key: &str) -> Result<(), Refused> {
        let entry = self.entries.get(key);
        entry.map_or(Ok(()), |entry| self.check_writable(entry.lifetime))
    }

    fn check_writable(&self, lifetime: Lifetime) -> Result<(), Refused> {
        if self.writable.allows(Class::of(lifetime)) {
            Ok(())
        } else {
            Err(refused(ErrorCode::ReadOnly))
        }
    }

    /// How many keys and bytes a user holds.
    pub(crate) fn held(&self, account: Account) -> (u64, u64) {
        let own = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.account == account);
        own.fold((0, 0), |held, (key, entry)| {
            (held.0 + 1, held.1 + (key.len() + entry.value.len()) as u64)
        })
    }

    fn size(&self, by: &By) -> Size {
        Size {
            all: (self.entries.len() as u64, self.bytes()),
            own: self.held(by.account),
        }
    }

    /// Holds the size that one put makes against the quotas.
    fn check_put_quota(&self, key: &str, value: &Value, by: &By) -> Result<(), Refused> {
        let before = self.size(by);
        let mut after = before;
        if let Some(entry) = self.entries.get(key) {
            let old = (key.len() + entry.value.len()) as u64;
            after.all = (after.all.0 - 1, after.all.1 - old);
            if entry.account == by.account {
                after.own = (after.own.0 - 1, after.own.1 - old);
            }
        }
        let new = (key.len() + value.len()) as u64;
        after.all = (after.all.0 + 1, after.all.1 + new);
        after.own = (after.own.0 + 1, after.own.1 + new);
        self.check_quota(before, after, by)
    }

    /// What makes nothing larger may be larger than it should be.
    fn check_quota(&self, before: Size, after: Size, by: &By) -> Result<(), Refused> {
        let half = |limit: u64| {
            if by.is_free {
                u64::MAX
            } else {
                limit.div_ceil(2)
            }
        };
        let Limits { keys, bytes, .. } = self.limits;
        let own_keys = by.view.quota(Resource::Keys).unwrap_or(half(keys));
        let own_bytes = by.view.quota(Resource::Bytes).unwrap_or(half(bytes));
        let is_over = |before: u64, after: u64, limit: u64| after > before && after > limit;
        if is_over(before.all.0, after.all.0, keys)
            || is_over(before.all.1, after.all.1, bytes)
            || is_over(before.own.0, after.own.0, own_keys)
            || is_over(before.own.1, after.own.1, own_bytes)
        {
            Err(refused(ErrorCode::Limit))
        } else {
            Ok(())
        }
    }
}

impl Entry {
    /// Whether a claim is a connection's, or after a start that of whoever comes back for it.
    fn is_held_by(&self, by: &By) -> bool {
        match self.owner {
            Some(owner) => owner == by.owner,
            None => *self.value == Payload::Json(by.holder.clone().into()),
        }
    }
}

fn is_at_or_below(key: &str, node: &str) -> bool {
    matches(node, false, key)
}

/// What a put makes of a lifetime, if the client may put this key at all.
fn terms(put: &Put, view: &View) -> Result<Lifetime, Refused> {
    let conditional = put.if_rev.is_some() || put.if_changed;
    let is_allowed = view.may(Action::Write, &put.key) && (!conditional || view.sees(&put.key));
    let longest = view.longest_lifetime(&put.key);
    let is_longer = |lifetime| longest.is_some_and(|longest| rank(lifetime) > rank(longest));
    let by_default = put.ttl.map_or(Lifetime::Durable, |_| Lifetime::Boot);
    let lifetime = match put.lifetime {
        Some(lifetime) if is_longer(lifetime) => return Err(refused(ErrorCode::Denied)),
        _ if !is_allowed => return Err(refused(ErrorCode::Denied)),
        Some(lifetime) => lifetime,
        None if is_longer(by_default) => longest.expect("it is bounded"),
        None => by_default,
    };
    match (lifetime, put.ttl) {
        (Lifetime::Durable, Some(_)) => Err(refused(ErrorCode::BadRequest)),
        (lifetime, _) => Ok(lifetime),
    }
}

/// Refuses what a client may not do to a key.
pub(crate) fn may(by: &By, actions: &[Action], key: &str) -> Result<(), Refused> {
    if actions.iter().all(|action| by.view.may(*action, key)) {
        Ok(())
    } else {
        Err(refused(ErrorCode::Denied))
    }
}

/// Refuses what a client may do to no key of a pattern, as far as its rules tell.
pub(crate) fn may_some(by: &By, action: Action, pattern: &str, exact: bool) -> Result<(), Refused> {
    if by.view.may_some(action, pattern, exact) {
        Ok(())
    } else {
        Err(refused(ErrorCode::Denied))
    }
}

fn may_delete(by: &By, key: &str) -> Result<(), Refused> {
    // The answer tells whether there was such a key.
    may(by, &[Action::Write, Action::Read], key)
}

impl From<ErrorCode> for Refused {
    fn from(code: ErrorCode) -> Refused {
        refused(code)
    }
}
