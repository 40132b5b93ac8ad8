//! Answers with their own text, and what each request makes of its answer.
//!
//! A line is read once, under the connection's lock, by whichever thread is the reader; what the
//! waiting thread will need is copied out of it here. The functions at the end are what the request
//! methods name as their second half, the blocking ones and the pipelined ones alike.

use std::time::Duration;

use serde::de::DeserializeOwned;

use super::{Entry, Error, Value};
use crate::key::Key;
use crate::wire::{Answer, ErrorCode, Failure, Lifetime, ListEntry};

/// What a put did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Written {
    /// The revision of the key's last change: this one, unless nothing changed.
    pub rev: u64,
    /// Whether the very value was there already, where the put said `if_changed`.
    pub is_unchanged: bool,
}

/// A successful answer.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) rev: Option<u64>,
    pub(super) key: Option<Key>,
    pub(super) value: Option<Value>,
    pub(super) lifetime: Lifetime,
    pub(super) ttl: Option<Duration>,
    pub(super) is_unchanged: bool,
    pub(super) deleted: Option<u64>,
    pub(super) entries: Vec<Listed>,
    pub(super) has_more: bool,
    pub(super) epoch: Option<Box<str>>,
    /// The whole line, for the requests whose answers have fields of their own.
    pub(super) line: Option<Box<str>>,
}

/// One element of a page; the value is absent where only keys were asked for.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) key: Key,
    pub(super) value: Option<Value>,
    pub(super) rev: u64,
    pub(super) lifetime: Lifetime,
    pub(super) ttl: Option<Duration>,
}

/// A success or a refusal.
pub(super) type Answered = Result<Response, Failure>;

/// What the pipelined and the blocking requests have in common: how an answer is read.
pub(super) type Reading<T> = fn(Answered) -> Result<T, Error>;

impl Listed {
    pub(super) fn of(entry: Entry) -> Listed {
        let Entry {
            key,
            value,
            rev,
            lifetime,
            ttl,
        } = entry;
        Listed {
            key,
            value: Some(value),
            rev,
            lifetime,
            ttl,
        }
    }

    pub(super) fn entry(self) -> Result<Entry, Error> {
        Ok(Entry {
            key: self.key,
            value: self
                .value
                .ok_or_else(|| Error::Protocol("an entry without a value".into()))?,
            rev: self.rev,
            lifetime: self.lifetime,
            ttl: self.ttl,
        })
    }
}

impl Response {
    pub(super) fn received(answer: Answer<'_>, keeps_line: bool) -> Result<Response, String> {
        Ok(Response {
            rev: answer.rev,
            key: answer.key.as_deref().map(received_key).transpose()?,
            value: answer.payload.map(Value::received),
            lifetime: answer.lifetime.unwrap_or_default(),
            ttl: answer.ttl_ms.map(Duration::from_millis),
            is_unchanged: answer.unchanged,
            deleted: answer.deleted,
            entries: answer
                .entries
                .into_iter()
                .map(Listed::received)
                .collect::<Result<_, _>>()?,
            has_more: answer.more,
            epoch: answer.epoch.as_deref().map(Box::from),
            line: keeps_line.then(|| Box::from(answer.line)),
        })
    }
}

impl Listed {
    fn received(entry: ListEntry<'_>) -> Result<Listed, String> {
        Ok(Listed {
            key: received_key(&entry.key)?,
            value: entry.payload.map(Value::received),
            rev: entry.rev,
            lifetime: entry.lifetime,
            ttl: entry.ttl_ms.map(Duration::from_millis),
        })
    }
}

pub(super) fn written(answer: Answered) -> Result<Written, Error> {
    let answer = answer.map_err(Error::Server)?;
    Ok(Written {
        rev: needed(answer.rev, "rev")?,
        is_unchanged: answer.is_unchanged,
    })
}

pub(super) fn revision(answer: Answered) -> Result<u64, Error> {
    needed(answer.map_err(Error::Server)?.rev, "rev")
}

pub(super) fn deleted(answer: Answered) -> Result<u64, Error> {
    needed(answer.map_err(Error::Server)?.deleted, "deleted")
}

#[cfg(feature = "async")]
pub(super) fn was_deleted(answer: Answered) -> Result<bool, Error> {
    Ok(deleted(answer)? > 0)
}

pub(super) fn entry(answer: Answered) -> Result<Option<Entry>, Error> {
    match answer {
        Ok(answer) => Ok(Some(Entry {
            key: needed(answer.key, "key")?,
            value: needed(answer.value, "value")?,
            rev: needed(answer.rev, "rev")?,
            lifetime: answer.lifetime,
            ttl: answer.ttl,
        })),
        Err(failure) if failure.code == ErrorCode::NotFound => Ok(None),
        Err(failure) => Err(Error::Server(failure)),
    }
}

pub(super) fn typed_entry<T: DeserializeOwned>(
    answer: Answered,
) -> Result<Option<Entry<T>>, Error> {
    entry(answer)?.map(Entry::typed).transpose()
}

pub(super) fn nothing(answer: Answered) -> Result<(), Error> {
    answer.map(drop).map_err(Error::Server)
}

/// For those who judge refusals themselves.
pub(super) fn as_it_is(answer: Answered) -> Result<Answered, Error> {
    Ok(answer)
}

/// The whole line of an answer that was asked to keep it, as a type of its own.
pub(super) fn whole<T: DeserializeOwned>(answer: Answered) -> Result<T, Error> {
    let line = needed(answer.map_err(Error::Server)?.line, "content")?;
    serde_json::from_str(&line).map_err(|error| Error::Protocol(error.to_string()))
}

fn needed<T>(field: Option<T>, name: &str) -> Result<T, Error> {
    field.ok_or_else(|| Error::Protocol(format!("an answer without `{name}`")))
}

fn received_key(text: &str) -> Result<Key, String> {
    Key::new(text).map_err(|error| format!("a bad key: {error}"))
}
