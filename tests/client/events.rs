//! Events over lost connections: each is told as it comes, and nothing twice.

use nkv::client::{Contact, Event};
use std::sync::mpsc;

use crate::daemons::{Daemons, PATIENCE, Script, then};
use crate::peer::Peer;

/// Confirms the subscription with these fields, and says lines in which `put a 3` stands for an event.
fn tell(fields: &'static str, events: &'static [&'static str]) -> Script {
    then(move |peer: &mut Peer| {
        let line = peer.line();
        assert_eq!(
            line,
            format!(r#"{{"id":2,"op":"subscribe","key":"c.*"{fields}}}"#)
        );
        peer.say(r#"{"id":2,"ok":true,"rev":9,"epoch":"e1"}"#);
        for event in events {
            let words: Vec<&str> = event.split(' ').collect();
            peer.say(&match words.as_slice() {
                ["put", key, rev] => {
                    format!(r#"{{"sub":2,"event":"put","key":"{key}","value":{rev},"rev":{rev}}}"#)
                }
                ["delete", key, rev] => {
                    format!(r#"{{"sub":2,"event":"delete","key":"{key}","rev":{rev}}}"#)
                }
                [event, rev] => format!(r#"{{"sub":2,"event":"{event}","rev":{rev}}}"#),
                [event, rev, epoch] => {
                    format!(r#"{{"sub":2,"event":"{event}","epoch":"{epoch}","rev":{rev}}}"#)
                }
                other => panic!("{other:?}"),
            });
        }
    })
}

fn shown(event: &Event) -> String {
    match event {
        Event::Put { key, rev, .. } => format!("put {key} {rev}"),
        Event::Delete { key, rev } => format!("delete {key} {rev}"),
        Event::Sync { rev } => format!("sync {rev}"),
        Event::Reset { rev, .. } => format!("reset {rev}"),
    }
}

/// What is told of these connections, one after the other.
fn told(scripts: Vec<Script>, expected: &[&str]) {
    let daemons = Daemons::play(scripts);
    let mut events = daemons.link().events("c.*").unwrap().start().unwrap();
    for expected in expected {
        let event = events.next_timeout(PATIENCE).unwrap().unwrap();
        assert_eq!(shown(&event), *expected);
    }
}

#[test]
fn it_goes_on_where_it_was() {
    told(
        vec![
            tell("", &["put c.a 3", "sync 4", "put c.a 5"]),
            tell(r#","since":5,"epoch":"e1""#, &["delete c.a 6", "sync 6"]),
            tell(
                r#","since":6,"epoch":"e1""#,
                &["reset 2", "put c.b 1", "sync 2"],
            ),
        ],
        &[
            "put c.a 3",
            "sync 4",
            "put c.a 5",
            "delete c.a 6",
            "sync 6",
            "reset 2",
            "put c.b 1",
            "sync 2",
        ],
    );
}

/// A reset may begin another history while the connection lasts.
#[test]
fn it_goes_on_in_the_epoch_of_the_last_reset() {
    told(
        vec![
            tell("", &["reset 5 e2", "put c.a 3", "sync 5", "put c.a 6"]),
            // One that names none leaves it as it was.
            tell(r#","since":6,"epoch":"e2""#, &["reset 7", "sync 7"]),
            tell(r#","since":7,"epoch":"e1""#, &["reset 8 e3", "put c.b 8"]),
            // Until a sync there is nothing to resume from.
            tell("", &["put c.b 8", "sync 9"]),
        ],
        &[
            "reset 5",
            "put c.a 3",
            "sync 5",
            "put c.a 6",
            "reset 7",
            "sync 7",
            "reset 8",
            "put c.b 8",
            "put c.b 8",
            "sync 9",
        ],
    );
}

#[test]
fn before_the_first_sync_nothing_is_told_twice() {
    told(
        vec![
            tell("", &["put c.a 3", "put c.b 4"]),
            // The second has gone meanwhile, and the third is new.
            tell("", &["put c.a 3", "put c.c 5", "sync 6"]),
            tell(r#","since":6,"epoch":"e1""#, &["sync 6"]),
        ],
        &[
            "put c.a 3",
            "put c.b 4",
            "put c.c 5",
            "delete c.b 6",
            "sync 6",
        ],
    );
}

#[test]
fn who_wants_to_know_hears_of_the_connection() {
    let daemons = Daemons::play(vec![
        tell("", &["sync 4"]),
        tell(r#","since":4,"epoch":"e1""#, &["put c.a 5"]),
    ]);
    let (sender, contacts) = mpsc::channel();
    let events = daemons.link().events("c.*").unwrap();
    let events = events.on_contact(move |contact| {
        let word = match contact {
            Contact::Lost { .. } => "lost",
            _ => "again",
        };
        sender.send(word).unwrap();
    });
    let mut events = events.start().unwrap();
    for _ in 0..2 {
        events.next_timeout(PATIENCE).unwrap().unwrap();
    }
    let heard: Vec<&str> = contacts.iter().take(2).collect();
    assert_eq!(heard, ["lost", "again"]);
}

#[test]
fn another_thread_can_end_it() {
    let daemons = Daemons::play(vec![then(|peer| {
        peer.line();
        peer.say(r#"{"id":2,"ok":true,"rev":9,"epoch":"e1"}"#);
        let _ = peer.try_line();
    })]);
    let mut events = daemons.link().events("c.*").unwrap().start().unwrap();
    let ender = events.ender();
    let ending = std::thread::spawn(move || ender.end());
    assert!(events.next().is_none());
    ending.join().unwrap();
}
