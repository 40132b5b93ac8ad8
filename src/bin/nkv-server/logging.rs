//! The log: one line an event on stderr.
//!
//! A terminal or a file gets a time stamp and the level. The system journal keeps the time itself
//! and reads the level from a prefix like `<6>` (sd-daemon(3)), so it gets that and no more.

use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;

use log::Level;

/// Starts logging with an env_logger filter, such as `info` or `nkv::server=debug`. To be called once.
pub(crate) fn start(filter: &str) {
    let mut builder = env_logger::Builder::new();
    builder
        .parse_filters(filter)
        .target(env_logger::Target::Stderr);
    if is_journal() {
        builder.format(|line, record| {
            let priority = match record.level() {
                Level::Error => 3,
                Level::Warn => 4,
                Level::Info => 6,
                Level::Debug | Level::Trace => 7,
            };
            writeln!(line, "<{priority}>{}", record.args())
        });
    } else {
        let has_colours = has_colours();
        builder.format(move |line, record| {
            let level = record.level();
            let (on, off) = if has_colours { colour(level) } else { ("", "") };
            let time = humantime::format_rfc3339_seconds(SystemTime::now());
            writeln!(line, "[{time} {on}{level:<5}{off}] {}", record.args())
        });
    }
    builder.init();
}

/// Whether somebody looks at it who sees colours and has not said <https://no-color.org>.
fn has_colours() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_none_or(|terminal| terminal == "dumb");
    io::stderr().is_terminal() && !is_set("NO_COLOR") && !is_dumb
}

/// The escape sequences before and after the name of a level (ECMA-48, "select graphic rendition").
fn colour(level: Level) -> (&'static str, &'static str) {
    let on = match level {
        Level::Error => "\x1b[1;31m",
        Level::Warn => "\x1b[33m",
        Level::Info => "\x1b[32m",
        Level::Debug => "\x1b[34m",
        Level::Trace => "\x1b[36m",
    };
    (on, "\x1b[0m")
}

/// Says why the daemon can't start or go on, as an error for the system journal and as it is for
/// everybody else. Where nobody can be told, the exit code says it.
pub(crate) fn complain(message: &str) {
    let prefix = if is_journal() { "<3>" } else { "nkv-server: " };
    let _ = writeln!(io::stderr(), "{prefix}{message}");
}

/// Whether stderr is the stream that the system journal said it reads (systemd.exec(5)).
fn is_journal() -> bool {
    let Ok(announced) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    std::fs::metadata("/proc/self/fd/2")
        .is_ok_and(|stream| announced == format!("{}:{}", stream.dev(), stream.ino()))
}
