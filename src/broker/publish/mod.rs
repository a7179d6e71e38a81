//! Publishing with confirms: a bounded window of messages on their way, and what became of each.

pub mod window;

use std::time::Instant;

use super::connection::{ChannelEvent, Confirm, Socket, WaitOutcome};
use super::frames::{self, MESSAGES};
use super::session::Session;
use super::wait::{GRACE, OnInterrupt, SilenceTimer};
use crate::error::Error;
use crate::message::{FieldTable, Message};
use crate::values::Span;
use crate::waker::Receiver;
pub use window::PublishOutcome;
use window::{ReturnMatch, Window};

/// The most messages that are on their way at a time. Throughput is flat from 100 up.
const WINDOW_MESSAGES: usize = 1000;

/// The most bytes that are on their way at a time, if it is more than one message: all that a big
/// `send` holds in memory.
const WINDOW_BYTES: usize = 4 << 20;

/// Frames are handed to the connection when there are so many bytes of them, or nothing else to do.
const PUBLISH_BATCH_BYTES: usize = 1 << 15;

/// How many bytes may wait for the socket before more of a body is made into frames: of a big message
/// there is no second copy.
const MAX_BUFFERED_BYTES: usize = 1 << 20;

/// How to publish.
#[derive(Clone, Copy, Debug)]
pub struct PublishOptions {
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
pub enum PublishEvent<I> {
    /// The fate of messages became known.
    Settled,
    /// All of a big message has been posted.
    Posted,
    /// A reply came.
    Reply(Box<Message>),
    /// There is input, or (`None`) there will be no more.
    Input(Option<I>),
    /// The user wants to stop.
    Interrupted,
    /// The moment that was waited for at most has come.
    Late,
}

/// What the broker knows the consumer of replies by.
const REPLIES_TAG: &str = "hello-mq-replies";

/// Publishes messages with confirms, each of them part of a `T`.
pub struct Publisher<'s, T> {
    session: &'s mut Session,
    /// Frames that are still to be posted.
    batch: Vec<u8>,
    /// How much of the newest message's body is made into frames, if not all is.
    posted: Option<usize>,
    window: Window<T>,
    options: PublishOptions,
    /// When the broker last had nothing to confirm, or confirmed something.
    confirmed: Instant,
    patience: SilenceTimer,
    /// What the user's interrupt does: it is to be known, or it is.
    on_interrupt: OnInterrupt,
}

impl<'s, T: AsRef<Message>> Publisher<'s, T> {
    /// Opens the channel for messages, in confirm mode unless the options say otherwise.
    ///
    /// # Errors
    /// [`Error::Lost`] if the connection is.
    pub fn open(session: &'s mut Session, options: PublishOptions) -> Result<Self, Error> {
        session.connection.socket().open_channel();
        if options.replies {
            listen_for_replies(session)?;
        }
        let mut batch = Vec::new();
        if !options.no_confirm {
            // It can't be refused, so it goes with the first message.
            frames::put_confirm_select(&mut batch, MESSAGES);
        }
        Ok(Self {
            session,
            batch,
            posted: None,
            window: Window::default(),
            options,
            confirmed: Instant::now(),
            patience: SilenceTimer::default(),
            on_interrupt: OnInterrupt::Return,
        })
    }

