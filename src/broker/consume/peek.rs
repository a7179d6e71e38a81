//! Looking at messages without taking them: each is got, none is acknowledged.

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

/// The most bytes of bodies that are held here.
const HELD_MAX: usize = 64 << 20;

/// How many messages a channel gives back to a quorum queue at a time. The rest waits in the channel until these
/// are back, and is counted as delivered if the channel is closed before (`rabbit_fifo_client.erl`,
/// `SOFT_LIMIT`).
const GIVE_BACK_BATCH: u64 = 32;

/// How long it is waited for that they are back. Another consumer may have them at once.
const GIVE_BACK_TIMEOUT: Duration = Duration::from_millis(200);

/// How long to wait before it is asked again.
const GIVE_BACK_POLL_INTERVAL: Duration = Duration::from_millis(1);

/// The messages of a queue, one after the other. Afterwards they go back, each to its place.
///
/// A consumer would have to be allowed any number of messages at a time, which would have to be held
/// here; what is asked for one by one is held by the broker alone.
pub struct Peek<'s, 'q> {
    session: &'s mut Session,
    queue: &'q QueueName,
    at_limit: AtLimit,
    /// The tag of the last message.
    last: u64,
}

impl<'s, 'q> Peek<'s, 'q> {
    /// Begins to look at a queue.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub fn open(session: &'s mut Session, queue: &'q QueueName) -> Result<Self, Error> {
        limit::prepare(session, queue)?;
        session.connection.socket().open_channel();
        Ok(Self {
            session,
            queue,
            at_limit: AtLimit::default(),
            last: 0,
        })
    }

    /// One message more; `None` when there is none that nobody else has.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is no such queue, [`Error::Lost`] if the connection is.
    pub fn message(&mut self) -> Result<Option<Box<Message>>, Error> {
        let connection = &mut self.session.connection;
        let get = frames::get(MESSAGES, self.queue.as_str());
        connection.socket().post(&get);
        let operation = format!("peek at queue {}", self.queue);
        let got = connection.answer(&operation, |socket| {
            loop {
                if let ChannelEvent::Got(content) = socket.arrival()? {
                    return Some(content);
                }
            }
        })?;
        let Some(content) = got else {
            return Ok(None);
        };
        let Content { tag, message, .. } = self.session.inspect(content);
        self.last = tag;
        self.at_limit
            .count(self.session, self.queue, tag, &message)?;
        Ok(Some(message))
    }

    /// Whether no more messages should be looked at, as too many are held here: they are at the queue's
    /// delivery limit.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.at_limit.held() >= HELD_MAX
    }

    /// Gives every message back.
    ///
    /// # Errors
    /// [`Error::Dropped`] if that could not be done without losing some.
    pub fn close(mut self) -> Result<(), Error> {
        let is_counting = matches!(
            self.session.queue,
            None | Some(QueueKind::Quorum { .. } | QueueKind::Unknown)
        );
        if is_counting && self.session.series >= Some(NACK_IS_NOT_COUNTED_FROM) {
            self.give_back_in_parts();
        }
        self.at_limit.give_back(self.session, self.queue)
    }

    /// Gives back all but the last few messages, so that none is counted, as far as the queue can be asked.
    fn give_back_in_parts(&mut self) {
        let mut given_back = 0;
        while self.last - given_back > GIVE_BACK_BATCH {
            let Some(ready) = self.ready() else { return };
            given_back += GIVE_BACK_BATCH;
            let nack = frames::nack(MESSAGES, given_back, true);
            self.session.connection.socket().post(&nack);
            let until = Instant::now() + GIVE_BACK_TIMEOUT;
            let are_back = |now: u64| now >= ready + GIVE_BACK_BATCH || Instant::now() > until;
            while !self.ready().is_none_or(are_back) {
                let pause = Some(Instant::now() + GIVE_BACK_POLL_INTERVAL);
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

    /// How many messages nobody has, if the broker says so.
    fn ready(&mut self) -> Option<u64> {
        let state = topology::look_up(self.session, self.queue).ok()?;
        Some(u64::from(state.messages))
    }

    /// Waits for something from another thread, or until `until`. An error stands for a thread that is
    /// gone.
    ///
    /// # Errors
    /// The reason why the connection ended.
    pub fn wait<T>(
        &mut self,
        other: &Receiver<T>,
        until: Option<Instant>,
    ) -> Result<WaitOutcome<Result<T, RecvError>>, Error> {
        let connection = &mut self.session.connection;
        other.wakes(connection.waiter().waker());
        let operation = || format!("peek at queue {}", self.queue);
        connection.wait(&operation, None, until, OnInterrupt::Return, |_| {
            other.next()
        })
    }
}
