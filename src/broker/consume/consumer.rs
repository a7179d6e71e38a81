//! Consuming from a queue over one connection, and what has come of it over all of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::batch::Written;
use super::deliveries::{Deliveries, Ticket};
use super::limit::{self, AtLimit, Count};
use super::stream;
use super::subscription::{Subscription, operation};
use super::{ConsumeOptions, Total};
use crate::broker::connection::WaitOutcome;
use crate::broker::frames::{self, MESSAGES};
use crate::broker::session::Session;
use crate::broker::topology::kind;
use crate::broker::wait::OnInterrupt;
use crate::error::{self, Error};
use crate::message::Message;
use crate::topology::QueueKind;
use crate::values::{QueueName, StreamOffset};
use crate::waker::Receiver;

/// How long nothing may come from where a stream has something.
const STREAM_SILENCE: Duration = Duration::from_secs(2);

/// How long the broker may take for the last settlements when nobody is in a hurry.
const CLOSING: Duration = Duration::from_secs(5);

/// A `receive`, over all its connections.
#[derive(Debug)]
pub struct ConsumeProgress {
    pub(super) deliveries: Deliveries,
    pub(super) options: ConsumeOptions,
    pub(super) no_ack: bool,
    /// The messages of a stream that were taken and are not yet done, by their numbers.
    open: BTreeMap<Ticket, u64>,
    /// The first message of a stream that was not yet taken on any connection, or not done on the last.
    next_offset: Option<u64>,
    /// The last message of a stream that is to be drained, once it is looked up.
    end: Option<StreamEnd>,
    /// Whether there was a connection before.
    is_resumed: bool,
    /// Whether the broker failed at a message that it was to deliver, so that the next come one by one:
    /// those before it are settled then, and what it fails at stands alone.
    is_careful: bool,
}

impl ConsumeProgress {
    /// The messages that are to come.
    #[must_use]
    pub fn new(options: ConsumeOptions) -> Self {
        Self {
            deliveries: Deliveries::new(options.count),
            // To take exactly so many messages, each must be acknowledged: without that the broker
            // sends more, and what it has sent is gone.
            no_ack: options.auto_ack && options.count.is_none(),
            options,
            open: BTreeMap::new(),
            next_offset: None,
            end: None,
            is_resumed: false,
            is_careful: false,
        }
    }

    /// The messages that have left the queue for good.
    #[must_use]
    pub fn done(&self) -> Total {
        self.deliveries.done()
    }
}

/// The end of a stream.
#[derive(Clone, Copy, Debug)]
enum StreamEnd {
    /// It has no message.
    Empty,
    /// The number of its last message.
    Message(u64),
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It is done with.
    Acknowledge,
    /// It is dead-lettered, or dropped.
    Reject,
    /// It was tried in vain, and goes back to the queue, which may count that.
    Requeue,
}

/// A message that came.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Settles it.
    pub ticket: Ticket,
    /// The message.
    pub message: Box<Message>,
    /// How often it came back before, where its queue counts that.
    pub count: Count,
    /// Its number, if it came from a stream.
    pub offset: Option<u64>,
}

/// The end of a wait of a [`Consumer`].
#[derive(Debug)]
pub enum ConsumeEvent<R> {
    /// Messages came.
    Arrived,
    /// Something else that was waited for.
    Other(R),
    /// The user wants to stop.
    Interrupted,
    /// The moment that was waited for at most has come.
    Late,
}

/// A running consumer.
pub struct Consumer<'c> {
    pub(super) subscription: Subscription<'c>,
    pub(super) progress: &'c mut ConsumeProgress,
    at_limit: AtLimit,
    /// Whether the end of the stream is reached that is to be drained.
    is_at_end: bool,
    /// Whether something has come, and since when it was waited for.
    has_come: bool,
    since: Instant,
}

