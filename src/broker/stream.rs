//! The stream that the client library reads and writes: the connection's [`Wire`], behind a replay of
//! the login.
//!
//! [`super::handshake`] has logged in before the library comes into play. The library insists on a
//! handshake, so it is shown what the broker said in the real one, and what it answers (protocol
//! header, start-ok, tune-ok and open) is dropped.
//!
//! From then on its methods pass unchanged; it opens and closes channels, declares, consumes, and keeps
//! the connection alive. Messages never come to it. It would take their properties apart and can't put
//! all of them together again: a header that is not UTF-8 ends the table without a word, a property
//! that is not ends the connection, and some types become others. And each frame of each message
//! would be handed over from thread to thread by itself.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::frames::{self, FrameHeader};
use super::handshake::{CHANNEL_OPEN, FIRST_CHANNEL, Heard};
use super::tls;
use super::wire::{Watch, Wire};
use crate::bell::Bell;
use amiquip::IoStream;
use mio::unix::EventedFd;
use mio::{Evented, Poll, PollOpt, Ready, Registration, Token};

/// What stands between us and the broker.
pub enum Link {
    /// A socket that does not block.
    Plain(TcpStream),
    /// One on which TLS is spoken.
    Tls(tls::Stream<TcpStream>),
}

impl Read for Link {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// A stream on which the login is done.
pub struct LoggedIn<S> {
    wire: Arc<Wire<S>>,
    /// What tells of the socket, for the library's poll.
    watched: Option<RawFd>,
    // Bytes that wait in memory make no socket readable; this tells the poll of them.
    registration: Registration,
    answers: Answers,
    /// What the library is answered when it opens the first channel, which is open already.
    first_channel: Option<Vec<u8>>,
}

impl<S> LoggedIn<S> {
    /// Wraps `stream`, on which the broker has said what was `heard`, and which `reads_ahead` if it may
    /// hold more than its socket tells of. The `bell` is that of whoever waits for messages.
    pub fn new(
        stream: S,
        reads_ahead: bool,
        heard: Heard,
        watch: Option<Watch>,
        bell: Bell,
    ) -> Self {
        let (registration, readiness) = Registration::new2();
        let watched = watch.as_ref().map(Watch::file);
        let frame_max = heard.frame_max as usize;
        let replay = heard.frames;
        let wire = Wire::new(
            stream,
            reads_ahead,
            watch,
            readiness,
            bell,
            frame_max,
            replay,
        );
        Self {
            wire: Arc::new(wire),
            watched,
            registration,
            answers: Answers::new(),
            first_channel: Some(heard.channel_frame),
        }
    }

    /// The wire, for whoever has to do with messages.
    pub fn wire(&self) -> &Arc<Wire<S>> {
        &self.wire
    }

    /// Whether a frame of the library's is not for the broker, as it is answered here.
    fn is_answered(&mut self, header: FrameHeader, frame: &[u8]) -> bool {
        if header.channel != FIRST_CHANNEL || !is_method(frame, CHANNEL_OPEN) {
            return false;
        }
        match self.first_channel.take() {
            Some(answer) => {
                self.wire.answer(&answer);
                true
            }
            None => false,
        }
    }
}

impl<S> Drop for LoggedIn<S> {
    fn drop(&mut self) {
        self.wire.leave();
    }
}

impl<S: Read + Write> Read for LoggedIn<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wire.read_for_library(buffer)
    }
}

