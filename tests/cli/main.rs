//! The programs as they are used: nkv-client against a real nkv-server.
//!
//! What a command prints, and how it ends, stands in `transcripts`; what takes more than one process
//! at a time stands here.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that meets a surprise should panic"
)]

mod announce;
mod burst;
mod claim;
mod daemon;
mod mirror;
mod prometheus;
mod record;
#[path = "../support/daemon.rs"]
mod support;
mod top;
mod transcript;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, ChildStdout, Stdio};

use daemon::{Daemon, client};

/// The stdout of a program that goes on, line by line.
struct Lines {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Lines {
    fn of(daemon: &Daemon, arguments: &[&str]) -> Lines {
        Lines::at(&daemon.address(), arguments)
    }

    fn at(address: &str, arguments: &[&str]) -> Lines {
        let mut child = client(address)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Lines { child, stdout }
    }

    fn expect(&mut self, expected: &str) {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end_matches('\n'), expected);
    }

    /// Waits for its end; returns the exit code and what it said on stderr.
    fn end(mut self) -> (Option<i32>, String) {
        let mut stderr = String::new();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut stderr)
            .unwrap();
        (self.child.wait().unwrap().code(), stderr)
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn run(daemon: &Daemon, arguments: &[&str]) {
    let output = client(&daemon.address()).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

#[test]
fn transcripts() {
    for name in ["values", "failures", "files", "shell"] {
        transcript::check(name);
    }
}

#[test]
fn subscriptions_print_changes() {
    let daemon = Daemon::start();
    run(&daemon, &["put", "a.x", "1"]);
    let mut lines = Lines::of(&daemon, &["subscribe", "a", "--count", "4"]);
    lines.expect("a.x 1");
    run(&daemon, &["put", "a.y", "text"]);
    lines.expect("a.y \"text\"");
    run(&daemon, &["put", "b", "2"]);
    run(&daemon, &["delete", "a.x"]);
    lines.expect("a.x (deleted)");
    run(&daemon, &["put", "a", "bytes", "--bytes"]);
    lines.expect("a base64:Ynl0ZXM=");
    assert_eq!(lines.end(), (Some(0), String::new()));
}

#[test]
fn subscriptions_speak_json() {
    let daemon = Daemon::start();
    run(&daemon, &["put", "a", "1.0"]);
    let mut lines = Lines::of(
        &daemon,
        &["subscribe", "a", "--json", "--exact", "--count", "2"],
    );
    lines.expect(r#"{"event":"put","key":"a","value":1.0,"rev":1}"#);
    lines.expect(r#"{"event":"sync","rev":1}"#);
    run(&daemon, &["put", "a.below", "1"]);
    run(&daemon, &["delete", "a"]);
    lines.expect(r#"{"event":"delete","key":"a","rev":3}"#);
    assert_eq!(lines.end(), (Some(0), String::new()));
}

#[test]
fn only_changes_where_asked() {
    let daemon = Daemon::start();
    run(&daemon, &["put", "a", "1"]);
    let arguments = ["subscribe", "*", "--changes-only", "--json", "--count", "1"];
    let mut lines = Lines::of(&daemon, &arguments);
    lines.expect(r#"{"event":"sync","rev":1}"#);
    run(&daemon, &["put", "b", "2"]);
    lines.expect(r#"{"event":"put","key":"b","value":2,"rev":2}"#);
    assert_eq!(lines.end(), (Some(0), String::new()));
}

#[test]
fn commands_run_at_changes() {
    let daemon = Daemon::start();
    run(&daemon, &["put", "a", "[1]"]);
    run(&daemon, &["put", "b", "2"]);
    let command = r#"echo "$NKV_EVENT $NKV_KEY $NKV_REV $(cat)""#;
    let mut lines = Lines::of(
        &daemon,
        &["subscribe", "*", "--exec", command, "--count", "3"],
    );
    lines.expect("put a 1 [1]");
    lines.expect("put b 2 2");
    run(&daemon, &["delete", "a"]);
    lines.expect("delete a 3 ");
    assert_eq!(lines.end(), (Some(0), String::new()));
}

#[test]
fn changes_while_a_command_runs_are_coalesced() {
    let daemon = Daemon::start();
    run(&daemon, &["put", "a", "0"]);
    // Each run waits for a line of a fifo-like key: the first one until all the puts are done.
    let command = format!(
        "cat; echo; {} -a {} wait go >/dev/null",
        env!("CARGO_BIN_EXE_nkv-client"),
        daemon.address()
    );
    let mut lines = Lines::of(
        &daemon,
        &["subscribe", "a", "--exec", &command, "--count", "2"],
    );
    lines.expect("0");
    for n in 1..=20 {
        run(&daemon, &["put", "a", &n.to_string()]);
    }
    run(&daemon, &["put", "go", "1"]);
    lines.expect("20");
    assert_eq!(lines.end(), (Some(0), String::new()));
}

#[test]
fn waiting_ends_when_it_is_so() {
    let daemon = Daemon::start();
    let mut exists = Lines::of(&daemon, &["wait", "a"]);
    let is_two = Lines::of(&daemon, &["wait", "a", "2"]);
    run(&daemon, &["put", "a", "1"]);
    exists.expect("1");
    assert_eq!(exists.end(), (Some(0), String::new()));
    let gone = Lines::of(&daemon, &["wait", "a", "--gone"]);
    run(&daemon, &["put", "a", "2"]);
    assert_eq!(is_two.end(), (Some(0), String::new()));
    run(&daemon, &["delete", "a"]);
    assert_eq!(gone.end(), (Some(0), String::new()));
}

/// A socket takes connections when nobody serves it yet: systemd's, say, of a daemon that can't start.
#[test]
fn waiting_ends_in_time_where_nobody_answers() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nkv.sock");
    let _unserved = UnixListener::bind(&path).unwrap();
    let mut waiting = client(path.to_str().unwrap());
    let output = waiting.args(["wait", "a", "-t", "300ms"]).output().unwrap();
    assert_eq!(output.status.code(), Some(124), "{output:?}");
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "nkv-client: --timeout ran out waiting for a to exist\n"
    );
}

#[test]
fn an_entry_is_held_until_the_program_ends() {
    let daemon = Daemon::start();
    let holder = Lines::of(&daemon, &["put", "a", "1", "--lifetime", "session"]);
    run(&daemon, &["wait", "a"]);
    holder.kill();
    run(&daemon, &["wait", "a", "--gone"]);
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    let daemon = Daemon::start();
    let mut import = client(&daemon.address())
        .arg("import")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = import.stdin.take().unwrap();
    for n in 0..5000 {
        writeln!(
            stdin,
            r#"{{"key":"keys.{n}","value":"{}"}}"#,
            "x".repeat(100)
        )
        .unwrap();
    }
    drop(stdin);
    assert!(import.wait().unwrap().success());
    for arguments in [
        ["get", "*"],
        ["export", "*"],
        ["tree", "*"],
        ["subscribe", "*"],
    ] {
        let mut lines = Lines::of(&daemon, &arguments);
        let mut line = String::new();
        lines.stdout.read_line(&mut line).unwrap();
        let Lines { child, stdout } = lines;
        drop(stdout);
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            String::from_utf8(output.stderr).unwrap(),
            "",
            "{arguments:?}"
        );
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
    }
}

/// Everything between a client and a daemon, until it is cut.
fn relay(client: UnixStream, daemon: &Daemon) -> impl FnOnce() + use<> {
    let server = UnixStream::connect(daemon.address()).unwrap();
    let copy = |mut from: UnixStream, mut to: UnixStream| {
        std::thread::spawn(move || drop(std::io::copy(&mut from, &mut to)));
    };
    copy(client.try_clone().unwrap(), server.try_clone().unwrap());
    copy(server.try_clone().unwrap(), client.try_clone().unwrap());
    move || {
        for stream in [client, server] {
            drop(stream.shutdown(std::net::Shutdown::Both));
        }
    }
}

#[test]
fn a_lost_connection_loses_nothing_and_tells_nothing_twice() {
    let daemon = Daemon::start();
    let path = daemon.directory().join("relay");
    let listener = UnixListener::bind(&path).unwrap();
    run(&daemon, &["put", "a", "1"]);
    run(&daemon, &["put", "b", "1"]);
    let mut lines = Lines::at(path.to_str().unwrap(), &["subscribe", "*", "--count", "5"]);
    let cut = relay(listener.accept().unwrap().0, &daemon);
    lines.expect("a 1");
    lines.expect("b 1");
    run(&daemon, &["put", "c", "1"]);
    lines.expect("c 1");
    cut();
    run(&daemon, &["put", "a", "2"]);
    run(&daemon, &["delete", "b"]);
    let _cut = relay(listener.accept().unwrap().0, &daemon);
    lines.expect("a 2");
    lines.expect("b (deleted)");
    let (code, stderr) = lines.end();
    assert_eq!(code, Some(0));
    let address = path.display();
    assert_eq!(
        stderr,
        format!(
            "nkv-client: the daemon closed the connection; reconnecting to {address}\n\
             nkv-client: connected again\n"
        )
    );
}

#[test]
fn a_daemon_without_its_history_tells_everything() {
    let mut daemon = Daemon::start();
    run(&daemon, &["put", "a", "1"]);
    let mut lines = Lines::of(&daemon, &["subscribe", "*", "--json", "--count", "2"]);
    lines.expect(r#"{"event":"put","key":"a","value":1,"rev":1}"#);
    lines.expect(r#"{"event":"sync","rev":1}"#);
    daemon.restart();
    lines.expect(r#"{"event":"reset","rev":0}"#);
    lines.expect(r#"{"event":"sync","rev":0}"#);
    run(&daemon, &["put", "b", "2"]);
    lines.expect(r#"{"event":"put","key":"b","value":2,"rev":1}"#);
    assert_eq!(lines.end().0, Some(0));
}

/// Answers `hello` and `subscribe`, says these lines and hangs up.
fn serve_once(listener: &UnixListener, subscribe: &str, lines: &[&str]) {
    let mut stream = BufReader::new(listener.accept().unwrap().0);
    let mut request = String::new();
    stream.read_line(&mut request).unwrap();
    let greeting = r#"{"id":1,"ok":true,"server":"s","protocol":1,"epoch":"e","rev":9}"#;
    writeln!(stream.get_mut(), "{greeting}").unwrap();
    request.clear();
    stream.read_line(&mut request).unwrap();
    assert_eq!(request.trim_end(), subscribe);
    writeln!(
        stream.get_mut(),
        r#"{{"id":2,"ok":true,"epoch":"e","rev":9}}"#
    )
    .unwrap();
    for line in lines {
        writeln!(stream.get_mut(), "{line}").unwrap();
    }
}

#[test]
fn a_connection_lost_in_the_first_entries_tells_nothing_twice() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let mut lines = Lines::at(path.to_str().unwrap(), &["subscribe", "*", "--count", "5"]);
    let anew = r#"{"id":2,"op":"subscribe","key":"*"}"#;
    let first = [
        r#"{"sub":2,"event":"put","key":"a","value":1,"rev":1}"#,
        r#"{"sub":2,"event":"put","key":"b","value":1,"rev":2}"#,
    ];
    serve_once(&listener, anew, &first);
    let second = [
        r#"{"sub":2,"event":"put","key":"a","value":1,"rev":1}"#,
        r#"{"sub":2,"event":"put","key":"c","value":1,"rev":5}"#,
        r#"{"sub":2,"event":"sync","rev":9}"#,
    ];
    serve_once(&listener, anew, &second);
    let resumed = r#"{"id":2,"op":"subscribe","key":"*","since":9,"epoch":"e"}"#;
    serve_once(
        &listener,
        resumed,
        &[r#"{"sub":2,"event":"put","key":"a","value":2,"rev":10}"#],
    );
    for expected in ["a 1", "b 1", "c 1", "b (deleted)", "a 2"] {
        lines.expect(expected);
    }
    assert_eq!(lines.end().0, Some(0));
}

#[test]
fn one_connection_bears_many_threads() {
    const THREADS: usize = 4;
    const PUTS: usize = 100;
    let daemon = Daemon::start();
    let client = nkv::Client::connect(daemon.address()).unwrap();
    let subscription = client.subscribe("load").unwrap();
    let padding = "x".repeat(50_000);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (client, padding) = (&client, &padding);
            scope.spawn(move || {
                let key = format!("load.{thread}");
                let put = |n| client.pipeline().put(&key, &(n, padding)).unwrap();
                let pending: Vec<_> = (0..PUTS).map(put).collect();
                // All are under way before the first is waited for.
                pending
                    .into_iter()
                    .for_each(|pending| assert!(pending.wait().unwrap().rev > 0));
                let entry = client.get::<(usize, String)>(&key).unwrap().unwrap();
                assert_eq!(entry.value.0, PUTS - 1);
            });
        }
        let mut rev = 0;
        let mut finished = 0;
        for event in subscription {
            let nkv::client::Event::Put {
                value, rev: next, ..
            } = event.unwrap()
            else {
                continue;
            };
            assert!(next > rev, "revisions grow");
            rev = next;
            finished += usize::from(value.json::<(usize, String)>().unwrap().0 == PUTS - 1);
            if finished == THREADS {
                break;
            }
        }
    });
}

#[test]
fn tcp_and_a_token() {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    std::fs::write(&token, "secret\n").unwrap();
    let token = token.to_str().unwrap();
    let daemon = Daemon::on_tcp(token);
    let check = |arguments: &[&str], expected: (Option<i32>, &str, &str)| {
        let output = client("/nowhere/nkv.sock")
            .args(arguments)
            .output()
            .unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            (output.status.code(), stdout.as_str(), stderr.as_str()),
            expected
        );
    };
    let address = daemon.address();
    check(
        &[&address, "--token-file", token, "put", "a", "1"],
        (Some(0), "", ""),
    );
    check(
        &["-a", &address, "--token-file", token, "GET", "a"],
        (Some(0), "1\n", ""),
    );
    let refused = "nkv-client: unauthenticated: hello needs the right token over TCP \
                   (--token-file or NKV_TOKEN_FILE name a file with the token)\n";
    check(&[&address, "get", "a"], (Some(4), "", refused));
}
