//! Quotas: what a user may hold and use, and that others do not notice who holds or uses a lot.

use std::sync::Arc;

use nkv::access::{Names, Rules};
use nkv::broker::Peer;
use nkv::wire::Limits;
use serde_json::{Value, json};

use crate::constructed::{ask, exchange, limits, lines};
use crate::support::{Bench, unix_peer};

const WHOLE: usize = usize::MAX;

struct Nobody;

impl Names for Nobody {
    fn user(&self, _: &str) -> Option<u32> {
        None
    }

    fn group(&self, _: &str) -> Option<u32> {
        None
    }
}

fn rules(text: &str) -> Option<Arc<Rules>> {
    Some(Arc::new(Rules::parse(text, &Nobody).unwrap()))
}

fn user(uid: u32) -> Peer {
    Peer::Unix {
        pid: 1,
        uid,
        gid: uid,
        groups: Vec::new(),
    }
}

fn tcp() -> Peer {
    Peer::Tcp("192.0.2.1:4000".parse().unwrap())
}

/// A bench with a client for each of these, in their order.
fn bench(limits: Limits, rules_text: &str, peers: impl IntoIterator<Item = Peer>) -> Bench {
    let mut bench = Bench::new(limits);
    bench.set_rules(rules(rules_text));
    for (number, peer) in peers.into_iter().enumerate() {
        assert_eq!(bench.connect(peer), Ok(number));
    }
    bench
}

fn put(key: &str, bytes: usize) -> String {
    json!({"op": "put", "key": key, "value": "x".repeat(bytes - 2)}).to_string()
}

/// What comes of a request: the message of a `limit`, another error, or `ok`.
fn outcome(bench: &mut Bench, client: usize, request: &str) -> String {
    let answer = ask(bench, client, request);
    let said = match answer["error"].as_str() {
        None => "ok",
        Some("limit") => answer["message"].as_str().unwrap(),
        Some(other) => other,
    };
    said.to_owned()
}

fn used_up(who: &str, quota: &str, used: u64, limit: u64) -> String {
    format!("{who} has used up the quota `{quota}`: {used} of {limit}")
}

