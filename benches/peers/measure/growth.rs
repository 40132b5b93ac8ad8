//! How the cost of a request grows: with keys, subscriptions, the value's size, what is matched, and lag.
//!
//! On one core if that may be, for what counts is the server's time. On two, a server that has nothing to
//! do for a moment pays for being woken, on some machines more than for all the rest.
//!
//! etcd is left out: to fill it takes minutes.

use std::borrow::Cow;
use std::io;

use crate::bench::{Bench, Placement, rate};
use crate::connection::{Buffer, Connection, Request, Swarm};
use crate::machine::Stopwatch;
use crate::measure::requests::Load;
use crate::measure::{VALUE, fill, fresh_topic, service_key, value_of};
use crate::peer::{Keeping, Role};
use crate::results::Case;
use crate::server::Server;

/// Keys in turns, at most so many: more than any cache holds, and rendered in advance.
const REQUESTS_MAX: usize = 1 << 17;
const DEPTH: usize = 16;
/// The subscriptions that a put concerns, each of another connection.
const MATCHING: usize = 10;
/// In which the matches of a wildcard are looked for.
const WILDCARD_KEYS: usize = 100_000;
const STALLED: usize = 500;

pub(crate) fn measure(bench: &mut Bench) -> io::Result<()> {
    keys(bench)?;
    subscriptions(bench)?;
    value_size(bench)?;
    matches(bench)?;
    lag(bench)
}

/// The rounds and the placement of all cases here.
fn extent(bench: &Bench) -> (usize, Vec<Placement>) {
    (bench.few_rounds(), bench.one_core())
}

fn fleet(bench: &Bench) -> io::Result<Vec<Server>> {
    let mut fleet = bench.fleet(Keeping::Memory)?;
    fleet.retain(|server| !server.peer.is_slow());
    Ok(fleet)
}

fn case(name: String, with: &'static str, amount: usize) -> Case {
    Case {
        name,
        growth: Some((with, amount as f64)),
    }
}

/// Gets and puts of existing keys, spread over all that there are.
fn keys(bench: &mut Bench) -> io::Result<()> {
    let (rounds, placements) = extent(bench);
    let time = bench.round_time();
    for keys in bench.size(vec![1_000, 10_000], vec![1_000, 10_000, 100_000, 1_000_000]) {
        let mut fleet = fleet(bench)?;
        fleet.retain(|server| server.peer.keeps());
        for server in &fleet {
            server.go_on()?;
            fill(server, keys, VALUE)?;
            server.pause()?;
        }
        for (name, is_put) in [("gets", false), ("puts", true)] {
            bench.compare(
                &case(format!("{name} among {keys} keys"), "keys", keys),
                (rounds, &placements),
                &fleet,
                |server| {
                    let step = keys.div_ceil(REQUESTS_MAX);
                    // In no order: 7919 is prime to them all.
                    let numbers = (0..keys / step).map(|number| number * step * 7919 % keys);
                    let requests = numbers.map(|number| {
                        let key = service_key(number);
                        let put = || server.peer.put(&key, VALUE);
                        if is_put { put() } else { server.peer.get(&key) }
                    });
                    let Some(requests) = requests.collect::<Option<Vec<_>>>() else {
                        return Ok(None);
                    };
                    Ok(Some((joined(&requests), server.clients(1)?)))
                },
                |server, (batches, swarm)| {
                    swarm.keep_busy(batches, time / 10)?;
                    let stopwatch = Stopwatch::start(server.process())?;
                    let count = swarm.keep_busy(batches, time)? * DEPTH;
                    let elapsed = stopwatch.stop()?;
                    Ok(rate(
                        "requests a second",
                        "server time a request",
                        count,
                        elapsed,
                    ))
                },
            )?;
        }
    }
    Ok(())
}

fn joined(requests: &[Request]) -> Vec<Request> {
    let whole = requests.chunks_exact(DEPTH);
    whole
        .map(|requests| Request::joined(requests.iter().cloned()))
        .collect()
}

