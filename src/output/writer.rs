//! Writing batches of messages, at once or in a thread.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crossbeam_channel::{Sender, unbounded};
use nix::poll::PollFlags;

use super::{MessageWriter, Output, OutputError, OutputFormat, Stdout};
use crate::error::Error;
use crate::message::{Batch, Message};
use crate::ready::is_ready;
use crate::waker::{self, Receiver};

/// Writes to a file or a pipe as long as that does not block.
#[derive(Debug)]
struct ImmediateWriter {
    format: OutputFormat,
    stdout: Stdout,
    max_bytes: usize,
    is_pipe: bool,
    buffer: Vec<u8>,
}

/// The maximum number of bytes that are written to a file at once. The thread writes more while further
/// messages are received.
const MAX_IMMEDIATE_FILE_WRITE: usize = 1 << 16;

/// The maximum number of bytes that a pipe that is ready takes without blocking: `PIPE_BUF`, which is
/// 4096 on Linux (pipe(7)) and at least 512 elsewhere (POSIX).
const MAX_IMMEDIATE_PIPE_WRITE: usize = if cfg!(target_os = "linux") { 4096 } else { 512 };

impl ImmediateWriter {
    /// Returns `None` for a terminal, a socket or a device, which may block.
    fn new(format: OutputFormat, stdout: Stdout) -> Option<Self> {
        let kind = stdout.0.metadata().ok()?.file_type();
        let is_pipe = kind.is_fifo();
        (is_pipe || kind.is_file()).then_some(Self {
            format,
            stdout,
            max_bytes: if is_pipe {
                MAX_IMMEDIATE_PIPE_WRITE
            } else {
                MAX_IMMEDIATE_FILE_WRITE
            },
            is_pipe,
            buffer: Vec::new(),
        })
    }

    /// Writes a batch unless that could block, and returns whether it did.
    fn write(&mut self, batch: &[Box<Message>]) -> io::Result<bool> {
        let bodies = batch.iter().map(|message| message.body.len());
        if bodies.sum::<usize>() > self.max_bytes {
            return Ok(false);
        }
        self.buffer.clear();
        for message in batch {
            self.format.write(message, &mut self.buffer)?;
        }
        let is_ready = self.buffer.len() <= self.max_bytes
            && (!self.is_pipe || is_ready(self.stdout.0.as_fd(), PollFlags::POLLOUT));
        if is_ready {
            self.stdout.write_all(&self.buffer)?;
        }
        Ok(is_ready)
    }
}

/// Changes a message.
type Change = Box<dyn FnMut(&mut Message) + Send>;

enum WriterCommand {
    Start,
    Batch(Batch),
}

/// Writes batches in a thread, so that a reader that stalls blocks neither the connection nor the user's
/// interrupt. What can't block is written without the thread.
pub(crate) struct Writer {
    immediate: Option<ImmediateWriter>,
    /// Whether something precedes the first message.
    has_greeting: bool,
    commands: Sender<WriterCommand>,
    /// The thread until it is started.
    idle_thread: Option<WriterThread>,
    reports: Receiver<Result<(), Error>>,
    /// The number of commands that the thread has not carried out.
    pending: Arc<AtomicUsize>,
    /// The consequence for messages that can't be written.
    consequence: String,
}

impl Writer {
    /// Returns a writer to `output`. If it fails, the user is told the consequence.
    pub(crate) fn new(output: Box<dyn Output>, consequence: String) -> Self {
        let (commands, received) = unbounded();
        let (sender, reports) = waker::unbounded();
        let pending = Arc::new(AtomicUsize::new(0));
        Self {
            immediate: None,
            has_greeting: true,
            commands,
            idle_thread: Some(WriterThread {
                output,
                commands: received,
                reports: sender,
                pending: Arc::clone(&pending),
                consequence: consequence.clone(),
                change: None,
            }),
            reports,
            pending,
            consequence,
        }
    }

