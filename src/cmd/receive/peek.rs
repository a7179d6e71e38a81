//! `hello-mq receive --peek`: show what is in the queue, and leave it there.

use std::time::Instant;

use crate::broker::consume::peek::Peek;
use crate::broker::consume::{Total, WaitOutcome};
use crate::broker::{Connector, topology};
use crate::cmd::Context;
use crate::error::Error;

use super::print::Sink;
use super::statistics::ReceiveStatistics;
use super::{ReceiveEnd, has_come};

/// How many messages are written at a time.
const PRINT_BATCH_MESSAGES: usize = 128;

/// How many bytes, if it is more than one message.
const PRINT_BATCH_BYTES: usize = 4 << 20;

/// Shows each message that is in the queue once, up to `count`, and returns why it ended. All of them go
/// back, whatever ends it.
///
/// # Errors
/// Those of the broker; [`Error::Output`] if a message can't be written. A lost connection is not
/// got back: the broker would begin again with the first message.
pub fn run(
    context: &Context,
    connector: &Connector,
    sink: &mut Sink,
    until: Option<Instant>,
    count: Option<u64>,
    statistics: &mut ReceiveStatistics,
) -> Result<ReceiveEnd, Error> {
    let settings = &context.settings;
    let declared = (!settings.receive.no_declare.value).then_some(&settings.definition);
    let mut session = topology::begin(connector.clone(), declared).open()?;
    if let Some(queue) = declared {
        topology::ensure(&mut session, queue)?;
    }
    let mut peek = Peek::open(&mut session, &settings.queue.value)?;
    let shown = show(context, &mut peek, sink, until, count, statistics);
    let given_back = peek.close();
    session.close();
    let end = shown?;
    given_back.map(|()| end)
}

fn show(
    context: &Context,
    peek: &mut Peek,
    sink: &mut Sink,
    until: Option<Instant>,
    count: Option<u64>,
    statistics: &mut ReceiveStatistics,
) -> Result<ReceiveEnd, Error> {
    let queue = &context.settings.queue.value;
    let wanted = count.unwrap_or(u64::MAX);
    let mut shown = Total::default();
    loop {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let mut end = None;
        while batch.len() < PRINT_BATCH_MESSAGES && bytes < PRINT_BATCH_BYTES {
            if shown.messages + batch.len() as u64 == wanted {
                end = Some(ReceiveEnd::Count);
                break;
            }
            if peek.is_full() {
                context.messenger.note(&format!(
                    "stopped early: too many messages of queue {queue} are at its delivery limit"
                ));
                end = Some(ReceiveEnd::Stopped);
                break;
            }
            let Some(message) = peek.message()? else {
                end = Some(ReceiveEnd::Empty);
                break;
            };
            statistics.came(Instant::now());
            bytes += message.body.len();
            batch.push(message);
        }
        let messages = batch.len() as u64;
        let written = match sink.hand_over(batch) {
            Some(written) => Ok(written),
            None => match peek.wait(sink.done(), until)? {
                WaitOutcome::Came(written) => written,
                WaitOutcome::Interrupted => return Ok(ReceiveEnd::Stopped),
                WaitOutcome::Late => return Ok(ReceiveEnd::TimeIsUp),
            },
        };
        match written {
            Ok(Ok(())) => {
                shown.messages += messages;
                shown.bytes += bytes as u64;
                statistics.update(shown);
            }
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(Error::Bug("the writing thread died".to_owned())),
        }
        if context.interrupt.happened() {
            return Ok(ReceiveEnd::Stopped);
        }
        if has_come(until) {
            return Ok(ReceiveEnd::TimeIsUp);
        }
        if let Some(end) = end {
            return Ok(end);
        }
    }
}
