//! The claims that a link holds, apart from the connections on which it does.
//!
//! A claim ends with its connection, and is made again on the next one. Its revision and epoch tell
//! whether it was free in between: after a restart of the daemon they are the same, for the daemon has
//! kept the claim; where the daemon has let it go they are others, and somebody else may have had it
//! meanwhile: a new *term* begins. Where somebody else has it still, the daemon refuses, and is asked
//! again until the claim is given up.

use std::collections::{BTreeMap, BTreeSet};

use crate::key::KeyRef;
use crate::wire::Failure;

/// What stands before a claimed key in the daemon's own entry for the claim.
const PREFIX: &str = "$claims.";

/// Keys to be claimed on each new connection, by number, with what came of it the last time.
#[derive(Clone, Debug, Default)]
pub(super) struct Claimed {
    claims: BTreeMap<u64, Standing>,
    next_number: u64,
}

#[derive(Clone, Debug)]
struct Standing {
    key: String,
    /// How often it was granted anew.
    term: u64,
    /// Of when it was granted last; `0` before that.
    rev: u64,
    epoch: String,
    refusal: Option<Failure>,
}

/// What the daemon has said to a claim: its revision, or why not.
pub(super) type Outcome = Result<u64, Failure>;

impl Claimed {
    pub(super) fn add(&mut self, key: &str) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        let standing = Standing {
            key: key.to_owned(),
            term: 0,
            rev: 0,
            epoch: String::new(),
            refusal: None,
        };
        self.claims.insert(number, standing);
        number
    }

    /// Gives a claim up, and gives its key where that is to be released: nothing else claims it, and the
    /// daemon has not refused it.
    pub(super) fn remove(&mut self, number: u64) -> Option<String> {
        let given_up = self.claims.remove(&number)?;
        let is_over = given_up.refusal.is_none() && !self.has(&given_up.key);
        is_over.then_some(given_up.key)
    }

    /// Takes down what came of claiming a key, in the history of this name.
    pub(super) fn settle(&mut self, key: &str, outcome: &Outcome, epoch: &str) {
        let claims = self.claims.values_mut();
        for standing in claims.filter(|standing| standing.key == key) {
            match outcome {
                Ok(rev) => standing.grant(*rev, epoch),
                Err(failure) => standing.refusal = Some(failure.clone()),
            }
        }
    }

    pub(super) fn rev(&self, number: u64) -> u64 {
        self.claims.get(&number).map_or(0, |standing| standing.rev)
    }

    pub(super) fn term(&self, number: u64) -> u64 {
        self.claims.get(&number).map_or(0, |standing| standing.term)
    }

    pub(super) fn refusal(&self, number: u64) -> Option<&Failure> {
        self.claims.get(&number)?.refusal.as_ref()
    }

    /// Whether the daemon has granted it on the connection before which nothing else was settled.
    pub(super) fn is_held(&self, number: u64) -> bool {
        let standing = self.claims.get(&number);
        standing.is_some_and(|standing| standing.term > 0 && standing.refusal.is_none())
    }

    /// Whether somebody else has it, or may have had it since this term.
    pub(super) fn is_lost(&self, number: u64, term: u64) -> bool {
        !self.is_held(number) || self.term(number) != term
    }

    #[cfg(feature = "async")]
    pub(super) fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }

    pub(super) fn keys(&self) -> BTreeSet<&str> {
        let claims = self.claims.values();
        claims.map(|standing| standing.key.as_str()).collect()
    }

    /// The keys that were claimed then and are not now: to be released on a connection on which they were
    /// claimed meanwhile.
    pub(super) fn gone_since<'a>(&'a self, earlier: &'a Claimed) -> impl Iterator<Item = &'a str> {
        let keys = earlier.keys().into_iter();
        keys.filter(|key| !self.has(key))
    }

    fn has(&self, key: &str) -> bool {
        self.claims.values().any(|standing| standing.key == key)
    }
}

