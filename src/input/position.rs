//! The position of a message in the input, by which reports name it.

use std::fmt;
use std::sync::Arc;

/// The position of a message in the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MessagePosition {
    /// The message with this number, counted from 1: an argument, or one that is forwarded.
    Message(u64),
    /// The whole of standard input or of a file, by name.
    Whole(Arc<str>),
    /// A part of standard input or of a file.
    Part {
        /// The name of the source.
        of: Arc<str>,
        /// The name of a part: `line` or `piece`.
        unit: &'static str,
        /// The number of the part, counted from 1.
        number: u64,
    },
}

impl fmt::Display for MessagePosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message(number) => write!(f, "message {number}"),
            Self::Whole(name) => write!(f, "the message from {name}"),
            Self::Part { of, unit, number } => write!(f, "{unit} {number} of {of}"),
        }
    }
}

impl MessagePosition {
    /// Returns the position of the next part, or the same position if it is not a part.
    pub fn next(&self) -> Self {
        match self {
            Self::Part { of, unit, number } => Self::Part {
                of: Arc::clone(of),
                unit,
                number: number + 1,
            },
            other => other.clone(),
        }
    }

    /// Whether `self` comes right after `other` in the same source.
    fn follows(&self, other: &Self) -> bool {
        match (other, self) {
            (Self::Message(before), Self::Message(number)) => *number == before + 1,
            (
                Self::Part {
                    of: before_of,
                    number: before,
                    ..
                },
                Self::Part { of, number, .. },
            ) => before_of == of && *number == before + 1,
            _ => false,
        }
    }

    /// Names the range from `self` to `last`: `messages 3 to 5`, `lines 3 to 5 of FILE`.
    fn to(&self, last: &Self) -> String {
        match (self, last) {
            (first, last) if first == last => first.to_string(),
            (Self::Message(first), Self::Message(last)) => format!("messages {first} to {last}"),
            (Self::Part { of, unit, number }, Self::Part { number: last, .. }) => {
                format!("{unit}s {number} to {last} of {of}")
            }
            (first, last) => format!("{first} to {last}"),
        }
    }
}

/// Names positions that are in order, and joins runs into ranges.
pub fn ranges<'p>(places: impl IntoIterator<Item = &'p MessagePosition>) -> Vec<String> {
    let mut names = Vec::new();
    let mut run: Option<(&MessagePosition, &MessagePosition)> = None;
    for place in places {
        run = match run {
            Some((first, last)) if place.follows(last) => Some((first, place)),
            other => {
                names.extend(other.map(|(first, last)| first.to(last)));
                Some((place, place))
            }
        };
    }
    names.extend(run.map(|(first, last)| first.to(last)));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_told_by_their_ends() {
        let line = |number| MessagePosition::Part {
            of: Arc::from("a.txt"),
            unit: "line",
            number,
        };
        let places: Vec<_> = [1, 3, 4, 5, 7, 8]
            .map(MessagePosition::Message)
            .into_iter()
            .chain([MessagePosition::Whole(Arc::from("standard input"))])
            .chain([9, 10, 12].map(line))
            .collect();
        assert_eq!(
            ranges(&places),
            [
                "message 1",
                "messages 3 to 5",
                "messages 7 to 8",
                "the message from standard input",
                "lines 9 to 10 of a.txt",
                "line 12 of a.txt",
            ]
        );
        assert_eq!(ranges([]), Vec::<String>::new());
    }
}
