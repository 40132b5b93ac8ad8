//! One socket shared by any number of tasks, with a task of its own.
//!
//! **The driver** is that task. It owns the socket, writes what the [exchange](Exchange) has for it, and
//! hands what it reads to it. Nobody else does input or output, so several requests that are made in one
//! go leave in one write.
//!
//! **Everyone else** looks at the exchange under a lock that nobody holds across an await. A request goes
//! into the buffer or does not, at once; an answer is there or is waited for with a waker; an event is
//! taken together with the position that it moves. There is no moment between two of these steps at which
//! a future could be dropped and something be lost.
//!
//! **Backpressure.** A request waits while more than 64 KiB are unwritten. Whoever waits keeps the *gate*,
//! a fair lock, so those behind keep their order, and one task is woken for room instead of all.
//! An [inbox](crate::client::inbox) that nobody empties bounds itself, so the driver reads on, and a slow
//! subscriber delays nobody.
//!
//! **The end.** With the last handle the driver writes what the socket takes at once, and ends. When it
//! ends for whatever reason, the end of its runtime included, everyone who waits is told.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::task::unconstrained;
use tokio::time::timeout;

use crate::client::error::End;
use crate::client::exchange::{Exchange, RequestId};
use crate::client::response::{Answered, Response};
use crate::client::{Error, Event};
use crate::wire::{Op, Subscribe};

/// How much is read at once.
const READ_BYTES: usize = 32 << 10;

/// How often the driver reads before it looks whether there is something to write.
const READS_MAX: usize = 16;

pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// A connection to a daemon. It ends when this is dropped.
pub(super) struct Connection {
    core: Arc<Core>,
    reply_timeout: Option<Duration>,
}

/// What the driver and everyone else have in common.
struct Core {
    state: Mutex<State>,
    /// There is something to write, or an end to notice.
    work: Notify,
    /// There may be room for a request.
    room: Notify,
    /// Kept by whoever waits for room, so that there is one.
    gate: tokio::sync::Mutex<()>,
    /// The driver has ended.
    ended: Notify,
}

struct State {
    exchange: Exchange,
    /// Who waits for the answer to a request, or for the next event of a subscription.
    wakers: HashMap<RequestId, Waker>,
    /// Whether the last handle is gone.
    is_released: bool,
}

/// The answer to a request that has been made. Dropping it gives up the answer, not the request.
#[must_use = "the answer is given up where this is dropped"]
pub(super) struct Ticket<'c> {
    core: &'c Core,
    id: RequestId,
    is_over: bool,
}

/// A subscription that has been asked for. Dropping it ends the subscription.
struct Begun<'c> {
    connection: &'c Connection,
    id: RequestId,
    is_kept: bool,
}

impl Connection {
    /// Takes a socket over. Must be called within a runtime.
    pub(super) fn new(stream: Stream, reply_timeout: Option<Duration>) -> Connection {
        let core = Arc::new(Core {
            state: Mutex::new(State {
                exchange: Exchange::new(),
                wakers: HashMap::new(),
                is_released: false,
            }),
            work: Notify::new(),
            room: Notify::new(),
            gate: tokio::sync::Mutex::new(()),
            ended: Notify::new(),
        });
        tokio::spawn(drive(stream, Driven(Arc::clone(&core))));
        Connection {
            core,
            reply_timeout,
        }
    }

    /// Makes a request and waits for its answer.
    pub(super) async fn call(&self, op: Op<'static>) -> Result<Answered, Error> {
        let ticket = self.submit(|exchange| exchange.request(op)).await?;
        self.answer(ticket).await
    }

