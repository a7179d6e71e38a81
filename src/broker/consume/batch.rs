//! What has been received and not yet acknowledged: the book-keeping that must never lose a message.
//!
//! A message is taken from the broker into the batch in the making; the batch is handed over to be
//! written; and when it has been written and flushed, its last message's receipt acknowledges it and
//! all before it, sooner or later.

use std::collections::VecDeque;

use super::Total;

/// How many batches may be with the writer: one that it writes, one that it finds when done.
const HANDED_OVER: usize = 2;

/// The messages `M` of one consumer and their receipts `R`, which are good for one connection only.
#[derive(Debug)]
pub struct Batches<M, R> {
    /// How many messages may still be taken; `None` for any number.
    left: Option<u64>,
    /// What is written, and acknowledged.
    done: Total,
    /// The most messages of a batch.
    batch_max: usize,
    /// The size at which a batch takes no more messages.
    bytes_max: usize,
    batch: Vec<M>,
    /// Bytes of the batch.
    bytes: usize,
    last: Option<R>,
    /// The batches that are being written, oldest first.
    handed_over: VecDeque<HandedOver<R>>,
    /// What is written and not yet acknowledged.
    due: Option<HandedOver<R>>,
}

#[derive(Debug)]
struct HandedOver<R> {
    messages: u64,
    bytes: usize,
    /// The last message's receipt; `None` once the connection that it was good for is lost.
    receipt: Option<R>,
}

impl<M, R> Batches<M, R> {
    /// Batches that end after `count` messages, with so many messages in a batch at most, and no
    /// more once it has so many bytes.
    pub fn new(count: Option<u64>, batch_max: usize, bytes_max: usize) -> Self {
        Self {
            left: count,
            done: Total::default(),
            batch_max,
            bytes_max,
            batch: Vec::new(),
            bytes: 0,
            last: None,
            handed_over: VecDeque::new(),
            due: None,
        }
    }

    /// How many messages may still be taken; `None` for any number.
    pub fn left(&self) -> Option<u64> {
        self.left
    }

    /// What is written, and acknowledged.
    pub fn done(&self) -> Total {
        self.done
    }

    /// Whether one more message may be taken now.
    pub fn has_room(&self) -> bool {
        self.batch.len() < self.batch_max && self.bytes < self.bytes_max && !self.is_complete()
    }

    /// Whether all the messages that were asked for have been taken.
    pub fn is_complete(&self) -> bool {
        self.left == Some(0)
    }

    /// Whether nothing waits to be written or acknowledged.
    pub fn is_empty(&self) -> bool {
        self.is_written() && self.due.is_none()
    }

    /// Whether nothing waits to be written.
    pub fn is_written(&self) -> bool {
        self.batch.is_empty() && self.handed_over.is_empty()
    }

    /// How many messages are written and not yet acknowledged.
    pub fn due(&self) -> u64 {
        self.due.as_ref().map_or(0, |due| due.messages)
    }

    /// How many messages were taken and are not yet written.
    pub fn unwritten(&self) -> u64 {
        let handed_over: u64 = self.handed_over.iter().map(|batch| batch.messages).sum();
        handed_over + self.batch.len() as u64
    }

    /// How many bytes the messages have that were taken and are not yet written.
    pub fn held(&self) -> usize {
        let handed_over: usize = self.handed_over.iter().map(|batch| batch.bytes).sum();
        handed_over + self.bytes
    }

