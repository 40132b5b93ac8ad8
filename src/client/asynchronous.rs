//! The client for programs with a tokio runtime: the same as the blocking one, as futures and streams.
//!
//! ```no_run
//! use nkv::client::asynchronous::Client;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), nkv::client::Error> {
//! let client = Client::connect("/run/nkv.sock").await?;
//! client.put("net.eth0.mtu", &1500).await?;
//! let mtu = client.get::<u32>("net.eth0.mtu").await?;
//! assert_eq!(mtu.map(|entry| entry.value), Some(1500));
//! let mut events = client.subscribe("net.*").await?;
//! while let Some(event) = events.next().await {
//!     println!("{:?}", event?);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The names are those of [`client`](super), and so are the values: [`Value`],
//! [`Put`], [`Event`](super::Event), [`Position`](super::Position), [`Error`]. What they
//! promise holds here as well. Programs that use both write `asynchronous::Client` (`async`, the word for
//! it, is taken by the language).
//!
//! **Many requests at once** need no pipeline: futures that are polled together are under way together.
//! Requests are carried out in the order in which they were polled for the first time.
//!
//! ```no_run
//! # async fn example(client: nkv::client::asynchronous::Client) -> Result<(), nkv::client::Error> {
//! let (up, mtu) = tokio::try_join!(
//!     client.put("net.eth0.up", &true),
//!     client.put("net.eth0.mtu", &1500),
//! )?;
//! assert!(up < mtu);
//! # Ok(())
//! # }
//! ```
//!
//! **Dropping a future** does no harm anywhere, as `tokio::select!` and timeouts do it: no event is lost, and
//! the connection stays as it was. What that says about a request stands with [`Pending`].
//!
//! **Runtime.** Everything is made within a tokio runtime whose `net` and `time` drivers are enabled, and
//! works on one of a single thread. A connection has a task on the runtime on which it was made, and ends
//! with it. How tasks share the socket is told in `client/asynchronous/connection.rs`.

mod connection;
mod link;
mod list;
mod mirror;
mod request;
mod subscription;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::response::{self, Reading};
use super::{Entry, Error, Greeting, Put, Stats, Value, Written, stats};
use crate::address::Address;
use crate::key::{KeyRef, Pattern};
use crate::wire::{self, Delete, Limits, Op};
use connection::{Connection, Stream};

pub use link::{Announcement, Claim, Link, LinkBuilder};
pub use list::{Keys, List};
pub use mirror::{Follower, Mirror, MirrorBuilder, Watch};
pub use request::{Batch, Pending};
pub use subscription::{Subscribe, Subscription, SubscriptionEnder};

/// A connection to a daemon. Clones share it; it is closed with the last of them, and of the requests and
/// subscriptions made with it.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

struct Shared {
    connection: Connection,
    greeting: Greeting,
}

/// What a connection is made with. See [`Client::builder`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it connects"]
pub struct Builder(super::Builder);

impl Client {
    /// Connects to a daemon at this address (a path or `HOST:PORT`, see [`Address`]).
    ///
    /// # Errors
    /// [`Error::Address`] where the text is no address, else as [`Builder::connect`].
    pub async fn connect(address: impl AsRef<str>) -> Result<Client, Error> {
        Client::builder().connect(&address.as_ref().parse()?).await
    }

    /// Connects to the daemon at `$NKV_ADDRESS` or the first default place that there is (see
    /// [`Address::client_default`]).
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect_default() -> Result<Client, Error> {
        Client::builder().connect(&Address::client_default()?).await
    }

    /// Speaks to a daemon over a socket that is connected already, such as one of a pair whose other
    /// end a daemon in the same process serves. The socket is made non-blocking.
    ///
    /// # Errors
    /// As [`Builder::from_stream`].
    pub async fn from_stream(stream: std::os::unix::net::UnixStream) -> Result<Client, Error> {
        Client::builder().from_stream(stream).await
    }

    /// Describes a connection with options.
    pub fn builder() -> Builder {
        Builder(super::Client::builder())
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

    /// Puts a value of any serialisable type; the answer is the revision.
    ///
    /// # Errors
    /// [`Error::Key`] and [`Error::Value`], with which nothing is sent; [`Error::Server`] where the
    /// daemon refuses; [`Error::Closed`] and [`Error::Io`] where the connection was lost before;
    /// [`Error::Unanswered`] and [`Error::Timeout`], with which the request's fate is unknown.
    pub fn put<T: Serialize + ?Sized>(&self, key: impl AsRef<str>, value: &T) -> Pending<u64> {
        self.ask(put_op(key, Value::of(value)), response::revision)
    }

    /// Puts JSON text, which is kept byte for byte; the answer is the revision.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub fn put_json_text(&self, key: impl AsRef<str>, json: &str) -> Pending<u64> {
        self.ask(put_op(key, Value::from_json_text(json)), response::revision)
    }

