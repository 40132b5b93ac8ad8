//! Mirrors: a copy that moves from one whole state to the next, over whatever happens to connections.

use std::sync::mpsc;
use std::time::Duration;

use nkv::Pattern;
use nkv::client::{Change, Error};

use crate::daemons::{Daemons, PATIENCE, Script, then};
use crate::peer::Peer;

/// Expects the subscription with these fields and confirms it.
fn subscribed(peer: &mut Peer, fields: &str) {
    let line = peer.line();
    assert_eq!(
        line,
        format!(r#"{{"id":2,"op":"subscribe","key":"c.*","cuts":true{fields}}}"#)
    );
    peer.say(r#"{"id":2,"ok":true,"rev":9,"epoch":"e1"}"#);
}

fn put(peer: &mut Peer, key: &str, value: &str, rev: u64) {
    peer.say(&format!(
        r#"{{"sub":2,"event":"put","key":"{key}","value":{value},"rev":{rev}}}"#
    ));
}

fn gone(peer: &mut Peer, key: &str, rev: u64) {
    peer.say(&format!(
        r#"{{"sub":2,"event":"delete","key":"{key}","rev":{rev}}}"#
    ));
}

fn sync(peer: &mut Peer, rev: u64) {
    peer.say(&format!(r#"{{"sub":2,"event":"sync","rev":{rev}}}"#));
}

fn shown(change: &Change<u32>) -> String {
    let key = change.key().as_str();
    let old = change.old().map_or("?".to_owned(), ToString::to_string);
    match change {
        Change::Created { value, .. } => format!("+{key}={value}"),
        Change::Modified { value, .. } => format!("{key}:{old}>{value}"),
        Change::Deleted { .. } => format!("-{key}:{old}"),
        other => format!("!{key}:{old}@{}", other.rev()),
    }
}

/// What a follower of these connections is told, a text for each cut.
fn followed(scripts: Vec<Script>, cuts: usize) -> Vec<String> {
    let daemons = Daemons::play(scripts);
    let mirror = daemons.link().mirror("c.*").unwrap().typed::<u32>();
    let mut follower = mirror.follow();
    let mut told = Vec::new();
    for _ in 0..cuts {
        let cut = follower.next_cut(Some(PATIENCE)).unwrap().unwrap();
        let changes: Vec<String> = cut.changes.iter().map(shown).collect();
        told.push(format!("{} {}", cut.rev, changes.join(" ")));
        assert_eq!(follower.view().rev(), Some(cut.rev));
    }
    told
}

#[test]
fn cuts_are_told_as_differences() {
    let script = then(|peer| {
        subscribed(peer, "");
        put(peer, "c.a", "1", 3);
        put(peer, "c.b", "2", 4);
        sync(peer, 4);
        put(peer, "c.a", "5", 5);
        gone(peer, "c.b", 6);
        put(peer, "c.x", "\"no number\"", 7);
        sync(peer, 7);
        let _ = peer.try_line();
    });
    assert_eq!(
        followed(vec![script], 2),
        ["4 +c.a=1 +c.b=2", "7 c.a:1>5 -c.b:2 !c.x:?@7"]
    );
}

#[test]
fn a_lost_connection_is_gone_on_from_at_the_last_cut() {
    let scripts = vec![
        then(|peer| {
            subscribed(peer, "");
            put(peer, "c.a", "1", 3);
            sync(peer, 4);
            // Half of a batch, and the end.
            put(peer, "c.a", "2", 5);
        }),
        then(|peer| {
            subscribed(peer, r#","since":4,"epoch":"e1""#);
            put(peer, "c.a", "2", 5);
            put(peer, "c.b", "2", 6);
            sync(peer, 6);
            let _ = peer.try_line();
        }),
    ];
    assert_eq!(followed(scripts, 2), ["4 +c.a=1", "6 c.a:1>2 +c.b=2"]);
}

#[test]
fn a_lost_history_is_compared() {
    let scripts = vec![
        then(|peer| {
            subscribed(peer, "");
            put(peer, "c.a", "1", 3);
            put(peer, "c.b", "2", 4);
            put(peer, "c.c", "3", 5);
            sync(peer, 5);
        }),
        then(|peer| {
            subscribed(peer, r#","since":5,"epoch":"e1""#);
            peer.say(r#"{"sub":2,"event":"reset","rev":2}"#);
            put(peer, "c.a", "1", 1);
            put(peer, "c.b", "9", 2);
            sync(peer, 2);
            let _ = peer.try_line();
        }),
    ];
    assert_eq!(
        followed(scripts, 2),
        ["5 +c.a=1 +c.b=2 +c.c=3", "2 c.b:2>9 -c.c:3"]
    );
}

#[test]
fn a_history_that_ends_under_way_is_gone_on_from_by_its_own_name() {
    let scripts = vec![
        then(|peer| {
            subscribed(peer, "");
            peer.say(r#"{"sub":2,"event":"reset","epoch":"e2","rev":4}"#);
            put(peer, "c.a", "1", 3);
            sync(peer, 4);
        }),
        then(|peer| {
            subscribed(peer, r#","since":4,"epoch":"e2""#);
            // What is not whole is forgotten, and its epoch with it.
            peer.say(r#"{"sub":2,"event":"reset","epoch":"e3","rev":5}"#);
            put(peer, "c.b", "2", 5);
        }),
        then(|peer| {
            subscribed(peer, r#","since":4,"epoch":"e2""#);
            peer.say(r#"{"sub":2,"event":"reset","rev":5}"#);
            put(peer, "c.b", "2", 5);
            sync(peer, 5);
            let _ = peer.try_line();
        }),
    ];
    assert_eq!(followed(scripts, 2), ["4 +c.a=1", "5 +c.b=2 -c.a:1"]);
}

#[test]
fn a_connection_lost_before_the_first_state_begins_again() {
    let scripts = vec![
        then(|peer| {
            subscribed(peer, "");
            put(peer, "c.a", "1", 3);
        }),
        then(|peer| {
            subscribed(peer, "");
            put(peer, "c.b", "2", 4);
            sync(peer, 4);
            let _ = peer.try_line();
        }),
    ];
    assert_eq!(followed(scripts, 1), ["4 +c.b=2"]);
}

#[test]
fn time_runs_out_without_a_cut() {
    let daemons = Daemons::play(vec![then(|peer| {
        subscribed(peer, "");
        put(peer, "c.a", "1", 3);
        let _ = peer.try_line();
    })]);
    let mut follower = daemons.link().mirror("c.*").unwrap().follow();
    let cut = follower.next_cut(Some(Duration::from_millis(20))).unwrap();
    assert!(cut.is_none());
    // What has come is not shown before it is whole.
    assert!(follower.view().is_empty());
}

#[test]
fn a_mirror_is_read_without_asking() {
    let (go_on, may_go_on) = mpsc::channel();
    let daemons = Daemons::play(vec![then(move |peer| {
        subscribed(peer, "");
        put(peer, "c.a", "1", 3);
        put(peer, "c.b.port", "\"x\"", 4);
        put(peer, "c.c.port", "80", 4);
        sync(peer, 4);
        may_go_on.recv().unwrap();
        // One batch: nobody sees the first without the second.
        put(peer, "c.a", "2", 5);
        put(peer, "c.d", "2", 5);
        sync(peer, 5);
        assert_eq!(peer.line(), r#"{"id":3,"op":"unsubscribe","sub":2}"#);
    })]);
    let (sender, changes) = mpsc::channel();
    let mirror = daemons
        .link()
        .mirror("c.*")
        .unwrap()
        .typed::<u32>()
        .on_change(move |change| sender.send(shown(change)).unwrap())
        .start()
        .unwrap();
    mirror.wait_until_synced(PATIENCE).unwrap();
    assert_eq!(mirror.get("c.a").as_deref(), Some(&1));
    assert_eq!(mirror.get("c.none"), None);
    assert!(mirror.is_connected());
    {
        let view = mirror.view();
        assert_eq!((view.len(), view.rev()), (3, Some(4)));
        assert!(view.get("c.b.port").is_none());
        assert!(matches!(**view.error("c.b.port").unwrap(), Error::Value(_)));
        assert_eq!(view.raw("c.b.port").unwrap().as_json_text(), Some("\"x\""));
        assert_eq!(view.key_rev("c.a"), Some(3));
        let ports = Pattern::new("c.*.port").unwrap();
        let keys: Vec<_> = view.matching(&ports).map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["c.c.port"]);
        assert_eq!(view.iter().count(), 2);
    }
    go_on.send(()).unwrap();
    let both = |view: &nkv::client::View<'_, u32>| {
        let values = [view.get("c.a"), view.get("c.d")].map(Option::<&_>::cloned);
        if values[1].is_some() {
            assert_eq!(values.map(|value| *value.unwrap()), [2, 2]);
            return true;
        }
        false
    };
    mirror.wait_until(PATIENCE, both).unwrap();
    let told: Vec<String> = changes.iter().take(5).collect();
    assert_eq!(
        told,
        [
            "+c.a=1",
            "!c.b.port:?@4",
            "+c.c.port=80",
            "c.a:1>2",
            "+c.d=2"
        ]
    );
    drop(mirror);
    daemons.wait_for_script();
}

#[test]
fn a_mirror_says_why_it_has_nothing() {
    let refusal = r#"{"id":1,"ok":false,"error":"unauthenticated","message":"no"}"#;
    let daemons = Daemons::play(vec![
        Box::new(move |mut peer| {
            peer.line();
            peer.say(refusal);
        }),
        then(|peer| {
            subscribed(peer, "");
            sync(peer, 0);
            let _ = peer.try_line();
        }),
    ]);
    let mirror = daemons.link().mirror("c.*").unwrap().start().unwrap();
    daemons.wait_for_script();
    // It tries again, and there is another daemon then.
    mirror.wait_until_synced(PATIENCE).unwrap();
    assert!(mirror.error().is_none());
}

#[test]
fn a_mirror_without_a_daemon_ends_when_it_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nobody.sock");
    let link = nkv::client::Link::builder().link(nkv::Address::Unix(path));
    let mirror = link.mirror("c.*").unwrap().start().unwrap();
    let error = mirror.wait_until_synced(Duration::from_millis(50));
    assert!(
        matches!(error, Err(Error::Connect { .. } | Error::Timeout)),
        "{error:?}"
    );
    drop(mirror);
}

#[test]
fn a_handler_may_drop_its_own_mirror() {
    let daemons = Daemons::play(vec![then(|peer| {
        subscribed(peer, "");
        sync(peer, 1);
        assert_eq!(peer.line(), r#"{"id":3,"op":"unsubscribe","sub":2}"#);
    })]);
    let (give, taken) = mpsc::channel::<nkv::client::Mirror>();
    let mirror = daemons
        .link()
        .mirror("c.*")
        .unwrap()
        .on_cut(move |_| drop(taken.recv().unwrap()))
        .start()
        .unwrap();
    give.send(mirror).unwrap();
    daemons.wait_for_script();
}
