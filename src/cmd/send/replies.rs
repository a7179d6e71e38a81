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

/// The numbers and positions of requests with the same correlation id, the oldest first.
type Requests = VecDeque<(u64, MessagePosition)>;

/// The requests that are not yet answered.
pub(super) struct PendingRequests {
    timeout: Span,
    format: OutputFormat,
    writer: MessageWriter<Stdout>,
    /// The requests by correlation id, which the user may have given to several.
    pending: HashMap<Vec<u8>, Requests>,
    answered: u64,
    /// The moment at which a request was last confirmed or answered.
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
        self.update(&message.message.properties, |requests| {
            requests.retain(|(number, _)| *number != message.number);
        });
    }

    /// Restarts the timeout.
    pub(super) fn restart_timeout(&mut self) {
        self.last_progress = Instant::now();
    }

    /// Prints a reply, unless it answers no pending request.
    pub(super) fn receive(&mut self, reply: &Message) -> io::Result<()> {
        let is_expected = self.update(&reply.properties, |requests| {
            requests.pop_front();
        });
        if !is_expected {
            return Ok(());
        }
        self.answered += 1;
        self.restart_timeout();
        self.writer.write(reply)?;
        self.writer.flush()
    }

    /// Changes the requests with the same correlation id, and returns whether there were any.
    fn update(&mut self, properties: &Properties, change: impl FnOnce(&mut Requests)) -> bool {
        let id = correlation_id(properties);
        let Some(requests) = self.pending.get_mut(&id) else {
            return false;
        };
        change(requests);
        if requests.is_empty() {
            self.pending.remove(&id);
        }
        true
    }

    /// Returns the moment until which to wait for the next reply; `None` if none is missing.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.pending.is_empty() {
            return None;
        }
        self.last_progress.checked_add(self.timeout.get())
    }

    /// Returns an error if replies are missing. With `is_only_one`, it does not number the request.
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
