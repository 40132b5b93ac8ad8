//! Lists of entries and of keys, asked for page by page while they are iterated.
//!
//! A page is one request, and the next one begins after its last key. Nothing is kept in the daemon
//! between pages, so a list is no snapshot: an entry that changes meanwhile is seen as it was before
//! or after, one that comes or goes is seen or not, and no key is seen twice. Who needs one state
//! of several keys subscribes, and takes what comes before the first `sync`.

use super::response::{self, Answered, Listed};
use super::{Client, Entry, Error};
use crate::key::{Key, Pattern};
use crate::wire::{self, Op};

/// The entries that match a pattern, in byte order of their keys. See [`Client::list`].
///
/// After an error there is nothing more.
#[derive(Debug)]
#[must_use = "a list asks for nothing until it is iterated"]
pub struct List<'c> {
    client: &'c Client,
    pages: Pages,
}

/// The keys that match a pattern, in byte order. See [`Client::list_keys`].
///
/// After an error there is nothing more.
#[derive(Debug)]
#[must_use = "a list asks for nothing until it is iterated"]
pub struct Keys<'c> {
    client: &'c Client,
    pages: Pages,
}

/// Where a list stands: which page to ask for, and what is left of the last one.
#[derive(Debug)]
pub(super) struct Pages {
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
        List {
            client,
            pages: Pages::new(pattern, false),
        }
    }

    /// Asks for so many entries at a time: less to wait for and to hold. The daemon has a limit of
    /// its own, which is the default.
    pub fn page(mut self, entries: u64) -> List<'c> {
        self.pages.set_page(entries);
        self
    }

    /// Begins after this key.
    pub fn after(mut self, key: &Key) -> List<'c> {
        self.pages.set_after(key);
        self
    }
}

impl<'c> Keys<'c> {
    pub(super) fn new(client: &'c Client, pattern: Pattern) -> Keys<'c> {
        Keys {
            client,
            pages: Pages::new(pattern, true),
        }
    }

    /// Asks for so many keys at a time. See [`List::page`].
    pub fn page(mut self, keys: u64) -> Keys<'c> {
        self.pages.set_page(keys);
        self
    }

    /// Begins after this key.
    pub fn after(mut self, key: &Key) -> Keys<'c> {
        self.pages.set_after(key);
        self
    }
}

impl Iterator for List<'_> {
    type Item = Result<Entry, Error>;

    fn next(&mut self) -> Option<Result<Entry, Error>> {
        let listed = next(self.client, &mut self.pages)?;
        Some(listed.and_then(Listed::entry))
    }
}

impl Iterator for Keys<'_> {
    type Item = Result<Key, Error>;

    fn next(&mut self) -> Option<Result<Key, Error>> {
        let listed = next(self.client, &mut self.pages)?;
        Some(listed.map(|listed| listed.key))
    }
}

fn next(client: &Client, pages: &mut Pages) -> Option<Result<Listed, Error>> {
    loop {
        if let Some(listed) = pages.listed() {
            return Some(Ok(listed));
        }
        let answer = client.call(pages.request()?, response::as_it_is);
        if let Err(error) = pages.turn(answer) {
            return Some(Err(error));
        }
    }
}

impl Pages {
    pub(super) fn new(pattern: Pattern, keys_only: bool) -> Pages {
        Pages {
            pattern,
            keys_only,
            page_entries: None,
            after: None,
            page: Vec::new().into_iter(),
            has_more: true,
        }
    }

    pub(super) fn set_page(&mut self, entries: u64) {
        self.page_entries = Some(entries);
    }

    pub(super) fn set_after(&mut self, key: &Key) {
        self.after = Some(key.clone());
    }

    /// The next element, as long as the page lasts.
    pub(super) fn listed(&mut self) -> Option<Listed> {
        self.page.next()
    }

    /// What to ask for the next page; nothing where there is none.
    pub(super) fn request(&self) -> Option<Op<'static>> {
        if !self.has_more {
            return None;
        }
        let key = self.pattern.as_str().to_owned().into();
        if self.pattern.has_star() {
            let after = self.after.as_ref();
            return Some(Op::Get(wire::List {
                key,
                limit: self.page_entries,
                after: after.map(|key| key.as_str().to_owned().into()),
                keys_only: self.keys_only.then_some(true),
            }));
        }
        // A key is a pattern too, but the daemon answers it as a key.
        let is_after = |after: &Key| after.as_str() >= self.pattern.as_str();
        if self.after.as_ref().is_some_and(is_after) {
            return None;
        }
        Some(Op::Get(wire::List {
            key,
            ..wire::List::default()
        }))
    }

    /// Takes the answer in. After an error there is no further page.
    pub(super) fn turn(&mut self, answer: Result<Answered, Error>) -> Result<(), Error> {
        self.has_more = false;
        let answer = answer?;
        if !self.pattern.has_star() {
            let listed = response::entry(answer)?.map(Listed::of);
            self.page = Vec::from_iter(listed).into_iter();
            return Ok(());
        }
        let page = answer.map_err(Error::Server)?;
        let last = page.entries.last().map(|listed| listed.key.clone());
        if page.has_more && (last.is_none() || last <= self.after) {
            return Err(Error::Protocol("a page that does not go on".into()));
        }
        self.after = last;
        self.has_more = page.has_more;
        self.page = page.entries.into_iter();
        Ok(())
    }
}
