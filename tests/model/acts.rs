//! What a case is made of: plain data, so that a failing case shrinks and can be read.
//!
//! An act says what a person at a desk might do: send a request, let a turn go by, stop reading,
//! hang up. What depends on how things stand ("the right revision", "since the last sync") is named
//! here and looked up when the act is performed.

use nkv::access::Resource;
use nkv::keyspace::Class;
use nkv::wire::Lifetime;

use super::rights::{Rights, Who};

/// How many clients there are at a time.
pub(crate) const SEATS: usize = 3;

/// Keys that collide: nodes and their children, and a key that sorts between the two.
pub(crate) const KEYS: [&str; 10] = [
    "a", "a-b", "a.b", "a.b.c", "a.c", "b", "b.c", "b.c.d", "x.y.z", "é.%2E",
];

/// Patterns with a star first (they are [`STARRED`]), then plain ones.
pub(crate) const PATTERNS: [&str; 17] = [
    "*",
    "a.*",
    "*.b",
    "a.*.c",
    "*.*",
    "b.*",
    "*.c.*",
    "x.*.z",
    "m.*",
    "m.*.q",
    "a",
    "a.b",
    "b.c",
    "x",
    "m",
    "nobody",
    "$claims.*",
];
pub(crate) const STARRED: usize = 10;

/// Names of subscriptions.
pub(crate) const NAMES: [&str; 4] = ["\"s0\"", "\"s1\"", "\"s2\"", "7"];

/// JSON values that come back as they were sent only if nobody reads them.
pub(crate) const JSON: [&str; 7] = [
    "null",
    "1.0",
    "1e400",
    "-0",
    "\"\\u0061\"",
    "{\"a\": [1,  2]}",
    "\"ü\"",
];

/// Whom a rule is about.
pub(crate) const WHO: [Who; 6] = [
    Who::Anyone,
    Who::User(1000),
    Who::User(1001),
    Who::Group(50),
    Who::Group(60),
    Who::Tcp,
];

/// What a user may have a quota of here. Connections and memory are bounded by other means.
pub(crate) const RESOURCES: [Resource; 3] =
    [Resource::Keys, Resource::Bytes, Resource::Subscriptions];

pub(crate) const LIFETIMES: [Lifetime; 3] = [Lifetime::Session, Lifetime::Boot, Lifetime::Durable];

#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// The client of this seat sends a request; it connects first where it is not connected.
    Send(usize, Ask),
    /// A turn, in which a read gives at most so many bytes.
    Turn(usize),
    /// How many bytes the client takes a turn from now on.
    Appetite(usize, usize),
    /// The client hangs up.
    Disconnect(usize),
    /// The client half-closes, with a last request that has no line end.
    End(usize),
    /// So many milliseconds go by.
    Pass(u64),
    /// Nothing can be written to this place from now on.
    Break(Class),
    /// It can be written to again.
    Mend(Class),
    /// The daemon is gone, and another begins with what is kept.
    Restart,
    /// The rules are read again; nothing where there are none any more.
    Rules(Option<Rights>),
}

#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Put(Put),
    Get(usize),
    List {
        pattern: usize,
        limit: Option<u64>,
        after: Option<usize>,
        keys_only: bool,
    },
    Delete(usize, Condition),
    DeleteAll(usize),
    Batch(Vec<Item>),
    Subscribe {
        name: usize,
        pattern: usize,
        exact: bool,
        initial: bool,
        cuts: bool,
        since: Since,
    },
    Unsubscribe(usize),
    Claim(usize),
    Release(usize),
    Hello,
    Stats,
    Garbage,
    /// Takes nearly all steps of the turn, so that what follows in it is cut short after so many.
    Burn(usize),
}

#[derive(Clone, Debug)]
pub(crate) enum Item {
    Put(Put),
    Delete(usize, Condition),
    DeleteAll(usize),
    Check(usize, Condition),
}

#[derive(Clone, Debug)]
pub(crate) struct Put {
    pub(crate) key: usize,
    pub(crate) value: Value,
    pub(crate) condition: Condition,
    pub(crate) if_changed: bool,
    pub(crate) lifetime: Option<Lifetime>,
    pub(crate) ttl: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Value {
    Number(u8),
    Json(usize),
    /// Some kilobytes, so that a few of them fill what is made ahead for a subscriber.
    Big(u8),
    Bytes(u8),
}

/// An `if_rev`, against how things stand when the request is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Condition {
    None,
    Right,
    Absent,
    Off(u64),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Since {
    None,
    /// The last `sync` that this seat saw of a subscription of that name.
    LastSync,
    /// So many revisions ago.
    Ago(u64),
    Ahead(u64),
    OtherEpoch,
}

/// Which acts a kind of case prefers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taste {
    /// Keys are chosen among [`KEYS`] and so many more.
    pub(crate) more_keys: usize,
    /// How often, of about 60, all steps are taken.
    pub(crate) burns: u32,
    /// How often, of about 100, the rules change.
    pub(crate) rules: u32,
    /// How often, of about 100, something becomes of storage. Where it does, what is kept is followed.
    pub(crate) faults: u32,
    pub(crate) acts: usize,
}
