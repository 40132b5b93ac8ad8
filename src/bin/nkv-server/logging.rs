//! The log: one line an event on stderr.
//!
//! A terminal or a file gets a time stamp and the level. The system journal keeps the time itself
//! and reads the level from a prefix like `<6>` (sd-daemon(3)), so it gets that and no more.

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;

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
        builder.format_target(false);
    }
    builder.init();
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
