//! Content headers pass the client library unread.
//!
//! The library takes a message's properties apart and can't put all of them together again: a
//! header that is not UTF-8 ends the table without a word, a property that is not ends the
//! connection, and some types become others. So it never sees them. What comes in is wrapped into
//! the value of one header before the library reads it, and what goes out is unwrapped after the
//! library has written it; [`super::stream`] does both.

use amiquip::{AmqpProperties, AmqpValue, Delivery, FieldTable};
use log::warn;

use super::Session;
use crate::message::{Message, Properties};
use std::io;
use std::time::SystemTime;

/// The kind of a frame that holds a content header.
pub const CONTENT_HEADER: u8 = 2;

/// A frame's kind, channel and size.
pub const FRAME_HEADER: usize = 7;

const FRAME_END: u8 = 0xce;

/// Class, weight and body size: what stands before the property flags.
const BEFORE_FLAGS: usize = 12;

/// The flags of a content header that has the property `headers` and no other.
const HEADERS_ONLY: [u8; 2] = [0x20, 0];

/// Before the wrapped properties: the flags, the table's length, an empty name, the type `x`, and the
/// value's length.
const WRAPPER: usize = 2 + 4 + 1 + 1 + 4;

/// Properties for the library to send.
pub fn wrapped(properties: &Properties) -> AmqpProperties {
    let mut table = FieldTable::new();
    table.insert(String::new(), AmqpValue::ByteArray(properties.encode()));
    AmqpProperties::default().with_headers(table)
}

/// The properties that the library received.
///
/// # Errors
/// Says what about them is not AMQP.
pub fn unwrapped(properties: &AmqpProperties) -> Result<Properties, String> {
    match properties
        .headers()
        .as_ref()
        .and_then(|table| table.get(""))
    {
        Some(AmqpValue::ByteArray(raw)) => Properties::decode(raw),
        _ => Err("they are missing".to_owned()),
    }
}

/// How many bytes of properties the broker takes: all of them stand in one frame.
pub fn most(session: &Session) -> usize {
    session.frame_max - FRAME_HEADER - BEFORE_FLAGS - 1
}

/// The message that was delivered. Its body moves out of the delivery.
pub fn received(delivery: &mut Delivery, session: &Session) -> Message {
    let properties = unwrapped(&delivery.properties).unwrap_or_else(|problem| {
        let note =
            format!("the properties of a message can't be read, and are left out: {problem}");
        warn!("{note}");
        session.connector.talk.note(&note);
        Properties::default()
    });
    Message {
        exchange: std::mem::take(&mut delivery.exchange),
        routing_key: std::mem::take(&mut delivery.routing_key),
        redelivered: delivery.redelivered,
        properties,
        body: std::mem::take(&mut delivery.body),
        received: Some(SystemTime::now()),
    }
}

/// Adds to `out` the frame of a content header with its properties wrapped.
///
/// # Errors
/// If it is no such frame.
pub fn wrap(frame: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let payload = payload(frame)?;
    let (before, raw) = payload.split_at(BEFORE_FLAGS);
    out.extend(&frame[..3]);
    out.extend(length(payload.len() + WRAPPER));
    out.extend(before);
    out.extend(HEADERS_ONLY);
    out.extend(length(raw.len() + WRAPPER - 6));
    out.extend([0, b'x']);
    out.extend(length(raw.len()));
    out.extend(raw);
    out.push(FRAME_END);
    Ok(())
}

/// Adds to `out` the frame of a content header whose properties [`wrapped`] wrapped, without the
/// wrapper.
///
/// # Errors
/// If it is no such frame.
pub fn unwrap(frame: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let payload = payload(frame)?;
    let raw = payload
        .get(BEFORE_FLAGS + WRAPPER..)
        .ok_or_else(no_content_header)?;
    out.extend(&frame[..3]);
    out.extend(length(BEFORE_FLAGS + raw.len()));
    out.extend(&payload[..BEFORE_FLAGS]);
    out.extend(raw);
    out.push(FRAME_END);
    Ok(())
}

fn payload(frame: &[u8]) -> io::Result<&[u8]> {
    match frame {
        [CONTENT_HEADER, .., FRAME_END] if frame.len() > FRAME_HEADER + BEFORE_FLAGS + 2 => {
            Ok(&frame[FRAME_HEADER..frame.len() - 1])
        }
        _ => Err(no_content_header()),
    }
}

fn no_content_header() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "what came is not AMQP")
}

/// A length as AMQP writes it. What is longer than a frame can be never comes here.
fn length(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// The frame of a content header with these property flags and properties.
    pub fn frame(raw: &[u8]) -> Vec<u8> {
        let payload = [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5][..], raw].concat();
        [
            &[CONTENT_HEADER, 0, 1][..],
            &length(payload.len()),
            &payload,
            &[FRAME_END],
        ]
        .concat()
    }

    #[test]
    fn what_is_wrapped_is_one_header_and_comes_out_again() {
        for raw in [&[0, 0][..], &[0x10, 0, 2], &[0xff; 300]] {
            let mut inside = Vec::new();
            wrap(&frame(raw), &mut inside).unwrap();
            let size = u32::from_be_bytes(inside[3..7].try_into().unwrap());
            assert_eq!(inside.len(), FRAME_HEADER + size as usize + 1);
            let seen = Properties::decode(&inside[19..inside.len() - 1]).unwrap();
            let headers = seen.headers.clone().unwrap();
            assert_eq!(
                headers.get(b""),
                Some(&crate::message::Value::Binary(raw.to_vec()))
            );
            let mut outside = Vec::new();
            unwrap(&inside, &mut outside).unwrap();
            assert_eq!(outside, frame(raw));
        }
    }

    #[test]
    fn the_library_is_given_what_it_gives_back() {
        let properties = Properties {
            priority: Some(7),
            ..Properties::default()
        };
        assert_eq!(unwrapped(&wrapped(&properties)), Ok(properties));
        assert!(unwrapped(&AmqpProperties::default()).is_err());
    }

    #[test]
    fn what_is_no_content_header_is_refused() {
        let mut wrong_end = frame(&[0, 0]);
        *wrong_end.last_mut().unwrap() = 0;
        for wrong in [&[][..], &[2], &frame(&[0]), &frame(&[]), &wrong_end] {
            assert!(wrap(wrong, &mut Vec::new()).is_err());
        }
        assert!(unwrap(&frame(&[0x20, 0, 0, 0]), &mut Vec::new()).is_err());
    }
}
