//! Publishing with confirms: a bounded window of messages on their way, and what became of each.

use std::sync::atomic::Ordering;
use std::time::Instant;

use amiquip::{Channel, Confirm, ConsumerMessage, ConsumerOptions, Publish, Return};
use crossbeam_channel::{Receiver, TryRecvError, at, never, select};

use super::Session;
use super::content;
use super::guard::GRACE;
pub use super::window::Fate;
use super::window::Window;
use crate::error::Error;
use crate::message::Message;
use crate::text;
use crate::values::Span;

/// The most messages that are on their way at a time. Throughput is flat from 100 up.
const WINDOW_MESSAGES: usize = 1000;

/// The most bytes that are on their way at a time, if it is more than one message: below the
/// 16 MiB at which the client library stops taking messages, and all that a big `send` holds in
/// memory.
const WINDOW_BYTES: usize = 4 << 20;

/// How to publish.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A message that no queue takes is dropped, and not returned.
    pub allow_unroutable: bool,
    /// Replies come back on the same channel, to messages whose `reply-to` is [`REPLY_TO`].
    pub replies: bool,
    /// How long the broker may confirm nothing while messages are on their way.
    pub confirm_timeout: Span,
    /// The broker is not asked to confirm anything: a message is done when the broker has read it.
    pub no_confirm: bool,
}

/// The name of the queue that is no queue: what is sent to it goes straight to the channel that asked
/// (<https://www.rabbitmq.com/docs/direct-reply-to>).
pub const REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// What a [`Publisher`] was waiting for.
#[derive(Debug)]
pub enum Event<I> {
    /// The fate of messages became known.
    Settled,
    /// A reply came.
    Reply(Box<Message>),
    /// There is input, or (`None`) there will be no more.
    Input(Option<I>),
    /// The user wants to stop.
    Interrupted,
    /// The moment that was waited for at most has come.
    Late,
}

/// Publishes messages with confirms, each of them part of a `T`.
pub struct Publisher<'s, T> {
    session: &'s mut Session,
    channel: Channel,
    confirms: Receiver<Confirm>,
    returns: Receiver<Return>,
    replies: Receiver<ConsumerMessage>,
    window: Window<T>,
    options: Options,
    /// When the broker last had nothing to confirm, confirmed something or was sent something.
    heard: Instant,
    /// How many bytes had been sent then.
    written: u64,
    stopped: bool,
}

impl<'s, T: AsRef<Message>> Publisher<'s, T> {
    /// Opens a channel, in confirm mode unless the options say otherwise.
    ///
    /// # Errors
    /// [`Error::Lost`] if the connection is.
    pub fn open(session: &'s mut Session, options: Options) -> Result<Self, Error> {
        let channel = session.channel()?;
        let operation = "turn publisher confirms on";
        let wait = session.wait(operation);
        // The listeners first: the library drops what comes before there is one.
        let listen = || {
            let confirms = channel.listen_for_publisher_confirms()?;
            let returns = channel.listen_for_returns()?;
            if !options.no_confirm {
                channel.enable_publisher_confirms()?;
            }
            let replies = if options.replies {
                listen_for_replies(&channel)?
            } else {
                never()
            };
            Ok((confirms, returns, replies))
        };
        let (confirms, returns, replies) =
            listen().map_err(|error| session.error(operation, error))?;
        drop(wait);
        Ok(Self {
            session,
            channel,
            confirms,
            returns,
            replies,
            window: Window::default(),
            options,
            heard: Instant::now(),
            written: 0,
            stopped: false,
        })
    }

