//! Bodies of messages that were published over AMQP 1.0 as values instead of plain bytes.
//!
//! RabbitMQ delivers such a body in the encoding of AMQP 1.0, with the type [`AMQP10_TYPE`]
//! (<https://www.rabbitmq.com/docs/conversions>). The encoding: AMQP 1.0 specification, part 1, section
//! 1.6, and part 3, sections 3.2.6 to 3.2.9.

use std::borrow::Cow;
use std::io::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

use super::Message;
use crate::text;

/// The type property of messages with an encoded body.
const AMQP10_TYPE: &[u8] = b"amqp-1.0";

/// A decoded body.
#[derive(Clone, Debug, PartialEq)]
pub enum Amqp10Value<'b> {
    Null,
    Bool(bool),
    /// A whole number of any type.
    Number(i128),
    Float(f32),
    Double(f64),
    /// A string, a symbol or a character.
    Text(Cow<'b, str>),
    Binary(Cow<'b, [u8]>),
    /// Milliseconds since 1970.
    Timestamp(i64),
    Uuid([u8; 16]),
    /// A list or an array.
    List(Vec<Amqp10Value<'b>>),
    Map(Vec<(Amqp10Value<'b>, Amqp10Value<'b>)>),
}

/// The maximum depth of nested lists and maps.
const AMQP10_MAX_DEPTH: usize = 32;

/// The maximum number of values in a body, because a few bytes can encode any number of them.
const AMQP10_MAX_VALUES: usize = 100_000;

/// Decodes the body of a message, if it has the encoding of AMQP 1.0 and only known types.
pub fn value_of(message: &Message) -> Option<Amqp10Value<'_>> {
    let kind = message.properties.kind.as_ref()?;
    (kind.as_bytes() == AMQP10_TYPE).then(|| decode(&message.body))?
}

/// Decodes the sections of a body: a value, data or sequences, and possibly a footer.
fn decode(body: &[u8]) -> Option<Amqp10Value<'_>> {
    let mut reader = Amqp10Reader {
        rest: body,
        left: AMQP10_MAX_VALUES,
    };
    let mut whole = None;
    while !reader.rest.is_empty() {
        let section = reader.section()?;
        let value = reader.value(0)?;
        whole = Some(match (section, whole, value) {
            (Section::Value, None, value) => value,
            (Section::Data, None, data @ Amqp10Value::Binary(_)) => data,
            (Section::Data, Some(Amqp10Value::Binary(mut data)), Amqp10Value::Binary(more)) => {
                data.to_mut().extend_from_slice(&more);
                Amqp10Value::Binary(data)
            }
            (Section::Sequence, None, sequence @ Amqp10Value::List(_)) => sequence,
            (Section::Sequence, Some(Amqp10Value::List(mut values)), Amqp10Value::List(more)) => {
                values.extend(more);
                Amqp10Value::List(values)
            }
            (Section::Footer, Some(whole), _) => whole,
            _ => return None,
        });
    }
    whole
}

#[derive(Clone, Copy)]
enum Section {
    Data,
    Sequence,
    Value,
    Footer,
}

struct Amqp10Reader<'b> {
    rest: &'b [u8],
    /// The number of values that are still allowed.
    left: usize,
}

impl<'b> Amqp10Reader<'b> {
    fn take(&mut self, length: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    /// Reads a size or a count, in one byte or in four.
    fn size(&mut self, is_short: bool) -> Option<usize> {
        if is_short {
            return self.byte().map(usize::from);
        }
        usize::try_from(u32::from_be_bytes(self.array()?)).ok()
    }

    /// Reads the descriptor of a section.
    fn section(&mut self) -> Option<Section> {
        if self.byte()? != 0 {
            return None;
        }
        Some(match self.value(0)? {
            Amqp10Value::Number(0x75) => Section::Data,
            Amqp10Value::Number(0x76) => Section::Sequence,
            Amqp10Value::Number(0x77) => Section::Value,
            Amqp10Value::Number(0x78) => Section::Footer,
            Amqp10Value::Text(name) => match &*name {
                "amqp:data:binary" => Section::Data,
                "amqp:amqp-sequence:list" => Section::Sequence,
                "amqp:amqp-value:*" => Section::Value,
                "amqp:footer:map" => Section::Footer,
                _ => return None,
            },
            _ => return None,
        })
    }

    fn value(&mut self, depth: usize) -> Option<Amqp10Value<'b>> {
        let kind = self.byte()?;
        self.value_of_kind(kind, depth)
    }

