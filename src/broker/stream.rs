//! The stream that the client library reads and writes: the socket, behind a replay of the login.
//!
//! [`super::handshake`] has logged in before the library comes into play. The library insists on a
//! handshake, so it is shown what the broker said in the real one, and what it answers (protocol
//! header, start-ok, tune-ok and open) is dropped. From then on every byte passes unchanged, but for
//! the content headers, which [`super::content`] wraps and unwraps.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::content::{self, CONTENT_HEADER, FRAME_HEADER};
use super::handshake::Heard;
use amiquip::IoStream;
use mio::{Evented, Poll, PollOpt, Ready, Registration, SetReadiness, Token};

/// A stream on which the login is done.
pub struct LoggedIn<S> {
    stream: S,
    /// What the library is to read next: first the replay, then what came.
    incoming: Queue,
    is_replaying: bool,
    /// What was read from the stream.
    chunk: Vec<u8>,
    received: Frames,
    answers: Answers,
    sent: Frames,
    /// What is to be written to the stream before more is taken from the library.
    outgoing: Queue,
    /// How many of the library's bytes that is. They count as taken when it is written.
    taken: usize,
    // Bytes that wait in memory make no socket readable; this tells the poll of them.
    registration: Registration,
    readiness: SetReadiness,
    written: Arc<AtomicU64>,
}

impl<S> LoggedIn<S> {
    /// Wraps `stream`, on which the broker has said what was `heard`. How many bytes have been
    /// written to it since is counted in `written`.
    pub fn new(stream: S, heard: Heard, written: Arc<AtomicU64>) -> Self {
        let (registration, readiness) = Registration::new2();
        Self {
            stream,
            is_replaying: !heard.frames.is_empty(),
            incoming: Queue::of(heard.frames),
            chunk: vec![0; CHUNK],
            received: Frames::new(heard.frame_max as usize),
            answers: Answers::new(),
            sent: Frames::new(usize::MAX),
            outgoing: Queue::of(Vec::new()),
            taken: 0,
            registration,
            readiness,
            written,
        }
    }
}

/// How many bytes are read, or taken from the library, at a time.
const CHUNK: usize = 1 << 17;

impl<S: Read> Read for LoggedIn<S> {
    /// The library reads until there is nothing more, so nothing is ever left in `incoming` while
    /// it waits for the socket.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.incoming.is_empty() {
            let length = self.stream.read(&mut self.chunk)?;
            if length == 0 {
                return Ok(0);
            }
            let bytes = &self.chunk[..length];
            self.received
                .pass(bytes, &mut self.incoming.bytes, content::wrap)?;
        }
        let length = self.incoming.read(buffer);
        if self.is_replaying && self.incoming.is_empty() {
            self.is_replaying = false;
            self.readiness.set_readiness(Ready::empty())?;
        }
        Ok(length)
    }
}

impl<S: Write> Write for LoggedIn<S> {
    /// What is written is a part of the library's buffer, which begins with the first byte that was
    /// not yet taken. A byte is taken when the socket has it: only then may the library wait for
    /// something else.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let dropped = self.answers.drop_from(bytes);
        if dropped > 0 {
            return Ok(dropped);
        }
        if self.taken == 0 {
            let bytes = &bytes[..bytes.len().min(CHUNK)];
            self.sent
                .pass(bytes, &mut self.outgoing.bytes, content::unwrap)?;
            self.taken = bytes.len();
        }
        while !self.outgoing.is_empty() {
            let length = self.stream.write(self.outgoing.rest())?;
            if length == 0 {
                return Ok(0);
            }
            self.written.fetch_add(length as u64, Ordering::Relaxed);
            self.outgoing.advance(length);
        }
        Ok(std::mem::take(&mut self.taken))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
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

/// Follows the frames of one direction.
///
/// The library believes whatever size a frame's header gives, and reserves that much memory.
struct Frames {
    max: usize,
    header: [u8; FRAME_HEADER],
    /// How many bytes of the header are here.
    filled: usize,
    /// How many bytes of the frame are still to come after its header.
    rest: usize,
    /// The beginning of a content header's frame.
    held: Vec<u8>,
}

impl Frames {
    fn new(max: usize) -> Self {
        Self {
            max,
            header: [0; FRAME_HEADER],
            filled: 0,
            rest: 0,
            held: Vec::new(),
        }
    }

