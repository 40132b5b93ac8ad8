//! The order of the rooms, held against the source.
//!
//! A room is a file of `src/` and the folder of its name. Imports point down only; what is below the
//! server does no input or output and reads no clock, so that everything but the loop is tested with
//! plain values; the library without features is a client and brings nothing of the daemon.
//!
//! The source is read as text: its comments are dropped, and the tests at the end of a file as well,
//! for they may look wherever they like.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What each room may know. A room that is not here fails, so that a new one is given its place.
const ROOMS: [(&str, &[&str]); 12] = [
    ("key", &[]),
    ("systemd", &[]),
    ("wire", &["key"]),
    ("address", &["wire"]),
    ("keyspace", &["key", "wire"]),
    ("watch", &["key", "wire"]),
    ("session", &["key", "wire", "keyspace", "watch"]),
    ("journal", &["key", "wire", "keyspace", "watch"]),
    ("access", &["key", "wire", "keyspace", "watch"]),
    (
        "broker",
        &[
            "key", "wire", "keyspace", "watch", "session", "journal", "access",
        ],
    ),
    ("server", BELOW_SERVER),
    ("client", &["key", "wire", "address"]),
];

const BELOW_SERVER: &[&str] = &[
    "key", "wire", "address", "keyspace", "watch", "session", "journal", "access", "broker",
    "systemd",
];

/// What stands above all rooms: the map of the crate and the two programs.
const ROOFS: [&str; 3] = ["lib", "nkv-server", "nkv-client"];

/// Rooms that do no input or output and read no clock.
const PURE: [&str; 7] = [
    "key", "wire", "keyspace", "watch", "session", "access", "broker",
];

/// Files of other rooms for which the same holds.
const PURE_FILES: [&str; 5] = [
    "journal/format.rs",
    "client/exchange.rs",
    "client/inbox.rs",
    "client/announced.rs",
    "client/mirror/replica.rs",
];

/// What such a room does not say.
const IMPURE: [&str; 21] = [
    "std::fs",
    "std::io",
    "std::os",
    "std::env",
    "std::process",
    "std::thread",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "UnixDatagram",
    "Instant",
    "SystemTime",
    "std::time",
    "stdin()",
    "stdout()",
    "stderr()",
    "nix::",
    "getrandom",
    "File::",
];

/// What the library without features is made of: serde and its kind.
const CLIENT_PACKAGES: [&str; 19] = [
    "nkv",
    "arcstr",
    "base64",
    "memchr",
    "rustix",
    "bitflags",
    "linux-raw-sys",
    "serde",
    "serde_core",
    "serde_derive",
    "serde_json",
    "itoa",
    "ryu",
    "zmij",
    "proc-macro2",
    "quote",
    "syn",
    "unicode-ident",
    "rustversion",
];

/// What the asynchronous client adds to it: the runtime, and what that needs of the system.
const ASYNC_PACKAGES: [&str; 6] = [
    "futures-core",
    "libc",
    "mio",
    "pin-project-lite",
    "socket2",
    "tokio",
];

struct Source {
    path: PathBuf,
    room: String,
    /// How many `super` lead from the file to the crate's root.
    depth: usize,
    /// Without comments and tests.
    code: String,
}

/// Something that the house does not allow, and where it stands.
type Fault = String;

#[test]
fn imports_point_down() {
    none(sources().iter().flat_map(upward_imports));
}

#[test]
fn only_the_server_knows_mio() {
    none(sources().iter().flat_map(mentions_of_mio));
}

#[test]
fn rooms_below_the_server_are_pure() {
    none(sources().iter().flat_map(impurities));
}

#[test]
fn every_room_has_its_place() {
    let rooms: Vec<&str> = ROOMS.iter().map(|room| room.0).chain(ROOFS).collect();
    for source in sources() {
        assert!(
            rooms.contains(&&*source.room),
            "{}: which room is it?",
            source.path.display()
        );
    }
}

/// What cargo would build, where it can say so without a network.
#[test]
fn the_library_alone_is_a_client() {
    let packages = packages(&[]).unwrap_or_else(manifest_packages);
    assert!(packages.len() >= 5, "the list was read: {packages:?}");
    for name in packages {
        assert!(CLIENT_PACKAGES.contains(&&*name), "the client needs {name}");
    }
}

