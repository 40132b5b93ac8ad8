//! What nkv is to reach, and whether it did in this run.
//!
//! A goal is a bound for a figure of nkv's: an amount, or a part of the best peer's, or of nkv's own in
//! another case. One whose figure was not measured is not spoken of.

use std::fmt::Write;

use crate::results::{Results, Series};

enum Bound {
    /// At most so much, in the figure's unit.
    AtMost(f64),
    /// At least so much.
    AtLeast(f64),
    /// At most so much of the best peer's, or at least where more is better.
    OfBest(f64),
    /// The same of one peer's.
    Of(&'static str, f64),
    /// At most so much of nkv's own figure in this case.
    OfCase(&'static str, f64),
}

struct Goal {
    case: &'static str,
    what: &'static str,
    bound: Bound,
}

const fn goal(case: &'static str, what: &'static str, bound: Bound) -> Goal {
    Goal { case, what, bound }
}

const RATE: &str = "requests a second";
const TIME: &str = "server time a request";
const STALLED: &str = "100000 puts of 1 KB over 100 keys, 100 subscribers don't read";
const MIB: f64 = 1024.0 * 1024.0;

const GOALS: [Goal; 26] = [
    goal("gets, 50 × 16 in flight", RATE, Bound::Of("redis", 1.0)),
    goal("puts, 50 × 16 in flight", RATE, Bound::Of("redis", 1.0)),
    goal("gets, 1 × 64 in flight", RATE, Bound::OfBest(1.0)),
    goal("puts, 1 × 64 in flight", RATE, Bound::OfBest(1.0)),
    goal("gets, 1 × 1 in flight", RATE, Bound::OfBest(1.0)),
    goal("puts, 1 × 1 in flight", RATE, Bound::OfBest(1.0)),
    goal("put to event, 1 subscriber", "p50", Bound::OfBest(0.9)),
    goal(
        "put to the last of 500 subscribers",
        "p50",
        Bound::OfBest(0.8),
    ),
    goal(
        "put to the last of 500 subscribers",
        "p99",
        Bound::OfBest(0.8),
    ),
    goal(
        "flood of 100 subscribers",
        "server time an event",
        Bound::Of("redis", 1.0),
    ),
    goal("idle", "resident", Bound::AtMost(0.5 * MIB)),
    goal(
        "500 idle subscribers",
        "more private dirty than idle",
        Bound::AtMost(MIB),
    ),
    goal(
        "100000 keys of 100 bytes",
        "resident",
        Bound::AtMost(24.0 * MIB),
    ),
    goal("size", "program", Bound::AtMost(700.0 * 1024.0)),
    goal("start", "from exec to the first answer", Bound::AtMost(1.5)),
    goal(STALLED, "memory grows by", Bound::AtMost(MIB)),
    goal(
        STALLED,
        "of the puts a second are left",
        Bound::AtLeast(0.9),
    ),
    goal(STALLED, "disconnected", Bound::AtMost(0.0)),
    goal(STALLED, "never have all last values", Bound::AtMost(0.0)),
    goal(
        STALLED,
        "most events until one has all last values",
        Bound::AtMost(300.0),
    ),
    // A thousand times the keys, and twice their logarithm.
    goal(
        "puts among 1000000 keys",
        TIME,
        Bound::OfCase("puts among 1000 keys", 2.0),
    ),
    goal(
        "a put, 10000 subscriptions of which 10 match",
        "server time a put",
        Bound::OfCase("a put, 10 subscriptions of which 10 match", 2.0),
    ),
    // As much again for what two runs of the same differ by.
    goal(
        "puts with 500 stalled subscribers",
        "server time a put",
        Bound::OfCase("puts with 0 stalled subscribers", 1.1),
    ),
    // Ten times the matches, and an answer that takes more than one turn to be sent.
    goal(
        "get below.x1000.*: 1000 of 100000 keys",
        TIME,
        Bound::OfCase("get below.x100.*: 100 of 100000 keys", 12.0),
    ),
    goal(
        "get middle.*.name: 1000 of 100000 keys",
        TIME,
        Bound::OfCase("get below.x1000.*: 1000 of 100000 keys", 2.0),
    ),
    // It has to look below each of 97 first segments.
    goal(
        "get *.item5: 1 of 100000 keys",
        TIME,
        Bound::OfCase("get below.x1.*: 1 of 100000 keys", 20.0),
    ),
];

/// A table in Markdown; empty where nothing was measured that has a goal.
pub(crate) fn table(results: &Results) -> String {
    let mut lines = String::new();
    for goal in &GOALS {
        for ours in subjects(results, goal) {
            if let Some(judgement) = judge(results, ours, &goal.bound) {
                let Series {
                    case,
                    what,
                    cores,
                    peer,
                    ..
                } = ours;
                let Judgement {
                    measured,
                    wanted,
                    holds,
                    floor,
                } = judgement;
                let verdict = if holds { "yes" } else { "**no**" };
                let _ = writeln!(
                    lines,
                    "| {peer}, {}: {what} | {cores} | {wanted} | {measured} | {verdict} | {floor} |",
                    case.name
                );
            }
        }
    }
    if lines.is_empty() {
        return lines;
    }
    format!(
        "| goal | cores | wanted | measured | holds | floor |\n\
         | --- | --- | --- | --- | --- | --- |\n{lines}"
    )
}

/// What is judged: nkv on one core and on two; the static program where that was measured too.
fn subjects<'a>(results: &'a Results, goal: &Goal) -> Vec<&'a Series> {
    let of = |peer: &str| -> Vec<&'a Series> {
        let series = results.series.iter();
        let matching = series.filter(|series| {
            (series.case.name.as_str(), series.what, series.peer) == (goal.case, goal.what, peer)
        });
        matching.collect()
    };
    let of_static = of("nkv-static");
    if of_static.is_empty() {
        of("nkv")
    } else {
        of_static
    }
}

