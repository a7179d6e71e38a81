//! How to get a session, and how to get it back: the one retry policy.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

use crossbeam_channel::{at, never, select};
use log::info;

use super::session::{Connector, Session};
use crate::error::Error;
use crate::text;
use crate::values::Span;

/// The first delay is at most this long.
const RECONNECT_MIN_DELAY: Duration = Duration::from_millis(200);

/// No delay is longer than this.
const RECONNECT_MAX_DELAY: Duration = Duration::from_secs(30);

/// Delays that double from 200 ms to 30 s, each shortened by up to half at random: so that many
/// clients that lost the same broker don't come back all at once.
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
    /// The next delay.
    fn next_delay(&mut self) -> Duration {
        let delay = self.delay;
        self.delay = (delay * 2).min(RECONNECT_MAX_DELAY);
        delay / 2 + delay.mul_f64(random() / 2.0)
    }
}

/// A number from 0 to 1, different each time: the standard library's hash tables are seeded at
/// random, and nothing here needs more than that.
fn random() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 32;
    f64::from(u32::try_from(bits).unwrap_or_default()) / f64::from(u32::MAX)
}

/// How often the broker may close a connection with the same complaint, with no progress in between,
/// before that is taken for its answer.
const MAX_EQUAL_REFUSALS: u32 = 3;

/// How long to try again, and how fast, over all connections of a command. The time, the pauses and the
/// count of equal failures start anew with each progress.
#[derive(Debug)]
pub struct Retry {
    /// `None` is for ever.
    patience: Option<Span>,
    until: Option<Instant>,
    backoff: Backoff,
    /// The broker's last complaint, and how often it came in a row.
    complaint: Option<(String, u32)>,
}

impl Retry {
    /// Tries again for so long; 0s is not at all, and `None` for ever.
    #[must_use]
    pub fn new(patience: Option<Span>) -> Self {
        Self {
            patience,
            until: None,
            backoff: Backoff::default(),
            complaint: None,
        }
    }

    /// Whether to try again at all.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.patience != Some(Span::seconds(0))
    }

    /// Notes that something went well: a message was confirmed, or came.
    pub fn progress(&mut self) {
        *self = Self::new(self.patience);
    }

    /// Starts the time with the first failure after a progress.
    pub fn begin(&mut self) {
        if self.until.is_none() {
            self.until = self
                .patience
                .and_then(|time| Instant::now().checked_add(time.get()));
        }
    }

    /// Whether the time is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// The pause before the next attempt.
    pub fn next_pause(&mut self) -> Duration {
        self.backoff.next_delay()
    }

    /// Notes a failure. One with which the broker has answered again and again is its answer.
    fn judge(&mut self, failure: Error) -> Error {
        let Some(words) = failure.complaint() else {
            return failure;
        };
        let times = match &self.complaint {
            Some((last, times)) if last == words => times + 1,
            _ => 1,
        };
        self.complaint = Some((words.to_owned(), times));
        if times < MAX_EQUAL_REFUSALS {
            return failure;
        }
        failure.into_refusal(times)
    }
}

impl Connector {
    /// Connects and logs in; where the user is willing to wait for a broker that is not up yet
    /// (`--wait`), again and again.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::LoginRefused`], or [`Error::Interrupted`] if the user did
    /// not wait.
    pub fn open(&self) -> Result<Session, Error> {
        let wait = self.broker.wait.value;
        let mut retry = Retry::new(Some(wait));
        retry.begin();
        match self.open_once(true, &self.first) {
            Err(error) if error.is_transient() && retry.is_wanted() => {
                self.messenger
                    .note(&format!("{error}; waiting up to {wait}"));
                self.try_until(&self.first, None, &mut retry)
            }
            result => result,
        }
    }

    /// Connects again after the connection was `lost`, and says so, if the policy allows it and until
    /// the moment `until`.
    ///
    /// # Errors
    /// `lost` itself, if it is not to be tried again; [`Error::NotBack`]; [`Error::LoginRefused`] if it
    /// is for good; [`Error::Interrupted`].
    pub fn reopen(
        &self,
        lost: Error,
        until: Option<Instant>,
        retry: &mut Retry,
    ) -> Result<Session, Error> {
        retry.begin();
        let lost = retry.judge(lost);
        if !lost.is_transient() || !retry.is_wanted() || retry.is_over() {
            return Err(lost);
        }
        let start = Instant::now();
        self.messenger.note(&format!("{lost}; reconnecting"));
        let not_back = |last: Error| Error::NotBack {
            lost: Box::new(lost),
            patience: text::rounded(start.elapsed()),
            last: Box::new(last),
        };
        match self.try_until(&[], until, retry) {
            Ok(session) => {
                let name = session.name();
                let after = text::rounded(start.elapsed());
                self.messenger
                    .note(&format!("reconnected to {name} after {after}"));
                Ok(session)
            }
            Err(error) if error.is_transient() => Err(not_back(error)),
            Err(error) => Err(error),
        }
    }

    fn try_until(
        &self,
        first: &[u8],
        until: Option<Instant>,
        retry: &mut Retry,
    ) -> Result<Session, Error> {
        let until = [until, retry.until].into_iter().flatten().min();
        loop {
            let next = [Some(Instant::now() + retry.next_pause()), until, self.until];
            let next = next.into_iter().flatten().min().map_or_else(never, at);
            select! {
                recv(next) -> _ => {}
                recv(self.interrupt.receiver()) -> _ => {
                    return Err(Error::Interrupted(format!("while waiting for {}", self.broker)));
                }
            }
            match self.open_once(false, first) {
                Err(error)
                    if error.is_transient() && until.is_none_or(|until| Instant::now() < until) =>
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
