//! Publishes messages until the broker has confirmed each, over as many connections as that takes.

mod rate_limiter;
mod supply;

use std::fmt::Display;
use std::time::Instant;

use crate::broker::publish::{PublishEvent, PublishOptions, PublishOutcome, Publisher};
use crate::broker::{Connector, Retry, Session, topology};
use crate::error::{Error, listed};
use crate::message::Message;
use crate::messenger::Messenger;
use crate::topology::Queue;
pub(crate) use rate_limiter::RateLimiter;
use supply::NextMessage;
pub(crate) use supply::{InputBatch, MessageDefaults, OutgoingMessage, Supply};

/// Observes what becomes of the messages.
pub(crate) trait PublishObserver {
    /// The position of a message in the input, by which errors name it.
    type Position: Display;

    /// Called when a message is published, perhaps not for the first time.
    fn on_publish(&mut self, message: &OutgoingMessage<Self::Position>);

    /// Called with the outcome of a message. A message that was refused is published again.
    fn on_outcome(&mut self, message: &OutgoingMessage<Self::Position>, outcome: &PublishOutcome);

    /// Returns the names of the messages that are refused at the moment.
    fn refused(&self) -> Vec<String>;

    /// Called with each reply.
    fn on_reply(&mut self, _message: &Message) {}

    /// Returns the moment until which to wait for replies; `None` if none is missing.
    fn reply_deadline(&self) -> Option<Instant> {
        None
    }
}

/// The messages to send, and how to send them.
pub(crate) struct Sending<O: PublishObserver> {
    /// Connects to the broker.
    pub(crate) connector: Connector,
    /// The options of publishing.
    pub(crate) options: PublishOptions,
    /// The queue to declare for the messages that go to it; `None` to declare none.
    pub(crate) queue: Option<Queue>,
    /// Whether messages go to that queue, as far as is known.
    pub(crate) is_queue_needed: bool,
    /// Whether the queue was declared, on this connection or on an earlier one.
    pub(crate) is_queue_declared: bool,
    /// The messages to send.
    pub(crate) supply: Supply<O::Position>,
    /// Observes what becomes of them.
    pub(crate) observer: O,
    /// Decides when the next one may be sent.
    pub(crate) rate_limiter: RateLimiter,
    /// The policy of trying again.
    pub(crate) retry: SendRetry,
    /// Writes messages to the user.
    pub(crate) messenger: Messenger,
}

/// The state of publishing on one channel.
enum PublishState {
    /// Messages of the supply are published.
    Publishing,
    /// Messages are no longer published. When all are settled, this is the result.
    Draining(Result<ChannelEnd, Error>),
    /// Everything is sent and settled, but replies are missing.
    AwaitingReplies,
    /// The broker has refused messages. At this moment they may be published again.
    BackingOff(Instant),
}

/// The reason why a channel is no longer used. No message is unsettled then.
#[derive(Debug)]
enum ChannelEnd {
    /// Everything is sent.
    Complete,
    /// The input ended early, with the error that the supply keeps, and everything before is sent.
    InputFailed,
    /// The queue has to be declared before the next message is sent.
    QueueNeeded,
    /// The broker refused messages, which are to be published on another channel: one on which messages
    /// were refused because a quorum queue had no leader refuses for ever (RabbitMQ 3.10).
    Refused,
}

/// The reason why no message can be published at the moment.
enum Blocked {
    /// The window of unsettled messages is full.
    Unsettled,
    /// The next message may be sent at this moment.
    Until(Instant),
    /// More input has to be read.
    Input,
    /// This channel can't be used any more.
    End(Result<ChannelEnd, Error>),
}

impl<O: PublishObserver> Sending<O> {
    /// Sends the messages. After a lost connection, those that were not confirmed are sent again in
    /// order.
    ///
    /// On failure the supply has the messages that are still to be sent.
    pub(crate) fn run(&mut self) -> Result<(), Error> {
        let mut session = self.connector.open()?;
        loop {
            match self.publish_on_connection(&mut session) {
                Ok(()) => {
                    session.close();
                    return Ok(());
                }
                Err(error) => {
                    drop(session);
                    session = self
                        .connector
                        .reopen(error, None, self.retry.after_failure())?;
                }
            }
        }
    }

    /// Publishes over one connection. When it fails, unconfirmed messages are back in the supply.
    fn publish_on_connection(&mut self, session: &mut Session) -> Result<(), Error> {
        loop {
            if let Some(queue) = self.queue.as_ref().filter(|_| self.is_queue_needed) {
                topology::ensure_again(session, queue, &mut self.is_queue_declared)?;
            }
            let mut publisher = Publisher::open(session, self.options)?;
            match self.publish_on_channel(&mut publisher) {
                Ok(ChannelEnd::QueueNeeded) => self.is_queue_needed = true,
                Ok(ChannelEnd::Refused) => {}
                result => {
                    let (settled, unsettled) = publisher.end();
                    for (message, outcome) in settled {
                        self.settle(message, &outcome);
                    }
                    self.supply.put_back(unsettled);
                    // Only now: a lost connection does not make the input complete.
                    return match result? {
                        ChannelEnd::InputFailed => self.supply.failure().map_or(Ok(()), Err),
                        _ => Ok(()),
                    };
                }
            }
            publisher.close()?;
        }
    }

