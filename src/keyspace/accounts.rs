//! Who answers for what is stored: each entry is charged to the user who put it last.

use std::collections::BTreeMap;
use std::fmt;

use super::Slot;

/// Whom something is charged to: a user of this machine, or all who come over TCP together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Account {
    /// A user, by number.
    User(u32),
    /// Everybody who comes over TCP.
    Tcp,
}

/// How much of the keyspace is charged to an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Keys.
    pub keys: u64,
    /// Bytes of these keys and their values.
    pub bytes: u64,
}

/// What is charged to each account.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Charges(BTreeMap<Account, Held>);

/// So many accounts that hold nothing any more are remembered: most of them will put again.
const EMPTY_KEPT: usize = 64;

impl Account {
    /// The user whom entries belong to that nobody is known to have put.
    pub const ROOT: Account = Account::User(0);
}

impl Default for Account {
    fn default() -> Account {
        Account::ROOT
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Account::User(uid) => write!(f, "user {uid}"),
            Account::Tcp => f.write_str("TCP"),
        }
    }
}

impl std::ops::AddAssign for Held {
    fn add_assign(&mut self, more: Held) {
        self.keys += more.keys;
        self.bytes += more.bytes;
    }
}

impl Charges {
    pub(super) fn of(&self, account: Account) -> Held {
        self.0.get(&account).copied().unwrap_or_default()
    }

    /// Those who hold something, in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Account, Held)> {
        let all = self.0.iter().map(|(account, held)| (*account, *held));
        all.filter(|(_, held)| held.keys > 0)
    }

    pub(super) fn join(&mut self, slot: &Slot) {
        if let Some(bytes) = slot.live_bytes() {
            let held = self.0.entry(slot.account).or_default();
            held.keys += 1;
            held.bytes += bytes;
        }
    }

    pub(super) fn leave(&mut self, slot: &Slot) {
        if let Some(bytes) = slot.live_bytes() {
            let held = self.0.entry(slot.account).or_default();
            held.keys -= 1;
            held.bytes -= bytes;
            if held.keys == 0 && self.0.len() > EMPTY_KEPT {
                self.0.remove(&slot.account);
            }
        }
    }

    pub(super) fn of_all<'a>(slots: impl Iterator<Item = &'a Slot>) -> Charges {
        let mut charges = Charges::default();
        slots.for_each(|slot| charges.join(slot));
        charges
    }
}
