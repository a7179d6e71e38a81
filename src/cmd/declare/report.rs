//! The output of `declare` for each queue, exchange and binding.

use serde::Serialize;
use serde_json::Value as Json;

use super::DeclareFailure;
use crate::broker::topology::QueueState;
use crate::cli::ListFormat;
use crate::cmd::{Context, counted, write};
use crate::error::Error;
use crate::message::FieldValue;
use crate::topology::{self, Arguments, Destination, Entity};
use crate::values::QueueName;

/// The state of an entity after the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum DeclareState {
    /// Exists now, and did not before as far as that was asked.
    Created,
    /// Existed before, as wanted.
    Exists,
    /// Bound; AMQP does not tell whether it was before.
    Bound,
    /// Not checked: AMQP has no question for a binding.
    NotChecked,
    /// Exists with other properties.
    Different,
    /// Does not exist.
    Missing,
    /// Refused by the broker.
    Failed,
}

/// The broker's answers about an entity that is as wanted.
pub(super) struct DeclareOutcome {
    pub(super) state: DeclareState,
    /// The name of a queue, which the broker may have made up.
    pub(super) name: Option<QueueName>,
    /// The counts of a queue.
    pub(super) counts: Option<QueueState>,
}

impl DeclareOutcome {
    /// Returns an outcome without answers about a queue.
    pub(super) fn of(state: DeclareState) -> Self {
        Self {
            state,
            name: None,
            counts: None,
        }
    }

    /// Adds the name and the counts of a queue.
    pub(super) fn of_queue(self, name: &QueueName, counts: QueueState) -> Self {
        Self {
            name: Some(name.clone()),
            counts: Some(counts),
            ..self
        }
    }
}

/// Prints the outcome for each entity.
pub(super) struct DeclareReport<'c> {
    context: &'c Context,
    form: ListFormat,
    /// Whether the entities are listed with their states.
    is_list: bool,
    /// Whether the properties of entities that exist are known.
    knows_properties: bool,
}

impl<'c> DeclareReport<'c> {
    pub(super) fn new(
        context: &'c Context,
        form: ListFormat,
        is_list: bool,
        knows_properties: bool,
    ) -> Self {
        Self {
            context,
            form,
            is_list,
            knows_properties,
        }
    }

    /// Prints the outcome for one entity.
    pub(super) fn entry(
        &self,
        entity: &Entity,
        result: &Result<DeclareOutcome, DeclareFailure>,
    ) -> Result<(), Error> {
        match (self.form, result) {
            (ListFormat::Json, _) => {
                let mut entry = EntityJson::new(entity, result);
                if !self.knows_properties {
                    entry.forget_properties();
                }
                let line = serde_json::to_string(&entry)
                    .map_err(|error| Error::Bug(format!("cannot write JSON: {error}")))?;
                write(&line)
            }
            (ListFormat::Text, Ok(outcome)) if self.is_list => {
                let mark = match outcome.state {
                    DeclareState::NotChecked => '-',
                    _ => 'x',
                };
                let entity = capitalized(entity);
                self.context
                    .print(&format!(" [{mark}] {entity}: {}", shown(outcome)))
            }
            (ListFormat::Text, Err(failure)) if self.is_list => self.context.print(&format!(
                " [ ] {}: {}",
                capitalized(entity),
                match state(&failure.error) {
                    DeclareState::Different => "different",
                    DeclareState::Missing => "missing",
                    _ => "failed",
                }
            )),
            (ListFormat::Text, Ok(outcome)) => self.context.print(&single(entity, outcome)),
            (ListFormat::Text, Err(_)) => Ok(()),
        }
    }
}

fn capitalized(entity: &Entity) -> String {
    let text = entity.to_string();
    let (first, rest) = text.split_at(1);
    first.to_uppercase() + rest
}

fn shown(outcome: &DeclareOutcome) -> String {
    let state = match outcome.state {
        DeclareState::Created => "created",
        DeclareState::Exists => "already there",
        DeclareState::Bound => "bound",
        DeclareState::NotChecked => "not checked, as AMQP can't ask after a binding",
        DeclareState::Different | DeclareState::Missing | DeclareState::Failed => "failed",
    };
    match outcome.counts {
        Some(counts) => format!("{state} ({})", counted_both(counts)),
        None => state.to_owned(),
    }
}

fn counted_both(counts: QueueState) -> String {
    format!(
        "{}, {}",
        counted(counts.messages.into(), "message"),
        counted(counts.consumers.into(), "consumer")
    )
}

