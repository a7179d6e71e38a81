//! One connection to the broker, from the login to the farewell. Whoever holds it owns its socket.
//!
//! The [`Socket`] reads, sorts, writes and keeps the heartbeats; the [`Connection`] waits for it, with
//! the user's interrupt and time, and puts into words what ended it.

mod heartbeat;
mod incoming;
#[cfg(test)]
mod tests;
mod write_buffer;

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::debug;
use nix::poll::PollFlags;

use super::endpoint::BrokerStream;
use super::frames::{self, MESSAGES, Method};
use super::wait::{OnInterrupt, PollSource, SilenceTimer, Wait, WaitEnd, Waiter};
use crate::error::{self, Error};
use crate::messenger::Messenger;
use crate::text;
use heartbeat::HeartbeatTimer;
pub use incoming::{ChannelEvent, Confirm, Content};
use incoming::{Control, Incoming};
use write_buffer::WriteBuffer;

/// How many bytes are read before something else may be done.
const MAX_READ_PER_TURN: usize = 1 << 20;

/// Why nothing more comes on a connection.
#[derive(Debug)]
pub enum CloseCause {
    /// The broker closed it, with a reply code and words.
    Closed(u16, String),
    /// The peer ended it without a word.
    HungUp,
    /// The system reports that it failed.
    Failed(io::Error),
    /// What came is not AMQP.
    NotAmqp,
    /// Nothing came for two heartbeats.
    Silent,
    /// It was given up: the broker did not answer in the time that there was.
    GivenUp,
    /// The broker has answered the farewell.
    Left,
}

/// The socket, and what is read from it and written to it.
#[derive(Debug)]
pub struct Socket {
    /// The broker's URL without the password.
    name: Arc<str>,
    messenger: Messenger,
    stream: BrokerStream,
    incoming: Incoming,
    outgoing: WriteBuffer,
    heartbeat: HeartbeatTimer,
    /// Whether to read at all. What is not read makes the broker wait.
    pub may_read: bool,
    /// Whether the stream may have more than its file tells of.
    has_more: bool,
    /// The methods of a login; `None` once it is done.
    login: Option<Vec<(Method, Vec<u8>)>>,
    /// Whether messages can be sent and received.
    is_channel_open: bool,
    /// What has to be sent before anything else on the channel for messages.
    opening: Vec<u8>,
    /// The broker's refusal, with which it closed the channel for messages.
    refusal: Option<(u16, String)>,
    /// When the socket last took something that was posted.
    progress: Instant,
    cause: Option<CloseCause>,
}

impl Socket {
    /// A connection on which nothing is said yet. `name` is the broker's URL without the password.
    pub fn new(name: String, stream: BrokerStream, messenger: &Messenger) -> Self {
        let now = Instant::now();
        Self {
            name: name.into(),
            messenger: messenger.clone(),
            stream,
            incoming: Incoming::default(),
            outgoing: WriteBuffer::default(),
            heartbeat: HeartbeatTimer::new(0, now),
            may_read: true,
            has_more: false,
            login: Some(Vec::new()),
            is_channel_open: false,
            opening: Vec::new(),
            refusal: None,
            progress: now,
            cause: None,
        }
    }

    /// The stream.
    pub fn stream(&mut self) -> &mut BrokerStream {
        &mut self.stream
    }

    /// The next method of the login, as its frame.
    pub fn login_frame(&mut self) -> Option<(Method, Vec<u8>)> {
        let login = self.login.as_mut()?;
        (!login.is_empty()).then(|| login.remove(0))
    }

    /// Ends the login with what was agreed on.
    pub fn logged_in(&mut self, frame_max: u32, heartbeat: u16) {
        self.login = None;
        self.incoming.bound(frame_max);
        self.heartbeat = HeartbeatTimer::new(heartbeat, Instant::now());
    }

    /// The bytes that came and are no whole frame.
    pub fn unread(&self) -> &[u8] {
        self.incoming.unread()
    }

