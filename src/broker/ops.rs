//! One request: what it may do, what it does, what is answered.

use crate::access::Action;
use crate::journal::Writable;
use crate::key::{KeyError, KeyRef, Pattern};
use crate::keyspace::{Class, Entry, Held, Terms, Time};
use crate::session::{Deletion, Job, Listing, Peer, Start, Steps, Subscription, Task};
use crate::watch::Watcher;
use crate::wire::{
    CLIENT_NAME_BYTES_MAX, Delete, ErrorCode, Id, Lifetime, List, Op, PROTOCOL, Put, Reply,
    Request, Subscribe,
};

use super::{Broker, Refusal, STEPS_PER_REQUEST, writable_key, writable_pattern};

/// What came of a request that was not refused.
enum Done {
    Answered,
    /// More keys are to be looked at.
    Job(Job),
}

impl Broker {
    /// Carries out one request and answers it, or leaves a job that will.
    pub(super) fn request(
        &mut self,
        session: usize,
        request: Request<'_>,
        steps: &mut Steps,
        now: Time,
    ) {
        if self.sessions[session].gone && only_asks(&request.op) {
            return;
        }
        let id = request.id.as_ref();
        let done = if self.sessions[session].authenticated || matches!(request.op, Op::Hello { .. })
        {
            self.op(session, id, &request.op, steps, now)
        } else {
            let message = "over TCP, hello with the token comes first";
            Err(Refusal::new(ErrorCode::Unauthenticated, message))
        };
        match done {
            Ok(Done::Answered) => {}
            Ok(Done::Job(job)) => self.go_on(session, Box::new(job), steps, now),
            Err(refusal) => self.refuse(session, id, &refusal),
        }
    }

    fn op(
        &mut self,
        session: usize,
        id: Option<&Id<'_>>,
        op: &Op<'_>,
        steps: &mut Steps,
        now: Time,
    ) -> Result<Done, Refusal> {
        match op {
            Op::Hello { client, token } => {
                self.hello(session, id, client.as_deref(), token.as_deref())
            }
            Op::Put(put) => self.put(session, id, put, now),
            Op::Get(list) => self.get(session, id, list, now),
            Op::Delete(delete) => self.delete(session, id, delete),
            Op::Subscribe(subscribe) => {
                let id = id.expect("a subscribe without an id is not read");
                self.subscribe(session, id, subscribe)
            }
            Op::Unsubscribe { sub } => self.unsubscribe(session, id, sub),
            Op::Batch { ops } => {
                let count = u32::try_from(ops.len()).unwrap_or(u32::MAX);
                steps.take(count.saturating_mul(STEPS_PER_REQUEST));
                let rev = self.batch(session, ops, steps, now)?;
                self.ok(session, id).number("rev", rev).end();
                Ok(Done::Answered)
            }
            Op::Claim { key } => {
                let rev = self.claim(session, key)?;
                self.ok(session, id).number("rev", rev).end();
                Ok(Done::Answered)
            }
            Op::Release { key } => {
                let rev = self.release(session, key)?;
                self.ok(session, id).number("rev", rev).end();
                Ok(Done::Answered)
            }
            Op::Stats => {
                let mut out = std::mem::take(&mut self.sessions[session].out);
                self.write_stats(Reply::ok(&mut out, id), now);
                self.sessions[session].out = out;
                Ok(Done::Answered)
            }
            Op::Clients => {
                let mut out = std::mem::take(&mut self.sessions[session].out);
                Reply::ok(&mut out, id)
                    .json("clients", &self.client_list(session))
                    .json("users", &self.users())
                    .end();
                self.sessions[session].out = out;
                Ok(Done::Answered)
            }
            Op::Ping => {
                self.ok(session, id).end();
                Ok(Done::Answered)
            }
        }
    }

