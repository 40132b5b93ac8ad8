//! The wire contract as types: one line of JSON on one side, a value on the other.
//!
//! Requests are read by [`Request::parse`] and written by [`Request::write`]; what comes back is
//! written by [`Reply`] and [`EventLine`] and read by [`Incoming::parse`]. Both directions of both
//! halves stand here, so that daemon and client can't drift apart, and `docs/protocol.md` says what
//! the lines mean.
//!
//! This room knows syntax only. Whether a key is well formed, whether a field makes sense for a
//! pattern, whether a condition holds: the broker decides.
//!
//! Values are never interpreted: a JSON value is the slice of the line that it was, checked to be
//! JSON and carried on byte for byte. That is what keeps numbers from being rounded, and it costs
//! less than a tree would.

mod incoming;
#[cfg(feature = "server")]
mod reply;
mod request;

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use incoming::{Answer, Failure, Happening, Incoming, ListEntry};
#[cfg(feature = "server")]
pub(crate) use reply::Stored;
#[cfg(feature = "server")]
pub use reply::{EventLine, Reply};
pub use request::{BatchOp, Delete, List, Op, Put, Request, RequestError, Subscribe};

/// The protocol's version, as `hello` answers it.
pub const PROTOCOL: u64 = 1;

/// How deep arrays and objects of a value may be nested. serde_json reads lines of 127 levels, and a
/// list has three around each value, so a client that reads lines into trees can read every value.
pub const VALUE_DEPTH_MAX: usize = 124;

/// The longest `id` that is a string, in bytes of its text.
pub const ID_BYTES_MAX: usize = 64;

/// The longest name that a client may give itself in `hello`, in bytes.
pub const CLIENT_NAME_BYTES_MAX: usize = 128;

/// How many entries a response to a pattern `get` carries at most, and where no `limit` is asked.
pub const PAGE_ENTRIES_MAX: u64 = 1000;

/// Where the daemon listens and clients look when they are told nothing else, as root.
pub const DEFAULT_SOCKET: &str = "/run/nkv.sock";

/// Every limit that a daemon imposes, in one place. `hello` answers them under these names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Limits {
    /// The longest request line in bytes, without its line end.
    pub message: u64,
    /// The longest key in bytes.
    pub key: u64,
    /// How many entries a page of a pattern `get` has at most.
    pub page: u64,
    /// How many bytes of responses may wait for a client before its requests are left unread.
    pub output: u64,
    /// How many connections there may be.
    pub clients: u64,
    /// How many subscriptions a connection may have.
    pub subscriptions: u64,
    /// How many keys the keyspace may hold.
    pub keys: u64,
    /// How many bytes of keys and values the keyspace may hold.
    pub bytes: u64,
    /// How many deleted keys are remembered for subscriptions that resume or lag.
    pub tombstones: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            message: 1 << 20,
            key: crate::key::KEY_BYTES_MAX as u64,
            page: PAGE_ENTRIES_MAX,
            output: 64 << 10,
            clients: 1024,
            subscriptions: 1024,
            keys: 1_000_000,
            bytes: 256 << 20,
            tombstones: 16_384,
        }
    }
}

/// What the daemon answers where it can't do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorCode {
    /// Not JSON, not an object, an unknown op or field, a wrong type, a missing field.
    BadRequest,
    /// Not a key, or a pattern where a key is needed, or a key that belongs to the daemon.
    BadKey,
    /// No such key, or no such subscription.
    NotFound,
    /// A condition did not hold, or a subscription with this id lives already.
    Conflict,
    /// A line, key or value over its limit.
    TooLarge,
    /// A quota is used up.
    Limit,
    /// This peer may not do that to this key.
    Denied,
    /// A TCP peer without a valid token.
    Unauthenticated,
    /// Storage has failed; reads and subscriptions go on.
    ReadOnly,
    /// A fault of the daemon's own.
    Internal,
    /// A code that this version of the library does not know. Never sent.
    #[serde(other)]
    Unknown,
}

impl ErrorCode {
    /// The code as it travels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorCode::BadRequest => "bad_request",
            ErrorCode::BadKey => "bad_key",
            ErrorCode::NotFound => "not_found",
            ErrorCode::Conflict => "conflict",
            ErrorCode::TooLarge => "too_large",
            ErrorCode::Limit => "limit",
            ErrorCode::Denied => "denied",
            ErrorCode::Unauthenticated => "unauthenticated",
            ErrorCode::ReadOnly => "read_only",
            ErrorCode::Internal => "internal",
            ErrorCode::Unknown => "unknown",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How long an entry lives if nobody deletes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifetime {
    /// On disk, across reboots.
    #[default]
    Durable,
    /// Across restarts and crashes of the daemon; gone after a reboot, never on the disk.
    Boot,
    /// Until the connection that last put it ends.
    Session,
}

impl Lifetime {
    /// The lifetime as it travels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Lifetime::Durable => "durable",
            Lifetime::Boot => "boot",
            Lifetime::Session => "session",
        }
    }
}

