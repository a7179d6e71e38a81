//! Opening and reopening sessions: the one retry policy.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

use crossbeam_channel::{at, never, select};
use log::info;

use super::session::{Connector, Session};
use crate::error::Error;
use crate::text;
use crate::values::Span;

/// The longest first delay.
const RECONNECT_MIN_DELAY: Duration = Duration::from_millis(200);

/// The longest delay.
const RECONNECT_MAX_DELAY: Duration = Duration::from_secs(30);

/// Delays that double from 200 ms to 30 s. Each is shortened by up to half at random, so that many clients
/// do not reconnect all at once.
#[derive(Debug)]
struct Backoff {
    delay: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            delay: RECONNECT_MIN_DELAY,
        }
    }
}

impl Backoff {
    fn next_delay(&mut self) -> Duration {
        let delay = self.delay;
        self.delay = (delay * 2).min(RECONNECT_MAX_DELAY);
        delay / 2 + delay.mul_f64(random() / 2.0)
    }
}

/// Returns a random number from 0 to 1, of the seed of the standard library's hash tables.
fn random() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 32;
    f64::from(u32::try_from(bits).unwrap_or_default()) / f64::from(u32::MAX)
}

/// The number of equal refusals in a row, without progress, that count as final.
const MAX_EQUAL_REFUSALS: u32 = 3;

/// The retry policy over all connections of a command. Progress resets its time, delays and count of
/// refusals.
#[derive(Debug)]
pub(crate) struct Retry {
    /// The time to try again after a failure; `None` for ever.
    timeout: Option<Span>,
    deadline: Option<Instant>,
    backoff: Backoff,
    last_refusal: Option<EqualRefusals>,
}

/// A refusal, and how often it came in a row.
#[derive(Debug)]
struct EqualRefusals {
    text: String,
    count: u32,
}

impl Retry {
    /// Returns a policy that tries again for `timeout`: 0s for not at all, `None` for ever.
    pub(crate) fn new(timeout: Option<Span>) -> Self {
        Self {
            timeout,
            deadline: None,
            backoff: Backoff::default(),
            last_refusal: None,
        }
    }

    /// Whether to try again at all.
    pub(crate) fn is_enabled(&self) -> bool {
        self.timeout != Some(Span::seconds(0))
    }

    /// Resets the policy after a message was confirmed or received.
    pub(crate) fn reset(&mut self) {
        *self = Self::new(self.timeout);
    }

    /// Starts the time, at the first failure after progress.
    pub(crate) fn start(&mut self) {
        if self.deadline.is_none() {
            self.deadline = self
                .timeout
                .and_then(|time| Instant::now().checked_add(time.get()));
        }
    }

    /// Whether the time is over.
    pub(crate) fn is_expired(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Returns the delay before the next attempt.
    pub(crate) fn next_delay(&mut self) -> Duration {
        self.backoff.next_delay()
    }

    /// Counts equal refusals, and makes one final that came too often.
    fn count_refusal(&mut self, failure: Error) -> Error {
        let Some(text) = failure.complaint() else {
            return failure;
        };
        let count = match &self.last_refusal {
            Some(last) if last.text == text => last.count + 1,
            _ => 1,
        };
        let text = text.to_owned();
        self.last_refusal = Some(EqualRefusals { text, count });
        if count < MAX_EQUAL_REFUSALS {
            return failure;
        }
        failure.into_refusal(count)
    }
}

impl Connector {
    /// Connects and logs in, repeatedly if the user wants to wait for the broker (`--wait`).
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::LoginRefused`], or [`Error::Interrupted`].
    pub fn open(&self) -> Result<Session, Error> {
        let wait = self.broker.wait.value;
        let mut retry = Retry::new(Some(wait));
        retry.start();
        match self.open_once(true, &self.first_request) {
            Err(error) if error.is_transient() && retry.is_enabled() => {
                self.messenger
                    .note(&format!("{error}; waiting up to {wait}"));
                self.open_repeatedly(&self.first_request, None, &mut retry)
            }
            result => result,
        }
    }

    /// Connects again after the connection was `lost`, and says so, if the policy allows it, until
    /// `deadline`.
    ///
    /// # Errors
    /// `lost` itself if it is final; [`Error::NotBack`]; [`Error::LoginRefused`] if that is final;
    /// [`Error::Interrupted`].
    pub(crate) fn reopen(
        &self,
        lost: Error,
        deadline: Option<Instant>,
        retry: &mut Retry,
    ) -> Result<Session, Error> {
        retry.start();
        let lost = retry.count_refusal(lost);
        if !lost.is_transient() || !retry.is_enabled() || retry.is_expired() {
            return Err(lost);
        }
        let start = Instant::now();
        self.messenger.note(&format!("{lost}; reconnecting"));
        match self.open_repeatedly(&[], deadline, retry) {
            Ok(session) => {
                let name = session.name();
                let after = text::rounded(start.elapsed());
                self.messenger
                    .note(&format!("reconnected to {name} after {after}"));
                Ok(session)
            }
            Err(error) if error.is_transient() => Err(Error::NotBack {
                lost: Box::new(lost),
                patience: text::rounded(start.elapsed()),
                last: Box::new(error),
            }),
            Err(error) => Err(error),
        }
    }

    fn open_repeatedly(
        &self,
        first_request: &[u8],
        deadline: Option<Instant>,
        retry: &mut Retry,
    ) -> Result<Session, Error> {
        let deadline = [deadline, retry.deadline].into_iter().flatten().min();
        loop {
            let next_attempt = Some(Instant::now() + retry.next_delay());
            let moments = [next_attempt, deadline, self.deadline];
            let moment = moments.into_iter().flatten().min().map_or_else(never, at);
            select! {
                recv(moment) -> _ => {}
                recv(self.interrupt.receiver()) -> _ => {
                    return Err(Error::Interrupted(format!("while waiting for {}", self.broker)));
                }
            }
            match self.open_once(false, first_request) {
                Err(error)
                    if error.is_transient()
                        && deadline.is_none_or(|deadline| Instant::now() < deadline) =>
                {
                    info!("{error}");
                }
                result => return result,
            }
        }
    }
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
        let mut longest = RECONNECT_MIN_DELAY;
        for delay in delays() {
            assert!(
                delay >= longest / 2 && delay <= longest,
                "{delay:?} of {longest:?}"
            );
            longest = (longest * 2).min(RECONNECT_MAX_DELAY);
        }
        assert_eq!(longest, RECONNECT_MAX_DELAY);
        assert_ne!(delays(), delays());
    }
}