    /// Why nothing more comes, if so. It can be taken once.
    pub fn take_cause(&mut self) -> Option<CloseCause> {
        self.cause.take()
    }

    /// The next thing that came on the channel for messages.
    pub fn arrival(&mut self) -> Option<ChannelEvent> {
        self.incoming.next()
    }

    /// Whether a message for the consumer is here.
    pub fn has_message(&self) -> bool {
        let mut arrivals = self.incoming.arrivals.iter();
        arrivals.any(|arrival| matches!(arrival, ChannelEvent::Delivered(_)))
    }

    /// Whether something is here that came on the channel for messages.
    pub fn has_arrival(&self) -> bool {
        !self.incoming.arrivals.is_empty()
    }

    /// Whether the broker has cancelled the consumer. It sends no message after that.
    pub fn is_cancelled(&self) -> bool {
        let mut arrivals = self.incoming.arrivals.iter().rev();
        let last = arrivals.find(|arrival| !matches!(arrival, ChannelEvent::Answered(_)));
        matches!(last, Some(ChannelEvent::Cancelled))
    }

    /// Whether the broker has answered with this method; what came before it is left where it is.
    pub fn take_answer(&mut self, method: Method) -> bool {
        let is_it =
            |arrival: &ChannelEvent| matches!(arrival, ChannelEvent::Answered(it) if *it == method);
        let Some(at) = self.incoming.arrivals.iter().position(is_it) else {
            return false;
        };
        self.incoming.arrivals.remove(at);
        true
    }

    /// How many bytes the bodies have that came and were not taken.
    pub fn held(&self) -> usize {
        self.incoming.held
    }

    /// Drops what came for messages, and what still comes.
    pub fn discard(&mut self) {
        self.incoming.is_discarding = true;
        self.incoming.discard();
    }

