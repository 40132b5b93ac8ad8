//! Whom a change concerns: a trie over the segments of the patterns that are subscribed to.
//!
//! Each level of the trie is one segment, a literal or a star. Walking a key's segments down the
//! trie meets the subscriptions that cover it, and costs as many steps as there are distinct
//! patterns on the way, however many subscriptions share them or stand elsewhere.
//!
//! A subscription stands at the node of its pattern's last required segment: under `below` where it
//! covers that node and everything under it, under `at` where it covers the node alone. Nothing is
//! decided here but whom to mark; what they are told is made when they can read it.
//!
//! The trie is not deep. With a star or a literal in each place of very long patterns, one key could lead to
//! tens of thousands of nodes, and a batch has many keys. So a longer pattern stands where its first
//! segments end, and there it is met by whatever changes below. That it is concerned is found out when it
//! reads, in the time that its user has.
//!
//! Whoever has been marked has something to read, and more changes make no difference to it until it has
//! read everything. So it is met once and is **asleep** then, until it is woken at the end of its reading:
//! a change costs nothing for those who have not heard of an earlier one yet. How many there were
//! meanwhile is counted for all who stand at one place together.

use std::collections::BTreeMap;

use slab::Slab;

use crate::key::{KeyRef, Pattern};

/// Of a pattern so many segments are distinguished. A key leads to fewer than twice as many nodes as there are
/// ways to put stars in these.
const SEGMENTS_MAX: usize = 8;

/// A subscription's place: which session, and which of its subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Watcher {
    /// The session's number.
    pub session: usize,
    /// The subscription's number within it.
    pub subscription: usize,
}

/// Names a subscription from when it is added until it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member(usize);

/// The trie.
#[derive(Debug)]
pub struct Watch {
    nodes: Slab<Node>,
    root: usize,
    members: Slab<Standing>,
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
    /// How many there are.
    members: usize,
    /// Those of them who are to be met.
    awake: Vec<Member>,
    /// How many changes there have been.
    changes: u64,
}

/// Where one subscription stands.
#[derive(Debug)]
struct Standing {
    watcher: Watcher,
    node: usize,
    is_below: bool,
    /// Its place among those who are awake, if it is.
    awake: Option<usize>,
}

impl Default for Watch {
    fn default() -> Watch {
        let mut nodes = Slab::new();
        let root = nodes.insert(Node::default());
        Watch {
            nodes,
            root,
            members: Slab::new(),
        }
    }
}

