//! AMQP frames: the encoding of methods and messages.
//!
//! Frames and content: specification of AMQP 0-9-1, sections 2.3.5 and 4.2; methods and their fields:
//! <https://www.rabbitmq.com/amqp-0-9-1-reference>.

use std::fmt;

use crate::message::{FieldTable, Message};

pub(crate) const METHOD: u8 = 1;
pub(crate) const HEADER: u8 = 2;
pub(crate) const BODY: u8 = 3;
pub(crate) const HEARTBEAT: u8 = 8;
pub(crate) const FRAME_END: u8 = 0xce;

/// The size of a frame's header: its type, channel and payload size.
pub(crate) const FRAME_HEADER: usize = 7;

/// The size of a frame without its payload.
const FRAME_OVERHEAD: usize = FRAME_HEADER + 1;

pub(crate) const HEARTBEAT_FRAME: [u8; 8] = [HEARTBEAT, 0, 0, 0, 0, 0, 0, FRAME_END];

/// The first bytes that a client sends: the protocol and its version.
pub(crate) const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\x00\x00\x09\x01";

/// The largest frame that every peer has to accept (specification, section 4.2.3).
pub(crate) const FRAME_MIN_SIZE: u32 = 4096;

/// The size of the class, weight and body size before the properties in a content header.
const PROPERTIES_OFFSET: usize = 12;

/// The channel for messages.
pub(crate) const MESSAGES: u16 = 1;

/// The channel of the client library, for declaring and deleting.
pub(crate) const LIBRARY: u16 = 2;

/// The numbers of a class and of a method in it.
pub(crate) type Method = (u16, u16);

pub(crate) const CONNECTION_START: Method = (10, 10);
pub(crate) const CONNECTION_START_OK: Method = (10, 11);
pub(crate) const CONNECTION_SECURE: Method = (10, 20);
pub(crate) const CONNECTION_TUNE: Method = (10, 30);
pub(crate) const CONNECTION_TUNE_OK: Method = (10, 31);
pub(crate) const CONNECTION_OPEN: Method = (10, 40);
pub(crate) const CONNECTION_OPEN_OK: Method = (10, 41);
pub(crate) const CONNECTION_CLOSE: Method = (10, 50);
pub(crate) const CONNECTION_CLOSE_OK: Method = (10, 51);
pub(crate) const CONNECTION_BLOCKED: Method = (10, 60);
pub(crate) const CONNECTION_UNBLOCKED: Method = (10, 61);
pub(crate) const CHANNEL_OPEN: Method = (20, 10);
pub(crate) const CHANNEL_OPEN_OK: Method = (20, 11);
pub(crate) const CHANNEL_CLOSE: Method = (20, 40);
pub(crate) const CHANNEL_CLOSE_OK: Method = (20, 41);
pub(crate) const QUEUE_DECLARE: Method = (50, 10);
pub(crate) const QUEUE_DECLARE_OK: Method = (50, 11);
pub(crate) const BASIC_QOS: Method = (60, 10);
pub(crate) const BASIC_QOS_OK: Method = (60, 11);
pub(crate) const BASIC_CONSUME: Method = (60, 20);
pub(crate) const BASIC_CONSUME_OK: Method = (60, 21);
pub(crate) const BASIC_CANCEL: Method = (60, 30);
pub(crate) const BASIC_CANCEL_OK: Method = (60, 31);
pub(crate) const BASIC_PUBLISH: Method = (60, 40);
pub(crate) const BASIC_RETURN: Method = (60, 50);
pub(crate) const BASIC_DELIVER: Method = (60, 60);
pub(crate) const BASIC_GET: Method = (60, 70);
pub(crate) const BASIC_GET_OK: Method = (60, 71);
pub(crate) const BASIC_GET_EMPTY: Method = (60, 72);
pub(crate) const BASIC_ACK: Method = (60, 80);
pub(crate) const BASIC_REJECT: Method = (60, 90);
pub(crate) const BASIC_NACK: Method = (60, 120);
pub(crate) const CONFIRM_SELECT: Method = (85, 10);

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) kind: u8,
    pub(crate) channel: u16,
    /// The size of the payload in bytes.
    pub(crate) size: usize,
}

impl FrameHeader {
    /// Reads the header if all of it is in `bytes`.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        match *bytes {
            [kind, high, low, a, b, c, d, ..] => Some(Self {
                kind,
                channel: u16::from_be_bytes([high, low]),
                size: u32::from_be_bytes([a, b, c, d]) as usize,
            }),
            _ => None,
        }
    }

    /// Returns the size of the whole frame.
    pub(crate) fn frame_size(self) -> usize {
        self.size + FRAME_OVERHEAD
    }
}

/// Returns the largest size of encoded properties, which must fit into one frame.
pub(crate) fn max_properties_size(frame_max: usize) -> usize {
    frame_max - FRAME_OVERHEAD - PROPERTIES_OFFSET
}

