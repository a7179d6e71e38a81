//! Wakes a thread that waits in poll(2) when another thread has something for it.
//!
//! A thread that waits both for files and for other threads has a [`Waker`], which is a file for
//! poll(2). The channels of this module, and the user's interrupt, wake the wakers added to them.

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
    /// Whether the thread waits, or is about to, and was not woken since it was armed.
    is_armed: AtomicBool,
    reader: UnixStream,
    writer: UnixStream,
}

impl Waker {
    /// Returns a waker that is not armed.
    pub(crate) fn new() -> io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        Ok(Self(Arc::new(WakerState {
            is_armed: AtomicBool::new(false),
            reader,
            writer,
        })))
    }

    /// Wakes the thread if the waker is armed, and disarms it.
    pub(crate) fn wake(&self) {
        // Orders what the caller has done before this with what the thread checks after arming.
        fence(Ordering::SeqCst);
        if self.0.is_armed.swap(false, Ordering::SeqCst) {
            // A full socket has woken the thread already.
            let _ = (&self.0.writer).write(&[0]);
        }
    }

    /// Arms the waker until the result is dropped. The thread arms first, then checks for everything
    /// that it waits for, then waits.
    pub(crate) fn arm(&self) -> Armed<'_> {
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
pub(crate) struct Armed<'w>(&'w Waker);

impl Armed<'_> {
    /// Returns the file that becomes readable when the thread is woken.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.0.0.reader.as_fd()
    }

    /// Arms the waker again after it has woken the thread, which then checks for everything again.
    pub(crate) fn rearm(&self) {
        let _ = (&self.0.0.reader).read(&mut [0; 64]);
        self.0.set_armed();
    }
}

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        self.0.0.is_armed.store(false, Ordering::SeqCst);
    }
}

/// The wakers of all threads that wait for one thing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wakers(Arc<Mutex<Vec<Weak<WakerState>>>>);

impl Wakers {
    /// Adds a waker, unless it is in the list.
    pub(crate) fn add(&self, waker: &Waker) {
        let mut wakers = self.lock();
        let is_same =
            |other: &Weak<WakerState>| std::ptr::eq(other.as_ptr(), Arc::as_ptr(&waker.0));
        if !wakers.iter().any(is_same) {
            wakers.retain(|waker| waker.strong_count() > 0);
            wakers.push(Arc::downgrade(&waker.0));
        }
    }

    /// Wakes every thread.
    pub(crate) fn wake(&self) {
        for waker in self.lock().iter().filter_map(Weak::upgrade) {
            Waker(waker).wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<WakerState>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sending end of a channel.
#[derive(Debug)]
pub struct Sender<T> {
    /// `None` only while the sender is dropped.
    sender: Option<crossbeam_channel::Sender<T>>,
    wakers: Wakers,
}

/// The receiving end of a channel.
#[derive(Clone, Debug)]
pub struct Receiver<T> {
    receiver: crossbeam_channel::Receiver<T>,
    wakers: Wakers,
}

/// Returns a channel without a bound.
pub(crate) fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    with_wakers(crossbeam_channel::unbounded())
}

/// Returns a channel that holds at most `capacity` items and makes the sender wait for room.
pub(crate) fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    with_wakers(crossbeam_channel::bounded(capacity))
}

fn with_wakers<T>(
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
    /// Sends an item and wakes the receiver's wakers. Fails if the receiver is gone.
    pub(crate) fn send(&self, item: T) -> Result<(), SendError<T>> {
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
    /// Adds a waker that is woken by each item and by the end of the channel.
    pub(crate) fn add_waker(&self, waker: &Waker) {
        self.wakers.add(waker);
    }

    /// Returns the next item without waiting for it.
    pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
        self.receiver.try_recv()
    }

    /// Returns the next item without waiting for it, or an error if the channel has ended.
    pub(crate) fn next(&self) -> Option<Result<T, RecvError>> {
        match self.receiver.try_recv() {
            Ok(item) => Some(Ok(item)),
            Err(TryRecvError::Disconnected) => Some(Err(RecvError)),
            Err(TryRecvError::Empty) => None,
        }
    }

    /// Returns the channel, to wait for it without a file.
    pub(crate) fn inner(&self) -> &crossbeam_channel::Receiver<T> {
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
    fn an_armed_waker_wakes_once() {
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
    fn an_item_wakes_and_so_does_the_end_of_the_channel() {
        let waker = Waker::new().unwrap();
        let (sender, receiver) = unbounded();
        receiver.add_waker(&waker);
        receiver.add_waker(&waker);
        assert_eq!(receiver.wakers.lock().len(), 1);
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
    fn no_item_is_missed() {
        const ITEMS: u32 = 20_000;
        let waker = Waker::new().unwrap();
        let (sender, receiver) = bounded(3);
        receiver.add_waker(&waker);
        let thread = thread::spawn(move || (0..ITEMS).for_each(|n| sender.send(n).unwrap()));
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
        assert_eq!(got, ITEMS);
        thread.join().unwrap();
    }
}
