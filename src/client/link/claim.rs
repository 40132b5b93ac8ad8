//! Claims that outlive their connection. What becomes of one is told in `client/claimed.rs`.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::{Link, instant_after, is_before, refusal};
use crate::client::backoff::Backoff;
use crate::client::claimed::{claims_about, is_in_the_way};
use crate::client::events::REFUSED_PAUSES;
use crate::client::{Client, Error, Event, Subscription};
use crate::key::{Key, KeyRef};
use crate::wire::{ErrorCode, Failure};

/// A subtree that the link alone may write, as long as this and the link have a connection. Dropping it
/// lets go of the subtree.
///
/// On each new connection the link claims again, before anything else is done there. Over a restart of the
/// daemon the claim stays for 10 s, which a link uses to come back: it is the same claim then, and nobody
/// else had it in between. After a connection that was lost for another reason, or for longer, it has been
/// free. Then it is **lost**, whether somebody else has it or the link was quicker: somebody else may have
/// written there. [`Claim::wait_until_lost`] tells, and what is lost stays so: to go on, make another one.
/// While there is no connection nobody here can know, and [`Claim::is_held`] says `false`.
///
/// ```no_run
/// # use nkv::client::{Error, Link};
/// # fn publish(link: &Link) -> Result<(), Error> { link.put("net.eth0.mtu", &1500).map(drop) }
/// # fn main() -> Result<(), Error> {
/// # let link = Link::new("/run/nkv.sock")?;
/// loop {
///     let claim = link.claim_when_free("net.eth0", None)?;
///     publish(&link)?; // all of it: somebody else may have written before
///     claim.wait_until_lost(None);
/// #   break
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "the claim is released when this is dropped"]
pub struct Claim {
    link: Link,
    number: u64,
    key: Key,
}

impl Link {
    /// Claims a key and all that lies below it: no other connection can write there until what this
    /// returns is dropped. The link's own requests can, and so can those of [`Link::client`] and of
    /// whatever else uses its connection; other links of the same program can't.
    ///
    /// # Errors
    /// As [`Link::client`] and [`Client::claim`]: [`ErrorCode::Conflict`] at once where somebody else has
    /// claimed the key, or one above or below it.
    ///
    /// ```no_run
    /// # let link = nkv::client::Link::new("/run/nkv.sock")?;
    /// let claim = link.claim("net.eth0")?;
    /// link.put("net.eth0.mtu", &1500)?;
    /// # drop(claim);
    /// # Ok::<(), nkv::client::Error>(())
    /// ```
    pub fn claim(&self, key: impl AsRef<str>) -> Result<Claim, Error> {
        let key = KeyRef::new(key.as_ref())?.to_key();
        let deadline = self.deadline();
        // A connection that is made from here on claims it by itself.
        self.0.client(deadline, &|| false)?;
        let number = self.0.lock().upheld.claimed.add(key.as_str());
        // Where this fails, the claim is given up.
        let claim = Claim {
            link: self.clone(),
            number,
            key,
        };
        loop {
            let client = self.0.client(deadline, &|| false)?;
            // To claim twice does no harm: it is this link's alone.
            let outcome = match refusal(client.claim(&claim.key)) {
                Ok(outcome) => outcome,
                Err(error) if error.is_disconnect() && is_before(deadline) => {
                    self.0.forget(&client);
                    continue;
                }
                Err(error) => return Err(error),
            };
            if self.0.settle(&client, claim.key.as_str(), &outcome) {
                outcome.map_err(Error::Server)?;
                break;
            }
        }
        self.0.keep()?;
        Ok(claim)
    }

