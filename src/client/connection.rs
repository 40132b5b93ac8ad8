//! One socket shared by any number of threads, without a thread of its own.
//!
//! **Who reads.** A thread that waits for something (an answer, an event) and finds nobody at the
//! socket becomes the *reader*: it polls, reads what there is, hands every line to whom it belongs
//! and wakes the others, who sleep on a condition variable. When it has what it came for it leaves,
//! and one of those it woke takes over. So a thread may sit in a subscription's `next` while others
//! put and get, and no thread is needed when nobody waits.
//!
//! **Who writes.** Requests are appended to one buffer under the lock, whole, so lines never mix, and
//! written at once as far as the socket takes them. The socket doesn't block. This matters because the
//! daemon stops reading from a client that does not read its answers: a client that blocked in a write
//! would wait for a daemon that waits for it. A thread that finds bytes which did not fit becomes the
//! *flusher* (there is at most one): it polls for both directions, and so reads while it can't write.
//! It does that even while there is a reader, for the reader polls for one direction only and can't be
//! told to change its mind without another descriptor. Both wake up when something arrives; the first
//! one at the lock reads it, the second finds nothing, which does no harm.
//!
//! A role is taken and given back under the lock, and everyone is woken when it is given back. So
//! there is no moment at which somebody waits, nobody polls, and nobody is about to.
//!
//! **What is bounded.** No request is accepted while more than [`OUTGOING_BYTES_MAX`] wait to be
//! written, a line from the peer has at most [`LINE_BYTES_MAX`], and an
//! [inbox](super::inbox::Inbox) bounds itself. Answers wait for the handles that stand for them, of
//! which the caller has as many as it likes.
//!
//! **How it ends.** The daemon answers in order, so an answer belongs to the oldest request that has
//! none, and one with another id means that the two sides don't agree any more: the connection ends. A
//! failed write doesn't end it at once, for the reason may be waiting to be read.
//!
//! Left out: reconnecting. A lost connection means lost `session` entries, missed events and
//! requests of unknown fate; only the caller knows what to do about each.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::inbox::Inbox;
use super::response::Response;
use super::{Error, Event, Value};
use crate::key::Key;
use crate::wire::{Failure, Happening, Id, Incoming, Op, Request, Subscribe};

/// No request is accepted while so many bytes wait to be written.
const OUTGOING_BYTES_MAX: usize = 64 << 10;

/// The longest line that is taken from a peer. Far above what a daemon with sensible limits sends.
const LINE_BYTES_MAX: usize = 256 << 20;

/// How much is read at once.
const READ_BYTES: usize = 32 << 10;

/// A stream socket that does not block.
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// What a request's answer is waited for by: its place in the order of requests.
pub(super) type RequestId = u64;

/// A connection to a daemon, shared by threads.
pub(super) struct Connection {
    stream: Stream,
    state: Mutex<State>,
    /// Signalled when something has arrived, and when a role is free.
    changed: Condvar,
    reply_timeout: Option<Duration>,
}

struct State {
    /// Requests not yet written, from `outgoing_start`.
    outgoing: Vec<u8>,
    outgoing_start: usize,
    /// The beginning of a line whose end has not come.
    incoming: Vec<u8>,
    /// Requests in the order in which they were sent, until they are answered.
    unanswered: VecDeque<Unanswered>,
    /// Answers that nobody has taken yet.
    answers: HashMap<RequestId, Result<Response, Failure>>,
    inboxes: HashMap<RequestId, Inbox>,
    next_id: RequestId,
    has_reader: bool,
    has_flusher: bool,
    /// Set once, when nothing more can be read.
    end: Option<End>,
    /// Set once, when nothing more can be written.
    write_end: Option<End>,
}

struct Unanswered {
    id: RequestId,
    /// Whether somebody will take the answer.
    is_wanted: bool,
    /// Whether the answer has fields of its own, so that the whole line is needed.
    keeps_line: bool,
}

/// Why a direction of the connection is of no more use.
#[derive(Clone)]
enum End {
    Closed,
    Failed(io::ErrorKind, String),
    Protocol(String),
}

/// Somebody else is waited for, or the socket.
#[derive(Clone, Copy)]
enum Role {
    Reader,
    Flusher,
    Sleeper,
}

impl Connection {
    pub(super) fn new(stream: Stream, reply_timeout: Option<Duration>) -> io::Result<Connection> {
        stream.set_nonblocking()?;
        Ok(Connection {
            stream,
            state: Mutex::new(State {
                outgoing: Vec::new(),
                outgoing_start: 0,
                incoming: Vec::new(),
                unanswered: VecDeque::new(),
                answers: HashMap::new(),
                inboxes: HashMap::new(),
                next_id: 1,
                has_reader: false,
                has_flusher: false,
                end: None,
                write_end: None,
            }),
            changed: Condvar::new(),
            reply_timeout,
        })
    }

