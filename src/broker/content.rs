//! The channel for messages: what is posted on it goes past the client library, all else by it.

use std::collections::VecDeque;
use std::sync::Arc;

use amiquip::{Channel, Confirm};
use crossbeam_channel::{Receiver, TryRecvError};

use super::arrivals::Arrival;
use super::frames;
use super::stream::Link;
use super::wire::Wire;

/// A channel for messages.
///
/// While messages are waited for the library does not read, so nothing may be asked of it without
/// giving that back: it is given back whenever the library's channel is asked for here.
pub struct ContentChannel {
    /// `None` once it is given away.
    channel: Option<Channel>,
    number: u16,
    wire: Arc<Wire<Link>>,
    /// The library keeps one end for as long as the channel lives, and has nothing to send through it,
    /// as confirms do not come to it.
    gone: Receiver<Confirm>,
}

impl ContentChannel {
    /// Makes a channel of the library's one for messages. There is one at a time on a connection.
    ///
    /// # Errors
    /// The library's, if the channel or the connection is gone.
    pub fn new(channel: Channel, wire: &Arc<Wire<Link>>) -> Result<Self, amiquip::Error> {
        let gone = channel.listen_for_publisher_confirms()?;
        let number = channel.channel_id();
        wire.open(number);
        Ok(Self {
            channel: Some(channel),
            number,
            wire: Arc::clone(wire),
            gone,
        })
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// The library's channel, to be used at once.
    ///
    /// # Errors
    /// If it is given away.
    pub fn library(&self) -> Result<&Channel, amiquip::Error> {
        self.wire.hand_back();
        self.channel
            .as_ref()
            .ok_or(amiquip::Error::EventLoopDropped)
    }

    /// Sends whole frames, behind all that the library was asked to send before and has answered.
    ///
    /// # Errors
    /// If the channel is gone, with the reason.
    pub fn post(&self, frames: &[u8]) -> Result<(), amiquip::Error> {
        if self.wire.post(self.number, frames) {
            return Ok(());
        }
        Err(self.why())
    }

    /// Lets the broker send consumers that come from now on so many messages ahead of their
    /// acknowledgement. Nobody waits for the answer: if it is a refusal, the channel is gone.
    ///
    /// # Errors
    /// As [`ContentChannel::post`].
    pub fn limit(&self, prefetch: u16) -> Result<(), amiquip::Error> {
        self.wire.expect_limit();
        self.post(&frames::limit(self.number, prefetch))
    }

    /// Moves what came to the end of `came`.
    pub fn take(&self, came: &mut VecDeque<Arrival>) {
        self.wire.take(came);
    }

    /// From here on nothing that comes is kept.
    pub fn ignore(&self) {
        self.wire.ignore();
    }

    /// Whether the channel is gone. What came before that can be taken then.
    pub fn is_gone(&self) -> bool {
        self.gone.try_recv() == Err(TryRecvError::Disconnected) || self.wire.is_left()
    }

    /// Why the channel is gone, which the library perhaps is about to learn. It tells only once.
    pub fn why(&self) -> amiquip::Error {
        let refused = self.library().and_then(|it| it.qos(0, 0, false)).err();
        refused.unwrap_or(amiquip::Error::EventLoopDropped)
    }

    /// Closes it, which gives back what is not settled.
    ///
    /// # Errors
    /// The library's, if it is gone.
    pub fn close(mut self) -> Result<(), amiquip::Error> {
        self.wire.close();
        self.wire.hand_back();
        self.channel.take().map_or(Ok(()), Channel::close)
    }

    /// The library's channel, for messages no more.
    pub fn into_library(mut self) -> Option<Channel> {
        self.wire.close();
        self.wire.hand_back();
        self.channel.take()
    }
}

impl Drop for ContentChannel {
    /// A channel that is dropped says farewell and waits for the answer.
    fn drop(&mut self) {
        self.wire.close();
        self.wire.hand_back();
    }
}
