//! The window of published messages that are not yet confirmed.
//!
//! The broker numbers the messages of a channel in confirm mode from 1, and acknowledges or refuses
//! them in any order, one by one or all up to a tag (<https://www.rabbitmq.com/docs/confirms>).

use std::collections::VecDeque;

/// The outcome of publishing a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishOutcome {
    /// The broker has confirmed it.
    Confirmed,
    /// No queue took it, for the broker's reason.
    Returned(String),
    /// The broker has refused it (nack).
    Refused,
}

/// The published messages of one channel from the oldest unsettled one on, in order.
#[derive(Debug)]
pub struct Window<T> {
    /// The tag of the first entry.
    first_tag: u64,
    entries: VecDeque<Unconfirmed<T>>,
    /// The number of entries without an outcome.
    unsettled: usize,
    /// The size of all entries.
    bytes: usize,
}

#[derive(Debug)]
struct Unconfirmed<T> {
    item: T,
    bytes: usize,
    /// The broker's reason, if it was returned. The acknowledgement follows.
    returned: Option<String>,
    settled: Option<Confirmation>,
}

/// The likeness of a returned message to a published one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ReturnMatch {
    /// They have the same address and body.
    Possible,
    /// They have the same ids, too.
    Probable,
    /// They are equal.
    Same,
}

#[derive(Clone, Copy, Debug)]
enum Confirmation {
    Acknowledged,
    Refused,
}

impl<T> Default for Window<T> {
    fn default() -> Self {
        Self {
            first_tag: 1,
            entries: VecDeque::new(),
            unsettled: 0,
            bytes: 0,
        }
    }
}

impl<T> Window<T> {
    /// Adds a message that has just been published.
    pub fn push(&mut self, item: T, bytes: usize) {
        self.entries.push_back(Unconfirmed {
            item,
            bytes,
            returned: None,
            settled: None,
        });
        self.unsettled += 1;
        self.bytes += bytes;
    }

    /// Returns the number of messages without an outcome.
    pub(super) fn unsettled(&self) -> usize {
        self.unsettled
    }

    /// Returns the number of messages, with those that are settled behind an unsettled one.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the size of all messages.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Notes that the broker has acknowledged the message with this tag, or all up to it.
    pub fn acknowledge(&mut self, tag: u64, multiple: bool) {
        self.settle(tag, multiple, Confirmation::Acknowledged);
    }

    /// Notes that the broker has refused the message with this tag, or all up to it.
    pub(super) fn refuse(&mut self, tag: u64, multiple: bool) {
        self.settle(tag, multiple, Confirmation::Refused);
    }

    fn settle(&mut self, tag: u64, multiple: bool, confirmation: Confirmation) {
        let Some(index) = tag
            .checked_sub(self.first_tag)
            .and_then(|index| usize::try_from(index).ok())
        else {
            return;
        };
        let end = index.saturating_add(1).min(self.entries.len());
        let start = if multiple { 0 } else { index.min(end) };
        for entry in self.entries.range_mut(start..end) {
            if entry.settled.is_none() {
                entry.settled = Some(confirmation);
                self.unsettled -= 1;
            }
        }
    }

    /// Notes that a message was returned. A return has no tag, but comes before its message's
    /// acknowledgement and in the order of publication. So it belongs to the oldest of the best matches that
    /// are neither settled nor returned. `compare` returns `None` for no match.
    pub(super) fn mark_returned(
        &mut self,
        reason: &str,
        compare: impl Fn(&T) -> Option<ReturnMatch>,
    ) {
        let mut best: Option<(ReturnMatch, usize)> = None;
        for (index, entry) in self.entries.iter().enumerate() {
            if entry.settled.is_some() || entry.returned.is_some() {
                continue;
            }
            let found = compare(&entry.item);
            if found > best.map(|(found, _)| found) {
                best = found.map(|found| (found, index));
            }
            if found == Some(ReturnMatch::Same) {
                break;
            }
        }
        if let Some(entry) = best.and_then(|(_, index)| self.entries.get_mut(index)) {
            entry.returned = Some(reason.to_owned());
        }
    }

    /// Returns the message that was published last, if it is still here.
    pub(super) fn newest(&self) -> Option<&T> {
        self.entries.back().map(|entry| &entry.item)
    }

    /// Returns the messages with an outcome, and those without, both in order.
    pub(super) fn into_outcomes(self) -> (Vec<(T, PublishOutcome)>, Vec<T>) {
        let (mut settled, mut unsettled) = (Vec::new(), Vec::new());
        for entry in self.entries {
            match entry.settled {
                Some(how) => settled.push((entry.item, outcome(how, entry.returned))),
                None => unsettled.push(entry.item),
            }
        }
        (settled, unsettled)
    }

    /// Takes the oldest message if its outcome is known.
    pub fn pop(&mut self) -> Option<(T, PublishOutcome)> {
        let settled = self.entries.front()?.settled?;
        let entry = self.entries.pop_front()?;
        self.first_tag += 1;
        self.bytes -= entry.bytes;
        Some((entry.item, outcome(settled, entry.returned)))
    }
}

