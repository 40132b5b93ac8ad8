//! A program's own copy of a part of the keyspace, which keeps itself up to date.
//!
//! A [`Mirror`] is read without asking anybody: its thread follows the daemon, over lost connections and
//! restarts, and changes the copy from one consistent state to the next. A [`Follower`] is the same
//! without a thread: the copy moves when its owner asks for the next [`Cut`].
//!
//! **A slow handler** delays its own mirror and nothing else. What happens meanwhile is not queued for it:
//! when it comes back it is told what is different then (see `client/inbox.rs`, and the daemon's way
//! with slow subscribers).
//!
//! **After a lost connection** it goes on at its last cut (`since`). Where the daemon can't tell any more
//! what has changed, all entries come again and are compared with the copy; what `client/mirror/replica.rs`
//! reports is the true difference, deletions included. Until then the copy stays as it is.

pub(super) mod replica;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::connection;
use super::link::{instant_after, silence_of};
use super::retry::is_passing;
use super::{Error, Link, Subscription, SubscriptionEnder, Value};
use crate::key::{Key, Pattern};
use replica::{Gatherer, Held, Parse, Replica};

pub use replica::{Change, Cut};

/// How long a mirror pauses after a refusal that may last.
pub(super) const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// What a mirror is made with. See [`Link::mirror`].
#[must_use = "nothing is mirrored until `start` or `follow` is called"]
pub struct MirrorBuilder<T = Value> {
    link: Link,
    pattern: Pattern,
    is_exact: bool,
    parse: Parse<T>,
    handlers: Vec<Handler<T>>,
}

type Handler<T> = Box<dyn FnMut(&Cut<T>) + Send>;

/// A copy of a part of the keyspace, kept up to date by a thread of its own. Dropping it ends the
/// thread, and waits for a handler that is running.
///
/// ```no_run
/// use nkv::client::{Change, Link};
/// use std::time::Duration;
///
/// let link = Link::new("/run/nkv.sock")?;
/// let ports = link
///     .mirror("config.*.port")?
///     .typed::<u16>()
///     .on_change(|change| match change {
///         Change::Created { key, value, .. } => println!("{} is {value}", key.as_str()),
///         Change::Modified { key, value, .. } => println!("{} is now {value}", key.as_str()),
///         Change::Deleted { key, .. } => println!("{} is gone", key.as_str()),
///         other => println!("{} is no port", other.key().as_str()),
///     })
///     .start()?;
/// ports.wait_until_synced(Duration::from_secs(10))?;
/// println!("{:?}", ports.get("config.web.port"));
/// # Ok::<(), nkv::client::Error>(())
/// ```
pub struct Mirror<T = Value> {
    shared: Arc<Shared<T>>,
    link: Link,
    thread: Option<JoinHandle<()>>,
}

/// A mirror without a thread: its copy moves on when [`Follower::next_cut`] is called.
///
/// As an iterator it blocks until there is a cut, reconnects by itself, and yields an error only where
/// that does not go away by itself, such as a refused token. It may be asked again afterwards.
pub struct Follower<T = Value> {
    link: Link,
    pattern: Pattern,
    is_exact: bool,
    shared: Arc<Shared<T>>,
    live: Option<Live>,
}

/// One consistent state of a mirror, to be read as a whole. While it is held the copy does not move on.
pub struct View<'m, T = Value>(pub(super) RwLockReadGuard<'m, Replica<T>>);

struct Live {
    subscription: Subscription,
    gatherer: Gatherer,
}

/// What the copy's readers and the one who keeps it have in common.
struct Shared<T> {
    replica: RwLock<Replica<T>>,
    status: Mutex<Status>,
    changed: Condvar,
    is_stopped: AtomicBool,
}

#[derive(Default)]
struct Status {
    /// How many cuts there have been.
    cuts: u64,
    is_connected: bool,
    /// Why there is no connection, where there is none.
    error: Option<Arc<Error>>,
    ender: Option<SubscriptionEnder>,
}

