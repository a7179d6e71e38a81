//! What became of the messages of one `send`, as it is told in the end.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use indicatif::HumanBytes;

use super::replies::Replies;
use crate::broker::publisher::Fate;
use crate::cmd::sending::{Ledger, Outgoing};
use crate::cmd::{Context, counted};
use crate::error::{Error, Names, NotTaken};
use crate::input::{Input, Place, ranges};
use crate::message::Message;
use crate::talk::Talk;
use crate::text;

/// The longest body that is shown, in bytes; of a longer one only the size is.
const SHOWN: usize = 4096;

/// What takes no longer needs no progress.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often the progress is told.
const REFRESH: Duration = Duration::from_millis(200);

/// What became of the messages so far. Of those that are confirmed only the number is kept.
pub struct Report<'c> {
    pub context: &'c Context,
    /// The places of all messages, where they were known from the start.
    plan: Option<Vec<Place>>,
    count: u64,
    /// The messages that are being sent, by number.
    open: BTreeMap<u64, Place>,
    /// Those of them that the broker refused, the last time they were sent.
    refused: BTreeMap<u64, Place>,
    /// The last message that was taken.
    last: Option<(u64, Place)>,
    confirmed: u64,
    known: u64,
    returned: Names,
    /// How much of the confirmed messages was body.
    bytes: u64,
    /// When the sending began, and when its progress is to be told next.
    began: Instant,
    next_progress: Instant,
    talk: Talk,
    replies: Option<Replies>,
    /// Why the results could not be printed. The sending goes on nevertheless.
    unprinted: Option<Error>,
}

impl<'c> Report<'c> {
    pub fn new(context: &'c Context, input: &Input, replies: Option<Replies>) -> Self {
        Self {
            context,
            plan: input.plan.clone(),
            count: input.count,
            open: BTreeMap::new(),
            refused: BTreeMap::new(),
            last: None,
            confirmed: 0,
            known: 0,
            returned: Names::default(),
            bytes: 0,
            began: Instant::now(),
            next_progress: Instant::now() + PATIENCE,
            talk: context.talk.with_progress(),
            replies,
            unprinted: None,
        }
    }

    /// How many messages there are in all, where that was known from the start.
    fn total(&self) -> Option<u64> {
        let plan = self.plan.as_ref()?;
        (plan.len() as u64).checked_mul(self.count)
    }

    /// What to say things with while the progress is shown.
    pub fn talk(&self) -> &Talk {
        &self.talk
    }

    /// Tells how far the sending has come, now and then.
    fn tell_progress(&mut self) {
        if self.is_detailed() || !self.talk.shows_progress() {
            return;
        }
        let now = Instant::now();
        if now < self.next_progress {
            return;
        }
        self.next_progress = now + REFRESH;
        let taken = self.last.as_ref().map_or(0, |(number, _)| *number);
        let total = self.total().map(|total| format!(" of {total}"));
        let seconds = self.began.elapsed().as_secs_f64();
        // As exact as a rate has to be.
        #[allow(clippy::cast_precision_loss)]
        let rate = self.confirmed as f64 / seconds;
        self.talk.progress(format!(
            "sent {taken}{}, confirmed {}, {}, {rate:.0} messages/s",
            total.unwrap_or_default(),
            self.confirmed,
            HumanBytes(self.bytes),
        ));
    }

    /// Whether each message is told by a line of its own: a person typed them.
    fn is_detailed(&self) -> bool {
        self.plan.is_some() && self.count == 1
    }

    fn name(&self, place: &Place) -> String {
        if self.total() == Some(1) {
            "the message".to_owned()
        } else {
            place.to_string()
        }
    }

    fn names(&self, places: &[&Place]) -> Vec<String> {
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
        let is_data = self.replies.as_ref().is_some_and(Replies::is_data);
        if self.unprinted.is_none() && !is_data {
            self.unprinted = self.context.print(line).err();
        }
    }

    /// Everything was taken, and its fate is known.
    pub fn end(mut self) -> Result<(), Error> {
        self.talk.end_progress();
        if self.confirmed > 1 || !self.is_detailed() {
            self.print(&format!(" [x] Sent {}", counted(self.confirmed, "message")));
        }
        if self.confirmed < self.known {
            return Err(self.failure(None, true));
        }
        let is_alone = self.total() == Some(1);
        let missing = |replies: &Replies| replies.missing(is_alone);
        if let Some(error) = self.replies.as_ref().and_then(missing) {
            return Err(error);
        }
        self.unprinted.map_or(Ok(()), Err)
    }

    /// Something ended the sending early; `read_all` if there was nothing more to read.
    pub fn cut_short(self, cause: Error, read_all: bool) -> Error {
        self.talk.end_progress();
        match cause {
            // Nothing was tried; what is wrong says enough.
            Error::Config { .. } if self.last.is_none() => cause,
            // The refused messages are named anyway.
            Error::Nack { .. } => self.failure(None, read_all),
            cause => self.failure(Some(Box::new(cause)), read_all),
        }
    }

    fn failure(self, cause: Option<Box<Error>>, read_all: bool) -> Error {
        let taken = self.last.as_ref().map_or(0, |(number, _)| *number);
        let is_open = |number: &u64| !self.refused.contains_key(number);
        let mut unconfirmed: Vec<&Place> = self
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
        Error::NotTaken(Box::new(NotTaken {
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

impl Ledger for Report<'_> {
    fn take(&mut self, message: &Outgoing) {
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

    fn note(&mut self, message: &Outgoing, fate: &Fate) {
        match fate {
            Fate::Refused => {
                self.refused.insert(message.number, message.place.clone());
                return;
            }
            Fate::Confirmed => {
                self.confirmed += 1;
                if let Some(replies) = &mut self.replies {
                    replies.prolong();
                }
                self.bytes += message.message.body.len() as u64;
                if self.is_detailed() {
                    let body = &message.message.body;
                    self.print(&match body.len() {
                        0..=SHOWN => format!(" [x] Sent {}", text::quote(body)),
                        length => format!(" [x] Sent a message of {length} bytes"),
                    });
                }
            }
            Fate::Returned(said) => {
                let name = self.name(&message.place);
                if self.plan.is_none() && self.returned.is_empty() {
                    // There may be hours until the end.
                    self.talk.note(&format!(
                        "{} returned {name} ({said}); going on",
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
        self.tell_progress();
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
        self.replies.as_ref().and_then(Replies::by)
    }
}
