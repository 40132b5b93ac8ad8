//! `announce`: an entry that is there as long as a program, over restarts of the daemon.

use std::process::{Command, Stdio};

use crate::daemon::{Daemon, client};
use crate::support::until;
use crate::{Lines, run};

fn told(daemon: &Daemon, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = client(&daemon.address()).args(arguments).output().unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

/// nkv-client, for a shell in which it is to speak to the same daemon.
fn program(daemon: &Daemon) -> String {
    format!(
        "{} -a {}",
        env!("CARGO_BIN_EXE_nkv-client"),
        daemon.address()
    )
}

#[test]
fn an_entry_is_there_as_long_as_a_command() {
    let daemon = Daemon::start();
    let get = format!("{} get a --json; exit 7", program(&daemon));
    let arguments = ["announce", "a", "[1]", "--", "sh", "-c", &get];
    let entry = "{\"key\":\"a\",\"value\":[1],\"rev\":1,\"lifetime\":\"session\"}\n";
    assert_eq!(
        told(&daemon, &arguments),
        (Some(7), entry.into(), String::new())
    );
    run(&daemon, &["wait", "a", "--gone"]);
}

#[test]
fn exit_codes_are_the_commands() {
    let daemon = Daemon::start();
    let check = |command: &[&str], expected: i32, stderr: &str| {
        let arguments = [&["announce", "a", "1", "--"], command].concat();
        let (code, _, said) = told(&daemon, &arguments);
        assert_eq!(
            (code, said.as_str()),
            (Some(expected), stderr),
            "{command:?}"
        );
    };
    check(&["true"], 0, "");
    check(&["false"], 1, "");
    check(&["sh", "-c", "kill -9 $$"], 137, "");
    check(
        &["/nowhere/program"],
        127,
        "nkv-client: cannot run /nowhere/program: No such file or directory\n",
    );
    check(&["/"], 126, "nkv-client: cannot run /: Permission denied\n");
    assert_eq!(told(&daemon, &["announce", "a..b", "1"]).0, Some(2));
    let nowhere = [
        "-a",
        "/nowhere/nkv.sock",
        "announce",
        "a",
        "1",
        "--",
        "true",
    ];
    assert_eq!(told(&daemon, &nowhere).0, Some(3));
}

#[test]
fn a_command_is_asked_to_end() {
    let daemon = Daemon::start();
    let command = "sleep 1000 & trap \"kill $!; exit 3\" TERM; echo ready; wait";
    let mut lines = Lines::of(&daemon, &["announce", "a", "1", "--", "sh", "-c", command]);
    lines.expect("ready");
    let id = lines.child.id().to_string();
    let killed = Command::new("sh")
        .args(["-c", "kill -TERM \"$0\"", &id])
        .status();
    assert!(killed.unwrap().success());
    assert_eq!(lines.end(), (Some(3), String::new()));
    run(&daemon, &["wait", "a", "--gone"]);
}

/// What `announce` and `put` have in common.
/// Waits until somebody follows what it holds: its put has been answered then. The event of a put may come
/// before its answer, so that the entry is there says nothing of that.
fn wait_for_holder(daemon: &Daemon) {
    until("it is held", || {
        let (_, stdout, _) = told(daemon, &["stats", "--json"]);
        let stats: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        stats["subscriptions"] == 1
    });
}

fn comes_back(arguments: &[&str]) {
    let mut daemon = Daemon::start();
    let mut holder = client(&daemon.address());
    let mut holder = holder
        .args(arguments)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    run(&daemon, &["wait", "a", "1"]);
    wait_for_holder(&daemon);
    for _ in 0..3 {
        daemon.restart();
        run(&daemon, &["wait", "a", "1"]);
    }
    holder.kill().unwrap();
    let output = holder.wait_with_output().unwrap();
    run(&daemon, &["wait", "a", "--gone"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    let lost = format!(
        "nkv-client: the daemon closed the connection; reconnecting to {}",
        daemon.address()
    );
    assert!(stderr.lines().any(|line| line == lost), "{stderr}");
}

#[test]
fn an_announced_entry_comes_back_with_the_daemon() {
    comes_back(&["announce", "a", "1"]);
}

#[test]
fn a_session_put_comes_back_with_the_daemon() {
    comes_back(&["put", "a", "1", "--lifetime", "session"]);
    comes_back(&["put", "a", "1", "--lifetime", "session", "--ttl", "1h"]);
}

#[test]
fn a_claim_that_is_lost_ends_the_program() {
    let mut daemon = Daemon::start();
    let claim = ["put", "a", "1", "--lifetime", "session", "--if-rev", "0"];
    let holder = Lines::of(&daemon, &claim);
    wait_for_holder(&daemon);
    assert_eq!(told(&daemon, &claim).0, Some(1), "it is taken");
    // Another daemon's memory is empty, so the revision that was claimed is no more.
    daemon.restart();
    let (code, stderr) = holder.end();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.ends_with("conflict: a does not exist\n"), "{stderr}");
}

#[test]
fn a_command_outlives_the_daemon() {
    let mut daemon = Daemon::start();
    // It ends when `end` is there, which only the second daemon has. It may meet none at first.
    let wait = format!("{} wait end 2>/dev/null", program(&daemon));
    let command = format!("echo started; until {wait}; do :; done");
    let arguments = ["announce", "a", "1", "--", "sh", "-c", &command];
    let mut lines = Lines::of(&daemon, &arguments);
    lines.expect("started");
    daemon.restart();
    run(&daemon, &["wait", "a", "1"]);
    run(&daemon, &["put", "end", "2"]);
    lines.expect("2");
    assert_eq!(lines.end().0, Some(0));
}

#[test]
fn a_shell_keeps_what_it_announces() {
    let daemon = Daemon::start();
    let mut shell = client(&daemon.address())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = shell.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, b"announce a 1\nannounce b 2 -- true\n").unwrap();
    run(&daemon, &["wait", "a"]);
    drop(stdin);
    assert!(shell.wait().unwrap().success());
    run(&daemon, &["wait", "a", "--gone"]);
}