    /// Sends a request as far as the socket takes it, first waiting for room in the buffer.
    pub(super) fn submit(&self, op: Op<'_>) -> Result<RequestId, Error> {
        let mut state = self.room()?;
        let id = state.enqueue(op, true);
        state.flush(&self.stream);
        Ok(id)
    }

    /// Waits for the answer to a request, which can be had once.
    pub(super) fn answer(
        &self,
        id: RequestId,
        timeout: Option<Duration>,
    ) -> Result<Result<Response, Failure>, Error> {
        let taken = self.wait(self.lock(), deadline(timeout), |state| {
            state.answers.remove(&id)
        });
        match taken {
            Ok((_, answer)) => Ok(answer),
            Err(Error::Timeout) => self.lock().abandon(id).ok_or(Error::Timeout),
            Err(end) => Err(Error::Unanswered(Box::new(end))),
        }
    }

    /// Declares that nobody will take the answer to a request.
    pub(super) fn abandon(&self, id: RequestId) {
        drop(self.lock().abandon(id));
    }

    pub(super) fn reply_timeout(&self) -> Option<Duration> {
        self.reply_timeout
    }

    /// Begins a subscription and waits for its confirmation.
    pub(super) fn subscribe(
        &self,
        subscribe: Subscribe<'_>,
    ) -> Result<(RequestId, Response), Error> {
        let mut state = self.room()?;
        // Before the request leaves, so that there is a place for the first event.
        let id = state.next_id;
        state.inboxes.insert(id, Inbox::new());
        state.enqueue(Op::Subscribe(subscribe), true);
        state.flush(&self.stream);
        drop(state);
        let answer = self.answer(id, self.reply_timeout);
        match answer {
            Ok(Ok(response)) => Ok((id, response)),
            Ok(Err(failure)) => {
                self.lock().inboxes.remove(&id);
                Err(Error::Server(failure))
            }
            Err(error) => {
                // It may come to life yet.
                self.unsubscribe(id);
                Err(error)
            }
        }
    }

    /// Ends a subscription without waiting: nothing more of it is handed out. Whoever waits for its
    /// next event is told that there is none. Does nothing where it has ended already.
    pub(super) fn unsubscribe(&self, id: RequestId) {
        let mut state = self.lock();
        if state.inboxes.remove(&id).is_some() && state.ended().is_none() {
            state.enqueue(Op::Unsubscribe { sub: Id::from(id) }, false);
            state.flush(&self.stream);
        }
        self.changed.notify_all();
    }

    /// Waits for the next event of a subscription; `None` where the subscription has been ended.
    pub(super) fn event(
        &self,
        id: RequestId,
        deadline: Option<Instant>,
    ) -> Result<Option<Event>, Error> {
        let taken = self.wait(self.lock(), deadline, |state| {
            match state.inboxes.get_mut(&id) {
                Some(inbox) => inbox.pop().map(Some),
                None => Some(None),
            }
        });
        taken.map(|(_, event)| event)
    }

    /// Looks, without waiting, whether the connection has ended. Serves everyone like any wait.
    pub(super) fn has_ended(&self) -> bool {
        let looked = self.wait(self.lock(), Some(Instant::now()), |_| None::<()>);
        drop(looked);
        self.lock().ended().is_some()
    }

    /// Waits until the connection has ended. With a `silence`, a peer is asked for a sign of life that
    /// often, and one that gives none has the connection ended.
    pub(super) fn wait_for_end(&self, silence: Option<Duration>) {
        loop {
            match self.wait(self.lock(), deadline(silence), |_| None::<()>) {
                Err(Error::Timeout) => {}
                _ => return,
            }
            let answered = self
                .submit(Op::Ping)
                .and_then(|id| self.answer(id, self.reply_timeout));
            if answered.is_err() {
                self.close();
            }
        }
    }

