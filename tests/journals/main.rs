//! The built daemon and its journals: what outlives it, and what becomes of a damaged file.
//!
//! Like `tests/daemon`, this knows of the daemon what any program can know: lines over a socket, files,
//! signals, exit codes. The modules are the promises:
//!
//! - [`restart`]: what is there after a clean stop, after a kill, and after a reboot,
//! - [`resume`]: what a restart looks like to subscribers, owners, and entries that end,
//! - [`kill`]: kill -9 under load, over and over, while the journals are written anew,
//! - [`epoch`]: which starts go on with the history, and which begin another,
//! - [`start`]: starts that are refused, and what a start says of damage,
//! - [`damage`]: files that are cut, flipped or mixed up, read through the library,
//! - [`full`]: disks that are full or fail under a running daemon,
//! - [`syscalls`]: a crash or a failure at every system call,
//! - [`power`]: what is there after a power cut.
//!
//! A debug build is tens of times slower than the one that is shipped. Tests whose meaning is in their
//! size run at full size in a release build, or where `NKV_TEST_FULL` is set, and else smaller: see
//! [`support::scaled`].

#![cfg(feature = "daemon")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "these are tests"
)]

#[path = "../support/daemon.rs"]
mod support;

mod damage;
mod disk;
mod epoch;
mod full;
mod kill;
mod pair;
mod power;
mod restart;
mod resume;
mod start;
mod syscalls;
