//! Who answers for what is stored: each entry is charged to the user who put it last.

use std::collections::BTreeMap;
use std::fmt;

use super::Slot;

/// Whom something is charged to: a user of this machine, or all who come over TCP together.
///
/// Four bytes, for every entry has one: the number that is no user's, (uid_t) -1, stands for TCP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Account(u32);

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
    /// The user whom entries belong to that nobody is known to have put. The default.
    pub const ROOT: Account = Account(0);
    /// Everybody who comes over TCP.
    pub const TCP: Account = Account(u32::MAX);

    /// A user's account, by the user's number.
    #[must_use]
    pub fn user(uid: u32) -> Account {
        Account(uid)
    }

    /// The user's number; none for TCP.
    #[must_use]
    pub fn uid(self) -> Option<u32> {
        (self != Account::TCP).then_some(self.0)
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.uid() {
            Some(uid) => write!(f, "user {uid}"),
            None => f.write_str("TCP"),
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
