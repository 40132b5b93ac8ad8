//! How fast the built daemon is, beside the cheapest server there could be.
//!
//! `cargo bench` starts `nkv-server` on a Unix socket and, as the **peer**, an echo: a thread for each
//! connection that sends back every byte it reads. The same load goes to both in turns, several
//! rounds of each, and what counts is the ratio: the echo stands for what the kernel's sockets and
//! this load generator cost on this machine, whatever machine it is.
//!
//! The load generator is one thread with blocking sockets. For many connections it writes to all of
//! them before it reads from any, so that as many requests as it says are in flight.
//!
//! Each figure is the median of the rounds, with the smallest and the largest beside it.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![allow(clippy::unwrap_used, reason = "a benchmark that can't go on may stop")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 5;

fn main() {
    if std::env::args().any(|argument| argument == "--test") {
        return; // `cargo test --benches` only wants to know that it builds.
    }
    let directory = tempfile::tempdir().unwrap();
    let nkv = directory.path().join("nkv.sock");
    let echo = directory.path().join("echo.sock");
    let _daemon = Daemon::start(&nkv);
    start_echo(&echo);

    let put =
        br#"{"op":"put","key":"bench.key","value":"0123456789012345678901234567890123456789"}"#;
    let get = br#"{"op":"get","key":"bench.key"}"#;
    println!(
        "{:<44} {:>28} {:>28} {:>7}",
        "", "nkv-server", "echo", "ratio"
    );
    for (connections, depth, batches) in [(1, 1, 20_000), (1, 64, 2_000), (50, 16, 100)] {
        for (name, request) in [("gets", &get[..]), ("puts", &put[..])] {
            let mut ours = Vec::new();
            let mut theirs = Vec::new();
            for _ in 0..ROUNDS {
                ours.push(requests_a_second(
                    &nkv,
                    request,
                    connections,
                    depth,
                    batches,
                ));
                theirs.push(requests_a_second(
                    &echo,
                    request,
                    connections,
                    depth,
                    batches,
                ));
            }
            let what = format!("{name} a second, {connections} connections × {depth} in flight");
            report(&what, &mut ours, &mut theirs, |rate| {
                format!("{:.0}k", rate / 1000.0)
            });
        }
    }
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for _ in 0..ROUNDS {
        ours.push(put_to_event(&nkv, 10_000));
        theirs.push(round_trips(&echo, 10_000));
    }
    for (quantile, name) in [(500, "p50"), (990, "p99"), (999, "p99.9")] {
        let pick = |rounds: &[Vec<f64>]| -> Vec<f64> {
            rounds
                .iter()
                .map(|latencies| latencies[latencies.len() * quantile / 1000])
                .collect()
        };
        let what = format!("put to event, one subscriber, {name} (echo: round trip)");
        report(&what, &mut pick(&ours), &mut pick(&theirs), |us| {
            format!("{us:.1} µs")
        });
    }
    for subscribers in [100, 500] {
        let mut ours: Vec<f64> = (0..ROUNDS)
            .map(|_| last_of(&nkv, subscribers, 200))
            .collect();
        let mut theirs: Vec<f64> = (0..ROUNDS)
            .map(|_| echo_all(&echo, subscribers, 200))
            .collect();
        let what = format!("put to the last of {subscribers} subscribers (echo: to all)");
        report(&what, &mut ours, &mut theirs, |us| format!("{us:.0} µs"));
    }
}

/// The daemon under test, killed when dropped.
struct Daemon(Child);

impl Daemon {
    fn start(socket: &Path) -> Daemon {
        let child = Command::new(env!("CARGO_BIN_EXE_nkv-server"))
            .arg(socket)
            .arg("--in-memory")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut daemon = Daemon(child);
        let mut lines = BufReader::new(daemon.0.stderr.take().unwrap()).lines();
        while !lines.next().unwrap().unwrap().contains("listening") {}
        std::thread::spawn(move || lines.for_each(drop));
        daemon
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_echo(socket: &Path) {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 65536];
                while let Ok(read @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..read]).is_err() {
                        break;
                    }
                }
            });
        }
    });
}

/// A connection that counts lines.
struct Lines {
    stream: UnixStream,
    buffer: Box<[u8]>,
}

