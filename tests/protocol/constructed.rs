//! What needs a loop to show: many keys, slow readers, bounds.

use std::collections::BTreeMap;

use nkv::keyspace::Time;
use nkv::wire::Limits;
use serde_json::Value;

use crate::allocation;
use crate::support::{Bench, unix_peer};

const WHOLE: usize = usize::MAX;

/// Limits with some other than the usual ones.
pub(crate) fn limits(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    change(&mut limits);
    limits
}

/// A bench with two clients: a test's writer, 0, and its other one, 1.
pub(crate) fn pair(limits: Limits) -> Bench {
    let mut bench = Bench::new(limits);
    assert_eq!(bench.connect(unix_peer()), Ok(0));
    assert_eq!(bench.connect(unix_peer()), Ok(1));
    bench
}

/// The lines that a client has received.
pub(crate) fn lines(bench: &mut Bench, client: usize) -> Vec<String> {
    let received = String::from_utf8(bench.take_received(client)).unwrap();
    received.lines().map(String::from).collect()
}

/// Sends a line, lets everything happen, and gives what the client has received.
pub(crate) fn exchange(bench: &mut Bench, client: usize, line: &str) -> Vec<String> {
    bench.send(client, line.as_bytes());
    bench.send(client, b"\n");
    bench.settle(WHOLE);
    lines(bench, client)
}

/// As [`exchange`], for a request that is answered by one line.
pub(crate) fn ask(bench: &mut Bench, client: usize, line: &str) -> Value {
    let received = exchange(bench, client, line);
    assert_eq!(received.len(), 1, "{line}: {received:?}");
    serde_json::from_str(&received[0]).unwrap()
}

