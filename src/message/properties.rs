//! A message's properties and headers, and the form in which AMQP carries them.
//!
//! Everything that AMQP can carry can be held here, so that what is read and written again is the
//! same (AMQP 0-9-1 specification, sections 2.3.5.2 and 4.2.6.1; RabbitMQ's field types:
//! <https://www.rabbitmq.com/docs/amqp-0-9-1-errata#section_3>).

use std::fmt;
use std::str::FromStr;

use crate::text;

/// The longest text, in bytes, that AMQP can carry as a name, a routing key or a short property
/// (a "short string": one byte holds its length; AMQP 0-9-1 specification, section 4.2.5.3).
pub const SHORT_STRING_MAX: usize = 255;

/// AMQP's short string: at most 255 bytes, meant to be UTF-8 but not bound to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShortString(Vec<u8>);

impl ShortString {
    /// A short string of these bytes.
    ///
    /// # Errors
    /// Says how long it is if it is too long.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, String> {
        let bytes = bytes.into();
        Self::check_length(&bytes)?;
        Ok(Self(bytes))
    }

    /// Makes sure that a short string can have these bytes.
    ///
    /// # Errors
    /// Says how long it is if it is too long.
    pub fn check_length(bytes: impl AsRef<[u8]>) -> Result<(), String> {
        match bytes.as_ref().len() {
            0..=SHORT_STRING_MAX => Ok(()),
            length => Err(format!(
                "can't be longer than {SHORT_STRING_MAX} bytes in AMQP, and this one has {length}"
            )),
        }
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text, if it is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
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

/// The value of a header. The names are RabbitMQ's.
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
    /// `L`, which RabbitMQ reads as `l` and some clients write in its place.
    LongLong(i64),
    /// `f`
    Float(f32),
    /// `d`
    Double(f64),
    /// `D`: `value` with so many decimal places.
    Decimal {
        /// How many decimal places.
        scale: u8,
        /// All digits as one number.
        value: u32,
    },
    /// `S`: meant to be UTF-8 but not bound to be.
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
    /// What is not taken apart, as AMQP carries it: the type and the value. It is nested deeper than
    /// [`TABLE_MAX_DEPTH`], or a boolean that is neither 0 nor 1.
    Encoded(Vec<u8>),
}

impl PartialEq for FieldValue {
    /// Floating-point numbers are the same if all their bits are.
    fn eq(&self, other: &Self) -> bool {
        let encoded = |value: &Self| {
            let mut bytes = Vec::new();
            value.encode(&mut bytes);
            bytes
        };
        encoded(self) == encoded(other)
    }
}

/// Names and values in order. A name may stand more than once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FieldTable(Vec<(ShortString, FieldValue)>);

impl FieldTable {
    /// The value of the first entry with this name.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&FieldValue> {
        self.0
            .iter()
            .find(|(key, _)| key.as_bytes() == name)
            .map(|(_, value)| value)
    }

    /// Removes every entry with this name. Returns whether there was one.
    pub fn remove(&mut self, name: &[u8]) -> bool {
        let before = self.0.len();
        self.0.retain(|(key, _)| key.as_bytes() != name);
        self.0.len() < before
    }

    /// All entries.
    #[must_use]
    pub fn entries(&self) -> &[(ShortString, FieldValue)] {
        &self.0
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps only the entries with certain names.
    pub fn retain(&mut self, mut is_kept: impl FnMut(&ShortString) -> bool) {
        self.0.retain(|(name, _)| is_kept(name));
    }
}

