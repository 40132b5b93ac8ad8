//! A client as the tests see it: it is told what to do, and answers with what its library said.
//!
//! A [`Command`] is data, and each [`Party`] carries it out in the manner of its language. The parties
//! compare nothing, so that what is right is said once, in the tests. The Go and the Python program
//! get commands as lines of JSON and answer with such lines, in exactly the form of these types.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::agent::Agent;
use crate::by_hand::ByHand;
use crate::daemon::skip;
use crate::library::Library;

/// The clients there are. The order is that of the columns of a test that pairs them.
pub(crate) const NAMES: [&str; 4] = ["rust", "go", "python", "nc"];

/// Where a daemon is, and what it is to be told at first.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) address: String,
    pub(crate) token: Option<String>,
}

/// A value as it was put: JSON text, or bytes as the protocol writes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Held {
    Json(String),
    Base64(String),
}

/// A put and its terms.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Put {
    pub(crate) key: String,
    pub(crate) value: Option<Held>,
    pub(crate) lifetime: Option<String>,
    pub(crate) ttl_ms: Option<u64>,
    pub(crate) if_rev: Option<u64>,
    pub(crate) if_changed: bool,
}

/// An operation of a batch.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(crate) enum Operation {
    Put { key: String, value: Held },
    Delete { pattern: String },
    Check { key: String, rev: u64 },
}

/// As what a value is written and read by a library that has types.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Whatever the language makes of JSON of which it knows nothing.
    Any,
    /// A structure of the language's own.
    Device,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(crate) enum Command {
    /// Make a key of texts, and texts of that key.
    Key {
        segments: Vec<String>,
    },
    Put(Put),
    /// Read the text as a value of the language, and put that.
    PutTyped {
        key: String,
        json: String,
        kind: Kind,
    },
    /// Read the text as a value of the language, and say whether it is the one that is there.
    IsTyped {
        key: String,
        json: String,
        kind: Kind,
    },
    Get {
        key: String,
    },
    List {
        pattern: String,
    },
    /// Delete a key, or what matches a pattern.
    Delete {
        pattern: String,
        if_rev: Option<u64>,
    },
    Batch {
        operations: Vec<Operation>,
    },
    /// Take a key for as long as the party lives.
    Claim {
        key: String,
    },
    /// Let go of it.
    Release,
    /// Say that the party is there, for as long as it lives.
    Announce {
        key: String,
        json: String,
    },
    /// Subscribe, with cuts.
    Subscribe {
        pattern: String,
    },
    /// Wait for what is told up to the next cut.
    Told,
    /// Begin to mirror.
    Mirror {
        pattern: String,
    },
    /// Wait for the next state of the mirror.
    State,
}

/// What a library said. What a command has no use for stays empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Answer {
    /// The protocol's code for why it was refused.
    pub(crate) refused: Option<String>,
    /// Why it went wrong otherwise.
    pub(crate) failed: Option<String>,
    pub(crate) rev: Option<u64>,
    /// The operation of a batch that was refused.
    pub(crate) at: Option<u64>,
    pub(crate) is_unchanged: bool,
    /// How many were deleted.
    pub(crate) count: u64,
    pub(crate) key: Option<String>,
    pub(crate) segments: Vec<String>,
    /// Whether a value is as it should be; what it is instead.
    pub(crate) is_same: bool,
    pub(crate) instead: String,
    /// What was read; nothing for a key that is not there.
    pub(crate) entries: Vec<Entry>,
    /// What was told, or what is different in a mirror.
    pub(crate) changes: Vec<Change>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) value: Held,
    /// These three where an entry is read; a mirror does not have all of them.
    pub(crate) rev: Option<u64>,
    pub(crate) lifetime: Option<String>,
    pub(crate) ttl_ms: Option<u64>,
}

/// `put`, `delete` or `reset` of a subscription, `created`, `modified` or `deleted` of a mirror.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Change {
    pub(crate) kind: String,
    pub(crate) key: String,
    /// The value of a `put`. A mirror's are in its entries.
    pub(crate) value: Option<Held>,
}

/// One client. To drop it is to end it: a process is killed, and the library drops what it holds.
pub(crate) trait Party: Send {
    /// Carries a command out.
    fn ask(&mut self, command: &Command) -> Answer;
}

impl Held {
    pub(crate) fn json(text: impl Into<String>) -> Held {
        Held::Json(text.into())
    }
}

impl Put {
    pub(crate) fn new(key: impl Into<String>, value: Held) -> Put {
        Put {
            key: key.into(),
            value: Some(value),
            ..Put::default()
        }
    }
}

impl Answer {
    pub(crate) fn failed(why: impl ToString) -> Answer {
        Answer {
            failed: Some(why.to_string()),
            ..Answer::default()
        }
    }

    pub(crate) fn at_rev(rev: u64) -> Answer {
        Answer {
            rev: Some(rev),
            ..Answer::default()
        }
    }
}

/// One of [`NAMES`], which has asked for nothing yet; none where the machine lacks what it needs.
pub(crate) fn party(name: &str, door: &Door) -> Option<Box<dyn Party>> {
    let made: Result<Box<dyn Party>, String> = match name {
        "rust" => Ok(Box::new(Library::new(door))),
        "go" => Agent::go(door).map(|agent| Box::new(agent) as _),
        "python" => Agent::python(door).map(|agent| Box::new(agent) as _),
        _ => ByHand::new(door).map(|by_hand| Box::new(by_hand) as _),
    };
    made.map_err(|reason| skip(&format!("the part of {name}: {reason}")))
        .ok()
}

/// A path in this repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
