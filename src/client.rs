//! The blocking client: one connection to a daemon, shared by as many threads as like.
//!
//! ```no_run
//! use nkv::Client;
//!
//! let client = Client::connect("/run/nkv.sock")?;
//! client.put("net.eth0.mtu", &1500)?;
//! let mtu = client.get::<u32>("net.eth0.mtu")?;
//! assert_eq!(mtu.map(|entry| entry.value), Some(1500));
//! for event in client.subscribe("net.*")? {
//!     println!("{:?}", event?);
//! }
//! # Ok::<(), nkv::client::Error>(())
//! ```
//!
//! A method that asks something sends one line and waits for the line that answers it; nothing is
//! cached and nothing is repeated. Each is the [`Pipeline`] method of the same name, waited for at
//! once, so there is one place where a request is made and one where its answer is read.
//! How threads share the socket, and why that can't deadlock, is told in `client/connection.rs`.
//!
//! Keys and patterns are taken as anything that is text, a `&str` as well as a [`Key`](crate::Key), and
//! checked before anything is sent. A missing key is no error but `None`.
//!
//! A [`Client`] ends with its connection: with it go `session` entries, subscriptions and the fate of
//! requests under way. [`Link`] connects again, and does about each what can be done safely. [`Mirror`]
//! is a copy of a part of the keyspace on top of that, which is what most services want.

mod announced;
#[cfg(feature = "async")]
pub mod asynchronous;
mod backoff;
mod claimed;
mod connection;
mod error;
mod events;
mod exchange;
mod inbox;
mod link;
mod list;
mod mirror;
mod pipeline;
mod request;
mod response;
mod retry;
mod stats;
mod subscription;
mod value;

use std::fmt;
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::address::Address;
use crate::key::{KeyRef, Pattern};
use crate::wire::{CLIENT_NAME_BYTES_MAX, Delete, Limits, Op, PROTOCOL};
use connection::{Connection, Stream};
use response::{Answered, Reading};

pub use crate::wire::{ErrorCode, Failure, Lifetime};
pub use connection::Step;
pub use error::Error;
pub use events::{Contact, Events, EventsBuilder, EventsEnder};
pub use link::{Announcement, Claim, Link, LinkBuilder, PATIENCE};
pub use list::{Keys, List};
pub use mirror::{Change, Cut, Follower, Mirror, MirrorBuilder, View};
pub use pipeline::{Pending, Pipeline};
pub use request::{Batch, Put};
pub use response::Written;
pub use stats::{Stats, UserUse};
pub use subscription::{Position, Subscribe, Subscription, SubscriptionEnder};
pub use value::{Entry, Event, Value};

/// How long connecting may take where nothing else is said.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an answer may take where nothing else is said.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(60);

/// A connection to a daemon. Clones share it, and so may threads; it is closed with the last clone.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

struct Shared {
    connection: Connection,
    greeting: Greeting,
}

/// What a connection is made with. See [`Client::builder`].
#[derive(Clone)]
#[must_use = "a builder does nothing until it connects"]
pub struct Builder {
    name: Option<String>,
    token: Option<String>,
    connect_timeout: Duration,
    reply_timeout: Option<Duration>,
}

/// What the daemon answers to `hello`.
#[derive(Deserialize)]
struct Greeting {
    server: String,
    protocol: u64,
    epoch: String,
    rev: u64,
    #[serde(default)]
    limits: Limits,
}

impl Client {
    /// Connects to a daemon at this address (a path or `HOST:PORT`, see [`Address`]).
    ///
    /// # Errors
    /// [`Error::Address`] where the text is no address, else as [`Builder::connect`].
    pub fn connect(address: impl AsRef<str>) -> Result<Client, Error> {
        Client::builder().connect(&address.as_ref().parse()?)
    }

    /// Connects to the daemon at `$NKV_ADDRESS` or the first default place that there is (see
    /// [`Address::client_default`]).
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_default() -> Result<Client, Error> {
        Client::builder().connect(&Address::client_default()?)
    }

