//! `hello-mq send`: publish messages, and be done when the broker has confirmed each.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::{Context, counted};
use crate::broker::publisher::{Fate, Options, Publisher};
use crate::broker::topology;
use crate::broker::{Backoff, Session};
use crate::cli;
use crate::error::{Error, NotTaken};
use crate::input;
use crate::message::{Outgoing, Place};
use crate::text;
use crate::values::Span;

/// Sends the messages and prints each that is confirmed.
///
/// # Errors
/// Those of the input, before anything is sent; those of the broker; [`Error::NotTaken`] with the
/// messages that no queue took, that the broker refused, or of which it said nothing.
pub fn run(arguments: cli::Send, context: &Context) -> Result<(), Error> {
    let messages = input::messages(arguments.messages, &context.interrupt, context.talk)?;
    let mut report = Report::new(context, &messages);
    match deliver(messages.into(), &mut report) {
        Err(error) if !report.is_complete() => report.cut_short(error),
        // Once the fate of every message is known, the broker's last words add nothing to it.
        Ok(()) | Err(_) => report.end(),
    }
}

/// Sends the messages, and after a lost connection again those that were not confirmed, in order.
fn deliver(mut messages: VecDeque<Outgoing>, report: &mut Report) -> Result<(), Error> {
    let retry_for = report.context.settings.retry_for.value;
    let connector = report.context.connector("send", None);
    let mut session = connector.open()?;
    let mut backoff = Backoff::default();
    // The time for attempts starts anew with each message that is confirmed.
    let (mut known, mut until) = (0, None);
    loop {
        match publish(&mut session, &mut messages, report) {
            Err(error) if error.is_transient() && retry_for != Span::seconds(0) => {
                if report.known() > known || until.is_none() {
                    known = report.known();
                    until = Instant::now().checked_add(retry_for.get());
                    backoff = Backoff::default();
                }
                session = connector.reopen(error, until, &mut backoff)?;
            }
            result => return result.and_then(|()| session.close()),
        }
    }
}

/// Sends the messages on one connection. Those of which the broker has said nothing when it fails
/// are back in `messages`.
fn publish(
    session: &mut Session,
    messages: &mut VecDeque<Outgoing>,
    report: &mut Report,
) -> Result<(), Error> {
    let settings = &report.context.settings;
    let queue = &settings.queue.value;
    if !settings.no_declare.value {
        topology::ensure(session, queue)?;
    }
    let options = Options {
        persistent: settings.persistent.value,
        confirm_timeout: settings.confirm_timeout.value,
    };
    let mut publisher = Publisher::open(session, queue, options)?;
    let result = pump(&mut publisher, messages, report);
    let (known, unknown) = publisher.end();
    for (message, fate) in known {
        report.note(&message, fate);
    }
    for message in unknown.into_iter().rev() {
        messages.push_front(message);
    }
    result
}

fn pump(
    publisher: &mut Publisher,
    messages: &mut VecDeque<Outgoing>,
    report: &mut Report,
) -> Result<(), Error> {
    let interrupt = &report.context.interrupt;
    while !interrupt.happened() {
        let Some(message) = messages.pop_front() else {
            break;
        };
        publisher.publish(message)?;
        while !publisher.has_room() {
            if let Some((message, fate)) = publisher.settled()? {
                report.note(&message, fate);
            }
        }
    }
    while let Some((message, fate)) = publisher.settled()? {
        report.note(&message, fate);
    }
    if messages.is_empty() {
        Ok(())
    } else {
        Err(Error::Interrupted("while sending".to_owned()))
    }
}

/// What became of the messages so far.
struct Report<'c> {
    context: &'c Context,
    /// Every message's name, until its fate is known.
    open: BTreeMap<Place, String>,
    confirmed: u64,
    total: u64,
    returned: Vec<(String, String)>,
    refused: Vec<String>,
    /// Why the results could not be printed. The sending goes on nevertheless.
    unprinted: Option<Error>,
}

