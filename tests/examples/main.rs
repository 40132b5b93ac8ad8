//! The programs of `examples/`, run against a daemon as their comments say: what they print.
//!
//! `cargo test` builds them; where only this test is asked for, it has them built itself.

#![cfg(feature = "daemon")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "these are tests"
)]

#[path = "../support/daemon.rs"]
mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, OnceLock, PoisonError};

use support::{Daemon, PATIENCE, Plan};

/// An example that runs.
struct Example {
    words: String,
    child: Child,
    input: Option<ChildStdin>,
    output: Mutex<Receiver<String>>,
}

impl Example {
    /// Starts one with its arguments, to which the daemon's address is added.
    fn start(words: &str, daemon: &Daemon) -> Example {
        let mut arguments = words.split(' ');
        let mut child = Command::new(directory().join(arguments.next().unwrap()))
            .args(arguments)
            .arg(daemon.socket())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, output) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                drop(sender.send(line));
            }
        });
        Example {
            words: words.to_owned(),
            input: child.stdin.take(),
            child,
            output: Mutex::new(output),
        }
    }

    /// The next line that it prints.
    fn line(&self) -> String {
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let line = output.recv_timeout(PATIENCE);
        line.unwrap_or_else(|error| panic!("{} prints no more: {error}", self.words))
    }

    /// Wants these lines next.
    fn prints(&self, lines: &[&str]) {
        for line in lines {
            assert_eq!(self.line(), *line, "{}", self.words);
        }
    }

    /// Lets lines pass until one is this.
    fn comes_to(&self, line: &str) -> Vec<String> {
        let mut passed = Vec::new();
        loop {
            let next = self.line();
            if next == line {
                return passed;
            }
            passed.push(next);
        }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it ends by itself, as it should.
    fn wait(mut self) {
        drop(self.input.take());
        assert!(self.child.wait().unwrap().success(), "{}", self.words);
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where the examples are, once they are built.
fn directory() -> &'static PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        // target/debug/deps/examples-… is this program.
        let program = std::env::current_exe().unwrap();
        let profile = program.ancestors().nth(2).unwrap();
        let mut build = Command::new(env!("CARGO"));
        build
            .args(["build", "--quiet", "--examples", "--target-dir"])
            .arg(profile.parent().unwrap())
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success());
        profile.join("examples")
    })
}

#[test]
fn configuration_follows_what_is_put() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.connect();
    client.do_it(r#"{"op":"put","key":"config.web.public","value":{"host":"::1","port":8080}}"#);
    let example = Example::start("configuration", &daemon);
    example.prints(&["config.web.public: open [::1]:8080", "configured"]);
    client.do_it(concat!(
        r#"{"op":"batch","ops":["#,
        r#"{"op":"put","key":"config.web.public","value":{"host":"::","port":443}},"#,
        r#"{"op":"put","key":"config.web.admin","value":{"host":"::1","port":81}}]}"#
    ));
    example.prints(&[
        "config.web.public: from [::1]:8080 to [::]:443",
        "config.web.admin: open [::1]:81",
        "configured",
    ]);
    client.do_it(r#"{"op":"put","key":"config.web.admin","value":{"host":"::1","port":"http"}}"#);
    let complaint = example.line();
    let begins = "config.web.admin: left as it is: the value does not fit: invalid type: string";
    assert!(complaint.starts_with(begins), "{complaint}");
    example.prints(&["configured"]);
    client.do_it(r#"{"op":"delete","key":"config.web.admin"}"#);
    example.prints(&["config.web.admin: close", "configured"]);
}

#[test]
fn presence_tells_who_comes_and_goes() {
    let plan = Plan::keeping();
    let daemon = plan.start();
    let here =
        |name: &str, example: &Example| format!("{name} is here, process {}", example.child.id());
    let camera = Example::start("presence camera", &daemon);
    camera.prints(&[&here("camera", &camera)]);
    let light = Example::start("presence hall.light", &daemon);
    camera.prints(&[&here("hall.light", &light)]);
    light.comes_to(&here("hall.light", &light));
    light.kill();
    camera.prints(&["hall.light is gone"]);
    // A restart of the daemon is no going.
    daemon.stop();
    let daemon = plan.start();
    let light = Example::start("presence hall.light", &daemon);
    camera.prints(&[&here("hall.light", &light)]);
}

#[test]
fn a_leader_is_followed_by_another() {
    let plan = Plan::keeping();
    let daemon = plan.start();
    let first = Example::start("leader edge-1", &daemon);
    first.prints(&["edge-1 leads"]);
    let second = Example::start("leader edge-2", &daemon);
    second.prints(&["edge-2 follows edge-1"]);
    first.kill();
    second.prints(&["edge-2 leads"]);
    // Over a restart of the daemon it leads nobody, and then again.
    daemon.kill();
    second.prints(&["edge-2 steps down"]);
    let daemon = plan.start();
    second.prints(&["edge-2 leads"]);
    let first = Example::start("leader edge-1", &daemon);
    first.prints(&["edge-1 follows edge-2"]);
    // Nobody has to be asked.
    let mut client = daemon.connect();
    client.do_it(r#"{"op":"put","key":"leader","value":"edge-3"}"#);
    second.prints(&["edge-2 steps down", "edge-2 follows edge-3"]);
    first.prints(&["edge-1 follows edge-3"]);
    client.do_it(r#"{"op":"delete","key":"leader"}"#);
    let lines = [first.line(), second.line()];
    let leads = lines.iter().filter(|line| line.ends_with(" leads"));
    let follows = lines.iter().filter(|line| line.contains(" follows edge-"));
    assert_eq!((leads.count(), follows.count()), (1, 1), "{lines:?}");
}

#[test]
fn progress_is_shown_and_goes_on() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.connect();
    client.do_it(r#"{"op":"put","key":"progress.backup","value":100,"lifetime":"boot"}"#);
    let show = Example::start("progress show", &daemon);
    show.prints(&["backup: 50 %"]);
    let work = Example::start("progress work backup", &daemon);
    work.prints(&["backup begins at step 100 of 200", "backup is done"]);
    work.wait();
    let passed = show.comes_to("backup: 100 %");
    assert!(passed.is_sorted(), "{passed:?}");
    let entry = client.do_it(r#"{"op":"get","key":"progress.backup"}"#);
    assert_eq!(entry["lifetime"], "boot");
}

#[test]
fn metrics_are_published() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.connect();
    client.subscribe("metrics");
    let mut example = Example::start("metrics reader", &daemon);
    let first = [client.event(), client.event()];
    assert_eq!(first[0]["key"], "metrics.reader.lines");
    assert_eq!(first[1]["key"], "metrics.reader.bytes");
    let input = example.input.as_mut().unwrap();
    input.write_all(b"one\ntwo\nthree\n").unwrap();
    drop(example.input.take());
    example.comes_to("published 3 lines");
    example.wait();
    let count = |key: &str, client: &mut support::Client| {
        let entry = client.do_it(&format!(r#"{{"op":"get","key":"metrics.reader.{key}"}}"#));
        assert_eq!(entry["lifetime"], "boot");
        entry["value"].as_u64().unwrap()
    };
    assert_eq!(count("lines", &mut client), 3);
    assert_eq!(count("bytes", &mut client), 14);
}
