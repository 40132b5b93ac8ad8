//! What it costs to keep things: durable puts, the time to come up, and others' wait meanwhile.
//!
//! `cargo bench --bench durable` runs three parts; words after `--` select some of them:
//!
//! - `puts`: durable puts a second under `--sync always`. The same load goes in turns to the **peers**
//!   on the same disk: `redis-server` that syncs each write (where it is installed), and a loop that
//!   does nothing but append a line as long as the journal's and sync it. The load generator is one
//!   thread that waits for all of its sockets at once, with one request in flight on each.
//! - `start`: the time until a get is answered, with a journal of a million keys. The file is written
//!   here, in the documented format. It is in the page cache.
//! - `rewrite`: what a get takes, and what passes between a put of a `boot` key and its event, while a
//!   journal is written anew, beside the same in peace. Trials begin at a steady pace; one that comes
//!   late because the one before took long counts from when it was due, so that a halt of the daemon
//!   counts for all whom it would have met.
//!
//! The word `full` takes a larger journal and more time for the last part. Data stands on the disk of
//! the build directory, boot journals in memory where there is `/dev/shm`.
//!
//! Each figure is the median of the rounds, with the smallest and the largest beside it. A ratio is
//! the median of the rounds' ratios: others who use the machine slow down both halves of a round.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![allow(clippy::unwrap_used, reason = "a benchmark that can't go on may stop")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use tempfile::TempDir;

const ROUNDS: usize = 5;
/// How long one round of puts takes.
const PUTS_TIME: Duration = Duration::from_millis(800);
/// Puts go to so many keys in turns.
const PUT_KEYS: usize = 10_000;
const START_KEYS: usize = 1_000_000;
const VALUE_BYTES: usize = 100;
/// How long the values of the journal are that is written anew.
const REWRITE_VALUE_BYTES: usize = 1000;
/// How long the values are that make it worth being written anew.
const HISTORY_VALUE_BYTES: usize = 900_000;
/// Between the beginnings of two trials.
const PACE: Duration = Duration::from_millis(1);

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--test") {
        return; // `cargo test --benches` only wants to know that it builds.
    }
    let has = |name: &str| words.iter().any(|word| word == name);
    let parts = ["puts", "start", "rewrite"];
    let all = !parts.iter().any(|part| has(part));
    let disk = Path::new(env!("CARGO_TARGET_TMPDIR"));
    println!("data on {}, {}", file_system(disk), disk.display());
    println!(
        "{:<60} {:>30} {:>30} {:>7}",
        "", "nkv-server", "peer", "ratio"
    );
    if all || has("puts") {
        measure_puts(disk);
    }
    if all || has("start") {
        measure_start(disk);
    }
    if all || has("rewrite") {
        let (bytes, rounds) = if has("full") {
            (500 << 20, 5)
        } else {
            (100 << 20, 3)
        };
        measure_rewrite(disk, bytes, rounds);
    }
}

fn measure_puts(disk: &Path) {
    let nkv = Server::nkv(disk, &[]);
    let redis = Server::redis(disk);
    if redis.is_none() {
        println!("there is no redis-server to compare with");
    }
    let line = journal_line(1, &put_key(0), &value(VALUE_BYTES));
    for writers in [1, 50] {
        let before = (nkv.figure("puts"), nkv.figure("journal_syncs"));
        let (mut ours, mut theirs, mut bare) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            ours.push(puts_a_second(&nkv, writers));
            theirs.extend(redis.as_ref().map(|redis| puts_a_second(redis, writers)));
            bare.push(appends_a_second(disk, &line));
        }
        let show = |rate: f64| format!("{rate:.0}");
        let what = format!("durable puts a second, {writers} writers");
        report(&format!("{what} (redis)"), &mut ours, &mut theirs, show);
        report(
            &format!("{what} (appends and syncs)"),
            &mut ours,
            &mut bare,
            show,
        );
        let puts = nkv.figure("puts") - before.0;
        let syncs = nkv.figure("journal_syncs") - before.1;
        println!("  puts for each sync: {:.1}", puts as f64 / syncs as f64);
    }
    let rewrites = nkv.figure("journal_rewrites");
    println!("  journals written anew meanwhile: {rewrites}");
}

