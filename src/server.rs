//! The event loop: the only room that knows sockets, the clock, and mio.
//!
//! One thread, and turns of five phases in a fixed order:
//!
//! 1. **wait** until a socket is ready or a deadline comes,
//! 2. **read** what has come in, each connection its share,
//! 3. **decide**: the broker lets entries end whose time has come, and carries out the requests (while
//!    reading: a request needs nothing from other connections' input),
//!    Where there is something to commit, 1 to 3 are gone through again for those who have come in
//!    meanwhile, so that they share the commit,
//! 4. **commit**: what the turn has changed is made as safe as was promised; where storage does not
//!    take it, the broker carries the turn out again without it,
//! 5. **deliver**: responses, then events, into each socket until it is full or its share is used.
//!    After that storage has its own share of the turn.
//!
//! mio's readiness is edge-triggered: the kernel says once that a socket has become ready. So each
//! connection remembers whether it is readable and writable until a call says that it would block,
//! and a list of **active** connections holds those that can go on without hearing from the kernel.
//! While that list, or the broker's list of sessions with output, is not empty, the next wait does
//! not block. When both are empty nothing happens at all, for as long as nothing happens outside.
//!
//! Room to write is asked for only while there is none: otherwise each response that a client reads
//! would wake the loop to say that there is room, which it knew.
//!
//! A peer that has gone for good can't be told anything, but what it sent is carried out all the
//! same: its responses are thrown away as they are made.

mod handle;
mod listen;
mod report;
mod rules;

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use mio::{Events, Interest, Poll, Registry, Token};
use nix::time::{ClockId, clock_gettime};

use crate::access::Rules;
use crate::address::Address;
use crate::broker::{self, Broker, Share};
use crate::journal::{self, Journals, Memory, Storage, Wake};
use crate::keyspace::{Keyspace, Time};
use crate::session::Peer;
use crate::systemd::{PassedSocket, Supervisor};
use crate::wire::Limits;

use handle::Control;
use listen::{FileTerms, Listener, Stream};
use report::Report;

pub use handle::{Flags, Handle};
pub use listen::BindError;
pub use rules::{AccessError, read_rules};

/// How much is read from one connection a turn.
const READ_BYTES: usize = 32 << 10;
/// A turn takes no more requests when they have changed so much: a commit is one write, and what may
/// have to be undone is kept until then.
const TURN_BYTES_MAX: u64 = 4 << 20;
/// When so much of a turn is over, reading or writing, no user is given anything for another connection
/// of its own: those wait for the next turn. What others ask for meanwhile has to wait for about twice as
/// much. A turn may also read for as long as its predecessor took to commit, so that a slow disk is used
/// by as many as can be, up to a bound.
const TURN_TIME: Duration = Duration::from_micros(500);
const TURN_TIME_MAX: Duration = Duration::from_millis(10);
/// The clock is read once for so many connections that take little time.
const LITTLE_ONES: u32 = 8;
/// How many connections are accepted from one listening socket a turn.
const ACCEPTS_PER_TURN: usize = 64;
/// How long accepting pauses when descriptors or memory have run out, unless a connection ends.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// How long a clean stop waits for clients to read the responses that they are owed.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// How often a turn is carried out again at most: once for each place where entries are kept.
const COMMIT_TRIES: u32 = 2;

const CONTROL: Token = Token(usize::MAX - 1);
const LISTENERS: usize = usize::MAX / 2;

/// What a server is to be. [`Options::default`] listens nowhere and is reached by
/// [`Handle::connect`] alone.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Where it listens.
    pub addresses: Vec<Address>,
    /// Sockets that are open already, on which it listens too. They stay where they are when it stops.
    pub passed_sockets: Vec<PassedSocket>,
    /// The service manager that is to hear how the server is. Nothing is said where there is none.
    pub supervisor: Option<Supervisor>,
    /// The limits that it imposes.
    pub limits: Limits,
    /// A file with the token that TCP peers must know. Without one, TCP is served on loopback
    /// addresses only.
    pub token_file: Option<PathBuf>,
    /// A file with the rules who may do what. Without one, whoever is connected may do everything.
    pub access: Option<PathBuf>,
    /// The mode of Unix sockets.
    pub socket_mode: u32,
    /// The group of Unix sockets, by name; the process's where there is none.
    pub socket_group: Option<String>,
    /// The kernel's send buffer for each connection, in bytes; the system's default where there is
    /// none. It bounds how stale the events are that a slow subscriber reads first.
    pub send_buffer: Option<usize>,
    /// Stop cleanly after so long without a client.
    pub idle_exit: Option<Duration>,
    /// Where the keyspace is kept. Nothing outlives the server where this says nothing.
    pub journals: Option<journal::Options>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            addresses: Vec::new(),
            passed_sockets: Vec::new(),
            supervisor: None,
            limits: Limits::default(),
            token_file: None,
            access: None,
            socket_mode: 0o660,
            socket_group: None,
            send_buffer: Some(SEND_BUFFER_BYTES),
            idle_exit: None,
            journals: None,
        }
    }
}

