//! The batches in which messages are written: the one in the making, those with the writer, and what
//! is written and not yet acknowledged.

use std::collections::VecDeque;

use super::deliveries::Ticket;

/// How many batches may be with the writer: one that it writes, one that it finds when done.
const MAX_UNWRITTEN_BATCHES: usize = 2;

/// Messages `M` from the broker to the writer.
#[derive(Debug)]
pub struct Batches<M> {
    /// The most messages of a batch.
    messages_max: usize,
    /// The size at which a batch takes no more messages.
    bytes_max: usize,
    batch: Vec<M>,
    making: Written,
    /// The batches that are being written, oldest first.
    handed_over: VecDeque<Written>,
}

/// The size of a batch, or of several in a row, and its last message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// How many messages.
    pub messages: u64,
    /// How many bytes their bodies have.
    pub bytes: u64,
    /// The last one's ticket.
    pub last: Ticket,
}

impl Written {
    /// Adds what comes after it.
    pub fn add(&mut self, next: Self) {
        self.messages += next.messages;
        self.bytes += next.bytes;
        self.last = next.last;
    }
}

impl<M> Batches<M> {
    /// Batches of so many messages at most, and no more once they have so many bytes.
    pub fn new(messages_max: usize, bytes_max: usize) -> Self {
        Self {
            messages_max,
            bytes_max,
            batch: Vec::new(),
            making: Written::default(),
            handed_over: VecDeque::new(),
        }
    }

    /// Whether one more message may be taken now.
    pub fn has_room(&self) -> bool {
        self.batch.len() < self.messages_max && self.bytes() < self.bytes_max
    }

    fn bytes(&self) -> usize {
        usize::try_from(self.making.bytes).unwrap_or(usize::MAX)
    }

    /// Whether nothing waits to be written.
    pub fn is_written(&self) -> bool {
        self.batch.is_empty() && self.handed_over.is_empty()
    }

    /// Returns how many messages were taken and are not yet written, and how many bytes they have.
    pub fn unwritten(&self) -> (u64, usize) {
        let batches = self.handed_over.iter().chain([&self.making]);
        let (messages, bytes) = batches.fold((0, 0), |(messages, bytes), batch| {
            (messages + batch.messages, bytes + batch.bytes)
        });
        (messages, usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    /// Takes a message.
    pub fn take(&mut self, message: M, it: Written) {
        self.batch.push(message);
        self.making.add(it);
    }

    /// The batch to be written next, if there is one and the writer has room.
    pub fn hand_over(&mut self) -> Option<Vec<M>> {
        if self.handed_over.len() >= MAX_UNWRITTEN_BATCHES || self.batch.is_empty() {
            return None;
        }
        self.handed_over.push_back(std::mem::take(&mut self.making));
        Some(std::mem::take(&mut self.batch))
    }

    /// Notes that the oldest batch with the writer is written and flushed, and returns it.
    pub fn written(&mut self) -> Option<Written> {
        self.handed_over.pop_front()
    }

    /// Forgets the batch in the making: its messages go back to the queue. Returns how many they are.
    pub fn forget_batch(&mut self) -> u64 {
        self.batch.clear();
        std::mem::take(&mut self.making).messages
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
    fn a_batch_is_known_by_its_last_message_once_it_is_written() {
        let mut batches = Batches::new(2, 100);
        assert_eq!((batches.hand_over(), batches.written()), (None, None));
        batches.take("a", one(1, 10));
        batches.take("b", one(2, 20));
        assert!(!batches.has_room());
        assert_eq!(batches.hand_over(), Some(vec!["a", "b"]));
        assert!(batches.has_room());
        batches.take("c", one(3, 5));
        assert_eq!(batches.unwritten(), (3, 35));
        let written = batches.written().unwrap();
        assert_eq!((written.messages, written.bytes, written.last), (2, 30, 2));
        assert_eq!(batches.hand_over(), Some(vec!["c"]));
        assert_eq!(batches.written(), Some(one(3, 5)));
        assert!(batches.is_written());
    }

    #[test]
    fn at_most_two_batches_are_handed_over() {
        let mut batches = Batches::new(1, 100);
        for n in 1..=2 {
            batches.take(n, one(n, 1));
            assert_eq!(batches.hand_over(), Some(vec![n]));
        }
        batches.take(3, one(3, 1));
        assert_eq!(batches.hand_over(), None);
        assert_eq!(batches.written(), Some(one(1, 1)));
        assert_eq!(batches.hand_over(), Some(vec![3]));
    }

    #[test]
    fn what_is_forgotten_is_never_written() {
        let mut batches = Batches::new(8, 100);
        batches.take(1, one(1, 1));
        batches.hand_over();
        batches.take(2, one(2, 1));
        assert_eq!(batches.forget_batch(), 1);
        assert_eq!((batches.hand_over(), batches.unwritten()), (None, (1, 1)));
        assert_eq!(batches.written(), Some(one(1, 1)));
        assert!(batches.is_written());
    }

    #[test]
    fn a_batch_is_bounded_by_bytes_too() {
        let mut batches = Batches::new(100, 10);
        batches.take("a", one(1, 9));
        assert!(batches.has_room());
        batches.take("b", one(2, 9));
        assert!(!batches.has_room());
        batches.hand_over();
        assert!(batches.has_room());
    }
}
