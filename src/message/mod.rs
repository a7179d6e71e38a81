//! Messages, independent of the client library.

pub(crate) mod amqp10;
mod encoding;
pub mod envelope;
mod field;
mod json;
mod part;
mod properties;

use std::time::SystemTime;

pub use encoding::{ContentEncoding, DecodeError};
pub use field::{FieldTable, FieldValue, SHORT_STRING_MAX, ShortString};
pub use part::Part;
pub use properties::Properties;

/// The headers that ask the broker for copies of a published message to other routing keys
/// (<https://www.rabbitmq.com/docs/sender-selected>).
pub const COPY_HEADERS: [&[u8]; 2] = [b"CC", b"BCC"];

/// The headers that tell of the deaths of a dead letter. Those of the last death are of RabbitMQ 4
/// (<https://www.rabbitmq.com/docs/dlx#effects>).
pub const DEATH_HEADERS: [&[u8]; 7] = [
    b"x-death",
    b"x-first-death-exchange",
    b"x-first-death-queue",
    b"x-first-death-reason",
    b"x-last-death-exchange",
    b"x-last-death-queue",
    b"x-last-death-reason",
];

/// The headers in which a quorum queue counts its deliveries of a message.
pub const COUNT_HEADERS: [&[u8]; 2] = [b"x-delivery-count", b"x-acquired-count"];

/// A message.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    /// The exchange to which it is published, or was; empty for the default exchange.
    pub exchange: String,
    /// The routing key.
    pub routing_key: String,
    /// Whether it was delivered before, perhaps to another consumer.
    pub redelivered: bool,
    /// The properties.
    pub properties: Properties,
    /// The body.
    pub body: Vec<u8>,
    /// The encoding that the body had when it arrived, if it is decoded.
    pub decoded: Option<ContentEncoding>,
    /// The time of its arrival, if it was received.
    pub received: Option<SystemTime>,
    /// A description of the parts that could not be read, and are missing.
    pub incomplete: Option<String>,
}

/// Messages that are passed on together. They are boxed because they are large and moved often.
#[allow(clippy::vec_box)]
pub type Batch = Vec<Box<Message>>;

impl Message {
    /// Returns how often it was returned to its queue, if the queue counts that or its sender set the header
    /// (<https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling>).
    pub fn delivery_count(&self) -> Option<u64> {
        // A first delivery was never returned, whatever the header says.
        self.number(b"x-delivery-count")
            .filter(|count| self.redelivered && *count > 0)
    }

    /// Returns how often its queue delivered it before, which quorum queues count since RabbitMQ 4.3.
    pub fn acquired_count(&self) -> Option<u64> {
        self.number(b"x-acquired-count")
    }

    /// Returns its offset in its stream, if it comes from one
    /// (<https://www.rabbitmq.com/docs/streams#consuming>).
    pub fn stream_offset(&self) -> Option<u64> {
        self.number(b"x-stream-offset")
    }

    /// Returns the number in a header that RabbitMQ sets.
    fn number(&self, header: &[u8]) -> Option<u64> {
        match self.properties.headers.as_ref()?.get(header)? {
            FieldValue::Long(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }
}
