//! What is there after a clean stop, after a kill, and after a reboot.

use serde_json::Value;

use crate::support::{Daemon, Plan};

const PUTS: [&str; 4] = [
    r#"{"op":"put","key":"d","value":{"a": 1.0}}"#,
    r#"{"op":"put","key":"raw","base64":"AAE="}"#,
    r#"{"op":"put","key":"b","value":"boot","lifetime":"boot"}"#,
    r#"{"op":"put","key":"t","value":1,"ttl_ms":100000000}"#,
];

/// Every entry, without what is left of its time.
fn entries(daemon: &Daemon) -> Vec<Value> {
    let mut list = daemon.connect().do_it(r#"{"op":"get","key":"*"}"#);
    let entries = list["entries"].as_array_mut().unwrap();
    for entry in entries.iter_mut() {
        entry.as_object_mut().unwrap().remove("ttl_ms");
    }
    std::mem::take(entries)
}

fn epoch(daemon: &Daemon) -> String {
    let hello = daemon.connect().do_it(r#"{"op":"hello"}"#);
    hello["epoch"].as_str().unwrap().to_owned()
}

#[test]
fn everything_is_there_after_a_stop_and_after_a_kill() {
    let plan = Plan::keeping();
    let daemon = plan.start();
    let mut client = daemon.connect();
    for line in PUTS {
        client.do_it(line);
    }
    let (before, first) = (entries(&daemon), epoch(&daemon));
    assert_eq!(before.len(), 4);
    daemon.kill();
    let daemon = plan.start();
    assert_eq!(entries(&daemon), before);
    assert_eq!(epoch(&daemon), first);
    daemon.stop();
    let daemon = plan.start();
    assert_eq!(entries(&daemon), before);
    assert_eq!(epoch(&daemon), first);
}

/// A reboot is the loss of the runtime directory.
#[test]
fn durable_entries_alone_are_there_after_a_reboot() {
    let plan = Plan::keeping();
    let daemon = plan.start();
    let mut client = daemon.connect();
    for line in PUTS {
        client.do_it(line);
    }
    // Replaced by what goes with the machine, it goes as well.
    client.do_it(r#"{"op":"put","key":"raw","value":1,"lifetime":"boot"}"#);
    let first = epoch(&daemon);
    daemon.stop();
    std::fs::remove_dir_all(plan.runtime_directory()).unwrap();
    let daemon = plan.start();
    let keys: Vec<Value> = entries(&daemon)
        .iter()
        .map(|entry| entry["key"].clone())
        .collect();
    assert_eq!(keys, ["d"]);
    assert_ne!(epoch(&daemon), first);
}

/// A disk may store later parts of a file and not earlier ones, of what it was not asked to have. Then
/// the beginning counts. Without a power cut the same file is damaged.
#[test]
fn holes_that_a_power_cut_leaves_end_the_history() {
    let plan = Plan::keeping().with(&["--sync", "never"]);
    let daemon = plan.start();
    let mut client = daemon.connect();
    for key in ["a", "b", "c", "d"] {
        client.do_it(&format!(r#"{{"op":"put","key":"{key}","value":1}}"#));
    }
    let first = epoch(&daemon);
    daemon.kill();
    let path = plan.data_directory().join("durable.journal");
    let text = std::fs::read_to_string(&path).unwrap();
    let holed = text.replace(r#""key":"c""#, "\0\0\0\0\0\0\0\0\0");
    std::fs::write(&path, &holed).unwrap();
    assert_eq!(plan.run().status.code(), Some(4));
    std::fs::remove_dir_all(plan.runtime_directory()).unwrap();
    let daemon = plan.start();
    let keys: Vec<Value> = entries(&daemon)
        .iter()
        .map(|entry| entry["key"].clone())
        .collect();
    assert_eq!(keys, ["a", "b"]);
    assert_ne!(epoch(&daemon), first);
    assert!(daemon.log().contains("are cut off"), "{}", daemon.log());
    let aside = std::fs::read_to_string(path.with_extension("journal.damaged"));
    assert_eq!(aside.unwrap(), holed);
}
