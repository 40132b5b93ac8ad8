//! The picture, an SVG: how many times better or worse nkv is than each peer, and how costs grow.
//!
//! It has no width of its own but a shape, takes its colours from the reader's light or dark mode, and
//! tells systems apart by form as well as by colour.

use std::fmt::Write;

use crate::results::{Results, Series, Spread};

const WIDTH: f64 = 860.0;
/// Where the axis of the ratios begins.
const LABELS_WIDTH: f64 = 300.0;
const MARGIN: f64 = 24.0;
const ROW_HEIGHT: f64 = 24.0;
const HEAD_HEIGHT: f64 = 92.0;
const PANEL_HEIGHT: f64 = 230.0;
/// Ratios beyond these are drawn at the edge.
const RATIO_LOW: f64 = 0.25;
const RATIO_HIGH: f64 = 64.0;

/// A line of the upper part: what it is called, and where its figure is.
struct Row {
    label: &'static str,
    case: &'static str,
    cores: &'static str,
    what: &'static str,
}

const fn row(
    label: &'static str,
    case: &'static str,
    cores: &'static str,
    what: &'static str,
) -> Row {
    Row {
        label,
        case,
        cores,
        what,
    }
}

const TWO: &str = "two cores";
const ONE: &str = "one core";
const RATE: &str = "requests a second";
const TIME: &str = "server time a request";

const ROWS: [Row; 24] = [
    row(
        "gets a second, one at a time",
        "gets, 1 × 1 in flight",
        TWO,
        RATE,
    ),
    row(
        "puts a second, one at a time",
        "puts, 1 × 1 in flight",
        TWO,
        RATE,
    ),
    row(
        "gets a second, 50 connections",
        "gets, 50 × 1 in flight",
        TWO,
        RATE,
    ),
    row(
        "puts a second, 50 connections",
        "puts, 50 × 1 in flight",
        TWO,
        RATE,
    ),
    row(
        "gets a second, 1 × 64 in flight",
        "gets, 1 × 64 in flight",
        TWO,
        RATE,
    ),
    row(
        "puts a second, 1 × 64 in flight",
        "puts, 1 × 64 in flight",
        TWO,
        RATE,
    ),
    row(
        "gets a second, 50 × 16 in flight",
        "gets, 50 × 16 in flight",
        TWO,
        RATE,
    ),
    row(
        "puts a second, 50 × 16 in flight",
        "puts, 50 × 16 in flight",
        TWO,
        RATE,
    ),
    row(
        "server time a get, 50 × 16",
        "gets, 50 × 16 in flight",
        TWO,
        TIME,
    ),
    row(
        "server time a put, 50 × 16",
        "puts, 50 × 16 in flight",
        TWO,
        TIME,
    ),
    row(
        "put to event, p50, one core",
        "put to event, 1 subscriber",
        ONE,
        "p50",
    ),
    row(
        "put to event, p99, one core",
        "put to event, 1 subscriber",
        ONE,
        "p99",
    ),
    row(
        "to the last of 100, p50, one core",
        "put to the last of 100 subscribers",
        ONE,
        "p50",
    ),
    row(
        "to the last of 500, p50, one core",
        "put to the last of 500 subscribers",
        ONE,
        "p50",
    ),
    row(
        "to the last of 500, p99, one core",
        "put to the last of 500 subscribers",
        ONE,
        "p99",
    ),
    row(
        "server time an event in a flood",
        "flood of 100 subscribers",
        TWO,
        "server time an event",
    ),
    row("memory when idle", "idle", "", "resident"),
    row(
        "memory with 500 subscribers",
        "500 idle subscribers",
        "",
        "resident",
    ),
    row(
        "memory with 100,000 keys",
        "100000 keys of 100 bytes",
        "",
        "resident",
    ),
    row("size of the program", "size", "", "program"),
    row(
        "start to the first answer",
        "start",
        "",
        "from exec to the first answer",
    ),
    row(
        "durable puts a second, one at a time",
        "durable puts, 1 at a time",
        TWO,
        RATE,
    ),
    row(
        "durable puts a second, 50 writers",
        "durable puts, 50 at a time",
        TWO,
        RATE,
    ),
    row(
        "puts a second behind 100 that don't read",
        "100000 puts of 1 KB over 100 keys, 100 subscribers don't read",
        TWO,
        "puts a second behind them",
    ),
];

