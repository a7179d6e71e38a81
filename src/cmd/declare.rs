//! `hello-mq declare`: make sure that a queue exists, with exactly these properties.

use super::{Context, counted};
use crate::broker::topology::{self, QueueProperties};
use crate::cli;
use crate::error::Error;

/// Declares the queue and prints how many messages and consumers it has.
///
/// # Errors
/// Those of the broker; [`Error::Output`] if the result can't be printed.
pub fn run(arguments: &cli::Declare, context: &Context) -> Result<(), Error> {
    let queue = &context.settings.queue.value;
    let properties = QueueProperties {
        durable: arguments.durable,
        auto_delete: arguments.auto_delete,
    };

    let mut session = context.connector("declare", None).open()?;
    let state = topology::declare(&mut session, queue, properties)?;
    session.close()?;

    context.print(&format!(
        " [x] Declared {queue} ({}, {})",
        counted(state.messages.into(), "message"),
        counted(state.consumers.into(), "consumer")
    ))
}
