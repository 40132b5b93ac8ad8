//! `top`: as plain text, and on a terminal.

use std::io::{Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use nkv::Client;

use crate::daemon::{Daemon, client};
use crate::support::{has_program, skip};
use crate::{Lines, run};

/// Puts keys as long as something is done.
fn under_load<R>(daemon: &Daemon, act: impl FnOnce() -> R) -> R {
    let is_done = AtomicBool::new(false);
    let client = Client::connect(daemon.address()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0_u64.. {
                if is_done.load(Ordering::Relaxed) {
                    break;
                }
                client.put("hot.often", &n).unwrap();
                client.put("hot.too", &n).unwrap();
                client.put(format!("cold.{}", n % 1000), &n).unwrap();
            }
        });
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        is_done.store(true, Ordering::Relaxed);
        done.unwrap()
    })
}

/// The row below a heading, as words.
fn below<'t>(text: &'t str, heading: &str) -> Vec<&'t str> {
    let mut lines = text.lines().skip_while(|line| !line.starts_with(heading));
    let row = lines.nth(1).unwrap_or_default();
    row.split_whitespace().collect()
}

#[test]
fn it_prints_tables_where_there_is_no_terminal() {
    let daemon = Daemon::start();
    let arguments = ["top", "--count", "2", "--interval", "200ms"];
    let output = under_load(&daemon, || {
        client(&daemon.address()).args(arguments).output().unwrap()
    });
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text.matches("REQUESTS/S").count(), 2, "{text}");
    let rate = |index: usize| below(&text, "REQUESTS/S")[index].parse::<f64>().unwrap();
    assert!(rate(0) > 0.0 && rate(1) > 0.0, "{text}");
    // What it asks itself is not counted.
    assert_eq!(rate(2), 0.0, "{text}");
    assert_eq!(below(&text, "CLIENTS")[..2], ["2", "1"], "{text}");
    assert!(below(&text, "KEY ")[0].starts_with("hot."), "{text}");
    assert!(text.contains("nkv-client"), "{text}");
}

#[test]
fn keys_can_be_chosen_or_left_out() {
    let daemon = Daemon::start();
    let check = |options: &[&str], subscriptions: &str, key: &[&str]| {
        let arguments = [&["top", "--count", "1", "--interval", "300ms"], options].concat();
        let output = under_load(&daemon, || {
            client(&daemon.address()).args(&arguments).output().unwrap()
        });
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(below(&text, "CLIENTS")[1], subscriptions, "{text}");
        assert_eq!(below(&text, "KEY ").first(), key.first(), "{text}");
    };
    check(&["--keys", "hot.too"], "1", &["hot.too"]);
    check(&["--no-keys"], "0", &[]);
}

#[test]
fn it_goes_on_over_a_restart_of_the_daemon() {
    let mut daemon = Daemon::start();
    run(&daemon, &["put", "a", "1"]);
    let mut lines = Lines::of(&daemon, &["top", "--interval", "100ms"]);
    let mut first = String::new();
    std::io::BufRead::read_line(&mut lines.stdout, &mut first).unwrap();
    assert!(first.starts_with("REQUESTS/S"), "{first}");
    daemon.restart();
    let keys_now = |line: &str| line.split_whitespace().nth(2).map(str::to_owned);
    loop {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut lines.stdout, &mut line).unwrap();
        if line.starts_with("CLIENTS") {
            line.clear();
            std::io::BufRead::read_line(&mut lines.stdout, &mut line).unwrap();
            // The second daemon has no keys.
            if keys_now(&line).as_deref() == Some("0") {
                break;
            }
        }
    }
    lines.kill();
}

#[test]
fn bad_intervals_are_refused() {
    let daemon = Daemon::start();
    for (interval, reason) in [("0s", "the shortest is 100ms"), ("x", "not a duration")] {
        let output = client(&daemon.address())
            .args(["top", "--interval", interval])
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(reason), "{stderr}");
    }
}

/// A terminal in which something runs.
struct Terminal {
    script: Child,
    output: ChildStdout,
    shown: String,
}

