//! Links: they come back, they announce, and they take no harm from callers that give up.

use std::os::unix::net::UnixListener;
use std::pin::Pin;
use std::sync::mpsc;
use std::task::{Context, Waker};
use std::time::Duration;

use nkv::Address;
use nkv::client::asynchronous::{Client, Link};
use nkv::client::{Error, ErrorCode, Lifetime, Put, Value};

use crate::daemon::Plan;
use crate::peer::Peer;
use crate::{PATIENCE, dropped_after, run, run_on_many, until};

pub(crate) fn link_to(path: &std::path::Path) -> Link {
    Link::builder()
        .patience(PATIENCE)
        .pauses(Duration::from_millis(1), Duration::from_millis(20))
        .link(Address::Unix(path.to_owned()))
}

/// Scripts, each for the next connection, after the greeting.
pub(crate) type Script = Box<dyn FnOnce(&mut Peer) + Send>;

pub(crate) fn play(scripts: Vec<Script>) -> (tempfile::TempDir, Link, mpsc::Receiver<()>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nkv.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let (sender, played) = mpsc::channel();
    std::thread::spawn(move || {
        for script in scripts {
            let mut peer = Peer::new(listener.accept().unwrap().0);
            peer.hello();
            script(&mut peer);
            // What panics before sends nothing. Not every test listens.
            let _ = sender.send(());
        }
    });
    (directory, link_to(&path), played)
}

#[test]
fn a_put_is_repeated_only_where_that_does_no_harm() {
    let lose =
        |line: &'static str| -> Script { Box::new(move |peer| assert_eq!(peer.line(), line)) };
    let answer = |line: &'static str, fields: &'static str| -> Script {
        Box::new(move |peer| {
            assert_eq!(peer.line(), line);
            peer.say(&Peer::answer_to(line, fields));
        })
    };
    const PLAIN: &str = r#"{"id":2,"op":"put","key":"a","value":1}"#;
    const IF_CHANGED: &str = r#"{"id":2,"op":"put","key":"a","value":1,"if_changed":true}"#;
    const GET: &str = r#"{"id":2,"op":"get","key":"a"}"#;
    let put = || Put::new("a", Value::of(&1).unwrap()).unwrap();
    run(async {
        let (_directory, link, _) = play(vec![
            lose(PLAIN),
            answer(GET, r#""key":"a","value":1,"rev":7"#),
        ]);
        let error = link.put("a", &1).await.unwrap_err();
        assert!(matches!(error, Error::Unanswered(_)), "{error}");
        assert_eq!(link.get::<u8>("a").await.unwrap().unwrap().rev, 7);

        let (_directory, link, _) = play(vec![
            lose(IF_CHANGED),
            lose(IF_CHANGED),
            answer(IF_CHANGED, r#""rev":5"#),
        ]);
        assert_eq!(link.put_with(put().if_changed()).await.unwrap().rev, 5);

        let (_directory, link, _) = play(vec![
            lose(GET),
            lose(GET),
            answer(GET, r#""key":"a","value":1,"rev":7"#),
        ]);
        assert_eq!(link.get_value("a").await.unwrap().unwrap().rev, 7);
    });
}

#[test]
fn patience_ends_and_refusals_are_told_at_once() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let address = Address::Unix(directory.path().join("nobody.sock"));
        let builder = Link::builder().patience(Duration::from_millis(50));
        let error = builder.link(address).get_value("a").await.unwrap_err();
        assert!(matches!(error, Error::Connect { .. }), "{error}");

        let path = directory.path().join("nkv.sock");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let mut peer = Peer::new(listener.accept().unwrap().0);
            peer.line();
            peer.say(r#"{"id":1,"ok":false,"error":"unauthenticated","message":"no"}"#);
        });
        let error = link_to(&path).get_value("a").await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::Unauthenticated));
    });
}

