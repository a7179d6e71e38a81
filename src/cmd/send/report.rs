//! What became of the messages of one `send`, as it is told in the end.

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

/// The longest body that is shown, in bytes; of a longer one only the size is.
const MAX_SHOWN_BODY: usize = 4096;

/// What became of the messages so far. Of those that are confirmed only the number is kept.
pub struct SendReport<'c> {
    pub context: &'c Context,
    /// The places of all messages, where they were known from the start.
    plan: Option<Vec<MessagePosition>>,
    count: u64,
    /// The messages that are being sent, by number.
    open: BTreeMap<u64, MessagePosition>,
    /// Those of them that the broker refused, the last time they were sent.
    refused: BTreeMap<u64, MessagePosition>,
    /// The last message that was taken.
    last: Option<(u64, MessagePosition)>,
    confirmed: u64,
    known: u64,
    returned: NameList,
    /// How much of the confirmed messages was body.
    bytes: u64,
    /// Whether it was said that nobody may get a reply.
    has_told_of_replies: bool,
    progress: Progress,
    replies: Option<PendingRequests>,
    /// Why the results could not be printed. The sending goes on nevertheless.
    unprinted: Option<Error>,
}

impl<'c> SendReport<'c> {
    pub fn new(context: &'c Context, input: &Input, replies: Option<PendingRequests>) -> Self {
        let plan = input.plan.clone();
        let total = total(plan.as_deref(), input.count);
        let is_wanted = !is_detailed(plan.as_deref(), input.count);
        let mut progress = Progress::new(&context.messenger, is_wanted, total, told);
        progress.begin();
        Self {
            context,
            plan,
            count: input.count,
            open: BTreeMap::new(),
            refused: BTreeMap::new(),
            last: None,
            confirmed: 0,
            known: 0,
            returned: NameList::default(),
            bytes: 0,
            has_told_of_replies: false,
            progress,
            replies,
            unprinted: None,
        }
    }

    /// How many messages there are in all, where that was known from the start.
    fn total(&self) -> Option<u64> {
        total(self.plan.as_deref(), self.count)
    }

    /// How many messages were taken.
    fn taken(&self) -> u64 {
        self.last.as_ref().map_or(0, |(number, _)| *number)
    }

    fn is_detailed(&self) -> bool {
        is_detailed(self.plan.as_deref(), self.count)
    }

    fn name(&self, place: &MessagePosition) -> String {
        if self.total() == Some(1) {
            "the message".to_owned()
        } else {
            place.to_string()
        }
    }

    fn names(&self, places: &[&MessagePosition]) -> Vec<String> {
        if self.total() == Some(1) {
            places.iter().map(|place| self.name(place)).collect()
        } else {
            ranges(places.iter().copied())
        }
    }

    /// Whether the fate of every message that was taken is known, and no reply is missing.
    pub fn is_complete(&self) -> bool {
        self.open.is_empty() && self.replies_by().is_none()
    }

    fn print(&mut self, line: &str) {
        // Where replies are data, nothing else is.
        let is_data = self.replies.as_ref().is_some_and(PendingRequests::is_data);
        if self.unprinted.is_none() && !is_data {
            self.unprinted = self.context.print(line).err();
        }
    }

    /// Everything was taken, and its fate is known.
    pub fn end(mut self) -> Result<(), Error> {
        self.progress.end();
        if self.confirmed > 1 || !self.is_detailed() {
            self.print(&format!(" [x] Sent {}", counted(self.confirmed, "message")));
        }
        if self.confirmed < self.known {
            return Err(self.failure(None, true));
        }
        let is_alone = self.total() == Some(1);
        let missing = |replies: &PendingRequests| replies.missing(is_alone);
        if let Some(error) = self.replies.as_ref().and_then(missing) {
            return Err(error);
        }
        self.unprinted.map_or(Ok(()), Err)
    }

    /// Something ended the sending early; `read_all` if there was nothing more to read.
    pub fn cut_short(mut self, cause: Error, read_all: bool) -> Error {
        self.progress.end();
        match cause {
            // Nothing was tried; what is wrong says enough.
            Error::Config { .. } if self.last.is_none() => cause,
            // The refused messages are named anyway.
            Error::Nack { .. } => self.failure(None, read_all),
            cause => self.failure(Some(Box::new(cause)), read_all),
        }
    }

