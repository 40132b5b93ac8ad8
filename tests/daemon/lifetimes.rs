//! Entries that end without being deleted: with their connection, or with their time.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use crate::support::{Client, Daemon, Socket};

/// The owner is a process here, which is killed while it holds the only end of the connection.
#[test]
fn session_entries_end_with_a_killed_process() {
    let daemon = Daemon::start(&[]);
    let mut watcher = daemon.connect();
    watcher.subscribe("s.*");

    let stream = UnixStream::connect(daemon.socket()).unwrap();
    let end = OwnedFd::from(stream.try_clone().unwrap());
    let mut owner = Command::new("sleep")
        .arg("1000")
        .stdin(Stdio::from(end))
        .spawn()
        .unwrap();
    let mut client = Client::new(Socket::Unix(stream));
    for key in ["s.mine", "s.left", "s.kept"] {
        let lifetime = if key == "s.kept" { "boot" } else { "session" };
        client.do_it(&format!(
            r#"{{"op":"put","key":"{key}","value":1,"lifetime":"{lifetime}"}}"#
        ));
        assert_eq!(watcher.event()["key"], key);
    }
    drop(client);
    // Whoever has put it last owns it.
    watcher.do_it(r#"{"op":"put","key":"s.left","value":2,"lifetime":"session"}"#);
    assert_eq!(watcher.event()["value"], 2);

    owner.kill().unwrap();
    owner.wait().unwrap();
    let event = watcher.event();
    assert_eq!(
        (&event["event"], &event["key"]),
        (&"delete".into(), &"s.mine".into())
    );
    let left = watcher.do_it(r#"{"op":"get","key":"s.*","keys_only":true}"#);
    let keys: Vec<_> = left["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry["key"])
        .collect();
    assert_eq!(keys, ["s.kept", "s.left"]);
}

/// Requests that arrive together are carried out at one time, however slow this machine is.
#[test]
fn entries_end_in_the_order_of_their_times() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.connect();
    client.subscribe("t.*");
    client.send(concat!(
        r#"{"op":"put","key":"t.c","value":1,"ttl_ms":900}"#,
        "\n",
        r#"{"op":"put","key":"t.a","value":1,"ttl_ms":300}"#,
        "\n",
        r#"{"op":"put","key":"t.b","value":1,"ttl_ms":600}"#,
        "\n",
        r#"{"op":"put","key":"t.never","value":1}"#,
        "\n",
        r#"{"op":"get","key":"t.c"}"#,
    ));
    (0..4).for_each(|_| assert_eq!(client.response()["ok"], true));
    let got = client.response();
    assert_eq!(
        (&got["lifetime"], &got["ttl_ms"]),
        (&"boot".into(), &900.into())
    );
    for key in ["t.c", "t.a", "t.b", "t.never"] {
        let event = client.event();
        assert_eq!(
            (&event["event"], &event["key"]),
            (&"put".into(), &key.into())
        );
    }
    for key in ["t.a", "t.b", "t.c"] {
        let event = client.event();
        assert_eq!(
            (&event["event"], &event["key"]),
            (&"delete".into(), &key.into())
        );
    }
    assert_eq!(client.fail(r#"{"op":"get","key":"t.c"}"#), "not_found");
    client.do_it(r#"{"op":"get","key":"t.never"}"#);
}

/// An entry that is put again in time lives on, and nobody is told that it has ended.
#[test]
fn putting_again_starts_the_time_anew() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.connect();
    client.subscribe("t.*");
    client.send(concat!(
        r#"{"op":"put","key":"t.kept","value":1,"ttl_ms":300}"#,
        "\n",
        r#"{"op":"put","key":"t.ends","value":1,"ttl_ms":600}"#,
        "\n",
        r#"{"op":"put","key":"t.kept","value":1,"ttl_ms":600000,"if_changed":true}"#,
    ));
    (0..2).for_each(|_| assert_eq!(client.response()["ok"], true));
    assert_eq!(client.response()["unchanged"], true);
    assert_eq!(client.event()["key"], "t.kept");
    assert_eq!(client.event()["key"], "t.ends");
    let event = client.event();
    assert_eq!(
        (&event["event"], &event["key"]),
        (&"delete".into(), &"t.ends".into())
    );
    client.do_it(r#"{"op":"get","key":"t.kept"}"#);
}
