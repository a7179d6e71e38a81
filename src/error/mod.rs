//! Everything that can go wrong, typed once: one sentence for a person, one hint, one exit status.

mod confirm_failure;
mod hint;
mod status;

use std::io;
use std::path::PathBuf;

use nix::errno::Errno;
use thiserror::Error;

use crate::text;
pub use confirm_failure::{ConfirmFailure, NameList, listed};
pub use status::Status;

/// What could not be done, on which broker or file, and why.
///
/// `Display` is one line without control characters. A password is never part of it: a broker is
/// named by its [`Display`](crate::settings::Broker), which leaves the password out.
#[derive(Debug, Error)]
pub enum Error {
    /// The command line asks for something that can't be.
    #[error("{0}")]
    Usage(String),

    /// A setting of the environment or of the configuration file is wrong.
    #[error("{place}: {problem}")]
    Config {
        /// The file and line, or the environment variable.
        place: String,
        /// What is wrong with it.
        problem: String,
    },

    /// The two can't agree about TLS, and waiting does not help.
    #[error("cannot reach {broker}: {reason}")]
    Tls {
        /// The broker's URL without password.
        broker: String,
        /// What is wrong.
        reason: String,
        /// With whom.
        fault: TlsFault,
    },

    /// No connection could be opened.
    #[error("cannot reach {broker}: {reason}")]
    Unreachable {
        /// The broker's URL without password.
        broker: String,
        /// What failed at each address that was tried.
        reason: String,
        /// Where the host was set.
        origin: String,
    },

    /// The broker refused the login, the virtual host or the connection as a whole.
    #[error("{broker} refused the connection: {said}")]
    LoginRefused {
        /// The broker's URL without password.
        broker: String,
        /// As whom it was to be.
        username: String,
        /// Whether there is a password other than the default.
        has_password: bool,
        /// AMQP's reply code.
        code: u16,
        /// The broker's own words.
        said: String,
    },

