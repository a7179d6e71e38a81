//! Ctrl+C, SIGTERM and SIGHUP as something that can be waited for.

use std::convert::Infallible;
use std::fs::File;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use nix::sys::signal::{SigSet, Signal};

use crate::error::Error;
use crate::waker::{Waker, Wakers};

/// A request to stop. It never goes away: whoever waits for it later gets it at once, and any
/// number of threads may wait.
#[derive(Clone, Debug)]
pub struct Interrupt {
    // Nothing is ever sent: the request is that the sender is gone.
    happened: Receiver<Infallible>,
    sender: Arc<Mutex<Option<Sender<Infallible>>>>,
    wakers: Wakers,
}

impl Default for Interrupt {
    fn default() -> Self {
        let (sender, happened) = bounded(0);
        Self {
            happened,
            sender: Arc::new(Mutex::new(Some(sender))),
            wakers: Wakers::default(),
        }
    }
}

impl Interrupt {
    /// Makes it happen.
    pub fn trigger(&self) {
        // A thread that died with the lock held has left nothing half done.
        self.sender
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        self.wakers.wake();
    }

    /// Lets it wake this waker, too, when it happens.
    pub fn wakes(&self, waker: &Waker) {
        self.wakers.add(waker);
    }

    /// Whether it has happened.
    #[must_use]
    pub fn happened(&self) -> bool {
        self.happened.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// Ready, for ever, once it has happened: for `select!`, whatever the result.
    #[must_use]
    pub fn receiver(&self) -> &Receiver<Infallible> {
        &self.happened
    }
}

/// Signals that follow each other so closely are one.
const SIGNAL_MERGE_WINDOW: Duration = Duration::from_millis(250);

/// Catches the signals that ask a process to stop. The first of them is the interrupt: stop in good
/// order. At the second, which wants it at once, `at_once` is called.
///
/// SIGHUP stays ignored where it was ignored before (nohup).
///
/// # Errors
/// [`Error::System`] if the system refuses the handler.
pub fn install(at_once: impl FnOnce() + Send + 'static) -> Result<Interrupt, Error> {
    if hangup_is_ignored() {
        // The handler is set for all three signals, but one that is blocked never arrives. Threads
        // started from here on inherit the mask.
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGHUP);
        let _ = mask.thread_block();
    }
    let interrupt = Interrupt::default();
    let first = interrupt.clone();
    let (mut is_first, mut at_once) = (true, Some(at_once));
    let mut last: Option<Instant> = None;
    ctrlc::set_handler(move || {
        // GNU timeout signals the process and then its group: one wish, told twice.
        if last.is_some_and(|last| last.elapsed() < SIGNAL_MERGE_WINDOW) {
            return;
        }
        last = Some(Instant::now());
        // The interrupt may have other causes, too.
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
fn hangup_is_ignored() -> bool {
    // Of a file without a size the standard library reads little at a time, and all of it.
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