impl<S: Write> Write for LoggedIn<S> {
    /// What is written is all that the library has to say, in whole frames. It is always taken.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut rest = &bytes[self.answers.drop_from(bytes)..];
        let mut said = Vec::new();
        while !rest.is_empty() {
            let header = FrameHeader::read(rest).ok_or_else(frames::not_amqp)?;
            let (frame, others) = rest
                .split_at_checked(header.frame_size())
                .ok_or_else(frames::not_amqp)?;
            if !self.is_answered(header, frame) {
                said.extend_from_slice(frame);
            }
            rest = others;
        }
        if !said.is_empty() {
            self.wire.say(&said);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn is_method(frame: &[u8], (class, method): frames::Method) -> bool {
    let numbers = [class.to_be_bytes(), method.to_be_bytes()].concat();
    frame[0] == frames::METHOD && frame[frames::FRAME_HEADER..].starts_with(&numbers)
}

impl<S> Evented for LoggedIn<S> {
    fn register(
        &self,
        poll: &Poll,
        token: Token,
        interest: Ready,
        opts: PollOpt,
    ) -> io::Result<()> {
        if let Some(watched) = &self.watched {
            EventedFd(watched).register(poll, token, Ready::readable(), opts)?;
        }
        self.registration.register(poll, token, interest, opts)?;
        self.wire.begin();
        Ok(())
    }

    fn reregister(
        &self,
        poll: &Poll,
        token: Token,
        interest: Ready,
        opts: PollOpt,
    ) -> io::Result<()> {
        // The socket's part stays as it is.
        self.registration.reregister(poll, token, interest, opts)
    }

    fn deregister(&self, poll: &Poll) -> io::Result<()> {
        if let Some(watched) = &self.watched {
            EventedFd(watched).deregister(poll)?;
        }
        poll.deregister(&self.registration)
    }
}

impl<S: Read + Write + Send + 'static> IoStream for LoggedIn<S> {}

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
    use super::super::arrivals::{Arrival, Content};
    use super::super::wire::{HEARTBEAT, HUNGER, Wanted};
    use super::*;
    use crate::broker::frames::{method_frame, parts, put_body, put_publish};
    use crate::message::{Message, Properties};
    use std::collections::VecDeque;
    use std::io::Cursor;
    use std::thread;

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
        /// It never blocks.
        is_prompt: bool,
        /// It takes nothing any more.
        is_broken: bool,
        /// It ends behind what there is to read, and does not block.
        ends: bool,
        blocks: bool,
        to_read: Cursor<Vec<u8>>,
        written: Vec<u8>,
    }

    impl Narrow {
        fn turn(&mut self) -> io::Result<()> {
            self.blocks = !self.blocks;
            if self.blocks && !self.is_prompt {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(())
        }
    }

