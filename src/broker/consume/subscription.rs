//! A consumer on the channel for messages: the common part of consuming in batches and one by one.

use std::time::{Duration, Instant};

use super::ConsumeOptions;
use crate::broker::connection::{ChannelEvent, Content, WaitOutcome};
use crate::broker::frames::{self, MESSAGES, Method};
use crate::broker::session::Session;
use crate::broker::topology;
use crate::broker::wait::{Announcement, OnInterrupt, SilenceTimer};
use crate::error::Error;
use crate::topology::QueueKind;
use crate::values::QueueName;
use crate::waker::Waker;

/// The size of unprocessed bodies at which nothing more is read, so that the broker sends no more. The
/// prefetch bounds only their number.
const MAX_UNPROCESSED_BYTES: usize = 16 << 20;

/// The time in which a broker ends the consumer of a lost connection. A queue without a majority for a
/// minute starts such a consumer after that, and ends it when it notices.
const STALE_AFTER: Duration = Duration::from_secs(10);

/// The time in which a queue counts a requeued message as ready: the replicas of a quorum queue agree on
/// that first.
const RETURN_TIMEOUT: Duration = Duration::from_secs(1);

/// The way in which a consumer is replaced by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replacement {
    /// The other one is on a channel of its own. RabbitMQ looks for a delivery that is settled among all of its
    /// channel, from the oldest one on, so a channel should not hold many.
    OnNewChannel,
    /// The other one is on the same channel, and is started before the first is cancelled: an auto-delete
    /// queue is deleted with its last consumer.
    Before,
    /// The other one is on the same channel, and is started after the first is cancelled: a queue with a single
    /// active consumer sends nothing to another one, and a quorum queue requeues what a lost connection held
    /// in the order of the consumers of each channel.
    After,
}

/// The stages of the consumer of a [`Subscription`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConsumerState {
    /// There is none, or it was cancelled.
    Paused,
    /// The broker may send messages.
    Consuming,
    /// basic.cancel is sent, and its answer is to come.
    Cancelling,
    /// The broker has cancelled it.
    CancelledByBroker,
}

/// A queue, and its consumer, which may be paused.
pub(crate) struct Subscription<'s> {
    session: &'s mut Session,
    queue: &'s QueueName,
    options: ConsumeOptions,
    no_ack: bool,
    /// The number of consumers started. Each has a tag of its own, as a quorum queue may continue a
    /// cancelled one when another of the same tag is started.
    consumer_number: u32,
    /// The prefetch of the consumer.
    prefetch: u16,
    state: ConsumerState,
    /// Measures how long no message has come although the queue has some.
    silence: Option<SilenceTimer>,
    /// The time until which another consumer may be that of a lost connection, with messages.
    stale_consumer_until: Option<Instant>,
    /// The time until which a requeued message may be neither ready nor delivered.
    requeue_until: Option<Instant>,
}

impl<'s> Subscription<'s> {
    /// Opens the channel for messages, without a consumer.
    pub(crate) fn open(
        session: &'s mut Session,
        queue: &'s QueueName,
        options: ConsumeOptions,
        no_ack: bool,
    ) -> Self {
        session.connection.socket().open_channel();
        Self {
            session,
            queue,
            options,
            no_ack,
            consumer_number: 0,
            prefetch: options.prefetch(None),
            state: ConsumerState::Paused,
            silence: None,
            stale_consumer_until: None,
            requeue_until: None,
        }
    }

    /// Starts a consumer for the number of messages `left`, of a stream from `next_offset` on.
    ///
    /// # Errors
    /// [`Error::Refused`] in the broker's words; [`Error::Lost`].
    pub(crate) fn start(
        &mut self,
        left: Option<u64>,
        next_offset: Option<u64>,
    ) -> Result<(), Error> {
        self.prefetch = self.options.prefetch(left);
        self.start_consumer(&[], next_offset)
    }

    /// Replaces the consumer by another, which may send further messages although those of the first are held
    /// unacknowledged. Its prefetch becomes `prefetch`.
    ///
    /// # Errors
    /// As [`Subscription::start`].
    pub(crate) fn replace(&mut self, prefetch: u16, way: Replacement) -> Result<(), Error> {
        self.prefetch = prefetch;
        let cancel = frames::cancel(MESSAGES, &self.tag(), true);
        match way {
            Replacement::OnNewChannel => {
                self.cancel()?;
                let socket = self.session.connection.socket();
                socket.open_next_channel();
                self.start_consumer(&[], None)
            }
            Replacement::Before => {
                self.start_consumer(&[], None)?;
                self.session.connection.socket().send_on_channel(&cancel);
                Ok(())
            }
            Replacement::After => self.start_consumer(&cancel, None),
        }
    }