    /// Makes a request as soon as there is room for it. Where this is dropped before, there is none.
    pub(super) async fn submit(
        &self,
        request: impl FnOnce(&mut Exchange) -> RequestId,
    ) -> Result<Ticket<'_>, Error> {
        match self.reply_timeout {
            Some(patience) => match timeout(patience, self.submitted(request)).await {
                Ok(submitted) => submitted,
                Err(_) => Err(Error::Timeout),
            },
            None => self.submitted(request).await,
        }
    }

    async fn submitted(
        &self,
        request: impl FnOnce(&mut Exchange) -> RequestId,
    ) -> Result<Ticket<'_>, Error> {
        let core = &*self.core;
        let _gate = match core.gate.try_lock() {
            Ok(gate) => gate,
            // A task that has done much for now would else be sent away before it is in the queue.
            Err(_) => unconstrained(core.gate.lock()).await,
        };
        loop {
            {
                let mut state = core.lock();
                if let Some(end) = state.exchange.ended() {
                    return Err(end.error());
                }
                if state.exchange.has_room() {
                    let id = request(&mut state.exchange);
                    core.work.notify_one();
                    return Ok(Ticket {
                        core,
                        id,
                        is_over: false,
                    });
                }
            }
            core.room.notified().await;
        }
    }

    /// Waits for the answer to a request.
    pub(super) async fn answer(&self, ticket: Ticket<'_>) -> Result<Answered, Error> {
        match self.reply_timeout {
            Some(patience) => match timeout(patience, ticket).await {
                Ok(answered) => answered,
                Err(_) => Err(Error::Timeout),
            },
            None => ticket.await,
        }
    }

    /// Makes a request at once whose answer nobody waits for.
    pub(super) fn tell(&self, op: Op<'_>) {
        let mut state = self.core.lock();
        if state.exchange.ended().is_none() {
            let id = state.exchange.request(op);
            state.exchange.abandon(id);
            self.core.work.notify_one();
        }
    }

    /// Begins a subscription and waits for its confirmation. Where this is dropped before, it is ended.
    pub(super) async fn subscribe(
        &self,
        subscribe: Subscribe<'static>,
    ) -> Result<(RequestId, Response), Error> {
        let ticket = self
            .submit(|exchange| exchange.subscribe(subscribe))
            .await?;
        let mut begun = Begun {
            connection: self,
            id: ticket.id,
            is_kept: false,
        };
        match self.answer(ticket).await? {
            Ok(response) => {
                begun.is_kept = true;
                Ok((begun.id, response))
            }
            Err(failure) => {
                begun.is_kept = true;
                self.core.lock().exchange.forget_subscription(begun.id);
                Err(Error::Server(failure))
            }
        }
    }

    /// Ends a subscription at once: whoever waits for its next event is told that there is none.
    pub(super) fn unsubscribe(&self, id: RequestId) {
        let mut state = self.core.lock();
        let waker = state.wakers.remove(&id);
        if state.exchange.unsubscribe(id) {
            self.core.work.notify_one();
        }
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }

    /// The next event of a subscription; `None` where the subscription has been ended.
    pub(super) fn poll_event(
        &self,
        id: RequestId,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Event>, Error>> {
        let mut state = self.core.lock();
        if let Some(event) = state.exchange.take_event(id) {
            return Poll::Ready(Ok(event));
        }
        if let Some(end) = state.exchange.read_end() {
            return Poll::Ready(Err(end.error()));
        }
        let former = state.wakers.insert(id, context.waker().clone());
        drop(state);
        drop(former);
        Poll::Pending
    }

    pub(super) fn has_ended(&self) -> bool {
        self.core.lock().exchange.ended().is_some()
    }

    /// Waits until the connection has ended.
    pub(super) async fn wait_for_end(&self) {
        let mut ended = pin!(self.core.ended.notified());
        ended.as_mut().enable();
        if !self.has_ended() {
            ended.await;
        }
    }

    /// Ends the connection for everyone who shares it.
    pub(super) fn close(&self) {
        self.core.end(End::Closed);
        self.core.work.notify_one();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.core.lock().is_released = true;
        self.core.work.notify_one();
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if !self.is_kept {
            self.connection.unsubscribe(self.id);
        }
    }
}

