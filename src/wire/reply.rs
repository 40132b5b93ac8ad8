//! Responses and events as the daemon writes them: straight into the bytes that go out.
//!
//! There is no tree in between. A [`Reply`] is begun, takes its fields in the order in which they
//! are given, and is ended; an [`EventLine`] is one call. Both append to a buffer that the caller
//! owns, so an answer costs no allocation of its own.

use serde::Serialize;

use super::{ErrorCode, Id, write_base64, write_json, write_number, write_string};

/// A value as the keyspace holds it, ready to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored<'a> {
    /// One valid JSON value.
    Json(&'a [u8]),
    /// Raw bytes.
    Bytes(&'a [u8]),
}

impl Stored<'_> {
    /// About how many bytes it takes in a line.
    pub(crate) fn len(self) -> usize {
        match self {
            Stored::Json(json) => json.len(),
            Stored::Bytes(bytes) => bytes.len().div_ceil(3) * 4,
        }
    }

    pub(crate) fn write(self, out: &mut Vec<u8>) {
        match self {
            Stored::Json(json) => {
                out.extend_from_slice(b",\"value\":");
                out.extend_from_slice(json);
            }
            Stored::Bytes(bytes) => {
                out.extend_from_slice(b",\"base64\":\"");
                write_base64(out, bytes);
                out.push(b'"');
            }
        }
    }
}

/// One response line while it is being written. Call [`Reply::end`] last.
#[must_use = "a reply that is not ended is no line"]
pub struct Reply<'o> {
    out: &'o mut Vec<u8>,
}

impl<'o> Reply<'o> {
    /// Begins the answer to a request that was carried out.
    pub fn ok(out: &'o mut Vec<u8>, id: Option<&Id<'_>>) -> Reply<'o> {
        begin(out, id);
        out.extend_from_slice(b"\"ok\":true");
        Reply { out }
    }

    /// Begins the answer to a request that was refused.
    pub fn error(
        out: &'o mut Vec<u8>,
        id: Option<&Id<'_>>,
        code: ErrorCode,
        message: &str,
    ) -> Reply<'o> {
        begin(out, id);
        out.extend_from_slice(b"\"ok\":false");
        Reply { out }
            .text("error", code.as_str())
            .text("message", message)
    }

    /// Begins an element of a list, which is ended with [`Reply::end_element`].
    pub fn element(out: &'o mut Vec<u8>, key: &str) -> Reply<'o> {
        out.extend_from_slice(b"{\"key\":");
        write_string(out, key);
        Reply { out }
    }

    /// Adds a number. `name` is a plain identifier, here and below.
    pub fn number(self, name: &str, number: u64) -> Reply<'o> {
        write_name(self.out, name);
        write_number(self.out, number);
        self
    }

    /// Adds a string.
    pub fn text(self, name: &str, text: &str) -> Reply<'o> {
        write_name(self.out, name);
        write_string(self.out, text);
        self
    }

    /// Adds `true` where the flag is set, and nothing where it is not.
    pub fn flag(self, name: &str, flag: bool) -> Reply<'o> {
        if flag { self.raw(name, b"true") } else { self }
    }

    /// Adds whatever serde_json makes of a value.
    pub fn json<T: Serialize>(self, name: &str, value: &T) -> Reply<'o> {
        write_name(self.out, name);
        write_json(self.out, value);
        self
    }

    /// Adds bytes that are JSON already.
    pub fn raw(self, name: &str, json: &[u8]) -> Reply<'o> {
        write_name(self.out, name);
        self.out.extend_from_slice(json);
        self
    }

    /// Adds a list, given as its elements with commas between them.
    pub fn list(self, name: &str, elements: &[u8]) -> Reply<'o> {
        write_name(self.out, name);
        self.out.push(b'[');
        self.out.extend_from_slice(elements);
        self.out.push(b']');
        self
    }

    /// Adds an entry's value in the form in which it was put.
    pub(crate) fn stored(self, value: Stored<'_>) -> Reply<'o> {
        value.write(self.out);
        self
    }

    /// Ends an element of a list.
    pub fn end_element(self) {
        self.out.push(b'}');
    }

    /// Ends the line.
    pub fn end(self) {
        self.out.extend_from_slice(b"}\n");
    }
}

