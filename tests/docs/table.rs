//! Tables of the keyspace, held against the library and a broker.
//!
//! In the table of who hears of which change, the first column is a subscription, a key or pattern in code quotes and `exact` behind it where it is;
//! the other headings are keys; a cell says `yes` or nothing. Each cell is held against the pattern itself and, where clients can
//! write the key, against a broker to which the subscription and the change are made.

use std::collections::BTreeSet;

use nkv::{Key, Pattern};

use crate::support::{Bench, unix_peer};

/// Who hears of which change.
pub(crate) fn check_subscriptions(path: &str, text: &str) {
    let (heading, rows) = table(path, text, "subscription");
    let keys: Vec<&str> = heading[1..].iter().map(String::as_str).collect();
    assert!(
        rows.len() > 5 && keys.len() > 5,
        "the table is larger than that"
    );
    for row in &rows {
        let said: BTreeSet<&str> = keys
            .iter()
            .zip(&row[1..])
            .filter_map(|(key, cell)| match &**cell {
                "yes" => Some(*key),
                "" => None,
                other => panic!("{path}: {} {key}: what does {other:?} mean?", row[0]),
            })
            .collect();
        let (pattern, exact) = match row[0].strip_suffix(" exact") {
            Some(pattern) => (pattern, true),
            None => (&*row[0], false),
        };
        assert_eq!(
            said,
            by_pattern(pattern, exact, &keys),
            "{path}: the row {}",
            row[0]
        );
        let writable = |key: &&str| !key.starts_with('$');
        let said: BTreeSet<&str> = said.into_iter().filter(writable).collect();
        let keys: Vec<&str> = keys.iter().copied().filter(writable).collect();
        assert_eq!(
            said,
            by_broker(pattern, exact, &keys),
            "{path}: the row {}",
            row[0]
        );
    }
}

/// What each pattern matches, and what it does not.
pub(crate) fn check_patterns(path: &str, text: &str) {
    let (_, rows) = table(path, text, "pattern");
    for row in rows {
        let pattern = Pattern::new(&row[0]).unwrap();
        for (cell, expected) in [(&row[1], true), (&row[2], false)] {
            for key in cell.split(", ").filter_map(|key| Key::new(key).ok()) {
                assert_eq!(
                    pattern.matches(key.borrowed()),
                    expected,
                    "{path}: {pattern} {key}"
                );
            }
        }
    }
}

/// What each text is as a segment.
pub(crate) fn check_escapes(path: &str, text: &str) {
    let (_, rows) = table(path, text, "text");
    for row in rows {
        assert_eq!(nkv::key::escape(&row[0]), row[1], "{path}");
        assert_eq!(nkv::key::unescape(&row[1]), row[0], "{path}");
    }
}

fn by_pattern<'k>(pattern: &str, exact: bool, keys: &[&'k str]) -> BTreeSet<&'k str> {
    let pattern = Pattern::new(pattern).unwrap();
    let covered = if exact {
        pattern
    } else {
        pattern.with_descendants()
    };
    let is_covered = |key: &&&str| covered.matches(Key::new(key).unwrap().borrowed());
    keys.iter().filter(is_covered).copied().collect()
}

fn by_broker<'k>(pattern: &str, exact: bool, keys: &[&'k str]) -> BTreeSet<&'k str> {
    let mut bench = Bench::new(Default::default());
    let client = bench.connect(unix_peer()).unwrap();
    let subscribe = format!(
        "{{\"id\":1,\"op\":\"subscribe\",\"key\":\"{pattern}\",\"exact\":{exact},\"initial\":false}}\n"
    );
    bench.send(client, subscribe.as_bytes());
    bench.settle(usize::MAX);
    bench.take_received(client);
    let is_told = |key: &&&str| {
        bench.send(
            client,
            format!("{{\"op\":\"put\",\"key\":\"{key}\",\"value\":1}}\n").as_bytes(),
        );
        bench.settle(usize::MAX);
        let received = String::from_utf8(bench.take_received(client)).unwrap();
        assert!(received.contains("\"ok\":true"), "{received}");
        received.contains(&format!("{{\"sub\":1,\"event\":\"put\",\"key\":\"{key}\""))
    };
    keys.iter().filter(is_told).copied().collect()
}

/// The heading and the rows of the table whose first heading is this.
pub(crate) fn table(path: &str, text: &str, first: &str) -> (Vec<String>, Vec<Vec<String>>) {
    let mut rows = text
        .lines()
        .skip_while(|line| !line.starts_with(&format!("| {first} |")))
        .take_while(|line| line.starts_with('|'))
        .map(cells);
    let heading = rows
        .next()
        .unwrap_or_else(|| panic!("{path} has no table of each {first}"));
    (heading, rows.skip(1).collect())
}

fn cells(row: &str) -> Vec<String> {
    let row = row.trim().trim_start_matches('|').trim_end_matches('|');
    let cells = row.split('|');
    cells
        .map(|cell| cell.replace('`', "").trim().to_owned())
        .collect()
}
