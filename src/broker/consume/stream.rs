//! The end of a stream, which the broker does not tell: the number of messages that it gives lags behind.

use std::time::{Duration, Instant};

use super::ConsumeOptions;
use super::subscription::Subscription;
use crate::broker::connection::WaitOutcome;
use crate::broker::session::Session;
use crate::broker::wait::OnInterrupt;
use crate::error::Error;
use crate::interrupt::Interrupt;
use crate::values::{QueueName, StreamOffset};

/// More messages than are stored together: a consumer that begins with the last of a stream is sent all
/// that were stored with it.
const MAX_LAST_CHUNK: u16 = 10_000;

/// How long the broker may take to send the last message of a stream, if it has one.
const LAST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(2);

/// The number of the last message of a stream; `None` if it has no message. It is found over a connection
/// of its own.
///
/// # Errors
/// The reason why that could not be opened, or ended.
pub fn last_offset(session: &Session, queue: &QueueName) -> Result<Option<u64>, Error> {
    let until = Instant::now() + LAST_MESSAGE_TIMEOUT;
    let mut session = session.beside(&Interrupt::default(), until + LAST_MESSAGE_TIMEOUT)?;
    let options = ConsumeOptions {
        prefetch: MAX_LAST_CHUNK,
        stream_offset: Some(StreamOffset::Last),
        ..ConsumeOptions::default()
    };
    let mut subscription = Subscription::open(&mut session, queue, options, false);
    subscription.start(None, None)?;
    let ignore = OnInterrupt::Ignore;
    let mut last = None;
    while last.is_none() {
        match subscription.wait(Some(until), ignore, true, None, || None::<()>)? {
            WaitOutcome::Came(_) => last = subscription.next(),
            WaitOutcome::Interrupted | WaitOutcome::Late => break,
        }
    }
    if last.is_some() {
        // The others are sent at once, before anything else is answered.
        subscription.settle_down()?;
        while let Some(content) = subscription.next() {
            last = Some(content);
        }
    }
    session.close();
    Ok(last.and_then(|content| content.message.stream_offset()))
}
