//! A message as one object of JSON, and back, without loss.
//!
//! The names are those of RabbitMQ's management API (`payload`, `payload_encoding`, `properties`,
//! `routing_key`, …). A header is written as the JSON that it looks like where that tells its type:
//!
//! | JSON | AMQP |
//! |---|---|
//! | text | `longstr` |
//! | `true`, `false` | `bool` |
//! | number without fraction | `signedint` if it has 32 bits, else `long` |
//! | number with fraction or exponent | `double` |
//! | array, object, `null` | `array`, `table`, `void` |
//!
//! Everything else is an object that is tagged with RabbitMQ's name of the type:
//! `{"!amqp":"timestamp","value":1700000000}`, `{"!amqp":"binary","base64":"AAE="}`. What RabbitMQ has no
//! name for is `longlong` (the type `L`) or a `field`, with its bytes as AMQP carries them.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};
use std::ops::Range;

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use base64::{DecodeError, Engine};
use serde::Serialize;
use serde_json::ser::Formatter;

use super::amqp10::{self, Amqp10Value};
use super::json::{self, Json, JsonError, JsonReader};
use super::{FieldTable, FieldValue, Message, Properties, ShortString};
use crate::text;

/// The key that marks an object as a value of a certain type.
const TAG: &str = "!amqp";

/// The key that says what is missing, where a message could not be read as a whole.
const INCOMPLETE: &str = "incomplete";

/// The key of what a body from AMQP 1.0 holds, for whoever reads it.
const AMQP10_VALUE: &str = "amqp10_value";

/// What an envelope says of a message to send.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Envelope {
    /// The exchange, if it is said.
    pub exchange: Option<String>,
    /// The routing key, if it is said.
    pub routing_key: Option<String>,
    /// The properties.
    pub properties: Properties,
    /// The body.
    pub body: Vec<u8>,
}

impl From<Vec<u8>> for Envelope {
    /// A body of which nothing more is said.
    fn from(body: Vec<u8>) -> Self {
        Self {
            body,
            ..Self::default()
        }
    }
}

/// Writes a message as one line, without the line's end.
///
/// # Errors
/// Those of `out`.
pub fn write(message: &Message, out: &mut impl Write) -> io::Result<()> {
    write_with(message, None, out)
}

