//! Journals whose lines are sound, and say what no daemon would have written: records that the other file
//! knows nothing of, or in another order, lines that are missing, stops that were none.
//!
//! A search that changes bytes seldom comes to two lines that make sense and contradict each other. Here
//! every line makes sense. What must hold is what the fuzz target says, [`targets::journal`].

use nkv::keyspace::Class;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value, json};

use super::seeds::targets;

const KEYS: [&str; 4] = ["a", "a.b", "b", "$claims.a"];
/// Nothing ends by itself while it is loaded.
const DEADLINES: [u64; 4] = [0, 5, 99_999, u64::MAX];

#[derive(Clone, Debug)]
enum Line {
    /// By how much its revision is ahead of the line before, its records, and what else it says.
    Sound(u64, Vec<Record>, Vec<Field>),
    Damaged,
}

#[derive(Clone, Debug)]
struct Record {
    op: &'static str,
    key: &'static str,
    /// By how much its revision is behind the line's.
    behind: u64,
    value: u8,
    is_session: bool,
    deadline: Option<u64>,
}

/// A field of a line; a number is by how much it is behind the line's revision.
#[derive(Clone, Copy, Debug)]
enum Field {
    With(u64),
    Floor(u64),
    Reserved,
    BootUnkept(u64),
    Unsynced(u64),
    Closing,
    Clean,
}

fn lines() -> impl Strategy<Value = Vec<Line>> {
    let records = vec(record(), 0..4);
    let sound = (0..3_u64, records, vec(field(), 0..2));
    let sound = sound.prop_map(|(ahead, records, fields)| Line::Sound(ahead, records, fields));
    vec(prop_oneof![12 => sound, 1 => Just(Line::Damaged)], 0..7)
}

fn record() -> impl Strategy<Value = Record> {
    let op = prop_oneof![
        3 => Just("put"),
        1 => Just("delete"),
        1 => Just("displace"),
        1 => Just("renew"),
    ];
    let key = prop::sample::select(&KEYS[..]);
    let deadline = prop::option::weighted(0.3, prop::sample::select(&DEADLINES[..]));
    let parts = (op, key, 0..3_u64, 0..3_u8, any::<bool>(), deadline);
    parts.prop_map(|(op, key, behind, value, is_session, deadline)| Record {
        op,
        key,
        behind,
        value,
        is_session,
        deadline,
    })
}

fn field() -> impl Strategy<Value = Field> {
    prop_oneof![
        (0..3_u64).prop_map(Field::With),
        (0..3_u64).prop_map(Field::Floor),
        Just(Field::Reserved),
        (0..3_u64).prop_map(Field::BootUnkept),
        prop::sample::select(&[10_u64, 100, 500][..]).prop_map(Field::Unsynced),
        Just(Field::Closing),
        Just(Field::Clean),
    ]
}

/// What the fuzz target makes a journal of.
fn text(class: Class, lines: &[Line]) -> String {
    let header = match class {
        Class::Durable => json!({"journal": "durable", "version": 1, "store": "s"}),
        Class::Boot => {
            json!({"journal": "boot", "version": 1, "store": "s", "boot": "@", "epoch": "e"})
        }
    };
    let mut text = format!("{header}\n");
    let mut rev = 0;
    for line in lines {
        match line {
            Line::Sound(ahead, records, fields) => {
                rev += ahead;
                text += &format!("{}\n", sound(class, rev, records, fields));
            }
            Line::Damaged => text += "!damaged\n",
        }
    }
    text
}

fn sound(class: Class, rev: u64, records: &[Record], fields: &[Field]) -> Value {
    let mut line = Map::new();
    line.insert("rev".into(), rev.into());
    let records = records.iter().map(|record| record.shown(class, rev));
    line.insert("changes".into(), records.collect());
    for field in fields {
        let (name, value) = match *field {
            Field::With(behind) => ("with", rev.saturating_sub(behind).into()),
            Field::Floor(behind) => ("floor", rev.saturating_sub(behind).into()),
            Field::Reserved => ("reserved", (rev + 100).into()),
            Field::BootUnkept(behind) => ("boot_unkept", rev.saturating_sub(behind).into()),
            Field::Unsynced(bytes) => ("unsynced", bytes.into()),
            Field::Closing => ("closing", true.into()),
            Field::Clean => ("clean", true.into()),
        };
        line.insert(name.into(), value);
    }
    line.into()
}

impl Record {
    fn shown(&self, class: Class, rev: u64) -> Value {
        let rev = rev.saturating_sub(self.behind);
        let mut shown = json!({"op": self.op, "key": self.key, "rev": rev});
        if self.op == "put" {
            shown["value"] = self.value.into();
            match class {
                Class::Durable => {}
                Class::Boot if self.is_session => shown["lifetime"] = "session".into(),
                Class::Boot => shown["lifetime"] = "boot".into(),
            }
        }
        match (self.op, self.deadline) {
            ("put", None) | ("delete" | "displace", _) => {}
            ("put", Some(_)) if class == Class::Durable => {}
            (_, deadline) => shown["deadline"] = deadline.unwrap_or(77).into(),
        }
        shown
    }
}

#[test]
fn a_start_makes_something_whole_of_them() {
    let config = Config {
        cases: 4000,
        failure_persistence: None,
        ..Config::default()
    };
    let journals = (lines(), lines());
    let outcome = TestRunner::new(config).run(&journals, |(durable, boot)| {
        let durable = text(Class::Durable, &durable);
        let boot = text(Class::Boot, &boot);
        targets::journal(format!("{durable}\n{boot}").as_bytes());
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}
