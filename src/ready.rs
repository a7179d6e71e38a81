//! Waiting with poll(2) until files are ready.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Waits until a file is ready for one of these events, or has failed.
pub(crate) fn wait_for(file: BorrowedFd, events: PollFlags) {
    loop {
        let mut fds = [PollFd::new(file, events)];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) | Ok(0) => {}
            Ok(_) | Err(_) => return,
        }
    }
}

/// Waits until one of these files is ready or the deadline has passed, or for a shorter time.
pub(crate) fn wait_for_any(files: &mut [PollFd], deadline: Option<Instant>) {
    let timeout = deadline.map_or(PollTimeout::NONE, |deadline| {
        // Rounded up: otherwise the caller would poll without a timeout during the last millisecond.
        let left = deadline.saturating_duration_since(Instant::now());
        let left = left + Duration::from_micros(999);
        PollTimeout::try_from(left.as_millis()).unwrap_or(PollTimeout::MAX)
    });
    // A signal shortens the wait. Other errors show when the file is used.
    let _ = poll(files, timeout);
}

/// Whether a file is ready for one of these events now.
pub(crate) fn is_ready(file: BorrowedFd, events: PollFlags) -> bool {
    let mut fds = [PollFd::new(file, events)];
    // Errors show when the file is used.
    poll(&mut fds, PollTimeout::ZERO) == Ok(1)
}
