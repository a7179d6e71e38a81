//! A session to receive with, which connects again when the connection is lost.

use std::time::{Duration, Instant};

use super::ReceiveEnd;
use crate::broker::topology::{difference, kind};
use crate::broker::{Connector, Retry, Session, topology};
use crate::cli;
use crate::cmd::Context;
use crate::error::Error;
use crate::settings::{Origin, Settings};
use crate::text;
use crate::topology::{BoundExchange, Queue, QueueKind, QueueType};
use crate::values::{QueueName, Span};

/// A connection that lasted longer does not count as one of several failures in a row.
const STABLE_AFTER: Duration = Duration::from_secs(30);

/// The source of messages.
pub(super) enum MessageSource {
    /// A queue.
    Queue {
        name: QueueName,
        /// Its definition, if it is declared first.
        declared: Option<Queue>,
        /// Whether no other consumer may receive from it.
        is_exclusive: bool,
    },
    /// The messages of exchanges.
    Exchanges(Vec<BoundExchange>),
}

impl MessageSource {
    /// Returns the source that the command line names.
    pub(super) fn new(arguments: &cli::Receive, settings: &Settings) -> Result<Self, Error> {
        let exchanges = &arguments.exchanges.0;
        if exchanges.is_empty() {
            // Only a stream has offsets: a queue of another type is not the one that is meant.
            let is_meant = arguments.stream_offset.is_none()
                || settings.definition.kind() == Some(QueueType::Stream);
            return Ok(MessageSource::Queue {
                name: settings.queue.value.clone(),
                declared: (!settings.receive.no_declare.value && is_meant)
                    .then(|| settings.definition.clone()),
                is_exclusive: arguments.exclusive,
            });
        }
        let usage = |problem: &str| Err(Error::Usage(problem.to_owned()));
        if exchanges.iter().any(|exchange| exchange.name.is_empty()) {
            return usage("--exchange: can't listen to the default exchange; receive from a queue");
        }
        if matches!(settings.queue.origin, Origin::Flag(_)) {
            return usage("give either a queue or --exchange");
        }
        if arguments.drain {
            return usage("--drain: the temporary queue of --exchange starts empty");
        }
        Ok(MessageSource::Exchanges(exchanges.clone()))
    }

    /// Returns the queue that is declared first.
    pub(super) fn declared(&self) -> Option<&Queue> {
        match self {
            Self::Queue { declared, .. } => declared.as_ref(),
            Self::Exchanges(..) => None,
        }
    }

    /// Returns the kind of the queue, if it is known without the broker.
    pub(super) fn kind(&self) -> Option<QueueKind> {
        match self {
            Self::Queue { declared, .. } => declared.as_ref().and_then(kind::of_declared),
            Self::Exchanges(..) => Some(QueueKind::Classic),
        }
    }
}

/// A session to receive with, which connects again when the connection is lost.
pub(super) struct ReconnectingSession<'c> {
    context: &'c Context,
    connector: Connector,
    source: MessageSource,
    /// The moment at which everything ends.
    until: Option<Instant>,
    /// Whether the queue was declared, on this connection or on an earlier one.
    is_queue_declared: bool,
    /// Whether the broker delivers one message at a time, because it failed before with an internal error
    /// (see [`consumer::consume`](crate::broker::consume::consumer::consume)).
    is_careful: bool,
    /// Whether the user was told what to do about messages that are not acknowledged in time.
    is_advised: bool,
    /// The moment at which the connection was opened, or its last message arrived.
    pub(super) last_activity: Instant,
}

impl<'c> ReconnectingSession<'c> {
    pub(super) fn new(
        context: &'c Context,
        connector: Connector,
        source: MessageSource,
        until: Option<Instant>,
    ) -> Self {
        let is_declaring = match source {
            MessageSource::Queue { is_exclusive, .. } => is_exclusive,
            MessageSource::Exchanges(..) => true,
        };
        Self {
            context,
            connector: topology::declare_at_login(
                connector.declaring(is_declaring),
                source.declared(),
            ),
            source,
            until,
            is_queue_declared: false,
            is_advised: false,
            is_careful: false,
            last_activity: Instant::now(),
        }
    }

    /// Calls `consume` on one connection after another, until it succeeds or fails for good.
    pub(super) fn run(
        &mut self,
        mut consume: impl FnMut(&mut Self, &mut Session, &QueueName) -> Result<ReceiveEnd, Error>,
    ) -> Result<ReceiveEnd, Error> {
        let no_reconnect = self.context.settings.receive.no_reconnect.value;
        let mut retry = Retry::new(no_reconnect.then_some(Span::seconds(0)));
        let mut session = self.connector.open()?;
        loop {
            let opened = Instant::now();
            self.last_activity = opened;
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
            // Messages that arrived together with the one at which the broker failed are redelivered.
            let is_progress =
                self.last_activity > opened && (!error.is_internal() || self.is_careful);
            self.is_careful = error.is_internal();
            if is_progress || opened.elapsed() > STABLE_AFTER {
                retry.reset();
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

    /// Consumes again after the broker has cancelled the consumer, if the queue still exists (its node
    /// failed over, or it was declared anew). A queue that was deleted is not declared again.
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

    /// Declares the queue, and returns its name.
    fn prepare(&mut self, session: &mut Session) -> Result<QueueName, Error> {
        match &self.source {
            MessageSource::Queue {
                name,
                declared,
                is_exclusive,
            } => {
                if let Some(queue) = declared {
                    topology::ensure_again(session, queue, &mut self.is_queue_declared)?;
                }
                // For other types of queues the broker ignores it.
                if *is_exclusive && !kind::is_classic(session, name)? {
                    return Err(Error::Usage(format!(
                        "--exclusive: {name} is not a classic queue, and only those support it; a quorum \
                         queue that is declared with --single-active-consumer has one active consumer at a \
                         time"
                    )));
                }
                Ok(name.clone())
            }
            MessageSource::Exchanges(exchanges) => {
                for BoundExchange { name, routing_keys } in exchanges {
                    if routing_keys.is_empty() && difference::is_direct(session, name)? {
                        return Err(Error::Usage(format!(
                            "--exchange: '{}' is a direct exchange, which has no wildcards; name each \
                             routing key with --routing-key",
                            text::escape(name)
                        )));
                    }
                }
                topology::bind_temporary_queue(session, exchanges)
            }
        }
    }
}
