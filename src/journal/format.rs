//! Lines of a journal: bytes to values and back. `docs/journal.md` is the format's contract.
//!
//! A line is the CRC-32 of its text in eight hexadecimal digits, a space, and a JSON object. The
//! checksum is the one of zip and Ethernet (reflected polynomial 0xEDB88320), so that other tools can
//! check it. Values stand in the line as the text that they were put as.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::key::{Key, KeyRef};
use crate::keyspace::{Account, Class, Entry, Restored, Time};
use crate::wire::{
    Lifetime, Payload, Text, present, read_base64, write_json, write_number, write_string,
};

/// The version of the format that is written. All up to it are read.
pub(super) const VERSION: u64 = 1;

/// The greatest revision that a line can name: the last that JSON readers with floating point keep exact.
pub(super) const REV_MAX: u64 = (1 << 53) - 1;

/// How many bytes stand before a line's text: the checksum and a space.
const PREFIX_BYTES: usize = 9;

/// The first line of a journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub(super) journal: Kind,
    pub(super) version: u64,
    /// Names the durable journal, through all times that it is written anew. The boot journal names
    /// the one that it goes with.
    pub(super) store: String,
    /// Names the run of the machine that a boot journal belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) boot: Option<String>,
    /// The epoch; in a boot journal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) epoch: Option<String>,
}

/// Which of the two journals a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Durable,
    Boot,
}

/// What can be read of the first line in every version.
#[derive(Deserialize)]
struct AnyHeader {
    version: u64,
}

/// Every line but the first: a commit, or a slice of one that a rewrite has made.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Commit<'a> {
    /// The last revision that was given when it was written.
    pub(super) rev: u64,
    #[serde(borrow, default)]
    changes: Vec<Record<'a>>,
    /// In a boot journal: it counts only where the durable journal has the line of this revision.
    pub(super) with: Option<u64>,
    /// Revisions up to this one may be given before the next line says so.
    pub(super) reserved: Option<u64>,
    /// Tombstones up to this revision may be missing.
    pub(super) floor: Option<u64>,
    /// In a durable journal: what has changed in the other class at this revision could not be written.
    /// The history goes on only where the boot journal has a later line.
    pub(super) boot_unkept: Option<u64>,
    /// So many bytes before this line may not be on the disk yet.
    #[serde(default)]
    pub(super) unsynced: u64,
    /// In a boot journal: the durable journal is about to say that the daemon has stopped cleanly.
    #[serde(default)]
    pub(super) closing: bool,
    /// Written at a clean stop: as the last line it says that nothing is missing.
    #[serde(default)]
    pub(super) clean: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record<'a> {
    op: RecordOp,
    #[serde(borrow)]
    key: Text<'a>,
    rev: u64,
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<&'a RawValue>,
    #[serde(borrow)]
    base64: Option<Text<'a>>,
    lifetime: Option<Lifetime>,
    deadline: Option<u64>,
    by: Option<By>,
}

/// Whom an entry is charged to: a user's number, or `"tcp"`; root where nothing is said.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
enum By {
    User(u32),
    Other(Other),
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Other {
    Tcp,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RecordOp {
    Put,
    Delete,
    Displace,
    Renew,
}

/// Why a line can't be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    Damaged(String),
    Version(u64),
}

impl Header {
    /// Appends the line.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let start = begin(out);
        write_json(out, self);
        end(out, start);
    }

    /// Reads a first line, without its line end.
    pub(super) fn read(line: &[u8]) -> Result<Header, Unreadable> {
        let text = checked(line)?;
        let any: AnyHeader = serde_json::from_str(text).map_err(misread)?;
        if any.version > VERSION {
            return Err(Unreadable::Version(any.version));
        }
        serde_json::from_str(text).map_err(misread)
    }
}

