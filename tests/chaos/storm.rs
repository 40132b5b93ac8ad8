//! The course of a run: what breaks and when, and what is compared at a quiet point.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nkv::client::{Client, Entry};

use crate::children::Child;
use crate::proxy::Proxy;
use crate::random::Random;
use crate::support::{Daemon, PATIENCE, Plan};
use crate::witness::Sum;
use crate::writer::COUNTER;

const WRITERS: u64 = 3;
const ANNOUNCERS: u64 = 2;

pub(crate) struct Storm {
    seed: u64,
    random: Random,
    plan: Plan,
    daemon: Option<Daemon>,
    proxy: Proxy,
    writers: Vec<Child>,
    announcers: Vec<Child>,
    mirrors: Vec<Child>,
    /// Reboots since the last quiet point.
    reboots: u64,
    faults: BTreeMap<&'static str, u64>,
}

impl Storm {
    pub(crate) fn new(seed: u64) -> Storm {
        println!("NKV_CHAOS_SEED={seed}");
        // Few deletions are remembered, so that who lags has to begin anew.
        let plan = Plan::keeping()
            .with(&["--tombstones", "16", "--send-buffer", "4k"])
            .with(&["--sync", "interval=50"]);
        let daemon = plan.start();
        let proxy = Proxy::start(&plan.directory().join("proxy.sock"), &plan.socket(), seed);
        let start = |part: &str, count: u64| -> Vec<Child> {
            (0..count)
                .map(|number| Child::start(part, number, proxy.path(), seed))
                .collect()
        };
        let mut mirrors = start("mirror", 2);
        mirrors.extend(start("follower", 1));
        Storm {
            seed,
            random: Random::new(seed, 0),
            writers: start("writer", WRITERS),
            announcers: start("announcer", ANNOUNCERS),
            mirrors,
            daemon: Some(daemon),
            proxy,
            plan,
            reboots: 0,
            faults: BTreeMap::new(),
        }
    }

    /// Breaks things for so long, with quiet points in between and at the end.
    pub(crate) fn run(mut self, duration: Duration) {
        let start = Instant::now();
        let mut quiet_points = 0;
        while start.elapsed() < duration {
            self.proxy.set_calm(false);
            for _ in 0..1 + self.random.below(6) {
                self.progress();
                self.fault();
            }
            self.progress();
            self.quiet();
            quiet_points += 1;
            self.each_paused(|child| child.order("go"));
        }
        let told = self.finish();
        println!(
            "{:?}: {quiet_points} quiet points, {} cuts of connections, {} MiB, {:?}, {told}",
            start.elapsed(),
            self.proxy.cuts(),
            self.proxy.bytes() >> 20,
            self.faults,
        );
    }

    /// Waits until something has been done.
    fn progress(&mut self) {
        let until = self.proxy.bytes() + self.random.below(1 << 20);
        self.wait("bytes pass", |storm| storm.proxy.bytes() >= until);
    }

    /// Breaks the daemon, or leaves it to the proxy.
    fn fault(&mut self) {
        let kind = self.random.below(8);
        let name = match kind {
            0..=2 => "kills",
            3 => "stops",
            4 => "reboots",
            _ => return,
        };
        *self.faults.entry(name).or_default() += 1;
        let is_killed = name == "kills" || (name == "reboots" && self.random.once_in(2));
        self.end_daemon(is_killed);
        if name == "reboots" {
            // What goes with the machine.
            std::fs::remove_dir_all(self.plan.runtime_directory()).unwrap();
            self.reboots += 1;
        }
        // At times for longer than some have patience.
        let longest = [60, 60, 800][usize::try_from(self.random.below(3)).unwrap()];
        std::thread::sleep(self.random.pause(longest));
        self.daemon = Some(self.plan.start());
    }

    fn end_daemon(&mut self, is_killed: bool) {
        let daemon = self.daemon.take().unwrap();
        if is_killed {
            daemon.kill();
        } else {
            daemon.stop();
        }
    }

    /// Has everybody pause, and compares. Before that the daemon may be started again, so that whoever
    /// is to come back does so while nobody asks anything.
    fn quiet(&mut self) -> (Client, Vec<String>) {
        self.proxy.set_calm(true);
        self.each_paused(|child| child.order("pause"));
        let counts: Vec<String> = self.writers.iter_mut().map(Child::answer).collect();
        let announced: Vec<String> = self.announcers.iter_mut().map(Child::answer).collect();
        if self.random.once_in(2) {
            let is_killed = self.random.once_in(2);
            self.end_daemon(is_killed);
            self.daemon = Some(self.plan.start());
        }
        let client = Client::connect(self.plan.socket().to_str().unwrap()).unwrap();
        // Whoever has been cut off is forgotten, so nothing more of him is carried out.
        self.wait("connections are forgotten", |storm| {
            client.clients().unwrap().len() as u64 == storm.proxy.live() + 1
        });
        self.wait("brief entries go", |_| {
            client.list_keys("w.*.brief.*").unwrap().next().is_none()
        });
        let order = format!("check {}", std::mem::take(&mut self.reboots));
        for writer in &mut self.writers {
            writer.order(&order);
        }
        for writer in &mut self.writers {
            writer.answer();
        }
        self.compare_announced(&client, &announced);
        compare_counter(&client, &counts);
        self.compare_mirrors(&client);
        (client, announced)
    }

