//! Who may come in over TCP.

use std::path::PathBuf;

use crate::support::{Daemon, Plan};

/// A daemon whose token is `first`, and the file in which that stands.
fn with_token() -> (Daemon, PathBuf) {
    let plan = Plan::new();
    let file = plan.directory().join("token");
    std::fs::write(&file, "first\n").unwrap();
    let words = ["--token-file", file.to_str().unwrap(), "127.0.0.1:0"];
    (plan.with(&words).start(), file)
}

fn hello(token: &str) -> String {
    format!(r#"{{"op":"hello","token":"{token}"}}"#)
}

const PUT: &str = r#"{"op":"put","key":"a","value":1}"#;

#[test]
fn over_tcp_the_token_comes_first() {
    let (daemon, _) = with_token();
    let mut client = daemon.connect_tcp();
    for request in [
        PUT,
        r#"{"op":"ping"}"#,
        r#"{"op":"get","key":"*"}"#,
        r#"{"op":"stats"}"#,
        r#"{"op":"clients"}"#,
        r#"{"op":"subscribe","id":1,"key":"*"}"#,
        r#"{"op":"batch","ops":[]}"#,
        r#"{"op":"hello"}"#,
        &hello("wrong"),
        &hello(""),
        &hello("first\\n"),
        &hello("firs"),
        &hello("firstfirst"),
    ] {
        assert_eq!(client.fail(request), "unauthenticated", "{request}");
    }
    client.do_it(&hello("first"));
    client.do_it(PUT);
    // Who is in stays in, whatever is said later.
    client.do_it(r#"{"op":"ping"}"#);
    // The token is for that connection alone.
    assert_eq!(daemon.connect_tcp().fail(PUT), "unauthenticated");
}

#[test]
fn over_unix_no_token_is_needed() {
    let (daemon, _) = with_token();
    let mut client = daemon.connect();
    client.do_it(PUT);
    client.do_it(r#"{"op":"hello"}"#);
}

#[test]
fn the_token_is_read_again_if_it_is_good() {
    let (daemon, file) = with_token();
    let mut before = daemon.connect_tcp();
    before.do_it(&hello("first"));

    std::fs::write(&file, " \n").unwrap();
    daemon.signal("HUP");
    daemon.wait_for_log("the old token stays");
    let mut client = daemon.connect_tcp();
    assert_eq!(client.fail(PUT), "unauthenticated");
    client.do_it(&hello("first"));

    std::fs::write(&file, "second\n").unwrap();
    daemon.signal("HUP");
    daemon.wait_for_log("the token is read again");
    let mut client = daemon.connect_tcp();
    assert_eq!(client.fail(&hello("first")), "unauthenticated");
    client.do_it(&hello("second"));
    before.do_it(PUT);
}

#[test]
fn with_a_token_tcp_may_be_open_to_everyone() {
    let plan = Plan::new();
    let file = plan.directory().join("token");
    std::fs::write(&file, "first").unwrap();
    let daemon = plan
        .with(&["--token-file", file.to_str().unwrap(), "0.0.0.0:0"])
        .start();
    let port = daemon
        .tcp_address("0.0.0.0:")
        .replace("0.0.0.0", "127.0.0.1");
    let mut client = crate::support::Client::tcp(&port);
    assert_eq!(client.fail(PUT), "unauthenticated");
    client.do_it(&hello("first"));
}
