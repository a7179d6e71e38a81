//! Bindings of queues and exchanges to an exchange.

use std::fmt;

use serde::Deserialize;

use super::queue::add;
use super::{Argument, Arguments, Violation};
use crate::text;
use crate::values::{Name, QueueName};

/// The destination of a binding. `Display` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A queue; without a name, the one that the broker has just named.
    Queue(Option<QueueName>),
    /// An exchange.
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

/// The keys of the configuration file that define bindings, one for each routing key.
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
    /// Returns the bindings, or the rule that they violate. The default routing key is empty, which
    /// suffices for fanout and headers exchanges.
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

/// The routing key that matches every other at a topic exchange. Fanout and headers exchanges ignore it.
const EVERYTHING: &str = "#";

/// An exchange to which a temporary queue is bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundExchange {
    /// The name of the exchange.
    pub name: String,
    /// The routing keys with which to receive; without any, everything.
    pub routing_keys: Vec<String>,
}

impl BoundExchange {
    /// Returns an exchange from which everything is received.
    pub fn new(name: String) -> Self {
        Self {
            name,
            routing_keys: Vec::new(),
        }
    }

    /// Returns the routing key of each binding.
    pub fn binding_keys(&self) -> impl Iterator<Item = &str> {
        let everything = self.routing_keys.is_empty().then_some(EVERYTHING);
        let keys = self.routing_keys.iter().map(String::as_str);
        keys.chain(everything)
    }
}

/// Returns a binding for each routing key, or one for the empty key. The default exchange can't be bound.
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

/// The definition of a binding. `Display` names it.
#[derive(Clone, Debug, PartialEq)]
pub struct Binding {
    /// The exchange that routes the messages.
    pub exchange: String,
    /// The queue or the exchange that gets them.
    pub destination: Destination,
    /// The routing key, which selects messages according to the type of the exchange.
    pub routing_key: String,
    /// The optional arguments, which a headers exchange matches.
    pub arguments: Arguments,
}

impl Binding {
    /// Returns the quoted name of the exchange that routes the messages.
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
