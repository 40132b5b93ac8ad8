//! Bad input. Whatever a client sends, each line gets exactly one answer, the next request on the
//! same connection works, and nothing panics.

use nkv::wire::{Incoming, Limits};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::allocation;
use crate::constructed::{ask, limits, lines, pair};
use crate::support::{Bench, unix_peer};

/// One valid request of each kind, with every field that it can have.
const REQUESTS: [&str; 14] = [
    r#"{"id":1,"op":"hello","client":"c","token":"t"}"#,
    r#"{"id":"x","op":"put","key":"a.b","value":{"n":[1.50,null]},"if_rev":0,"if_changed":true,"lifetime":"boot","ttl_ms":60000}"#,
    r#"{"id":2,"op":"put","key":"a","base64":"AAEC"}"#,
    r#"{"id":3,"op":"get","key":"a"}"#,
    r#"{"id":4,"op":"get","key":"a.*","limit":2,"after":"a","keys_only":true}"#,
    r#"{"id":5,"op":"delete","key":"a.b","if_rev":0}"#,
    r#"{"id":6,"op":"delete","key":"a.*"}"#,
    r#"{"id":"s","op":"subscribe","key":"a.*.c","exact":true,"initial":false,"cuts":true,"since":0,"epoch":"e1"}"#,
    r#"{"id":7,"op":"unsubscribe","sub":"s"}"#,
    r#"{"id":8,"op":"batch","ops":[{"op":"put","key":"a","value":1,"if_rev":0},{"op":"delete","key":"b"},{"op":"check","key":"c","if_rev":0}]}"#,
    r#"{"id":9,"op":"stats"}"#,
    r#"{"id":10,"op":"clients"}"#,
    r#"{"id":11,"op":"ping"}"#,
    " {\t\"id\" : -1 , \"op\":\"\\u0070ing\" } ",
];

/// Bytes that mean something to JSON, to keys, to UTF-8 or to lines.
const INTERESTING: &[u8] = b"\0\x01\t\n\r \x1b\"\\/*.$%+-0129eE{}[]:,x\x7f\x80\xc0\xe2\xf4\xff";

struct Victim {
    bench: Bench,
}

impl Victim {
    fn new() -> Victim {
        let bench = pair(Limits::default());
        Victim { bench }
    }

