//! The messages to send: from arguments, files and standard input.

mod format;
mod position;
mod reader;
mod recording;
mod source;
pub mod split;

use std::ffi::OsString;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crossbeam_channel::select;

use crate::error::Error;
use crate::interrupt::Interrupt;
use crate::message::envelope::Envelope;
use crate::messenger::Messenger;
use crate::values::Pace;
use crate::waker::{Receiver, bounded};
pub(crate) use format::InputFormat;
pub(crate) use position::{MessagePosition, ranges};
use reader::{BatchSender, INPUT_BATCH_MESSAGES, InputReader, ReadEnd};
use recording::Recording;
use source::{InputSource, READ_SIZE, read_whole};

/// The messages to send, as the user names them.
#[derive(Debug)]
pub(crate) struct InputOptions {
    /// The arguments, each a message; `-` stands for standard input.
    pub arguments: Vec<OsString>,
    /// The files, which follow the arguments; `-` stands for standard input.
    pub files: Vec<PathBuf>,
    /// The format of standard input and of each file.
    pub format: InputFormat,
    /// The number of times to send all of it.
    pub count: u64,
    /// The maximum size in bytes of a part of standard input or of a file; `None` for the maximum of
    /// RabbitMQ.
    pub max_part_size: Option<usize>,
    /// The pace of a recording, if its messages are to be sent at the distances at which they were received.
    pub pace: Option<Pace>,
}

/// A message of the input, and its position there.
#[derive(Debug)]
pub(crate) struct Item<P = MessagePosition> {
    /// The body, and the rest of the envelope if there is one.
    pub envelope: Envelope,
    /// The position of the message.
    pub place: P,
    /// The time from the first message after which it is sent, if the input is a recording.
    pub due: Option<Duration>,
}

/// The messages to send. A thread reads them, because a blocking read can't be interrupted.
#[derive(Debug)]
pub(crate) struct Input {
    /// The channel with the messages. Nothing follows an error.
    pub batches: Receiver<Result<Vec<Item>, Error>>,
    /// The positions of all messages, if they are known before the messages are read.
    pub plan: Option<Vec<MessagePosition>>,
    /// The number of times to send all of it.
    pub count: u64,
}

/// The most batches that are read ahead of the sending.
const MAX_QUEUED_BATCHES: usize = 2;

/// Starts to read the messages.
///
/// If standard input is one message, it is read before anything is sent, so that an interrupted or empty
/// one is not sent.
pub(crate) fn open(
    options: InputOptions,
    interrupt: &Interrupt,
    messenger: &Messenger,
) -> Result<Input, Error> {
    let InputOptions { format, count, .. } = options;
    let max_part_size = options.max_part_size.unwrap_or(format.max_part_size());
    let mut sources = source::list(options.arguments, options.files);
    source::check(&sources, &format, count)?;
    for source in &mut sources {
        if matches!(source, InputSource::StandardInput) {
            if io::stdin().is_terminal() {
                announce_terminal(&format, messenger);
            }
            if format == InputFormat::Whole {
                *source = InputSource::Known {
                    place: source.place(),
                    body: read_whole_stdin(interrupt)?,
                };
            }
        }
    }
    let is_known = |source: &InputSource| matches!(source, InputSource::Known { .. });
    let is_planned = format == InputFormat::Whole || sources.iter().all(is_known);
    let plan = is_planned.then(|| sources.iter().map(InputSource::place).collect());
    let (sender, batches) = bounded(MAX_QUEUED_BATCHES);
    let recording = options.pace.map(Recording::new);
    let needs_no_thread = fits_into_batch(&sources, count);
    let read = move || {
        let mut sender = BatchSender::new(sender);
        let reader = InputReader {
            format,
            max_part_size,
            recording,
            sender: &mut sender,
        };
        if let Err(ReadEnd::Failed(error)) = reader.read_all(sources, count) {
            sender.fail(error);
        }
    };
    if needs_no_thread {
        read();
    } else {
        spawn(read)?;
    }
    Ok(Input {
        batches,
        plan,
        count,
    })
}

/// Whether all messages are known and fit into one batch.
fn fits_into_batch(sources: &[InputSource], count: u64) -> bool {
    let mut bytes = 0;
    for source in sources {
        match source {
            InputSource::Known { body, .. } => bytes += body.len(),
            InputSource::StandardInput | InputSource::File(_) => return false,
        }
    }
    count == 1 && (sources.len() == 1 || sources.len() < INPUT_BATCH_MESSAGES && bytes < READ_SIZE)
}

fn announce_terminal(format: &InputFormat, messenger: &Messenger) {
    messenger.note(match format {
        InputFormat::Whole => "reading the message from the terminal; Ctrl+D on an empty line ends it",
        InputFormat::Delimited(_) => "reading messages from the terminal; Ctrl+D on an empty line ends them",
        InputFormat::JsonLines => {
            "reading messages from the terminal, a line of JSON each; Ctrl+D on an empty line ends them"
        }
    });
}

fn read_whole_stdin(interrupt: &Interrupt) -> Result<Vec<u8>, Error> {
    let (sender, received) = crossbeam_channel::bounded(1);
    spawn(move || {
        let _ = sender.send(read_whole(&InputSource::StandardInput));
    })?;
    let body = select! {
        recv(received) -> body => body.unwrap_or_else(|_| Err(died()))?,
        recv(interrupt.receiver()) -> _ => {
            return Err(Error::Interrupted("while reading standard input; nothing was sent".to_owned()));
        }
    };
    if body.is_empty() {
        return Err(Error::EmptyInput);
    }
    Ok(body)
}

fn spawn(work: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    thread::Builder::new()
        .name("input".to_owned())
        .spawn(work)
        .map(drop)
        .map_err(Error::thread)
}

/// Returns the error of a reading thread that ended without a report.
pub(crate) fn died() -> Error {
    Error::Bug("the thread that reads the input died".to_owned())
}

/// Returns a unique identifier: 128 random bits, from the seeds of the standard library's hash maps.
pub(crate) fn random_id() -> String {
    let random = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", random(), random())
}

#[cfg(test)]
mod tests;