    /// Takes a message of so many bytes that the broker delivered.
    pub fn take(&mut self, message: M, bytes: usize, receipt: R) {
        self.batch.push(message);
        self.bytes += bytes;
        self.last = Some(receipt);
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(1);
        }
    }

    /// The batch to be written next, if there is one and the writer has room.
    pub fn hand_over(&mut self) -> Option<Vec<M>> {
        if self.handed_over.len() >= HANDED_OVER || self.batch.is_empty() {
            return None;
        }
        let messages = self.batch.len() as u64;
        self.handed_over.push_back(HandedOver {
            messages,
            bytes: self.bytes,
            receipt: self.last.take(),
        });
        self.bytes = 0;
        Some(std::mem::take(&mut self.batch))
    }

    /// Notes that the oldest batch with the writer is written and flushed. It is due to be
    /// acknowledged, unless the broker will deliver it again anyway.
    pub fn written(&mut self) {
        let written = self.handed_over.pop_front();
        if let Some(mut written) = written.filter(|batch| batch.receipt.is_some()) {
            if let Some(due) = &self.due {
                written.messages += due.messages;
                written.bytes += due.bytes;
            }
            self.due = Some(written);
        }
    }

    /// The receipt that acknowledges all that is due, and with it all messages before.
    pub fn acknowledge(&mut self) -> Option<R> {
        let due = self.due.take()?;
        self.done.messages += due.messages;
        self.done.bytes += due.bytes as u64;
        due.receipt
    }

    /// Forgets the batch in the making: its messages go back to the queue.
    pub fn forget_batch(&mut self) {
        self.put_back(self.batch.len() as u64);
        self.batch.clear();
        self.bytes = 0;
        self.last = None;
    }

    /// Forgets every receipt: the connection is gone, and all that was not acknowledged is back in
    /// the queue, that with the writer included.
    pub fn lose_receipts(&mut self) {
        self.forget_batch();
        let due = self.due.take().map_or(0, |due| due.messages);
        let messages: u64 = self
            .handed_over
            .iter_mut()
            .filter_map(|batch| batch.receipt.take().map(|_| batch.messages))
            .sum();
        self.put_back(due + messages);
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

    /// Writes the oldest batch, and acknowledges it at once.
    fn settle<M, R>(batches: &mut Batches<M, R>) -> Option<R> {
        batches.written();
        batches.acknowledge()
    }

    #[test]
    fn what_is_written_may_be_acknowledged_together() {
        let mut batches = Batches::new(Some(3), 1, 100);
        for n in 1..=3 {
            batches.take(n, 10, n);
            batches.hand_over();
            batches.written();
            assert!(batches.is_written() && !batches.is_empty());
        }
        assert_eq!((batches.due(), batches.done()), (3, Total::default()));
        assert_eq!(batches.acknowledge(), Some(3));
        assert_eq!((batches.done().messages, batches.done().bytes), (3, 30));
        assert!(batches.is_empty() && batches.acknowledge().is_none());
    }

    #[test]
    fn what_is_not_acknowledged_before_the_connection_is_lost_comes_again() {
        let mut batches = Batches::new(Some(2), 1, 100);
        batches.take("a", 1, 1);
        batches.hand_over();
        batches.written();
        batches.take("b", 1, 2);
        batches.lose_receipts();
        assert_eq!((batches.left(), batches.due()), (Some(2), 0));
        assert_eq!(
            (batches.acknowledge(), batches.done()),
            (None, Total::default())
        );
    }

    #[test]
    fn a_receipt_comes_out_only_for_what_was_written() {
        let mut batches = Batches::new(None, 2, 100);
        assert_eq!(
            (batches.hand_over(), settle(&mut batches)),
            (None::<Vec<&str>>, None)
        );
        batches.take("a", 1, 1);
        batches.take("b", 1, 2);
        assert!(!batches.has_room());
        assert_eq!(batches.hand_over(), Some(vec!["a", "b"]));
        assert!(batches.has_room() && !batches.is_empty());
        batches.take("c", 1, 3);
        assert_eq!(settle(&mut batches), Some(2));
        assert_eq!(batches.hand_over(), Some(vec!["c"]));
        assert_eq!(settle(&mut batches), Some(3));
        assert!(batches.is_empty());
        assert_eq!(settle(&mut batches), None);
    }

    #[test]
    fn at_most_two_batches_are_handed_over() {
        let mut batches = Batches::new(None, 1, 100);
        for n in 1..=2 {
            batches.take(n, 1, n);
            assert_eq!(batches.hand_over(), Some(vec![n]));
        }
        batches.take(3, 1, 3);
        assert_eq!(batches.hand_over(), None);
        assert_eq!(settle(&mut batches), Some(1));
        assert_eq!(batches.hand_over(), Some(vec![3]));
    }

    #[test]
    fn exactly_the_asked_for_number_is_taken() {
        let mut batches = Batches::new(Some(2), 100, 100);
        batches.take(1, 1, 1);
        assert!(batches.has_room() && !batches.is_complete());
        batches.take(2, 1, 2);
        assert!(!batches.has_room() && batches.is_complete());
    }

    #[test]
    fn what_is_forgotten_is_never_acknowledged() {
        let mut batches = Batches::new(None, 8, 100);
        batches.take(1, 1, 1);
        batches.hand_over();
        batches.take(2, 1, 2);
        batches.forget_batch();
        assert_eq!(
            (
                batches.hand_over(),
                settle(&mut batches),
                batches.hand_over(),
                settle(&mut batches)
            ),
            (None, Some(1), None, None)
        );
        assert!(batches.is_empty());
    }

    #[test]
    fn a_receipt_is_not_used_on_another_connection() {
        let mut batches = Batches::new(Some(4), 8, 100);
        batches.take("a", 1, 1);
        batches.hand_over();
        batches.take("b", 20, 2);
        batches.lose_receipts();
        assert_eq!(batches.left(), Some(4));
        // The new connection delivers both again while the first is still being written.
        batches.take("a", 1, 1);
        batches.take("b", 20, 2);
        assert_eq!(batches.hand_over(), Some(vec!["a", "b"]));
        assert_eq!(
            (settle(&mut batches), batches.done()),
            (None, Total::default())
        );
        assert_eq!(settle(&mut batches), Some(2));
        let (messages, bytes) = (batches.done().messages, batches.done().bytes);
        assert_eq!((messages, bytes), (2, 1 + 20));
        assert!(batches.is_empty());
        assert_eq!(batches.left(), Some(2));
    }

    #[test]
    fn a_batch_is_bounded_by_bytes_too() {
        let mut batches = Batches::new(None, 100, 10);
        batches.take("a", 9, 1);
        assert!(batches.has_room());
        batches.take("b", 9, 2);
        assert!(!batches.has_room());
        batches.hand_over();
        assert!(batches.has_room());
    }
}
