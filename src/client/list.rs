//! Lists of entries and of keys, asked for page by page while they are iterated.
//!
//! A page is one request, and the next one begins after its last key. Nothing is kept in the daemon
//! between pages, so a list is no snapshot: an entry that changes meanwhile is seen as it was before
//! or after, one that comes or goes is seen or not, and no key is seen twice. Who needs one state
//! of several keys subscribes, and takes what comes before the first `sync`.

use super::response::{self, Listed};
use super::{Client, Entry, Error};
use crate::key::{Key, Pattern};
use crate::wire::{self, Op};

/// The entries that match a pattern, in byte order of their keys. See [`Client::list`].
///
/// After an error there is nothing more.
#[derive(Debug)]
#[must_use = "a list asks for nothing until it is iterated"]
pub struct List<'c>(Pages<'c>);

/// The keys that match a pattern, in byte order. See [`Client::list_keys`].
///
/// After an error there is nothing more.
#[derive(Debug)]
#[must_use = "a list asks for nothing until it is iterated"]
pub struct Keys<'c>(Pages<'c>);

#[derive(Debug)]
struct Pages<'c> {
    client: &'c Client,
    pattern: Pattern,
    keys_only: bool,
    page_entries: Option<u64>,
    /// The last key that has been received.
    after: Option<Key>,
    page: std::vec::IntoIter<Listed>,
    has_more: bool,
}

impl<'c> List<'c> {
    pub(super) fn new(client: &'c Client, pattern: Pattern) -> List<'c> {
        List(Pages::new(client, pattern, false))
    }

    /// Asks for so many entries at a time: less to wait for and to hold. The daemon has a limit of
    /// its own, which is the default.
    pub fn page(mut self, entries: u64) -> List<'c> {
        self.0.page_entries = Some(entries);
        self
    }

    /// Begins after this key.
    pub fn after(mut self, key: &Key) -> List<'c> {
        self.0.after = Some(key.clone());
        self
    }
}

impl<'c> Keys<'c> {
    pub(super) fn new(client: &'c Client, pattern: Pattern) -> Keys<'c> {
        Keys(Pages::new(client, pattern, true))
    }

    /// Asks for so many keys at a time. See [`List::page`].
    pub fn page(mut self, keys: u64) -> Keys<'c> {
        self.0.page_entries = Some(keys);
        self
    }

    /// Begins after this key.
    pub fn after(mut self, key: &Key) -> Keys<'c> {
        self.0.after = Some(key.clone());
        self
    }
}

impl Iterator for List<'_> {
    type Item = Result<Entry, Error>;

    fn next(&mut self) -> Option<Result<Entry, Error>> {
        let listed = self.0.next()?;
        Some(listed.and_then(
            |Listed {
                 key,
                 value,
                 rev,
                 lifetime,
                 ttl,
             }| {
                let value =
                    value.ok_or_else(|| Error::Protocol("an entry without a value".into()))?;
                Ok(Entry {
                    key,
                    value,
                    rev,
                    lifetime,
                    ttl,
                })
            },
        ))
    }
}

impl Iterator for Keys<'_> {
    type Item = Result<Key, Error>;

    fn next(&mut self) -> Option<Result<Key, Error>> {
        Some(self.0.next()?.map(|listed| listed.key))
    }
}

impl Pages<'_> {
    fn new(client: &Client, pattern: Pattern, keys_only: bool) -> Pages<'_> {
        Pages {
            client,
            pattern,
            keys_only,
            page_entries: None,
            after: None,
            page: Vec::new().into_iter(),
            has_more: true,
        }
    }

    fn next(&mut self) -> Option<Result<Listed, Error>> {
        loop {
            if let Some(listed) = self.page.next() {
                return Some(Ok(listed));
            }
            if !self.has_more {
                return None;
            }
            if let Err(error) = self.turn() {
                self.has_more = false;
                return Some(Err(error));
            }
        }
    }

    /// Asks for the next page.
    fn turn(&mut self) -> Result<(), Error> {
        if !self.pattern.has_star() {
            return self.single();
        }
        let page = self.client.call(
            Op::Get(wire::List {
                key: self.pattern.as_str().into(),
                limit: self.page_entries,
                after: self.after.as_ref().map(|key| key.as_str().into()),
                keys_only: self.keys_only.then_some(true),
            }),
            response::page,
        )?;
        let last = page.entries.last().map(|listed| listed.key.clone());
        if page.has_more && (last.is_none() || last <= self.after) {
            return Err(Error::Protocol("a page that does not go on".into()));
        }
        self.after = last;
        self.has_more = page.has_more;
        self.page = page.entries.into_iter();
        Ok(())
    }

    /// A key is a pattern too, but the daemon answers it as a key.
    fn single(&mut self) -> Result<(), Error> {
        self.has_more = false;
        if self
            .after
            .as_ref()
            .is_some_and(|after| after.as_str() >= self.pattern.as_str())
        {
            return Ok(());
        }
        let entry = self.client.get_value(self.pattern.as_str())?;
        let listed = entry.map(
            |Entry {
                 key,
                 value,
                 rev,
                 lifetime,
                 ttl,
             }| Listed {
                key,
                value: Some(value),
                rev,
                lifetime,
                ttl,
            },
        );
        self.page = Vec::from_iter(listed).into_iter();
        Ok(())
    }
}
