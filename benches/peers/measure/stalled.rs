//! Subscribers that do not read: what they cost the others, and what they have when they read again.
//!
//! A hundred subscribe and stop reading. Then one client puts values of 1 KB under a hundred keys in
//! turns. After that the hundred read, until they have the last value of every key, or are
//! disconnected, or hear nothing for a second. Each value has a number of its own in it, by which its
//! events are recognised in what comes, whatever the protocol.
//!
//! A server that grows beyond two thirds of the memory that is free is spared the rest. etcd is left out:
//! its gateway's answers hold values in base64, in which the numbers can't be found.

use std::borrow::Cow;
use std::io;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::bench::Bench;
use crate::connection::{Buffer, Connection, Request};
use crate::machine::{self, Memory, Stopwatch};
use crate::measure::{fresh_topic, value_of};
use crate::peer::{self, Keeping};
use crate::report;
use crate::results::{Case, Figure, Unit};
use crate::server::Server;

const SUBSCRIBERS: usize = 100;
const KEYS: usize = 100;
const VALUE_BYTES: usize = 1000;
const DEPTH: usize = 16;
/// Between two looks at the server's memory.
const PUTS_BETWEEN_LOOKS: usize = 1600;
/// A subscriber that hears nothing for so long has heard all.
const QUIET_MILLISECONDS: u16 = 1000;
/// Stands before and behind a put's number, and nowhere else.
const FENCE: u8 = b'@';

pub(crate) fn measure(bench: &mut Bench) -> io::Result<()> {
    let puts = bench.size(10_000, 100_000);
    let case = Case::new(format!(
        "{puts} puts of 1 KB over {KEYS} keys, {SUBSCRIBERS} subscribers don't read"
    ));
    let placements = bench.placement();
    for placement in placements {
        let core = bench.bind_load(placement)?;
        for _ in 0..bench.few_rounds() {
            for peer in bench.options.peers.clone() {
                if peer.is_slow() || peer::is_variant(peer) {
                    continue;
                }
                let Some(server) = bench.start(peer, Keeping::Memory)? else {
                    continue;
                };
                bench.bind_load(placement)?;
                server.bind(core)?;
                let figures = Scene::play(&server, puts, bench.size(3, 20))
                    .map_err(|error| crate::bench::at(&case, &server, &error))?;
                let name = peer.name();
                bench.results.add(&case, placement.name(), name, figures);
            }
        }
    }
    report::print_case(&bench.results, &case);
    Ok(())
}

/// How fast puts went.
struct Puts {
    /// A second.
    rate: f64,
    /// Microseconds of the server's time for one.
    cost: f64,
}

/// One server's turn.
struct Scene<'a> {
    server: &'a Server,
    topic: String,
    patience: Duration,
    padding: String,
    /// The number of the next put.
    next: usize,
}

