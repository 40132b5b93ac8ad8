//! `claim`: a lock that one program has at a time, over restarts of the daemon.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Output, Stdio};

use crate::daemon::{Daemon, client};
use crate::support::{Plan, until};
use crate::{Lines, run};

fn told(address: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output: Output = client(address).args(arguments).output().unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

/// nkv-client, for a shell in which it is to speak to the same daemon.
fn program(address: &str) -> String {
    format!("{} -a {address}", env!("CARGO_BIN_EXE_nkv-client"))
}

/// Waits until there is a claim, or none.
fn wait_for_claim(address: &str, key: &str, options: &[&str]) {
    let claim = format!("$claims.{key}");
    let (code, _, stderr) = told(address, &[&["wait", &claim], options].concat());
    assert_eq!(code, Some(0), "{stderr}");
}

/// Waits until so many follow claims: a holder its own, once it has it, and who waits what is in the way.
fn wait_for_followers(address: &str, count: u64) {
    until("they follow", || {
        let (_, stdout, _) = told(address, &["stats", "--json"]);
        let stats: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        stats["subscriptions"] == count
    });
}

fn signal(lines: &Lines, name: &str) {
    let id = lines.child.id().to_string();
    let sent = Command::new("sh")
        .args(["-c", &format!("kill -{name} \"$0\""), &id])
        .status();
    assert!(sent.unwrap().success());
}

#[test]
fn nobody_else_writes_while_a_command_runs() {
    let daemon = Daemon::start();
    let client = program(&daemon.address());
    let script = format!("{client} put lock.a 1; {client} put b 2; exit 7");
    let (code, stdout, stderr) = told(&daemon.address(), &["claim", "lock", "sh", "-c", &script]);
    assert_eq!((code, stdout.as_str()), (Some(7), ""), "{stderr}");
    // Not even the command.
    let refusal = "nkv-client: denied: lock is claimed by {\"uid\":";
    assert!(stderr.starts_with(refusal), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    wait_for_claim(&daemon.address(), "lock", &["--gone"]);
    run(&daemon, &["put", "lock.a", "1"]);
}

#[test]
fn a_claim_is_held_until_interrupted() {
    let daemon = Daemon::start();
    let address = daemon.address();
    let holder = Lines::of(&daemon, &["claim", "net.eth0"]);
    wait_for_claim(&address, "net.eth0", &[]);
    for key in ["net", "net.eth0", "net.eth0.mtu"] {
        let (code, _, stderr) = told(&address, &["claim", key, "true"]);
        assert_eq!(code, Some(4), "{stderr}");
        let refusal = "nkv-client: conflict: net.eth0 is claimed by {\"uid\":";
        assert!(stderr.starts_with(refusal), "{stderr}");
    }
    let (code, stdout, _) = told(&address, &["clients"]);
    assert_eq!(code, Some(0));
    let row = stdout.lines().find(|line| line.ends_with("  net.eth0"));
    assert!(row.is_some(), "{stdout}");
    assert!(stdout.lines().next().unwrap().ends_with("CLAIMS"));
    let wait = ["claim", "net", "--wait", "--timeout", "100ms", "true"];
    let (code, _, stderr) = told(&address, &wait);
    let out = "nkv-client: --timeout ran out waiting for net to be free\n";
    assert_eq!((code, stderr.as_str()), (Some(124), out));
    signal(&holder, "TERM");
    assert_eq!(holder.end(), (None, String::new()));
    wait_for_claim(&address, "net.eth0", &["--gone"]);
}

#[test]
fn exit_codes_are_the_commands() {
    let daemon = Daemon::start();
    let check = |arguments: &[&str], expected: i32, stderr: &str| {
        let (code, _, said) = told(&daemon.address(), &[&["claim"], arguments].concat());
        assert_eq!(code, Some(expected), "{arguments:?}: {said}");
        assert!(said.starts_with(stderr), "{arguments:?}: {said}");
    };
    check(&["a", "true"], 0, "");
    check(&["a", "--", "false"], 1, "");
    check(&["a", "--wait", "sh", "-c", "kill -9 $$"], 137, "");
    check(&["a", "/nowhere/program"], 127, "nkv-client: cannot run");
    check(&["a", "/"], 126, "nkv-client: cannot run");
    check(&["a..b", "true"], 2, "nkv-client: a..b: ");
    check(&["a", "--timeout", "1s", "true"], 2, "error: ");
    check(&["$claims", "true"], 2, "nkv-client: bad_key: ");
    let nowhere = ["-a", "/nowhere/nkv.sock", "claim", "a", "true"];
    assert_eq!(told(&daemon.address(), &nowhere).0, Some(3));
}

/// Two of them add to a file what no two may do at once.
#[test]
fn one_runs_at_a_time() {
    let daemon = Daemon::start();
    let place = daemon.directory().join("place");
    let place = place.to_str().unwrap();
    // Making a directory that is there fails, so two at once would.
    let script = format!("mkdir {place} && rmdir {place}");
    let one = || {
        let mut command = client(&daemon.address());
        command.args(["claim", "lock", "--wait", "sh", "-c", &script]);
        command.stderr(Stdio::piped()).spawn().unwrap()
    };
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let output = one().wait_with_output().unwrap();
                    assert!(output.status.success(), "{output:?}");
                    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
                }
            });
        }
    });
}

