//! The asynchronous client: against a server in this process, the built daemon, and a peer that follows a
//! script.
//!
//! What is dropped at an await is dropped on purpose here, at each one in turn (`dropped_after`), and under
//! load (`select!` with whatever is ready first).

#![allow(
    clippy::unwrap_used,
    reason = "a test that meets a surprise should panic"
)]

mod cancel;
mod claim;
#[allow(clippy::print_stderr, reason = "a failing test shows the daemon's log")]
#[path = "../support/daemon.rs"]
mod daemon;
mod link;
mod mirror;
#[path = "../client/peer.rs"]
#[allow(dead_code, reason = "the blocking client's tests use all of it")]
mod peer;
mod requests;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use nkv::client::asynchronous::Client;
use nkv::server::{Options, Running, Server};

/// How long anything may take before it counts as never.
const PATIENCE: Duration = Duration::from_secs(60);

/// A runtime of one thread, on which the test has its time.
fn run<R>(test: impl Future<Output = R>) -> R {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime
        .block_on(async { tokio::time::timeout(PATIENCE, test).await })
        .expect("it takes too long")
}

/// The same on several threads.
fn run_on_many<R>(test: impl Future<Output = R>) -> R {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .unwrap();
    runtime
        .block_on(async { tokio::time::timeout(PATIENCE, test).await })
        .expect("it takes too long")
}

/// A server of this process.
fn server() -> Running {
    Server::bind(Options::default()).unwrap().spawn().unwrap()
}

async fn connect(server: &Running) -> Client {
    let stream = server.handle().connect().unwrap();
    Client::from_stream(stream).await.unwrap()
}

/// A client that has been greeted by a peer, whose script goes on from there.
async fn scripted(script: impl FnOnce(peer::Peer) + Send + 'static) -> Client {
    let stream = peer::scripted(move |mut peer| {
        peer.hello();
        script(peer);
    });
    let builder = Client::builder().reply_timeout(None);
    builder.from_stream(stream).await.unwrap()
}

/// Polls a future so many times, lets others run in between, and drops it; or returns what comes of it.
async fn dropped_after<R>(polls: usize, future: impl Future<Output = R>) -> Option<R> {
    let mut future = pin!(future);
    for _ in 0..polls {
        let polled = poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
        if let Poll::Ready(output) = polled {
            return Some(output);
        }
        tokio::task::yield_now().await;
    }
    None
}

/// Waits for all of them, polled in their order, as the usual `join_all` does.
async fn all<F: Future + Unpin>(mut futures: Vec<F>) -> Vec<F::Output> {
    let mut outputs: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    poll_fn(|context| {
        let mut is_done = true;
        for (future, output) in futures.iter_mut().zip(&mut outputs) {
            if output.is_none() {
                match std::pin::Pin::new(future).poll(context) {
                    Poll::Ready(ready) => *output = Some(ready),
                    Poll::Pending => is_done = false,
                }
            }
        }
        if is_done {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    outputs.into_iter().map(Option::unwrap).collect()
}

/// Waits until a question asked over and over has the wanted answer, while others run.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let start = std::time::Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        tokio::task::yield_now().await;
    }
}
