//! What a case is made of: plain data, so that a failing case shrinks and can be read.
//!
//! An act says what a person at a desk might do: send a request, let a turn go by, stop reading,
//! hang up. What depends on how things stand ("the right revision", "since the last sync") is named
//! here and looked up when the act is performed.

use nkv::keyspace::Class;
use proptest::collection::vec;
use proptest::prelude::*;

/// How many clients there are at a time.
pub(crate) const SEATS: usize = 3;

/// Keys that collide: nodes and their children, and a key that sorts between the two.
pub(crate) const KEYS: [&str; 10] = [
    "a", "a-b", "a.b", "a.b.c", "a.c", "b", "b.c", "b.c.d", "x.y.z", "é.%2E",
];

/// Patterns with a star first (they are [`STARRED`]), then plain ones.
pub(crate) const PATTERNS: [&str; 16] = [
    "*", "a.*", "*.b", "a.*.c", "*.*", "b.*", "*.c.*", "x.*.z", "m.*", "m.*.q", "a", "a.b", "b.c",
    "x", "m", "nobody",
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
    pub(crate) lifetime: Option<nkv::wire::Lifetime>,
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
    /// How often, of about 100, something becomes of storage. Where it does, what is kept is followed.
    pub(crate) faults: u32,
    pub(crate) acts: usize,
}

pub(crate) fn acts(taste: Taste) -> impl Strategy<Value = Vec<Act>> {
    vec(act(taste), 1..taste.acts)
}

fn act(taste: Taste) -> impl Strategy<Value = Act> {
    let seat = 0..SEATS;
    prop_oneof![
        60 => (seat.clone(), ask(taste)).prop_map(|(seat, ask)| Act::Send(seat, ask)),
        24 => prop_oneof![3 => Just(usize::MAX), 1 => 1..200_usize].prop_map(Act::Turn),
        8 => (seat.clone(), appetite()).prop_map(|(seat, bytes)| Act::Appetite(seat, bytes)),
        3 => seat.clone().prop_map(Act::Disconnect),
        1 => seat.prop_map(Act::End),
        4 => prop_oneof![Just(1_u64), Just(10), Just(25)].prop_map(Act::Pass),
        taste.faults => fault(),
    ]
}

fn fault() -> impl Strategy<Value = Act> {
    let class = || prop_oneof![2 => Just(Class::Durable), 1 => Just(Class::Boot)];
    prop_oneof![
        4 => class().prop_map(Act::Break),
        3 => class().prop_map(Act::Mend),
        1 => Just(Act::Restart),
        1 => Just(Act::Pass(4000)),
    ]
}

fn appetite() -> impl Strategy<Value = usize> {
    prop_oneof![
        Just(usize::MAX),
        Just(usize::MAX),
        Just(0),
        Just(1),
        10..300_usize,
        5_000..20_000_usize
    ]
}

fn ask(taste: Taste) -> impl Strategy<Value = Ask> {
    let key = key(taste);
    prop_oneof![
        24 => put(taste).prop_map(Ask::Put),
        2 => key.clone().prop_map(Ask::Get),
        4 => list(taste),
        8 => (key, condition()).prop_map(|(key, condition)| Ask::Delete(key, condition)),
        3 => (0..STARRED).prop_map(Ask::DeleteAll),
        8 => vec(item(taste), 0..6).prop_map(Ask::Batch),
        14 => subscribe(),
        2 => (0..NAMES.len()).prop_map(Ask::Unsubscribe),
        1 => Just(Ask::Hello),
        1 => Just(Ask::Stats),
        1 => Just(Ask::Garbage),
        taste.burns.max(1) => (0..8_usize).prop_map(move |left| match taste.burns {
            0 => Ask::Hello,
            _ => Ask::Burn(left),
        }),
    ]
}

fn key(taste: Taste) -> BoxedStrategy<usize> {
    if taste.more_keys == 0 {
        (0..KEYS.len()).boxed()
    } else {
        (0..KEYS.len() + taste.more_keys).boxed()
    }
}

fn list(taste: Taste) -> impl Strategy<Value = Ask> {
    let limit = prop_oneof![Just(None), (1..5_u64).prop_map(Some)];
    let after = prop::option::of(key(taste));
    (0..STARRED, limit, after, any::<bool>()).prop_map(|(pattern, limit, after, keys_only)| {
        Ask::List {
            pattern,
            limit,
            after,
            keys_only,
        }
    })
}

fn item(taste: Taste) -> impl Strategy<Value = Item> {
    let key = key(taste);
    prop_oneof![
        8 => put(taste).prop_map(Item::Put),
        3 => (key.clone(), condition()).prop_map(|(key, condition)| Item::Delete(key, condition)),
        2 => (0..STARRED).prop_map(Item::DeleteAll),
        1 => (key, condition()).prop_map(|(key, condition)| Item::Check(key, condition)),
    ]
}

fn put(taste: Taste) -> impl Strategy<Value = Put> {
    use nkv::wire::Lifetime;
    let lifetime = prop_oneof![
        3 => Just(None),
        1 => Just(Some(Lifetime::Durable)),
        1 => Just(Some(Lifetime::Boot)),
        3 => Just(Some(Lifetime::Session)),
    ];
    let ttl = prop_oneof![4 => Just(None), 1 => (1..40_u64).prop_map(Some)];
    let if_changed = prop::bool::weighted(0.3);
    (key(taste), value(), condition(), if_changed, lifetime, ttl).prop_map(
        |(key, value, condition, if_changed, lifetime, ttl)| Put {
            key,
            value,
            condition,
            if_changed,
            lifetime,
            ttl,
        },
    )
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        6 => (0..3_u8).prop_map(Value::Number),
        1 => (0..JSON.len()).prop_map(Value::Json),
        2 => (0..4_u8).prop_map(Value::Big),
        1 => (0..3_u8).prop_map(Value::Bytes),
    ]
}

fn condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        12 => Just(Condition::None),
        2 => Just(Condition::Right),
        1 => Just(Condition::Absent),
        1 => (1..3_u64).prop_map(Condition::Off),
    ]
}

fn subscribe() -> impl Strategy<Value = Ask> {
    let since = prop_oneof![
        8 => Just(Since::None),
        4 => Just(Since::LastSync),
        2 => (0..12_u64).prop_map(Since::Ago),
        1 => (1..3_u64).prop_map(Since::Ahead),
        1 => Just(Since::OtherEpoch),
    ];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (0..NAMES.len(), 0..PATTERNS.len(), flags, since).prop_map(|(name, pattern, flags, since)| {
        let (exact, initial, cuts) = flags;
        Ask::Subscribe {
            name,
            pattern,
            exact,
            initial,
            cuts,
            since,
        }
    })
}
