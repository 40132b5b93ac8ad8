//! kill -9 under load, over and over, in one pair of journals.
//!
//! Writers that each own some keys change them as fast as they are answered: single puts, deletes, and
//! batches that count only as a whole, durable and boot entries mixed. The values are large and the keys
//! few, so the journals are written anew all the time. Somewhere in this the daemon is killed: after a
//! number of answers that was drawn, or as soon as a new journal has begun to replace an old one.
//!
//! After each start, every writer's keys are as its last answer has left them, or as the one request
//! that was not answered would have: whole or not at all. A watcher that resumes where it was reaches the
//! same state, so nobody has seen what is not there. And no revision, whoever has seen it, in an answer, an
//! event or an entry, ever stands for two changes.
//!
//! What a power cut does is not tried: after a kill the kernel still has all that it was handed.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::mpsc::{self, Sender};

use serde_json::{Value, json};

use crate::support::{Client, Daemon, PATIENCE, Plan, scaled};

const WRITERS: u64 = 4;
const KEYS: u64 = 8;
/// Values are up to so long.
const VALUE_BYTES: u64 = 8 << 10;
/// A round ends after up to so many answers, unless it waits for something else.
const ANSWERS: u64 = 200;
/// A journal has to be written anew within so many.
const ANSWERS_MAX: u64 = 10_000;

#[test]
fn nothing_is_lost_with_sync_always() {
    kill_in_rounds("always", 1);
}

#[test]
fn nothing_is_lost_with_sync_interval() {
    kill_in_rounds("interval=20", 2);
}

#[test]
fn nothing_is_lost_with_sync_never() {
    kill_in_rounds("never", 3);
}

