//! Requests: read by the daemon, written by clients.
//!
//! A request is read in one pass into a flat struct of every field there is, then narrowed to the
//! fields of its op. A field that the op does not know is an error, never ignored, so that a
//! mistyped precondition can't pass; a field that stands twice is one as well.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, DeserializeSeed, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{
    ErrorCode, Id, Lifetime, Payload, Text, VALUE_DEPTH_MAX, read_base64, write_json, write_number,
    write_string,
};

/// One request line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Echoed in the response.
    pub id: Option<Id<'a>>,
    /// What is asked.
    pub op: Op<'a>,
}

/// What a request asks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the variants are the protocol's ops, told in docs/protocol.md"
)]
pub enum Op<'a> {
    Hello {
        client: Option<Cow<'a, str>>,
        token: Option<Cow<'a, str>>,
    },
    Put(Put<'a>),
    /// A `get` of a key or, where it has a star, of a pattern: the key tells.
    Get(List<'a>),
    Delete(Delete<'a>),
    Subscribe(Subscribe<'a>),
    Unsubscribe {
        sub: Id<'a>,
    },
    Batch {
        ops: Vec<BatchOp<'a>>,
    },
    Claim {
        key: Cow<'a, str>,
    },
    Release {
        key: Cow<'a, str>,
    },
    Stats,
    Clients,
    Ping,
}

/// `put`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the fields are the protocol's, told in docs/protocol.md"
)]
pub struct Put<'a> {
    pub key: Cow<'a, str>,
    pub payload: Payload<'a>,
    pub if_rev: Option<u64>,
    pub if_changed: bool,
    pub lifetime: Option<Lifetime>,
    pub ttl_ms: Option<u64>,
}

/// `get`; what follows `key` is for patterns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the fields are the protocol's, told in docs/protocol.md"
)]
pub struct List<'a> {
    pub key: Cow<'a, str>,
    pub limit: Option<u64>,
    pub after: Option<Cow<'a, str>>,
    pub keys_only: Option<bool>,
}

/// `delete`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the fields are the protocol's, told in docs/protocol.md"
)]
pub struct Delete<'a> {
    pub key: Cow<'a, str>,
    pub if_rev: Option<u64>,
}

/// `subscribe`; the request's id names the subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the fields are the protocol's, told in docs/protocol.md"
)]
pub struct Subscribe<'a> {
    pub key: Cow<'a, str>,
    pub exact: bool,
    pub no_initial: bool,
    pub cuts: bool,
    /// Revision and epoch to resume from.
    pub since: Option<(u64, Cow<'a, str>)>,
}

/// One operation of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the variants are the protocol's, told in docs/protocol.md"
)]
pub enum BatchOp<'a> {
    Put(Put<'a>),
    Delete(Delete<'a>),
    Check { key: Cow<'a, str>, if_rev: u64 },
}

/// Why a line is no request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestError {
    /// The line's `id`, where it could be read.
    pub id: Option<Id<'static>>,
    /// Always [`ErrorCode::BadRequest`] so far.
    pub code: ErrorCode,
    /// What is wrong, for a person.
    pub message: String,
}

impl<'a> Request<'a> {
    /// Reads one line, without its line end.
    ///
    /// # Errors
    /// [`RequestError`] where the line is no request of this protocol.
    pub fn parse(line: &'a [u8]) -> Result<Request<'a>, RequestError> {
        let text = std::str::from_utf8(line).map_err(|error| {
            let at = error.valid_up_to();
            RequestError::anonymous(format!("the line is not UTF-8 (at byte {at})"))
        })?;
        // The request's own object, and a batch's array and object, stand around a value.
        if let Some(at) = too_deep(text, VALUE_DEPTH_MAX + 3) {
            return Err(RequestError {
                id: readable_id(text),
                code: ErrorCode::BadRequest,
                message: format!("nested deeper than {VALUE_DEPTH_MAX} levels (at byte {at})"),
            });
        }
        let mut fields = Fields::default();
        fields.fill(text).map_err(|message| RequestError {
            id: readable_id(text),
            code: ErrorCode::BadRequest,
            message,
        })?;
        let id = match fields.id.take() {
            Some(json) => Some(Id::from_json(json.get()).map_err(RequestError::anonymous)?),
            None => None,
        };
        match narrow(&mut fields, id.as_ref()) {
            Ok(op) => Ok(Request { id, op }),
            Err(message) => Err(RequestError {
                id: id.map(Id::into_owned),
                code: ErrorCode::BadRequest,
                message,
            }),
        }
    }

    /// Appends the request as one line, line end included.
    ///
    /// A [`Payload::Json`] must hold one valid JSON value without a newline; nothing here checks it.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        if let Some(id) = &self.id {
            out.extend_from_slice(b"\"id\":");
            out.extend_from_slice(id.as_json().as_bytes());
            out.push(b',');
        }
        self.op.write(out);
        out.extend_from_slice(b"}\n");
    }
}