    /// Returns the last delivery tag of the earlier channels.
    pub(crate) fn tag_base(&mut self) -> u64 {
        self.session.connection.socket().tag_base()
    }

    /// Whether the broker allows another channel.
    pub(crate) fn can_open_channel(&mut self) -> bool {
        self.session.connection.socket().can_open_channel()
    }

    /// Starts a consumer, together with the request before it.
    fn start_consumer(&mut self, before: &[u8], next_offset: Option<u64>) -> Result<(), Error> {
        self.consumer_number += 1;
        let mut request = before.to_vec();
        if !self.no_ack {
            request.extend(frames::qos(MESSAGES, self.prefetch));
        }
        request.extend(frames::consume(
            MESSAGES,
            self.queue.as_str(),
            &self.tag(),
            self.no_ack,
            self.options.exclusive,
            &self.options.arguments(next_offset, self.session.queue_kind),
        ));
        self.request(&request, frames::BASIC_CONSUME_OK)?;
        let socket = self.session.connection.socket();
        socket.take_answer(frames::BASIC_QOS_OK);
        self.state = ConsumerState::Consuming;
        Ok(())
    }

    fn request(&mut self, request: &[u8], answer: Method) -> Result<(), Error> {
        let operation = operation(self.queue);
        let connection = &mut self.session.connection;
        connection.socket().send_on_channel(request);
        connection.wait_for_answer(&operation, |socket| socket.take_answer(answer))
    }

    /// Returns the tag of the consumer. When a connection is lost, a quorum queue requeues the messages of its
    /// consumers in the order of their tags.
    fn tag(&self) -> String {
        format!("hello-mq-{:06}", self.consumer_number)
    }

    /// Returns the prefetch of the consumer.
    pub(crate) fn prefetch(&self) -> u16 {
        self.prefetch
    }

    /// Whether the broker may send messages.
    pub(crate) fn is_consuming(&self) -> bool {
        self.state == ConsumerState::Consuming
    }

    pub(crate) fn waker(&mut self) -> &Waker {
        self.session.connection.waiter().waker()
    }

    /// Whether a consumer can be started.
    pub(crate) fn is_paused(&self) -> bool {
        self.state == ConsumerState::Paused
    }

    pub(crate) fn session_and_queue(&mut self) -> (&mut Session, &'s QueueName) {
        (self.session, self.queue)
    }

    /// Takes the next message that was received.
    pub(crate) fn next_message(&mut self) -> Option<Content> {
        loop {
            match self.session.connection.socket().next_event()? {
                ChannelEvent::Delivered(content) => {
                    self.silence = None;
                    self.session.warn_if_incomplete(&content.message);
                    return Some(content);
                }
                ChannelEvent::Cancelled if self.is_consuming() => {
                    self.state = ConsumerState::CancelledByBroker;
                }
                _ => {}
            }
        }
    }

    /// Returns the delivery tag of the last message that was received and not taken.
    pub(crate) fn last_received(&mut self) -> Option<u64> {
        self.session.connection.socket().last_received()
    }

    /// Waits for a message, if one more `may_come`; until `other` returns something; or until the
    /// `deadline`. `held_bytes` is the size of the messages held elsewhere, which count as unprocessed;
    /// with `None`, the prefetch is limit enough.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if the broker has cancelled the consumer; the reason why the connection or the
    /// channel has ended.
    pub(crate) fn wait<T>(
        &mut self,
        deadline: Option<Instant>,
        on_interrupt: OnInterrupt,
        may_come: bool,
        held_bytes: Option<usize>,
        mut other: impl FnMut() -> Option<T>,
    ) -> Result<WaitOutcome<Option<T>>, Error> {
        if self.state == ConsumerState::CancelledByBroker {
            return Err(self.cancelled());
        }
        // Unacknowledged messages are delivered again, so those before it need not be taken.
        let ends_when_cancelled = self.is_consuming() && !self.no_ack;
        let queue = self.queue;
        let text = || format!("deliver from queue {queue}");
        let announcement = self
            .silence
            .as_mut()
            .map(|timer| Announcement { timer, text: &text });
        let operation = || operation(queue);
        let connection = &mut self.session.connection;
        let outcome =
            connection.wait(&operation, announcement, deadline, on_interrupt, |socket| {
                let unprocessed = held_bytes.map(|held| held + socket.delivered_bytes());
                socket.is_reading = unprocessed.is_none_or(|size| size < MAX_UNPROCESSED_BYTES);
                if may_come && socket.has_event() || ends_when_cancelled && socket.is_cancelled() {
                    return Some(None);
                }
                other().map(Some)
            })?;
        if matches!(outcome, WaitOutcome::Ready(None))
            && ends_when_cancelled
            && connection.socket().is_cancelled()
        {
            self.state = ConsumerState::CancelledByBroker;
            return Err(self.cancelled());
        }
        Ok(outcome)
    }

