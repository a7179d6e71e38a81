//! What `delete` and `purge` print.

use std::fmt;

use serde::Serialize;

use super::{Context, counted, write};
use crate::cli::ListFormat;
use crate::error::Error;
use crate::text;
use crate::values::QueueName;

/// What is to be taken away, or emptied.
#[derive(Clone, Copy, Debug)]
pub enum RemovalTarget<'a> {
    /// A queue.
    Queue(&'a QueueName),
    /// An exchange.
    Exchange(&'a str),
}

impl fmt::Display for RemovalTarget<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue(name) => write!(f, "queue {name}"),
            Self::Exchange(name) => write!(f, "exchange '{}'", text::escape(name)),
        }
    }
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RemovalState {
    /// It was there.
    Deleted,
    /// Its messages were there.
    Purged,
    /// There was none.
    Missing,
}

/// An entity and what became of it, as an object of JSON. The names are those of `declare`.
#[derive(Serialize)]
struct RemovalJson<'a> {
    kind: &'static str,
    name: &'a str,
    state: RemovalState,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<u32>,
}

/// Prints what was taken away: an exchange, or a queue with so many messages.
///
/// # Errors
/// [`Error::Output`].
pub fn tell(
    context: &Context,
    form: ListFormat,
    entity: RemovalTarget,
    state: RemovalState,
    messages: Option<u32>,
) -> Result<(), Error> {
    if form == ListFormat::Json {
        return as_json(entity, state, messages);
    }
    let done = match state {
        RemovalState::Purged => "Purged",
        RemovalState::Deleted | RemovalState::Missing => "Deleted",
    };
    context.print(&match (entity, messages) {
        (RemovalTarget::Queue(name), Some(messages)) => {
            let messages = counted(messages.into(), "message");
            format!(" [x] {done} {name} ({messages})")
        }
        (entity, _) => format!(" [x] {done} {entity}"),
    })
}

/// Says that there is nothing to take away, on `broker`.
///
/// # Errors
/// [`Error::Output`].
pub fn missing(
    context: &Context,
    form: ListFormat,
    entity: RemovalTarget,
    broker: &str,
    verb: &str,
) -> Result<(), Error> {
    if form == ListFormat::Json {
        return as_json(entity, RemovalState::Missing, None);
    }
    context.messenger.note(&format!(
        "there is no {entity} on {broker}; nothing to {verb}"
    ));
    Ok(())
}

fn as_json(entity: RemovalTarget, state: RemovalState, messages: Option<u32>) -> Result<(), Error> {
    let (kind, name) = match entity {
        RemovalTarget::Queue(name) => ("queue", name.as_str()),
        RemovalTarget::Exchange(name) => ("exchange", name),
    };
    let entry = RemovalJson {
        kind,
        name,
        state,
        messages,
    };
    let line = serde_json::to_string(&entry)
        .map_err(|error| Error::Bug(format!("cannot write JSON: {error}")))?;
    write(&line)
}
