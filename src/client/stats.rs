//! What the daemon tells about itself. Newer daemons may tell more, so nothing here is a closed list.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value as Json};

use super::Error;
use super::response::{self, Answered};

/// The daemon's counters, by the names that the protocol gives them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Every counter.
    pub counters: BTreeMap<String, u64>,
    /// The name of the unbroken history that revisions belong to.
    pub epoch: String,
    /// The daemon's version.
    pub version: String,
    /// What each user has of it; empty where the daemon does not tell.
    pub users: Vec<UserUse>,
}

/// How much of the daemon a user takes. What the daemon does not tell is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct UserUse {
    /// The user, by number; `None` for all who come over TCP together.
    pub uid: Option<u32>,
    /// Connections.
    pub connections: u64,
    /// Subscriptions of all these connections.
    pub subscriptions: u64,
    /// Keys that this user was the last to put.
    pub keys: u64,
    /// Bytes of these keys and their values.
    pub bytes: u64,
    /// Bytes that the daemon keeps for these connections, beyond a little for each: requests that are not
    /// complete, and answers that are not read.
    pub buffered: u64,
}

/// The answer to `stats` and to `clients`: everything that stands in the line.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct Fields(Map<String, Json>);

pub(super) fn stats(answer: Answered) -> Result<Stats, Error> {
    Stats::received(response::whole(answer)?)
}

/// The objects of an answer to `clients`.
pub(super) fn clients(answer: Answered) -> Result<Vec<Map<String, Json>>, Error> {
    let fields: Fields = response::whole(answer)?;
    fields
        .objects("clients")
        .ok_or_else(|| Error::Protocol("an answer without `clients`".into()))
}

impl Stats {
    /// A counter by its name.
    #[must_use]
    pub fn counter(&self, name: &str) -> Option<u64> {
        self.counters.get(name).copied()
    }

    fn received(Fields(mut fields): Fields) -> Result<Stats, Error> {
        fields.remove("id");
        let users = fields.remove("users").map(serde_json::from_value);
        let users = users.transpose();
        let users = users.map_err(|error| Error::Protocol(format!("`users`: {error}")))?;
        let mut text = |name| match fields.remove(name) {
            Some(Json::String(text)) => text,
            _ => String::new(),
        };
        let (epoch, version) = (text("epoch"), text("version"));
        let counters = fields.into_iter();
        let counters = counters.filter_map(|(name, value)| Some((name, value.as_u64()?)));
        Ok(Stats {
            counters: counters.collect(),
            epoch,
            version,
            users: users.unwrap_or_default(),
        })
    }
}

impl Fields {
    /// The objects of the array with this name.
    fn objects(mut self, name: &str) -> Option<Vec<Map<String, Json>>> {
        let Some(Json::Array(elements)) = self.0.remove(name) else {
            return None;
        };
        let objects = elements.into_iter().map(|element| match element {
            Json::Object(object) => Some(object),
            _ => None,
        });
        objects.collect()
    }
}
