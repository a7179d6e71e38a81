//! What the broker sends, sorted: methods for the client library, and messages, and what is said of
//! them, for us.

use std::io;
use std::time::SystemTime;

use super::frames::{self, FrameHeader};
use crate::message::{Message, Properties};
use crate::text;

/// What came on a channel.
#[derive(Debug)]
pub enum Arrival {
    /// A message for a consumer.
    Delivered(Content),
    /// A message that no queue took, and the broker's words for it.
    Returned(String, Content),
    /// The message that was asked for, if there is one.
    Got(Option<Content>),
    /// The broker has taken a message that was published, or will not.
    Confirmed(Confirm),
}

/// A message as it came.
#[derive(Debug)]
pub struct Content {
    /// What settles it; 0 if it need not be settled.
    pub tag: u64,
    /// The message.
    pub message: Message,
    /// What of it could not be read, and is left out.
    pub problem: Option<String>,
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

/// Follows the frames that come, and sorts them.
///
/// The library believes whatever size a frame's header gives, and reserves that much memory.
pub struct Reader {
    frame_max: usize,
    /// The channel for messages; `None` if there is none, or it is closed.
    pub channel: Option<u16>,
    /// How many limits were set on it by us, of which the library knows nothing, and are not answered.
    pub limits: usize,
    /// Nobody wants to know what comes on it.
    pub is_ignored: bool,
    /// What came on it and has to do with messages.
    pub arrivals: Vec<Arrival>,
    /// The message that is coming.
    content: Option<Coming>,
    /// How many bytes of a body's frame are still to come, its end included.
    body: usize,
}

/// A message of which something is still to come.
struct Coming {
    channel: u16,
    arrival: Arrival,
    /// How many bytes of the body are to come; `None` before the content header.
    left: Option<u64>,
}

impl Coming {
    fn content(&mut self) -> Option<&mut Content> {
        match &mut self.arrival {
            Arrival::Delivered(content)
            | Arrival::Returned(_, content)
            | Arrival::Got(Some(content)) => Some(content),
            Arrival::Got(None) | Arrival::Confirmed(_) => None,
        }
    }
}

/// The most bytes that are set aside for a body because its header says so. RabbitMQ's own limit is
/// 128 MiB, or what its operator makes of it.
const RESERVED: usize = 128 << 20;

impl Reader {
    /// Where no frame is longer than that.
    pub fn new(frame_max: usize) -> Self {
        Self {
            frame_max,
            channel: None,
            limits: 0,
            is_ignored: false,
            arrivals: Vec::new(),
            content: None,
            body: 0,
        }
    }

    /// Sorts what is there: methods for the library are added to `out`, all that has to do with
    /// messages to the arrivals. Returns how many bytes are dealt with; the rest is the beginning of a
    /// frame.
    pub fn read(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<usize> {
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
            match header.kind {
                frames::HEADER => self.read_content_header(header.channel, payload)?,
                frames::METHOD if self.read_method(header.channel, payload)? => {}
                _ => out.extend_from_slice(frame),
            }
            at += frame.len();
        }
    }

