//! One function a fuzz target: bytes in, and a panic where something is wrong.
//!
//! Whatever the bytes are, a promise must hold: what is
//! read can be written and read again, two ways to ask whether a pattern matches agree, every line
//! is answered once with a line of JSON, and the daemon does what a model does that is too simple to be
//! wrong.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use nkv::journal::{self, JournalError, Journals, LoadError, Policy, Storage};
use nkv::key::{escape, unescape};
use nkv::keyspace::{Keyspace, Terms, Time};
use nkv::watch::{Watch, Watcher};
use nkv::wire::{Incoming, Limits, Payload, Request};
use nkv::{Key, KeyRef, Pattern};
use serde_json::value::RawValue;

use crate::pattern::{covers, is_key, is_pattern, key_of_both, matches};
use crate::support::{Bench, unix_peer};

pub use address::address;
pub use history::history;
pub use options::options;
pub use rules::rules;
pub use token::token;

// By their paths, because an ordinary test has this file at another place.
#[path = "targets/address.rs"]
mod address;
#[path = "targets/history.rs"]
mod history;
#[path = "targets/options.rs"]
mod options;
#[path = "targets/rules.rs"]
mod rules;
#[path = "targets/token.rs"]
mod token;

/// How many clients the broker has.
const CLIENTS: usize = 3;
/// More turns than anything takes that has no new input.
const TURNS_MAX: usize = 10_000;

/// Each line is read as a request. One that is a request is written and read again.
pub fn request(bytes: &[u8]) {
    for line in bytes.split(|byte| *byte == b'\n') {
        let Ok(request) = Request::parse(line) else {
            continue;
        };
        let mut written = Vec::new();
        request.write(&mut written);
        let line = written.strip_suffix(b"\n").expect("a line has an end");
        assert!(!line.contains(&b'\n'), "a request is one line");
        assert_eq!(Request::parse(line).as_ref(), Ok(&request));
    }
}

/// Each line is read as a line from the daemon.
pub fn incoming(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    for line in text.split('\n') {
        if let Ok(incoming) = Incoming::parse(line) {
            assert_eq!(
                Incoming::parse(line.trim_end()).ok(),
                again(&incoming, line)
            );
        }
    }
}

/// The first line is a pattern, the others are keys and texts.
pub fn key(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let mut lines = text.split('\n');
    let pattern = lines.next().unwrap_or_default();
    let texts: Vec<&str> = lines.collect();
    for text in &texts {
        segments_return(text);
        assert_eq!(Key::new(text).is_ok(), is_key(text), "{text:?}");
    }
    assert_eq!(
        Pattern::new(pattern).is_ok(),
        is_pattern(pattern),
        "{pattern:?}"
    );
    let Ok(pattern) = Pattern::new(pattern) else {
        return;
    };
    for text in &texts {
        overlap(&pattern, text);
    }
    let keys: BTreeSet<&str> = texts
        .into_iter()
        .filter(|text| Key::new(text).is_ok())
        .collect();
    agree(&pattern, true, &keys);
    agree(&pattern.with_descendants(), false, &keys);
}

/// Each line is an act: its first byte says whose and what, the rest is what is sent.
pub fn session(bytes: &[u8]) {
    let mut room = Room::new();
    for act in bytes.split_inclusive(|byte| *byte == b'\n') {
        let (first, rest) = act.split_first().expect("a piece has a byte at least");
        room.act(*first, rest);
    }
    room.close();
}

/// The bytes are two journals, with an empty line between. A line gets the checksum that it needs, unless
/// it begins with `!`; `@` in it stands for what names this run of the machine. Both are loaded: whatever
/// is loaded with damage left out is loaded again, and is the same.
pub fn journal(bytes: &[u8]) {
    let directory = tempfile::TempDir::new_in("/dev/shm").or_else(|_| tempfile::TempDir::new());
    let directory = directory.expect("a directory can be made");
    let run = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let mut lines = bytes.split(|byte| *byte == b'\n');
    for name in ["durable.journal", "boot.journal"] {
        let mut file = Vec::new();
        for line in lines.by_ref().take_while(|line| !line.is_empty()) {
            append_line(&mut file, line, run.trim());
        }
        std::fs::write(directory.path().join(name), file).expect("the directory can be written to");
    }
    if let Ok((keyspace, _)) = load(directory.path(), false) {
        keyspace.assert_invariants();
    }
    let Ok((keyspace, epoch)) = load(directory.path(), true) else {
        return;
    };
    keyspace.assert_invariants();
    let Some(again) = load_again(directory.path()) else {
        return;
    };
    assert_eq!(again.1, epoch);
    assert_eq!(entries(&again.0), entries(&keyspace));
    assert!(
        again.0.rev() >= keyspace.rev(),
        "no revision is given twice"
    );
    std::fs::remove_file(directory.path().join("boot.journal")).expect("a start makes it");
    let Some(rebooted) = load_again(directory.path()) else {
        return;
    };
    let mut durable = entries(&keyspace);
    durable.retain(|entry| entry.contains("lifetime: Durable"));
    assert_eq!(entries(&rebooted.0), durable, "after a reboot");
}

