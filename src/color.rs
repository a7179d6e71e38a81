//! Colours: which streams use them, and the styles.

use std::ffi::OsString;
use std::fmt;

use anstyle::{AnsiColor, Style};

/// The style of headings in the help. This and the next two are those of cargo.
pub const HEADING: Style = AnsiColor::BrightGreen.on_default().bold();
/// The style of what is typed literally.
pub const LITERAL: Style = AnsiColor::BrightCyan.on_default().bold();
/// The style of placeholders.
pub const PLACEHOLDER: Style = AnsiColor::Cyan.on_default();
/// The style of errors.
pub const ERROR: Style = AnsiColor::BrightRed.on_default().bold();
/// The style of warnings.
pub const WARNING: Style = AnsiColor::BrightYellow.on_default().bold();
/// The style of hints.
pub const HINT: Style = AnsiColor::BrightCyan.on_default().bold();
/// The style of the program's name in other messages.
pub const NAME: Style = Style::new().bold();

/// Whether a stream is coloured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paint(bool);

impl Paint {
    /// Returns what the user wants. By default a terminal that supports colours has them, unless
    /// `NO_COLOR` (<https://no-color.org>) is set; with `CLICOLOR_FORCE`
    /// (<https://bixense.com/clicolors>) other files have them, too.
    pub fn new(
        wanted: Option<bool>,
        is_terminal: bool,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Self {
        let of = |name| variable(name).filter(|value| !value.is_empty());
        Self(match wanted {
            Some(wanted) => wanted,
            None if of("NO_COLOR").is_some() => false,
            None if of("CLICOLOR_FORCE").is_some_and(|value| value != "0") => true,
            None => is_terminal && of("TERM").is_some_and(|terminal| terminal != "dumb"),
        })
    }

    pub(crate) fn is_on(self) -> bool {
        self.0
    }

    /// Returns a style, or the plain style if colours are off.
    pub fn style(self, style: Style) -> Style {
        if self.0 { style } else { Style::new() }
    }

    /// Returns a text in a style.
    pub fn text(self, style: Style, text: &str) -> String {
        let style = self.style(style);
        format!("{style}{text}{style:#}")
    }

    /// Returns one of the tutorial's marks, such as `[x]`.
    pub fn mark(self, mark: char) -> Mark {
        let color = match mark {
            '*' => AnsiColor::Cyan,
            'x' => AnsiColor::Green,
            '-' => AnsiColor::Yellow,
            _ => AnsiColor::Red,
        };
        Mark {
            mark,
            style: self.style(color.on_default()),
        }
    }

    /// Colours the mark of a line that begins with one, such as ` [x] …`.
    pub fn marked(self, line: &str) -> String {
        let rest = line.strip_prefix(" [");
        let parts = rest.and_then(|rest| Some((rest.chars().next()?, rest.split_once(']')?.1)));
        match parts {
            Some((mark, rest)) => format!(" {}{rest}", self.mark(mark)),
            None => line.to_owned(),
        }
    }
}

/// A coloured mark.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    mark: char,
    style: Style,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mark, style } = self;
        if style.is_plain() {
            return write!(f, "[{mark}]");
        }
        write!(f, "{style}[{mark}]{style:#}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_has_colour_unless_somebody_says_no() {
        let rows = [
            (None, true, "TERM=xterm", true),
            (None, false, "TERM=xterm", false),
            (None, true, "TERM=dumb", false),
            (None, true, "", false),
            (None, true, "TERM=xterm NO_COLOR=1", false),
            (None, true, "TERM=xterm NO_COLOR=", true),
            (None, false, "CLICOLOR_FORCE=1", true),
            (None, false, "CLICOLOR_FORCE=0", false),
            (None, false, "CLICOLOR_FORCE=1 NO_COLOR=1", false),
            (Some(true), false, "TERM=dumb NO_COLOR=1", true),
            (Some(false), true, "TERM=xterm CLICOLOR_FORCE=1", false),
        ];
        for (wanted, is_terminal, environment, expected) in rows {
            let variable = |name: &str| {
                let mut set = environment.split(' ').filter_map(|set| set.split_once('='));
                set.find(|set| set.0 == name).map(|set| set.1.into())
            };
            let paint = Paint::new(wanted, is_terminal, variable);
            assert_eq!(paint.is_on(), expected, "{wanted:?} {environment}");
        }
    }

    #[test]
    fn of_a_marked_line_only_the_mark_is_coloured() {
        let line = " [x] Sent '[x] ]'";
        assert_eq!(Paint(false).marked(line), line);
        assert_eq!(Paint(true).marked(line), " \x1b[32m[x]\x1b[0m Sent '[x] ]'");
        assert_eq!(
            Paint(true).marked(" [ ] Queue 'a': failed"),
            " \x1b[31m[ ]\x1b[0m Queue 'a': failed"
        );
    }
}
