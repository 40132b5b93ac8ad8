//! A broker in memory as a stage.

use std::collections::{BTreeMap, VecDeque};

use nkv::broker::Peer;
use nkv::wire::Limits;

use crate::player::Stage;
use crate::story::{Story, TOKEN};
use crate::support::{Bench, unix_peer};

pub(crate) struct Memory {
    bench: Bench,
    /// How many bytes reach the broker at a time.
    piece: usize,
    over_tcp: bool,
    clients: BTreeMap<String, Client>,
}

struct Client {
    number: usize,
    lines: VecDeque<String>,
    /// The line with which it was turned away came already.
    refused: bool,
}

impl Memory {
    pub(crate) fn new(story: &Story, piece: usize) -> Memory {
        let mut limits = Limits::default();
        for (name, value) in &story.limits {
            *limit(&mut limits, name) = *value;
        }
        let token = story.needs("token").then_some(TOKEN);
        Memory {
            bench: Bench::with_token(limits, token),
            piece,
            over_tcp: story.needs("tcp"),
            clients: BTreeMap::new(),
        }
    }

    fn settle(&mut self) {
        self.bench.settle(self.piece);
        for client in self.clients.values_mut().filter(|client| !client.refused) {
            let received = self.bench.take_received(client.number);
            let received = String::from_utf8(received).unwrap();
            client
                .lines
                .extend(received.split_terminator('\n').map(str::to_owned));
        }
    }

    fn number(&self, client: &str) -> usize {
        self.clients[client].number
    }
}

impl Stage for Memory {
    fn open(&mut self, client: &str) {
        let peer = match self.over_tcp {
            true => Peer::Tcp(([127, 0, 0, 1], 4000).into()),
            false => unix_peer(),
        };
        let client = client.to_owned();
        let (number, lines, refused) = match self.bench.connect(peer) {
            Ok(number) => (number, VecDeque::new(), false),
            Err(line) => (usize::MAX, [line.trim_end().to_owned()].into(), true),
        };
        let opened = Client {
            number,
            lines,
            refused,
        };
        self.clients.insert(client, opened);
    }

    fn send(&mut self, client: &str, bytes: &[u8]) {
        self.bench.send(self.number(client), bytes);
        self.settle();
    }

    fn receive(&mut self, client: &str) -> Option<String> {
        let next = |stage: &mut Memory| stage.clients.get_mut(client).unwrap().lines.pop_front();
        next(self).or_else(|| {
            // Who waits for what ends by itself has it at once.
            self.bench.now = self.bench.broker.next_deadline()?;
            self.settle();
            next(self)
        })
    }

    fn end(&mut self, client: &str) {
        self.bench.end(self.number(client));
        self.settle();
    }

    fn has_ended(&mut self, client: &str) -> bool {
        let client = &self.clients[client];
        client.lines.is_empty() && (client.refused || self.bench.is_drained(client.number))
    }

    fn close(&mut self, client: &str) {
        self.bench.disconnect(self.number(client));
        self.settle();
    }
}

pub(crate) fn limit<'l>(limits: &'l mut Limits, name: &str) -> &'l mut u64 {
    match name {
        "message" => &mut limits.message,
        "clients" => &mut limits.clients,
        "subscriptions" => &mut limits.subscriptions,
        "keys" => &mut limits.keys,
        "bytes" => &mut limits.bytes,
        "tombstones" => &mut limits.tombstones,
        _ => panic!("the daemon has no option for the limit {name}"),
    }
}