    /// An open connection broke, or the broker closed it.
    #[error(
        "lost the connection to {broker} while {}: {reason}",
        participle(operation)
    )]
    Lost {
        /// The broker's URL without password.
        broker: String,
        /// The operation and its object, such as `declare queue 'hello'`.
        operation: String,
        /// The reason, in the broker's words if it gave one.
        reason: String,
        /// AMQP's reply code, if the broker closed it.
        code: Option<u16>,
    },

    /// A lost connection did not come back.
    #[error("{lost}; could not reconnect within {patience}: {last}")]
    NotBack {
        /// How it was lost.
        lost: Box<Error>,
        /// How long was tried.
        patience: String,
        /// What the last attempt failed of.
        last: Box<Error>,
    },

    /// The broker confirmed nothing for too long.
    #[error("{broker} has confirmed nothing for {patience}")]
    NoConfirm {
        /// The broker's URL without password.
        broker: String,
        /// How long it was waited for.
        patience: String,
    },

    /// The broker refused messages that it was sent, again and again.
    #[error("{broker} rejected messages (nack)")]
    Nack {
        /// The broker's URL without password.
        broker: String,
    },

    /// There were fewer messages than were asked for.
    #[error("received {received} of {wanted}: {why}")]
    Short {
        /// How many messages there were.
        received: u64,
        /// How many were asked for.
        wanted: u64,
        /// What ended it.
        why: &'static str,
    },

    /// Requests were sent, and not all were answered.
    #[error("no reply to {missing} within {patience} (--reply-timeout); {answered} answered")]
    NoReply {
        /// The requests without a reply, as names.
        missing: String,
        /// How many replies came.
        answered: u64,
        /// How long was waited for the next.
        patience: String,
    },

    /// The time that the user gave (`--timeout`) is over.
    #[error("timed out (--timeout)")]
    TimeIsUp,

    /// The broker refused one operation.
    #[error("cannot {operation} on {broker}: {}", text::one_line(said))]
    Refused {
        /// The broker's URL without password.
        broker: String,
        /// The operation and its object, such as `declare queue 'hello'`.
        operation: String,
        /// AMQP's reply code.
        code: u16,
        /// The broker's own words.
        said: String,
    },

    /// What is to be declared exists with other properties.
    #[error("{0}")]
    Different(Box<Mismatch>),

    /// Some of what the configuration file defines could not be declared; each was said.
    #[error("{failed} of {total} do not match the configuration")]
    Topology {
        /// How many failed.
        failed: usize,
        /// How many there are.
        total: usize,
        /// The worst status of those that failed.
        status: Status,
    },

    /// The user was asked, and said no.
    #[error("nothing was done: {0}")]
    Declined(String),

    /// The queue that was being consumed is gone.
    #[error(
        "{broker} cancelled the consumer of queue {queue}: the queue was deleted, or its node went down"
    )]
    Cancelled {
        /// The broker's URL without password.
        broker: String,
        /// The queue's name, quoted.
        queue: String,
    },

    /// A message was not settled in the time that the broker gives its consumers.
    #[error(
        "{broker} cancelled the consumer of queue {queue}: a message was not acknowledged within the \
         consumer_timeout{}",
        timeout(said)
    )]
    AckTimeout {
        /// The broker's URL without password.
        broker: String,
        /// The queue's name, quoted.
        queue: String,
        /// The broker's own words.
        said: String,
    },

    /// Messages that were to stay in their queue could not be kept from being dropped.
    #[error(
        "queue {queue} drops or dead-letters messages that exceed its delivery limit ({messages}), because \
         they could not be moved to its end: {why}"
    )]
    Dropped {
        /// The queue's name, quoted.
        queue: String,
        /// How many messages.
        messages: usize,
        /// What failed.
        why: Box<Error>,
    },

    /// The broker did not take every message.
    #[error("{0}")]
    ConfirmFailure(Box<ConfirmFailure>),

    /// A standard descriptor was not open, or not in its direction, when the process was started.
    #[error("{name} is {problem}: nothing was done")]
    Descriptor {
        /// Which of them, such as `standard output`.
        name: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },

    /// Standard input could not be read.
    #[error("cannot read standard input: {}", reason(.0))]
    Input(io::Error),

    /// A file to send could not be read.
    #[error("cannot read {}: {}", text::escape(&path.display().to_string()), reason(source))]
    InputFile {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },

    /// What there is to send is not what it should be.
    #[error("{place}: {problem}")]
    BadInput {
        /// Which part of the input, such as `line 3 of standard input`.
        place: String,
        /// What is wrong with it.
        problem: String,
    },

    /// There was nothing to send.
    #[error("standard input is empty: there is no message to send")]
    EmptyInput,

    /// A file could not be read.
    #[error("cannot read {}: {}", text::escape(&path.display().to_string()), reason(source))]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },

    /// Standard output can't be written to.
    #[error("cannot write to standard output: {}; {consequence}", reason(source))]
    Output {
        /// The system's reason.
        source: io::Error,
        /// What became of the messages.
        consequence: String,
    },

    /// A message can't be saved as a file (`--save`).
    #[error("{failure}; {consequence}")]
    Save {
        /// The directory, and the reason.
        failure: SaveFailure,
        /// What became of the messages.
        consequence: String,
    },

    /// The command for the messages can't be run at all.
    #[error("cannot run {}: {}", text::quote(command.as_bytes()), reason(source))]
    Spawn {
        /// The command.
        command: String,
        /// The system's reason.
        source: io::Error,
    },

    /// The system has no more of something that is needed.
    #[error("cannot {what}: {}", reason(source))]
    System {
        /// What it is needed for.
        what: &'static str,
        /// The system's reason.
        source: io::Error,
    },

    /// A command failed, and that is the end (`--on-failure stop`).
    #[error("{0}; stopping (--on-failure stop)")]
    CommandFailed(String),

    /// The directory for the messages can't be written to.
    #[error("cannot save messages in {}: {}", text::escape(&path.display().to_string()), reason(source))]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },

    /// The user stopped the command before its work was done.
    #[error("interrupted {0}")]
    Interrupted(String),

    /// Something that can't happen did.
    #[error("a bug in hello-mq: {0}")]
    Bug(String),
}

/// The reason why a message can't be saved as a file.
#[derive(Debug, Error)]
#[error("cannot save messages in {}: {}; {}", text::escape(&path.display().to_string()), reason(source), match saved {
    0 => "none was saved".to_owned(),
    1 => "1 was saved".to_owned(),
    saved => format!("{saved} were saved"),
})]
pub struct SaveFailure {
    /// The directory.
    pub path: PathBuf,
    /// How many were saved before.
    pub saved: u64,
    /// The system's reason.
    pub source: io::Error,
}

