//! `hello-mq receive --reply`: publishes the output of each command as the reply to its message.

use std::fmt;
use std::io;

use super::background_publisher::BackgroundPublisher;
use super::job::JobEvent;
use crate::broker::Connector;
use crate::broker::consume::Ticket;
use crate::broker::publish::PublishOutcome;
use crate::cmd::sending::{OutgoingMessage, PublishObserver};
use crate::message::{Message, Properties, ShortString};
use crate::messenger::Messenger;
use crate::settings::Settings;
use crate::waker::Sender;

/// The address of a reply: the queue it goes to, and the id of the request.
#[derive(Clone, Debug)]
pub(super) struct Address {
    reply_to: String,
    correlation_id: Option<ShortString>,
}

impl Address {
    /// Returns the address that a request names, if it does.
    pub(super) fn of(request: &Message) -> Option<Self> {
        let properties = &request.properties;
        let reply_to = properties.reply_to.as_ref()?.as_str()?;
        Some(Self {
            reply_to: reply_to.to_owned(),
            correlation_id: properties.correlation_id.clone(),
        })
    }
}

/// Publishes the replies of commands.
pub(super) struct ReplyPublisher {
    publisher: BackgroundPublisher<Reply>,
}

impl ReplyPublisher {
    /// Starts to publish. The outcome of each reply is sent to `events`.
    ///
    /// # Errors
    /// Fails if the system has no more threads.
    pub(super) fn spawn(
        settings: &Settings,
        connector: Connector,
        messenger: Messenger,
        events: Sender<JobEvent>,
    ) -> io::Result<Self> {
        let observer = ReplyObserver {
            events: events.clone(),
            settled: 0,
        };
        let on_failure = move |error| {
            let _ = events.send(JobEvent::ReplyFailed(error));
        };
        BackgroundPublisher::spawn(settings, connector, messenger, observer, on_failure)
            .map(|publisher| Self { publisher })
    }

    /// Publishes the reply to the request that `ticket` settles.
    pub(super) fn send(&self, ticket: Ticket, address: Address, body: Vec<u8>) {
        let message = Message {
            routing_key: address.reply_to,
            properties: Properties {
                correlation_id: address.correlation_id,
                ..Properties::default()
            },
            body,
            ..Message::default()
        };
        self.publisher.publish([(Reply(ticket), message)]);
    }

    /// Closes the connection.
    pub(super) fn close(self) {
        self.publisher.close();
    }
}

/// The reply to the request that this ticket settles.
#[derive(Debug)]
struct Reply(Ticket);

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a reply")
    }
}

/// Reports the outcome of each reply.
struct ReplyObserver {
    events: Sender<JobEvent>,
    settled: u64,
}

impl PublishObserver for ReplyObserver {
    type Position = Reply;

    fn on_publish(&mut self, _: &OutgoingMessage<Reply>) {}

    fn on_outcome(&mut self, message: &OutgoingMessage<Reply>, outcome: &PublishOutcome) {
        let returned = match outcome {
            PublishOutcome::Refused => return,
            PublishOutcome::Confirmed => None,
            PublishOutcome::Returned(said) => Some(said.clone()),
        };
        self.settled += 1;
        let Reply(ticket) = message.position;
        let _ = self.events.send(JobEvent::Replied(ticket, returned));
    }

    fn settled(&self) -> u64 {
        self.settled
    }

    fn refused(&self) -> Vec<String> {
        vec!["a reply".to_owned()]
    }
}
