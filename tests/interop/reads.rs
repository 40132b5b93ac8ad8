//! What one has put is what everyone reads, by whatever way.

use std::collections::BTreeMap;

use crate::cases::{Cases, KeyCase};
use crate::crew::{Crew, Member};
use crate::daemon::Plan;
use crate::party::{Command, Held, Kind, Put};

/// What is to be there: keys in the order of their bytes, with their values and what they are.
type Wanted = BTreeMap<String, (Held, String)>;

#[test]
fn values_and_keys_are_the_same_for_all() {
    let cases = Cases::read();
    let daemon = Plan::new().start();
    let mut crew = Crew::of(&daemon);
    let mut early = Crew::of(&daemon);
    early.watch("given");

    let (mut wanted, mut rev) = (Wanted::new(), 0);
    for writer in &mut crew.0 {
        for (key, held, what) in gifts(writer, &cases) {
            rev = writer.put(&key, &held);
            wanted.insert(key, (held, format!("{what} of {}", writer.name)));
        }
    }

    for reader in &mut crew.0 {
        let name = reader.name;
        for (key, (held, what)) in &wanted {
            let found = reader.get(key);
            assert_eq!(found.as_ref(), Some(held), "{name} gets {what} at {key}");
        }
        let pattern = "given.*".to_owned();
        let list = reader.do_it(Command::List { pattern }).entries;
        let list = list.into_iter().map(|entry| (entry.key, entry.value));
        check(&wanted, list, &format!("{name} lists"));
        check(&wanted, told(reader), &format!("{name} is told"));
        if reader.has_library() {
            check(&wanted, mirrored(reader), &format!("{name} mirrors"));
        }
    }

    // Those who were there before have been told one by one.
    for reader in &mut early.0 {
        let name = reader.name;
        let steps = reader.follow(&Command::Told, rev);
        let changes = steps.into_iter().flat_map(|step| step.changes);
        let found: BTreeMap<_, _> = changes
            .map(|change| (change.key, change.value.unwrap()))
            .collect();
        check(&wanted, found, &format!("{name} has been told"));
        if reader.has_library() {
            let state = reader.follow(&Command::State, rev).pop().unwrap();
            let state: BTreeMap<_, _> = state
                .entries
                .into_iter()
                .map(|entry| (entry.key, entry.value))
                .collect();
            check(&wanted, state, &format!("{name} has mirrored"));
        }
    }
}

/// What a member puts: each value, and under each key.
fn gifts(writer: &mut Member, cases: &Cases) -> Vec<(String, Held, String)> {
    let mut gifts = Vec::new();
    for (number, case) in cases.values.iter().enumerate() {
        let key = format!("given.{}.value.{number}", writer.name);
        gifts.push((key, case.value.clone(), case.name.clone()));
    }
    for case in &cases.keys {
        let key = key_of(writer, case);
        gifts.push((key, Held::json("true"), format!("{:?}", case.segments)));
    }
    gifts
}

/// The key that a member makes of texts, which is what the list says.
fn key_of(writer: &mut Member, case: &KeyCase) -> String {
    let wanted = format!("given.{}.key.{}", writer.name, case.key);
    if writer.has_library() {
        let before = ["given", writer.name, "key"].map(str::to_owned);
        let segments: Vec<String> = before.into_iter().chain(case.segments.clone()).collect();
        let made = writer.do_it(Command::Key {
            segments: segments.clone(),
        });
        assert_eq!(made.key.as_ref(), Some(&wanted), "{}", writer.name);
        assert_eq!(made.segments, segments, "{}", writer.name);
    }
    wanted
}

/// What a new subscription tells at first.
fn told(reader: &mut Member) -> Vec<(String, Held)> {
    let pattern = "given".to_owned();
    reader.do_it(Command::Subscribe { pattern });
    let changes = reader.do_it(Command::Told).changes.into_iter();
    changes
        .map(|change| {
            assert_eq!(change.kind, "put", "{}", reader.name);
            (change.key, change.value.unwrap())
        })
        .collect()
}

