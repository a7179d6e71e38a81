//! `hello-mq receive --forward-to` and `--replay`: publishes messages that are acknowledged when the broker
//! has confirmed them.

use std::collections::{BTreeSet, VecDeque};
use std::io;

use crossbeam_channel::unbounded;

use super::background_publisher::{BackgroundOptions, BackgroundPublisher};
use super::replay::{self, ReplayOptions};
use crate::broker::Connector;
use crate::broker::publish::PublishOutcome;
use crate::cli;
use crate::cmd::sending::{OutgoingMessage, PublishObserver};
use crate::error::Error;
use crate::input::{MessagePosition, ranges};
use crate::message::{Batch, COPY_HEADERS, Message, Part, ShortString};
use crate::messenger::Messenger;
use crate::settings::Settings;
use crate::text;
use crate::values::Target;
use crate::waker::{self, Receiver};

/// Returns the parts of a message that are left out: these headers and what the user names, but nothing that
/// the user keeps.
fn left_out(
    headers: impl IntoIterator<Item = &'static [u8]>,
    arguments: &cli::Receive,
) -> Vec<Part> {
    let headers = headers.into_iter();
    let names = headers.filter_map(|name| ShortString::new(name).ok());
    names
        .map(Part::Header)
        .chain(arguments.without.iter().cloned())
        .filter(|part| !arguments.keep.contains(part))
        .collect()
}

/// The way in which messages are published.
pub(super) struct Forwarding {
    pub(super) route: Route,
    pub(super) options: BackgroundOptions,
    /// The URL of the broker without the password, if it is another one.
    pub(super) broker: Option<String>,
}

/// Where messages are published.
pub(super) enum Route {
    /// All to this target, without these parts.
    Target(Target, Vec<Part>),
    /// Each to where it was before it died.
    Replay(ReplayOptions),
}

impl Forwarding {
    /// Returns the way to publish messages, if that is what `arguments` ask for.
    ///
    /// # Errors
    /// [`Error::Usage`] if all messages would come again.
    pub(super) fn new(
        arguments: &cli::Receive,
        settings: &Settings,
    ) -> Result<Option<Self>, Error> {
        let other = settings.target.as_ref();
        let is_same_broker = other.is_none_or(|broker| broker.is_same(&settings.broker));
        let queue = &settings.queue.value;
        let route = if let Some(target) = &arguments.forward_to {
            let is_same_queue = target.exchange.is_empty() && target.routing_key == queue.as_str();
            if is_same_broker && is_same_queue {
                return Err(Error::Usage(format!(
                    "--forward-to: queue {queue} can't be forwarded to itself; that would never end"
                )));
            }
            Route::Target(target.clone(), left_out(COPY_HEADERS, arguments))
        } else if let Some(death) = arguments.replay {
            let keeps_user_id = arguments.keep.iter().any(Part::is_user_id);
            let broker = other.unwrap_or(&settings.broker);
            Route::Replay(ReplayOptions {
                death,
                left_out: left_out(replay::left_out(), arguments),
                user: (!keeps_user_id).then(|| broker.username.value.clone()),
                own_queue: is_same_broker.then(|| queue.clone()),
                is_bounded: arguments.drain && !arguments.dry_run,
            })
        } else {
            return Ok(None);
        };
        Ok(Some(Self {
            route,
            options: BackgroundOptions::new(settings),
            broker: other.map(ToString::to_string),
        }))
    }

    /// Returns the target of all messages; `None` if each has its own.
    pub(super) fn target(&self) -> Option<&Target> {
        match &self.route {
            Route::Target(target, _) => Some(target),
            Route::Replay(_) => None,
        }
    }

    /// Returns the options of replaying, if that is what is done.
    pub(super) fn replay(&self) -> Option<&ReplayOptions> {
        match &self.route {
            Route::Target(..) => None,
            Route::Replay(options) => Some(options),
        }
    }
}

fn asks_for_copies(part: &Part) -> bool {
    matches!(part, Part::Header(name) if COPY_HEADERS.contains(&name.as_bytes()))
}

/// Publishes messages to another queue.
pub(super) struct Forward {
    /// The target; `None` if each message has its own.
    target: Option<Target>,
    left_out: Vec<Part>,
    /// The parts of which the user is told when they are left out for the first time.
    unannounced: Vec<Part>,
    messenger: Messenger,
    publisher: BackgroundPublisher<MessagePosition>,
    /// Receives the number of the last message of each batch.
    batch_ends: crossbeam_channel::Sender<u64>,
    reports: Receiver<Result<(), Error>>,
    /// The number of messages that were handed over.
    messages: u64,
}

