//! Claims that outlive their connection, for tasks. What becomes of one is told in `client/claimed.rs`.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::{Link, is_before};
use crate::client::asynchronous::{Client, Pending, Subscription};
use crate::client::backoff::Backoff;
use crate::client::claimed::{claims_about, is_in_the_way};
use crate::client::events::REFUSED_PAUSES;
use crate::client::{Error, Event};
use crate::key::{Key, KeyRef};
use crate::wire::{ErrorCode, Failure, Op};

/// A subtree that the link alone may write, as long as this and the link have a connection. Dropping it
/// lets go of the subtree. What becomes of it when the connection is lost is told at
/// [`client::Claim`](crate::client::Claim).
#[derive(Debug)]
#[must_use = "the claim is released when this is dropped"]
pub struct Claim {
    link: Link,
    number: u64,
    key: Key,
}

impl Link {
    /// Claims a key and all that lies below it: no other connection can write there until what this
    /// gives is dropped. The link's own requests can, and so can those of [`Link::client`] and of
    /// whatever else uses its connection; other links of the same program can't. Where the future is
    /// dropped before it is done, nothing is claimed.
    ///
    /// # Errors
    /// As [`Link::client`] and [`Client::claim`]: [`ErrorCode::Conflict`] at once where somebody else has
    /// claimed the key, or one above or below it.
    ///
    /// ```no_run
    /// # async fn example(link: nkv::client::asynchronous::Link) -> Result<(), nkv::client::Error> {
    /// let claim = link.claim("net.eth0").await?;
    /// link.put("net.eth0.mtu", &1500).await?;
    /// # drop(claim);
    /// # Ok(())
    /// # }
    /// ```
    pub fn claim(&self, key: impl AsRef<str>) -> Pending<Claim> {
        let key = KeyRef::new(key.as_ref()).map(KeyRef::to_key);
        let link = self.clone();
        Pending::new(async move { link.claim_key(key?).await })
    }

    /// As [`Link::claim`], but where somebody else is in the way it waits until the subtree is free, for
    /// ever unless the future is dropped. Of several who wait one gets it.
    ///
    /// # Errors
    /// As [`Link::claim`], but for [`ErrorCode::Conflict`].
    pub fn claim_when_free(&self, key: impl AsRef<str>) -> Pending<Claim> {
        let key = KeyRef::new(key.as_ref()).map(KeyRef::to_key);
        let link = self.clone();
        Pending::new(async move { link.claim_key_when_free(key?).await })
    }

    async fn claim_key(&self, key: Key) -> Result<Claim, Error> {
        let shared = self.shared();
        let deadline = self.deadline();
        // A connection that is made from here on claims it by itself.
        self.client_before(deadline).await?;
        let number = shared.lock().upheld.claimed.add(key.as_str());
        // Where this fails or is dropped, the claim is given up.
        let claim = Claim {
            link: self.clone(),
            number,
            key,
        };
        shared.wanted.notify_one();
        loop {
            let client = self.client_before(deadline).await?;
            // To claim twice does no harm: it is this link's alone.
            let outcome = match client.claim(&claim.key).await {
                Ok(rev) => Ok(rev),
                Err(Error::Server(failure)) => Err(failure),
                Err(error) if error.is_disconnect() && is_before(deadline) => {
                    client.close();
                    continue;
                }
                Err(error) => return Err(error),
            };
            if shared.settle(&client, claim.key.as_str(), &outcome) {
                return outcome.map(|_| claim).map_err(Error::Server);
            }
        }
    }

    async fn claim_key_when_free(&self, key: Key) -> Result<Claim, Error> {
        let mut backoff = Backoff::new(REFUSED_PAUSES);
        let mut news: Option<Subscription> = None;
        loop {
            match self.claim_key(key.clone()).await {
                Err(error) if error.code() == Some(ErrorCode::Conflict) => {}
                done => return done,
            }
            let pause = backoff.pause();
            let told = match &mut news {
                Some(news) => wait_for_news(news, &key, pause).await,
                None => {
                    let client = self.client().await?;
                    let wanted = client.subscribe_with(claims_about(key.borrowed()));
                    // What has become free before is found by looking once more.
                    let begun = wanted.changes_only().start().await;
                    begun.map(|begun| news = Some(begun))
                }
            };
            match told {
                Ok(()) => {}
                Err(error) if error.is_disconnect() => news = None,
                // The rules may hide who claims what.
                Err(_) => sleep(pause).await,
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
        let state = self.link.shared().lock();
        state.upheld.claimed.rev(self.number)
    }

    /// Whether the link has the claim now, on a connection that is not known to be lost, and nobody else
    /// has had it since this was made.
    #[must_use]
    pub fn is_held(&self) -> bool {
        let state = self.link.shared().lock();
        !state.upheld.claimed.is_lost(self.number) && state.living().is_some()
    }

    /// Why the daemon has not given it back, where it was lost that way.
    #[must_use]
    pub fn refusal(&self) -> Option<Failure> {
        let state = self.link.shared().lock();
        state.upheld.claimed.refusal(self.number).cloned()
    }

    /// Waits until somebody else has the claim, or may have had it, since this was made. It is so as well
    /// when the claim is [released](Claim::release). While there is no connection it waits for the next.
    pub async fn lost(&self) {
        let shared = self.link.shared();
        let mut changed = shared.changed.subscribe();
        while !shared.lock().upheld.claimed.is_lost(self.number) {
            // The sender is in `shared`, so there is always a next time.
            drop(changed.changed().await);
        }
    }

    /// Lets go of it now, from the call on, and waits until the daemon has; dropping it does not wait.
    ///
    /// # Errors
    /// As [`Client::release`]. It is given up in any case, and without a connection the daemon lets go of
    /// it by itself.
    pub fn release(&self) -> Pending<()> {
        let released = self.give_up().map(|(client, key)| client.release(key));
        Pending::new(async move {
            match released {
                Some(released) => released.await.map(drop),
                None => Ok(()),
            }
        })
    }

    /// Ceases to claim it. Returns what there is to release, and where.
    fn give_up(&self) -> Option<(Client, String)> {
        let shared = self.link.shared();
        let mut state = shared.lock();
        let key = state.upheld.claimed.remove(self.number)?;
        let client = state.client.clone();
        drop(state);
        shared.changed.send_replace(());
        Some((client?, key))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some((client, key)) = self.give_up() {
            tell_release(&client, &key);
        }
    }
}

pub(super) fn tell_release(client: &Client, key: &str) {
    client.connection().tell(Op::Release { key: key.into() });
}

/// Waits until something is released that may be in the way, but no longer than this.
async fn wait_for_news(
    news: &mut Subscription,
    key: &Key,
    patience: Duration,
) -> Result<(), Error> {
    let deadline = Instant::now() + patience;
    loop {
        let Ok(event) = timeout_at(deadline, news.next()).await else {
            return Ok(());
        };
        match event.transpose()? {
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
