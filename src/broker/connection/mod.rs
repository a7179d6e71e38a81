//! One connection to the broker, from the login to its close.
//!
//! The [`Socket`] reads, parses, writes and keeps the heartbeats. The [`Connection`] waits for it, and
//! turns the end of the connection into an error for the user.

mod heartbeat;
mod incoming;
#[cfg(test)]
mod tests;
mod write_buffer;

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::debug;
use nix::poll::PollFlags;

use super::endpoint::BrokerStream;
use super::frames::{self, LIBRARY, MESSAGES, Method, ReplyText};
use super::wait::{Announcement, OnInterrupt, PollSource, SilenceTimer, Wait, WaitEnd, Waiter};
use crate::error::{self, Error};
use crate::messenger::Messenger;
use crate::text;
use heartbeat::HeartbeatTimer;
pub(crate) use incoming::{ChannelEvent, Confirm, Content};
use incoming::{Control, Incoming, MethodFrame};
use write_buffer::WriteBuffer;

/// The number of bytes after which a read returns although there may be more.
const MAX_READ_PER_CALL: usize = 1 << 20;

/// The reason why a connection has ended.
#[derive(Debug)]
pub(crate) enum CloseCause {
    /// The broker sent connection.close.
    ClosedByBroker(ReplyText),
    /// The peer closed the socket.
    HungUp,
    /// Reading or writing failed.
    Failed(io::Error),
    /// The bytes received are not AMQP.
    NotAmqp,
    /// The broker was silent for two heartbeat intervals.
    HeartbeatTimeout,
    /// The broker did not answer in time.
    Abandoned,
    /// The broker answered connection.close.
    CloseOk,
}

/// The socket of a connection, with what was read from it and what is to be written.
#[derive(Debug)]
pub(crate) struct Socket {
    /// The broker's URL without the password.
    name: Arc<str>,
    messenger: Messenger,
    stream: BrokerStream,
    incoming: Incoming,
    outgoing: WriteBuffer,
    heartbeat: HeartbeatTimer,
    /// Whether to read. Otherwise the broker has to wait before it sends more.
    pub(crate) is_reading: bool,
    /// Whether the next read may return something although poll(2) says nothing.
    has_more: bool,
    /// The methods received during the login; `None` after it.
    login_methods: Option<VecDeque<MethodFrame>>,
    /// The open channels for messages, oldest first. The last one is used; the others have deliveries that
    /// are not settled.
    channels: Vec<Channel>,
    /// channel.open, until it is sent with the first frames on the channel.
    channel_open_frame: Vec<u8>,
    /// The reason why the broker has closed a channel for messages.
    channel_close: Option<ReplyText>,
    /// The highest number of a channel.
    channel_max: u16,
    /// The last time that the socket took anything but heartbeats.
    last_write: Instant,
    close_cause: Option<CloseCause>,
}

/// A channel for messages.
#[derive(Clone, Copy, Debug)]
struct Channel {
    number: u16,
    /// The difference between the delivery tags of the events and those on the channel.
    tag_base: u64,
}

impl Socket {
    /// Returns a connection before the login. `name` is the broker's URL without the password.
    pub(crate) fn new(name: String, stream: BrokerStream, messenger: &Messenger) -> Self {
        let now = Instant::now();
        Self {
            name: name.into(),
            messenger: messenger.clone(),
            stream,
            incoming: Incoming::default(),
            outgoing: WriteBuffer::default(),
            heartbeat: HeartbeatTimer::new(0, now),
            is_reading: true,
            has_more: false,
            login_methods: Some(VecDeque::new()),
            channels: Vec::new(),
            channel_open_frame: Vec::new(),
            channel_close: None,
            channel_max: LIBRARY,
            last_write: now,
            close_cause: None,
        }
    }

    pub(crate) fn stream(&self) -> &BrokerStream {
        &self.stream
    }

    /// Returns the next method on channel 0 during the login.
    pub(crate) fn next_login_method(&mut self) -> Option<MethodFrame> {
        self.login_methods.as_mut()?.pop_front()
    }

