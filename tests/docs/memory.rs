//! Plays a transcript to a broker in memory. Time passes only where the transcript says so.

use std::collections::{BTreeMap, VecDeque};

use nkv::broker::Peer;
use nkv::keyspace::Time;

use crate::support::{Bench, unix_peer};
use crate::transcript::{Direction, Script, Step};

const EPOCH: &str = "e1";

/// `piece` is how many bytes reach the broker at a time.
pub(crate) fn play(script: &Script, piece: usize) {
    let mut stage = Stage {
        script,
        piece,
        bench: Bench::with_token(script.limits(), script.token.as_deref()),
        clients: BTreeMap::new(),
    };
    for (number, step) in &script.steps {
        match step {
            Step::Send(client, line) => {
                let client = stage.client(*client);
                stage.bench.send(
                    client,
                    format!("{}\n", line.replace("EPOCH", EPOCH)).as_bytes(),
                );
                stage.settle();
            }
            Step::Receive(client, expected) => {
                stage.client(*client);
                let received = stage
                    .clients
                    .get_mut(client)
                    .and_then(|(_, lines)| lines.pop_front());
                script.compare(*number, expected, received.as_deref(), EPOCH);
            }
            Step::Direct(direction) => stage.direct(*number, direction),
        }
    }
    for (name, (_, lines)) in &stage.clients {
        if let Some(line) = lines.front() {
            script.forbid(*name, line);
        }
    }
}

struct Stage<'s> {
    script: &'s Script,
    piece: usize,
    bench: Bench,
    /// Each client's number and the lines that it has received.
    clients: BTreeMap<char, (usize, VecDeque<String>)>,
}

impl Stage<'_> {
    fn client(&mut self, name: char) -> usize {
        if let Some((number, _)) = self.clients.get(&name) {
            return *number;
        }
        let peer = match self.script.tcp {
            true => Peer::Tcp(([127, 0, 0, 1], 1234).into()),
            false => unix_peer(),
        };
        let number = self
            .bench
            .connect(peer)
            .expect("a document has few clients");
        self.clients.insert(name, (number, VecDeque::new()));
        number
    }

    fn settle(&mut self) {
        self.bench.settle(self.piece);
        for (number, lines) in self.clients.values_mut() {
            let received = String::from_utf8(self.bench.take_received(*number)).unwrap();
            lines.extend(received.lines().map(str::to_owned));
        }
    }

    fn direct(&mut self, line: usize, direction: &Direction) {
        match direction {
            Direction::Later(ms) => self.bench.now = Time(self.bench.now.0 + ms),
            Direction::StopsReading(name) => {
                let client = self.client(*name);
                self.bench.set_appetite(client, 0);
            }
            Direction::ReadsAgain(name) => {
                let client = self.client(*name);
                self.bench.set_appetite(client, usize::MAX);
            }
            Direction::Closes(name) => {
                let client = self.client(*name);
                self.bench.disconnect(client);
            }
            Direction::HalfCloses(_) | Direction::IsClosed(_) => {
                self.script.fail(line, "this is seen over a socket only");
            }
        }
        self.settle();
    }
}
