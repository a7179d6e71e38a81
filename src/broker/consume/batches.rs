//! Consuming in batches: deliveries in, batches out to be written, one acknowledgement for many.

use std::time::{Duration, Instant};

use super::batch::{Batches, Written};
use super::consumer::{self, ConsumeEvent, ConsumeProgress, Consumer};
use super::{ConsumeOptions, Total};
use crate::broker::session::Session;
use crate::error::Error;
use crate::message::{Batch, Message};
use crate::values::QueueName;
use crate::waker::Receiver;

/// The most messages that are held for a slow reader when the broker does not wait for
/// acknowledgements and so sends as fast as it can.
const AUTO_ACK_BACKLOG: u16 = 10_000;

/// The most bytes that are held so.
const BACKLOG_BYTES: usize = 4 << 20;

/// How long an acknowledgement may wait for others to go with, if the broker may go on sending
/// meanwhile: each costs the broker as much as a message.
const ACK_DELAY: Duration = Duration::from_millis(1);

/// What a [`BatchConsumer`] was waiting for.
#[derive(Debug)]
pub enum BatchEvent {
    /// Messages came.
    Taken,
    /// The oldest batch that was handed over is written and flushed.
    Written,
    /// What was written is acknowledged.
    Acknowledged,
    /// The user wants to stop.
    Interrupted,
    /// The moment that was waited for at most has come.
    Late,
}

/// The messages of a `receive` in batches, over all its connections.
#[derive(Debug)]
pub struct BatchProgress {
    progress: ConsumeProgress,
    batches: Batches<Box<Message>>,
    /// How many messages may be written and not acknowledged.
    due_max: u64,
}

impl BatchProgress {
    /// The messages that are to come.
    #[must_use]
    pub fn new(options: ConsumeOptions) -> Self {
        let progress = ConsumeProgress::new(options);
        // Half of what the broker may send ahead, so that acknowledgements keep the rest coming.
        let batch_max = if progress.no_ack {
            AUTO_ACK_BACKLOG
        } else {
            options.prefetch.div_ceil(2)
        };
        Self {
            progress,
            batches: Batches::new(usize::from(batch_max), BACKLOG_BYTES),
            due_max: u64::from(batch_max),
        }
    }

    /// What is written, and acknowledged.
    #[must_use]
    pub fn done(&self) -> Total {
        self.progress.done()
    }
}

/// A running consumer.
pub struct BatchConsumer<'b, 'c> {
    consumer: &'b mut Consumer<'c>,
    batches: &'b mut Batches<Box<Message>>,
    due_max: u64,
    /// The messages that are written and not yet acknowledged.
    due: Option<Written>,
    /// When that is to be acknowledged at the latest.
    acknowledge_by: Option<Instant>,
    is_stopped: bool,
}

/// Consumes from a queue as [`consumer::consume`] does.
///
/// # Errors
/// As there.
pub fn consume(
    session: &mut Session,
    queue: &QueueName,
    progress: &mut BatchProgress,
    work: impl FnOnce(&mut BatchConsumer) -> Result<(), Error>,
) -> Result<(), Error> {
    let BatchProgress {
        progress,
        batches,
        due_max,
    } = progress;
    if !progress.no_ack {
        // It comes again.
        batches.forget_batch();
    }
    consumer::consume(session, queue, progress, |consumer| {
        let mut consumer = BatchConsumer {
            consumer,
            batches,
            due_max: *due_max,
            due: None,
            acknowledge_by: None,
            is_stopped: false,
        };
        let result = work(&mut consumer);
        // Written messages need not come again.
        consumer.acknowledge();
        result
    })
}

impl BatchConsumer<'_, '_> {
    /// Whether every message that was taken is written and acknowledged, and no more are to come.
    #[must_use]
    pub fn is_done(&self) -> bool {
        (self.is_stopped || self.consumer.is_complete()) && self.is_idle()
    }

