//! The commands that carry many entries: `export`, `import` and `batch`. All speak JSON lines.
//!
//! An export is read page by page and is no snapshot; an import is pipelined, with a bounded number of
//! puts under way, and stops at the first that is refused. Both may be run again.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nkv::Key;
use nkv::client::{Batch, Client, Error, Lifetime, Pending, Put, Value, Written};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::arguments::checked;
use crate::failure::{Failure, USAGE, plain};
use crate::output::{buffered_stdout, export_json};

/// How many puts of an import are under way at once.
const UNDER_WAY_MAX: usize = 512;

/// One line of an import, or of a batch where `op` is there. Fields that mean nothing are refused, and
/// `null` in the place of one too: a mistyped condition must not pass.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default, deserialize_with = "present")]
    op: Option<String>,
    key: String,
    #[serde(default, deserialize_with = "present")]
    value: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "present")]
    base64: Option<String>,
    #[serde(default, deserialize_with = "present")]
    lifetime: Option<Lifetime>,
    #[serde(default, deserialize_with = "present")]
    ttl_ms: Option<u64>,
    #[serde(default, deserialize_with = "present")]
    if_rev: Option<u64>,
    #[serde(default)]
    if_changed: bool,
    /// What `get --json` tells. Revisions can't be put, so an import passes over it.
    #[serde(default, deserialize_with = "present")]
    rev: Option<u64>,
}

/// Writes entries to stdout, without those of lifetime `session`.
pub(crate) fn export(client: &Client, pattern: &str) -> Result<(), Failure> {
    let bar = progress(io::stdout().is_terminal(), None);
    let mut out = buffered_stdout();
    for entry in client.list(pattern)? {
        let entry = entry?;
        if entry.lifetime != Lifetime::Session {
            writeln!(out, "{}", export_json(&entry))?;
            bar.inc(1);
        }
    }
    out.flush()?;
    bar.finish_and_clear();
    Ok(())
}

/// Puts the entries of a file and returns how many.
pub(crate) fn import(client: &Client, file: &Path) -> Result<u64, Failure> {
    let (lines, bytes) = open(file)?;
    let bar = progress(false, bytes);
    let mut under_way: VecDeque<(usize, Pending<'_, Written>)> = VecDeque::new();
    let mut imported = 0;
    for (number, text) in numbered(lines) {
        let text = text?;
        let line = read(number, &text)?;
        if line.op.is_some() || line.if_rev.is_some() {
            let message = "an import has no `op` and no `if_rev`; see nkv-client batch";
            return Err(Failure::new(USAGE, message).during(&at(number)));
        }
        if line.lifetime == Some(Lifetime::Session) {
            let message = "an entry of lifetime session would go with this program";
            return Err(Failure::new(USAGE, message).during(&at(number)));
        }
        let put = put(line).map_err(|failure| failure.during(&at(number)))?;
        if under_way.len() == UNDER_WAY_MAX {
            imported += settle(under_way.pop_front())?;
        }
        let pending = client.pipeline().put_with(put);
        under_way.push_back((number, pending.map_err(|error| failed(number, error))?));
        bar.inc(if bytes.is_some() {
            text.len() as u64 + 1
        } else {
            1
        });
    }
    while let Some(oldest) = under_way.pop_front() {
        imported += settle(Some(oldest))?;
    }
    bar.finish_and_clear();
    Ok(imported)
}

/// Carries out the operations of a file, all or none, and returns their number and the revision.
pub(crate) fn batch(client: &Client, file: &Path) -> Result<(usize, u64), Failure> {
    let (lines, _) = open(file)?;
    let mut batch = client.batch();
    let mut numbers = Vec::new();
    for (number, text) in numbered(lines) {
        let line = read(number, &text?)?;
        batch = add(batch, line).map_err(|failure| failure.during(&at(number)))?;
        numbers.push(number);
    }
    match batch.commit() {
        Ok(rev) => Ok((numbers.len(), rev)),
        Err(Error::Server(failure)) => {
            let index = failure.at.and_then(|index| usize::try_from(index).ok());
            let number = index.and_then(|index| numbers.get(index)).copied();
            let refused = Failure::from(Error::Server(failure));
            Err(match number {
                Some(number) => refused.during(&at(number)),
                None => refused,
            })
        }
        Err(error) => Err(error.into()),
    }
}

fn add<'c>(batch: Batch<'c>, line: Line) -> Result<Batch<'c>, Failure> {
    let has_put_fields = line.value.is_some()
        || line.base64.is_some()
        || line.lifetime.is_some()
        || line.ttl_ms.is_some()
        || line.if_changed;
    if line.rev.is_some() {
        let message = "an operation has no `rev`; a condition is `if_rev`";
        return Err(Failure::new(USAGE, message));
    }
    // The batch would tell of a bad key only at the end, without its line.
    let pattern = checked(&line.key)?;
    if line.if_rev.is_some() {
        Key::new(pattern.as_str()).map_err(Error::Key)?;
    }
    match (line.op.as_deref(), line.if_rev) {
        (Some("put"), _) => Ok(batch.put_with(put(line)?)),
        (Some("delete" | "check"), _) if has_put_fields => Err(Failure::new(
            USAGE,
            "only a put has a value, a lifetime and `if_changed`",
        )),
        (Some("delete"), Some(rev)) => Ok(batch.delete_if_rev(line.key, rev)),
        (Some("delete"), None) => Ok(batch.delete(line.key)),
        (Some("check"), Some(rev)) => Ok(batch.check(line.key, rev)),
        (Some("check"), None) => Err(Failure::new(USAGE, "a check needs `if_rev`")),
        _ => Err(Failure::new(
            USAGE,
            "`op` must be \"put\", \"delete\" or \"check\"",
        )),
    }
}

