//! The plan of a command: made before anything is connected, printed by `--explain`, and run.

use std::fmt;

use super::Context;
use super::declare::DeclarePlan;
use super::receive::ReceivePlan;
use super::removal::RemovalPlan;
use super::send::SendPlan;
use crate::broker::publish::PublishOptions;
use crate::cli::Verb;
use crate::error::Error;
use crate::message::Message;
use crate::text;
use crate::topology::{Entity, Queue};

/// A command whose arguments and settings are checked. Its fields hold what it will ask of the broker.
pub(crate) trait Plan {
    /// Returns the operations between the login and the end of the connection, in order, one a line:
    /// `METHOD ARGUMENTS, when and why`. Those on another connection begin with `CONNECTION: `.
    fn operations(&self) -> Vec<String>;

    /// Carries the plan out.
    fn run(self: Box<Self>, context: &Context) -> Result<(), Error>;
}

/// Makes the plan of a command.
pub(crate) fn plan(command: Verb, context: &Context) -> Result<Box<dyn Plan>, Error> {
    let settings = &context.settings;
    Ok(match command {
        Verb::Declare(arguments) => Box::new(DeclarePlan::new(*arguments, settings)?),
        Verb::Send(arguments) => Box::new(SendPlan::new(*arguments, context)?),
        Verb::Receive(arguments) => Box::new(ReceivePlan::new(*arguments, context)?),
        Verb::Delete(arguments) => Box::new(RemovalPlan::delete(arguments, settings)?),
        Verb::Purge(arguments) => Box::new(RemovalPlan::purge(&arguments, context)?),
    })
}

/// Returns the operation that asks whether a queue exists.
pub(crate) fn look_up_queue(queue: impl fmt::Display) -> String {
    format!("queue.declare {queue} passive=true")
}

/// Returns the operation that asks whether an exchange exists.
pub(crate) fn look_up_exchange(exchange: &str) -> String {
    format!("exchange.declare '{}' passive=true", text::escape(exchange))
}

/// Returns the operation that makes sure that a queue can be used.
pub(crate) fn ensure(queue: &Queue) -> String {
    let declare = Entity::Queue(queue.clone()).operation();
    format!("{declare}, unless it exists with other properties")
}

/// Returns the operation that finds out the properties of a `queue` or an `exchange`.
pub(crate) fn compare(kind: &str, name: impl fmt::Display) -> String {
    format!("{kind}.declare {name} with arguments that create nothing")
}

/// Returns the operation that publishes a message.
pub(crate) fn publish(options: PublishOptions, message: &Message) -> String {
    format!(
        "basic.publish exchange='{}' routing_key='{}' mandatory={}",
        text::escape(&message.exchange),
        text::escape(&message.routing_key),
        options.is_mandatory(message)
    )
}
