//! A service whose configuration can be changed while it runs.
//!
//! ```console
//! $ cargo run --example configuration [ADDRESS]
//! $ nkv-client put config.web.public '{"host":"::1","port":8080}'   # in another terminal
//! ```
//!
//! Each key below `config.web` is one listener, an object that serde reads as a [`Listener`]. The mirror
//! tells the first configuration and every later change in the same way, so there is one code path
//! for both. What one batch has changed comes in one piece. A value that is no listener is reported and
//! changes nothing; all others go on.

#![allow(clippy::print_stdout, reason = "it is what the example shows")]

use nkv::client::{Change, Error, Link};
use serde::Deserialize;

/// What is configured. A field that is missing or of the wrong type is an error that names it.
#[derive(Debug, Deserialize)]
struct Listener {
    host: String,
    port: u16,
}

fn main() -> Result<(), Error> {
    // The address is the first argument, or the place where nkv-client looks too.
    let link = match std::env::args().nth(1) {
        Some(address) => Link::new(address)?,
        None => Link::to_default()?,
    };
    // A follower is a mirror without a thread: this loop is all that the program does. It ends only with
    // an error that waiting does not help against; a daemon that is away is waited for.
    for cut in link.mirror("config.web")?.typed::<Listener>().follow() {
        for change in &cut?.changes {
            apply(change);
        }
        println!("configured");
    }
    Ok(())
}

fn apply(change: &Change<Listener>) {
    let key = change.key();
    match change {
        Change::Created { value, .. } => println!("{key}: open {}", shown(value)),
        Change::Modified { old, value, .. } => match old {
            Some(old) => println!("{key}: from {} to {}", shown(old), shown(value)),
            None => println!("{key}: open {}, which is well again", shown(value)),
        },
        Change::Deleted { .. } => println!("{key}: close"),
        // The old listener stays open: a slip of the administrator's is no reason to stop serving.
        Change::Invalid { error, .. } => println!("{key}: left as it is: {error}"),
        _ => {}
    }
}

fn shown(listener: &Listener) -> String {
    format!("[{}]:{}", listener.host, listener.port)
}
