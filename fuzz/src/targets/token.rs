//! Tokens: who is let in over TCP, and what those may do who are not.

use std::net::SocketAddr;

use nkv::broker::{Peer, Token};
use nkv::wire::Limits;
use serde_json::Value;

use crate::support::{Bench, unix_peer};

/// What stands between two files, and between the last one and what clients say.
const NEXT: &str = "---";

/// A file with a token, one that replaces it, and what clients say one after another.
pub fn token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let separator = format!("\n{NEXT}\n");
    let mut parts = text.splitn(3, &*separator);
    let (first, second) = (parts.next().unwrap_or_default(), parts.next());
    let guesses: Vec<&str> = parts.next().unwrap_or_default().split('\n').collect();
    let Some(secret) = held_by(first) else {
        return;
    };
    let mut bench = Bench::with_token(Limits::default(), Some(first));
    let [early, tcp] = [0, 1].map(|_| bench.connect(outside()).expect("there is room"));
    let unix = bench.connect(unix_peer()).expect("there is room");
    let known = told(&mut bench, early, Some(secret));
    assert!(known, "who knows the token is let in");
    try_all(&mut bench, tcp, secret, &guesses);
    for guess in &guesses {
        assert!(
            told(&mut bench, unix, Some(guess)),
            "the socket's mode is enough"
        );
    }
    if let Some((second, secret)) = second.and_then(|file| Some((file, held_by(file)?))) {
        bench.broker.set_token(Token::new(second));
        let later = bench.connect(outside()).expect("there is room");
        try_all(&mut bench, later, secret, &guesses);
        assert!(may_ask(&mut bench, early), "who is in stays in");
    }
}

/// What a file holds, by the definition; and nothing is said where there is nothing.
fn held_by(file: &str) -> Option<&str> {
    let start = file.find(|c: char| !c.is_whitespace())?;
    let end = file.rfind(|c: char| !c.is_whitespace())?;
    let last = file[end..].chars().next()?;
    let secret = &file[start..end + last.len_utf8()];
    let token = Token::new(file).expect("there is a secret in it");
    assert_eq!(format!("{token:?}"), "Token(…)", "it is not to be logged");
    Some(secret)
}

/// One client says everything, with the token nowhere but at the right place.
fn try_all(bench: &mut Bench, client: usize, secret: &str, guesses: &[&str]) {
    assert!(!may_ask(bench, client), "nothing before hello");
    assert!(!told(bench, client, None), "nor by a hello without a token");
    let mut is_in = false;
    for guess in guesses {
        let is_right = guess.as_bytes() == secret.as_bytes();
        assert_eq!(
            told(bench, client, Some(guess)),
            is_right,
            "{guess:?} for {secret:?}"
        );
        is_in |= is_right;
        assert_eq!(may_ask(bench, client), is_in, "{guess:?} for {secret:?}");
    }
    // What is nearly right is wrong: shorter, longer, and with a bit turned over.
    let longer = format!("{secret}\0");
    let mut shorter = secret.to_owned();
    shorter.pop();
    let turned: String = secret
        .chars()
        .map(|c| if c == 'a' { 'b' } else { 'a' })
        .collect();
    for guess in [longer, shorter, turned]
        .iter()
        .filter(|guess| **guess != secret)
    {
        assert!(
            !told(bench, client, Some(guess)),
            "{guess:?} for {secret:?}"
        );
    }
}

fn outside() -> Peer {
    let address: SocketAddr = ([127, 0, 0, 1], 9).into();
    Peer::Tcp(address)
}

/// Whether a hello is answered with what there is to be told.
fn told(bench: &mut Bench, client: usize, token: Option<&str>) -> bool {
    let token = token.map_or(String::new(), |token| {
        format!(r#","token":{}"#, Value::from(token))
    });
    is_done(&ask(bench, client, &format!(r#"{{"op":"hello"{token}}}"#)))
}

fn may_ask(bench: &mut Bench, client: usize) -> bool {
    let put = r#"{"op":"put","key":"a","value":1}"#;
    is_done(&ask(bench, client, put))
}

fn is_done(answer: &Value) -> bool {
    match (&answer["ok"], answer["error"].as_str()) {
        (Value::Bool(true), None) => true,
        (_, Some("unauthenticated")) => {
            let fields = answer.as_object().map_or(0, serde_json::Map::len);
            assert_eq!(fields, 3, "a refusal tells nothing: {answer}");
            false
        }
        _ => panic!("{answer}"),
    }
}

fn ask(bench: &mut Bench, client: usize, line: &str) -> Value {
    bench.send(client, format!("{line}\n").as_bytes());
    bench.settle(usize::MAX);
    let answer = bench.take_received(client);
    serde_json::from_slice(&answer).expect("one answer")
}
