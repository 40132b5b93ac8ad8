//! A process that changes keys of its own in every way there is, and knows what must have come of it.
//!
//! Of each key it knows what was last acknowledged, and what may be there besides: whatever was reported
//! with an unknown fate since the last quiet point. Such a request may be carried out late, after
//! others of another connection. What was refused or not sent is in neither, so it must not be there.
//!
//! All writers increment one counter, and count.

use std::collections::BTreeMap;
use std::time::Duration;

use nkv::client::{Error, ErrorCode, Lifetime, Link, Put, Value};

use crate::children::{Stage, say};
use crate::random::Random;
use crate::witness::Item;

/// The counter of all.
pub(crate) const COUNTER: &str = "counter";
/// Stands in the keys that are only ever put together.
pub(crate) const GROUP: &str = "-group.";
pub(crate) const GROUP_KEYS: [&str; 3] = ["a", "b", "c"];
/// Keys that are put by themselves.
const SINGLES: u64 = 14;

struct Writer {
    name: String,
    link: Link,
    random: Random,
    generation: u64,
    known: BTreeMap<String, Known>,
    successes: u64,
    unknowns: u64,
}

/// What a key holds.
#[derive(Default)]
struct Known {
    /// Value and revision, as last acknowledged or seen.
    settled: Option<(Value, u64)>,
    /// What it may hold instead.
    maybes: Vec<Option<Value>>,
    /// What was refused or not sent, to be shown where it was carried out all the same.
    denied: Vec<String>,
}

/// Plays a writer: on `pause` it tells its counts, then `check`s what is there, and `go`es on.
pub(crate) fn play(stage: Stage) {
    let mut writer = Writer {
        name: format!("w.{}", stage.number),
        link: stage.link,
        random: stage.random,
        generation: 0,
        known: BTreeMap::new(),
        successes: 0,
        unknowns: 0,
    };
    loop {
        match stage.orders.try_recv().as_deref() {
            Ok("pause") => {
                say(&format!("{} {}", writer.successes, writer.unknowns));
                let order = stage.orders.recv().unwrap();
                let (_, reboots) = order.split_once("check ").unwrap();
                writer.check(reboots != "0");
                say("as it should be");
                assert_eq!(stage.orders.recv().unwrap(), "go");
            }
            Ok(order) => panic!("what is {order}?"),
            Err(_) => writer.act(),
        }
    }
}

impl Writer {
    fn act(&mut self) {
        match self.random.below(16) {
            0..=3 => self.put(),
            4 => self.put_if_changed(),
            5..=6 => self.put_if_rev(),
            7 => self.put_many(),
            8..=9 => self.delete(),
            10 => self.delete_pattern(),
            11..=12 => self.put_group(),
            13 => self.delete_group(),
            14 => self.put_briefly(),
            _ => self.increment(),
        }
        if self.random.once_in(10) {
            std::thread::sleep(self.random.pause(10));
        }
    }

    fn put(&mut self) {
        let (key, value) = (self.key(), self.value());
        let put = put(&key, &value);
        let done = self.link.put_with(put).map(|written| written.rev);
        self.note(&key, Some(value), done);
    }

    /// Half of the time the value that is there.
    fn put_if_changed(&mut self) {
        let key = self.key();
        let new = self.value();
        let known = self.known.entry(key.clone()).or_default();
        let value = match &known.settled {
            Some((value, _)) if self.random.once_in(2) => value.clone(),
            _ => new,
        };
        let put = put(&key, &value).if_changed();
        let done = self.link.put_with(put).map(|written| written.rev);
        self.note(&key, Some(value), done);
    }

    fn put_if_rev(&mut self) {
        let (key, value) = (self.key(), self.value());
        let known = self.known.entry(key.clone()).or_default();
        let rev = known.settled.as_ref().map_or(0, |settled| settled.1);
        let is_certain = known.maybes.is_empty() && lifetime(&key) == Lifetime::Durable;
        let done = self.link.put_with(put(&key, &value).if_rev(rev));
        if let Err(error) = &done {
            let is_conflict = error.code() == Some(ErrorCode::Conflict);
            assert!(
                !(is_conflict && is_certain),
                "{key} has been at {rev}: {error}"
            );
        }
        self.note(&key, Some(value), done.map(|written| written.rev));
    }

    /// Several puts of one connection that don't wait for each other.
    fn put_many(&mut self) {
        let Ok(client) = self.link.client() else {
            return;
        };
        let pipeline = client.pipeline();
        let puts: Vec<_> = (0..5)
            .map(|_| {
                let (key, value) = (self.key(), self.value());
                let pending = pipeline.put_with(put(&key, &value));
                (key, value, pending)
            })
            .collect();
        for (key, value, pending) in puts {
            let done = pending.and_then(|pending| pending.wait());
            self.note(&key, Some(value), done.map(|written| written.rev));
        }
    }

    fn delete(&mut self) {
        let key = self.key();
        let done = self.link.delete(&key).map(|_| 0);
        self.note(&key, None, done);
    }

    /// It is no batch, so it may have been carried out in part.
    fn delete_pattern(&mut self) {
        let pattern = format!("{}.one.*", self.name);
        let Ok(client) = self.link.client() else {
            return;
        };
        let done = client.delete_pattern(&pattern);
        for number in 0..SINGLES {
            let key = format!("{}.one.{number}", self.name);
            match &done {
                Ok(_) => self.note(&key, None, Ok(0)),
                Err(error) if is_unknown(error) => self.note(&key, None, Err(Error::Timeout)),
                Err(_) => {}
            }
        }
    }