/// Sends batches that put `value` to so many keys.
fn load(bench: &mut Bench, keys: impl Iterator<Item = String>, value: &str) {
    let ops: Vec<String> = keys
        .map(|key| format!(r#"{{"op":"put","key":"{key}","value":{value}}}"#))
        .collect();
    for ops in ops.chunks(10_000) {
        let answer = ask(
            bench,
            0,
            &format!(r#"{{"op":"batch","ops":[{}]}}"#, ops.join(",")),
        );
        assert_eq!(answer["ok"], true, "{answer}");
    }
}

fn numbered(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|number| format!("k.{number:06}"))
}

/// The keys of a list's answer.
fn keys(answer: &Value) -> Vec<&str> {
    let entries = answer["entries"].as_array().unwrap();
    entries
        .iter()
        .map(|entry| entry["key"].as_str().unwrap())
        .collect()
}

/// What a subscriber holds if it believes what it is told, and what it must be told.
#[derive(Default)]
struct Mirror {
    held: BTreeMap<String, String>,
    /// The last revision that was told, once the first entries are over.
    rev: Option<u64>,
    events: usize,
    resets: usize,
    syncs: usize,
}

impl Mirror {
    fn apply(&mut self, line: &str) {
        let event: Value = serde_json::from_str(line).unwrap();
        let rev = event["rev"].as_u64().unwrap();
        self.events += 1;
        let key = || event["key"].as_str().unwrap().to_owned();
        match event["event"].as_str().unwrap() {
            "put" => drop(self.held.insert(key(), event["value"].to_string())),
            "delete" => drop(self.held.remove(&key())),
            "reset" => {
                self.held.clear();
                self.rev = None;
                self.resets += 1;
                return;
            }
            "sync" => {
                assert!(
                    self.rev.is_none_or(|last| last <= rev),
                    "{line} after {:?}",
                    self.rev
                );
                self.rev = Some(rev);
                self.syncs += 1;
                return;
            }
            _ => panic!("{line} is no event"),
        }
        if let Some(last) = &mut self.rev {
            assert!(*last < rev, "{line} after {last}");
            *last = rev;
        }
    }

    fn apply_all(&mut self, lines: &[String]) {
        lines.iter().for_each(|line| self.apply(line));
    }
}

/// Section 4: the cap of a page is 1,000 entries, and `after` leads through all of them.
#[test]
fn pages_have_a_thousand_entries_at_most() {
    let mut bench = pair(Limits::default());
    load(&mut bench, numbered(2500), "1");
    let check = |bench: &mut Bench, fields: &str, count: usize, more: bool| {
        let answer = ask(bench, 1, &format!(r#"{{"op":"get","key":"*"{fields}}}"#));
        assert_eq!(keys(&answer).len(), count, "{fields}");
        assert_eq!(answer.get("more").is_some(), more, "{fields}");
        keys(&answer)
            .last()
            .map(|&key| key.to_owned())
            .unwrap_or_default()
    };
    assert_eq!(check(&mut bench, "", 1000, true), "k.000999");
    assert_eq!(
        check(&mut bench, r#","limit":5000"#, 1000, true),
        "k.000999"
    );
    assert_eq!(
        check(&mut bench, r#","after":"k.000999""#, 1000, true),
        "k.001999"
    );
    assert_eq!(
        check(
            &mut bench,
            r#","after":"k.001999","keys_only":true"#,
            500,
            false
        ),
        "k.002499"
    );
    assert_eq!(
        check(&mut bench, r#","after":"k.001499""#, 1000, false),
        "k.002499"
    );
    assert_eq!(
        check(&mut bench, r#","after":"k.001498""#, 1000, true),
        "k.002498"
    );
}

/// Section 4: about one message limit of data a response, but always some progress.
#[test]
fn pages_have_about_one_message_of_data() {
    let limits = limits(|limits| limits.message = 2000);
    let check = |value: &str, per_page: usize| {
        let mut bench = pair(limits.clone());
        for key in numbered(20) {
            let put = format!(r#"{{"op":"put","key":"{key}","value":"{value}"}}"#);
            assert_eq!(ask(&mut bench, 0, &put)["ok"], true);
        }
        let mut after = String::from("a");
        let mut found = Vec::new();
        loop {
            let get = format!(r#"{{"op":"get","key":"*","after":"{after}"}}"#);
            let line = exchange(&mut bench, 1, &get).remove(0);
            assert!(line.len() < 2 * 2000, "{} bytes", line.len());
            let answer: Value = serde_json::from_str(&line).unwrap();
            let page = keys(&answer);
            found.extend(page.iter().map(|&key| key.to_owned()));
            if answer.get("more").is_none() {
                break;
            }
            assert_eq!(page.len(), per_page);
            after = page[page.len() - 1].to_owned();
        }
        assert!(found.into_iter().eq(numbered(20)));
    };
    check(&"x".repeat(1900), 1);
    check(&"x".repeat(500), 3);
}

/// A list that looks at many keys goes on over turns. Until it is answered the connection's later
/// requests wait, and nobody else does.
#[test]
fn a_list_takes_several_turns() {
    let mut bench = pair(Limits::default());
    load(
        &mut bench,
        (0..60_000).map(|n| format!("k.{n:06}.{}", if n % 10_000 == 9 { "y" } else { "x" })),
        "1",
    );
    bench.send(0, b"{\"id\":1,\"op\":\"get\",\"key\":\"k.*.y\",\"keys_only\":true}\n{\"id\":2,\"op\":\"ping\"}\n");
    let mut turns = 0;
    let answers = loop {
        bench.send(1, b"{\"op\":\"ping\"}\n");
        bench.turn(WHOLE);
        turns += 1;
        assert_eq!(
            lines(&mut bench, 1),
            [r#"{"ok":true}"#],
            "nobody else waits"
        );
        let answers = lines(&mut bench, 0);
        if !answers.is_empty() {
            break answers;
        }
    };
    assert!(turns >= 3, "60,000 keys in {turns} turns");
    let first: Value = serde_json::from_str(&answers[0]).unwrap();
    assert_eq!(
        keys(&first),
        [
            "k.000009.y",
            "k.010009.y",
            "k.020009.y",
            "k.030009.y",
            "k.040009.y",
            "k.050009.y"
        ]
    );
    bench.settle(WHOLE);
    let rest = lines(&mut bench, 0);
    let second = answers.get(1).or(rest.first());
    assert_eq!(second.unwrap(), r#"{"id":2,"ok":true}"#);
}

/// So does a deletion by pattern, and the tombstones stay within their bound all the while.
#[test]
fn a_deletion_takes_several_turns() {
    let mut bench = pair(Limits::default());
    load(&mut bench, numbered(60_000), "1");
    bench.send(
        0,
        b"{\"id\":1,\"op\":\"delete\",\"key\":\"k.*\"}\n{\"id\":2,\"op\":\"get\",\"key\":\"*\"}\n",
    );
    let mut turns = 0;
    while bench.turn(WHOLE) {
        turns += 1;
        bench.send(1, b"{\"op\":\"ping\"}\n");
        bench.turn(WHOLE);
        assert_eq!(
            lines(&mut bench, 1),
            [r#"{"ok":true}"#],
            "nobody else waits"
        );
        assert!(bench.broker.keyspace().tombstones() <= 16_384);
    }
    assert!(turns >= 2, "60,000 keys in {turns} double turns");
    assert_eq!(
        lines(&mut bench, 0),
        [
            r#"{"id":1,"ok":true,"deleted":60000,"rev":120000}"#,
            r#"{"id":2,"ok":true,"entries":[],"rev":120000}"#
        ]
    );
}

/// The entries of a connection that ends are very many: they go over turns, and nobody waits.
#[test]
fn a_connection_ends_with_all_its_entries() {
    let mut bench = pair(Limits::default());
    let ops: Vec<String> = numbered(5000)
        .map(|key| format!(r#"{{"op":"put","key":"{key}","value":1,"lifetime":"session"}}"#))
        .collect();
    let batch = format!(r#"{{"op":"batch","ops":[{}]}}"#, ops.join(","));
    assert_eq!(ask(&mut bench, 0, &batch)["rev"], 5000);
    bench.disconnect(0);
    loop {
        bench.send(1, b"{\"op\":\"ping\"}\n");
        let is_busy = bench.turn(WHOLE);
        assert_eq!(lines(&mut bench, 1), [r#"{"ok":true}"#]);
        if !is_busy {
            break;
        }
    }
    assert_eq!(
        ask(&mut bench, 1, r#"{"op":"get","key":"*"}"#)["entries"],
        Value::Array(vec![])
    );
    assert_eq!(bench.broker.keyspace().rev(), 10_000);
}

/// Section 4: the patterns of a batch may look at 65,536 keys.
#[test]
fn a_batch_looks_at_so_many_keys() {
    let mut bench = pair(Limits::default());
    load(&mut bench, numbered(65_536), "1");
    let batch = r#"{"op":"batch","ops":[{"op":"put","key":"k.000000","value":2},{"op":"delete","key":"k.*"}]}"#;
    ask(&mut bench, 0, r#"{"op":"put","key":"k","value":1}"#);
    let answer = ask(&mut bench, 0, batch);
    assert_eq!(answer["error"], "limit", "{answer}");
    assert_eq!(answer["at"], 1, "{answer}");
    assert_eq!(bench.broker.keyspace().keys(), 65_537);
    let twice =
        r#"{"op":"batch","ops":[{"op":"delete","key":"k.000000.*"},{"op":"delete","key":"k.*"}]}"#;
    assert_eq!(ask(&mut bench, 0, twice)["at"], 1, "all patterns together");
    let answer = ask(&mut bench, 0, r#"{"op":"delete","key":"k.*"}"#);
    assert_eq!(
        answer["deleted"], 65_537,
        "outside a batch there is no such limit"
    );
    load(&mut bench, numbered(40_000), "1");
    let answer = ask(
        &mut bench,
        0,
        r#"{"op":"batch","ops":[{"op":"delete","key":"*"},{"op":"put","key":"z","value":1}]}"#,
    );
    assert_eq!(answer["ok"], true, "{answer}");
    assert_eq!(bench.broker.keyspace().keys(), 1);
}

/// What the batch itself has changed is looked at again by each of its patterns. A batch that has changed
/// much must not make up for keys that are not there with very many patterns.
#[test]
fn the_patterns_of_a_batch_look_at_what_it_has_changed() {
    let mut bench = pair(Limits::default());
    load(&mut bench, numbered(20_000), "1");
    let sweep = |pattern: &str| format!(r#"{{"op":"delete","key":"{pattern}"}}"#);
    let batch = |more: usize| {
        let none = format!(",{}", sweep("none.*")).repeat(more);
        format!(
            r#"{{"op":"batch","ops":[{}{none},{{"op":"check","key":"k","if_rev":1}}]}}"#,
            sweep("k.*")
        )
    };
    // 20,000 keys, and as many again for each pattern.
    for (more, expected) in [(2, "conflict"), (3, "limit"), (20_000, "limit")] {
        let answer = ask(&mut bench, 0, &batch(more));
        assert_eq!(answer["error"], expected, "{more}: {answer}");
        assert_eq!(answer["at"], 3, "{more}: {answer}");
    }
}

/// Whoever subscribes to a long pattern is told of what it covers, and not of what only begins in the same
/// way: no event, and no `sync` either.
#[test]
fn long_patterns_are_held_against_all_of_a_key() {
    let mut bench = pair(Limits::default());
    let subscribe = |id: u32, key: &str, more: &str| {
        format!("{{\"id\":{id},\"op\":\"subscribe\",\"key\":\"{key}\",\"cuts\":true{more}}}\n")
    };
    let exact = subscribe(1, "1.*.3.4.5.6.7.8.9.*.z", r#","exact":true"#);
    let whole = subscribe(2, "1.*.3.4.5.6.7.8.9.*.z", "");
    bench.send(1, (exact + &whole).as_bytes());
    bench.settle(WHOLE);
    assert_eq!(lines(&mut bench, 1).len(), 4);
    let mut told = |key: &str, op: &str| {
        let request = format!(r#"{{"op":"{op},"key":"{key}"}}"#);
        assert_eq!(ask(&mut bench, 0, &request)["ok"], true, "{request}");
        bench.settle(WHOLE);
        let words = lines(&mut bench, 1).into_iter().map(|line| {
            let line: Value = serde_json::from_str(&line).unwrap();
            format!("{} {}", line["sub"], line["event"].as_str().unwrap())
        });
        words.collect::<Vec<String>>()
    };
    let put = r#"put","value":1"#;
    for key in [
        "1.x.3.4.5.6.7.8",
        "1.x.3.4.5.6.7.8.9.x",
        "1.x.3.4.5.6.7.8.9.x.y",
        "1.x.3.4.5.6.7.8.0.x.z",
        "1.x.3.4.5.6.7.0.9.x.z",
    ] {
        assert!(told(key, put).is_empty(), "{key}");
    }
    let both = |event: &str| {
        [1, 2]
            .map(|sub| [format!("{sub} {event}"), format!("{sub} sync")])
            .concat()
    };
    assert_eq!(told("1.x.3.4.5.6.7.8.9.x.z", put), both("put"));
    assert_eq!(told("1.x.3.4.5.6.7.8.9.x.z.0", put), both("put")[2..]);
    assert_eq!(told("1.x.3.4.5.6.7.8.9.x.z", r#"delete""#), both("delete"));
}

/// Section 5, point 1, with 100,000 keys: byte order, one `sync`, nobody waits.
#[test]
fn a_subscription_begins_with_very_many_entries() {
    let mut bench = pair(Limits::default());
    load(&mut bench, numbered(100_000), "1");
    bench.send(1, b"{\"id\":1,\"op\":\"subscribe\",\"key\":\"k\"}\n");
    let mut turns = 0;
    loop {
        bench.send(0, b"{\"op\":\"ping\"}\n");
        let is_busy = bench.turn(WHOLE);
        turns += 1;
        assert_eq!(
            lines(&mut bench, 0),
            [r#"{"ok":true}"#],
            "nobody else waits"
        );
        if !is_busy {
            break;
        }
    }
    assert!(turns >= 5, "100,000 entries in {turns} turns");
    let events = lines(&mut bench, 1);
    let expected = numbered(100_000).enumerate().map(|(n, key)| {
        format!(
            r#"{{"sub":1,"event":"put","key":"{key}","value":1,"rev":{}}}"#,
            n + 1
        )
    });
    assert!(events[1..100_001].iter().eq(&expected.collect::<Vec<_>>()));
    assert_eq!(
        events[100_001..],
        [r#"{"sub":1,"event":"sync","rev":100000}"#]
    );
}

/// Section 5, points 1 and 5: keys change, come and go between any two entries that a slow
/// subscriber reads, before and behind its position.
#[test]
fn changes_among_the_first_entries_are_told() {
    let mut bench = pair(Limits::default());
    load(&mut bench, numbered(3000), "0");
    bench.set_appetite(1, 4000);
    bench.send(1, b"{\"id\":1,\"op\":\"subscribe\",\"key\":\"*\"}\n");
    bench.turn(WHOLE);
    for round in 0..30_usize {
        let (early, late) = (round * 7, 2999 - round * 7);
        let batch = format!(
            r#"{{"op":"batch","ops":[{{"op":"put","key":"k.{early:06}","value":{round}}},{{"op":"delete","key":"k.{late:06}"}},{{"op":"put","key":"a.{round}","value":1}},{{"op":"delete","key":"k.{:06}"}}]}}"#,
            early + 1
        );
        bench.send(0, batch.as_bytes());
        bench.send(0, b"\n");
        bench.turn(WHOLE);
    }
    bench.settle(WHOLE);
    let mut events = lines(&mut bench, 1);
    events.remove(0);
    let mut mirror = Mirror::default();
    mirror.apply_all(&events);
    assert_eq!((mirror.syncs, mirror.resets), (1, 0));
    assert!(
        events[events.len() - 1].contains("sync"),
        "all that changed came before it"
    );
    assert_eq!(mirror.held, state(&bench));
    assert_eq!(mirror.held.len(), 3000 - 60 + 30);
}

/// The keyspace as it is, read through a connection of its own.
fn state(bench: &Bench) -> BTreeMap<String, String> {
    let pattern = nkv::Pattern::new("*").unwrap();
    let walk = bench.broker.keyspace().walk(&pattern, None);
    let keys = walk.filter_map(|(key, entry)| entry.map(|entry| (key.clone(), entry)));
    keys.map(|(key, entry)| {
        // Values here are numbers; an entry is compared with each that there may be.
        let is = |value: &usize| entry.is(&nkv::wire::Payload::Json(value.to_string().into()));
        let value = (0..1000).find(is).expect("a value of this test");
        (key.to_string(), value.to_string())
    })
    .collect()
}

/// Section 5, point 2: whether a subscription can resume is decided to the revision.
#[test]
fn resuming_goes_back_to_the_oldest_tombstone() {
    let mut bench = pair(limits(|limits| limits.tombstones = 5));
    load(&mut bench, numbered(20), "1");
    for key in numbered(12) {
        ask(
            &mut bench,
            0,
            &format!(r#"{{"op":"delete","key":"{key}"}}"#),
        );
    }
    // Of the deletions at 21 to 32, the five newest are remembered; the newest forgotten is 27.
    assert_eq!(ask(&mut bench, 0, r#"{"op":"stats"}"#)["tombstones"], 5);
    for since in 0..=33_u64 {
        let subscribe =
            format!(r#"{{"id":{since},"op":"subscribe","key":"*","since":{since},"epoch":"e1"}}"#);
        let events = exchange(&mut bench, 1, &subscribe);
        let is_reset =
            events[1] == format!(r#"{{"sub":{since},"event":"reset","epoch":"e1","rev":32}}"#);
        assert_eq!(
            is_reset,
            !(27..=32).contains(&since),
            "since {since}: {events:?}"
        );
        let expected = if is_reset {
            1 + 1 + 8 + 1
        } else {
            1 + (32 - since) + 1
        };
        assert_eq!(events.len() as u64, expected, "since {since}: {events:?}");
    }
}

/// Tombstones are a hard bound: a live subscriber that is behind one that was dropped is told to
/// start over, and is then as good as any other.
#[test]
fn a_subscriber_far_behind_is_reset() {
    let mut bench = pair(limits(|limits| limits.tombstones = 10));
    load(&mut bench, numbered(100), "1");
    let mut mirror = Mirror::default();
    mirror.apply_all(&exchange(&mut bench, 1, r#"{"id":1,"op":"subscribe","key":"k"}"#)[1..]);
    assert_eq!(mirror.held.len(), 100);
    // Ten deletions can be told; the eleventh pushes the first one out.
    for (deleted, resets) in [(10, 0), (11, 1)] {
        bench.set_appetite(1, 0);
        for key in numbered(100).skip(20 * resets).take(deleted) {
            ask(
                &mut bench,
                0,
                &format!(r#"{{"op":"delete","key":"{key}"}}"#),
            );
        }
        bench.set_appetite(1, WHOLE);
        bench.settle(WHOLE);
        let events = lines(&mut bench, 1);
        mirror.apply_all(&events);
        assert_eq!(mirror.resets, resets, "{events:?}");
        assert_eq!(mirror.syncs, 1 + resets);
        assert_eq!(mirror.held, state(&bench));
    }
    ask(&mut bench, 0, r#"{"op":"put","key":"k.x","value":5}"#);
    mirror.apply_all(&lines(&mut bench, 1));
    assert_eq!((mirror.resets, mirror.syncs), (1, 2));
    assert_eq!(mirror.held, state(&bench));
}

/// The same for one that is still among its first entries.
#[test]
fn a_subscriber_is_reset_among_its_first_entries() {
    let mut bench = pair(limits(|limits| limits.tombstones = 10));
    load(&mut bench, numbered(3000), "1");
    bench.set_appetite(1, 5000);
    bench.send(1, b"{\"id\":1,\"op\":\"subscribe\",\"key\":\"k\"}\n");
    bench.turn(WHOLE);
    bench.set_appetite(1, 0);
    for key in numbered(11) {
        ask(
            &mut bench,
            0,
            &format!(r#"{{"op":"delete","key":"{key}"}}"#),
        );
    }
    bench.set_appetite(1, WHOLE);
    bench.settle(WHOLE);
    let mut mirror = Mirror::default();
    mirror.apply_all(&lines(&mut bench, 1)[1..]);
    assert_eq!((mirror.resets, mirror.syncs), (1, 1));
    assert_eq!(mirror.held, state(&bench));
}

/// Section 5, point 6: what is kept for a subscriber does not grow with the changes, nor with the
/// keys, that it is behind.
#[test]
fn a_slow_subscriber_costs_one_position() {
    let held_after = |keys: usize, rounds: usize, subscribed: bool| {
        let mut bench = pair(Limits::default());
        if subscribed {
            exchange(&mut bench, 1, r#"{"id":1,"op":"subscribe","key":"*"}"#);
        }
        bench.set_appetite(1, 0);
        for _ in 0..rounds {
            load(&mut bench, numbered(keys), "1");
        }
        let held = allocation::held();
        bench.set_appetite(1, WHOLE);
        bench.settle(WHOLE);
        let events = lines(&mut bench, 1).len();
        assert_eq!(events, if subscribed { keys } else { 0 }, "one event a key");
        held
    };
    for (keys, rounds) in [(10, 1), (10, 1000), (20_000, 1), (20_000, 3)] {
        let before = allocation::held();
        let without = held_after(keys, rounds, false) - before;
        let with = held_after(keys, rounds, true) - before;
        assert!(
            with <= without + 2048,
            "{keys} keys changed {rounds} times: {with} bytes are held, {without} without it"
        );
    }
}

/// Section 5, point 7: what is held at a `sync` is never half a batch, nor older than at the last.
#[test]
fn cuts_never_show_half_a_batch() {
    for appetite in [7, 900, 20_000] {
        let mut bench = pair(Limits::default());
        bench.send(
            1,
            b"{\"id\":1,\"op\":\"subscribe\",\"key\":\"*\",\"cuts\":true}\n",
        );
        bench.settle(WHOLE);
        bench.set_appetite(1, appetite);
        for round in 0..40 {
            // One batch is larger than what is made ahead for a subscriber.
            let count = if round % 8 == 5 { 600 } else { 3 };
            let ops: Vec<String> = numbered(count)
                .map(|key| format!(r#"{{"op":"put","key":"{key}","value":{round}}}"#))
                .collect();
            bench.send(
                0,
                format!("{{\"op\":\"batch\",\"ops\":[{}]}}\n", ops.join(",")).as_bytes(),
            );
            for _ in 0..round {
                bench.turn(WHOLE);
            }
        }
        bench.settle(WHOLE);
        let mut mirror = Mirror::default();
        let mut shown = 0;
        for line in &lines(&mut bench, 1)[1..] {
            let syncs = mirror.syncs;
            mirror.apply(line);
            if mirror.syncs > syncs && !mirror.held.is_empty() {
                check_cut(&mirror.held, &mut shown, appetite);
            }
        }
        assert_eq!(shown, 39, "the last batch is shown");
        assert_eq!(mirror.held, state(&bench));
    }
}

/// The first three keys are put by every batch, the others by every eighth.
fn check_cut(held: &BTreeMap<String, String>, shown: &mut u64, appetite: usize) {
    let value = |key: &str| held[key].parse::<u64>().unwrap();
    let round = value("k.000000");
    assert_eq!(
        [value("k.000001"), value("k.000002")],
        [round; 2],
        "appetite {appetite}"
    );
    assert!(
        *shown <= round,
        "appetite {appetite}: {round} after {shown}"
    );
    *shown = round;
    if held.len() > 3 {
        let large = value("k.000003");
        assert_eq!(large, (round - 5) / 8 * 8 + 5, "appetite {appetite}");
        assert!(
            held.keys().skip(3).all(|key| value(key) == large),
            "appetite {appetite}"
        );
    }
}

/// After the response to `unsubscribe` no event of that subscription comes, however many were owed.
#[test]
fn unsubscribing_is_final() {
    for appetite in [1000, 20_000] {
        let mut bench = pair(Limits::default());
        load(&mut bench, numbered(3000), "1");
        bench.set_appetite(1, appetite);
        bench.send(1, b"{\"id\":1,\"op\":\"subscribe\",\"key\":\"k\"}\n{\"id\":2,\"op\":\"subscribe\",\"key\":\"k.000001\"}\n");
        bench.turn(WHOLE);
        bench.turn(WHOLE);
        bench.send(1, b"{\"id\":\"u\",\"op\":\"unsubscribe\",\"sub\":1}\n");
        bench.settle(WHOLE);
        ask(&mut bench, 0, r#"{"op":"put","key":"k.000001","value":2}"#);
        let received = lines(&mut bench, 1);
        let response = received
            .iter()
            .position(|line| line == r#"{"id":"u","ok":true}"#)
            .unwrap();
        let events = |lines: &[String], sub: u8| {
            let start = format!("{{\"sub\":{sub},");
            lines.iter().filter(|line| line.starts_with(&start)).count()
        };
        let told = events(&received[..response], 1);
        assert!(told > 0 && told < 3000, "{told} entries were told before");
        assert_eq!(events(&received[response..], 1), 0);
        assert_eq!(events(&received, 2), 3, "entry, sync, change");
    }
}

/// Section 7: a client that does not read is not carried out for beyond the output limit. It costs
/// no more than that, and nobody else waits.
#[test]
fn a_client_that_does_not_read_is_not_read_from() {
    let mut bench = pair(Limits::default());
    bench.set_appetite(0, 0);
    let requests = |bench: &mut Bench| {
        ask(bench, 1, r#"{"op":"stats"}"#)["requests"]
            .as_u64()
            .unwrap()
    };
    // 100,000 answers of 12 bytes; 65,536 bytes are the limit, and one answer may go over it.
    bench.send(0, "{\"op\":\"ping\"}\n".repeat(100_000).as_bytes());
    let before = allocation::held();
    bench.settle(64 << 10);
    assert_eq!(requests(&mut bench), 65_536 / 12 + 1 + 1);
    assert!(bench.has_unsent(0));
    assert!(allocation::held() < before + (256 << 10), "bounded");
    bench.settle(64 << 10);
    assert_eq!(
        requests(&mut bench),
        65_536 / 12 + 1 + 2,
        "it stays like that"
    );
    // A little that is read lets a little more be carried out.
    bench.set_appetite(0, 1200);
    bench.turn(64 << 10);
    bench.set_appetite(0, 0);
    bench.settle(64 << 10);
    assert_eq!(requests(&mut bench), 65_536 / 12 + 1 + 3 + 100);
    bench.set_appetite(0, WHOLE);
    bench.settle(64 << 10);
    assert_eq!(
        lines(&mut bench, 0),
        vec![r#"{"ok":true}"#; 100_000],
        "each is answered once"
    );
    assert_eq!(requests(&mut bench), 100_000 + 4);
}

/// Answers that are large by themselves: one goes over the limit, no second one is made.
#[test]
fn large_answers_are_made_one_at_a_time() {
    let mut bench = pair(Limits::default());
    load(&mut bench, numbered(900), &"1".repeat(100));
    bench.set_appetite(0, 0);
    bench.send(
        0,
        "{\"op\":\"get\",\"key\":\"k.*\"}\n".repeat(50).as_bytes(),
    );
    bench.settle(WHOLE);
    assert_eq!(ask(&mut bench, 1, r#"{"op":"stats"}"#)["gets"], 1);
    bench.set_appetite(0, WHOLE);
    bench.settle(WHOLE);
    assert_eq!(lines(&mut bench, 0).len(), 50);
}

/// An entry whose time has come is not served, not even by the turn that would let it end.
#[test]
fn an_expired_entry_is_not_served() {
    let mut bench = pair(Limits::default());
    ask(
        &mut bench,
        0,
        r#"{"op":"put","key":"a","value":1,"ttl_ms":100}"#,
    );
    bench.now = Time(5000);
    bench.send(1, b"{\"op\":\"get\",\"key\":\"a\"}\n");
    bench.turn(WHOLE);
    let received = lines(&mut bench, 1);
    assert!(received[0].contains("not_found"), "{received:?}");
}

/// Section 1: when the client half-closes, everything that it sent is carried out and answered,
/// however long that takes: a list over turns, answers that are not read, a last line without end.
#[test]
fn half_closing_waits_for_everything() {
    let mut bench = pair(Limits::default());
    load(&mut bench, numbered(40_000), "1");
    bench.set_appetite(1, 0);
    bench.send(1, b"{\"id\":1,\"op\":\"get\",\"key\":\"*.x\"}\n");
    bench.send(1, &b"{\"op\":\"ping\"}\n".repeat(20_000));
    bench.send(1, b"{\"id\":2,\"op\":\"get\",\"key\":\"*.x\"}");
    bench.end(1);
    bench.settle(64 << 10);
    assert!(!bench.is_drained(1));
    bench.set_appetite(1, 50_000);
    bench.settle(64 << 10);
    let answers = lines(&mut bench, 1);
    assert_eq!(answers.len(), 20_002);
    assert_eq!(answers[0], r#"{"id":1,"ok":true,"entries":[],"rev":40000}"#);
    assert_eq!(
        answers[20_001],
        r#"{"id":2,"ok":true,"entries":[],"rev":40000}"#
    );
    assert!(bench.is_drained(1));
}

/// Section 1: where reads end, how fast a client reads, and how much it may owe do not show in what
/// it is answered.
#[test]
fn the_size_of_reads_does_not_show() {
    let steps: [&[u8]; 12] = [
        b"{\"op\":\"put\",\"key\":\"a\",\"value\":1}\n",
        b"\n\r\n",
        b"{\"id\":1,\"op\":\"get\",\"key\":\"*\"}\r\n",
        b"nonsense\n",
        &[b'x'; 151],
        b"\n{\"op\":\"delete\",\"key\":\"*\"}\n",
        b"{\"op\":\"batch\",\"ops\":[{\"op\":\"put\",\"key\":\"b.c\",\"value\":[1, 2]},{\"op\":\"put\",\"key\":\"b\",\"value\":0}]}\n",
        &[b'y'; 1000],
        b"\r\n{\"op\":\"ping\"}\n",
        b"{\"id\":\"\xff\"}\n",
        b"{\"op\":\"get\",\"key\":\"b.*\",\"limit\":1}\n",
        b"{\"op\":\"put\",\"key\":\"b.d\",\"value\":1,\"if_rev\":0}\n",
    ];
    let input = steps.concat().repeat(5);
    let play = |piece: usize, appetite: usize, output: u64| {
        let mut bench = pair(limits(|limits| {
            (limits.message, limits.output) = (150, output)
        }));
        bench.set_appetite(0, appetite);
        bench.send(0, &input);
        bench.end(0);
        bench.settle(piece);
        assert!(bench.is_drained(0));
        bench.take_received(0)
    };
    let expected = play(WHOLE, WHOLE, 64 << 10);
    assert_eq!(expected.split(|&byte| byte == b'\n').count() - 1, 5 * 11);
    for piece in 1..=200 {
        let (appetite, output) = ([1, 13, WHOLE][piece % 3], [0, 40, 64 << 10][piece % 4 % 3]);
        let received = play(piece, appetite, output);
        assert!(
            received == expected,
            "in pieces of {piece}, {appetite} read a turn, {output} owed"
        );
    }
}

/// `keys_only` pages are as long as their keys: the values, which they don't carry, don't count.
#[test]
fn keys_alone_fill_a_page() {
    let mut bench = pair(Limits::default());
    let value = "x".repeat(1_048_500);
    for key in numbered(20) {
        let put = format!(r#"{{"op":"put","key":"{key}","value":"{value}"}}"#);
        assert_eq!(ask(&mut bench, 0, &put)["ok"], true);
    }
    let request = r#"{"op":"get","key":"k.*","keys_only":true}"#;
    let answer = ask(&mut bench, 1, request);
    assert_eq!(keys(&answer).len(), 20);
    assert_eq!(answer["more"], Value::Null);
}