/// A value as it travels: JSON text, or raw bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// One valid JSON value without a newline in it.
    Json(Cow<'a, str>),
    /// Bytes, which travel as base64.
    Bytes(Cow<'a, [u8]>),
}

impl Payload<'_> {
    /// The same value with its own text or bytes.
    #[must_use]
    pub fn into_owned(self) -> Payload<'static> {
        match self {
            Payload::Json(json) => Payload::Json(Cow::Owned(json.into_owned())),
            Payload::Bytes(bytes) => Payload::Bytes(Cow::Owned(bytes.into_owned())),
        }
    }

    /// How many bytes it holds: the JSON text, or the bytes themselves.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Payload::Json(json) => json.len(),
            Payload::Bytes(bytes) => bytes.len(),
        }
    }

    /// Whether it holds no byte at all (only [`Payload::Bytes`] can).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends `"value":…` or `"base64":…`, without a comma.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Payload::Json(json) => {
                out.extend_from_slice(b"\"value\":");
                out.extend_from_slice(json.as_bytes());
            }
            Payload::Bytes(bytes) => {
                out.extend_from_slice(b"\"base64\":\"");
                write_base64(out, bytes);
                out.push(b'"');
            }
        }
    }
}

/// The `id` of a request or the name of a subscription: a string of at most [`ID_BYTES_MAX`] bytes
/// or an integer, kept as the JSON text that it was, so that it is echoed as it was sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Id<'a> {
    json: Cow<'a, str>,
}

impl<'a> Id<'a> {
    /// An id from its JSON text.
    ///
    /// # Errors
    /// A message where the text is neither a short string nor an integer.
    pub fn from_json(json: impl Into<Cow<'a, str>>) -> Result<Id<'a>, &'static str> {
        let json = json.into();
        let digits = json.strip_prefix('-').unwrap_or(&json);
        let is_integer = match digits.as_bytes() {
            [] => false,
            [b'0', rest @ ..] => rest.is_empty(),
            digits => digits.iter().all(u8::is_ascii_digit),
        };
        if is_integer {
            return if json.len() <= ID_BYTES_MAX {
                Ok(Id { json })
            } else {
                Err("an id that is an integer has at most 64 digits")
            };
        }
        match serde_json::from_str::<Cow<'_, str>>(&json) {
            Ok(text) if text.len() <= ID_BYTES_MAX => Ok(Id { json }),
            Ok(_) => Err("an id has at most 64 bytes"),
            Err(_) => Err("an id is a string or an integer"),
        }
    }

    /// The JSON text: digits, or a string in its quotes.
    #[must_use]
    pub fn as_json(&self) -> &str {
        &self.json
    }

    /// The same id however it was escaped: `"a"` for `"\u0061"`.
    #[must_use]
    pub fn canonical(&self) -> Id<'static> {
        let json = if self.json.contains('\\') {
            serde_json::from_str::<String>(&self.json)
                .and_then(|text| serde_json::to_string(&text))
                .unwrap_or_else(|_| self.json.to_string())
        } else {
            self.json.to_string()
        };
        Id {
            json: Cow::Owned(json),
        }
    }

    /// The same id with its own text.
    #[must_use]
    pub fn into_owned(self) -> Id<'static> {
        Id {
            json: Cow::Owned(self.json.into_owned()),
        }
    }
}

impl From<u64> for Id<'static> {
    fn from(number: u64) -> Id<'static> {
        Id {
            json: Cow::Owned(number.to_string()),
        }
    }
}

/// Appends a JSON string.
pub(crate) fn write_string(out: &mut Vec<u8>, text: &str) {
    let special = |byte: u8| byte < 0x20 || byte == b'"' || byte == b'\\';
    // All of it, without a branch for each byte.
    if !text.bytes().fold(false, |any, byte| any | special(byte)) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        write_json(out, text);
    }
}

/// Appends a number in decimal.
pub(crate) fn write_number(out: &mut Vec<u8>, number: u64) {
    write_json(out, &number);
}

/// Appends what serde_json makes of a value.
pub(crate) fn write_json<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("a Vec takes every byte and the type has string keys");
}

pub(crate) fn write_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    use base64::Engine;
    let start = out.len();
    let length = base64::encoded_len(bytes.len(), true).expect("values are far below usize::MAX");
    out.resize(start + length, 0);
    base64::engine::general_purpose::STANDARD
        .encode_slice(bytes, &mut out[start..])
        .expect("the slice has the length that the encoding said it needs");
}

pub(crate) fn read_base64(text: &str) -> Option<Vec<u8>> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

/// For a field that may be absent but, where present, must have its type: `null` is no absence.
pub(crate) fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// A string that borrows from the line where it can.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);
