//! The list of system calls in `nkv.service`, held against those that the daemon makes.
//!
//! A **story** has the daemon do all that it can do, under `strace`. Whatever call it makes must be
//! in the list: one that is forgotten would fail on somebody's machine, at the moment in which it is
//! needed. And whatever is in the list must be made, or be in [`ELSEWHERE`] with a reason, so that
//! the list stays as short as it can be.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::machine::source;
use crate::support::{Client, Plan, has_program, skip, until};

/// Calls that are listed though the story need not make them here, by the reason.
const ELSEWHERE: [(&str, &str); 4] = [
    (
        "one C library makes these, or one version of it, and another those",
        "access clone clone3 epoll_pwait epoll_wait fstat newfstatat open openat pread64 sigaltstack \
         stat statx",
    ),
    (
        "other processors have some of these instead",
        "faccessat fcntl64 fstat64 fstatat64 ftruncate64 mkdir mkdirat poll ppoll ppoll_time64 \
         readlink readlinkat rename renameat renameat2 stat64 unlink unlinkat",
    ),
    (
        "a panic, and memory that the second thread gives back",
        "madvise tgkill",
    ),
    ("the shell in ExecReload= and ExecStopPost=", "getcwd kill"),
];

#[test]
fn the_list_has_what_is_used_and_no_more() {
    if !has_program("strace") || !has_program("systemd-analyze") {
        return skip("there is no strace, or no systemd");
    }
    let listed = listed();
    let always = always();
    let used = used();
    println!("used: {used:?}");
    let missing: Vec<_> = used
        .iter()
        .filter(|call| !listed.contains(*call) && !always.contains(*call))
        .collect();
    assert!(missing.is_empty(), "used and not listed: {missing:?}");
    let elsewhere: Vec<&str> = ELSEWHERE
        .iter()
        .flat_map(|(_, calls)| calls.split_whitespace())
        .collect();
    let idle: Vec<_> = listed
        .iter()
        .filter(|call| !used.contains(*call) && !elsewhere.contains(&call.as_str()))
        .collect();
    assert!(idle.is_empty(), "listed and not used: {idle:?}");
}

/// What the unit lists.
fn listed() -> BTreeSet<String> {
    let unit = fs::read_to_string(source("systemd/nkv.service")).unwrap();
    let lines = unit
        .lines()
        .filter_map(|line| line.strip_prefix("SystemCallFilter="));
    lines
        .flat_map(|line| line.split_whitespace())
        .map(str::to_owned)
        .collect()
}

