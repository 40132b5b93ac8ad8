//! A connection that comes back. What a link promises, and what it asks again, is told in
//! `client/link.rs`; both decide it with `client/retry.rs`.
//!
//! **Who connects.** A task, the *keeper*, which is spawned when something is asked for the first time. It
//! connects when somebody waits for a connection, entries are announced or keys claimed, with pauses in
//! between, and waits for the connection's end. So an attempt goes on when the future that wanted it is dropped, and
//! even those who wait in small pieces get there.

mod claim;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, yield_now};
use tokio::time::{Instant, sleep, timeout};

use super::{Batch, Builder, Client, Pending};
use crate::address::Address;
use crate::client::announced::session_put;
use crate::client::backoff::{Backoff, Pauses};
use crate::client::claimed::Outcome;
use crate::client::link::{REFUSED_PAUSE, Reception, Upheld, silence_of};
use crate::client::retry::{self, Attempts, Update, is_passing, is_unsent};
use crate::client::{Entry, Error, PATIENCE, Put, Value, Written, response};
use crate::wire::{Delete, ErrorCode, Op};

pub use claim::Claim;
use claim::tell_release;

/// A daemon that is reached whenever it can be. Clones share the connection; it is closed with the
/// last of them, and of the mirrors, announcements, claims and calls made with it.
///
/// The calls are [`Pending`]s. Dropped while one waits for a connection, its request was not sent.
#[derive(Clone, Debug)]
pub struct Link(Arc<Handle>);

/// What a link is made with. See [`Link::builder`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until a link is made of it"]
pub struct LinkBuilder {
    client: Builder,
    patience: Duration,
    pauses: Pauses,
}

/// A `session` entry that is there as long as this and the link have a connection. Dropping it deletes
/// the entry.
#[derive(Debug)]
#[must_use = "the entry is deleted when this is dropped"]
pub struct Announcement {
    link: Link,
    number: u64,
    key: String,
}

/// What the link's clones share and the keeper does not have, so that the last one ends the keeper.
#[derive(Debug)]
struct Handle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    address: Address,
    options: LinkBuilder,
    state: Mutex<State>,
    /// Somebody wants a connection.
    wanted: Notify,
    /// A connection was made, or an attempt has failed.
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct State {
    client: Option<Client>,
    upheld: Upheld,
    /// How many wait for a connection.
    waiting: usize,
    /// The last failure, and how many there have been.
    failure: Option<Error>,
    failures: u64,
    /// What ends the keeper's task, once that is spawned. There is at most one keeper.
    keeper: Option<Arc<OnceLock<AbortHandle>>>,
}

/// Somebody waits for a connection.
struct Waiting<'s>(&'s Shared);

/// The keeper's hold on the link. When its runtime ends, the next call makes another keeper.
struct Kept(Arc<Shared>);

impl Link {
    /// A link to the daemon at this address (a path or `HOST:PORT`, see [`Address`]). Nothing is
    /// connected before something is asked.
    ///
    /// # Errors
    /// [`Error::Address`] where the text is no address.
    ///
    /// ```no_run
    /// use nkv::client::asynchronous::Link;
    /// # async fn example() -> Result<(), nkv::client::Error> {
    /// let link = Link::new("/run/nkv.sock")?;
    /// link.put("net.eth0.mtu", &1500).await?; // waits for a daemon that is just starting
    /// # Ok(())
    /// # }
    /// ```
    pub fn new(address: impl AsRef<str>) -> Result<Link, Error> {
        Ok(Link::builder().link(address.as_ref().parse()?))
    }

    /// A link to `$NKV_ADDRESS` or the first default place that there is now (see
    /// [`Address::client_default`]).
    ///
    /// # Errors
    /// As [`Link::new`].
    pub fn to_default() -> Result<Link, Error> {
        Ok(Link::builder().link(Address::client_default()?))
    }

    /// Describes a link with options.
    pub fn builder() -> LinkBuilder {
        LinkBuilder {
            client: Client::builder(),
            patience: PATIENCE,
            pauses: Pauses::default(),
        }
    }

