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
//! told to change its mind without another descriptor. Both wake up when something arrives, and the
//! flusher leaves it to the reader: if it was quicker, the reader's poll would find nothing and go on,
//! though what its thread waits for has come. The reader may have left by then; so the flusher looks
//! for both directions, and reads where there is no reader.
//!
//! A role is taken and given back under the lock, and everyone is woken when it is given back. So
//! there is no moment at which somebody waits, nobody polls, and nobody is about to.
//!
//! What is to be remembered of requests, answers and subscriptions stands in the
//! [exchange](super::exchange), which does no input or output; here it is kept under the lock.
//!
//! **Someone else's loop.** [`Connection::step`] does what a thread with a role does, but for the
//! waiting: that is left to a program that waits for other things as well.
//!
//! Left out: reconnecting. A lost connection means lost `session` entries, missed events and
//! requests of unknown fate; only the caller knows what to do about each.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::error::End;
use super::exchange::{Exchange, RequestId};
use super::response::{Answered, Response};
use super::{Error, Event};
use crate::wire::{Op, Subscribe};

/// How much is read at once.
const READ_BYTES: usize = 32 << 10;

/// How often a step reads, so that it ends where a peer writes as fast as it is read.
const READS_MAX: usize = 32;

/// A stream socket that does not block.
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// A connection to a daemon, shared by threads.
pub(super) struct Connection {
    stream: Stream,
    state: Mutex<State>,
    /// Signalled when something has arrived, and when a role is free.
    changed: Condvar,
    reply_timeout: Option<Duration>,
}

struct State {
    exchange: Exchange,
    /// What is read goes through here.
    buffer: Box<[u8]>,
    has_reader: bool,
    has_flusher: bool,
    /// Whether something has arrived since the last step.
    has_news: bool,
}