/// A drawing of the lower part: the cost of something, over how much there is of something else.
struct Panel {
    title: &'static str,
    with: &'static str,
    cases: &'static str,
    what: &'static str,
}

const PANELS: [Panel; 4] = [
    Panel {
        title: "a put, by keys, µs",
        with: "keys",
        cases: "puts",
        what: "server time a request",
    },
    Panel {
        title: "a put, by subscriptions, µs",
        with: "subscriptions",
        cases: "a put",
        what: "server time a put",
    },
    Panel {
        title: "a put, by the bytes of its value, µs",
        with: "bytes of the value",
        cases: "puts",
        what: "server time a request",
    },
    Panel {
        title: "a get with a wildcard, by matches, µs",
        with: "matches of a wildcard",
        cases: "get",
        what: "server time a request",
    },
];

/// For light and for dark: paper, ink, soft ink, grid, what is behind the worse.
const SHADES: [[&str; 5]; 2] = [
    ["#ffffff", "#222222", "#666666", "#dddddd", "#f6efe9"],
    ["#14171c", "#e6e6e6", "#9aa0a8", "#333a44", "#221d1a"],
];

/// The colours of the systems, for light and for dark.
const COLOURS: [(&str, [&str; 2]); 5] = [
    ("nkv", ["#1d4ed8", "#79a8ff"]),
    ("redis", ["#c2261b", "#ff7b6e"]),
    ("nats", ["#0b8457", "#4fd39b"]),
    ("mosquitto", ["#b86a00", "#f5b14c"]),
    ("etcd", ["#7c3aed", "#b794ff"]),
];

fn style(svg: &mut String) {
    svg.push_str(
        "<style>\nsvg { font: 13px system-ui, sans-serif }\n.soft { font-size: 12px }\n\
         .title { font-size: 16px; font-weight: 600 }\n.one { stroke-width: 1.5 }\n\
         .line { fill: none; stroke-width: 2 }\n.range { stroke-width: 2; opacity: .45 }\n",
    );
    for (mode, [paper, ink, soft, grid, worse]) in SHADES.iter().enumerate() {
        if mode == 1 {
            svg.push_str("@media (prefers-color-scheme: dark) {\n");
        }
        let _ = writeln!(
            svg,
            ".paper {{ fill: {paper} }} text {{ fill: {ink} }} .soft {{ fill: {soft} }} \
             .grid {{ stroke: {grid} }} .one {{ stroke: {ink} }} .worse {{ fill: {worse} }}"
        );
        for (name, colours) in COLOURS {
            let colour = colours[mode];
            let _ = writeln!(
                svg,
                ".{name} .mark {{ fill: {colour} }} \
                 .{name} .line, .{name} .range {{ stroke: {colour} }}"
            );
        }
    }
    svg.push_str("}\n</style>\n");
}

/// A logarithmic axis.
struct Axis {
    low: f64,
    high: f64,
    start: f64,
    end: f64,
}

impl Axis {
    fn place(&self, value: f64) -> f64 {
        let part = (value.clamp(self.low, self.high) / self.low).ln() / (self.high / self.low).ln();
        self.start + part * (self.end - self.start)
    }

    /// The powers of ten on it.
    fn tens(&self) -> impl Iterator<Item = f64> {
        let powers = (-3..=9).map(|power| 10_f64.powi(power));
        let (low, high) = (self.low * 0.999, self.high * 1.001);
        powers.filter(move |value| (low..=high).contains(value))
    }
}

