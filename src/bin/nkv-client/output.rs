//! What is written to stdout: values, entries and events, for people and for programs.
//!
//! `key value` lines can be taken apart by a program: a key has no space, and what follows is JSON, or
//! something that is no JSON: `base64:…` for raw bytes, `(deleted)`.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;

use base64::Engine;
use nkv::client::{Entry, Event, Lifetime, Value};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::failure::{Failure, NOT_MET, plain};

/// Whether to colour what is written.
#[derive(Clone, Copy)]
pub(crate) struct Style {
    is_coloured: bool,
}

/// An entry or an event as a JSON object. Values are copied byte for byte.
#[derive(Serialize, Default)]
struct Record<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rev: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lifetime: Option<Lifetime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<u128>,
}

impl Style {
    /// Colours on a terminal, unless NO_COLOR is set (to anything, says no-color.org).
    pub(crate) fn detected() -> Style {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|text| !text.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Style {
            is_coloured: io::stdout().is_terminal() && !no_color && !is_dumb,
        }
    }

    pub(crate) fn is_coloured(self) -> bool {
        self.is_coloured
    }

    pub(crate) fn key(self, text: &str) -> String {
        self.wrapped("36", text)
    }

    pub(crate) fn gone(self, text: &str) -> String {
        self.wrapped("31", text)
    }

    pub(crate) fn faint(self, text: &str) -> String {
        self.wrapped("2", text)
    }

