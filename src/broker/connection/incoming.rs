//! Parses the bytes received into frames, and sorts these by their channel.
//!
//! Channel 0 is the connection's. The frames on channel [`LIBRARY`] go to the client library as they are.
//! Channel [`MESSAGES`] and those that are opened after it are for messages.

use std::collections::VecDeque;
use std::time::SystemTime;

use super::super::frames::{
    self, ContentHeader, FrameHeader, LIBRARY, MESSAGES, Method, NotAmqp, ReplyText, Truncated,
};
use crate::message::{Message, Properties};
use crate::text;

/// A method received on the channel for messages, with its content.
#[derive(Debug)]
pub(crate) enum ChannelEvent {
    /// basic.deliver.
    Delivered(Content),
    /// basic.return, with its reply code and text.
    Returned(String, Content),
    /// basic.get-ok or basic.get-empty.
    Got(Option<Content>),
    /// basic.ack or basic.nack of a published message.
    Confirmed(Confirm),
    /// Any other method: the answer to a request.
    Answered(Method),
    /// basic.cancel.
    Cancelled,
}

/// A method that concerns the connection or a channel as a whole.
#[derive(Debug)]
pub(crate) enum Control {
    /// A method on channel 0.
    Connection(MethodFrame),
    /// channel.close on this channel for messages.
    ChannelClosed(u16, ReplyText),
}

/// A method and its whole frame.
#[derive(Debug)]
pub(crate) struct MethodFrame {
    pub(crate) method: Method,
    pub(crate) frame: Vec<u8>,
}

/// A message received.
#[derive(Debug)]
pub(crate) struct Content {
    /// The delivery tag; 0 for a returned message.
    pub(crate) tag: u64,
    pub(crate) message: Box<Message>,
}

/// The confirmation or refusal of published messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Confirm {
    /// The number of the message on its channel, from 1.
    pub(crate) tag: u64,
    /// Whether it applies to all earlier messages, too.
    pub(crate) multiple: bool,
    pub(crate) is_ack: bool,
}

/// Everything that was read and not yet taken.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// The largest payload accepted.
    frame_max: usize,
    /// The bytes read, of which the first `filled` are not parsed.
    buffer: Vec<u8>,
    filled: usize,
    /// Whether events other than answers are dropped.
    is_discarding: bool,
    pub(crate) events: VecDeque<ChannelEvent>,
    /// The size of the bodies in [`ChannelEvent::Delivered`].
    pub(crate) delivered_bytes: usize,
    pub(crate) control: VecDeque<Control>,
    /// The frames for the client library.
    pub(crate) library_frames: Vec<u8>,
    /// The highest number of a channel for messages.
    last_channel: u16,
    /// The difference between the delivery tags of the events and those on the wire.
    tag_base: u64,
    /// The last delivery tag of an event.
    last_tag: u64,
    /// The message whose frames are being received.
    partial: Option<PartialMessage>,
    /// The number of bytes to come of a body frame, with its end; 0 between frames.
    body_frame_left: usize,
}

/// A message of which frames are still to come.
#[derive(Debug)]
struct PartialMessage {
    channel: u16,
    event: ChannelEvent,
    /// The size of the rest of the body; `None` before the content header.
    body_left: Option<u64>,
}

impl PartialMessage {
    fn content(&mut self) -> Option<&mut Content> {
        match &mut self.event {
            ChannelEvent::Delivered(content)
            | ChannelEvent::Returned(_, content)
            | ChannelEvent::Got(Some(content)) => Some(content),
            _ => None,
        }
    }
}

/// The most bytes that are reserved for a body by its content header. It is RabbitMQ's default limit.
const MAX_RESERVED_BYTES: usize = 128 << 20;

/// The size of a read from the socket.
const SOCKET_READ_SIZE: usize = 1 << 17;

/// The largest frame that is accepted during the login.
const LOGIN_FRAME_MAX: usize = 1 << 20;

impl Default for Incoming {
    fn default() -> Self {
        Self {
            frame_max: LOGIN_FRAME_MAX,
            buffer: vec![0; SOCKET_READ_SIZE],
            filled: 0,
            is_discarding: false,
            events: VecDeque::new(),
            delivered_bytes: 0,
            control: VecDeque::new(),
            library_frames: Vec::new(),
            last_channel: MESSAGES,
            tag_base: 0,
            last_tag: 0,
            partial: None,
            body_frame_left: 0,
        }
    }
}

impl Incoming {
    pub(crate) fn set_frame_max(&mut self, frame_max: u32) {
        self.frame_max = frame_max as usize;
    }

