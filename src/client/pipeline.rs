//! Requests that are sent without waiting for the answers of those before.
//!
//! There is nothing to collect and nothing to start: each method sends its request and returns a
//! handle for the answer. It waits only for room in the connection's bounded buffer, and reads
//! answers meanwhile, so any number of requests may be under way without a deadlock.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::exchange::RequestId;
use super::response::{self, Reading, Written};
use super::{Client, Entry, Error, Put, Value};
use crate::key::{KeyRef, Pattern};
use crate::wire::{Delete, List, Op};

/// The request methods of a [`Client`] in a form that doesn't wait. Requests are carried out in the
/// order in which they are sent, and one that is refused does not stop those after it.
///
/// ```no_run
/// # let client = nkv::client::Client::connect("/run/nkv.sock")?;
/// let pipeline = client.pipeline();
/// let puts: Vec<_> = (0..1000)
///     .map(|n| pipeline.put(format!("numbers.{n}"), &n))
///     .collect::<Result<_, _>>()?;
/// for put in puts {
///     put.wait()?;
/// }
/// # Ok::<(), nkv::client::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Pipeline<'c> {
    client: &'c Client,
}

/// The answer to a request that is under way. Dropping it gives up the answer, not the request. (What
/// the socket had no room for is written while anyone waits on the connection.)
#[derive(Debug)]
#[must_use = "whether the request succeeded is known only by waiting"]
pub struct Pending<'c, T> {
    client: &'c Client,
    id: RequestId,
    reading: Reading<T>,
    is_over: bool,
}

impl<'c> Pipeline<'c> {
    pub(super) fn new(client: &'c Client) -> Pipeline<'c> {
        Pipeline { client }
    }

    /// Sends a put.
    ///
    /// # Errors
    /// [`Error::Key`] and [`Error::Value`], with which nothing is sent; [`Error::Closed`] and
    /// [`Error::Io`] where the connection is lost; [`Error::Timeout`] where there was no room in
    /// time, and nothing is sent. The same for the other methods.
    pub fn put<T: Serialize + ?Sized>(
        self,
        key: impl AsRef<str>,
        value: &T,
    ) -> Result<Pending<'c, Written>, Error> {
        self.put_with(Put::new(key, Value::of(value)?)?)
    }

    /// Sends a put with options.
    ///
    /// # Errors
    /// As [`Pipeline::put`].
    pub fn put_with(self, put: Put) -> Result<Pending<'c, Written>, Error> {
        self.send(Op::Put(put.0), response::written)
    }

    /// Sends the deletion of a key or a pattern; the answer is how many keys are gone.
    ///
    /// # Errors
    /// As [`Pipeline::put`].
    pub fn delete(self, pattern: impl AsRef<str>) -> Result<Pending<'c, u64>, Error> {
        let pattern = Pattern::new(pattern.as_ref())?;
        let delete = Delete {
            key: pattern.as_str().into(),
            if_rev: None,
        };
        self.send(Op::Delete(delete), response::deleted)
    }

    /// Sends the claim of a key and of all that lies below it; the answer is the claim's revision.
    ///
    /// # Errors
    /// As [`Pipeline::put`].
    pub fn claim(self, key: impl AsRef<str>) -> Result<Pending<'c, u64>, Error> {
        let key = KeyRef::new(key.as_ref())?.as_str().into();
        self.send(Op::Claim { key }, response::revision)
    }

    /// Sends the release of a claim; the answer is the revision of that.
    ///
    /// # Errors
    /// As [`Pipeline::put`].
    pub fn release(self, key: impl AsRef<str>) -> Result<Pending<'c, u64>, Error> {
        let key = KeyRef::new(key.as_ref())?.as_str().into();
        self.send(Op::Release { key }, response::revision)
    }

    /// Asks for a key's value as a type of the caller's.
    ///
    /// # Errors
    /// As [`Pipeline::put`].
    pub fn get<T: DeserializeOwned>(
        self,
        key: impl AsRef<str>,
    ) -> Result<Pending<'c, Option<Entry<T>>>, Error> {
        self.send(get(&KeyRef::new(key.as_ref())?), response::typed_entry)
    }

    /// Asks for a key's value as it is.
    ///
    /// # Errors
    /// As [`Pipeline::put`].
    pub fn get_value(self, key: impl AsRef<str>) -> Result<Pending<'c, Option<Entry>>, Error> {
        self.send(get(&KeyRef::new(key.as_ref())?), response::entry)
    }

    pub(super) fn send<T>(self, op: Op<'_>, reading: Reading<T>) -> Result<Pending<'c, T>, Error> {
        let id = self.client.connection().submit(op)?;
        Ok(Pending {
            client: self.client,
            id,
            reading,
            is_over: false,
        })
    }
}

impl<T> Pending<'_, T> {
    /// Waits for the answer.
    ///
    /// # Errors
    /// [`Error::Server`] where the daemon refused; [`Error::Timeout`] and [`Error::Unanswered`]
    /// where the request's fate is unknown; [`Error::Value`] where a value is not of type `T`;
    /// [`Error::Protocol`] where the answer is none.
    pub fn wait(mut self) -> Result<T, Error> {
        self.is_over = true;
        let connection = self.client.connection();
        let answer = connection.answer(self.id, connection.reply_timeout())?;
        (self.reading)(answer)
    }
}

impl<T> Pending<'_, T> {
    /// The answer, if it is there or can be read without waiting; `None` while it is not, and after it
    /// was given. For programs with a loop of their own, see [`Client::step`].
    ///
    /// # Errors
    /// As [`Pending::wait`], but for [`Error::Timeout`]: how long to go on asking is up to the caller.
    /// After an error there is nothing more to come.
    pub fn try_wait(&mut self) -> Result<Option<T>, Error> {
        if self.is_over {
            return Ok(None);
        }
        let answer = self.client.connection().try_answer(self.id);
        self.is_over = !matches!(answer, Ok(None));
        answer?.map(self.reading).transpose()
    }
}

impl<T> Drop for Pending<'_, T> {
    fn drop(&mut self) {
        if !self.is_over {
            self.client.connection().abandon(self.id);
        }
    }
}

fn get<'a>(key: &KeyRef<'a>) -> Op<'a> {
    Op::Get(List {
        key: key.as_str().into(),
        ..List::default()
    })
}
