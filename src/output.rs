//! How received messages leave: written, flushed, and reported as such.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::thread;

use crossbeam_channel::{Receiver, Sender, unbounded};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::interrupt::Interrupt;
use crate::message::Message;
use crate::text;

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

/// The tutorial's lines.
#[derive(Debug)]
pub struct Text<W: Write> {
    out: BufWriter<W>,
    quiet: bool,
}

impl<W: Write> Text<W> {
    /// Lines for `out`; with `quiet`, only those of messages.
    pub fn new(out: W, quiet: bool) -> Self {
        Self {
            out: BufWriter::with_capacity(1 << 16, out),
            quiet,
        }
    }
}

impl<W: Write + Send> Output for Text<W> {
    fn start(&mut self) -> io::Result<()> {
        if self.quiet {
            return Ok(());
        }
        writeln!(self.out, " [*] Waiting for messages. To exit press CTRL+C")
    }

    fn write(&mut self, message: &Message) -> io::Result<()> {
        self.out.write_all(b" [x] Received ")?;
        text::write_quoted(&mut self.out, &message.body)?;
        self.out.write_all(b"\n")
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
    pub fn spawn(mut output: impl Output + 'static) -> io::Result<Self> {
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
    let kind = file.metadata()?.file_type();
    if kind.is_fifo() || kind.is_socket() {
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

/// Returns when a file is ready for one of these things, or will never be.
fn wait_for(file: BorrowedFd, what: PollFlags) {
    loop {
        let mut fds = [PollFd::new(file, what)];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) | Ok(0) => {}
            Ok(_) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    fn message(body: &str) -> Message {
        Message { body: body.into() }
    }

    fn report(writer: &Writer) -> io::Result<()> {
        writer
            .written()
            .recv_timeout(Duration::from_secs(5))
            .unwrap()
    }

    #[test]
    fn text_is_the_tutorials() {
        let mut text = Text::new(Vec::new(), false);
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
        let writer = Writer::spawn(Text::new(file, true)).unwrap();
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
        let writer = Writer::spawn(Text::new(full, true)).unwrap();
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
