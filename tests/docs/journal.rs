//! The example journals of `docs/journal.md`.
//!
//! The page has the commands, the two files that they leave, and a table of the entries that a start
//! finds in these files. The names of the store, of the machine's run and of the epoch, and deadlines,
//! are other ones each time: they are not compared.

use std::path::Path;
use std::sync::Arc;

use nkv::KeyRef;
use nkv::journal::{Journals, Options, Policy, Storage};
use nkv::keyspace::{Keyspace, Time};
use nkv::wire::Payload;
use serde_json::{Value, json};

use crate::table::table;
use crate::{blocks_of, console, document};

/// The page's name for a file, its directory beside the daemon's socket, and its own name.
const FILES: [(&str, &str, &str); 2] = [
    ("journal durable", "data", "durable.journal"),
    ("journal boot", "runtime", "boot.journal"),
];

/// A run of the page's commands leaves the page's files.
pub(crate) fn check_written(path: &str) {
    let directory = console::play(path, &blocks_of(path, "console"));
    for (name, parent, file) in FILES {
        let written = directory.path().join(parent).join(file);
        let written = std::fs::read_to_string(written).unwrap();
        let shown = file_of(path, name);
        let (written, shown) = (compared(&written), compared(&shown));
        assert_eq!(written, shown, "{path}: {name}");
    }
}

/// The page's files are read as what the page says.
pub(crate) fn check_read(path: &str) {
    let directory = tempfile::tempdir().unwrap();
    let own_run = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let mut epoch = String::new();
    for (name, parent, file) in FILES {
        let text = file_of(path, name);
        let mut header = text_of(text.lines().next().unwrap()).to_owned();
        let fields: Value = serde_json::from_str(&header).unwrap();
        if let Some(run) = fields["boot"].as_str() {
            header = header.replace(run, own_run.trim());
            epoch = fields["epoch"].as_str().unwrap().to_owned();
        }
        let (_, rest) = text.split_once('\n').unwrap();
        let text = format!(
            "{:08x} {header}\n{rest}",
            crc32fast::hash(header.as_bytes())
        );
        let parent = directory.path().join(parent);
        std::fs::create_dir(&parent).unwrap();
        std::fs::write(parent.join(file), text).unwrap();
    }
    let mut keyspace = Keyspace::new(10);
    let loaded = load(directory.path(), &mut keyspace);
    assert_eq!(loaded, epoch, "{path}: the epoch goes on");

    let (_, rows) = table(path, &document(path), "entry");
    assert_eq!(keyspace.keys(), rows.len() as u64, "{path}");
    for row in rows {
        let [key, value, rev, lifetime, deadline] = &row[..] else {
            panic!("{path}: five columns are needed: {row:?}");
        };
        let entry = keyspace.entry(KeyRef::new(key).unwrap());
        let entry = entry.unwrap_or_else(|| panic!("{path}: {key} is not there"));
        assert!(entry.is(&Payload::Json(value.into())), "{path}: {key}");
        assert_eq!(entry.rev.to_string(), *rev, "{path}: {key}");
        assert_eq!(entry.lifetime.as_str(), lifetime, "{path}: {key}");
        let ends = entry.deadline.map(|Time(time)| time.to_string());
        assert_eq!(ends.unwrap_or_default(), *deadline, "{path}: {key}");
    }
}

fn load(directory: &Path, keyspace: &mut Keyspace) -> String {
    let mut journals = Journals::new(Options {
        data_directory: directory.join("data"),
        runtime_directory: directory.join("runtime"),
        policy: Policy::Always,
        recover: false,
    });
    journals
        .load(keyspace, Time(0), Arc::new(|| ()))
        .unwrap_or_else(|error| panic!("{error}"))
}

/// A file as the page shows it.
fn file_of(path: &str, name: &str) -> String {
    let blocks = blocks_of(path, "journal");
    let block = blocks.iter().find(|block| block.info == name);
    let block = block.unwrap_or_else(|| panic!("{path} has no block {name}"));
    let lines = block.lines.iter();
    lines.map(|(_, line)| format!("{line}\n")).collect()
}

/// What is the same each time. The checksums hold, so they need no comparison.
fn compared(text: &str) -> Vec<String> {
    text.lines()
        .map(|line| {
            let text = text_of(line);
            let mut value: Value = serde_json::from_str(text).unwrap();
            // An object of serde_json has an order of its own, so what has no such names is compared
            // as it is.
            if mask(&mut value) {
                value.to_string()
            } else {
                text.to_owned()
            }
        })
        .collect()
}

/// The text of a line, whose checksum has to hold.
fn text_of(line: &str) -> &str {
    let (checksum, text) = line.split_at(8);
    let text = text.strip_prefix(' ').unwrap();
    assert_eq!(
        checksum,
        format!("{:08x}", crc32fast::hash(text.as_bytes())),
        "{line}"
    );
    text
}

/// Removes what is another each time; true where there was such a thing.
fn mask(value: &mut Value) -> bool {
    let mut found = false;
    for name in ["store", "boot", "epoch", "deadline"] {
        if let Some(field) = value.get_mut(name) {
            *field = json!("_");
            found = true;
        }
    }
    if let Some(changes) = value["changes"].as_array_mut() {
        found |= changes
            .iter_mut()
            .fold(false, |found, change| mask(change) | found);
    }
    found
}