    fn publish_on_channel(
        &mut self,
        publisher: &mut Publisher<OutgoingMessage<O::Position>>,
    ) -> Result<ChannelEnd, Error> {
        let mut state = PublishState::Publishing;
        loop {
            while let Some((message, outcome)) = publisher.next_settled() {
                self.settle(message, &outcome);
                let is_failed = matches!(
                    state,
                    PublishState::Draining(Err(_) | Ok(ChannelEnd::InputFailed))
                );
                if outcome == PublishOutcome::Refused && !is_failed {
                    state = PublishState::Draining(Ok(ChannelEnd::Refused));
                }
            }
            if publisher.is_idle() {
                state = match state {
                    PublishState::Draining(Ok(ChannelEnd::Refused)) => {
                        PublishState::BackingOff(self.back_off()?)
                    }
                    PublishState::Draining(Ok(ChannelEnd::Complete)) => {
                        PublishState::AwaitingReplies
                    }
                    PublishState::Draining(result) => return result,
                    state => state,
                };
            }
            let (input, until) = match &state {
                PublishState::Publishing => match self.publish_available(publisher) {
                    Blocked::Unsettled => (None, None),
                    Blocked::Until(moment) => (None, Some(moment)),
                    Blocked::Input => (Some(self.supply.batches()), None),
                    Blocked::End(result) => {
                        state = PublishState::Draining(result);
                        continue;
                    }
                },
                PublishState::Draining(_) => (None, None),
                PublishState::AwaitingReplies => match self.observer.reply_deadline() {
                    Some(deadline) if deadline > Instant::now() => (None, Some(deadline)),
                    _ => return Ok(ChannelEnd::Complete),
                },
                PublishState::BackingOff(moment) if *moment <= Instant::now() => {
                    return Ok(ChannelEnd::Refused);
                }
                PublishState::BackingOff(moment) => (None, Some(*moment)),
            };
            match publisher.wait(input, until)? {
                PublishEvent::Reply(message) => self.observer.on_reply(&message),
                PublishEvent::Input(batch) => self.supply.add(batch),
                PublishEvent::Interrupted => {
                    publisher.stop();
                    let interrupted = Error::Interrupted("while sending".to_owned());
                    state = PublishState::Draining(Err(interrupted));
                }
                PublishEvent::Settled | PublishEvent::BodySent | PublishEvent::TimedOut => {}
            }
        }
    }

    /// Publishes messages of the supply until something is in the way.
    fn publish_available(
        &mut self,
        publisher: &mut Publisher<OutgoingMessage<O::Position>>,
    ) -> Blocked {
        loop {
            // After a refusal one message at a time is tried, until the broker takes one.
            let has_room = if self.retry.is_refusing {
                publisher.is_idle()
            } else {
                publisher.has_room()
            };
            if !has_room {
                return Blocked::Unsettled;
            }
            let message = match self.supply.next(&self.rate_limiter) {
                NextMessage::Message(message) => message,
                NextMessage::NotBefore(moment) => return Blocked::Until(moment),
                NextMessage::Pending => return Blocked::Input,
                NextMessage::End => {
                    return Blocked::End(Ok(if self.supply.has_failed() {
                        ChannelEnd::InputFailed
                    } else {
                        ChannelEnd::Complete
                    }));
                }
            };
            if let Some(end) = self.obstacle(publisher, &message) {
                self.supply.put_back([message]);
                return Blocked::End(end);
            }
            self.observer.on_publish(&message);
            self.rate_limiter.published();
            publisher.publish(message);
        }
    }

    /// Returns what has to be done before a message can be published, or why it cannot be published.
    fn obstacle(
        &self,
        publisher: &Publisher<OutgoingMessage<O::Position>>,
        message: &OutgoingMessage<O::Position>,
    ) -> Option<Result<ChannelEnd, Error>> {
        if message.to_queue && !self.is_queue_needed {
            return Some(Ok(ChannelEnd::QueueNeeded));
        }
        let problem = publisher.size_problem(&message.message)?;
        let place = message.position.to_string();
        Some(Err(Error::BadInput { place, problem }))
    }

    /// Records the outcome of a message, and puts a refused one back into the supply.
    fn settle(&mut self, message: OutgoingMessage<O::Position>, outcome: &PublishOutcome) {
        self.observer.on_outcome(&message, outcome);
        if *outcome == PublishOutcome::Refused {
            self.supply.put_back([message]);
            return;
        }
        self.retry.has_progressed = true;
        if self.retry.is_refusing {
            self.retry.is_refusing = false;
            let broker = self.connector.broker();
            self.messenger
                .note(&format!("{broker} accepts messages again"));
        }
    }

    /// Returns the moment at which to publish refused messages again.
    fn back_off(&mut self) -> Result<Instant, Error> {
        let broker = self.connector.broker();
        let retry = self.retry.after_failure();
        retry.start();
        if retry.is_expired() {
            return Err(Error::Nack { broker });
        }
        if !self.retry.is_refusing {
            self.retry.is_refusing = true;
            self.messenger.note(&format!(
                "{broker} rejected (nack) {}; retrying",
                listed(&self.observer.refused())
            ));
        }
        Ok(Instant::now() + self.retry.policy.next_delay())
    }
}

/// The policy of sending again what is not yet confirmed. The policy of [`Retry`] starts anew whenever
/// a message was settled since the last failure.
pub(crate) struct SendRetry {
    policy: Retry,
    /// Whether a message was settled since the last failure.
    has_progressed: bool,
    /// Whether the broker refused the last message that was settled.
    is_refusing: bool,
}

impl SendRetry {
    /// Creates a policy with the limits of `policy`.
    pub(crate) fn new(policy: Retry) -> Self {
        Self {
            policy,
            has_progressed: false,
            is_refusing: false,
        }
    }

    /// Returns the policy to apply after a failure.
    fn after_failure(&mut self) -> &mut Retry {
        if std::mem::take(&mut self.has_progressed) {
            self.policy.reset();
        }
        &mut self.policy
    }
}
