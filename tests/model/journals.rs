//! The real journals, in directories of their own: what is loaded is what was committed.
//!
//! A case is a list of acts on a keyspace: turns of changes, each of them committed; the journals being
//! tended, which writes them anew a slice at a time; the daemon gone at any point, with or without a
//! word, and the machine as well. After each start the keyspace must be what it was: keys, values,
//! revisions, lifetimes, deadlines, and every deletion above the floor. After a start of the machine it
//! must be what was durable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nkv::Key;
use nkv::journal::{Journals, ORPHAN_PATIENCE, Options, Policy, Storage};
use nkv::keyspace::{Account, Class, Keyspace, Owner, Terms, Time};
use nkv::wire::{Lifetime, Payload};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tempfile::TempDir;

/// Keys that collide, and those that are filled.
const KEYS: usize = 6;
const FILLED: usize = 40;
const TOMBSTONES_MAX: u64 = 4;
/// Nothing ends by itself in a case.
const LONG: u64 = 1 << 40;

#[derive(Clone, Debug)]
enum Act {
    /// The changes of a turn.
    Turn(Vec<Change>),
    /// So many turns that put large values: soon a journal is worth being written anew.
    Fill(Lifetime, usize),
    /// The journals are tended so often.
    Tend(usize),
    Crash,
    Stop,
    Reboot,
}

#[derive(Clone, Debug)]
enum Change {
    Put(usize, Value, Lifetime, Option<u64>),
    Renew(usize, Option<u64>),
    Delete(usize),
    /// The turn is undone so far; what follows is done instead.
    Undo,
}

#[derive(Clone, Copy, Debug)]
enum Value {
    Json(u8),
    Bytes(u8),
    Large(u8),
}

/// A daemon as far as its storage knows it.
struct Daemon {
    place: TempDir,
    policy: Policy,
    journals: Journals,
    keyspace: Keyspace,
    epoch: String,
    now: Time,
    /// The revision up to which everything is committed.
    committed: u64,
}

/// What is known of a key.
type State = (u64, Payload<'static>, Lifetime, Option<Time>, Account);

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        12 => vec(change(), 0..6).prop_map(Act::Turn),
        3 => (lifetime(), 1..8_usize).prop_map(|(lifetime, turns)| Act::Fill(lifetime, turns)),
        4 => (1..6_usize).prop_map(Act::Tend),
        2 => Just(Act::Crash),
        1 => Just(Act::Stop),
        1 => Just(Act::Reboot),
    ];
    vec(act, 1..40)
}

fn change() -> impl Strategy<Value = Change> {
    let key = || 0..KEYS;
    let ttl = || prop::option::of(0..100_u64);
    prop_oneof![
        8 => (key(), value(), lifetime(), ttl())
            .prop_map(|(key, value, lifetime, ttl)| Change::Put(key, value, lifetime, ttl)),
        2 => (key(), ttl()).prop_map(|(key, ttl)| Change::Renew(key, ttl)),
        5 => key().prop_map(Change::Delete),
        1 => Just(Change::Undo),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        (0..9_u8).prop_map(Value::Json),
        (0..9_u8).prop_map(Value::Bytes),
        (0..9_u8).prop_map(Value::Large),
    ]
}

fn lifetime() -> impl Strategy<Value = Lifetime> {
    prop_oneof![
        2 => Just(Lifetime::Durable),
        1 => Just(Lifetime::Boot),
        1 => Just(Lifetime::Session),
    ]
}

impl Value {
    fn payload(self) -> Payload<'static> {
        match self {
            Value::Json(number) => Payload::Json(format!("{{\"é\": {number}.0}}").into()),
            Value::Bytes(number) => Payload::Bytes(vec![number; usize::from(number)].into()),
            Value::Large(number) => {
                let length = 4000 + 500 * usize::from(number);
                Payload::Json(format!("\"{}\"", "x".repeat(length)).into())
            }
        }
    }
}

fn key(number: usize) -> Key {
    Key::new(&format!("k.{number}")).expect("it is a key")
}

impl Daemon {
    fn new(policy: Policy) -> Daemon {
        let place = directory().expect("there is room for a directory");
        let now = Time(1000);
        let (journals, keyspace, epoch) = load(&place, policy, now);
        Daemon {
            committed: keyspace.rev(),
            place,
            policy,
            journals,
            keyspace,
            epoch,
            now,
        }
    }

