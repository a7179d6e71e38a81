//! The exit statuses, and the status of each error.

use super::{Error, TlsFault, is_exclusive_use, is_exhaustion};

/// An exit status.
///
/// The codes are those of BSD's `sysexits.h`, which rabbitmqctl and rabbitmqadmin use, and the shell's 130
/// for an interrupted command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Status {
    /// Done; for `receive` also: stopped by Ctrl+C, SIGTERM or a closed pipe.
    Done = 0,
    /// Fewer messages than asked for.
    Short = 1,
    /// The command line is wrong (`EX_USAGE`).
    Usage = 64,
    /// The input is malformed (`EX_DATAERR`).
    BadInput = 65,
    /// An input file can't be read (`EX_NOINPUT`).
    NoInput = 66,
    /// There is no such queue or exchange, or a message was unroutable.
    NoSuchQueue = 67,
    /// The broker can't be reached, or was lost (`EX_UNAVAILABLE`).
    Unavailable = 69,
    /// A bug in hello-mq (`EX_SOFTWARE`).
    Bug = 70,
    /// The system lacks a resource (`EX_OSERR`).
    System = 71,
    /// Output can't be created (`EX_CANTCREAT`).
    CantCreate = 73,
    /// Output can't be written or input can't be read (`EX_IOERR`).
    Io = 74,
    /// Not confirmed by the broker: try again (`EX_TEMPFAIL`).
    NotConfirmed = 75,
    /// The broker refused the operation (`EX_PROTOCOL`).
    Refused = 76,
    /// Credentials, virtual host or permission refused (`EX_NOPERM`).
    NoPermission = 77,
    /// The configuration is wrong (`EX_CONFIG`).
    Config = 78,
    /// Interrupted with work left undone.
    Interrupted = 130,
}

impl Status {
    /// The statuses and their meanings for the user.
    pub const MEANINGS: [(Self, &'static str); 16] = [
        (
            Self::Done,
            "success; for receive also after Ctrl+C, SIGTERM or a closed pipe",
        ),
        (
            Self::Short,
            "fewer messages or replies than asked for before the timeout or the end of the queue; too many \
             that were not taken (--max-held); a failed command (--on-failure stop); no to a request for \
             confirmation",
        ),
        (Self::Usage, "invalid command line"),
        (
            Self::BadInput,
            "malformed input (the error names the line), or no input; messages for which --map failed",
        ),
        (Self::NoInput, "an input file can't be read"),
        (
            Self::NoSuchQueue,
            "no such queue or exchange, or an unroutable message",
        ),
        (
            Self::Unavailable,
            "the broker can't be reached, or the connection was lost and not reopened in time",
        ),
        (Self::Bug, "a bug in hello-mq"),
        (
            Self::System,
            "the system is out of open files, processes, threads or memory",
        ),
        (
            Self::CantCreate,
            "the directory of --save can't be written to",
        ),
        (Self::Io, "output can't be written or input can't be read"),
        (
            Self::NotConfirmed,
            "messages not confirmed by the broker; try again",
        ),
        (Self::Refused, "the broker refused the operation"),
        (
            Self::NoPermission,
            "credentials, virtual host or permission refused, or a certificate rejected by either side",
        ),
        (Self::Config, "invalid configuration"),
        (
            Self::Interrupted,
            "interrupted with work left to do, or a second Ctrl+C",
        ),
    ];

    /// Returns the exit code.
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl Error {
    /// Returns the exit status of the error.
    pub fn status(&self) -> Status {
        match self {
            Self::System { .. } => Status::System,
            Self::Spawn { source, .. } if is_exhaustion(source) => Status::System,
            Self::Usage(_) | Self::Spawn { .. } => Status::Usage,
            Self::EmptyInput | Self::BadInput { .. } | Self::Unmapped { .. } => Status::BadInput,
            Self::InputFile { .. } => Status::NoInput,
            Self::Config { .. } | Self::File { .. } => Status::Config,
            Self::Unreachable { .. } | Self::Lost { .. } | Self::NotBack { .. } => {
                Status::Unavailable
            }
            Self::Tls { fault, .. } => match fault {
                TlsFault::BrokerCertificate | TlsFault::ClientCertificate => Status::NoPermission,
                _ => Status::Unavailable,
            },
            Self::NoConfirm { .. } | Self::Nack { .. } => Status::NotConfirmed,
            Self::Short { .. } | Self::NoReply { .. } | Self::TimeIsUp | Self::CommandFailed(_) => {
                Status::Short
            }
            Self::LoginRefused { code, .. } => match code {
                403 | 501 | 530 => Status::NoPermission,
                _ => Status::Unavailable,
            },
            Self::Refused { code, said, .. } => match code {
                403 if is_exclusive_use(said) => Status::Refused,
                403 | 530 => Status::NoPermission,
                404 => Status::NoSuchQueue,
                _ => Status::Refused,
            },
            Self::Cancelled { .. } | Self::Unroutable { .. } => Status::NoSuchQueue,
            Self::Different(_) | Self::Dropped { .. } | Self::AckTimeout { .. } => Status::Refused,
            Self::Topology { status, .. } => *status,
            Self::Declined(_) | Self::HeldTooMany => Status::Short,
            Self::Publisher(error) => error.status(),
            Self::ConfirmFailure(messages) => match &messages.cause {
                Some(cause) => cause.status(),
                None if messages.returned.is_empty() => Status::NotConfirmed,
                None => Status::NoSuchQueue,
            },
            Self::Descriptor { .. } | Self::Input(_) | Self::Output { .. } | Self::Save { .. } => {
                Status::Io
            }
            Self::Directory { .. } => Status::CantCreate,
            Self::Interrupted(_) => Status::Interrupted,
            Self::Bug(_) => Status::Bug,
        }
    }
}
