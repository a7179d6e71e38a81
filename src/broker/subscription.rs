//! A consumer that the broker knows of.

use std::collections::VecDeque;
use std::time::Instant;

use amiquip::{ConsumerMessage, ConsumerOptions};
use crossbeam_channel::TryRecvError;

use super::arrivals::{Arrival, Content};
use super::consumer::Options;
use super::content::ContentChannel;
use super::{Session, frames};
use crate::bell::Listening;
use crate::error::Error;
use crate::values::QueueName;

/// The most bytes of bodies that wait here. When there are so many, nothing is read until they are
/// fewer, and so nothing is sent: the prefetch bounds messages, whatever their size.
const WAITING_BYTES: usize = 16 << 20;

/// A consumer that the broker knows of, and what it has sent.
///
/// The library's I/O thread fails, and the connection with it, if it finds nobody who listens when
/// the broker's answer to a cancellation comes in. So a consumer is cancelled first, then listened to
/// until it has ended, and only then dropped; or it is left to live as long as the connection.
pub struct Subscription<'c> {
    channel: &'c ContentChannel,
    /// `None` once it is left.
    consumer: Option<amiquip::Consumer<'c>>,
    /// Empty but for a moment.
    arrived: VecDeque<Arrival>,
    came: VecDeque<Content>,
    /// Bytes of the bodies of what came.
    bytes: usize,
    ended: Option<Ended>,
}

/// Why a consumer gets no more.
#[derive(Debug)]
pub enum Ended {
    /// The broker cancelled it.
    Cancelled,
    /// Its channel, or its connection, is gone.
    Failed(amiquip::Error),
}

impl Ended {
    /// The user's words for it.
    pub fn error(self, session: &mut Session, queue: &QueueName) -> Error {
        match self {
            Self::Cancelled => Error::Cancelled {
                broker: session.name.clone(),
                queue: queue.to_string(),
            },
            Self::Failed(error) => session.error(&format!("consume from queue {queue}"), error),
        }
    }
}

impl<'c> Subscription<'c> {
    /// Tells the broker of a consumer that goes on with the message `next_offset` of a stream.
    ///
    /// # Errors
    /// The library's, if the broker refuses.
    pub fn new(
        channel: &'c ContentChannel,
        queue: &QueueName,
        options: &Options,
        no_ack: bool,
        next_offset: Option<u64>,
    ) -> Result<Self, amiquip::Error> {
        let options = ConsumerOptions {
            no_ack,
            exclusive: options.exclusive,
            arguments: options.arguments(next_offset),
            ..ConsumerOptions::default()
        };
        Ok(Self {
            channel,
            consumer: Some(channel.library()?.basic_consume(queue.as_str(), options)?),
            arrived: VecDeque::new(),
            came: VecDeque::new(),
            bytes: 0,
            ended: None,
        })
    }

    /// A message that is here already.
    pub fn next(&mut self) -> Option<Content> {
        if self.came.is_empty() {
            self.collect();
        }
        let next = self.came.pop_front()?;
        self.bytes -= next.message.body.len();
        Some(next)
    }

    /// Whether no message is here.
    pub fn is_empty(&mut self) -> bool {
        self.collect();
        self.came.is_empty()
    }

    /// Why there will be no more, if nothing is here any more.
    pub fn ended(&mut self) -> Option<Ended> {
        if self.ended.is_none() {
            self.ended = self.look_for_end();
        }
        // What came before that counts.
        if self.ended.is_some() && self.is_empty() {
            return self.ended.take();
        }
        None
    }

    fn look_for_end(&self) -> Option<Ended> {
        match self.consumer.as_ref()?.receiver().try_recv() {
            Ok(ConsumerMessage::ServerCancelled) => Some(Ended::Cancelled),
            Ok(
                ConsumerMessage::ServerClosedChannel(error)
                | ConsumerMessage::ServerClosedConnection(error),
            ) => Some(Ended::Failed(error)),
            Ok(_) | Err(TryRecvError::Disconnected) => {
                Some(Ended::Failed(amiquip::Error::EventLoopDropped))
            }
            Err(TryRecvError::Empty) if self.channel.is_gone() => {
                Some(Ended::Failed(self.channel.why()))
            }
            Err(TryRecvError::Empty) => None,
        }
    }

    /// Waits as [`Session::pause`] does. More is read only if what waits here and elsewhere, `held`
    /// bytes, is not too much.
    pub fn pause(
        &mut self,
        session: &Session,
        listening: &Listening,
        held: usize,
        until: Option<Instant>,
    ) {
        self.collect();
        session.pause(listening, self.bytes + held < WAITING_BYTES, until);
    }

    fn collect(&mut self) {
        self.channel.take(&mut self.arrived);
        for arrival in self.arrived.drain(..) {
            if let Arrival::Delivered(content) = arrival {
                self.bytes += content.message.body.len();
                self.came.push_back(content);
            }
        }
    }

    /// Cancels the consumer and returns what the broker had sent before it knew.
    pub fn cancel(mut self) -> VecDeque<Content> {
        self.cancel_and_wait();
        self.collect();
        std::mem::take(&mut self.came)
    }

    fn cancel_and_wait(&mut self) {
        if let Some(consumer) = self.consumer.take() {
            // It is the library that cancels, and hears of the end.
            let _ = self.channel.library();
            let _ = consumer.cancel();
            for _ in consumer.receiver() {}
        }
    }

    /// Cancels the consumer without waiting for the broker. What it may still send belongs to the
    /// queue again when the channel is closed, which has to be soon.
    ///
    /// # Errors
    /// The library's, if the connection is gone.
    pub fn leave(mut self) -> Result<(), amiquip::Error> {
        let Some(consumer) = self.consumer.take() else {
            return Ok(());
        };
        let cancel = frames::cancel(self.channel.number(), consumer.consumer_tag());
        // The library, which knows nothing of it, still needs somebody who listens.
        std::mem::forget(consumer);
        self.channel.ignore();
        self.channel.post(&cancel)
    }
}

impl Drop for Subscription<'_> {
    fn drop(&mut self) {
        self.cancel_and_wait();
    }
}
