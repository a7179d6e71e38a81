//! A consumer that the broker knows of.

use std::collections::VecDeque;

use amiquip::{Channel, ConsumerMessage, ConsumerOptions};
use crossbeam_channel::{Receiver, RecvError};

use super::arrivals::{Arrival, Content, What};
use super::consumer::Options;
use super::{Session, frames};
use crate::error::Error;
use crate::values::QueueName;

/// A consumer that the broker knows of, and what it has sent.
///
/// The library's I/O thread fails, and the connection with it, if it finds nobody who listens when
/// the broker's answer to a cancellation comes in. So a consumer is cancelled first, then listened to
/// until it has ended, and only then dropped; or it is left to live as long as the connection.
pub struct Subscription<'c> {
    channel: &'c Channel,
    /// `None` once it is left.
    consumer: Option<amiquip::Consumer<'c>>,
    inbox: Receiver<Vec<Arrival>>,
    came: VecDeque<Content>,
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
        session: &Session,
        channel: &'c Channel,
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
            consumer: Some(channel.basic_consume(queue.as_str(), options)?),
            inbox: session.inbox.clone(),
            came: VecDeque::new(),
            ended: None,
        })
    }

    /// A message that is here already.
    pub fn next(&mut self) -> Option<Content> {
        self.came.pop_front()
    }

    /// Whether no message is here, and nothing waits where it is looked for next.
    pub fn is_empty(&self) -> bool {
        self.came.is_empty() && self.inbox.is_empty()
    }

    /// Why there will be no more than what is here.
    pub fn ended(&mut self) -> Option<Ended> {
        self.ended.take()
    }

    /// For `select!`: what comes. It belongs into [`Subscription::add`].
    pub fn inbox(&self) -> Receiver<Vec<Arrival>> {
        self.inbox.clone()
    }

    /// For `select!`: the consumer's end. It belongs into [`Subscription::end_with`].
    pub fn end(&self) -> Receiver<ConsumerMessage> {
        self.consumer
            .as_ref()
            .map_or_else(crossbeam_channel::never, |consumer| {
                consumer.receiver().clone()
            })
    }

    pub fn add(&mut self, arrivals: Result<Vec<Arrival>, RecvError>) {
        let Ok(arrivals) = arrivals else {
            self.ended = Some(Ended::Failed(amiquip::Error::EventLoopDropped));
            return;
        };
        let channel = self.channel.channel_id();
        let mine = arrivals
            .into_iter()
            .filter(|arrival| arrival.channel == channel);
        self.came
            .extend(mine.filter_map(|arrival| match arrival.what {
                What::Delivered(content) => Some(content),
                _ => None,
            }));
    }

    pub fn end_with(&mut self, end: Result<ConsumerMessage, RecvError>) {
        // What came before that counts.
        self.collect();
        self.ended = Some(match end {
            Ok(ConsumerMessage::ServerCancelled) => Ended::Cancelled,
            Ok(
                ConsumerMessage::ServerClosedChannel(error)
                | ConsumerMessage::ServerClosedConnection(error),
            ) => Ended::Failed(error),
            Ok(_) | Err(_) => Ended::Failed(amiquip::Error::EventLoopDropped),
        });
    }

    fn collect(&mut self) {
        while let Ok(arrivals) = self.inbox.try_recv() {
            self.add(Ok(arrivals));
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
            let _ = consumer.cancel();
            for _ in consumer.receiver() {}
        }
    }

    /// Cancels the consumer without waiting for the broker. What it may still send belongs to the
    /// queue again when the channel is closed, which has to be soon.
    ///
    /// # Errors
    /// The library's, if the connection is gone.
    pub fn leave(mut self, session: &Session) -> Result<(), amiquip::Error> {
        let Some(consumer) = self.consumer.take() else {
            return Ok(());
        };
        let cancel = frames::cancel(self.channel.channel_id(), consumer.consumer_tag());
        // The library, which knows nothing of it, still needs somebody who listens.
        std::mem::forget(consumer);
        session.post(self.channel, cancel)
    }
}

impl Drop for Subscription<'_> {
    fn drop(&mut self) {
        self.cancel_and_wait();
    }
}
