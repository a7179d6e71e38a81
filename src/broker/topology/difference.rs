//! How what exists differs from what is wanted, found without changing anything.
//!
//! The broker has no question for the properties of a queue or an exchange. It compares them when
//! something is declared that exists, and names the first that differs. So the declaration is
//! repeated, each time with what the broker has just said, until nothing is left to say. Every such
//! declaration carries an argument with which nothing can be made ([`CONTRADICTING_ARGUMENTS`]), so that nothing
//! comes into being even if the queue is deleted meanwhile.

use std::collections::BTreeSet;

use super::arguments::Inequivalent;
use crate::broker::session::Session;
use crate::error::Error;
use crate::message::FieldValue;
use crate::topology::{
    ALTERNATE, Arguments, Difference, Exchange, ExchangeType, Queue, QueueType, is_same,
};
use crate::values::QueueName;

/// What a comparison found.
#[derive(Clone, Debug, PartialEq)]
pub enum Comparison {
    /// There is no such thing.
    Missing,
    /// It is as wanted. Arguments that RabbitMQ does not know are not compared.
    Same,
    /// It is not.
    Different(Differences),
}

/// In what it is different.
#[derive(Clone, Debug, PartialEq)]
pub struct Differences {
    /// Each property that differs, as far as it is known.
    pub list: Vec<Difference>,
    /// All properties as they are; `None` if the broker did not say them all.
    pub existing: Option<Arguments>,
}

/// Arguments that no RabbitMQ takes when it makes a queue. Streams alone compare the first, and never
/// the second, so that one of them remains unsaid whatever the queue is.
const CONTRADICTING_ARGUMENTS: &[&str] = &["x-max-age", "x-max-priority"];

/// Compares a queue with the one that exists under its name.
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
    let Some(mut found) = compared else {
        return Ok(Comparison::Missing);
    };
    found.forget_what_its_type_lacks(&wanted);
    Ok(found.against(&wanted))
}

/// Compares an exchange with the one that exists under its name.
///
/// # Errors
/// [`Error::Refused`] for another reason than a difference; [`Error::Lost`].
pub fn of_exchange(session: &mut Session, exchange: &Exchange) -> Result<Comparison, Error> {
    let wanted = exchange.properties();
    let compared = compare(&wanted, &[ALTERNATE], |candidate| {
        super::declare_exchange(session, &exchange.with(candidate.clone()))
    })?;
    Ok(compared.map_or(Comparison::Missing, |found| found.against(&wanted)))
}

/// Whether an exchange is a direct one. None is taken for one of which it can't be told: as the user may
/// not declare it, or as there is none.
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
    let said = match super::declare_exchange(session, &candidate) {
        Ok(()) => return Ok(true),
        Err(Error::Refused {
            code: 406, said, ..
        }) => said,
        Err(Error::Refused { code: 403, .. }) => return Ok(false),
        Err(error) => return Err(error),
    };
    // The broker compares the type first.
    Ok(match Inequivalent::parse(&said, &candidate.arguments) {
        Some(Ok(found)) => found.property != "type",
        Some(Err(property)) => property != "type",
        None => false,
    })
}

/// What was found out about what exists.
struct ExistingProperties {
    /// Its properties. Where nothing else was said, they are as wanted.
    existing: Arguments,
    /// Whether that is all of them.
    is_complete: bool,
    /// The property of which the broker said no more than that it differs.
    unknown: Option<String>,
}

fn compare(
    wanted: &Arguments,
    poison: &[&str],
    mut declare: impl FnMut(&Arguments) -> Result<(), Error>,
) -> Result<Option<ExistingProperties>, Error> {
    let mut existing = wanted.clone();
    let mut poison: BTreeSet<_> = poison.iter().map(|name| (*name).to_owned()).collect();
    let mut named = BTreeSet::new();
    let mut shortened = BTreeSet::new();
    let mut unknown = None;
    // Without a poison left everything is known: the broker compares the arguments last.
    let is_complete = loop {
        if poison.is_empty() {
            break shortened.is_empty();
        }
        let mut candidate = existing.clone();
        candidate.retain(|name, _| !shortened.contains(name));
        candidate.extend(poison.iter().map(|name| (name.clone(), FieldValue::Void)));
        let said = match declare(&candidate) {
            Ok(()) => {
                // What was not compared can't be there.
                existing.retain(|name, _| !poison.contains(name));
                break true;
            }
            Err(Error::Refused {
                code: 406, said, ..
            }) => said,
            Err(error) => return Err(error),
        };
        match Inequivalent::parse(&said, &candidate) {
            None => return Ok(None),
            Some(Ok(Inequivalent {
                property,
                existing: value,
            })) => {
                if !named.insert(property.clone()) {
                    break false;
                }
                poison.remove(&property);
                shortened.remove(&property);
                match value {
                    Some(value) => existing.insert(property, value),
                    None => existing.remove(&property),
                };
            }
            // The words were cut off. Of two values it can only be the other.
            Some(Err(property)) => match candidate.get(&property) {
                Some(FieldValue::Bool(flag)) if named.insert(property.clone()) => {
                    existing.insert(property, FieldValue::Bool(!flag));
                }
                // They are shorter where nothing is asked for.
                Some(_) if shortened.insert(property.clone()) => {
                    poison.remove(&property);
                    if poison.is_empty() {
                        unknown = Some(property);
                        break false;
                    }
                }
                _ => {
                    unknown = Some(property);
                    break false;
                }
            },
        }
    };
    // What was left out, and not missed, is not there.
    existing.retain(|name, _| !shortened.contains(name));
    Ok(Some(ExistingProperties {
        existing,
        is_complete,
        unknown,
    }))
}

impl ExistingProperties {
    /// Takes out what a queue of the existing type can't have, which the broker does not compare.
    fn forget_what_its_type_lacks(&mut self, wanted: &Arguments) {
        let kind = self.existing.get("x-queue-type");
        if is_same("x-queue-type", kind, wanted.get("x-queue-type")) {
            return;
        }
        let kind = kind.map_or(Some(QueueType::Classic), QueueType::of);
        let Some(kind) = kind else { return };
        self.existing
            .retain(|name, _| crate::topology::is_taken_by(name, kind));
    }

    fn against(mut self, wanted: &Arguments) -> Comparison {
        if let Some(property) = &self.unknown {
            self.existing.remove(property);
        }
        let mut list = Difference::between(wanted, &self.existing);
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
            existing: self.is_complete.then_some(self.existing),
        })
    }
}
