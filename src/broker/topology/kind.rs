//! Of what kind the queue is that messages come from.

use super::arguments::Inequivalent;
use super::difference::{self, Comparison, First};
use crate::broker::session::Session;
use crate::error::Error;
use crate::message::Value;
use crate::topology::{Difference, Queue, QueueKind, QueueType, integer};
use crate::values::QueueName;

const TYPE: &str = "x-queue-type";
const DURABLE: &str = "durable";
const DELIVERY_LIMIT: &str = "x-delivery-limit";

/// Returns the kind of a queue that was declared, if that tells.
pub fn of_declared(queue: &Queue) -> Option<QueueKind> {
    let limit = queue.arguments.get(DELIVERY_LIMIT).and_then(integer);
    match queue.arguments.get(TYPE).and_then(QueueType::of) {
        Some(QueueType::Classic) => Some(QueueKind::Classic),
        Some(QueueType::Quorum) => Some(quorum(limit)),
        Some(QueueType::Stream) => Some(QueueKind::Stream),
        // The others have to be durable.
        None if !queue.durable => Some(QueueKind::Classic),
        None => None,
    }
}

fn quorum(limit: Option<i64>) -> QueueKind {
    // A negative limit is none at all.
    let limit = limit.map(|limit| u64::try_from(limit).unwrap_or(u64::MAX));
    QueueKind::Quorum { limit }
}

/// Finds out of what kind a queue is, once a session, without changing anything.
///
/// # Errors
/// [`Error::Lost`].
pub fn find(session: &mut Session, name: &QueueName) -> Result<QueueKind, Error> {
    if let Some(kind) = session.queue {
        return Ok(kind);
    }
    let mut wanted = Queue::plain(name.clone());
    wanted.durable = true;
    let kind = Value::LongString(QueueType::Quorum.as_str().into());
    wanted.arguments.insert(TYPE.to_owned(), kind);
    let kind = match difference::first_of_queue(session, &wanted) {
        Ok(First::Different(it)) if it.property == TYPE => {
            match it.existing.as_ref().and_then(QueueType::of) {
                Some(QueueType::Stream) => QueueKind::Stream,
                _ => QueueKind::Classic,
            }
        }
        Ok(First::Different(Inequivalent { property, .. }) | First::CutOff(property))
            if property == DURABLE =>
        {
            QueueKind::Classic
        }
        Ok(First::CutOff(property)) if property == TYPE => QueueKind::Unknown,
        Ok(First::Different(_) | First::CutOff(_)) => quorum(limit(session, name, &wanted)?),
        // Not even a limit is different.
        Ok(First::Same) => quorum(None),
        Ok(First::Missing) | Err(Error::Refused { .. }) => QueueKind::Unknown,
        Err(error) => return Err(error),
    };
    session.queue = Some(kind);
    Ok(kind)
}

/// Returns the kind of a queue that differs so from a plain quorum queue.
fn of_difference(differences: &[Difference]) -> QueueKind {
    let find = |property: &str| differences.iter().find(|it| it.property == property);
    let existing = |it: &Difference| it.existing.as_ref().and_then(QueueType::of);
    match (find("durable"), find(TYPE)) {
        (None, None) => {
            let limit = find(DELIVERY_LIMIT).and_then(|it| integer(it.existing.as_ref()?));
            quorum(limit)
        }
        (_, Some(it)) if !it.is_known => QueueKind::Unknown,
        (None, Some(it)) if existing(it) == Some(QueueType::Stream) => QueueKind::Stream,
        _ => QueueKind::Classic,
    }
}

/// Whether a queue is a classic one, or may be.
///
/// # Errors
/// [`Error::Lost`].
pub fn is_classic(session: &mut Session, name: &QueueName) -> Result<bool, Error> {
    let kind = find(session, name)?;
    Ok(matches!(kind, QueueKind::Classic | QueueKind::Unknown))
}
