//! Messages that are settled one by one: what was taken, and what may still be.

use std::collections::BTreeMap;

/// Names one message that was taken, for as long as this process lasts.
pub type Ticket = u64;

/// The messages in hand, by their receipts `R`, which are good for one connection only.
#[derive(Debug)]
pub struct Hands<R> {
    /// How many messages may still be taken; `None` for any number.
    left: Option<u64>,
    next: Ticket,
    receipts: BTreeMap<Ticket, R>,
}

impl<R> Hands<R> {
    /// Nothing in hand yet, and `count` messages to take in all.
    pub fn new(count: Option<u64>) -> Self {
        Self {
            left: count,
            next: 0,
            receipts: BTreeMap::new(),
        }
    }

    /// How many messages may still be taken; `None` for any number.
    pub fn left(&self) -> Option<u64> {
        self.left
    }

    /// Whether all the messages that were asked for are in hand, or done.
    pub fn is_complete(&self) -> bool {
        self.left == Some(0)
    }

    /// Whether nothing is in hand.
    pub fn is_empty(&self) -> bool {
        self.receipts.is_empty()
    }

    /// Takes a message.
    pub fn take(&mut self, receipt: R) -> Ticket {
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(1);
        }
        self.next += 1;
        self.receipts.insert(self.next, receipt);
        self.next
    }

    /// The receipt of a message that leaves the queue for good; none if its connection is lost, and
    /// the broker delivers it again.
    pub fn finish(&mut self, ticket: Ticket) -> Option<R> {
        self.receipts.remove(&ticket)
    }

    /// The receipt of a message that goes back to the queue.
    pub fn give_back(&mut self, ticket: Ticket) -> Option<R> {
        let receipt = self.receipts.remove(&ticket)?;
        self.put_back(1);
        Some(receipt)
    }

    /// Whether a message is in hand.
    pub fn holds(&self, ticket: Ticket) -> bool {
        self.receipts.contains_key(&ticket)
    }

    /// The connection is gone, and all that was in hand is back in the queue.
    pub fn lose_receipts(&mut self) {
        self.put_back(self.receipts.len() as u64);
        self.receipts.clear();
    }

    fn put_back(&mut self, messages: u64) {
        if let Some(left) = &mut self.left {
            *left += messages;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_settled_in_any_order_and_once() {
        let mut hands = Hands::new(None);
        let (first, second) = (hands.take("a"), hands.take("b"));
        assert_eq!(hands.finish(second), Some("b"));
        assert_eq!(hands.finish(second), None);
        assert_eq!(hands.give_back(first), Some("a"));
        assert!(hands.is_empty());
    }

    #[test]
    fn what_goes_back_can_be_taken_again() {
        let mut hands = Hands::new(Some(1));
        let ticket = hands.take("a");
        assert!(hands.is_complete());
        hands.give_back(ticket);
        assert!(!hands.is_complete());
        let ticket = hands.take("a");
        hands.finish(ticket);
        assert!(hands.is_complete() && hands.is_empty());
    }

    #[test]
    fn a_receipt_is_not_used_on_another_connection() {
        let mut hands = Hands::new(Some(2));
        let lost = hands.take("a");
        hands.lose_receipts();
        let again = hands.take("a");
        assert!(!hands.holds(lost) && hands.holds(again));
        assert_eq!(hands.finish(lost), None);
        assert!(!hands.is_complete());
    }
}
