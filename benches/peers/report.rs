//! The table.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use crate::results::{Results, Series, Spread, Unit};

/// Prints all figures of a case: a block for each, in it a line for each system.
pub(crate) fn print_case(results: &Results, case: &str) {
    let of_case: Vec<&Series> = results
        .series
        .iter()
        .filter(|series| series.case == case)
        .collect();
    let mut seen = Vec::new();
    for series in &of_case {
        let place = series.cores;
        if seen.contains(&place) {
            continue;
        }
        seen.push(place);
        let here = of_case.iter().filter(|series| series.cores == place);
        println!("\n{case}, {place}");
        let mut figures: Vec<&Series> = here.copied().collect();
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
        let all = figures.iter().filter(|other| other.what == series.what);
        if series.unit == Unit::Share {
            let shares: Vec<String> = all.map(|series| share(series)).collect();
            println!("  {:<28}{}", series.what, shares.join(", "));
            continue;
        }
        println!("  {}", series.what);
        for series in all {
            println!("{}", line(results, series));
        }
    }
}

fn share(series: &Series) -> String {
    let median = Spread::of(series.samples.iter().copied()).map_or(0.0, |spread| spread.median);
    format!("{} {}", series.peer, series.unit.show(median))
}

fn line(results: &Results, series: &Series) -> String {
    let Some(spread) = Spread::of(series.samples.iter().copied()) else {
        return String::new();
    };
    let show = |value| series.unit.show(value);
    let range = format!("{} to {}", show(spread.least), show(spread.most));
    let mut line = format!(
        "    {:<10} {:>10}  {range:>24}",
        series.peer,
        show(spread.median)
    );
    if series.peer != "nkv"
        && let Some(ratio) = results.ratio(series)
    {
        let is_better = if series.unit.more_is_better() {
            ratio.median >= 1.0
        } else {
            ratio.median <= 1.0
        };
        line += &format!(
            "   nkv/{} {:.2} ({:.2} to {:.2}) {}",
            series.peer,
            ratio.median,
            ratio.least,
            ratio.most,
            if is_better { "" } else { "worse" }
        );
    }
    line.trim_end().to_owned()
}
