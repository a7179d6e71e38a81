//! The client library, amiquip, on a stream in memory.
//!
//! It declares, binds, purges and deletes, each on its channel [`LIBRARY`]. Its calls block, so they run
//! as closures on a helper thread, while whoever owns the socket waits for the result and moves frames
//! between the stream in memory and the socket.
//!
//! This relies on the following of amiquip 0.4.2, the version that Cargo.toml demands, and on no more.
//! Each has a test below.
//!
//! 1. It insists on a handshake, and is satisfied with [`handshake`], found in one go. With heartbeat 0
//!    in the tune it neither sends heartbeats nor expects any.
//! 2. What it writes at a time, behind the protocol header of 8 bytes, are whole frames.
//! 3. It opens the channel that it is told to open, again and again.
//! 4. When its stream ends, every call on it ends with an error, and so does its thread.
//!
//! Channel 0 is the socket's owner's: nothing that the library says on it leaves, and nothing that comes
//! on it reaches the library.

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

/// The library never waits so long for what is in memory already.
const HANDSHAKE: Duration = Duration::from_secs(60);

/// Something that the helper thread does with a channel.
type Job = Box<dyn FnOnce(&mut LibraryConnection) + Send>;

/// The library, and the thread on which its calls run.
pub struct Library {
    jobs: Sender<Job>,
    ours: OwnerEnd,
    waker: Waker,
}

impl Library {
    /// Starts the library's threads, which takes about as long as a login and can go on beside it.
    /// `is_channel_open` says that the login opens the library's channel; the `waker` wakes the socket's
    /// owner.
    ///
    /// # Errors
    /// [`Error::System`] if the system has no more threads.
    pub fn start(is_channel_open: bool, waker: &Waker) -> Result<Self, Error> {
        let (ours, stream) = pair(handshake(), is_channel_open, waker);
        let (jobs, todo) = unbounded();
        thread::Builder::new()
            .name("library".to_owned())
            .spawn(move || run(stream, &todo))
            .map_err(Error::thread)?;
        Ok(Self {
            jobs,
            ours,
            waker: waker.clone(),
        })
    }

    /// Has the library do something with its channel. The result comes when it is done, and the waker is
    /// woken then, as it is where no result ever comes.
    pub fn call<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Channel) -> amiquip::Result<T> + Send + 'static,
    ) -> waker::Receiver<amiquip::Result<T>> {
        let (sender, result) = waker::bounded(1);
        result.wakes(&self.waker);
        let job: Job = Box::new(move |calls| {
            let (result, closing) = calls.call(run);
            let _ = sender.send(result);
            drop(sender);
            // This waits for the broker, unless the broker has closed it.
            drop(closing);
        });
        let _ = self.jobs.send(job);
        result
    }

    /// Moves frames from the socket to the library, and from the library to the socket.
    pub fn exchange(&mut self, socket: &mut Socket) {
        socket.take_library_frames(&mut self.ours.incoming);
        self.ours.exchange(|frames| socket.send(frames));
    }
}

/// The library's side of a connection: what its calls run on.
struct LibraryConnection {
    connection: amiquip::Result<Connection>,
    /// A channel on which nothing was refused: the broker answers a refusal by closing the channel.
    channel: Option<Channel>,
}

impl LibraryConnection {
    /// Returns the result, and the channel if it is of no more use.
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

/// The helper thread: one call after the other, until there are no more to come.
fn run(stream: impl IoStream, todo: &Receiver<Job>) {
    // The login is done: the library is given neither user nor password.
    let options = ConnectionOptions::<Auth>::default()
        .auth(Auth::Plain {
            username: String::new(),
            password: String::new(),
        })
        .connection_timeout(Some(HANDSHAKE));
    let tuning = ConnectionTuning::default();
    let connection = Connection::insecure_open_stream(stream, options, tuning);
    if let Err(error) = &connection {
        log::debug!("the client library does not start: {error}");
    }
    let mut calls = LibraryConnection {
        connection,
        channel: None,
    };
    for job in todo {
        job(&mut calls);
    }
}

/// What is between the two ends of the stream in memory.
#[derive(Debug, Default)]
struct StreamBuffers {
    to_library: Vec<u8>,
    from_library: Vec<u8>,
    is_over: bool,
}

#[derive(Clone, Debug)]
struct SharedBuffers(Arc<Mutex<StreamBuffers>>);

impl SharedBuffers {
    fn lock(&self) -> MutexGuard<'_, StreamBuffers> {
        // A thread that died with the lock held has left nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of the stream that is the socket's owner's. When it is dropped, the library finds that its
/// peer has hung up.
#[derive(Debug)]
struct OwnerEnd {
    shared: SharedBuffers,
    readiness: SetReadiness,
    /// Frames for the library.
    incoming: Vec<u8>,
    /// Whether the library has said which protocol it speaks.
    has_greeted: bool,
    /// Whether the library's channel is open although the library has not yet opened it.
    is_channel_open: bool,
}

impl OwnerEnd {
    /// Gives the library what came for it, and what it says on its channel to `send`.
    fn exchange(&mut self, mut send: impl FnMut(&[u8])) {
        let said = std::mem::take(&mut self.shared.lock().from_library);
        let mut rest = said.as_slice();
        if !self.has_greeted && !rest.is_empty() {
            self.has_greeted = true;
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
            self.tell();
        }
    }