/// Appends a frame whose payload `put` writes.
fn put_frame(out: &mut Vec<u8>, kind: u8, channel: u16, put: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.push(kind);
    out.extend(channel.to_be_bytes());
    out.extend([0; 4]);
    put(out);
    // Callers keep payloads below the agreed frame size.
    let size = u32::try_from(out.len() - start - FRAME_HEADER).unwrap_or(u32::MAX);
    out[start + 3..start + FRAME_HEADER].copy_from_slice(&size.to_be_bytes());
    out.push(FRAME_END);
}

fn put_method(
    out: &mut Vec<u8>,
    channel: u16,
    (class, method): Method,
    put_arguments: impl FnOnce(&mut Vec<u8>),
) {
    put_frame(out, METHOD, channel, |out| {
        out.extend(class.to_be_bytes());
        out.extend(method.to_be_bytes());
        put_arguments(out);
    });
}

/// Returns the frame of a method whose arguments `put_arguments` writes.
fn method_with(channel: u16, method: Method, put_arguments: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    put_method(&mut out, channel, method, put_arguments);
    out
}

/// Returns the frame of a method with encoded arguments.
pub(crate) fn method_frame(channel: u16, method: Method, arguments: &[u8]) -> Vec<u8> {
    method_with(channel, method, |out| out.extend(arguments))
}

/// Appends a short string. Callers keep it within 255 bytes.
pub(crate) fn put_short_string(out: &mut Vec<u8>, text: &[u8]) {
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    out.push(length);
    out.extend(&text[..usize::from(length)]);
}

/// Appends bytes behind their 32-bit length: a long string or a table.
pub(crate) fn put_long_string(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend(length.to_be_bytes());
    out.extend(bytes);
}

/// Appends confirm.select with no-wait.
pub(crate) fn put_confirm_select(out: &mut Vec<u8>, channel: u16) {
    put_method(out, channel, CONFIRM_SELECT, |out| out.push(1));
}

/// Appends basic.publish and the content header of a message. The body follows.
pub(crate) fn put_publish(out: &mut Vec<u8>, channel: u16, message: &Message, mandatory: bool) {
    put_method(out, channel, BASIC_PUBLISH, |out| {
        out.extend([0; 2]);
        put_short_string(out, message.exchange.as_bytes());
        put_short_string(out, message.routing_key.as_bytes());
        out.push(u8::from(mandatory));
    });
    put_frame(out, HEADER, channel, |out| {
        out.extend(BASIC_PUBLISH.0.to_be_bytes());
        out.extend([0; 2]);
        out.extend((message.body.len() as u64).to_be_bytes());
        message.properties.encode(out);
    });
}

/// Splits a body into the payloads of body frames.
pub(crate) fn body_chunks(body: &[u8], frame_max: usize) -> impl Iterator<Item = &[u8]> {
    body.chunks(frame_max.saturating_sub(FRAME_OVERHEAD).max(1))
}

/// Appends a body frame.
pub(crate) fn put_body(out: &mut Vec<u8>, channel: u16, payload: &[u8]) {
    put_frame(out, BODY, channel, |out| out.extend_from_slice(payload));
}

/// Acknowledges a delivery; with `multiple` all earlier ones, too.
pub(crate) fn ack(channel: u16, tag: u64, multiple: bool) -> Vec<u8> {
    settlement(channel, BASIC_ACK, tag, u8::from(multiple))
}

/// Rejects a delivery.
pub(crate) fn reject(channel: u16, tag: u64, requeue: bool) -> Vec<u8> {
    settlement(channel, BASIC_REJECT, tag, u8::from(requeue))
}

/// Moves whole frames to another channel.
pub(crate) fn set_channel(mut frames: &mut [u8], channel: u16) {
    while let Some(header) = FrameHeader::read(frames) {
        frames[1..3].copy_from_slice(&channel.to_be_bytes());
        match frames.split_at_mut_checked(header.frame_size()) {
            Some((_, rest)) => frames = rest,
            None => return,
        }
    }
}

/// Requeues a delivery that was not tried; with `multiple` all earlier ones, too. Tag 0 stands for all.
pub(crate) fn nack(channel: u16, tag: u64, multiple: bool) -> Vec<u8> {
    const REQUEUE: u8 = 2;
    settlement(channel, BASIC_NACK, tag, REQUEUE | u8::from(multiple))
}

fn settlement(channel: u16, method: Method, tag: u64, flags: u8) -> Vec<u8> {
    method_with(channel, method, |out| {
        out.extend(tag.to_be_bytes());
        out.push(flags);
    })
}

/// Declares a queue that is not exclusive.
pub(crate) fn declare(
    channel: u16,
    queue: &str,
    durable: bool,
    auto_delete: bool,
    arguments: &FieldTable,
) -> Vec<u8> {
    const DURABLE: u8 = 2;
    const AUTO_DELETE: u8 = 8;
    let flags = (DURABLE * u8::from(durable)) | (AUTO_DELETE * u8::from(auto_delete));
    queue_declare(channel, queue, flags, arguments)
}

/// Checks that a queue exists, without changing anything.
pub(crate) fn declare_passive(channel: u16, queue: &str) -> Vec<u8> {
    const PASSIVE: u8 = 1;
    queue_declare(channel, queue, PASSIVE, &FieldTable::default())
}

