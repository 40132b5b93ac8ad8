//! Where the daemon keeps its files when it is told nothing else.
//!
//! A service manager says so in the environment (systemd.exec(5): `StateDirectory=`,
//! `RuntimeDirectory=`); without one, root has the system's places and everybody else their own
//! (the XDG base directory specification).

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

/// The durable journal's directory; nothing where this user has no place for it.
pub(crate) fn data_directory() -> Option<PathBuf> {
    if let Some(given) = given("STATE_DIRECTORY") {
        return Some(given);
    }
    if geteuid().is_root() {
        return Some("/var/lib/nkv".into());
    }
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    state.map(|state| state.join("nkv"))
}

/// The boot journal's directory.
pub(crate) fn runtime_directory() -> PathBuf {
    if let Some(given) = given("RUNTIME_DIRECTORY") {
        return given;
    }
    if geteuid().is_root() {
        return "/run/nkv".into();
    }
    match absolute("XDG_RUNTIME_DIR") {
        Some(own) => own.join("nkv"),
        None => own_under_tmp(),
    }
}

/// Where a user without any other place keeps things.
pub(crate) fn own_under_tmp() -> PathBuf {
    format!("/tmp/nkv-{}", geteuid()).into()
}

/// Makes a directory that everybody could have made where it is this user's own, and makes sure that
/// it is.
pub(crate) fn make_own(directory: &Path) -> io::Result<()> {
    DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(directory)?;
    let found = std::fs::symlink_metadata(directory)?;
    if found.is_dir() && found.uid() == geteuid().as_raw() && found.mode() & 0o077 == 0 {
        Ok(())
    } else {
        Err(io::Error::other(
            "it is not a directory that only this user can enter",
        ))
    }
}

/// The first of the directories that a service manager gives.
fn given(variable: &str) -> Option<PathBuf> {
    let value = std::env::var(variable).ok()?;
    let first = value.split(':').next().unwrap_or_default();
    (!first.is_empty()).then(|| first.into())
}

/// A directory that a variable names; relative ones are to be ignored.
fn absolute(variable: &str) -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os(variable)?);
    path.is_absolute().then_some(path)
}