impl Op<'_> {
    /// The op's name on the wire.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Op::Hello { .. } => "hello",
            Op::Put(_) => "put",
            Op::Get(_) => "get",
            Op::Delete(_) => "delete",
            Op::Subscribe(_) => "subscribe",
            Op::Unsubscribe { .. } => "unsubscribe",
            Op::Batch { .. } => "batch",
            Op::Claim { .. } => "claim",
            Op::Release { .. } => "release",
            Op::Stats => "stats",
            Op::Clients => "clients",
            Op::Ping => "ping",
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        write_op(out, self.name());
        match self {
            Op::Hello { client, token } => {
                write_text(out, "client", client.as_deref());
                write_text(out, "token", token.as_deref());
            }
            Op::Put(put) => put.write(out),
            Op::Get(list) => {
                write_text(out, "key", Some(&list.key));
                write_integer(out, "limit", list.limit);
                write_text(out, "after", list.after.as_deref());
                if let Some(keys_only) = list.keys_only {
                    write_name(out, "keys_only");
                    write_json(out, &keys_only);
                }
            }
            Op::Delete(delete) => delete.write(out),
            Op::Subscribe(subscribe) => {
                write_text(out, "key", Some(&subscribe.key));
                write_flag(out, "exact", subscribe.exact);
                write_flag(out, "cuts", subscribe.cuts);
                if subscribe.no_initial {
                    out.extend_from_slice(b",\"initial\":false");
                }
                if let Some((since, epoch)) = &subscribe.since {
                    write_integer(out, "since", Some(*since));
                    write_text(out, "epoch", Some(epoch));
                }
            }
            Op::Unsubscribe { sub } => {
                out.extend_from_slice(b",\"sub\":");
                out.extend_from_slice(sub.as_json().as_bytes());
            }
            Op::Batch { ops } => {
                out.extend_from_slice(b",\"ops\":[");
                for (position, op) in ops.iter().enumerate() {
                    out.extend_from_slice(if position == 0 { b"{" } else { b",{" });
                    op.write(out);
                    out.push(b'}');
                }
                out.push(b']');
            }
            Op::Claim { key } | Op::Release { key } => {
                write_text(out, "key", Some(key));
            }
            Op::Stats | Op::Clients | Op::Ping => {}
        }
    }
}

impl BatchOp<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            BatchOp::Put(put) => {
                write_op(out, "put");
                put.write(out);
            }
            BatchOp::Delete(delete) => {
                write_op(out, "delete");
                delete.write(out);
            }
            BatchOp::Check { key, if_rev } => {
                write_op(out, "check");
                write_text(out, "key", Some(key));
                write_integer(out, "if_rev", Some(*if_rev));
            }
        }
    }
}

impl Put<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        write_text(out, "key", Some(&self.key));
        out.push(b',');
        self.payload.write(out);
        write_integer(out, "if_rev", self.if_rev);
        write_flag(out, "if_changed", self.if_changed);
        write_text(out, "lifetime", self.lifetime.map(Lifetime::as_str));
        write_integer(out, "ttl_ms", self.ttl_ms);
    }
}