    /// Moves the frames of the library's channels to the end of `out`.
    pub fn take_library_frames(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.incoming.library);
    }

    /// Opens the channel for messages, unless it is open, together with the first that is posted on it.
    pub fn open_channel(&mut self) {
        self.incoming.is_discarding = false;
        self.incoming.discard();
        if self.is_channel_open {
            return;
        }
        self.refusal = None;
        self.is_channel_open = true;
        self.opening = frames::method_frame(MESSAGES, frames::CHANNEL_OPEN, &[0]);
    }

    /// How many bytes wait until the socket takes them.
    pub fn waiting(&self) -> usize {
        self.outgoing.len()
    }

    /// Whether the channel for messages is open.
    pub fn can_post(&self) -> bool {
        self.is_channel_open && self.cause.is_none()
    }

    /// Sends whole frames on the channel for messages. If that is closed, nothing is sent, and the next
    /// wait says why.
    pub fn post(&mut self, frames: &[u8]) {
        if !self.can_post() {
            return;
        }
        if self.opening.is_empty() {
            self.send(frames);
        } else {
            let mut all = std::mem::take(&mut self.opening);
            all.extend_from_slice(frames);
            self.send(&all);
        }
    }

    /// Sends whole frames behind all that was sent before.
    pub fn send(&mut self, frames: &[u8]) {
        match self.outgoing.send(&mut self.stream, frames) {
            Ok(0) => {}
            Ok(_) => {
                self.progress = Instant::now();
                self.heartbeat.sent(self.progress);
            }
            Err(error) => self.broke(error),
        }
    }

    fn flush(&mut self) {
        if let Err(error) = self.stream.flush() {
            return self.broke(error);
        }
        // The rest of a heartbeat is nothing that was posted.
        let is_heartbeat = self.outgoing.len() < frames::HEARTBEAT_FRAME.len();
        match self.outgoing.flush(&mut self.stream) {
            Ok(0) => {}
            Ok(_) => {
                let now = Instant::now();
                self.heartbeat.sent(now);
                if !is_heartbeat {
                    self.progress = now;
                }
            }
            Err(error) => self.broke(error),
        }
    }

    /// Reads what came, as far as it is here.
    fn read(&mut self) {
        let mut length = 0;
        while self.cause.is_none() && length < MAX_READ_PER_TURN {
            let room = self.incoming.room();
            let most = room.len();
            match self.stream.read(room) {
                Ok(0) => self.end(CloseCause::HungUp),
                Ok(read) => {
                    length += read;
                    self.has_more = self.stream.has_more() || read == most;
                    let is_amqp = self.incoming.read(read).is_ok();
                    // What came before that counts.
                    self.obey();
                    if !is_amqp {
                        self.end(CloseCause::NotAmqp);
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
                Err(error) => self.end(CloseCause::Failed(error)),
            }
        }
        if length > 0 {
            self.heartbeat.came(Instant::now());
        }
    }

    /// Nothing can be written any more. What can still be read comes first: it may be the broker's last
    /// words.
    fn broke(&mut self, error: io::Error) {
        self.outgoing = WriteBuffer::default();
        self.obey();
        self.has_more = true;
        while self.has_more && self.cause.is_none() {
            self.read();
        }
        self.end(CloseCause::Failed(error));
    }

    fn end(&mut self, cause: CloseCause) {
        self.has_more = false;
        self.cause.get_or_insert(cause);
    }

    /// Does what the broker says of the connection or of the channel for messages.
    fn obey(&mut self) {
        while let Some(control) = self.incoming.control.pop_front() {
            match control {
                Control::ChannelClosed(code, said) => {
                    self.is_channel_open = false;
                    self.refusal = Some((code, said));
                    self.send(&frames::method_frame(
                        MESSAGES,
                        frames::CHANNEL_CLOSE_OK,
                        &[],
                    ));
                }
                Control::Connection(method, frame) => self.obey_connection(method, frame),
            }
        }
    }

    fn obey_connection(&mut self, method: Method, frame: Vec<u8>) {
        let mut fields = frames::arguments(&frame);
        match method {
            frames::CONNECTION_CLOSE => {
                let (code, said) = fields.reply().unwrap_or_default();
                // It has no more to say, so whether it hears this does not matter.
                let answer = frames::method_frame(0, frames::CONNECTION_CLOSE_OK, &[]);
                let _ = self.outgoing.send(&mut self.stream, &answer);
                self.end(CloseCause::Closed(code, said));
            }
            frames::CONNECTION_CLOSE_OK => self.end(CloseCause::Left),
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
            method => {
                if let Some(login) = &mut self.login {
                    login.push((method, frame));
                }
            }
        }
    }
}

impl PollSource for Socket {
    fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, self.may_read);
        let has_to_write = !self.outgoing.is_empty() || self.stream.has_to_write();
        flags.set(PollFlags::POLLOUT, has_to_write);
        Some((self.stream.as_fd(), flags))
    }

    fn timer(&self) -> Option<Instant> {
        if self.has_more && self.may_read {
            return Some(self.progress);
        }
        let dead_at = self.heartbeat.dead_at().filter(|_| self.may_read);
        [self.heartbeat.due_at(), dead_at]
            .into_iter()
            .flatten()
            .min()
    }

    fn turn(&mut self, is_ready: bool) {
        if is_ready {
            self.flush();
        }
        if self.may_read && (is_ready || self.has_more) {
            self.read();
        }
        let now = Instant::now();
        if !self.may_read {
            // Nobody looks whether something came.
            self.heartbeat.came(now);
        }
        if self.cause.is_some() {
            return;
        }
        if self.heartbeat.dead_at().is_some_and(|moment| moment <= now) {
            self.end(CloseCause::Silent);
        } else if self.heartbeat.due_at().is_some_and(|moment| moment <= now) {
            self.heartbeat.sent(now);
            // Where something else waits to be written, the peer is not reading.
            if self.outgoing.is_empty() {
                let sent = self
                    .outgoing
                    .send(&mut self.stream, &frames::HEARTBEAT_FRAME);
                if let Err(error) = sent {
                    self.broke(error);
                }
            }
        }
    }

    fn is_over(&self) -> bool {
        self.cause.is_some() || self.refusal.is_some()
    }
}

