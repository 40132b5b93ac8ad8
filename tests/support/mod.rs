//! A broker and its clients joined in memory: no socket, no clock, every turn by hand.
//!
//! [`Bench::turn`] does what the server's loop does, in the same order, with each client's socket
//! replaced by the number of bytes that it is ready to take.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "several tests share this, and each takes what it needs"
)]

mod storage;

use std::sync::Arc;

use nkv::broker::{Broker, Options, Peer, Token};
use nkv::journal::{Storage, Writable};
use nkv::keyspace::{Keyspace, Time};
use nkv::wire::Limits;

pub use storage::Fake;

/// How often a turn's commit can fail: once a class.
const COMMIT_FAILURES_MAX: usize = 2;

pub struct Bench {
    pub broker: Broker,
    pub storage: Fake,
    options: Options,
    pub now: Time,
    clients: Vec<Client>,
}

/// One client's end.
struct Client {
    /// The broker's number for it; none once it is disconnected.
    session: Option<usize>,
    /// What it has sent and the broker has not taken.
    unsent: Vec<u8>,
    ended: bool,
    /// How many bytes it takes a turn.
    appetite: usize,
    received: Vec<u8>,
}

/// Where in a turn [`Bench::turn_with`] looks in.
#[derive(Clone, Copy, Debug)]
pub enum Phase {
    /// The broker has taken what it would from a client and carried it out.
    Taken { client: usize, session: usize },
    /// It has let entries end; the clients are next.
    Expired,
    /// Storage has not taken the turn, and it has been carried out again.
    Redone { writable: Writable },
}

pub fn unix_peer() -> Peer {
    Peer::Unix {
        pid: 1,
        uid: 1000,
        gid: 1000,
        groups: Vec::new(),
    }
}

impl Bench {
    pub fn new(limits: Limits) -> Bench {
        Bench::with_token(limits, None)
    }

    pub fn with_token(limits: Limits, token: Option<&str>) -> Bench {
        Bench::with(limits, token, Fake::default())
    }

    /// A bench whose storage can be made to fail.
    pub fn keeping(limits: Limits) -> Bench {
        Bench::with(limits, None, Fake::keeping())
    }

    fn with(limits: Limits, token: Option<&str>, mut storage: Fake) -> Bench {
        let options = Options {
            limits,
            epoch: "e1".into(),
            token: token.and_then(Token::new),
            rules: None,
            owner: Some(1000),
            can_redo: storage.can_fail(),
        };
        Bench {
            broker: load(&options, &mut storage, Time(0)),
            storage,
            options,
            now: Time(0),
            clients: Vec::new(),
        }
    }

    /// The daemon is gone without a word, and another begins with what storage has kept.
    pub fn restart(&mut self) {
        for client in &mut self.clients {
            client.session = None;
        }
        self.broker = load(&self.options, &mut self.storage, self.now);
    }

    /// Replaces the rules, between two turns.
    pub fn set_rules(&mut self, rules: Option<Arc<nkv::access::Rules>>) {
        self.broker.set_rules(rules);
    }

    /// Connects a client and gives its number here, or the line with which it is refused.
    pub fn connect(&mut self, peer: Peer) -> Result<usize, String> {
        let session = self
            .broker
            .connect(peer, self.now)
            .map_err(|line| String::from_utf8(line).unwrap())?;
        self.clients.push(Client {
            session: Some(session),
            unsent: Vec::new(),
            ended: false,
            appetite: usize::MAX,
            received: Vec::new(),
        });
        Ok(self.clients.len() - 1)
    }

    pub fn is_connected(&self, client: usize) -> bool {
        self.clients[client].session.is_some()
    }

    /// The broker's number for a client, while it is connected.
    pub fn session(&self, client: usize) -> Option<usize> {
        self.clients[client].session
    }

    pub fn disconnect(&mut self, client: usize) {
        if let Some(session) = self.clients[client].session.take() {
            self.broker.disconnect(session);
        }
    }

    /// Sends bytes; they reach the broker in the turns that follow, as it wants them.
    pub fn send(&mut self, client: usize, bytes: &[u8]) {
        self.clients[client].unsent.extend_from_slice(bytes);
    }

    /// Half-closes: the broker learns of it when it has taken all that was sent.
    pub fn end(&mut self, client: usize) {
        self.clients[client].ended = true;
    }

    /// Whether a client's input has ended and it has read every response to it.
    pub fn is_drained(&self, client: usize) -> bool {
        let session = self.clients[client].session;
        session.is_some_and(|session| self.broker.is_drained(session))
    }

    /// Whether a client has sent bytes that the broker has not taken and will take.
    pub fn has_unsent(&self, client: usize) -> bool {
        let client = &self.clients[client];
        client.session.is_some() && !client.unsent.is_empty()
    }