impl Standing {
    fn grant(&mut self, rev: u64, epoch: &str) {
        self.refusal = None;
        if (self.rev, self.epoch.as_str()) != (rev, epoch) {
            self.term += 1;
            self.rev = rev;
            epoch.clone_into(&mut self.epoch);
        }
    }
}

/// The entry that stands for all claims which can be in the way of one: those of the keys above it and
/// below it lie below this one too.
pub(super) fn claims_about(key: KeyRef<'_>) -> String {
    let key = key.as_str();
    let first = key.split_once('.').map_or(key, |(first, _)| first);
    format!("{PREFIX}{first}")
}

/// Whether the end of this entry may make it possible to claim that key.
pub(super) fn is_in_the_way(entry: &str, key: &str) -> bool {
    let is_below = |low: &str, high: &str| {
        let rest = low.strip_prefix(high);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let claimed = entry.strip_prefix(PREFIX);
    claimed.is_some_and(|claimed| is_below(claimed, key) || is_below(key, claimed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> Outcome {
        let line = r#"{"ok":false,"error":"conflict","message":"a is claimed"}"#;
        let Ok(crate::wire::Incoming::Reply { result, .. }) = crate::wire::Incoming::parse(line)
        else {
            panic!("{line}");
        };
        Err(result.unwrap_err())
    }

    #[test]
    fn what_becomes_of_a_claim_is_known() {
        let mut claimed = Claimed::default();
        let number = claimed.add("a");
        assert!(!claimed.is_held(number));
        let mut check = |outcome: Outcome, epoch: &str, term: Option<u64>| {
            claimed.settle("a", &outcome, epoch);
            assert_eq!(claimed.is_held(number), term.is_some());
            assert_eq!(claimed.refusal(number).is_none(), term.is_some());
            let terms: Vec<u64> = (0..9).filter(|n| !claimed.is_lost(number, *n)).collect();
            assert_eq!(terms, term.into_iter().collect::<Vec<_>>());
        };
        check(refused(), "e1", None);
        check(Ok(3), "e1", Some(1));
        check(Ok(3), "e1", Some(1));
        check(refused(), "e1", None);
        check(Ok(9), "e1", Some(2));
        // A history in which it has the same revision by chance.
        check(Ok(9), "e2", Some(3));
        check(refused(), "e3", None);
        // Somebody else was in the way, above or below.
        check(Ok(9), "e2", Some(3));
        assert_eq!((claimed.rev(number), claimed.term(number)), (9, 3));
        assert_eq!(claimed.remove(number).as_deref(), Some("a"));
        assert!(claimed.is_lost(number, 3));
    }

    #[test]
    fn what_is_to_be_released_is_found() {
        let mut claimed = Claimed::default();
        let numbers = ["a", "b", "b", "c", "d"].map(|key| claimed.add(key));
        claimed.settle("c", &refused(), "e1");
        let earlier = claimed.clone();
        let removed = numbers[..4].iter().map(|number| claimed.remove(*number));
        let removed: Vec<_> = removed.collect();
        assert_eq!(removed, [Some("a".into()), None, Some("b".into()), None]);
        assert_eq!(claimed.remove(numbers[0]), None);
        assert_eq!(claimed.keys().into_iter().collect::<Vec<_>>(), ["d"]);
        let gone: Vec<_> = claimed.gone_since(&earlier).collect();
        assert_eq!(gone, ["a", "b", "c"]);
    }

    #[test]
    fn claims_above_and_below_are_in_the_way() {
        let key = KeyRef::new("net.eth0").unwrap();
        assert_eq!(claims_about(key), "$claims.net");
        assert_eq!(claims_about(KeyRef::new("net").unwrap()), "$claims.net");
        let check = |entry: &str, expected: bool| {
            assert_eq!(is_in_the_way(entry, "net.eth0"), expected, "{entry}");
        };
        check("$claims.net.eth0", true);
        check("$claims.net", true);
        check("$claims.net.eth0.mtu", true);
        check("$claims.net.eth1", false);
        check("$claims.net.eth00", false);
        check("$claims.ne", false);
        check("net.eth0", false);
    }
}