#[test]
fn who_waits_has_it_when_the_other_lets_go() {
    let daemon = Daemon::start();
    let address = daemon.address();
    let holder = Lines::of(&daemon, &["claim", "net"]);
    wait_for_claim(&address, "net", &[]);
    let mut waiting = Lines::of(&daemon, &["claim", "net.eth0", "--wait", "echo", "mine"]);
    wait_for_followers(&address, 2);
    holder.kill();
    waiting.expect("mine");
    assert_eq!(waiting.end(), (Some(0), String::new()));
}

/// A command goes on over a restart of a daemon that remembers, and nobody else gets in between.
#[test]
fn a_claim_survives_a_restart() {
    let plan = Plan::keeping();
    let daemon = plan.start();
    let address = plan.socket().to_str().unwrap().to_owned();
    let wait = format!("{} wait end 2>/dev/null", program(&address));
    let script = format!("echo started; until {wait}; do :; done");
    let mut holder = Lines::at(&address, &["claim", "lock", "sh", "-c", &script]);
    holder.expect("started");
    let mut stderr = BufReader::new(holder.child.stderr.take().unwrap()).lines();
    let mut come_back = || loop {
        let line = stderr.next().unwrap().unwrap();
        assert!(!line.contains("lost") && !line.contains("free"), "{line}");
        if line.ends_with("connected again") {
            break;
        }
    };
    let other = || told(&address, &["claim", "lock", "true"]).0;
    daemon.kill();
    let daemon = plan.start();
    assert_eq!(other(), Some(4));
    come_back();
    daemon.stop();
    let _daemon = plan.start();
    assert_eq!(other(), Some(4));
    come_back();
    assert_eq!(other(), Some(4));
    assert_eq!(told(&address, &["put", "end", "2"]).0, Some(0));
    holder.expect("2");
    assert!(holder.child.wait().unwrap().success());
    assert_eq!(other(), Some(0));
}

/// A daemon that remembers nothing gives the claim to whoever is quicker.
#[test]
fn a_command_that_has_lost_its_claim_is_asked_to_end() {
    let mut daemon = Daemon::start();
    let address = daemon.address();
    let command = "sleep 1000 & trap \"kill $!; exit 3\" TERM; echo ready; wait";
    let mut holder = Lines::of(&daemon, &["claim", "lock", "sh", "-c", command]);
    holder.expect("ready");
    let other = Lines::of(&daemon, &["claim", "other"]);
    wait_for_followers(&address, 2);
    // While they are stopped they can't come back.
    signal(&holder, "STOP");
    signal(&other, "STOP");
    daemon.restart();
    let winner = Lines::of(&daemon, &["claim", "lock"]);
    wait_for_claim(&address, "lock", &[]);
    signal(&holder, "CONT");
    signal(&other, "CONT");
    let (code, stderr) = holder.end();
    assert_eq!(code, Some(3), "{stderr}");
    let lost = "nkv-client: lock is lost: conflict: lock is claimed by {\"uid\":";
    assert!(
        stderr.lines().any(|line| line.starts_with(lost)),
        "{stderr}"
    );
    winner.kill();
    // Nobody has taken this one, but somebody could have.
    let (code, stderr) = other.end();
    assert_eq!(code, Some(4), "{stderr}");
    let free = "nkv-client: other is lost: it was free while there was no connection";
    assert!(stderr.lines().any(|line| line == free), "{stderr}");
}

