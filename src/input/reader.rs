//! Reading the sources, and sending their messages in batches to the thread that publishes.

use std::io::Read;
use std::time::Duration;

use super::format::{check_length, malformed};
use super::source::{InputSource, READ_SIZE, open_source, read_whole};
use super::split::Splitter;
use super::{InputFormat, Item, MessagePosition, Recording};
use crate::error::Error;
use crate::message::envelope::Envelope;
use crate::waker::Sender;

/// The maximum number of messages in a batch.
pub(super) const INPUT_BATCH_MESSAGES: usize = 256;

/// The size from which the beginning of a part is checked before all of it is read.
const EARLY_CHECK_SIZE: usize = 1 << 20;

/// The reason why reading ended early.
pub(super) enum ReadEnd {
    /// The receiver of the batches is gone.
    Disconnected,
    Failed(Error),
}

impl From<Error> for ReadEnd {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Reads sources to their end.
pub(super) struct InputReader<'s> {
    pub(super) format: InputFormat,
    pub(super) max_part_size: usize,
    /// The schedule of the messages, if they are a recording.
    pub(super) recording: Option<Recording>,
    pub(super) sender: &'s mut BatchSender,
}

impl InputReader<'_> {
    pub(super) fn read_all(
        mut self,
        mut sources: Vec<InputSource>,
        count: u64,
    ) -> Result<(), ReadEnd> {
        for round in 1..=count {
            if let Some(recording) = &mut self.recording {
                recording.repeat();
            }
            for source in &mut sources {
                match source {
                    InputSource::Known { place, body } => {
                        // The last round needs no copy.
                        let body = if round < count {
                            body.clone()
                        } else {
                            std::mem::take(body)
                        };
                        let bytes = body.len();
                        self.sender.push(body.into(), place.clone(), None, bytes)?;
                    }
                    _ if self.format == InputFormat::Whole => {
                        let body = read_whole(source)?;
                        let bytes = body.len();
                        self.sender.push(body.into(), source.place(), None, bytes)?;
                    }
                    _ => self.read_parts(source)?,
                }
            }
        }
        self.sender.flush()
    }

    fn read_parts(&mut self, source: &InputSource) -> Result<(), ReadEnd> {
        let format = &self.format;
        let mut place = MessagePosition::Part {
            of: source.name(),
            unit: format.unit(),
            number: 1,
        };
        let mut splitter = Splitter::new(format.delimiter());
        let mut reader = open_source(source).map_err(|error| source.unreadable(error))?;
        let mut chunk = vec![0; READ_SIZE];
        let mut parts = Vec::new();
        let mut check_at = EARLY_CHECK_SIZE;
        loop {
            let length = reader
                .read(&mut chunk)
                .map_err(|error| source.unreadable(error))?;
            let is_over = length == 0;
            if is_over {
                let last = std::mem::replace(&mut splitter, Splitter::new(format.delimiter()));
                parts.extend(last.finish());
            } else {
                splitter.feed(&chunk[..length], |part| parts.push(part));
            }
            for part in parts.drain(..) {
                check_length(&part, self.max_part_size, &place)?;
                let bytes = part.len();
                let message = format.message(part, &place)?;
                let next = place.next();
                let place = std::mem::replace(&mut place, next);
                if let Some(envelope) = message {
                    let recording = self.recording.as_mut();
                    let due = recording.map(|it| due(it, &envelope, &place)).transpose()?;
                    self.sender.push(envelope, place, due, bytes)?;
                }
                check_at = EARLY_CHECK_SIZE;
            }
            let beginning = splitter.beginning();
            check_length(beginning, self.max_part_size, &place)?;
            if beginning.len() >= check_at {
                format.check_beginning(beginning, &place)?;
                check_at = 2 * beginning.len();
            }
            // The next read may block.
            self.sender.flush()?;
            if is_over {
                return Ok(());
            }
        }
    }
}

/// Returns when a message of a recording is due.
fn due(
    recording: &mut Recording,
    envelope: &Envelope,
    place: &MessagePosition,
) -> Result<Duration, Error> {
    let received_at = envelope
        .received_at
        .ok_or_else(|| malformed(place, "has no received_at, which --pace needs".to_owned()))?;
    Ok(recording.due(received_at))
}

/// Sends messages in batches: those that were read together.
pub(super) struct BatchSender {
    sender: Sender<Result<Vec<Item>, Error>>,
    batch: Vec<Item>,
    bytes: usize,
}

impl BatchSender {
    pub(super) fn new(sender: Sender<Result<Vec<Item>, Error>>) -> Self {
        Self {
            sender,
            batch: Vec::new(),
            bytes: 0,
        }
    }

    /// Adds a message that took this number of bytes in the input.
    fn push(
        &mut self,
        envelope: Envelope,
        place: MessagePosition,
        due: Option<Duration>,
        bytes: usize,
    ) -> Result<(), ReadEnd> {
        self.bytes += bytes;
        self.batch.push(Item {
            envelope,
            place,
            due,
        });
        if self.batch.len() >= INPUT_BATCH_MESSAGES || self.bytes >= READ_SIZE {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ReadEnd> {
        self.bytes = 0;
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        self.sender
            .send(Ok(batch))
            .map_err(|_| ReadEnd::Disconnected)
    }

    /// Sends the messages before an error, and the error.
    pub(super) fn fail(mut self, error: Error) {
        if self.flush().is_ok() {
            let _ = self.sender.send(Err(error));
        }
    }
}
