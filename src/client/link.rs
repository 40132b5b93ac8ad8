//! A connection that comes back: requests find one that works, and presence and claims are kept up.
//!
//! A [`Client`] is one connection, and ends with it. A [`Link`] stands for the daemon: it connects when
//! something is asked, and again after a connection is lost, with pauses that grow and differ
//! from client to client, so that a daemon which starts again is not met by all at once.
//!
//! **What is asked again.** Each call has so much [patience](LinkBuilder::patience), in which it
//! tries again what surely changed nothing: where there was no connection, where the request was not
//! sent, and whatever only reads. A request that was sent and not answered may have been carried out.
//! It is asked again only where that does no harm ([`Link::put_with`] tells when), and else reported
//! as [`Error::Unanswered`].
//!
//! **Who connects.** Whoever needs a connection and finds none makes it, one at a time; the others wait
//! for the outcome. Where entries are [announced](Link::announce) or keys [claimed](Link::claim) a
//! thread waits for the end of the connection, so that they come back while nobody asks anything.
//! Without them there is no thread.
//!
//! **What is upheld.** On each new connection the claims are made first and then the announcements, which
//! may lie in what is claimed, and only then the connection is anybody else's.

mod claim;

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::announced::{Announced, session_put};
use super::backoff::{Backoff, Pauses};
use super::claimed::{Claimed, Outcome};
use super::retry::{self, Attempts, Update, is_passing, is_unsent};
use super::{Batch, Builder, Client, Entry, Error, Put, Value, Written};
use crate::address::Address;
use crate::wire::{ErrorCode, Failure};

pub use claim::Claim;

/// How long a call tries where nothing else is said.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long a TCP peer may be silent before it is asked for a sign of life.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// A daemon that is reached whenever it can be. Clones share the connection; it is closed with the
/// last of them, and of the mirrors, announcements and claims made with it.
#[derive(Clone, Debug)]
pub struct Link(Arc<Shared>);

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

#[derive(Debug)]
struct Shared {
    address: Address,
    options: LinkBuilder,
    state: Mutex<State>,
    /// Signalled when a connection is made or given up, and when something is to stop.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    client: Option<Client>,
    is_connecting: bool,
    /// Since when there is the connection.
    since: Instant,
    backoff: Backoff,
    /// No attempt before this.
    next_attempt: Option<Instant>,
    upheld: Upheld,
    /// Whether the daemon has refused an announcement.
    is_refused: bool,
    has_keeper: bool,
}

/// What there is to be on each connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Upheld {
    pub(super) claimed: Claimed,
    pub(super) announced: Announced,
}

#[cfg(feature = "async")]
impl Upheld {
    pub(super) fn is_empty(&self) -> bool {
        self.claimed.is_empty() && self.announced.is_empty()
    }
}

/// What the daemon has said to all that; whether it has refused an announcement.
#[derive(Debug, Default)]
pub(super) struct Reception {
    pub(super) claims: Vec<(String, Outcome)>,
    pub(super) is_refused: bool,
}