impl FromIterator<(ShortString, FieldValue)> for FieldTable {
    fn from_iter<I: IntoIterator<Item = (ShortString, FieldValue)>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

/// What a message says of itself besides its body. The names are those of RabbitMQ's management
/// API, but for `kind`, which is called `type` there.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)]
pub struct Properties {
    pub content_type: Option<ShortString>,
    pub content_encoding: Option<ShortString>,
    pub headers: Option<FieldTable>,
    pub delivery_mode: Option<u8>,
    pub priority: Option<u8>,
    pub correlation_id: Option<ShortString>,
    pub reply_to: Option<ShortString>,
    pub expiration: Option<ShortString>,
    pub message_id: Option<ShortString>,
    pub timestamp: Option<u64>,
    pub kind: Option<ShortString>,
    pub user_id: Option<ShortString>,
    pub app_id: Option<ShortString>,
    pub cluster_id: Option<ShortString>,
}

impl Properties {
    /// These properties, with `others` for those that are missing. Of headers, too, what is missing
    /// is added.
    #[must_use]
    pub fn or(self, others: &Self) -> Self {
        let headers = match (self.headers, &others.headers) {
            (Some(FieldTable(mut entries)), Some(others)) => {
                let is_missing = |(name, _): &&(ShortString, FieldValue)| {
                    !entries.iter().any(|(known, _)| known == name)
                };
                let missing: Vec<_> = others.0.iter().filter(is_missing).cloned().collect();
                entries.extend(missing);
                Some(FieldTable(entries))
            }
            (own, others) => own.or_else(|| others.clone()),
        };
        let or =
            |own: Option<ShortString>, other: &Option<ShortString>| own.or_else(|| other.clone());
        Self {
            content_type: or(self.content_type, &others.content_type),
            content_encoding: or(self.content_encoding, &others.content_encoding),
            headers,
            delivery_mode: self.delivery_mode.or(others.delivery_mode),
            priority: self.priority.or(others.priority),
            correlation_id: or(self.correlation_id, &others.correlation_id),
            reply_to: or(self.reply_to, &others.reply_to),
            expiration: or(self.expiration, &others.expiration),
            message_id: or(self.message_id, &others.message_id),
            timestamp: self.timestamp.or(others.timestamp),
            kind: or(self.kind, &others.kind),
            user_id: or(self.user_id, &others.user_id),
            app_id: or(self.app_id, &others.app_id),
            cluster_id: or(self.cluster_id, &others.cluster_id),
        }
    }

    /// The properties with headers as RabbitMQ writes them where it has read them, as from 4.0 on it does:
    /// in the order of their names, and without types that it does not tell from others.
    #[must_use]
    pub fn as_rabbitmq_has_them(&self) -> Self {
        Self {
            headers: self.headers.as_ref().map(FieldTable::as_rabbitmq_has_it),
            ..self.clone()
        }
    }

    /// Adds the property flags and the property list to `out`, as they stand in a content header.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut list = List::new(out);
        list.short(self.content_type.as_ref());
        list.short(self.content_encoding.as_ref());
        list.put(self.headers.as_ref(), FieldTable::encode);
        list.put(self.delivery_mode.as_ref(), |mode, out| out.push(*mode));
        list.put(self.priority.as_ref(), |priority, out| out.push(*priority));
        list.short(self.correlation_id.as_ref());
        list.short(self.reply_to.as_ref());
        list.short(self.expiration.as_ref());
        list.short(self.message_id.as_ref());
        list.put(self.timestamp.as_ref(), |time, out| {
            out.extend(time.to_be_bytes());
        });
        list.short(self.kind.as_ref());
        list.short(self.user_id.as_ref());
        list.short(self.app_id.as_ref());
        list.short(self.cluster_id.as_ref());
        list.finish();
    }

    /// Reads what [`Properties::encode`] writes.
    ///
    /// # Errors
    /// Says what is not as AMQP has it, and where.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut rest = Bytes(bytes);
        let flags = u16::from_be_bytes(rest.array()?);
        // RabbitMQ's own client and server know no second word of flags.
        if flags & 0b11 != 0 {
            return Err("there are properties that AMQP 0-9-1 does not have".to_owned());
        }
        let mut bit = 1 << 15;
        let mut next = || {
            let is_there = flags & bit != 0;
            bit >>= 1;
            is_there
        };
        // The order of these lines is the order of the list.
        let mut properties = Self::default();
        let p = &mut properties;
        p.content_type = next().then(|| rest.short()).transpose()?;
        p.content_encoding = next().then(|| rest.short()).transpose()?;
        p.headers = next().then(|| rest.table(0)).transpose()?;
        p.delivery_mode = next().then(|| rest.byte()).transpose()?;
        p.priority = next().then(|| rest.byte()).transpose()?;
        p.correlation_id = next().then(|| rest.short()).transpose()?;
        p.reply_to = next().then(|| rest.short()).transpose()?;
        p.expiration = next().then(|| rest.short()).transpose()?;
        p.message_id = next().then(|| rest.short()).transpose()?;
        p.timestamp = next()
            .then(|| rest.array().map(u64::from_be_bytes))
            .transpose()?;
        p.kind = next().then(|| rest.short()).transpose()?;
        p.user_id = next().then(|| rest.short()).transpose()?;
        p.app_id = next().then(|| rest.short()).transpose()?;
        p.cluster_id = next().then(|| rest.short()).transpose()?;
        if !rest.0.is_empty() {
            return Err(format!("{} bytes are left over", rest.0.len()));
        }
        Ok(properties)
    }
}

