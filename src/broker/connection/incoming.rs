//! The frames that come, cut out of the bytes and sorted by their channel.
//!
//! Channel 0 is the connection's, channel [`MESSAGES`] that of messages, and all others are the client
//! library's, which gets their frames as they are.

use std::collections::VecDeque;
use std::io;
use std::time::SystemTime;

use super::super::frames::{self, FrameHeader, MESSAGES, Method};
use crate::message::{Message, Properties};
use crate::text;

/// Something that came on the channel for messages.
#[derive(Debug)]
pub enum ChannelEvent {
    /// A message for the consumer.
    Delivered(Content),
    /// A message that no queue took, and the broker's words for it.
    Returned(String, Content),
    /// The answer to basic.get: a message, if there is one.
    Got(Option<Content>),
    /// The broker has taken a message that was published, or refuses it.
    Confirmed(Confirm),
    /// The answer to any other request, by its method.
    Answered(Method),
    /// The broker has cancelled the consumer.
    Cancelled,
}

/// What concerns the connection or a channel as a whole.
#[derive(Debug)]
pub enum Control {
    /// A method of the connection's own channel, as its frame.
    Connection(Method, Vec<u8>),
    /// The broker has closed the channel for messages, with its reply code and its words.
    ChannelClosed(u16, String),
}

/// A message as it came.
#[derive(Debug)]
pub struct Content {
    /// What settles it; 0 if it need not be settled.
    pub tag: u64,
    /// The message.
    pub message: Box<Message>,
}

/// The broker's word on a message that was published, or on all up to it.
#[derive(Clone, Copy, Debug)]
pub struct Confirm {
    /// The message's number on its channel, from 1.
    pub tag: u64,
    /// Whether all before it are meant, too.
    pub multiple: bool,
    /// Whether the broker has taken it.
    pub is_ack: bool,
}

/// What was read, up to the frame that is still coming.
#[derive(Debug)]
pub struct Incoming {
    /// The bytes of no frame may be more, whatever its header says.
    frame_max: usize,
    /// What was read and not yet dealt with: the beginning of a frame.
    buffer: Vec<u8>,
    filled: usize,
    /// Whether what comes for messages is dropped.
    pub is_discarding: bool,
    /// What came on the channel for messages.
    pub arrivals: VecDeque<ChannelEvent>,
    /// The bytes of their bodies.
    pub held: usize,
    /// What came for the connection.
    pub control: VecDeque<Control>,
    /// The frames of the library's channels.
    pub library: Vec<u8>,
    /// The message that is coming.
    content: Option<PartialMessage>,
    /// How many bytes of a body's frame are still to come, its end included.
    body: usize,
}

/// A message of which something is still to come.
#[derive(Debug)]
struct PartialMessage {
    arrival: ChannelEvent,
    /// How many bytes of the body are to come; `None` before the content header.
    left: Option<u64>,
}

impl PartialMessage {
    fn content(&mut self) -> Option<&mut Content> {
        match &mut self.arrival {
            ChannelEvent::Delivered(content)
            | ChannelEvent::Returned(_, content)
            | ChannelEvent::Got(Some(content)) => Some(content),
            _ => None,
        }
    }
}

/// The most bytes that are set aside for a body because its header says so. RabbitMQ's own limit is
/// 128 MiB, or what its operator makes of it.
const MAX_RESERVED_BYTES: usize = 128 << 20;

/// How many bytes are read at a time.
const SOCKET_READ_SIZE: usize = 1 << 17;

/// The longest frame of a login that is accepted: no broker's comes near it.
const LOGIN_FRAME_MAX: usize = 1 << 20;

impl Default for Incoming {
    fn default() -> Self {
        Self {
            frame_max: LOGIN_FRAME_MAX,
            buffer: vec![0; SOCKET_READ_SIZE],
            filled: 0,
            is_discarding: false,
            arrivals: VecDeque::new(),
            held: 0,
            control: VecDeque::new(),
            library: Vec::new(),
            content: None,
            body: 0,
        }
    }
}

impl Incoming {
    /// Bounds the frames that come from now on.
    pub fn bound(&mut self, frame_max: u32) {
        self.frame_max = frame_max as usize;
    }

