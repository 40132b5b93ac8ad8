//! The manual pages and the completions, held against the programs.
//!
//! What `--help` of a program and of each of its commands shows stands in its page ([`page`] reads
//! it, [`help`] the help), with the same arguments and defaults, and nothing else does. The page of
//! the protocol knows what the wire knows ([`protocol`]). The commands in the pages are run, and what
//! they print is compared. The shells load the completions and are asked what they would offer
//! ([`completions`]).
//!
//! Checks that need `mandoc`, `man`, `zsh`, `fish` or `nc` are left out where there are none.

#![cfg(all(feature = "daemon", feature = "cli"))]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that can't go on fails"
)]

mod completions;
#[path = "../docs/console.rs"]
mod console;
#[path = "../support/document.rs"]
mod document;
mod help;
mod page;
mod protocol;
#[path = "../support/daemon.rs"]
mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use help::Listed;
use page::Page;
use support::skip;

const PAGES: [&str; 3] = ["nkv-server.1", "nkv-client.1", "nkv.7"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn source(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// Whether there is such a program; where there is none, that is said.
fn has(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .stdout(Stdio::null())
        .status();
    let found = found.unwrap().success();
    if !found {
        skip(&format!("there is no {program}"));
    }
    found
}

/// Fails where two sets differ, and says in what.
#[track_caller]
fn same<T: Ord + std::fmt::Debug>(what: &str, page: &BTreeSet<T>, program: &BTreeSet<T>) {
    let missing: Vec<_> = program.difference(page).collect();
    let wrong: Vec<_> = page.difference(program).collect();
    assert!(
        missing.is_empty() && wrong.is_empty(),
        "{what}: missing {missing:?}, wrong {wrong:?}"
    );
}

/// Options without those that every command has.
fn own(options: BTreeSet<Listed>) -> BTreeSet<Listed> {
    let is_own = |option: &Listed| !option.names.contains("--help");
    options.into_iter().filter(is_own).collect()
}

#[test]
fn the_server_page_has_every_option() {
    let help = help::of_server();
    let page = Page::read("nkv-server.1");
    let told: BTreeSet<Listed> = page
        .options("OPTIONS")
        .into_iter()
        .map(|told| told.0)
        .collect();
    assert!(told.len() > 15, "the options were found");
    same("nkv-server(1)", &told, &help::options(&help));
    let defaults = help::defaults(&help);
    assert!(defaults.len() > 10, "the defaults were found");
    for (name, default) in defaults {
        let options = page.options("OPTIONS");
        let told = options.iter().find(|told| told.0.names.contains(&name));
        let text = &told.unwrap().1;
        assert!(text.contains("default"), "nkv-server(1): {name}: {text}");
        for part in default
            .split([' ', ','])
            .filter(|part| !help::FILLERS.contains(part))
        {
            assert!(
                text.contains(part),
                "nkv-server(1): {name}: the default {default}: {text}"
            );
        }
    }
}

#[test]
fn the_client_page_has_every_command_and_option() {
    let page = Page::read("nkv-client.1");
    let help = help::of_client(&[]);
    let told = page
        .options("OPTIONS")
        .into_iter()
        .map(|told| told.0)
        .collect();
    same("nkv-client(1)", &told, &help::options(&help));
    let mut commands = BTreeSet::new();
    for (command, aliases) in help::commands(&help) {
        let (usage, options, text) = page.command("COMMANDS", &command);
        if command != "help" {
            let help = help::of_client(&[&command]);
            assert_eq!(usage, help::usage(&help), "nkv-client(1)");
            same(
                &format!("nkv-client(1): {command}"),
                &options,
                &own(help::options(&help)),
            );
        }
        for alias in aliases {
            assert!(
                text.contains(&format!(".Ic {alias}")),
                "nkv-client(1): {command}: {alias}"
            );
        }
        commands.insert(command);
    }
    assert!(commands.len() > 10, "the commands were found");
    same("nkv-client(1)", &page.commands("COMMANDS"), &commands);
}

#[test]
fn the_client_page_has_the_commands_of_the_shell() {
    let everywhere = help::commands(&help::of_client(&[]));
    let mut expected = BTreeSet::new();
    for (command, aliases) in help::commands(&help::of_shell()) {
        if !everywhere.contains_key(&command) {
            expected.extend(aliases);
            expected.insert(command);
        }
    }
    assert!(expected.len() > 2, "the commands were found");
    same(
        "nkv-client(1)",
        &Page::read("nkv-client.1").commands("THE SHELL"),
        &expected,
    );
}

#[test]
fn options_in_running_text_exist() {
    let server = help::options(&help::of_server());
    let help = help::of_client(&[]);
    let mut client = help::options(&help);
    for command in help::commands(&help)
        .into_keys()
        .filter(|command| command != "help")
    {
        client.extend(help::options(&help::of_client(&[&command])));
    }
    for (name, options) in [("nkv-server.1", &server), ("nkv-client.1", &client)] {
        for (number, option) in Page::read(name).mentioned_options() {
            let exists = options.iter().any(|listed| listed.names.contains(&option));
            assert!(exists, "docs/man/{name}:{number}: there is no {option}");
        }
    }
    // The page of the protocol has no program of its own.
    assert_eq!(Page::read("nkv.7").mentioned_options(), []);
}

#[test]
fn exit_codes_are_told() {
    for (name, help) in [
        ("nkv-server.1", help::of_server()),
        ("nkv-client.1", help::of_client(&[])),
    ] {
        let told = Page::read(name).heads("EXIT STATUS");
        let codes = help::exit_codes(&help);
        assert!(codes.len() > 4, "the exit codes were found");
        same(name, &told, &codes);
    }
}

/// Every variable that the help or a source file names as `NKV_…` has its place in a page.
#[test]
fn variables_are_told() {
    let pages: String = PAGES
        .iter()
        .map(|name| source(&format!("docs/man/{name}")))
        .collect();
    let texts = [
        help::of_server(),
        source("src/bin/nkv-client/arguments.rs"),
        source("src/bin/nkv-client/subscribe.rs"),
        source("src/bin/nkv-client/exec.rs"),
        source("src/bin/nkv-client/output.rs"),
        source("src/address.rs"),
    ];
    let is_name =
        |word: &&str| word.len() > 3 && word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    let mut found = BTreeSet::new();
    for text in &texts {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let prefixes = ["NKV_", "XDG_", "NO_COLOR", "LISTEN_FDS"];
        let is_variable = |word: &&str| prefixes.iter().any(|prefix| word.starts_with(prefix));
        found.extend(words.filter(is_name).filter(is_variable));
    }
    assert!(found.len() > 6, "variables were found: {found:?}");
    for variable in found {
        let is_told = pages.lines().any(|line| {
            let mut words = line.split([' ', '$', '/']);
            let is_macro = words.next().is_some_and(|word| word.starts_with('.'));
            is_macro && words.any(|word| word == variable)
        });
        assert!(is_told, "no page tells of {variable}");
    }
}

#[test]
fn pages_are_sound() {
    if !has("mandoc") {
        return;
    }
    for name in PAGES {
        let output = Command::new("mandoc")
            .arg("-Tlint")
            .arg(root().join("docs/man").join(name))
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        // Which other pages are installed is this machine's affair.
        let faults: Vec<&str> = said
            .lines()
            .filter(|line| !line.contains("referenced manual not found"))
            .collect();
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }
}

#[test]
fn man_shows_pages_without_warnings() {
    if !has("man") {
        return;
    }
    for name in PAGES {
        let output = Command::new("man")
            .args(["--warnings", "--local-file"])
            .arg(root().join("docs/man").join(name))
            .env("LC_ALL", "C.UTF-8")
            .env("MANWIDTH", "80")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let warnings = String::from_utf8(output.stderr).unwrap();
        assert_eq!(warnings, "", "{name}");
        let shown = String::from_utf8(output.stdout).unwrap();
        assert!(shown.contains("DESCRIPTION"), "{name} is shown");
        // What is copied from a page must be what is typed: groff may make other signs of these.
        for line in shown
            .lines()
            .filter(|line| line.trim_start().starts_with("$ "))
        {
            let is_typed = |c: char| c.is_ascii() || c == '…';
            assert!(line.chars().all(is_typed), "{name}: {line}");
        }
    }
}

/// References among these pages lead somewhere.
#[test]
fn own_references_exist() {
    for name in PAGES {
        for line in source(&format!("docs/man/{name}")).lines() {
            let Some(reference) = line.strip_prefix(".Xr nkv") else {
                continue;
            };
            let mut words = reference.split(' ');
            let target = format!("nkv{}.{}", words.next().unwrap(), words.next().unwrap());
            assert!(PAGES.contains(&&*target), "{name}: {line}");
        }
    }
}

#[test]
fn examples_print_what_they_say() {
    for name in PAGES {
        let blocks = Page::read(name).consoles();
        assert!(!blocks.is_empty(), "{name} has examples");
        console::play(&format!("docs/man/{name}"), &blocks);
    }
}
