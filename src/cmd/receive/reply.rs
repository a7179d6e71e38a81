//! `hello-mq receive --reply`: publishes the output of each command as the reply to its message.

use std::fmt;
use std::io;

use super::background_publisher::{BackgroundOptions, BackgroundPublisher};
use super::job::JobEvent;
use crate::broker::Connector;
use crate::broker::consume::Ticket;
use crate::broker::publish::PublishOutcome;
use crate::cmd::sending::{OutgoingMessage, PublishObserver};
use crate::message::{Message, Properties};
use crate::messenger::Messenger;
use crate::waker::Sender;

/// Starts to publish replies. The outcome of each is sent to `events`.
///
/// # Errors
/// Fails if the system has no more threads.
pub(super) fn publisher(
    options: BackgroundOptions,
    connector: Connector,
    messenger: Messenger,
    events: Sender<JobEvent>,
) -> io::Result<BackgroundPublisher<Reply>> {
    let observer = ReplyObserver(events.clone());
    let on_failure = move |error| {
        let _ = events.send(JobEvent::ReplyFailed(error));
    };
    BackgroundPublisher::spawn(options, connector, messenger, observer, on_failure)
}

/// Returns the reply that a request asks for, without its body.
pub(super) fn to(request: &Message) -> Option<Message> {
    let properties = &request.properties;
    Some(Message {
        routing_key: properties.reply_to.as_ref()?.as_str()?.to_owned(),
        properties: Properties {
            correlation_id: properties.correlation_id.clone(),
            ..Properties::default()
        },
        ..Message::default()
    })
}

/// The reply to the request that this ticket settles.
pub(super) struct Reply(pub(super) Ticket);

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a reply")
    }
}

/// Reports the outcome of each reply.
struct ReplyObserver(Sender<JobEvent>);

impl PublishObserver for ReplyObserver {
    type Position = Reply;

    fn on_publish(&mut self, _: &OutgoingMessage<Reply>) {}

    fn on_outcome(&mut self, message: &OutgoingMessage<Reply>, outcome: &PublishOutcome) {
        let returned = match outcome {
            PublishOutcome::Refused => return,
            PublishOutcome::Confirmed => None,
            PublishOutcome::Returned(said) => Some(said.clone()),
        };
        let Reply(ticket) = message.position;
        let _ = self.0.send(JobEvent::Replied(ticket, returned));
    }

    fn refused(&self) -> Vec<String> {
        vec!["a reply".to_owned()]
    }
}