/// One put at a time, and its events. What is added are subscriptions to other keys.
fn subscriptions(bench: &mut Bench) -> io::Result<()> {
    let (rounds, placements) = extent(bench);
    let puts = bench.size(200, 5_000);
    let fleet = fleet(bench)?;
    for patterns in bench.size(vec![1, 10, 1_000], vec![1, 10, 100, 1_000, 10_000]) {
        let matching = patterns.min(MATCHING);
        bench.compare(
            &case(
                format!("a put, {patterns} subscriptions of which {matching} match"),
                "subscriptions",
                patterns,
            ),
            (rounds, &placements),
            &fleet,
            |server| {
                let topic = fresh_topic();
                let put = server
                    .peer
                    .publish_key(&format!("{topic}.hit.key"), "1234567890");
                let Some(put) = put else { return Ok(None) };
                let mut buffer = Buffer::new();
                let publisher = server.connect(Role::Publisher, &mut buffer)?;
                let subscribers = (0..matching)
                    .map(|at| subscriber(server, &topic, at, patterns / matching))
                    .collect::<io::Result<Vec<_>>>()?;
                Ok(Some((put, publisher, Swarm::new(subscribers)?, buffer)))
            },
            |server, (put, publisher, subscribers, buffer)| {
                let marks = server.peer.key_event_marks();
                let mut once = || -> io::Result<()> {
                    publisher.send(put)?;
                    subscribers.expect(0..matching, marks);
                    subscribers.settle()?;
                    publisher.settle(buffer)
                };
                (0..puts / 10).try_for_each(|_| once())?;
                let stopwatch = Stopwatch::start(server.process())?;
                (0..puts).try_for_each(|_| once())?;
                let elapsed = stopwatch.stop()?;
                Ok(rate("puts a second", "server time a put", puts, elapsed))
            },
        )?;
    }
    Ok(())
}

/// One that has so many subscriptions, the first of which matches.
fn subscriber(server: &Server, topic: &str, at: usize, count: usize) -> io::Result<Connection> {
    let mut buffer = Buffer::new();
    let mut connection = server.connect(Role::Subscriber, &mut buffer)?;
    for number in 0..count {
        let prefix = if number == 0 {
            format!("{topic}.hit")
        } else {
            format!("{topic}.miss{at}x{number}")
        };
        let subscribe = server.peer.subscribe_below(&prefix, number + 1);
        server.ask(&mut connection, &subscribe, &mut buffer)?;
    }
    Ok(connection)
}

/// Gets and puts, one at a time.
fn value_size(bench: &mut Bench) -> io::Result<()> {
    let (rounds, placements) = extent(bench);
    let time = bench.round_time();
    let fleet = fleet(bench)?;
    let mut sizes = vec![10, 100, 1_000, 10_000, 100_000, (1 << 20) - 512];
    sizes.truncate(bench.size(3, sizes.len()));
    for bytes in sizes {
        let value = value_of(bytes);
        for (name, is_put) in [("gets", false), ("puts", true)] {
            bench.compare(
                &case(
                    format!("{name} of {bytes} bytes"),
                    "bytes of the value",
                    bytes,
                ),
                (rounds, &placements),
                &fleet,
                |server| Load::prepare(server, (1, 1), is_put, &value),
                |server, load| {
                    load.run(time / 10)?;
                    let stopwatch = Stopwatch::start(server.process())?;
                    let count = load.run(time)?;
                    let elapsed = stopwatch.stop()?;
                    load.check(server)?;
                    Ok(rate(
                        "requests a second",
                        "server time a request",
                        count,
                        elapsed,
                    ))
                },
            )?;
        }
    }
    Ok(())
}

