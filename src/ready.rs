//! Waiting for a file that can't be read or written at the moment.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Returns when a file is ready for one of these things, or will never be.
pub fn wait_for(file: BorrowedFd, what: PollFlags) {
    loop {
        let mut fds = [PollFd::new(file, what)];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) | Ok(0) => {}
            Ok(_) | Err(_) => return,
        }
    }
}

/// Returns when one of these files is ready, when a moment has come, or perhaps earlier.
pub fn wait_for_any(files: &mut [PollFd], until: Option<Instant>) {
    let timeout = until.map_or(PollTimeout::NONE, |until| {
        // Too late by less than the clock's step, rather than many times too early.
        let left = until.saturating_duration_since(Instant::now());
        let left = left + Duration::from_micros(999);
        PollTimeout::try_from(left.as_millis()).unwrap_or(PollTimeout::MAX)
    });
    // Interrupted by a signal is earlier. What else fails shows when it is used.
    let _ = poll(files, timeout);
}

/// Whether a file is ready for one of these things now.
pub fn is_ready(file: BorrowedFd, what: PollFlags) -> bool {
    let mut fds = [PollFd::new(file, what)];
    // An error shows when it is used.
    poll(&mut fds, PollTimeout::ZERO) == Ok(1)
}
