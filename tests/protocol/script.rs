//! Plays a transcript. The format is told in `main.rs`.

use std::collections::VecDeque;
use std::fmt::Write;

use nkv::broker::Peer;
use nkv::keyspace::Time;
use nkv::wire::Limits;
use serde::de::IgnoredAny;

use crate::support::{Bench, unix_peer};

/// Plays a transcript with what is sent fed in pieces of so many bytes.
///
/// # Errors
/// The first step that does not hold, for a person.
pub(crate) fn play(text: &str, piece: usize) -> Result<(), String> {
    let mut stage = Stage {
        limits: Limits::default(),
        token: None,
        bench: None,
        clients: Vec::new(),
        sender: None,
        piece,
    };
    for (number, step) in text.lines().enumerate() {
        if !step.is_empty() && !step.starts_with('#') {
            let place = |failure: String| format!("line {}: {failure}", number + 1);
            stage.step(step).map_err(place)?;
        }
    }
    stage
        .finish()
        .map_err(|failure| format!("at the end: {failure}"))
}

/// Whether a line is what is expected; `…` stands for any one JSON value.
pub(crate) fn matches(expected: &str, line: &str) -> bool {
    let mut rest = line;
    for (position, literal) in expected.split('…').enumerate() {
        if position > 0 {
            match value_length(rest) {
                Some(length) => rest = &rest[length..],
                None => return false,
            }
        }
        match rest.strip_prefix(literal) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    rest.is_empty()
}

struct Stage {
    limits: Limits,
    token: Option<String>,
    /// Made at the first connection.
    bench: Option<Bench>,
    clients: Vec<Client>,
    /// Who has sent lines that the broker has not seen yet.
    sender: Option<usize>,
    piece: usize,
}

struct Client {
    name: String,
    lines: VecDeque<String>,
    /// The beginning of a line.
    rest: Vec<u8>,
}

impl Stage {
    fn step(&mut self, step: &str) -> Result<(), String> {
        let (word, rest) = step.split_once(' ').unwrap_or((step, ""));
        let is_sent_on = word
            .trim_end_matches('>')
            .eq(self.sender.map_or("", |sender| &self.clients[sender].name));
        if !is_sent_on {
            self.settle()?;
        }
        if let Some(name) = word.strip_suffix(">>") {
            self.send(name, unescaped(rest)?)
        } else if let Some(name) = word.strip_suffix('>') {
            self.send(
                name,
                repeated(rest)?
                    .into_bytes()
                    .into_iter()
                    .chain([b'\n'])
                    .collect(),
            )
        } else if let Some(name) = word.strip_suffix('<') {
            self.expect(name, &repeated(rest)?)
        } else if let Some(name) = word.strip_suffix('~') {
            self.expect_anywhere(name, &repeated(rest)?)
        } else {
            self.command(word, rest)
        }
    }

    fn command(&mut self, word: &str, rest: &str) -> Result<(), String> {
        let (name, argument) = rest.split_once(' ').unwrap_or((rest, ""));
        match word {
            "limits" => self.set_limits(rest),
            "token" if self.bench.is_some() => Err("too late for a token".into()),
            "token" => {
                self.token = Some(rest.into());
                Ok(())
            }
            "connect" => self.connect(name, argument),
            "refused" => {
                let line = self
                    .bench()
                    .connect(unix_peer())
                    .err()
                    .ok_or(format!("{name} is not refused"))?;
                expect_line(argument, line.trim_end_matches('\n'))
            }
            "at" => {
                self.bench().now = Time(number(rest)?);
                self.settle()
            }
            "appetite" => {
                let client = self.client(name)?;
                let bytes = if argument == "all" {
                    u64::MAX
                } else {
                    number(argument)?
                };
                self.bench()
                    .set_appetite(client, usize::try_from(bytes).unwrap());
                self.settle()
            }
            "end" => {
                let client = self.client(name)?;
                self.bench().end(client);
                self.settle()
            }
            "drained" | "open" => {
                let client = self.client(name)?;
                match (self.bench().is_drained(client), word) {
                    (true, "open") => Err(format!("{name} is drained")),
                    (false, "drained") => Err(format!("{name} is not drained")),
                    _ => Ok(()),
                }
            }
            "closed" => {
                let client = self.client(name)?;
                if self.bench().is_connected(client) {
                    return Err(format!("{name} is not closed"));
                }
                Ok(())
            }
            "disconnect" => {
                let client = self.client(name)?;
                self.bench().disconnect(client);
                self.settle()
            }
            _ => Err(format!("no such step: {word}")),
        }
    }

    fn set_limits(&mut self, rest: &str) -> Result<(), String> {
        if self.bench.is_some() {
            return Err("too late for limits".into());
        }
        for limit in rest.split_whitespace() {
            let (name, value) = limit.split_once('=').ok_or("a limit is name=value")?;
            let limits = &mut self.limits;
            let field = match name {
                "message" => &mut limits.message,
                "page" => &mut limits.page,
                "output" => &mut limits.output,
                "clients" => &mut limits.clients,
                "subscriptions" => &mut limits.subscriptions,
                "keys" => &mut limits.keys,
                "bytes" => &mut limits.bytes,
                "tombstones" => &mut limits.tombstones,
                _ => return Err(format!("no such limit: {name}")),
            };
            *field = number(value)?;
        }
        Ok(())
    }

    fn connect(&mut self, name: &str, how: &str) -> Result<(), String> {
        if self.clients.iter().any(|client| client.name == name) {
            return Err(format!("there is an {name} already"));
        }
        let peer = match how {
            "" => unix_peer(),
            "tcp" => Peer::Tcp(([192, 0, 2, 1], 4000).into()),
            _ => return Err(format!("no such way to connect: {how}")),
        };
        let number = self.bench().connect(peer)?;
        assert_eq!(
            number,
            self.clients.len(),
            "clients are numbered as they come"
        );
        self.clients.push(Client {
            name: name.into(),
            lines: VecDeque::new(),
            rest: Vec::new(),
        });
        Ok(())
    }

    fn send(&mut self, name: &str, bytes: Vec<u8>) -> Result<(), String> {
        let client = self.client(name)?;
        self.bench().send(client, &bytes);
        self.sender = Some(client);
        Ok(())
    }

    fn expect(&mut self, name: &str, expected: &str) -> Result<(), String> {
        let client = self.client(name)?;
        let client = &mut self.clients[client];
        if expected == "nothing more" {
            return client.has_nothing();
        }
        match client.lines.pop_front() {
            Some(line) => expect_line(expected, &line),
            None => Err(format!("{name} has received nothing")),
        }
    }

    fn expect_anywhere(&mut self, name: &str, expected: &str) -> Result<(), String> {
        let client = self.client(name)?;
        let lines = &mut self.clients[client].lines;
        let found = lines.iter().position(|line| matches(expected, line));
        found
            .and_then(|position| lines.remove(position))
            .map(drop)
            .ok_or(format!("expected among other lines\n  {expected}"))
    }

    fn finish(&mut self) -> Result<(), String> {
        self.settle()?;
        for client in 0..self.clients.len() {
            self.clients[client].has_nothing()?;
            if self.bench().has_unsent(client) {
                return Err(format!(
                    "{} has sent what was never read",
                    self.clients[client].name
                ));
            }
        }
        Ok(())
    }

    /// Lets everything happen that can.
    fn settle(&mut self) -> Result<(), String> {
        let piece = self.piece;
        self.sender = None;
        if self.bench.is_none() {
            return Ok(());
        }
        self.bench().settle(piece);
        for number in 0..self.clients.len() {
            let received = self.bench().take_received(number);
            let client = &mut self.clients[number];
            client.rest.extend(received);
            while let Some(end) = client.rest.iter().position(|&byte| byte == b'\n') {
                let mut line: Vec<u8> = client.rest.drain(..=end).collect();
                line.pop();
                client
                    .lines
                    .push_back(String::from_utf8(line).map_err(|e| e.to_string())?);
            }
        }
        Ok(())
    }

    fn bench(&mut self) -> &mut Bench {
        let (limits, token) = (&self.limits, &self.token);
        self.bench
            .get_or_insert_with(|| Bench::with_token(limits.clone(), token.as_deref()))
    }

    fn client(&self, name: &str) -> Result<usize, String> {
        let found = self.clients.iter().position(|client| client.name == name);
        found.ok_or(format!("there is no {name}"))
    }
}

impl Client {
    fn has_nothing(&self) -> Result<(), String> {
        if self.lines.is_empty() && self.rest.is_empty() {
            return Ok(());
        }
        let mut failure = format!("{} has received more:", self.name);
        for line in &self.lines {
            let _ = write!(failure, "\n  {line}");
        }
        let _ = write!(failure, "\n  {}", String::from_utf8_lossy(&self.rest));
        Err(failure)
    }
}

fn expect_line(expected: &str, line: &str) -> Result<(), String> {
    if matches(expected, line) {
        Ok(())
    } else {
        Err(format!("expected\n  {expected}\nreceived\n  {line}"))
    }
}

/// How long the JSON value is with which a text begins.
fn value_length(text: &str) -> Option<usize> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    values.next()?.ok()?;
    Some(values.byte_offset())
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("not a number: {text}"))
}