/// A property list in the making: each property takes the next lower bit of the flags, which stand
/// in front.
struct List<'o> {
    start: usize,
    flags: u16,
    bit: u16,
    out: &'o mut Vec<u8>,
}

impl<'o> List<'o> {
    fn new(out: &'o mut Vec<u8>) -> Self {
        let start = out.len();
        out.extend([0; 2]);
        Self {
            start,
            flags: 0,
            bit: 1 << 15,
            out,
        }
    }

    fn put<T>(&mut self, property: Option<&T>, encode: impl FnOnce(&T, &mut Vec<u8>)) {
        if let Some(property) = property {
            self.flags |= self.bit;
            encode(property, self.out);
        }
        self.bit >>= 1;
    }

    fn short(&mut self, property: Option<&ShortString>) {
        self.put(property, put_short);
    }

    fn finish(self) {
        self.out[self.start..self.start + 2].copy_from_slice(&self.flags.to_be_bytes());
    }
}

fn put_short(text: &ShortString, out: &mut Vec<u8>) {
    // It never has more than 255 bytes.
    out.push(u8::try_from(text.0.len()).unwrap_or(u8::MAX));
    out.extend(&text.0);
}

/// Writes what `content` writes, with its length in front.
fn put_long(out: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0; 4]);
    content(out);
    // A content header fits into one frame, whose length has as many bytes.
    let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

impl FieldTable {
    fn as_rabbitmq_has_it(&self) -> Self {
        let entries = self.0.iter();
        let mut entries: Vec<_> = entries
            .map(|(name, value)| (name.clone(), value.as_rabbitmq_has_it()))
            .collect();
        entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        Self(entries)
    }

    /// Reads the entries of a table, without the length that stands in front of them.
    ///
    /// # Errors
    /// Says what is not as AMQP has it, and where.
    pub(crate) fn decode(entries: &[u8]) -> Result<Self, String> {
        Bytes(entries).entries(0)
    }

    /// Adds the table to `out`, with its length in front.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_long(out, |out| {
            for (name, value) in &self.0 {
                put_short(name, out);
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
                put_long(out, |out| out.extend(bytes));
            }
            Self::Array(values) => {
                put(b'A', &[]);
                put_long(out, |out| values.iter().for_each(|value| value.encode(out)));
            }
            Self::Timestamp(value) => put(b'T', &value.to_be_bytes()),
            Self::Table(table) => {
                put(b'F', &[]);
                table.encode(out);
            }
            Self::Binary(bytes) => {
                put(b'x', &[]);
                put_long(out, |out| out.extend(bytes));
            }
            Self::Void => put(b'V', &[]),
            Self::Encoded(field) => out.extend(field),
        }
    }

    fn as_rabbitmq_has_it(&self) -> Self {
        match self {
            Self::LongLong(number) => Self::Long(*number),
            Self::Encoded(field) if field.starts_with(b"t") => Self::Bool(true),
            Self::Table(table) => Self::Table(table.as_rabbitmq_has_it()),
            Self::Array(values) => {
                Self::Array(values.iter().map(Self::as_rabbitmq_has_it).collect())
            }
            other => other.clone(),
        }
    }

    /// Reads a value as it stands in a table, with its type in front.
    ///
    /// # Errors
    /// Says what is not as AMQP has it.
    pub(crate) fn decode(field: &[u8]) -> Result<Self, String> {
        let mut rest = Bytes(field);
        let value = rest.value(0)?;
        match rest.0 {
            [] => Ok(value),
            _ => Err("they go on where they should end".to_owned()),
        }
    }
}

/// How deep arrays and tables are taken apart that stand in each other: a sender must not be able to
/// exhaust a reader's stack, and JSON, in which a level can take three, must be able to follow (an
/// envelope is read up to 128).
const TABLE_MAX_DEPTH: usize = 40;

/// What is still to be read.
struct Bytes<'b>(&'b [u8]);

