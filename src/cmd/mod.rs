//! The commands: each makes a plan of its arguments and settings, and carries it out.

pub(crate) mod completions;
mod confirm;
mod declare;
pub(crate) mod explain;
pub(crate) mod man;
mod plan;
mod progress;
mod receive;
mod removal;
mod send;
mod sending;

use std::io::{self, Write};
use std::time::Instant;

use crate::broker::Connector;
use crate::color::Paint;
use crate::error::Error;
use crate::interrupt::Interrupt;
use crate::messenger::Messenger;
use crate::settings::Settings;
pub(crate) use plan::plan;
pub use receive::abort;

/// The settings of a command and its ways to the user.
pub(crate) struct Context {
    pub(crate) settings: Settings,
    /// The user's request to stop.
    pub(crate) interrupt: Interrupt,
    pub(crate) messenger: Messenger,
    /// The colours of standard output.
    pub(crate) paint: Paint,
}

impl Context {
    /// Returns a connector to the broker, for sessions that end at the moment `until`.
    fn connector(&self, verb: &str, until: Option<Instant>) -> Connector {
        Connector::new(
            &self.settings.broker,
            verb,
            &self.interrupt,
            until,
            &self.messenger,
        )
    }

    /// Returns a connector to the broker to which `receive` publishes.
    fn target_connector(&self, verb: &str) -> Connector {
        let broker = self.settings.target.as_ref();
        Connector::new(
            broker.unwrap_or(&self.settings.broker),
            verb,
            &self.interrupt,
            None,
            &self.messenger,
        )
    }

    /// Writes a result, a line that begins with a mark, to standard output, unless the user wants data
    /// only.
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

/// Writes a line to standard output as `shown`.
fn write_as(line: &str, shown: &str) -> Result<(), Error> {
    let text = format!("{shown}\n");
    write_all(&text, || format!("the line was: {}", line.trim_start()))
}

/// Writes a text to standard output. The error says the consequence. A reader that has closed the pipe
/// is no error: what the text tells is done.
pub(crate) fn write_all(text: &str, consequence: impl FnOnce() -> String) -> Result<(), Error> {
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
