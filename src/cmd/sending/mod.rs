//! Sending messages until the broker has confirmed each, over as many connections as it takes.

mod supply;

use std::time::{Duration, Instant};

use crate::broker::publish::{PublishEvent, PublishOptions, PublishOutcome, Publisher};
use crate::broker::{Connector, Retry, Session, topology};
use crate::error::{Error, listed};
use crate::message::Message;
use crate::messenger::Messenger;
use crate::topology::Queue;
use crate::values::Rate;
use supply::NextMessage;
pub use supply::{MessageDefaults, OutgoingMessage, Supply};

/// Why [`Sending::pump`] came to an end with the fate of every message known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    /// There is nothing more to send.
    Done,
    /// The next message needs the queue to be there.
    QueueNeeded,
    /// It is time to send again what was refused, on another channel: a channel on which messages
    /// were refused because a quorum queue had no leader refuses for ever (RabbitMQ 3.10).
    Refused,
}

/// Who is told what becomes of the messages.
pub trait PublishObserver {
    /// A message is being sent, perhaps not for the first time.
    fn take(&mut self, message: &OutgoingMessage);

    /// The fate of a message is known. One that was refused is sent again.
    fn note(&mut self, message: &OutgoingMessage, fate: &PublishOutcome);

    /// How many messages' fate is known for good.
    fn known(&self) -> u64;

    /// The messages that the broker has refused and not taken since, as names.
    fn refused(&self) -> Vec<String>;

    /// A reply came.
    fn reply(&mut self, _message: &Message) {}

    /// Until when to wait for replies; `None` if none is missing.
    fn replies_by(&self) -> Option<Instant> {
        None
    }
}

/// Messages on their way: what to send, where, and who is told.
pub struct Sending<L> {
    /// The way to the broker.
    pub connector: Connector,
    /// How to publish.
    pub options: PublishOptions,
    /// The queue that has to be there for messages that go to it; `None` if it is not to be declared.
    pub queue: Option<Queue>,
    /// Whether messages go to it, as far as is known.
    pub is_queue_needed: bool,
    /// Whether the queue was made sure of, on this connection or on an earlier one.
    pub is_queue_there: bool,
    /// What to send.
    pub supply: Supply,
    /// Who is told.
    pub ledger: L,
    /// How fast to send.
    pub pace: RateLimiter,
    /// How long to try.
    pub retry: SendRetry,
    /// How to tell the user.
    pub messenger: Messenger,
}

impl<L: PublishObserver> Sending<L> {
    /// Sends the messages, and after a lost connection again those that were not confirmed, in
    /// order.
    ///
    /// # Errors
    /// Those of the input and of the broker. The ledger knows what became of the messages, and the
    /// supply has those that are still to be sent.
    pub fn deliver(&mut self) -> Result<(), Error> {
        let mut session = self.connector.open()?;
        loop {
            match self.publish(&mut session) {
                Ok(()) => {
                    session.close();
                    return Ok(());
                }
                Err(error) => {
                    drop(session);
                    let retry = self.retry.after(self.ledger.known());
                    session = self.connector.reopen(error, None, retry)?;
                }
            }
        }
    }

    /// Sends the messages on one connection. Those that are not confirmed when it fails are back in
    /// the supply.
    fn publish(&mut self, session: &mut Session) -> Result<(), Error> {
        loop {
            if let Some(queue) = self.queue.as_ref().filter(|_| self.is_queue_needed) {
                topology::keep(session, queue, &mut self.is_queue_there)?;
            }
            let mut publisher = Publisher::open(session, self.options)?;
            let result = self.pump(&mut publisher);
            match result {
                Ok(Pause::QueueNeeded) => {
                    self.is_queue_needed = true;
                    publisher.close()?;
                    continue;
                }
                Ok(Pause::Refused) => {
                    publisher.close()?;
                    continue;
                }
                Ok(Pause::Done) | Err(_) => {}
            }
            let (known, unknown) = publisher.end();
            for (message, fate) in known {
                self.ledger.note(&message, &fate);
                if fate == PublishOutcome::Refused {
                    self.supply.put_back([message]);
                }
            }
            self.supply.put_back(unknown);
            return result.map(drop);
        }
    }

