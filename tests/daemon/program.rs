//! Options, exit codes, socket files, signals, and what is logged.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Daemon, Plan};

/// Runs to the end, which is to have this exit code, and returns what stands on stderr.
fn assert_exit(plan: &Plan, code: i32) -> String {
    let output = plan.run();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    stderr
}

#[test]
fn help_and_version_are_printed() {
    let print = |option| {
        let output = Plan::new().without_socket().with(&[option]).run();
        assert_eq!(output.status.code(), Some(0));
        assert!(output.stderr.is_empty());
        String::from_utf8(output.stdout).unwrap()
    };
    let help = print("--help");
    for named in [
        "Usage: nkv-server",
        "--max-clients",
        "--token-file",
        "SIGHUP",
        "Exit codes",
    ] {
        assert!(help.contains(named), "{named}");
    }
    assert_eq!(print("-h"), help);
    let version = format!("nkv-server {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        (print("--version"), print("-V")),
        (version.clone(), version)
    );
}

#[test]
fn usage_errors_name_the_option() {
    let check = |words: &[&str], named: &str| {
        let plan = Plan::new().with(words);
        let stderr = assert_exit(&plan, 2);
        assert!(stderr.contains(named), "{words:?}: {stderr}");
        assert!(!plan.socket().exists(), "nothing is left of a failed start");
    };
    check(&["--no-such-option"], "--no-such-option");
    check(&["--max-clients"], "--max-clients");
    let too_many = ["--check-access", "/dev/null", "root", "a", "more"];
    check(&too_many, "--check-access");
    check(&["--max-clients", "few"], "--max-clients");
    check(&["--max-clients=0"], "--max-clients");
    check(&["--socket-mode", "9"], "--socket-mode");
    check(&["--idle-exit", "soon"], "--idle-exit");
    check(
        &["--token-file", "/nonexistent/token"],
        "/nonexistent/token",
    );
    check(&["--socket-group", "no-such-group"], "no-such-group");
    check(&["no-address"], "no-address");
}

#[test]
fn tcp_for_everyone_needs_a_token() {
    // The last is loopback to the kernel, and written as the whole world may be.
    for host in ["0.0.0.0", "[::]", "192.0.2.1", "[::ffff:127.0.0.1]"] {
        let plan = Plan::new().with(&[&format!("{host}:0")]);
        let stderr = assert_exit(&plan, 2);
        assert!(
            stderr.contains(host) && stderr.contains("token"),
            "{stderr}"
        );
    }
}

#[test]
fn tcp_is_not_served_unless_it_is_asked_for() {
    let daemon = Daemon::start(&[]);
    daemon.connect().ping();
    assert_eq!(daemon.process().tcp_sockets(), 0, "{}", daemon.log());
    let daemon = Daemon::start(&["127.0.0.1:0"]);
    assert_eq!(daemon.process().tcp_sockets(), 1);
}

#[test]
fn a_living_daemon_keeps_its_address() {
    let plan = Plan::new().with(&["127.0.0.1:0"]);
    let first = plan.start();
    let socket = first.socket().display().to_string();
    let stderr = assert_exit(&plan, 3);
    assert!(stderr.contains(&socket), "{stderr}");
    let address = first.tcp_address("127.0.0.1:");
    let stderr = assert_exit(&Plan::new().with(&[&address]), 3);
    assert!(stderr.contains(&address), "{stderr}");
    first.connect().ping();
    first.connect_tcp().ping();
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let plan = Plan::new();
    std::fs::write(plan.socket(), "precious").unwrap();
    assert_exit(&plan, 3);
    assert_eq!(std::fs::read(plan.socket()).unwrap(), b"precious");

    std::fs::remove_file(plan.socket()).unwrap();
    std::os::unix::fs::symlink("elsewhere", plan.socket()).unwrap();
    assert_exit(&plan, 3);
    assert!(plan.socket().is_symlink());
}

#[test]
fn the_socket_of_a_dead_daemon_is_replaced() {
    let plan = Plan::new();
    let mut first = plan.start();
    first.signal("KILL");
    first.wait();
    assert!(plan.socket().exists());
    plan.start().connect().ping();

    // Any socket that nobody answers on will do.
    let plan = Plan::new();
    drop(UnixListener::bind(plan.socket()).unwrap());
    plan.start().connect().ping();
}

#[test]
fn a_failed_start_leaves_no_socket() {
    let plan = Plan::new();
    let nowhere = plan.directory().join("no/such/directory/nkv.sock");
    // The other socket, which comes last, would be fine.
    let stderr = assert_exit(&plan.clone().with(&[nowhere.to_str().unwrap()]), 1);
    assert!(stderr.contains("no/such/directory"), "{stderr}");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let socket = plan.socket().display().to_string();
    assert_exit(&plan.clone().without_socket().with(&[&socket, &address]), 3);
    assert!(!plan.socket().exists());
}