#[test]
fn a_lost_claim_without_a_command_ends_the_program() {
    let mut daemon = Daemon::start();
    let holder = Lines::of(&daemon, &["claim", "lock"]);
    wait_for_followers(&daemon.address(), 1);
    signal(&holder, "STOP");
    daemon.restart();
    let winner = Lines::of(&daemon, &["claim", "lock"]);
    wait_for_claim(&daemon.address(), "lock", &[]);
    signal(&holder, "CONT");
    let (code, stderr) = holder.end();
    assert_eq!(code, Some(4), "{stderr}");
    assert!(stderr.contains("lock is lost: conflict: "), "{stderr}");
    winner.kill();
}

/// Rules may keep claims from being seen; they are made and waited for all the same.
#[test]
fn who_may_not_see_claims_waits_for_them() {
    let plan = Plan::new();
    let rules = plan.directory().join("rules");
    std::fs::write(&rules, "allow anyone own,write *\n").unwrap();
    let daemon = plan.with(&["--access", rules.to_str().unwrap()]).start();
    let address = daemon.socket().to_str().unwrap().to_owned();
    let (code, _, stderr) = told(&address, &["get", "$claims.*"]);
    assert_eq!(code, Some(4), "{stderr}");
    let mut holder = Lines::at(
        &address,
        &["claim", "net", "sh", "-c", "echo mine; exec sleep 1000"],
    );
    holder.expect("mine");
    let mut waiting = Lines::at(&address, &["claim", "net", "-w", "echo", "mine"]);
    until("it has been refused", || {
        let (_, stdout, _) = told(&address, &["stats", "--json"]);
        let stats: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        // The pattern, what each of them would follow, and the claim.
        stats["errors"].as_u64() > Some(3)
    });
    signal(&holder, "TERM");
    waiting.expect("mine");
    assert_eq!(waiting.end(), (Some(0), String::new()));
    assert_eq!(holder.end().0, Some(143));
}

#[test]
fn a_shell_claims_for_itself() {
    let daemon = Daemon::start();
    let address = daemon.address();
    let mut shell = client(&address)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = shell.stdin.take().unwrap();
    stdin
        .write_all(b"claim a\nput a.b 1\nget a.b\nclaim b\nrelease b\nrelease b\n")
        .unwrap();
    wait_for_claim(&address, "a", &[]);
    let denied = told(&address, &["put", "a.b", "2"]);
    assert_eq!(denied.0, Some(4), "{denied:?}");
    drop(stdin);
    let output = shell.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "1\n");
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "nkv-client: not_found: this connection has not claimed b\n"
    );
    assert_eq!(output.status.code(), Some(1));
    wait_for_claim(&address, "a", &["--gone"]);
}

#[test]
fn a_shell_claims_again_what_it_had() {
    let mut daemon = Daemon::start();
    let address = daemon.address();
    let mut command = client(&address);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"claim a\nclaim b\n").unwrap();
    wait_for_claim(&address, "a", &[]);
    wait_for_claim(&address, "b", &[]);
    daemon.restart();
    let winner = Lines::of(&daemon, &["claim", "b"]);
    wait_for_claim(&address, "b", &[]);
    stdin.write_all(b"put a.x 1\nput b.x 1\n").unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<&str> = stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{stderr}");
    assert!(lines[0].starts_with("nkv-client: b is lost: conflict: "));
    assert!(lines[1].starts_with("nkv-client: denied: b is claimed by"));
    winner.kill();
}
