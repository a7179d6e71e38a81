//! Looking at messages without taking them: each is got, none is acknowledged.

use amiquip::Channel;
use crossbeam_channel::{RecvError, select};

use super::arrivals::{Content, What};
use super::{Gone, Session, frames};
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
    gone: Gone,
    queue: &'q QueueName,
}

impl<'s, 'q> Peek<'s, 'q> {
    /// Begins to look at a queue.
    ///
    /// # Errors
    /// [`Error::Lost`] if the connection is.
    pub fn open(session: &'s mut Session, queue: &'q QueueName) -> Result<Self, Error> {
        let channel = session.content_channel()?;
        let gone = Gone::of(&channel).map_err(|error| session.error("look at a queue", error))?;
        Ok(Self {
            session,
            channel,
            gone,
            queue,
        })
    }

    /// One message more; `None` when there is none that nobody else has.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is no such queue, [`Error::Lost`] if the connection is.
    pub fn message(&mut self) -> Result<Option<Message>, Error> {
        let got = self.get().map_err(|error| {
            self.session
                .error(&format!("look at queue {}", self.queue), error)
        })?;
        Ok(got.map(|content| self.session.received(content)))
    }

    fn get(&self) -> Result<Option<Content>, amiquip::Error> {
        let get = frames::get(self.channel.channel_id(), self.queue.as_str());
        self.session.post(&self.channel, get)?;
        loop {
            let arrivals = select! {
                recv(self.session.inbox) -> arrivals => arrivals,
                recv(self.gone.receiver()) -> _ => self.session.inbox.try_recv().map_err(|_| RecvError),
            };
            for arrival in arrivals.into_iter().flatten() {
                if let What::Got(content) = arrival.what {
                    return Ok(content);
                }
            }
            self.gone.check(&self.channel)?;
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