    /// Sends bytes and a line end, and gives the answers, one for each line that is not empty.
    fn answers(&mut self, bytes: &[u8]) -> Vec<String> {
        self.bench.send(0, bytes);
        self.bench.send(0, b"\n{\"id\":\"next\",\"op\":\"ping\"}\n");
        self.bench.settle(usize::MAX);
        let received = lines(&mut self.bench, 0);
        let (events, mut answers): (Vec<String>, Vec<String>) = received
            .into_iter()
            .partition(|line| line.starts_with("{\"sub\":"));
        let what = || String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
        for line in events.iter().chain(&answers) {
            let is_json = serde_json::from_str::<&RawValue>(line).is_ok();
            assert!(
                is_json && Incoming::parse(line).is_ok(),
                "{}: {line}",
                what()
            );
            assert!(
                line.len() < 2000,
                "{}: an answer of {} bytes",
                what(),
                line.len()
            );
        }
        let next = answers.pop();
        assert_eq!(
            next.as_deref(),
            Some(r#"{"id":"next","ok":true}"#),
            "after {}",
            what()
        );
        let is_line = |line: &&[u8]| !line.strip_suffix(b"\r").unwrap_or(line).is_empty();
        let expected = bytes.split(|&byte| byte == b'\n').filter(is_line).count();
        assert_eq!(answers.len(), expected, "{}: {answers:?}", what());
        answers
    }

    /// Sends one line that is to be refused with this code.
    fn refused(&mut self, line: impl AsRef<[u8]>, code: &str) {
        let line = line.as_ref();
        let what = String::from_utf8_lossy(&line[..line.len().min(300)]);
        let before = self.bench.broker.keyspace().rev();
        let answers = self.answers(line);
        let answer: Value = serde_json::from_str(&answers[0]).unwrap();
        assert_eq!(answer["ok"], false, "{what}: {answer}");
        assert_eq!(answer["error"], code, "{what}: {answer}");
        let message = answer["message"].as_str().unwrap();
        assert!(
            !message.is_empty() && message.len() < 600,
            "{what}: {message}"
        );
        assert_eq!(
            self.bench.broker.keyspace().rev(),
            before,
            "{what} has changed something"
        );
    }

    fn bad_request(&mut self, line: impl AsRef<[u8]>) {
        self.refused(line, "bad_request");
    }
}

#[test]
fn valid_requests_are_valid() {
    for request in REQUESTS {
        let answers = Victim::new().answers(request.as_bytes());
        let is_right = answers[0].contains(r#""ok":true"#) || answers[0].contains("not_found");
        assert!(is_right, "{request}: {answers:?}");
    }
}

#[test]
fn every_beginning_of_a_request() {
    for request in REQUESTS {
        let mut victim = Victim::new();
        let whole = request.trim_end().len();
        for length in 1..whole {
            victim.bad_request(&request[..length]);
        }
        // And as the last thing that is ever sent.
        for length in 1..whole {
            let client = victim.bench.connect(unix_peer()).unwrap();
            victim.bench.send(client, &request.as_bytes()[..length]);
            victim.bench.end(client);
            victim.bench.settle(usize::MAX);
            let received = lines(&mut victim.bench, client);
            assert_eq!(received.len(), 1, "{}", &request[..length]);
            assert!(received[0].contains("bad_request"), "{received:?}");
            assert!(victim.bench.is_drained(client));
            victim.bench.disconnect(client);
        }
    }
}

#[test]
fn every_end_of_a_request() {
    for request in REQUESTS {
        let mut victim = Victim::new();
        for start in 1..request.trim_start().len() {
            let rest = &request.trim_start()[start..];
            // An end may be an object of its own, an op of the batch; no such has all that it needs.
            victim.answers(rest.as_bytes());
        }
    }
}

#[test]
fn every_byte_replaced_left_out_and_doubled() {
    for request in REQUESTS {
        let mut victim = Victim::new();
        for position in 0..request.len() {
            let mut bytes = request.as_bytes().to_vec();
            for &byte in INTERESTING {
                bytes[position] = byte;
                victim.answers(&bytes);
            }
            bytes.remove(position);
            victim.answers(&bytes);
            let byte = request.as_bytes()[position];
            bytes.splice(position..position, [byte, byte]);
            victim.answers(&bytes);
        }
    }
}

#[test]
fn brackets_and_depth() {
    let mut victim = Victim::new();
    for text in ["[", "{", "{\"a\":", "[{\"a\":"] {
        let deep = text.repeat(100_000);
        victim.bad_request(&deep);
        victim.bad_request(format!(r#"{{"id":1,"op":"put","key":"a","value":{deep}"#));
        victim.bad_request(format!(r#"{{"id":{deep}"#));
        victim.bad_request(format!(r#"{{"op":"batch","ops":[{deep}"#));
    }
    let balanced = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for field in ["id", "op", "key", "value", "ops", "sub", "limit", "unknown"] {
        victim.bad_request(format!(r#"{{"op":"put","key":"a","{field}":{balanced}}}"#));
    }
    victim.bad_request("]".repeat(100_000));
    victim.bad_request("\"".repeat(100_001));
    victim.bad_request("\\".repeat(100_000));
    victim.bad_request(format!("{{\"op\":\"{}\"}}", "\\u0000".repeat(100_000)));
    victim.bad_request(format!("{{\"op\":\"{}\"}}", "ö".repeat(100_000)));
    victim.bad_request(format!("{{\"{}\":1}}", "\u{1f600}".repeat(50_000)));
}

#[test]
fn bytes_that_are_not_utf8() {
    let mut victim = Victim::new();
    for bytes in [
        &b"\xff"[..],
        b"\x80",
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xe2\x82",
        b"\xf8\x88\x80\x80\x80",
        b"\xfe\xff\0{",
    ] {
        victim.bad_request(bytes);
        for (before, after) in [
            ("{\"op\":\"ping\",\"id\":\"", "\"}"),
            ("{\"op\":\"put\",\"key\":\"", "\",\"value\":1}"),
            ("{\"op\":\"put\",\"key\":\"a\",\"value\":\"", "\"}"),
            ("{\"op\":\"ping", "\"}"),
            ("{\"op\":\"ping\"}", ""),
        ] {
            victim.bad_request([before.as_bytes(), bytes, after.as_bytes()].concat());
        }
    }
}

/// Each field of each op with a value of every other type.
#[test]
fn wrong_types() {
    const VALUES: [&str; 20] = [
        "null",
        "true",
        "false",
        "0",
        "1",
        "-1",
        "1.0",
        "1e3",
        "1E400",
        "-0",
        "18446744073709551616",
        "\"\"",
        "\"a\"",
        "\"1\"",
        "\"true\"",
        "[]",
        "[1]",
        "{}",
        "{\"boot\":null}",
        "[[\"op\",\"put\"]]",
    ];
    let fields: [(&str, &str, &[&str]); 17] = [
        (
            "put",
            r#""value":1,"key""#,
            &["\"a\"", "\"1\"", "\"true\"", "\"\""],
        ),
        ("put", r#""key":"a","base64""#, &["\"\"", "\"true\""]),
        ("put", r#""key":"a","value":1,"if_rev""#, &["0", "1"]),
        (
            "put",
            r#""key":"a","value":1,"if_changed""#,
            &["true", "false"],
        ),
        ("put", r#""key":"a","value":1,"lifetime""#, &[]),
        ("put", r#""key":"a","value":1,"ttl_ms""#, &["1"]),
        ("get", r#""key":"*","limit""#, &["1"]),
        (
            "get",
            r#""key":"*","after""#,
            &["\"a\"", "\"1\"", "\"true\"", "\"\""],
        ),
        ("get", r#""key":"*","keys_only""#, &["true", "false"]),
        (
            "subscribe",
            r#""id":1,"key":"a","exact""#,
            &["true", "false"],
        ),
        (
            "subscribe",
            r#""id":2,"key":"a","initial""#,
            &["true", "false"],
        ),
        (
            "subscribe",
            r#""id":3,"key":"a","cuts""#,
            &["true", "false"],
        ),
        (
            "subscribe",
            r#""id":4,"key":"a","epoch":"e1","since""#,
            &["0", "1"],
        ),
        (
            "subscribe",
            r#""id":5,"key":"a","since":0,"epoch""#,
            &["\"\"", "\"a\"", "\"1\"", "\"true\""],
        ),
        (
            "unsubscribe",
            r#""sub""#,
            &[
                "0",
                "1",
                "-1",
                "-0",
                "18446744073709551616",
                "\"\"",
                "\"a\"",
                "\"1\"",
                "\"true\"",
            ],
        ),
        ("batch", r#""ops""#, &["[]"]),
        (
            "hello",
            r#""client""#,
            &["\"\"", "\"a\"", "\"1\"", "\"true\""],
        ),
    ];
    for (op, field, right) in fields {
        for value in VALUES {
            let mut victim = Victim::new();
            let line = format!(r#"{{"op":"{op}",{field}:{value}}}"#);
            if right.contains(&value) {
                let answer = victim.answers(line.as_bytes()).remove(0);
                assert!(!answer.contains("bad_request"), "{line}: {answer}");
            } else {
                victim.bad_request(&line);
            }
        }
    }
}

/// The same within a batch.
#[test]
fn wrong_ops_of_a_batch() {
    let mut victim = Victim::new();
    for op in [
        "null",
        "1",
        "\"put\"",
        "[]",
        "{}",
        "[\"put\",\"a\",1]",
        "[\"delete\",\"a\"]",
        "[[]]",
        "{\"op\":\"put\"}",
        "{\"key\":\"a\"}",
        "{\"op\":1,\"key\":\"a\"}",
        "{\"op\":\"put\",\"key\":1,\"value\":1}",
        "{\"op\":\"put\",\"key\":\"a\",\"value\":1,\"lifetime\":{\"boot\":null}}",
        "{\"op\":\"put\",\"key\":\"a\",\"value\":1,\"if_rev\":null}",
        "{\"op\":\"put\",\"key\":\"a\",\"value\":1,\"if_rev\":1.0}",
        "{\"op\":\"put\",\"key\":\"a\",\"value\":1,\"value\":2}",
        "{\"op\":\"put\",\"key\":\"a\",\"value\":1,\"exact\":true}",
        "{\"op\":\"delete\",\"key\":\"a\",\"lifetime\":\"boot\"}",
        "{\"op\":\"delete\",\"key\":\"a\",\"ttl_ms\":1}",
        "{\"op\":\"delete\",\"key\":\"a\",\"base64\":\"\"}",
        "{\"op\":\"delete\",\"key\":\"a\",\"if_changed\":false}",
        "{\"op\":\"check\",\"key\":\"a\",\"if_rev\":0,\"value\":null}",
        "{\"op\":\"check\",\"key\":\"a\"}",
        "{\"op\":\"hello\",\"key\":\"a\"}",
        "{\"op\":\"subscribe\",\"key\":\"a\"}",
    ] {
        victim.bad_request(format!(r#"{{"op":"batch","ops":[{op}]}}"#));
        victim.bad_request(format!(
            r#"{{"op":"batch","ops":[{{"op":"put","key":"x","value":1}},{op}]}}"#
        ));
    }
    let ops = vec!["{\"op\":\"check\",\"key\":\"a\",\"if_rev\":0}"; 20_000].join(",");
    let answers = victim.answers(format!(r#"{{"op":"batch","ops":[{ops}]}}"#).as_bytes());
    assert_eq!(answers, [r#"{"ok":true,"rev":0}"#], "many ops are no fault");
}

#[test]
fn fields_that_stand_twice_or_are_unknown() {
    for request in REQUESTS {
        let mut victim = Victim::new();
        let object: Vec<(String, Box<RawValue>)> = fields(request);
        for (name, value) in &object {
            let rest = request.trim_end().strip_suffix('}').unwrap();
            victim.bad_request(format!("{rest},\"{name}\":{value}}}"));
            victim.bad_request(format!("{rest},\"{name}_\":{value}}}"));
            victim.bad_request(format!("{rest},\"{}\":{value}}}", name.to_uppercase()));
            victim.bad_request(format!(
                "{rest},\"\\u{:04x}{}\":{value}}}",
                name.as_bytes()[0],
                &name[1..]
            ));
        }
        for name in [
            "",
            " ",
            "op ",
            "\\u0000",
            "$serde_json::private::RawValue",
            "__proto__",
        ] {
            let rest = request.trim_end().strip_suffix('}').unwrap();
            victim.bad_request(format!("{rest},\"{name}\":1}}"));
        }
    }
}

/// The fields of an object, as they are written.
fn fields(object: &str) -> Vec<(String, Box<RawValue>)> {
    let object: std::collections::BTreeMap<String, Box<RawValue>> =
        serde_json::from_str(object).unwrap();
    object.into_iter().collect()
}

#[test]
fn hostile_keys() {
    let long = "k".repeat(513);
    let dotted = "a.".repeat(256);
    let longest = format!("{}a", "a.".repeat(255));
    let mut keys: Vec<(String, &str)> = Vec::new();
    for control in (0..0x20).chain(0x7f..0xa1) {
        keys.push((format!("a\\u{control:04x}b"), "bad_key"));
    }
    for space in [
        "\\u1680", "\\u2003", "\\u2028", "\\u2029", "\\u202f", "\\u205f", "\\u3000", " ", "\\t",
    ] {
        keys.push((format!("a.{space}"), "bad_key"));
        keys.push((format!("{space}a"), "bad_key"));
    }
    for text in [
        "", ".", "..", "...", ".a", "a.", "a..b", "a...b", "*a", "a*", "a.b*.c", "**", "$a", "$",
        "$.a", "$*", "a.**",
    ] {
        keys.push((text.into(), "bad_key"));
    }
    keys.push((long, "too_large"));
    keys.push((dotted.clone(), "bad_key"));
    keys.push((format!("{dotted}a"), "too_large"));
    keys.push(("ö".repeat(257), "too_large"));
    for lone in [
        "\\ud800",
        "\\udc00",
        "\\ud800\\ud800",
        "\\ud83d\\u0041",
        "\\ud83dx",
        "\\uD8",
    ] {
        keys.push((format!("a{lone}"), "bad_request"));
    }
    let mut victim = Victim::new();
    for (key, code) in &keys {
        victim.refused(format!(r#"{{"op":"put","key":"{key}","value":1}}"#), code);
        victim.refused(format!(r#"{{"op":"delete","key":"{key}"}}"#), code);
        let batch = format!(r#"{{"op":"batch","ops":[{{"op":"put","key":"{key}","value":1}}]}}"#);
        victim.refused(batch, code);
        if !key.starts_with('$') || key.contains('*') {
            victim.refused(format!(r#"{{"op":"get","key":"{key}"}}"#), code);
            victim.refused(format!(r#"{{"op":"get","key":"*","after":"{key}"}}"#), code);
            victim.refused(
                format!(r#"{{"op":"subscribe","id":1,"key":"{key}"}}"#),
                code,
            );
        }
    }
    // As long as can be, with as many segments as can be, and with every star that fits.
    victim.bench.settle(usize::MAX);
    let stars = format!("{}*", "*.".repeat(255));
    let answers = victim.answers(
        format!(
            "{{\"id\":1,\"op\":\"subscribe\",\"key\":\"{stars}\",\"exact\":true}}\n{{\"op\":\"put\",\"key\":\"{longest}\",\"value\":1}}\n{{\"op\":\"delete\",\"key\":\"{stars}\"}}"
        )
        .as_bytes(),
    );
    assert!(
        answers.iter().all(|answer| answer.contains(r#""ok":true"#)),
        "{answers:?}"
    );
}

#[test]
fn odd_numbers() {
    let mut victim = Victim::new();
    for number in [
        "18446744073709551616",
        "99999999999999999999999999",
        "-1",
        "-9223372036854775809",
        "0.0",
        "1.5",
        "1e0",
        "1E+2",
        "1e999",
        "-1e-999",
        "-0",
        "01",
        "+1",
        "0x1",
        "1_000",
        ".5",
        "1.",
        "NaN",
        "Infinity",
        "--1",
        "1 2",
        "٣",
    ] {
        victim.bad_request(format!(
            r#"{{"op":"put","key":"a","value":1,"if_rev":{number}}}"#
        ));
        victim.bad_request(format!(
            r#"{{"op":"put","key":"a","value":1,"ttl_ms":{number}}}"#
        ));
        victim.bad_request(format!(r#"{{"op":"get","key":"*","limit":{number}}}"#));
        victim.bad_request(format!(
            r#"{{"id":1,"op":"subscribe","key":"a","epoch":"e1","since":{number}}}"#
        ));
        victim.bad_request(format!(
            r#"{{"op":"batch","ops":[{{"op":"check","key":"a","if_rev":{number}}}]}}"#
        ));
    }
    for digits in [64, 65, 10_000] {
        let number = "7".repeat(digits);
        if digits > 64 {
            victim.bad_request(format!(r#"{{"id":{number},"op":"ping"}}"#));
        } else {
            let answers = victim.answers(format!(r#"{{"id":{number},"op":"ping"}}"#).as_bytes());
            assert_eq!(answers[0], format!(r#"{{"id":{number},"ok":true}}"#));
        }
    }
}

/// A lone surrogate is no text, so it can't be a key, a name or an id. JSON's grammar has it, so a
/// value may hold it.
#[test]
fn lone_surrogates() {
    for lone in ["\\ud800", "\\udfff", "\\ud800\\u0061", "\\udc00\\ud800"] {
        let mut victim = Victim::new();
        victim.bad_request(format!(r#"{{"id":"{lone}","op":"ping"}}"#));
        victim.bad_request(format!(r#"{{"op":"{lone}"}}"#));
        victim.bad_request(format!(r#"{{"op":"hello","client":"{lone}"}}"#));
        victim.bad_request(format!(r#"{{"op":"hello","token":"{lone}"}}"#));
        victim.bad_request(format!(r#"{{"op":"unsubscribe","sub":"{lone}"}}"#));
        victim.bad_request(format!(r#"{{"op":"put","key":"a","base64":"{lone}"}}"#));
        victim.bad_request(format!(
            r#"{{"op":"put","key":"a","value":1,"lifetime":"{lone}"}}"#
        ));
        victim.bad_request(format!(r#"{{"op":"ping","{lone}":1}}"#));
        let put = format!(r#"{{"op":"put","key":"a","value":"{lone}"}}"#);
        assert_eq!(victim.answers(put.as_bytes()), [r#"{"ok":true,"rev":1}"#]);
        let expected = format!(r#"{{"ok":true,"key":"a","value":"{lone}","rev":1}}"#);
        assert_eq!(victim.answers(br#"{"op":"get","key":"a"}"#), [expected]);
    }
}

/// A line of 10 MiB, in pieces: no more of it is ever held than a message may have.
#[test]
fn a_line_without_an_end_is_not_held() {
    for piece in [100, 4096, 64 << 10] {
        let limits = limits(|limits| limits.message = if piece == 100 { 1000 } else { 1 << 20 });
        let longest = usize::try_from(limits.message).unwrap();
        let mut bench = pair(limits);
        let bytes = vec![b'x'; piece];
        let before = allocation::held();
        let (mut most, mut sent) = (0, 0);
        while sent < 10 << 20 {
            bench.send(0, &bytes);
            bench.settle(usize::MAX);
            sent += piece;
            let held = allocation::held().saturating_sub(before);
            most = most.max(held);
            // A buffer that grows by doubling may be twice as large as what is in it.
            assert!(
                held <= 2 * longest + 2 * piece + 4096,
                "{held} bytes held after {sent}"
            );
            if sent > longest + 2 * piece {
                assert!(
                    held <= 2 * piece + 4096,
                    "{held} bytes held while skipping, after {sent}"
                );
            }
        }
        assert!(most >= longest, "it is measured: {most}");
        bench.send(0, b"\n");
        let answer = ask(&mut bench, 0, "");
        assert_eq!(answer["error"], "too_large");
        assert_eq!(ask(&mut bench, 0, r#"{"op":"ping"}"#)["ok"], true);
    }
}

/// Very many empty lines are no requests, and cost nothing.
#[test]
fn empty_lines_without_an_end() {
    let mut victim = Victim::new();
    let before = allocation::held();
    victim.answers(&b"\n".repeat(1 << 20));
    victim.answers(&b"\r\n".repeat(1 << 20));
    assert!(allocation::held() < before + (5 << 20));
    assert_eq!(
        ask(&mut victim.bench, 1, r#"{"op":"stats"}"#)["requests"],
        3
    );
}

/// Many connections that say nothing, half a line, or leave in the middle of one.
#[test]
fn connections_that_leave_in_the_middle() {
    let mut victim = Victim::new();
    for request in REQUESTS {
        for length in 0..=request.len() {
            let client = victim.bench.connect(unix_peer()).unwrap();
            victim.bench.send(client, &request.as_bytes()[..length]);
            victim.bench.turn(7);
            victim.bench.disconnect(client);
            victim.bench.turn(7);
        }
    }
    victim.answers(b"{}");
    assert_eq!(ask(&mut victim.bench, 1, r#"{"op":"stats"}"#)["clients"], 2);
    assert_eq!(
        ask(&mut victim.bench, 1, r#"{"op":"stats"}"#)["subscriptions"],
        0
    );
}
