//! Performs the acts of a case on the bench, and has the model follow what the broker does.
//!
//! The broker decides how far each connection gets in a turn: how much is read, how many steps there
//! are, how many answers wait. The model takes that as given: after each client's share of a turn it
//! is told how many requests the broker has carried out, and carries out as many. What comes of
//! them, it knows by itself. Two things are taken from the broker and then judged, because a person
//! could not foretell them: the order in which entries end that end at the same time, and how far a
//! deletion by pattern got that takes several turns.
//!
//! Each seat is another user's, and one is taken by somebody over TCP. The rules who may do what can be
//! replaced between two turns.
//!
//! When storage does not take a turn, the model goes back to where the turn began, and carries out again
//! what it has carried out, with what storage says that it can keep.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use base64::Engine;
use nkv::access::{Action, Names, Resource, Rules, Subject};
use nkv::broker::{Broker, Peer};
use nkv::journal::{Storage, Writable};
use nkv::keyspace::{Account, Class, Time};
use nkv::wire::{ErrorCode, Limits, Payload};

use super::acts::{self, Act, Ask, Condition, JSON, KEYS, NAMES, PATTERNS, SEATS, Since, Taste};
use super::desk::{Deletion, Desk, Expected, Listed, Page, Syncs};
use super::model::{
    By, Cover, Item, List, Model, Put, Refused, Request, Subscribe, Value, may, may_some,
};
use super::pattern::matches;
use super::rights::{Rights, View};
use super::subscriber::Subscriber;
use super::support::{Bench, Phase};

/// How many entries the broker lets end a turn, at least, where so many are to end.
const ENDINGS_PER_TURN: usize = 1000;
/// More turns than anything takes that has no new input.
const TURNS_MAX: usize = 20_000;
/// How many steps a batch is to take in order to leave few, in operations of it.
const BURN: usize = 255;

pub(crate) struct Office {
    bench: Bench,
    world: World,
}

struct World {
    model: Model,
    rights: Option<Rc<Rights>>,
    /// As the broker has named it.
    epoch: String,
    seats: Vec<Option<Desk>>,
    /// What each seat knows of the last `sync` under each name, connected or not.
    syncs: Vec<Syncs>,
    /// Requests that the broker has carried out.
    requests: u64,
    ids: u64,
    more_keys: usize,
    turn: Turn,
}

/// What has been done in this turn, to be done again if need be.
#[derive(Default)]
struct Turn {
    /// The model when it began; nothing where no turn is undone.
    before: Option<Model>,
    /// How many answers each seat was to be given then.
    expected: Vec<usize>,
    carried: Vec<(usize, Request)>,
}

impl Office {
    pub(crate) fn new(limits: Limits, taste: Taste) -> Office {
        let more_keys = taste.more_keys;
        let bench = match taste.faults {
            0 => Bench::new(limits.clone()),
            _ => Bench::keeping(limits.clone()),
        };
        Office {
            bench,
            world: World {
                model: Model::new(limits),
                rights: None,
                epoch: "e1".into(),
                seats: (0..SEATS).map(|_| None).collect(),
                syncs: vec![Syncs::new(); SEATS],
                requests: 0,
                ids: 0,
                more_keys,
                turn: Turn::default(),
            },
        }
    }

    pub(crate) fn perform(&mut self, act: &Act) {
        match act {
            Act::Send(seat, ask) => self.send(*seat, ask),
            Act::Turn(piece) => {
                self.turn(*piece);
            }
            Act::Appetite(seat, bytes) => {
                let client = self.desk(*seat).client;
                self.bench.set_appetite(client, *bytes);
            }
            Act::Disconnect(seat) => self.disconnect(*seat),
            Act::End(seat) => self.end(*seat),
            Act::Pass(milliseconds) => {
                self.world.model.now += milliseconds;
                self.bench.now = Time(self.world.model.now);
            }
            Act::Break(class) => self.bench.storage.break_down(*class),
            Act::Mend(class) => self.bench.storage.mend(*class),
            Act::Restart => self.restart(),
            Act::Rules(rights) => self.set_rights(rights.clone().map(Rc::new)),
        }
    }

    fn set_rights(&mut self, rights: Option<Rc<Rights>>) {
        self.bench.set_rules(rights.as_deref().map(rules));
        self.world.rights = rights;
        self.world.epoch = epoch(&self.bench.broker);
        for seat in 0..SEATS {
            let view = self.world.view(seat);
            if let Some(desk) = &mut self.world.seats[seat] {
                desk.set_view(view);
            }
        }
    }

