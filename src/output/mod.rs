//! The forms in which received messages are written.

mod directory;
mod stdout;
mod template;
mod writer;

use std::io::{self, BufWriter, Write};

use crate::color::Paint;
use crate::error::{Error, SaveFailure};
use crate::message::{Message, amqp10, envelope};
use crate::text;
pub(crate) use directory::Directory;
pub(crate) use stdout::{Stdout, watch};
pub use template::Template;
pub(crate) use writer::Writer;

/// A destination of messages.
pub(crate) trait Output: Send {
    /// Writes what precedes the first message, once the consumer is registered.
    fn start(&mut self) -> Result<(), OutputError>;

    /// Writes a message, possibly only into a buffer.
    fn write(&mut self, message: &Message) -> Result<(), OutputError>;

    /// Flushes the buffer.
    fn flush(&mut self) -> Result<(), OutputError>;
}

/// A failure to write messages.
#[derive(Debug)]
pub(crate) enum OutputError {
    /// Standard output can't be written to.
    Stdout(io::Error),
    /// A message can't be saved as a file.
    Save(SaveFailure),
}

impl From<io::Error> for OutputError {
    fn from(error: io::Error) -> Self {
        Self::Stdout(error)
    }
}

impl OutputError {
    /// Returns the error for the user, with what became of the messages.
    fn into_error(self, consequence: &str) -> Error {
        let consequence = consequence.to_owned();
        match self {
            Self::Stdout(source) => Error::Output {
                source,
                consequence,
            },
            Self::Save(failure) => Error::Save {
                failure,
                consequence,
            },
        }
    }
}

/// The form of a written message.
#[derive(Clone, Debug)]
pub enum OutputFormat {
    /// The line that the tutorial prints, and the colour of its mark.
    Text(Paint),
    /// The body, followed by these bytes.
    Body(Vec<u8>),
    /// The whole message as a JSON object.
    Json {
        /// The bytes that follow it.
        end: Vec<u8>,
        /// Whether the decoded body of a message from AMQP 1.0 is included.
        decodes: bool,
    },
    /// The user's template.
    Template(Template),
}

impl OutputFormat {
    pub(crate) fn write(&self, message: &Message, out: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Text(paint) => {
                write!(out, " {} Received ", paint.mark('x'))?;
                match amqp10::value_of(message) {
                    Some(value) => value.write(out)?,
                    None => text::write_quoted(out, &message.body)?,
                }
                out.write_all(b"\n")
            }
            Self::Body(end) => {
                out.write_all(&message.body)?;
                out.write_all(end)
            }
            Self::Json { end, decodes } => {
                if *decodes {
                    envelope::write_decoded(message, out)?;
                } else {
                    envelope::write(message, out)?;
                }
                out.write_all(end)
            }
            Self::Template(template) => template.write(message, out),
        }
    }
}

/// Writes messages one after the other.
#[derive(Debug)]
pub struct MessageWriter<W: Write> {
    format: OutputFormat,
    out: BufWriter<W>,
    quiet: bool,
}

impl<W: Write> MessageWriter<W> {
    /// Returns a writer to `out`. With `quiet`, it writes nothing but messages.
    pub fn new(format: OutputFormat, out: W, quiet: bool) -> Self {
        Self {
            format,
            out: BufWriter::with_capacity(1 << 16, out),
            quiet,
        }
    }

    /// Writes a message, possibly only into the buffer.
    pub fn write(&mut self, message: &Message) -> io::Result<()> {
        self.format.write(message, &mut self.out)
    }

    /// Flushes the buffer.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl<W: Write + Send> Output for MessageWriter<W> {
    fn start(&mut self) -> Result<(), OutputError> {
        if let (OutputFormat::Text(paint), false) = (&self.format, self.quiet) {
            let mark = paint.mark('*');
            writeln!(
                self.out,
                " {mark} Waiting for messages. To exit press CTRL+C"
            )?;
        }
        Ok(())
    }

    fn write(&mut self, message: &Message) -> Result<(), OutputError> {
        Ok(self.write(message)?)
    }

    fn flush(&mut self) -> Result<(), OutputError> {
        Ok(self.flush()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: &str) -> Message {
        Message {
            body: body.into(),
            ..Message::default()
        }
    }

    #[test]
    fn text_is_the_tutorials() {
        let mut text = MessageWriter::new(OutputFormat::Text(Paint::default()), Vec::new(), false);
        text.start().unwrap();
        text.write(&message("Hello World!")).unwrap();
        text.write(&message("a\nb")).unwrap();
        assert_eq!(
            String::from_utf8(text.out.into_inner().unwrap()).unwrap(),
            " [*] Waiting for messages. To exit press CTRL+C\n [x] Received 'Hello World!'\n [x] Received 'a\\nb'\n"
        );
    }
}
