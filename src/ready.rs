//! Waiting for a file that can't be read or written at the moment.

use std::os::fd::BorrowedFd;

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

/// Whether a file is ready for one of these things now.
pub fn is_ready(file: BorrowedFd, what: PollFlags) -> bool {
    let mut fds = [PollFd::new(file, what)];
    // An error shows when it is used.
    poll(&mut fds, PollTimeout::ZERO) == Ok(1)
}