fn outcome(settled: Confirmation, returned: Option<String>) -> PublishOutcome {
    match (settled, returned) {
        (Confirmation::Refused, _) => PublishOutcome::Refused,
        (Confirmation::Acknowledged, Some(reason)) => PublishOutcome::Returned(reason),
        (Confirmation::Acknowledged, None) => PublishOutcome::Confirmed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(items: std::ops::RangeInclusive<u64>) -> Window<u64> {
        let mut window = Window::default();
        for item in items {
            window.push(item, 10);
        }
        window
    }

    fn outcomes(window: &mut Window<u64>) -> Vec<(u64, PublishOutcome)> {
        std::iter::from_fn(|| window.pop()).collect()
    }

    #[test]
    fn messages_are_taken_in_order_whatever_the_order_of_acknowledgements() {
        let mut window = window(1..=3);
        window.acknowledge(2, false);
        assert_eq!(
            (
                outcomes(&mut window),
                window.unsettled(),
                window.len(),
                window.bytes()
            ),
            (vec![], 2, 3, 30)
        );
        window.acknowledge(1, false);
        assert_eq!(
            outcomes(&mut window),
            [
                (1, PublishOutcome::Confirmed),
                (2, PublishOutcome::Confirmed)
            ]
        );
        window.acknowledge(3, false);
        assert_eq!(
            (
                outcomes(&mut window),
                window.unsettled(),
                window.len(),
                window.bytes()
            ),
            (vec![(3, PublishOutcome::Confirmed)], 0, 0, 0)
        );
    }

    #[test]
    fn a_multiple_acknowledgement_does_not_change_what_was_refused_before() {
        let mut window = window(1..=5);
        window.refuse(3, false);
        window.acknowledge(5, true);
        let outcomes = outcomes(&mut window);
        assert_eq!(
            outcomes
                .iter()
                .filter(|(_, outcome)| *outcome == PublishOutcome::Refused)
                .count(),
            1
        );
        assert_eq!(outcomes[2], (3, PublishOutcome::Refused));
    }

    #[test]
    fn a_multiple_refusal_refuses_all_unsettled_messages() {
        let mut window = window(1..=3);
        window.acknowledge(1, false);
        window.refuse(2, true);
        assert_eq!(
            outcomes(&mut window),
            [(1, PublishOutcome::Confirmed), (2, PublishOutcome::Refused)]
        );
    }

    #[test]
    fn tags_count_on_after_messages_were_taken() {
        let mut window = window(1..=2);
        window.acknowledge(2, true);
        outcomes(&mut window);
        window.push(3, 10);
        window.acknowledge(2, true);
        assert_eq!(window.unsettled(), 1);
        window.acknowledge(3, false);
        assert_eq!(outcomes(&mut window), [(3, PublishOutcome::Confirmed)]);
    }

    #[test]
    fn unknown_tags_are_ignored() {
        let mut window = window(1..=1);
        window.acknowledge(0, false);
        window.acknowledge(0, true);
        window.acknowledge(7, false);
        assert_eq!(window.unsettled(), 1);
        window.acknowledge(u64::MAX, true);
        assert_eq!(outcomes(&mut window), [(1, PublishOutcome::Confirmed)]);
    }

    #[test]
    fn unsettled_messages_are_returned_in_order() {
        let mut window = window(1..=5);
        window.acknowledge(2, false);
        window.refuse(4, false);
        let (settled, unsettled) = window.into_outcomes();
        assert_eq!(
            settled,
            [(2, PublishOutcome::Confirmed), (4, PublishOutcome::Refused)]
        );
        assert_eq!(unsettled, [1, 3, 5]);
    }

    #[test]
    fn each_return_belongs_to_one_message() {
        let mut window = window(1..=4);
        let is_even = |item: &u64| (item % 2 == 0).then_some(ReturnMatch::Same);
        window.mark_returned("NO_ROUTE", is_even);
        window.mark_returned("NO_ROUTE", is_even);
        window.mark_returned("NO_ROUTE", is_even);
        window.acknowledge(4, true);
        let returned = PublishOutcome::Returned("NO_ROUTE".to_owned());
        assert_eq!(
            outcomes(&mut window),
            [
                (1, PublishOutcome::Confirmed),
                (2, returned.clone()),
                (3, PublishOutcome::Confirmed),
                (4, returned)
            ]
        );
    }

    #[test]
    fn a_return_belongs_to_the_oldest_best_match() {
        let mut window = window(1..=5);
        let compare = |item: &u64| match item {
            1 => None,
            4 => Some(ReturnMatch::Probable),
            5 => Some(ReturnMatch::Same),
            _ => Some(ReturnMatch::Possible),
        };
        for _ in 0..3 {
            window.mark_returned("NO_ROUTE", compare);
        }
        window.acknowledge(5, true);
        let outcomes = outcomes(&mut window);
        let returned = outcomes
            .iter()
            .filter(|(_, outcome)| *outcome != PublishOutcome::Confirmed);
        assert_eq!(
            returned.map(|(item, _)| *item).collect::<Vec<_>>(),
            [2, 4, 5]
        );
    }
}
