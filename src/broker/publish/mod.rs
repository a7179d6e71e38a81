//! Publishing with confirms: a bounded window of messages in flight, and the outcome of each.

pub(crate) mod window;

use std::time::Instant;

use super::connection::{ChannelEvent, Confirm, WaitOutcome};
use super::frames::{self, MESSAGES};
use super::session::Session;
use super::wait::{Announcement, GRACE, OnInterrupt, SilenceTimer};
use crate::error::Error;
use crate::message::{FieldTable, Message};
use crate::values::Span;
use crate::waker::Receiver;
pub(crate) use window::PublishOutcome;
use window::{ReturnMatch, Window};

/// The most messages in flight. Throughput is flat from 100 up.
const WINDOW_MESSAGES: usize = 1000;

/// The most bytes in flight, if it is more than one message. It bounds the memory of `send`.
const WINDOW_BYTES: usize = 4 << 20;

/// The size at which frames are given to the socket although there are more to come.
const PUBLISH_BATCH_BYTES: usize = 1 << 15;

/// The number of unsent bytes at which no more of a body is encoded, so that there is no second copy of a
/// big message.
const MAX_BUFFERED_BYTES: usize = 1 << 20;

/// The options of publishing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PublishOptions {
    /// Whether the broker drops a message that no queue takes, instead of returning it.
    pub(crate) allow_unroutable: bool,
    /// Whether to consume replies, to messages whose `reply-to` is [`REPLY_TO`].
    pub(crate) replies: bool,
    /// The time that the broker may confirm nothing while messages are in flight.
    pub(crate) confirm_timeout: Span,
    /// Whether to publish without confirms: a message is done when the broker has read it.
    pub(crate) no_confirm: bool,
}

impl PublishOptions {
    /// Returns whether the broker has to return the message if no queue takes it.
    pub(crate) fn is_mandatory(self, message: &Message) -> bool {
        !self.allow_unroutable && !is_reply(message)
    }
}

/// The pseudo-queue of direct reply-to: replies to it go straight to the channel that consumes from it
/// (<https://www.rabbitmq.com/docs/direct-reply-to>).
pub(crate) const REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// The end of a wait of a [`Publisher`].
#[derive(Debug)]
pub(crate) enum PublishEvent<I> {
    /// The outcome of messages became known.
    Settled,
    /// The body of a big message is given to the socket.
    BodySent,
    Reply(Box<Message>),
    /// An item of the input, or its end.
    Input(Option<I>),
    Interrupted,
    /// The deadline has passed.
    TimedOut,
}

/// The source that has ended a wait for socket and input.
enum Woken<I> {
    BySocket,
    ByInput(Option<I>),
}

/// The tag of the consumer of replies.
const REPLIES_TAG: &str = "hello-mq-replies";

/// Publishes messages, each of them part of a `T`, and tracks their confirms.
pub(crate) struct Publisher<'s, T> {
    session: &'s mut Session,
    /// Frames that are not yet given to the socket.
    batch: Vec<u8>,
    /// The part of the newest message's body that is encoded, if not all is.
    body_sent: Option<usize>,
    window: Window<T>,
    options: PublishOptions,
    /// The last time that nothing was in flight, or something was confirmed.
    last_confirm: Instant,
    silence: SilenceTimer,
    on_interrupt: OnInterrupt,
}

impl<'s, T: AsRef<Message>> Publisher<'s, T> {
    /// Opens the channel for messages, in confirm mode unless the options say otherwise.
    pub(crate) fn open(session: &'s mut Session, options: PublishOptions) -> Result<Self, Error> {
        session.connection.socket().open_channel();
        if options.replies {
            consume_replies(session)?;
        }
        let mut batch = Vec::new();
        if !options.no_confirm {
            // It is sent with the first message, as the broker never refuses it.
            frames::put_confirm_select(&mut batch, MESSAGES);
        }
        Ok(Self {
            session,
            batch,
            body_sent: None,
            window: Window::default(),
            options,
            last_confirm: Instant::now(),
            silence: SilenceTimer::default(),
            on_interrupt: OnInterrupt::Return,
        })
    }

