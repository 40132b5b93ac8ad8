//! What a service manager and this process tell each other: sockets that come with the start, and
//! how the service is.
//!
//! The manager says everything in the environment. `LISTEN_FDS` sockets stand ready from
//! descriptor 3 on (sd_listen_fds(3)): they are open before the daemon and stay open after it, so
//! that a client can connect while there is no daemon. `NOTIFY_SOCKET` takes lines about the service
//! (sd_notify(3)), and `WATCHDOG_USEC` is how long the manager waits for a sign of life before it
//! takes the service for stuck (sd_watchdog_enabled(3)). systemd is the manager that these are from;
//! others speak the same.
//!
//! A manager that can't be told is no reason to stop: it goes to the log at the level `debug`. Nor is one
//! that does not listen a reason to wait, but with what it has to hear.
//!
//! Left out: keeping connections with the manager over a restart (`FDSTORE=1`). Clients resume
//! by themselves, after a crash as well, and what they had been sent last nobody knows.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use log::debug;
use nix::time::{ClockId, clock_gettime};

/// A socket that the service manager has opened.
#[derive(Clone, Debug)]
pub struct PassedSocket {
    name: String,
    socket: Arc<OwnedFd>,
}

/// A service manager that wants to hear from this process.
#[derive(Clone, Debug)]
pub struct Supervisor {
    watchdog: Option<Duration>,
}

/// The sockets that the service manager has passed to this process, in its order. To be called once:
/// they are this process's own, and are closed with what this returns.
///
/// # Errors
/// Where the environment says what can't be: a count that is no number, or of descriptors that are
/// not open.
pub fn passed_sockets() -> io::Result<Vec<PassedSocket>> {
    let passed = sd_notify::listen_fds_with_names()?;
    Ok(passed
        .map(|(descriptor, name)| PassedSocket::from_descriptor(descriptor, name))
        .collect())
}

impl PassedSocket {
    /// A socket that is passed by other means, under a name for the log.
    #[must_use]
    pub fn new(socket: OwnedFd, name: String) -> PassedSocket {
        PassedSocket {
            name,
            socket: Arc::new(socket),
        }
    }

    /// Its name: systemd's `FileDescriptorName=`, by default that of the socket unit.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The socket, in a descriptor of its own.
    pub(crate) fn socket(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone()
    }

    #[expect(
        unsafe_code,
        reason = "the environment names descriptors by their numbers"
    )]
    fn from_descriptor(descriptor: i32, name: String) -> PassedSocket {
        // SAFETY: `listen_fds_with_names` has found it open, and by the manager's contract it is this
        // process's to own. `passed_sockets` is to be called once, so nobody else owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
        PassedSocket::new(socket, name)
    }
}

impl Supervisor {
    /// The manager that has started this process, if it wants to hear from it.
    #[must_use]
    pub fn from_environment() -> Option<Supervisor> {
        std::env::var_os("NOTIFY_SOCKET")?;
        Some(Supervisor {
            watchdog: sd_notify::watchdog_enabled(),
        })
    }

    /// How often [`Supervisor::alive`] is to be said: twice in the time after which the manager takes
    /// the service for stuck. Nothing where it does not watch.
    #[must_use]
    pub fn sign_of_life_interval(&self) -> Option<Duration> {
        self.watchdog.map(|patience| patience / 2)
    }

    /// Says what the service is doing, for people: one line. A manager that does not listen at this
    /// moment is not waited for, and does not hear it.
    pub fn status(&self, status: &str) {
        tell(&format!("STATUS={status}"), Patience::None);
    }

    /// Says that the service has started, or has read its configuration again.
    pub fn ready(&self, status: &str) {
        tell(&format!("READY=1\nSTATUS={status}"), Patience::Some);
    }

    /// Says that the service is not stuck, as [`Supervisor::status`] does.
    pub fn alive(&self) {
        tell("WATCHDOG=1", Patience::None);
    }

    /// Says that the configuration is being read again; [`Supervisor::ready`] is next.
    pub fn reloading(&self) {
        let now =
            clock_gettime(ClockId::CLOCK_MONOTONIC).map(|now| Duration::from(now).as_micros());
        match now {
            Ok(now) => tell(
                &format!("RELOADING=1\nMONOTONIC_USEC={now}"),
                Patience::Some,
            ),
            Err(error) => debug!("the service manager is not told of the reload: {error}"),
        }
    }

    /// Says that the service is about to end.
    pub fn stopping(&self) {
        tell("STOPPING=1\nSTATUS=Stopping", Patience::Some);
    }
}

/// Whether the manager is waited for where it does not listen at this moment.
#[derive(Clone, Copy)]
enum Patience {
    /// It has to hear this.
    Some,
    /// It will hear more.
    None,
}

fn tell(lines: &str, patience: Patience) {
    if let Err(error) = send(lines, patience) {
        debug!("the service manager can't be told {lines:?}: {error}");
    }
}

/// One datagram to the socket that `NOTIFY_SOCKET` names: a path, or an abstract name after an `@`.
fn send(lines: &str, patience: Patience) -> io::Result<()> {
    let name = std::env::var_os("NOTIFY_SOCKET").unwrap_or_default();
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(matches!(patience, Patience::None))?;
    socket.send_to_addr(lines.as_bytes(), &address)?;
    Ok(())
}