    /// Ends the login with the limits agreed on.
    pub(crate) fn finish_login(&mut self, channel_max: u16, frame_max: u32, heartbeat: u16) {
        self.login_methods = None;
        self.channel_max = channel_max;
        self.incoming.set_frame_max(frame_max);
        self.heartbeat = HeartbeatTimer::new(heartbeat, Instant::now());
    }

    /// Returns the bytes received that are no whole frame.
    pub(crate) fn unparsed(&self) -> &[u8] {
        self.incoming.unparsed()
    }

    pub(crate) fn take_close_cause(&mut self) -> Option<CloseCause> {
        self.close_cause.take()
    }

    /// Takes the next event on the channel for messages.
    pub(crate) fn next_event(&mut self) -> Option<ChannelEvent> {
        self.incoming.next_event()
    }

    pub(crate) fn has_event(&self) -> bool {
        !self.incoming.events.is_empty()
    }

    /// Returns the delivery tag of the last message for the consumer among the events.
    pub(crate) fn last_received(&self) -> Option<u64> {
        let mut events = self.incoming.events.iter().rev();
        events.find_map(|event| match event {
            ChannelEvent::Delivered(content) => Some(content.tag),
            _ => None,
        })
    }

    /// Whether the broker has cancelled the consumer. It sends no message after that.
    pub(crate) fn is_cancelled(&self) -> bool {
        let mut events = self.incoming.events.iter().rev();
        let last = events.find(|event| !matches!(event, ChannelEvent::Answered(_)));
        matches!(last, Some(ChannelEvent::Cancelled))
    }

    /// Takes an answer out of the events, if it has come.
    pub(crate) fn take_answer(&mut self, method: Method) -> Option<()> {
        let is_answer =
            |event: &ChannelEvent| matches!(event, ChannelEvent::Answered(it) if *it == method);
        let at = self.incoming.events.iter().position(is_answer)?;
        self.incoming.events.remove(at).map(drop)
    }

    /// Returns the size of the bodies received for the consumer and not yet taken.
    pub(crate) fn delivered_bytes(&self) -> usize {
        self.incoming.delivered_bytes
    }

    /// Drops the messages received and those still to come on the channel.
    pub(crate) fn discard_messages(&mut self) {
        self.incoming.discard(true);
    }

