//! Publishing with confirms: a bounded window of messages on their way, and what became of each.

use std::sync::atomic::Ordering;
use std::time::Instant;

use amiquip::{AmqpProperties, Channel, Confirm, Publish, Return};
use crossbeam_channel::{Receiver, at, never, select};

use super::Session;
use super::guard::GRACE;
pub use super::window::Fate;
use super::window::Window;
use crate::error::Error;
use crate::message::Outgoing;
use crate::text;
use crate::values::{QueueName, Span};

/// The most messages that are on their way at a time. Throughput is flat from 100 up.
const WINDOW_MESSAGES: usize = 1000;

/// The most bytes that are on their way at a time, if it is more than one message: below the
/// 16 MiB at which the client library stops taking messages, and all that a big `send` holds in
/// memory.
const WINDOW_BYTES: usize = 4 << 20;

/// How to publish.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The broker keeps the messages on disk (delivery mode 2).
    pub persistent: bool,
    /// How long the broker may confirm nothing while messages are on their way.
    pub confirm_timeout: Span,
}

/// AMQP's `delivery-mode` of a message that survives the broker's restart.
const PERSISTENT: u8 = 2;

/// Publishes messages to one queue through the default exchange, mandatory and with confirms.
pub struct Publisher<'s> {
    session: &'s mut Session,
    channel: Channel,
    confirms: Receiver<Confirm>,
    returns: Receiver<Return>,
    window: Window<Outgoing>,
    queue: String,
    options: Options,
    /// When the broker last had nothing to confirm, confirmed something or was sent something.
    heard: Instant,
    /// How many bytes had been sent then.
    written: u64,
}

impl<'s> Publisher<'s> {
    /// Opens a channel in confirm mode.
    ///
    /// # Errors
    /// [`Error::Lost`] if the connection is.
    pub fn open(
        session: &'s mut Session,
        queue: &QueueName,
        options: Options,
    ) -> Result<Self, Error> {
        let channel = session.channel()?;
        // The listeners first: the library drops what comes before there is one.
        let listen = || {
            let confirms = channel.listen_for_publisher_confirms()?;
            let returns = channel.listen_for_returns()?;
            channel.enable_publisher_confirms()?;
            Ok((confirms, returns))
        };
        let (confirms, returns) =
            listen().map_err(|error| session.error("turn publisher confirms on", error))?;
        Ok(Self {
            session,
            channel,
            confirms,
            returns,
            window: Window::default(),
            queue: queue.as_str().to_owned(),
            options,
            heard: Instant::now(),
            written: 0,
        })
    }

    /// Whether one more message may be on its way. If not, [`Publisher::settled`] makes room.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.window.len() < WINDOW_MESSAGES && self.window.bytes() < WINDOW_BYTES
    }

    /// Puts a message on its way.
    ///
    /// # Errors
    /// [`Error::Lost`] or [`Error::Refused`].
    pub fn publish(&mut self, message: Outgoing) -> Result<(), Error> {
        if self.window.waiting() == 0 {
            self.heard = Instant::now();
        }
        let mut properties = AmqpProperties::default().with_message_id(message.message_id.clone());
        if self.options.persistent {
            properties = properties.with_delivery_mode(PERSISTENT);
        }
        let publish = Publish {
            body: &message.body,
            routing_key: self.queue.clone(),
            mandatory: true,
            immediate: false,
            properties,
        };
        let published = self.channel.basic_publish("", publish);
        let bytes = message.body.len();
        self.window.push(message, bytes);
        published.map_err(|error| self.error(error))
    }

    /// The oldest message that is on its way, once its fate is known; `None` when none is.
    ///
    /// # Errors
    /// [`Error::Lost`], [`Error::Refused`], [`Error::NoConfirm`], or [`Error::Interrupted`] when
    /// the broker did not answer within the grace time after the user's interrupt.
    pub fn settled(&mut self) -> Result<Option<(Outgoing, Fate)>, Error> {
        loop {
            if let Some(settled) = self.window.pop() {
                return Ok(Some(settled));
            }
            if self.window.waiting() == 0 {
                return Ok(None);
            }
            let late = self
                .options
                .confirm_timeout
                .if_any()
                .and_then(|timeout| self.heard.checked_add(timeout))
                .map_or_else(never, at);
            select! {
                recv(self.confirms) -> confirm => match confirm {
                    Ok(confirm) => self.note(confirm),
                    // The channel is gone; any operation on it says why.
                    Err(_) => {
                        let why = self.channel.qos(0, 0, false).err();
                        return Err(self.error(why.unwrap_or(amiquip::Error::EventLoopDropped)));
                    }
                },
                recv(late) -> _ => {
                    // A big message takes its time on a slow network.
                    let written = self.session.written.load(Ordering::Relaxed);
                    if written != self.written {
                        self.written = written;
                        self.heard = Instant::now();
                        continue;
                    }
                    let broker = self.session.name.clone();
                    // Who does not confirm may not answer a farewell either.
                    self.session.abandon();
                    return Err(Error::NoConfirm { broker, patience: self.options.confirm_timeout.to_string() });
                }
            }
        }
    }

    fn note(&mut self, confirm: Confirm) {
        self.heard = Instant::now();
        // A message's return was there before its acknowledgement.
        for returned in self.returns.try_iter() {
            let said = format!(
                "{} {}",
                returned.reply_code,
                text::one_line(&returned.reply_text)
            );
            let id = returned.properties.message_id();
            self.window
                .give_back(&said, |message| id.as_ref() == Some(&message.message_id));
        }
        match confirm {
            Confirm::Ack(ack) => self.window.acknowledge(ack.delivery_tag, ack.multiple),
            Confirm::Nack(nack) => self.window.refuse(nack.delivery_tag, nack.multiple),
        }
    }

    /// Ends the publishing, and returns the messages whose fate is known and those of which the
    /// broker has said nothing, both in order.
    #[must_use]
    pub fn end(mut self) -> (Vec<(Outgoing, Fate)>, Vec<Outgoing>) {
        // Whatever else the broker has to say adds nothing to what is known, and an alarm can keep it
        // from saying anything.
        self.session.start_closing(GRACE);
        // What came while something else failed.
        while let Ok(confirm) = self.confirms.try_recv() {
            self.note(confirm);
        }
        self.window.take_apart()
    }

    fn error(&mut self, error: amiquip::Error) -> Error {
        self.session.error("publish", error)
    }
}