    /// Returns a writer to standard output. With `quiet`, it writes nothing but messages.
    pub(crate) fn stream(
        format: OutputFormat,
        quiet: bool,
        consequence: String,
    ) -> io::Result<Self> {
        let immediate = ImmediateWriter::new(format.clone(), Stdout::open()?);
        let has_greeting = matches!(format, OutputFormat::Text(_)) && !quiet;
        let output = MessageWriter::new(format, Stdout::open()?, quiet);
        Ok(Self {
            immediate,
            has_greeting,
            ..Self::new(Box::new(output), consequence)
        })
    }

    /// Has each message changed just before it is written, so that only one of them takes more memory for
    /// it at a time. All messages are written in the thread then.
    pub(crate) fn changing(mut self, change: impl FnMut(&mut Message) + Send + 'static) -> Self {
        self.immediate = None;
        if let Some(thread) = &mut self.idle_thread {
            thread.change = Some(Box::new(change));
        }
        self
    }

    fn command(&mut self, command: WriterCommand) {
        self.pending.fetch_add(1, Ordering::Relaxed);
        let _ = self.commands.send(command);
        if let Some(thread) = self.idle_thread.take() {
            let reports = thread.reports.clone();
            let started = thread::Builder::new()
                .name("write".to_owned())
                .spawn(move || thread.run());
            if let Err(error) = started {
                let _ = reports.send(Err(Error::thread(error)));
            }
        }
    }

    /// Writes what precedes the first message. Only a failure is reported.
    pub(crate) fn start(&mut self) {
        if self.has_greeting {
            self.command(WriterCommand::Start);
        }
    }

    /// Writes and flushes a batch, and returns its report if that was possible at once. Otherwise the
    /// report follows in [`Writer::written`].
    pub(crate) fn hand_over(&mut self, batch: Batch) -> Option<Result<(), Error>> {
        // A batch must not overtake what the thread still has.
        let is_idle = self.pending.load(Ordering::Acquire) == 0;
        if let Some(immediate) = self.immediate.as_mut().filter(|_| is_idle) {
            match immediate.write(&batch) {
                Ok(false) => {}
                Ok(true) => return Some(Ok(())),
                Err(error) => {
                    // Nothing more is written, as after a failure in the thread.
                    (self.immediate, self.idle_thread, self.commands) = (None, None, unbounded().0);
                    let error = OutputError::from(error).into_error(&self.consequence);
                    return Some(Err(error));
                }
            }
        }
        self.command(WriterCommand::Batch(batch));
        None
    }

    /// Returns the channel with a report for each batch that the thread writes, in order.
    pub(crate) fn written(&self) -> &Receiver<Result<(), Error>> {
        &self.reports
    }
}

/// The thread of a [`Writer`]. It ends when the writer is dropped.
struct WriterThread {
    output: Box<dyn Output>,
    commands: crossbeam_channel::Receiver<WriterCommand>,
    reports: waker::Sender<Result<(), Error>>,
    pending: Arc<AtomicUsize>,
    consequence: String,
    /// Changes each message before it is written.
    change: Option<Change>,
}

impl WriterThread {
    fn write(&mut self, mut message: Box<Message>) -> Result<(), OutputError> {
        if let Some(change) = &mut self.change {
            change(&mut message);
        }
        self.output.write(&message)
    }

