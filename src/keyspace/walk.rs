//! Walks over the keys that a pattern may match, in byte order.
//!
//! A pattern that begins with segments without a star bounds its walk: what it matches stands together.
//! Behind the first star, what matches is scattered, and between two matches may stand very many
//! keys. There the walk **leaps**: from a key that doesn't match it knows the least text that the next
//! match could have ([`Pattern::skip`]), and looks for that. A leap goes down the whole map and costs
//! several steps, so some steps come first: often the next match is near.
//!
//! A walk has no memory that counts: from whichever key it goes on, it finds the same matches. So it can
//! be ended anywhere.

use std::ops::Bound;

use crate::key::{Key, Pattern};

use super::order::Places;
use super::{Entry, Keyspace, Place};

/// So many keys are stepped over before a leap.
const STEPS_BEFORE_LEAP: u32 = 2;

/// One walk, at some key.
pub(super) struct Walk<'a> {
    keyspace: &'a Keyspace,
    pattern: &'a Pattern,
    /// The entry above all others, which keys that don't belong here may part from them.
    node: Option<Place>,
    /// What all further keys begin with.
    below: String,
    places: Option<Places<'a>>,
    /// No key before this one matches. Empty where that isn't known.
    target: String,
    /// How many keys before `target` are still stepped over.
    steps: u32,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        keyspace: &'a Keyspace,
        pattern: &'a Pattern,
        after: Option<&str>,
    ) -> Walk<'a> {
        let literal = pattern.literal();
        // Keys below `a` begin with `a.`, but between `a` and `a.` other keys may stand (`a-b`).
        let node = after
            .is_none_or(|after| after < literal)
            .then(|| keyspace.lookup.find(literal, &keyspace.slots))
            .flatten();
        let below = if literal.is_empty() {
            String::new()
        } else {
            format!("{literal}.")
        };
        let from = match after {
            Some(after) if after >= below.as_str() => Bound::Excluded(after),
            _ => Bound::Included(below.as_str()),
        };
        let below_wanted = pattern.is_subtree() || pattern.has_star();
        let places = below_wanted.then(|| keyspace.order.from(from, &keyspace.slots));
        Walk {
            keyspace,
            pattern,
            node,
            below,
            places,
            target: String::new(),
            steps: 0,
        }
    }

    /// The next place below the literal.
    fn step(&mut self) -> Option<Place> {
        let places = self.places.as_mut()?;
        let slots = &self.keyspace.slots;
        if !self.target.is_empty() && self.steps == 0 {
            let target = Bound::Included(self.target.as_str());
            *places = self.keyspace.order.from(target, slots);
            self.target.clear();
        }
        let is_below = |place: &Place| {
            let key = slots[place.slot()].key.as_str();
            self.below.is_empty() || key.starts_with(&self.below)
        };
        places.next().filter(is_below)
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = (&'a Key, Option<Entry<'a>>);

    fn next(&mut self) -> Option<Self::Item> {
        let node = self.node.take();
        let Some(place) = node.or_else(|| self.step()) else {
            self.places = None;
            return None;
        };
        let key = &self.keyspace.slots[place.slot()].key;
        // To compare with an empty text takes longer than with another, on some machines much longer.
        if !self.target.is_empty() && key.as_str() < self.target.as_str() {
            self.steps -= 1;
            return Some((key, None));
        }
        self.target.clear();
        if self.pattern.matches(key.borrowed()) {
            return Some((key, self.keyspace.entry_at(place.slot())));
        }
        if self.pattern.skip(key.borrowed(), &mut self.target) {
            self.steps = STEPS_BEFORE_LEAP;
        }
        Some((key, None))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::key::KeyRef;
    use crate::keyspace::Terms;
    use crate::wire::Payload;

    use super::*;

    fn keyspace_of<'k>(keys: impl IntoIterator<Item = &'k str>) -> Keyspace {
        let mut keyspace = Keyspace::new(100);
        for key in keys {
            let key = KeyRef::new(key).unwrap();
            keyspace.put(key, &Payload::Json("1".into()), Terms::default());
        }
        keyspace
    }

    #[test]
    fn what_can_not_match_is_leapt_over() {
        let keys: Vec<String> = (0..10_000)
            .map(|number| format!("top{}.item{number}", number % 10))
            .collect();
        let keyspace = keyspace_of(keys.iter().map(String::as_str));
        let check = |pattern: &str, matches: usize, steps_max: usize| {
            let pattern = Pattern::new(pattern).unwrap();
            let entries: Vec<bool> = keyspace
                .walk(&pattern, None)
                .map(|(_, entry)| entry.is_some())
                .collect();
            let found = entries.iter().filter(|found| **found).count();
            assert_eq!(found, matches, "{pattern}");
            assert!(
                entries.len() <= steps_max,
                "{pattern}: {} steps",
                entries.len()
            );
        };
        check("*.item5", 1, 10 * 2 * (2 + STEPS_BEFORE_LEAP as usize));
        check("*.item5.*", 1, 10 * 2 * (2 + STEPS_BEFORE_LEAP as usize));
        check("*.none.*.x", 0, 10 * 2 * (2 + STEPS_BEFORE_LEAP as usize));
        check("top3.*", 1_000, 1_000);
        check("*.*", 10_000, 10_000);
    }

    /// Segments that sort before and behind a dot, and those that begin with others.
    fn segment() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![
            "a", "a-", "a-b", "a/", "a/b", "a0", "b", "b-a", "c", "!", "$s", "~", "é",
        ])
    }

    fn text(segments: Vec<&'static str>) -> String {
        segments.join(".")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Also where each walk is ended after so many steps and goes on from there.
        #[test]
        fn walks_find_what_matches(
            keys in prop::collection::btree_set(prop::collection::vec(segment(), 1..5).prop_map(text), 0..60),
            deleted in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
            wanted in prop::collection::vec(prop_oneof![Just("*"), segment()], 1..5),
            with_descendants: bool,
            steps_at_once in 1..12_usize,
        ) {
            let mut pattern = Pattern::new(&text(wanted)).unwrap();
            if with_descendants {
                pattern = pattern.with_descendants();
            }
            let mut keyspace = keyspace_of(keys.iter().map(String::as_str));
            let mut expected: Vec<&str> = keys.iter().map(String::as_str).collect();
            for index in deleted.iter().filter(|_| !keys.is_empty()) {
                let key = keys.iter().nth(index.index(keys.len())).unwrap();
                keyspace.delete(KeyRef::new(key).unwrap());
                expected.retain(|other| other != key);
            }
            expected.retain(|key| pattern.matches(KeyRef::new(key).unwrap()));

            let mut found = Vec::new();
            let mut after: Option<Key> = None;
            loop {
                let mut steps = 0;
                let from = after.take();
                let walk = keyspace.walk(&pattern, from.as_ref().map(Key::as_str));
                for (key, entry) in walk.take(steps_at_once) {
                    prop_assert!(from.as_ref().is_none_or(|from| from < key), "it goes forward");
                    found.extend(entry.map(|entry| entry.key.to_string()));
                    after = Some(key.clone());
                    steps += 1;
                }
                if steps < steps_at_once {
                    break;
                }
            }
            prop_assert_eq!(found, expected);
        }
    }
}
