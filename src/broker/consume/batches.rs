//! Consuming in batches: deliveries in, batches to write out, one acknowledgement for many.

use std::time::{Duration, Instant};

use super::batch::{Batches, Written};
use super::consumer::{self, ConsumeEvent, ConsumeProgress, Consumer, Received};
use super::{ConsumeOptions, Decide, Total};
use crate::broker::session::Session;
use crate::error::Error;
use crate::message::{Batch, Message};
use crate::values::QueueName;
use crate::waker::Receiver;

/// The most messages that are held for a slow writer without acknowledgements, when the broker sends as
/// fast as it can.
const AUTO_ACK_BACKLOG: u16 = 10_000;

/// The size of a batch from which on it takes no more messages.
const BACKLOG_BYTES: usize = 4 << 20;

/// The time that an acknowledgement may wait for others, if the broker may send on meanwhile: each costs the
/// broker as much as a message.
const ACK_DELAY: Duration = Duration::from_millis(1);

/// The end of a wait of a [`BatchConsumer`].
#[derive(Debug)]
pub(crate) enum BatchEvent {
    /// Messages were taken.
    Taken,
    /// The oldest batch is written and flushed.
    Written,
    /// Written messages were acknowledged.
    Acknowledged,
    Interrupted,
    /// The deadline has passed.
    TimedOut,
}

/// The progress of a `receive` in batches, over all its connections.
#[derive(Debug)]
pub(crate) struct BatchProgress {
    progress: ConsumeProgress,
    batches: Batches<Box<Message>>,
    /// The most messages that are written and not acknowledged.
    unacknowledged_max: u64,
}

impl BatchProgress {
    pub(crate) fn new(options: ConsumeOptions) -> Self {
        let progress = ConsumeProgress::new(options);
        // Half the prefetch, so that the broker sends the other half meanwhile.
        let batch_max = if progress.no_ack {
            AUTO_ACK_BACKLOG
        } else {
            options.prefetch.div_ceil(2)
        };
        Self {
            progress,
            batches: Batches::new(usize::from(batch_max), BACKLOG_BYTES),
            unacknowledged_max: u64::from(batch_max),
        }
    }

    /// Returns the messages that are written and acknowledged.
    pub(crate) fn done(&self) -> Total {
        self.progress.done()
    }
}

/// A running consumer.
pub(crate) struct BatchConsumer<'b, 'c> {
    consumer: &'b mut Consumer<'c>,
    batches: &'b mut Batches<Box<Message>>,
    unacknowledged_max: u64,
    /// The messages that are written and not acknowledged.
    unacknowledged: Option<Written>,
    /// The latest time to acknowledge them.
    acknowledge_by: Option<Instant>,
    is_stopped: bool,
}

/// Consumes from a queue as [`consumer::consume`] does.
pub(crate) fn consume(
    session: &mut Session,
    queue: &QueueName,
    progress: &mut BatchProgress,
    decide: &mut Decide,
    work: impl FnOnce(&mut BatchConsumer) -> Result<(), Error>,
) -> Result<(), Error> {
    let BatchProgress {
        progress,
        batches,
        unacknowledged_max,
    } = progress;
    if !progress.no_ack {
        // Its messages are delivered again.
        batches.discard_current();
    }
    consumer::consume(session, queue, progress, decide, |consumer| {
        let mut consumer = BatchConsumer {
            consumer,
            batches,
            unacknowledged_max: *unacknowledged_max,
            unacknowledged: None,
            acknowledge_by: None,
            is_stopped: false,
        };
        let result = work(&mut consumer);
        consumer.acknowledge();
        result
    })
}

impl BatchConsumer<'_, '_> {
    /// Whether all messages are taken, written and acknowledged.
    pub(crate) fn is_done(&self) -> bool {
        (self.is_stopped || self.consumer.is_complete()) && self.is_idle()
    }

    /// Whether all messages taken are written and acknowledged.
    pub(crate) fn is_idle(&self) -> bool {
        self.batches.is_written() && self.unacknowledged.is_none()
    }

    /// Returns the messages that are written and acknowledged, over all connections.
    pub(crate) fn done(&self) -> Total {
        self.consumer.done()
    }

    /// Whether no more messages can be held.
    pub(crate) fn is_full(&self) -> bool {
        self.consumer.is_full()
    }

    /// Whether the end of a stream is reached.
    pub(crate) fn is_at_end(&self) -> bool {
        self.consumer.is_at_end()
    }

    /// Returns the messages to be written next, if the writer has room.
    pub(crate) fn next_batch(&mut self) -> Option<Batch> {
        self.batches.next_batch()
    }

