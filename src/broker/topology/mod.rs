//! Declaring, looking up and deleting queues, exchanges and bindings.

mod arguments;
pub mod difference;
mod ensure;
pub(crate) mod kind;

use amiquip::{
    ExchangeDeclareOptions, ExchangeType, FieldTable, QueueDeclareOptions, QueueDeleteOptions,
};

use super::session::Session;
use crate::error::Error;
use crate::text;
use crate::topology::{Binding, BoundExchange, Destination, Exchange, Queue, QueueKind};
use crate::values::QueueName;
use arguments::field_table;
pub(crate) use ensure::{declare_at_login, ensure, ensure_again};

/// The counts of an existing queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueState {
    /// The number of messages that are ready.
    pub(crate) messages: u32,
    pub(crate) consumers: u32,
}

/// Declares a queue. Fails if it exists with other properties. Returns its name, too, which the broker
/// generates if there is none.
pub(crate) fn declare(
    session: &mut Session,
    queue: &Queue,
) -> Result<(QueueName, QueueState), Error> {
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
    Ok((parse_name(session, &operation, &name)?, state))
}

/// Declares a temporary queue of this connection, and binds it to exchanges.
pub(crate) fn bind_temporary_queue(
    session: &mut Session,
    exchanges: &[BoundExchange],
) -> Result<QueueName, Error> {
    let operation = "declare a temporary queue";
    let queue = session.call(operation, |channel| {
        let options = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        };
        Ok(channel.queue_declare("", options)?.name().to_owned())
    })?;
    for exchange in exchanges {
        let operation = format!("listen to exchange '{}'", text::escape(&exchange.name));
        let (queue, exchange) = (queue.clone(), exchange.clone());
        session.call(&operation, move |channel| {
            for key in exchange.binding_keys() {
                channel.queue_bind(&queue, &exchange.name, key, FieldTable::new())?;
            }
            Ok(())
        })?;
    }
    session.queue_kind = Some(QueueKind::Classic);
    parse_name(session, operation, &queue)
}

/// Parses the name that the broker has given to a queue.
fn parse_name(session: &mut Session, operation: &str, name: &str) -> Result<QueueName, Error> {
    name.parse()
        .map_err(|_: String| session.protocol_error(operation))
}

/// Returns the counts of a queue. Fails with code 404 if it does not exist.
pub(crate) fn look_up(session: &mut Session, queue: &QueueName) -> Result<QueueState, Error> {
    let name = queue.as_str().to_owned();
    session.call(&format!("look up queue {queue}"), move |channel| {
        channel
            .queue_declare_passive(name)
            .map(|queue| state(&queue))
    })
}

/// Deletes a queue, and returns the number of messages that were ready in it. A queue that does not exist is
/// no error.
pub(crate) fn delete(
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

/// Removes all ready messages from a queue, and returns their number.
pub(crate) fn purge(session: &mut Session, queue: &QueueName) -> Result<u32, Error> {
    let name = queue.as_str().to_owned();
    session.call(&format!("purge queue {queue}"), move |channel| {
        channel.queue_purge(name)
    })
}

/// Declares an exchange. Fails if it exists with other properties.
pub(crate) fn declare_exchange(session: &mut Session, exchange: &Exchange) -> Result<(), Error> {
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

/// Fails with code 404 if an exchange does not exist.
pub(crate) fn look_up_exchange(session: &mut Session, exchange: &str) -> Result<(), Error> {
    let operation = format!("look up exchange '{}'", text::escape(exchange));
    let name = exchange.to_owned();
    session.call(&operation, move |channel| {
        channel.exchange_declare_passive(name).map(drop)
    })
}

/// Deletes an exchange. One that does not exist is no error.
pub(crate) fn delete_exchange(
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

/// Makes a binding. The broker does not tell whether it exists already.
pub(crate) fn bind(session: &mut Session, binding: &Binding) -> Result<(), Error> {
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
