//! `record`: what a subscriber sees, with times, as JSON lines; `replay` reads them.
//!
//! The first line is the [`Header`], every other one a [`Line`]: an event of the subscription as it came
//! (`put`, `delete`, `sync`, `reset`), the daemon's counters at the beginning and the end (`stats`),
//! and what became of the connection (`note`). It is what *one subscriber* saw: changes that came
//! faster than they could be written are told as one, and lifetimes are not told at all.
//!
//! Instead of a value there may be its [`Shape`], which is enough to replay the same load without giving
//! away what was in it.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use nkv::client::{Event, Value};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::arguments::{Record, checked};
use crate::commands::print_line;
use crate::daemon::Target;
use crate::failure::{Failure, NOT_MET, plain};
use crate::follow::Follower;
use crate::interrupt::Stopper;
use crate::output::{encoded, json_part};
use crate::subscribe::notice;

/// The version of the format that is written, and the only one that is read.
pub(crate) const VERSION: u32 = 1;

/// The first line of a recording.
#[derive(Serialize, Deserialize)]
pub(crate) struct Header {
    /// The version of the format.
    pub(crate) nkv_recording: u32,
    pub(crate) pattern: String,
    /// The daemon's name and version.
    pub(crate) server: String,
    pub(crate) epoch: String,
    /// Whether values are there, or their shapes.
    pub(crate) values: bool,
}

/// Any other line.
#[derive(Serialize, Deserialize, Default)]
pub(crate) struct Line {
    /// Milliseconds since the beginning.
    pub(crate) ms: u64,
    pub(crate) event: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    #[serde(default, deserialize_with = "crate::transfer::present")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) value: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<Kind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) size: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rev: Option<u64>,
    /// Of `reset`: the epoch of the revisions that follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) epoch: Option<String>,
    /// Of `note`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
    /// Of `stats`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stats: Option<serde_json::Map<String, serde_json::Value>>,
}

/// What is told of a value that is not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) kind: Kind,
    /// Bytes: of the JSON text, or of a value of raw bytes.
    pub(crate) size: usize,
}

#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Null,
    Boolean,
    Number,
    String,
    Array,
    Object,
    Bytes,
}

/// Where the lines go. The follower's notices are lines too.
#[derive(Clone)]
struct Recorder {
    out: Arc<Mutex<BufWriter<Box<dyn Write + Send>>>>,
    start: Instant,
}

/// Records until it is stopped, or for as long as asked.
pub(crate) fn run(target: &Target, arguments: &Record, stopper: &Stopper) -> Result<(), Failure> {
    checked(&arguments.pattern)?;
    let link = target.link();
    let client = link.client()?;
    let recorder = Recorder {
        out: Arc::new(Mutex::new(BufWriter::new(opened(
            arguments.output.as_deref(),
        )?))),
        start: Instant::now(),
    };
    recorder.write(&Header {
        nkv_recording: VERSION,
        pattern: arguments.pattern.clone(),
        server: client.server().to_owned(),
        epoch: client.epoch().to_owned(),
        values: !arguments.no_values,
    })?;
    recorder.stats(client.stats()?)?;
    let deadline = arguments
        .duration
        .and_then(|duration| recorder.start.checked_add(duration));
    let notes = recorder.clone();
    let say = move |text: &str| {
        notice(text);
        // Where it can't be written, the next event can't be either, and that is told.
        drop(notes.write(&Line {
            event: "note".into(),
            text: Some(text.into()),
            ..notes.line()
        }));
    };
    let wanted = link.events(&arguments.pattern)?;
    let mut follower = Follower::start(wanted, stopper, Arc::new(say))?;
    let mut changes: u64 = 0;
    // The first state is recorded as a whole, however long that takes.
    let mut end = None;
    while let Some(event) = next(&mut follower, &recorder, end)? {
        changes += u64::from(event.key().is_some());
        recorder.event(&event, arguments.no_values)?;
        if let Event::Sync { .. } = event {
            end = deadline;
        }
    }
    // Where there is no connection there are no counters.
    if let Ok(stats) = link.client().and_then(|client| client.stats()) {
        recorder.stats(stats)?;
    }
    recorder.flush()?;
    match arguments.output {
        Some(_) => print_line(&format!("{changes} recorded")),
        None => Ok(()),
    }
}

/// The next event. Before it is waited for, what there is is written.
fn next(
    follower: &mut Follower,
    recorder: &Recorder,
    deadline: Option<Instant>,
) -> Result<Option<Event>, Failure> {
    if deadline.is_none_or(|at| at > Instant::now())
        && let Some(event) = follower.try_next()?
    {
        return Ok(Some(event));
    }
    recorder.flush()?;
    match deadline {
        Some(at) if at <= Instant::now() => Ok(None),
        deadline => follower.next(deadline),
    }
}