    /// Puts raw bytes; the answer is the revision.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub fn put_bytes(&self, key: impl AsRef<str>, bytes: impl Into<Vec<u8>>) -> Pending<u64> {
        self.ask(
            put_op(key, Ok(Value::from_bytes(bytes))),
            response::revision,
        )
    }

    /// Puts with options.
    ///
    /// # Errors
    /// As [`Client::put`]. Where [`Put::if_rev`] does not hold, the failure is
    /// [`Conflict`](wire::ErrorCode::Conflict) and carries the key's revision.
    pub fn put_with(&self, put: Put) -> Pending<Written> {
        self.ask(Ok(Op::Put(put.0)), response::written)
    }

    /// A key's value as a type of the caller's, with its revision; `None` where there is no such key.
    ///
    /// # Errors
    /// As [`Client::put`]; [`Error::Value`] also where the value is not of that type.
    pub fn get<T: DeserializeOwned + 'static>(
        &self,
        key: impl AsRef<str>,
    ) -> Pending<Option<Entry<T>>> {
        self.ask(get_op(key.as_ref()), response::typed_entry)
    }

    /// A key's value as it is: JSON text or raw bytes.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub fn get_value(&self, key: impl AsRef<str>) -> Pending<Option<Entry>> {
        self.ask(get_op(key.as_ref()), response::entry)
    }

    /// Deletes a key; the answer is whether there was one.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub fn delete(&self, key: impl AsRef<str>) -> Pending<bool> {
        self.ask(delete_op(key.as_ref(), None), response::was_deleted)
    }

    /// Deletes a key if its revision is this one.
    ///
    /// # Errors
    /// As [`Client::put`]; [`Conflict`](wire::ErrorCode::Conflict) where the revision is another.
    pub fn delete_if_rev(&self, key: impl AsRef<str>, rev: u64) -> Pending<bool> {
        self.ask(delete_op(key.as_ref(), Some(rev)), response::was_deleted)
    }

    /// Deletes every key that matches a pattern; the answer is how many there were.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub fn delete_pattern(&self, pattern: impl AsRef<str>) -> Pending<u64> {
        let op = Pattern::new(pattern.as_ref()).map(|pattern| {
            Op::Delete(Delete {
                key: pattern.as_str().to_owned().into(),
                if_rev: None,
            })
        });
        self.ask(op.map_err(Error::Key), response::deleted)
    }

    /// Claims a key and all that lies below it for this connection, until [`Client::release`] or the
    /// connection's end; the answer is the revision of the claim. What is claimed already keeps its
    /// revision. [`Link::claim`] claims again after a lost connection.
    ///
    /// # Errors
    /// As [`client::Client::claim`](super::Client::claim).
    pub fn claim(&self, key: impl AsRef<str>) -> Pending<u64> {
        let key = owned_key(key.as_ref()).map(|key| Op::Claim { key });
        self.ask(key, response::revision)
    }

    /// Lets go of a claim; the answer is the revision of that.
    ///
    /// # Errors
    /// As [`Client::put`]; [`NotFound`](wire::ErrorCode::NotFound) where this connection has not claimed
    /// the key.
    pub fn release(&self, key: impl AsRef<str>) -> Pending<u64> {
        let key = owned_key(key.as_ref()).map(|key| Op::Release { key });
        self.ask(key, response::revision)
    }

    /// Begins a batch: changes and conditions that are carried out all or not at all.
    pub fn batch(&self) -> Batch {
        Batch::new(self.clone())
    }

    /// Every entry that matches a pattern, in byte order of the keys, asked for page by page. It is no
    /// snapshot: what changes while the list is read is seen before or after its change.
    ///
    /// # Errors
    /// [`Error::Key`] where the pattern is none. The stream's errors are those of [`Client::put`].
    pub fn list(&self, pattern: impl AsRef<str>) -> Result<List, Error> {
        Ok(List::new(self.clone(), Pattern::new(pattern.as_ref())?))
    }

    /// Every key that matches a pattern, without the values. See [`Client::list`].
    ///
    /// # Errors
    /// As [`Client::list`].
    pub fn list_keys(&self, pattern: impl AsRef<str>) -> Result<Keys, Error> {
        Ok(Keys::new(self.clone(), Pattern::new(pattern.as_ref())?))
    }

    /// Subscribes to a key or pattern and all that lies below: the current entries, then what
    /// changes. Where this is dropped before it is done, there is no subscription.
    ///
    /// # Errors
    /// [`Error::Key`] where the pattern is none; else as [`Client::put`].
    pub async fn subscribe(&self, pattern: impl AsRef<str>) -> Result<Subscription, Error> {
        self.subscribe_with(pattern).start().await
    }

    /// Describes a subscription with options.
    ///
    /// ```no_run
    /// # async fn example(client: nkv::client::asynchronous::Client) -> Result<(), nkv::client::Error> {
    /// let changes = client.subscribe_with("net.*.up").exact().changes_only().start().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn subscribe_with(&self, pattern: impl AsRef<str>) -> Subscribe {
        Subscribe::new(self.clone(), pattern.as_ref())
    }

    /// The daemon's counters.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub fn stats(&self) -> Pending<Stats> {
        self.ask(Ok(Op::Stats), stats::stats)
    }

    /// One object for each connection to the daemon, as it tells them.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub fn clients(&self) -> Pending<Vec<serde_json::Map<String, serde_json::Value>>> {
        self.ask(Ok(Op::Clients), stats::clients)
    }

    /// Asks the daemon for an answer and nothing else.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub fn ping(&self) -> Pending<()> {
        self.ask(Ok(Op::Ping), response::nothing)
    }

    /// Whether the connection is known to have ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.connection.has_ended()
    }

    /// Waits until the connection has ended.
    pub async fn closed(&self) {
        self.0.connection.wait_for_end().await;
    }

    /// Ends the connection at once, for all who share it: who waits is told [`Error::Closed`] or
    /// [`Error::Unanswered`].
    pub fn close(&self) {
        self.0.connection.close();
    }

    /// Whether both are clones of one.
    fn is_same(&self, other: &Client) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn connection(&self) -> &Connection {
        &self.0.connection
    }

    fn ask<T: 'static>(&self, op: Result<Op<'static>, Error>, reading: Reading<T>) -> Pending<T> {
        let client = self.clone();
        Pending::new(async move { reading(client.connection().call(op?).await?) })
    }
}

