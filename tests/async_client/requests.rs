//! Requests, lists and subscriptions, and the ends of a connection.

use std::time::Duration;

use nkv::client::asynchronous::{Client, Pending, Subscription};
use nkv::client::{Error, ErrorCode, Event, Lifetime, Put, Value};

use crate::daemon::Daemon;
use crate::peer::{Peer, scripted as stream_of};
use crate::{all, connect, run, run_on_many, scripted, server, until};

fn is_spawnable<T: Send + 'static>(_: &T) {}

#[test]
fn requests_and_answers() {
    let server = server();
    run(async {
        let client = connect(&server).await;
        is_spawnable(&client);
        is_spawnable(&client.put("a", &1));
        assert!(client.server().starts_with("nkv/"));
        assert_eq!(
            (client.initial_rev(), client.limits().message),
            (0, 1 << 20)
        );

        assert_eq!(client.put("a", &[1, 2]).await.unwrap(), 1);
        let entry = client.get::<Vec<u8>>("a").await.unwrap().unwrap();
        assert_eq!((entry.value, entry.rev), (vec![1, 2], 1));
        assert!(client.get::<u8>("b").await.unwrap().is_none());
        assert!(matches!(client.get::<u8>("a").await, Err(Error::Value(_))));
        client.put_json_text("b.json", " 1.00 ").await.unwrap();
        client.put_bytes("b.bytes", b"\0\x01").await.unwrap();
        let value = client.get_value("b.bytes").await.unwrap().unwrap().value;
        assert_eq!(value.bytes(), Some(&b"\0\x01"[..]));

        let put = || Put::new("c", Value::of(&1).unwrap()).unwrap();
        let written = client
            .put_with(put().lifetime(Lifetime::Boot).if_rev(0))
            .await;
        let rev = written.unwrap().rev;
        let refused = client.put_with(put().if_rev(0)).await.unwrap_err();
        assert_eq!(refused.code(), Some(ErrorCode::Conflict));
        let refused = client.delete_if_rev("c", rev + 1).await.unwrap_err();
        assert_eq!(refused.code(), Some(ErrorCode::Conflict));
        assert!(client.delete_if_rev("c", rev).await.unwrap());
        assert!(!client.delete("c").await.unwrap());

        let batch = client.batch().check("c", 0).put("d.1", &1).put("d.2", &2);
        batch.delete("b.*").commit().await.unwrap();
        assert_eq!(client.delete_pattern("d.*").await.unwrap(), 2);
        let mistaken = client.batch().put("*", &1).commit().await;
        assert!(matches!(mistaken, Err(Error::Key(_))));
        assert!(matches!(client.put("a b", &1).await, Err(Error::Key(_))));
        assert!(matches!(
            client.put_json_text("a", "{").await,
            Err(Error::Value(_))
        ));

        client.ping().await.unwrap();
        assert!(client.stats().await.unwrap().counter("puts").unwrap() >= 6);
        assert_eq!(client.clients().await.unwrap().len(), 1);
    });
    server.stop().unwrap();
}

#[test]
fn lists_turn_their_pages() {
    let server = server();
    run(async {
        let client = connect(&server).await;
        let keys: Vec<String> = (0..25).map(|n| format!("n.{n:02}")).collect();
        all(keys.iter().map(|key| client.put(key, key)).collect()).await;
        let mut list = client.list("n.*").unwrap().page(10);
        for key in &keys {
            let entry = list.next().await.unwrap().unwrap();
            assert_eq!(
                (entry.key.as_str(), entry.value.json::<String>().unwrap()),
                (key.as_str(), key.clone())
            );
        }
        assert!(list.next().await.is_none());
        let last = nkv::Key::new("n.22").unwrap();
        let mut rest = client.list_keys("n.*").unwrap().page(1).after(&last);
        assert_eq!(rest.next().await.unwrap().unwrap().as_str(), "n.23");
        assert_eq!(rest.next().await.unwrap().unwrap().as_str(), "n.24");
        assert!(rest.next().await.is_none());
        assert_eq!(
            client.list("n.03").unwrap().collect().await.unwrap().len(),
            1
        );
        assert_eq!(
            client.list("n.3").unwrap().collect().await.unwrap().len(),
            0
        );
    });
    server.stop().unwrap();
}

