//! What one client has said and heard: requests on their way, answers that are to come, and its
//! subscriptions as it sees them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use nkv::wire::{Answer, Failure, Happening, Incoming, Lifetime};

use super::model::{By, List, Model, Refused, Request, Value};
use super::pattern::matches;
use super::rights::View;
use super::subscriber::{Subscriber, Told};

/// A connection.
pub(crate) struct Desk {
    /// Its number on the bench.
    pub(crate) client: usize,
    /// Its number in the model, never used again, and what it may do.
    pub(crate) by: By,
    /// Requests that the broker has not carried out.
    pub(crate) sent: VecDeque<(Option<String>, Request)>,
    pub(crate) expected: VecDeque<(Option<String>, Expected)>,
    /// Lines that wait because a deletion by pattern is not answered; see [`Desk::may_send`].
    pub(crate) held: VecDeque<(Vec<u8>, Option<String>, Request)>,
    pub(crate) deletion: Option<Deletion>,
    is_deleting: bool,
    /// Names of its subscriptions as the broker should know them.
    pub(crate) names: BTreeSet<&'static str>,
    /// Its subscriptions as its answers tell it.
    subscribers: BTreeMap<String, Subscriber>,
    /// The epoch that was answered, or named by a reset, under each name.
    epochs: BTreeMap<String, String>,
    /// Where the last `sync` under each name stood, in which epoch, and what was to be seen then.
    pub(crate) syncs: Syncs,
    pub(crate) has_ended: bool,
    /// The beginning of a line.
    partial: Vec<u8>,
}

pub(crate) type Syncs = BTreeMap<String, (u64, String, View)>;

/// A deletion by pattern on its way. It may take several turns, in which others write.
#[derive(Debug)]
pub(crate) struct Deletion {
    pub(crate) pattern: String,
    pub(crate) since: u64,
    pub(crate) rev: u64,
    pub(crate) deleted: u64,
    pub(crate) last: Option<String>,
    /// What its client might do while it went on.
    pub(crate) views: Vec<View>,
}

/// An answer that is to come.
#[derive(Debug)]
pub(crate) enum Expected {
    Refused(Refused),
    Written {
        rev: u64,
        unchanged: bool,
    },
    Entry(Listed),
    List(Page),
    /// As the connection's [`Deletion`] tells.
    Deleted,
    /// A deletion by pattern is refused.
    NotDeleted(Refused),
    DeletedKey {
        deleted: u64,
        rev: u64,
    },
    Subscribed {
        name: &'static str,
        rev: u64,
        epoch: String,
        subscriber: Box<Subscriber>,
    },
    Unsubscribed(&'static str),
    Hello {
        rev: u64,
    },
    Stats(BTreeMap<&'static str, u64>),
    Pong,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) key: String,
    pub(crate) value: Option<Value>,
    pub(crate) rev: u64,
    pub(crate) lifetime: Lifetime,
    pub(crate) ttl: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) asked: List,
    pub(crate) limit: usize,
    pub(crate) rev: u64,
    /// Every entry behind `after` when the list began, seen or not.
    pub(crate) all: Vec<Listed>,
    /// What its client might see while the list was made.
    pub(crate) views: Vec<View>,
    /// Whether it may have taken several turns, in which others wrote.
    pub(crate) spans: bool,
}

impl Desk {
    pub(crate) fn new(client: usize, by: By, syncs: Syncs) -> Desk {
        Desk {
            client,
            by,
            sent: VecDeque::new(),
            expected: VecDeque::new(),
            held: VecDeque::new(),
            deletion: None,
            is_deleting: false,
            names: BTreeSet::new(),
            subscribers: BTreeMap::new(),
            epochs: BTreeMap::new(),
            syncs,
            has_ended: false,
            partial: Vec::new(),
        }
    }

    /// The next line that may be sent now. While a deletion by pattern is not answered this client
    /// writes nothing else, so that all its changes are known to be the deletion's.
    pub(crate) fn may_send(&mut self) -> Option<Vec<u8>> {
        let (_, _, request) = self.held.front()?;
        if request.is_write() && self.is_deleting {
            return None;
        }
        self.is_deleting |= matches!(request, Request::DeleteAll(_));
        let (line, id, request) = self.held.pop_front()?;
        self.sent.push_back((id, request));
        Some(line)
    }

    /// The rules have changed. Subscriptions whose answer is not read yet begin under the old ones.
    pub(crate) fn set_view(&mut self, view: View) {
        let answers = self.expected.iter_mut();
        for (_, expected) in answers {
            match expected {
                Expected::Subscribed { subscriber, .. } => subscriber.set_view(&view),
                Expected::List(page) if page.spans => page.views.push(view.clone()),
                _ => {}
            }
        }
        for subscriber in self.subscribers.values_mut() {
            subscriber.set_view(&view);
        }
        if let Some(deletion) = &mut self.deletion {
            deletion.views.push(view.clone());
        }
        self.by.view = view;
    }

