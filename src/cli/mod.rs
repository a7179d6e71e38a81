//! What can be typed: the source of `--help`, and of nothing else.

mod common;
mod declare;
mod receive;
mod send;

use std::ffi::OsString;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};

pub use common::Common;
pub use declare::{Declare, ListForm, QueueArguments};
pub use receive::{OnFailure, Receive};
pub use send::{Properties, Send};

use crate::values::{Name, QueueName};

/// The table that ends every long help.
macro_rules! exit_statuses {
    () => {
        "\
Exit status:
    0  done; for receive also: stopped by Ctrl+C, SIGTERM or a closed pipe
    1  fewer messages than --count before the timeout or the end of the queue; a command failed;
       the answer was no
   64  the command line is wrong
   65  malformed input
   66  an input file can't be read
   67  no such queue or exchange, or a message that no queue took
   69  the broker can't be reached, or was lost
   70  a bug in hello-mq
   73  the directory for messages can't be written to
   74  output can't be written or input can't be read
   75  not confirmed by the broker: try again
   76  the broker refused the operation
   77  credentials, a certificate, virtual host or permission refused
   78  the configuration is wrong
  130  interrupted with work left undone, or a second Ctrl+C"
    };
}
/// Put a message into RabbitMQ, or take one out.
#[derive(Debug, Parser)]
#[command(
    name = "hello-mq",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "\
Examples:
  hello-mq send \"Hello World!\"     send a message to queue hello on localhost
  hello-mq receive                 print what arrives there, until Ctrl+C
  hello-mq declare orders          make queue orders

'hello-mq COMMAND --help' shows a command's own options and the exit statuses.",
    after_long_help = concat!("\
Examples:
  hello-mq send \"Hello World!\"     send a message to queue hello on localhost
  hello-mq receive                 print what arrives there, until Ctrl+C
  hello-mq declare orders          make queue orders

", exit_statuses!())
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// What every command takes.
    #[command(flatten)]
    pub common: Common,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make sure that a queue, an exchange or a binding exists, with exactly these properties
    #[command(after_long_help = exit_statuses!())]
    Declare(Box<Declare>),
    /// Send messages to a queue; done when the broker has confirmed each
    #[command(after_long_help = exit_statuses!())]
    Send(Box<Send>),
    /// Print the messages of a queue as they arrive, until Ctrl+C
    #[command(after_long_help = exit_statuses!())]
    Receive(Box<Receive>),
    /// Delete a queue or an exchange
    #[command(after_long_help = exit_statuses!())]
    Delete(Delete),
    /// Throw away the messages of a queue
    #[command(after_long_help = exit_statuses!())]
    Purge(Purge),
}

/// One of these words, which the help and the completions list.
fn words<T>(names: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: std::str::FromStr<Err = String> + Clone + std::marker::Send + Sync + 'static,
{
    PossibleValuesParser::new(names).try_map(|name| name.parse::<T>())
}

/// Options of `delete`.
#[derive(Args, Debug)]
pub struct Delete {
    /// The queue, in place of --queue; one of the two has to be given
    #[arg(value_name = "QUEUE")]
    pub name: Option<QueueName>,

    /// Delete this exchange, in place of a queue
    #[arg(short, long, value_name = "NAME", conflicts_with_all = ["name", "queue", "if_empty"])]
    pub exchange: Option<Name>,

    /// Fail if the queue has messages
    #[arg(long)]
    pub if_empty: bool,

    /// Fail if the queue has consumers, or the exchange bindings
    #[arg(long)]
    pub if_unused: bool,

    /// Don't ask, on a terminal, before messages are lost
    #[arg(short, long)]
    pub yes: bool,

    /// What to print: a line for a person (text), or an object (json)
    #[arg(short, long, value_name = "FORM", default_value = "text")]
    pub output: ListForm,
}

/// Options of `purge`.
#[derive(Args, Debug)]
pub struct Purge {
    /// The queue, in place of --queue; one of the two has to be given
    #[arg(value_name = "QUEUE")]
    pub name: Option<QueueName>,

    /// Don't ask, on a terminal, before messages are lost
    #[arg(short, long)]
    pub yes: bool,

    /// What to print: a line for a person (text), or an object (json)
    #[arg(short, long, value_name = "FORM", default_value = "text")]
    pub output: ListForm,
}

/// What a received message looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputForm {
    /// The tutorial's line
    Text,
    /// The body, byte for byte
    Body,
    /// Everything, as a line of JSON
    Json,
}

/// What there is to do instead of a command: a text to print and the status to end with.
#[derive(Debug)]
pub struct Instead {
    /// `--help`, `--version`, or what is wrong with the command line.
    pub text: String,
    /// Whether it is what the user asked for, and so goes to standard output.
    pub asked_for: bool,
}

/// Reads the command line.
///
/// # Errors
/// [`Instead`] where there is nothing to run.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, Instead> {
    Cli::try_parse_from(arguments).map_err(|error| {
        let text = error.render().to_string();
        Instead {
            text: match text.strip_prefix("error: ") {
                Some(problem) => format!("hello-mq: {problem}"),
                None => text,
            },
            asked_for: !error.use_stderr(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_may_stand_before_or_after_the_command() {
        for line in [
            "hello-mq -q x send a",
            "hello-mq send -q x a",
            "hello-mq send a -q x",
        ] {
            let cli = parse(line.split(' ').map(OsString::from)).unwrap();
            assert_eq!(cli.common.queue, Some("x".parse().unwrap()), "{line}");
        }
    }
}