/// What a new mirror holds at first. Its order is nobody's promise.
fn mirrored(reader: &mut Member) -> BTreeMap<String, Held> {
    let pattern = "given".to_owned();
    reader.do_it(Command::Mirror { pattern });
    let state = reader.do_it(Command::State);
    let is_new = |change: &crate::party::Change| change.kind == "created";
    assert!(state.changes.iter().all(is_new), "{}", reader.name);
    assert_eq!(state.changes.len(), state.entries.len(), "{}", reader.name);
    let entries = state.entries.into_iter();
    entries.map(|entry| (entry.key, entry.value)).collect()
}

/// Compares in order, and names the first difference: all of it would fill screens.
fn check(wanted: &Wanted, found: impl IntoIterator<Item = (String, Held)>, who: &str) {
    let mut found = found.into_iter();
    for (key, (held, what)) in wanted {
        let next = found.next();
        let is_same = next.as_ref().is_some_and(|(k, v)| k == key && v == held);
        assert!(is_same, "{who} {next:?}, not {what}: {key:?} {held:?}");
    }
    assert_eq!(found.next(), None, "{who} more than there is");
}

#[test]
fn each_language_reads_the_values_of_the_others_as_its_own() {
    let cases = Cases::read();
    let daemon = Plan::new().start();
    let mut crew = Crew::of(&daemon);
    let mut texts = Vec::new();
    for case in cases.values.iter().filter(|case| case.typed) {
        let Held::Json(text) = &case.value else {
            panic!("{} is no JSON", case.name);
        };
        texts.push((&case.name, text, Kind::Any));
    }
    for case in &cases.devices {
        texts.push((&case.name, &case.json, Kind::Device));
        texts.push((&case.name, &case.json, Kind::Any));
    }
    for (what, json, kind) in texts {
        for writer in crew.names() {
            let (key, json) = ("typed".to_owned(), json.clone());
            let put = Command::PutTyped { key, json, kind };
            crew.member(writer).do_it(put.clone());
            for reader in &mut crew.0 {
                let Command::PutTyped { key, json, kind } = put.clone() else {
                    continue;
                };
                let found = reader.do_it(Command::IsTyped { key, json, kind });
                let (reader, instead) = (reader.name, found.instead);
                assert!(
                    found.is_same,
                    "{reader} reads {what} of {writer}: {instead}"
                );
            }
        }
    }
}

#[test]
fn lifetimes_and_times_to_live_are_known_to_all() {
    let lives = Cases::read().lives;
    let daemon = Plan::new().start();
    let mut crew = Crew::of(&daemon);
    for writer in crew.names() {
        for (number, life) in lives.iter().enumerate() {
            let mut put = Put::new(format!("life.{number}"), Held::json("1"));
            put.lifetime = Some(life.lifetime.clone());
            put.ttl_ms = life.ttl_ms;
            crew.member(writer).do_it(Command::Put(put));
        }
        for reader in &mut crew.0 {
            let pattern = "life.*".to_owned();
            let listed = reader.do_it(Command::List { pattern }).entries;
            assert_eq!(listed.len(), lives.len());
            for (life, listed) in lives.iter().zip(listed) {
                let key = listed.key.clone();
                let got = reader.do_it(Command::Get { key }).entries.pop().unwrap();
                let what = format!("{} of {writer} for {}", life.name, reader.name);
                for entry in [listed, got] {
                    assert_eq!(entry.lifetime.as_ref(), Some(&life.lifetime), "{what}");
                    let is_right = match (entry.ttl_ms, life.ttl_ms) {
                        (Some(left), Some(given)) => left > given / 2 && left <= given,
                        (left, given) => left == given,
                    };
                    assert!(is_right, "{what}: {:?} is left", entry.ttl_ms);
                }
            }
        }
    }
}
