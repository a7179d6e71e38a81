//! A binding: which messages of an exchange go on to a queue or to another exchange.

use std::fmt;

use serde::Deserialize;

use super::queue::add;
use super::{Argument, Arguments, Violation};
use crate::text;
use crate::values::{Name, QueueName};

/// Where a binding leads. `Display` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To a queue; without a name, to the one that the broker has just named.
    Queue(Option<QueueName>),
    /// To an exchange.
    Exchange(String),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue(Some(name)) => write!(f, "queue {name}"),
            Self::Queue(None) => f.write_str("queue ''"),
            Self::Exchange(name) => write!(f, "exchange '{}'", text::escape(name)),
        }
    }
}

/// Bindings as they are asked for by keys of the configuration file: one for each routing key.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table", default)]
#[allow(missing_docs)]
pub struct BindingOptions {
    pub exchange: Option<Name>,
    pub queue: Option<QueueName>,
    pub destination_exchange: Option<Name>,
    pub routing_key: Option<Name>,
    pub routing_keys: Vec<Name>,
    #[serde(deserialize_with = "super::argument::arguments")]
    pub arguments: Vec<Argument>,
}

impl BindingOptions {
    /// The bindings that are asked for. Without a routing key it is empty, which is all that fanout
    /// and headers exchanges need.
    ///
    /// # Errors
    /// What is missing or too much.
    pub fn define(self) -> Result<Vec<Binding>, Violation> {
        let destination = match (self.queue, self.destination_exchange) {
            (Some(queue), None) => Destination::Queue(Some(queue)),
            (None, Some(exchange)) => Destination::Exchange(exchange.as_str().to_owned()),
            _ => {
                return Err(Violation::new(
                    "queue",
                    "a binding needs either a queue or a destination_exchange",
                ));
            }
        };
        let exchange = self.exchange.as_ref().map_or("", Name::as_str);
        let mut arguments = Arguments::new();
        add(&mut arguments, self.arguments, "arguments")?;
        let mut keys = self.routing_keys;
        keys.extend(self.routing_key);
        all(exchange, &destination, &keys, &arguments)
    }
}

/// A routing key that matches every other at a topic exchange, and means nothing to a fanout or a
/// headers exchange.
const EVERYTHING: &str = "#";

/// The routing keys with which to listen in on an exchange: that for everything if there is none.
pub fn keys_of(routing_keys: &[String]) -> impl Iterator<Item = &str> {
    let everything = routing_keys.is_empty().then_some(EVERYTHING);
    routing_keys.iter().map(String::as_str).chain(everything)
}

/// The bindings with each routing key, or with the empty one if there is none.
///
/// # Errors
/// The default exchange has no bindings of its own.
pub fn all(
    exchange: &str,
    destination: &Destination,
    routing_keys: &[Name],
    arguments: &Arguments,
) -> Result<Vec<Binding>, Violation> {
    let is_default = |name: &str| name.is_empty();
    if is_default(exchange)
        || matches!(destination, Destination::Exchange(name) if is_default(name))
    {
        return Err(Violation::new(
            "exchange",
            "nothing can be bound to the default exchange",
        ));
    }
    let keys = match routing_keys {
        [] => vec![""],
        keys => keys.iter().map(Name::as_str).collect(),
    };
    Ok(keys
        .into_iter()
        .map(|key| Binding {
            exchange: exchange.to_owned(),
            destination: destination.clone(),
            routing_key: key.to_owned(),
            arguments: arguments.clone(),
        })
        .collect())
}

/// A binding that there is to be. `Display` names it.
#[derive(Clone, Debug, PartialEq)]
pub struct Binding {
    /// The exchange that messages come from.
    pub exchange: String,
    /// Where they go on to.
    pub destination: Destination,
    /// Which messages, as the exchange's type has it.
    pub routing_key: String,
    /// The optional arguments, of which a headers exchange matches.
    pub arguments: Arguments,
}

impl Binding {
    /// The exchange that messages come from, quoted.
    pub fn source(&self) -> String {
        format!("exchange '{}'", text::escape(&self.exchange))
    }
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "binding of {} to {} with '{}'",
            self.destination,
            self.source(),
            text::escape(&self.routing_key)
        )
    }
}
