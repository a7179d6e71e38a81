//! `hello-mq receive --forward-to`: publish what was received, and have it acknowledged when the
//! broker has confirmed it.

use std::collections::{BTreeSet, VecDeque};
use std::io;

use crossbeam_channel::{Sender, unbounded};

use super::background_publisher::BackgroundPublisher;
use crate::broker::Connector;
use crate::broker::publish::PublishOutcome;
use crate::cli;
use crate::cmd::sending::{OutgoingMessage, PublishObserver};
use crate::error::{ConfirmFailure, Error, NameList};
use crate::input::{MessagePosition, ranges};
use crate::message::{Batch, COPY_HEADERS, Message, Part, ShortString};
use crate::messenger::Messenger;
use crate::settings::Settings;
use crate::values::Target;
use crate::waker::{self, Receiver};

/// What is to be left out of what is forwarded: where copies are to go, unless the user keeps it, and
/// what else the user names.
pub fn left_out(arguments: &cli::Receive) -> Vec<Part> {
    let copies = COPY_HEADERS
        .iter()
        .filter_map(|name| ShortString::new(*name).ok());
    copies
        .map(Part::Header)
        .chain(arguments.without.iter().cloned())
        .filter(|part| !arguments.keep.contains(part))
        .collect()
}

/// Whether it is left out although nobody may have asked for that.
fn is_copy(part: &Part) -> bool {
    matches!(part, Part::Header(name) if COPY_HEADERS.contains(&name.as_bytes()))
}

/// Messages on their way to another queue.
pub struct Forward {
    target: Target,
    left_out: Vec<Part>,
    /// Those that are not yet told to be left out.
    untold: Vec<Part>,
    messenger: Messenger,
    publisher: BackgroundPublisher,
    batches: Sender<u64>,
    confirmed: Receiver<Result<(), Error>>,
    /// How many messages have been handed over.
    messages: u64,
}

impl Forward {
    /// Starts to publish.
    ///
    /// # Errors
    /// Those of the system, if it has no more threads.
    pub fn spawn(
        target: Target,
        left_out: Vec<Part>,
        settings: &Settings,
        connector: Connector,
        messenger: Messenger,
    ) -> io::Result<Self> {
        let (batches, boundaries) = unbounded();
        let (reports, confirmed) = waker::unbounded();
        let ledger = Confirmed {
            broker: connector.broker(),
            reports: reports.clone(),
            boundaries,
            waiting: VecDeque::new(),
            open: BTreeSet::new(),
            refused: BTreeSet::new(),
            taken: 0,
            known: 0,
        };
        let failed = move |error| {
            let _ = reports.send(Err(error));
        };
        Ok(Self {
            target,
            untold: left_out
                .iter()
                .filter(|part| is_copy(part))
                .cloned()
                .collect(),
            left_out,
            messenger: messenger.clone(),
            publisher: BackgroundPublisher::spawn(settings, connector, messenger, ledger, failed)?,
            batches,
            confirmed,
            messages: 0,
        })
    }

    /// Publishes a batch; when all of it is confirmed it is told once in [`Forward::confirmed`]. A message
    /// that is not complete stays where it is, and so does what comes after it.
    pub fn hand_over(&mut self, batch: Batch) {
        let first = self.messages + 1;
        self.messages += batch.len() as u64;
        let _ = self.batches.send(self.messages);
        let mut complete = Vec::with_capacity(batch.len());
        let mut end = None;
        for (number, message) in (first..).zip(batch) {
            if let Some(problem) = &message.incomplete {
                end = Some(Error::BadInput {
                    place: MessagePosition::Argument(number).to_string(),
                    problem: format!(
                        "can't be decoded in full, so it is not forwarded and stays in its queue: {problem}"
                    ),
                });
                break;
            }
            complete.push((number, self.addressed(*message)));
        }
        self.publisher.publish(complete);
        if let Some(error) = end {
            self.publisher.fail(error);
        }
    }

    /// A message as it goes to its target.
    fn addressed(&mut self, mut message: Message) -> Message {
        for part in &self.left_out {
            if message.properties.remove(part) && self.untold.contains(part) {
                self.untold.retain(|untold| untold != part);
                self.messenger.note(&format!(
                    "left out {part}, for which the broker would send copies elsewhere (--keep {part} \
                     passes it on)"
                ));
            }
        }
        Message {
            exchange: self.target.exchange.clone(),
            routing_key: self.target.routing_key.clone(),
            ..message
        }
    }

    /// A report for each batch, in order; the first failure is the last.
    #[must_use]
    pub fn confirmed(&self) -> &Receiver<Result<(), Error>> {
        &self.confirmed
    }

    /// Closes the connection.
    pub fn close(self) {
        self.publisher.close();
    }
}

/// Tells which batches are confirmed.
struct Confirmed {
    broker: String,
    reports: waker::Sender<Result<(), Error>>,
    /// The number of the last message of each batch.
    boundaries: crossbeam_channel::Receiver<u64>,
    /// Those of the batches that are not yet told.
    waiting: VecDeque<u64>,
    /// The messages that are being sent, by number.
    open: BTreeSet<u64>,
    refused: BTreeSet<u64>,
    /// The last message that was taken.
    taken: u64,
    known: u64,
}

impl Confirmed {
    fn tell(&mut self) {
        self.waiting.extend(self.boundaries.try_iter());
        let done = match self.open.first() {
            Some(first) => first - 1,
            None => self.taken,
        };
        while self.waiting.front().is_some_and(|last| *last <= done) {
            self.waiting.pop_front();
            let _ = self.reports.send(Ok(()));
        }
    }
}

impl PublishObserver for Confirmed {
    fn take(&mut self, message: &OutgoingMessage) {
        self.open.insert(message.number);
        self.taken = self.taken.max(message.number);
    }

    fn note(&mut self, message: &OutgoingMessage, fate: &PublishOutcome) {
        match fate {
            PublishOutcome::Refused => {
                self.refused.insert(message.number);
            }
            PublishOutcome::Confirmed => {
                self.known += 1;
                self.refused.remove(&message.number);
                self.open.remove(&message.number);
                self.tell();
            }
            // It stays open, so that neither it nor what comes after it is acknowledged.
            PublishOutcome::Returned(said) => {
                let mut returned = NameList::default();
                returned.push(|| format!("{} ({said})", message.place));
                let error = Error::ConfirmFailure(Box::new(ConfirmFailure {
                    broker: self.broker.clone(),
                    confirmed: self.known,
                    returned,
                    ..ConfirmFailure::default()
                }));
                let _ = self.reports.send(Err(error));
            }
        }
    }

    fn known(&self) -> u64 {
        self.known
    }

    fn refused(&self) -> Vec<String> {
        let places: Vec<_> = self
            .refused
            .iter()
            .copied()
            .map(MessagePosition::Argument)
            .collect();
        ranges(&places)
    }
}
