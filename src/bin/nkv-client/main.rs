//! nkv-client: the keyspace on the command line.
//!
//! `arguments` declares what may be said, `commands` does it, `shell` does it line by line. What
//! outlives a connection is in `follow`, what ends the program in `failure`. Everything that the
//! program knows about the daemon goes through the library's blocking client.

#![allow(clippy::print_stderr, reason = "a program speaks to its user")]

mod arguments;
mod commands;
mod completion;
mod daemon;
mod failure;
mod follow;
mod interrupt;
mod output;
mod prometheus;
mod shell;
mod subscribe;
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
    };
    match arguments.command {
        Some(command) => {
            let mut runner = runner;
            runner.run(command)
        }
        None => shell::run(runner),
    }
}