struct Judgement {
    measured: String,
    wanted: String,
    holds: bool,
    /// The floor's ratio to the same peer, where there is one.
    floor: String,
}

impl Judgement {
    fn new(measured: String, wanted: String, holds: bool) -> Judgement {
        Judgement {
            measured,
            wanted,
            holds,
            floor: String::new(),
        }
    }
}

fn judge(results: &Results, ours: &Series, bound: &Bound) -> Option<Judgement> {
    let show = |value| ours.unit.show(value);
    let median = ours.median();
    match *bound {
        Bound::AtMost(most) => {
            let wanted = format!("at most {}", show(most));
            Some(Judgement::new(show(median), wanted, median <= most))
        }
        Bound::AtLeast(least) => {
            let wanted = format!("at least {}", show(least));
            Some(Judgement::new(show(median), wanted, median >= least))
        }
        Bound::OfBest(part) => against(results, ours, results.best_peer(ours)?, part),
        Bound::Of(peer, part) => against(results, ours, results.find(ours, peer)?, part),
        Bound::OfCase(case, part) => {
            let other = results.series.iter().find(|series| {
                (series.case.name.as_str(), series.what) == (case, ours.what)
                    && (series.peer, series.cores) == ("nkv", ours.cores)
            })?;
            let ratio = median / other.median();
            let wanted = format!("at most {part} of {case}");
            Some(Judgement::new(format!("{ratio:.2}"), wanted, ratio <= part))
        }
    }
}

fn against(results: &Results, ours: &Series, theirs: &Series, part: f64) -> Option<Judgement> {
    let ratio = results.ratio(theirs)?;
    let (bound, holds) = if ours.unit.more_is_better() {
        ("at least", ratio.median >= part)
    } else {
        ("at most", ratio.median <= part)
    };
    let measured = format!(
        "{:.2} ({:.2} to {:.2})",
        ratio.median, ratio.least, ratio.most
    );
    let floor = results.ratio_of("floor", theirs);
    Some(Judgement {
        measured,
        wanted: format!("{bound} {part} of {}", theirs.peer),
        holds,
        floor: floor.map_or(String::new(), |floor| format!("{:.2}", floor.median)),
    })
}
