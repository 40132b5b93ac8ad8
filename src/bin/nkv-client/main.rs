//! nkv-client: the keyspace on the command line.
//!
//! `arguments` declares what may be said, `commands` does it, `shell` does it line by line. What a
//! command follows is in `follow`, what ends that in `interrupt`, and what ends the program in `failure`.
//! Everything that the program knows about the daemon goes through the library's blocking client, and
//! what outlives a connection through its links.

#![allow(clippy::print_stderr, reason = "a program speaks to its user")]

mod announce;
mod arguments;
mod claim;
mod commands;
mod completion;
mod daemon;
mod exec;
mod failure;
mod follow;
mod held;
mod interrupt;
mod mirror;
mod output;
mod prometheus;
mod record;
mod replay;
mod shell;
mod subscribe;
mod top;
mod transfer;
mod tree;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;

use arguments::{Arguments, normalized};
use commands::Runner;
use daemon::{Daemon, Target};
use failure::Failure;
use output::Style;

fn main() -> ExitCode {
    let arguments = Arguments::parse_from(normalized(std::env::args_os()));
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                eprintln!("nkv-client: {}", failure.message);
            }
            ExitCode::from(failure.code)
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    let target = Target::new(&arguments)?;
    let runner = Runner {
        daemon: Daemon::new(target),
        style: Style::detected(),
        stopper: Arc::default(),
        stays: false,
        is_interactive: false,
        announced: Vec::new(),
    };
    match arguments.command {
        Some(command) => {
            let mut runner = runner;
            runner.run(command)
        }
        None => shell::run(runner),
    }
}