    fn compare_announced(&self, client: &Client, announced: &[String]) {
        for announced in announced {
            let announced: BTreeMap<String, u64> = serde_json::from_str(announced).unwrap();
            for (key, value) in announced {
                let is_there = || client.get::<u64>(&key).unwrap().map(|entry| entry.value);
                self.wait(&format!("{key} is announced as {value}"), |_| {
                    is_there() == Some(value)
                });
            }
        }
    }

    fn compare_mirrors(&mut self, client: &Client) {
        let start = Instant::now();
        for number in 0..self.mirrors.len() {
            loop {
                let sums = sums(&list(client));
                let told = self.mirrors[number].ask("state");
                let is_same = |(sum, told): (&String, &str)| sum == told || told == "-";
                if sums.iter().zip(told.split(' ')).all(is_same) {
                    break;
                }
                if start.elapsed() > PATIENCE {
                    let revs: Vec<String> = list(client)
                        .iter()
                        .map(|entry| format!("{}@{}", entry.key, entry.rev))
                        .collect();
                    let name = self.mirrors[number].name().to_owned();
                    let told = self.mirrors[number].ask("revs");
                    panic!(
                        "{name} is not the keyspace:\n{told}\nand should be\n{}",
                        revs.join(" ")
                    );
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// The last quiet point, at which nothing may be there that nobody announces. Returns what the
    /// mirrors have to tell of it all.
    fn finish(&mut self) -> String {
        let (client, announced) = self.quiet();
        let mut expected = Vec::new();
        for announced in announced {
            let announced: BTreeMap<String, u64> = serde_json::from_str(&announced).unwrap();
            expected.extend(announced.into_keys());
        }
        expected.sort();
        self.wait("only what is announced is there", |_| {
            let found = client.list_keys("here.*").unwrap();
            let found = found.map(|key| key.unwrap().as_str().to_owned());
            found.eq(expected.iter().cloned())
        });
        self.compare_mirrors(&client);
        let mut accounts = Vec::new();
        let mut resets = 0;
        for mirror in &mut self.mirrors {
            let account = mirror.ask("end");
            resets += account.split(' ').nth(1).unwrap().parse::<usize>().unwrap();
            accounts.push(format!(
                "{}: {account} (cuts, resets, changes)",
                mirror.name()
            ));
        }
        // Otherwise nothing was shown.
        assert!(self.proxy.cuts() > 0, "no connection was cut");
        assert!(resets > self.mirrors.len(), "nobody was left behind");
        accounts.join(", ")
    }

    fn each_paused(&mut self, act: impl FnMut(&mut Child)) {
        let all = self.writers.iter_mut().chain(&mut self.announcers);
        all.for_each(act);
    }

    fn wait(&self, what: &str, mut is_so: impl FnMut(&Storm) -> bool) {
        let start = Instant::now();
        while !is_so(self) {
            let seed = self.seed;
            assert!(start.elapsed() < PATIENCE, "never: {what} (seed {seed})");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("NKV_CHAOS_SEED={} {:?}", self.seed, self.faults);
        }
    }
}

fn compare_counter(client: &Client, counts: &[String]) {
    let (mut successes, mut unknowns) = (0, 0);
    for count in counts {
        let (success, unknown) = count.split_once(' ').unwrap();
        successes += success.parse::<u64>().unwrap();
        unknowns += unknown.parse::<u64>().unwrap();
    }
    let count = client.get::<u64>(COUNTER).unwrap();
    let count = count.map_or(0, |entry| entry.value);
    assert!(
        (successes..=successes + unknowns).contains(&count),
        "{count} counted of {successes} increments and {unknowns} unknown ones"
    );
}

fn list(client: &Client) -> Vec<Entry> {
    client.list("*").unwrap().map(Result::unwrap).collect()
}

/// The sums of what the mirrors of one process hold: everything, and what writers own.
fn sums(entries: &[Entry]) -> [String; 2] {
    let (mut all, mut written) = (Sum::default(), Sum::default());
    for entry in entries {
        let key = entry.key.as_str();
        all.add(key, entry.rev, &entry.value);
        if key.starts_with("w.") {
            written.add(key, entry.rev, &entry.value);
        }
    }
    [all, written].map(|sum| sum.finish().to_string())
}
