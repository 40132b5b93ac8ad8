//! nkv(7), held against the wire.
//!
//! The page is the short form of docs/protocol.md. What it lists, it lists completely: ops and their
//! fields, events, lifetimes, error codes, limits, counters.

use std::collections::{BTreeMap, BTreeSet};

use nkv::wire::{Limits, Request};

use crate::page::Page;
use crate::support::Plan;
use crate::{same, source};

/// Every field that a request can have besides `op` and `id`, with a value of its type.
const FIELDS: [(&str, &str); 19] = [
    ("key", "\"a\""),
    ("value", "1"),
    ("base64", "\"\""),
    ("if_rev", "1"),
    ("if_changed", "true"),
    ("lifetime", "\"boot\""),
    ("ttl_ms", "1"),
    ("limit", "1"),
    ("after", "\"a\""),
    ("keys_only", "true"),
    ("exact", "true"),
    ("initial", "true"),
    ("cuts", "true"),
    ("since", "1"),
    ("epoch", "\"e\""),
    ("sub", "1"),
    ("ops", "[]"),
    ("client", "\"a\""),
    ("token", "\"a\""),
];

/// Every op with the fields that it can't do without.
const OPS: [(&str, &[&str]); 12] = [
    ("hello", &[]),
    ("put", &["key", "value"]),
    ("get", &["key"]),
    ("delete", &["key"]),
    ("batch", &["ops"]),
    ("subscribe", &["key"]),
    ("unsubscribe", &["sub"]),
    ("claim", &["key"]),
    ("release", &["key"]),
    ("stats", &[]),
    ("clients", &[]),
    ("ping", &[]),
];

fn names(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// The words in quotes that stand after a text on a line of a source file.
fn quoted_after(path: &str, before: &str) -> BTreeSet<String> {
    let text = source(path);
    let lines = text.lines().filter(|line| line.contains(before));
    let words = lines.filter_map(|line| line.split('"').nth(1));
    words.map(str::to_owned).collect()
}

/// Whether an op takes a field, as the daemon reads requests.
fn takes(op: &str, needed: &[&str], field: &str) -> bool {
    let fields = needed
        .iter()
        .copied()
        .chain([field])
        .collect::<BTreeSet<_>>();
    let mut line = format!("{{\"id\":1,\"op\":\"{op}\"");
    for (name, value) in FIELDS.iter().filter(|(name, _)| fields.contains(name)) {
        line.push_str(&format!(",\"{name}\":{value}"));
    }
    line.push('}');
    match Request::parse(line.as_bytes()) {
        Ok(_) => true,
        Err(error) => !error.message.contains("has no field"),
    }
}

#[test]
fn ops_have_their_fields() {
    let text = source("src/wire/request.rs");
    let (_, fields) = text.split_once("\nfields! {").unwrap();
    let (fields, _) = fields.split_once('}').unwrap();
    let fields = fields
        .lines()
        .filter_map(|line| line.trim().split_once(": "));
    let mut read: BTreeSet<String> = fields.map(|(name, _)| name.to_owned()).collect();
    read.remove("id");
    read.remove("op");
    let known = FIELDS.map(|field| field.0);
    same("the fields of this test", &names(&known), &read);
    let ops = quoted_after("src/wire/request.rs", "Op::").into_iter();
    let ops: BTreeSet<String> = ops.filter(|op| op != "check").collect();
    same("the ops of this test", &names(&OPS.map(|op| op.0)), &ops);

    let mut told: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (words, _) in Page::read("nkv.7").entries("OPS") {
        let fields = words[1..].iter().filter(|field| *field != "id").cloned();
        told.entry(words[0].clone()).or_default().extend(fields);
    }
    for (op, needed) in OPS {
        let taken = known.into_iter().filter(|field| takes(op, needed, field));
        let taken = taken.map(str::to_owned).collect();
        let told = told
            .remove(op)
            .unwrap_or_else(|| panic!("nkv(7) has no {op}"));
        same(&format!("nkv(7): {op}"), &told, &taken);
    }
    assert!(told.is_empty(), "nkv(7): there is no {told:?}");
}

#[test]
fn error_codes_are_told() {
    let mut codes = quoted_after("src/wire.rs", "ErrorCode::");
    assert!(codes.remove("unknown"), "what is never sent");
    assert!(codes.len() > 8, "the codes were found");
    same("nkv(7)", &Page::read("nkv.7").heads("ERROR CODES"), &codes);
}

#[test]
fn lifetimes_are_told() {
    let lifetimes = quoted_after("src/wire.rs", "Lifetime::");
    assert_eq!(lifetimes.len(), 3, "the lifetimes were found");
    same(
        "nkv(7)",
        &Page::read("nkv.7").heads("LIFETIMES"),
        &lifetimes,
    );
}

#[test]
fn events_are_told() {
    let contract = source("docs/protocol.md");
    let (_, table) = contract.split_once("| event | fields").unwrap();
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let events: BTreeSet<String> = rows
        .filter_map(|row| row.split('`').nth(1))
        .map(str::to_owned)
        .collect();
    assert_eq!(events.len(), 4, "the events were found");
    let entries = Page::read("nkv.7").entries("EVENTS");
    // The second list is what a subscription can ask for.
    let told = entries.iter().filter(|entry| entry.0[0] != "Ql");
    let told = told.map(|entry| entry.0[0].clone()).collect();
    same("nkv(7)", &told, &events);
}

#[test]
fn limits_are_told() {
    let limits = serde_json::to_value(Limits::default()).unwrap();
    let limits = limits.as_object().unwrap();
    let page = Page::read("nkv.7");
    same(
        "nkv(7)",
        &page.heads("LIMITS"),
        &limits.keys().cloned().collect(),
    );
    for (words, text) in page.entries("LIMITS") {
        let number = limits[&words[0]].to_string();
        assert!(
            text.starts_with(&format!("{number} ")),
            "nkv(7): {words:?} is {number}: {text}"
        );
    }
}

#[test]
fn counters_are_told() {
    let daemon = Plan::new().start();
    let mut client = daemon.connect();
    let stats = client.do_it(r#"{"op":"stats"}"#);
    let stats = stats.as_object().unwrap().iter();
    let counters = stats.filter(|(_, value)| value.is_u64());
    let counters = counters.map(|(name, _)| name.clone()).collect();
    same("nkv(7)", &Page::read("nkv.7").heads("COUNTERS"), &counters);
}
