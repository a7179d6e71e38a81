//! The properties of a message, and how AMQP encodes them (AMQP 0-9-1 specification, section 4.2.6.1).

use super::field::{FieldReader, FieldTable, ShortString, write_short_string};

/// The properties of a message. The names are those of RabbitMQ's management API, except `kind`,
/// which is `type` there.
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
    /// Returns these properties, with missing properties and headers taken from `others`.
    pub(crate) fn or(self, others: &Self) -> Self {
        let headers = match (self.headers, &others.headers) {
            (Some(own), Some(others)) => Some(own.or(others)),
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

    /// Returns the properties with their headers as RabbitMQ 4.0 and later deliver them: sorted by name,
    /// and with types that RabbitMQ does not distinguish made the same.
    pub(crate) fn normalized(&self) -> Self {
        Self {
            headers: self.headers.as_ref().map(FieldTable::normalized),
            ..self.clone()
        }
    }

    /// Appends the property flags and the property list to `out`, as in a content header.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut list = PropertyListWriter::new(out);
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

    /// Reads property flags and a property list, as [`Properties::encode`] writes them.
    ///
    /// # Errors
    /// The malformed part, and its position.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut rest = FieldReader(bytes);
        let flags = u16::from_be_bytes(rest.array()?);
        // Bit 0 announces a second word of flags, which neither RabbitMQ nor its clients have.
        if flags & 0b11 != 0 {
            return Err("unknown property flags".to_owned());
        }
        let mut bit = 1 << 15;
        let mut next = || {
            let is_present = flags & bit != 0;
            bit >>= 1;
            is_present
        };
        // These lines follow the order of the list.
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
            return Err(format!("{} trailing bytes", rest.0.len()));
        }
        Ok(properties)
    }
}

/// A writer of a property list. Each property takes the next lower bit of the flags, which come before
/// the list.
struct PropertyListWriter<'o> {
    start: usize,
    flags: u16,
    bit: u16,
    out: &'o mut Vec<u8>,
}

impl<'o> PropertyListWriter<'o> {
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
        self.put(property, write_short_string);
    }

    fn finish(self) {
        self.out[self.start..self.start + 2].copy_from_slice(&self.flags.to_be_bytes());
    }
}

#[cfg(test)]
pub mod tests {
    use super::super::field::{FieldValue, TABLE_MAX_DEPTH};
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
