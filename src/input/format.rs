//! The format of standard input and of files.

use super::MessagePosition;
use crate::error::Error;
use crate::message::envelope::{self, Envelope};

/// The maximum size of a message, to which RabbitMQ's `max_message_size` is limited.
pub(super) const MAX_MESSAGE_SIZE: usize = 512 << 20;

/// The content of standard input or of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum InputFormat {
    /// One message.
    Whole,
    /// Messages separated by this delimiter.
    Delimited(Vec<u8>),
    /// One envelope per line.
    JsonLines,
}

impl InputFormat {
    /// Returns the name of a part.
    pub(super) fn unit(&self) -> &'static str {
        match self {
            Self::Delimited(delimiter) if delimiter != b"\n" => "piece",
            Self::Whole | Self::Delimited(_) | Self::JsonLines => "line",
        }
    }

    pub(super) fn delimiter(&self) -> &[u8] {
        match self {
            Self::Delimited(delimiter) => delimiter,
            Self::Whole | Self::JsonLines => b"\n",
        }
    }

    /// Turns a part into a message. A blank line between envelopes is none.
    pub(super) fn message(
        &self,
        part: Vec<u8>,
        place: &MessagePosition,
    ) -> Result<Option<Envelope>, Error> {
        if *self != Self::JsonLines {
            return Ok(Some(part.into()));
        }
        if part.trim_ascii().is_empty() {
            return Ok(None);
        }
        let envelope = envelope::parse(part).map_err(|problem| malformed(place, problem))?;
        if envelope.body.len() > MAX_MESSAGE_SIZE {
            return Err(too_long(place));
        }
        Ok(Some(envelope))
    }

    /// Checks the beginning of a part that has not been read to its end.
    pub(super) fn check_beginning(
        &self,
        part: &[u8],
        place: &MessagePosition,
    ) -> Result<(), Error> {
        match self {
            Self::JsonLines => {
                envelope::check_beginning(part).map_err(|problem| malformed(place, problem))
            }
            Self::Whole | Self::Delimited(_) => Ok(()),
        }
    }

    /// Returns the maximum size in bytes of a part, unless the user chooses another.
    pub(super) fn max_part_size(&self) -> usize {
        match self {
            Self::Whole | Self::Delimited(_) => MAX_MESSAGE_SIZE,
            // Base64 and escapes make an envelope longer than its body.
            Self::JsonLines => 2 * MAX_MESSAGE_SIZE,
        }
    }
}

/// Checks that a part, or its beginning, is not too long.
pub(super) fn check_length(
    part: &[u8],
    max_size: usize,
    place: &MessagePosition,
) -> Result<(), Error> {
    if part.len() <= max_size {
        return Ok(());
    }
    let problem = format!("is longer than {max_size} bytes (--max-line)");
    Err(malformed(place, problem))
}

pub(super) fn too_long(place: &MessagePosition) -> Error {
    let mebibytes = MAX_MESSAGE_SIZE >> 20;
    let problem = format!("is longer than {mebibytes} MiB, the most that RabbitMQ accepts");
    malformed(place, problem)
}

pub(super) fn malformed(place: &MessagePosition, problem: String) -> Error {
    Error::BadInput {
        place: place.to_string(),
        problem,
    }
}
