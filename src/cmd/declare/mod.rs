//! `hello-mq declare`: make sure that queues, exchanges and bindings exist, with exactly these
//! properties.

mod plan;
mod report;

use super::Context;
use crate::broker::topology::difference::{self, Comparison, Differences};
use crate::broker::{Session, topology};
use crate::cli;
use crate::error::{Error, Mismatch, Status};
use crate::topology::{Binding, Destination, Difference, Entity, Exchange, Queue};
use crate::values::QueueName;
use report::{DeclareOutcome, DeclareReport, DeclareState};

/// What is said of something that a check finds to be different: the broker was not asked to declare it.
const NOT_AS_WANTED: &str = "not as wanted";

/// Declares what is asked for, and prints what became of each.
///
/// # Errors
/// Those of the broker; [`Error::Different`] if something exists with other properties;
/// [`Error::Topology`] if some of many failed; [`Error::Output`] if the result can't be printed.
pub fn run(arguments: cli::Declare, context: &Context) -> Result<(), Error> {
    let (check, all) = (arguments.check, arguments.all);
    let form = arguments.output;
    let plan = plan::of(arguments, context)?;
    // A check that compares nothing learns nothing but that there is something.
    let report = DeclareReport::new(context, form, all, !check || plan.compare);
    let session = context.connector("declare", None).declaring(true).open()?;
    let mut work = DeclareSession {
        broker: context.settings.broker.to_string(),
        session,
        check,
        compare: plan.compare,
        // What is there is asked only where it is told: the broker logs each question for a queue
        // that is missing as an error.
        ask_first: report.tells_what_was_there(),
        new_queue: None,
    };
    let total = plan.entities.len();
    let mut failed = Vec::new();
    for mut entity in plan.entities {
        work.name_queue(&mut entity);
        let result = work.apply(&entity);
        report.entry(&entity, &result)?;
        match result {
            Ok(_) => {}
            Err(DeclareFailure { error, .. }) if !all || !is_of_one_entity(&error) => {
                return Err(error);
            }
            Err(DeclareFailure { error, .. }) => {
                context.messenger.error(&error);
                failed.push(error.status());
                work.session.reopen_if_closed()?;
            }
        }
    }
    work.session.close();
    match failed.iter().max() {
        None => Ok(()),
        Some(&status) => Err(Error::Topology {
            failed: failed.len(),
            total,
            status,
        }),
    }
}

/// What it would do.
///
/// # Errors
/// As [`run`], without the broker's.
pub fn operations(arguments: cli::Declare, context: &Context) -> Result<Vec<String>, Error> {
    let check = arguments.check;
    let plan = plan::of(arguments, context)?;
    let operation = |entity: &Entity| match (check, entity) {
        (false, entity) => Some(entity.operation()),
        (true, Entity::Queue(queue)) => Some(format!("queue.declare {queue} passive=true")),
        (true, Entity::Exchange(exchange)) => {
            Some(format!("exchange.declare {exchange} passive=true"))
        }
        (true, Entity::Binding(_)) => None,
    };
    Ok(plan.entities.iter().filter_map(operation).collect())
}

/// Whether the next entity may succeed although this one failed.
fn is_of_one_entity(error: &Error) -> bool {
    matches!(error, Error::Refused { .. } | Error::Different(_))
}

/// Why an entity is not as it is wanted.
struct DeclareFailure {
    error: Error,
    /// In what it differs, if that is why.
    differences: Option<Box<Differences>>,
}

impl From<Error> for DeclareFailure {
    fn from(error: Error) -> Self {
        Self {
            error,
            differences: None,
        }
    }
}

/// A connection, and what to do on it with each entity.
struct DeclareSession {
    broker: String,
    session: Session,
    /// Nothing is to be changed.
    check: bool,
    /// Whether a check compares properties, or only asks whether there is something.
    compare: bool,
    ask_first: bool,
    /// The queue to which the broker has given a name.
    new_queue: Option<QueueName>,
}

impl DeclareSession {
    fn apply(&mut self, entity: &Entity) -> Result<DeclareOutcome, DeclareFailure> {
        match entity {
            Entity::Queue(queue) if self.check => self.check_queue(queue),
            Entity::Queue(queue) => self.declare_queue(queue),
            Entity::Exchange(exchange) if self.check => self.check_exchange(exchange),
            Entity::Exchange(exchange) => self.declare_exchange(exchange),
            Entity::Binding(_) if self.check => Ok(DeclareOutcome::of(DeclareState::NotChecked)),
            Entity::Binding(binding) => {
                topology::bind(&mut self.session, binding)?;
                Ok(DeclareOutcome::of(DeclareState::Bound))
            }
        }
    }

    /// A binding to the queue that the broker has given a name leads to that name.
    fn name_queue(&self, entity: &mut Entity) {
        if let Entity::Binding(Binding { destination, .. }) = entity {
            if *destination == Destination::Queue(None) {
                *destination = Destination::Queue(self.new_queue.clone());
            }
        }
    }

