//! The built daemon and its journals: what outlives it, and what becomes of a damaged file.
//!
//! Like `tests/daemon`, this knows of the daemon what any program can know: lines over a socket, files,
//! signals, exit codes. The modules are the promises:
//!
//! - [`restart`]: what is there after a clean stop, after a kill, and after a reboot.

#![cfg(feature = "daemon")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "these are tests"
)]

#[path = "../support/daemon.rs"]
mod support;

mod restart;
