//! Requests that have options, as values: a put, and a batch of several operations.

use std::borrow::Cow;
use std::time::Duration;

use serde::Serialize;

use super::{Client, Error, Value, response};
use crate::key::{KeyRef, Pattern};
use crate::wire::{self, BatchOp, Lifetime, Op};

/// A put with options, for [`Client::put_with`], [`Pipeline::put_with`](super::Pipeline::put_with)
/// and [`Batch::put_with`].
///
/// ```
/// use std::time::Duration;
/// use nkv::client::{Put, Value};
/// let lease = Put::new("leader.name", Value::of("edge-7")?)?
///     .if_rev(0)
///     .ttl(Duration::from_secs(30));
/// # Ok::<(), nkv::client::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a put does nothing until a client sends it"]
pub struct Put(pub(super) wire::Put<'static>);

/// Several changes and conditions, carried out all or not at all.
///
/// A mistake in an operation (a bad key, a value without a JSON form) is kept, and returned by
/// [`Batch::commit`], so that the operations can be written in one row.
///
/// ```no_run
/// # let client = nkv::client::Client::connect("/run/nkv.sock")?;
/// let rev = client
///     .batch()
///     .check("net.generation", 17)
///     .put("net.generation", &18)
///     .delete("net.eth1.*")
///     .commit()?;
/// # Ok::<(), nkv::client::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "a batch does nothing until it is committed"]
pub struct Batch<'c> {
    client: &'c Client,
    operations: Operations,
}

/// What is in a batch, or what is wrong with the first bad operation.
#[derive(Debug)]
pub(super) struct Operations(Result<Vec<BatchOp<'static>>, Error>);

impl Put {
    /// A put without options.
    ///
    /// # Errors
    /// [`Error::Key`] where the text is no key.
    pub fn new(key: impl AsRef<str>, value: Value) -> Result<Put, Error> {
        Ok(Put(wire::Put {
            key: Cow::Owned(KeyRef::new(key.as_ref())?.as_str().to_owned()),
            payload: value.into_payload(),
            if_rev: None,
            if_changed: false,
            lifetime: None,
            ttl_ms: None,
        }))
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.0.key
    }

    /// On the terms of an entry that was read.
    pub(super) fn on_terms(self, lifetime: Lifetime, ttl: Option<Duration>) -> Put {
        let put = match lifetime {
            Lifetime::Durable => self,
            other => self.lifetime(other),
        };
        match ttl {
            Some(ttl) => put.ttl(ttl),
            None => put,
        }
    }

    pub(super) fn rev_wanted(&self) -> Option<u64> {
        self.0.if_rev
    }

    pub(super) fn is_if_changed(&self) -> bool {
        self.0.if_changed
    }

    /// Only if the key's revision is this one; `0`: only if there is no such key.
    pub fn if_rev(mut self, rev: u64) -> Put {
        self.0.if_rev = Some(rev);
        self
    }

    /// Where the very value is there already, change nothing and notify nobody.
    pub fn if_changed(mut self) -> Put {
        self.0.if_changed = true;
        self
    }

    /// How long the entry lives if nobody deletes it.
    pub fn lifetime(mut self, lifetime: Lifetime) -> Put {
        self.0.lifetime = Some(lifetime);
        self
    }

    /// Deletes the entry after this time unless it is put again. Rounded up to milliseconds. Makes
    /// the entry's lifetime [`Lifetime::Boot`] unless another is given; a durable one is refused.
    pub fn ttl(mut self, ttl: Duration) -> Put {
        let ms = ttl.as_nanos().div_ceil(1_000_000);
        self.0.ttl_ms = Some(u64::try_from(ms).unwrap_or(u64::MAX));
        self
    }
}

impl<'c> Batch<'c> {
    pub(super) fn new(client: &'c Client) -> Batch<'c> {
        Batch {
            client,
            operations: Operations::new(),
        }
    }

    /// Adds a put.
    pub fn put<T: Serialize + ?Sized>(mut self, key: impl AsRef<str>, value: &T) -> Batch<'c> {
        self.operations.put(key.as_ref(), value);
        self
    }

    /// Adds a put with options.
    pub fn put_with(mut self, put: Put) -> Batch<'c> {
        self.operations.put_with(put);
        self
    }

    /// Adds the deletion of a key or of all keys of a pattern. That there is none is no mistake.
    pub fn delete(mut self, pattern: impl AsRef<str>) -> Batch<'c> {
        self.operations.delete(pattern.as_ref());
        self
    }

    /// Adds the deletion of a key, on condition that its revision is this one.
    pub fn delete_if_rev(mut self, key: impl AsRef<str>, rev: u64) -> Batch<'c> {
        self.operations.delete_if_rev(key.as_ref(), rev);
        self
    }

    /// Adds the condition that the key's revision is this one; `0`: that there is no such key.
    pub fn check(mut self, key: impl AsRef<str>, rev: u64) -> Batch<'c> {
        self.operations.check(key.as_ref(), rev);
        self
    }

    /// Sends it and waits. Returns the keyspace's revision after it.
    ///
    /// # Errors
    /// Whatever was wrong with the first bad operation, then as [`Client::put`]. Where a
    /// condition did not hold, the [`Failure`](wire::Failure) is a
    /// [`Conflict`](wire::ErrorCode::Conflict) whose `at` is the operation's index.
    pub fn commit(self) -> Result<u64, Error> {
        self.client
            .call(self.operations.into_op()?, response::revision)
    }
}

impl Operations {
    pub(super) fn new() -> Operations {
        Operations(Ok(Vec::new()))
    }

    pub(super) fn put<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) {
        self.add(|| Ok(BatchOp::Put(Put::new(key, Value::of(value)?)?.0)));
    }

    pub(super) fn put_with(&mut self, put: Put) {
        self.add(|| Ok(BatchOp::Put(put.0)));
    }

    pub(super) fn delete(&mut self, pattern: &str) {
        self.add(|| {
            let key = Cow::Owned(Pattern::new(pattern)?.as_str().to_owned());
            Ok(BatchOp::Delete(wire::Delete { key, if_rev: None }))
        });
    }

    pub(super) fn delete_if_rev(&mut self, key: &str, rev: u64) {
        self.add(|| {
            let key = Cow::Owned(KeyRef::new(key)?.as_str().to_owned());
            Ok(BatchOp::Delete(wire::Delete {
                key,
                if_rev: Some(rev),
            }))
        });
    }

    pub(super) fn check(&mut self, key: &str, rev: u64) {
        self.add(|| {
            let key = Cow::Owned(KeyRef::new(key)?.as_str().to_owned());
            Ok(BatchOp::Check { key, if_rev: rev })
        });
    }

    pub(super) fn into_op(self) -> Result<Op<'static>, Error> {
        Ok(Op::Batch { ops: self.0? })
    }

    fn add(&mut self, op: impl FnOnce() -> Result<BatchOp<'static>, Error>) {
        if let Ok(ops) = &mut self.0 {
            match op() {
                Ok(op) => ops.push(op),
                Err(error) => self.0 = Err(error),
            }
        }
    }
}