/// How a wait ended that does not end the connection.
#[derive(Debug)]
pub enum WaitOutcome<T> {
    /// It came.
    Came(T),
    /// The user interrupts.
    Interrupted,
    /// The deadline has passed.
    Late,
}

/// A connection that is logged in, and whoever waits for it.
#[derive(Debug)]
pub struct Connection {
    waiter: Waiter,
    socket: Socket,
    frame_max: u32,
}

impl Connection {
    /// A connection on which the login is done.
    pub fn new(waiter: Waiter, socket: Socket, frame_max: u32) -> Self {
        Self {
            waiter,
            socket,
            frame_max,
        }
    }

    /// The broker's URL without the password.
    pub fn name(&self) -> &str {
        &self.socket.name
    }

    /// The socket.
    pub fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// The waiter.
    pub fn waiter(&mut self) -> &mut Waiter {
        &mut self.waiter
    }

    /// The most bytes of a frame that the broker takes.
    pub fn frame_max(&self) -> usize {
        self.frame_max as usize
    }

    /// When the socket last took something of what was posted.
    pub fn progress(&self) -> Instant {
        self.socket.progress
    }

    /// Whether the connection is still of use.
    pub fn is_open(&self) -> bool {
        self.socket.cause.is_none()
    }

    /// Waits until `came` returns something. `operation` is what hello-mq is doing, such as `declare queue
    /// 'hello'`. The wait is announced, if it is to be, with what the broker has to do for it to end.
    ///
    /// # Errors
    /// What ended the connection, or the channel for messages; [`Error::Interrupted`] and
    /// [`Error::TimeIsUp`] if the broker does not answer in the time that the user gives it.
    pub fn wait<T>(
        &mut self,
        operation: &dyn Fn() -> String,
        announcement: Option<(&mut SilenceTimer, &dyn Fn() -> String)>,
        until: Option<Instant>,
        on_interrupt: OnInterrupt,
        came: impl FnMut(&mut Socket) -> Option<T>,
    ) -> Result<WaitOutcome<T>, Error> {
        let name = Arc::clone(&self.socket.name);
        let (patience, what) = announcement.unzip();
        let text = || {
            let what = what.map(|what| what()).unwrap_or_default();
            format!("waiting for {name} to {what}")
        };
        let text: &dyn Fn() -> String = &text;
        let wait = Wait {
            until,
            on_interrupt,
            announcement: patience.map(|patience| (patience, text)),
        };
        match self.waiter.wait(&mut self.socket, wait, came) {
            Ok(it) => Ok(WaitOutcome::Came(it)),
            Err(WaitEnd::Interrupted) => Ok(WaitOutcome::Interrupted),
            Err(WaitEnd::Late) => Ok(WaitOutcome::Late),
            Err(WaitEnd::GaveUp) => {
                self.give_up();
                Err(self.error(&operation()))
            }
            Err(WaitEnd::Over) => Err(self.error(&operation())),
        }
    }

    /// Waits for the answer to a request, for as long as the broker takes.
    ///
    /// # Errors
    /// As [`Connection::wait`].
    pub fn answer<T>(
        &mut self,
        operation: &str,
        came: impl FnMut(&mut Socket) -> Option<T>,
    ) -> Result<T, Error> {
        self.socket.may_read = true;
        let mut patience = SilenceTimer::default();
        let said = || operation.to_owned();
        match self.wait(
            &said,
            Some((&mut patience, &said)),
            None,
            OnInterrupt::Hurry,
            came,
        )? {
            WaitOutcome::Came(it) => Ok(it),
            WaitOutcome::Interrupted | WaitOutcome::Late => {
                Err(Error::Bug("a wait without a deadline was late".to_owned()))
            }
        }
    }