    /// The daemon's address.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.shared().address
    }

    /// A connection that was not known to be lost a moment ago, for whatever [`Client`] can do. It
    /// waits for one as long as [the patience](LinkBuilder::patience) lasts.
    ///
    /// # Errors
    /// Why the last attempt failed, see [`Builder::connect`]. What does not go away by itself, as a
    /// daemon that refuses the token, is reported at once.
    pub fn client(&self) -> Pending<Client> {
        let (link, deadline) = (self.clone(), self.deadline());
        Pending::new(async move { link.client_before(deadline).await })
    }

    /// As [`Client::put`], but that it waits for a connection.
    ///
    /// # Errors
    /// As [`Client::put`] and [`Link::client`]. With [`Error::Unanswered`] and [`Error::Timeout`] the
    /// put's fate is unknown: it was sent once, and is not sent again.
    pub fn put<T: Serialize + ?Sized>(&self, key: impl AsRef<str>, value: &T) -> Pending<u64> {
        let put = Value::of(value).and_then(|value| Put::new(key, value));
        let link = self.clone();
        Pending::new(async move { Ok(link.put_now(put?).await?.rev) })
    }

    /// As [`Client::put_with`], but that it waits for a connection, and that a put which may be
    /// repeated is repeated when its answer is lost; which those are is told at
    /// [`client::Link::put_with`](crate::client::Link::put_with).
    ///
    /// # Errors
    /// As [`Link::put`]; [`Put::if_rev`] as in [`Client::put_with`].
    pub fn put_with(&self, put: Put) -> Pending<Written> {
        let link = self.clone();
        Pending::new(async move { link.put_now(put).await })
    }

    /// As [`Client::get`], asked again after a lost connection.
    ///
    /// # Errors
    /// As [`Client::get`] and [`Link::client`].
    pub fn get<T: DeserializeOwned + 'static>(
        &self,
        key: impl AsRef<str>,
    ) -> Pending<Option<Entry<T>>> {
        let key = key.as_ref().to_owned();
        self.read(move |client| client.get(&key))
    }

    /// As [`Client::get_value`], asked again after a lost connection.
    ///
    /// # Errors
    /// As [`Client::get`] and [`Link::client`].
    pub fn get_value(&self, key: impl AsRef<str>) -> Pending<Option<Entry>> {
        let key = key.as_ref().to_owned();
        self.read(move |client| client.get_value(&key))
    }

    /// Every entry that matches a pattern, asked for from the start again after a lost connection. For
    /// more than a few thousand, [`Client::list`] needs less memory.
    ///
    /// # Errors
    /// As [`Client::list`] and [`Link::client`].
    pub fn list(&self, pattern: impl AsRef<str>) -> Pending<Vec<Entry>> {
        let pattern = pattern.as_ref().to_owned();
        self.read(move |client| {
            let list = client.list(&pattern);
            Pending::new(async move { list?.collect().await })
        })
    }

    /// As [`Client::delete`], but that it waits for a connection.
    ///
    /// # Errors
    /// As [`Link::put`]. A deletion whose answer is lost is not sent again: it could take away what somebody
    /// else has put meanwhile.
    pub fn delete(&self, key: impl AsRef<str>) -> Pending<bool> {
        let key = key.as_ref().to_owned();
        self.write(move |client| client.delete(&key))
    }

    /// Carries out a batch, but that it waits for a connection. The operations are added by the
    /// function, which is called again for each attempt; an attempt is made again only where the
    /// one before was not sent.
    ///
    /// # Errors
    /// As [`Batch::commit`] and [`Link::put`].
    ///
    /// ```no_run
    /// # async fn example(link: nkv::client::asynchronous::Link) -> Result<(), nkv::client::Error> {
    /// link.batch(|batch| batch.put("net.generation", &18).delete("net.eth1.*")).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn batch(&self, mut add: impl FnMut(Batch) -> Batch + Send + 'static) -> Pending<u64> {
        self.write(move |client| add(client.batch()).commit())
    }

    /// Reads a key, makes a new value of what it holds, and puts that if nobody else was faster;
    /// otherwise begins again with what is there then. `None` where there is no such key, and `None`
    /// to leave it as it is. Returns the revision of the key's value, `0` where there is none. The entry
    /// keeps its lifetime, and what is left of its time to live.
    ///
    /// # Errors
    /// As [`Link::put_with`]; [`ErrorCode::Conflict`] where others were faster for as long as the
    /// patience lasts.
    ///
    /// ```no_run
    /// # async fn example(link: nkv::client::asynchronous::Link) -> Result<(), nkv::client::Error> {
    /// link.update("jobs.done", |done: Option<u64>| Some(done.unwrap_or(0) + 1)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn update<T: Serialize + DeserializeOwned + 'static>(
        &self,
        key: impl AsRef<str>,
        mut change: impl FnMut(Option<T>) -> Option<T>,
    ) -> Result<u64, Error> {
        let key = key.as_ref();
        let deadline = self.deadline();
        loop {
            let read = self.get::<T>(key).await;
            let put = match retry::update(key, read?, &mut change)? {
                Update::Put(put) => put,
                Update::Nothing { rev } => return Ok(rev),
            };
            match self.put_now(put).await {
                Err(error) if error.code() == Some(ErrorCode::Conflict) && is_before(deadline) => {}
                done => return Ok(done?.rev),
            }
        }
    }

    /// Puts a `session` entry and keeps it there: it is put again on each new connection, until what
    /// this gives is dropped. Over a restart of the daemon it stays for 10 s, which a link uses to come
    /// back. Where the future is dropped before it is done, nothing is announced.
    ///
    /// # Errors
    /// As [`Link::put`].
    ///
    /// ```no_run
    /// # async fn example(link: nkv::client::asynchronous::Link) -> Result<(), nkv::client::Error> {
    /// let present = link.announce("present.camera", &true).await?;
    /// // ... as long as `present` lives ...
    /// # drop(present);
    /// # Ok(())
    /// # }
    /// ```
    pub fn announce<T: Serialize + ?Sized>(
        &self,
        key: impl AsRef<str>,
        value: &T,
    ) -> Pending<Announcement> {
        let put = Value::of(value).and_then(|value| session_put(key.as_ref(), value));
        let link = self.clone();
        Pending::new(async move {
            let put = put?;
            let key = put.key().to_owned();
            // A connection that is made from here on announces it by itself.
            link.client().await?;
            let number = link.shared().lock().upheld.announced.add(put.clone());
            // Where this fails or is dropped, the announcement takes itself back.
            let announcement = Announcement {
                link: link.clone(),
                number,
                key,
            };
            link.shared().wanted.notify_one();
            link.read(move |client| client.put_with(put.clone()))
                .await?;
            Ok(announcement)
        })
    }

    async fn put_now(&self, put: Put) -> Result<Written, Error> {
        let deadline = self.deadline();
        let mut attempts = Attempts::new(&put);
        loop {
            let client = self.client_before(deadline).await;
            let client = client.map_err(|error| attempts.fate(error))?;
            attempts.begin(client.epoch())?;
            let done = client.put_with(put.clone()).await;
            if let Some(done) = attempts.end(done, client.epoch(), is_before(deadline)) {
                return done;
            }
        }
    }

    /// Asks, and asks again only what was not sent.
    fn write<R: 'static>(
        &self,
        mut ask: impl FnMut(&Client) -> Pending<R> + Send + 'static,
    ) -> Pending<R> {
        let (link, deadline) = (self.clone(), self.deadline());
        Pending::new(async move {
            loop {
                let asked = ask(&link.client_before(deadline).await?);
                match asked.await {
                    Err(error) if is_unsent(&error) && is_before(deadline) => {}
                    done => return done,
                }
            }
        })
    }

    /// Asks, and asks again after a lost connection: for what does no harm when it is done twice.
    fn read<R: 'static>(
        &self,
        mut ask: impl FnMut(&Client) -> Pending<R> + Send + 'static,
    ) -> Pending<R> {
        let (link, deadline) = (self.clone(), self.deadline());
        Pending::new(async move {
            loop {
                let client = link.client_before(deadline).await?;
                let asked = ask(&client);
                match asked.await {
                    Err(error) if error.is_disconnect() && is_before(deadline) => client.close(),
                    done => return done,
                }
            }
        })
    }

    /// None where it is too far off to be told.
    fn deadline(&self) -> Option<Instant> {
        Instant::now().checked_add(self.shared().options.patience)
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.0
    }

    /// A connection, waited for until then, or for ever. An error that goes away by itself is none before
    /// the deadline.
    pub(super) async fn client_before(&self, deadline: Option<Instant>) -> Result<Client, Error> {
        let shared = self.shared();
        if let Some(client) = shared.lock().living() {
            return Ok(client);
        }
        let _waiting = Waiting::new(shared);
        let mut changed = shared.changed.subscribe();
        let mut failures = shared.lock().failures;
        let mut last_error = None;
        loop {
            {
                let state = shared.lock();
                if let Some(client) = state.living() {
                    return Ok(client);
                }
                if state.failures > failures {
                    failures = state.failures;
                    last_error = state.failure.as_ref().map(Error::again);
                }
                if let Some(error) = last_error.take_if(|error| !is_passing(error)) {
                    return Err(error);
                }
            }
            if !shared.is_kept_from_now() {
                // The runtime is ending, and this is its chance to end this task.
                yield_now().await;
            }
            // The sender is in `shared`, so there is always a next time.
            match deadline {
                Some(deadline) => {
                    if tokio::time::timeout_at(deadline, changed.changed())
                        .await
                        .is_err()
                    {
                        return Err(last_error.unwrap_or(Error::Timeout));
                    }
                }
                None => drop(changed.changed().await),
            }
        }
    }
}