impl Builder {
    /// What the daemon's logs and lists of clients call this one; by default the program's name.
    pub fn name(self, name: impl Into<String>) -> Builder {
        Builder(self.0.name(name))
    }

    /// What a daemon asks of clients that come over TCP.
    pub fn token(self, token: impl Into<String>) -> Builder {
        Builder(self.0.token(token))
    }

    /// How long connecting may take, greeting included. By default
    /// [`CONNECT_TIMEOUT`](super::CONNECT_TIMEOUT).
    pub fn connect_timeout(self, timeout: Duration) -> Builder {
        Builder(self.0.connect_timeout(timeout))
    }

    /// How long an answer may take, and before it the wait for room to ask; `None` waits for ever. By
    /// default [`REPLY_TIMEOUT`](super::REPLY_TIMEOUT).
    pub fn reply_timeout(self, timeout: Option<Duration>) -> Builder {
        Builder(self.0.reply_timeout(timeout))
    }

    /// Connects and greets. Where this is dropped before it is done, there is no connection.
    ///
    /// # Errors
    /// [`Error::Connect`] where nobody could be reached, [`Error::Server`] where the daemon won't have
    /// this client, [`Error::Protocol`] where it is no daemon or speaks another version,
    /// [`Error::Timeout`] and [`Error::Unanswered`] where it didn't answer.
    pub async fn connect(&self, address: &Address) -> Result<Client, Error> {
        let start = Instant::now();
        let connecting = async {
            match address {
                Address::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
                Address::Tcp(place) => {
                    let stream = TcpStream::connect(place.as_str()).await?;
                    // Requests are small and each is waited for.
                    stream.set_nodelay(true)?;
                    Ok(Stream::Tcp(stream))
                }
            }
        };
        let connected = timeout(self.0.connect_timeout, connecting).await;
        let connected = connected.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        let stream = connected.map_err(|source| Error::Connect {
            address: address.clone(),
            source,
        })?;
        self.greet(stream, start).await
    }

    /// As [`Client::from_stream`].
    ///
    /// # Errors
    /// As [`Builder::connect`], and [`Error::Io`] where the socket can't be taken over.
    pub async fn from_stream(
        &self,
        stream: std::os::unix::net::UnixStream,
    ) -> Result<Client, Error> {
        stream.set_nonblocking(true).map_err(Error::Io)?;
        let stream = UnixStream::from_std(stream).map_err(Error::Io)?;
        self.greet(Stream::Unix(stream), Instant::now()).await
    }

    async fn greet(&self, stream: Stream, start: Instant) -> Result<Client, Error> {
        let connection = Connection::new(stream, self.0.reply_timeout);
        let left = self.0.connect_timeout.saturating_sub(start.elapsed());
        let answer = timeout(left, connection.call(self.0.hello())).await;
        let greeting = Greeting::read(answer.unwrap_or(Err(Error::Timeout))?)?;
        Ok(Client(Arc::new(Shared {
            connection,
            greeting,
        })))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("server", &self.server())
            .finish_non_exhaustive()
    }
}

fn put_op(key: impl AsRef<str>, value: Result<Value, Error>) -> Result<Op<'static>, Error> {
    Ok(Op::Put(Put::new(key, value?)?.0))
}

fn get_op(key: &str) -> Result<Op<'static>, Error> {
    Ok(Op::Get(wire::List {
        key: owned_key(key)?,
        ..wire::List::default()
    }))
}

fn delete_op(key: &str, if_rev: Option<u64>) -> Result<Op<'static>, Error> {
    Ok(Op::Delete(Delete {
        key: owned_key(key)?,
        if_rev,
    }))
}

/// A key that is one.
fn owned_key(key: &str) -> Result<Cow<'static, str>, Error> {
    Ok(KeyRef::new(key)?.as_str().to_owned().into())
}