/// nkv alone: gets with a wildcard, which the others have not, or not for this.
fn matches(bench: &mut Bench) -> io::Result<()> {
    let (rounds, placements) = extent(bench);
    let time = bench.round_time();
    let keys = bench.size(WILDCARD_KEYS / 10, WILDCARD_KEYS);
    let mut fleet = bench.fleet(Keeping::Memory)?;
    fleet.truncate(1);
    fleet[0].go_on()?;
    fill(&fleet[0], keys, VALUE)?;
    let middle: Vec<Request> = (0..1000)
        .filter_map(|number| fleet[0].peer.put(&format!("middle.{number}.name"), VALUE))
        .collect();
    let below: Vec<Request> = [1, 10, 100, 1000]
        .into_iter()
        .flat_map(|count| (0..count).map(move |number| format!("below.x{count}.{number}")))
        .filter_map(|key| fleet[0].peer.put(&key, VALUE))
        .collect();
    let mut buffer = Buffer::new();
    let mut client = fleet[0].connect(Role::Client, &mut buffer)?;
    fleet[0].ask(&mut client, &Request::joined(middle), &mut buffer)?;
    fleet[0].ask(&mut client, &Request::joined(below), &mut buffer)?;
    let patterns = [
        ("below.x1.*", 1),
        ("below.x10.*", 10),
        ("below.x100.*", 100),
        ("below.x1000.*", 1000),
        ("middle.*.name", 1000),
        ("*.item5", 1),
    ];
    for (pattern, count) in patterns {
        let mut case = case(
            format!("get {pattern}: {count} of {keys} keys"),
            "matches of a wildcard",
            count,
        );
        if !pattern.starts_with("below") {
            case.growth = None;
        }
        bench.compare(
            &case,
            (rounds, &placements),
            &fleet,
            |server| {
                let get = server.peer.get(pattern).into_iter().collect();
                Ok(Some((
                    get,
                    server.connect(Role::Client, &mut Buffer::new())?,
                )))
            },
            |server, (get, client): &mut (Vec<Request>, Connection)| {
                let mut buffer = Buffer::new();
                client.keep_busy(get, time / 10, &mut buffer)?;
                let stopwatch = Stopwatch::start(server.process())?;
                let gets = client.keep_busy(get, time, &mut buffer)?;
                let elapsed = stopwatch.stop()?;
                server.check(&buffer)?;
                Ok(rate(
                    "requests a second",
                    "server time a request",
                    gets,
                    elapsed,
                ))
            },
        )?;
    }
    Ok(())
}

/// nkv alone: puts, with and without many subscribers that have stopped reading. What that does to
/// the others is seen with fewer, among the stalled.
fn lag(bench: &mut Bench) -> io::Result<()> {
    let (rounds, placements) = extent(bench);
    let time = bench.round_time();
    let mut fleet = bench.fleet(Keeping::Memory)?;
    fleet.truncate(1);
    for stalled in [0, STALLED] {
        bench.compare(
            &Case::new(format!("puts with {stalled} stalled subscribers")),
            (rounds, &placements),
            &fleet,
            |server| {
                let topic = fresh_topic();
                let subscribers = server.subscribers(&topic, stalled)?;
                let keys =
                    (0..REQUESTS_MAX / 1024 * DEPTH).map(|at| format!("{topic}.{}", at % 100));
                let puts = keys.filter_map(|key| server.peer.publish_answered(&key, VALUE));
                let puts = joined(&puts.collect::<Vec<_>>());
                let mut client = server.clients(1)?;
                // More than a socket that is not read has room for.
                let large = server
                    .peer
                    .publish_answered(&format!("{topic}.0"), &value_of(1000));
                let large = std::iter::repeat_n(large.unwrap_or_default(), 1000);
                client.send_all(large.map(Cow::Owned))?;
                Ok(Some((puts, client, subscribers)))
            },
            |server, (puts, client, _)| {
                client.keep_busy(puts, time / 10)?;
                let stopwatch = Stopwatch::start(server.process())?;
                let count = client.keep_busy(puts, time)? * DEPTH;
                let elapsed = stopwatch.stop()?;
                Ok(rate("puts a second", "server time a put", count, elapsed))
            },
        )?;
    }
    Ok(())
}
