//! What is refused is refused to everyone, with the same code.

use crate::cases::Cases;
use crate::crew::{Crew, Member};
use crate::daemon::Plan;
use crate::party::{Answer, Command, Door, Held, Operation, Put};

#[test]
fn everyone_is_refused_with_the_same_code() {
    let refusals = Cases::read().refusals;
    let daemon = Plan::new().start();
    let mut owner = daemon.connect();
    owner.do_it(r#"{"op":"put","key":"there","value":1}"#);
    owner.do_it(r#"{"op":"claim","key":"claimed"}"#);
    owner.do_it(r#"{"op":"put","key":"claimed.there","value":1}"#);
    for member in &mut Crew::of(&daemon).0 {
        for case in &refusals {
            let answer = member.ask(case.command.clone());
            check(
                &answer,
                &case.answer,
                &format!("{}, {}", case.name, member.name),
            );
        }
        // Too long to stand in the list.
        let text = format!("\"{}\"", "x".repeat(1 << 20));
        let answer = member.ask(Command::Put(Put::new("nowhere", Held::Json(text))));
        let what = format!("a value over the message limit, {}", member.name);
        check(&answer, &refused("too_large"), &what);
        assert_eq!(member.get("nowhere"), None, "{}", member.name);
        // It goes on on the same connection.
        member.put("after", &Held::json("1"));
    }
}

#[test]
fn a_full_daemon_refuses_everyone() {
    let daemon = Plan::new().with(&["--max-keys", "1"]).start();
    let mut crew = Crew::of(&daemon);
    crew.0[0].put("first", &Held::json("1"));
    for member in &mut crew.0 {
        let put = Put::new("second", Held::json("1"));
        check(
            &member.ask(Command::Put(put)),
            &refused("limit"),
            member.name,
        );
        let operations = vec![
            Operation::Check {
                key: "second".into(),
                rev: 0,
            },
            Operation::Put {
                key: "second".into(),
                value: Held::json("1"),
            },
        ];
        let answer = member.ask(Command::Batch { operations });
        check(&answer, &refused("limit"), member.name);
        member.put("first", &Held::json("2"));
    }
}

#[test]
fn everyone_needs_the_token() {
    let plan = Plan::new();
    let file = plan.directory().join("token");
    std::fs::write(&file, "sesame\n").unwrap();
    let words = ["--token-file", file.to_str().unwrap(), "127.0.0.1:0"];
    let daemon = plan.with(&words).start();
    let address = daemon.tcp_address("127.0.0.1:");
    let door = |token: &str| Door {
        address: address.clone(),
        token: Some(token.to_owned()),
    };
    for member in &mut Crew::at(&door("wrong")).0 {
        let answer = member.ask(Command::Get { key: "a".into() });
        check(&answer, &refused("unauthenticated"), member.name);
    }
    let mut crew = Crew::at(&door("sesame"));
    for writer in crew.names() {
        let held = Held::Json(format!("{writer:?}"));
        crew.member(writer).put("a", &held);
        let seen = |reader: &mut Member| reader.get("a");
        for reader in &mut crew.0 {
            assert_eq!(
                seen(reader),
                Some(held.clone()),
                "{writer}, {}",
                reader.name
            );
        }
    }
}

fn refused(code: &str) -> Answer {
    Answer {
        refused: Some(code.to_owned()),
        ..Answer::default()
    }
}

/// Compares the code, and the revision and the place in a batch where they are said.
fn check(answer: &Answer, wanted: &Answer, what: &str) {
    assert_eq!(answer.refused, wanted.refused, "{what}: {answer:?}");
    if wanted.rev.is_some() {
        assert_eq!(answer.rev, wanted.rev, "{what}: {answer:?}");
    }
    if wanted.at.is_some() {
        assert_eq!(answer.at, wanted.at, "{what}: {answer:?}");
    }
}
