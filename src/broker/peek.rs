//! Looking at messages without taking them: each is got, none is acknowledged.

use std::collections::VecDeque;

use super::arrivals::{Arrival, Content};
use super::content::ContentChannel;
use super::{Session, frames};
use crate::error::Error;
use crate::message::Message;
use crate::values::QueueName;

/// The messages of a queue, one after the other. When it goes they go back, each to its place.
///
/// A consumer would have to be allowed any number of messages at a time, which the client library
/// would hold; what is asked for one by one is held by the broker alone.
pub struct Peek<'s, 'q> {
    session: &'s mut Session,
    channel: ContentChannel,
    queue: &'q QueueName,
}

impl<'s, 'q> Peek<'s, 'q> {
    /// Begins to look at a queue.
    ///
    /// # Errors
    /// [`Error::Lost`] if the connection is.
    pub fn open(session: &'s mut Session, queue: &'q QueueName) -> Result<Self, Error> {
        let channel = session.content_channel()?;
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
        let got = self.get().map_err(|error| {
            self.session
                .error(&format!("look at queue {}", self.queue), error)
        })?;
        Ok(got.map(|content| self.session.received(content)))
    }

    fn get(&self) -> Result<Option<Content>, amiquip::Error> {
        let get = frames::get(self.channel.number(), self.queue.as_str());
        self.channel.post(&get)?;
        let mut came = VecDeque::new();
        let listening = self.session.wire.bell().listen();
        let got = loop {
            let is_gone = self.channel.is_gone();
            self.channel.take(&mut came);
            let got = came.drain(..).find_map(|arrival| match arrival {
                Arrival::Got(content) => Some(content),
                _ => None,
            });
            match got {
                Some(content) => break content,
                None if is_gone => return Err(self.channel.why()),
                None => {}
            }
            self.session.pause(&listening, true, None);
        };
        // Who looks may take long before the next.
        self.session.wire.hand_back();
        Ok(got)
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
