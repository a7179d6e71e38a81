//! The command line. Help, manual and completions are made from it.

mod common;
mod declare;
mod early_exit;
mod exchanges;
mod receive;
pub mod reference;
mod send;

use std::ffi::OsString;

use clap::builder::{PossibleValuesParser, StyledStr, TypedValueParser};
use clap::{Arg, ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

pub use common::{Color, Common};
pub use declare::{Declare, ListFormat, QueueArguments};
pub use early_exit::EarlyExit;
pub use exchanges::Exchanges;
pub use receive::{Death, OnFailure, Receive};
pub use send::{PropertyOptions, Send};

use crate::definitions::{Broker, Definition, ReceiveSettings, SendSettings, Tls};
use crate::expression::Expression;
use crate::message::ContentEncoding;
use crate::values::{Name, QueueName};

/// Send messages to RabbitMQ, and receive them.
#[derive(Debug, Parser)]
#[command(
    name = "hello-mq",
    version,
    styles = early_exit::STYLES,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    disable_help_flag = true,
    disable_version_flag = true,
    help_template = reference::TEMPLATE,
    before_help = reference::EXAMPLES,
    after_help = "'hello-mq COMMAND -h' shows a command's options, 'hello-mq man COMMAND' its manual.",
    after_long_help = reference::exit_statuses()
)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,

    /// The options of every command.
    #[command(flatten)]
    pub common: Common,

    /// Print the version
    #[arg(short = 'V', long, help_heading = "General", action = ArgAction::Version)]
    pub version: Option<bool>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// A command that talks to a broker.
    #[command(flatten)]
    Verb(Verb),
    /// Print the completion script for a shell
    #[command(
        help_template = reference::PLAIN_TEMPLATE,
        before_help = reference::COMPLETIONS_EXAMPLES,
        after_help = "The completions include the profiles, queues and exchanges of your configuration file."
    )]
    Completions(Completions),
    /// Show a page of the manual, or print its source if standard output is not a terminal
    #[command(help_template = reference::PLAIN_TEMPLATE, before_help = reference::MAN_EXAMPLES)]
    Man(Man),
}

/// The commands that talk to a broker.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Declare a queue, an exchange or bindings, with exactly the given properties
    #[command(
        help_template = reference::TEMPLATE,
        before_help = reference::DECLARE_EXAMPLES,
        after_help = "'hello-mq declare --help' shows all options, 'hello-mq man declare' the manual.",
        after_long_help = reference::exit_statuses()
    )]
    Declare(Box<Declare>),
    /// Send messages to a queue, and wait until the broker has confirmed each
    #[command(
        help_template = reference::TEMPLATE,
        before_help = reference::SEND_EXAMPLES,
        after_help = "'hello-mq send --help' shows all options, 'hello-mq man send' the manual.",
        after_long_help = reference::exit_statuses()
    )]
    Send(Box<Send>),
    /// Print the messages of a queue as they arrive, until Ctrl+C
    #[command(
        help_template = reference::TEMPLATE,
        before_help = reference::RECEIVE_EXAMPLES,
        after_help = "'hello-mq receive --help' shows all options, 'hello-mq man receive' the manual.",
        after_long_help = reference::exit_statuses()
    )]
    Receive(Box<Receive>),
    /// Delete a queue or an exchange
    #[command(
        help_template = reference::TEMPLATE,
        before_help = reference::DELETE_EXAMPLES,
        after_help = "'hello-mq delete --help' shows all options, 'hello-mq man delete' the manual.",
        after_long_help = reference::exit_statuses()
    )]
    Delete(Delete),
    /// Remove the ready messages from a queue
    #[command(
        help_template = reference::TEMPLATE,
        before_help = reference::PURGE_EXAMPLES,
        after_help = "'hello-mq purge --help' shows all options, 'hello-mq man purge' the manual.",
        after_long_help = reference::exit_statuses()
    )]
    Purge(Purge),
}

/// Options of `completions`.
#[derive(Args, Debug)]
pub struct Completions {
    /// The shell: bash, zsh, fish, powershell or elvish
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// Shells that complete command lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// A file for bash-completion
    Bash,
    /// An autoloaded function
    Zsh,
    /// A file in the directory of completions
    Fish,
    /// A part of the profile
    #[value(name = "powershell")]
    PowerShell,
    /// A part of rc.elv
    Elvish,
}

/// Options of `man`.
#[derive(Args, Debug)]
pub struct Man {
    /// The page: hello-mq, a command (declare, send, receive, delete, purge, completions, man), or
    /// hello-mq.toml for the configuration file [default: hello-mq]
    #[arg(value_name = "PAGE")]
    pub page: Option<Page>,
}

/// The pages of the manual. The page of a command has its full name as an alias.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum Page {
    HelloMq,
    #[value(alias = "hello-mq-declare")]
    Declare,
    #[value(alias = "hello-mq-send")]
    Send,
    #[value(alias = "hello-mq-receive")]
    Receive,
    #[value(alias = "hello-mq-delete")]
    Delete,
    #[value(alias = "hello-mq-purge")]
    Purge,
    #[value(alias = "hello-mq-completions")]
    Completions,
    #[value(alias = "hello-mq-man")]
    Man,
    #[value(name = "hello-mq.toml")]
    Configuration,
}

/// Options of `delete`.
#[derive(Args, Debug)]
pub struct Delete {
    /// The queue, instead of --queue; one of the two is required
    #[arg(value_name = "QUEUE")]
    pub name: Option<QueueName>,