    pub(crate) fn receive(&mut self, bytes: &[u8], is_fresh: bool, model: &Model) {
        self.partial.extend_from_slice(bytes);
        let bytes = std::mem::take(&mut self.partial);
        let mut rest = &bytes[..];
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line = std::str::from_utf8(&rest[..end]).expect("lines are UTF-8");
            self.line(line, is_fresh, model);
            rest = &rest[end + 1..];
        }
        self.partial = rest.to_vec();
    }

    /// How many bytes of answers it has not read, at least. The first may have been read in part.
    pub(crate) fn bytes_waiting(&self) -> u64 {
        let waiting = self.expected.iter().skip(1);
        let lengths = waiting.map(|(_, expected)| match expected {
            Expected::Entry(entry) => entry.value.as_ref().map_or(0, |value| value.len()),
            _ => "{\"ok\":true}\n".len(),
        });
        lengths.sum::<usize>() as u64
    }

    /// Holds every copy against the present: the broker has nothing to tell this client.
    pub(crate) fn is_caught_up(&mut self, model: &Model) {
        assert!(self.partial.is_empty(), "half a line and no more to come");
        assert!(self.expected.is_empty(), "an answer has not come");
        for subscriber in self.subscribers.values_mut() {
            subscriber.is_caught_up(model);
        }
    }

    fn line(&mut self, line: &str, is_fresh: bool, model: &Model) {
        let incoming = Incoming::parse(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        match incoming {
            Incoming::Reply { id, result } => {
                let (expected_id, expected) = self.expected.pop_front().expect("it was asked");
                assert_eq!(
                    id.as_ref().map(|id| id.as_json()),
                    expected_id.as_deref(),
                    "{line}"
                );
                self.reply(expected, result.as_deref(), line, model);
            }
            Incoming::Event { sub, rev, event } => {
                let name = sub.as_json().to_owned();
                let subscriber = self.subscribers.get_mut(&name);
                let subscriber = subscriber.unwrap_or_else(|| panic!("{name} is not live: {line}"));
                let (key, value) = match event {
                    Happening::Put { key, payload } => (key, Some(Rc::new(payload.into_owned()))),
                    Happening::Delete { key } => (key, None),
                    Happening::Sync => {
                        subscriber.sync(rev, is_fresh, model);
                        self.syncs.insert(
                            name.clone(),
                            (rev, self.epochs[&name].clone(), subscriber.view().clone()),
                        );
                        return;
                    }
                    Happening::Reset { epoch } => {
                        let epoch = epoch.expect("a reset names its epoch").into_owned();
                        self.epochs.insert(name, epoch);
                        return subscriber.reset(rev, model);
                    }
                };
                let told = Told {
                    key: &key,
                    value,
                    rev,
                    is_fresh,
                };
                subscriber.change(&told, model);
            }
            other => panic!("{other:?}"),
        }
    }

    fn reply(
        &mut self,
        expected: Expected,
        result: Result<&Answer<'_>, &Failure>,
        line: &str,
        model: &Model,
    ) {
        let answer = match (expected, result) {
            (expected @ (Expected::Refused(_) | Expected::NotDeleted(_)), Err(failure)) => {
                self.is_deleting &= !matches!(expected, Expected::NotDeleted(_));
                let (Expected::Refused(refused) | Expected::NotDeleted(refused)) = expected else {
                    unreachable!("it is one of the two")
                };
                let (rev, at) = (failure.rev, failure.at);
                let code = failure.code;
                return assert_eq!(Refused { code, rev, at }, refused, "{line}");
            }
            (expected, Ok(answer)) => (expected, answer),
            (expected, Err(_)) => panic!("{expected:?}: {line}"),
        };
        match answer {
            (Expected::Written { rev, unchanged }, answer) => {
                assert_eq!(
                    (answer.rev, answer.unchanged),
                    (Some(rev), unchanged),
                    "{line}"
                );
            }
            (Expected::Entry(listed), answer) => assert_eq!(entry(answer), listed, "{line}"),
            (Expected::List(page), answer) => page.check(answer, model),
            (Expected::Deleted, answer) => {
                self.is_deleting = false;
                let deletion = self.deletion.take().expect("it was carried out");
                deletion.check_survivors(model, &self.by);
                let expected = (Some(deletion.deleted), Some(deletion.rev));
                assert_eq!((answer.deleted, answer.rev), expected, "{line}");
            }
            (Expected::DeletedKey { deleted, rev }, answer) => {
                assert_eq!(
                    (answer.deleted, answer.rev),
                    (Some(deleted), Some(rev)),
                    "{line}"
                );
            }
            (
                Expected::Subscribed {
                    name,
                    rev,
                    epoch,
                    subscriber,
                },
                answer,
            ) => {
                assert_eq!(answer.rev, Some(rev), "{line}");
                assert_eq!(answer.epoch.as_deref(), Some(&*epoch), "{line}");
                self.epochs.insert(name.to_owned(), epoch);
                self.subscribers.insert(name.to_owned(), *subscriber);
            }
            (Expected::Unsubscribed(name), _) => {
                let removed = self.subscribers.remove(name);
                assert!(removed.is_some(), "{line}");
            }
            (Expected::Hello { rev }, answer) => assert_eq!(answer.rev, Some(rev), "{line}"),
            (Expected::Stats(stats), answer) => {
                let told: serde_json::Value =
                    serde_json::from_str(answer.line).expect("it is read already");
                for (name, number) in stats {
                    assert_eq!(told[name], number, "{name} in {line}");
                }
            }
            (Expected::Pong, answer) => assert_eq!(answer.rev, None, "{line}"),
            (Expected::Refused(refused) | Expected::NotDeleted(refused), _) => {
                panic!("{refused:?}: {line}")
            }
        }
    }
}

