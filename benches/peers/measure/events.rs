//! Events: how long they take to one subscriber and to the last of many, and what a flood of them costs.

use std::io;
use std::time::Instant;

use crate::bench::{Bench, rate, shares};
use crate::connection::{Buffer, Connection, Request, Swarm};
use crate::machine::{Elapsed, Stopwatch};
use crate::measure::{VALUE, fresh_topic};
use crate::peer::Role;
use crate::results::{Case, Figure, Unit, quantile};
use crate::server::Server;

/// The puts that a flood sends at once.
const FLOOD_DEPTH: usize = 64;
/// A flood goes over so many keys in turns.
const FLOOD_KEYS: usize = 1024;
/// So many batches of a flood may be on their way to subscribers: enough to keep the server busy, too
/// few for anyone to fall behind so far that events are left out.
const FLOOD_AHEAD: usize = 3;
const FLOOD_SUBSCRIBERS: usize = 100;

pub(crate) fn measure(bench: &mut Bench) -> io::Result<()> {
    let fleet = bench.fleet_and_floor()?;
    put_to_event(bench, &fleet)?;
    for subscribers in [100, 500] {
        put_to_last(bench, &fleet, subscribers)?;
    }
    flood(bench, &fleet)
}

/// From before the put is written until its event is read.
fn put_to_event(bench: &mut Bench, fleet: &[Server]) -> io::Result<()> {
    let times = bench.size(1_000, 20_000);
    bench.compare(
        &Case::new("put to event, 1 subscriber"),
        (bench.options.rounds, &bench.placements()),
        fleet,
        |server| {
            let topic = fresh_topic();
            let key = format!("{topic}.key");
            let Some(put) = server.peer.publish(&key, "1234567890") else {
                return Ok(None);
            };
            let mut buffer = Buffer::new();
            let publisher = server.connect(Role::Publisher, &mut buffer)?;
            let subscriber = server.subscriber(&topic, &mut buffer)?;
            Ok(Some((put, publisher, subscriber, buffer)))
        },
        |server, (put, publisher, subscriber, buffer)| {
            let marks = server.peer.event_marks();
            let times = if server.peer.is_slow() {
                times / 10
            } else {
                times
            };
            let mut once = || -> io::Result<f64> {
                let start = Instant::now();
                publisher.send(put)?;
                subscriber.expect(marks);
                subscriber.settle(buffer)?;
                let latency = start.elapsed().as_secs_f64() * 1e6;
                publisher.settle(buffer)?;
                Ok(latency)
            };
            for _ in 0..times / 10 {
                once()?;
            }
            let stopwatch = Stopwatch::start(server.process())?;
            let latencies = (0..times)
                .map(|_| once())
                .collect::<io::Result<Vec<f64>>>()?;
            Ok(latency_figures(latencies, 1, stopwatch.stop()?))
        },
    )
}

/// From before the put is written until the last of many subscribers has read its event.
fn put_to_last(bench: &mut Bench, fleet: &[Server], subscribers: usize) -> io::Result<()> {
    let times = bench.size(50, 1_000);
    bench.compare(
        &Case::new(format!("put to the last of {subscribers} subscribers")),
        (bench.options.rounds, &bench.placements()),
        fleet,
        |server| {
            let topic = fresh_topic();
            let key = format!("{topic}.key");
            let Some(put) = server.peer.publish(&key, "1234567890") else {
                return Ok(None);
            };
            let crowd = Crowd::gather(server, &topic, subscribers)?;
            Ok(Some((put, crowd)))
        },
        |server, (put, crowd)| {
            let marks = server.peer.event_marks();
            let times = if server.peer.is_slow() {
                times / 10
            } else {
                times
            };
            let mut once = || -> io::Result<f64> {
                let start = Instant::now();
                crowd.publisher.send(put)?;
                crowd.subscribers.expect(0..subscribers, marks);
                crowd.subscribers.settle()?;
                let latency = start.elapsed().as_secs_f64() * 1e6;
                crowd.publisher.settle(&mut crowd.buffer)?;
                Ok(latency)
            };
            for _ in 0..times / 10 {
                once()?;
            }
            let stopwatch = Stopwatch::start(server.process())?;
            let latencies = (0..times)
                .map(|_| once())
                .collect::<io::Result<Vec<f64>>>()?;
            Ok(latency_figures(latencies, subscribers, stopwatch.stop()?))
        },
    )
}

