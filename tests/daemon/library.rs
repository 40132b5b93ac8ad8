//! The same server on a thread of this process, reached without a place in the file system.

use std::io::ErrorKind;

use nkv::server::{Options, Server};

use crate::support::{Client, Socket};

#[test]
fn threads_share_state_without_a_path() {
    let running = Server::bind(Options::default()).unwrap().spawn().unwrap();
    let handle = running.handle();
    let mut client = Client::new(Socket::Unix(handle.connect().unwrap()));
    client.subscribe("watcher");
    let watching = std::thread::spawn({
        let handle = handle.clone();
        move || {
            let mut client = Client::new(Socket::Unix(handle.connect().unwrap()));
            assert_eq!(client.subscribe("shared.*").len(), 0);
            client.do_it(r#"{"op":"put","key":"watcher","value":"ready"}"#);
            (client.event(), client.event())
        }
    });
    assert_eq!(client.event()["value"], "ready");
    client.do_it(
        r#"{"op":"batch","ops":[{"op":"put","key":"shared.a","value":1},{"op":"put","key":"shared.b","value":2}]}"#,
    );
    let (first, second) = watching.join().unwrap();
    assert_eq!(
        (&first["key"], &first["value"]),
        (&"shared.a".into(), &1.into())
    );
    assert_eq!(
        (&second["key"], &second["value"]),
        (&"shared.b".into(), &2.into())
    );

    running.stop().unwrap();
    assert_eq!(client.next_line(), None, "its connections have ended");
    assert_eq!(
        handle.connect().unwrap_err().kind(),
        ErrorKind::NotConnected
    );
}

/// Responses that are owed are written before the server is gone.
#[test]
fn stopping_answers_what_has_been_asked() {
    let running = Server::bind(Options::default()).unwrap().spawn().unwrap();
    let mut client = Client::new(Socket::Unix(running.handle().connect().unwrap()));
    client.ping();
    for _ in 0..100 {
        client.send(r#"{"op":"ping"}"#);
    }
    client.response();
    running.stop().unwrap();
    assert!(client.rest().iter().all(|line| line == r#"{"ok":true}"#));
}

#[test]
fn two_servers_know_nothing_of_each_other() {
    let servers = [0, 1].map(|_| Server::bind(Options::default()).unwrap().spawn().unwrap());
    let mut clients = servers
        .each_ref()
        .map(|server| Client::new(Socket::Unix(server.handle().connect().unwrap())));
    clients[0].do_it(r#"{"op":"put","key":"a","value":1}"#);
    assert_eq!(clients[1].fail(r#"{"op":"get","key":"a"}"#), "not_found");
    for server in servers {
        server.stop().unwrap();
    }
}