    /// Moves the frames for the client library to the end of `out`.
    pub(crate) fn take_library_frames(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.incoming.library_frames);
    }

    /// Opens the channel for messages, unless it is open, together with the first frames sent on it.
    pub(crate) fn open_channel(&mut self) {
        self.incoming.discard(false);
        if !self.channels.is_empty() {
            return;
        }
        self.channel_close = None;
        self.incoming.restart_channels();
        self.add_channel(MESSAGES, 0);
    }

    /// Opens another channel for messages, which is used from now on, and whose delivery tags continue those
    /// of the last one. That one must not deliver any more.
    pub(crate) fn open_next_channel(&mut self) {
        if let Some(last) = self.channels.last() {
            let number = last.number.max(LIBRARY) + 1;
            let tag_base = self.incoming.add_channel(number);
            self.add_channel(number, tag_base);
        }
    }

    fn add_channel(&mut self, number: u16, tag_base: u64) {
        self.channels.push(Channel { number, tag_base });
        self.channel_open_frame = frames::method_frame(number, frames::CHANNEL_OPEN, &[0]);
    }

    /// Returns the last delivery tag of the earlier channels.
    pub(crate) fn tag_base(&self) -> u64 {
        self.channels.last().map_or(0, |last| last.tag_base)
    }

    /// Whether the broker allows another channel.
    pub(crate) fn can_open_channel(&self) -> bool {
        let last = self.channels.last();
        last.is_some_and(|last| last.number.max(LIBRARY) < self.channel_max)
    }

    /// Returns the number of bytes that the socket has not taken yet.
    pub(crate) fn unsent_bytes(&self) -> usize {
        self.outgoing.len()
    }

    /// Whether frames can be sent on the channel for messages.
    pub(crate) fn is_channel_usable(&self) -> bool {
        !self.channels.is_empty() && self.close_cause.is_none()
    }

    /// Sends whole frames on the channel for messages. If it is closed, nothing is sent, and the next wait
    /// returns the reason.
    pub(crate) fn send_on_channel(&mut self, frames: &[u8]) {
        if !self.is_channel_usable() {
            return;
        }
        let number = self.channels.last().map_or(MESSAGES, |it| it.number);
        if self.channel_open_frame.is_empty() && number == MESSAGES {
            self.send(frames);
        } else {
            let mut all = std::mem::take(&mut self.channel_open_frame);
            let start = all.len();
            all.extend_from_slice(frames);
            frames::set_channel(&mut all[start..], number);
            self.send(&all);
        }
    }

    /// Settles deliveries one by one. `frame` makes the frame for a channel and a delivery tag on it.
    pub(crate) fn settle(
        &mut self,
        tags: impl IntoIterator<Item = u64>,
        frame: impl Fn(u16, u64) -> Vec<u8>,
    ) {
        if !self.is_channel_usable() {
            return;
        }
        let mut all = Vec::new();
        for tag in tags {
            let after = self.channels.partition_point(|it| it.tag_base < tag);
            if let Some(channel) = after.checked_sub(1).and_then(|at| self.channels.get(at)) {
                all.extend(frame(channel.number, tag - channel.tag_base));
            }
        }
        self.send(&all);
    }

    /// Settles all deliveries up to one, or all that there are if `last` is 0. `frame` makes the frame for a
    /// channel and the last delivery tag on it, or 0 for all.
    pub(crate) fn settle_up_to(&mut self, last: u64, frame: impl Fn(u16, u64) -> Vec<u8>) {
        if !self.is_channel_usable() {
            return;
        }
        let mut all = Vec::new();
        for (at, channel) in self.channels.iter().enumerate() {
            let next = self.channels.get(at + 1);
            if last == 0 || next.is_some_and(|next| next.tag_base < last) {
                all.extend(frame(channel.number, 0));
            } else if channel.tag_base < last {
                all.extend(frame(channel.number, last - channel.tag_base));
            }
        }
        self.send(&all);
    }

    /// Sends whole frames, after all sent before.
    pub(crate) fn send(&mut self, frames: &[u8]) {
        match self.outgoing.send(&mut self.stream, frames) {
            Ok(0) => {}
            Ok(_) => {
                self.last_write = Instant::now();
                self.heartbeat.note_sent(self.last_write);
            }
            Err(error) => self.handle_write_error(error),
        }
    }

    fn flush(&mut self) {
        if let Err(error) = self.stream.flush() {
            return self.handle_write_error(error);
        }
        let is_heartbeat = self.outgoing.len() < frames::HEARTBEAT_FRAME.len();
        match self.outgoing.flush(&mut self.stream) {
            Ok(0) => {}
            Ok(_) => {
                let now = Instant::now();
                self.heartbeat.note_sent(now);
                if !is_heartbeat {
                    self.last_write = now;
                }
            }
            Err(error) => self.handle_write_error(error),
        }
    }

    /// Reads and parses what has come.
    fn read(&mut self) {
        let mut length = 0;
        while self.close_cause.is_none() && length < MAX_READ_PER_CALL {
            let buffer = self.incoming.read_buffer();
            let size = buffer.len();
            match self.stream.read(buffer) {
                Ok(0) => self.set_closed(CloseCause::HungUp),
                Ok(read) => {
                    length += read;
                    self.has_more = self.stream.tls_error().is_some() || read == size;
                    let parsed = self.incoming.parse(read);
                    // The frames before an invalid one count.
                    self.handle_control();
                    if parsed.is_err() {
                        self.set_closed(CloseCause::NotAmqp);
                    }
                    if !self.has_more {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.has_more = false;
                    break;
                }
                Err(error) => self.set_closed(CloseCause::Failed(error)),
            }
        }
        if length > 0 {
            self.heartbeat.note_received(Instant::now());
        }
    }

    /// Ends the connection after a failed write. What can still be read comes first, as it may be the
    /// broker's reason.
    fn handle_write_error(&mut self, error: io::Error) {
        self.outgoing = WriteBuffer::default();
        self.handle_control();
        self.has_more = true;
        while self.has_more && self.close_cause.is_none() {
            self.read();
        }
        self.set_closed(CloseCause::Failed(error));
    }

    fn set_closed(&mut self, cause: CloseCause) {
        self.has_more = false;
        self.close_cause.get_or_insert(cause);
    }

    fn handle_control(&mut self) {
        while let Some(control) = self.incoming.control.pop_front() {
            match control {
                Control::ChannelClosed(number, reply) => {
                    self.channels.clear();
                    self.channel_close = Some(reply);
                    let answer = frames::method_frame(number, frames::CHANNEL_CLOSE_OK, &[]);
                    self.send(&answer);
                }
                Control::Connection(method) => self.handle_connection_method(method),
            }
        }
    }

    fn handle_connection_method(&mut self, received: MethodFrame) {
        let mut fields = frames::arguments(&received.frame);
        match received.method {
            frames::CONNECTION_CLOSE => {
                let reply = fields.reply().unwrap_or_default();
                // The broker may be gone by now.
                let answer = frames::method_frame(0, frames::CONNECTION_CLOSE_OK, &[]);
                let _ = self.outgoing.send(&mut self.stream, &answer);
                self.set_closed(CloseCause::ClosedByBroker(reply));
            }
            frames::CONNECTION_CLOSE_OK => self.set_closed(CloseCause::CloseOk),
            frames::CONNECTION_BLOCKED => {
                let reason = fields.short_string().unwrap_or_default();
                let reason = text::one_line(&String::from_utf8_lossy(reason));
                self.messenger.note(&format!(
                    "{} accepts no messages at the moment ({reason}); waiting",
                    self.name
                ));
            }
            frames::CONNECTION_UNBLOCKED => {
                self.messenger
                    .note(&format!("{} accepts messages again", self.name));
            }
            _ => {
                if let Some(methods) = &mut self.login_methods {
                    methods.push_back(received);
                }
            }
        }
    }

    /// Sends a heartbeat if one is due, and ends the connection if the peer has sent none.
    fn keep_heartbeats(&mut self) {
        let now = Instant::now();
        if !self.is_reading {
            // Heartbeats cannot be seen without reading.
            self.heartbeat.note_received(now);
        }
        if self.close_cause.is_some() {
            return;
        }
        if self.heartbeat.dead_at().is_some_and(|moment| moment <= now) {
            self.set_closed(CloseCause::HeartbeatTimeout);
        } else if self.heartbeat.due_at().is_some_and(|moment| moment <= now) {
            self.heartbeat.note_sent(now);
            // Otherwise the peer is not reading, and would not get it in time.
            if self.outgoing.is_empty() {
                let frame = &frames::HEARTBEAT_FRAME;
                if let Err(error) = self.outgoing.send(&mut self.stream, frame) {
                    self.handle_write_error(error);
                }
            }
        }
    }
}

