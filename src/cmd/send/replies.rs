//! The replies to the requests of one `send`: awaits, matches and prints them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::time::Instant;

use crate::cmd::sending::OutgoingMessage;
use crate::error::{Error, listed};
use crate::input::{MessagePosition, ranges};
use crate::message::{Message, Properties};
use crate::output::{MessageWriter, OutputFormat, Stdout};
use crate::values::Span;

/// The requests that are not yet answered.
pub(super) struct PendingRequests {
    timeout: Span,
    format: OutputFormat,
    writer: MessageWriter<Stdout>,
    /// By correlation id, and oldest first: the user may have given several the same.
    pending: HashMap<Vec<u8>, VecDeque<(u64, MessagePosition)>>,
    answered: u64,
    /// When a request was last confirmed or answered.
    last_progress: Instant,
}

impl PendingRequests {
    /// Prints replies in this format, and waits for each as long as `timeout`.
    ///
    /// # Errors
    /// Fails if the system has no more file descriptors.
    pub(super) fn new(timeout: Span, format: OutputFormat) -> io::Result<Self> {
        Ok(Self {
            timeout,
            writer: MessageWriter::new(format.clone(), Stdout::open()?, true),
            format,
            pending: HashMap::new(),
            answered: 0,
            last_progress: Instant::now(),
        })
    }

    /// Whether standard output is for the replies alone.
    pub(super) fn is_data(&self) -> bool {
        !matches!(self.format, OutputFormat::Text(_))
    }

    /// Adds a request, unless it was published before.
    pub(super) fn add(&mut self, message: &OutgoingMessage) {
        let id = correlation_id(&message.message.properties);
        let requests = self.pending.entry(id).or_default();
        if !requests.iter().any(|(number, _)| *number == message.number) {
            requests.push_back((message.number, message.position.clone()));
        }
    }

    /// Removes a request that was not delivered to anyone.
    pub(super) fn remove(&mut self, message: &OutgoingMessage) {
        let id = correlation_id(&message.message.properties);
        if let Some(requests) = self.pending.get_mut(&id) {
            requests.retain(|(number, _)| *number != message.number);
            if requests.is_empty() {
                self.pending.remove(&id);
            }
        }
    }

    /// Restarts the timeout.
    pub(super) fn restart_timeout(&mut self) {
        self.last_progress = Instant::now();
    }

    /// Prints a reply, unless it answers no pending request.
    pub(super) fn receive(&mut self, reply: &Message) -> io::Result<()> {
        let id = correlation_id(&reply.properties);
        let Some(requests) = self.pending.get_mut(&id) else {
            return Ok(());
        };
        requests.pop_front();
        if requests.is_empty() {
            self.pending.remove(&id);
        }
        self.answered += 1;
        self.restart_timeout();
        self.writer.write(reply)?;
        self.writer.flush()
    }

    /// Returns the moment until which to wait for the next reply; `None` if none is missing.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.pending.is_empty() {
            return None;
        }
        self.last_progress.checked_add(self.timeout.get())
    }

    /// Returns an error if replies are missing. The only request of all needs no number.
    pub(super) fn missing(&self, is_only_one: bool) -> Option<Error> {
        if self.pending.is_empty() {
            return None;
        }
        let positions: BTreeMap<_, _> = self.pending.values().flatten().cloned().collect();
        Some(Error::NoReply {
            missing: if is_only_one {
                "the message".to_owned()
            } else {
                listed(&ranges(positions.values()))
            },
            answered: self.answered,
            patience: self.timeout.to_string(),
        })
    }
}

fn correlation_id(properties: &Properties) -> Vec<u8> {
    let id = properties.correlation_id.as_ref();
    id.map(|id| id.as_bytes().to_vec()).unwrap_or_default()
}
