//! Messages to the user on standard error, which start with `hello-mq: `, and a progress line on a terminal.

use std::fmt;
use std::io::{self, Write};
use std::time::Duration;

use anstyle::Style;
use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle, TermLike};
use log::LevelFilter;

use crate::color::{self, Paint};
use crate::error::Error;
use crate::text;

/// Writes messages to standard error. Failures to do so are ignored, because nothing could show them.
#[derive(Clone, Debug)]
pub struct Messenger {
    quiet: bool,
    paint: Paint,
    /// Hidden until there is progress to show. All clones share it, so that messages do not overwrite it.
    progress: ProgressBar,
}

/// The interval at which the progress is redrawn.
const REDRAW_INTERVAL: Duration = Duration::from_millis(200);

/// The columns that the text of the progress leaves free, for the spinner and for `^C`.
const MARGIN: usize = 6;

/// The progress and the present speed of the work.
#[derive(Clone, Copy, Debug)]
pub struct ProgressSnapshot {
    /// The amount that is done.
    pub done: u64,
    /// The amount of all work, if it is known.
    pub total: Option<u64>,
    /// The amount per second, as a moving average.
    pub per_second: f64,
    /// The estimated time that is left.
    pub left: Option<Duration>,
}

impl ProgressSnapshot {
    fn of(state: &ProgressState) -> Self {
        let is_known = state.len().is_some() && state.per_sec() > 0.0;
        Self {
            done: state.pos(),
            total: state.len(),
            per_second: state.per_sec(),
            left: is_known.then(|| state.eta()),
        }
    }
}

/// The speed of work whose progress is not shown as a whole.
#[derive(Clone, Debug)]
pub struct Speed(ProgressBar);

impl Default for Speed {
    fn default() -> Self {
        Self(ProgressBar::with_draw_target(
            None,
            ProgressDrawTarget::hidden(),
        ))
    }
}

impl Speed {
    /// Marks the start of the work, from which its speed is measured.
    pub fn begin(&self) {
        self.0.reset_eta();
    }

    /// Adds to the amount that is done.
    pub fn add(&self, amount: u64) {
        self.0.inc(amount);
    }

    /// Returns the amount per second, as a moving average.
    pub fn per_second(&self) -> f64 {
        self.0.per_sec()
    }
}

impl Messenger {
    /// Returns a messenger. With `quiet`, it writes only errors, warnings and results.
    pub fn new(quiet: bool) -> Self {
        Self {
            quiet,
            paint: Paint::default(),
            progress: ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()),
        }
    }

    /// Sets the colours.
    pub fn with_paint(self, paint: Paint) -> Self {
        Self { paint, ..self }
    }

    /// Whether the user wants only errors and data.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Writes a notice, unless it is quiet.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            self.result(text);
        }
    }

    /// Writes a result that the user asked for, even if it is quiet.
    pub fn result(&self, text: &str) {
        self.progress.suspend(|| self.line(color::NAME, text));
    }

    /// Writes a warning, even if it is quiet.
    pub fn warn(&self, text: &str) {
        self.progress
            .suspend(|| self.labelled(color::WARNING, "warning:", text));
    }

    /// Writes an error, with its details and its hint.
    pub fn error(&self, error: &Error) {
        self.progress.suspend(|| {
            self.line(color::ERROR, &error.to_string());
            for detail in error.details() {
                self.line(color::NAME, detail);
            }
            if let Some(hint) = error.hint() {
                self.labelled(color::HINT, "hint:", &hint);
            }
        });
    }

    /// Asks a question, and leaves the cursor after it.
    pub fn ask(&self, question: &str) {
        self.write(color::NAME, &format!("{} ", text::visible(question)));
    }

    fn line(&self, style: Style, text: &str) {
        self.write(style, &format!("{}\n", text::visible(text)));
    }

    fn labelled(&self, style: Style, label: &str, text: &str) {
        let label = self.paint.text(style, label);
        self.write(color::NAME, &format!("{label} {}\n", text::visible(text)));
    }

    fn write(&self, style: Style, text: &str) {
        let name = self.paint.text(style, "hello-mq:");
        // A single write, so that the lines of several processes don't mix.
        let _ = io::stderr().write_all(format!("{name} {text}").as_bytes());
    }

    /// Whether progress would be visible.
    pub fn can_show_progress(&self) -> bool {
        // Log lines would overwrite the progress.
        let is_logged = log::max_level() > LevelFilter::Off;
        !self.quiet && !is_logged && !ProgressDrawTarget::stderr().is_hidden()
    }

    /// Marks the start of the work, from which its speed is measured.
    pub fn begin_progress(&self) {
        self.progress.reset_eta();
    }

    /// Shows the progress from now on, as formatted by `format`.
    pub fn show_progress(
        &self,
        total: Option<u64>,
        format: impl Fn(&ProgressSnapshot) -> String + Clone + Send + Sync + 'static,
    ) {
        let told = move |state: &ProgressState, out: &mut dyn fmt::Write| {
            let text = format(&ProgressSnapshot::of(state));
            let width = usize::from(Term::stderr().size().1).saturating_sub(MARGIN);
            let _ = out.write_str(text.get(..width).unwrap_or(&text));
        };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {told}") {
            self.progress.set_style(style.with_key("told", told));
        }
        if let Some(total) = total {
            self.progress.set_length(total);
        }
        let line = Box::new(StatusLine(Term::buffered_stderr()));
        self.progress
            .set_draw_target(ProgressDrawTarget::term_like(line));
        self.progress.enable_steady_tick(REDRAW_INTERVAL);
    }

    /// Sets the amount that is done.
    pub fn advance(&self, done: u64) {
        self.progress.set_position(done);
    }

    /// Removes the progress.
    pub fn end_progress(&self) {
        self.progress.finish_and_clear();
        self.progress.set_draw_target(ProgressDrawTarget::hidden());
    }
}

/// The terminal line of the progress. Unlike indicatif's own, it is not padded with spaces, which would put
/// the terminal's `^C` on the next line and leave this one uncleared.
#[derive(Debug)]
struct StatusLine(Term);

impl TermLike for StatusLine {
    fn width(&self) -> u16 {
        self.0.size().1
    }

    fn move_cursor_up(&self, lines: usize) -> io::Result<()> {
        self.0.move_cursor_up(lines)
    }

    fn move_cursor_down(&self, lines: usize) -> io::Result<()> {
        self.0.move_cursor_down(lines)
    }

    fn move_cursor_right(&self, columns: usize) -> io::Result<()> {
        self.0.move_cursor_right(columns)
    }

    fn move_cursor_left(&self, columns: usize) -> io::Result<()> {
        self.0.move_cursor_left(columns)
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.0.write_line(text)
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        if text.trim_end().is_empty() {
            return Ok(());
        }
        self.0.write_str(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.0.clear_line()
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }
}
