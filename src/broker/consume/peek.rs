//! Looking at messages without taking them, by basic.get without acknowledgement.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crossbeam_channel::RecvError;

use super::limit::{self, AtLimit, NACK_IS_NOT_COUNTED_FROM};
use crate::broker::connection::{ChannelEvent, Content, WaitOutcome};
use crate::broker::frames::{self, MESSAGES};
use crate::broker::session::Session;
use crate::broker::topology;
use crate::broker::wait::OnInterrupt;
use crate::error::Error;
use crate::message::Message;
use crate::topology::QueueKind;
use crate::values::QueueName;
use crate::waker::Receiver;

/// The number of messages of a channel whose end requeues them in their order: a quorum queue sorts their
/// consumers by the digits of their delivery tags.
const MAX_OF_CHANNEL: u64 = 9;

/// The number of messages that a channel requeues to a quorum queue at a time. The rest waits in the channel,
/// and counts towards the delivery limit if the channel is closed meanwhile (`rabbit_fifo_client.erl`,
/// `SOFT_LIMIT`).
const REQUEUE_BATCH: usize = 32;

/// The time to wait until they are requeued. Another consumer may take them at once.
const REQUEUE_TIMEOUT: Duration = Duration::from_secs(1);

/// The same after one time-out.
const NEXT_REQUEUE_TIMEOUT: Duration = Duration::from_millis(10);

/// The time between two look-ups of the queue.
const REQUEUE_POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Gets the messages of a queue one by one, and requeues them at the end, each to its place.
///
/// A consumer would need an unlimited prefetch, and the messages would have to be held here. Those of
/// basic.get are held by the broker alone.
pub(crate) struct Peek<'s, 'q> {
    session: &'s mut Session,
    queue: &'q QueueName,
    at_limit: AtLimit,
    /// The delivery tag of the last message.
    last: u64,
    /// Whether the end of the channels puts the messages in their places, and basic.nack does not.
    is_place_kept: bool,
}

impl<'s, 'q> Peek<'s, 'q> {
    /// Opens the channel.
    pub(crate) fn open(session: &'s mut Session, queue: &'q QueueName) -> Result<Self, Error> {
        limit::prepare(session, queue)?;
        session.connection.socket().open_channel();
        let is_quorum = matches!(session.queue_kind, Some(QueueKind::Quorum { .. }));
        let is_place_kept = is_quorum
            && session.series < Some(NACK_IS_NOT_COUNTED_FROM)
            && limit::is_unlimited(session);
        Ok(Self {
            session,
            queue,
            at_limit: AtLimit::default(),
            last: 0,
            is_place_kept,
        })
    }

    /// Gets the next message; `None` if none is ready.
    pub(crate) fn message(&mut self) -> Result<Option<Box<Message>>, Error> {
        let connection = &mut self.session.connection;
        if self.is_place_kept && self.last > 0 && self.last % MAX_OF_CHANNEL == 0 {
            self.is_place_kept = connection.socket().can_open_channel();
            if self.is_place_kept {
                connection.socket().open_next_channel();
            }
        }
        let get = frames::get(MESSAGES, self.queue.as_str());
        connection.socket().send_on_channel(&get);
        let operation = format!("peek at queue {}", self.queue);
        let got = connection.wait_for_answer(&operation, |socket| {
            loop {
                if let ChannelEvent::Got(content) = socket.next_event()? {
                    return Some(content);
                }
            }
        })?;
        let Some(content) = got else {
            return Ok(None);
        };
        let Content { tag, message } = content;
        self.session.warn_if_incomplete(&message);
        self.last = tag;
        self.at_limit
            .count(self.session, self.queue, tag, &message)?;
        Ok(Some(message))
    }

    /// Whether too many messages are held here, as they are at their delivery limit.
    pub(crate) fn is_full(&self) -> bool {
        self.at_limit.is_full()
    }

