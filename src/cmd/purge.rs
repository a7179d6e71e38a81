//! `hello-mq purge`: throw away the messages of a queue.

use super::delete::named;
use super::removal::{self, RemovalState, RemovalTarget};
use super::{Context, confirm, counted};
use crate::broker::topology;
use crate::cli;
use crate::error::Error;

/// Purges the queue and prints how many messages went. That there is no queue is said, and no error.
///
/// # Errors
/// Those of the broker; [`Error::Declined`] if the user thinks better of it.
pub fn run(arguments: &cli::Purge, context: &Context) -> Result<(), Error> {
    let queue = named(context, "purge")?;
    let entity = RemovalTarget::Queue(queue);
    let connector = context.connector("purge", None).declaring(true);
    let mut session = connector.open()?;
    match topology::look_up(&mut session, queue) {
        Err(Error::Refused { code: 404, .. }) => {
            session.close();
            let broker = connector.broker();
            return removal::missing(context, arguments.output, entity, &broker, "purge");
        }
        Ok(state) if state.messages > 0 && !arguments.yes => {
            let messages = counted(state.messages.into(), "message");
            confirm::ask(
                context,
                &format!(
                    "remove {messages} from queue {queue} on {}?",
                    connector.broker()
                ),
                &format!("the messages are still in queue {queue}"),
            )?;
        }
        found => drop(found?),
    }
    let messages = topology::purge(&mut session, queue)?;
    session.close();
    removal::tell(
        context,
        arguments.output,
        entity,
        RemovalState::Purged,
        Some(messages),
    )
}

/// What it would do.
///
/// # Errors
/// As [`run`], without the broker's.
pub fn operations(context: &Context) -> Result<Vec<String>, Error> {
    let queue = named(context, "purge")?;
    Ok(vec![
        format!("queue.declare {queue} passive=true"),
        format!("queue.purge {queue}"),
    ])
}