    /// Passes the bytes on to `out`, with each content header rewritten once it is whole.
    fn pass(
        &mut self,
        mut bytes: &[u8],
        out: &mut Vec<u8>,
        rewrite: fn(&[u8], &mut Vec<u8>) -> io::Result<()>,
    ) -> io::Result<()> {
        loop {
            let (passed, after) = bytes.split_at(self.rest.min(bytes.len()));
            self.rest -= passed.len();
            bytes = after;
            if self.held.is_empty() {
                out.extend_from_slice(passed);
            } else {
                self.held.extend_from_slice(passed);
                if self.rest == 0 {
                    rewrite(&self.held, out)?;
                    self.held.clear();
                }
            }
            if bytes.is_empty() {
                return Ok(());
            }
            let length = (FRAME_HEADER - self.filled).min(bytes.len());
            self.header[self.filled..self.filled + length].copy_from_slice(&bytes[..length]);
            self.filled += length;
            bytes = &bytes[length..];
            if self.filled == FRAME_HEADER {
                self.filled = 0;
                let [kind, _, _, size @ ..] = self.header;
                let size = u32::from_be_bytes(size) as usize;
                // Method, header, body, heartbeat.
                if !matches!(kind, 1..=3 | 8) || size > self.max {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "what came is not AMQP",
                    ));
                }
                self.rest = size + 1;
                let out = match kind {
                    CONTENT_HEADER => &mut self.held,
                    _ => &mut *out,
                };
                out.extend_from_slice(&self.header);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn frame(payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[1, 0, 0][..], &length, payload, &[0xce]].concat()
    }

    #[test]
    fn the_librarys_handshake_is_dropped_and_nothing_else() {
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

    #[test]
    fn the_replay_comes_before_the_socket() {
        let heard = Heard {
            frames: b"heard".to_vec(),
            frame_max: 4096,
        };
        let later = frame(b"later");
        let mut stream = LoggedIn::new(Cursor::new(later.clone()), heard, Arc::default());
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        assert_eq!(all, [&b"heard"[..], &later].concat());
    }

    #[test]
    fn what_is_not_a_frame_is_refused_wherever_it_is_cut() {
        let good = [frame(b"a"), frame(b""), frame(&[7; 100])].concat();
        let pass = |frames: &mut Frames, bytes: &[u8], out: &mut Vec<u8>| {
            frames.pass(bytes, out, content::wrap)
        };
        for size in 1..=good.len() {
            let (mut frames, mut out) = (Frames::new(100), Vec::new());
            for piece in good.chunks(size) {
                pass(&mut frames, piece, &mut out).unwrap();
            }
            assert_eq!(out, good);
        }
        let short = content::tests::frame(&[0]);
        for bad in [
            &b"\x01\0\0garbage"[..],
            b"HTTP/1.1",
            &frame(&[7; 101]),
            &short,
        ] {
            for size in 1..=bad.len() {
                let (mut frames, mut out) = (Frames::new(100), Vec::new());
                pass(&mut frames, &good, &mut out).unwrap();
                assert!(
                    bad.chunks(size)
                        .any(|piece| pass(&mut frames, piece, &mut out).is_err())
                );
            }
        }
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

    fn conversation() -> (Vec<u8>, Vec<u8>) {
        let headers = [
            content::tests::frame(&[0, 0]),
            content::tests::frame(&[0x10, 0, 2]),
        ];
        let wrapped = headers.clone().map(|frame| {
            let mut wrapped = Vec::new();
            content::wrap(&frame, &mut wrapped).unwrap();
            wrapped
        });
        let with = |[first, second]: [Vec<u8>; 2]| {
            [frame(b"publish"), first, frame(b"body"), second, frame(b"")].concat()
        };
        (with(headers), with(wrapped))
    }

    fn narrow(width: usize, to_read: Vec<u8>) -> LoggedIn<Narrow> {
        let narrow = Narrow {
            width,
            blocks: false,
            to_read: Cursor::new(to_read),
            written: Vec::new(),
        };
        let heard = Heard {
            frames: Vec::new(),
            frame_max: 4096,
        };
        LoggedIn::new(narrow, heard, Arc::default())
    }

    #[test]
    fn content_headers_are_wrapped_on_their_way_in_wherever_they_are_cut() {
        let (outside, inside) = conversation();
        for width in 1..=outside.len() {
            let mut stream = narrow(width, outside.clone());
            let mut seen: Vec<u8> = Vec::new();
            let mut buffer = [0; 10];
            loop {
                match stream.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(length) => seen.extend(&buffer[..length]),
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
            }
            assert_eq!(seen, inside, "{width}");
        }
    }

    #[test]
    fn they_are_unwrapped_on_their_way_out_and_taken_when_they_are_written() {
        let (outside, inside) = conversation();
        for width in 1..=outside.len() {
            let mut stream = narrow(width, Vec::new());
            stream.answers = Answers {
                bytes: 0,
                frames: 0,
            };
            let mut buffer = &inside[..];
            while !buffer.is_empty() {
                match stream.write(buffer) {
                    Ok(length) => buffer = &buffer[length..],
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
            }
            assert_eq!(stream.stream.written, outside, "{width}");
            assert_eq!(stream.written.load(Ordering::Relaxed), outside.len() as u64);
        }
    }
}