    /// Has the library's thread look at the stream.
    fn tell(&self) {
        // Its poll is gone only with its thread.
        let _ = self
            .readiness
            .set_readiness(Ready::readable() | Ready::writable());
    }
}

impl Drop for OwnerEnd {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.tell();
    }
}

fn is_channel_open(frame: &[u8]) -> bool {
    let method = frames::Fields(&frame[frames::FRAME_HEADER..]).method();
    frame[0] == frames::METHOD && method.is_ok_and(|method| method == frames::CHANNEL_OPEN)
}

/// What the library finds to begin with: the broker's side of a login.
fn handshake() -> Vec<u8> {
    let mut start = vec![0, 9];
    put_long_string(&mut start, b"");
    put_long_string(&mut start, b"PLAIN");
    put_long_string(&mut start, b"en_US");
    // One channel more than that of messages, frames of any size, no heartbeat.
    let mut tune = LIBRARY.to_be_bytes().to_vec();
    tune.extend([0; 6]);
    [
        method_frame(0, frames::CONNECTION_START, &start),
        method_frame(0, frames::CONNECTION_TUNE, &tune),
        method_frame(0, frames::CONNECTION_OPEN_OK, &[0]),
    ]
    .concat()
}

/// A stream in memory on which the library finds `handshake` to begin with.
fn pair(handshake: Vec<u8>, is_channel_open: bool, waker: &Waker) -> (OwnerEnd, MemoryStream) {
    let (registration, readiness) = Registration::new2();
    let shared = SharedBuffers(Arc::new(Mutex::new(StreamBuffers {
        to_library: handshake,
        ..StreamBuffers::default()
    })));
    let ours = OwnerEnd {
        shared: shared.clone(),
        readiness: readiness.clone(),
        incoming: Vec::new(),
        has_greeted: false,
        is_channel_open,
    };
    ours.tell();
    let stream = MemoryStream {
        shared,
        registration,
        readiness,
        waker: waker.clone(),
    };
    (ours, stream)
}

/// The end of the stream that is the library's.
struct MemoryStream {
    shared: SharedBuffers,
    registration: Registration,
    readiness: SetReadiness,
    waker: Waker,
}

impl Read for MemoryStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut between = self.shared.lock();
        if between.to_library.is_empty() {
            if between.is_over {
                return Ok(0);
            }
            // It can always be written to. Under the lock, so that what comes next is told after this.
            let _ = self.readiness.set_readiness(Ready::writable());
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let length = buffer.len().min(between.to_library.len());
        buffer[..length].copy_from_slice(&between.to_library[..length]);
        between.to_library.drain(..length);
        Ok(length)
    }
}

