//! A subscription that outlives its connection, and tells nothing twice.
//!
//! A [`Subscription`] ends with its connection; an [`Events`] goes on with the next one. It tells each event
//! as it comes and keeps no values. Who wants the difference between two states instead, or to read the
//! entries at any time, wants a [`Mirror`](super::Mirror).
//!
//! After the first `sync` that is the protocol's work: it resumes at the position of the last event that
//! it handed out. Where the daemon answers with a `reset` (another epoch, or too long ago) the current
//! entries come again, and are passed on as they are: to tell true differences it would have to keep
//! every value.
//!
//! Before the first `sync` there is no position, because the current entries come in the order of
//! their keys. So until then (and only then, since this grows with the keys) it remembers what it has
//! told. If the connection is lost meanwhile, the entries come again from the start, those told
//! already are left out, and those that did not come again were deleted, which is told before the `sync`.
//!
//! Over TCP a peer can vanish without a word, so one that has said nothing for a while is asked for a sign
//! of life.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::backoff::{Backoff, Pauses};
use super::link::silence_of;
use super::retry::is_passing;
use super::{Error, Event, Link, Position, Subscription, SubscriptionEnder};
use crate::address::Address;
use crate::key::{Key, Pattern};

/// The pauses between attempts to subscribe, where there is a connection and it is refused.
pub(super) const REFUSED_PAUSES: Pauses = Pauses {
    first: Duration::from_millis(100),
    longest: Duration::from_secs(5),
};

/// What is to be subscribed to. See [`Link::events`].
#[must_use = "nothing is subscribed to until `start` is called"]
pub struct EventsBuilder {
    link: Link,
    pattern: Pattern,
    is_exact: bool,
    changes_only: bool,
    cuts: bool,
    position: Option<Position>,
    on_contact: OnContact,
}

type OnContact = Box<dyn FnMut(Contact<'_>) + Send>;

/// What became of the connection of an [`Events`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Contact<'e> {
    /// It was lost. Another one will be made.
    Lost {
        /// Why it was lost.
        error: &'e Error,
        /// Where the daemon is.
        address: &'e Address,
    },
    /// There is another one, and the events go on.
    Again,
}

/// The events of a pattern, over lost connections and restarts of the daemon.
///
/// The iterator blocks until there is an event. It yields an error where that does not go away by
/// itself, such as a refused token, and may be asked again afterwards. It ends when it is
/// [ended](EventsEnder::end).
///
/// Nothing is told twice, and what was overwritten while there was no connection is told once, with the
/// newest value. After [`Event::Reset`] all current entries come again.
///
/// ```no_run
/// use nkv::client::{Contact, Event, Link};
///
/// let link = Link::new("/run/nkv.sock")?;
/// let events = link.events("net.*")?.on_contact(|contact| match contact {
///     Contact::Lost { error, .. } => eprintln!("{error}; reconnecting"),
///     _ => eprintln!("connected again"),
/// });
/// for event in events.start()? {
///     if let Event::Put { key, value, .. } = event? {
///         println!("{key} = {:?}", value.as_json_text());
///     }
/// }
/// # Ok::<(), nkv::client::Error>(())
/// ```
pub struct Events {
    wanted: EventsBuilder,
    /// The subscription, unless its connection is lost.
    live: Option<Subscription>,
    /// What has been told since the beginning or the last reset, until the `sync`.
    told: Told,
    /// The same from connections before this one.
    told_before: Told,
    /// Events to be told before anything else.
    ready: VecDeque<Event>,
    backoff: Backoff,
    ending: Arc<Ending>,
}

/// Ends an [`Events`] from another thread than the one that iterates it.
#[derive(Clone)]
pub struct EventsEnder {
    ending: Arc<Ending>,
    link: Link,
}

/// Keys with the revisions at which they were told, and the epoch of those.
#[derive(Default)]
struct Told {
    revs: HashMap<Key, u64>,
    epoch: String,
}

/// Whether it is to end.
#[derive(Default)]
struct Ending {
    state: Mutex<EndingState>,
    changed: Condvar,
}

#[derive(Default)]
struct EndingState {
    is_ended: bool,
    ender: Option<SubscriptionEnder>,
}