    /// Ends the connection for everyone who shares it.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.end.get_or_insert(End::Closed);
        // Wakes the reader, which sees an end of input.
        self.stream.shutdown();
        self.changed.notify_all();
    }

    /// Waits until there is room for a request.
    fn room(&self) -> Result<MutexGuard<'_, State>, Error> {
        let deadline = deadline(self.reply_timeout);
        let (state, ()) = self.wait(self.lock(), deadline, |state| {
            let has_room = state.outgoing.len() - state.outgoing_start <= OUTGOING_BYTES_MAX;
            (has_room || state.write_end.is_some()).then_some(())
        })?;
        match state.ended() {
            Some(end) => Err(end.error()),
            None => Ok(state),
        }
    }

    /// Waits until `ready` finds what it looks for, serving everyone meanwhile.
    ///
    /// With a deadline that has passed, what can be read at once is looked at all the same.
    fn wait<'a, T>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        deadline: Option<Instant>,
        mut ready: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<(MutexGuard<'a, State>, T), Error> {
        let mut is_last_look = false;
        loop {
            state.flush(&self.stream);
            if let Some(found) = ready(&mut state) {
                return Ok((state, found));
            }
            if let Some(end) = &state.end {
                return Err(end.error());
            }
            if is_last_look {
                return Err(Error::Timeout);
            }
            let patience = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            is_last_look = patience == Some(Duration::ZERO);
            state = self.round(state, patience);
        }
    }

    /// Gives up the lock until something may have changed.
    fn round<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        patience: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        let role = state.take_role();
        let events = match role {
            Role::Reader => PollFlags::IN,
            Role::Flusher => PollFlags::IN | PollFlags::OUT,
            Role::Sleeper => {
                return match patience {
                    Some(patience) => {
                        let woken = self.changed.wait_timeout(state, patience);
                        woken.unwrap_or_else(PoisonError::into_inner).0
                    }
                    None => self
                        .changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner),
                };
            }
        };
        drop(state);
        let polled = poll_once(self.stream.as_fd(), events, patience);
        let mut state = self.lock();
        state.give_back(role);
        if let Err(error) = polled {
            state.end.get_or_insert(End::of(&error));
        }
        if state.end.is_none() {
            state.receive(&self.stream);
        }
        if matches!(state.end, Some(End::Protocol(_))) {
            self.stream.shutdown();
        }
        self.changed.notify_all();
        state
    }

    /// A panic elsewhere leaves the state whole: nothing under the lock can panic halfway.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take_role(&mut self) -> Role {
        let has_unwritten = self.outgoing_start < self.outgoing.len();
        if has_unwritten && !self.has_flusher {
            self.has_flusher = true;
            Role::Flusher
        } else if !self.has_reader {
            self.has_reader = true;
            Role::Reader
        } else {
            Role::Sleeper
        }
    }

    fn give_back(&mut self, role: Role) {
        match role {
            Role::Reader => self.has_reader = false,
            Role::Flusher => self.has_flusher = false,
            Role::Sleeper => {}
        }
    }

    fn ended(&self) -> Option<&End> {
        self.end.as_ref().or(self.write_end.as_ref())
    }

    /// Appends a request to what is to be written.
    fn enqueue(&mut self, op: Op<'_>, is_wanted: bool) -> RequestId {
        let id = self.next_id;
        self.next_id += 1;
        let keeps_line = matches!(op, Op::Hello { .. } | Op::Stats | Op::Clients);
        Request {
            id: Some(Id::from(id)),
            op,
        }
        .write(&mut self.outgoing);
        self.unanswered.push_back(Unanswered {
            id,
            is_wanted,
            keeps_line,
        });
        id
    }

    /// The answer that nobody will wait for any more, where it is there already.
    fn abandon(&mut self, id: RequestId) -> Option<Result<Response, Failure>> {
        let answer = self.answers.remove(&id);
        if let Ok(position) = self
            .unanswered
            .binary_search_by_key(&id, |request| request.id)
        {
            self.unanswered[position].is_wanted = false;
        }
        answer
    }

    /// Writes what the socket takes without blocking.
    fn flush(&mut self, stream: &Stream) {
        while self.outgoing_start < self.outgoing.len() {
            match stream.write(&self.outgoing[self.outgoing_start..]) {
                Ok(bytes) => self.outgoing_start += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    self.write_end.get_or_insert(End::of(&error));
                    self.outgoing_start = self.outgoing.len();
                }
            }
        }
        if self.outgoing_start == self.outgoing.len() {
            self.outgoing.clear();
            self.outgoing.shrink_to(OUTGOING_BYTES_MAX);
            self.outgoing_start = 0;
        } else if self.outgoing_start > OUTGOING_BYTES_MAX {
            self.outgoing.drain(..self.outgoing_start);
            self.outgoing_start = 0;
        }
    }

    /// Reads once, and hands on the lines that are whole.
    fn receive(&mut self, stream: &Stream) {
        let scanned = self.incoming.len();
        self.incoming.resize(scanned + READ_BYTES, 0);
        let read = stream.read(&mut self.incoming[scanned..]);
        self.incoming
            .truncate(scanned + read.as_ref().map_or(0, |bytes| *bytes));
        match read {
            Ok(0) => self.end = Some(End::Closed),
            Ok(_) => {
                if let Err(what) = self.hand_out(scanned) {
                    self.end = Some(End::Protocol(what));
                }
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {}
                _ => self.end = Some(End::of(&error)),
            },
        }
    }

    /// Hands on whole lines. The first `scanned` bytes are known to hold no line end.
    fn hand_out(&mut self, scanned: usize) -> Result<(), String> {
        let mut incoming = std::mem::take(&mut self.incoming);
        let mut start = 0;
        let mut from = scanned;
        while let Some(length) = memchr::memchr(b'\n', &incoming[from..]) {
            let line = incoming[start..from + length].trim_ascii();
            if !line.is_empty() {
                let line = std::str::from_utf8(line).map_err(|_| "a line that is not UTF-8")?;
                self.deliver(line)?;
            }
            start = from + length + 1;
            from = start;
        }
        incoming.drain(..start);
        if incoming.is_empty() {
            incoming.shrink_to(2 * READ_BYTES);
        }
        self.incoming = incoming;
        if self.incoming.len() > LINE_BYTES_MAX {
            return Err(format!("a line of more than {LINE_BYTES_MAX} bytes"));
        }
        Ok(())
    }

    fn deliver(&mut self, line: &str) -> Result<(), String> {
        match Incoming::parse(line).map_err(|error| error.to_string())? {
            Incoming::Reply { id, result } => {
                let Some(request) = self.unanswered.pop_front() else {
                    return Err(match result {
                        Ok(_) => "an answer that nothing asked for".to_owned(),
                        Err(failure) => failure.to_string(),
                    });
                };
                // A line that was too long to be read is answered without its id.
                if id.is_some_and(|id| id.as_json() != request.id.to_string()) {
                    return Err("an answer to another request than the oldest".to_owned());
                }
                if request.is_wanted {
                    let answer = match result {
                        Ok(answer) => Ok(Response::received(*answer, request.keeps_line)?),
                        Err(failure) => Err(failure),
                    };
                    self.answers.insert(request.id, answer);
                }
                Ok(())
            }
            Incoming::Event { sub, rev, event } => {
                let id = sub.as_json().parse::<RequestId>().ok();
                // An event may be on its way while its subscription is being ended.
                if let Some(inbox) = id.and_then(|id| self.inboxes.get_mut(&id)) {
                    inbox.push(received_event(event, rev)?);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl End {
    fn of(error: &io::Error) -> End {
        End::Failed(error.kind(), error.to_string())
    }

    fn error(&self) -> Error {
        match self {
            End::Closed => Error::Closed,
            End::Failed(kind, message) => Error::Io(io::Error::new(*kind, message.clone())),
            End::Protocol(what) => Error::Protocol(what.clone()),
        }
    }
}

impl Stream {
    fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => stream.set_nonblocking(true),
            Stream::Tcp(stream) => {
                // Requests are small and each is waited for.
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)
            }
        }
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => (&*stream).read(buffer),
            Stream::Tcp(stream) => (&*stream).read(buffer),
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => (&*stream).write(bytes),
            Stream::Tcp(stream) => (&*stream).write(bytes),
        }
    }

    /// Fails only where the peer has been quicker.
    fn shutdown(&self) {
        drop(match self {
            Stream::Unix(stream) => stream.shutdown(Shutdown::Both),
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Both),
        });
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Unix(stream) => stream.as_fd(),
            Stream::Tcp(stream) => stream.as_fd(),
        }
    }
}

/// The moment at which a wait that begins now is over. A time too far off to be told is never.
pub(super) fn deadline(timeout: Option<Duration>) -> Option<Instant> {
    timeout.and_then(|timeout| Instant::now().checked_add(timeout))
}

/// Waits until the socket is ready, the patience is over, or a signal comes.
fn poll_once(fd: BorrowedFd<'_>, flags: PollFlags, patience: Option<Duration>) -> io::Result<()> {
    let timeout = patience.map(|patience| Timespec {
        tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: patience.subsec_nanos().into(),
    });
    match poll(&mut [PollFd::from_borrowed_fd(fd, flags)], timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn received_event(event: Happening<'_>, rev: u64) -> Result<Event, String> {
    let parsed = |key: &str| Key::new(key).map_err(|error| format!("a bad key: {error}"));
    Ok(match event {
        Happening::Put { key, payload } => Event::Put {
            key: parsed(&key)?,
            value: Value::received(payload),
            rev,
        },
        Happening::Delete { key } => Event::Delete {
            key: parsed(&key)?,
            rev,
        },
        Happening::Sync => Event::Sync { rev },
        Happening::Reset => Event::Reset { rev },
    })
}
