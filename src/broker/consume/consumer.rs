//! Consuming from a queue over one connection, and its progress over all connections.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::batch::Written;
use super::deliveries::{Deliveries, Ticket};
use super::limit::{self, AtLimit, Count};
use super::stream;
use super::subscription::{Replacement, Subscription, operation};
use super::{ConsumeOptions, Decide, Decision, SelectionOptions, Total};
use crate::broker::connection::WaitOutcome;
use crate::broker::frames;
use crate::broker::session::Session;
use crate::broker::topology::kind;
use crate::broker::wait::OnInterrupt;
use crate::error::{self, Error};
use crate::message::Message;
use crate::topology::QueueKind;
use crate::values::{QueueName, StreamOffset};
use crate::waker::Receiver;

/// The time without a message after which the end of a stream is looked up.
const STREAM_SILENCE: Duration = Duration::from_secs(2);

/// The maximum prefetch of a consumer that replaces another. More small messages would take more memory here
/// than is worth it.
const MAX_REPLACED_PREFETCH: u16 = 4_096;

/// The number of held messages for each message of the prefetch on a new channel.
const HELD_PER_PREFETCH: u64 = 64;

/// The time for the broker to send the messages that are on their way when a consumer ends.
const IN_FLIGHT_TIMEOUT: Duration = Duration::from_secs(1);

/// The time without a message after which none may be on its way.
const IN_FLIGHT_SILENCE: Duration = Duration::from_millis(20);

/// The time for the broker to handle the last settlements.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The progress of one `receive`, over all its connections.
#[derive(Debug)]
pub(crate) struct ConsumeProgress {
    pub(super) deliveries: Deliveries,
    pub(super) options: ConsumeOptions,
    pub(super) no_ack: bool,
    /// The offsets of the messages of a stream that are taken and unsettled.
    unsettled_offsets: BTreeMap<Ticket, u64>,
    /// The offset in a stream to continue at.
    next_offset: Option<u64>,
    /// The end of a stream that is drained, once it is looked up.
    stream_end: Option<StreamEnd>,
    /// Whether there was a connection before.
    is_resumed: bool,
    /// Whether to take messages one by one, after an internal error of the broker: so the messages before
    /// the one at which it fails are settled.
    is_one_by_one: bool,
}

impl ConsumeProgress {
    pub(crate) fn new(options: ConsumeOptions) -> Self {
        Self {
            deliveries: Deliveries::new(options.count),
            no_ack: options.no_ack(),
            options,
            unsettled_offsets: BTreeMap::new(),
            next_offset: None,
            stream_end: None,
            is_resumed: false,
            is_one_by_one: false,
        }
    }

    /// Returns the messages that have left the queue for good.
    pub(crate) fn done(&self) -> Total {
        self.deliveries.done()
    }
}

/// The end of a stream.
#[derive(Clone, Copy, Debug)]
enum StreamEnd {
    Empty,
    /// The offset of the last message.
    At(u64),
}

/// The settlement of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settlement {
    Acknowledge,
    /// Has the message dead-lettered or dropped.
    Reject,
    /// Requeues the message after it was tried, which the queue may count.
    Requeue,
}

/// A message delivered.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) ticket: Ticket,
    pub(crate) message: Box<Message>,
    pub(crate) count: Count,
    /// The offset in its stream, if it is from one.
    pub(crate) offset: Option<u64>,
}

/// A message that was received, after the decision about it.
#[derive(Clone, Debug)]
pub(crate) enum Received {
    Taken(Delivery),
    /// It has left the queue.
    Removed,
    /// It stays in the queue.
    Left,
}

/// The end of a wait of a [`Consumer`].
#[derive(Debug)]
pub(crate) enum ConsumeEvent<R> {
    /// Messages have come.
    Arrived,
    /// An item of the other channel.
    Other(R),
    Interrupted,
    /// The deadline has passed.
    TimedOut,
}

/// A running consumer.
pub(crate) struct Consumer<'c> {
    pub(super) subscription: Subscription<'c>,
    pub(super) progress: &'c mut ConsumeProgress,
    decide: &'c mut Decide<'c>,
    at_limit: AtLimit,
    held: Held,
    /// The delivery tags of the messages that are taken and unsettled, if others are held among them.
    taken: VecDeque<u64>,
    /// Whether the end of a drained stream is reached.
    is_at_end: bool,
    has_received: bool,
    started: Instant,
}

