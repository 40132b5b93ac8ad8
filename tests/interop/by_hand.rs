//! No library at all: `nc`, and lines of the protocol as a person would write them.
//!
//! What a library does for its user is done here by the one who writes the test: keys are escaped
//! already, and there is no mirror. Each subscription has a connection of its own.

use std::process::Command as Program;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::agent::runs;
use crate::conversation::Conversation;
use crate::party::{Answer, Change, Command, Door, Entry, Held, Operation, Party, Put};

pub(crate) struct ByHand {
    door: Door,
    requests: Conversation,
    subscription: Option<Conversation>,
    claimed: String,
}

/// A line of the daemon's, or an element of a list.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Line<'a> {
    ok: Option<bool>,
    event: Option<String>,
    error: Option<String>,
    key: Option<String>,
    /// As it stands in the line: `null` is a value too.
    #[serde(borrow, deserialize_with = "text_of")]
    value: Option<&'a RawValue>,
    base64: Option<String>,
    rev: Option<u64>,
    at: Option<u64>,
    unchanged: bool,
    deleted: u64,
    lifetime: Option<String>,
    ttl_ms: Option<u64>,
    #[serde(borrow)]
    entries: Option<Vec<Line<'a>>>,
    more: bool,
}

fn text_of<'de, D: Deserializer<'de>>(value: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(value).map(Some)
}

impl ByHand {
    pub(crate) fn new(door: &Door) -> Result<ByHand, String> {
        if !runs("nc", "-h") {
            return Err("there is no nc that speaks over Unix sockets (netcat-openbsd)".into());
        }
        Ok(ByHand {
            door: door.clone(),
            requests: call(door),
            subscription: None,
            claimed: String::new(),
        })
    }

    fn request(&mut self, line: &str) -> Answer {
        self.requests.say(line);
        answer(&self.requests.hear())
    }

