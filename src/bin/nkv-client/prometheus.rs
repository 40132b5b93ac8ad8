//! The daemon's counters in Prometheus' text exposition format, version 0.0.4.
//!
//! A metric is named after its counter, with what the format's users expect behind it: `_total` where
//! it only grows, `_seconds` instead of milliseconds. The table below says of each counter what it is.
//! A newer daemon may have others: they are told under their own names as `untyped` and without a help
//! line, since nothing is known of them here.
//!
//! What each user takes has a metric for each figure, with the user as the label `uid`.
//!
//! `rev` is no counter here although it grows: a start may skip millions of revisions, which a rate
//! would take for changes, and another epoch may begin lower.

use std::fmt::Write;

use nkv::client::{Stats, UserUse};

use crate::commands::{user_figures, user_name};

/// What a figure does.
enum Kind {
    /// It starts at 0 with the daemon and only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// The same, told in milliseconds by the daemon and in seconds by the metric.
    Milliseconds,
}

use Kind::{Counter, Gauge, Milliseconds};

/// Every counter of `stats`, in the order of docs/protocol.md.
const COUNTERS: [(&str, Kind, &str); 23] = [
    ("uptime_ms", Milliseconds, "Time since the daemon's start."),
    ("clients", Gauge, "Connections now."),
    ("subscriptions", Gauge, "Subscriptions now."),
    ("keys", Gauge, "Keys in the keyspace now."),
    (
        "bytes",
        Gauge,
        "Bytes of keys and values in the keyspace now.",
    ),
    ("rev", Gauge, "The keyspace's current revision."),
    (
        "requests",
        Counter,
        "Lines taken as requests, refused ones included.",
    ),
    (
        "puts",
        Counter,
        "Put requests, and puts of batches that were carried out.",
    ),
    ("gets", Counter, "Get requests."),
    (
        "deletes",
        Counter,
        "Delete requests, and deletes of batches that were carried out.",
    ),
    (
        "events",
        Counter,
        "Event lines made for subscribers, sync and reset included.",
    ),
    (
        "coalesced",
        Counter,
        "Changes that subscribers were spared because of a newer one of the same key.",
    ),
    ("errors", Counter, "Requests refused."),
    (
        "journal_bytes",
        Gauge,
        "Bytes of the durable journal's file.",
    ),
    (
        "journal_syncs",
        Counter,
        "How often the disk was asked to have all of the durable journal.",
    ),
    ("tombstones", Gauge, "Deleted keys that are remembered."),
    (
        "journal_records",
        Gauge,
        "Puts and deletions in the durable journal, overwritten ones included.",
    ),
    (
        "journal_live_bytes",
        Gauge,
        "About how many bytes the durable journal would have if it were written anew.",
    ),
    (
        "journal_written_bytes",
        Counter,
        "Bytes written to durable journals, those for rewriting them included.",
    ),
    (
        "journal_rewrites",
        Counter,
        "How often a durable journal was written anew.",
    ),
    (
        "journal_failures",
        Counter,
        "How often writing, syncing or rewriting a journal has failed.",
    ),
    (
        "boot_journal_bytes",
        Gauge,
        "Bytes of the boot journal's file.",
    ),
    (
        "read_only",
        Gauge,
        "1 while some writes are refused because storage has failed, else 0.",
    ),
];

/// Every figure of a user.
const USER_HELP: [(&str, &str); 5] = [
    ("connections", "A user's connections now."),
    (
        "subscriptions",
        "Subscriptions of a user's connections now.",
    ),
    ("keys", "Keys that a user was the last to put, now."),
    ("bytes", "Bytes of these keys and their values now."),
    (
        "buffered",
        "Bytes that the daemon keeps for a user's unfinished requests and unread answers now.",
    ),
];

