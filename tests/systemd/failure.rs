//! What systemd makes of a daemon that is stuck, dies, or can't start.

use std::time::Duration;

use serde_json::Value;

use crate::machine::Machine;
use crate::support::until;

const SERVICE: &str = "nkv.service";

#[test]
fn a_stuck_loop_is_started_anew() {
    let Some(machine) = Machine::with_nkv() else {
        return;
    };
    machine.add_to(SERVICE, "[Service]\nWatchdogSec=2s\n");
    let mut client = machine.connect();
    client.do_it(r#"{"op":"put","key":"boot","value":1,"lifetime":"boot"}"#);
    client.do_it(r#"{"op":"put","key":"durable","value":2}"#);
    let epoch = client.do_it(r#"{"op":"hello"}"#)["epoch"].clone();
    let stuck = machine.main_process(SERVICE).unwrap();
    machine.run("systemctl kill -s STOP nkv.service");

    // The end of the connection is what a client sees of it.
    assert!(client.next_line().is_none());
    let mut client = machine.connect();
    let get = |key| format!(r#"{{"op":"get","key":"{key}"}}"#);
    assert_eq!(client.do_it(&get("boot"))["value"], 1);
    assert_eq!(client.do_it(&get("durable"))["value"], 2);
    assert_eq!(client.do_it(r#"{"op":"hello"}"#)["epoch"], epoch);
    assert_ne!(machine.main_process(SERVICE), Some(stuck));
    assert_eq!(machine.property(SERVICE, "NRestarts"), "1");
    machine.wait_for_journal(SERVICE, "Watchdog timeout");
}

/// More crashes than any start limit lets pass, and nobody has to come.
#[test]
fn no_number_of_crashes_is_the_last() {
    let Some(machine) = Machine::with_nkv() else {
        return;
    };
    for round in 0..12 {
        let mut client = machine.connect();
        client.ping();
        machine.run("systemctl kill -s ABRT nkv.service");
        assert!(client.next_line().is_none(), "round {round}");
    }
    machine.connect().ping();
    assert_eq!(machine.property("nkv.socket", "ActiveState"), "active");
}

#[test]
fn a_damaged_journal_waits_for_its_repair() {
    let Some(machine) = Machine::with_nkv() else {
        return;
    };
    let mut client = machine.connect();
    client.do_it(r#"{"op":"put","key":"a","value":8080}"#);
    client.do_it(r#"{"op":"put","key":"b","value":1}"#);
    machine.run("systemctl stop nkv.service");
    let journal = machine.path("/var/lib/nkv/durable.journal");
    let sound = std::fs::read_to_string(&journal).unwrap();
    std::fs::write(&journal, sound.replace("8080", "9090")).unwrap();

    // Whoever asks has it tried, and waits.
    let mut early = machine.connect();
    early.send(r#"{"op":"get","key":"a"}"#);
    machine.wait_for(SERVICE, "ExecMainStatus", "4");
    assert_eq!(machine.property(SERVICE, "Result"), "exit-code");
    machine.wait_for_journal(SERVICE, "durable.journal is damaged in line");

    // It is tried again as long as somebody waits, but not over and over.
    until("it has been tried three times", || {
        tries(&machine).len() >= 3
    });
    for pair in tries(&machine).windows(2) {
        assert!(pair[1] - pair[0] >= Duration::from_secs(5), "{pair:?}");
    }
    assert_eq!(machine.property("nkv.socket", "ActiveState"), "active");
    // Not because it was to be restarted, which would go on with nobody waiting.
    assert_eq!(machine.property(SERVICE, "NRestarts"), "0");

    // After the repair the next try is a success, for who has waited and for others.
    std::fs::write(&journal, sound).unwrap();
    assert_eq!(early.response()["value"], 8080);
    machine.connect().ping();
    assert_eq!(machine.property(SERVICE, "ActiveState"), "active");
}

/// When the daemon has found the damage, since the boot.
fn tries(machine: &Machine) -> Vec<Duration> {
    machine.run("journalctl --sync");
    let lines = machine.run("journalctl -q -o json _SYSTEMD_UNIT=nkv.service");
    let entries = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let found = entries.filter(|entry| {
        let message = entry["MESSAGE"].as_str().unwrap_or_default();
        message.contains("is damaged in line")
    });
    let times = found.map(|entry| {
        let micros = entry["__MONOTONIC_TIMESTAMP"].as_str().unwrap().parse();
        Duration::from_micros(micros.unwrap())
    });
    times.collect()
}

#[test]
fn bad_options_are_not_tried_again() {
    let Some(machine) = Machine::with_nkv() else {
        return;
    };
    machine.write("/etc/default/nkv", "NKV_OPTIONS=--nonsense\n");
    machine.fail("systemctl start nkv.service");
    assert_eq!(machine.property(SERVICE, "ActiveState"), "failed");
    assert_eq!(machine.property(SERVICE, "ExecMainStatus"), "2");
    assert_eq!(machine.property(SERVICE, "NRestarts"), "0");
    assert!(machine.journal(SERVICE).contains("--nonsense"));
    machine.write("/etc/default/nkv", "");
    machine.connect().ping();
}
