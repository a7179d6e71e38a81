//! How received messages leave: written, flushed, and reported as such.

mod directory;
mod template;

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crossbeam_channel::{Sender, unbounded};
use nix::poll::PollFlags;

use crate::color::Paint;
use crate::error::Error;
use crate::interrupt::Interrupt;
use crate::message::{Batch, Message, amqp10, envelope};
use crate::ready::{is_ready, wait_for};
use crate::text;
use crate::waker::{self, Receiver};
pub use directory::Directory;
pub use template::Template;

/// A form in which messages are written.
pub trait Output: Send {
    /// Writes what comes before the first message, once the consumer is there.
    fn start(&mut self) -> io::Result<()>;

    /// Writes one message, perhaps only into a buffer.
    fn write(&mut self, message: &Message) -> io::Result<()>;

    /// Makes sure that what was written has left the process.
    fn flush(&mut self) -> io::Result<()>;
}

/// What a message looks like.
#[derive(Clone, Debug)]
pub enum OutputFormat {
    /// The tutorial's line, and the colour of its mark.
    Text(Paint),
    /// The body and nothing else, with these bytes behind it.
    Body(Vec<u8>),
    /// All of the message as a JSON object.
    Json {
        /// What is put behind it.
        end: Vec<u8>,
        /// Whether what a body from AMQP 1.0 holds is in it, too.
        decodes: bool,
    },
    /// As the user wants it.
    Template(Template),
}

impl OutputFormat {
    /// Writes one message.
    pub fn write(&self, message: &Message, out: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Text(paint) => {
                write!(out, " {} Received ", paint.mark('x'))?;
                match amqp10::value_of(message) {
                    Some(value) => value.write(out)?,
                    None => text::write_quoted(out, &message.body)?,
                }
                out.write_all(b"\n")
            }
            Self::Body(end) => {
                out.write_all(&message.body)?;
                out.write_all(end)
            }
            Self::Json { end, decodes } => {
                if *decodes {
                    envelope::write_decoded(message, out)?;
                } else {
                    envelope::write(message, out)?;
                }
                out.write_all(end)
            }
            Self::Template(template) => template.write(message, out),
        }
    }
}

/// Messages one after the other.
#[derive(Debug)]
pub struct MessageWriter<W: Write> {
    form: OutputFormat,
    out: BufWriter<W>,
    quiet: bool,
}

impl<W: Write> MessageWriter<W> {
    /// Messages in this form for `out`; with `quiet`, nothing but messages.
    pub fn new(form: OutputFormat, out: W, quiet: bool) -> Self {
        Self {
            form,
            out: BufWriter::with_capacity(1 << 16, out),
            quiet,
        }
    }
}

impl<W: Write + Send> Output for MessageWriter<W> {
    fn start(&mut self) -> io::Result<()> {
        match self.form {
            OutputFormat::Text(paint) if !self.quiet => writeln!(
                self.out,
                " {} Waiting for messages. To exit press CTRL+C",
                paint.mark('*')
            ),
            _ => Ok(()),
        }
    }