#[test]
fn the_socket_has_the_mode_and_the_group_that_are_asked_for() {
    let mode = |daemon: &Daemon| {
        std::fs::metadata(daemon.socket())
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode(&Daemon::start(&[])), 0o660);
    assert_eq!(mode(&Daemon::start(&["--socket-mode", "0604"])), 0o604);

    // Root may give it to anyone, others to the groups that they are in.
    let name_of = |own: &str| {
        let output = Command::new("id").args([own]).arg("-n").output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let group = if name_of("-u") == "root" {
        "daemon".into()
    } else {
        name_of("-g")
    };
    let daemon = Daemon::start(&["--socket-group", &group]);
    let found = std::fs::metadata(daemon.socket()).unwrap().gid();
    let groups = std::fs::read_to_string("/etc/group").unwrap();
    let line = groups
        .lines()
        .find(|line| line.starts_with(&format!("{group}:")));
    let expected = line.unwrap().split(':').nth(2).unwrap();
    assert_eq!(found.to_string(), expected);
}

#[test]
fn a_clean_stop_removes_the_socket() {
    for signal in ["TERM", "INT"] {
        let mut daemon = Daemon::start(&[]);
        let mut client = daemon.connect();
        client.ping();
        daemon.signal(signal);
        assert_eq!(daemon.wait().code(), Some(0));
        assert_eq!(client.next_line(), None);
        assert!(!daemon.socket().exists());
    }
}

/// Signals that are pending together arrive as a first and a second one, without a race.
#[test]
fn a_second_signal_stops_at_once() {
    let mut daemon = Daemon::start(&[]);
    for signal in ["STOP", "TERM", "INT", "CONT"] {
        daemon.signal(signal);
    }
    assert_eq!(daemon.wait().code(), Some(1));
}

#[test]
fn the_socket_of_a_successor_is_not_removed() {
    let plan = Plan::new();
    let first = plan.start();
    std::fs::remove_file(plan.socket()).unwrap();
    let second = plan.start();
    first.stop();
    second.connect().ping();
}

/// More responses than fit into the socket are owed to a client that does not read until the daemon
/// has been told to stop. Every request that was carried out is answered, every line is whole.
#[test]
fn a_clean_stop_answers_what_was_carried_out() {
    for over_tcp in [false, true] {
        let mut daemon = Daemon::start(&["127.0.0.1:0"]);
        let mut other = daemon.connect();
        let id = "i".repeat(60);
        let line = format!("{{\"op\":\"put\",\"key\":\"k\",\"value\":1,\"id\":\"{id}\"}}\n");
        let mut client = if over_tcp {
            daemon.connect_tcp()
        } else {
            daemon.connect()
        };
        // So that TCP, too, leaves most of what is on its way with the daemon's kernel.
        client.socket().set_receive_buffer(32 << 10);
        client.send_until_stuck(line.repeat(300_000).as_bytes(), || other.ping());
        let puts = other.counter("puts");
        daemon.signal("TERM");
        let responses = client.rest();
        drop(client);
        println!("{} responses to {puts} puts", responses.len());
        assert_eq!(responses.len() as u64, puts);
        assert!(responses.iter().all(|line| line.contains(r#""ok":true"#)));
        assert_eq!(daemon.wait().code(), Some(0));
    }
}

/// One that does not read is waited for, and not for ever.
#[test]
fn a_clean_stop_does_not_wait_for_one_who_never_reads() {
    let daemon = Daemon::start(&[]);
    let mut other = daemon.connect();
    let lines = "{\"op\":\"get\",\"key\":\"missing\"}\n".repeat(20_000);
    let mut client = daemon.connect();
    client.send_until_stuck(lines.as_bytes(), || other.ping());
    daemon.stop();
}

#[test]
fn an_idle_daemon_stops_if_it_is_asked_to() {
    let mut daemon = Daemon::start(&["--idle-exit", "1"]);
    let mut client = daemon.connect();
    client.ping();
    // Longer than the option says: a client is no idleness, even if it says nothing.
    client.do_it(r#"{"op":"put","key":"a","value":1,"ttl_ms":1500}"#);
    client.subscribe("a");
    assert_eq!(client.event()["event"], "delete");
    client.ping();
    let start = Instant::now();
    drop(client);
    assert_eq!(daemon.wait().code(), Some(0));
    let late = start.elapsed();
    println!("it stopped {late:?} after its last client had left");
    assert!(late >= Duration::from_secs(1), "{late:?}");
    assert!(!daemon.socket().exists());
}

#[test]
fn a_signal_logs_the_statistics() {
    let daemon = Daemon::start(&[]);
    daemon
        .connect()
        .do_it(r#"{"op":"put","key":"a","value":1}"#);
    daemon.signal("USR1");
    let line = daemon.wait_for_log("statistics: {");
    assert!(line.contains(r#""puts":1,"#), "{line}");
    daemon.connect().ping();
}

/// The daemon is held in its start: it reads its rules from a pipe that stays open.
#[test]
fn a_signal_may_come_while_it_starts() {
    let plan = Plan::new();
    let rules = plan.directory().join("rules");
    nix::unistd::mkfifo(&rules, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let daemon = plan.with(&["--access", rules.to_str().unwrap()]).launch();
    // It is opened when the other end is.
    let mut pipe = std::fs::OpenOptions::new()
        .write(true)
        .open(&rules)
        .unwrap();
    std::fs::remove_file(&rules).unwrap();
    std::fs::write(&rules, "allow anyone read *\n").unwrap();
    daemon.signal("USR1");
    daemon.signal("HUP");
    pipe.write_all(b"allow anyone all *\n").unwrap();
    drop(pipe);
    assert!(daemon.serves(), "{}", daemon.log());
    // What has changed since the start has read it counts, and the other signal has nothing to tell of.
    daemon.wait_for_log("the rules are read again");
    let mut client = daemon.connect();
    assert_eq!(client.fail(r#"{"op":"put","key":"a","value":1}"#), "denied");
}

#[test]
fn the_log_has_addresses_and_no_secrets() {
    let plan = Plan::new();
    let token = plan.directory().join("token");
    std::fs::write(&token, "secret-token\n").unwrap();
    let words = [
        "--log",
        "trace",
        "--token-file",
        token.to_str().unwrap(),
        "127.0.0.1:0",
    ];
    let plan = plan.with(&words);
    let daemon = plan.start();
    for mut client in [daemon.connect(), daemon.connect_tcp()] {
        client.ask(r#"{"op":"hello","token":"secret-guess"}"#);
        client.do_it(r#"{"op":"hello","token":"secret-token","client":"teller"}"#);
        client.subscribe("*");
        client.do_it(r#"{"op":"put","key":"a","value":"secret-value"}"#);
        client.do_it(r#"{"op":"put","key":"b","base64":"c2VjcmV0"}"#);
        client.do_it(r#"{"op":"batch","ops":[{"op":"put","key":"c","value":"secret-value"}]}"#);
        client.fail(r#"{"op":"put","key":"a","value":"secret-value","if_rev":77}"#);
        client.fail(r#"{"op":"put","key":"a","value":"secret-value","secret-field":1}"#);
        client.fail(r#"{"op":"put","key":"a","value":secret-nonsense}"#);
        client.send_bytes(b"\"secret-rest");
    }
    daemon.signal("HUP");
    daemon.wait_for_log("token is read again");
    daemon.signal("USR1");
    daemon.wait_for_log("statistics: {");
    let log = daemon.stop();
    assert!(log.contains("listening on 127.0.0.1:"));
    assert!(log.contains(&format!("listening on {}", plan.socket().display())));
    for secret in ["secret-", "c2VjcmV0"] {
        assert!(!log.contains(secret), "{log}");
    }
}

/// A log that can't be written is no reason to end, nor to end in another way.
#[test]
fn a_full_standard_error_changes_nothing() {
    let under = ["sh", "-c", "exec \"$@\" 2>/dev/full", "sh"];
    let plan = Plan::new().under(&under);
    assert_exit(&plan.clone().with(&["--idle-exit", "1"]), 0);
    assert_exit(&plan.with(&["--no-such-option"]), 2);
}

#[test]
fn clients_are_listed_with_their_peers() {
    let daemon = Daemon::start(&["127.0.0.1:0"]);
    let (mut unix, mut tcp) = (daemon.connect(), daemon.connect_tcp());
    unix.do_it(r#"{"op":"hello","client":"the unix one"}"#);
    unix.subscribe("a");
    let list = tcp.do_it(r#"{"op":"clients"}"#);
    let list = list["clients"].as_array().unwrap();
    assert_eq!(list.len(), 2);
    let named = list
        .iter()
        .find(|client| client["name"] == "the unix one")
        .unwrap();
    assert_eq!(named["pid"], std::process::id());
    assert_eq!(named["subscriptions"], 1);
    let other = list.iter().find(|client| client["name"].is_null()).unwrap();
    assert!(other["address"].as_str().unwrap().starts_with("127.0.0.1:"));
}
