//! The commands that follow the keyspace: `subscribe`, with and without a command to run, and
//! `wait`.

use std::sync::Arc;
use std::time::Instant;

use nkv::Key;
use nkv::client::{Error, Event, EventsBuilder, Link, Value};

use crate::arguments::{Subscribe, Wait, checked};
use crate::daemon::Target;
use crate::exec;
use crate::failure::{Failure, NOT_MET, TIMED_OUT};
use crate::follow::Follower;
use crate::interrupt::Stopper;
use crate::output::{Style, event_json, value_text};

/// Writes one line somewhere.
pub(crate) type Print<'p> = dyn FnMut(&str) -> Result<(), Failure> + 'p;

/// What `subscribe`'s arguments ask to be followed.
pub(crate) fn wanted(link: &Link, arguments: &Subscribe) -> Result<EventsBuilder, Failure> {
    checked(&arguments.pattern)?;
    let mut wanted = link.events(&arguments.pattern)?;
    if arguments.exact {
        wanted = wanted.exact();
    }
    if arguments.changes_only {
        wanted = wanted.changes_only();
    }
    if arguments.burst {
        wanted = wanted.cuts();
    }
    Ok(wanted)
}

/// Prints or acts on events until there have been enough, or the follower is stopped.
pub(crate) fn run(
    follower: &mut Follower,
    arguments: &Subscribe,
    style: Style,
    print: &mut Print<'_>,
) -> Result<(), Failure> {
    if let Some(command) = &arguments.exec {
        return if arguments.burst {
            exec::once_a_burst(follower, command, arguments.count, print)
        } else {
            exec::once_a_key(follower, command, arguments.count, print)
        };
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
pub(crate) fn wait(
    target: &Target,
    arguments: &Wait,
    stopper: &Stopper,
) -> Result<Option<Value>, Failure> {
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
    let out_of_time = || {
        let what = match (&expected, arguments.gone) {
            (_, true) => "to be gone".to_owned(),
            (Some(expected), _) => format!("to be {}", value_text(expected)),
            (None, _) => "to exist".to_owned(),
        };
        Failure::new(
            TIMED_OUT,
            format!("--timeout ran out waiting for {key} {what}"),
        )
    };
    // A socket whose daemon can't answer takes connections all the same.
    let link = match arguments.timeout {
        Some(timeout) => target.within(timeout).link(),
        None => target.link(),
    };
    let wanted = link.events(key.as_str())?.exact();
    let started = Follower::start(wanted, stopper, Arc::new(notice));
    let mut follower = started.map_err(|failure| {
        let is_over = deadline.is_some_and(|deadline| deadline <= Instant::now());
        if failure.is_late && is_over {
            out_of_time()
        } else {
            failure
        }
    })?;
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
    if stopper.is_stopped() {
        return Err(Failure::new(NOT_MET, "interrupted"));
    }
    Err(out_of_time())
}

/// Tells the user about the connection.
pub(crate) fn notice(text: &str) {
    eprintln!("nkv-client: {text}");
}

/// Whether there are more to come after this one.
pub(crate) fn count_down(left: &mut Option<u64>) -> bool {
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
