//! Exchanges, and RabbitMQ's rules about them.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use super::argument::Argument;
use super::queue::{add, typed};
use super::{Arguments, Violation};
use crate::message::FieldValue;
use crate::text;
use crate::values::{Name, deserialize_by_parsing};

/// The argument that names the exchange for unroutable messages.
pub(crate) const ALTERNATE: &str = "alternate-exchange";

/// The type of an exchange: `direct`, `fanout`, `topic`, `headers`, or a plugin's `x-…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExchangeType(String);

deserialize_by_parsing!(ExchangeType);

impl ExchangeType {
    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for ExchangeType {
    fn default() -> Self {
        Self("direct".to_owned())
    }
}

impl FromStr for ExchangeType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_plugins = text.starts_with("x-") && text.len() <= crate::message::SHORT_STRING_MAX;
        // RabbitMQ 3 closes the connection if it does not know a type.
        if is_plugins || matches!(text, "direct" | "fanout" | "topic" | "headers") {
            return Ok(Self(text.to_owned()));
        }
        Err("must be direct, fanout, topic, headers or x-…".to_owned())
    }
}

/// The options, or keys of the configuration file, that define an exchange.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table", default)]
#[allow(missing_docs)]
pub struct ExchangeOptions {
    pub name: Option<Name>,
    #[serde(rename = "type")]
    pub kind: ExchangeType,
    pub durable: bool,
    pub auto_delete: bool,
    pub internal: bool,
    pub alternate_exchange: Option<Name>,
    #[serde(deserialize_with = "super::argument::arguments")]
    pub arguments: Vec<Argument>,
}

impl ExchangeOptions {
    /// Returns the exchange, or the rule that it violates.
    pub fn define(self) -> Result<Exchange, Violation> {
        let name = self.name.as_ref().map_or("", Name::as_str).to_owned();
        if name.is_empty() {
            return Err(Violation::new(
                "exchange",
                "the default exchange always exists and can't be declared",
            ));
        }
        // RabbitMQ removes line breaks silently, as from the name of a queue.
        if name.contains(['\r', '\n']) {
            return Err(Violation::new(
                "exchange",
                "a name can't contain a line break",
            ));
        }
        let mut arguments = Arguments::new();
        if let Some(alternate) = self.alternate_exchange {
            let alternate = FieldValue::LongString(alternate.as_str().as_bytes().to_vec());
            arguments.insert(ALTERNATE.to_owned(), alternate);
        }
        add(&mut arguments, self.arguments, "exchange-argument")?;
        if let Some(value) = arguments.get(ALTERNATE) {
            if !matches!(value, FieldValue::LongString(_)) {
                return Err(Violation::new(ALTERNATE, "must be a string"));
            }
        }
        Ok(Exchange {
            name,
            kind: self.kind,
            durable: self.durable,
            auto_delete: self.auto_delete,
            internal: self.internal,
            arguments,
        })
    }
}

/// The definition of an exchange. `Display` is the quoted name.
#[derive(Clone, Debug, PartialEq)]
pub struct Exchange {
    /// The name.
    pub name: String,
    /// The type.
    pub kind: ExchangeType,
    /// Whether it survives a restart of the broker.
    pub durable: bool,
    /// Whether it is deleted with its last binding.
    pub auto_delete: bool,
    /// Whether it takes messages only from other exchanges, not from clients.
    pub internal: bool,
    /// The optional arguments.
    pub arguments: Arguments,
}

impl Exchange {
    /// Returns the properties that the broker compares with those of an existing exchange.
    pub fn properties(&self) -> Arguments {
        let mut properties = self.arguments.clone();
        let kind = FieldValue::LongString(self.kind.as_str().as_bytes().to_vec());
        properties.extend([
            ("type".to_owned(), kind),
            ("durable".to_owned(), FieldValue::Bool(self.durable)),
            ("auto_delete".to_owned(), FieldValue::Bool(self.auto_delete)),
            ("internal".to_owned(), FieldValue::Bool(self.internal)),
        ]);
        properties
    }

    /// Returns an exchange of the same name with these properties.
    pub fn with(&self, mut properties: Arguments) -> Self {
        let kind = match properties.remove("type") {
            Some(FieldValue::LongString(name)) => {
                ExchangeType(String::from_utf8_lossy(&name).into_owned())
            }
            _ => self.kind.clone(),
        };
        let mut is_true = |name| properties.remove(name) == Some(FieldValue::Bool(true));
        Self {
            name: self.name.clone(),
            kind,
            durable: is_true("durable"),
            auto_delete: is_true("auto_delete"),
            internal: is_true("internal"),
            arguments: properties,
        }
    }

    /// Returns the command that declares this exchange.
    pub fn command(&self) -> String {
        let mut words = vec![
            "hello-mq declare".to_owned(),
            super::option("--exchange", &self.name),
            super::option("--exchange-type", self.kind.as_str()),
        ];
        let flags = [
            (self.durable, "--durable"),
            (self.auto_delete, "--auto-delete"),
            (self.internal, "--internal"),
        ];
        words.extend(
            flags
                .iter()
                .filter(|(is_set, _)| *is_set)
                .map(|(_, flag)| (*flag).to_owned()),
        );
        for (name, value) in &self.arguments {
            words.push(match value {
                FieldValue::LongString(value) if name == ALTERNATE => {
                    super::option("--alternate-exchange", &String::from_utf8_lossy(value))
                }
                value => typed("--exchange-argument", name, value),
            });
        }
        words.join(" ")
    }
}

impl fmt::Display for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}'", text::escape(&self.name))
    }
}
