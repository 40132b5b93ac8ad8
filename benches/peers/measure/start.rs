//! The start, from before the program is executed until a first request is answered; and what there
//! is to be loaded.
//!
//! The load generator tries without a pause, on its own core, so that no time is lost. Programs have
//! been read from the disk before.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;

use crate::bench::Bench;
use crate::machine;
use crate::peer::{Keeping, Peer};
use crate::report;
use crate::results::{Case, Figure, Unit};
use crate::server::Server;

pub(crate) fn measure(bench: &mut Bench) -> io::Result<()> {
    let started = Case::new("start");
    let size = Case::new("size");
    let rounds = bench.options.rounds * bench.size(1, 3);
    for round in 0..=rounds {
        for peer in bench.options.peers.clone() {
            let Some((server, milliseconds)) = start(bench, peer)? else {
                continue;
            };
            // The first has read the program from the disk.
            if round == 0 {
                bench.results.add(&size, "", peer.name(), sizes(&server)?);
            } else {
                let what = "from exec to the first answer";
                let figure = Figure::new(what, Unit::Milliseconds, milliseconds);
                bench.results.add(&started, "", peer.name(), vec![figure]);
            }
        }
    }
    for case in [started, size] {
        report::print_case(&bench.results, &case);
    }
    Ok(())
}

fn start(bench: &Bench, peer: &'static dyn Peer) -> io::Result<Option<(Server, f64)>> {
    let directory = tempfile::tempdir_in(&bench.memory)?;
    machine::bind_self(bench.cores.server)?;
    let server = Server::launch(peer, Keeping::Memory, directory.path(), &[])?;
    machine::bind_self(bench.cores.load)?;
    let Some(mut server) = server else {
        return Ok(None);
    };
    let time = server.wait_for_answer(std::thread::yield_now)?;
    Ok(Some((server, time.as_secs_f64() * 1e3)))
}

/// Of the program, and of the libraries that it has mapped.
fn sizes(server: &Server) -> io::Result<Vec<Figure>> {
    let process = server.process();
    let program = fs::read_link(format!("/proc/{process}/exe"))?;
    let maps = fs::read_to_string(format!("/proc/{process}/maps"))?;
    let files: BTreeSet<PathBuf> = maps
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .map(PathBuf::from)
        .filter(|path| *path != program && path.to_string_lossy().contains(".so"))
        .collect();
    let length = |path: &PathBuf| fs::metadata(path).map_or(0.0, |about| about.len() as f64);
    let libraries: f64 = files.iter().map(length).sum();
    Ok(vec![
        Figure::new("program", Unit::Bytes, length(&program)),
        Figure::new(
            "program and libraries",
            Unit::Bytes,
            length(&program) + libraries,
        ),
    ])
}
