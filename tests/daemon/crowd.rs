//! Many clients, too many clients, and none that does anything.

use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::support::{Client, Daemon, Plan, has_program, skip, until};

/// Lets this process have so many descriptors, if it may.
fn have_descriptors(wanted: u64) -> bool {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    soft >= wanted || (hard >= wanted && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok())
}

#[test]
fn five_hundred_subscribers_hear_of_one_put() {
    if !have_descriptors(1000) {
        return skip("this process may not have 1000 descriptors");
    }
    let mut plan = Plan::new();
    if has_program("prlimit") {
        // Fewer than it needs, and the right to have more.
        plan = plan.under(&["prlimit", "--nofile=64:1500"]);
    } else {
        skip("there is no prlimit: that the daemon raises its limit is not tested");
    }
    let daemon = plan.start();
    assert!(daemon.process().descriptor_limit() > 1000);
    let mut subscribers: Vec<Client> = (0..500).map(|_| daemon.connect()).collect();
    for subscriber in &mut subscribers {
        assert_eq!(subscriber.subscribe("a.b").len(), 0);
    }
    let mut publisher = daemon.connect();
    assert_eq!(publisher.counter("subscriptions"), 500);
    let start = Instant::now();
    publisher.do_it(r#"{"op":"put","key":"a.b","value":"news"}"#);
    for subscriber in &mut subscribers {
        assert_eq!(subscriber.event()["value"], "news");
    }
    println!("500 subscribers heard after {:?}", start.elapsed());
}

#[test]
fn one_client_too_many_is_told_so() {
    let daemon = Daemon::start(&["--max-clients", "3", "127.0.0.1:0"]);
    let mut clients: Vec<Client> = (0..3).map(|_| daemon.connect()).collect();
    clients.iter_mut().for_each(Client::ping);
    for mut fourth in [daemon.connect(), daemon.connect_tcp()] {
        let lines = fourth.rest();
        assert_eq!(lines.len(), 1);
        assert!(
            lines[0].contains(r#""ok":false,"error":"limit""#),
            "{lines:?}"
        );
    }
    clients.pop();
    until("its place is free", || clients[0].counter("clients") == 2);
    daemon.connect().ping();
}

#[test]
fn without_descriptors_clients_wait_their_turn() {
    if !has_program("prlimit") {
        return skip("there is no prlimit");
    }
    let daemon = Plan::new().under(&["prlimit", "--nofile=20:20"]).start();
    let mut clients: Vec<Client> = (0..40).map(|_| daemon.connect()).collect();
    for client in &mut clients {
        client.send(r#"{"op":"ping"}"#);
    }
    daemon.wait_for_log("accepting pauses");
    let process = daemon.process();
    until("it waits", || process.is_asleep());
    // A stretch of time to measure over; nothing is waited for.
    let before = process.ticks();
    std::thread::sleep(Duration::from_secs(1));
    let ticks = process.ticks() - before;
    println!("{ticks} ticks of processor time in a second without descriptors");
    assert!(ticks < 10, "it spins: {ticks} of 100 ticks");

    let mut first = clients.remove(0);
    assert_eq!(first.response()["ok"], true);
    let served = first.counter("clients");
    println!("{served} clients are served at a time");
    assert!((1..20).contains(&served));
    for mut client in clients {
        // The first of them leave as they are answered, which lets the others in.
        assert_eq!(client.response()["ok"], true);
    }
    first.ping();
}

#[test]
fn an_idle_daemon_sleeps() {
    let daemon = Daemon::start(&["127.0.0.1:0"]);
    let mut clients = Vec::new();
    for number in 0..25 {
        let mut unix = daemon.connect();
        unix.subscribe(&format!("a.{number}.*"));
        clients.push(unix);
        let mut tcp = daemon.connect_tcp();
        tcp.ping();
        clients.push(tcp);
    }
    // Something to be told of to each, so that every connection has been through all its states.
    for number in 0..25 {
        clients[1].do_it(&format!(r#"{{"op":"put","key":"a.{number}","value":1}}"#));
        assert_eq!(clients[2 * number].event()["value"], 1);
    }
    let process = daemon.process();
    until("it waits", || process.is_asleep());
    let (switches, ticks) = (process.voluntary_switches(), process.ticks());
    std::thread::sleep(Duration::from_secs(1));
    let woken = process.voluntary_switches() - switches;
    println!("{woken} wake-ups in a second with 50 idle clients");
    assert_eq!((woken, process.ticks() - ticks), (0, 0));
}
