//! The connection's socket: what is read from it and written to it, and by whom.
//!
//! Two threads have to do with it. The library's runs the connection and reads as long as nobody else
//! does. A thread that waits for messages reads by itself, so that none has to be handed over from
//! thread to thread: a hand-over costs more than all else that is done for a small message. It then
//! *drives*, and gives the wheel back before it asks the library for anything ([`Wire::hand_back`]).
//! Whoever reads sorts what came: methods for the library, and for us what has to do with messages.
//!
//! What is written goes to the socket at once if it takes it, whoever writes, and what it does not take
//! at once goes when it does, in order.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mio::unix::EventedFd;
use mio::{Poll, PollOpt, Ready, SetReadiness, Token};

use super::arrivals::{Arrival, Reader};
use super::frames;
use crate::bell::Bell;

/// A connection's socket.
pub struct Wire<S> {
    state: Mutex<State<S>>,
    /// Has the library read what there is for it.
    readiness: SetReadiness,
    /// Rung for whoever drives.
    bell: Bell,
    /// How many bytes have been written.
    written: AtomicU64,
    /// How many wait for the state. The library, which reads as fast as the broker sends, would let them
    /// wait for long, and what it reads pile up.
    waiting: AtomicUsize,
}

struct State<S> {
    stream: S,
    /// The stream may hold more than its socket tells of.
    reads_ahead: bool,
    /// Tells the library's poll of the socket, while it is the library's thread that reads.
    watch: Option<Watch>,
    chunk: Chunk,
    reader: Reader,
    /// What the library is to read next.
    incoming: Queue,
    /// When the library was last given something to read.
    fed: Instant,
    /// What the socket has not yet taken.
    outgoing: Queue,
    /// Somebody who waits for messages reads.
    is_driven: bool,
    /// Whoever drives waits for something to read.
    is_attended: bool,
    /// There may be more to read than the socket tells of.
    has_more: bool,
    /// Why nothing can be written any more. What can still be read comes first: it may be the broker's
    /// last words.
    unwritable: Option<io::Error>,
    /// Nothing more comes: the peer has closed the connection, or it failed.
    end: Option<io::Result<()>>,
    /// The library's thread is gone.
    is_left: bool,
}

/// What of a socket is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// That there is something to read.
    pub read: bool,
    /// That it takes more.
    pub write: bool,
    /// Nothing: there is something to read already.
    pub nothing: bool,
}

/// How many bytes are read at a time.
const CHUNK: usize = 1 << 17;

/// How many bytes are read before something else may be done.
const TURN: usize = 1 << 20;

/// The library takes a connection on which it reads nothing for dead, so it is given a heartbeat when
/// nothing but messages came for so long: less than a heartbeat's shortest interval.
pub const HUNGER: Duration = Duration::from_millis(250);

pub const HEARTBEAT: [u8; 8] = [frames::HEARTBEAT, 0, 0, 0, 0, 0, 0, frames::FRAME_END];

