//! What was measured: a list of samples for each figure of each system, one sample a round.

/// How figures of a kind are written, and which of two is better.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Unit {
    PerSecond,
    Microseconds,
    Milliseconds,
    Bytes,
    /// How many, the fewer the better.
    Count,
    /// A part of 1 that neither should nor shouldn't be high, so that it is not compared.
    Share,
}

impl Unit {
    pub(crate) fn show(self, value: f64) -> String {
        match self {
            Unit::PerSecond if value >= 999_500.0 => format!("{:.2} M/s", value / 1e6),
            Unit::PerSecond if value >= 9_995.0 => format!("{:.0} k/s", value / 1e3),
            Unit::PerSecond if value >= 999.5 => format!("{:.1} k/s", value / 1e3),
            Unit::PerSecond => format!("{value:.0} /s"),
            Unit::Microseconds if value < 1.0 => format!("{value:.3} µs"),
            Unit::Microseconds if value < 99.5 => format!("{value:.2} µs"),
            Unit::Microseconds => format!("{value:.0} µs"),
            Unit::Milliseconds => format!("{value:.2} ms"),
            Unit::Bytes if value >= f64::from(1 << 20) => {
                format!("{:.2} MiB", value / f64::from(1 << 20))
            }
            Unit::Bytes => format!("{:.0} KiB", value / 1024.0),
            Unit::Count => format!("{value:.0}"),
            Unit::Share => format!("{:.0} %", value * 100.0),
        }
    }

    pub(crate) fn more_is_better(self) -> bool {
        self == Unit::PerSecond
    }
}

/// One sample.
pub(crate) struct Figure {
    pub(crate) what: &'static str,
    pub(crate) unit: Unit,
    pub(crate) value: f64,
}

impl Figure {
    pub(crate) fn new(what: &'static str, unit: Unit, value: f64) -> Figure {
        Figure { what, unit, value }
    }
}

/// The samples of one figure of one system.
pub(crate) struct Series {
    /// What was done: "gets, 50 × 16 in flight".
    pub(crate) case: String,
    /// Where the server and the load had their cores; empty where it doesn't matter.
    pub(crate) cores: &'static str,
    /// What was measured of it: "requests a second".
    pub(crate) what: &'static str,
    pub(crate) unit: Unit,
    pub(crate) peer: &'static str,
    pub(crate) samples: Vec<f64>,
}

/// A median and how far the samples go.
#[derive(Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    pub(crate) fn of(samples: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut sorted: Vec<f64> = samples.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Some(Spread {
            median: quantile(&sorted, 0.5)?,
            least: *sorted.first()?,
            most: *sorted.last()?,
        })
    }
}

/// Of sorted figures, the one that this part of them is not above.
pub(crate) fn quantile(sorted: &[f64], part: f64) -> Option<f64> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is below the length"
    )]
    let at = (part * sorted.len() as f64) as usize;
    sorted.get(at).or(sorted.last()).copied()
}

#[derive(Default)]
pub(crate) struct Results {
    pub(crate) series: Vec<Series>,
}

impl Results {
    pub(crate) fn add(
        &mut self,
        case: &str,
        cores: &'static str,
        peer: &'static str,
        figures: Vec<Figure>,
    ) {
        for Figure { what, unit, value } in figures {
            let known = self.series.iter_mut().find(|series| {
                (series.case.as_str(), series.cores, series.what, series.peer)
                    == (case, cores, what, peer)
            });
            match known {
                Some(series) => series.samples.push(value),
                None => self.series.push(Series {
                    case: case.to_owned(),
                    cores,
                    what,
                    unit,
                    peer,
                    samples: vec![value],
                }),
            }
        }
    }

    pub(crate) fn find(&self, of: &Series, peer: &str) -> Option<&Series> {
        self.series.iter().find(|series| {
            (series.case.as_str(), series.cores, series.what, series.peer)
                == (of.case.as_str(), of.cores, of.what, peer)
        })
    }

    /// nkv's figure divided by the peer's, of the same rounds.
    pub(crate) fn ratio(&self, peers: &Series) -> Option<Spread> {
        let ours = self.find(peers, "nkv")?;
        let rounds = ours.samples.iter().zip(&peers.samples);
        Spread::of(rounds.map(|(ours, theirs)| ours / theirs))
    }
}