pub(crate) fn draw(results: &Results) -> String {
    let rows: Vec<(&Row, &Series)> = ROWS
        .iter()
        .filter_map(|row| Some((row, ours(results, row)?)))
        .collect();
    let panels: Vec<&Panel> = PANELS
        .iter()
        .filter(|panel| panel_lines(results, panel).next().is_some())
        .collect();
    let ratios_end = HEAD_HEIGHT + rows.len() as f64 * ROW_HEIGHT;
    let panels_start = if rows.is_empty() {
        HEAD_HEIGHT + 8.0
    } else {
        ratios_end + 60.0
    };
    let height = panels_start + panels.len().div_ceil(2) as f64 * PANEL_HEIGHT;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"nkv beside its peers\">\n"
    );
    style(&mut svg);
    let _ = writeln!(
        svg,
        "<rect class=\"paper\" width=\"{WIDTH}\" height=\"{height}\"/>"
    );
    legend(&mut svg, results);
    if !rows.is_empty() {
        ratio_axis(&mut svg, ratios_end);
    }
    for (at, (row, series)) in rows.into_iter().enumerate() {
        ratio_row(
            &mut svg,
            results,
            row,
            series,
            HEAD_HEIGHT + (at as f64 + 0.5) * ROW_HEIGHT,
        );
    }
    if !panels.is_empty() {
        text(
            &mut svg,
            (MARGIN, panels_start - 12.0),
            "title",
            "start",
            "How the server's time grows",
        );
    }
    for (at, panel) in panels.into_iter().enumerate() {
        let left = if at % 2 == 0 { 0.0 } else { WIDTH / 2.0 };
        let top = panels_start + (at / 2) as f64 * PANEL_HEIGHT;
        draw_panel(&mut svg, results, panel, (left, top));
    }
    svg + "</svg>\n"
}

fn ours<'a>(results: &'a Results, row: &Row) -> Option<&'a Series> {
    results.series.iter().find(|series| {
        (series.peer, series.cores, series.what) == ("nkv", row.cores, row.what)
            && series.case.name == row.case
    })
}

/// The systems that there are figures of, with a mark for each.
fn legend(svg: &mut String, results: &Results) {
    text(
        svg,
        (MARGIN, 30.0),
        "title",
        "start",
        "nkv beside its peers",
    );
    let mut x = MARGIN + 8.0;
    for peer in crate::peer::ALL {
        let name = peer.name();
        if !crate::peer::is_variant(peer) && results.series.iter().any(|series| series.peer == name)
        {
            mark(svg, name, (x, 52.0));
            text(svg, (x + 12.0, 56.0), "", "start", name);
            x += 90.0;
        }
    }
}

fn ratio_axis(svg: &mut String, end: f64) {
    let axis = ratios();
    let one = axis.place(1.0);
    let (top, height) = (HEAD_HEIGHT, end - HEAD_HEIGHT);
    let _ = writeln!(
        svg,
        "<rect class=\"worse\" x=\"{LABELS_WIDTH}\" y=\"{top}\" width=\"{:.1}\" height=\"{height:.1}\"/>",
        one - LABELS_WIDTH
    );
    for value in [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0] {
        let x = axis.place(value);
        let class = if value == 1.0 { "one" } else { "grid" };
        line(svg, class, (x, top), (x, end));
        let label = if value < 1.0 {
            format!("1/{}", 1.0 / value)
        } else {
            format!("{value}×")
        };
        text(svg, (x, end + 16.0), "soft", "middle", &label);
    }
    text(svg, (one - 8.0, top - 8.0), "soft", "end", "nkv is worse");
    text(
        svg,
        (one + 8.0, top - 8.0),
        "soft",
        "start",
        "nkv is better, so many times",
    );
}

fn ratios() -> Axis {
    Axis {
        low: RATIO_LOW,
        high: RATIO_HIGH,
        start: LABELS_WIDTH,
        end: WIDTH - MARGIN,
    }
}

fn ratio_row(svg: &mut String, results: &Results, row: &Row, ours: &Series, y: f64) {
    text(svg, (LABELS_WIDTH - 12.0, y + 4.0), "", "end", row.label);
    let axis = ratios();
    line(svg, "grid", (LABELS_WIDTH, y), (WIDTH - MARGIN, y));
    for peer in crate::peer::ALL {
        let name = peer.name();
        let series = results.find(ours, name).filter(|_| !peer.is_nkv());
        let Some(ratio) = series.and_then(|series| results.ratio(series)) else {
            continue;
        };
        let Spread {
            median,
            least,
            most,
        } = if ours.unit.more_is_better() {
            ratio
        } else {
            Spread {
                median: 1.0 / ratio.median,
                least: 1.0 / ratio.most,
                most: 1.0 / ratio.least,
            }
        };
        let ends = [least, most].map(|value| (axis.place(value), y));
        let _ = write!(svg, "<g class=\"{name}\">");
        line(svg, "range", ends[0], ends[1]);
        let _ = writeln!(svg, "</g>");
        mark(svg, name, (axis.place(median), y));
    }
}

