//! The text that is printed if there is no command to run: help, version, or an error of the command
//! line.

use std::borrow::Cow;
use std::ffi::OsString;

use clap::ValueEnum;
use clap::builder::Styles;

use super::Color;
use crate::color::{self, Paint};

/// The colours of help and errors.
pub const STYLES: Styles = Styles::styled()
    .header(color::HEADING)
    .usage(color::HEADING)
    .literal(color::LITERAL)
    .placeholder(color::PLACEHOLDER)
    .context(color::PLACEHOLDER)
    .error(color::ERROR)
    .valid(color::LITERAL)
    .invalid(color::WARNING);

/// A text to print if there is no command to run.
#[derive(Debug)]
pub struct EarlyExit {
    plain: String,
    colored: String,
    /// The value of `--color`, as far as an invalid command line tells.
    pub color: Color,
    /// Whether the user asked for the text, which then goes to standard output.
    pub asked_for: bool,
}

impl EarlyExit {
    pub(super) fn new(error: &clap::Error, arguments: &[OsString]) -> Self {
        let (name, word) = ("hello-mq:", "error:");
        let on = Paint::new(Some(true), false, |_| None);
        let text = error.render();
        let renamed = |text: String, name: &str, word: &str| match text.strip_prefix(word) {
            Some(problem) => format!("{name}{problem}"),
            None => text,
        };
        let plain = renamed(text.to_string(), name, word);
        let colored = renamed(
            text.ansi().to_string(),
            &on.text(color::ERROR, name),
            &on.text(color::ERROR, word),
        );
        Self {
            // clap removes control characters of the command line from the plain text only.
            colored: if arguments.iter().any(has_controls) {
                plain.clone()
            } else {
                headed(&colored, on)
            },
            plain,
            color: wanted(arguments),
            asked_for: !error.use_stderr(),
        }
    }

    /// Returns the text, in colour or not.
    #[must_use]
    pub fn text(&self, paint: Paint) -> &str {
        if paint.is_on() {
            &self.colored
        } else {
            &self.plain
        }
    }
}

fn has_controls(argument: &OsString) -> bool {
    argument.to_string_lossy().chars().any(char::is_control)
}

/// Returns the text with headings in the colour that clap gives to its own.
fn headed(text: &str, paint: Paint) -> String {
    let is_heading = |line: &str| line.starts_with(char::is_alphabetic) && line.ends_with(':');
    text.split_inclusive('\n')
        .map(|line| match line.strip_suffix('\n') {
            Some(line) if is_heading(line) => Cow::Owned(paint.text(color::HEADING, line) + "\n"),
            _ => Cow::Borrowed(line),
        })
        .collect()
}

/// Returns the value of `--color` in a command line that may be invalid.
fn wanted(arguments: &[OsString]) -> Color {
    let words: Vec<_> = arguments
        .iter()
        .take_while(|word| *word != "--")
        .map(|word| word.to_string_lossy())
        .collect();
    let at = |index: usize| match words[index].strip_prefix("--color")? {
        "" => words.get(index + 1).map(Cow::as_ref),
        rest => rest.strip_prefix('='),
    };
    (0..words.len())
        .find_map(|index| Color::from_str(at(index)?, false).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn instead(line: &str) -> EarlyExit {
        parse(line.split(' ').map(OsString::from)).unwrap_err()
    }

    #[test]
    fn the_choice_of_colour_is_known_although_nothing_is_parsed() {
        for (line, color) in [
            ("hello-mq --help", Color::Auto),
            ("hello-mq --color always --help", Color::Always),
            ("hello-mq send --nonsense --color=never", Color::Never),
            ("hello-mq send --color=purple", Color::Auto),
            ("hello-mq send --color", Color::Auto),
            ("hello-mq send --nonsense -- --color=always", Color::Auto),
            ("hello-mq send --colors always", Color::Auto),
        ] {
            assert_eq!(instead(line).color, color, "{line}");
        }
    }

    #[test]
    fn the_plain_text_is_the_coloured_one_without_colours() {
        let on = Paint::new(Some(true), false, |_| None);
        for line in [
            "hello-mq --help",
            "hello-mq send -h",
            "hello-mq send --coun 3",
        ] {
            let instead = instead(line);
            let colored = instead.text(on);
            assert!(colored.contains("\x1b["), "{line}");
            let mut plain = String::new();
            for (index, piece) in colored.split("\x1b[").enumerate() {
                let text = piece.split_once('m').map(|(_, text)| text);
                plain += if index == 0 { piece } else { text.unwrap() };
            }
            assert_eq!(plain, instead.text(Paint::default()), "{line}");
        }
        let text = instead("hello-mq receive --help");
        assert!(
            text.text(on)
                .contains("\x1b[1m\x1b[92mExit status:\x1b[0m\n")
        );
        let text = instead("hello-mq send --coun 3");
        assert!(
            text.text(on)
                .starts_with("\x1b[1m\x1b[91mhello-mq:\x1b[0m ")
        );
    }

    #[test]
    fn what_is_typed_cannot_colour_what_is_said() {
        let on = Paint::new(Some(true), false, |_| None);
        let instead = instead("hello-mq send --\x1b[31mred");
        assert!(!instead.text(on).contains('\x1b'));
    }
}
