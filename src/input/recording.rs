//! The moments at which the messages of a recording are sent.

use std::time::{Duration, SystemTime};

use crate::values::Pace;

/// Computes when each message of a recording is due, counted from the first.
#[derive(Debug)]
pub(super) struct Recording {
    pace: Pace,
    /// The time of receipt of the first message, in this repetition.
    first: Option<SystemTime>,
    /// The time at which this repetition begins: that of the latest message before it.
    begin: Duration,
    latest: Duration,
}

impl Recording {
    pub(super) fn new(pace: Pace) -> Self {
        Self {
            pace,
            first: None,
            begin: Duration::ZERO,
            latest: Duration::ZERO,
        }
    }

    /// Begins another repetition of the recording.
    pub(super) fn repeat(&mut self) {
        self.first = None;
        self.begin = self.latest;
    }

    /// Returns when a message is due that was received at this moment. One from before the first is due
    /// together with it.
    pub(super) fn due(&mut self, received_at: SystemTime) -> Duration {
        let first = *self.first.get_or_insert(received_at);
        let distance = received_at.duration_since(first).unwrap_or_default();
        let due = self.begin.saturating_add(self.pace.scale(distance));
        self.latest = self.latest.max(due);
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    fn due(recording: &mut Recording, seconds: u64) -> u128 {
        let moment = UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds);
        recording.due(moment).as_millis()
    }

    fn recording(pace: &str) -> Recording {
        Recording::new(pace.parse().unwrap())
    }

    #[test]
    fn distances_are_from_the_first_message_and_divided_by_the_factor() {
        for (pace, expected) in [
            ("recorded", [0, 2000, 1000, 0, 10_000]),
            ("2x", [0, 1000, 500, 0, 5000]),
            ("0.5x", [0, 4000, 2000, 0, 20_000]),
        ] {
            let mut recording = recording(pace);
            let due = [100, 102, 101, 50, 110].map(|seconds| due(&mut recording, seconds));
            assert_eq!(due, expected, "{pace}");
        }
    }

    #[test]
    fn a_repetition_begins_with_the_last_message_of_the_one_before() {
        let mut recording = recording("recorded");
        let mut due = |seconds| due(&mut recording, seconds);
        assert_eq!([due(100), due(103), due(101)], [0, 3000, 1000]);
        recording.repeat();
        let mut due = |seconds| self::due(&mut recording, seconds);
        assert_eq!([due(100), due(103)], [3000, 6000]);
    }

    #[test]
    fn the_slowest_pace_is_no_error() {
        let mut recording = recording("1e-300x");
        assert_eq!(due(&mut recording, 0), 0);
        assert_eq!(due(&mut recording, 1), Duration::MAX.as_millis());
        recording.repeat();
        assert_eq!(due(&mut recording, 1), Duration::MAX.as_millis());
    }
}
