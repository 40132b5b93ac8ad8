//! The other processes: how the test starts them and speaks with them, and how they answer.
//!
//! A child gets orders, a line each, on its standard input, and answers some with a line that begins
//! with [`MARK`]. A panic anywhere in it ends it at once, which the test sees at its next answer. When
//! the test ends, so does the child's input, and the child.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use nkv::client::{Client, Link};

use crate::random::Random;
use crate::support::PATIENCE;
use crate::{announcer, mirror, writer};

/// Tells an answer from whatever else is printed.
const MARK: &str = "chaos: ";
/// Says in a child's environment what it is.
const PART: &str = "NKV_CHAOS_PART";

/// A process that plays a part, as the test sees it.
pub(crate) struct Child {
    name: String,
    process: std::process::Child,
    orders: ChildStdin,
    answers: Receiver<String>,
}

impl Child {
    /// Starts this program in a part, with a number that tells it from others in the same one.
    pub(crate) fn start(part: &str, number: u64, socket: &Path, seed: u64) -> Child {
        let socket = socket.to_str().unwrap();
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["role", "--exact", "--nocapture"])
            .env(PART, format!("{part} {number} {seed} {socket}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Some((_, answer)) = line.split_once(MARK) {
                    drop(sender.send(answer.to_owned()));
                }
            }
        });
        Child {
            name: format!("{part} {number}"),
            process,
            orders,
            answers,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn order(&mut self, order: &str) {
        // One that has ended shows by its missing answer.
        let _ = writeln!(self.orders, "{order}");
    }

    pub(crate) fn answer(&mut self) -> String {
        let answer = self.answers.recv_timeout(PATIENCE);
        answer.unwrap_or_else(|error| panic!("{}: {error}; it may have said why", self.name))
    }

    pub(crate) fn ask(&mut self, order: &str) -> String {
        self.order(order);
        self.answer()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a child has to play its part with.
pub(crate) struct Stage {
    pub(crate) number: u64,
    pub(crate) random: Random,
    pub(crate) link: Link,
    pub(crate) orders: Receiver<String>,
}

/// Plays the part that the environment tells; does nothing where it tells none.
pub(crate) fn play() {
    let Ok(part) = std::env::var(PART) else {
        return;
    };
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        std::process::exit(101);
    }));
    let words: Vec<&str> = part.splitn(4, ' ').collect();
    let (part, number, seed) = (words[0], words[1].parse().unwrap(), words[2]);
    // Less than a daemon may be away, so that calls fail as well.
    let patience = Duration::from_millis(150);
    let link = Link::builder()
        .connection(Client::builder().name(format!("{part} {number}")))
        .patience(patience)
        .pauses(Duration::from_millis(2), Duration::from_millis(100))
        .link(words[3].parse().unwrap());
    let stage = Stage {
        number,
        random: Random::new(seed.parse().unwrap(), (part.len() as u64) << 8 | number),
        link,
        orders: orders(),
    };
    match part {
        "writer" => writer::play(stage),
        "announcer" => announcer::play(stage),
        "mirror" => mirror::play(stage),
        "follower" => mirror::follow(stage),
        part => panic!("there is no part of {part}"),
    }
}

/// Answers an order.
pub(crate) fn say(answer: &str) {
    // Not println: the test harness would keep it.
    let line = format!("{MARK}{answer}\n");
    std::io::stdout().write_all(line.as_bytes()).unwrap();
}

fn orders() -> Receiver<String> {
    let (sender, orders) = channel();
    std::thread::spawn(move || {
        for order in std::io::stdin().lines().map_while(Result::ok) {
            drop(sender.send(order));
        }
        // The test has ended.
        std::process::exit(0);
    });
    orders
}
