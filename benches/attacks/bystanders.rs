//! Those who have done nothing: the client that wants its answers, and the operator who wants in.

use std::io::BufRead;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::daemon::Operator;

/// How often the client asks for something.
const PERIOD: Duration = Duration::from_millis(2);
/// How often the operator comes.
const VISITS: Duration = Duration::from_millis(250);

/// How often it was asked what has been seen.
static ASKED: AtomicU64 = AtomicU64::new(0);

fn listen() {
    std::thread::spawn(|| {
        for line in std::io::stdin().lock().lines() {
            if line.is_err() {
                break;
            }
            ASKED.fetch_add(1, Ordering::Relaxed);
        }
        std::process::exit(0);
    });
}

/// Gets and puts in turns, one after the other, and tells how long that took.
pub(crate) fn client(socket: &Path) {
    listen();
    let mut requests = Operator::connect(socket).unwrap();
    let mut events = Operator::connect(socket).unwrap();
    requests
        .exchange(r#"{"op":"put","key":"client.state","value":0}"#)
        .unwrap();
    let subscribed = events.exchange(r#"{"op":"subscribe","id":1,"key":"client","initial":false}"#);
    subscribed.unwrap();
    events.next().unwrap();
    let (mut answers, mut heard, mut lost) = (Vec::new(), Vec::new(), 0);
    let mut due = Instant::now();
    let mut told = 0;
    for number in 0_u64.. {
        let asked = ASKED.load(Ordering::Relaxed);
        if asked > told {
            told = asked;
            let seen = json!({"answers": quantiles(&mut answers), "events": quantiles(&mut heard),
                "lost": lost});
            println!("{seen}");
            lost = 0;
        }
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let start = Instant::now();
        due = start.max(due + PERIOD);
        let result = if number % 2 == 0 {
            requests.exchange(r#"{"op":"get","key":"client.state"}"#)
        } else {
            let put = format!(r#"{{"op":"put","key":"client.state","value":{number}}}"#);
            requests.exchange(&put)
        };
        note(&mut answers, start.elapsed(), PERIOD);
        if number % 2 == 1 {
            let event = events.next();
            note(&mut heard, start.elapsed(), 2 * PERIOD);
            lost += u64::from(!event.is_ok_and(|event| event["value"] == number));
        }
        lost += u64::from(result.is_err());
    }
}

/// Notes how long something took, and how long those would have taken that could not be begun in that
/// time: so what counts is what somebody has to expect who comes at any moment.
fn note(times: &mut Vec<Duration>, took: Duration, period: Duration) {
    let mut took = took;
    times.push(took);
    while took > period {
        took -= period;
        times.push(took);
    }
}

/// Connects, asks, and goes, and tells how long that took.
pub(crate) fn operator(socket: &Path) {
    listen();
    let (mut visits, mut failed) = (Vec::new(), 0_u64);
    let mut told = 0;
    let mut last = None;
    loop {
        let start = Instant::now();
        let stats = Operator::connect(socket).and_then(|mut root| root.ask("stats"));
        visits.push(start.elapsed());
        match stats {
            Ok(stats) => last = Some(stats),
            Err(_) => failed += 1,
        }
        let next = start + VISITS;
        while Instant::now() < next || ASKED.load(Ordering::Relaxed) > told {
            if ASKED.load(Ordering::Relaxed) > told {
                told += 1;
                let count = visits.len();
                let seen = json!({"visits": count, "failed": failed,
                    "times": quantiles(&mut visits), "stats": last});
                println!("{seen}");
                failed = 0;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The median, the 99th of a hundred and the largest, in microseconds. Empties the list.
fn quantiles(times: &mut Vec<Duration>) -> Value {
    times.sort_unstable();
    let at = |part: usize| {
        let index = (times.len() * part / 1000).min(times.len().saturating_sub(1));
        times.get(index).map_or(0, Duration::as_micros)
    };
    let (p50, p99, max) = (at(500), at(990), at(1000));
    let count = times.len();
    times.clear();
    let [p50, p99, max] = [p50, p99, max].map(|us| u64::try_from(us).unwrap());
    json!({"count": count, "p50": p50, "p99": p99, "max": max})
}
