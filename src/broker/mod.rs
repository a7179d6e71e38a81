//! The broker: the only room that knows the client library and its sockets.
//!
//! A [`Session`] is one connection that can always be closed. On it, [`topology`] declares queues,
//! a [`publisher`] sends messages and a [`consumer`] receives them. The library runs the connection;
//! messages go past it, see [`wire`].

mod arguments;
mod arrivals;
mod connect;
mod connector;
pub mod consumer;
mod content;
pub mod difference;
mod flow;
mod frames;
mod guard;
pub mod handler;
mod hands;
mod handshake;
pub mod peek;
pub mod publisher;
mod retry;
mod stream;
mod subscription;
mod tls;
pub mod topology;
pub mod window;
mod wire;

use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use amiquip::{Channel, Connection};
use crossbeam_channel::Sender;
use log::{debug, warn};
use nix::poll::{PollFd, PollFlags};

pub use connector::Connector;
pub use retry::Backoff;

use arrivals::Content;
use content::ContentChannel;
use guard::{GRACE, Wait, Word};
use stream::Link;
use wire::Wire;

use crate::bell::Listening;
use crate::error::{self, Error};
use crate::message::Message;
use crate::ready;
use crate::text;

/// One open connection to the broker.
///
/// Every operation of the client library waits for the broker without bound. A guard thread
/// therefore shuts the socket down when the user's interrupt (or [`Session::close`]) is not
/// followed by the end of the session within a moment: then each wait ends with an error.
pub struct Session {
    connection: Option<Connection>,
    /// The broker's URL without the password.
    name: String,
    socket: TcpStream,
    connector: Connector,
    /// The way past the library.
    wire: Arc<Wire<Link>>,
    /// The most bytes of a frame that the broker takes.
    frame_max: usize,
    /// A channel that is as good as a new one.
    spare: Option<Channel>,
    /// A channel that ends with the connection, which saves waiting for its own end.
    last: Option<Channel>,
    /// To the connection's guard, which leaves when this is gone.
    guard: Sender<Word>,
}

impl Session {
    /// Opens a new connection in place of this one, which the broker has closed.
    ///
    /// # Errors
    /// As [`Connector::open`].
    pub(crate) fn reopen(&mut self) -> Result<(), Error> {
        *self = self.connector.open_again()?;
        Ok(())
    }

    /// Opens a new connection if the broker has closed this one, as it does for a refusal of the
    /// graver kind.
    ///
    /// # Errors
    /// As [`Connector::open`].
    pub fn revive(&mut self) -> Result<(), Error> {
        match self.connection {
            Some(_) => Ok(()),
            None => self.reopen(),
        }
    }

    /// Says goodbye to the broker, within a second.
    ///
    /// # Errors
    /// [`Error::Lost`] if the connection had failed.
    pub fn close(mut self) -> Result<(), Error> {
        self.start_closing(GRACE);
        self.end()
    }

    /// Ends the connection in good order, and with it every channel: the broker has then done all that
    /// it was asked to do. The time that it has for it is that of [`Session::start_closing`].
    fn end(&mut self) -> Result<(), Error> {
        match self.hang_up() {
            Ok(()) => Ok(()),
            Err(error) => Err(self.translate("close it", error)),
        }
    }

    /// Ends the connection, and returns what had ended it before, if something had.
    fn hang_up(&mut self) -> Result<(), amiquip::Error> {
        self.wire.close();
        self.wire.hand_back();
        self.connection.take().map_or(Ok(()), Connection::close)
    }

    /// From here on the broker has so much time for its last words. The first call counts.
    fn start_closing(&self, within: Duration) {
        let _ = self.guard.send(Word::Closing(within));
    }

    /// Gives the connection up without a word, so that nothing waits for it any more.
    fn abandon(&self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// A channel that was never used, or as good as that. An operation that may be refused deserves
    /// one of its own: the broker answers a refusal by closing the channel.
    fn channel(&mut self) -> Result<Channel, Error> {
        if let Some(channel) = self.spare.take() {
            return Ok(channel);
        }
        let _wait = self.wait("open a channel");
        let opened = match &mut self.connection {
            Some(connection) => connection.open_channel(None),
            None => Err(amiquip::Error::EventLoopDropped),
        };
        opened.map_err(|error| self.error("open a channel", error))
    }

    /// A new channel for messages. There is one at a time.
    fn content_channel(&mut self) -> Result<ContentChannel, Error> {
        let channel = self.channel()?;
        let channel = ContentChannel::new(channel, &self.wire);
        channel.map_err(|error| self.error("open a channel", error))
    }

    /// Waits until there may be something to look at: something that came or went, a ring of the wire's
    /// bell, which is being listened to, or the moment `until`. Meanwhile nobody else reads; and nobody
    /// at all with `may_read` unset, so that what comes is not held here.
    fn pause(&self, listening: &Listening, may_read: bool, until: Option<Instant>) {
        self.wire.drive();
        let wanted = self.wire.attend(may_read);
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, wanted.read);
        flags.set(PollFlags::POLLOUT, wanted.write);
        let mut files = [
            PollFd::new(listening.file(), PollFlags::POLLIN),
            PollFd::new(self.socket.as_fd(), flags),
        ];
        // A socket that has failed would be ready whatever is asked for.
        let files = &mut files[..if flags.is_empty() { 1 } else { 2 }];
        let tick = (!may_read).then(|| Instant::now() + wire::HUNGER);
        let until = [until, tick].into_iter().flatten().min();
        let until = if wanted.nothing {
            Some(Instant::now())
        } else {
            until
        };
        ready::wait_for_any(files, until);
        let came = |file: Option<&PollFd>| file.is_some_and(|file| file.any() != Some(false));
        let (has_rung, came) = (came(files.first()), came(files.get(1)));
        if has_rung {
            listening.again();
        }
        self.wire.turn(wanted, came || wanted.nothing);
    }

