//! The entries that a link announces, apart from the connections on which it does.

use std::collections::BTreeMap;

use super::{Error, Lifetime, Put, Value};

/// Entries to be put on each new connection, by number.
#[derive(Clone, Debug, Default)]
pub(super) struct Announced {
    puts: BTreeMap<u64, Put>,
    next_number: u64,
}

/// What announces a value. Where the very entry is there still, after a restart of the daemon, it becomes
/// this connection's, and nobody is told of a change that is none.
pub(super) fn session_put(key: &str, value: Value) -> Result<Put, Error> {
    let put = Put::new(key, value)?.lifetime(Lifetime::Session);
    Ok(put.if_changed())
}

impl Announced {
    pub(super) fn add(&mut self, put: Put) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.puts.insert(number, put);
        number
    }

    /// Gives an entry that is still announced another value.
    pub(super) fn set(&mut self, number: u64, put: Put) {
        if let Some(held) = self.puts.get_mut(&number) {
            *held = put;
        }
    }

    /// Takes an entry back, and gives its key where nothing else announces that.
    pub(super) fn remove(&mut self, number: u64) -> Option<String> {
        let key = self.puts.remove(&number)?.key().to_owned();
        self.puts().all(|put| put.key() != key).then_some(key)
    }

    #[cfg(feature = "async")]
    pub(super) fn is_empty(&self) -> bool {
        self.puts.is_empty()
    }

    pub(super) fn puts(&self) -> impl Iterator<Item = &Put> {
        self.puts.values()
    }

    /// The keys that were announced then and are not now: to be deleted on a connection that was made
    /// meanwhile.
    pub(super) fn gone_since<'a>(
        &'a self,
        earlier: &'a Announced,
    ) -> impl Iterator<Item = &'a str> {
        let keys = earlier.puts().map(Put::key);
        keys.filter(|key| self.puts().all(|put| put.key() != *key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_is_found() {
        let mut announced = Announced::default();
        let put = |key: &str| session_put(key, Value::from_bytes("")).unwrap();
        let numbers = ["a", "b", "b", "c"].map(|key| announced.add(put(key)));
        let earlier = announced.clone();
        assert_eq!(announced.remove(numbers[0]).as_deref(), Some("a"));
        assert_eq!(announced.remove(numbers[1]), None);
        assert_eq!(announced.remove(numbers[1]), None);
        announced.add(put("d"));
        announced.set(numbers[0], put("a"));
        assert_eq!(announced.gone_since(&earlier).collect::<Vec<_>>(), ["a"]);
        assert_eq!(announced.puts().count(), 3);
    }
}
