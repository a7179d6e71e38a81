//! Envelopes: messages as JSON objects, written and read without loss.
//!
//! The names are those of RabbitMQ's management API (`payload`, `payload_encoding`, `properties`,
//! `routing_key`, …). A header is written as plain JSON if that determines its AMQP type:
//!
//! | JSON | AMQP |
//! |---|---|
//! | string | `longstr` |
//! | `true`, `false` | `bool` |
//! | number without fraction | `signedint` if it fits into 32 bits, otherwise `long` |
//! | number with fraction or exponent | `double` |
//! | array, object, `null` | `array`, `table`, `void` |
//!
//! Any other value is an object with RabbitMQ's name of its type:
//! `{"!amqp":"timestamp","value":1700000000}`, `{"!amqp":"binary","base64":"AAE="}`. RabbitMQ has no
//! name for `longlong` (the type `L`) and for `field`, the encoded bytes of a value.

mod read;
mod write;

use std::time::SystemTime;

use super::{
    ContentEncoding, FieldTable, FieldValue, Message, Properties, ShortString, amqp10, json,
};
pub use read::parse;
pub(crate) use read::{check_beginning, parse_value};
pub use write::write;
pub(crate) use write::{write_decoded, write_table, write_value};

/// The key of the type in an object that represents a value of that type.
const TAG: &str = "!amqp";

/// The key of the parts of a received message that could not be read.
const INCOMPLETE: &str = "incomplete";

/// The key of the decoded body of a message from AMQP 1.0.
const AMQP10_VALUE: &str = "amqp10_value";

/// The key of the encoding that the payload had, if it is decoded.
const DECODED: &str = "decoded";

/// A message to send, as read from an envelope.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Envelope {
    /// The exchange, if the envelope names one.
    pub exchange: Option<String>,
    /// The routing key, if the envelope has one.
    pub routing_key: Option<String>,
    /// The properties.
    pub properties: Properties,
    /// The body.
    pub body: Vec<u8>,
    /// The time of receipt, if the envelope is that of a received message. It is not sent.
    pub received_at: Option<SystemTime>,
}

impl From<Vec<u8>> for Envelope {
    /// Returns an envelope with nothing but a body.
    fn from(body: Vec<u8>) -> Self {
        Self {
            body,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests;
