//! Futures that are dropped before they are done: nothing is lost, and what became of a request is as told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use nkv::client::asynchronous::Client;
use nkv::client::{Error, Event, Position};

use crate::daemon::{Daemon, Plan};
use crate::peer::Peer;
use crate::{all, connect, dropped_after, run, run_on_many, scripted, server, until};

/// A put that is dropped before it is polled is not made; one that was polled is carried out.
#[test]
fn a_dropped_request_was_sent_or_not() {
    let server = server();
    run(async {
        let client = connect(&server).await;
        for polls in 0..4 {
            for n in 0..50 {
                let done = dropped_after(polls, client.put(format!("k.{polls}.{n}"), &n)).await;
                assert!(done.is_none_or(|done| done.is_ok()));
            }
            client.ping().await.unwrap();
            let made = client
                .list(format!("k.{polls}.*"))
                .unwrap()
                .collect()
                .await
                .unwrap();
            assert_eq!(made.len(), if polls == 0 { 0 } else { 50 });
        }
        // Answers still come to whoever asked.
        for n in 0..50 {
            let entry = client
                .get::<u64>(format!("k.1.{n}"))
                .await
                .unwrap()
                .unwrap();
            assert_eq!(entry.value, n);
        }
    });
    server.stop().unwrap();
}

/// One that waits for room is not made, and is no hindrance to those after it.
#[test]
fn a_request_dropped_while_it_waits_for_room_was_not_sent() {
    run(async {
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let client = scripted(move |mut peer| {
            gone.recv().unwrap_err();
            while let Some(request) = peer.try_line() {
                assert!(!request.contains("\"dropped\""), "{request:.80}");
                peer.say(&Peer::answer_to(&request, r#""rev":1"#));
            }
        })
        .await;
        let value = "x".repeat(4 << 20);
        let mut first = tokio::spawn(client.put("first", &value));
        tokio::task::yield_now().await;
        let mut waiting = Vec::new();
        for n in 0..20 {
            assert!(dropped_after(3, client.put("dropped", &n)).await.is_none());
            waiting.push(tokio::spawn(client.put("kept", &n)));
            tokio::task::yield_now().await;
        }
        assert!(dropped_after(3, &mut first).await.is_none());
        drop(go);
        first.await.unwrap().unwrap();
        for kept in waiting {
            kept.await.unwrap().unwrap();
        }
    });
}

/// Every event, each once and in order, though whoever waits for one is dropped at each await.
#[test]
fn no_event_is_lost_when_its_reader_is_dropped() {
    const EVENTS: u64 = 900;
    let server = server();
    for polls in 1..4 {
        run(async {
            let client = connect(&server).await;
            let name = format!("p{polls}");
            let mut events = client
                .subscribe_with(&name)
                .changes_only()
                .start()
                .await
                .unwrap();
            assert!(matches!(events.next().await, Some(Ok(Event::Sync { .. }))));
            // How often it is dropped below is up to the machine; here it is for certain.
            assert!(dropped_after(polls, events.next()).await.is_none());
            let writing = tokio::spawn({
                let (client, name) = (connect(&server).await, name.clone());
                async move {
                    for n in 0..EVENTS {
                        client.put(format!("{name}.{n}"), &n).await.unwrap();
                    }
                }
            });
            let mut told = 0;
            while told < EVENTS {
                if let Some(event) = dropped_after(polls, events.next()).await {
                    let Event::Put { key, rev, .. } = event.unwrap().unwrap() else {
                        continue;
                    };
                    assert_eq!(key.as_str(), format!("{name}.{told}"));
                    assert_eq!(events.position().unwrap().rev, rev);
                    told += 1;
                }
            }
            writing.await.unwrap();
            assert!(events.try_next().unwrap().is_none());
        });
    }
    server.stop().unwrap();
}

/// Under load, with whatever is ready first, on several threads.
#[test]
fn a_selected_subscriber_sees_the_exact_state() {
    const WRITERS: u64 = 4;
    const PUTS: u64 = 2_000;
    let daemon = Daemon::start(&[]);
    let address = daemon.socket().to_str().unwrap().to_owned();
    run_on_many(async {
        let client = Client::connect(&address).await.unwrap();
        let mut events = client.subscribe("a").await.unwrap();
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let address = address.clone();
                tokio::spawn(async move {
                    let client = Client::connect(&address).await.unwrap();
                    for n in 0..PUTS {
                        let key = format!("a.{}", (n * 7 + writer) % 50);
                        // What is given up is made all the same, or not at all.
                        tokio::select! {
                            _ = client.put(&key, &n) => {}
                            () = tokio::task::yield_now() => {}
                        }
                        if n % 11 == writer {
                            client.delete(&key).await.unwrap();
                        }
                    }
                    client.ping().await.unwrap();
                })
            })
            .collect();
        let is_written = AtomicBool::new(false);
        let (mut copy, mut last) = (BTreeMap::new(), 0);
        let reading = async {
            loop {
                let event = tokio::select! {
                    event = events.next() => event.unwrap().unwrap(),
                    () = tokio::task::yield_now() => {
                        // The requests of one connection are answered in order, so after a ping all
                        // is here that was written before.
                        if is_written.load(Ordering::Acquire) {
                            let end = client.put("a.end", &true).await.unwrap();
                            while last < end {
                                last = take(&mut copy, events.next().await.unwrap().unwrap(), last);
                            }
                            return;
                        }
                        continue;
                    }
                };
                last = take(&mut copy, event, last);
            }
        };
        let writing = async {
            for writer in writers {
                writer.await.unwrap();
            }
            is_written.store(true, Ordering::Release);
        };
        tokio::join!(reading, writing);
        let entries = client.list("a.*").unwrap().collect().await.unwrap();
        let entries = entries.into_iter().map(|entry| (entry.key, entry.value));
        assert_eq!(copy, entries.collect());
    });
}

