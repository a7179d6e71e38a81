//! Reading a message, or the value of a header, from JSON.

use std::borrow::Cow;
use std::ops::Range;
use std::time::SystemTime;

use base64::engine::general_purpose::STANDARD;
use base64::{DecodeError, Engine};

use super::json::{self, Json, JsonError, JsonReader};
use super::{
    AMQP10_VALUE, ContentEncoding, DECODED, Envelope, FieldTable, FieldValue, INCOMPLETE,
    Properties, ShortString, TAG,
};
use crate::text;

/// Reads one line of JSON as a message to send. The keys that only a received message has
/// (`redelivered`, `payload_bytes`, `message_count`) are ignored, except for `received_at`.
///
/// The body is decoded in place, so that a long one is in memory only once. A payload that `receive`
/// decoded is encoded again.
///
/// # Errors
/// The problem of the line. Unknown and repeated keys are errors, so that a misspelled property is
/// not lost.
pub fn parse(mut line: Vec<u8>) -> Result<Envelope, String> {
    let ParsedLine {
        mut envelope,
        payload,
        encoding,
        decoded,
    } = complete(ParsedLine::read(&line), &line)?;
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
    envelope.body = match decoded {
        None => line,
        Some(encoding) => encoding
            .encode(&line)
            .map_err(|error| format!("payload can't be encoded as {encoding}: {error}"))?,
    };
    Ok(envelope)
}

/// Checks the beginning of a line that has not been read to its end, so that a long line with an error
/// need not be.
pub(crate) fn check_beginning(line: &[u8]) -> Result<(), String> {
    match ParsedLine::read(line) {
        Ok(_) | Err(JsonError::Truncated) => Ok(()),
        Err(JsonError::Invalid(problem)) => Err(problem),
    }
}

/// An envelope whose body has not been decoded yet.
#[derive(Default)]
struct ParsedLine {
    envelope: Envelope,
    /// The position of the body in the line.
    payload: Option<Range<usize>>,
    encoding: Option<String>,
    /// The encoding in which the body is sent.
    decoded: Option<ContentEncoding>,
}

/// The usual number of keys of a line.
const TYPICAL_KEY_COUNT: usize = 8;

impl ParsedLine {
    fn read(line: &[u8]) -> Result<Self, JsonError> {
        let mut reader = JsonReader::new(line);
        if reader.peek()? != b'{' {
            return Err(JsonError::Invalid("is not a JSON object".to_owned()));
        }
        let mut parsed = Self::default();
        let mut keys = Vec::with_capacity(TYPICAL_KEY_COUNT);
        reader.object(|reader, key| {
            if keys.contains(&key) {
                return Err(repeated(&key).into());
            }
            parsed.read_entry(reader, &key)?;
            keys.push(key);
            Ok(())
        })?;
        reader.end()?;
        Ok(parsed)
    }

    fn read_entry(&mut self, reader: &mut JsonReader, key: &str) -> Result<(), JsonError> {
        let envelope = &mut self.envelope;
        match key {
            "exchange" => envelope.exchange = Some(name(key, reader.value()?)?),
            "routing_key" => envelope.routing_key = Some(name(key, reader.value()?)?),
            "properties" => envelope.properties = properties(reader.value()?)?,
            "payload" if reader.peek()? == b'"' => self.payload = Some(reader.raw()?.range()),
            "payload" => {
                if !b"[{".contains(&reader.peek()?) {
                    reader.skip()?;
                }
                return Err(format!("{key} {NOT_A_TEXT}").into());
            }
            "received_at" => envelope.received_at = Some(moment(key, reader.value()?)?),
            "payload_encoding" => self.encoding = Some(text_of(key, reader.value()?)?),
            DECODED => {
                let encoding = text_of(key, reader.value()?)?.parse();
                self.decoded = Some(encoding.map_err(|problem| format!("{key} {problem}"))?);
            }
            INCOMPLETE => {
                let problem = text_of(key, reader.value()?)?;
                return Err(format!("is incomplete: {}", text::escape(&problem)).into());
            }
            "redelivered" | "payload_bytes" | "message_count" | AMQP10_VALUE => reader.skip()?,
            _ => return Err(unknown("key", key).into()),
        }
        Ok(())
    }
}

