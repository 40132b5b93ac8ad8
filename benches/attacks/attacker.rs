//! An attacker's process: does its worst until the time is over, and says what it got.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::attacks::Attack;

/// What an attack works with.
pub(crate) struct Ground {
    pub(crate) socket: PathBuf,
    /// Where the daemon listens on TCP, if it does.
    pub(crate) tcp: String,
    pub(crate) until: Instant,
    pub(crate) tally: Tally,
}

/// What it got: how often what happened.
#[derive(Default)]
pub(crate) struct Tally(BTreeMap<String, u64>);

pub(crate) fn attack(attack: &Attack, socket: &Path, time: Duration) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536), hard).unwrap();
    let mut ground = Ground {
        tcp: std::fs::read_to_string(socket.with_file_name("tcp")).unwrap_or_default(),
        socket: socket.to_owned(),
        until: Instant::now() + time,
        tally: Tally::default(),
    };
    (attack.run)(&mut ground);
    println!("{}", serde_json::to_string(&ground.tally.0).unwrap());
}

impl Ground {
    /// The same for another thread.
    pub(crate) fn another(&self) -> Ground {
        Ground {
            socket: self.socket.clone(),
            tcp: self.tcp.clone(),
            until: self.until,
            tally: Tally::default(),
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// A connection, unless it is refused.
    pub(crate) fn connect(&mut self) -> Option<UnixStream> {
        match self.try_connect() {
            Ok(stream) => {
                self.tally.add("connected", 1);
                Some(stream)
            }
            Err(error) => {
                self.tally.add(&error.to_string(), 1);
                None
            }
        }
    }

    /// Connects and looks whether the daemon refuses that.
    fn try_connect(&self) -> io::Result<UnixStream> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        // Where it has been refused already, why is to be read all the same.
        let _ = io::Write::write_all(&mut stream, b"{\"op\":\"ping\"}\n");
        let mut answer = [0; 512];
        let read = match stream.read(&mut answer) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
            read => read?,
        };
        if answer[..read].starts_with(b"{\"ok\":true") {
            return Ok(stream);
        }
        Err(io::Error::other(format!(
            "no connection: {}",
            outcome(&answer[..read])
        )))
    }

    /// As many of them as there can be, up to a number.
    pub(crate) fn connect_up_to(&mut self, count: usize) -> Vec<UnixStream> {
        let mut connections = Vec::new();
        for _ in 0..count {
            if self.is_over() {
                break;
            }
            connections.extend(self.connect());
        }
        connections
    }
}

impl Tally {
    pub(crate) fn merge(&mut self, other: Tally) {
        for (what, count) in other.0 {
            self.add(&what, count);
        }
    }

    pub(crate) fn add(&mut self, what: &str, count: u64) {
        if count == 0 {
            return;
        }
        match self.0.get_mut(what) {
            Some(known) => *known += count,
            None => {
                self.0.insert(what.into(), count);
            }
        }
    }
}

/// What a line is, by how it begins: `ok`, an error's code, or `event`.
pub(crate) fn outcome(line: &[u8]) -> &str {
    let head = &line[..line.len().min(200)];
    if head.is_empty() {
        return "closed";
    }
    if memchr::memmem::find(head, b"\"ok\":true").is_some() {
        return "ok";
    }
    let name = b"\"error\":\"";
    if let Some(start) = memchr::memmem::find(head, name) {
        let code = &head[start + name.len()..];
        let end = memchr::memchr(b'"', code).unwrap_or(code.len());
        return std::str::from_utf8(&code[..end]).unwrap_or("noise");
    }
    "event"
}