    /// What ends while the boot journal can't be written would come back, so it is mended first.
    fn restart(&mut self) {
        self.bench.storage.mend(Class::Boot);
        if !self.bench.storage.writable().boot {
            self.turn(usize::MAX);
        }
        for seat in 0..SEATS {
            if let Some(desk) = self.world.seats[seat].take() {
                self.world.syncs[seat] = desk.syncs;
            }
        }
        self.bench.restart();
        let rights = self.world.rights.as_deref();
        self.bench.set_rules(rights.map(rules));
        self.world.epoch = epoch(&self.bench.broker);
        self.world.requests = 0;
        self.world.model.restart(self.bench.storage.floor());
        self.world.compare(&self.bench.broker);
    }

    /// Everyone reads all, and nobody has anything left to do.
    pub(crate) fn finish(&mut self) {
        self.bench.storage.mend(Class::Durable);
        self.bench.storage.mend(Class::Boot);
        self.turn(usize::MAX);
        for desk in self.world.seats.iter().flatten() {
            self.bench.set_appetite(desk.client, usize::MAX);
        }
        self.settle();
        for seat in 0..SEATS {
            if self.world.seats[seat]
                .as_ref()
                .is_some_and(|desk| desk.has_ended)
            {
                self.disconnect(seat);
            }
            let everything = Ask::List {
                pattern: 0,
                limit: None,
                after: None,
                keys_only: false,
            };
            self.send(seat, &everything);
            self.send(seat, &Ask::Stats);
        }
        self.settle();
        for seat in 0..SEATS {
            self.disconnect(seat);
        }
        self.settle();
        let mut left = self.world.model.entries.values();
        assert!(
            left.all(|entry| entry.owner.is_none()),
            "an entry outlives its connection"
        );
    }

    /// Writes so many further keys, some hundreds a batch.
    pub(crate) fn furnish(&mut self, keys: usize, lifetime: Option<nkv::wire::Lifetime>) {
        let put = |key| acts::Put {
            key: KEYS.len() + key,
            value: acts::Value::Number(0),
            condition: Condition::None,
            if_changed: false,
            lifetime,
            ttl: None,
        };
        for chunk in (0..keys).collect::<Vec<_>>().chunks(512) {
            let batch = chunk.iter().map(|key| acts::Item::Put(put(*key)));
            self.send(0, &Ask::Batch(batch.collect()));
        }
        self.settle();
    }

    fn settle(&mut self) {
        for _ in 0..TURNS_MAX {
            if !self.turn(usize::MAX) {
                return;
            }
        }
        panic!("there is always more to do");
    }

    fn turn(&mut self, piece: usize) -> bool {
        let Office { bench, world } = self;
        let keeps = bench.storage.can_fail();
        let fresh: Vec<bool> = (0..SEATS)
            .map(|seat| world.owes_nothing(seat, bench))
            .collect();
        let is_busy = bench.turn_with(piece, |broker, phase| match phase {
            Phase::Taken { client, session } => world.follow(client, session, broker),
            Phase::Expired => world.end(broker, keeps),
            Phase::Redone { writable } => world.redo(broker, writable),
        });
        world.model.writable = bench.storage.writable();
        for (seat, is_fresh) in fresh.into_iter().enumerate() {
            world.receive(seat, is_fresh, bench);
        }
        world.model.end_turn();
        world.compare(&bench.broker);
        is_busy
    }

    fn desk(&mut self, seat: usize) -> &mut Desk {
        let view = self.world.view(seat);
        let World {
            seats, syncs, ids, ..
        } = &mut self.world;
        let bench = &mut self.bench;
        seats[seat].get_or_insert_with(|| {
            *ids += 1;
            let client = bench.connect(peer(seat)).expect("there is room for a few");
            Desk::new(client, by(seat, *ids, view), syncs[seat].clone())
        })
    }

    fn send(&mut self, seat: usize, ask: &Ask) {
        if self.desk(seat).has_ended {
            return;
        }
        let (line, id, request) = self.world.line(seat, ask);
        let desk = self.desk(seat);
        desk.held.push_back((line, id, request));
        self.pump(seat);
    }

    fn pump(&mut self, seat: usize) {
        self.world.pump(seat, &mut self.bench);
    }

    fn disconnect(&mut self, seat: usize) {
        if let Some(desk) = self.world.seats[seat].take() {
            self.bench.disconnect(desk.client);
            self.world.model.departed.insert(desk.by.owner);
            self.world.syncs[seat] = desk.syncs;
        }
    }

