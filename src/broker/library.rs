//! The client library, amiquip, on a stream in memory.
//!
//! It declares, binds, purges and deletes on channel [`LIBRARY`]. Its calls block, so they run as
//! closures on a helper thread, while the owner of the socket waits for the result and moves frames
//! between the stream in memory and the socket.
//!
//! This module relies on four properties of amiquip 0.4.2, which Cargo.toml requires. Each has a test.
//!
//! 1. It accepts [`handshake`] as the broker's side of a login. With heartbeat 0 in the tune it neither
//!    sends nor expects heartbeats.
//! 2. Each of its writes consists of whole frames, after the protocol header of 8 bytes.
//! 3. It opens the channel that it is told to open, any number of times.
//! 4. When its stream ends, so do all its calls, with an error, and its thread.
//!
//! Channel 0 belongs to the owner of the socket: its frames go neither from nor to the library.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use amiquip::{Auth, Channel, Connection, ConnectionOptions, ConnectionTuning, IoStream};
use crossbeam_channel::{Receiver, Sender, unbounded};
use mio::{Evented, Poll, PollOpt, Ready, Registration, SetReadiness, Token};

use super::connection::Socket;
use super::frames::{self, FrameHeader, LIBRARY, PROTOCOL_HEADER, method_frame, put_long_string};
use crate::error::Error;
use crate::waker::{self, Waker};

/// The handshake is in memory already, so this never elapses.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(60);

/// A call for the helper thread.
type Job = Box<dyn FnOnce(&mut LibraryConnection) + Send>;

/// The library, and the thread on which its calls run.
pub(crate) struct Library {
    jobs: Sender<Job>,
    owner_end: OwnerEnd,
    waker: Waker,
}

impl Library {
    /// Starts the library's threads, which takes about as long as a login and can happen during it.
    /// `is_channel_open` says that the login opens the library's channel. `waker` wakes the owner of the
    /// socket.
    pub(crate) fn start(is_channel_open: bool, waker: &Waker) -> Result<Self, Error> {
        let (owner_end, stream) = pair(handshake(), is_channel_open, waker);
        let (jobs, receiver) = unbounded();
        thread::Builder::new()
            .name("library".to_owned())
            .spawn(move || run(stream, &receiver))
            .map_err(Error::thread)?;
        Ok(Self {
            jobs,
            owner_end,
            waker: waker.clone(),
        })
    }

    /// Runs a call on the library's channel. Its result, or the end of the helper thread, wakes the waker.
    pub(crate) fn call<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Channel) -> amiquip::Result<T> + Send + 'static,
    ) -> waker::Receiver<amiquip::Result<T>> {
        let (sender, result) = waker::bounded(1);
        result.add_waker(&self.waker);
        let job: Job = Box::new(move |library| {
            let (result, failed_channel) = library.call(run);
            let _ = sender.send(result);
            drop(sender);
            // Closing it may wait for the broker.
            drop(failed_channel);
        });
        let _ = self.jobs.send(job);
        result
    }

    /// Moves frames between the socket and the library.
    pub(crate) fn exchange(&mut self, socket: &mut Socket) {
        socket.take_library_frames(&mut self.owner_end.incoming);
        self.owner_end.exchange(|frames| socket.send(frames));
    }
}

/// The library's connection, as the helper thread has it.
struct LibraryConnection {
    connection: amiquip::Result<Connection>,
    /// The open channel. The broker closes it when it refuses something.
    channel: Option<Channel>,
}

impl LibraryConnection {
    /// Returns the result, and after a failure the channel, to be closed.
    fn call<T>(
        &mut self,
        run: impl FnOnce(&Channel) -> amiquip::Result<T>,
    ) -> (amiquip::Result<T>, Option<Channel>) {
        let channel = match self.channel() {
            Ok(channel) => channel,
            Err(error) => return (Err(error), None),
        };
        let result = run(&channel);
        if result.is_ok() {
            self.channel = Some(channel);
            return (result, None);
        }
        (result, Some(channel))
    }

    fn channel(&mut self) -> amiquip::Result<Channel> {
        if let Some(channel) = self.channel.take() {
            return Ok(channel);
        }
        match &mut self.connection {
            Ok(connection) => connection.open_channel(Some(LIBRARY)),
            Err(error) => Err(std::mem::replace(error, amiquip::Error::EventLoopDropped)),
        }
    }
}

