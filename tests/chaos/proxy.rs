//! What stands between the daemon and its clients: a socket that breaks.
//!
//! Each connection is forwarded by two threads, one a direction. Each draws how many bytes it lets pass;
//! the one that comes to its end first cuts the connection, wherever in a line that is. Now and then it
//! holds back for a moment what it has read. Bytes never change their order. After some cuts nobody can
//! connect for a while: the socket's file is elsewhere.
//!
//! When the proxy is calm it does nothing of the kind.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::SndBuf;

use crate::random::Random;

/// What the kernel holds for a client.
const BUFFER_BYTES: usize = 4 << 10;

/// A forwarder of connections. It goes on until the process ends.
pub(crate) struct Proxy {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    daemon: PathBuf,
    seed: u64,
    is_calm: AtomicBool,
    /// Connections that the daemon has.
    live: AtomicU64,
    cuts: AtomicU64,
    bytes: AtomicU64,
    /// Held while nobody can connect.
    outage: Mutex<()>,
}

impl Proxy {
    /// Listens at a path and forwards to the daemon's.
    pub(crate) fn start(path: &Path, daemon: &Path, seed: u64) -> Proxy {
        let listener = UnixListener::bind(path).unwrap();
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            daemon: daemon.to_owned(),
            seed,
            is_calm: AtomicBool::new(true),
            live: AtomicU64::new(0),
            cuts: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            outage: Mutex::new(()),
        });
        std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                for (number, client) in listener.incoming().enumerate() {
                    shared.forward(&client.unwrap(), number as u64);
                }
            }
        });
        Proxy { shared }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.shared.path
    }

    pub(crate) fn set_calm(&self, is_calm: bool) {
        self.shared.is_calm.store(is_calm, Ordering::Relaxed);
    }

    /// How many connections the daemon has by it.
    pub(crate) fn live(&self) -> u64 {
        self.shared.live.load(Ordering::SeqCst)
    }

    pub(crate) fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::Relaxed)
    }

    /// How many bytes it has forwarded.
    pub(crate) fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn forward(self: &Arc<Shared>, client: &UnixStream, number: u64) {
        // Without a daemon the client finds its connection closed.
        let Ok(daemon) = UnixStream::connect(&self.daemon) else {
            return;
        };
        self.live.fetch_add(1, Ordering::SeqCst);
        // Who does not read is soon left behind.
        setsockopt(client, SndBuf, &BUFFER_BYTES).unwrap();
        let ends = [(client, &daemon), (&daemon, client)];
        let pumps = [0, 1].map(|direction| {
            let (from, to) = ends[direction];
            let mut pump = Pump {
                shared: Arc::clone(self),
                random: Random::new(self.seed, 2 * number + direction as u64),
                from: from.try_clone().unwrap(),
                to: to.try_clone().unwrap(),
            };
            std::thread::spawn(move || pump.run())
        });
        let shared = Arc::clone(self);
        std::thread::spawn(move || {
            for pump in pumps {
                pump.join().unwrap();
            }
            shared.live.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

impl Shared {
    /// Lets nobody connect for so long, or until it is to be calm.
    fn pause(&self, duration: Duration) {
        let Ok(_outage) = self.outage.try_lock() else {
            return;
        };
        let away = self.path.with_extension("away");
        std::fs::rename(&self.path, &away).unwrap();
        let start = Instant::now();
        while start.elapsed() < duration && !self.is_calm() {
            std::thread::sleep(Duration::from_millis(2));
        }
        std::fs::rename(&away, &self.path).unwrap();
    }

    fn is_calm(&self) -> bool {
        self.is_calm.load(Ordering::Relaxed)
    }
}

/// One direction of a connection.
struct Pump {
    shared: Arc<Shared>,
    random: Random,
    from: UnixStream,
    to: UnixStream,
}

impl Pump {
    fn run(&mut self) {
        // Of any magnitude: within the greeting, within the first request or its answer, after many.
        let magnitude = 1 << (7 + self.random.below(12));
        let mut left = magnitude + self.random.below(magnitude);
        let mut buffer = vec![0; 16 << 10];
        let mut is_cut = false;
        while let Some(count) = self.read(&mut buffer) {
            let is_calm = self.shared.is_calm();
            if !is_calm && self.random.once_in(200) {
                std::thread::sleep(self.random.pause(60));
            }
            is_cut = !is_calm && count as u64 > left;
            let passing = if is_cut {
                usize::try_from(left).unwrap()
            } else {
                count
            };
            if !is_calm {
                left = left.saturating_sub(passing as u64);
            }
            if self.to.write_all(&buffer[..passing]).is_err() {
                break;
            }
            self.shared
                .bytes
                .fetch_add(passing as u64, Ordering::Relaxed);
            if is_cut {
                self.shared.cuts.fetch_add(1, Ordering::Relaxed);
                break;
            }
        }
        // What has been written to either side can still be read there.
        let _ = self.from.shutdown(Shutdown::Both);
        let _ = self.to.shutdown(Shutdown::Both);
        if is_cut && self.random.once_in(5) {
            self.shared.pause(self.random.pause(500));
        }
    }

    /// Reads a piece of any length; none at the end.
    fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        let limit = 1 + self.random.below(buffer.len() as u64);
        let piece = &mut buffer[..usize::try_from(limit).unwrap()];
        self.from.read(piece).ok().filter(|count| *count > 0)
    }
}
