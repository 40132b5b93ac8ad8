//! One subscription as its subscriber sees it: a copy of the covered keys, made of events alone.
//!
//! Every event is held against what the protocol promises and against the model's history. What is
//! never asked is how the broker came to send it.

use super::model::{Cover, Model, Picture, Subscribe, Value};
use super::rights::View;

#[derive(Debug)]
pub(crate) struct Subscriber {
    cover: Cover,
    cuts: bool,
    copy: Picture,
    /// Entries up to this revision come first, by key. Nothing where no entries come first.
    walk: Option<Walk>,
    /// Entries older than this are not told (`initial: false`).
    told_after: u64,
    /// All covered changes up to here have been told, as far as events say.
    rev: u64,
    /// A reset has to be the first event.
    owes_reset: bool,
    /// Where the last `sync` since the beginning, or since a reset, stood.
    synced: Option<u64>,
    /// Whether an event came after that.
    is_dirty: bool,
    /// Nothing was owed to it at this revision.
    caught_up: u64,
    /// What it may see: as events that were made last said, and then as it has become since. Which of
    /// them events are made by that it has yet to read can't be known.
    views: Vec<View>,
}

#[derive(Debug)]
struct Walk {
    base: u64,
    last: Option<String>,
}

/// What an event says of a key.
pub(crate) struct Told<'a> {
    pub(crate) key: &'a str,
    pub(crate) value: Option<Value>,
    pub(crate) rev: u64,
    /// Whether it was made in the turn that has just ended.
    pub(crate) is_fresh: bool,
}

impl Subscriber {
    /// A subscriber as the request leaves it. One that resumes holds what the keyspace was then.
    pub(crate) fn new(
        subscribe: &Subscribe,
        epoch: &str,
        view: &View,
        model: &Model,
    ) -> Subscriber {
        let mut subscriber = Subscriber {
            cover: subscribe.cover.clone(),
            cuts: subscribe.cuts,
            copy: Picture::new(),
            walk: None,
            told_after: 0,
            rev: model.rev,
            owes_reset: false,
            synced: None,
            is_dirty: false,
            caught_up: 0,
            views: vec![view.clone()],
        };
        // What it holds is what it could see when it was told.
        if let Some(held) = subscribe.held.as_ref().filter(|held| *held != view) {
            subscriber.views.insert(0, held.clone());
        }
        match &subscribe.since {
            Some((since, known)) if known == epoch && *since <= model.rev => {
                subscriber.copy = subscriber.picture(*since, &subscriber.views[0], model);
                subscriber.rev = *since;
            }
            Some(_) => subscriber.owes_reset = true,
            None if subscribe.initial => {
                let base = model.rev;
                subscriber.walk = Some(Walk { base, last: None });
            }
            None => subscriber.told_after = model.rev,
        }
        subscriber
    }

    /// What it was thought to hold where it resumed may have been undone.
    pub(crate) fn undo(&mut self, model: &Model) {
        if self.walk.is_none() && !self.owes_reset && self.told_after == 0 {
            self.copy = self.picture(self.rev, &self.views[0], model);
        }
    }

    /// From now on it may see something else. It starts over if that makes a difference to it.
    pub(crate) fn set_view(&mut self, view: &View) {
        if self.newest_view() != view {
            self.views.push(view.clone());
        }
    }

    pub(crate) fn change(&mut self, told: &Told<'_>, model: &Model) {
        let Told { key, rev, .. } = *told;
        assert!(!self.owes_reset, "a reset comes first");
        assert!(self.cover.covers(key), "{key} is not covered");
        let is_seen = self
            .views_at(told.is_fresh)
            .iter()
            .any(|view| view.sees(key));
        assert!(is_seen, "{key} is told to one who may not see it");
        let then = model.change(key, rev);
        let then = then.unwrap_or_else(|| panic!("{key} did not change at {rev}"));
        assert_eq!(told.value.as_ref(), then, "what {key} became at {rev}");
        if told.is_fresh {
            assert_eq!(
                rev,
                model.last_change(key),
                "the newest value of {key} is told"
            );
        }
        match &mut self.walk {
            Some(walk) if rev <= walk.base && told.value.is_some() => {
                let is_next = walk.last.as_deref().is_none_or(|last| last < key);
                assert!(is_next, "first entries come by key: {key} after {walk:?}");
                walk.last = Some(key.to_owned());
            }
            _ => {
                self.walk = None;
                assert!(
                    rev > self.rev,
                    "revisions grow: {rev} of {key} after {}",
                    self.rev
                );
                self.rev = rev;
            }
        }
        match &told.value {
            Some(value) => self.copy.insert(key.to_owned(), (rev, value.clone())),
            None => self.copy.remove(key),
        };
        self.is_dirty = true;
    }