    fn pump(&mut self, publisher: &mut Publisher<OutgoingMessage>) -> Result<Pause, Error> {
        let mut refused = Vec::new();
        let mut stop = None;
        let mut again_at = None;
        loop {
            while let Some((message, fate)) = publisher.settled() {
                self.ledger.note(&message, &fate);
                if fate == PublishOutcome::Refused {
                    refused.push(message);
                } else {
                    self.trust();
                }
            }
            if publisher.is_idle() {
                if !refused.is_empty() {
                    self.supply.put_back(refused.drain(..));
                    // There is more to do than it seemed.
                    stop = stop.filter(Result::is_err);
                    if stop.is_none() {
                        again_at = Some(self.refused()?);
                    }
                }
                match stop {
                    // Everything is sent, and perhaps not yet answered.
                    Some(Ok(Pause::Done)) if self.ledger.replies_by() > Some(Instant::now()) => {}
                    Some(stop) => return stop,
                    None => {}
                }
            }
            // What was refused is tried again one by one until the first is taken.
            let has_room = if self.retry.is_refused {
                publisher.is_idle()
            } else {
                publisher.has_room() && refused.is_empty()
            };
            let not_yet = again_at
                .or(self.pace.next())
                .filter(|moment| *moment > Instant::now());
            if again_at.is_some() && not_yet.is_none() {
                return Ok(Pause::Refused);
            }
            let may_publish = has_room && stop.is_none();
            let mut batches = None;
            if may_publish && not_yet.is_none() {
                match self.supply.next() {
                    NextMessage::Message(message) => match self.obstacle(publisher, &message) {
                        Some(obstacle) => {
                            self.supply.put_back([message]);
                            stop = Some(obstacle);
                            continue;
                        }
                        None => {
                            self.ledger.take(&message);
                            self.pace.published();
                            publisher.publish(message);
                            continue;
                        }
                    },
                    NextMessage::Later => batches = Some(self.supply.batches()),
                    NextMessage::Nothing => {
                        stop = Some(self.supply.failure().map_or(Ok(Pause::Done), Err));
                        continue;
                    }
                }
            }
            let at_most = match stop {
                Some(Ok(Pause::Done)) => self.ledger.replies_by(),
                _ => not_yet.filter(|_| may_publish),
            };
            match publisher.wait(batches, at_most)? {
                PublishEvent::Reply(message) => self.ledger.reply(&message),
                PublishEvent::Input(batch) => self.supply.add(batch),
                PublishEvent::Interrupted => {
                    publisher.stop();
                    let interrupted = Error::Interrupted("while sending".to_owned());
                    stop = Some(Err(interrupted));
                }
                PublishEvent::Settled | PublishEvent::Posted | PublishEvent::Late => {}
            }
        }
    }

    /// What has to happen before a message can be sent, or keeps it from being sent.
    fn obstacle(
        &self,
        publisher: &Publisher<OutgoingMessage>,
        message: &OutgoingMessage,
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
        let broker = self.connector.broker();
        let retry = self.retry.after(self.ledger.known());
        retry.begin();
        if retry.is_over() {
            return Err(Error::Nack { broker });
        }
        if !self.retry.is_refused {
            self.retry.is_refused = true;
            self.messenger.note(&format!(
                "{broker} rejected (nack) {}; retrying",
                listed(&self.ledger.refused())
            ));
        }
        Ok(Instant::now() + self.retry.policy.next_pause())
    }

    /// The broker took or returned a message: it refuses no longer.
    fn trust(&mut self) {
        if self.retry.is_refused {
            self.retry.is_refused = false;
            let broker = self.connector.broker();
            self.messenger
                .note(&format!("{broker} accepts messages again"));
        }
    }
}

/// The policy of sending again what is not yet confirmed. The retry policy starts anew with each message whose
/// fate becomes known.
pub struct SendRetry {
    policy: Retry,
    /// How many messages' fate was known at the last failure.
    known: u64,
    /// Whether the broker refused what was sent last.
    is_refused: bool,
}

impl SendRetry {
    /// Tries as `policy` allows them.
    #[must_use]
    pub fn new(policy: Retry) -> Self {
        Self {
            policy,
            known: 0,
            is_refused: false,
        }
    }

    /// The policy after a failure with so many messages `known`.
    fn after(&mut self, known: u64) -> &mut Retry {
        if known > self.known {
            self.known = known;
            self.policy.progress();
        }
        &mut self.policy
    }
}

/// When the next message may be sent.
pub struct RateLimiter {
    interval: Option<Duration>,
    next: Option<Instant>,
}

/// How far the sending may be behind its pace and still catch up. A timer is not exact.
const CATCH_UP: Duration = Duration::from_millis(100);

impl RateLimiter {
    /// At this rate, or as fast as it goes.
    #[must_use]
    pub fn new(rate: Option<Rate>) -> Self {
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
