//! The outcome of the messages of one `send`, printed as they are confirmed and at the end.

use std::collections::BTreeMap;
use std::io;
use std::time::Instant;

use super::replies::PendingRequests;
use crate::broker::publish::{PublishOutcome, is_reply};
use crate::cmd::progress::{Figures, Progress, of};
use crate::cmd::sending::{OutgoingMessage, PublishObserver};
use crate::cmd::{Context, counted};
use crate::error::{ConfirmFailure, Error, NameList};
use crate::input::{Input, MessagePosition, ranges};
use crate::message::Message;
use crate::messenger::ProgressSnapshot;
use crate::text;

/// The longest body that is printed, in bytes. Of a longer one only the size is.
const MAX_SHOWN_BODY: usize = 4096;

/// The outcome of the messages so far. Confirmed messages are only counted.
pub(super) struct SendReport<'c> {
    context: &'c Context,
    /// The positions of all messages, where they are known from the start.
    positions: Option<Vec<MessagePosition>>,
    /// The number of messages to send, where it is known from the start.
    total: Option<u64>,
    /// Whether each message has a line of its own: a person typed them.
    is_detailed: bool,
    /// The messages that are published and not settled, by number.
    unsettled: BTreeMap<u64, MessagePosition>,
    /// The unsettled messages that the broker refused when they were last published.
    refused: BTreeMap<u64, MessagePosition>,
    /// The message with the highest number of those that were published.
    last: Option<(u64, MessagePosition)>,
    confirmed: u64,
    returned: NameList,
    /// The total size of the confirmed bodies, in bytes.
    bytes: u64,
    /// Whether the user was told that a confirmed reply may reach nobody.
    is_reply_noted: bool,
    progress: Progress,
    replies: Option<PendingRequests>,
    /// The first failure to print a result. Messages are sent nevertheless.
    print_error: Option<Error>,
}

impl<'c> SendReport<'c> {
    pub(super) fn new(
        context: &'c Context,
        input: &Input,
        replies: Option<PendingRequests>,
    ) -> Self {
        let positions = input.plan.clone();
        let total = positions.as_ref().map(|positions| positions.len() as u64);
        let total = total.and_then(|number| number.checked_mul(input.count));
        let is_detailed = positions.is_some() && input.count == 1;
        let mut progress = Progress::new(&context.messenger, !is_detailed, total, describe);
        progress.begin();
        Self {
            context,
            positions,
            total,
            is_detailed,
            unsettled: BTreeMap::new(),
            refused: BTreeMap::new(),
            last: None,
            confirmed: 0,
            returned: NameList::default(),
            bytes: 0,
            is_reply_noted: false,
            progress,
            replies,
            print_error: None,
        }
    }

    /// Returns the number of messages that were published.
    fn published(&self) -> u64 {
        self.last.as_ref().map_or(0, |(number, _)| *number)
    }

