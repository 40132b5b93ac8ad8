//! The claims that a link holds, apart from the connections on which it does.
//!
//! A claim ends with its connection, and is made again on the next one. Its revision and epoch tell
//! whether it was free in between: after a restart of the daemon they are the same, for the daemon has
//! kept the claim; where the daemon has let it go they are others, and somebody else may have had it
//! meanwhile. Then it is lost, as it is where somebody else has it still. What is lost stays lost: whoever
//! wants to go on claims anew, and knows that nothing is as it was.

use std::collections::{BTreeMap, BTreeSet};

use crate::key::KeyRef;
use crate::wire::Failure;

/// What stands before a claimed key in the daemon's own entry for the claim.
const PREFIX: &str = "$claims.";

/// Keys to be claimed on each new connection, by number, with what came of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Claimed {
    claims: BTreeMap<u64, Standing>,
    next_number: u64,
}

#[derive(Clone, Debug)]
struct Standing {
    key: String,
    /// The revision and the epoch at which it was granted.
    granted: Option<(u64, String)>,
    loss: Option<Loss>,
}

#[derive(Clone, Debug)]
enum Loss {
    /// The daemon refuses it.
    Refused(Failure),
    /// It was free for a while. The daemon has granted it again.
    WasFree,
}

/// What the daemon has said to a claim: its revision, or why not.
pub(super) type Outcome = Result<u64, Failure>;

impl Claimed {
    pub(super) fn add(&mut self, key: &str) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        let standing = Standing {
            key: key.to_owned(),
            granted: None,
            loss: None,
        };
        self.claims.insert(number, standing);
        number
    }

    /// Gives a claim up, and gives its key where that is to be released: the daemon may have granted it,
    /// and nothing else claims it.
    pub(super) fn remove(&mut self, number: u64) -> Option<String> {
        let given_up = self.claims.remove(&number)?;
        let mut others = self.claims.values();
        let is_needed = others.any(|other| other.key == given_up.key && !other.is_refused());
        (!given_up.is_refused() && !is_needed).then_some(given_up.key)
    }

    /// Takes down what came of claiming a key, in the history of this name.
    pub(super) fn settle(&mut self, key: &str, outcome: &Outcome, epoch: &str) {
        let claims = self.claims.values_mut();
        for standing in claims.filter(|standing| standing.key == key) {
            standing.settle(outcome, epoch);
        }
    }

    /// The revision at which it was granted; `0` before that.
    pub(super) fn rev(&self, number: u64) -> u64 {
        let standing = self.claims.get(&number);
        let granted = standing.and_then(|standing| standing.granted.as_ref());
        granted.map_or(0, |(rev, _)| *rev)
    }

    pub(super) fn refusal(&self, number: u64) -> Option<&Failure> {
        match &self.claims.get(&number)?.loss {
            Some(Loss::Refused(failure)) => Some(failure),
            _ => None,
        }
    }

    /// Whether it was granted and somebody else has it, or may have had it; or it was given up.
    pub(super) fn is_lost(&self, number: u64) -> bool {
        let standing = self.claims.get(&number);
        standing.is_none_or(|standing| standing.loss.is_some())
    }

    #[cfg(feature = "async")]
    pub(super) fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }

    /// What is to be claimed on a new connection.
    pub(super) fn keys(&self) -> BTreeSet<&str> {
        let claims = self.claims.values();
        let wanted = claims.filter(|standing| standing.loss.is_none());
        wanted.map(|standing| standing.key.as_str()).collect()
    }

    /// The keys that were claimed then and are not now: to be released on a connection on which they were
    /// claimed meanwhile.
    pub(super) fn gone_since<'a>(&'a self, earlier: &'a Claimed) -> impl Iterator<Item = &'a str> {
        let keys = earlier.keys().into_iter();
        keys.filter(|key| self.claims.values().all(|standing| standing.key != *key))
    }
}

impl Standing {
    fn settle(&mut self, outcome: &Outcome, epoch: &str) {
        if self.loss.is_some() {
            return;
        }
        match (outcome, &self.granted) {
            (Ok(rev), None) => self.granted = Some((*rev, epoch.to_owned())),
            (Ok(rev), Some((before, history))) if rev == before && epoch == history => {}
            (Ok(_), Some(_)) => self.loss = Some(Loss::WasFree),
            (Err(failure), _) => self.loss = Some(Loss::Refused(failure.clone())),
        }
    }

    fn is_refused(&self) -> bool {
        matches!(self.loss, Some(Loss::Refused(_)))
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

    /// Each word is what the daemon says in the history after the `@`: a revision, or `no`.
    #[test]
    fn what_becomes_of_a_claim_is_known() {
        let check = |script: &str, rev: u64, is_lost: bool, is_refused: bool| {
            let mut claimed = Claimed::default();
            let number = claimed.add("a");
            for word in script.split_whitespace() {
                let (what, epoch) = word.split_once('@').unwrap();
                let outcome = what.parse().map_or_else(|_| refused(), Ok);
                claimed.settle("a", &outcome, epoch);
            }
            assert_eq!(claimed.rev(number), rev, "{script}");
            assert_eq!(claimed.is_lost(number), is_lost, "{script}");
            assert_eq!(claimed.refusal(number).is_some(), is_refused, "{script}");
            assert_eq!(claimed.keys().is_empty(), is_lost, "{script}");
            let released = (!is_refused).then_some("a");
            assert_eq!(claimed.remove(number).as_deref(), released, "{script}");
            assert!(claimed.is_lost(number), "{script}");
        };
        check("", 0, false, false);
        check("no@e", 0, true, true);
        check("3@e 3@e", 3, false, false);
        check("3@e no@e", 3, true, true);
        check("3@e 9@e", 3, true, false);
        // A history in which it has the same revision by chance.
        check("3@e 3@f", 3, true, false);
        // What is lost stays lost.
        check("3@e no@e 3@e", 3, true, true);
        check("3@e 9@e 3@e", 3, true, false);
    }

    #[test]
    fn what_is_to_be_released_is_found() {
        let mut claimed = Claimed::default();
        let numbers = ["a", "b", "b", "c", "d"].map(|key| claimed.add(key));
        let earlier = claimed.clone();
        claimed.settle("c", &refused(), "e");
        let removed = numbers[..4].iter().map(|number| claimed.remove(*number));
        let removed: Vec<_> = removed.collect();
        assert_eq!(removed, [Some("a".into()), None, Some("b".into()), None]);
        assert_eq!(claimed.remove(numbers[0]), None);
        assert_eq!(claimed.keys().into_iter().collect::<Vec<_>>(), ["d"]);
        let gone: Vec<_> = claimed.gone_since(&earlier).collect();
        assert_eq!(gone, ["a", "b", "c"]);
        // One that was refused before does not keep what was granted later.
        claimed.settle("d", &refused(), "e");
        let later = claimed.add("d");
        claimed.settle("d", &Ok(5), "e");
        assert_eq!(claimed.remove(later).as_deref(), Some("d"));
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
