//! nkv beside what people would pick instead, on the same machine, in the same run.
//!
//! `cargo bench --bench peers` starts nkv and those of the peers that are installed, does the same work
//! with each in turn, several rounds, and prints each figure with its spread and nkv's ratio to each
//! peer. docs/performance.md says what is measured, and has the options.
//!
//! **Rooms.** `machine` asks the kernel, `connection` is the load generator, `peer` says how each
//! system is spoken to, `server` starts them, `bench` does the rounds, `measure` has the measures,
//! `results` the samples, `report` the table.
//!
//! **Others who use the machine** slow down everybody in a round. So a ratio is the median of the
//! rounds' ratios, and servers that are not in turn are stopped (`SIGSTOP`).

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![allow(clippy::print_stderr, reason = "and what it can't do")]

mod bench;
mod connection;
mod machine;
mod measure;
mod peer;
mod report;
mod results;
mod server;

use std::io;
use std::process::ExitCode;

use bench::{Bench, Options};
use results::Results;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let mut options = Options {
        rounds: 5,
        quick: false,
        peers: peer::ALL.to_vec(),
        apart: true,
        together: true,
    };
    let mut only = Vec::new();
    while let Some(word) = words.next() {
        let mut value = || {
            words
                .next()
                .ok_or_else(|| io::Error::other(format!("{word} needs a value")))
        };
        match word.as_str() {
            "--test" => return Ok(()), // `cargo test --benches` only wants to know that it builds.
            "--quick" => {
                options.quick = true;
                options.rounds = 2;
            }
            "--rounds" => options.rounds = value()?.parse().map_err(io::Error::other)?,
            "--only" => only.extend(value()?.split(',').map(str::to_owned)),
            "--cores" => match value()?.as_str() {
                "one" => options.apart = false,
                "two" => options.together = false,
                _ => return Err(io::Error::other("--cores one or two")),
            },
            "--peers" => {
                let names = value()?;
                let names: Vec<&str> = names.split(',').collect();
                options
                    .peers
                    .retain(|peer| peer.name() == "nkv" || names.contains(&peer.name()));
            }
            other => return Err(io::Error::other(format!("{other} is no option"))),
        }
    }
    machine::raise_file_limit()?;
    let directory = tempfile::tempdir()?;
    let mut bench = Bench {
        options,
        cores: machine::Cores::find()?,
        directory: directory.path().to_owned(),
        results: Results::default(),
    };
    let is_wanted = |name: &str| only.is_empty() || only.iter().any(|word| word == name);
    if is_wanted("requests") {
        measure::requests::measure(&mut bench)?;
    }
    if is_wanted("events") {
        measure::events::measure(&mut bench)?;
    }
    Ok(())
}