fn single(entity: &Entity, outcome: &DeclareOutcome) -> String {
    let is_check = outcome.state == DeclareState::Exists;
    match (entity, &outcome.name, outcome.counts) {
        (Entity::Queue(_), Some(name), Some(counts)) if is_check => {
            format!(" [x] Queue {name} exists ({})", counted_both(counts))
        }
        (Entity::Queue(_), Some(name), Some(counts)) => {
            format!(" [x] Declared {name} ({})", counted_both(counts))
        }
        (Entity::Exchange(exchange), ..) if is_check => {
            format!(" [x] Exchange {exchange} exists")
        }
        (Entity::Binding(binding), ..) => format!(
            " [x] Bound {} to {} with '{}'",
            binding.destination,
            binding.source(),
            crate::text::escape(&binding.routing_key)
        ),
        _ => format!(" [x] Declared {entity}"),
    }
}

fn state(error: &Error) -> DeclareState {
    match error {
        Error::Different(_) => DeclareState::Different,
        Error::Refused { code: 404, .. } => DeclareState::Missing,
        _ => DeclareState::Failed,
    }
}

/// An entity and its state, as an object of JSON. The names are the management API's.
#[derive(Serialize)]
struct EntityJson {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    routing_key: Option<String>,
    state: DeclareState,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    consumers: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    durable: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auto_delete: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    internal: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    differences: Option<Vec<DifferenceJson>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    declare: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct DifferenceJson {
    property: String,
    wanted: Json,
    /// Left out if the broker did not say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    existing: Option<Json>,
}

impl EntityJson {
    fn new(entity: &Entity, result: &Result<DeclareOutcome, DeclareFailure>) -> Self {
        let mut entry = match entity {
            Entity::Queue(queue) => Self {
                name: queue.name.as_ref().map(|name| name.as_str().to_owned()),
                durable: Some(queue.durable),
                auto_delete: Some(queue.auto_delete),
                ..Self::empty("queue", &queue.arguments)
            },
            Entity::Exchange(exchange) => Self {
                name: Some(exchange.name.clone()),
                r#type: Some(exchange.kind.as_str().to_owned()),
                durable: Some(exchange.durable),
                auto_delete: Some(exchange.auto_delete),
                internal: Some(exchange.internal),
                ..Self::empty("exchange", &exchange.arguments)
            },
            Entity::Binding(binding) => {
                let (kind, name) = match &binding.destination {
                    Destination::Queue(name) => {
                        ("queue", name.as_ref().map_or("", QueueName::as_str))
                    }
                    Destination::Exchange(name) => ("exchange", name.as_str()),
                };
                Self {
                    source: Some(binding.exchange.clone()),
                    destination: Some(name.to_owned()),
                    destination_type: Some(kind),
                    routing_key: Some(binding.routing_key.clone()),
                    ..Self::empty("binding", &binding.arguments)
                }
            }
        };
        match result {
            Ok(outcome) => {
                entry.state = outcome.state;
                if let Some(name) = &outcome.name {
                    entry.name = Some(name.as_str().to_owned());
                }
                entry.messages = outcome.counts.map(|counts| counts.messages);
                entry.consumers = outcome.counts.map(|counts| counts.consumers);
            }
            Err(DeclareFailure { error, differences }) => {
                entry.state = state(error);
                entry.error = Some(error.to_string());
                if let Error::Different(mismatch) = error {
                    entry.declare.clone_from(&mismatch.command);
                }
                entry.differences = differences.as_ref().map(|found| {
                    let of = |value: Option<&FieldValue>| value.map_or(Json::Null, json);
                    found
                        .list
                        .iter()
                        .map(|difference| DifferenceJson {
                            property: difference.property.clone(),
                            wanted: of(difference.wanted.as_ref()),
                            existing: difference
                                .is_known
                                .then(|| of(difference.existing.as_ref())),
                        })
                        .collect()
                });
            }
        }
        entry
    }

    /// Removes the properties, which AMQP does not tell of an entity that is only looked up.
    fn forget_properties(&mut self) {
        self.r#type = None;
        self.durable = None;
        self.auto_delete = None;
        self.internal = None;
        self.arguments = None;
    }

    fn empty(kind: &'static str, arguments: &Arguments) -> Self {
        Self {
            kind,
            name: None,
            source: None,
            destination: None,
            destination_type: None,
            routing_key: None,
            state: DeclareState::Failed,
            messages: None,
            consumers: None,
            r#type: None,
            durable: None,
            auto_delete: None,
            internal: None,
            arguments: Some(
                arguments
                    .iter()
                    .map(|(name, value)| (name.clone(), json(value)))
                    .collect(),
            ),
            differences: None,
            declare: None,
            error: None,
        }
    }
}

fn json(value: &FieldValue) -> Json {
    // It was written as JSON a moment ago.
    serde_json::from_str(&topology::json(value)).unwrap_or(Json::Null)
}