    /// Returns the buffer for the next read. It grows if a frame does not fit.
    pub(crate) fn read_buffer(&mut self) -> &mut [u8] {
        if self.filled == self.buffer.len() {
            self.buffer.resize(2 * self.filled, 0);
        }
        &mut self.buffer[self.filled..]
    }

    /// Returns the bytes that are not parsed: the beginning of a frame, or no AMQP.
    pub(crate) fn unparsed(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }

    /// Parses the bytes read to the first `length` bytes of [`Incoming::read_buffer`].
    pub(crate) fn parse(&mut self, length: usize) -> Result<(), NotAmqp> {
        self.filled += length;
        let buffer = std::mem::take(&mut self.buffer);
        let parsed = self.parse_frames(&buffer[..self.filled]);
        self.buffer = buffer;
        let parsed = parsed?;
        self.buffer.copy_within(parsed..self.filled, 0);
        self.filled -= parsed;
        Ok(())
    }

    pub(crate) fn next_event(&mut self) -> Option<ChannelEvent> {
        let event = self.events.pop_front()?;
        if let ChannelEvent::Delivered(content) = &event {
            self.delivered_bytes -= content.message.body.len();
        }
        Some(event)
    }

    /// Drops all events, and if `is_discarding` those to come, too, except answers.
    pub(crate) fn discard(&mut self, is_discarding: bool) {
        self.is_discarding = is_discarding;
        self.events.clear();
        self.delivered_bytes = 0;
    }

    /// Receives on this further channel, too, and continues the delivery tags of the last one, as the broker
    /// begins with 1 again. Returns the difference.
    pub(crate) fn add_channel(&mut self, number: u16) -> u64 {
        self.last_channel = number;
        self.tag_base = self.last_tag;
        self.tag_base
    }

    /// Receives on channel [`MESSAGES`] alone, with delivery tags from 1 on.
    pub(crate) fn restart_channels(&mut self) {
        self.last_channel = MESSAGES;
        (self.tag_base, self.last_tag) = (0, 0);
    }

    /// Returns the number of bytes parsed. The rest is the beginning of a frame.
    fn parse_frames(&mut self, bytes: &[u8]) -> Result<usize, NotAmqp> {
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            if self.body_frame_left > 0 {
                match self.parse_body(rest)? {
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
                return Err(NotAmqp);
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
                return Err(NotAmqp);
            };
            match (header.kind, header.channel) {
                (frames::HEADER, _) => self.parse_content_header(header.channel, payload)?,
                (frames::METHOD, 0) => {
                    let method = frames::Fields(payload).method()?;
                    let frame = frame.to_vec();
                    let control = Control::Connection(MethodFrame { method, frame });
                    self.control.push_back(control);
                }
                (frames::METHOD, LIBRARY) => self.library_frames.extend_from_slice(frame),
                (frames::METHOD, channel) if channel <= self.last_channel => {
                    self.parse_method(channel, payload)?;
                }
                (frames::METHOD, _) => return Err(NotAmqp),
                // A heartbeat.
                _ => {}
            }
            at += frame.len();
        }
    }

    fn parse_method(&mut self, channel: u16, payload: &[u8]) -> Result<(), NotAmqp> {
        let mut fields = frames::Fields(payload);
        let method = fields.method()?;
        let event = match method {
            frames::BASIC_DELIVER => {
                let _consumer_tag = fields.short_string()?;
                ChannelEvent::Delivered(self.delivery(&mut fields)?)
            }
            frames::BASIC_GET_OK => ChannelEvent::Got(Some(self.delivery(&mut fields)?)),
            frames::BASIC_RETURN => {
                let ReplyText { code, text } = fields.reply()?;
                let content = content(&mut fields)?;
                ChannelEvent::Returned(format!("{code} {}", text::one_line(&text)), content)
            }
            frames::BASIC_GET_EMPTY => ChannelEvent::Got(None),
            frames::BASIC_ACK | frames::BASIC_NACK => ChannelEvent::Confirmed(Confirm {
                tag: fields.u64()?,
                multiple: fields.u8()? & 1 != 0,
                is_ack: method == frames::BASIC_ACK,
            }),
            frames::BASIC_CANCEL => ChannelEvent::Cancelled,
            frames::CHANNEL_CLOSE => {
                let reply = fields.reply()?;
                self.control
                    .push_back(Control::ChannelClosed(channel, reply));
                return Ok(());
            }
            answer => ChannelEvent::Answered(answer),
        };
        let mut partial = PartialMessage {
            channel,
            event,
            body_left: None,
        };
        if partial.content().is_none() {
            self.push(partial.event);
        } else if self.partial.replace(partial).is_some() {
            // The frames of two messages are never interleaved on a channel, and no two channels deliver at a
            // time.
            return Err(NotAmqp);
        }
        Ok(())
    }

