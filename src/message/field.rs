//! The values of properties and headers, and how AMQP encodes them.
//!
//! Every value that AMQP can carry has a form here, so that what is read and written again stays the
//! same (AMQP 0-9-1 specification, sections 2.3.5.2 and 4.2.6.1; RabbitMQ's field types:
//! <https://www.rabbitmq.com/docs/amqp-0-9-1-errata#section_3>).

use std::fmt;
use std::str::FromStr;

use crate::text;

/// The maximum length in bytes of a short string, the AMQP type of names, routing keys and most
/// properties: its length is one byte (AMQP 0-9-1 specification, section 4.2.5.3).
pub const SHORT_STRING_MAX: usize = 255;

/// An AMQP short string: at most 255 bytes, usually but not necessarily UTF-8.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShortString(pub(super) Vec<u8>);

impl ShortString {
    /// Returns a short string of these bytes.
    ///
    /// # Errors
    /// The length, if it is more than [`SHORT_STRING_MAX`].
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, String> {
        let bytes = bytes.into();
        Self::check_length(&bytes)?;
        Ok(Self(bytes))
    }

    /// Checks that the bytes are not too long for a short string.
    pub(crate) fn check_length(bytes: impl AsRef<[u8]>) -> Result<(), String> {
        match bytes.as_ref().len() {
            0..=SHORT_STRING_MAX => Ok(()),
            length => Err(format!(
                "can have at most {SHORT_STRING_MAX} bytes in AMQP; this one has {length}"
            )),
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the text, if the bytes are UTF-8.
    pub(crate) fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl FromStr for ShortString {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::new(text)
    }
}

impl fmt::Display for ShortString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::quote(&self.0))
    }
}

/// The value of a header or of an argument. The names are those of RabbitMQ.
#[derive(Clone, Debug)]
pub enum FieldValue {
    /// `t`
    Bool(bool),
    /// `b`
    Byte(i8),
    /// `B`
    UnsignedByte(u8),
    /// `s`
    Short(i16),
    /// `u`
    UnsignedShort(u16),
    /// `I`
    SignedInt(i32),
    /// `i`
    UnsignedInt(u32),
    /// `l`
    Long(i64),
    /// `L`, which RabbitMQ reads like `l` and some clients write instead of it.
    LongLong(i64),
    /// `f`
    Float(f32),
    /// `d`
    Double(f64),
    /// `D`: `value` divided by 10 to the power of `scale`.
    Decimal {
        /// The number of decimal places.
        scale: u8,
        /// The digits as a whole number.
        value: u32,
    },
    /// `S`: usually but not necessarily UTF-8.
    LongString(Vec<u8>),
    /// `A`
    Array(Vec<FieldValue>),
    /// `T`: seconds since 1970.
    Timestamp(u64),
    /// `F`
    Table(FieldTable),
    /// `x`
    Binary(Vec<u8>),
    /// `V`
    Void,
    /// A field that is kept encoded, type and value, because it is nested deeper than
    /// [`TABLE_MAX_DEPTH`] or is a boolean other than 0 and 1.
    Encoded(Vec<u8>),
}

impl PartialEq for FieldValue {
    /// Compares the encoded values, so that floating-point numbers are equal if all their bits are.
    fn eq(&self, other: &Self) -> bool {
        let encoded = |value: &Self| {
            let mut bytes = Vec::new();
            value.encode(&mut bytes);
            bytes
        };
        encoded(self) == encoded(other)
    }
}

/// An AMQP table: names and values in order. A name may occur more than once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FieldTable(pub(super) Vec<(ShortString, FieldValue)>);

impl FieldTable {
    /// Returns the value of the first entry with this name.
    pub(crate) fn get(&self, name: &[u8]) -> Option<&FieldValue> {
        self.0
            .iter()
            .find(|(key, _)| key.as_bytes() == name)
            .map(|(_, value)| value)
    }

    /// Removes every entry with this name, and returns whether there was one.
    pub(crate) fn remove(&mut self, name: &[u8]) -> bool {
        let before = self.0.len();
        self.0.retain(|(key, _)| key.as_bytes() != name);
        self.0.len() < before
    }

