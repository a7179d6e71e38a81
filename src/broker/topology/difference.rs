//! The differences between what exists and what is wanted, found without changing anything.
//!
//! AMQP has no method to read the properties of a queue or an exchange. But the broker compares them when
//! an existing one is declared, and names the first that differs. So the declaration is repeated, each
//! time with the value that the broker has just named, until nothing differs. Every such declaration has
//! arguments with which nothing can be made ([`CONTRADICTING_ARGUMENTS`]), so that none is made even if
//! the original is deleted meanwhile.

use std::collections::BTreeSet;

use super::arguments::{ExistingValue, Inequivalent};
use crate::broker::session::Session;
use crate::error::Error;
use crate::message::FieldValue;
use crate::topology::{
    ALTERNATE, Arguments, Difference, Exchange, ExchangeType, Queue, QueueType, is_same,
};
use crate::values::QueueName;

/// The result of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub enum Comparison {
    /// The entity does not exist.
    Missing,
    /// All properties are as wanted. Arguments that RabbitMQ does not know are not compared.
    Same,
    /// Some properties differ.
    Different(Differences),
}

/// The properties that differ.
#[derive(Clone, Debug, PartialEq)]
pub struct Differences {
    /// The differences, as far as they are known.
    pub list: Vec<Difference>,
    /// All existing properties; `None` if some are unknown.
    pub existing: Option<Arguments>,
}

/// Arguments, without values, with which no RabbitMQ makes a queue. It compares the first for streams only,
/// and the second for all others, so one is always left over.
const CONTRADICTING_ARGUMENTS: &[&str] = &["x-max-age", "x-max-priority"];

/// Compares a queue with the existing one of this name.
///
/// # Errors
/// [`Error::Refused`] for another reason than a difference; [`Error::Lost`].
pub fn of_queue(
    session: &mut Session,
    name: &QueueName,
    queue: &Queue,
) -> Result<Comparison, Error> {
    let wanted = queue.properties();
    let compared = compare(&wanted, CONTRADICTING_ARGUMENTS, |candidate| {
        let candidate = Queue {
            name: Some(name.clone()),
            ..queue.with(candidate.clone())
        };
        super::declare(session, &candidate).map(drop)
    })?;
    let Some(mut existing) = compared else {
        return Ok(Comparison::Missing);
    };
    existing.remove_arguments_of_other_types(&wanted);
    Ok(existing.compare_with(&wanted))
}

/// Compares an exchange with the existing one of its name.
///
/// # Errors
/// [`Error::Refused`] for another reason than a difference; [`Error::Lost`].
pub fn of_exchange(session: &mut Session, exchange: &Exchange) -> Result<Comparison, Error> {
    let wanted = exchange.properties();
    let compared = compare(&wanted, &[ALTERNATE], |candidate| {
        super::declare_exchange(session, &exchange.with(candidate.clone()))
    })?;
    Ok(compared.map_or(Comparison::Missing, |existing| {
        existing.compare_with(&wanted)
    }))
}

/// Whether an exchange is a direct one; false, too, if it does not exist or the user may not declare it.
///
/// # Errors
/// [`Error::Refused`] for another reason; [`Error::Lost`].
pub fn is_direct(session: &mut Session, name: &str) -> Result<bool, Error> {
    let candidate = Exchange {
        name: name.to_owned(),
        kind: ExchangeType::default(),
        durable: true,
        auto_delete: false,
        internal: false,
        arguments: Arguments::from([(ALTERNATE.to_owned(), FieldValue::Void)]),
    };
    let refusal = match super::declare_exchange(session, &candidate) {
        Ok(()) => return Ok(true),
        Err(Error::Refused {
            code: 406, said, ..
        }) => said,
        Err(Error::Refused { code: 403, .. }) => return Ok(false),
        Err(error) => return Err(error),
    };
    // The broker compares the type first.
    let inequivalent = Inequivalent::parse(&refusal, &candidate.arguments);
    Ok(inequivalent.is_some_and(|it| it.property != "type"))
}

/// The properties of an existing queue or exchange, as far as they were found.
struct ExistingProperties {
    /// Properties that the broker did not complain of are as wanted.
    properties: Arguments,
    /// Whether all properties are known.
    is_complete: bool,
    /// A property that differs in an unknown way.
    unknown: Option<String>,
}

