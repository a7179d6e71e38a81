//! Writing a message, or the value of a header, as JSON.

use std::fmt;
use std::io::{self, Write};

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::ser::Formatter;

use super::amqp10::{self, Amqp10Value};
use super::{
    AMQP10_VALUE, DECODED, FieldTable, FieldValue, INCOMPLETE, Message, Properties, ShortString,
    TAG,
};
use crate::text;

/// Writes a message on one line, without a line break at the end.
pub fn write(message: &Message, out: &mut impl Write) -> io::Result<()> {
    write_with(message, None, out)
}

/// Writes a message like [`write`], with the decoded value of a body from AMQP 1.0.
pub(crate) fn write_decoded(message: &Message, out: &mut impl Write) -> io::Result<()> {
    write_with(message, amqp10::value_of(message).as_ref(), out)
}

fn write_with(
    message: &Message,
    value: Option<&Amqp10Value>,
    out: &mut impl Write,
) -> io::Result<()> {
    out.write_all(b"{")?;
    if let Some(problem) = &message.incomplete {
        write!(out, "\"{INCOMPLETE}\":")?;
        write_text(problem, out)?;
        out.write_all(b",")?;
    }
    out.write_all(b"\"exchange\":")?;
    write_text(&message.exchange, out)?;
    out.write_all(b",\"routing_key\":")?;
    write_text(&message.routing_key, out)?;
    write!(out, ",\"redelivered\":{}", message.redelivered)?;
    if let Some(received) = message.received {
        out.write_all(b",\"received_at\":\"")?;
        text::write_time(received, out)?;
        out.write_all(b"\"")?;
    }
    out.write_all(b",\"properties\":")?;
    write_properties(&message.properties, out)?;
    if let Some(value) = value {
        write!(out, ",\"{AMQP10_VALUE}\":")?;
        write_amqp10(value, out)?;
    }
    if let Some(encoding) = message.decoded {
        write!(out, ",\"{DECODED}\":\"{encoding}\"")?;
    }
    write!(out, ",\"payload_bytes\":{}", message.body.len())?;
    out.write_all(b",\"payload\":")?;
    match std::str::from_utf8(&message.body) {
        Ok(text) => {
            write_text(text, out)?;
            out.write_all(b",\"payload_encoding\":\"string\"}")
        }
        Err(_) => {
            write!(out, "\"{}\"", Base64Display::new(&message.body, &STANDARD))?;
            out.write_all(b",\"payload_encoding\":\"base64\"}")
        }
    }
}

/// Writes a value of AMQP 1.0. Types that JSON does not have become strings.
fn write_amqp10(value: &Amqp10Value, out: &mut impl Write) -> io::Result<()> {
    match value {
        Amqp10Value::Text(text) => write_text(text, out),
        Amqp10Value::Binary(bytes) => write_bytes("binary", bytes, out),
        Amqp10Value::List(values) => {
            out.write_all(b"[")?;
            text::write_separated(values, ",", out, write_amqp10)?;
            out.write_all(b"]")
        }
        Amqp10Value::Map(entries) => {
            // A map with other keys than strings is an array of pairs.
            let is_object = entries
                .iter()
                .all(|(key, _)| matches!(key, Amqp10Value::Text(_)));
            let [open, colon, comma, close] = if is_object {
                ["{", ":", ",", "}"]
            } else {
                ["[[", ",", "],[", "]]"]
            };
            out.write_all(open.as_bytes())?;
            text::write_separated(entries, comma, out, |(key, value), out| {
                write_amqp10(key, out)?;
                out.write_all(colon.as_bytes())?;
                write_amqp10(value, out)
            })?;
            out.write_all(close.as_bytes())
        }
        Amqp10Value::Null | Amqp10Value::Bool(_) | Amqp10Value::Number(_) => {
            out.write_all(value.simple().unwrap_or_default().as_bytes())
        }
        Amqp10Value::Float(number) if number.is_finite() => write!(out, "{number:?}"),
        Amqp10Value::Double(number) if number.is_finite() => write!(out, "{number:?}"),
        Amqp10Value::Float(_)
        | Amqp10Value::Double(_)
        | Amqp10Value::Timestamp(_)
        | Amqp10Value::Uuid(_) => write_text(&value.simple().unwrap_or_default(), out),
    }
}

fn write_text(text: &str, out: &mut impl Write) -> io::Result<()> {
    let mut serializer = serde_json::Serializer::with_formatter(out, EscapingFormatter);
    text.serialize(&mut serializer).map_err(io::Error::from)
}

/// A formatter that escapes each character that is invisible or could move the cursor of a terminal.
/// JSON permits but does not demand that.
struct EscapingFormatter;

impl Formatter for EscapingFormatter {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(text::is_invisible) {
            let (plain, after) = rest.split_at(at);
            out.write_all(plain.as_bytes())?;
            let mut characters = after.chars();
            for unit in characters
                .next()
                .iter()
                .flat_map(|c| c.encode_utf16(&mut [0; 2]).to_vec())
            {
                write!(out, "\\u{unit:04x}")?;
            }
            rest = characters.as_str();
        }
        out.write_all(rest.as_bytes())
    }
}

