//! The end of a stream, which the broker does not tell: its count of messages lags behind.

use std::time::{Duration, Instant};

use super::ConsumeOptions;
use super::subscription::Subscription;
use crate::broker::connection::WaitOutcome;
use crate::broker::session::Session;
use crate::broker::wait::OnInterrupt;
use crate::error::Error;
use crate::interrupt::Interrupt;
use crate::values::{QueueName, StreamOffset};

/// More messages than a chunk of a stream has. A consumer of the last message is sent its whole chunk.
const MAX_LAST_CHUNK: u16 = 10_000;

/// The time in which the broker sends the last message of a stream, if it has one.
const LAST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(2);

/// Returns the options of a consumer that finds the last message of a stream.
pub(crate) fn last_message_options() -> ConsumeOptions {
    ConsumeOptions {
        prefetch: MAX_LAST_CHUNK,
        stream_offset: Some(StreamOffset::Last),
        ..ConsumeOptions::default()
    }
}

/// Finds the offset of the last message of a stream, over a connection of its own; `None` if the stream
/// is empty.
pub(crate) fn last_offset(session: &Session, queue: &QueueName) -> Result<Option<u64>, Error> {
    let deadline = Instant::now() + LAST_MESSAGE_TIMEOUT;
    let mut session =
        session.open_another(&Interrupt::default(), deadline + LAST_MESSAGE_TIMEOUT)?;
    let mut subscription = Subscription::open(&mut session, queue, last_message_options(), false);
    subscription.start(None, None)?;
    let ignore = OnInterrupt::Ignore;
    let mut last = None;
    while last.is_none() {
        match subscription.wait(Some(deadline), ignore, true, None, || None::<()>)? {
            WaitOutcome::Ready(_) => last = subscription.next_message(),
            WaitOutcome::Interrupted | WaitOutcome::TimedOut => break,
        }
    }
    if last.is_some() {
        // The rest of the chunk is sent before the next answer.
        subscription.wait_for_deliveries_in_flight()?;
        while let Some(content) = subscription.next_message() {
            last = Some(content);
        }
    }
    session.close();
    Ok(last.and_then(|content| content.message.stream_offset()))
}
