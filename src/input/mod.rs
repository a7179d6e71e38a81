//! Where the messages to send come from: arguments, files and standard input, whole or in pieces.

mod position;
pub mod split;

use std::ffi::OsString;
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::select;
use nix::poll::PollFlags;

use crate::error::Error;
use crate::interrupt::Interrupt;
use crate::message::envelope::{self, Envelope};
use crate::messenger::Messenger;
use crate::ready;
use crate::text;
use crate::waker::{Receiver, Sender, bounded};
pub use position::{MessagePosition, ranges};
use split::Splitter;

/// What to send.
#[derive(Debug)]
pub struct Request {
    /// A message each; `-` is standard input.
    pub arguments: Vec<OsString>,
    /// After them, these files; `-` is standard input.
    pub files: Vec<PathBuf>,
    /// What standard input and each file is made of.
    pub form: InputFormat,
    /// How many times all that is to be sent.
    pub count: u64,
    /// The most bytes of a part of standard input or of a file; `None` for the most that RabbitMQ can
    /// take.
    pub longest_part: Option<usize>,
}

/// What standard input, or a file, is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputFormat {
    /// One message.
    Whole,
    /// Messages with this delimiter between them.
    Pieces(Vec<u8>),
    /// A line of JSON for each message.
    Envelopes,
}

impl InputFormat {
    /// What its parts are called.
    fn unit(&self) -> &'static str {
        match self {
            Self::Pieces(delimiter) if delimiter != b"\n" => "piece",
            Self::Whole | Self::Pieces(_) | Self::Envelopes => "line",
        }
    }

    /// The text between its parts.
    fn delimiter(&self) -> &[u8] {
        match self {
            Self::Pieces(delimiter) => delimiter,
            Self::Whole | Self::Envelopes => b"\n",
        }
    }

    /// The message that a part is, if it is one.
    fn message(&self, part: Vec<u8>, place: &MessagePosition) -> Result<Option<Envelope>, Error> {
        if *self != Self::Envelopes {
            return Ok(Some(part.into()));
        }
        if part.trim_ascii().is_empty() {
            return Ok(None);
        }
        let envelope = envelope::parse(part).map_err(|problem| bad(place, problem))?;
        if envelope.body.len() > MAX_MESSAGE_SIZE {
            return Err(too_long(place));
        }
        Ok(Some(envelope))
    }

    /// Finds what is wrong with a part of which only the beginning is here.
    fn check_beginning(&self, part: &[u8], place: &MessagePosition) -> Result<(), Error> {
        match self {
            Self::Envelopes => {
                envelope::check_beginning(part).map_err(|problem| bad(place, problem))
            }
            Self::Whole | Self::Pieces(_) => Ok(()),
        }
    }

    /// The most bytes of a part, unless the user says otherwise.
    fn longest_part(&self) -> usize {
        match self {
            Self::Whole | Self::Pieces(_) => MAX_MESSAGE_SIZE,
            // In base64, or with a few characters that are escaped.
            Self::Envelopes => 2 * MAX_MESSAGE_SIZE,
        }
    }
}

/// One message of the input.
#[derive(Debug)]
pub struct Item {
    /// Its body, and what an envelope said of it.
    pub envelope: Envelope,
    /// Where it came from.
    pub place: MessagePosition,
}

/// The longest message: RabbitMQ can't be told to take a longer one (`max_message_size`).
const MAX_MESSAGE_SIZE: usize = 512 << 20;

/// The length from which on the beginning of a part is looked at: what is wrong is not read to its end.
const LONG: usize = 1 << 20;

/// How many bytes are read at a time. Each read's messages go on together, so that a message does
/// not wait for the next one to be typed.
const READ_SIZE: usize = 1 << 16;

/// The most messages that go on together.
const INPUT_BATCH_MESSAGES: usize = 256;

/// How many batches may be ahead of the sending.
const MAX_QUEUED_BATCHES: usize = 2;

/// The messages to send, read by a thread of its own: a read can't be interrupted, but whoever
/// waits for it can turn away.
#[derive(Debug)]
pub struct Input {
    /// The messages as they are read. The first error is the last that comes.
    pub batches: Receiver<Result<Vec<Item>, Error>>,
    /// The places of all messages, where they are known before they are read.
    pub plan: Option<Vec<MessagePosition>>,
    /// How many times the plan is to be carried out.
    pub count: u64,
}

/// One thing to read.
#[derive(Debug)]
enum InputSource {
    /// A message that is here already.
    Known {
        place: MessagePosition,
        body: Vec<u8>,
    },
    StandardInput,
    File(PathBuf),
}

