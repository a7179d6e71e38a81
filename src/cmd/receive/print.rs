//! Messages from a consumer to where they go, and acknowledged when they are there.

use std::time::{Duration, Instant};

use super::forward::Forward;
use super::reconnecting::ReconnectingSession;
use super::statistics::ReceiveStatistics;
use super::{EMPTY_CHECK_DELAY, ReceiveEnd, ReceiveLimits, has_come};
use crate::broker::Session;
use crate::broker::consume::batches::{self, BatchConsumer, BatchEvent, BatchProgress};
use crate::cmd::Context;
use crate::error::Error;
use crate::message::Batch;
use crate::output::Writer;
use crate::values::QueueName;
use crate::waker::Receiver;

/// How long to wait, once it is time to leave, for a reader that takes nothing.
const READER_TIMEOUT: Duration = Duration::from_millis(500);

/// Where messages go.
pub enum Sink {
    Writer(Writer),
    Forward(Forward),
}

impl Sink {
    /// Writes what comes before the first message.
    fn start(&mut self) {
        if let Self::Writer(writer) = self {
            writer.start();
        }
    }

    /// Deals with a batch, and reports it once: now if it could be done at once, or later in
    /// [`Sink::done`].
    pub fn hand_over(&mut self, batch: Batch) -> Option<Result<(), Error>> {
        match self {
            Self::Writer(writer) => writer.hand_over(batch),
            Self::Forward(forward) => {
                forward.hand_over(batch);
                None
            }
        }
    }

    /// A report for each batch that could not be done at once, in order.
    pub fn done(&self) -> &Receiver<Result<(), Error>> {
        match self {
            Self::Writer(writer) => writer.written(),
            Self::Forward(forward) => forward.confirmed(),
        }
    }

    /// Ends what is going on in the background.
    pub fn close(self) {
        match self {
            Self::Writer(_) => {}
            Self::Forward(forward) => forward.close(),
        }
    }
}

/// What moves messages from one connection after another.
pub struct Printer<'c> {
    context: &'c Context,
    sink: &'c mut Sink,
    limits: ReceiveLimits,
    statistics: &'c mut ReceiveStatistics,
    /// Whether what comes before the first message is written.
    started: bool,
    /// When the last message came or was written, or the wait for the first began.
    last_message: Instant,
}

impl<'c> Printer<'c> {
    pub fn new(
        context: &'c Context,
        sink: &'c mut Sink,
        limits: ReceiveLimits,
        statistics: &'c mut ReceiveStatistics,
    ) -> Self {
        Self {
            context,
            sink,
            limits,
            statistics,
            started: false,
            last_message: Instant::now(),
        }
    }

    /// Receives on one connection.
    ///
    /// # Errors
    /// Those of the broker; [`Error::Output`] if a message can't be written.
    pub fn consume(
        &mut self,
        line: &mut ReconnectingSession,
        session: &mut Session,
        queue: &QueueName,
        progress: &mut BatchProgress,
    ) -> Result<ReceiveEnd, Error> {
        let mut end = ReceiveEnd::Count;
        // While there was no connection no message could come.
        self.last_message = Instant::now();
        batches::consume(session, queue, progress, |consumer| {
            if !self.started {
                self.sink.start();
                self.started = true;
            }
            end = self.print(line, consumer)?;
            Ok(())
        })?;
        Ok(end)
    }

    fn print(
        &mut self,
        line: &mut ReconnectingSession,
        consumer: &mut BatchConsumer,
    ) -> Result<ReceiveEnd, Error> {
        let mut end = ReceiveEnd::Count;
        let mut leave_by = None;
        let mut look_at = self.limits.drain.then(Instant::now);
        while !consumer.is_done() {
            if let Some(batch) = consumer.next_batch() {
                if let Some(written) = self.sink.hand_over(batch) {
                    written?;
                    consumer.written();
                    self.written(consumer);
                }
                continue;
            }
            // A reader that is slow is not a queue that is idle.
            let idle_at = self
                .limits
                .idle_timeout
                .filter(|_| consumer.is_idle())
                .and_then(|timeout| self.last_message.checked_add(timeout));
            let look = look_at.filter(|_| consumer.is_idle());
            let at_most = match leave_by {
                Some(moment) => Some(moment),
                None => [self.limits.until, idle_at, look]
                    .into_iter()
                    .flatten()
                    .min(),
            };
            match consumer.wait(self.sink.done(), at_most)? {
                BatchEvent::Taken => {
                    self.last_message = Instant::now();
                    line.alive_since = self.last_message;
                    self.statistics.came(self.last_message);
                    look_at = look_at.map(|_| self.last_message + EMPTY_CHECK_DELAY);
                }
                BatchEvent::Written => self.written(consumer),
                BatchEvent::Failed(error) => return Err(error),
                BatchEvent::Acknowledged => self.statistics.update(consumer.done()),
                BatchEvent::Interrupted => {
                    end = leave(consumer, ReceiveEnd::Stopped, &mut leave_by)?;
                }
                BatchEvent::Late if leave_by.is_some() => {
                    let lost = consumer.at_stake();
                    if lost > 0 {
                        self.context.messenger.note(&format!(
                            "lost messages that were received but not written (--auto-ack): {lost}"
                        ));
                    }
                    break;
                }
                BatchEvent::Late if has_come(self.limits.until) => {
                    end = leave(consumer, ReceiveEnd::TimeIsUp, &mut leave_by)?;
                }
                BatchEvent::Late if has_come(idle_at) => {
                    end = leave(consumer, ReceiveEnd::Idle, &mut leave_by)?;
                }
                BatchEvent::Late => {
                    if consumer.stop_if_empty()? {
                        end = ReceiveEnd::Empty;
                    }
                    look_at = Some(Instant::now() + EMPTY_CHECK_DELAY);
                }
            }
        }
        Ok(if consumer.is_at_end() {
            ReceiveEnd::Empty
        } else {
            end
        })
    }

    /// The oldest batch is written.
    fn written(&mut self, consumer: &BatchConsumer) {
        self.last_message = Instant::now();
        self.statistics.update(consumer.done());
    }
}

/// Takes no more messages; the reader has a moment for those that it is being given.
fn leave(
    consumer: &mut BatchConsumer,
    end: ReceiveEnd,
    leave_by: &mut Option<Instant>,
) -> Result<ReceiveEnd, Error> {
    consumer.stop()?;
    *leave_by = Some(Instant::now() + READER_TIMEOUT);
    Ok(end)
}
