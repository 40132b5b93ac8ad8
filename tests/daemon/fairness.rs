//! One client's large requests do not keep the others waiting.
//!
//! Counted in round trips, not in time: while the large thing goes on, somebody else's pings are
//! answered one after the other, and there has to be room for many of them. A daemon that finishes
//! what it has begun before it looks around answers one or two.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{Client, Daemon};

/// Counts somebody else's round trips until something comes for the client.
fn pings_before(client: &mut Client, other: &mut Client) -> u64 {
    let mut pings = 0;
    client.socket().set_nonblocking(true);
    while !client.has_input() {
        other.ping();
        pings += 1;
    }
    client.socket().set_nonblocking(false);
    pings
}

/// Counts somebody else's round trips while another thread works.
fn pings_during(other: &mut Client, work: impl FnOnce() + Send) -> u64 {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            work();
            done.store(true, Ordering::Release);
        });
        let mut pings = 0;
        while !done.load(Ordering::Acquire) {
            other.ping();
            pings += 1;
        }
        pings
    })
}

/// A keyspace of so many keys `big.N.x`.
fn fill(client: &mut Client, keys: usize) {
    let batches: Vec<String> = (0..keys.div_ceil(1000))
        .map(|batch| {
            let ops: Vec<String> = (batch * 1000..keys.min((batch + 1) * 1000))
                .map(|key| format!(r#"{{"op":"put","key":"big.{key}.x","value":{key}}}"#))
                .collect();
            format!(r#"{{"op":"batch","ops":[{}]}}"#, ops.join(","))
        })
        .collect();
    for batch in batches {
        client.do_it(&batch);
    }
}

#[test]
fn a_flood_of_requests_leaves_room_for_others() {
    const PUTS: usize = 50_000;
    let daemon = Daemon::start(&[]);
    let (mut flooder, mut other) = (daemon.connect(), daemon.connect());
    let puts: String = (0..PUTS)
        .map(|n| {
            format!(
                "{{\"op\":\"put\",\"key\":\"k{}\",\"value\":{n}}}\n",
                n % 1000
            )
        })
        .collect();
    let mut writer = flooder.writer();
    let writing = std::thread::spawn(move || writer.write_all(puts.as_bytes()).unwrap());
    assert_eq!(flooder.response()["rev"], 1, "it has begun");
    let pings = pings_during(&mut other, || {
        (1..PUTS).for_each(|_| drop(flooder.line()));
    });
    writing.join().unwrap();
    println!("{pings} round trips during {PUTS} puts");
    assert!(pings >= 10, "{pings} round trips");
}

#[test]
fn work_on_many_keys_leaves_room_for_others() {
    const KEYS: usize = 300_000;
    let daemon = Daemon::start(&[]);
    let (mut big, mut other) = (daemon.connect(), daemon.connect());
    fill(&mut big, KEYS);

    // Nothing matches, so each response is short, and comes after a look at every key.
    let mut pings = 0;
    (0..5).for_each(|_| big.send(r#"{"op":"get","key":"*.*.none"}"#));
    for _ in 0..5 {
        pings += pings_before(&mut big, &mut other);
        assert_eq!(big.response()["entries"].as_array().unwrap().len(), 0);
    }
    println!("{pings} round trips during five lists over {KEYS} keys");
    assert!(pings >= 10, "{pings} round trips");

    let mut subscriber = daemon.connect();
    let pings = pings_during(&mut other, || {
        assert_eq!(subscriber.subscribe("big.*").len(), KEYS);
    });
    println!("{pings} round trips during the first {KEYS} entries of a subscription");
    assert!(pings >= 20, "{pings} round trips");
    drop(subscriber);

    // The same without a byte to write: a look at every key on the way to one sync.
    big.do_it(r#"{"op":"subscribe","id":"s","key":"*.*.none"}"#);
    let pings = pings_before(&mut big, &mut other);
    assert_eq!(big.event()["event"], "sync");
    println!("{pings} round trips before its sync where none of {KEYS} keys matches");
    assert!(pings >= 3, "{pings} round trips");

    big.send(r#"{"op":"delete","key":"big.*.x"}"#);
    let pings = pings_before(&mut big, &mut other);
    assert_eq!(big.response()["deleted"], KEYS);
    println!("{pings} round trips during the deletion of {KEYS} keys");
    assert!(pings >= 3, "{pings} round trips");
    assert_eq!(other.counter("keys"), 0);
}

/// The entries of a connection that has gone are many deletions that nobody asked for.
#[test]
fn the_end_of_many_session_entries_leaves_room_for_others() {
    let daemon = Daemon::start(&[]);
    let (mut owner, mut other) = (daemon.connect(), daemon.connect());
    let ops: Vec<String> = (0..50_000)
        .map(|n| format!(r#"{{"op":"put","key":"s.{n}","value":1,"lifetime":"session"}}"#))
        .collect();
    for ops in ops.chunks(5000) {
        owner.do_it(&format!(r#"{{"op":"batch","ops":[{}]}}"#, ops.join(",")));
    }
    assert_eq!(other.counter("keys"), 50_000);
    drop(owner);
    let mut rounds = 0;
    while other.counter("keys") > 0 {
        rounds += 1;
    }
    println!("{rounds} round trips while 50000 session entries end");
    assert!(rounds >= 3, "{rounds} round trips");
}