impl<S> Wire<S> {
    /// The wire to `stream`, of which `watch` tells the library's poll; no frame on it is longer than
    /// `frame_max`. The stream `reads_ahead` if it may hold more than its socket tells of. The library is
    /// to read `replay` first.
    pub fn new(
        stream: S,
        reads_ahead: bool,
        watch: Option<Watch>,
        readiness: SetReadiness,
        bell: Bell,
        frame_max: usize,
        replay: Vec<u8>,
    ) -> Self {
        Self {
            state: Mutex::new(State {
                stream,
                reads_ahead,
                watch,
                chunk: Chunk::new(),
                reader: Reader::new(frame_max),
                incoming: Queue::of(replay),
                fed: Instant::now(),
                outgoing: Queue::of(Vec::new()),
                is_driven: false,
                is_attended: false,
                has_more: false,
                unwritable: None,
                end: None,
                is_left: false,
            }),
            readiness,
            bell,
            written: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<S>> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        state
    }

    /// The library's poll can be told from here on.
    pub fn begin(&self) {
        self.state().watch();
        self.wake_library();
    }

    /// What is rung for whoever drives, and by whatever else it waits for.
    pub fn bell(&self) -> &Bell {
        &self.bell
    }

    /// From here on what comes with messages on this channel is kept, and nothing else: until the
    /// channel or the connection is closed, which makes an end of [`Wire::post`], too.
    pub fn open(&self, channel: u16) {
        let mut state = self.state();
        state.reader.arrivals.clear();
        state.reader.channel = Some(channel);
        state.reader.is_ignored = false;
        state.reader.limits = 0;
    }

    /// The broker is to be asked to set a limit, and its answer is not the library's.
    pub fn expect_limit(&self) {
        self.state().reader.limits += 1;
    }

    /// From here on nothing that comes is kept.
    pub fn ignore(&self) {
        let mut state = self.state();
        state.reader.is_ignored = true;
        state.reader.arrivals.clear();
    }

    /// From here on nothing that comes is kept, and nothing more is posted.
    pub fn close(&self) {
        self.state().reader.channel = None;
    }

    /// Moves what came to the end of `came`.
    pub fn take(&self, came: &mut VecDeque<Arrival>) {
        came.extend(self.state().reader.arrivals.drain(..));
    }

    /// How many bytes have been written.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Whether the library's thread is gone, and with it the connection.
    pub fn is_left(&self) -> bool {
        self.state().is_left
    }

    /// From here on whoever calls reads, and the library does not.
    pub fn drive(&self) {
        let mut state = self.state();
        if !state.is_driven {
            state.is_driven = true;
            state.watch();
        }
    }

    /// From here on the library reads.
    pub fn hand_back(&self) {
        let mut state = self.state();
        if state.is_driven {
            state.is_driven = false;
            state.watch();
            // What is there to be read from the socket, it is told by its poll.
            if state.has_more || state.unwritable.is_some() {
                self.wake_library();
            }
        }
    }

    /// Whoever drives waits for the socket, until [`Wire::turn`]: what for is returned. With `may_read`
    /// unset that is nothing to read.
    pub fn attend(&self, may_read: bool) -> Wanted {
        let mut state = self.state();
        state.is_attended = may_read;
        let read = may_read && state.end.is_none();
        Wanted {
            read,
            write: !state.outgoing.is_empty(),
            nothing: read && (state.has_more || state.unwritable.is_some()),
        }
    }

    /// Says what the library is to read, too.
    pub fn answer(&self, frames: &[u8]) {
        self.state().incoming.bytes.extend(frames);
        self.wake_library();
    }

    fn wake_library(&self) {
        // Its poll is gone only with its thread.
        let _ = self
            .readiness
            .set_readiness(Ready::readable() | Ready::writable());
    }

    /// The library has nothing to read: its poll need not say that it has. That it may write is always
    /// so.
    fn let_library_rest(&self) {
        let _ = self.readiness.set_readiness(Ready::writable());
    }

    /// What it is made of.
    #[cfg(test)]
    pub fn stream<T>(&self, look: impl FnOnce(&mut S) -> T) -> T {
        look(&mut self.state().stream)
    }

    /// The library's thread is gone.
    pub fn leave(&self) {
        self.state().is_left = true;
        self.bell.ring();
    }
}

impl<S: Write> Wire<S> {
    /// Sends whole frames on the channel for messages, unless it is closed, and says whether it is not.
    pub fn post(&self, channel: u16, frames: &[u8]) -> bool {
        let mut state = self.state();
        let is_open = state.reader.channel == Some(channel)
            && state.unwritable.is_none()
            && state.end.is_none()
            && !state.is_left;
        if is_open {
            self.send(&mut state, frames);
        }
        is_open
    }

    /// Sends what the library has to say.
    pub fn say(&self, frames: &[u8]) {
        let mut state = self.state();
        self.send(&mut state, frames);
        if state.is_driven && (!state.outgoing.is_empty() || state.unwritable.is_some()) {
            // Whoever drives may be waiting for something to read only.
            self.bell.ring();
        }
        if state.is_driven && !state.is_attended {
            // Whoever drives is busy, or kept waiting by others, and the peer not to blame.
            self.feed(&mut state);
        }
    }

