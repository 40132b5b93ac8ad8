//! The daemon at home on a host: the units of `systemd/`, in a system that was really booted.
//!
//! Each test boots a machine of its own (see [`machine`]), which takes less than a second, installs the
//! built programs and the units there, and looks at them as an operator or a client does. It takes root,
//! systemd, and a kernel that lets it make namespaces; where these are missing the tests are skipped.
//! The modules are the promises:
//!
//! - [`by_hand`]: installing it without a package,
//! - [`life`]: started by who asks, ready when it is, several sockets, the journal, a reload,
//! - [`failure`]: what becomes of a daemon that is stuck, dies, or can't start,
//! - [`crowd`]: restarts and crashes as many clients see them,
//! - [`sandbox`]: what the daemon could not do,
//! - [`calls`]: the list of system calls, held against those that are made.

#![cfg(all(feature = "daemon", feature = "cli"))]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "these are tests"
)]

#[path = "../support/daemon.rs"]
mod support;

mod by_hand;
mod calls;
mod crowd;
#[path = "../support/document.rs"]
mod document;
mod failure;
mod life;
mod machine;
mod sandbox;
