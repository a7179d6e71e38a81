//! Consuming: in batches that are acknowledged together, or one message at a time.

mod batch;
pub(crate) mod batches;
pub(crate) mod consumer;
mod deliveries;
mod limit;
pub(crate) mod peek;
mod stream;
mod subscription;

pub(crate) use super::connection::WaitOutcome;
use crate::message::{FieldTable, FieldValue, Message, ShortString};
use crate::topology::QueueKind;
use crate::values::StreamOffset;
pub(crate) use deliveries::Ticket;
pub(crate) use stream::last_message_options;

/// The options of a consumer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ConsumeOptions {
    /// The number of messages to take; `None` for no limit.
    pub(crate) count: Option<u64>,
    /// The number of messages that the broker may send ahead of their acknowledgement.
    pub(crate) prefetch: u16,
    /// Whether the broker removes each message as soon as it has sent it.
    pub(crate) auto_ack: bool,
    pub(crate) exclusive: bool,
    pub(crate) priority: Option<i32>,
    /// The message of a stream to begin with.
    pub(crate) stream_offset: Option<StreamOffset>,
    /// Whether to end when the queue is empty. A stream is then read from its first message, unless
    /// `stream_offset` is set.
    pub(crate) drain: bool,
    /// The messages that are taken.
    pub(crate) selection: SelectionOptions,
}

/// The messages that are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum SelectionOptions {
    /// All.
    #[default]
    All,
    /// Those that the receiver decides to take. The others stay in the queue: they are held unacknowledged,
    /// up to this number, until the consumer ends. A stream keeps its messages anyway.
    Some { max_held: u64 },
    /// Those that the receiver decides to take. The others are dropped.
    Filter,
}

/// The decision about a message that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It is taken.
    Take,
    /// It leaves the queue, but is not passed on.
    Remove,
    /// It stays in the queue, as [`SelectionOptions`] say.
    Leave,
    /// It stays in the queue, and so do all that follow.
    End,
}

/// A function that decides about each message, and may change it.
pub(crate) type Decide<'d> = dyn FnMut(&mut Message) -> Decision + 'd;

impl ConsumeOptions {
    /// Returns whether the broker removes each message as soon as it has sent it. With a
    /// `count` it never does, because it would send, and remove, more messages than that.
    pub(crate) fn no_ack(&self) -> bool {
        self.auto_ack && self.count.is_none()
    }

    /// Returns the number of messages that have to come if this number is `left` to take; `None` if that can't
    /// be known.
    pub(crate) fn needed(&self, left: Option<u64>) -> Option<u64> {
        left.filter(|_| self.selection == SelectionOptions::All)
    }

    /// Returns the prefetch when this number of messages is `left` to come: at most that number, because
    /// further messages would go back to the queue, marked as redelivered, and the delivery limit of a quorum
    /// queue would count it.
    pub(crate) fn prefetch(&self, left: Option<u64>) -> u16 {
        let left = left.and_then(|left| u16::try_from(left).ok());
        // 0 would be no limit.
        left.map_or(self.prefetch, |left| left.clamp(1, self.prefetch.max(1)))
    }

    /// Returns the arguments of a consumer that continues at `next_offset` of a stream.
    pub(crate) fn arguments(
        &self,
        next_offset: Option<u64>,
        kind: Option<QueueKind>,
    ) -> FieldTable {
        let mut arguments = Vec::new();
        if let Some(priority) = self.priority {
            arguments.push(("x-priority", FieldValue::SignedInt(priority)));
        }
        let is_drained = self.drain && kind == Some(QueueKind::Stream);
        let default = is_drained.then_some(StreamOffset::First);
        let offset = next_offset.map(StreamOffset::Number);
        let offset = offset.or(self.stream_offset).or(default);
        if let Some(offset) = offset {
            let text = |text: &str| FieldValue::LongString(text.into());
            let offset = match offset {
                StreamOffset::First => text("first"),
                StreamOffset::Last => text("last"),
                StreamOffset::Next => text("next"),
                StreamOffset::Number(number) => {
                    FieldValue::Long(i64::try_from(number).unwrap_or(i64::MAX))
                }
                StreamOffset::Moment(moment) => FieldValue::Timestamp(moment.0),
            };
            arguments.push(("x-stream-offset", offset));
        }
        let named = |(name, value): (&str, FieldValue)| Some((ShortString::new(name).ok()?, value));
        arguments.into_iter().filter_map(named).collect()
    }
}

/// The messages that have left the queue for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Total {
    pub(crate) messages: u64,
    /// The size of their bodies.
    pub(crate) bytes: u64,
    /// The number of them that were rejected.
    pub(crate) rejected: u64,
}
