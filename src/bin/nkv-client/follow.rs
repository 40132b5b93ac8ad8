//! Events that the program follows: what becomes of the connection is told to the user.

use std::sync::Arc;
use std::time::Instant;

use nkv::client::{Contact, Event, Events, EventsBuilder};

use crate::failure::Failure;
use crate::interrupt::Stopper;

/// Says something about the connection to the user.
pub(crate) type Notice = Arc<dyn Fn(&str) + Send + Sync>;

/// Events of one pattern, for as long as they are asked for.
pub(crate) struct Follower {
    events: Events,
    notice: Notice,
}

impl Follower {
    /// Begins to follow, until the stopper ends it.
    pub(crate) fn start(
        wanted: EventsBuilder,
        stopper: &Stopper,
        notice: Notice,
    ) -> Result<Follower, Failure> {
        let say = Arc::clone(&notice);
        let wanted = wanted.on_contact(move |contact| match contact {
            Contact::Lost { error, address } => {
                let reason = Failure::from(error).message;
                say(&format!("{reason}; reconnecting to {address}"));
            }
            _ => say("connected again"),
        });
        let events = wanted.start()?;
        stopper.watch(events.ender());
        Ok(Follower { events, notice })
    }

    /// The next event; `None` where the deadline has passed or it was stopped.
    pub(crate) fn next(&mut self, deadline: Option<Instant>) -> Result<Option<Event>, Failure> {
        let event = match deadline {
            Some(at) => {
                let left = at.saturating_duration_since(Instant::now());
                self.events.next_timeout(left)?
            }
            None => self.events.next().transpose()?,
        };
        if let Some(Event::Reset { .. }) = event {
            (self.notice)("what has changed meanwhile is lost; the current entries follow");
        }
        Ok(event)
    }

    /// Tells what becomes of the connection, and nothing else, until it is stopped.
    pub(crate) fn tell_contacts(mut self) -> Result<(), Failure> {
        while self.events.next().transpose()?.is_some() {}
        Ok(())
    }

    /// The next event if it is there already.
    pub(crate) fn try_next(&mut self) -> Result<Option<Event>, Failure> {
        self.next(Some(Instant::now()))
    }
}
