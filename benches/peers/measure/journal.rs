//! nkv alone: coming up with a large journal, and others' wait while one is written anew.
//!
//! The journals are written here, in the documented format, on the disk of the build directory. They
//! are in the page cache.
//!
//! What a get takes, and what passes between a put of a `boot` key and its event, is measured while a
//! journal is written anew and in peace. Trials begin at a steady pace; one that comes late because the
//! one before took long counts from when it was due, so that a halt of the daemon counts for all whom
//! it would have met.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::bench::Bench;
use crate::connection::{Buffer, Connection, Request};
use crate::machine::{self, Memory, Stopwatch};
use crate::measure::{service_key, value_of};
use crate::peer::{self, Keeping, Role};
use crate::report;
use crate::results::{Case, Figure, Unit, quantile};
use crate::server::Server;

const START_VALUE_BYTES: usize = 100;
const REWRITE_VALUE_BYTES: usize = 1000;
/// How long the values are that make it worth being written anew.
const HISTORY_VALUE_BYTES: usize = 900_000;
/// Between the beginnings of two trials.
const PACE: Duration = Duration::from_millis(1);

pub(crate) fn measure(bench: &mut Bench) -> io::Result<()> {
    start(bench)?;
    rewrite(bench)
}

fn launch(bench: &Bench, directory: &Path) -> io::Result<Server> {
    machine::bind_self(bench.cores.server)?;
    let options = ["--max-bytes", "2G"];
    let server = Server::launch(peer::ALL[0], Keeping::Durable, directory, &options)?;
    machine::bind_self(bench.cores.load)?;
    let mut server = server.ok_or_else(|| io::Error::other("there is no nkv-server"))?;
    server.wait_for_answer(|| std::thread::sleep(Duration::from_millis(1)))?;
    Ok(server)
}

fn start(bench: &mut Bench) -> io::Result<()> {
    let keys = bench.size(10_000, 1_000_000);
    for (name, records) in [("a line each", 1), ("written anew", 800)] {
        let case = Case::new(format!("start with a journal of {keys} keys, {name}"));
        let directory = tempfile::tempdir_in(&bench.disk)?;
        let journal = directory.path().join("durable.journal");
        write_journal(&journal, keys, START_VALUE_BYTES, records)?;
        for _ in 0..bench.few_rounds() {
            let start = Instant::now();
            let server = launch(bench, directory.path())?;
            let time = start.elapsed();
            let work = Stopwatch::so_far(server.process())?;
            let memory = Memory::of(server.process())?;
            let figures = vec![
                Figure::new(
                    "time to come up",
                    Unit::Milliseconds,
                    time.as_secs_f64() * 1e3,
                ),
                Figure::new(
                    "processor time",
                    Unit::Milliseconds,
                    work.as_secs_f64() * 1e3,
                ),
                Figure::new("resident", Unit::Bytes, memory.resident),
            ];
            bench.results.add(&case, "", "nkv", figures);
        }
        report::print_case(&bench.results, &case);
    }
    Ok(())
}

fn rewrite(bench: &mut Bench) -> io::Result<()> {
    let megabytes = bench.size(10, 200);
    let directory = tempfile::tempdir_in(&bench.disk)?;
    let journal = directory.path().join("durable.journal");
    let line = journal_line(1, &service_key(0), &value_of(REWRITE_VALUE_BYTES));
    let keys = (megabytes << 20) / line.len();
    write_journal(&journal, keys, REWRITE_VALUE_BYTES, 100)?;
    let server = launch(bench, directory.path())?;
    let new = directory.path().join("durable.journal.new");
    let during = Case::new(format!("a journal of {megabytes} MiB is written anew"));
    let peace = Case::new("no journal is written anew");
    for _ in 0..bench.few_rounds() {
        let limit = Duration::from_millis(if bench.options.quick { 100 } else { 2000 });
        let start = Instant::now();
        let in_peace = Latencies::measure(&server, || start.elapsed() < limit)?;
        bench.results.add(&peace, "", "nkv", in_peace.figures());
        make_history(&server, &new)?;
        let start = Instant::now();
        let all = Latencies::measure(&server, || new.exists())?;
        let mut figures = vec![Figure::new(
            "time that it takes",
            Unit::Milliseconds,
            start.elapsed().as_secs_f64() * 1e3,
        )];
        figures.extend(all.figures());
        bench.results.add(&during, "", "nkv", figures);
    }
    for case in [peace, during] {
        report::print_case(&bench.results, &case);
    }
    Ok(())
}

/// Puts one key again and again until the journal begins to be written anew.
fn make_history(server: &Server, new: &Path) -> io::Result<()> {
    let mut buffer = Buffer::new();
    let mut connection = server.connect(Role::Client, &mut buffer)?;
    let value = value_of(HISTORY_VALUE_BYTES);
    let put = server.peer.put("history", &value).unwrap_or_default();
    while !new.exists() {
        server.ask(&mut connection, &put, &mut buffer)?;
    }
    Ok(())
}