    fn get(&mut self, key: &str) -> Answer {
        let answer = self.request(&format!(r#"{{"op":"get","key":{}}}"#, quoted(key)));
        if answer.refused.as_deref() == Some("not_found") {
            return Answer::default();
        }
        answer
    }

    /// Page after page.
    fn list(&mut self, pattern: &str) -> Answer {
        let (pattern, mut after) = (quoted(pattern), String::new());
        let mut all = Vec::new();
        loop {
            let line = format!(r#"{{"op":"get","key":{pattern}{after}}}"#);
            self.requests.say(&line);
            let line = self.requests.hear();
            let has_more = read(&line).more;
            let mut page = answer(&line);
            all.append(&mut page.entries);
            let Some(last) = all.last().filter(|_| has_more) else {
                return Answer {
                    entries: all,
                    ..page
                };
            };
            after = format!(r#","after":{}"#, quoted(&last.key));
        }
    }

    fn is_same(&mut self, key: &str, json: &str) -> Answer {
        let found = self.get(key);
        let instead = match found.entries.first().map(|entry| &entry.value) {
            Some(Held::Json(text)) => text.clone(),
            other => format!("{other:?}"),
        };
        let [wanted, found] =
            [json, &instead].map(|text| serde_json::from_str::<serde_json::Value>(text).ok());
        Answer {
            is_same: wanted == found,
            instead,
            ..Answer::default()
        }
    }

    fn subscribe(&mut self, pattern: &str) -> Answer {
        let key = quoted(pattern);
        let mut subscription = call(&self.door);
        let line = format!(r#"{{"id":"s","op":"subscribe","key":{key},"cuts":true}}"#);
        subscription.say(&line);
        let answer = answer(&subscription.hear());
        self.subscription = Some(subscription);
        answer
    }

    fn told(&mut self) -> Answer {
        let subscription = self.subscription.as_mut().expect("it has subscribed");
        let mut told = Answer::default();
        loop {
            let line = subscription.hear();
            let line = read(&line);
            let kind = line.event.clone().expect("an event");
            if kind == "sync" {
                told.rev = line.rev;
                return told;
            }
            told.changes.push(Change {
                value: line.held(),
                key: line.key.unwrap_or_default(),
                kind,
            });
        }
    }
}

impl Party for ByHand {
    fn ask(&mut self, command: &Command) -> Answer {
        match command {
            Command::Put(put) => self.request(&put_line(put)),
            Command::PutTyped { key, json, .. } => {
                self.request(&put_line(&Put::new(key, Held::json(json))))
            }
            Command::IsTyped { key, json, .. } => self.is_same(key, json),
            Command::Get { key } => self.get(key),
            Command::List { pattern } => self.list(pattern),
            Command::Delete { pattern, if_rev } => {
                let condition = if_rev.map(|rev| format!(r#","if_rev":{rev}"#));
                let condition = condition.unwrap_or_default();
                let key = quoted(pattern);
                self.request(&format!(r#"{{"op":"delete","key":{key}{condition}}}"#))
            }
            Command::Batch { operations } => {
                let operations: Vec<String> = operations.iter().map(operation).collect();
                let operations = operations.join(",");
                self.request(&format!(r#"{{"op":"batch","ops":[{operations}]}}"#))
            }
            Command::Claim { key } => {
                self.claimed = quoted(key);
                self.request(&format!(r#"{{"op":"claim","key":{}}}"#, self.claimed))
            }
            Command::Release => {
                self.request(&format!(r#"{{"op":"release","key":{}}}"#, self.claimed))
            }
            Command::Announce { key, json } => {
                let mut put = Put::new(key, Held::json(json));
                put.lifetime = Some("session".into());
                self.request(&put_line(&put))
            }
            Command::Subscribe { pattern } => self.subscribe(pattern),
            Command::Told => self.told(),
            Command::Key { .. } | Command::Mirror { .. } | Command::State => {
                Answer::failed("a shell has none")
            }
        }
    }
}

/// A connection, which has shown its token where there is one.
fn call(door: &Door) -> Conversation {
    let mut program = Program::new("nc");
    match door.address.rsplit_once(':') {
        Some((host, port)) => program.args([host, port]),
        None => program.args(["-U", &door.address]),
    };
    let mut conversation = Conversation::start(&mut program);
    if let Some(token) = &door.token {
        let token = quoted(token);
        conversation.say(&format!(r#"{{"op":"hello","token":{token}}}"#));
        // Where it is the wrong one each request is refused, which is what is looked at.
        conversation.hear();
    }
    conversation
}

fn put_line(put: &Put) -> String {
    let mut line = format!(r#"{{"op":"put","key":{}"#, quoted(&put.key));
    line += &held_field(put.value.as_ref().expect("a value"));
    if let Some(lifetime) = &put.lifetime {
        line += &format!(r#","lifetime":"{lifetime}""#);
    }
    if let Some(ttl) = put.ttl_ms {
        line += &format!(r#","ttl_ms":{ttl}"#);
    }
    if let Some(rev) = put.if_rev {
        line += &format!(r#","if_rev":{rev}"#);
    }
    if put.if_changed {
        line += r#","if_changed":true"#;
    }
    line + "}"
}

fn operation(operation: &Operation) -> String {
    match operation {
        Operation::Put { key, value } => put_line(&Put::new(key, value.clone())),
        Operation::Delete { pattern } => {
            format!(r#"{{"op":"delete","key":{}}}"#, quoted(pattern))
        }
        Operation::Check { key, rev } => {
            format!(r#"{{"op":"check","key":{},"if_rev":{rev}}}"#, quoted(key))
        }
    }
}

fn held_field(value: &Held) -> String {
    match value {
        Held::Json(text) => format!(r#","value":{text}"#),
        Held::Base64(text) => format!(r#","base64":"{text}""#),
    }
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

fn read(line: &str) -> Line<'_> {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"))
}

fn answer(line: &str) -> Answer {
    let line = read(line);
    assert!(line.ok.is_some(), "an answer");
    let entries = match &line.entries {
        Some(entries) => entries.iter().filter_map(Line::entry).collect(),
        None => line.entry().into_iter().collect(),
    };
    Answer {
        refused: line.error,
        rev: line.rev,
        at: line.at,
        is_unchanged: line.unchanged,
        count: line.deleted,
        entries,
        ..Answer::default()
    }
}

impl Line<'_> {
    fn held(&self) -> Option<Held> {
        let json = self.value.map(|text| Held::json(text.get()));
        json.or_else(|| self.base64.clone().map(Held::Base64))
    }

    fn entry(&self) -> Option<Entry> {
        Some(Entry {
            key: self.key.clone()?,
            value: self.held()?,
            rev: self.rev,
            lifetime: Some(self.lifetime.clone().unwrap_or_else(|| "durable".into())),
            ttl_ms: self.ttl_ms,
        })
    }
}