    /// As [`Link::claim`], but where somebody else is in the way it waits until the subtree is free, for
    /// so long, or for ever. Of several who wait one gets it.
    ///
    /// # Errors
    /// As [`Link::claim`]; [`ErrorCode::Conflict`] when the time is over.
    pub fn claim_when_free(
        &self,
        key: impl AsRef<str>,
        timeout: Option<Duration>,
    ) -> Result<Claim, Error> {
        let key = KeyRef::new(key.as_ref())?.to_key();
        let deadline = timeout.map(instant_after);
        let mut backoff = Backoff::new(REFUSED_PAUSES);
        let mut news: Option<Subscription> = None;
        loop {
            let refused = match self.claim(&key) {
                Err(error) if error.code() == Some(ErrorCode::Conflict) => error,
                done => return done,
            };
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(refused);
            }
            let pause = backoff.pause();
            let pause = left.map_or(pause, |left| pause.min(left));
            let told = match &mut news {
                Some(news) => wait_for_news(news, &key, pause),
                None => {
                    let client = self.client()?;
                    let wanted = client.subscribe_with(claims_about(key.borrowed()));
                    // What has become free before is found by looking once more.
                    let begun = wanted.changes_only().start();
                    begun.map(|begun| news = Some(begun))
                }
            };
            match told {
                Ok(()) => {}
                Err(error) if error.is_disconnect() => news = None,
                // The rules may hide who claims what.
                Err(_) => std::thread::sleep(pause),
            }
        }
    }
}

impl Claim {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &str {
        self.key.as_str()
    }

    /// The revision of the claim. In one history it grows from claim to claim of the key, whoever makes them,
    /// so it tells of two who have done something in the name of the claim who is the later.
    #[must_use]
    pub fn rev(&self) -> u64 {
        self.link.0.lock().upheld.claimed.rev(self.number)
    }

    /// Whether the link has the claim now, on a connection that is not known to be lost, and nobody else
    /// has had it since this was made.
    #[must_use]
    pub fn is_held(&self) -> bool {
        let state = self.link.0.lock();
        let is_lost = state.upheld.claimed.is_lost(self.number);
        let client = state.client.clone();
        drop(state);
        // Looks at the socket, so not under the lock.
        !is_lost && client.is_some_and(|client| !client.is_closed())
    }

    /// Why the daemon has not given it back, where it was lost that way.
    #[must_use]
    pub fn refusal(&self) -> Option<Failure> {
        let state = self.link.0.lock();
        state.upheld.claimed.refusal(self.number).cloned()
    }

    /// Waits until somebody else has the claim, or may have had it, since this was made; but no longer than
    /// this. Tells whether it is so. It is so as well when the claim is [released](Claim::release). While
    /// there is no connection it waits for the next.
    pub fn wait_until_lost(&self, timeout: Option<Duration>) -> bool {
        let deadline = timeout.map(instant_after);
        let shared = &self.link.0;
        let mut state = shared.lock();
        while !state.upheld.claimed.is_lost(self.number) {
            state = match deadline.map(|at| at.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return false,
                Some(left) => {
                    let waited = shared.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    let waited = shared.changed.wait(state);
                    waited.unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
        true
    }

    /// Lets go of it now, and waits until the daemon has; dropping it does not wait.
    ///
    /// # Errors
    /// As [`Client::release`]. It is given up in any case, and without a connection the daemon lets go of
    /// it by itself.
    pub fn release(&self) -> Result<(), Error> {
        match self.give_up() {
            Some((client, key)) => client.release(key).map(drop),
            None => Ok(()),
        }
    }

    /// Ceases to claim it. Returns what there is to release, and where.
    fn give_up(&self) -> Option<(Client, String)> {
        let shared = &self.link.0;
        let mut state = shared.lock();
        let key = state.upheld.claimed.remove(self.number)?;
        shared.changed.notify_all();
        Some((state.client.clone()?, key))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some((client, key)) = self.give_up() {
            let _ = client.pipeline().release(key);
        }
    }
}

/// Waits until something is released that may be in the way, but no longer than this.
fn wait_for_news(news: &mut Subscription, key: &Key, patience: Duration) -> Result<(), Error> {
    let deadline = instant_after(patience);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match news.next_timeout(left)? {
            None | Some(Event::Reset { .. }) => return Ok(()),
            Some(Event::Delete { key: entry, .. })
                if is_in_the_way(entry.as_str(), key.as_str()) =>
            {
                return Ok(());
            }
            Some(_) => {}
        }
    }
}