    fn ok(&mut self, session: usize, id: Option<&Id<'_>>) -> Reply<'_> {
        Reply::ok(&mut self.sessions[session].out, id)
    }

    fn hello(
        &mut self,
        session: usize,
        id: Option<&Id<'_>>,
        client: Option<&str>,
        token: Option<&str>,
    ) -> Result<Done, Refusal> {
        if client.is_some_and(|name| name.len() > CLIENT_NAME_BYTES_MAX) {
            let message = format!("a client's name has at most {CLIENT_NAME_BYTES_MAX} bytes");
            return Err(Refusal::bad_request(message));
        }
        if let (Peer::Tcp(_), Some(expected)) = (&self.sessions[session].peer, &self.token)
            && !token.is_some_and(|guess| expected.accepts(guess))
        {
            let message = "hello needs the right token over TCP";
            return Err(Refusal::new(ErrorCode::Unauthenticated, message));
        }
        let rev = self.keyspace.rev();
        self.strangers.remove(session);
        let state = &mut self.sessions[session];
        state.authenticated = true;
        if let Some(name) = client {
            state.name = Some(Box::from(name));
        }
        Reply::ok(&mut state.out, id)
            .text("server", concat!("nkv/", env!("CARGO_PKG_VERSION")))
            .number("protocol", PROTOCOL)
            .text("epoch", &self.epoch)
            .number("rev", rev)
            .json("limits", &self.limits)
            .end();
        Ok(Done::Answered)
    }

    fn put(
        &mut self,
        session: usize,
        id: Option<&Id<'_>>,
        put: &Put<'_>,
        now: Time,
    ) -> Result<Done, Refusal> {
        self.counters.puts += 1;
        let key = writable_key(&put.key)?;
        self.check_put(session, key, put)?;
        let terms = self.terms(session, key, put, now)?;
        let located = self.keyspace.locate(key);
        let entry = self.keyspace.entry_of(located);
        check_rev(key, entry.as_ref(), put.if_rev)?;
        if put.if_changed && entry.is_some_and(|entry| is_unchanged(&entry, put, terms.lifetime)) {
            let rev = entry.map_or(0, |entry| entry.rev);
            if terms.deadline.is_some() {
                self.check_writable(Class::of(terms.lifetime))?;
            }
            self.keyspace.renew(key, terms.owner, terms.deadline);
            self.ok(session, id)
                .number("rev", rev)
                .flag("unchanged", true)
                .end();
            return Ok(Done::Answered);
        }
        if let Some(entry) = &entry {
            self.check_writable(Class::of(entry.lifetime))?;
        }
        self.check_writable(Class::of(terms.lifetime))?;
        let old = entry.map_or(Held::default(), |entry| entry.held());
        let is_own = entry.is_some_and(|entry| entry.account == terms.account);
        let own = if is_own { old } else { Held::default() };
        self.check_stored(session, old, own, held_by(put))?;
        let rev = self.keyspace.put_at(located, &put.payload, terms);
        self.mark(key, rev);
        self.ok(session, id).number("rev", rev).end();
        Ok(Done::Answered)
    }

    /// What a put asks for as the terms of its entry.
    pub(super) fn terms(
        &self,
        session: usize,
        key: KeyRef<'_>,
        put: &Put<'_>,
        now: Time,
    ) -> Result<Terms, Refusal> {
        let lifetime = self.lifetime(key, put)?;
        match (put.ttl_ms, lifetime) {
            (Some(_), Lifetime::Durable) => {
                return Err(Refusal::bad_request(
                    "`ttl_ms` goes with the lifetimes \"boot\" and \"session\"",
                ));
            }
            (Some(0), _) => return Err(Refusal::bad_request("`ttl_ms` is at least 1")),
            _ => {}
        }
        Ok(Terms {
            lifetime,
            owner: (lifetime == Lifetime::Session).then(|| self.sessions[session].owner),
            deadline: put.ttl_ms.map(|ttl| Time(now.0.saturating_add(ttl))),
            account: self.credits[session].account,
        })
    }

    fn get(
        &mut self,
        session: usize,
        id: Option<&Id<'_>>,
        list: &List<'_>,
        now: Time,
    ) -> Result<Done, Refusal> {
        self.counters.gets += 1;
        let key = match KeyRef::new(&list.key) {
            Ok(key) => key,
            Err(KeyError::Pattern) => return self.list(session, id, list),
            Err(error) => return Err(error.into()),
        };
        self.check_access(session, Action::Read, key)?;
        if list.limit.is_some() || list.after.is_some() || list.keys_only.is_some() {
            let message = "`limit`, `after` and `keys_only` go with a pattern, this is a key";
            return Err(Refusal::bad_request(message));
        }
        let Some(entry) = self.keyspace.entry(key) else {
            return Err(Refusal::new(
                ErrorCode::NotFound,
                format!("there is no key {key}"),
            ));
        };
        let reply = Reply::ok(&mut self.sessions[session].out, id)
            .text("key", key.as_str())
            .stored(entry.value)
            .number("rev", entry.rev);
        with_terms(reply, &entry, now).end();
        Ok(Done::Answered)
    }

    fn list(
        &mut self,
        session: usize,
        id: Option<&Id<'_>>,
        list: &List<'_>,
    ) -> Result<Done, Refusal> {
        let pattern = Pattern::new(&list.key)?;
        self.check_access_to_some(session, Action::Read, &pattern)?;
        let after = list.after.as_deref().map(KeyRef::new).transpose()?;
        if list.limit == Some(0) {
            return Err(Refusal::bad_request("`limit` is at least 1"));
        }
        Ok(Done::Job(Job {
            id: id.cloned().map(Id::into_owned),
            pattern,
            after: after.map(KeyRef::to_key),
            task: Task::List(Listing {
                keys_only: list.keys_only == Some(true),
                left: list.limit.unwrap_or(u64::MAX).min(self.limits.page),
                rev: self.keyspace.rev(),
                entries: Vec::new(),
                more: false,
            }),
        }))
    }

    fn delete(
        &mut self,
        session: usize,
        id: Option<&Id<'_>>,
        delete: &Delete<'_>,
    ) -> Result<Done, Refusal> {
        self.counters.deletes += 1;
        let key = match writable_key(&delete.key) {
            Ok(key) => key,
            Err(_) if delete.key.contains('*') => return self.delete_all(session, id, delete),
            Err(refusal) => return Err(refusal),
        };
        self.check_deletion(session, key)?;
        let entry = self.keyspace.entry(key);
        check_rev(key, entry.as_ref(), delete.if_rev)?;
        if let Some(entry) = &entry {
            self.check_writable(Class::of(entry.lifetime))?;
        }
        let rev = self.delete_key(key);
        let current = self.keyspace.rev();
        self.ok(session, id)
            .number("deleted", u64::from(rev.is_some()))
            .number("rev", rev.unwrap_or(current))
            .end();
        Ok(Done::Answered)
    }

    fn delete_all(
        &mut self,
        session: usize,
        id: Option<&Id<'_>>,
        delete: &Delete<'_>,
    ) -> Result<Done, Refusal> {
        let pattern = writable_pattern(&delete.key)?;
        self.check_access_to_some(session, Action::Write, &pattern)?;
        if delete.if_rev.is_some() {
            return Err(Refusal::bad_request(
                "`if_rev` goes with a key, this is a pattern",
            ));
        }
        Ok(Done::Job(Job {
            id: id.cloned().map(Id::into_owned),
            pattern,
            after: None,
            task: Task::Delete(Deletion {
                deleted: 0,
                rev: self.keyspace.rev(),
            }),
        }))
    }

    fn subscribe(
        &mut self,
        session: usize,
        id: &Id<'_>,
        subscribe: &Subscribe<'_>,
    ) -> Result<Done, Refusal> {
        let mut pattern = Pattern::new(&subscribe.key)?;
        if !subscribe.exact {
            pattern = pattern.with_descendants();
        }
        self.check_access_to_some(session, Action::Read, &pattern)?;
        self.take_for(self.sessions[session].subscriptions.len() / 8);
        let state = &mut self.sessions[session];
        if state.subscription(id).is_some() {
            let message = format!("a subscription {} lives on this connection", id.as_json());
            return Err(Refusal::new(ErrorCode::Conflict, message));
        }
        if state.subscriptions.len() as u64 >= self.limits.subscriptions {
            let message = format!(
                "a connection has at most {} subscriptions",
                self.limits.subscriptions
            );
            return Err(Refusal::new(ErrorCode::Limit, message));
        }
        self.check_subscriptions(session, &pattern)?;
        let rev = self.keyspace.rev();
        let start = match &subscribe.since {
            Some((since, epoch)) if *epoch == self.epoch && *since <= rev => Start::After(*since),
            Some(_) => Start::Reset,
            None if subscribe.no_initial => Start::Now,
            None => Start::Entries,
        };
        let state = &mut self.sessions[session];
        let subscription = state.next_number();
        let watcher = Watcher {
            session,
            subscription,
        };
        let standing = self.watch.add(&pattern, watcher);
        self.count_subscription(session, &pattern, true);
        let cuts = subscribe.cuts;
        let subscription = Subscription::new(id, pattern, cuts, start, &self.keyspace, standing);
        let state = &mut self.sessions[session];
        state.subscribe(subscription);
        Reply::ok(&mut state.out, Some(id))
            .text("epoch", &self.epoch)
            .number("rev", rev)
            .end();
        Ok(Done::Answered)
    }

    fn unsubscribe(
        &mut self,
        session: usize,
        id: Option<&Id<'_>>,
        sub: &Id<'_>,
    ) -> Result<Done, Refusal> {
        self.take_for(self.sessions[session].subscriptions.len() / 8);
        let state = &mut self.sessions[session];
        let Some(subscription) = state.subscription(sub) else {
            let message = format!("this connection has no subscription {}", sub.as_json());
            return Err(Refusal::new(ErrorCode::NotFound, message));
        };
        let removed = state.unsubscribe(subscription);
        self.count_subscription(session, removed.pattern(), false);
        self.watch.remove(removed.pattern(), removed.member());
        self.ok(session, id).end();
        Ok(Done::Answered)
    }

    pub(super) fn write_stats(&self, reply: Reply<'_>, now: Time) {
        let subscriptions: usize = self
            .sessions
            .iter()
            .map(|(_, session)| session.subscriptions.len())
            .sum();
        self.take_for(self.sessions.len());
        let (counters, figures) = (&self.counters, &self.figures);
        reply
            .text("version", env!("CARGO_PKG_VERSION"))
            .text("epoch", &self.epoch)
            .number("uptime_ms", now.0.saturating_sub(self.started.0))
            .number("clients", self.sessions.len() as u64)
            .number("subscriptions", subscriptions as u64)
            .number("keys", self.keyspace.keys())
            .number("bytes", self.keyspace.bytes())
            .number("rev", self.keyspace.rev())
            .number("requests", counters.requests)
            .number("puts", counters.puts)
            .number("gets", counters.gets)
            .number("deletes", counters.deletes)
            .number("events", counters.events)
            .number("coalesced", counters.coalesced)
            .number("errors", counters.errors)
            .number("journal_bytes", figures.bytes)
            .number("journal_syncs", figures.syncs)
            .number("tombstones", self.keyspace.tombstones())
            .number("journal_records", figures.records)
            .number("journal_live_bytes", figures.live_bytes)
            .number("journal_written_bytes", figures.written_bytes)
            .number("journal_rewrites", figures.rewrites)
            .number("journal_failures", figures.failures)
            .number("boot_journal_bytes", figures.boot_bytes)
            .number("read_only", u64::from(self.writable != Writable::default()))
            .json("users", &self.users())
            .end();
    }

    fn client_list(&self, asking: usize) -> Vec<Client<'_>> {
        let mut claims = self.claims_seen_by(asking);
        self.take_for(8 * self.sessions.len());
        let sessions = self.sessions.iter();
        sessions
            .map(|(_, session)| {
                let (pid, uid, gid, address) = match &session.peer {
                    Peer::Unix { pid, uid, gid, .. } => (Some(*pid), Some(*uid), Some(*gid), None),
                    Peer::Tcp(address) => (None, None, None, Some(address.to_string())),
                };
                Client {
                    name: session.name.as_deref(),
                    pid,
                    uid,
                    gid,
                    address,
                    subscriptions: session.subscriptions.len(),
                    lag: session.lag(&self.keyspace),
                    claims: claims.remove(&session.owner).unwrap_or_default(),
                }
            })
            .collect()
    }
}