/// Consumes from a queue for as long as `work` does. Then what is not settled is given back to the queue,
/// and the connection is closed, or only the channel if the broker has cancelled the consumer.
///
/// # Errors
/// Those of `work`; [`Error::Refused`] or [`Error::Lost`] if there was no consumer to begin with;
/// [`Error::Dropped`] if a message could not be given back.
pub fn consume(
    session: &mut Session,
    queue: &QueueName,
    progress: &mut ConsumeProgress,
    work: impl FnOnce(&mut Consumer) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut subscription = Subscription::open(session, queue, progress.options, progress.no_ack);
    if std::mem::replace(&mut progress.is_resumed, true) {
        subscription.follows_a_lost_connection();
    }
    let mut consumer = Consumer {
        subscription,
        progress: &mut *progress,
        at_limit: AtLimit::default(),
        is_at_end: false,
        has_come: false,
        since: Instant::now(),
    };
    let result = consumer.begin().and_then(|()| work(&mut consumer));
    let result = result.map_err(|error| of_consuming(error, queue));
    consumer.progress.is_careful = matches!(&result, Err(error) if error.is_internal());
    let given_back = consumer.give_back();
    let result = end(session, result, progress.done());
    // Whatever else kept it from being given back shows there.
    let result = match given_back {
        Err(dropped @ Error::Dropped { .. }) => result.and(Err(dropped)),
        _ => result,
    };
    progress.deliveries.end_connection();
    // They come again, and what came after them.
    let first_open = std::mem::take(&mut progress.open).into_values().next();
    progress.next_offset = first_open.or(progress.next_offset);
    result
}

/// Tells a refusal to wait any longer for an acknowledgement from others, and what ended the connection
/// as that of consuming, whatever was asked besides.
fn of_consuming(error: Error, queue: &QueueName) -> Error {
    match error {
        Error::Refused { broker, said, .. } if error::is_ack_timeout(&said) => Error::AckTimeout {
            broker,
            queue: queue.to_string(),
            said,
        },
        Error::Lost {
            broker,
            reason,
            code,
            ..
        } => Error::Lost {
            broker,
            operation: operation(queue),
            reason,
            code,
        },
        error => error,
    }
}

/// Ends consuming, with the whole connection, or with the channel alone if the broker has only cancelled
/// the consumer. That the broker does not answer is told if that leaves what is `done` in doubt: what is
/// written is written.
fn end(session: &mut Session, result: Result<(), Error>, done: Total) -> Result<(), Error> {
    if matches!(result, Err(Error::Cancelled { .. })) {
        // If the connection is lost by now, that shows when the queue is looked up.
        let _ = session.connection.close_channel();
        return result;
    }
    let closed = session.connection.close(CLOSING);
    result?;
    if let Err(error) = closed {
        if done.messages > 0 && error.is_transient() {
            session.note(&format!(
                "{error}; the messages acknowledged last may be delivered again"
            ));
        }
    }
    Ok(())
}

