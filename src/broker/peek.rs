//! Looking at messages without taking them: each is got, none is acknowledged.

use amiquip::Channel;

use super::{Session, content};
use crate::error::Error;
use crate::message::Message;
use crate::values::QueueName;

/// The messages of a queue, one after the other. When it goes they go back, each to its place.
///
/// A consumer would have to be allowed any number of messages at a time, which the client library
/// would hold; what is asked for one by one is held by the broker alone.
pub struct Peek<'s, 'q> {
    session: &'s mut Session,
    channel: Channel,
    queue: &'q QueueName,
}

impl<'s, 'q> Peek<'s, 'q> {
    /// Begins to look at a queue.
    ///
    /// # Errors
    /// [`Error::Lost`] if the connection is.
    pub fn open(session: &'s mut Session, queue: &'q QueueName) -> Result<Self, Error> {
        let channel = session.channel()?;
        Ok(Self {
            session,
            channel,
            queue,
        })
    }

    /// One message more; `None` when there is none that nobody else has.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is no such queue, [`Error::Lost`] if the connection is.
    pub fn message(&mut self) -> Result<Option<Message>, Error> {
        match self.channel.basic_get(self.queue.as_str(), false) {
            Ok(got) => Ok(got.map(|mut got| content::received(&mut got.delivery, self.session))),
            Err(error) => Err(self
                .session
                .error(&format!("look at queue {}", self.queue), error)),
        }
    }

    /// Gives every message back.
    ///
    /// # Errors
    /// [`Error::Lost`] if the connection is: then they are back, too.
    pub fn close(self) -> Result<(), Error> {
        self.channel
            .close()
            .map_err(|error| self.session.error("give the messages back", error))
    }
}
