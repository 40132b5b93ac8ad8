//! What was measured: a list of samples for each figure of each system, one sample a round.

/// How figures of a kind are written, and which of two is better.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Unit {
    PerSecond,
    Microseconds,
    Milliseconds,
    Bytes,
    /// How many, or how much times, the fewer the better.
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

    pub(crate) fn name(self) -> &'static str {
        match self {
            Unit::PerSecond => "1/s",
            Unit::Microseconds => "µs",
            Unit::Milliseconds => "ms",
            Unit::Bytes => "bytes",
            Unit::Count => "count",
            Unit::Share => "part of 1",
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

/// What is done: "gets, 50 × 16 in flight".
#[derive(Clone, PartialEq)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// Of cases that show how something grows: with what, and how much of it there is.
    pub(crate) growth: Option<(&'static str, f64)>,
}

impl Case {
    pub(crate) fn new(name: impl Into<String>) -> Case {
        Case {
            name: name.into(),
            growth: None,
        }
    }
}

/// The samples of one figure of one system.
pub(crate) struct Series {
    pub(crate) case: Case,
    /// Where the server and the load had their cores; empty where it doesn't matter.
    pub(crate) cores: &'static str,
    /// What was measured of it: "requests a second".
    pub(crate) what: &'static str,
    pub(crate) unit: Unit,
    pub(crate) peer: &'static str,
    pub(crate) samples: Vec<f64>,
}

impl Series {
    pub(crate) fn spread(&self) -> Option<Spread> {
        Spread::of(self.samples.iter().copied())
    }

    pub(crate) fn median(&self) -> f64 {
        self.spread().map_or(f64::NAN, |spread| spread.median)
    }

    /// Whether it is no system that one could pick in place of nkv.
    pub(crate) fn is_reference(&self) -> bool {
        ["the disk", "floor"].contains(&self.peer) || self.peer.starts_with("nkv")
    }
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
        case: &Case,
        cores: &'static str,
        peer: &'static str,
        figures: Vec<Figure>,
    ) {
        for Figure { what, unit, value } in figures {
            let known = self.series.iter_mut().find(|series| {
                series.case == *case
                    && (series.cores, series.what, series.peer) == (cores, what, peer)
            });
            match known {
                Some(series) => series.samples.push(value),
                None => self.series.push(Series {
                    case: case.clone(),
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
            series.case == of.case
                && (series.cores, series.what, series.peer) == (of.cores, of.what, peer)
        })
    }

    /// The best of the peers at what a series of nkv's says, by their medians.
    pub(crate) fn best_peer(&self, ours: &Series) -> Option<&Series> {
        let peers = self.series.iter().filter(|series| {
            series.case == ours.case
                && (series.cores, series.what) == (ours.cores, ours.what)
                && !series.is_reference()
        });
        peers.min_by(|a, b| {
            let (a, b) = (a.median(), b.median());
            if ours.unit.more_is_better() {
                b.total_cmp(&a)
            } else {
                a.total_cmp(&b)
            }
        })
    }

    /// nkv's figure divided by the peer's, of the same rounds.
    pub(crate) fn ratio(&self, peers: &Series) -> Option<Spread> {
        self.ratio_of("nkv", peers)
    }

    /// The same for another system than nkv.
    pub(crate) fn ratio_of(&self, system: &str, peers: &Series) -> Option<Spread> {
        let its = self.find(peers, system)?;
        let rounds = its.samples.iter().zip(&peers.samples);
        // Nothing can be said of what is a part of nothing.
        let ratios = rounds.map(|(its, theirs)| its / theirs);
        Spread::of(ratios).filter(|ratio| ratio.least.is_finite() && ratio.most.is_finite())
    }
}
