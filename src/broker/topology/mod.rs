//! Queues, exchanges and bindings: declared, looked up, deleted. Queues also only made sure of.

mod arguments;
pub mod difference;
pub mod kind;

use amiquip::{
    ExchangeDeclareOptions, ExchangeType, FieldTable, QueueDeclareOptions, QueueDeleteOptions,
};

use super::session::Session;
use crate::error::{self, Error};
use crate::text;
use crate::topology::{Binding, Destination, Exchange, Queue, QueueKind, keys_of};
use crate::values::QueueName;
use arguments::field_table;

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

/// Makes sure that a queue exists, as the tutorial does before it sends or receives: declares it
/// with its properties. A queue that exists with others is used as it is; where the user may not
/// declare, so is one that exists; where the broker takes no transient queue any more, a durable
/// one is made.
///
/// # Errors
/// [`Error::Refused`] in the broker's words if the queue does not exist and can't be made.
pub fn ensure(session: &mut Session, queue: &Queue) -> Result<(), Error> {
    let Some(name) = &queue.name else {
        return Err(Error::Bug("a queue without a name is used".to_owned()));
    };
    match declare(session, queue) {
        Err(Error::Refused { said, .. }) if error::is_transient_refusal(&said) => {
            session.reopen()?;
            ensure_durable(session, name, queue)
        }
        Ok(_) => {
            session.queue = kind::of_declared(queue);
            Ok(())
        }
        refused => exists_anyway(session, name, refused.map(drop)),
    }
}

/// As [`ensure`], over one connection after the other: `was_there` remembers whether the queue was
/// made sure of before.
///
/// # Errors
/// As [`ensure`].
pub fn keep(session: &mut Session, queue: &Queue, was_there: &mut bool) -> Result<(), Error> {
    if *was_there {
        return ensure_again(session, queue);
    }
    ensure(session, queue)?;
    *was_there = true;
    Ok(())
}

/// As [`ensure`], for a queue that was there on a connection that is lost. If it is gone with its
/// broker, as a queue is that is not durable, so is what was in it, and that is said.
fn ensure_again(session: &mut Session, queue: &Queue) -> Result<(), Error> {
    let Some(name) = &queue.name else {
        return ensure(session, queue);
    };
    match look_up(session, name) {
        Ok(_) => return Ok(()),
        Err(error @ Error::Refused { code: 404, .. }) if !error.is_transient() => {
            session.note(&format!(
                "queue {name} is gone, and with it what was in it; it is declared again \
                 (a durable one survives a restart of the broker)"
            ));
        }
        // It is made sure of in the other way.
        Err(_) => {}
    }
    ensure(session, queue)
}

fn ensure_durable(session: &mut Session, name: &QueueName, queue: &Queue) -> Result<(), Error> {
    let durable = Queue {
        durable: true,
        ..queue.clone()
    };
    let declared = declare(session, &durable).map(drop);
    let made = declared.is_ok();
    exists_anyway(session, name, declared)?;
    if made {
        session.note(&format!(
            "{} does not permit a queue that is not durable; queue {name} is declared durable",
            session.name()
        ));
    }
    Ok(())
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

/// Turns the refusal to declare a queue into success if the queue exists nevertheless.
fn exists_anyway(
    session: &mut Session,
    queue: &QueueName,
    declared: Result<(), Error>,
) -> Result<(), Error> {
    const NOT_PERMITTED: u16 = 403;
    const RESOURCE_LOCKED: u16 = 405;
    const PRECONDITION_FAILED: u16 = 406;
    match declared {
        Err(
            refusal @ Error::Refused {
                code: NOT_PERMITTED | RESOURCE_LOCKED | PRECONDITION_FAILED,
                ..
            },
        ) => {
            match look_up(session, queue) {
                // Another connection may have it for itself, or the user may not even ask after it
                // (from RabbitMQ 4.3 on, who has no right on it may not): whether it can be used in
                // spite of that shows when it is.
                Ok(_)
                | Err(Error::Refused {
                    code: NOT_PERMITTED | RESOURCE_LOCKED,
                    ..
                }) => Ok(()),
                Err(Error::Refused { .. }) => Err(refusal),
                Err(error) => Err(error),
            }
        }
        other => other,
    }
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
