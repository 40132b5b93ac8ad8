//! A connection's bookkeeping without its socket: requests become bytes, bytes become answers and
//! events. Who reads and writes, waits and wakes, is not known here.
//!
//! **The order of calls.** A [request](Exchange::request) adds bytes to [`Exchange::outgoing`]; as many
//! of them as a socket took are [`written`](Exchange::written). What a socket gave is
//! [`received`](Exchange::receive), in pieces of any size; for each answer and each event in it the
//! number is told of the request or subscription that it belongs to. An answer is then there to be
//! [taken](Exchange::take_answer) once, an event by [`Exchange::take_event`].
//!
//! **The daemon answers in order**, so an answer belongs to the oldest request that has none, and one
//! with another id means that the two sides don't agree any more: that ends the connection.
//!
//! **What is bounded.** A line from the peer has at most [`LINE_BYTES_MAX`], and an
//! [inbox](super::inbox::Inbox) bounds itself. [`Exchange::has_room`] says whether a request should wait
//! until more is written; it is not enforced, because ending a subscription must always be possible.
//! Answers wait for the handles that stand for them, of which the caller has as many as it likes.
//!
//! **Two ends.** Reading and writing end apart: a failed write does not end the reading, for the reason
//! may be waiting to be read. What is received before the end can be taken after it.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};

use super::error::End;
use super::inbox::Inbox;
use super::response::{Answered, Response};
use super::{Event, Value};
use crate::key::Key;
use crate::wire::{Happening, Id, Incoming, Op, Request, Subscribe};

/// There is no room for a request while more bytes than these wait to be written.
const OUTGOING_BYTES_MAX: usize = 64 << 10;

/// The longest line that is taken from a peer. Far above what a daemon with sensible limits sends.
const LINE_BYTES_MAX: usize = 256 << 20;

/// How much of a line's buffer is kept when there is none.
const INCOMING_BYTES_KEPT: usize = 64 << 10;

/// What a request's answer is waited for by, and a subscription's events: its place in the order of
/// requests.
pub(super) type RequestId = u64;

/// Everything that a connection has to remember.
pub(super) struct Exchange {
    /// Requests not yet written, from `outgoing_start`.
    outgoing: Vec<u8>,
    outgoing_start: usize,
    /// The beginning of a line whose end has not come.
    incoming: Vec<u8>,
    /// Requests in the order in which they were made, until they are answered.
    unanswered: VecDeque<Unanswered>,
    /// Answers that nobody has taken yet.
    answers: HashMap<RequestId, Answered>,
    inboxes: HashMap<RequestId, Inbox>,
    next_id: RequestId,
    /// Set once, when nothing more can be read.
    end: Option<End>,
    /// Set once, when nothing more can be written.
    write_end: Option<End>,
}

struct Unanswered {
    id: RequestId,
    /// Whether somebody will take the answer.
    is_wanted: bool,
    /// Whether the answer has fields of its own, so that the whole line is needed.
    keeps_line: bool,
}

impl Exchange {
    pub(super) fn new() -> Exchange {
        Exchange {
            outgoing: Vec::new(),
            outgoing_start: 0,
            incoming: Vec::new(),
            unanswered: VecDeque::new(),
            answers: HashMap::new(),
            inboxes: HashMap::new(),
            next_id: 1,
            end: None,
            write_end: None,
        }
    }

    /// Makes a request whose answer will be taken or [abandoned](Exchange::abandon).
    pub(super) fn request(&mut self, op: Op<'_>) -> RequestId {
        self.enqueue(op, true)
    }

    /// Makes a subscription. From here on there is a place for its events.
    pub(super) fn subscribe(&mut self, subscribe: Subscribe<'_>) -> RequestId {
        let id = self.enqueue(Op::Subscribe(subscribe), true);
        self.inboxes.insert(id, Inbox::new());
        id
    }

    /// Ends a subscription: nothing more of it can be taken. Returns whether there was one.
    pub(super) fn unsubscribe(&mut self, id: RequestId) -> bool {
        let was_there = self.inboxes.remove(&id).is_some();
        if was_there && self.ended().is_none() {
            self.enqueue(Op::Unsubscribe { sub: Id::from(id) }, false);
        }
        was_there
    }

    /// Forgets a subscription that the daemon has refused.
    pub(super) fn forget_subscription(&mut self, id: RequestId) {
        self.inboxes.remove(&id);
    }

    /// Declares that nobody will take an answer. Returns it where it is there already.
    pub(super) fn abandon(&mut self, id: RequestId) -> Option<Answered> {
        let answer = self.answers.remove(&id);
        if let Ok(position) = self
            .unanswered
            .binary_search_by_key(&id, |request| request.id)
        {
            self.unanswered[position].is_wanted = false;
        }
        answer
    }