    /// Keeps the library from taking the connection for dead.
    fn feed(&self, state: &mut State<S>) {
        if state.end.is_none() {
            state.feed();
            self.wake_library();
        }
    }

    fn send(&self, state: &mut State<S>, frames: &[u8]) {
        let sent = if state.outgoing.is_empty() {
            state.write(frames, &self.written)
        } else {
            0
        };
        if state.unwritable.is_some() {
            self.wake_library();
        } else if sent < frames.len() {
            state.outgoing.bytes.extend_from_slice(&frames[sent..]);
            state.watch();
        }
    }
}

impl<S: Read + Write> Wire<S> {
    /// Whoever drives has waited, and reads and writes what there is, if that is what it waited for and
    /// it `came`. What was read is sorted, and the library has its part.
    pub fn turn(&self, wanted: Wanted, came: bool) {
        let mut state = self.state();
        let may_read = std::mem::take(&mut state.is_attended);
        if came && wanted.write {
            state.write_outgoing(&self.written);
        }
        if came && wanted.read {
            let mut turn = 0;
            // If there is more, the socket tells of it. What is read so far goes on first.
            while let Some(length) = state.read() {
                turn += length;
                if turn > TURN || !state.has_more {
                    break;
                }
            }
            if !state.incoming.is_empty() || state.end.is_some() {
                self.wake_library();
            }
        } else if !may_read {
            self.feed(&mut state);
        }
    }

    /// What the library reads. If that is nothing, and it has read something since the last time, it has
    /// now dealt with that.
    pub fn read_for_library(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let others_wait = || {
            let others = self.waiting.load(Ordering::Relaxed) > 0;
            if others {
                // It is asked again at once.
                self.wake_library();
            }
            others
        };
        if others_wait() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut state = self.state();
        let mut turn = 0;
        while state.incoming.is_empty() && !state.is_driven && state.end.is_none() {
            if others_wait() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            if !state.outgoing.is_empty() {
                state.write_outgoing(&self.written);
            }
            if turn > TURN {
                self.wake_library();
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let more = state.read();
            if !state.reader.arrivals.is_empty() {
                self.bell.ring();
            }
            match more {
                Some(length) => turn += length,
                None => break,
            }
        }
        if !state.incoming.is_empty() {
            state.fed = Instant::now();
            return Ok(state.incoming.read(buffer));
        }
        match &mut state.end {
            // What it is told once is enough.
            Some(end) => std::mem::replace(end, Ok(())).map(|()| 0),
            None => {
                self.let_library_rest();
                self.bell.ring();
                Err(io::ErrorKind::WouldBlock.into())
            }
        }
    }
}

impl<S> State<S> {
    fn watch(&mut self) {
        let wanted = if self.is_driven || self.end.is_some() {
            Ready::empty()
        } else if self.outgoing.is_empty() {
            Ready::readable()
        } else {
            Ready::readable() | Ready::writable()
        };
        let watched = self.watch.as_mut().map_or(Ok(()), |it| it.set(wanted));
        if let (Err(error), None) = (watched, &self.end) {
            self.end = Some(Err(error));
        }
    }

    fn feed(&mut self) {
        if self.incoming.is_empty() && self.fed.elapsed() > HUNGER {
            self.incoming.bytes.extend(HEARTBEAT);
        }
    }
}

impl<S: Read> State<S> {
    /// Reads what has come, up to a chunk, and sorts it. Returns how much it was; `None` if there is
    /// nothing at the moment, or nothing any more.
    fn read(&mut self) -> Option<usize> {
        let room = self.chunk.room();
        let most = room.len();
        let length = match self.stream.read(room) {
            Ok(0) => return self.end_with(Ok(())),
            Ok(length) => length,
            Err(error) => {
                self.has_more = false;
                return match error.kind() {
                    io::ErrorKind::Interrupted => Some(0),
                    io::ErrorKind::WouldBlock => {
                        let unwritable = self.unwritable.take()?;
                        self.end_with(Err(unwritable))
                    }
                    _ => self.end_with(Err(error)),
                };
            }
        };
        self.has_more = self.reads_ahead || length == most;
        self.chunk.filled += length;
        let read = self
            .reader
            .read(self.chunk.bytes(), &mut self.incoming.bytes);
        match read {
            Ok(read) => self.chunk.remove(read),
            Err(error) => return self.end_with(Err(error)),
        }
        self.feed();
        Some(length)
    }

