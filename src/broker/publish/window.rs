//! The messages that are published and not yet confirmed, by the tags that the broker counts.
//!
//! The broker numbers the messages of a channel in confirm mode from 1, and acknowledges or refuses
//! them in any order, one by one or all up to a tag (<https://www.rabbitmq.com/docs/confirms>).

use std::collections::VecDeque;

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishOutcome {
    /// The broker has it, in a queue.
    Confirmed,
    /// No queue took it, in the broker's words.
    Returned(String),
    /// The broker could not take it.
    Refused,
}

/// The published messages of one channel, oldest first, up to the first whose fate is not known.
#[derive(Debug)]
pub struct Window<T> {
    /// The tag of the first entry.
    first_tag: u64,
    entries: VecDeque<Unconfirmed<T>>,
    /// How many entries wait for the broker.
    waiting: usize,
    /// Bytes of all entries.
    bytes: usize,
}

#[derive(Debug)]
struct Unconfirmed<T> {
    item: T,
    bytes: usize,
    /// The broker's words, if it came back; the acknowledgement still follows.
    returned: Option<String>,
    settled: Option<Confirmation>,
}

/// How much a message that came back is like one that was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReturnMatch {
    /// It goes to the same place and has the same body.
    Possible,
    /// It has the same ids, too.
    Probable,
    /// It is the same in all.
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
            waiting: 0,
            bytes: 0,
        }
    }
}

impl<T> Window<T> {
    /// Adds a message of so many bytes that has just been published.
    pub fn push(&mut self, item: T, bytes: usize) {
        self.entries.push_back(Unconfirmed {
            item,
            bytes,
            returned: None,
            settled: None,
        });
        self.waiting += 1;
        self.bytes += bytes;
    }

    /// How many messages wait for the broker.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many messages are here, those included that only wait for an older one's fate.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many bytes these messages have.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Notes that the broker acknowledged the message with this tag, or all up to it.
    pub fn acknowledge(&mut self, tag: u64, multiple: bool) {
        self.settle(tag, multiple, Confirmation::Acknowledged);
    }

    /// Notes that the broker refused the message with this tag, or all up to it.
    pub fn refuse(&mut self, tag: u64, multiple: bool) {
        self.settle(tag, multiple, Confirmation::Refused);
    }

    fn settle(&mut self, tag: u64, multiple: bool, how: Confirmation) {
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
                entry.settled = Some(how);
                self.waiting -= 1;
            }
        }
    }

    /// Notes that a message came back. A return carries no tag, but it comes before its message's
    /// acknowledgement and in the order of publication: it is the oldest that has not come back
    /// already and that is most alike, where `likeness` is `None` for what can't be it.
    pub fn give_back(&mut self, said: &str, likeness: impl Fn(&T) -> Option<ReturnMatch>) {
        let mut best: Option<(ReturnMatch, usize)> = None;
        for (index, entry) in self.entries.iter().enumerate() {
            if entry.settled.is_some() || entry.returned.is_some() {
                continue;
            }
            let likeness = likeness(&entry.item);
            if likeness > best.map(|(likeness, _)| likeness) {
                best = likeness.map(|likeness| (likeness, index));
            }
            if likeness == Some(ReturnMatch::Same) {
                break;
            }
        }
        if let Some(entry) = best.and_then(|(_, index)| self.entries.get_mut(index)) {
            entry.returned = Some(said.to_owned());
        }
    }

    /// The message that was published last, if it is still here.
    #[must_use]
    pub fn newest(&self) -> Option<&T> {
        self.entries.back().map(|entry| &entry.item)
    }

    /// Takes everything out: the messages whose fate is known, with it, and those that wait for
    /// the broker, both in order.
    #[must_use]
    pub fn take_apart(mut self) -> (Vec<(T, PublishOutcome)>, Vec<T>) {
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        while let Some(entry) = self.entries.pop_front() {
            match entry.settled {
                Some(settled) => known.push((entry.item, fate(settled, entry.returned))),
                None => unknown.push(entry.item),
            }
        }
        (known, unknown)
    }

    /// Takes the oldest message out if its fate is known.
    pub fn pop(&mut self) -> Option<(T, PublishOutcome)> {
        let settled = self.entries.front()?.settled?;
        let entry = self.entries.pop_front()?;
        self.first_tag += 1;
        self.bytes -= entry.bytes;
        Some((entry.item, fate(settled, entry.returned)))
    }
}