#[test]
fn many_tasks_share_a_connection() {
    const TASKS: u64 = 64;
    const PUTS: u64 = 40;
    let daemon = Daemon::start(&[]);
    run_on_many(async {
        let client = Client::connect(daemon.socket().to_str().unwrap())
            .await
            .unwrap();
        let mut events = client
            .subscribe_with("t")
            .changes_only()
            .start()
            .await
            .unwrap();
        let tasks: Vec<_> = (0..TASKS)
            .map(|task| {
                let client = client.clone();
                tokio::spawn(async move {
                    for n in 0..PUTS {
                        let key = format!("t.{task}.{n}");
                        let rev = client.put(&key, &n).await.unwrap();
                        let entry = client.get::<u64>(&key).await.unwrap().unwrap();
                        assert_eq!((entry.value, entry.rev), (n, rev), "{key}");
                    }
                })
            })
            .collect();
        let (mut last, mut count) = (0, 0);
        while count < TASKS * PUTS {
            let event = events.next().await.unwrap().unwrap();
            if event.key().is_some() {
                assert!(event.rev() > last);
                (last, count) = (event.rev(), count + 1);
            }
        }
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(events.position().unwrap().rev, TASKS * PUTS);
    });
}

/// More than any buffer holds, against a peer that reads nothing while its answers are unread.
#[test]
fn requests_keep_their_order_without_room() {
    const COUNT: usize = 300;
    run(async {
        let client = scripted(|mut peer| {
            let padding = "x".repeat(50_000);
            for n in 0..COUNT {
                let request = peer.line();
                assert!(
                    request.contains(&format!("\"key\":\"k{n}\"")),
                    "{n}: {request:.60}"
                );
                let fields = format!(r#""rev":{n},"padding":"{padding}""#);
                peer.say(&Peer::answer_to(&request, &fields));
            }
            peer.rest();
        })
        .await;
        let value = "y".repeat(50_000);
        let puts = (0..COUNT).map(|n| client.put(format!("k{n}"), &value));
        let revs = all(puts.collect()).await;
        for (n, rev) in revs.into_iter().enumerate() {
            assert_eq!(rev.unwrap(), n as u64);
        }
    });
}

#[test]
fn subscriptions_are_told_apart() {
    let server = server();
    run(async {
        let client = connect(&server).await;
        client.put("a.b", &1).await.unwrap();
        let mut all_of_it = client.subscribe("a").await.unwrap();
        let exact = client.subscribe_with("a").exact().changes_only();
        let mut changes: Subscription = exact.start().await.unwrap();
        is_spawnable(&changes);
        assert!(matches!(
            changes.next().await,
            Some(Ok(Event::Sync { rev: 1 }))
        ));
        assert_eq!(all_of_it.position(), None);
        assert!(matches!(
            all_of_it.next().await,
            Some(Ok(Event::Put { rev: 1, .. }))
        ));
        assert!(matches!(
            all_of_it.next().await,
            Some(Ok(Event::Sync { rev: 1 }))
        ));
        assert_eq!(all_of_it.position().unwrap().rev, 1);
        client.put("a.b", &2).await.unwrap();
        client.delete("a.b").await.unwrap();
        client.put("a", &3).await.unwrap();
        assert!(matches!(
            changes.next().await,
            Some(Ok(Event::Put { rev: 4, .. }))
        ));
        assert!(changes.try_next().unwrap().is_none());
        let mut revs = Vec::new();
        while revs.last() != Some(&4) {
            revs.push(all_of_it.next().await.unwrap().unwrap().rev());
        }
        assert!(revs.is_sorted() && revs.len() <= 3, "{revs:?}");
        let ender = all_of_it.ender();
        let waiting =
            tokio::spawn(async move { (all_of_it.next().await.is_none(), all_of_it.is_over()) });
        tokio::task::yield_now().await;
        ender.end();
        assert_eq!(waiting.await.unwrap(), (true, true));
        drop(changes);
        until("the subscriptions are gone", async || {
            client.stats().await.unwrap().counter("subscriptions") == Some(0)
        })
        .await;
        let refused = client.subscribe("a b").await;
        assert!(matches!(refused, Err(Error::Key(_))));
    });
    server.stop().unwrap();
}

#[test]
fn a_slow_subscriber_delays_nobody_and_gets_the_newest() {
    const PUTS: u64 = 20_000;
    let server = server();
    run(async {
        let client = connect(&server).await;
        let mut slow = client.subscribe("a").await.unwrap();
        for chunk in 0..PUTS / 100 {
            let puts = (0..100).map(|n| client.put(format!("a.{}", n % 10), &(chunk * 100 + n)));
            for put in all(puts.collect()).await {
                put.unwrap();
            }
        }
        let (mut count, mut newest) = (0, std::collections::BTreeMap::new());
        while slow.position().is_none_or(|position| position.rev < PUTS) {
            if let Event::Put { key, value, .. } = slow.next().await.unwrap().unwrap() {
                newest.insert(key, value.json::<u64>().unwrap());
            }
            count += 1;
        }
        assert!(count < 3000, "{count} events were kept");
        let newest: Vec<u64> = newest.into_values().collect();
        assert_eq!(newest, (PUTS - 10..PUTS).collect::<Vec<_>>());
    });
    server.stop().unwrap();
}

#[test]
fn a_reply_may_be_late() {
    run(async {
        let stream = stream_of(|mut peer| {
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
        let builder = Client::builder().reply_timeout(Some(Duration::from_millis(20)));
        let client = builder.from_stream(stream).await.unwrap();
        assert!(matches!(
            client.get::<String>("a").await,
            Err(Error::Timeout)
        ));
        // As often as the machine needs: each answer that comes in time is the right one.
        let entry = loop {
            match client.get::<String>("b").await {
                Err(Error::Timeout) => {}
                answer => break answer.unwrap().unwrap(),
            }
        };
        assert_eq!(entry.value, "right");
    });
}

#[test]
fn waiting_for_room_has_an_end() {
    run(async {
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let stream = stream_of(move |mut peer| {
            peer.hello();
            gone.recv().unwrap_err();
        });
        let builder = Client::builder().reply_timeout(Some(Duration::from_millis(50)));
        let client = builder.from_stream(stream).await.unwrap();
        let value = "x".repeat(4 << 20);
        let answers = all((0..3).map(|_| client.put("a", &value)).collect()).await;
        assert!(
            answers
                .iter()
                .all(|answer| matches!(answer, Err(Error::Timeout)))
        );
        drop(go);
    });
}

#[test]
fn whoever_does_not_greet_is_left() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nkv.sock");
        let address = path.to_str().unwrap().parse().unwrap();
        let builder = Client::builder().connect_timeout(Duration::from_millis(20));
        let nobody = builder.connect(&address).await.unwrap_err();
        assert!(matches!(nobody, Error::Connect { .. }), "{nobody}");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let mute = builder.connect(&address).await.unwrap_err();
        assert!(matches!(mute, Error::Timeout), "{mute}");
        assert!(matches!(
            Client::connect("edge").await,
            Err(Error::Address(_))
        ));
    });
}

