//! The messages of a `send` that the broker did not take.

use std::fmt;

use super::Error;

/// The messages of one `send` that were not confirmed, and how many were.
#[derive(Debug, Default)]
pub struct ConfirmFailure {
    /// The broker's URL without password.
    pub broker: String,
    /// How many messages the broker confirmed and routed to a queue.
    pub confirmed: u64,
    /// How many messages there were to send, if that was known.
    pub total: Option<u64>,
    /// Each message that no queue took: which it was, and the broker's words.
    pub returned: NameList,
    /// Each message that the broker refused with a nack.
    pub refused: Vec<String>,
    /// Each message of which the broker said nothing.
    pub unconfirmed: Vec<String>,
    /// What was not even sent.
    pub unsent: Option<String>,
    /// What ended the sending early, if something did.
    pub cause: Option<Box<Error>>,
}

/// How many messages an error names one by one.
const NAMED: usize = 10;

impl fmt::Display for ConfirmFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let broker = &self.broker;
        let parts = [
            self.cause.as_ref().map(ToString::to_string),
            (!self.returned.is_empty()).then(|| format!("{broker} returned {}", self.returned)),
            (!self.refused.is_empty())
                .then(|| format!("{broker} rejected (nack) {}", listed(&self.refused))),
            (!self.unconfirmed.is_empty())
                .then(|| format!("not confirmed: {}", listed(&self.unconfirmed))),
            self.unsent.clone(),
            Some(match self.total {
                Some(total) => format!("{} of {total} confirmed", self.confirmed),
                None => format!("{} confirmed", self.confirmed),
            }),
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join("; "))
    }
}

/// Names, of which `Display` shows only the first.
#[derive(Debug, Default)]
pub struct NameList {
    first: Vec<String>,
    more: u64,
}

impl NameList {
    /// Adds a name.
    pub fn push(&mut self, name: impl FnOnce() -> String) {
        if self.first.len() < NAMED {
            self.first.push(name());
        } else {
            self.more += 1;
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.first.is_empty()
    }
}

impl fmt::Display for NameList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.first.join(", "))?;
        match self.more {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// The first of some names, and how many more there are.
pub fn listed(names: &[String]) -> String {
    let mut listed = NameList::default();
    for name in names {
        listed.push(|| name.clone());
    }
    listed.to_string()
}