    fn cancelled(&self) -> Error {
        Error::Cancelled {
            broker: self.session.name().to_owned(),
            queue: self.queue.to_string(),
        }
    }

    /// Cancels the consumer. All messages that the broker has sent are received then.
    pub(crate) fn cancel(&mut self) -> Result<(), Error> {
        self.state = ConsumerState::Paused;
        let cancel = frames::cancel(MESSAGES, &self.tag(), false);
        self.request(&cancel, frames::BASIC_CANCEL_OK)?;
        match self.session.queue_kind {
            Some(QueueKind::Classic) => Ok(()),
            _ => self.wait_for_deliveries_in_flight(),
        }
    }

    /// Cancels the consumer for good, without waiting for the answer. Unless it is told to keep them, it drops
    /// the messages that were received and those still to come. Those kept can be taken after
    /// [`Subscription::finish_cancel`].
    pub(crate) fn begin_cancel(&mut self, keeps_messages: bool) {
        let socket = self.session.connection.socket();
        if !keeps_messages {
            socket.discard_messages();
        }
        if self.is_consuming() {
            self.state = if keeps_messages {
                ConsumerState::Cancelling
            } else {
                ConsumerState::Paused
            };
            let cancel = frames::cancel(MESSAGES, &self.tag(), !keeps_messages);
            self.session.connection.socket().send_on_channel(&cancel);
        }
    }

    /// Waits until a consumer that is being cancelled has sent everything.
    pub(crate) fn finish_cancel(&mut self) -> Result<(), Error> {
        if self.state == ConsumerState::Cancelling {
            self.state = ConsumerState::Paused;
            self.request(&[], frames::BASIC_CANCEL_OK)?;
            self.wait_for_deliveries_in_flight()?;
        }
        Ok(())
    }

    /// Waits until the channel has sent the deliveries that it had from the queue: a quorum queue or a
    /// stream answers basic.cancel past them.
    pub(crate) fn wait_for_deliveries_in_flight(&mut self) -> Result<(), Error> {
        let qos = frames::qos(MESSAGES, self.options.prefetch);
        self.request(&qos, frames::BASIC_QOS_OK)
    }

    /// Whether deliveries can still be settled. If not, the next wait returns the reason.
    pub(crate) fn can_settle(&mut self) -> bool {
        self.session.connection.socket().is_channel_usable()
    }

    /// Settles deliveries, as [`Socket::settle`] does.
    pub(crate) fn settle(
        &mut self,
        tags: impl IntoIterator<Item = u64>,
        frame: impl Fn(u16, u64) -> Vec<u8>,
    ) {
        self.session.connection.socket().settle(tags, frame);
    }

    /// Settles all deliveries up to one, as [`Socket::settle_up_to`] does.
    pub(crate) fn settle_up_to(&mut self, last: u64, frame: impl Fn(u16, u64) -> Vec<u8>) {
        self.session.connection.socket().settle_up_to(last, frame);
    }

    /// Notes that a message is requeued, which may take the queue some time.
    pub(crate) fn note_requeue(&mut self) {
        self.requeue_until = Some(Instant::now() + RETURN_TIMEOUT);
    }

    /// Notes that a connection was lost, whose consumer may hold messages for some time.
    pub(crate) fn note_lost_connection(&mut self) {
        self.stale_consumer_until = Some(Instant::now() + STALE_AFTER);
    }

    /// Whether the queue has no message that is ready, being requeued, or held by the consumer of a lost
    /// connection. Some may be on their way to this consumer.
    pub(crate) fn is_queue_empty(&mut self) -> Result<bool, Error> {
        let counts = topology::look_up(self.session, self.queue)?;
        let now = Some(Instant::now());
        let may_have_more = self.requeue_until > now
            || counts.consumers > u32::from(self.is_consuming()) && self.stale_consumer_until > now;
        let is_empty = counts.messages == 0;
        if is_empty {
            self.silence = None;
        } else {
            self.silence.get_or_insert_default();
        }
        Ok(is_empty && !may_have_more)
    }
}

/// Describes consuming for errors.
pub(crate) fn operation(queue: &QueueName) -> String {
    format!("consume from queue {queue}")
}
