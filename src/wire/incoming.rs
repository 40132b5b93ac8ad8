//! What a client receives: responses and events, read in one pass.
//!
//! Unlike requests, these lines may carry fields that this version does not know; they are skipped,
//! so that a newer daemon can say more to an older client.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{ErrorCode, Id, Lifetime, Payload, Text, present, read_base64};

/// One line from the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Incoming<'a> {
    /// The answer to the request with this id.
    Reply {
        /// The request's id; absent where it had none or it could not be read.
        id: Option<Id<'a>>,
        /// What a request carried out brings, or why it was not.
        result: Result<Box<Answer<'a>>, Failure>,
    },
    /// An event of a subscription.
    Event {
        /// The subscription's id.
        sub: Id<'a>,
        /// The revision of the change, or the one that a `sync` or `reset` stands at.
        rev: u64,
        /// What happened.
        event: Happening<'a>,
    },
    /// An event of a kind that this version does not know. To be skipped.
    UnknownEvent,
}

/// What an event tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening<'a> {
    /// The key has this value.
    Put {
        /// The key.
        key: Cow<'a, str>,
        /// Its value.
        payload: Payload<'a>,
    },
    /// The key is gone.
    Delete {
        /// The key.
        key: Cow<'a, str>,
    },
    /// What was told so far is the whole state at the event's revision.
    Sync,
    /// Drop what you hold: all current entries follow.
    Reset {
        /// The epoch in which what follows is told; absent where the daemon is older than the field.
        epoch: Option<Cow<'a, str>>,
    },
}

/// The fields of a successful response; which are there depends on the request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the fields are the protocol's, told in docs/protocol.md"
)]
#[non_exhaustive]
pub struct Answer<'a> {
    pub rev: Option<u64>,
    pub key: Option<Cow<'a, str>>,
    pub payload: Option<Payload<'a>>,
    pub lifetime: Option<Lifetime>,
    pub ttl_ms: Option<u64>,
    pub unchanged: bool,
    pub deleted: Option<u64>,
    pub entries: Vec<ListEntry<'a>>,
    pub more: bool,
    pub epoch: Option<Cow<'a, str>>,
    /// The whole line, for the ops whose answers have fields of their own
    /// (`hello`, `stats`, `clients`).
    pub line: &'a str,
}

/// One element of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the fields are the protocol's, told in docs/protocol.md"
)]
#[non_exhaustive]
pub struct ListEntry<'a> {
    pub key: Cow<'a, str>,
    /// Absent with `keys_only`.
    pub payload: Option<Payload<'a>>,
    pub rev: u64,
    pub lifetime: Lifetime,
    pub ttl_ms: Option<u64>,
}

/// A refusal by the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// What kind of refusal.
    pub code: ErrorCode,
    /// For a person.
    pub message: String,
    /// On [`ErrorCode::Conflict`]: the key's revision, `0` where it does not exist.
    pub rev: Option<u64>,
    /// On a refused batch: the index of the operation at fault.
    pub at: Option<u64>,
}