    impl Read for Narrow {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.turn()?;
            let length = buffer.len().min(self.width);
            match self.to_read.read(&mut buffer[..length])? {
                0 if !self.ends => Err(io::ErrorKind::WouldBlock.into()),
                length => Ok(length),
            }
        }
    }

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.is_broken {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.turn()?;
            self.written.extend(&bytes[..bytes.len().min(self.width)]);
            Ok(bytes.len().min(self.width))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged_in(width: usize, to_read: Vec<u8>, replay: &[u8]) -> LoggedIn<Narrow> {
        let narrow = Narrow {
            width,
            is_prompt: false,
            is_broken: false,
            ends: true,
            blocks: false,
            to_read: Cursor::new(to_read),
            written: Vec::new(),
        };
        let heard = Heard {
            frames: replay.to_vec(),
            channel_frame: b"channel.open-ok".to_vec(),
            frame_max: 4096,
        };
        let mut stream = LoggedIn::new(narrow, false, heard, None, Bell::new().unwrap());
        stream.answers = Answers {
            bytes: 0,
            frames: 0,
        };
        stream.wire.open(1);
        stream
    }

    fn arrivals(stream: &LoggedIn<Narrow>) -> VecDeque<Arrival> {
        let mut came = VecDeque::new();
        stream.wire.take(&mut came);
        came
    }

    /// Reads as whoever drives does.
    fn read(stream: &LoggedIn<Narrow>) {
        let wanted = stream.wire.attend(true);
        stream.wire.turn(wanted, true);
    }

    /// All that was written, once the socket has taken it.
    fn written(stream: &LoggedIn<Narrow>) -> Vec<u8> {
        loop {
            let wanted = stream.wire.attend(true);
            if !wanted.write {
                break;
            }
            let wanted = Wanted {
                read: false,
                ..wanted
            };
            stream.wire.turn(wanted, true);
        }
        stream.wire.stream(|narrow| narrow.written.clone())
    }

    fn read_all(stream: &mut LoggedIn<Narrow>) -> io::Result<Vec<u8>> {
        let mut seen = Vec::new();
        let mut buffer = [0; 10];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return Ok(seen),
                Ok(length) => seen.extend_from_slice(&buffer[..length]),
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
            let mut stream = logged_in(width, came.clone(), b"replay");
            let mut seen = read_all(&mut stream).unwrap();
            // A slow machine may need long enough for one.
            let heartbeat = |part: &[u8]| part == HEARTBEAT;
            while let Some(at) = seen.windows(HEARTBEAT.len()).position(heartbeat) {
                seen.drain(at..at + HEARTBEAT.len());
            }
            assert_eq!(seen, [&b"replay"[..], &declare_ok, &close_ok].concat());
            let told: Vec<_> = arrivals(&stream)
                .iter()
                .map(|arrival| match arrival {
                    Arrival::Delivered(content) => told("delivered", content),
                    Arrival::Returned(said, content) => told(said, content),
                    Arrival::Got(Some(content)) => told("got", content),
                    Arrival::Got(None) => "got nothing".to_owned(),
                    Arrival::Confirmed(confirm) => format!("{confirm:?}"),
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
        let mut stream = logged_in(usize::MAX, came, b"");
        read_all(&mut stream).unwrap();
        let arrivals = arrivals(&stream);
        let Arrival::Delivered(content) = &arrivals[0] else {
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
                let mut stream = logged_in(width, came, b"");
                let error = read_all(&mut stream).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bad:?}");
                assert_eq!(arrivals(&stream).len(), 1);
            }
        }
    }

    #[test]
    fn the_library_is_kept_alive_while_only_messages_come() {
        let deliver = b"\0\0\0\0\0\0\0\0\x05\0\0\0";
        let came = content(frames::BASIC_DELIVER, deliver, b"hello");
        let mut stream = logged_in(usize::MAX, came, b"");
        thread::sleep(HUNGER + HUNGER / 2);
        assert_eq!(read_all(&mut stream).unwrap(), HEARTBEAT);
        // While nobody reads, whoever waits keeps it alive.
        let mut stream = logged_in(usize::MAX, Vec::new(), b"");
        let pause = |stream: &LoggedIn<Narrow>, may_read: bool| {
            let wanted = stream.wire.attend(may_read);
            stream.wire.turn(wanted, false);
        };
        let mut buffer = [0; 100];
        stream.wire.drive();
        pause(&stream, false);
        thread::sleep(HUNGER + HUNGER / 2);
        pause(&stream, true);
        assert!(stream.read(&mut buffer).is_err());
        pause(&stream, false);
        pause(&stream, false);
        assert_eq!(stream.read(&mut buffer).unwrap(), HEARTBEAT.len());
        // While it does something else for long, it does so when the library has a heartbeat to say. But
        // who waits for the peer sees that it is silent.
        thread::sleep(HUNGER + HUNGER / 2);
        let wanted = stream.wire.attend(true);
        stream.write_all(&HEARTBEAT).unwrap();
        assert!(stream.read(&mut buffer).is_err());
        stream.wire.turn(wanted, false);
        stream.write_all(&HEARTBEAT).unwrap();
        assert_eq!(stream.read(&mut buffer).unwrap(), HEARTBEAT.len());
    }

    #[test]
    fn who_drives_reads_and_the_library_has_its_part() {
        let deliver = b"\0\0\0\0\0\0\0\0\x05\0\0\0";
        let declare_ok = method_frame(1, (50, 11), b"declared");
        let came = [
            content(frames::BASIC_DELIVER, deliver, b"hello"),
            declare_ok.clone(),
        ]
        .concat();
        let mut stream = logged_in(usize::MAX, came, b"");
        let mut buffer = [0; 100];
        stream.wire.drive();
        // The first of two would block.
        for _ in 0..2 {
            let error = stream.read(&mut buffer).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        }
        assert!(arrivals(&stream).is_empty());
        read(&stream);
        read(&stream);
        assert_eq!(arrivals(&stream).len(), 1);
        let length = stream.read(&mut buffer).unwrap();
        assert_eq!(buffer[..length], declare_ok);
        // It hears of the end, whoever sees that.
        read(&stream);
        read(&stream);
        assert!(!stream.wire.attend(true).read);
        assert_eq!(stream.read(&mut buffer).unwrap(), 0);
    }

    #[test]
    fn what_is_posted_and_what_the_library_says_goes_out_in_order() {
        let declare = method_frame(1, DECLARE, b"queue");
        let posted = [vec![1; 50], vec![2; 20]];
        let expected = [
            &declare[..],
            &posted[0],
            &declare,
            &declare,
            &posted[1],
            &declare,
        ]
        .concat();
        for width in 1..=expected.len() {
            let mut stream = logged_in(width, Vec::new(), b"");
            stream.write_all(&declare).unwrap();
            stream.wire.post(1, &posted[0]);
            stream.write_all(&declare.repeat(2)).unwrap();
            // There is no such channel.
            assert!(!stream.wire.post(2, &[9; 10]));
            stream.wire.post(1, &posted[1]);
            stream.write_all(&declare).unwrap();
            assert_eq!(written(&stream), expected, "{width}");
            assert_eq!(stream.wire.written(), expected.len() as u64);
        }
    }

    #[test]
    fn nothing_is_posted_on_a_channel_that_the_broker_has_closed() {
        let deliver = b"\0\0\0\0\0\0\0\0\x05\0\0\0";
        let message = content(frames::BASIC_DELIVER, deliver, b"hello");
        for (channel, method) in [(1, frames::CHANNEL_CLOSE), (0, frames::CONNECTION_CLOSE)] {
            let came = [&message[..], &method_frame(channel, method, b""), &message].concat();
            let stream = logged_in(usize::MAX, came, b"");
            stream.wire.post(1, &[1; 10]);
            // The first of two would block.
            read(&stream);
            read(&stream);
            assert_eq!(arrivals(&stream).len(), 1);
            stream.wire.post(1, &[2; 10]);
            assert_eq!(written(&stream), [1; 10]);
            // It may be opened again.
            stream.wire.open(1);
            stream.wire.post(1, &[3; 10]);
            assert_eq!(written(&stream).len(), 20);
        }
    }

    #[test]
    fn the_library_hears_of_an_end_that_comes_with_messages() {
        let deliver = b"\0\0\0\0\0\0\0\0\x05\0\0\0";
        let message = content(frames::BASIC_DELIVER, deliver, b"hello");
        for cut in [message.len(), message.len() - 3] {
            let mut stream = logged_in(usize::MAX, message[..cut].to_vec(), b"");
            stream.wire.stream(|narrow| narrow.is_prompt = true);
            // Its poll would not tell of the end again.
            assert_eq!(stream.read(&mut [0; 10]).unwrap(), 0);
        }
    }

    #[test]
    fn the_brokers_last_words_are_read_when_nothing_can_be_written() {
        let close = method_frame(0, frames::CONNECTION_CLOSE, b"why");
        for is_driven in [false, true] {
            let mut stream = logged_in(usize::MAX, close.clone(), b"");
            if is_driven {
                stream.wire.drive();
            }
            stream.wire.stream(|narrow| {
                narrow.is_broken = true;
                // Reading does not block before the last words are read, and does then.
                narrow.blocks = true;
                narrow.ends = false;
            });
            assert!(stream.wire.post(1, &[1; 10]));
            assert!(!stream.wire.post(1, &[1; 10]));
            for _ in 0..4 {
                let wanted = stream.wire.attend(true);
                assert!(!wanted.write && (wanted.nothing || !wanted.read));
                if is_driven {
                    stream.wire.turn(wanted, true);
                }
            }
            let mut buffer = [0; 100];
            let mut seen = Vec::new();
            let error = loop {
                match stream.read(&mut buffer) {
                    Ok(length) => seen.extend_from_slice(&buffer[..length]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => break error,
                }
            };
            assert_eq!(seen, close);
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        }
    }

    #[test]
    fn the_first_channel_is_open_already() {
        let open = method_frame(1, CHANNEL_OPEN, &[0]);
        let other = method_frame(2, CHANNEL_OPEN, &[0]);
        let mut stream = logged_in(usize::MAX, Vec::new(), b"");
        stream.write_all(&[&open[..], &other].concat()).unwrap();
        assert_eq!(written(&stream), other);
        assert_eq!(read_all(&mut stream).unwrap(), b"channel.open-ok");
        // When it is closed and opened again, the broker has to hear of it.
        stream.write_all(&open).unwrap();
        assert_eq!(written(&stream), [other, open].concat());
    }
}
