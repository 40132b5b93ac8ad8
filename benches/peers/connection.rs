//! The load generator: sockets, requests that were rendered before, and counting of what comes back.
//!
//! It knows nothing of what it sends, and looks at what it reads as little as it can: a [`Counter`]
//! counts **marks**. Most protocols end the parts of a message with line ends, so their mark is the
//! line end, and each kind of message has a fixed number of them. Whoever sends says how many marks
//! will come back; when they have come, all is answered. So it costs about the same with each server:
//! a system call to send, one to read, and a look for one byte.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Nobody waits longer than this for bytes.
const PATIENCE_SECONDS: u16 = 60;
const READ_BYTES: usize = 64 << 10;
const READY_MAX: usize = 512;

/// Where a server listens.
#[derive(Clone, Debug)]
pub(crate) enum Address {
    Unix(PathBuf),
    /// A port on 127.0.0.1.
    Tcp(u16),
}

/// Bytes to send, and the marks that will come back.
#[derive(Clone, Default)]
pub(crate) struct Request {
    pub(crate) bytes: Vec<u8>,
    pub(crate) marks: usize,
}

impl Request {
    pub(crate) fn new(bytes: impl Into<Vec<u8>>, marks: usize) -> Request {
        Request {
            bytes: bytes.into(),
            marks,
        }
    }

    /// One after the other.
    pub(crate) fn joined(requests: impl IntoIterator<Item = Request>) -> Request {
        let mut all = Request::default();
        for request in requests {
            all.bytes.extend(request.bytes);
            all.marks += request.marks;
        }
        all
    }
}

/// Finds marks in what a server sends.
#[derive(Clone, Debug)]
pub(crate) enum Counter {
    /// The mark is a line end.
    Lines,
    /// The mark is a line end, but not that of lines that are this text, which come unasked.
    LinesBut(Text),
    /// The mark is a packet of MQTT: a byte, the length of the rest in groups of seven bits, the rest.
    Packets(Packets),
    /// The mark is this text.
    Text(Text),
}

/// A text whose first byte stands nowhere else in it.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    text: &'static [u8],
    /// So many bytes of it stood at the end of what was read last.
    matched: usize,
}

/// Where in a packet the bytes have ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Packets {
    /// Of the header, the bytes before the rest's length is known; 0 also where a packet ends.
    header_bytes: u32,
    rest: usize,
    is_in_rest: bool,
}

impl Counter {
    fn count(&mut self, bytes: &[u8]) -> usize {
        match self {
            Counter::Lines => memchr::memchr_iter(b'\n', bytes).count(),
            Counter::Packets(packets) => packets.count(bytes),
            Counter::LinesBut(text) => {
                memchr::memchr_iter(b'\n', bytes).count() - text.count(bytes)
            }
            Counter::Text(text) => text.count(bytes),
        }
    }
}

impl Text {
    pub(crate) fn new(text: &'static str) -> Text {
        Text {
            text: text.as_bytes(),
            matched: 0,
        }
    }

    fn count(&mut self, bytes: &[u8]) -> usize {
        let mut found = 0;
        let mut at = 0;
        while at < bytes.len() {
            if self.matched == 0 {
                match memchr::memchr(self.text[0], &bytes[at..]) {
                    Some(distance) => at += distance + 1,
                    None => break,
                }
                self.matched = 1;
            } else if bytes[at] == self.text[self.matched] {
                self.matched += 1;
                at += 1;
            } else {
                self.matched = 0;
            }
            if self.matched == self.text.len() {
                self.matched = 0;
                found += 1;
            }
        }
        found
    }
}

impl Packets {
    fn count(&mut self, mut bytes: &[u8]) -> usize {
        let mut ended = 0;
        while let Some(first) = bytes.first() {
            if self.is_in_rest {
                let taken = self.rest.min(bytes.len());
                bytes = &bytes[taken..];
                self.rest -= taken;
            } else {
                bytes = &bytes[1..];
                if self.header_bytes > 0 {
                    self.rest |= usize::from(first & 0x7f) << (7 * (self.header_bytes - 1));
                    self.is_in_rest = first & 0x80 == 0;
                }
                self.header_bytes += 1;
            }
            if self.is_in_rest && self.rest == 0 {
                *self = Packets::default();
                ended += 1;
            }
        }
        ended
    }
}

/// One connection, and the marks that it still owes.
pub(crate) struct Connection {
    socket: File,
    counter: Counter,
    owed: usize,
    /// Of the request that is being sent, what the socket had no room for.
    unsent: Vec<u8>,
}

