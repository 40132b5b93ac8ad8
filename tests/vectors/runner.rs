//! The runner for others: `run`, which is Python.

use std::process::{Command, Output};

use crate::daemon::{Daemon, Plan, has_program, skip};

/// None where there is no Python.
fn run(address: &str, arguments: &[&str]) -> Option<Output> {
    if !has_program("python3") {
        skip("there is no python3");
        return None;
    }
    let mut command = Command::new("python3");
    command.arg(crate::folder().join("run")).arg(address);
    Some(command.args(arguments).output().unwrap())
}

fn daemon() -> Daemon {
    Plan::new().with(&["127.0.0.1:0"]).start()
}

#[test]
fn the_runner_finds_that_stories_hold() {
    let daemon = daemon();
    let addresses = [
        daemon.socket().to_str().unwrap().to_owned(),
        daemon.tcp_address("127.0.0.1:"),
    ];
    for address in addresses {
        let Some(output) = run(&address, &[]) else {
            return;
        };
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{address}:\n{text}");
        for story in crate::stories() {
            let is_told = text.lines().any(|line| {
                line.strip_prefix(&story.name).is_some_and(|rest| {
                    let has_needs = !story.needs.is_empty() || !story.limits.is_empty();
                    rest == ": holds" || has_needs && rest.starts_with(": left out, it needs ")
                })
            });
            assert!(is_told, "{}:\n{text}", story.name);
        }
    }
}

#[test]
fn the_runner_finds_what_does_not_hold() {
    let daemon = daemon();
    let address = daemon.socket().to_str().unwrap().to_owned();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("wrong.jsonl");
    let check = |steps: &str, failure: &str| {
        let text = format!("{{\"about\":\"a fault\"}}\n{{\"open\":\"a\"}}\n{steps}\n");
        std::fs::write(&path, text).unwrap();
        let Some(output) = run(&address, &[path.to_str().unwrap()]) else {
            return;
        };
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{steps}: {text}");
        assert!(text.contains(failure), "{steps}: {text}");
    };
    let ask = r#"{"in":"a","line":{"id":"$id1","op":"put","key":"a","value":1.0}}"#;
    let out = |line: &str| format!("{ask}\n{{\"out\":\"a\",\"line\":{line}}}");
    check(ask, "at the end: a received");
    check(
        &out(r#"{"id":"$id1","ok":false,"rev":"$r1"}"#),
        "line 4: a received",
    );
    check(&out(r#"{"id":"$id1","ok":true}"#), "rev is not expected");
    check(
        &out(r#"{"id":"$id1","ok":true,"rev":"$_"}"#),
        "does not fit $_",
    );
    check(
        &out(r#"{"id":"$id2","ok":true,"rev":"$r1"}"#),
        "$id2 has not been sent",
    );
    check(r#"{"out":"b","line":{}}"#, "line 3: b is not open");
    check(r#"{"opne":"b"}"#, "line 3: it is no step");
    let get = r#"{"in":"a","line":{"id":"$id3","op":"get","key":"a"}}"#;
    let put = out(r#"{"id":"$id1","ok":true,"rev":"$r1"}"#);
    let got = |line: &str| format!("{put}\n{get}\n{{\"out\":\"a\",\"line\":{line}}}");
    check(
        &got(r#"{"id":"$id3","ok":true,"key":"a","value":1,"rev":"$r1"}"#),
        "value: expected 1, found 1.0",
    );
    check(
        &got(r#"{"id":"$id3","ok":true,"key":"a","value":1.0,"rev":"$r2"}"#),
        "does not fit $r2",
    );
}

#[test]
fn the_runner_leaves_a_keyspace_alone_that_is_not_empty() {
    let daemon = daemon();
    let mut client = daemon.connect();
    client.do_it(r#"{"op":"put","key":"precious","value":1}"#);
    let address = daemon.socket().to_str().unwrap().to_owned();
    let Some(output) = run(&address, &[]) else {
        return;
    };
    assert_eq!(output.status.code(), Some(2));
    client.do_it(r#"{"op":"get","key":"precious"}"#);
}
