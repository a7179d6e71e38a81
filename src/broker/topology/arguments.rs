//! Optional arguments in the client library's types, and what the broker says of them.

use amiquip::{AmqpValue, FieldTable};

use crate::message::FieldValue;
use crate::topology::{self, Arguments};

/// Optional arguments as the library takes them.
pub fn field_table(arguments: &Arguments) -> FieldTable {
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
        // RabbitMQ makes no difference between the two.
        FieldValue::Long(number) | FieldValue::LongLong(number) => AmqpValue::LongLongInt(*number),
        FieldValue::Float(number) => AmqpValue::Float(*number),
        FieldValue::Double(number) => AmqpValue::Double(*number),
        // The library does not let its type of a decimal out, which is why `topology` refuses one.
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
        // `topology` refuses what is encoded already.
        FieldValue::Void | FieldValue::Encoded(_) => AmqpValue::Void,
    }
}

/// The broker's answer to a declaration that does not match what exists: the property that it names,
/// and what it says there is.
#[derive(Debug, PartialEq)]
pub struct Inequivalent {
    /// AMQP's name of the property.
    pub property: String,
    /// Its value; `None` if there is none.
    pub existing: Option<FieldValue>,
}

impl Inequivalent {
    /// Reads the broker's words: `inequivalent arg 'x-expires' for queue 'q' in vhost '/': received
    /// none but current is the value '5' of type 'signedint'`, or `… received '7' but current is '5'`
    /// where both are of one type (`rabbit_misc.erl`, `assert_args_equivalence1` and
    /// `assert_field_equivalence`). `sent` is what was declared.
    ///
    /// # Errors
    /// The property alone if what there is can't be read: a short string has at most 255 bytes, and
    /// the broker cuts its words to fit.
    pub fn parse(said: &str, sent: &Arguments) -> Option<Result<Self, String>> {
        let (_, rest) = said.split_once("inequivalent arg '")?;
        let (property, rest) = rest.split_once('\'')?;
        let existing = rest.rsplit_once(" but current is ").map(|(_, shown)| shown);
        let known = |existing| Self {
            property: property.to_owned(),
            existing,
        };
        let existing = match existing {
            Some("none") => Some(known(None)),
            Some(shown) => {
                value(shown, property, sent.get(property)).map(|value| known(Some(value)))
            }
            None => None,
        };
        Some(existing.ok_or(property.to_owned()))
    }
}

/// A value as the broker shows it: `'5'`, or `the value '5' of type 'long'`.
fn value(shown: &str, property: &str, sent: Option<&FieldValue>) -> Option<FieldValue> {
    let Some(shown) = shown.strip_prefix("the value ") else {
        let shown = unquoted(shown)?;
        return match sent {
            // It is of the type that was sent.
            Some(FieldValue::Bool(_)) => shown.parse().ok().map(FieldValue::Bool),
            Some(FieldValue::Double(_) | FieldValue::Float(_)) => {
                shown.parse().ok().map(FieldValue::Double)
            }
            Some(FieldValue::LongString(_)) => text(property, shown),
            Some(sent) if topology::integer(sent).is_some() => {
                shown.parse().ok().map(FieldValue::Long)
            }
            // Nothing to go by was sent.
            Some(FieldValue::Void) | None => topology::read(property, shown),
            Some(_) => None,
        };
    };
    let (shown, kind) = shown.rsplit_once(" of type ")?;
    let shown = unquoted(shown)?;
    match unquoted(kind)? {
        "longstr" => text(property, shown),
        "bool" => shown.parse().ok().map(FieldValue::Bool),
        "byte" | "unsignedbyte" | "short" | "unsignedshort" | "signedint" | "unsignedint"
        | "long" => shown.parse().ok().map(FieldValue::Long),
        "double" | "float" => shown.parse().ok().map(FieldValue::Double),
        "void" => Some(FieldValue::Void),
        _ => None,
    }
}

/// A text as the broker shows it, in the form in which it can be declared.
fn text(property: &str, shown: &str) -> Option<FieldValue> {
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
    fn the_brokers_words_are_understood() {
        let sent = Arguments::from([
            ("durable".to_owned(), FieldValue::Bool(false)),
            ("x-max-length".to_owned(), FieldValue::SignedInt(7)),
        ]);
        let says = |rest: &str| {
            Inequivalent::parse(
                &format!("PRECONDITION_FAILED - inequivalent arg {rest}"),
                &sent,
            )
        };
        let known = |property: &str, existing| {
            Some(Ok(Inequivalent {
                property: property.to_owned(),
                existing,
            }))
        };
        assert_eq!(
            says("'durable' for queue 'q' in vhost '/': received 'false' but current is 'true'"),
            known("durable", Some(FieldValue::Bool(true)))
        );
        assert_eq!(
            says(
                "'x-queue-type' for queue 'q' in vhost '/': received none but current is 'classic'"
            ),
            known(
                "x-queue-type",
                Some(FieldValue::LongString(b"classic".to_vec()))
            )
        );
        assert_eq!(
            says(
                "'x-expires' for queue 'q' in vhost '/': received the value '5' of type 'long' but current is none"
            ),
            known("x-expires", None)
        );
        assert_eq!(
            says(
                "'x-dead-letter-exchange' for queue 'a but current is none' in vhost '/': received none but current is the value 'it's of type 'x'' of type 'longstr'"
            ),
            known(
                "x-dead-letter-exchange",
                Some(FieldValue::LongString(b"it's of type 'x'".to_vec()))
            )
        );
        // Cut off.
        for rest in [
            "'x-expires' for queue 'long...",
            "'x-expires' for queue 'q' in vhost '/': received none but current is the value '50...",
            "'x-expires' for queue 'q' in vhost '/': received none but current is the value '{a}' of type 'table'",
        ] {
            assert_eq!(says(rest), Some(Err("x-expires".to_owned())), "{rest}");
        }
        let invalid = "PRECONDITION_FAILED - invalid arg 'x-max-age'";
        assert_eq!(Inequivalent::parse(invalid, &sent), None);
        assert_eq!(
            says("'x-max-length' for queue 'q' in vhost '/': received '7' but current is '5'"),
            known("x-max-length", Some(FieldValue::Long(5)))
        );
    }
}