impl Link {
    /// Describes a mirror of a key or pattern and all that lies below, as a subscription covers it.
    ///
    /// # Errors
    /// [`Error::Key`] where the text is no pattern.
    pub fn mirror(&self, pattern: impl AsRef<str>) -> Result<MirrorBuilder, Error> {
        Ok(MirrorBuilder {
            link: self.clone(),
            pattern: Pattern::new(pattern.as_ref())?,
            is_exact: false,
            parse: |raw| Ok(Arc::clone(raw)),
            handlers: Vec::new(),
        })
    }
}

impl MirrorBuilder {
    /// Reads every value as a type of the caller's. One that is not of that type is reported as
    /// [`Change::Invalid`].
    pub fn typed<T: DeserializeOwned>(self) -> MirrorBuilder<T> {
        assert!(self.handlers.is_empty(), "handlers come after the type");
        MirrorBuilder {
            link: self.link,
            pattern: self.pattern,
            is_exact: self.is_exact,
            parse: |raw| raw.json().map(Arc::new),
            handlers: Vec::new(),
        }
    }
}

impl<T> MirrorBuilder<T> {
    /// Only keys that match the pattern, not what lies below them.
    pub fn exact(mut self) -> MirrorBuilder<T> {
        self.is_exact = true;
        self
    }

    /// Adds a function that is called with each change, one after the other, on the mirror's thread
    /// and after the copy has moved on.
    pub fn on_change(
        self,
        mut handle: impl FnMut(&Change<T>) + Send + 'static,
    ) -> MirrorBuilder<T> {
        self.on_cut(move |cut| cut.changes.iter().for_each(&mut handle))
    }

    /// Adds a function that is called with all changes between two consistent states at once. It is
    /// called for each such state, the first one included, also where nothing has changed.
    pub fn on_cut(mut self, handle: impl FnMut(&Cut<T>) + Send + 'static) -> MirrorBuilder<T> {
        self.handlers.push(Box::new(handle));
        self
    }

    /// A mirror without a thread. Handlers that were added are dropped: the cuts are returned.
    #[must_use]
    pub fn follow(self) -> Follower<T> {
        Follower {
            link: self.link,
            pattern: self.pattern,
            is_exact: self.is_exact,
            shared: Arc::new(Shared {
                replica: RwLock::new(Replica::new(self.parse)),
                status: Mutex::default(),
                changed: Condvar::new(),
                is_stopped: AtomicBool::new(false),
            }),
            live: None,
        }
    }
}

impl<T: Send + Sync + 'static> MirrorBuilder<T> {
    /// Begins to mirror. It returns at once; [`Mirror::wait_until_synced`] waits for the first state.
    ///
    /// # Errors
    /// [`Error::Io`] where there can be no thread.
    pub fn start(mut self) -> Result<Mirror<T>, Error> {
        let handlers = std::mem::take(&mut self.handlers);
        let link = self.link.clone();
        let follower = self.follow();
        let shared = Arc::clone(&follower.shared);
        let thread = std::thread::Builder::new()
            .name("nkv-mirror".into())
            .spawn(move || keep(follower, handlers))
            .map_err(Error::Io)?;
        Ok(Mirror {
            shared,
            link,
            thread: Some(thread),
        })
    }
}

impl<T> Mirror<T> {
    /// The value of a key, as the mirror has it; none where there is no such key, or its value is not
    /// of the mirror's type.
    #[must_use]
    pub fn get(&self, key: impl AsRef<str>) -> Option<Arc<T>> {
        self.view().get(key).cloned()
    }

    /// One state of the copy, to be read as a whole: several keys that belong together, or all.
    #[must_use]
    pub fn view(&self) -> View<'_, T> {
        self.shared.view()
    }

    /// Waits until the copy is whole for the first time.
    ///
    /// # Errors
    /// [`Error::Timeout`], or why there was no connection, where that takes longer.
    pub fn wait_until_synced(&self, timeout: Duration) -> Result<(), Error> {
        self.shared.wait_until(timeout, |_| true)
    }

    /// Waits until the copy is whole and the function finds in it what it looks for. It is asked again
    /// for each state that the copy takes.
    ///
    /// # Errors
    /// As [`Mirror::wait_until_synced`].
    pub fn wait_until(
        &self,
        timeout: Duration,
        is_so: impl Fn(&View<'_, T>) -> bool,
    ) -> Result<(), Error> {
        self.shared.wait_until(timeout, is_so)
    }

    /// Whether it hears the daemon at this moment. Where it does not, the copy stays as it was.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.shared.status().is_connected
    }

    /// Why it has no connection, where it has none and has tried.
    #[must_use]
    pub fn error(&self) -> Option<Arc<Error>> {
        self.shared.status().error.clone()
    }
}