    /// The answer to a request, once.
    pub(super) fn take_answer(&mut self, id: RequestId) -> Option<Answered> {
        self.answers.remove(&id)
    }

    /// The next event of a subscription, where there is one; `Some(None)` where the subscription has been
    /// ended.
    pub(super) fn take_event(&mut self, id: RequestId) -> Option<Option<Event>> {
        match self.inboxes.get_mut(&id) {
            Some(inbox) => inbox.pop().map(Some),
            None => Some(None),
        }
    }

    /// Whether another request may be made without waiting.
    pub(super) fn has_room(&self) -> bool {
        self.outgoing().len() <= OUTGOING_BYTES_MAX
    }

    /// What is to be written.
    pub(super) fn outgoing(&self) -> &[u8] {
        &self.outgoing[self.outgoing_start..]
    }

    /// So many of the outgoing bytes have been written.
    pub(super) fn written(&mut self, bytes: usize) {
        self.outgoing_start += bytes;
        assert!(self.outgoing_start <= self.outgoing.len());
        if self.outgoing_start == self.outgoing.len() {
            self.outgoing.clear();
            self.outgoing.shrink_to(OUTGOING_BYTES_MAX);
            self.outgoing_start = 0;
        } else if self.outgoing_start > OUTGOING_BYTES_MAX {
            self.outgoing.drain(..self.outgoing_start);
            self.outgoing_start = 0;
        }
    }

    /// Nothing more can be written.
    pub(super) fn end_writing(&mut self, end: End) {
        self.write_end.get_or_insert(end);
        self.outgoing = Vec::new();
        self.outgoing_start = 0;
    }

    /// Nothing more will be read or written.
    pub(super) fn end(&mut self, end: End) {
        self.end.get_or_insert(end);
    }

    /// Why nothing more will come, where that is so.
    pub(super) fn read_end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Why no request can be made any more, where that is so.
    pub(super) fn ended(&self) -> Option<&End> {
        self.end.as_ref().or(self.write_end.as_ref())
    }

    /// Takes in bytes, and tells whose answers and events were among them. What makes no sense ends the
    /// connection.
    pub(super) fn receive(&mut self, bytes: &[u8], mut told: impl FnMut(RequestId)) {
        if self.end.is_none()
            && let Err(what) = self.take_in(bytes, &mut told)
        {
            self.end = Some(End::Protocol(what));
        }
    }

    fn take_in(
        &mut self,
        mut bytes: &[u8],
        told: &mut impl FnMut(RequestId),
    ) -> Result<(), String> {
        while let Some(length) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(length);
            bytes = &rest[1..];
            if self.incoming.is_empty() {
                self.line(line, told)?;
            } else {
                let mut whole = std::mem::take(&mut self.incoming);
                whole.extend_from_slice(line);
                self.line(&whole, told)?;
                whole.clear();
                whole.shrink_to(INCOMING_BYTES_KEPT);
                self.incoming = whole;
            }
        }
        if self.incoming.len() + bytes.len() > LINE_BYTES_MAX {
            return Err(format!("a line of more than {LINE_BYTES_MAX} bytes"));
        }
        self.incoming.extend_from_slice(bytes);
        Ok(())
    }

    fn line(&mut self, line: &[u8], told: &mut impl FnMut(RequestId)) -> Result<(), String> {
        let line = line.trim_ascii();
        if line.is_empty() {
            return Ok(());
        }
        let line = std::str::from_utf8(line).map_err(|_| "a line that is not UTF-8")?;
        if let Some(id) = self.deliver(line)? {
            told(id);
        }
        Ok(())
    }

    /// Puts a line where it belongs, and returns whose it is, if somebody's.
    fn deliver(&mut self, line: &str) -> Result<Option<RequestId>, String> {
        match Incoming::parse(line).map_err(|error| error.to_string())? {
            Incoming::Reply { id, result } => {
                let Some(request) = self.unanswered.pop_front() else {
                    return Err(match result {
                        Ok(_) => "an answer that nothing asked for".to_owned(),
                        Err(failure) => failure.to_string(),
                    });
                };
                // A line that was too long to be read is answered without its id.
                if id.is_some_and(|id| id.as_json() != request.id.to_string()) {
                    return Err("an answer to another request than the oldest".to_owned());
                }
                if !request.is_wanted {
                    return Ok(None);
                }
                let answer = match result {
                    Ok(answer) => Ok(Response::received(*answer, request.keeps_line)?),
                    Err(failure) => Err(failure),
                };
                self.answers.insert(request.id, answer);
                Ok(Some(request.id))
            }
            Incoming::Event { sub, rev, event } => {
                let id = sub.as_json().parse::<RequestId>().ok();
                // An event may be on its way while its subscription is being ended.
                let Some((id, inbox)) = id.and_then(|id| Some((id, self.inboxes.get_mut(&id)?)))
                else {
                    return Ok(None);
                };
                inbox.push(received_event(event, rev)?);
                Ok(Some(id))
            }
            _ => Ok(None),
        }
    }

    fn enqueue(&mut self, op: Op<'_>, is_wanted: bool) -> RequestId {
        let id = self.next_id;
        self.next_id += 1;
        let keeps_line = matches!(op, Op::Hello { .. } | Op::Stats | Op::Clients);
        Request {
            id: Some(Id::from(id)),
            op,
        }
        .write(&mut self.outgoing);
        self.unanswered.push_back(Unanswered {
            id,
            is_wanted,
            keeps_line,
        });
        id
    }
}