    /// Speaks to a daemon over a socket that is connected already, such as one of a pair whose other
    /// end a daemon in the same process serves. The socket is made non-blocking.
    ///
    /// # Errors
    /// As [`Builder::from_stream`].
    pub fn from_stream(stream: UnixStream) -> Result<Client, Error> {
        Client::builder().from_stream(stream)
    }

    /// Describes a connection with options.
    pub fn builder() -> Builder {
        Builder {
            name: None,
            token: None,
            connect_timeout: CONNECT_TIMEOUT,
            reply_timeout: Some(REPLY_TIMEOUT),
        }
    }

    /// The name of the unbroken history that this daemon's revisions belong to.
    #[must_use]
    pub fn epoch(&self) -> &str {
        &self.0.greeting.epoch
    }

    /// The keyspace's revision when the connection was made.
    #[must_use]
    pub fn initial_rev(&self) -> u64 {
        self.0.greeting.rev
    }

    /// The limits that the daemon imposes.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.0.greeting.limits
    }

    /// The daemon's name and version, as it gave them.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.0.greeting.server
    }

    /// Puts a value of any serialisable type and returns the revision.
    ///
    /// # Errors
    /// [`Error::Key`] and [`Error::Value`], with which nothing is sent; [`Error::Server`] where the
    /// daemon refuses; [`Error::Closed`] and [`Error::Io`] where the connection was lost before;
    /// [`Error::Unanswered`] and [`Error::Timeout`], with which the request's fate is unknown.
    pub fn put<T: Serialize + ?Sized>(
        &self,
        key: impl AsRef<str>,
        value: &T,
    ) -> Result<u64, Error> {
        Ok(self.pipeline().put(key, value)?.wait()?.rev)
    }

    /// Puts JSON text, which is kept byte for byte, and returns the revision.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub fn put_json_text(&self, key: impl AsRef<str>, json: &str) -> Result<u64, Error> {
        Ok(self
            .put_with(Put::new(key, Value::from_json_text(json)?)?)?
            .rev)
    }

    /// Puts raw bytes and returns the revision.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub fn put_bytes(&self, key: impl AsRef<str>, bytes: impl Into<Vec<u8>>) -> Result<u64, Error> {
        Ok(self.put_with(Put::new(key, Value::from_bytes(bytes))?)?.rev)
    }

    /// Puts with options.
    ///
    /// # Errors
    /// As [`Client::put`]. Where [`Put::if_rev`] does not hold, the failure is
    /// [`ErrorCode::Conflict`] and carries the key's revision.
    ///
    /// ```no_run
    /// # use nkv::client::{Client, Lifetime, Put, Value};
    /// # let client = Client::connect("/run/nkv.sock")?;
    /// let put = Put::new("net.eth0.up", Value::of(&true)?)?;
    /// client.put_with(put.lifetime(Lifetime::Boot).if_changed())?;
    /// # Ok::<(), nkv::client::Error>(())
    /// ```
    pub fn put_with(&self, put: Put) -> Result<Written, Error> {
        self.pipeline().put_with(put)?.wait()
    }

    /// A key's value as a type of the caller's, with its revision; `None` where there is no such key.
    ///
    /// # Errors
    /// As [`Client::put`]; [`Error::Value`] also where the value is not of that type.
    pub fn get<T: DeserializeOwned>(
        &self,
        key: impl AsRef<str>,
    ) -> Result<Option<Entry<T>>, Error> {
        self.pipeline().get(key)?.wait()
    }

    /// A key's value as it is: JSON text or raw bytes.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub fn get_value(&self, key: impl AsRef<str>) -> Result<Option<Entry>, Error> {
        self.pipeline().get_value(key)?.wait()
    }

    /// Deletes a key and returns whether there was one.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub fn delete(&self, key: impl AsRef<str>) -> Result<bool, Error> {
        let key = KeyRef::new(key.as_ref())?;
        Ok(self.pipeline().delete(key.as_str())?.wait()? > 0)
    }

    /// Deletes a key if its revision is this one.
    ///
    /// # Errors
    /// As [`Client::put`]; [`ErrorCode::Conflict`] where the revision is another.
    pub fn delete_if_rev(&self, key: impl AsRef<str>, rev: u64) -> Result<bool, Error> {
        let key = KeyRef::new(key.as_ref())?.as_str().into();
        let deleted = self.call(
            Op::Delete(Delete {
                key,
                if_rev: Some(rev),
            }),
            response::deleted,
        );
        Ok(deleted? > 0)
    }

    /// Deletes every key that matches a pattern and returns how many there were.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub fn delete_pattern(&self, pattern: impl AsRef<str>) -> Result<u64, Error> {
        self.pipeline().delete(pattern)?.wait()
    }

    /// Claims a key and all that lies below it for this connection, until [`Client::release`] or the
    /// connection's end, and returns the revision of the claim. What is claimed already keeps its
    /// revision. [`Link::claim`] claims again after a lost connection.
    ///
    /// # Errors
    /// As [`Client::put`]; [`ErrorCode::Conflict`] where another connection has claimed the key, or one
    /// above or below it; [`ErrorCode::Denied`] where the rules don't let this client own the subtree.
    ///
    /// ```no_run
    /// # let client = nkv::client::Client::connect("/run/nkv.sock")?;
    /// client.claim("net.eth0")?; // from here on nobody else changes anything there
    /// client.put("net.eth0.mtu", &1500)?;
    /// # Ok::<(), nkv::client::Error>(())
    /// ```
    pub fn claim(&self, key: impl AsRef<str>) -> Result<u64, Error> {
        self.pipeline().claim(key)?.wait()
    }

    /// Lets go of a claim, and returns the revision of that.
    ///
    /// # Errors
    /// As [`Client::put`]; [`ErrorCode::NotFound`] where this connection has not claimed the key.
    pub fn release(&self, key: impl AsRef<str>) -> Result<u64, Error> {
        self.pipeline().release(key)?.wait()
    }

    /// Begins a batch: changes and conditions that are carried out all or not at all.
    pub fn batch(&self) -> Batch<'_> {
        Batch::new(self)
    }

    /// The same requests without waiting for each answer.
    #[must_use]
    pub fn pipeline(&self) -> Pipeline<'_> {
        Pipeline::new(self)
    }

    /// Every entry that matches a pattern, in byte order of the keys, asked for page by page. It is no
    /// snapshot: what changes while the list is read is seen before or after its change.
    ///
    /// # Errors
    /// [`Error::Key`] where the pattern is none. The iterator's errors are those of [`Client::put`].
    pub fn list(&self, pattern: impl AsRef<str>) -> Result<List<'_>, Error> {
        Ok(List::new(self, Pattern::new(pattern.as_ref())?))
    }

    /// Every key that matches a pattern, without the values. See [`Client::list`].
    ///
    /// # Errors
    /// As [`Client::list`].
    pub fn list_keys(&self, pattern: impl AsRef<str>) -> Result<Keys<'_>, Error> {
        Ok(Keys::new(self, Pattern::new(pattern.as_ref())?))
    }

    /// Subscribes to a key or pattern and all that lies below: the current entries, then what
    /// changes.
    ///
    /// # Errors
    /// [`Error::Key`] where the pattern is none; else as [`Client::put`].
    pub fn subscribe(&self, pattern: impl AsRef<str>) -> Result<Subscription, Error> {
        self.subscribe_with(pattern).start()
    }

    /// Describes a subscription with options.
    ///
    /// ```no_run
    /// # let client = nkv::client::Client::connect("/run/nkv.sock")?;
    /// let changes = client.subscribe_with("net.*.up").exact().changes_only().start()?;
    /// # Ok::<(), nkv::client::Error>(())
    /// ```
    pub fn subscribe_with(&self, pattern: impl AsRef<str>) -> Subscribe<'_> {
        Subscribe::new(self, pattern.as_ref())
    }

    /// The daemon's counters.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub fn stats(&self) -> Result<Stats, Error> {
        self.call(Op::Stats, stats::stats)
    }

    /// One object for each connection to the daemon, as it tells them.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub fn clients(&self) -> Result<Vec<serde_json::Map<String, serde_json::Value>>, Error> {
        self.call(Op::Clients, stats::clients)
    }

    /// Asks the daemon for an answer and nothing else.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub fn ping(&self) -> Result<(), Error> {
        self.call(Op::Ping, response::nothing)
    }

    /// Whether the connection is known to have ended. It looks without waiting, so `false` may be out
    /// of date by the time it is read.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.connection.has_ended()
    }

    /// Ends the connection at once, for all who share it: who waits is told [`Error::Closed`] or
    /// [`Error::Unanswered`].
    pub fn close(&self) {
        self.0.connection.close();
    }

    /// Writes what the socket takes and reads what is there, without ever waiting: for a program that has
    /// a loop of its own, which waits for the connection's descriptor ([`AsFd`]) among others.
    ///
    /// The order of calls: a step; if it has news, take with [`Subscription::try_next`] and
    /// [`Pending::try_wait`] what there is, and step again; only after a step without news wait until the
    /// descriptor is readable, or writable where the step wants room. Whatever call reads the socket reads
    /// for everyone, so what one waits for may have arrived while another was asked. The step knows,
    /// which is why it comes right before the wait.
    ///
    /// The connection is the loop's: another thread that waits on it would read what the loop is to be
    /// woken by. It needs a connection of its own.
    ///
    /// A loop that has the descriptor registered for good (epoll) must have it registered level-triggered.
    /// New requests are made with [`Client::pipeline`]. It waits only when more than 64 KiB are unwritten:
    /// a loop that must not even do that makes none while a step wants room. Timeouts are the loop's.
    ///
    /// ```
    /// # #[cfg(feature = "server")] {
    /// use nkv::client::{Client, Event};
    /// use rustix::event::{PollFd, PollFlags, poll};
    ///
    /// let server = nkv::server::Server::bind(nkv::server::Options::default())?.spawn()?;
    /// let client = Client::from_stream(server.handle().connect()?)?;
    /// let mut lamps = client.subscribe("lamp")?;
    /// let mut put = client.pipeline().put("lamp.1", &true)?;
    /// let (mut is_put, mut is_told) = (false, false);
    /// while !(is_put && is_told) {
    ///     let step = client.step();
    ///     if step.has_news {
    ///         is_put |= put.try_wait()?.is_some();
    ///         while let Some(event) = lamps.try_next()? {
    ///             is_told |= matches!(event, Event::Put { .. });
    ///         }
    ///     } else {
    ///         // Among whatever else the program waits for.
    ///         let mut flags = PollFlags::IN;
    ///         flags.set(PollFlags::OUT, step.wants_room);
    ///         poll(&mut [PollFd::new(&client, flags)], None)?;
    ///     }
    /// }
    /// # drop((lamps, put));
    /// # server.stop()?;
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn step(&self) -> Step {
        self.0.connection.step()
    }

    /// Whether both are clones of one.
    fn is_same(&self, other: &Client) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn connection(&self) -> &Connection {
        &self.0.connection
    }

    fn call<T>(&self, op: Op<'_>, reading: Reading<T>) -> Result<T, Error> {
        self.pipeline().send(op, reading)?.wait()
    }
}