/// The points of each system, in order.
fn panel_lines<'a>(
    results: &'a Results,
    panel: &'a Panel,
) -> impl Iterator<Item = (&'static str, Vec<(f64, f64)>)> + 'a {
    crate::peer::ALL.iter().filter_map(move |peer| {
        let points: Vec<(f64, f64)> = results
            .series
            .iter()
            .filter(|series| series.peer == peer.name() && series.what == panel.what)
            .filter(|series| series.case.name.starts_with(panel.cases))
            .filter_map(|series| {
                let (with, amount) = series.case.growth?;
                (with == panel.with).then(|| (amount, series.median()))
            })
            .collect();
        (points.len() > 1).then(|| (peer.name(), points))
    })
}

fn draw_panel(svg: &mut String, results: &Results, panel: &Panel, (left, top): (f64, f64)) {
    let lines: Vec<(&str, Vec<(f64, f64)>)> = panel_lines(results, panel).collect();
    let points = || lines.iter().flat_map(|(_, points)| points);
    let bounds = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::MAX, f64::MIN), |(low, high), value| {
            (low.min(value), high.max(value))
        })
    };
    let (x_low, x_high) = bounds(&mut points().map(|point| point.0));
    let (y_low, y_high) = bounds(&mut points().map(|point| point.1));
    let across = Axis {
        low: x_low,
        high: x_high,
        start: left + 60.0,
        end: left + WIDTH / 2.0 - MARGIN,
    };
    // Whole powers of ten, so that slopes can be compared.
    let up = Axis {
        low: 10_f64.powf(y_low.log10().floor()),
        high: 10_f64.powf(y_high.log10().ceil()),
        start: top + PANEL_HEIGHT - 46.0,
        end: top + 34.0,
    };
    text(svg, (left + MARGIN, top + 20.0), "", "start", panel.title);
    for value in up.tens() {
        let y = up.place(value);
        line(svg, "grid", (across.start, y), (across.end, y));
        text(
            svg,
            (across.start - 8.0, y + 4.0),
            "soft",
            "end",
            &format!("{value}"),
        );
    }
    for value in across.tens() {
        let x = across.place(value);
        line(svg, "grid", (x, up.start), (x, up.end));
        text(svg, (x, up.start + 18.0), "soft", "middle", &amount(value));
    }
    for (name, points) in lines {
        let places = points
            .iter()
            .map(|point| (across.place(point.0), up.place(point.1)));
        let path: Vec<String> = places
            .clone()
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let path = path.join(" ");
        let _ = writeln!(
            svg,
            "<g class=\"{name}\"><polyline class=\"line\" points=\"{path}\"/></g>"
        );
        places.for_each(|place| mark(svg, name, place));
    }
}

/// 1, 10, 1 k, 1 M.
fn amount(value: f64) -> String {
    match value {
        1e6.. => format!("{} M", value / 1e6),
        1e3.. => format!("{} k", value / 1e3),
        _ => format!("{value}"),
    }
}

/// A form and a colour for each system.
fn mark(svg: &mut String, name: &str, (x, y): (f64, f64)) {
    let points: &[(f64, f64)] = match name {
        "redis" => &[(-5.0, -5.0), (5.0, -5.0), (5.0, 5.0), (-5.0, 5.0)],
        "nats" => &[(0.0, -6.5), (6.0, 5.0), (-6.0, 5.0)],
        "mosquitto" => &[(0.0, -7.0), (6.0, 0.0), (0.0, 7.0), (-6.0, 0.0)],
        "etcd" => &[(-6.0, -5.0), (6.0, -5.0), (0.0, 6.5)],
        _ => &[],
    };
    let _ = write!(svg, "<g class=\"{name}\">");
    if points.is_empty() {
        let _ = write!(
            svg,
            "<circle class=\"mark\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\"/>"
        );
    } else {
        let points = points
            .iter()
            .map(|(dx, dy)| format!("{:.1},{:.1}", x + dx, y + dy));
        let points = points.collect::<Vec<_>>().join(" ");
        let _ = write!(svg, "<polygon class=\"mark\" points=\"{points}\"/>");
    }
    let _ = writeln!(svg, "</g>");
}

fn line(svg: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    let _ = writeln!(
        svg,
        "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn text(svg: &mut String, (x, y): (f64, f64), class: &str, anchor: &str, text: &str) {
    let _ = writeln!(
        svg,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
    );
}
