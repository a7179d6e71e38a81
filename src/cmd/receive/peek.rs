//! `hello-mq receive --peek`: show what is in the queue, and leave it there.

use std::time::Instant;

use crate::broker::consume::peek::Peek;
use crate::broker::consume::{Total, Waited};
use crate::broker::{Connector, topology};
use crate::cmd::Context;
use crate::error::Error;

use super::account::Account;
use super::print::Sink;
use super::{End, has_come};

/// How many messages are written at a time.
const BATCH: usize = 128;

/// How many bytes, if it is more than one message.
const BATCH_BYTES: usize = 4 << 20;

/// Shows each message that is in the queue once, up to `count`, and returns why it ended.
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
    account: &mut Account,
) -> Result<End, Error> {
    let settings = &context.settings;
    let queue = &settings.queue.value;
    let is_declaring = !settings.no_declare.value;
    let connector = connector.clone().declaring(is_declaring);
    let mut session = connector.open()?;
    if !settings.no_declare.value {
        topology::ensure(&mut session, &settings.definition)?;
    }
    let wanted = count.unwrap_or(u64::MAX);
    let mut shown = Total::default();
    let mut peek = Peek::open(&mut session, queue);
    let end = loop {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let mut end = None;
        while batch.len() < BATCH && bytes < BATCH_BYTES {
            if shown.messages + batch.len() as u64 == wanted {
                end = Some(End::Count);
                break;
            }
            let Some(message) = peek.message()? else {
                end = Some(End::Empty);
                break;
            };
            account.came(Instant::now());
            bytes += message.body.len();
            batch.push(message);
        }
        let messages = batch.len() as u64;
        let written = match sink.hand_over(batch) {
            Some(written) => Ok(written),
            None => match peek.wait(sink.done(), until)? {
                Waited::Came(written) => written,
                Waited::Interrupted => break End::Stopped,
                Waited::Late => break End::TimeIsUp,
            },
        };
        match written {
            Ok(Ok(())) => {
                shown.messages += messages;
                shown.bytes += bytes as u64;
                account.update(shown);
            }
            Ok(Err(source)) => {
                return Err(Error::Output {
                    source,
                    consequence: format!("every message is still in queue {queue}"),
                });
            }
            Err(_) => return Err(Error::Bug("the writing thread died".to_owned())),
        }
        if context.interrupt.happened() {
            break End::Stopped;
        }
        if has_come(until) {
            break End::TimeIsUp;
        }
        if let Some(end) = end {
            break end;
        }
    };
    session.close();
    Ok(end)
}
