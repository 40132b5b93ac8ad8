//! The blocking client against a peer that follows a script: the other end of a socket pair, a thread
//! that expects certain lines and says others. What a real daemon does with such lines is tested with
//! the programs; here it is told apart from what the client does with what it is told.

#![allow(
    clippy::unwrap_used,
    reason = "a test that meets a surprise should panic"
)]

mod claim;
mod daemons;
mod events;
mod link;
mod mirror;
mod peer;
mod step;

use std::time::Duration;

use nkv::client::{Client, Error, ErrorCode, Event, Lifetime, Position, Put, Value};
use peer::{GREETING, Peer, client, scripted};

fn json(text: &str) -> Value {
    Value::from_json_text(text).unwrap()
}

fn put(key: &str, value: &str, rev: u64) -> Event {
    Event::Put {
        key: nkv::Key::new(key).unwrap(),
        value: json(value),
        rev,
    }
}

#[test]
fn greeting_is_kept() {
    fn is_shared_by_threads<T: Clone + Send + Sync>(_: &T) {}
    let client = client(|_| {});
    is_shared_by_threads(&client);
    assert_eq!(client.epoch(), "e1");
    assert_eq!(client.server(), "nkv 9.9");
    assert_eq!(client.initial_rev(), 41);
    assert_eq!(client.limits().message, 1 << 20);
}

#[test]
fn a_refused_greeting_is_told() {
    let check = |answer: &'static str, expected: &str| {
        let stream = scripted(move |mut peer| {
            peer.line();
            peer.say(answer);
        });
        let error = Client::from_stream(stream).unwrap_err();
        assert!(format!("{error}").contains(expected), "{error}");
    };
    check(
        r#"{"ok":false,"error":"limit","message":"too many"}"#,
        "limit: too many",
    );
    check(
        r#"{"id":1,"ok":true,"server":"x","protocol":2,"epoch":"e","rev":0}"#,
        "version 2",
    );
    check("HTTP/1.1 400 Bad Request", "protocol");
}

/// One call, the line that it must send, the line that answers it, and what must come of it.
fn exchange(
    call: impl FnOnce(&Client) -> String,
    request: &'static str,
    answer: &'static str,
    expected: &str,
) {
    let client = client(move |mut peer| {
        assert_eq!(peer.line(), request);
        peer.say(answer);
    });
    assert_eq!(call(&client), expected, "{request}");
}