impl PollSource for Socket {
    fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, self.is_reading);
        let wants_write = !self.outgoing.is_empty() || self.stream.wants_write();
        flags.set(PollFlags::POLLOUT, wants_write);
        Some((self.stream.as_fd(), flags))
    }

    fn timer(&self) -> Option<Instant> {
        if self.has_more && self.is_reading {
            // At once.
            return Some(self.last_write);
        }
        let dead_at = self.heartbeat.dead_at().filter(|_| self.is_reading);
        [self.heartbeat.due_at(), dead_at]
            .into_iter()
            .flatten()
            .min()
    }

    fn process(&mut self, is_ready: bool) {
        if is_ready {
            self.flush();
        }
        if self.is_reading && (is_ready || self.has_more) {
            self.read();
        }
        self.keep_heartbeats();
    }

    fn is_closed(&self) -> bool {
        self.close_cause.is_some() || self.channel_close.is_some()
    }
}

/// The outcome of a wait after which the connection goes on.
#[derive(Debug)]
pub(crate) enum WaitOutcome<T> {
    Ready(T),
    Interrupted,
    /// The deadline has passed.
    TimedOut,
}

/// A connection after the login.
#[derive(Debug)]
pub(crate) struct Connection {
    waiter: Waiter,
    socket: Socket,
    frame_max: u32,
}

