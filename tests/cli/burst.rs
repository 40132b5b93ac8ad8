//! `subscribe --exec`: how often the command runs, and with what.

use std::io::Write;
use std::process::Stdio;

use crate::daemon::{Daemon, client};
use crate::{Lines, run};

fn batch(daemon: &Daemon, lines: &str) {
    let mut batch = client(&daemon.address())
        .arg("batch")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    batch
        .stdin
        .take()
        .unwrap()
        .write_all(lines.as_bytes())
        .unwrap();
    assert!(batch.wait().unwrap().success());
}

#[test]
fn a_burst_is_one_run() {
    let daemon = Daemon::start();
    run(&daemon, &["put", "a.x", "1"]);
    run(&daemon, &["put", "a.y", "2"]);
    let command = r#"echo "rev $NKV_REV $NKV_KEY$NKV_EVENT"; cat"#;
    let arguments = [
        "subscribe",
        "a",
        "--exec",
        command,
        "--burst",
        "--count",
        "3",
    ];
    let mut lines = Lines::of(&daemon, &arguments);
    lines.expect("rev 2 ");
    lines.expect(r#"{"event":"put","key":"a.x","value":1,"rev":1}"#);
    lines.expect(r#"{"event":"put","key":"a.y","value":2,"rev":2}"#);
    batch(
        &daemon,
        "{\"op\":\"put\",\"key\":\"a.x\",\"value\":9}\n{\"op\":\"delete\",\"key\":\"a.y\"}\n",
    );
    lines.expect("rev 4 ");
    lines.expect(r#"{"event":"put","key":"a.x","value":9,"rev":3}"#);
    lines.expect(r#"{"event":"delete","key":"a.y","rev":4}"#);
    run(&daemon, &["put", "elsewhere", "1"]);
    run(&daemon, &["put", "a.z", "3"]);
    lines.expect("rev 6 ");
    lines.expect(r#"{"event":"put","key":"a.z","value":3,"rev":6}"#);
    assert_eq!(lines.end(), (Some(0), String::new()));
}

/// The first run waits until all the changes are made; the second one has them all.
fn held_up(daemon: &Daemon, options: &[&str], command: &str) -> Lines {
    let command = format!(
        "{command}; {} -a {} wait go >/dev/null",
        env!("CARGO_BIN_EXE_nkv-client"),
        daemon.address()
    );
    let arguments = [&["subscribe", "a", "--exec", &command], options].concat();
    let mut lines = Lines::of(daemon, &arguments);
    lines.expect("first");
    for n in 1..=20 {
        run(daemon, &["put", "a.x", &n.to_string()]);
        run(daemon, &["put", "a.y", &(n * 10).to_string()]);
    }
    run(daemon, &["delete", "a.first"]);
    run(daemon, &["put", "go", "1"]);
    lines
}

#[test]
fn what_changes_while_it_runs_is_the_next_burst() {
    let daemon = Daemon::start();
    run(&daemon, &["put", "a.first", "0"]);
    let command = r#"in=$(cat); case $in in *'"value":0'*) echo first;; *) echo "$in";; esac"#;
    let mut lines = held_up(&daemon, &["--burst", "--count", "2"], command);
    lines.expect(r#"{"event":"put","key":"a.x","value":20,"rev":40}"#);
    lines.expect(r#"{"event":"put","key":"a.y","value":200,"rev":41}"#);
    lines.expect(r#"{"event":"delete","key":"a.first","rev":42}"#);
    assert_eq!(lines.end(), (Some(0), String::new()));
}

#[test]
fn each_key_has_one_run_with_its_newest_value() {
    let daemon = Daemon::start();
    run(&daemon, &["put", "a.first", "0"]);
    let command = r#"[ "$(cat)" = 0 ] && echo first || echo "$NKV_EVENT $NKV_KEY $NKV_REV""#;
    let mut lines = held_up(&daemon, &["--count", "5"], command);
    lines.expect("put a.x 40");
    lines.expect("put a.y 41");
    lines.expect("delete a.first 42");
    // Nothing else had a run.
    run(&daemon, &["put", "a.last", "1"]);
    lines.expect("put a.last 44");
    lines.kill();
}
