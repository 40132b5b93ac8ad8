//! Mosquitto 2, on a Unix socket, MQTT 3.1.1.
//!
//! A put is a retained `PUBLISH` of QoS 1, answered with `PUBACK`; one that subscribers are told is a
//! retained `PUBLISH` of QoS 0, which has no answer. Subscribers have QoS 0. The only way to get a
//! value is to subscribe, so that gets are left out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Keeping, Peer, Place, Role, find_program};
use crate::connection::{Address, Counter, Packets, Request};

const CONNECT: u8 = 0x10;
const PUBLISH_RETAINED: u8 = 0x31;
const PUBLISH_RETAINED_ANSWERED: u8 = 0x33;
const SUBSCRIBE: u8 = 0x82;

pub(crate) struct Mosquitto;

impl Peer for Mosquitto {
    fn name(&self) -> &'static str {
        "mosquitto"
    }

    fn version_argument(&self) -> &'static str {
        "-h"
    }

    fn program(&self) -> Option<PathBuf> {
        find_program("mosquitto")
    }

    fn start(&self, program: &Path, place: &Place<'_>) -> Option<(Command, Address)> {
        if place.keeping == Keeping::Durable {
            return None;
        }
        let socket = place.directory.join("mosquitto.sock");
        let file = place.directory.join("mosquitto.conf");
        let text = format!(
            "user root\nlistener 0 {}\nallow_anonymous true\npersistence false\nlog_dest none\n",
            socket.display()
        );
        fs::write(&file, text).ok()?;
        let mut command = Command::new(program);
        command.arg("-c").arg(&file);
        Some((command, Address::Unix(socket)))
    }

    fn counter(&self) -> Counter {
        Counter::Packets(Packets::default())
    }

    fn greeting(&self, _role: Role) -> Request {
        static CLIENTS: AtomicU32 = AtomicU32::new(0);
        let name = format!("bench{}", CLIENTS.fetch_add(1, Ordering::Relaxed));
        let clean_session = 2;
        let mut rest = text("MQTT");
        rest.extend([4, clean_session, 0, 0]);
        rest.extend(text(&name));
        Request::new(packet(CONNECT, &rest), 1)
    }

    fn put(&self, key: &str, value: &str) -> Option<Request> {
        let mut rest = text(&topic(key));
        rest.extend([0, 1]);
        rest.extend(value.as_bytes());
        Some(Request::new(packet(PUBLISH_RETAINED_ANSWERED, &rest), 1))
    }

    fn get(&self, _key: &str) -> Option<Request> {
        None
    }

    fn publish(&self, key: &str, value: &str) -> Option<Request> {
        let mut rest = text(&topic(key));
        rest.extend(value.as_bytes());
        Some(Request::new(packet(PUBLISH_RETAINED, &rest), 0))
    }

    fn publish_answered(&self, key: &str, value: &str) -> Option<Request> {
        self.put(key, value)
    }

    fn subscribe(&self, topic: &str) -> Request {
        self.subscribe_below(topic, 1)
    }

    fn subscribe_below(&self, prefix: &str, _id: usize) -> Request {
        let mut rest = vec![0, 1];
        rest.extend(text(&format!("{}/#", topic(prefix))));
        rest.push(0);
        Request::new(packet(SUBSCRIBE, &rest), 1)
    }

    fn event_marks(&self) -> usize {
        1
    }

    fn refusal(&self) -> &'static str {
        "\u{0}refusals have no text"
    }
}

fn topic(key: &str) -> String {
    key.replace('.', "/")
}

fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes(), text.as_bytes()].concat()
}

fn packet(kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    let mut length = rest.len();
    loop {
        let group = u8::try_from(length & 0x7f).unwrap_or(0);
        length >>= 7;
        if length == 0 {
            bytes.push(group);
            break;
        }
        bytes.push(group | 0x80);
    }
    bytes.extend(rest);
    bytes
}
