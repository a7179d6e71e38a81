//! Consuming one message at a time: each is settled by itself, in whatever order.

use std::time::{Duration, Instant};

use super::subscription::Subscription;
pub use super::unsettled::Ticket;
use super::unsettled::Unsettled;
use super::{ConsumeOptions, Total};
use crate::broker::connection::{Content, Waited};
use crate::broker::frames::{self, MESSAGES};
use crate::broker::session::Session;
use crate::broker::wait::OnInterrupt;
use crate::error::Error;
use crate::message::Message;
use crate::values::QueueName;
use crate::waker::Receiver;

/// How long the broker may take for the last settlements.
const CLOSING: Duration = Duration::from_secs(1);

/// The messages of a `receive` that are settled one by one, over all its connections.
#[derive(Debug)]
pub struct SingleProgress {
    /// The broker's tag of each, and the size of its body.
    unsettled: Unsettled<(u64, usize)>,
    done: Total,
    options: ConsumeOptions,
    /// Whether there was a connection before.
    is_resumed: bool,
}

impl SingleProgress {
    /// The messages that are to come.
    #[must_use]
    pub fn new(options: ConsumeOptions) -> Self {
        Self {
            unsettled: Unsettled::new(options.count),
            done: Total::default(),
            options,
            is_resumed: false,
        }
    }

    /// What has left the queue for good.
    #[must_use]
    pub fn done(&self) -> Total {
        self.done
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

/// What a [`SingleConsumer`] was waiting for.
#[derive(Debug)]
pub enum SingleEvent<R> {
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
pub struct SingleConsumer<'c> {
    subscription: Subscription<'c>,
    queue: &'c QueueName,
    progress: &'c mut SingleProgress,
}

/// Consumes from a queue for as long as `work` does. Then the connection is closed, or only the
/// channel if the broker has cancelled the consumer. Both give what is not settled back to the queue.
///
/// # Errors
/// Those of `work`; [`Error::Refused`] or [`Error::Lost`] if there was no consumer to begin with.
pub fn consume(
    session: &mut Session,
    queue: &QueueName,
    progress: &mut SingleProgress,
    work: impl FnOnce(&mut SingleConsumer) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut subscription = Subscription::open(session, queue, progress.options, false);
    if std::mem::replace(&mut progress.is_resumed, true) {
        subscription.follows_a_lost_connection();
    }
    let mut consumer = SingleConsumer {
        subscription,
        queue,
        progress: &mut *progress,
    };
    let result = consumer.start().and_then(|()| work(&mut consumer));
    let ended = super::end(session, result, CLOSING, progress.done);
    progress.unsettled.lose_receipts();
    ended
}

impl SingleConsumer<'_> {
    /// Whether all the messages that were asked for are unsettled, or done.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.progress.unsettled.is_complete()
    }

    /// What has left the queue for good, on this connection and those before.
    #[must_use]
    pub fn done(&self) -> Total {
        self.progress.done
    }

    /// Whether no message is unsettled.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.progress.unsettled.is_empty()
    }

    /// Waits for whatever comes first: a message, if one more `may_come`; something in `other`; the
    /// user's interrupt, if it `is_interruptible`; or the moment `at_most`.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if the queue is gone, [`Error::Lost`] if the connection is.
    pub fn wait<R>(
        &mut self,
        may_come: bool,
        other: &Receiver<R>,
        is_interruptible: bool,
        at_most: Option<Instant>,
    ) -> Result<SingleEvent<R>, Error> {
        let is_paused = !self.subscription.is_consuming() && !self.subscription.is_cancelled();
        if is_interruptible && is_paused && !self.is_complete() {
            self.start()?;
        }
        other.wakes(self.subscription.waker());
        // A broker that can't write for long closes the connection, and the message of a command that takes
        // longer would never be done. So everything is read.
        // Whoever waits for commands to end knows of the interrupt.
        let on_interrupt = if is_interruptible {
            OnInterrupt::Return
        } else {
            OnInterrupt::Ignore
        };
        loop {
            let waited = self
                .subscription
                .wait(at_most, on_interrupt, may_come, None, || other.next())?;
            return Ok(match waited {
                Waited::Came(None) => match self.subscription.next() {
                    Some(content) => self.take(content)?,
                    None => continue,
                },
                Waited::Came(Some(Ok(other))) => SingleEvent::Other(other),
                Waited::Came(Some(Err(_))) => {
                    return Err(Error::Bug(format!(
                        "nobody handles the messages of queue {}",
                        self.queue
                    )));
                }
                Waited::Interrupted => SingleEvent::Interrupted,
                Waited::Late => SingleEvent::Late,
            });
        }
    }

    fn take<R>(&mut self, content: Content) -> Result<SingleEvent<R>, Error> {
        let Content { message, tag, .. } = content;
        let ticket = self.progress.unsettled.take((tag, message.body.len()));
        if self.is_complete() {
            // The last one's acknowledgement must not bring another.
            self.subscription.cancel()?;
            while let Some(content) = self.subscription.next() {
                self.subscription
                    .settle(&frames::reject(MESSAGES, content.tag, true));
            }
        }
        Ok(SingleEvent::Taken(ticket, message))
    }

    /// Settles a message. One whose connection is lost is delivered again, whatever became of it.
    pub fn settle(&mut self, ticket: Ticket, outcome: Outcome) {
        if !self.subscription.can_settle() {
            return;
        }
        let unsettled = &mut self.progress.unsettled;
        let settled = match outcome {
            Outcome::Acknowledge | Outcome::Reject => unsettled.finish(ticket),
            Outcome::Requeue => unsettled.give_back(ticket),
        };
        let Some((tag, bytes)) = settled else {
            return;
        };
        if outcome != Outcome::Requeue {
            let done = &mut self.progress.done;
            done.messages += 1;
            done.bytes += bytes as u64;
            done.rejected += u64::from(outcome == Outcome::Reject);
        }
        self.subscription.settle(&match outcome {
            Outcome::Acknowledge => frames::ack(MESSAGES, tag, false),
            Outcome::Reject => frames::reject(MESSAGES, tag, false),
            Outcome::Requeue => frames::reject(MESSAGES, tag, true),
        });
    }

    /// Whether a message can still be settled.
    #[must_use]
    pub fn holds(&self, ticket: Ticket) -> bool {
        self.progress.unsettled.holds(ticket)
    }

    /// Takes no more messages if the queue has none that is ready, and says whether that is so.
    ///
    /// # Errors
    /// [`Error::Lost`] if the connection is.
    pub fn stop_if_empty(&mut self) -> Result<bool, Error> {
        if !self.subscription.is_queue_empty()? {
            return Ok(false);
        }
        // What is not ready any more may be on its way to us. To a consumer that is cancelled nothing
        // is.
        // A queue that was without its leader may have said that it was empty, so it is asked again.
        if self.subscription.is_consuming() {
            self.subscription.cancel()?;
        }
        Ok(!self.subscription.has_message() && self.subscription.is_queue_empty()?)
    }

    fn start(&mut self) -> Result<(), Error> {
        self.subscription
            .start(self.progress.unsettled.left(), None)
    }
}
