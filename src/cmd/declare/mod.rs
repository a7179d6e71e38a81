//! `hello-mq declare`: make sure that queues, exchanges and bindings exist with exactly these properties.

mod plan;
mod report;

use super::Context;
use super::plan::{Plan, compare, look_up_exchange, look_up_queue};
use crate::broker::topology::difference::{self, Comparison, Differences};
use crate::broker::{Session, topology};
use crate::error::{Error, Mismatch, Status};
use crate::topology::{Binding, Destination, Difference, Entity};
use crate::values::QueueName;
pub(crate) use plan::DeclarePlan;
use plan::{DeclareOperation, DeclareTask};
use report::{DeclareOutcome, DeclareReport, DeclareState};

/// The reason of a difference that a check found, where an error has the broker's words otherwise.
const NOT_AS_WANTED: &str = "not as wanted";

impl Plan for DeclarePlan {
    fn operations(&self) -> Vec<String> {
        self.tasks
            .iter()
            .flat_map(DeclareTask::operations)
            .collect()
    }

    /// Carries out each task, and prints its outcome. With `--all` an entity that fails does not keep the
    /// others from being declared.
    fn run(self: Box<Self>, context: &Context) -> Result<(), Error> {
        let report = DeclareReport::new(context, self.form, self.all, self.knows_properties);
        let mut declaring = DeclareSession {
            broker: context.settings.broker.to_string(),
            session: context.connector("declare", None).declaring(true).open()?,
            new_queue: None,
        };
        let total = self.tasks.len();
        let mut failed = Vec::new();
        for mut task in self.tasks {
            declaring.name_queue(&mut task.entity);
            let result = declaring.carry_out(&task);
            report.entry(&task.entity, &result)?;
            match result {
                Ok(_) => {}
                Err(DeclareFailure { error, .. }) if !self.all || !is_of_one_entity(&error) => {
                    return Err(error);
                }
                Err(DeclareFailure { error, .. }) => {
                    context.messenger.error(&error);
                    failed.push(error.status());
                    declaring.session.reopen_if_closed()?;
                }
            }
        }
        declaring.session.close();
        match failed.iter().max() {
            None => Ok(()),
            Some(&status) => Err(Error::Topology {
                failed: failed.len(),
                total,
                status,
            }),
        }
    }
}

impl DeclareTask {
    fn operations(&self) -> impl Iterator<Item = String> {
        let entity = &self.entity;
        self.operations
            .iter()
            .map(move |operation| match (operation, entity) {
                (DeclareOperation::LookUp, Entity::Queue(queue)) => look_up_queue(queue),
                (DeclareOperation::LookUp, Entity::Exchange(exchange)) => {
                    look_up_exchange(&exchange.name)
                }
                (DeclareOperation::Compare, Entity::Queue(queue)) => {
                    compare("queue", queue) + ", to learn its properties"
                }
                (DeclareOperation::Compare, Entity::Exchange(exchange)) => {
                    compare("exchange", exchange) + ", to learn its properties"
                }
                (_, entity) => entity.operation(),
            })
    }
}

/// Whether other entities may succeed although this one failed.
fn is_of_one_entity(error: &Error) -> bool {
    matches!(error, Error::Refused { .. } | Error::Different(_))
}

/// The reason why an entity is not as wanted.
struct DeclareFailure {
    error: Error,
    /// The differences, if they are why.
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

/// A session on which tasks are carried out.
struct DeclareSession {
    broker: String,
    session: Session,
    /// The last queue that was declared, to which the broker may have given its name.
    new_queue: Option<QueueName>,
}

impl DeclareSession {
    /// Sets the destination of a binding to the queue that the broker has named.
    fn name_queue(&self, entity: &mut Entity) {
        if let Entity::Binding(Binding { destination, .. }) = entity {
            if *destination == Destination::Queue(None) {
                *destination = Destination::Queue(self.new_queue.clone());
            }
        }
    }

