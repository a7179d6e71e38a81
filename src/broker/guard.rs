//! What keeps a connection from waiting for ever, and in silence.

use std::convert::Infallible;
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use amiquip::ConnectionBlockedNotification;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, after, at, bounded, never, select};
use log::debug;

use crate::interrupt::Interrupt;
use crate::talk::Talk;
use crate::text;

/// How long the broker may take for its last words once the user wants to leave.
pub const GRACE: Duration = Duration::from_secs(1);

/// How long to wait for an answer in silence.
const SILENCE: Duration = Duration::from_secs(5);

/// A wait for the broker's answer, until it is dropped. A line says so if it is long: without
/// heartbeats it may last for ever.
pub struct Wait {
    // Nothing is ever sent.
    _over: Sender<Infallible>,
}

impl Wait {
    /// Begins to wait for the `broker` to do something.
    pub fn new(talk: &Talk, broker: &str, operation: &str) -> Self {
        let (over, waiting) = bounded(0);
        let (talk, text) = (talk.clone(), format!("waiting for {broker} to {operation}"));
        let thread = move || {
            if waiting.recv_timeout(SILENCE) == Err(RecvTimeoutError::Timeout) {
                talk.note(&text);
            }
        };
        // Where there is no thread to be had, the wait is silent.
        let _ = thread::Builder::new().name("wait".to_owned()).spawn(thread);
        Self { _over: over }
    }
}

/// Watches one connection from a thread of its own.
pub struct Guard {
    pub name: String,
    pub socket: TcpStream,
    pub blocked: Receiver<ConnectionBlockedNotification>,
    pub interrupt: Interrupt,
    pub until: Option<Instant>,
    pub talk: Talk,
}

impl Guard {
    /// Announces what the broker says of itself until the session is closed (`open` is gone). If that
    /// does not happen within 1 s after the user's interrupt or the end of the time, or within the
    /// time that `closing` gives for it, the socket is shut down.
    pub fn watch(mut self, closing: &Receiver<Duration>, open: &Receiver<Infallible>) {
        let over = self.until.map_or_else(never, at);
        let mut closing = closing.clone();
        let mut closed_late = never();
        loop {
            select! {
                recv(open) -> _ => return,
                recv(self.interrupt.receiver()) -> _ => break,
                recv(over) -> _ => break,
                recv(closing) -> within => {
                    closing = never();
                    closed_late = after(within.unwrap_or(GRACE));
                }
                recv(closed_late) -> _ => return self.shut_down(),
                recv(self.blocked) -> notification => match notification {
                    Ok(notification) => self.announce(&notification),
                    Err(_) => self.blocked = never(),
                },
            }
        }
        if open.recv_timeout(GRACE) == Err(RecvTimeoutError::Timeout) {
            self.shut_down();
        }
    }

    fn shut_down(&self) {
        debug!("shutting the connection down: the broker does not answer");
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Says that the broker stopped taking messages, or takes them again.
    fn announce(&self, notification: &ConnectionBlockedNotification) {
        self.talk.note(&match notification {
            ConnectionBlockedNotification::Blocked(reason) => format!(
                "{} takes no messages at the moment ({}); waiting until it does",
                self.name,
                text::one_line(reason)
            ),
            ConnectionBlockedNotification::Unblocked => {
                format!("{} takes messages again", self.name)
            }
        });
    }
}
