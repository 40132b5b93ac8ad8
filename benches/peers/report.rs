//! What is said: about the machine, about each case as it is done, and in the end a table and JSON.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::fmt::Write;
use std::fs;
use std::io;
use std::process::Command;

use serde_json::json;

use crate::bench::Bench;
use crate::goals;
use crate::peer::{self, Peer};
use crate::results::{Case, Results, Series, Spread, Unit};

/// Says which programs are compared, and which are not installed.
pub(crate) fn print_programs(peers: &[&'static dyn Peer]) {
    for peer in peers {
        match peer.program() {
            Some(path) => println!("{:<10} {}, {}", peer.name(), version(*peer), path.display()),
            None => println!("{:<10} is not there: left out", peer.name()),
        }
    }
}

/// The first line of what the program says of itself.
fn version(peer: &dyn Peer) -> String {
    let Some(program) = peer.program() else {
        return String::new();
    };
    let output = Command::new(program).arg(peer.version_argument()).output();
    let text = output.map(|output| [output.stdout, output.stderr].concat());
    let text = text.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().next().unwrap_or_default().to_owned()
}

pub(crate) fn print_machine(bench: &Bench) {
    let (cores, load) = (bench.cores, load_average());
    println!("{}, Linux {}", processor(), kernel());
    println!(
        "server on core {}, load on core {}, or both on the first",
        cores.server, cores.load
    );
    println!("others' load now: {load}");
}

fn load_average() -> String {
    fs::read_to_string("/proc/loadavg")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease");
    release.unwrap_or_default().trim().to_owned()
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let cores = text
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    format!("{cores} × {model}")
}

/// Prints all figures of a case: a block for each, in it a line for each system.
pub(crate) fn print_case(results: &Results, case: &Case) {
    let of_case = || results.series.iter().filter(|series| series.case == *case);
    let mut seen = Vec::new();
    for series in of_case() {
        let place = series.cores;
        if seen.contains(&place) {
            continue;
        }
        seen.push(place);
        let comma = if place.is_empty() { "" } else { ", " };
        println!("\n{}{comma}{place}", case.name);
        let mut figures: Vec<&Series> = of_case().filter(|series| series.cores == place).collect();
        figures.sort_by_key(|series| series.unit == Unit::Share);
        print_figures(results, &figures);
    }
}

fn print_figures(results: &Results, figures: &[&Series]) {
    let mut seen = Vec::new();
    for series in figures {
        if seen.contains(&series.what) {
            continue;
        }
        seen.push(series.what);
        let mut all: Vec<&&Series> = figures
            .iter()
            .filter(|other| other.what == series.what)
            .collect();
        all.sort_by_key(|series| place_of(series.peer));
        if series.unit == Unit::Share {
            let shares: Vec<String> = all.into_iter().map(|series| share(series)).collect();
            println!("  {:<30}{}", series.what, shares.join(", "));
            continue;
        }
        println!("  {}", series.what);
        for series in all {
            println!("{}", line(results, series));
        }
    }
}

/// Where a system stands among all.
fn place_of(name: &str) -> usize {
    let place = peer::names().position(|known| known == name);
    place.unwrap_or(usize::MAX)
}

fn share(series: &Series) -> String {
    format!("{} {}", series.peer, series.unit.show(series.median()))
}

fn line(results: &Results, series: &Series) -> String {
    let Some(spread) = series.spread() else {
        return String::new();
    };
    let show = |value| series.unit.show(value);
    let range = format!("{} to {}", show(spread.least), show(spread.most));
    let mut line = format!(
        "    {:<10} {:>10}  {range:>24}",
        series.peer,
        show(spread.median)
    );
    if !series.is_reference()
        && let Some(ratio) = results.ratio(series)
    {
        let verdict = if is_better(series.unit, ratio) {
            ""
        } else {
            "  worse"
        };
        let ratio = show_ratio(ratio);
        let _ = write!(line, "   nkv/{} {ratio}{verdict}", series.peer);
    }
    line
}

fn is_better(unit: Unit, ratio: Spread) -> bool {
    if unit.more_is_better() {
        ratio.median >= 1.0
    } else {
        ratio.median <= 1.0
    }
}

fn show_ratio(ratio: Spread) -> String {
    let digits = if ratio.median < 0.1 { 3 } else { 2 };
    format!(
        "{:.digits$} ({:.digits$} to {:.digits$})",
        ratio.median, ratio.least, ratio.most
    )
}

/// A page in Markdown: what was measured with what, what is wanted, and all medians.
pub(crate) fn page(bench: &Bench) -> String {
    let mut page = "# A run of the benchmark\n\n".to_owned();
    let _ = writeln!(
        page,
        "Written by `cargo bench --bench peers -- --table FILE`, which [performance.md](performance.md) \
         explains. {} rounds{}, on {}, Linux {}; load average in the end: {}.\n",
        bench.options.rounds,
        if bench.options.quick {
            " of the quick mode"
        } else {
            ""
        },
        processor(),
        kernel(),
        load_average(),
    );
    let programs = bench.options.peers.iter().filter_map(|peer| {
        let path = peer.program()?;
        let bytes = fs::metadata(path).map_or(0, |about| about.len());
        Some(format!(
            "- {}: {}, {bytes} bytes\n",
            peer.name(),
            version(*peer)
        ))
    });
    page += &programs.collect::<String>();
    let goals = goals::table(&bench.results);
    if !goals.is_empty() {
        let _ = write!(
            page,
            "\n## What nkv is to reach\n\nThe last column has what the \
             [floor](performance.md#how-it-is-measured) reaches of the same peer's.\n\n{goals}"
        );
    }
    let figures = table(&bench.results);
    let _ = write!(
        page,
        "\n## All figures\n\nMedians of the rounds. The last column has the best of the others, and nkv's \
         figure divided by its, with the least and the most of the rounds.\n\n{figures}"
    );
    page
}

/// A table in Markdown: a line for each figure, a column for each system, and nkv's ratio to the best
/// of the others.
fn table(results: &Results) -> String {
    let peers: Vec<&str> = peer::names()
        .filter(|name| results.series.iter().any(|series| series.peer == *name))
        .collect();
    let mut table = format!("| | cores | {} | nkv/best |\n", peers.join(" | "));
    table += &"| --- ".repeat(peers.len() + 3);
    table += "|\n";
    for ours in &results.series {
        if ours.peer != "nkv" || ours.unit == Unit::Share {
            continue;
        }
        let cells: Vec<String> = peers
            .iter()
            .map(|peer| results.find(ours, peer))
            .map(|series| series.map_or(String::new(), |series| series.unit.show(series.median())))
            .collect();
        let best = results.best_peer(ours);
        let ratio = best.and_then(|best| Some((best, results.ratio(best)?)));
        let ratio = ratio.map_or(String::new(), |(best, ratio)| {
            format!("{} {}", best.peer, show_ratio(ratio))
        });
        let Series {
            case, what, cores, ..
        } = ours;
        let cells = cells.join(" | ");
        let _ = writeln!(
            table,
            "| {}: {what} | {cores} | {cells} | {ratio} |",
            case.name
        );
    }
    table
}

/// All samples, and what they were made with.
pub(crate) fn json(bench: &Bench) -> io::Result<String> {
    let options = &bench.options;
    let programs: serde_json::Map<String, serde_json::Value> = options
        .peers
        .iter()
        .map(|peer| (peer.name().to_owned(), json!(version(*peer))))
        .collect();
    let series: Vec<serde_json::Value> =
        bench.results.series.iter().map(|s| one(bench, s)).collect();
    let all = json!({
        "processor": processor(),
        "kernel": kernel(),
        "load_average_at_the_end": load_average(),
        "quick": options.quick,
        "rounds": options.rounds,
        "programs": programs,
        "series": series,
    });
    Ok(serde_json::to_string_pretty(&all)?)
}

fn one(bench: &Bench, series: &Series) -> serde_json::Value {
    let spread = |spread: Option<Spread>| {
        spread.map(
            |spread| json!({"median": spread.median, "least": spread.least, "most": spread.most}),
        )
    };
    let ratio = (series.peer != "nkv")
        .then(|| bench.results.ratio(series))
        .flatten();
    json!({
        "case": series.case.name,
        "growth": series.case.growth.map(|(with, amount)| json!({"with": with, "amount": amount})),
        "cores": series.cores,
        "figure": series.what,
        "unit": series.unit.name(),
        "system": series.peer,
        "samples": series.samples,
        "spread": spread(series.spread()),
        "nkv_divided_by_this": spread(ratio),
    })
}