fn received_event(event: Happening<'_>, rev: u64) -> Result<Event, String> {
    let parsed = |key: &str| Key::new(key).map_err(|error| format!("a bad key: {error}"));
    Ok(match event {
        Happening::Put { key, payload } => Event::Put {
            key: parsed(&key)?,
            value: Value::received(payload),
            rev,
        },
        Happening::Delete { key } => Event::Delete {
            key: parsed(&key)?,
            rev,
        },
        Happening::Sync => Event::Sync { rev },
        Happening::Reset { epoch } => Event::Reset {
            rev,
            epoch: epoch.map(Cow::into_owned),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ping(exchange: &mut Exchange) -> RequestId {
        exchange.request(Op::Ping)
    }

    fn watch(exchange: &mut Exchange, pattern: &'static str) -> RequestId {
        exchange.subscribe(Subscribe {
            key: pattern.into(),
            exact: false,
            no_initial: false,
            cuts: false,
            since: None,
        })
    }

    /// What comes of the same bytes, whole and one byte at a time.
    fn both_ways(
        prepare: impl Fn(&mut Exchange),
        bytes: &str,
        check: impl Fn(&mut Exchange, &[RequestId]),
    ) {
        for piece in [bytes.len().max(1), 1, 7] {
            let mut exchange = Exchange::new();
            prepare(&mut exchange);
            let mut told = Vec::new();
            for piece in bytes.as_bytes().chunks(piece) {
                exchange.receive(piece, |id| told.push(id));
            }
            check(&mut exchange, &told);
        }
    }

    #[test]
    fn requests_become_lines() {
        let mut exchange = Exchange::new();
        assert_eq!((ping(&mut exchange), watch(&mut exchange, "a.*")), (1, 2));
        let lines = "{\"id\":1,\"op\":\"ping\"}\n{\"id\":2,\"op\":\"subscribe\",\"key\":\"a.*\"}\n";
        assert_eq!(exchange.outgoing(), lines.as_bytes());
        exchange.written(3);
        assert_eq!(exchange.outgoing(), &lines.as_bytes()[3..]);
        assert!(exchange.unsubscribe(2));
        assert!(!exchange.unsubscribe(2));
        let line = "{\"id\":3,\"op\":\"unsubscribe\",\"sub\":2}\n";
        assert!(exchange.outgoing().ends_with(line.as_bytes()));
        exchange.written(exchange.outgoing().len());
        assert!(exchange.outgoing().is_empty());
    }

    #[test]
    fn there_is_room_until_much_is_unwritten() {
        let mut exchange = Exchange::new();
        let mut count = 0;
        while exchange.has_room() {
            ping(&mut exchange);
            count += 1;
        }
        assert!(count > 1000);
        let length = exchange.outgoing().len();
        assert!(length > OUTGOING_BYTES_MAX && length < OUTGOING_BYTES_MAX + 100);
        exchange.written(length - 10);
        assert!(exchange.has_room());
        assert_eq!(exchange.outgoing().len(), 10);
        assert!(
            exchange
                .outgoing()
                .ends_with(b"\"op\":\"ping\"}\n".split_at(3).1)
        );
    }

    #[test]
    fn answers_come_to_whoever_asked() {
        both_ways(
            |exchange| {
                for _ in 0..4 {
                    ping(exchange);
                }
                assert!(exchange.abandon(2).is_none());
            },
            concat!(
                "{\"id\":1,\"ok\":true,\"rev\":7}\r\n\n  \n",
                "{\"id\":2,\"ok\":true}\n",
                // One that was too long to be read has no id.
                "{\"ok\":false,\"error\":\"too_large\",\"message\":\"größer\"}\n",
                "{\"id\":4,\"ok\":true}"
            ),
            |exchange, told| {
                assert_eq!(told, [1, 3]);
                assert_eq!(exchange.take_answer(1).unwrap().unwrap().rev, Some(7));
                assert!(exchange.take_answer(1).is_none(), "it was taken");
                assert!(exchange.take_answer(2).is_none(), "nobody wants it");
                assert_eq!(
                    exchange.take_answer(3).unwrap().unwrap_err().message,
                    "größer"
                );
                assert!(exchange.take_answer(4).is_none(), "the line has no end yet");
                exchange.receive(b"\n", |id| assert_eq!(id, 4));
                assert!(exchange.abandon(4).is_some());
                assert!(exchange.ended().is_none());
            },
        );
    }

    #[test]
    fn events_come_to_their_subscription() {
        both_ways(
            |exchange| {
                watch(exchange, "a");
                watch(exchange, "b");
                watch(exchange, "c");
                exchange.unsubscribe(3);
            },
            concat!(
                "{\"sub\":1,\"event\":\"put\",\"key\":\"a\",\"value\":1.0,\"rev\":5}\n",
                "{\"id\":1,\"ok\":true}\n",
                "{\"sub\":3,\"event\":\"delete\",\"key\":\"c\",\"rev\":6}\n",
                "{\"sub\":2,\"event\":\"somersault\",\"rev\":6}\n",
                "{\"sub\":2,\"event\":\"delete\",\"key\":\"b\",\"rev\":6}\n",
                "{\"sub\":\"2\",\"event\":\"sync\",\"rev\":6}\n",
                "{\"sub\":1,\"event\":\"sync\",\"rev\":6}\n",
            ),
            |exchange, told| {
                assert_eq!(told, [1, 1, 2, 1]);
                assert!(exchange.take_answer(1).is_some());
                let mut revs = |id| exchange.take_event(id).unwrap().map(|event| event.rev());
                assert_eq!(
                    [revs(1), revs(1), revs(2), revs(3)],
                    [Some(5), Some(6), Some(6), None]
                );
                assert!(exchange.take_event(1).is_none());
            },
        );
    }

    #[test]
    fn what_makes_no_sense_is_the_end() {
        let check = |bytes: &str, expected: &str| {
            let bytes = bytes.to_owned() + "\n{\"id\":1,\"ok\":true}\n";
            both_ways(
                |exchange| {
                    ping(exchange);
                    watch(exchange, "a");
                },
                &bytes,
                |exchange, told| {
                    assert!(told.is_empty(), "{bytes}");
                    let Some(End::Protocol(what)) = exchange.read_end() else {
                        panic!("{bytes}: {:?}", exchange.read_end().map(End::error));
                    };
                    assert!(what.contains(expected), "{bytes}: {what}");
                    assert!(exchange.take_answer(1).is_none());
                },
            );
        };
        check("{\"id\":2,\"ok\":true}", "another request");
        check("{\"id\":\"1\",\"ok\":true}", "another request");
        check("HTTP/1.1 400 Bad Request", "expected value");
        check(
            "{\"sub\":2,\"event\":\"delete\",\"key\":\"a..b\",\"rev\":1}",
            "a bad key",
        );
        let mut exchange = Exchange::new();
        exchange.receive(b"{\"ok\":true}\n", |_| {});
        assert!(matches!(exchange.read_end(), Some(End::Protocol(_))));
        let mut exchange = Exchange::new();
        ping(&mut exchange);
        exchange.receive(b"\xff\n", |_| {});
        assert!(matches!(exchange.read_end(), Some(End::Protocol(_))));
    }

    #[test]
    fn reading_and_writing_end_apart() {
        let mut exchange = Exchange::new();
        ping(&mut exchange);
        watch(&mut exchange, "a");
        exchange.end_writing(End::Protocol("a pipe without an end".into()));
        assert!(exchange.outgoing().is_empty() && exchange.ended().is_some());
        assert!(exchange.read_end().is_none());
        exchange.receive(b"{\"id\":1,\"ok\":true}\n", |id| assert_eq!(id, 1));
        exchange.receive(b"{\"sub\":2,\"event\":\"sync\",\"rev\":1}\n", |id| {
            assert_eq!(id, 2)
        });
        exchange.end(End::Closed);
        exchange.receive(b"{\"sub\":2,\"event\":\"sync\",\"rev\":2}\n", |_| {
            panic!("it has ended")
        });
        assert!(exchange.take_answer(1).is_some(), "it came before the end");
        assert_eq!(exchange.take_event(2), Some(Some(Event::Sync { rev: 1 })));
        assert_eq!(exchange.take_event(2), None);
        assert!(exchange.unsubscribe(2));
        assert!(exchange.outgoing().is_empty(), "there is nobody to tell");
    }
}