impl Consumer<'_> {
    /// Whether all the messages that were asked for are unsettled, or done.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.is_at_end || self.progress.deliveries.is_complete()
    }

    /// Whether that is so because a stream has no more.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.is_at_end && !self.progress.deliveries.is_complete()
    }

    /// The messages that have left the queue for good, on this connection and those before.
    #[must_use]
    pub fn done(&self) -> Total {
        self.progress.done()
    }

    /// Whether no message is unsettled.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.progress.deliveries.is_idle()
    }

    /// Whether a message can still be settled.
    #[must_use]
    pub fn holds(&self, ticket: Ticket) -> bool {
        self.progress.deliveries.tag(ticket).is_some()
    }

    fn begin(&mut self) -> Result<(), Error> {
        if self.progress.options.drain {
            // A stream is read from its first message on then.
            let (session, queue) = self.subscription.parts();
            kind::find(session, queue)?;
        }
        self.resume()
    }

    /// Has the broker send messages, if there are some still to take.
    ///
    /// # Errors
    /// [`Error::Refused`] in the broker's words; [`Error::Lost`].
    pub fn resume(&mut self) -> Result<(), Error> {
        if self.subscription.may_start() && !self.is_complete() {
            let at_most = self.progress.is_careful.then_some(1);
            let left = self.progress.deliveries.left();
            let left = [left, at_most].into_iter().flatten().min();
            self.subscription.start(left, self.progress.next_offset)?;
        }
        Ok(())
    }

    /// Has the broker send no more messages. What it had sent before is here then.
    ///
    /// # Errors
    /// [`Error::Lost`] if the connection is.
    pub fn pause(&mut self) -> Result<(), Error> {
        if self.subscription.is_consuming() {
            self.subscription.cancel()?;
        }
        Ok(())
    }

    /// As [`Consumer::pause`], and gives back what is here.
    ///
    /// # Errors
    /// As [`Consumer::pause`].
    pub fn stop(&mut self) -> Result<(), Error> {
        self.pause()?;
        while let Some(content) = self.subscription.next() {
            self.count(content.tag, &content.message)?;
            let is_stream = self.offset(&content.message)?.is_some();
            if !is_stream && !self.at_limit.holds(content.tag) {
                let nack = frames::nack(MESSAGES, content.tag, false);
                self.subscription.settle(&nack);
            }
        }
        Ok(())
    }

    /// As [`Consumer::stop`] for good, and without waiting for the broker.
    pub fn leave(&mut self) {
        let (session, _) = self.subscription.parts();
        let wanted = limit::may_count(session);
        self.subscription.leave(wanted);
    }

    /// Gives back what is not settled. The broker sends no more messages.
    fn give_back(&mut self) -> Result<(), Error> {
        if self.progress.no_ack || !self.subscription.can_settle() {
            return Ok(());
        }
        self.leave();
        if self.subscription.has_left().is_ok() {
            while let Some(content) = self.subscription.next() {
                self.count(content.tag, &content.message)?;
            }
        }
        // Also where the broker does not answer: without a copy it drops those at their limit.
        let (session, queue) = self.subscription.parts();
        std::mem::take(&mut self.at_limit).give_back(session, queue)
    }

    /// How often a message came back before, where its queue counts that.
    fn count(&mut self, tag: u64, message: &Message) -> Result<Count, Error> {
        if self.progress.no_ack {
            return Ok(Count::default());
        }
        let (session, queue) = self.subscription.parts();
        self.at_limit.count(session, queue, tag, message)
    }

    /// Waits for whatever comes first: a message, if one more `may_come`; something in `other`; the
    /// user's interrupt, if it `is_interruptible`; or the moment `at_most`. Where so many bytes are
    /// `held` elsewhere that no more are to be read, nothing is; with `None`, the prefetch is bound
    /// enough.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if the queue is gone, [`Error::Lost`] if the connection is.
    pub fn wait<R>(
        &mut self,
        may_come: bool,
        held: Option<usize>,
        other: &Receiver<R>,
        is_interruptible: bool,
        at_most: Option<Instant>,
    ) -> Result<ConsumeEvent<R>, Error> {
        other.wakes(self.subscription.waker());
        let on_interrupt = if is_interruptible {
            OnInterrupt::Return
        } else {
            OnInterrupt::Ignore
        };
        let waited = self
            .subscription
            .wait(at_most, on_interrupt, may_come, held, || other.next())?;
        Ok(match waited {
            WaitOutcome::Came(None) => ConsumeEvent::Arrived,
            WaitOutcome::Came(Some(Ok(other))) => ConsumeEvent::Other(other),
            WaitOutcome::Came(Some(Err(_))) => {
                let why = "the thread that handles messages died";
                return Err(Error::Bug(why.to_owned()));
            }
            WaitOutcome::Interrupted => ConsumeEvent::Interrupted,
            WaitOutcome::Late => ConsumeEvent::Late,
        })
    }

    /// Takes the next message that is here.
    ///
    /// # Errors
    /// [`Error::Lost`] if the connection is.
    pub fn take(&mut self) -> Result<Option<Delivery>, Error> {
        let Some(content) = self.subscription.next() else {
            return Ok(None);
        };
        self.has_come = true;
        let count = self.count(content.tag, &content.message)?;
        let offset = self.offset(&content.message)?;
        if let Some(offset) = offset.filter(|_| self.progress.options.drain) {
            self.is_at_end = match self.end()? {
                StreamEnd::Empty => true,
                StreamEnd::Message(last) => last <= offset,
            };
        }
        let ticket = self.progress.deliveries.take(content.tag);
        if let Some(offset) = offset {
            self.progress.open.insert(ticket, offset);
            self.progress.next_offset = Some(offset + 1);
        }
        Ok(Some(Delivery {
            ticket,
            message: content.message,
            count,
            offset,
        }))
    }

    /// The number of a message in its stream. Elsewhere its sender may have written that header.
    fn offset(&mut self, message: &Message) -> Result<Option<u64>, Error> {
        let Some(offset) = message.stream_offset() else {
            return Ok(None);
        };
        let (session, queue) = self.subscription.parts();
        let kind = kind::find(session, queue)?;
        Ok(Some(offset).filter(|_| matches!(kind, QueueKind::Stream | QueueKind::Unknown)))
    }

    /// The end of the stream when it was first asked for.
    fn end(&mut self) -> Result<StreamEnd, Error> {
        if let Some(end) = self.progress.end {
            return Ok(end);
        }
        let (session, queue) = self.subscription.parts();
        let end = stream::last_offset(session, queue)?.map_or(StreamEnd::Empty, StreamEnd::Message);
        Ok(*self.progress.end.insert(end))
    }

    /// Settles a message. One whose connection is lost is delivered again, whatever became of it.
    pub fn settle(&mut self, ticket: Ticket, outcome: Settlement, bytes: u64) {
        let Some(tag) = self.progress.deliveries.tag(ticket) else {
            return;
        };
        if !self.subscription.can_settle() {
            return;
        }
        // A stream keeps its messages, and takes none back.
        let is_kept = self.progress.open.contains_key(&ticket);
        let settlement = match outcome {
            Settlement::Requeue if is_kept => return,
            Settlement::Reject if is_kept => frames::ack(MESSAGES, tag, false),
            Settlement::Acknowledge => frames::ack(MESSAGES, tag, false),
            Settlement::Reject => frames::reject(MESSAGES, tag, false),
            Settlement::Requeue => frames::reject(MESSAGES, tag, true),
        };
        self.subscription.settle(&settlement);
        self.at_limit.settled(tag, false);
        match outcome {
            Settlement::Requeue => {
                self.subscription.returns_a_message();
                self.progress.deliveries.give_back(1);
            }
            _ => {
                self.progress.open.remove(&ticket);
                self.progress.deliveries.finish(Total {
                    messages: 1,
                    bytes,
                    rejected: u64::from(outcome == Settlement::Reject),
                });
            }
        }
    }

    /// Acknowledges what is written, and all before it.
    pub(super) fn acknowledge_up_to(&mut self, written: Written) {
        let tag = self.progress.deliveries.tag(written.last);
        if let Some(tag) = tag.filter(|_| !self.progress.no_ack) {
            if !self.subscription.can_settle() {
                // It comes again.
                return;
            }
            self.subscription.settle(&frames::ack(MESSAGES, tag, true));
            self.at_limit.settled(tag, true);
        }
        self.progress.open = self.progress.open.split_off(&(written.last + 1));
        self.progress.deliveries.finish(Total {
            messages: written.messages,
            bytes: written.bytes,
            rejected: 0,
        });
    }

    /// Has the broker send no more messages if the queue has none that is ready, and says whether that
    /// is so.
    ///
    /// # Errors
    /// [`Error::Lost`] if the connection is.
    pub fn stop_if_empty(&mut self) -> Result<bool, Error> {
        let is_empty = self.subscription.is_queue_empty()?;
        if !self.has_come && (is_empty || self.since.elapsed() > STREAM_SILENCE) {
            let (session, queue) = self.subscription.parts();
            if kind::find(session, queue)? == QueueKind::Stream {
                return self.has_no_more();
            }
        }
        if !is_empty {
            return Ok(false);
        }
        // What is not ready any more may be on its way to us. To a consumer that is cancelled nothing is.
        // A queue that was without its leader may have said that it was empty, so it is asked again.
        self.pause()?;
        let is_empty = !self.subscription.has_message() && self.subscription.is_queue_empty()?;
        if !is_empty {
            self.resume()?;
        }
        Ok(is_empty)
    }

    /// Whether a stream that has sent nothing has nothing from where its reading begins.
    fn has_no_more(&mut self) -> Result<bool, Error> {
        let StreamEnd::Message(last) = self.end()? else {
            return Ok(true);
        };
        let begin = self.progress.next_offset.map(StreamOffset::Number);
        Ok(match begin.or(self.progress.options.stream_offset) {
            Some(StreamOffset::Next) => true,
            Some(StreamOffset::Number(begin)) => begin > last,
            Some(StreamOffset::Moment(_)) => self.since.elapsed() > STREAM_SILENCE,
            Some(StreamOffset::First | StreamOffset::Last) | None => false,
        })
    }
}