#[test]
fn requests_and_answers() {
    exchange(
        |client| format!("{:?}", client.put("a", &[1, 2]).unwrap()),
        r#"{"id":2,"op":"put","key":"a","value":[1,2]}"#,
        r#"{"id":2,"ok":true,"rev":42}"#,
        "42",
    );
    exchange(
        |client| {
            let put = Put::new("a", json("1.0\n")).unwrap();
            let put = put.if_rev(3).if_changed().lifetime(Lifetime::Boot);
            let written = client
                .put_with(put.ttl(Duration::from_micros(1500)))
                .unwrap();
            format!("{} {}", written.rev, written.is_unchanged)
        },
        r#"{"id":2,"op":"put","key":"a","value":1.0,"if_rev":3,"if_changed":true,"lifetime":"boot","ttl_ms":2}"#,
        r#"{"id":2,"ok":true,"rev":3,"unchanged":true}"#,
        "3 true",
    );
    exchange(
        |client| format!("{:?}", client.put_bytes("a", b"\0\x01").unwrap()),
        r#"{"id":2,"op":"put","key":"a","base64":"AAE="}"#,
        r#"{"id":2,"ok":true,"rev":1}"#,
        "1",
    );
    exchange(
        |client| {
            let entry = client.get::<Vec<u8>>("a").unwrap().unwrap();
            format!(
                "{:?} {} {:?} {:?}",
                entry.value, entry.rev, entry.lifetime, entry.ttl
            )
        },
        r#"{"id":2,"op":"get","key":"a"}"#,
        r#"{"id":2,"ok":true,"key":"a","value":[1],"rev":7,"lifetime":"boot","ttl_ms":10}"#,
        "[1] 7 Boot Some(10ms)",
    );
    exchange(
        |client| format!("{:?}", client.get::<u8>("a").unwrap().is_none()),
        r#"{"id":2,"op":"get","key":"a"}"#,
        r#"{"id":2,"ok":false,"error":"not_found","message":"no such key"}"#,
        "true",
    );
    exchange(
        |client| client.get::<u8>("a").unwrap_err().to_string(),
        r#"{"id":2,"op":"get","key":"a"}"#,
        r#"{"id":2,"ok":true,"key":"a","value":"text","rev":7}"#,
        "the value does not fit: invalid type: string \"text\", expected u8 at line 1 column 6",
    );
    exchange(
        |client| format!("{:?}", client.delete("a").unwrap()),
        r#"{"id":2,"op":"delete","key":"a"}"#,
        r#"{"id":2,"ok":true,"deleted":0,"rev":7}"#,
        "false",
    );
    exchange(
        |client| {
            let batch = client.batch().check("a", 0).put("b", &1).delete("c.*");
            format!("{:?}", batch.delete_if_rev("d", 4).commit().unwrap())
        },
        r#"{"id":2,"op":"batch","ops":[{"op":"check","key":"a","if_rev":0},{"op":"put","key":"b","value":1},{"op":"delete","key":"c.*"},{"op":"delete","key":"d","if_rev":4}]}"#,
        r#"{"id":2,"ok":true,"rev":9}"#,
        "9",
    );
    exchange(
        |client| {
            let stats = client.stats().unwrap();
            format!(
                "{} {:?} {:?}",
                stats.epoch,
                stats.counter("puts"),
                stats.counter("id")
            )
        },
        r#"{"id":2,"op":"stats"}"#,
        r#"{"id":2,"ok":true,"puts":5,"epoch":"e1","version":"1"}"#,
        "e1 Some(5) None",
    );
    // A line that the daemon could not read is answered without its id.
    exchange(
        |client| format!("{:?}", client.put("a", "…").unwrap_err().code()),
        r#"{"id":2,"op":"put","key":"a","value":"…"}"#,
        r#"{"ok":false,"error":"too_large","message":"1 MiB"}"#,
        "Some(TooLarge)",
    );
}

#[test]
fn mistakes_stay_here() {
    let client = client(|_| {});
    assert!(matches!(client.put("a..b", &1), Err(Error::Key(_))));
    assert!(matches!(client.get::<u8>("a.*"), Err(Error::Key(_))));
    assert!(matches!(client.subscribe("a b"), Err(Error::Key(_))));
    assert!(matches!(
        client.batch().put("*", &1).delete("b").commit(),
        Err(Error::Key(_))
    ));
    assert!(matches!(
        client.put_json_text("a", "{} {}"),
        Err(Error::Value(_))
    ));
}