    /// Closes the channel for messages, if it is open. What is not settled goes back to its queue.
    ///
    /// # Errors
    /// As [`Connection::wait`].
    pub fn close_channel(&mut self) -> Result<(), Error> {
        let socket = &mut self.socket;
        if !socket.is_channel_open {
            return Ok(());
        }
        socket.discard();
        socket.post(&frames::close(MESSAGES, frames::CHANNEL_CLOSE));
        socket.is_channel_open = false;
        let closed =
            |socket: &mut Socket| socket.take_answer(frames::CHANNEL_CLOSE_OK).then_some(());
        self.answer("close a channel", closed)
    }

    /// Says goodbye to the broker, which gets so long for its answer. With the connection end its
    /// channels: when the broker has answered, it has done all that it was asked to do.
    ///
    /// # Errors
    /// What ended the connection before that.
    pub fn close(&mut self, within: Duration) -> Result<(), Error> {
        self.waiter.leave_within(within);
        self.socket.discard();
        self.socket.refusal = None;
        if self.is_open() {
            self.socket
                .send(&frames::close(0, frames::CONNECTION_CLOSE));
        }
        let left =
            |socket: &mut Socket| matches!(socket.cause, Some(CloseCause::Left)).then_some(());
        self.answer("close the connection", left)
    }

    /// Gives the connection up without a word, so that nothing waits for it any more.
    pub fn give_up(&mut self) {
        debug!("giving the connection up");
        self.socket.end(CloseCause::GivenUp);
    }

    /// Gives the connection up because of an answer that makes no sense, and returns that as an error.
    pub fn misunderstood(&mut self, operation: &str) -> Error {
        self.socket.end(CloseCause::NotAmqp);
        self.error(operation)
    }

    /// Returns what ended the connection, or the broker's refusal that closed the channel for messages,
    /// in the user's words. `operation` is what it was to do.
    pub fn error(&mut self, operation: &str) -> Error {
        let broker = self.socket.name.to_string();
        let refused = |code, said| Error::Refused {
            broker: broker.clone(),
            operation: operation.to_owned(),
            code,
            said,
        };
        if let Some((code, said)) = self.socket.refusal.take() {
            return refused(code, said);
        }
        let cause = self.socket.cause.as_ref();
        debug!("{operation}: {cause:?}");
        match cause {
            Some(CloseCause::Closed(code, said)) if !is_farewell(*code, said) => {
                return refused(*code, said.clone());
            }
            _ if self.waiter.is_interrupted() => {
                return Error::Interrupted(format!(
                    "before {broker} answered the request to {operation}"
                ));
            }
            _ if self.waiter.is_late() => return Error::TimeIsUp,
            _ => {}
        }
        let reason = match cause {
            Some(CloseCause::Closed(_, said)) => text::one_line(said),
            Some(CloseCause::HungUp | CloseCause::Left) => {
                "the broker closed it without giving a reason".to_owned()
            }
            Some(CloseCause::Failed(error)) => error::reason(error),
            Some(CloseCause::NotAmqp) => "received data that is not AMQP".to_owned(),
            Some(CloseCause::Silent) => {
                let limit = self.socket.heartbeat.limit().as_secs();
                format!("no data from the broker for {limit}s (two heartbeats)")
            }
            Some(CloseCause::GivenUp) | None => "the broker did not answer in time".to_owned(),
        };
        Error::Lost {
            broker,
            operation: operation.to_owned(),
            reason,
            code: match cause {
                Some(CloseCause::Closed(code, _)) => Some(*code),
                _ => None,
            },
        }
    }
}

/// Whether the broker closed the connection for reasons of its own (shutdown, an operator) and not
/// because of what was asked of it.
fn is_farewell(code: u16, said: &str) -> bool {
    const CONNECTION_FORCED: u16 = 320;
    const INTERNAL_ERROR: u16 = 541;
    code == CONNECTION_FORCED || code == INTERNAL_ERROR && !error::is_transient_refusal(said)
}
