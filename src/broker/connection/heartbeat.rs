//! The heartbeat times of a connection.

use std::time::{Duration, Instant};

/// Tells when a heartbeat is due and when the peer counts as dead, by the times given to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeartbeatTimer {
    /// The agreed interval; `None` without heartbeats.
    interval: Option<Duration>,
    last_sent: Instant,
    last_received: Instant,
}

impl HeartbeatTimer {
    /// Returns a timer with this interval in seconds; 0 for no heartbeats.
    pub(crate) fn new(seconds: u16, now: Instant) -> Self {
        Self {
            interval: (seconds > 0).then(|| Duration::from_secs(seconds.into())),
            last_sent: now,
            last_received: now,
        }
    }

    pub(crate) fn note_sent(&mut self, now: Instant) {
        self.last_sent = now;
    }

    pub(crate) fn note_received(&mut self, now: Instant) {
        self.last_received = now;
    }

    /// Returns when a heartbeat is due: after half the interval, so that a late one is still in time.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        self.interval.map(|interval| self.last_sent + interval / 2)
    }

    /// Returns when the peer counts as dead: after two intervals (specification, section 4.2.7).
    pub(crate) fn dead_at(&self) -> Option<Instant> {
        self.interval
            .map(|interval| self.last_received + interval * 2)
    }

    /// Returns the time that a peer may be silent.
    pub(crate) fn timeout(&self) -> Duration {
        self.interval.unwrap_or_default() * 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_is_due_after_half_and_a_peer_dead_after_two_intervals() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut heartbeat = HeartbeatTimer::new(10, start);
        assert_eq!(heartbeat.due_at(), Some(after(5)));
        assert_eq!(heartbeat.dead_at(), Some(after(20)));
        heartbeat.note_sent(after(3));
        heartbeat.note_received(after(4));
        assert_eq!(heartbeat.due_at(), Some(after(8)));
        assert_eq!(heartbeat.dead_at(), Some(after(24)));
        let never = HeartbeatTimer::new(0, start);
        assert_eq!((never.due_at(), never.dead_at()), (None, None));
    }
}
