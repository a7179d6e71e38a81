//! `hello-mq receive --forward-to`: publish what was received, and have it acknowledged when the
//! broker has confirmed it.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::broker::Connector;
use crate::broker::publisher::{Fate, Options};
use crate::cmd::sending::{Ledger, Outgoing, Pace, Patience, Sending, Supply, Template};
use crate::error::{Error, Names, NotTaken};
use crate::input::{Input, Item, Place};
use crate::message::envelope::Envelope;
use crate::message::{Message, Properties};
use crate::settings::Settings;
use crate::talk::Talk;
use crate::values::{Span, Target};

/// Messages on their way to another queue: a connection of its own, and a thread that minds it.
pub struct Forward {
    target: Target,
    items: Option<Sender<Result<Vec<Item>, Error>>>,
    batches: Sender<u64>,
    confirmed: Receiver<io::Result<()>>,
    /// How many messages have been handed over.
    messages: u64,
    thread: Option<JoinHandle<()>>,
}

impl Forward {
    /// Starts the thread.
    ///
    /// # Errors
    /// Those of the system, if it has no more threads.
    pub fn spawn(
        target: Target,
        settings: &Settings,
        connector: Connector,
        talk: Talk,
    ) -> io::Result<Self> {
        let (items, input) = unbounded();
        let (batches, boundaries) = unbounded();
        let (reports, confirmed) = unbounded();
        let mut sending = Sending {
            options: Options {
                allow_unroutable: false,
                confirm_timeout: settings.confirm_timeout.value,
            },
            // A queue that is to be forwarded to is somebody's, who knows its properties.
            queue: None,
            is_queue_needed: false,
            supply: Supply::new(
                Input {
                    batches: input,
                    plan: None,
                    count: 1,
                },
                template(&target),
            ),
            ledger: Confirmed {
                broker: connector.broker(),
                reports: reports.clone(),
                boundaries,
                waiting: VecDeque::new(),
                open: BTreeSet::new(),
                refused: BTreeSet::new(),
                taken: 0,
                known: 0,
            },
            pace: Pace::new(None),
            // As long as there are messages to receive.
            patience: Patience::new(settings.no_reconnect.value.then_some(Span::seconds(0))),
            connector,
            talk,
        };
        let thread = thread::Builder::new()
            .name("forward".to_owned())
            .spawn(move || {
                if let Err(error) = sending.deliver() {
                    let _ = reports.send(Err(io::Error::other(error)));
                }
            })?;
        Ok(Self {
            target,
            items: Some(items),
            batches,
            confirmed,
            messages: 0,
            thread: Some(thread),
        })
    }

    /// Publishes a batch; when all of it is confirmed it is told once in [`Forward::confirmed`].
    pub fn hand_over(&mut self, batch: Vec<Message>) {
        let numbers = self.messages + 1..;
        self.messages += batch.len() as u64;
        let items = numbers.zip(batch).map(|(number, message)| Item {
            envelope: Envelope {
                exchange: Some(self.target.exchange.clone()),
                routing_key: Some(self.target.routing_key.clone()),
                properties: message.properties,
                body: message.body,
            },
            place: Place::Argument(number),
        });
        let items = items.collect();
        let _ = self.batches.send(self.messages);
        if let Some(sender) = &self.items {
            let _ = sender.send(Ok(items));
        }
    }

    /// A report for each batch, in order; the first failure is the last.
    #[must_use]
    pub fn confirmed(&self) -> &Receiver<io::Result<()>> {
        &self.confirmed
    }

    /// Closes the connection.
    pub fn close(mut self) {
        self.items.take();
        if let Some(thread) = self.thread.take() {
            // Its session bounds what it waits for.
            let _ = thread.join();
        }
    }
}

fn template(target: &Target) -> Template {
    Template {
        exchange: target.exchange.clone(),
        routing_key: Some(target.routing_key.clone()),
        queue: String::new(),
        properties: Properties::default(),
        // A message is forwarded as it is.
        run: None,
    }
}

/// Tells which batches are confirmed.
struct Confirmed {
    broker: String,
    reports: Sender<io::Result<()>>,
    /// The number of the last message of each batch.
    boundaries: Receiver<u64>,
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

impl Ledger for Confirmed {
    fn take(&mut self, message: &Outgoing) {
        self.open.insert(message.number);
        self.taken = self.taken.max(message.number);
    }

    fn note(&mut self, message: &Outgoing, fate: &Fate) {
        match fate {
            Fate::Refused => {
                self.refused.insert(message.number);
            }
            Fate::Confirmed => {
                self.known += 1;
                self.refused.remove(&message.number);
                self.open.remove(&message.number);
                self.tell();
            }
            // It stays open, so that neither it nor what comes after it is acknowledged.
            Fate::Returned(said) => {
                let mut returned = Names::default();
                returned.push(|| format!("{} ({said})", message.place));
                let error = Error::NotTaken(Box::new(NotTaken {
                    broker: self.broker.clone(),
                    confirmed: self.known,
                    returned,
                    ..NotTaken::default()
                }));
                let _ = self.reports.send(Err(io::Error::other(error)));
            }
        }
    }

    fn known(&self) -> u64 {
        self.known
    }

    fn refused(&self) -> Vec<String> {
        let places: Vec<_> = self.refused.iter().copied().map(Place::Argument).collect();
        crate::input::ranges(&places)
    }
}