    fn end(&mut self, seat: usize) {
        let id = self.world.id();
        let desk = self.desk(seat);
        if desk.has_ended || !desk.held.is_empty() {
            return;
        }
        let client = desk.client;
        let line = format!("{{\"op\":\"ping\",\"id\":{id}}}");
        desk.sent.push_back((Some(id), Request::Ping));
        desk.has_ended = true;
        self.bench.send(client, line.as_bytes());
        self.bench.end(client);
    }
}

impl World {
    fn id(&mut self) -> String {
        self.ids += 1;
        (self.ids + 1000).to_string()
    }

    fn view(&self, seat: usize) -> View {
        View {
            rights: self.rights.clone(),
            subject: subject(seat),
        }
    }

    fn pump(&mut self, seat: usize, bench: &mut Bench) {
        if let Some(desk) = &mut self.seats[seat] {
            while let Some(line) = desk.may_send() {
                bench.send(desk.client, &line);
            }
        }
    }

    /// Whether no bytes for this client were made in an earlier turn.
    fn owes_nothing(&self, seat: usize, bench: &Bench) -> bool {
        let desk = self.seats[seat].as_ref();
        let session = desk.and_then(|desk| bench.session(desk.client));
        session.is_some_and(|session| !bench.broker.owes(session))
    }

    fn receive(&mut self, seat: usize, is_fresh: bool, bench: &mut Bench) {
        let Some(desk) = &mut self.seats[seat] else {
            return;
        };
        let bytes = bench.take_received(desk.client);
        desk.receive(&bytes, is_fresh, &self.model);
        let Some(session) = bench.session(desk.client) else {
            return;
        };
        let broker = &bench.broker;
        if !broker.has_output(session) && !broker.wants_turn(session) {
            desk.is_caught_up(&self.model);
        }
        self.pump(seat, bench);
    }

    fn compare(&self, broker: &Broker) {
        let keyspace = broker.keyspace();
        let model = &self.model;
        assert_eq!(
            (keyspace.rev(), keyspace.keys(), keyspace.bytes()),
            (model.rev, model.entries.len() as u64, model.bytes()),
            "revision, keys, bytes"
        );
        for account in [Account::user(1000), Account::user(1001), Account::TCP] {
            let held = keyspace.held(account);
            assert_eq!((held.keys, held.bytes), model.held(account), "{account}");
        }
        assert_eq!(
            (keyspace.tombstones(), keyspace.floor()),
            (model.tombstones(), model.floor),
            "deletions that are remembered, and after which"
        );
    }

    /// Carries out what the broker has carried out for one client.
    fn follow(&mut self, client: usize, session: usize, broker: &Broker) {
        let seat = self.seats.iter().position(|desk| {
            let desk = desk.as_ref();
            desk.is_some_and(|desk| desk.client == client)
        });
        let seat = seat.expect("the client sits somewhere");
        let requests = requests(broker) - self.requests;
        self.requests += requests;
        let may_go_on = broker.wants_turn(session);
        let Some(mut desk) = self.seats[seat].take() else {
            return;
        };
        if desk.deletion.is_some() {
            self.delete_on(&mut desk, broker);
        }
        for number in 1..=requests {
            let (id, request) = desk
                .sent
                .pop_front()
                .expect("no more is carried out than is sent");
            let is_last = number == requests;
            if self.turn.before.is_some() {
                self.turn.carried.push((seat, request.clone()));
            }
            let expected = match request {
                Request::DeleteAll(pattern) if self.turn.before.is_some() => {
                    self.delete_at_once(&mut desk, &pattern)
                }
                Request::DeleteAll(pattern) => self.begin_deletion(&mut desk, pattern, broker),
                Request::List(list) => self.list(&desk, list, is_last && may_go_on),
                request => self.carry_out(&mut desk, request),
            };
            if let Some(deletion) = desk.deletion.as_ref().filter(|_| !is_last || !may_go_on) {
                deletion.check_survivors(&self.model, &desk.by);
            }
            let waiting = desk.bytes_waiting();
            assert!(
                waiting <= self.model.limits.output,
                "a request is carried out while {waiting} bytes of answers wait"
            );
            desk.expected.push_back((id, expected));
        }
        assert_eq!(
            self.model.rev,
            broker.keyspace().rev(),
            "the changes of client {client}"
        );
        self.seats[seat] = Some(desk);
    }