impl Deletion {
    /// Nothing that was there when the deletion began, and has not been put since, is there still.
    pub(crate) fn check_survivors(&self, model: &Model, by: &By) {
        for key in model.keys_matching(&self.pattern) {
            let is_swept = self.views.iter().all(|view| view.sweeps(&key))
                && model.sweeps(&key, by)
                && !model.is_claimed_after(&key, self.since);
            assert!(
                model.rev_of(&key) > self.since || !is_swept,
                "{key} survives the deletion of {}",
                self.pattern
            );
        }
    }
}

impl Page {
    fn check(&self, answer: &Answer<'_>, model: &Model) {
        assert_eq!(answer.rev, Some(self.rev), "the revision of the list");
        let told: Vec<Listed> = answer.entries.iter().map(listed).collect();
        assert!(
            told.len() <= self.limit,
            "{} entries, {} asked",
            told.len(),
            self.limit
        );
        if self.spans {
            return self.check_spanning(&told, answer.more, model);
        }
        let seen = self
            .all
            .iter()
            .filter(|entry| self.views[0].sees(&entry.key));
        let seen: Vec<&Listed> = seen.collect();
        let is_next = told.iter().eq(seen.iter().copied().take(told.len()));
        assert!(is_next, "the entries of {self:?}: {told:?}");
        assert_eq!(answer.more, told.len() < seen.len(), "whether more is");
        if answer.more && told.len() < self.limit {
            // Cut for its size, which is no reason to give nothing.
            let next = seen[told.len()];
            let key_and_value = next.key.len() + next.value.as_ref().map_or(0, |value| value.len());
            let enough = answer.line.len() + key_and_value + 64;
            let is_full = enough as u64 > model.limits.message || self.asked.keys_only;
            assert!(
                is_full && !told.is_empty(),
                "a page stops early: {}",
                answer.line
            );
        }
    }

    /// Every entry was there at some time while the list was made, and what was there all the time
    /// is in the list.
    fn check_spanning(&self, told: &[Listed], more: bool, model: &Model) {
        let mut last = self.asked.after.as_deref();
        for entry in told {
            let key = entry.key.as_str();
            assert!(
                last.is_none_or(|last| last < key),
                "by key: {key} after {last:?}"
            );
            assert!(
                matches(&self.asked.pattern, true, key),
                "{key} does not match"
            );
            last = Some(key);
            let is_seen = self.views.iter().any(|view| view.sees(key));
            assert!(is_seen, "{key} is listed for one who may not see it");
            let then = model.change(key, entry.rev).flatten();
            assert!(then.is_some(), "{key} was not put at {}", entry.rev);
            if !self.asked.keys_only {
                assert_eq!(entry.value.as_ref(), then, "{key}");
            }
            let next = model.next_change(key, entry.rev);
            assert!(next.is_none_or(|next| next > self.rev), "{key} is outdated");
        }
        for entry in &self.all {
            let is_lasting = model.rev_of(&entry.key) == entry.rev;
            let is_told = told.iter().any(|told| told.key == entry.key);
            let is_seen = self.views.iter().all(|view| view.sees(&entry.key));
            let is_behind = more && last.is_none_or(|last| entry.key.as_str() > last);
            assert!(
                is_told || !is_lasting || is_behind || !is_seen,
                "{} is not told",
                entry.key
            );
        }
    }
}

fn listed(entry: &nkv::wire::ListEntry<'_>) -> Listed {
    Listed {
        key: entry.key.to_string(),
        value: entry
            .payload
            .clone()
            .map(|value| Rc::new(value.into_owned())),
        rev: entry.rev,
        lifetime: entry.lifetime,
        ttl: entry.ttl_ms,
    }
}

fn entry(answer: &Answer<'_>) -> Listed {
    Listed {
        key: answer.key.as_deref().unwrap_or_default().to_owned(),
        value: answer
            .payload
            .clone()
            .map(|value| Rc::new(value.into_owned())),
        rev: answer.rev.unwrap_or_default(),
        lifetime: answer.lifetime.unwrap_or_default(),
        ttl: answer.ttl_ms,
    }
}