impl Connection {
    pub(crate) fn new(waiter: Waiter, socket: Socket, frame_max: u32) -> Self {
        Self {
            waiter,
            socket,
            frame_max,
        }
    }

    /// Returns the broker's URL without the password.
    pub(crate) fn name(&self) -> &str {
        &self.socket.name
    }

    pub(crate) fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    pub(crate) fn waiter(&mut self) -> &mut Waiter {
        &mut self.waiter
    }

    /// Returns the size of the largest frame that the broker accepts.
    pub(crate) fn frame_max(&self) -> usize {
        self.frame_max as usize
    }

    /// Returns the last time that the socket took anything but heartbeats.
    pub(crate) fn last_write(&self) -> Instant {
        self.socket.last_write
    }

    pub(crate) fn is_open(&self) -> bool {
        self.socket.close_cause.is_none()
    }

    /// Waits until `check` returns something. `operation` is the work that an error would interrupt, such as
    /// `declare queue 'hello'`; the text of the announcement is what the broker has to do.
    ///
    /// # Errors
    /// The reason why the connection or the channel for messages has ended; [`Error::Interrupted`] and
    /// [`Error::TimeIsUp`] if the broker does not answer in the time that the user leaves it.
    pub(crate) fn wait<T>(
        &mut self,
        operation: &dyn Fn() -> String,
        announcement: Option<Announcement>,
        deadline: Option<Instant>,
        on_interrupt: OnInterrupt,
        check: impl FnMut(&mut Socket) -> Option<T>,
    ) -> Result<WaitOutcome<T>, Error> {
        let name = Arc::clone(&self.socket.name);
        let (timer, task) = announcement.map(|it| (it.timer, it.text)).unzip();
        let text = || {
            let task = task.map(|task| task()).unwrap_or_default();
            format!("waiting for {name} to {task}")
        };
        let wait = Wait {
            deadline,
            on_interrupt,
            announcement: timer.map(|timer| Announcement { timer, text: &text }),
        };
        match self.waiter.wait(&mut self.socket, wait, check) {
            Ok(result) => Ok(WaitOutcome::Ready(result)),
            Err(WaitEnd::Interrupted) => Ok(WaitOutcome::Interrupted),
            Err(WaitEnd::TimedOut) => Ok(WaitOutcome::TimedOut),
            Err(WaitEnd::GraceOver) => {
                self.abandon();
                Err(self.error(&operation()))
            }
            Err(WaitEnd::Closed) => Err(self.error(&operation())),
        }
    }

    /// Waits for the answer to a request, without a deadline.
    ///
    /// # Errors
    /// As [`Connection::wait`].
    pub(crate) fn wait_for_answer<T>(
        &mut self,
        operation: &str,
        check: impl FnMut(&mut Socket) -> Option<T>,
    ) -> Result<T, Error> {
        self.socket.is_reading = true;
        let text = || operation.to_owned();
        let announcement = Announcement {
            timer: &mut SilenceTimer::default(),
            text: &text,
        };
        let on_interrupt = OnInterrupt::Grace;
        match self.wait(&text, Some(announcement), None, on_interrupt, check)? {
            WaitOutcome::Ready(result) => Ok(result),
            WaitOutcome::Interrupted | WaitOutcome::TimedOut => Err(Error::Bug(
                "a wait without a deadline has timed out".to_owned(),
            )),
        }
    }

    /// Closes the channels for messages that are open. Unsettled deliveries go back to their queue.
    pub(crate) fn close_channel(&mut self) -> Result<(), Error> {
        while self.close_oldest_channel()? {}
        Ok(())
    }