/// Loads what was recovered; nothing where the start before was among the last that there can be.
fn load_again(directory: &Path) -> Option<(Keyspace, String)> {
    match load(directory, false) {
        Ok(loaded) => Some(loaded),
        Err(error) => {
            let error = error.downcast_ref::<JournalError>();
            let is_last = matches!(error, Some(JournalError::UsedUp { .. }));
            assert!(is_last, "what was recovered is sound: {error:?}");
            None
        }
    }
}

fn append_line(file: &mut Vec<u8>, line: &[u8], run: &str) {
    match line.strip_prefix(b"!") {
        Some(raw) => file.extend_from_slice(raw),
        None => {
            let text = String::from_utf8_lossy(line).replace('@', run);
            let checksum = crc32fast::hash(text.as_bytes());
            file.extend_from_slice(format!("{checksum:08x} {text}").as_bytes());
        }
    }
    file.push(b'\n');
}

fn load(directory: &Path, recover: bool) -> Result<(Keyspace, String), LoadError> {
    let mut keyspace = Keyspace::new(3);
    let options = journal::Options {
        data_directory: directory.to_owned(),
        runtime_directory: directory.to_owned(),
        policy: Policy::Always,
        recover,
    };
    // The locks are given back with the journals.
    let epoch = Journals::new(options).load(&mut keyspace, Time(5), Arc::new(|| {}))?;
    Ok((keyspace, epoch))
}

fn entries(keyspace: &Keyspace) -> Vec<String> {
    let all = Pattern::new("*").expect("a star is a pattern");
    let entries = keyspace.walk(&all, None).filter_map(|(_, entry)| entry);
    entries.map(|entry| format!("{entry:?}")).collect()
}

/// What is equal to the same line read without the white space behind it.
fn again<'a>(incoming: &Incoming<'a>, line: &'a str) -> Option<Incoming<'a>> {
    let mut incoming = incoming.clone();
    if let Incoming::Reply {
        result: Ok(answer), ..
    } = &mut incoming
    {
        answer.line = line.trim_end();
    }
    Some(incoming)
}

/// Any text can be a segment, and comes back.
fn segments_return(text: &str) {
    let escaped = escape(text);
    assert_eq!(unescape(&escaped), text);
    if let Ok(key) = Key::from_segments([text, "x", text]) {
        let segments: Vec<_> = key.segments().collect();
        assert_eq!(segments, [text, "x", text]);
        assert!(!key.borrowed().is_reserved());
    } else {
        assert!(text.is_empty() || escaped.len() * 2 + 3 > nkv::key::KEY_BYTES_MAX);
    }
    if let Ok(key) = Key::new(text) {
        assert_eq!(key.as_str(), text);
        assert_eq!(key.segments().count(), text.split('.').count());
        let pattern = Pattern::new(text).expect("a key is a pattern");
        assert!(!pattern.has_star() && pattern.matches(key.borrowed()));
    }
}

/// Two patterns cover each other, and have keys in common, as they do by the definition.
fn overlap(pattern: &Pattern, text: &str) {
    let Ok(other) = Pattern::new(text) else {
        return;
    };
    if pattern.as_str().len() + text.len() > nkv::key::KEY_BYTES_MAX {
        // The key that both have may be too long for a key.
        return;
    }
    let both = key_of_both(pattern.as_str(), text);
    assert_eq!(
        pattern.intersects(&other),
        both.is_some(),
        "{pattern:?} {other:?} {both:?}"
    );
    assert_eq!(
        other.intersects(pattern),
        both.is_some(),
        "{other:?} {pattern:?} {both:?}"
    );
    let is_covered = covers(pattern.as_str(), text);
    assert_eq!(pattern.covers(&other), is_covered, "{pattern:?} {other:?}");
}

/// The pattern by itself, the trie, the walk and the definition agree on each key.
fn agree(pattern: &Pattern, exact: bool, keys: &BTreeSet<&str>) {
    let mut watch = Watch::default();
    let watcher = Watcher {
        session: 1,
        subscription: 2,
    };
    let (mut member, mut count) = watch.add(pattern, watcher);
    let mut keyspace = Keyspace::new(0);
    let mut expected = Vec::new();
    for text in keys {
        let key = KeyRef::new(text).expect("only keys are left");
        let is_match = pattern.matches(key);
        assert_eq!(
            is_match,
            matches(pattern.as_str(), exact, text),
            "{pattern:?} {text}"
        );
        // Asleep it is not met, awake it is met once, and both are counted.
        watch.visit(key, |watcher| panic!("{watcher:?} is asleep"));
        count += u64::from(is_match);
        assert_eq!(watch.wake(member), count, "{pattern:?} {text}");
        let mut found = Vec::new();
        watch.visit(key, |watcher| found.push(watcher));
        assert_eq!(
            found,
            vec![watcher; usize::from(is_match)],
            "{pattern:?} {text}"
        );
        count += u64::from(is_match);
        // One that has not been met is put to sleep otherwise: by going and coming again.
        if !is_match {
            watch.remove(pattern, member);
            (member, count) = watch.add(pattern, watcher);
        }
        keyspace.put(key, &Payload::Json("0".into()), Terms::default());
        expected.extend(is_match.then_some(*text));
    }
    // A walk that goes on behind any key is what is left of the whole walk.
    for after in [None].into_iter().chain(keys.iter().copied().map(Some)) {
        let walk = keyspace.walk(pattern, after);
        let found: Vec<&str> = walk
            .filter(|(_, entry)| entry.is_some())
            .map(|(key, _)| key.as_str())
            .collect();
        let left = expected
            .iter()
            .filter(|key| after.is_none_or(|after| after < **key));
        assert!(found.iter().eq(left), "{pattern:?} behind {after:?}");
    }
    watch.wake(member);
    watch.remove(pattern, member);
    for text in keys {
        let key = KeyRef::new(text).expect("only keys are left");
        watch.visit(key, |watcher| panic!("{watcher:?} is removed"));
    }
}

