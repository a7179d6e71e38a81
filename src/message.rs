//! A message as hello-mq knows it, whatever the client library.

use std::fmt;

/// A message that was received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The content, unchanged.
    pub body: Vec<u8>,
}

/// A message to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The content, unchanged.
    pub body: Vec<u8>,
    /// AMQP's property `message-id`. It stays the same when the message is sent again, so that a
    /// consumer can tell a repeat.
    pub message_id: String,
    /// Where it came from.
    pub place: Place,
}

/// Where a message to send came from: what names it in a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// This argument, counted from 1.
    Argument(usize),
    /// Standard input.
    StandardInput,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument(number) => write!(f, "message {number}"),
            Self::StandardInput => f.write_str("the message from standard input"),
        }
    }
}
