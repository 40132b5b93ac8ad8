//! What one user does to the others by all that it may do: nothing that they notice.
//!
//! These are the attacks of `benches/attacks`, small, and without a clock. The attackers come over TCP,
//! where all are one user with quotas. While they do their worst, a client of another user gets, puts and
//! hears of its puts; the daemon's memory stays within what the quotas allow; and the operator comes in
//! and is told. When they have gone, nothing is left of them.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use crate::support::{Client, Daemon, Plan, Process, has_program, skip, until};

/// Small limits, so that small attacks reach the quotas: 32 connections, 5,000 keys, 2 MiB stored, 4 MiB
/// buffered, 1,024 subscriptions.
const LIMITS: [&str; 11] = [
    "127.0.0.1:0",
    "--max-clients",
    "64",
    "--max-message",
    "64k",
    "--max-keys",
    "10k",
    "--max-bytes",
    "4M",
    "--max-subscriptions",
    "64",
];
/// What the quotas allow and what buffers that grow, journals and the allocator need besides.
const MEMORY_MAX: u64 = 24 << 20;
/// How often the client is served during an attack.
const ROUNDS: usize = 60;
/// More than the attackers may have.
const CROWD: usize = 40;

/// What each of a crowd of connections does.
struct Habit {
    connections: usize,
    /// What it says once, and what it says over and over after that.
    first: Vec<u8>,
    then: Vec<u8>,
    /// How much it writes at once.
    bite: usize,
    reads: bool,
}

impl Default for Habit {
    fn default() -> Habit {
        Habit {
            connections: CROWD,
            first: Vec::new(),
            then: Vec::new(),
            bite: usize::MAX,
            reads: true,
        }
    }
}

/// One of the crowd.
struct Attacker {
    stream: TcpStream,
    words: Vec<u8>,
    said: usize,
    again: usize,
    is_open: bool,
}

impl Attacker {
    fn new(address: &str, habit: &Habit) -> Attacker {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nonblocking(true).unwrap();
        Attacker {
            stream,
            words: [&habit.first[..], &habit.then].concat(),
            said: 0,
            again: habit.first.len(),
            is_open: true,
        }
    }

    /// Says and hears what it can, and counts the refusals of what it has heard.
    fn act(&mut self, habit: &Habit, refused: &mut u64) {
        let mut buffer = [0; 16 << 10];
        for _ in 0..8 {
            if self.said == self.words.len() && self.again < self.words.len() {
                self.said = self.again;
            }
            let rest = &self.words[self.said..];
            let said = self.stream.write(&rest[..rest.len().min(habit.bite)]);
            self.said += self.count(said);
            if habit.reads && self.is_open {
                let heard = self.stream.read(&mut buffer);
                self.is_open &= !matches!(heard, Ok(0));
                let heard = self.count(heard);
                let codes = memchr::memmem::find_iter(&buffer[..heard], b"\"error\":\"limit\"");
                *refused += codes.count() as u64;
            }
            if !self.is_open || habit.bite < usize::MAX {
                break;
            }
        }
    }

    fn count(&mut self, result: io::Result<usize>) -> usize {
        match result {
            Ok(count) => count,
            Err(error) => {
                self.is_open &= error.kind() == ErrorKind::WouldBlock;
                0
            }
        }
    }
}

/// Those who are to notice nothing.
struct Others {
    client: Client,
    subscriber: Client,
    served: u64,
}

impl Others {
    fn new(daemon: &Daemon) -> Others {
        let mut subscriber = daemon.connect();
        subscriber.subscribe("client");
        Others {
            client: daemon.connect(),
            subscriber,
            served: 0,
        }
    }