    /// Reads the tag and the address of a message to be settled.
    fn delivery(&mut self, fields: &mut frames::Fields) -> Result<Content, Truncated> {
        self.last_tag = self.tag_base + fields.u64()?;
        let redelivered = fields.u8()? & 1 != 0;
        let mut content = content(fields)?;
        content.tag = self.last_tag;
        content.message.redelivered = redelivered;
        Ok(content)
    }

    fn parse_content_header(&mut self, channel: u16, payload: &[u8]) -> Result<(), NotAmqp> {
        let header = ContentHeader::read(payload)?;
        let partial = self.partial.as_mut().ok_or(NotAmqp)?;
        let is_expected = channel == partial.channel && partial.body_left.is_none();
        let content = partial.content().filter(|_| is_expected).ok_or(NotAmqp)?;
        match Properties::decode(header.properties) {
            Ok(properties) => content.message.properties = properties,
            Err(problem) => content.message.incomplete = Some(format!("properties: {problem}")),
        }
        let size = usize::try_from(header.body_size).unwrap_or(usize::MAX);
        content.message.body = Vec::with_capacity(size.min(MAX_RESERVED_BYTES));
        partial.body_left = Some(header.body_size);
        self.push_if_complete();
        Ok(())
    }

    fn begin_body(&mut self, header: FrameHeader) -> Result<(), NotAmqp> {
        let partial = self.partial.as_mut().ok_or(NotAmqp)?;
        let left = partial.body_left.ok_or(NotAmqp)?;
        let left = left.checked_sub(header.size as u64);
        if header.channel != partial.channel || left.is_none() {
            return Err(NotAmqp);
        }
        partial.body_left = left;
        self.body_frame_left = header.size + 1;
        Ok(())
    }

    /// Takes the bytes that belong to the body frame, and returns their number.
    fn parse_body(&mut self, bytes: &[u8]) -> Result<usize, NotAmqp> {
        let part = &bytes[..bytes.len().min(self.body_frame_left - 1)];
        if let Some(content) = self.partial.as_mut().and_then(PartialMessage::content) {
            content.message.body.extend_from_slice(part);
        }
        self.body_frame_left -= part.len();
        match bytes.get(part.len()) {
            Some(&frames::FRAME_END) if self.body_frame_left == 1 => {
                self.body_frame_left = 0;
                self.push_if_complete();
                Ok(part.len() + 1)
            }
            Some(_) if self.body_frame_left == 1 => Err(NotAmqp),
            _ => Ok(part.len()),
        }
    }

    fn push_if_complete(&mut self) {
        if let Some(partial) = self.partial.take_if(|it| it.body_left == Some(0)) {
            self.push(partial.event);
        }
    }

    fn push(&mut self, event: ChannelEvent) {
        let is_answer = matches!(event, ChannelEvent::Answered(_));
        if self.is_discarding && !is_answer {
            return;
        }
        if let ChannelEvent::Delivered(content) = &event {
            self.delivered_bytes += content.message.body.len();
        }
        self.events.push_back(event);
    }
}