/// One publisher and the subscribers of a topic.
struct Crowd {
    publisher: Connection,
    subscribers: Swarm,
    buffer: Buffer,
}

impl Crowd {
    fn gather(server: &Server, topic: &str, subscribers: usize) -> io::Result<Crowd> {
        let mut buffer = Buffer::new();
        let publisher = server.connect(Role::Publisher, &mut buffer)?;
        Ok(Crowd {
            publisher,
            subscribers: Swarm::new(server.subscribers(topic, subscribers)?)?,
            buffer,
        })
    }
}

/// One publisher puts as fast as its subscribers get the events.
fn flood(bench: &mut Bench, fleet: &[Server]) -> io::Result<()> {
    let time = bench.round_time();
    bench.compare(
        &Case::new(format!("flood of {FLOOD_SUBSCRIBERS} subscribers")),
        (bench.options.rounds, &bench.placements()),
        fleet,
        |server| {
            if !server.peer.can_flood() {
                return Ok(None);
            }
            let topic = fresh_topic();
            let publish = |number: usize| server.peer.publish(&format!("{topic}.{number}"), VALUE);
            let Some(puts) = (0..FLOOD_KEYS).map(publish).collect::<Option<Vec<_>>>() else {
                return Ok(None);
            };
            let batches: Vec<Request> = puts
                .chunks(FLOOD_DEPTH)
                .map(|puts| Request::joined(puts.iter().cloned()))
                .collect();
            // The publisher is waited for along with the others, and comes last.
            let mut all = server.subscribers(&topic, FLOOD_SUBSCRIBERS)?;
            all.push(server.connect(Role::Publisher, &mut Buffer::new())?);
            Ok(Some((batches, Swarm::new(all)?)))
        },
        |server, (batches, swarm)| {
            let marks = server.peer.event_marks() * FLOOD_DEPTH;
            let mut run = |time| -> io::Result<usize> {
                let end = Instant::now() + time;
                let mut sent = 0;
                while Instant::now() < end {
                    let batch = &batches[sent % batches.len()];
                    swarm.send(FLOOD_SUBSCRIBERS, batch)?;
                    swarm.expect(0..FLOOD_SUBSCRIBERS, marks);
                    sent += 1;
                    while swarm.owed() > FLOOD_AHEAD * FLOOD_SUBSCRIBERS * marks {
                        swarm.turn(|_, _| Ok(()))?;
                    }
                }
                swarm.settle()?;
                Ok(sent * FLOOD_DEPTH * FLOOD_SUBSCRIBERS)
            };
            run(time / 10)?;
            let stopwatch = Stopwatch::start(server.process())?;
            let events = run(time)?;
            let elapsed = stopwatch.stop()?;
            Ok(rate(
                "events a second",
                "server time an event",
                events,
                elapsed,
            ))
        },
    )
}

/// For puts that so many subscribers were told.
fn latency_figures(mut latencies: Vec<f64>, subscribers: usize, elapsed: Elapsed) -> Vec<Figure> {
    let events = (latencies.len() * subscribers) as f64;
    latencies.sort_by(f64::total_cmp);
    let quantiles = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];
    let mut figures: Vec<Figure> = quantiles
        .into_iter()
        .filter_map(|(name, part)| {
            let value = quantile(&latencies, part)?;
            Some(Figure::new(name, Unit::Microseconds, value))
        })
        .collect();
    let cost = elapsed.server * 1e6 / events;
    figures.push(Figure::new(
        "server time an event",
        Unit::Microseconds,
        cost,
    ));
    figures.extend(shares(elapsed));
    figures
}
