//! Ctrl+C, SIGTERM and SIGHUP as a request that threads can wait for.

use std::convert::Infallible;
use std::fs::File;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use nix::sys::signal::{SigSet, Signal};

use crate::error::Error;
use crate::waker::{Waker, Wakers};

/// A request to stop. Once made it stays, for any number of threads.
#[derive(Clone, Debug)]
pub struct Interrupt {
    // The channel carries no messages: dropping the sender is the request.
    receiver: Receiver<Infallible>,
    sender: Arc<Mutex<Option<Sender<Infallible>>>>,
    wakers: Wakers,
}

impl Default for Interrupt {
    fn default() -> Self {
        let (sender, receiver) = bounded(0);
        Self {
            receiver,
            sender: Arc::new(Mutex::new(Some(sender))),
            wakers: Wakers::default(),
        }
    }
}

impl Interrupt {
    /// Makes the request.
    pub(crate) fn trigger(&self) {
        self.sender
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        self.wakers.wake();
    }

    /// Adds a waker that the request wakes.
    pub(crate) fn add_waker(&self, waker: &Waker) {
        self.wakers.add(waker);
    }

    /// Whether the request was made.
    pub(crate) fn happened(&self) -> bool {
        self.receiver.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// Returns a channel for `select!` that is ready once the request was made.
    pub(crate) fn receiver(&self) -> &Receiver<Infallible> {
        &self.receiver
    }
}

/// Signals that follow each other within this time count as one.
const SIGNAL_MERGE_WINDOW: Duration = Duration::from_millis(250);

/// Catches the signals that ask a process to stop. The first triggers the interrupt, the second calls
/// `at_once`.
///
/// SIGHUP stays ignored where it was ignored before (nohup).
///
/// # Errors
/// [`Error::System`] if the system refuses the handler.
pub fn install(at_once: impl FnOnce() + Send + 'static) -> Result<Interrupt, Error> {
    if is_sighup_ignored() {
        // ctrlc handles all three signals. The threads started later inherit the mask.
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGHUP);
        let _ = mask.thread_block();
    }
    let interrupt = Interrupt::default();
    let first = interrupt.clone();
    let (mut is_first, mut at_once) = (true, Some(at_once));
    let mut last: Option<Instant> = None;
    ctrlc::set_handler(move || {
        // timeout(1) signals the process and then its group.
        if last.is_some_and(|last| last.elapsed() < SIGNAL_MERGE_WINDOW) {
            return;
        }
        last = Some(Instant::now());
        // The interrupt does not tell which signal is the first: a closed pipe triggers it, too.
        if std::mem::take(&mut is_first) {
            first.trigger();
        } else if let Some(at_once) = at_once.take() {
            at_once();
        }
    })
    .map_err(|error| match error {
        ctrlc::Error::System(source) => Error::System {
            what: "catch signals",
            source,
        },
        other => Error::Bug(format!("cannot catch signals: {other}")),
    })?;
    Ok(interrupt)
}

/// Whether this process was started with SIGHUP ignored. Only Linux tells (proc(5), `SigIgn`).
fn is_sighup_ignored() -> bool {
    // `read_to_string` would take several system calls, as the file has no size.
    let mut status = [0; 4096];
    let read = File::open("/proc/self/status").and_then(|mut file| file.read(&mut status));
    let length = read.unwrap_or_default();
    String::from_utf8_lossy(&status[..length])
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 << (Signal::SIGHUP as i32 - 1) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_is_seen_by_all_and_stays() {
        let interrupt = Interrupt::default();
        let other = interrupt.clone();
        assert!(!interrupt.happened() && !other.happened());
        interrupt.trigger();
        interrupt.trigger();
        assert!(interrupt.happened() && other.happened() && interrupt.happened());
        assert!(interrupt.receiver().recv().is_err());
    }
}