    /// Whether one more message may be on its way. If not, [`Publisher::wait`] makes room.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.posted.is_none()
            && self.window.len() < WINDOW_MESSAGES
            && self.window.bytes() < WINDOW_BYTES
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
            frames::most_properties(self.session.connection.frame_max()),
        );
        (length > most).then(|| {
            format!("its properties and headers have {length} bytes, and the broker accepts {most}")
        })
    }

    /// Puts a message on its way. If the connection is lost, that shows at the next wait.
    pub fn publish(&mut self, item: T) {
        if self.window.waiting() == 0 {
            self.confirmed = Instant::now();
            self.patience.renew();
        }
        let message = item.as_ref();
        let mandatory = !self.options.allow_unroutable && !is_reply(message);
        let before = self.batch.len();
        frames::put_publish(&mut self.batch, MESSAGES, message, mandatory);
        // Many headers are in memory, too.
        let bytes = self.batch.len() - before + message.body.len();
        self.window.push(item, bytes);
        self.posted = Some(0);
        self.post_body();
    }

    /// Posts of the newest message's body what the socket takes, and a little more.
    fn post_body(&mut self) {
        let Some(mut posted) = self.posted.take() else {
            return;
        };
        let Some(message) = self.window.newest() else {
            return;
        };
        let frame_max = self.session.connection.frame_max();
        let socket = self.session.connection.socket();
        let body = &message.as_ref().body;
        for part in frames::parts(&body[posted..], frame_max) {
            if socket.waiting() >= MAX_BUFFERED_BYTES {
                self.posted = Some(posted);
                return;
            }
            frames::put_body(&mut self.batch, MESSAGES, part);
            posted += part.len();
            if self.batch.len() >= PUBLISH_BATCH_BYTES {
                socket.post(&self.batch);
                self.batch.clear();
            }
        }
    }

    fn flush(&mut self) {
        if !self.batch.is_empty() {
            self.session.connection.socket().post(&self.batch);
            self.batch.clear();
        }
    }

    /// Takes the oldest message out if its fate is known.
    pub fn settled(&mut self) -> Option<(T, PublishOutcome)> {
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
    ) -> Result<PublishEvent<I>, Error> {
        self.flush();
        if let Some(input) = input {
            input.wakes(self.session.connection.waiter().waker());
        }
        if self.options.no_confirm && self.posted.is_none() && self.window.waiting() > 0 {
            return self.settle_what_is_read(input);
        }
        loop {
            if let Some(event) = self.next_event() {
                return Ok(event);
            }
            if self.posted.is_some() {
                self.post_body();
                if self.posted.is_none() {
                    return Ok(PublishEvent::Posted);
                }
            }
            let is_posting = self.posted.is_some();
            let overdue = self.overdue();
            let until = [at_most, overdue].into_iter().flatten().min();
            let waiting = self.window.waiting();
            let what = || match waiting {
                1 => "confirm 1 message".to_owned(),
                _ => format!("confirm {waiting} messages"),
            };
            let what: &dyn Fn() -> String = &what;
            let operation = match waiting {
                0 if self.options.replies => "wait for replies",
                0 => "wait for input",
                _ => "publish",
            };
            let announcement = (waiting > 0).then_some((&mut self.patience, what));
            let waited = self.session.connection.wait(
                &|| operation.to_owned(),
                announcement,
                until,
                self.on_interrupt,
                |socket| {
                    if socket.has_arrival() || is_posting && socket.waiting() < MAX_BUFFERED_BYTES {
                        return Some(None);
                    }
                    input.and_then(Receiver::next).map(Some)
                },
            )?;
            match waited {
                WaitOutcome::Came(None) => {}
                WaitOutcome::Came(Some(input)) => return Ok(PublishEvent::Input(input.ok())),
                WaitOutcome::Interrupted => return Ok(PublishEvent::Interrupted),
                WaitOutcome::Late if at_most.is_some_and(|moment| moment <= Instant::now()) => {
                    return Ok(PublishEvent::Late);
                }
                // It may be later by now.
                WaitOutcome::Late if self.overdue() > overdue => {}
                WaitOutcome::Late => return Err(self.no_confirm()),
            }
        }
    }

    /// The broker has confirmed nothing for too long.
    fn no_confirm(&mut self) -> Error {
        // Who does not confirm may not answer a farewell either.
        self.session.connection.give_up();
        Error::NoConfirm {
            broker: self.session.name().to_owned(),
            patience: self.options.confirm_timeout.to_string(),
        }
    }

    /// Deals with what came, up to the first reply.
    fn next_event<I>(&mut self) -> Option<PublishEvent<I>> {
        let mut settled = false;
        while let Some(arrival) = self.session.connection.socket().arrival() {
            match arrival {
                ChannelEvent::Confirmed(confirm) => {
                    self.note(confirm);
                    settled = true;
                }
                ChannelEvent::Returned(said, content) => self.note_return(&said, &content.message),
                // What is settled shows when the rest is dealt with.
                ChannelEvent::Delivered(content) => {
                    let content = self.session.inspect(content);
                    return Some(PublishEvent::Reply(content.message));
                }
                _ => {}
            }
        }
        settled.then_some(PublishEvent::Settled)
    }

    /// Waits until the broker has read everything that was published. A channel's methods are handled
    /// in order, so it is so when a later one is answered, and what no queue took has come back by
    /// then. Input and replies are for later.
    fn settle_what_is_read<I>(
        &mut self,
        input: Option<&Receiver<I>>,
    ) -> Result<PublishEvent<I>, Error> {
        if let Some(input) = input.and_then(Receiver::next) {
            return Ok(PublishEvent::Input(input.ok()));
        }
        if self.on_interrupt == OnInterrupt::Return
            && self.session.connection.waiter().is_interrupted()
        {
            return Ok(PublishEvent::Interrupted);
        }
        let connection = &mut self.session.connection;
        connection.socket().post(&frames::limit(MESSAGES, 0));
        let mut arrivals = Vec::new();
        connection.answer("read the published messages", |socket| {
            loop {
                match socket.arrival()? {
                    ChannelEvent::Answered(frames::BASIC_QOS_OK) => return Some(()),
                    arrival => arrivals.push(arrival),
                }
            }
        })?;
        let mut reply = None;
        for arrival in arrivals {
            match arrival {
                ChannelEvent::Returned(said, content) => self.note_return(&said, &content.message),
                ChannelEvent::Delivered(content) => reply = Some(self.session.inspect(content)),
                _ => {}
            }
        }
        self.window.acknowledge(u64::MAX, true);
        Ok(match reply {
            Some(reply) => PublishEvent::Reply(reply.message),
            None => PublishEvent::Settled,
        })
    }

    /// Ends no wait any more for the user's interrupt, which is known now.
    pub fn stop(&mut self) {
        self.on_interrupt = OnInterrupt::Ignore;
        self.session.connection.waiter().leave_within(GRACE);
    }

    /// When the broker should have confirmed something.
    fn overdue(&self) -> Option<Instant> {
        let timeout = self.options.confirm_timeout.if_any()?;
        if self.window.waiting() == 0 {
            return None;
        }
        // A big message takes its time on a slow network.
        let progress = self.session.connection.progress();
        self.confirmed.max(progress).checked_add(timeout)
    }

    fn note(&mut self, confirm: Confirm) {
        self.confirmed = Instant::now();
        self.patience.renew();
        if confirm.is_ack {
            self.window.acknowledge(confirm.tag, confirm.multiple);
        } else {
            self.window.refuse(confirm.tag, confirm.multiple);
        }
    }

    /// Notes that a message came back. Its acknowledgement is still to come.
    ///
    /// The broker gives back what it was sent, but for properties that it writes anew: a reply-to of
    /// replies, a header of its own, none that is BCC.
    fn note_return(&mut self, said: &str, returned: &Message) {
        let theirs = returned.properties.normalized();
        self.window.give_back(said, |item| {
            let message = item.as_ref();
            let may_be = message.exchange == returned.exchange
                && message.routing_key == returned.routing_key
                && message.body == returned.body;
            let properties = &message.properties;
            let has_its_ids = properties.message_id == theirs.message_id
                && properties.correlation_id == theirs.correlation_id;
            may_be.then(|| match has_its_ids {
                false => ReturnMatch::Possible,
                true if properties.normalized() == theirs => ReturnMatch::Same,
                true => ReturnMatch::Probable,
            })
        });
    }

    /// Ends the publishing, with which the connection is to end, and returns the messages whose fate
    /// is known and those of which the broker has said nothing, both in order.
    #[must_use]
    pub fn end(mut self) -> (Vec<(T, PublishOutcome)>, Vec<T>) {
        // Whatever else the broker has to say adds nothing to what is known, and an alarm can keep it
        // from saying anything.
        self.session.connection.waiter().leave_within(GRACE);
        // What came while something else failed.
        while self.next_event::<()>().is_some() {}
        self.window.take_apart()
    }

    /// Ends the publishing with every fate known, so that it can begin again on another channel.
    ///
    /// # Errors
    /// [`Error::Lost`] if the connection is.
    pub fn close(self) -> Result<(), Error> {
        self.session.connection.close_channel()
    }
}

/// Whether a message goes straight to a channel. RabbitMQ returns every such message that is mandatory,
/// although it delivers it.
#[must_use]
pub fn is_reply(message: &Message) -> bool {
    let rest = message.routing_key.strip_prefix(REPLY_TO);
    message.exchange.is_empty() && rest.is_some_and(|rest| rest.starts_with('.'))
}

/// Starts the consumer of replies. There is no queue that could keep them, so they are not acknowledged.
fn listen_for_replies(session: &mut Session) -> Result<(), Error> {
    let consume = frames::consume(
        MESSAGES,
        REPLY_TO,
        REPLIES_TAG,
        true,
        false,
        &FieldTable::default(),
    );
    let connection = &mut session.connection;
    connection.socket().post(&consume);
    connection.answer("receive replies", |socket: &mut Socket| {
        socket.take_answer(frames::BASIC_CONSUME_OK).then_some(())
    })
}
