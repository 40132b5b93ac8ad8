//! Redis, on its Unix socket.
//!
//! A put is `SET`, a get is `GET`. A put that subscribers are told is `SET key value` and `PUBLISH
//! topic "key value"` in one write, for Redis keeps nothing of what it publishes; a subscriber has said
//! `SUBSCRIBE topic`. Where there are many subscriptions it is `PUBLISH key
//! value` and `PSUBSCRIBE prefix.*`. `save ""` and `appendonly no`, or `appendonly yes` and `appendfsync always`.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Keeping, Peer, Place, Role, find_program, topic_of};
use crate::connection::{Address, Counter, Request};

pub(crate) struct Redis;

impl Peer for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn program(&self) -> Option<PathBuf> {
        find_program("redis-server")
    }

    fn start(&self, program: &Path, place: &Place<'_>) -> Option<(Command, Address)> {
        let socket = place.directory.join("redis.sock");
        let mut command = Command::new(program);
        command
            .args(["--port", "0", "--save", "", "--daemonize", "no"])
            .arg("--unixsocket")
            .arg(&socket)
            .arg("--dir")
            .arg(place.directory);
        match place.keeping {
            Keeping::Memory => command.args(["--appendonly", "no"]),
            Keeping::Durable => command.args(["--appendonly", "yes", "--appendfsync", "always"]),
        };
        Some((command, Address::Unix(socket)))
    }

    fn counter(&self) -> Counter {
        Counter::Lines
    }

    fn greeting(&self, _role: Role) -> Request {
        Request::new(command(&["PING"]), 1)
    }

    fn put(&self, key: &str, value: &str) -> Option<Request> {
        Some(Request::new(command(&["SET", key, value]), 1))
    }

    fn get(&self, key: &str) -> Option<Request> {
        Some(Request::new(command(&["GET", key]), 2))
    }

    fn publish(&self, key: &str, value: &str) -> Option<Request> {
        let message = format!("{key} {value}");
        let publish = command(&["PUBLISH", topic_of(key), &message]);
        Some(Request::joined([
            self.put(key, value)?,
            Request::new(publish, 1),
        ]))
    }

    fn subscribe(&self, topic: &str) -> Request {
        // *3, $9, subscribe, $5, topic, :1
        Request::new(command(&["SUBSCRIBE", topic]), 6)
    }

    fn event_marks(&self) -> usize {
        // *3, $7, message, $5, topic, $50, the message
        7
    }

    fn publish_key(&self, key: &str, value: &str) -> Option<Request> {
        let publish = command(&["PUBLISH", key, value]);
        Some(Request::joined([
            self.put(key, value)?,
            Request::new(publish, 1),
        ]))
    }

    fn subscribe_below(&self, prefix: &str, _id: usize) -> Request {
        Request::new(command(&["PSUBSCRIBE", &format!("{prefix}.*")]), 6)
    }

    fn key_event_marks(&self) -> usize {
        // *4, $8, pmessage, $8, the pattern, $12, the key, $10, the value
        9
    }

    fn refusal(&self) -> &'static str {
        "-ERR"
    }
}

fn command(words: &[&str]) -> String {
    let words: String = words
        .iter()
        .map(|word| format!("${}\r\n{word}\r\n", word.len()))
        .collect();
    let count = words.matches('$').count();
    format!("*{count}\r\n{words}")
}
