//! Checks that the standard descriptors were open when the process started.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{SFlag, fstat};

use crate::error::Error;

/// Checks that the standard descriptors are open. Otherwise input, messages and errors would be lost
/// silently.
///
/// # Errors
/// [`Error::Descriptor`] for the first of them.
pub fn check() -> Result<(), Error> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let fault = |name, problem| Err(Error::Descriptor { name, problem });
    // Standard error first, without which no other error can be shown.
    for (name, file) in [
        ("standard error", stderr.as_fd()),
        ("standard output", stdout.as_fd()),
    ] {
        if is_closed(file) {
            return fault(name, "closed");
        }
        if is_read_only(file) {
            return fault(name, "not open for writing");
        }
    }
    // nohup opens standard input for writing only.
    if is_closed(stdin.as_fd()) {
        return fault("standard input", "closed, or a directory");
    }
    Ok(())
}

/// Whether src/startup.c found the descriptor closed, and opened a directory in its place.
fn is_closed(file: BorrowedFd) -> bool {
    fstat(file).is_ok_and(|stat| {
        let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        kind == SFlag::S_IFDIR
    })
}

fn is_read_only(file: BorrowedFd) -> bool {
    fcntl(file, FcntlArg::F_GETFL)
        .is_ok_and(|flags| OFlag::from_bits_truncate(flags) & OFlag::O_ACCMODE == OFlag::O_RDONLY)
}
