//! A service that publishes what it measures.
//!
//! ```console
//! $ ping localhost | cargo run --example metrics reader [ADDRESS]
//! $ nkv-client subscribe metrics   # in another terminal
//! ```
//!
//! The service here counts the lines and bytes on its standard input. A thread beside it publishes the
//! counts once a second, as `boot` entries, in one batch, so that they belong to one moment. What has
//! not changed notifies nobody (`if_changed`). The service itself never waits for the daemon: it counts on
//! while there is none.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is what the example shows"
)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nkv::Key;
use nkv::client::{Error, Lifetime, Link, Put, Value};

#[derive(Default)]
struct Metrics {
    lines: AtomicU64,
    bytes: AtomicU64,
    is_over: AtomicBool,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().ok_or("usage: metrics NAME [ADDRESS]")?;
    let link = match arguments.next() {
        Some(address) => Link::new(address)?,
        None => Link::to_default()?,
    };
    let metrics = Metrics::default();
    std::thread::scope(|scope| {
        let publisher = scope.spawn(|| publish_regularly(&link, &name, &metrics));
        for line in std::io::stdin().lines().map_while(Result::ok) {
            metrics.lines.fetch_add(1, Ordering::Relaxed);
            let bytes = line.len() as u64 + 1;
            metrics.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        metrics.is_over.store(true, Ordering::Relaxed);
        publisher.thread().unpark();
    });
    // The last state is there until the reboot, for whoever wants to know.
    publish(&link, &name, &metrics)?;
    println!("published {} lines", metrics.lines.into_inner());
    Ok(())
}

fn publish_regularly(link: &Link, name: &str, metrics: &Metrics) {
    while !metrics.is_over.load(Ordering::Relaxed) {
        if let Err(error) = publish(link, name, metrics) {
            // The next one has newer counts.
            eprintln!("not published: {error}");
        }
        std::thread::park_timeout(Duration::from_secs(1));
    }
}

fn publish(link: &Link, name: &str, metrics: &Metrics) -> Result<(), Error> {
    let put = |what: &str, count: &AtomicU64| -> Result<Put, Error> {
        let key = Key::from_segments(["metrics", name, what])?;
        let value = Value::of(&count.load(Ordering::Relaxed))?;
        Ok(Put::new(key, value)?.lifetime(Lifetime::Boot).if_changed())
    };
    let puts = [put("lines", &metrics.lines)?, put("bytes", &metrics.bytes)?];
    link.batch(|batch| {
        let puts = puts.iter().cloned();
        puts.fold(batch, |batch, put| batch.put_with(put))
    })?;
    Ok(())
}