/// The default of [`Options::send_buffer`]. `docs/design-decisions.md` has the measurements.
pub const SEND_BUFFER_BYTES: usize = 32 << 10;

/// A server that listens and does not run yet: [`Server::run`] or [`Server::spawn`] is next.
#[derive(Debug)]
pub struct Server {
    poll: Poll,
    control: Control,
    listeners: Vec<Listener>,
    connections: Vec<Option<Connection>>,
    /// Connections that may have input to be read or carried out without an event of the kernel.
    active: Vec<usize>,
    /// The number of this turn.
    turn: u64,
    phase: Phase,
    /// How long the last commit took.
    commit_time: Duration,
    /// Connections that are being delivered to; empty between turns.
    due: Vec<usize>,
    /// Those whose users have had their share of the turn; empty between turns.
    waiting: Vec<usize>,
    broker: Broker,
    storage: Box<dyn Storage>,
    options: Options,
    /// Until when accepting pauses, because the system had no descriptor or memory for it.
    accept_pause: Option<Instant>,
    /// Since when there has been no client.
    idle_since: Option<Instant>,
    report: Report,
    buffer: Box<[u8]>,
    now: Time,
}

/// A server that runs on a thread of its own. Dropping it leaves the server running.
#[derive(Debug)]
pub struct Running {
    handle: Handle,
    thread: JoinHandle<io::Result<()>>,
}

#[derive(Debug)]
struct Connection {
    stream: Stream,
    /// Whether a read may give something.
    readable: bool,
    /// Whether a write may take something.
    writable: bool,
    /// Whether the kernel is asked to say when there is room to write.
    awaits_room: bool,
    /// Whether the kernel has said that the end of input is to be read; a short read is then not
    /// the end of what there is.
    read_closed: bool,
    /// Whether nobody is there any more to read what is written.
    gone: bool,
    /// Whether it is on the list of active connections.
    active: bool,
    /// The last turn in which it had its share.
    served: u64,
}

/// The time that a phase of a turn has taken, where more than one connection wants something of it.
#[derive(Debug, Default)]
struct Phase {
    since: Option<Instant>,
    is_late: bool,
    /// How many connections have taken little since the clock was read; zero where it is to be read.
    little: u32,
}

impl Server {
    /// Reads what is kept and opens the sockets. Connections wait in their queues until the server
    /// runs.
    ///
    /// # Errors
    /// [`BindError`], after which nothing is left open.
    pub fn bind(options: Options) -> Result<Server, BindError> {
        let storage: Box<dyn Storage> = match &options.journals {
            Some(journals) => Box::new(Journals::new(journals.clone())),
            None => Box::new(Memory),
        };
        Server::bind_with(options, storage)
    }

