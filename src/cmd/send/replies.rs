//! The replies to the messages of one `send`: awaited, matched and printed.

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
pub struct PendingRequests {
    timeout: Span,
    form: OutputFormat,
    out: MessageWriter<Stdout>,
    /// By correlation id, and oldest first: the user may have given all the same.
    open: HashMap<Vec<u8>, VecDeque<(u64, MessagePosition)>>,
    answered: u64,
    /// When a request was confirmed or answered last.
    heard: Instant,
}

impl PendingRequests {
    /// The requests whose replies are printed in this format, and each awaited for so long.
    ///
    /// # Errors
    /// Those of the system, if it has no more file descriptors.
    pub fn new(timeout: Span, form: OutputFormat) -> io::Result<Self> {
        Ok(Self {
            timeout,
            out: MessageWriter::new(form.clone(), Stdout::open()?, true),
            form,
            open: HashMap::new(),
            answered: 0,
            heard: Instant::now(),
        })
    }

    /// Whether standard output is for the replies alone.
    pub fn is_data(&self) -> bool {
        !matches!(self.form, OutputFormat::Text(_))
    }

    /// A request is on its way, perhaps not for the first time.
    pub fn expect(&mut self, message: &OutgoingMessage) {
        let requests = self
            .open
            .entry(correlation(&message.message.properties))
            .or_default();
        if !requests.iter().any(|(number, _)| *number == message.number) {
            requests.push_back((message.number, message.place.clone()));
        }
    }

    /// Nobody got this request.
    pub fn forget(&mut self, message: &OutgoingMessage) {
        let id = correlation(&message.message.properties);
        if let Some(requests) = self.open.get_mut(&id) {
            requests.retain(|(number, _)| *number != message.number);
            if requests.is_empty() {
                self.open.remove(&id);
            }
        }
    }

    /// The time to wait for a reply begins anew.
    pub fn prolong(&mut self) {
        self.heard = Instant::now();
    }

    /// Takes and prints a reply. One that answers nothing, or answers again, is none.
    ///
    /// # Errors
    /// Those of standard output.
    pub fn take(&mut self, message: &Message) -> io::Result<()> {
        let id = correlation(&message.properties);
        let Some(requests) = self.open.get_mut(&id) else {
            return Ok(());
        };
        requests.pop_front();
        if requests.is_empty() {
            self.open.remove(&id);
        }
        self.answered += 1;
        self.prolong();
        self.out.write(message)?;
        self.out.flush()
    }

    /// Until when to wait for the next reply; `None` if none is missing.
    pub fn by(&self) -> Option<Instant> {
        if self.open.is_empty() {
            return None;
        }
        self.heard.checked_add(self.timeout.get())
    }

    /// What is missing, if something is. A request that `is_alone` needs no number.
    pub fn missing(&self, is_alone: bool) -> Option<Error> {
        if self.open.is_empty() {
            return None;
        }
        let places: BTreeMap<_, _> = self.open.values().flatten().cloned().collect();
        Some(Error::NoReply {
            missing: if is_alone {
                "the message".to_owned()
            } else {
                listed(&ranges(places.values()))
            },
            answered: self.answered,
            patience: self.timeout.to_string(),
        })
    }
}

fn correlation(properties: &Properties) -> Vec<u8> {
    let id = properties.correlation_id.as_ref();
    id.map(|id| id.as_bytes().to_vec()).unwrap_or_default()
}
