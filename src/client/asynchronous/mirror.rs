//! A program's own copy of a part of the keyspace, kept up to date by a task. How it is kept, and what
//! counts as a change, is told in `client/mirror.rs` and `client/mirror/replica.rs`, which do the same for
//! both kinds of mirror.
//!
//! Left out: handlers. A task that awaits [`Watch::changed`] or reads a [`Follower`] does the same, and
//! may await in between.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::{Link, Subscription};
use crate::client::backoff::Backoff;
use crate::client::mirror::REFUSED_PAUSE;
use crate::client::mirror::replica::{Gatherer, Parse, Replica, Told};
use crate::client::retry::is_passing;
use crate::client::{Cut, Error, Position, Value, View};
use crate::key::Pattern;

/// What a mirror is made with. See [`Link::mirror`].
#[must_use = "nothing is mirrored until `start` or `follow` is called"]
pub struct MirrorBuilder<T = Value> {
    link: Link,
    pattern: Pattern,
    is_exact: bool,
    parse: Parse<T>,
}

/// A copy of a part of the keyspace, kept up to date by a task of its own, which ends when this is dropped.
///
/// Reading asks nobody and awaits nothing. A [`View`] holds the copy still, so it is not to be held across
/// an await (the compiler won't let a spawned task do that).
///
/// ```no_run
/// use nkv::client::asynchronous::Link;
/// use std::time::Duration;
///
/// # async fn example() -> Result<(), nkv::client::Error> {
/// let link = Link::new("/run/nkv.sock")?;
/// let ports = link.mirror("config.*.port")?.typed::<u16>().start();
/// ports.wait_until_synced(Duration::from_secs(10)).await?;
/// println!("{:?}", ports.get("config.web.port"));
/// let mut watch = ports.watch();
/// while watch.changed().await.is_ok() {
///     for (key, port) in watch.view().iter() {
///         println!("{key} is {port}");
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct Mirror<T = Value> {
    shared: Arc<Shared<T>>,
    moved: watch::Receiver<Moved>,
    task: AbortHandle,
}

/// Tells when a [`Mirror`] has changed, and shows it. Each clone has its own idea of what it has seen.
pub struct Watch<T = Value> {
    shared: Arc<Shared<T>>,
    moved: watch::Receiver<Moved>,
    /// How many changes had been seen.
    seen: u64,
}

/// A mirror without a task: its copy moves on when the next cut is asked for.
///
/// A stream of cuts, and without the traits for streams to be read by [`Follower::next_cut`]. It reconnects
/// by itself, never ends, and yields an error only where that does not go away by itself, such as a
/// refused token. It may be asked again afterwards. Dropping what waits for a cut loses nothing: what was
/// received stays with the follower.
///
/// ```no_run
/// # async fn example(link: nkv::client::asynchronous::Link) -> Result<(), nkv::client::Error> {
/// let mut follower = link.mirror("config")?.follow();
/// loop {
///     for change in follower.next_cut().await?.changes {
///         println!("{} has changed", change.key());
///     }
/// }
/// # }
/// ```
pub struct Follower<T = Value> {
    link: Link,
    pattern: Pattern,
    is_exact: bool,
    shared: Arc<Shared<T>>,
    moved: watch::Sender<Moved>,
    stage: Stage,
    backoff: Backoff,
}

/// How far a follower is.
enum Stage {
    /// It has no subscription. The next attempt comes after this.
    Apart(Duration),
    Connecting(Pin<Box<dyn Future<Output = Result<Live, Error>> + Send>>),
    Live(Live),
}

struct Live {
    subscription: Subscription,
    gatherer: Gatherer,
}

/// How often the copy has moved.
#[derive(Clone, Copy, Default)]
struct Moved {
    cuts: u64,
    /// Those among them with changes, and the first.
    changes: u64,
}

/// What the copy's readers and the one who keeps it have in common.
struct Shared<T> {
    replica: RwLock<Replica<T>>,
    status: Mutex<Status>,
}

#[derive(Default)]
struct Status {
    is_connected: bool,
    /// Why there is no connection, where there is none.
    error: Option<Arc<Error>>,
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
        })
    }
}