impl Connection {
    /// Connects so that reading waits.
    pub(crate) fn open(address: &Address, counter: Counter) -> io::Result<Connection> {
        let patience = Some(Duration::from_secs(PATIENCE_SECONDS.into()));
        let socket = match address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(patience)?;
                OwnedFd::from(stream)
            }
            Address::Tcp(port) => {
                let stream = TcpStream::connect(("127.0.0.1", *port))?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(patience)?;
                OwnedFd::from(stream)
            }
        };
        Ok(Connection {
            socket: File::from(socket),
            counter,
            owed: 0,
            unsent: Vec::new(),
        })
    }

    /// From now on reading and writing do not wait.
    pub(crate) fn never_wait(self) -> io::Result<Connection> {
        let Connection {
            socket,
            counter,
            owed,
            unsent,
        } = self;
        let stream = UnixStream::from(OwnedFd::from(socket));
        stream.set_nonblocking(true)?;
        Ok(Connection {
            socket: File::from(OwnedFd::from(stream)),
            counter,
            owed,
            unsent,
        })
    }

    /// Where reading waits: sends all.
    pub(crate) fn send(&mut self, request: &Request) -> io::Result<()> {
        self.owed += request.marks;
        self.socket.write_all(&request.bytes)
    }

    /// Where reading waits: reads until nothing is owed.
    pub(crate) fn settle(&mut self, buffer: &mut Buffer) -> io::Result<()> {
        while self.owed > 0 {
            self.read(buffer)?;
        }
        Ok(())
    }

    /// Where reading waits: sends one of these batches after the other, each when the one before is
    /// answered, for as long as is said. How many batches were answered.
    pub(crate) fn keep_busy(
        &mut self,
        batches: &[Request],
        time: Duration,
        buffer: &mut Buffer,
    ) -> io::Result<usize> {
        let end = Instant::now() + time;
        let mut answered = 0;
        while Instant::now() < end {
            self.send(&batches[answered % batches.len()])?;
            self.settle(buffer)?;
            answered += 1;
        }
        Ok(answered)
    }

    /// Says that so many marks will come that nobody here has asked for.
    pub(crate) fn expect(&mut self, marks: usize) {
        self.owed += marks;
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Where reading does not wait, and nothing is counted: what there is to read. None where nothing has
    /// come; an error, or nothing, where the connection has ended.
    pub(crate) fn read_unseen<'a>(
        &mut self,
        buffer: &'a mut Buffer,
    ) -> io::Result<Option<&'a [u8]>> {
        match self.socket.read(&mut buffer.bytes) {
            Ok(read) => Ok(Some(&buffer.bytes[..read])),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// One system call. How many marks have come.
    fn read(&mut self, buffer: &mut Buffer) -> io::Result<usize> {
        let read = match self.socket.read(&mut buffer.bytes) {
            Ok(0) => return Err(io::Error::other("the server has closed the connection")),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        buffer.filled = read;
        let marks = self.counter.count(&buffer.bytes[..read]);
        self.owed = self.owed.checked_sub(marks).ok_or_else(|| {
            let text = String::from_utf8_lossy(&buffer.bytes[..read.min(1000)]).into_owned();
            io::Error::other(format!("more came than was asked for: {text}"))
        })?;
        Ok(marks)
    }

    /// Where reading does not wait: sends what there is room for, and whether that was all.
    fn send_some(&mut self, request: &Request) -> io::Result<bool> {
        self.owed += request.marks;
        let sent = if self.unsent.is_empty() {
            write_some(&mut self.socket, &request.bytes)?
        } else {
            0
        };
        self.unsent.extend_from_slice(&request.bytes[sent..]);
        Ok(self.unsent.is_empty())
    }

    fn send_rest(&mut self) -> io::Result<bool> {
        let sent = write_some(&mut self.socket, &self.unsent)?;
        self.unsent.drain(..sent);
        Ok(self.unsent.is_empty())
    }
}

fn write_some(socket: &mut File, bytes: &[u8]) -> io::Result<usize> {
    match socket.write(bytes) {
        Ok(written) => Ok(written),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        Err(error) => Err(error),
    }
}

/// What all connections read into, in turns.
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    filled: usize,
}

impl Buffer {
    pub(crate) fn new() -> Buffer {
        Buffer {
            bytes: vec![0; READ_BYTES].into_boxed_slice(),
            filled: 0,
        }
    }

