//! Pauses between attempts: they double up to a longest one, and each is cut short at random.
//!
//! Without the chance in it, all clients of a daemon that has gone would come back at the same moments.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// The first pause, and the longest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pauses {
    pub(super) first: Duration,
    pub(super) longest: Duration,
}

/// Those of a link.
impl Default for Pauses {
    fn default() -> Pauses {
        Pauses {
            first: Duration::from_millis(20),
            longest: Duration::from_secs(2),
        }
    }
}

#[derive(Debug)]
pub(super) struct Backoff {
    pauses: Pauses,
    next: Duration,
    chance: RandomState,
    count: u64,
}

impl Backoff {
    pub(super) fn new(pauses: Pauses) -> Backoff {
        Backoff {
            pauses,
            next: pauses.first,
            chance: RandomState::new(),
            count: 0,
        }
    }

    /// How long to wait before the next attempt: between a half and the whole of what it has come to.
    pub(super) fn pause(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.pauses.longest);
        self.count += 1;
        // The standard library's random state is no source of secrets, which these pauses are not.
        let mut hasher = self.chance.build_hasher();
        hasher.write_u64(self.count);
        let part = hasher.finish() % 1024;
        let half = whole / 2;
        half + half * u32::try_from(part).unwrap_or(0) / 1024
    }

    /// An attempt has succeeded: the next pause is the first again.
    pub(super) fn reset(&mut self) {
        self.next = self.pauses.first;
    }

    /// How long to wait after a connection that has lasted so long: not at all where that was long. So a
    /// daemon that takes in whoever comes and hangs up is not asked without pause.
    pub(super) fn pause_after(&mut self, lasted: Duration) -> Duration {
        if lasted < self.pauses.longest {
            return self.pause();
        }
        self.reset();
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let (first, longest) = (Duration::from_millis(20), Duration::from_millis(100));
        let mut backoff = Backoff::new(Pauses { first, longest });
        for _ in 0..2 {
            for whole in [20, 40, 80, 100, 100] {
                let whole = Duration::from_millis(whole);
                let pause = backoff.pause();
                assert!(
                    whole / 2 <= pause && pause <= whole,
                    "{pause:?} of {whole:?}"
                );
            }
            backoff.reset();
        }
    }

    #[test]
    fn a_connection_that_has_lasted_is_followed_by_no_pause() {
        let (first, longest) = (Duration::from_millis(20), Duration::from_millis(100));
        let mut backoff = Backoff::new(Pauses { first, longest });
        let short = longest - Duration::from_millis(1);
        assert!(backoff.pause_after(short) >= first / 2);
        assert!(backoff.pause_after(short) >= first, "it has doubled");
        assert_eq!(backoff.pause_after(longest), Duration::ZERO);
        assert!(backoff.pause_after(short) <= first, "it begins again");
    }

    #[test]
    fn two_clients_pause_differently() {
        let (first, longest) = (Duration::from_secs(1), Duration::from_secs(1));
        let mut both = [(); 2].map(|()| Backoff::new(Pauses { first, longest }));
        let pauses = both
            .each_mut()
            .map(|backoff| [(); 4].map(|()| backoff.pause()));
        assert_ne!(pauses[0], pauses[1]);
    }
}