impl Link {
    /// Describes a subscription that goes on over lost connections, to a key or pattern and all that
    /// lies below.
    ///
    /// # Errors
    /// [`Error::Key`] where the text is no pattern.
    pub fn events(&self, pattern: impl AsRef<str>) -> Result<EventsBuilder, Error> {
        Ok(EventsBuilder {
            link: self.clone(),
            pattern: Pattern::new(pattern.as_ref())?,
            is_exact: false,
            changes_only: false,
            cuts: false,
            position: None,
            on_contact: Box::new(|_| {}),
        })
    }
}

impl EventsBuilder {
    /// Only keys that match the pattern, not what lies below them.
    pub fn exact(mut self) -> EventsBuilder {
        self.is_exact = true;
        self
    }

    /// Leaves the current entries out and tells only what changes from now on.
    pub fn changes_only(mut self) -> EventsBuilder {
        self.changes_only = true;
        self
    }

    /// Tells [`Event::Sync`] whenever all is told, as [`Subscribe::cuts`](super::Subscribe::cuts) does.
    pub fn cuts(mut self) -> EventsBuilder {
        self.cuts = true;
        self
    }

    /// Goes on where another subscription to the same pattern stood.
    pub fn since(mut self, position: Position) -> EventsBuilder {
        self.position = Some(position);
        self
    }

    /// Calls a function when the connection is lost, and when there is one again. It is called by
    /// whoever waits for an event, between two events.
    pub fn on_contact(mut self, call: impl FnMut(Contact<'_>) + Send + 'static) -> EventsBuilder {
        self.on_contact = Box::new(call);
        self
    }

    /// Subscribes for the first time. A connection is waited for as long as the link's
    /// [patience](super::LinkBuilder::patience) lasts; later attempts are made until one succeeds.
    ///
    /// # Errors
    /// As [`Link::client`] and [`Client::subscribe`](super::Client::subscribe).
    pub fn start(self) -> Result<Events, Error> {
        let changes_only = self.changes_only;
        let mut events = Events {
            wanted: self,
            live: None,
            told: Told::default(),
            told_before: Told::default(),
            ready: VecDeque::new(),
            backoff: Backoff::new(REFUSED_PAUSES),
            ending: Arc::default(),
        };
        let client = events.wanted.link.client()?;
        events.subscribe(&client, changes_only)?;
        Ok(events)
    }
}

impl Events {
    /// Waits for the next event, but no longer than this; `None` where there was none in time, or it
    /// was ended.
    ///
    /// # Errors
    /// What does not go away by itself, such as a refused token. It may be asked again.
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Event>, Error> {
        self.take(Instant::now().checked_add(timeout))
    }

    /// Where another subscription to the same pattern may go on: everything up to there has been
    /// handed out. `None` while the current entries have not all been.
    #[must_use]
    pub fn position(&self) -> Option<&Position> {
        match &self.live {
            Some(subscription) => subscription.position(),
            None => self.wanted.position.as_ref(),
        }
    }

    /// A handle with which another thread can end it.
    #[must_use]
    pub fn ender(&self) -> EventsEnder {
        EventsEnder {
            ending: Arc::clone(&self.ending),
            link: self.wanted.link.clone(),
        }
    }

    /// Whether it was ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.ending.is_ended()
    }