/// What `stats` says of the users, each as its name and its numbers.
fn users(bench: &mut Bench, client: usize) -> Vec<(String, [u64; 5])> {
    let answer = ask(bench, client, r#"{"op":"stats"}"#);
    let users = answer["users"].as_array().unwrap();
    let numbers = ["connections", "subscriptions", "keys", "bytes", "buffered"];
    users
        .iter()
        .map(|user| {
            let name = match &user["uid"] {
                Value::Null => {
                    assert_eq!(user["tcp"], true);
                    "tcp".into()
                }
                uid => uid.to_string(),
            };
            (name, numbers.map(|number| user[number].as_u64().unwrap()))
        })
        .collect()
}

/// Half of each limit is a user's, whoever else is there; all of TCP is one user.
#[test]
fn a_user_may_hold_half() {
    let limits = limits(|limits| {
        limits.clients = 8;
        limits.keys = 6;
        limits.bytes = 40;
    });
    let mut bench = bench(
        limits,
        "",
        [user(7), user(8), tcp(), tcp(), user(7), unix_peer()],
    );
    for (first, second, who, name) in [(0, 4, "user 7", "a"), (2, 3, "TCP", "t")] {
        let key = |number: usize| format!("{name}{number}");
        assert_eq!(outcome(&mut bench, first, &put(&key(1), 3)), "ok");
        assert_eq!(outcome(&mut bench, second, &put(&key(2), 3)), "ok");
        // Of the bytes: two keys of two, two values of three, and this.
        let refused = outcome(&mut bench, first, &put(&key(3), 9));
        assert_eq!(refused, used_up(who, "bytes", 10, 20));
        assert_eq!(outcome(&mut bench, first, &put(&key(3), 3)), "ok");
        for client in [first, second] {
            let refused = outcome(&mut bench, client, &put(&key(4), 3));
            assert_eq!(refused, used_up(who, "keys", 3, 3));
        }
        // What makes nothing larger goes through, and so does what makes room.
        assert_eq!(outcome(&mut bench, first, &put(&key(3), 3)), "ok");
        let delete = json!({"op": "delete", "key": key(3)}).to_string();
        assert_eq!(outcome(&mut bench, second, &delete), "ok");
        assert_eq!(outcome(&mut bench, first, &put(&key(4), 3)), "ok");
        assert_eq!(outcome(&mut bench, first, &delete.replace('3', "4")), "ok");
    }
    // The user whose daemon it is has what is left, and may fill it.
    assert_eq!(outcome(&mut bench, 5, &put("o1", 3)), "ok");
    assert_eq!(outcome(&mut bench, 5, &put("o2", 3)), "ok");
    let refused = outcome(&mut bench, 5, &put("o3", 3));
    assert_eq!(refused, "the keyspace holds at most 6 keys");
}

/// A key is charged to whoever has put it last.
#[test]
fn who_puts_a_key_takes_it_over() {
    let limits = limits(|limits| limits.keys = 4);
    let mut bench = bench(limits, "", [user(7), user(8), user(0)]);
    for key in ["a", "b"] {
        assert_eq!(outcome(&mut bench, 0, &put(key, 3)), "ok");
    }
    assert_eq!(outcome(&mut bench, 1, &put("a", 3)), "ok");
    assert_eq!(outcome(&mut bench, 1, &put("b", 3)), "ok");
    assert_eq!(
        users(&mut bench, 2),
        [
            ("0".into(), [1, 0, 0, 0, 0]),
            ("7".into(), [1, 0, 0, 0, 0]),
            ("8".into(), [1, 0, 2, 8, 0]),
        ]
    );
    assert_eq!(outcome(&mut bench, 0, &put("c", 3)), "ok");
    // In the place of another's key it is one more of its own.
    let refused = outcome(&mut bench, 1, &put("c", 3));
    assert_eq!(refused, used_up("user 8", "keys", 2, 2));
    // A value that is there already changes nothing, and so nobody's account.
    let same = put("c", 3).replace('}', r#","if_changed":true}"#);
    assert_eq!(outcome(&mut bench, 1, &same), "ok");
    let swap = json!({"op": "batch", "ops": [
        {"op": "delete", "key": "a"},
        {"op": "put", "key": "c", "value": 1},
    ]});
    assert_eq!(outcome(&mut bench, 1, &swap.to_string()), "ok");
    let more = json!({"op": "batch", "ops": [
        {"op": "put", "key": "b", "value": 1},
        {"op": "delete", "key": "b"},
        {"op": "put", "key": "b", "value": 1},
        {"op": "put", "key": "d", "value": 1},
    ]});
    let refused = outcome(&mut bench, 1, &more.to_string());
    assert_eq!(refused, used_up("user 8", "keys", 2, 2));
    assert_eq!(users(&mut bench, 2)[2].1[2..4], [2, 4 + 2]);
}

#[test]
fn connections_and_subscriptions_are_counted_for_all_of_a_user() {
    let limits = limits(|limits| {
        limits.clients = 9;
        limits.subscriptions = 1;
    });
    let rules_text = "quota user:7 subscriptions 2\nquota user:9 connections 1\n";
    let mut bench = bench(
        limits,
        rules_text,
        [user(7), user(7), user(7), user(7), user(7)],
    );
    let refused: Value = serde_json::from_str(&bench.connect(user(7)).unwrap_err()).unwrap();
    assert_eq!(refused["error"], "limit");
    assert_eq!(refused["message"], used_up("user 7", "connections", 5, 5));
    assert_eq!(bench.connect(user(9)), Ok(5));
    assert!(bench.connect(user(9)).is_err());
    bench.disconnect(5);
    assert_eq!(bench.connect(user(9)), Ok(6));
    let subscribe = r#"{"id":1,"op":"subscribe","key":"a"}"#;
    for client in [0, 1] {
        assert_eq!(exchange(&mut bench, client, subscribe).len(), 2);
    }
    let refused = outcome(&mut bench, 2, subscribe);
    assert_eq!(refused, used_up("user 7", "subscriptions", 2, 2));
    assert_eq!(exchange(&mut bench, 6, subscribe).len(), 2);
    // The end of one makes room for another, and so does the end of a connection.
    exchange(&mut bench, 0, r#"{"op":"unsubscribe","sub":1}"#);
    assert_eq!(exchange(&mut bench, 2, subscribe).len(), 2);
    bench.disconnect(1);
    assert_eq!(exchange(&mut bench, 3, subscribe).len(), 2);
    assert_eq!(users(&mut bench, 6)[0], ("7".into(), [4, 2, 0, 0, 0]));
}

/// What is held beyond a new quota stays, but it does not grow.
#[test]
fn rules_that_change_count_at_once() {
    let mut bench = bench(Limits::default(), "quota anyone keys 9", [user(7), user(0)]);
    for key in ["a", "b"] {
        assert_eq!(outcome(&mut bench, 0, &put(key, 3)), "ok");
        assert_eq!(outcome(&mut bench, 1, &put(key, 3)), "ok");
    }
    bench.set_rules(rules("quota anyone keys 1"));
    let refused = outcome(&mut bench, 1, &put("c", 3));
    assert_eq!(refused, used_up("user 0", "keys", 2, 1));
    assert_eq!(outcome(&mut bench, 1, &put("a", 3)), "ok");
    bench.set_rules(None);
    assert_eq!(outcome(&mut bench, 1, &put("c", 3)), "ok");
}

/// Lines without an end, on many connections.
#[test]
fn unfinished_requests_are_bounded_for_all_of_a_user() {
    let peers = [user(7), user(7), user(7), user(8), user(0)];
    let mut bench = bench(Limits::default(), "quota user:7 buffered 16k", peers);
    let long = put("a", 12_000);
    let (beginning, end) = long.split_at(11_000);
    for client in 0..4 {
        bench.send(client, beginning.as_bytes());
        bench.settle(WHOLE);
    }
    // Each holds a few kilobytes for nothing. The third would be over, so its line is not taken in.
    let over = 11_000 - 4096;
    assert_eq!(users(&mut bench, 4)[1].1[4], 2 * over);
    assert_eq!(users(&mut bench, 4)[2].1[4], over);
    for (client, expected) in [
        (2, used_up("user 7", "buffered", 2 * over, 16 << 10)),
        (3, "ok".into()),
        (1, "ok".into()),
        (0, "ok".into()),
        // It goes on with the next line.
        (2, "ok".into()),
    ] {
        let rest = match client == 2 && expected == "ok" {
            true => &long,
            false => end,
        };
        assert_eq!(outcome(&mut bench, client, rest), expected, "{client}");
    }
    assert_eq!(users(&mut bench, 4)[1].1[4], 0);
}

/// Answers that nobody reads, and events.
#[test]
fn what_is_unread_is_bounded_for_all_of_a_user() {
    let peers = [user(7), user(7), user(7), user(8), user(0)];
    let mut bench = bench(Limits::default(), "quota user:7 buffered 150k", peers);
    assert_eq!(outcome(&mut bench, 4, &put("large", 100_000)), "ok");
    for client in 0..4 {
        bench.set_appetite(client, 0);
        bench.send(client, b"{\"op\":\"get\",\"key\":\"large\"}\n");
        bench.settle(WHOLE);
    }
    let held = users(&mut bench, 4)[1].1[4];
    assert!((190_000..210_000).contains(&held), "one too many: {held}");
    bench.set_appetite(3, WHOLE);
    bench.set_appetite(2, WHOLE);
    bench.settle(WHOLE);
    assert_eq!(lines(&mut bench, 3).len(), 1);
    let refused: Value = serde_json::from_str(&lines(&mut bench, 2)[0]).unwrap();
    assert_eq!(refused["error"], "limit", "{refused}");
    // A subscriber gets on all the same, an event at a time.
    for number in 0..20 {
        let key = format!("s.{number}");
        assert_eq!(outcome(&mut bench, 4, &put(&key, 1000)), "ok");
    }
    bench.set_appetite(1, WHOLE);
    bench.settle(WHOLE);
    assert_eq!(lines(&mut bench, 1).len(), 1);
    let subscribed = exchange(&mut bench, 1, r#"{"id":1,"op":"subscribe","key":"s"}"#);
    assert_eq!(subscribed.len(), 1 + 20 + 1);
    bench.set_appetite(0, WHOLE);
    bench.settle(WHOLE);
    assert_eq!(users(&mut bench, 4)[1].1[4], 0);
}

/// Many connections of one user that do all they can, and one of another user that asks once.
#[test]
fn a_turn_is_shared_out_between_users() {
    let crowd = 100;
    let peers = (0..crowd).map(|_| user(7)).chain([user(8)]);
    let mut bench = bench(Limits::default(), "", peers);
    let requests = "{\"op\":\"ping\"}\n".repeat(1000);
    for client in 0..crowd {
        bench.send(client, requests.as_bytes());
    }
    bench.send(crowd, b"{\"op\":\"ping\"}\n");
    bench.turn(32 << 10);
    assert_eq!(
        lines(&mut bench, crowd).len(),
        1,
        "answered in the first turn"
    );
    let answered: usize = (0..crowd)
        .map(|client| lines(&mut bench, client).len())
        .sum();
    assert!(
        (500..2000).contains(&answered),
        "{answered} requests in a turn"
    );
    bench.settle(32 << 10);
    let answered: usize = (0..crowd)
        .map(|client| lines(&mut bench, client).len())
        .sum();
    assert!(answered > crowd * 900, "all is carried out in the end");
}

/// The same for what is written.
#[test]
fn delivery_is_shared_out_between_users() {
    let crowd = 100;
    let peers = (0..crowd).map(|_| user(7)).chain([user(8), unix_peer()]);
    let mut bench = bench(Limits::default(), "", peers);
    for number in 0..40 {
        let key = format!("a.{number}");
        assert_eq!(outcome(&mut bench, crowd + 1, &put(&key, 10_000)), "ok");
    }
    for client in 0..=crowd {
        bench.send(client, b"{\"id\":1,\"op\":\"subscribe\",\"key\":\"a\"}\n");
    }
    bench.turn(WHOLE);
    let received = |bench: &mut Bench, client: usize| bench.take_received(client).len();
    assert!(
        received(&mut bench, crowd) > 200_000,
        "its share, in the first turn"
    );
    let of_crowd: usize = (0..crowd).map(|client| received(&mut bench, client)).sum();
    assert!(
        (3 << 20..6 << 20).contains(&of_crowd),
        "{of_crowd} bytes in a turn"
    );
    // Those who had nothing come first, so within a few turns everyone has had something.
    let mut served = vec![false; crowd];
    for _ in 0..10 {
        bench.turn(WHOLE);
        for (client, served) in served.iter_mut().enumerate() {
            *served |= received(&mut bench, client) > 0;
        }
    }
    assert!(served.iter().all(|served| *served), "{served:?}");
    bench.settle(WHOLE);
}

/// Who holds what is known after a restart.
#[test]
fn what_is_stored_stays_charged() {
    let mut bench = Bench::keeping(limits(|limits| limits.keys = 2));
    assert_eq!(bench.connect(user(7)), Ok(0));
    assert_eq!(outcome(&mut bench, 0, &put("a", 3)), "ok");
    bench.restart();
    assert_eq!(bench.connect(user(7)), Ok(1));
    let refused = outcome(&mut bench, 1, &put("b", 3));
    assert_eq!(refused, used_up("user 7", "keys", 1, 1));
    // And where storage fails it is as if the turn had not been.
    bench.storage.break_down(nkv::keyspace::Class::Durable);
    assert_eq!(
        outcome(&mut bench, 1, r#"{"op":"delete","key":"a"}"#),
        "read_only"
    );
    assert_eq!(users(&mut bench, 1), [("7".into(), [1, 0, 1, 4, 0])]);
}
