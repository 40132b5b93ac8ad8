//! The floor: a server that does only what none on sockets can do without. It is no peer, for it knows
//! nothing, keeps nothing and refuses nothing. What it costs is the kernel's share in what all cost.
//!
//! It is this program itself, started with [`ARGUMENT`]. One thread waits, reads, looks for line ends,
//! and writes: first, in one write to each subscriber, the events of all that one read has brought, then,
//! in one write, the answers, as nkv does. A request is a line of nkv's with another first byte, which
//! alone says what is wanted. What comes back has the length of what nkv sends, and no sense.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use slab::Slab;

use super::nkv::Nkv;
use super::{Keeping, Peer, Place, Role};
use crate::connection::{Address, Counter, Request};

/// Stands before the path of the socket.
pub(crate) const ARGUMENT: &str = "--floor";

const GET: u8 = b'g';
const PUBLISH: u8 = b'p';
const SUBSCRIBE: u8 = b's';
/// Whatever else is answered like a put.
const PUT: u8 = b'w';

const GET_ANSWER: &[u8] =
    b"{\"ok\":true,\"key\":\"rate.0.10\",\"value\":\"0123456789abcdefghij0123456789abcdefghij\",\"rev\":123456}\n";
const PUT_ANSWER: &[u8] = b"{\"ok\":true,\"rev\":123456}\n";
/// By so many bytes nkv's event is longer than the put.
const EVENT_MORE_BYTES: usize =
    b"{\"sub\":1,\"event\":\"put\",\"rev\":123456}".len() - b"{\"op\":\"put\"}".len();

/// As many as nkv reads at a time.
const READ_BYTES: usize = 32 << 10;
const READY_MAX: usize = 512;
/// What epoll says of the socket that listens; connections have their places.
const LISTENER: u64 = u64::MAX;

pub(crate) struct Floor;

impl Peer for Floor {
    fn name(&self) -> &'static str {
        "floor"
    }

    fn program(&self) -> Option<PathBuf> {
        std::env::current_exe().ok()
    }

    fn start(&self, program: &Path, place: &Place<'_>) -> Option<(Command, Address)> {
        if place.keeping == Keeping::Durable {
            return None;
        }
        let socket = place.directory.join("floor.sock");
        let mut command = Command::new(program);
        command.arg(ARGUMENT).arg(&socket);
        Some((command, Address::Unix(socket)))
    }

    fn counter(&self) -> Counter {
        Counter::Lines
    }

    fn greeting(&self, role: Role) -> Request {
        with_first(PUT, Nkv::Built.greeting(role))
    }

    fn put(&self, key: &str, value: &str) -> Option<Request> {
        Some(with_first(PUT, Nkv::Built.put(key, value)?))
    }

    fn get(&self, key: &str) -> Option<Request> {
        Some(with_first(GET, Nkv::Built.get(key)?))
    }

    fn publish(&self, key: &str, value: &str) -> Option<Request> {
        Some(with_first(PUBLISH, Nkv::Built.publish(key, value)?))
    }

    fn subscribe(&self, topic: &str) -> Request {
        self.subscribe_below(topic, 1)
    }

    /// To all puts: it knows no keys.
    fn subscribe_below(&self, prefix: &str, id: usize) -> Request {
        let request = Nkv::Built.subscribe_below(prefix, id);
        Request::new(with_first(SUBSCRIBE, request).bytes, 1)
    }

    fn event_marks(&self) -> usize {
        1
    }

    fn keeps(&self) -> bool {
        false
    }

    fn refusal(&self) -> &'static str {
        "\"ok\":false"
    }
}

fn with_first(byte: u8, mut request: Request) -> Request {
    if let Some(first) = request.bytes.first_mut() {
        *first = byte;
    }
    request
}

/// The server. Ends only with an error.
pub(crate) fn serve(socket: &Path) -> io::Result<()> {
    let listener = UnixListener::bind(socket)?;
    listener.set_nonblocking(true)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let mut service = Service {
        listener,
        epoll,
        connections: Slab::new(),
        subscribers: Vec::new(),
        buffer: vec![0; READ_BYTES].into_boxed_slice(),
        events: Vec::new(),
        answers: Vec::new(),
    };
    let mut ready = vec![EpollEvent::empty(); READY_MAX];
    loop {
        let count = match service.epoll.wait(&mut ready, EpollTimeout::NONE) {
            // It was stopped, and goes on.
            Err(Errno::EINTR) => continue,
            count => count?,
        };
        for event in &ready[..count] {
            if event.data() == LISTENER {
                service.accept()?;
            } else {
                let at = usize::try_from(event.data()).map_err(io::Error::other)?;
                service.attend(at, event.events())?;
            }
        }
    }
}

