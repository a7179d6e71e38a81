//! The heartbeats of a connection: when to send one, and when the peer is taken for dead.

use std::time::{Duration, Instant};

/// The times of one connection. Nothing here looks at a clock.
#[derive(Clone, Copy, Debug)]
pub struct HeartbeatTimer {
    /// The interval that was agreed on; `None` for no heartbeats.
    interval: Option<Duration>,
    /// When something was last sent.
    sent: Instant,
    /// When something last came.
    came: Instant,
}

impl HeartbeatTimer {
    /// Heartbeats every so many seconds; 0 for none.
    pub fn new(seconds: u16, now: Instant) -> Self {
        Self {
            interval: (seconds > 0).then(|| Duration::from_secs(seconds.into())),
            sent: now,
            came: now,
        }
    }

    /// Notes that something was sent.
    pub fn sent(&mut self, now: Instant) {
        self.sent = now;
    }

    /// Notes that something came, or that nothing could.
    pub fn came(&mut self, now: Instant) {
        self.came = now;
    }

    /// When a heartbeat is due: after half of the interval, so that one that is late is in time.
    pub fn due_at(&self) -> Option<Instant> {
        self.interval.map(|interval| self.sent + interval / 2)
    }

    /// When the peer is taken for dead: after two intervals (specification, section 4.2.7).
    pub fn dead_at(&self) -> Option<Instant> {
        self.interval.map(|interval| self.came + interval * 2)
    }

    /// How long a peer may be silent.
    pub fn limit(&self) -> Duration {
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
        heartbeat.sent(after(3));
        heartbeat.came(after(4));
        assert_eq!(heartbeat.due_at(), Some(after(8)));
        assert_eq!(heartbeat.dead_at(), Some(after(24)));
        let never = HeartbeatTimer::new(0, start);
        assert_eq!((never.due_at(), never.dead_at()), (None, None));
    }
}
