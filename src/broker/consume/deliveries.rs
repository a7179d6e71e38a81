//! The count of deliveries that are not yet settled.

use super::Total;

/// Identifies a delivery among all of this process. When its connection is lost, it is of no use any more,
/// and the broker delivers the message again.
pub(crate) type Ticket = u64;

/// The deliveries of one `receive`, over all its connections.
#[derive(Debug)]
pub(crate) struct Deliveries {
    /// The number of messages still to take; `None` for no limit.
    left: Option<u64>,
    /// The last ticket of the earlier connections. The broker numbers the deliveries of each connection from
    /// 1, so a ticket is the sum of `base` and the delivery tag.
    base: Ticket,
    last: Ticket,
    /// The number of unsettled deliveries on this connection.
    unsettled: u64,
    done: Total,
}

impl Deliveries {
    pub(crate) fn new(count: Option<u64>) -> Self {
        Self {
            left: count,
            base: 0,
            last: 0,
            unsettled: 0,
            done: Total::default(),
        }
    }

    /// Returns the number of messages still to take; `None` for no limit.
    pub(crate) fn left(&self) -> Option<u64> {
        self.left
    }

    /// Whether no more messages are to be taken.
    pub(crate) fn is_complete(&self) -> bool {
        self.left == Some(0)
    }

    /// Whether no delivery is unsettled.
    pub(crate) fn is_idle(&self) -> bool {
        self.unsettled == 0
    }

    /// Returns the messages that have left the queue for good.
    pub(crate) fn done(&self) -> Total {
        self.done
    }

    /// Adds the delivery with this tag.
    pub(crate) fn take(&mut self, tag: u64) -> Ticket {
        self.left = self.left.map(|left| left.saturating_sub(1));
        self.unsettled += 1;
        self.last = self.base + tag;
        self.last
    }

    /// Notes that a message has left the queue without being taken.
    pub(crate) fn remove(&mut self, bytes: u64) {
        self.left = self.left.map(|left| left.saturating_sub(1));
        self.done.messages += 1;
        self.done.bytes += bytes;
    }

    /// Returns the delivery tag of a ticket; `None` if its connection is lost.
    pub(crate) fn tag(&self, ticket: Ticket) -> Option<u64> {
        ticket.checked_sub(self.base).filter(|tag| *tag > 0)
    }

    /// Notes that messages have left the queue.
    pub(crate) fn finish(&mut self, total: Total) {
        self.unsettled = self.unsettled.saturating_sub(total.messages);
        self.done.messages += total.messages;
        self.done.bytes += total.bytes;
        self.done.rejected += total.rejected;
    }

    /// Notes that messages were requeued.
    pub(crate) fn requeue(&mut self, messages: u64) {
        self.unsettled = self.unsettled.saturating_sub(messages);
        self.left = self.left.map(|left| left + messages);
    }

    /// Notes the end of the connection, with which all unsettled messages are requeued.
    pub(crate) fn end_connection(&mut self) {
        self.requeue(self.unsettled);
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
    fn exactly_the_requested_number_is_taken() {
        let mut deliveries = Deliveries::new(Some(2));
        deliveries.take(1);
        assert!(!deliveries.is_complete());
        let second = deliveries.take(2);
        assert!(deliveries.is_complete() && !deliveries.is_idle());
        deliveries.finish(one(7));
        assert_eq!(deliveries.tag(second), Some(2));
        deliveries.requeue(1);
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
    fn a_ticket_has_no_tag_on_another_connection() {
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