/// Finds the properties of what exists by declaring candidates; `None` if nothing exists.
fn compare(
    wanted: &Arguments,
    contradicting: &[&str],
    mut declare: impl FnMut(&Arguments) -> Result<(), Error>,
) -> Result<Option<ExistingProperties>, Error> {
    let mut search = Search {
        properties: wanted.clone(),
        contradicting: contradicting.iter().map(|it| (*it).to_owned()).collect(),
        ..Search::default()
    };
    let is_complete = loop {
        // The broker compares the contradicting arguments last.
        if search.contradicting.is_empty() {
            break search.omitted.is_empty();
        }
        let candidate = search.candidate();
        let refusal = match declare(&candidate) {
            Ok(()) => {
                // The arguments that the broker did not compare are not there.
                search.omitted.append(&mut search.contradicting);
                break true;
            }
            Err(Error::Refused {
                code: 406, said, ..
            }) => said,
            Err(error) => return Err(error),
        };
        let Some(inequivalent) = Inequivalent::parse(&refusal, &candidate) else {
            return Ok(None);
        };
        if !search.note(inequivalent, &candidate) {
            break false;
        }
    };
    let Search {
        mut properties,
        omitted,
        unknown,
        ..
    } = search;
    // Properties that are still left out were not missed, so they are not there.
    properties.retain(|name, _| !omitted.contains(name));
    Ok(Some(ExistingProperties {
        properties,
        is_complete,
        unknown,
    }))
}

/// The state of [`compare`] between two declarations.
#[derive(Default)]
struct Search {
    /// The existing properties, as far as they are found, and those wanted.
    properties: Arguments,
    /// The contradicting arguments that the broker has not named.
    contradicting: BTreeSet<String>,
    /// The properties of which the existing value is known.
    found: BTreeSet<String>,
    /// The properties left out of the declaration.
    omitted: BTreeSet<String>,
    unknown: Option<String>,
}

impl Search {
    /// Returns the properties to declare next.
    fn candidate(&self) -> Arguments {
        let mut candidate = self.properties.clone();
        candidate.retain(|name, _| !self.omitted.contains(name));
        let contradicting = self.contradicting.iter().cloned();
        candidate.extend(contradicting.map(|name| (name, FieldValue::Void)));
        candidate
    }

    /// Notes a property that differs from the candidate. Returns whether that helps.
    fn note(&mut self, inequivalent: Inequivalent, candidate: &Arguments) -> bool {
        let Inequivalent { property, existing } = inequivalent;
        let existing = match existing {
            ExistingValue::Value(value) => Some(value),
            ExistingValue::None => None,
            ExistingValue::Unreadable => match candidate.get(&property) {
                // Of two values it is the other.
                Some(FieldValue::Bool(flag)) if !self.found.contains(&property) => {
                    Some(FieldValue::Bool(!flag))
                }
                // Without a wanted value the refusal is shorter.
                Some(_) if self.omitted.insert(property.clone()) => {
                    self.contradicting.remove(&property);
                    if self.contradicting.is_empty() {
                        self.unknown = Some(property);
                        return false;
                    }
                    return true;
                }
                _ => {
                    self.unknown = Some(property);
                    return false;
                }
            },
        };
        if !self.found.insert(property.clone()) {
            return false;
        }
        self.contradicting.remove(&property);
        self.omitted.remove(&property);
        match existing {
            Some(value) => self.properties.insert(property, value),
            None => self.properties.remove(&property),
        };
        true
    }
}

impl ExistingProperties {
    /// Removes the arguments that queues of the existing type do not have, as the broker does not compare
    /// them.
    fn remove_arguments_of_other_types(&mut self, wanted: &Arguments) {
        let kind = self.properties.get("x-queue-type");
        if is_same("x-queue-type", kind, wanted.get("x-queue-type")) {
            return;
        }
        let kind = kind.map_or(Some(QueueType::Classic), QueueType::of);
        let Some(kind) = kind else { return };
        self.properties
            .retain(|name, _| crate::topology::is_taken_by(name, kind));
    }

    fn compare_with(mut self, wanted: &Arguments) -> Comparison {
        if let Some(property) = &self.unknown {
            self.properties.remove(property);
        }
        let mut list = Difference::between(wanted, &self.properties);
        if let Some(property) = self.unknown {
            list.retain(|difference| difference.property != property);
            list.push(Difference {
                wanted: wanted.get(&property).cloned(),
                property,
                existing: None,
                is_known: false,
            });
        }
        if list.is_empty() && self.is_complete {
            return Comparison::Same;
        }
        Comparison::Different(Differences {
            list,
            existing: self.is_complete.then_some(self.properties),
        })
    }
}
