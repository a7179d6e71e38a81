//! The errors, each with a message, a hint and an exit status.

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

/// An error.
///
/// `Display` is one line without control characters and without passwords: a broker is named by its [`Display`](crate::settings::Broker), which leaves the password out.
#[derive(Debug, Error)]
pub enum Error {
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),

    /// A setting in the environment or in the configuration file is wrong.
    #[error("{place}: {problem}")]
    Config {
        /// The file and line, or the environment variable.
        place: String,
        /// The problem.
        problem: String,
    },

    /// TLS can't be established, and a retry would not help.
    #[error("cannot reach {broker}: {reason}")]
    Tls {
        /// The broker's URL without password.
        broker: String,
        /// The problem.
        reason: String,
        /// The kind of problem.
        fault: TlsFault,
    },

    /// No connection could be opened.
    #[error("cannot reach {broker}: {reason}")]
    Unreachable {
        /// The broker's URL without password.
        broker: String,
        /// The failures, one for each address.
        reason: String,
        /// The origin of the host setting.
        origin: String,
    },

    /// The broker refused the login, the virtual host or the connection as a whole.
    #[error("{broker} refused the connection: {said}")]
    LoginRefused {
        /// The broker's URL without password.
        broker: String,
        /// The user.
        username: String,
        /// Whether a password other than the default is set.
        has_password: bool,
        /// The reply code of AMQP.
        code: u16,
        /// The broker's text.
        said: String,
    },

    /// The connection broke, or the broker closed it.
    #[error(
        "lost the connection to {broker} while {}: {reason}",
        participle(operation)
    )]
    Lost {
        /// The broker's URL without password.
        broker: String,
        /// The operation and its object, such as `declare queue 'hello'`.
        operation: String,
        /// The reason, which is the broker's text if it sent one.
        reason: String,
        /// The reply code of AMQP, if the broker closed the connection.
        code: Option<u16>,
    },

    /// A lost connection could not be opened again in time.
    #[error("{lost}; could not reconnect within {patience}: {last}")]
    NotBack {
        /// The loss of the connection.
        lost: Box<Error>,
        /// The time for which it was tried.
        patience: String,
        /// The error of the last attempt.
        last: Box<Error>,
    },

    /// The broker confirmed nothing in time.
    #[error("{broker} has confirmed nothing for {patience}")]
    NoConfirm {
        /// The broker's URL without password.
        broker: String,
        /// The time that was waited.
        patience: String,
    },

    /// The broker refused messages repeatedly.
    #[error("{broker} rejected messages (nack)")]
    Nack {
        /// The broker's URL without password.
        broker: String,
    },

    /// There were fewer messages than the user asked for.
    #[error("received {received} of {wanted}: {why}")]
    Short {
        /// The number of messages.
        received: u64,
        /// The number that the user asked for.
        wanted: u64,
        /// The reason for the end.
        why: &'static str,
    },

    /// No more messages could be held that are not taken (`--max-held`).
    #[error(
        "stopped before the end of the queue: no more messages can be held that are not taken (--max-held)"
    )]
    HeldTooMany,

    /// Messages could not be changed (`--map`).
    #[error("--map failed for {messages} {}", if *messages == 1 { "message" } else { "messages" })]
    Unmapped {
        /// The number of messages.
        messages: u64,
    },

    /// Not all requests were answered.
    #[error("no reply to {missing} within {patience} (--reply-timeout); {answered} answered")]
    NoReply {
        /// The names of the requests without a reply.
        missing: String,
        /// The number of replies.
        answered: u64,
        /// The time that was waited for the next reply.
        patience: String,
    },

    /// The time of `--timeout` is over.
    #[error("timed out (--timeout)")]
    TimeIsUp,

    /// The broker refused an operation.
    #[error("cannot {operation} on {broker}: {}", text::one_line(said))]
    Refused {
        /// The broker's URL without password.
        broker: String,
        /// The operation and its object, such as `declare queue 'hello'`.
        operation: String,
        /// The reply code of AMQP.
        code: u16,
        /// The broker's text.
        said: String,
    },

    /// An entity exists with other properties.
    #[error("{0}")]
    Different(Box<Mismatch>),

    /// Some entities of the configuration file could not be declared. Each error has been printed.
    #[error("{failed} of {total} do not match the configuration")]
    Topology {
        /// The number that failed.
        failed: usize,
        /// The number of all.
        total: usize,
        /// The highest status among those that failed.
        status: Status,
    },

    /// The user answered no.
    #[error("nothing was done: {0}")]
    Declined(String),

    /// The consumed queue is gone.
    #[error(
        "{broker} cancelled the consumer of queue {queue}: the queue was deleted, or its node went down"
    )]
    Cancelled {
        /// The broker's URL without password.
        broker: String,
        /// The queue's name, quoted.
        queue: String,
    },

    /// A message was not settled within the broker's `consumer_timeout`.
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
        /// The broker's text.
        said: String,
    },

    /// Messages that should have stayed in their queue were dropped.
    #[error(
        "queue {queue} drops or dead-letters messages that exceed its delivery limit ({messages}), because \
         they could not be moved to its end: {why}"
    )]
    Dropped {
        /// The queue's name, quoted.
        queue: String,
        /// The number of messages.
        messages: usize,
        /// The error that prevented it.
        why: Box<Error>,
    },

    /// The connection on which a `receive` publishes can't be opened, or not again. That for receiving may
    /// be to another broker.
    #[error("{0}")]
    Publisher(Box<Error>),

    /// The broker did not accept all messages.
    #[error("{0}")]
    ConfirmFailure(Box<ConfirmFailure>),

    /// A message can't be forwarded, because no queue takes it.
    #[error("{broker} returned {message}, forwarded to '{target}' ({said}); {confirmed} forwarded")]
    Unroutable {
        /// The broker's URL without password.
        broker: String,
        /// The name of the message.
        message: String,
        /// The exchange and the routing key, as `--forward-to` takes them.
        target: String,
        /// The broker's text.
        said: String,
        /// The number of messages that were forwarded before.
        confirmed: u64,
    },

    /// A standard descriptor was closed, or not open in its direction, when the process started.
    #[error("{name} is {problem}: nothing was done")]
    Descriptor {
        /// Its name, such as `standard output`.
        name: &'static str,
        /// The problem.
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

    /// The input is malformed.
    #[error("{place}: {problem}")]
    BadInput {
        /// The part of the input, such as `line 3 of standard input`.
        place: String,
        /// The problem.
        problem: String,
    },

    /// Standard input was empty.
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
        /// The consequence for the messages.
        consequence: String,
    },

    /// A message can't be saved as a file (`--save`).
    #[error("{failure}; {consequence}")]
    Save {
        /// The directory, and the reason.
        failure: SaveFailure,
        /// The consequence for the messages.
        consequence: String,
    },

    /// The command for the messages can't be run.
    #[error("cannot run {}: {}", text::quote(command.as_bytes()), reason(source))]
    Spawn {
        /// The command.
        command: String,
        /// The system's reason.
        source: io::Error,
    },

    /// The system lacks a resource.
    #[error("cannot {what}: {}", reason(source))]
    System {
        /// The action that needs the resource.
        what: &'static str,
        /// The system's reason.
        source: io::Error,
    },

    /// A command failed with `--on-failure stop`.
    #[error("{0}; stopping (--on-failure stop)")]
    CommandFailed(String),

    /// The directory of `--save` can't be written to.
    #[error("cannot save messages in {}: {}", text::escape(&path.display().to_string()), reason(source))]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },

    /// The user interrupted the command before its work was done.
    #[error("interrupted {0}")]
    Interrupted(String),

    /// hello-mq has a bug.
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
    /// The number of messages that were saved before.
    pub saved: u64,
    /// The system's reason.
    pub source: io::Error,
}

