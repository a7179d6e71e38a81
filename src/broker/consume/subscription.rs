//! A consumer on the channel for messages: what consuming in batches and one by one share.

use std::time::{Duration, Instant};

use super::ConsumeOptions;
use crate::broker::connection::{ChannelEvent, Content, WaitOutcome};
use crate::broker::frames::{self, MESSAGES};
use crate::broker::session::Session;
use crate::broker::topology;
use crate::broker::wait::{OnInterrupt, SilenceTimer};
use crate::error::Error;
use crate::topology::QueueKind;
use crate::values::QueueName;
use crate::waker::Waker;

/// The most bytes of bodies that wait to be dealt with. When there are so many, nothing is read until
/// they are fewer, and so nothing is sent: the prefetch bounds messages, whatever their size.
const WAITING_BYTES: usize = 16 << 20;

/// How long a broker may take to end the consumer of a connection that is lost. One whose queue has no
/// majority for a minute starts it after that, for nobody, and ends it when it notices.
const STALE_AFTER: Duration = Duration::from_secs(10);

/// How long a queue may take to count a message as ready that went back to it: the replicas of a quorum queue
/// agree on that first.
const RETURN_TIMEOUT: Duration = Duration::from_secs(1);

/// A queue, and the consumer of it, which may be paused.
pub struct Subscription<'s> {
    session: &'s mut Session,
    queue: &'s QueueName,
    options: ConsumeOptions,
    no_ack: bool,
    /// How many consumers were started. A quorum queue may go on with one that was cancelled when another
    /// of the same tag is started, so each has a tag of its own.
    started: u32,
    is_consuming: bool,
    /// Whether the broker has cancelled the consumer.
    is_cancelled: bool,
    /// Whether the answer to a cancellation is still to come.
    is_leaving: bool,
    /// Since when no message has come although the queue has some.
    owed: Option<SilenceTimer>,
    /// Until when a consumer besides this one may be that of a lost connection, which the broker has yet
    /// to end, and hold messages.
    doubtful_until: Option<Instant>,
    /// Until when a message that went back may be neither ready nor delivered.
    returning_until: Option<Instant>,
}

