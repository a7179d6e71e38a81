//! Publishing with confirms: a bounded window of messages on their way, and what became of each.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use amiquip::{Channel, ConsumerOptions};
use crossbeam_channel::TryRecvError;

use super::Session;
use super::arrivals::{Arrival, Confirm};
use super::content::ContentChannel;
use super::frames;
use super::guard::GRACE;
pub use super::window::Fate;
use super::window::Window;
use crate::bell::Receiver;
use crate::error::Error;
use crate::message::Message;
use crate::values::Span;

/// The most messages that are on their way at a time. Throughput is flat from 100 up.
const WINDOW_MESSAGES: usize = 1000;

/// The most bytes that are on their way at a time, if it is more than one message: all that a big
/// `send` holds in memory.
const WINDOW_BYTES: usize = 4 << 20;

/// Frames are handed to the connection when there are so many bytes of them, or nothing else to do.
const BATCH_BYTES: usize = 1 << 15;

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
    channel: ContentChannel,
    /// Frames that are still to be handed to the connection.
    batch: Vec<u8>,
    /// What came and is not yet dealt with.
    came: VecDeque<Arrival>,
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
        let channel = session.content_channel()?;
        if options.replies {
            let operation = "receive replies";
            let _wait = session.wait(operation);
            let listening = channel.library().and_then(listen_for_replies);
            listening.map_err(|error| session.error(operation, error))?;
        }
        let mut batch = Vec::new();
        if !options.no_confirm {
            // It can't be refused, so it goes with the first message.
            frames::put_confirm_select(&mut batch, channel.number());
        }
        Ok(Self {
            session,
            channel,
            batch,
            came: VecDeque::new(),
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
        self.window.is_empty()
    }

    /// What keeps a message from being sent at all, if something does.
    #[must_use]
    pub fn obstacle(&self, message: &Message) -> Option<String> {
        // What is not in the headers is bounded by itself, to much less than any frame.
        message.properties.headers.as_ref()?;
        let mut encoded = Vec::new();
        message.properties.encode(&mut encoded);
        let (length, most) = (
            encoded.len(),
            frames::most_properties(self.session.frame_max),
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
        let bytes = message.body.len();
        let published = self.put(message);
        self.window.push(item, bytes);
        published
    }

    fn put(&mut self, message: &Message) -> Result<(), Error> {
        let mandatory = !self.options.allow_unroutable && !is_reply(message);
        let channel = self.channel.number();
        frames::put_publish(&mut self.batch, channel, message, mandatory);
        for part in frames::parts(&message.body, self.session.frame_max) {
            frames::put_body(&mut self.batch, channel, part);
            if self.batch.len() >= BATCH_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let posted = self.channel.post(&self.batch);
        self.batch.clear();
        posted.map_err(|error| self.error(error))
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
        input: Option<&Receiver<I>>,
        at_most: Option<Instant>,
    ) -> Result<Event<I>, Error> {
        self.flush()?;
        let wire = Arc::clone(&self.session.wire);
        if let Some(input) = input {
            input.rings(wire.bell());
        }
        let listening = wire.bell().listen();
        loop {
            // What came before that counts.
            let is_gone = self.channel.is_gone();
            self.channel.take(&mut self.came);
            if let Some(event) = self.next_event() {
                return Ok(event);
            }
            if is_gone {
                return Err(self.error(self.channel.why()));
            }
            match input.map(Receiver::try_recv) {
                Some(Ok(input)) => return Ok(Event::Input(Some(input))),
                Some(Err(TryRecvError::Disconnected)) => return Ok(Event::Input(None)),
                Some(Err(TryRecvError::Empty)) | None => {}
            }
            if !self.stopped && self.session.connector.interrupt.happened() {
                return Ok(Event::Interrupted);
            }
            if self.options.no_confirm && self.window.waiting() > 0 {
                self.settle_what_is_read()?;
                return Ok(Event::Settled);
            }
            let now = Instant::now();
            if at_most.is_some_and(|moment| moment <= now) {
                return Ok(Event::Late);
            }
            let overdue = self.overdue();
            if overdue.is_some_and(|moment| moment <= now) {
                self.look_at_progress()?;
                continue;
            }
            let until = [at_most, overdue].into_iter().flatten().min();
            self.session.pause(&listening, true, until);
        }
    }

    /// The broker has confirmed nothing for too long. But a big message takes its time on a slow
    /// network.
    fn look_at_progress(&mut self) -> Result<(), Error> {
        let written = self.session.wire.written();
        if written != self.written {
            self.written = written;
            self.heard = Instant::now();
            return Ok(());
        }
        // Who does not confirm may not answer a farewell either.
        self.session.abandon();
        Err(Error::NoConfirm {
            broker: self.session.name.clone(),
            patience: self.options.confirm_timeout.to_string(),
        })
    }

    /// Deals with what came, up to the first reply.
    fn next_event<I>(&mut self) -> Option<Event<I>> {
        let mut settled = false;
        while let Some(arrival) = self.came.pop_front() {
            match arrival {
                Arrival::Confirmed(confirm) => {
                    self.note(confirm);
                    settled = true;
                }
                Arrival::Returned(said, content) => self.note_return(&said, &content.message),
                // What is settled shows when the rest is dealt with.
                Arrival::Delivered(content) => {
                    let message = self.session.received(content);
                    return Some(Event::Reply(Box::new(message)));
                }
                Arrival::Got(_) => {}
            }
        }
        settled.then_some(Event::Settled)
    }

    /// Waits until the broker has read everything that was published. A channel's methods are handled
    /// in order, so it is so when a later one is answered, and what no queue took has come back by
    /// then.
    fn settle_what_is_read(&mut self) -> Result<(), Error> {
        let wait = self.session.wait("read what was published");
        let answer = self.channel.library().and_then(|it| it.qos(0, 0, false));
        drop(wait);
        answer.map_err(|error| self.error(error))?;
        self.channel.take(&mut self.came);
        for arrival in std::mem::take(&mut self.came) {
            match arrival {
                Arrival::Returned(said, content) => self.note_return(&said, &content.message),
                _ => self.came.push_back(arrival),
            }
        }
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
        if confirm.is_ack {
            self.window.acknowledge(confirm.tag, confirm.multiple);
        } else {
            self.window.refuse(confirm.tag, confirm.multiple);
        }
    }

    /// Notes that a message came back. Its acknowledgement is still to come.
    fn note_return(&mut self, said: &str, returned: &Message) {
        self.window.give_back(said, |item| {
            let message = item.as_ref();
            message.properties.message_id == returned.properties.message_id
                && message.exchange == returned.exchange
                && message.routing_key == returned.routing_key
                && message.body == returned.body
        });
    }

    /// Ends the publishing, with which the connection is to end, and returns the messages whose fate
    /// is known and those of which the broker has said nothing, both in order.
    #[must_use]
    pub fn end(mut self) -> (Vec<(T, Fate)>, Vec<T>) {
        // Whatever else the broker has to say adds nothing to what is known, and an alarm can keep it
        // from saying anything.
        self.session.start_closing(GRACE);
        // What came while something else failed.
        self.channel.take(&mut self.came);
        while self.next_event::<()>().is_some() {}
        self.session.last = self.channel.into_library();
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

fn listen_for_replies(channel: &Channel) -> Result<(), amiquip::Error> {
    let options = ConsumerOptions {
        // There is no queue that could keep them.
        no_ack: true,
        ..ConsumerOptions::default()
    };
    let consumer = channel.basic_consume(REPLY_TO, options)?;
    // It lives as long as the channel, so it must not be cancelled when it is dropped.
    std::mem::forget(consumer);
    Ok(())
}
