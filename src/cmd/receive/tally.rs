//! `hello-mq receive --dry-run`: counts the messages that would be published to each destination.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::cmd::{Context, counted, write_as};
use crate::error::Error;
use crate::message::{Batch, COPY_HEADERS, FieldValue, Message};
use crate::text;
use crate::values::Target;

/// The exchange and the routing keys of messages.
type Destination = (String, Vec<String>);

/// Counts messages by destination.
pub(super) struct Tally {
    /// The target of all messages; `None` if each has its own.
    target: Option<Target>,
    numbers: BTreeMap<Destination, u64>,
}

impl Tally {
    pub(super) fn new(target: Option<Target>) -> Self {
        Self {
            target,
            numbers: BTreeMap::new(),
        }
    }

    /// Counts messages.
    pub(super) fn add(&mut self, batch: Batch) {
        for message in batch {
            let destination = match &self.target {
                Some(target) => (target.exchange.clone(), vec![target.routing_key.clone()]),
                None => destination(*message),
            };
            *self.numbers.entry(destination).or_default() += 1;
        }
    }

    /// Prints each destination with its number of messages, and the number of those that would stay.
    ///
    /// # Errors
    /// [`Error::Output`].
    pub(super) fn print(&self, staying: u64, context: &Context) -> Result<(), Error> {
        let mut numbers: Vec<_> = self.numbers.iter().collect();
        numbers.sort_by_key(|(_, number)| Reverse(**number));
        let mut lines: Vec<_> = numbers
            .into_iter()
            .map(|(destination, number)| {
                let messages = counted(*number, "message");
                format!("Would publish {messages} to {}", describe(destination))
            })
            .collect();
        if lines.is_empty() {
            lines.push("Would publish no message".to_owned());
        }
        if staying > 0 {
            lines.push(format!(
                "Would leave {} in queue {}",
                counted(staying, "message"),
                context.settings.queue.value
            ));
        }
        lines.into_iter().try_for_each(|line| {
            let line = format!(" [x] {line}");
            write_as(&line, &context.paint.marked(&line))
        })
    }
}

fn destination(message: Message) -> Destination {
    let mut keys = vec![message.routing_key];
    let headers = message.properties.headers.as_ref();
    for name in COPY_HEADERS {
        if let Some(FieldValue::Array(copies)) = headers.and_then(|headers| headers.get(name)) {
            keys.extend(copies.iter().filter_map(|key| match key {
                FieldValue::LongString(key) => Some(String::from_utf8_lossy(key).into_owned()),
                _ => None,
            }));
        }
    }
    (message.exchange, keys)
}

fn describe((exchange, keys): &Destination) -> String {
    let names: Vec<_> = keys
        .iter()
        .map(|key| format!("'{}'", text::escape(key)))
        .collect();
    let plural = if names.len() == 1 { "" } else { "s" };
    let names = names.join(", ");
    if exchange.is_empty() {
        format!("queue{plural} {names}")
    } else {
        let exchange = text::escape(exchange);
        format!("exchange '{exchange}' with routing key{plural} {names}")
    }
}
