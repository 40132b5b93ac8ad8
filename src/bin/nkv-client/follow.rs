//! A subscription that outlives its connection, and tells nothing twice.
//!
//! After the first `sync` that is the protocol's work: the follower reconnects and resumes at the
//! position of the last event that it handed out. Where the daemon answers with a `reset` (another
//! epoch, or too long ago) the current entries come again, and the follower passes them on as they
//! are: to tell true differences it would have to keep every value.
//!
//! Before the first `sync` there is no position, because the current entries come in the order of
//! their keys. So until then (and only then, since this grows with the keys) the follower remembers
//! what it has told. If the connection is lost meanwhile, the entries come again from the start,
//! those told already are left out, and those that did not come again were deleted, which the
//! follower tells before the `sync`.
//!
//! Lost connections are retried with growing pauses. Over TCP a peer can vanish without a word, so
//! a follower that has heard nothing for a while asks for a sign of life.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nkv::client::{Client, Error, Event, Position, Subscription, SubscriptionEnder};
use nkv::{Address, Key};

use crate::daemon::{PAUSE_MAX, PAUSE_MIN, Target, is_passing};
use crate::failure::Failure;

/// How long a TCP peer may be silent before it is asked for a sign of life.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// What is followed.
#[derive(Clone)]
pub(crate) struct Wanted {
    pub(crate) pattern: String,
    pub(crate) is_exact: bool,
    pub(crate) changes_only: bool,
}

/// Events of one pattern, for as long as they are asked for.
pub(crate) struct Follower {
    target: Target,
    wanted: Wanted,
    /// The connection and the subscription on it, unless they are lost.
    live: Option<(Client, Subscription)>,
    position: Option<Position>,
    /// What has been told since the beginning or the last reset, until the `sync`.
    told: Told,
    /// The same from connections before this one.
    told_before: Told,
    /// Events to be told before anything else.
    ready: VecDeque<Event>,
    stopper: Arc<Stopper>,
    /// Says something about the connection to the user.
    notice: Box<dyn FnMut(&str) + Send>,
}

/// Keys with the revisions at which they were told, and the epoch of those.
#[derive(Default)]
struct Told {
    revs: HashMap<Key, u64>,
    epoch: String,
}

/// Stops a follower from another thread.
#[derive(Default)]
pub(crate) struct Stopper {
    state: Mutex<Stopping>,
    changed: Condvar,
}

#[derive(Default)]
struct Stopping {
    is_stopped: bool,
    ender: Option<SubscriptionEnder>,
}

impl Follower {
    /// Begins to follow. The first connection is not retried: a mistyped address should be told.
    pub(crate) fn start(
        target: &Target,
        wanted: Wanted,
        notice: impl FnMut(&str) + Send + 'static,
    ) -> Result<Follower, Failure> {
        let mut follower = Follower {
            target: target.clone(),
            wanted,
            live: None,
            position: None,
            told: Told::default(),
            told_before: Told::default(),
            ready: VecDeque::new(),
            stopper: Arc::default(),
            notice: Box::new(notice),
        };
        follower.connect(follower.wanted.changes_only)?;
        Ok(follower)
    }

    pub(crate) fn stopper(&self) -> Arc<Stopper> {
        Arc::clone(&self.stopper)
    }

    /// The next event; `None` where the deadline has passed or the follower was stopped.
    pub(crate) fn next(&mut self, deadline: Option<Instant>) -> Result<Option<Event>, Failure> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            if self.stopper.is_stopped() {
                return Ok(None);
            }
            let Some((client, subscription)) = &mut self.live else {
                if !self.reconnect(deadline)? {
                    return Ok(None);
                }
                continue;
            };
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let silence = matches!(self.target.address, Address::Tcp(_)).then_some(SILENCE_MAX);
            let event = match left.into_iter().chain(silence).min() {
                Some(patience) => subscription.next_timeout(patience),
                None => subscription.next().transpose(),
            };
            let lost = match event {
                Ok(Some(event)) => {
                    self.receive(event);
                    continue;
                }
                Ok(None) if left.is_some_and(|left| silence.is_none_or(|most| left <= most)) => {
                    return Ok(None);
                }
                Ok(None) if self.stopper.is_stopped() => return Ok(None),
                Ok(None) => client.ping().err(),
                Err(error) => Some(error),
            };
            if let Some(error) = lost {
                self.lose(error)?;
            }
        }
    }

    /// Decides what of an event is to be told.
    fn receive(&mut self, event: Event) {
        let Some((_, subscription)) = &self.live else {
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

    /// Takes leave of a connection. Errors that another connection would meet too are returned.
    fn lose(&mut self, error: Error) -> Result<(), Failure> {
        if !is_passing(&error) {
            return Err(error.into());
        }
        let Some((_, subscription)) = self.live.take() else {
            return Ok(());
        };
        self.position = subscription.position().cloned();
        if self.position.is_none() {
            // Of what earlier connections told, the newer word counts.
            let told = std::mem::take(&mut self.told);
            if self.told_before.epoch != subscription.epoch() {
                self.told_before.revs.values_mut().for_each(|rev| *rev = 0);
            }
            self.told_before.revs.extend(told.revs);
            subscription.epoch().clone_into(&mut self.told_before.epoch);
        }
        let reason = Failure::from(error).message;
        (self.notice)(&format!(
            "{reason}; reconnecting to {}",
            self.target.address
        ));
        Ok(())
    }

    /// Tries until it succeeds; `false` where the deadline has passed or the follower was stopped.
    fn reconnect(&mut self, deadline: Option<Instant>) -> Result<bool, Failure> {
        let mut pause = PAUSE_MIN;
        loop {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            self.stopper
                .pause(left.map_or(pause, |left| pause.min(left)));
            if left == Some(Duration::ZERO) || self.stopper.is_stopped() {
                return Ok(false);
            }
            match self.connect(false) {
                Ok(()) => {
                    (self.notice)("connected again");
                    return Ok(true);
                }
                Err(error) if is_passing(&error) => pause = (pause * 2).min(PAUSE_MAX),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn connect(&mut self, changes_only: bool) -> Result<(), Error> {
        let client = self.target.connect()?;
        let mut subscribe = client.subscribe_with(&self.wanted.pattern);
        if self.wanted.is_exact {
            subscribe = subscribe.exact();
        }
        if changes_only {
            subscribe = subscribe.changes_only();
        }
        if let Some(position) = &self.position {
            subscribe = subscribe.since(position.clone());
        }
        let subscription = subscribe.start()?;
        self.stopper.watch(subscription.ender());
        self.live = Some((client, subscription));
        Ok(())
    }
}

impl Stopper {
    /// Ends the follower: it has no further events.
    pub(crate) fn stop(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_stopped = true;
        if let Some(ender) = state.ender.take() {
            ender.end();
        }
        self.changed.notify_all();
    }

    fn is_stopped(&self) -> bool {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_stopped
    }

    fn watch(&self, ender: SubscriptionEnder) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_stopped {
            ender.end();
        } else {
            state.ender = Some(ender);
        }
    }

    /// Sleeps, but not when stopped.
    fn pause(&self, pause: Duration) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        drop(
            self.changed
                .wait_timeout_while(state, pause, |state| !state.is_stopped),
        );
    }
}
