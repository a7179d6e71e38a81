//! Wakes a thread that waits in poll(2) when another thread has something for it.
//!
//! Threads wait for files with poll(2) and for other threads in a channel. A thread that waits for both
//! has a [`Waker`], which is a file for poll(2). A channel made here wakes whoever waits for it, as the
//! user's interrupt does.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crossbeam_channel::{RecvError, SendError, TryRecvError};

/// Wakes one thread. Its clones wake the same one.
#[derive(Clone, Debug)]
pub struct Waker(Arc<WakerState>);

#[derive(Debug)]
struct WakerState {
    /// Whether the thread is about to wait, or waits, and was not woken since.
    is_armed: AtomicBool,
    reader: UnixStream,
    writer: UnixStream,
}

impl Waker {
    /// A waker that is not armed.
    ///
    /// # Errors
    /// Those of the system, if it has no more file descriptors.
    pub fn new() -> io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        Ok(Self(Arc::new(WakerState {
            is_armed: AtomicBool::new(false),
            reader,
            writer,
        })))
    }

    /// Wakes the thread if it is armed, once.
    pub fn wake(&self) {
        // A thread that arms itself after this looks at what there is to see only then.
        fence(Ordering::SeqCst);
        if self.0.is_armed.swap(false, Ordering::SeqCst) {
            // If nothing more fits, it has been woken already.
            let _ = (&self.0.writer).write(&[0]);
        }
    }

    /// Makes [`Waker::wake`] write to the file until the result is dropped. The order is: arm, look at
    /// everything that may have come, wait.
    #[must_use]
    pub fn arm(&self) -> Armed<'_> {
        self.set_armed();
        Armed(self)
    }

    fn set_armed(&self) {
        self.0.is_armed.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }
}

/// A waker that is armed until this is dropped.
#[derive(Debug)]
pub struct Armed<'w>(&'w Waker);

impl Armed<'_> {
    /// The file that becomes readable when the thread is to wake up.
    #[must_use]
    pub fn file(&self) -> BorrowedFd<'_> {
        self.0.0.reader.as_fd()
    }

    /// Arms the waker again after it has woken the thread. Everything has to be looked at after this.
    pub fn rearm(&self) {
        let _ = (&self.0.0.reader).read(&mut [0; 64]);
        self.0.set_armed();
    }
}

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        self.0.0.is_armed.store(false, Ordering::SeqCst);
    }
}

/// The wakers of the threads that wait for one thing, perhaps one after the other.
#[derive(Clone, Debug, Default)]
pub struct Wakers(Arc<Mutex<Vec<Weak<WakerState>>>>);

impl Wakers {
    /// Adds a waker, unless it is here already.
    pub fn add(&self, waker: &Waker) {
        let mut wakers = self.list();
        let known = |other: &Weak<WakerState>| std::ptr::eq(other.as_ptr(), Arc::as_ptr(&waker.0));
        if !wakers.iter().any(known) {
            wakers.retain(|waker| waker.strong_count() > 0);
            wakers.push(Arc::downgrade(&waker.0));
        }
    }

    /// Wakes every thread.
    pub fn wake(&self) {
        for waker in self.list().iter().filter_map(Weak::upgrade) {
            Waker(waker).wake();
        }
    }

    fn list(&self) -> MutexGuard<'_, Vec<Weak<WakerState>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sending end of a channel.
#[derive(Debug)]
pub struct Sender<T> {
    /// `None` while it is dropped.
    sender: Option<crossbeam_channel::Sender<T>>,
    wakers: Wakers,
}

/// The receiving end of a channel.
#[derive(Clone, Debug)]
pub struct Receiver<T> {
    receiver: crossbeam_channel::Receiver<T>,
    wakers: Wakers,
}

/// A channel without a bound.
#[must_use]
pub fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    of(crossbeam_channel::unbounded())
}

/// A channel that holds at most `most` items and makes the sender wait for room.
#[must_use]
pub fn bounded<T>(most: usize) -> (Sender<T>, Receiver<T>) {
    of(crossbeam_channel::bounded(most))
}

