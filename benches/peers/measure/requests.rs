//! Gets and puts: how many a second, and what each costs the server.
//!
//! A connection sends a batch in one write, reads until all is answered, and sends it again. Each
//! request of a batch, and of each connection, has a key of its own.

use std::io;
use std::time::Duration;

use crate::bench::{Bench, rate};
use crate::connection::{Buffer, Connection, Request, Swarm};
use crate::machine::{Elapsed, Stopwatch};
use crate::measure::VALUE;
use crate::peer::Role;
use crate::results::{Case, Figure};
use crate::server::Server;

/// Connections, and requests in flight on each.
const SHAPES: [(usize, usize); 4] = [(1, 1), (50, 1), (1, 64), (50, 16)];

pub(crate) fn measure(bench: &mut Bench) -> io::Result<()> {
    let fleet = bench.fleet_and_floor()?;
    let time = bench.round_time();
    for (connections, depth) in SHAPES {
        for is_put in [false, true] {
            let name = if is_put { "puts" } else { "gets" };
            let case = Case::new(format!("{name}, {connections} × {depth} in flight"));
            bench.compare(
                &case,
                (bench.options.rounds, &bench.placements()),
                &fleet,
                |server| Load::prepare(server, (connections, depth), is_put, VALUE),
                |server, load| {
                    load.run(time / 10)?;
                    let stopwatch = Stopwatch::start(server.process())?;
                    let count = load.run(time)?;
                    let elapsed = stopwatch.stop()?;
                    load.check(server)?;
                    Ok(request_figures(count, elapsed))
                },
            )?;
        }
    }
    Ok(())
}

fn request_figures(count: usize, elapsed: Elapsed) -> Vec<Figure> {
    rate("requests a second", "server time a request", count, elapsed)
}

/// Connections that are ready to send.
pub(crate) struct Load {
    sender: Sender,
    batches: Vec<Request>,
    depth: usize,
}

enum Sender {
    /// One connection is waited for by reading from it.
    One(Connection, Buffer),
    Many(Swarm),
}

impl Load {
    pub(crate) fn prepare(
        server: &Server,
        (connections, depth): (usize, usize),
        is_put: bool,
        value: &str,
    ) -> io::Result<Option<Load>> {
        let mut buffer = Buffer::new();
        let mut filler = server.connect(Role::Client, &mut buffer)?;
        let mut batches = Vec::new();
        for connection in 0..connections {
            let mut batch = Vec::new();
            for number in 0..depth {
                let key = format!("rate.{connection}.{number}");
                let Some(put) = server.peer.put(&key, value) else {
                    return Ok(None);
                };
                let get = server.peer.get(&key);
                let Some(request) = (if is_put { Some(put.clone()) } else { get }) else {
                    return Ok(None);
                };
                server.ask(&mut filler, &put, &mut buffer)?;
                batch.push(request);
            }
            batches.push(Request::joined(batch));
        }
        let sender = if connections == 1 {
            Sender::One(filler, buffer)
        } else {
            Sender::Many(server.clients(connections)?)
        };
        Ok(Some(Load {
            sender,
            batches,
            depth,
        }))
    }

    /// How many requests were answered.
    pub(crate) fn run(&mut self, time: Duration) -> io::Result<usize> {
        let batches = match &mut self.sender {
            Sender::One(connection, buffer) => connection.keep_busy(&self.batches, time, buffer)?,
            Sender::Many(swarm) => swarm.keep_busy(&self.batches, time)?,
        };
        Ok(batches * self.depth)
    }

    pub(crate) fn check(&self, server: &Server) -> io::Result<()> {
        match &self.sender {
            Sender::One(_, buffer) => server.check(buffer),
            Sender::Many(swarm) => server.check(&swarm.buffer),
        }
    }
}