/// As [`write`], and adds what a body from AMQP 1.0 holds.
///
/// # Errors
/// Those of `out`.
pub fn write_decoded(message: &Message, out: &mut impl Write) -> io::Result<()> {
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
    out.write_all(b",\"properties\":")?;
    write_properties(&message.properties, out)?;
    if let Some(value) = value {
        write!(out, ",\"{AMQP10_VALUE}\":")?;
        write_amqp10(value, out)?;
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

/// Writes a value of AMQP 1.0 for a reader; types that JSON lacks are texts.
fn write_amqp10(value: &Amqp10Value, out: &mut impl Write) -> io::Result<()> {
    match value {
        Amqp10Value::Text(text) => write_text(text, out),
        Amqp10Value::Binary(bytes) => write_bytes("binary", bytes, out),
        Amqp10Value::List(values) => {
            out.write_all(b"[")?;
            for (index, value) in values.iter().enumerate() {
                out.write_all(if index > 0 { b"," } else { b"" })?;
                write_amqp10(value, out)?;
            }
            out.write_all(b"]")
        }
        Amqp10Value::Map(entries) => {
            // Where keys are no texts, it is a list of pairs.
            let is_object = entries
                .iter()
                .all(|(key, _)| matches!(key, Amqp10Value::Text(_)));
            let [open, colon, comma, close]: [&[u8]; 4] = if is_object {
                [b"{", b":", b",", b"}"]
            } else {
                [b"[[", b",", b"],[", b"]]"]
            };
            out.write_all(open)?;
            for (index, (key, value)) in entries.iter().enumerate() {
                out.write_all(if index > 0 { comma } else { b"" })?;
                write_amqp10(key, out)?;
                out.write_all(colon)?;
                write_amqp10(value, out)?;
            }
            out.write_all(close)
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

/// Escapes every character that can't be seen or could move a terminal's cursor, which JSON leaves
/// to the writer.
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

/// Writes a table as an object or, where an object can't hold it, as a tagged list of pairs.
///
/// # Errors
/// Those of `out`.
pub fn write_table(table: &FieldTable, out: &mut impl Write) -> io::Result<()> {
    if is_plain(table) {
        out.write_all(b"{")?;
        for (index, (name, value)) in table.entries().iter().enumerate() {
            if index > 0 {
                out.write_all(b",")?;
            }
            write_short(name, out)?;
            out.write_all(b":")?;
            write_value(value, out)?;
        }
        return out.write_all(b"}");
    }
    write!(out, "{{\"{TAG}\":\"table\",\"value\":[")?;
    for (index, (name, value)) in table.entries().iter().enumerate() {
        out.write_all(if index > 0 { b",[" } else { b"[" })?;
        write_short(name, out)?;
        out.write_all(b",")?;
        write_value(value, out)?;
        out.write_all(b"]")?;
    }
    out.write_all(b"]}")
}

/// Whether an object can hold a table: its names are texts, each stands once, and none is the tag.
fn is_plain(table: &FieldTable) -> bool {
    let mut names: Vec<_> = table.entries().iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    names
        .iter()
        .all(|name| name.as_str().is_some_and(|name| name != TAG))
        && names.windows(2).all(|pair| pair[0] != pair[1])
}

/// Writes the value of a header.
///
/// # Errors
/// Those of `out`.
pub fn write_value(value: &FieldValue, out: &mut impl Write) -> io::Result<()> {
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
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    out.write_all(b",")?;
                }
                write_value(value, out)?;
            }
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
            // As a double it is exact.
            tagged("float", format_args!("{:?}", f64::from(*value)), out)
        }
        // What JSON has no number for, and no RabbitMQ lets through: the bits, in hex.
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

/// Reads one line of JSON as a message to send. What a message has only once it was received
/// (`redelivered`, `payload_bytes`, `message_count`) is accepted and means nothing.
///
/// The body is made where the line stands, so that a long one is not in memory twice.
///
/// # Errors
/// Says what is wrong with it, so if it has a key that hello-mq does not know, or one twice: a property
/// that was misspelled must not get lost.
pub fn parse(mut line: Vec<u8>) -> Result<Envelope, String> {
    let Draft {
        mut envelope,
        payload,
        encoding,
    } = complete(Draft::read(&line), &line)?;
    let payload = payload.ok_or("has no payload")?;
    let length = json::unescape(&mut line[payload.clone()])
        .map_err(|(at, what)| json::not_json(what, payload.start + at))?;
    let length = match encoding.as_deref() {
        None | Some("string") => length,
        Some("base64") => decode_base64(&mut line[payload.start..payload.start + length])
            .map_err(|error| format!("payload is not base64: {error}"))?,
        Some(_) => return Err("payload_encoding is neither string nor base64".to_owned()),
    };
    line.truncate(payload.start + length);
    line.drain(..payload.start);
    envelope.body = line;
    Ok(envelope)
}

/// Finds what is wrong with a line of which only the beginning is here, so that a long one need not be
/// read any further.
///
/// # Errors
/// Says what is wrong with it.
pub fn check_beginning(line: &[u8]) -> Result<(), String> {
    match Draft::read(line) {
        Ok(_) | Err(JsonError::CutShort) => Ok(()),
        Err(JsonError::Wrong(problem)) => Err(problem),
    }
}

/// An envelope whose body is still where it stands in the line.
#[derive(Default)]
struct Draft {
    envelope: Envelope,
    payload: Option<Range<usize>>,
    encoding: Option<String>,
}

/// How many keys a line usually has.
const TYPICAL_KEY_COUNT: usize = 8;

impl Draft {
    fn read(line: &[u8]) -> Result<Self, JsonError> {
        let mut reader = JsonReader::new(line);
        if reader.peek()? != b'{' {
            return Err(JsonError::Wrong("is not a JSON object".to_owned()));
        }
        let mut draft = Self::default();
        let mut keys = Vec::with_capacity(TYPICAL_KEY_COUNT);
        reader.object(|reader, key| {
            if keys.contains(&key) {
                return Err(twice(&key).into());
            }
            draft.read_entry(reader, &key)?;
            keys.push(key);
            Ok(())
        })?;
        reader.end()?;
        Ok(draft)
    }

    fn read_entry(&mut self, reader: &mut JsonReader, key: &str) -> Result<(), JsonError> {
        let envelope = &mut self.envelope;
        match key {
            "exchange" => envelope.exchange = Some(address(key, reader.value()?)?),
            "routing_key" => envelope.routing_key = Some(address(key, reader.value()?)?),
            "properties" => envelope.properties = properties(reader.value()?)?,
            "payload" if reader.peek()? == b'"' => self.payload = Some(reader.raw()?.range()),
            "payload" => {
                if !b"[{".contains(&reader.peek()?) {
                    reader.skip()?;
                }
                return Err(format!("{key} {NO_TEXT}").into());
            }
            "payload_encoding" => self.encoding = Some(text_of(key, reader.value()?)?),
            INCOMPLETE => {
                let problem = text_of(key, reader.value()?)?;
                return Err(format!("is not the whole message: {}", text::escape(&problem)).into());
            }
            "redelivered" | "payload_bytes" | "message_count" | AMQP10_VALUE => reader.skip()?,
            _ => return Err(unknown("key", key).into()),
        }
        Ok(())
    }
}

/// The reason why reading JSON ended early.
fn complete<T>(read: Result<T, JsonError>, json: &[u8]) -> Result<T, String> {
    read.map_err(|fault| match fault {
        JsonError::CutShort => json::not_json("it ends too early", json.len()),
        JsonError::Wrong(problem) => problem,
    })
}

/// Decodes base64 where it stands. Returns how many bytes there are then.
fn decode_base64(text: &mut [u8]) -> Result<usize, DecodeError> {
    const DECODED: usize = 3 << 8;
    const ENCODED: usize = DECODED / 3 * 4;
    let mut decoded = [0; DECODED];
    let mut written = 0;
    for start in (0..text.len()).step_by(ENCODED) {
        let end = text.len().min(start + ENCODED);
        let length = STANDARD
            .decode_slice_unchecked(&text[start..end], &mut decoded)
            .map_err(|error| match error {
                DecodeError::InvalidByte(at, byte) => DecodeError::InvalidByte(start + at, byte),
                DecodeError::InvalidLastSymbol(at, byte) => {
                    DecodeError::InvalidLastSymbol(start + at, byte)
                }
                other => other,
            })?;
        if end < text.len() && length < DECODED {
            // It was padded, as only its end may be.
            return Err(DecodeError::InvalidByte(end - 1, text[end - 1]));
        }
        text[written..written + length].copy_from_slice(&decoded[..length]);
        written += length;
    }
    Ok(written)
}

/// Reads the value of a header.
///
/// # Errors
/// Says what is wrong with it.
pub fn parse_value(json: &[u8]) -> Result<FieldValue, String> {
    let mut reader = JsonReader::new(json);
    let read = reader.value().and_then(|value| {
        reader.end()?;
        Ok(value)
    });
    value(complete(read, json)?)
}

fn unknown(what: &str, name: &str) -> String {
    format!("unknown {what} '{}'", text::escape(name))
}

fn twice(name: &str) -> String {
    format!("has '{}' twice", text::escape(name))
}

fn text_of(name: &str, value: Json) -> Result<String, String> {
    match value {
        Json::Text(text) => Ok(text.into_owned()),
        _ => Err(format!("{name} {NO_TEXT}")),
    }
}

/// An exchange or a routing key.
fn address(name: &str, value: Json) -> Result<String, String> {
    let text = text_of(name, value)?;
    ShortString::check_length(&text).map_err(|problem| format!("{name} {problem}"))?;
    Ok(text)
}

fn properties(json: Json) -> Result<Properties, String> {
    let entries = match json {
        Json::Object(entries) => entries,
        // So the management API writes an object without entries.
        Json::Array(values) if values.is_empty() => Vec::new(),
        _ => return Err("properties is not an object".to_owned()),
    };
    let mut p = Properties::default();
    let mut known = Vec::with_capacity(entries.len());
    for (key, json) in entries {
        if known.contains(&key) {
            return Err(twice(&key));
        }
        let name = &*key;
        let within = |problem: String| format!("{name} {problem}");
        let number = |json: &Json| match *json {
            Json::Number(number) => Ok(number),
            _ => Err(format!("{name} is not a whole number")),
        };
        let byte = |json: &Json| {
            u8::try_from(number(json)?).map_err(|_| format!("{name} is not between 0 and 255"))
        };
        match name {
            "headers" => {
                p.headers = Some(match json {
                    Json::Array(values) if values.is_empty() => FieldTable::default(),
                    json => match value(json).map_err(within)? {
                        FieldValue::Table(table) => table,
                        _ => return Err("headers is not an object".to_owned()),
                    },
                });
            }
            "delivery_mode" => p.delivery_mode = Some(byte(&json)?),
            "priority" => p.priority = Some(byte(&json)?),
            "timestamp" => {
                let seconds = u64::try_from(number(&json)?);
                p.timestamp = Some(seconds.map_err(|_| "timestamp is before 1970")?);
            }
            _ => {
                let place = match name {
                    "content_type" => &mut p.content_type,
                    "content_encoding" => &mut p.content_encoding,
                    "correlation_id" => &mut p.correlation_id,
                    "reply_to" => &mut p.reply_to,
                    "expiration" => &mut p.expiration,
                    "message_id" => &mut p.message_id,
                    "type" => &mut p.kind,
                    "user_id" => &mut p.user_id,
                    "app_id" => &mut p.app_id,
                    "cluster_id" => &mut p.cluster_id,
                    _ => return Err(unknown("property", name)),
                };
                *place = Some(short(json).map_err(within)?);
            }
        }
        known.push(key);
    }
    Ok(p)
}

fn short(json: Json) -> Result<ShortString, String> {
    match json {
        Json::Text(text) => ShortString::new(text.into_owned()),
        Json::Object(entries) => match TypedObject::new(entries)? {
            TypedObject {
                tag,
                base64: Some(bytes),
                ..
            } if tag == "shortstr" => ShortString::new(bytes),
            _ => Err(NO_TEXT.to_owned()),
        },
        _ => Err(NO_TEXT.to_owned()),
    }
}

const NO_TEXT: &str = "is not a text in quotes";

/// RabbitMQ can't read such a header and ends the connection (`INTERNAL_ERROR`).
const NOT_FINITE: &str = "is more than a float can carry";

fn value(json: Json) -> Result<FieldValue, String> {
    Ok(match json {
        Json::Null => FieldValue::Void,
        Json::Bool(value) => FieldValue::Bool(value),
        Json::Number(number) => match (i32::try_from(number), i64::try_from(number)) {
            (Ok(number), _) => FieldValue::SignedInt(number),
            (_, Ok(number)) => FieldValue::Long(number),
            _ => return Err(json::not_in_64_bits(number)),
        },
        Json::Double(number) => FieldValue::Double(number),
        Json::Text(text) => FieldValue::LongString(text.into_owned().into_bytes()),
        Json::Array(values) => {
            FieldValue::Array(values.into_iter().map(value).collect::<Result<_, _>>()?)
        }
        Json::Object(entries) if entries.iter().any(|(key, _)| key == TAG) => {
            TypedObject::new(entries)?.value()?
        }
        Json::Object(entries) => FieldValue::Table(table(entries)?),
    })
}

/// A table as an object. One that has a name twice is written as a list of pairs.
fn table(entries: Vec<(Cow<str>, Json)>) -> Result<FieldTable, String> {
    let mut names: Vec<_> = entries.iter().map(|(name, _)| &**name).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(twice(pair[0]));
    }
    let entry = |(key, json): (Cow<str>, Json)| {
        let value = value(json).map_err(|problem| header(&key, &problem))?;
        let name = ShortString::new(key.into_owned())
            .map_err(|problem| format!("a header's name {problem}"))?;
        Ok((name, value))
    };
    entries.into_iter().map(entry).collect()
}

fn header(name: &str, problem: &str) -> String {
    format!("'{}': {problem}", text::escape(name))
}

/// An object that says of what type it is.
struct TypedObject<'l> {
    tag: Cow<'l, str>,
    value: Option<Json<'l>>,
    base64: Option<Vec<u8>>,
    scale: Option<i128>,
}

impl<'l> TypedObject<'l> {
    fn new(entries: Vec<(Cow<'l, str>, Json<'l>)>) -> Result<Self, String> {
        let mut tagged = Self {
            tag: Cow::default(),
            value: None,
            base64: None,
            scale: None,
        };
        let mut known = Vec::new();
        for (key, json) in entries {
            if known.contains(&key) {
                return Err(twice(&key));
            }
            match (&*key, json) {
                (TAG, Json::Text(text)) => tagged.tag = text,
                (TAG, _) => return Err(format!("{TAG} {NO_TEXT}")),
                ("value", json) => tagged.value = Some(json),
                ("base64", Json::Text(text)) => {
                    let bytes = STANDARD.decode(&*text);
                    tagged.base64 = Some(bytes.map_err(|error| format!("is not base64: {error}"))?);
                }
                ("scale", Json::Number(scale)) => tagged.scale = Some(scale),
                (key, _) => return Err(unknown("key", key)),
            }
            known.push(key);
        }
        Ok(tagged)
    }

    fn value(self) -> Result<FieldValue, String> {
        let tag = &*self.tag;
        let wrong = || format!("is no value of the type '{}'", text::escape(tag));
        if let Some(bytes) = self.base64 {
            return match tag {
                "binary" => Ok(FieldValue::Binary(bytes)),
                "longstr" => Ok(FieldValue::LongString(bytes)),
                "field" => {
                    FieldValue::decode(&bytes).map_err(|problem| format!("{}: {problem}", wrong()))
                }
                _ => Err(wrong()),
            };
        }
        let json = self.value.ok_or_else(wrong)?;
        let value = match tag {
            "byte" => integer(&json).map(FieldValue::Byte),
            "unsignedbyte" => integer(&json).map(FieldValue::UnsignedByte),
            "short" => integer(&json).map(FieldValue::Short),
            "unsignedshort" => integer(&json).map(FieldValue::UnsignedShort),
            "signedint" => integer(&json).map(FieldValue::SignedInt),
            "unsignedint" => integer(&json).map(FieldValue::UnsignedInt),
            "long" => integer(&json).map(FieldValue::Long),
            "longlong" => integer(&json).map(FieldValue::LongLong),
            "timestamp" => integer(&json).map(FieldValue::Timestamp),
            "decimal" => match (self.scale.map(u8::try_from), integer(&json)) {
                (Some(Ok(scale)), Some(value)) => Some(FieldValue::Decimal { scale, value }),
                _ => None,
            },
            // What was a float is one again; what was not is rounded as any would be.
            #[allow(clippy::cast_possible_truncation)]
            "float" => match json.double().map(|number| number as f32) {
                Some(number) if !number.is_finite() => return Err(NOT_FINITE.to_owned()),
                number => number.map(FieldValue::Float),
            },
            "double" => json.double().map(FieldValue::Double),
            "longstr" | "bool" | "void" | "array" => Some(value(json)?),
            "table" => return pairs(json),
            _ => return Err(unknown("type", tag)),
        };
        value.ok_or_else(wrong)
    }
}

fn integer<T: TryFrom<i128>>(json: &Json) -> Option<T> {
    match json {
        Json::Number(number) => T::try_from(*number).ok(),
        _ => None,
    }
}

/// A table as a list of pairs.
fn pairs(json: Json) -> Result<FieldValue, String> {
    let Json::Array(pairs) = json else {
        return Err("is no list of pairs".to_owned());
    };
    let pairs = pairs.into_iter().map(|pair| match pair {
        Json::Array(pair) => match <[Json; 2]>::try_from(pair) {
            Ok([name, json]) => Ok((short(name)?, value(json)?)),
            Err(_) => Err("is no list of pairs".to_owned()),
        },
        _ => Err("is no list of pairs".to_owned()),
    });
    pairs.collect::<Result<_, String>>().map(FieldValue::Table)
}

#[cfg(test)]
mod tests {
    use super::super::properties::tests::properties as any_properties;
    use super::*;
    use proptest::prelude::*;

    fn written(message: &Message) -> String {
        let mut out = Vec::new();
        write(message, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            properties in any_properties(),
            exchange in ".{0,20}",
            routing_key in ".{0,20}",
            body in prop_oneof![".{0,20}".prop_map(String::into_bytes), proptest::collection::vec(any::<u8>(), 0..20)],
        ) {
            let message = Message { exchange, routing_key, properties, body, ..Message::default() };
            let line = written(&message);
            prop_assert!(!line.contains(char::is_control), "{}", line);
            let expected = Envelope {
                exchange: Some(message.exchange),
                routing_key: Some(message.routing_key),
                properties: message.properties,
                body: message.body,
            };
            prop_assert_eq!(parse(line.clone().into_bytes()), Ok(expected), "{}", line);
            for end in 0..line.len() {
                prop_assert_eq!(check_beginning(&line.as_bytes()[..end]), Ok(()), "{}", line);
            }
        }

        #[test]
        fn nothing_that_is_read_panics(line in r#"[\[\]{}":,!a-z0-9.\\-]{0,60}"#) {
            let _ = parse(line.clone().into_bytes());
            let _ = parse(format!(r#"{{"payload":"","properties":{{"headers":{line}}}}}"#).into_bytes());
        }
    }

    #[test]
    fn the_names_are_those_of_the_management_api() {
        let message = Message {
            routing_key: "hello".to_owned(),
            properties: Properties {
                delivery_mode: Some(2),
                kind: ShortString::new("t").ok(),
                headers: Some(
                    [(ShortString::new("n").unwrap(), FieldValue::Long(1))]
                        .into_iter()
                        .collect(),
                ),
                ..Properties::default()
            },
            body: b"Hello \"World\"\n".to_vec(),
            ..Message::default()
        };
        assert_eq!(
            written(&message),
            r#"{"exchange":"","routing_key":"hello","redelivered":false,"properties":{"type":"t","delivery_mode":2,"headers":{"n":{"!amqp":"long","value":1}}},"payload_bytes":14,"payload":"Hello \"World\"\n","payload_encoding":"string"}"#
        );
        let message = Message {
            body: b"\xff\0".to_vec(),
            ..Message::default()
        };
        assert!(written(&message).ends_with(
            r#""properties":{},"payload_bytes":2,"payload":"/wA=","payload_encoding":"base64"}"#
        ));
    }

    #[test]
    fn what_the_management_api_prints_is_read() {
        let line = br#"{"payload_bytes":1,"redelivered":true,"exchange":"","routing_key":"q","message_count":0,"properties":[],"payload":"a","payload_encoding":"string"}"#;
        let envelope = parse(line.to_vec()).unwrap();
        assert_eq!(
            (envelope.body.as_slice(), envelope.properties),
            (&b"a"[..], Properties::default())
        );
        let line = br#"{"properties":{"headers":{"s":"x","i":1,"l":5000000000,"d":1.0,"a":[true,null]}},"payload":""}"#;
        let headers = parse(line.to_vec()).unwrap().properties.headers.unwrap();
        let values: Vec<_> = headers
            .entries()
            .iter()
            .map(|(_, value)| value.clone())
            .collect();
        assert_eq!(
            values,
            [
                FieldValue::LongString(b"x".to_vec()),
                FieldValue::SignedInt(1),
                FieldValue::Long(5_000_000_000),
                FieldValue::Double(1.0),
                FieldValue::Array(vec![FieldValue::Bool(true), FieldValue::Void]),
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_told() {
        let long = "x".repeat(256);
        let rows = [
            ("{", "is not JSON: it ends too early (column 2)"),
            ("", "is not JSON: it ends too early"),
            ("[1]", "is not a JSON object"),
            ("{}", "has no payload"),
            (r#"{"payload":1}"#, "payload is not a text in quotes"),
            (r#"{"payload":"","playload":1}"#, "unknown key 'playload'"),
            (r#"{"payload":"a","payload":"b"}"#, "has 'payload' twice"),
            (r#"{"payload":"","\u0070ayload":""}"#, "has 'payload' twice"),
            (
                r#"{"payload":"","properties":{"app_id":"a","app_id":"b"}}"#,
                "has 'app_id' twice",
            ),
            (
                r#"{"payload":"","properties":{"headers":{"a":1,"b":2,"a":1}}}"#,
                "headers has 'a' twice",
            ),
            (
                r#"{"payload":"","properties":{"headers":{"t":[{"a":1,"\u0061":2}]}}}"#,
                "has 'a' twice",
            ),
            (
                r#"{"payload":"","properties":{"headers":{"n":{"!amqp":"byte","value":1,"value":2}}}}"#,
                "has 'value' twice",
            ),
            (
                r#"{"payload":"\u00"}"#,
                "is not JSON: an escape is wrong (column 13)",
            ),
            (
                r#"{"payload":"\ud83d"}"#,
                "is not JSON: half a surrogate pair stands alone (column 13)",
            ),
            (
                r#"{"incomplete":"no \"properties\"","payload":""}"#,
                "is not the whole message: no \"properties\"",
            ),
            (
                r#"{"payload":"%","payload_encoding":"base64"}"#,
                "payload is not base64",
            ),
            (
                r#"{"payload":"","payload_encoding":"hex"}"#,
                "payload_encoding is neither",
            ),
            (
                r#"{"payload":"","properties":{"content-type":"a"}}"#,
                "unknown property 'content-type'",
            ),
            (
                r#"{"payload":"","properties":{"priority":256}}"#,
                "priority is not between 0 and 255",
            ),
            (
                r#"{"payload":"","properties":{"priority":"1"}}"#,
                "priority is not a whole number",
            ),
            (
                r#"{"payload":"","properties":{"app_id":5}}"#,
                "app_id is not a text",
            ),
            (
                r#"{"payload":"","properties":{"headers":{"n":18446744073709551615}}}"#,
                "headers 'n': 18446744073709551615 is more than",
            ),
            (
                r#"{"payload":"","properties":{"headers":{"n":18446744073709551616}}}"#,
                "headers 'n': 18446744073709551616 is more than AMQP can carry in 64 bits",
            ),
            (
                r#"{"payload":"","properties":{"timestamp":18446744073709551616}}"#,
                "timestamp",
            ),
            (
                r#"{"payload":"","properties":{"headers":{"n":{"!amqp":"field","base64":"Vgd0"}}}}"#,
                "'n': is no value of the type 'field'",
            ),
            (
                r#"{"payload":"","properties":{"headers":{"n":{"!amqp":"byte","value":300}}}}"#,
                "'n': is no value of the type 'byte'",
            ),
            (
                r#"{"payload":"","properties":{"headers":{"n":{"!amqp":"float","value":1e39}}}}"#,
                "'n': is more than a float can carry",
            ),
            (
                r#"{"payload":"","properties":{"headers":{"n":{"!amqp":"double","value":"7ff8000000000000"}}}}"#,
                "'n': is no value of the type 'double'",
            ),
            (
                r#"{"payload":"","properties":{"headers":{"n":1e999}}}"#,
                "the number is out of range",
            ),
            (
                r#"{"payload":"","properties":{"headers":{"n":{"!amqp":"qubit","value":1}}}}"#,
                "unknown type 'qubit'",
            ),
            (
                &format!(r#"{{"payload":"","exchange":"{long}"}}"#),
                "exchange can't be longer than 255",
            ),
            (
                &format!(r#"{{"payload":"","properties":{{"headers":{{"{long}":1}}}}}}"#),
                "a header's name can't be longer",
            ),
        ];
        for (line, problem) in rows {
            let error = parse(line.into()).unwrap_err();
            assert!(error.contains(problem), "{line}: {error}");
        }
    }

    #[test]
    fn a_long_body_is_decoded_where_it_stands() {
        for length in [0, 1, 2, 3, 3071, 3072, 3073, 3074, 6144, 100_000] {
            let body: Vec<u8> = (0..length)
                .map(|n: u32| n.wrapping_mul(2_654_435_761).to_be_bytes()[0] | 0x80)
                .collect();
            let message = Message {
                body: body.clone(),
                ..Message::default()
            };
            let line = written(&message);
            let escaped = line.replace('/', "\\/");
            for line in [line, escaped] {
                assert!(parse(line.into_bytes()).unwrap().body == body, "{length}");
            }
        }
        let encoded = "AAAA".repeat(2000);
        for (at, wrong, problem) in [
            (4090, "AA==", "Invalid symbol 61"),
            (4095, "=", "Invalid symbol 61, offset 4095"),
            (5000, "%", "Invalid symbol 37, offset 5000"),
            (7999, "", "Invalid padding"),
        ] {
            let mut payload = encoded.clone();
            payload.replace_range(at..payload.len().min(at + wrong.len().max(1)), wrong);
            let line = format!(r#"{{"payload_encoding":"base64","payload":"{payload}"}}"#);
            let error = parse(line.into_bytes()).unwrap_err();
            assert!(error.contains(problem), "{at} {wrong}: {error}");
        }
    }

    #[test]
    fn a_message_that_is_not_complete_is_not_sent() {
        let message = Message {
            incomplete: Some("the properties: they end too early".to_owned()),
            body: b"a".to_vec(),
            ..Message::default()
        };
        let error = parse(written(&message).into_bytes()).unwrap_err();
        assert_eq!(
            error,
            "is not the whole message: the properties: they end too early"
        );
    }

    #[test]
    fn what_is_wrong_is_found_before_the_line_ends() {
        let begun = |text: &str| check_beginning(text.as_bytes());
        let numbers = "1,".repeat(1 << 20);
        for (begin, problem) in [
            ("no JSON", "is not a JSON object"),
            (r#"{"playload":"#, "unknown key 'playload'"),
            (r#"{"payload":["#, "payload is not a text"),
            (r#"{"payload":"a" "#, ""),
            (r#"{"payload":"a";"#, "a ',' or a '}' has to follow"),
        ] {
            match begun(begin) {
                Ok(()) => assert_eq!(problem, ""),
                Err(error) => assert!(error.contains(problem), "{begin}: {error}"),
            }
        }
        for key in [r#""properties":{"headers":{"a":"#, r#""redelivered":"#] {
            let error = begun(&format!("{{{key}[{numbers}")).unwrap_err();
            assert!(error.contains("has more properties and headers"), "{error}");
        }
    }

    #[test]
    fn what_a_body_from_amqp_1_0_holds_is_added_and_left_aside() {
        let value = |encoded: &[u8]| {
            let message = Message {
                properties: Properties {
                    kind: ShortString::new("amqp-1.0").ok(),
                    ..Properties::default()
                },
                body: [b"\0\x53\x77", encoded].concat(),
                ..Message::default()
            };
            let mut line = Vec::new();
            write_decoded(&message, &mut line).unwrap();
            let read = parse(line.clone()).unwrap();
            assert_eq!(read.body, message.body);
            let line = String::from_utf8(line).unwrap();
            let value = line.split(r#""amqp10_value":"#).nth(1)?.to_owned();
            Some(value.split(r#","payload_bytes""#).next()?.to_owned())
        };
        for (encoded, expected) in [
            (&b"\xa1\x03a\n\""[..], Some(r#""a\n\"""#)),
            (
                b"\xa0\x02\xff\0",
                Some(r#"{"!amqp":"binary","base64":"/wA="}"#),
            ),
            (b"\x40", Some("null")),
            (b"\x71\xff\xff\xff\xff", Some("-1")),
            (b"\x72\x3f\xc0\0\0", Some("1.5")),
            (b"\x72\x7f\xc0\0\0", Some(r#""NaN""#)),
            (
                b"\x83\0\0\0\0\0\0\0\0",
                Some(r#""1970-01-01T00:00:00.000Z""#),
            ),
            (b"\xc1\x06\x02\xa1\x01k\x43", None),
            (b"\xc1\x05\x02\xa1\x01k\x43", Some(r#"{"k":0}"#)),
            (
                b"\xc1\x05\x04\x43\x41\x44\x42",
                Some("[[0,true],[0,false]]"),
            ),
            (b"\xc0\x03\x02\x43\x45", Some("[0,[]]")),
            (b"\xc1\x01\0", Some("{}")),
        ] {
            assert_eq!(value(encoded).as_deref(), expected, "{encoded:?}");
        }
    }
}
