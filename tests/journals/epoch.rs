//! Which starts go on with the history, and which begin another.
//!
//! The epoch says to those who resume that nothing is missing. So it stays only where the daemon knows
//! that, and even a new one does not use a revision again that it has seen.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Daemon, Plan};

const DURABLE: &str = r#"{"op":"put","key":"d","value":1}"#;
const BOOT: &str = r#"{"op":"put","key":"b","value":1,"lifetime":"boot"}"#;
const BOTH: &str = r#"{"op":"batch","ops":[{"op":"put","key":"d","value":2},{"op":"put","key":"b","value":2,"lifetime":"boot"}]}"#;

fn start(plan: &Plan) -> (Daemon, String) {
    let daemon = plan.start();
    let hello = daemon.connect().do_it(r#"{"op":"hello"}"#);
    (daemon, hello["epoch"].as_str().unwrap().to_owned())
}

/// Starts, does this, and returns the last revision, the daemon and the epoch.
fn start_and_do(plan: &Plan, lines: &[&str]) -> (u64, Daemon, String) {
    let (daemon, epoch) = start(plan);
    let mut client = daemon.connect();
    let done = lines.iter().map(|line| client.do_it(line));
    let rev = done.last().unwrap()["rev"].as_u64().unwrap();
    (rev, daemon, epoch)
}

/// Starts anew after whatever was done to the files, makes sure that no revision is used again, and
/// returns the epoch.
fn start_again(plan: &Plan, last_rev: u64) -> String {
    let (rev, daemon, epoch) = start_and_do(plan, &[DURABLE]);
    assert!(rev > last_rev, "{rev} after {last_rev}");
    daemon.stop();
    epoch
}

fn value(daemon: &Daemon, key: &str) -> Value {
    let get = format!(r#"{{"op":"get","key":"{key}"}}"#);
    daemon.connect().ask(&get)["value"].clone()
}

fn durable(plan: &Plan) -> PathBuf {
    plan.data_directory().join("durable.journal")
}

fn boot(plan: &Plan) -> PathBuf {
    plan.runtime_directory().join("boot.journal")
}

#[test]
fn it_outlives_the_daemon() {
    let plan = Plan::keeping();
    let (rev, daemon, first) = start_and_do(&plan, &[DURABLE, BOOT, BOTH]);
    daemon.kill();
    assert_eq!(start_again(&plan, rev), first);
    let (rev, daemon, epoch) = start_and_do(&plan, &[BOOT]);
    assert_eq!(epoch, first);
    daemon.stop();
    assert_eq!(start_again(&plan, rev), first);
}

#[test]
fn a_reboot_ends_it() {
    for is_killed in [false, true] {
        let plan = Plan::keeping();
        let (rev, daemon, first) = start_and_do(&plan, &[DURABLE, BOOT]);
        if is_killed {
            daemon.kill();
        } else {
            daemon.stop();
        }
        fs::remove_dir_all(plan.runtime_directory()).unwrap();
        assert_ne!(start_again(&plan, rev), first);
    }
}

#[test]
fn a_lost_data_directory_ends_it() {
    let plan = Plan::keeping();
    let (_, daemon, first) = start_and_do(&plan, &[DURABLE, BOOT]);
    daemon.stop();
    fs::remove_dir_all(plan.data_directory()).unwrap();
    let (daemon, epoch) = start(&plan);
    assert_ne!(epoch, first);
    assert_eq!(value(&daemon, "b"), Value::Null);
    assert!(daemon.stop().contains("goes with another data directory"));
}

#[test]
fn recovered_damage_ends_it() {
    for file in [durable as fn(&Plan) -> PathBuf, boot] {
        let plan = Plan::keeping();
        let (rev, daemon, first) = start_and_do(&plan, &[BOTH, DURABLE, BOOT]);
        daemon.kill();
        let path = file(&plan);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen("\"value\":2", "\"value\":3", 1)).unwrap();
        let epoch = start_again(&plan.clone().with(&["--recover"]), rev);
        assert_ne!(epoch, first);
        // That is a history as good as any.
        assert_eq!(start(&plan).1, epoch);
    }
}

/// Whole lines that are not sound: no crash of the daemon leaves that.
#[test]
fn a_tail_of_whole_lines_ends_it() {
    for file in [durable as fn(&Plan) -> PathBuf, boot] {
        let plan = Plan::keeping();
        let (rev, daemon, first) = start_and_do(&plan, &[BOTH]);
        daemon.kill();
        let text = fs::read(file(&plan)).unwrap();
        fs::write(file(&plan), [&text[..], b"garbage\n"].concat()).unwrap();
        assert_ne!(start_again(&plan, rev), first);
    }
}

fn copy(path: &Path) -> PathBuf {
    let backup = path.with_extension("backup");
    fs::copy(path, &backup).unwrap();
    backup
}

/// The boot journal knows that a clean stop has written more.
#[test]
fn a_backup_from_before_a_clean_stop_ends_it() {
    for is_clean in [true, false] {
        let plan = Plan::keeping();
        let (_, daemon, first) = start_and_do(&plan, &[DURABLE]);
        let mut backup = copy(&durable(&plan));
        daemon.stop();
        if is_clean {
            backup = copy(&durable(&plan));
        }
        let (rev, daemon, epoch) = start_and_do(&plan, &[DURABLE, DURABLE]);
        assert_eq!(epoch, first);
        daemon.stop();
        fs::rename(&backup, durable(&plan)).unwrap();
        assert_ne!(start_again(&plan, rev), first, "clean: {is_clean}");
    }
}

/// The boot journal has a line that counts on one that the durable journal has not, and it is not the
/// last one.
#[test]
fn a_backup_from_before_a_change_of_both_ends_it() {
    for is_clean in [true, false] {
        let plan = Plan::keeping();
        let (_, daemon, first) = start_and_do(&plan, &[DURABLE]);
        let mut backup = copy(&durable(&plan));
        daemon.stop();
        if is_clean {
            backup = copy(&durable(&plan));
        }
        let (rev, daemon, epoch) = start_and_do(&plan, &[BOTH, BOOT, DURABLE]);
        assert_eq!(epoch, first);
        daemon.kill();
        fs::rename(&backup, durable(&plan)).unwrap();
        assert_ne!(start_again(&plan, rev), first, "clean: {is_clean}");
    }
}

/// The boot journal has taken over an entry that the durable journal has not given up. The entry does not
/// come back, not even when the boot journal is gone.
#[test]
fn a_lost_displacement_ends_it() {
    let over = r#"{"op":"put","key":"d","value":2,"lifetime":"boot"}"#;
    let delete = r#"{"op":"delete","key":"d"}"#;
    let other = r#"{"op":"put","key":"e","value":1}"#;
    for (acts, left) in [
        (&[DURABLE, over, other][..], Value::from(2)),
        (&[DURABLE, over, delete, other], Value::Null),
    ] {
        let plan = Plan::keeping();
        let (_, daemon, first) = start_and_do(&plan, acts);
        daemon.kill();
        let text = fs::read_to_string(durable(&plan)).unwrap();
        let kept = text.lines().filter(|line| !line.contains("displace"));
        let kept: String = kept.map(|line| format!("{line}\n")).collect();
        assert_ne!(kept, text);
        fs::write(durable(&plan), kept).unwrap();
        let (daemon, epoch) = start(&plan);
        assert_ne!(epoch, first);
        assert_eq!(value(&daemon, "d"), left);
        assert!(daemon.stop().contains("counts on what the other journal"));
        let (daemon, again) = start(&plan);
        assert_eq!((again, value(&daemon, "d")), (epoch, left));
        daemon.stop();
        fs::remove_file(boot(&plan)).unwrap();
        assert_eq!(value(&start(&plan).0, "d"), Value::Null);
    }
}

#[test]
fn another_data_directory_ends_it() {
    let plan = Plan::keeping();
    let (_, daemon, first) = start_and_do(&plan, &[DURABLE, BOOT]);
    daemon.stop();
    let before = fs::read(boot(&plan)).unwrap();
    let other = plan.directory().join("other");
    let other = plan.clone().with(&["--data-dir", other.to_str().unwrap()]);
    let (daemon, epoch) = start(&other);
    assert_ne!(epoch, first);
    assert_eq!(value(&daemon, "b"), Value::Null);
    assert_eq!(value(&daemon, "d"), Value::Null);
    let log = daemon.stop();
    assert!(log.contains("goes with another data directory"), "{log}");
    let aside = boot(&plan).with_extension("journal.damaged");
    assert_eq!(fs::read(aside).unwrap(), before);
    // The first one's boot entries were not lost with a crash, but nobody can tell.
    let (daemon, epoch) = start(&plan);
    assert_ne!(epoch, first);
    assert_eq!(value(&daemon, "d"), 1);
}

/// A runtime directory that did not go with the machine.
#[test]
fn a_boot_journal_of_another_run_of_the_machine_is_not_used() {
    let plan = Plan::keeping();
    let (rev, daemon, first) = start_and_do(&plan, &[DURABLE, BOOT]);
    daemon.stop();
    let text = fs::read_to_string(boot(&plan)).unwrap();
    let (header, rest) = text.split_once('\n').unwrap();
    let mut header: Value = serde_json::from_str(&header[9..]).unwrap();
    header["boot"] = "another".into();
    let header = header.to_string();
    let checksum = crc32fast::hash(header.as_bytes());
    fs::write(boot(&plan), format!("{checksum:08x} {header}\n{rest}")).unwrap();
    let (daemon, epoch) = start(&plan);
    assert_ne!(epoch, first);
    assert_eq!(value(&daemon, "b"), Value::Null);
    assert_eq!(value(&daemon, "d"), 1);
    assert!(daemon.stop().contains("of an earlier run of the machine"));
    assert_eq!(start(&plan).1, epoch);
    start_again(&plan, rev);
}
