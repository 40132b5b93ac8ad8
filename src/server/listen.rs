//! Sockets: how they come to be, who is at the other end, and how they go away.
//!
//! A Unix socket is bound, given its mode and group, and only then listened on, so that at no time
//! someone can connect whom the mode keeps out. A socket file that nobody answers on was left by a
//! daemon that died, and is replaced; anything else at the path is left alone and is an error.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use log::{info, warn};
use mio::event::Source;
use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Interest, Registry, Token};
use nix::sys::socket::{self, sockopt};

use crate::address::Address;
use crate::journal::LoadError;
use crate::session::Peer;
use crate::systemd::PassedSocket;

use super::rules::{AccessError, peer_groups};

/// How many connections may wait to be accepted, on each listening socket: as many as the system
/// allows (`net.core.somaxconn`). A number of our own would be refused where the C library says
/// that the system allows fewer, as musl does.
const BACKLOG: socket::Backlog = socket::Backlog::MAXALLOWABLE;

/// Why a server can't listen.
#[derive(Debug)]
#[non_exhaustive]
pub enum BindError {
    /// A living daemon answers there, or something that is no socket stands at the path.
    InUse {
        /// Where.
        address: Address,
        /// What is in the way.
        reason: &'static str,
    },
    /// A descriptor that was passed is no socket that a server can listen on.
    Unusable {
        /// The name that it was passed by.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// TCP on an address that is not loopback, without a token.
    TokenNeeded(SocketAddr),
    /// There is no group of that name.
    UnknownGroup(String),
    /// The token file can't be read or holds no token.
    TokenFile {
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file with the rules can't be read or has a line that is no rule.
    Access {
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: AccessError,
    },
    /// The system refused.
    Io {
        /// Where.
        address: Address,
        /// Its reason.
        source: io::Error,
    },
    /// The event loop could not be set up.
    Loop(io::Error),
    /// What is kept can't be read, or written to.
    Storage(LoadError),
}

/// A socket that connections come from.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: ListenerSocket,
    pub(super) address: Address,
    /// The file to be removed at a clean stop: its path, device and inode.
    file: Option<(PathBuf, u64, u64)>,
    /// Whether connections may be waiting.
    pub(super) ready: bool,
}

#[derive(Debug)]
pub(super) enum ListenerSocket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// A connection's socket.
#[derive(Debug)]
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// What is asked of Unix sockets that a server binds itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct FileTerms {
    pub(super) mode: u32,
    pub(super) group: Option<u32>,
}

impl Listener {
    /// Binds an address. A host name stands for all its addresses, of which one must do.
    pub(super) fn bind(
        address: &Address,
        terms: FileTerms,
        has_token: bool,
    ) -> Result<Vec<Listener>, BindError> {
        let failed = |source| BindError::Io {
            address: address.clone(),
            source,
        };
        match address {
            Address::Unix(path) => Ok(vec![Listener::bind_unix(path, terms)?]),
            Address::Tcp(host) => {
                let resolved: Vec<SocketAddr> = host.to_socket_addrs().map_err(failed)?.collect();
                if let Some(&open) = resolved.iter().find(|address| !address.ip().is_loopback())
                    && !has_token
                {
                    return Err(BindError::TokenNeeded(open));
                }
                let mut listeners = Vec::new();
                let mut first_error = None;
                for address in resolved {
                    match Listener::bind_tcp(address) {
                        Ok(listener) => listeners.push(listener),
                        Err(error) => first_error = first_error.or(Some(error)),
                    }
                }
                match first_error {
                    Some(error) if error.kind() == io::ErrorKind::AddrInUse => {
                        let reason = "another process listens there";
                        Err(BindError::InUse {
                            address: address.clone(),
                            reason,
                        })
                    }
                    Some(error) if listeners.is_empty() => Err(failed(error)),
                    _ => Ok(listeners),
                }
            }
        }
    }