fn measure_start(disk: &Path) {
    for (name, records) in [("a line each", 1), ("written anew", 800)] {
        let directory = tempfile::tempdir_in(disk).unwrap();
        let journal = directory.path().join("durable.journal");
        let bytes = write_journal(&journal, START_KEYS, VALUE_BYTES, records);
        let (mut times, mut work, mut memory) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let start = Instant::now();
            let server = Server::nkv_in(directory.path(), &[]);
            let mut connection = server.connect();
            connection.ask(format!("{{\"op\":\"get\",\"key\":\"{}\"}}\n", put_key(0)).as_bytes());
            times.push(start.elapsed().as_secs_f64());
            work.push(server.processor_seconds());
            memory.push(server.resident_bytes() as f64);
        }
        println!(
            "{START_KEYS} keys, {name}: a journal of {}",
            size(bytes as f64)
        );
        let show = |seconds: f64| format!("{seconds:.2} s");
        report("  time to come up", &mut times, &mut [], show);
        report("  of it on a processor", &mut work, &mut [], show);
        report("  memory then", &mut memory, &mut [], size);
    }
}

fn measure_rewrite(disk: &Path, bytes: usize, rounds: usize) {
    let directory = tempfile::tempdir_in(disk).unwrap();
    let journal = directory.path().join("durable.journal");
    let keys = bytes / journal_line(1, &put_key(0), &value(REWRITE_VALUE_BYTES)).len();
    let live = write_journal(&journal, keys, REWRITE_VALUE_BYTES, 100);
    let server = Server::nkv_in(directory.path(), &["--max-bytes", "2G"]);
    let new = directory.path().join("durable.journal.new");
    let (mut during, mut in_peace) = (Vec::new(), Vec::new());
    let mut times = Vec::new();
    for round in 0..rounds {
        let start = Instant::now();
        let limit = Duration::from_secs(1 + bytes as u64 / (200 << 20));
        in_peace.push(Latencies::measure(&server, || start.elapsed() < limit));
        make_history(&server, &new);
        let start = Instant::now();
        during.push(Latencies::measure(&server, || new.exists()));
        times.push(start.elapsed().as_secs_f64());
        assert_eq!(
            server.figure("journal_rewrites"),
            round as u64 + 1,
            "one rewrite, while it was measured"
        );
    }
    println!(
        "a journal of {} written anew (peer: in peace)",
        size(live as f64)
    );
    report("  time that it takes", &mut times, &mut [], |seconds| {
        format!("{seconds:.2} s")
    });
    for (what, pick) in [
        ("get", (|all| &all.gets) as fn(&Latencies) -> &Vec<f64>),
        ("put of a boot key to its event", |all| &all.events),
    ] {
        for (quantile, name) in [(500, "p50"), (990, "p99"), (1000, "max")] {
            let figures = |rounds: &[Latencies]| -> Vec<f64> {
                let rounds = rounds.iter().map(pick);
                rounds.map(|sorted| at(sorted, quantile)).collect()
            };
            report(
                &format!("  {what}, {name}"),
                &mut figures(&during),
                &mut figures(&in_peace),
                |ms| format!("{ms:.2} ms"),
            );
        }
    }
}

/// Puts one key again and again until the journal begins to be written anew.
fn make_history(server: &Server, new: &Path) {
    let mut connection = server.connect();
    let put = (server.put)("history", &value(HISTORY_VALUE_BYTES));
    while !new.exists() {
        connection.ask(&put);
    }
}

/// A server under test, killed when dropped.
struct Server {
    child: Child,
    socket: PathBuf,
    put: fn(&str, &str) -> Vec<u8>,
    _directories: Vec<TempDir>,
}

impl Server {
    /// The daemon with an empty data directory.
    fn nkv(disk: &Path, options: &[&str]) -> Server {
        let data = tempfile::tempdir_in(disk).unwrap();
        let mut server = Server::nkv_in(data.path(), options);
        server._directories.push(data);
        server
    }

    /// The daemon with what is in a data directory, and an empty runtime directory.
    fn nkv_in(data: &Path, options: &[&str]) -> Server {
        let memory = Path::new("/dev/shm");
        let memory = if memory.exists() { memory } else { data };
        let runtime = tempfile::tempdir_in(memory).unwrap();
        let socket = runtime.path().join("nkv.sock");
        let child = Command::new(env!("CARGO_BIN_EXE_nkv-server"))
            .arg(&socket)
            .args(["--sync", "always", "--log", "warn"])
            .arg("--data-dir")
            .arg(data)
            .arg("--runtime-dir")
            .arg(runtime.path())
            .args(options)
            .spawn()
            .unwrap();
        let put = |key: &str, value: &str| {
            format!("{{\"op\":\"put\",\"key\":\"{key}\",\"value\":\"{value}\"}}\n").into_bytes()
        };
        Server::wait_for(child, socket, put, runtime)
    }