impl Lines {
    fn connect(socket: &Path) -> Lines {
        let stream = UnixStream::connect(socket).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        Lines {
            stream,
            buffer: vec![0; 65536].into_boxed_slice(),
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Reads until so many lines have ended.
    fn wait_for(&mut self, mut lines: usize) {
        while lines > 0 {
            let read = self.stream.read(&mut self.buffer).unwrap();
            assert!(read > 0, "the server closed the connection");
            let ended = memchr::memchr_iter(b'\n', &self.buffer[..read]).count();
            lines = lines
                .checked_sub(ended)
                .expect("no more lines than were asked for");
        }
    }
}

fn requests_a_second(
    socket: &Path,
    request: &[u8],
    connections: usize,
    depth: usize,
    batches: usize,
) -> f64 {
    let mut connections: Vec<Lines> = (0..connections).map(|_| Lines::connect(socket)).collect();
    let batch = [request, b"\n"].concat().repeat(depth);
    let mut run = |batches: usize| {
        for _ in 0..batches {
            for connection in &mut connections {
                connection.send(&batch);
            }
            for connection in &mut connections {
                connection.wait_for(depth);
            }
        }
    };
    run(batches / 10);
    let start = Instant::now();
    run(batches);
    (batches * depth) as f64 * connections.len() as f64 / start.elapsed().as_secs_f64()
}

/// Microseconds from before a put is sent until its event is read, sorted.
fn put_to_event(socket: &Path, puts: usize) -> Vec<f64> {
    let mut writer = Lines::connect(socket);
    let mut reader = Lines::connect(socket);
    reader.send(b"{\"op\":\"subscribe\",\"id\":1,\"key\":\"latency\",\"initial\":false}\n");
    reader.wait_for(2);
    sorted(puts, || {
        let start = Instant::now();
        writer.send(b"{\"op\":\"put\",\"key\":\"latency\",\"value\":1234567890}\n");
        reader.wait_for(1);
        let latency = start.elapsed();
        writer.wait_for(1);
        latency
    })
}

fn round_trips(socket: &Path, times: usize) -> Vec<f64> {
    let mut connection = Lines::connect(socket);
    sorted(times, || {
        let start = Instant::now();
        connection.send(b"{\"op\":\"put\",\"key\":\"latency\",\"value\":1234567890}\n");
        connection.wait_for(1);
        start.elapsed()
    })
}

/// Microseconds until the last of many subscribers has read the event of a put, the median.
fn last_of(socket: &Path, subscribers: usize, puts: usize) -> f64 {
    let mut writer = Lines::connect(socket);
    let mut readers: Vec<Lines> = (0..subscribers).map(|_| Lines::connect(socket)).collect();
    for reader in &mut readers {
        reader.send(b"{\"op\":\"subscribe\",\"id\":1,\"key\":\"fan\",\"initial\":false}\n");
        reader.wait_for(2);
    }
    median_of(puts, || {
        let start = Instant::now();
        writer.send(b"{\"op\":\"put\",\"key\":\"fan\",\"value\":1234567890}\n");
        readers.iter_mut().for_each(|reader| reader.wait_for(1));
        let latency = start.elapsed();
        writer.wait_for(1);
        latency
    })
}

fn echo_all(socket: &Path, connections: usize, times: usize) -> f64 {
    let mut connections: Vec<Lines> = (0..connections).map(|_| Lines::connect(socket)).collect();
    median_of(times, || {
        let start = Instant::now();
        for connection in &mut connections {
            connection
                .send(b"{\"sub\":1,\"event\":\"put\",\"key\":\"fan\",\"value\":1234567890}\n");
        }
        connections
            .iter_mut()
            .for_each(|connection| connection.wait_for(1));
        start.elapsed()
    })
}

/// What each of so many trials took, in microseconds, sorted.
fn sorted(times: usize, once: impl FnMut() -> Duration) -> Vec<f64> {
    let trials = std::iter::repeat_with(once).take(times);
    let mut all: Vec<f64> = trials.map(|latency| latency.as_secs_f64() * 1e6).collect();
    all.sort_by(f64::total_cmp);
    all
}

fn median_of(times: usize, once: impl FnMut() -> Duration) -> f64 {
    sorted(times, once)[times / 2]
}

fn report(what: &str, ours: &mut [f64], theirs: &mut [f64], show: impl Fn(f64) -> String) {
    let spread = |figures: &mut [f64]| {
        figures.sort_by(f64::total_cmp);
        let median = figures[figures.len() / 2];
        let text = format!(
            "{} ({}–{})",
            show(median),
            show(figures[0]),
            show(figures[figures.len() - 1])
        );
        (median, text)
    };
    let (our_median, our_text) = spread(ours);
    let (their_median, their_text) = spread(theirs);
    println!(
        "{what:<44} {our_text:>28} {their_text:>28} {:>7.2}",
        our_median / their_median
    );
}
