//! What keeps a connection from waiting for ever, and in silence.

use std::convert::Infallible;
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use amiquip::ConnectionBlockedNotification;
use crossbeam_channel::{Receiver, RecvTimeoutError, after, at, never, select};
use log::debug;

use crate::interrupt::Interrupt;
use crate::talk::Talk;
use crate::text;

/// How long the broker may take for its last words once the user wants to leave.
pub const GRACE: Duration = Duration::from_secs(1);

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