    fn take(&mut self, deadline: Option<Instant>) -> Result<Option<Event>, Error> {
        let silence = silence_of(self.wanted.link.address());
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            if self.ending.is_ended() {
                return Ok(None);
            }
            let Some(subscription) = &mut self.live else {
                if !self.resume(deadline)? {
                    return Ok(None);
                }
                continue;
            };
            match subscription.next_of_living(deadline, silence) {
                Ok(Some(event)) => self.receive(event),
                Ok(None) => return Ok(None),
                Err(error) => self.lose(&error),
            }
        }
    }

    /// Decides what of an event is to be told.
    fn receive(&mut self, event: Event) {
        let Some(subscription) = &self.live else {
            return;
        };
        let is_listing = subscription.position().is_none();
        match &event {
            Event::Put { key, rev, .. } if is_listing => {
                let same_history = self.told_before.epoch == subscription.epoch();
                let before = self.told_before.revs.remove(key);
                self.told.revs.insert(key.clone(), *rev);
                if before == Some(*rev) && same_history {
                    return;
                }
            }
            Event::Delete { key, .. } if is_listing => {
                self.told.revs.remove(key);
                self.told_before.revs.remove(key);
            }
            Event::Reset { .. } => {
                self.told.revs.clear();
                self.told_before.revs.clear();
            }
            Event::Sync { rev } => {
                let gone = self.told_before.revs.drain();
                self.ready
                    .extend(gone.map(|(key, _)| Event::Delete { key, rev: *rev }));
                self.told = Told::default();
                self.told_before = Told::default();
            }
            Event::Put { .. } | Event::Delete { .. } => {}
        }
        self.ready.push_back(event);
    }

    /// Takes leave of a connection.
    fn lose(&mut self, error: &Error) {
        let Some(subscription) = self.live.take() else {
            return;
        };
        self.wanted.position = subscription.position().cloned();
        if self.wanted.position.is_none() {
            // Of what earlier connections told, the newer word counts.
            let told = std::mem::take(&mut self.told);
            if self.told_before.epoch != subscription.epoch() {
                self.told_before.revs.values_mut().for_each(|rev| *rev = 0);
            }
            self.told_before.revs.extend(told.revs);
            subscription.epoch().clone_into(&mut self.told_before.epoch);
        }
        (self.wanted.on_contact)(Contact::Lost {
            error,
            address: self.wanted.link.address(),
        });
    }

    /// Tries until it succeeds; `false` where the deadline has passed or it was ended.
    fn resume(&mut self, deadline: Option<Instant>) -> Result<bool, Error> {
        loop {
            let ending = &self.ending;
            let client = self
                .wanted
                .link
                .client_until(deadline, &|| ending.is_ended());
            // A daemon that was here before says `changes_only` by the position.
            let done = client.and_then(|client| self.subscribe(&client, false));
            match done {
                Ok(()) => {
                    self.backoff.reset();
                    (self.wanted.on_contact)(Contact::Again);
                    return Ok(true);
                }
                Err(_) if self.ending.is_ended() => return Ok(false),
                Err(error) if !is_passing(&error) => return Err(error),
                Err(_) => {}
            }
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(false);
            }
            // The link makes pauses where there is no connection, but not where it is of no use.
            let pause = self.backoff.pause();
            self.ending
                .pause(left.map_or(pause, |left| pause.min(left)));
        }
    }

    fn subscribe(&mut self, client: &super::Client, changes_only: bool) -> Result<(), Error> {
        let wanted = &self.wanted;
        let mut subscribe = client.subscribe_with(wanted.pattern.as_str());
        if wanted.is_exact {
            subscribe = subscribe.exact();
        }
        if changes_only {
            subscribe = subscribe.changes_only();
        }
        if wanted.cuts {
            subscribe = subscribe.cuts();
        }
        if let Some(position) = &wanted.position {
            subscribe = subscribe.since(position.clone());
        }
        let subscription = subscribe.start()?;
        self.ending.watch(subscription.ender());
        self.live = Some(subscription);
        Ok(())
    }
}

impl Iterator for Events {
    type Item = Result<Event, Error>;

    fn next(&mut self) -> Option<Result<Event, Error>> {
        self.take(None).transpose()
    }
}

impl EventsEnder {
    /// Ends it: its iterator comes to its end, at once if it is waiting.
    pub fn end(&self) {
        let mut state = self.ending.lock();
        state.is_ended = true;
        let ender = state.ender.take();
        drop(state);
        if let Some(ender) = &ender {
            ender.end();
        }
        self.ending.changed.notify_all();
        self.link.wake();
    }
}

impl Ending {
    fn lock(&self) -> MutexGuard<'_, EndingState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_ended(&self) -> bool {
        self.lock().is_ended
    }

    /// Lets a subscription be ended.
    fn watch(&self, ender: SubscriptionEnder) {
        let mut state = self.lock();
        if state.is_ended {
            ender.end();
        } else {
            state.ender = Some(ender);
        }
    }

    /// Sleeps, but not when ended.
    fn pause(&self, pause: Duration) {
        let waited = self
            .changed
            .wait_timeout_while(self.lock(), pause, |state| !state.is_ended);
        drop(waited);
    }
}

impl fmt::Debug for EventsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventsBuilder")
            .field("pattern", &self.pattern.as_str())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events")
            .field("pattern", &self.wanted.pattern.as_str())
            .field("position", &self.position())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for EventsEnder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventsEnder").finish_non_exhaustive()
    }
}
