//! Consuming one message at a time: each is settled by itself, in whatever order.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::TryRecvError;

use super::arrivals::Content;
use super::consumer::{Options, Total};
use super::content::ContentChannel;
use super::guard::GRACE;
use super::hands::Hands;
pub use super::hands::Ticket;
use super::subscription::Subscription;
use super::{Session, frames, topology};
use crate::bell::Receiver;
use crate::error::Error;
use crate::interrupt::Interrupt;
use crate::message::Message;
use crate::values::QueueName;

/// The messages of a `receive` that are settled one by one, across connections.
#[derive(Debug)]
pub struct Tally {
    /// The broker's tag of each, and the size of its body.
    hands: Hands<(u64, usize)>,
    done: Total,
    options: Options,
}

impl Tally {
    /// The messages that are to come.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            hands: Hands::new(options.count),
            done: Total::default(),
            options,
        }
    }

    /// What has left the queue for good.
    #[must_use]
    pub fn done(&self) -> Total {
        self.done
    }

    /// Whether a message can still be settled.
    #[must_use]
    pub fn holds(&self, ticket: Ticket) -> bool {
        self.hands.holds(ticket)
    }
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done with.
    Acknowledge,
    /// It is dead-lettered, or dropped.
    Reject,
    /// It goes back to the queue.
    Requeue,
}

/// What a [`Handler`] was waiting for.
#[derive(Debug)]
pub enum Event<R> {
    /// A message came.
    Taken(Ticket, Box<Message>),
    /// Something else that was waited for.
    Other(R),
    /// The user wants to stop.
    Interrupted,
    /// The moment that was waited for at most has come.
    Late,
}

/// A running consumer whose messages are settled one by one.
pub struct Handler<'c> {
    session: &'c mut Session,
    channel: &'c ContentChannel,
    queue: &'c QueueName,
    /// `None` while no more messages may be taken.
    subscription: Option<Subscription<'c>>,
    tally: &'c mut Tally,
}

/// Consumes from a queue for as long as `work` does. Then the connection is closed, or only the
/// channel if `work` failed, which gives what is not settled back to the queue.
///
/// # Errors
/// Those of `work`; [`Error::Refused`] or [`Error::Lost`] if there was no consumer to begin with.
pub fn handle(
    session: &mut Session,
    queue: &QueueName,
    tally: &mut Tally,
    work: impl FnOnce(&mut Handler) -> Result<(), Error>,
) -> Result<(), Error> {
    let channel = session.content_channel()?;
    let mut handler = Handler {
        session: &mut *session,
        channel: &channel,
        queue,
        subscription: None,
        tally: &mut *tally,
    };
    let wait = handler.session.wait(&format!("deliver from queue {queue}"));
    let subscribed = handler.subscribe();
    drop(wait);
    let result = subscribed.and_then(|()| work(&mut handler));
    if !matches!(result, Err(Error::Cancelled { .. })) {
        handler.session.start_closing(GRACE);
    }
    drop(handler);
    let closed = match &result {
        Ok(()) => session.end(),
        Err(_) => channel
            .close()
            .map_err(|error| session.error("close a channel", error)),
    };
    tally.hands.lose_receipts();
    result.and(closed)
}