/// Takes an event into a copy, and returns its revision, which has to be one after the last.
fn take(copy: &mut BTreeMap<nkv::Key, nkv::client::Value>, event: Event, last: u64) -> u64 {
    let rev = event.rev();
    match event {
        Event::Put { key, value, .. } => drop(copy.insert(key, value)),
        Event::Delete { key, .. } => drop(copy.remove(&key)),
        Event::Sync { .. } => return rev,
        Event::Reset { .. } => copy.clear(),
    }
    assert!(rev > last || last == 0, "{rev} after {last}");
    rev
}

#[test]
fn a_dropped_subscription_is_ended() {
    let server = server();
    run(async {
        let client = connect(&server).await;
        for polls in 0..4 {
            for _ in 0..20 {
                drop(dropped_after(polls, client.subscribe("a")).await);
            }
        }
        until("they have ended", async || {
            client.stats().await.unwrap().counter("subscriptions") == Some(0)
        })
        .await;
        let mut events = client.subscribe("a").await.unwrap();
        assert!(matches!(events.next().await, Some(Ok(Event::Sync { .. }))));
    });
    server.stop().unwrap();
}

#[test]
fn a_list_loses_nothing_when_its_reader_is_dropped() {
    let server = server();
    run(async {
        let client = connect(&server).await;
        all((0..100)
            .map(|n| client.put(format!("n.{n:03}"), &n))
            .collect())
        .await;
        let mut list = client.list("n.*").unwrap().page(3);
        let mut values = Vec::new();
        loop {
            match dropped_after(1, list.next()).await {
                Some(Some(entry)) => values.push(entry.unwrap().value.json::<u64>().unwrap()),
                Some(None) => break,
                None => tokio::task::yield_now().await,
            }
        }
        assert_eq!(values, (0..100).collect::<Vec<_>>());
    });
    server.stop().unwrap();
}

/// A connection that is given up on the way leaves nothing behind.
#[test]
fn a_dropped_connect_is_none() {
    let daemon = Daemon::start(&[]);
    let address = daemon.socket().to_str().unwrap().to_owned();
    run(async {
        for polls in 0..4 {
            for _ in 0..10 {
                drop(dropped_after(polls, Client::connect(&address)).await);
            }
        }
        let client = Client::connect(&address).await.unwrap();
        until("they have gone", async || {
            client.clients().await.unwrap().len() == 1
        })
        .await;
    });
}

/// A position is good for another connection, though its reader was dropped all the time.
#[test]
fn a_subscription_resumes_after_a_restart() {
    let plan = Plan::keeping();
    let daemon = plan.start();
    run(async {
        let address = daemon.socket().to_str().unwrap().to_owned();
        let client = Client::connect(&address).await.unwrap();
        let mut events = client.subscribe("a").await.unwrap();
        for n in 0..10 {
            client.put(format!("a.{n}"), &n).await.unwrap();
        }
        let mut told = Vec::new();
        while told.len() < 5 {
            if let Some(event) = dropped_after(2, events.next()).await
                && let Some(key) = event.unwrap().unwrap().key()
            {
                told.push(key.as_str().to_owned());
            }
        }
        let position: Position = events.position().unwrap().clone();
        daemon.kill();
        // What was received is told, then that the connection is lost.
        let lost = loop {
            match events.next().await.unwrap() {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(matches!(lost, Error::Closed | Error::Io(_)), "{lost}");
        assert!(matches!(client.put("a", &1).await, Err(error) if error.is_disconnect()));

        let _daemon = plan.start();
        let client = Client::connect(&address).await.unwrap();
        let mut events = client
            .subscribe_with("a")
            .since(position)
            .start()
            .await
            .unwrap();
        client.put("a.last", &1).await.unwrap();
        while told.last().is_none_or(|key| key != "a.last") {
            match events.next().await.unwrap().unwrap() {
                Event::Put { key, .. } => told.push(key.as_str().to_owned()),
                Event::Reset { .. } => panic!("the history is the same"),
                _ => {}
            }
        }
        let expected = (0..10).map(|n| format!("a.{n}")).chain(["a.last".into()]);
        assert_eq!(told, expected.collect::<Vec<_>>());
    });
}
