//! Memory: of a server that does nothing, with subscribers that wait, and with keys.
//!
//! **Resident** is all that the process has in memory, of its program and its libraries too. **Private
//! dirty** is what it has written, and so what it costs where its program is shared or can be read
//! again. What the kernel has for sockets is counted for no process.

use std::io;
use std::time::Duration;

use crate::bench::Bench;
use crate::machine::Memory;
use crate::measure::{fill, fresh_topic, value_of};
use crate::peer::Keeping;
use crate::report;
use crate::results::{Case, Figure, Unit};

const SUBSCRIBERS: usize = 500;
const VALUE_BYTES: usize = 100;
/// Until a server has done what it does after a start, or behind a load.
const REST: Duration = Duration::from_millis(300);

pub(crate) fn measure(bench: &mut Bench) -> io::Result<()> {
    // Pages of a program that is not on the disk yet would count as dirty.
    nix::unistd::sync();
    let idle = Case::new("idle");
    let waiting = Case::new(format!("{SUBSCRIBERS} idle subscribers"));
    let keys = bench.size(10_000, 100_000);
    let filled = Case::new(format!("{keys} keys of {VALUE_BYTES} bytes"));
    for _ in 0..bench.few_rounds() {
        for peer in bench.options.peers.clone() {
            let Some(server) = bench.start(peer, Keeping::Memory)? else {
                continue;
            };
            let name = peer.name();
            let rest = || -> io::Result<Memory> {
                std::thread::sleep(REST);
                Memory::of(server.process())
            };
            let before = rest()?;
            bench.results.add(&idle, "", name, whole(before));
            let subscribers = server.subscribers(&fresh_topic(), SUBSCRIBERS)?;
            let figures = more(before, rest()?);
            bench.results.add(&waiting, "", name, figures);
            drop(subscribers);
            drop(server);

            let fresh = bench.start(peer, Keeping::Memory)?;
            let Some(server) = fresh.filter(|server| server.peer.keeps()) else {
                continue;
            };
            fill(&server, keys, &value_of(VALUE_BYTES))?;
            std::thread::sleep(REST);
            let figures = whole(Memory::of(server.process())?);
            bench.results.add(&filled, "", name, figures);
        }
    }
    for case in [idle, waiting, filled] {
        report::print_case(&bench.results, &case);
    }
    Ok(())
}

fn whole(memory: Memory) -> Vec<Figure> {
    vec![
        Figure::new("resident", Unit::Bytes, memory.resident),
        Figure::new("private dirty", Unit::Bytes, memory.private_dirty),
    ]
}

fn more(before: Memory, after: Memory) -> Vec<Figure> {
    let grown = after.private_dirty - before.private_dirty;
    vec![
        Figure::new("resident", Unit::Bytes, after.resident),
        Figure::new("more private dirty than idle", Unit::Bytes, grown),
    ]
}