/// An entity that exists with other properties than it was declared with.
#[derive(Debug, Error)]
#[error(
    "{entity} exists with other properties on {broker}: {}",
    text::one_line(said)
)]
pub struct Mismatch {
    /// The broker's URL without password.
    pub broker: String,
    /// The kind and the name, such as `queue 'hello'`.
    pub entity: String,
    /// The broker's text.
    pub said: String,
    /// The differences, each with the wanted and the existing value.
    pub differences: Vec<String>,
    /// The command that declares it with its existing properties, if all are known.
    pub command: Option<String>,
}

/// The kind of a TLS problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFault {
    /// The broker's certificate is wrong.
    BrokerCertificate,
    /// The client's certificate is wrong or missing.
    ClientCertificate,
    /// The port does not use TLS.
    PlainPort,
    /// The port uses TLS, and hello-mq does not.
    TlsPort,
    /// The handshake failed otherwise.
    Other,
}

impl Error {
    /// Returns the error of a thread that the system does not start.
    pub fn thread(source: io::Error) -> Self {
        Self::System {
            what: "start a thread",
            source,
        }
    }

    /// Whether the operation may succeed later, on a new connection.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Lost { .. } | Self::AckTimeout { .. } => true,
            // The node of the queue is down.
            Self::Refused {
                code: 404, said, ..
            } => said.contains("down or inaccessible"),
            // A broker that is starting or stopping refuses logins with other codes.
            Self::LoginRefused { code, .. } => !matches!(code, 403 | 501 | 530),
            _ => false,
        }
    }

    /// Whether the broker closed the connection because of an internal error.
    pub fn is_internal(&self) -> bool {
        matches!(
            self,
            Self::Lost {
                code: Some(541),
                ..
            }
        )
    }

    /// Returns the broker's text if it closed the connection because of a request, which may fail again on a
    /// new connection; `None` if a node stopped or an operator closed it.
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

    /// Turns a lost connection into a refusal, after the broker closed it this often with the same
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

    /// Returns further lines of the message.
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

/// Returns the system's text for an error, without the number that Rust adds.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => text::one_line(&format!("{}{}", first.to_lowercase(), characters.as_str())),
        None => "unknown".to_owned(),
    }
}

/// Whether the system lacks open files, processes or memory at the moment.
pub fn is_exhaustion(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(Errno::EAGAIN | Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM)
    )
}

/// Whether the broker refused a consumer because another one is exclusive. The reply code is that of a
/// missing permission.
fn is_exclusive_use(said: &str) -> bool {
    said.contains("in exclusive use")
}

/// Returns the time-out that the broker names in its text, in parentheses.
fn timeout(said: &str) -> String {
    let time = said.split_once("value used: ").map(|(_, rest)| rest);
    let time = time.and_then(|rest| rest.split('.').next());
    // RabbitMQ shows a negative value if the queue has a time-out of its own.
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

/// Whether the broker refused a queue because it is neither durable nor exclusive, which can be forbidden
/// since RabbitMQ 4.0 and is by default in 4.3.0
/// (<https://www.rabbitmq.com/docs/deprecated-features-list>).
pub fn is_transient_refusal(said: &str) -> bool {
    said.contains("transient_nonexcl_queues")
}

#[cfg(test)]
mod tests;