    /// Takes a socket that somebody else listens on already, of whichever type it is.
    pub(super) fn adopt(passed: &PassedSocket, has_token: bool) -> Result<Listener, BindError> {
        let unusable = |source: io::Error| BindError::Unusable {
            name: passed.name().to_owned(),
            source,
        };
        let fd = passed.socket().map_err(unusable)?;
        let errno = |errno: nix::errno::Errno| unusable(errno.into());
        let kind = socket::getsockopt(&fd, sockopt::SockType).map_err(errno)?;
        let listens = socket::getsockopt(&fd, sockopt::AcceptConn).map_err(errno)?;
        if kind != socket::SockType::Stream || !listens {
            let reason = "it is no stream socket that is listened on";
            return Err(unusable(io::Error::other(reason)));
        }
        // The addresses tell the family: each type refuses the other's.
        let unix = std::os::unix::net::UnixListener::from(fd.try_clone().map_err(unusable)?);
        let (socket, address) = if let Ok(name) = unix.local_addr() {
            unix.set_nonblocking(true).map_err(unusable)?;
            let socket = ListenerSocket::Unix(UnixListener::from_std(unix));
            (socket, Address::Unix(path_of(&name)))
        } else {
            let tcp = std::net::TcpListener::from(fd);
            let address = tcp.local_addr().map_err(unusable)?;
            if !address.ip().is_loopback() && !has_token {
                return Err(BindError::TokenNeeded(address));
            }
            tcp.set_nonblocking(true).map_err(unusable)?;
            let socket = ListenerSocket::Tcp(TcpListener::from_std(tcp));
            (socket, Address::Tcp(address.to_string()))
        };
        info!("listening on {address} (passed as {})", passed.name());
        Ok(Listener {
            socket,
            address,
            file: None,
            ready: true,
        })
    }

    /// Accepts a connection.
    pub(super) fn accept(&self) -> io::Result<(Stream, Peer)> {
        match &self.socket {
            ListenerSocket::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                let peer = peer_of(&stream)?;
                Ok((Stream::Unix(stream), peer))
            }
            ListenerSocket::Tcp(listener) => {
                let (stream, address) = listener.accept()?;
                stream.set_nodelay(true)?;
                socket::setsockopt(&stream, sockopt::KeepAlive, &true)?;
                socket::setsockopt(&stream, sockopt::TcpKeepIdle, &KEEPALIVE_SECONDS)?;
                Ok((Stream::Tcp(stream), Peer::Tcp(address)))
            }
        }
    }

    /// Removes the socket's file, if it is still the one that was made.
    pub(super) fn remove_file(&self) {
        if let Some((path, device, inode)) = &self.file {
            let is_ours = std::fs::symlink_metadata(path)
                .is_ok_and(|found| (found.dev(), found.ino()) == (*device, *inode));
            if is_ours && let Err(error) = std::fs::remove_file(path) {
                warn!("can't remove {}: {error}", path.display());
            }
        }
    }

    fn bind_unix(path: &Path, terms: FileTerms) -> Result<Listener, BindError> {
        let address = Address::Unix(path.to_owned());
        let failed = |source: io::Error| BindError::Io {
            address: address.clone(),
            source,
        };
        clear_path(path, &address)?;
        let fd = socket::socket(
            socket::AddressFamily::Unix,
            socket::SockType::Stream,
            socket::SockFlag::SOCK_CLOEXEC | socket::SockFlag::SOCK_NONBLOCK,
            None,
        )
        .map_err(|errno| failed(errno.into()))?;
        let name = socket::UnixAddr::new(path).map_err(|errno| failed(errno.into()))?;
        socket::bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &name)
            .map_err(|errno| failed(errno.into()))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(terms.mode))
            .and_then(|()| std::os::unix::fs::chown(path, None, terms.group))
            .map_err(failed)?;
        socket::listen(&fd, BACKLOG).map_err(|errno| failed(errno.into()))?;
        let found = std::fs::symlink_metadata(path).map_err(failed)?;
        let listener = std::os::unix::net::UnixListener::from(fd);
        info!("listening on {address}");
        Ok(Listener {
            socket: ListenerSocket::Unix(UnixListener::from_std(listener)),
            file: Some((path.to_owned(), found.dev(), found.ino())),
            address,
            ready: true,
        })
    }

    fn bind_tcp(address: SocketAddr) -> io::Result<Listener> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = Address::Tcp(listener.local_addr()?.to_string());
        info!("listening on {address}");
        let socket = ListenerSocket::Tcp(TcpListener::from_std(listener));
        Ok(Listener {
            socket,
            address,
            file: None,
            ready: true,
        })
    }
}

impl Stream {
    /// One end of a socket pair that stays in this process.
    pub(super) fn from_pair(end: std::os::unix::net::UnixStream) -> io::Result<(Stream, Peer)> {
        end.set_nonblocking(true)?;
        let stream = UnixStream::from_std(end);
        let peer = peer_of(&stream)?;
        Ok((Stream::Unix(stream), peer))
    }

