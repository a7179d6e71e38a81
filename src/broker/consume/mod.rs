//! Receiving: in batches that are acknowledged together, or one message at a time.

mod batch;
pub mod batches;
pub mod consumer;
mod deliveries;
mod limit;
pub mod peek;
mod stream;
mod subscription;

pub use super::connection::WaitOutcome;
use crate::message::{FieldTable, FieldValue, ShortString};
use crate::topology::QueueKind;
use crate::values::StreamOffset;
pub use deliveries::Ticket;

/// How to consume.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConsumeOptions {
    /// How many messages to take; `None` for any number.
    pub count: Option<u64>,
    /// How many messages the broker may send ahead of their acknowledgement.
    pub prefetch: u16,
    /// Let the broker forget each message as soon as it has sent it.
    pub auto_ack: bool,
    /// Be the queue's only consumer, or fail.
    pub exclusive: bool,
    /// Be served before consumers of a lower priority; 0 without.
    pub priority: Option<i32>,
    /// Where to begin in a stream.
    pub stream_offset: Option<StreamOffset>,
    /// End with what is in the queue. Of a stream that is all from where its reading begins.
    pub drain: bool,
}

impl ConsumeOptions {
    /// How many messages the broker may send ahead if so many are `left` to take: no more than
    /// that. One that goes back is marked as delivered before, and a quorum queue drops a message
    /// that went back too often.
    fn prefetch(&self, left: Option<u64>) -> u16 {
        let left = left.and_then(|left| u16::try_from(left).ok());
        // 0 would be any number.
        left.map_or(self.prefetch, |left| left.clamp(1, self.prefetch.max(1)))
    }

    /// The arguments of a consumer that goes on with the message `next_offset` of a stream.
    fn arguments(&self, next_offset: Option<u64>, kind: Option<QueueKind>) -> FieldTable {
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
pub struct Total {
    /// How many messages.
    pub messages: u64,
    /// How many bytes their bodies had.
    pub bytes: u64,
    /// How many of the messages were rejected.
    pub rejected: u64,
}