impl MirrorBuilder {
    /// Reads every value as a type of the caller's. One that is not of that type is reported as
    /// [`Change::Invalid`](crate::client::Change::Invalid).
    pub fn typed<T: DeserializeOwned>(self) -> MirrorBuilder<T> {
        MirrorBuilder {
            link: self.link,
            pattern: self.pattern,
            is_exact: self.is_exact,
            parse: |raw| raw.json().map(Arc::new),
        }
    }
}

impl<T> MirrorBuilder<T> {
    /// Only keys that match the pattern, not what lies below them.
    pub fn exact(mut self) -> MirrorBuilder<T> {
        self.is_exact = true;
        self
    }

    /// A mirror without a task.
    #[must_use]
    pub fn follow(self) -> Follower<T> {
        Follower {
            backoff: self.link.options().backoff(),
            link: self.link,
            pattern: self.pattern,
            is_exact: self.is_exact,
            shared: Arc::new(Shared {
                replica: RwLock::new(Replica::new(self.parse)),
                status: Mutex::default(),
            }),
            moved: watch::Sender::new(Moved::default()),
            stage: Stage::Apart(Duration::ZERO),
        }
    }
}

impl<T: Send + Sync + 'static> MirrorBuilder<T> {
    /// Begins to mirror, on a task of the runtime that this is called in. It returns at once;
    /// [`Mirror::wait_until_synced`] waits for the first state.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use = "the mirror ends when it is dropped"]
    pub fn start(self) -> Mirror<T> {
        let follower = self.follow();
        let shared = Arc::clone(&follower.shared);
        let moved = follower.moved.subscribe();
        let task = tokio::spawn(keep(follower)).abort_handle();
        Mirror {
            shared,
            moved,
            task,
        }
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

    /// Tells of changes from now on.
    #[must_use]
    pub fn watch(&self) -> Watch<T> {
        let moved = self.moved.clone();
        let seen = moved.borrow().changes;
        Watch {
            shared: Arc::clone(&self.shared),
            moved,
            seen,
        }
    }

    /// Waits until the copy is whole for the first time.
    ///
    /// # Errors
    /// [`Error::Timeout`], or why there was no connection, where that takes longer.
    pub async fn wait_until_synced(&self, patience: Duration) -> Result<(), Error> {
        self.wait_until(patience, |_| true).await
    }

    /// Waits until the copy is whole and the function finds in it what it looks for. It is asked again
    /// for each state that the copy takes.
    ///
    /// # Errors
    /// As [`Mirror::wait_until_synced`].
    pub async fn wait_until(
        &self,
        patience: Duration,
        is_so: impl Fn(&View<'_, T>) -> bool,
    ) -> Result<(), Error> {
        let mut moved = self.moved.clone();
        let found = timeout(patience, async {
            loop {
                if moved.borrow_and_update().cuts > 0 && is_so(&self.view()) {
                    return Ok(());
                }
                // Its task has ended with the runtime.
                moved.changed().await.map_err(|_| Error::Closed)?;
            }
        });
        found.await.unwrap_or_else(|_| Err(self.why_not()))
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

    fn why_not(&self) -> Error {
        match self.error() {
            Some(error) => error.again(),
            None => Error::Timeout,
        }
    }
}

impl<T> Drop for Mirror<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<T> Watch<T> {
    /// Waits for a change after those that this watch has seen; the first whole state counts as one.
    /// Several changes in the meantime are one. Dropping the future forgets none.
    ///
    /// # Errors
    /// [`Error::Closed`] where the mirror has been dropped.
    pub async fn changed(&mut self) -> Result<(), Error> {
        let seen = self.seen;
        let moved = self.moved.wait_for(|moved| moved.changes > seen).await;
        self.seen = moved.map_err(|_| Error::Closed)?.changes;
        Ok(())
    }

    /// The newest state of the copy, to be read as a whole.
    #[must_use]
    pub fn view(&self) -> View<'_, T> {
        self.shared.view()
    }
}

impl<T> Follower<T> {
    /// Waits for the next consistent state, and moves the copy there.
    ///
    /// # Errors
    /// What does not go away by itself, such as a refused token. It may be asked again.
    pub async fn next_cut(&mut self) -> Result<Cut<T>, Error> {
        poll_fn(|context| self.poll_cut(context)).await
    }

    /// One state of the copy, to be read as a whole.
    #[must_use]
    pub fn view(&self) -> View<'_, T> {
        self.shared.view()
    }

    fn poll_cut(&mut self, context: &mut Context<'_>) -> Poll<Result<Cut<T>, Error>> {
        loop {
            match &mut self.stage {
                Stage::Apart(pause) => {
                    let pause = *pause;
                    self.stage = Stage::Connecting(self.connect(pause));
                }
                Stage::Connecting(connecting) => match ready!(connecting.as_mut().poll(context)) {
                    Ok(live) => {
                        self.shared.connected();
                        self.stage = Stage::Live(live);
                    }
                    Err(error) => {
                        self.stage = Stage::Apart(self.backoff.pause());
                        if !is_passing(&error) {
                            self.shared.lost(error.again());
                            return Poll::Ready(Err(error));
                        }
                        self.shared.lost(error);
                    }
                },
                Stage::Live(live) => {
                    let event = ready!(Pin::new(&mut live.subscription).poll_next(context));
                    match event.unwrap_or(Err(Error::Closed)) {
                        Ok(event) => {
                            let epoch = live.subscription.epoch();
                            if let Some(told) = live.gatherer.push(event, epoch) {
                                self.backoff.reset();
                                return Poll::Ready(Ok(self.take_in(told)));
                            }
                        }
                        Err(error) => {
                            self.shared.lost(error);
                            self.stage = Stage::Apart(Duration::ZERO);
                        }
                    }
                }
            }
        }
    }

    fn take_in(&self, told: Told) -> Cut<T> {
        // A panic under the lock can only come from the type's `Deserialize`, between two entries.
        let replica = self.shared.replica.write();
        let cut = replica.unwrap_or_else(PoisonError::into_inner).apply(told);
        self.moved.send_modify(|moved| {
            let is_change = moved.cuts == 0 || !cut.changes.is_empty();
            moved.cuts += 1;
            moved.changes += u64::from(is_change);
        });
        cut
    }

    /// Goes on from where the copy stands.
    fn connect(
        &self,
        pause: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<Live, Error>> + Send>> {
        let link = self.link.clone();
        let pattern = self.pattern.clone();
        let is_exact = self.is_exact;
        let since = self.shared.position();
        Box::pin(async move {
            if !pause.is_zero() {
                sleep(pause).await;
            }
            let client = link.client_before(None).await?;
            let gatherer = Gatherer::new(since.as_ref());
            let mut wanted = client.subscribe_with(pattern.as_str()).cuts();
            if is_exact {
                wanted = wanted.exact();
            }
            if let Some(since) = since {
                wanted = wanted.since(since);
            }
            Ok(Live {
                subscription: wanted.start().await?,
                gatherer,
            })
        })
    }
}

impl<T> Stream for Follower<T> {
    type Item = Result<Cut<T>, Error>;

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Cut<T>, Error>>> {
        self.get_mut().poll_cut(context).map(Some)
    }
}

impl<T> Shared<T> {
    fn view(&self) -> View<'_, T> {
        View(self.replica.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn position(&self) -> Option<Position> {
        self.view().0.position().cloned()
    }

    fn connected(&self) {
        let mut status = self.status();
        status.is_connected = true;
        status.error = None;
    }

    fn lost(&self, error: Error) {
        let mut status = self.status();
        status.is_connected = false;
        status.error = Some(Arc::new(error));
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The mirror's task.
async fn keep<T>(mut follower: Follower<T>) {
    loop {
        if follower.next_cut().await.is_err() {
            sleep(REFUSED_PAUSE).await;
        }
    }
}

impl<T> Clone for Watch<T> {
    fn clone(&self) -> Watch<T> {
        Watch {
            shared: Arc::clone(&self.shared),
            moved: self.moved.clone(),
            seen: self.seen,
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

impl<T> fmt::Debug for Watch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
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

impl<T> fmt::Debug for MirrorBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MirrorBuilder")
            .field("pattern", &self.pattern.as_str())
            .finish_non_exhaustive()
    }
}