    /// Bounds what the kernel holds for the peer to read, in bytes. The kernel doubles it for its
    /// own bookkeeping, and has a smallest and a largest size.
    pub(super) fn set_send_buffer(&self, bytes: usize) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => socket::setsockopt(stream, sockopt::SndBuf, &bytes)?,
            Stream::Tcp(stream) => socket::setsockopt(stream, sockopt::SndBuf, &bytes)?,
        }
        Ok(())
    }

    /// Writes a last line as far as there is room, and ends the connection.
    pub(super) fn refuse(mut self, line: &[u8]) {
        // Nobody can be told if this fails: the peer is gone or not reading.
        let _ = self.write(line);
        self.end_output();
        // Closing over unread input would make TCP throw the line away.
        let _ = self.read(&mut [0; 4096]);
    }

    /// Tells the peer that nothing more will come.
    pub(super) fn end_output(&self) {
        // It fails where the peer is gone already.
        match self {
            Stream::Unix(stream) => drop(stream.shutdown(std::net::Shutdown::Write)),
            Stream::Tcp(stream) => drop(stream.shutdown(std::net::Shutdown::Write)),
        }
    }

    /// Reads and drops what has come in. Returns how much that was, and whether the peer has closed.
    pub(super) fn drop_input(&mut self, buffer: &mut [u8], deadline: Instant) -> (usize, bool) {
        let mut dropped = 0;
        while Instant::now() < deadline {
            match self.read(buffer) {
                Ok(0) => return (dropped, true),
                Ok(read) => dropped += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (dropped, error.kind() != io::ErrorKind::WouldBlock),
            }
        }
        (dropped, false)
    }

    pub(super) fn is_tcp(&self) -> bool {
        matches!(self, Stream::Tcp(_))
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.read(buffer),
            Stream::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.write(bytes),
            Stream::Tcp(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Source for Stream {
    fn register(&mut self, to: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => stream.register(to, token, interests),
            Stream::Tcp(stream) => stream.register(to, token, interests),
        }
    }

    fn reregister(&mut self, to: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => stream.reregister(to, token, interests),
            Stream::Tcp(stream) => stream.reregister(to, token, interests),
        }
    }

    fn deregister(&mut self, from: &Registry) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => stream.deregister(from),
            Stream::Tcp(stream) => stream.deregister(from),
        }
    }
}

impl ListenerSocket {
    pub(super) fn source(&mut self) -> &mut dyn Source {
        match self {
            ListenerSocket::Unix(listener) => listener,
            ListenerSocket::Tcp(listener) => listener,
        }
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BindError::InUse { address, reason } => write!(f, "{address} is in use: {reason}"),
            BindError::Unusable { name, source } => {
                write!(f, "the socket passed as {name} can't be served: {source}")
            }
            BindError::TokenNeeded(address) => write!(
                f,
                "{address} can be reached from other hosts; without a token file, TCP is served on \
                 loopback addresses only"
            ),
            BindError::UnknownGroup(name) => write!(f, "there is no group {name}"),
            BindError::TokenFile { path, source } => {
                write!(f, "no token in {}: {source}", path.display())
            }
            BindError::Access { path, source } => {
                write!(f, "no rules in {}: {source}", path.display())
            }
            BindError::Io { address, source } => write!(f, "can't listen on {address}: {source}"),
            BindError::Loop(source) => write!(f, "can't set up the event loop: {source}"),
            BindError::Storage(source) => source.fmt(f),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            BindError::TokenFile { source, .. }
            | BindError::Io { source, .. }
            | BindError::Unusable { source, .. }
            | BindError::Loop(source) => Some(source),
            BindError::Storage(source) => Some(&**source),
            BindError::Access { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// How long a TCP connection is silent before the kernel asks whether the peer is still there.
const KEEPALIVE_SECONDS: u32 = 60;

/// The path of a socket's name; one without a path is written as systemd does, with an `@`.
fn path_of(name: &std::os::unix::net::SocketAddr) -> PathBuf {
    use std::os::linux::net::SocketAddrExt;
    match (name.as_pathname(), name.as_abstract_name()) {
        (Some(path), _) => path.to_owned(),
        (None, Some(name)) => format!("@{}", String::from_utf8_lossy(name)).into(),
        (None, None) => "@".into(),
    }
}

/// Whom the kernel says a Unix socket's other end belongs to.
fn peer_of(stream: &impl AsFd) -> io::Result<Peer> {
    let found = socket::getsockopt(stream, sockopt::PeerCredentials)?;
    Ok(Peer::Unix {
        pid: found.pid(),
        uid: found.uid(),
        gid: found.gid(),
        groups: peer_groups(stream)?,
    })
}

/// Makes way for a new socket file, if nothing that lives is there.
fn clear_path(path: &Path, address: &Address) -> Result<(), BindError> {
    let failed = |source| BindError::Io {
        address: address.clone(),
        source,
    };
    let in_use = |reason| BindError::InUse {
        address: address.clone(),
        reason,
    };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(in_use("what stands there is no socket"));
        }
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed)
        }
        Ok(_) => Err(in_use("a daemon answers there")),
        Err(error) => Err(failed(error)),
    }
}
