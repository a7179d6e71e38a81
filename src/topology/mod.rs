//! Definitions of queues, exchanges and bindings, and RabbitMQ's rules about them.

mod argument;
mod binding;
mod exchange;
mod known;
mod queue;
mod units;

use std::collections::BTreeMap;
use std::fmt;

pub use argument::{Argument, json};
pub(crate) use argument::{integer, render};
pub use binding::{Binding, BindingOptions, BoundExchange, Destination, all as bindings};
pub(crate) use exchange::ALTERNATE;
pub use exchange::{Exchange, ExchangeOptions, ExchangeType};
use known::KnownArgument;
pub use queue::{Overflow, Queue, QueueKind, QueueOptions, QueueType};
pub use units::{Milliseconds, Size};

use crate::message::FieldValue;
use crate::values::QueueName;

/// Arguments by their names in AMQP: `durable`, `x-message-ttl`.
pub type Arguments = BTreeMap<String, FieldValue>;

/// A violation of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The option at fault, without its dashes (`auto-delete`), or `argument x-expires`.
    pub option: String,
    /// The rule.
    pub rule: String,
}

impl Violation {
    fn new(option: impl Into<String>, rule: impl Into<String>) -> Self {
        Self {
            option: option.into(),
            rule: rule.into(),
        }
    }
}

/// Collects the arguments that were given with `option`, each at most once.
pub fn collect(arguments: Vec<Argument>, option: &str) -> Result<Arguments, Violation> {
    let mut properties = Arguments::new();
    queue::add(&mut properties, arguments, option)?;
    Ok(properties)
}

/// The definitions of a configuration file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Topology {
    /// The exchanges.
    pub exchanges: Vec<Exchange>,
    /// The queues.
    pub queues: Vec<Queue>,
    /// The bindings.
    pub bindings: Vec<Binding>,
}

impl Topology {
    /// Returns the queue with this name.
    pub fn queue(&self, name: &QueueName) -> Option<&Queue> {
        self.queues
            .iter()
            .find(|queue| queue.name.as_ref() == Some(name))
    }

    /// Returns everything in the order in which it has to be declared: bindings last.
    pub fn entities(&self) -> Vec<Entity> {
        let exchanges = self.exchanges.iter().cloned().map(Entity::Exchange);
        let queues = self.queues.iter().cloned().map(Entity::Queue);
        let bindings = self.bindings.iter().cloned().map(Entity::Binding);
        exchanges.chain(queues).chain(bindings).collect()
    }
}

/// Something that can be declared. `Display` names it.
#[derive(Clone, Debug, PartialEq)]
pub enum Entity {
    /// An exchange.
    Exchange(Exchange),
    /// A queue.
    Queue(Queue),
    /// A binding.
    Binding(Binding),
}

impl fmt::Display for Entity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exchange(exchange) => write!(f, "exchange {exchange}"),
            Self::Queue(queue) => write!(f, "queue {queue}"),
            Self::Binding(binding) => write!(f, "{binding}"),
        }
    }
}

impl Entity {
    /// Describes the AMQP method that declares it, with its arguments.
    pub fn operation(&self) -> String {
        match self {
            Self::Exchange(exchange) => {
                format!(
                    "exchange.declare {exchange} {}",
                    listed(&exchange.properties())
                )
            }
            Self::Queue(queue) => format!("queue.declare {queue} {}", listed(&queue.properties())),
            Self::Binding(binding) => {
                let method = match binding.destination {
                    Destination::Exchange(_) => "exchange.bind",
                    Destination::Queue(_) => "queue.bind",
                };
                let arguments = if binding.arguments.is_empty() {
                    String::new()
                } else {
                    format!(" {}", listed(&binding.arguments))
                };
                format!(
                    "{method} {} to {} with '{}'{arguments}",
                    binding.destination,
                    binding.source(),
                    crate::text::escape(&binding.routing_key),
                )
            }
        }
    }
}

/// Returns an option and its value for a shell. The value may look like an option.
fn option(option: &str, value: &str) -> String {
    let separator = if value.starts_with('-') { '=' } else { ' ' };
    format!("{option}{separator}{}", crate::text::shell(value))
}

