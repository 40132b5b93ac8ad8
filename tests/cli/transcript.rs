//! Transcripts: what is typed, and what must come of it.
//!
//! `$ ` begins a command with nkv-client's arguments; `< ` is a line of its stdin; `! ` a line of its
//! stderr; `? ` its exit code where that is not 0; `#` a remark; any other line is a line of its stdout.
//! A line of stdout that ends in `↵` has no line end. All of a file's commands speak to one daemon.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use crate::daemon::{Daemon, client};

#[derive(Default)]
struct Step {
    arguments: String,
    stdin: String,
    expected: String,
}

/// Carries out `transcripts/NAME.txt`.
pub(crate) fn check(name: &str) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/transcripts");
    let text = std::fs::read_to_string(directory.join(name).with_extension("txt")).unwrap();
    let daemon = Daemon::start();
    for step in steps(&text) {
        let actual = carry_out(&daemon, &step);
        assert_eq!(actual, step.expected, "in {name}, $ {}", step.arguments);
    }
}

fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some(arguments) = line.strip_prefix('$') {
            steps.push(Step {
                arguments: arguments.trim().to_owned(),
                ..Step::default()
            });
            continue;
        }
        let step = steps.last_mut().unwrap();
        match line.strip_prefix("< ") {
            Some(stdin) => step.stdin.push_str(&format!("{stdin}\n")),
            None => step.expected.push_str(&format!("{line}\n")),
        }
    }
    steps
}

/// What came of a step, as a transcript tells it.
fn carry_out(daemon: &Daemon, step: &Step) -> String {
    let mut child = client(&daemon.address())
        .args(shell_words::split(&step.arguments).unwrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that has failed already takes nothing more.
    drop(child.stdin.take().unwrap().write_all(step.stdin.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let mut told = String::from_utf8(output.stdout).unwrap();
    if !told.is_empty() && !told.ends_with('\n') {
        told.push_str("↵\n");
    }
    for line in String::from_utf8(output.stderr).unwrap().lines() {
        told.push_str(&format!("! {line}\n"));
    }
    if !output.status.success() {
        told.push_str(&format!("? {}\n", output.status.code().unwrap()));
    }
    told
}
