//! What is there after a power cut.
//!
//! The data directory is a file system of its own, on an image. Several writers put what they can,
//! until a system call shuts the file system down without writing anything more: what the disk has by
//! then is what the next start finds. The runtime directory goes, as at every boot.
//!
//! Writer `w` puts batches, one after the other: the key `w.N` of its own, the key `w.large` over and
//! over, so that journals are written anew all the time, and a boot key. So one look tells whether
//! batches are whole and what is there is a beginning of what happened:
//!
//! - the numbers of a writer are there without a gap, and `w.large` has the last of them,
//! - where a change is there, all acknowledged ones with smaller revisions are.
//!
//! How much has to be there is what the policies promise. Under `always` it is all that was
//! acknowledged. Under `interval` it is what was acknowledged before a sync that has ended; that it
//! has ended shows in the number of those that were begun later.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::ops::RangeFrom;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};

use serde_json::{Value, json};

use crate::support::{Client, Daemon, Plan, scaled, skip, until};

const WRITERS: usize = 4;

/// How many more syncs must have begun so that an earlier one has ended that concerns the journal: the
/// next one, and all that one rewrite may take on its own.
const SYNCS_UNTIL_SAFE: u64 = 24;

/// Waits for a line and shuts the file system down. Says whether a file was there then.
const CUT: &str = "
import fcntl, os, struct, sys
disk = os.open(sys.argv[1], os.O_RDONLY)
print('ready', flush=True)
sys.stdin.readline()
fcntl.ioctl(disk, 0x8004587d, struct.pack('I', 2))
print(os.path.exists(sys.argv[2]), flush=True)
";

#[test]
fn under_always_nothing_acknowledged_is_lost() {
    let Some(mut machine) = Machine::new("always") else {
        return;
    };
    for _ in 0..scaled(8, 2) {
        let acks = machine.run(|acks| acks.len() >= 100);
        machine.check(&acks, |ack| ack.in_time);
    }
}

#[test]
fn under_interval_nothing_older_is_lost() {
    let Some(mut machine) = Machine::new("interval=10") else {
        return;
    };
    // A rewrite would make everything safe on the way.
    machine.large_bytes = 100;
    for _ in 0..scaled(8, 2) {
        let acks = machine.run(|acks| {
            let first = acks.first().map_or(u64::MAX, |ack| ack.syncs);
            let last = acks.last().map_or(0, |ack| ack.syncs);
            last > first.saturating_add(SYNCS_UNTIL_SAFE + 2)
        });
        let last = acks.iter().map(|ack| ack.syncs).max().unwrap();
        machine.check(&acks, |ack| ack.syncs + SYNCS_UNTIL_SAFE <= last);
    }
}

#[test]
fn a_cut_during_a_rewrite_loses_nothing() {
    let Some(mut machine) = Machine::new("always") else {
        return;
    };
    machine.load();
    let new = machine.new_journal();
    let mut during = 0;
    let rounds = scaled(8, 3);
    for _ in 0..rounds {
        let acks = machine.run(|acks| !acks.is_empty() && new.exists());
        during += usize::from(machine.was_during);
        machine.check(&acks, |ack| ack.in_time);
    }
    println!("{during} of {rounds} cuts came during a rewrite");
    assert!(during > 0);
}

/// Nothing is written any more that would make the new journal safe.
#[test]
fn a_cut_right_after_a_rewrite_loses_nothing() {
    let Some(machine) = Machine::new("always") else {
        return;
    };
    let daemon = machine.plan.start();
    let mut cutter = Cutter::new(&machine.plan.data_directory(), &machine.new_journal());
    let mut client = daemon.connect();
    let value = "x".repeat(40_000);
    let mut last = 0;
    while client.counter("journal_rewrites") == 0 {
        last += 1;
        let put = json!({"op": "put", "key": "rewritten", "value": format!("{value}{last}")});
        client.do_it(&put.to_string());
        // Turns in which to write it anew, before anything else is put.
        (0..5).for_each(|_| client.ping());
    }
    cutter.cut();
    cutter.was_there();
    daemon.kill();
    machine.disk.remount();
    fs::remove_dir_all(machine.plan.runtime_directory()).unwrap();
    let found = entries(&mut machine.plan.start().connect(), "*");
    assert_eq!(found["rewritten"]["value"], format!("{value}{last}"));
}

