//! What one changes, everyone else has to reckon with: conditions, deletions, the end of a client,
//! batches and claims.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;

use crate::crew::{Crew, Member};
use crate::daemon::Plan;
use crate::party::{Answer, Command, Door, Held, Operation, Put};

/// How many batches each client writes at the same time as the others.
const STORM_BATCHES: usize = 100;

#[test]
fn a_revision_that_one_was_told_is_a_condition_for_all() {
    let daemon = Plan::new().start();
    let mut crew = Crew::of(&daemon);
    for first in crew.names() {
        for second in crew.names() {
            let what = format!("{first}, then {second}");
            let on = |rev, text: &str| {
                let mut put = Put::new("shared", Held::json(text));
                put.if_rev = Some(rev);
                Command::Put(put)
            };
            let made = crew.member(first).do_it(on(0, "1")).rev.unwrap();
            let refused = crew.member(second).ask(on(0, "2"));
            assert_eq!(conflict(&refused), Some(made), "{what}");
            let changed = crew.member(second).do_it(on(made, "2")).rev.unwrap();
            let refused = crew.member(first).ask(on(made, "3"));
            assert_eq!(conflict(&refused), Some(changed), "{what}");
            assert_eq!(crew.member(first).get("shared"), Some(Held::json("2")));
            let delete = |rev| Command::Delete {
                pattern: "shared".into(),
                if_rev: Some(rev),
            };
            let refused = crew.member(first).ask(delete(made));
            assert_eq!(conflict(&refused), Some(changed), "{what}");
            assert_eq!(crew.member(first).do_it(delete(changed)).count, 1, "{what}");
        }
    }
}

/// The revision that stood in the way.
fn conflict(answer: &Answer) -> Option<u64> {
    let is_conflict = answer.refused.as_deref() == Some("conflict");
    answer.rev.filter(|_| is_conflict)
}