impl<'b> Bytes<'b> {
    fn take(&mut self, length: usize) -> Result<&'b [u8], String> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or_else(|| "they end too early".to_owned())?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn byte(&mut self) -> Result<u8, String> {
        self.array().map(|[byte]| byte)
    }

    fn short(&mut self) -> Result<ShortString, String> {
        let length = self.byte()?;
        self.take(usize::from(length))
            .map(|bytes| ShortString(bytes.to_vec()))
    }

    fn long(&mut self) -> Result<&'b [u8], String> {
        let length = u32::from_be_bytes(self.array()?);
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    fn table(&mut self, depth: usize) -> Result<FieldTable, String> {
        Bytes(self.long()?).entries(depth)
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

    /// The field that began where there was so much to read, as it came.
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
            // Unsigned in the specification, and signed for RabbitMQ.
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
                let mut rest = Bytes(self.long()?);
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
                    "has a type that RabbitMQ does not know ({})",
                    text::quote(&[tag])
                ));
            }
        })
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::option::of;
    use proptest::prelude::*;

    fn encoded(properties: &Properties) -> Vec<u8> {
        let mut bytes = Vec::new();
        properties.encode(&mut bytes);
        bytes
    }

    fn short() -> impl Strategy<Value = ShortString> {
        prop_oneof![
            "[a-z!é]{0,8}".prop_map(|text| ShortString(text.into())),
            vec(any::<u8>(), 0..256).prop_map(ShortString),
        ]
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            ".{0,10}".prop_map(String::into_bytes),
            vec(any::<u8>(), 0..20)
        ]
    }

    fn value() -> impl Strategy<Value = FieldValue> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(FieldValue::Bool),
            any::<i8>().prop_map(FieldValue::Byte),
            any::<u8>().prop_map(FieldValue::UnsignedByte),
            any::<i16>().prop_map(FieldValue::Short),
            any::<u16>().prop_map(FieldValue::UnsignedShort),
            any::<i32>().prop_map(FieldValue::SignedInt),
            any::<u32>().prop_map(FieldValue::UnsignedInt),
            prop_oneof![any::<i64>(), -9..9_i64].prop_map(FieldValue::Long),
            any::<i64>().prop_map(FieldValue::LongLong),
            (2..=u8::MAX).prop_map(|byte| FieldValue::Encoded(vec![b't', byte])),
            // By default only finite ones, as no broker lets others through.
            any::<f32>().prop_map(FieldValue::Float),
            any::<f64>().prop_map(FieldValue::Double),
            prop_oneof![Just(0.0), Just(-0.0), Just(1.0), Just(1e300)].prop_map(FieldValue::Double),
            (any::<u8>(), any::<u32>())
                .prop_map(|(scale, value)| FieldValue::Decimal { scale, value }),
            bytes().prop_map(FieldValue::LongString),
            any::<u64>().prop_map(FieldValue::Timestamp),
            bytes().prop_map(FieldValue::Binary),
            Just(FieldValue::Void),
        ];
        leaf.prop_recursive(4, 24, 5, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..5).prop_map(FieldValue::Array),
                table_of(inner).prop_map(FieldValue::Table),
            ]
        })
    }

    fn table_of(value: impl Strategy<Value = FieldValue>) -> impl Strategy<Value = FieldTable> {
        let name = prop_oneof![
            4 => short(),
            1 => Just(ShortString(b"!amqp".to_vec())),
            1 => Just(ShortString(b"a".to_vec())),
        ];
        vec((name, value), 0..5).prop_map(FieldTable)
    }

    /// Any properties at all.
    pub fn properties() -> impl Strategy<Value = Properties> {
        let texts = vec(of(short()), 10);
        let numbers = (of(any::<u8>()), of(any::<u8>()), of(any::<u64>()));
        (texts, of(table_of(value())), numbers).prop_map(
            |(mut texts, headers, (delivery_mode, priority, timestamp))| {
                let mut text = || texts.pop().flatten();
                Properties {
                    content_type: text(),
                    content_encoding: text(),
                    headers,
                    delivery_mode,
                    priority,
                    correlation_id: text(),
                    reply_to: text(),
                    expiration: text(),
                    message_id: text(),
                    timestamp,
                    kind: text(),
                    user_id: text(),
                    app_id: text(),
                    cluster_id: text(),
                }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(properties in properties()) {
            prop_assert_eq!(Properties::decode(&encoded(&properties)), Ok(properties));
        }

        #[test]
        fn what_is_read_is_written_byte_for_byte(bytes in vec(any::<u8>(), 0..200)) {
            for bytes in [&bytes[..], &[&[0x20, 0][..], &bytes].concat()] {
                if let Ok(properties) = Properties::decode(bytes) {
                    prop_assert_eq!(encoded(&properties), bytes);
                }
            }
        }

        #[test]
        fn what_is_cut_is_refused(properties in properties(), cut in 1..100_usize) {
            let bytes = encoded(&properties);
            let end = bytes.len().saturating_sub(cut);
            prop_assert!(Properties::decode(&bytes[..end]).is_err());
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_specification() {
        let text = |text: &str| ShortString::new(text).ok();
        let properties = Properties {
            content_type: text("a/b"),
            headers: Some(FieldTable(vec![
                (
                    ShortString(b"k".to_vec()),
                    FieldValue::LongString(b"v".to_vec()),
                ),
                (ShortString(b"n".to_vec()), FieldValue::SignedInt(-2)),
            ])),
            delivery_mode: Some(2),
            message_id: text("m"),
            timestamp: Some(1),
            app_id: text("p"),
            ..Properties::default()
        };
        let expected = [
            // content-type, headers, delivery-mode; message-id, timestamp, app-id
            &[0b1011_0000, 0b1100_1000][..],
            b"\x03a/b",
            b"\0\0\0\x0f\x01kS\0\0\0\x01v\x01nI\xff\xff\xff\xfe",
            b"\x02",
            b"\x01m",
            b"\0\0\0\0\0\0\0\x01",
            b"\x01p",
        ]
        .concat();
        assert_eq!(encoded(&properties), expected);
    }

    fn depth(value: &FieldValue) -> usize {
        match value {
            FieldValue::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
            FieldValue::Table(table) => {
                1 + table.0.iter().map(|(_, v)| depth(v)).max().unwrap_or(0)
            }
            _ => 0,
        }
    }

    #[test]
    fn a_deep_nest_is_kept_as_it_is_and_not_taken_apart() {
        let name = |name: &str| ShortString(name.as_bytes().to_vec());
        for levels in [39, 40, 41, 45, 200] {
            let mut value = FieldValue::Void;
            for level in 0..levels {
                value = match level % 2 {
                    0 => FieldValue::Array(vec![value, FieldValue::Void]),
                    _ => FieldValue::Table(FieldTable(vec![(name("k"), value)])),
                };
            }
            let headers = vec![
                (name("deep"), value),
                (name("next"), FieldValue::Bool(true)),
            ];
            let properties = Properties {
                headers: Some(FieldTable(headers)),
                app_id: Some(name("app")),
                ..Properties::default()
            };
            let bytes = encoded(&properties);
            let read = Properties::decode(&bytes).unwrap();
            assert_eq!(encoded(&read), bytes, "{levels}");
            assert_eq!(read.app_id, properties.app_id);
            let (_, value) = &read.headers.as_ref().unwrap().entries()[0];
            assert_eq!(depth(value), levels.min(TABLE_MAX_DEPTH));
        }
    }

    #[test]
    fn what_rabbitmq_reads_as_something_else_is_kept_as_it_is() {
        // A boolean of 7, and the type L.
        let fields = b"\x01bt\x07\x01nL\xff\xff\xff\xff\xff\xff\xff\xfe";
        let table = FieldTable::decode(fields).unwrap();
        assert!(matches!(table.get(b"n"), Some(FieldValue::LongLong(-2))));
        let mut bytes = Vec::new();
        table.encode(&mut bytes);
        assert_eq!(&bytes[4..], fields);
    }

    #[test]
    fn headers_are_merged() {
        let table = |entries: &[(&str, bool)]| {
            let entry = |(name, value): &(&str, bool)| {
                (ShortString::new(*name).unwrap(), FieldValue::Bool(*value))
            };
            Properties {
                headers: Some(entries.iter().map(entry).collect()),
                ..Properties::default()
            }
        };
        assert_eq!(
            table(&[("a", true)]).or(&table(&[("a", false), ("b", false)])),
            table(&[("a", true), ("b", false)])
        );
    }
}