    fn redis(disk: &Path) -> Option<Server> {
        let data = tempfile::tempdir_in(disk).unwrap();
        let socket = data.path().join("redis.sock");
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--daemonize", "no"])
            .args(["--appendonly", "yes", "--appendfsync", "always"])
            .arg("--unixsocket")
            .arg(&socket)
            .arg("--dir")
            .arg(data.path())
            .stdout(Stdio::null())
            .spawn()
            .ok()?;
        let put = |key: &str, value: &str| {
            let (key_bytes, value_bytes) = (key.len(), value.len());
            format!("*3\r\n$3\r\nSET\r\n${key_bytes}\r\n{key}\r\n${value_bytes}\r\n{value}\r\n")
                .into_bytes()
        };
        Some(Server::wait_for(child, socket, put, data))
    }

    fn wait_for(
        mut child: Child,
        socket: PathBuf,
        put: fn(&str, &str) -> Vec<u8>,
        directory: TempDir,
    ) -> Server {
        while UnixStream::connect(&socket).is_err() {
            assert!(child.try_wait().unwrap().is_none(), "the server has ended");
            std::thread::sleep(Duration::from_millis(1));
        }
        Server {
            child,
            socket,
            put,
            _directories: vec![directory],
        }
    }

    fn connect(&self) -> Connection {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        Connection {
            stream: BufReader::new(stream),
            line: Vec::new(),
        }
    }

    /// One of the daemon's statistics.
    fn figure(&self, name: &str) -> u64 {
        let mut connection = self.connect();
        connection.ask(b"{\"op\":\"stats\"}\n");
        let stats: serde_json::Value = serde_json::from_slice(&connection.line).unwrap();
        stats[name].as_u64().unwrap()
    }

    /// How long its main thread has had a processor: others who use the machine don't count.
    fn processor_seconds(&self) -> f64 {
        let path = format!("/proc/{}/schedstat", self.child.id());
        let text = fs::read_to_string(path).unwrap();
        let nanoseconds = text.split(' ').next();
        nanoseconds.unwrap().parse::<f64>().unwrap() / 1e9
    }

    fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().nth(1));
        kilobytes.unwrap().parse::<u64>().unwrap() << 10
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection that reads lines.
struct Connection {
    stream: BufReader<UnixStream>,
    line: Vec<u8>,
}

impl Connection {
    fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    fn read(&mut self) {
        self.line.clear();
        let read = self.stream.read_until(b'\n', &mut self.line).unwrap();
        assert!(read > 0, "the server closed the connection");
    }

    /// Reads the answer to a request, of either server.
    fn read_answer(&mut self) {
        self.read();
        let is_ok = self.line.starts_with(b"+OK") || self.line.starts_with(b"{\"ok\":true");
        assert!(is_ok, "{}", String::from_utf8_lossy(&self.line));
    }

    fn ask(&mut self, request: &[u8]) {
        self.send(request);
        self.read_answer();
    }
}

/// Each writer sends its next put when it has the answer to the last one.
fn puts_a_second(server: &Server, writers: usize) -> f64 {
    let value = value(VALUE_BYTES);
    let mut writers: Vec<Connection> = (0..writers).map(|_| server.connect()).collect();
    let mut puts = (0..).map(|number| (server.put)(&put_key(number % PUT_KEYS), &value));
    let mut answers = 0;
    let start = Instant::now();
    for writer in &mut writers {
        writer.send(&puts.next().unwrap());
    }
    while start.elapsed() < PUTS_TIME {
        for writer in ready(&writers) {
            writers[writer].read_answer();
            writers[writer].send(&puts.next().unwrap());
            answers += 1;
        }
    }
    let rate = f64::from(answers) / start.elapsed().as_secs_f64();
    writers.iter_mut().for_each(Connection::read_answer);
    rate
}

/// Waits until something can be read from one of the connections, and says from which.
fn ready(connections: &[Connection]) -> Vec<usize> {
    let sockets = connections
        .iter()
        .map(|connection| connection.stream.get_ref());
    let mut waiting: Vec<PollFd<'_>> = sockets
        .map(|socket| PollFd::new(socket, PollFlags::IN))
        .collect();
    poll(&mut waiting, None).unwrap();
    let is_ready = |at: &usize| !waiting[*at].revents().is_empty();
    (0..connections.len()).filter(is_ready).collect()
}

/// How often a line can be appended to a file and synced.
fn appends_a_second(disk: &Path, line: &str) -> f64 {
    let mut file = tempfile::tempfile_in(disk).unwrap();
    let start = Instant::now();
    let mut appends = 0;
    while start.elapsed() < PUTS_TIME {
        file.write_all(line.as_bytes()).unwrap();
        file.sync_data().unwrap();
        appends += 1;
    }
    f64::from(appends) / start.elapsed().as_secs_f64()
}

