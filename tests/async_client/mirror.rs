//! Mirrors and followers: equal to the keyspace at every cut, over restarts, and never half a batch.

use std::collections::BTreeMap;
use std::time::Duration;

use nkv::Address;
use nkv::client::asynchronous::{Client, Link, Mirror};
use nkv::client::{Change, Error, Put, Value};

use crate::daemon::Plan;
use crate::{PATIENCE, dropped_after, run, run_on_many};

fn link_to(plan: &Plan) -> Link {
    Link::builder()
        .patience(PATIENCE)
        .pauses(Duration::from_millis(1), Duration::from_millis(20))
        .link(Address::Unix(plan.socket()))
}

fn held(mirror: &Mirror) -> BTreeMap<String, Value> {
    let view = mirror.view();
    view.iter()
        .map(|(key, value)| (key.as_str().to_owned(), Value::clone(value)))
        .collect()
}

async fn kept(client: &Client) -> BTreeMap<String, Value> {
    let entries = client.list("*").unwrap().collect().await.unwrap();
    let entries = entries.into_iter();
    entries
        .map(|entry| (entry.key.as_str().to_owned(), entry.value))
        .collect()
}

#[test]
fn a_mirror_equals_the_keyspace_over_restarts() {
    let plan = Plan::keeping();
    let mut daemon = plan.start();
    run_on_many(async {
        let link = link_to(&plan);
        let mirror = link.mirror("*").unwrap().start();
        for round in 0..4_u64 {
            let client = link.client().await.unwrap();
            for n in 0..200_u64 {
                let key = format!("k.{}", (n * 13 + round) % 60);
                if n % 5 == 0 {
                    client.delete(&key).await.unwrap();
                } else {
                    client.put(&key, &(round, n)).await.unwrap();
                }
            }
            let rev = client.put("round", &round).await.unwrap();
            let is_there = |view: &nkv::client::View<'_>| view.rev() >= Some(rev);
            mirror.wait_until(PATIENCE, is_there).await.unwrap();
            assert_eq!(held(&mirror), kept(&client).await);
            if round % 2 == 0 {
                daemon.kill();
            } else {
                daemon.stop();
            }
            client.closed().await;
            assert!(!held(&mirror).is_empty(), "it stays as it was");
            daemon = plan.start();
        }
        // Another history: everything is compared.
        daemon.kill();
        std::fs::remove_dir_all(plan.data_directory()).unwrap();
        std::fs::remove_dir_all(plan.runtime_directory()).unwrap();
        let _daemon = plan.start();
        link.put("only", &1).await.unwrap();
        let is_new = |view: &nkv::client::View<'_>| view.len() == 1 && view.get("only").is_some();
        mirror.wait_until(PATIENCE, is_new).await.unwrap();
        assert!(mirror.is_connected() && mirror.error().is_none());
    });
}

#[test]
fn a_watch_never_shows_half_a_batch() {
    let plan = Plan::new();
    let _daemon = plan.start();
    run_on_many(async {
        let link = link_to(&plan);
        let mirror = link.mirror("pair").unwrap().typed::<u64>().start();
        let mut watch = mirror.watch();
        let writing = tokio::spawn({
            let link = link_to(&plan);
            async move {
                for n in 1..=500_u64 {
                    link.batch(move |batch| batch.put("pair.a", &n).put("pair.b", &n))
                        .await
                        .unwrap();
                }
            }
        });
        let (mut last, mut times) = (0, 0);
        while last < 500 {
            // Given up every other time.
            tokio::select! {
                changed = watch.changed() => changed.unwrap(),
                () = tokio::task::yield_now() => continue,
            }
            times += 1;
            let view = watch.view();
            let both = ["pair.a", "pair.b"].map(|key| view.get(key).map_or(0, |value| **value));
            assert_eq!(both[0], both[1]);
            assert!(both[0] >= last);
            last = both[0];
        }
        assert!(times > 1);
        writing.await.unwrap();
        drop(mirror);
        while watch.changed().await.is_ok() {}
        assert_eq!(watch.view().len(), 2, "what it was is still to be seen");
    });
}

#[test]
fn a_value_of_another_type_hinders_nothing() {
    let plan = Plan::new();
    let _daemon = plan.start();
    run(async {
        let link = link_to(&plan);
        link.batch(|batch| batch.put("port.a", &80).put("port.b", "eighty"))
            .await
            .unwrap();
        let mut follower = link.mirror("port").unwrap().typed::<u16>().follow();
        let cut = follower.next_cut().await.unwrap();
        assert!(cut.is_reset);
        assert!(matches!(
            &cut.changes[..],
            [Change::Created { .. }, Change::Invalid { .. }]
        ));
        assert!(matches!(
            **follower.view().error("port.b").unwrap(),
            Error::Value(_)
        ));
        link.put("port.b", &443).await.unwrap();
        let cut = follower.next_cut().await.unwrap();
        assert!(matches!(
            &cut.changes[..],
            [Change::Modified { old: None, .. }]
        ));
        assert_eq!(follower.view().get("port.b").map(|port| **port), Some(443));
    });
}

/// Every change in the order of its revision, though whoever waits is dropped at each await, and the daemon
/// is killed in between.
#[test]
fn a_follower_that_is_dropped_all_the_time_misses_nothing() {
    const KEYS: u64 = 300;
    let plan = Plan::keeping();
    let mut daemon = plan.start();
    run(async {
        let link = link_to(&plan);
        let mut follower = link.mirror("n").unwrap().typed::<u64>().follow();
        let (mut told, mut drops) = (Vec::new(), 0);
        let mut take = async |until: u64| {
            while told.last().is_none_or(|last| *last < until) {
                match dropped_after(1, follower.next_cut()).await {
                    Some(cut) => told.extend(
                        cut.unwrap()
                            .changes
                            .iter()
                            .map(|change| **change.value().unwrap()),
                    ),
                    None => drops += 1,
                }
            }
        };
        for n in 0..KEYS {
            // One that may be repeated: the connection is lost now and then.
            let put = Put::new(format!("n.{n}"), Value::of(&n).unwrap()).unwrap();
            link.put_with(put.if_changed()).await.unwrap();
            if n % 100 == 50 {
                take(n - 20).await;
                daemon.kill();
                daemon = plan.start();
            }
            if n % 10 == 0 {
                take(n).await;
            }
        }
        take(KEYS - 1).await;
        assert!(drops > 0);
        assert_eq!(told, (0..KEYS).collect::<Vec<_>>());
        daemon.stop();
    });
}

#[test]
fn a_mirror_says_why_it_has_nothing() {
    run(async {
        let plan = Plan::new();
        let mirror = link_to(&plan).mirror("a").unwrap().start();
        let error = mirror.wait_until_synced(Duration::from_millis(50)).await;
        assert!(matches!(error, Err(Error::Timeout | Error::Connect { .. })));
        assert!(!mirror.is_connected() && mirror.get("a").is_none());
        let _daemon = plan.start();
        mirror.wait_until_synced(PATIENCE).await.unwrap();
        assert!(mirror.is_connected());
    });
}