impl LinkBuilder {
    /// What each connection is made with: name, token, timeouts.
    pub fn connection(mut self, client: Builder) -> LinkBuilder {
        self.client = client;
        self
    }

    /// How long a call waits for a connection, and tries again what may be tried again. By default
    /// [`PATIENCE`]. An answer is waited for by [`Builder::reply_timeout`] besides.
    pub fn patience(mut self, patience: Duration) -> LinkBuilder {
        self.patience = patience;
        self
    }

    /// The pauses between attempts to connect: the first, and the longest, towards which they double.
    /// Each is cut short by up to a half at random. By default 20 ms and 2 s.
    pub fn pauses(mut self, first: Duration, longest: Duration) -> LinkBuilder {
        let longest = longest.max(first);
        self.pauses = Pauses { first, longest };
        self
    }

    /// The link. Nothing is connected before something is asked.
    #[must_use]
    pub fn link(self, address: Address) -> Link {
        let state = State {
            client: None,
            upheld: Upheld::default(),
            waiting: 0,
            failure: None,
            failures: 0,
            keeper: None,
        };
        Link(Arc::new(Handle(Arc::new(Shared {
            address,
            options: self,
            state: Mutex::new(state),
            wanted: Notify::new(),
            changed: watch::Sender::new(()),
        }))))
    }

