//! The limits that end a `receive`, besides the count and the user.

use std::time::{Duration, Instant};

use super::ReceiveEnd;
use crate::cli;
use crate::settings::Settings;
use crate::values::Span;

/// The time without a message after which the queue is asked whether it is empty.
const EMPTY_CHECK_DELAY: Duration = Duration::from_millis(20);

/// The limits of a `receive`.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReceiveLimits {
    is_draining: bool,
    /// The end of the time that the user gave (`--timeout`).
    pub(super) until: Option<Instant>,
    idle_timeout: Option<Duration>,
    /// The moment at which the last message arrived or was done, or the wait for the first began.
    last_message: Instant,
    /// The moment at which to ask whether the queue is empty (`--drain`).
    check_at: Option<Instant>,
}

/// A limit that a wait has reached.
#[derive(Clone, Copy, Debug)]
pub(super) enum Limit {
    /// The `receive` ends.
    End(ReceiveEnd),
    /// The queue may be empty.
    EmptyCheck,
}

impl ReceiveLimits {
    pub(super) fn new(arguments: &cli::Receive, settings: &Settings) -> Self {
        let timeout = settings.receive.timeout.value.and_then(Span::if_any);
        Self {
            is_draining: arguments.drain,
            until: timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
            idle_timeout: settings.receive.idle_timeout.value.and_then(Span::if_any),
            last_message: Instant::now(),
            check_at: None,
        }
    }

    /// Starts to wait on a new connection. The time without a connection does not count, because no message
    /// could arrive.
    pub(super) fn start(&mut self) {
        self.last_message = Instant::now();
        self.check_at = self.is_draining.then(Instant::now);
    }

    /// Records that messages arrived.
    pub(super) fn received(&mut self, now: Instant) {
        self.last_message = now;
        self.check_later(now);
    }

    /// Records that a message was done.
    pub(super) fn done(&mut self) {
        self.last_message = Instant::now();
    }

    /// Records that the queue is not empty.
    pub(super) fn not_empty(&mut self) {
        self.check_later(Instant::now());
    }

    fn check_later(&mut self, now: Instant) {
        self.check_at = self.check_at.map(|_| now + EMPTY_CHECK_DELAY);
    }

    /// Returns the next moment at which a limit is reached. Only a `receive` that is idle, with no
    /// message in progress, can end because no message arrives.
    pub(super) fn next(&self, is_idle: bool) -> Option<(Instant, Limit)> {
        let idle_at = self
            .idle_timeout
            .and_then(|timeout| self.last_message.checked_add(timeout));
        let limits = [
            (self.until, Limit::End(ReceiveEnd::TimeIsUp)),
            (idle_at.filter(|_| is_idle), Limit::End(ReceiveEnd::Idle)),
            (self.check_at.filter(|_| is_idle), Limit::EmptyCheck),
        ];
        limits
            .into_iter()
            .filter_map(|(moment, limit)| Some((moment?, limit)))
            .min_by_key(|(moment, _)| *moment)
    }
}