    /// Does again what the turn has done, from where it began. What was asked before the first write
    /// was answered as things are.
    fn redo(&mut self, broker: &Broker, writable: Writable) {
        let before = self
            .turn
            .before
            .take()
            .expect("only a storage that keeps fails");
        self.model.undo(&before);
        self.model.writable = writable;
        let mut expected = Vec::new();
        for (desk, kept) in self.seats.iter_mut().zip(&self.turn.expected) {
            let answers = desk.as_mut().map(|desk| desk.expected.split_off(*kept));
            expected.push(answers.unwrap_or_default());
        }
        let carried = std::mem::take(&mut self.turn.carried);
        let mut has_written = false;
        for (seat, request) in &carried {
            let answer = expected[*seat].pop_front();
            let (id, answer) = answer.expect("each has been answered");
            let mut desk = self.seats[*seat].take().expect("it asks");
            has_written |= request.is_write();
            let answer = self.answer_again(&mut desk, request, answer, has_written);
            desk.expected.push_back((id, answer));
            self.seats[*seat] = Some(desk);
        }
        assert!(expected.iter().all(VecDeque::is_empty), "all is done again");
        assert_eq!(self.model.rev, broker.keyspace().rev(), "a turn done again");
        self.turn.carried = carried;
        self.turn.before = Some(before);
    }

    fn answer_again(
        &mut self,
        desk: &mut Desk,
        request: &Request,
        answer: Expected,
        has_written: bool,
    ) -> Expected {
        match (request, answer) {
            (
                Request::Subscribe(_),
                Expected::Subscribed {
                    name,
                    rev,
                    epoch,
                    mut subscriber,
                },
            ) => {
                subscriber.undo(&self.model);
                Expected::Subscribed {
                    name,
                    rev,
                    epoch,
                    subscriber,
                }
            }
            (Request::List(list), _) if has_written => self.list(desk, list.clone(), false),
            (Request::DeleteAll(pattern), _) => self.delete_at_once(desk, pattern),
            (Request::Get(_) | Request::Stats, _) if has_written => {
                self.carry_out(desk, request.clone())
            }
            (request, _) if request.is_write() => self.carry_out(desk, request.clone()),
            (_, answer) => answer,
        }
    }

    /// A deletion by pattern that may take several turns.
    fn begin_deletion(&mut self, desk: &mut Desk, pattern: String, broker: &Broker) -> Expected {
        if let Err(refused) = may_some(&desk.by, Action::Write, &pattern, true) {
            return Expected::NotDeleted(refused);
        }
        let since = self.model.rev;
        desk.deletion = Some(Deletion {
            pattern,
            since,
            rev: since,
            deleted: 0,
            last: None,
            views: vec![desk.by.view.clone()],
        });
        self.delete_on(desk, broker);
        Expected::Deleted
    }

    /// A deletion by pattern that takes no more than its turn.
    fn delete_at_once(&mut self, desk: &mut Desk, pattern: &str) -> Expected {
        let since = self.model.rev;
        desk.deletion = None;
        let done = may_some(&desk.by, Action::Write, pattern, true)
            .and_then(|()| self.model.delete_all(pattern, &desk.by));
        match done {
            Ok(deleted) => {
                desk.deletion = Some(Deletion {
                    pattern: pattern.to_owned(),
                    since,
                    rev: self.model.rev,
                    deleted,
                    last: None,
                    views: vec![desk.by.view.clone()],
                });
                Expected::Deleted
            }
            Err(refused) => Expected::NotDeleted(refused),
        }
    }

    /// What has been deleted since the model's revision belongs to the deletion by pattern.
    fn delete_on(&mut self, desk: &mut Desk, broker: &Broker) {
        let deletion = desk.deletion.as_mut().expect("there is one");
        for (rev, key) in deletions(broker, self.model.rev) {
            assert!(
                matches(&deletion.pattern, true, &key),
                "{key} does not match"
            );
            assert!(
                self.model.sweeps(&key, &desk.by),
                "{key} is deleted by one who may not"
            );
            let is_next = deletion.last.as_ref().is_none_or(|last| *last < key);
            assert!(is_next, "{key} is deleted after {:?}", deletion.last);
            assert!(self.model.delete(&key), "{key} is deleted");
            assert_eq!(self.model.rev, rev, "the revision of the deletion of {key}");
            deletion.rev = rev;
            deletion.deleted += 1;
            deletion.last = Some(key);
        }
    }

