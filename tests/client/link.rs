//! Links: what is asked again after a connection is lost, what is not, and what comes back by itself.

use std::os::unix::net::UnixListener;
use std::sync::mpsc;
use std::time::Duration;

use nkv::client::{Error, ErrorCode, Link, Put, Value};

use crate::daemons::{Daemons, PATIENCE, then, until};
use crate::peer::{GREETING, Peer};

fn value(text: &str) -> Value {
    Value::from_json_text(text).unwrap()
}

const GET: &str = r#"{"id":2,"op":"get","key":"a"}"#;
const GOT: &str = r#"{"id":2,"ok":true,"key":"a","value":1,"rev":7}"#;

#[test]
fn nothing_is_connected_before_something_is_asked() {
    let daemons = Daemons::play(vec![then(|peer| {
        assert_eq!(peer.line(), GET);
        peer.say(GOT);
        assert_eq!(peer.try_line(), None);
    })]);
    let link = daemons.link();
    assert_eq!(daemons.connections(), 0);
    let entry = link.get::<u8>("a").unwrap().unwrap();
    assert_eq!((entry.value, entry.rev), (1, 7));
    drop(link);
    daemons.wait_for_script();
}

#[test]
fn a_daemon_that_is_just_starting_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nkv.sock");
    let link = Link::builder()
        .patience(PATIENCE)
        .pauses(Duration::from_millis(1), Duration::from_millis(5))
        .link(nkv::Address::Unix(path.clone()));
    let (asked, is_asked) = mpsc::channel();
    let asking = std::thread::spawn(move || {
        asked.send(()).unwrap();
        link.get::<u8>("a").unwrap().unwrap().value
    });
    is_asked.recv().unwrap();
    let listener = UnixListener::bind(path).unwrap();
    let mut peer = Peer::new(listener.accept().unwrap().0);
    peer.hello();
    assert_eq!(peer.line(), GET);
    peer.say(GOT);
    assert_eq!(asking.join().unwrap(), 1);
}

#[test]
fn patience_ends() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nobody.sock");
    let link = Link::builder()
        .patience(Duration::from_millis(30))
        .link(nkv::Address::Unix(path));
    let error = link.get_value("a").unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
}

#[test]
fn what_does_not_go_away_is_told_at_once() {
    let refusal = r#"{"id":1,"ok":false,"error":"unauthenticated","message":"no"}"#;
    let daemons = Daemons::play(vec![Box::new(move |mut peer| {
        peer.line();
        peer.say(refusal);
    })]);
    let error = daemons.link().get_value("a").unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::Unauthenticated));
    assert_eq!(daemons.connections(), 1);
}

#[test]
fn what_only_reads_is_asked_again() {
    let lose = || {
        then(|peer| {
            assert_eq!(peer.line(), GET);
        })
    };
    let answer = then(|peer| {
        assert_eq!(peer.line(), GET);
        peer.say(GOT);
    });
    let daemons = Daemons::play(vec![lose(), lose(), answer]);
    assert_eq!(daemons.link().get::<u8>("a").unwrap().unwrap().value, 1);
    assert_eq!(daemons.connections(), 3);
}

#[test]
fn a_put_of_unknown_fate_is_not_sent_again() {
    const PUT: &str = r#"{"id":2,"op":"put","key":"a","value":1}"#;
    let daemons = Daemons::play(vec![
        then(|peer| assert_eq!(peer.line(), PUT)),
        then(|peer| assert_eq!(peer.try_line(), None)),
    ]);
    let link = daemons.link();
    let error = link.put("a", &1).unwrap_err();
    assert!(matches!(error, Error::Unanswered(_)), "{error:?}");
    // The link itself is as good as before.
    drop(link.client().unwrap());
    drop(link);
    daemons.wait_for_script();
    daemons.wait_for_script();
}