/// Reads the address of a message.
fn content(fields: &mut frames::Fields) -> Result<Content, Truncated> {
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
    use super::super::super::frames::{
        CONNECTION_BLOCKED, HEARTBEAT_FRAME, MESSAGES, method_frame,
    };
    use super::super::super::peer::{BODY_FRAME_SIZE, close, content, cut, delivery, describe};
    use super::*;

    const DECLARE_OK: Method = (50, 11);

    /// Has the bytes read in pieces of this size at most.
    fn parse(incoming: &mut Incoming, mut bytes: &[u8], width: usize) -> Result<(), NotAmqp> {
        while !bytes.is_empty() {
            let buffer = incoming.read_buffer();
            let length = bytes.len().min(width).min(buffer.len());
            let (piece, rest) = bytes.split_at(length);
            buffer[..length].copy_from_slice(piece);
            incoming.parse(length)?;
            bytes = rest;
        }
        Ok(())
    }

    fn incoming() -> Incoming {
        let mut incoming = Incoming::default();
        incoming.set_frame_max(4096);
        incoming
    }

    fn events(incoming: &mut Incoming) -> Vec<String> {
        let events = std::iter::from_fn(|| incoming.next_event());
        events.map(|event| describe(&event)).collect()
    }

    #[test]
    fn frames_are_sorted_wherever_the_bytes_are_cut() {
        let big = [b'b'; 2 * BODY_FRAME_SIZE + 5];
        let declared = method_frame(LIBRARY, DECLARE_OK, b"declared");
        let blocked = method_frame(0, CONNECTION_BLOCKED, b"\x06memory");
        let others = [&declared[..], &HEARTBEAT_FRAME, &blocked].concat();
        let method = b"\x03tag\0\0\0\0\0\0\0\x06\0\0\x02k\xff";
        let bigger = content(frames::BASIC_DELIVER, method, &big);
        let answer = (20, 11);
        let received = [
            content(
                frames::BASIC_DELIVER,
                b"\x03tag\0\0\0\0\0\0\0\x05\x01\x01x\x03key",
                b"hello",
            ),
            // Method, header and three body frames, with frames of all other channels between them.
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
        for width in (1..64).chain([received.len()]) {
            let mut incoming = incoming();
            parse(&mut incoming, &received, width).unwrap();
            assert_eq!(incoming.unparsed(), b"");
            assert_eq!(incoming.delivered_bytes, 50);
            assert_eq!(
                events(&mut incoming),
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
            assert_eq!(incoming.delivered_bytes, 0);
            let closed = close(LIBRARY, 404, "NOT_FOUND - no");
            assert_eq!(
                incoming.library_frames,
                [declared.repeat(4), closed].concat()
            );
            let mut control: Vec<_> = incoming.control.into_iter().collect();
            let last = control.pop().unwrap();
            assert!(
                matches!(&last, Control::ChannelClosed(MESSAGES, ReplyText { code: 404, text }) if text == "NOT_FOUND - no"),
                "{last:?}"
            );
            assert_eq!(control.len(), 4);
            for control in control {
                assert!(
                    matches!(&control, Control::Connection(MethodFrame { method: CONNECTION_BLOCKED, frame }) if *frame == blocked),
                    "{control:?}"
                );
            }
        }
    }

    #[test]
    fn a_frame_may_be_longer_than_the_buffer() {
        let frame = method_frame(LIBRARY, DECLARE_OK, &vec![7; 3 * SOCKET_READ_SIZE]);
        for width in [1000, 4096, SOCKET_READ_SIZE / 3] {
            let mut incoming = Incoming::default();
            parse(&mut incoming, &frame.repeat(2), width).unwrap();
            assert!(incoming.library_frames == frame.repeat(2));
        }
    }

    #[test]
    fn invalid_properties_are_left_out_of_their_message() {
        let arguments = b"\0\0\0\0\0\0\0\0\x05\0\0\0";
        let mut received = method_frame(MESSAGES, frames::BASIC_DELIVER, arguments);
        received.extend(b"\x02\0\x01\0\0\0\x0f\0\x3c\0\0\0\0\0\0\0\0\0\x02\x80\0\xff\xce");
        received.extend(b"\x03\0\x01\0\0\0\x02hi\xce");
        let mut incoming = incoming();
        parse(&mut incoming, &received, received.len()).unwrap();
        let event = incoming.next_event();
        let Some(ChannelEvent::Delivered(content)) = &event else {
            panic!("{event:?}");
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
    fn discarded_messages_are_neither_kept_nor_counted() {
        let received = [
            delivery(5, b"hello"),
            method_frame(MESSAGES, frames::BASIC_ACK, b"\0\0\0\0\0\0\0\x09\x01"),
            method_frame(MESSAGES, frames::CHANNEL_CLOSE_OK, b""),
        ]
        .concat();
        // From any byte on, even within a message.
        for at in 0..=received.len() {
            let mut incoming = incoming();
            parse(&mut incoming, &received[..at], received.len()).unwrap();
            incoming.discard(true);
            parse(&mut incoming, &received[at..], received.len()).unwrap();
            let answers: &[&str] = if at < received.len() {
                &["answered (20, 41)"]
            } else {
                &[]
            };
            assert_eq!(events(&mut incoming), answers, "{at}");
            assert_eq!(incoming.delivered_bytes, 0);
            // The messages of the next channel are kept.
            incoming.discard(false);
            parse(&mut incoming, &received, received.len()).unwrap();
            assert_eq!(incoming.delivered_bytes, 5);
            assert_eq!(events(&mut incoming).len(), 3);
        }
    }

    #[test]
    fn bytes_that_are_not_amqp_are_refused_wherever_they_are_cut() {
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
        let bad: [Vec<u8>; 16] = [
            method_frame(7, DECLARE_OK, b""),
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
            let received = [&good[..], &bad].concat();
            for width in 1..=received.len() {
                let mut incoming = incoming();
                let result = parse(&mut incoming, &received, width);
                assert_eq!(result, Err(NotAmqp), "{bad:?}");
                assert_eq!(events(&mut incoming).len(), 1);
            }
        }
    }
}
