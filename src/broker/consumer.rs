//! Consuming: deliveries in, acknowledgements out, and never a consumer that is left behind.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use amiquip::{AmqpValue, FieldTable};
use crossbeam_channel::TryRecvError;

use super::arrivals::Content;
use super::content::ContentChannel;
use super::flow::Flow;
pub use super::flow::Total;
use super::subscription::Subscription;
use super::{Session, frames, topology};
use crate::bell::Receiver;
use crate::error::Error;
use crate::message::Message;
use crate::values::{QueueName, StreamOffset};

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

/// How to consume.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many messages to take; `None` for any number.
    pub count: Option<u64>,
    /// How many messages the broker may send ahead of their acknowledgement.
    pub prefetch: u16,
    /// Let the broker forget each message as soon as it has sent it.
    pub auto_ack: bool,
    /// Be the queue's only consumer, or fail.
    pub exclusive: bool,
    /// Be served before consumers of a lower priority; 0 without.
    pub priority: Option<i32>,
    /// Where to begin in a stream.
    pub stream_offset: Option<StreamOffset>,
}

impl Options {
    /// How many messages the broker may send ahead if so many are `left` to take: no more than
    /// that. One that goes back is marked as delivered before, and a quorum queue drops a message
    /// that went back too often.
    pub(super) fn prefetch(&self, left: Option<u64>) -> u16 {
        let left = left.and_then(|left| u16::try_from(left).ok());
        // 0 would be any number.
        left.map_or(self.prefetch, |left| left.clamp(1, self.prefetch.max(1)))
    }

    /// The arguments of a consumer that goes on with the message `next_offset` of a stream.
    pub(super) fn arguments(&self, next_offset: Option<u64>) -> FieldTable {
        let mut arguments = FieldTable::new();
        if let Some(priority) = self.priority {
            arguments.insert("x-priority".to_owned(), AmqpValue::LongInt(priority));
        }
        let offset = next_offset.map(StreamOffset::Number).or(self.stream_offset);
        if let Some(offset) = offset {
            let text = |text: &str| AmqpValue::LongString(text.to_owned());
            let offset = match offset {
                StreamOffset::First => text("first"),
                StreamOffset::Last => text("last"),
                StreamOffset::Next => text("next"),
                StreamOffset::Number(number) => {
                    AmqpValue::LongLongInt(i64::try_from(number).unwrap_or(i64::MAX))
                }
                StreamOffset::Moment(moment) => AmqpValue::Timestamp(moment.0),
            };
            arguments.insert("x-stream-offset".to_owned(), offset);
        }
        arguments
    }
}

/// What a [`Consumer`] was waiting for.
#[derive(Debug)]
pub enum Event {
    /// Messages came.
    Taken,
    /// The oldest batch that was handed over is written and flushed, or could not be.
    Written(io::Result<()>),
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

/// The messages of a `receive`, from the broker to the reader, across connections.
#[derive(Debug)]
pub struct Inflow {
    flow: Flow<Message, Receipt>,
    options: Options,
    no_ack: bool,
    /// How many messages may be written and not acknowledged.
    due_max: u64,
    /// The first message of a stream that is not yet written.
    next_offset: Option<u64>,
}

impl Inflow {
    /// The messages that are to come.
    #[must_use]
    pub fn new(options: Options) -> Self {
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
            flow: Flow::new(options.count, usize::from(batch_max), BACKLOG_BYTES),
            options,
            no_ack,
            due_max: u64::from(batch_max),
            next_offset: None,
        }
    }

    /// What is written, and acknowledged.
    #[must_use]
    pub fn done(&self) -> Total {
        self.flow.done()
    }
}

/// A running consumer.
pub struct Consumer<'c> {
    session: &'c mut Session,
    channel: &'c ContentChannel,
    queue: &'c QueueName,
    /// `None` while paused, and when stopped.
    subscription: Option<Subscription<'c>>,
    inflow: &'c mut Inflow,
    /// When what is written is to be acknowledged at the latest.
    acknowledge_by: Option<Instant>,
    stopped: bool,
}

