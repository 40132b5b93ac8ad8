//! How the log looks to whoever reads it: the system journal, a file, a terminal.

use std::process::Command;

use crate::support::{Plan, has_program, skip};

/// Announces stderr as the system journal's, as systemd does, and becomes the daemon.
const UNDER_JOURNAL: [&str; 4] = [
    "sh",
    "-c",
    r#"JOURNAL_STREAM=$(stat -L -c %d:%i /dev/fd/2) exec "$@""#,
    "sh",
];

#[test]
fn the_system_journal_gets_priorities_and_no_time() {
    let log = Plan::new().under(&UNDER_JOURNAL).start().stop();
    assert!(log.lines().count() >= 3, "{log}");
    for line in log.lines() {
        assert!(line.starts_with("<6>"), "{line}");
        assert!(!line.contains("INFO"), "{line}");
    }
    let plan = Plan::new().under(&UNDER_JOURNAL);
    let listener = std::os::unix::net::UnixListener::bind(plan.directory().join("own"));
    let daemon = plan.passing(listener.unwrap(), "own").start();
    let warning = daemon.wait_for_log("passed as own is not served");
    assert!(warning.starts_with("<4>"), "{warning}");
}

#[test]
fn why_a_start_fails_is_an_error_for_the_system_journal() {
    let check = |plan: Plan, expected: &str| {
        let output = plan.run();
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.starts_with(expected), "{message}");
    };
    let wrong = Plan::new().with(&["--no-such"]);
    check(wrong.clone(), "nkv-server: ");
    check(wrong.under(&UNDER_JOURNAL), "<3>");
    let late = Plan::new().with(&["/nowhere/nkv.sock"]);
    check(late.clone(), "nkv-server: ");
    check(late.under(&UNDER_JOURNAL), "<3>");
}

#[test]
fn others_get_the_time_and_the_level() {
    let check = |plan: Plan| {
        let log = plan.start().stop();
        for line in log.lines() {
            assert!(line.starts_with("[20"), "{line}");
            assert!(line.contains("Z INFO ] "), "{line}");
            assert!(!line.contains('\x1b'), "{line}");
        }
    };
    check(Plan::new());
    // The system journal reads another stream than this: stderr was redirected.
    check(Plan::new().with_variable("JOURNAL_STREAM", "1:1"));
    check(Plan::new().with_variable("JOURNAL_STREAM", "nonsense"));
}

#[test]
fn a_terminal_gets_colours_unless_they_are_unwanted() {
    if !has_program("script") {
        return skip("no script(1), which has a terminal");
    }
    let seen = |no_color: Option<&str>| {
        let directory = tempfile::tempdir().unwrap();
        let command = format!(
            "{} --in-memory --idle-exit 1 {}/nkv.sock",
            env!("CARGO_BIN_EXE_nkv-server"),
            directory.path().display()
        );
        let mut script = Command::new("script");
        script.args(["-qec", &command, "/dev/null"]);
        script.env("TERM", "xterm").env_remove("NO_COLOR");
        script.env_remove("NKV_LOG").env_remove("CI");
        script.envs(no_color.map(|value| ("NO_COLOR", value)));
        let output = script.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let coloured = seen(None);
    assert!(coloured.contains("\x1b[32m"), "{coloured:?}");
    assert!(coloured.contains("stopping"), "{coloured:?}");
    let plain = seen(Some("1"));
    assert!(!plain.contains('\x1b'), "{plain:?}");
    assert!(plain.contains("stopping"), "{plain:?}");
}
