//! `hello-mq receive --reply`: what a command prints goes to whoever asked.

use std::io;

use super::background_publisher::BackgroundPublisher;
use super::job::JobEvent;
use crate::broker::Connector;
use crate::broker::consume::Ticket;
use crate::broker::publish::PublishOutcome;
use crate::cmd::sending::{OutgoingMessage, PublishObserver};
use crate::input::MessagePosition;
use crate::message::{Message, Properties, ShortString};
use crate::messenger::Messenger;
use crate::settings::Settings;
use crate::waker::Sender;

/// Where a reply goes to, and what it belongs to.
#[derive(Clone, Debug)]
pub struct Address {
    reply_to: String,
    correlation_id: Option<ShortString>,
}

impl Address {
    /// Where a request wants its reply; `None` if it wants none.
    pub fn of(request: &Message) -> Option<Self> {
        let properties = &request.properties;
        let reply_to = properties.reply_to.as_ref()?.as_str()?;
        Some(Self {
            reply_to: reply_to.to_owned(),
            correlation_id: properties.correlation_id.clone(),
        })
    }
}

/// Publishes the replies of commands.
pub struct ReplyPublisher {
    publisher: BackgroundPublisher,
}

impl ReplyPublisher {
    /// Starts to send. What becomes of each reply is told to `done`.
    ///
    /// # Errors
    /// Those of the system, if it has no more threads.
    pub fn spawn(
        settings: &Settings,
        connector: Connector,
        messenger: Messenger,
        done: Sender<JobEvent>,
    ) -> io::Result<Self> {
        let ledger = ReplyObserver {
            done: done.clone(),
            known: 0,
        };
        let failed = move |error| {
            let _ = done.send(JobEvent::NoReplies(error));
        };
        BackgroundPublisher::spawn(settings, connector, messenger, ledger, failed)
            .map(|publisher| Self { publisher })
    }

    /// Sends a reply for a request.
    pub fn send(&self, ticket: Ticket, address: Address, body: Vec<u8>) {
        let reply = Message {
            routing_key: address.reply_to,
            properties: Properties {
                correlation_id: address.correlation_id,
                ..Properties::default()
            },
            body,
            ..Message::default()
        };
        self.publisher.publish([(ticket, reply)]);
    }

    /// Closes the connection.
    pub fn close(self) {
        self.publisher.close();
    }
}

/// Tells what became of each reply.
struct ReplyObserver {
    done: Sender<JobEvent>,
    known: u64,
}

impl PublishObserver for ReplyObserver {
    fn take(&mut self, _: &OutgoingMessage) {}

    fn note(&mut self, message: &OutgoingMessage, fate: &PublishOutcome) {
        let MessagePosition::Argument(ticket) = message.place else {
            return;
        };
        let returned = match fate {
            PublishOutcome::Refused => return,
            PublishOutcome::Confirmed => None,
            PublishOutcome::Returned(said) => Some(said.clone()),
        };
        self.known += 1;
        let _ = self.done.send(JobEvent::Replied(ticket, returned));
    }

    fn known(&self) -> u64 {
        self.known
    }

    fn refused(&self) -> Vec<String> {
        vec!["a reply".to_owned()]
    }
}
