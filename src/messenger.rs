//! What hello-mq says to the person: lines on standard error that start with `hello-mq: `, and on a
//! terminal how far long work has come.

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

/// Says things on standard error. A failure to do so is not reported: there is nowhere left to.
#[derive(Clone, Debug)]
pub struct Messenger {
    quiet: bool,
    paint: Paint,
    /// Hidden until there is progress to show. All clones share it, so that whatever is said keeps
    /// clear of it.
    progress: ProgressBar,
}

/// How often the progress is drawn anew.
const REDRAW_INTERVAL: Duration = Duration::from_millis(200);

/// How much of a line is not for what is told: the spinner is before it, and `^C` may come after it.
const MARGIN: usize = 6;

/// How far the work has come, and how fast it goes at the moment.
#[derive(Clone, Copy, Debug)]
pub struct ProgressSnapshot {
    /// How much is done.
    pub done: u64,
    /// How much there is to do, if that is known.
    pub total: Option<u64>,
    /// How much is done in a second; what was long ago counts little.
    pub per_second: f64,
    /// How long it takes to the end, if that can be told.
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

impl Messenger {
    /// With `quiet`, only errors and warnings are said.
    pub fn new(quiet: bool) -> Self {
        Self {
            quiet,
            paint: Paint::default(),
            progress: ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()),
        }
    }

    /// The same in colour, if there is to be any.
    pub fn with_paint(self, paint: Paint) -> Self {
        Self { paint, ..self }
    }

    /// Whether only errors and data are wanted.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Says what the person should know although nothing failed.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            self.result(text);
        }
    }

    /// Says what the person asked to be told, `--quiet` or not.
    pub fn result(&self, text: &str) {
        self.progress.suspend(|| self.line(color::NAME, text));
    }

    /// Says what the person should know before something bad happens, `--quiet` or not.
    pub fn warn(&self, text: &str) {
        self.progress
            .suspend(|| self.labelled(color::WARNING, "warning:", text));
    }

    /// Says what failed and what to do next.
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

    /// Asks, and leaves the cursor where the answer is to be typed.
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
        // One write for the whole line, so that lines of several processes don't mix.
        let _ = io::stderr().write_all(format!("{name} {text}").as_bytes());
    }

    /// Whether somebody would see the progress.
    pub fn can_show_progress(&self) -> bool {
        // A log is written without regard to it.
        let is_logged = log::max_level() > LevelFilter::Off;
        !self.quiet && !is_logged && !ProgressDrawTarget::stderr().is_hidden()
    }

    /// The work begins: how fast it goes is measured from here.
    pub fn begin_progress(&self) {
        self.progress.reset_eta();
    }

    /// Shows from now on how far the work has come, in the words of `tell`.
    pub fn show_progress(
        &self,
        total: Option<u64>,
        tell: impl Fn(&ProgressSnapshot) -> String + Clone + Send + Sync + 'static,
    ) {
        let told = move |state: &ProgressState, out: &mut dyn fmt::Write| {
            let text = tell(&ProgressSnapshot::of(state));
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

    /// So much is done.
    pub fn advance(&self, done: u64) {
        self.progress.set_position(done);
    }

    /// Takes the progress away.
    pub fn end_progress(&self) {
        self.progress.finish_and_clear();
        self.progress.set_draw_target(ProgressDrawTarget::hidden());
    }
}

/// The line of a terminal that the progress is on. It is not filled up with blanks, as the library
/// would have it: the `^C` that a terminal shows would come on the next line, and what is above it
/// would never be cleared.
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
