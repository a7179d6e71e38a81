//! The stream that the client library reads and writes: the socket, behind a replay of the login, and
//! beside a way of their own for messages.
//!
//! [`super::handshake`] has logged in before the library comes into play. The library insists on a
//! handshake, so it is shown what the broker said in the real one, and what it answers (protocol
//! header, start-ok, tune-ok and open) is dropped.
//!
//! From then on its methods pass unchanged; it opens and closes channels, declares, consumes, and keeps
//! the connection alive. Messages never come to it. It would take their properties apart and can't put
//! all of them together again: a header that is not UTF-8 ends the table without a word, a property
//! that is not ends the connection, and some types become others. And each frame of each message
//! would be handed over from thread to thread by itself. So frames in the [`Outbox`] go to the socket
//! as they are, and what comes with messages, or for them, goes to the inbox.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::arrivals::{Arrival, Reader};
use super::frames::{self, FrameHeader};
use super::handshake::{CHANNEL_OPEN, FIRST_CHANNEL, Heard};
use super::outbox::{Outbox, stand_in};
use amiquip::IoStream;
use crossbeam_channel::Sender;
use mio::{Evented, Poll, PollOpt, Ready, Registration, SetReadiness, Token};

/// A stream on which the login is done.
pub struct LoggedIn<S> {
    stream: S,
    /// What the library is to read next: first the replay, then what came.
    incoming: Queue,
    is_replaying: bool,
    /// When the library was last given something to read.
    fed: Instant,
    chunk: Chunk,
    reader: Reader,
    inbox: Sender<Vec<Arrival>>,
    answers: Answers,
    /// What the library is answered when it opens the first channel, which is open already.
    first_channel: Option<Vec<u8>>,
    outbox: Outbox,
    /// The frames that are being sent instead of the stand-in at the front of the library's buffer.
    posted: Option<Queue>,
    /// How many bytes of the library's may still pass before the next frame that does not.
    passing: usize,
    // Bytes that wait in memory make no socket readable; this tells the poll of them.
    registration: Registration,
    readiness: SetReadiness,
    written: Arc<AtomicU64>,
}

impl<S> LoggedIn<S> {
    /// Wraps `stream`, on which the broker has said what was `heard`. What comes with messages goes to
    /// `inbox`. How many bytes have been written to the stream since is counted in `written`.
    pub fn new(
        stream: S,
        heard: Heard,
        outbox: Outbox,
        inbox: Sender<Vec<Arrival>>,
        written: Arc<AtomicU64>,
    ) -> Self {
        let (registration, readiness) = Registration::new2();
        Self {
            stream,
            is_replaying: !heard.frames.is_empty(),
            incoming: Queue::of(heard.frames),
            fed: Instant::now(),
            chunk: Chunk::new(),
            reader: Reader::new(heard.frame_max as usize),
            inbox,
            answers: Answers::new(),
            first_channel: Some(heard.channel_frame),
            outbox,
            posted: None,
            passing: 0,
            registration,
            readiness,
            written,
        }
    }

    /// Has `read` called although nothing comes from the socket.
    fn wake(&mut self) -> io::Result<()> {
        self.is_replaying = true;
        self.readiness.set_readiness(Ready::readable())
    }
}

impl<S> Drop for LoggedIn<S> {
    fn drop(&mut self) {
        self.outbox.close();
    }
}

/// How many bytes are read at a time.
const CHUNK: usize = 1 << 17;

/// How many bytes are read before the library may write, too.
const TURN: usize = 1 << 20;

/// The library takes a connection on which it reads nothing for dead, so it is given a heartbeat when
/// nothing but messages came for so long: less than a heartbeat's shortest interval.
const HUNGER: Duration = Duration::from_millis(250);

const HEARTBEAT: [u8; 8] = [frames::HEARTBEAT, 0, 0, 0, 0, 0, 0, frames::FRAME_END];

