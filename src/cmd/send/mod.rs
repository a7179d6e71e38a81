//! `hello-mq send`: publish messages, and be done when the broker has confirmed each.

mod report;
mod supply;

use std::time::{Duration, Instant};

use super::Context;
use crate::broker::publisher::{Event, Fate, Options, Publisher};
use crate::broker::topology;
use crate::broker::{Backoff, Session};
use crate::cli;
use crate::error::Error;
use crate::input::{self, Form, Request};
use crate::message::{Properties, ShortString, Table};
use crate::values::{Expiration, Header, Name, Rate, Span};
use crossbeam_channel::never;
use report::Report;
use supply::{Next, Outgoing, Supply, Template};

/// Sends the messages and prints each that is confirmed, or how many.
///
/// # Errors
/// Those of the input; those of the broker; [`Error::NotTaken`] with the messages that no queue
/// took, that the broker refused, or of which it said nothing.
pub fn run(arguments: cli::Send, context: &Context) -> Result<(), Error> {
    let template = template(&arguments, context);
    let pace = Pace::new(arguments.rate);
    let form = form(&arguments);
    let request = Request {
        arguments: arguments.messages,
        files: arguments.files,
        form: form.clone(),
        count: arguments.count.unwrap_or(1),
    };
    let input = input::open(request, &context.interrupt, context.talk)?;
    let mut sending = Sending {
        context,
        options: Options {
            allow_unroutable: arguments.allow_unroutable,
            confirm_timeout: context.settings.confirm_timeout.value,
        },
        // An envelope may send all messages elsewhere.
        is_queue_needed: template.is_to_queue() && form != Form::Envelopes,
        report: Report::new(context, &input),
        supply: Supply::new(input, template),
        pace,
        patience: Patience::new(context.settings.retry_for.value),
    };
    let sent = sending.deliver();
    let Sending { report, supply, .. } = sending;
    match sent {
        Err(error) if !(report.is_settled() && supply.is_exhausted()) => {
            Err(report.cut_short(error, supply.is_read()))
        }
        // Once the fate of every message is known, the broker's last words add nothing to it.
        Ok(()) | Err(_) => report.end(),
    }
}

fn form(arguments: &cli::Send) -> Form {
    match &arguments.delimiter {
        _ if arguments.jsonl => Form::Envelopes,
        _ if arguments.lines => Form::Pieces(b"\n".to_vec()),
        _ if arguments.null => Form::Pieces(b"\0".to_vec()),
        Some(delimiter) => Form::Pieces(delimiter.as_bytes().to_vec()),
        None => Form::Whole,
    }
}

/// AMQP's `delivery-mode` of a message that survives the broker's restart.
const PERSISTENT: u8 = 2;

fn template(arguments: &cli::Send, context: &Context) -> Template {
    let settings = &context.settings;
    let given = arguments.properties.clone();
    let name = |name: &Name| name.as_str().to_owned();
    Template {
        exchange: arguments.exchange.as_ref().map(name).unwrap_or_default(),
        routing_key: arguments.routing_key.as_ref().map(name),
        queue: settings.queue.value.as_str().to_owned(),
        properties: Properties {
            content_type: given.content_type,
            content_encoding: given.content_encoding,
            headers: headers(given.headers),
            delivery_mode: settings.persistent.value.then_some(PERSISTENT),
            priority: given.priority,
            correlation_id: given.correlation_id,
            reply_to: given.reply_to,
            expiration: given
                .expiration
                .map(Expiration::milliseconds)
                .and_then(|text| ShortString::new(text).ok()),
            message_id: given.message_id,
            timestamp: given.timestamp.map(|timestamp| timestamp.0),
            kind: given.kind,
            user_id: given.user_id,
            app_id: given.app_id,
            cluster_id: None,
        },
        run: input::random_id(),
    }
}

fn headers(headers: Vec<Header>) -> Option<Table> {
    let headers = headers
        .into_iter()
        .map(|header| (header.name, header.value));
    Some(headers.collect::<Table>()).filter(|table| !table.is_empty())
}

/// Why [`Sending::pump`] came to an end with the fate of every message known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    /// There is nothing more to send.
    Done,
    /// The next message needs the queue to be there.
    QueueNeeded,
}

/// One `send` at work.
struct Sending<'c> {
    context: &'c Context,
    options: Options,
    is_queue_needed: bool,
    supply: Supply,
    report: Report<'c>,
    pace: Pace,
    patience: Patience,
}