impl Handler<'_> {
    /// Whether all the messages that were asked for are in hand, or done.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.tally.hands.is_complete()
    }

    /// What has left the queue for good, on this connection and those before.
    #[must_use]
    pub fn done(&self) -> Total {
        self.tally.done
    }

    /// Whether no message is in hand.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.tally.hands.is_empty()
    }

    /// Waits for whatever comes first: a message, if one more may be taken; something in `other`;
    /// `interrupt`, if there is one; or the moment `at_most`.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if the queue is gone, [`Error::Lost`] if the connection is.
    pub fn wait<R>(
        &mut self,
        may_take: bool,
        other: &Receiver<R>,
        interrupt: Option<&Interrupt>,
        at_most: Option<Instant>,
    ) -> Result<Event<R>, Error> {
        if !self.is_complete() && self.subscription.is_none() {
            self.subscribe()?;
        }
        let wire = Arc::clone(&self.session.wire);
        other.rings(wire.bell());
        if let Some(interrupt) = interrupt {
            interrupt.rings(wire.bell());
        }
        let listening = wire.bell().listen();
        loop {
            // Results first: what they settle makes room.
            match other.try_recv() {
                Ok(other) => return Ok(Event::Other(other)),
                Err(TryRecvError::Disconnected) => {
                    return Err(Error::Bug(format!(
                        "nobody handles the messages of queue {}",
                        self.queue
                    )));
                }
                Err(TryRecvError::Empty) => {}
            }
            if let Some(subscription) = self.subscription.as_mut().filter(|_| may_take) {
                if let Some(content) = subscription.next() {
                    return self.take(content);
                }
                if let Some(ended) = subscription.ended() {
                    return Err(ended.error(self.session, self.queue));
                }
            }
            if interrupt.is_some_and(Interrupt::happened) {
                return Ok(Event::Interrupted);
            }
            if at_most.is_some_and(|moment| moment <= Instant::now()) {
                return Ok(Event::Late);
            }
            match &mut self.subscription {
                Some(subscription) => subscription.pause(self.session, &listening, 0, at_most),
                None => self.session.pause(&listening, true, at_most),
            }
        }
    }

    fn take<R>(&mut self, content: Content) -> Result<Event<R>, Error> {
        let tag = content.tag;
        let message = self.session.received(content);
        let ticket = self.tally.hands.take((tag, message.body.len()));
        if self.is_complete() {
            self.unsubscribe()?;
        }
        Ok(Event::Taken(ticket, Box::new(message)))
    }

    /// Settles a message. One whose connection is lost is delivered again, whatever became of it.
    ///
    /// # Errors
    /// [`Error::Lost`] if the connection is.
    pub fn settle(&mut self, ticket: Ticket, outcome: Outcome) -> Result<(), Error> {
        let hands = &mut self.tally.hands;
        let settled = match outcome {
            Outcome::Acknowledge | Outcome::Reject => hands.finish(ticket),
            Outcome::Requeue => hands.give_back(ticket),
        };
        let Some((tag, bytes)) = settled else {
            return Ok(());
        };
        if outcome != Outcome::Requeue {
            let done = &mut self.tally.done;
            done.messages += 1;
            done.bytes += bytes as u64;
            done.rejected += u64::from(outcome == Outcome::Reject);
        }
        let channel = self.channel.number();
        let frame = match outcome {
            Outcome::Acknowledge => frames::ack(channel, tag, false),
            Outcome::Reject => frames::reject(channel, tag, false),
            Outcome::Requeue => frames::reject(channel, tag, true),
        };
        self.post(&frame)
    }

    fn post(&mut self, frames: &[u8]) -> Result<(), Error> {
        self.channel.post(frames).map_err(|error| self.error(error))
    }

    /// Whether a message can still be settled.
    #[must_use]
    pub fn holds(&self, ticket: Ticket) -> bool {
        self.tally.holds(ticket)
    }

    /// Whether the queue has no message that is ready, and none is on its way.
    ///
    /// # Errors
    /// [`Error::Lost`] if the connection is.
    pub fn is_queue_empty(&mut self) -> Result<bool, Error> {
        if topology::look_up(self.session, self.queue)?.messages > 0 {
            return Ok(false);
        }
        // What is not ready any more may be on its way to us. The broker answers on the consumer's own
        // channel only after that.
        let prefetch = self.prefetch();
        self.channel
            .library()
            .and_then(|channel| channel.qos(0, prefetch, false))
            .map_err(|error| self.error(error))?;
        Ok(match &mut self.subscription {
            Some(subscription) => subscription.is_empty(),
            None => true,
        })
    }

    fn prefetch(&self) -> u16 {
        self.tally.options.prefetch(self.tally.hands.left())
    }

    fn subscribe(&mut self) -> Result<(), Error> {
        let limited = self.channel.limit(self.prefetch());
        limited.map_err(|error| self.error(error))?;
        let options = &self.tally.options;
        let (channel, queue) = (self.channel, self.queue);
        let subscription = Subscription::new(channel, queue, options, false, None);
        self.subscription = Some(subscription.map_err(|error| self.error(error))?);
        Ok(())
    }

    /// All are taken that were asked for, and the last one's acknowledgement must not bring another.
    fn unsubscribe(&mut self) -> Result<(), Error> {
        let unwanted = self.subscription.take().map(Subscription::cancel);
        for content in unwanted.into_iter().flatten() {
            self.post(&frames::reject(self.channel.number(), content.tag, true))?;
        }
        Ok(())
    }

    fn error(&mut self, error: amiquip::Error) -> Error {
        self.session
            .error(&format!("consume from queue {}", self.queue), error)
    }
}