    /// Whether nothing that was taken is still to be written or acknowledged.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.batches.is_written() && self.due.is_none()
    }

    /// What is written, and acknowledged, on this connection and those before.
    #[must_use]
    pub fn done(&self) -> Total {
        self.consumer.done()
    }

    /// Whether a stream has no more.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.consumer.is_at_end()
    }

    /// The messages to be written next.
    pub fn next_batch(&mut self) -> Option<Batch> {
        self.batches.hand_over()
    }

    /// Waits for whatever comes first: messages, the report on the oldest batch in `written`, the user's
    /// interrupt (until [`BatchConsumer::stop`]), or the moment `at_most`.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if the queue is gone, [`Error::Lost`] if the connection is; the error of a
    /// batch that could not be written.
    pub fn wait(
        &mut self,
        written: &Receiver<Result<(), Error>>,
        at_most: Option<Instant>,
    ) -> Result<BatchEvent, Error> {
        self.pause_or_resume()?;
        loop {
            if self.take_what_came()? {
                return Ok(BatchEvent::Taken);
            }
            let until = [self.acknowledge_by, at_most].into_iter().flatten().min();
            let (_, held) = self.batches.unwritten();
            let may_take = self.may_take();
            let event =
                self.consumer
                    .wait(may_take, Some(held), written, !self.is_stopped, until)?;
            return Ok(match event {
                ConsumeEvent::Arrived => continue,
                ConsumeEvent::Other(Ok(())) => {
                    self.written();
                    BatchEvent::Written
                }
                ConsumeEvent::Other(Err(error)) => return Err(error),
                ConsumeEvent::Interrupted => BatchEvent::Interrupted,
                ConsumeEvent::Late if at_most.is_some_and(|moment| moment <= Instant::now()) => {
                    BatchEvent::Late
                }
                ConsumeEvent::Late => {
                    self.acknowledge();
                    BatchEvent::Acknowledged
                }
            });
        }
    }

    fn may_take(&self) -> bool {
        self.batches.has_room() && !self.is_stopped && !self.consumer.is_complete()
    }

    /// Takes what came as far as there is room for it, and says whether there was something.
    fn take_what_came(&mut self) -> Result<bool, Error> {
        let mut taken = false;
        while self.may_take() && self.take()? {
            taken = true;
        }
        if taken && self.consumer.is_complete() {
            // What may still come goes back to the queue.
            self.consumer.leave();
        }
        Ok(taken)
    }

    fn take(&mut self) -> Result<bool, Error> {
        let Some(delivery) = self.consumer.take()? else {
            return Ok(false);
        };
        let it = Written {
            messages: 1,
            bytes: delivery.message.body.len() as u64,
            last: delivery.ticket,
        };
        self.batches.take(delivery.message, it);
        Ok(true)
    }

    /// Notes that the oldest batch that was handed over is written and flushed: it is acknowledged
    /// within a moment.
    pub fn written(&mut self) {
        let Some(written) = self.batches.written() else {
            return;
        };
        // Messages of a lost connection come again, unless the broker has forgotten them (auto-ack).
        if self.consumer.holds(written.last) || self.consumer.progress.no_ack {
            self.due.get_or_insert_default().add(written);
        }
        let due = self.due.map_or(0, |due| due.messages);
        let no_more = self.is_stopped || self.consumer.is_complete();
        let is_last = self.batches.is_written() && no_more;
        if is_last || self.consumer.progress.no_ack || due >= self.due_max {
            return self.acknowledge();
        }
        self.acknowledge_by
            .get_or_insert_with(|| Instant::now() + ACK_DELAY);
    }

    /// Acknowledges what is written.
    fn acknowledge(&mut self) {
        self.acknowledge_by = None;
        if let Some(due) = self.due.take() {
            self.consumer.acknowledge_up_to(due);
        }
    }

    /// Takes no more messages. Those that are not yet handed over go back to the queue; where the
    /// broker has forgotten them already (auto-ack), they are still to be written.
    ///
    /// # Errors
    /// As [`BatchConsumer::wait`].
    pub fn stop(&mut self) -> Result<(), Error> {
        if self.consumer.progress.no_ack {
            self.pause()?;
        } else {
            self.consumer.leave();
            self.batches.forget_batch();
        }
        self.is_stopped = true;
        Ok(())
    }

    /// How many messages nobody has any more once the consumer ends: those that are not yet written,
    /// if the broker has forgotten them.
    #[must_use]
    pub fn at_stake(&self) -> u64 {
        let (messages, _) = self.batches.unwritten();
        if self.consumer.progress.no_ack {
            messages
        } else {
            0
        }
    }

    /// Takes no more messages if the queue has none, and says whether that is so.
    ///
    /// # Errors
    /// [`Error::Lost`] if the connection is.
    pub fn stop_if_empty(&mut self) -> Result<bool, Error> {
        self.is_stopped = self.consumer.stop_if_empty()?;
        Ok(self.is_stopped)
    }

    /// Without acknowledgements only a cancelled consumer keeps the broker from sending.
    fn pause_or_resume(&mut self) -> Result<(), Error> {
        if !self.consumer.progress.no_ack || self.is_stopped {
            return Ok(());
        }
        if self.batches.has_room() {
            self.consumer.resume()
        } else {
            self.pause()
        }
    }

    /// Has the broker send no more, and takes what it had sent.
    fn pause(&mut self) -> Result<(), Error> {
        self.consumer.pause()?;
        while self.take()? {}
        Ok(())
    }
}