    fn end_with(&mut self, end: io::Result<()>) -> Option<usize> {
        self.has_more = false;
        self.end = Some(end);
        self.watch();
        None
    }
}

impl<S: Write> State<S> {
    /// Writes what waits, as far as the socket takes it.
    fn write_outgoing(&mut self, written: &AtomicU64) {
        let outgoing = std::mem::take(&mut self.outgoing);
        let sent = self.write(outgoing.rest(), written);
        if self.unwritable.is_none() {
            self.outgoing = outgoing;
            self.outgoing.advance(sent);
        }
        self.watch();
    }

    /// Writes as much as the socket takes, and returns how much that is.
    fn write(&mut self, bytes: &[u8], written: &AtomicU64) -> usize {
        let mut sent = 0;
        while sent < bytes.len() && self.unwritable.is_none() {
            match self.stream.write(&bytes[sent..]) {
                Ok(length) if length > 0 => {
                    written.fetch_add(length as u64, Ordering::Relaxed);
                    sent += length;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Ok(_) => self.unwritable = Some(io::ErrorKind::WriteZero.into()),
                Err(error) => self.unwritable = Some(error),
            }
        }
        sent
    }
}

/// Tells a poll of a socket, and can be made to tell it nothing, by any thread: it is a poll of its own
/// in the other.
pub struct Watch {
    poll: Poll,
    socket: TcpStream,
    watched: Ready,
}

impl Watch {
    /// Tells nothing yet.
    ///
    /// # Errors
    /// Those of the system, if it has no more file descriptors.
    pub fn new(socket: TcpStream) -> io::Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            socket,
            watched: Ready::empty(),
        })
    }

    /// The file that is to be registered with the poll.
    pub fn file(&self) -> i32 {
        self.poll.as_raw_fd()
    }

    fn set(&mut self, wanted: Ready) -> io::Result<()> {
        if wanted == self.watched {
            return Ok(());
        }
        let file = self.socket.as_raw_fd();
        let socket = EventedFd(&file);
        if wanted.is_empty() {
            self.poll.deregister(&socket)?;
        } else if self.watched.is_empty() {
            self.poll
                .register(&socket, Token(0), wanted, PollOpt::level())?;
        } else {
            self.poll
                .reregister(&socket, Token(0), wanted, PollOpt::level())?;
        }
        self.watched = wanted;
        Ok(())
    }
}

/// What was read from the socket and is not yet dealt with: the beginning of a frame.
struct Chunk {
    bytes: Vec<u8>,
    filled: usize,
}

impl Chunk {
    fn new() -> Self {
        Self {
            bytes: vec![0; CHUNK],
            filled: 0,
        }
    }

    /// Where to read to. A frame that is longer than all there is gets more, while it comes.
    fn room(&mut self) -> &mut [u8] {
        if self.filled == self.bytes.len() {
            self.bytes.resize(2 * self.filled, 0);
        }
        &mut self.bytes[self.filled..]
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    fn remove(&mut self, length: usize) {
        self.bytes.copy_within(length..self.filled, 0);
        self.filled -= length;
    }
}

/// Bytes that leave at the front.
#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    start: usize,
}

impl Queue {
    fn of(bytes: Vec<u8>) -> Self {
        Self { bytes, start: 0 }
    }

    fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    fn advance(&mut self, length: usize) {
        self.start += length;
        // Not each time, or much would be moved for little.
        if self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> usize {
        let length = self.rest().len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.rest()[..length]);
        self.advance(length);
        length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_is_never_empty_does_not_grow() {
        let mut queue = Queue::of(vec![0; 50]);
        for _ in 0..10_000 {
            queue.bytes.extend([0; 100]);
            assert_eq!(queue.read(&mut [0; 100]), 100);
            assert_eq!(queue.rest().len(), 50);
        }
        assert!(queue.bytes.capacity() < 1000);
    }
}