#[test]
fn a_refused_greeting_is_told() {
    run(async {
        for (answer, expected) in [
            (
                r#"{"ok":false,"error":"limit","message":"too many"}"#,
                "limit: too many",
            ),
            (
                r#"{"id":1,"ok":true,"server":"x","protocol":2,"epoch":"e","rev":0}"#,
                "version 2",
            ),
            ("HTTP/1.1 400 Bad Request", "protocol"),
        ] {
            let stream = stream_of(move |mut peer| {
                peer.line();
                peer.say(answer);
            });
            let error = Client::from_stream(stream).await.unwrap_err();
            assert!(format!("{error}").contains(expected), "{error}");
        }
    });
}

#[test]
fn tcp_and_its_token() {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    std::fs::write(&token, "sesame\n").unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    let daemon = Daemon::start(&["--token-file", token.to_str().unwrap(), "127.0.0.1:0"]);
    let address = daemon.tcp_address("127.0.0.1:").parse().unwrap();
    run(async {
        let refused = Client::builder().connect(&address).await.unwrap_err();
        assert_eq!(refused.code(), Some(ErrorCode::Unauthenticated));
        let client = Client::builder()
            .token("sesame")
            .connect(&address)
            .await
            .unwrap();
        client.put("a", &1).await.unwrap();
        assert_eq!(daemon_entries(&client).await, 1);
    });
}

