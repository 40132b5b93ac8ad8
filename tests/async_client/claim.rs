//! Claims over lost connections, in tasks.

use std::sync::mpsc;

use nkv::client::ErrorCode;
use nkv::client::asynchronous::Client;

use crate::daemon::Plan;
use crate::link::{link_to, play};
use crate::peer::Peer;
use crate::{dropped_after, run, until};

async fn connect(plan: &Plan) -> Client {
    let path = plan.socket();
    Client::connect(path.to_str().unwrap()).await.unwrap()
}

#[test]
fn one_connection_claims_and_releases() {
    let plan = Plan::new();
    let _daemon = plan.start();
    run(async {
        let [first, second] = [connect(&plan).await, connect(&plan).await];
        let rev = first.claim("net.eth0").await.unwrap();
        assert_eq!(first.claim("net.eth0").await.unwrap(), rev);
        let code = async |refused: Result<u64, nkv::client::Error>| refused.unwrap_err().code();
        let denied = code(second.put("net.eth0.mtu", &1).await).await;
        assert_eq!(denied, Some(ErrorCode::Denied));
        let taken = code(second.claim("net").await).await;
        assert_eq!(taken, Some(ErrorCode::Conflict));
        assert!(first.release("net.eth0").await.unwrap() > rev);
        let gone = code(first.release("net.eth0").await).await;
        assert_eq!(gone, Some(ErrorCode::NotFound));
        assert!(second.claim("net").await.unwrap() > rev);
        assert!(second.claim("net.*").await.is_err(), "no pattern");
    });
}

#[test]
fn a_claim_survives_a_killed_daemon() {
    let plan = Plan::keeping();
    let daemon = plan.start();
    run(async {
        let link = link_to(&plan.socket());
        let claim = link.claim("net.eth0").await.unwrap();
        let rev = claim.rev();
        assert!(claim.is_held() && claim.key() == "net.eth0");
        link.put("net.eth0.mtu", &1500).await.unwrap();
        let lost = link.client().await.unwrap();
        daemon.kill();
        lost.closed().await;
        assert!(!claim.is_held());
        let _daemon = plan.start();
        // Nobody asks the link for anything.
        until("it is held again", async || claim.is_held()).await;
        assert_eq!((claim.rev(), claim.refusal()), (rev, None));
        assert!(dropped_after(3, claim.lost()).await.is_none());
        let other = connect(&plan).await;
        let refused = other.put("net.eth0.mtu", &1).await.unwrap_err();
        assert_eq!(refused.code(), Some(ErrorCode::Denied));
        claim.release().await.unwrap();
        claim.lost().await;
        assert!(!claim.is_held());
        assert!(other.claim("net").await.unwrap() > rev);
        let taken = link.claim("net.eth0").await.unwrap_err();
        assert_eq!(taken.code(), Some(ErrorCode::Conflict));
        // The link is as good as before.
        link.put("a", &1).await.unwrap();
    });
}

#[test]
fn what_is_taken_is_waited_for() {
    let plan = Plan::new();
    let _daemon = plan.start();
    run(async {
        let [link, other] = [(); 2].map(|()| link_to(&plan.socket()));
        let theirs = other.claim("net").await.unwrap();
        let observer = connect(&plan).await;
        let (ours, ()) = tokio::join!(link.claim_when_free("net.eth0"), async {
            until("it is waited for", async || {
                let stats = observer.stats().await.unwrap();
                stats.counter("subscriptions") == Some(1)
            })
            .await;
            drop(theirs);
        });
        let ours = ours.unwrap();
        assert!(ours.is_held());
        // What is given up meanwhile is not claimed.
        for polls in 0..6 {
            assert!(
                dropped_after(polls, other.claim_when_free("net"))
                    .await
                    .is_none()
            );
        }
        drop(ours);
        until("it is free", async || observer.claim("net").await.is_ok()).await;
    });
}

#[test]
fn a_claim_that_is_given_up_is_none() {
    let plan = Plan::new();
    let _daemon = plan.start();
    run(async {
        let link = link_to(&plan.socket());
        link.client().await.unwrap();
        for polls in 0..5 {
            drop(dropped_after(polls, link.claim("net.eth0")).await);
        }
        link.client().await.unwrap().ping().await.unwrap();
        assert!(connect(&plan).await.claim("net").await.is_ok());
        assert!(link.put("a", &1).await.is_ok());
    });
}

#[test]
fn a_claim_is_made_before_anything_else_and_its_loss_is_told() {
    const CLAIM: &str = r#"{"id":2,"op":"claim","key":"a"}"#;
    let (back, is_back) = mpsc::channel();
    let (_directory, link, played) = play(vec![
        Box::new(|peer| {
            assert_eq!(peer.line(), CLAIM);
            peer.say(r#"{"id":2,"ok":true,"rev":5}"#);
            let put = peer.line();
            peer.say(&Peer::answer_to(&put, r#""rev":6"#));
        }),
        Box::new(move |peer| {
            assert_eq!(peer.line(), CLAIM);
            assert!(peer.line().contains(r#""op":"put","key":"a.b""#));
            peer.say(r#"{"id":2,"ok":false,"error":"conflict","message":"a is claimed"}"#);
            peer.say(r#"{"id":3,"ok":false,"error":"denied","message":"a is claimed"}"#);
            // Only what is announced is tried again.
            assert!(peer.line().contains(r#""op":"put","key":"a.b""#));
            peer.say(r#"{"id":4,"ok":true,"rev":9}"#);
        }),
        Box::new(move |peer| {
            let put = peer.line();
            assert!(put.contains(r#""op":"put","key":"a.b""#));
            peer.say(&Peer::answer_to(&put, r#""rev":10"#));
            back.send(()).unwrap();
            let claim = peer.line();
            peer.say(&Peer::answer_to(&claim, r#""rev":11"#));
            assert!(peer.line().contains("ping"));
        }),
        Box::new(|peer| {
            assert_eq!(peer.line(), CLAIM);
            peer.line();
            peer.say(r#"{"id":2,"ok":true,"rev":12}"#);
            peer.say(r#"{"id":3,"ok":true,"rev":13}"#);
            assert_eq!(peer.line(), r#"{"id":4,"op":"release","key":"a"}"#);
        }),
    ]);
    run(async {
        let all_played = async |count: usize| {
            for _ in 0..count {
                until("it is played", async || played.try_recv().is_ok()).await;
            }
        };
        let claim = link.claim("a").await.unwrap();
        let announcement = link.announce("a.b", &1).await.unwrap();
        assert_eq!(claim.rev(), 5);
        claim.lost().await;
        assert!(!claim.is_held());
        assert_eq!(claim.refusal().unwrap().message, "a is claimed");
        all_played(2).await;
        until("it is back", async || is_back.try_recv().is_ok()).await;
        let again = link.claim("a").await.unwrap();
        assert_eq!((again.rev(), again.refusal()), (11, None));
        assert!(again.is_held() && !claim.is_held());
        drop(link.client().await.unwrap().ping().await);
        // It has another revision the next time, so it was free.
        again.lost().await;
        assert_eq!(again.refusal(), None);
        assert!(!again.is_held() && !claim.is_held());
        drop((claim, again));
        all_played(2).await;
        drop(announcement);
    });
}
