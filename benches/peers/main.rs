//! nkv beside what people would pick instead, on the same machine, in the same run.
//!
//! `cargo bench --bench peers` starts nkv and those of the peers that are installed, does the same work
//! with each in turn, several rounds, and prints each figure with its spread and nkv's ratio to each
//! peer. docs/performance.md says what is measured, and has the options.
//!
//! **Rooms.** `machine` asks the kernel, `connection` is the load generator, `peer` says how each
//! system is spoken to, `server` starts them, `bench` does the rounds, `measure` has the measures,
//! `results` the samples, `report` the tables and JSON, `plot` the picture,
//! `goals` what is wanted.
//!
//! **Others who use the machine** slow down everybody in a round. So a ratio is the median of the
//! rounds' ratios, and servers that are not in turn are stopped (`SIGSTOP`).

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![allow(clippy::print_stderr, reason = "and what it can't do")]

mod bench;
mod connection;
mod goals;
mod machine;
mod measure;
mod peer;
mod plot;
mod report;
mod results;
mod server;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bench::{Bench, Options};
use peer::floor;
use results::Results;

fn main() -> ExitCode {
    let mut first = std::env::args_os().skip(1);
    if first.next().is_some_and(|word| word == floor::ARGUMENT) {
        let socket = first.next().unwrap_or_default();
        return end(floor::serve(Path::new(&socket)));
    }
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let arguments = match Arguments::parse(&mut words) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => return ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    end(run(arguments))
}

fn end(result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

const USAGE: &str = "\
cargo bench --bench peers -- [OPTIONS]

  --quick          smaller and shorter, to see that it works
  --rounds N       rounds of each measure [7, quick 2]
  --only NAME,...  only these measures
  --peers NAME,... nkv beside these only, and the floor
  --cores one|two  the server and the load on one core only, or on two only
  --json FILE      writes all samples
  --svg FILE       draws the ratios, and how things grow
  --table FILE     writes the page that comes last, in Markdown
  --programs       says which peers are installed, and ends
";

/// The command line.
struct Arguments {
    options: Options,
    measures: Vec<&'static measure::Measure>,
    json: Option<PathBuf>,
    svg: Option<PathBuf>,
    table: Option<PathBuf>,
}

impl Arguments {
    /// None where there is nothing to be measured.
    fn parse(words: &mut impl Iterator<Item = String>) -> Result<Option<Arguments>, String> {
        let mut arguments = Arguments {
            options: Options {
                rounds: 7,
                quick: false,
                peers: peer::ALL.to_vec(),
                apart: true,
                together: true,
            },
            measures: measure::ALL.iter().collect(),
            json: None,
            svg: None,
            table: None,
        };
        let options = &mut arguments.options;
        let mut rounds = None;
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            match word.as_str() {
                // `cargo test --benches` only wants to know that it builds.
                "--test" => return Ok(None),
                "--help" => {
                    println!("{USAGE}");
                    return Ok(None);
                }
                "--programs" => {
                    report::print_programs(&options.peers);
                    return Ok(None);
                }
                "--quick" => options.quick = true,
                "--rounds" => {
                    let number = value()?.parse().ok().filter(|rounds| *rounds > 0);
                    rounds = Some(number.ok_or("--rounds needs a number from 1 on")?);
                }
                "--only" => {
                    let names = value()?;
                    let all = arguments.measures.iter().map(|measure| measure.name);
                    let names = known(&names, &all.collect::<Vec<_>>())?;
                    arguments
                        .measures
                        .retain(|measure| names.contains(&measure.name));
                }
                "--peers" => {
                    let names = value()?;
                    let all = options.peers.iter().map(|peer| peer.name());
                    let names = known(&names, &all.collect::<Vec<_>>())?;
                    options
                        .peers
                        .retain(|peer| peer.is_nkv() || names.contains(&peer.name()));
                }
                "--cores" => match value()?.as_str() {
                    "one" => options.apart = false,
                    "two" => options.together = false,
                    _ => return Err("--cores needs one or two".to_owned()),
                },
                "--json" => arguments.json = Some(value()?.into()),
                "--svg" => arguments.svg = Some(value()?.into()),
                "--table" => arguments.table = Some(value()?.into()),
                _ => return Err(format!("{word} is no option\n\n{USAGE}")),
            }
        }
        options.rounds = rounds.unwrap_or(if options.quick { 2 } else { 7 });
        Ok(Some(arguments))
    }
}

/// The names of a list, each of which there must be.
fn known<'a>(list: &'a str, all: &[&str]) -> Result<Vec<&'a str>, String> {
    let names: Vec<&str> = list.split(',').collect();
    match names.iter().find(|name| !all.contains(*name)) {
        Some(name) => Err(format!("there is no {name}, but {}", all.join(", "))),
        None => Ok(names),
    }
}

fn run(arguments: Arguments) -> io::Result<()> {
    machine::raise_file_limit()?;
    let memory = match Path::new("/dev/shm") {
        shared if shared.is_dir() => tempfile::tempdir_in(shared)?,
        _ => tempfile::tempdir()?,
    };
    let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    report::print_programs(&arguments.options.peers);
    let mut bench = Bench {
        options: arguments.options,
        cores: machine::Cores::find()?,
        memory: memory.path().to_owned(),
        disk: disk.path().to_owned(),
        results: Results::default(),
    };
    report::print_machine(&bench);
    for measure in arguments.measures {
        (measure.run)(&mut bench)?;
    }
    let page = report::page(&bench);
    println!("\n{page}");
    if let Some(file) = arguments.table {
        std::fs::write(file, page)?;
    }
    if let Some(file) = arguments.json {
        std::fs::write(file, report::json(&bench)?)?;
    }
    if let Some(file) = arguments.svg {
        std::fs::write(file, plot::draw(&bench.results))?;
    }
    Ok(())
}