    /// A put, the event of it, and a get.
    fn be_served(&mut self) {
        self.served += 1;
        let value = self.served;
        let put = format!(r#"{{"op":"put","key":"client.state","value":{value}}}"#);
        self.client.do_it(&put);
        assert_eq!(self.subscriber.event()["value"], value);
        let got = self.client.do_it(r#"{"op":"get","key":"client.state"}"#);
        assert_eq!(got["value"], value);
    }
}

/// What `stats` says of the attackers, to an operator who has just come.
fn attackers(daemon: &Daemon) -> Option<Value> {
    let stats = daemon.connect().do_it(r#"{"op":"stats"}"#);
    let mut users = stats["users"].as_array().unwrap().iter();
    users.find(|user| user["tcp"] == true).cloned()
}

/// An attack from beginning to end; gives how often it was refused for its quotas.
fn attack(prepare: impl FnOnce(&mut Client), habits: &[Habit]) -> u64 {
    let daemon = Daemon::start(&LIMITS);
    prepare(&mut daemon.connect());
    let address = daemon.tcp_address("127.0.0.1:");
    let mut others = Others::new(&daemon);
    others.be_served();
    let process: Process = daemon.process();
    let before = process.memory();
    let mut crowd: Vec<(Attacker, &Habit)> = Vec::new();
    for habit in habits {
        let some = (0..habit.connections).map(|_| (Attacker::new(&address, habit), habit));
        crowd.extend(some);
    }
    let (mut refused, mut most) = (0, 0);
    for round in 0..ROUNDS {
        for (attacker, habit) in crowd.iter_mut().filter(|(attacker, _)| attacker.is_open) {
            attacker.act(habit, &mut refused);
        }
        others.be_served();
        if round % 20 == 19 {
            attackers(&daemon).expect("they are here, and the operator is told so");
            most = most.max(process.memory().saturating_sub(before));
        }
    }
    println!("{} KiB more at most, {refused} refusals", most >> 10);
    assert!(most < MEMORY_MAX, "{} KiB", most >> 10);
    drop(crowd);
    until("nothing is left of them", || {
        others.be_served();
        attackers(&daemon).is_none_or(|left| {
            let held = ["connections", "subscriptions", "buffered"];
            held.iter().all(|what| left[what] == 0)
        })
    });
    refused
}

fn nothing(_: &mut Client) {}

fn put(key: &str, bytes: usize) -> String {
    let value = "x".repeat(bytes);
    format!("{{\"op\":\"put\",\"key\":\"{key}\",\"value\":\"{value}\"}}\n")
}

fn batch(ops: impl Iterator<Item = String>) -> String {
    let ops: Vec<String> = ops.map(|op| op.trim_end().to_owned()).collect();
    format!("{{\"op\":\"batch\",\"ops\":[{}]}}\n", ops.join(","))
}

fn many_keys(client: &mut Client) {
    for some in 0..5 {
        let puts = (0..500).map(|number| put(&format!("k.n{some}-{number}.v"), 1));
        client.do_it(batch(puts).trim_end());
    }
}

fn subscribe(id: usize, pattern: &str) -> String {
    format!("{{\"op\":\"subscribe\",\"id\":{id},\"key\":\"{pattern}\"}}\n")
}

#[test]
fn lines_that_come_byte_by_byte() {
    let refused = attack(
        nothing,
        &[Habit {
            first: put("a", 1 << 20).into(),
            bite: 1,
            ..Habit::default()
        }],
    );
    assert_eq!(refused, (CROWD - 32) as u64, "connections");
}

#[test]
fn lines_without_an_end() {
    let habit = Habit {
        first: put("a", 63 << 10)[..63 << 10].into(),
        ..Habit::default()
    };
    attack(nothing, &[habit]);
    let habit = Habit {
        then: "x".repeat(1 << 20).into(),
        ..Habit::default()
    };
    attack(nothing, &[habit]);
}

#[test]
fn connections_that_come_and_go() {
    let daemon = Daemon::start(&LIMITS);
    let address = daemon.tcp_address("127.0.0.1:");
    let mut others = Others::new(&daemon);
    let mut held = Vec::new();
    for round in 0..20 {
        for number in 0..50 {
            let stream = TcpStream::connect(&address).unwrap();
            if number == round {
                held.push(stream);
            }
        }
        others.be_served();
        attackers(&daemon);
    }
    drop(held);
    until("nothing is left of them", || attackers(&daemon).is_none());
}

#[test]
fn subscriptions_to_everything() {
    let all: String = (0..70).map(|id| subscribe(id, "*")).collect();
    let again = "{\"op\":\"unsubscribe\",\"sub\":9}\n".to_owned() + &subscribe(9, "*");
    let refused = attack(
        many_keys,
        &[Habit {
            first: all.clone().into(),
            then: again.into(),
            ..Habit::default()
        }],
    );
    assert!(refused > 500, "1,024 of more are taken");
    // And the same by those who never read, while others of them put.
    attack(
        nothing,
        &[
            Habit {
                connections: 30,
                first: all.into(),
                reads: false,
                ..Habit::default()
            },
            Habit {
                connections: 2,
                then: (put("a", 10) + &put("b", 60_000) + &put("c", 5000)).into(),
                ..Habit::default()
            },
        ],
    );
}

#[test]
fn patterns_that_match_nothing() {
    let list = "{\"op\":\"get\",\"key\":\"*.*.x\"}\n{\"op\":\"get\",\"key\":\"*.x\"}\n";
    let delete = "{\"op\":\"delete\",\"key\":\"*.*.*.*.x\"}\n";
    let (come, go) = (
        subscribe(1, "*.*.x"),
        "{\"op\":\"unsubscribe\",\"sub\":1}\n",
    );
    for words in [list.to_owned(), delete.to_owned(), come + go] {
        // No more than the daemon can do while somebody waits for the end of it.
        let habit = Habit {
            first: words.repeat(20).into(),
            ..Habit::default()
        };
        attack(many_keys, &[habit]);
    }
}

#[test]
fn keys_and_values_up_to_the_quotas() {
    let long = |number: usize| put(&format!("{number}.{}", "k".repeat(500)), 60_000);
    let refused = attack(
        nothing,
        &[Habit {
            then: (0..40).map(long).collect::<String>().into(),
            ..Habit::default()
        }],
    );
    assert!(refused > 0, "not all of it is taken");
    let small = |some: usize| batch((0..500).map(move |n| put(&format!("q.{some}.{n}"), 1)));
    let refused = attack(
        nothing,
        &[Habit {
            connections: 4,
            then: (0..12).map(small).collect::<String>().into(),
            ..Habit::default()
        }],
    );
    assert!(refused > 0, "5,000 of 6,000 are taken");
}

#[test]
fn answers_that_nobody_reads() {
    let large = |client: &mut Client| {
        client.do_it(put("large", 60_000).trim_end());
    };
    attack(
        large,
        &[Habit {
            then: b"{\"op\":\"get\",\"key\":\"large\"}\n".to_vec(),
            reads: false,
            ..Habit::default()
        }],
    );
    attack(
        many_keys,
        &[Habit {
            first: b"{\"op\":\"get\",\"key\":\"*\"}\n".repeat(3),
            reads: false,
            ..Habit::default()
        }],
    );
}

#[test]
fn garbage() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let noise = (0..1 << 18).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    });
    let brackets =
        "{\"op\":\"put\",\"key\":\"a\",\"value\":".to_owned() + &"[".repeat(60_000) + "\n";
    for words in [noise.collect(), brackets.into_bytes(), vec![b'\n'; 1 << 16]] {
        let habit = Habit {
            then: words,
            bite: 512,
            ..Habit::default()
        };
        attack(nothing, &[habit]);
    }
}

