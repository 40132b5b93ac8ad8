//! What a restart looks like to those who depend on the daemon: subscribers, owners, entries that end.
//!
//! A subscriber that comes back with the position it had is told exactly what differs: each key that has
//! changed once, with what has become of it. What it was not told before the end and what changed
//! afterwards are the same to it. Only a new history, which a reboot begins, makes it start over.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Client, Daemon, Plan};

/// How a daemon ends, and what of it is there when it starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Stop,
    Kill,
    /// A clean stop, after which what goes with the machine is gone.
    Reboot,
    /// The same without a clean stop.
    Crash,
}

impl End {
    /// Whether what goes with the machine is gone.
    fn is_of_the_machine(self) -> bool {
        matches!(self, End::Reboot | End::Crash)
    }
}

fn restart(plan: &Plan, daemon: Daemon, end: End) -> Daemon {
    match end {
        End::Stop | End::Reboot => daemon.stop(),
        End::Kill | End::Crash => daemon.kill(),
    };
    if end.is_of_the_machine() {
        std::fs::remove_dir_all(plan.runtime_directory()).unwrap();
    }
    plan.start()
}

/// How far a subscriber has come.
#[derive(Clone, Debug)]
struct Position {
    rev: u64,
    epoch: String,
}

impl Position {
    fn now(daemon: &Daemon) -> Position {
        Position::of(&daemon.connect().do_it(r#"{"op":"hello"}"#))
    }

    fn of(response: &Value) -> Position {
        Position {
            rev: rev_of(response),
            epoch: response["epoch"].as_str().unwrap().to_owned(),
        }
    }

    /// Subscribes to `s.*` from here on, and returns what is told up to `sync`, and the new position.
    fn resume(&self, client: &mut Client) -> (Vec<String>, Position) {
        let request = json!({
            "op": "subscribe", "id": "s", "key": "s.*", "since": self.rev, "epoch": self.epoch,
        });
        let mut position = Position::of(&client.do_it(&request.to_string()));
        let mut told = Vec::new();
        loop {
            let event = client.event();
            if event["event"] == "sync" {
                position.rev = rev_of(&event);
                return (told, position);
            }
            told.push(shown(&event));
        }
    }

    fn told(&self, daemon: &Daemon) -> Vec<String> {
        self.resume(&mut daemon.connect()).0
    }
}

fn rev_of(value: &Value) -> u64 {
    value["rev"].as_u64().unwrap()
}

/// An event on one line, without its revision.
fn shown(event: &Value) -> String {
    match event["event"].as_str().unwrap() {
        "put" => format!("{} = {}", event["key"].as_str().unwrap(), event["value"]),
        "delete" => format!("{} deleted", event["key"].as_str().unwrap()),
        other => other.to_owned(),
    }
}

fn put(key: &str, value: impl Into<Value>, lifetime: &str) -> String {
    json!({"op": "put", "key": key, "value": value.into(), "lifetime": lifetime}).to_string()
}

fn delete(key: &str) -> String {
    json!({"op": "delete", "key": key}).to_string()
}

fn batch(ops: &[String]) -> String {
    format!(r#"{{"op":"batch","ops":[{}]}}"#, ops.join(","))
}

fn do_all(client: &mut Client, lines: &[String]) {
    for line in lines {
        client.do_it(line);
    }
}

/// Writes beside `s.*` until both journals have been written anew.
fn have_rewritten(client: &mut Client) {
    let large = "x".repeat(60_000);
    let rewrites = client.counter("journal_rewrites");
    let mut boot_bytes = client.counter("boot_journal_bytes");
    let mut has_shrunk = false;
    for round in 0.. {
        assert!(round < 1000, "the journals only grow");
        let lifetime = if round % 2 == 0 { "durable" } else { "boot" };
        client.do_it(&put(
            &format!("filler.{lifetime}"),
            large.as_str(),
            lifetime,
        ));
        let bytes = client.counter("boot_journal_bytes");
        has_shrunk |= bytes < boot_bytes;
        boot_bytes = bytes;
        if has_shrunk && client.counter("journal_rewrites") > rewrites {
            return;
        }
    }
}

#[test]
fn a_subscriber_is_told_exactly_what_differs() {
    for end in [End::Kill, End::Stop] {
        for is_rewritten in [false, true] {
            println!("{end:?}, rewritten: {is_rewritten}");
            tell_what_differs(end, is_rewritten);
        }
    }
}

fn tell_what_differs(end: End, is_rewritten: bool) {
    let plan = Plan::keeping();
    let mut daemon = plan.start();
    let mut client = daemon.connect();
    for lifetime in ["durable", "boot"] {
        for name in ["kept", "changed", "deleted", "moved", "twice", "back"] {
            client.do_it(&put(&format!("s.{lifetime}.{name}"), 1, lifetime));
        }
    }
    let first = Position::now(&daemon);
    assert_eq!(first.told(&daemon), [""; 0]);

    client.do_it(&put("s.durable.twice", 2, "durable"));
    do_all(
        &mut client,
        &[delete("s.durable.deleted"), delete("s.boot.deleted")],
    );
    if is_rewritten {
        have_rewritten(&mut client);
    }
    client.do_it(&batch(&[
        put("s.durable.changed", 2, "durable"),
        put("s.boot.changed", 2, "boot"),
        put("s.durable.moved", 2, "boot"),
        put("s.boot.moved", 2, "durable"),
        put("s.boot.new", 2, "boot"),
    ]));
    do_all(
        &mut client,
        &[
            put("s.boot.twice", 2, "boot"),
            delete("s.durable.twice"),
            put("s.boot.twice", 3, "boot"),
            delete("s.durable.back"),
            delete("s.boot.back"),
            put("s.boot.back", 3, "boot"),
            put("s.durable.back", 3, "durable"),
        ],
    );
    let expected = [
        "s.durable.deleted deleted",
        "s.boot.deleted deleted",
        "s.durable.changed = 2",
        "s.boot.changed = 2",
        "s.durable.moved = 2",
        "s.boot.moved = 2",
        "s.boot.new = 2",
        "s.durable.twice deleted",
        "s.boot.twice = 3",
        "s.boot.back = 3",
        "s.durable.back = 3",
    ];
    let middle = Position::now(&daemon);
    assert_eq!(first.told(&daemon), expected);
    daemon = restart(&plan, daemon, end);
    assert_eq!(first.told(&daemon), expected);
    assert_eq!(middle.told(&daemon), [""; 0]);

    // The subscription goes on from there, and a later one sees both lives as one.
    let mut subscriber = daemon.connect();
    let (told, last) = middle.resume(&mut subscriber);
    assert_eq!(told, [""; 0]);
    assert_eq!(last.epoch, first.epoch);
    let mut client = daemon.connect();
    if is_rewritten {
        have_rewritten(&mut client);
    }
    do_all(
        &mut client,
        &[
            delete("s.boot.changed"),
            put("s.durable.deleted", 4, "durable"),
        ],
    );
    let after = ["s.boot.changed deleted", "s.durable.deleted = 4"];
    assert_eq!([(); 2].map(|()| shown(&subscriber.event())), after);
    daemon = restart(&plan, daemon, end);
    assert_eq!(middle.told(&daemon), after);
    assert_eq!(last.told(&daemon), after);
    let is_other = |line: &&str| {
        !["s.boot.changed ", "s.durable.deleted "]
            .iter()
            .any(|key| line.starts_with(key))
    };
    let both: Vec<&str> = expected.into_iter().filter(is_other).chain(after).collect();
    assert_eq!(first.told(&daemon), both);
}

/// Changes of one turn are written together; what each of them leaves behind has to be told as well.
#[test]
fn a_key_deleted_in_the_turn_that_moved_it_is_told() {
    for end in [End::Kill, End::Stop] {
        let plan = Plan::keeping();
        let daemon = plan.start();
        let mut client = daemon.connect();
        do_all(
            &mut client,
            &[put("s.durable", 1, "durable"), put("s.boot", 1, "boot")],
        );
        let position = Position::now(&daemon);
        client.do_it(&batch(&[
            put("s.durable", 2, "boot"),
            put("s.boot", 2, "durable"),
            delete("s.durable"),
            delete("s.boot"),
            put("s.other", 2, "durable"),
        ]));
        let expected = ["s.durable deleted", "s.boot deleted", "s.other = 2"];
        assert_eq!(position.told(&daemon), expected);
        let daemon = restart(&plan, daemon, end);
        assert_eq!(position.told(&daemon), expected, "{end:?}");
    }
}

#[test]
fn after_a_reboot_a_subscriber_starts_over() {
    let plan = Plan::keeping();
    let mut daemon = plan.start();
    let mut client = daemon.connect();
    do_all(
        &mut client,
        &[
            put("s.durable", 1, "durable"),
            put("s.deleted", 1, "durable"),
            put("s.boot", 1, "boot"),
        ],
    );
    let mut position = Position::now(&daemon);
    client.do_it(&delete("s.deleted"));
    for end in [End::Crash, End::Reboot, End::Crash] {
        // Revisions that nothing on the disk has ever had are not given again.
        let mut client = daemon.connect();
        let mut rev = 0;
        for value in 0..20 {
            rev = rev_of(&client.do_it(&put("other", value, "boot")));
        }
        daemon = restart(&plan, daemon, end);
        let mut subscriber = daemon.connect();
        let (told, next) = position.resume(&mut subscriber);
        assert_eq!(told, ["reset", "s.durable = 1"], "{end:?}");
        assert_ne!(next.epoch, position.epoch);
        let put = subscriber.do_it(&put("other", 0, "boot"));
        assert!(rev_of(&put) > rev, "{put} after {rev}, {end:?}");
        // In the new history it can be resumed as in the old one.
        daemon = restart(&plan, daemon, End::Kill);
        assert_eq!(next.told(&daemon), [""; 0], "{end:?}");
        assert_eq!(position.told(&daemon), told, "{end:?}");
        position = next;
    }
}

/// Only so many deletions are remembered; who may have missed a forgotten one starts over, before and
/// after a restart alike, and nobody else does.
#[test]
fn forgotten_deletions_make_a_subscriber_start_over() {
    const REMEMBERED: u64 = 16_384;
    for end in [End::Kill, End::Stop] {
        let plan = Plan::keeping();
        let mut daemon = plan.start();
        let mut client = daemon.connect();
        let limits = client.do_it(r#"{"op":"hello"}"#)["limits"].clone();
        assert_eq!(limits["tombstones"], REMEMBERED);
        do_all(
            &mut client,
            &[put("s.kept", 1, "durable"), put("s.gone", 1, "durable")],
        );
        let before = Position::now(&daemon);
        client.do_it(&delete("s.gone"));
        let after = Position::now(&daemon);
        let (half, lifetimes) = (REMEMBERED / 2, ["durable", "boot"]);
        for lifetime in lifetimes {
            for start in (0..half).step_by(1024) {
                let key = |number: u64| format!("many.{lifetime}.{number}");
                let numbers = || start..start + 1024;
                let puts: Vec<_> = numbers().map(|n| put(&key(n), 1, lifetime)).collect();
                let deletes: Vec<_> = numbers().map(|n| delete(&key(n))).collect();
                do_all(&mut client, &[batch(&puts), batch(&deletes)]);
            }
        }
        let started_over = ["reset", "s.kept = 1"];
        assert_eq!(before.told(&daemon), started_over);
        assert_eq!(after.told(&daemon), [""; 0]);
        for _ in 0..2 {
            daemon = restart(&plan, daemon, end);
            assert_eq!(before.told(&daemon), started_over, "{end:?}");
            assert_eq!(after.told(&daemon), [""; 0], "{end:?}");
            have_rewritten(&mut daemon.connect());
        }
    }
}

/// The entries wait for their owners for 10 s, which both daemons do at the same time.
#[test]
fn session_entries_wait_for_their_owners() {
    let ends = [End::Kill, End::Stop];
    let waiting = ends.map(|end| std::thread::spawn(move || await_owners(end)));
    for thread in waiting {
        thread.join().unwrap();
    }
}

fn await_owners(end: End) {
    let plan = Plan::keeping();
    let daemon = plan.start();
    let mut owner = daemon.connect();
    let all = ["s.again", "s.kept", "s.left", "s.same", "s.timed"];
    for key in all {
        owner.do_it(&put(key, 1, "session"));
    }
    owner.do_it(&put("s.kept", 2, "boot"));
    owner.do_it(&lasting("s.timed", 4 * DAY_MS));
    let mut gone = daemon.connect();
    gone.do_it(&put("s.gone", 1, "session"));
    let position = Position::now(&daemon);
    drop(gone);
    let mut watcher = daemon.connect();
    let (mut told, _) = position.resume(&mut watcher);
    if told.is_empty() {
        told.push(shown(&watcher.event()));
    }
    assert_eq!(told, ["s.gone deleted"]);

    // The second start gives them their time anew, whatever the first has written.
    let daemon = restart(&plan, daemon, end);
    have_rewritten(&mut daemon.connect());
    let daemon = restart(&plan, daemon, end);
    let mut watcher = daemon.connect();
    let (told, _) = position.resume(&mut watcher);
    assert_eq!(told, ["s.gone deleted"]);
    assert_eq!(keys(&mut watcher), all, "{end:?}");
    let mut owner = daemon.connect();
    owner.do_it(&put("s.again", 2, "session"));
    assert_eq!(shown(&watcher.event()), "s.again = 2");
    for key in ["s.same", "s.timed"] {
        assert_eq!(owner.do_it(&same(key))["unchanged"], true);
    }
    assert_eq!(shown(&watcher.event()), "s.left deleted", "{end:?}");
    let left = ["s.again", "s.kept", "s.same", "s.timed"];
    assert_eq!(keys(&mut watcher), left, "{end:?}");
    assert_eq!(time_left(&mut watcher, "s.same"), None, "{end:?}");
    assert!(
        time_left(&mut watcher, "s.timed") > Some(3 * DAY_MS),
        "{end:?}"
    );

    // They end with their new owner.
    drop(owner);
    let mut ended = [(); 3].map(|()| shown(&watcher.event()));
    ended.sort();
    let expected = ["again", "same", "timed"].map(|name| format!("s.{name} deleted"));
    assert_eq!(ended, expected);
    let daemon = restart(&plan, daemon, end);
    assert_eq!(keys(&mut daemon.connect()), ["s.kept"], "{end:?}");
    let mut told = position.told(&daemon);
    told.sort();
    let expected = ["again", "gone", "left", "same", "timed"];
    assert_eq!(told, expected.map(|name| format!("s.{name} deleted")));
}

/// Claims wait for the process that has claimed them, and for nobody else. This test is that process.
#[test]
fn claims_wait_for_their_owners() {
    let ends = [End::Kill, End::Stop];
    let waiting = ends.map(|end| std::thread::spawn(move || await_claimants(end)));
    for thread in waiting {
        thread.join().unwrap();
    }
}

fn await_claimants(end: End) {
    let plan = Plan::keeping();
    let daemon = plan.start();
    let mut owner = daemon.connect();
    for key in ["c.again", "c.left", "c.released"] {
        owner.do_it(&claim(key));
    }
    owner.do_it(r#"{"op":"release","key":"c.released"}"#);
    let daemon = restart(&plan, daemon, end);
    have_rewritten(&mut daemon.connect());
    let daemon = restart(&plan, daemon, end);
    let mut watcher = daemon.connect();
    watcher.do_it(r#"{"id":"w","op":"subscribe","key":"$claims","initial":false}"#);
    assert_eq!(shown(&watcher.event()), "sync");
    for (request, expected) in [
        (claim("c.again"), "conflict"),
        (claim("c"), "conflict"),
        (put("c.again.a", 1, "boot"), "denied"),
        (claim("c.released"), "ok"),
    ] {
        let answer = asked_by_another_process(&plan, &request);
        assert!(answer.contains(expected), "{end:?} {request}: {answer}");
    }
    // Another process's claim has come and gone.
    assert!(shown(&watcher.event()).starts_with("$claims.c.released = "));
    assert_eq!(shown(&watcher.event()), "$claims.c.released deleted");
    // The same process comes back, and may write before it says so.
    let mut owner = daemon.connect();
    owner.do_it(&put("c.again.a", 1, "boot"));
    owner.do_it(&claim("c.again"));
    assert_eq!(shown(&watcher.event()), "$claims.c.left deleted");
    let answer = asked_by_another_process(&plan, &put("c.left.a", 1, "boot"));
    assert!(answer.contains("ok\":true"), "{end:?}: {answer}");
    let answer = asked_by_another_process(&plan, &put("c.again.a", 2, "boot"));
    assert!(answer.contains("denied"), "{end:?}: {answer}");
    drop(owner);
    assert_eq!(shown(&watcher.event()), "$claims.c.again deleted");
}

fn claim(key: &str) -> String {
    json!({"op": "claim", "key": key}).to_string()
}

fn asked_by_another_process(plan: &Plan, request: &str) -> String {
    let socket = plan.socket();
    let line = r#"printf '%s\n' "$1" | nc -N -U "$2""#;
    let output = Command::new("sh")
        .args(["-c", line, "sh", request])
        .arg(&socket)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// A put as `session` that has a time as well.
fn lasting(key: &str, ttl_ms: u64) -> String {
    let put = json!({
        "op": "put", "key": key, "value": 1, "lifetime": "session", "ttl_ms": ttl_ms,
    });
    put.to_string()
}

/// A put as `session` of the value that is there.
fn same(key: &str) -> String {
    let put = json!({
        "op": "put", "key": key, "value": 1, "lifetime": "session", "if_changed": true,
    });
    put.to_string()
}

fn keys(client: &mut Client) -> Vec<String> {
    let list = client.do_it(r#"{"op":"get","key":"s.*","keys_only":true}"#);
    let entries = list["entries"].as_array().unwrap().iter();
    entries
        .map(|entry| entry["key"].as_str().unwrap().to_owned())
        .collect()
}

/// Long enough not to end during the test, and short enough to see one from another.
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

fn put_for(key: &str, value: u64, ttl_ms: u64) -> Value {
    json!({"op": "put", "key": key, "value": value, "ttl_ms": ttl_ms})
}

fn put_again(key: &str, value: u64, ttl_ms: u64) -> String {
    let mut put = put_for(key, value, ttl_ms);
    put["if_changed"] = true.into();
    put.to_string()
}

/// What is left of an entry's time.
fn time_left(client: &mut Client, key: &str) -> Option<u64> {
    let entry = client.do_it(&format!(r#"{{"op":"get","key":"{key}"}}"#));
    entry["ttl_ms"].as_u64()
}

#[test]
fn entries_keep_their_deadlines() {
    for end in [End::Kill, End::Stop] {
        let plan = Plan::keeping();
        let daemon = plan.start();
        let mut client = daemon.connect();
        for key in ["s.kept", "s.longer", "s.shorter", "s.endless"] {
            client.do_it(&put_for(key, 1, 4 * DAY_MS).to_string());
        }
        let rev = client.do_it(&put_again("s.longer", 1, 8 * DAY_MS));
        assert_eq!(rev["unchanged"], true);
        client.do_it(&put_again("s.shorter", 1, 2 * DAY_MS));
        client.do_it(&put("s.endless", 1, "boot"));
        let mut before = client;
        let mut daemon = daemon;
        for is_rewritten in [false, true, false] {
            let bounds = [("s.kept", 4), ("s.longer", 8), ("s.shorter", 2)];
            let left = bounds.map(|(key, _)| time_left(&mut before, key).unwrap());
            if is_rewritten {
                have_rewritten(&mut before);
            }
            daemon = restart(&plan, daemon, end);
            let mut client = daemon.connect();
            for ((key, days), left) in bounds.into_iter().zip(left) {
                let now = time_left(&mut client, key).unwrap();
                assert!(now <= left, "{key}: {now} ms left after {left}, {end:?}");
                assert!(now > (days - 1) * DAY_MS, "{key}: {now}, {end:?}");
            }
            assert_eq!(time_left(&mut client, "s.endless"), None, "{end:?}");
            before = client;
        }
    }
}

/// The clock runs on while the daemon is down. Whether the time is over before, meanwhile or after is
/// the machine's affair: the end is told once, and it lasts.
#[test]
fn entries_end_while_nobody_is_there() {
    for end in [End::Kill, End::Stop] {
        let plan = Plan::keeping();
        let daemon = plan.start();
        let mut client = daemon.connect();
        client.do_it(&put("s.over", 1, "durable"));
        let position = Position::now(&daemon);
        client.send(&put_for("s.over", 2, 50).to_string());
        client.send(&put_for("s.fresh", 2, 50).to_string());
        assert_eq!(client.response()["ok"], true);
        assert_eq!(client.response()["ok"], true);
        let daemon = restart(&plan, daemon, end);
        let mut watcher = daemon.connect();
        let (mut told, _) = position.resume(&mut watcher);
        while told.iter().filter(|line| line.ends_with("deleted")).count() < 2 {
            told.push(shown(&watcher.event()));
        }
        told.retain(|line| !line.ends_with(" = 2"));
        told.sort();
        assert_eq!(told, ["s.fresh deleted", "s.over deleted"], "{end:?}");
        let daemon = restart(&plan, daemon, End::Kill);
        assert_eq!(keys(&mut daemon.connect()), [""; 0], "{end:?}");
        let daemon = restart(&plan, daemon, End::Reboot);
        assert_eq!(keys(&mut daemon.connect()), [""; 0], "{end:?}");
    }
}

/// What is done to a key, one letter a step: it is put as **d**urable, **b**oot, **s**ession, with a
/// **t**ime, or deleted (**x**).
const HISTORIES: [&str; 22] = [
    "d", "b", "t", "dd", "db", "bd", "dt", "td", "dx", "bx", "dbd", "bdb", "dbx", "bdx", "dxb",
    "bxd", "dsd", "sd", "db bd", "dxbxd", "bxdxb", "bdxb",
];

/// Whether each step of a history is made alone, all but the first in one turn, or each in a life of
/// its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Steps {
    Alone,
    Together,
    WithKills,
}

/// A put replaces the lifetime with the value: what was kept in the other place is not kept there any
/// more, and never comes back.
#[test]
fn a_key_is_where_it_was_put_last() {
    for steps in [Steps::Alone, Steps::Together, Steps::WithKills] {
        for (is_rewritten, last) in [(false, End::Crash), (true, End::Reboot)] {
            let plan = Plan::keeping();
            let mut daemon = make_histories(&plan, plan.start(), steps);
            if is_rewritten {
                have_rewritten(&mut daemon.connect());
            }
            for end in [End::Kill, End::Stop, last] {
                daemon = restart(&plan, daemon, end);
                check_histories(&daemon, end, &format!("{steps:?} {is_rewritten} {end:?}"));
            }
        }
    }
}

fn make_histories(plan: &Plan, mut daemon: Daemon, steps: Steps) -> Daemon {
    let line = |history: &str, step: usize| {
        let key = key_of(history);
        let value = u64::try_from(step).unwrap();
        Some(match history.as_bytes().get(step)? {
            b'd' => put(&key, value, "durable"),
            b'b' => put(&key, value, "boot"),
            b's' => put(&key, value, "session"),
            b't' => put_for(&key, value, 4 * DAY_MS).to_string(),
            b'x' => delete(&key),
            _ => r#"{"op":"ping"}"#.to_owned(),
        })
    };
    let longest = HISTORIES.map(str::len).into_iter().max().unwrap();
    let mut together = Vec::new();
    for step in 0..longest {
        let lines: Vec<String> = HISTORIES.iter().filter_map(|h| line(h, step)).collect();
        match steps {
            Steps::Together if step > 0 => together.extend(lines),
            Steps::Together | Steps::Alone => do_all(&mut daemon.connect(), &lines),
            Steps::WithKills => {
                do_all(&mut daemon.connect(), &lines);
                daemon = restart(plan, daemon, End::Kill);
            }
        }
    }
    // What arrives in one piece is carried out in one turn.
    let mut client = daemon.connect();
    client.send_bytes(format!("{}\n", together.join("\n")).as_bytes());
    for line in together {
        let response = client.response();
        assert_eq!(response["ok"], true, "{line}: {response}");
    }
    daemon
}

fn key_of(history: &str) -> String {
    format!("s.{}", history.replace(' ', "_"))
}

fn check_histories(daemon: &Daemon, end: End, context: &str) {
    let mut client = daemon.connect();
    for history in HISTORIES {
        let request = format!(r#"{{"op":"get","key":"{}"}}"#, key_of(history));
        let found = client.ask(&request);
        let is_kept = history.ends_with('d') || !end.is_of_the_machine();
        if history.ends_with('x') || !is_kept {
            assert_eq!(found["error"], "not_found", "{history}: {context}");
            continue;
        }
        assert_eq!(found["value"], history.len() - 1, "{history}: {context}");
        let lifetime = (!history.ends_with('d')).then(|| Value::from("boot"));
        assert_eq!(
            found.get("lifetime"),
            lifetime.as_ref(),
            "{history}: {context}"
        );
    }
}
