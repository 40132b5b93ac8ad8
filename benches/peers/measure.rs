//! What is measured, a file for each kind.

mod durable;
mod events;
mod growth;
mod journal;
mod memory;
mod requests;
mod stalled;
mod start;

use std::borrow::Cow;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::bench::Bench;
use crate::connection::Request;
use crate::server::Server;

/// A kind of measure.
pub(crate) struct Measure {
    /// What it is called on the command line.
    pub(crate) name: &'static str,
    pub(crate) run: fn(&mut Bench) -> io::Result<()>,
}

/// All that there are, in the order in which they are run.
pub(crate) const ALL: [Measure; 8] = [
    Measure {
        name: "requests",
        run: requests::measure,
    },
    Measure {
        name: "events",
        run: events::measure,
    },
    Measure {
        name: "memory",
        run: memory::measure,
    },
    Measure {
        name: "start",
        run: start::measure,
    },
    Measure {
        name: "durable",
        run: durable::measure,
    },
    Measure {
        name: "stalled",
        run: stalled::measure,
    },
    Measure {
        name: "growth",
        run: growth::measure,
    },
    Measure {
        name: "journal",
        run: journal::measure,
    },
];

/// The value where its length doesn't matter.
const VALUE: &str = "0123456789abcdefghij0123456789abcdefghij";

/// For filling a server.
const FILL_CONNECTIONS: usize = 50;
const FILL_DEPTH: usize = 16;

/// A topic that nobody has put anything in, so that a new subscriber is told nothing.
fn fresh_topic() -> String {
    static TOPICS: AtomicU32 = AtomicU32::new(0);
    format!("topic{:03}", TOPICS.fetch_add(1, Ordering::Relaxed))
}

/// A key in no order, as those of several services come.
fn service_key(number: usize) -> String {
    format!("service{}.item{number}", number % 97)
}

fn value_of(bytes: usize) -> String {
    "x".repeat(bytes)
}

/// Puts so many keys.
fn fill(server: &Server, keys: usize, value: &str) -> io::Result<()> {
    let numbers: Vec<usize> = (0..keys).collect();
    let batches = numbers.chunks(FILL_DEPTH).map(|numbers| {
        let puts = numbers.iter();
        let puts = puts.filter_map(|number| server.peer.put(&service_key(*number), value));
        Cow::Owned(Request::joined(puts))
    });
    server.clients(FILL_CONNECTIONS)?.send_all(batches)?;
    Ok(())
}