impl<'s> Subscription<'s> {
    /// Opens the channel for messages. No consumer is started yet.
    pub fn open(
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
            started: 0,
            is_consuming: false,
            is_cancelled: false,
            is_leaving: false,
            owed: None,
            doubtful_until: None,
            returning_until: None,
        }
    }

    /// Starts a consumer that is to take so many messages that are `left`, of a stream from the message
    /// `next_offset` on.
    ///
    /// # Errors
    /// [`Error::Refused`] in the broker's words; [`Error::Lost`].
    pub fn start(&mut self, left: Option<u64>, next_offset: Option<u64>) -> Result<(), Error> {
        self.started += 1;
        let mut request = Vec::new();
        if !self.no_ack {
            request = frames::limit(MESSAGES, self.options.prefetch(left));
        }
        request.extend(frames::consume(
            MESSAGES,
            self.queue.as_str(),
            &self.tag(),
            self.no_ack,
            self.options.exclusive,
            &self.options.arguments(next_offset, self.session.queue),
        ));
        self.ask(&request, frames::BASIC_CONSUME_OK)?;
        // It was answered before that.
        let socket = self.session.connection.socket();
        socket.take_answer(frames::BASIC_QOS_OK);
        self.is_consuming = true;
        Ok(())
    }

    fn ask(&mut self, request: &[u8], answer: frames::Method) -> Result<(), Error> {
        let operation = operation(self.queue);
        let connection = &mut self.session.connection;
        connection.socket().post(request);
        connection.answer(&operation, |socket| {
            socket.take_answer(answer).then_some(())
        })
    }

    /// What the broker knows the consumer by.
    fn tag(&self) -> String {
        format!("hello-mq-{}", self.started)
    }

    /// Whether the broker may send messages.
    pub fn is_consuming(&self) -> bool {
        self.is_consuming
    }

    /// The waker of whatever ends a wait besides messages.
    pub fn waker(&mut self) -> &Waker {
        self.session.connection.waiter().waker()
    }

    /// Whether a consumer can be started: there is none, and the broker has not ended the consumption.
    pub fn may_start(&self) -> bool {
        !self.is_consuming && !self.is_cancelled
    }

    /// The session, and the queue.
    pub fn parts(&mut self) -> (&mut Session, &'s QueueName) {
        (self.session, self.queue)
    }

    /// The next message that is here.
    pub fn next(&mut self) -> Option<Content> {
        loop {
            match self.session.connection.socket().arrival()? {
                ChannelEvent::Delivered(content) => {
                    self.owed = None;
                    return Some(self.session.inspect(content));
                }
                ChannelEvent::Cancelled if self.is_consuming => {
                    (self.is_consuming, self.is_cancelled) = (false, true);
                }
                _ => {}
            }
        }
    }

    /// Whether a message is here.
    pub fn has_message(&mut self) -> bool {
        self.session.connection.socket().has_message()
    }

    /// Waits until a message is here, if one `may_come`; until `other` returns something; or until
    /// `until`. Where so many bytes are `held` elsewhere that no more are to be read, nothing is; with
    /// `None`, the prefetch is bound enough.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if the broker has cancelled the consumer; what ended the connection or the
    /// channel.
    pub fn wait<T>(
        &mut self,
        until: Option<Instant>,
        on_interrupt: OnInterrupt,
        may_come: bool,
        held: Option<usize>,
        mut other: impl FnMut() -> Option<T>,
    ) -> Result<WaitOutcome<Option<T>>, Error> {
        if self.is_cancelled {
            return Err(self.cancelled());
        }
        // Deliveries that are not acknowledged come again, so that nothing is left to be taken.
        let heeds_cancel = self.is_consuming && !self.no_ack;
        let queue = self.queue;
        let what = || format!("deliver from queue {queue}");
        let what: &dyn Fn() -> String = &what;
        // That an empty queue has no message is nothing to announce.
        let announcement = self.owed.as_mut().map(|patience| (patience, what));
        let operation = || operation(queue);
        let connection = &mut self.session.connection;
        let waited = connection.wait(&operation, announcement, until, on_interrupt, |socket| {
            socket.may_read = held.is_none_or(|held| held + socket.held() < WAITING_BYTES);
            if may_come && socket.has_arrival() || heeds_cancel && socket.is_cancelled() {
                return Some(None);
            }
            other().map(Some)
        })?;
        if matches!(waited, WaitOutcome::Came(None))
            && heeds_cancel
            && connection.socket().is_cancelled()
        {
            (self.is_consuming, self.is_cancelled) = (false, true);
            return Err(self.cancelled());
        }
        Ok(waited)
    }

    fn cancelled(&self) -> Error {
        Error::Cancelled {
            broker: self.session.name().to_owned(),
            queue: self.queue.to_string(),
        }
    }

    /// Cancels the consumer. What the broker had sent before is here then, and nothing more comes.
    ///
    /// # Errors
    /// As [`Subscription::start`].
    pub fn cancel(&mut self) -> Result<(), Error> {
        self.is_consuming = false;
        let cancel = frames::cancel(MESSAGES, &self.tag(), false);
        self.ask(&cancel, frames::BASIC_CANCEL_OK)?;
        match self.session.queue {
            Some(QueueKind::Classic) => Ok(()),
            _ => self.settle_down(),
        }
    }

    /// Cancels the consumer without waiting for the broker, for good. What is here and what still comes
    /// has to be given back soon. It is dropped unless it is `wanted`, and then is here after
    /// [`Subscription::has_left`].
    pub fn leave(&mut self, wanted: bool) {
        let socket = self.session.connection.socket();
        if !wanted {
            socket.discard();
        }
        if std::mem::take(&mut self.is_consuming) {
            self.is_leaving = wanted;
            let cancel = frames::cancel(MESSAGES, &self.tag(), !wanted);
            self.session.connection.socket().post(&cancel);
        }
    }

    /// Waits until nothing more comes to a consumer that was left.
    ///
    /// # Errors
    /// The reason why the connection ended.
    pub fn has_left(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.is_leaving) {
            self.ask(&[], frames::BASIC_CANCEL_OK)?;
            self.settle_down()?;
        }
        Ok(())
    }

    /// Waits until the channel has sent what its queue had sent it: a quorum queue or a stream answers a
    /// request past what is on its way to the channel.
    ///
    /// # Errors
    /// The reason why the connection ended.
    pub fn settle_down(&mut self) -> Result<(), Error> {
        let limit = frames::limit(MESSAGES, self.options.prefetch);
        self.ask(&limit, frames::BASIC_QOS_OK)
    }

    /// Whether deliveries can still be settled. If not, the next wait says why.
    pub fn can_settle(&mut self) -> bool {
        self.session.connection.socket().can_post()
    }

    /// Sends the settlement of deliveries.
    pub fn settle(&mut self, settlement: &[u8]) {
        self.session.connection.socket().post(settlement);
    }

    /// Takes into account that a message goes back to the queue.
    pub fn returns_a_message(&mut self) {
        self.returning_until = Some(Instant::now() + RETURN_TIMEOUT);
    }

    /// Takes the consumer of a connection that was lost into account.
    pub fn follows_a_lost_connection(&mut self) {
        self.doubtful_until = Some(Instant::now() + STALE_AFTER);
    }

    /// Whether the queue has no message that is ready, or held by the consumer of a lost connection. Some
    /// may be on their way.
    ///
    /// # Errors
    /// As [`topology::look_up`].
    pub fn is_queue_empty(&mut self) -> Result<bool, Error> {
        let state = topology::look_up(self.session, self.queue)?;
        let now = Some(Instant::now());
        let is_doubtful = self.returning_until > now
            || state.consumers > u32::from(self.is_consuming) && self.doubtful_until > now;
        let is_empty = state.messages == 0;
        if is_empty {
            self.owed = None;
        } else {
            self.owed.get_or_insert_default();
        }
        Ok(is_empty && !is_doubtful)
    }
}

/// What a consumer is to do, for what is said of it.
pub fn operation(queue: &QueueName) -> String {
    format!("consume from queue {queue}")
}
