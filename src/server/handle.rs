//! How the rest of a program speaks to a server that runs: from other threads and from signals.
//!
//! A byte on a socket pair wakes the loop; what it is woken for stands in flags, which a signal
//! handler may set, and in a queue of connections. The loop looks at both when it wakes, so several
//! requests at once cost one look.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};

/// Speaks to a server that runs. Clones speak to the same one.
///
/// ```
/// use nkv::server::{Options, Server};
/// let server = Server::bind(Options::default())?.spawn()?;
/// let stream = server.handle().connect()?;
/// drop(stream);
/// server.stop()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Handle {
    flags: Flags,
    connections: Sender<UnixStream>,
    wake: Arc<UnixStream>,
}

/// What a server can be asked to do by setting a flag and writing a byte to [`Handle::waker`]: both
/// are allowed in a signal handler.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Flags {
    /// Stop cleanly.
    pub stop: Arc<AtomicBool>,
    /// Read the token file and the rules again.
    pub reload: Arc<AtomicBool>,
    /// Log the statistics.
    pub log_statistics: Arc<AtomicBool>,
}

/// The server's end.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) handle: Handle,
    pub(super) connections: Receiver<UnixStream>,
    pub(super) wake: mio::net::UnixStream,
}

impl Control {
    pub(super) fn new() -> io::Result<Control> {
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let (sender, receiver) = mpsc::channel();
        Ok(Control {
            handle: Handle {
                flags: Flags::default(),
                connections: sender,
                wake: Arc::new(wake),
            },
            connections: receiver,
            wake: mio::net::UnixStream::from_std(woken),
        })
    }
}

impl Handle {
    /// Connects to the server without an address: one end of a socket pair, on which the protocol is
    /// spoken as on any other connection. Returns at once; the server takes its end in soon after.
    ///
    /// # Errors
    /// The system's, and [`io::ErrorKind::NotConnected`] where the server has stopped.
    pub fn connect(&self) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        self.connections
            .send(theirs)
            .map_err(|_| io::Error::new(io::ErrorKind::NotConnected, "the server has stopped"))?;
        self.wake();
        Ok(ours)
    }

    /// Asks the server to stop cleanly. Returns at once.
    pub fn stop(&self) {
        self.flags.stop.store(true, Ordering::Relaxed);
        self.wake();
    }

    /// Asks the server to read the token file and the rules again. Returns at once.
    pub fn reload(&self) {
        self.flags.reload.store(true, Ordering::Relaxed);
        self.wake();
    }

    /// The flags, to be set by a signal handler.
    #[must_use]
    pub fn flags(&self) -> &Flags {
        &self.flags
    }

    /// A socket on which any byte wakes the server, so that it looks at its flags.
    ///
    /// # Errors
    /// The system's, where no descriptor is left.
    pub fn waker(&self) -> io::Result<UnixStream> {
        self.wake.try_clone()
    }

    pub(super) fn wake(&self) {
        // A full buffer means that the server will wake anyway; a closed one, that it has stopped.
        let _ = (&*self.wake).write(&[0]);
    }
}
