//! What wakes a thread that waits for a file, or for what other threads send it, whichever comes first.
//!
//! Threads wait for files with poll(2), and for other threads in a channel. Who waits for both has a
//! [`Bell`], which is a file for poll(2); and a channel made here rings the bell of whoever waits for
//! it, as the user's interrupt does.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crossbeam_channel::{SendError, TryRecvError};

/// The bell of one thread. Its clones ring the same one.
#[derive(Clone, Debug)]
pub struct Bell(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Whether somebody wants to be woken, and was not yet.
    is_wanted: AtomicBool,
    reader: UnixStream,
    writer: UnixStream,
}

impl Bell {
    /// A bell that nobody has rung.
    ///
    /// # Errors
    /// Those of the system, if it has no more file descriptors.
    pub fn new() -> io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        Ok(Self(Arc::new(Inner {
            is_wanted: AtomicBool::new(false),
            reader,
            writer,
        })))
    }

    /// Wakes whoever listens, once.
    pub fn ring(&self) {
        // Whoever does not see it ring sees what there was to see before.
        fence(Ordering::SeqCst);
        if self.0.is_wanted.swap(false, Ordering::SeqCst) {
            // If nothing more fits, it has been woken already.
            let _ = (&self.0.writer).write(&[0]);
        }
    }

    /// From here on, until what is returned is dropped, a ring makes the file readable. So first this,
    /// then a look at everything that may have come, then the wait.
    #[must_use]
    pub fn listen(&self) -> Listening<'_> {
        self.again();
        Listening(self)
    }

    fn again(&self) {
        self.0.is_wanted.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }
}

/// Somebody listens to a bell.
#[derive(Debug)]
pub struct Listening<'b>(&'b Bell);

impl Listening<'_> {
    /// Becomes readable when it rings.
    #[must_use]
    pub fn file(&self) -> BorrowedFd<'_> {
        self.0.0.reader.as_fd()
    }

    /// The bell has rung: it may do so again. Then, everything has to be looked at.
    pub fn again(&self) {
        let _ = (&self.0.0.reader).read(&mut [0; 64]);
        self.0.again();
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.0.0.is_wanted.store(false, Ordering::SeqCst);
    }
}

/// Those who wait for something, perhaps one after the other.
#[derive(Clone, Debug, Default)]
pub struct Listeners(Arc<Mutex<Vec<Weak<Inner>>>>);

impl Listeners {
    /// From here on, this bell rings, too.
    pub fn add(&self, bell: &Bell) {
        let mut bells = self.bells();
        let known = |other: &Weak<Inner>| std::ptr::eq(other.as_ptr(), Arc::as_ptr(&bell.0));
        if !bells.iter().any(known) {
            bells.retain(|bell| bell.strong_count() > 0);
            bells.push(Arc::downgrade(&bell.0));
        }
    }

    /// Rings every bell.
    pub fn ring(&self) {
        for bell in self.bells().iter().filter_map(Weak::upgrade) {
            Bell(bell).ring();
        }
    }

    fn bells(&self) -> MutexGuard<'_, Vec<Weak<Inner>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of a channel that is sent to.
#[derive(Debug)]
pub struct Sender<T> {
    /// `None` while it is dropped.
    sender: Option<crossbeam_channel::Sender<T>>,
    listeners: Listeners,
}

/// The end of a channel that is waited for.
#[derive(Clone, Debug)]
pub struct Receiver<T> {
    receiver: crossbeam_channel::Receiver<T>,
    listeners: Listeners,
}

/// A channel that holds as much as is sent.
#[must_use]
pub fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    of(crossbeam_channel::unbounded())
}

/// A channel that holds so much, and keeps who sends more waiting.
#[must_use]
pub fn bounded<T>(most: usize) -> (Sender<T>, Receiver<T>) {
    of(crossbeam_channel::bounded(most))
}

fn of<T>(
    (sender, receiver): (crossbeam_channel::Sender<T>, crossbeam_channel::Receiver<T>),
) -> (Sender<T>, Receiver<T>) {
    let listeners = Listeners::default();
    let sender = Sender {
        sender: Some(sender),
        listeners: listeners.clone(),
    };
    let receiver = Receiver {
        receiver,
        listeners,
    };
    (sender, receiver)
}

impl<T> Sender<T> {
    /// Sends, and wakes whoever waits for it.
    ///
    /// # Errors
    /// If nobody will.
    pub fn send(&self, what: T) -> Result<(), SendError<T>> {
        match &self.sender {
            Some(sender) => sender.send(what)?,
            None => return Err(SendError(what)),
        }
        self.listeners.ring();
        Ok(())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
            listeners: self.listeners.clone(),
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.sender.take();
        self.listeners.ring();
    }
}

impl<T> Receiver<T> {
    /// From here on, what is sent rings this bell.
    pub fn rings(&self, bell: &Bell) {
        self.listeners.add(bell);
    }

    /// What came, without waiting for it.
    ///
    /// # Errors
    /// If there is nothing at the moment, or never will be.
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        self.receiver.try_recv()
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

    fn rings(listening: &Listening) -> bool {
        is_ready(listening.file(), PollFlags::POLLIN)
    }

    #[test]
    fn a_bell_is_heard_while_somebody_listens_and_once() {
        let bell = Bell::new().unwrap();
        bell.ring();
        let listening = bell.listen();
        assert!(!rings(&listening));
        bell.ring();
        bell.ring();
        assert!(rings(&listening));
        listening.again();
        assert!(!rings(&listening));
        bell.clone().ring();
        assert!(rings(&listening));
        listening.again();
        drop(listening);
        bell.ring();
        assert!(!rings(&bell.listen()));
    }

    #[test]
    fn what_is_sent_rings_and_so_does_the_end() {
        let bell = Bell::new().unwrap();
        let (sender, receiver) = unbounded();
        receiver.rings(&bell);
        receiver.rings(&bell);
        assert_eq!(receiver.listeners.bells().len(), 1);
        let listening = bell.listen();
        sender.send(1).unwrap();
        assert!(rings(&listening));
        listening.again();
        assert_eq!(receiver.try_recv(), Ok(1));
        drop(sender.clone());
        listening.again();
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        drop(sender);
        assert!(rings(&listening));
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected));
    }

    #[test]
    fn nothing_is_missed_however_threads_run() {
        const MANY: u32 = 20_000;
        let bell = Bell::new().unwrap();
        let (sender, receiver) = bounded(3);
        receiver.rings(&bell);
        let thread = thread::spawn(move || (0..MANY).for_each(|n| sender.send(n).unwrap()));
        let listening = bell.listen();
        let mut got = 0;
        loop {
            match receiver.try_recv() {
                Ok(n) => {
                    assert_eq!(n, got);
                    got += 1;
                }
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) => {
                    crate::ready::wait_for(listening.file(), PollFlags::POLLIN);
                    listening.again();
                }
            }
        }
        assert_eq!(got, MANY);
        thread.join().unwrap();
    }
}
