//! Mirrors, writers and announcers in processes of their own, while everything between them breaks.
//!
//! The daemon is killed, stopped and started again, sometimes as after a reboot. Between it and the
//! processes stands a [`proxy`] that cuts connections in the middle of a line and holds bytes back. The
//! daemon remembers few deletions, so who lags has to compare. Now and then there is a **quiet point**:
//! nothing breaks, everybody pauses, and then
//!
//! - each mirror is exactly the keyspace, revisions included,
//! - each writer finds what it was told: what was acknowledged is there, what was refused or not sent
//!   is not, and what is unknown is one or the other ([`writer`]),
//! - everything announced is there, with its newest value; in the end nothing else is ([`announcer`]),
//! - a counter that all writers increment has counted each success, and no more besides than the
//!   increments whose fate is unknown.
//!
//! In between, each mirror's process holds every cut against its own account of what it was told
//! before: changes in order, each a true difference, batches whole ([`witness`]).
//!
//! The processes are this test's own program, which runs the test [`role`] in them and speaks lines over
//! its standard streams ([`children`]).
//!
//! What happens is drawn from a seed, which is printed; `NKV_CHAOS_SEED` sets it. It draws the same faults
//! and the same requests again, but the system decides when they meet.

#![cfg(feature = "daemon")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "these are tests"
)]

#[path = "../support/daemon.rs"]
mod support;

mod announcer;
mod children;
mod mirror;
mod proxy;
mod random;
mod storm;
mod witness;
mod writer;

use std::time::Duration;

use storm::Storm;
use support::scaled;

#[test]
fn what_is_mirrored_written_and_announced_holds() {
    let seconds = scaled(60, 8) as u64;
    Storm::new(random::seed()).run(Duration::from_secs(seconds));
}

/// What the other processes run; nothing in the test's own.
#[test]
fn role() {
    children::play();
}