/// What a step has found. See [`Client::step`](super::Client::step).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Step {
    /// Whether something has arrived since the last step, by whatever call it was read, or the
    /// connection has ended since: an answer or an event is there to be taken, so this is no moment to
    /// wait.
    pub has_news: bool,
    /// Whether requests wait for the socket to take them: wait for room to write as well.
    pub wants_room: bool,
    /// Whether the connection has ended. What arrived before can still be taken.
    pub has_ended: bool,
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
                exchange: Exchange::new(),
                buffer: vec![0; READ_BYTES].into_boxed_slice(),
                has_reader: false,
                has_flusher: false,
                has_news: false,
            }),
            changed: Condvar::new(),
            reply_timeout,
        })
    }

    /// Sends a request as far as the socket takes it, first waiting for room in the buffer.
    pub(super) fn submit(&self, op: Op<'_>) -> Result<RequestId, Error> {
        let mut state = self.room()?;
        let id = state.exchange.request(op);
        state.flush(&self.stream);
        Ok(id)
    }

    /// Waits for the answer to a request, which can be had once.
    pub(super) fn answer(
        &self,
        id: RequestId,
        timeout: Option<Duration>,
    ) -> Result<Answered, Error> {
        let taken = self.wait(self.lock(), deadline(timeout), |state| {
            state.exchange.take_answer(id)
        });
        match taken {
            Ok((_, answer)) => Ok(answer),
            Err(Error::Timeout) => self.lock().exchange.abandon(id).ok_or(Error::Timeout),
            Err(end) => Err(Error::Unanswered(Box::new(end))),
        }
    }

    /// Declares that nobody will take the answer to a request.
    pub(super) fn abandon(&self, id: RequestId) {
        drop(self.lock().exchange.abandon(id));
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
        let id = state.exchange.subscribe(subscribe);
        state.flush(&self.stream);
        drop(state);
        let answer = self.answer(id, self.reply_timeout);
        match answer {
            Ok(Ok(response)) => Ok((id, response)),
            Ok(Err(failure)) => {
                self.lock().exchange.forget_subscription(id);
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
        if state.exchange.unsubscribe(id) {
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
        let taken = self.wait(self.lock(), deadline, |state| state.exchange.take_event(id));
        taken.map(|(_, event)| event)
    }

    /// Looks, without waiting, whether the connection has ended. Serves everyone like any wait.
    pub(super) fn has_ended(&self) -> bool {
        let looked = self.wait(self.lock(), Some(Instant::now()), |_| None::<()>);
        drop(looked);
        self.lock().exchange.ended().is_some()
    }

    /// Writes and reads what can be without waiting.
    pub(super) fn step(&self) -> Step {
        let mut state = self.lock();
        state.flush(&self.stream);
        for _ in 0..READS_MAX {
            if state.has_reader || !state.receive(&self.stream) {
                break;
            }
        }
        // Others may have waited for just that.
        self.changed.notify_all();
        Step {
            has_news: std::mem::take(&mut state.has_news),
            wants_room: !state.exchange.outgoing().is_empty(),
            has_ended: state.exchange.read_end().is_some(),
        }
    }

    /// The answer to a request, where it is there or can be read at once.
    pub(super) fn try_answer(&self, id: RequestId) -> Result<Option<Answered>, Error> {
        match self.wait(self.lock(), Some(Instant::now()), |state| {
            state.exchange.take_answer(id)
        }) {
            Ok((_, answer)) => Ok(Some(answer)),
            Err(Error::Timeout) => Ok(None),
            Err(end) => Err(Error::Unanswered(Box::new(end))),
        }
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Waits until the connection has ended, with a `patience` no longer than that, and tells whether it
    /// has. With a `silence`, a peer is asked for a sign of life that often, and one that gives none has
    /// the connection ended.
    pub(super) fn wait_for_end(
        &self,
        silence: Option<Duration>,
        patience: Option<Duration>,
    ) -> bool {
        let end = deadline(patience);
        loop {
            let next = deadline(silence).into_iter().chain(end).min();
            match self.wait(self.lock(), next, |_| None::<()>) {
                Err(Error::Timeout) => {}
                _ => return true,
            }
            if end.is_some_and(|end| end <= Instant::now()) {
                return false;
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
        state.exchange.end(End::Closed);
        state.has_news = true;
        // Wakes the reader, which sees an end of input.
        self.stream.shutdown();
        self.changed.notify_all();
    }

    /// Waits until there is room for a request.
    fn room(&self) -> Result<MutexGuard<'_, State>, Error> {
        let deadline = deadline(self.reply_timeout);
        let (state, ()) = self.wait(self.lock(), deadline, |state| {
            let exchange = &state.exchange;
            (exchange.has_room() || exchange.ended().is_some()).then_some(())
        })?;
        match state.exchange.ended() {
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
            if let Some(end) = state.exchange.read_end() {
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
            state.exchange.end(End::of(&error));
            state.has_news = true;
        }
        if state.has_reader {
            // Not to be read under a poll of somebody else's, which would go on waiting.
            self.changed.notify_all();
            drop(state);
            std::thread::yield_now();
            return self.lock();
        }
        state.receive(&self.stream);
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
        let has_unwritten = !self.exchange.outgoing().is_empty();
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

    /// Writes what the socket takes without blocking.
    fn flush(&mut self, stream: &Stream) {
        while !self.exchange.outgoing().is_empty() {
            match stream.write(self.exchange.outgoing()) {
                Ok(bytes) => self.exchange.written(bytes),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => self.exchange.end_writing(End::of(&error)),
            }
        }
    }

    /// Reads once, and hands on the lines that are whole. Returns whether there may be more.
    fn receive(&mut self, stream: &Stream) -> bool {
        if self.exchange.read_end().is_some() {
            return false;
        }
        let has_news = &mut self.has_news;
        match stream.read(&mut self.buffer) {
            Ok(0) => self.exchange.end(End::Closed),
            Ok(bytes) => {
                let received = &self.buffer[..bytes];
                self.exchange.receive(received, |_| *has_news = true);
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => return false,
                io::ErrorKind::Interrupted => return true,
                _ => self.exchange.end(End::of(&error)),
            },
        }
        let end = self.exchange.read_end();
        self.has_news |= end.is_some();
        if matches!(end, Some(End::Protocol(_))) {
            stream.shutdown();
        }
        end.is_none()
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