    fn declare_queue(&mut self, queue: &Queue) -> Result<DeclareOutcome, DeclareFailure> {
        let was_there = match &queue.name {
            Some(name) if self.ask_first => is_there(topology::look_up(&mut self.session, name))?,
            _ => false,
        };
        match (topology::declare(&mut self.session, queue), &queue.name) {
            (
                Err(Error::Refused {
                    code: 406, said, ..
                }),
                Some(name),
            ) if is_mismatch(&said) => {
                match difference::of_queue(&mut self.session, name, queue)? {
                    // The broker tells apart what means the same.
                    Comparison::Same => self.existing_queue(name),
                    found => Err(self.different_queue(queue, said, found)),
                }
            }
            (declared, _) => {
                let (name, counts) = declared?;
                self.new_queue = Some(name.clone());
                Ok(DeclareOutcome {
                    name: Some(name),
                    counts: Some(counts),
                    ..DeclareOutcome::of(DeclareState::made(was_there))
                })
            }
        }
    }

    fn check_queue(&mut self, queue: &Queue) -> Result<DeclareOutcome, DeclareFailure> {
        let Some(name) = &queue.name else {
            return Err(Error::Usage("--check: no queue given".to_owned()).into());
        };
        let existing = self.existing_queue(name)?;
        if self.compare {
            let found = difference::of_queue(&mut self.session, name, queue)?;
            if matches!(found, Comparison::Different(_)) {
                return Err(self.different_queue(queue, NOT_AS_WANTED.to_owned(), found));
            }
        }
        Ok(existing)
    }

    fn existing_queue(&mut self, name: &QueueName) -> Result<DeclareOutcome, DeclareFailure> {
        Ok(DeclareOutcome {
            name: Some(name.clone()),
            counts: Some(topology::look_up(&mut self.session, name)?),
            ..DeclareOutcome::of(DeclareState::Exists)
        })
    }

    fn declare_exchange(&mut self, exchange: &Exchange) -> Result<DeclareOutcome, DeclareFailure> {
        let was_there = self.ask_first
            && is_there(topology::look_up_exchange(
                &mut self.session,
                &exchange.name,
            ))?;
        match topology::declare_exchange(&mut self.session, exchange) {
            Err(Error::Refused {
                code: 406, said, ..
            }) if is_mismatch(&said) => {
                let found = difference::of_exchange(&mut self.session, exchange)?;
                Err(self.different_exchange(exchange, said, found))
            }
            declared => {
                declared?;
                Ok(DeclareOutcome::of(DeclareState::made(was_there)))
            }
        }
    }

    fn check_exchange(&mut self, exchange: &Exchange) -> Result<DeclareOutcome, DeclareFailure> {
        topology::look_up_exchange(&mut self.session, &exchange.name)?;
        if self.compare {
            let found = difference::of_exchange(&mut self.session, exchange)?;
            if matches!(found, Comparison::Different(_)) {
                return Err(self.different_exchange(exchange, NOT_AS_WANTED.to_owned(), found));
            }
        }
        Ok(DeclareOutcome::of(DeclareState::Exists))
    }

    /// Explains why a queue could not be declared.
    fn different_queue(&self, queue: &Queue, said: String, found: Comparison) -> DeclareFailure {
        let entity = Entity::Queue(queue.clone());
        self.different(&entity, said, found, |existing| {
            queue.with(existing).command()
        })
    }

    /// Explains why an exchange could not be declared.
    fn different_exchange(
        &self,
        exchange: &Exchange,
        said: String,
        found: Comparison,
    ) -> DeclareFailure {
        let entity = Entity::Exchange(exchange.clone());
        self.different(&entity, said, found, |existing| {
            exchange.with(existing).command()
        })
    }

    fn different(
        &self,
        entity: &Entity,
        said: String,
        comparison: Comparison,
        command: impl Fn(crate::topology::Arguments) -> String,
    ) -> DeclareFailure {
        let differences = match comparison {
            Comparison::Different(differences) => Some(Box::new(differences)),
            // It was deleted, or made anew, in between.
            Comparison::Missing | Comparison::Same => None,
        };
        let list = differences.iter().flat_map(|found| &found.list);
        let existing = differences
            .as_ref()
            .and_then(|found| found.existing.clone());
        DeclareFailure {
            error: Error::Different(Box::new(Mismatch {
                broker: self.broker.clone(),
                entity: entity.to_string(),
                said,
                differences: list.map(Difference::line).collect(),
                command: existing.map(command),
            })),
            differences,
        }
    }
}

/// Whether the broker compared what was declared with something that exists.
fn is_mismatch(said: &str) -> bool {
    said.contains("inequivalent arg")
}

fn is_there<T>(found: Result<T, Error>) -> Result<bool, Error> {
    match found {
        Ok(_) => Ok(true),
        Err(error) if error.status() == Status::NoSuchQueue => Ok(false),
        Err(error) => Err(error),
    }
}