    fn names<'p>(&self, positions: impl IntoIterator<Item = &'p MessagePosition>) -> Vec<String> {
        let positions = positions.into_iter();
        if self.total == Some(1) {
            positions.map(|_| "the message".to_owned()).collect()
        } else {
            ranges(positions)
        }
    }

    /// Whether every published message is settled, and no reply is missing.
    pub(super) fn is_complete(&self) -> bool {
        self.unsettled.is_empty() && self.reply_deadline().is_none()
    }

    fn print(&mut self, line: &str) {
        // Where replies are data, nothing else is.
        let is_data = self.replies.as_ref().is_some_and(PendingRequests::is_data);
        if self.print_error.is_none() && !is_data {
            self.print_error = self.context.print(line).err();
        }
    }

    /// Reports that every message was sent and settled.
    pub(super) fn finish(mut self) -> Result<(), Error> {
        self.progress.end();
        if self.confirmed > 1 || !self.is_detailed {
            self.print(&format!(" [x] Sent {}", counted(self.confirmed, "message")));
        }
        if !self.returned.is_empty() {
            return Err(self.failure(None, true));
        }
        let is_only_one = self.total == Some(1);
        let missing = |replies: &PendingRequests| replies.missing(is_only_one);
        let error = self.replies.as_ref().and_then(missing);
        error.or(self.print_error).map_or(Ok(()), Err)
    }

    /// Reports that sending ended early. With `is_all_read`, the whole input was read.
    pub(super) fn fail(mut self, cause: Error, is_all_read: bool) -> Error {
        self.progress.end();
        match cause {
            // No message was tried, so the cause says enough.
            Error::Config { .. } if self.last.is_none() => cause,
            // The refused messages are named anyway.
            Error::Nack { .. } => self.failure(None, is_all_read),
            cause => self.failure(Some(Box::new(cause)), is_all_read),
        }
    }

    fn failure(self, cause: Option<Box<Error>>, is_all_read: bool) -> Error {
        let unsettled = self.unsettled.iter();
        let mut unconfirmed: Vec<_> = unsettled
            .filter(|(number, _)| !self.refused.contains_key(number))
            .map(|(_, position)| position)
            .collect();
        let mut unsent = None;
        match (&self.positions, usize::try_from(self.published())) {
            (Some(positions), Ok(published)) if self.is_detailed => {
                unconfirmed.extend(positions.iter().skip(published));
            }
            _ if is_all_read => {}
            _ => {
                unsent = Some(match &self.last {
                    Some((_, position)) => format!("nothing after {position} was sent"),
                    None => "nothing was sent".to_owned(),
                });
            }
        }
        Error::ConfirmFailure(Box::new(ConfirmFailure {
            broker: self.context.settings.broker.to_string(),
            confirmed: self.confirmed,
            total: self.total,
            refused: self.refused(),
            unconfirmed: self.names(unconfirmed),
            unsent,
            returned: self.returned,
            cause,
        }))
    }

    fn confirmed(&mut self, message: &Message) {
        self.confirmed += 1;
        self.bytes += message.body.len() as u64;
        if let Some(replies) = &mut self.replies {
            replies.restart_timeout();
        }
        if is_reply(message) && !self.is_reply_noted {
            self.is_reply_noted = true;
            self.context.messenger.note(&format!(
                "{} confirms a reply even if its requester is gone",
                self.context.settings.broker
            ));
        }
        if self.is_detailed {
            self.print(&match message.body.len() {
                0..=MAX_SHOWN_BODY => format!(" [x] Sent {}", text::quote(&message.body)),
                length => format!(" [x] Sent a message of {length} bytes"),
            });
        }
    }

    fn returned(&mut self, message: &OutgoingMessage, said: &str) {
        let name = self.names([&message.position]).concat();
        if self.positions.is_none() && self.returned.is_empty() {
            // The end may be hours away.
            self.context.messenger.note(&format!(
                "{} returned {name} ({said}); continuing",
                self.context.settings.broker
            ));
        }
        self.returned.push(|| format!("{name} ({said})"));
        if let Some(replies) = &mut self.replies {
            replies.remove(message);
        }
    }
}

fn describe(snapshot: &ProgressSnapshot, figures: &Figures) -> String {
    format!(
        "sent {}{}, confirmed {}",
        figures.started(),
        of(snapshot.total),
        snapshot.done
    )
}

impl PublishObserver for SendReport<'_> {
    type Position = MessagePosition;

    fn on_publish(&mut self, message: &OutgoingMessage) {
        let (number, position) = (message.number, &message.position);
        if let Some(replies) = &mut self.replies {
            replies.add(message);
        }
        self.unsettled.insert(number, position.clone());
        if number > self.published() {
            self.last = Some((number, position.clone()));
        }
    }

    fn on_outcome(&mut self, message: &OutgoingMessage, outcome: &PublishOutcome) {
        match outcome {
            PublishOutcome::Refused => {
                self.refused
                    .insert(message.number, message.position.clone());
                return;
            }
            PublishOutcome::Confirmed => self.confirmed(&message.message),
            PublishOutcome::Returned(said) => self.returned(message, said),
        }
        let published = self.published();
        self.progress.advance(self.confirmed, self.bytes, published);
        self.unsettled.remove(&message.number);
        self.refused.remove(&message.number);
    }

    fn refused(&self) -> Vec<String> {
        self.names(self.refused.values())
    }

    fn on_reply(&mut self, message: &Message) {
        let printed = self.replies.as_mut().map(|it| it.receive(message));
        if let Some(Err(source)) = printed {
            if source.kind() != io::ErrorKind::BrokenPipe {
                self.print_error.get_or_insert(Error::Output {
                    source,
                    consequence: "the reply is lost".to_owned(),
                });
            }
        }
    }

    fn reply_deadline(&self) -> Option<Instant> {
        self.replies.as_ref().and_then(PendingRequests::deadline)
    }
}
