//! The Rust library, in this process.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nkv::client::{
    self, Announcement, Change as Difference, Claim, Client, Error, Events, Follower, Link,
};
use nkv::wire::Lifetime;
use nkv::{Key, KeyError};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::daemon::PATIENCE;
use crate::party::{Answer, Change, Command, Door, Entry, Held, Kind, Operation, Party, Put};

pub(crate) struct Library {
    link: Link,
    announcement: Option<Announcement>,
    claim: Option<Claim>,
    events: Option<Events>,
    mirror: Option<Follower>,
}

/// A structure such as a service has.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Device {
    name: String,
    mtu: u16,
    up: bool,
    serial: u64,
    load: f64,
    gateway: Option<String>,
    addresses: Vec<String>,
    labels: std::collections::BTreeMap<String, String>,
}

impl Library {
    pub(crate) fn new(door: &Door) -> Library {
        let mut connection = Client::builder().name("rust");
        if let Some(token) = &door.token {
            connection = connection.token(token);
        }
        let builder = Link::builder().connection(connection);
        Library {
            link: builder.link(door.address.parse().unwrap()),
            announcement: None,
            claim: None,
            events: None,
            mirror: None,
        }
    }

    fn carry_out(&mut self, command: &Command) -> Result<Answer, Error> {
        let link = &self.link;
        Ok(match command {
            Command::Key { segments } => {
                let key = Key::from_segments(segments)?;
                Answer {
                    key: Some(key.as_str().to_owned()),
                    segments: key.segments().map(|segment| segment.into_owned()).collect(),
                    ..Answer::default()
                }
            }
            Command::Put(put) => written(link.put_with(put_of(put)?)?),
            Command::PutTyped { key, json, kind } => Answer::at_rev(match kind {
                Kind::Any => link.put(key, &typed::<serde_json::Value>(json)?)?,
                Kind::Device => link.put(key, &typed::<Device>(json)?)?,
            }),
            Command::IsTyped { key, json, kind } => match kind {
                Kind::Any => is_typed::<serde_json::Value>(link, key, json)?,
                Kind::Device => is_typed::<Device>(link, key, json)?,
            },
            Command::Get { key } => entries(link.get_value(key)?),
            Command::List { pattern } => entries(link.list(pattern)?),
            Command::Delete { pattern, if_rev } => deleted(link, pattern, *if_rev)?,
            Command::Batch { operations } => batch(link, operations)?,
            Command::Announce { key, json } => {
                let value = client::Value::from_json_text(json)?;
                self.announcement = Some(link.announce_value(key, value)?);
                Answer::default()
            }
            Command::Claim { key } => {
                self.claim = Some(link.claim(key)?);
                Answer::default()
            }
            Command::Release => {
                self.claim.take().expect("it has claimed").release()?;
                Answer::default()
            }
            Command::Subscribe { pattern } => {
                self.events = Some(link.events(pattern)?.cuts().start()?);
                Answer::default()
            }
            Command::Told => told(self.events.as_mut().expect("it has subscribed"))?,
            Command::Mirror { pattern } => {
                self.mirror = Some(link.mirror(pattern)?.follow());
                Answer::default()
            }
            Command::State => state(self.mirror.as_mut().expect("it mirrors"))?,
        })
    }
}

impl Party for Library {
    fn ask(&mut self, command: &Command) -> Answer {
        let refused = |code: &str| Answer {
            refused: Some(code.to_owned()),
            ..Answer::default()
        };
        match self.carry_out(command) {
            Ok(answer) => answer,
            Err(Error::Server(failure)) => Answer {
                rev: failure.rev,
                at: failure.at,
                ..refused(failure.code.as_str())
            },
            // What the daemon would say, found out before it is asked.
            Err(Error::Key(KeyError::TooLong(_))) => refused("too_large"),
            Err(Error::Key(_)) => refused("bad_key"),
            Err(error) => Answer::failed(error),
        }
    }
}

fn value_of(held: &Held) -> Result<client::Value, Error> {
    match held {
        Held::Json(text) => client::Value::from_json_text(text),
        Held::Base64(text) => Ok(client::Value::from_bytes(STANDARD.decode(text).unwrap())),
    }
}

fn held(value: &client::Value) -> Held {
    match value.as_json_text() {
        Some(text) => Held::json(text),
        None => Held::Base64(STANDARD.encode(value.bytes().unwrap())),
    }
}