    fn failure(self, cause: Option<Box<Error>>, read_all: bool) -> Error {
        let taken = self.taken();
        let is_open = |number: &u64| !self.refused.contains_key(number);
        let mut unconfirmed: Vec<&MessagePosition> = self
            .open
            .iter()
            .filter(|(number, _)| is_open(number))
            .map(|(_, place)| place)
            .collect();
        let mut unsent = None;
        match (&self.plan, usize::try_from(taken)) {
            (Some(plan), Ok(taken)) if self.count == 1 => {
                unconfirmed.extend(plan.iter().skip(taken));
            }
            _ if read_all => {}
            _ => {
                unsent = Some(match &self.last {
                    Some((_, place)) => format!("nothing after {place} was sent"),
                    None => "nothing was sent".to_owned(),
                });
            }
        }
        Error::ConfirmFailure(Box::new(ConfirmFailure {
            broker: self.context.settings.broker.to_string(),
            confirmed: self.confirmed,
            total: self.total(),
            refused: self.refused(),
            unconfirmed: self.names(&unconfirmed),
            unsent,
            returned: self.returned,
            cause,
        }))
    }
}

fn total(plan: Option<&[MessagePosition]>, count: u64) -> Option<u64> {
    (plan?.len() as u64).checked_mul(count)
}

/// Whether each message is told by a line of its own: a person typed them.
fn is_detailed(plan: Option<&[MessagePosition]>, count: u64) -> bool {
    plan.is_some() && count == 1
}

fn told(pace: &ProgressSnapshot, figures: &Figures) -> String {
    format!(
        "sent {}{}, confirmed {}",
        figures.started(),
        of(pace.total),
        pace.done
    )
}

impl PublishObserver for SendReport<'_> {
    fn take(&mut self, message: &OutgoingMessage) {
        if let Some(replies) = &mut self.replies {
            replies.expect(message);
        }
        self.open.insert(message.number, message.place.clone());
        if self
            .last
            .as_ref()
            .is_none_or(|(last, _)| *last < message.number)
        {
            self.last = Some((message.number, message.place.clone()));
        }
    }

    fn note(&mut self, message: &OutgoingMessage, fate: &PublishOutcome) {
        match fate {
            PublishOutcome::Refused => {
                self.refused.insert(message.number, message.place.clone());
                return;
            }
            PublishOutcome::Confirmed => {
                self.confirmed += 1;
                if let Some(replies) = &mut self.replies {
                    replies.prolong();
                }
                self.bytes += message.message.body.len() as u64;
                if is_reply(&message.message) && !self.has_told_of_replies {
                    self.has_told_of_replies = true;
                    self.context.messenger.note(&format!(
                        "{} confirms a reply even if its requester is gone",
                        self.context.settings.broker
                    ));
                }
                if self.is_detailed() {
                    let body = &message.message.body;
                    self.print(&match body.len() {
                        0..=MAX_SHOWN_BODY => format!(" [x] Sent {}", text::quote(body)),
                        length => format!(" [x] Sent a message of {length} bytes"),
                    });
                }
            }
            PublishOutcome::Returned(said) => {
                let name = self.name(&message.place);
                if self.plan.is_none() && self.returned.is_empty() {
                    // There may be hours until the end.
                    self.context.messenger.note(&format!(
                        "{} returned {name} ({said}); continuing",
                        self.context.settings.broker
                    ));
                }
                self.returned.push(|| format!("{name} ({said})"));
                if let Some(replies) = &mut self.replies {
                    replies.forget(message);
                }
            }
        }
        self.known += 1;
        let taken = self.taken();
        self.progress.advance(self.confirmed, self.bytes, taken);
        self.open.remove(&message.number);
        self.refused.remove(&message.number);
    }

    fn known(&self) -> u64 {
        self.known
    }

    fn refused(&self) -> Vec<String> {
        self.names(&self.refused.values().collect::<Vec<_>>())
    }

    fn reply(&mut self, message: &Message) {
        let taken = self.replies.as_mut().map(|replies| replies.take(message));
        if let Some(Err(source)) = taken {
            if source.kind() == io::ErrorKind::BrokenPipe {
                return;
            }
            let consequence = "the reply is lost".to_owned();
            let error = Error::Output {
                source,
                consequence,
            };
            self.unprinted.get_or_insert(error);
        }
    }

    fn replies_by(&self) -> Option<Instant> {
        self.replies.as_ref().and_then(PendingRequests::by)
    }
}