    /// Lets end what the broker has let end.
    fn end(&mut self, broker: &Broker, keeps: bool) {
        let ended = deletions(broker, self.model.rev);
        let endings = self.model.endings();
        let least = endings.len().min(ENDINGS_PER_TURN);
        assert!(ended.len() >= least, "{ended:?} of {endings:?} have ended");
        for (_, key) in &ended {
            assert!(endings.contains(key.as_str()), "{key} has ended");
        }
        for (rev, key) in ended {
            assert!(self.model.delete(&key), "{key} ends");
            assert_eq!(self.model.rev, rev, "the revision of the end of {key}");
        }
        assert_eq!(self.model.rev, broker.keyspace().rev(), "what ends");
        let desks = self.seats.iter().map(Option::as_ref);
        self.turn = Turn {
            before: keeps.then(|| self.model.clone()),
            expected: desks
                .map(|desk| desk.map_or(0, |desk| desk.expected.len()))
                .collect(),
            carried: Vec::new(),
        };
    }

    fn list(&self, desk: &Desk, asked: List, spans: bool) -> Expected {
        if let Err(refused) = may_some(&desk.by, Action::Read, &asked.pattern, true) {
            return Expected::Refused(refused);
        }
        let behind = |key: &String| asked.after.as_ref().is_none_or(|after| after < key);
        let keys = self
            .model
            .keys_matching(&asked.pattern)
            .into_iter()
            .filter(behind);
        let all = keys.map(|key| self.listed(key, asked.keys_only)).collect();
        let limit = asked.limit.unwrap_or(u64::MAX).min(self.model.limits.page);
        let limit = usize::try_from(limit).expect("a page is small");
        Expected::List(Page {
            asked,
            limit,
            rev: self.model.rev,
            all,
            views: vec![desk.by.view.clone()],
            spans,
        })
    }

    fn listed(&self, key: String, keys_only: bool) -> Listed {
        let entry = &self.model.entries[&key];
        Listed {
            key,
            value: (!keys_only).then(|| entry.value.clone()),
            rev: entry.rev,
            lifetime: entry.lifetime,
            ttl: entry
                .deadline
                .map(|deadline| deadline.saturating_sub(self.model.now)),
        }
    }

    fn carry_out(&mut self, desk: &mut Desk, request: Request) -> Expected {
        let model = &mut self.model;
        let expected = match request {
            Request::Put(put) => {
                let done = model.put(&put, &desk.by);
                done.map(|(rev, unchanged)| Expected::Written { rev, unchanged })
            }
            Request::Get(key) => match may(&desk.by, &[Action::Read], &key) {
                Err(refused) => Err(refused),
                Ok(()) if model.entries.contains_key(&key) => {
                    Ok(Expected::Entry(self.listed(key, false)))
                }
                Ok(()) => Err(ErrorCode::NotFound.into()),
            },
            Request::Delete(key, if_rev) => {
                let done = model.delete_if(&key, if_rev, &desk.by);
                let rev = model.rev;
                done.map(|deleted| Expected::DeletedKey {
                    deleted: deleted.into(),
                    rev,
                })
            }
            Request::Batch(items) => written(model.batch(&items, &desk.by)),
            Request::Subscribe(subscribe) => self.subscribe(desk, &subscribe),
            Request::Unsubscribe(name) if desk.names.remove(name) => {
                Ok(Expected::Unsubscribed(name))
            }
            Request::Unsubscribe(_) => Err(ErrorCode::NotFound.into()),
            Request::Claim(key) => written(model.claim(&key, &desk.by)),
            Request::Release(key) => written(model.release(&key, &desk.by)),
            Request::Hello => Ok(Expected::Hello { rev: model.rev }),
            Request::Stats => Ok(Expected::Stats(self.stats(desk))),
            Request::Ping => Ok(Expected::Pong),
            Request::Malformed(code) => Err(code.into()),
            Request::List(_) | Request::DeleteAll(_) => unreachable!("these may take turns"),
        };
        expected.unwrap_or_else(Expected::Refused)
    }

    fn subscribe(&self, desk: &mut Desk, subscribe: &Subscribe) -> Result<Expected, Refused> {
        let name = subscribe.name;
        let Cover { pattern, exact } = &subscribe.cover;
        may_some(&desk.by, Action::Read, pattern, *exact)?;
        if desk.names.contains(name) {
            return Err(ErrorCode::Conflict.into());
        }
        let most = self.model.limits.subscriptions;
        let most = most.min(desk.by.view.quota(Resource::Subscriptions).unwrap_or(most));
        if desk.names.len() as u64 >= most {
            return Err(ErrorCode::Limit.into());
        }
        desk.names.insert(name);
        let subscriber = Subscriber::new(subscribe, &self.epoch, &desk.by.view, &self.model);
        let (subscriber, epoch) = (Box::new(subscriber), self.epoch.clone());
        Ok(Expected::Subscribed {
            name,
            rev: self.model.rev,
            epoch,
            subscriber,
        })
    }

