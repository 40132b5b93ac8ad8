//! Lists of entries and of keys, asked for page by page while they are read. What a list promises is told
//! in `client/list.rs`.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;

use super::{Client, Pending};
use crate::client::list::Pages;
use crate::client::response::{self, Answered, Listed};
use crate::client::{Entry, Error};
use crate::key::{Key, Pattern};

/// The entries that match a pattern, in byte order of their keys. See [`Client::list`].
///
/// A stream, and without the traits for streams to be read by [`List::next`]. After an error there is
/// nothing more. Dropping what waits for an entry loses none: the page goes on being waited for by the list.
#[derive(Debug)]
#[must_use = "a list asks for nothing until it is read"]
pub struct List(Asked);

/// The keys that match a pattern, in byte order. See [`Client::list_keys`] and [`List`].
#[derive(Debug)]
#[must_use = "a list asks for nothing until it is read"]
pub struct Keys(Asked);

struct Asked {
    client: Client,
    pages: Pages,
    /// The page that is under way.
    pending: Option<Pending<Answered>>,
}

impl List {
    pub(super) fn new(client: Client, pattern: Pattern) -> List {
        List(Asked::new(client, pattern, false))
    }

    /// Asks for so many entries at a time: less to wait for and to hold. The daemon has a limit of
    /// its own, which is the default.
    pub fn page(mut self, entries: u64) -> List {
        self.0.pages.set_page(entries);
        self
    }

    /// Begins after this key.
    pub fn after(mut self, key: &Key) -> List {
        self.0.pages.set_after(key);
        self
    }

    /// The next entry; `None` after the last one.
    ///
    /// # Errors
    /// As [`Client::get_value`].
    pub async fn next(&mut self) -> Option<Result<Entry, Error>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// All that are left.
    ///
    /// # Errors
    /// As [`List::next`].
    pub async fn collect(mut self) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        while let Some(entry) = self.next().await {
            entries.push(entry?);
        }
        Ok(entries)
    }
}

impl Keys {
    pub(super) fn new(client: Client, pattern: Pattern) -> Keys {
        Keys(Asked::new(client, pattern, true))
    }

    /// Asks for so many keys at a time. See [`List::page`].
    pub fn page(mut self, keys: u64) -> Keys {
        self.0.pages.set_page(keys);
        self
    }

    /// Begins after this key.
    pub fn after(mut self, key: &Key) -> Keys {
        self.0.pages.set_after(key);
        self
    }

    /// The next key; `None` after the last one.
    ///
    /// # Errors
    /// As [`Client::get_value`].
    pub async fn next(&mut self) -> Option<Result<Key, Error>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }
}

impl Stream for List {
    type Item = Result<Entry, Error>;

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Entry, Error>>> {
        let listed = ready!(self.get_mut().0.poll_next(context));
        Poll::Ready(listed.map(|listed| listed.and_then(Listed::entry)))
    }
}

impl Stream for Keys {
    type Item = Result<Key, Error>;

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Key, Error>>> {
        let listed = ready!(self.get_mut().0.poll_next(context));
        Poll::Ready(listed.map(|listed| listed.map(|listed| listed.key)))
    }
}

impl Asked {
    fn new(client: Client, pattern: Pattern, keys_only: bool) -> Asked {
        Asked {
            client,
            pages: Pages::new(pattern, keys_only),
            pending: None,
        }
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Listed, Error>>> {
        loop {
            if let Some(listed) = self.pages.listed() {
                return Poll::Ready(Some(Ok(listed)));
            }
            let pending = match &mut self.pending {
                Some(pending) => pending,
                None => {
                    let Some(op) = self.pages.request() else {
                        return Poll::Ready(None);
                    };
                    let pending = self.client.ask(Ok(op), response::as_it_is);
                    self.pending.insert(pending)
                }
            };
            let answer = ready!(Pin::new(pending).poll(context));
            self.pending = None;
            if let Err(error) = self.pages.turn(answer) {
                return Poll::Ready(Some(Err(error)));
            }
        }
    }
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pages.fmt(f)
    }
}