    fn value_of_kind(&mut self, kind: u8, depth: usize) -> Option<Amqp10Value<'b>> {
        self.left = self.left.checked_sub(1)?;
        Some(match kind {
            0x40 => Amqp10Value::Null,
            0x41 => Amqp10Value::Bool(true),
            0x42 => Amqp10Value::Bool(false),
            0x56 => Amqp10Value::Bool(self.byte()? != 0),
            0x43 | 0x44 => Amqp10Value::Number(0),
            0x50 | 0x52 | 0x53 => Amqp10Value::Number(self.byte()?.into()),
            0x60 => Amqp10Value::Number(u16::from_be_bytes(self.array()?).into()),
            0x70 => Amqp10Value::Number(u32::from_be_bytes(self.array()?).into()),
            0x80 => Amqp10Value::Number(u64::from_be_bytes(self.array()?).into()),
            0x51 | 0x54 | 0x55 => Amqp10Value::Number(i8::from_be_bytes(self.array()?).into()),
            0x61 => Amqp10Value::Number(i16::from_be_bytes(self.array()?).into()),
            0x71 => Amqp10Value::Number(i32::from_be_bytes(self.array()?).into()),
            0x81 => Amqp10Value::Number(i64::from_be_bytes(self.array()?).into()),
            0x72 => Amqp10Value::Float(f32::from_be_bytes(self.array()?)),
            0x82 => Amqp10Value::Double(f64::from_be_bytes(self.array()?)),
            0x73 => {
                let character = char::from_u32(u32::from_be_bytes(self.array()?))?;
                Amqp10Value::Text(character.to_string().into())
            }
            0x83 => Amqp10Value::Timestamp(i64::from_be_bytes(self.array()?)),
            0x98 => Amqp10Value::Uuid(self.array()?),
            0xa0 | 0xb0 => Amqp10Value::Binary(self.bytes(kind)?.into()),
            0xa1 | 0xa3 | 0xb1 | 0xb3 => {
                Amqp10Value::Text(std::str::from_utf8(self.bytes(kind)?).ok()?.into())
            }
            0x45 => Amqp10Value::List(Vec::new()),
            0xc0 | 0xc1 | 0xd0 | 0xd1 | 0xe0 | 0xf0 if depth < AMQP10_MAX_DEPTH => {
                self.compound(kind, depth + 1)?
            }
            // A decimal, a described value, or an unknown type.
            _ => return None,
        })
    }

    fn bytes(&mut self, kind: u8) -> Option<&'b [u8]> {
        let length = self.size(kind < 0xb0)?;
        self.take(length)
    }

    fn compound(&mut self, kind: u8, depth: usize) -> Option<Amqp10Value<'b>> {
        let is_short = matches!(kind, 0xc0 | 0xc1 | 0xe0);
        let size = self.size(is_short)?;
        let mut inner = Amqp10Reader {
            rest: self.take(size)?,
            left: self.left,
        };
        let count = inner.size(is_short)?;
        let mut values = Vec::new();
        if matches!(kind, 0xe0 | 0xf0) {
            let kind = inner.byte()?;
            for _ in 0..count {
                values.push(inner.value_of_kind(kind, depth)?);
            }
        } else {
            for _ in 0..count {
                values.push(inner.value(depth)?);
            }
        }
        self.left = inner.left;
        if !inner.rest.is_empty() {
            return None;
        }
        if !matches!(kind, 0xc1 | 0xd1) {
            return Some(Amqp10Value::List(values));
        }
        let mut entries = Vec::with_capacity(values.len() / 2);
        let mut values = values.into_iter();
        while let Some(key) = values.next() {
            entries.push((key, values.next()?));
        }
        Some(Amqp10Value::Map(entries))
    }
}

impl Amqp10Value<'_> {
    /// Returns the text of a simple value; `None` for a string, bytes, and values that contain others.
    pub fn simple(&self) -> Option<String> {
        Some(match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Float(number) => format!("{number:?}"),
            Self::Double(number) => format!("{number:?}"),
            Self::Timestamp(milliseconds) => time(*milliseconds),
            Self::Uuid(bytes) => uuid(*bytes),
            Self::Text(_) | Self::Binary(_) | Self::List(_) | Self::Map(_) => return None,
        })
    }

    /// Writes the value on one line. Strings and bytes are quoted like a body.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Text(text) => text::write_quoted(out, text.as_bytes()),
            Self::Binary(bytes) => text::write_quoted(out, bytes),
            Self::List(values) => {
                out.write_all(b"[")?;
                text::write_separated(values, ", ", out, Self::write)?;
                out.write_all(b"]")
            }
            Self::Map(entries) => {
                out.write_all(b"{")?;
                text::write_separated(entries, ", ", out, |(key, value), out| {
                    key.write(out)?;
                    out.write_all(b": ")?;
                    value.write(out)
                })?;
                out.write_all(b"}")
            }
            simple => out.write_all(simple.simple().unwrap_or_default().as_bytes()),
        }
    }
}

/// The last millisecond of the year 9999, the last that can be formatted as a date.
const LAST_DATE: i64 = 253_402_300_799_999;

fn time(milliseconds: i64) -> String {
    match u64::try_from(milliseconds) {
        Ok(since) if milliseconds <= LAST_DATE => {
            humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(since)).to_string()
        }
        _ => milliseconds.to_string(),
    }
}

