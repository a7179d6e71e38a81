//! Messages that are settled one by one: what was taken, and what may still be.

use std::collections::BTreeMap;

/// Names one message that was taken, for as long as this process lasts.
pub type Ticket = u64;

/// The messages unsettled, by their receipts `R`, which are good for one connection only.
#[derive(Debug)]
pub struct Unsettled<R> {
    /// How many messages may still be taken; `None` for any number.
    left: Option<u64>,
    next: Ticket,
    receipts: BTreeMap<Ticket, R>,
}

impl<R> Unsettled<R> {
    /// Nothing unsettled yet, and `count` messages to take in all.
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

    /// Whether all the messages that were asked for are unsettled, or done.
    pub fn is_complete(&self) -> bool {
        self.left == Some(0)
    }

    /// Whether nothing is unsettled.
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

    /// Whether a message is unsettled.
    pub fn holds(&self, ticket: Ticket) -> bool {
        self.receipts.contains_key(&ticket)
    }

    /// The connection is gone, and all that was unsettled is back in the queue.
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
        let mut unsettled = Unsettled::new(None);
        let (first, second) = (unsettled.take("a"), unsettled.take("b"));
        assert_eq!(unsettled.finish(second), Some("b"));
        assert_eq!(unsettled.finish(second), None);
        assert_eq!(unsettled.give_back(first), Some("a"));
        assert!(unsettled.is_empty());
    }

    #[test]
    fn what_goes_back_can_be_taken_again() {
        let mut unsettled = Unsettled::new(Some(1));
        let ticket = unsettled.take("a");
        assert!(unsettled.is_complete());
        unsettled.give_back(ticket);
        assert!(!unsettled.is_complete());
        let ticket = unsettled.take("a");
        unsettled.finish(ticket);
        assert!(unsettled.is_complete() && unsettled.is_empty());
    }

    #[test]
    fn a_receipt_is_not_used_on_another_connection() {
        let mut unsettled = Unsettled::new(Some(2));
        let lost = unsettled.take("a");
        unsettled.lose_receipts();
        let again = unsettled.take("a");
        assert!(!unsettled.holds(lost) && unsettled.holds(again));
        assert_eq!(unsettled.finish(lost), None);
        assert!(!unsettled.is_complete());
    }
}
