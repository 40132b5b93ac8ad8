//! The daemon at home on a host: the units of `systemd/`, in a system that has really been booted.
#![cfg(all(feature = "daemon", feature = "cli"))]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "these are tests"
)]

#[path = "../support/daemon.rs"]
mod support;

mod calls;
mod crowd;
mod failure;
mod life;
mod machine;
mod sandbox;
