//! Subscriptions as streams. What a position is, and how far it is to be trusted, is told in
//! `client/subscription.rs`.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use futures_core::Stream;

use super::Client;
use crate::client::exchange::RequestId;
use crate::client::subscription::{Standing, Wanted};
use crate::client::{Error, Event, Position};

/// A subscription that is being described. See [`Client::subscribe_with`].
#[derive(Debug)]
#[must_use = "nothing is subscribed to until `start` is called and awaited"]
pub struct Subscribe {
    client: Client,
    wanted: Wanted,
}

/// The events of one subscription, in order: a stream, and without the traits for streams to be read
/// by [`Subscription::next`].
///
/// It yields an error once, when the connection is lost, after everything that was received before; after
/// that, and when the subscription was ended by [`SubscriptionEnder::end`], it is at its end. Dropping it
/// ends the subscription.
///
/// Dropping what waits for an event loses none: an event is taken, and the position moved, in the moment
/// in which it is handed out.
///
/// Events that have been received and not been taken are kept, but not without bound: beyond about a
/// thousand, of one key only the newest is kept, which leads to the same state. So who is slow delays
/// nobody.
///
/// ```no_run
/// use nkv::client::{Event, asynchronous::Client};
///
/// # async fn example() -> Result<(), nkv::client::Error> {
/// let client = Client::connect("/run/nkv.sock").await?;
/// let mut events = client.subscribe("net.*").await?;
/// while let Some(event) = events.next().await {
///     match event? {
///         Event::Put { key, value, .. } => println!("{key} = {:?}", value.as_json_text()),
///         Event::Delete { key, .. } => println!("{key} is gone"),
///         Event::Sync { .. } => println!("that is all for now"),
///         Event::Reset { .. } => println!("forget it, here it comes again"),
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Subscription {
    client: Client,
    id: RequestId,
    standing: Standing,
    is_over: bool,
}

/// Ends a subscription from another task than the one that reads it.
#[derive(Clone, Debug)]
pub struct SubscriptionEnder {
    client: Client,
    id: RequestId,
}

impl Subscribe {
    pub(super) fn new(client: Client, pattern: &str) -> Subscribe {
        Subscribe {
            client,
            wanted: Wanted::new(pattern),
        }
    }

    /// Only keys that match the pattern, not what lies below them.
    pub fn exact(mut self) -> Subscribe {
        self.wanted.is_exact = true;
        self
    }

    /// Leaves the current entries out and tells only what changes from now on.
    pub fn changes_only(mut self) -> Subscribe {
        self.wanted.changes_only = true;
        self
    }

    /// Tells [`Event::Sync`] whenever all is told, not only the first time. Between two of them lies
    /// a whole number of batches.
    pub fn cuts(mut self) -> Subscribe {
        self.wanted.cuts = true;
        self
    }

    /// Goes on where another subscription to the same pattern stood, a blocking one included. Where the
    /// daemon can't tell any more what has changed since, [`Event::Reset`] comes first.
    pub fn since(mut self, position: Position) -> Subscribe {
        self.wanted.since = Some(position);
        self
    }

    /// Begins the subscription. Where this is dropped before it is done, there is none.
    ///
    /// # Errors
    /// [`Error::Key`] where the pattern is none; else as [`Client::put`].
    pub async fn start(mut self) -> Result<Subscription, Error> {
        let request = self.wanted.request()?;
        let (id, answer) = self.client.connection().subscribe(request).await?;
        let standing = self.wanted.begun(&answer, self.client.epoch());
        Ok(Subscription {
            client: self.client,
            id,
            standing,
            is_over: false,
        })
    }
}

impl Subscription {
    /// The next event; `None` where there will be no more.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Io`] or [`Error::Protocol`] where the connection is lost.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// The next event that has been received already.
    ///
    /// # Errors
    /// As [`Subscription::next`].
    pub fn try_next(&mut self) -> Result<Option<Event>, Error> {
        let mut context = Context::from_waker(Waker::noop());
        match Pin::new(self).poll_next(&mut context) {
            Poll::Ready(taken) => taken.transpose(),
            Poll::Pending => Ok(None),
        }
    }

    /// Where to resume after the connection is lost: everything up to there has been taken from this
    /// stream. `None` where the current entries have not all been taken.
    #[must_use]
    pub fn position(&self) -> Option<&Position> {
        self.standing.position.as_ref()
    }

    /// The history that its revisions belong to.
    #[must_use]
    pub fn epoch(&self) -> &str {
        &self.standing.epoch
    }

    /// A handle with which another task can end this subscription.
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
}

impl Stream for Subscription {
    type Item = Result<Event, Error>;

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Event, Error>>> {
        let this = self.get_mut();
        if this.is_over {
            return Poll::Ready(None);
        }
        let taken = ready!(this.client.connection().poll_event(this.id, context));
        match &taken {
            Ok(Some(event)) => this.standing.advance(event),
            Ok(None) | Err(_) => this.is_over = true,
        }
        Poll::Ready(taken.transpose())
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.client.connection().unsubscribe(self.id);
    }
}

impl SubscriptionEnder {
    /// Ends the subscription: its stream comes to its end, at once if it is waited for.
    pub fn end(&self) {
        self.client.connection().unsubscribe(self.id);
    }
}
