//! The systems that are compared: how each is started, and how the same work is said to it.
//!
//! A file each. What a system is asked to do for "a put", "a get" and "an event" stands at the top of
//! its file, and in docs/performance.md.

mod etcd;
pub(crate) mod floor;
mod mosquitto;
mod nats;
mod nkv;
mod redis;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::connection::{Address, Counter, Request};

/// All that there are, nkv first.
pub(crate) const ALL: [&dyn Peer; 6] = [
    &nkv::Nkv::Built,
    &nkv::Nkv::Static,
    &redis::Redis,
    &nats::Nats,
    &mosquitto::Mosquitto,
    &etcd::Etcd,
];

/// What no server can do without. It stands beside them where requests and events are measured, and is
/// never the best of them.
pub(crate) const FLOOR: &dyn Peer = &floor::Floor;

/// All that there may be figures of, in the order in which they are shown.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    let all = |is_nkv| ALL.into_iter().filter(move |peer| peer.is_nkv() == is_nkv);
    let in_order = all(true).chain([FLOOR]).chain(all(false));
    in_order.map(|peer| peer.name())
}

/// Whether a system is of interest only for its size, its memory and its start.
pub(crate) fn is_variant(peer: &dyn Peer) -> bool {
    peer.is_nkv() && peer.name() != ALL[0].name()
}

/// What a server is started for.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Keeping {
    /// Nothing on the disk.
    Memory,
    /// What is answered is on stable storage.
    Durable,
}

/// What a connection is for.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Role {
    /// Gets, and puts that are answered.
    Client,
    /// Puts that subscribers are told.
    Publisher,
    Subscriber,
}

/// Where a server is started.
pub(crate) struct Place<'a> {
    /// An empty directory of its own.
    pub(crate) directory: &'a Path,
    /// Ports that are free.
    pub(crate) ports: [u16; 2],
    pub(crate) keeping: Keeping,
    /// More arguments for nkv.
    pub(crate) options: &'a [&'a str],
}

/// A system. Keys have the form `topic.rest`; values are letters and digits.
pub(crate) trait Peer: Sync {
    fn name(&self) -> &'static str;

    /// Whether it is no peer of nkv's, but nkv.
    fn is_nkv(&self) -> bool {
        false
    }

    /// What prints its version.
    fn version_argument(&self) -> &'static str {
        "--version"
    }

    /// The program, where it is installed.
    fn program(&self) -> Option<PathBuf>;

    /// What starts it in the foreground, and where it listens then. None where it can't do this.
    fn start(&self, program: &Path, place: &Place<'_>) -> Option<(Command, Address)>;

    /// Finds its marks.
    fn counter(&self) -> Counter;

    /// What is sent on a new connection, first of all.
    fn greeting(&self, role: Role) -> Request;

    /// None where puts are not answered.
    fn put(&self, key: &str, value: &str) -> Option<Request>;

    /// None where there is nothing to get.
    fn get(&self, key: &str) -> Option<Request>;

    /// A put that the subscribers of the key's topic are told, the cheapest there is: it may have no
    /// answer. None where there is no such thing.
    fn publish(&self, key: &str, value: &str) -> Option<Request>;

    /// The same where each has to have an answer, by a [`Role::Client`].
    fn publish_answered(&self, key: &str, value: &str) -> Option<Request> {
        self.publish(key, value)
    }

    /// Subscribes to all keys of a topic.
    fn subscribe(&self, topic: &str) -> Request;

    /// The marks of one event.
    fn event_marks(&self) -> usize;

    /// The same three where there are so many subscriptions that the server has to look which of
    /// them a key concerns. `subscribe_below` names the keys below a prefix.
    fn publish_key(&self, key: &str, value: &str) -> Option<Request> {
        self.publish(key, value)
    }

    fn subscribe_below(&self, prefix: &str, id: usize) -> Request;

    fn key_event_marks(&self) -> usize {
        self.event_marks()
    }

    /// Whether it keeps the last value of each key.
    fn keeps(&self) -> bool {
        true
    }

    /// Whether one event always has the same number of marks, however many there are at a time.
    fn can_flood(&self) -> bool {
        true
    }

    /// Whether it is so slow that it is spared what takes long, or does a tenth of it.
    fn is_slow(&self) -> bool {
        false
    }

    /// What stands in an answer that says no.
    fn refusal(&self) -> &'static str;
}

/// The first of these programs that there is: of a path or of `PATH`, and where administrators'
/// programs are.
fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    let places = std::env::split_paths(&path).chain(more);
    let mut programs = places.map(|directory| directory.join(name));
    programs.find(|program| program.is_file())
}

fn topic_of(key: &str) -> &str {
    key.split('.').next().unwrap_or(key)
}
