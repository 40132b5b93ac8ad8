//! The conformance vectors, held against this project's broker and daemon.
//!
//! The stories beside this file are what a client or a daemon in any language is tested with;
//! `README.md` tells their format. They are played here to a broker in memory and to the daemon
//! over a Unix socket and over TCP, with whole lines and with one byte at a time, and once more by the
//! runner `run`, which is there for others. So what a story says is so. `guide` runs the client of
//! `docs/writing-a-client.md`.

#![cfg(feature = "daemon")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that can't go on has failed"
)]

#[path = "../support/daemon.rs"]
mod daemon;
#[path = "../support/document.rs"]
mod document;
mod guide;
mod memory;
mod player;
mod runner;
mod sockets;
mod story;
#[path = "../support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};

use memory::Memory;
use player::play;
use sockets::{Sockets, Way};
use story::{Names, Story};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

fn stories() -> Vec<Story> {
    let files = std::fs::read_dir(folder()).unwrap();
    let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|kind| kind == "jsonl"));
    paths.sort_unstable();
    assert!(paths.len() > 3, "the stories were found");
    paths.iter().map(|path| Story::read(path)).collect()
}

#[test]
fn stories_hold_in_memory() {
    for story in stories() {
        for piece in [usize::MAX, 1] {
            if let Err(failure) = play(&story, &mut Memory::new(&story, piece)) {
                panic!("in pieces of {piece} bytes: {failure}");
            }
        }
    }
}

/// A client library's tests leave out what no library sends.
#[test]
fn stories_hold_without_their_raw_steps() {
    let mut left_out = 0;
    for mut story in stories() {
        left_out += story.raw.len();
        let raw = std::mem::take(&mut story.raw);
        story.steps.retain(|(number, _)| !raw.contains(number));
        if let Err(failure) = play(&story, &mut Memory::new(&story, usize::MAX)) {
            panic!("{failure}");
        }
    }
    assert!(left_out > 100);
}

#[test]
fn stories_hold_over_a_unix_socket() {
    play_over(Way::Unix, "tcp");
}

#[test]
fn stories_hold_over_tcp() {
    play_over(Way::Tcp, "unix");
}

/// Plays the stories that don't need another way.
fn play_over(way: Way, other: &str) {
    for story in stories() {
        if story.needs(other) {
            continue;
        }
        for piece in [usize::MAX, 1] {
            if let Err(failure) = play(&story, &mut Sockets::new(&story, way, piece)) {
                panic!("{way:?}, in pieces of {piece} bytes: {failure}");
            }
        }
    }
}

/// Every op of the protocol and every error that needs no rules and no broken storage is in some story.
#[test]
fn the_stories_leave_nothing_out() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let protocol = std::fs::read_to_string(root.join("docs/protocol.md")).unwrap();
    let mut told = String::new();
    for story in stories() {
        told += &std::fs::read_to_string(folder().join(story.name + ".jsonl")).unwrap();
    }
    let (_, errors) = protocol.split_once("\n## Errors\n").unwrap();
    let (errors, _) = errors.split_once("\n## ").unwrap();
    let codes = errors.lines().filter_map(|line| {
        let (code, _) = line.strip_prefix("| `")?.split_once('`')?;
        Some(code)
    });
    let codes: Vec<&str> = codes
        .filter(|code| !["read_only", "internal"].contains(code))
        .collect();
    assert!(codes.len() > 5, "{codes:?}");
    for code in codes {
        let is_told = told.contains(&format!("\"error\":\"{code}\""));
        assert!(is_told, "no story has the error {code}");
    }
    let (_, operations) = protocol.split_once("\n## Operations\n").unwrap();
    let (operations, _) = operations.split_once("\n## ").unwrap();
    let ops = operations
        .lines()
        .filter_map(|line| line.strip_prefix("### "));
    let ops: Vec<&str> = ops
        .flat_map(|heading| heading.split(" and "))
        .filter_map(|heading| heading.split(' ').next())
        .collect();
    assert!(ops.len() > 8, "{ops:?}");
    for op in ops {
        let is_told = told.contains(&format!("\"op\":\"{op}\""));
        assert!(is_told, "no story has the op {op}");
    }
}

