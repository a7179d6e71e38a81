//! Writes or forwards messages, and has them acknowledged when that is done.

use std::time::{Duration, Instant};

use super::ReceiveEnd;
use super::forward::Forward;
use super::limits::{Limit, ReceiveLimits};
use super::reconnecting::ReconnectingSession;
use super::statistics::ReceiveStatistics;
use super::tally::Tally;
use crate::broker::Session;
use crate::broker::consume::Decide;
use crate::broker::consume::batches::{self, BatchConsumer, BatchEvent, BatchProgress};
use crate::cmd::Context;
use crate::error::Error;
use crate::message::Batch;
use crate::output::Writer;
use crate::values::QueueName;
use crate::waker::{self, Receiver, Sender};

/// The time to wait at the end for a reader that takes nothing.
const READER_TIMEOUT: Duration = Duration::from_millis(500);

/// The destination of messages.
pub(super) enum Sink {
    Writer(Writer),
    Forward(Forward),
    /// Messages are dropped, after they are counted if that is wanted. A batch is done when it is handed over.
    Nothing(Option<Tally>, NoReports),
}

/// A channel for reports that stays empty and open.
pub(super) struct NoReports {
    _sender: Sender<Result<(), Error>>,
    reports: Receiver<Result<(), Error>>,
}

impl Sink {
    /// Returns a sink that drops messages, and counts them if that is wanted.
    pub(super) fn nothing(tally: Option<Tally>) -> Self {
        let (sender, reports) = waker::unbounded();
        let reports = NoReports {
            _sender: sender,
            reports,
        };
        Self::Nothing(tally, reports)
    }

    /// Writes what precedes the first message.
    fn start(&mut self) {
        if let Self::Writer(writer) = self {
            writer.start();
        }
    }

    /// Takes a batch, and returns its report if it could be done at once. Otherwise the report follows in
    /// [`Sink::reports`].
    pub(super) fn hand_over(&mut self, batch: Batch) -> Option<Result<(), Error>> {
        match self {
            Self::Writer(writer) => writer.hand_over(batch),
            Self::Forward(forward) => {
                forward.hand_over(batch);
                None
            }
            Self::Nothing(tally, _) => {
                if let Some(tally) = tally {
                    tally.add(batch);
                }
                Some(Ok(()))
            }
        }
    }

    /// Returns the channel with a report for each batch that could not be done at once, in order.
    pub(super) fn reports(&self) -> &Receiver<Result<(), Error>> {
        match self {
            Self::Writer(writer) => writer.written(),
            Self::Forward(forward) => forward.reports(),
            Self::Nothing(_, no_reports) => &no_reports.reports,
        }
    }

    /// Ends what runs in the background.
    pub(super) fn close(self) {
        match self {
            Self::Writer(_) | Self::Nothing(..) => {}
            Self::Forward(forward) => forward.close(),
        }
    }
}

/// Passes messages to a sink, over one connection after another.
pub(super) struct Printer<'c> {
    context: &'c Context,
    sink: &'c mut Sink,
    limits: ReceiveLimits,
    statistics: &'c mut ReceiveStatistics,
    /// Whether what precedes the first message is written.
    is_started: bool,
}

/// The state of receiving on one connection.
enum PrintState {
    /// Messages are received.
    Receiving,
    /// Messages are no longer received. The reader has until this moment for those handed over.
    Leaving { end: ReceiveEnd, until: Instant },
}

impl<'c> Printer<'c> {
    pub(super) fn new(
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
            is_started: false,
        }
    }

    /// Receives on one connection.
    pub(super) fn consume(
        &mut self,
        reconnecting: &mut ReconnectingSession,
        session: &mut Session,
        queue: &QueueName,
        progress: &mut BatchProgress,
        decide: &mut Decide,
    ) -> Result<ReceiveEnd, Error> {
        let mut end = ReceiveEnd::Count;
        self.limits.start();
        batches::consume(session, queue, progress, decide, |consumer| {
            if !self.is_started {
                self.sink.start();
                self.is_started = true;
            }
            end = self.receive(reconnecting, consumer)?;
            Ok(())
        })?;
        Ok(end)
    }

    fn receive(
        &mut self,
        reconnecting: &mut ReconnectingSession,
        consumer: &mut BatchConsumer,
    ) -> Result<ReceiveEnd, Error> {
        let mut state = PrintState::Receiving;
        while !consumer.is_done() {
            if let Some(batch) = consumer.next_batch() {
                self.statistics.handed_over(batch.len());
                if let Some(report) = self.sink.hand_over(batch) {
                    report?;
                    consumer.written();
                    self.written(consumer);
                }
                continue;
            }
            let (at_most, limit) = match state {
                // While the reader is slow the queue is not idle.
                PrintState::Receiving => self.limits.next(consumer.is_idle()).unzip(),
                PrintState::Leaving { until, .. } => (Some(until), None),
            };
            match consumer.wait(self.sink.reports(), at_most)? {
                BatchEvent::Taken => {
                    let now = Instant::now();
                    reconnecting.last_activity = now;
                    self.limits.received(now);
                    self.statistics.received(now);
                }
                BatchEvent::Written => self.written(consumer),
                BatchEvent::Acknowledged => self.statistics.update(consumer.done()),
                BatchEvent::Interrupted => state = leave(consumer, ReceiveEnd::Stopped)?,
                BatchEvent::TimedOut => match limit {
                    Some(Limit::End(end)) => state = leave(consumer, end)?,
                    Some(Limit::EmptyCheck) => {
                        if consumer.stop_if_empty()? {
                            return Ok(ReceiveEnd::Empty);
                        }
                        self.limits.not_empty();
                    }
                    None => {
                        self.note_lost(consumer.lost_if_ended());
                        break;
                    }
                },
            }
        }
        Ok(match state {
            _ if consumer.is_at_end() => ReceiveEnd::Empty,
            PrintState::Receiving if consumer.is_full() => ReceiveEnd::Full,
            PrintState::Receiving => ReceiveEnd::Count,
            PrintState::Leaving { end, .. } => end,
        })
    }

    /// Records that the oldest batch is written.
    fn written(&mut self, consumer: &BatchConsumer) {
        self.limits.done();
        self.statistics.update(consumer.done());
    }

    fn note_lost(&self, messages: u64) {
        if messages > 0 {
            self.context.messenger.note(&format!(
                "lost messages that were received but not written (--auto-ack): {messages}"
            ));
        }
    }
}

/// Stops receiving.
fn leave(consumer: &mut BatchConsumer, end: ReceiveEnd) -> Result<PrintState, Error> {
    consumer.stop()?;
    let until = Instant::now() + READER_TIMEOUT;
    Ok(PrintState::Leaving { end, until })
}