impl<'a> Commit<'a> {
    /// Reads any later line, without its line end.
    pub(super) fn read(line: &'a [u8]) -> Result<Commit<'a>, Unreadable> {
        let commit: Commit<'a> = serde_json::from_str(checked(line)?).map_err(misread)?;
        commit.check().map_err(Unreadable::Damaged)?;
        Ok(commit)
    }

    /// Nothing in a line is newer than the line itself.
    fn check(&self) -> Result<(), String> {
        let reserved = self.reserved.unwrap_or(0);
        if let Some(rev) = [self.rev, reserved].into_iter().find(|rev| *rev > REV_MAX) {
            return Err(format!("no revision is {rev}"));
        }
        let of_commit = [self.with, self.floor, self.boot_unkept];
        let of_records = self.changes.iter().map(|record| record.rev);
        let mut named = of_commit.into_iter().flatten().chain(of_records);
        match named.find(|rev| *rev > self.rev) {
            Some(rev) => Err(format!("it says {rev} of what was done up to {}", self.rev)),
            None => Ok(()),
        }
    }

    pub(super) fn records(&self) -> u64 {
        self.changes.len() as u64
    }

    /// Gives each of its records to `take`, in their order.
    pub(super) fn restore(
        &self,
        class: Class,
        mut take: impl FnMut(KeyRef<'_>, u64, &Restored<'_>),
    ) -> Result<(), Unreadable> {
        for record in &self.changes {
            let key = KeyRef::new(&record.key.0)
                .map_err(|error| Unreadable::Damaged(format!("a key can't be: {error}")))?;
            take(key, record.rev, &record.restored(class)?);
        }
        Ok(())
    }
}

impl Record<'_> {
    fn restored(&self, class: Class) -> Result<Restored<'_>, Unreadable> {
        let missing = |what: &str| Unreadable::Damaged(format!("a record lacks its {what}"));
        Ok(match self.op {
            RecordOp::Put => {
                let payload = match (self.value, &self.base64) {
                    (Some(json), None) => Payload::Json(json.get().into()),
                    (None, Some(text)) => {
                        let bytes = read_base64(&text.0).ok_or_else(|| missing("base64"))?;
                        Payload::Bytes(Cow::Owned(bytes))
                    }
                    _ => return Err(missing("value")),
                };
                let lifetime = self.lifetime.unwrap_or_default();
                if Class::of(lifetime) != class {
                    return Err(Unreadable::Damaged(
                        "a record belongs in the other journal".into(),
                    ));
                }
                Restored::Put {
                    payload,
                    lifetime,
                    deadline: self.deadline.map(Time),
                    account: match self.by {
                        None => Account::ROOT,
                        Some(By::User(uid)) => Account::user(uid),
                        Some(By::Other(Other::Tcp)) => Account::TCP,
                    },
                }
            }
            RecordOp::Delete => Restored::Deleted(class),
            RecordOp::Displace => Restored::Displaced(class),
            RecordOp::Renew => {
                let deadline = self.deadline.ok_or_else(|| missing("deadline"))?;
                Restored::Renewed(class, Time(deadline))
            }
        })
    }
}

/// What a line says of the daemon's stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    No,
    Closing,
    Clean,
}

/// A line while it is made. Its buffer is used again for the next.
#[derive(Debug, Default)]
pub(super) struct Draft {
    line: Vec<u8>,
    records: u64,
}

/// A buffer larger than this is given back after use.
const DRAFT_BYTES_KEPT: usize = 64 << 10;

impl Draft {
    /// Begins a commit, unless one is begun.
    pub(super) fn begin(&mut self, rev: u64) {
        if self.line.is_empty() {
            begin(&mut self.line);
            self.line.extend_from_slice(b"{\"rev\":");
            write_number(&mut self.line, rev);
        }
    }

    pub(super) fn is_begun(&self) -> bool {
        !self.line.is_empty()
    }

    /// How many bytes it has so far.
    pub(super) fn len(&self) -> usize {
        self.line.len()
    }