/// The messages of one connection that are held unacknowledged.
#[derive(Debug, Default)]
struct Held {
    messages: u64,
    /// The number of them that use up the prefetch of the current consumer.
    of_consumer: u64,
    /// The delivery tag of the last one.
    last: u64,
    /// The delivery tag of the last one of each earlier consumer.
    last_tags: Vec<u64>,
    /// The last delivery tag of the earlier consumers.
    earlier: u64,
}

impl Held {
    fn add(&mut self, tag: u64) {
        self.messages += 1;
        if tag > self.earlier {
            self.of_consumer += 1;
        }
        self.last = tag;
    }

    /// Notes that another consumer starts, with messages after that with the delivery tag `earlier`.
    fn start_consumer(&mut self, earlier: u64) {
        if self.of_consumer > 0 {
            self.last_tags.push(self.last);
        }
        self.of_consumer = 0;
        self.earlier = earlier;
    }
}

/// Consumes from a queue until `work` returns, and calls `decide` for each message that was received. Then
/// requeues what is unsettled, and closes the connection, or only the channel if the broker has cancelled the
/// consumer.
///
/// # Errors
/// The errors of `work`; [`Error::Refused`] or [`Error::Lost`] if no consumer could be started;
/// [`Error::Dropped`] if messages could not be requeued.
pub(crate) fn consume(
    session: &mut Session,
    queue: &QueueName,
    progress: &mut ConsumeProgress,
    decide: &mut Decide,
    work: impl FnOnce(&mut Consumer) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut subscription = Subscription::open(session, queue, progress.options, progress.no_ack);
    if std::mem::replace(&mut progress.is_resumed, true) {
        subscription.note_lost_connection();
    }
    let mut consumer = Consumer {
        subscription,
        progress: &mut *progress,
        decide,
        at_limit: AtLimit::default(),
        held: Held::default(),
        taken: VecDeque::new(),
        is_at_end: false,
        has_received: false,
        started: Instant::now(),
    };
    let result = consumer.start().and_then(|()| work(&mut consumer));
    let result = result.map_err(|error| as_consume_error(error, queue));
    consumer.progress.is_one_by_one = matches!(&result, Err(error) if error.is_internal());
    let requeued = consumer.requeue_unsettled();
    let result = close(session, result, progress.done());
    // Any other error shows when the connection is closed.
    let result = match requeued {
        Err(dropped @ Error::Dropped { .. }) => result.and(Err(dropped)),
        _ => result,
    };
    progress.deliveries.end_connection();
    // They are delivered again, with all messages after them.
    let first_unsettled = std::mem::take(&mut progress.unsettled_offsets)
        .into_values()
        .next();
    progress.next_offset = first_unsettled.or(progress.next_offset);
    result
}

fn ack(channel: u16, tag: u64) -> Vec<u8> {
    frames::ack(channel, tag, false)
}

/// Tells the acknowledgement timeout from other refusals, and makes consuming the operation that a lost
/// connection interrupted, whatever it was.
fn as_consume_error(error: Error, queue: &QueueName) -> Error {
    match error {
        Error::Refused { broker, said, .. } if error::is_ack_timeout(&said) => Error::AckTimeout {
            broker,
            queue: queue.to_string(),
            said,
        },
        Error::Lost {
            broker,
            reason,
            code,
            ..
        } => Error::Lost {
            broker,
            operation: operation(queue),
            reason,
            code,
        },
        error => error,
    }
}

/// Closes the connection, or only the channel if the broker has cancelled the consumer. If the broker does
/// not answer, the user is told that messages `done` may be delivered again.
fn close(session: &mut Session, result: Result<(), Error>, done: Total) -> Result<(), Error> {
    if matches!(result, Err(Error::Cancelled { .. })) {
        // A lost connection shows when the queue is looked up.
        let _ = session.connection.close_channel();
        return result;
    }
    let closed = session.connection.close(CLOSE_TIMEOUT);
    result?;
    if let Err(error) = closed {
        if done.messages > 0 && error.is_transient() {
            session.note(&format!(
                "{error}; the messages acknowledged last may be delivered again"
            ));
        }
    }
    Ok(())
}

