//! `hello-mq delete`: take a queue or an exchange away.

use super::{Context, confirm, counted};
use crate::broker::topology;
use crate::cli;
use crate::error::Error;
use crate::settings::Origin;
use crate::text;
use crate::values::QueueName;

/// Deletes the queue or the exchange. That there is none is said, and no error.
///
/// # Errors
/// Those of the broker; [`Error::Declined`] if the user thinks better of it.
pub fn run(arguments: &cli::Delete, context: &Context) -> Result<(), Error> {
    let Some(exchange) = &arguments.exchange else {
        return queue(arguments, context);
    };
    let exchange = exchange.as_str();
    if exchange.is_empty() {
        return Err(Error::Usage(
            "--exchange: the default exchange can't be deleted".to_owned(),
        ));
    }
    let name = format!("exchange '{}'", text::escape(exchange));
    let connector = context.connector("delete", None);
    let mut session = connector.open()?;
    match topology::look_up_exchange(&mut session, exchange) {
        Err(Error::Refused { code: 404, .. }) => {
            missing(context, &name, &connector.broker(), "delete");
            return session.close();
        }
        found => found?,
    }
    topology::delete_exchange(&mut session, exchange, arguments.if_unused)?;
    session.close()?;
    context.print(&format!(" [x] Deleted {name}"))
}

fn queue(arguments: &cli::Delete, context: &Context) -> Result<(), Error> {
    let queue = named(context, "delete")?;
    let connector = context.connector("delete", None);
    let mut session = connector.open()?;
    match topology::look_up(&mut session, queue) {
        Err(Error::Refused { code: 404, .. }) => {
            missing(
                context,
                &format!("queue {queue}"),
                &connector.broker(),
                "delete",
            );
            return session.close();
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
    session.close()?;
    context.print(&format!(
        " [x] Deleted {queue} ({})",
        counted(messages.into(), "message")
    ))
}

/// The queue that the command line names. What takes something away does not guess.
pub(super) fn named<'c>(context: &'c Context, verb: &str) -> Result<&'c QueueName, Error> {
    let queue = &context.settings.queue;
    match queue.origin {
        Origin::Flag(_) => Ok(&queue.value),
        _ => Err(Error::Usage(format!(
            "which queue? Name it: hello-mq {verb} QUEUE"
        ))),
    }
}

/// Says that there is nothing to take away.
pub(super) fn missing(context: &Context, name: &str, broker: &str, verb: &str) {
    context.talk.note(&format!(
        "there is no {name} on {broker}; nothing to {verb}"
    ));
}
