//! The delivery limit of quorum queues, and how to give messages back without losing them to it.
//!
//! A quorum queue counts how often a message came back, and drops or dead-letters it when that is more
//! often than its limit (<https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling>): its own,
//! or 20 from RabbitMQ 4.0 on. From 4.3 on a basic.nack with requeue does not count. Before that every
//! way back does, so a message at its limit must not go back at all: it is published to its queue again,
//! and acknowledged when the broker has confirmed that.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::broker::frames::{self, MESSAGES};
use crate::broker::publish::{PublishEvent, PublishOptions, PublishOutcome, Publisher};
use crate::broker::session::Session;
use crate::broker::topology::kind;
use crate::error::Error;
use crate::interrupt::Interrupt;
use crate::message::{COPY_HEADERS, COUNT_HEADERS, Message, ShortString};
use crate::topology::QueueKind;
use crate::values::{QueueName, Span};

/// How long it may take to publish messages again.
const PUBLISHING: Duration = Duration::from_secs(10);

/// Whether messages that are given back with their channel or their connection may come nearer to their
/// delivery limit.
pub fn may_count(session: &Session) -> bool {
    match session.queue {
        Some(QueueKind::Classic | QueueKind::Stream) => false,
        Some(QueueKind::Quorum { .. }) => true,
        None | Some(QueueKind::Unknown) => default_limit(session).is_some(),
    }
}

/// The delivery limit of the queue; `None` if it has none, or that is not known.
fn limit(session: &Session) -> Option<u64> {
    match session.queue {
        Some(QueueKind::Quorum { limit }) => limit.or(default_limit(session)),
        Some(QueueKind::Unknown) => default_limit(session),
        _ => None,
    }
}

/// Finds out whether messages may go back at all, where it counts whatever gives them back.
///
/// # Errors
/// [`Error::Lost`].
pub fn prepare(session: &mut Session, queue: &QueueName) -> Result<(), Error> {
    if session.series < Some(NACK_IS_NOT_COUNTED_FROM) {
        kind::find(session, queue)?;
    }
    Ok(())
}

/// The messages of one connection that giving back would drop, by the tags of their deliveries.
#[derive(Debug, Default)]
pub struct AtLimit(BTreeMap<u64, Box<Message>>);

impl AtLimit {
    /// How often a delivered message came back before, if its queue counts that. One at its limit is
    /// remembered if it must not be given back.
    ///
    /// # Errors
    /// The reason why the connection ended.
    pub fn count(
        &mut self,
        session: &mut Session,
        queue: &QueueName,
        tag: u64,
        message: &Message,
    ) -> Result<Count, Error> {
        let count = match message.delivery_count() {
            Some(count) => count,
            // Not even once may it go back.
            None if limit(session) == Some(0) => 0,
            None => return Ok(Count::default()),
        };
        // From then on the sender's header stays until the queue counts for the first time. The queue counts
        // no more often than it delivers.
        if session.series >= Some(NACK_IS_NOT_COUNTED_FROM)
            && message.acquired_count() < Some(count)
        {
            return Ok(Count::default());
        }
        // Only a quorum queue writes this header itself; elsewhere the sender may have.
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

    /// Whether a delivery must not be given back.
    pub fn holds(&self, tag: u64) -> bool {
        self.0.contains_key(&tag)
    }

    /// How many bytes the bodies have of those that must not be given back.
    pub fn held(&self) -> usize {
        let messages = self.0.values();
        messages.map(|message| message.body.len()).sum()
    }

    /// Notes that a delivery is settled; with `multiple` all before it, too.
    pub fn settled(&mut self, tag: u64, multiple: bool) {
        if multiple && !self.0.is_empty() {
            self.0 = self.0.split_off(&(tag + 1));
        }
        self.0.remove(&tag);
    }

    /// Gives back everything that was delivered and is not settled.
    ///
    /// # Errors
    /// [`Error::Dropped`] if messages at their limit could not be published again.
    pub fn give_back(self, session: &mut Session, queue: &QueueName) -> Result<(), Error> {
        let at_limit = self.0;
        let wanted = at_limit.len();
        let mut result = Ok(());
        if wanted > 0 {
            let mut confirmed = Vec::new();
            let published = publish_again(session, queue, at_limit, &mut confirmed);
            for tag in &confirmed {
                let ack = frames::ack(MESSAGES, *tag, false);
                session.connection.socket().post(&ack);
            }
            if !confirmed.is_empty() {
                session.note(&format!(
                    "moved messages at the delivery limit of queue {queue} to its end as new messages, to \
                     keep them from being dropped: {}",
                    confirmed.len()
                ));
            }
            if let Err(why) = published {
                result = Err(Error::Dropped {
                    queue: queue.to_string(),
                    messages: wanted - confirmed.len(),
                    why: Box::new(why),
                });
            }
        }
        // Where it makes no difference, closing the connection gives back, too. A stream takes none.
        if session.series >= Some(NACK_IS_NOT_COUNTED_FROM)
            && session.queue != Some(QueueKind::Stream)
        {
            // Tag 0 stands for all.
            let nack = frames::nack(MESSAGES, 0, true);
            session.connection.socket().post(&nack);
        }
        result
    }
}

/// How often a message came back to its queue, where that counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// How often.
    pub times: u64,
    /// Whether the queue drops or dead-letters it the next time.
    pub is_at_limit: bool,
}

/// From this version on a message that is given back by basic.nack is not counted.
pub(super) const NACK_IS_NOT_COUNTED_FROM: (u32, u32) = (4, 3);

/// The limit of a quorum queue for which nobody has set another.
fn default_limit(session: &Session) -> Option<u64> {
    (session.series >= Some((4, 0))).then_some(20)
}

/// Publishes messages to their queue over a connection of its own, so that a refusal leaves the other as
/// it is. Adds to `confirmed` the tag of each that the broker has.
fn publish_again(
    session: &Session,
    queue: &QueueName,
    messages: BTreeMap<u64, Box<Message>>,
    confirmed: &mut Vec<u64>,
) -> Result<(), Error> {
    let until = Instant::now() + PUBLISHING;
    // The user's interrupt may be why they go back.
    let mut session = session.beside(&Interrupt::default(), until)?;
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
            publisher.publish(Copy::of(tag, *message, queue, &username));
        }
        while let Some((copy, fate)) = publisher.settled() {
            match fate {
                PublishOutcome::Confirmed => confirmed.push(copy.tag),
                PublishOutcome::Returned(said) => refused = Some(said),
                PublishOutcome::Refused => {
                    refused = Some("the queue rejected the message (nack)".to_owned());
                }
            }
        }
        if publisher.is_idle() && messages.len() == 0 {
            break;
        }
        if let PublishEvent::Late = publisher.wait::<()>(None, Some(until))? {
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

/// A message that is published again, and the tag of its delivery.
struct Copy {
    tag: u64,
    message: Message,
}

impl AsRef<Message> for Copy {
    fn as_ref(&self) -> &Message {
        &self.message
    }
}

impl Copy {
    fn of(tag: u64, mut message: Message, queue: &QueueName, username: &str) -> Self {
        message.exchange = String::new();
        queue.as_str().clone_into(&mut message.routing_key);
        let properties = &mut message.properties;
        // The broker takes no other user's.
        let is_ours = |user: &ShortString| user.as_str() == Some(username);
        properties.user_id = properties.user_id.take().filter(is_ours);
        properties.headers = properties.headers.take().and_then(|mut headers| {
            // They make a copy go astray, or the queue sets them anew.
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
