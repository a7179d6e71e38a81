//! The messages of a `send` that the broker did not accept.

use std::fmt;

use super::Error;

/// The unconfirmed messages of a `send`, and the number of confirmed ones.
#[derive(Debug, Default)]
pub struct ConfirmFailure {
    /// The broker's URL without password.
    pub broker: String,
    /// The number of messages that the broker confirmed and routed to a queue.
    pub confirmed: u64,
    /// The number of all messages, if it is known.
    pub total: Option<u64>,
    /// The unroutable messages, each with the broker's text.
    pub returned: NameList,
    /// The messages that the broker refused with a nack.
    pub refused: Vec<String>,
    /// The messages that the broker neither confirmed nor refused.
    pub unconfirmed: Vec<String>,
    /// The messages that were not sent.
    pub unsent: Option<String>,
    /// The error that ended the sending early.
    pub cause: Option<Box<Error>>,
}

/// The maximum number of names that are shown.
const MAX_SHOWN_NAMES: usize = 10;

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

/// A list of names, of which `Display` shows only the first.
#[derive(Debug, Default)]
pub struct NameList {
    first: Vec<String>,
    more: u64,
}

impl NameList {
    /// Adds a name.
    pub fn push(&mut self, name: impl FnOnce() -> String) {
        if self.first.len() < MAX_SHOWN_NAMES {
            self.first.push(name());
        } else {
            self.more += 1;
        }
    }

    /// Whether there are no names.
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

/// Formats the first names of a list, and the number of others.
pub fn listed(names: &[String]) -> String {
    let mut listed = NameList::default();
    for name in names {
        listed.push(|| name.clone());
    }
    listed.to_string()
}