impl Forward {
    /// Starts to publish.
    ///
    /// # Errors
    /// Fails if the system has no more threads.
    pub(super) fn spawn(
        forwarding: Forwarding,
        connector: Connector,
        messenger: Messenger,
    ) -> io::Result<Self> {
        let (target, left_out) = match forwarding.route {
            Route::Target(target, left_out) => (Some(target), left_out),
            // They are readdressed already.
            Route::Replay(_) => (None, Vec::new()),
        };
        let (batch_ends, new_batch_ends) = unbounded();
        let (sender, reports) = waker::unbounded();
        let observer = ForwardObserver {
            broker: connector.broker(),
            reports: sender.clone(),
            new_batch_ends,
            batch_ends: VecDeque::new(),
            unsettled: BTreeSet::new(),
            refused: BTreeSet::new(),
            published: 0,
            confirmed: 0,
        };
        let on_failure = move |error| {
            let _ = sender.send(Err(error));
        };
        let copies = left_out.iter().filter(|part| asks_for_copies(part));
        Ok(Self {
            target,
            unannounced: copies.cloned().collect(),
            left_out,
            messenger: messenger.clone(),
            publisher: BackgroundPublisher::spawn(
                forwarding.options,
                connector,
                messenger,
                observer,
                on_failure,
            )?,
            batch_ends,
            reports,
            messages: 0,
        })
    }

    /// Publishes a batch, which is reported in [`Forward::reports`] when all of it is confirmed. A message
    /// that is not complete is not published, nor is what comes after it.
    pub(super) fn hand_over(&mut self, batch: Batch) {
        let first = self.messages + 1;
        self.messages += batch.len() as u64;
        let _ = self.batch_ends.send(self.messages);
        let mut complete = Vec::with_capacity(batch.len());
        let mut failure = None;
        for (number, message) in (first..).zip(batch) {
            let position = MessagePosition::Message(number);
            if let Some(problem) = &message.incomplete {
                failure = Some(Error::BadInput {
                    place: position.to_string(),
                    problem: format!(
                        "can't be decoded in full, so it is not forwarded and stays in its queue: {problem}"
                    ),
                });
                break;
            }
            complete.push((position, self.readdress(*message)));
        }
        self.publisher.publish(complete);
        if let Some(error) = failure {
            self.publisher.fail(error);
        }
    }

    /// Returns a message as it is published to the target.
    fn readdress(&mut self, mut message: Message) -> Message {
        for part in &self.left_out {
            if message.properties.remove(part) && self.unannounced.contains(part) {
                self.unannounced.retain(|other| other != part);
                self.messenger.note(&format!(
                    "left out {part}, for which the broker would send copies elsewhere (--keep {part} \
                     passes it on)"
                ));
            }
        }
        if let Some(target) = &self.target {
            message.exchange.clone_from(&target.exchange);
            message.routing_key.clone_from(&target.routing_key);
        }
        message
    }

    /// Returns the channel with a report for each batch, in order. Nothing follows a failure.
    pub(super) fn reports(&self) -> &Receiver<Result<(), Error>> {
        &self.reports
    }

    /// Closes the connection.
    pub(super) fn close(self) {
        self.publisher.close();
    }
}

/// Reports each batch when it is confirmed.
struct ForwardObserver {
    broker: String,
    reports: waker::Sender<Result<(), Error>>,
    new_batch_ends: crossbeam_channel::Receiver<u64>,
    /// The number of the last message of each batch that is not yet reported.
    batch_ends: VecDeque<u64>,
    /// The messages that are published and not settled, by number.
    unsettled: BTreeSet<u64>,
    refused: BTreeSet<u64>,
    /// The highest number of a message that was published.
    published: u64,
    confirmed: u64,
}

impl ForwardObserver {
    fn report_batches(&mut self) {
        self.batch_ends.extend(self.new_batch_ends.try_iter());
        let confirmed = match self.unsettled.first() {
            Some(first) => first - 1,
            None => self.published,
        };
        while self.batch_ends.front().is_some_and(|end| *end <= confirmed) {
            self.batch_ends.pop_front();
            let _ = self.reports.send(Ok(()));
        }
    }
}

impl PublishObserver for ForwardObserver {
    type Position = MessagePosition;

    fn on_publish(&mut self, message: &OutgoingMessage) {
        self.unsettled.insert(message.number);
        self.published = self.published.max(message.number);
    }

    fn on_outcome(&mut self, message: &OutgoingMessage, outcome: &PublishOutcome) {
        match outcome {
            PublishOutcome::Refused => {
                self.refused.insert(message.number);
            }
            PublishOutcome::Confirmed => {
                self.confirmed += 1;
                self.refused.remove(&message.number);
                self.unsettled.remove(&message.number);
                self.report_batches();
            }
            // It stays unsettled, so that neither it nor what comes after it is acknowledged.
            PublishOutcome::Returned(said) => {
                let Message {
                    exchange,
                    routing_key,
                    ..
                } = &message.message;
                let _ = self.reports.send(Err(Error::Unroutable {
                    broker: self.broker.clone(),
                    message: message.position.to_string(),
                    target: text::escape(&format!("{exchange}:{routing_key}")),
                    said: said.clone(),
                    confirmed: self.confirmed,
                }));
            }
        }
    }

    fn refused(&self) -> Vec<String> {
        let numbers = self.refused.iter().copied();
        let positions: Vec<_> = numbers.map(MessagePosition::Message).collect();
        ranges(&positions)
    }
}