impl Scene<'_> {
    fn play(server: &Server, puts: usize, patience_seconds: u64) -> io::Result<Vec<Figure>> {
        let mut scene = Scene {
            server,
            topic: fresh_topic(),
            patience: Duration::from_secs(patience_seconds),
            padding: value_of(VALUE_BYTES - 11),
            next: 0,
        };
        let alone = scene.put(puts)?;
        // Other keys, which a new subscriber is told nothing of. They are part of what memory grows by.
        scene.topic = fresh_topic();
        let subscribers = server.subscribers(&scene.topic, SUBSCRIBERS)?;
        let before = Memory::of(server.process())?;
        let behind = scene.put(puts)?;
        let after = Memory::of(server.process())?;
        let readers = scene.read(subscribers)?;
        let count = |which: &dyn Fn(&Reader) -> bool| {
            readers.iter().filter(|reader| which(reader)).count() as f64
        };
        let grown = after.resident - before.resident;
        let mut figures = vec![
            Figure::new("puts a second without them", Unit::PerSecond, alone.rate),
            Figure::new("puts a second behind them", Unit::PerSecond, behind.rate),
            Figure::new(
                "of the puts a second are left",
                Unit::Share,
                behind.rate / alone.rate,
            ),
            Figure::new(
                "server time a put without them",
                Unit::Microseconds,
                alone.cost,
            ),
            Figure::new(
                "server time a put behind them",
                Unit::Microseconds,
                behind.cost,
            ),
            Figure::new("memory grows by", Unit::Bytes, grown),
            Figure::new(
                "disconnected",
                Unit::Count,
                count(&|reader| reader.is_disconnected),
            ),
            Figure::new(
                "never have all last values",
                Unit::Count,
                count(&|reader| !reader.has_all()),
            ),
        ];
        let most = readers.iter().filter(|reader| reader.has_all());
        if let Some(events) = most.map(|reader| reader.events).max() {
            let what = "most events until one has all last values";
            figures.push(Figure::new(what, Unit::Count, events as f64));
        }
        Ok(figures)
    }

    /// Puts so many a second; fewer than are wanted where time or memory runs out.
    fn put(&mut self, puts: usize) -> io::Result<Puts> {
        let memory_max = machine::available_memory()? * 2.0 / 3.0;
        let mut client = self.server.clients(1)?;
        let first = self.next;
        let stopwatch = Stopwatch::start(self.server.process())?;
        let deadline = Instant::now() + self.patience;
        while self.next - first < puts {
            let end = (self.next + PUTS_BETWEEN_LOOKS).min(first + puts);
            let scene = &mut *self;
            client.send_all(std::iter::from_fn(|| {
                let batch_end = (scene.next + DEPTH).min(end);
                let is_over = scene.next == batch_end || Instant::now() > deadline;
                (!is_over).then(|| Cow::Owned(scene.batch(batch_end)))
            }))?;
            let resident = machine::resident(self.server.process())?;
            if Instant::now() > deadline || resident > memory_max {
                break;
            }
        }
        let elapsed = stopwatch.stop()?;
        let count = (self.next - first) as f64;
        Ok(Puts {
            rate: count / elapsed.wall,
            cost: elapsed.server * 1e6 / count,
        })
    }

    fn batch(&mut self, end: usize) -> Request {
        let fence = char::from(FENCE);
        let requests = (self.next..end).filter_map(|number| {
            let key = format!("{}.{}", self.topic, number % KEYS);
            let value = format!("{fence}{number:09}{fence}{}", self.padding);
            self.server.peer.publish_answered(&key, &value)
        });
        let batch = Request::joined(requests);
        self.next = end;
        batch
    }

    /// Lets all subscribers read.
    fn read(&self, subscribers: Vec<Connection>) -> io::Result<Vec<Reader>> {
        let mut buffer = Buffer::new();
        let mut readers = subscribers
            .into_iter()
            .map(|connection| Reader::new(connection, self.next))
            .collect::<io::Result<Vec<_>>>()?;
        loop {
            let mut waiting: Vec<&mut Reader> = readers
                .iter_mut()
                .filter(|reader| !reader.is_disconnected && !reader.has_all())
                .collect();
            let sockets = waiting.iter().map(|reader| reader.connection.socket());
            let mut polled: Vec<PollFd<'_>> = sockets
                .map(|socket| PollFd::new(socket, PollFlags::POLLIN))
                .collect();
            let quiet = PollTimeout::from(QUIET_MILLISECONDS);
            if polled.is_empty() || poll(&mut polled, quiet)? == 0 {
                return Ok(readers);
            }
            let ready: Vec<bool> = polled
                .iter()
                .map(|polled| polled.revents().is_some_and(|events| !events.is_empty()))
                .collect();
            for (reader, is_ready) in waiting.iter_mut().zip(ready) {
                if is_ready {
                    reader.read(&mut buffer);
                }
            }
        }
    }
}

/// A subscriber that reads again.
struct Reader {
    connection: Connection,
    /// The numbers of the last values are this and the ones before it.
    last: usize,
    /// Of which keys the last value has come.
    has: [bool; KEYS],
    events: usize,
    is_disconnected: bool,
    /// The digits of a number that has begun to come.
    digits: Option<Vec<u8>>,
}

impl Reader {
    fn new(connection: Connection, puts: usize) -> io::Result<Reader> {
        Ok(Reader {
            connection: connection.never_wait()?,
            last: puts - 1,
            has: [false; KEYS],
            events: 0,
            is_disconnected: false,
            digits: None,
        })
    }

    fn has_all(&self) -> bool {
        self.has.iter().all(|has| *has)
    }

    fn read(&mut self, buffer: &mut Buffer) {
        match self.connection.read_unseen(buffer) {
            Ok(None) => {}
            Ok(Some(bytes)) if !bytes.is_empty() => {
                let bytes = bytes.to_vec();
                self.see(&bytes);
            }
            Ok(Some(_)) | Err(_) => self.is_disconnected = true,
        }
    }

    fn see(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let end = memchr::memchr(FENCE, bytes);
            let (text, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
            if let Some(digits) = &mut self.digits {
                digits.extend_from_slice(text);
            }
            bytes = rest.get(1..).unwrap_or_default();
            if end.is_some() {
                self.pass_fence();
            }
        }
    }

    fn pass_fence(&mut self) {
        let Some(digits) = self.digits.take() else {
            self.digits = Some(Vec::new());
            return;
        };
        let number: Option<usize> = std::str::from_utf8(&digits)
            .ok()
            .and_then(|digits| digits.parse().ok());
        let Some(number) = number else { return };
        // One that has all is not counted on.
        if !self.has_all() {
            self.events += 1;
        }
        if number + KEYS > self.last {
            self.has[number % KEYS] = true;
        }
    }
}
