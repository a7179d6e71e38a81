//! Counts how often the command of each message has failed, which a classic queue does not do.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::time::Duration;

use crate::message::{COUNT_HEADERS, Message, ShortString};

/// The delay before a message is redelivered for the first time. It doubles each time.
const REDELIVERY_MIN_DELAY: Duration = Duration::from_secs(1);

/// The longest delay before a message is redelivered.
const REDELIVERY_MAX_DELAY: Duration = Duration::from_secs(60);

/// The most messages whose failures are remembered.
const MAX_REMEMBERED_FAILURES: usize = 10_000;

/// Identifies a message when it is redelivered: a hash of everything that it was published with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key(u64);

impl Key {
    /// Returns the key of a message.
    pub(super) fn of(message: &Message) -> Self {
        let mut properties = message.properties.clone();
        properties.headers = properties.headers.and_then(|mut headers| {
            headers.retain(|name: &ShortString| !COUNT_HEADERS.contains(&name.as_bytes()));
            Some(headers).filter(|headers| !headers.is_empty())
        });
        let mut encoded = Vec::new();
        properties.encode(&mut encoded);
        let mut hasher = DefaultHasher::new();
        let Message {
            exchange,
            routing_key,
            body,
            ..
        } = message;
        (exchange, routing_key, body, encoded).hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// The failures of messages that went back to the queue. Equal messages have a count each;
/// they can't be told apart, so it does not matter which of them gets which count.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    failures: HashMap<Key, Vec<u32>>,
    /// The keys in the order in which they were added, so that the oldest can be forgotten.
    order: VecDeque<Key>,
}

impl Attempts {
    /// Returns how often a message that arrives has failed before, and forgets it. That is the number known
    /// here or the one that the queue has `counted`, whichever is higher.
    pub(super) fn take(&mut self, key: Key, redelivered: bool, counted: u64) -> u32 {
        let counted = u32::try_from(counted).unwrap_or(u32::MAX);
        // A message that arrives for the first time is not one of those that went back.
        if !redelivered {
            return counted;
        }
        let Some(counts) = self.failures.get_mut(&key) else {
            return counted;
        };
        // A queue that counts has counted each failure, so the message can't have failed more often than
        // that.
        let may_be = |known: u32| counted == 0 || known <= counted;
        let known = (0..counts.len()).rev().find(|at| may_be(counts[*at]));
        let known = known.map(|at| counts.remove(at)).unwrap_or_default();
        if counts.is_empty() {
            self.failures.remove(&key);
        }
        known.max(counted)
    }

    /// Remembers how often a message that will be redelivered has failed.
    pub(super) fn remember(&mut self, key: Key, failures: u32) {
        if failures == 0 {
            return;
        }
        self.failures.entry(key).or_default().push(failures);
        self.order.push_back(key);
        while self.order.len() > MAX_REMEMBERED_FAILURES {
            if let Some(oldest) = self.order.pop_front() {
                self.take(oldest, true, 0);
            }
        }
    }
}

/// Returns how long to wait before a message that failed so often is redelivered.
pub(super) fn delay(failures: u32) -> Duration {
    let exponent = failures.saturating_sub(1).min(16);
    (REDELIVERY_MIN_DELAY * (1 << exponent)).min(REDELIVERY_MAX_DELAY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{FieldTable, FieldValue};

    fn message(headers: &[(&str, i64)]) -> Message {
        let named = |(name, value): &(&str, i64)| {
            (ShortString::new(*name).unwrap(), FieldValue::Long(*value))
        };
        let mut message = Message::default();
        message.properties.headers = Some(headers.iter().map(named).collect::<FieldTable>());
        message
    }

    #[test]
    fn delays_double_up_to_the_longest() {
        let delays = [1, 2, 3, 4, 5, 6, 7, 8, 99].map(|failures| delay(failures).as_secs());
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn each_of_some_equal_messages_has_a_count_of_its_own() {
        let mut attempts = Attempts::default();
        let key = Key::of(&Message::default());
        // Two fail once each, and come again; a third comes for the first time.
        attempts.remember(key, 1);
        attempts.remember(key, 1);
        assert_eq!(attempts.take(key, false, 0), 0);
        assert_eq!(
            [attempts.take(key, true, 0), attempts.take(key, true, 0)],
            [1, 1]
        );
        assert_eq!(attempts.take(key, true, 0), 0);
    }

    #[test]
    fn a_message_is_known_by_all_that_it_has_but_for_what_its_queue_counts() {
        let key = |headers: &[(&str, i64)]| Key::of(&message(headers));
        assert_ne!(key(&[("n", 1)]), key(&[("n", 2)]));
        assert_eq!(key(&[("n", 1)]), key(&[("n", 1), ("x-delivery-count", 3)]));
        // The first time it has none of them.
        assert_eq!(
            Key::of(&Message::default()),
            key(&[("x-acquired-count", 3)])
        );
        assert_eq!(key(&[]), Key::of(&Message::default()));
    }

    #[test]
    fn the_queues_own_count_is_used() {
        let mut attempts = Attempts::default();
        let key = Key::of(&Message::default());
        attempts.remember(key, 2);
        assert_eq!(attempts.take(key, true, 3), 3);
        // Of equal messages one has failed twice, and this one once.
        attempts.remember(key, 1);
        attempts.remember(key, 2);
        assert_eq!(
            [1, 2].map(|counted| attempts.take(key, true, counted)),
            [1, 2]
        );
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut attempts = Attempts::default();
        let keys = || (0..2 * MAX_REMEMBERED_FAILURES as u64).map(Key);
        keys().for_each(|key| attempts.remember(key, 1));
        assert_eq!(
            (attempts.failures.len(), attempts.order.len()),
            (MAX_REMEMBERED_FAILURES, MAX_REMEMBERED_FAILURES)
        );
        assert_eq!(attempts.take(Key(0), true, 0), 0);
    }
}