/// All that the daemon tells about itself.
pub(crate) fn exposition(stats: &Stats) -> String {
    let mut text = String::new();
    let labels = [("version", &*stats.version), ("epoch", &*stats.epoch)];
    let labels = labels.map(|(name, value)| format!("{name}=\"{}\"", escaped_label(value)));
    let help = "The daemon's version and the epoch of its revisions.";
    let labelled = format!("nkv_info{{{}}}", labels.join(","));
    metric(&mut text, "nkv_info", Some(help), "gauge", &labelled, "1");
    for (name, count) in &stats.counters {
        let known = COUNTERS.iter().find(|(known, ..)| known == name);
        let count = count.to_string();
        match known {
            Some((name, Counter, help)) => {
                let name = format!("nkv_{name}_total");
                metric(&mut text, &name, Some(help), "counter", &name, &count);
            }
            Some((name, Gauge, help)) => {
                let name = format!("nkv_{name}");
                metric(&mut text, &name, Some(help), "gauge", &name, &count);
            }
            Some((name, Milliseconds, help)) => {
                let name = format!("nkv_{}_seconds", name.trim_end_matches("_ms"));
                let seconds = seconds(&count);
                metric(&mut text, &name, Some(help), "gauge", &name, &seconds);
            }
            // The format has no way to write other names.
            None if !is_metric_name(name) => {}
            None => {
                let name = format!("nkv_{name}");
                metric(&mut text, &name, None, "untyped", &name, &count);
            }
        }
    }
    for (name, help) in USER_HELP {
        user_metric(&mut text, name, help, &stats.users);
    }
    text
}

/// One metric with a sample for each user.
fn user_metric(text: &mut String, figure: &str, help: &str, users: &[UserUse]) {
    let name = format!("nkv_user_{figure}");
    let samples = users.iter().flat_map(|user| {
        let figures = user_figures(user).into_iter();
        let wanted = figures.filter(|(other, _)| *other == figure);
        wanted.map(|(_, value)| format!("{name}{{uid=\"{}\"}} {value}\n", user_name(user)))
    });
    let samples: String = samples.collect();
    if !samples.is_empty() {
        head(text, &name, Some(help), "gauge");
        text.push_str(&samples);
    }
}

/// One metric with one sample: its lines stand together, the sample last.
fn metric(
    text: &mut String,
    name: &str,
    help: Option<&str>,
    kind: &str,
    sample: &str,
    value: &str,
) {
    head(text, name, help, kind);
    writeln!(text, "{sample} {value}").expect("a String takes all");
}

fn head(text: &mut String, name: &str, help: Option<&str>, kind: &str) {
    let help = help.map_or(String::new(), |help| {
        format!("# HELP {name} {}\n", escaped_help(help))
    });
    writeln!(text, "{help}# TYPE {name} {kind}").expect("a String takes all");
}

/// Digits of milliseconds as seconds, without rounding.
fn seconds(milliseconds: &str) -> String {
    let padded = format!("{milliseconds:0>4}");
    let (seconds, rest) = padded.split_at(padded.len() - 3);
    format!("{seconds}.{rest}")
}

fn is_metric_name(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !name.is_empty() && name.bytes().all(is_part)
}

fn escaped_label(text: &str) -> String {
    escaped_help(text).replace('"', "\\\"")
}

fn escaped_help(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_are_seconds() {
        let check = |ms: &str, expected: &str| assert_eq!(seconds(ms), expected);
        check("0", "0.000");
        check("7", "0.007");
        check("999", "0.999");
        check("1000", "1.000");
        check("123456", "123.456");
        check("18446744073709551615", "18446744073709551.615");
    }

    #[test]
    fn labels_are_escaped() {
        let check = |text: &str, expected: &str| assert_eq!(escaped_label(text), expected);
        check("0.1.0", "0.1.0");
        check("a\"b\\c\nd", "a\\\"b\\\\c\\nd");
        check("größe\u{7f}'", "größe\u{7f}'");
    }

    #[test]
    fn names_of_a_newer_daemon_are_judged() {
        let check =
            |name: &str, expected: bool| assert_eq!(is_metric_name(name), expected, "{name}");
        check("queue_2", true);
        check("", false);
        check("a b", false);
        check("a{b", false);
        check("größe", false);
    }
}
