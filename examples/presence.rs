//! Services that know which others are there.
//!
//! ```console
//! $ cargo run --example presence camera [ADDRESS]
//! $ cargo run --example presence thermostat [ADDRESS]   # in another terminal
//! ```
//!
//! Each announces itself: the entry is there as long as the process has a connection, however it
//! ends. The announcement is kept up over lost connections and restarts of the daemon, without anything
//! being done here. The mirror tells who comes and goes.

#![allow(clippy::print_stdout, reason = "it is what the example shows")]

use nkv::Key;
use nkv::client::{Change, Link};
use serde::{Deserialize, Serialize};

/// What a service says of itself.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Presence {
    pid: u32,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().ok_or("usage: presence NAME [ADDRESS]")?;
    let link = match arguments.next() {
        Some(address) => Link::new(address)?,
        None => Link::to_default()?,
    };
    // A name may hold anything; `from_segments` escapes what a key can't.
    let key = Key::from_segments(["present", &name])?;
    let presence = Presence {
        pid: std::process::id(),
    };
    // Dropping it would delete the entry, so it is kept until the end.
    let _announcement = link.announce(&key, &presence)?;
    for cut in link.mirror("present")?.typed::<Presence>().follow() {
        for change in &cut?.changes {
            let who = change.key().segments().nth(1).unwrap_or_default();
            match change {
                Change::Created { value, .. } => println!("{who} is here, process {}", value.pid),
                Change::Modified { value, .. } => println!("{who} is process {} now", value.pid),
                Change::Deleted { .. } => println!("{who} is gone"),
                _ => println!("{who} says nothing that can be understood"),
            }
        }
    }
    Ok(())
}
