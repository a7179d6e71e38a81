//! The moment at which each message may be sent.

use std::time::{Duration, Instant};

use crate::values::Rate;

/// Limits the number of messages in a second, and holds back messages that are not due.
pub(crate) struct RateLimiter {
    interval: Option<Duration>,
    next: Option<Instant>,
    /// The moment at which the first message was published.
    start: Option<Instant>,
}

/// The longest delay of a rate that is made up for. A timer is not exact.
const CATCH_UP: Duration = Duration::from_millis(100);

/// The longest wait: a hundred years. An [`Instant`] has a limit that depends on the system.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

impl RateLimiter {
    /// Creates a limiter to `rate`; `None` is no limit.
    pub(crate) fn new(rate: Option<Rate>) -> Self {
        Self {
            interval: rate.map(Rate::interval),
            next: None,
            start: None,
        }
    }

    /// Returns the moment to wait for before the next message, if it has not come. The message is due
    /// this long after the first; `None` is at once.
    pub(super) fn wait_until(&self, due: Option<Duration>) -> Option<Instant> {
        let due = self.start.zip(due).map(|(start, due)| after(start, due));
        let moment = self.next.max(due);
        moment.filter(|moment| *moment > Instant::now())
    }

    /// Records that a message is published.
    pub(super) fn published(&mut self) {
        if self.start.is_some() && self.interval.is_none() {
            return;
        }
        let now = Instant::now();
        self.start.get_or_insert(now);
        if let Some(interval) = self.interval {
            let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
            let due = self.next.unwrap_or(now).max(earliest);
            self.next = Some(after(due, interval));
        }
    }
}

fn after(moment: Instant, time: Duration) -> Instant {
    moment + time.min(FOREVER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(rate: Option<&str>) -> RateLimiter {
        RateLimiter::new(rate.map(|rate| rate.parse().unwrap()))
    }

    #[test]
    fn the_first_message_is_due_at_once_and_the_others_after_it() {
        let mut limiter = limiter(None);
        let due = Duration::from_secs(60);
        assert_eq!(limiter.wait_until(Some(due)), None);
        let before = Instant::now();
        limiter.published();
        let after = Instant::now();
        let moment = limiter.wait_until(Some(due)).unwrap();
        assert!(moment >= before + due && moment <= after + due);
        limiter.published();
        assert_eq!(limiter.wait_until(Some(due)), Some(moment));
        assert_eq!(limiter.wait_until(Some(Duration::ZERO)), None);
        assert_eq!(limiter.wait_until(None), None);
        assert!(limiter.wait_until(Some(Duration::MAX)).is_some());
    }

    #[test]
    fn a_rate_counts_from_message_to_message() {
        let mut limiter = limiter(Some("0.01"));
        assert_eq!(limiter.wait_until(None), None);
        let interval = Duration::from_secs(100);
        for number in 1..=3 {
            limiter.published();
            let moment = limiter.wait_until(None).unwrap();
            let now = Instant::now();
            assert!(moment <= now + number * interval);
            assert!(moment > now + number * interval / 2);
        }
        // The slowest rate is not the absence of one.
        let mut limiter = self::limiter(Some("1e-300"));
        limiter.published();
        assert!(limiter.wait_until(None).is_some());
    }
}