impl Sending<'_> {
    /// Sends the messages, and after a lost connection again those that were not confirmed, in
    /// order.
    fn deliver(&mut self) -> Result<(), Error> {
        let connector = self.context.connector("send", None);
        let mut session = connector.open()?;
        loop {
            match self.publish(&mut session) {
                Err(error) if error.is_transient() && self.patience.is_any() => {
                    self.patience.renew(self.report.known());
                    session =
                        connector.reopen(error, self.patience.until, &mut self.patience.backoff)?;
                }
                result => return result.and_then(|()| session.close()),
            }
        }
    }

    /// Sends the messages on one connection. Those that are not confirmed when it fails are back in
    /// the supply.
    fn publish(&mut self, session: &mut Session) -> Result<(), Error> {
        let settings = &self.context.settings;
        loop {
            if self.is_queue_needed && !settings.no_declare.value {
                topology::ensure(session, &settings.queue.value)?;
            }
            let mut publisher = Publisher::open(session, self.options)?;
            let result = self.pump(&mut publisher);
            if let Ok(Pause::QueueNeeded) = result {
                self.is_queue_needed = true;
                continue;
            }
            let (known, unknown) = publisher.end();
            for (message, fate) in known {
                if !self.report.note(&message, &fate) {
                    self.supply.put_back([message]);
                }
            }
            self.supply.put_back(unknown);
            return result.map(drop);
        }
    }

    fn pump(&mut self, publisher: &mut Publisher<Outgoing>) -> Result<Pause, Error> {
        let mut refused = Vec::new();
        let mut stop = None;
        let mut not_before = None;
        loop {
            while let Some((message, fate)) = publisher.settled() {
                if self.report.note(&message, &fate) {
                    self.trust(&fate);
                } else {
                    refused.push(message);
                }
            }
            if publisher.is_idle() {
                if !refused.is_empty() {
                    self.supply.put_back(refused.drain(..));
                    // There is more to do than it seemed.
                    stop = stop.filter(Result::is_err);
                    if stop.is_none() {
                        not_before = Some(self.refused()?);
                    }
                }
                if let Some(stop) = stop.take() {
                    return stop;
                }
            }
            // What was refused is tried again one by one until the first is taken.
            let has_room = if self.patience.is_refused {
                publisher.is_idle()
            } else {
                publisher.has_room() && refused.is_empty()
            };
            let not_yet = not_before
                .max(self.pace.next())
                .filter(|moment| *moment > Instant::now());
            let may_publish = has_room && stop.is_none();
            let mut batches = never();
            if may_publish && not_yet.is_none() {
                match self.supply.next() {
                    Next::Message(message) => match self.obstacle(publisher, &message) {
                        Some(obstacle) => {
                            self.supply.put_back([message]);
                            stop = Some(obstacle);
                            continue;
                        }
                        None => {
                            self.report.take(&message);
                            self.pace.published();
                            publisher.publish(message)?;
                            continue;
                        }
                    },
                    Next::Later => batches = self.supply.batches(),
                    Next::Nothing => {
                        stop = Some(self.supply.failure().map_or(Ok(Pause::Done), Err));
                        continue;
                    }
                }
            }
            match publisher.wait(&batches, not_yet.filter(|_| may_publish))? {
                Event::Input(batch) => self.supply.add(batch),
                Event::Interrupted => {
                    publisher.stop();
                    let interrupted = Error::Interrupted("while sending".to_owned());
                    stop = Some(Err(interrupted));
                }
                Event::Settled | Event::Late => {}
            }
        }
    }

    /// What has to happen before a message can be sent, or keeps it from being sent.
    fn obstacle(
        &self,
        publisher: &Publisher<Outgoing>,
        message: &Outgoing,
    ) -> Option<Result<Pause, Error>> {
        if message.to_queue && !self.is_queue_needed {
            return Some(Ok(Pause::QueueNeeded));
        }
        let problem = publisher.obstacle(&message.message)?;
        let place = message.place.to_string();
        Some(Err(Error::BadInput { place, problem }))
    }

    /// The broker has refused messages: they can be sent again from the moment that is returned.
    fn refused(&mut self) -> Result<Instant, Error> {
        let broker = self.context.settings.broker.to_string();
        self.patience.renew(self.report.known());
        if self.patience.is_over() {
            return Err(Error::Nack { broker });
        }
        if !self.patience.is_refused {
            self.patience.is_refused = true;
            self.context.talk.note(&format!(
                "{broker} refused (nack) {}; trying again",
                crate::error::listed(&self.report.refused())
            ));
        }
        Ok(Instant::now() + self.patience.backoff.next_delay())
    }

    /// The broker took or returned a message: it refuses no longer.
    fn trust(&mut self, fate: &Fate) {
        if self.patience.is_refused && *fate != Fate::Refused {
            self.patience.is_refused = false;
            let broker = &self.context.settings.broker;
            self.context
                .talk
                .note(&format!("{broker} takes messages again"));
        }
    }
}

/// How long to try again: the time starts anew with each message whose fate becomes known.
struct Patience {
    retry_for: Span,
    known: u64,
    until: Option<Instant>,
    backoff: Backoff,
    /// Whether the broker refused what was sent last.
    is_refused: bool,
}

impl Patience {
    fn new(retry_for: Span) -> Self {
        Self {
            retry_for,
            known: 0,
            until: None,
            backoff: Backoff::default(),
            is_refused: false,
        }
    }

    fn is_any(&self) -> bool {
        self.retry_for != Span::seconds(0)
    }

    fn renew(&mut self, known: u64) {
        if known > self.known || self.until.is_none() {
            self.known = known;
            self.until = Instant::now().checked_add(self.retry_for.get());
            self.backoff = Backoff::default();
        }
    }

    fn is_over(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }
}

/// When the next message may be sent.
struct Pace {
    interval: Option<Duration>,
    next: Option<Instant>,
}

/// How far the sending may be behind its pace and still catch up. A timer is not exact.
const CATCH_UP: Duration = Duration::from_millis(100);

impl Pace {
    fn new(rate: Option<Rate>) -> Self {
        Self {
            interval: rate.map(Rate::interval),
            next: None,
        }
    }

    fn next(&self) -> Option<Instant> {
        self.next
    }

    fn published(&mut self) {
        if let Some(interval) = self.interval {
            let now = Instant::now();
            let due = self
                .next
                .unwrap_or(now)
                .max(now.checked_sub(CATCH_UP).unwrap_or(now));
            self.next = due.checked_add(interval);
        }
    }
}