impl Builder {
    /// What the daemon's logs and lists of clients call this one; by default the program's name.
    pub fn name(mut self, name: impl Into<String>) -> Builder {
        self.name = Some(name.into());
        self
    }

    /// What a daemon asks of clients that come over TCP.
    pub fn token(mut self, token: impl Into<String>) -> Builder {
        self.token = Some(token.into());
        self
    }

    /// How long connecting may take, greeting included. By default [`CONNECT_TIMEOUT`]. Over a Unix
    /// socket only the greeting counts, since the system connects at once or not at all, unless the
    /// daemon's backlog is full.
    pub fn connect_timeout(mut self, timeout: Duration) -> Builder {
        self.connect_timeout = timeout;
        self
    }

    /// How long an answer may take; `None` waits for ever. By default [`REPLY_TIMEOUT`].
    pub fn reply_timeout(mut self, timeout: Option<Duration>) -> Builder {
        self.reply_timeout = timeout;
        self
    }

    /// Connects and greets.
    ///
    /// # Errors
    /// [`Error::Connect`] where nobody could be reached, [`Error::Server`] where the daemon won't have
    /// this client, [`Error::Protocol`] where it is no daemon or speaks another version,
    /// [`Error::Timeout`] and [`Error::Unanswered`] where it didn't answer.
    pub fn connect(&self, address: &Address) -> Result<Client, Error> {
        let deadline = connection::deadline(Some(self.connect_timeout));
        let stream = match address {
            Address::Unix(path) => UnixStream::connect(path).map(Stream::Unix),
            Address::Tcp(place) => connect_tcp(place, deadline).map(Stream::Tcp),
        };
        let stream = stream.map_err(|source| Error::Connect {
            address: address.clone(),
            source,
        })?;
        self.greet(stream, deadline)
    }

