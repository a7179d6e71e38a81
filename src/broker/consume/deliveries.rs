//! Deliveries that are not yet settled: the book-keeping that must never lose a message.

use super::Total;

/// Names one delivery for as long as this process lasts. It is of use only as long as the connection
/// that brought the delivery: when that is lost, the broker delivers the message again.
pub type Ticket = u64;

/// The deliveries of one `receive`, over all its connections.
#[derive(Debug)]
pub struct Deliveries {
    /// How many messages may still be taken; `None` for any number.
    left: Option<u64>,
    /// The last ticket of the connections before. The broker counts the deliveries of each connection
    /// from 1, so that the others follow from their tags.
    base: Ticket,
    last: Ticket,
    /// How many were taken on this connection and are not settled.
    unsettled: u64,
    done: Total,
}

impl Deliveries {
    /// No delivery yet, and `count` to take in all.
    pub fn new(count: Option<u64>) -> Self {
        Self {
            left: count,
            base: 0,
            last: 0,
            unsettled: 0,
            done: Total::default(),
        }
    }

    /// How many messages may still be taken; `None` for any number.
    pub fn left(&self) -> Option<u64> {
        self.left
    }

    /// Whether all the messages that were asked for are taken, or done.
    pub fn is_complete(&self) -> bool {
        self.left == Some(0)
    }

    /// Whether nothing is unsettled.
    pub fn is_idle(&self) -> bool {
        self.unsettled == 0
    }

    /// The messages that have left the queue for good.
    pub fn done(&self) -> Total {
        self.done
    }

    /// Takes the delivery with this tag.
    pub fn take(&mut self, tag: u64) -> Ticket {
        self.left = self.left.map(|left| left.saturating_sub(1));
        self.unsettled += 1;
        self.last = self.base + tag;
        self.last
    }

    /// The broker's tag of a delivery; `None` if its connection is lost.
    pub fn tag(&self, ticket: Ticket) -> Option<u64> {
        ticket.checked_sub(self.base).filter(|tag| *tag > 0)
    }

    /// Notes that so many messages have left the queue.
    pub fn finish(&mut self, total: Total) {
        self.unsettled = self.unsettled.saturating_sub(total.messages);
        self.done.messages += total.messages;
        self.done.bytes += total.bytes;
        self.done.rejected += total.rejected;
    }

    /// Notes that so many messages are back in the queue.
    pub fn give_back(&mut self, messages: u64) {
        self.unsettled = self.unsettled.saturating_sub(messages);
        self.left = self.left.map(|left| left + messages);
    }

    /// Ends the connection: all that is unsettled is back in the queue.
    pub fn end_connection(&mut self) {
        self.give_back(self.unsettled);
        self.base = self.last;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(bytes: u64) -> Total {
        Total {
            messages: 1,
            bytes,
            rejected: 0,
        }
    }

    #[test]
    fn exactly_the_asked_for_number_is_taken() {
        let mut deliveries = Deliveries::new(Some(2));
        deliveries.take(1);
        assert!(!deliveries.is_complete());
        let second = deliveries.take(2);
        assert!(deliveries.is_complete() && !deliveries.is_idle());
        deliveries.finish(one(7));
        assert_eq!(deliveries.tag(second), Some(2));
        deliveries.give_back(1);
        assert!(!deliveries.is_complete() && deliveries.is_idle());
        deliveries.take(3);
        deliveries.finish(one(5));
        assert!(deliveries.is_complete() && deliveries.is_idle());
        assert_eq!(
            (deliveries.done().messages, deliveries.done().bytes),
            (2, 12)
        );
    }

    #[test]
    fn a_ticket_is_of_no_use_on_another_connection() {
        let mut deliveries = Deliveries::new(Some(2));
        let lost = deliveries.take(1);
        deliveries.end_connection();
        assert_eq!((deliveries.left(), deliveries.tag(lost)), (Some(2), None));
        let again = deliveries.take(1);
        assert!(lost != again);
        assert_eq!(
            (deliveries.tag(lost), deliveries.tag(again)),
            (None, Some(1))
        );
    }
}
