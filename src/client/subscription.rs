//! Subscriptions: iterators over what changes, and the position from which to resume.
//!
//! **Position.** After a lost connection a subscriber resumes from a revision up to which it has been
//! told everything. While the current entries are being told, in the order of their keys, there is
//! none. From the first `sync` on (or from the beginning, where there are no such entries),
//! revisions only grow, each event says that everything up to its revision has been told, and the
//! position moves with every event that is taken. That holds for thinned-out inboxes too: what was
//! left out has a newer event, which is yet to come. A `reset` begins anew, in the epoch that it names.
//! The position is counted when an event is handed out, not when it is received, so events that were
//! received and never taken will be told again.

use std::time::{Duration, Instant};

use super::connection::deadline;
use super::exchange::RequestId;
use super::response::Response;
use super::{Client, Error, Event};
use crate::key::Pattern;
use crate::wire;

/// Where a subscription may go on: everything up to `rev` has been told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The revision up to which everything is known.
    pub rev: u64,
    /// The history that the revision belongs to.
    pub epoch: String,
}

/// A subscription that is being described. See [`Client::subscribe_with`].
#[derive(Debug)]
#[must_use = "nothing is subscribed to until `start` is called"]
pub struct Subscribe<'c> {
    client: &'c Client,
    wanted: Wanted,
}

/// What is to be subscribed to.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) pattern: Result<Pattern, Error>,
    pub(super) is_exact: bool,
    pub(super) changes_only: bool,
    pub(super) cuts: bool,
    pub(super) since: Option<Position>,
}

/// How far a subscription has been taken.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) epoch: String,
    pub(super) position: Option<Position>,
}

/// The events of one subscription, in order.
///
/// The iterator blocks until there is an event. It yields an error once, when the connection is
/// lost, after everything that was received before; after that, and when the subscription was
/// ended by [`SubscriptionEnder::end`], it is at its end. Dropping it ends the subscription.
///
/// Events that have been received and not been taken are kept, but not without bound: beyond about a
/// thousand, of one key only the newest is kept, which leads to the same state.
///
/// ```no_run
/// use nkv::client::{Client, Event};
/// let client = Client::connect("/run/nkv.sock")?;
/// for event in client.subscribe("net.*")? {
///     match event? {
///         Event::Put { key, value, .. } => println!("{key} = {:?}", value.as_json_text()),
///         Event::Delete { key, .. } => println!("{key} is gone"),
///         Event::Sync { .. } => println!("that is all for now"),
///         Event::Reset { .. } => println!("forget it, here it comes again"),
///     }
/// }
/// # Ok::<(), nkv::client::Error>(())
/// ```
#[derive(Debug)]
pub struct Subscription {
    client: Client,
    id: RequestId,
    standing: Standing,
    is_over: bool,
}

/// Ends a subscription from another thread than the one that iterates it.
#[derive(Clone, Debug)]
pub struct SubscriptionEnder {
    client: Client,
    id: RequestId,
}

impl<'c> Subscribe<'c> {
    pub(super) fn new(client: &'c Client, pattern: &str) -> Subscribe<'c> {
        Subscribe {
            client,
            wanted: Wanted::new(pattern),
        }
    }

    /// Only keys that match the pattern, not what lies below them.
    pub fn exact(mut self) -> Subscribe<'c> {
        self.wanted.is_exact = true;
        self
    }

    /// Leaves the current entries out and tells only what changes from now on.
    pub fn changes_only(mut self) -> Subscribe<'c> {
        self.wanted.changes_only = true;
        self
    }

    /// Tells [`Event::Sync`] whenever all is told, not only the first time. Between two of them lies
    /// a whole number of batches.
    pub fn cuts(mut self) -> Subscribe<'c> {
        self.wanted.cuts = true;
        self
    }

    /// Goes on where another subscription to the same pattern stood. Where the daemon can't tell
    /// any more what has changed since, [`Event::Reset`] comes first.
    pub fn since(mut self, position: Position) -> Subscribe<'c> {
        self.wanted.since = Some(position);
        self
    }

    /// Begins the subscription.
    ///
    /// # Errors
    /// [`Error::Key`] where the pattern is none; else as [`Client::put`].
    pub fn start(mut self) -> Result<Subscription, Error> {
        let request = self.wanted.request()?;
        let (id, answer) = self.client.connection().subscribe(request)?;
        Ok(Subscription {
            client: self.client.clone(),
            id,
            standing: self.wanted.begun(&answer, self.client.epoch()),
            is_over: false,
        })
    }
}

impl Wanted {
    pub(super) fn new(pattern: &str) -> Wanted {
        Wanted {
            pattern: Pattern::new(pattern).map_err(Error::Key),
            is_exact: false,
            changes_only: false,
            cuts: false,
            since: None,
        }
    }