#[test]
fn the_asynchronous_client_adds_its_runtime() {
    let Some(packages) = packages(&["--features", "async"]) else {
        return;
    };
    for name in packages {
        let is_known = CLIENT_PACKAGES.contains(&&*name) || ASYNC_PACKAGES.contains(&&*name);
        assert!(is_known, "the asynchronous client needs {name}");
    }
}

/// The packages of the library with these options, if cargo can tell.
fn packages(options: &[&str]) -> Option<Vec<String>> {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--no-default-features", "-e", "normal"])
        .args(["--prefix", "none", "--format", "{p}"])
        .args(["--offline", "--locked"])
        .args(options)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let tree = String::from_utf8(tree.stdout).unwrap();
    let name = |line: &str| line.split_whitespace().next().map(str::to_owned);
    let packages: Vec<String> = tree.lines().filter_map(name).collect();
    (!packages.is_empty()).then_some(packages)
}

/// The dependencies that are not optional, where cargo can't tell what they need in turn.
fn manifest_packages() -> Vec<String> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let manifest = std::fs::read_to_string(manifest).unwrap();
    let (_, rest) = manifest.split_once("[dependencies]").unwrap();
    let (own, _) = rest.split_once("\n[").unwrap();
    let needed = own
        .lines()
        .filter(|line| line.contains('=') && !line.contains("optional = true"));
    let name = |line: &str| line.split_whitespace().next().map(str::to_owned);
    needed.filter_map(name).chain(["nkv".into()]).collect()
}

/// The checks find what they are for.
#[test]
fn faults_are_found() {
    let check = |find: fn(&Source) -> Vec<Fault>, room: &str, code: &str, count: usize| {
        let source = Source {
            path: room.into(),
            room: room.into(),
            depth: 1,
            code: code_of(code),
        };
        assert_eq!(find(&source).len(), count, "{room}: {code}");
    };
    check(
        upward_imports,
        "watch",
        "use crate::key::{Key, Pattern};",
        0,
    );
    check(upward_imports, "watch", "use crate::keyspace::Keyspace;", 1);
    check(
        upward_imports,
        "watch",
        "use crate::{\n    key::Key,\n    broker::{self, Broker},\n};",
        2,
    );
    check(upward_imports, "watch", "use crate::{broker, session};", 2);
    check(upward_imports, "key", "fn f() -> crate::wire::Limits {}", 1);
    check(
        upward_imports,
        "key",
        "// crate::wire\n/* crate::wire */\n/// [`crate::wire`]",
        0,
    );
    check(
        upward_imports,
        "key",
        "#[cfg(test)]\nmod tests {\n    use crate::wire::Limits;\n}\n",
        0,
    );
    check(upward_imports, "wire", "use super::broker;", 1);
    check(upward_imports, "wire", "use crate::Address;", 1);
    check(upward_imports, "wire", "use crate::wire::broker;", 0);
    check(upward_imports, "key", "use crate::Key;", 0);
    check(upward_imports, "client", "use crate::server::Handle;", 1);
    check(
        upward_imports,
        "client",
        "use crate::{Key, address::Address, wire::Op};",
        0,
    );
    check(upward_imports, "nkv-server", "use nkv::server::Server;", 0);
    check(mentions_of_mio, "broker", "use mio::Token;", 1);
    check(mentions_of_mio, "broker", "// mio", 0);
    check(mentions_of_mio, "server", "use mio::Token;", 0);
    check(mentions_of_mio, "broker", "let miopic = 1;", 0);
    check(impurities, "session", "use std::net::SocketAddr;", 0);
    check(
        impurities,
        "session",
        "use std::net::{SocketAddr, TcpStream};",
        1,
    );
    check(
        impurities,
        "broker",
        "let now = std::time::Instant::now();",
        2,
    );
    check(
        impurities,
        "server",
        "let now = std::time::Instant::now();",
        0,
    );
    check(
        impurities,
        "keyspace",
        "use std::{collections::BTreeMap, fs};",
        1,
    );
    check(
        impurities,
        "keyspace",
        "use std::{collections::BTreeMap, net::{IpAddr, TcpListener}, ops::Bound};",
        1,
    );
}