/// Microseconds, sorted.
struct Latencies {
    gets: Vec<f64>,
    events: Vec<f64>,
}

impl Latencies {
    /// Measures both at once, on threads of their own, for as long as is said.
    fn measure(server: &Server, goes_on: impl Fn() -> bool) -> io::Result<Latencies> {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let gets = scope.spawn(|| gets(server, &stop));
            let events = scope.spawn(|| events(server, &stop));
            while goes_on() {
                std::thread::sleep(PACE);
            }
            stop.store(true, Ordering::Relaxed);
            let join = |thread: std::thread::ScopedJoinHandle<'_, io::Result<Vec<f64>>>| {
                let panicked = |_| io::Error::other("a thread of the load generator has panicked");
                thread.join().map_err(panicked)?
            };
            Ok(Latencies {
                gets: join(gets)?,
                events: join(events)?,
            })
        })
    }

    fn figures(&self) -> Vec<Figure> {
        let names = [
            ["get, p50", "get, p99", "get, most"],
            [
                "put to event, p50",
                "put to event, p99",
                "put to event, most",
            ],
        ];
        let mut figures = Vec::new();
        for (sorted, names) in [&self.gets, &self.events].into_iter().zip(names) {
            for (what, part) in names.into_iter().zip([0.5, 0.99, 1.0]) {
                let value = quantile(sorted, part).unwrap_or(f64::NAN);
                figures.push(Figure::new(what, Unit::Microseconds, value));
            }
        }
        figures
    }
}

fn gets(server: &Server, stop: &AtomicBool) -> io::Result<Vec<f64>> {
    let mut buffer = Buffer::new();
    let mut connection = server.connect(Role::Client, &mut buffer)?;
    let get = server.peer.get(&service_key(0)).unwrap_or_default();
    at_pace(stop, || server.ask(&mut connection, &get, &mut buffer))
}

fn events(server: &Server, stop: &AtomicBool) -> io::Result<Vec<f64>> {
    let mut buffer = Buffer::new();
    let mut writer = server.connect(Role::Publisher, &mut buffer)?;
    let mut reader: Connection = server.subscriber("latency", &mut buffer)?;
    let line = "{\"op\":\"put\",\"key\":\"latency.key\",\"value\":1,\"lifetime\":\"boot\"}\n";
    let put = Request::new(line, 1);
    at_pace(stop, || {
        writer.send(&put)?;
        reader.expect(server.peer.event_marks());
        reader.settle(&mut buffer)?;
        writer.settle(&mut buffer)
    })
}

fn at_pace(stop: &AtomicBool, mut once: impl FnMut() -> io::Result<()>) -> io::Result<Vec<f64>> {
    let mut latencies = Vec::new();
    let mut due = Instant::now();
    // Those that were due before the end are all made.
    while !stop.load(Ordering::Relaxed) || due < Instant::now() {
        let early = due.saturating_duration_since(Instant::now());
        let mut start = due;
        if !early.is_zero() {
            std::thread::sleep(early);
            start = Instant::now();
        }
        once()?;
        latencies.push(start.elapsed().as_secs_f64() * 1e6);
        due += PACE;
    }
    latencies.sort_by(f64::total_cmp);
    Ok(latencies)
}

/// Writes a durable journal with so many keys, so many records a line.
fn write_journal(path: &Path, keys: usize, value_bytes: usize, records: usize) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let header = r#"{"journal":"durable","version":1,"store":"0123456789abcdef"}"#;
    file.write_all(with_checksum(header).as_bytes())?;
    let value = value_of(value_bytes);
    let revisions: Vec<usize> = (1..=keys).collect();
    for line in revisions.chunks(records) {
        let changes: Vec<String> = line
            .iter()
            .map(|rev| record(*rev, &service_key(rev - 1), &value))
            .collect();
        let text = commit(line[line.len() - 1], &changes.join(","));
        file.write_all(with_checksum(&text).as_bytes())?;
    }
    file.into_inner()?.sync_all()
}

/// What the journal gets for one put.
fn journal_line(rev: usize, key: &str, value: &str) -> String {
    with_checksum(&commit(rev, &record(rev, key, value)))
}

fn commit(rev: usize, changes: &str) -> String {
    format!("{{\"rev\":{rev},\"changes\":[{changes}]}}")
}

fn record(rev: usize, key: &str, value: &str) -> String {
    format!("{{\"op\":\"put\",\"key\":\"{key}\",\"rev\":{rev},\"value\":\"{value}\"}}")
}

fn with_checksum(text: &str) -> String {
    format!("{:08x} {text}\n", crc32fast::hash(text.as_bytes()))
}
