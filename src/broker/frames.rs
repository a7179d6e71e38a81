//! AMQP frames: how methods and messages stand on the wire.
//!
//! Frames and content: specification of AMQP 0-9-1, sections 2.3.5 and 4.2; methods and their fields:
//! <https://www.rabbitmq.com/amqp-0-9-1-reference>.

use std::fmt;
use std::io;

use crate::message::{FieldTable, Message, Properties};

pub const METHOD: u8 = 1;
pub const HEADER: u8 = 2;
pub const BODY: u8 = 3;
pub const HEARTBEAT: u8 = 8;
pub const FRAME_END: u8 = 0xce;

/// A frame's kind, channel and size.
pub const FRAME_HEADER: usize = 7;

/// What a frame has besides its payload.
const FRAME_OVERHEAD: usize = FRAME_HEADER + 1;

/// A frame that says nothing but that its sender is alive.
pub const HEARTBEAT_FRAME: [u8; 8] = [HEARTBEAT, 0, 0, 0, 0, 0, 0, FRAME_END];

/// What a client says first: the protocol and its version.
pub const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\x00\x00\x09\x01";

/// The largest frame that every peer has to take (specification, section 4.2.3).
pub const FRAME_MIN_SIZE: u32 = 4096;

/// Class, weight and body size: what stands before the properties in a content header.
const BEFORE_PROPERTIES: usize = 12;

/// The channel for messages.
pub const MESSAGES: u16 = 1;

/// The client library's channel, on which it declares and deletes.
pub const LIBRARY: u16 = 2;

/// The numbers of a class and of one of its methods.
pub type Method = (u16, u16);

pub const CONNECTION_START: Method = (10, 10);
pub const CONNECTION_START_OK: Method = (10, 11);
pub const CONNECTION_SECURE: Method = (10, 20);
pub const CONNECTION_TUNE: Method = (10, 30);
pub const CONNECTION_TUNE_OK: Method = (10, 31);
pub const CONNECTION_OPEN: Method = (10, 40);
pub const CONNECTION_OPEN_OK: Method = (10, 41);
pub const CONNECTION_CLOSE: Method = (10, 50);
pub const CONNECTION_CLOSE_OK: Method = (10, 51);
pub const CONNECTION_BLOCKED: Method = (10, 60);
pub const CONNECTION_UNBLOCKED: Method = (10, 61);
pub const CHANNEL_OPEN: Method = (20, 10);
pub const CHANNEL_OPEN_OK: Method = (20, 11);
pub const CHANNEL_CLOSE: Method = (20, 40);
pub const CHANNEL_CLOSE_OK: Method = (20, 41);
pub const QUEUE_DECLARE: Method = (50, 10);
pub const QUEUE_DECLARE_OK: Method = (50, 11);
pub const BASIC_QOS: Method = (60, 10);
pub const BASIC_QOS_OK: Method = (60, 11);
pub const BASIC_CONSUME: Method = (60, 20);
pub const BASIC_CONSUME_OK: Method = (60, 21);
pub const BASIC_CANCEL: Method = (60, 30);
pub const BASIC_CANCEL_OK: Method = (60, 31);
pub const BASIC_PUBLISH: Method = (60, 40);
pub const BASIC_RETURN: Method = (60, 50);
pub const BASIC_DELIVER: Method = (60, 60);
pub const BASIC_GET: Method = (60, 70);
pub const BASIC_GET_OK: Method = (60, 71);
pub const BASIC_GET_EMPTY: Method = (60, 72);
pub const BASIC_ACK: Method = (60, 80);
pub const BASIC_REJECT: Method = (60, 90);
pub const BASIC_NACK: Method = (60, 120);
pub const CONFIRM_SELECT: Method = (85, 10);

/// Where a frame begins, and what its header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    pub kind: u8,
    pub channel: u16,
    /// Bytes of the payload.
    pub size: usize,
}

impl FrameHeader {
    /// Reads the header, if it is there as a whole.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        match *bytes {
            [kind, high, low, a, b, c, d, ..] => Some(Self {
                kind,
                channel: u16::from_be_bytes([high, low]),
                size: u32::from_be_bytes([a, b, c, d]) as usize,
            }),
            _ => None,
        }
    }

    /// The bytes of the whole frame.
    pub fn frame_size(self) -> usize {
        self.size + FRAME_OVERHEAD
    }
}

/// How many bytes of properties the broker takes: all of them stand in one frame.
pub fn most_properties(frame_max: usize) -> usize {
    frame_max - FRAME_OVERHEAD - BEFORE_PROPERTIES
}

/// Adds a frame to `out` whose payload `put` writes.
fn put_frame(out: &mut Vec<u8>, kind: u8, channel: u16, put: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.push(kind);
    out.extend(channel.to_be_bytes());
    out.extend([0; 4]);
    put(out);
    // What is longer than a frame can be never comes here.
    let size = u32::try_from(out.len() - start - FRAME_HEADER).unwrap_or(u32::MAX);
    out[start + 3..start + FRAME_HEADER].copy_from_slice(&size.to_be_bytes());
    out.push(FRAME_END);
}

