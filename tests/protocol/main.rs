//! The protocol's contract as tests: transcripts, constructed cases, and bad input.
//!
//! A transcript is a text file in `transcripts/`: what clients send, and what each of them receives,
//! byte for byte. It is played three times, with what is sent fed to the broker whole, one byte at a
//! time, and in pieces of seven bytes; all three must read the same. A line a step:
//!
//! ```text
//! # a comment: which sentence of the contract the lines below show
//! limits keys=3 message=200   limits other than the usual ones; before the first connection
//! token secret                what TCP peers must know; before the first connection
//! connect a                   a connects over a Unix socket (pid 1, uid 1000, gid 1000)
//! connect t tcp               t connects over TCP, from 192.0.2.1:4000
//! refused c {"ok":false,…}    c tries to connect and is turned away with this line
//! a> {"op":"ping"}            a sends a line; lines that follow one another are sent in one go
//! a>> {"op"\x3a"ping"}\r\n    a sends bytes: no line end of its own; \r \n \t \\ \xHH are escapes
//! a< {"ok":true}              the next line that a receives
//! a~ {"ok":true}              one of the lines that a has received: their order is not promised
//! a< nothing more             a has received no more than that
//! at 1500                     the clock stands at 1500 ms
//! appetite a 0                a reads so many bytes a turn, or `all`
//! end a                       a closes its sending half
//! drained a                   all that a sent is answered and read: the daemon may close
//! open a                      the opposite
//! closed a                    the daemon has given a up and closed
//! disconnect a                a is gone
//! ```
//!
//! Everything that can happen has happened before a step that is not another line of the same
//! sender. In what is sent and received, `‹k*512›` is 512 times `k`; in what is received, `…` is any
//! one JSON value. A transcript that leaves a received line unread fails.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

#[path = "../support/mod.rs"]
mod support;

mod access;
mod allocation;
mod constructed;
mod hostile;
mod quotas;
mod script;
mod statistics;
mod storage;
mod strangers;

use script::play;

/// A test for each file, and one that no file is left out.
macro_rules! transcripts {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            check(include_str!(concat!("transcripts/", stringify!($name), ".txt")));
        })*

        #[test]
        fn every_transcript_is_played() {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/protocol/transcripts");
            let mut files: Vec<String> = std::fs::read_dir(folder)
                .unwrap()
                .map(|file| file.unwrap().file_name().into_string().unwrap())
                .collect();
            files.sort_unstable();
            let mut names = [$(concat!(stringify!($name), ".txt")),*];
            names.sort_unstable();
            assert_eq!(files, names);
        }
    };
}

transcripts! {
    s1_framing
    s1_half_close
    s1_long_lines
    s1_malformed_lines
    s2_keys
    s2_patterns
    s2_reserved_keys
    s2_values
    s3_revisions
    s4_batch
    s4_claim
    s4_clients_and_ping
    s4_delete
    s4_get
    s4_hello
    s4_hello_over_tcp
    s4_ids
    s4_if_changed
    s4_if_rev
    s4_lifetimes
    s4_list
    s4_put
    s4_quotas
    s4_strangers
    s4_subscribe
    s4_ttl
    s4_unknown_fields
    s5_1_entries_then_changes_then_sync
    s5_2_resume
    s5_2_resume_reset
    s5_3_revisions_grow
    s5_4_newest_value
    s5_5_nothing_is_missed
    s5_6_slow_subscriber
    s5_7_cuts
    s5_8_own_puts
    s5_9_two_subscriptions
    s5_coverage
    s5_unsubscribe
}

fn check(text: &str) {
    for piece in [usize::MAX, 1, 7] {
        if let Err(failure) = play(text, piece) {
            panic!("in pieces of {piece} bytes: {failure}");
        }
    }
}

/// The runner finds what is wrong with a transcript.
#[test]
fn a_wrong_transcript_fails() {
    let check = |steps: &str, failure: &str| {
        let text = format!("connect a\n{steps}");
        for piece in [usize::MAX, 1, 7] {
            let found = play(&text, piece).expect_err(steps);
            assert!(found.contains(failure), "{steps}: {found}");
        }
    };
    let ping = r#"a> {"op":"ping"}"#;
    check(&format!("{ping}\na< {{\"ok\":false}}"), "line 3: expected");
    check(&format!("{ping}\na< {{\"ok\":true}} "), "line 3: expected");
    check(&format!("{ping}\na< {{\"ok\":true"), "line 3: expected");
    check(
        &format!("{ping}\na< {{\"ok\":…,\"rev\":…}}"),
        "line 3: expected",
    );
    check(&format!("{ping}\na< …}}"), "line 3: expected");
    check(&format!("{ping}\na< {{…}}"), "line 3: expected");
    check(
        &format!("{ping}\na< nothing more"),
        "line 3: a has received",
    );
    check(ping, "at the end: a has received");
    check(
        &format!("{ping}\nconnect b\nb< nothing more"),
        "at the end: a has received",
    );
    check("a< {\"ok\":true}", "line 2: a has received nothing");
    check(
        &format!("{ping}\na~ {{\"ok\":false}}"),
        "line 3: expected among",
    );
    check("drained a", "line 2: a is not drained");
    check("end a\nopen a", "line 3: a is drained");
    check("closed a", "line 2: a is not closed");
    check("refused b {}", "line 2: b is not refused");
    check("refuse b {}", "line 2: no such step");
    check("b> {}", "line 2: there is no b");
    check("connect a", "line 2: there is an a");
    check("limits keys=1", "line 2: too late");
}

/// An expected line stands for what it says and no more.
#[test]
fn expected_lines_are_exact() {
    let check = |expected: &str, line: &str, matches: bool| {
        assert_eq!(
            script::matches(expected, line),
            matches,
            "{expected} {line}"
        );
    };
    check(r#"{"a":1}"#, r#"{"a":1}"#, true);
    check(r#"{"a":1}"#, r#"{"a": 1}"#, false);
    check(r#"{"a":1}"#, r#"{"a":1.0}"#, false);
    check(r#"{"a":…}"#, r#"{"a":1}"#, true);
    check(r#"{"a":…}"#, r#"{"a":[1,{"b":2}]}"#, true);
    check(r#"{"a":…}"#, r#"{"a":1,"b":2}"#, false);
    check(r#"{"a":…,"b":2}"#, r#"{"a":"x","c":1,"b":2}"#, false);
    check(r#"{"a":…}"#, r#"{"a":}"#, false);
    check("…", r#"{"a":1}"#, true);
    check("…", "", false);
}
