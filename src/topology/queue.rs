//! Queues, and RabbitMQ's rules about them.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use super::argument::{Argument, int};
use super::known::{KNOWN, KnownArgument, Unit};
use super::units::{Milliseconds, Size};
use super::{Arguments, Violation};
use crate::message::FieldValue;
use crate::text;
use crate::values::{Name, QueueName, deserialize_by_parsing};

deserialize_by_parsing!(QueueType, Overflow);

/// The type of a queue (<https://www.rabbitmq.com/docs/queues>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueType {
    /// Stored on one node.
    Classic,
    /// Replicated by consensus.
    Quorum,
    /// A log that keeps its messages when they are read.
    Stream,
}

/// The type of a queue, as far as it matters to a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueKind {
    /// It does not count deliveries.
    Classic,
    /// It counts how often a message was returned.
    Quorum {
        /// The delivery limit of the queue itself.
        limit: Option<u64>,
    },
    /// It numbers its messages.
    Stream,
    /// The broker does not tell the type to this user.
    Unknown,
}

impl QueueType {
    /// The names, as in `x-queue-type`.
    pub const NAMES: &[&str] = &["classic", "quorum", "stream"];

    /// Returns the name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Quorum => "quorum",
            Self::Stream => "stream",
        }
    }

    /// Returns the type that a value of `x-queue-type` names.
    pub fn of(value: &FieldValue) -> Option<Self> {
        match value {
            FieldValue::LongString(name) => std::str::from_utf8(name).ok()?.parse().ok(),
            _ => None,
        }
    }
}

impl FromStr for QueueType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "classic" => Ok(Self::Classic),
            "quorum" => Ok(Self::Quorum),
            "stream" => Ok(Self::Stream),
            _ => Err(format!("must be one of {}", Self::NAMES.join(", "))),
        }
    }
}

/// The behaviour of a full queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow(&'static str);

impl Overflow {
    /// The names, as in `x-overflow`.
    pub const NAMES: &[&str] = &["drop-head", "reject-publish", "reject-publish-dlx"];
}

impl FromStr for Overflow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match Self::NAMES.iter().find(|name| **name == text) {
            Some(name) => Ok(Self(name)),
            None => Err(format!("must be one of {}", Self::NAMES.join(", "))),
        }
    }
}

/// The options, or keys of the configuration file, that define a queue.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table", default)]
#[allow(missing_docs)]
pub struct QueueOptions {
    pub name: Option<QueueName>,
    #[serde(rename = "type")]
    pub kind: Option<QueueType>,
    pub durable: bool,
    pub auto_delete: bool,
    pub message_ttl: Option<Milliseconds>,
    pub expires: Option<Milliseconds>,
    pub max_length: Option<u32>,
    pub max_length_bytes: Option<Size>,
    pub overflow: Option<Overflow>,
    pub dead_letter_exchange: Option<Name>,
    pub dead_letter_routing_key: Option<Name>,
    pub max_priority: Option<u8>,
    pub delivery_limit: Option<u32>,
    pub single_active_consumer: bool,
    #[serde(deserialize_with = "super::argument::arguments")]
    pub arguments: Vec<Argument>,
}

impl QueueOptions {
    /// Returns the queue, or the rule that it violates. Only what every supported RabbitMQ refuses is
    /// refused here.
    pub fn define(self) -> Result<Queue, Violation> {
        let text = |text: &str| FieldValue::LongString(text.as_bytes().to_vec());
        let named = |name: Option<&Name>| name.map(|name| text(name.as_str()));
        let values = [
            ("x-queue-type", self.kind.map(|kind| text(kind.as_str()))),
            ("x-message-ttl", self.message_ttl.map(Milliseconds::value)),
            ("x-expires", self.expires.map(Milliseconds::value)),
            ("x-max-length", self.max_length.map(|n| int(n.into()))),
            ("x-max-length-bytes", self.max_length_bytes.map(Size::value)),
            ("x-overflow", self.overflow.map(|overflow| text(overflow.0))),
            (
                "x-dead-letter-exchange",
                named(self.dead_letter_exchange.as_ref()),
            ),
            (
                "x-dead-letter-routing-key",
                named(self.dead_letter_routing_key.as_ref()),
            ),
            ("x-max-priority", self.max_priority.map(|n| int(n.into()))),
            (
                "x-delivery-limit",
                self.delivery_limit.map(|n| int(n.into())),
            ),
            (
                "x-single-active-consumer",
                self.single_active_consumer
                    .then_some(FieldValue::Bool(true)),
            ),
        ];
        let mut arguments: Arguments = values
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect();
        add(&mut arguments, self.arguments, "argument")?;
        let kind = arguments.get("x-queue-type").and_then(QueueType::of);
        let queue = Queue {
            name: self.name,
            durable: self.durable || matches!(kind, Some(QueueType::Quorum | QueueType::Stream)),
            auto_delete: self.auto_delete,
            arguments,
        };
        queue.check()?;
        Ok(queue)
    }
}