impl<'a> Incoming<'a> {
    /// Reads one line, with or without its line end.
    ///
    /// # Errors
    /// serde_json's, where the line is no response or event of this protocol.
    pub fn parse(line: &'a str) -> Result<Incoming<'a>, serde_json::Error> {
        let mut fields: Fields<'a> = serde_json::from_str(line)?;
        let id = |json: Option<&'a RawValue>| {
            json.map(|json| Id::from_json(json.get()))
                .transpose()
                .map_err(malformed)
        };
        if let Some(sub) = id(fields.sub)? {
            return event(sub, fields);
        }
        let id = id(fields.id)?;
        match fields.ok {
            Some(true) => {
                let payload = payload(fields.value.take(), fields.base64.take())?;
                let entries = fields.entries.unwrap_or_default();
                Ok(Incoming::Reply {
                    id,
                    result: Ok(Box::new(Answer {
                        rev: fields.rev,
                        key: fields.key.map(|key| key.0),
                        payload,
                        lifetime: fields.lifetime,
                        ttl_ms: fields.ttl_ms,
                        unchanged: fields.unchanged,
                        deleted: fields.deleted,
                        entries: entries.into_iter().map(entry).collect::<Result<_, _>>()?,
                        more: fields.more,
                        epoch: fields.epoch.map(|epoch| epoch.0),
                        line,
                    })),
                })
            }
            Some(false) => {
                let code = fields
                    .error
                    .ok_or_else(|| malformed("a refusal without `error`"))?;
                let message = fields
                    .message
                    .map(|text| text.0.into_owned())
                    .unwrap_or_default();
                let failure = Failure {
                    code,
                    message,
                    rev: fields.rev,
                    at: fields.at,
                };
                Ok(Incoming::Reply {
                    id,
                    result: Err(failure),
                })
            }
            None => Err(malformed("neither `ok` nor `sub`")),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Failure {}

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    ok: Option<bool>,
    #[serde(borrow, default, deserialize_with = "present")]
    sub: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    event: Option<Text<'a>>,
    error: Option<ErrorCode>,
    #[serde(borrow, default, deserialize_with = "present")]
    message: Option<Text<'a>>,
    rev: Option<u64>,
    at: Option<u64>,
    #[serde(borrow, default, deserialize_with = "present")]
    key: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    base64: Option<Text<'a>>,
    lifetime: Option<Lifetime>,
    ttl_ms: Option<u64>,
    #[serde(default)]
    unchanged: bool,
    deleted: Option<u64>,
    #[serde(borrow)]
    entries: Option<Vec<EntryFields<'a>>>,
    #[serde(default)]
    more: bool,
    #[serde(borrow, default, deserialize_with = "present")]
    epoch: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct EntryFields<'a> {
    #[serde(borrow)]
    key: Text<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    base64: Option<Text<'a>>,
    rev: u64,
    #[serde(default)]
    lifetime: Lifetime,
    ttl_ms: Option<u64>,
}

fn event<'a>(sub: Id<'a>, fields: Fields<'a>) -> Result<Incoming<'a>, serde_json::Error> {
    let kind = fields
        .event
        .ok_or_else(|| malformed("an event without `event`"))?;
    let key = fields
        .key
        .map(|key| key.0)
        .ok_or_else(|| malformed("an event without `key`"));
    let event = match &*kind.0 {
        "put" => Happening::Put {
            key: key?,
            payload: payload(fields.value, fields.base64)?
                .ok_or_else(|| malformed("a put without a value"))?,
        },
        "delete" => Happening::Delete { key: key? },
        "sync" => Happening::Sync,
        "reset" => Happening::Reset {
            epoch: fields.epoch.map(|epoch| epoch.0),
        },
        _ => return Ok(Incoming::UnknownEvent),
    };
    let rev = fields
        .rev
        .ok_or_else(|| malformed("an event without `rev`"))?;
    Ok(Incoming::Event { sub, rev, event })
}

fn entry(fields: EntryFields<'_>) -> Result<ListEntry<'_>, serde_json::Error> {
    Ok(ListEntry {
        key: fields.key.0,
        payload: payload(fields.value, fields.base64)?,
        rev: fields.rev,
        lifetime: fields.lifetime,
        ttl_ms: fields.ttl_ms,
    })
}

fn payload<'a>(
    value: Option<&'a RawValue>,
    base64: Option<Text<'a>>,
) -> Result<Option<Payload<'a>>, serde_json::Error> {
    match (value, base64) {
        (Some(json), _) => Ok(Some(Payload::Json(Cow::Borrowed(json.get())))),
        (None, Some(text)) => match read_base64(&text.0) {
            Some(bytes) => Ok(Some(Payload::Bytes(Cow::Owned(bytes)))),
            None => Err(malformed("`base64` is not base64")),
        },
        (None, None) => Ok(None),
    }
}

fn malformed(message: &str) -> serde_json::Error {
    serde::de::Error::custom(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let read = |line: &'static str| Incoming::parse(line).unwrap();
        assert_eq!(
            read(r#"{"sub":1,"event":"put","key":"a","value":1.0,"rev":3,"new":[1]}"#),
            Incoming::Event {
                sub: Id::from(1),
                rev: 3,
                event: Happening::Put {
                    key: "a".into(),
                    payload: Payload::Json("1.0".into())
                },
            }
        );
        assert_eq!(
            read(r#"{"sub":"s","event":"sync","rev":0}"#),
            Incoming::Event {
                sub: Id::from_json("\"s\"").unwrap(),
                rev: 0,
                event: Happening::Sync,
            }
        );
        let reset = |epoch: Option<&'static str>| Incoming::Event {
            sub: Id::from(1),
            rev: 3,
            event: Happening::Reset {
                epoch: epoch.map(Cow::Borrowed),
            },
        };
        let line = r#"{"sub":1,"event":"reset","epoch":"e","rev":3}"#;
        assert_eq!(read(line), reset(Some("e")));
        assert_eq!(read(r#"{"sub":1,"event":"reset","rev":3}"#), reset(None));
        assert_eq!(read(r#"{"sub":1,"event":"party"}"#), Incoming::UnknownEvent);
        let Incoming::Reply { id, result } =
            read(r#"{"id":4,"ok":true,"entries":[{"key":"a","base64":"AAE=","rev":2}],"rev":9}"#)
        else {
            panic!("it is a reply");
        };
        assert_eq!(id, Some(Id::from(4)));
        let answer = result.unwrap();
        assert_eq!(answer.rev, Some(9));
        assert_eq!(
            answer.entries[0].payload,
            Some(Payload::Bytes(Cow::Borrowed(b"\0\x01")))
        );
        let Incoming::Reply {
            result: Err(failure),
            ..
        } = read(r#"{"ok":false,"error":"conflict","message":"m","rev":0,"at":2}"#)
        else {
            panic!("it is a refusal");
        };
        assert_eq!(
            (failure.code, failure.rev, failure.at),
            (ErrorCode::Conflict, Some(0), Some(2))
        );
        let Incoming::Reply {
            result: Err(failure),
            ..
        } = read(r#"{"ok":false,"error":"from_the_future","message":"m"}"#)
        else {
            panic!("it is a refusal");
        };
        assert_eq!(failure.code, ErrorCode::Unknown);
        assert!(Incoming::parse("{}").is_err());
        assert!(Incoming::parse("[]").is_err());
    }
}
