//! What hello-mq says to the person: lines on standard error that start with `hello-mq: `, and on a
//! terminal how far long work has come.

use std::io::{self, Write};
use std::time::Duration;

use anstyle::Style;
use indicatif::{ProgressBar, ProgressStyle};

use crate::color::{self, Paint};
use crate::error::Error;

/// Says things on standard error. A failure to do so is not reported: there is nowhere left to.
#[derive(Clone, Debug)]
pub struct Talk {
    quiet: bool,
    paint: Paint,
    /// Hidden until there is progress to show, and wherever standard error is no terminal.
    progress: ProgressBar,
}

/// How often the progress is drawn anew, though nothing happens.
const TICK: Duration = Duration::from_millis(200);

impl Talk {
    /// With `quiet`, only errors and warnings are said.
    #[must_use]
    pub fn new(quiet: bool) -> Self {
        Self {
            quiet,
            paint: Paint::default(),
            progress: ProgressBar::hidden(),
        }
    }

    /// The same in colour, if there is to be any.
    #[must_use]
    pub fn painted(self, paint: Paint) -> Self {
        Self { paint, ..self }
    }

    /// Talk that can show progress as well.
    #[must_use]
    pub fn with_progress(&self) -> Self {
        let progress = if self.quiet {
            ProgressBar::hidden()
        } else {
            ProgressBar::new_spinner()
        };
        Self {
            quiet: self.quiet,
            paint: self.paint,
            progress,
        }
    }

    /// Whether only errors and data are wanted.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Says what the person should know although nothing failed.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            self.progress.suspend(|| self.line(color::NAME, text));
        }
    }

    /// Says what the person should know before something bad happens, `--quiet` or not.
    pub fn warn(&self, text: &str) {
        let warning = self.paint.text(color::WARNING, "warning:");
        let text = format!("{warning} {text}");
        self.progress.suspend(|| self.line(color::NAME, &text));
    }

    /// Says what failed and what to do next.
    pub fn error(&self, error: &Error) {
        self.progress.suspend(|| {
            self.line(color::ERROR, &error.to_string());
            for detail in error.details() {
                self.line(color::NAME, detail);
            }
            if let Some(hint) = error.hint() {
                let label = self.paint.text(color::HINT, "hint:");
                self.line(color::NAME, &format!("{label} {hint}"));
            }
        });
    }

    /// Asks, and leaves the cursor where the answer is to be typed.
    pub fn ask(&self, question: &str) {
        self.write(color::NAME, &format!("{question} "));
    }

    fn line(&self, style: Style, text: &str) {
        self.write(style, &format!("{text}\n"));
    }

    fn write(&self, style: Style, text: &str) {
        let name = self.paint.text(style, "hello-mq:");
        // One write for the whole line, so that lines of several processes don't mix.
        let _ = io::stderr().write_all(format!("{name} {text}").as_bytes());
    }

    /// Whether somebody sees the progress.
    #[must_use]
    pub fn shows_progress(&self) -> bool {
        !self.progress.is_hidden()
    }

    /// Shows how far the work has come, in place of what was shown before.
    pub fn progress(&self, text: String) {
        if self.progress.message().is_empty() {
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                self.progress.set_style(style);
            }
            self.progress.enable_steady_tick(TICK);
        }
        self.progress.set_message(text);
    }

    /// Takes the progress away.
    pub fn end_progress(&self) {
        self.progress.finish_and_clear();
    }
}
