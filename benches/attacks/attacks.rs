//! The attacks, and what has to hold while each of them goes on.
//!
//! How long the others may have to wait is the same for nearly all: a turn of the daemon's loop is
//! shared out in small pieces. But a line is read in one piece, and a batch is carried out in one; where
//! attacks are made of the largest that there may be, the bound is what that takes. How much memory the
//! daemon may take on is what the default quotas of one user allow: so many connections, subscriptions,
//! keys and bytes, each at a price.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::attacker::Ground;
use crate::crowd::{self, Appetite, Member, flood, gather, never};
use crate::daemon::Operator;

/// How long 99 of 100 answers and events of the client may take at most.
const P99_MAX: Duration = Duration::from_millis(10);
/// The same where lines of 1 MiB are read, and values of that size written.
const P99_MAX_LINES: Duration = Duration::from_millis(20);
/// The same where such a line is a batch.
const P99_MAX_BATCHES: Duration = Duration::from_millis(100);
/// How long the operator's connecting and asking may take at most.
pub(crate) const VISIT_MAX: Duration = Duration::from_millis(250);

const MEBIBYTE: u64 = 1 << 20;
/// The default quotas of one user.
const CONNECTIONS: u64 = 512;
const SUBSCRIPTIONS: u64 = 16_384;
const KEYS: u64 = 500_000;
/// How many keys get large values.
const LARGE_KEYS: u64 = 120;
const BYTES: u64 = 128 * MEBIBYTE;
const BUFFERED: u64 = 64 * MEBIBYTE;
/// How many keys there are for patterns to look at.
const MANY: usize = 100_000;
/// More connections than a user may have.
const CROWD: usize = 600;

/// One way to be a nuisance.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    /// How many descriptors the daemon may have, where that is not the system's choice.
    pub(crate) descriptors: Option<u64>,
    pub(crate) with_tcp: bool,
    /// How long 99 of 100 answers and events of the client may take at most.
    pub(crate) p99: Duration,
    /// How much more memory the daemon may have at its peak.
    pub(crate) memory: u64,
    /// What was there before, by root.
    pub(crate) prepare: fn(&Path),
    pub(crate) run: fn(&mut Ground),
}

/// What a user may hold, in the daemon's memory: at most so much for each.
const fn memory(connections: u64, subscriptions: u64, keys: u64, bytes: u64, buffered: u64) -> u64 {
    // A turn's changes, its journal lines, and what the allocator keeps.
    let for_all = 16 * MEBIBYTE;
    // A buffer that grows is copied to one of twice the size.
    for_all
        + connections * (10 << 10)
        + subscriptions * (1 << 10)
        + keys * 500
        + bytes
        + 3 * buffered
}

const fn attack(
    name: &'static str,
    what: &'static str,
    memory: u64,
    run: fn(&mut Ground),
) -> Attack {
    Attack {
        name,
        what,
        descriptors: None,
        with_tcp: false,
        p99: P99_MAX,
        memory,
        prepare: |_| {},
        run,
    }
}

const fn before(prepare: fn(&Path), attack: Attack) -> Attack {
    Attack { prepare, ..attack }
}

const fn within(p99: Duration, attack: Attack) -> Attack {
    Attack { p99, ..attack }
}

