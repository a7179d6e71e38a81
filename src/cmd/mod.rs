//! The verbs: each wires input to the broker, or the broker to output.

pub mod completions;
mod confirm;
pub mod declare;
pub mod delete;
pub mod explain;
pub mod man;
mod progress;
pub mod purge;
pub mod receive;
mod removal;
pub mod send;
mod sending;

use std::io::{self, Write};
use std::time::Instant;

use crate::broker::Connector;
use crate::color::Paint;
use crate::error::Error;
use crate::interrupt::Interrupt;
use crate::messenger::Messenger;
use crate::settings::Settings;

/// What every verb is given.
pub struct Context {
    /// Every setting, resolved.
    pub settings: Settings,
    /// The user's wish to stop.
    pub interrupt: Interrupt,
    /// How to tell the user something.
    pub messenger: Messenger,
    /// Whether standard output has colour.
    pub paint: Paint,
}

impl Context {
    /// A way to the broker; at the moment `until` everything ends.
    fn connector(&self, verb: &str, until: Option<Instant>) -> Connector {
        Connector::new(
            &self.settings.broker,
            verb,
            &self.interrupt,
            until,
            &self.messenger,
        )
    }

    /// Writes a line of result, which begins with a mark, to standard output, unless the user wants
    /// data only. A reader that is gone is no failure: what the line tells is done.
    fn print(&self, line: &str) -> Result<(), Error> {
        if self.messenger.is_quiet() {
            return Ok(());
        }
        write_as(line, &self.paint.marked(line))
    }
}

/// Writes a line of data to standard output.
fn write(line: &str) -> Result<(), Error> {
    write_as(line, line)
}

/// Writes a line of data that is shown in another way.
fn write_as(line: &str, shown: &str) -> Result<(), Error> {
    let text = format!("{shown}\n");
    write_all(&text, || format!("the line was:{line}"))
}

/// Writes a text to standard output; if it can't, the user is told the consequence. A reader that has
/// seen enough has seen enough.
///
/// # Errors
/// [`Error::Output`].
pub fn write_all(text: &str, consequence: impl FnOnce() -> String) -> Result<(), Error> {
    let mut stdout = io::stdout();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(source) if source.kind() != io::ErrorKind::BrokenPipe => Err(Error::Output {
            source,
            consequence: consequence(),
        }),
        _ => Ok(()),
    }
}

/// `1 message`, `2 messages`.
fn counted(number: u64, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}