    fn wrapped(self, code: &str, text: &str) -> String {
        if self.is_coloured {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// A `key value` line, without its end.
    pub(crate) fn entry_line(self, key: &str, value: &Value) -> String {
        format!("{} {}", self.key(key), value_text(value))
    }

    /// An event as a line, without its end; `None` for those that only programs care about.
    pub(crate) fn event_line(self, event: &Event) -> Option<String> {
        match event {
            Event::Put { key, value, .. } => Some(self.entry_line(key.as_str(), value)),
            Event::Delete { key, .. } => Some(format!(
                "{} {}",
                self.key(key.as_str()),
                self.gone("(deleted)")
            )),
            Event::Sync { .. } | Event::Reset { .. } => None,
        }
    }
}

/// Stdout for much at once. Flush it at the end, to learn of errors.
pub(crate) fn buffered_stdout() -> BufWriter<io::Stdout> {
    BufWriter::with_capacity(64 << 10, io::stdout())
}

/// A value on one line: JSON, or `base64:…`, which is none.
pub(crate) fn value_text(value: &Value) -> String {
    match (value.as_json_text(), value.bytes()) {
        (Some(json), _) => json.to_owned(),
        (None, bytes) => format!("base64:{}", encoded(bytes.unwrap_or_default())),
    }
}

/// A value as `get --raw` shows it: strings without quotes.
pub(crate) fn raw_text(value: &Value) -> String {
    value.json::<String>().unwrap_or_else(|_| value_text(value))
}

/// Writes one value and nothing else. Raw bytes are written as they are, with no line end, except
/// to a terminal that they could confuse.
pub(crate) fn write_value(out: &mut impl Write, value: &Value, is_raw: bool) -> io::Result<()> {
    match value.bytes() {
        Some(_) if io::stdout().is_terminal() => writeln!(out, "{}", value_text(value)),
        _ => write_file_value(out, value, is_raw),
    }
}

/// The same where it goes to no terminal.
pub(crate) fn write_file_value(
    out: &mut impl Write,
    value: &Value,
    is_raw: bool,
) -> io::Result<()> {
    match value.bytes() {
        Some(bytes) => out.write_all(bytes),
        None if is_raw => writeln!(out, "{}", raw_text(value)),
        None => writeln!(out, "{}", value_text(value)),
    }
}

/// An entry as `get --json` shows it.
pub(crate) fn entry_json(entry: &Entry) -> String {
    let record = Record {
        rev: Some(entry.rev),
        ..exported(entry)
    };
    to_json(&record)
}

/// An entry as `export` writes it: what a put of it needs.
pub(crate) fn export_json(entry: &Entry) -> String {
    to_json(&exported(entry))
}

/// An event as `subscribe --json` shows it.
pub(crate) fn event_json(event: &Event) -> String {
    let (name, value) = match event {
        Event::Put { value, .. } => ("put", Some(value)),
        Event::Delete { .. } => ("delete", None),
        Event::Sync { .. } => ("sync", None),
        Event::Reset { .. } => ("reset", None),
    };
    to_json(&Record {
        event: Some(name),
        key: event.key().map(nkv::Key::as_str),
        value: value.and_then(json_part),
        base64: value.and_then(Value::bytes).map(encoded),
        rev: Some(event.rev()),
        ..Record::default()
    })
}

/// Writes a file in one go: whoever opens it finds the old one or the new one, whole. It is written
/// beside its place first, under a name that nobody takes for one of its kind. It is not synced: after
/// a power cut it may be missing.
pub(crate) fn replace_file(file: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let cannot_write = |error: io::Error| {
        let message = format!("cannot write {}: {}", file.display(), plain(&error));
        Failure::new(NOT_MET, message)
    };
    let Some(name) = file.file_name() else {
        return Err(cannot_write(io::ErrorKind::IsADirectory.into()));
    };
    let mut beside = OsString::from(".");
    beside.push(name);
    beside.push(format!(".{}.new", std::process::id()));
    let beside = file.with_file_name(beside);
    // What is left of a process that had this id. Where it can't be removed, making it fails.
    drop(fs::remove_file(&beside));
    let written = File::create_new(&beside)
        .and_then(|mut new| new.write_all(bytes))
        .and_then(|()| fs::rename(&beside, file));
    written.map_err(|error| {
        drop(fs::remove_file(&beside));
        cannot_write(error)
    })
}

/// Rows of a table in columns that are as wide as they must be.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let row = |row: &Vec<String>| row.iter().map(|cell| shown(cell)).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(row).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..columns)
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A cell with its control characters escaped. A client's name is whatever that client says, and must
/// neither begin a row nor be obeyed by the terminal.
fn shown(cell: &str) -> String {
    let mut text = String::with_capacity(cell.len());
    for char in cell.chars() {
        match char.is_control() {
            true => text.extend(char.escape_default()),
            false => text.push(char),
        }
    }
    text
}

fn exported(entry: &Entry) -> Record<'_> {
    Record {
        key: Some(entry.key.as_str()),
        value: json_part(&entry.value),
        base64: entry.value.bytes().map(encoded),
        lifetime: Some(entry.lifetime).filter(|lifetime| *lifetime != Lifetime::Durable),
        ttl_ms: entry.ttl.map(|ttl| ttl.as_millis()),
        ..Record::default()
    }
}

/// The JSON of a value that is JSON.
pub(crate) fn json_part(value: &Value) -> Option<&RawValue> {
    value
        .as_json_text()
        .map(|json| serde_json::from_str(json).expect("a value's text is JSON"))
}

/// Bytes as base64.
pub(crate) fn encoded(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn to_json(record: &Record<'_>) -> String {
    serde_json::to_string(record).expect("a record has string keys and no failing parts")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned() {
        let row = |cells: &[&str]| {
            cells
                .iter()
                .map(|cell| (*cell).to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            table(&[row(&["a", "b"]), row(&["größe", "1"])]),
            "a      b\ngröße  1\n"
        );
        assert_eq!(table(&[]), "");
        assert_eq!(
            table(&[row(&["a\u{1b}[2J\nroot", "1"]), row(&["\u{9b}", "2"])]),
            "a\\u{1b}[2J\\nroot  1\n\\u{9b}            2\n"
        );
    }

    #[test]
    fn values_are_shown() {
        let json = |text: &str| Value::from_json_text(text).unwrap();
        assert_eq!(value_text(&json("1.00")), "1.00");
        assert_eq!(value_text(&Value::from_bytes("\0")), "base64:AA==");
        assert_eq!(raw_text(&json("\"a\\n\"")), "a\n");
        assert_eq!(raw_text(&json("[1]")), "[1]");
    }
}
