//! Section 8: what `stats` counts.

use nkv::wire::Limits;
use serde_json::Value;

use crate::constructed::{ask, exchange, limits, lines, pair};
use crate::support::{Bench, unix_peer};

const INTEGERS: [&str; 23] = [
    "uptime_ms",
    "clients",
    "subscriptions",
    "keys",
    "bytes",
    "rev",
    "requests",
    "puts",
    "gets",
    "deletes",
    "events",
    "coalesced",
    "errors",
    "journal_bytes",
    "journal_syncs",
    "tombstones",
    "journal_records",
    "journal_live_bytes",
    "journal_written_bytes",
    "journal_rewrites",
    "journal_failures",
    "boot_journal_bytes",
    "read_only",
];

fn statistics(bench: &mut Bench) -> Value {
    ask(bench, 0, r#"{"op":"stats"}"#)
}

/// Each name with its number.
fn check(statistics: &Value, expected: &[(&str, u64)]) {
    for (name, number) in expected {
        assert_eq!(statistics[name], *number, "{name} of {statistics}");
    }
}

#[test]
fn every_field_is_there() {
    let mut bench = pair(Limits::default());
    let answer = ask(&mut bench, 0, r#"{"id":"i","op":"stats"}"#);
    for name in INTEGERS {
        assert!(answer[name].is_u64(), "{name} is an integer: {answer}");
    }
    assert_eq!(answer["epoch"], "e1");
    assert_eq!(answer["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(answer["id"], "i");
    assert_eq!(answer["ok"], true);
    assert!(answer["users"].is_array());
    let fields = answer.as_object().unwrap().len();
    assert_eq!(fields, INTEGERS.len() + 5, "and nothing else: {answer}");
}

#[test]
fn requests_are_counted() {
    let mut bench = pair(limits(|limits| limits.clients = 2));
    for line in [
        r#"{"op":"put","key":"a.b","value":123}"#,
        r#"{"op":"put","key":"a.b","value":1234}"#,
        r#"{"op":"put","key":"raw","base64":"AAAA"}"#,
        r#"{"op":"put","key":"raw","value":1,"if_rev":9}"#,
        r#"{"op":"get","key":"raw"}"#,
        r#"{"op":"get","key":"missing"}"#,
        r#"{"op":"get","key":"*"}"#,
        r#"{"op":"put","key":"gone","value":1}"#,
        r#"{"op":"delete","key":"gone"}"#,
        r#"{"op":"delete","key":"missing"}"#,
        r#"{"op":"batch","ops":[{"op":"put","key":"c","value":1},{"op":"delete","key":"raw"},{"op":"check","key":"x","if_rev":0}]}"#,
        "nonsense",
        r#"{"op":"ping"}"#,
    ] {
        exchange(&mut bench, 1, line);
    }
    bench.send(1, b"\n\r\n\n");
    assert!(bench.connect(unix_peer()).is_err(), "a third client");
    bench.now.0 = 77;
    check(
        &statistics(&mut bench),
        &[
            ("uptime_ms", 77),
            ("clients", 2),
            ("subscriptions", 0),
            ("keys", 2),
            ("bytes", 3 + 4 + 1 + 1),
            ("rev", 7),
            ("requests", 13 + 1),
            ("puts", 6),
            ("gets", 3),
            ("deletes", 3),
            ("events", 0),
            ("coalesced", 0),
            ("errors", 4),
            ("tombstones", 2),
        ],
    );
    bench.disconnect(1);
    check(&statistics(&mut bench), &[("clients", 1), ("requests", 15)]);
}

/// `events` are those that were written, `coalesced` the changes that a subscriber was spared.
#[test]
fn events_are_counted() {
    let mut bench = pair(Limits::default());
    ask(&mut bench, 0, r#"{"op":"put","key":"a","value":0}"#);
    exchange(&mut bench, 1, r#"{"id":1,"op":"subscribe","key":"a"}"#);
    check(
        &statistics(&mut bench),
        &[("events", 2), ("coalesced", 0), ("subscriptions", 1)],
    );
    // Read as they happen, none is spared.
    for value in 0..3 {
        ask(
            &mut bench,
            0,
            &format!(r#"{{"op":"put","key":"a","value":{value}}}"#),
        );
    }
    check(&statistics(&mut bench), &[("events", 5), ("coalesced", 0)]);
    // Five changes of one key become one event, two of another one; one does not concern it.
    bench.set_appetite(1, 0);
    for key in ["a", "a", "a.x", "other", "a", "a.x", "a", "a"] {
        ask(
            &mut bench,
            0,
            &format!(r#"{{"op":"put","key":"{key}","value":1}}"#),
        );
    }
    check(&statistics(&mut bench), &[("events", 5), ("coalesced", 0)]);
    bench.set_appetite(1, usize::MAX);
    bench.settle(usize::MAX);
    assert_eq!(lines(&mut bench, 1).len(), 3 + 2);
    check(&statistics(&mut bench), &[("events", 7), ("coalesced", 5)]);
    // The entries of a resumption are no changes that it was spared.
    exchange(
        &mut bench,
        1,
        r#"{"id":2,"op":"subscribe","key":"a","since":1,"epoch":"e1"}"#,
    );
    check(
        &statistics(&mut bench),
        &[("events", 10), ("coalesced", 5), ("subscriptions", 2)],
    );
    bench.disconnect(1);
    check(&statistics(&mut bench), &[("subscriptions", 0)]);
}