#[test]
fn what_one_has_put_is_no_change_when_another_puts_it() {
    let daemon = Plan::new().start();
    let mut crew = Crew::of(&daemon);
    for first in crew.names() {
        let held = Held::json(r#"{"b": 1.00, "a": "é"}"#);
        let rev = crew.member(first).put("state", &held);
        for second in &mut crew.0 {
            let mut put = Put::new("state", held.clone());
            put.if_changed = true;
            let answer = second.do_it(Command::Put(put));
            assert!(answer.is_unchanged, "{first}, then {}", second.name);
            assert_eq!(answer.rev, Some(rev), "{first}, then {}", second.name);
        }
        // Another text is another value.
        let mut put = Put::new("state", Held::json(r#"{"b":1,"a":"é"}"#));
        put.if_changed = true;
        let answer = crew.member(first).do_it(Command::Put(put));
        assert!(!answer.is_unchanged && answer.rev > Some(rev), "{first}");
    }
}

#[test]
fn what_one_deletes_is_gone_for_all() {
    let daemon = Plan::new().start();
    let mut crew = Crew::of(&daemon);
    let mut watchers = Crew::of(&daemon);
    watchers.watch("doomed");
    let names = crew.names();
    for name in names.clone() {
        for (pattern, gone) in [("doomed.rust", 1), ("doomed.*", names.len() - 1)] {
            if gone == 1 {
                for putter in &mut crew.0 {
                    putter.put(&format!("doomed.{}", putter.name), &Held::json("1"));
                }
            }
            let pattern = pattern.to_owned();
            let if_rev = None;
            let deleted = crew.member(name).do_it(Command::Delete { pattern, if_rev });
            assert_eq!(deleted.count, gone as u64, "{name}");
        }
        let rev = crew.member(name).put("doomed", &Held::json("\"the end\""));
        for watcher in &mut watchers.0 {
            let who = format!("{name}'s deletions, seen by {}", watcher.name);
            let mut state = BTreeMap::new();
            for step in watcher.follow(&Command::Told, rev) {
                apply(&mut state, &step);
            }
            let keys: Vec<&str> = state.keys().map(String::as_str).collect();
            assert_eq!(keys, ["doomed"], "{who}");
            if watcher.has_library() {
                let state = watcher.follow(&Command::State, rev).pop().unwrap();
                assert_eq!(keys_of(&state), ["doomed"], "{who}");
            }
        }
        for reader in &mut crew.0 {
            assert_eq!(reader.get(&format!("doomed.{name}")), None);
        }
        let pattern = "doomed".to_owned();
        let if_rev = None;
        crew.member(name).do_it(Command::Delete { pattern, if_rev });
    }
}

#[test]
fn when_one_hangs_up_its_session_entries_are_gone_for_all() {
    let daemon = Plan::new().start();
    let mut crew = Crew::of(&daemon);
    crew.watch("present");
    for name in crew.names() {
        let mut guest = Member::of(name, &Door::of(&daemon)).unwrap();
        let (key, json) = (format!("present.{name}.announced"), "\"here\"".to_owned());
        guest.do_it(Command::Announce { key, json });
        let mut put = Put::new(format!("present.{name}.put"), Held::json("true"));
        put.lifetime = Some("session".into());
        let rev = guest.do_it(Command::Put(put)).rev.unwrap();
        let keys = ["announced", "put"].map(|what| format!("present.{name}.{what}"));
        for watcher in &mut crew.0 {
            let who = format!("{name}, seen by {}", watcher.name);
            let steps = watcher.follow(&Command::Told, rev);
            assert_eq!(kinds(&steps, "put"), BTreeSet::from(keys.clone()), "{who}");
            if watcher.has_library() {
                let state = watcher.follow(&Command::State, rev).pop().unwrap();
                assert_eq!(keys_of(&state), keys, "{who}");
            }
        }
        drop(guest);
        for watcher in &mut crew.0 {
            let who = format!("{name} is gone, seen by {}", watcher.name);
            // The two may go in one turn of the daemon or in two.
            let mut gone = BTreeSet::new();
            while gone.len() < keys.len() {
                gone.extend(kinds(&[watcher.do_it(Command::Told)], "delete"));
            }
            assert_eq!(gone, BTreeSet::from(keys.clone()), "{who}");
            if watcher.has_library() {
                let mut gone = BTreeSet::new();
                while gone.len() < keys.len() {
                    gone.extend(kinds(&[watcher.do_it(Command::State)], "deleted"));
                }
                assert_eq!(gone, BTreeSet::from(keys.clone()), "{who}");
            }
            assert_eq!(keys.each_ref().map(|key| watcher.get(key)), [None, None]);
        }
    }
}

#[test]
fn a_batch_of_one_is_one_cut_for_all() {
    let daemon = Plan::new().start();
    let mut crew = Crew::of(&daemon);
    crew.watch("batch");
    for name in crew.names() {
        let first = [put("batch.a", name), put("batch.b", name)];
        let second = [
            Operation::Delete {
                pattern: "batch.a".into(),
            },
            put("batch.b", "changed"),
            put("batch.c.d", name),
        ];
        let third = [Operation::Delete {
            pattern: "batch.*".into(),
        }];
        for (operations, told, states) in [
            (&first[..], "put a put b", "created a created b"),
            (
                &second,
                "delete a put b put c.d",
                "deleted a modified b created c.d",
            ),
            (&third, "delete b delete c.d", "deleted b deleted c.d"),
        ] {
            let operations = operations.to_vec();
            let rev = crew.member(name).do_it(Command::Batch { operations }).rev;
            for watcher in &mut crew.0 {
                let who = format!("a batch of {name}, seen by {}", watcher.name);
                let step = watcher.do_it(Command::Told);
                assert_eq!((words(&step), step.rev), (told.to_owned(), rev), "{who}");
                if watcher.has_library() {
                    let step = watcher.do_it(Command::State);
                    assert_eq!((words(&step), step.rev), (states.to_owned(), rev), "{who}");
                }
            }
        }
    }
}

#[test]
fn nobody_sees_half_of_a_batch_while_all_write() {
    let daemon = Plan::new().start();
    let mut crew = Crew::of(&daemon);
    let mut watchers = Crew::of(&daemon);
    watchers.watch("pair");
    thread::scope(|threads| {
        for watcher in &mut watchers.0 {
            threads.spawn(|| watch_pair(watcher));
        }
        thread::scope(|threads| {
            for writer in &mut crew.0 {
                threads.spawn(|| write_pairs(writer));
            }
        });
        crew.0[0].put("pair.end", &Held::json("true"));
    });
}

fn write_pairs(writer: &mut Member) {
    for number in 0..STORM_BATCHES {
        let text = format!("{} {number}", writer.name);
        let operations = vec![put("pair.left", &text), put("pair.right", &text)];
        writer.do_it(Command::Batch { operations });
    }
}

/// Looks at each state until the end has come.
fn watch_pair(watcher: &mut Member) {
    let mut copy = BTreeMap::new();
    let mut is_over = false;
    while !is_over {
        if watcher.has_library() {
            let state = watcher.do_it(Command::State);
            let entries = state.entries.into_iter();
            copy = entries.map(|entry| (entry.key, entry.value)).collect();
        } else {
            let step = watcher.do_it(Command::Told);
            apply(&mut copy, &step);
        }
        let sides = ["pair.left", "pair.right"].map(|key| copy.get(key));
        assert_eq!(
            sides[0], sides[1],
            "half of a batch, seen by {}",
            watcher.name
        );
        is_over = copy.contains_key("pair.end");
    }
}

#[test]
fn what_one_has_claimed_is_closed_to_all_others() {
    let daemon = Plan::new().start();
    let mut crew = Crew::of(&daemon);
    crew.watch("$claims");
    for name in crew.names() {
        let mut claimant = Member::of(name, &Door::of(&daemon)).unwrap();
        let claim = |key: &str| Command::Claim { key: key.into() };
        claimant.do_it(claim("land"));
        claimant.put("land.house", &Held::json("1"));
        for other in &mut crew.0 {
            let who = format!("{name}'s claim, for {}", other.name);
            let put = Command::Put(Put::new("land.house", Held::json("2")));
            assert_eq!(other.ask(put).refused.as_deref(), Some("denied"), "{who}");
            assert_eq!(other.get("land.house"), Some(Held::json("1")), "{who}");
            let told = other.follow(&Command::Told, 1);
            let keys = BTreeSet::from(["$claims.land".to_owned()]);
            assert_eq!(kinds(&told, "put"), keys, "{who}");
            let refused = other.ask(claim("land.house"));
            assert_eq!(refused.refused.as_deref(), Some("conflict"), "{who}");
        }
        claimant.do_it(Command::Release);
        wait_for_release(&mut crew, name);
        claimant.do_it(claim("land"));
        for watcher in &mut crew.0 {
            watcher.do_it(Command::Told);
        }
        drop(claimant);
        wait_for_release(&mut crew, name);
    }
}

/// Waits until everyone has been told that the claim is gone; then everyone may write there.
fn wait_for_release(crew: &mut Crew, name: &str) {
    for other in &mut crew.0 {
        let told = other.do_it(Command::Told);
        let keys = BTreeSet::from(["$claims.land".to_owned()]);
        assert_eq!(kinds(&[told], "delete"), keys, "{name}, {}", other.name);
        other.put("land.house", &Held::json("3"));
    }
}

fn put(key: &str, text: &str) -> Operation {
    let key = key.to_owned();
    let value = Held::Json(format!("{text:?}"));
    Operation::Put { key, value }
}

/// Takes what was told into a copy.
fn apply(copy: &mut BTreeMap<String, Held>, step: &Answer) {
    for change in &step.changes {
        match &change.value {
            Some(value) => drop(copy.insert(change.key.clone(), value.clone())),
            None => drop(copy.remove(&change.key)),
        }
    }
}

/// The keys of the changes of one kind.
fn kinds(steps: &[Answer], kind: &str) -> BTreeSet<String> {
    let changes = steps.iter().flat_map(|step| &step.changes);
    let of_kind = changes.filter(|change| change.kind == kind);
    of_kind.map(|change| change.key.clone()).collect()
}

/// The changes of a step as text, in the order of their keys.
fn words(step: &Answer) -> String {
    let mut changes: Vec<_> = step
        .changes
        .iter()
        .map(|change| (change.key.trim_start_matches("batch."), &change.kind))
        .collect();
    changes.sort_unstable();
    let words = changes.iter().map(|(key, kind)| format!("{kind} {key}"));
    words.collect::<Vec<_>>().join(" ")
}

/// The keys of a state, in order.
fn keys_of(state: &Answer) -> Vec<&str> {
    let mut keys: Vec<&str> = state
        .entries
        .iter()
        .map(|entry| entry.key.as_str())
        .collect();
    keys.sort_unstable();
    keys
}
