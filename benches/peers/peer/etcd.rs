//! etcd 3, through its JSON gateway: HTTP/1.1 over TCP.
//!
//! A put is `POST /v3/kv/put`, a get `POST /v3/kv/range`, an event what a `POST /v3/watch` streams.
//! gRPC, its own protocol, would cost less than HTTP and JSON, but not by so much that it matters here.
//! etcd keeps everything in files and syncs them; where nothing is to be kept they are in memory.
//! It is left out of floods, since the number of its messages differs from that of the events in them.

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Peer, Place, Role, find_program};
use crate::connection::{Address, Counter, Request, Text};

pub(crate) struct Etcd;

impl Peer for Etcd {
    fn name(&self) -> &'static str {
        "etcd"
    }

    fn program(&self) -> Option<PathBuf> {
        find_program("etcd")
    }

    fn start(&self, program: &Path, place: &Place<'_>) -> Option<(Command, Address)> {
        let [clients, peers] = place.ports;
        let url = |port| format!("http://127.0.0.1:{port}");
        let mut command = Command::new(program);
        command
            .args(["--log-level", "error", "--logger", "zap", "--data-dir"])
            .arg(place.directory.join("etcd"))
            .args(["--listen-client-urls", &url(clients)])
            .args(["--advertise-client-urls", &url(clients)])
            .args(["--listen-peer-urls", &url(peers)])
            .args(["--initial-advertise-peer-urls", &url(peers)])
            .args(["--initial-cluster", &format!("default={}", url(peers))]);
        Some((command, Address::Tcp(clients)))
    }

    /// What each answer and each message of a watch has once.
    fn counter(&self) -> Counter {
        Counter::Text(Text::new("header\""))
    }

    fn greeting(&self, _role: Role) -> Request {
        post("kv/range", &format!("{{{}}}", field("key", "greeting")))
    }

    fn put(&self, key: &str, value: &str) -> Option<Request> {
        let body = format!("{{{},{}}}", field("key", key), field("value", value));
        Some(post("kv/put", &body))
    }

    fn get(&self, key: &str) -> Option<Request> {
        Some(post("kv/range", &format!("{{{}}}", field("key", key))))
    }

    fn publish(&self, key: &str, value: &str) -> Option<Request> {
        self.put(key, value)
    }

    fn subscribe(&self, topic: &str) -> Request {
        self.subscribe_below(topic, 1)
    }

    fn subscribe_below(&self, prefix: &str, _id: usize) -> Request {
        let watch = format!("{{\"create_request\":{{{}}}}}", range(prefix));
        post("watch", &watch)
    }

    fn event_marks(&self) -> usize {
        1
    }

    fn can_flood(&self) -> bool {
        false
    }

    fn is_slow(&self) -> bool {
        true
    }

    fn refusal(&self) -> &'static str {
        "\"error\""
    }
}

/// The keys below a prefix: `/` comes after `.`.
fn range(prefix: &str) -> String {
    let first = field("key", &format!("{prefix}."));
    let end = field("range_end", &format!("{prefix}/"));
    format!("{first},{end}")
}

fn field(name: &str, text: &str) -> String {
    format!("\"{name}\":\"{}\"", STANDARD.encode(text))
}

fn post(path: &str, body: &str) -> Request {
    let length = body.len();
    let text =
        format!("POST /v3/{path} HTTP/1.1\r\nHost: etcd\r\nContent-Length: {length}\r\n\r\n{body}");
    Request::new(text, 1)
}
