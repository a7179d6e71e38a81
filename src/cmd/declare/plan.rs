//! The plan of `declare`, from the command line or from the configuration file.

use crate::cli::{self, ListFormat};
use crate::error::Error;
use crate::settings::{Origin, Settings};
use crate::topology::{
    self, Arguments, Destination, Entity, ExchangeOptions, QueueOptions, Violation,
};

/// The plan of `declare`.
pub(crate) struct DeclarePlan {
    pub(super) tasks: Vec<DeclareTask>,
    pub(super) form: ListFormat,
    /// Whether everything is declared that the configuration file defines.
    pub(super) all: bool,
    /// Whether the properties of each entity are known when it is reported.
    pub(super) knows_properties: bool,
}

/// An entity, and the operations on it in order.
pub(super) struct DeclareTask {
    pub(super) entity: Entity,
    pub(super) operations: Vec<DeclareOperation>,
}

/// An operation on an entity.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum DeclareOperation {
    /// Asks whether it exists.
    LookUp,
    /// Compares its properties with those that are wanted.
    Compare,
    /// Makes sure of it.
    Declare,
}

impl DeclarePlan {
    pub(crate) fn new(arguments: cli::Declare, settings: &Settings) -> Result<Self, Error> {
        let (all, check, form) = (arguments.all, arguments.check, arguments.output);
        let (entities, is_described) = if all {
            (settings.topology.entities(), true)
        } else {
            named(arguments, settings).map_err(|Violation { option, rule }| {
                let option = option.replace("argument ", "argument: ");
                Error::Usage(format!("--{option}: {rule}"))
            })?
        };
        if entities.is_empty() {
            return Err(Error::Config {
                place: "--all".to_owned(),
                problem:
                    "there is no configuration file, or it has no [[queues]], [[exchanges]] or \
                    [[bindings]]; config.example.toml has examples"
                        .to_owned(),
            });
        }
        let is_nameless =
            |entity: &Entity| matches!(entity, Entity::Queue(queue) if queue.name.is_none());
        if check && entities.iter().any(is_nameless) {
            return Err(Error::Usage("--check: no queue given".to_owned()));
        }
        // The broker logs each question for a queue that is missing as an error, so it is not asked where
        // the answer is not reported.
        let is_asked = check || all || form == ListFormat::Json;
        let operations = |entity: &Entity| {
            // AMQP has no question for a binding, and none for a queue that the broker is to name.
            let has_question = !matches!(entity, Entity::Binding(_)) && !is_nameless(entity);
            [
                (DeclareOperation::LookUp, has_question && is_asked),
                (
                    DeclareOperation::Compare,
                    has_question && check && is_described,
                ),
                (DeclareOperation::Declare, !check),
            ]
            .into_iter()
            .filter_map(|(operation, is_wanted)| is_wanted.then_some(operation))
            .collect()
        };
        Ok(Self {
            tasks: entities
                .into_iter()
                .map(|entity| DeclareTask {
                    operations: operations(&entity),
                    entity,
                })
                .collect(),
            form,
            all,
            knows_properties: !check || is_described,
        })
    }
}

/// Returns the entities that the command line names, and whether it says more than their names.
fn named(arguments: cli::Declare, settings: &Settings) -> Result<(Vec<Entity>, bool), Violation> {
    let given = arguments.queue;
    let is_named = arguments.name.is_some() || matches!(settings.queue.origin, Origin::Flag(_));
    let has_queue_arguments = given.is_any();
    let is_bound = !arguments.bind.is_empty();
    let queue_name = match arguments.name {
        Some(name) => name.0,
        None => Some(settings.queue.value.clone()),
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
    let definition = &settings.definition;
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
    Ok((entities, is_described || is_exchange_described))
}
