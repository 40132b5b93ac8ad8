//! Puts that are on stable storage when they are answered, on the disk of the build directory.
//!
//! Each writer sends its next put when it has the answer to the last one. Beside the systems stands the
//! disk: a loop that does nothing but append the value to a file and sync it.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::bench::{Bench, rate};
use crate::machine::Stopwatch;
use crate::measure::requests::Load;
use crate::measure::value_of;
use crate::peer::Keeping;
use crate::report;
use crate::results::{Case, Figure, Unit};

const VALUE_BYTES: usize = 100;

pub(crate) fn measure(bench: &mut Bench) -> io::Result<()> {
    let fleet = bench.fleet(Keeping::Durable)?;
    let time = bench.round_time();
    let value = value_of(VALUE_BYTES);
    let placements = bench.placement();
    for writers in [1, 50] {
        let case = Case::new(format!("durable puts, {writers} at a time"));
        bench.compare(
            &case,
            (bench.options.rounds, &placements),
            &fleet,
            |server| Load::prepare(server, (writers, 1), true, &value),
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
    let case = Case::new("a line appended and synced");
    for _ in 0..bench.options.rounds {
        let appends = appends_a_second(&bench.disk, &value, time)?;
        let figure = Figure::new("requests a second", Unit::PerSecond, appends);
        bench.results.add(&case, "", "the disk", vec![figure]);
    }
    report::print_case(&bench.results, &case);
    Ok(())
}

fn appends_a_second(disk: &Path, line: &str, time: Duration) -> io::Result<f64> {
    let mut file: File = tempfile::tempfile_in(disk)?;
    let start = Instant::now();
    let mut appends = 0;
    while start.elapsed() < time {
        file.write_all(line.as_bytes())?;
        file.sync_data()?;
        appends += 1;
    }
    Ok(f64::from(appends) / start.elapsed().as_secs_f64())
}