/// No system call but a copy of the image: what the disk has at some moment.
#[test]
fn what_the_disk_has_is_enough() {
    let Some(mut machine) = Machine::new("always") else {
        return;
    };
    let daemon = machine.plan.start();
    let acks = machine.write(&daemon, |machine, acks, stop| {
        let taken: Vec<Ack> = acks.iter().take(100).collect();
        stop.store(true, Ordering::Relaxed);
        let taken = taken.into_iter().chain(acks.iter()).collect();
        machine.disk.copy();
        taken
    });
    daemon.kill();
    machine.disk.use_copy();
    machine.check(&acks, |_| true);
}

/// A change that was acknowledged.
#[derive(Clone, Copy, Debug)]
struct Ack {
    writer: usize,
    number: u64,
    rev: u64,
    /// How many syncs had begun when it was asked after the acknowledgement.
    syncs: u64,
    /// Whether it came before the cut. One that comes in the same moment is none: that system call
    /// lets a sync that is under way end well, as no power cut does.
    in_time: bool,
}

/// What can lose its power.
struct Machine {
    plan: Plan,
    disk: Disk,
    /// The number of each writer's next change.
    next: [u64; WRITERS],
    /// How long the values are that are put over and over.
    large_bytes: usize,
    /// The highest revision that anyone was told.
    rev: u64,
    epochs: HashSet<String>,
    /// Whether the last cut came during a rewrite.
    was_during: bool,
}

impl Machine {
    /// A new one; nothing where there can't be one, which is said.
    fn new(policy: &str) -> Option<Machine> {
        let plan = Plan::keeping().with(&["--sync", policy]);
        match Disk::new(&plan) {
            Ok(disk) => Some(Machine {
                plan,
                disk,
                next: [0; WRITERS],
                large_bytes: 40_000,
                rev: 0,
                epochs: HashSet::new(),
                was_during: false,
            }),
            Err(reason) => {
                skip(&reason);
                None
            }
        }
    }

    /// Puts so much that a rewrite takes a while.
    fn load(&mut self) {
        let daemon = self.plan.start();
        let mut client = daemon.connect();
        let value = "x".repeat(200_000);
        for number in 0..20 {
            let put = json!({"op": "put", "key": format!("load.{number}"), "value": value});
            client.do_it(&put.to_string());
        }
        daemon.stop();
    }

    fn new_journal(&self) -> PathBuf {
        self.plan.data_directory().join("durable.journal.new")
    }

    /// From a start to a cut, which comes when the writers have done enough.
    fn run(&mut self, is_enough: impl Fn(&[Ack]) -> bool) -> Vec<Ack> {
        let daemon = self.plan.start();
        let mut cutter = Cutter::new(&self.plan.data_directory(), &self.new_journal());
        let acks = self.write(&daemon, |_, acks, _| {
            let mut taken = Vec::new();
            until("the writers have done enough", || {
                taken.extend(acks.try_iter());
                is_enough(&taken)
            });
            cutter.cut();
            // The writers go on until they are refused.
            taken.extend(acks.iter().map(|ack| Ack {
                in_time: false,
                ..ack
            }));
            taken
        });
        self.was_during = cutter.was_there();
        daemon.kill();
        self.disk.remount();
        acks
    }

    /// Lets the writers write while `control` takes their acknowledgements.
    fn write(
        &mut self,
        daemon: &Daemon,
        control: impl FnOnce(&mut Machine, Receiver<Ack>, &AtomicBool) -> Vec<Ack>,
    ) -> Vec<Ack> {
        let stop = AtomicBool::new(false);
        let large_bytes = self.large_bytes;
        std::thread::scope(|scope| {
            let (sender, receiver) = mpsc::channel();
            for (writer, first) in self.next.into_iter().enumerate() {
                let (client, sender, stop) = (daemon.connect(), sender.clone(), &stop);
                scope.spawn(move || {
                    let numbers = first..;
                    write(client, writer, numbers, large_bytes, &sender, stop);
                });
            }
            drop(sender);
            control(self, receiver, &stop)
        })
    }