fn write_properties(properties: &Properties, out: &mut impl Write) -> io::Result<()> {
    let p = properties;
    let texts = [
        ("content_type", &p.content_type),
        ("content_encoding", &p.content_encoding),
        ("correlation_id", &p.correlation_id),
        ("reply_to", &p.reply_to),
        ("expiration", &p.expiration),
        ("message_id", &p.message_id),
        ("type", &p.kind),
        ("user_id", &p.user_id),
        ("app_id", &p.app_id),
        ("cluster_id", &p.cluster_id),
    ];
    let numbers = [
        ("delivery_mode", p.delivery_mode.map(u64::from)),
        ("priority", p.priority.map(u64::from)),
        ("timestamp", p.timestamp),
    ];
    let mut separator = "{";
    let mut name = |name: &str, out: &mut dyn Write| {
        write!(out, "{separator}\"{name}\":")?;
        separator = ",";
        io::Result::Ok(())
    };
    for (key, text) in texts {
        if let Some(text) = text {
            name(key, out)?;
            write_short(text, out)?;
        }
    }
    for (key, number) in numbers {
        if let Some(number) = number {
            name(key, out)?;
            write!(out, "{number}")?;
        }
    }
    if let Some(headers) = &p.headers {
        name("headers", out)?;
        write_table(headers, out)?;
    }
    out.write_all(if *p == Properties::default() {
        b"{}"
    } else {
        b"}"
    })
}

fn write_short(text: &ShortString, out: &mut impl Write) -> io::Result<()> {
    match text.as_str() {
        Some(text) => write_text(text, out),
        None => write_bytes("shortstr", text.as_bytes(), out),
    }
}

fn write_bytes(tag: &str, bytes: &[u8], out: &mut impl Write) -> io::Result<()> {
    let bytes = Base64Display::new(bytes, &STANDARD);
    write!(out, "{{\"{TAG}\":\"{tag}\",\"base64\":\"{bytes}\"}}")
}

/// Writes a table as an object or, if an object can't represent it, as a typed array of pairs.
pub(crate) fn write_table(table: &FieldTable, out: &mut impl Write) -> io::Result<()> {
    if is_plain(table) {
        out.write_all(b"{")?;
        text::write_separated(table.entries(), ",", out, |(name, value), out| {
            write_short(name, out)?;
            out.write_all(b":")?;
            write_value(value, out)
        })?;
        return out.write_all(b"}");
    }
    write!(out, "{{\"{TAG}\":\"table\",\"value\":[")?;
    text::write_separated(table.entries(), ",", out, |(name, value), out| {
        out.write_all(b"[")?;
        write_short(name, out)?;
        out.write_all(b",")?;
        write_value(value, out)?;
        out.write_all(b"]")
    })?;
    out.write_all(b"]}")
}

/// Whether an object can represent a table: its names are UTF-8 and unique, and none is [`TAG`].
fn is_plain(table: &FieldTable) -> bool {
    let mut names: Vec<_> = table.entries().iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    names
        .iter()
        .all(|name| name.as_str().is_some_and(|name| name != TAG))
        && names.windows(2).all(|pair| pair[0] != pair[1])
}

/// Writes the value of a header.
pub(crate) fn write_value(value: &FieldValue, out: &mut impl Write) -> io::Result<()> {
    let tagged = |tag: &str, value: fmt::Arguments, out: &mut dyn Write| {
        write!(out, "{{\"{TAG}\":\"{tag}\",\"value\":{value}}}")
    };
    match value {
        FieldValue::Bool(value) => write!(out, "{value}"),
        FieldValue::SignedInt(value) => write!(out, "{value}"),
        FieldValue::Long(value) if i32::try_from(*value).is_err() => write!(out, "{value}"),
        FieldValue::Double(value) if value.is_finite() => {
            serde_json::to_writer(out, value).map_err(io::Error::from)
        }
        FieldValue::Void => out.write_all(b"null"),
        FieldValue::LongString(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => write_text(text, out),
            Err(_) => write_bytes("longstr", bytes, out),
        },
        FieldValue::Array(values) => {
            out.write_all(b"[")?;
            text::write_separated(values, ",", out, write_value)?;
            out.write_all(b"]")
        }
        FieldValue::Table(table) => write_table(table, out),
        FieldValue::Byte(value) => tagged("byte", format_args!("{value}"), out),
        FieldValue::UnsignedByte(value) => tagged("unsignedbyte", format_args!("{value}"), out),
        FieldValue::Short(value) => tagged("short", format_args!("{value}"), out),
        FieldValue::UnsignedShort(value) => tagged("unsignedshort", format_args!("{value}"), out),
        FieldValue::UnsignedInt(value) => tagged("unsignedint", format_args!("{value}"), out),
        FieldValue::Long(value) => tagged("long", format_args!("{value}"), out),
        FieldValue::LongLong(value) => tagged("longlong", format_args!("{value}"), out),
        FieldValue::Timestamp(value) => tagged("timestamp", format_args!("{value}"), out),
        FieldValue::Float(value) if value.is_finite() => {
            // A double represents every float exactly.
            tagged("float", format_args!("{:?}", f64::from(*value)), out)
        }
        // JSON has no infinity and no NaN: the bits, in hexadecimal. No RabbitMQ lets them through.
        FieldValue::Float(value) => {
            tagged("float", format_args!("\"{:08x}\"", value.to_bits()), out)
        }
        FieldValue::Double(value) => {
            tagged("double", format_args!("\"{:016x}\"", value.to_bits()), out)
        }
        FieldValue::Decimal { scale, value } => write!(
            out,
            "{{\"{TAG}\":\"decimal\",\"scale\":{scale},\"value\":{value}}}"
        ),
        FieldValue::Binary(bytes) => write_bytes("binary", bytes, out),
        FieldValue::Encoded(field) => write_bytes("field", field, out),
    }
}
