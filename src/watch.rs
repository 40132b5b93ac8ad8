//! Whom a change concerns: a trie over the segments of the patterns that are subscribed to.
//!
//! Each level of the trie is one segment, a literal or a star. Walking a key's segments down the
//! trie meets exactly the subscriptions that cover it, and costs as many steps as there are distinct
//! patterns on the way, however many subscriptions share them or stand elsewhere.
//!
//! A subscription stands at the node of its pattern's last required segment: under `below` where it
//! covers that node and everything under it, under `at` where it covers the node alone. Nothing is
//! decided here but whom to mark; what they are told is made when they can read it.
//!
//! Whoever is marked stays so until the turn ends, since nobody is told anything before. So where very
//! many stand at one place they are all met once a turn, and how often they would have been met again is
//! counted for all of them together: a change costs the same however many others want to hear of it.

use std::collections::{BTreeMap, BTreeSet};

use slab::Slab;

use crate::key::{KeyRef, Pattern};

/// A subscription's place: which session, and which of its subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Watcher {
    /// The session's number.
    pub session: usize,
    /// The subscription's number within it.
    pub subscription: usize,
}

/// The trie.
#[derive(Debug)]
pub struct Watch {
    nodes: Slab<Node>,
    root: usize,
    /// The number of this turn.
    turn: u64,
    /// The places of crowds that were to be met again in this turn, and whether it is the one `below`.
    repeated: Vec<(usize, bool)>,
}

#[derive(Debug, Default)]
struct Node {
    literals: BTreeMap<Box<str>, usize>,
    star: Option<usize>,
    at: Watchers,
    below: Watchers,
}

/// Those who stand at one place.
#[derive(Debug, Default)]
struct Watchers {
    /// A set, so that one of very many on the same pattern leaves as fast as one of few.
    all: BTreeSet<Watcher>,
    /// The last turn in which they were met.
    met: u64,
    /// How often they were to be met again since.
    repeats: u64,
}

/// More than so many at one place are a crowd.
const CROWD: usize = 8;

impl Default for Watch {
    fn default() -> Watch {
        let mut nodes = Slab::new();
        let root = nodes.insert(Node::default());
        Watch {
            nodes,
            root,
            turn: 1,
            repeated: Vec::new(),
        }
    }
}

impl Watch {
    /// Adds a subscription to the keys that the pattern matches.
    pub fn add(&mut self, pattern: &Pattern, watcher: Watcher) {
        let mut node = self.root;
        for segment in pattern.required_segments() {
            let known = match segment {
                "*" => self.nodes[node].star,
                literal => self.nodes[node].literals.get(literal).copied(),
            };
            node = known.unwrap_or_else(|| {
                let child = self.nodes.insert(Node::default());
                match segment {
                    "*" => self.nodes[node].star = Some(child),
                    literal => {
                        self.nodes[node].literals.insert(Box::from(literal), child);
                    }
                }
                child
            });
        }
        self.nodes[node]
            .watchers(pattern.is_subtree())
            .all
            .insert(watcher);
    }

    /// Removes a subscription that was added with this pattern, and the nodes that stood only for it.
    pub fn remove(&mut self, pattern: &Pattern, watcher: Watcher) {
        let mut path = vec![self.root];
        let segments: Vec<&str> = pattern.required_segments().collect();
        for segment in &segments {
            let node = &self.nodes[path[path.len() - 1]];
            let child = match *segment {
                "*" => node.star,
                literal => node.literals.get(literal).copied(),
            };
            path.push(child.expect("the pattern of a watcher that was added has its nodes"));
        }
        let last = path[path.len() - 1];
        let removed = self.nodes[last]
            .watchers(pattern.is_subtree())
            .all
            .remove(&watcher);
        assert!(removed, "a watcher is removed once");
        for (segment, step) in segments.iter().zip(path.windows(2)).rev() {
            let (parent, child) = (step[0], step[1]);
            if !self.nodes[child].is_empty() {
                break;
            }
            self.nodes.remove(child);
            match *segment {
                "*" => self.nodes[parent].star = None,
                literal => {
                    self.nodes[parent].literals.remove(literal);
                }
            }
        }
    }

    /// Calls `found` for each subscription that covers the key, and returns how many places it has looked
    /// at for that. Of a crowd it is called once a turn.
    pub fn visit(&mut self, key: KeyRef<'_>, mut found: impl FnMut(Watcher)) -> usize {
        let root = &self.nodes[self.root];
        if root.is_empty() {
            return 0;
        }
        let star = root.star;
        let mut places = 0;
        let (first, rest) = split(key.as_str());
        if let Some(&child) = root.literals.get(first) {
            places += self.visit_below(child, rest, &mut found);
        }
        // A star never stands for a first segment that belongs to the daemon.
        if !key.is_reserved() {
            self.meet(self.root, true, &mut found);
            if let Some(child) = star {
                places += self.visit_below(child, rest, &mut found);
            }
        }
        places
    }

    /// Recurses once a segment; a key has at most half as many segments as bytes.
    fn visit_below(
        &mut self,
        node: usize,
        rest: Option<&str>,
        found: &mut impl FnMut(Watcher),
    ) -> usize {
        self.meet(node, true, found);
        let Some(rest) = rest else {
            self.meet(node, false, found);
            return 1;
        };
        let mut places = 1;
        let (segment, rest) = split(rest);
        let node = &self.nodes[node];
        let children = [node.literals.get(segment).copied(), node.star];
        for child in children.into_iter().flatten() {
            places += self.visit_below(child, rest, found);
        }
        places
    }

