//! NATS, over TCP: it has no Unix socket.
//!
//! A put is `PUB`, which is answered with `+OK` where it has to be counted (`verbose`) and else not
//! at all. NATS keeps nothing, so that there is nothing to get. A subscriber has said `SUB topic.>`.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Keeping, Peer, Place, Role, find_program};
use crate::connection::{Address, Counter, Request, Text};

pub(crate) struct Nats;

impl Peer for Nats {
    fn name(&self) -> &'static str {
        "nats"
    }

    fn program(&self) -> Option<PathBuf> {
        find_program("nats-server")
    }

    fn start(&self, program: &Path, place: &Place<'_>) -> Option<(Command, Address)> {
        if place.keeping == Keeping::Durable {
            return None;
        }
        let mut command = Command::new(program);
        command
            .args(["--addr", "127.0.0.1", "--port"])
            .arg(place.ports[0].to_string());
        Some((command, Address::Tcp(place.ports[0])))
    }

    fn counter(&self) -> Counter {
        Counter::LinesBut(Text::new("PING\r\n"))
    }

    fn greeting(&self, role: Role) -> Request {
        // INFO comes unasked.
        match role {
            Role::Client => Request::new("CONNECT {\"verbose\":true}\r\nPING\r\n", 3),
            Role::Publisher | Role::Subscriber => {
                Request::new("CONNECT {\"verbose\":false}\r\nPING\r\n", 2)
            }
        }
    }

    fn put(&self, key: &str, value: &str) -> Option<Request> {
        Some(Request::new(publish(key, value), 1))
    }

    fn get(&self, _key: &str) -> Option<Request> {
        None
    }

    fn publish(&self, key: &str, value: &str) -> Option<Request> {
        Some(Request::new(publish(key, value), 0))
    }

    fn publish_answered(&self, key: &str, value: &str) -> Option<Request> {
        self.put(key, value)
    }

    fn subscribe(&self, topic: &str) -> Request {
        self.subscribe_below(topic, 1)
    }

    fn subscribe_below(&self, prefix: &str, id: usize) -> Request {
        Request::new(format!("SUB {prefix}.> {id}\r\nPING\r\n"), 1)
    }

    fn keeps(&self) -> bool {
        false
    }

    fn event_marks(&self) -> usize {
        2
    }

    fn refusal(&self) -> &'static str {
        "-ERR"
    }
}

fn publish(key: &str, value: &str) -> String {
    format!("PUB {key} {}\r\n{value}\r\n", value.len())
}