impl Consumer<'_> {
    /// Whether no more messages are to be taken.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_at_end || self.progress.deliveries.is_complete() || self.is_full()
    }

    /// Whether no more messages can be held.
    pub(crate) fn is_full(&self) -> bool {
        let max = match self.progress.options.selection {
            SelectionOptions::Some { max_held } => max_held,
            SelectionOptions::All | SelectionOptions::Filter => return false,
        };
        self.held.messages >= max || self.at_limit.is_full()
    }

    /// Whether that is so because the end of a stream is reached.
    pub(crate) fn is_at_end(&self) -> bool {
        self.is_at_end && !self.progress.deliveries.is_complete()
    }

    /// Returns the messages that have left the queue for good, over all connections.
    pub(crate) fn done(&self) -> Total {
        self.progress.done()
    }

    /// Whether no message is unsettled.
    pub(crate) fn is_idle(&self) -> bool {
        self.progress.deliveries.is_idle()
    }

    /// Whether a message can still be settled.
    pub(crate) fn holds(&self, ticket: Ticket) -> bool {
        self.progress.deliveries.tag(ticket).is_some()
    }

    fn start(&mut self) -> Result<(), Error> {
        if self.progress.options.drain {
            // The consumer of a stream is to begin with its first message then.
            self.queue_kind()?;
        }
        self.resume()
    }

    /// Starts a consumer if there is none and more messages are to be taken.
    pub(crate) fn resume(&mut self) -> Result<(), Error> {
        if self.subscription.is_paused() && !self.is_complete() {
            let max = self.progress.is_one_by_one.then_some(1);
            let left = self.progress.deliveries.left();
            let left = [self.progress.options.needed(left), max]
                .into_iter()
                .flatten()
                .min();
            let received = self.subscription.last_received();
            self.held.start_consumer(received.unwrap_or(self.held.last));
            self.subscription.start(left, self.progress.next_offset)?;
        }
        Ok(())
    }

    /// Cancels the consumer. All messages that the broker has sent are received then.
    pub(crate) fn pause(&mut self) -> Result<(), Error> {
        if self.subscription.is_consuming() {
            self.subscription.cancel()?;
        }
        Ok(())
    }

    /// Cancels the consumer, and requeues the messages that are not taken.
    pub(crate) fn stop(&mut self) -> Result<(), Error> {
        if self.ends_in_order() {
            return Ok(());
        }
        self.pause()?;
        while let Some(content) = self.subscription.next_message() {
            self.count(content.tag, &content.message)?;
            let is_stream = self.offset(&content.message)?.is_some();
            if !is_stream && !self.at_limit.contains(content.tag) {
                let nack = |channel, tag| frames::nack(channel, tag, false);
                self.subscription.settle([content.tag], nack);
            }
        }
        Ok(())
    }

    /// Cancels the consumer for good, without waiting for the broker.
    pub(crate) fn leave(&mut self) {
        if !self.ends_in_order() {
            let (session, _) = self.subscription.session_and_queue();
            let keeps_messages = limit::may_count(session);
            self.subscription.begin_cancel(keeps_messages);
        }
    }

    /// Whether the consumer is only cancelled when no message is on its way, see
    /// [`Consumer::receive_in_flight`].
    fn ends_in_order(&mut self) -> bool {
        let (session, _) = self.subscription.session_and_queue();
        let kind = session.queue_kind;
        matches!(
            self.progress.options.selection,
            SelectionOptions::Some { .. }
        ) && !matches!(kind, Some(QueueKind::Classic | QueueKind::Stream))
    }

    /// Receives the messages that are on their way to the consumer. A quorum queue would requeue them before
    /// those that are held, and forget acknowledgements that it has not processed when the connection ends.
    /// When the prefetch is used up by messages received, nothing is on its way, and every acknowledgement is
    /// processed.
    fn receive_in_flight(&mut self) -> Result<(), Error> {
        let prefetch = u64::from(self.subscription.prefetch());
        let deadline = Instant::now() + IN_FLIGHT_TIMEOUT;
        let mut unsettled = self.held.of_consumer + self.taken.len() as u64;
        while self.subscription.is_consuming() && Instant::now() < deadline {
            while let Some(content) = self.subscription.next_message() {
                self.count(content.tag, &content.message)?;
                unsettled += 1;
            }
            if unsettled >= prefetch {
                break;
            }
            let check_at = Some(Instant::now() + IN_FLIGHT_SILENCE);
            let ignore = OnInterrupt::Ignore;
            let nothing = || None::<()>;
            let event = self
                .subscription
                .wait(check_at, ignore, true, None, nothing)?;
            if matches!(event, WaitOutcome::TimedOut) && self.subscription.is_queue_empty()? {
                break;
            }
        }
        Ok(())
    }

    /// Cancels the consumer, and requeues all unsettled messages.
    fn requeue_unsettled(&mut self) -> Result<(), Error> {
        if self.progress.no_ack || !self.subscription.can_settle() {
            return Ok(());
        }
        if self.ends_in_order() {
            // If that fails, only the order of the messages suffers.
            let _ = self.queue_kind().and_then(|_| self.receive_in_flight());
            self.subscription.begin_cancel(true);
        } else {
            self.leave();
        }
        if self.subscription.finish_cancel().is_ok() {
            while let Some(content) = self.subscription.next_message() {
                self.count(content.tag, &content.message)?;
            }
        }
        // Even if the broker did not answer: it drops messages at their limit unless they are republished.
        let (session, queue) = self.subscription.session_and_queue();
        let last_tags = std::mem::take(&mut self.held.last_tags);
        std::mem::take(&mut self.at_limit).requeue_all(session, queue, last_tags)
    }

    /// Returns how often a message was requeued, where its queue counts that.
    fn count(&mut self, tag: u64, message: &Message) -> Result<Count, Error> {
        if self.progress.no_ack {
            return Ok(Count::default());
        }
        let (session, queue) = self.subscription.session_and_queue();
        self.at_limit.count(session, queue, tag, message)
    }

    /// Waits for a message, if one more `may_come`; an item of `other`; the user's interrupt, if it
    /// `is_interruptible`; or the `deadline`. `held_bytes` is the size of the messages held elsewhere,
    /// which bounds what is read; with `None`, the prefetch is limit enough.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if the queue is gone; [`Error::Lost`].
    pub(crate) fn wait<R>(
        &mut self,
        may_come: bool,
        held_bytes: Option<usize>,
        other: &Receiver<R>,
        is_interruptible: bool,
        deadline: Option<Instant>,
    ) -> Result<ConsumeEvent<R>, Error> {
        other.add_waker(self.subscription.waker());
        let on_interrupt = if is_interruptible {
            OnInterrupt::Return
        } else {
            OnInterrupt::Ignore
        };
        let outcome =
            self.subscription
                .wait(deadline, on_interrupt, may_come, held_bytes, || {
                    other.next()
                })?;
        Ok(match outcome {
            WaitOutcome::Ready(None) => ConsumeEvent::Arrived,
            WaitOutcome::Ready(Some(Ok(other))) => ConsumeEvent::Other(other),
            WaitOutcome::Ready(Some(Err(_))) => {
                let why = "the thread that handles messages died";
                return Err(Error::Bug(why.to_owned()));
            }
            WaitOutcome::Interrupted => ConsumeEvent::Interrupted,
            WaitOutcome::TimedOut => ConsumeEvent::TimedOut,
        })
    }

    /// Takes the next message that was received, as far as that is the decision about it.
    pub(crate) fn take(&mut self) -> Result<Option<Received>, Error> {
        let Some(mut content) = self.subscription.next_message() else {
            return Ok(None);
        };
        self.has_received = true;
        let count = self.count(content.tag, &content.message)?;
        let offset = self.offset(&content.message)?;
        if let Some(offset) = offset.filter(|_| self.progress.options.drain) {
            self.is_at_end = match self.stream_end()? {
                StreamEnd::Empty => true,
                StreamEnd::At(last) => last <= offset,
            };
        }
        if let Some(offset) = offset {
            self.progress.next_offset = Some(offset + 1);
        }
        match (self.decide)(&mut content.message) {
            Decision::Take => {}
            Decision::Remove => {
                let bytes = content.message.body.len() as u64;
                self.progress.deliveries.remove(bytes);
                self.acknowledge(content.tag);
                return Ok(Some(Received::Removed));
            }
            Decision::End => {
                self.is_at_end = true;
                self.hold(content.tag)?;
                return Ok(Some(Received::Left));
            }
            Decision::Leave => {
                let is_kept =
                    offset.is_some() || self.progress.options.selection == SelectionOptions::Filter;
                if is_kept {
                    self.acknowledge(content.tag);
                } else {
                    self.hold(content.tag)?;
                }
                return Ok(Some(Received::Left));
            }
        }
        let ticket = self.progress.deliveries.take(content.tag);
        if let Some(offset) = offset {
            self.progress.unsettled_offsets.insert(ticket, offset);
        }
        if self.progress.options.selection != SelectionOptions::All {
            self.taken.push_back(content.tag);
        }
        Ok(Some(Received::Taken(Delivery {
            ticket,
            message: content.message,
            count,
            offset,
        })))
    }

    /// Holds a message unacknowledged. When the consumer's prefetch is used up by such messages, another
    /// consumer takes its place. Before that a message may be on its way to it, which a quorum queue would
    /// requeue and count if the consumer were cancelled.
    fn hold(&mut self, tag: u64) -> Result<(), Error> {
        self.held.add(tag);
        let prefetch = self.subscription.prefetch();
        let is_half_used = 2 * self.held.of_consumer >= u64::from(prefetch);
        if !is_half_used || !self.subscription.is_consuming() || self.is_complete() {
            return Ok(());
        }
        let is_used_up = self.held.of_consumer >= u64::from(prefetch);
        if !is_used_up && self.queue_kind()? != QueueKind::Classic {
            return Ok(());
        }
        let way = self.replacement()?;
        let larger = match way {
            _ if self.progress.is_one_by_one => prefetch,
            // Neither the channels nor the messages of each become many.
            Replacement::OnNewChannel => {
                u16::try_from(self.held.messages / HELD_PER_PREFETCH).unwrap_or(u16::MAX)
            }
            Replacement::Before | Replacement::After => prefetch.saturating_mul(2),
        };
        let larger = larger.min(MAX_REPLACED_PREFETCH).max(prefetch);
        // Messages of this consumer that are not yet looked at must not use up the prefetch of the next one:
        // more and more would be waiting.
        let received = self.subscription.last_received().unwrap_or(tag);
        self.subscription.replace(larger, way)?;
        self.held
            .start_consumer(received.max(self.subscription.tag_base()));
        if way == Replacement::OnNewChannel {
            self.held.last_tags.clear();
        }
        Ok(())
    }

    /// Returns the way in which the consumer is to be replaced.
    fn replacement(&mut self) -> Result<Replacement, Error> {
        let kind = self.queue_kind()?;
        let is_exclusive = self.progress.options.exclusive;
        let can_open_channel = !self.progress.is_one_by_one && self.subscription.can_open_channel();
        let (session, _) = self.subscription.session_and_queue();
        Ok(match kind {
            QueueKind::Classic if session.is_queue_auto_delete && !is_exclusive => {
                Replacement::Before
            }
            QueueKind::Classic if can_open_channel && !session.is_queue_auto_delete => {
                Replacement::OnNewChannel
            }
            _ => Replacement::After,
        })
    }

    /// Acknowledges a message that is not passed on.
    fn acknowledge(&mut self, tag: u64) {
        if !self.progress.no_ack && self.subscription.can_settle() {
            self.subscription.settle([tag], ack);
        }
        self.at_limit.remove(tag, false);
    }

    /// Returns the offset of a message in its stream. In another queue the sender may have written that
    /// header.
    fn offset(&mut self, message: &Message) -> Result<Option<u64>, Error> {
        let Some(offset) = message.stream_offset() else {
            return Ok(None);
        };
        let kind = self.queue_kind()?;
        Ok(Some(offset).filter(|_| matches!(kind, QueueKind::Stream | QueueKind::Unknown)))
    }

    fn queue_kind(&mut self) -> Result<QueueKind, Error> {
        let (session, queue) = self.subscription.session_and_queue();
        kind::find(session, queue)
    }

    /// Returns the end of the stream, as it was at the first call.
    fn stream_end(&mut self) -> Result<StreamEnd, Error> {
        if let Some(end) = self.progress.stream_end {
            return Ok(end);
        }
        let (session, queue) = self.subscription.session_and_queue();
        let end = stream::last_offset(session, queue)?.map_or(StreamEnd::Empty, StreamEnd::At);
        Ok(*self.progress.stream_end.insert(end))
    }

    /// Settles a message, unless its connection is lost: then it is delivered again.
    pub(crate) fn settle(&mut self, ticket: Ticket, settlement: Settlement, bytes: u64) {
        let Some(tag) = self.progress.deliveries.tag(ticket) else {
            return;
        };
        if !self.subscription.can_settle() {
            return;
        }
        // A stream keeps its messages, and takes none back.
        let is_of_stream = self.progress.unsettled_offsets.contains_key(&ticket);
        let frame = |channel, tag| match settlement {
            Settlement::Reject if is_of_stream => ack(channel, tag),
            Settlement::Acknowledge => ack(channel, tag),
            Settlement::Reject => frames::reject(channel, tag, false),
            Settlement::Requeue => frames::reject(channel, tag, true),
        };
        if is_of_stream && settlement == Settlement::Requeue {
            return;
        }
        self.subscription.settle([tag], frame);
        self.at_limit.remove(tag, false);
        self.taken.retain(|taken| *taken != tag);
        match settlement {
            Settlement::Requeue => {
                self.subscription.note_requeue();
                self.progress.deliveries.requeue(1);
            }
            _ => {
                self.progress.unsettled_offsets.remove(&ticket);
                self.progress.deliveries.finish(Total {
                    messages: 1,
                    bytes,
                    rejected: u64::from(settlement == Settlement::Reject),
                });
            }
        }
    }

    /// Acknowledges the messages written, and all earlier ones.
    pub(super) fn acknowledge_up_to(&mut self, written: Written) {
        let tag = self.progress.deliveries.tag(written.last);
        if let Some(tag) = tag.filter(|_| !self.progress.no_ack) {
            if !self.subscription.can_settle() {
                // They are delivered again.
                return;
            }
            if self.held.messages == 0 {
                let ack = |channel, tag| frames::ack(channel, tag, true);
                self.subscription.settle_up_to(tag, ack);
                self.at_limit.remove(tag, true);
                self.taken.retain(|taken| *taken > tag);
            } else {
                self.acknowledge_taken_up_to(tag);
            }
        }
        self.progress.unsettled_offsets = self
            .progress
            .unsettled_offsets
            .split_off(&(written.last + 1));
        self.progress.deliveries.finish(Total {
            messages: written.messages,
            bytes: written.bytes,
            rejected: 0,
        });
    }

    /// Acknowledges the messages taken up to this one, and none of those held among them.
    fn acknowledge_taken_up_to(&mut self, last: u64) {
        let number = self.taken.partition_point(|tag| *tag <= last);
        let tags: Vec<_> = self.taken.drain(..number).collect();
        for tag in &tags {
            self.at_limit.remove(*tag, false);
        }
        self.subscription.settle(tags, ack);
    }

    /// Cancels the consumer if the queue is empty, and returns whether it is.
    pub(crate) fn stop_if_empty(&mut self) -> Result<bool, Error> {
        let is_empty = self.subscription.is_queue_empty()?;
        if !self.has_received
            && (is_empty || self.started.elapsed() > STREAM_SILENCE)
            && self.queue_kind()? == QueueKind::Stream
        {
            return self.is_stream_exhausted();
        }
        if !is_empty {
            return Ok(false);
        }
        // A message that is not ready may be on its way to the consumer, unless that is cancelled. And a queue
        // without a leader may have counted none.
        self.pause()?;
        let is_empty =
            self.subscription.last_received().is_none() && self.subscription.is_queue_empty()?;
        if !is_empty {
            if self.queue_kind()? == QueueKind::Stream {
                // The next consumer begins with these.
                while self.subscription.next_message().is_some() {}
            }
            self.resume()?;
        }
        Ok(is_empty)
    }

    /// Whether a stream that has sent nothing has no message to send.
    fn is_stream_exhausted(&mut self) -> Result<bool, Error> {
        let StreamEnd::At(last) = self.stream_end()? else {
            return Ok(true);
        };
        let begin = self.progress.next_offset.map(StreamOffset::Number);
        Ok(match begin.or(self.progress.options.stream_offset) {
            Some(StreamOffset::Next) => true,
            Some(StreamOffset::Number(begin)) => begin > last,
            Some(StreamOffset::Moment(_)) => self.started.elapsed() > STREAM_SILENCE,
            Some(StreamOffset::First | StreamOffset::Last) | None => false,
        })
    }
}
