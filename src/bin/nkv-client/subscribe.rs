//! The commands that follow the keyspace: `subscribe`, with and without a command to run, and
//! `wait`.

use std::collections::VecDeque;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use nkv::Key;
use nkv::client::{Error, Event, Value};

use crate::arguments::{Subscribe, Wait};
use crate::daemon::Target;
use crate::failure::{Failure, NOT_MET, TIMED_OUT, plain};
use crate::follow::{Follower, Wanted};
use crate::output::{Style, event_json, value_text};

/// How many events are taken at once before the next one is acted on.
const TAKEN_AT_ONCE: usize = 10_000;

/// Writes one line somewhere.
pub(crate) type Print<'p> = dyn FnMut(&str) -> Result<(), Failure> + 'p;

/// What `subscribe`'s arguments ask to be followed.
pub(crate) fn wanted(arguments: &Subscribe) -> Wanted {
    Wanted {
        pattern: arguments.pattern.clone(),
        is_exact: arguments.exact,
        changes_only: arguments.changes_only,
    }
}

/// Prints or acts on events until there have been enough, or the follower is stopped.
pub(crate) fn run(
    follower: &mut Follower,
    arguments: &Subscribe,
    style: Style,
    print: &mut Print<'_>,
) -> Result<(), Failure> {
    if let Some(command) = &arguments.exec {
        return run_commands(follower, command, arguments.count, print);
    }
    let mut left = arguments.count;
    while let Some(event) = follower.next(None)? {
        if arguments.json {
            print(&event_json(&event))?;
        } else if let Some(line) = style.event_line(&event) {
            print(&line)?;
        }
        if event.key().is_some() && !count_down(&mut left) {
            break;
        }
    }
    Ok(())
}

/// Waits for what `wait` waits for, and returns the value that is there then.
pub(crate) fn wait(target: &Target, arguments: &Wait) -> Result<Option<Value>, Failure> {
    let deadline = arguments
        .timeout
        .and_then(|timeout| Instant::now().checked_add(timeout));
    let expected = arguments.value.as_deref().map(|text| {
        // What is not JSON is a string, as for put.
        Value::from_json_text(text).or_else(|_| Value::of(text))
    });
    let expected = expected.transpose()?;
    let key = Key::new(&arguments.key)
        .map_err(|error| Failure::from(Error::Key(error)).during(&arguments.key))?;
    let wanted = Wanted {
        pattern: key.to_string(),
        is_exact: true,
        changes_only: false,
    };
    let mut follower = Follower::start(target, wanted, notice)?;
    let mut exists = false;
    while let Some(event) = follower.next(deadline)? {
        match event {
            Event::Put { value, .. } => {
                exists = true;
                let is_met = expected
                    .as_ref()
                    .is_none_or(|expected| same(expected, &value));
                if !arguments.gone && is_met {
                    return Ok(Some(value));
                }
            }
            Event::Delete { .. } if arguments.gone => return Ok(None),
            Event::Sync { .. } if arguments.gone && !exists => return Ok(None),
            Event::Delete { .. } | Event::Reset { .. } => exists = false,
            Event::Sync { .. } => {}
        }
    }
    let what = match (&expected, arguments.gone) {
        (_, true) => "to be gone".to_owned(),
        (Some(expected), _) => format!("to be {}", value_text(expected)),
        (None, _) => "to exist".to_owned(),
    };
    Err(Failure::new(
        TIMED_OUT,
        format!("--timeout ran out waiting for {key} {what}"),
    ))
}

/// Tells the user about the connection.
pub(crate) fn notice(text: &str) {
    eprintln!("nkv-client: {text}");
}

/// Runs a command for each change, one at a time. What has happened meanwhile is taken before the
/// next one, and of each key only the newest event is kept.
fn run_commands(
    follower: &mut Follower,
    command: &str,
    mut left: Option<u64>,
    print: &mut Print<'_>,
) -> Result<(), Failure> {
    let mut waiting: VecDeque<Event> = VecDeque::new();
    loop {
        for _ in 0..TAKEN_AT_ONCE {
            let deadline = (!waiting.is_empty()).then(Instant::now);
            let Some(event) = follower.next(deadline)? else {
                break;
            };
            if event.key().is_some() {
                waiting.retain(|other| other.key() != event.key());
                waiting.push_back(event);
            }
        }
        let Some(event) = waiting.pop_front() else {
            return Ok(());
        };
        let status = run_command(command, &event)?;
        if !status.success() {
            print(&format!("{command}: {status}"))?;
        }
        if !count_down(&mut left) {
            return Ok(());
        }
    }
}

fn run_command(command: &str, event: &Event) -> Result<std::process::ExitStatus, Failure> {
    let (name, value) = match event {
        Event::Put { value, .. } => ("put", Some(value)),
        _ => ("delete", None),
    };
    let cannot_run = |error: std::io::Error| {
        Failure::new(NOT_MET, format!("cannot run {command}: {}", plain(&error)))
    };
    let mut child = Command::new("sh")
        .args(["-c", command])
        .env("NKV_KEY", event.key().map_or("", Key::as_str))
        .env("NKV_EVENT", name)
        .env("NKV_REV", event.rev().to_string())
        .stdin(Stdio::piped())
        .spawn()
        .map_err(cannot_run)?;
    let stdin = child.stdin.take();
    if let (Some(mut stdin), Some(value)) = (stdin, value) {
        let bytes = value
            .bytes()
            .or(value.as_json_text().map(str::as_bytes))
            .unwrap_or_default();
        // A command need not read its stdin.
        drop(stdin.write_all(bytes));
    }
    child.wait().map_err(cannot_run)
}

/// Whether there are more to come after this one.
fn count_down(left: &mut Option<u64>) -> bool {
    match left {
        Some(left) => {
            *left -= 1;
            *left > 0
        }
        None => true,
    }
}

/// Whether two values are the same however their JSON is written.
fn same(expected: &Value, value: &Value) -> bool {
    let tree = |value: &Value| value.json::<serde_json::Value>().ok();
    expected == value || (tree(expected).is_some() && tree(expected) == tree(value))
}