    fn perform(&mut self, act: &Act) {
        match act {
            Act::Turn(changes) => self.turn(changes.iter().cloned()),
            Act::Fill(lifetime, turns) => {
                for turn in 0..*turns {
                    let size = Value::Large(u8::try_from(turn).expect("these are few"));
                    let keys = KEYS..KEYS + FILLED;
                    self.turn(keys.map(|key| Change::Put(key, size, *lifetime, None)));
                }
            }
            Act::Tend(times) => {
                for _ in 0..*times {
                    self.now.0 += 1;
                    self.journals.tend(&self.keyspace, self.now);
                }
            }
            Act::Crash => self.restart(),
            Act::Stop => {
                let rev = self.keyspace.rev();
                self.journals.close(&self.keyspace);
                self.restart();
                assert_eq!(self.keyspace.rev(), rev, "a clean stop skips nothing");
            }
            Act::Reboot => self.reboot(),
        }
    }

    /// As a broker has it: what is refused is undone, and everything counts once it is committed.
    fn turn(&mut self, changes: impl Iterator<Item = Change>) {
        self.keyspace.begin();
        for change in changes {
            self.change(&change);
        }
        let committed = self
            .journals
            .commit(&self.keyspace, self.committed, self.now);
        committed.expect("nothing is wrong with the directories");
        self.keyspace.keep();
        self.committed = self.keyspace.rev();
        self.keyspace.drop_tombstones();
        self.keyspace.assert_invariants();
    }

    fn change(&mut self, change: &Change) {
        let deadline = |ttl: Option<u64>| ttl.map(|ttl| Time(LONG + ttl));
        match change {
            Change::Put(number, value, lifetime, ttl) => {
                let is_durable = *lifetime == Lifetime::Durable;
                let terms = Terms {
                    lifetime: *lifetime,
                    owner: (*lifetime == Lifetime::Session).then_some(Owner(1)),
                    deadline: deadline(ttl.filter(|_| !is_durable)),
                    account: account(value),
                };
                self.keyspace
                    .put(key(*number).borrowed(), &value.payload(), terms);
            }
            Change::Renew(number, ttl) => {
                let key = key(*number);
                let entry = self.keyspace.entry(key.borrowed());
                let lifetime = entry.map(|entry| entry.lifetime);
                // A durable entry is put again without a deadline.
                let ttl = ttl.filter(|_| lifetime != Some(Lifetime::Durable));
                let owner = (lifetime == Some(Lifetime::Session)).then_some(Owner(2));
                self.keyspace.renew(key.borrowed(), owner, deadline(ttl));
            }
            Change::Delete(number) => drop(self.keyspace.delete(key(*number).borrowed())),
            Change::Undo => self.keyspace.roll_back(),
        }
    }

    /// Another daemon begins with what this one has left.
    fn restart(&mut self) {
        let (before, epoch) = self.start();
        let after = &self.keyspace;
        assert_eq!(self.epoch, epoch, "the history goes on");
        assert_eq!(entries(after), entries(&before), "what is there");
        let floor = before.floor();
        assert!(after.floor() <= floor, "no more deletions are forgotten");
        assert_eq!(
            deletions(after, floor),
            deletions(&before, floor),
            "deletions that are remembered"
        );
        let states = entries(after);
        let ends = states.values().flat_map(|(_, _, lifetime, deadline, _)| {
            let patience = u64::try_from(ORPHAN_PATIENCE.as_millis()).expect("it is seconds");
            let is_orphan = *lifetime == Lifetime::Session;
            [*deadline, is_orphan.then_some(Time(self.now.0 + patience))]
        });
        assert_eq!(after.next_deadline(), ends.flatten().min(), "what ends");
    }

    /// What was durable is there, and a new history begins.
    fn reboot(&mut self) {
        std::fs::remove_dir_all(self.place.path().join("run")).expect("it is there");
        let (before, epoch) = self.start();
        assert_ne!(self.epoch, epoch, "a new history begins");
        let mut durable = entries(&before);
        durable.retain(|_, (_, _, lifetime, ..)| *lifetime == Lifetime::Durable);
        assert_eq!(entries(&self.keyspace), durable, "what is there");
        assert_eq!(deletions(&self.keyspace, 0), [], "nobody resumes");
    }

