//! Looking at messages without taking them, by basic.get without acknowledgement.

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

/// The number of messages that a channel requeues to a quorum queue at a time. The rest waits in the channel,
/// and counts towards the delivery limit if the channel is closed meanwhile (`rabbit_fifo_client.erl`,
/// `SOFT_LIMIT`).
const REQUEUE_BATCH: u64 = 32;

/// The time to wait until they are requeued. Another consumer may take them at once.
const REQUEUE_TIMEOUT: Duration = Duration::from_millis(200);

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
}

impl<'s, 'q> Peek<'s, 'q> {
    /// Opens the channel.
    pub(crate) fn open(session: &'s mut Session, queue: &'q QueueName) -> Result<Self, Error> {
        limit::prepare(session, queue)?;
        session.connection.socket().open_channel();
        Ok(Self {
            session,
            queue,
            at_limit: AtLimit::default(),
            last: 0,
        })
    }

    /// Gets the next message; `None` if none is ready.
    pub(crate) fn message(&mut self) -> Result<Option<Box<Message>>, Error> {
        let connection = &mut self.session.connection;
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
        let may_count = matches!(
            self.session.queue_kind,
            None | Some(QueueKind::Quorum { .. } | QueueKind::Unknown)
        );
        if may_count && self.session.series >= Some(NACK_IS_NOT_COUNTED_FROM) {
            self.requeue_in_batches();
        }
        self.at_limit.requeue_all(self.session, self.queue, None)
    }

    /// Requeues all but the last few messages in batches, so that none counts, as long as the queue can be
    /// looked up.
    fn requeue_in_batches(&mut self) {
        let mut requeued = 0;
        while self.last - requeued > REQUEUE_BATCH {
            let Some(ready) = self.ready_count() else {
                return;
            };
            requeued += REQUEUE_BATCH;
            let nack = frames::nack(MESSAGES, requeued, true);
            self.session.connection.socket().send_on_channel(&nack);
            let deadline = Instant::now() + REQUEUE_TIMEOUT;
            let is_done = |now: u64| now >= ready + REQUEUE_BATCH || Instant::now() > deadline;
            while !self.ready_count().is_none_or(is_done) {
                let pause = Some(Instant::now() + REQUEUE_POLL_INTERVAL);
                let connection = &mut self.session.connection;
                let operation = || "return messages".to_owned();
                let nothing = |_: &mut _| None::<()>;
                let ignore = OnInterrupt::Ignore;
                if let Err(_lost) = connection.wait(&operation, None, pause, ignore, nothing) {
                    return;
                }
            }
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