fn put_of(put: &Put) -> Result<client::Put, Error> {
    let value = value_of(put.value.as_ref().expect("a value"))?;
    let mut made = client::Put::new(&put.key, value)?;
    if let Some(lifetime) = &put.lifetime {
        made = made.lifetime(lifetime_of(lifetime));
    }
    if let Some(ttl) = put.ttl_ms {
        made = made.ttl(Duration::from_millis(ttl));
    }
    if let Some(rev) = put.if_rev {
        made = made.if_rev(rev);
    }
    if put.if_changed {
        made = made.if_changed();
    }
    Ok(made)
}

fn lifetime_of(name: &str) -> Lifetime {
    let all = [Lifetime::Durable, Lifetime::Boot, Lifetime::Session];
    all.into_iter().find(|one| one.as_str() == name).unwrap()
}

fn written(written: client::Written) -> Answer {
    Answer {
        is_unchanged: written.is_unchanged,
        ..Answer::at_rev(written.rev)
    }
}

fn typed<T: DeserializeOwned>(json: &str) -> Result<T, Error> {
    serde_json::from_str(json).map_err(Error::Value)
}

fn is_typed<T>(link: &Link, key: &str, json: &str) -> Result<Answer, Error>
where
    T: DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let found = link.get::<T>(key)?.map(|entry| entry.value);
    Ok(Answer {
        is_same: found.as_ref() == Some(&typed(json)?),
        instead: format!("{found:?}"),
        ..Answer::default()
    })
}

fn entries(found: impl IntoIterator<Item = client::Entry>) -> Answer {
    let entries = found.into_iter().map(|entry| Entry {
        key: entry.key.as_str().to_owned(),
        value: held(&entry.value),
        rev: Some(entry.rev),
        lifetime: Some(entry.lifetime.as_str().to_owned()),
        ttl_ms: entry.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap()),
    });
    Answer {
        entries: entries.collect(),
        ..Answer::default()
    }
}

/// A link deletes keys; patterns and conditions are the connection's.
fn deleted(link: &Link, pattern: &str, if_rev: Option<u64>) -> Result<Answer, Error> {
    let count = match if_rev {
        Some(rev) => u64::from(link.client()?.delete_if_rev(pattern, rev)?),
        None if pattern.contains('*') => link.client()?.delete_pattern(pattern)?,
        None => u64::from(link.delete(pattern)?),
    };
    Ok(Answer {
        count,
        ..Answer::default()
    })
}

fn batch(link: &Link, operations: &[Operation]) -> Result<Answer, Error> {
    let mut puts = Vec::new();
    for operation in operations {
        if let Operation::Put { key, value } = operation {
            puts.push(put_of(&Put::new(key, value.clone()))?);
        }
    }
    let rev = link.batch(|mut batch| {
        let mut puts = puts.iter().cloned();
        for operation in operations {
            batch = match operation {
                Operation::Put { .. } => batch.put_with(puts.next().unwrap()),
                Operation::Delete { pattern } => batch.delete(pattern),
                Operation::Check { key, rev } => batch.check(key, *rev),
            };
        }
        batch
    })?;
    Ok(Answer::at_rev(rev))
}

fn told(events: &mut Events) -> Result<Answer, Error> {
    let mut told = Answer::default();
    loop {
        let event = events.next_timeout(PATIENCE)?.expect("an event comes");
        let (kind, value) = match &event {
            client::Event::Put { value, .. } => ("put", Some(held(value))),
            client::Event::Delete { .. } => ("delete", None),
            client::Event::Reset { .. } => ("reset", None),
            client::Event::Sync { rev } => {
                told.rev = Some(*rev);
                return Ok(told);
            }
        };
        let key = event.key().map_or("", Key::as_str).to_owned();
        let kind = kind.into();
        told.changes.push(Change { kind, key, value });
    }
}

fn state(mirror: &mut Follower) -> Result<Answer, Error> {
    let cut = mirror.next_cut(Some(PATIENCE))?.expect("a state comes");
    let change = |change: &Difference| Change {
        kind: match change {
            Difference::Created { .. } => "created".into(),
            Difference::Modified { .. } => "modified".into(),
            Difference::Deleted { .. } => "deleted".into(),
            other => format!("{other:?}"),
        },
        key: change.key().as_str().to_owned(),
        value: None,
    };
    let view = mirror.view();
    let entry = |(key, value): (&Key, &std::sync::Arc<client::Value>)| Entry {
        key: key.as_str().to_owned(),
        value: held(value),
        rev: view.key_rev(key),
        lifetime: None,
        ttl_ms: None,
    };
    Ok(Answer {
        changes: cut.changes.iter().map(change).collect(),
        entries: view.iter().map(entry).collect(),
        ..Answer::at_rev(cut.rev)
    })
}
