//! The kind of the queue that is consumed from.

use super::difference::{self, Comparison};
use crate::broker::session::Session;
use crate::error::Error;
use crate::message::FieldValue;
use crate::topology::{Difference, Queue, QueueKind, QueueType, integer};
use crate::values::QueueName;

const QUEUE_TYPE_ARGUMENT: &str = "x-queue-type";
const DELIVERY_LIMIT_ARGUMENT: &str = "x-delivery-limit";
const AUTO_DELETE: &str = "auto_delete";

/// Returns the kind of a declared queue, if its declaration tells.
pub(crate) fn of_declared(queue: &Queue) -> Option<QueueKind> {
    let limit = queue
        .arguments
        .get(DELIVERY_LIMIT_ARGUMENT)
        .and_then(integer);
    match queue
        .arguments
        .get(QUEUE_TYPE_ARGUMENT)
        .and_then(QueueType::of)
    {
        Some(QueueType::Classic) => Some(QueueKind::Classic),
        Some(QueueType::Quorum) => Some(quorum(limit)),
        Some(QueueType::Stream) => Some(QueueKind::Stream),
        // Only classic queues may be transient.
        None if !queue.durable => Some(QueueKind::Classic),
        None => None,
    }
}

fn quorum(limit: Option<i64>) -> QueueKind {
    // A negative limit is no limit.
    let limit = limit.map(|limit| u64::try_from(limit).unwrap_or(u64::MAX));
    QueueKind::Quorum { limit }
}

/// Finds the kind of the queue that is consumed from, once a session, without changing anything.
pub(crate) fn find(session: &mut Session, name: &QueueName) -> Result<QueueKind, Error> {
    if let Some(kind) = session.queue_kind {
        return Ok(kind);
    }
    let mut wanted = Queue::plain(name.clone());
    wanted.durable = true;
    let kind = FieldValue::LongString(QueueType::Quorum.as_str().into());
    wanted
        .arguments
        .insert(QUEUE_TYPE_ARGUMENT.to_owned(), kind);
    let kind = match difference::of_queue(session, name, &wanted) {
        Ok(comparison) => {
            session.is_queue_auto_delete = is_auto_delete(&comparison);
            of_compared(&comparison)
        }
        Err(Error::Refused { .. }) => QueueKind::Unknown,
        Err(error) => return Err(error),
    };
    session.queue_kind = Some(kind);
    Ok(kind)
}

/// Returns the kind of a queue by its comparison with a quorum queue without arguments.
fn of_compared(comparison: &Comparison) -> QueueKind {
    let list = match comparison {
        Comparison::Missing => return QueueKind::Unknown,
        Comparison::Same => &[][..],
        Comparison::Different(differences) => &differences.list[..],
    };
    let find = |name| list.iter().find(|it| it.property == name);
    let Some(kind) = find(QUEUE_TYPE_ARGUMENT) else {
        let limit = find(DELIVERY_LIMIT_ARGUMENT).and_then(|it| it.existing.as_ref());
        return quorum(limit.and_then(integer));
    };
    match &kind.existing {
        // Queues of old versions have no type.
        None if kind.is_known => QueueKind::Classic,
        existing => match existing.as_ref().and_then(QueueType::of) {
            Some(QueueType::Classic) => QueueKind::Classic,
            Some(QueueType::Stream) => QueueKind::Stream,
            Some(QueueType::Quorum) | None => QueueKind::Unknown,
        },
    }
}

/// Whether a queue differs from a quorum queue in that it is deleted with its last consumer.
fn is_auto_delete(comparison: &Comparison) -> bool {
    let Comparison::Different(differences) = comparison else {
        return false;
    };
    let is_set = |it: &Difference| it.existing == Some(FieldValue::Bool(true));
    let mut list = differences.list.iter();
    list.any(|it| it.property == AUTO_DELETE && is_set(it))
}

/// Whether a queue is, or may be, a classic one.
pub(crate) fn is_classic(session: &mut Session, name: &QueueName) -> Result<bool, Error> {
    let kind = find(session, name)?;
    Ok(matches!(kind, QueueKind::Classic | QueueKind::Unknown))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::topology::difference::Differences;

    fn compared(list: &[(&str, Option<FieldValue>, bool)]) -> QueueKind {
        let difference =
            |(property, existing, is_known): &(&str, Option<FieldValue>, bool)| Difference {
                property: (*property).to_owned(),
                wanted: None,
                existing: existing.clone(),
                is_known: *is_known,
            };
        of_compared(&Comparison::Different(Differences {
            list: list.iter().map(difference).collect(),
            existing: None,
        }))
    }

    #[test]
    fn the_kind_of_a_queue_follows_from_its_differences() {
        let text = |text: &str| Some(FieldValue::LongString(text.into()));
        let limit = |limit| ("x-delivery-limit", Some(FieldValue::Long(limit)), true);
        for (list, kind) in [
            (
                &[(QUEUE_TYPE_ARGUMENT, text("classic"), true)][..],
                QueueKind::Classic,
            ),
            (&[(QUEUE_TYPE_ARGUMENT, None, true)], QueueKind::Classic),
            (
                &[(QUEUE_TYPE_ARGUMENT, text("stream"), true)],
                QueueKind::Stream,
            ),
            (
                &[(QUEUE_TYPE_ARGUMENT, text("of a plugin"), true)],
                QueueKind::Unknown,
            ),
            // An unreadable value.
            (&[(QUEUE_TYPE_ARGUMENT, None, false)], QueueKind::Unknown),
            (
                &[("x-max-length", Some(FieldValue::Long(1)), true)],
                QueueKind::Quorum { limit: None },
            ),
            (&[limit(3)], QueueKind::Quorum { limit: Some(3) }),
            (
                &[limit(-1)],
                QueueKind::Quorum {
                    limit: Some(u64::MAX),
                },
            ),
        ] {
            assert_eq!(compared(list), kind, "{list:?}");
        }
        assert_eq!(
            of_compared(&Comparison::Same),
            QueueKind::Quorum { limit: None }
        );
        assert_eq!(of_compared(&Comparison::Missing), QueueKind::Unknown);
    }
}