    /// The place for what is read next. A frame that is longer than all there is gets more.
    pub fn room(&mut self) -> &mut [u8] {
        if self.filled == self.buffer.len() {
            self.buffer.resize(2 * self.filled, 0);
        }
        &mut self.buffer[self.filled..]
    }

    /// The beginning of a frame, or of what is none.
    pub fn unread(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }

    /// Sorts what was read to the first `length` bytes of [`Incoming::room`].
    ///
    /// # Errors
    /// If it is not AMQP.
    pub fn read(&mut self, length: usize) -> io::Result<()> {
        self.filled += length;
        let buffer = std::mem::take(&mut self.buffer);
        let sorted = self.sort(&buffer[..self.filled]);
        self.buffer = buffer;
        let sorted = sorted?;
        self.buffer.copy_within(sorted..self.filled, 0);
        self.filled -= sorted;
        Ok(())
    }

    /// Returns the next arrival.
    pub fn next(&mut self) -> Option<ChannelEvent> {
        let arrival = self.arrivals.pop_front()?;
        if let ChannelEvent::Delivered(content) = &arrival {
            self.held -= content.message.body.len();
        }
        Some(arrival)
    }

    /// Drops what came for messages.
    pub fn discard(&mut self) {
        self.arrivals.clear();
        self.held = 0;
    }

    /// Returns how many bytes are dealt with; the rest is the beginning of a frame.
    fn sort(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            if self.body > 0 {
                match self.read_body(rest)? {
                    0 => return Ok(at),
                    length => at += length,
                }
                continue;
            }
            let Some(header) = FrameHeader::read(rest) else {
                return Ok(at);
            };
            let is_frame = matches!(
                header.kind,
                frames::METHOD | frames::HEADER | frames::BODY | frames::HEARTBEAT
            );
            if !is_frame || header.size > self.frame_max {
                return Err(frames::not_amqp());
            }
            if header.kind == frames::BODY {
                self.begin_body(header)?;
                at += frames::FRAME_HEADER;
                continue;
            }
            let Some(frame) = rest.get(..header.frame_size()) else {
                return Ok(at);
            };
            let [payload @ .., frames::FRAME_END] = &frame[frames::FRAME_HEADER..] else {
                return Err(frames::not_amqp());
            };
            match (header.kind, header.channel) {
                (frames::HEADER, _) => self.read_content_header(header.channel, payload)?,
                (frames::METHOD, MESSAGES) => self.read_method(payload)?,
                (frames::METHOD, 0) => {
                    let method = frames::Fields(payload).method()?;
                    let control = Control::Connection(method, frame.to_vec());
                    self.control.push_back(control);
                }
                (frames::METHOD, _) => self.library.extend_from_slice(frame),
                // A heartbeat.
                _ => {}
            }
            at += frame.len();
        }
    }

    fn read_method(&mut self, payload: &[u8]) -> io::Result<()> {
        let mut fields = frames::Fields(payload);
        let method = fields.method()?;
        let arrival = match method {
            frames::BASIC_DELIVER => {
                let _consumer_tag = fields.short_string()?;
                ChannelEvent::Delivered(addressed(&mut fields)?)
            }
            frames::BASIC_GET_OK => ChannelEvent::Got(Some(addressed(&mut fields)?)),
            frames::BASIC_RETURN => {
                let (code, said) = fields.reply()?;
                let content = unsettled(&mut fields)?;
                ChannelEvent::Returned(format!("{code} {}", text::one_line(&said)), content)
            }
            frames::BASIC_GET_EMPTY => ChannelEvent::Got(None),
            frames::BASIC_ACK | frames::BASIC_NACK => ChannelEvent::Confirmed(Confirm {
                tag: fields.u64()?,
                multiple: fields.byte()? & 1 != 0,
                is_ack: method == frames::BASIC_ACK,
            }),
            frames::BASIC_CANCEL => ChannelEvent::Cancelled,
            frames::CHANNEL_CLOSE => {
                let (code, said) = fields.reply()?;
                self.control.push_back(Control::ChannelClosed(code, said));
                return Ok(());
            }
            answer => ChannelEvent::Answered(answer),
        };
        let mut coming = PartialMessage {
            arrival,
            left: None,
        };
        if coming.content().is_none() {
            self.keep(coming.arrival);
        } else if self.content.replace(coming).is_some() {
            // Messages come one after the other on a channel.
            return Err(frames::not_amqp());
        }
        Ok(())
    }

    fn read_content_header(&mut self, channel: u16, payload: &[u8]) -> io::Result<()> {
        let (length, properties) = frames::content_header(payload)?;
        let coming = self.content.as_mut().ok_or_else(frames::not_amqp)?;
        let is_due = channel == MESSAGES && coming.left.is_none();
        let content = coming.content().filter(|_| is_due);
        let content = content.ok_or_else(frames::not_amqp)?;
        match Properties::decode(properties) {
            Ok(properties) => content.message.properties = properties,
            Err(problem) => content.message.incomplete = Some(format!("properties: {problem}")),
        }
        let reserved = usize::try_from(length)
            .unwrap_or(MAX_RESERVED_BYTES)
            .min(MAX_RESERVED_BYTES);
        content.message.body = Vec::with_capacity(reserved);
        coming.left = Some(length);
        self.finish();
        Ok(())
    }

    fn begin_body(&mut self, header: FrameHeader) -> io::Result<()> {
        let coming = self.content.as_mut().ok_or_else(frames::not_amqp)?;
        let left = coming.left.ok_or_else(frames::not_amqp)?;
        let left = left.checked_sub(header.size as u64);
        if header.channel != MESSAGES || left.is_none() {
            return Err(frames::not_amqp());
        }
        coming.left = left;
        self.body = header.size + 1;
        Ok(())
    }

    /// Takes what is there of a body's frame, and returns how many bytes that is.
    fn read_body(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = &bytes[..bytes.len().min(self.body - 1)];
        if let Some(content) = self.content.as_mut().and_then(PartialMessage::content) {
            content.message.body.extend_from_slice(part);
        }
        self.body -= part.len();
        match bytes.get(part.len()) {
            Some(&frames::FRAME_END) if self.body == 1 => {
                self.body = 0;
                self.finish();
                Ok(part.len() + 1)
            }
            Some(_) if self.body == 1 => Err(frames::not_amqp()),
            _ => Ok(part.len()),
        }
    }

    /// Keeps the message if nothing of it is to come any more.
    fn finish(&mut self) {
        if let Some(coming) = self.content.take_if(|coming| coming.left == Some(0)) {
            self.keep(coming.arrival);
        }
    }

    fn keep(&mut self, arrival: ChannelEvent) {
        let is_answer = matches!(arrival, ChannelEvent::Answered(_));
        if self.is_discarding && !is_answer {
            return;
        }
        if let ChannelEvent::Delivered(content) = &arrival {
            self.held += content.message.body.len();
        }
        self.arrivals.push_back(arrival);
    }
}

