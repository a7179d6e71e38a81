//! The delivery limit of quorum queues, and requeueing without losing messages to it.
//!
//! A quorum queue counts how often a message is requeued, and drops or dead-letters it beyond its limit
//! (<https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling>): its own, or 20 from RabbitMQ
//! 4.0 on. From 4.3 on basic.nack with requeue does not count. Before that every way counts, so a message
//! at its limit must not be requeued: it is published to its queue again, and acknowledged when that is
//! confirmed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::broker::frames;
use crate::broker::publish::{PublishEvent, PublishOptions, PublishOutcome, Publisher};
use crate::broker::session::Session;
use crate::broker::topology::kind;
use crate::error::Error;
use crate::interrupt::Interrupt;
use crate::message::{COPY_HEADERS, COUNT_HEADERS, Message, ShortString};
use crate::topology::QueueKind;
use crate::values::{QueueName, Span};

/// The size of bodies at their delivery limit at which no more messages are received.
const MAX_BODY_BYTES: usize = 64 << 20;

/// The time for publishing messages again.
const REPUBLISH_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether requeueing with the end of the channel or the connection may count towards a delivery limit.
pub(crate) fn may_count(session: &Session) -> bool {
    match session.queue_kind {
        Some(QueueKind::Classic | QueueKind::Stream) => false,
        Some(QueueKind::Quorum { .. }) => true,
        None | Some(QueueKind::Unknown) => default_limit(session).is_some(),
    }
}

/// Returns the delivery limit of the queue; `None` if it has none or is of unknown kind.
fn limit(session: &Session) -> Option<u64> {
    match session.queue_kind {
        Some(QueueKind::Quorum { limit }) => limit.or(default_limit(session)),
        Some(QueueKind::Unknown) => default_limit(session),
        _ => None,
    }
}

/// Whether the queue has no delivery limit. After basic.nack a quorum queue then puts a message at its end.
pub(super) fn is_unlimited(session: &Session) -> bool {
    limit(session).is_none_or(|limit| limit == u64::MAX)
}

/// Whether the end of the connection requeues messages of a consumer as well as a nack does: it counts as
/// much, and it keeps their place.
fn may_be_left_to_end(session: &Session) -> bool {
    let is_quorum = matches!(session.queue_kind, Some(QueueKind::Quorum { .. }));
    session.series < Some(NACK_IS_NOT_COUNTED_FROM) || is_quorum && is_unlimited(session)
}

/// Finds the kind of the queue where every requeueing counts.
pub(crate) fn prepare(session: &mut Session, queue: &QueueName) -> Result<(), Error> {
    if session.series < Some(NACK_IS_NOT_COUNTED_FROM) {
        kind::find(session, queue)?;
    }
    Ok(())
}

/// The messages of one connection that must not be requeued, by their delivery tags.
#[derive(Debug, Default)]
pub(crate) struct AtLimit(BTreeMap<u64, Box<Message>>);

impl AtLimit {
    /// Returns how often a delivered message was requeued, if its queue counts that. Adds it if it must not
    /// be requeued.
    pub(crate) fn count(
        &mut self,
        session: &mut Session,
        queue: &QueueName,
        tag: u64,
        message: &Message,
    ) -> Result<Count, Error> {
        let count = match message.delivery_count() {
            Some(count) => count,
            // It must not be requeued even once.
            None if limit(session) == Some(0) => 0,
            None => return Ok(Count::default()),
        };
        // From 4.3 on the sender's header stays until the queue counts for the first time. The queue's own
        // count is never above that of its deliveries.
        if session.series >= Some(NACK_IS_NOT_COUNTED_FROM)
            && message.acquired_count() < Some(count)
        {
            return Ok(Count::default());
        }
        // In another queue the sender may have written this header.
        let kind = kind::find(session, queue)?;
        let is_at_limit = limit(session).is_some_and(|limit| count >= limit);
        if is_at_limit && session.series < Some(NACK_IS_NOT_COUNTED_FROM) {
            self.0.insert(tag, Box::new(message.clone()));
        }
        let is_known = matches!(kind, QueueKind::Quorum { .. });
        Ok(Count {
            times: if is_known { count } else { 0 },
            is_at_limit,
        })
    }

    /// Whether a delivery must not be requeued.
    pub(crate) fn contains(&self, tag: u64) -> bool {
        self.0.contains_key(&tag)
    }

    /// Whether the bodies are so large together that no more messages are to be received.
    pub(crate) fn is_full(&self) -> bool {
        let messages = self.0.values();
        let bytes: usize = messages.map(|message| message.body.len()).sum();
        bytes >= MAX_BODY_BYTES
    }

    /// Removes a settled delivery; with `multiple` all earlier ones, too.
    pub(crate) fn remove(&mut self, tag: u64, multiple: bool) {
        if multiple && !self.0.is_empty() {
            self.0 = self.0.split_off(&(tag + 1));
        }
        self.0.remove(&tag);
    }