impl Recorder {
    fn event(&self, event: &Event, no_values: bool) -> Result<(), Failure> {
        let (name, value, epoch) = match event {
            Event::Put { value, .. } => ("put", Some(value), None),
            Event::Delete { .. } => ("delete", None, None),
            Event::Sync { .. } => ("sync", None, None),
            Event::Reset { epoch, .. } => ("reset", None, epoch.clone()),
        };
        let mut line = Line {
            event: name.into(),
            key: event.key().map(ToString::to_string),
            rev: Some(event.rev()),
            epoch,
            ..self.line()
        };
        if no_values {
            let shape = value.map(Shape::of);
            line.kind = shape.map(|shape| shape.kind);
            line.size = shape.map(|shape| shape.size);
        } else {
            line.value = value.and_then(json_part).map(ToOwned::to_owned);
            line.base64 = value.and_then(Value::bytes).map(encoded);
        }
        self.write(&line)
    }

    fn stats(&self, stats: nkv::client::Stats) -> Result<(), Failure> {
        self.write(&Line {
            event: "stats".into(),
            stats: Some(crate::commands::stats_object(stats)),
            ..self.line()
        })
    }

    /// A line of this moment.
    fn line(&self) -> Line {
        let ms = self.start.elapsed().as_millis();
        Line {
            ms: u64::try_from(ms).unwrap_or(u64::MAX),
            ..Line::default()
        }
    }

    fn write(&self, line: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(line).expect("a line has string keys");
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(writeln!(out, "{text}")?)
    }

    fn flush(&self) -> Result<(), Failure> {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(out.flush()?)
    }
}

impl Shape {
    fn of(value: &Value) -> Shape {
        let Some(json) = value.as_json_text() else {
            let size = value.bytes().map_or(0, <[u8]>::len);
            return Shape {
                kind: Kind::Bytes,
                size,
            };
        };
        let kind = match json.as_bytes().first() {
            Some(b'n') => Kind::Null,
            Some(b't' | b'f') => Kind::Boolean,
            Some(b'"') => Kind::String,
            Some(b'[') => Kind::Array,
            Some(b'{') => Kind::Object,
            _ => Kind::Number,
        };
        Shape {
            kind,
            size: json.len(),
        }
    }

    /// A value of this shape. A recording may have been written by anybody, so where there is no such
    /// value it is the nearest.
    pub(crate) fn value(self) -> Result<Value, nkv::client::Error> {
        let filled = |open: char, fill: &str, close: char| {
            format!("{open}{}{close}", fill.repeat(self.size.saturating_sub(2)))
        };
        let text = match self.kind {
            Kind::Bytes => return Ok(Value::from_bytes(vec![0; self.size])),
            Kind::Null => "null".to_owned(),
            Kind::Boolean => (self.size == 4).to_string(),
            Kind::Number => "1".repeat(self.size.max(1)),
            Kind::String => filled('"', "x", '"'),
            Kind::Array => filled('[', " ", ']'),
            Kind::Object => filled('{', " ", '}'),
        };
        Value::from_json_text(&text)
    }
}

fn opened(file: Option<&Path>) -> Result<Box<dyn Write + Send>, Failure> {
    let Some(file) = file else {
        return Ok(Box::new(io::stdout()));
    };
    let created = File::create(file).map_err(|error| {
        let message = format!("cannot write {}: {}", file.display(), plain(&error));
        Failure::new(NOT_MET, message)
    })?;
    Ok(Box::new(created))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_is_enough_to_make_a_value_of_the_same_size() {
        let check = |value: Value, kind: Kind, size: usize| {
            let shape = Shape::of(&value);
            assert_eq!(shape, Shape { kind, size }, "{value:?}");
            assert_eq!(Shape::of(&shape.value().unwrap()), shape, "{value:?}");
        };
        let json = |text: &str| Value::from_json_text(text).unwrap();
        check(json("null"), Kind::Null, 4);
        check(json("true"), Kind::Boolean, 4);
        check(json("false"), Kind::Boolean, 5);
        check(json("-1.5e3"), Kind::Number, 6);
        check(json("7"), Kind::Number, 1);
        check(json("\"\""), Kind::String, 2);
        check(json("\"größe\""), Kind::String, 9);
        check(json("[]"), Kind::Array, 2);
        check(json("[1, 2]"), Kind::Array, 6);
        check(json("{\"a\":{}}"), Kind::Object, 8);
        check(Value::from_bytes(""), Kind::Bytes, 0);
        check(Value::from_bytes("abc"), Kind::Bytes, 3);
    }
}
