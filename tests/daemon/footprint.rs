//! What slow, greedy and broken clients cost in memory.
//!
//! The measure is the daemon's memory that is no file's, counted by the kernel page by page, and
//! what counts is how it grows: between a point at which everything of its kind has happened once
//! and the end. A daemon that queued anything would grow by megabytes.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Instant;

use serde_json::Value;

use crate::support::{Client, Daemon, Process, scaled, until};

const MEBIBYTE: u64 = 1 << 20;

/// Memory at one moment, to be compared with a later one.
struct Mark {
    process: Process,
    memory: u64,
}

impl Mark {
    fn new(daemon: &Daemon) -> Mark {
        let process = daemon.process();
        Mark {
            process,
            memory: process.memory(),
        }
    }

    /// Fails where memory has grown by a mebibyte.
    fn assert_no_growth(&self, what: &str) {
        let now = self.process.memory();
        let (kib, before) = (now >> 10, self.memory >> 10);
        println!("{what}: {before} KiB before, {kib} KiB now");
        assert!(
            now < self.memory + MEBIBYTE,
            "{what}: {before} KiB became {kib} KiB"
        );
    }
}

/// Puts 1 KiB under so many keys in turn, and waits until all puts are answered.
fn put_many(client: &mut Client, numbers: std::ops::Range<usize>, keys: usize) {
    let padding = "x".repeat(1000);
    let mut writer = client.writer();
    let count = numbers.len();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut lines = Vec::new();
            for number in numbers {
                let key = number % keys;
                writeln!(
                    lines,
                    r#"{{"op":"put","key":"load.{key}","value":"{number} {padding}"}}"#
                )
                .unwrap();
                if lines.len() > 60_000 {
                    writer.write_all(&lines).unwrap();
                    lines.clear();
                }
            }
            writer.write_all(&lines).unwrap();
        });
        for _ in 0..count {
            let line = client.line();
            assert!(line.starts_with(r#"{"ok":true"#), "{line}");
        }
    });
}