    /// Calls `found` for all who stand at a place, unless they are a crowd that was met in this turn.
    fn meet(&mut self, node: usize, below: bool, found: &mut impl FnMut(Watcher)) {
        let watchers = self.nodes[node].watchers(below);
        if watchers.all.len() > CROWD {
            if watchers.met == self.turn {
                if watchers.repeats == 0 {
                    self.repeated.push((node, below));
                }
                watchers.repeats += 1;
                return;
            }
            watchers.met = self.turn;
        }
        watchers.all.iter().copied().for_each(found);
    }

    /// Ends a turn: calls `found` for each subscription of a crowd, with the number of times that it was
    /// to be met again.
    pub fn end_turn(&mut self, mut found: impl FnMut(Watcher, u64)) {
        self.turn += 1;
        for (node, below) in self.repeated.drain(..) {
            // It may have gone meanwhile, and another one have come in its place.
            let Some(node) = self.nodes.get_mut(node) else {
                continue;
            };
            let watchers = node.watchers(below);
            let repeats = std::mem::take(&mut watchers.repeats);
            if repeats > 0 {
                watchers
                    .all
                    .iter()
                    .for_each(|&watcher| found(watcher, repeats));
            }
        }
    }
}

impl Node {
    fn watchers(&mut self, subtree: bool) -> &mut Watchers {
        if subtree {
            &mut self.below
        } else {
            &mut self.at
        }
    }

    fn is_empty(&self) -> bool {
        self.literals.is_empty()
            && self.star.is_none()
            && self.at.all.is_empty()
            && self.below.all.is_empty()
    }
}

fn split(text: &str) -> (&str, Option<&str>) {
    match text.split_once('.') {
        Some((segment, rest)) => (segment, Some(rest)),
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A crowd is met once a turn, and the rest is counted.
    #[test]
    fn a_crowd_is_met_once_a_turn() {
        let mut watch = Watch::default();
        let pattern = |text: &str| Pattern::new(text).unwrap().with_descendants();
        let watcher = |session: usize| Watcher {
            session,
            subscription: 0,
        };
        for session in 0..CROWD + 1 {
            watch.add(&pattern("a"), watcher(session));
        }
        watch.add(&pattern("*"), watcher(100));
        for _ in 0..2 {
            for found in [CROWD + 2, 1, 1] {
                let mut count = 0;
                watch.visit(KeyRef::new("a.b").unwrap(), |_| count += 1);
                assert_eq!(count, found);
            }
            let mut again = Vec::new();
            watch.end_turn(|watcher, repeats| again.push((watcher.session, repeats)));
            let expected: Vec<_> = (0..CROWD + 1).map(|session| (session, 2)).collect();
            assert_eq!(again, expected);
        }
        // Whoever has gone is not told.
        for _ in 0..2 {
            watch.visit(KeyRef::new("a").unwrap(), |_| {});
        }
        for session in 0..CROWD + 1 {
            watch.remove(&pattern("a"), watcher(session));
        }
        watch.add(&pattern("b"), watcher(7));
        watch.end_turn(|watcher, _| panic!("{watcher:?}"));
    }

    /// Every pattern against every key, by the trie and by the pattern itself.
    #[test]
    fn the_trie_agrees_with_the_patterns() {
        let patterns = [
            "a", "a.*", "*", "*.b", "a.*.c", "*.*", "*.b.*", "a.b.c", "$s", "$s.*", "a.*.*.d",
            "b.*.c.*",
        ];
        let keys = [
            "a",
            "b",
            "a.b",
            "a.b.c",
            "a.x.c",
            "a.b.c.d",
            "b.a.c.d.e",
            "$s",
            "$s.b",
            "ab",
        ];
        let mut watch = Watch::default();
        let covering = |text: &str, exact: bool| {
            let pattern = Pattern::new(text).unwrap();
            if exact {
                pattern
            } else {
                pattern.with_descendants()
            }
        };
        let watcher = |number: usize, exact: bool| Watcher {
            session: number,
            subscription: usize::from(exact),
        };
        for exact in [false, true] {
            for (number, text) in patterns.iter().enumerate() {
                watch.add(&covering(text, exact), watcher(number, exact));
            }
        }
        for key in keys {
            let key = KeyRef::new(key).unwrap();
            let mut found = Vec::new();
            watch.visit(key, |watcher| {
                found.push((watcher.session, watcher.subscription))
            });
            found.sort_unstable();
            let mut expected = Vec::new();
            for (number, text) in patterns.iter().enumerate() {
                for exact in [false, true] {
                    if covering(text, exact).matches(key) {
                        expected.push((number, usize::from(exact)));
                    }
                }
            }
            assert_eq!(found, expected, "{key}");
        }
        for exact in [true, false] {
            for (number, text) in patterns.iter().enumerate() {
                watch.remove(&covering(text, exact), watcher(number, exact));
            }
        }
        assert_eq!(watch.nodes.len(), 1, "only the root is left");
        let places = watch.visit(KeyRef::new("a.b").unwrap(), |watcher| {
            panic!("{watcher:?} was removed")
        });
        assert_eq!(places, 0);
    }
}