    pub(super) fn backoff(&self) -> Backoff {
        Backoff::new(self.pauses)
    }
}

impl Link {
    pub(super) fn options(&self) -> &LinkBuilder {
        &self.shared().options
    }
}

impl Announcement {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Gives the entry another value, now and on each new connection. From the call on: dropping the
    /// future only leaves open whether the present connection has it.
    ///
    /// # Errors
    /// As [`Link::put`]. Also where it fails for want of a connection, the next one gets the value.
    pub fn set<T: Serialize + ?Sized>(&self, value: &T) -> Pending<u64> {
        let put = Value::of(value).and_then(|value| session_put(&self.key, value));
        let put = match put {
            Ok(put) => put,
            Err(error) => return Pending::new(async move { Err(error) }),
        };
        let mut state = self.link.shared().lock();
        state.upheld.announced.set(self.number, put.clone());
        drop(state);
        // To put a session entry twice does no harm: it is this link's alone.
        let written = self.link.read(move |client| client.put_with(put.clone()));
        Pending::new(async move { Ok(written.await?.rev) })
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        let mut state = self.link.shared().lock();
        let gone = state.upheld.announced.remove(self.number);
        let client = state.client.clone();
        drop(state);
        if let (Some(client), Some(key)) = (client, gone) {
            // Without a connection the daemon lets the entry go by itself.
            tell_deletion(&client, &key);
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        let (keeper, client) = (state.keeper.take(), state.client.take());
        drop(state);
        let task = keeper.as_ref().and_then(|keeper| keeper.get());
        task.inspect(|task| task.abort());
        drop(client);
    }
}

impl Waiting<'_> {
    fn new(shared: &Shared) -> Waiting<'_> {
        shared.lock().waiting += 1;
        shared.wanted.notify_one();
        Waiting(shared)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.keeper = None;
        let client = state.client.take();
        drop(state);
        drop(client);
        self.0.changed.send_replace(());
    }
}

impl Shared {
    /// Makes sure that there is a keeper. Must be called within a runtime; if that is ending there is
    /// none.
    fn is_kept_from_now(self: &Arc<Shared>) -> bool {
        let mut state = self.lock();
        if state.keeper.is_some() {
            return true;
        }
        let keeper = Arc::new(OnceLock::new());
        state.keeper = Some(Arc::clone(&keeper));
        // A runtime that is ending drops the task here, and that wants the lock.
        drop(state);
        let task = tokio::spawn(keep(Kept(Arc::clone(self))));
        keeper.get_or_init(|| task.abort_handle());
        self.lock().keeper.is_some()
    }

    /// Makes a connection on which everything is upheld, and tells whether the daemon has refused an
    /// announcement, which is no reason to be without one.
    async fn connect(&self) -> Result<(Client, bool), Error> {
        let client = self.options.client.connect(&self.address).await?;
        let is_refused = self.uphold(&client).await?;
        Ok((client, is_refused))
    }