    /// What the last read has brought.
    pub(crate) fn last_read(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }
}

/// Connections that are waited for all at once.
pub(crate) struct Swarm {
    connections: Vec<Connection>,
    epoll: Epoll,
    ready: Vec<EpollEvent>,
    /// The marks that all of them owe.
    owed: usize,
    pub(crate) buffer: Buffer,
}

impl Swarm {
    pub(crate) fn new(connections: Vec<Connection>) -> io::Result<Swarm> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let connections = connections
            .into_iter()
            .enumerate()
            .map(|(at, connection)| {
                let connection = connection.never_wait()?;
                let interest = EpollEvent::new(EpollFlags::EPOLLIN, at as u64);
                epoll.add(&connection.socket, interest)?;
                Ok(connection)
            })
            .collect::<io::Result<Vec<Connection>>>()?;
        Ok(Swarm {
            ready: vec![EpollEvent::empty(); READY_MAX],
            owed: connections.iter().map(|connection| connection.owed).sum(),
            connections,
            epoll,
            buffer: Buffer::new(),
        })
    }

    /// The marks that are still to come.
    pub(crate) fn owed(&self) -> usize {
        self.owed
    }

    pub(crate) fn send(&mut self, at: usize, request: &Request) -> io::Result<()> {
        let connection = &mut self.connections[at];
        self.owed += request.marks;
        if !connection.send_some(request)? {
            self.watch(at, EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT)?;
        }
        Ok(())
    }

    /// Says of some connections that so many marks will come to each.
    pub(crate) fn expect(&mut self, which: std::ops::Range<usize>, marks: usize) {
        self.owed += which.len() * marks;
        for connection in &mut self.connections[which] {
            connection.expect(marks);
        }
    }

    /// Waits until something can be read, and reads. Calls `settled` with each connection that owes
    /// nothing any more.
    pub(crate) fn turn(
        &mut self,
        mut settled: impl FnMut(&mut Swarm, usize) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut ready = std::mem::take(&mut self.ready);
        let patience = EpollTimeout::from(PATIENCE_SECONDS * 1000 / 2);
        let count = self.epoll.wait(&mut ready, patience)?;
        if count == 0 {
            return Err(io::Error::other("the server says nothing any more"));
        }
        for event in &ready[..count] {
            let at = usize::try_from(event.data()).map_err(io::Error::other)?;
            if event.events().contains(EpollFlags::EPOLLOUT) && self.connections[at].send_rest()? {
                self.watch(at, EpollFlags::EPOLLIN)?;
            }
            if event.events() == EpollFlags::EPOLLOUT {
                continue;
            }
            self.owed -= self.connections[at].read(&mut self.buffer)?;
            if self.connections[at].owed == 0 {
                settled(self, at)?;
            }
        }
        self.ready = ready;
        Ok(())
    }

    /// Reads until nothing is owed.
    pub(crate) fn settle(&mut self) -> io::Result<()> {
        while self.owed > 0 {
            self.turn(|_, _| Ok(()))?;
        }
        Ok(())
    }

    fn watch(&self, at: usize, flags: EpollFlags) -> io::Result<()> {
        let mut interest = EpollEvent::new(flags, at as u64);
        Ok(self
            .epoll
            .modify(&self.connections[at].socket, &mut interest)?)
    }

    /// Each connection sends a batch, and another when all of it is answered, until there is none left
    /// and all is answered. How many batches were sent.
    pub(crate) fn send_all<'a>(
        &mut self,
        batches: impl IntoIterator<Item = Cow<'a, Request>>,
    ) -> io::Result<usize> {
        let mut batches = batches.into_iter();
        let mut sent = 0;
        for at in 0..self.connections.len() {
            if let Some(batch) = batches.next() {
                self.send(at, &batch)?;
                sent += 1;
            }
        }
        while self.owed > 0 {
            self.turn(|swarm, at| {
                if let Some(batch) = batches.next() {
                    swarm.send(at, &batch)?;
                    sent += 1;
                }
                Ok(())
            })?;
        }
        Ok(sent)
    }

    /// Sends these batches again and again for as long as is said. How many were sent.
    pub(crate) fn keep_busy(&mut self, batches: &[Request], time: Duration) -> io::Result<usize> {
        let end = Instant::now() + time;
        let again = batches.iter().cycle().map(Cow::Borrowed);
        self.send_all(again.take_while(|_| Instant::now() < end))
    }
}
