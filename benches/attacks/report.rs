//! What came of the attacks: a line each while they run, a table, and JSON.

use std::time::Duration;

use serde_json::{Value, json};

use crate::attacks::{Attack, VISIT_MAX};
use crate::daemon::Usage;

/// What came of one attack.
pub(crate) struct Outcome {
    pub(crate) attack: &'static Attack,
    /// What the client has seen before and meanwhile.
    pub(crate) quiet: Value,
    pub(crate) attacked: Value,
    /// What the operator has seen meanwhile.
    pub(crate) operated: Value,
    /// What the attacker got.
    pub(crate) got: Value,
    pub(crate) before: Usage,
    pub(crate) after: Usage,
    pub(crate) private_dirty: u64,
    /// How long it took until the attacker held nothing more.
    pub(crate) given_back: Option<Duration>,
    pub(crate) rest: Usage,
}

pub(crate) const HEADING: &str = "\
attack                 |  quiet p50   p99 | attacked p50    p99     max | event p99 |  operator | memory  of MiB | CPU % disturbed |";

impl Outcome {
    /// How much more memory there was at the peak.
    fn growth(&self) -> u64 {
        self.after.peak.saturating_sub(self.before.resident)
    }

    fn processor(&self) -> f64 {
        let used = self.after.processor - self.before.processor;
        used.as_secs_f64() / (self.after.at - self.before.at).as_secs_f64() * 100.0
    }

    /// How much of the time others had its processor while it wanted to go on, in percent.
    fn disturbed(&self) -> f64 {
        let waited = self.after.waited - self.before.waited;
        waited.as_secs_f64() / (self.after.at - self.before.at).as_secs_f64() * 100.0
    }

    /// The bounds that did not hold, in words.
    pub(crate) fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let most = u64::try_from(self.attack.p99.as_micros()).unwrap();
        for what in ["answers", "events"] {
            let p99 = number(&self.attacked[what]["p99"]);
            if p99 > most {
                broken.push(format!("p99 of {what} {} of {}", time(p99), time(most)));
            }
        }
        if number(&self.attacked["lost"]) > 0 {
            broken.push(format!(
                "{} answers or events were lost",
                self.attacked["lost"]
            ));
        }
        if self.growth() > self.attack.memory {
            let (growth, most) = (mebibytes(self.growth()), mebibytes(self.attack.memory));
            broken.push(format!("{growth} of {most} MiB"));
        }
        let most = u64::try_from(VISIT_MAX.as_micros()).unwrap();
        let slowest = number(&self.operated["times"]["max"]);
        if slowest > most {
            broken.push(format!(
                "the operator has waited {} of {}",
                time(slowest),
                time(most)
            ));
        }
        if number(&self.operated["failed"]) > 0 {
            broken.push(format!(
                "the operator was refused {} times",
                self.operated["failed"]
            ));
        }
        if self.given_back.is_none() {
            broken.push("not all was given back".into());
        }
        broken
    }

    pub(crate) fn print(&self) {
        let of = |value: &Value, name: &str| time(number(&value["answers"][name]));
        println!(
            "{:<22} | {:>9} {:>7} | {:>9} {:>9} {:>9} | {:>9} | {:>9} | {:>6} {:>5} | {:>5.0} {:>9.1} |",
            self.attack.name,
            of(&self.quiet, "p50"),
            of(&self.quiet, "p99"),
            of(&self.attacked, "p50"),
            of(&self.attacked, "p99"),
            of(&self.attacked, "max"),
            time(number(&self.attacked["events"]["p99"])),
            time(number(&self.operated["times"]["max"])),
            mebibytes(self.growth()),
            mebibytes(self.attack.memory),
            self.processor(),
            self.disturbed(),
        );
        let p99 = self.attack.p99.as_millis();
        println!("    {}; p99 within {p99} ms", self.attack.what);
        println!("    got: {}", self.spoils());
        println!(
            "    private dirty {} MiB at most; resident {} MiB before, {} after; given back in {}",
            mebibytes(self.private_dirty),
            mebibytes(self.before.resident),
            mebibytes(self.rest.resident),
            self.given_back
                .map_or("never".into(), |after| format!("{} ms", after.as_millis())),
        );
        for broken in self.broken() {
            println!("    BROKEN: {broken}");
        }
    }

    /// What the attacker got, in words: what was answered, and what it held in the end.
    fn spoils(&self) -> String {
        let mut words: Vec<String> = self
            .got
            .as_object()
            .unwrap()
            .iter()
            .map(|(what, count)| format!("{what} {}", thousands(number(count))))
            .collect();
        let users = self.operated["stats"]["users"].as_array();
        let held = users.and_then(|users| users.iter().find(|user| user["uid"] == 64001));
        if let Some(held) = held {
            let names = ["connections", "subscriptions", "keys", "bytes", "buffered"];
            let held: Vec<String> = names
                .iter()
                .filter(|name| number(&held[**name]) > 0)
                .map(|name| format!("{} {name}", thousands(number(&held[*name]))))
                .collect();
            words.push(format!("held {}", held.join(", ")));
        }
        words.join("; ")
    }
}

pub(crate) fn markdown(outcomes: &[Outcome]) -> String {
    let mut table = String::from(
        "| attack | client before: p50, p99 | during: p50, p99 (of), max | event p99 | operator at most | \
         memory, of MiB | CPU | disturbed | what it got | holds |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for outcome in outcomes {
        let of = |value: &Value, name: &str| time(number(&value["answers"][name]));
        let broken = outcome.broken();
        table.push_str(&format!(
            "| `{}` | {}, {} | {}, {} ({}), {} | {} | {} | {} of {} | {:.0} % | {:.0} % | {} | {} |\n",
            outcome.attack.name,
            of(&outcome.quiet, "p50"),
            of(&outcome.quiet, "p99"),
            of(&outcome.attacked, "p50"),
            of(&outcome.attacked, "p99"),
            outcome.attack.p99.as_millis(),
            of(&outcome.attacked, "max"),
            time(number(&outcome.attacked["events"]["p99"])),
            time(number(&outcome.operated["times"]["max"])),
            mebibytes(outcome.growth()),
            mebibytes(outcome.attack.memory),
            outcome.processor(),
            outcome.disturbed(),
            outcome.spoils(),
            if broken.is_empty() {
                "yes".into()
            } else {
                broken.join("; ")
            },
        ));
    }
    table
}

pub(crate) fn json(outcomes: &[Outcome]) -> String {
    let all: Vec<Value> = outcomes
        .iter()
        .map(|outcome| {
            json!({
                "attack": outcome.attack.name,
                "what": outcome.attack.what,
                "quiet": outcome.quiet,
                "attacked": outcome.attacked,
                "p99_max_us": u64::try_from(outcome.attack.p99.as_micros()).unwrap(),
                "operator": outcome.operated,
                "got": outcome.got,
                "memory_before": outcome.before.resident,
                "memory_peak": outcome.after.peak,
                "memory_max": outcome.before.resident + outcome.attack.memory,
                "memory_after": outcome.rest.resident,
                "private_dirty": outcome.private_dirty,
                "cpu_percent": outcome.processor(),
                "disturbed_percent": outcome.disturbed(),
                "broken": outcome.broken(),
            })
        })
        .collect();
    serde_json::to_string_pretty(&all).unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn mebibytes(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// A time that is given in microseconds.
fn time(us: u64) -> String {
    match us {
        0..10_000 => format!("{:.2} ms", us as f64 / 1000.0),
        10_000..1_000_000 => format!("{:.0} ms", us as f64 / 1000.0),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