    /// Requeues all messages.
    ///
    /// # Errors
    /// [`Error::Dropped`] if some were lost to their delivery limit.
    pub(crate) fn close(mut self) -> Result<(), Error> {
        let mut moved = BTreeSet::new();
        let at_limit = std::mem::take(&mut self.at_limit);
        let result = at_limit.move_to_end(self.session, self.queue, &mut moved);
        match self.session.queue_kind {
            Some(QueueKind::Stream) => {}
            Some(QueueKind::Classic) => {
                let nack = |channel, tag| frames::nack(channel, tag, true);
                self.session.connection.socket().settle_up_to(0, nack);
            }
            _ if self.is_place_kept => self.close_channels(),
            _ => self.requeue_one_by_one(&moved),
        }
        result
    }

    /// Has the end of each channel requeue its messages, one channel after the other: the broker may answer
    /// before the queue knows. If that fails, the end of the connection requeues them.
    fn close_channels(&mut self) {
        let mut timeout = Some(REQUEUE_TIMEOUT);
        let mut left = self.last;
        while left > 0 {
            let of_channel = left.min(MAX_OF_CHANNEL);
            left -= of_channel;
            timeout = timeout.filter(|_| left > 0);
            let ready = timeout.and_then(|_| self.ready_count());
            if self.session.connection.close_oldest_channel().is_err() {
                return;
            }
            timeout = timeout
                .zip(ready)
                .and_then(|(timeout, ready)| self.wait_until_ready(ready + of_channel, timeout));
        }
    }

    /// Requeues all messages but those that are `moved`, in batches, as long as the queue can be looked up.
    ///
    /// In a quorum queue each message of basic.get has a consumer of its own, and those of more than 32
    /// consumers are requeued in any order, unless each is requeued on its own.
    fn requeue_one_by_one(&mut self, moved: &BTreeSet<u64>) {
        let tags: Vec<_> = (1..=self.last).filter(|tag| !moved.contains(tag)).collect();
        let mut timeout = Some(REQUEUE_TIMEOUT);
        let mut batches = tags.chunks(REQUEUE_BATCH).peekable();
        while let Some(batch) = batches.next() {
            let has_next = batches.peek().is_some();
            timeout = timeout.filter(|_| has_next);
            let ready = timeout.and_then(|_| self.ready_count());
            let nack = |channel, tag| frames::nack(channel, tag, false);
            let socket = self.session.connection.socket();
            socket.settle(batch.iter().copied(), nack);
            timeout = timeout.zip(ready).and_then(|(timeout, ready)| {
                self.wait_until_ready(ready + batch.len() as u64, timeout)
            });
        }
    }

    /// Waits until so many messages are ready. Returns the time to wait for the next ones; `None` if the
    /// broker does not tell their number.
    fn wait_until_ready(&mut self, number: u64, timeout: Duration) -> Option<Duration> {
        let deadline = Instant::now() + timeout;
        loop {
            if self.ready_count()? >= number {
                return Some(timeout);
            }
            if Instant::now() > deadline {
                return Some(NEXT_REQUEUE_TIMEOUT);
            }
            let pause = Some(Instant::now() + REQUEUE_POLL_INTERVAL);
            let connection = &mut self.session.connection;
            let operation = || "return messages".to_owned();
            let nothing = |_: &mut _| None::<()>;
            let ignore = OnInterrupt::Ignore;
            let event = connection.wait(&operation, None, pause, ignore, nothing);
            event.ok()?;
        }
    }

    /// Returns the number of ready messages, if the broker tells.
    fn ready_count(&mut self) -> Option<u64> {
        let counts = topology::look_up(self.session, self.queue).ok()?;
        Some(u64::from(counts.messages))
    }

    /// Waits for an item of another thread, which is an error if that thread has ended, or until the
    /// `deadline`.
    pub(crate) fn wait<T>(
        &mut self,
        other: &Receiver<T>,
        deadline: Option<Instant>,
    ) -> Result<WaitOutcome<Result<T, RecvError>>, Error> {
        let connection = &mut self.session.connection;
        other.add_waker(connection.waiter().waker());
        let operation = || format!("peek at queue {}", self.queue);
        connection.wait(&operation, None, deadline, OnInterrupt::Return, |_| {
            other.next()
        })
    }
}
