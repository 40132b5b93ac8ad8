//! Values, entries and events as a client holds them: owned, and no more interpreted than asked.
//!
//! A [`Value`] is valid from the moment it exists (one JSON value on one line, or bytes), because
//! everything that can be sent is made of one.

use std::borrow::Cow;
use std::time::Duration;

use serde::Serialize;
use serde::de::{DeserializeOwned, Error as _};
use serde_json::value::RawValue;

use super::Error;
use crate::key::Key;
use crate::wire::{Lifetime, Payload};

/// A value of the keyspace: JSON, byte for byte as it was put, or raw bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value(Payload<'static>);

/// One key with what it holds. `T` is [`Value`] where no type was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry<T = Value> {
    /// The key.
    pub key: Key,
    /// What it holds.
    pub value: T,
    /// The revision of its last change.
    pub rev: u64,
    /// How long it lives if nobody deletes it.
    pub lifetime: Lifetime,
    /// What is left of its time to live, where it has one.
    pub ttl: Option<Duration>,
}

/// What a subscription tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The key has this value.
    Put {
        /// The key.
        key: Key,
        /// Its value.
        value: Value,
        /// The revision of its last change.
        rev: u64,
    },
    /// The key is gone. It may be one that was never seen.
    Delete {
        /// The key.
        key: Key,
        /// The revision at which it went.
        rev: u64,
    },
    /// What was told so far is exactly the state at this revision.
    Sync {
        /// The revision.
        rev: u64,
    },
    /// Drop what you hold: all current entries follow, then [`Event::Sync`].
    Reset {
        /// The revision at which the new start was made.
        rev: u64,
        /// The epoch of what follows, from which to resume later; none where the daemon does not tell,
        /// and it is the one before.
        epoch: Option<String>,
    },
}

impl Value {
    /// The JSON of any serialisable value.
    ///
    /// # Errors
    /// [`Error::Value`] where it has no JSON form (a map whose keys are no strings).
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Value, Error> {
        serde_json::to_string(value)
            .map(Value::on_one_line)
            .map_err(Error::Value)
    }

    /// A value from JSON text, which is kept byte for byte. Only line ends between its parts, which
    /// the protocol can't carry, become spaces.
    ///
    /// # Errors
    /// [`Error::Value`] where the text is not one JSON value.
    ///
    /// ```
    /// use nkv::client::Value;
    /// assert_eq!(Value::from_json_text(" 1.00 ")?.as_json_text(), Some("1.00"));
    /// assert!(Value::from_json_text("{").is_err());
    /// # Ok::<(), nkv::client::Error>(())
    /// ```
    pub fn from_json_text(text: &str) -> Result<Value, Error> {
        let json = serde_json::from_str::<&RawValue>(text).map_err(Error::Value)?;
        Ok(Value::on_one_line(json.get().to_owned()))
    }

    /// A value of raw bytes.
    #[must_use]
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Value {
        Value(Payload::Bytes(Cow::Owned(bytes.into())))
    }

    /// Reads it as a type of the caller's.
    ///
    /// # Errors
    /// [`Error::Value`] where it is not of that type, or is raw bytes.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        match &self.0 {
            Payload::Json(json) => serde_json::from_str(json).map_err(Error::Value),
            Payload::Bytes(_) => Err(Error::Value(serde_json::Error::custom(
                "it is raw bytes, not JSON",
            ))),
        }
    }

    /// The JSON text as it was put; nothing where it is raw bytes.
    #[must_use]
    pub fn as_json_text(&self) -> Option<&str> {
        match &self.0 {
            Payload::Json(json) => Some(json),
            Payload::Bytes(_) => None,
        }
    }

    /// The raw bytes; nothing where it is JSON.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.0 {
            Payload::Json(_) => None,
            Payload::Bytes(bytes) => Some(bytes),
        }
    }

    pub(super) fn received(payload: Payload<'_>) -> Value {
        Value(payload.into_owned())
    }

    pub(super) fn into_payload(self) -> Payload<'static> {
        self.0
    }

    /// A JSON string can't hold a bare line end, so one can only stand between tokens.
    fn on_one_line(json: String) -> Value {
        let json = if json.contains('\n') {
            json.replace('\n', " ")
        } else {
            json
        };
        Value(Payload::Json(Cow::Owned(json)))
    }
}

impl Entry<Value> {
    /// The same entry with its value read as a type of the caller's.
    ///
    /// # Errors
    /// [`Error::Value`] where the value is not of that type.
    pub fn typed<T: DeserializeOwned>(self) -> Result<Entry<T>, Error> {
        let value = self.value.json()?;
        let Entry {
            key,
            rev,
            lifetime,
            ttl,
            ..
        } = self;
        Ok(Entry {
            key,
            value,
            rev,
            lifetime,
            ttl,
        })
    }
}

impl Event {
    /// The revision that it tells of.
    #[must_use]
    pub fn rev(&self) -> u64 {
        match self {
            Event::Put { rev, .. }
            | Event::Delete { rev, .. }
            | Event::Sync { rev }
            | Event::Reset { rev, .. } => *rev,
        }
    }

    /// The key that changed; none for [`Event::Sync`] and [`Event::Reset`].
    #[must_use]
    pub fn key(&self) -> Option<&Key> {
        match self {
            Event::Put { key, .. } | Event::Delete { key, .. } => Some(key),
            Event::Sync { .. } | Event::Reset { .. } => None,
        }
    }
}
