//! Sockets of both kinds, framing, and what the end of input means on each.

use serde_json::json;

use crate::support::{Client, Daemon, Plan, skip, until};

/// A daemon on both kinds of socket.
fn on_both() -> Daemon {
    Daemon::start(&["127.0.0.1:0"])
}

#[test]
fn unix_and_tcp_share_a_keyspace() {
    let daemon = on_both();
    let (mut unix, mut tcp) = (daemon.connect(), daemon.connect_tcp());
    tcp.subscribe("a");
    unix.do_it(r#"{"op":"put","key":"a","value":1.50}"#);
    assert!(
        tcp.line().contains(r#""value":1.50"#),
        "byte for byte as it was sent"
    );
    tcp.do_it(r#"{"op":"put","key":"b","base64":"AAE="}"#);
    let got = unix.do_it(r#"{"op":"get","key":"b","id":7}"#);
    assert_eq!((&got["base64"], &got["id"]), (&json!("AAE="), &json!(7)));
}

#[test]
fn several_addresses_are_served() {
    let plan = Plan::new();
    let second = plan.directory().join("second.sock");
    let plan = plan.with(&[
        &format!("unix:{}", second.display()),
        "127.0.0.1:0",
        "127.0.0.1:0",
    ]);
    let daemon = plan.start();
    let log = daemon.log();
    let addresses: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("listening on 127"))
        .map(|line| line.rsplit(' ').next().unwrap())
        .collect();
    assert_eq!(addresses.len(), 2);
    let mut clients = vec![
        daemon.connect(),
        Client::unix(&second),
        Client::tcp(addresses[0]),
        Client::tcp(addresses[1]),
    ];
    for client in &mut clients {
        client.ping();
    }
    assert_eq!(clients[3].counter("clients"), 4);
}

#[test]
fn ipv6_is_served() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return skip("there is no IPv6 loopback address");
    }
    let daemon = Daemon::start(&["[::1]:0"]);
    Client::tcp(&daemon.tcp_address("[::1]:")).ping();
}

#[test]
fn the_end_of_input_is_answered_and_closes() {
    let daemon = on_both();
    for mut client in [daemon.connect(), daemon.connect_tcp()] {
        client.send_bytes(
            b"{\"op\":\"put\",\"key\":\"a\",\"value\":1,\"id\":1}\r\n\n{\"op\":\"get\",\"key\":\"a\",\"id\":2}",
        );
        client.end_input();
        let lines = client.rest();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with(r#"{"id":1,"ok":true"#), "{lines:?}");
        assert!(lines[1].starts_with(r#"{"id":2,"ok":true"#), "{lines:?}");
    }
    until("both are gone", || daemon.connect().counter("clients") == 1);
}

/// More than the daemon holds for a client, so that the end of input is read long before the last
/// response is written.
#[test]
fn the_end_of_input_comes_after_all_responses() {
    let daemon = on_both();
    let value = "v".repeat(10_000);
    daemon
        .connect()
        .do_it(&format!(r#"{{"op":"put","key":"a","value":"{value}"}}"#));
    for mut client in [daemon.connect(), daemon.connect_tcp()] {
        let gets: Vec<String> = (0..500)
            .map(|id| format!(r#"{{"op":"get","key":"a","id":{id}}}"#))
            .collect();
        client.send_bytes(gets.join("\n").as_bytes());
        client.end_input();
        let lines = client.rest();
        assert_eq!(lines.len(), 500);
        for (id, line) in lines.iter().enumerate() {
            assert!(line.starts_with(&format!(r#"{{"id":{id},"ok":true"#)));
        }
    }
}

#[test]
fn over_unix_events_go_on_after_the_end_of_input() {
    let daemon = on_both();
    let mut writer = daemon.connect();
    let mut subscriber = daemon.connect();
    subscriber.send_bytes(br#"{"op":"subscribe","id":"s","key":"a.*"}"#);
    subscriber.end_input();
    subscriber.response();
    assert_eq!(subscriber.event()["event"], "sync");
    for number in 0..10 {
        writer.do_it(&format!(r#"{{"op":"put","key":"a.b","value":{number}}}"#));
        assert_eq!(subscriber.event()["value"], number);
    }
    assert_eq!(writer.counter("clients"), 2);
    drop(subscriber);
    until("it is gone for good", || writer.counter("clients") == 1);
    assert_eq!(writer.counter("subscriptions"), 0);
}

#[test]
fn over_tcp_the_end_of_input_ends_subscriptions() {
    let daemon = on_both();
    daemon
        .connect()
        .do_it(r#"{"op":"put","key":"a","value":1}"#);
    let mut subscriber = daemon.connect_tcp();
    subscriber.send_bytes(br#"{"op":"subscribe","id":"s","key":"a"}"#);
    subscriber.end_input();
    let lines = subscriber.rest();
    assert!(lines[0].contains(r#""ok":true"#), "{lines:?}");
    assert!(
        lines[2].contains(r#""event":"sync""#),
        "told all: {lines:?}"
    );
    assert_eq!(lines.len(), 3);
}

#[test]
fn one_who_never_reads_and_closes_is_obeyed() {
    let daemon = on_both();
    let mut other = daemon.connect();
    let mut client = daemon.connect();
    // Responses to this are far more than the daemon and the socket hold.
    let id = "i".repeat(60);
    let lines: String = (0..20_000)
        .map(|number| {
            format!("{{\"op\":\"put\",\"key\":\"k\",\"value\":{number},\"id\":\"{id}\"}}\n")
        })
        .collect();
    let sent = client.send_until_stuck(lines.as_bytes(), || other.ping());
    let whole = lines.as_bytes()[..sent]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count() as u64;
    let before = other.counter("puts");
    println!("{before} of {whole} puts carried out before it closes");
    assert!(before < whole, "it is not read ahead of");
    drop(client);
    // What the cut-off last line asked for can't be known: it is the one error.
    until("all is carried out", || other.counter("puts") == whole);
    until("it is gone", || other.counter("clients") == 1);
    let got = other.do_it(r#"{"op":"get","key":"k"}"#);
    assert_eq!(got["value"], whole - 1);
}

#[test]
fn one_who_sends_much_and_closes_at_once_is_obeyed() {
    const PUTS: u64 = 3000;
    let daemon = on_both();
    let mut other = daemon.connect();
    let mut client = daemon.connect();
    for number in 0..PUTS {
        client.send(&format!(r#"{{"op":"put","key":"k","value":{number}}}"#));
    }
    drop(client);
    until("all is carried out", || other.counter("puts") == PUTS);
    assert_eq!(other.do_it(r#"{"op":"get","key":"k"}"#)["value"], PUTS - 1);
}

#[test]
fn bytes_may_come_one_at_a_time() {
    let daemon = on_both();
    let text = "{\"op\":\"put\",\"key\":\"ä.b\",\"value\":\"ü\",\"id\":1}\n{\"op\":\"get\",\"key\":\"ä.b\",\"id\":2}\r\n";
    for mut client in [daemon.connect(), daemon.connect_tcp()] {
        for byte in text.as_bytes() {
            client.send_bytes(&[*byte]);
            // One that does not come back before the daemon has seen the byte.
            daemon.connect().ping();
        }
        assert_eq!(client.response()["id"], 1);
        let got = client.response();
        assert_eq!((&got["id"], &got["value"]), (&json!(2), &json!("ü")));
    }
}