    pub(super) fn put(&mut self, entry: &Entry<'_>) {
        self.record("put", entry.key, entry.rev);
        let out = &mut self.line;
        entry.value.write(out);
        if entry.lifetime != Lifetime::Durable {
            out.extend_from_slice(b",\"lifetime\":");
            write_string(out, entry.lifetime.as_str());
        }
        if let Some(deadline) = entry.deadline {
            self.number("deadline", deadline.0);
        }
        match entry.account.uid() {
            Some(0) => {}
            Some(uid) => self.number("by", u64::from(uid)),
            None => self.line.extend_from_slice(b",\"by\":\"tcp\""),
        }
        self.line.push(b'}');
    }

    pub(super) fn delete(&mut self, key: &Key, rev: u64) {
        self.record("delete", key, rev);
        self.line.push(b'}');
    }

    pub(super) fn displace(&mut self, key: &Key, rev: u64) {
        self.record("displace", key, rev);
        self.line.push(b'}');
    }

    pub(super) fn renew(&mut self, key: &Key, rev: u64, deadline: Time) {
        self.record("renew", key, rev);
        self.number("deadline", deadline.0);
        self.line.push(b'}');
    }

    /// Ends the line with fields of the commit itself, and gives it with the number of its records.
    pub(super) fn end(&mut self, fields: &[(&str, u64)], stop: Stop) -> (&[u8], u64) {
        assert!(self.is_begun(), "a line begins before it ends");
        if self.records > 0 {
            self.line.push(b']');
        }
        for (name, number) in fields {
            self.number(name, *number);
        }
        self.line.extend_from_slice(match stop {
            Stop::No => b"".as_slice(),
            Stop::Closing => b",\"closing\":true",
            Stop::Clean => b",\"clean\":true",
        });
        self.line.push(b'}');
        end(&mut self.line, 0);
        (&self.line, self.records)
    }

    /// Makes place for the next line.
    pub(super) fn clear(&mut self) {
        self.line.clear();
        self.line.shrink_to(DRAFT_BYTES_KEPT);
        self.records = 0;
    }

    fn record(&mut self, op: &str, key: &Key, rev: u64) {
        assert!(self.is_begun(), "records stand in a line");
        let out = &mut self.line;
        if self.records == 0 {
            out.extend_from_slice(b",\"changes\":[");
        } else {
            out.push(b',');
        }
        self.records += 1;
        out.extend_from_slice(b"{\"op\":\"");
        out.extend_from_slice(op.as_bytes());
        out.extend_from_slice(b"\",\"key\":");
        write_string(out, key.as_str());
        self.number("rev", rev);
    }

    fn number(&mut self, name: &str, number: u64) {
        self.line.extend_from_slice(b",\"");
        self.line.extend_from_slice(name.as_bytes());
        self.line.extend_from_slice(b"\":");
        write_number(&mut self.line, number);
    }
}

/// Appends the place of a checksum and returns where it is.
fn begin(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[b' '; PREFIX_BYTES]);
    start
}

/// Fills in the checksum of all that was appended since, and ends the line.
fn end(out: &mut Vec<u8>, start: usize) {
    let checksum = crc32fast::hash(&out[start + PREFIX_BYTES..]);
    let digits = format!("{checksum:08x}");
    out[start..start + digits.len()].copy_from_slice(digits.as_bytes());
    out.push(b'\n');
}

