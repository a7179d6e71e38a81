//! The stream that the client library reads and writes: the socket, behind a replay of the login.
//!
//! [`super::handshake`] has logged in before the library comes into play. The library insists on a
//! handshake, so it is shown what the broker said in the real one, and what it answers (protocol
//! header, start-ok, tune-ok and open) is dropped. From then on every byte passes unchanged.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::handshake::Heard;
use amiquip::IoStream;
use mio::{Evented, Poll, PollOpt, Ready, Registration, SetReadiness, Token};

/// A stream on which the login is done.
pub struct LoggedIn<S> {
    stream: S,
    replay: Vec<u8>,
    replayed: usize,
    answers: Answers,
    frames: Frames,
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
            replay: heard.frames,
            frames: Frames::new(heard.frame_max),
            replayed: 0,
            answers: Answers::new(),
            registration,
            readiness,
            written,
        }
    }
}

impl<S: Read> Read for LoggedIn<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let waiting = &self.replay[self.replayed..];
        if waiting.is_empty() {
            let length = self.stream.read(buffer)?;
            self.frames.check(&buffer[..length])?;
            return Ok(length);
        }
        let length = waiting.len().min(buffer.len());
        buffer[..length].copy_from_slice(&waiting[..length]);
        self.replayed += length;
        if self.replayed == self.replay.len() {
            self.readiness.set_readiness(Ready::empty())?;
        }
        Ok(length)
    }
}

impl<S: Write> Write for LoggedIn<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.answers.drop_from(bytes) {
            0 => {
                let length = self.stream.write(bytes)?;
                self.written.fetch_add(length as u64, Ordering::Relaxed);
                Ok(length)
            }
            dropped => Ok(dropped),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
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
        if self.replayed < self.replay.len() {
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

/// Follows the frames that come in, without touching them.
///
/// The library believes whatever size a frame's header gives, and reserves that much memory.
struct Frames {
    max: usize,
    header: [u8; 7],
    /// How many bytes of the header are here.
    filled: usize,
    /// How many bytes of the frame are still to come after its header.
    rest: usize,
}

impl Frames {
    fn new(max: u32) -> Self {
        Self {
            max: max as usize,
            header: [0; 7],
            filled: 0,
            rest: 0,
        }
    }

    fn check(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        loop {
            let passed = self.rest.min(bytes.len());
            self.rest -= passed;
            bytes = &bytes[passed..];
            if bytes.is_empty() {
                return Ok(());
            }
            let length = (self.header.len() - self.filled).min(bytes.len());
            self.header[self.filled..self.filled + length].copy_from_slice(&bytes[..length]);
            self.filled += length;
            bytes = &bytes[length..];
            if self.filled == self.header.len() {
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
        for size in 1..=good.len() {
            let mut frames = Frames::new(100);
            for piece in good.chunks(size) {
                frames.check(piece).unwrap();
            }
        }
        for bad in [&b"\x01\0\0garbage"[..], b"HTTP/1.1", &frame(&[7; 101])] {
            for size in 1..=bad.len() {
                let mut frames = Frames::new(100);
                frames.check(&good).unwrap();
                assert!(bad.chunks(size).any(|piece| frames.check(piece).is_err()));
            }
        }
    }
}