    /// The same with a storage of another kind, in place of [`Options::journals`].
    ///
    /// # Errors
    /// [`BindError`], after which nothing is left open.
    pub fn bind_with(options: Options, mut storage: Box<dyn Storage>) -> Result<Server, BindError> {
        let token = options.token_file.as_ref().map(read_token).transpose()?;
        let rules = options.access.as_deref().map(load_rules).transpose()?;
        let group = options.socket_group.as_deref().map(group_id).transpose()?;
        let poll = Poll::new().map_err(BindError::Loop)?;
        let mut control = Control::new().map_err(BindError::Loop)?;
        poll.registry()
            .register(&mut control.wake, CONTROL, Interest::READABLE)
            .map_err(BindError::Loop)?;
        let terms = FileTerms {
            mode: options.socket_mode,
            group,
        };
        let now = clock();
        let mut keyspace = Keyspace::new(options.limits.tombstones);
        let wake: Wake = {
            let handle = control.handle.clone();
            Arc::new(move || handle.wake())
        };
        let epoch = storage
            .load(&mut keyspace, now, wake)
            .map_err(BindError::Storage)?;
        let broker = broker::Options {
            limits: options.limits.clone(),
            epoch,
            token,
            rules,
            owner: Some(nix::unistd::geteuid().as_raw()),
            can_redo: storage.can_fail(),
        };
        let mut server = Server {
            broker: Broker::new(broker, keyspace, now),
            storage,
            poll,
            control,
            listeners: Vec::new(),
            connections: Vec::new(),
            active: Vec::new(),
            turn: 0,
            phase: Phase::default(),
            commit_time: Duration::ZERO,
            due: Vec::new(),
            waiting: Vec::new(),
            accept_pause: None,
            idle_since: Some(Instant::now()),
            report: Report::new(options.supervisor.clone()),
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
            now,
            options,
        };
        if let Err(error) = server.listen(terms) {
            // Those that are open already are closed by the drop of the server.
            server.storage.close(server.broker.keyspace());
            return Err(error);
        }
        Ok(server)
    }

    fn listen(&mut self, terms: FileTerms) -> Result<(), BindError> {
        let has_token = self.options.token_file.is_some();
        for passed in std::mem::take(&mut self.options.passed_sockets) {
            self.listeners.push(Listener::adopt(&passed, has_token)?);
        }
        for address in self.options.addresses.clone() {
            self.listeners
                .extend(Listener::bind(&address, terms, has_token)?);
        }
        for (number, listener) in self.listeners.iter_mut().enumerate() {
            let registry = self.poll.registry();
            registry
                .register(
                    listener.socket.source(),
                    Token(LISTENERS + number),
                    Interest::READABLE,
                )
                .map_err(BindError::Loop)?;
        }
        Ok(())
    }