    /// Starts it again and holds what is there against what was acknowledged, of which some is needed.
    fn check(&mut self, acks: &[Ack], is_needed: impl Fn(&Ack) -> bool) {
        fs::remove_dir_all(self.plan.runtime_directory()).unwrap();
        let daemon = self.plan.start();
        let mut client = daemon.connect();
        let hello = client.do_it(r#"{"op":"hello"}"#);
        let epoch = hello["epoch"].as_str().unwrap();
        assert!(self.epochs.insert(epoch.to_owned()), "an old history");
        let found: Vec<Found> = (0..WRITERS)
            .map(|writer| Found::of(&mut client, writer))
            .collect();
        let newest = found.iter().map(|found| found.rev).max().unwrap();
        let needed: Vec<&Ack> = acks.iter().filter(|ack| is_needed(ack)).collect();
        assert!(!needed.is_empty(), "nothing is tested");
        for ack in acks {
            let is_there = ack.number < found[ack.writer].count;
            assert!(is_there || !is_needed(ack), "lost: {ack:?}, {found:?}");
            assert!(is_there || ack.rev > newest, "a gap: {ack:?}, {found:?}");
            self.rev = self.rev.max(ack.rev);
        }
        let there = |ack: &&Ack| ack.number < found[ack.writer].count;
        println!(
            "{} acknowledged, {} needed, {} there",
            acks.len(),
            needed.len(),
            acks.iter().filter(there).count()
        );
        let put = client.do_it(r#"{"op":"put","key":"again","value":1}"#);
        let rev = put["rev"].as_u64().unwrap();
        assert!(rev > self.rev, "{rev} is given again, after {}", self.rev);
        self.rev = rev;
        for (writer, found) in found.iter().enumerate() {
            self.next[writer] = found.count;
        }
        daemon.stop();
    }
}

/// Puts batches until one is refused, the daemon is gone, or it is to stop.
fn write(
    mut client: Client,
    writer: usize,
    numbers: RangeFrom<u64>,
    large_bytes: usize,
    acks: &Sender<Ack>,
    stop: &AtomicBool,
) {
    for number in numbers {
        // These revisions go with the machine.
        let boot = json!({"op": "put", "key": "boot", "value": number, "lifetime": "boot"});
        let large = format!("{}{number}", " ".repeat(large_bytes));
        let batch = json!({"op": "batch", "ops": [
            {"op": "put", "key": format!("{writer}.{number}"), "value": number},
            {"op": "put", "key": format!("{writer}.large"), "value": large},
            boot,
        ]});
        client.ask_if_there(&boot.to_string());
        let Some(response) = client.ask_if_there(&batch.to_string()) else {
            return;
        };
        if response["ok"] != true {
            return assert_eq!(response["error"], "read_only");
        }
        let Some(stats) = client.ask_if_there(r#"{"op":"stats"}"#) else {
            return;
        };
        let ack = Ack {
            writer,
            number,
            rev: response["rev"].as_u64().unwrap(),
            syncs: stats["journal_syncs"].as_u64().unwrap(),
            in_time: true,
        };
        // Whoever took them may have failed.
        if acks.send(ack).is_err() || stop.load(Ordering::Relaxed) {
            return;
        }
    }
}

/// What is there of a writer.
#[derive(Debug)]
struct Found {
    /// How many of its numbers, from 0 on.
    count: u64,
    rev: u64,
}

impl Found {
    /// Finds it, whole.
    fn of(client: &mut Client, writer: usize) -> Found {
        let entries = entries(client, &format!("{writer}.*"));
        let large = format!("{writer}.large");
        let rev = entries.values().map(|entry| entry["rev"].as_u64().unwrap());
        let rev = rev.max().unwrap_or(0);
        let numbers = entries.iter().filter(|(key, _)| **key != large);
        let numbers = numbers.map(|(_, entry)| entry["value"].as_u64().unwrap());
        let mut numbers: Vec<u64> = numbers.collect();
        numbers.sort_unstable();
        let count = numbers.len() as u64;
        assert!(numbers.into_iter().eq(0..count), "of {writer} some is lost");
        let last = entries
            .get(&large)
            .map(|entry| entry["value"].as_str().unwrap());
        let last = last.map(|value| value.trim_start().parse::<u64>().unwrap());
        assert_eq!(last, count.checked_sub(1), "half a batch of {writer}");
        Found { count, rev }
    }
}

/// All entries that match a pattern, page by page.
fn entries(client: &mut Client, pattern: &str) -> BTreeMap<String, Value> {
    let mut entries = BTreeMap::new();
    let mut request = json!({"op": "get", "key": pattern});
    loop {
        let mut page = client.do_it(&request.to_string());
        for entry in page["entries"].as_array_mut().unwrap() {
            let key = entry["key"].as_str().unwrap().to_owned();
            request["after"] = key.clone().into();
            entries.insert(key, entry.take());
        }
        if page["more"] != true {
            return entries;
        }
    }
}

/// A file system on an image, mounted at a plan's data directory as long as this lives.
struct Disk {
    mount: PathBuf,
    image: PathBuf,
    copy: PathBuf,
    /// Where the image is.
    _plan: Plan,
}

impl Disk {
    /// A new one, or the reason why there can't be one.
    fn new(plan: &Plan) -> Result<Disk, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("only root can mount".into());
        }
        run("python3", &["--version".as_ref()])?;
        let mount = plan.data_directory();
        let image = plan.directory().join("image");
        File::create(&image).unwrap().set_len(128 << 20).unwrap();
        run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), &image])?;
        fs::create_dir(&mount).unwrap();
        let disk = Disk {
            mount,
            copy: plan.directory().join("copy"),
            image,
            _plan: plan.clone(),
        };
        // On failure its drop has nothing to unmount, and doesn't mind.
        disk.mount()?;
        Ok(disk)
    }

    /// Mounts it so that nothing gets to the disk in passing, or because of a rename.
    fn mount(&self) -> Result<(), String> {
        let options = ["-t", "ext4", "-o", "loop,commit=600,noauto_da_alloc"].map(Path::new);
        let [a, b, c, d] = options;
        run("mount", &[a, b, c, d, &self.image, &self.mount])
    }

    fn remount(&self) {
        run("umount", &[&self.mount]).unwrap();
        self.mount().unwrap();
    }

    /// Copies what has got to the disk until now.
    fn copy(&self) {
        run("cp", &["--sparse=always".as_ref(), &self.image, &self.copy]).unwrap();
    }

    /// Goes on with the copy.
    fn use_copy(&self) {
        run("umount", &[&self.mount]).unwrap();
        fs::rename(&self.copy, &self.image).unwrap();
        self.mount().unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: what still uses it, where a test has failed, is about to end. The loop device goes
        // with the mount.
        let _ = run("umount", &["--lazy".as_ref(), &self.mount]);
    }
}

fn run(program: &str, arguments: &[&Path]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("{program} can't be started: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{program}: {reason}"))
}

/// A program that is ready to shut a file system down.
struct Cutter {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Cutter {
    fn new(mount: &Path, looked_at: &Path) -> Cutter {
        let mut child = Command::new("python3")
            .args(["-c", CUT])
            .arg(mount)
            .arg(looked_at)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut cutter = Cutter { child, lines };
        assert_eq!(cutter.line(), "ready");
        cutter
    }

    fn cut(&mut self) {
        let mut stdin = self.child.stdin.take().unwrap();
        stdin.write_all(b"now\n").unwrap();
    }

    /// Waits for its end, and tells whether what it looks at was there at the cut.
    fn was_there(mut self) -> bool {
        let line = self.line();
        assert!(self.child.wait().unwrap().success());
        line == "True"
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