impl Write for MemoryStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.shared.lock().from_library.extend_from_slice(bytes);
        // Of its handshake nobody has to hear.
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

    /// The library needs no time for what is in memory: what is not there by then never comes.
    const LONG: Duration = Duration::from_secs(60);

    const QUEUE_DECLARE: Method = (50, 10);

    /// The stream in memory, and what the library writes to it at a time.
    struct Recorder {
        stream: MemoryStream,
        writes: Arc<Mutex<Vec<Vec<u8>>>>,
        /// It ends with the thread that has the stream.
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

    /// The library, the socket that it shares, and the broker at the other end of that.
    struct LibraryFixture {
        library: Library,
        writes: Arc<Mutex<Vec<Vec<u8>>>>,
        /// They end with the library's threads.
        ends: [Receiver<Infallible>; 2],
        socket: Socket,
        waiter: Waiter,
        peer: UnixStream,
        /// The frames that have come to the broker.
        heard: Vec<Vec<u8>>,
        /// The beginning of another one.
        unheard: Vec<u8>,
    }

    impl LibraryFixture {
        fn new() -> Self {
            Self::with(handshake())
        }

        /// As [`Library::start`], but for what is observed.
        fn with(handshake: Vec<u8>) -> Self {
            let messenger = Messenger::new(true);
            let waiter = Waiter::new(&Interrupt::default(), None, &messenger).unwrap();
            let (stream, peer) = peer::pair();
            let mut socket = Socket::new(String::new(), stream, &messenger);
            socket.logged_in(131_072, 0);
            let (ours, stream) = pair(handshake, true, waiter.waker());
            let (stream_ends, stream_end) = bounded(0);
            let (thread_ends, thread_end) = bounded::<Infallible>(0);
            let recorder = Recorder {
                stream,
                writes: Arc::default(),
                _ends: stream_ends,
            };
            let writes = Arc::clone(&recorder.writes);
            let (jobs, todo) = unbounded();
            thread::spawn(move || {
                run(recorder, &todo);
                drop(thread_ends);
            });
            Self {
                library: Library {
                    jobs,
                    ours,
                    waker: waiter.waker().clone(),
                },
                writes,
                ends: [stream_end, thread_end],
                socket,
                waiter,
                peer,
                heard: Vec::new(),
                unheard: Vec::new(),
            }
        }

        /// Has the library and the broker talk to each other until `came` returns something.
        fn wait<T>(&mut self, mut came: impl FnMut(&[Vec<u8>]) -> Option<T>) -> T {
            let Self {
                library,
                socket,
                waiter,
                peer,
                heard,
                unheard,
                ..
            } = self;
            let wait = Wait {
                until: Some(Instant::now() + LONG),
                on_interrupt: OnInterrupt::Ignore,
                announcement: None,
            };
            let result = waiter.wait(socket, wait, |socket| {
                library.exchange(socket);
                // All there is; then it would block.
                let _ = peer.read_to_end(unheard);
                while let Some(header) = FrameHeader::read(unheard) {
                    if unheard.len() < header.frame_size() {
                        break;
                    }
                    let frame: Vec<_> = unheard.drain(..header.frame_size()).collect();
                    peer.write_all(&answer(&frame)).unwrap();
                    heard.push(frame);
                }
                came(heard)
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

        /// Takes the socket's end away, and waits for the end of the library's threads.
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
            // Purged, and deleted.
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

    fn methods(heard: &[Vec<u8>]) -> Vec<Method> {
        heard.iter().map(|frame| method(frame)).collect()
    }

    #[test]
    fn the_handshake_satisfies_it_and_there_are_no_heartbeats() {
        let mut scene = LibraryFixture::new();
        scene.call(|_| Ok(())).unwrap();
        // It has opened its channel, too, and the broker has heard of none of that.
        assert!(scene.heard.is_empty());
        let said = scene.writes.lock().unwrap().concat();
        let frames = cut(said.strip_prefix(&PROTOCOL_HEADER).unwrap());
        let [start_ok, tune_ok, open, channel_open] = frames[..] else {
            panic!("{frames:?}")
        };
        assert_eq!(method(start_ok), frames::CONNECTION_START_OK);
        assert_eq!(method(open), frames::CONNECTION_OPEN);
        assert_eq!(method(channel_open), CHANNEL_OPEN);
        // Without this it would send some, and after two of ours take the broker for dead.
        let limits = [0, 2, 255, 255, 255, 255, 0, 0];
        let expected = frames::method_frame(0, frames::CONNECTION_TUNE_OK, &limits);
        assert_eq!(tune_ok, expected);
        scene.end();
    }

    #[test]
    fn whatever_it_writes_at_a_time_are_whole_frames() {
        let mut scene = LibraryFixture::new();
        let large = "x".repeat(300_000);
        let declared = scene.call(move |channel| {
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
        let (purged, deleted) = scene
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
            methods(&scene.heard),
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
        let writes = std::mem::take(&mut *scene.writes.lock().unwrap());
        for (index, write) in writes.iter().enumerate() {
            let frames = match index {
                0 => write.strip_prefix(&PROTOCOL_HEADER).unwrap(),
                _ => write,
            };
            for frame in cut(frames) {
                assert_eq!(frame.last(), Some(&frames::FRAME_END));
            }
        }
        scene.end();
    }

    #[test]
    fn it_opens_its_channel_again_whenever_the_broker_has_closed_it() {
        const TIMES: usize = 50;
        let mut scene = LibraryFixture::new();
        for _ in 0..TIMES {
            let refused = scene.call(|channel| channel.queue_declare_passive("missing").map(drop));
            assert!(
                matches!(&refused, Err(amiquip::Error::ServerClosedChannel { channel_id: LIBRARY, code: 404, message })
                    if message == "NOT_FOUND - no"),
                "{refused:?}"
            );
        }
        let messages = scene.call(|channel| {
            let queue = channel.queue_declare_passive("q")?;
            Ok(queue.declared_message_count())
        });
        assert_eq!(messages.unwrap(), Some(2));
        // The first time it was opened with the login.
        let refused = [QUEUE_DECLARE, CHANNEL_CLOSE_OK, CHANNEL_OPEN];
        let expected = [&refused.repeat(TIMES)[..], &[QUEUE_DECLARE]].concat();
        assert_eq!(methods(&scene.heard), expected);
        scene.end();
    }

    #[test]
    fn when_the_connection_ends_so_do_its_calls_and_its_threads() {
        // At whatever it is then.
        for _ in 0..20 {
            LibraryFixture::new().end();
        }
        let mut scene = LibraryFixture::new();
        let result = scene
            .library
            .call(|channel| channel.queue_declare_passive("silent").map(drop));
        scene.wait(|heard| (!heard.is_empty()).then_some(()));
        assert!(result.inner().is_empty());
        scene.end();
        assert!(result.inner().recv_timeout(LONG).unwrap().is_err());
    }

    #[test]
    fn its_calls_fail_if_it_does_not_start_and_the_first_says_why() {
        let mut scene = LibraryFixture::with(open_ok());
        let failed = scene.call(|_| Ok(()));
        assert!(
            matches!(failed, Err(amiquip::Error::FrameUnexpected)),
            "{failed:?}"
        );
        assert!(scene.call(|_| Ok(())).is_err());
        scene.end();
    }
}