/// Consumes from a queue for as long as `work` does. Then the connection is closed, or only the
/// channel if `work` failed, which gives what is not acknowledged back to the queue.
///
/// # Errors
/// Those of `work`; [`Error::Refused`] or [`Error::Lost`] if there was no consumer to begin with.
pub fn consume(
    session: &mut Session,
    queue: &QueueName,
    inflow: &mut Inflow,
    work: impl FnOnce(&mut Consumer) -> Result<(), Error>,
) -> Result<(), Error> {
    let channel = session.content_channel()?;
    let result = {
        let mut consumer = Consumer {
            session: &mut *session,
            channel: &channel,
            queue,
            subscription: None,
            inflow: &mut *inflow,
            acknowledge_by: None,
            stopped: false,
        };
        let mut result = consumer.start().and_then(|()| work(&mut consumer));
        // What is written need not come again, unless the connection is lost.
        if !matches!(&result, Err(error) if error.is_transient()) {
            result = result.and(consumer.acknowledge());
        }
        if !matches!(result, Err(Error::Cancelled { .. })) {
            // All that is left is to say goodbye, and not for ever.
            consumer.session.start_closing(CLOSING);
        }
        result
    };
    let closed = match &result {
        // Nothing more is wanted: what is not acknowledged goes back with the connection.
        Ok(()) => session.end(),
        Err(_) => channel
            .close()
            .map_err(|error| session.error("close a channel", error)),
    };
    // What is not acknowledged by now is back in the queue, and its receipts are void.
    if !inflow.no_ack {
        inflow.flow.lose_receipts();
    }
    result?;
    if let Err(error) = closed {
        // There is nothing left to do again: what was written is written.
        if inflow.done().messages > 0 && error.is_transient() {
            session.connector.talk.note(&format!(
                "{error}; the messages that were written last may be delivered again"
            ));
        }
    }
    Ok(())
}

