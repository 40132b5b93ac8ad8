//! What the daemon is doing, once an interval.
//!
//! Two threads: one asks for `stats` and `clients` and makes a [`Frame`] of what is different since the
//! last time, by the daemon's own clock; the other one counts the events of a subscription, for the
//! hottest keys. Both go on over lost connections, and end with the [`Sampler`].
//!
//! What they cause themselves is subtracted from the rates: two requests a frame, and the events that were
//! counted. Those on their way at the moment of a frame are counted in the next one.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nkv::client::{Error, Events, EventsEnder, Link, Stats};
use nkv::{Key, Pattern};
use serde_json::Value as Json;

use crate::daemon::Target;
use crate::failure::Failure;

/// How many different keys are counted in an interval.
const KEYS_COUNTED_MAX: usize = 100_000;

/// Of how many keys the rates are remembered.
const KEYS_MAX: usize = 1000;

/// Below this many changes a second a key is forgotten.
const RATE_MIN: f64 = 0.05;

/// Requests of the sampler's own in an interval: `stats` and `clients`.
const OWN_REQUESTS: u64 = 2;

/// Something to show.
pub(super) enum Update {
    Frame(Frame),
    /// There is no connection, for this reason.
    Lost(String),
    /// There won't be anything more.
    End(Failure),
}

/// The daemon at one moment, and what it has done since the moment before.
pub(super) struct Frame {
    pub(super) server: String,
    stats: Stats,
    /// Changes of the counters in a second; none the first time, and after a restart of the daemon.
    pub(super) rates: Option<HashMap<String, f64>>,
    /// Those farthest behind first.
    pub(super) connections: Vec<Connection>,
    /// Changes in a second, hottest first.
    pub(super) keys: Vec<(String, f64)>,
}

pub(super) struct Connection {
    pub(super) name: String,
    /// A process's number, or a remote address.
    pub(super) process: String,
    pub(super) subscriptions: u64,
    pub(super) lag: u64,
}

/// Where the frames come from.
pub(super) struct Sampler {
    address: String,
    updates: Receiver<Update>,
    ender: Option<EventsEnder>,
    /// The threads end with it.
    _alive: Sender<()>,
}

/// What the events have told.
#[derive(Default)]
struct Counted {
    events: u64,
    keys: HashMap<Key, u64>,
}

/// The one that asks.
struct Asker {
    link: Link,
    counted: Arc<Mutex<Counted>>,
    before: Option<Stats>,
    hot: HashMap<String, f64>,
}

impl Sampler {
    pub(super) fn start(
        target: &Target,
        interval: Duration,
        keys: Option<Pattern>,
    ) -> Result<Sampler, Failure> {
        // A mistyped address is told at once.
        target.connect()?;
        let link = target.link_within(interval);
        let counted: Arc<Mutex<Counted>> = Arc::default();
        let mut ender = None;
        let (updates, received) = channel();
        if let Some(pattern) = keys {
            let events = link.events(pattern.as_str())?.changes_only().start()?;
            ender = Some(events.ender());
            let (counted, updates) = (Arc::clone(&counted), updates.clone());
            std::thread::spawn(move || {
                if let Err(error) = count(events, &counted) {
                    // Where nobody listens any more it doesn't matter.
                    drop(updates.send(Update::End(error.into())));
                }
            });
        }
        let (alive, end) = channel();
        let mut asker = Asker {
            link,
            counted,
            before: None,
            hot: HashMap::new(),
        };
        std::thread::spawn(move || {
            loop {
                if updates.send(asker.update()).is_err() {
                    return;
                }
                if end.recv_timeout(interval) == Err(RecvTimeoutError::Disconnected) {
                    return;
                }
            }
        });
        Ok(Sampler {
            address: target.address.to_string(),
            updates: received,
            ender,
            _alive: alive,
        })
    }

    /// Where the daemon is.
    pub(super) fn address(&self) -> String {
        self.address.clone()
    }

    /// The next update, waited for.
    pub(super) fn wait(&self) -> Update {
        self.updates.recv().unwrap_or_else(|_| Update::ended())
    }

