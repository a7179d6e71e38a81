//! Standard output.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::thread;

use nix::poll::PollFlags;

use crate::interrupt::Interrupt;
use crate::ready::wait_for;

/// Standard output without the line buffer of the standard library, which would split a batch.
#[derive(Debug)]
pub(crate) struct Stdout(pub(super) File);

impl Stdout {
    /// Duplicates standard output.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self(File::from(io::stdout().as_fd().try_clone_to_owned()?)))
    }

    /// Whether its content may appear on the terminal on which standard error is read: directly, or
    /// through the program at the other end of a pipe.
    pub(crate) fn may_be_seen(&self) -> bool {
        self.0.is_terminal() || is_pipe(&self.0).unwrap_or(true)
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                // Another process that shares the pipe may have made it non-blocking.
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

/// Triggers `interrupt` as soon as the reader of `file` is gone, if it is a pipe or a socket.
pub(crate) fn watch(file: impl Into<OwnedFd>, interrupt: Interrupt) -> io::Result<()> {
    let file = File::from(file.into());
    if is_pipe(&file)? {
        thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || {
                // poll(2) always reports errors and hang-ups.
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
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;

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
