//! Consuming in batches: deliveries in, batches out to be written, one acknowledgement for many.

use std::io;
use std::time::{Duration, Instant};

use super::batch::Batches;
use super::subscription::Subscription;
use super::{ConsumeOptions, Total};
use crate::broker::connection::{Content, Waited};
use crate::broker::frames::{self, MESSAGES};
use crate::broker::session::Session;
use crate::broker::wait::OnInterrupt;
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

/// How long the broker may take for the last acknowledgements when nobody is in a hurry.
const CLOSING: Duration = Duration::from_secs(5);

/// What a [`BatchConsumer`] was waiting for.
#[derive(Debug)]
pub enum BatchEvent {
    /// Messages came.
    Taken,
    /// The oldest batch that was handed over is written and flushed.
    Written,
    /// The oldest batch that was handed over could not be written. Nothing more is.
    Failed(io::Error),
    /// What was written is acknowledged.
    Acknowledged,
    /// The user wants to stop.
    Interrupted,
    /// The moment that was waited for at most has come.
    Late,
}

/// What acknowledges a message, and all that the same consumer got before it.
#[derive(Debug)]
struct Receipt {
    tag: u64,
    /// The message's number, if it came from a stream.
    offset: Option<u64>,
}

/// The messages of a `receive` in batches, over all its connections.
#[derive(Debug)]
pub struct BatchProgress {
    batches: Batches<Box<Message>, Receipt>,
    options: ConsumeOptions,
    no_ack: bool,
    /// How many messages may be written and not acknowledged.
    due_max: u64,
    /// The first message of a stream that is not yet written.
    next_offset: Option<u64>,
    /// Whether there was a connection before.
    is_resumed: bool,
}

impl BatchProgress {
    /// The messages that are to come.
    #[must_use]
    pub fn new(options: ConsumeOptions) -> Self {
        // To take exactly so many messages, each must be acknowledged: without that the broker
        // sends more, and what it has sent is gone.
        let no_ack = options.auto_ack && options.count.is_none();
        // Half of what the broker may send ahead, so that acknowledgements keep the rest coming.
        let batch_max = if no_ack {
            AUTO_ACK_BACKLOG
        } else {
            options.prefetch.div_ceil(2)
        };
        Self {
            batches: Batches::new(options.count, usize::from(batch_max), BACKLOG_BYTES),
            options,
            no_ack,
            due_max: u64::from(batch_max),
            next_offset: None,
            is_resumed: false,
        }
    }

    /// What is written, and acknowledged.
    #[must_use]
    pub fn done(&self) -> Total {
        self.batches.done()
    }
}

/// A running consumer.
pub struct BatchConsumer<'c> {
    subscription: Subscription<'c>,
    progress: &'c mut BatchProgress,
    /// When what is written is to be acknowledged at the latest.
    acknowledge_by: Option<Instant>,
    is_stopped: bool,
    /// What the user's interrupt does until the consumer is stopped.
    on_interrupt: OnInterrupt,
}

/// Consumes from a queue for as long as `work` does. Then the connection is closed, or only the
/// channel if the broker has cancelled the consumer. Both give what is not acknowledged back to the
/// queue.
///
/// # Errors
/// Those of `work`; [`Error::Refused`] or [`Error::Lost`] if there was no consumer to begin with.
pub fn consume(
    session: &mut Session,
    queue: &QueueName,
    progress: &mut BatchProgress,
    work: impl FnOnce(&mut BatchConsumer) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut subscription = Subscription::open(session, queue, progress.options, progress.no_ack);
    if std::mem::replace(&mut progress.is_resumed, true) {
        subscription.follows_a_lost_connection();
    }
    let mut consumer = BatchConsumer {
        subscription,
        progress: &mut *progress,
        acknowledge_by: None,
        is_stopped: false,
        on_interrupt: OnInterrupt::Return,
    };
    let result = consumer.start().and_then(|()| work(&mut consumer));
    // What is written need not come again.
    consumer.acknowledge();
    let ended = super::end(session, result, CLOSING, progress.done());
    // What is not acknowledged by now is back in the queue, and its receipts are void.
    if !progress.no_ack {
        progress.batches.lose_receipts();
    }
    ended
}