#[test]
fn lists_turn_their_pages() {
    let client = client(|mut peer| {
        assert_eq!(peer.line(), r#"{"id":2,"op":"get","key":"a.*","limit":2}"#);
        peer.say(
            r#"{"id":2,"ok":true,"entries":[{"key":"a","value":1,"rev":1},{"key":"a.b","value":2,"rev":5}],"rev":9,"more":true}"#,
        );
        assert_eq!(
            peer.line(),
            r#"{"id":3,"op":"get","key":"a.*","limit":2,"after":"a.b"}"#
        );
        peer.say(r#"{"id":3,"ok":true,"entries":[{"key":"a.c","base64":"","rev":2}],"rev":9}"#);
        assert_eq!(
            peer.line(),
            r#"{"id":4,"op":"get","key":"*","keys_only":true}"#
        );
        peer.say(r#"{"id":4,"ok":true,"entries":[{"key":"a","rev":1}],"rev":9,"more":true}"#);
        assert_eq!(
            peer.line(),
            r#"{"id":5,"op":"get","key":"*","after":"a","keys_only":true}"#
        );
        peer.say(r#"{"id":5,"ok":true,"entries":[],"rev":9,"more":true}"#);
    });
    let list = client.list("a.*").unwrap().page(2);
    let revs: Vec<u64> = list.map(|entry| entry.unwrap().rev).collect();
    assert_eq!(revs, [1, 5, 2]);
    let keys: Vec<_> = client.list_keys("*").unwrap().collect();
    assert_eq!(keys.len(), 2);
    assert!(
        matches!(keys[1], Err(Error::Protocol(_))),
        "a page without end is no list"
    );
}

#[test]
fn a_late_answer_is_dropped() {
    let stream = scripted(|mut peer| {
        peer.hello();
        let late = peer.line();
        let mut next = peer.line();
        peer.say(&Peer::answer_to(
            &late,
            r#""key":"a","value":"late","rev":1"#,
        ));
        loop {
            peer.say(&Peer::answer_to(
                &next,
                r#""key":"b","value":"right","rev":2"#,
            ));
            next = peer.line();
        }
    });
    let timeout = Some(Duration::from_millis(20));
    let client = Client::builder()
        .reply_timeout(timeout)
        .from_stream(stream)
        .unwrap();
    assert!(matches!(client.get::<String>("a"), Err(Error::Timeout)));
    // As often as the machine needs: each answer that comes in time is the right one.
    let entry = loop {
        match client.get::<String>("b") {
            Err(Error::Timeout) => {}
            answer => break answer.unwrap().unwrap(),
        }
    };
    assert_eq!(entry.value, "right");
}

#[test]
fn the_fate_of_a_request_is_told() {
    let client = client(|mut peer| {
        peer.line();
    });
    let error = client.put("a", &1).unwrap_err();
    assert!(matches!(&error, Error::Unanswered(cause) if matches!(**cause, Error::Closed)));
    assert!(
        error.to_string().contains("may have been done or not"),
        "{error}"
    );
    assert!(client.put("a", &1).unwrap_err().is_disconnect());
}

#[test]
fn a_peer_that_loses_count_is_left() {
    let check = |answer: &'static str| {
        let client = client(move |mut peer| {
            peer.line();
            peer.say(answer);
            assert_eq!(peer.rest(), "", "the client hangs up");
        });
        let Err(Error::Unanswered(cause)) = client.ping() else {
            panic!("{answer}")
        };
        assert!(matches!(*cause, Error::Protocol(_)), "{answer}: {cause}");
        assert!(matches!(client.ping(), Err(Error::Protocol(_))));
    };
    check(r#"{"id":7,"ok":true}"#);
    check(r#"{"id":"2","ok":true}"#);
    check(r#"{"id":2}"#);
    check("\u{1}");
}

#[test]
fn requests_flow_while_answers_do() {
    // A peer that reads nothing while its answers are unread: more than any socket buffer holds, in
    // both directions.
    let client = client(|mut peer| {
        let padding = "x".repeat(100_000);
        while let Some(request) = peer.try_line() {
            peer.say(&Peer::answer_to(
                &request,
                &format!(r#""rev":1,"padding":"{padding}""#),
            ));
        }
    });
    let value = "y".repeat(100_000);
    let pipeline = client.pipeline();
    let pending: Vec<_> = (0..200)
        .map(|_| pipeline.put("a", &value).unwrap())
        .collect();
    for put in pending {
        assert_eq!(put.wait().unwrap().rev, 1);
    }
}

#[test]
fn threads_share_a_connection() {
    let client = client(|mut peer| {
        let mut rev = 0;
        while let Some(request) = peer.try_line() {
            rev += 1;
            peer.say(&Peer::answer_to(
                &request,
                &format!(r#""rev":{rev},"epoch":"e1""#),
            ));
            peer.say(&format!(
                r#"{{"sub":2,"event":"put","key":"a","value":{rev},"rev":{rev}}}"#
            ));
        }
    });
    let subscription = client.subscribe("a").unwrap();
    const THREADS: u64 = 4;
    const PUTS: u64 = 500;
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| (0..PUTS).for_each(|n| assert!(client.put("a", &n).unwrap() > 0)));
        }
        let events = subscription.map(|event| event.unwrap().rev());
        let revs: Vec<u64> = events.take_while(|rev| *rev <= THREADS * PUTS).collect();
        assert!(revs.is_sorted());
    });
}

#[test]
fn subscriptions_are_told_apart() {
    let client = client(|mut peer| {
        assert_eq!(peer.line(), r#"{"id":2,"op":"subscribe","key":"a.*"}"#);
        peer.say(r#"{"sub":2,"event":"put","key":"a","value":1,"rev":1}"#);
        peer.say(r#"{"id":2,"ok":true,"epoch":"e2","rev":1}"#);
        assert_eq!(
            peer.line(),
            r#"{"id":3,"op":"subscribe","key":"b","exact":true,"cuts":true,"initial":false}"#
        );
        peer.say(r#"{"id":3,"ok":true,"epoch":"e2","rev":1}"#);
        peer.say(r#"{"sub":3,"event":"delete","key":"b","rev":4}"#);
        peer.say(r#"{"sub":3,"event":"somersault","rev":4}"#);
        peer.say(r#"{"sub":2,"event":"sync","rev":1}"#);
        peer.say(r#"{"sub":2,"event":"put","key":"a.x","value":2,"rev":3}"#);
        assert_eq!(peer.line(), r#"{"id":4,"op":"unsubscribe","sub":3}"#);
        peer.say(r#"{"sub":3,"event":"delete","key":"b","rev":9}"#);
        peer.say(r#"{"id":4,"ok":true}"#);
    });
    let position = |rev| Position {
        rev,
        epoch: "e2".into(),
    };
    let mut all = client.subscribe("a.*").unwrap();
    let mut changes = client
        .subscribe_with("b")
        .exact()
        .cuts()
        .changes_only()
        .start()
        .unwrap();
    assert_eq!(changes.position(), Some(&position(1)));
    let gone = Event::Delete {
        key: nkv::Key::new("b").unwrap(),
        rev: 4,
    };
    assert_eq!(changes.next().unwrap().unwrap(), gone);
    assert_eq!(changes.position(), Some(&position(4)));
    assert_eq!(all.next().unwrap().unwrap(), put("a", "1", 1));
    assert_eq!(
        all.position(),
        None,
        "the current entries have not all been told"
    );
    assert_eq!(all.next().unwrap().unwrap(), Event::Sync { rev: 1 });
    assert_eq!(all.position(), Some(&position(1)));
    drop(changes);
    assert_eq!(all.next().unwrap().unwrap(), put("a.x", "2", 3));
    assert_eq!(all.position(), Some(&position(3)));
    assert!(matches!(all.next(), Some(Err(Error::Closed))));
    assert!(all.next().is_none());
    assert!(all.try_next().unwrap().is_none());
}

#[test]
fn resuming_keeps_the_old_position_until_told_otherwise() {
    let client = client(|mut peer| {
        assert_eq!(
            peer.line(),
            r#"{"id":2,"op":"subscribe","key":"a","since":5,"epoch":"e0"}"#
        );
        peer.say(r#"{"id":2,"ok":true,"epoch":"e1","rev":9}"#);
        peer.say(r#"{"sub":2,"event":"reset","rev":9}"#);
        peer.say(r#"{"sub":2,"event":"put","key":"a","value":1,"rev":2}"#);
        peer.say(r#"{"sub":2,"event":"sync","rev":9}"#);
    });
    let since = Position {
        rev: 5,
        epoch: "e0".into(),
    };
    let mut subscription = client
        .subscribe_with("a")
        .since(since.clone())
        .start()
        .unwrap();
    let mut positions = vec![subscription.position().cloned()];
    while let Some(Ok(_)) = subscription.next() {
        positions.push(subscription.position().cloned());
    }
    let new = Position {
        rev: 9,
        epoch: "e1".into(),
    };
    assert_eq!(positions, [Some(since), None, None, Some(new)]);
}

/// A daemon that is older than the field names none: then it is the one before.
#[test]
fn a_reset_may_name_another_epoch() {
    let check = |named: &'static str, expected: &str| {
        let client = client(move |mut peer| {
            peer.line();
            peer.say(r#"{"id":2,"ok":true,"epoch":"e1","rev":9}"#);
            peer.say(&format!(r#"{{"sub":2,"event":"reset"{named},"rev":9}}"#));
            peer.say(r#"{"sub":2,"event":"sync","rev":9}"#);
        });
        let mut subscription = client.subscribe("a").unwrap();
        assert_eq!(subscription.epoch(), "e1");
        let reset = subscription.next().unwrap().unwrap();
        let epoch = (!named.is_empty()).then(|| expected.to_owned());
        assert_eq!(reset, Event::Reset { rev: 9, epoch });
        assert_eq!(subscription.epoch(), expected);
        assert_eq!(subscription.position(), None);
        let sync = subscription.next().unwrap().unwrap();
        assert_eq!(sync, Event::Sync { rev: 9 });
        let position = Position {
            rev: 9,
            epoch: expected.into(),
        };
        assert_eq!(subscription.position(), Some(&position));
    };
    check(r#","epoch":"e2""#, "e2");
    check("", "e1");
}

#[test]
fn a_refused_subscription_is_none() {
    let client = client(|mut peer| {
        peer.line();
        peer.say(r#"{"id":2,"ok":false,"error":"denied","message":"not yours"}"#);
        peer.line();
    });
    assert_eq!(
        client.subscribe("a").unwrap_err().code(),
        Some(ErrorCode::Denied)
    );
}

#[test]
fn another_thread_can_end_a_subscription() {
    let client = client(|mut peer| {
        let request = peer.line();
        peer.say(&Peer::answer_to(&request, r#""epoch":"e1","rev":0"#));
        assert_eq!(peer.line(), r#"{"id":3,"op":"unsubscribe","sub":2}"#);
        peer.say(r#"{"id":3,"ok":true}"#);
        peer.rest();
    });
    let mut subscription = client.subscribe("a").unwrap();
    let ender = subscription.ender();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || subscription.next().is_none());
        ender.end();
        assert!(waiting.join().unwrap());
    });
}

#[test]
fn closing_wakes_whoever_waits() {
    let client = client(|mut peer| {
        let request = peer.line();
        peer.say(&Peer::answer_to(&request, r#""epoch":"e1","rev":0"#));
        peer.rest();
    });
    let mut subscription = client.subscribe("a").unwrap();
    assert!(!client.is_closed());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || subscription.next());
        client.close();
        assert!(matches!(waiting.join().unwrap(), Some(Err(Error::Closed))));
    });
    assert!(matches!(client.ping(), Err(Error::Closed)));
    assert!(client.is_closed());
}

#[test]
fn lines_arrive_in_pieces() {
    let stream = scripted(|mut peer| {
        peer.line();
        GREETING
            .bytes()
            .chain([b'\r', b'\n', b'\n'])
            .for_each(|byte| peer.write(&[byte]));
        let request = peer.line();
        let answer = Peer::answer_to(&request, r#""key":"a","value":"größe","rev":3"#) + "\n";
        answer.bytes().for_each(|byte| peer.write(&[byte]));
    });
    let client = Client::from_stream(stream).unwrap();
    assert_eq!(client.get::<String>("a").unwrap().unwrap().value, "größe");
}
