//! A pair of journals as bytes: one that a daemon has written, what it says to another reader than the
//! daemon's own, and what the library makes of it.
//!
//! [`RUN`] is a real run, with the pair and the daemon's own answer after each step. [`state_of`] reads
//! lines in the simplest way that there is; that it reads them right is held against those answers.
//! So it can say what any selection of those lines has to come to. [`Bench`] has the library read a pair.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nkv::journal::{JournalError, Journals, Options, Policy, Storage};
use nkv::key::{KeyRef, Pattern};
use nkv::keyspace::{Class, Keyspace, Time};
use nkv::wire::{Lifetime, Payload};
use serde::Deserialize;
use serde_json::value::RawValue;
use tempfile::TempDir;

use crate::support::{Client, Plan, until};

/// When everything is loaded. No deadline of the run has come by then.
pub(crate) const NOW: Time = Time(0);

/// Requests that leave every kind of record, each a commit of its own.
const STEPS: [&str; 15] = [
    r#"{"op":"put","key":"d.1","value":{"a":1.0}}"#,
    r#"{"op":"put","key":"raw","base64":"AAEKfw=="}"#,
    r#"{"op":"put","key":"b.1","value":"boot","lifetime":"boot"}"#,
    r#"{"op":"put","key":"d.1","value":"new"}"#,
    r#"{"op":"put","key":"s","value":"\"ü\n","lifetime":"session"}"#,
    r#"{"op":"put","key":"t","value":1,"ttl_ms":100000000000}"#,
    r#"{"op":"put","key":"moves","value":"durable"}"#,
    r#"{"op":"batch","ops":[{"op":"put","key":"x","value":[1]},{"op":"put","key":"y","value":[2],"lifetime":"boot"},{"op":"delete","key":"raw"}]}"#,
    r#"{"op":"put","key":"moves","value":"boot","lifetime":"boot"}"#,
    r#"{"op":"put","key":"t","value":1,"ttl_ms":900000000000,"if_changed":true}"#,
    r#"{"op":"delete","key":"b.1"}"#,
    r#"{"op":"put","key":"moves","value":"durable again"}"#,
    r#"{"op":"put","key":"b.2","value":2,"lifetime":"boot"}"#,
    r#"{"op":"batch","ops":[{"op":"put","key":"x","value":[3]},{"op":"put","key":"y","value":[3],"lifetime":"boot"}]}"#,
    r#"{"op":"put","key":"d.2","value":2}"#,
];

pub(crate) static RUN: LazyLock<Run> = LazyLock::new(Run::make);

/// What a daemon did until it was killed.
pub(crate) struct Run {
    /// The pair after each step.
    pub(crate) pairs: Vec<Pair>,
    /// What the daemon had after each step.
    pub(crate) states: Vec<State>,
    pub(crate) epoch: String,
    /// The last revision that it has given.
    pub(crate) rev: u64,
}

/// The bytes of both files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) durable: Vec<u8>,
    pub(crate) boot: Vec<u8>,
}

/// Every entry.
pub(crate) type State = BTreeMap<String, Held>;

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) payload: Payload<'static>,
    pub(crate) rev: u64,
    pub(crate) lifetime: Lifetime,
    pub(crate) deadline: Option<u64>,
}

impl Run {
    fn make() -> Run {
        let plan = Plan::keeping();
        let daemon = plan.start();
        let mut client = daemon.connect();
        let hello = client.do_it(r#"{"op":"hello"}"#);
        let (mut pairs, mut states, mut rev) = (Vec::new(), Vec::new(), 0);
        for step in STEPS {
            rev = client.do_it(step)["rev"].as_u64().unwrap();
            pairs.push(Pair::read(&plan));
            states.push(answered(&mut client));
        }
        // The session entry stays, for its client is there as long as the daemon.
        daemon.kill();
        assert_eq!(&Pair::read(&plan), pairs.last().unwrap());
        Run {
            pairs,
            states,
            epoch: hello["epoch"].as_str().unwrap().to_owned(),
            rev,
        }
    }

    pub(crate) fn last(&self) -> &Pair {
        self.pairs.last().unwrap()
    }
}

impl Pair {
    fn read(plan: &Plan) -> Pair {
        Pair {
            durable: fs::read(plan.data_directory().join("durable.journal")).unwrap(),
            boot: fs::read(plan.runtime_directory().join("boot.journal")).unwrap(),
        }
    }