fn none(faults: impl Iterator<Item = Fault>) {
    let faults: Vec<Fault> = faults.collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn upward_imports(source: &Source) -> Vec<Fault> {
    if ROOFS.contains(&&*source.room) {
        return Vec::new();
    }
    let below = ROOMS
        .iter()
        .find(|room| room.0 == source.room)
        .map_or(&[][..], |room| room.1);
    let root = "super::".repeat(source.depth);
    let known = names_after(&source.code, "crate::");
    known
        .into_iter()
        .chain(names_after(&source.code, &root))
        .map(|path| room_of(path.split("::").next().unwrap_or_default()))
        .filter(|name| *name != source.room && !below.contains(&name.as_str()))
        .map(|name| {
            let path = source.path.display();
            format!("{path}: {} may not know {name}", source.room)
        })
        .collect()
}

/// The room that a name at the crate's root belongs to: itself, or that of what `lib.rs` exports.
fn room_of(name: &str) -> String {
    let room = match name {
        "Key" | "KeyRef" | "KeyError" | "Pattern" => "key",
        "Address" | "AddressError" => "address",
        name => name,
    };
    room.into()
}

fn mentions_of_mio(source: &Source) -> Vec<Fault> {
    let is_word = |at: usize| {
        let part = |byte: Option<u8>| {
            byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        let bytes = source.code.as_bytes();
        !part(at.checked_sub(1).map(|before| bytes[before])) && !part(bytes.get(at + 3).copied())
    };
    let found = source
        .code
        .match_indices("mio")
        .filter(|(at, _)| source.room != "server" && is_word(*at));
    found
        .map(|_| format!("{}: mio", source.path.display()))
        .collect()
}

fn impurities(source: &Source) -> Vec<Fault> {
    // The journals' room has files to write, but their lines are made and read without. What a client
    // remembers and decides is told apart from how it waits.
    let is_pure =
        PURE.contains(&&*source.room) || PURE_FILES.iter().any(|file| source.path.ends_with(file));
    if !is_pure {
        return Vec::new();
    }
    let imported = names_after(&source.code, "std::")
        .into_iter()
        .map(|path| format!("std::{path}"));
    let text: Vec<String> = imported.chain([source.code.replace("std::", "")]).collect();
    let found = IMPURE
        .iter()
        .filter(|word| text.iter().any(|text| text.contains(**word)));
    found
        .map(|word| format!("{}: {word}", source.path.display()))
        .collect()
}

/// Every path that stands after a prefix, the braces of imports undone.
fn names_after(code: &str, prefix: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        let rest = &code[at + prefix.len()..];
        if rest.starts_with('{') {
            names.extend(braced(rest));
        } else {
            let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
            names.push(rest[..end.unwrap_or(rest.len())].to_owned());
        }
    }
    names
}

/// The paths in `{a, b::{c, d}}`, as `a`, `b::c`, `b::d`.
fn braced(text: &str) -> Vec<String> {
    let (mut prefixes, mut name, mut names) = (Vec::new(), String::new(), Vec::new());
    for character in text.chars() {
        match character {
            '{' => prefixes.push(std::mem::take(&mut name)),
            ',' | '}' => {
                if !name.is_empty() {
                    names.push(prefixes.concat() + &std::mem::take(&mut name));
                }
                if character == '}' {
                    prefixes.pop();
                }
                if prefixes.is_empty() {
                    break;
                }
            }
            _ if character.is_whitespace() => {}
            _ => name.push(character),
        }
    }
    names
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = BTreeMap::new();
    walk(&root, &mut files);
    assert!(files.len() > 10, "the source was found");
    files
        .into_iter()
        .map(|(path, text)| {
            let inner = path.strip_prefix(&root).unwrap().with_extension("");
            let names: Vec<_> = inner
                .iter()
                .map(|name| name.to_str().unwrap().to_owned())
                .collect();
            let room = if names[0] == "bin" {
                names.get(1)
            } else {
                names.first()
            };
            Source {
                room: room.unwrap().clone(),
                depth: names.len(),
                code: code_of(&text),
                path,
            }
        })
        .collect()
}

fn walk(folder: &Path, files: &mut BTreeMap<PathBuf, String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            files.insert(path, text);
        }
    }
}

/// A file's text without its comments and without its tests. A comment's beginning in a string would
/// hide the rest of its line; no room has such.
fn code_of(text: &str) -> String {
    let text = text
        .split("#[cfg(test)]\nmod tests")
        .next()
        .unwrap_or_default();
    let mut code = String::new();
    let mut rest = text;
    while let Some((before, comment)) = rest.split_once("/*") {
        code.push_str(before);
        rest = comment.split_once("*/").map_or("", |(_, after)| after);
    }
    code.push_str(rest);
    code.lines()
        .map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n")
        .collect()
}
