//! The Debian package: what is in it, and its life on a machine that systemd has booted.
//!
//! `packaging/deb` builds it, as a person would. The modules:
//!
//! - [`package`]: the build, what lintian says, which files are where,
//! - [`operations`]: what the guide for operators says, as it says it,
//! - [`life`]: installation, upgrade and downgrade with clients attached, removal and purge.

#![cfg(all(feature = "cli", feature = "daemon"))]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "these are tests")]

#[path = "../support/daemon.rs"]
mod support;

#[path = "../systemd/machine.rs"]
mod machine;

#[path = "../support/document.rs"]
mod document;
mod life;
mod operations;
mod package;
