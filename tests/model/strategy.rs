//! How often which act stands in a case of the proptests.

use nkv::access::Action;
use nkv::keyspace::Class;
use proptest::collection::vec;
use proptest::prelude::*;

use super::acts::{
    Act, Ask, Condition, Item, JSON, KEYS, LIFETIMES, NAMES, PATTERNS, Put, RESOURCES, SEATS,
    STARRED, Since, Taste, Value, WHO,
};
use super::rights::{Line, Rights};

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
        taste.rules => rules().prop_map(Act::Rules),
    ]
}

fn rules() -> impl Strategy<Value = Option<Rights>> {
    let lines = vec(line(), 1..5).prop_map(|lines| Some(Rights::new(lines)));
    prop_oneof![6 => lines, 1 => Just(None)]
}

fn line() -> impl Strategy<Value = Line> {
    let pattern = || (0..PATTERNS.len()).prop_map(|pattern| PATTERNS[pattern].to_owned());
    let actions = vec(prop::sample::select(&Action::ALL[..]), 1..3);
    let rule = (
        any::<bool>(),
        prop::sample::select(&WHO[..]),
        actions,
        pattern(),
    );
    let rule = rule.prop_map(|(is_allowed, who, actions, pattern)| Line::Rule {
        is_allowed,
        who,
        actions,
        pattern,
    });
    let bound = (pattern(), prop::sample::select(&LIFETIMES[..]))
        .prop_map(|(pattern, lifetime)| Line::Lifetime { pattern, lifetime });
    let who = prop::sample::select(&WHO[..]);
    let amount = prop_oneof![4 => 0..5_u64, 1 => 1000..9000_u64];
    let quota = (who, prop::sample::select(&RESOURCES[..]), amount);
    let quota = quota.prop_map(|(who, resource, amount)| Line::Quota {
        who,
        resource,
        amount,
    });
    prop_oneof![5 => rule, 1 => bound, 1 => quota]
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
        3 => (0..KEYS.len()).prop_map(Ask::Claim),
        2 => (0..KEYS.len()).prop_map(Ask::Release),
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
