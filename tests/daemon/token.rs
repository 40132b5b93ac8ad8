//! Who may come in over TCP, and what those cost who may not.

use std::path::PathBuf;
use std::time::Instant;

use crate::support::{Client, Daemon, Plan, until};

/// A daemon whose token is `first`, and the file in which that stands.
fn with_token() -> (Daemon, PathBuf) {
    let plan = Plan::new();
    let file = plan.directory().join("token");
    std::fs::write(&file, "first\n").unwrap();
    let words = ["--token-file", file.to_str().unwrap(), "127.0.0.1:0"];
    (plan.with(&words).start(), file)
}

fn hello(token: &str) -> String {
    format!(r#"{{"op":"hello","token":"{token}"}}"#)
}

const PUT: &str = r#"{"op":"put","key":"a","value":1}"#;

#[test]
fn over_tcp_the_token_comes_first() {
    let (daemon, _) = with_token();
    for request in [
        PUT,
        r#"{"op":"ping"}"#,
        r#"{"op":"get","key":"*"}"#,
        r#"{"op":"stats"}"#,
        r#"{"op":"clients"}"#,
        r#"{"op":"subscribe","id":1,"key":"*"}"#,
        r#"{"op":"batch","ops":[]}"#,
        r#"{"op":"hello"}"#,
        &hello("wrong"),
        &hello(""),
        &hello("first\\n"),
        &hello("firs"),
        &hello("firstfirst"),
    ] {
        let mut client = daemon.connect_tcp();
        assert_eq!(client.fail(request), "unauthenticated", "{request}");
        client.do_it(&hello("first"));
        client.do_it(PUT);
        // Who is in stays in, whatever is said later.
        client.do_it(r#"{"op":"ping"}"#);
    }
    // The token is for that connection alone.
    assert_eq!(daemon.connect_tcp().fail(PUT), "unauthenticated");
}

#[test]
fn who_guesses_is_sent_away() {
    let (daemon, _) = with_token();
    let mut client = daemon.connect_tcp();
    for guess in ["a", "b", "c", "first"] {
        client.send(&hello(guess));
    }
    let lines = client.rest();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines.iter().all(|line| line.contains("unauthenticated")));
}

/// Without an end, and far more than a stranger may send.
#[test]
fn a_long_line_of_a_stranger_ends_its_connection() {
    let (daemon, _) = with_token();
    let mut client = daemon.connect_tcp();
    client.send_bytes("x".repeat(5000).as_bytes());
    let lines = client.rest();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("too_large"), "{lines:?}");
    // Whoever has shown the token may send what others may.
    let mut client = daemon.connect_tcp();
    client.do_it(&hello("first"));
    let value = "v".repeat(100_000);
    client.do_it(&format!(r#"{{"op":"put","key":"a","value":"{value}"}}"#));
}

/// The one test that has to take as long as a stranger's patience is: ten seconds.
#[test]
fn a_silent_stranger_is_closed() {
    let (daemon, _) = with_token();
    let mut member = daemon.connect_tcp();
    member.do_it(&hello("first"));
    let start = Instant::now();
    let mut silent = daemon.connect_tcp();
    let mut slow = daemon.connect_tcp();
    slow.send_bytes(br#"{"op":"#);
    for client in [&mut silent, &mut slow] {
        let lines = client.rest();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("unauthenticated"), "{lines:?}");
    }
    println!("closed after {:?}", start.elapsed());
    member.ping();
    assert_eq!(member.counter("clients"), 1);
}

/// The share of strangers is 64 of 1,024 clients, and each holds a line that is all but too long.
#[test]
fn strangers_keep_nobody_out_and_hold_little() {
    const FLOOD: usize = 500;
    let (daemon, _) = with_token();
    let mut other = daemon.connect();
    other.ping();
    let before = daemon.process().memory();
    let line = "x".repeat(4000);
    let mut strangers = Vec::new();
    for number in 0..FLOOD {
        let mut stranger = daemon.connect_tcp();
        stranger.send_bytes(line.as_bytes());
        strangers.push(stranger);
        if number % 100 == 99 {
            let mut member = daemon.connect_tcp();
            member.do_it(&hello("first"));
            member.do_it(PUT);
        }
    }
    let counted = |other: &mut Client| other.counter("clients");
    until("64 are left", || counted(&mut other) <= 1 + 64);
    let after = daemon.process().memory();
    let (before, after) = (before >> 10, after >> 10);
    println!("{FLOOD} strangers: {before} KiB before, {after} KiB while 64 are there");
    assert!(after < before + 1024, "{before} KiB became {after} KiB");
    let lines = strangers[0].rest();
    assert!(
        lines.is_empty() || lines[0].contains(r#""error":"limit""#),
        "{lines:?}"
    );
}

#[test]
fn a_token_has_a_longest_length() {
    let plan = Plan::new();
    let file = plan.directory().join("token");
    let plan = plan.with(&["--token-file", file.to_str().unwrap(), "127.0.0.1:0"]);
    std::fs::write(&file, "t".repeat(1025)).unwrap();
    let output = plan.run();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("at most 1024 bytes"), "{stderr}");
    // The longest in letters of two bytes, each of which takes six to escape.
    std::fs::write(&file, "é".repeat(512)).unwrap();
    let daemon = plan.start();
    let name = "\\u00e9".repeat(64);
    let token = "\\u00e9".repeat(512);
    let id = "\\u00e9".repeat(32);
    daemon.connect_tcp().do_it(&format!(
        r#"{{"op":"hello","id":"{id}","client":"{name}","token":"{token}"}}"#
    ));
}

#[test]
fn over_unix_no_token_is_needed() {
    let (daemon, _) = with_token();
    let mut client = daemon.connect();
    client.do_it(PUT);
    client.do_it(r#"{"op":"hello"}"#);
}

#[test]
fn the_token_is_read_again_if_it_is_good() {
    let (daemon, file) = with_token();
    let mut before = daemon.connect_tcp();
    before.do_it(&hello("first"));

    std::fs::write(&file, " \n").unwrap();
    daemon.signal("HUP");
    daemon.wait_for_log("the old token stays");
    let mut client = daemon.connect_tcp();
    assert_eq!(client.fail(PUT), "unauthenticated");
    client.do_it(&hello("first"));

    std::fs::write(&file, "second\n").unwrap();
    daemon.signal("HUP");
    daemon.wait_for_log("the token is read again");
    let mut client = daemon.connect_tcp();
    assert_eq!(client.fail(&hello("first")), "unauthenticated");
    client.do_it(&hello("second"));
    before.do_it(PUT);
}

#[test]
fn with_a_token_tcp_may_be_open_to_everyone() {
    let plan = Plan::new();
    let file = plan.directory().join("token");
    std::fs::write(&file, "first").unwrap();
    let daemon = plan
        .with(&["--token-file", file.to_str().unwrap(), "0.0.0.0:0"])
        .start();
    let port = daemon
        .tcp_address("0.0.0.0:")
        .replace("0.0.0.0", "127.0.0.1");
    let mut client = Client::tcp(&port);
    assert_eq!(client.fail(PUT), "unauthenticated");
    client.do_it(&hello("first"));
}
