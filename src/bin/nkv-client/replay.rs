//! `replay`: does again what was recorded.
//!
//! Puts and deletions are sent in the order in which they stand, each when its time has come, without
//! waiting for the answers of those before. After a `reset` the entries come again in a recording, and
//! those that don't come are gone, as they were for whoever subscribed; so they are deleted at the `sync`.
//!
//! A recording whose end is cut off, as of a program that was killed, is replayed up to there.

use std::collections::{BTreeSet, VecDeque};
use std::io::{BufRead, Read};
use std::time::{Duration, Instant};

use nkv::client::{Client, Error, Pending, Put, Value, Written};

use crate::arguments::Replay;
use crate::failure::{Failure, USAGE, plain};
use crate::record::{Header, Line, Shape, VERSION};
use crate::subscribe::notice;
use crate::transfer::{at, decoded, open};

/// How many changes are under way at once.
const UNDER_WAY_MAX: usize = 512;

/// The longest line that is read: larger than any value that a daemon takes, in base64.
const LINE_BYTES_MAX: u64 = 1 << 30;

/// A recording under replay.
struct Player<'c> {
    client: &'c Client,
    under_way: VecDeque<(usize, Answer<'c>)>,
    /// The keys that a subscriber would hold.
    held: BTreeSet<String>,
    /// Those it held before a `reset`, and has not been told of since.
    held_before: BTreeSet<String>,
    changes: u64,
    /// No value can be larger.
    value_bytes_max: usize,
}

enum Answer<'c> {
    Put(Pending<'c, Written>),
    Delete(Pending<'c, u64>),
}

/// Replays a file; returns how many changes there were and how long it took.
pub(crate) fn run(client: &Client, arguments: &Replay) -> Result<(u64, Duration), Failure> {
    let (mut lines, _) = open(&arguments.file)?;
    let mut number = 1;
    let header = next_line(&mut lines, number)?.unwrap_or_default();
    check_header(&header)?;
    if !arguments.yes && client.list_keys("*")?.page(1).next().transpose()?.is_some() {
        let message = "the daemon has keys already; --yes replays all the same, on top of them";
        return Err(Failure::new(USAGE, message));
    }
    let mut player = Player {
        client,
        under_way: VecDeque::new(),
        held: BTreeSet::new(),
        held_before: BTreeSet::new(),
        changes: 0,
        value_bytes_max: usize::try_from(client.limits().message).unwrap_or(usize::MAX),
    };
    let start = Instant::now();
    loop {
        number += 1;
        let Some(text) = next_line(&mut lines, number)? else {
            break;
        };
        let line: Line = match serde_json::from_str(&text) {
            Ok(line) => line,
            Err(_) if !text.ends_with('\n') => {
                notice(&format!(
                    "{} is cut off; all before it is replayed",
                    at(number)
                ));
                break;
            }
            Err(error) => return Err(Failure::new(USAGE, error.to_string()).during(&at(number))),
        };
        player.wait_until(start, line.ms, arguments.speed)?;
        player
            .play(number, line)
            .map_err(|failure| failure.during(&at(number)))?;
    }
    player.settle(0)?;
    Ok((player.changes, start.elapsed()))
}

fn check_header(text: &str) -> Result<(), Failure> {
    let wrong = |what: String| Err(Failure::new(USAGE, what).during(&at(1)));
    match serde_json::from_str::<Header>(text) {
        Ok(header) if header.nkv_recording == VERSION => Ok(()),
        Ok(header) => wrong(format!(
            "a recording of version {}; this program reads {VERSION}",
            header.nkv_recording
        )),
        Err(_) => wrong("no recording: the header is missing".into()),
    }
}

/// A line with its end, where it has one.
fn next_line(lines: &mut Box<dyn BufRead>, number: usize) -> Result<Option<String>, Failure> {
    let mut text = String::new();
    let read = lines.take(LINE_BYTES_MAX).read_line(&mut text);
    let bytes = read.map_err(|error| {
        let message = format!("cannot read the recording: {}", plain(&error));
        Failure::new(USAGE, message).during(&at(number))
    })?;
    Ok((bytes > 0).then_some(text))
}

impl<'c> Player<'c> {
    /// Waits until it is time for what happened so many milliseconds after the beginning.
    fn wait_until(&mut self, start: Instant, ms: u64, speed: f64) -> Result<(), Failure> {
        let after = Duration::from_millis(ms).as_secs_f64() / speed;
        let after = Duration::try_from_secs_f64(after).unwrap_or(Duration::MAX);
        let left = after.saturating_sub(start.elapsed());
        if !left.is_zero() {
            // A refusal is told before the pause, not after it.
            self.settle(0)?;
            std::thread::sleep(after.saturating_sub(start.elapsed()));
        }
        Ok(())
    }

    fn play(&mut self, number: usize, line: Line) -> Result<(), Failure> {
        match (line.event.as_str(), line.key.clone()) {
            ("put", Some(key)) => {
                self.held_before.remove(&key);
                self.held.insert(key.clone());
                let put = Put::new(key, value(line, self.value_bytes_max)?)?;
                let pending = self.client.pipeline().put_with(put)?;
                self.sent(number, Answer::Put(pending))
            }
            ("delete", Some(key)) => {
                self.held_before.remove(&key);
                self.held.remove(&key);
                self.delete(number, &key)
            }
            ("put" | "delete", None) => Err(Failure::new(USAGE, "`key` is missing")),
            ("reset", _) => {
                self.held_before.append(&mut self.held);
                Ok(())
            }
            ("sync", _) => {
                let gone = std::mem::take(&mut self.held_before);
                gone.iter().try_for_each(|key| self.delete(number, key))
            }
            // Newer versions may tell more.
            _ => Ok(()),
        }
    }

    fn delete(&mut self, number: usize, key: &str) -> Result<(), Failure> {
        nkv::Key::new(key).map_err(Error::Key)?;
        let pending = self.client.pipeline().delete(key)?;
        self.sent(number, Answer::Delete(pending))
    }

    fn sent(&mut self, number: usize, answer: Answer<'c>) -> Result<(), Failure> {
        self.changes += 1;
        self.under_way.push_back((number, answer));
        self.settle(UNDER_WAY_MAX)
    }

    /// Waits for answers until only so many are under way.
    fn settle(&mut self, left: usize) -> Result<(), Failure> {
        while self.under_way.len() > left {
            let Some((number, answer)) = self.under_way.pop_front() else {
                break;
            };
            let done = match answer {
                Answer::Put(pending) => pending.wait().map(|_| ()),
                Answer::Delete(pending) => pending.wait().map(|_| ()),
            };
            done.map_err(|error| Failure::from(error).during(&at(number)))?;
        }
        Ok(())
    }
}

/// The value of a put, or one like it. A size is checked before there is a value of that size.
fn value(line: Line, bytes_max: usize) -> Result<Value, Failure> {
    match (line.value, line.base64, line.kind.zip(line.size)) {
        (Some(json), _, _) => Ok(Value::from_json_text(json.get())?),
        (None, Some(text), _) => decoded(&text),
        (None, None, Some((_, size))) if size > bytes_max => Err(Failure::new(
            USAGE,
            format!("a value of {size} bytes, more than the daemon takes"),
        )),
        (None, None, Some((kind, size))) => Ok(Shape { kind, size }.value()?),
        (None, None, None) => Err(Failure::new(
            USAGE,
            "a put needs `value`, `base64`, or `kind` and `size`",
        )),
    }
}