impl Delete<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        write_text(out, "key", Some(&self.key));
        write_integer(out, "if_rev", self.if_rev);
    }
}

impl RequestError {
    fn anonymous(message: impl Into<String>) -> RequestError {
        RequestError {
            id: None,
            code: ErrorCode::BadRequest,
            message: message.into(),
        }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for RequestError {}

/// Declares the fields that any request or operation of a batch has, and how they are read: each once,
/// in any order, straight to its place, and none besides. That is what serde derives, too, but
/// for the way by many variables and copies, which took as long as reading the text.
macro_rules! fields {
    ($($name:ident: $type:ty,)*) => {
        /// Every field that any request or operation of a batch has.
        #[derive(Default)]
        struct Fields<'a> {
            $($name: Option<$type>,)*
        }

        #[derive(Clone, Copy)]
        #[allow(non_camel_case_types, reason = "the variants are the fields' names")]
        enum Name {
            $($name,)*
        }

        impl Name {
            const ALL: &[&str] = &[$(stringify!($name),)*];

            fn new<E: de::Error>(text: &str) -> Result<Name, E> {
                match text {
                    $(stringify!($name) => Ok(Name::$name),)*
                    unknown => Err(E::unknown_field(unknown, Name::ALL)),
                }
            }
        }

        impl<'a> Fields<'a> {
            fn read<A: MapAccess<'a>>(&mut self, name: Name, map: &mut A) -> Result<(), A::Error> {
                match name {
                    $(Name::$name => read(&mut self.$name, stringify!($name), map),)*
                }
            }

            /// The first field that is there.
            fn any(&self) -> Option<&'static str> {
                $(if self.$name.is_some() {
                    return Some(stringify!($name));
                })*
                None
            }
        }
    };
}

fields! {
    op: Text<'a>,
    id: &'a RawValue,
    key: Text<'a>,
    value: &'a RawValue,
    base64: Text<'a>,
    if_rev: u64,
    if_changed: bool,
    lifetime: NamedLifetime,
    ttl_ms: u64,
    limit: u64,
    after: Text<'a>,
    keys_only: bool,
    exact: bool,
    initial: bool,
    cuts: bool,
    since: u64,
    epoch: Text<'a>,
    sub: &'a RawValue,
    ops: Vec<&'a RawValue>,
    client: Text<'a>,
    token: Text<'a>,
}

/// Reads a field's value to its place. `null` is no absence: the field must have its type.
fn read<'a, T, A>(place: &mut Option<T>, name: &'static str, map: &mut A) -> Result<(), A::Error>
where
    T: Deserialize<'a>,
    A: MapAccess<'a>,
{
    if place.is_some() {
        return Err(de::Error::duplicate_field(name));
    }
    *place = Some(map.next_value()?);
    Ok(())
}

impl<'a> DeserializeSeed<'a> for &mut Fields<'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for &mut Fields<'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Name>()? {
            self.read(name, &mut map)?;
        }
        match self.op {
            Some(_) => Ok(()),
            None => Err(de::Error::missing_field("op")),
        }
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
        struct Naming;

        impl Visitor<'_> for Naming {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field's name")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Name, E> {
                Name::new(text)
            }
        }

        deserializer.deserialize_identifier(Naming)
    }
}

/// A lifetime from a string, and from nothing else: serde takes `{"boot":null}` for it as well.
struct NamedLifetime(Lifetime);

impl<'de> Deserialize<'de> for NamedLifetime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<NamedLifetime, D::Error> {
        let name: Text<'de> = Text::deserialize(deserializer)?;
        let named = IntoDeserializer::<D::Error>::into_deserializer(&*name.0);
        Lifetime::deserialize(named).map(NamedLifetime)
    }
}

