//! What one user may try so that the daemon holds more, or works longer, than it should: each as plain
//! lines, without sockets. What it does to others' time is measured by `benches/attacks`.

use nkv::broker::Peer;
use nkv::wire::Limits;
use serde_json::json;

use crate::constructed::{ask, lines};
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