/// Runs one job after the other, on the helper thread.
fn run(stream: impl IoStream, jobs: &Receiver<Job>) {
    // The login is done without the library, which gets neither user nor password.
    let options = ConnectionOptions::<Auth>::default()
        .auth(Auth::Plain {
            username: String::new(),
            password: String::new(),
        })
        .connection_timeout(Some(HANDSHAKE_TIMEOUT));
    let tuning = ConnectionTuning::default();
    let connection = Connection::insecure_open_stream(stream, options, tuning);
    if let Err(error) = &connection {
        log::debug!("the client library does not start: {error}");
    }
    let mut library = LibraryConnection {
        connection,
        channel: None,
    };
    for job in jobs {
        job(&mut library);
    }
}

/// The bytes between the two ends of the stream in memory.
#[derive(Debug, Default)]
struct StreamBuffers {
    to_library: Vec<u8>,
    from_library: Vec<u8>,
    is_closed: bool,
}

#[derive(Clone, Debug)]
struct SharedBuffers(Arc<Mutex<StreamBuffers>>);

impl SharedBuffers {
    fn lock(&self) -> MutexGuard<'_, StreamBuffers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The socket owner's end of the stream in memory. Dropping it closes the stream.
#[derive(Debug)]
struct OwnerEnd {
    shared: SharedBuffers,
    readiness: SetReadiness,
    /// Frames to be given to the library.
    incoming: Vec<u8>,
    /// Whether the library has sent the protocol header.
    has_protocol_header: bool,
    /// Whether the channel is open although the library has yet to open it.
    is_channel_open: bool,
}

impl OwnerEnd {
    /// Gives `incoming` to the library, and the frames that it has written to `send`.
    fn exchange(&mut self, mut send: impl FnMut(&[u8])) {
        let written = std::mem::take(&mut self.shared.lock().from_library);
        let mut rest = written.as_slice();
        if !self.has_protocol_header && !rest.is_empty() {
            self.has_protocol_header = true;
            rest = rest.strip_prefix(&PROTOCOL_HEADER).unwrap_or(rest);
        }
        while let Some(header) = FrameHeader::read(rest) {
            let Some((frame, others)) = rest.split_at_checked(header.frame_size()) else {
                break;
            };
            if self.is_channel_open && is_channel_open(frame) {
                self.is_channel_open = false;
                let answer = method_frame(LIBRARY, frames::CHANNEL_OPEN_OK, &[0; 4]);
                self.incoming.extend(answer);
            } else if header.channel != 0 {
                send(frame);
            }
            rest = others;
        }
        if !self.incoming.is_empty() {
            self.shared.lock().to_library.append(&mut self.incoming);
            self.notify();
        }
    }

    /// Wakes the library's thread.
    fn notify(&self) {
        // It fails only if that thread has ended.
        let _ = self
            .readiness
            .set_readiness(Ready::readable() | Ready::writable());
    }
}

impl Drop for OwnerEnd {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.notify();
    }
}

fn is_channel_open(frame: &[u8]) -> bool {
    let method = frames::Fields(&frame[frames::FRAME_HEADER..]).method();
    frame[0] == frames::METHOD && method.is_ok_and(|method| method == frames::CHANNEL_OPEN)
}

/// Returns the broker's side of a login, for the library.
fn handshake() -> Vec<u8> {
    let mut start = vec![0, 9];
    put_long_string(&mut start, b"");
    put_long_string(&mut start, b"PLAIN");
    put_long_string(&mut start, b"en_US");
    // Channels up to the library's, frames of any size, no heartbeats.
    let mut tune = LIBRARY.to_be_bytes().to_vec();
    tune.extend([0; 6]);
    [
        method_frame(0, frames::CONNECTION_START, &start),
        method_frame(0, frames::CONNECTION_TUNE, &tune),
        method_frame(0, frames::CONNECTION_OPEN_OK, &[0]),
    ]
    .concat()
}

/// Returns the two ends of a stream in memory, with `handshake` for the library to read.
fn pair(handshake: Vec<u8>, is_channel_open: bool, waker: &Waker) -> (OwnerEnd, MemoryStream) {
    let (registration, readiness) = Registration::new2();
    let shared = SharedBuffers(Arc::new(Mutex::new(StreamBuffers {
        to_library: handshake,
        ..StreamBuffers::default()
    })));
    let owner_end = OwnerEnd {
        shared: shared.clone(),
        readiness: readiness.clone(),
        incoming: Vec::new(),
        has_protocol_header: false,
        is_channel_open,
    };
    owner_end.notify();
    let stream = MemoryStream {
        shared,
        registration,
        readiness,
        waker: waker.clone(),
    };
    (owner_end, stream)
}