    /// How many bytes a client takes a turn; all at first.
    pub fn set_appetite(&mut self, client: usize, bytes: usize) {
        self.clients[client].appetite = bytes;
        if let Some(session) = self.clients[client].session {
            self.broker.set_due(session);
        }
    }

    /// What a client has received since it was last asked.
    pub fn take_received(&mut self, client: usize) -> Vec<u8> {
        std::mem::take(&mut self.clients[client].received)
    }

    /// One turn. `piece` is how many bytes a read gives at the most. Returns whether anything is
    /// left to do without anything new coming in.
    pub fn turn(&mut self, piece: usize) -> bool {
        self.turn_with(piece, |_, _| {})
    }

    /// One turn, with a look at the broker on the way.
    pub fn turn_with(&mut self, piece: usize, mut look: impl FnMut(&Broker, Phase)) -> bool {
        self.broker.expire(self.now);
        look(&self.broker, Phase::Expired);
        for (number, client) in self.clients.iter_mut().enumerate() {
            let Some(session) = client.session else {
                continue;
            };
            if !self.broker.may_ask(session, || false) {
                continue;
            }
            if self.broker.wants_turn(session) {
                self.broker.resume(session, self.now);
            } else if self.broker.wants_input(session) {
                if !client.unsent.is_empty() {
                    let piece = piece.min(client.unsent.len());
                    let bytes: Vec<u8> = client.unsent.drain(..piece).collect();
                    self.broker.receive(session, &bytes, self.now);
                } else if client.ended {
                    self.broker.end_input(session, self.now);
                }
            }
            look(
                &self.broker,
                Phase::Taken {
                    client: number,
                    session,
                },
            );
        }
        self.commit(&mut look);
        let (mut due, mut waiting) = (Vec::new(), Vec::new());
        self.broker.take_due(&mut due);
        for client in &mut self.clients {
            let Some(session) = client.session.filter(|session| due.contains(session)) else {
                continue;
            };
            let Some(given) = self.broker.share(session, || false) else {
                waiting.push(session);
                continue;
            };
            let mut share = given;
            let mut room = client.appetite;
            while room > 0 {
                let bytes = self.broker.fill(session, &mut share);
                let taken = bytes.len().min(room);
                if taken == 0 {
                    break;
                }
                client.received.extend_from_slice(&bytes[..taken]);
                room -= taken;
                self.broker.sent(session, taken, &mut share);
            }
            if room == 0 && client.appetite > 0 && self.broker.has_output(session) {
                self.broker.set_due(session);
            }
            self.broker.end_share(session, given, share);
            if self.broker.is_expelled(session) {
                // What it sends now nobody takes.
                self.broker.disconnect(session);
                client.session = None;
                client.unsent.clear();
            }
        }
        self.broker.wait(&mut waiting);
        self.broker.end_turn();
        self.storage.tend(self.broker.keyspace(), self.now);
        self.set_storage();
        self.broker.keyspace().assert_invariants();
        if self.storage.can_fail {
            self.storage.assert_holds(self.broker.keyspace());
        }
        self.is_busy()
    }

    /// Has the turn's changes kept, or does without those that can't be.
    fn commit(&mut self, mut look: impl FnMut(&Broker, Phase)) {
        let mut failures = 0;
        while self
            .storage
            .commit(
                self.broker.keyspace(),
                self.broker.committed_rev(),
                self.now,
            )
            .is_err()
        {
            failures += 1;
            assert!(failures <= COMMIT_FAILURES_MAX, "what fails is refused");
            self.set_storage();
            self.broker.redo(self.now);
            let writable = self.storage.writable();
            look(&self.broker, Phase::Redone { writable });
        }
        self.broker.committed();
    }

    fn set_storage(&mut self) {
        let storage = &self.storage;
        self.broker
            .set_storage(storage.writable(), storage.figures());
    }

    /// Turns until nothing is left to do.
    pub fn settle(&mut self, piece: usize) {
        while self.turn(piece) {}
    }

    fn is_busy(&self) -> bool {
        let deadline = self.broker.next_deadline();
        self.broker.has_due()
            || deadline.is_some_and(|deadline| deadline <= self.now)
            || self.clients.iter().any(|client| {
                client.session.is_some_and(|session| {
                    let has_input = !client.unsent.is_empty() || client.ended;
                    self.broker.wants_turn(session)
                        || (has_input && self.broker.wants_input(session))
                })
            })
    }
}

/// A broker of what a storage keeps.
fn load(options: &Options, storage: &mut Fake, now: Time) -> Broker {
    let mut keyspace = Keyspace::new(options.limits.tombstones);
    storage
        .load(&mut keyspace, now, Arc::new(|| {}))
        .expect("it keeps whatever it has kept");
    Broker::new(options.clone(), keyspace, now)
}
