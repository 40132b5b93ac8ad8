//! `top`: what the daemon is doing, as it does it.
//!
//! `sample` asks the daemon once an interval and tells what has changed, `screen` draws that on a terminal.
//! Elsewhere it is printed here, as plain text.

mod sample;
mod screen;

use std::io::{self, IsTerminal, Write};

use crate::arguments::{Top, checked};
use crate::daemon::Target;
use crate::failure::Failure;
use crate::interrupt::Stopper;
use crate::output::{Style, table};
use crate::subscribe::notice;
use sample::{Frame, Sampler, Update};

/// How many connections and keys are printed.
const ROWS_MAX: usize = 20;

/// Shows frames until there have been enough, or it is stopped.
pub(crate) fn run(
    target: &Target,
    arguments: &Top,
    style: Style,
    stopper: &Stopper,
) -> Result<(), Failure> {
    let keys = if arguments.no_keys {
        None
    } else {
        Some(checked(&arguments.keys)?)
    };
    let sampler = Sampler::start(target, arguments.interval, keys)?;
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    if io::stdout().is_terminal() && !is_dumb {
        return screen::run(&sampler, arguments, style, stopper);
    }
    let mut printed = 0;
    while !stopper.is_stopped() && arguments.count.is_none_or(|count| printed < count) {
        match sampler.wait() {
            Update::Frame(frame) if frame.rates.is_none() => {}
            Update::Frame(frame) => {
                let separator = if printed == 0 { "" } else { "\n" };
                let mut out = io::stdout().lock();
                write!(out, "{separator}{}", plain(&frame))?;
                out.flush()?;
                printed += 1;
            }
            Update::Lost(reason) => notice(&reason),
            Update::End(failure) => return Err(failure),
        }
    }
    Ok(())
}

/// A frame as tables.
fn plain(frame: &Frame) -> String {
    let rate = |name| {
        frame
            .rate(name)
            .map_or("-".into(), |rate| format!("{rate:.1}"))
    };
    let column = |name: &str| name.to_uppercase();
    let rates = [
        "requests",
        "puts",
        "gets",
        "deletes",
        "errors",
        "events",
        "coalesced",
    ];
    let now = ["clients", "subscriptions", "keys", "bytes", "rev"];
    let mut text = table(&[
        rates.iter().map(|name| column(name) + "/S").collect(),
        rates.iter().map(|name| rate(name)).collect(),
    ]);
    text.push('\n');
    text.push_str(&table(&[
        now.iter().map(|name| column(name)).collect(),
        now.iter().map(|name| frame.now(name).to_string()).collect(),
    ]));
    let mut rows = vec![
        ["NAME", "PROCESS", "SUBSCRIPTIONS", "LAG"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(frame.connections.iter().take(ROWS_MAX).map(|connection| {
        vec![
            connection.name.clone(),
            connection.process.clone(),
            connection.subscriptions.to_string(),
            connection.lag.to_string(),
        ]
    }));
    text.push('\n');
    text.push_str(&table(&rows));
    let more = frame.connections.len().saturating_sub(ROWS_MAX);
    if more > 0 {
        text.push_str(&format!("and {more} more\n"));
    }
    if !frame.keys.is_empty() {
        let mut rows = vec![vec!["KEY".to_owned(), "CHANGES/S".to_owned()]];
        let keys = frame.keys.iter().take(ROWS_MAX);
        rows.extend(keys.map(|(key, rate)| vec![key.clone(), format!("{rate:.1}")]));
        text.push('\n');
        text.push_str(&table(&rows));
    }
    text
}
