//! `record` and `replay`: what a subscriber saw, done again.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::daemon::{Daemon, client};
use crate::{Lines, run};

fn told(daemon: &Daemon, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = client(&daemon.address()).args(arguments).output().unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

/// A recording that is being made.
struct Recording {
    lines: Lines,
    read: Vec<String>,
}

impl Recording {
    /// Begins one, and waits until it has the entries that there are.
    fn of(daemon: &Daemon, options: &[&str]) -> Recording {
        let mut recording = Recording {
            lines: Lines::of(daemon, &[&["record"], options].concat()),
            read: Vec::new(),
        };
        recording.until(r#""event":"sync""#);
        recording
    }

    fn until(&mut self, part: &str) {
        while !self.read.last().is_some_and(|line| line.contains(part)) {
            let mut line = String::new();
            let bytes = std::io::BufRead::read_line(&mut self.lines.stdout, &mut line).unwrap();
            assert!(bytes > 0, "{part} comes in {:?}", self.read);
            self.read.push(line);
        }
    }

    /// Interrupts it and returns all that it wrote.
    fn end(mut self) -> String {
        let id = self.lines.child.id().to_string();
        let killed = Command::new("sh")
            .args(["-c", "kill -INT \"$0\"", &id])
            .status();
        assert!(killed.unwrap().success());
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut self.lines.stdout, &mut rest).unwrap();
        assert_eq!(self.lines.end().0, Some(0));
        self.read.concat() + &rest
    }
}

/// A recording without what differs from time to time.
fn plain(recording: &str) -> Vec<String> {
    let lines = recording.lines().map(|line| {
        let mut line: serde_json::Map<String, Value> = serde_json::from_str(line).unwrap();
        assert!(line.contains_key("ms") || line.contains_key("nkv_recording"));
        for name in ["ms", "epoch", "server", "stats"] {
            line.remove(name);
        }
        Value::Object(line).to_string()
    });
    lines.collect()
}

fn saved(daemon: &Daemon, name: &str, text: &str) -> PathBuf {
    let path = daemon.directory().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn state(daemon: &Daemon) -> String {
    told(daemon, &["get", "*"]).1
}

/// What `replay` is to be told of a file.
fn replay<'a>(file: &'a Path, options: &[&'a str]) -> Vec<&'a str> {
    [&["replay", file.to_str().unwrap()], options].concat()
}

#[test]
fn what_was_recorded_can_be_done_again() {
    let daemon = Daemon::start();
    run(&daemon, &["put", "a", "1.0"]);
    run(&daemon, &["put", "b", "bytes", "--bytes"]);
    let mut recording = Recording::of(&daemon, &[]);
    run(&daemon, &["put", "a", "{\"x\": [null]}"]);
    recording.until("null");
    run(&daemon, &["delete", "b"]);
    run(&daemon, &["put", "c", "null"]);
    recording.until(r#""key":"c""#);
    let text = recording.end();
    assert_eq!(
        plain(&text),
        [
            r#"{"nkv_recording":1,"pattern":"*","values":true}"#,
            r#"{"event":"stats"}"#,
            r#"{"event":"put","key":"a","rev":1,"value":1.0}"#,
            r#"{"base64":"Ynl0ZXM=","event":"put","key":"b","rev":2}"#,
            r#"{"event":"sync","rev":2}"#,
            r#"{"event":"put","key":"a","rev":3,"value":{"x":[null]}}"#,
            r#"{"event":"delete","key":"b","rev":4}"#,
            r#"{"event":"put","key":"c","rev":5,"value":null}"#,
            r#"{"event":"stats"}"#,
        ]
    );
    let times: Vec<u64> = text
        .lines()
        .skip(1)
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["ms"]
                .as_u64()
                .unwrap()
        })
        .collect();
    assert!(times.is_sorted(), "{times:?}");

    let other = Daemon::start();
    let file = saved(&other, "recording", &text);
    // The same changes in the same order are the same revisions.
    let mut again = Recording::of(&other, &[]);
    let (code, said, _) = told(&other, &replay(&file, &["--speed", "1000"]));
    assert_eq!(code, Some(0));
    assert!(said.starts_with("5 replayed in "), "{said}");
    again.until(r#""key":"c""#);
    assert!(again.end().contains(r#""rev":5,"#) || state(&other).contains("c null"));
    assert_eq!(state(&other), state(&daemon));
    let (code, _, stderr) = told(&other, &replay(&file, &[]));
    assert_eq!(
        (code, stderr.as_str()),
        (
            Some(2),
            "nkv-client: the daemon has keys already; --yes replays all the same, on top of them\n"
        )
    );
    let yes = replay(&file, &["--speed", "max", "--yes"]);
    assert_eq!(told(&other, &yes).0, Some(0));
    assert_eq!(state(&other), state(&daemon));
}

#[test]
fn values_can_be_left_out() {
    let daemon = Daemon::start();
    run(&daemon, &["put", "secret.text", "swordfish"]);
    run(&daemon, &["put", "secret.bytes", "swordfish", "--bytes"]);
    run(&daemon, &["put", "secret.object", "{\"swordfish\": 1}"]);
    let recording = Recording::of(&daemon, &["secret", "--no-values"]).end();
    assert!(!recording.contains("swordfish"), "{recording}");
    assert_eq!(
        plain(&recording)[2..5],
        [
            r#"{"event":"put","key":"secret.bytes","kind":"bytes","rev":2,"size":9}"#,
            r#"{"event":"put","key":"secret.object","kind":"object","rev":3,"size":16}"#,
            r#"{"event":"put","key":"secret.text","kind":"string","rev":1,"size":11}"#,
        ]
    );
    let other = Daemon::start();
    let file = saved(&other, "recording", &recording);
    assert_eq!(told(&other, &replay(&file, &[])).0, Some(0));
    assert_eq!(
        state(&other),
        "secret.bytes base64:AAAAAAAAAAAA\nsecret.object {              }\nsecret.text \"xxxxxxxxx\"\n"
    );
}

#[test]
fn a_recording_goes_on_over_a_restart_of_the_daemon() {
    let mut daemon = Daemon::start();
    run(&daemon, &["put", "gone", "1"]);
    run(&daemon, &["put", "stays", "1"]);
    let mut recording = Recording::of(&daemon, &[]);
    daemon.restart();
    recording.until(r#""event":"reset""#);
    recording.until(r#""event":"sync""#);
    run(&daemon, &["put", "stays", "2"]);
    recording.until(r#""key":"stays""#);
    let text = recording.end();
    let plain = plain(&text);
    assert!(plain.contains(&r#"{"event":"note","text":"connected again"}"#.into()));
    let other = Daemon::start();
    let file = saved(&other, "recording", &text);
    assert_eq!(told(&other, &replay(&file, &["--speed", "max"])).0, Some(0));
    assert_eq!(state(&other), "stays 2\n");
}

#[test]
fn a_recording_ends_in_time_and_goes_to_a_file() {
    let daemon = Daemon::start();
    run(&daemon, &["put", "a", "1"]);
    let file = daemon.directory().join("recording");
    let arguments = ["record", "--duration", "10ms", "-o", file.to_str().unwrap()];
    assert_eq!(
        told(&daemon, &arguments),
        (Some(0), "1 recorded\n".into(), String::new())
    );
    let lines = plain(&std::fs::read_to_string(file).unwrap());
    assert_eq!(lines.len(), 5, "{lines:?}");
}

#[test]
fn bad_recordings_are_refused_where_they_are_bad() {
    let header = r#"{"nkv_recording":1,"pattern":"*","server":"","epoch":"","values":true}"#;
    let daemon = Daemon::start();
    let check = |lines: &[&str], code: i32, stderr: &str| {
        let file = saved(&daemon, "recording", &lines.join("\n"));
        let (ended, _, said) = told(&daemon, &replay(&file, &["--yes"]));
        assert_eq!((ended, said.as_str()), (Some(code), stderr), "{lines:?}");
    };
    let put = r#"{"ms":0,"event":"put","key":"a","value":1}"#;
    check(
        &[""],
        2,
        "nkv-client: line 1: no recording: the header is missing\n",
    );
    check(
        &[put],
        2,
        "nkv-client: line 1: no recording: the header is missing\n",
    );
    check(
        &[&header.replace(":1,", ":2,"), put],
        2,
        "nkv-client: line 1: a recording of version 2; this program reads 1\n",
    );
    check(
        &[header, r#"{"ms":0,"event":"put","key":"a"}"#, ""],
        2,
        "nkv-client: line 2: a put needs `value`, `base64`, or `kind` and `size`\n",
    );
    check(
        &[
            header,
            put,
            r#"{"ms":0,"event":"put","key":"a..b","value":1}"#,
            "",
        ],
        2,
        "nkv-client: line 3: a key has no empty segment\n",
    );
    check(
        &[
            header,
            r#"{"ms":0,"event":"put","key":"a","kind":"bytes","size":99999999999}"#,
            "",
        ],
        2,
        "nkv-client: line 2: a value of 99999999999 bytes, more than the daemon takes\n",
    );
    check(
        &[header, r#"{"ms":0,"event":"put","key":"$a","value":1}"#, ""],
        2,
        "nkv-client: line 2: bad_key: keys that begin with '$' belong to the daemon\n",
    );
    check(
        &[header, put, r#"{"ms":0,"event":"put","key":"b","va"#],
        0,
        "nkv-client: line 3 is cut off; all before it is replayed\n",
    );
    // Newer programs may tell more.
    check(&[header, r#"{"ms":0,"event":"new","what":[1]}"#, ""], 0, "");
    assert_eq!(state(&daemon), "a 1\n");
}
