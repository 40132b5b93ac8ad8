//! The client in a loop of someone else's: a descriptor and a step that never waits.

use nkv::client::{Client, Error, Event, Step};
use rustix::event::{PollFd, PollFlags, poll};

use crate::peer::{Peer, client};
use crate::put;

/// The next step that has news or an end, waited for as a loop does.
fn next_news(client: &Client) -> Step {
    loop {
        let step = client.step();
        if step.has_news {
            return step;
        }
        let mut flags = PollFlags::IN;
        flags.set(PollFlags::OUT, step.wants_room);
        poll(&mut [PollFd::new(client, flags)], None).unwrap();
    }
}

#[test]
fn a_step_has_news_until_it_has_told_them() {
    let client = client(|mut peer| {
        let request = peer.line();
        peer.say(&Peer::answer_to(&request, r#""epoch":"e1","rev":0"#));
        let request = peer.line();
        peer.say(r#"{"sub":2,"event":"put","key":"a","value":1,"rev":1}"#);
        peer.say(&Peer::answer_to(&request, r#""rev":1"#));
        peer.rest();
    });
    let mut events = client.subscribe("a").unwrap();
    let mut pending = client.pipeline().put("a", &1).unwrap();
    let (mut told, mut written) = (Vec::new(), None);
    while told.is_empty() || written.is_none() {
        let step = next_news(&client);
        assert!(!step.has_ended);
        told.extend(events.try_next().unwrap());
        written = written.or(pending.try_wait().unwrap());
    }
    assert_eq!(told, [put("a", "1", 1)]);
    assert_eq!(written.unwrap().rev, 1);
    assert_eq!(pending.try_wait().unwrap().map(|written| written.rev), None);
    while client.step().has_news {}
    let step = client.step();
    assert!(!step.has_news && !step.wants_room && !step.has_ended);
}

/// What another call has read is news as well: else a loop would wait for what it has.
#[test]
fn a_step_tells_what_others_have_read() {
    let client = client(|mut peer| {
        let request = peer.line();
        peer.say(&Peer::answer_to(&request, r#""epoch":"e1","rev":0"#));
        let request = peer.line();
        peer.say(r#"{"sub":2,"event":"delete","key":"a","rev":1}"#);
        peer.say(&Peer::answer_to(&request, r#""rev":1"#));
        peer.rest();
    });
    let mut events = client.subscribe("a").unwrap();
    while client.step().has_news {}
    client.ping().unwrap();
    assert!(client.step().has_news);
    assert!(matches!(events.try_next(), Ok(Some(Event::Delete { .. }))));
}

#[test]
fn a_step_wants_room_while_the_peer_does_not_read() {
    let (go, gone) = std::sync::mpsc::channel();
    let client = client(move |mut peer| {
        gone.recv().unwrap();
        while let Some(request) = peer.try_line() {
            peer.say(&Peer::answer_to(&request, r#""rev":1"#));
        }
    });
    let value = "x".repeat(4 << 20);
    let mut pending = client.pipeline().put("a", &value).unwrap();
    assert!(client.step().wants_room);
    assert!(pending.try_wait().unwrap().is_none());
    go.send(()).unwrap();
    assert!(!next_news(&client).wants_room);
    assert!(pending.try_wait().unwrap().is_some());
}

#[test]
fn the_end_is_news_once() {
    let client = client(|mut peer| {
        let request = peer.line();
        peer.say(&Peer::answer_to(&request, r#""epoch":"e1","rev":0"#));
        peer.line();
        peer.say(r#"{"sub":2,"event":"put","key":"a","value":2,"rev":1}"#);
    });
    let mut events = client.subscribe("a").unwrap();
    let mut pending = client.pipeline().put("a", &1).unwrap();
    while !next_news(&client).has_ended {}
    let step = client.step();
    assert!(step.has_ended && !step.has_news);
    // What came before is not lost.
    assert_eq!(events.try_next().unwrap(), Some(put("a", "2", 1)));
    assert!(matches!(events.try_next(), Err(Error::Closed)));
    assert!(matches!(pending.try_wait(), Err(Error::Unanswered(_))));
    assert!(matches!(pending.try_wait(), Ok(None)));
}