impl<T> Drop for Mirror<T> {
    fn drop(&mut self) {
        self.shared.stop(&self.link);
        if let Some(thread) = self.thread.take()
            // A handler may hold its own mirror.
            && thread.thread().id() != std::thread::current().id()
        {
            // A handler that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl<T> Follower<T> {
    /// Waits for the next consistent state, and moves the copy there. `None` where there was none in
    /// time; with no time given it waits for ever.
    ///
    /// # Errors
    /// What does not go away by itself, such as a refused token. It may be asked again.
    pub fn next_cut(&mut self, timeout: Option<Duration>) -> Result<Option<Cut<T>>, Error> {
        let deadline = connection::deadline(timeout);
        let silence = silence_of(self.link.address());
        while !self.shared.is_stopped() {
            let Some(live) = &mut self.live else {
                match self.connect(deadline) {
                    Ok(()) => continue,
                    Err(error) if is_passing(&error) => {
                        let is_refused = error.code().is_some();
                        self.shared.lost(error);
                        if is_refused {
                            // The connection is there, so nothing else pauses.
                            self.shared.pause(deadline);
                        }
                    }
                    Err(error) => return Err(error),
                }
                if deadline.is_some_and(|at| at <= Instant::now()) {
                    return Ok(None);
                }
                continue;
            };
            match live.subscription.next_of_living(deadline, silence) {
                Ok(Some(event)) => {
                    let epoch = live.subscription.epoch();
                    if let Some(told) = live.gatherer.push(event, epoch) {
                        let cut = self.shared.write().apply(told);
                        self.shared.moved();
                        return Ok(Some(cut));
                    }
                }
                Ok(None) if live.subscription.is_over() => self.live = None,
                Ok(None) => return Ok(None),
                Err(error) => {
                    self.live = None;
                    self.shared.lost(error);
                }
            }
        }
        Ok(None)
    }

    /// One state of the copy, to be read as a whole.
    #[must_use]
    pub fn view(&self) -> View<'_, T> {
        self.shared.view()
    }

    /// Goes on from where the copy stands.
    fn connect(&mut self, deadline: Option<Instant>) -> Result<(), Error> {
        let shared = &self.shared;
        let client = self.link.client_until(deadline, &|| shared.is_stopped())?;
        let since = self.shared.read().position().cloned();
        let gatherer = Gatherer::new(since.as_ref());
        let mut wanted = client.subscribe_with(self.pattern.as_str()).cuts();
        if self.is_exact {
            wanted = wanted.exact();
        }
        if let Some(since) = since {
            wanted = wanted.since(since);
        }
        let subscription = wanted.start()?;
        self.shared.connected(subscription.ender());
        self.live = Some(Live {
            subscription,
            gatherer,
        });
        Ok(())
    }
}

impl<T> Iterator for Follower<T> {
    type Item = Result<Cut<T>, Error>;

    fn next(&mut self) -> Option<Result<Cut<T>, Error>> {
        self.next_cut(None).transpose()
    }
}

impl<T> View<'_, T> {
    /// The value of a key; none where there is no such key, or its value is not of the mirror's type.
    #[must_use]
    pub fn get(&self, key: impl AsRef<str>) -> Option<&Arc<T>> {
        self.held(key.as_ref())?.value().ok()
    }

    /// The value of a key as it was put.
    #[must_use]
    pub fn raw(&self, key: impl AsRef<str>) -> Option<&Arc<Value>> {
        self.held(key.as_ref()).map(Held::raw)
    }

    /// The revision of a key's last change.
    #[must_use]
    pub fn key_rev(&self, key: impl AsRef<str>) -> Option<u64> {
        self.held(key.as_ref()).map(Held::rev)
    }