fn put_method(
    out: &mut Vec<u8>,
    channel: u16,
    (class, method): Method,
    arguments: impl FnOnce(&mut Vec<u8>),
) {
    put_frame(out, METHOD, channel, |out| {
        out.extend(class.to_be_bytes());
        out.extend(method.to_be_bytes());
        arguments(out);
    });
}

/// The frame of a method with these arguments.
pub fn method_frame(channel: u16, method: Method, arguments: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(FRAME_OVERHEAD + 4 + arguments.len());
    put_method(&mut out, channel, method, |out| out.extend(arguments));
    out
}

/// Every such text is kept within 255 bytes by its type, or is ours.
pub fn put_short_string(out: &mut Vec<u8>, text: &[u8]) {
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    out.push(length);
    out.extend(&text[..usize::from(length)]);
}

/// Any length-prefixed run of bytes: a long string, a table.
pub fn put_long_string(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend(length.to_be_bytes());
    out.extend(bytes);
}

/// Adds to `out` the frame that has messages of a channel confirmed, and wants no answer.
pub fn put_confirm_select(out: &mut Vec<u8>, channel: u16) {
    put_method(out, channel, CONFIRM_SELECT, |out| out.push(1));
}

/// Adds to `out` all frames of a message that is published, but for its body.
pub fn put_publish(out: &mut Vec<u8>, channel: u16, message: &Message, mandatory: bool) {
    put_method(out, channel, BASIC_PUBLISH, |out| {
        out.extend([0; 2]);
        put_short_string(out, message.exchange.as_bytes());
        put_short_string(out, message.routing_key.as_bytes());
        out.push(u8::from(mandatory));
    });
    put_header(out, channel, &message.properties, message.body.len());
}

fn put_header(out: &mut Vec<u8>, channel: u16, properties: &Properties, body: usize) {
    put_frame(out, HEADER, channel, |out| {
        out.extend(BASIC_PUBLISH.0.to_be_bytes());
        out.extend([0; 2]);
        out.extend((body as u64).to_be_bytes());
        properties.encode(out);
    });
}

/// The parts of a body that fit into a frame each.
pub fn parts(body: &[u8], frame_max: usize) -> impl Iterator<Item = &[u8]> {
    body.chunks(frame_max.saturating_sub(FRAME_OVERHEAD).max(1))
}

/// Adds to `out` the frame of a part of a body.
pub fn put_body(out: &mut Vec<u8>, channel: u16, part: &[u8]) {
    put_frame(out, BODY, channel, |out| out.extend_from_slice(part));
}

/// Acknowledges the delivery with this tag; with `multiple` all before it, too.
pub fn ack(channel: u16, tag: u64, multiple: bool) -> Vec<u8> {
    settlement(channel, BASIC_ACK, tag, multiple)
}

/// Gives the delivery with this tag back to its queue, or with `requeue` false drops it.
pub fn reject(channel: u16, tag: u64, requeue: bool) -> Vec<u8> {
    settlement(channel, BASIC_REJECT, tag, requeue)
}

/// Gives the delivery with this tag back to its queue, where it was not tried; with `multiple` all before
/// it, too, or with tag 0 everything.
pub fn nack(channel: u16, tag: u64, multiple: bool) -> Vec<u8> {
    const REQUEUE: u8 = 2;
    let mut out = Vec::with_capacity(FRAME_OVERHEAD + 13);
    put_method(&mut out, channel, BASIC_NACK, |out| {
        out.extend(tag.to_be_bytes());
        out.push(REQUEUE | u8::from(multiple));
    });
    out
}

fn settlement(channel: u16, method: Method, tag: u64, flag: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(FRAME_OVERHEAD + 13);
    put_method(&mut out, channel, method, |out| {
        out.extend(tag.to_be_bytes());
        out.push(u8::from(flag));
    });
    out
}

/// Declares a queue that every connection can use.
pub fn declare(
    channel: u16,
    queue: &str,
    durable: bool,
    auto_delete: bool,
    arguments: &FieldTable,
) -> Vec<u8> {
    // Passive would be 1, exclusive 4, no-wait 16.
    let flags = u8::from(durable) << 1 | u8::from(auto_delete) << 3;
    queue_declare(channel, queue, flags, arguments)
}

/// Asks after a queue without changing anything.
pub fn look_up(channel: u16, queue: &str) -> Vec<u8> {
    const PASSIVE: u8 = 1;
    queue_declare(channel, queue, PASSIVE, &FieldTable::default())
}

fn queue_declare(channel: u16, queue: &str, flags: u8, arguments: &FieldTable) -> Vec<u8> {
    let mut out = Vec::new();
    put_method(&mut out, channel, QUEUE_DECLARE, |out| {
        out.extend([0; 2]);
        put_short_string(out, queue.as_bytes());
        out.push(flags);
        arguments.encode(out);
    });
    out
}

