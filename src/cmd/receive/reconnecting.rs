//! The line to what messages are received from: opened, and got back when it is lost.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use super::ReceiveEnd;
use crate::broker::topology::{difference, kind};
use crate::broker::{Connector, Retry, Session, topology};
use crate::cli;
use crate::cmd::Context;
use crate::error::Error;
use crate::settings::Origin;
use crate::text;
use crate::topology::QueueType;
use crate::values::{Name, QueueName, Span};

/// A connection that lasted so long is not one that fails again and again.
const STABLE_AFTER: Duration = Duration::from_secs(30);

/// What messages are received from.
pub enum MessageSource {
    /// The queue of the settings.
    Queue {
        /// Whether it is made sure of first.
        is_declared: bool,
        /// Whether nobody else may receive from it.
        is_exclusive: bool,
    },
    /// The messages that an exchange sends to these routing keys; without one, all.
    Exchange(String, Vec<String>),
}

impl MessageSource {
    /// What the command line names.
    ///
    /// # Errors
    /// [`Error::Usage`] if it names nothing that can be received from.
    pub fn new(arguments: &cli::Receive, context: &Context) -> Result<Self, Error> {
        let Some(exchange) = &arguments.exchange else {
            let settings = &context.settings;
            // A queue of another type than that of the configuration would not have the messages of
            // the stream that is meant.
            let is_meant = arguments.stream_offset.is_none()
                || settings.definition.kind() == Some(QueueType::Stream);
            return Ok(MessageSource::Queue {
                is_declared: !settings.receive.no_declare.value && is_meant,
                is_exclusive: arguments.exclusive,
            });
        };
        let usage = |problem: &str| Err(Error::Usage(problem.to_owned()));
        if exchange.as_str().is_empty() {
            return usage("--exchange: can't listen to the default exchange; receive from a queue");
        }
        if matches!(context.settings.queue.origin, Origin::Flag(_)) {
            return usage("give either a queue or --exchange");
        }
        if arguments.drain {
            return usage("--drain: the temporary queue of --exchange starts empty");
        }
        let keys = arguments.routing_key.iter().map(Name::as_str);
        let keys = keys.map(ToOwned::to_owned).collect();
        Ok(MessageSource::Exchange(exchange.as_str().to_owned(), keys))
    }
}

/// The line to the broker.
pub struct ReconnectingSession<'c> {
    context: &'c Context,
    connector: Connector,
    pub source: MessageSource,
    /// When no more is wanted at the latest.
    until: Option<Instant>,
    /// Whether the queue was made sure of on an earlier connection.
    is_queue_there: bool,
    /// Whether messages come one by one, as [`consumer::consume`](crate::broker::consume::consumer::consume)
    /// has it after the broker failed.
    is_careful: bool,
    /// Whether the user knows what to do about messages that are not acknowledged in time.
    is_advised: bool,
    /// Since when the connection is open, or has brought its last message.
    pub alive_since: Instant,
}

impl<'c> ReconnectingSession<'c> {
    pub fn new(
        context: &'c Context,
        connector: Connector,
        source: MessageSource,
        until: Option<Instant>,
    ) -> Self {
        let (queue, is_declaring) = match source {
            MessageSource::Queue {
                is_declared,
                is_exclusive,
            } => {
                let queue = is_declared.then_some(&context.settings.definition);
                (queue, is_exclusive)
            }
            MessageSource::Exchange(..) => (None, true),
        };
        Self {
            context,
            connector: topology::begin(connector.declaring(is_declaring), queue),
            source,
            until,
            is_queue_there: false,
            is_advised: false,
            is_careful: false,
            alive_since: Instant::now(),
        }
    }

    /// Receives with `consume`, over as many connections as it takes.
    ///
    /// # Errors
    /// Those of `consume` that no other connection can mend, and those of connecting again.
    pub fn keep(
        &mut self,
        mut consume: impl FnMut(&mut Self, &mut Session, &QueueName) -> Result<ReceiveEnd, Error>,
    ) -> Result<ReceiveEnd, Error> {
        let no_reconnect = self.context.settings.receive.no_reconnect.value;
        let mut retry = Retry::new(no_reconnect.then_some(Span::seconds(0)));
        let mut session = self.connector.open()?;
        loop {
            let opened = Instant::now();
            self.alive_since = opened;
            let ended = self
                .prepare(&mut session)
                .and_then(|queue| consume(self, &mut session, &queue));
            let error = match ended {
                Ok(end) => {
                    session.close();
                    return Ok(end);
                }
                Err(error) => error,
            };
            if no_reconnect {
                return Err(error);
            }
            let error = match error {
                Error::Cancelled { .. } if matches!(self.source, MessageSource::Queue { .. }) => {
                    match self.resume(&mut session, error) {
                        Ok(()) => continue,
                        Err(error) => error,
                    }
                }
                error => error,
            };
            // Messages that came with the one at which the broker failed come once more.
            let is_progress =
                self.alive_since > opened && (!error.is_internal() || self.is_careful);
            self.is_careful = error.is_internal();
            if is_progress || opened.elapsed() > STABLE_AFTER {
                retry.progress();
            }
            drop(session);
            let is_ack_timeout = matches!(error, Error::AckTimeout { .. });
            let hint = error.hint().filter(|_| is_ack_timeout && !self.is_advised);
            session = self.connector.reopen(error, self.until, &mut retry)?;
            if let Some(hint) = hint {
                self.is_advised = true;
                self.context.messenger.note(&format!("hint: {hint}"));
            }
        }
    }

    /// The broker has ended the consumption. A queue that is still there (its node failed over, or
    /// it was made anew) is consumed from again; one that was deleted is not brought back.
    fn resume(&self, session: &mut Session, cancelled: Error) -> Result<(), Error> {
        let queue = &self.context.settings.queue.value;
        match topology::look_up(session, queue) {
            Ok(_) => {
                self.context.messenger.note(&format!(
                    "{} cancelled the consumer of queue {queue}, which still exists: its node went down, or \
                     a message was not acknowledged within the consumer_timeout; consuming again",
                    session.name()
                ));
                Ok(())
            }
            Err(error @ Error::Refused { code: 404, .. }) if !error.is_transient() => {
                Err(cancelled)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes sure that there is something to receive from.
    fn prepare(&mut self, session: &mut Session) -> Result<Cow<'c, QueueName>, Error> {
        let settings = &self.context.settings;
        match &self.source {
            MessageSource::Queue {
                is_declared,
                is_exclusive,
            } => {
                let queue = &settings.queue.value;
                if *is_declared {
                    topology::keep(session, &settings.definition, &mut self.is_queue_there)?;
                }
                // The broker ignores it of other queues.
                if *is_exclusive && !kind::is_classic(session, queue)? {
                    return Err(Error::Usage(format!(
                        "--exclusive: {queue} is not a classic queue, and only those support it; a quorum \
                         queue that is declared with --single-active-consumer has one active consumer at a \
                         time"
                    )));
                }
                Ok(Cow::Borrowed(queue))
            }
            MessageSource::Exchange(exchange, routing_keys) => {
                if routing_keys.is_empty() && difference::is_direct(session, exchange)? {
                    return Err(Error::Usage(format!(
                        "--exchange: '{}' is a direct exchange, which has no wildcards; name each routing \
                         key with --routing-key",
                        text::escape(exchange)
                    )));
                }
                topology::listen(session, exchange, routing_keys).map(Cow::Owned)
            }
        }
    }
}
