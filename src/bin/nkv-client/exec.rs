//! `subscribe --exec`: a command that runs when something has changed, one run at a time.
//!
//! While it runs nobody reads the events, so that the daemon keeps nothing but a position, and tells the
//! newest value of each key when they are read again. Two ways of running it:
//!
//! - **Once for each key**: what is there is taken before each run, and of each key only the newest
//!   event is kept, in the place of the one before.
//! - **Once for a burst**: what is told up to a `sync` is a whole number of batches. Everything that is
//!   there is taken, up to the last `sync`.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::process::{Command, ExitStatus, Stdio};

use nkv::Key;
use nkv::client::{Event, Value};

use crate::failure::{Failure, NOT_MET, plain};
use crate::follow::Follower;
use crate::output::event_json;
use crate::subscribe::{Print, count_down};

/// How many events are taken at once before the next one is acted on.
const TAKEN_AT_ONCE: usize = 10_000;

/// Of each key the newest event, in the order in which they came.
#[derive(Default)]
struct Waiting {
    events: BTreeMap<u64, Event>,
    places: HashMap<Key, u64>,
    next_place: u64,
}

pub(crate) fn once_a_key(
    follower: &mut Follower,
    command: &str,
    mut left: Option<u64>,
    print: &mut Print<'_>,
) -> Result<(), Failure> {
    let mut waiting = Waiting::default();
    loop {
        for _ in 0..TAKEN_AT_ONCE {
            let event = if waiting.is_empty() {
                follower.next(None)?
            } else {
                follower.try_next()?
            };
            let Some(event) = event else { break };
            waiting.push(event);
        }
        let Some(event) = waiting.pop() else {
            return Ok(());
        };
        let (name, value) = match &event {
            Event::Put { value, .. } => ("put", Some(value)),
            _ => ("delete", None),
        };
        let variables = [
            ("NKV_KEY", event.key().map_or("", Key::as_str)),
            ("NKV_EVENT", name),
            ("NKV_REV", &event.rev().to_string()),
        ];
        run(command, &variables, value.map_or(&[], value_bytes), print)?;
        if !count_down(&mut left) {
            return Ok(());
        }
    }
}

pub(crate) fn once_a_burst(
    follower: &mut Follower,
    command: &str,
    mut left: Option<u64>,
    print: &mut Print<'_>,
) -> Result<(), Failure> {
    let mut waiting = Waiting::default();
    // The revision of the last `sync`, while nothing has come after it.
    let mut whole = None;
    let mut taken = 0;
    loop {
        let event = match whole {
            Some(_) if taken < TAKEN_AT_ONCE => follower.try_next()?,
            Some(_) => None,
            None => follower.next(None)?,
        };
        taken += 1;
        match (event, whole) {
            (Some(Event::Sync { rev }), _) => whole = Some(rev),
            // Another burst has begun, which is waited for and becomes a part of this one.
            (Some(event), _) => {
                whole = None;
                waiting.push(event);
            }
            (None, None) => return Ok(()),
            (None, Some(rev)) => {
                let lines: String = waiting
                    .take()
                    .map(|event| event_json(&event) + "\n")
                    .collect();
                run(
                    command,
                    &[("NKV_REV", &rev.to_string())],
                    lines.as_bytes(),
                    print,
                )?;
                if !count_down(&mut left) {
                    return Ok(());
                }
                (whole, taken) = (None, 0);
            }
        }
    }
}

impl Waiting {
    fn push(&mut self, event: Event) {
        let Some(key) = event.key() else { return };
        let place = self.next_place;
        self.next_place += 1;
        if let Some(before) = self.places.insert(key.clone(), place) {
            self.events.remove(&before);
        }
        self.events.insert(place, event);
    }

    fn pop(&mut self) -> Option<Event> {
        let (_, event) = self.events.pop_first()?;
        event.key().map(|key| self.places.remove(key));
        Some(event)
    }

    fn take(&mut self) -> impl Iterator<Item = Event> + use<> {
        self.places.clear();
        std::mem::take(&mut self.events).into_values()
    }

    fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}

/// Runs it to its end. That it fails is told, but ends nothing.
fn run(
    command: &str,
    variables: &[(&str, &str)],
    stdin: &[u8],
    print: &mut Print<'_>,
) -> Result<(), Failure> {
    let status = status(command, variables, stdin).map_err(|error| {
        Failure::new(NOT_MET, format!("cannot run {command}: {}", plain(&error)))
    })?;
    if !status.success() {
        print(&format!("{command}: {status}"))?;
    }
    Ok(())
}

fn status(command: &str, variables: &[(&str, &str)], stdin: &[u8]) -> std::io::Result<ExitStatus> {
    let mut child = Command::new("sh")
        .args(["-c", command])
        .env_remove("NKV_KEY")
        .env_remove("NKV_EVENT")
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .spawn()?;
    if let Some(mut pipe) = child.stdin.take() {
        // A command need not read its stdin.
        drop(pipe.write_all(stdin));
    }
    child.wait()
}

fn value_bytes(value: &Value) -> &[u8] {
    let text = value.as_json_text().map(str::as_bytes);
    value.bytes().or(text).unwrap_or_default()
}