    pub(crate) fn file(&self, class: Class) -> &Vec<u8> {
        match class {
            Class::Durable => &self.durable,
            Class::Boot => &self.boot,
        }
    }

    /// The same pair with another file.
    pub(crate) fn with(&self, class: Class, file: Vec<u8>) -> Pair {
        let mut pair = self.clone();
        match class {
            Class::Durable => pair.durable = file,
            Class::Boot => pair.boot = file,
        }
        pair
    }
}

/// A line of a journal behind its checksum, or a daemon's list of entries.
#[derive(Deserialize)]
pub(crate) struct Line<'a> {
    pub(crate) rev: u64,
    pub(crate) with: Option<u64>,
    #[serde(borrow, default, alias = "entries")]
    changes: Vec<Record<'a>>,
}

#[derive(Deserialize)]
struct Record<'a> {
    #[serde(default)]
    op: &'a str,
    key: String,
    rev: u64,
    // As long as no value is `null`.
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    base64: Option<String>,
    #[serde(default)]
    lifetime: Lifetime,
    deadline: Option<u64>,
}

impl Line<'_> {
    /// Reads a line of a journal that is known to be sound.
    pub(crate) fn read(line: &[u8]) -> Line<'_> {
        serde_json::from_slice(&line[9..]).unwrap()
    }
}

impl Record<'_> {
    fn held(&self) -> Held {
        let payload = match (self.value, &self.base64) {
            (Some(json), None) => Payload::Json(json.get().to_owned().into()),
            (None, Some(text)) => Payload::Bytes(STANDARD.decode(text).unwrap().into()),
            _ => panic!("{} has no value", self.key),
        };
        Held {
            payload,
            rev: self.rev,
            lifetime: self.lifetime,
            deadline: self.deadline,
        }
    }
}

/// What sound lines come to, those of the durable journal read first.
pub(crate) fn state_of(durable: &[&[u8]], boot: &[&[u8]]) -> State {
    // With the revision of each key's last record; one that is deleted has nothing else.
    let mut known: BTreeMap<String, (u64, Option<Held>)> = BTreeMap::new();
    for (class, lines) in [(Class::Durable, durable), (Class::Boot, boot)] {
        let lines: Vec<Line<'_>> = lines.iter().map(|line| Line::read(line)).collect();
        for record in lines.iter().flat_map(|line| &line.changes) {
            take(&mut known, class, record);
        }
    }
    let held = known.into_iter();
    held.filter_map(|(key, (_, held))| Some((key, held?)))
        .collect()
}

fn take(known: &mut BTreeMap<String, (u64, Option<Held>)>, class: Class, record: &Record<'_>) {
    let before = known.get_mut(&record.key);
    let rev = before.as_ref().map_or(0, |(rev, _)| *rev);
    let held = before.and_then(|(_, held)| held.as_mut());
    match (record.op, held) {
        ("put", _) if record.rev > rev => {
            known.insert(record.key.clone(), (record.rev, Some(record.held())));
        }
        ("delete", _) if record.rev > rev => {
            known.insert(record.key.clone(), (record.rev, None));
        }
        ("displace", Some(held)) if Class::of(held.lifetime) == class && record.rev > rev => {
            known.remove(&record.key);
        }
        ("renew", Some(held)) if record.rev == rev => held.deadline = record.deadline,
        ("put" | "delete" | "displace" | "renew", _) => {}
        (other, _) => panic!("{other} is no record"),
    }
}

