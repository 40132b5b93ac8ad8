//! Pauses between attempts: they double up to a longest one, and each is cut short at random.
//!
//! Without the chance in it, all clients of a daemon that has gone would come back at the same moments.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
    chance: RandomState,
    count: u64,
}

impl Backoff {
    pub(super) fn new(first: Duration, longest: Duration) -> Backoff {
        Backoff {
            first,
            longest,
            next: first,
            chance: RandomState::new(),
            count: 0,
        }
    }

    /// How long to wait before the next attempt: between a half and the whole of what it has come to.
    pub(super) fn pause(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.longest);
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
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let (first, longest) = (Duration::from_millis(20), Duration::from_millis(100));
        let mut backoff = Backoff::new(first, longest);
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
    fn two_clients_pause_differently() {
        let mut both =
            [(); 2].map(|()| Backoff::new(Duration::from_secs(1), Duration::from_secs(1)));
        let pauses = both
            .each_mut()
            .map(|backoff| [(); 4].map(|()| backoff.pause()));
        assert_ne!(pauses[0], pauses[1]);
    }
}