/// What exists with other properties than it was to be declared with.
#[derive(Debug, Error)]
#[error(
    "{entity} exists with other properties on {broker}: {}",
    text::one_line(said)
)]
pub struct Mismatch {
    /// The broker's URL without password.
    pub broker: String,
    /// What it is, with its name, such as `queue 'hello'`.
    pub entity: String,
    /// The broker's own words.
    pub said: String,
    /// Each property that differs, wanted and existing.
    pub differences: Vec<String>,
    /// The command that declares it as it is, if everything is known.
    pub command: Option<String>,
}

/// Where it is that TLS fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFault {
    /// With the broker's certificate.
    Theirs,
    /// With ours, or that we have none.
    Ours,
    /// The port is one without TLS.
    NotThere,
    /// The port is one with TLS, and we have none.
    NotHere,
    /// The two don't come to terms.
    Other,
}

impl Error {
    /// The error of a thread that the system does not start.
    pub fn thread(source: io::Error) -> Self {
        Self::System {
            what: "start a thread",
            source,
        }
    }

    /// Whether the same may succeed a little later, on a new connection.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Lost { .. } | Self::AckTimeout { .. } => true,
            // The queue exists, on a node of the cluster that does not.
            Self::Refused {
                code: 404, said, ..
            } => said.contains("down or inaccessible"),
            // A broker that starts or stops refuses for reasons of its own.
            Self::LoginRefused { code, .. } => !matches!(code, 403 | 501 | 530),
            _ => false,
        }
    }

    /// Whether the broker closed the connection as something in it failed.
    pub fn is_internal(&self) -> bool {
        matches!(
            self,
            Self::Lost {
                code: Some(541),
                ..
            }
        )
    }

    /// What the broker says of the request with which it closed the connection, where that may be all
    /// that a new connection brings, too. When a node stops, or an operator closes the connection, the
    /// broker speaks of itself.
    pub fn complaint(&self) -> Option<&str> {
        match self {
            Self::Lost {
                reason,
                code: Some(541),
                ..
            } => Some(reason),
            _ => None,
        }
    }

    /// The refusal that a lost connection is when the broker closed it so many times with the same
    /// [`Error::complaint`].
    pub fn into_refusal(self, times: u32) -> Self {
        match self {
            Self::Lost {
                broker,
                operation,
                reason,
                code: Some(code),
            } => Self::Refused {
                broker,
                operation,
                code,
                said: format!("{reason} (it closed the connection {times} times in a row)"),
            },
            other => other,
        }
    }

    /// What belongs to it but does not fit on its line.
    pub fn details(&self) -> &[String] {
        match self {
            Self::Different(mismatch) => &mismatch.differences,
            _ => &[],
        }
    }
}

/// Turns `declare queue 'hello'` into `declaring queue 'hello'`.
fn participle(operation: &str) -> String {
    let (verb, object) = operation.split_at(operation.find(' ').unwrap_or(operation.len()));
    format!("{}ing{object}", verb.strip_suffix('e').unwrap_or(verb))
}

/// The system's words for what failed, without the number that Rust adds.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => text::one_line(&format!("{}{}", first.to_lowercase(), characters.as_str())),
        None => "unknown".to_owned(),
    }
}

/// Whether the system has no more of something at the moment: open files, processes or memory.
pub fn is_exhaustion(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(Errno::EAGAIN | Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM)
    )
}

/// Whether the broker refused a consumer because another one has the queue for itself, for which it
/// uses the code of a missing permission.
fn is_exclusive_use(said: &str) -> bool {
    said.contains("in exclusive use")
}

/// The time that the broker names in such a refusal, in parentheses.
fn timeout(said: &str) -> String {
    let time = said.split_once("value used: ").map(|(_, rest)| rest);
    let time = time.and_then(|rest| rest.split('.').next());
    // The value is negative where the queue has one of its own.
    match time.filter(|time| !time.starts_with('-')) {
        Some(time) => format!(" ({})", text::one_line(time)),
        None => String::new(),
    }
}

/// Whether the broker closed a channel because a message was not settled in time
/// (<https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout>).
pub fn is_ack_timeout(said: &str) -> bool {
    said.contains("delivery acknowledgement") && said.contains("timed out")
}

/// Whether the broker refused a queue because it is neither durable nor exclusive, which RabbitMQ
/// from 4.0 on can be told not to permit, and 4.3.0 does not by default
/// (<https://www.rabbitmq.com/docs/deprecated-features-list>).
pub fn is_transient_refusal(said: &str) -> bool {
    said.contains("transient_nonexcl_queues")
}

#[cfg(test)]
mod tests;