    /// A message that came. What of it can't be read is said, and left out.
    fn received(&self, content: Content) -> Message {
        if let Some(problem) = content.problem {
            let note = format!("a part of a message can't be read, and is left out: {problem}");
            warn!("{note}");
            self.connector.talk.note(&note);
        }
        content.message
    }

    /// Announces that the broker's answer is waited for, if that takes long.
    fn wait(&self, operation: &str) -> Wait {
        self.wire.hand_back();
        Wait::new(&self.guard, operation)
    }

    /// The user's words for what the library says of a failed `operation` ("declare queue
    /// 'hello'"). The library gives a connection's cause of death only when it is closed.
    fn error(&mut self, operation: &str, error: amiquip::Error) -> Error {
        let cause = match error {
            amiquip::Error::EventLoopDropped
            | amiquip::Error::EventLoopClientDropped
            | amiquip::Error::ClientClosedConnection => self.hang_up().err().unwrap_or(error),
            // The connection is of no use any more, although the library still has it.
            cause @ amiquip::Error::ServerClosedConnection { .. } => {
                let _ = self.hang_up();
                cause
            }
            cause => cause,
        };
        self.translate(operation, cause)
    }

    fn translate(&self, operation: &str, error: amiquip::Error) -> Error {
        debug!("{operation}: {error}");
        let broker = self.name.clone();
        if self.connector.interrupt.happened() {
            return Error::Interrupted(format!(
                "before {broker} answered the request to {operation}"
            ));
        }
        if self.connector.is_late() {
            return Error::TimeIsUp;
        }
        let lost = |reason: String| Error::Lost {
            broker: broker.clone(),
            operation: operation.to_owned(),
            reason,
        };
        match error {
            amiquip::Error::ServerClosedConnection { code, message }
                if is_farewell(code, &message) =>
            {
                lost(text::one_line(&message))
            }
            amiquip::Error::ServerClosedChannel { code, message, .. }
            | amiquip::Error::ServerClosedConnection { code, message } => Error::Refused {
                broker: broker.clone(),
                operation: operation.to_owned(),
                code,
                said: message,
            },
            amiquip::Error::IoErrorReadingSocket { source }
            | amiquip::Error::IoErrorWritingSocket { source } => lost(error::reason(&source)),
            amiquip::Error::UnexpectedSocketClose
            | amiquip::Error::EventLoopDropped
            | amiquip::Error::EventLoopClientDropped
            // The library's thread does not survive every moment at which a connection can end.
            | amiquip::Error::IoThreadPanic => {
                lost("the broker closed it without a word".to_owned())
            }
            amiquip::Error::MissedServerHeartbeats => lost(format!(
                "nothing came from the broker for {}s (two heartbeats)",
                2 * u32::from(self.connector.broker.heartbeat.value.seconds())
            )),
            amiquip::Error::MalformedFrame | amiquip::Error::FrameUnexpected => {
                lost("what came is not AMQP".to_owned())
            }
            other => Error::Bug(format!(
                "the client library: {}",
                text::one_line(&other.to_string())
            )),
        }
    }
}

impl Drop for Session {
    /// A session that was not closed in good order must not wait for the broker.
    fn drop(&mut self) {
        // A channel that is dropped says farewell and waits for the answer.
        if self.connection.is_some() {
            self.abandon();
            self.wire.hand_back();
        }
    }
}

/// Whether the broker closed the connection for reasons of its own (shutdown, an operator) and not
/// because of what was asked of it.
fn is_farewell(code: u16, message: &str) -> bool {
    const CONNECTION_FORCED: u16 = 320;
    const INTERNAL_ERROR: u16 = 541;
    code == CONNECTION_FORCED || code == INTERNAL_ERROR && !error::is_transient_refusal(message)
}
