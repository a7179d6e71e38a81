//! A connection of its own, and a thread that minds it, on which a `receive` publishes.

use std::io;
use std::thread::{self, JoinHandle};

use crate::broker::publish::PublishOptions;
use crate::broker::{Connector, Retry};
use crate::cmd::sending::{
    MessageDefaults, PublishObserver, RateLimiter, SendRetry, Sending, Supply,
};
use crate::error::Error;
use crate::input::{Input, Item, MessagePosition};
use crate::message::envelope::Envelope;
use crate::message::{Message, Properties};
use crate::messenger::Messenger;
use crate::settings::Settings;
use crate::values::Span;
use crate::waker::{Sender, unbounded};

/// The way out for messages.
pub struct BackgroundPublisher {
    items: Option<Sender<Result<Vec<Item>, Error>>>,
    thread: Option<JoinHandle<()>>,
}

impl BackgroundPublisher {
    /// Starts the thread. The fate of each message is told to `ledger`, and what ended the thread
    /// early to `failed`.
    ///
    /// # Errors
    /// Those of the system, if it has no more threads.
    pub fn spawn(
        settings: &Settings,
        connector: Connector,
        messenger: Messenger,
        ledger: impl PublishObserver + Send + 'static,
        failed: impl FnOnce(Error) + Send + 'static,
    ) -> io::Result<Self> {
        let (items, batches) = unbounded();
        let input = Input {
            batches,
            plan: None,
            count: 1,
        };
        // Without bounds it goes on as long as there are messages to receive: a queue that takes nothing for
        // an hour is like a connection that is lost for an hour.
        let is_bounded = settings.receive.no_reconnect.value;
        let mut sending = Sending {
            connector,
            options: PublishOptions {
                allow_unroutable: false,
                replies: false,
                confirm_timeout: if is_bounded {
                    settings.send.confirm_timeout.value
                } else {
                    Span::seconds(0)
                },
                no_confirm: false,
            },
            // Where it goes is somebody's, who knows its properties.
            queue: None,
            is_queue_needed: false,
            is_queue_there: false,
            supply: Supply::new(input, as_it_is()),
            ledger,
            pace: RateLimiter::new(None),
            retry: SendRetry::new(Retry::new(is_bounded.then_some(Span::seconds(0)))),
            messenger,
        };
        let thread = thread::Builder::new()
            .name("publisher".to_owned())
            .spawn(move || {
                if let Err(error) = sending.deliver() {
                    failed(error);
                }
            })?;
        Ok(Self {
            items: Some(items),
            thread: Some(thread),
        })
    }

    /// Publishes messages. Each is known to the ledger as the argument of its number.
    pub fn publish(&self, messages: impl IntoIterator<Item = (u64, Message)>) {
        let items = messages.into_iter().map(|(number, message)| Item {
            envelope: Envelope {
                exchange: Some(message.exchange),
                routing_key: Some(message.routing_key),
                properties: message.properties,
                body: message.body,
            },
            place: MessagePosition::Argument(number),
        });
        if let Some(sender) = &self.items {
            let _ = sender.send(Ok(items.collect()));
        }
    }

    /// Ends it with an error, once everything before it is confirmed.
    pub fn fail(&self, error: Error) {
        if let Some(sender) = &self.items {
            let _ = sender.send(Err(error));
        }
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

/// Nothing is added to a message.
fn as_it_is() -> MessageDefaults {
    MessageDefaults {
        exchange: String::new(),
        routing_key: None,
        queue: String::new(),
        properties: Properties::default(),
        run: String::new(),
        is_named: false,
        is_request: false,
    }
}