impl<'a> Fields<'a> {
    /// Reads all fields of an object, and nothing else.
    fn fill(&mut self, text: &'a str) -> Result<(), String> {
        is_object(text)?;
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let filled = DeserializeSeed::deserialize(self, &mut deserializer);
        let ended = filled.and_then(|()| deserializer.end());
        ended.map_err(|error| describe(&error))
    }

    /// Takes the op's name.
    fn op(&mut self) -> Cow<'a, str> {
        let op = self.op.take().expect("what has no op is not read");
        op.0
    }
}

/// The id of a line that is no request, where it can be told.
fn readable_id(text: &str) -> Option<Id<'static>> {
    #[derive(Deserialize)]
    struct OnlyId<'a> {
        #[serde(borrow)]
        id: &'a RawValue,
    }
    is_object(text).ok()?;
    let only: OnlyId<'_> = serde_json::from_str(text).ok()?;
    Id::from_json(only.id.get()).ok().map(Id::into_owned)
}

/// Refuses what is not an object: serde takes an array for a struct as well.
fn is_object(text: &str) -> Result<(), String> {
    match text.trim_ascii_start().as_bytes().first() {
        Some(b'{') => Ok(()),
        _ => Err("not a JSON object".into()),
    }
}

/// Takes from the flat struct what the op knows and refuses the rest.
fn narrow<'a>(fields: &mut Fields<'a>, id: Option<&Id<'a>>) -> Result<Op<'a>, String> {
    let name = fields.op();
    let op = match &*name {
        "hello" => Op::Hello {
            client: fields.client.take().map(|text| text.0),
            token: fields.token.take().map(|text| text.0),
        },
        "put" => Op::Put(put(fields)?),
        "get" => Op::Get(List {
            key: key(fields)?,
            limit: fields.limit.take(),
            after: fields.after.take().map(|text| text.0),
            keys_only: fields.keys_only.take(),
        }),
        "delete" => Op::Delete(delete(fields)?),
        "subscribe" => {
            if id.is_none() {
                return Err("missing field `id`: it names the subscription".into());
            }
            Op::Subscribe(subscribe(fields)?)
        }
        "unsubscribe" => {
            let sub = fields.sub.take().ok_or("missing field `sub`")?;
            Op::Unsubscribe {
                sub: Id::from_json(sub.get())?,
            }
        }
        "batch" => {
            let ops = fields.ops.take().ok_or("missing field `ops`")?;
            let ops = ops.into_iter().enumerate().map(|(at, json)| {
                batch_op(json.get()).map_err(|message| format!("ops[{at}]: {message}"))
            });
            Op::Batch {
                ops: ops.collect::<Result<_, String>>()?,
            }
        }
        "claim" => Op::Claim { key: key(fields)? },
        "release" => Op::Release { key: key(fields)? },
        "stats" => Op::Stats,
        "clients" => Op::Clients,
        "ping" => Op::Ping,
        unknown => return Err(format!("unknown op {}", quoted(unknown))),
    };
    nothing_left(fields, op.name())?;
    Ok(op)
}

fn key<'a>(fields: &mut Fields<'a>) -> Result<Cow<'a, str>, String> {
    Ok(fields.key.take().ok_or("missing field `key`")?.0)
}

fn subscribe<'a>(fields: &mut Fields<'a>) -> Result<Subscribe<'a>, String> {
    let since = match (fields.since.take(), fields.epoch.take()) {
        (Some(since), Some(epoch)) => Some((since, epoch.0)),
        (None, None) => None,
        _ => return Err("`since` and `epoch` go together".into()),
    };
    Ok(Subscribe {
        key: key(fields)?,
        exact: fields.exact.take().unwrap_or(false),
        no_initial: !fields.initial.take().unwrap_or(true),
        cuts: fields.cuts.take().unwrap_or(false),
        since,
    })
}