/// A story that says something else than what happens fails, wherever it is played.
#[test]
fn a_wrong_story_fails() {
    let check = |steps: &str, failure: &str| {
        let text = format!("{{\"about\":\"a fault\"}}\n{{\"open\":\"a\"}}\n{steps}");
        let story = Story::parse("wrong", &text).unwrap();
        let found = play(&story, &mut Memory::new(&story, usize::MAX)).expect_err(steps);
        assert!(found.contains(failure), "{steps}: {found}");
        let found = play(&story, &mut Sockets::new(&story, Way::Unix, 1)).expect_err(steps);
        assert!(found.contains(failure), "{steps}: {found}");
    };
    let ping = r#"{"in":"a","line":{"id":"$id1","op":"ping"}}"#;
    let out = |line: &str| format!("{ping}\n{{\"out\":\"a\",\"line\":{line}}}");
    check(ping, "at the end: a received");
    check(&out(r#"{"id":"$id1","ok":false}"#), "line 4: a received");
    check(&out(r#"{"id":"$id1","ok":true,"rev":1}"#), "rev is missing");
    check(&out(r#"{"ok":true}"#), "id is not expected");
    check(&out(r#"{"id":"$id2","ok":true}"#), "$id2 has not been sent");
    check(&out(r#"{"id":2,"ok":true}"#), "id: expected 2, found 1");
    check(r#"{"close":"b"}"#, "b is not open");
    check(r#"{"in":"a","line":{"op":"$what"}}"#, "$what is not known");
    check(r#"{"in":"b","text":""}"#, "line 3: b is not open");
}

#[test]
fn what_is_no_story_is_not_played() {
    let check = |text: &str, failure: &str| {
        let found = Story::parse("wrong", text).err().expect(text);
        assert!(found.contains(failure), "{text}: {found}");
    };
    let about = r#"{"about":"x"}"#;
    check("", "nothing is in it");
    check("{}", "what the story is about");
    check(r#"{"about":"x","needs":["luck"]}"#, "the need luck");
    check(&format!("{about}\nnonsense"), "line 2");
    check(&format!("{about}\n{{}}"), "it is no step");
    check(&format!("{about}\n{{\"opne\":\"a\"}}"), "opne");
    check(&format!("{about}\n{{\"in\":\"a\"}}"), "a line, a text or");
    check(&format!("{about}\n{{\"out\":\"a\"}}"), "no expected line");
}

/// What a line may differ in, and what not.
#[test]
fn lines_are_compared_as_told() {
    let check = |expected: &str, line: &str, matches: bool| {
        let mut names = Names::default();
        let sent = names.fill(r#"{"id":"$id1","also":"$id1"}"#).unwrap();
        assert_eq!(sent, r#"{"id":1,"also":1}"#);
        names.compare("\"$r5\"", "50").unwrap();
        names.compare("\"$epoch\"", "\"e\"").unwrap();
        let found = names.compare(expected, line);
        assert_eq!(found.is_ok(), matches, "{expected} {line}: {found:?}");
    };
    check(r#"{"a":1,"b":[]}"#, r#"{"b":[],"a":1}"#, true);
    check(r#"{"a":1}"#, r#"{"a": 1}"#, true);
    check(r#"{"a":1}"#, r#"{"a":1.0}"#, false);
    check(r#"{"a":1}"#, r#"{"a":1,"b":2}"#, false);
    check(r#"{"a":1}"#, r#"{"a":1,"a":1}"#, false);
    check(r#"{"a":1,"...":"..."}"#, r#"{"a":1,"b":2}"#, true);
    check(r#"{"a":1,"...":"..."}"#, r#"{"b":2}"#, false);
    check(r#"{"a":"é"}"#, r#"{"a":"\u00e9"}"#, true);
    check(r#"{"id":"é"}"#, r#"{"id":"\u00e9"}"#, false);
    check(r#"{"value":"é"}"#, r#"{"value":"\u00e9"}"#, false);
    check(r#"{"value":[1]}"#, r#"{"value":[ 1]}"#, false);
    check(
        r#"{"value":{"a":1,"b":2}}"#,
        r#"{"value":{"b":2,"a":1}}"#,
        false,
    );
    check(r#"[{"value":1}]"#, r#"[{"value":1.0}]"#, false);
    check(r#"{"a":true}"#, r#"{"a":"true"}"#, false);
    check(r#"{"a":null}"#, r#"{}"#, false);
    check(r#"[1,2]"#, r#"[1]"#, false);
    check(r#"{"id":"$id1"}"#, r#"{"id":1}"#, true);
    check(r#"{"id":"$id1"}"#, r#"{"id":"1"}"#, false);
    check(r#"["$r5","$r6"]"#, "[50,51]", true);
    check(r#"["$r5","$r6"]"#, "[51,51]", false);
    check(r#"["$r5","$r6"]"#, "[50,50]", false);
    check(r#"["$r5","$r4"]"#, "[50,51]", false);
    check(r#"["$r5","$r10"]"#, "[50,51]", true);
    check(r#"["$r6"]"#, r#"["x"]"#, false);
    check(r#"["$r6"]"#, "[-1]", false);
    check(r#"["$n","$n"]"#, "[7,7]", true);
    check(r#"["$n","$n"]"#, "[7,8]", false);
    check(r#"["$n"]"#, r#"["7"]"#, false);
    check(r#"["$epoch"]"#, r#"["e"]"#, true);
    check(r#"["$epoch"]"#, r#"["f"]"#, false);
    check(r#"["$other"]"#, "[1]", false);
    check(r#"["$_","$_"]"#, r#"["x","y"]"#, true);
    check(r#"["$_"]"#, "[1]", false);
    check(r#"["$$_"]"#, r#"["$_"]"#, true);
    check(r#"["$$_"]"#, r#"["$x"]"#, false);
    check(r#"["$$_"]"#, r#"["$$_"]"#, false);
}