fn uuid(bytes: [u8; 16]) -> String {
    let digits = format!("{:032x}", u128::from_be_bytes(bytes));
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32];
    parts.map(|part| digits[part].to_owned()).join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(body: &[u8]) -> Option<String> {
        let mut out = Vec::new();
        decode(body)?.write(&mut out).unwrap();
        Some(String::from_utf8(out).unwrap())
    }

    /// Returns the text that an amqp-value section with this value is shown as.
    fn value(encoded: &[u8]) -> Option<String> {
        shown(&[b"\0\x53\x77", encoded].concat())
    }

    #[test]
    fn simple_values_are_shown_as_what_they_are() {
        for (encoded, expected) in [
            (&b"\xa1\x05hello"[..], "'hello'"),
            (b"\xb1\0\0\0\x02a\n", r"'a\n'"),
            (b"\xa3\x03sym", "'sym'"),
            (b"\xa0\x02\xff\0", r"b'\xff\x00'"),
            (b"\xb0\0\0\0\x02ab", "'ab'"),
            (b"\x40", "null"),
            (b"\x41", "true"),
            (b"\x56\0", "false"),
            (b"\x50\xff", "255"),
            (b"\x51\xff", "-1"),
            (b"\x43", "0"),
            (b"\x52\x07", "7"),
            (b"\x60\xff\xff", "65535"),
            (b"\x61\xff\xff", "-1"),
            (b"\x70\xff\xff\xff\xff", "4294967295"),
            (b"\x71\xff\xff\xff\xff", "-1"),
            (
                b"\x80\xff\xff\xff\xff\xff\xff\xff\xff",
                "18446744073709551615",
            ),
            (b"\x81\xff\xff\xff\xff\xff\xff\xff\xff", "-1"),
            (b"\x72\x3f\xc0\0\0", "1.5"),
            (b"\x82\x3f\xf8\0\0\0\0\0\0", "1.5"),
            (b"\x73\0\x01\xf4\x07", "'🐇'"),
            (
                b"\x83\0\0\x01\x8b\xcf\xe5\x68\0",
                "2023-11-14T22:13:20.000Z",
            ),
            (b"\x83\xff\xff\xff\xff\xff\xff\xff\xff", "-1"),
            (
                b"\x98\x12\x3e\x45\x67\xe8\x9b\x12\xd3\xa4\x56\x42\x66\x14\x17\x40\0",
                "123e4567-e89b-12d3-a456-426614174000",
            ),
        ] {
            assert_eq!(value(encoded).as_deref(), Some(expected), "{encoded:?}");
        }
    }

    #[test]
    fn lists_maps_and_arrays_are_shown_with_what_is_in_them() {
        for (encoded, expected) in [
            (&b"\x45"[..], "[]"),
            (b"\xc0\x05\x02\xa1\x01a\x40", "['a', null]"),
            (b"\xd0\0\0\0\x05\0\0\0\x01\x41", "[true]"),
            (b"\xc1\x08\x02\xa1\x01k\xc0\x02\x01\x43", "{'k': [0]}"),
            (b"\xe0\x04\x02\x50\x01\x02", "[1, 2]"),
            (b"\xf0\0\0\0\x07\0\0\0\x02\x50\x01\x02", "[1, 2]"),
        ] {
            assert_eq!(value(encoded).as_deref(), Some(expected), "{encoded:?}");
        }
    }

    #[test]
    fn a_body_has_one_value_or_data_or_sequences() {
        let data = b"\0\x53\x75\xa0\x02ab";
        let sequence = b"\0\x53\x76\xc0\x02\x01\x41";
        let footer = b"\0\x53\x78\xc1\x01\0";
        let long = b"\0\x80\0\0\0\0\0\0\0\x77\x43";
        let by_name = b"\0\xa3\x11amqp:amqp-value:*\x43";
        for (body, expected) in [
            (data.repeat(2), Some("'abab'")),
            (sequence.repeat(2), Some("[true, true]")),
            ([&data[..], footer].concat(), Some("'ab'")),
            (long.to_vec(), Some("0")),
            (by_name.to_vec(), Some("0")),
            ([&data[..], sequence].concat(), None),
            (b"\0\x53\x77\x43".repeat(2), None),
            (footer.to_vec(), None),
            (b"".to_vec(), None),
            (b"plain".to_vec(), None),
        ] {
            assert_eq!(shown(&body).as_deref(), expected, "{body:?}");
        }
    }

    #[test]
    fn what_is_not_understood_or_too_much_is_no_value() {
        // A decimal, a described value, a text that is none, more than there is, and less.
        for encoded in [
            &b"\x74\0\0\0\0"[..],
            b"\0\x53\x01\x43",
            b"\xa1\x01\xff",
            b"\xa1\x05a",
            b"\x43\x43",
            b"\xc1\x02\x01\x43",
            b"\xc0\x03\x01\x43\x43",
        ] {
            assert_eq!(value(encoded), None, "{encoded:?}");
        }
        // Four thousand million times nothing.
        assert_eq!(value(b"\xf0\0\0\0\x05\xff\xff\xff\xff\x40"), None);
        let mut deep = vec![0x45];
        for _ in 0..100 {
            let size = u32::try_from(deep.len() + 4).unwrap().to_be_bytes();
            deep = [&[0xd0][..], &size, &1_u32.to_be_bytes(), &deep].concat();
        }
        assert_eq!(value(&deep), None);
    }

    proptest! {
        #[test]
        fn nothing_that_is_read_panics(body in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = value(&body);
            let _ = shown(&body);
        }
    }
}