/// Writes out `‹text*count›`.
fn repeated(text: &str) -> Result<String, String> {
    let mut parts = text.split('‹');
    let mut whole = String::from(parts.next().unwrap_or_default());
    for part in parts {
        let (inner, rest) = part.split_once('›').ok_or("‹ without ›")?;
        let (unit, count) = inner.rsplit_once('*').ok_or("‹› is ‹text*count›")?;
        let count = number(count)?;
        whole.push_str(&unit.repeat(usize::try_from(count).unwrap()));
        whole.push_str(rest);
    }
    Ok(whole)
}

/// Undoes the escapes of bytes that are sent.
fn unescaped(text: &str) -> Result<Vec<u8>, String> {
    let text = repeated(text)?;
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let (&escape, after) = rest.split_first().ok_or("a lone \\")?;
        rest = after;
        bytes.push(match escape {
            b'r' => b'\r',
            b'n' => b'\n',
            b't' => b'\t',
            b'\\' => b'\\',
            b'x' => {
                let digits = rest
                    .get(..2)
                    .and_then(|digits| std::str::from_utf8(digits).ok());
                let digits = digits.ok_or("\\x has two digits")?;
                rest = &rest[2..];
                u8::from_str_radix(digits, 16).map_err(|e| e.to_string())?
            }
            other => return Err(format!("no such escape: {}", char::from(other))),
        });
    }
    Ok(bytes)
}
