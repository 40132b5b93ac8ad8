//! Section 6: a turn that storage does not take has not happened, for anyone.

use nkv::keyspace::Class;
use nkv::wire::Limits;
use serde_json::Value;

use crate::constructed::{ask, lines};
use crate::support::{Bench, unix_peer};

const WHOLE: usize = usize::MAX;

/// A bench whose storage can fail, with two writers, 0 and 1, and a subscriber with cuts, 2, who has
/// read everything.
fn keeping() -> Bench {
    let mut bench = Bench::keeping(Limits::default());
    for client in 0..3 {
        assert_eq!(bench.connect(unix_peer()), Ok(client));
    }
    for line in [
        r#"{"op":"put","key":"d.a","value":"old"}"#,
        r#"{"op":"put","key":"d.b","value":"old"}"#,
        r#"{"op":"put","key":"b.a","value":"old","lifetime":"boot"}"#,
        r#"{"op":"put","key":"s.a","value":"old","lifetime":"session"}"#,
    ] {
        assert_eq!(ask(&mut bench, 0, line)["ok"], true);
    }
    bench.send(
        2,
        b"{\"id\":1,\"op\":\"subscribe\",\"key\":\"*\",\"cuts\":true}\n",
    );
    bench.settle(WHOLE);
    assert_eq!(lines(&mut bench, 2).len(), 1 + 4 + 1);
    bench
}

/// What a client receives: each response as its error or its revision, each event as a word.
fn told(bench: &mut Bench, client: usize) -> Vec<String> {
    let lines = lines(bench, client);
    let told = lines.iter().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        match (&line["event"], &line["error"]) {
            (Value::String(event), _) => {
                format!(
                    "{event} {} {}",
                    line["key"].as_str().unwrap_or("-"),
                    line["rev"]
                )
            }
            (_, Value::String(error)) => format!("{}: {error}", line["id"]),
            _ => format!("{}: {} {}", line["id"], line["rev"], line["value"]),
        }
    });
    told.collect()
}

fn send(bench: &mut Bench, client: usize, requests: &[&str]) {
    for request in requests {
        bench.send(client, request.as_bytes());
        bench.send(client, b"\n");
    }
}

const FIRST: [&str; 6] = [
    r#"{"id":1,"op":"put","key":"d.a","value":"new"}"#,
    r#"{"id":2,"op":"get","key":"d.a"}"#,
    r#"{"id":3,"op":"ping"}"#,
    r#"{"id":4,"op":"put","key":"b.a","value":"new","lifetime":"boot"}"#,
    r#"{"id":5,"op":"batch","ops":[{"op":"put","key":"b.b","value":1,"lifetime":"boot"},{"op":"delete","key":"d.b"}]}"#,
    r#"{"id":6,"op":"get","key":"b.b"}"#,
];
const SECOND: [&str; 6] = [
    r#"{"id":1,"op":"delete","key":"d.b"}"#,
    r#"{"id":2,"op":"put","key":"d.a","value":"old","if_changed":true}"#,
    r#"{"id":3,"op":"subscribe","key":"d"}"#,
    r#"{"id":4,"op":"delete","key":"*"}"#,
    r#"{"id":5,"op":"put","key":"s.a","value":1,"lifetime":"session"}"#,
    r#"{"id":6,"op":"get","key":"s.a"}"#,
];

#[test]
fn a_turn_that_is_not_taken_is_carried_out_without_what_is_refused() {
    let mut bench = keeping();
    bench.storage.break_down(Class::Durable);
    send(&mut bench, 0, &FIRST);
    send(&mut bench, 1, &SECOND);
    bench.settle(WHOLE);
    let first = told(&mut bench, 0);
    let rev = bench.broker.keyspace().rev();
    assert!(rev > 6, "revisions are used up: {rev}");
    let expected = [
        "1: read_only".into(),
        "2: 1 \"old\"".into(),
        "3: null null".into(),
        format!("4: {} null", rev - 2),
        "5: read_only".into(),
        "6: not_found".into(),
    ];
    assert_eq!(first, expected);
    let second = told(&mut bench, 1);
    assert_eq!(second[..2], ["1: read_only", "2: 1 null"]);
    assert!(second[2].starts_with("3: "), "{second:?}");
    let expected = [
        "4: read_only".into(),
        format!("5: {rev} null"),
        format!("6: {rev} 1"),
        "put d.a 1".into(),
        "put d.b 2".into(),
        format!("sync - {rev}"),
    ];
    assert_eq!(second[3..], expected);
    let expected = [
        format!("delete b.a {}", rev - 1),
        format!("put s.a {rev}"),
        format!("sync - {rev}"),
    ];
    assert_eq!(told(&mut bench, 2), expected);
}