impl Watch {
    /// Adds a subscription to the keys that the pattern matches. It is asleep. With its name comes the
    /// count that [`Watch::wake`] continues.
    pub fn add(&mut self, pattern: &Pattern, watcher: Watcher) -> (Member, u64) {
        let mut node = self.root;
        for segment in pattern.required_segments().take(SEGMENTS_MAX) {
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
        let is_below =
            pattern.is_subtree() || pattern.required_segments().nth(SEGMENTS_MAX).is_some();
        let watchers = self.nodes[node].watchers(is_below);
        watchers.members += 1;
        let member = Member(self.members.insert(Standing {
            watcher,
            node,
            is_below,
            awake: None,
        }));
        (member, watchers.changes)
    }

    /// Has a subscription met by the next change that it covers. Returns a count of changes: it has grown by
    /// as many as there were that it covers, or that may have been for all that the trie knows.
    pub fn wake(&mut self, member: Member) -> u64 {
        let standing = &mut self.members[member.0];
        let watchers = self.nodes[standing.node].watchers(standing.is_below);
        if standing.awake.is_none() {
            standing.awake = Some(watchers.awake.len());
            watchers.awake.push(member);
        }
        watchers.changes
    }

    /// Removes a subscription that was added with this pattern, and the nodes that stood only for it.
    pub fn remove(&mut self, pattern: &Pattern, member: Member) {
        let standing = self.members.remove(member.0);
        let watchers = self.nodes[standing.node].watchers(standing.is_below);
        watchers.members -= 1;
        if let Some(place) = standing.awake {
            watchers.awake.swap_remove(place);
            if let Some(moved) = watchers.awake.get(place) {
                self.members[moved.0].awake = Some(place);
            }
        }
        if watchers.members == 0 {
            watchers.awake = Vec::new();
            self.prune(pattern);
        }
    }

    /// Removes the nodes on the way to a pattern's that nobody needs any more.
    fn prune(&mut self, pattern: &Pattern) {
        let mut path = vec![self.root];
        let segments = pattern.required_segments().take(SEGMENTS_MAX);
        let segments: Vec<&str> = segments.collect();
        for segment in &segments {
            let node = &self.nodes[path[path.len() - 1]];
            let child = match *segment {
                "*" => node.star,
                literal => node.literals.get(literal).copied(),
            };
            path.push(child.expect("the pattern of a watcher that was added has its nodes"));
        }
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

    /// Notes a change of a key: calls `found` for each subscription that covers it and is awake, and puts it
    /// to sleep. One whose pattern is long may be found for a key that it does not cover. Returns how many
    /// places it has looked at for that.
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

    /// Recurses once a level, of which there are few.
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

    fn meet(&mut self, node: usize, is_below: bool, found: &mut impl FnMut(Watcher)) {
        let watchers = self.nodes[node].watchers(is_below);
        watchers.changes += 1;
        for member in watchers.awake.drain(..) {
            let standing = &mut self.members[member.0];
            standing.awake = None;
            found(standing.watcher);
        }
    }
}

impl Node {
    fn watchers(&mut self, is_below: bool) -> &mut Watchers {
        if is_below {
            &mut self.below
        } else {
            &mut self.at
        }
    }

    fn is_empty(&self) -> bool {
        self.literals.is_empty()
            && self.star.is_none()
            && self.at.members == 0
            && self.below.members == 0
    }
}

/// The first segment, and the rest. (Segments are short: `str::split_once` takes as long to begin its search
/// as this takes to find the dot.)
fn split(text: &str) -> (&str, Option<&str>) {
    match text.bytes().position(|byte| byte == b'.') {
        Some(dot) => (&text[..dot], Some(&text[dot + 1..])),
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who is asleep is not met, and how many changes that spares is counted.
    #[test]
    fn who_is_asleep_is_not_met() {
        let mut watch = Watch::default();
        let pattern = Pattern::new("a").unwrap().with_descendants();
        let key = KeyRef::new("a.b").unwrap();
        let members: Vec<Member> = (0..3)
            .map(|session| {
                let subscription = 0;
                let watcher = Watcher {
                    session,
                    subscription,
                };
                let (member, count) = watch.add(&pattern, watcher);
                assert_eq!(count, 0);
                member
            })
            .collect();
        let met = |watch: &mut Watch| {
            let mut met: Vec<usize> = Vec::new();
            watch.visit(key, |watcher| met.push(watcher.session));
            met
        };
        assert!(met(&mut watch).is_empty());
        assert_eq!(watch.wake(members[2]), 1);
        assert_eq!(watch.wake(members[0]), 1);
        assert_eq!(watch.wake(members[2]), 1, "once is enough");
        assert_eq!(met(&mut watch), [2, 0]);
        assert!(met(&mut watch).is_empty());
        // Whoever goes takes nobody else along.
        for member in &members {
            assert_eq!(watch.wake(*member), 3);
        }
        watch.remove(&pattern, members[0]);
        assert_eq!(met(&mut watch), [2, 1]);
        watch.wake(members[1]);
        watch.remove(&pattern, members[2]);
        assert_eq!(met(&mut watch), [1]);
        watch.remove(&pattern, members[1]);
        assert_eq!(watch.nodes.len(), 1);
        assert_eq!(watch.visit(key, |_| panic!("nobody is left")), 0);
    }

    /// Patterns with a star or a letter in each of many places, and a key that all of them match.
    #[test]
    fn long_patterns_make_no_deep_trie() {
        const SEGMENTS: usize = 16;
        let patterns = (0..4096_usize).map(|stars| {
            // Spread over all places, the last ones included.
            let is_star = |place: usize| (stars * 16 + stars % 16) >> place & 1 == 1;
            let segments = (0..SEGMENTS).map(|place| if is_star(place) { "*" } else { "a" });
            Pattern::new(&segments.collect::<Vec<_>>().join(".")).unwrap()
        });
        let patterns: Vec<Pattern> = patterns.collect();
        let mut watch = Watch::default();
        let mut members = Vec::new();
        for (session, pattern) in patterns.iter().enumerate() {
            let subscription = 0;
            let watcher = Watcher {
                session,
                subscription,
            };
            let (member, _) = watch.add(pattern, watcher);
            watch.wake(member);
            members.push(member);
        }
        let text = ["a"; SEGMENTS].join(".");
        let mut met = 0;
        let places = watch.visit(KeyRef::new(&text).unwrap(), |_| met += 1);
        assert_eq!(met, patterns.len());
        assert!(places < 512, "{places} places");
        // Whoever can't match is not met by keys that are too short.
        members.iter().for_each(|member| {
            watch.wake(*member);
        });
        watch.visit(KeyRef::new("a.a.a.a.a.a.a").unwrap(), |watcher| {
            panic!("{watcher:?} is longer")
        });
        for (pattern, member) in patterns.iter().zip(members) {
            watch.remove(pattern, member);
        }
        assert_eq!(watch.nodes.len(), 1, "only the root is left");
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
        let mut members = Vec::new();
        for exact in [false, true] {
            for (number, text) in patterns.iter().enumerate() {
                let (member, _) = watch.add(&covering(text, exact), watcher(number, exact));
                members.push(member);
            }
        }
        for key in keys {
            let key = KeyRef::new(key).unwrap();
            for member in &members {
                watch.wake(*member);
            }
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
                let member = members[number + usize::from(exact) * patterns.len()];
                watch.remove(&covering(text, exact), member);
            }
        }
        assert_eq!(watch.nodes.len(), 1, "only the root is left");
        let places = watch.visit(KeyRef::new("a.b").unwrap(), |watcher| {
            panic!("{watcher:?} was removed")
        });
        assert_eq!(places, 0);
    }
}
