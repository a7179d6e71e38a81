//! Optional arguments in the client library's types, and in the broker's refusals.

use amiquip::{AmqpValue, FieldTable};

use crate::message::FieldValue;
use crate::topology::{self, Arguments};

/// Converts optional arguments to the library's type.
pub(crate) fn field_table(arguments: &Arguments) -> FieldTable {
    arguments
        .iter()
        .map(|(name, value)| (name.clone(), field(value)))
        .collect()
}

fn field(value: &FieldValue) -> AmqpValue {
    match value {
        FieldValue::Bool(flag) => AmqpValue::Boolean(*flag),
        FieldValue::Byte(number) => AmqpValue::ShortShortInt(*number),
        FieldValue::UnsignedByte(number) => AmqpValue::ShortShortUInt(*number),
        FieldValue::Short(number) => AmqpValue::ShortInt(*number),
        FieldValue::UnsignedShort(number) => AmqpValue::ShortUInt(*number),
        FieldValue::SignedInt(number) => AmqpValue::LongInt(*number),
        FieldValue::UnsignedInt(number) => AmqpValue::LongUInt(*number),
        // RabbitMQ does not distinguish the two.
        FieldValue::Long(number) | FieldValue::LongLong(number) => AmqpValue::LongLongInt(*number),
        FieldValue::Float(number) => AmqpValue::Float(*number),
        FieldValue::Double(number) => AmqpValue::Double(*number),
        // The library's decimal type is private, so `topology` refuses decimals.
        FieldValue::Decimal { value, .. } => AmqpValue::LongUInt(*value),
        FieldValue::LongString(text) => match String::from_utf8(text.clone()) {
            Ok(text) => AmqpValue::LongString(text),
            Err(error) => AmqpValue::ByteArray(error.into_bytes()),
        },
        FieldValue::Array(values) => AmqpValue::FieldArray(values.iter().map(field).collect()),
        FieldValue::Timestamp(seconds) => AmqpValue::Timestamp(*seconds),
        FieldValue::Table(table) => AmqpValue::FieldTable(
            table
                .entries()
                .iter()
                .filter_map(|(name, value)| Some((name.as_str()?.to_owned(), field(value))))
                .collect(),
        ),
        FieldValue::Binary(bytes) => AmqpValue::ByteArray(bytes.clone()),
        // `topology` refuses encoded values.
        FieldValue::Void | FieldValue::Encoded(_) => AmqpValue::Void,
    }
}

/// The property that differs, by the broker's refusal of a declaration.
#[derive(Debug, PartialEq)]
pub(crate) struct Inequivalent {
    /// AMQP's name of the property.
    pub(crate) property: String,
    pub(crate) existing: ExistingValue,
}

/// The value of an existing property, as far as the broker tells it.
#[derive(Debug, PartialEq)]
pub(crate) enum ExistingValue {
    /// The broker cuts its text to the 255 bytes of a short string.
    Unreadable,
    None,
    Value(FieldValue),
}

impl Inequivalent {
    /// Parses a refusal such as `inequivalent arg 'x-expires' for queue 'q' in vhost '/': received none but
    /// current is the value '5' of type 'signedint'`, or `… received '7' but current is '5'` where both are
    /// of one type (`rabbit_misc.erl`, `assert_args_equivalence1` and `assert_field_equivalence`). `sent`
    /// is the declaration.
    pub(crate) fn parse(refusal: &str, sent: &Arguments) -> Option<Self> {
        let (_, rest) = refusal.split_once("inequivalent arg '")?;
        let (property, rest) = rest.split_once('\'')?;
        let current = rest.rsplit_once(" but current is ").map(|(_, text)| text);
        let existing = match current {
            Some("none") => ExistingValue::None,
            Some(text) => parse_value(text, property, sent.get(property))
                .map_or(ExistingValue::Unreadable, ExistingValue::Value),
            None => ExistingValue::Unreadable,
        };
        Some(Self {
            property: property.to_owned(),
            existing,
        })
    }
}