/// All that a daemon has, without deadlines: it tells what is left instead.
fn answered(client: &mut Client) -> State {
    client.send(r#"{"op":"get","key":"*"}"#);
    let line = client.line();
    let list: Line<'_> = serde_json::from_str(&line).unwrap();
    let entries = list.changes.iter();
    entries
        .map(|entry| (entry.key.clone(), entry.held()))
        .collect()
}

/// Two directories in which pairs are loaded.
pub(crate) struct Bench {
    directory: TempDir,
}

/// What was loaded, and its journals, which are held.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) keyspace: Keyspace,
    pub(crate) epoch: String,
    pub(crate) journals: Journals,
}

impl Bench {
    /// In memory where that can be had: every load asks the disk to have everything.
    pub(crate) fn new() -> Bench {
        let directory = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new());
        let bench = Bench {
            directory: directory.unwrap(),
        };
        for class in [Class::Durable, Class::Boot] {
            fs::create_dir(bench.path(class).parent().unwrap()).unwrap();
        }
        bench
    }

    pub(crate) fn path(&self, class: Class) -> PathBuf {
        self.directory.path().join(match class {
            Class::Durable => "data/durable.journal",
            Class::Boot => "runtime/boot.journal",
        })
    }

    /// Takes away what was kept under other names, and returns it.
    pub(crate) fn take_aside(&self, class: Class) -> Vec<Vec<u8>> {
        let directory = fs::read_dir(self.path(class).parent().unwrap()).unwrap();
        let files = directory.map(|file| file.unwrap().path());
        let aside = files.filter(|path| path.to_str().unwrap().contains(".damaged"));
        let take = |path: PathBuf| {
            let bytes = fs::read(&path).unwrap();
            fs::remove_file(path).unwrap();
            bytes
        };
        aside.map(take).collect()
    }

    /// Puts a pair in place of the one that is there.
    pub(crate) fn lay(&self, pair: &Pair) {
        for class in [Class::Durable, Class::Boot] {
            fs::write(self.path(class), pair.file(class)).unwrap();
        }
    }

    /// Loads what is there.
    pub(crate) fn load(&self, recover: bool) -> Result<Loaded, JournalError> {
        let mut loaded = self.try_load(recover);
        until("the last load's locks are given back", || {
            // A process that another test starts at this moment has them too until it is another program.
            let is_held = matches!(loaded, Err(JournalError::Locked { .. }));
            if is_held {
                loaded = self.try_load(recover);
            }
            !is_held
        });
        loaded
    }

    fn try_load(&self, recover: bool) -> Result<Loaded, JournalError> {
        let mut journals = Journals::new(Options {
            data_directory: self.path(Class::Durable).parent().unwrap().to_owned(),
            runtime_directory: self.path(Class::Boot).parent().unwrap().to_owned(),
            policy: Policy::Always,
            recover,
        });
        let mut keyspace = Keyspace::new(100);
        match journals.load(&mut keyspace, NOW, Arc::new(|| {})) {
            Ok(epoch) => Ok(Loaded {
                keyspace,
                epoch,
                journals,
            }),
            Err(error) => Err(*error.downcast().expect("all errors of journals are theirs")),
        }
    }
}

impl Loaded {
    /// Makes sure that it is this and nothing else.
    pub(crate) fn assert_is(&self, state: &State, case: &str) {
        self.keyspace.assert_invariants();
        let all = Pattern::new("*").unwrap();
        let entries = self
            .keyspace
            .walk(&all, None)
            .filter_map(|(_, entry)| entry);
        let keys: Vec<&str> = entries.map(|entry| entry.key.as_str()).collect();
        assert_eq!(keys, state.keys().collect::<Vec<_>>(), "{case}");
        for (key, held) in state {
            let entry = self.keyspace.entry(KeyRef::new(key).unwrap()).unwrap();
            assert!(entry.is(&held.payload), "{case}: {key}: {entry:?}");
            assert_eq!(
                (entry.rev, entry.lifetime, entry.deadline),
                (held.rev, held.lifetime, held.deadline.map(Time)),
                "{case}: {key}"
            );
        }
    }
}
