//! The batches in which messages are written: the current one, and those that the writer has.

use std::collections::VecDeque;

use super::deliveries::Ticket;

/// The most batches that the writer has: one that it writes, and one to follow.
const MAX_UNWRITTEN_BATCHES: usize = 2;

/// Messages `M` from the broker to the writer.
#[derive(Debug)]
pub(crate) struct Batches<M> {
    /// The most messages of a batch.
    messages_max: usize,
    /// The size from which on a batch takes no more messages.
    bytes_max: usize,
    messages: Vec<M>,
    /// The size of `messages`.
    current: Written,
    /// The batches that the writer has, oldest first.
    unwritten: VecDeque<Written>,
}

/// The size of consecutive messages, and the last of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) messages: u64,
    /// The size of their bodies.
    pub(crate) bytes: u64,
    /// The ticket of the last message.
    pub(crate) last: Ticket,
}

impl Written {
    /// Appends the messages that follow.
    pub(crate) fn add(&mut self, next: Self) {
        self.messages += next.messages;
        self.bytes += next.bytes;
        self.last = next.last;
    }
}

impl<M> Batches<M> {
    pub(crate) fn new(messages_max: usize, bytes_max: usize) -> Self {
        Self {
            messages_max,
            bytes_max,
            messages: Vec::new(),
            current: Written::default(),
            unwritten: VecDeque::new(),
        }
    }

    /// Whether the current batch takes one more message.
    pub(crate) fn has_room(&self) -> bool {
        self.messages.len() < self.messages_max && self.current.bytes < self.bytes_max as u64
    }

    /// Whether every message is written.
    pub(crate) fn is_written(&self) -> bool {
        self.messages.is_empty() && self.unwritten.is_empty()
    }

    /// Returns the size of the messages that are not yet written.
    pub(crate) fn unwritten(&self) -> Written {
        let mut all = Written::default();
        for batch in self.unwritten.iter().chain([&self.current]) {
            all.add(*batch);
        }
        all
    }

    /// Adds a message to the current batch.
    pub(crate) fn push(&mut self, message: M, size: Written) {
        self.messages.push(message);
        self.current.add(size);
    }

    /// Returns the current batch, to be written, if it has messages and the writer has room.
    pub(crate) fn next_batch(&mut self) -> Option<Vec<M>> {
        if self.unwritten.len() >= MAX_UNWRITTEN_BATCHES || self.messages.is_empty() {
            return None;
        }
        self.unwritten.push_back(std::mem::take(&mut self.current));
        Some(std::mem::take(&mut self.messages))
    }

    /// Notes that the writer's oldest batch is written and flushed, and returns its size.
    pub(crate) fn written(&mut self) -> Option<Written> {
        self.unwritten.pop_front()
    }

    /// Drops the current batch, whose messages are requeued.
    pub(crate) fn discard_current(&mut self) {
        self.messages.clear();
        self.current = Written::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(last: Ticket, bytes: u64) -> Written {
        Written {
            messages: 1,
            bytes,
            last,
        }
    }

    #[test]
    fn a_written_batch_has_its_size_and_last_message() {
        let mut batches = Batches::new(2, 100);
        assert_eq!((batches.next_batch(), batches.written()), (None, None));
        batches.push("a", one(1, 10));
        batches.push("b", one(2, 20));
        assert!(!batches.has_room());
        assert_eq!(batches.next_batch(), Some(vec!["a", "b"]));
        assert!(batches.has_room());
        batches.push("c", one(3, 5));
        assert_eq!(
            (batches.unwritten().messages, batches.unwritten().bytes),
            (3, 35)
        );
        let written = batches.written().unwrap();
        assert_eq!((written.messages, written.bytes, written.last), (2, 30, 2));
        assert_eq!(batches.next_batch(), Some(vec!["c"]));
        assert_eq!(batches.written(), Some(one(3, 5)));
        assert!(batches.is_written());
    }

    #[test]
    fn the_writer_has_at_most_two_batches() {
        let mut batches = Batches::new(1, 100);
        for n in 1..=2 {
            batches.push(n, one(n, 1));
            assert_eq!(batches.next_batch(), Some(vec![n]));
        }
        batches.push(3, one(3, 1));
        assert_eq!(batches.next_batch(), None);
        assert_eq!(batches.written(), Some(one(1, 1)));
        assert_eq!(batches.next_batch(), Some(vec![3]));
    }

    #[test]
    fn a_discarded_batch_is_never_written() {
        let mut batches = Batches::new(8, 100);
        batches.push(1, one(1, 1));
        batches.next_batch();
        batches.push(2, one(2, 1));
        batches.discard_current();
        assert_eq!(batches.next_batch(), None);
        assert_eq!(batches.unwritten().messages, 1);
        assert_eq!(batches.written(), Some(one(1, 1)));
        assert!(batches.is_written());
    }

    #[test]
    fn a_batch_is_bounded_by_bytes_too() {
        let mut batches = Batches::new(100, 10);
        batches.push("a", one(1, 9));
        assert!(batches.has_room());
        batches.push("b", one(2, 9));
        assert!(!batches.has_room());
        batches.next_batch();
        assert!(batches.has_room());
    }
}