impl Consumer<'_> {
    fn start(&mut self) -> Result<(), Error> {
        let _wait = self
            .session
            .wait(&format!("deliver from queue {}", self.queue));
        if !self.inflow.no_ack {
            let prefetch = self.inflow.options.prefetch(self.inflow.flow.left());
            let limited = self.channel.limit(prefetch);
            limited.map_err(|error| self.error(error))?;
        }
        self.subscribe()
    }

    /// Whether every message that was taken is written and acknowledged, and no more are to come.
    #[must_use]
    pub fn is_done(&self) -> bool {
        (self.stopped || self.inflow.flow.is_complete()) && self.inflow.flow.is_empty()
    }

    /// What is written, and acknowledged, on this connection and those before.
    #[must_use]
    pub fn done(&self) -> Total {
        self.inflow.done()
    }

    /// The messages to be written next. What becomes of them must be reported to [`Consumer::wait`].
    pub fn next_batch(&mut self) -> Option<Vec<Message>> {
        self.inflow.flow.hand_over()
    }

    /// Waits for whatever comes first: messages, word of the oldest batch in `written`, the user's
    /// interrupt (until [`Consumer::stop`]), or the moment `at_most`.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if the queue is gone, [`Error::Lost`] if the connection is.
    pub fn wait(
        &mut self,
        written: &Receiver<io::Result<()>>,
        at_most: Option<Instant>,
    ) -> Result<Event, Error> {
        self.pause_or_resume()?;
        let wire = Arc::clone(&self.session.wire);
        written.rings(wire.bell());
        let listening = wire.bell().listen();
        loop {
            if self.take_what_came()? {
                return Ok(Event::Taken);
            }
            match written.try_recv() {
                Ok(result) => return Ok(Event::Written(result)),
                Err(TryRecvError::Disconnected) => {
                    let died = io::Error::other("the writing thread died");
                    return Ok(Event::Written(Err(died)));
                }
                Err(TryRecvError::Empty) => {}
            }
            if !self.stopped && self.session.connector.interrupt.happened() {
                return Ok(Event::Interrupted);
            }
            let now = Instant::now();
            if self.acknowledge_by.is_some_and(|moment| moment <= now) {
                self.acknowledge()?;
                return Ok(Event::Acknowledged);
            }
            if at_most.is_some_and(|moment| moment <= now) {
                return Ok(Event::Late);
            }
            let until = [self.acknowledge_by, at_most].into_iter().flatten().min();
            let held = self.inflow.flow.held();
            match &mut self.subscription {
                Some(subscription) => subscription.pause(self.session, &listening, held, until),
                None => self.session.pause(&listening, true, until),
            }
        }
    }

    /// Takes what came as far as there is room for it, and says whether there was something.
    fn take_what_came(&mut self) -> Result<bool, Error> {
        let mut taken = false;
        while self.inflow.flow.has_room() {
            let Some(subscription) = &mut self.subscription else {
                break;
            };
            if let Some(content) = subscription.next() {
                self.take(content);
                taken = true;
                continue;
            }
            if taken {
                break;
            }
            match subscription.ended() {
                None => break,
                Some(ended) => return Err(ended.error(self.session, self.queue)),
            }
        }
        if self.inflow.flow.is_complete() {
            self.leave()?;
        }
        Ok(taken)
    }

    /// Wants no more: what may still come goes back to the queue.
    fn leave(&mut self) -> Result<(), Error> {
        let left = self.subscription.take().map_or(Ok(()), Subscription::leave);
        left.map_err(|error| self.error(error))
    }

    /// Notes that the oldest batch that was handed over is written and flushed: it is acknowledged
    /// within a moment.
    ///
    /// # Errors
    /// [`Error::Lost`] if the connection is.
    pub fn written(&mut self) -> Result<(), Error> {
        let flow = &mut self.inflow.flow;
        flow.written();
        let is_last = flow.is_written() && (self.stopped || flow.is_complete());
        if is_last || self.inflow.no_ack || flow.due() >= self.inflow.due_max {
            return self.acknowledge();
        }
        self.acknowledge_by
            .get_or_insert_with(|| Instant::now() + ACK_DELAY);
        Ok(())
    }

    /// Acknowledges what is written.
    fn acknowledge(&mut self) -> Result<(), Error> {
        self.acknowledge_by = None;
        let Some(receipt) = self.inflow.flow.acknowledge() else {
            return Ok(());
        };
        self.inflow.next_offset = receipt.offset.map(|offset| offset + 1);
        if self.inflow.no_ack {
            return Ok(());
        }
        let ack = frames::ack(self.channel.number(), receipt.tag, true);
        self.channel.post(&ack).map_err(|error| self.error(error))
    }

    /// Takes no more messages. Those that are not yet handed over go back to the queue; where the
    /// broker has forgotten them already (auto-ack), they are still to be written.
    pub fn stop(&mut self) {
        self.stopped = true;
        if self.inflow.no_ack {
            self.unsubscribe();
        } else {
            // If the connection is lost, that shows when something is acknowledged.
            let _ = self.leave();
            self.inflow.flow.forget_batch();
        }
    }

    /// Whether nothing that was taken is still to be written or acknowledged.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.inflow.flow.is_empty()
    }

    /// How many messages nobody has any more once the consumer ends: those that are not yet written,
    /// if the broker has forgotten them.
    #[must_use]
    pub fn at_stake(&self) -> u64 {
        if self.inflow.no_ack {
            self.inflow.flow.unwritten()
        } else {
            0
        }
    }

    /// Takes no more messages if the queue has none, and says whether that is so.
    ///
    /// # Errors
    /// [`Error::Lost`] if the connection is.
    pub fn stop_if_empty(&mut self) -> Result<bool, Error> {
        if topology::look_up(self.session, self.queue)?.messages > 0 {
            return Ok(false);
        }
        // What is not ready any more may be on its way to us. To a consumer that is cancelled
        // nothing is.
        let Some(subscription) = self.subscription.take() else {
            return Ok(false);
        };
        let arrived = subscription.cancel();
        self.stopped = arrived.is_empty();
        for content in arrived {
            // More than were asked for go back to the queue when the channel is closed.
            if !self.inflow.flow.is_complete() {
                self.take(content);
            }
        }
        if !self.stopped && !self.inflow.flow.is_complete() {
            self.subscribe()?;
        }
        Ok(self.stopped)
    }

    /// Without acknowledgements only a cancelled consumer keeps the broker from sending.
    fn pause_or_resume(&mut self) -> Result<(), Error> {
        if !self.inflow.no_ack || self.stopped {
            return Ok(());
        }
        match (&self.subscription, self.inflow.flow.has_room()) {
            (Some(_), false) => self.unsubscribe(),
            (None, true) => self.subscribe()?,
            _ => {}
        }
        Ok(())
    }

    fn subscribe(&mut self) -> Result<(), Error> {
        let subscription = Subscription::new(
            self.channel,
            self.queue,
            &self.inflow.options,
            self.inflow.no_ack,
            self.inflow.next_offset,
        );
        self.subscription = Some(subscription.map_err(|error| self.error(error))?);
        Ok(())
    }

    fn unsubscribe(&mut self) {
        if let Some(subscription) = self.subscription.take() {
            for content in subscription.cancel() {
                self.take(content);
            }
        }
    }

    fn take(&mut self, content: Content) {
        let tag = content.tag;
        let message = self.session.received(content);
        let bytes = message.body.len();
        let offset = message.stream_offset();
        let receipt = Receipt { tag, offset };
        self.inflow.flow.take(message, bytes, receipt);
    }

    fn error(&mut self, error: amiquip::Error) -> Error {
        self.session
            .error(&format!("consume from queue {}", self.queue), error)
    }
}