impl Future for Ticket<'_> {
    type Output = Result<Answered, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let mut state = this.core.lock();
        let outcome = if let Some(answer) = state.exchange.take_answer(this.id) {
            Ok(answer)
        } else if let Some(end) = state.exchange.read_end() {
            Err(Error::Unanswered(Box::new(end.error())))
        } else {
            let former = state.wakers.insert(this.id, context.waker().clone());
            drop(state);
            drop(former);
            return Poll::Pending;
        };
        this.is_over = true;
        Poll::Ready(outcome)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            let mut state = self.core.lock();
            let answer = state.exchange.abandon(self.id);
            let waker = state.wakers.remove(&self.id);
            drop(state);
            drop((answer, waker));
        }
    }
}

/// The driver's hold on what it drives. However the driver ends, everyone is told.
struct Driven(Arc<Core>);

impl Drop for Driven {
    fn drop(&mut self) {
        self.0.end(End::Closed);
        self.0.ended.notify_waiters();
    }
}

async fn drive(stream: Stream, driven: Driven) {
    let core = &*driven.0;
    let mut buffer = vec![0; READ_BYTES].into_boxed_slice();
    loop {
        let Some(wants_room) = core.write(&stream) else {
            return;
        };
        core.ready(&stream, wants_room).await;
        for _ in 0..READS_MAX {
            if !core.read(&stream, &mut buffer) {
                break;
            }
        }
    }
}

impl Core {
    /// Writes what the socket takes. Returns whether there is more; nothing where the driver is to end.
    fn write(&self, stream: &Stream) -> Option<bool> {
        let mut state = self.lock();
        let exchange = &mut state.exchange;
        while !exchange.outgoing().is_empty() {
            match stream.try_write(exchange.outgoing()) {
                Ok(bytes) => exchange.written(bytes),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => exchange.end_writing(End::of(&error)),
            }
        }
        if exchange.has_room() {
            self.room.notify_one();
        }
        let is_over = state.is_released || state.exchange.read_end().is_some();
        (!is_over).then(|| !state.exchange.outgoing().is_empty())
    }

    /// Waits until there is something to do.
    async fn ready(&self, stream: &Stream, wants_room: bool) {
        let mut work = pin!(self.work.notified());
        poll_fn(|context| {
            // An error of these shows when the socket is used.
            let is_ready = work.as_mut().poll(context).is_ready()
                || stream.poll_readable(context).is_ready()
                || wants_room && stream.poll_writable(context).is_ready();
            if is_ready {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    /// Reads once, and wakes those whose answers and events have come. Returns whether there may be more.
    fn read(&self, stream: &Stream, buffer: &mut [u8]) -> bool {
        let read = stream.try_read(buffer);
        let end = match &read {
            Ok(0) => Some(End::Closed),
            Ok(_) => None,
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => return false,
                io::ErrorKind::Interrupted => return true,
                _ => Some(End::of(error)),
            },
        };
        if let Some(end) = end {
            self.end(end);
            return false;
        }
        let mut woken = Vec::new();
        let mut state = self.lock();
        let State {
            exchange, wakers, ..
        } = &mut *state;
        let received = &buffer[..read.unwrap_or(0)];
        exchange.receive(received, |id| woken.extend(wakers.remove(&id)));
        // The end of the driver wakes the others.
        let has_ended = exchange.read_end().is_some();
        drop(state);
        woken.into_iter().for_each(Waker::wake);
        !has_ended
    }

    /// Nothing more will come: wakes everyone.
    fn end(&self, end: End) {
        let mut state = self.lock();
        state.exchange.end(end);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_values().for_each(Waker::wake);
        self.room.notify_one();
    }

    /// A panic elsewhere leaves the state whole: nothing under the lock can panic halfway.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stream {
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.try_read(buffer),
            Stream::Tcp(stream) => stream.try_read(buffer),
        }
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.try_write(bytes),
            Stream::Tcp(stream) => stream.try_write(bytes),
        }
    }

    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Unix(stream) => stream.poll_read_ready(context),
            Stream::Tcp(stream) => stream.poll_read_ready(context),
        }
    }

    fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Unix(stream) => stream.poll_write_ready(context),
            Stream::Tcp(stream) => stream.poll_write_ready(context),
        }
    }
}