    /// Why a key's value is not of the mirror's type, where it is not.
    #[must_use]
    pub fn error(&self, key: impl AsRef<str>) -> Option<&Arc<Error>> {
        self.held(key.as_ref())?.value().err()
    }

    /// The entries whose values are of the mirror's type, in byte order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Arc<T>)> {
        let entries = self.0.iter();
        entries.filter_map(|(key, held)| Some((key, held.value().ok()?)))
    }

    /// Those whose keys match a pattern.
    pub fn matching<'v>(
        &'v self,
        pattern: &'v Pattern,
    ) -> impl Iterator<Item = (&'v Key, &'v Arc<T>)> {
        let entries = self.0.matching(pattern);
        entries.filter_map(|(key, held)| Some((key, held.value().ok()?)))
    }

    /// How many entries there are, those with values of another type included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The revision at which the keyspace was exactly this; none before the first state.
    #[must_use]
    pub fn rev(&self) -> Option<u64> {
        self.0.position().map(|position| position.rev)
    }

    fn held(&self, key: &str) -> Option<&Held<T>> {
        self.0.get(key)
    }
}

impl<T> Shared<T> {
    fn view(&self) -> View<'_, T> {
        View(self.read())
    }

    fn read(&self) -> RwLockReadGuard<'_, Replica<T>> {
        // A panic under the write lock can only come from the type's `Deserialize`, between two
        // entries.
        self.replica.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Replica<T>> {
        self.replica.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn moved(&self) {
        self.status().cuts += 1;
        self.changed.notify_all();
    }

    fn connected(&self, ender: SubscriptionEnder) {
        let mut status = self.status();
        status.is_connected = true;
        status.error = None;
        if self.is_stopped() {
            ender.end();
        }
        status.ender = Some(ender);
    }

    fn lost(&self, error: Error) {
        let mut status = self.status();
        status.is_connected = false;
        status.error = Some(Arc::new(error));
        status.ender = None;
    }

    /// Waits after a refusal, unless it is stopped or the deadline comes before.
    fn pause(&self, deadline: Option<Instant>) {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let pause = left.map_or(REFUSED_PAUSE, |left| left.min(REFUSED_PAUSE));
        let waited = self
            .changed
            .wait_timeout_while(self.status(), pause, |_| !self.is_stopped());
        drop(waited);
    }

    fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }

    fn stop(&self, link: &Link) {
        self.is_stopped.store(true, Ordering::Release);
        let status = self.status();
        if let Some(ender) = &status.ender {
            ender.end();
        }
        drop(status);
        self.changed.notify_all();
        link.wake();
    }

    fn wait_until(
        &self,
        timeout: Duration,
        is_so: impl Fn(&View<'_, T>) -> bool,
    ) -> Result<(), Error> {
        let deadline = instant_after(timeout);
        loop {
            let cuts = self.status().cuts;
            if cuts > 0 && is_so(&self.view()) {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.status().why_not());
            }
            let status = self.status();
            let waited = self
                .changed
                .wait_timeout_while(status, left, |status| status.cuts == cuts);
            drop(waited);
        }
    }
}

impl Status {
    fn why_not(&mut self) -> Error {
        match self.error.take().map(Arc::try_unwrap) {
            Some(Ok(error)) => error,
            _ => Error::Timeout,
        }
    }
}

/// The mirror's thread.
fn keep<T>(mut follower: Follower<T>, mut handlers: Vec<Handler<T>>) {
    while !follower.shared.is_stopped() {
        match follower.next_cut(None) {
            Ok(Some(cut)) => handlers.iter_mut().for_each(|handle| handle(&cut)),
            Ok(None) => {}
            Err(error) => {
                follower.shared.lost(error);
                follower.shared.pause(None);
            }
        }
    }
}

impl<T> fmt::Debug for Mirror<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror")
            .field("rev", &self.view().rev())
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Follower<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower")
            .field("pattern", &self.pattern.as_str())
            .field("rev", &self.view().rev())
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for View<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View")
            .field("rev", &self.rev())
            .field("entries", &self.len())
            .finish()
    }
}

impl<T> fmt::Debug for MirrorBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MirrorBuilder")
            .field("pattern", &self.pattern.as_str())
            .finish_non_exhaustive()
    }
}
