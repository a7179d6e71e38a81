//! The question before messages are lost.

use std::io::{self, IsTerminal, Write};
use std::thread;

use crossbeam_channel::{bounded, select};

use super::Context;
use crate::error::Error;

/// Asks the user whether to go on, if there is a terminal. `otherwise` says what happens if the answer
/// is no.
///
/// # Errors
/// [`Error::Declined`] unless the answer is yes; [`Error::Interrupted`].
pub(super) fn ask(context: &Context, question: &str, otherwise: &str) -> Result<(), Error> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(());
    }
    context.messenger.ask(&format!("{question} [y/N]"));
    let (sender, answer) = bounded(1);
    // The thread ends with the process if there is no answer.
    let read = move || {
        let mut line = String::new();
        let read = io::stdin().read_line(&mut line);
        sender.send(read.map(|_| line))
    };
    thread::Builder::new().spawn(read).map_err(Error::thread)?;
    select! {
        recv(answer) -> line => match line {
            Ok(Ok(line)) if matches!(line.trim(), "y" | "Y" | "yes" | "Yes" | "YES") => Ok(()),
            Ok(Err(error)) => Err(Error::Input(error)),
            _ => Err(Error::Declined(otherwise.to_owned())),
        },
        recv(context.interrupt.receiver()) -> _ => {
            // The error has a line of its own.
            let _ = io::stderr().write_all(b"\n");
            Err(Error::Interrupted("before it was answered".to_owned()))
        }
    }
}
