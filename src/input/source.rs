//! The sources of messages: arguments, standard input and files.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;

use nix::poll::PollFlags;

use super::format::{MAX_MESSAGE_SIZE, too_long};
use super::{InputFormat, MessagePosition};
use crate::error::Error;
use crate::ready;
use crate::text;

/// The number of bytes that are read at a time. The messages of a read are sent together, so that none waits for
/// the next one to be typed.
pub(super) const READ_SIZE: usize = 1 << 16;

/// A source of messages.
#[derive(Debug)]
pub(super) enum InputSource {
    /// A message that is in memory.
    Known {
        place: MessagePosition,
        body: Vec<u8>,
    },
    StandardInput,
    File(PathBuf),
}

impl InputSource {
    pub(super) fn name(&self) -> Arc<str> {
        match self {
            Self::Known { .. } | Self::StandardInput => Arc::from("standard input"),
            Self::File(path) => Arc::from(text::escape(&path.display().to_string())),
        }
    }

    /// Returns the position of the source as one message.
    pub(super) fn place(&self) -> MessagePosition {
        match self {
            Self::Known { place, .. } => place.clone(),
            whole => MessagePosition::Whole(whole.name()),
        }
    }

    pub(super) fn unreadable(&self, source: io::Error) -> Error {
        match self {
            Self::File(path) => Error::InputFile {
                path: path.clone(),
                source,
            },
            _ => Error::Input(source),
        }
    }
}

/// Returns the sources in order; without arguments and files, standard input.
pub(super) fn list(arguments: Vec<OsString>, files: Vec<PathBuf>) -> Vec<InputSource> {
    let arguments = if arguments.is_empty() && files.is_empty() {
        vec![OsString::from("-")]
    } else {
        arguments
    };
    let arguments = (1..).zip(arguments).map(|(number, argument)| {
        if argument == "-" {
            InputSource::StandardInput
        } else {
            InputSource::Known {
                place: MessagePosition::Message(number),
                body: argument.into_vec(),
            }
        }
    });
    let files = files.into_iter().map(|path| match path.to_str() {
        Some("-") => InputSource::StandardInput,
        _ => InputSource::File(path),
    });
    arguments.chain(files).collect()
}

/// Checks that everything can be read, before anything is.
pub(super) fn check(
    sources: &[InputSource],
    format: &InputFormat,
    count: u64,
) -> Result<(), Error> {
    let usage = |problem: &str| Err(Error::Usage(problem.to_owned()));
    let is_stdin = |source: &&InputSource| matches!(source, InputSource::StandardInput);
    match sources.iter().filter(is_stdin).count() {
        0 if *format != InputFormat::Whole
            && sources
                .iter()
                .all(|source| !matches!(source, InputSource::File(_))) =>
        {
            return usage(
                "--lines, --null, --delimiter and --jsonl require standard input ('-') or a --file",
            );
        }
        1 if count > 1 && *format != InputFormat::Whole => {
            return usage("--count: standard input can't be read twice; use a --file");
        }
        0 | 1 => {}
        _ => return usage("standard input ('-') can be sent only once"),
    }
    for source in sources {
        if let InputSource::File(path) = source {
            let file = File::open(path).and_then(|file| file.metadata());
            let file = file.map_err(|error| source.unreadable(error))?;
            if file.is_dir() {
                return Err(source.unreadable(io::ErrorKind::IsADirectory.into()));
            }
            if count > 1 && !file.is_file() {
                return usage(&format!(
                    "--count: {} can't be read twice; it is not a regular file",
                    source.name()
                ));
            }
        }
    }
    Ok(())
}

pub(super) fn read_whole(source: &InputSource) -> Result<Vec<u8>, Error> {
    let failed = |error| source.unreadable(error);
    let mut reader = open_source(source).map_err(failed)?;
    let mut body = Vec::new();
    // `read_to_end` would touch its spare capacity, which is up to the size of the body.
    let mut chunk = vec![0; READ_SIZE];
    loop {
        match reader.read(&mut chunk).map_err(failed)? {
            0 => return Ok(body),
            length => body.extend_from_slice(&chunk[..length]),
        }
        if body.len() > MAX_MESSAGE_SIZE {
            return Err(too_long(&source.place()));
        }
    }
}

pub(super) fn open_source(source: &InputSource) -> io::Result<BlockingFile> {
    let file = match source {
        InputSource::File(path) => File::open(path)?,
        _ => File::from(io::stdin().as_fd().try_clone_to_owned()?),
    };
    Ok(BlockingFile(file))
}

/// A file whose reads block although another process may have made it non-blocking.
pub(super) struct BlockingFile(File);

impl Read for BlockingFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready::wait_for(self.0.as_fd(), PollFlags::POLLIN);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}
