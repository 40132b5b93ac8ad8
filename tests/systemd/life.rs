//! The service as it is meant to go: started by who asks, ready when it is, stopped, told apart.

use std::process::Stdio;

use serde_json::Value;

use crate::machine::Machine;
use crate::support::{Client, until};

const SERVICE: &str = "nkv.service";

#[test]
fn the_first_client_starts_it() {
    let Some(machine) = Machine::with_nkv() else {
        return;
    };
    assert_eq!(machine.property(SERVICE, "ActiveState"), "inactive");
    assert_eq!(machine.main_process(SERVICE), None);
    assert_eq!(
        machine.run("stat -c %U:%G:%a /run/nkv.sock"),
        "root:nkv:660\n"
    );

    machine.connect().ping();
    assert_eq!(machine.property(SERVICE, "ActiveState"), "active");
    for place in ["/var/lib/nkv", "/run/nkv"] {
        let found = machine.run(&format!("stat -c %U:%G:%a {place}"));
        assert_eq!(found, "nkv:nkv:700\n", "{place}");
    }
    // The command line finds it by itself, and a stop of the socket leaves nothing that refuses.
    machine.run("nkv-client ping");
    machine.run("systemctl stop nkv.socket nkv.service");
    assert!(!machine.socket().exists());
    assert_eq!(machine.property(SERVICE, "Result"), "success");
}