/// What systemd adds to any list.
fn always() -> BTreeSet<String> {
    let output = Command::new("systemd-analyze")
        .args(["syscall-filter", "@default"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().map(str::to_owned).collect()
}

/// The calls that the daemon makes in all its lives.
fn used() -> BTreeSet<String> {
    let plan = Plan::keeping();
    let trace = plan.directory().join("trace");
    let manager = plan.directory().join("manager");
    let ear = UnixDatagram::bind(&manager).unwrap();
    // Who notifies waits until there is room for it.
    std::thread::spawn(move || while ear.recv(&mut [0; 4096]).is_ok() {});
    let token = plan.directory().join("token");
    fs::write(&token, "sesame\n").unwrap();
    let unix = plan.directory().join("passed.sock");
    let unix_listener = UnixListener::bind(&unix).unwrap();
    let tcp_listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp = tcp_listener.local_addr().unwrap().to_string();
    let words = ["strace", "-D", "-f", "-A", "-o", trace.to_str().unwrap()];
    let plan = plan
        .without_socket()
        .passing(unix_listener, "local")
        .passing(tcp_listener, "net")
        .with_variable("NOTIFY_SOCKET", manager.to_str().unwrap())
        .with_variable("WATCHDOG_USEC", "100000")
        .with(&["--token-file", token.to_str().unwrap()])
        .under(&words);
    first_life(&plan, &unix, &tcp);
    later_life(&plan, &unix);
    last_life(&plan, &unix);
    let trace = fs::read_to_string(trace).unwrap();
    calls(&trace)
}

/// Everything that clients and operators can ask for, and an end without notice.
fn first_life(plan: &Plan, unix: &Path, tcp: &str) {
    let daemon = plan
        .clone()
        .with(&["--sync", "interval=20", "--max-clients", "4"])
        .start();
    let mut client = Client::unix(unix);
    let mut subscriber = Client::tcp(tcp);
    subscriber.do_it(r#"{"op":"hello","token":"sesame"}"#);
    subscriber.subscribe("*");
    // Large enough that giving back a journal's space is the other thread's work.
    for round in 0..80 {
        for lifetime in ["durable", "boot"] {
            client.do_it(&put(lifetime, round, 400_000));
        }
    }
    // A slow subscriber is told the newest, which need not be all.
    subscriber.event();
    client.do_it(r#"{"op":"put","key":"short","value":1,"lifetime":"session","ttl_ms":1}"#);
    client.do_it(r#"{"op":"delete","key":"durable.*"}"#);
    for op in ["stats", "clients"] {
        client.do_it(&format!(r#"{{"op":"{op}"}}"#));
    }
    daemon.signal("HUP");
    daemon.signal("USR1");
    let mut others: Vec<Client> = (0..5).map(|_| Client::unix(unix)).collect();
    assert!(others.pop().unwrap().line().contains("limit"));
    until("the durable journal is written anew", || {
        daemon.log().contains("durable.journal is written anew")
    });
    daemon.kill();
}

/// What a crash has left is read and cut off, and the daemon is stopped.
fn later_life(plan: &Plan, unix: &Path) {
    for path in journals(plan) {
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend_from_slice(b"0123");
        fs::write(&path, bytes).unwrap();
    }
    let daemon = plan.start();
    let mut client = Client::unix(unix);
    client.do_it(&put("durable", 0, 10));
    client.do_it(&put("boot", 0, 10));
    daemon.stop();
}

/// Journals that are damaged are saved, and nobody comes any more.
fn last_life(plan: &Plan, unix: &Path) {
    for path in journals(plan) {
        let mut bytes = fs::read(&path).unwrap();
        let line_end = bytes.iter().position(|&byte| byte == b'\n').unwrap();
        bytes[line_end + 1] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    let refused = plan.run();
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    let plan = plan.clone().with(&["--recover", "--idle-exit", "1"]);
    let mut daemon = plan.start();
    Client::unix(unix).ping();
    assert_eq!(daemon.wait().code(), Some(0));
}

fn journals(plan: &Plan) -> [std::path::PathBuf; 2] {
    [
        plan.data_directory().join("durable.journal"),
        plan.runtime_directory().join("boot.journal"),
    ]
}

fn put(lifetime: &str, number: usize, bytes: usize) -> String {
    let value = format!("{number}-{}", "x".repeat(bytes));
    let key = format!("{lifetime}.{}", number % 15);
    json!({"op": "put", "key": key, "value": value, "lifetime": lifetime}).to_string()
}

/// The names of the calls that a trace has of the daemon itself, without the shell that became it.
fn calls(trace: &str) -> BTreeSet<String> {
    let mut is_daemon = false;
    let mut names = BTreeSet::new();
    for line in trace.lines() {
        let Some((_, call)) = line.split_once(' ') else {
            continue;
        };
        let Some((name, rest)) = call.trim_start().split_once('(') else {
            continue;
        };
        if name == "execve" {
            // The program, and not an argument of one that will become it.
            let program = rest.split('"').nth(1).unwrap_or_default();
            is_daemon = program.ends_with("/nkv-server");
        }
        let is_name = |name: &str| {
            name.bytes()
                .all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
        };
        if is_daemon && is_name(name) {
            names.insert(name.to_owned());
        }
    }
    names
}