#[test]
fn a_connection_lost_before_is_noticed_before_a_put_is_sent() {
    let daemons = Daemons::play(vec![
        then(|_| {}),
        then(|peer| {
            assert_eq!(peer.line(), r#"{"id":2,"op":"put","key":"a","value":1}"#);
            peer.say(r#"{"id":2,"ok":true,"rev":5}"#);
        }),
    ]);
    let link = daemons.link();
    link.client().unwrap();
    daemons.wait_for_script();
    assert_eq!(link.put("a", &1).unwrap(), 5);
}

#[test]
fn a_put_that_may_be_repeated_is_repeated() {
    const PUT: &str = r#"{"id":2,"op":"put","key":"a","value":1,"if_changed":true}"#;
    let daemons = Daemons::play(vec![
        then(|peer| assert_eq!(peer.line(), PUT)),
        then(|peer| {
            assert_eq!(peer.line(), PUT);
            peer.say(r#"{"id":2,"ok":true,"rev":5,"unchanged":true}"#);
        }),
    ]);
    let put = Put::new("a", value("1")).unwrap().if_changed();
    let written = daemons.link().put_with(put).unwrap();
    assert_eq!((written.rev, written.is_unchanged), (5, true));
}

#[test]
fn a_conditional_put_is_repeated_within_one_history() {
    const PUT: &str = r#"{"id":2,"op":"put","key":"a","value":1,"if_rev":3}"#;
    const CONFLICT: &str =
        r#"{"id":2,"ok":false,"error":"conflict","message":"a is at revision 4","rev":4}"#;
    let conditional = || Put::new("a", value("1")).unwrap().if_rev(3);
    let lose = || then(|peer| assert_eq!(peer.line(), PUT));
    let answer = |line: &'static str| {
        then(move |peer| {
            assert_eq!(peer.line(), PUT);
            peer.say(line);
        })
    };
    // It was not carried out the first time: the condition held.
    let daemons = Daemons::play(vec![lose(), answer(r#"{"id":2,"ok":true,"rev":4}"#)]);
    assert_eq!(daemons.link().put_with(conditional()).unwrap().rev, 4);
    // It was, or somebody else was faster: nobody can know.
    let daemons = Daemons::play(vec![lose(), answer(CONFLICT)]);
    let error = daemons.link().put_with(conditional()).unwrap_err();
    assert!(matches!(error, Error::Unanswered(_)), "{error:?}");
    // Somebody else was, for sure.
    let daemons = Daemons::play(vec![answer(CONFLICT)]);
    let error = daemons.link().put_with(conditional()).unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::Conflict));
    // In another history the revision means nothing.
    let daemons = Daemons::play(vec![
        lose(),
        Box::new(|mut peer| {
            peer.line();
            peer.say(&GREETING.replace("\"e1\"", "\"e2\""));
            assert_eq!(peer.try_line(), None);
        }),
    ]);
    let error = daemons.link().put_with(conditional()).unwrap_err();
    assert!(matches!(error, Error::Unanswered(_)), "{error:?}");
    daemons.wait_for_script();
    daemons.wait_for_script();
}

/// What keeps it from being sent again says nothing about the time before.
#[test]
fn a_put_whose_repetition_fails_is_of_unknown_fate() {
    let daemons = Daemons::play(vec![then(|peer| {
        peer.line();
    })]);
    let link = daemons.link_with(|builder| builder.patience(Duration::from_millis(50)));
    let put = Put::new("a", value("1")).unwrap().if_changed();
    let error = link.put_with(put).unwrap_err();
    assert!(matches!(error, Error::Unanswered(_)), "{error:?}");
}

#[test]
fn a_deletion_of_unknown_fate_is_not_sent_again() {
    let daemons = Daemons::play(vec![
        then(|peer| {
            assert_eq!(peer.line(), r#"{"id":2,"op":"delete","key":"a"}"#);
        }),
        then(|peer| assert_eq!(peer.try_line(), None)),
    ]);
    let link = daemons.link();
    let error = link.delete("a").unwrap_err();
    assert!(matches!(error, Error::Unanswered(_)), "{error:?}");
    drop(link.client().unwrap());
    drop(link);
    for _ in 0..2 {
        daemons.wait_for_script();
    }
}

#[test]
fn what_ceases_to_be_announced_during_a_connect_is_deleted() {
    let (asked, is_asked) = mpsc::channel();
    let (go, gone) = mpsc::channel::<()>();
    let daemons = Daemons::play(vec![
        then(|peer| {
            let request = peer.line();
            peer.say(&Peer::answer_to(&request, r#""rev":5"#));
        }),
        then(move |peer| {
            let request = peer.line();
            asked.send(()).unwrap();
            gone.recv().unwrap();
            peer.say(&Peer::answer_to(&request, r#""rev":6"#));
            assert_eq!(peer.line(), r#"{"id":3,"op":"delete","key":"present.a"}"#);
            peer.say(r#"{"id":3,"ok":true,"rev":7,"deleted":1}"#);
        }),
    ]);
    let link = daemons.link();
    let announcement = link.announce("present.a", &1).unwrap();
    is_asked.recv_timeout(PATIENCE).unwrap();
    drop(announcement);
    go.send(()).unwrap();
    daemons.wait_for_script();
    daemons.wait_for_script();
}

#[test]
fn an_update_begins_again_where_others_were_faster() {
    let daemons = Daemons::play(vec![then(|peer| {
        assert_eq!(peer.line(), GET);
        peer.say(GOT);
        assert_eq!(
            peer.line(),
            r#"{"id":3,"op":"put","key":"a","value":2,"if_rev":7}"#
        );
        peer.say(r#"{"id":3,"ok":false,"error":"conflict","message":"","rev":8}"#);
        assert_eq!(peer.line(), r#"{"id":4,"op":"get","key":"a"}"#);
        peer.say(r#"{"id":4,"ok":true,"key":"a","value":10,"rev":8,"lifetime":"boot"}"#);
        assert_eq!(
            peer.line(),
            r#"{"id":5,"op":"put","key":"a","value":11,"if_rev":8,"lifetime":"boot"}"#
        );
        peer.say(r#"{"id":5,"ok":true,"rev":9}"#);
        // It may also find that there is nothing to do.
        assert_eq!(peer.line(), r#"{"id":6,"op":"get","key":"a"}"#);
        peer.say(r#"{"id":6,"ok":false,"error":"not_found","message":""}"#);
    })]);
    let link = daemons.link();
    let add = |count: Option<u64>| Some(count.unwrap_or(0) + 1);
    assert_eq!(link.update("a", add).unwrap(), 9);
    assert_eq!(link.update("a", |held: Option<u64>| held).unwrap(), 0);
}

#[test]
fn what_is_announced_comes_back_by_itself() {
    const PUT: &str =
        r#"{"id":2,"op":"put","key":"present.a","value":1,"if_changed":true,"lifetime":"session"}"#;
    const PUT_2: &str =
        r#"{"id":2,"op":"put","key":"present.a","value":2,"if_changed":true,"lifetime":"session"}"#;
    const DONE: &str = r#"{"id":2,"ok":true,"rev":5}"#;
    let (again, is_back) = mpsc::channel();
    let daemons = Daemons::play(vec![
        then(|peer| {
            assert_eq!(peer.line(), PUT);
            peer.say(DONE);
        }),
        // Nobody has asked anything meanwhile.
        then(move |peer| {
            assert_eq!(peer.line(), PUT);
            peer.say(DONE);
            again.send(()).unwrap();
            assert_eq!(peer.line(), PUT_2.replace(r#""id":2"#, r#""id":3"#));
            peer.say(&DONE.replace(r#""id":2"#, r#""id":3"#));
        }),
        then(|peer| {
            assert_eq!(peer.line(), PUT_2);
            peer.say(DONE);
            assert_eq!(peer.line(), r#"{"id":3,"op":"delete","key":"present.a"}"#);
            peer.say(r#"{"id":3,"ok":true,"rev":6,"deleted":1}"#);
            assert_eq!(peer.try_line(), None);
        }),
    ]);
    let link = daemons.link();
    // The first connection announces it as each later one does.
    let announcement = link.announce("present.a", &1).unwrap();
    is_back.recv_timeout(PATIENCE).unwrap();
    announcement.set(&2).unwrap();
    for _ in 0..2 {
        daemons.wait_for_script();
    }
    // Before that, the thread that keeps the link may be just noticing the end of the one before.
    until("there is another one", || daemons.connections() == 3);
    link.client().unwrap();
    drop(announcement);
    drop(link);
    daemons.wait_for_script();
}

#[test]
fn threads_that_find_no_connection_share_the_next() {
    let answer = |peer: &mut Peer| {
        while let Some(line) = peer.try_line() {
            let id = line.split([':', ',']).nth(1).unwrap().to_owned();
            peer.say(&format!(r#"{{"id":{id},"ok":true}}"#));
        }
    };
    let daemons = Daemons::play(vec![then(move |peer| answer(peer))]);
    let link = daemons.link();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| link.client().unwrap().ping().unwrap());
        }
    });
    assert_eq!(daemons.connections(), 1);
}

#[test]
fn what_is_refused_is_announced_again() {
    const PUT: &str =
        r#"{"id":2,"op":"put","key":"present.a","value":1,"if_changed":true,"lifetime":"session"}"#;
    let (announced, is_announced) = mpsc::channel();
    let daemons = Daemons::play(vec![
        then(|peer| {
            assert_eq!(peer.line(), PUT);
            peer.say(r#"{"id":2,"ok":true,"rev":5}"#);
        }),
        then(move |peer| {
            assert_eq!(peer.line(), PUT);
            peer.say(r#"{"id":2,"ok":false,"error":"read_only","message":""}"#);
            // Nobody has asked for it, and the connection is as good as before.
            assert_eq!(peer.line(), PUT.replace(r#""id":2"#, r#""id":3"#));
            peer.say(r#"{"id":3,"ok":true,"rev":6}"#);
            announced.send(()).unwrap();
            assert_eq!(peer.line(), r#"{"id":4,"op":"delete","key":"present.a"}"#);
        }),
    ]);
    let link = daemons.link();
    let announcement = link.announce("present.a", &1).unwrap();
    daemons.wait_for_script();
    is_announced.recv_timeout(PATIENCE).unwrap();
    drop(announcement);
    daemons.wait_for_script();
}

#[test]
fn one_of_two_announcements_leaves_the_entry() {
    let daemons = Daemons::play(vec![then(|peer| {
        for id in [2, 3] {
            assert!(peer.line().contains(r#""key":"a""#));
            peer.say(&format!(r#"{{"id":{id},"ok":true,"rev":{id}}}"#));
        }
        assert_eq!(peer.line(), r#"{"id":4,"op":"ping"}"#);
        peer.say(r#"{"id":4,"ok":true}"#);
        assert_eq!(peer.line(), r#"{"id":5,"op":"delete","key":"a"}"#);
    })]);
    let link = daemons.link();
    let both = [1, 2].map(|value| link.announce("a", &value).unwrap());
    let [first, second] = both;
    drop(first);
    link.client().unwrap().ping().unwrap();
    drop(second);
    daemons.wait_for_script();
}
