//! The built daemon from outside: lines over sockets, signals, exit codes, memory, processor time.
//!
//! Nothing here uses the library, but for the module about the library itself and copies that outlive a
//! daemon: what a test knows of the daemon is what any program in any language can know. The modules are the promises:
//!
//! - [`transport`]: sockets of both kinds, framing, what the end of input means,
//! - [`footprint`]: what slow, greedy and broken clients cost in memory,
//! - [`crowd`]: many clients, too many clients, and none that does anything,
//! - [`fairness`]: one client's large requests do not keep the others waiting,
//! - [`attacks`]: all that one user may do, and what the others notice of it,
//! - [`program`]: options, exit codes, socket files, signals, what is logged,
//! - [`access`]: rules who may do what,
//! - [`token`]: who may come in over TCP,
//! - [`lifetimes`]: entries that end without being deleted,
//! - [`logging`]: how the log looks in the system journal, in a file, on a terminal,
//! - [`confined`]: what the daemon denies itself,
//! - [`supervised`]: what a service manager passes, and what it is told,
//! - [`library`]: the same server on a thread of this process.
//!
//! Figures (memory, events, round trips) are printed; `-- --nocapture` shows them. Times are printed
//! too and never asserted.
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

mod access;
mod attacks;
mod confined;
mod crowd;
mod fairness;
mod footprint;
mod library;
mod lifetimes;
mod logging;
mod program;
mod supervised;
mod token;
mod transport;
mod wakeups;