/// Adds single arguments to those of options. Each may be given once.
pub(super) fn add(
    to: &mut Arguments,
    arguments: Vec<Argument>,
    option: &str,
) -> Result<(), Violation> {
    for Argument { name, value } in arguments {
        let violation = format!("{option} {}", text::escape(&name));
        if to.insert(name, value).is_some() {
            return Err(Violation::new(violation, "is given twice"));
        }
    }
    Ok(())
}

/// The definition of a queue. `Display` is the quoted name.
#[derive(Clone, Debug, PartialEq)]
pub struct Queue {
    /// The name; `None` if the broker is to choose it.
    pub name: Option<QueueName>,
    /// Whether it survives a restart of the broker.
    pub durable: bool,
    /// Whether it is deleted with its last consumer.
    pub auto_delete: bool,
    /// The optional arguments.
    pub arguments: Arguments,
}

impl Queue {
    /// Returns a queue as the tutorial declares it.
    pub fn plain(name: QueueName) -> Self {
        Self {
            name: Some(name),
            durable: false,
            auto_delete: false,
            arguments: Arguments::new(),
        }
    }

    /// Returns the type, if the arguments contain it.
    pub fn kind(&self) -> Option<QueueType> {
        self.arguments.get("x-queue-type").and_then(QueueType::of)
    }

    /// Returns the properties that the broker compares with those of an existing queue.
    pub fn properties(&self) -> Arguments {
        let mut properties = self.arguments.clone();
        properties.insert("durable".to_owned(), FieldValue::Bool(self.durable));
        properties.insert("auto_delete".to_owned(), FieldValue::Bool(self.auto_delete));
        properties
    }

    /// Returns a queue of the same name with these properties.
    pub fn with(&self, mut properties: Arguments) -> Self {
        let mut is_true = |name| properties.remove(name) == Some(FieldValue::Bool(true));
        Self {
            name: self.name.clone(),
            durable: is_true("durable"),
            auto_delete: is_true("auto_delete"),
            arguments: properties,
        }
    }

    fn check(&self) -> Result<(), Violation> {
        let kind = self.kind();
        if let (true, Some(kind @ (QueueType::Quorum | QueueType::Stream))) =
            (self.auto_delete, kind)
        {
            let kind = kind.as_str();
            return Err(Violation::new(
                "auto-delete",
                format!("a {kind} queue can't be auto-delete"),
            ));
        }
        for known in KNOWN {
            let Some(value) = self.arguments.get(known.argument) else {
                continue;
            };
            let option = option_of(known);
            if let Some(problem) = known.problem(value) {
                return Err(Violation::new(option, problem));
            }
            if let Some(kind) = kind.filter(|kind| !known.types.contains(kind)) {
                let kind = kind.as_str();
                let kinds: Vec<_> = known.types.iter().map(|kind| kind.as_str()).collect();
                return Err(Violation::new(
                    option,
                    format!(
                        "is for {} queues, not for a {kind} one",
                        kinds.join(" and ")
                    ),
                ));
            }
        }
        let has = |argument| self.arguments.contains_key(argument);
        if has("x-dead-letter-routing-key") && !has("x-dead-letter-exchange") {
            return Err(Violation::new(
                "dead-letter-routing-key",
                "needs a dead-letter exchange ('' is the default one)",
            ));
        }
        Ok(())
    }

    /// Returns the command that declares this queue.
    pub fn command(&self) -> String {
        let mut words = vec!["hello-mq declare".to_owned()];
        let name = self.name.as_ref().map_or("", QueueName::as_str);
        if name.starts_with('-') {
            words.push(format!("--queue={}", text::shell(name)));
        } else {
            words.push(text::shell(name));
        }
        let kind = self.kind();
        if self.durable && !matches!(kind, Some(QueueType::Quorum | QueueType::Stream)) {
            words.push("--durable".to_owned());
        }
        if self.auto_delete {
            words.push("--auto-delete".to_owned());
        }
        for (name, value) in &self.arguments {
            let known = KnownArgument::find(name);
            let known = known.and_then(|known| Some((known, known.option()?)));
            words.push(match (known, value) {
                (Some((known, option)), FieldValue::Bool(true)) if known.unit == Unit::Flag => {
                    format!("--{option}")
                }
                (Some((_, option)), FieldValue::LongString(value)) => {
                    super::option(&format!("--{option}"), &String::from_utf8_lossy(value))
                }
                (Some((known, option)), value)
                    if known.problem(value).is_none()
                        && !matches!(value, FieldValue::Bool(_))
                        && !is_negative(value) =>
                {
                    format!("--{option} {}", known.render(value))
                }
                _ => typed("--argument", name, value),
            });
        }
        words.join(" ")
    }
}

fn is_negative(value: &FieldValue) -> bool {
    super::argument::integer(value).is_some_and(|number| number < 0)
}