/// A caller that waits in pieces gets there: the attempt is not its own.
#[test]
fn a_connection_is_made_though_whoever_wants_it_gives_up() {
    let plan = Plan::new();
    run(async {
        let link = link_to(&plan.socket());
        for polls in 0..5 {
            assert!(dropped_after(polls, link.get_value("a")).await.is_none());
        }
        let _daemon = plan.start();
        let mut drops = 0;
        while dropped_after(1, link.client()).await.is_none() {
            drops += 1;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(drops > 0);
        link.put("a", &1).await.unwrap();
    });
}

#[test]
fn tasks_that_find_no_connection_share_the_next() {
    let plan = Plan::new();
    run_on_many(async {
        let link = link_to(&plan.socket());
        let tasks: Vec<_> = (0..16)
            .map(|n| {
                let link = link.clone();
                tokio::spawn(async move { link.put(format!("k.{n}"), &n).await.unwrap() })
            })
            .collect();
        tokio::task::yield_now().await;
        let _daemon = plan.start();
        for task in tasks {
            task.await.unwrap();
        }
        let client = link.client().await.unwrap();
        assert_eq!(client.clients().await.unwrap().len(), 1);
        assert_eq!(link.list("k").await.unwrap().len(), 0);
        assert_eq!(link.list("k.*").await.unwrap().len(), 16);
    });
}

#[test]
fn updates_of_many_all_count() {
    let plan = Plan::new();
    let _daemon = plan.start();
    run_on_many(async {
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let link = link_to(&plan.socket());
                tokio::spawn(async move {
                    for _ in 0..25 {
                        link.update("count", |count: Option<u64>| Some(count.unwrap_or(0) + 1))
                            .await
                            .unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let link = link_to(&plan.socket());
        assert_eq!(link.get::<u64>("count").await.unwrap().unwrap().value, 200);
        assert_eq!(
            link.update("count", |_: Option<u64>| None).await.unwrap(),
            200
        );
        link.batch(|batch| batch.put("a", &1).delete("count"))
            .await
            .unwrap();
        assert!(!link.delete("count").await.unwrap());
    });
}

#[test]
fn what_is_announced_survives_a_killed_daemon() {
    let plan = Plan::keeping();
    let daemon = plan.start();
    run(async {
        let link = link_to(&plan.socket());
        let present = link.announce("present.camera", &1).await.unwrap();
        assert_eq!(present.key(), "present.camera");
        let entry = link.get::<u8>("present.camera").await.unwrap().unwrap();
        assert_eq!((entry.value, entry.lifetime), (1, Lifetime::Session));
        let epoch = link.client().await.unwrap();
        daemon.kill();
        epoch.closed().await;
        let daemon = plan.start();
        // Nobody asks the link for anything.
        let observer = Client::connect(plan.socket().to_str().unwrap())
            .await
            .unwrap();
        until("it is owned again", async || {
            observer.clients().await.unwrap().len() == 2
        })
        .await;
        until("it is there", async || {
            observer
                .get::<u8>("present.camera")
                .await
                .unwrap()
                .is_some()
        })
        .await;
        present.set(&2).await.unwrap();
        let value = observer
            .get::<u8>("present.camera")
            .await
            .unwrap()
            .unwrap()
            .value;
        assert_eq!(value, 2);
        // One more time, now with the later value, and no file that remembers it.
        daemon.kill();
        std::fs::remove_dir_all(plan.runtime_directory()).unwrap();
        let _daemon = plan.start();
        let observer = Client::connect(plan.socket().to_str().unwrap())
            .await
            .unwrap();
        until("the later value is there", async || {
            let entry = observer.get::<u8>("present.camera").await.unwrap();
            entry.is_some_and(|entry| entry.value == 2)
        })
        .await;
        drop(present);
        until("it is gone", async || {
            observer
                .get::<u8>("present.camera")
                .await
                .unwrap()
                .is_none()
        })
        .await;
        // The link is as good as before.
        link.put("a", &1).await.unwrap();
    });
}

#[test]
fn an_announcement_that_is_given_up_is_none() {
    let plan = Plan::new();
    let _daemon = plan.start();
    run(async {
        let link = link_to(&plan.socket());
        link.client().await.unwrap();
        for polls in 0..5 {
            drop(dropped_after(polls, link.announce("present.a", &1)).await);
        }
        link.client().await.unwrap().ping().await.unwrap();
        assert!(link.get_value("present.a").await.unwrap().is_none());
        assert!(link.put("present.b", &1).await.is_ok());
    });
}

#[test]
fn what_ceases_to_be_announced_during_a_connect_is_deleted() {
    let (asked, is_asked) = mpsc::channel();
    let (go, gone) = mpsc::channel::<()>();
    let (_directory, link, played) = play(vec![
        Box::new(|peer| {
            let request = peer.line();
            peer.say(&Peer::answer_to(&request, r#""rev":5"#));
        }),
        Box::new(move |peer| {
            let request = peer.line();
            asked.send(()).unwrap();
            gone.recv().unwrap();
            peer.say(&Peer::answer_to(&request, r#""rev":6"#));
            assert_eq!(peer.line(), r#"{"id":3,"op":"delete","key":"present.a"}"#);
            peer.say(r#"{"id":3,"ok":true,"rev":7,"deleted":1}"#);
        }),
    ]);
    run(async {
        let announcement = link.announce("present.a", &1).await.unwrap();
        until("it comes back", async || is_asked.try_recv().is_ok()).await;
        drop(announcement);
        go.send(()).unwrap();
        until("both are played", async || played.try_recv().is_ok()).await;
        until("both are played", async || played.try_recv().is_ok()).await;
    });
}

/// A link outlives the runtime on which its connection was.
#[test]
fn a_link_goes_on_on_another_runtime() {
    let plan = Plan::new();
    let _daemon = plan.start();
    let link = link_to(&plan.socket());
    for n in 0..3 {
        run(async { link.put("a", &n).await.unwrap() });
    }
}

/// A task that uses the link when its runtime ends, and with it all other tasks.
struct AtTheEnd(Link, tokio::runtime::Handle, mpsc::Sender<bool>);

impl Drop for AtTheEnd {
    fn drop(&mut self) {
        let _within = self.1.enter();
        let mut asked = self.0.client();
        let mut context = Context::from_waker(Waker::noop());
        // However often it is polled, it neither blocks nor comes to an end.
        let is_waiting = (0..10).all(|_| Pin::new(&mut asked).poll(&mut context).is_pending());
        self.2.send(is_waiting).unwrap();
    }
}

/// What is asked while the runtime ends comes to nothing, and keeps nobody from going.
#[test]
fn a_runtime_ends_while_a_link_is_asked() {
    let (told, is_waiting) = mpsc::channel();
    let plan = Plan::new();
    let link = link_to(&plan.socket());
    let ended = std::thread::spawn({
        let link = link.clone();
        move || {
            run(async {
                let end = AtTheEnd(link, tokio::runtime::Handle::current(), told);
                tokio::spawn(async move {
                    let _end = end;
                    std::future::pending::<()>().await;
                });
                tokio::task::yield_now().await;
            });
        }
    });
    assert_eq!(is_waiting.recv_timeout(PATIENCE), Ok(true));
    ended.join().unwrap();
    // On another runtime it is of use again.
    let _daemon = plan.start();
    run(async { link.put("a", &1).await.unwrap() });
}

/// The connection and the keeper end with the last clone.
#[test]
fn a_link_ends_with_its_last_clone() {
    let plan = Plan::new();
    let _daemon = plan.start();
    run(async {
        let observer = Client::connect(plan.socket().to_str().unwrap())
            .await
            .unwrap();
        let link = link_to(&plan.socket());
        let present = link.announce("present.a", &1).await.unwrap();
        drop(link);
        assert_eq!(observer.clients().await.unwrap().len(), 2);
        drop(present);
        until("it has gone", async || {
            observer.clients().await.unwrap().len() == 1
        })
        .await;
        assert!(observer.get_value("present.a").await.unwrap().is_none());
    });
}