impl InputSource {
    fn name(&self) -> Arc<str> {
        match self {
            Self::Known { .. } | Self::StandardInput => Arc::from("standard input"),
            Self::File(path) => Arc::from(text::escape(&path.display().to_string())),
        }
    }

    /// Its place, if it is one message.
    fn place(&self) -> MessagePosition {
        match self {
            Self::Known { place, .. } => place.clone(),
            whole => MessagePosition::Whole(whole.name()),
        }
    }

    fn unreadable(&self, source: io::Error) -> Error {
        match self {
            Self::File(path) => Error::InputFile {
                path: path.clone(),
                source,
            },
            _ => Error::Input(source),
        }
    }
}

/// Begins to read what there is to send.
///
/// Where standard input is one message, it is read first: what was typed is whole, and not empty,
/// before anything is sent.
///
/// # Errors
/// [`Error::Usage`] if it can't be read so; [`Error::InputFile`] and [`Error::Input`] if it can't be
/// read at all; [`Error::EmptyInput`]; [`Error::Interrupted`] if the user did not wait for it.
pub fn open(
    request: Request,
    interrupt: &Interrupt,
    messenger: &Messenger,
) -> Result<Input, Error> {
    let Request { form, count, .. } = request;
    let longest_part = request.longest_part.unwrap_or(form.longest_part());
    let mut sources = sources(request.arguments, request.files);
    check(&sources, &form, count)?;
    for source in &mut sources {
        if matches!(source, InputSource::StandardInput) {
            if io::stdin().is_terminal() {
                invite(&form, messenger);
            }
            if form == InputFormat::Whole {
                *source = InputSource::Known {
                    place: source.place(),
                    body: whole_stdin(interrupt)?,
                };
            }
        }
    }
    let is_planned = form == InputFormat::Whole
        || sources
            .iter()
            .all(|source| matches!(source, InputSource::Known { .. }));
    let plan = is_planned.then(|| sources.iter().map(InputSource::place).collect());
    let (sender, batches) = bounded(MAX_QUEUED_BATCHES);
    let fits = fits(&sources, count);
    let read = move || {
        let mut out = BatchSender::new(sender);
        let work = InputReader {
            form,
            longest_part,
            out: &mut out,
        };
        if let Err(ReadEnd::Failed(error)) = work.read_all(sources, count) {
            out.fail(error);
        }
    };
    if fits {
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

/// Whether all that there is to send goes on together, and so needs no thread.
fn fits(sources: &[InputSource], count: u64) -> bool {
    let mut bytes = 0;
    for source in sources {
        match source {
            InputSource::Known { body, .. } => bytes += body.len(),
            InputSource::StandardInput | InputSource::File(_) => return false,
        }
    }
    count == 1 && (sources.len() == 1 || sources.len() < INPUT_BATCH_MESSAGES && bytes < READ_SIZE)
}

fn sources(arguments: Vec<OsString>, files: Vec<PathBuf>) -> Vec<InputSource> {
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
                place: MessagePosition::Argument(number),
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

/// Finds what can't be read before anything is.
fn check(sources: &[InputSource], form: &InputFormat, count: u64) -> Result<(), Error> {
    let usage = |problem: &str| Err(Error::Usage(problem.to_owned()));
    let is_stdin = |source: &&InputSource| matches!(source, InputSource::StandardInput);
    match sources.iter().filter(is_stdin).count() {
        0 if *form != InputFormat::Whole
            && sources
                .iter()
                .all(|source| !matches!(source, InputSource::File(_))) =>
        {
            return usage(
                "--lines, --null, --delimiter and --jsonl require standard input ('-') or a --file",
            );
        }
        1 if count > 1 && *form != InputFormat::Whole => {
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

fn invite(form: &InputFormat, messenger: &Messenger) {
    messenger.note(match form {
        InputFormat::Whole => "reading the message from the terminal; Ctrl+D on an empty line ends it",
        InputFormat::Pieces(_) => "reading messages from the terminal; Ctrl+D on an empty line ends them",
        InputFormat::Envelopes => {
            "reading messages from the terminal, a line of JSON each; Ctrl+D on an empty line ends them"
        }
    });
}

fn whole_stdin(interrupt: &Interrupt) -> Result<Vec<u8>, Error> {
    let (sender, read) = crossbeam_channel::bounded(1);
    spawn(move || {
        let _ = sender.send(read_whole(&InputSource::StandardInput));
    })?;
    let body = select! {
        recv(read) -> body => body.unwrap_or_else(|_| Err(died()))?,
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

/// The thread that reads is gone without a word.
pub fn died() -> Error {
    Error::Bug("the thread that reads the input died".to_owned())
}

/// Why the reading ended early.
enum ReadEnd {
    /// Nobody wants to send any more.
    NotWanted,
    Failed(Error),
}

impl From<Error> for ReadEnd {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Reads sources to their end.
struct InputReader<'o> {
    form: InputFormat,
    longest_part: usize,
    out: &'o mut BatchSender,
}

impl InputReader<'_> {
    fn read_all(mut self, mut sources: Vec<InputSource>, count: u64) -> Result<(), ReadEnd> {
        for round in 1..=count {
            for source in &mut sources {
                match source {
                    InputSource::Known { place, body } => {
                        // A part that is not needed again is not copied.
                        let body = if round < count {
                            body.clone()
                        } else {
                            std::mem::take(body)
                        };
                        let bytes = body.len();
                        self.out.push(body.into(), place.clone(), bytes)?;
                    }
                    _ if self.form == InputFormat::Whole => {
                        let body = read_whole(source)?;
                        let bytes = body.len();
                        self.out.push(body.into(), source.place(), bytes)?;
                    }
                    _ => self.read_parts(source)?,
                }
            }
        }
        self.out.flush()
    }

    fn read_parts(&mut self, source: &InputSource) -> Result<(), ReadEnd> {
        let form = &self.form;
        let mut place = MessagePosition::Part {
            of: source.name(),
            unit: form.unit(),
            number: 1,
        };
        let mut splitter = Splitter::new(form.delimiter());
        let mut reader = open_source(source).map_err(|error| source.unreadable(error))?;
        let mut chunk = vec![0; READ_SIZE];
        let mut parts = Vec::new();
        let mut check_at = LONG;
        loop {
            let length = reader
                .read(&mut chunk)
                .map_err(|error| source.unreadable(error))?;
            let is_over = length == 0;
            if is_over {
                let last = std::mem::replace(&mut splitter, Splitter::new(form.delimiter()));
                parts.extend(last.finish());
            } else {
                splitter.feed(&chunk[..length], |part| parts.push(part));
            }
            for part in parts.drain(..) {
                check_length(&part, self.longest_part, &place)?;
                let bytes = part.len();
                let message = form.message(part, &place)?;
                let next = place.next();
                let place = std::mem::replace(&mut place, next);
                if let Some(envelope) = message {
                    self.out.push(envelope, place, bytes)?;
                }
                check_at = LONG;
            }
            let begun = splitter.begun();
            check_length(begun, self.longest_part, &place)?;
            if begun.len() >= check_at {
                form.check_beginning(begun, &place)?;
                check_at = 2 * begun.len();
            }
            // What is complete goes on before there is more to read.
            self.out.flush()?;
            if is_over {
                return Ok(());
            }
        }
    }
}

/// Makes sure that a part, or its beginning, is no longer than it may be.
fn check_length(part: &[u8], longest: usize, place: &MessagePosition) -> Result<(), Error> {
    if part.len() <= longest {
        return Ok(());
    }
    let problem = format!("is longer than {longest} bytes (--max-line)");
    Err(bad(place, problem))
}

fn read_whole(source: &InputSource) -> Result<Vec<u8>, Error> {
    let failed = |error| source.unreadable(error);
    let mut reader = open_source(source).map_err(failed)?;
    let mut body = Vec::new();
    // What `read_to_end` sets aside it also touches, which is as much again as a long body has.
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

fn too_long(place: &MessagePosition) -> Error {
    let most = MAX_MESSAGE_SIZE >> 20;
    let problem = format!("is longer than {most} MiB, the most that RabbitMQ accepts");
    bad(place, problem)
}

fn bad(place: &MessagePosition, problem: String) -> Error {
    Error::BadInput {
        place: place.to_string(),
        problem,
    }
}

fn open_source(source: &InputSource) -> io::Result<Patient> {
    let file = match source {
        InputSource::File(path) => File::open(path)?,
        _ => File::from(io::stdin().as_fd().try_clone_to_owned()?),
    };
    Ok(Patient(file))
}

/// A file that may have been made non-blocking by whoever shares it.
struct Patient(File);

impl Read for Patient {
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

/// The sending side: messages that were read together go on together.
struct BatchSender {
    sender: Sender<Result<Vec<Item>, Error>>,
    batch: Vec<Item>,
    bytes: usize,
}

impl BatchSender {
    fn new(sender: Sender<Result<Vec<Item>, Error>>) -> Self {
        Self {
            sender,
            batch: Vec::new(),
            bytes: 0,
        }
    }

    /// Adds a message that has so many bytes, all told.
    fn push(
        &mut self,
        envelope: Envelope,
        place: MessagePosition,
        bytes: usize,
    ) -> Result<(), ReadEnd> {
        self.bytes += bytes;
        self.batch.push(Item { envelope, place });
        if self.batch.len() >= INPUT_BATCH_MESSAGES || self.bytes >= READ_SIZE {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ReadEnd> {
        self.bytes = 0;
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        self.sender.send(Ok(batch)).map_err(|_| ReadEnd::NotWanted)
    }

    /// The messages before the error are sent nevertheless.
    fn fail(mut self, error: Error) {
        if self.flush().is_ok() {
            let _ = self.sender.send(Err(error));
        }
    }
}

/// A name that no other run of any hello-mq has: 128 bits of the standard library's random seeds.
pub fn random_id() -> String {
    let random = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", random(), random())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;

    fn request(arguments: &[&[u8]], form: InputFormat) -> Request {
        Request {
            arguments: arguments
                .iter()
                .map(|bytes| OsString::from_vec(bytes.to_vec()))
                .collect(),
            files: Vec::new(),
            form,
            count: 1,
            longest_part: None,
        }
    }

    fn read(request: Request) -> Result<Vec<(Vec<u8>, String)>, Error> {
        let input = open(request, &Interrupt::default(), &Messenger::new(true))?;
        let mut items = Vec::new();
        for batch in input.batches.inner() {
            items.extend(
                batch?
                    .into_iter()
                    .map(|item| (item.envelope.body, item.place.to_string())),
            );
        }
        Ok(items)
    }

    fn file(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("in");
        fs::write(&path, content).unwrap();
        (directory, path)
    }

    #[test]
    fn each_argument_is_a_message_byte_for_byte() {
        let items = read(request(&[b"a\nb", b"", b"\xff\x01"], InputFormat::Whole)).unwrap();
        let bodies: Vec<_> = items.iter().map(|(body, _)| body.as_slice()).collect();
        assert_eq!(bodies, [&b"a\nb"[..], b"", b"\xff\x01"]);
        assert_eq!(items[2].1, "message 3");
    }

    #[test]
    fn files_follow_the_arguments_and_all_is_repeated() {
        let (_directory, path) = file(b"x\ny\n");
        let all = Request {
            files: vec![path.clone()],
            count: 2,
            ..request(&[b"a"], InputFormat::Pieces(b"\n".to_vec()))
        };
        let bodies: Vec<_> = read(all).unwrap().into_iter().map(|item| item.0).collect();
        assert_eq!(bodies, [b"a", b"x", b"y", b"a", b"x", b"y"]);
        let whole = Request {
            files: vec![path.clone(), path],
            ..request(&[], InputFormat::Whole)
        };
        let items = read(whole).unwrap();
        assert_eq!(items.len(), 2);
        assert!(items[0].0 == b"x\ny\n" && items[0].1.starts_with("the message from /"));
    }

    #[test]
    fn what_is_wrong_with_a_line_is_told_after_the_lines_before_it() {
        let (_directory, path) = file(b"{\"payload\":\"a\"}\n\n{\"payload\":\n");
        let input = Request {
            files: vec![path],
            ..request(&[], InputFormat::Envelopes)
        };
        let input = open(input, &Interrupt::default(), &Messenger::new(true)).unwrap();
        let batches: Vec<_> = input.batches.inner().iter().collect();
        assert_eq!(batches.len(), 2);
        assert_eq!(batches[0].as_ref().unwrap()[0].envelope.body, b"a");
        let error = batches[1].as_ref().unwrap_err().to_string();
        assert!(error.starts_with("line 3 of /"), "{error}");
    }

    #[test]
    fn what_can_not_be_read_is_found_first() {
        let missing = |files| Request {
            files,
            ..request(&[b"a"], InputFormat::Whole)
        };
        let error = read(missing(vec![PathBuf::from("/no/such")])).unwrap_err();
        assert_eq!(error.status().code(), 66);
        let error = read(missing(vec![PathBuf::from("/")])).unwrap_err();
        assert_eq!(error.status().code(), 66);
        let lines = InputFormat::Pieces(b"\n".to_vec());
        for request in [
            request(&[b"-", b"a", b"-"], InputFormat::Whole),
            request(&[b"a"], lines.clone()),
            Request {
                count: 2,
                ..request(&[b"-"], lines)
            },
            Request {
                count: 2,
                ..missing(vec![PathBuf::from(std::ffi::OsStr::from_bytes(
                    b"/dev/null",
                ))])
            },
        ] {
            assert!(matches!(read(request), Err(Error::Usage(_))));
        }
    }
}