/// The library's end of the stream in memory.
struct MemoryStream {
    shared: SharedBuffers,
    registration: Registration,
    readiness: SetReadiness,
    waker: Waker,
}

impl Read for MemoryStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut buffers = self.shared.lock();
        if buffers.to_library.is_empty() {
            if buffers.is_closed {
                return Ok(0);
            }
            // It stays writable. The owner notifies of more only after it gets the lock.
            let _ = self.readiness.set_readiness(Ready::writable());
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let length = buffer.len().min(buffers.to_library.len());
        buffer[..length].copy_from_slice(&buffers.to_library[..length]);
        buffers.to_library.drain(..length);
        Ok(length)
    }
}

impl Write for MemoryStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.shared.lock().from_library.extend_from_slice(bytes);
        // The handshake is answered already.
        if FrameHeader::read(bytes).is_some_and(|header| header.channel == LIBRARY) {
            self.waker.wake();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Evented for MemoryStream {
    fn register(
        &self,
        poll: &Poll,
        token: Token,
        interest: Ready,
        opts: PollOpt,
    ) -> io::Result<()> {
        self.registration.register(poll, token, interest, opts)
    }

    fn reregister(
        &self,
        poll: &Poll,
        token: Token,
        interest: Ready,
        opts: PollOpt,
    ) -> io::Result<()> {
        self.registration.reregister(poll, token, interest, opts)
    }

    fn deregister(&self, poll: &Poll) -> io::Result<()> {
        poll.deregister(&self.registration)
    }
}

impl IoStream for MemoryStream {}

#[cfg(test)]
mod tests {
    use super::super::frames::{CHANNEL_CLOSE_OK, CHANNEL_OPEN, Method};
    use super::super::peer::{self, channel_open_ok, close, cut, open_ok};
    use super::super::wait::{OnInterrupt, Wait, Waiter};
    use super::*;
    use crate::interrupt::Interrupt;
    use crate::messenger::Messenger;
    use amiquip::{
        AmqpValue, ExchangeDeclareOptions, ExchangeType, FieldTable, QueueDeclareOptions,
        QueueDeleteOptions,
    };
    use crossbeam_channel::{RecvTimeoutError, bounded};
    use std::convert::Infallible;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    /// A timeout that a test runs into only if it fails.
    const LONG: Duration = Duration::from_secs(60);

    const QUEUE_DECLARE: Method = (50, 10);

    /// The stream in memory, with a record of the library's writes.
    struct Recorder {
        stream: MemoryStream,
        writes: Arc<Mutex<Vec<Vec<u8>>>>,
        /// Dropped by the thread that has the stream.
        _ends: Sender<Infallible>,
    }

    impl Read for Recorder {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.stream.read(buffer)
        }
    }

    impl Write for Recorder {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.writes.lock().unwrap().push(bytes.to_vec());
            self.stream.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            self.stream.flush()
        }
    }

    impl Evented for Recorder {
        fn register(
            &self,
            poll: &Poll,
            token: Token,
            interest: Ready,
            opts: PollOpt,
        ) -> io::Result<()> {
            self.stream.register(poll, token, interest, opts)
        }

        fn reregister(
            &self,
            poll: &Poll,
            token: Token,
            interest: Ready,
            opts: PollOpt,
        ) -> io::Result<()> {
            self.stream.reregister(poll, token, interest, opts)
        }

        fn deregister(&self, poll: &Poll) -> io::Result<()> {
            self.stream.deregister(poll)
        }
    }

    impl IoStream for Recorder {}

    /// The library, the socket, and the broker at its other end.
    struct LibraryFixture {
        library: Library,
        writes: Arc<Mutex<Vec<Vec<u8>>>>,
        /// Disconnected by the end of the library's threads.
        ends: [Receiver<Infallible>; 2],
        socket: Socket,
        waiter: Waiter,
        peer: UnixStream,
        /// The frames that the broker has received.
        received: Vec<Vec<u8>>,
        /// The beginning of another frame.
        partial: Vec<u8>,
    }

    impl LibraryFixture {
        fn new() -> Self {
            Self::with(handshake())
        }

        /// As [`Library::start`], with recorders.
        fn with(handshake: Vec<u8>) -> Self {
            let messenger = Messenger::new(true);
            let waiter = Waiter::new(&Interrupt::default(), None, &messenger).unwrap();
            let (stream, peer) = peer::pair();
            let mut socket = Socket::new(String::new(), stream, &messenger);
            socket.finish_login(u16::MAX, 131_072, 0);
            let (owner_end, stream) = pair(handshake, true, waiter.waker());
            let (stream_ends, stream_end) = bounded(0);
            let (thread_ends, thread_end) = bounded::<Infallible>(0);
            let recorder = Recorder {
                stream,
                writes: Arc::default(),
                _ends: stream_ends,
            };
            let writes = Arc::clone(&recorder.writes);
            let (jobs, receiver) = unbounded();
            thread::spawn(move || {
                run(recorder, &receiver);
                drop(thread_ends);
            });
            Self {
                library: Library {
                    jobs,
                    owner_end,
                    waker: waiter.waker().clone(),
                },
                writes,
                ends: [stream_end, thread_end],
                socket,
                waiter,
                peer,
                received: Vec::new(),
                partial: Vec::new(),
            }
        }

        /// Exchanges frames between library and broker until `check` returns something.
        fn wait<T>(&mut self, mut check: impl FnMut(&[Vec<u8>]) -> Option<T>) -> T {
            let Self {
                library,
                socket,
                waiter,
                peer,
                received,
                partial,
                ..
            } = self;
            let wait = Wait {
                deadline: Some(Instant::now() + LONG),
                on_interrupt: OnInterrupt::Ignore,
                announcement: None,
            };
            let result = waiter.wait(socket, wait, |socket| {
                library.exchange(socket);
                // Until it would block.
                let _ = peer.read_to_end(partial);
                while let Some(header) = FrameHeader::read(partial) {
                    if partial.len() < header.frame_size() {
                        break;
                    }
                    let frame: Vec<_> = partial.drain(..header.frame_size()).collect();
                    peer.write_all(&answer(&frame)).unwrap();
                    received.push(frame);
                }
                check(received)
            });
            result.unwrap()
        }

        fn call<T: Send + 'static>(
            &mut self,
            run: impl FnOnce(&Channel) -> amiquip::Result<T> + Send + 'static,
        ) -> amiquip::Result<T> {
            let result = self.library.call(run);
            self.wait(|_| result.try_recv().ok())
        }

        /// Drops the owner's end, and waits for the end of the library's threads.
        fn end(self) {
            drop(self.library);
            for end in self.ends {
                assert_eq!(end.recv_timeout(LONG), Err(RecvTimeoutError::Disconnected));
            }
        }
    }

    /// The broker's answer to a frame.
    fn answer(frame: &[u8]) -> Vec<u8> {
        let method = method(frame);
        let number = |number: u32| number.to_be_bytes().to_vec();
        let arguments = match method {
            CHANNEL_OPEN => return channel_open_ok(),
            QUEUE_DECLARE => {
                let mut fields = frames::arguments(frame);
                let _ticket = fields.u16();
                match fields.short_string().unwrap() {
                    b"missing" => return close(LIBRARY, 404, "NOT_FOUND - no"),
                    b"silent" => return Vec::new(),
                    _ => [b"\x01q".to_vec(), number(2), number(1)].concat(),
                }
            }
            // queue.purge and queue.delete.
            (50, 30) => number(7),
            (50, 40) => number(3),
            CHANNEL_CLOSE_OK => return Vec::new(),
            _ => Vec::new(),
        };
        frames::method_frame(LIBRARY, (method.0, method.1 + 1), &arguments)
    }

    fn method(frame: &[u8]) -> Method {
        let mut fields = frames::Fields(&frame[frames::FRAME_HEADER..]);
        fields.method().unwrap()
    }

    fn methods(received: &[Vec<u8>]) -> Vec<Method> {
        received.iter().map(|frame| method(frame)).collect()
    }

    #[test]
    fn the_handshake_satisfies_it_and_there_are_no_heartbeats() {
        let mut fixture = LibraryFixture::new();
        fixture.call(|_| Ok(())).unwrap();
        // The broker has seen neither the handshake nor the opening of the channel.
        assert!(fixture.received.is_empty());
        let written = fixture.writes.lock().unwrap().concat();
        let frames = cut(written.strip_prefix(&PROTOCOL_HEADER).unwrap());
        let [start_ok, tune_ok, open, channel_open] = frames[..] else {
            panic!("{frames:?}")
        };
        assert_eq!(method(start_ok), frames::CONNECTION_START_OK);
        assert_eq!(method(open), frames::CONNECTION_OPEN);
        assert_eq!(method(channel_open), CHANNEL_OPEN);
        // With a heartbeat it would send some, and after two intervals take the broker for dead.
        let limits = [0, 2, 255, 255, 255, 255, 0, 0];
        let expected = frames::method_frame(0, frames::CONNECTION_TUNE_OK, &limits);
        assert_eq!(tune_ok, expected);
        fixture.end();
    }

    #[test]
    fn each_write_consists_of_whole_frames() {
        let mut fixture = LibraryFixture::new();
        let large = "x".repeat(300_000);
        let declared = fixture.call(move |channel| {
            let mut arguments = FieldTable::new();
            arguments.insert("large".to_owned(), AmqpValue::LongString(large));
            let options = QueueDeclareOptions {
                arguments,
                ..QueueDeclareOptions::default()
            };
            let queue = channel.queue_declare("", options)?;
            let name = queue.name().to_owned();
            let (messages, consumers) = (
                queue.declared_message_count(),
                queue.declared_consumer_count(),
            );
            Ok((name, messages, consumers))
        });
        assert_eq!(declared.unwrap(), ("q".to_owned(), Some(2), Some(1)));
        let (purged, deleted) = fixture
            .call(|channel| {
                let (fanout, options) = (ExchangeType::Fanout, ExchangeDeclareOptions::default());
                channel.exchange_declare(fanout, "x", options)?;
                channel.queue_bind("q", "x", "", FieldTable::new())?;
                channel.exchange_bind("y", "x", "", FieldTable::new())?;
                let purged = channel.queue_purge("q")?;
                let deleted = channel.queue_delete("q", QueueDeleteOptions::default())?;
                channel.exchange_delete("x", false)?;
                Ok((purged, deleted))
            })
            .unwrap();
        assert_eq!((purged, deleted), (7, 3));
        assert_eq!(
            methods(&fixture.received),
            [
                QUEUE_DECLARE,
                (40, 10),
                (50, 20),
                (40, 30),
                (50, 30),
                (50, 40),
                (40, 20)
            ]
        );
        let writes = std::mem::take(&mut *fixture.writes.lock().unwrap());
        for (index, write) in writes.iter().enumerate() {
            let frames = match index {
                0 => write.strip_prefix(&PROTOCOL_HEADER).unwrap(),
                _ => write,
            };
            for frame in cut(frames) {
                assert_eq!(frame.last(), Some(&frames::FRAME_END));
            }
        }
        fixture.end();
    }

    #[test]
    fn the_channel_is_opened_again_whenever_the_broker_has_closed_it() {
        const TIMES: usize = 50;
        let mut fixture = LibraryFixture::new();
        for _ in 0..TIMES {
            let refused =
                fixture.call(|channel| channel.queue_declare_passive("missing").map(drop));
            assert!(
                matches!(&refused, Err(amiquip::Error::ServerClosedChannel { channel_id: LIBRARY, code: 404, message })
                    if message == "NOT_FOUND - no"),
                "{refused:?}"
            );
        }
        let messages = fixture.call(|channel| {
            let queue = channel.queue_declare_passive("q")?;
            Ok(queue.declared_message_count())
        });
        assert_eq!(messages.unwrap(), Some(2));
        // The first time it was opened with the login.
        let refused = [QUEUE_DECLARE, CHANNEL_CLOSE_OK, CHANNEL_OPEN];
        let expected = [&refused.repeat(TIMES)[..], &[QUEUE_DECLARE]].concat();
        assert_eq!(methods(&fixture.received), expected);
        fixture.end();
    }

    #[test]
    fn the_end_of_the_stream_ends_calls_and_threads() {
        // At any stage of the start.
        for _ in 0..20 {
            LibraryFixture::new().end();
        }
        let mut fixture = LibraryFixture::new();
        let result = fixture
            .library
            .call(|channel| channel.queue_declare_passive("silent").map(drop));
        fixture.wait(|received| (!received.is_empty()).then_some(()));
        assert!(result.inner().is_empty());
        fixture.end();
        assert!(result.inner().recv_timeout(LONG).unwrap().is_err());
    }

    #[test]
    fn calls_fail_if_it_does_not_start_and_the_first_says_why() {
        let mut fixture = LibraryFixture::with(open_ok());
        let failed = fixture.call(|_| Ok(()));
        assert!(
            matches!(failed, Err(amiquip::Error::FrameUnexpected)),
            "{failed:?}"
        );
        assert!(fixture.call(|_| Ok(())).is_err());
        fixture.end();
    }
}