impl Link {
    /// A link to the daemon at this address (a path or `HOST:PORT`, see [`Address`]). Nothing is
    /// connected before something is asked.
    ///
    /// # Errors
    /// [`Error::Address`] where the text is no address.
    ///
    /// ```no_run
    /// use nkv::client::Link;
    /// let link = Link::new("/run/nkv.sock")?;
    /// link.put("net.eth0.mtu", &1500)?; // connects, and waits for a daemon that is just starting
    /// # Ok::<(), nkv::client::Error>(())
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
        &self.0.address
    }

    /// A connection that was not known to be lost a moment ago, for whatever [`Client`] can do. It
    /// waits for one as long as [the patience](LinkBuilder::patience) lasts.
    ///
    /// # Errors
    /// Why the last attempt failed, see [`Builder::connect`], but never [`Error::Unanswered`] or
    /// [`Error::Timeout`]: nothing was asked yet. What does not go away by itself, as a daemon that
    /// refuses the token, is reported at once.
    pub fn client(&self) -> Result<Client, Error> {
        self.0.client(self.deadline(), &|| false)
    }

    /// As [`Client::put`], but that it waits for a connection.
    ///
    /// # Errors
    /// As [`Client::put`] and [`Link::client`]. With [`Error::Unanswered`] and [`Error::Timeout`] the
    /// put's fate is unknown: it was sent once, and is not sent again.
    pub fn put<T: Serialize + ?Sized>(
        &self,
        key: impl AsRef<str>,
        value: &T,
    ) -> Result<u64, Error> {
        Ok(self.put_with(Put::new(key, Value::of(value)?)?)?.rev)
    }

    /// As [`Client::put_with`], but that it waits for a connection, and that a put which may be
    /// repeated is repeated when its answer is lost:
    ///
    /// - with [`Put::if_changed`], because putting a value that is there already does nothing;
    /// - with [`Put::if_rev`], as long as the daemon's history is the same, because a put that was carried
    ///   out has changed the revision. Where the repetition is refused for that
    ///   ([`ErrorCode::Conflict`]), it may have been this very put that changed it, or somebody else's.
    ///   The fate is then unknown, and the error is [`Error::Unanswered`].
    ///
    /// # Errors
    /// As [`Link::put`]; [`Put::if_rev`] as in [`Client::put_with`].
    pub fn put_with(&self, put: Put) -> Result<Written, Error> {
        let deadline = self.deadline();
        let mut attempts = Attempts::new(&put);
        loop {
            let client = self.0.client(deadline, &|| false);
            let client = client.map_err(|error| attempts.fate(error))?;
            attempts.begin(client.epoch())?;
            let done = client.put_with(put.clone());
            if let Some(done) = attempts.end(done, client.epoch(), is_before(deadline)) {
                return done;
            }
        }
    }

    /// As [`Client::get`], asked again after a lost connection.
    ///
    /// # Errors
    /// As [`Client::get`] and [`Link::client`].
    pub fn get<T: DeserializeOwned>(
        &self,
        key: impl AsRef<str>,
    ) -> Result<Option<Entry<T>>, Error> {
        self.read(|client| client.get(key.as_ref()))
    }

    /// As [`Client::get_value`], asked again after a lost connection.
    ///
    /// # Errors
    /// As [`Client::get`] and [`Link::client`].
    pub fn get_value(&self, key: impl AsRef<str>) -> Result<Option<Entry>, Error> {
        self.read(|client| client.get_value(key.as_ref()))
    }

    /// Every entry that matches a pattern, asked for from the start again after a lost connection. For
    /// more than a few thousand, [`Client::list`] needs less memory.
    ///
    /// # Errors
    /// As [`Client::list`] and [`Link::client`].
    pub fn list(&self, pattern: impl AsRef<str>) -> Result<Vec<Entry>, Error> {
        self.read(|client| client.list(pattern.as_ref())?.collect())
    }

    /// As [`Client::delete`], but that it waits for a connection.
    ///
    /// # Errors
    /// As [`Link::put`]. A deletion whose answer is lost is not sent again: it could take away what somebody
    /// else has put meanwhile.
    pub fn delete(&self, key: impl AsRef<str>) -> Result<bool, Error> {
        self.write(|client| client.delete(key.as_ref()))
    }

    /// Carries out a batch, but that it waits for a connection. The operations are added by the
    /// function, which is called again for each attempt; an attempt is made again only where the
    /// one before was not sent.
    ///
    /// # Errors
    /// As [`Batch::commit`] and [`Link::put`].
    ///
    /// ```no_run
    /// # let link = nkv::client::Link::new("/run/nkv.sock")?;
    /// link.batch(|batch| batch.put("net.generation", &18).delete("net.eth1.*"))?;
    /// # Ok::<(), nkv::client::Error>(())
    /// ```
    pub fn batch(&self, add: impl Fn(Batch<'_>) -> Batch<'_>) -> Result<u64, Error> {
        self.write(|client| add(client.batch()).commit())
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
    /// # let link = nkv::client::Link::new("/run/nkv.sock")?;
    /// link.update("jobs.done", |done: Option<u64>| Some(done.unwrap_or(0) + 1))?;
    /// # Ok::<(), nkv::client::Error>(())
    /// ```
    pub fn update<T: Serialize + DeserializeOwned>(
        &self,
        key: impl AsRef<str>,
        mut change: impl FnMut(Option<T>) -> Option<T>,
    ) -> Result<u64, Error> {
        let key = key.as_ref();
        let deadline = self.deadline();
        loop {
            let put = match retry::update(key, self.get::<T>(key)?, &mut change)? {
                Update::Put(put) => put,
                Update::Nothing { rev } => return Ok(rev),
            };
            match self.put_with(put) {
                Err(error) if error.code() == Some(ErrorCode::Conflict) && is_before(deadline) => {}
                done => return Ok(done?.rev),
            }
        }
    }

    /// Puts a `session` entry and keeps it there: it is put again on each new connection, until what
    /// this returns is dropped. While there is no connection the daemon lets the entry go; over a
    /// restart of the daemon it stays for 10 s, which a link uses to come back.
    ///
    /// # Errors
    /// As [`Link::put`].
    ///
    /// ```no_run
    /// # let link = nkv::client::Link::new("/run/nkv.sock")?;
    /// let present = link.announce("present.camera", &true)?;
    /// // ... as long as `present` lives ...
    /// # drop(present);
    /// # Ok::<(), nkv::client::Error>(())
    /// ```
    pub fn announce<T: Serialize + ?Sized>(
        &self,
        key: impl AsRef<str>,
        value: &T,
    ) -> Result<Announcement, Error> {
        self.announce_value(key, Value::of(value)?)
    }

    /// As [`Link::announce`], with a value that is one already: JSON text or raw bytes.
    ///
    /// # Errors
    /// As [`Link::put`].
    pub fn announce_value(
        &self,
        key: impl AsRef<str>,
        value: Value,
    ) -> Result<Announcement, Error> {
        let put = session_put(key.as_ref(), value)?;
        let key = put.key().to_owned();
        // A connection that is made from here on announces it by itself.
        self.client()?;
        let number = self.0.lock().upheld.announced.add(put.clone());
        let announcement = Announcement {
            link: self.clone(),
            number,
            key,
        };
        // Where this fails, the announcement takes itself back.
        announcement.put_now(put)?;
        self.0.keep()?;
        Ok(announcement)
    }

    /// Asks, and asks again only what was not sent.
    fn write<R>(&self, ask: impl Fn(&Client) -> Result<R, Error>) -> Result<R, Error> {
        let deadline = self.deadline();
        loop {
            let client = self.0.client(deadline, &|| false)?;
            match ask(&client) {
                Err(error) if is_unsent(&error) && is_before(deadline) => {}
                done => return done,
            }
        }
    }

    /// Asks, and asks again after a lost connection: for what does no harm when it is done twice.
    fn read<R>(&self, ask: impl Fn(&Client) -> Result<R, Error>) -> Result<R, Error> {
        let deadline = self.deadline();
        loop {
            let client = self.0.client(deadline, &|| false)?;
            match ask(&client) {
                Err(error) if error.is_disconnect() && is_before(deadline) => {
                    self.0.forget(&client);
                }
                done => return done,
            }
        }
    }

    fn deadline(&self) -> Instant {
        instant_after(self.0.options.patience)
    }

    /// A connection, waited for until then (else for ever), or until `is_stopped` says so.
    pub(super) fn client_until(
        &self,
        deadline: Option<Instant>,
        is_stopped: &dyn Fn() -> bool,
    ) -> Result<Client, Error> {
        let deadline = deadline.unwrap_or_else(|| instant_after(FOR_EVER));
        self.0.client(deadline, is_stopped)
    }

    /// Lets those who wait look at whether they are stopped.
    pub(super) fn wake(&self) {
        let _state = self.0.lock();
        self.0.changed.notify_all();
    }
}

/// How long the keeper holds on to a link that is being dropped, at most.
const KEEPER_STEP: Duration = Duration::from_secs(1);

/// How long what was refused is not announced again.
pub(super) const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// A hundred years.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The end of a duration from now on; of one that has no end to speak of, in a hundred years.
pub(super) fn instant_after(duration: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(duration).unwrap_or_else(|| now + FOR_EVER)
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
            is_connecting: false,
            since: Instant::now(),
            backoff: Backoff::new(self.pauses),
            next_attempt: None,
            upheld: Upheld::default(),
            is_refused: false,
            has_keeper: false,
        };
        Link(Arc::new(Shared {
            address,
            options: self,
            state: Mutex::new(state),
            changed: Condvar::new(),
        }))
    }
}