    /// Whether one more message may be published. If not, [`Publisher::wait`] makes room.
    pub(crate) fn has_room(&self) -> bool {
        self.body_sent.is_none()
            && self.window.len() < WINDOW_MESSAGES
            && self.window.bytes() < WINDOW_BYTES
    }

    /// Whether no message is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.window.is_empty()
    }

    /// Describes why a message is too big to be sent, if it is.
    pub(crate) fn size_problem(&self, message: &Message) -> Option<String> {
        // The other properties are bounded, far below the size of a frame.
        message.properties.headers.as_ref()?;
        let mut encoded = Vec::new();
        message.properties.encode(&mut encoded);
        let size = encoded.len();
        let max = frames::max_properties_size(self.session.connection.frame_max());
        (size > max).then(|| {
            format!("its properties and headers have {size} bytes, and the broker accepts {max}")
        })
    }

    /// Publishes a message. A lost connection shows at the next wait.
    pub(crate) fn publish(&mut self, item: T) {
        if self.window.unsettled() == 0 {
            self.note_confirm();
        }
        let message = item.as_ref();
        let mandatory = self.options.is_mandatory(message);
        let before = self.batch.len();
        frames::put_publish(&mut self.batch, MESSAGES, message, mandatory);
        // Headers take memory, too.
        let bytes = self.batch.len() - before + message.body.len();
        self.window.push(item, bytes);
        self.body_sent = Some(0);
        self.send_body();
    }

    /// Encodes as much of the newest message's body as the socket takes, and a little more.
    fn send_body(&mut self) {
        let Some(mut sent) = self.body_sent.take() else {
            return;
        };
        let Some(message) = self.window.newest() else {
            return;
        };
        let frame_max = self.session.connection.frame_max();
        let socket = self.session.connection.socket();
        let body = &message.as_ref().body;
        for chunk in frames::body_chunks(&body[sent..], frame_max) {
            if socket.unsent_bytes() >= MAX_BUFFERED_BYTES {
                self.body_sent = Some(sent);
                return;
            }
            frames::put_body(&mut self.batch, MESSAGES, chunk);
            sent += chunk.len();
            if self.batch.len() >= PUBLISH_BATCH_BYTES {
                socket.send_on_channel(&self.batch);
                self.batch.clear();
            }
        }
    }

    fn flush(&mut self) {
        // Before the first message, the queue may have to be declared on the channel.
        if !self.batch.is_empty() && !self.window.is_empty() {
            self.session
                .connection
                .socket()
                .send_on_channel(&self.batch);
            self.batch.clear();
        }
    }

    /// Takes the oldest message if its outcome is known.
    pub(crate) fn next_settled(&mut self) -> Option<(T, PublishOutcome)> {
        self.window.pop()
    }

    /// Waits for the outcome of messages, something in `input`, the user's interrupt (until
    /// [`Publisher::stop`]), or the `deadline`.
    ///
    /// # Errors
    /// [`Error::Lost`], [`Error::Refused`], [`Error::NoConfirm`], or [`Error::Interrupted`] if the broker
    /// did not answer within the grace time after the user's interrupt.
    pub(crate) fn wait<I>(
        &mut self,
        input: Option<&Receiver<I>>,
        deadline: Option<Instant>,
    ) -> Result<PublishEvent<I>, Error> {
        self.flush();
        if let Some(input) = input {
            input.add_waker(self.session.connection.waiter().waker());
        }
        if self.options.no_confirm && self.body_sent.is_none() && self.window.unsettled() > 0 {
            return self.settle_without_confirms(input);
        }
        loop {
            if let Some(event) = self.handle_events() {
                return Ok(event);
            }
            if self.body_sent.is_some() {
                self.send_body();
                if self.body_sent.is_none() {
                    return Ok(PublishEvent::BodySent);
                }
            }
            let confirm_by = self.confirm_deadline();
            let first = [deadline, confirm_by].into_iter().flatten().min();
            match self.wait_for_socket(input, first)? {
                WaitOutcome::Ready(Woken::BySocket) => {}
                WaitOutcome::Ready(Woken::ByInput(input)) => {
                    return Ok(PublishEvent::Input(input));
                }
                WaitOutcome::Interrupted => return Ok(PublishEvent::Interrupted),
                WaitOutcome::TimedOut if deadline.is_some_and(|it| it <= Instant::now()) => {
                    return Ok(PublishEvent::TimedOut);
                }
                // The socket has taken something, which gives the broker more time.
                WaitOutcome::TimedOut if self.confirm_deadline() > confirm_by => {}
                WaitOutcome::TimedOut => return Err(self.no_confirm()),
            }
        }
    }

    /// Waits for an event, for the socket to take more of a body, or for input.
    fn wait_for_socket<I>(
        &mut self,
        input: Option<&Receiver<I>>,
        deadline: Option<Instant>,
    ) -> Result<WaitOutcome<Woken<I>>, Error> {
        let has_body = self.body_sent.is_some();
        let unsettled = self.window.unsettled();
        let operation = match unsettled {
            0 if self.options.replies => "wait for replies",
            0 => "wait for input",
            _ => "publish",
        };
        let text = || match unsettled {
            1 => "confirm 1 message".to_owned(),
            _ => format!("confirm {unsettled} messages"),
        };
        let announcement = (unsettled > 0).then_some(Announcement {
            timer: &mut self.silence,
            text: &text,
        });
        self.session.connection.wait(
            &|| operation.to_owned(),
            announcement,
            deadline,
            self.on_interrupt,
            |socket| {
                let takes_more = has_body && socket.unsent_bytes() < MAX_BUFFERED_BYTES;
                if socket.has_event() || takes_more {
                    return Some(Woken::BySocket);
                }
                let input = input.and_then(Receiver::next)?;
                Some(Woken::ByInput(input.ok()))
            },
        )
    }

    /// Abandons the connection, as the broker has confirmed nothing for too long: it may not answer
    /// connection.close either.
    fn no_confirm(&mut self) -> Error {
        self.session.connection.abandon();
        Error::NoConfirm {
            broker: self.session.name().to_owned(),
            patience: self.options.confirm_timeout.to_string(),
        }
    }

    /// Handles the events received, up to the first reply.
    fn handle_events<I>(&mut self) -> Option<PublishEvent<I>> {
        let mut has_confirm = false;
        while let Some(event) = self.session.connection.socket().next_event() {
            match event {
                ChannelEvent::Confirmed(confirm) => {
                    self.handle_confirm(confirm);
                    has_confirm = true;
                }
                ChannelEvent::Returned(reason, content) => {
                    self.handle_return(&reason, &content.message);
                }
                ChannelEvent::Delivered(content) => {
                    self.session.warn_if_incomplete(&content.message);
                    return Some(PublishEvent::Reply(content.message));
                }
                _ => {}
            }
        }
        has_confirm.then_some(PublishEvent::Settled)
    }

    /// Waits until the broker has read everything that was published: the methods of a channel are handled
    /// in order, so it has when it answers a later one, and has returned what no queue took. Input and
    /// the user's interrupt come first.
    fn settle_without_confirms<I>(
        &mut self,
        input: Option<&Receiver<I>>,
    ) -> Result<PublishEvent<I>, Error> {
        if let Some(input) = input.and_then(Receiver::next) {
            return Ok(PublishEvent::Input(input.ok()));
        }
        let connection = &mut self.session.connection;
        if self.on_interrupt == OnInterrupt::Return && connection.waiter().is_interrupted() {
            return Ok(PublishEvent::Interrupted);
        }
        connection
            .socket()
            .send_on_channel(&frames::qos(MESSAGES, 0));
        let mut events = Vec::new();
        connection.wait_for_answer("read the published messages", |socket| {
            loop {
                match socket.next_event()? {
                    ChannelEvent::Answered(frames::BASIC_QOS_OK) => return Some(()),
                    event => events.push(event),
                }
            }
        })?;
        let mut reply = None;
        for event in events {
            match event {
                ChannelEvent::Returned(reason, content) => {
                    self.handle_return(&reason, &content.message);
                }
                ChannelEvent::Delivered(content) => {
                    self.session.warn_if_incomplete(&content.message);
                    reply = Some(content.message);
                }
                _ => {}
            }
        }
        self.window.acknowledge(u64::MAX, true);
        Ok(reply.map_or(PublishEvent::Settled, PublishEvent::Reply))
    }

    /// Has waits ignore the user's interrupt, which is known now, and gives the broker its grace.
    pub(crate) fn stop(&mut self) {
        self.on_interrupt = OnInterrupt::Ignore;
        self.session.connection.waiter().give_up_within(GRACE);
    }

    /// Returns the moment by which the broker has to confirm something.
    fn confirm_deadline(&self) -> Option<Instant> {
        let timeout = self.options.confirm_timeout.if_any()?;
        if self.window.unsettled() == 0 {
            return None;
        }
        // A big message takes its time on a slow network.
        let last_write = self.session.connection.last_write();
        self.last_confirm.max(last_write).checked_add(timeout)
    }

    fn note_confirm(&mut self) {
        self.last_confirm = Instant::now();
        self.silence.reset();
    }

    fn handle_confirm(&mut self, confirm: Confirm) {
        self.note_confirm();
        if confirm.is_ack {
            self.window.acknowledge(confirm.tag, confirm.multiple);
        } else {
            self.window.refuse(confirm.tag, confirm.multiple);
        }
    }

    /// Notes that a message was returned. Its acknowledgement is still to come.
    ///
    /// The broker returns a message as it was sent, except for properties that it changes: a reply-to of
    /// direct replies, a header of its own, and BCC, which it removes.
    fn handle_return(&mut self, reason: &str, returned: &Message) {
        let theirs = returned.properties.normalized();
        self.window.mark_returned(reason, |item| {
            let message = item.as_ref();
            let is_possible = message.exchange == returned.exchange
                && message.routing_key == returned.routing_key
                && message.body == returned.body;
            let properties = &message.properties;
            let has_same_ids = properties.message_id == theirs.message_id
                && properties.correlation_id == theirs.correlation_id;
            is_possible.then(|| match has_same_ids {
                false => ReturnMatch::Possible,
                true if properties.normalized() == theirs => ReturnMatch::Same,
                true => ReturnMatch::Probable,
            })
        });
    }

    /// Ends publishing before the connection is closed. Returns the messages whose outcome is known, and
    /// the others, both in order.
    pub(crate) fn end(mut self) -> (Vec<(T, PublishOutcome)>, Vec<T>) {
        // An alarm may keep the broker from answering.
        self.session.connection.waiter().give_up_within(GRACE);
        while self.handle_events::<()>().is_some() {}
        self.window.into_outcomes()
    }

    /// Ends publishing when every outcome is known, so that it can begin again on another channel.
    pub(crate) fn close(self) -> Result<(), Error> {
        self.session.connection.close_channel()
    }
}

/// Whether a message is a direct reply. RabbitMQ returns mandatory ones although it delivers them.
pub(crate) fn is_reply(message: &Message) -> bool {
    let rest = message.routing_key.strip_prefix(REPLY_TO);
    message.exchange.is_empty() && rest.is_some_and(|rest| rest.starts_with('.'))
}

/// Starts the consumer of replies, without acknowledgements, as no queue keeps them.
fn consume_replies(session: &mut Session) -> Result<(), Error> {
    let arguments = FieldTable::default();
    let consume = frames::consume(MESSAGES, REPLY_TO, REPLIES_TAG, true, false, &arguments);
    let connection = &mut session.connection;
    connection.socket().send_on_channel(&consume);
    connection.wait_for_answer("receive replies", |socket| {
        socket.take_answer(frames::BASIC_CONSUME_OK)
    })
}