fn put<'a>(fields: &mut Fields<'a>) -> Result<Put<'a>, String> {
    let payload = match (fields.value.take(), fields.base64.take()) {
        (Some(json), None) if too_deep(json.get(), VALUE_DEPTH_MAX).is_some() => {
            return Err(format!("nested deeper than {VALUE_DEPTH_MAX} levels"));
        }
        (Some(json), None) => Payload::Json(Cow::Borrowed(json.get())),
        (None, Some(text)) => Payload::Bytes(Cow::Owned(
            read_base64(&text.0).ok_or("`base64` is not base64 (standard alphabet, padded)")?,
        )),
        (None, None) => return Err("missing field `value` (or `base64`)".into()),
        (Some(_), Some(_)) => return Err("`value` and `base64` exclude each other".into()),
    };
    Ok(Put {
        key: key(fields)?,
        payload,
        if_rev: fields.if_rev.take(),
        if_changed: fields.if_changed.take().unwrap_or(false),
        lifetime: fields.lifetime.take().map(|named| named.0),
        ttl_ms: fields.ttl_ms.take(),
    })
}

fn delete<'a>(fields: &mut Fields<'a>) -> Result<Delete<'a>, String> {
    Ok(Delete {
        key: key(fields)?,
        if_rev: fields.if_rev.take(),
    })
}

fn batch_op(text: &str) -> Result<BatchOp<'_>, String> {
    let fields = &mut Fields::default();
    fields.fill(text)?;
    let name = fields.op();
    let op = match &*name {
        "put" => BatchOp::Put(put(fields)?),
        "delete" => BatchOp::Delete(delete(fields)?),
        "check" => BatchOp::Check {
            key: key(fields)?,
            if_rev: fields.if_rev.take().ok_or("missing field `if_rev`")?,
        },
        unknown => return Err(format!("a batch has no op {}", quoted(unknown))),
    };
    nothing_left(fields, &name)?;
    Ok(op)
}

/// Refuses the fields that are still there, which the op has not taken.
fn nothing_left(fields: &Fields<'_>, op: &str) -> Result<(), String> {
    match fields.any() {
        Some(name) => Err(format!("{op} has no field `{name}`")),
        None => Ok(()),
    }
}

/// Where the nesting of brackets outside strings exceeds the bound, if it does.
///
/// A short line can't have so many. Counting brackets wherever they stand comes next: hardly any line has
/// so many.
fn too_deep(text: &str, depth_max: usize) -> Option<usize> {
    if text.len() <= depth_max {
        return None;
    }
    if memchr::memchr2_iter(b'[', b'{', text.as_bytes())
        .take(depth_max + 1)
        .count()
        <= depth_max
    {
        return None;
    }
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                depth += 1;
                if depth > depth_max {
                    return Some(at);
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

/// serde_json's message with the line number dropped: a request has one line.
fn describe(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let column = error.column();
    match message.rfind(" at line ") {
        Some(end) => format!("{} (at byte {column})", clipped(&message[..end])),
        None => clipped(&message).into_owned(),
    }
}

fn quoted(text: &str) -> String {
    format!("{:?}", clipped(text))
}

/// What a peer sent, short enough to be sent back in a message.
fn clipped(text: &str) -> Cow<'_, str> {
    const BYTES_MAX: usize = 200;
    if text.len() <= BYTES_MAX {
        return Cow::Borrowed(text);
    }
    let end = text.floor_char_boundary(BYTES_MAX);
    Cow::Owned(format!("{}…", &text[..end]))
}

fn write_op(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b"\"op\":");
    write_string(out, name);
}