fn of<T>(
    (sender, receiver): (crossbeam_channel::Sender<T>, crossbeam_channel::Receiver<T>),
) -> (Sender<T>, Receiver<T>) {
    let wakers = Wakers::default();
    let sender = Sender {
        sender: Some(sender),
        wakers: wakers.clone(),
    };
    (sender, Receiver { receiver, wakers })
}

impl<T> Sender<T> {
    /// Sends an item, and wakes whoever waits for it.
    ///
    /// # Errors
    /// If the receiver is gone.
    pub fn send(&self, item: T) -> Result<(), SendError<T>> {
        match &self.sender {
            Some(sender) => sender.send(item)?,
            None => return Err(SendError(item)),
        }
        self.wakers.wake();
        Ok(())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
            wakers: self.wakers.clone(),
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.sender.take();
        self.wakers.wake();
    }
}

impl<T> Receiver<T> {
    /// Lets what is sent from now on wake this waker, too.
    pub fn wakes(&self, waker: &Waker) {
        self.wakers.add(waker);
    }

    /// Returns the next item without waiting for it.
    ///
    /// # Errors
    /// If there is nothing at the moment, or never will be.
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        self.receiver.try_recv()
    }

    /// Returns the next item if there is one, and an error if there never will be one.
    pub(crate) fn next(&self) -> Option<Result<T, RecvError>> {
        match self.receiver.try_recv() {
            Ok(item) => Some(Ok(item)),
            Err(TryRecvError::Disconnected) => Some(Err(RecvError)),
            Err(TryRecvError::Empty) => None,
        }
    }

    /// The channel, for those who wait for no file.
    #[must_use]
    pub fn inner(&self) -> &crossbeam_channel::Receiver<T> {
        &self.receiver
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ready::is_ready;
    use nix::poll::PollFlags;
    use std::thread;

    fn is_woken(armed: &Armed) -> bool {
        is_ready(armed.file(), PollFlags::POLLIN)
    }

    #[test]
    fn a_waker_wakes_while_it_is_armed_and_once() {
        let waker = Waker::new().unwrap();
        waker.wake();
        let armed = waker.arm();
        assert!(!is_woken(&armed));
        waker.wake();
        waker.wake();
        assert!(is_woken(&armed));
        armed.rearm();
        assert!(!is_woken(&armed));
        waker.clone().wake();
        assert!(is_woken(&armed));
        armed.rearm();
        drop(armed);
        waker.wake();
        assert!(!is_woken(&waker.arm()));
    }

    #[test]
    fn what_is_sent_wakes_and_so_does_the_end() {
        let waker = Waker::new().unwrap();
        let (sender, receiver) = unbounded();
        receiver.wakes(&waker);
        receiver.wakes(&waker);
        assert_eq!(receiver.wakers.list().len(), 1);
        let armed = waker.arm();
        sender.send(1).unwrap();
        assert!(is_woken(&armed));
        armed.rearm();
        assert_eq!(receiver.try_recv(), Ok(1));
        drop(sender.clone());
        armed.rearm();
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        drop(sender);
        assert!(is_woken(&armed));
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected));
    }

    #[test]
    fn nothing_is_missed_however_threads_run() {
        const MANY: u32 = 20_000;
        let waker = Waker::new().unwrap();
        let (sender, receiver) = bounded(3);
        receiver.wakes(&waker);
        let thread = thread::spawn(move || (0..MANY).for_each(|n| sender.send(n).unwrap()));
        let armed = waker.arm();
        let mut got = 0;
        loop {
            match receiver.try_recv() {
                Ok(n) => {
                    assert_eq!(n, got);
                    got += 1;
                }
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) => {
                    crate::ready::wait_for(armed.file(), PollFlags::POLLIN);
                    armed.rearm();
                }
            }
        }
        assert_eq!(got, MANY);
        thread.join().unwrap();
    }
}
