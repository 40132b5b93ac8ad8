//! How a comparison goes: all servers up, one awake at a time, round after round.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::machine::{self, Cores, Elapsed};
use crate::peer::{self, Keeping, Peer};
use crate::report;
use crate::results::{Case, Figure, Results, Unit};
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
    /// Where servers that keep nothing have their directories: in memory where there is `/dev/shm`.
    pub(crate) memory: PathBuf,
    /// Where the others have them.
    pub(crate) disk: PathBuf,
    pub(crate) results: Results,
}

impl Bench {
    /// So long is one round of a measure that goes on for a time.
    pub(crate) fn round_time(&self) -> Duration {
        Duration::from_millis(if self.options.quick { 60 } else { 500 })
    }

    /// The rounds of measures that take long, or hardly vary.
    pub(crate) fn few_rounds(&self) -> usize {
        self.options
            .rounds
            .min(if self.options.quick { 1 } else { 3 })
    }

    /// One of two, for the quick mode and else.
    pub(crate) fn size<T>(&self, quick: T, full: T) -> T {
        if self.options.quick { quick } else { full }
    }

    /// Both, or those that are asked for and possible.
    pub(crate) fn placements(&self) -> Vec<Placement> {
        let has_two = self.cores.server != self.cores.load;
        let mut placements = Vec::new();
        if self.options.apart && has_two {
            placements.push(Placement::Apart);
        }
        if self.options.together || !has_two {
            placements.push(Placement::Together);
        }
        placements
    }

    /// Cores of their own if possible, where one placement is enough.
    pub(crate) fn placement(&self) -> Vec<Placement> {
        self.placements().into_iter().take(1).collect()
    }

    /// One core for both if that is not ruled out.
    pub(crate) fn one_core(&self) -> Vec<Placement> {
        self.placements().pop().into_iter().collect()
    }

    /// Binds the load generator, and says the core for the server.
    pub(crate) fn bind_load(&self, placement: Placement) -> io::Result<usize> {
        machine::bind_self(match placement {
            Placement::Apart => self.cores.load,
            Placement::Together => self.cores.server,
        })?;
        Ok(self.cores.server)
    }

    pub(crate) fn place_for(&self, keeping: Keeping) -> &Path {
        match keeping {
            Keeping::Memory => &self.memory,
            Keeping::Durable => &self.disk,
        }
    }

    /// Starts a server on the servers' core.
    pub(crate) fn start(
        &self,
        peer: &'static dyn Peer,
        keeping: Keeping,
    ) -> io::Result<Option<Server>> {
        machine::bind_self(self.cores.server)?;
        let server = Server::start(peer, keeping, self.place_for(keeping));
        machine::bind_self(self.cores.load)?;
        server
    }

    /// All servers that can do this. They sleep.
    pub(crate) fn fleet(&self, keeping: Keeping) -> io::Result<Vec<Server>> {
        let mut fleet = Vec::new();
        let peers = self.options.peers.iter();
        for peer in peers.filter(|peer| !peer::is_variant(**peer)) {
            if let Some(server) = self.start(*peer, keeping)? {
                server.pause()?;
                fleet.push(server);
            }
        }
        Ok(fleet)
    }

    /// All servers that keep nothing on the disk, and the floor. They sleep.
    pub(crate) fn fleet_and_floor(&self) -> io::Result<Vec<Server>> {
        let mut fleet = self.fleet(Keeping::Memory)?;
        if let Some(floor) = self.start(peer::FLOOR, Keeping::Memory)? {
            floor.pause()?;
            fleet.push(floor);
        }
        Ok(fleet)
    }

    /// Does the same with each server of the fleet in turn, in each placement, so many rounds, and
    /// keeps the figures. `prepare` is done once for a placement; None leaves the server out.
    pub(crate) fn compare<T>(
        &mut self,
        case: &Case,
        (rounds, placements): (usize, &[Placement]),
        fleet: &[Server],
        mut prepare: impl FnMut(&Server) -> io::Result<Option<T>>,
        mut once: impl FnMut(&Server, &mut T) -> io::Result<Vec<Figure>>,
    ) -> io::Result<()> {
        for placement in placements {
            let core = self.bind_load(*placement)?;
            let mut entrants = Vec::new();
            for server in fleet {
                server.bind(core)?;
                server.go_on()?;
                let prepared = prepare(server).map_err(|error| at(case, server, &error))?;
                server.pause()?;
                entrants.extend(prepared.map(|prepared| (server, prepared)));
            }
            for _ in 0..rounds {
                for (server, prepared) in &mut entrants {
                    server.go_on()?;
                    let figures =
                        once(server, prepared).map_err(|error| at(case, server, &error))?;
                    server.pause()?;
                    let name = server.peer.name();
                    self.results.add(case, placement.name(), name, figures);
                }
                // Another is first the next time, in case that matters.
                let first = 1.min(entrants.len());
                entrants.rotate_left(first);
            }
            // They say good-bye to a server that listens.
            for (server, prepared) in entrants {
                server.go_on()?;
                drop(prepared);
                server.pause()?;
            }
        }
        report::print_case(&self.results, case);
        Ok(())
    }
}

/// An error that says where it has happened.
pub(crate) fn at(case: &Case, server: &Server, error: &io::Error) -> io::Error {
    io::Error::other(format!("{}: {}: {error}", case.name, server.peer.name()))
}

/// What so many of something have cost.
pub(crate) fn rate(
    what: &'static str,
    cost: &'static str,
    count: usize,
    elapsed: Elapsed,
) -> Vec<Figure> {
    let count = count as f64;
    let mut figures = vec![
        Figure::new(what, Unit::PerSecond, count / elapsed.wall),
        Figure::new(cost, Unit::Microseconds, elapsed.server * 1e6 / count),
    ];
    figures.extend(shares(elapsed));
    figures
}

/// How busy the server and the load generator were.
pub(crate) fn shares(elapsed: Elapsed) -> [Figure; 2] {
    let share = |what, time| Figure::new(what, Unit::Share, time / elapsed.wall);
    [
        share("server's share of a core", elapsed.server),
        share("load's share of a core", elapsed.load),
    ]
}