    /// As [`Client::from_stream`].
    ///
    /// # Errors
    /// As [`Builder::connect`], and [`Error::Io`] where the socket can't be made non-blocking.
    pub fn from_stream(&self, stream: UnixStream) -> Result<Client, Error> {
        let deadline = connection::deadline(Some(self.connect_timeout));
        self.greet(Stream::Unix(stream), deadline)
    }

    fn greet(&self, stream: Stream, deadline: Option<Instant>) -> Result<Client, Error> {
        let connection = Connection::new(stream, self.reply_timeout).map_err(Error::Io)?;
        let id = connection.submit(self.hello())?;
        let patience = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let greeting = Greeting::read(connection.answer(id, patience)?)?;
        Ok(Client(Arc::new(Shared {
            connection,
            greeting,
        })))
    }

    fn hello(&self) -> Op<'static> {
        let name = self.name.clone().unwrap_or_else(program_name);
        Op::Hello {
            client: Some(clipped(&name).to_owned().into()),
            token: self.token.clone().map(Into::into),
        }
    }
}

impl Greeting {
    fn read(answer: Answered) -> Result<Greeting, Error> {
        let greeting: Greeting = response::whole(answer)?;
        if greeting.protocol != PROTOCOL {
            let theirs = greeting.protocol;
            return Err(Error::Protocol(format!(
                "it speaks version {theirs}, this client speaks version {PROTOCOL}"
            )));
        }
        Ok(greeting)
    }
}

/// The socket, to wait for and nothing else: its bytes are [`Client::step`]'s to read and write.
impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.connection.descriptor()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("server", &self.server())
            .finish_non_exhaustive()
    }
}

/// Without the token.
impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Tries every address of the host until the deadline.
fn connect_tcp(place: &str, deadline: Option<Instant>) -> io::Result<TcpStream> {
    let mut last_error = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in place.to_socket_addrs()? {
        let connected = match deadline.map(|at| at.saturating_duration_since(Instant::now())) {
            Some(Duration::ZERO) => return Err(io::ErrorKind::TimedOut.into()),
            Some(patience) => TcpStream::connect_timeout(&address, patience),
            None => TcpStream::connect(address),
        };
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) => last_error = error,
        }
    }
    Err(last_error)
}

fn program_name() -> String {
    let program = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&program).file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn clipped(name: &str) -> &str {
    let mut end = name.len().min(CLIENT_NAME_BYTES_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}