/// Milliseconds, sorted.
struct Latencies {
    gets: Vec<f64>,
    events: Vec<f64>,
}

impl Latencies {
    /// Measures both at once, on threads of their own, for as long as is said.
    fn measure(server: &Server, goes_on: impl Fn() -> bool) -> Latencies {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let gets = scope.spawn(|| gets(server, &stop));
            let events = scope.spawn(|| events(server, &stop));
            while goes_on() {
                std::thread::sleep(PACE);
            }
            stop.store(true, Ordering::Relaxed);
            Latencies {
                gets: gets.join().unwrap(),
                events: events.join().unwrap(),
            }
        })
    }
}

fn gets(server: &Server, stop: &AtomicBool) -> Vec<f64> {
    let mut connection = server.connect();
    let get = format!("{{\"op\":\"get\",\"key\":\"{}\"}}\n", put_key(0));
    at_pace(stop, || connection.ask(get.as_bytes()))
}

fn events(server: &Server, stop: &AtomicBool) -> Vec<f64> {
    let mut writer = server.connect();
    let mut reader = server.connect();
    reader.send(b"{\"op\":\"subscribe\",\"id\":1,\"key\":\"latency\",\"initial\":false}\n");
    reader.read();
    reader.read();
    let put = b"{\"op\":\"put\",\"key\":\"latency\",\"value\":1,\"lifetime\":\"boot\"}\n";
    at_pace(stop, || {
        writer.send(put);
        reader.read();
        writer.read_answer();
    })
}

fn at_pace(stop: &AtomicBool, mut once: impl FnMut()) -> Vec<f64> {
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
        once();
        latencies.push(start.elapsed().as_secs_f64() * 1e3);
        due += PACE;
    }
    latencies.sort_by(f64::total_cmp);
    latencies
}

/// Writes a durable journal with so many keys, so many records a line, and returns its length.
fn write_journal(path: &Path, keys: usize, value_bytes: usize, records: usize) -> u64 {
    let mut file = BufWriter::new(File::create(path).unwrap());
    let header = r#"{"journal":"durable","version":1,"store":"0123456789abcdef"}"#;
    file.write_all(with_checksum(header).as_bytes()).unwrap();
    let value = value(value_bytes);
    let revisions: Vec<usize> = (1..=keys).collect();
    for line in revisions.chunks(records) {
        let changes: Vec<String> = line
            .iter()
            .map(|rev| record(*rev, &put_key(rev - 1), &value))
            .collect();
        let text = commit(line[line.len() - 1], &changes.join(","));
        file.write_all(with_checksum(&text).as_bytes()).unwrap();
    }
    let file = file.into_inner().unwrap();
    file.sync_all().unwrap();
    file.metadata().unwrap().len()
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

/// Keys in no order, as those of several services come.
fn put_key(number: usize) -> String {
    format!("service{}.item{number}", number % 97)
}

/// A JSON string's text, so long that the value has so many bytes with its quotes.
fn value(bytes: usize) -> String {
    "x".repeat(bytes - 2)
}

/// The type of the file system on which a directory stands.
fn file_system(directory: &Path) -> String {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let below = mounts.filter(|(point, _)| directory.starts_with(point));
    let nearest = below.max_by_key(|(point, _)| point.len());
    match nearest {
        Some((_, "tmpfs")) => "tmpfs, WHICH IS NO DISK".to_owned(),
        Some((_, kind)) => kind.to_owned(),
        None => "an unknown file system".to_owned(),
    }
}

fn size(bytes: f64) -> String {
    format!("{:.0} MB", bytes / 1e6)
}

/// The figure that so many of a thousand are not above.
fn at(sorted: &[f64], quantile: usize) -> f64 {
    sorted[(sorted.len() - 1) * quantile / 1000]
}

fn report(what: &str, ours: &mut [f64], theirs: &mut [f64], show: impl Fn(f64) -> String) {
    let rounds = ours.iter().zip(&*theirs);
    let mut ratios: Vec<f64> = rounds.map(|(our, their)| our / their).collect();
    ratios.sort_by(f64::total_cmp);
    let spread = |figures: &mut [f64]| {
        figures.sort_by(f64::total_cmp);
        let (first, last) = (show(figures[0]), show(figures[figures.len() - 1]));
        format!("{} ({first}–{last})", show(figures[figures.len() / 2]))
    };
    let ours = spread(ours);
    match ratios.get(ratios.len() / 2) {
        Some(ratio) => println!("{what:<60} {ours:>30} {:>30} {ratio:>7.2}", spread(theirs)),
        None => println!("{what:<60} {ours:>30}"),
    }
}
