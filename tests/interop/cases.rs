//! What everyone puts and is asked: `cases.json`, one list for all clients.
//!
//! Values stand there as texts, so that no reader on the way rounds or sorts what is in them.

use serde::Deserialize;

use crate::party::{Answer, Command, Held};

#[derive(Deserialize)]
pub(crate) struct Cases {
    pub(crate) values: Vec<ValueCase>,
    pub(crate) keys: Vec<KeyCase>,
    pub(crate) devices: Vec<Device>,
    pub(crate) lives: Vec<Life>,
    pub(crate) refusals: Vec<Refusal>,
}

/// A value that is to come back as it was put.
#[derive(Clone, Deserialize)]
pub(crate) struct ValueCase {
    pub(crate) name: String,
    pub(crate) value: Held,
    /// Whether it survives as a value of each language too. What does not is beyond what one of
    /// them keeps apart: 1.0 and 1.00, numbers of more than 64 bits, half of a surrogate pair.
    #[serde(default)]
    pub(crate) typed: bool,
}

/// Texts, and the key that everyone makes of them.
#[derive(Deserialize)]
pub(crate) struct KeyCase {
    pub(crate) segments: Vec<String>,
    pub(crate) key: String,
}

/// A value for which each language has a type of its own.
#[derive(Deserialize)]
pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) json: String,
}

/// How long an entry is to live.
#[derive(Deserialize)]
pub(crate) struct Life {
    pub(crate) name: String,
    pub(crate) lifetime: String,
    pub(crate) ttl_ms: Option<u64>,
}

/// Something that everyone is refused, and how.
#[derive(Deserialize)]
pub(crate) struct Refusal {
    pub(crate) name: String,
    pub(crate) command: Command,
    pub(crate) answer: Answer,
}

impl Cases {
    /// The list, and some that are too long to stand in it.
    pub(crate) fn read() -> Cases {
        let mut cases: Cases = serde_json::from_str(include_str!("cases.json")).unwrap();
        let text = "🌡 and so on, ".repeat(5_000);
        cases.values.push(ValueCase {
            name: "a long text".into(),
            value: Held::Json(format!("\"{text}\"")),
            typed: true,
        });
        cases.values.push(ValueCase {
            name: "many bytes".into(),
            value: Held::Base64("AP8Q".repeat(20_000)),
            typed: false,
        });
        cases
    }
}
