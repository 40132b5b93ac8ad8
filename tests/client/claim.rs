//! Claims: what a link says to keep one, and what it tells of one that it has lost.

use std::sync::mpsc;
use std::time::Duration;

use nkv::client::{Claim, ErrorCode};

use crate::daemons::{Daemons, PATIENCE, then};
use crate::peer::{Peer, client};

const CLAIM: &str = r#"{"id":2,"op":"claim","key":"net.eth0"}"#;
const TAKEN: &str = r#""ok":false,"error":"conflict","message":"net is claimed by you""#;

/// Answers a request with this revision.
fn grant(peer: &mut Peer, request: &str, rev: u64) {
    peer.say(&Peer::answer_to(request, &format!(r#""rev":{rev}"#)));
}

/// Answers a request with a refusal.
fn refuse(peer: &mut Peer, request: &str, fields: &str) {
    let (beginning, _) = request.split_once(',').unwrap();
    peer.say(&format!("{beginning},{fields}}}"));
}

fn with_id(line: &str, id: u64) -> String {
    line.replace(r#""id":2"#, &format!(r#""id":{id}"#))
}

fn is_lost(claim: &Claim) -> bool {
    claim.wait_until_lost(Some(Duration::ZERO))
}

#[test]
fn one_connection_claims_and_releases() {
    let client = client(|mut peer| {
        assert_eq!(peer.line(), CLAIM);
        grant(&mut peer, CLAIM, 5);
        assert_eq!(peer.line(), r#"{"id":3,"op":"release","key":"net.eth0"}"#);
        peer.say(r#"{"id":3,"ok":true,"rev":6}"#);
        assert_eq!(peer.line(), r#"{"id":4,"op":"release","key":"net.eth0"}"#);
        peer.say(r#"{"id":4,"ok":false,"error":"not_found","message":""}"#);
    });
    assert_eq!(client.claim("net.eth0").unwrap(), 5);
    assert_eq!(client.release("net.eth0").unwrap(), 6);
    let error = client.release("net.eth0").unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::NotFound));
    assert!(client.claim("net.*").is_err(), "no pattern");
}

#[test]
fn what_is_claimed_is_claimed_again_before_anything_else() {
    let put = |value: u8| {
        format!(
            r#"{{"id":3,"op":"put","key":"net.eth0.up","value":{value},"if_changed":true,"lifetime":"session"}}"#
        )
    };
    let (back, is_back) = mpsc::channel();
    let daemons = Daemons::play(vec![
        then(move |peer| {
            assert_eq!(peer.line(), CLAIM);
            grant(peer, CLAIM, 5);
            assert_eq!(peer.line(), put(1));
            grant(peer, &put(1), 6);
        }),
        // Nobody has asked anything meanwhile.
        then(move |peer| {
            assert_eq!(peer.line(), CLAIM);
            assert_eq!(peer.line(), put(1));
            grant(peer, CLAIM, 5);
            grant(peer, &put(1), 6);
            back.send(()).unwrap();
            assert_eq!(peer.line(), r#"{"id":4,"op":"delete","key":"net.eth0.up"}"#);
            assert_eq!(peer.line(), r#"{"id":5,"op":"release","key":"net.eth0"}"#);
            assert_eq!(peer.try_line(), None);
        }),
    ]);
    let link = daemons.link();
    let claim = link.claim("net.eth0").unwrap();
    assert_eq!((claim.key(), claim.rev()), ("net.eth0", 5));
    let announcement = link.announce("net.eth0.up", &1).unwrap();
    is_back.recv_timeout(PATIENCE).unwrap();
    link.client().unwrap();
    assert!(claim.is_held());
    // The daemon has kept it, so nobody else has had it.
    assert!(!is_lost(&claim));
    assert_eq!(claim.refusal(), None);
    drop(announcement);
    drop(claim);
    drop(link);
    for _ in 0..2 {
        daemons.wait_for_script();
    }
}

#[test]
fn what_is_taken_is_told_at_once_and_not_claimed_again() {
    let daemons = Daemons::play(vec![
        then(|peer| {
            assert_eq!(peer.line(), CLAIM);
            refuse(peer, CLAIM, TAKEN);
            assert_eq!(peer.line(), r#"{"id":3,"op":"ping"}"#);
        }),
        then(|peer| assert_eq!(peer.try_line(), None)),
    ]);
    let link = daemons.link();
    let error = link.claim("net.eth0").unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::Conflict));
    assert!(link.client().unwrap().ping().is_err());
    daemons.wait_for_script();
    drop(link.client().unwrap());
    drop(link);
    daemons.wait_for_script();
}

#[test]
fn what_somebody_else_has_is_lost() {
    let daemons = Daemons::play(vec![
        then(|peer| {
            assert_eq!(peer.line(), CLAIM);
            grant(peer, CLAIM, 5);
        }),
        then(move |peer| {
            assert_eq!(peer.line(), CLAIM);
            refuse(peer, CLAIM, TAKEN);
            // It is made anew by whoever wants it, and the lost one is of no consequence.
            assert_eq!(peer.line(), with_id(CLAIM, 3));
            grant(peer, &with_id(CLAIM, 3), 9);
            assert_eq!(peer.line(), r#"{"id":4,"op":"ping"}"#);
            peer.say(r#"{"id":4,"ok":true}"#);
            assert_eq!(peer.line(), r#"{"id":5,"op":"release","key":"net.eth0"}"#);
            peer.say(r#"{"id":5,"ok":true,"rev":10}"#);
        }),
    ]);
    let link = daemons.link();
    let claim = link.claim("net.eth0").unwrap();
    assert!(claim.wait_until_lost(None));
    assert!(!claim.is_held());
    assert_eq!(claim.refusal().unwrap().message, "net is claimed by you");
    let again = link.claim("net.eth0").unwrap();
    assert!(again.is_held() && !claim.is_held());
    assert_eq!((again.rev(), again.refusal()), (9, None));
    drop(claim);
    link.client().unwrap().ping().unwrap();
    again.release().unwrap();
    assert!(!again.is_held() && is_lost(&again));
    drop(again);
    daemons.wait_for_script();
    daemons.wait_for_script();
}

#[test]
fn what_was_free_is_lost() {
    let daemons = Daemons::play(vec![
        then(|peer| {
            assert_eq!(peer.line(), CLAIM);
            grant(peer, CLAIM, 5);
        }),
        then(move |peer| {
            assert_eq!(peer.line(), CLAIM);
            grant(peer, CLAIM, 9);
            // The daemon has granted it, so it is to be released.
            assert_eq!(peer.line(), r#"{"id":3,"op":"release","key":"net.eth0"}"#);
        }),
    ]);
    let link = daemons.link();
    let claim = link.claim("net.eth0").unwrap();
    assert!(claim.wait_until_lost(None));
    assert!(!claim.is_held());
    assert_eq!(claim.refusal(), None);
    drop(claim);
    daemons.wait_for_script();
    daemons.wait_for_script();
}

#[test]
fn what_ceases_to_be_claimed_during_a_connect_is_released() {
    let (asked, is_asked) = mpsc::channel();
    let (go, gone) = mpsc::channel::<()>();
    let daemons = Daemons::play(vec![
        then(|peer| {
            assert_eq!(peer.line(), CLAIM);
            grant(peer, CLAIM, 5);
        }),
        then(move |peer| {
            assert_eq!(peer.line(), CLAIM);
            asked.send(()).unwrap();
            gone.recv().unwrap();
            grant(peer, CLAIM, 6);
            assert_eq!(peer.line(), r#"{"id":3,"op":"release","key":"net.eth0"}"#);
        }),
    ]);
    let link = daemons.link();
    let claim = link.claim("net.eth0").unwrap();
    is_asked.recv_timeout(PATIENCE).unwrap();
    // There is no connection on which it could be held.
    assert!(!claim.is_held() && !is_lost(&claim));
    drop(claim);
    go.send(()).unwrap();
    daemons.wait_for_script();
    daemons.wait_for_script();
}

#[test]
fn one_of_two_claims_keeps_the_key() {
    let daemons = Daemons::play(vec![then(|peer| {
        for id in [2, 3] {
            assert_eq!(peer.line(), with_id(CLAIM, id));
            grant(peer, &with_id(CLAIM, id), 5);
        }
        assert_eq!(peer.line(), r#"{"id":4,"op":"ping"}"#);
        peer.say(r#"{"id":4,"ok":true}"#);
        assert_eq!(peer.line(), r#"{"id":5,"op":"release","key":"net.eth0"}"#);
    })]);
    let link = daemons.link();
    let [first, second] = [(); 2].map(|()| link.claim("net.eth0").unwrap());
    drop(first);
    link.client().unwrap().ping().unwrap();
    assert!(second.is_held());
    drop(second);
    daemons.wait_for_script();
}

/// It asks the daemon to tell, and tries again when it has told; also where the rules forbid to tell.
#[test]
fn what_is_taken_is_waited_for() {
    const SUBSCRIBE: &str = r#"{"id":3,"op":"subscribe","key":"$claims.net","initial":false}"#;
    for may_see in [true, false] {
        let daemons = Daemons::play(vec![then(move |peer| {
            assert_eq!(peer.line(), CLAIM);
            refuse(peer, CLAIM, TAKEN);
            assert_eq!(peer.line(), SUBSCRIBE);
            if may_see {
                peer.say(r#"{"id":3,"ok":true,"epoch":"e1","rev":5}"#);
                peer.say(r#"{"sub":3,"event":"sync","rev":5}"#);
            } else {
                refuse(
                    peer,
                    SUBSCRIBE,
                    r#""ok":false,"error":"denied","message":"""#,
                );
            }
            // It may have become free just before.
            let request = peer.line();
            assert!(request.contains(r#""op":"claim""#), "{request}");
            refuse(peer, &request, TAKEN);
            if may_see {
                peer.say(r#"{"sub":3,"event":"delete","key":"$claims.net.eth1","rev":6}"#);
                peer.say(r#"{"sub":3,"event":"delete","key":"$claims.net","rev":7}"#);
            }
            loop {
                let request = peer.line();
                if request.contains(r#""op":"claim""#) {
                    break grant(peer, &request, 8);
                }
                refuse(
                    peer,
                    &request,
                    r#""ok":false,"error":"denied","message":"""#,
                );
            }
        })]);
        let claim = daemons.link().claim_when_free("net.eth0", None).unwrap();
        assert_eq!(claim.rev(), 8);
        daemons.wait_for_script();
    }
}

#[test]
fn waiting_has_an_end() {
    let daemons = Daemons::play(vec![then(|peer| {
        while let Some(request) = peer.try_line() {
            refuse(peer, &request, TAKEN);
        }
    })]);
    let timeout = Some(Duration::from_millis(30));
    let error = daemons.link().claim_when_free("net.eth0", timeout);
    assert_eq!(error.unwrap_err().code(), Some(ErrorCode::Conflict));
}
