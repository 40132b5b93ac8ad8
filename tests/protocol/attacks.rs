//! What one user may try so that the daemon holds more, or works longer, than it should: each as plain
//! lines, without sockets. What it does to others' time is measured by `benches/attacks`.

use nkv::broker::Peer;
use nkv::wire::Limits;
use serde_json::{Value, json};

use crate::constructed::{ask, exchange, limits, lines};
use crate::support::{Bench, unix_peer};

const WHOLE: usize = usize::MAX;

fn attacker() -> Peer {
    Peer::Tcp("192.0.2.1:4000".parse().unwrap())
}

/// A bench with the daemon's own user as client 0, and so many attackers of one user after it.
fn bench(limits: Limits, attackers: usize) -> Bench {
    let mut bench = Bench::new(limits);
    for number in 0..=attackers {
        let peer = if number == 0 { unix_peer() } else { attacker() };
        assert_eq!(bench.connect(peer), Ok(number));
    }
    bench
}

/// What `stats` says that the attackers hold.
fn held(bench: &mut Bench, what: &str) -> u64 {
    let stats = ask(bench, 0, r#"{"op":"stats"}"#);
    let users = stats["users"].as_array().unwrap();
    let theirs = users.iter().find(|user| user["tcp"] == true).unwrap();
    theirs[what].as_u64().unwrap()
}

/// Lists of many connections that are all begun while nobody holds much, and then gather a page each.
#[test]
fn lists_that_go_on_are_bounded() {
    let attackers = 200;
    let limits = limits(|limits| limits.message = 64 << 10);
    let allowed = 65 * limits.message;
    let mut bench = bench(limits, attackers);
    // So long that a turn looks at a few hundred; one of fifty is asked for.
    for number in 0..3000 {
        let end = if number % 50 == 0 { "x" } else { "y" };
        let key = format!("{}{number:04}.{end}", "k".repeat(450));
        let value = if number % 50 == 0 {
            "v".repeat(1000)
        } else {
            String::new()
        };
        let put = json!({"op": "put", "key": key, "value": value});
        bench.send(0, format!("{put}\n").as_bytes());
    }
    bench.settle(WHOLE);
    lines(&mut bench, 0);
    // Each turn another one begins, and those before it get on by a little.
    for client in (1..=attackers).rev() {
        bench.set_appetite(client, 0);
        bench.send(client, b"{\"op\":\"get\",\"key\":\"*.x\"}\n");
        bench.turn(WHOLE);
    }
    bench.settle(WHOLE);
    let buffered = held(&mut bench, "buffered");
    assert!(buffered < allowed, "{buffered} bytes");
    // Nothing is left when all have read.
    let mut refused = 0;
    for client in 1..=attackers {
        bench.set_appetite(client, WHOLE);
    }
    bench.settle(WHOLE);
    for client in 1..=attackers {
        let answers = lines(&mut bench, client);
        assert_eq!(answers.len(), 1);
        let answer: Value = serde_json::from_str(&answers[0]).unwrap();
        refused += usize::from(answer["error"] == "limit");
    }
    assert!((1..attackers).contains(&refused), "{refused} are refused");
    assert_eq!(held(&mut bench, "buffered"), 0);
}

/// A pattern of stars is compared with long keys segment by segment. So a turn looks at fewer of them.
#[test]
fn long_keys_are_more_to_look_at() {
    let turns = |key: &str| {
        let mut bench = bench(Limits::default(), 1);
        for some in 0..8 {
            let puts =
                (0..1000).map(|n| json!({"op":"put","key":format!("{key}{some}-{n}"),"value":1}));
            let batch = json!({"op": "batch", "ops": puts.collect::<Vec<_>>()});
            assert_eq!(ask(&mut bench, 0, &batch.to_string())["ok"], true);
        }
        bench.send(1, b"{\"op\":\"get\",\"key\":\"*.none\"}\n");
        let mut turns = 0;
        while lines(&mut bench, 1).is_empty() {
            bench.turn(WHOLE);
            turns += 1;
        }
        turns
    };
    let (short, long) = (turns("a."), turns(&"a.".repeat(240)));
    assert!(long > 5 * short, "{short} turns and {long}");
}

/// How many requests of one connection are answered in its first turn.
fn answered_in_a_turn(bench: &mut Bench, client: usize, request: &str) -> usize {
    lines(bench, client);
    bench.send(client, format!("{request}\n").repeat(300).as_bytes());
    bench.turn(WHOLE);
    let answered = lines(bench, client).len();
    bench.settle(WHOLE);
    lines(bench, client);
    answered
}

/// Requests that are short to write and long to carry out: a turn takes fewer of them.
#[test]
fn what_takes_longer_takes_more_of_a_turn() {
    let mut bench = bench(Limits::default(), 120);
    assert_eq!(answered_in_a_turn(&mut bench, 1, r#"{"op":"ping"}"#), 256);
    let check = |bench: &mut Bench, request: &str, most: usize| {
        let answered = answered_in_a_turn(bench, 1, request);
        assert!((1..=most).contains(&answered), "{answered} of {request}");
    };
    check(&mut bench, r#"{"op":"stats"}"#, 60);
    check(&mut bench, r#"{"op":"clients"}"#, 10);
    let blanks = " ".repeat(5000);
    check(&mut bench, &format!("{blanks}{{\"op\":\"ping\"}}"), 50);
    let deep = "a.".repeat(240);
    bench.send(1, b"{\"op\":\"claim\",\"key\":\"c.0\"}\n");
    bench.settle(WHOLE);
    check(
        &mut bench,
        &format!(r#"{{"op":"put","key":"{deep}b","value":1}}"#),
        20,
    );
    // A claim of what is above many claims looks at all of them.
    for number in 0..900 {
        bench.send(
            1,
            format!("{{\"op\":\"claim\",\"key\":\"c.{number}\"}}\n").as_bytes(),
        );
    }
    bench.settle(WHOLE);
    check(&mut bench, r#"{"op":"claim","key":"c"}"#, 3);
    check(&mut bench, r#"{"op":"clients"}"#, 3);
    // And of patterns with stars that share their beginnings.
    for number in 0..256 {
        let stars: String = (0..8)
            .map(|bit| if number >> bit & 1 == 1 { "*." } else { "a." })
            .collect();
        let subscribe = json!({"op": "subscribe", "id": number, "key": format!("{stars}b")});
        bench.send(2, format!("{subscribe}\n").as_bytes());
    }
    bench.settle(WHOLE);
    check(
        &mut bench,
        r#"{"op":"delete","key":"a.a.a.a.a.a.a.a.c"}"#,
        256,
    );
    check(
        &mut bench,
        r#"{"op":"put","key":"a.a.a.a.a.a.a.a.c","value":1}"#,
        30,
    );
}

/// What one connection takes beyond its share is charged to its user all the same.
#[test]
fn a_long_request_leaves_nothing_of_a_turn() {
    let mut bench = bench(Limits::default(), 2);
    for some in 0..20 {
        let puts = (0..1000).map(|n| json!({"op":"put","key":format!("k.{some}.{n}"),"value":1}));
        let batch = json!({"op": "batch", "ops": puts.collect::<Vec<_>>()});
        assert_eq!(ask(&mut bench, 0, &batch.to_string())["ok"], true);
    }
    let delete = json!({"op": "delete", "key": "*.*.none"});
    let check = json!({"op": "check", "key": "none", "if_rev": 7});
    for ops in [json!([delete]), json!([delete, check])] {
        let batch = json!({"op": "batch", "ops": ops});
        for client in [1, 2] {
            bench.send(client, format!("{batch}\n").as_bytes());
        }
        bench.turn(WHOLE);
        assert_eq!(lines(&mut bench, 1).len(), 1);
        assert_eq!(lines(&mut bench, 2).len(), 0, "it waits for the next turn");
        bench.turn(WHOLE);
        assert_eq!(lines(&mut bench, 2).len(), 1);
    }
}

/// `clients` tells of no more claims than can be looked at in a moment.
#[test]
fn claims_are_told_up_to_a_bound() {
    let mut bench = bench(Limits::default(), 1);
    for number in 0..1100 {
        bench.send(
            1,
            format!("{{\"op\":\"claim\",\"key\":\"c.{number}\"}}\n").as_bytes(),
        );
    }
    bench.settle(WHOLE);
    let clients = ask(&mut bench, 0, r#"{"op":"clients"}"#);
    let told = clients["clients"][1]["claims"].as_array().unwrap();
    assert_eq!(told.len(), 1024);
    lines(&mut bench, 1);
    let refused = ask(&mut bench, 1, r#"{"op":"claim","key":"c"}"#);
    assert_eq!(refused["error"], "limit", "{refused}");
}

/// Whoever goes has left requests behind. What they would change is changed; what they only ask for is
/// not looked for.
#[test]
fn nobody_waits_for_the_answers_of_one_who_has_gone() {
    let mut bench = bench(Limits::default(), 1);
    for some in 0..10 {
        let puts = (0..1000).map(|n| json!({"op":"put","key":format!("k.{some}.{n}"),"value":1}));
        let batch = json!({"op": "batch", "ops": puts.collect::<Vec<_>>()});
        assert_eq!(ask(&mut bench, 0, &batch.to_string())["ok"], true);
    }
    let lists = "{\"op\":\"get\",\"key\":\"*.*.none\"}\n".repeat(200);
    bench.send(1, lists.as_bytes());
    bench.send(1, b"{\"op\":\"put\",\"key\":\"last\",\"value\":1}\n");
    bench.turn(WHOLE);
    let session = bench.session(1).unwrap();
    bench.broker.discard_output(session);
    bench.turn(WHOLE);
    bench.turn(WHOLE);
    assert_eq!(bench.broker.keyspace().keys(), 10_001, "the put is done");
}

/// Each segment of a pattern is held in memory, and looked at when a key comes by.
#[test]
fn long_patterns_count_as_several_subscriptions() {
    let mut bench = bench(Limits::default(), 2);
    let subscribe = |bench: &mut Bench, client: usize, id: usize, segments: usize| {
        let pattern = format!("s{client}-{id}{}", ".a".repeat(segments - 1));
        let request = json!({"op": "subscribe", "id": id, "key": pattern, "initial": false});
        let answer = exchange(bench, client, &request.to_string()).swap_remove(0);
        answer.contains(r#""ok":true"#)
    };
    let mut count = 0;
    for (segments, weight) in [(1, 1), (8, 1), (9, 4), (16, 4), (17, 9), (128, 256)] {
        assert!(subscribe(&mut bench, 1, segments, segments));
        count += weight;
        assert_eq!(held(&mut bench, "subscriptions"), count, "{segments}");
    }
    let taken = (200..300)
        .filter(|id| subscribe(&mut bench, 1, *id, 200))
        .count() as u64;
    assert_eq!(taken, (16 * 1024 - count) / 625);
    ask(&mut bench, 1, r#"{"op":"unsubscribe","sub":128}"#);
    assert_eq!(held(&mut bench, "subscriptions"), count + taken * 625 - 256);
    bench.disconnect(1);
    assert_eq!(held(&mut bench, "subscriptions"), 0);
}

/// Very many who listen to the same are marked once a turn; what that has spared them is counted all the
/// same, and nobody misses anything.
#[test]
fn a_crowd_of_subscribers_hears_of_everything() {
    let crowd = 20;
    let mut bench = bench(Limits::default(), crowd);
    for client in 1..=crowd {
        let subscribed = exchange(
            &mut bench,
            client,
            r#"{"op":"subscribe","id":1,"key":"a","initial":false}"#,
        );
        assert_eq!(subscribed.len(), 2);
    }
    for turn in 0..3 {
        for (key, value) in [("a.b", 1), ("a.b", 2), ("a.c", 3), ("a.b", 4)] {
            let put = json!({"op": "put", "key": key, "value": value + turn});
            bench.send(0, format!("{put}\n").as_bytes());
        }
        bench.settle(WHOLE);
        lines(&mut bench, 0);
        for client in 1..=crowd {
            let told: Vec<Value> = lines(&mut bench, client)
                .iter()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect();
            let told: Vec<_> = told
                .iter()
                .map(|event| (&event["key"], &event["value"]))
                .collect();
            let (c, b) = (json!("a.c"), json!("a.b"));
            assert_eq!(told, [(&c, &json!(3 + turn)), (&b, &json!(4 + turn))]);
        }
    }
    let stats = ask(&mut bench, 0, r#"{"op":"stats"}"#);
    assert_eq!(stats["coalesced"], 3 * 2 * crowd);
}

/// Bytes of lines that don't end are only taken in, which takes something of a turn as well.
#[test]
fn what_is_only_taken_in_takes_its_time() {
    let crowd = 300;
    let mut bench = bench(Limits::default(), crowd);
    let turns = |bench: &mut Bench, bytes: usize, piece: usize| {
        for client in 1..=crowd {
            bench.send(client, &vec![b'x'; bytes]);
        }
        let mut turns = 0;
        while (1..=crowd).any(|client| bench.has_unsent(client)) {
            bench.turn(piece);
            turns += 1;
        }
        turns
    };
    // The first pieces of lines, and what comes then: 4 MiB a turn.
    let (first, then) = (
        turns(&mut bench, 64 << 10, 32 << 10),
        turns(&mut bench, 64 << 10, 32 << 10),
    );
    assert!(first >= 4 && then >= 4, "{first} and {then} turns");
    // A byte takes a step, so that a turn is known to be used.
    assert_eq!(turns(&mut bench, 100, 1), 100);
    let session = bench.session(1).unwrap();
    bench.send(1, b"x");
    bench.turn_with(1, |_, _| {});
    assert!(
        bench.broker.may_ask(session, || true),
        "the next turn is a new one"
    );
    bench.broker.receive(session, b"x", bench.now);
    assert!(!bench.broker.may_ask(session, || true));
}

/// Subscribers that are in the middle of a large event share it, and those of another one wait until there
/// is room. What was small is told meanwhile, and in the end everybody has everything.
#[test]
fn large_events_are_bounded() {
    let (attackers, apart, events) = (300, 150, 64 << 10);
    let limits = limits(|limits| limits.message = 2 * events);
    let allowed = 64 * limits.message;
    let mut bench = bench(limits, attackers);
    let length = usize::try_from(events).unwrap() - 1000;
    let value = |n: usize| format!("{n:0>length$}");
    let put = |bench: &mut Bench, n: usize| {
        let put = json!({"op": "put", "key": "a.large", "value": value(n)});
        assert_eq!(ask(bench, 0, &put.to_string())["ok"], true);
    };
    let subscribe = |bench: &mut Bench, client: usize| {
        let subscribe = json!({"id": client, "op": "subscribe", "key": "a"});
        bench.send(client, format!("{subscribe}\n").as_bytes());
        bench.set_appetite(client, 100);
        bench.turn(WHOLE);
        bench.turn(WHOLE);
        bench.set_appetite(client, 0);
    };
    put(&mut bench, 0);
    for client in 1..=attackers - apart {
        subscribe(&mut bench, client);
    }
    bench.settle(WHOLE);
    assert!(held(&mut bench, "buffered") < 2 * events, "they share it");
    // Each of these begins with another value, as far as it can begin.
    for client in attackers - apart + 1..=attackers {
        put(&mut bench, client);
        subscribe(&mut bench, client);
    }
    bench.settle(WHOLE);
    let buffered = held(&mut bench, "buffered");
    assert!((allowed / 2..=allowed).contains(&buffered), "{buffered}");
    // One that waits hears of small values in another subscription.
    let client = attackers;
    bench.send(
        client,
        b"{\"id\":\"b\",\"op\":\"subscribe\",\"key\":\"b\"}\n",
    );
    ask(&mut bench, 0, r#"{"op":"put","key":"b","value":1}"#);
    bench.set_appetite(client, WHOLE);
    bench.settle(WHOLE);
    let told = lines(&mut bench, client);
    assert!(told.iter().any(|line| line.contains(r#""key":"b""#)));
    assert!(!told.iter().any(|line| line.contains(r#""key":"a.large""#)));
    // Whoever goes makes room, and so does whoever reads.
    let gone = 50;
    for client in 1..=gone {
        bench.disconnect(client);
    }
    for client in gone + 1..=attackers {
        bench.set_appetite(client, WHOLE);
        bench.settle(WHOLE);
    }
    let last = value(attackers);
    for client in gone + 1..=attackers {
        let told = lines(&mut bench, client);
        assert!(told.iter().any(|line| line.contains(&last)), "{client}");
    }
    assert_eq!(held(&mut bench, "buffered"), 0);
}
