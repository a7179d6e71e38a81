//! Queues: declared strictly, or only made sure of.

use amiquip::{FieldTable, QueueDeclareOptions};

use super::Session;
use crate::error::{self, Error};
use crate::text;
use crate::values::QueueName;

/// The properties of a queue. The default is the tutorial's queue: neither durable nor deleted when
/// its last consumer leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueProperties {
    /// It survives a restart of the broker.
    pub durable: bool,
    /// It is deleted when its last consumer leaves.
    pub auto_delete: bool,
}

/// What the broker says of a queue that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueState {
    /// How many messages are ready for delivery.
    pub messages: u32,
    /// How many consumers there are.
    pub consumers: u32,
}

/// Declares a queue: it is made if it does not exist, and confirmed if it exists with exactly these
/// properties.
///
/// # Errors
/// [`Error::Refused`] in the broker's words, so if the queue exists with other properties.
pub fn declare(
    session: &mut Session,
    queue: &QueueName,
    properties: QueueProperties,
) -> Result<QueueState, Error> {
    let channel = session.channel()?;
    let options = QueueDeclareOptions {
        durable: properties.durable,
        auto_delete: properties.auto_delete,
        ..QueueDeclareOptions::default()
    };
    let declared = channel
        .queue_declare(queue.as_str(), options)
        .map(|queue| state(&queue));
    let declared =
        declared.map_err(|error| session.error(&format!("declare queue {queue}"), error))?;
    channel
        .close()
        .map_err(|error| session.error("close a channel", error))?;
    Ok(declared)
}

/// Makes sure that a queue exists, as the tutorial does before it sends or receives: declares it
/// with the default properties. A queue that exists with others is used as it is; where the user
/// may not declare, so is one that exists; where the broker takes no transient queue any more, a
/// durable one is made.
///
/// # Errors
/// [`Error::Refused`] in the broker's words if the queue does not exist and can't be made.
pub fn ensure(session: &mut Session, queue: &QueueName) -> Result<(), Error> {
    match declare(session, queue, QueueProperties::default()) {
        Err(Error::Refused { said, .. }) if error::is_transient_refusal(&said) => {
            session.reopen()?;
            ensure_durable(session, queue)
        }
        declared => exists_anyway(session, queue, declared.map(drop)),
    }
}

fn ensure_durable(session: &mut Session, queue: &QueueName) -> Result<(), Error> {
    let properties = QueueProperties {
        durable: true,
        ..QueueProperties::default()
    };
    let declared = declare(session, queue, properties).map(drop);
    let made = declared.is_ok();
    exists_anyway(session, queue, declared)?;
    if made {
        session.connector.talk.note(&format!(
            "{} does not permit a queue that is not durable; queue {queue} is declared durable",
            session.name
        ));
    }
    Ok(())
}

/// Makes a temporary queue that only this connection can use, and binds it to an exchange with each
/// routing key. It goes with the connection.
///
/// # Errors
/// [`Error::Refused`] in the broker's words if the exchange does not exist.
pub fn listen(
    session: &mut Session,
    exchange: &str,
    routing_keys: &[String],
) -> Result<QueueName, Error> {
    let operation = format!("listen to exchange '{}'", text::escape(exchange));
    let channel = session.channel()?;
    let bind = || {
        let options = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        };
        let name = channel.queue_declare("", options)?.name().to_owned();
        for key in routing_keys {
            channel.queue_bind(name.as_str(), exchange, key.as_str(), FieldTable::new())?;
        }
        Ok(name)
    };
    let name = bind().map_err(|error| session.error(&operation, error))?;
    channel
        .close()
        .map_err(|error| session.error("close a channel", error))?;
    name.parse()
        .map_err(|problem| Error::Bug(format!("the broker named a queue so that {problem}")))
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
                // It is another connection's own, but it is there: whether it can be used in
                // spite of that shows when it is.
                Ok(_)
                | Err(Error::Refused {
                    code: RESOURCE_LOCKED,
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
    let channel = session.channel()?;
    let found = channel
        .queue_declare_passive(queue.as_str())
        .map(|queue| state(&queue));
    let found = found.map_err(|error| session.error(&format!("look up queue {queue}"), error))?;
    channel
        .close()
        .map_err(|error| session.error("close a channel", error))?;
    Ok(found)
}

fn state(queue: &amiquip::Queue) -> QueueState {
    QueueState {
        messages: queue.declared_message_count().unwrap_or_default(),
        consumers: queue.declared_consumer_count().unwrap_or_default(),
    }
}