    /// Claims everything and then announces everything on a connection, which is the link's from then on.
    async fn uphold(&self, client: &Client) -> Result<bool, Error> {
        let upheld = self.lock().upheld.clone();
        let connection = client.connection();
        let mut claims = Vec::new();
        for key in upheld.claimed.keys() {
            let op = Op::Claim { key: key.into() };
            claims.push((
                key,
                connection.submit(|exchange| exchange.request(op)).await?,
            ));
        }
        let mut puts = Vec::new();
        for put in upheld.announced.puts() {
            let op = Op::Put(put.0.clone());
            puts.push(connection.submit(|exchange| exchange.request(op)).await?);
        }
        let mut reception = Reception::default();
        for (key, ticket) in claims {
            let outcome = match response::revision(connection.answer(ticket).await?) {
                Ok(rev) => Ok(rev),
                Err(Error::Server(failure)) => Err(failure),
                Err(error) => return Err(error),
            };
            reception.claims.push((key.to_owned(), outcome));
        }
        for ticket in puts {
            reception.is_refused |= connection.answer(ticket).await?.is_err();
        }
        self.received(client, &upheld, &reception);
        Ok(reception.is_refused)
    }

    /// Takes down what became of what was to be upheld, and takes back what has ceased to be meanwhile. All
    /// at one moment, so that this is told from here or from where it ceases.
    fn received(&self, client: &Client, upheld: &Upheld, reception: &Reception) {
        let mut state = self.lock();
        for (key, outcome) in &reception.claims {
            state.upheld.claimed.settle(key, outcome, client.epoch());
        }
        for key in state.upheld.announced.gone_since(&upheld.announced) {
            tell_deletion(client, key);
        }
        for key in state.upheld.claimed.gone_since(&upheld.claimed) {
            tell_release(client, key);
        }
        state.client = Some(client.clone());
        drop(state);
        self.changed.send_replace(());
    }

    /// Takes down what came of claiming a key, if the connection is still the one that is used: else
    /// another one knows better.
    fn settle(&self, client: &Client, key: &str, outcome: &Outcome) -> bool {
        let mut state = self.lock();
        let used = state.client.as_ref();
        let is_used = used.is_some_and(|used| used.is_same(client));
        if is_used {
            state.upheld.claimed.settle(key, outcome, client.epoch());
        }
        drop(state);
        self.changed.send_replace(());
        is_used
    }

    fn failed(&self, error: Error) {
        let mut state = self.lock();
        state.failures += 1;
        state.failure = Some(error);
        drop(state);
        self.changed.send_replace(());
    }

    async fn until_wanted(&self) {
        loop {
            {
                let state = self.lock();
                if state.waiting > 0 || !state.upheld.is_empty() {
                    return;
                }
            }
            self.wanted.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn living(&self) -> Option<Client> {
        self.client
            .as_ref()
            .filter(|client| !client.is_closed())
            .cloned()
    }
}

/// The keeper: makes the connection whenever one is wanted and there is none.
async fn keep(kept: Kept) {
    let shared = &kept.0;
    let silence = silence_of(&shared.address);
    let mut backoff = shared.options.backoff();
    loop {
        shared.until_wanted().await;
        match shared.connect().await {
            Ok((client, mut is_refused)) => {
                let start = Instant::now();
                shared.changed.send_replace(());
                while is_refused
                    && timeout(REFUSED_PAUSE, until_lost(&client, silence))
                        .await
                        .is_err()
                {
                    // A connection that is lost is noticed right after this.
                    is_refused = shared.uphold(&client).await.unwrap_or(false);
                }
                until_lost(&client, silence).await;
                shared.lock().client = None;
                sleep(backoff.pause_after(start.elapsed())).await;
            }
            Err(error) => {
                shared.failed(error);
                sleep(backoff.pause()).await;
            }
        }
    }
}

/// Waits for the end of a connection. Where a peer can vanish without a word, it is asked for one.
async fn until_lost(client: &Client, silence: Option<Duration>) {
    let Some(silence) = silence else {
        return client.closed().await;
    };
    while timeout(silence, client.closed()).await.is_err() {
        if !matches!(timeout(silence, client.ping()).await, Ok(Ok(()))) {
            client.close();
        }
    }
}

fn tell_deletion(client: &Client, key: &str) {
    client.connection().tell(Op::Delete(Delete {
        key: key.into(),
        if_rev: None,
    }));
}

fn is_before(deadline: Option<Instant>) -> bool {
    deadline.is_none_or(|deadline| Instant::now() < deadline)
}