fn fate(settled: Confirmation, returned: Option<String>) -> PublishOutcome {
    match (settled, returned) {
        (Confirmation::Refused, _) => PublishOutcome::Refused,
        (Confirmation::Acknowledged, Some(said)) => PublishOutcome::Returned(said),
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

    fn fates(window: &mut Window<u64>) -> Vec<(u64, PublishOutcome)> {
        std::iter::from_fn(|| window.pop()).collect()
    }

    #[test]
    fn messages_leave_in_order_whatever_the_order_of_acknowledgements() {
        let mut window = window(1..=3);
        window.acknowledge(2, false);
        assert_eq!(
            (
                fates(&mut window),
                window.waiting(),
                window.len(),
                window.bytes()
            ),
            (vec![], 2, 3, 30)
        );
        window.acknowledge(1, false);
        assert_eq!(
            fates(&mut window),
            [
                (1, PublishOutcome::Confirmed),
                (2, PublishOutcome::Confirmed)
            ]
        );
        window.acknowledge(3, false);
        assert_eq!(
            (
                fates(&mut window),
                window.waiting(),
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
        let fates = fates(&mut window);
        assert_eq!(
            fates
                .iter()
                .filter(|(_, fate)| *fate == PublishOutcome::Refused)
                .count(),
            1
        );
        assert_eq!(fates[2], (3, PublishOutcome::Refused));
    }

    #[test]
    fn a_multiple_refusal_refuses_all_that_wait() {
        let mut window = window(1..=3);
        window.acknowledge(1, false);
        window.refuse(2, true);
        assert_eq!(
            fates(&mut window),
            [(1, PublishOutcome::Confirmed), (2, PublishOutcome::Refused)]
        );
    }

    #[test]
    fn tags_go_on_when_messages_have_left() {
        let mut window = window(1..=2);
        window.acknowledge(2, true);
        fates(&mut window);
        window.push(3, 10);
        window.acknowledge(2, true);
        assert_eq!(window.waiting(), 1);
        window.acknowledge(3, false);
        assert_eq!(fates(&mut window), [(3, PublishOutcome::Confirmed)]);
    }

    #[test]
    fn tags_that_can_not_be_are_ignored() {
        let mut window = window(1..=1);
        window.acknowledge(0, false);
        window.acknowledge(0, true);
        window.acknowledge(7, false);
        assert_eq!(window.waiting(), 1);
        window.acknowledge(u64::MAX, true);
        assert_eq!(fates(&mut window), [(1, PublishOutcome::Confirmed)]);
    }

    #[test]
    fn what_waits_is_what_must_be_sent_again() {
        let mut window = window(1..=5);
        window.acknowledge(2, false);
        window.refuse(4, false);
        let (known, unknown) = window.take_apart();
        assert_eq!(
            known,
            [(2, PublishOutcome::Confirmed), (4, PublishOutcome::Refused)]
        );
        assert_eq!(unknown, [1, 3, 5]);
    }

    #[test]
    fn each_return_belongs_to_one_message() {
        let mut window = window(1..=4);
        let is_even = |item: &u64| (item % 2 == 0).then_some(ReturnMatch::Same);
        window.give_back("NO_ROUTE", is_even);
        window.give_back("NO_ROUTE", is_even);
        window.give_back("NO_ROUTE", is_even);
        window.acknowledge(4, true);
        let returned = PublishOutcome::Returned("NO_ROUTE".to_owned());
        assert_eq!(
            fates(&mut window),
            [
                (1, PublishOutcome::Confirmed),
                (2, returned.clone()),
                (3, PublishOutcome::Confirmed),
                (4, returned)
            ]
        );
    }

    #[test]
    fn a_return_belongs_to_the_oldest_of_those_that_are_most_alike() {
        let mut window = window(1..=5);
        let likeness = |item: &u64| match item {
            1 => None,
            4 => Some(ReturnMatch::Probable),
            5 => Some(ReturnMatch::Same),
            _ => Some(ReturnMatch::Possible),
        };
        for _ in 0..3 {
            window.give_back("NO_ROUTE", likeness);
        }
        window.acknowledge(5, true);
        let fates = fates(&mut window);
        let returned = fates
            .iter()
            .filter(|(_, fate)| *fate != PublishOutcome::Confirmed);
        assert_eq!(
            returned.map(|(item, _)| *item).collect::<Vec<_>>(),
            [2, 4, 5]
        );
    }
}
