//! Rules who may do what, as each op meets them; a line for each thing that can be asked.

use std::sync::Arc;

use nkv::access::{Names, Rules};
use nkv::broker::Peer;
use nkv::wire::Limits;
use serde_json::Value;

use crate::constructed::{ask, lines};
use crate::support::Bench;

const WHOLE: usize = usize::MAX;

const ROOT: usize = 0;
const NETD: usize = 1;
const STAFF: usize = 2;
const TCP: usize = 3;
const NOBODY: usize = 4;

const RULES: &str = "\
allow user:0     all        *
allow user:100   read,write net.*
deny  anyone     read       net.secret.*
allow group:50   read       net.*
allow group:50   write      inbox.*
allow tcp        read       net.eth0.mtu
lifetime net.rx.* boot
lifetime net.live.* session
";

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

fn user(uid: u32, groups: &[u32]) -> Peer {
    Peer::Unix {
        pid: 1,
        uid,
        gid: uid,
        groups: groups.to_vec(),
    }
}

/// A bench with the rules, and the clients in the order of their numbers.
fn bench() -> Bench {
    let mut bench = Bench::new(Limits::default());
    bench.set_rules(rules(RULES));
    let peers = [
        user(0, &[]),
        user(100, &[]),
        user(7, &[9, 50]),
        Peer::Tcp("127.0.0.1:9".parse().unwrap()),
        user(8, &[]),
    ];
    for (number, peer) in peers.into_iter().enumerate() {
        assert_eq!(bench.connect(peer), Ok(number));
    }
    for (key, value) in [
        ("net.eth0.mtu", "1500"),
        ("net.eth0.up", "true"),
        ("net.secret.psk", "\"x\""),
        ("inbox.a", "1"),
        ("other", "1"),
    ] {
        let put = format!(r#"{{"op":"put","key":"{key}","value":{value}}}"#);
        assert_eq!(ask(&mut bench, ROOT, &put)["ok"], true);
    }
    bench
}

/// What comes of a request: its error, or `ok`.
fn outcome(bench: &mut Bench, client: usize, request: &str) -> String {
    let answer = ask(bench, client, request);
    let error = answer["error"].as_str().unwrap_or("ok");
    error.to_owned()
}

#[test]
fn each_op_is_held_against_the_rules() {
    let mut bench = bench();
    let mut check = |client: usize, request: &str, expected: &str| {
        assert_eq!(
            outcome(&mut bench, client, request),
            expected,
            "{client}: {request}"
        );
    };
    for (client, read, write, conditional) in [
        (ROOT, "ok", "ok", "ok"),
        (NETD, "ok", "ok", "ok"),
        (STAFF, "ok", "denied", "denied"),
        (TCP, "ok", "denied", "denied"),
        (NOBODY, "denied", "denied", "denied"),
    ] {
        check(client, r#"{"op":"get","key":"net.eth0.mtu"}"#, read);
        check(
            client,
            r#"{"op":"put","key":"net.eth0.mtu","value":1}"#,
            write,
        );
        check(
            client,
            r#"{"op":"put","key":"net.eth0.mtu","value":1,"if_changed":true}"#,
            conditional,
        );
        check(client, r#"{"op":"delete","key":"net.none"}"#, write);
        check(
            client,
            r#"{"op":"batch","ops":[{"op":"check","key":"net.eth0.mtu","if_rev":999}]}"#,
            match read {
                "ok" => "conflict",
                denied => denied,
            },
        );
        check(
            client,
            r#"{"op":"batch","ops":[{"op":"put","key":"net.eth0.mtu","value":1}]}"#,
            write,
        );
        check(
            client,
            r#"{"op":"batch","ops":[{"op":"delete","key":"net.none"}]}"#,
            write,
        );
        check(client, r#"{"op":"ping"}"#, "ok");
        check(client, r#"{"op":"stats"}"#, "ok");
    }
    // Who may write and not read sets no conditions.
    for (request, expected) in [
        (r#"{"op":"put","key":"inbox.a","value":2}"#, "ok"),
        (
            r#"{"op":"put","key":"inbox.a","value":2,"if_rev":0}"#,
            "denied",
        ),
        (
            r#"{"op":"put","key":"inbox.a","value":2,"if_changed":true}"#,
            "denied",
        ),
        (r#"{"op":"delete","key":"inbox.a","if_rev":0}"#, "denied"),
        (r#"{"op":"get","key":"inbox.a"}"#, "denied"),
        (r#"{"op":"delete","key":"inbox.a"}"#, "denied"),
    ] {
        check(STAFF, request, expected);
    }
}

/// Whoever claims a subtree must be allowed to own all of it, by one line.
#[test]
fn claims_are_held_against_the_rules() {
    let rules_text = "\
allow user:0    all *
deny  anyone    own net.eth0.lock
allow user:100  own net.*
allow user:100  read,write net.*
allow user:7    own a.b
allow user:8    write *
allow user:9    read net.eth1.*
";
    let mut bench = Bench::new(Limits::default());
    bench.set_rules(rules(rules_text));
    let uids = [0, 100, 7, 8, 9];
    for (number, uid) in uids.into_iter().enumerate() {
        assert_eq!(bench.connect(user(uid, &[])), Ok(number));
    }
    let claim = |key: &str| format!(r#"{{"op":"claim","key":"{key}"}}"#);
    let mut check = |client: usize, request: &str, expected: &str| {
        assert_eq!(
            outcome(&mut bench, client, request),
            expected,
            "{client}: {request}"
        );
    };
    check(1, &claim("net.eth1"), "ok");
    check(1, &claim("net.eth0.mtu"), "ok");
    for (client, key) in [
        (1, "net"),
        (1, "net.eth0"),
        (1, "net.eth0.lock"),
        (1, "x"),
        (2, "a.b"),
    ] {
        check(client, &claim(key), "denied");
    }
    check(3, &claim("y"), "denied");
    // The right to write is not the right to write what is claimed, root's included.
    let put = r#"{"op":"put","key":"net.eth1.up","value":1}"#;
    check(3, put, "denied");
    check(0, put, "denied");
    check(1, put, "ok");
    // Who may not read a key is not shown by `clients` who has claimed it.
    let seen = |answer: &Value| {
        let clients = answer["clients"].as_array().unwrap();
        clients[1]["claims"].to_string()
    };
    let list = r#"{"op":"clients"}"#;
    for (client, expected) in [
        (0, r#"["net.eth0.mtu","net.eth1"]"#),
        (4, r#"["net.eth1"]"#),
        (3, "null"),
    ] {
        assert_eq!(seen(&ask(&mut bench, client, list)), expected, "{client}");
    }
    // Nor are the daemon's own entries everybody's.
    let own = r#"{"op":"get","key":"$claims.net.eth1"}"#;
    assert_eq!(outcome(&mut bench, 0, own), "denied");
}

/// Who is refused because of a claim that it may not see is not told whose it is, nor of what.
#[test]
fn a_claim_that_may_not_be_seen_is_not_named() {
    let rules_text = "\
allow user:0    all *
deny  user:100  read a.hidden.*
allow user:100  all a.*
allow user:7    own,write a.*
allow user:7    read $claims.a.*
";
    let mut bench = Bench::new(Limits::default());
    bench.set_rules(rules(rules_text));
    for (number, uid) in [0, 100, 7].into_iter().enumerate() {
        assert_eq!(bench.connect(user(uid, &[])), Ok(number));
    }
    let claim = |key: &str| format!(r#"{{"op":"claim","key":"{key}"}}"#);
    let put = |key: &str| format!(r#"{{"op":"put","key":"{key}","value":1}}"#);
    assert_eq!(outcome(&mut bench, ROOT, &claim("a.hidden.name")), "ok");
    assert_eq!(outcome(&mut bench, ROOT, &claim("a.seen")), "ok");
    let mut said = |client: usize, request: &str| {
        let answer = ask(&mut bench, client, request);
        let error = answer["error"].as_str().unwrap();
        format!("{error}: {}", answer["message"].as_str().unwrap())
    };
    let hidden = "is claimed by another connection, or something above or below it is";
    for request in [claim("a"), claim("a.hidden")] {
        let told = said(NETD, &request);
        assert!(told.starts_with("conflict: "), "{told}");
        assert!(told.ends_with(hidden), "{told}");
    }
    let told = said(NETD, &put("a.hidden.name.x"));
    assert_eq!(told, format!("denied: a.hidden.name.x {hidden}"));
    // Who may see it is told, also who may read no more than the claim.
    let named = r#"a.seen is claimed by {"uid":0,"pid":1}"#;
    assert_eq!(said(NETD, &put("a.seen.x")), format!("denied: {named}"));
    let named = r#"a.hidden.name is claimed by {"uid":0,"pid":1}"#;
    assert_eq!(said(STAFF, &claim("a")), format!("conflict: {named}"));
}

/// The keys that the patterns of a batch look at are limited, so that limit must not be a measure of what
/// is hidden.
#[test]
fn a_batch_does_not_tell_whether_there_is_a_hidden_key() {
    let rules_text = "\
allow user:0    all *
deny  user:100  read users.*.hidden
allow user:100  read,write *
";
    let mut bench = Bench::new(Limits::default());
    bench.set_rules(rules(rules_text));
    for (number, uid) in [0, 100].into_iter().enumerate() {
        assert_eq!(bench.connect(user(uid, &[])), Ok(number));
    }
    // What the batch has put is looked at for each pattern. That leaves very little of the limit, or all but
    // nothing, and then the pattern below which something is hidden is looked at. The condition at the end keeps
    // all of it from being carried out.
    let batch = |puts: usize, times: usize| {
        let put = |n| format!(r#"{{"op":"put","key":"k.{n}","value":1}},"#);
        let puts: String = (0..puts).map(put).collect();
        let sweeps = r#"{"op":"delete","key":"users.bob.*"},"#.repeat(times);
        let end = r#"{"op":"check","key":"never","if_rev":1}"#;
        format!(r#"{{"op":"batch","ops":[{puts}{sweeps}{end}]}}"#)
    };
    for (puts, times, expected) in [
        (4681, 13, "conflict"),
        (4681, 14, "limit"),
        (4425, 14, "conflict"),
        (4426, 14, "limit"),
        (0, 255, "conflict"),
        (0, 256, "limit"),
        (0, 20_000, "limit"),
    ] {
        let mut said = |op: &str| {
            let hidden = format!(r#"{{"op":"{op},"key":"users.bob.hidden"}}"#);
            assert_eq!(outcome(&mut bench, ROOT, &hidden), "ok");
            ask(&mut bench, NETD, &batch(puts, times))
        };
        let there = said(r#"put","value":1"#);
        assert_eq!(there["error"], expected, "{puts} {times}: {there}");
        let not_there = said(r#"delete""#);
        assert_eq!(there, not_there, "{puts} {times}");
    }
}

#[test]
fn a_refusal_does_not_tell_what_is_there() {
    let mut bench = bench();
    for (client, there, not_there) in [
        (STAFF, "net.secret.psk", "net.secret.pin"),
        (NOBODY, "other", "others"),
    ] {
        for form in [
            r#"{"op":"get","key":"KEY"}"#,
            r#"{"op":"put","key":"KEY","value":1,"if_rev":0}"#,
            r#"{"op":"put","key":"KEY","value":1,"if_rev":3}"#,
            r#"{"op":"delete","key":"KEY"}"#,
            r#"{"op":"delete","key":"KEY","if_rev":3}"#,
            r#"{"op":"subscribe","id":1,"key":"KEY"}"#,
            r#"{"op":"batch","ops":[{"op":"check","key":"KEY","if_rev":0}]}"#,
        ] {
            let mut said = [there, not_there].map(|key| {
                let answer = ask(&mut bench, client, &form.replace("KEY", key));
                answer.to_string().replace(key, "KEY")
            });
            assert!(said[0].contains("denied"), "{form}: {}", said[0]);
            said.sort();
            assert_eq!(said[0], said[1], "{form}");
        }
    }
}

fn keys(answer: &Value) -> Vec<&str> {
    let entries = answer["entries"].as_array().unwrap();
    entries
        .iter()
        .map(|entry| entry["key"].as_str().unwrap())
        .collect()
}

#[test]
fn patterns_cover_what_may_be_seen() {
    let mut bench = bench();
    let list = r#"{"op":"get","key":"*"}"#;
    let mut check = |client: usize, expected: &[&str]| {
        let answer = ask(&mut bench, client, list);
        assert_eq!(keys(&answer), expected, "{client}");
    };
    check(NETD, &["net.eth0.mtu", "net.eth0.up", "net.secret.psk"]);
    check(STAFF, &["net.eth0.mtu", "net.eth0.up"]);
    check(TCP, &["net.eth0.mtu"]);
    assert_eq!(outcome(&mut bench, NOBODY, list), "denied");
    assert_eq!(
        outcome(&mut bench, TCP, r#"{"op":"get","key":"inbox.*"}"#),
        "denied"
    );
    // A page is a page of what may be seen.
    let page = ask(&mut bench, STAFF, r#"{"op":"get","key":"*","limit":1}"#);
    assert_eq!(
        (keys(&page), &page["more"]),
        (vec!["net.eth0.mtu"], &Value::Bool(true))
    );

    // A deletion spares what may not be seen, although it may be written.
    assert_eq!(
        outcome(
            &mut bench,
            STAFF,
            r#"{"op":"put","key":"inbox.b","value":1}"#
        ),
        "ok"
    );
    let sweep = r#"{"op":"delete","key":"inbox.*"}"#;
    assert_eq!(ask(&mut bench, STAFF, sweep)["deleted"], 0);
    let sweep = r#"{"op":"delete","key":"*"}"#;
    assert_eq!(ask(&mut bench, NETD, sweep)["deleted"], 3);
    let left = ask(&mut bench, ROOT, list);
    assert_eq!(keys(&left), ["inbox.a", "inbox.b", "other"]);
    let batch = r#"{"op":"batch","ops":[{"op":"delete","key":"*"}]}"#;
    assert_eq!(outcome(&mut bench, NETD, batch), "ok");
    let left = ask(&mut bench, ROOT, list);
    assert_eq!(keys(&left).len(), 3);
}

/// The events that a client has received, as words.
fn events(bench: &mut Bench, client: usize) -> Vec<String> {
    bench.settle(WHOLE);
    let lines = lines(bench, client);
    let events = lines.iter().filter_map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        let event = line["event"].as_str()?.to_owned();
        Some(match line["key"].as_str() {
            Some(key) => format!("{event} {key}"),
            None => event,
        })
    });
    events.collect()
}

#[test]
fn events_are_of_what_may_be_seen() {
    let mut bench = bench();
    bench.send(
        STAFF,
        b"{\"id\":1,\"op\":\"subscribe\",\"key\":\"*\",\"cuts\":true}\n",
    );
    let first = events(&mut bench, STAFF);
    assert_eq!(first, ["put net.eth0.mtu", "put net.eth0.up", "sync"]);
    for request in [
        r#"{"op":"put","key":"net.secret.psk","value":2}"#,
        r#"{"op":"delete","key":"other"}"#,
        r#"{"op":"put","key":"inbox.a","value":2}"#,
    ] {
        assert_eq!(outcome(&mut bench, ROOT, request), "ok");
    }
    // Not even a sync tells that something has happened.
    assert!(events(&mut bench, STAFF).is_empty());
    assert_eq!(
        outcome(&mut bench, ROOT, r#"{"op":"delete","key":"net.eth0.up"}"#),
        "ok"
    );
    assert_eq!(events(&mut bench, STAFF), ["delete net.eth0.up", "sync"]);
}

#[test]
fn new_rules_count_for_subscriptions_that_live() {
    let mut bench = bench();
    for client in [STAFF, NETD] {
        bench.send(client, b"{\"id\":1,\"op\":\"subscribe\",\"key\":\"*\"}\n");
        assert!(!events(&mut bench, client).is_empty());
    }
    // What says the same changes nothing, wherever it stands.
    bench.set_rules(rules(&format!("# new\n\n{RULES}")));
    assert!(events(&mut bench, STAFF).is_empty());
    // The secrets are the group's now, and the rest is not.
    bench.set_rules(rules(
        "allow user:0 all *\nallow user:100 read,write net.*\nallow group:50 read net.secret.*",
    ));
    let told = events(&mut bench, STAFF);
    assert_eq!(told, ["reset", "put net.secret.psk", "sync"]);
    assert_eq!(
        outcome(&mut bench, STAFF, r#"{"op":"get","key":"net.eth0.mtu"}"#),
        "denied"
    );
    // Without rules all may do everything again.
    bench.set_rules(None);
    assert_eq!(events(&mut bench, STAFF).len(), 1 + 5 + 1);
    assert_eq!(
        outcome(&mut bench, NOBODY, r#"{"op":"get","key":"other"}"#),
        "ok"
    );
}

/// What a subscriber holds after a reset is what the rules of then let it see, so it resumes in the epoch
/// that the reset names, not in that of its beginning.
#[test]
fn a_reset_names_the_epoch_that_it_begins() {
    let mut bench = bench();
    let subscribe = |id: u64, since: &str| {
        format!("{{\"id\":{id},\"op\":\"subscribe\",\"key\":\"*\"{since}}}\n")
    };
    bench.send(STAFF, subscribe(1, "").as_bytes());
    let begun = received(&mut bench);
    // They see no more of the network than its secrets.
    bench.set_rules(rules(
        "allow user:0 all *\nallow group:50 read net.secret.*",
    ));
    let told = received(&mut bench);
    assert_eq!(told[0]["event"], "reset");
    let (first, second, rev) = (&begun[0]["epoch"], &told[0]["epoch"], &told[0]["rev"]);
    assert!(second.is_string() && first != second, "{told:?}");
    for (id, epoch, is_reset) in [(2, first, true), (3, second, false)] {
        let since = format!(r#","since":{rev},"epoch":{epoch}"#);
        bench.send(STAFF, subscribe(id, &since).as_bytes());
        let resumed = received(&mut bench);
        assert_eq!(&resumed[0]["epoch"], second);
        assert_eq!(resumed[1]["event"] == "reset", is_reset, "{resumed:?}");
        assert!(!is_reset || &resumed[1]["epoch"] == second, "{resumed:?}");
    }
}

/// The lines that the group has received.
fn received(bench: &mut Bench) -> Vec<Value> {
    bench.settle(WHOLE);
    let lines = lines(bench, STAFF);
    let parsed = lines.iter().map(|line| serde_json::from_str(line).unwrap());
    parsed.collect()
}

#[test]
fn lifetimes_are_bounded() {
    let mut bench = bench();
    let mut check = |key: &str, asked: &str, expected: &str| {
        let put = format!(r#"{{"op":"put","key":"{key}","value":1{asked}}}"#);
        let mut said = outcome(&mut bench, NETD, &put);
        if said == "ok" {
            let get = format!(r#"{{"op":"get","key":"{key}"}}"#);
            let entry = ask(&mut bench, NETD, &get);
            said = entry["lifetime"].as_str().unwrap_or("durable").to_owned();
        }
        assert_eq!(said, expected, "{key}{asked}");
    };
    check("net.rx.a", "", "boot");
    check("net.rx.a", r#","lifetime":"durable""#, "denied");
    check("net.rx.a", r#","lifetime":"session""#, "session");
    check("net.rx.a", r#","ttl_ms":1000"#, "boot");
    check("net.live.a", "", "session");
    check("net.live.a", r#","ttl_ms":1000"#, "session");
    check("net.live.a", r#","lifetime":"boot""#, "denied");
    check("net.eth0.a", "", "durable");
    // In a batch it is the same.
    let batch = |lifetime: &str| {
        format!(r#"{{"op":"batch","ops":[{{"op":"put","key":"net.rx.b","value":1{lifetime}}}]}}"#)
    };
    assert_eq!(outcome(&mut bench, NETD, &batch("")), "ok");
    let durable = batch(r#","lifetime":"durable""#);
    let refused = ask(&mut bench, NETD, &durable);
    assert_eq!(
        (&refused["error"], &refused["at"]),
        (&"denied".into(), &0.into())
    );
}

#[test]
fn root_finds_a_place_when_others_have_taken_theirs() {
    let mut limits = Limits::default();
    limits.clients = 128;
    let mut bench = Bench::new(limits);
    for number in 0..126 {
        let peer = if number % 2 == 0 {
            user(7, &[])
        } else {
            Peer::Tcp("127.0.0.1:9".parse().unwrap())
        };
        assert_eq!(bench.connect(peer), Ok(number));
    }
    let line = bench.connect(user(8, &[])).unwrap_err();
    assert!(
        line.contains("there are 126 clients already, and 2 more places are root's"),
        "{line}"
    );
    for number in 126..128 {
        assert_eq!(bench.connect(user(0, &[])), Ok(number));
    }
    let line = bench.connect(user(0, &[])).unwrap_err();
    assert!(line.contains("there are 128 clients already\""), "{line}");
    // Whose place gets free, gets it.
    bench.disconnect(126);
    assert_eq!(outcome_of_connecting(&mut bench, user(7, &[])), "limit");
    bench.disconnect(5);
    assert_eq!(outcome_of_connecting(&mut bench, user(7, &[])), "limit");
    bench.disconnect(6);
    assert_eq!(outcome_of_connecting(&mut bench, user(7, &[])), "ok");
}

/// Few places are no reason for none to be root's; with next to none there is nothing to be kept.
#[test]
fn root_has_a_place_of_few_as_well() {
    for (clients, kept) in [(7, 0), (8, 1), (63, 1), (64, 1), (127, 1), (128, 2)] {
        let mut limits = Limits::default();
        limits.clients = clients;
        let mut bench = Bench::new(limits);
        let others = (clients..2 * clients).map(|uid| user(u32::try_from(uid).unwrap(), &[]));
        let places = others.filter(|peer| bench.connect(peer.clone()).is_ok());
        assert_eq!(places.count() as u64, clients - kept, "of {clients}");
        let line = bench.connect(user(1, &[])).unwrap_err();
        assert_eq!(
            line.contains("one more place is root's"),
            kept == 1,
            "{line}"
        );
        let expected = if kept == 0 { "limit" } else { "ok" };
        assert_eq!(outcome_of_connecting(&mut bench, user(0, &[])), expected);
    }
}

fn outcome_of_connecting(bench: &mut Bench, peer: Peer) -> &'static str {
    match bench.connect(peer) {
        Ok(_) => "ok",
        Err(_) => "limit",
    }
}