/// Parses a value such as `'5'` or `the value '5' of type 'long'`.
fn parse_value(shown: &str, property: &str, sent: Option<&FieldValue>) -> Option<FieldValue> {
    let Some(shown) = shown.strip_prefix("the value ") else {
        let shown = unquoted(shown)?;
        return match sent {
            // Both are of the type that was sent.
            Some(FieldValue::Bool(_)) => shown.parse().ok().map(FieldValue::Bool),
            Some(FieldValue::Double(_) | FieldValue::Float(_)) => {
                shown.parse().ok().map(FieldValue::Double)
            }
            Some(FieldValue::LongString(_)) => parse_text(property, shown),
            Some(sent) if topology::integer(sent).is_some() => {
                shown.parse().ok().map(FieldValue::Long)
            }
            // No type was sent.
            Some(FieldValue::Void) | None => topology::read(property, shown),
            Some(_) => None,
        };
    };
    let (shown, kind) = shown.rsplit_once(" of type ")?;
    let shown = unquoted(shown)?;
    match unquoted(kind)? {
        "longstr" => parse_text(property, shown),
        "bool" => shown.parse().ok().map(FieldValue::Bool),
        "byte" | "unsignedbyte" | "short" | "unsignedshort" | "signedint" | "unsignedint"
        | "long" => shown.parse().ok().map(FieldValue::Long),
        "double" | "float" => shown.parse().ok().map(FieldValue::Double),
        "void" => Some(FieldValue::Void),
        _ => None,
    }
}

/// Parses a text into the value with which it is declared.
fn parse_text(property: &str, shown: &str) -> Option<FieldValue> {
    match topology::read(property, shown) {
        read @ Some(FieldValue::LongString(_)) => read,
        _ => Some(FieldValue::LongString(shown.into())),
    }
}

fn unquoted(text: &str) -> Option<&str> {
    text.strip_prefix('\'')?.strip_suffix('\'')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_parsed() {
        let sent = Arguments::from([
            ("durable".to_owned(), FieldValue::Bool(false)),
            ("x-max-length".to_owned(), FieldValue::SignedInt(7)),
        ]);
        let parse = |rest: &str| {
            Inequivalent::parse(
                &format!("PRECONDITION_FAILED - inequivalent arg {rest}"),
                &sent,
            )
        };
        let known = |property: &str, existing| {
            Some(Inequivalent {
                property: property.to_owned(),
                existing,
            })
        };
        assert_eq!(
            parse("'durable' for queue 'q' in vhost '/': received 'false' but current is 'true'"),
            known("durable", ExistingValue::Value(FieldValue::Bool(true)))
        );
        assert_eq!(
            parse(
                "'x-queue-type' for queue 'q' in vhost '/': received none but current is 'classic'"
            ),
            known(
                "x-queue-type",
                ExistingValue::Value(FieldValue::LongString(b"classic".to_vec()))
            )
        );
        assert_eq!(
            parse(
                "'x-expires' for queue 'q' in vhost '/': received the value '5' of type 'long' but current is none"
            ),
            known("x-expires", ExistingValue::None)
        );
        assert_eq!(
            parse(
                "'x-dead-letter-exchange' for queue 'a but current is none' in vhost '/': received none but current is the value 'it's of type 'x'' of type 'longstr'"
            ),
            known(
                "x-dead-letter-exchange",
                ExistingValue::Value(FieldValue::LongString(b"it's of type 'x'".to_vec()))
            )
        );
        // Cut off.
        for rest in [
            "'x-expires' for queue 'long...",
            "'x-expires' for queue 'q' in vhost '/': received none but current is the value '50...",
            "'x-expires' for queue 'q' in vhost '/': received none but current is the value '{a}' of type 'table'",
        ] {
            assert_eq!(
                parse(rest),
                known("x-expires", ExistingValue::Unreadable),
                "{rest}"
            );
        }
        let invalid = "PRECONDITION_FAILED - invalid arg 'x-max-age'";
        assert_eq!(Inequivalent::parse(invalid, &sent), None);
        assert_eq!(
            parse("'x-max-length' for queue 'q' in vhost '/': received '7' but current is '5'"),
            known("x-max-length", ExistingValue::Value(FieldValue::Long(5)))
        );
    }
}