/// A put in the middle of it all is heard of by one who listens.
fn assert_is_heard(publisher: &mut Client, subscriber: &mut Client, value: usize) {
    let start = Instant::now();
    publisher.do_it(&format!(r#"{{"op":"put","key":"other","value":{value}}}"#));
    assert_eq!(subscriber.event()["value"], value);
    println!(
        "another subscriber hears of a put after {:?}",
        start.elapsed()
    );
}

#[test]
fn a_subscriber_that_never_reads_costs_nothing() {
    let puts = scaled(1_000_000, 200_000);
    let daemon = Daemon::start(&[]);
    let mut slow = daemon.connect();
    slow.subscribe("load.*");
    let (mut publisher, mut subscriber) = (daemon.connect(), daemon.connect());
    subscriber.subscribe("other");
    let mut flooder = daemon.connect();

    put_many(&mut flooder, 0..puts / 10, 100);
    let warm = Mark::new(&daemon);
    put_many(&mut flooder, puts / 10..puts / 2, 100);
    std::thread::scope(|scope| {
        let (flooder, publisher) = (&mut flooder, &mut publisher);
        scope.spawn(move || put_many(flooder, puts / 2..puts, 100));
        for value in 0..5 {
            assert_is_heard(publisher, &mut subscriber, value);
        }
    });
    warm.assert_no_growth(&format!("{puts} puts behind a slow subscriber"));

    let mut expected = BTreeMap::new();
    for key in 0..100 {
        let key = format!("load.{key}");
        let got = flooder.do_it(&format!(r#"{{"op":"get","key":"{key}"}}"#));
        expected.insert(key, got["value"].clone());
    }
    let mut held: BTreeMap<String, Value> = BTreeMap::new();
    let mut events = 0;
    while held != expected {
        let event = slow.event();
        assert_eq!(event["event"], "put");
        held.insert(
            event["key"].as_str().unwrap().into(),
            event["value"].clone(),
        );
        events += 1;
    }
    println!("the slow subscriber holds the final state after {events} events");
    assert!(events < 500, "{events} events");
    // And that was all.
    publisher.do_it(r#"{"op":"put","key":"load.last","value":1}"#);
    assert_eq!(slow.event()["key"], "load.last");
    println!("coalesced: {}", publisher.counter("coalesced"));
}

/// Being behind costs a position, however many keys it is behind, and however long ago it began.
#[test]
fn a_subscriber_may_be_behind_a_large_keyspace() {
    const KEYS: usize = 10_000;
    let daemon = Daemon::start(&[]);
    let mut client = daemon.connect();
    put_many(&mut client, 0..2 * KEYS, KEYS);
    // Both ways of telling the keyspace: its entries, and what has changed.
    let (mut walking, mut following) = (daemon.connect(), daemon.connect());
    let warm = Mark::new(&daemon);
    walking.send(r#"{"op":"subscribe","id":"s","key":"*"}"#);
    following.do_it(r#"{"op":"subscribe","id":"s","key":"*","initial":false}"#);
    put_many(&mut client, 2 * KEYS..4 * KEYS, KEYS);
    warm.assert_no_growth(&format!("two subscribers behind {KEYS} keys of 1 KiB"));
    drop((walking, following));
    until("they are gone", || client.counter("clients") == 1);
}

/// Requests of 1 KiB and answers of 1 KiB, so that either direction has a hundred megabytes to hold.
#[test]
fn one_who_never_reads_responses_holds_only_the_output_limit() {
    let gets = scaled(100_000, 30_000);
    let daemon = Daemon::start(&[]);
    let mut other = daemon.connect();
    let value = "v".repeat(1000);
    other.do_it(&format!(r#"{{"op":"put","key":"a","value":"{value}"}}"#));
    let padding = " ".repeat(960);
    let lines: String = (0..gets)
        .map(|id| format!("{{\"op\":\"get\",{padding}\"key\":\"a\",\"id\":{id}}}\n"))
        .collect();

    let warm = Mark::new(&daemon);
    let mut greedy = daemon.connect();
    let sent = greedy.send_until_stuck(lines.as_bytes(), || other.ping());
    println!("stuck after {sent} of {} bytes", lines.len());
    warm.assert_no_growth("one who does not read responses");
    assert!(sent < 2 << 20, "{sent} bytes were taken");

    let mut writer = greedy.writer();
    std::thread::scope(|scope| {
        scope.spawn(|| writer.write_all(&lines.as_bytes()[sent..]).unwrap());
        for id in 0..gets {
            let line = greedy.line();
            assert!(
                line.starts_with(&format!(r#"{{"id":{id},"ok":true"#)),
                "{line}"
            );
        }
    });
    warm.assert_no_growth("the same, when it has read them");
}

/// As many clients as there may be, each with an input and an output that are stuck.
#[test]
fn what_a_stuck_client_holds_is_bounded() {
    const CLIENTS: u64 = 50;
    let daemon = Daemon::start(&[]);
    let mut other = daemon.connect();
    let value = "v".repeat(10_000);
    other.do_it(&format!(r#"{{"op":"put","key":"a","value":"{value}"}}"#));
    let lines = "{\"op\":\"get\",\"key\":\"a\"}\n".repeat(20_000);
    let before = daemon.process().memory();
    let mut stuck = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = daemon.connect();
        client.send_until_stuck(lines.as_bytes(), || other.ping());
        stuck.push(client);
    }
    let each = daemon.process().memory().saturating_sub(before) / CLIENTS;
    println!("a stuck client holds {} KiB", each >> 10);
    // The output limit, one response, one read; and as much again for a buffer that grows by doubling.
    assert!(each < 300 << 10, "{each} bytes each");
}

/// Once a line that is just under the limit has been and gone, the allocator may keep what held it.
/// That happens once, whatever comes after.
#[test]
fn lines_that_are_too_long_are_not_kept() {
    let daemon = Daemon::start(&["127.0.0.1:0"]);
    daemon.connect().ping();
    let fresh = daemon.process().memory();
    send_lines_that_are_too_long(&daemon, daemon.connect());
    let warm = Mark::new(&daemon);
    let kept = warm.memory.saturating_sub(fresh);
    println!("after the first of them {} KiB are kept", kept >> 10);
    assert!(kept < 3 * MEBIBYTE);
    for _ in 0..3 {
        send_lines_that_are_too_long(&daemon, daemon.connect());
        send_lines_that_are_too_long(&daemon, daemon.connect_tcp());
        warm.assert_no_growth("lines that are too long");
    }
}

fn send_lines_that_are_too_long(daemon: &Daemon, mut client: Client) {
    let mut other = daemon.connect();
    client.ping();
    let before = Mark::new(daemon);
    let chunk = vec![b'x'; 1 << 20];
    for mebibytes in 1..=20 {
        client.send_bytes(&chunk);
        if mebibytes % 5 == 0 {
            other.ping();
            before.assert_no_growth(&format!("{mebibytes} MiB of one line"));
        }
    }
    client.send_bytes(b"\n");
    assert_eq!(client.response()["error"], "too_large");
    client.ping();
    // The end of input is the end of such a line, too.
    client.send_bytes(&chunk);
    client.send_bytes(b"xx");
    client.end_input();
    assert_eq!(client.response()["error"], "too_large");
    assert_eq!(client.next_line(), None);
}

#[test]
fn garbage_is_refused_and_leaves_nothing() {
    let daemon = Daemon::start(&["127.0.0.1:0"]);
    let mut other = daemon.connect();
    other.ping();
    let fresh = Mark::new(&daemon);
    let brackets = "[".repeat(100_000);
    let braces = r#"{"a":"#.repeat(100_000);
    let nested = format!(r#"{{"op":"put","key":"a","value":{brackets}"#);
    let lines = [
        &*brackets,
        &braces,
        &nested,
        "\u{1}",
        "null",
        "{}",
        "\"",
        "{\"op\":1}",
    ];
    for _ in 0..3 {
        for mut client in [daemon.connect(), daemon.connect_tcp()] {
            for line in lines {
                assert_eq!(client.fail(line), "bad_request");
            }
            client.send_bytes(b"{\"op\":\"ping\xff\"}\n");
            assert_eq!(client.response()["error"], "bad_request");
            client.ping();
        }
    }
    send_noise(&daemon);
    other.ping();
    fresh.assert_no_growth("garbage");
}

/// Several connections that send noise at once, which is refused line by line.
fn send_noise(daemon: &Daemon) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = vec![0; 1 << 20];
    for byte in &mut noise {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = state.to_le_bytes()[0];
    }
    std::thread::scope(|scope| {
        for mut client in [daemon.connect(), daemon.connect(), daemon.connect_tcp()] {
            let mut writer = client.writer();
            let noise = &noise;
            scope.spawn(move || {
                writer.write_all(noise).unwrap();
                writer.shutdown(std::net::Shutdown::Write);
            });
            scope.spawn(move || {
                let lines = client.rest();
                assert!(lines.len() > 1000, "a line of noise is answered");
                for line in lines {
                    assert!(
                        line.starts_with(r#"{"ok":false,"error":"bad_request""#),
                        "{line}"
                    );
                }
            });
        }
    });
}