/// The longest body that is shown, in bytes; of a longer one only the size is.
const SHOWN: usize = 4096;

impl<'c> Report<'c> {
    fn new(context: &'c Context, messages: &[Outgoing]) -> Self {
        let name = |place: Place| match messages.len() {
            1 => "the message".to_owned(),
            _ => place.to_string(),
        };
        Self {
            context,
            open: messages
                .iter()
                .map(|message| (message.place, name(message.place)))
                .collect(),
            confirmed: 0,
            total: messages.len() as u64,
            returned: Vec::new(),
            refused: Vec::new(),
            unprinted: None,
        }
    }

    fn note(&mut self, message: &Outgoing, fate: Fate) {
        let name = self.open.remove(&message.place).unwrap_or_default();
        match fate {
            Fate::Confirmed => {
                self.confirmed += 1;
                self.print(&match message.body.len() {
                    0..=SHOWN => format!(" [x] Sent {}", text::quote(&message.body)),
                    length => format!(" [x] Sent a message of {length} bytes"),
                });
            }
            Fate::Returned(said) => self.returned.push((name, said)),
            Fate::Refused => self.refused.push(name),
        }
    }

    fn print(&mut self, line: &str) {
        if self.unprinted.is_none() {
            self.unprinted = self.context.print(line).err();
        }
    }

    /// How many messages' fate is known.
    fn known(&self) -> u64 {
        self.total - self.open.len() as u64
    }

    fn is_complete(&self) -> bool {
        self.open.is_empty()
    }

    fn end(mut self) -> Result<(), Error> {
        if self.confirmed > 1 {
            self.print(&format!(" [x] Sent {}", counted(self.confirmed, "message")));
        }
        if self.confirmed < self.total {
            return Err(self.failure(None));
        }
        self.unprinted.map_or(Ok(()), Err)
    }

    fn cut_short(self, cause: Error) -> Result<(), Error> {
        Err(self.failure(Some(Box::new(cause))))
    }

    fn failure(self, cause: Option<Box<Error>>) -> Error {
        Error::NotTaken(NotTaken {
            broker: self.context.settings.broker.to_string(),
            confirmed: self.confirmed,
            total: self.total,
            returned: self.returned,
            refused: self.refused,
            unconfirmed: ranges(self.open),
            cause,
        })
    }
}

/// Names in order, with runs of arguments told by their first and last.
fn ranges(open: BTreeMap<Place, String>) -> Vec<String> {
    let mut names = Vec::new();
    let mut run: Option<(usize, usize)> = None;
    let tell = |run: Option<(usize, usize)>, names: &mut Vec<String>| match run {
        None => {}
        Some((first, last)) if first == last => names.push(Place::Argument(first).to_string()),
        Some((first, last)) => names.push(format!("messages {first} to {last}")),
    };
    let alone = open.len() == 1;
    for (place, name) in open {
        match (place, run) {
            (Place::Argument(_), _) if alone => names.push(name),
            (Place::Argument(number), Some((first, last))) if number == last + 1 => {
                run = Some((first, number));
            }
            (Place::Argument(number), _) => {
                tell(run, &mut names);
                run = Some((number, number));
            }
            (Place::StandardInput, _) => {
                tell(run.take(), &mut names);
                names.push(name);
            }
        }
    }
    tell(run, &mut names);
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_messages_are_told_by_their_ends() {
        let open = [1, 3, 4, 5, 7, 8]
            .map(Place::Argument)
            .into_iter()
            .chain([Place::StandardInput]);
        let open = open.map(|place| (place, place.to_string())).collect();
        assert_eq!(
            ranges(open),
            [
                "message 1",
                "messages 3 to 5",
                "messages 7 to 8",
                "the message from standard input"
            ]
        );
        let only = [(Place::Argument(1), "the message".to_owned())]
            .into_iter()
            .collect();
        assert_eq!(ranges(only), ["the message"]);
    }
}