    fn put_group(&mut self) {
        let keys = self.group();
        self.generation += 1;
        let values: Vec<Value> = keys
            .iter()
            .map(|_| item(self.generation, filling(&mut self.random)))
            .collect();
        let done = self.link.batch(|batch| {
            let puts = keys.iter().zip(&values);
            puts.fold(batch, |batch, (key, value)| batch.put_with(put(key, value)))
        });
        self.note_group(
            &keys,
            &values.into_iter().map(Some).collect::<Vec<_>>(),
            &done,
        );
    }

    fn delete_group(&mut self) {
        let keys = self.group();
        let pattern = keys[0].rsplit_once('.').unwrap().0.to_owned() + ".*";
        let done = self.link.batch(|batch| batch.delete(&pattern));
        self.note_group(&keys, &[None, None, None], &done);
    }

    /// Nothing is known of it, but that it goes.
    fn put_briefly(&mut self) {
        let key = format!("{}.brief.{}", self.name, self.random.below(3));
        let ttl = Duration::from_millis(1 + self.random.below(500));
        let value = self.value();
        let _ = self
            .link
            .put_with(Put::new(&key, value).unwrap().ttl(ttl).if_changed());
    }

    fn increment(&mut self) {
        let done = self
            .link
            .update(COUNTER, |count: Option<u64>| Some(count.unwrap_or(0) + 1));
        match done {
            Ok(_) => self.successes += 1,
            Err(error) if is_unknown(&error) => self.unknowns += 1,
            Err(_) => {}
        }
    }

    fn note(&mut self, key: &str, value: Option<Value>, done: Result<u64, Error>) {
        let known = self.known.entry(key.to_owned()).or_default();
        match done {
            Ok(rev) => known.settled = value.map(|value| (value, rev)),
            Err(error) if is_unknown(&error) => known.maybes.push(value),
            Err(error) => known
                .denied
                .push(format!("{}: {error}", shown(value.as_ref()))),
        }
    }

    /// A batch tells no revision of each change.
    fn note_group(&mut self, keys: &[String], values: &[Option<Value>], done: &Result<u64, Error>) {
        for (key, value) in keys.iter().zip(values) {
            let done = match done {
                Ok(_) => Ok(0),
                Err(error) if is_unknown(error) => Err(Error::Timeout),
                Err(_) => Err(Error::Closed),
            };
            self.note(key, value.clone(), done);
        }
    }

    /// Holds what is there against what is known. After a reboot entries may be gone that were not
    /// durable.
    fn check(&mut self, has_rebooted: bool) {
        let mut found = BTreeMap::new();
        let entries = loop {
            match self.link.list(format!("{}.*", self.name)) {
                // Its patience is short.
                Err(error) if error.is_disconnect() => {}
                listed => break listed.unwrap(),
            }
        };
        for entry in entries {
            found.insert(entry.key.as_str().to_owned(), (entry.value, entry.rev));
        }
        for (key, known) in &mut self.known {
            let found = found.remove(key);
            let value = found.as_ref().map(|found| &found.0);
            let settled = known.settled.as_ref().map(|settled| &settled.0);
            let is_gone = has_rebooted && lifetime(key) == Lifetime::Boot && value.is_none();
            let is_maybe = || known.maybes.iter().any(|maybe| maybe.as_ref() == value);
            assert!(
                value == settled || is_gone || is_maybe(),
                "{key} holds {}, last acknowledged was {}, unknown is {:?}, denied was {:?}",
                shown(value),
                shown(settled),
                known
                    .maybes
                    .iter()
                    .map(|maybe| shown(maybe.as_ref()))
                    .collect::<Vec<_>>(),
                known.denied,
            );
            known.maybes.clear();
            known.denied.clear();
            known.settled = found;
        }
        let unknown: Vec<_> = found.keys().collect();
        assert!(unknown.is_empty(), "nobody has put {unknown:?}");
    }

    fn key(&mut self) -> String {
        format!("{}.one.{}", self.name, self.random.below(SINGLES))
    }

    fn group(&mut self) -> Vec<String> {
        let kind = ["durable", "boot"][usize::from(self.random.once_in(2))];
        GROUP_KEYS
            .iter()
            .map(|key| format!("{}.{kind}{GROUP}{key}", self.name))
            .collect()
    }

    /// A value that was never there; at times one that is no item.
    fn value(&mut self) -> Value {
        self.generation += 1;
        if self.random.once_in(12) {
            return Value::from_bytes(self.generation.to_be_bytes());
        }
        item(self.generation, filling(&mut self.random))
    }
}

fn item(generation: u64, filling: String) -> Value {
    let item = Item {
        generation,
        filling,
    };
    Value::of(&item).unwrap()
}

/// Mostly short, up to 100 KiB.
fn filling(random: &mut Random) -> String {
    let bytes_max = match random.below(40) {
        0 => 100 << 10,
        1..=4 => 4 << 10,
        _ => 100,
    };
    "x".repeat(usize::try_from(random.below(bytes_max)).unwrap())
}

fn put(key: &str, value: &Value) -> Put {
    Put::new(key, value.clone())
        .unwrap()
        .lifetime(lifetime(key))
}

/// Every key has one.
fn lifetime(key: &str) -> Lifetime {
    let is_boot = match key.split_once(".one.") {
        Some((_, number)) => number.parse::<u64>().unwrap() % 2 == 0,
        None => key.contains(".boot-"),
    };
    if is_boot {
        Lifetime::Boot
    } else {
        Lifetime::Durable
    }
}

fn is_unknown(error: &Error) -> bool {
    matches!(error, Error::Unanswered(_) | Error::Timeout)
}

fn shown(value: Option<&Value>) -> String {
    match value.map(Value::json::<Item>) {
        None => "nothing".into(),
        Some(Ok(item)) => format!("generation {}", item.generation),
        Some(Err(_)) => format!("{:?}", value.and_then(Value::bytes)),
    }
}