fn queue_declare(channel: u16, queue: &str, flags: u8, arguments: &FieldTable) -> Vec<u8> {
    method_with(channel, QUEUE_DECLARE, |out| {
        out.extend([0; 2]);
        put_short_string(out, queue.as_bytes());
        out.push(flags);
        arguments.encode(out);
    })
}

/// Sets the prefetch of each consumer that is started later on the channel.
pub(crate) fn qos(channel: u16, prefetch: u16) -> Vec<u8> {
    method_with(channel, BASIC_QOS, |out| {
        // The limit in bytes, which RabbitMQ does not implement.
        out.extend([0; 4]);
        out.extend(prefetch.to_be_bytes());
        // Not global.
        out.push(0);
    })
}

/// Starts a consumer with this tag.
pub(crate) fn consume(
    channel: u16,
    queue: &str,
    consumer_tag: &str,
    no_ack: bool,
    exclusive: bool,
    arguments: &FieldTable,
) -> Vec<u8> {
    const NO_ACK: u8 = 2;
    const EXCLUSIVE: u8 = 4;
    method_with(channel, BASIC_CONSUME, |out| {
        out.extend([0; 2]);
        put_short_string(out, queue.as_bytes());
        put_short_string(out, consumer_tag.as_bytes());
        out.push((NO_ACK * u8::from(no_ack)) | (EXCLUSIVE * u8::from(exclusive)));
        arguments.encode(out);
    })
}

/// Cancels a consumer. With `no_wait` there is no answer.
pub(crate) fn cancel(channel: u16, consumer_tag: &str, no_wait: bool) -> Vec<u8> {
    method_with(channel, BASIC_CANCEL, |out| {
        put_short_string(out, consumer_tag.as_bytes());
        out.push(u8::from(no_wait));
    })
}

/// Closes a channel (channel.close) or the connection (connection.close).
pub(crate) fn close(channel: u16, method: Method) -> Vec<u8> {
    const SUCCESS: u16 = 200;
    method_with(channel, method, |out| {
        out.extend(SUCCESS.to_be_bytes());
        put_short_string(out, b"");
        // No method caused it.
        out.extend([0; 4]);
    })
}

/// Gets one message of a queue, to be acknowledged.
pub(crate) fn get(channel: u16, queue: &str) -> Vec<u8> {
    method_with(channel, BASIC_GET, |out| {
        out.extend([0; 2]);
        put_short_string(out, queue.as_bytes());
        out.push(0);
    })
}

/// Returns the arguments of a method, of its whole frame.
pub(crate) fn arguments(frame: &[u8]) -> Fields<'_> {
    const METHOD_NUMBERS: usize = 4;
    let arguments = frame
        .get(FRAME_HEADER + METHOD_NUMBERS..frame.len().saturating_sub(1))
        .unwrap_or_default();
    Fields(arguments)
}

/// The content header of a message.
pub(crate) struct ContentHeader<'a> {
    pub(crate) body_size: u64,
    /// The encoded properties.
    pub(crate) properties: &'a [u8],
}

impl<'a> ContentHeader<'a> {
    pub(crate) fn read(payload: &'a [u8]) -> Result<Self, Truncated> {
        let mut fields = Fields(payload);
        let _class_and_weight = fields.u32()?;
        Ok(Self {
            body_size: fields.u64()?,
            properties: fields.0,
        })
    }
}

/// The bytes received are not AMQP 0-9-1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotAmqp;

/// A method or a content header ends before its fields do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Truncated;

impl fmt::Display for Truncated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it sent a truncated method")
    }
}

impl From<Truncated> for NotAmqp {
    fn from(_: Truncated) -> Self {
        Self
    }
}

/// The reason with which the broker closes something or returns a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReplyText {
    pub(crate) code: u16,
    /// The text as it was sent, not yet escaped.
    pub(crate) text: String,
}

/// Reads the fields of a method, one after the other.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Truncated> {
        let (field, rest) = self.0.split_first_chunk().ok_or(Truncated)?;
        self.0 = rest;
        Ok(*field)
    }

    /// Reads the numbers of a method, with which its payload begins.
    pub(crate) fn method(&mut self) -> Result<Method, Truncated> {
        Ok((self.u16()?, self.u16()?))
    }

    /// Reads a reply code and a reply text.
    pub(crate) fn reply(&mut self) -> Result<ReplyText, Truncated> {
        Ok(ReplyText {
            code: self.u16()?,
            text: String::from_utf8_lossy(self.short_string()?).into_owned(),
        })
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Truncated> {
        self.array().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Truncated> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Truncated> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Truncated> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn short_string(&mut self) -> Result<&'a [u8], Truncated> {
        let length = self.u8()?;
        self.take(usize::from(length))
    }

    pub(crate) fn long_string(&mut self) -> Result<&'a [u8], Truncated> {
        let length = self.u32()?;
        self.take(length as usize)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Truncated> {
        let (field, rest) = self.0.split_at_checked(length).ok_or(Truncated)?;
        self.0 = rest;
        Ok(field)
    }
}