    /// The addresses that it listens on, as bound: a port that was given as 0 is known here.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.listeners.iter().map(|listener| &listener.address)
    }

    /// What other threads and signal handlers use.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.control.handle.clone()
    }

    /// Serves until it is asked to stop, then flushes the responses that are owed and removes the
    /// socket files.
    ///
    /// # Errors
    /// The system's, where waiting for events fails. A connection's failure ends that connection.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        self.report.ready(self.status(), self.now);
        while !self.is_to_stop() {
            self.turn += 1;
            let timeout = self.timeout();
            self.wait(&mut events, timeout)?;
            self.obey();
            self.accept();
            self.broker.expire(self.now);
            self.phase = Phase::begin(self.active.len());
            self.read();
            self.gather(&mut events)?;
            self.commit();
            self.deliver();
            self.broker.end_turn();
            self.tend();
            self.tell_supervisor();
        }
        info!("stopping");
        self.report.stopping();
        self.flush(&mut events)
    }

    /// Runs it on a new thread.
    ///
    /// # Errors
    /// The system's, where there can be no thread.
    pub fn spawn(self) -> io::Result<Running> {
        let handle = self.handle();
        let thread = std::thread::Builder::new().name("nkv-server".into());
        Ok(Running {
            handle,
            thread: thread.spawn(|| self.run())?,
        })
    }

    /// Phase 1: waits, and notes which sockets are ready.
    fn wait(&mut self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        if let Err(error) = self.poll.poll(events, timeout) {
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
            return Ok(());
        }
        self.now = clock();
        for event in events.iter() {
            match event.token() {
                CONTROL => {
                    let mut bytes = [0; 64];
                    while matches!(self.control.wake.read(&mut bytes), Ok(read) if read > 0) {}
                }
                Token(listener) if listener >= LISTENERS => {
                    self.listeners[listener - LISTENERS].ready = true;
                }
                Token(number) => {
                    let Some(connection) = &mut self.connections[number] else {
                        continue;
                    };
                    connection.readable |= event.is_readable() || event.is_read_closed();
                    connection.read_closed |= event.is_read_closed();
                    connection.gone |= event.is_write_closed() || event.is_error();
                    if event.is_writable() || connection.gone {
                        connection.writable = true;
                        self.broker.set_due(number);
                    }
                    self.activate(number);
                }
            }
        }
        Ok(())
    }

    /// Phases 1 to 3 again while a commit is ahead and others are coming in: who comes too late waits
    /// for this commit and for the next. Nobody has a second share of the turn.
    fn gather(&mut self, events: &mut Events) -> io::Result<()> {
        // Entries have ended up to here, and none is shown beyond its end.
        let now = self.now;
        while self.broker.keyspace().has_changed() {
            self.wait(events, Some(Duration::ZERO))?;
            self.now = now;
            if events.is_empty() || !self.read() {
                break;
            }
        }
        Ok(())
    }

    /// How long nothing has to be done unless a socket is ready.
    fn timeout(&mut self) -> Option<Duration> {
        let paused = self.accept_pause.is_some();
        let accepts = !paused && self.listeners.iter().any(|listener| listener.ready);
        if !self.active.is_empty() || self.broker.has_due() || accepts {
            return Some(Duration::ZERO);
        }
        let due = [
            self.broker.next_deadline(),
            self.storage.next_deadline(),
            self.report.next_deadline(),
        ];
        let due = due
            .into_iter()
            .flatten()
            .min()
            .map(|deadline| Duration::from_millis(deadline.0.saturating_sub(clock().0)));
        let pause = self
            .accept_pause
            .map(|until| until.saturating_duration_since(Instant::now()));
        let idle = self.options.idle_exit.zip(self.idle_since);
        let idle = idle.map(|(patience, since)| patience.saturating_sub(since.elapsed()));
        [due, pause, idle].into_iter().flatten().min()
    }

    fn is_to_stop(&self) -> bool {
        let is_idle_too_long = match (self.options.idle_exit, self.idle_since) {
            (Some(patience), Some(since)) => since.elapsed() >= patience,
            _ => false,
        };
        is_idle_too_long || self.control.handle.flags().stop.load(Ordering::Relaxed)
    }

    /// Does what the handles ask for, other than to stop.
    fn obey(&mut self) {
        let flags = self.control.handle.flags().clone();
        if flags.log_statistics.swap(false, Ordering::Relaxed) {
            info!("statistics: {}", self.broker.statistics(self.now));
        }
        if flags.reload.swap(false, Ordering::Relaxed) {
            self.report.reloading();
            self.reload();
            self.report.ready(self.status(), self.now);
        }
        while let Ok(end) = self.control.connections.try_recv() {
            match Stream::from_pair(end) {
                Ok((stream, peer)) => self.take_in(stream, peer),
                Err(error) => warn!("can't take in a connection of this process: {error}"),
            }
        }
    }

    /// Reads again what stands in files. What is bad is left alone.
    fn reload(&mut self) {
        if let Some(path) = &self.options.token_file {
            match read_token(path) {
                Ok(token) => {
                    self.broker.set_token(Some(token));
                    info!("the token is read again from {}", path.display());
                }
                Err(error) => warn!("the old token stays: {error}"),
            }
        }
        if let Some(path) = &self.options.access {
            match load_rules(path) {
                Ok(rules) => {
                    self.broker.set_rules(Some(rules));
                    info!("the rules are read again from {}", path.display());
                }
                Err(error) => warn!("the old rules stay: {error}"),
            }
        }
    }

    fn accept(&mut self) {
        if self
            .accept_pause
            .is_some_and(|until| Instant::now() < until)
        {
            return;
        }
        self.accept_pause = None;
        for number in 0..self.listeners.len() {
            for _ in 0..ACCEPTS_PER_TURN {
                if !self.listeners[number].ready {
                    break;
                }
                match self.listeners[number].accept() {
                    Ok((stream, peer)) => self.take_in(stream, peer),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.listeners[number].ready = false;
                    }
                    Err(error) if is_exhaustion(&error) => {
                        warn!("accepting pauses: {error}");
                        self.accept_pause = Some(Instant::now() + ACCEPT_PAUSE);
                        return;
                    }
                    // The peer has given up before it was accepted.
                    Err(error) => debug!("a connection was not accepted: {error}"),
                }
            }
        }
    }

    /// Makes a connection of a socket, or refuses it where there are too many.
    fn take_in(&mut self, mut stream: Stream, peer: Peer) {
        let number = match self.broker.connect(peer.clone(), self.now) {
            Ok(number) => number,
            Err(line) => {
                debug!("refused {peer:?}: too many clients");
                return stream.refuse(&line);
            }
        };
        if let Some(bytes) = self.options.send_buffer
            && let Err(error) = stream.set_send_buffer(bytes)
        {
            debug!("connection {number}: the send buffer stays as it is: {error}");
        }
        let registry = self.poll.registry();
        if let Err(error) = registry.register(&mut stream, Token(number), Interest::READABLE) {
            warn!("can't wait for a connection: {error}");
            self.broker.disconnect(number);
            return;
        }
        debug!("connection {number}: {peer:?}");
        if self.connections.len() <= number {
            self.connections.resize_with(number + 1, || None);
        }
        self.connections[number] = Some(Connection {
            stream,
            readable: true,
            writable: true,
            awaits_room: false,
            read_closed: false,
            gone: false,
            active: false,
            served: 0,
        });
        self.idle_since = None;
        self.activate(number);
    }

    /// Phases 2 and 3: gives each active connection that has not had it yet its share of the turn, and
    /// returns whether there was one.
    fn read(&mut self) -> bool {
        let mut active = std::mem::take(&mut self.active);
        let mut any = false;
        for &number in &active {
            let Some(connection) = &mut self.connections[number] else {
                continue;
            };
            let is_full = self.broker.keyspace().turn_bytes() > TURN_BYTES_MAX;
            let patience = self.commit_time.clamp(TURN_TIME, TURN_TIME_MAX);
            let is_late = || self.phase.is_late(patience);
            if is_full || !self.broker.may_ask(number, is_late) {
                // It stays active, and comes first in the next turn.
                self.active.push(number);
                continue;
            }
            connection.active = false;
            if connection.served == self.turn {
                continue;
            }
            connection.served = self.turn;
            any = true;
            if self.broker.wants_turn(number) {
                self.broker.resume(number, self.now);
            } else if connection.readable && self.broker.wants_input(number) {
                self.read_from(number);
            }
        }
        for number in active.drain(..) {
            self.activate(number);
        }
        if self.active.is_empty() {
            self.active = active;
        }
        any
    }

    fn read_from(&mut self, number: usize) {
        let Some(connection) = &mut self.connections[number] else {
            return;
        };
        match connection.stream.read(&mut self.buffer) {
            Ok(0) => self.end_input(number),
            Ok(read) => {
                // The kernel will say so when more comes after a read that was not full.
                connection.readable = read == self.buffer.len() || connection.read_closed;
                self.broker.receive(number, &self.buffer[..read], self.now);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => connection.readable = false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                debug!("connection {number}: {error}");
                connection.gone = true;
                self.end_input(number);
            }
        }
    }

    fn end_input(&mut self, number: usize) {
        if let Some(connection) = &mut self.connections[number] {
            connection.readable = false;
            self.broker.end_input(number, self.now);
            // Delivery decides whether it is over.
            self.broker.set_due(number);
        }
    }

    /// Phase 4: makes the turn's changes safe, or does without those that can't be.
    fn commit(&mut self) {
        let start = self.broker.keyspace().has_changed().then(Instant::now);
        let mut tries = 0;
        while self
            .storage
            .commit(
                self.broker.keyspace(),
                self.broker.committed_rev(),
                self.now,
            )
            .is_err()
        {
            tries += 1;
            assert!(
                tries <= COMMIT_TRIES,
                "a storage that fails says what it can't write"
            );
            self.set_storage();
            self.broker.redo(self.now);
        }
        self.broker.committed();
        self.commit_time = start.map_or(Duration::ZERO, |start| start.elapsed());
    }

    /// Gives storage its share of a turn.
    fn tend(&mut self) {
        self.storage.tend(self.broker.keyspace(), self.now);
        self.set_storage();
    }

    fn set_storage(&mut self) {
        let storage = &self.storage;
        self.broker
            .set_storage(storage.writable(), storage.figures());
    }

    /// Tells the service manager that the loop goes on, and how it is, as often as it wants to hear it.
    fn tell_supervisor(&mut self) {
        let writable = self.storage.writable();
        if self.report.is_due(writable, self.now) {
            self.report.renew(self.status(), writable, self.now);
        }
    }

    /// How the server is, for people: one line.
    fn status(&self) -> String {
        report::status(
            self.broker.clients(),
            self.broker.keyspace(),
            self.storage.writable(),
        )
    }

    /// Phase 5: writes to each connection that has something to be told, and ends those that are
    /// done.
    fn deliver(&mut self) {
        let mut due = std::mem::take(&mut self.due);
        self.broker.take_due(&mut due);
        self.phase = Phase::begin(due.len());
        for number in due.drain(..) {
            let is_late = || self.phase.is_late(TURN_TIME);
            let Some(share) = self.broker.share(number, is_late) else {
                self.waiting.push(number);
                continue;
            };
            let left = self.deliver_to(number, share);
            self.phase.count(share.is_little(left));
            self.broker.end_share(number, share, left);
            if self.is_over(number) {
                self.close(number);
            } else {
                self.activate(number);
            }
        }
        self.due = due;
        self.broker.wait(&mut self.waiting);
    }

    /// Writes what there is to a connection, within its share, and returns what is left of that.
    fn deliver_to(&mut self, number: usize, mut share: Share) -> Share {
        let Some(connection) = &mut self.connections[number] else {
            return share;
        };
        while connection.writable && !connection.gone {
            let bytes = self.broker.fill(number, &mut share);
            if bytes.is_empty() {
                connection.await_room(false, self.poll.registry(), number);
                return share;
            }
            match connection.stream.write(bytes) {
                Ok(written) => self.broker.sent(number, written, &mut share),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    connection.writable = false;
                    connection.await_room(true, self.poll.registry(), number);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    debug!("connection {number}: {error}");
                    connection.gone = true;
                    // What was sent before the peer went is still to be carried out.
                    connection.readable = true;
                }
            }
        }
        if connection.gone {
            self.broker.discard_output(number);
        }
        share
    }

    /// Whether a connection has nothing more to expect.
    fn is_over(&self, number: usize) -> bool {
        let Some(connection) = &self.connections[number] else {
            return false;
        };
        if !self.broker.is_drained(number) {
            return false;
        }
        connection.gone
            || !self.broker.has_subscriptions(number)
            || (connection.stream.is_tcp() && !self.broker.has_output(number))
    }

    fn close(&mut self, number: usize) {
        let Some(mut connection) = self.connections[number].take() else {
            return;
        };
        if let Err(error) = self.poll.registry().deregister(&mut connection.stream) {
            debug!("connection {number}: {error}");
        }
        if self.broker.is_expelled(number) {
            debug!("connection {number}: expelled without the token");
            connection.stream.refuse(&[]);
        }
        self.broker.disconnect(number);
        debug!("connection {number}: closed");
        self.accept_pause = None;
        if self.broker.clients() == 0 {
            self.idle_since = Some(Instant::now());
        }
    }

    /// Puts a connection on the list of those that can go on by themselves, if it can.
    fn activate(&mut self, number: usize) {
        let Some(connection) = &mut self.connections[number] else {
            return;
        };
        let can_go_on = self.broker.wants_turn(number)
            || (connection.readable && self.broker.wants_input(number));
        if can_go_on && !connection.active {
            connection.active = true;
            self.active.push(number);
        }
    }

    /// The end of a clean stop: what was carried out is answered, to those who read.
    fn flush(&mut self, events: &mut Events) -> io::Result<()> {
        let deadline = Instant::now() + STOP_PATIENCE;
        for number in 0..self.connections.len() {
            if self.connections[number].is_some() {
                self.broker.set_due(number);
            }
        }
        self.commit();
        self.storage.close(self.broker.keyspace());
        loop {
            self.deliver();
            self.broker.end_turn();
            let owed = (0..self.connections.len())
                .any(|number| self.connections[number].is_some() && self.broker.owes(number));
            let patience = deadline.saturating_duration_since(Instant::now());
            if !owed || patience.is_zero() {
                return self.linger(events, deadline);
            }
            let patience = match self.broker.has_due() {
                true => Duration::ZERO,
                false => patience,
            };
            match self.poll.poll(events, Some(patience)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in events.iter() {
                let Token(number) = event.token();
                if let Some(Some(connection)) = self.connections.get_mut(number) {
                    connection.gone |= event.is_write_closed() || event.is_error();
                    connection.writable |= event.is_writable();
                    self.broker.set_due(number);
                }
            }
        }
    }

    /// Closes the connections. Closing a TCP socket over unread input would make the kernel throw
    /// away what is still on its way to the peer. So where there is such input it is read and
    /// dropped, until the peer sees that nothing more comes and closes, too.
    fn linger(&mut self, events: &mut Events, deadline: Instant) -> io::Result<()> {
        let connections = self.connections.drain(..).flatten();
        let mut lingering: Vec<Stream> = connections
            .map(|connection| connection.stream)
            .filter(Stream::is_tcp)
            .collect();
        lingering.retain_mut(|stream| {
            stream.end_output();
            let (dropped, ended) = stream.drop_input(&mut self.buffer, deadline);
            dropped > 0 && !ended
        });
        loop {
            let patience = deadline.saturating_duration_since(Instant::now());
            if lingering.is_empty() || patience.is_zero() {
                return Ok(());
            }
            match self.poll.poll(events, Some(patience)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            lingering.retain_mut(|stream| !stream.drop_input(&mut self.buffer, deadline).1);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for listener in &self.listeners {
            listener.remove_file();
        }
    }
}

impl Running {
    /// What other threads use.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Stops the server cleanly and waits for it.
    ///
    /// # Errors
    /// What ended [`Server::run`] before.
    ///
    /// # Panics
    /// Where the server's thread did.
    pub fn stop(self) -> io::Result<()> {
        self.handle.stop();
        self.thread
            .join()
            .expect("the server's thread does not panic")
    }
}

impl Phase {
    /// So many connections want something of it.
    fn begin(connections: usize) -> Phase {
        Phase {
            since: (connections > 1).then(Instant::now),
            is_late: false,
            little: 0,
        }
    }

    /// Says that a connection is done with, and whether that took next to no time. For hundreds of which each
    /// is told one event, to read the clock each time would be much of what is done.
    fn count(&mut self, is_little: bool) {
        self.little = match is_little {
            true => (self.little + 1) % LITTLE_ONES,
            false => 0,
        };
    }

    /// Whether so much time has gone by. Once that is so the clock is not read any more.
    fn is_late(&mut self, patience: Duration) -> bool {
        if !self.is_late && self.little == 0 {
            let now = Instant::now();
            self.is_late = now - *self.since.get_or_insert(now) > patience;
        }
        self.is_late
    }
}

impl Connection {
    /// Asks the kernel to say when there is room to write, or not to any more.
    fn await_room(&mut self, wanted: bool, registry: &Registry, number: usize) {
        if self.awaits_room == wanted {
            return;
        }
        self.awaits_room = wanted;
        let interest = if wanted {
            Interest::READABLE | Interest::WRITABLE
        } else {
            Interest::READABLE
        };
        if let Err(error) = registry.reregister(&mut self.stream, Token(number), interest) {
            // It can't be waited for any more, so it can't be served.
            warn!("connection {number}: {error}");
            self.gone = true;
        }
    }
}

/// Milliseconds since the machine started, suspended time included: it never runs back, and means the
/// same to a daemon that is started again.
fn clock() -> Time {
    let now =
        clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has had this clock since 2.6.39");
    let milliseconds = now.tv_sec() * 1000 + now.tv_nsec() / 1_000_000;
    Time(u64::try_from(milliseconds).expect("time since the start is not negative"))
}

fn read_token(path: &PathBuf) -> Result<broker::Token, BindError> {
    let failed = |source| BindError::TokenFile {
        path: path.clone(),
        source,
    };
    let text = std::fs::read_to_string(path).map_err(failed)?;
    if text.trim().len() > broker::TOKEN_BYTES_MAX {
        let message = format!("a token has at most {} bytes", broker::TOKEN_BYTES_MAX);
        return Err(failed(io::Error::other(message)));
    }
    broker::Token::new(&text).ok_or_else(|| failed(io::Error::other("the file is empty")))
}

fn load_rules(path: &Path) -> Result<Arc<Rules>, BindError> {
    let rules = read_rules(path).map_err(|source| BindError::Access {
        path: path.to_owned(),
        source,
    })?;
    if rules.are_empty() {
        // Nobody writes such a file on purpose; it may have lost its lines.
        warn!(
            "{} has no line: everybody may do everything",
            path.display()
        );
    }
    Ok(rules)
}

fn group_id(name: &str) -> Result<u32, BindError> {
    match nix::unistd::Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        _ => Err(BindError::UnknownGroup(name.to_owned())),
    }
}

/// Whether accepting failed for want of something that may be there again later.
fn is_exhaustion(error: &io::Error) -> bool {
    use nix::errno::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)
    )
}