    pub(crate) fn entries(&self) -> &[(ShortString, FieldValue)] {
        &self.0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps only the entries whose names `is_kept` accepts.
    pub(crate) fn retain(&mut self, mut is_kept: impl FnMut(&ShortString) -> bool) {
        self.0.retain(|(name, _)| is_kept(name));
    }

    /// Returns this table with the entries of `others` whose names it does not have.
    pub(super) fn or(mut self, others: &Self) -> Self {
        let is_missing = |name| !self.0.iter().any(|(known, _)| known == name);
        let missing = others.0.iter().filter(|(name, _)| is_missing(name));
        let missing: Vec<_> = missing.cloned().collect();
        self.0.extend(missing);
        self
    }
}

impl FromIterator<(ShortString, FieldValue)> for FieldTable {
    fn from_iter<I: IntoIterator<Item = (ShortString, FieldValue)>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

pub(super) fn write_short_string(text: &ShortString, out: &mut Vec<u8>) {
    // A short string never has more than 255 bytes.
    out.push(u8::try_from(text.0.len()).unwrap_or(u8::MAX));
    out.extend(&text.0);
}

/// Appends the output of `content`, preceded by its length.
fn write_with_length(out: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0; 4]);
    content(out);
    // A content header fits into one frame, whose length has the same type.
    let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

impl FieldTable {
    pub(super) fn normalized(&self) -> Self {
        let entries = self.0.iter();
        let mut entries: Vec<_> = entries
            .map(|(name, value)| (name.clone(), value.normalized()))
            .collect();
        entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        Self(entries)
    }

    /// Reads the entries of a table from which the length has been removed.
    pub(crate) fn decode(entries: &[u8]) -> Result<Self, String> {
        FieldReader(entries).entries(0)
    }

    /// Appends the table to `out`, preceded by its length.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        write_with_length(out, |out| {
            for (name, value) in &self.0 {
                write_short_string(name, out);
                value.encode(out);
            }
        });
    }
}

impl FieldValue {
    fn encode(&self, out: &mut Vec<u8>) {
        let mut put = |tag: u8, bytes: &[u8]| {
            out.push(tag);
            out.extend(bytes);
        };
        match self {
            Self::Bool(value) => put(b't', &[u8::from(*value)]),
            Self::Byte(value) => put(b'b', &value.to_be_bytes()),
            Self::UnsignedByte(value) => put(b'B', &[*value]),
            Self::Short(value) => put(b's', &value.to_be_bytes()),
            Self::UnsignedShort(value) => put(b'u', &value.to_be_bytes()),
            Self::SignedInt(value) => put(b'I', &value.to_be_bytes()),
            Self::UnsignedInt(value) => put(b'i', &value.to_be_bytes()),
            Self::Long(value) => put(b'l', &value.to_be_bytes()),
            Self::LongLong(value) => put(b'L', &value.to_be_bytes()),
            Self::Float(value) => put(b'f', &value.to_bits().to_be_bytes()),
            Self::Double(value) => put(b'd', &value.to_bits().to_be_bytes()),
            Self::Decimal { scale, value } => {
                put(b'D', &[*scale]);
                out.extend(value.to_be_bytes());
            }
            Self::LongString(bytes) => {
                put(b'S', &[]);
                write_with_length(out, |out| out.extend(bytes));
            }
            Self::Array(values) => {
                put(b'A', &[]);
                write_with_length(out, |out| values.iter().for_each(|value| value.encode(out)));
            }
            Self::Timestamp(value) => put(b'T', &value.to_be_bytes()),
            Self::Table(table) => {
                put(b'F', &[]);
                table.encode(out);
            }
            Self::Binary(bytes) => {
                put(b'x', &[]);
                write_with_length(out, |out| out.extend(bytes));
            }
            Self::Void => put(b'V', &[]),
            Self::Encoded(field) => out.extend(field),
        }
    }

    fn normalized(&self) -> Self {
        match self {
            Self::LongLong(number) => Self::Long(*number),
            Self::Encoded(field) if field.starts_with(b"t") => Self::Bool(true),
            Self::Table(table) => Self::Table(table.normalized()),
            Self::Array(values) => Self::Array(values.iter().map(Self::normalized).collect()),
            other => other.clone(),
        }
    }