    pub(crate) fn sync(&mut self, rev: u64, is_fresh: bool, model: &Model) {
        assert!(!self.owes_reset, "a reset comes first");
        assert!(
            rev >= self.rev,
            "a sync at {rev} after an event at {}",
            self.rev
        );
        assert!(model.is_boundary(rev), "{rev} is inside of a batch");
        assert!(
            !is_fresh || rev == model.rev,
            "a sync stands at the newest revision"
        );
        if let Some(synced) = self.synced {
            assert!(self.cuts, "a second sync without `cuts`");
            assert!(
                self.is_dirty && rev > synced,
                "a sync with nothing before it"
            );
        }
        self.assert_is(rev, is_fresh, model);
        self.walk = None;
        self.rev = rev;
        self.synced = Some(rev);
        self.is_dirty = false;
    }

    pub(crate) fn reset(&mut self, rev: u64, model: &Model) {
        let position = self.rev.max(self.caught_up);
        assert!(
            self.owes_reset || position < model.floor || self.views.len() > 1,
            "a reset without need: all up to {position} is told, deletions after {} are known",
            model.floor
        );
        assert!(
            rev >= position && rev <= model.rev,
            "a reset at {rev}, after {position}"
        );
        self.copy.clear();
        self.walk = Some(Walk {
            base: rev,
            last: None,
        });
        self.told_after = 0;
        self.rev = rev;
        self.owes_reset = false;
        self.synced = None;
        self.is_dirty = false;
    }

    /// Holds the copy against the present: the broker says that it has nothing more to tell.
    pub(crate) fn is_caught_up(&mut self, model: &Model) {
        let is_seen_as_before = self.views.len() == 1;
        if self.caught_up == model.rev
            && !self.is_dirty
            && self.synced.is_some()
            && is_seen_as_before
        {
            return;
        }
        assert!(self.synced.is_some(), "no sync has come");
        assert!(
            !(self.cuts && self.is_dirty),
            "no sync has come after a change"
        );
        self.assert_is(model.rev, true, model);
        self.caught_up = model.rev;
    }

    /// Holds the copy against what is to be seen at a revision: as things are where the event is fresh,
    /// else as at some time since the last.
    fn assert_is(&mut self, rev: u64, is_fresh: bool, model: &Model) {
        let all = self.views.len();
        let first = all - self.views_at(is_fresh).len();
        let fits = |view: &View| self.copy == self.picture(rev, view, model);
        match (first..all).find(|number| fits(&self.views[*number])) {
            Some(number) => drop(self.views.drain(..number)),
            None => assert_eq!(
                self.copy,
                self.picture(rev, self.newest_view(), model),
                "the copy at revision {rev}"
            ),
        }
    }

    /// What there is to be seen at a revision.
    fn picture(&self, rev: u64, view: &View, model: &Model) -> Picture {
        let mut picture = model.picture(&self.cover, rev);
        picture.retain(|key, (rev, _)| *rev > self.told_after && view.sees(key));
        picture
    }

    /// What it could see when it was told what it holds, as far as that is known.
    pub(crate) fn view(&self) -> &View {
        &self.views[0]
    }

    fn newest_view(&self) -> &View {
        self.views.last().expect("there is always one")
    }

    /// How it may be seen by an event.
    fn views_at(&self, is_fresh: bool) -> &[View] {
        let from = if is_fresh { self.views.len() - 1 } else { 0 };
        &self.views[from..]
    }
}