impl BatchConsumer<'_> {
    fn start(&mut self) -> Result<(), Error> {
        let progress = &self.progress;
        self.subscription
            .start(progress.batches.left(), progress.next_offset)
    }

    /// Whether every message that was taken is written and acknowledged, and no more are to come.
    #[must_use]
    pub fn is_done(&self) -> bool {
        let batches = &self.progress.batches;
        (self.is_stopped || batches.is_complete()) && batches.is_empty()
    }

    /// What is written, and acknowledged, on this connection and those before.
    #[must_use]
    pub fn done(&self) -> Total {
        self.progress.done()
    }

    /// The messages to be written next.
    pub fn next_batch(&mut self) -> Option<Batch> {
        self.progress.batches.hand_over()
    }

    /// Waits for whatever comes first: messages, the report on the oldest batch in `written`, the user's
    /// interrupt (until [`BatchConsumer::stop`]), or the moment `at_most`.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if the queue is gone, [`Error::Lost`] if the connection is.
    pub fn wait(
        &mut self,
        written: &Receiver<io::Result<()>>,
        at_most: Option<Instant>,
    ) -> Result<BatchEvent, Error> {
        self.pause_or_resume()?;
        written.wakes(self.subscription.waker());
        loop {
            if self.take_what_came() {
                return Ok(BatchEvent::Taken);
            }
            let batches = &self.progress.batches;
            let may_come = self.subscription.is_consuming() && batches.has_room();
            let until = [self.acknowledge_by, at_most].into_iter().flatten().min();
            let waited = self.subscription.wait(
                until,
                self.on_interrupt,
                may_come,
                Some(batches.held()),
                || written.next(),
            )?;
            match waited {
                Waited::Came(None) => {}
                Waited::Came(Some(Ok(Ok(())))) => {
                    self.written();
                    return Ok(BatchEvent::Written);
                }
                Waited::Came(Some(Ok(Err(error)))) => return Ok(BatchEvent::Failed(error)),
                Waited::Came(Some(Err(_))) => {
                    let died = io::Error::other("the writing thread died");
                    return Ok(BatchEvent::Failed(died));
                }
                Waited::Interrupted => return Ok(BatchEvent::Interrupted),
                Waited::Late => {
                    if at_most.is_some_and(|moment| moment <= Instant::now()) {
                        return Ok(BatchEvent::Late);
                    }
                    self.acknowledge();
                    return Ok(BatchEvent::Acknowledged);
                }
            }
        }
    }

    /// Takes what came as far as there is room for it, and says whether there was something.
    fn take_what_came(&mut self) -> bool {
        let mut taken = false;
        while self.subscription.is_consuming() && self.progress.batches.has_room() {
            let Some(content) = self.subscription.next() else {
                break;
            };
            self.take(content);
            taken = true;
        }
        if self.progress.batches.is_complete() && self.subscription.is_consuming() {
            // What may still come goes back to the queue.
            self.subscription.leave();
        }
        taken
    }

    fn take(&mut self, content: Content) {
        let bytes = content.message.body.len();
        let receipt = Receipt {
            tag: content.tag,
            offset: content.message.stream_offset(),
        };
        self.progress.batches.take(content.message, bytes, receipt);
    }

    /// Notes that the oldest batch that was handed over is written and flushed: it is acknowledged
    /// within a moment.
    pub fn written(&mut self) {
        let batches = &mut self.progress.batches;
        batches.written();
        let is_last = batches.is_written() && (self.is_stopped || batches.is_complete());
        if is_last || self.progress.no_ack || batches.due() >= self.progress.due_max {
            return self.acknowledge();
        }
        self.acknowledge_by
            .get_or_insert_with(|| Instant::now() + ACK_DELAY);
    }

    /// Acknowledges what is written.
    fn acknowledge(&mut self) {
        self.acknowledge_by = None;
        if !self.subscription.can_settle() {
            // It comes again.
            return;
        }
        let Some(receipt) = self.progress.batches.acknowledge() else {
            return;
        };
        self.progress.next_offset = receipt.offset.map(|offset| offset + 1);
        if !self.progress.no_ack {
            self.subscription
                .settle(&frames::ack(MESSAGES, receipt.tag, true));
        }
    }

    /// Takes no more messages. Those that are not yet handed over go back to the queue; where the
    /// broker has forgotten them already (auto-ack), they are still to be written.
    ///
    /// # Errors
    /// As [`BatchConsumer::wait`].
    pub fn stop(&mut self) -> Result<(), Error> {
        (self.is_stopped, self.on_interrupt) = (true, OnInterrupt::Ignore);
        if self.progress.no_ack {
            return self.cancel();
        }
        if self.subscription.is_consuming() {
            self.subscription.leave();
        }
        self.progress.batches.forget_batch();
        Ok(())
    }

    /// Whether nothing that was taken is still to be written or acknowledged.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.progress.batches.is_empty()
    }

    /// How many messages nobody has any more once the consumer ends: those that are not yet written,
    /// if the broker has forgotten them.
    #[must_use]
    pub fn at_stake(&self) -> u64 {
        if self.progress.no_ack {
            self.progress.batches.unwritten()
        } else {
            0
        }
    }

    /// Takes no more messages if the queue has none, and says whether that is so.
    ///
    /// # Errors
    /// [`Error::Lost`] if the connection is.
    pub fn stop_if_empty(&mut self) -> Result<bool, Error> {
        if !self.subscription.is_queue_empty()? {
            return Ok(false);
        }
        // What is not ready any more may be on its way to us. To a consumer that is cancelled nothing is.
        // A queue that was without its leader may have said that it was empty, so it is asked again.
        self.is_stopped = !self.cancel_and_take()? && self.subscription.is_queue_empty()?;
        if !self.is_stopped && !self.progress.batches.is_complete() {
            self.start()?;
        }
        Ok(self.is_stopped)
    }

    /// Cancels the consumer and takes what it had been sent. Says whether that was something. What is
    /// more than was asked for goes back to the queue when the channel is closed.
    fn cancel_and_take(&mut self) -> Result<bool, Error> {
        let mut taken = false;
        if self.subscription.is_consuming() {
            self.subscription.cancel()?;
            while let Some(content) = self.subscription.next() {
                if !self.progress.batches.is_complete() {
                    self.take(content);
                }
                taken = true;
            }
        }
        Ok(taken)
    }

    fn cancel(&mut self) -> Result<(), Error> {
        self.cancel_and_take().map(drop)
    }

    /// Without acknowledgements only a cancelled consumer keeps the broker from sending.
    fn pause_or_resume(&mut self) -> Result<(), Error> {
        if !self.progress.no_ack || self.is_stopped || self.subscription.is_cancelled() {
            return Ok(());
        }
        match (
            self.subscription.is_consuming(),
            self.progress.batches.has_room(),
        ) {
            (true, false) => self.cancel(),
            (false, true) => self.start(),
            _ => Ok(()),
        }
    }
}