/// Limits how many messages are sent ahead of their acknowledgement to each consumer that comes.
pub fn limit(channel: u16, prefetch: u16) -> Vec<u8> {
    let mut out = Vec::new();
    put_method(&mut out, channel, BASIC_QOS, |out| {
        // In bytes, which RabbitMQ knows nothing of: no limit.
        out.extend([0; 4]);
        out.extend(prefetch.to_be_bytes());
        // For each consumer, not for all of the channel's.
        out.push(0);
    });
    out
}

/// Starts a consumer that the channel knows by this tag.
pub fn consume(
    channel: u16,
    queue: &str,
    consumer_tag: &str,
    no_ack: bool,
    exclusive: bool,
    arguments: &FieldTable,
) -> Vec<u8> {
    let mut out = Vec::new();
    put_method(&mut out, channel, BASIC_CONSUME, |out| {
        out.extend([0; 2]);
        put_short_string(out, queue.as_bytes());
        put_short_string(out, consumer_tag.as_bytes());
        // no-local, which RabbitMQ ignores, no-ack, exclusive, no-wait.
        out.push(u8::from(no_ack) << 1 | u8::from(exclusive) << 2);
        arguments.encode(out);
    });
    out
}

/// Cancels a consumer. With `no_wait` there is no answer.
pub fn cancel(channel: u16, consumer_tag: &str, no_wait: bool) -> Vec<u8> {
    let mut out = Vec::new();
    put_method(&mut out, channel, BASIC_CANCEL, |out| {
        put_short_string(out, consumer_tag.as_bytes());
        out.push(u8::from(no_wait));
    });
    out
}

/// Closes a connection or a channel in good order.
pub fn close(channel: u16, method: Method) -> Vec<u8> {
    const SUCCESS: u16 = 200;
    let mut out = Vec::new();
    put_method(&mut out, channel, method, |out| {
        out.extend(SUCCESS.to_be_bytes());
        put_short_string(out, b"");
        // The method that is to blame: none.
        out.extend([0; 4]);
    });
    out
}

/// Asks for a message of a queue, which is then to be acknowledged.
pub fn get(channel: u16, queue: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put_method(&mut out, channel, BASIC_GET, |out| {
        out.extend([0; 2]);
        put_short_string(out, queue.as_bytes());
        out.push(0);
    });
    out
}

/// The arguments of a method, of whose frame everything is here.
pub fn arguments(frame: &[u8]) -> Fields<'_> {
    const METHOD_NUMBERS: usize = 4;
    let arguments = frame
        .get(FRAME_HEADER + METHOD_NUMBERS..frame.len().saturating_sub(1))
        .unwrap_or_default();
    Fields(arguments)
}

/// What a content header says: the body's size and the properties, still encoded.
///
/// # Errors
/// If it is cut short.
pub fn content_header(payload: &[u8]) -> Result<(u64, &[u8]), CutShort> {
    let mut fields = Fields(payload);
    let _class_and_weight = fields.u32()?;
    Ok((fields.u64()?, fields.0))
}

/// A method, or a content header, ends before its fields do.
#[derive(Clone, Copy, Debug)]
pub struct CutShort;

impl fmt::Display for CutShort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it sent a truncated method")
    }
}

impl From<CutShort> for io::Error {
    fn from(_: CutShort) -> Self {
        not_amqp()
    }
}

/// What comes out of step can't be AMQP.
pub fn not_amqp() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "received data that is not AMQP")
}

/// Reads the fields of a method's arguments, one after the other.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], CutShort> {
        let (field, rest) = self.0.split_first_chunk().ok_or(CutShort)?;
        self.0 = rest;
        Ok(*field)
    }

    /// The numbers of a method, with which its frame begins.
    pub fn method(&mut self) -> Result<Method, CutShort> {
        Ok((self.u16()?, self.u16()?))
    }

    /// The broker's reply code and its words, with which it closes something or returns a message.
    pub fn reply(&mut self) -> Result<(u16, String), CutShort> {
        let code = self.u16()?;
        let said = String::from_utf8_lossy(self.short_string()?).into_owned();
        Ok((code, said))
    }

    pub fn byte(&mut self) -> Result<u8, CutShort> {
        self.array().map(|[byte]| byte)
    }

    pub fn u16(&mut self) -> Result<u16, CutShort> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, CutShort> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, CutShort> {
        self.array().map(u64::from_be_bytes)
    }

    pub fn short_string(&mut self) -> Result<&'a [u8], CutShort> {
        let length = self.byte()?;
        self.take(usize::from(length))
    }

    pub fn long_string(&mut self) -> Result<&'a [u8], CutShort> {
        let length = self.u32()?;
        self.take(length as usize)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], CutShort> {
        let (field, rest) = self.0.split_at_checked(length).ok_or(CutShort)?;
        self.0 = rest;
        Ok(field)
    }
}
