//! The arguments of queues that hello-mq knows: their options, units and queue types.

use super::argument::{integer, render};
use super::queue::{Overflow, QueueType};
use super::units::{Age, Milliseconds};
use crate::message::FieldValue;

use QueueType::{Classic, Quorum, Stream};
use Unit::{Bytes, Flag, Number, Text, Word};

/// The unit of an argument's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A name.
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A whole number from the first to the second.
    Number(i64, i64),
    /// A time in milliseconds, of at least this number.
    Milliseconds(i64),
    /// A number of bytes.
    Bytes,
    /// The age of messages in a stream, as a text.
    Age,
    /// True or false.
    Flag,
}

/// An argument that hello-mq knows.
#[derive(Debug)]
pub struct KnownArgument {
    /// The name in AMQP.
    pub argument: &'static str,
    has_option: bool,
    /// The unit of its value.
    pub unit: Unit,
    /// The types of queues that accept it. RabbitMQ refuses to declare others with it.
    pub types: &'static [QueueType],
}

impl KnownArgument {
    /// Returns the argument with this name.
    pub fn find(argument: &str) -> Option<&'static Self> {
        KNOWN.iter().find(|known| known.argument == argument)
    }

    /// Returns the name of the option without its dashes, if there is one.
    pub fn option(&self) -> Option<&'static str> {
        self.has_option.then(|| match self.argument {
            "x-queue-type" => "type",
            argument => argument.trim_start_matches("x-"),
        })
    }

    /// Returns what is wrong with a value.
    pub fn problem(&self, value: &FieldValue) -> Option<String> {
        let number = integer(value);
        let in_range = |least, most| number.is_some_and(|n| (least..=most).contains(&n));
        match self.unit {
            Text if matches!(value, FieldValue::LongString(_)) => None,
            Text => Some("must be a string".to_owned()),
            Word(words) => match value {
                FieldValue::LongString(text)
                    if words.iter().any(|word| word.as_bytes() == text) =>
                {
                    None
                }
                _ => Some(format!("must be one of {}", words.join(", "))),
            },
            Number(least, most) if in_range(least, most) => None,
            Number(least, i64::MAX) => Some(format!("must be an integer of at least {least}")),
            Number(least, most) => Some(format!("must be an integer from {least} to {most}")),
            Unit::Milliseconds(least) if in_range(least, i64::MAX) => None,
            Unit::Milliseconds(least) => {
                Some(format!("must be at least {least}, in whole milliseconds"))
            }
            Bytes if in_range(0, i64::MAX) => None,
            Bytes => Some("must be a number of bytes, 0 or more".to_owned()),
            Unit::Age => match value {
                FieldValue::LongString(text) => String::from_utf8_lossy(text).parse::<Age>().err(),
                _ => Some("must be a string".to_owned()),
            },
            Flag if matches!(value, FieldValue::Bool(_)) => None,
            Flag => Some("must be true or false".to_owned()),
        }
    }

    /// Returns the value that RabbitMQ shows as this text in an error.
    pub fn read(&self, shown: &str) -> Option<FieldValue> {
        Some(match self.unit {
            // The option requires a unit.
            Unit::Age if shown.bytes().all(|byte| byte.is_ascii_digit()) => {
                FieldValue::LongString(Age::shown(shown)?.to_string().into_bytes())
            }
            Text | Word(_) | Unit::Age => FieldValue::LongString(shown.into()),
            Number(..) | Unit::Milliseconds(_) | Bytes => FieldValue::Long(shown.parse().ok()?),
            Flag => FieldValue::Bool(shown.parse().ok()?),
        })
    }

    /// Whether two values have the same meaning; `None` is a missing argument.
    pub fn is_same(&self, one: Option<&FieldValue>, other: Option<&FieldValue>) -> bool {
        let age = |value: Option<&FieldValue>| match value {
            Some(FieldValue::LongString(text)) => Age::shown(std::str::from_utf8(text).ok()?),
            _ => None,
        };
        let is_on = |value| value == Some(&FieldValue::Bool(true));
        match self.unit {
            Unit::Age => age(one).is_some() && age(one) == age(other),
            Flag => is_on(one) == is_on(other),
            _ => false,
        }
    }

    /// Returns a value as the option takes it.
    pub fn render(&self, value: &FieldValue) -> String {
        match (self.unit, value, integer(value)) {
            (Unit::Milliseconds(_), _, Some(number)) => match u64::try_from(number) {
                Ok(number) => Milliseconds(number).to_string(),
                Err(_) => render(value),
            },
            _ => render(value),
        }
    }
}

const ANY: &[QueueType] = &[Classic, Quorum, Stream];
const NO_STREAM: &[QueueType] = &[Classic, Quorum];

/// The arguments of queues in RabbitMQ 3.10 to 4, and the queue types that accept them
/// (<https://www.rabbitmq.com/docs/queues#optional-arguments>; tested with both).
pub const KNOWN: &[KnownArgument] = &[
    option("x-queue-type", Word(QueueType::NAMES), ANY),
    option("x-message-ttl", Unit::Milliseconds(0), NO_STREAM),
    option("x-expires", Unit::Milliseconds(1), NO_STREAM),
    option("x-max-length", Number(0, i64::MAX), NO_STREAM),
    option("x-max-length-bytes", Bytes, ANY),
    option("x-overflow", Word(Overflow::NAMES), NO_STREAM),
    option("x-dead-letter-exchange", Text, NO_STREAM),
    option("x-dead-letter-routing-key", Text, NO_STREAM),
    option("x-max-priority", Number(0, 255), &[Classic]),
    option("x-delivery-limit", Number(-1, i64::MAX), &[Quorum]),
    option("x-single-active-consumer", Flag, NO_STREAM),
    argument("x-queue-mode", Text, &[Classic]),
    argument("x-queue-version", Number(1, i64::MAX), &[Classic]),
    argument("x-dead-letter-strategy", Text, &[Quorum]),
    argument(
        "x-quorum-initial-group-size",
        Number(1, i64::MAX),
        &[Quorum],
    ),
    argument("x-max-in-memory-length", Number(0, i64::MAX), &[Quorum]),
    argument("x-max-in-memory-bytes", Bytes, &[Quorum]),
    argument("x-max-age", Unit::Age, &[Stream]),
    argument("x-stream-max-segment-size-bytes", Bytes, &[Stream]),
    argument("x-initial-cluster-size", Number(1, i64::MAX), &[Stream]),
    argument("x-queue-leader-locator", Text, ANY),
];

/// Returns an argument that has an option of its own.
const fn option(argument: &'static str, unit: Unit, types: &'static [QueueType]) -> KnownArgument {
    KnownArgument {
        argument,
        has_option: true,
        unit,
        types,
    }
}

/// Returns an argument that is given by `--argument`.
const fn argument(
    argument: &'static str,
    unit: Unit,
    types: &'static [QueueType],
) -> KnownArgument {
    KnownArgument {
        argument,
        has_option: false,
        unit,
        types,
    }
}
