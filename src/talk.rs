//! What hello-mq says to the person: lines on standard error that start with `hello-mq: `.

use std::io::{self, Write};

use crate::error::Error;

/// Says things on standard error. A failure to do so is not reported: there is nowhere left to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Talk {
    quiet: bool,
}

impl Talk {
    /// With `quiet`, only errors are said.
    #[must_use]
    pub fn new(quiet: bool) -> Self {
        Self { quiet }
    }

    /// Whether only errors and data are wanted.
    #[must_use]
    pub fn is_quiet(self) -> bool {
        self.quiet
    }

    /// Says what the person should know although nothing failed.
    pub fn note(self, text: &str) {
        if !self.quiet {
            line(text);
        }
    }

    /// Says what failed and what to do next.
    pub fn error(self, error: &Error) {
        line(&error.to_string());
        if let Some(hint) = error.hint() {
            line(&format!("hint: {hint}"));
        }
    }
}

fn line(text: &str) {
    // One write for the whole line, so that lines of several processes don't mix.
    let _ = io::stderr().write_all(format!("hello-mq: {text}\n").as_bytes());
}