impl<S: Read> Read for LoggedIn<S> {
    /// The library reads until there is nothing more, so nothing is ever left in `incoming` while
    /// it waits for the socket.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_replaying && self.incoming.is_empty() {
            self.is_replaying = false;
            self.readiness.set_readiness(Ready::empty())?;
        }
        let mut turn = 0;
        while self.incoming.is_empty() {
            if turn > TURN {
                self.wake()?;
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let length = self.stream.read(self.chunk.room())?;
            if length == 0 {
                return Ok(0);
            }
            turn += length;
            self.chunk.filled += length;
            let read = self
                .reader
                .read(self.chunk.bytes(), &mut self.incoming.bytes);
            if !self.reader.arrivals.is_empty() {
                // Nobody needs them if nobody listens any more.
                let _ = self.inbox.send(std::mem::take(&mut self.reader.arrivals));
            }
            self.chunk.remove(read?);
            if self.incoming.is_empty() && self.fed.elapsed() > HUNGER {
                self.incoming.bytes.extend(HEARTBEAT);
            }
        }
        self.fed = Instant::now();
        Ok(self.incoming.read(buffer))
    }
}

impl<S: Write> LoggedIn<S> {
    /// Writes to the socket as much as it takes of what was posted; the frame that stood for it is
    /// taken when all of it is written.
    fn write_posted(&mut self, channel: u16) -> io::Result<()> {
        let mut posted = match self.posted.take() {
            Some(posted) => posted,
            None => Queue::of(self.outbox.take(channel).unwrap_or_default()),
        };
        while !posted.is_empty() {
            match write_some(&mut self.stream, posted.rest(), &self.written) {
                Ok(length) => posted.advance(length),
                Err(error) => {
                    self.posted = Some(posted);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Deals with what stands at the front of the library's buffer, and returns how much of it that
    /// was.
    fn write_next(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.passing == 0 {
            let Some(header) = FrameHeader::read(bytes) else {
                return Err(frames::not_amqp());
            };
            if let Some(channel) = stand_in(bytes) {
                self.write_posted(channel)?;
                return Ok(header.frame_size());
            }
            if header.channel == FIRST_CHANNEL && is_method(bytes, CHANNEL_OPEN) {
                if let Some(answer) = self.first_channel.take() {
                    self.incoming.bytes.extend(answer);
                    self.wake()?;
                    return Ok(header.frame_size());
                }
            }
            self.passing = header.frame_size();
        }
        let length = self.passing.min(bytes.len());
        let length = write_some(&mut self.stream, &bytes[..length], &self.written)?;
        self.passing -= length;
        Ok(length)
    }
}

fn is_method(frame: &[u8], (class, method): frames::Method) -> bool {
    let numbers = [class.to_be_bytes(), method.to_be_bytes()].concat();
    frame[0] == frames::METHOD && frame[frames::FRAME_HEADER..].starts_with(&numbers)
}

fn write_some(stream: &mut impl Write, bytes: &[u8], written: &AtomicU64) -> io::Result<usize> {
    match stream.write(bytes)? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        length => {
            written.fetch_add(length as u64, Ordering::Relaxed);
            Ok(length)
        }
    }
}

impl<S: Write> Write for LoggedIn<S> {
    /// What is written is a part of the library's buffer, which begins with the first byte that was
    /// not yet taken and ends with a whole frame.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut taken = self.answers.drop_from(bytes);
        while taken < bytes.len() {
            match self.write_next(&bytes[taken..]) {
                Ok(length) => taken += length,
                // Whatever it is, it comes again.
                Err(_) if taken > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
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
        if self.is_empty() {
            self.bytes.clear();
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

impl<S: Evented> Evented for LoggedIn<S> {
    fn register(
        &self,
        poll: &Poll,
        token: Token,
        interest: Ready,
        opts: PollOpt,
    ) -> io::Result<()> {
        self.stream.register(poll, token, interest, opts)?;
        self.registration.register(poll, token, interest, opts)?;
        if self.is_replaying {
            self.readiness.set_readiness(Ready::readable())?;
        }
        Ok(())
    }

    fn reregister(
        &self,
        poll: &Poll,
        token: Token,
        interest: Ready,
        opts: PollOpt,
    ) -> io::Result<()> {
        self.stream.reregister(poll, token, interest, opts)?;
        self.registration.reregister(poll, token, interest, opts)
    }

    fn deregister(&self, poll: &Poll) -> io::Result<()> {
        self.stream.deregister(poll)?;
        poll.deregister(&self.registration)
    }
}

impl<S: Read + Write + Evented + Send + 'static> IoStream for LoggedIn<S> {}

/// What the library still has to say of its handshake: so many bytes now, then so many frames.
struct Answers {
    bytes: usize,
    frames: usize,
}

impl Answers {
    fn new() -> Self {
        Self {
            bytes: b"AMQP\x00\x00\x09\x01".len(),
            frames: ["start-ok", "tune-ok", "open"].len(),
        }
    }

    /// How many bytes at the start of `bytes` belong to the handshake. The library writes whole
    /// frames from a buffer, so a frame's header is never cut.
    fn drop_from(&mut self, bytes: &[u8]) -> usize {
        let mut dropped = 0;
        loop {
            let rest = &bytes[dropped..];
            if self.bytes == 0 {
                match *rest {
                    [_, _, _, a, b, c, d, ..] if self.frames > 0 => {
                        self.frames -= 1;
                        self.bytes = 7 + u32::from_be_bytes([a, b, c, d]) as usize + 1;
                    }
                    _ => return dropped,
                }
            }
            let length = self.bytes.min(rest.len());
            if length == 0 {
                return dropped;
            }
            self.bytes -= length;
            dropped += length;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::arrivals::{Content, What};
    use super::*;
    use crate::broker::frames::{method_frame, parts, put_body, put_publish};
    use crate::message::{Message, Properties};
    use crossbeam_channel::{Receiver, unbounded};
    use std::io::Cursor;

    const DECLARE: frames::Method = (50, 10);

    #[test]
    fn the_librarys_handshake_is_dropped_and_nothing_else() {
        let frame = |payload: &[u8]| method_frame(0, DECLARE, payload);
        let handshake = [
            &b"AMQP\x00\x00\x09\x01"[..],
            &frame(b"start-ok"),
            &frame(b""),
            &frame(b"open"),
        ];
        // The library writes the header, then the three frames, with or without what follows.
        let mut answers = Answers::new();
        assert_eq!(answers.drop_from(handshake[0]), 8);
        assert_eq!(
            answers.drop_from(&handshake[1..].concat()),
            handshake[1..].concat().len()
        );
        assert_eq!(answers.drop_from(&frame(b"channel.open")), 0);

        let mut answers = Answers::new();
        let all = [&handshake.concat()[..], &frame(b"channel.open")].concat();
        assert_eq!(answers.drop_from(&all), handshake.concat().len());
        assert_eq!(answers.drop_from(&frame(b"channel.open")), 0);

        let mut answers = Answers::new();
        assert_eq!(
            answers.drop_from(&[handshake[0], handshake[1]].concat()),
            8 + handshake[1].len()
        );
        assert_eq!(
            answers.drop_from(&[handshake[2], handshake[3]].concat()),
            handshake[2].len() + handshake[3].len()
        );
        assert_eq!(answers.drop_from(&frame(b"channel.open")), 0);
    }

    /// A stream that takes and gives only so many bytes at a time, and then would block.
    struct Narrow {
        width: usize,
        blocks: bool,
        to_read: Cursor<Vec<u8>>,
        written: Vec<u8>,
    }

    impl Narrow {
        fn turn(&mut self) -> io::Result<()> {
            self.blocks = !self.blocks;
            if self.blocks {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(())
        }
    }

    impl Read for Narrow {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.turn()?;
            let length = buffer.len().min(self.width);
            self.to_read.read(&mut buffer[..length])
        }
    }

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.turn()?;
            self.written.extend(&bytes[..bytes.len().min(self.width)]);
            Ok(bytes.len().min(self.width))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged_in(
        width: usize,
        to_read: Vec<u8>,
        replay: &[u8],
    ) -> (LoggedIn<Narrow>, Outbox, Receiver<Vec<Arrival>>) {
        let narrow = Narrow {
            width,
            blocks: false,
            to_read: Cursor::new(to_read),
            written: Vec::new(),
        };
        let heard = Heard {
            frames: replay.to_vec(),
            channel_frame: b"channel.open-ok".to_vec(),
            frame_max: 4096,
        };
        let outbox = Outbox::default();
        let (sender, inbox) = unbounded();
        let mut stream = LoggedIn::new(narrow, heard, outbox.clone(), sender, Arc::default());
        stream.answers = Answers {
            bytes: 0,
            frames: 0,
        };
        (stream, outbox, inbox)
    }

    fn read_all(stream: &mut LoggedIn<Narrow>) -> io::Result<Vec<u8>> {
        let mut seen = Vec::new();
        let mut buffer = [0; 10];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return Ok(seen),
                Ok(length) => seen.extend(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The frames with which the broker hands over a message.
    fn content(method: frames::Method, arguments: &[u8], body: &[u8]) -> Vec<u8> {
        let message = Message {
            properties: Properties {
                priority: Some(7),
                ..Properties::default()
            },
            body: body.to_vec(),
            ..Message::default()
        };
        let mut publish = Vec::new();
        put_publish(&mut publish, 1, &message, false);
        let method_size = FrameHeader::read(&publish).unwrap().frame_size();
        let mut frames = method_frame(1, method, arguments);
        frames.extend(&publish[method_size..]);
        for part in parts(body, 4096) {
            put_body(&mut frames, 1, part);
        }
        frames
    }

    #[test]
    fn what_comes_is_sorted_wherever_it_is_cut() {
        let big = vec![b'b'; 10_000];
        let declare_ok = method_frame(1, (50, 11), b"declared");
        let close_ok = method_frame(1, (20, 41), &[]);
        let came = [
            declare_ok.clone(),
            content(
                frames::BASIC_DELIVER,
                b"\x03tag\0\0\0\0\0\0\0\x05\x01\x01x\x03key",
                b"hello",
            ),
            content(
                frames::BASIC_DELIVER,
                b"\x03tag\0\0\0\0\0\0\0\x06\0\0\x02k\xff",
                &big,
            ),
            method_frame(1, frames::BASIC_ACK, b"\0\0\0\0\0\0\0\x09\x01"),
            method_frame(1, frames::BASIC_NACK, b"\0\0\0\0\0\0\0\x0a\x02"),
            content(frames::BASIC_RETURN, b"\x01\x38\x08NO_ROUTE\0\x01k", b""),
            content(
                frames::BASIC_GET_OK,
                b"\0\0\0\0\0\0\0\x07\0\0\x01k\0\0\0\x02",
                b"got",
            ),
            method_frame(1, frames::BASIC_GET_EMPTY, b"\0"),
            close_ok.clone(),
        ]
        .concat();
        for width in (1..64).chain([4095, 4096, 4097, came.len()]) {
            let (mut stream, _, inbox) = logged_in(width, came.clone(), b"replay");
            let seen = read_all(&mut stream).unwrap();
            assert_eq!(seen, [&b"replay"[..], &declare_ok, &close_ok].concat());
            let arrivals: Vec<_> = inbox.try_iter().flatten().collect();
            let told: Vec<_> = arrivals
                .iter()
                .map(|arrival| match &arrival.what {
                    What::Delivered(content) => told("delivered", content),
                    What::Returned(said, content) => told(said, content),
                    What::Got(Some(content)) => told("got", content),
                    What::Got(None) => "got nothing".to_owned(),
                    What::Confirmed(confirm) => format!("{confirm:?}"),
                })
                .collect();
            assert_eq!(
                told,
                [
                    "delivered 5 true 'x' 'key' 5 None",
                    "delivered 6 false '' 'k\u{fffd}' 10000 Some(\"what is not UTF-8 in the routing key\")",
                    "Confirm { tag: 9, multiple: true, is_ack: true }",
                    "Confirm { tag: 10, multiple: false, is_ack: false }",
                    "312 NO_ROUTE 0 false '' 'k' 0 None",
                    "got 7 false '' 'k' 3 None",
                    "got nothing",
                ],
                "{width}"
            );
        }
    }

    fn told(what: &str, content: &Content) -> String {
        let Content {
            tag,
            message,
            problem,
        } = content;
        assert_eq!(message.properties.priority, Some(7));
        format!(
            "{what} {tag} {} '{}' '{}' {} {problem:?}",
            message.redelivered,
            message.exchange,
            message.routing_key,
            message.body.len()
        )
    }

    #[test]
    fn properties_that_make_no_sense_are_left_out_of_their_message_only() {
        let arguments = b"\0\0\0\0\0\0\0\0\x05\0\0\0";
        let mut came = method_frame(1, frames::BASIC_DELIVER, arguments);
        came.extend(b"\x02\0\x01\0\0\0\x0f\0\x3c\0\0\0\0\0\0\0\0\0\x02\x80\0\xff\xce");
        came.extend(b"\x03\0\x01\0\0\0\x02hi\xce");
        let (mut stream, _, inbox) = logged_in(usize::MAX, came, b"");
        read_all(&mut stream).unwrap();
        let arrivals = inbox.recv().unwrap();
        let What::Delivered(content) = &arrivals[0].what else {
            panic!("{arrivals:?}");
        };
        assert_eq!(content.message.body, b"hi");
        assert!(content.problem.as_ref().unwrap().contains("properties"));
    }

    #[test]
    fn what_is_not_amqp_is_refused_wherever_it_is_cut() {
        let deliver = b"\0\0\0\0\0\0\0\0\x05\0\0\0";
        let good = content(frames::BASIC_DELIVER, deliver, b"hello");
        let method = method_frame(1, frames::BASIC_DELIVER, deliver);
        let header_size = good.len() - method.len() - "hello".len() - 8;
        let (header, body) = good[method.len()..].split_at(header_size);
        let mut other_channel = body.to_vec();
        other_channel[2] = 2;
        let mut no_end = good.clone();
        *no_end.last_mut().unwrap() = 0;
        let long_body = b"\x03\0\x01\0\0\0\x06hello!\xce";
        let bad: [Vec<u8>; 10] = [
            b"\x01\0\0garbage".to_vec(),
            b"HTTP/1.1".to_vec(),
            method_frame(1, DECLARE, &[7; 5000]),
            header.to_vec(),
            body.to_vec(),
            [&method[..], body].concat(),
            [&method[..], &method].concat(),
            [&method[..], header, &other_channel].concat(),
            [&method[..], header, long_body].concat(),
            no_end,
        ];
        for bad in bad {
            for width in 1..=bad.len() {
                let came = [&good[..], &bad].concat();
                let (mut stream, _, inbox) = logged_in(width, came, b"");
                let error = read_all(&mut stream).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bad:?}");
                assert_eq!(inbox.try_iter().flatten().count(), 1);
            }
        }
    }

    #[test]
    fn the_library_is_kept_alive_while_only_messages_come() {
        let deliver = b"\0\0\0\0\0\0\0\0\x05\0\0\0";
        let came = content(frames::BASIC_DELIVER, deliver, b"hello");
        let (mut stream, ..) = logged_in(usize::MAX, came, b"");
        stream.fed = Instant::now().checked_sub(2 * HUNGER).unwrap();
        assert_eq!(read_all(&mut stream).unwrap(), HEARTBEAT);
    }

    /// What the library writes to ask for frames of the outbox.
    const STAND_IN: [u8; 13] = [1, 0, 1, 0, 0, 0, 5, 0, 85, 0, 10, 1, 0xce];

    #[test]
    fn what_is_posted_takes_the_place_of_its_stand_in() {
        let declare = method_frame(1, DECLARE, b"queue");
        let confirms = method_frame(1, (85, 10), &[0]);
        let library = [&declare[..], &STAND_IN, &confirms, &STAND_IN, &declare].concat();
        let posted = [vec![1; 50], vec![2; 20]];
        let expected = [&declare[..], &posted[0], &confirms, &posted[1], &declare].concat();
        for width in 1..=expected.len() {
            let (mut stream, outbox, _) = logged_in(width, Vec::new(), b"");
            // What an earlier channel with another number left behind is not sent.
            outbox.put(2, vec![9; 10]);
            for frames in &posted {
                outbox.put(1, frames.clone());
            }
            let mut buffer = &library[..];
            while !buffer.is_empty() {
                match stream.write(buffer) {
                    Ok(length) => buffer = &buffer[length..],
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
            }
            assert_eq!(stream.stream.written, expected, "{width}");
            let written = stream.written.load(Ordering::Relaxed);
            assert_eq!(written, expected.len() as u64);
        }
    }

    #[test]
    fn the_first_channel_is_open_already() {
        let open = method_frame(1, CHANNEL_OPEN, &[0]);
        let other = method_frame(2, CHANNEL_OPEN, &[0]);
        let (mut stream, ..) = logged_in(usize::MAX, Vec::new(), b"");
        stream.stream.blocks = true;
        let requests = [&open[..], &other].concat();
        assert_eq!(stream.write(&requests).unwrap(), requests.len());
        assert_eq!(stream.stream.written, other);
        assert_eq!(read_all(&mut stream).unwrap(), b"channel.open-ok");
        // When it is closed and opened again, the broker has to hear of it.
        stream.stream.blocks = true;
        assert_eq!(stream.write(&open).unwrap(), open.len());
        assert_eq!(stream.stream.written, [other, open].concat());
    }
}