    fn run(mut self) {
        while let Ok(command) = self.commands.recv() {
            let is_batch = matches!(command, WriterCommand::Batch(_));
            let written = match command {
                WriterCommand::Start => self.output.start(),
                WriterCommand::Batch(batch) => batch
                    .into_iter()
                    .try_for_each(|message| self.write(message)),
            };
            match written.and_then(|()| self.output.flush()) {
                Ok(()) => {
                    self.pending.fetch_sub(1, Ordering::Release);
                    if is_batch && self.reports.send(Ok(())).is_err() {
                        return;
                    }
                }
                // Nothing more is written after a failure, so that no message is missing in between.
                Err(error) => {
                    let _ = self.reports.send(Err(error.into_error(&self.consequence)));
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;

    use super::*;
    use crate::color::Paint;

    fn message(body: &str) -> Box<Message> {
        Box::new(Message {
            body: body.into(),
            ..Message::default()
        })
    }

    fn text_writer(file: File) -> Writer {
        let output = MessageWriter::new(OutputFormat::Text(Paint::default()), file, true);
        Writer::new(Box::new(output), "it is lost".to_owned())
    }

    fn report(writer: &Writer) -> Result<(), Error> {
        writer
            .written()
            .inner()
            .recv_timeout(Duration::from_secs(5))
            .unwrap()
    }

    #[test]
    fn a_batch_is_reported_when_it_is_flushed() {
        let file = tempfile::tempfile().unwrap();
        let mut copy = file.try_clone().unwrap();
        let mut writer = text_writer(file);
        writer.start();
        assert!(writer.hand_over(vec![message("a"), message("b")]).is_none());
        report(&writer).unwrap();
        let mut text = String::new();
        io::Seek::rewind(&mut copy).unwrap();
        io::Read::read_to_string(&mut copy, &mut text).unwrap();
        assert_eq!(text, " [x] Received 'a'\n [x] Received 'b'\n");
    }

    #[test]
    fn a_failure_is_reported_and_ends_the_writing() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut writer = text_writer(full);
        assert!(writer.hand_over(vec![message("a")]).is_none());
        let error = report(&writer).unwrap_err().to_string();
        assert!(
            error.ends_with("no space left on device; it is lost"),
            "{error}"
        );
        assert!(writer.hand_over(vec![message("b")]).is_none());
        assert!(
            writer
                .written()
                .inner()
                .recv_timeout(Duration::from_secs(5))
                .is_err()
        );
    }

    /// Returns a writer to `file` that writes at once if it can.
    fn immediate_writer(file: File) -> Writer {
        let form = OutputFormat::Body(b"\n".to_vec());
        let copy = file.try_clone().unwrap();
        let stream = MessageWriter::new(form.clone(), Stdout(copy), true);
        let mut writer = Writer::new(Box::new(stream), "it is lost".to_owned());
        writer.immediate = ImmediateWriter::new(form, Stdout(file));
        writer
    }

    #[test]
    fn a_pipe_is_written_to_at_once_as_long_as_it_has_room_and_everything_in_order() {
        let (reader, pipe) = nix::unistd::pipe().unwrap();
        let mut writer = immediate_writer(File::from(pipe));
        let sent = (0..2000).map(|n| format!("{n:0100}")).collect::<Vec<_>>();
        let mut at_once = 0;
        for body in &sent {
            match writer.hand_over(vec![message(body)]) {
                Some(report) => {
                    report.unwrap();
                    at_once += 1;
                }
                // The pipe is full: what follows has to wait, too.
                None => break,
            }
        }
        // It takes 64 KiB.
        assert!((100..700).contains(&at_once), "{at_once}");
        for body in &sent[at_once + 1..] {
            let _ = writer.hand_over(vec![message(body)]);
        }
        let text = thread::spawn(move || io::read_to_string(File::from(reader)).unwrap());
        report(&writer).unwrap();
        while writer.pending.load(Ordering::Acquire) > 0 {
            thread::yield_now();
        }
        assert!(writer.hand_over(vec![message("last")]).is_some());
        drop(writer);
        let expected = [sent.join("\n"), "\nlast\n".to_owned()].concat();
        assert_eq!(text.join().unwrap(), expected);
    }

    #[test]
    fn a_batch_that_is_large_is_left_to_the_thread() {
        let file = tempfile::tempfile().unwrap();
        let mut writer = immediate_writer(file.try_clone().unwrap());
        assert!(
            writer
                .hand_over(vec![message(&"x".repeat(MAX_IMMEDIATE_FILE_WRITE + 1))])
                .is_none()
        );
        report(&writer).unwrap();
        assert!(writer.hand_over(vec![message("y")]).unwrap().is_ok());
        assert_eq!(
            file.metadata().unwrap().len(),
            MAX_IMMEDIATE_FILE_WRITE as u64 + 4
        );
    }

    #[test]
    fn nothing_is_written_after_a_failure() {
        // Not open for writing.
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "").unwrap();
        let mut writer = immediate_writer(File::open(&path).unwrap());
        assert!(writer.hand_over(vec![message("a")]).unwrap().is_err());
        assert!(writer.hand_over(vec![message("b")]).is_none());
        assert!(writer.immediate.is_none());
    }
}
