//! How long to wait before the next attempt.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// The first delay is at most this long.
const FIRST: Duration = Duration::from_millis(200);

/// No delay is longer than this.
const LONGEST: Duration = Duration::from_secs(30);

/// Delays that double from 200 ms to 30 s, each shortened by up to half at random: so that many
/// clients that lost the same broker don't come back all at once.
#[derive(Debug)]
pub struct Backoff {
    delay: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { delay: FIRST }
    }
}

impl Backoff {
    /// The next delay.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.delay;
        self.delay = (delay * 2).min(LONGEST);
        delay / 2 + delay.mul_f64(random() / 2.0)
    }
}

/// A number from 0 to 1, different each time: the standard library's hash tables are seeded at
/// random, and nothing here needs more than that.
fn random() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 32;
    f64::from(u32::try_from(bits).unwrap_or_default()) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_differ() {
        let delays = || {
            let mut backoff = Backoff::default();
            std::iter::from_fn(|| Some(backoff.next_delay()))
                .take(20)
                .collect::<Vec<_>>()
        };
        let mut longest = FIRST;
        for delay in delays() {
            assert!(
                delay >= longest / 2 && delay <= longest,
                "{delay:?} of {longest:?}"
            );
            longest = (longest * 2).min(LONGEST);
        }
        assert_eq!(longest, LONGEST);
        assert_ne!(delays(), delays());
    }
}