    fn write(&mut self, message: &Message) -> io::Result<()> {
        self.form.write(message, &mut self.out)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Standard output without the standard library's line buffer, which would cut a batch in two.
#[derive(Debug)]
pub struct Stdout(File);

impl Stdout {
    /// A handle of its own to standard output.
    pub fn open() -> io::Result<Self> {
        Ok(Self(File::from(io::stdout().as_fd().try_clone_to_owned()?)))
    }

    /// Whether what is written to it may come before the eyes of whoever reads standard error: on a
    /// terminal, or by way of the program at the other end of a pipe.
    pub fn may_be_seen(&self) -> bool {
        self.0.is_terminal() || is_pipe(&self.0).unwrap_or(true)
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                // Whoever shares the pipe may have made it non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait_for(self.0.as_fd(), PollFlags::POLLOUT);
                }
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// What can be written without waiting for anybody.
#[derive(Debug)]
struct Prompt {
    form: OutputFormat,
    stdout: Stdout,
    /// The most bytes at a time.
    most: usize,
    is_pipe: bool,
    buffer: Vec<u8>,
}

/// The most bytes that are written at once to a file: more is better done beside the receiving.
const PROMPT_FILE: usize = 1 << 16;

/// The most bytes that a pipe takes without waiting for its reader, if it takes any: POSIX's `PIPE_BUF`
/// as Linux has it (pipe(7)). Others are asked for less.
const PROMPT_PIPE: usize = if cfg!(target_os = "linux") { 4096 } else { 512 };

impl Prompt {
    /// `None` for a terminal, a socket or a device, which may keep who writes waiting.
    fn new(form: OutputFormat, stdout: Stdout) -> Option<Self> {
        let kind = stdout.0.metadata().ok()?.file_type();
        let is_pipe = kind.is_fifo();
        (is_pipe || kind.is_file()).then_some(Self {
            form,
            stdout,
            most: if is_pipe { PROMPT_PIPE } else { PROMPT_FILE },
            is_pipe,
            buffer: Vec::new(),
        })
    }

    /// Writes a batch if that can be done at once, and says whether it was.
    fn write(&mut self, batch: &[Box<Message>]) -> io::Result<bool> {
        let bodies = batch.iter().map(|message| message.body.len());
        if bodies.sum::<usize>() > self.most {
            return Ok(false);
        }
        self.buffer.clear();
        for message in batch {
            self.form.write(message, &mut self.buffer)?;
        }
        let is_ready = self.buffer.len() <= self.most
            && (!self.is_pipe || is_ready(self.stdout.0.as_fd(), PollFlags::POLLOUT));
        if is_ready {
            self.stdout.write_all(&self.buffer)?;
        }
        Ok(is_ready)
    }
}

enum WriterCommand {
    Start,
    Batch(Batch),
}

/// What writes, in a thread, so that a reader that stalls does not keep the connection, or the user
/// who wants to leave, waiting; but what nobody can keep waiting is written at once.
pub struct Writer {
    prompt: Option<Prompt>,
    /// Whether something comes before the first message.
    greets: bool,
    work: Sender<WriterCommand>,
    /// The thread's part, until it is started: when something can't be written at once.
    idle: Option<Thread>,
    written: Receiver<io::Result<()>>,
    /// How many orders the thread has not carried out.
    orders: Arc<AtomicUsize>,
}

impl Writer {
    /// What writes to `output`.
    pub fn new(output: Box<dyn Output>) -> Self {
        let (work, todo) = unbounded();
        let (reports, written) = waker::unbounded();
        let orders = Arc::new(AtomicUsize::new(0));
        Self {
            prompt: None,
            greets: true,
            work,
            idle: Some(Thread {
                output,
                todo,
                reports,
                orders: Arc::clone(&orders),
            }),
            written,
            orders,
        }
    }

    /// As [`Writer::new`], for messages one after the other on standard output. With `quiet`,
    /// nothing but messages.
    pub fn stream(form: OutputFormat, quiet: bool) -> io::Result<Self> {
        let prompt = Prompt::new(form.clone(), Stdout::open()?);
        let greets = matches!(form, OutputFormat::Text(_)) && !quiet;
        let stream = MessageWriter::new(form, Stdout::open()?, quiet);
        Ok(Self {
            prompt,
            greets,
            ..Self::new(Box::new(stream))
        })
    }

    fn order(&mut self, work: WriterCommand) {
        self.orders.fetch_add(1, Ordering::Relaxed);
        let _ = self.work.send(work);
        if let Some(thread) = self.idle.take() {
            let reports = thread.reports.clone();
            let started = thread::Builder::new()
                .name("write".to_owned())
                .spawn(move || thread.run());
            if let Err(error) = started {
                let _ = reports.send(Err(io::Error::other(Error::thread(error))));
            }
        }
    }

    /// Writes what comes before the first message. Only a failure is reported.
    pub fn start(&mut self) {
        if self.greets {
            self.order(WriterCommand::Start);
        }
    }

    /// Writes and flushes a batch. If that could not be done at once, it is reported later, once, in
    /// [`Writer::written`].
    pub fn hand_over(&mut self, batch: Batch) -> Option<io::Result<()>> {
        // What comes later must not overtake what the thread still has.
        let is_idle = self.orders.load(Ordering::Acquire) == 0;
        if let Some(prompt) = self.prompt.as_mut().filter(|_| is_idle) {
            match prompt.write(&batch) {
                Ok(false) => {}
                Ok(true) => return Some(Ok(())),
                Err(error) => {
                    // Nothing more is written, as after a failure in the thread.
                    (self.prompt, self.idle, self.work) = (None, None, unbounded().0);
                    return Some(Err(error));
                }
            }
        }
        self.order(WriterCommand::Batch(batch));
        None
    }

    /// A report for each batch that the thread writes, in order.
    pub fn written(&self) -> &Receiver<io::Result<()>> {
        &self.written
    }
}

/// The thread of a [`Writer`], with which it ends.
struct Thread {
    output: Box<dyn Output>,
    todo: crossbeam_channel::Receiver<WriterCommand>,
    reports: waker::Sender<io::Result<()>>,
    orders: Arc<AtomicUsize>,
}

impl Thread {
    fn run(mut self) {
        for order in &self.todo {
            let (done, is_batch) = match order {
                WriterCommand::Start => (self.output.start(), false),
                WriterCommand::Batch(batch) => {
                    let mut batch = batch.iter();
                    let written = batch.try_for_each(|message| self.output.write(message));
                    (written, true)
                }
            };
            let report = done.and_then(|()| self.output.flush());
            let failed = report.is_err();
            if !failed {
                self.orders.fetch_sub(1, Ordering::Release);
            }
            let reported = !(is_batch || failed) || self.reports.send(report).is_ok();
            if !reported || failed {
                // After a failure nothing more is written, or a gap would look like an order.
                return;
            }
        }
    }
}

/// Triggers `interrupt` when the reader of `file` is gone, if it is a pipe or a socket: so that it is
/// noticed when it happens, and not only at the next message.
pub fn watch(file: impl Into<OwnedFd>, interrupt: Interrupt) -> io::Result<()> {
    let file = File::from(file.into());
    if is_pipe(&file)? {
        thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || {
                // An error and a hang-up are reported without being asked for (poll(2)).
                wait_for(file.as_fd(), PollFlags::empty());
                interrupt.trigger();
            })?;
    }
    Ok(())
}

fn is_pipe(file: &File) -> io::Result<bool> {
    let kind = file.metadata()?.file_type();
    Ok(kind.is_fifo() || kind.is_socket())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    fn message(body: &str) -> Box<Message> {
        Box::new(Message {
            body: body.into(),
            ..Message::default()
        })
    }

    fn report(writer: &Writer) -> io::Result<()> {
        writer
            .written()
            .inner()
            .recv_timeout(Duration::from_secs(5))
            .unwrap()
    }

    #[test]
    fn text_is_the_tutorials() {
        let mut text = MessageWriter::new(OutputFormat::Text(Paint::default()), Vec::new(), false);
        text.start().unwrap();
        text.write(&message("Hello World!")).unwrap();
        text.write(&message("a\nb")).unwrap();
        assert_eq!(
            String::from_utf8(text.out.into_inner().unwrap()).unwrap(),
            " [*] Waiting for messages. To exit press CTRL+C\n [x] Received 'Hello World!'\n [x] Received 'a\\nb'\n"
        );
    }

    #[test]
    fn a_batch_is_reported_when_it_is_flushed() {
        let file = tempfile::tempfile().unwrap();
        let mut copy = file.try_clone().unwrap();
        let mut writer = Writer::new(Box::new(MessageWriter::new(
            OutputFormat::Text(Paint::default()),
            file,
            true,
        )));
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
        let mut writer = Writer::new(Box::new(MessageWriter::new(
            OutputFormat::Text(Paint::default()),
            full,
            true,
        )));
        assert!(writer.hand_over(vec![message("a")]).is_none());
        assert_eq!(
            report(&writer).unwrap_err().kind(),
            io::ErrorKind::StorageFull
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

    /// A writer that writes to `file` at once if it can.
    fn prompt(file: File) -> Writer {
        let form = OutputFormat::Body(b"\n".to_vec());
        let copy = file.try_clone().unwrap();
        let stream = MessageWriter::new(form.clone(), Stdout(copy), true);
        let mut writer = Writer::new(Box::new(stream));
        writer.prompt = Prompt::new(form, Stdout(file));
        writer
    }

    #[test]
    fn a_pipe_is_written_to_at_once_as_long_as_it_has_room_and_everything_in_order() {
        let (reader, pipe) = nix::unistd::pipe().unwrap();
        let mut writer = prompt(File::from(pipe));
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
        while writer.orders.load(Ordering::Acquire) > 0 {
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
        let mut writer = prompt(file.try_clone().unwrap());
        assert!(
            writer
                .hand_over(vec![message(&"x".repeat(PROMPT_FILE + 1))])
                .is_none()
        );
        report(&writer).unwrap();
        assert!(writer.hand_over(vec![message("y")]).unwrap().is_ok());
        assert_eq!(file.metadata().unwrap().len(), PROMPT_FILE as u64 + 4);
    }

    #[test]
    fn nothing_is_written_after_a_failure() {
        // Not open for writing.
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "").unwrap();
        let mut writer = prompt(File::open(&path).unwrap());
        assert!(writer.hand_over(vec![message("a")]).unwrap().is_err());
        assert!(writer.hand_over(vec![message("b")]).is_none());
        assert!(writer.prompt.is_none());
    }

    #[test]
    fn a_reader_that_leaves_is_noticed_while_nothing_is_written() {
        let (reader, pipe) = UnixStream::pair().unwrap();
        let interrupt = Interrupt::default();
        watch(pipe, interrupt.clone()).unwrap();
        thread::sleep(Duration::from_millis(100));
        assert!(!interrupt.happened());
        drop(reader);
        assert!(
            interrupt
                .receiver()
                .recv_timeout(Duration::from_secs(5))
                .is_err()
        );
        assert!(interrupt.happened());
    }
}
