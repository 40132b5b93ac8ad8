//! How a comparison goes: all servers up, one awake at a time, round after round.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::machine::{self, Cores, Elapsed};
use crate::peer::{Keeping, Peer};
use crate::results::{Figure, Results, Unit};
use crate::server::Server;

/// What is asked for on the command line.
pub(crate) struct Options {
    pub(crate) rounds: usize,
    /// Smaller and shorter, to see that it works.
    pub(crate) quick: bool,
    pub(crate) peers: Vec<&'static dyn Peer>,
    pub(crate) apart: bool,
    pub(crate) together: bool,
}

/// Which cores the server and the load generator have.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Placement {
    Apart,
    Together,
}

impl Placement {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Placement::Apart => "two cores",
            Placement::Together => "one core",
        }
    }
}

/// What all measures share.
pub(crate) struct Bench {
    pub(crate) options: Options,
    pub(crate) cores: Cores,
    /// Where servers have their directories.
    pub(crate) directory: PathBuf,
    pub(crate) results: Results,
}

impl Bench {
    /// So long is one round of a measure that goes on for a time.
    pub(crate) fn round_time(&self) -> Duration {
        Duration::from_millis(if self.options.quick { 100 } else { 500 })
    }

    pub(crate) fn placements(&self) -> Vec<Placement> {
        let mut placements = Vec::new();
        if self.options.apart && self.cores.server != self.cores.load {
            placements.push(Placement::Apart);
        }
        if self.options.together {
            placements.push(Placement::Together);
        }
        placements
    }

    /// All servers that can do this. They sleep.
    pub(crate) fn fleet(&self, keeping: Keeping) -> io::Result<Vec<Server>> {
        let mut fleet = Vec::new();
        machine::bind_self(self.cores.server)?;
        for peer in &self.options.peers {
            if let Some(server) = Server::start(*peer, keeping, &self.directory)? {
                server.pause()?;
                fleet.push(server);
            }
        }
        machine::bind_self(self.cores.load)?;
        Ok(fleet)
    }

    /// Does the same with each server of the fleet in turn, in each placement, several rounds, and
    /// keeps the figures. `prepare` is done once for a placement; None leaves the server out.
    pub(crate) fn compare<T>(
        &mut self,
        case: &str,
        fleet: &[Server],
        mut prepare: impl FnMut(&Server) -> io::Result<Option<T>>,
        mut once: impl FnMut(&Server, &mut T) -> io::Result<Vec<Figure>>,
    ) -> io::Result<()> {
        for placement in self.placements() {
            let mut entrants = Vec::new();
            for server in fleet {
                self.place(server, placement)?;
                server.go_on()?;
                let prepared = prepare(server).map_err(|error| in_case(case, server, &error))?;
                server.pause()?;
                entrants.extend(prepared.map(|prepared| (server, prepared)));
            }
            for _ in 0..self.options.rounds {
                // Another is first each time, in case that matters.
                let first = 1.min(entrants.len());
                entrants.rotate_left(first);
                for (server, prepared) in &mut entrants {
                    server.go_on()?;
                    let figures =
                        once(server, prepared).map_err(|error| in_case(case, server, &error))?;
                    server.pause()?;
                    let name = server.peer.name();
                    self.results.add(case, placement.name(), name, figures);
                }
            }
            // They say good-bye to a server that listens.
            for (server, prepared) in entrants {
                server.go_on()?;
                drop(prepared);
                server.pause()?;
            }
        }
        crate::report::print_case(&self.results, case);
        Ok(())
    }

    fn place(&self, server: &Server, placement: Placement) -> io::Result<()> {
        let load = match placement {
            Placement::Apart => self.cores.load,
            Placement::Together => self.cores.server,
        };
        machine::bind_self(load)?;
        server.bind(self.cores.server)
    }
}

fn in_case(case: &str, server: &Server, error: &io::Error) -> io::Error {
    io::Error::other(format!("{case}: {}: {error}", server.peer.name()))
}

/// What so many of something have cost.
pub(crate) fn rate(
    what: &'static str,
    cost: &'static str,
    count: f64,
    elapsed: Elapsed,
) -> Vec<Figure> {
    let mut figures = vec![
        Figure::new(what, Unit::PerSecond, count / elapsed.wall),
        Figure::new(cost, Unit::Microseconds, elapsed.server * 1e6 / count),
    ];
    figures.extend(shares(elapsed));
    figures
}

/// How busy the server and the load generator were.
pub(crate) fn shares(elapsed: Elapsed) -> [Figure; 2] {
    [
        Figure::new(
            "server's share of a core",
            Unit::Share,
            elapsed.server / elapsed.wall,
        ),
        Figure::new(
            "load's share of a core",
            Unit::Share,
            elapsed.load / elapsed.wall,
        ),
    ]
}