    /// Whether one more message may be on its way. If not, [`Publisher::wait`] makes room.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.window.len() < WINDOW_MESSAGES && self.window.bytes() < WINDOW_BYTES
    }

    /// Whether no message is on its way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.window.len() == 0
    }

    /// What keeps a message from being sent at all, if something does.
    #[must_use]
    pub fn obstacle(&self, message: &Message) -> Option<String> {
        // What is not in the headers is bounded by itself, to much less than any frame.
        message.properties.headers.as_ref()?;
        let (length, most) = (
            message.properties.encode().len(),
            content::most(self.session),
        );
        (length > most).then(|| {
            format!("its properties and headers have {length} bytes, and the broker takes {most}")
        })
    }

    /// Puts a message on its way.
    ///
    /// # Errors
    /// [`Error::Lost`] or [`Error::Refused`]; the message is then among those of
    /// [`Publisher::end`].
    pub fn publish(&mut self, item: T) -> Result<(), Error> {
        if self.window.waiting() == 0 {
            self.heard = Instant::now();
        }
        let message = item.as_ref();
        let publish = Publish {
            body: &message.body,
            routing_key: message.routing_key.clone(),
            mandatory: !self.options.allow_unroutable && !is_reply(message),
            immediate: false,
            properties: content::wrapped(&message.properties),
        };
        let published = self.channel.basic_publish(&message.exchange, publish);
        let bytes = message.body.len();
        self.window.push(item, bytes);
        published.map_err(|error| self.error(error))
    }

    /// Takes the oldest message out if its fate is known.
    pub fn settled(&mut self) -> Option<(T, Fate)> {
        self.window.pop()
    }

    /// Waits for whatever comes first: word of messages that are on their way, something in
    /// `input`, the user's interrupt (until [`Publisher::stop`]), or the moment `at_most`.
    ///
    /// # Errors
    /// [`Error::Lost`], [`Error::Refused`], [`Error::NoConfirm`], or [`Error::Interrupted`] when
    /// the broker did not answer within the grace time after the user's interrupt.
    pub fn wait<I>(
        &mut self,
        input: &Receiver<I>,
        at_most: Option<Instant>,
    ) -> Result<Event<I>, Error> {
        let interrupt = if self.stopped {
            never()
        } else {
            self.session.connector.interrupt.receiver().clone()
        };
        if self.options.no_confirm && self.window.waiting() > 0 {
            if interrupt.try_recv() != Err(TryRecvError::Empty) {
                return Ok(Event::Interrupted);
            }
            self.settle_what_is_read()?;
            return Ok(Event::Settled);
        }
        let at_most = at_most.map_or_else(never, at);
        loop {
            let late = self.overdue().map_or_else(never, at);
            select! {
                recv(self.confirms) -> confirm => match confirm {
                    Ok(confirm) => {
                        self.note(confirm);
                        while let Ok(confirm) = self.confirms.try_recv() {
                            self.note(confirm);
                        }
                        return Ok(Event::Settled);
                    }
                    // The channel is gone; any operation on it says why.
                    Err(_) => {
                        let why = self.channel.qos(0, 0, false).err();
                        return Err(self.error(why.unwrap_or(amiquip::Error::EventLoopDropped)));
                    }
                },
                recv(self.replies) -> reply => match reply {
                    Ok(ConsumerMessage::Delivery(mut delivery)) => {
                        let message = content::received(&mut delivery, self.session);
                        return Ok(Event::Reply(Box::new(message)));
                    }
                    // The channel is gone; the confirms say why.
                    _ => self.replies = never(),
                },
                recv(input) -> input => return Ok(Event::Input(input.ok())),
                recv(interrupt) -> _ => return Ok(Event::Interrupted),
                recv(at_most) -> _ => return Ok(Event::Late),
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

    /// Waits until the broker has read everything that was published. A channel's methods are handled
    /// in order, so it is so when a later one is answered, and what no queue took has come back by
    /// then.
    fn settle_what_is_read(&mut self) -> Result<(), Error> {
        let wait = self.session.wait("read what was published");
        let answer = self.channel.qos(0, 0, false);
        drop(wait);
        answer.map_err(|error| self.error(error))?;
        self.note_returns();
        self.window.acknowledge(u64::MAX, true);
        Ok(())
    }

    /// From here on the user's interrupt is known.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// When the broker should have confirmed something.
    fn overdue(&self) -> Option<Instant> {
        let timeout = self.options.confirm_timeout.if_any()?;
        if self.window.waiting() == 0 {
            return None;
        }
        self.heard.checked_add(timeout)
    }

    fn note(&mut self, confirm: Confirm) {
        self.heard = Instant::now();
        // A message's return was there before its acknowledgement.
        self.note_returns();
        match confirm {
            Confirm::Ack(ack) => self.window.acknowledge(ack.delivery_tag, ack.multiple),
            Confirm::Nack(nack) => self.window.refuse(nack.delivery_tag, nack.multiple),
        }
    }

    fn note_returns(&mut self) {
        for returned in self.returns.try_iter() {
            let said = format!(
                "{} {}",
                returned.reply_code,
                text::one_line(&returned.reply_text)
            );
            let id = content::unwrapped(&returned.properties)
                .ok()
                .and_then(|properties| properties.message_id);
            self.window.give_back(&said, |item| {
                let message = item.as_ref();
                message.properties.message_id == id
                    && message.exchange == returned.exchange
                    && message.routing_key == returned.routing_key
                    && message.body == returned.content
            });
        }
    }

    /// Ends the publishing, and returns the messages whose fate is known and those of which the
    /// broker has said nothing, both in order.
    #[must_use]
    pub fn end(mut self) -> (Vec<(T, Fate)>, Vec<T>) {
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

/// Whether a message goes straight to a channel. RabbitMQ returns every such message that is mandatory,
/// although it delivers it.
fn is_reply(message: &Message) -> bool {
    let rest = message.routing_key.strip_prefix(REPLY_TO);
    message.exchange.is_empty() && rest.is_some_and(|rest| rest.starts_with('.'))
}

fn listen_for_replies(channel: &Channel) -> Result<Receiver<ConsumerMessage>, amiquip::Error> {
    let options = ConsumerOptions {
        // There is no queue that could keep them.
        no_ack: true,
        ..ConsumerOptions::default()
    };
    let consumer = channel.basic_consume(REPLY_TO, options)?;
    let replies = consumer.receiver().clone();
    // It lives as long as the channel, so it must not be cancelled when it is dropped.
    std::mem::forget(consumer);
    Ok(replies)
}
