//! `hello-mq delete`: take a queue or an exchange away.

use super::removal::{self, RemovalState, RemovalTarget};
use super::{Context, confirm, counted};
use crate::broker::topology;
use crate::cli;
use crate::error::Error;
use crate::settings::Origin;
use crate::text;
use crate::values::{Name, QueueName};

/// Deletes the queue or the exchange. That there is none is said, and no error.
///
/// # Errors
/// Those of the broker; [`Error::Declined`] if the user thinks better of it.
pub fn run(arguments: &cli::Delete, context: &Context) -> Result<(), Error> {
    let Some(exchange) = exchange(arguments)? else {
        return queue(arguments, context);
    };
    let entity = RemovalTarget::Exchange(exchange);
    let connector = context.connector("delete", None).declaring(true);
    let mut session = connector.open()?;
    match topology::look_up_exchange(&mut session, exchange) {
        Err(Error::Refused { code: 404, .. }) => {
            session.close();
            let broker = connector.broker();
            return removal::missing(context, arguments.output, entity, &broker, "delete");
        }
        found => found?,
    }
    topology::delete_exchange(&mut session, exchange, arguments.if_unused)?;
    session.close();
    removal::tell(
        context,
        arguments.output,
        entity,
        RemovalState::Deleted,
        None,
    )
}

/// What it would do.
///
/// # Errors
/// As [`run`], without the broker's.
pub fn operations(arguments: &cli::Delete, context: &Context) -> Result<Vec<String>, Error> {
    let (if_empty, if_unused) = (arguments.if_empty, arguments.if_unused);
    Ok(match exchange(arguments)? {
        Some(name) => {
            let name = text::escape(name);
            vec![
                format!("exchange.declare '{name}' passive=true"),
                format!("exchange.delete '{name}' if_unused={if_unused}"),
            ]
        }
        None => {
            let queue = named(context, "delete")?;
            vec![
                format!("queue.declare {queue} passive=true"),
                format!("queue.delete {queue} if_empty={if_empty} if_unused={if_unused}"),
            ]
        }
    })
}

/// The exchange to delete, if it is one.
fn exchange(arguments: &cli::Delete) -> Result<Option<&str>, Error> {
    match &arguments.exchange {
        Some(name) if name.as_str().is_empty() => Err(Error::Usage(
            "--exchange: the default exchange can't be deleted".to_owned(),
        )),
        name => Ok(name.as_ref().map(Name::as_str)),
    }
}

fn queue(arguments: &cli::Delete, context: &Context) -> Result<(), Error> {
    let queue = named(context, "delete")?;
    let entity = RemovalTarget::Queue(queue);
    let connector = context.connector("delete", None).declaring(true);
    let mut session = connector.open()?;
    match topology::look_up(&mut session, queue) {
        Err(Error::Refused { code: 404, .. }) => {
            session.close();
            let broker = connector.broker();
            return removal::missing(context, arguments.output, entity, &broker, "delete");
        }
        Ok(state) if state.messages > 0 && !arguments.yes && !arguments.if_empty => {
            let messages = counted(state.messages.into(), "message");
            confirm::ask(
                context,
                &format!(
                    "queue {queue} on {} has {messages}; delete it and lose them?",
                    connector.broker()
                ),
                &format!("queue {queue} is still there"),
            )?;
        }
        found => drop(found?),
    }
    let messages = topology::delete(&mut session, queue, arguments.if_empty, arguments.if_unused)?;
    session.close();
    removal::tell(
        context,
        arguments.output,
        entity,
        RemovalState::Deleted,
        Some(messages),
    )
}

/// The queue that the command line names. What takes something away does not guess.
pub(super) fn named<'c>(context: &'c Context, verb: &str) -> Result<&'c QueueName, Error> {
    let queue = &context.settings.queue;
    match queue.origin {
        Origin::Flag(_) => Ok(&queue.value),
        _ => Err(Error::Usage(format!(
            "no queue given; write: hello-mq {verb} QUEUE"
        ))),
    }
}