    /// Deals with a method if it has to do with messages, and says whether it has.
    fn read_method(&mut self, channel: u16, payload: &[u8]) -> io::Result<bool> {
        let mut fields = frames::Fields(payload);
        let method = (fields.u16()?, fields.u16()?);
        let arrival = match method {
            frames::BASIC_DELIVER => {
                let _consumer_tag = fields.short_string()?;
                Arrival::Delivered(addressed(&mut fields)?)
            }
            frames::BASIC_GET_OK => Arrival::Got(Some(addressed(&mut fields)?)),
            frames::BASIC_RETURN => {
                let code = fields.u16()?;
                let said = text::one_line(&String::from_utf8_lossy(fields.short_string()?));
                let content = unsettled(&mut fields)?;
                Arrival::Returned(format!("{code} {said}"), content)
            }
            frames::BASIC_GET_EMPTY => Arrival::Got(None),
            frames::BASIC_ACK | frames::BASIC_NACK => Arrival::Confirmed(Confirm {
                tag: fields.u64()?,
                multiple: fields.byte()? & 1 != 0,
                is_ack: method == frames::BASIC_ACK,
            }),
            frames::BASIC_QOS_OK if self.limits > 0 && self.channel == Some(channel) => {
                self.limits -= 1;
                return Ok(true);
            }
            frames::CHANNEL_CLOSE if self.channel == Some(channel) => {
                self.channel = None;
                return Ok(false);
            }
            frames::CONNECTION_CLOSE => {
                self.channel = None;
                return Ok(false);
            }
            _ => return Ok(false),
        };
        let mut coming = Coming {
            channel,
            arrival,
            left: None,
        };
        if coming.content().is_none() {
            self.keep(coming);
        } else if self.content.replace(coming).is_some() {
            // There is one user of messages on a connection, so they come one after the other.
            return Err(frames::not_amqp());
        }
        Ok(true)
    }

    fn read_content_header(&mut self, channel: u16, payload: &[u8]) -> io::Result<()> {
        let (length, properties) = frames::content_header(payload)?;
        let coming = self.content.as_mut().ok_or_else(frames::not_amqp)?;
        let is_due = coming.channel == channel && coming.left.is_none();
        let content = coming.content().filter(|_| is_due);
        let content = content.ok_or_else(frames::not_amqp)?;
        match Properties::decode(properties) {
            Ok(properties) => content.message.properties = properties,
            Err(problem) => content.problem = Some(format!("the properties: {problem}")),
        }
        let reserved = usize::try_from(length).unwrap_or(RESERVED).min(RESERVED);
        content.message.body = Vec::with_capacity(reserved);
        coming.left = Some(length);
        self.finish();
        Ok(())
    }

    fn begin_body(&mut self, header: FrameHeader) -> io::Result<()> {
        let coming = self.content.as_mut().ok_or_else(frames::not_amqp)?;
        let left = coming.left.ok_or_else(frames::not_amqp)?;
        let left = left.checked_sub(header.size as u64);
        if coming.channel != header.channel || left.is_none() {
            return Err(frames::not_amqp());
        }
        coming.left = left;
        self.body = header.size + 1;
        Ok(())
    }

    /// Takes what is there of a body's frame, and returns how many bytes that is.
    fn read_body(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = &bytes[..bytes.len().min(self.body - 1)];
        if let Some(content) = self.content.as_mut().and_then(Coming::content) {
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

    /// Hands the message over if nothing of it is to come any more.
    fn finish(&mut self) {
        if let Some(coming) = self.content.take_if(|coming| coming.left == Some(0)) {
            self.keep(coming);
        }
    }

    fn keep(&mut self, coming: Coming) {
        if self.channel == Some(coming.channel) && !self.is_ignored {
            self.arrivals.push(coming.arrival);
        }
    }
}

/// A message that is to be settled.
fn addressed(fields: &mut frames::Fields) -> io::Result<Content> {
    let tag = fields.u64()?;
    let redelivered = fields.byte()? & 1 != 0;
    let mut content = unsettled(fields)?;
    content.tag = tag;
    content.message.redelivered = redelivered;
    Ok(content)
}

fn unsettled(fields: &mut frames::Fields) -> io::Result<Content> {
    let mut problem = None;
    let mut name = |what: &str, bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(name) => name.to_owned(),
        Err(_) => {
            problem = Some(format!("what is not UTF-8 in the {what}"));
            String::from_utf8_lossy(bytes).into_owned()
        }
    };
    Ok(Content {
        tag: 0,
        message: Message {
            exchange: name("exchange", fields.short_string()?),
            routing_key: name("routing key", fields.short_string()?),
            received: Some(SystemTime::now()),
            ..Message::default()
        },
        problem,
    })
}