/// Event lines, each written whole by one call.
pub struct EventLine;

impl EventLine {
    /// A covered key has this value. `sub` names the subscription.
    pub(crate) fn put(out: &mut Vec<u8>, sub: &Id<'_>, key: &str, value: Stored<'_>, rev: u64) {
        EventLine::begin(out, sub);
        EventLine::put_end(out, key, value, rev);
    }

    /// The part of a line that differs between subscriptions.
    pub(crate) fn begin(out: &mut Vec<u8>, sub: &Id<'_>) {
        out.extend_from_slice(b"{\"sub\":");
        out.extend_from_slice(sub.as_json().as_bytes());
    }

    /// The part of a put's line that is the same for all subscriptions.
    pub(crate) fn put_end(out: &mut Vec<u8>, key: &str, value: Stored<'_>, rev: u64) {
        out.reserve(key.len() + value.len() + EVENT_BYTES);
        out.extend_from_slice(b",\"event\":\"put\",\"key\":");
        write_string(out, key);
        Reply { out }.stored(value).number("rev", rev).end();
    }

    /// A covered key is gone.
    pub fn delete(out: &mut Vec<u8>, sub: &Id<'_>, key: &str, rev: u64) {
        event(out, sub, "delete")
            .text("key", key)
            .number("rev", rev)
            .end();
    }

    /// The subscriber holds exactly the state at this revision.
    pub fn sync(out: &mut Vec<u8>, sub: &Id<'_>, rev: u64) {
        event(out, sub, "sync").number("rev", rev).end();
    }

    /// The subscriber must drop what it holds; all current entries follow, and from then on it resumes in
    /// this epoch.
    pub fn reset(out: &mut Vec<u8>, sub: &Id<'_>, epoch: &str, rev: u64) {
        event(out, sub, "reset")
            .text("epoch", epoch)
            .number("rev", rev)
            .end();
    }
}

/// About how many bytes an event line of a put has beside its subscription, key and value.
const EVENT_BYTES: usize = 80;

fn event<'o>(out: &'o mut Vec<u8>, sub: &Id<'_>, event: &str) -> Reply<'o> {
    EventLine::begin(out, sub);
    Reply { out }.text("event", event)
}

fn begin(out: &mut Vec<u8>, id: Option<&Id<'_>>) {
    out.push(b'{');
    if let Some(id) = id {
        out.extend_from_slice(b"\"id\":");
        out.extend_from_slice(id.as_json().as_bytes());
        out.push(b',');
    }
}

fn write_name(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_written_as_the_protocol_says() {
        let check = |write: &dyn Fn(&mut Vec<u8>), expected: &str| {
            let mut out = Vec::new();
            write(&mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        };
        let id = Id::from(7);
        check(&|out| Reply::ok(out, None).end(), "{\"ok\":true}\n");
        check(
            &|out| {
                Reply::ok(out, Some(&id))
                    .number("rev", 3)
                    .flag("more", true)
                    .end()
            },
            "{\"id\":7,\"ok\":true,\"rev\":3,\"more\":true}\n",
        );
        check(
            &|out| Reply::error(out, None, ErrorCode::NotFound, "no \"a\"").end(),
            "{\"ok\":false,\"error\":\"not_found\",\"message\":\"no \\\"a\\\"\"}\n",
        );
        check(
            &|out| EventLine::put(out, &id, "a\"b", Stored::Json(b"1.0"), 2),
            "{\"sub\":7,\"event\":\"put\",\"key\":\"a\\\"b\",\"value\":1.0,\"rev\":2}\n",
        );
        check(
            &|out| EventLine::put(out, &id, "a", Stored::Bytes(b"\0\x01"), 2),
            "{\"sub\":7,\"event\":\"put\",\"key\":\"a\",\"base64\":\"AAE=\",\"rev\":2}\n",
        );
        check(
            &|out| EventLine::sync(out, &id, 4),
            "{\"sub\":7,\"event\":\"sync\",\"rev\":4}\n",
        );
        check(
            &|out| EventLine::reset(out, &id, "e", 4),
            "{\"sub\":7,\"event\":\"reset\",\"epoch\":\"e\",\"rev\":4}\n",
        );
    }
}