/// The text of a line whose checksum holds.
fn checked(line: &[u8]) -> Result<&str, Unreadable> {
    let damaged = |reason: &str| Unreadable::Damaged(reason.into());
    let (prefix, text) = line
        .split_at_checked(PREFIX_BYTES)
        .ok_or_else(|| damaged("it is too short"))?;
    let digits = std::str::from_utf8(prefix).ok();
    let digits = digits.and_then(|prefix| prefix.strip_suffix(' '));
    let is_hex = |digits: &&str| {
        digits
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let stated = digits
        .filter(is_hex)
        .and_then(|digits| u32::from_str_radix(digits, 16).ok())
        .ok_or_else(|| damaged("it does not begin with a checksum"))?;
    if crc32fast::hash(text) != stated {
        return Err(damaged("its checksum does not hold"));
    }
    std::str::from_utf8(text).map_err(|_| damaged("it is not UTF-8"))
}

fn misread(error: serde_json::Error) -> Unreadable {
    Unreadable::Damaged(format!("it can't be understood: {error}"))
}

#[cfg(test)]
mod tests {
    use crate::keyspace::{Keyspace, Terms};

    use super::*;

    fn text(bytes: &[u8]) -> String {
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    /// The checksum was computed by Python's zlib.
    #[test]
    fn lines_are_written_as_documented() {
        let mut keyspace = Keyspace::new(10);
        let mut put = |key: &str, payload: Payload<'_>, lifetime, deadline: Option<Time>| {
            let terms = Terms {
                lifetime,
                owner: None,
                deadline,
                account: if deadline.is_some() {
                    Account::user(7)
                } else {
                    Account::ROOT
                },
            };
            keyspace.put(KeyRef::new(key).unwrap(), &payload, terms);
        };
        put("a", Payload::Json("1.0".into()), Lifetime::Durable, None);
        let bytes = Payload::Bytes(Cow::Borrowed(b"\0\x01"));
        put("b", bytes, Lifetime::Boot, Some(Time(7)));
        let mut draft = Draft::default();
        draft.begin(4);
        for (_, change) in keyspace.changes_after(0) {
            draft.put(&change.unwrap().entry.unwrap());
        }
        let key = Key::new("c\"d").unwrap();
        draft.delete(&key, 3);
        draft.displace(&key, 3);
        draft.renew(&key, 3, Time(9));
        let (line, records) = draft.end(&[("reserved", 100)], Stop::Clean);
        assert_eq!(records, 5);
        let expected = concat!(
            r#"a767ac8f {"rev":4,"changes":[{"op":"put","key":"a","rev":1,"value":1.0},"#,
            r#"{"op":"put","key":"b","rev":2,"base64":"AAE=","lifetime":"boot","deadline":7,"by":7},"#,
            r#"{"op":"delete","key":"c\"d","rev":3},{"op":"displace","key":"c\"d","rev":3},"#,
            r#"{"op":"renew","key":"c\"d","rev":3,"deadline":9}],"reserved":100,"clean":true}"#,
            "\n"
        );
        assert_eq!(text(line), expected);
    }

    #[test]
    fn lines_are_read_as_written() {
        let mut draft = Draft::default();
        draft.begin(9);
        draft.delete(&Key::new("a").unwrap(), 8);
        let (line, _) = draft.end(&[("with", 9), ("floor", 3)], Stop::No);
        let commit = Commit::read(line.strip_suffix(b"\n").unwrap()).unwrap();
        assert_eq!(
            (commit.rev, commit.with, commit.floor),
            (9, Some(9), Some(3))
        );
        assert_eq!((commit.reserved, commit.clean), (None, false));
        let mut seen = Vec::new();
        let take = |key: KeyRef<'_>, rev, record: &Restored<'_>| {
            seen.push(format!("{key} {rev} {record:?}"));
        };
        commit.restore(Class::Boot, take).unwrap();
        assert_eq!(seen, ["a 8 Deleted(Boot)"]);
    }

    #[test]
    fn what_was_not_written_so_is_told_apart() {
        let header = Header {
            journal: Kind::Boot,
            version: VERSION,
            store: "s".into(),
            boot: Some("b".into()),
            epoch: Some("e".into()),
        };
        let mut line = Vec::new();
        header.write(&mut line);
        let line = line.strip_suffix(b"\n").unwrap();
        assert_eq!(Header::read(line).unwrap(), header);
        for at in 0..line.len() {
            for bit in 0..8 {
                let mut flipped = line.to_vec();
                flipped[at] ^= 1 << bit;
                assert!(Header::read(&flipped).is_err(), "byte {at}, bit {bit}");
            }
            assert!(Header::read(&line[..at]).is_err());
        }
        let newer = Header {
            version: VERSION + 1,
            ..header
        };
        let mut line = Vec::new();
        newer.write(&mut line);
        let error = Header::read(line.strip_suffix(b"\n").unwrap());
        assert_eq!(error, Err(Unreadable::Version(VERSION + 1)));
    }
}
