//! The arguments of queues that hello-mq knows: their options, their units, and which types of queue
//! take them.

use super::argument::{integer, render};
use super::queue::{Overflow, QueueType};
use super::units::{Age, Milliseconds};
use crate::message::FieldValue;

use QueueType::{Classic, Quorum, Stream};

/// What an argument's value means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A name.
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A whole number from the first to the second.
    Number(i64, i64),
    /// A time in milliseconds, at least so many.
    Milliseconds(i64),
    /// Bytes.
    Bytes,
    /// The age of a stream's messages, as a text.
    Age,
    /// True or false.
    Flag,
}

/// An argument that hello-mq knows.
#[derive(Debug)]
pub struct KnownArgument {
    /// AMQP's name of it.
    pub argument: &'static str,
    /// The option without its dashes, if it has one.
    pub option: Option<&'static str>,
    /// What its value means.
    pub unit: Unit,
    /// The types of queue that take it; of another type a queue with it can't be made.
    pub types: &'static [QueueType],
}

impl KnownArgument {
    /// The argument with this name.
    pub fn find(argument: &str) -> Option<&'static Self> {
        KNOWN.iter().find(|known| known.argument == argument)
    }

    /// What is wrong with a value of it.
    pub fn problem(&self, value: &FieldValue) -> Option<String> {
        let number = integer(value);
        let in_range = |least, most| number.is_some_and(|n| (least..=most).contains(&n));
        match self.unit {
            Unit::Text if matches!(value, FieldValue::LongString(_)) => None,
            Unit::Text => Some("must be a string".to_owned()),
            Unit::Word(words) => match value {
                FieldValue::LongString(text)
                    if words.iter().any(|word| word.as_bytes() == text) =>
                {
                    None
                }
                _ => Some(format!("must be one of {}", words.join(", "))),
            },
            Unit::Number(least, most) if in_range(least, most) => None,
            Unit::Number(least, i64::MAX) => {
                Some(format!("must be an integer of at least {least}"))
            }
            Unit::Number(least, most) => Some(format!("must be an integer from {least} to {most}")),
            Unit::Milliseconds(least) if in_range(least, i64::MAX) => None,
            Unit::Milliseconds(least) => {
                Some(format!("must be at least {least}, in whole milliseconds"))
            }
            Unit::Bytes if in_range(0, i64::MAX) => None,
            Unit::Bytes => Some("must be a number of bytes, 0 or more".to_owned()),
            Unit::Age => match value {
                FieldValue::LongString(text) => String::from_utf8_lossy(text).parse::<Age>().err(),
                _ => Some("must be a string".to_owned()),
            },
            Unit::Flag if matches!(value, FieldValue::Bool(_)) => None,
            Unit::Flag => Some("must be true or false".to_owned()),
        }
    }

    /// The value that is shown so.
    pub fn read(&self, shown: &str) -> Option<FieldValue> {
        Some(match self.unit {
            // A number without a unit can't be typed.
            Unit::Age if shown.bytes().all(|byte| byte.is_ascii_digit()) => {
                FieldValue::LongString(Age::shown(shown)?.to_string().into_bytes())
            }
            Unit::Text | Unit::Word(_) | Unit::Age => FieldValue::LongString(shown.into()),
            Unit::Number(..) | Unit::Milliseconds(_) | Unit::Bytes => {
                FieldValue::Long(shown.parse().ok()?)
            }
            Unit::Flag => FieldValue::Bool(shown.parse().ok()?),
        })
    }

    /// Whether two values mean the same, `None` being none.
    pub fn is_same(&self, one: Option<&FieldValue>, other: Option<&FieldValue>) -> bool {
        let age = |value: Option<&FieldValue>| match value {
            Some(FieldValue::LongString(text)) => Age::shown(std::str::from_utf8(text).ok()?),
            _ => None,
        };
        let is_on = |value| value == Some(&FieldValue::Bool(true));
        match self.unit {
            Unit::Age => age(one).is_some() && age(one) == age(other),
            Unit::Flag => is_on(one) == is_on(other),
            _ => false,
        }
    }

    /// A value of it as the option takes it.
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

/// The arguments of queues that RabbitMQ 3.10 to 4 knows, and which types of queue take them
/// (<https://www.rabbitmq.com/docs/queues#optional-arguments>; tried out on both).
pub const KNOWN: &[KnownArgument] = &[
    known(
        "x-queue-type",
        Some("type"),
        Unit::Word(QueueType::NAMES),
        ANY,
    ),
    known(
        "x-message-ttl",
        Some("message-ttl"),
        Unit::Milliseconds(0),
        NO_STREAM,
    ),
    known(
        "x-expires",
        Some("expires"),
        Unit::Milliseconds(1),
        NO_STREAM,
    ),
    known(
        "x-max-length",
        Some("max-length"),
        Unit::Number(0, i64::MAX),
        NO_STREAM,
    ),
    known(
        "x-max-length-bytes",
        Some("max-length-bytes"),
        Unit::Bytes,
        ANY,
    ),
    known(
        "x-overflow",
        Some("overflow"),
        Unit::Word(Overflow::NAMES),
        NO_STREAM,
    ),
    known(
        "x-dead-letter-exchange",
        Some("dead-letter-exchange"),
        Unit::Text,
        NO_STREAM,
    ),
    known(
        "x-dead-letter-routing-key",
        Some("dead-letter-routing-key"),
        Unit::Text,
        NO_STREAM,
    ),
    known(
        "x-max-priority",
        Some("max-priority"),
        Unit::Number(0, 255),
        &[Classic],
    ),
    known(
        "x-delivery-limit",
        Some("delivery-limit"),
        Unit::Number(-1, i64::MAX),
        &[Quorum],
    ),
    known(
        "x-single-active-consumer",
        Some("single-active-consumer"),
        Unit::Flag,
        NO_STREAM,
    ),
    known("x-queue-mode", None, Unit::Text, &[Classic]),
    known(
        "x-queue-version",
        None,
        Unit::Number(1, i64::MAX),
        &[Classic],
    ),
    known("x-dead-letter-strategy", None, Unit::Text, &[Quorum]),
    known(
        "x-quorum-initial-group-size",
        None,
        Unit::Number(1, i64::MAX),
        &[Quorum],
    ),
    known(
        "x-max-in-memory-length",
        None,
        Unit::Number(0, i64::MAX),
        &[Quorum],
    ),
    known("x-max-in-memory-bytes", None, Unit::Bytes, &[Quorum]),
    known("x-max-age", None, Unit::Age, &[Stream]),
    known(
        "x-stream-max-segment-size-bytes",
        None,
        Unit::Bytes,
        &[Stream],
    ),
    known(
        "x-initial-cluster-size",
        None,
        Unit::Number(1, i64::MAX),
        &[Stream],
    ),
    known("x-queue-leader-locator", None, Unit::Text, ANY),
];

const fn known(
    argument: &'static str,
    option: Option<&'static str>,
    unit: Unit,
    types: &'static [QueueType],
) -> KnownArgument {
    KnownArgument {
        argument,
        option,
        unit,
        types,
    }
}