    /// Gives the keyspace and the epoch of the daemon that is gone.
    fn start(&mut self) -> (Keyspace, String) {
        let given = self.keyspace.rev();
        // The locks go with the journals, so the old ones have to go first.
        self.journals = Journals::new(options(&self.place, self.policy));
        let (journals, keyspace, epoch) = load(&self.place, self.policy, self.now);
        self.journals = journals;
        self.committed = keyspace.rev();
        assert!(keyspace.rev() >= given, "no revision is given twice");
        (
            std::mem::replace(&mut self.keyspace, keyspace),
            std::mem::replace(&mut self.epoch, epoch),
        )
    }
}

/// In memory where that can be: what a sync is good for is not seen here, and there are thousands.
fn directory() -> std::io::Result<TempDir> {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())
}

fn options(place: &TempDir, policy: Policy) -> Options {
    Options {
        data_directory: place.path().join("data"),
        runtime_directory: place.path().join("run"),
        policy,
        recover: false,
    }
}

fn load(place: &TempDir, policy: Policy, now: Time) -> (Journals, Keyspace, String) {
    let mut journals = Journals::new(options(place, policy));
    let mut keyspace = Keyspace::new(TOMBSTONES_MAX);
    let loaded = journals.load(&mut keyspace, now, Arc::new(|| {}));
    let epoch = loaded.unwrap_or_else(|error| panic!("{error}"));
    keyspace.assert_invariants();
    (journals, keyspace, epoch)
}

/// Whoever puts such a value.
fn account(value: &Value) -> Account {
    match value.payload().len() % 3 {
        0 => Account::ROOT,
        1 => Account::user(1000),
        _ => Account::TCP,
    }
}

fn entries(keyspace: &Keyspace) -> BTreeMap<Key, State> {
    let changes = keyspace
        .changes_after(0)
        .filter_map(|(_, change)| change?.entry);
    changes
        .map(|entry| {
            let payload = entry.payload().into_owned();
            let state = (
                entry.rev,
                payload,
                entry.lifetime,
                entry.deadline,
                entry.account,
            );
            (entry.key.clone(), state)
        })
        .collect()
}

fn deletions(keyspace: &Keyspace, after: u64) -> Vec<(u64, Key, Class)> {
    let changes = keyspace.changes_after(after);
    let live = changes.filter_map(|(rev, change)| Some((rev, change?)));
    live.filter(|(_, change)| change.entry.is_none())
        .map(|(rev, change)| (rev, change.key.clone(), change.class))
        .collect()
}

fn check(policy: Policy, cases: u32) {
    let config = Config {
        cases,
        max_shrink_iters: 200,
        failure_persistence: None,
        ..Config::default()
    };
    let outcome = TestRunner::new(config).run(&acts(), |acts| {
        let mut daemon = Daemon::new(policy);
        for act in &acts {
            daemon.perform(act);
        }
        daemon.perform(&Act::Crash);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{policy:?}\n{failure}");
    }
}

#[test]
fn what_is_loaded_is_what_was_committed() {
    check(Policy::Never, 24);
}

#[test]
fn what_is_loaded_is_what_was_synced() {
    check(Policy::Always, 8);
    check(Policy::Interval(Duration::from_millis(2)), 16);
}

/// The acts above do what they are for.
#[test]
fn a_filled_journal_is_written_anew() {
    for lifetime in [Lifetime::Durable, Lifetime::Boot] {
        let mut daemon = Daemon::new(Policy::Never);
        daemon.perform(&Act::Fill(lifetime, 7));
        let file = match Class::of(lifetime) {
            Class::Durable => "data/durable.journal",
            Class::Boot => "run/boot.journal",
        };
        let path = daemon.place.path().join(file);
        let length = || std::fs::metadata(&path).expect("it is there").len();
        let before = length();
        let mut tended = 0;
        while length() >= before {
            assert!(tended < 1_000_000, "it is not written anew");
            daemon.perform(&Act::Tend(1));
            tended += 1;
        }
        assert!(tended > 2, "it is written in slices");
        daemon.perform(&Act::Crash);
    }
}
