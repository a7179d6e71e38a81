//! The standard descriptors: whether they were open when the process was started.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{SFlag, fstat};

use crate::error::Error;

/// Refuses to begin with a standard descriptor that is closed: what was to be read or said would be
/// lost, and nobody would know.
///
/// # Errors
/// [`Error::Descriptor`] for the first of them.
pub fn check() -> Result<(), Error> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let fault = |name, problem| Err(Error::Descriptor { name, problem });
    // Error first, which may be the reason why the others can't be told.
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
    // One that is not open for reading is nohup's way.
    if is_closed(stdin.as_fd()) {
        return fault("standard input", "closed, or a directory");
    }
    Ok(())
}

/// Whether src/descriptors.c found it closed.
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