/// Whether a request does nothing but have its client told something.
fn only_asks(op: &Op<'_>) -> bool {
    matches!(
        op,
        Op::Get(_) | Op::Subscribe(_) | Op::Stats | Op::Clients | Op::Ping
    )
}

/// Judges an `if_rev` against the entry that there is.
pub(super) fn check_rev(
    key: KeyRef<'_>,
    entry: Option<&Entry<'_>>,
    if_rev: Option<u64>,
) -> Result<(), Refusal> {
    let rev = entry.map_or(0, |entry| entry.rev);
    match if_rev {
        Some(expected) if expected != rev => Err(Refusal::conflict(key, rev)),
        _ => Ok(()),
    }
}

/// Whether a put with `if_changed` would change nothing: same value, same form, same lifetime.
pub(super) fn is_unchanged(entry: &Entry<'_>, put: &Put<'_>, lifetime: Lifetime) -> bool {
    entry.is(&put.payload) && entry.lifetime == lifetime
}

/// What a put makes its user hold.
pub(super) fn held_by(put: &Put<'_>) -> Held {
    Held {
        keys: 1,
        bytes: (put.key.len() + put.payload.len()) as u64,
    }
}

/// Adds the fields that few entries have.
pub(super) fn with_terms<'o>(mut reply: Reply<'o>, entry: &Entry<'_>, now: Time) -> Reply<'o> {
    if entry.lifetime != Lifetime::Durable {
        reply = reply.text("lifetime", entry.lifetime.as_str());
    }
    if let Some(deadline) = entry.deadline {
        reply = reply.number("ttl_ms", deadline.0.saturating_sub(now.0));
    }
    reply
}

/// One element of `clients`.
#[derive(serde::Serialize)]
struct Client<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    subscriptions: usize,
    lag: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    claims: Vec<String>,
}
