//! `hello-mq receive --peek`: shows the messages of a queue, and leaves them there.

use std::time::Instant;

use super::ReceiveEnd;
use super::print::Sink;
use super::selection::Selection;
use super::statistics::ReceiveStatistics;
use crate::broker::consume::peek::Peek;
use crate::broker::consume::{Decision, Total, WaitOutcome};
use crate::broker::{Connector, topology};
use crate::cmd::Context;
use crate::error::Error;
use crate::message::Batch;
use crate::topology::Queue;

/// The most messages that are written together.
const PRINT_BATCH_MESSAGES: usize = 128;

/// The most bytes that are written together, if it is more than one message.
const PRINT_BATCH_BYTES: usize = 4 << 20;

/// The limits that end it.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// The end of the time that the user gave (`--timeout`).
    pub(super) until: Option<Instant>,
    /// The number of messages to show; `None` for all.
    pub(super) count: Option<u64>,
}

/// Shows each message of the queue that is selected once, up to the limits, and returns why it ended. In any
/// case all of them go back.
///
/// A lost connection is not opened again: the broker would begin with the first message.
pub(super) fn run(
    context: &Context,
    connector: Connector,
    declared: Option<&Queue>,
    sink: &mut Sink,
    limits: Limits,
    selection: &mut Selection,
    statistics: &mut ReceiveStatistics,
) -> Result<ReceiveEnd, Error> {
    statistics.begin();
    let mut session = topology::declare_at_login(connector, declared).open()?;
    if let Some(queue) = declared {
        topology::ensure(&mut session, queue)?;
    }
    let mut peek = Peek::open(&mut session, &context.settings.queue.value)?;
    let shown = show(context, &mut peek, sink, limits, selection, statistics);
    let given_back = peek.close();
    session.close();
    let end = shown?;
    given_back.map(|()| end)
}

fn show(
    context: &Context,
    peek: &mut Peek,
    sink: &mut Sink,
    limits: Limits,
    selection: &mut Selection,
    statistics: &mut ReceiveStatistics,
) -> Result<ReceiveEnd, Error> {
    let Limits { until, count } = limits;
    let mut shown = Total::default();
    loop {
        let left = count.map(|count| count - shown.messages);
        let (batch, end) = next_batch(context, peek, left, selection, statistics)?;
        let messages = batch.len() as u64;
        let bytes: usize = batch.iter().map(|message| message.body.len()).sum();
        let report = match sink.hand_over(batch) {
            Some(report) => report,
            None => match peek.wait(sink.reports(), until)? {
                WaitOutcome::Ready(Ok(report)) => report,
                WaitOutcome::Ready(Err(_)) => {
                    return Err(Error::Bug("the writing thread died".to_owned()));
                }
                WaitOutcome::Interrupted => return Ok(ReceiveEnd::Stopped),
                WaitOutcome::TimedOut => return Ok(ReceiveEnd::TimeIsUp),
            },
        };
        report?;
        shown.messages += messages;
        shown.bytes += bytes as u64;
        statistics.update(shown);
        if context.interrupt.happened() {
            return Ok(ReceiveEnd::Stopped);
        }
        if until.is_some_and(|until| until <= Instant::now()) {
            return Ok(ReceiveEnd::TimeIsUp);
        }
        if let Some(end) = end {
            return Ok(end);
        }
    }
}

/// Gets the next messages, at most as many as are `left` to show, and why they are the last if they are.
fn next_batch(
    context: &Context,
    peek: &mut Peek,
    left: Option<u64>,
    selection: &mut Selection,
    statistics: &mut ReceiveStatistics,
) -> Result<(Batch, Option<ReceiveEnd>), Error> {
    let mut batch = Batch::new();
    let mut bytes = 0;
    while batch.len() < PRINT_BATCH_MESSAGES && bytes < PRINT_BATCH_BYTES {
        if left == Some(batch.len() as u64) {
            return Ok((batch, Some(ReceiveEnd::Count)));
        }
        if peek.is_full() {
            context.messenger.note(&format!(
                "stopped early: too many messages of queue {} are at its delivery limit",
                context.settings.queue.value
            ));
            return Ok((batch, Some(ReceiveEnd::Stopped)));
        }
        let Some(mut message) = peek.message()? else {
            return Ok((batch, Some(ReceiveEnd::Empty)));
        };
        statistics.received(Instant::now());
        if selection.decide(&mut message) != Decision::Take {
            continue;
        }
        bytes += message.body.len();
        batch.push(message);
    }
    Ok((batch, None))
}