fn write_name(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn write_text(out: &mut Vec<u8>, name: &str, text: Option<&str>) {
    if let Some(text) = text {
        write_name(out, name);
        write_string(out, text);
    }
}

fn write_integer(out: &mut Vec<u8>, name: &str, number: Option<u64>) {
    if let Some(number) = number {
        write_name(out, name);
        write_number(out, number);
    }
}

fn write_flag(out: &mut Vec<u8>, name: &str, flag: bool) {
    if flag {
        write_name(out, name);
        write_json(out, &true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_survive_a_round_trip() {
        let check = |line: &str| {
            let request = Request::parse(line.as_bytes()).unwrap();
            let mut written = Vec::new();
            request.write(&mut written);
            assert_eq!(written.pop(), Some(b'\n'));
            assert_eq!(String::from_utf8(written).unwrap(), line);
        };
        check(r#"{"op":"ping"}"#);
        check(r#"{"id":7,"op":"stats"}"#);
        check(r#"{"id":"x","op":"clients"}"#);
        check(r#"{"op":"hello","client":"me","token":"t"}"#);
        check(
            r#"{"op":"put","key":"a","value": {"x": 1.0e5,  "y":null}}"#
                .replace(": {", ":{")
                .as_str(),
        );
        check(
            r#"{"op":"put","key":"a","value":null,"if_rev":3,"if_changed":true,"lifetime":"boot","ttl_ms":5}"#,
        );
        check(r#"{"op":"put","key":"a","base64":"AAEC/w=="}"#);
        check(r#"{"op":"get","key":"a.*","limit":5,"after":"a.b","keys_only":true}"#);
        check(r#"{"op":"delete","key":"a","if_rev":1}"#);
        check(
            r#"{"id":1,"op":"subscribe","key":"a","exact":true,"cuts":true,"initial":false,"since":9,"epoch":"e"}"#,
        );
        check(r#"{"op":"unsubscribe","sub":"s"}"#);
        check(r#"{"id":2,"op":"claim","key":"a.b"}"#);
        check(r#"{"op":"release","key":"a.b"}"#);
        check(
            r#"{"op":"batch","ops":[{"op":"put","key":"a","value":1},{"op":"delete","key":"b.*"},{"op":"check","key":"c","if_rev":0}]}"#,
        );
    }

    #[test]
    fn values_keep_every_byte() {
        let check = |value: &str| {
            let line = format!(r#"{{"op":"put","key":"a","value": {value} }}"#);
            let request = Request::parse(line.as_bytes()).unwrap();
            let Op::Put(put) = request.op else {
                panic!("{line} is a put")
            };
            assert_eq!(put.payload, Payload::Json(value.into()));
        };
        check("1.00");
        check("12345678901234567890123456789");
        check("1e999");
        check(r#""\u00e9\/""#);
        check("{ \"b\" : 1 , \"a\" : [ ] }");
        check("null");
        check(&format!(
            "{}{}",
            "[".repeat(VALUE_DEPTH_MAX),
            "]".repeat(VALUE_DEPTH_MAX)
        ));
        check(&format!("\"{}\"", "[".repeat(1000)));
    }

    #[test]
    fn bad_lines_are_told_why() {
        let check = |line: &str, id: Option<&str>, message: &str| {
            let error = Request::parse(line.as_bytes()).unwrap_err();
            assert_eq!(error.code, ErrorCode::BadRequest, "{line}");
            assert_eq!(error.id.as_ref().map(Id::as_json), id, "{line}");
            assert!(error.message.contains(message), "{line}: {}", error.message);
        };
        check("", None, "not a JSON object");
        check("{", None, "EOF");
        check("nonsense", None, "not a JSON object");
        check(r#"["ping"]"#, None, "not a JSON object");
        check("1", None, "not a JSON object");
        check(
            r#"{"op":"batch","ops":[["delete","a"]]}"#,
            None,
            "ops[0]: not a JSON object",
        );
        check(r#"{"op":"ping"} x"#, None, "trailing");
        check(r#"{"id":1}"#, Some("1"), "missing field `op`");
        check(r#"{"id":1,"op":5}"#, Some("1"), "invalid type");
        check(r#"{"id":1,"op":"jump"}"#, Some("1"), "unknown op \"jump\"");
        check(
            r#"{"id":1,"op":"ping","x":1}"#,
            Some("1"),
            "unknown field `x`",
        );
        check(
            r#"{"id":1,"op":"ping","key":"a"}"#,
            Some("1"),
            "ping has no field `key`",
        );
        check(
            r#"{"id":1,"op":"ping","op":"ping"}"#,
            Some("1"),
            "duplicate field `op`",
        );
        check(
            r#"{"id":1,"id":2,"op":"ping"}"#,
            None,
            "duplicate field `id`",
        );
        check(r#"{"id":1,"op":"get"}"#, Some("1"), "missing field `key`");
        check(
            r#"{"id":1,"op":"get","key":null}"#,
            Some("1"),
            "invalid type: null",
        );
        check(
            r#"{"id":1,"op":"put","key":"a"}"#,
            Some("1"),
            "missing field `value`",
        );
        check(
            r#"{"id":1,"op":"put","key":"a","value":1,"base64":""}"#,
            Some("1"),
            "exclude",
        );
        check(
            r#"{"id":1,"op":"put","key":"a","base64":"AA"}"#,
            Some("1"),
            "not base64",
        );
        check(
            r#"{"id":1,"op":"put","key":"a","base64":"A_-="}"#,
            Some("1"),
            "not base64",
        );
        check(
            r#"{"id":1,"op":"put","key":"a","value":1,"if_rev":-1}"#,
            Some("1"),
            "invalid value",
        );
        check(
            r#"{"id":1,"op":"put","key":"a","value":1,"if_rev":1.0}"#,
            Some("1"),
            "invalid type",
        );
        check(
            r#"{"id":1,"op":"put","key":"a","value":1,"lifetime":"x"}"#,
            Some("1"),
            "unknown variant",
        );
        check(
            r#"{"id":1,"op":"put","key":"a","value":01}"#,
            None,
            "invalid number",
        );
        check(
            r#"{"op":"subscribe","key":"a"}"#,
            None,
            "missing field `id`",
        );
        check(
            r#"{"id":1,"op":"subscribe","key":"a","since":1}"#,
            Some("1"),
            "go together",
        );
        check(
            r#"{"id":1,"op":"subscribe","key":"a","epoch":"e"}"#,
            Some("1"),
            "go together",
        );
        check(
            r#"{"id":1,"op":"unsubscribe","sub":[]}"#,
            Some("1"),
            "an id is",
        );
        check(r#"{"id":1,"op":"batch"}"#, Some("1"), "missing field `ops`");
        check(
            r#"{"id":1,"op":"batch","ops":[{"op":"get","key":"a"}]}"#,
            Some("1"),
            "no op \"get\"",
        );
        check(
            r#"{"id":1,"op":"batch","ops":[{"op":"check","key":"a"}]}"#,
            Some("1"),
            "ops[0]: missing",
        );
        check(
            r#"{"id":1,"op":"batch","ops":[{"op":"delete","key":"a","ttl_ms":1}]}"#,
            Some("1"),
            "`ttl_ms`",
        );
        check(
            r#"{"id":1,"op":"batch","ops":[{"op":"delete","key":"a","id":1}]}"#,
            Some("1"),
            "delete has no field `id`",
        );
        check(r#"{"id":1.5,"op":"ping"}"#, None, "an id is");
        check(r#"{"id":null,"op":"ping"}"#, None, "an id is");
        check(
            &format!(r#"{{"id":"{}","op":"ping"}}"#, "x".repeat(65)),
            None,
            "at most 64",
        );
        check(&"[".repeat(100_000), None, "nested deeper");
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        check(
            &format!(r#"{{"id":1,"op":"put","key":"a","value":{deep}}}"#),
            Some("1"),
            "nested deeper",
        );
        assert!(
            Request::parse(b"{\"op\":\"ping\xff\"}")
                .unwrap_err()
                .message
                .contains("UTF-8")
        );
    }

    #[test]
    fn ids_compare_by_their_text() {
        let id = |json: &'static str| Id::from_json(json).unwrap();
        assert_eq!(id(r#""\u0061""#).canonical(), id(r#""a""#).canonical());
        assert_ne!(id("1").canonical(), id(r#""1""#).canonical());
        for json in ["", "-", "007", "1.0", "1e3", "null", "[]", "a"] {
            assert!(Id::from_json(json).is_err(), "{json:?} is no id");
        }
    }
}