fn put(line: Line) -> Result<Put, Failure> {
    let value = match (line.value, line.base64) {
        (Some(json), None) => Value::from_json_text(json.get())?,
        (None, Some(text)) => decoded(&text)?,
        _ => return Err(Failure::new(USAGE, "either `value` or `base64` is needed")),
    };
    let mut put = Put::new(line.key, value)?;
    if let Some(lifetime) = line.lifetime {
        put = put.lifetime(lifetime);
    }
    if let Some(ms) = line.ttl_ms {
        put = put.ttl(Duration::from_millis(ms));
    }
    if let Some(rev) = line.if_rev {
        put = put.if_rev(rev);
    }
    Ok(if line.if_changed {
        put.if_changed()
    } else {
        put
    })
}

/// A value of raw bytes from its base64.
pub(crate) fn decoded(text: &str) -> Result<Value, Failure> {
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .map(Value::from_bytes)
        .map_err(|error| Failure::new(USAGE, format!("`base64`: {error}")))
}

fn settle(oldest: Option<(usize, Pending<'_, Written>)>) -> Result<u64, Failure> {
    let Some((number, pending)) = oldest else {
        return Ok(0);
    };
    pending
        .wait()
        .map(|_| 1)
        .map_err(|error| failed(number, error))
}

fn failed(number: usize, error: Error) -> Failure {
    Failure::from(error).during(&at(number))
}

fn read(number: usize, text: &str) -> Result<Line, Failure> {
    // Serde would take an array of the fields as well.
    if !text.trim_start().starts_with('{') {
        return Err(Failure::new(USAGE, "not a JSON object").during(&at(number)));
    }
    serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        // The line that serde_json counts is always the first.
        let what = message.split(" at line ").next().unwrap_or_default();
        let what = format!("{what} (at byte {})", error.column());
        Failure::new(USAGE, what).during(&at(number))
    })
}

pub(crate) fn at(number: usize) -> String {
    format!("line {number}")
}

/// A file, with its size where it is known, or stdin.
pub(crate) fn open(file: &Path) -> Result<(Box<dyn BufRead>, Option<u64>), Failure> {
    if file == Path::new("-") {
        return Ok((Box::new(io::stdin().lock()), None));
    }
    let cannot_open = |error: io::Error| {
        Failure::new(
            USAGE,
            format!("cannot open {}: {}", file.display(), plain(&error)),
        )
    };
    let opened = File::open(file).map_err(cannot_open)?;
    let bytes = opened.metadata().map_err(cannot_open)?.len();
    Ok((
        Box::new(BufReader::new(opened)),
        Some(bytes).filter(|bytes| *bytes > 0),
    ))
}

/// Lines with their numbers, without empty ones.
fn numbered(lines: Box<dyn BufRead>) -> impl Iterator<Item = (usize, Result<String, Failure>)> {
    lines
        .lines()
        .enumerate()
        .filter_map(|(index, line)| match line {
            Ok(line) if line.trim().is_empty() => None,
            Ok(line) => Some((index + 1, Ok(line))),
            Err(error) => {
                let message = format!("cannot read the input: {}", plain(&error));
                Some((index + 1, Err(Failure::new(USAGE, message))))
            }
        })
}

/// A bar on stderr if that is a terminal. It would be in the way of output on the same terminal.
fn progress(is_in_the_way: bool, bytes: Option<u64>) -> ProgressBar {
    if is_in_the_way {
        return ProgressBar::hidden();
    }
    let target = ProgressDrawTarget::stderr_with_hz(10);
    let template = match bytes {
        Some(_) => "{wide_bar} {bytes}/{total_bytes} {elapsed}",
        None => "{spinner} {human_pos} {elapsed}",
    };
    let style =
        ProgressStyle::with_template(template).expect("the templates above are well formed");
    ProgressBar::with_draw_target(bytes, target).with_style(style)
}

/// What stands there, `null` included: that may be a value, and is no absence.
pub(crate) fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    d: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(d).map(Some)
}