async fn daemon_entries(client: &Client) -> usize {
    client.list("*").unwrap().collect().await.unwrap().len()
}

#[test]
fn the_fate_of_a_request_is_told() {
    run(async {
        let client = scripted(|mut peer| {
            peer.line();
        })
        .await;
        let error = client.put("a", &1).await.unwrap_err();
        assert!(matches!(&error, Error::Unanswered(cause) if matches!(**cause, Error::Closed)));
        assert!(matches!(client.put("a", &1).await, Err(Error::Closed)));
        client.closed().await;
        assert!(client.is_closed());
    });
}

#[test]
fn closing_wakes_whoever_waits() {
    run(async {
        let client = scripted(|mut peer| {
            let request = peer.line();
            peer.say(&Peer::answer_to(&request, r#""epoch":"e1","rev":0"#));
            peer.rest();
        })
        .await;
        let mut events = client.subscribe("a").await.unwrap();
        let reading =
            tokio::spawn(async move { (events.next().await, events.next().await.is_none()) });
        let asking = tokio::spawn(client.ping());
        let ending = tokio::spawn({
            let client = client.clone();
            async move { client.closed().await }
        });
        for _ in 0..5 {
            tokio::task::yield_now().await;
        }
        client.close();
        let (error, is_over) = reading.await.unwrap();
        assert!(matches!(error, Some(Err(Error::Closed))) && is_over);
        assert!(matches!(asking.await.unwrap(), Err(Error::Unanswered(_))));
        ending.await.unwrap();
        assert!(matches!(client.ping().await, Err(Error::Closed)));
    });
}

#[test]
fn what_came_before_the_end_is_told() {
    run(async {
        let client = scripted(|mut peer| {
            let request = peer.line();
            peer.say(&Peer::answer_to(&request, r#""epoch":"e1","rev":0"#));
            for rev in 1..=100 {
                peer.say(&format!(
                    r#"{{"sub":2,"event":"delete","key":"k{rev}","rev":{rev}}}"#
                ));
            }
        })
        .await;
        let mut events = client.subscribe("*").await.unwrap();
        client.closed().await;
        for rev in 1..=100 {
            assert_eq!(events.next().await.unwrap().unwrap().rev(), rev);
        }
        assert!(matches!(events.next().await, Some(Err(Error::Closed))));
        assert!(events.next().await.is_none());
    });
}

/// The last handle takes along the connection, and nothing that was said before.
#[test]
fn a_connection_ends_with_its_last_handle() {
    let (sender, receiver) = std::sync::mpsc::channel();
    run(async {
        let client = scripted(move |mut peer| {
            let request = peer.line();
            peer.say(&Peer::answer_to(&request, r#""epoch":"e1","rev":0"#));
            sender.send(peer.rest()).unwrap();
        })
        .await;
        let events = client.subscribe("a").await.unwrap();
        drop(client);
        drop(events);
        until("it has ended", async || match receiver.try_recv() {
            Ok(rest) => {
                assert_eq!(rest, "{\"id\":3,\"op\":\"unsubscribe\",\"sub\":2}\n");
                true
            }
            Err(_) => false,
        })
        .await;
    });
}

#[test]
fn the_end_of_a_runtime_is_told() {
    let server = server();
    let other = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (client, mut events) = other.block_on(async {
        let client = connect(&server).await;
        let events = client.subscribe("a").await.unwrap();
        (client, events)
    });
    run(async {
        let pending: Pending<()> = client.ping();
        let asking = tokio::spawn(pending);
        tokio::task::yield_now().await;
        other.shutdown_background();
        assert!(matches!(asking.await.unwrap(), Err(Error::Unanswered(_))));
        while let Some(Ok(_)) = events.next().await {}
        assert!(events.next().await.is_none());
        assert!(matches!(client.ping().await, Err(Error::Closed)));
    });
    server.stop().unwrap();
}