    /// The next update if it is there already.
    pub(super) fn try_next(&self) -> Option<Update> {
        self.updates.try_recv().ok()
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        if let Some(ender) = &self.ender {
            ender.end();
        }
    }
}

impl Update {
    /// For a thread that is gone, which none is before the sampler.
    fn ended() -> Update {
        Update::End(Failure::new(crate::failure::NOT_MET, "no more samples"))
    }
}

/// Counts events until they end.
fn count(events: Events, counted: &Mutex<Counted>) -> Result<(), Error> {
    for event in events {
        let event = event?;
        let mut counted = counted.lock().unwrap_or_else(PoisonError::into_inner);
        counted.events += 1;
        let Some(key) = event.key() else { continue };
        if let Some(count) = counted.keys.get_mut(key) {
            *count += 1;
        } else if counted.keys.len() < KEYS_COUNTED_MAX {
            counted.keys.insert(key.clone(), 1);
        }
    }
    Ok(())
}

impl Asker {
    fn update(&mut self) -> Update {
        match self.frame() {
            Ok(frame) => Update::Frame(frame),
            // Connecting takes longer than an interval.
            Err(Error::Timeout) => Update::Lost("no connection".into()),
            Err(error) if error.is_disconnect() => {
                self.before = None;
                Update::Lost(Failure::from(error).message)
            }
            Err(error) => Update::End(error.into()),
        }
    }

    fn frame(&mut self) -> Result<Frame, Error> {
        let client = self.link.client()?;
        let stats = client.stats()?;
        let counted = {
            let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *counted)
        };
        let connections = client.clients()?;
        let before = self.before.replace(stats.clone());
        let seconds = before.as_ref().and_then(|before| seconds(before, &stats));
        let rates = before
            .zip(seconds)
            .map(|(before, seconds)| rates(&before, &stats, seconds, counted.events));
        if let Some(seconds) = seconds {
            self.warm(counted.keys, seconds);
        }
        Ok(Frame {
            server: client.server().to_owned(),
            stats,
            rates,
            connections: sorted(connections),
            keys: self.hottest(),
        })
    }

    /// Averages what was counted with what was before, so that keys don't jump about.
    fn warm(&mut self, counted: HashMap<Key, u64>, seconds: f64) {
        let mut counted: HashMap<String, f64> = counted
            .into_iter()
            .map(|(key, count)| (key.to_string(), per_second(count, seconds)))
            .collect();
        self.hot.retain(|key, rate| {
            *rate = (*rate + counted.remove(key).unwrap_or(0.0)) / 2.0;
            *rate >= RATE_MIN
        });
        self.hot.extend(counted);
        if self.hot.len() > KEYS_MAX {
            self.hot = self.hottest().into_iter().collect();
        }
    }

    fn hottest(&self) -> Vec<(String, f64)> {
        let mut keys: Vec<(String, f64)> = self
            .hot
            .iter()
            .map(|(key, rate)| (key.clone(), *rate))
            .collect();
        keys.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        keys.truncate(KEYS_MAX);
        keys
    }
}

impl Frame {
    /// How often something has happened in a second.
    pub(super) fn rate(&self, name: &str) -> Option<f64> {
        self.rates.as_ref()?.get(name).copied()
    }

    /// A counter as it is.
    pub(super) fn now(&self, name: &str) -> u64 {
        self.stats.counter(name).unwrap_or(0)
    }
}

#[cfg(test)]
impl Frame {
    /// One with something of everything.
    pub(super) fn example() -> Frame {
        let mut stats = Stats::default();
        stats.counters.insert("clients".into(), 1);
        Frame {
            server: "nkv/9.9.9".into(),
            stats,
            rates: Some(HashMap::from([("requests".into(), 12.0)])),
            connections: vec![Connection {
                name: "thermostat".into(),
                process: "4711".into(),
                subscriptions: 2,
                lag: 77,
            }],
            keys: vec![("hot.key".into(), 3.0)],
        }
    }
}

