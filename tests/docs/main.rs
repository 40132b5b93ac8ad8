//! The documents say what the daemon does; this runs what they say.
//!
//! These passages are run:
//!
//! - ```` ```nkv ````: lines in and out of a connection, with stage directions ([`transcript`]). Each
//!   block has an empty keyspace of its own. It is played to a broker in memory, in whole lines and one
//!   byte at a time, and to a server over a socket.
//! - ```` ```console ````: commands after `$`, and what they print ([`console`]).
//! - ```` ```journal ````: the files that the commands of `docs/journal.md` leave ([`journal`]).
//! - the tables of `docs/keyspace.md` ([`table`]): who hears of which change, what matches, what is
//!   escaped.
//! - ```` ```rust ```` in `docs/rust.md` ([`rust`]): each example stands in a test too.
//!
//! Beside them, links have to lead somewhere, every line of the daemon's log has to be explained in
//! `docs/operations.md` ([`log`]), and the code map of `docs/architecture.md` has to be
//! complete ([`map`]).
//!
//! `…` in what is expected stands for any text within a line, and `EPOCH` for the daemon's epoch.
//! A passage that fails is named by its file and line.

#![cfg(all(feature = "daemon", feature = "cli"))]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that can't go on fails"
)]

mod console;
#[path = "../support/document.rs"]
mod document;
mod journal;
mod log;
mod map;
mod memory;
mod rust;
mod socket;
#[path = "../support/mod.rs"]
mod support;
mod table;
mod transcript;

use std::path::{Path, PathBuf};

use document::{Block, blocks, matches};

/// The text of a document, by its path in the repository.
fn document(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// The blocks whose fence begins with this word, of which there must be some.
fn blocks_of(path: &str, language: &str) -> Vec<Block> {
    let mut found = blocks(&document(path));
    found.retain(|block| block.info.split(' ').next() == Some(language));
    assert!(!found.is_empty(), "{path} has no {language} block");
    found
}

const TRANSCRIPTS: [&str; 2] = ["docs/protocol.md", "docs/keyspace.md"];

#[test]
fn transcripts_hold_in_memory() {
    for path in TRANSCRIPTS {
        for block in blocks_of(path, "nkv") {
            let script = transcript::parse(path, &block);
            if !script.only_over_a_socket {
                memory::play(&script, usize::MAX);
                memory::play(&script, 1);
            }
        }
    }
}

#[test]
fn transcripts_hold_over_sockets() {
    for path in TRANSCRIPTS {
        for block in blocks_of(path, "nkv") {
            let script = transcript::parse(path, &block);
            if !script.only_in_memory {
                socket::play(&script);
            }
        }
    }
}

#[test]
fn console_passages_print_what_they_say() {
    for path in ["README.md", "docs/operations.md", "docs/access.md"] {
        console::play(path, &blocks_of(path, "console"));
    }
}

#[test]
fn example_journals_are_written_so() {
    journal::check_written("docs/journal.md");
}

#[test]
fn example_journals_are_read_so() {
    journal::check_read("docs/journal.md");
}

#[test]
fn tables_hold() {
    let path = "docs/keyspace.md";
    let text = document(path);
    table::check_subscriptions(path, &text);
    table::check_patterns(path, &text);
    table::check_escapes(path, &text);
}

#[test]
fn links_lead_somewhere() {
    let mut paths = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    let docs = std::fs::read_dir(root().join("docs")).unwrap();
    let docs = docs.map(|entry| entry.unwrap().path());
    paths.extend(docs.filter(|path| path.extension().is_some_and(|kind| kind == "md")));
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        // What stands in a block of code is none.
        let prose = text.split("```").step_by(2);
        for link in prose.flat_map(|prose| prose.split("](").skip(1)) {
            let link = &link[..link.find(')').unwrap()];
            let (target, anchor) = link.split_once('#').unwrap_or((link, ""));
            if target.contains("://") {
                continue;
            }
            let target = match target {
                "" => path.clone(),
                target => path.parent().unwrap().join(target),
            };
            assert!(target.exists(), "{}: {link} is not there", path.display());
            if !anchor.is_empty() {
                let text = std::fs::read_to_string(&target).unwrap();
                let headings = text.lines().filter(|line| line.starts_with('#'));
                let found = headings.map(anchor_of).any(|found| found == anchor);
                assert!(found, "{}: {link} has no such heading", path.display());
            }
        }
    }
}

/// The name that a heading is linked by.
fn anchor_of(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn the_code_map_is_complete() {
    let path = "docs/architecture.md";
    map::check(path, &document(path));
}

#[test]
fn operators_find_every_line_of_the_log() {
    let path = "docs/operations.md";
    log::check(path, &document(path));
}

#[test]
fn the_readme_knows_the_oldest_compiler() {
    let version = env!("CARGO_PKG_RUST_VERSION");
    assert!(document("README.md").contains(&format!("Rust {version} or newer")));
}

#[test]
fn a_wrong_line_fails() {
    type Player = fn(&transcript::Script);
    let in_memory: Player = |script| memory::play(script, usize::MAX);
    let check = |players: &[Player], text: &str, fault: &str| {
        let text = format!(
            "```nkv
{text}
```"
        );
        for player in players {
            let played = std::panic::catch_unwind(|| {
                player(&transcript::parse("a document", &blocks(&text)[0]));
            });
            let message = *played.expect_err(&text).downcast::<String>().unwrap();
            assert!(
                message.contains(fault),
                "{text}
fails, but with:
{message}"
            );
        }
    };
    let both = [in_memory, socket::play];
    let put = r#"> {"op":"put","key":"a","value":1}"#;
    check(
        &both,
        &format!("{put}\n< {{\"ok\":true,\"rev\":2}}"),
        "a document:3",
    );
    check(
        &both,
        &format!("{put}\n< {{\"ok\":true,…\"rev\":1"),
        "a document:3",
    );
    check(&both, put, "never said");
    // Over a socket it takes patience to see that nothing comes.
    check(
        &[in_memory],
        &format!("{put}\n< {{…}}\n< {{…}}"),
        "a document:4",
    );
    check(&both, "? nothing", "a document:2");
    check(&both, "-- A dances", "a document:2");
}

#[test]
fn ellipses_match() {
    let check = |expected: &str, line: &str, holds: bool| {
        assert_eq!(matches(expected, line), holds, "{expected:?} {line:?}");
    };
    check("abc", "abc", true);
    check("abc", "abcd", false);
    check("a…c", "abbbc", true);
    check("a…c", "ac", true);
    check("a…b…c", "axbxc", true);
    check("a…b…c", "axc", false);
    check("…", "anything", true);
    check("a…a", "a", false);
}