#[test]
fn questions_about_everything() {
    let claims: String = (0..300)
        .map(|n| format!("{{\"op\":\"claim\",\"key\":\"c.{n}\"}}\n"))
        .collect();
    let questions = "{\"op\":\"clients\"}\n{\"op\":\"stats\"}\n{\"op\":\"claim\",\"key\":\"c\"}\n";
    attack(
        nothing,
        &[
            Habit {
                connections: 1,
                first: claims.into(),
                then: questions.into(),
                ..Habit::default()
            },
            Habit {
                connections: 31,
                then: questions.into(),
                bite: 64,
                ..Habit::default()
            },
        ],
    );
}

/// Where there are fewer descriptors than there could be clients, one user gets half of them all the same.
#[test]
fn descriptors_up_to_the_last() {
    if !has_program("prlimit") {
        return skip("there is no prlimit");
    }
    let plan = Plan::new().under(&["prlimit", "--nofile=160:160"]);
    let daemon = plan.with(&["127.0.0.1:0"]).start();
    let address = daemon.tcp_address("127.0.0.1:");
    let crowd: Vec<TcpStream> = (0..300)
        .map(|_| TcpStream::connect(&address).unwrap())
        .collect();
    // Nothing is answered to whoever waits for a descriptor.
    let mut others = Others::new(&daemon);
    others.be_served();
    let hello = daemon.connect().do_it(r#"{"op":"hello"}"#);
    assert_eq!(hello["limits"]["clients"], 160 - 64);
    drop(crowd);
    until("nothing is left of them", || attackers(&daemon).is_none());
    assert!(
        !daemon.log().contains("accepting pauses"),
        "{}",
        daemon.log()
    );
}

/// One connection after the other is left with a buffer that was large and has next to nothing in it: the
/// beginning of a line, or the end of an answer.
#[test]
fn what_is_left_in_large_buffers() {
    const CROWD: u64 = 60;
    let daemon = Daemon::start(&["127.0.0.1:0"]);
    let address = daemon.tcp_address("127.0.0.1:");
    let mut others = Others::new(&daemon);
    let blanks = [&[b' '; 1_000_000][..], b"\n{"].concat();
    let mut held = Vec::new();
    let mut before = 0;
    for number in 0..=CROWD {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(&blanks).unwrap();
        stream.read_exact(&mut [0; 20]).unwrap();
        held.push(stream);
        others.be_served();
        if number == 0 {
            before = daemon.process().memory();
        }
    }
    let each = daemon.process().memory().saturating_sub(before) / CROWD;
    println!("{} KiB each", each >> 10);
    assert!(each < 64 << 10, "{each} bytes each");
}

/// Many connections of one user that have a lot to be looked at, and somebody who asks for little. What
/// counts is how often that is answered until all is done: a turn that serves them all does it some
/// dozen times.
#[test]
fn a_crowd_of_one_user_waits_for_its_turn() {
    const CROWD: usize = 30;
    const BYTES: usize = 512 << 10;
    let daemon = Daemon::start(&LIMITS);
    let address = daemon.tcp_address("127.0.0.1:");
    let mut other = daemon.connect();
    let mut pings = 0;
    std::thread::scope(|scope| {
        let crowd: Vec<_> = (0..CROWD)
            .map(|_| {
                let mut stream = TcpStream::connect(&address).unwrap();
                scope.spawn(move || {
                    stream.write_all(&vec![b'\n'; BYTES]).unwrap();
                    stream.write_all(b"{\"op\":\"ping\"}\n").unwrap();
                    stream.read_exact(&mut [0; 12]).unwrap();
                })
            })
            .collect();
        while !crowd.iter().all(|attacker| attacker.is_finished()) {
            other.ping();
            pings += 1;
        }
    });
    let slices = CROWD * BYTES / (32 << 10);
    println!("{pings} round trips during {slices} reads");
    assert!(
        pings > slices / 8,
        "{pings} round trips during {slices} reads"
    );
}
