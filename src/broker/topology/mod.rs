//! Queues, exchanges and bindings: declared, looked up, deleted. Queues also only made sure of.

mod arguments;
pub mod difference;
mod ensure;
pub mod kind;

use amiquip::{
    ExchangeDeclareOptions, ExchangeType, FieldTable, QueueDeclareOptions, QueueDeleteOptions,
};

use super::session::Session;
use crate::error::Error;
use crate::text;
use crate::topology::{Binding, Destination, Exchange, Queue, QueueKind, keys_of};
use crate::values::QueueName;
use arguments::field_table;
pub use ensure::{begin, ensure, keep};

/// What the broker says of a queue that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueState {
    /// How many messages are ready for delivery.
    pub messages: u32,
    /// How many consumers there are.
    pub consumers: u32,
}

/// Declares a queue: it is made if it does not exist, and confirmed if it exists with exactly these
/// properties. Returns its name, which the broker gives to one without.
///
/// # Errors
/// [`Error::Refused`] in the broker's words, so if the queue exists with other properties.
pub fn declare(session: &mut Session, queue: &Queue) -> Result<(QueueName, QueueState), Error> {
    let options = QueueDeclareOptions {
        durable: queue.durable,
        auto_delete: queue.auto_delete,
        exclusive: false,
        arguments: field_table(&queue.arguments),
    };
    let name = queue.name.as_ref().map_or("", QueueName::as_str).to_owned();
    let operation = format!("declare queue {queue}");
    let (name, state) = session.call(&operation, move |channel| {
        let queue = channel.queue_declare(name, options)?;
        Ok((queue.name().to_owned(), state(&queue)))
    })?;
    Ok((named(session, &operation, &name)?, state))
}

/// Makes a temporary queue that only this connection can use, and binds it to an exchange with each
/// routing key, or without one to everything. It goes with the connection.
///
/// # Errors
/// [`Error::Refused`] in the broker's words if the exchange does not exist.
pub fn listen(
    session: &mut Session,
    exchange: &str,
    routing_keys: &[String],
) -> Result<QueueName, Error> {
    let operation = format!("listen to exchange '{}'", text::escape(exchange));
    let exchange = exchange.to_owned();
    let routing_keys: Vec<_> = keys_of(routing_keys).map(ToOwned::to_owned).collect();
    let name = session.call(&operation, move |channel| {
        let options = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        };
        let name = channel.queue_declare("", options)?.name().to_owned();
        for key in &routing_keys {
            channel.queue_bind(
                name.as_str(),
                exchange.as_str(),
                key.as_str(),
                FieldTable::new(),
            )?;
        }
        Ok(name)
    })?;
    session.queue = Some(QueueKind::Classic);
    named(session, &operation, &name)
}

/// The name that the broker has given to a queue.
fn named(session: &mut Session, operation: &str, name: &str) -> Result<QueueName, Error> {
    name.parse()
        .map_err(|_: String| session.misunderstood(operation))
}

/// Asks after a queue without changing anything.
///
/// # Errors
/// [`Error::Refused`] with code 404 if it does not exist.
pub fn look_up(session: &mut Session, queue: &QueueName) -> Result<QueueState, Error> {
    let name = queue.as_str().to_owned();
    session.call(&format!("look up queue {queue}"), move |channel| {
        channel
            .queue_declare_passive(name)
            .map(|queue| state(&queue))
    })
}

/// Deletes a queue and returns how many messages were ready in it. One that does not exist is no
/// error for the broker.
///
/// # Errors
/// [`Error::Refused`] with code 406 if it is not empty, or used, although it has to be.
pub fn delete(
    session: &mut Session,
    queue: &QueueName,
    if_empty: bool,
    if_unused: bool,
) -> Result<u32, Error> {
    let options = QueueDeleteOptions {
        if_unused,
        if_empty,
    };
    let name = queue.as_str().to_owned();
    session.call(&format!("delete queue {queue}"), move |channel| {
        channel.queue_delete(name, options)
    })
}

/// Takes every message that is ready out of a queue and returns how many there were.
///
/// # Errors
/// [`Error::Refused`] with code 404 if it does not exist.
pub fn purge(session: &mut Session, queue: &QueueName) -> Result<u32, Error> {
    let name = queue.as_str().to_owned();
    session.call(&format!("purge queue {queue}"), move |channel| {
        channel.queue_purge(name)
    })
}

/// Declares an exchange: it is made if it does not exist, and confirmed if it exists with exactly
/// these properties.
///
/// # Errors
/// [`Error::Refused`] in the broker's words, so if the exchange exists with other properties.
pub fn declare_exchange(session: &mut Session, exchange: &Exchange) -> Result<(), Error> {
    let options = ExchangeDeclareOptions {
        durable: exchange.durable,
        auto_delete: exchange.auto_delete,
        internal: exchange.internal,
        arguments: field_table(&exchange.arguments),
    };
    let kind = ExchangeType::Custom(exchange.kind.as_str().to_owned());
    let name = exchange.name.as_str().to_owned();
    session.call(&format!("declare exchange {exchange}"), move |channel| {
        channel.exchange_declare(kind, name, options).map(drop)
    })
}

/// Asks after an exchange without changing anything.
///
/// # Errors
/// [`Error::Refused`] with code 404 if it does not exist.
pub fn look_up_exchange(session: &mut Session, exchange: &str) -> Result<(), Error> {
    let operation = format!("look up exchange '{}'", text::escape(exchange));
    let name = exchange.to_owned();
    session.call(&operation, move |channel| {
        channel.exchange_declare_passive(name).map(drop)
    })
}

/// Deletes an exchange. One that does not exist is no error for the broker.
///
/// # Errors
/// [`Error::Refused`] with code 406 if it has bindings although it must have none.
pub fn delete_exchange(
    session: &mut Session,
    exchange: &str,
    if_unused: bool,
) -> Result<(), Error> {
    let operation = format!("delete exchange '{}'", text::escape(exchange));
    let name = exchange.to_owned();
    session.call(&operation, move |channel| {
        channel.exchange_delete(name, if_unused)
    })
}

/// Makes sure of a binding. The broker does not say whether it was there.
///
/// # Errors
/// [`Error::Refused`] with code 404 if one of its ends does not exist.
pub fn bind(session: &mut Session, binding: &Binding) -> Result<(), Error> {
    let operation = format!(
        "bind {} to {} with '{}'",
        binding.destination,
        binding.source(),
        text::escape(&binding.routing_key)
    );
    let (source, key) = (binding.exchange.as_str(), binding.routing_key.as_str());
    let (source, key) = (source.to_owned(), key.to_owned());
    let arguments = field_table(&binding.arguments);
    let destination = binding.destination.clone();
    session.call(&operation, move |channel| match &destination {
        Destination::Queue(name) => {
            let name = name.as_ref().map_or("", QueueName::as_str);
            channel.queue_bind(name, source, key, arguments)
        }
        Destination::Exchange(name) => channel.exchange_bind(name.as_str(), source, key, arguments),
    })
}

fn state(queue: &amiquip::Queue) -> QueueState {
    QueueState {
        messages: queue.declared_message_count().unwrap_or_default(),
        consumers: queue.declared_consumer_count().unwrap_or_default(),
    }
}
