//! Tokens: who is let in over TCP, and what those may do who are not.

use std::net::SocketAddr;

use nkv::broker::{Peer, TOKEN_BYTES_MAX, Token};
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
    let guesses = parts.next().unwrap_or_default().split('\n');
    // What is longer does not fit into the line that a stranger may send.
    let fits = |text: &&str| text.len() <= TOKEN_BYTES_MAX;
    let guesses: Vec<&str> = guesses.filter(fits).collect();
    let Some(secret) = held_by(first).filter(fits) else {
        return;
    };
    let mut bench = Bench::with_token(Limits::default(), Some(first));
    let early = bench.connect(outside()).expect("there is room");
    let unix = bench.connect(unix_peer()).expect("there is room");
    let known = told(&mut bench, early, Some(secret));
    assert!(known, "who knows the token is let in");
    try_all(&mut bench, secret, &guesses);
    for guess in &guesses {
        assert!(
            told(&mut bench, unix, Some(guess)),
            "the socket's mode is enough"
        );
    }
    if let Some((second, secret)) =
        second.and_then(|file| Some((file, held_by(file).filter(fits)?)))
    {
        bench.broker.set_token(Token::new(second));
        try_all(&mut bench, secret, &guesses);
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

/// Each guess is made by a client of its own, which is expelled after some that are wrong.
fn try_all(bench: &mut Bench, secret: &str, guesses: &[&str]) {
    for guess in guesses {
        let is_right = guess.as_bytes() == secret.as_bytes();
        try_one(bench, secret, guess, is_right);
    }
    // What is nearly right is wrong: shorter, longer, and with a bit turned over.
    let longer = format!("{secret}\0");
    let mut shorter = secret.to_owned();
    shorter.pop();
    let turned: String = secret
        .chars()
        .map(|c| if c == 'a' { 'b' } else { 'a' })
        .collect();
    for guess in [longer, shorter, turned] {
        if guess != secret {
            try_one(bench, secret, &guess, false);
        }
    }
}

/// A client that says hello without a token, and then with this one.
fn try_one(bench: &mut Bench, secret: &str, guess: &str, is_right: bool) {
    let client = bench.connect(outside()).expect("there is room");
    assert!(!may_ask(bench, client), "nothing before hello");
    assert!(!told(bench, client, None), "nor by a hello without a token");
    let is_told = told(bench, client, Some(guess));
    assert_eq!(is_told, is_right, "{guess:?} for {secret:?}");
    if is_right {
        assert!(may_ask(bench, client), "{guess:?} for {secret:?}");
    }
    bench.disconnect(client);
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
