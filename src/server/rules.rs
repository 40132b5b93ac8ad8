//! Rules from a file, with the names that this machine knows; and who a peer is, with all groups.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::Arc;

use nix::libc;
use nix::unistd::{Group, User};

use crate::access::{Names, Rules, RulesError};

/// Why a file holds no rules.
#[derive(Debug)]
#[non_exhaustive]
pub enum AccessError {
    /// It can't be read.
    Read(io::Error),
    /// A line of it is no rule.
    Rules(RulesError),
}

/// Reads the rules of a file. Names are looked up as the system does it (nsswitch.conf(5)); a static
/// program knows those of `/etc/passwd` and `/etc/group`.
///
/// # Errors
/// [`AccessError`].
pub fn read_rules(path: &Path) -> Result<Arc<Rules>, AccessError> {
    let text = std::fs::read_to_string(path).map_err(AccessError::Read)?;
    let rules = Rules::parse(&text, &System).map_err(AccessError::Rules)?;
    Ok(Arc::new(rules))
}

/// The users and groups of this machine.
struct System;

impl Names for System {
    fn user(&self, name: &str) -> Option<u32> {
        Some(User::from_name(name).ok()??.uid.as_raw())
    }

    fn group(&self, name: &str) -> Option<u32> {
        Some(Group::from_name(name).ok()??.gid.as_raw())
    }
}

/// The supplementary groups of a Unix socket's other end, as they were when it connected
/// (`SO_PEERGROUPS`, unix(7)). None where the kernel is older than 4.13 and does not tell.
#[expect(unsafe_code, reason = "no library that is used here asks for these")]
pub(super) fn peer_groups(stream: &impl AsFd) -> io::Result<Vec<u32>> {
    let descriptor = stream.as_fd().as_raw_fd();
    let mut groups: Vec<u32> = Vec::with_capacity(32);
    loop {
        let room = groups.capacity() * size_of::<u32>();
        let mut bytes = libc::socklen_t::try_from(room).unwrap_or(libc::socklen_t::MAX);
        // SAFETY: the kernel writes at most `bytes` bytes to the buffer, which has that many, and the
        // descriptor is open as long as the stream is borrowed.
        let result = unsafe {
            libc::getsockopt(
                descriptor,
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let count = bytes as usize / size_of::<u32>();
        if result == 0 {
            // SAFETY: that many numbers have been written.
            unsafe { groups.set_len(count) };
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // It has said how much room it needs.
            Some(libc::ERANGE) if count > groups.capacity() => groups.reserve(count),
            Some(libc::ENOPROTOOPT) => return Ok(Vec::new()),
            _ => return Err(error),
        }
    }
}

impl fmt::Display for AccessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AccessError::Read(error) => error.fmt(f),
            AccessError::Rules(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for AccessError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            AccessError::Read(error) => Some(error),
            AccessError::Rules(error) => Some(error),
        }
    }
}