/// A kill between the two lines of a turn is too rare to wait for: what it leaves is made by hand.
#[test]
fn a_batch_in_two_journals_is_whole_or_absent() {
    for policy in ["always", "interval=20", "never"] {
        // How much of the durable journal's last line, which decides, is there.
        for (part, is_there) in [(0, false), (1, false), (2, true)] {
            let plan = Plan::keeping().with(&["--sync", policy]);
            let daemon = plan.start();
            let mut client = daemon.connect();
            client.do_it(r#"{"op":"put","key":"moved","value":1}"#);
            let epoch = client.do_it(r#"{"op":"hello"}"#)["epoch"].clone();
            let path = plan.data_directory().join("durable.journal");
            let before = std::fs::metadata(&path).unwrap().len();
            let rev = rev_of(&client.do_it(concat!(
                r#"{"op":"batch","ops":[{"op":"put","key":"durable","value":2},"#,
                r#"{"op":"put","key":"boot","value":2,"lifetime":"boot"},"#,
                r#"{"op":"put","key":"moved","value":2,"lifetime":"boot"}]}"#
            )));
            let after = std::fs::metadata(&path).unwrap().len();
            daemon.kill();
            let file = std::fs::OpenOptions::new().write(true).open(&path);
            file.unwrap()
                .set_len(before + (after - before) * part / 2)
                .unwrap();

            // Nobody can have been told of what is cut off, so it is the same history.
            let daemon = plan.start();
            let mut client = daemon.connect();
            let hello = client.do_it(r#"{"op":"hello"}"#);
            assert_eq!(hello["epoch"], epoch, "--sync {policy}, {part}/2");
            assert!(rev_of(&hello) >= rev, "{hello} after {rev}");
            let list = client.do_it(r#"{"op":"get","key":"*"}"#);
            let entries = list["entries"].as_array().unwrap().iter();
            let found: Vec<String> = entries
                .map(|entry| format!("{} = {}", entry["key"].as_str().unwrap(), entry["value"]))
                .collect();
            let expected: &[&str] = if is_there {
                &["boot = 2", "durable = 2", "moved = 2"]
            } else {
                &["moved = 1"]
            };
            assert_eq!(found, expected, "--sync {policy}, {part}/2");
        }
    }
}

fn kill_in_rounds(policy: &str, seed: u64) {
    let plan = Plan::keeping().with(&["--sync", policy]);
    let mut random = Random(seed);
    let mut writers: Vec<Writer> = (0..WRITERS)
        .map(|number| Writer::new(number, seed))
        .collect();
    let mut witness = Witness::default();
    let (mut rewrites, mut torn, mut unfinished) = (0, 0, 0);
    let rounds = scaled(100, 10);
    for round in 0..rounds {
        println!("--sync {policy}, round {round}");
        let daemon = plan.start();
        witness.check_start(&daemon, &mut writers);
        let (kind, count) = (random.below(4), random.below(ANSWERS));
        let has_come = |answers| match kind {
            0 | 1 => new_journal(&plan, kind == 0).exists(),
            _ => answers >= count,
        };
        let log = witness.watch_and_kill(daemon, &mut writers, has_come);
        rewrites += log.matches("is written anew").count();
        torn += log.matches("are cut off").count();
        unfinished += [true, false]
            .iter()
            .filter(|is| new_journal(&plan, **is).exists())
            .count();
    }
    let daemon = plan.start();
    witness.check_start(&daemon, &mut writers);
    daemon.stop();
    witness.check_start(&plan.start(), &mut writers);
    println!(
        "--sync {policy}: {rounds} kills, {} revisions, {rewrites} journals written anew, \
         {unfinished} not to the end, {torn} torn",
        witness.changes.len()
    );
    assert!(rewrites > 0, "no journal is written anew");
    assert!(
        unfinished > 0,
        "no kill hits a journal that is written anew"
    );
}

fn new_journal(plan: &Plan, is_durable: bool) -> PathBuf {
    if is_durable {
        plan.data_directory().join("durable.journal.new")
    } else {
        plan.runtime_directory().join("boot.journal.new")
    }
}

/// The values of some keys. Each carries a number and the lifetime that it was put with.
type Values = BTreeMap<String, Value>;

/// Everything that was heard from the daemon, over all its lives.
#[derive(Default)]
struct Witness {
    epoch: Option<String>,
    /// What each revision stands for: a key, and its value if it was a put.
    changes: BTreeMap<u64, (String, Option<Value>)>,
    /// The highest revision that was given or mentioned.
    rev: u64,
    /// What the watcher has been told, and up to which revision.
    watched: Values,
    position: u64,
}

impl Witness {
    /// Holds what a fresh daemon says against what was heard before.
    fn check_start(&mut self, daemon: &Daemon, writers: &mut [Writer]) {
        let mut client = daemon.connect();
        let hello = client.do_it(r#"{"op":"hello"}"#);
        let epoch = hello["epoch"].as_str().unwrap();
        let former = self.epoch.get_or_insert_with(|| epoch.to_owned());
        assert_eq!(former, epoch, "a kill ends no history");
        let rev = rev_of(&hello);
        assert!(rev >= self.rev, "{rev} after {}", self.rev);
        self.rev = rev;

        for writer in writers {
            let entries = self.entries(&mut client, &format!("{}.*", writer.name));
            writer.check(&entries);
        }
        self.follow(&mut client);
        let there = self.entries(&mut client, "*");
        assert!(
            self.watched == there,
            "who resumes holds\n{}, and there is\n{}",
            shown(&self.watched),
            shown(&there)
        );
        let value = json!({"number": 0, "lifetime": "durable"});
        let put = client.do_it(&put("probe", &value).to_string());
        assert!(rev_of(&put) > self.rev, "{put} after {}", self.rev);
        self.note(rev_of(&put), "probe", Some(&value));
    }

    /// Lets the writers write until the moment has come, and returns the daemon's log.
    fn watch_and_kill(
        &mut self,
        daemon: Daemon,
        writers: &mut [Writer],
        has_come: impl Fn(u64) -> bool,
    ) -> String {
        let mut watcher = daemon.connect();
        self.follow(&mut watcher);
        let clients: Vec<Client> = writers.iter().map(|_| daemon.connect()).collect();
        let (sender, answers) = mpsc::channel();
        let log = std::thread::scope(|scope| {
            for (writer, client) in writers.iter_mut().zip(clients) {
                let sender = sender.clone();
                scope.spawn(move || writer.write(client, &sender));
            }
            scope.spawn(|| self.watch(&mut watcher));
            let mut count = 0;
            while !has_come(count) {
                answers.recv_timeout(PATIENCE).unwrap();
                count += 1;
                assert!(count < ANSWERS_MAX, "no journal is written anew");
            }
            daemon.kill()
        });
        for writer in writers {
            self.rev = self.rev.max(writer.rev);
            for (rev, key, value) in writer.answered.drain(..) {
                self.note(rev, &key, value.as_ref());
            }
        }
        log
    }

    /// Brings the watcher up to date from where it was.
    fn follow(&mut self, client: &mut Client) {
        client.do_it(&self.subscription());
        while !self.take(&client.event()) {}
        client.do_it(r#"{"op":"unsubscribe","sub":"w"}"#);
    }

    fn subscription(&self) -> String {
        let mut request = json!({"op": "subscribe", "id": "w", "key": "*"});
        if self.position > 0 {
            request["since"] = self.position.into();
            request["epoch"] = self.epoch.as_deref().into();
        }
        request.to_string()
    }

    /// Follows what happens until the daemon ends.
    fn watch(&mut self, client: &mut Client) {
        let request = format!("{}\n", self.subscription());
        if client.writer().write_all(request.as_bytes()).is_err() {
            return;
        }
        while let Some(line) = client.next_line() {
            let line: Value = serde_json::from_str(&line).unwrap();
            if line.get("event").is_some() {
                self.take(&line);
            }
        }
    }

    /// Takes an event in; true for `sync`.
    fn take(&mut self, event: &Value) -> bool {
        let rev = rev_of(event);
        self.rev = self.rev.max(rev);
        let key = event["key"].as_str().unwrap_or_default();
        match event["event"].as_str().unwrap() {
            "put" => {
                self.watched.insert(key.to_owned(), event["value"].clone());
                self.note(rev, key, Some(&event["value"]));
            }
            "delete" => {
                self.watched.remove(key);
                self.note(rev, key, None);
            }
            "sync" => {
                self.position = rev;
                return true;
            }
            other => panic!("{other} within one history"),
        }
        if self.position > 0 {
            assert!(rev > self.position, "{event} after {}", self.position);
            self.position = rev;
        }
        false
    }

    fn entries(&mut self, client: &mut Client, pattern: &str) -> Values {
        let list = client.do_it(&json!({"op": "get", "key": pattern}).to_string());
        assert!(list.get("more").is_none(), "the keys are few");
        let entries = list["entries"].as_array().unwrap().iter();
        let values = entries.map(|entry| {
            let (key, value) = (entry["key"].as_str().unwrap(), &entry["value"]);
            self.note(rev_of(entry), key, Some(value));
            let lifetime = entry
                .get("lifetime")
                .map_or("durable", |name| name.as_str().unwrap());
            assert_eq!(value["lifetime"], lifetime, "{key}");
            (key.to_owned(), value.clone())
        });
        values.collect()
    }

    fn note(&mut self, rev: u64, key: &str, value: Option<&Value>) {
        self.rev = self.rev.max(rev);
        // Of a value its number is enough.
        let change = (key.to_owned(), value.map(|value| value["number"].clone()));
        let former = self.changes.entry(rev).or_insert_with(|| change.clone());
        assert_eq!(*former, change, "revision {rev} stands for two changes");
    }
}

fn rev_of(value: &Value) -> u64 {
    value["rev"]
        .as_u64()
        .unwrap_or_else(|| panic!("no revision: {value}"))
}

/// One client that changes keys of its own, and what it knows of them.
struct Writer {
    name: String,
    random: Random,
    /// Counts its changes. A value carries its number.
    number: u64,
    known: Values,
    /// What was sent and is not answered.
    pending: Vec<Change>,
    /// What each answered revision stands for, as far as an answer says.
    answered: Vec<(u64, String, Option<Value>)>,
    rev: u64,
}

/// A key and what is put there; nothing where it is deleted.
struct Change {
    key: String,
    value: Option<Value>,
}

impl Writer {
    fn new(number: u64, seed: u64) -> Writer {
        Writer {
            name: format!("w{number}"),
            random: Random(seed * 1000 + number + 1),
            number: 0,
            known: Values::new(),
            pending: Vec::new(),
            answered: Vec::new(),
            rev: 0,
        }
    }

    /// Writes until the daemon ends.
    fn write(&mut self, mut client: Client, answers: &Sender<()>) {
        loop {
            let request = self.draw();
            // What can't be sent in full may have arrived all the same.
            let sent = client.writer().write_all(format!("{request}\n").as_bytes());
            let answer = sent.ok().and_then(|()| client.next_line());
            let Some(answer) = answer else { return };
            let answer: Value = serde_json::from_str(&answer).unwrap();
            assert_eq!(answer["ok"], true, "{answer}");
            self.answered(&answer);
            // Whoever has counted enough listens no more.
            let _ = answers.send(());
        }
    }

    /// Draws what to do next.
    fn draw(&mut self) -> Value {
        self.number += 1;
        let mut changes = vec![self.draw_change()];
        let is_batch = self.random.below(2) == 0;
        if is_batch {
            for _ in 0..self.random.below(KEYS) {
                changes.push(self.draw_change());
            }
        }
        let mut ops = changes.iter().map(Change::request);
        let request = if is_batch {
            json!({"op": "batch", "ops": ops.collect::<Vec<_>>()})
        } else {
            ops.next().unwrap()
        };
        self.pending = changes;
        request
    }

    fn draw_change(&mut self) -> Change {
        let key = format!("{}.{}", self.name, self.random.below(KEYS));
        let value = (self.random.below(5) > 0).then(|| {
            let text: String = (0..self.random.below(VALUE_BYTES)).map(|_| 'x').collect();
            let is_boot = self.random.below(3) == 0;
            let lifetime = if is_boot { "boot" } else { "durable" };
            json!({"number": self.number, "lifetime": lifetime, "text": text})
        });
        Change { key, value }
    }

    fn answered(&mut self, answer: &Value) {
        let rev = rev_of(answer);
        let pending = std::mem::take(&mut self.pending);
        // What deletes nothing gives the revision of whatever was changed last, by whomever.
        let has_changed =
            answer["deleted"] == 1 || pending.iter().any(|change| change.value.is_some());
        assert!(
            rev > self.rev || !has_changed,
            "{answer} after {}",
            self.rev
        );
        self.rev = rev;
        self.known = applied(&self.known, &pending);
        if let [Change { key, value }] = &pending[..]
            && has_changed
        {
            self.answered.push((rev, key.clone(), value.clone()));
        }
    }

    /// Holds what is there after a start against what was answered.
    fn check(&mut self, found: &Values) {
        let pending = std::mem::take(&mut self.pending);
        let with_pending = applied(&self.known, &pending);
        assert!(
            *found == self.known || *found == with_pending,
            "{} finds\n{}, was answered\n{}, and with what was not answered there would be\n{}",
            self.name,
            shown(found),
            shown(&self.known),
            shown(&with_pending),
        );
        self.known.clone_from(found);
    }
}

impl Change {
    fn request(&self) -> Value {
        match &self.value {
            Some(value) => put(&self.key, value),
            None => json!({"op": "delete", "key": self.key}),
        }
    }
}

fn put(key: &str, value: &Value) -> Value {
    json!({"op": "put", "key": key, "value": value, "lifetime": value["lifetime"]})
}

fn applied(values: &Values, changes: &[Change]) -> Values {
    let mut values = values.clone();
    for change in changes {
        match &change.value {
            Some(value) => values.insert(change.key.clone(), value.clone()),
            None => values.remove(&change.key),
        };
    }
    values
}

fn shown(values: &Values) -> String {
    let values = values.iter();
    let shown =
        values.map(|(key, value)| format!("{key}: {} {}", value["number"], value["lifetime"]));
    shown.collect::<Vec<_>>().join(", ")
}

/// Numbers that look drawn and are the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}
