//! The broker: the only room that knows the client library and its sockets.
//!
//! A [`Session`] is one connection that can always be closed. On it, [`topology`] declares queues,
//! a [`publisher`] sends messages and a [`consumer`] receives them. The library runs the connection;
//! messages go past it, see [`stream`].

mod arguments;
mod arrivals;
mod connect;
mod connector;
pub mod consumer;
pub mod difference;
mod flow;
mod frames;
mod guard;
pub mod handler;
mod hands;
mod handshake;
mod outbox;
pub mod peek;
pub mod publisher;
mod retry;
mod stream;
mod subscription;
mod tls;
pub mod topology;
pub mod window;

use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use amiquip::{Channel, Connection};
use crossbeam_channel::{Receiver, Sender, TryRecvError};
use log::{debug, warn};

pub use connector::Connector;
pub use retry::Backoff;

use arrivals::{Arrival, Content};
use guard::{GRACE, Wait, Word};
use outbox::Outbox;

use crate::error::{self, Error};
use crate::message::Message;
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
    /// How many bytes have been written to the socket since the login.
    written: Arc<AtomicU64>,
    /// The most bytes of a frame that the broker takes.
    frame_max: usize,
    outbox: Outbox,
    /// What comes with messages, on whatever channel.
    inbox: Receiver<Vec<Arrival>>,
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
        // The library would send its farewell before what waits on a channel.
        self.outbox.settle(GRACE);
        match self.connection.take().map(Connection::close) {
            None | Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(self.translate("close it", error)),
        }
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
    fn content_channel(&mut self) -> Result<Channel, Error> {
        let channel = self.channel()?;
        // Its number may be that of an earlier one.
        self.outbox.clear();
        while self.inbox.try_recv().is_ok() {}
        Ok(channel)
    }

    /// Sends whole frames on a channel for messages.
    fn post(&self, channel: &Channel, frames: Vec<u8>) -> Result<(), amiquip::Error> {
        self.outbox.post(channel, frames)
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
        Wait::new(&self.guard, operation)
    }

    /// The user's words for what the library says of a failed `operation` ("declare queue
    /// 'hello'"). The library gives a connection's cause of death only when it is closed.
    fn error(&mut self, operation: &str, error: amiquip::Error) -> Error {
        let cause = match error {
            amiquip::Error::EventLoopDropped
            | amiquip::Error::EventLoopClientDropped
            | amiquip::Error::ClientClosedConnection => {
                match self.connection.take().map(Connection::close) {
                    Some(Err(cause)) => cause,
                    None | Some(Ok(())) => error,
                }
            }
            // The connection is of no use any more, although the library still has it.
            cause @ amiquip::Error::ServerClosedConnection { .. } => {
                let _ = self.connection.take().map(Connection::close);
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
        }
    }
}

/// Tells when a channel is gone, without asking the broker.
struct Gone(Receiver<amiquip::Confirm>);

impl Gone {
    /// The library keeps one end for as long as the channel lives, and has nothing to send through it,
    /// as confirms do not come to it.
    fn of(channel: &Channel) -> Result<Self, amiquip::Error> {
        channel.listen_for_publisher_confirms().map(Self)
    }

    /// For `select!`: it becomes ready, and stays so, when the channel is gone.
    fn receiver(&self) -> &Receiver<amiquip::Confirm> {
        &self.0
    }

    /// Fails if the channel is gone, with the reason: any operation on it gives that.
    fn check(&self, channel: &Channel) -> Result<(), amiquip::Error> {
        match self.0.try_recv() {
            Err(TryRecvError::Disconnected) => {
                let why = channel.qos(0, 0, false).err();
                Err(why.unwrap_or(amiquip::Error::EventLoopDropped))
            }
            _ => Ok(()),
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