/// Turns an error of the JSON reader into a message; `json` is complete.
fn complete<T>(read: Result<T, JsonError>, json: &[u8]) -> Result<T, String> {
    read.map_err(|error| match error {
        JsonError::Truncated => json::not_json("unexpected end", json.len()),
        JsonError::Invalid(problem) => problem,
    })
}

/// Decodes base64 in place, and returns the number of decoded bytes.
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
            // Only the end may be padded.
            return Err(DecodeError::InvalidByte(end - 1, text[end - 1]));
        }
        text[written..written + length].copy_from_slice(&decoded[..length]);
        written += length;
    }
    Ok(written)
}

/// Reads the value of a header.
pub(crate) fn parse_value(json: &[u8]) -> Result<FieldValue, String> {
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

fn repeated(name: &str) -> String {
    format!("has the key '{}' twice", text::escape(name))
}

fn text_of(name: &str, value: Json) -> Result<String, String> {
    match value {
        Json::Text(text) => Ok(text.into_owned()),
        _ => Err(format!("{name} {NOT_A_TEXT}")),
    }
}

/// Returns the name of an exchange, or a routing key.
fn name(key: &str, value: Json) -> Result<String, String> {
    let text = text_of(key, value)?;
    ShortString::check_length(&text).map_err(|problem| format!("{key} {problem}"))?;
    Ok(text)
}

/// Returns a moment written according to RFC 3339, in UTC.
fn moment(key: &str, value: Json) -> Result<SystemTime, String> {
    let text = text_of(key, value)?;
    humantime::parse_rfc3339(&text)
        .map_err(|_| format!("{key} is not a time like 2025-12-31T23:59:59.123456Z"))
}

fn properties(json: Json) -> Result<Properties, String> {
    let entries = match json {
        Json::Object(entries) => entries,
        // The management API writes an empty object as an empty array.
        Json::Array(values) if values.is_empty() => Vec::new(),
        _ => return Err("properties is not an object".to_owned()),
    };
    let mut p = Properties::default();
    let mut known = Vec::with_capacity(entries.len());
    for (key, json) in entries {
        if known.contains(&key) {
            return Err(repeated(&key));
        }
        let name = &*key;
        let within = |problem: String| format!("{name} {problem}");
        let number = |json: &Json| match *json {
            Json::Number(number) => Ok(number),
            _ => Err(format!("{name} is not an integer")),
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
                let property = match name {
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
                *property = Some(short(json).map_err(within)?);
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
            _ => Err(NOT_A_TEXT.to_owned()),
        },
        _ => Err(NOT_A_TEXT.to_owned()),
    }
}

const NOT_A_TEXT: &str = "is not a string";

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

/// Reads a table from an object. A table with repeated names is an array of pairs.
fn table(entries: Vec<(Cow<str>, Json)>) -> Result<FieldTable, String> {
    let mut names: Vec<_> = entries.iter().map(|(name, _)| &**name).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(repeated(pair[0]));
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

/// An object that names the type of the value that it represents.
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
                return Err(repeated(&key));
            }
            match (&*key, json) {
                (TAG, Json::Text(text)) => tagged.tag = text,
                (TAG, _) => return Err(format!("{TAG} {NOT_A_TEXT}")),
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
        let wrong = || format!("is not a value of type '{}'", text::escape(tag));
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
            // A float that was written as a double becomes the same float.
            #[allow(clippy::cast_possible_truncation)]
            "float" => match json.double().map(|number| number as f32) {
                // RabbitMQ can't read an infinite number and ends the connection (`INTERNAL_ERROR`).
                Some(number) if !number.is_finite() => {
                    return Err("is out of range for a float".to_owned());
                }
                number => number.map(FieldValue::Float),
            },
            "double" => json.double().map(FieldValue::Double),
            "longstr" | "bool" | "void" | "array" => Some(value(json)?),
            "table" => return table_of_pairs(json),
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

/// Reads a table from an array of pairs.
fn table_of_pairs(json: Json) -> Result<FieldValue, String> {
    let Json::Array(pairs) = json else {
        return Err("is not a list of pairs".to_owned());
    };
    let pairs = pairs.into_iter().map(|pair| match pair {
        Json::Array(pair) => match <[Json; 2]>::try_from(pair) {
            Ok([name, json]) => Ok((short(name)?, value(json)?)),
            Err(_) => Err("is not a list of pairs".to_owned()),
        },
        _ => Err("is not a list of pairs".to_owned()),
    });
    pairs.collect::<Result<_, String>>().map(FieldValue::Table)
}
