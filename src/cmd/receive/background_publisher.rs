//! A publisher with a connection and a thread of its own, for a `receive` that publishes.

use std::io;
use std::thread::{self, JoinHandle};

use crate::broker::publish::PublishOptions;
use crate::broker::{Connector, Retry};
use crate::cmd::sending::{
    InputBatch, MessageDefaults, PublishObserver, RateLimiter, SendRetry, Sending, Supply,
};
use crate::error::Error;
use crate::input::Item;
use crate::message::Message;
use crate::message::envelope::Envelope;
use crate::messenger::Messenger;
use crate::settings::Settings;
use crate::values::Span;
use crate::waker::{Sender, unbounded};

/// The options of publishing by a `receive`.
#[derive(Clone, Copy, Debug)]
pub(super) struct BackgroundOptions {
    pub(super) publish: PublishOptions,
    /// Whether it gives up when the connection is lost, or confirms are overdue.
    gives_up: bool,
}

impl BackgroundOptions {
    pub(super) fn new(settings: &Settings) -> Self {
        // Otherwise it goes on as long as there are messages to receive: a queue that takes nothing for an
        // hour is like a connection that is lost for an hour.
        let gives_up = settings.receive.no_reconnect.value;
        Self {
            publish: PublishOptions {
                allow_unroutable: false,
                replies: false,
                confirm_timeout: if gives_up {
                    settings.send.confirm_timeout.value
                } else {
                    Span::seconds(0)
                },
                no_confirm: false,
            },
            gives_up,
        }
    }
}

/// Publishes messages in the background. A message is identified by its position `P`.
pub(super) struct BackgroundPublisher<P> {
    batches: Sender<InputBatch<P>>,
    thread: JoinHandle<()>,
}

impl<P: Send + 'static> BackgroundPublisher<P> {
    /// Starts the thread. `observer` gets the outcome of each message, and `on_failure` the error that
    /// ended the thread early.
    ///
    /// # Errors
    /// Fails if the system has no more threads.
    pub(super) fn spawn(
        options: BackgroundOptions,
        connector: Connector,
        messenger: Messenger,
        observer: impl PublishObserver<Position = P> + Send + 'static,
        on_failure: impl FnOnce(Error) + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, batches) = unbounded();
        let mut sending = Sending {
            connector,
            options: options.publish,
            // The target belongs to someone else, who knows its properties.
            queue: None,
            is_queue_needed: false,
            is_queue_declared: false,
            // Messages are published as they are.
            supply: Supply::new(batches, MessageDefaults::default()),
            observer,
            rate_limiter: RateLimiter::new(None),
            retry: SendRetry::new(Retry::new(options.gives_up.then_some(Span::seconds(0)))),
            messenger,
        };
        let run = move || {
            if let Err(error) = sending.run() {
                // It is final here, and says nothing about the connection for receiving.
                on_failure(if error.is_transient() {
                    Error::Publisher(Box::new(error))
                } else {
                    error
                });
            }
        };
        let thread = thread::Builder::new().name("publisher".to_owned());
        Ok(Self {
            batches: sender,
            thread: thread.spawn(run)?,
        })
    }

    /// Publishes messages, in order.
    pub(super) fn publish(&self, messages: impl IntoIterator<Item = (P, Message)>) {
        let items = messages.into_iter().map(|(position, message)| Item {
            envelope: Envelope {
                exchange: Some(message.exchange),
                routing_key: Some(message.routing_key),
                properties: message.properties,
                body: message.body,
                received_at: None,
            },
            place: position,
            due: None,
        });
        let _ = self.batches.send(Ok(items.collect()));
    }

    /// Ends the thread with an error, once everything before is confirmed.
    pub(super) fn fail(&self, error: Error) {
        let _ = self.batches.send(Err(error));
    }

    /// Publishes what is left, and closes the connection.
    pub(super) fn close(self) {
        drop(self.batches);
        let _ = self.thread.join();
    }
}
