//! One of several that are ready leads, and another one takes over when it goes.
//!
//! ```console
//! $ cargo run --example leader edge-1 [ADDRESS]
//! $ cargo run --example leader edge-2 [ADDRESS]   # in another terminal
//! ```
//!
//! All try to put the key `leader`, on condition that it is not there (`if_rev(0)`): one succeeds. The
//! entry is a `session` entry: the daemon deletes it when the connection ends that put it. So
//! leadership is a matter of one connection, a [`Client`], and whoever loses that steps down at once.
//! The [`Link`] is only there to get the next one.
//!
//! Names must be different. What is not shown: a leader that hangs keeps its connection. With a `ttl` on
//! the entry, put again in time with `if_changed`, it would lose it.

#![allow(clippy::print_stdout, reason = "it is what the example shows")]

use nkv::client::{Client, Error, ErrorCode, Event, Lifetime, Link, Put, Value};

const KEY: &str = "leader";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().ok_or("usage: leader NAME [ADDRESS]")?;
    let link = match arguments.next() {
        Some(address) => Link::new(address)?,
        None => Link::to_default()?,
    };
    loop {
        let client = match link.client() {
            Ok(client) => client,
            // The daemon has been away for long, and may come back.
            Err(error) if error.is_disconnect() => continue,
            Err(error) => return Err(error.into()),
        };
        let mut candidate = Candidate {
            name: &name,
            client: &client,
            leads_since: None,
        };
        let end = candidate.stand();
        // The entry is gone or going, so somebody else may lead from this moment on.
        candidate.step_down();
        match end {
            Err(error) if !error.is_disconnect() => return Err(error.into()),
            _ => {}
        }
    }
}

/// Somebody who is ready to lead, for as long as a connection lasts.
struct Candidate<'c> {
    name: &'c str,
    client: &'c Client,
    /// The revision of the entry, while it leads.
    leads_since: Option<u64>,
}

impl Candidate<'_> {
    /// Leads or waits for its turn until the connection ends.
    fn stand(&mut self) -> Result<(), Error> {
        // With `cuts`, each `Sync` says that what was told so far is the state at its revision; the
        // first one comes at once.
        let mut leader = None;
        for event in self.client.subscribe_with(KEY).exact().cuts().start()? {
            match event? {
                Event::Put { value, rev, .. } => leader = Some((value.json::<String>(), rev)),
                Event::Delete { .. } | Event::Reset { .. } => leader = None,
                Event::Sync { rev } => match &leader {
                    None => self.consider(None, rev)?,
                    Some((Ok(leader), at)) => self.consider(Some((leader, *at)), rev)?,
                    Some((Err(error), _)) => println!("{KEY} is nobody's name: {error}"),
                },
            }
        }
        Ok(())
    }

    /// Does what has to be done where this one leads, or nobody.
    fn consider(&mut self, leader: Option<(&str, u64)>, now: u64) -> Result<(), Error> {
        if let Some(since) = self.leads_since {
            let is_of_before = now < since;
            if is_of_before || leader.is_some_and(|(leader, _)| leader == self.name) {
                return Ok(());
            }
            // Somebody has deleted or overwritten the entry without asking.
            self.step_down();
        }
        match leader {
            None => self.try_to_lead(0),
            // Left over from a connection that was lost: after a restart of its own the daemon keeps such
            // an entry for 10 s. It is taken over if nobody is quicker.
            Some((leader, rev)) if leader == self.name => self.try_to_lead(rev),
            Some((leader, _)) => {
                println!("{} follows {leader}", self.name);
                Ok(())
            }
        }
    }

    fn try_to_lead(&mut self, rev: u64) -> Result<(), Error> {
        let put = Put::new(KEY, Value::of(self.name)?)?
            .lifetime(Lifetime::Session)
            .if_rev(rev);
        match self.client.put_with(put) {
            Ok(written) => {
                println!("{} leads", self.name);
                self.leads_since = Some(written.rev);
                Ok(())
            }
            // Somebody was quicker. Who it is comes as an event.
            Err(error) if error.code() == Some(ErrorCode::Conflict) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn step_down(&mut self) {
        if self.leads_since.take().is_some() {
            println!("{} steps down", self.name);
        }
    }
}
