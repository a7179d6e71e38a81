//! How received messages leave: written, flushed, and reported as such.

mod directory;
mod template;

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::thread;

use crossbeam_channel::{Receiver, Sender, unbounded};
use nix::poll::PollFlags;

use crate::color::Paint;
use crate::interrupt::Interrupt;
use crate::message::{Message, envelope};
use crate::ready::wait_for;
use crate::text;
pub use directory::Directory;
pub use template::Template;

/// A form in which messages are written.
pub trait Output: Send {
    /// Writes what comes before the first message, once the consumer is there.
    ///
    /// # Errors
    /// Those of the file.
    fn start(&mut self) -> io::Result<()>;

    /// Writes one message, perhaps only into a buffer.
    ///
    /// # Errors
    /// Those of the file.
    fn write(&mut self, message: &Message) -> io::Result<()>;

    /// Makes sure that what was written has left the process.
    ///
    /// # Errors
    /// Those of the file.
    fn flush(&mut self) -> io::Result<()>;
}

/// What a message looks like.
#[derive(Clone, Debug)]
pub enum Form {
    /// The tutorial's line, and the colour of its mark.
    Text(Paint),
    /// The body and nothing else, with these bytes behind it.
    Body(Vec<u8>),
    /// All of the message as a JSON object, with these bytes behind it.
    Json(Vec<u8>),
    /// As the user wants it.
    Template(Template),
}

impl Form {
    /// Writes one message.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, message: &Message, out: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Text(paint) => {
                write!(out, " {} Received ", paint.mark('x'))?;
                text::write_quoted(out, &message.body)?;
                out.write_all(b"\n")
            }
            Self::Body(end) => {
                out.write_all(&message.body)?;
                out.write_all(end)
            }
            Self::Json(end) => {
                envelope::write(message, out)?;
                out.write_all(end)
            }
            Self::Template(template) => template.write(message, out),
        }
    }
}

/// Messages one after the other.
#[derive(Debug)]
pub struct Stream<W: Write> {
    form: Form,
    out: BufWriter<W>,
    quiet: bool,
}

impl<W: Write> Stream<W> {
    /// Messages in this form for `out`; with `quiet`, nothing but messages.
    pub fn new(form: Form, out: W, quiet: bool) -> Self {
        Self {
            form,
            out: BufWriter::with_capacity(1 << 16, out),
            quiet,
        }
    }
}

impl<W: Write + Send> Output for Stream<W> {
    fn start(&mut self) -> io::Result<()> {
        match self.form {
            Form::Text(paint) if !self.quiet => writeln!(
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
    ///
    /// # Errors
    /// Those of the system, if it has no more file descriptors.
    pub fn open() -> io::Result<Self> {
        Ok(Self(File::from(io::stdout().as_fd().try_clone_to_owned()?)))
    }

    /// Whether what is written to it may come before the eyes of whoever reads standard error: on a
    /// terminal, or by way of the program at the other end of a pipe.
    #[must_use]
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

enum Work {
    Start,
    Batch(Vec<Message>),
}

/// A thread that writes, so that a reader that stalls does not keep the connection, or the user
/// who wants to leave, waiting.
#[derive(Debug)]
pub struct Writer {
    work: Sender<Work>,
    written: Receiver<io::Result<()>>,
}

impl Writer {
    /// Starts the thread, which ends with its `Writer`.
    ///
    /// # Errors
    /// Those of the system, if it has no more threads.
    pub fn spawn(mut output: Box<dyn Output>) -> io::Result<Self> {
        let (work, orders) = unbounded();
        let (reports, written) = unbounded();
        thread::Builder::new()
            .name("write".to_owned())
            .spawn(move || {
                for order in orders {
                    let report = match order {
                        Work::Start => match output.start().and_then(|()| output.flush()) {
                            Ok(()) => continue,
                            failed => failed,
                        },
                        Work::Batch(batch) => batch
                            .iter()
                            .try_for_each(|message| output.write(message))
                            .and_then(|()| output.flush()),
                    };
                    let failed = report.is_err();
                    if reports.send(report).is_err() || failed {
                        // After a failure nothing more is written, or a gap would look like an order.
                        return;
                    }
                }
            })?;
        Ok(Self { work, written })
    }

    /// Writes what comes before the first message. Only a failure is reported.
    pub fn start(&self) {
        let _ = self.work.send(Work::Start);
    }

    /// Writes and flushes a batch, and reports it once in [`Writer::written`].
    pub fn hand_over(&self, batch: Vec<Message>) {
        let _ = self.work.send(Work::Batch(batch));
    }

    /// A report for each batch, in order.
    #[must_use]
    pub fn written(&self) -> &Receiver<io::Result<()>> {
        &self.written
    }
}

/// Triggers `interrupt` when the reader of `file` is gone, if it is a pipe or a socket: so that it is
/// noticed when it happens, and not only at the next message.
///
/// # Errors
/// Those of the system, if it has no more threads.
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

    fn message(body: &str) -> Message {
        Message {
            body: body.into(),
            ..Message::default()
        }
    }

    fn report(writer: &Writer) -> io::Result<()> {
        writer
            .written()
            .recv_timeout(Duration::from_secs(5))
            .unwrap()
    }

    #[test]
    fn text_is_the_tutorials() {
        let mut text = Stream::new(Form::Text(Paint::default()), Vec::new(), false);
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
        let writer = Writer::spawn(Box::new(Stream::new(
            Form::Text(Paint::default()),
            file,
            true,
        )))
        .unwrap();
        writer.start();
        writer.hand_over(vec![message("a"), message("b")]);
        report(&writer).unwrap();
        let mut text = String::new();
        io::Seek::rewind(&mut copy).unwrap();
        io::Read::read_to_string(&mut copy, &mut text).unwrap();
        assert_eq!(text, " [x] Received 'a'\n [x] Received 'b'\n");
    }

    #[test]
    fn a_failure_is_reported_and_ends_the_writing() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let writer = Writer::spawn(Box::new(Stream::new(
            Form::Text(Paint::default()),
            full,
            true,
        )))
        .unwrap();
        writer.hand_over(vec![message("a")]);
        assert_eq!(
            report(&writer).unwrap_err().kind(),
            io::ErrorKind::StorageFull
        );
        writer.hand_over(vec![message("b")]);
        assert!(
            writer
                .written()
                .recv_timeout(Duration::from_secs(5))
                .is_err()
        );
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