/// While one place fails the other goes on; once it is mended everything does.
#[test]
fn what_can_be_written_is() {
    for (broken, refused) in [
        (&[Class::Durable][..], [true, false]),
        (&[Class::Boot], [false, true]),
        (&[Class::Durable, Class::Boot], [true, true]),
    ] {
        let mut bench = keeping();
        let check = |bench: &mut Bench, refused: [bool; 2]| {
            let [durable, boot] = refused;
            for (key, fields, refused) in [
                ("d.a", "", durable),
                ("b.a", r#","lifetime":"boot""#, boot),
                ("s.a", r#","lifetime":"session""#, boot),
                ("b.a", "", durable || boot),
            ] {
                let before = ask(bench, 1, &format!(r#"{{"op":"get","key":"{key}"}}"#));
                let put = format!(r#"{{"op":"put","key":"{key}","value":"more"{fields}}}"#);
                let is_refused = ask(bench, 0, &put)["error"] == "read_only";
                assert_eq!(is_refused, refused, "{put} {broken:?}");
                if is_refused {
                    let get = format!(r#"{{"op":"get","key":"{key}"}}"#);
                    assert_eq!(ask(bench, 1, &get), before);
                }
            }
            // A claim is refused in the turn in which storage fails as well as in the ones after it.
            for (op, refused) in [("claim", boot), ("release", false)] {
                let request = format!(r#"{{"op":"{op}","key":"c"}}"#);
                let answer = ask(bench, 0, &request);
                assert_eq!(answer["error"] == "read_only", refused, "{op} {broken:?}");
            }
            let stats = ask(bench, 1, r#"{"op":"stats"}"#);
            assert_eq!(stats["read_only"], u64::from(durable || boot));
        };
        broken
            .iter()
            .for_each(|class| bench.storage.break_down(*class));
        check(&mut bench, refused);
        broken.iter().for_each(|class| bench.storage.mend(*class));
        bench.settle(WHOLE);
        check(&mut bench, [false, false]);
    }
}

/// A list that begins in the failing turn behind a write that found nothing, and takes several turns.
#[test]
fn a_list_over_turns_is_answered() {
    let mut bench = keeping();
    for number in 0..6 {
        let ops: Vec<String> = (0..1000)
            .map(|key| format!(r#"{{"op":"put","key":"k.{number}.{key}","value":1}}"#))
            .collect();
        let batch = format!(r#"{{"op":"batch","ops":[{}]}}"#, ops.join(","));
        assert_eq!(ask(&mut bench, 0, &batch)["ok"], true);
    }
    bench.storage.break_down(Class::Durable);
    let list = r#"{"id":2,"op":"get","key":"*.none"}"#;
    send(
        &mut bench,
        0,
        &[r#"{"id":1,"op":"delete","key":"none"}"#, list],
    );
    send(
        &mut bench,
        1,
        &[r#"{"id":1,"op":"put","key":"d.a","value":1}"#],
    );
    bench.settle(WHOLE);
    assert_eq!(told(&mut bench, 0).len(), 2);
    assert_eq!(told(&mut bench, 1), ["1: read_only"]);
}

/// Whatever the turns are, every request has one answer, in order, and subscribers hold what is there.
#[test]
fn answers_are_in_order_in_pieces_of_any_size() {
    for piece in 1..60 {
        let mut bench = keeping();
        bench.storage.break_down(Class::Durable);
        send(&mut bench, 0, &FIRST);
        send(&mut bench, 1, &SECOND);
        for _ in 0..piece {
            bench.turn(piece);
        }
        if piece % 3 == 0 {
            bench.storage.break_down(Class::Boot);
        }
        bench.settle(piece);
        for client in [0, 1] {
            let told = told(&mut bench, client);
            let answers = told.iter().filter_map(|line| line.split_once(": "));
            let ids: Vec<&str> = answers.map(|(id, _)| id).collect();
            assert_eq!(ids, ["1", "2", "3", "4", "5", "6"], "in pieces of {piece}");
        }
        // An owner that leaves while nothing can be written leaves nothing behind.
        bench.disconnect(1);
        bench.settle(piece);
        let session = ask(&mut bench, 0, r#"{"op":"get","key":"s.a"}"#);
        assert!(session["value"] != 1, "in pieces of {piece}: {session}");
        let mut last = 0;
        for event in told(&mut bench, 2) {
            let rev: u64 = event.rsplit_once(' ').unwrap().1.parse().unwrap();
            assert!(!event.contains(" d."), "{event} is undone");
            assert!(rev >= last, "{event} after {last}");
            last = rev;
        }
    }
}