/// The address and the tag of a message that is to be settled.
fn addressed(fields: &mut frames::Fields) -> io::Result<Content> {
    let tag = fields.u64()?;
    let redelivered = fields.byte()? & 1 != 0;
    let mut content = unsettled(fields)?;
    content.tag = tag;
    content.message.redelivered = redelivered;
    Ok(content)
}

/// The address of a message.
fn unsettled(fields: &mut frames::Fields) -> io::Result<Content> {
    let mut incomplete = None;
    let mut name = |what: &str, bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(name) => name.to_owned(),
        Err(_) => {
            incomplete = Some(format!("invalid UTF-8 in the {what}"));
            String::from_utf8_lossy(bytes).into_owned()
        }
    };
    Ok(Content {
        tag: 0,
        message: Box::new(Message {
            exchange: name("exchange", fields.short_string()?),
            routing_key: name("routing key", fields.short_string()?),
            received: Some(SystemTime::now()),
            incomplete,
            ..Message::default()
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::frames::{CONNECTION_BLOCKED, HEARTBEAT_FRAME, LIBRARY, method_frame};
    use super::super::super::peer::{PART, close, content, cut, delivery, told};
    use super::*;

    const DECLARE_OK: Method = (50, 11);

    /// Reads the bytes in pieces that are no longer than that.
    fn read(incoming: &mut Incoming, mut bytes: &[u8], width: usize) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = incoming.room();
            let length = bytes.len().min(width).min(room.len());
            let (piece, rest) = bytes.split_at(length);
            room[..length].copy_from_slice(piece);
            incoming.read(length)?;
            bytes = rest;
        }
        Ok(())
    }

    fn incoming() -> Incoming {
        let mut incoming = Incoming::default();
        incoming.bound(4096);
        incoming
    }

    fn arrivals(incoming: &mut Incoming) -> Vec<String> {
        let arrivals = std::iter::from_fn(|| incoming.next());
        arrivals.map(|arrival| told(&arrival)).collect()
    }

    #[test]
    fn what_comes_is_sorted_wherever_it_is_cut() {
        let big = [b'b'; 2 * PART + 5];
        let declared = method_frame(LIBRARY, DECLARE_OK, b"declared");
        let blocked = method_frame(0, CONNECTION_BLOCKED, b"\x06memory");
        let others = [&declared[..], &HEARTBEAT_FRAME, &blocked].concat();
        let method = b"\x03tag\0\0\0\0\0\0\0\x06\0\0\x02k\xff";
        let bigger = content(frames::BASIC_DELIVER, method, &big);
        let answer = (20, 11);
        let came = [
            content(
                frames::BASIC_DELIVER,
                b"\x03tag\0\0\0\0\0\0\0\x05\x01\x01x\x03key",
                b"hello",
            ),
            // Method, header and three parts of a body, with frames of all other channels between them.
            cut(&bigger).join(&others[..]),
            method_frame(MESSAGES, frames::BASIC_ACK, b"\0\0\0\0\0\0\0\x09\x01"),
            method_frame(MESSAGES, frames::BASIC_NACK, b"\0\0\0\0\0\0\0\x0a\x02"),
            content(frames::BASIC_RETURN, b"\x01\x38\x08NO_ROUTE\0\x01k", b""),
            content(
                frames::BASIC_GET_OK,
                b"\0\0\0\0\0\0\0\x07\0\0\x01k\0\0\0\x02",
                b"got",
            ),
            method_frame(MESSAGES, frames::BASIC_GET_EMPTY, b"\0"),
            method_frame(MESSAGES, answer, b"\0\0\0\0"),
            method_frame(MESSAGES, frames::BASIC_CANCEL, b"\x03tag\x01"),
            close(MESSAGES, 404, "NOT_FOUND - no"),
            close(LIBRARY, 404, "NOT_FOUND - no"),
        ]
        .concat();
        for width in (1..64).chain([came.len()]) {
            let mut incoming = incoming();
            read(&mut incoming, &came, width).unwrap();
            assert_eq!(incoming.unread(), b"");
            assert_eq!(incoming.held, 50);
            assert_eq!(
                arrivals(&mut incoming),
                [
                    "delivered 5 true 'x' 'key' 5 None",
                    "delivered 6 false '' 'k\u{fffd}' 45 Some(\"invalid UTF-8 in the routing key\")",
                    "Confirm { tag: 9, multiple: true, is_ack: true }",
                    "Confirm { tag: 10, multiple: false, is_ack: false }",
                    "312 NO_ROUTE 0 false '' 'k' 0 None",
                    "got 7 false '' 'k' 3 None",
                    "got nothing",
                    "answered (20, 11)",
                    "cancelled",
                ],
                "{width}"
            );
            assert_eq!(incoming.held, 0);
            let closed = close(LIBRARY, 404, "NOT_FOUND - no");
            assert_eq!(incoming.library, [declared.repeat(4), closed].concat());
            let mut control: Vec<_> = incoming.control.into_iter().collect();
            let last = control.pop().unwrap();
            assert!(
                matches!(&last, Control::ChannelClosed(404, said) if said == "NOT_FOUND - no"),
                "{last:?}"
            );
            assert_eq!(control.len(), 4);
            for control in control {
                assert!(
                    matches!(&control, Control::Connection(CONNECTION_BLOCKED, frame) if *frame == blocked),
                    "{control:?}"
                );
            }
        }
    }

    #[test]
    fn a_frame_that_is_longer_than_what_is_read_at_a_time_is_read_as_a_whole() {
        let frame = method_frame(LIBRARY, DECLARE_OK, &vec![7; 3 * SOCKET_READ_SIZE]);
        for width in [1000, 4096, SOCKET_READ_SIZE / 3] {
            let mut incoming = Incoming::default();
            read(&mut incoming, &frame.repeat(2), width).unwrap();
            assert!(incoming.library == frame.repeat(2));
        }
    }

    #[test]
    fn properties_that_make_no_sense_are_left_out_of_their_message_only() {
        let arguments = b"\0\0\0\0\0\0\0\0\x05\0\0\0";
        let mut came = method_frame(MESSAGES, frames::BASIC_DELIVER, arguments);
        came.extend(b"\x02\0\x01\0\0\0\x0f\0\x3c\0\0\0\0\0\0\0\0\0\x02\x80\0\xff\xce");
        came.extend(b"\x03\0\x01\0\0\0\x02hi\xce");
        let mut incoming = incoming();
        read(&mut incoming, &came, came.len()).unwrap();
        let arrival = incoming.next();
        let Some(ChannelEvent::Delivered(content)) = &arrival else {
            panic!("{arrival:?}");
        };
        assert_eq!(content.message.body, b"hi");
        assert!(
            content
                .message
                .incomplete
                .as_ref()
                .unwrap()
                .contains("properties")
        );
    }

    #[test]
    fn what_is_discarded_is_neither_kept_nor_counted_but_answers_are() {
        let came = [
            delivery(5, b"hello"),
            method_frame(MESSAGES, frames::BASIC_ACK, b"\0\0\0\0\0\0\0\x09\x01"),
            method_frame(MESSAGES, frames::CHANNEL_CLOSE_OK, b""),
        ]
        .concat();
        // Wherever it begins, even within a message.
        for at in 0..=came.len() {
            let mut incoming = incoming();
            read(&mut incoming, &came[..at], came.len()).unwrap();
            incoming.is_discarding = true;
            incoming.discard();
            read(&mut incoming, &came[at..], came.len()).unwrap();
            let answers: &[&str] = if at < came.len() {
                &["answered (20, 41)"]
            } else {
                &[]
            };
            assert_eq!(arrivals(&mut incoming), answers, "{at}");
            assert_eq!(incoming.held, 0);
            // What comes on the next channel is kept.
            incoming.is_discarding = false;
            read(&mut incoming, &came, came.len()).unwrap();
            assert_eq!(incoming.held, 5);
            assert_eq!(arrivals(&mut incoming).len(), 3);
        }
    }

    #[test]
    fn what_is_not_amqp_is_refused_wherever_it_is_cut() {
        let good = delivery(5, b"hello");
        let [method, header, body] = cut(&good)[..] else {
            panic!("{good:?}")
        };
        let on_channel = |channel: u8, frame: &[u8]| {
            let mut frame = frame.to_vec();
            frame[2] = channel;
            frame
        };
        let without_end = |frame: &[u8]| [&frame[..frame.len() - 1], &[0]].concat();
        let long_body = b"\x03\0\x01\0\0\0\x06hello!\xce";
        let bad: [Vec<u8>; 15] = [
            b"\x01\0\0garbage".to_vec(),
            b"HTTP/1.1".to_vec(),
            b"\x04\0\x01\0\0\0\0\xce".to_vec(),
            method_frame(LIBRARY, DECLARE_OK, &[7; 5000]),
            b"\x01\0\0\0\0\0\x02\0\x0a\xce".to_vec(),
            method_frame(MESSAGES, frames::BASIC_DELIVER, b"\x03ta"),
            without_end(method),
            header.to_vec(),
            body.to_vec(),
            [method, body].concat(),
            [method, method].concat(),
            [method, &on_channel(2, header)].concat(),
            [method, header, &on_channel(2, body)].concat(),
            [method, header, long_body].concat(),
            [method, header, &without_end(body)].concat(),
        ];
        for bad in bad {
            let came = [&good[..], &bad].concat();
            for width in 1..=came.len() {
                let mut incoming = incoming();
                let error = read(&mut incoming, &came, width).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bad:?}");
                assert_eq!(arrivals(&mut incoming).len(), 1);
            }
        }
    }
}