    fn stats(&self, asking: &Desk) -> BTreeMap<&'static str, u64> {
        let desks = self.seats.iter().flatten().chain([asking]);
        let (clients, names) = desks.fold((0, 0), |(clients, names), desk| {
            (clients + 1, names + desk.names.len())
        });
        BTreeMap::from([
            ("clients", clients),
            ("subscriptions", names as u64),
            ("keys", self.model.entries.len() as u64),
            ("bytes", self.model.bytes()),
            ("rev", self.model.rev),
            ("tombstones", self.model.tombstones()),
        ])
    }

    /// The line that asks for it, the id it is answered under, and what is asked.
    fn line(&mut self, seat: usize, ask: &Ask) -> (Vec<u8>, Option<String>, Request) {
        let (mut fields, request) = self.request(seat, ask);
        let mut id = Some(match &request {
            Request::Subscribe(subscribe) => subscribe.name.to_owned(),
            _ => self.id(),
        });
        if let Some(id) = &id {
            fields = format!("{{\"id\":{id},{fields}}}\n");
        }
        let is_too_long = fields.len() as u64 > self.model.limits.message + 1;
        let request = if is_too_long {
            Request::Malformed(ErrorCode::TooLarge)
        } else {
            request
        };
        if is_too_long {
            id = None;
        }
        (fields.into_bytes(), id, request)
    }

    /// The fields of a request, and what it means.
    fn request(&self, seat: usize, ask: &Ask) -> (String, Request) {
        match ask {
            Ask::Put(put) => {
                let (fields, put) = self.put(put);
                (fields, Request::Put(put))
            }
            Ask::Get(key) => {
                let key = self.key(*key);
                (
                    format!("\"op\":\"get\",\"key\":\"{key}\""),
                    Request::Get(key),
                )
            }
            Ask::List { .. } => self.page(ask),
            Ask::Delete(key, condition) => {
                let (fields, key, if_rev) = self.delete(*key, *condition);
                (fields, Request::Delete(key, if_rev))
            }
            Ask::DeleteAll(pattern) => {
                let pattern = PATTERNS[*pattern].to_owned();
                let fields = format!("\"op\":\"delete\",\"key\":\"{pattern}\"");
                (fields, Request::DeleteAll(pattern))
            }
            Ask::Batch(items) => {
                let items = items.iter().map(|item| self.item(item));
                let (fields, items): (Vec<String>, Vec<Item>) = items.unzip();
                let ops = format!("{{{}}}", fields.join("},{"));
                let ops = if items.is_empty() { "" } else { &ops };
                (
                    format!("\"op\":\"batch\",\"ops\":[{ops}]"),
                    Request::Batch(items),
                )
            }
            Ask::Subscribe { .. } => self.subscription(seat, ask),
            Ask::Unsubscribe(name) => {
                let name = NAMES[*name];
                let fields = format!("\"op\":\"unsubscribe\",\"sub\":{name}");
                (fields, Request::Unsubscribe(name))
            }
            Ask::Claim(key) => {
                let key = self.key(*key);
                (
                    format!("\"op\":\"claim\",\"key\":\"{key}\""),
                    Request::Claim(key),
                )
            }
            Ask::Release(key) => {
                let key = self.key(*key);
                (
                    format!("\"op\":\"release\",\"key\":\"{key}\""),
                    Request::Release(key),
                )
            }
            Ask::Hello => (
                "\"op\":\"hello\",\"client\":\"model\"".into(),
                Request::Hello,
            ),
            Ask::Stats => ("\"op\":\"stats\"".into(), Request::Stats),
            Ask::Garbage => {
                let fields = "\"op\":\"ping\",\"if_rev\":1".into();
                (fields, Request::Malformed(ErrorCode::BadRequest))
            }
            Ask::Burn(left) => {
                let check = "{\"op\":\"check\",\"key\":\"nobody\",\"if_rev\":0}";
                let ops = vec![check; BURN - left].join(",");
                let items = vec![Item::Check("nobody".into(), 0); BURN - left];
                (
                    format!("\"op\":\"batch\",\"ops\":[{ops}]"),
                    Request::Batch(items),
                )
            }
        }
    }

    fn page(&self, ask: &Ask) -> (String, Request) {
        let Ask::List {
            pattern,
            limit,
            after,
            keys_only,
        } = *ask
        else {
            unreachable!("it is asked for a list")
        };
        let asked = List {
            pattern: PATTERNS[pattern].to_owned(),
            limit,
            after: after.map(|key| self.key(key)),
            keys_only,
        };
        let mut fields = format!("\"op\":\"get\",\"key\":\"{}\"", asked.pattern);
        append(&mut fields, "limit", asked.limit);
        append(&mut fields, "keys_only", keys_only.then_some(true));
        let after = asked.after.as_ref().map(|key| format!("\"{key}\""));
        append(&mut fields, "after", after);
        (fields, Request::List(asked))
    }

    fn subscription(&self, seat: usize, ask: &Ask) -> (String, Request) {
        let Ask::Subscribe {
            name,
            pattern,
            exact,
            initial,
            cuts,
            since,
        } = *ask
        else {
            unreachable!("it is asked to subscribe")
        };
        let desk = self.seats[seat].as_ref();
        let name = NAMES[name];
        let rev = self.model.rev;
        let last_sync = desk.and_then(|desk| desk.syncs.get(name));
        let held = last_sync.filter(|_| matches!(since, Since::LastSync));
        let held = held.map(|(.., view)| view.clone());
        let since = match since {
            Since::None => None,
            Since::LastSync => last_sync.map(|(since, epoch, _)| (*since, epoch.clone())),
            Since::Ago(revisions) => Some((rev.saturating_sub(revisions), self.epoch.clone())),
            Since::Ahead(revisions) => Some((rev + revisions, self.epoch.clone())),
            Since::OtherEpoch => Some((rev, "e0".into())),
        };
        let pattern = PATTERNS[pattern].to_owned();
        let mut fields = format!("\"op\":\"subscribe\",\"key\":\"{pattern}\"");
        append(&mut fields, "exact", exact.then_some(true));
        append(&mut fields, "initial", (!initial).then_some(false));
        append(&mut fields, "cuts", cuts.then_some(true));
        append(&mut fields, "since", since.as_ref().map(|(since, _)| since));
        let epoch = since.as_ref().map(|(_, epoch)| format!("\"{epoch}\""));
        append(&mut fields, "epoch", epoch);
        let cover = Cover { pattern, exact };
        (
            fields,
            Request::Subscribe(Subscribe {
                name,
                cover,
                initial,
                cuts,
                since,
                held,
            }),
        )
    }

    fn item(&self, item: &acts::Item) -> (String, Item) {
        match item {
            acts::Item::Put(put) => {
                let (fields, put) = self.put(put);
                (fields, Item::Put(put))
            }
            acts::Item::Delete(key, condition) => {
                let (fields, key, if_rev) = self.delete(*key, *condition);
                (fields, Item::Delete(key, if_rev))
            }
            acts::Item::DeleteAll(pattern) => {
                let pattern = PATTERNS[*pattern].to_owned();
                (
                    format!("\"op\":\"delete\",\"key\":\"{pattern}\""),
                    Item::DeleteAll(pattern),
                )
            }
            acts::Item::Check(key, condition) => {
                let key = self.key(*key);
                let if_rev = self.if_rev(&key, *condition).unwrap_or(0);
                let fields = format!("\"op\":\"check\",\"key\":\"{key}\",\"if_rev\":{if_rev}");
                (fields, Item::Check(key, if_rev))
            }
        }
    }

    fn put(&self, put: &acts::Put) -> (String, Put) {
        let key = self.key(put.key);
        let (value, json) = value(put.value);
        let if_rev = self.if_rev(&key, put.condition);
        let mut fields = format!("\"op\":\"put\",\"key\":\"{key}\",{json}");
        append(&mut fields, "if_rev", if_rev);
        append(&mut fields, "if_changed", put.if_changed.then_some(true));
        let lifetime = put
            .lifetime
            .map(|lifetime| format!("\"{}\"", lifetime.as_str()));
        append(&mut fields, "lifetime", lifetime);
        append(&mut fields, "ttl_ms", put.ttl);
        let acts::Put {
            if_changed,
            lifetime,
            ttl,
            ..
        } = *put;
        (
            fields,
            Put {
                key,
                value,
                if_rev,
                if_changed,
                lifetime,
                ttl,
            },
        )
    }

    fn delete(&self, key: usize, condition: Condition) -> (String, String, Option<u64>) {
        let key = self.key(key);
        let if_rev = self.if_rev(&key, condition);
        let mut fields = format!("\"op\":\"delete\",\"key\":\"{key}\"");
        append(&mut fields, "if_rev", if_rev);
        (fields, key, if_rev)
    }

    fn if_rev(&self, key: &str, condition: Condition) -> Option<u64> {
        match condition {
            Condition::None => None,
            Condition::Right => Some(self.model.rev_of(key)),
            Condition::Absent => Some(0),
            Condition::Off(by) => Some(self.model.rev_of(key) + by),
        }
    }

    /// The further keys lie far from each other in the order of the first ones.
    fn key(&self, number: usize) -> String {
        match KEYS.get(number) {
            Some(key) => (*key).to_owned(),
            None => format!(
                "m.{:05}.q",
                (number - KEYS.len()) * 7919 % self.more_keys.max(1)
            ),
        }
    }
}