pub(crate) const ALL: &[Attack] = &[
    attack(
        "slow-loris",
        "600 connections send one byte of a request at a time and never end it",
        memory(CONNECTIONS, 0, 0, 0, 0),
        slow_loris,
    ),
    attack(
        "connect-and-go",
        "four threads connect and disconnect as fast as they can",
        memory(CONNECTIONS, 0, 0, 0, 0),
        connect_and_go,
    ),
    attack(
        "connect-and-stay",
        "four threads connect as often as they can and hold what they get",
        memory(CONNECTIONS, 0, 0, 0, 0),
        connect_and_stay,
    ),
    attack(
        "subscriptions",
        "100 connections subscribe 1,000 times each to everything, then end and begin one over and over",
        memory(CONNECTIONS, SUBSCRIPTIONS, 0, 0, 0),
        subscriptions,
    ),
    attack(
        "long-patterns",
        "as many subscriptions as there may be, with patterns of 250 segments that have nothing in common",
        memory(CONNECTIONS, SUBSCRIPTIONS, 0, 0, BUFFERED),
        long_patterns,
    ),
    attack(
        "fan-out",
        "16,384 subscriptions to everything, read at once, and a flood of puts",
        memory(CONNECTIONS, SUBSCRIPTIONS, 1000, 0, BUFFERED),
        fan_out,
    ),
    attack(
        "star-tree",
        "patterns with a star or a letter in each place, and puts to a key that all of them match",
        memory(CONNECTIONS, SUBSCRIPTIONS, 1000, 0, BUFFERED),
        star_tree,
    ),
    before(
        many_keys,
        attack(
            "slow-lists",
            "512 connections list `*.*.x` over 100,000 keys, of which none matches",
            memory(CONNECTIONS, 0, 0, 0, 0),
            |ground| {
                let list = br#"{"op":"get","key":"*.*.x"}"#;
                flood(ground, CROWD, b"", &line(list), Appetite::All);
            },
        ),
    ),
    before(
        deep_keys,
        attack(
            "deep-lists",
            "the same with a pattern of 250 stars over 20,000 keys of 250 segments",
            memory(CONNECTIONS, 0, 0, 0, 0),
            |ground| {
                let list = format!(r#"{{"op":"get","key":"{}x"}}"#, "*.".repeat(250));
                flood(ground, CROWD, b"", &line(list.as_bytes()), Appetite::All);
            },
        ),
    ),
    before(
        many_keys,
        attack(
            "slow-subscriptions",
            "512 connections subscribe to `*.*.x` over 100,000 keys, and end that again",
            memory(CONNECTIONS, 0, 0, 0, 0),
            |ground| {
                let both = "{\"op\":\"subscribe\",\"id\":1,\"key\":\"*.*.x\"}\n\
                    {\"op\":\"get\",\"key\":\"*.*.x\",\"limit\":1}\n\
                    {\"op\":\"unsubscribe\",\"sub\":1}\n";
                flood(ground, CROWD, b"", both.as_bytes(), Appetite::All);
            },
        ),
    ),
    within(
        P99_MAX_BATCHES,
        before(
            many_keys,
            attack(
                "slow-deletions",
                "puts in batches, and deletions of `*.*.x`, which match none or what was put",
                memory(CONNECTIONS, 0, KEYS, 0, BUFFERED),
                slow_deletions,
            ),
        ),
    ),
    within(
        P99_MAX_LINES,
        attack(
            "large-values",
            "keys of 512 bytes and values of 1 MiB up to the quota, and then over and over",
            memory(CONNECTIONS, 0, 0, BYTES, BUFFERED),
            large_values,
        ),
    ),
    within(
        P99_MAX_LINES,
        attack(
            "endless-lines",
            "512 connections send lines of 1 MiB without an end, and then the ends at once",
            memory(CONNECTIONS, 0, 0, 0, BUFFERED),
            endless_lines,
        ),
    ),
    within(
        P99_MAX_LINES,
        attack(
            "deep-values",
            "lines of 1 MiB with nothing but brackets",
            memory(CONNECTIONS, 0, 0, 0, BUFFERED),
            |ground| {
                let deep = format!(
                    r#"{{"op":"put","key":"a","value":{}"#,
                    "[".repeat(1_000_000)
                );
                flood(ground, 64, b"", &line(deep.as_bytes()), Appetite::All);
            },
        ),
    ),
    within(
        P99_MAX_BATCHES,
        attack(
            "long-batches",
            "batches of 1 MiB with as many puts as go in",
            memory(CONNECTIONS, 0, 60_000, 0, BUFFERED),
            |ground| {
                let puts = (0..24_000).map(|number| put(&format!("b{number}"), "1"));
                flood(ground, 16, b"", &batch(puts), Appetite::All);
            },
        ),
    ),
    within(
        P99_MAX_BATCHES,
        before(
            deep_keys,
            attack(
                "batches-with-patterns",
                "batches of deletions by a pattern of 250 stars over 20,000 keys",
                memory(CONNECTIONS, 0, 0, 0, BUFFERED),
                |ground| {
                    let stars = format!(r#"{{"op":"delete","key":"{}x"}}"#, "*.".repeat(250));
                    let delete = std::iter::repeat_n(stars, 3);
                    flood(ground, 16, b"", &batch(delete), Appetite::All);
                },
            ),
        ),
    ),
    within(
        P99_MAX_BATCHES,
        attack(
            "sweeping-batches",
            "batches of 12,000 puts and 14,000 deletions by a pattern that matches none of them",
            memory(CONNECTIONS, 0, 0, 0, BUFFERED),
            |ground| {
                let puts = (0..12_000).map(|number| put(&format!("b{number}"), "1"));
                let sweep = r#"{"op":"delete","key":"n.*"}"#.to_owned();
                let all = puts.chain(std::iter::repeat_n(sweep, 14_000));
                flood(ground, 16, b"", &batch(all), Appetite::All);
            },
        ),
    ),
    within(
        P99_MAX_BATCHES,
        attack(
            "star-batches",
            "4,096 patterns with a star or a letter in each of 16 places, and batches of 14,000 puts that all of them match",
            memory(CONNECTIONS, SUBSCRIPTIONS, 1000, 0, BUFFERED),
            star_batches,
        ),
    ),
    within(
        P99_MAX_LINES,
        before(
            large_value,
            attack(
                "unread-answers",
                "512 connections get 1 MiB over and over and read nothing",
                memory(CONNECTIONS, 0, 0, 0, BUFFERED),
                |ground| {
                    let get = br#"{"op":"get","key":"large"}"#;
                    flood(ground, CROWD, b"", &line(get), Appetite::Nothing);
                },
            ),
        ),
    ),
    within(
        P99_MAX_LINES,
        attack(
            "unread-events",
            "512 connections subscribe to a key and read nothing, and it gets values of 1 MiB",
            memory(CONNECTIONS, CONNECTIONS, 1, MEBIBYTE, BUFFERED),
            unread_events,
        ),
    ),
    within(
        P99_MAX_LINES,
        attack(
            "unread-values",
            "the same with 120 keys, of which each connection subscribes to one",
            memory(
                CONNECTIONS,
                CONNECTIONS,
                LARGE_KEYS,
                LARGE_KEYS * MEBIBYTE,
                BUFFERED,
            ),
            unread_values,
        ),
    ),
    within(
        P99_MAX_LINES,
        before(
            large_value,
            attack(
                "leftovers",
                "512 connections are left with the beginning of a line after one of 1 MiB, or the end of an answer",
                memory(CONNECTIONS, 0, 0, 0, BUFFERED),
                leftovers,
            ),
        ),
    ),
    before(
        keys_at_the_end,
        attack(
            "unread-lists",
            "512 connections list at the same time what is a page of 1 MiB for each",
            memory(CONNECTIONS, 0, 0, 0, BUFFERED),
            |ground| {
                let list = br#"{"op":"get","key":"*.x"}"#;
                flood(ground, CROWD, b"", &line(list), Appetite::Nothing);
            },
        ),
    ),
    attack(
        "many-keys",
        "keys up to the quota, and then other values for all of them over and over",
        memory(CONNECTIONS, 0, KEYS, 20 * MEBIBYTE, BUFFERED),
        many_puts,
    ),
    attack(
        "session-keys",
        "connections that put 20,000 entries with the lifetime session, and go",
        memory(CONNECTIONS, 0, KEYS, 20 * MEBIBYTE, BUFFERED),
        session_keys,
    ),
    Attack {
        descriptors: Some(256),
        ..attack(
            "descriptors",
            "as many connections as they get, where the daemon may have 256 descriptors",
            memory(CONNECTIONS, 0, 0, 0, 0),
            connect_and_stay,
        )
    },
    within(
        P99_MAX_LINES,
        attack(
            "never-reads",
            "512 connections with 32 subscriptions each read nothing, and others put values of all sizes",
            memory(CONNECTIONS, SUBSCRIPTIONS, 2000, 16 * MEBIBYTE, BUFFERED),
            never_reads,
        ),
    ),
    attack(
        "garbage",
        "100 connections send noise as fast as they can",
        memory(CONNECTIONS, 0, 0, 0, BUFFERED),
        |ground| flood(ground, 100, b"", &noise(1 << 20), Appetite::All),
    ),
    attack(
        "line-ends",
        "100 connections send nothing but line ends",
        memory(CONNECTIONS, 0, 0, 0, BUFFERED),
        |ground| flood(ground, 100, b"", &vec![b'\n'; 1 << 20], Appetite::All),
    ),
    attack(
        "claims",
        "claims up to the quota, then `clients`, and claims of all of it",
        memory(CONNECTIONS, 0, KEYS, 40 * MEBIBYTE, BUFFERED),
        claims,
    ),
    attack(
        "questions",
        "512 connections ask for `stats` and `clients` over and over",
        memory(CONNECTIONS, SUBSCRIPTIONS, 0, 0, BUFFERED),
        questions,
    ),
    attack(
        "deep-puts",
        "puts to keys of 250 segments while there is a claim",
        memory(CONNECTIONS, SUBSCRIPTIONS, 1000, 0, BUFFERED),
        |ground| {
            let key = |number: usize| format!("{}{number}", "a.".repeat(249));
            let puts: Vec<u8> = (0..1000)
                .flat_map(|number| line(put(&key(number), "1").as_bytes()))
                .collect();
            let claim = line(br#"{"op":"claim","key":"claimed"}"#);
            let mut members = gather(ground, 15, b"", &puts, Appetite::All);
            members.extend(gather(ground, 1, &claim, &puts, Appetite::All));
            crowd::run(ground, &mut members, never);
        },
    ),
    Attack {
        with_tcp: true,
        ..attack(
            "strangers",
            "TCP peers without the token: as many as they get, some silent, some slow, some guessing",
            memory(CONNECTIONS, 0, 0, 0, BUFFERED),
            strangers,
        )
    },
];

fn line(request: &[u8]) -> Vec<u8> {
    [request, b"\n"].concat()
}

fn put(key: &str, value: &str) -> String {
    format!(r#"{{"op":"put","key":"{key}","value":{value}}}"#)
}

fn batch(ops: impl Iterator<Item = String>) -> Vec<u8> {
    let ops: Vec<String> = ops.collect();
    line(format!(r#"{{"op":"batch","ops":[{}]}}"#, ops.join(",")).as_bytes())
}

/// Bytes like any others, with a line end now and then.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let bytes = (0..bytes).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    });
    bytes.collect()
}

fn fill(socket: &Path, ops: &mut dyn Iterator<Item = String>) {
    let mut root = Operator::connect(socket).unwrap();
    let ops: Vec<String> = ops.collect();
    for some in ops.chunks(1000) {
        let batch = batch(some.iter().cloned());
        let batch = std::str::from_utf8(&batch).unwrap().trim_end();
        root.exchange(batch).unwrap();
    }
}

fn many_keys(socket: &Path) {
    fill(
        socket,
        &mut (0..MANY).map(|number| put(&format!("k.n{number}.v"), "1")),
    );
}

fn deep_keys(socket: &Path) {
    let key = |number: usize| format!("{}{number}", "a.".repeat(249));
    fill(
        socket,
        &mut (0..20_000).map(|number| put(&key(number), "1")),
    );
}

fn large_value(socket: &Path) {
    let value = format!("\"{}\"", "x".repeat(1_000_000));
    fill(socket, &mut std::iter::once(put("large", &value)));
}

/// A walk that finds nothing for long, and then a lot.
fn keys_at_the_end(socket: &Path) {
    many_keys(socket);
    let value = format!("\"{}\"", "x".repeat(10_000));
    for some in 0..2 {
        let numbers = some * 50..(some + 1) * 50;
        fill(
            socket,
            &mut numbers.map(|number| put(&format!("z{number}.x"), &value)),
        );
    }
}

fn slow_loris(ground: &mut Ground) {
    let endless = format!(r#"{{"op":"put","key":"a","value":"{}"#, "x".repeat(1 << 20));
    let mut members = gather(ground, CROWD, endless.as_bytes(), b"", Appetite::All);
    for member in &mut members {
        member.bite = 1;
    }
    crowd::run(ground, &mut members, never);
}

/// Several threads that do the same.
fn threads(ground: &mut Ground, count: usize, work: impl Fn(&mut Ground) + Sync) {
    let mut grounds: Vec<Ground> = (0..count).map(|_| ground.another()).collect();
    std::thread::scope(|scope| {
        for ground in &mut grounds {
            scope.spawn(|| work(ground));
        }
    });
    for other in grounds {
        ground.tally.merge(other.tally);
    }
}

fn connect_and_go(ground: &mut Ground) {
    threads(ground, 4, |ground| {
        while !ground.is_over() {
            match UnixStream::connect(&ground.socket) {
                Ok(_) => ground.tally.add("connected", 1),
                Err(error) => ground.tally.add(&error.to_string(), 1),
            }
        }
    });
}

fn connect_and_stay(ground: &mut Ground) {
    threads(ground, 4, |ground| {
        let mut held = Vec::new();
        while !ground.is_over() {
            held.extend(ground.connect());
        }
    });
}

fn subscribe(id: usize, pattern: &str) -> Vec<u8> {
    let request = format!(r#"{{"op":"subscribe","id":{id},"key":"{pattern}","initial":false}}"#);
    line(request.as_bytes())
}

fn subscriptions(ground: &mut Ground) {
    let first: Vec<u8> = (0..1000).flat_map(|id| subscribe(id, "*")).collect();
    let again = [
        line(br#"{"op":"unsubscribe","sub":999}"#),
        subscribe(999, "*"),
    ]
    .concat();
    flood(ground, 100, &first, &again, Appetite::All);
}

fn long_patterns(ground: &mut Ground) {
    let streams = ground.connect_up_to(17);
    let mut members: Vec<Member<UnixStream>> = streams
        .into_iter()
        .enumerate()
        .map(|(number, stream)| {
            stream.set_nonblocking(true).unwrap();
            let pattern = |id: usize| format!("s{number}-{id}{}", ".a".repeat(250));
            let all: Vec<u8> = (0..1024)
                .flat_map(|id| subscribe(id, &pattern(id)))
                .collect();
            Member::new(stream, &all, b"", Appetite::All)
        })
        .collect();
    crowd::run(ground, &mut members, never);
}

fn fan_out(ground: &mut Ground) {
    let first: Vec<u8> = (0..1024).flat_map(|id| subscribe(id, "*")).collect();
    let mut members = gather(ground, 16, &first, b"", Appetite::All);
    crowd::run(ground, &mut members, |members| {
        members.iter().all(Member::has_said_all)
    });
    let puts: Vec<u8> = (0..1000)
        .flat_map(|number| line(put(&format!("p{number}"), "1").as_bytes()))
        .collect();
    members.extend(gather(ground, 4, b"", &puts, Appetite::All));
    crowd::run(ground, &mut members, never);
}

fn star_tree(ground: &mut Ground) {
    let mut members = subscribed(ground, 1024, |number| {
        format!("{}{}b", stars(14, number), "a.".repeat(225))
    });
    let key = format!("{}c", "a.".repeat(239));
    let puts = line(put(&key, "1").as_bytes()).repeat(1000);
    members.extend(gather(ground, 4, b"", &puts, Appetite::All));
    crowd::run(ground, &mut members, never);
}

fn star_batches(ground: &mut Ground) {
    let mut members = subscribed(ground, 256, |number| {
        format!("{}a.a.a.*", stars(13, number))
    });
    let puts = std::iter::repeat_n(put(&["a"; 16].join("."), "1"), 14_000);
    members.extend(gather(ground, 1, b"", &batch(puts), Appetite::All));
    crowd::run(ground, &mut members, never);
}

/// So many segments, of which those are stars whose bits are set, each with a dot behind it.
fn stars(segments: usize, bits: usize) -> String {
    let is_star = |segment: usize| bits >> segment & 1 == 1;
    (0..segments)
        .map(|segment| if is_star(segment) { "*." } else { "a." })
        .collect()
}

/// 16 connections with so many subscriptions each, to patterns that are made of their numbers.
fn subscribed(
    ground: &mut Ground,
    each: usize,
    pattern: impl Fn(usize) -> String,
) -> Vec<Member<UnixStream>> {
    let streams = ground.connect_up_to(16).into_iter().enumerate();
    let member = |(number, stream): (usize, UnixStream)| {
        stream.set_nonblocking(true).unwrap();
        let ids = (0..each).flat_map(|id| subscribe(id, &pattern(number * each + id)));
        Member::new(stream, &ids.collect::<Vec<u8>>(), b"", Appetite::All)
    };
    streams.map(member).collect()
}

fn slow_deletions(ground: &mut Ground) {
    let puts = (0..10_000).map(|number| put(&format!("k.d{number}.x"), "1"));
    let mut words = batch(puts);
    words.extend(line(br#"{"op":"delete","key":"*.*.x"}"#));
    words.extend(line(br#"{"op":"delete","key":"*.*.x"}"#));
    flood(ground, 32, b"", &words, Appetite::All);
}

fn large_values(ground: &mut Ground) {
    let streams = ground.connect_up_to(16);
    let value = format!("\"{}\"", "x".repeat(1_040_000));
    let mut members: Vec<Member<UnixStream>> = streams
        .into_iter()
        .enumerate()
        .map(|(number, stream)| {
            stream.set_nonblocking(true).unwrap();
            let key = |n: usize| format!("{number}.{n}.{}", "k".repeat(500));
            let words: Vec<u8> = (0..10)
                .flat_map(|n| line(put(&key(n), &value).as_bytes()))
                .collect();
            Member::new(stream, b"", &words, Appetite::All)
        })
        .collect();
    crowd::run(ground, &mut members, never);
}

/// Lines that are nearly done on many connections; then all of them are, at once; and again.
fn endless_lines(ground: &mut Ground) {
    let long = format!(
        r#"{{"op":"put","key":"a","if_rev":1,"value":"{}""#,
        "x".repeat(1_000_000)
    );
    let mut members = gather(
        ground,
        CROWD,
        b"",
        &[long.as_bytes(), b"}\n"].concat(),
        Appetite::All,
    );
    for member in &mut members {
        member.bite = 64 << 10;
    }
    let mut rounds = 0;
    while !ground.is_over() {
        let length = long.len();
        crowd::run_until_said(ground, &mut members, length);
        rounds += 1;
        crowd::run_until_said(ground, &mut members, 0);
    }
    ground.tally.add("rounds", rounds);
}

fn unread_events(ground: &mut Ground) {
    let first = subscribe(1, "large");
    let mut members = gather(ground, 511, &first, b"", Appetite::Nothing);
    crowd::run(ground, &mut members, |members| {
        members.iter().all(Member::has_said_all)
    });
    let puts = line(put("large", &format!("\"{}\"", "x".repeat(1_000_000))).as_bytes());
    members.extend(gather(ground, 1, b"", &puts, Appetite::All));
    crowd::run(ground, &mut members, never);
}

fn unread_values(ground: &mut Ground) {
    let mut members = Vec::new();
    for number in 0..CONNECTIONS - 1 {
        let first = subscribe(1, &format!("v{}", number % LARGE_KEYS));
        members.extend(gather(ground, 1, &first, b"", Appetite::Nothing));
    }
    crowd::run(ground, &mut members, |members| {
        members.iter().all(Member::has_said_all)
    });
    let value = format!("\"{}\"", "x".repeat(1_000_000));
    let puts: Vec<u8> = (0..LARGE_KEYS)
        .flat_map(|number| line(put(&format!("v{number}"), &value).as_bytes()))
        .collect();
    members.extend(gather(ground, 1, b"", &puts, Appetite::All));
    crowd::run(ground, &mut members, never);
}

/// One connection after the other, so that none holds much at a time: each is left with a buffer that was
/// large, and with next to nothing in it.
fn leftovers(ground: &mut Ground) {
    let get = line(br#"{"op":"get","key":"large"}"#);
    // Blanks are refused in a few words.
    let blanks = [&[b' '; 1_000_000][..], b"\n{"].concat();
    // What is left unread of it is more than the kernel has room for.
    let (answer, unread) = (1_000_000 + 40, 130 << 10);
    let mut held = Vec::new();
    let mut buffer = vec![0; answer - unread];
    for number in 0..CROWD {
        let Some(mut stream) = ground.connect() else {
            break;
        };
        let done = if number % 2 == 0 {
            stream
                .write_all(&blanks)
                .and_then(|()| stream.read(&mut buffer).map(drop))
        } else {
            stream
                .write_all(&get)
                .and_then(|()| stream.read_exact(&mut buffer))
        };
        match done {
            Ok(()) => ground.tally.add("left over", 1),
            Err(error) => ground.tally.add(&error.to_string(), 1),
        }
        held.push(stream);
    }
    while !ground.is_over() {
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn many_puts(ground: &mut Ground) {
    let streams = ground.connect_up_to(4);
    let mut members: Vec<Member<UnixStream>> = streams
        .into_iter()
        .enumerate()
        .map(|(number, stream)| {
            stream.set_nonblocking(true).unwrap();
            let words: Vec<u8> = (0..130)
                .flat_map(|n| {
                    batch((0..1000).map(|key| put(&format!("q{number}.{n}.{key}"), "12345")))
                })
                .collect();
            Member::new(stream, b"", &words, Appetite::All)
        })
        .collect();
    crowd::run(ground, &mut members, never);
}

fn session_keys(ground: &mut Ground) {
    while !ground.is_over() {
        let words: Vec<u8> = (0..20)
            .flat_map(|n| {
                batch((0..1000).map(|key| {
                    put(&format!("s.{n}.{key}"), "1").replace("}", r#","lifetime":"session"}"#)
                }))
            })
            .collect();
        let mut members = gather(ground, 1, &words, b"", Appetite::All);
        crowd::run(ground, &mut members, |members| {
            members.iter().all(Member::has_said_all)
        });
    }
}

fn never_reads(ground: &mut Ground) {
    let first: Vec<u8> = (0..32).flat_map(|id| subscribe(id, "*")).collect();
    let mut members = gather(ground, 508, &first, b"", Appetite::Nothing);
    crowd::run(ground, &mut members, |members| {
        members.iter().all(Member::has_said_all)
    });
    let puts: Vec<u8> = (0..1000)
        .flat_map(|number| {
            let bytes = match number % 100 {
                0 => 1_000_000,
                1..10 => 10_000,
                _ => 10,
            };
            let value = format!("\"{}\"", "x".repeat(bytes));
            line(put(&format!("n{}", number % 200), &value).as_bytes())
        })
        .collect();
    members.extend(gather(ground, 4, b"", &puts, Appetite::All));
    crowd::run(ground, &mut members, never);
}

fn claims(ground: &mut Ground) {
    let streams = ground.connect_up_to(8);
    let mut members: Vec<Member<UnixStream>> = streams
        .into_iter()
        .enumerate()
        .map(|(number, stream)| {
            stream.set_nonblocking(true).unwrap();
            let claim = |key: String| format!("{{\"op\":\"claim\",\"key\":\"{key}\"}}\n");
            let first: String = (0..50_000)
                .map(|n| claim(format!("c{number}.k{n}")))
                .collect();
            let then = [&claim(format!("c{number}")), "{\"op\":\"clients\"}\n"].concat();
            Member::new(stream, first.as_bytes(), then.as_bytes(), Appetite::All)
        })
        .collect();
    crowd::run(ground, &mut members, never);
}

fn questions(ground: &mut Ground) {
    let first: Vec<u8> = (0..32).flat_map(|id| subscribe(id, "nothing")).collect();
    let words = "{\"op\":\"stats\"}\n{\"op\":\"clients\"}\n".repeat(100);
    flood(ground, CROWD, &first, words.as_bytes(), Appetite::All);
}

/// A third says nothing, a third a byte at a time, and a third guesses tokens.
fn strangers(ground: &mut Ground) {
    let mut members: Vec<Member<TcpStream>> = Vec::new();
    let slow = format!(r#"{{"op":"hello","token":"{}"#, "x".repeat(1 << 20));
    let guess = "{\"op\":\"hello\",\"token\":\"a guess\"}\n".repeat(100);
    let mut number = 0;
    while !ground.is_over() {
        // Whoever is thrown out comes again.
        let count = members.len();
        members.retain(Member::is_open);
        ground
            .tally
            .add("thrown out", (count - members.len()) as u64);
        for _ in 0..16 {
            if members.len() >= 2000 {
                break;
            }
            let Ok(stream) = TcpStream::connect(ground.tcp.trim()) else {
                ground.tally.add("no connection", 1);
                continue;
            };
            ground.tally.add("connected", 1);
            stream.set_nonblocking(true).unwrap();
            number += 1;
            members.push(match number % 3 {
                0 => Member::new(stream, b"", b"", Appetite::All),
                1 => {
                    let mut member = Member::new(stream, slow.as_bytes(), b"", Appetite::All);
                    member.bite = 1;
                    member
                }
                _ => Member::new(stream, b"", guess.as_bytes(), Appetite::All),
            });
        }
        crowd::sweep(ground, &mut members);
    }
}
