//! What one user may try so that the daemon holds more, or works longer, than it should: each as plain
//! lines, without sockets. What it does to others' time is measured by `benches/attacks`.

use nkv::broker::Peer;
use nkv::wire::Limits;
use serde_json::{Value, json};

use crate::constructed::{ask, limits, lines};
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