    /// Waits for messages, the writer's report on the oldest batch, the user's interrupt (until
    /// [`BatchConsumer::stop`]), or the `deadline`.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if the queue is gone; [`Error::Lost`]; the error of a batch that could not be
    /// written.
    pub(crate) fn wait(
        &mut self,
        reports: &Receiver<Result<(), Error>>,
        deadline: Option<Instant>,
    ) -> Result<BatchEvent, Error> {
        self.pause_or_resume()?;
        loop {
            if self.take_received()? {
                return Ok(BatchEvent::Taken);
            }
            let first = [self.acknowledge_by, deadline].into_iter().flatten().min();
            let held = usize::try_from(self.batches.unwritten().bytes);
            let held_bytes = Some(held.unwrap_or(usize::MAX));
            let may_take = self.may_take();
            let is_interruptible = !self.is_stopped;
            let event =
                self.consumer
                    .wait(may_take, held_bytes, reports, is_interruptible, first)?;
            return Ok(match event {
                ConsumeEvent::Arrived => continue,
                ConsumeEvent::Other(Ok(())) => {
                    self.written();
                    BatchEvent::Written
                }
                ConsumeEvent::Other(Err(error)) => return Err(error),
                ConsumeEvent::Interrupted => BatchEvent::Interrupted,
                ConsumeEvent::TimedOut if deadline.is_some_and(|it| it <= Instant::now()) => {
                    BatchEvent::TimedOut
                }
                ConsumeEvent::TimedOut => {
                    self.acknowledge();
                    BatchEvent::Acknowledged
                }
            });
        }
    }

    fn may_take(&self) -> bool {
        self.batches.has_room() && !self.is_stopped && !self.consumer.is_complete()
    }

    /// Receives messages as far as there is room, and returns whether there were any.
    fn take_received(&mut self) -> Result<bool, Error> {
        let mut taken = false;
        while self.may_take() && self.take()? {
            taken = true;
        }
        if taken && self.consumer.is_complete() {
            // Messages that still come are requeued.
            self.consumer.leave();
        }
        Ok(taken)
    }

    fn take(&mut self) -> Result<bool, Error> {
        let delivery = match self.consumer.take()? {
            None => return Ok(false),
            Some(Received::Removed | Received::Left) => return Ok(true),
            Some(Received::Taken(delivery)) => delivery,
        };
        let size = Written {
            messages: 1,
            bytes: delivery.message.body.len() as u64,
            last: delivery.ticket,
        };
        self.batches.push(delivery.message, size);
        Ok(true)
    }

    /// Notes that the oldest batch is written and flushed. It is acknowledged within [`ACK_DELAY`].
    pub(crate) fn written(&mut self) {
        let Some(written) = self.batches.written() else {
            return;
        };
        // Messages of a lost connection are delivered again, except with auto-ack.
        if self.consumer.holds(written.last) || self.consumer.progress.no_ack {
            self.unacknowledged.get_or_insert_default().add(written);
        }
        let unacknowledged = self.unacknowledged.map_or(0, |it| it.messages);
        let no_more = self.is_stopped || self.consumer.is_complete();
        let is_last = self.batches.is_written() && no_more;
        if is_last || self.consumer.progress.no_ack || unacknowledged >= self.unacknowledged_max {
            return self.acknowledge();
        }
        self.acknowledge_by
            .get_or_insert_with(|| Instant::now() + ACK_DELAY);
    }

    /// Acknowledges the messages written.
    fn acknowledge(&mut self) {
        self.acknowledge_by = None;
        if let Some(written) = self.unacknowledged.take() {
            self.consumer.acknowledge_up_to(written);
        }
    }

    /// Takes no more messages. Those of the current batch are requeued, except with auto-ack: then they
    /// are still to be written.
    pub(crate) fn stop(&mut self) -> Result<(), Error> {
        if self.consumer.progress.no_ack {
            self.pause()?;
        } else {
            self.consumer.leave();
            self.batches.discard_current();
        }
        self.is_stopped = true;
        Ok(())
    }

    /// Returns the number of messages that are lost if the consumer ends now: with auto-ack, those that
    /// are not written.
    pub(crate) fn lost_if_ended(&self) -> u64 {
        if self.consumer.progress.no_ack {
            self.batches.unwritten().messages
        } else {
            0
        }
    }

    /// Takes no more messages if the queue is empty, and returns whether it is.
    pub(crate) fn stop_if_empty(&mut self) -> Result<bool, Error> {
        self.is_stopped = self.consumer.stop_if_empty()?;
        Ok(self.is_stopped)
    }

    /// With auto-ack, cancels the consumer while there is no room: nothing else keeps the broker from
    /// sending.
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

    /// Cancels the consumer, and takes the messages that the broker has sent.
    fn pause(&mut self) -> Result<(), Error> {
        self.consumer.pause()?;
        while self.take()? {}
        Ok(())
    }
}
