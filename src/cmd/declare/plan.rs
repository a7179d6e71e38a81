//! What there is to declare: from the command line, or from the configuration file.

use crate::cli;
use crate::cmd::Context;
use crate::error::Error;
use crate::settings::Origin;
use crate::topology::{
    self, Arguments, Destination, Entity, ExchangeOptions, QueueOptions, Violation,
};

/// Everything to declare, in order.
pub struct Plan {
    /// One after the other.
    pub entities: Vec<Entity>,
    /// Whether properties were asked for, so that a check has something to compare.
    pub compare: bool,
}

/// What the command line asks for.
///
/// # Errors
/// [`Error::Usage`] for a broken rule, naming the option; [`Error::Config`] if there is nothing.
pub fn of(arguments: cli::Declare, context: &Context) -> Result<Plan, Error> {
    if arguments.all {
        let entities = context.settings.topology.entities();
        if entities.is_empty() {
            return Err(Error::Config {
                place: "--all".to_owned(),
                problem:
                    "there is no configuration file, or it has no [[queues]], [[exchanges]] or \
                    [[bindings]]; config.example.toml has examples"
                        .to_owned(),
            });
        }
        return Ok(Plan {
            entities,
            compare: true,
        });
    }
    requested(arguments, context).map_err(|Violation { option, rule }| {
        let option = option.replace("argument ", "argument: ");
        Error::Usage(format!("--{option}: {rule}"))
    })
}

fn requested(arguments: cli::Declare, context: &Context) -> Result<Plan, Violation> {
    let given = arguments.queue;
    let is_named =
        arguments.name.is_some() || matches!(context.settings.queue.origin, Origin::Flag(_));
    let has_queue_arguments = given.is_any();
    let is_bound = !arguments.bind.is_empty();
    let queue_name = match arguments.name {
        Some(name) => name.0,
        None => Some(context.settings.queue.value.clone()),
    };
    // With an exchange alone, nothing is said of a queue.
    let wants_queue = arguments.destination_exchange.is_none()
        && (arguments.exchange.is_none() || is_named || is_bound || has_queue_arguments);
    let wants_exchange = !is_bound || arguments.exchange_type.is_some();

    let exchange_options = ExchangeOptions {
        name: arguments.exchange.clone(),
        kind: arguments.exchange_type.clone().unwrap_or_default(),
        durable: arguments.durable,
        auto_delete: arguments.auto_delete,
        internal: arguments.internal,
        alternate_exchange: arguments.alternate_exchange,
        arguments: arguments.exchange_arguments,
    };
    let is_exchange_described = arguments.exchange_type.is_some()
        || exchange_options.internal
        || exchange_options.alternate_exchange.is_some()
        || !exchange_options.arguments.is_empty();
    if is_exchange_described && !wants_exchange {
        return Err(Violation {
            option: "exchange-type".to_owned(),
            rule: "with --bind, the exchange is declared only if its type is given".to_owned(),
        });
    }
    let mut entities = Vec::new();
    if arguments.exchange.is_some() && wants_exchange {
        entities.push(Entity::Exchange(exchange_options.define()?));
    }
    let definition = &context.settings.definition;
    let is_described = arguments.durable || arguments.auto_delete || has_queue_arguments;
    if wants_queue && !is_described && queue_name.is_some() && queue_name == definition.name {
        // As send and receive would make it.
        entities.push(Entity::Queue(definition.clone()));
    } else if wants_queue {
        let options = QueueOptions {
            name: queue_name.clone(),
            kind: given.kind,
            durable: arguments.durable,
            auto_delete: arguments.auto_delete,
            message_ttl: given.message_ttl,
            expires: given.expires,
            max_length: given.max_length,
            max_length_bytes: given.max_length_bytes,
            overflow: given.overflow,
            dead_letter_exchange: given.dead_letter_exchange,
            dead_letter_routing_key: given.dead_letter_routing_key,
            max_priority: given.max_priority,
            delivery_limit: given.delivery_limit,
            single_active_consumer: given.single_active_consumer,
            arguments: given.arguments,
        };
        entities.push(Entity::Queue(options.define()?));
    }
    if let (true, Some(exchange)) = (is_bound, &arguments.exchange) {
        let destination = match &arguments.destination_exchange {
            Some(destination) => Destination::Exchange(destination.as_str().to_owned()),
            None => Destination::Queue(queue_name),
        };
        let bind_arguments: Arguments =
            topology::collect(arguments.bind_arguments, "bind-argument")?;
        let bindings = topology::bindings(
            exchange.as_str(),
            &destination,
            &arguments.bind,
            &bind_arguments,
        )?;
        entities.extend(bindings.into_iter().map(Entity::Binding));
    }
    Ok(Plan {
        entities,
        compare: is_described || is_exchange_described,
    })
}
