//! Whom a change concerns: a trie over the segments of the patterns that are subscribed to.
//!
//! Each level of the trie is one segment, a literal or a star. Walking a key's segments down the
//! trie meets exactly the subscriptions that cover it, and costs as many steps as there are distinct
//! patterns on the way, however many subscriptions share them or stand elsewhere.
//!
//! A subscription stands at the node of its pattern's last required segment: under `below` where it
//! covers that node and everything under it, under `at` where it covers the node alone. Nothing is
//! decided here but whom to mark; what they are told is made when they can read it.

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
}

#[derive(Debug, Default)]
struct Node {
    literals: BTreeMap<Box<str>, usize>,
    star: Option<usize>,
    /// Sets, so that one of very many on the same pattern leaves as fast as one of few.
    at: BTreeSet<Watcher>,
    below: BTreeSet<Watcher>,
}

impl Default for Watch {
    fn default() -> Watch {
        let mut nodes = Slab::new();
        let root = nodes.insert(Node::default());
        Watch { nodes, root }
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
    /// at for that.
    pub fn visit(&self, key: KeyRef<'_>, mut found: impl FnMut(Watcher)) -> usize {
        let root = &self.nodes[self.root];
        if root.is_empty() {
            return 0;
        }
        let mut places = 0;
        let (first, rest) = split(key.as_str());
        if let Some(&child) = root.literals.get(first) {
            places += self.visit_below(child, rest, &mut found);
        }
        // A star never stands for a first segment that belongs to the daemon.
        if !key.is_reserved() {
            root.below.iter().copied().for_each(&mut found);
            if let Some(child) = root.star {
                places += self.visit_below(child, rest, &mut found);
            }
        }
        places
    }

    /// Recurses once a segment; a key has at most half as many segments as bytes.
    fn visit_below(
        &self,
        node: usize,
        rest: Option<&str>,
        found: &mut impl FnMut(Watcher),
    ) -> usize {
        let node = &self.nodes[node];
        node.below.iter().copied().for_each(&mut *found);
        let Some(rest) = rest else {
            node.at.iter().copied().for_each(found);
            return 1;
        };
        let mut places = 1;
        let (segment, rest) = split(rest);
        if let Some(&child) = node.literals.get(segment) {
            places += self.visit_below(child, rest, found);
        }
        if let Some(child) = node.star {
            places += self.visit_below(child, rest, found);
        }
        places
    }
}

impl Node {
    fn watchers(&mut self, subtree: bool) -> &mut BTreeSet<Watcher> {
        if subtree {
            &mut self.below
        } else {
            &mut self.at
        }
    }

    fn is_empty(&self) -> bool {
        self.literals.is_empty()
            && self.star.is_none()
            && self.at.is_empty()
            && self.below.is_empty()
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
