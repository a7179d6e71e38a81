//! What keeps a connection from waiting for ever, and in silence.

use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use amiquip::ConnectionBlockedNotification;
use crossbeam_channel::{Receiver, Sender, after, at, never, select};
use log::debug;

use crate::interrupt::Interrupt;
use crate::talk::Talk;
use crate::text;

/// How long the broker may take for its last words once the user wants to leave.
pub const GRACE: Duration = Duration::from_secs(1);

/// How long to wait for an answer in silence.
const SILENCE: Duration = Duration::from_secs(5);

/// What a session tells its guard. That it is closed, the guard sees by the end of the words.
pub enum Word {
    /// It waits for the broker to do this.
    Waiting(String),
    /// It waits no longer.
    Answered,
    /// It is being closed, and that may take so long. The first time counts.
    Closing(Duration),
}

/// A wait for the broker's answer, until it is dropped. A line says so if it is long: without
/// heartbeats it may last for ever.
pub struct Wait(Sender<Word>);

impl Wait {
    /// Begins to wait for the broker to do something.
    pub fn new(guard: &Sender<Word>, operation: &str) -> Self {
        let _ = guard.send(Word::Waiting(operation.to_owned()));
        Self(guard.clone())
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let _ = self.0.send(Word::Answered);
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
    /// Announces what the broker says of itself, and that it does not answer, until the session is
    /// closed. If that does not happen within 1 s after the user's interrupt or the end of the time,
    /// or within the time that the session gives for it, the socket is shut down.
    pub fn watch(mut self, words: &Receiver<Word>) {
        let over = self.until.map_or_else(never, at);
        let (mut operation, mut silence) = (String::new(), never());
        let (mut is_closing, mut late) = (false, never());
        loop {
            select! {
                recv(words) -> word => match word {
                    Err(_) => return,
                    Ok(Word::Waiting(what)) => (operation, silence) = (what, after(SILENCE)),
                    Ok(Word::Answered) => silence = never(),
                    Ok(Word::Closing(_)) if is_closing => {}
                    Ok(Word::Closing(within)) => (is_closing, late) = (true, after(within)),
                },
                recv(silence) -> _ => {
                    silence = never();
                    self.talk.note(&format!("waiting for {} to {operation}", self.name));
                }
                recv(self.interrupt.receiver()) -> _ => break,
                recv(over) -> _ => break,
                recv(late) -> _ => return self.shut_down(),
                recv(self.blocked) -> notification => match notification {
                    Ok(notification) => self.announce(&notification),
                    Err(_) => self.blocked = never(),
                },
            }
        }
        let late = after(GRACE);
        loop {
            select! {
                recv(words) -> word => if word.is_err() {
                    return;
                },
                recv(late) -> _ => return self.shut_down(),
            }
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