/// Returns `--argument KEY=VALUE`, or `KEY:=JSON` if the former would have another type.
pub(super) fn typed(option: &str, name: &str, value: &FieldValue) -> String {
    let plain = match value {
        FieldValue::LongString(text) => String::from_utf8_lossy(text).into_owned(),
        value => super::argument::json(value),
    };
    let argument = match format!("{name}={plain}").parse::<Argument>() {
        Ok(argument) if super::is_same(name, Some(&argument.value), Some(value)) => {
            format!("{name}={plain}")
        }
        _ => format!("{name}:={}", super::argument::json(value)),
    };
    format!("{option} {}", text::shell(&argument))
}

/// Returns the name of an argument's option: `max-priority`, or `argument x-max-age`.
fn option_of(known: &KnownArgument) -> String {
    match known.option() {
        Some(option) => option.to_owned(),
        None => format!("argument {}", known.argument),
    }
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name}"),
            None => f.write_str("''"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(list: &[&str]) -> QueueOptions {
        QueueOptions {
            arguments: list.iter().map(|text| text.parse().unwrap()).collect(),
            ..QueueOptions::default()
        }
    }

    #[test]
    fn a_broken_rule_is_named() {
        for (list, option, rule) in [
            (&["x-expires=0"][..], "expires", "at least 1"),
            (&["x-message-ttl=-1"], "message-ttl", "at least 0"),
            (&["x-message-ttl=1.5"], "message-ttl", "whole milliseconds"),
            (&["x-message-ttl=1s"], "message-ttl", "whole milliseconds"),
            (&["x-max-length=-1"], "max-length", "at least 0"),
            (&["x-max-length-bytes=-1"], "max-length-bytes", "0 or more"),
            (&["x-max-priority=256"], "max-priority", "from 0 to 255"),
            (&["x-overflow=drop-tail"], "overflow", "one of drop-head"),
            (&["x-queue-type=mirrored"], "type", "one of classic"),
            (
                &["x-single-active-consumer=1"],
                "single-active-consumer",
                "true or false",
            ),
            (
                &["x-dead-letter-exchange=1"],
                "dead-letter-exchange",
                "a string",
            ),
            (
                &["x-dead-letter-routing-key=a"],
                "dead-letter-routing-key",
                "needs",
            ),
            (
                &["x-queue-type=quorum", "x-max-priority=5"],
                "max-priority",
                "not for a quorum",
            ),
            (
                &["x-queue-type=stream", "x-expires=5"],
                "expires",
                "not for a stream",
            ),
            (
                &["x-queue-type=classic", "x-delivery-limit=5"],
                "delivery-limit",
                "for quorum",
            ),
            (
                &["x-queue-type=classic", "x-max-age=1h"],
                "argument x-max-age",
                "for stream",
            ),
            (&["a=1", "a=2"], "argument a", "twice"),
        ] {
            let violation = arguments(list).define().unwrap_err();
            assert_eq!(violation.option, option, "{list:?}");
            assert!(violation.rule.contains(rule), "{violation:?}");
        }
        for kind in ["quorum", "stream"] {
            let violation = QueueOptions {
                kind: kind.parse().ok(),
                auto_delete: true,
                ..QueueOptions::default()
            }
            .define()
            .unwrap_err();
            assert_eq!(violation.option, "auto-delete");
            assert!(violation.rule.contains(kind), "{violation:?}");
        }
        let twice = QueueOptions {
            max_length: Some(1),
            ..arguments(&["x-max-length=1"])
        };
        assert_eq!(twice.define().unwrap_err().option, "argument x-max-length");
    }

    #[test]
    fn quorum_queues_and_streams_are_durable() {
        for (kind, durable) in [("classic", false), ("quorum", true), ("stream", true)] {
            let list = [format!("x-queue-type={kind}")];
            let list: Vec<_> = list.iter().map(String::as_str).collect();
            assert_eq!(arguments(&list).define().unwrap().durable, durable);
        }
    }

    #[test]
    fn the_command_can_be_typed() {
        let queue = QueueOptions {
            name: "a b".parse().ok(),
            durable: true,
            message_ttl: Some(Milliseconds(90_000)),
            dead_letter_exchange: "".parse().ok(),
            dead_letter_routing_key: "it's".parse().ok(),
            ..arguments(&["x-queue-mode=lazy", "x-foo:=\"5\"", "x-max-priority=3"])
        };
        let queue = queue.define().unwrap();
        assert_eq!(
            queue.command(),
            "hello-mq declare 'a b' --durable --dead-letter-exchange '' --dead-letter-routing-key \
             'it'\\''s' --argument 'x-foo:=\"5\"' --max-priority 3 --message-ttl 1m30s --argument \
             x-queue-mode=lazy"
        );
        let minus = QueueOptions {
            name: "-q".parse().ok(),
            kind: Some(QueueType::Quorum),
            ..arguments(&["x-delivery-limit=-1"])
        };
        assert_eq!(
            minus.define().unwrap().command(),
            "hello-mq declare --queue=-q --argument x-delivery-limit=-1 --type quorum"
        );
    }
}
