//! Looking at messages without taking them: each is got, none is acknowledged.

use std::time::Instant;

use crossbeam_channel::RecvError;

use super::limit::AtLimit;
use crate::broker::connection::{Arrival, Content, Waited};
use crate::broker::frames::{self, MESSAGES};
use crate::broker::session::Session;
use crate::broker::wait::OnInterrupt;
use crate::error::Error;
use crate::message::Message;
use crate::values::QueueName;
use crate::waker::Receiver;

/// The most bytes of bodies that are held here.
const HELD_MAX: usize = 64 << 20;

/// The messages of a queue, one after the other. Afterwards they go back, each to its place.
///
/// A consumer would have to be allowed any number of messages at a time, which would have to be held
/// here; what is asked for one by one is held by the broker alone.
pub struct Peek<'s, 'q> {
    session: &'s mut Session,
    queue: &'q QueueName,
    at_limit: AtLimit,
}

impl<'s, 'q> Peek<'s, 'q> {
    /// Begins to look at a queue.
    pub fn open(session: &'s mut Session, queue: &'q QueueName) -> Self {
        session.connection.socket().open_channel();
        Self {
            session,
            queue,
            at_limit: AtLimit::default(),
        }
    }

    /// One message more; `None` when there is none that nobody else has.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is no such queue, [`Error::Lost`] if the connection is.
    pub fn message(&mut self) -> Result<Option<Box<Message>>, Error> {
        let connection = &mut self.session.connection;
        let get = frames::get(MESSAGES, self.queue.as_str());
        connection.socket().post(&get);
        let operation = format!("look at queue {}", self.queue);
        let got = connection.answer(&operation, |socket| {
            loop {
                if let Arrival::Got(content) = socket.arrival()? {
                    return Some(content);
                }
            }
        })?;
        let Some(content) = got else {
            return Ok(None);
        };
        let Content { tag, message, .. } = self.session.inspect(content);
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
    pub fn close(self) -> Result<(), Error> {
        self.at_limit.give_back(self.session, self.queue)
    }

    /// Waits for something from another thread, or until `until`. An error stands for a thread that is
    /// gone.
    ///
    /// # Errors
    /// What ended the connection.
    pub fn wait<T>(
        &mut self,
        other: &Receiver<T>,
        until: Option<Instant>,
    ) -> Result<Waited<Result<T, RecvError>>, Error> {
        let connection = &mut self.session.connection;
        other.wakes(connection.waiter().waker());
        let operation = || format!("look at queue {}", self.queue);
        connection.wait(&operation, None, until, OnInterrupt::Return, |_| {
            other.next()
        })
    }
}