    /// Reads a value as it occurs in a table, preceded by its type.
    pub(crate) fn decode(field: &[u8]) -> Result<Self, String> {
        let mut rest = FieldReader(field);
        let value = rest.value(0)?;
        match rest.0 {
            [] => Ok(value),
            _ => Err("trailing data".to_owned()),
        }
    }
}

/// The maximum depth to which nested arrays and tables are decoded, so that a sender can't exhaust the
/// stack. A level can become three levels of JSON, of which an envelope may have 128.
pub(super) const TABLE_MAX_DEPTH: usize = 40;

/// A reader of encoded fields; holds the bytes that are still to be read.
pub(super) struct FieldReader<'b>(pub(super) &'b [u8]);

impl<'b> FieldReader<'b> {
    fn take(&mut self, length: usize) -> Result<&'b [u8], String> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or_else(|| "truncated".to_owned())?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn byte(&mut self) -> Result<u8, String> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn short(&mut self) -> Result<ShortString, String> {
        let length = self.byte()?;
        self.take(usize::from(length))
            .map(|bytes| ShortString(bytes.to_vec()))
    }

    fn long(&mut self) -> Result<&'b [u8], String> {
        let length = u32::from_be_bytes(self.array()?);
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    pub(super) fn table(&mut self, depth: usize) -> Result<FieldTable, String> {
        FieldReader(self.long()?).entries(depth)
    }

    fn entries(&mut self, depth: usize) -> Result<FieldTable, String> {
        let mut entries = Vec::new();
        while !self.0.is_empty() {
            let name = self.short()?;
            let value = self
                .value(depth)
                .map_err(|problem| format!("header {name}: {problem}"))?;
            entries.push((name, value));
        }
        Ok(FieldTable(entries))
    }

    /// Returns the field that started at `field` as it was encoded.
    fn encoded_since(&self, field: &[u8]) -> FieldValue {
        FieldValue::Encoded(field[..field.len() - self.0.len()].to_vec())
    }

    fn value(&mut self, depth: usize) -> Result<FieldValue, String> {
        let field = self.0;
        Ok(match self.byte()? {
            b't' => match self.byte()? {
                0 => FieldValue::Bool(false),
                1 => FieldValue::Bool(true),
                _ => self.encoded_since(field),
            },
            b'b' => FieldValue::Byte(i8::from_be_bytes(self.array()?)),
            b'B' => FieldValue::UnsignedByte(self.byte()?),
            b's' => FieldValue::Short(i16::from_be_bytes(self.array()?)),
            b'u' => FieldValue::UnsignedShort(u16::from_be_bytes(self.array()?)),
            b'I' => FieldValue::SignedInt(i32::from_be_bytes(self.array()?)),
            b'i' => FieldValue::UnsignedInt(u32::from_be_bytes(self.array()?)),
            // Unsigned in the specification, but signed in RabbitMQ.
            b'l' => FieldValue::Long(i64::from_be_bytes(self.array()?)),
            b'L' => FieldValue::LongLong(i64::from_be_bytes(self.array()?)),
            b'f' => FieldValue::Float(f32::from_bits(u32::from_be_bytes(self.array()?))),
            b'd' => FieldValue::Double(f64::from_bits(u64::from_be_bytes(self.array()?))),
            b'D' => FieldValue::Decimal {
                scale: self.byte()?,
                value: u32::from_be_bytes(self.array()?),
            },
            b'S' => FieldValue::LongString(self.long()?.to_vec()),
            b'A' | b'F' if depth == TABLE_MAX_DEPTH => {
                self.long()?;
                self.encoded_since(field)
            }
            b'A' => {
                let mut rest = FieldReader(self.long()?);
                let mut values = Vec::new();
                while !rest.0.is_empty() {
                    values.push(rest.value(depth + 1)?);
                }
                FieldValue::Array(values)
            }
            b'T' => FieldValue::Timestamp(u64::from_be_bytes(self.array()?)),
            b'F' => FieldValue::Table(self.table(depth + 1)?),
            b'x' => FieldValue::Binary(self.long()?.to_vec()),
            b'V' => FieldValue::Void,
            tag => {
                return Err(format!(
                    "has a type that is unknown to RabbitMQ ({})",
                    text::quote(&[tag])
                ));
            }
        })
    }
}
