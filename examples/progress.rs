//! Long jobs that show how far they are, to whoever looks, and go on where they were.
//!
//! ```console
//! $ cargo run --example progress show [ADDRESS]
//! $ cargo run --example progress work backup [ADDRESS]   # in another terminal, as often as you like
//! ```
//!
//! Progress is kept in `boot` entries: they cost no disk, outlive the job and the daemon, and are gone after
//! a reboot, as the job's half-done work may be. The job puts its progress as often as it likes. A put
//! with `if_changed` that changes nothing notifies nobody, and may be repeated when an answer is lost.
//! Who shows it sees the newest state and not every one: nothing piles up.

#![allow(clippy::print_stdout, reason = "it is what the example shows")]

use std::time::Duration;

use nkv::Key;
use nkv::client::{Change, Error, Lifetime, Link, Put, Value};

/// How much there is to do.
const STEPS: u32 = 200;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let link = |address: Option<&&str>| match address {
        Some(address) => Link::new(address),
        None => Link::to_default(),
    };
    match arguments.as_slice() {
        ["work", job, address @ ..] => work(&link(address.first())?, job)?,
        ["show", address @ ..] => show(&link(address.first())?)?,
        _ => return Err("usage: progress work JOB [ADDRESS] | progress show [ADDRESS]".into()),
    }
    Ok(())
}

fn work(link: &Link, job: &str) -> Result<(), Error> {
    let key = Key::from_segments(["progress", job])?;
    // Somebody may have begun.
    let done = link.get::<u32>(&key)?.map_or(0, |entry| entry.value);
    let begin = if done < STEPS { done } else { 0 };
    println!("{job} begins at step {begin} of {STEPS}");
    for step in begin..=STEPS {
        let percent = Value::of(&step)?;
        let put = Put::new(&key, percent)?.lifetime(Lifetime::Boot);
        link.put_with(put.if_changed())?;
        std::thread::sleep(Duration::from_millis(5)); // the work
    }
    println!("{job} is done");
    Ok(())
}

fn show(link: &Link) -> Result<(), Error> {
    for cut in link.mirror("progress")?.typed::<u32>().follow() {
        for change in &cut?.changes {
            let job = change.key().segments().nth(1).unwrap_or_default();
            match change {
                Change::Created { value, .. } | Change::Modified { value, .. } => {
                    println!("{job}: {} %", **value * 100 / STEPS);
                }
                Change::Deleted { .. } => println!("{job}: forgotten"),
                _ => println!("{job}: what it says is no number"),
            }
        }
    }
    Ok(())
}
