//! The Debian package: what is in it, and its life on a machine that systemd has booted.
//!
//! `packaging/deb` builds it, as a person would. The modules:
//!
//! - [`package`]: the build, what lintian says, which files are where,
//! - [`life`]: installation, upgrade and downgrade with clients attached, removal and purge.

#![cfg(all(feature = "cli", feature = "daemon"))]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "these are tests")]

#[path = "../support/daemon.rs"]
mod support;

#[path = "../systemd/machine.rs"]
#[allow(dead_code, reason = "each test takes what it needs")]
mod machine;

mod life;
mod package;
