//! Requests as futures that own what they need.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use serde::Serialize;

use super::Client;
use crate::client::request::Operations;
use crate::client::{Error, Put, response};

/// A request: a future of its answer.
///
/// Nothing is sent before it is polled for the first time. Dropped before, or while it waits for room in
/// the connection's buffer (or a [`Link`](super::Link)'s for a connection), the request was not made.
/// Dropped later, it was sent and will be carried out unless the connection is lost; only the answer
/// is given up. It borrows nothing, so it may be spawned.
#[must_use = "nothing is sent before it is awaited"]
pub struct Pending<T>(Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>);

/// Several changes and conditions, carried out all or not at all.
///
/// A mistake in an operation (a bad key, a value without a JSON form) is kept, and returned by
/// [`Batch::commit`], so that the operations can be written in one row.
///
/// ```no_run
/// # async fn example(client: nkv::client::asynchronous::Client) -> Result<(), nkv::client::Error> {
/// let rev = client
///     .batch()
///     .check("net.generation", 17)
///     .put("net.generation", &18)
///     .delete("net.eth1.*")
///     .commit()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a batch does nothing until it is committed"]
pub struct Batch {
    client: Client,
    operations: Operations,
}

impl<T> Pending<T> {
    pub(super) fn new(
        request: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Pending<T> {
        Pending(Box::pin(request))
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T, Error>> {
        self.get_mut().0.as_mut().poll(context)
    }
}

impl<T> fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").finish_non_exhaustive()
    }
}

impl Batch {
    pub(super) fn new(client: Client) -> Batch {
        Batch {
            client,
            operations: Operations::new(),
        }
    }

    /// Adds a put.
    pub fn put<T: Serialize + ?Sized>(mut self, key: impl AsRef<str>, value: &T) -> Batch {
        self.operations.put(key.as_ref(), value);
        self
    }

    /// Adds a put with options.
    pub fn put_with(mut self, put: Put) -> Batch {
        self.operations.put_with(put);
        self
    }

    /// Adds the deletion of a key or of all keys of a pattern. That there is none is no mistake.
    pub fn delete(mut self, pattern: impl AsRef<str>) -> Batch {
        self.operations.delete(pattern.as_ref());
        self
    }

    /// Adds the deletion of a key, on condition that its revision is this one.
    pub fn delete_if_rev(mut self, key: impl AsRef<str>, rev: u64) -> Batch {
        self.operations.delete_if_rev(key.as_ref(), rev);
        self
    }

    /// Adds the condition that the key's revision is this one; `0`: that there is no such key.
    pub fn check(mut self, key: impl AsRef<str>, rev: u64) -> Batch {
        self.operations.check(key.as_ref(), rev);
        self
    }

    /// Carries it out. The answer is the keyspace's revision after it.
    ///
    /// # Errors
    /// As [`client::Batch::commit`](crate::client::Batch::commit).
    pub fn commit(self) -> Pending<u64> {
        self.client
            .ask(self.operations.into_op(), response::revision)
    }
}