    /// What asks for it. Where the pattern is none, that is said once.
    pub(super) fn request(&mut self) -> Result<wire::Subscribe<'static>, Error> {
        let pattern = std::mem::replace(&mut self.pattern, Err(Error::Closed))?;
        let since = self.since.as_ref();
        Ok(wire::Subscribe {
            key: pattern.as_str().to_owned().into(),
            exact: self.is_exact,
            no_initial: self.changes_only,
            cuts: self.cuts,
            since: since.map(|position| (position.rev, position.epoch.clone().into())),
        })
    }

    /// Where it begins, by the answer.
    pub(super) fn begun(self, answer: &Response, epoch_before: &str) -> Standing {
        let epoch = answer.epoch.as_deref().unwrap_or(epoch_before).to_owned();
        let begins_here = answer.rev.filter(|_| self.changes_only);
        let position = self.since.or_else(|| {
            begins_here.map(|rev| Position {
                rev,
                epoch: epoch.clone(),
            })
        });
        Standing { epoch, position }
    }
}

impl Standing {
    /// An event has been taken.
    pub(super) fn advance(&mut self, event: &Event) {
        match event {
            Event::Reset { epoch, .. } => {
                self.position = None;
                if let Some(epoch) = epoch {
                    self.epoch.clone_from(epoch);
                }
            }
            Event::Sync { rev } => {
                self.position = Some(Position {
                    rev: *rev,
                    epoch: self.epoch.clone(),
                });
            }
            Event::Put { rev, .. } | Event::Delete { rev, .. } => {
                if let Some(position) = &mut self.position {
                    position.rev = *rev;
                }
            }
        }
    }
}

impl Subscription {
    /// Waits for the next event, but no longer than this; `None` where there was none in time, or
    /// the subscription was ended.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Io`] or [`Error::Protocol`] where the connection is lost.
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Event>, Error> {
        match self.take(deadline(Some(timeout))) {
            Err(Error::Timeout) => Ok(None),
            taken => taken,
        }
    }

    /// The next event that is there already, without waiting.
    ///
    /// # Errors
    /// As [`Subscription::next_timeout`].
    pub fn try_next(&mut self) -> Result<Option<Event>, Error> {
        self.next_timeout(Duration::ZERO)
    }

    /// Where to resume after the connection is lost: everything up to there has been taken from this
    /// iterator. `None` where the current entries have not all been taken.
    #[must_use]
    pub fn position(&self) -> Option<&Position> {
        self.standing.position.as_ref()
    }

    /// The history that its revisions belong to.
    #[must_use]
    pub fn epoch(&self) -> &str {
        &self.standing.epoch
    }

    /// A handle with which another thread can end this subscription.
    #[must_use]
    pub fn ender(&self) -> SubscriptionEnder {
        SubscriptionEnder {
            client: self.client.clone(),
            id: self.id,
        }
    }

    /// The connection that it is on.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Whether there will be no more events.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Waits for the next event until then; `None` where there was none in time, or the subscription was
    /// ended. With a `silence`, a peer that has said nothing for so long is asked for a sign of life, and
    /// one that gives none has the connection ended, for nobody else has an answer from it either.
    pub(super) fn next_of_living(
        &mut self,
        until: Option<Instant>,
        silence: Option<Duration>,
    ) -> Result<Option<Event>, Error> {
        loop {
            let next = deadline(silence).into_iter().chain(until).min();
            match self.take(next) {
                Err(Error::Timeout) => {}
                taken => return taken,
            }
            if until.is_some_and(|at| at <= Instant::now()) {
                return Ok(None);
            }
            self.client.ping().inspect_err(|_| self.client.close())?;
        }
    }

    fn take(&mut self, deadline: Option<Instant>) -> Result<Option<Event>, Error> {
        if self.is_over {
            return Ok(None);
        }
        let taken = self.client.connection().event(self.id, deadline);
        match &taken {
            Ok(Some(event)) => self.standing.advance(event),
            Ok(None) => self.is_over = true,
            Err(Error::Timeout) => {}
            Err(_) => self.is_over = true,
        }
        taken
    }
}

impl Iterator for Subscription {
    type Item = Result<Event, Error>;

    fn next(&mut self) -> Option<Result<Event, Error>> {
        self.take(None).transpose()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.client.connection().unsubscribe(self.id);
    }
}

impl SubscriptionEnder {
    /// Ends the subscription: its iterator comes to its end, at once if it is waiting.
    pub fn end(&self) {
        self.client.connection().unsubscribe(self.id);
    }
}