/// A broker with tight limits and some clients.
struct Room {
    bench: Bench,
    clients: [Option<Client>; CLIENTS],
}

struct Client {
    number: usize,
    /// Everything that it has sent and received.
    sent: Vec<u8>,
    received: Vec<u8>,
    has_ended: bool,
}

impl Room {
    fn new() -> Room {
        let mut limits = Limits::default();
        limits.message = 600;
        limits.output = 500;
        limits.page = 3;
        limits.subscriptions = 3;
        limits.keys = 12;
        limits.bytes = 2000;
        limits.tombstones = 2;
        let mut room = Room {
            bench: Bench::new(limits),
            clients: [const { None }; CLIENTS],
        };
        for seat in 0..CLIENTS {
            room.connect(seat);
        }
        room
    }

    fn connect(&mut self, seat: usize) {
        let number = self
            .bench
            .connect(unix_peer())
            .expect("there is room for a few");
        self.clients[seat] = Some(Client {
            number,
            sent: Vec::new(),
            received: Vec::new(),
            has_ended: false,
        });
    }

    fn act(&mut self, first: u8, bytes: &[u8]) {
        let seat = usize::from(first & 3) % CLIENTS;
        let Some(client) = &mut self.clients[seat] else {
            return self.connect(seat);
        };
        let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        match (first >> 2) & 15 {
            0..=7 => client.send(&mut self.bench, bytes),
            8 => client.send(&mut self.bench, text),
            9 => self.bench.set_appetite(client.number, text.len()),
            10 => self.bench.set_appetite(client.number, usize::MAX),
            11 => {
                client.has_ended = true;
                self.bench.end(client.number);
            }
            12 => {
                self.bench.disconnect(client.number);
                self.clients[seat] = None;
            }
            13 => self.bench.now = Time(self.bench.now.0 + bytes.len() as u64),
            14 => self.turn(bytes.len().max(1)),
            _ => self.turn(usize::MAX),
        }
        if first & 64 != 0 {
            self.turn(usize::MAX);
        }
    }

    fn turn(&mut self, piece: usize) {
        self.bench.turn(piece);
        for client in self.clients.iter_mut().flatten() {
            let bytes = self.bench.take_received(client.number);
            client.received.extend_from_slice(&bytes);
        }
    }

    /// Everyone reads everything, and every line must have been answered once.
    fn close(mut self) {
        for client in self.clients.iter().flatten() {
            self.bench.set_appetite(client.number, usize::MAX);
        }
        for turn in 0.. {
            assert!(turn < TURNS_MAX, "there is always more to do");
            if !self.bench.turn(usize::MAX) {
                break;
            }
        }
        self.turn(usize::MAX);
        for client in self.clients.iter().flatten() {
            client.check();
        }
    }
}

impl Client {
    fn send(&mut self, bench: &mut Bench, bytes: &[u8]) {
        if !self.has_ended {
            self.sent.extend_from_slice(bytes);
            bench.send(self.number, bytes);
        }
    }

    fn check(&self) {
        let mut pieces: Vec<&[u8]> = self.sent.split(|byte| *byte == b'\n').collect();
        let unfinished = pieces.pop();
        let asked = pieces
            .into_iter()
            .chain(unfinished.filter(|_| self.has_ended));
        let asked = asked
            .filter(|line| !line.strip_suffix(b"\r").unwrap_or(line).is_empty())
            .count();
        let mut answered = 0;
        let received = std::str::from_utf8(&self.received).expect("lines are UTF-8");
        for line in received.split_terminator('\n') {
            let json: &RawValue = serde_json::from_str(line).expect("a line is JSON");
            assert!(json.get().starts_with('{'), "{line}");
            match Incoming::parse(line).expect("a line is one of the protocol's") {
                Incoming::Reply { .. } => answered += 1,
                Incoming::Event { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(answered, asked, "each line is answered once");
        assert!(received.is_empty() || received.ends_with('\n'));
    }
}