fn written(done: Result<u64, Refused>) -> Result<Expected, Refused> {
    done.map(|rev| Expected::Written {
        rev,
        unchanged: false,
    })
}

/// Who sits where: two users of the machine, and somebody from outside.
fn subject(seat: usize) -> Subject {
    match seat {
        0 => Subject::User {
            uid: 1000,
            gids: vec![1000, 50],
        },
        1 => Subject::User {
            uid: 1001,
            gids: vec![50, 60],
        },
        _ => Subject::Tcp,
    }
}

fn peer(seat: usize) -> Peer {
    match subject(seat) {
        Subject::User { uid, gids } => Peer::Unix {
            pid: 1,
            uid,
            gid: gids[0],
            groups: gids[1..].to_vec(),
        },
        Subject::Tcp => Peer::Tcp(([127, 0, 0, 1], 9).into()),
    }
}

/// A connection from a seat. The first one's is the user whose daemon it is.
fn by(seat: usize, owner: u64, view: View) -> By {
    let (account, holder) = match subject(seat) {
        Subject::User { uid, .. } => (Account::user(uid), format!(r#"{{"uid":{uid},"pid":1}}"#)),
        Subject::Tcp => (Account::TCP, r#"{"address":"127.0.0.1"}"#.to_owned()),
    };
    By {
        owner,
        view,
        account,
        is_free: seat == 0,
        holder,
    }
}

/// The rules as the daemon reads them.
fn rules(rights: &Rights) -> Arc<Rules> {
    struct Nobody;

    impl Names for Nobody {
        fn user(&self, _: &str) -> Option<u32> {
            None
        }

        fn group(&self, _: &str) -> Option<u32> {
            None
        }
    }

    let rules = Rules::parse(&rights.to_string(), &Nobody);
    Arc::new(rules.expect("they are written as they should be"))
}

/// A value, and the field that it travels in.
fn value(value: acts::Value) -> (Value, String) {
    let (payload, field) = match value {
        acts::Value::Number(number) => (Payload::Json(number.to_string().into()), None),
        acts::Value::Json(number) => (Payload::Json(JSON[number].into()), None),
        acts::Value::Big(number) => {
            let length = 3000 + 700 * usize::from(number);
            (
                Payload::Json(format!("\"{}\"", "x".repeat(length)).into()),
                None,
            )
        }
        acts::Value::Bytes(number) => {
            // One of them has the bytes of a JSON value.
            let bytes = b"2\0\xff"[..usize::from(number)].to_vec();
            let base64 = base64::engine::general_purpose::STANDARD.encode(&bytes);
            (
                Payload::Bytes(bytes.into()),
                Some(format!("\"base64\":\"{base64}\"")),
            )
        }
    };
    let field = match (&payload, field) {
        (Payload::Json(json), _) => format!("\"value\":{json}"),
        (_, field) => field.unwrap_or_default(),
    };
    (Rc::new(payload), field)
}

/// Appends a field where there is something to say.
fn append<T: std::fmt::Display>(fields: &mut String, name: &str, value: Option<T>) {
    if let Some(value) = value {
        *fields += &format!(",\"{name}\":{value}");
    }
}

/// How many requests the broker has carried out.
fn requests(broker: &Broker) -> u64 {
    let stats = broker.statistics(Time(0));
    let stats: serde_json::Value = serde_json::from_str(&stats).expect("statistics are JSON");
    stats["requests"].as_u64().expect("a count")
}

fn epoch(broker: &Broker) -> String {
    let stats = broker.statistics(Time(0));
    let stats: serde_json::Value = serde_json::from_str(&stats).expect("statistics are JSON");
    stats["epoch"].as_str().expect("a name").to_owned()
}

/// The keys that are deleted after a revision, where nothing else has happened since.
fn deletions(broker: &Broker, rev: u64) -> Vec<(u64, String)> {
    let changes = broker.keyspace().changes_after(rev);
    let live = changes.filter_map(|(rev, change)| Some((rev, change?)));
    live.filter(|(_, change)| change.entry.is_none())
        .map(|(rev, change)| (rev, change.key.to_string()))
        .collect()
}
