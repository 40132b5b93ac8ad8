//! Storage that fails under a running daemon: a full disk, and a disk that says that it has failed.
//!
//! Whatever happens, a write that is refused has never been there, for anyone, and one that was
//! acknowledged stays. All else goes on meanwhile, and the daemon gets over it by itself.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use crate::disk::SmallDisk;
use crate::support::{Client, Daemon, Plan, skip, until};

/// What was acknowledged, for one lifetime at a time, and what was not.
struct Writer {
    client: Client,
    lifetime: &'static str,
    acknowledged: BTreeMap<String, Value>,
    refused: Vec<String>,
}

impl Writer {
    fn new(daemon: &Daemon, lifetime: &'static str) -> Writer {
        Writer {
            client: daemon.connect(),
            lifetime,
            acknowledged: BTreeMap::new(),
            refused: Vec::new(),
        }
    }

    /// Puts a key that is new, and asks for it at once, with something that can be kept in any case
    /// before and after. Returns whether it was taken.
    fn put(&mut self) -> bool {
        let number = self.acknowledged.len() + self.refused.len();
        let (key, lifetime) = (format!("k.{number}"), self.lifetime);
        let other = match lifetime {
            "durable" => "boot",
            _ => "durable",
        };
        let value = "v".repeat(300);
        let other = |n: u32| {
            format!(r#"{{"op":"put","key":"other.{n}","value":{number},"lifetime":"{other}"}}"#)
        };
        let lines = [
            other(1),
            format!(r#"{{"op":"put","key":"{key}","value":"{value}","lifetime":"{lifetime}"}}"#),
            format!(r#"{{"op":"get","key":"{key}"}}"#),
            format!(r#"{{"op":"get","key":"{key}.*"}}"#),
            other(2),
        ];
        self.client.send(&lines.join("\n"));
        let answers: Vec<Value> = lines.iter().map(|_| self.client.response()).collect();
        for other in [0, 4] {
            assert_eq!(answers[other]["ok"], true, "{answers:?}");
        }
        let seen = answers[3]["entries"].as_array().unwrap().len();
        if answers[1]["ok"] == true {
            assert_eq!(answers[2]["value"], value, "{answers:?}");
            assert_eq!(seen, 1);
            self.acknowledged.insert(key, value.into());
            return true;
        }
        assert_eq!(answers[1]["error"], "read_only", "{answers:?}");
        assert_eq!(answers[2]["error"], "not_found", "{answers:?}");
        assert_eq!(seen, 0);
        self.refused.push(key);
        false
    }

    /// Puts until it is refused, which is to be soon.
    fn put_until_refused(&mut self) {
        for _ in 0..1000 {
            if !self.put() {
                return;
            }
        }
        panic!("nothing is refused");
    }

    /// Waits until puts are taken again.
    fn put_until_taken(&mut self) {
        until("writes are accepted", || self.put());
    }

    /// Makes sure that all that was acknowledged is there, and nothing that was refused.
    fn check(&self, daemon: &Daemon) {
        let mut client = daemon.connect();
        let mut found: BTreeMap<String, Value> = BTreeMap::new();
        // There may be more than a page of them: a failure that nobody waits for comes when it comes.
        loop {
            let last = found.last_key_value();
            let after = last.map_or(String::new(), |(key, _)| format!(r#","after":"{key}""#));
            let list = client.do_it(&format!(r#"{{"op":"get","key":"k.*"{after}}}"#));
            for entry in list["entries"].as_array().unwrap() {
                let key = entry["key"].as_str().unwrap().to_owned();
                found.insert(key, entry["value"].clone());
            }
            if list["more"] != true {
                break;
            }
        }
        let keys = |map: &BTreeMap<String, Value>| map.keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&found), keys(&self.acknowledged));
        assert!(found == self.acknowledged, "a value is another");
    }
}

/// The state in which the journal of a lifetime can't be written to.
fn check_refusing(daemon: &Daemon, writer: &mut Writer) {
    let mut client = daemon.connect();
    assert_eq!(client.counter("read_only"), 1);
    assert!(client.counter("journal_failures") > 0);
    daemon.wait_for_log("are refused until a complete new one can be written");
    writer.check(daemon);
    let (other, mine) = match writer.lifetime {
        "durable" => ("boot", "durable"),
        _ => ("durable", "boot"),
    };
    let put = |key: &str, lifetime: &str| {
        format!(r#"{{"op":"put","key":"{key}","value":1,"lifetime":"{lifetime}"}}"#)
    };
    client.do_it(&put("fine", other));
    let (fine, refused) = (put("mixed.fine", other), put("mixed.refused", mine));
    let batch = format!(r#"{{"op":"batch","ops":[{fine},{refused}]}}"#);
    assert_eq!(client.fail(&batch), "read_only");
    let mixed = client.do_it(r#"{"op":"get","key":"mixed.*"}"#);
    assert_eq!(mixed["entries"], Value::Array(Vec::new()));
    for line in [
        put("k.0", mine),
        // What is there would have to go from where it is.
        put("k.0", other),
        r#"{"op":"delete","key":"k.0"}"#.to_owned(),
        r#"{"op":"delete","key":"k.*"}"#.to_owned(),
    ] {
        assert_eq!(client.fail(&line), "read_only", "{line}");
    }
    writer.check(daemon);
    // A subscription that begins now, and one change that it can be told.
    client.subscribe("*");
    client.do_it(&put("fine", other));
    assert_eq!(client.event()["key"], "fine");
}

/// The state after that: nothing is left of it but what was counted and logged. The subscriber was
/// there from the beginning.
fn check_accepting(daemon: &Daemon, writer: &mut Writer, subscriber: &mut Client) {
    writer.put_until_taken();
    daemon.wait_for_log("are accepted again");
    let mut client = daemon.connect();
    assert_eq!(client.counter("read_only"), 0);
    assert!(client.counter("journal_failures") > 0);
    writer.check(daemon);
    for _ in 0..writer.acknowledged.len() {
        let event = subscriber.event();
        let key = event["key"].as_str().unwrap();
        assert_eq!(event["value"], writer.acknowledged[key], "{key}");
    }
}

/// A daemon whose journal for a lifetime is on a small disk, and a subscriber.
fn on_a_small_disk(lifetime: &'static str) -> Option<(Plan, SmallDisk, Daemon, Client)> {
    let plan = Plan::keeping();
    let disk = SmallDisk::mount(match lifetime {
        "durable" => plan.data_directory(),
        _ => plan.runtime_directory(),
    })?;
    let daemon = plan.start();
    let mut subscriber = daemon.connect();
    subscriber.subscribe("k.*");
    Some((plan, disk, daemon, subscriber))
}

fn a_full_disk_passes(lifetime: &'static str) {
    let Some((plan, disk, daemon, mut subscriber)) = on_a_small_disk(lifetime) else {
        return;
    };
    let mut writer = Writer::new(&daemon, lifetime);
    assert!(writer.put());
    disk.fill();
    writer.put_until_refused();
    check_refusing(&daemon, &mut writer);
    disk.make_room();
    check_accepting(&daemon, &mut writer, &mut subscriber);
    daemon.kill();
    let daemon = plan.start();
    writer.check(&daemon);
    daemon.stop();
}

fn a_crash_on_a_full_disk_loses_nothing(lifetime: &'static str) {
    let Some((plan, disk, daemon, _)) = on_a_small_disk(lifetime) else {
        return;
    };
    let mut writer = Writer::new(&daemon, lifetime);
    assert!(writer.put());
    disk.fill();
    writer.put_until_refused();
    check_refusing(&daemon, &mut writer);
    daemon.kill();
    disk.make_room();
    let daemon = plan.start();
    writer.check(&daemon);
    daemon.stop();
}

#[test]
fn a_full_disk_refuses_durable_writes_until_there_is_room() {
    a_full_disk_passes("durable");
}

#[test]
fn a_full_runtime_directory_refuses_boot_writes_until_there_is_room() {
    a_full_disk_passes("boot");
}

#[test]
fn a_crash_while_durable_writes_are_refused_loses_nothing() {
    a_crash_on_a_full_disk_loses_nothing("durable");
}

#[test]
fn a_crash_while_boot_writes_are_refused_loses_nothing() {
    a_crash_on_a_full_disk_loses_nothing("boot");
}

/// A plan with journals, and a daemon of it that is told that some syncs have failed.
fn with_failing_syncs(options: &[&str], faults: &[&str]) -> Option<(Plan, Daemon)> {
    let trace = "trace=fdatasync,fsync";
    let mut tried = Command::new("strace");
    tried.args(["-o", "/dev/null", "-e", trace, "true"]);
    if !tried.status().is_ok_and(|status| status.success()) {
        skip("strace can't trace anything");
        return None;
    }
    let plan = Plan::keeping().with(options);
    // The journals are made without anything that fails.
    plan.start().stop();
    let output = plan.directory().join("trace");
    // With -D the process that is started is the daemon.
    let mut launcher = vec![
        "strace",
        "-D",
        "-f",
        "-o",
        output.to_str().unwrap(),
        "-e",
        trace,
    ];
    launcher.extend(faults.iter().flat_map(|fault| ["-e", fault]));
    let daemon = plan.clone().under(&launcher).start();
    Some((plan, daemon))
}

/// The first sync of a start is that of what is reserved. The one after the next fails.
const THIRD: &str = "inject=fdatasync:error=EIO:when=3";

#[test]
fn a_failed_sync_is_not_believed_until_all_is_written_anew() {
    // The directory's sync fails when the new journal has just got its name.
    let Some((plan, daemon)) = with_failing_syncs(&[], &[THIRD, "inject=fsync:error=EIO:when=2"])
    else {
        return;
    };
    let mut subscriber = daemon.connect();
    subscriber.subscribe("k.*");
    let mut writer = Writer::new(&daemon, "durable");
    writer.put_until_refused();
    check_refusing(&daemon, &mut writer);
    daemon.wait_for_log("can't be written anew");
    check_refusing(&daemon, &mut writer);
    check_accepting(&daemon, &mut writer, &mut subscriber);
    daemon.kill();
    writer.check(&plan.start());
}

#[test]
fn a_crash_after_a_failed_sync_loses_nothing() {
    let Some((plan, daemon)) = with_failing_syncs(&[], &[THIRD]) else {
        return;
    };
    let mut writer = Writer::new(&daemon, "durable");
    writer.put_until_refused();
    check_refusing(&daemon, &mut writer);
    daemon.kill();
    writer.check(&plan.start());
}

/// The sync of an interval is made on another thread, and nobody waits for it. Each thread's syncs are
/// counted by themselves.
#[test]
fn a_failed_sync_in_the_background_is_noticed() {
    let second = "inject=fdatasync:error=EIO:when=2";
    for is_killed in [false, true] {
        let Some((plan, daemon)) = with_failing_syncs(&["--sync", "interval=50"], &[second]) else {
            return;
        };
        let mut subscriber = daemon.connect();
        subscriber.subscribe("k.*");
        let mut writer = Writer::new(&daemon, "durable");
        until("a sync fails", || !writer.put());
        check_refusing(&daemon, &mut writer);
        if !is_killed {
            check_accepting(&daemon, &mut writer, &mut subscriber);
        }
        daemon.kill();
        writer.check(&plan.start());
    }
}