    /// Requeues all unsettled deliveries of the channel. Those up to each of `last_tags` are requeued
    /// together, so that their order is kept if they are of several consumers.
    ///
    /// # Errors
    /// [`Error::Dropped`] if messages at their limit could not be published again.
    pub(crate) fn requeue_all(
        self,
        session: &mut Session,
        queue: &QueueName,
        mut last_tags: Vec<u64>,
    ) -> Result<(), Error> {
        let mut moved = BTreeSet::new();
        let result = self.move_to_end(session, queue, &mut moved);
        last_tags.retain(|tag| !moved.contains(tag));
        // With the end of the connection a quorum queue requeues the messages of up to 32 consumers in the order
        // of their tags, and those of more in any order. After a nack it may put them elsewhere up to RabbitMQ
        // 3.13, and later if it has no limit. A stream takes nothing back.
        let is_left_to_end =
            session.queue_kind == Some(QueueKind::Stream) || may_be_left_to_end(session);
        if !is_left_to_end {
            for tag in last_tags.into_iter().chain([0]) {
                let nack = |channel, tag| frames::nack(channel, tag, true);
                session.connection.socket().settle_up_to(tag, nack);
            }
        }
        result
    }

    /// Publishes the messages to their queue again, and acknowledges them. Adds the delivery tag of each to
    /// `moved`.
    ///
    /// # Errors
    /// [`Error::Dropped`] if some could not be published again.
    pub(super) fn move_to_end(
        self,
        session: &mut Session,
        queue: &QueueName,
        moved: &mut BTreeSet<u64>,
    ) -> Result<(), Error> {
        let at_limit = self.0;
        let wanted = at_limit.len();
        if wanted == 0 {
            return Ok(());
        }
        let published = republish(session, queue, at_limit, moved);
        let socket = session.connection.socket();
        socket.settle(moved.iter().copied(), |channel, tag| {
            frames::ack(channel, tag, false)
        });
        if !moved.is_empty() {
            session.note(&format!(
                "moved messages at the delivery limit of queue {queue} to its end as new messages, to keep \
                 them from being dropped: {}",
                moved.len()
            ));
        }
        published.map_err(|why| Error::Dropped {
            queue: queue.to_string(),
            messages: wanted - moved.len(),
            why: Box::new(why),
        })
    }
}

/// The number of times that a message was requeued, if its queue counts that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) times: u64,
    /// Whether requeueing it once more drops or dead-letters it.
    pub(crate) is_at_limit: bool,
}

/// The first series in which requeueing by basic.nack does not count.
pub(super) const NACK_IS_NOT_COUNTED_FROM: (u32, u32) = (4, 3);

/// Returns the limit of a quorum queue without one of its own.
fn default_limit(session: &Session) -> Option<u64> {
    (session.series >= Some((4, 0))).then_some(20)
}

/// Publishes messages to their queue over a connection of its own, because a refusal would close the channel
/// of the deliveries. Adds the tag of each confirmed message to `confirmed`.
fn republish(
    session: &Session,
    queue: &QueueName,
    messages: BTreeMap<u64, Box<Message>>,
    confirmed: &mut BTreeSet<u64>,
) -> Result<(), Error> {
    let deadline = Instant::now() + REPUBLISH_TIMEOUT;
    // The user's interrupt may be the reason for requeueing.
    let mut session = session.open_another(&Interrupt::default(), deadline)?;
    let options = PublishOptions {
        allow_unroutable: false,
        replies: false,
        confirm_timeout: Span::seconds(0),
        no_confirm: false,
    };
    let username = session.username().to_owned();
    let mut publisher = Publisher::open(&mut session, options)?;
    let mut messages = messages.into_iter();
    let mut refused = None;
    loop {
        while publisher.has_room() {
            let Some((tag, message)) = messages.next() else {
                break;
            };
            publisher.publish(Republished::new(tag, *message, queue, &username));
        }
        while let Some((message, outcome)) = publisher.next_settled() {
            match outcome {
                PublishOutcome::Confirmed => {
                    confirmed.insert(message.tag);
                }
                PublishOutcome::Returned(reason) => refused = Some(reason),
                PublishOutcome::Refused => {
                    refused = Some("the queue rejected the message (nack)".to_owned());
                }
            }
        }
        if publisher.is_idle() && messages.len() == 0 {
            break;
        }
        if let PublishEvent::TimedOut = publisher.wait::<()>(None, Some(deadline))? {
            return Err(Error::TimeIsUp);
        }
    }
    let name = session.name().to_owned();
    session.close();
    match refused {
        None => Ok(()),
        Some(said) => Err(Error::Refused {
            broker: name,
            operation: format!("publish to queue {queue} again"),
            code: 0,
            said,
        }),
    }
}

/// A message that is published again, with the tag of its delivery.
struct Republished {
    tag: u64,
    message: Message,
}

impl AsRef<Message> for Republished {
    fn as_ref(&self) -> &Message {
        &self.message
    }
}

impl Republished {
    fn new(tag: u64, mut message: Message, queue: &QueueName, username: &str) -> Self {
        message.exchange = String::new();
        queue.as_str().clone_into(&mut message.routing_key);
        let properties = &mut message.properties;
        // The broker accepts no other user's name.
        let is_ours = |user: &ShortString| user.as_str() == Some(username);
        properties.user_id = properties.user_id.take().filter(is_ours);
        properties.headers = properties.headers.take().and_then(|mut headers| {
            // The first would send copies elsewhere, the queue sets the others anew.
            let is_left_out = |name: &ShortString| {
                let name = name.as_bytes();
                COPY_HEADERS.contains(&name) || COUNT_HEADERS.contains(&name)
            };
            headers.retain(|name| !is_left_out(name));
            Some(headers).filter(|headers| !headers.is_empty())
        });
        Self { tag, message }
    }
}