    fn carry_out(&mut self, task: &DeclareTask) -> Result<DeclareOutcome, DeclareFailure> {
        let entity = &task.entity;
        let is_declared = task.operations.contains(&DeclareOperation::Declare);
        let mut outcome = DeclareOutcome::of(DeclareState::NotChecked);
        for operation in &task.operations {
            match operation {
                DeclareOperation::LookUp => match self.existing(entity) {
                    Err(error) if is_declared && error.status() == Status::NoSuchQueue => {}
                    existing => outcome = existing?,
                },
                DeclareOperation::Compare => {
                    let comparison = self.compare(entity)?;
                    if matches!(comparison, Comparison::Different(_)) {
                        let said = NOT_AS_WANTED.to_owned();
                        return Err(self.different(entity, said, comparison));
                    }
                }
                DeclareOperation::Declare => {
                    let was_there = outcome.state == DeclareState::Exists;
                    outcome = self.declare(entity, was_there)?;
                }
            }
        }
        Ok(outcome)
    }

    fn existing(&mut self, entity: &Entity) -> Result<DeclareOutcome, Error> {
        let mut outcome = DeclareOutcome::of(DeclareState::Exists);
        match entity {
            Entity::Queue(queue) => {
                if let Some(name) = &queue.name {
                    outcome = outcome.of_queue(name, topology::look_up(&mut self.session, name)?);
                }
            }
            Entity::Exchange(exchange) => {
                topology::look_up_exchange(&mut self.session, &exchange.name)?;
            }
            Entity::Binding(_) => {}
        }
        Ok(outcome)
    }

    fn compare(&mut self, entity: &Entity) -> Result<Comparison, Error> {
        match entity {
            Entity::Queue(queue) => match &queue.name {
                Some(name) => difference::of_queue(&mut self.session, name, queue),
                None => Ok(Comparison::Missing),
            },
            Entity::Exchange(exchange) => difference::of_exchange(&mut self.session, exchange),
            Entity::Binding(_) => Ok(Comparison::Same),
        }
    }

    fn declare(
        &mut self,
        entity: &Entity,
        was_there: bool,
    ) -> Result<DeclareOutcome, DeclareFailure> {
        let made = DeclareOutcome::of(if was_there {
            DeclareState::Exists
        } else {
            DeclareState::Created
        });
        let session = &mut self.session;
        let declared = match entity {
            Entity::Queue(queue) => topology::declare(session, queue).map(|(name, state)| {
                let made = made.of_queue(&name, state);
                self.new_queue = Some(name);
                made
            }),
            Entity::Exchange(exchange) => {
                topology::declare_exchange(session, exchange).map(|()| made)
            }
            Entity::Binding(binding) => {
                topology::bind(session, binding).map(|()| DeclareOutcome::of(DeclareState::Bound))
            }
        };
        match declared {
            Err(Error::Refused {
                code: 406, said, ..
            }) if is_mismatch(&said) => match self.compare(entity)? {
                // The broker tells apart queues that mean the same.
                Comparison::Same if matches!(entity, Entity::Queue(_)) => {
                    Ok(self.existing(entity)?)
                }
                comparison => Err(self.different(entity, said, comparison)),
            },
            declared => Ok(declared?),
        }
    }

    /// Returns the error of an entity that exists with other properties.
    fn different(&self, entity: &Entity, said: String, comparison: Comparison) -> DeclareFailure {
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
                command: existing.and_then(|existing| match entity {
                    Entity::Queue(queue) => Some(queue.with(existing).command()),
                    Entity::Exchange(exchange) => Some(exchange.with(existing).command()),
                    Entity::Binding(_) => None,
                }),
            })),
            differences,
        }
    }
}

/// Whether the broker compared what was declared with something that exists.
fn is_mismatch(said: &str) -> bool {
    said.contains("inequivalent arg")
}