    /// Closes the oldest channel for messages, and returns whether there was one.
    pub(crate) fn close_oldest_channel(&mut self) -> Result<bool, Error> {
        let socket = &mut self.socket;
        let Some(channel) = socket.channels.first() else {
            return Ok(false);
        };
        let close = frames::close(channel.number, frames::CHANNEL_CLOSE);
        socket.discard_messages();
        if socket.channels.len() == 1 {
            // It may have to be opened first.
            socket.send_on_channel(&close);
        } else {
            socket.send(&close);
        }
        socket.channels.remove(0);
        self.wait_for_answer("close a channel", |socket| {
            socket.take_answer(frames::CHANNEL_CLOSE_OK)
        })?;
        Ok(true)
    }

    /// Closes the connection. When the broker answers, it has done everything requested before. It has
    /// `timeout` for that.
    pub(crate) fn close(&mut self, timeout: Duration) -> Result<(), Error> {
        self.waiter.give_up_within(timeout);
        self.socket.discard_messages();
        self.socket.channel_close = None;
        if self.is_open() {
            self.socket
                .send(&frames::close(0, frames::CONNECTION_CLOSE));
        }
        self.wait_for_answer("close the connection", |socket| {
            matches!(socket.close_cause, Some(CloseCause::CloseOk)).then_some(())
        })
    }

    /// Ends the connection without connection.close, so that nothing waits for it any longer.
    pub(crate) fn abandon(&mut self) {
        debug!("abandoning the connection");
        self.socket.set_closed(CloseCause::Abandoned);
    }

    /// Ends the connection because of an answer that is not valid, and returns the error.
    pub(crate) fn protocol_error(&mut self, operation: &str) -> Error {
        self.socket.set_closed(CloseCause::NotAmqp);
        self.error(operation)
    }

    /// Returns the reason why the connection or the channel for messages has ended. `operation` is the work
    /// that it interrupted.
    fn error(&mut self, operation: &str) -> Error {
        let broker = self.name().to_owned();
        let operation = operation.to_owned();
        if let Some(ReplyText { code, text: said }) = self.socket.channel_close.take() {
            return Error::Refused {
                broker,
                operation,
                code,
                said,
            };
        }
        let cause = self.socket.close_cause.as_ref();
        debug!("{operation}: {cause:?}");
        let mut code = None;
        let reason = match cause {
            Some(CloseCause::ClosedByBroker(reply)) if !is_shutdown(reply) => {
                return Error::Refused {
                    broker,
                    operation,
                    code: reply.code,
                    said: reply.text.clone(),
                };
            }
            _ if self.waiter.is_interrupted() => {
                return Error::Interrupted(format!(
                    "before {broker} answered the request to {operation}"
                ));
            }
            _ if self.waiter.is_time_up() => return Error::TimeIsUp,
            Some(CloseCause::ClosedByBroker(reply)) => {
                code = Some(reply.code);
                text::one_line(&reply.text)
            }
            Some(CloseCause::HungUp | CloseCause::CloseOk) => {
                "the broker closed it without giving a reason".to_owned()
            }
            Some(CloseCause::Failed(error)) => match self.socket.stream.tls_error() {
                Some(error) => text::one_line(&error.to_string()),
                None => error::reason(error),
            },
            Some(CloseCause::NotAmqp) => "received data that is not AMQP".to_owned(),
            Some(CloseCause::HeartbeatTimeout) => {
                let limit = self.socket.heartbeat.timeout().as_secs();
                format!("no data from the broker for {limit}s (two heartbeats)")
            }
            Some(CloseCause::Abandoned) | None => "the broker did not answer in time".to_owned(),
        };
        Error::Lost {
            broker,
            operation,
            reason,
            code,
        }
    }
}

const CONNECTION_FORCED: u16 = 320;
const INTERNAL_ERROR: u16 = 541;

/// Whether the broker closed the connection for its own reasons (a shutdown, an operator), and not because
/// of a request.
fn is_shutdown(reply: &ReplyText) -> bool {
    reply.code == CONNECTION_FORCED
        || reply.code == INTERNAL_ERROR && !error::is_transient_refusal(&reply.text)
}