fn listed(properties: &Arguments) -> String {
    let all: Vec<_> = properties
        .iter()
        .map(|(name, value)| format!("{}={}", crate::text::escape(name), render(value)))
        .collect();
    all.join(" ")
}

/// A property that differs from what is wanted. `None` is a missing property.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The name in AMQP.
    pub property: String,
    /// The wanted value.
    pub wanted: Option<FieldValue>,
    /// The existing value.
    pub existing: Option<FieldValue>,
    /// Whether the existing value is known. The broker may have truncated its text.
    pub is_known: bool,
}

impl Difference {
    /// Returns the differences between two sets of properties. Values with the same meaning are the same:
    /// numbers of different types, ages in different units.
    pub fn between(wanted: &Arguments, existing: &Arguments) -> Vec<Self> {
        let mut names: Vec<_> = wanted.keys().chain(existing.keys()).collect();
        names.sort_by_key(|name| (name.contains('-'), *name));
        names.dedup();
        names
            .into_iter()
            .filter_map(|name| {
                let (wanted, existing) = (wanted.get(name), existing.get(name));
                (!is_same(name, wanted, existing)).then(|| Self {
                    property: name.clone(),
                    wanted: wanted.cloned(),
                    existing: existing.cloned(),
                    is_known: true,
                })
            })
            .collect()
    }

    /// Describes the difference: `--message-ttl: wanted 1m, existing none`.
    pub fn line(&self) -> String {
        let known = KnownArgument::find(&self.property);
        let option = match (self.property.as_str(), known) {
            ("type", _) => "--exchange-type".to_owned(),
            ("durable" | "internal" | ALTERNATE, _) => format!("--{}", self.property),
            ("auto_delete", _) => "--auto-delete".to_owned(),
            (name, known) => match known.and_then(KnownArgument::option) {
                Some(option) => format!("--{option}"),
                None => format!("--argument {}", crate::text::escape(name)),
            },
        };
        let shown = |value: Option<&FieldValue>| match (value, known) {
            (None, _) => "none".to_owned(),
            (Some(value), Some(known)) => known.render(value),
            (Some(value), None) => render(value),
        };
        let existing = match self.property.as_str() {
            _ if !self.is_known => "unknown, because the broker's message was truncated".to_owned(),
            // A queue without the argument is classic.
            "x-queue-type" if self.existing.is_none() => "classic".to_owned(),
            _ => shown(self.existing.as_ref()),
        };
        format!(
            "{option}: wanted {}, existing {existing}",
            shown(self.wanted.as_ref())
        )
    }
}

/// Returns the value of an argument that the broker shows without its type.
pub(crate) fn read(argument: &str, shown: &str) -> Option<FieldValue> {
    match KnownArgument::find(argument) {
        Some(known) => known.read(shown),
        None => Some(FieldValue::LongString(shown.into())),
    }
}

/// Whether queues of this type accept an argument, as far as that is known.
pub(crate) fn is_taken_by(argument: &str, kind: QueueType) -> bool {
    KnownArgument::find(argument).is_none_or(|known| known.types.contains(&kind))
}

/// Whether two values of a property mean the same to RabbitMQ; `None` is a missing property.
pub(crate) fn is_same(
    property: &str,
    one: Option<&FieldValue>,
    other: Option<&FieldValue>,
) -> bool {
    if KnownArgument::find(property).is_some_and(|known| known.is_same(one, other)) {
        return true;
    }
    match (one, other) {
        (Some(one), Some(other)) => {
            let numbers = (argument::integer(one), argument::integer(other));
            one == other || matches!(numbers, (Some(one), Some(other)) if one == other)
        }
        (None, None) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_the_same_whatever_its_type() {
        let one = |value| Arguments::from([("x-max-length".to_owned(), value)]);
        let same = Difference::between(&one(FieldValue::SignedInt(5)), &one(FieldValue::Long(5)));
        assert_eq!(same, []);
        let other = Difference::between(&one(FieldValue::SignedInt(5)), &Arguments::new());
        assert_eq!(other.len(), 1);
        assert_eq!(other[0].existing, None);
    }
}