#[test]
fn it_is_ready_when_the_journals_are_read() {
    let Some(machine) = Machine::with_nkv() else {
        return;
    };
    machine.run("systemctl start nkv.service");
    let status = machine.property(SERVICE, "StatusText");
    assert_eq!(status, "0 clients, 0 keys, revision 0");
    machine
        .connect()
        .do_it(r#"{"op":"put","key":"a","value":1}"#);
    machine.run("systemctl stop nkv.service");
    // A journal that gives nothing until somebody writes into it takes as long to read as is wanted.
    let journal = machine.path("/var/lib/nkv/durable.journal");
    let aside = journal.with_extension("aside");
    std::fs::rename(&journal, &aside).unwrap();
    machine.run("mkfifo -m 666 /var/lib/nkv/durable.journal");

    let mut start = machine
        .command(&["systemctl", "start", SERVICE])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    machine.wait_for(SERVICE, "StatusText", "Reading the journals");
    assert_eq!(machine.property(SERVICE, "ActiveState"), "activating");
    assert!(start.try_wait().unwrap().is_none(), "not yet");
    let mut client = machine.connect();
    client.send(r#"{"op":"get","key":"a"}"#);

    // It gets the whole journal after all, from another start.
    std::fs::rename(&aside, &journal).unwrap();
    machine.run("systemctl kill -s KILL nkv.service");
    assert_eq!(client.response()["value"], 1);
    start.wait().unwrap();
    machine.wait_for(SERVICE, "ActiveState", "active");
    let status = machine.property(SERVICE, "StatusText");
    assert!(status.contains("1 key, revision "), "{status}");
}

#[test]
fn its_status_tells_how_it_is() {
    let Some(machine) = Machine::with_nkv() else {
        return;
    };
    // With the signs of life, so here every two seconds.
    machine.add_to(SERVICE, "[Service]\nWatchdogSec=4s\n");
    let mut client = machine.connect();
    client.do_it(r#"{"op":"put","key":"a","value":1}"#);
    client.do_it(r#"{"op":"put","key":"b","value":1,"lifetime":"boot"}"#);
    machine.wait_for(SERVICE, "StatusText", "1 client, 2 keys, revision 2");
    let _other = machine.connect();
    machine.wait_for(SERVICE, "StatusText", "2 clients, 2 keys, revision 2");
}

#[test]
fn an_idle_daemon_leaves_and_comes_back() {
    let Some(machine) = Machine::with_nkv() else {
        return;
    };
    machine.write("/etc/default/nkv", "NKV_OPTIONS=\"--idle-exit 1\"\n");
    let mut client = machine.connect();
    client.do_it(r#"{"op":"put","key":"boot","value":1,"lifetime":"boot"}"#);
    client.do_it(r#"{"op":"put","key":"durable","value":2}"#);
    let epoch = client.do_it(r#"{"op":"hello"}"#)["epoch"].clone();
    drop(client);
    machine.wait_for(SERVICE, "ActiveState", "inactive");
    assert_eq!(machine.property(SERVICE, "Result"), "success");
    assert_eq!(machine.property("nkv.socket", "SubState"), "listening");

    let mut client = machine.connect();
    let get = |client: &mut Client, key| {
        client.do_it(&format!(r#"{{"op":"get","key":"{key}"}}"#))["value"].clone()
    };
    assert_eq!(get(&mut client, "boot"), 1);
    assert_eq!(get(&mut client, "durable"), 2);
    assert_eq!(client.do_it(r#"{"op":"hello"}"#)["epoch"], epoch);
    // This was no failure that it was started again after.
    assert_eq!(machine.property(SERVICE, "NRestarts"), "0");
}

#[test]
fn several_sockets_are_served_and_told_apart() {
    let Some(machine) = Machine::with_nkv() else {
        return;
    };
    machine.add_to("nkv.socket", "[Socket]\nListenStream=127.0.0.1:4222\n");
    let other = "[Socket]\nListenStream=/run/other.sock\nFileDescriptorName=other\n\
                 Service=nkv.service\n";
    machine.write("/etc/systemd/system/nkv-other.socket", other);
    machine.run("systemctl daemon-reload");
    machine.run("systemctl restart nkv.socket");
    machine.run("systemctl start nkv-other.socket");

    machine.run("nkv-client -a 127.0.0.1:4222 put a 1");
    let mut client = Client::unix(&machine.path("/run/other.sock"));
    assert_eq!(client.do_it(r#"{"op":"get","key":"a"}"#)["value"], 1);
    machine.connect().ping();
    let journal = machine.journal(SERVICE);
    for line in [
        "listening on /run/nkv.sock (passed as nkv.socket)",
        "listening on 127.0.0.1:4222 (passed as nkv.socket)",
        "listening on /run/other.sock (passed as other)",
    ] {
        assert!(journal.contains(line), "{line}: {journal}");
    }
}

#[test]
fn the_journal_gets_priorities_and_no_times() {
    let Some(machine) = Machine::with_nkv() else {
        return;
    };
    machine.connect().ping();
    machine.run("systemctl stop nkv.service");
    let journal = machine.path("/var/lib/nkv/durable.journal");
    let mut text = std::fs::read(&journal).unwrap();
    text.extend_from_slice(b"0123");
    std::fs::write(&journal, text).unwrap();
    machine.connect().ping();
    machine.run("systemctl stop nkv.service");
    std::fs::write(&journal, "damaged\ndamaged\n").unwrap();
    machine.fail("systemctl start nkv.service");

    let said = said(&machine);
    for (expected, priority) in [
        ("listening on /run/nkv.sock", "6"),
        ("the last 4 bytes", "4"),
        ("stopping", "6"),
        ("durable.journal is ", "3"),
    ] {
        let found: Vec<_> = said
            .iter()
            .filter(|(message, _)| message.contains(expected))
            .collect();
        assert!(!found.is_empty(), "{expected}: {said:?}");
        for (message, found) in found {
            assert_eq!(found, priority, "{message}");
        }
    }
    for (message, _) in &said {
        assert!(!message.starts_with(['<', '[']), "{message}");
    }
}

/// What the daemon itself has said to the journal, with the priorities.
fn said(machine: &Machine) -> Vec<(String, String)> {
    machine.run("journalctl --sync");
    let lines = machine.run("journalctl -q -o json _SYSTEMD_UNIT=nkv.service");
    let lines = lines.lines().map(|line| {
        let entry: Value = serde_json::from_str(line).unwrap();
        let field = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        (field("MESSAGE"), field("PRIORITY"))
    });
    lines.collect()
}

#[test]
fn a_reload_reads_the_token_again() {
    let Some(machine) = Machine::with_nkv() else {
        return;
    };
    machine.add_to("nkv.socket", "[Socket]\nListenStream=0.0.0.0:4222\n");
    machine.write("/etc/nkv-token", "mellon\n");
    machine.write(
        "/etc/default/nkv",
        "NKV_OPTIONS=--token-file /etc/nkv-token\n",
    );
    machine.run("systemctl restart nkv.socket");
    machine.connect().ping();
    let process = machine.main_process(SERVICE);
    machine.write("/etc/nkv-token", "sesame\n");
    machine.run("systemctl reload nkv.service");
    machine.wait_for_journal(SERVICE, "the token is read again from /etc/nkv-token");
    until("it is ready again", || {
        machine.property(SERVICE, "ActiveState") == "active"
    });
    assert_eq!(machine.main_process(SERVICE), process);
}