impl Terminal {
    /// Runs `top` in a terminal of this size, and says before and after it what the terminal's
    /// settings are. `None` where no terminal can be made.
    fn with_top(daemon: &Daemon, size: &str, options: &str) -> Option<Terminal> {
        if !has_program("script") {
            skip("there is no script(1), from util-linux");
            return None;
        }
        let program = format!(
            "stty {size}; before=$(stty -g); echo \"tty=$(tty) \"; \
             sh -c 'echo \"pid=$$ \"; exec \"$0\" -a \"$1\" top {options}' {} {}; \
             echo \"code=$? \"; [ \"$before\" = \"$(stty -g)\" ] && echo given-back",
            env!("CARGO_BIN_EXE_nkv-client"),
            daemon.address()
        );
        let mut script = Command::new("script")
            .args(["--quiet", "--flush", "--command", &program, "/dev/null"])
            .env("TERM", "xterm-256color")
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = script.stdout.take().unwrap();
        Some(Terminal {
            script,
            output,
            shown: String::new(),
        })
    }

    /// Reads until something is shown that was not before.
    fn until(&mut self, part: &str) {
        let start = self.shown.len();
        while !self.shown[start..].contains(part) {
            let mut bytes = [0; 4096];
            let count = self.output.read(&mut bytes).unwrap();
            assert!(count > 0, "{part} is shown in {:?}", self.shown);
            let text: String = bytes[..count].iter().copied().map(char::from).collect();
            self.shown.push_str(&text);
        }
    }

    fn said(&self, name: &str) -> String {
        let (_, rest) = self.shown.split_once(&format!("{name}=")).unwrap();
        rest.split_whitespace().next().unwrap().to_owned()
    }

    fn type_in(&mut self, keys: &str) {
        let mut stdin = self.script.stdin.as_ref().unwrap();
        stdin.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for its end, and looks whether the terminal is as it was.
    fn ends_with(mut self, code: &str) {
        self.until("given-back");
        assert_eq!(self.said("code"), code);
        // It has left the other screen, and shows the cursor.
        let (_, after) = self.shown.rsplit_once("\u{1b}[?1049h").unwrap();
        assert!(after.contains("\u{1b}[?1049l"), "{after:?}");
        assert!(after.contains("\u{1b}[?25h"), "{after:?}");
        drop(self.script.stdin.take());
        self.script.wait().unwrap();
    }
}

fn sh(command: &str) {
    let status = Command::new("sh").args(["-c", command]).status();
    assert!(status.unwrap().success(), "{command}");
}

#[test]
fn keys_and_signals_end_it_and_the_terminal_is_given_back() {
    let daemon = Daemon::start();
    let end_by: [(&str, &str); 4] = [("q", "0"), ("\u{1b}", "0"), ("\u{3}", "0"), ("TERM", "1")];
    for (how, code) in end_by {
        let Some(mut terminal) = Terminal::with_top(&daemon, "rows 24 cols 100", "") else {
            return;
        };
        terminal.until("CHANGES/S");
        match how {
            "TERM" => sh(&format!("kill -TERM {}", terminal.said("pid"))),
            keys => terminal.type_in(keys),
        }
        terminal.ends_with(code);
    }
}

#[test]
fn it_ends_after_so_many_intervals() {
    let daemon = Daemon::start();
    let options = "--count 2 --interval 100ms";
    if let Some(terminal) = Terminal::with_top(&daemon, "rows 24 cols 100", options) {
        terminal.ends_with("0");
    }
}

#[test]
fn it_is_drawn_anew_when_the_window_changes() {
    let daemon = Daemon::start();
    let Some(mut terminal) = Terminal::with_top(&daemon, "rows 10 cols 100", "--interval 1h")
    else {
        return;
    };
    terminal.until("NAME");
    assert!(!terminal.shown.contains("most"), "there is no room");
    sh(&format!("stty rows 40 cols 100 <{}", terminal.said("tty")));
    terminal.until("most");
    terminal.type_in("q");
    terminal.ends_with("0");
}

#[test]
fn a_lost_daemon_is_told_and_found_again() {
    let mut daemon = Daemon::start();
    let Some(mut terminal) = Terminal::with_top(&daemon, "rows 24 cols 100", "--interval 100ms")
    else {
        return;
    };
    terminal.until("NAME");
    daemon.stop();
    terminal.until("connect");
    daemon.restart();
    terminal.until("quits");
    terminal.type_in("q");
    terminal.ends_with("0");
}
