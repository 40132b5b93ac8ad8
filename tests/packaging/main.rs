//! What is shipped beside the source, built as its user would and looked at from outside:
//!
//! - [`static_build`]: the static programs of `packaging/static`,
//! - [`container`]: the image of `packaging/container`, in containers.
//!
//! The scripts install what they need, a test does not: where something is missing the test is skipped
//! and says what. What they have built is kept below `target`, so only the first run takes minutes.

#![cfg(all(feature = "cli", feature = "daemon"))]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "these are tests"
)]

#[path = "../support/daemon.rs"]
mod support;

mod container;
mod static_build;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The exit code of a script that has not installed what is missing.
const MISSING: i32 = 3;

/// The repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where the scripts put what they make: the directory that the programs under test are built in.
fn target() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_nkv-server"));
    program.ancestors().nth(2).unwrap().to_owned()
}

/// A script of the repository that is to install nothing.
fn script(name: &str) -> Command {
    let mut command = Command::new(root().join(name));
    command
        .env("NKV_STATIC_INSTALL", "no")
        .env("CARGO_TARGET_DIR", target());
    command
}

/// Runs a script that must succeed; none, and the test is skipped, where something is missing.
fn run(mut command: Command) -> Option<Output> {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.code() == Some(MISSING) {
        support::skip(&said);
        return None;
    }
    assert!(output.status.success(), "{command:?}: {said}");
    Some(output)
}
