//! A message as hello-mq knows it, whatever the client library.

pub(crate) mod amqp10;
pub mod envelope;
mod field;
mod json;
mod part;
mod properties;

use std::time::SystemTime;

pub use field::{FieldTable, FieldValue, SHORT_STRING_MAX, ShortString};
pub use part::Part;
pub use properties::Properties;

/// The headers by which the broker sends copies of a message to other queues, each time that it is
/// published (<https://www.rabbitmq.com/docs/sender-selected>).
pub const COPY_HEADERS: [&[u8]; 2] = [b"CC", b"BCC"];

/// The headers in which a quorum queue counts how often it delivers a message.
pub const COUNT_HEADERS: [&[u8]; 2] = [b"x-delivery-count", b"x-acquired-count"];

/// A message.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    /// The exchange that it is, or was, published to; empty for the default exchange.
    pub exchange: String,
    /// The routing key that it is, or was, published with.
    pub routing_key: String,
    /// Whether it was delivered before, perhaps to another consumer.
    pub redelivered: bool,
    /// What it says of itself.
    pub properties: Properties,
    /// The content, unchanged.
    pub body: Vec<u8>,
    /// When it came, if it did.
    pub received: Option<SystemTime>,
    /// The parts that could not be read, and are not here.
    pub incomplete: Option<String>,
}

/// Messages that are handed over together. Each is in a box, as it is moved often and is big.
#[allow(clippy::vec_box)]
pub type Batch = Vec<Box<Message>>;

impl Message {
    /// How often it came back to its queue before, if the queue counts that, or its sender wrote so
    /// (<https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling>).
    pub fn delivery_count(&self) -> Option<u64> {
        // A message that comes for the first time did not come back, whatever its headers say.
        self.number(b"x-delivery-count")
            .filter(|count| self.redelivered && *count > 0)
    }

    /// How often its queue has delivered it before, as quorum queues say from RabbitMQ 4.3 on of what they
    /// have.
    pub fn acquired_count(&self) -> Option<u64> {
        self.number(b"x-acquired-count")
    }

    /// Its number in the stream that it came from, if it came from one
    /// (<https://www.rabbitmq.com/docs/streams#consuming>).
    pub fn stream_offset(&self) -> Option<u64> {
        self.number(b"x-stream-offset")
    }

    /// The number in a header that RabbitMQ sets.
    fn number(&self, header: &[u8]) -> Option<u64> {
        match self.properties.headers.as_ref()?.get(header)? {
            FieldValue::Long(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }
}