impl Announcement {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Gives the entry another value, now and on each new connection.
    ///
    /// # Errors
    /// As [`Link::put`]. Also where it fails for want of a connection, the next one gets the value.
    pub fn set<T: Serialize + ?Sized>(&self, value: &T) -> Result<u64, Error> {
        let put = session_put(&self.key, Value::of(value)?)?;
        let mut state = self.link.0.lock();
        state.upheld.announced.set(self.number, put.clone());
        drop(state);
        self.put_now(put)
    }

    fn put_now(&self, put: Put) -> Result<u64, Error> {
        // To put a session entry twice does no harm: it is this link's alone.
        let written = self.link.read(|client| client.put_with(put.clone()))?;
        Ok(written.rev)
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        let mut state = self.link.0.lock();
        let gone = state.upheld.announced.remove(self.number);
        let client = state.client.clone();
        drop(state);
        if let (Some(client), Some(key)) = (client, gone) {
            // Without a connection the daemon lets the entry go by itself.
            let _ = client.pipeline().delete(key);
        }
    }
}

impl Shared {
    /// The connection that there is, or a new one.
    fn client(&self, deadline: Instant, is_stopped: &dyn Fn() -> bool) -> Result<Client, Error> {
        let mut state = self.lock();
        let mut last_error = None;
        loop {
            if is_stopped() {
                return Err(Error::Closed);
            }
            if let Some(client) = &state.client {
                let client = client.clone();
                drop(state);
                // Looks at the socket, so not under the lock.
                if !client.is_closed() {
                    return Ok(client);
                }
                state = self.lock();
                state.forget(&client);
                continue;
            }
            let now = Instant::now();
            if now >= deadline && last_error.is_some() {
                return Err(self.not_reached(last_error));
            }
            let wait = match state.next_attempt {
                _ if state.is_connecting => deadline,
                Some(at) if at > now => at.min(deadline),
                _ => {
                    state.is_connecting = true;
                    let upheld = state.upheld.clone();
                    drop(state);
                    let made = self.connect(&upheld);
                    state = self.lock();
                    state.is_connecting = false;
                    self.changed.notify_all();
                    match made {
                        Ok((client, reception)) => {
                            state.received(&client, &upheld, reception);
                            state.since = Instant::now();
                            state.next_attempt = None;
                            state.client = Some(client);
                        }
                        Err(error) if !is_passing(&error) => return Err(error),
                        Err(error) => {
                            let pause = state.backoff.pause();
                            state.next_attempt = Some(Instant::now() + pause);
                            last_error = Some(error);
                        }
                    }
                    continue;
                }
            };
            let patience = wait.saturating_duration_since(now);
            if patience.is_zero() && last_error.is_none() {
                // Others are trying, or have just failed.
                return Err(self.not_reached(None));
            }
            let waited = self.changed.wait_timeout(state, patience);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Why there is no connection, in words that say that nothing was asked over it: a greeting whose
    /// fate is unknown is no request of the caller's.
    fn not_reached(&self, error: Option<Error>) -> Error {
        match error {
            Some(Error::Unanswered(cause)) => *cause,
            Some(Error::Timeout) | None => Error::Connect {
                address: self.address.clone(),
                source: io::ErrorKind::TimedOut.into(),
            },
            Some(error) => error,
        }
    }

    /// Makes a connection on which everything is upheld, but what the daemon refuses: that is no
    /// reason to be without one.
    fn connect(&self, upheld: &Upheld) -> Result<(Client, Reception), Error> {
        let client = self.options.client.connect(&self.address)?;
        let reception = uphold(&client, upheld)?;
        Ok((client, reception))
    }

    /// Claims and announces everything once more, because an announcement was refused.
    fn uphold_again(&self, client: &Client) {
        let upheld = self.lock().upheld.clone();
        // A connection that is lost is noticed by whoever waits for its end.
        if let Ok(reception) = uphold(client, &upheld) {
            let mut state = self.lock();
            if state.uses(client) {
                state.received(client, &upheld, reception);
                self.changed.notify_all();
            }
        }
    }

    /// Takes down what came of claiming a key, if the connection is still the one that is used: else
    /// another one knows better.
    fn settle(&self, client: &Client, key: &str, outcome: &Outcome) -> bool {
        let mut state = self.lock();
        let is_used = state.uses(client);
        if is_used {
            state.upheld.claimed.settle(key, outcome, client.epoch());
            self.changed.notify_all();
        }
        is_used
    }

    /// Sees to it that a connection is made again while nobody asks anything.
    fn keep(self: &Arc<Shared>) -> Result<(), Error> {
        let mut state = self.lock();
        if state.has_keeper {
            return Ok(());
        }
        let weak = Arc::downgrade(self);
        std::thread::Builder::new()
            .name("nkv-link".into())
            .spawn(move || keep_connected(&weak))
            .map_err(Error::Io)?;
        state.has_keeper = true;
        Ok(())
    }

    fn forget(&self, client: &Client) {
        self.lock().forget(client);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes down what became of what was to be upheld, and takes back what has ceased to be meanwhile.
    fn received(&mut self, client: &Client, upheld: &Upheld, reception: Reception) {
        for (key, outcome) in &reception.claims {
            self.upheld.claimed.settle(key, outcome, client.epoch());
        }
        self.is_refused = reception.is_refused;
        // A connection that is lost again takes the entries along.
        for key in self.upheld.announced.gone_since(&upheld.announced) {
            let _ = client.pipeline().delete(key);
        }
        for key in self.upheld.claimed.gone_since(&upheld.claimed) {
            let _ = client.pipeline().release(key);
        }
    }

    fn uses(&self, client: &Client) -> bool {
        let used = self.client.as_ref();
        used.is_some_and(|used| used.is_same(client))
    }

    /// Drops a connection that is lost, if it is still the one that is used.
    fn forget(&mut self, client: &Client) {
        if self.uses(client) {
            self.client = None;
            let pause = self.backoff.pause_after(self.since.elapsed());
            self.next_attempt = Some(Instant::now() + pause);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &state.client {
            // Wakes the keeper, which finds nothing to keep.
            client.close();
        }
    }
}

/// Makes the connection anew whenever it is lost, until the link is gone.
fn keep_connected(link: &Weak<Shared>) {
    while let Some(shared) = link.upgrade() {
        let is_gone = || Arc::strong_count(&shared) == 1;
        let made = shared.client(instant_after(KEEPER_STEP), &is_gone);
        let silence = silence_of(&shared.address);
        match made {
            Ok(client) => {
                let again = shared.lock().is_refused.then_some(REFUSED_PAUSE);
                // What it waits for comes with the end of the link, too.
                drop(shared);
                let has_ended = client.connection().wait_for_end(silence, again);
                if !has_ended && let Some(shared) = link.upgrade() {
                    shared.uphold_again(&client);
                }
            }
            Err(error) if is_passing(&error) => {}
            // A daemon that won't have this client may be another one later.
            Err(_) => {
                let state = shared.lock();
                drop(shared.changed.wait_timeout(state, KEEPER_STEP));
            }
        }
    }
}

/// How long a peer at this address may be silent, where it can vanish without a word.
pub(super) fn silence_of(address: &Address) -> Option<Duration> {
    matches!(address, Address::Tcp(_)).then_some(SILENCE_MAX)
}

/// Claims everything and then announces everything. What the daemon refuses is no failure.
fn uphold(client: &Client, upheld: &Upheld) -> Result<Reception, Error> {
    let pipeline = client.pipeline();
    let claims: Vec<_> = upheld
        .claimed
        .keys()
        .into_iter()
        .map(|key| Ok((key, pipeline.claim(key)?)))
        .collect::<Result<_, Error>>()?;
    let puts: Vec<_> = upheld
        .announced
        .puts()
        .map(|put| pipeline.put_with(put.clone()))
        .collect::<Result<_, _>>()?;
    let mut reception = Reception::default();
    for (key, claim) in claims {
        let outcome = refusal(claim.wait())?;
        reception.claims.push((key.to_owned(), outcome));
    }
    for put in puts {
        reception.is_refused |= refusal(put.wait())?.is_err();
    }
    Ok(reception)
}

/// Tells a refusal from what ends a connection.
fn refusal<T>(answered: Result<T, Error>) -> Result<Result<T, Failure>, Error> {
    match answered {
        Ok(answer) => Ok(Ok(answer)),
        Err(Error::Server(failure)) => Ok(Err(failure)),
        Err(error) => Err(error),
    }
}

fn is_before(deadline: Instant) -> bool {
    Instant::now() < deadline
}