    /// Delete this exchange, instead of a queue
    #[arg(short, long, value_name = "NAME", help_heading = "What to do", conflicts_with_all = ["name", "queue", "if_empty"])]
    pub exchange: Option<Name>,

    /// Fail if the queue has messages
    #[arg(long, help_heading = "What to do")]
    pub if_empty: bool,

    /// Fail if the queue has consumers, or the exchange bindings
    #[arg(long, help_heading = "What to do")]
    pub if_unused: bool,

    /// Do not ask for confirmation on a terminal if messages would be lost
    #[arg(short, long, help_heading = "What to do")]
    pub yes: bool,

    /// The output format: a line of text (text) or a JSON object (json)
    #[arg(
        short,
        long,
        value_name = "FORM",
        help_heading = "Output",
        default_value = "text"
    )]
    pub output: ListFormat,
}

/// The choice of messages.
#[derive(Args, Clone, Debug, Default)]
pub struct Selection {
    /// Take only the messages for which this jq expression over their JSON form (as 'receive -o json'
    /// prints it) is neither false nor null; the others stay in the queue, in their order
    ///
    /// They are held unacknowledged until the end, so that each is looked at once, and are then returned,
    /// marked as redelivered. Up to RabbitMQ 4.2, that uses up one delivery of each in a quorum queue, as
    /// --peek does. A message for which the expression fails stays, too.
    #[arg(
        id = "where",
        long = "where",
        value_name = "EXPRESSION",
        help_heading = "Selection",
        allow_hyphen_values = true
    )]
    pub filter: Option<Expression>,

    /// Stop when N messages that are not taken are held [default: 100000]
    #[arg(long, value_name = "N", help_heading = "Selection", value_parser = clap::value_parser!(u64).range(1..), hide_short_help = true)]
    pub max_held: Option<u64>,
}

/// Options of `purge`.
#[derive(Args, Debug)]
pub struct Purge {
    /// The queue, instead of --queue; one of the two is required
    #[arg(value_name = "QUEUE")]
    pub name: Option<QueueName>,

    /// The choice of messages.
    #[command(flatten)]
    pub selection: Selection,

    /// With --where, decode a body whose content_encoding is gzip, deflate or zstd; with a value, also
    /// any other body that begins like one in that encoding
    #[arg(
        long,
        value_name = "ENCODING",
        help_heading = "Selection",
        requires = "where",
        num_args = 0..=1,
        require_equals = true,
        value_parser = encoding_parser(),
        hide_short_help = true
    )]
    pub decode: Option<Option<ContentEncoding>>,

    /// Do not ask for confirmation on a terminal if messages would be lost
    #[arg(short, long, help_heading = "What to do")]
    pub yes: bool,

    /// The output format: a line of text (text) or a JSON object (json)
    #[arg(
        short,
        long,
        value_name = "FORM",
        help_heading = "Output",
        default_value = "text"
    )]
    pub output: ListFormat,
}

/// Returns the parser of the name of an encoding, which completion knows.
fn encoding_parser() -> impl TypedValueParser<Value = ContentEncoding> {
    PossibleValuesParser::new(ContentEncoding::NAMES).try_map(|name| name.parse())
}

/// The formats of a received message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MessageFormat {
    /// The tutorial's line
    Text,
    /// The body, byte for byte
    Body,
    /// The whole message as a line of JSON
    Json,
}

/// Returns the definition of the command line. The help of each setting shows its default.
#[must_use]
pub fn command() -> clap::Command {
    let shared = Broker::DEFINITIONS.iter().chain(Tls::DEFINITIONS);
    with_defaults(Cli::command(), shared).mut_subcommands(|command| match command.get_name() {
        "send" => with_defaults(command, SendSettings::DEFINITIONS),
        "receive" => with_defaults(command, ReceiveSettings::DEFINITIONS),
        _ => command,
    })
}

fn with_defaults<'d>(
    command: clap::Command,
    definitions: impl IntoIterator<Item = &'d Definition>,
) -> clap::Command {
    definitions
        .into_iter()
        .fold(command, |command, definition| {
            let Some(default) = (definition.default)() else {
                return command;
            };
            command.mut_arg(definition.key, |option| with_default(option, &default))
        })
}

/// Adds the default to the summary of an option.
fn with_default(option: Arg, default: &str) -> Arg {
    let shown = |help: &StyledStr| {
        let help = help.to_string();
        let (summary, rest) = help.split_at(help.find("\n\n").unwrap_or(help.len()));
        format!("{summary} [default: {default}]{rest}")
    };
    let long_help = option.get_long_help().map(shown);
    let help = option.get_help().map(shown).unwrap_or_default();
    match long_help {
        Some(long_help) => option.help(help).long_help(long_help),
        None => option.help(help),
    }
}

/// Reads the command line.
///
/// # Errors
/// [`EarlyExit`] if there is no command to run.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, EarlyExit> {
    let arguments: Vec<_> = arguments.into_iter().collect();
    let mut command = command();
    command
        .try_get_matches_from_mut(&arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches))
        .map_err(|error| EarlyExit::new(&error, &arguments))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn a_page_is_found_by_its_whole_name() {
        for page in Page::value_variants() {
            let name = page.to_possible_value().unwrap().get_name().to_owned();
            let whole = match *page {
                Page::HelloMq | Page::Configuration => name.clone(),
                _ => format!("hello-mq-{name}"),
            };
            assert_eq!(Page::from_str(&name, false), Ok(*page));
            assert_eq!(Page::from_str(&whole, false), Ok(*page));
        }
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