/// The time between two readings, by the daemon's clock; none where it has been started again.
fn seconds(before: &Stats, now: &Stats) -> Option<f64> {
    let uptime = |stats: &Stats| stats.counter("uptime_ms").unwrap_or(0);
    let ms = uptime(now).checked_sub(uptime(before))?;
    let is_same =
        before.epoch == now.epoch && now.counter("requests") >= before.counter("requests");
    (is_same && ms > 0).then(|| Duration::from_millis(ms).as_secs_f64())
}

fn rates(before: &Stats, now: &Stats, seconds: f64, own_events: u64) -> HashMap<String, f64> {
    let rate = |(name, count): (&String, &u64)| {
        let own = match name.as_str() {
            "requests" => OWN_REQUESTS,
            "events" => own_events,
            _ => 0,
        };
        let change = count.saturating_sub(before.counter(name).unwrap_or(0));
        (
            name.clone(),
            per_second(change.saturating_sub(own), seconds),
        )
    };
    now.counters.iter().map(rate).collect()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a rate that is shown with a few digits"
)]
fn per_second(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds
}

fn sorted(clients: Vec<serde_json::Map<String, Json>>) -> Vec<Connection> {
    let connection = |client: serde_json::Map<String, Json>| {
        let number = |name| client.get(name).and_then(Json::as_u64);
        let text = |name| client.get(name).and_then(Json::as_str);
        Connection {
            name: text("name").unwrap_or("-").to_owned(),
            process: match (number("pid"), text("address")) {
                (Some(pid), _) => pid.to_string(),
                (None, address) => address.unwrap_or("-").to_owned(),
            },
            subscriptions: number("subscriptions").unwrap_or(0),
            lag: number("lag").unwrap_or(0),
        }
    };
    let mut connections: Vec<Connection> = clients.into_iter().map(connection).collect();
    connections.sort_by(|a, b| {
        let rank = |connection: &Connection| (connection.lag, connection.subscriptions);
        rank(b).cmp(&rank(a)).then_with(|| a.name.cmp(&b.name))
    });
    connections
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker() -> Asker {
        Asker {
            link: Link::new("/nowhere/nkv.sock").unwrap(),
            counted: Arc::default(),
            before: None,
            hot: HashMap::new(),
        }
    }

    #[test]
    fn keys_warm_up_at_once_and_cool_down_by_and_by() {
        let mut asker = asker();
        let counted = |counts: &[(&str, u64)]| {
            let pairs = counts
                .iter()
                .map(|(key, count)| (Key::new(key).unwrap(), *count));
            pairs.collect::<HashMap<_, _>>()
        };
        let hottest = |asker: &Asker| {
            let keys = asker.hottest().into_iter();
            keys.map(|(key, rate)| format!("{key}={rate}"))
                .collect::<Vec<_>>()
        };
        asker.warm(counted(&[("a", 8), ("b", 20)]), 2.0);
        assert_eq!(hottest(&asker), ["b=10", "a=4"]);
        asker.warm(counted(&[("a", 20)]), 1.0);
        assert_eq!(hottest(&asker), ["a=12", "b=5"]);
        for _ in 0..20 {
            asker.warm(HashMap::new(), 1.0);
        }
        assert_eq!(hottest(&asker), Vec::<String>::new());
    }

    #[test]
    fn those_farthest_behind_come_first() {
        let clients = r#"[{"name":"b","pid":7,"subscriptions":1,"lag":0},
            {"address":"127.0.0.1:9","subscriptions":2,"lag":0},
            {"name":"a","pid":8,"subscriptions":1,"lag":0},
            {"name":"c","pid":9,"subscriptions":1,"lag":40}]"#;
        let told: Vec<String> = sorted(serde_json::from_str(clients).unwrap())
            .into_iter()
            .map(|connection| format!("{} {}", connection.name, connection.process))
            .collect();
        assert_eq!(told, ["c 9", "- 127.0.0.1:9", "a 8", "b 7"]);
    }
}