struct Service {
    listener: UnixListener,
    epoll: Epoll,
    connections: Slab<Connection>,
    /// Their places.
    subscribers: Vec<usize>,
    buffer: Box<[u8]>,
    /// To what the last read has brought.
    events: Vec<u8>,
    answers: Vec<u8>,
}

struct Connection {
    socket: UnixStream,
    /// The first byte of a line whose end has not come yet, and how much of it has.
    line_first: u8,
    line_bytes: usize,
    /// What the socket had no room for.
    unsent: Vec<u8>,
}

impl Service {
    fn accept(&mut self) -> io::Result<()> {
        loop {
            let socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            socket.set_nonblocking(true)?;
            let place = self.connections.vacant_entry();
            self.epoll.add(&socket, interest(place.key(), false))?;
            place.insert(Connection {
                socket,
                line_first: 0,
                line_bytes: 0,
                unsent: Vec::new(),
            });
        }
    }

    /// What epoll says may be of a connection that had this place before: it does no harm.
    fn attend(&mut self, at: usize, flags: EpollFlags) -> io::Result<()> {
        let may_have_ended =
            flags.intersects(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
        if flags.contains(EpollFlags::EPOLLOUT)
            && let Some(connection) = self.connections.get_mut(at)
        {
            connection.send_unsent(&self.epoll, at)?;
        }
        if !may_have_ended && !flags.contains(EpollFlags::EPOLLIN) {
            return Ok(());
        }
        while let Some(connection) = self.connections.get_mut(at) {
            match connection.socket.read(&mut self.buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Ok(0) | Err(_) => {
                    self.connections.remove(at);
                    self.subscribers.retain(|subscriber| *subscriber != at);
                }
                Ok(read) => {
                    self.reply(at, read)?;
                    // Epoll tells of what comes from now on.
                    if read < READ_BYTES && !may_have_ended {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Does what so many bytes ask for that a connection has sent.
    fn reply(&mut self, at: usize, read: usize) -> io::Result<()> {
        self.events.clear();
        self.answers.clear();
        let connection = &mut self.connections[at];
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', &self.buffer[..read]) {
            let first = connection.line_first(self.buffer[start]);
            let bytes = std::mem::take(&mut connection.line_bytes) + end + 1 - start;
            start = end + 1;
            match first {
                SUBSCRIBE => self.subscribers.push(at),
                PUBLISH => {
                    let event_end = self.events.len() + bytes + EVENT_MORE_BYTES;
                    self.events.resize(event_end - 1, b'.');
                    self.events.push(b'\n');
                }
                _ => {}
            }
            let is_get = first == GET;
            self.answers
                .extend_from_slice(if is_get { GET_ANSWER } else { PUT_ANSWER });
        }
        if start < read {
            connection.line_first = connection.line_first(self.buffer[start]);
            connection.line_bytes += read - start;
        }
        if !self.events.is_empty() {
            for subscriber in &self.subscribers {
                self.connections[*subscriber].send(&self.epoll, *subscriber, &self.events)?;
            }
        }
        self.connections[at].send(&self.epoll, at, &self.answers)
    }
}

impl Connection {
    /// Of the line to which more has come, that begins with this byte.
    fn line_first(&self, byte: u8) -> u8 {
        if self.line_bytes == 0 {
            byte
        } else {
            self.line_first
        }
    }

    fn send(&mut self, epoll: &Epoll, at: usize, bytes: &[u8]) -> io::Result<()> {
        let is_first = self.unsent.is_empty();
        let sent = if is_first { self.write(bytes) } else { 0 };
        self.unsent.extend_from_slice(&bytes[sent..]);
        if is_first && !self.unsent.is_empty() {
            epoll.modify(&self.socket, &mut interest(at, true))?;
        }
        Ok(())
    }

    fn send_unsent(&mut self, epoll: &Epoll, at: usize) -> io::Result<()> {
        let unsent = std::mem::take(&mut self.unsent);
        let sent = self.write(&unsent);
        if sent == unsent.len() {
            epoll.modify(&self.socket, &mut interest(at, false))?;
        } else {
            self.unsent.extend_from_slice(&unsent[sent..]);
        }
        Ok(())
    }

    /// How many bytes need not be written any more: all where nobody is there, as the next read says.
    fn write(&mut self, bytes: &[u8]) -> usize {
        if bytes.is_empty() {
            return 0;
        }
        match self.socket.write(bytes) {
            Ok(written) => written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(_) => bytes.len(),
        }
    }
}

/// Epoll tells once of what comes, but as long as there is room to write where something is unsent.
fn interest(at: usize, has_unsent: bool) -> EpollEvent {
    let more = if has_unsent {
        EpollFlags::EPOLLOUT
    } else {
        EpollFlags::EPOLLET
    };
    let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | more;
    EpollEvent::new(flags, at as u64)
}
