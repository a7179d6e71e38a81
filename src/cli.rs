//! What can be typed: the source of `--help`, and of nothing else.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::message::ShortString;
use crate::output::Template;
use crate::topology::{Argument, ExchangeType, Milliseconds, Overflow, QueueType, Size};
use crate::values::{
    ConnectTimeout, Delimiter, Ending, Expiration, Header, Heartbeat, Host, Name, NewQueueName,
    QueueName, Rate, Span, StreamOffset, Target, Timestamp, VirtualHost,
};

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
   77  credentials, virtual host or permission refused
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

/// Options of every command.
#[derive(Args, Debug, Default)]
pub struct Common {
    /// The broker: amqp://USER:PASSWORD@HOST:PORT/VHOST [env: HELLO_MQ_URL, AMQP_URL]
    ///
    /// Reserved characters are percent-encoded (a '/' in the virtual host is %2F). What the URL
    /// leaves out is the default, but for user and password, which may then come from elsewhere.
    /// A password here is seen by everyone who can list processes: HELLO_MQ_PASSWORD is not.
    // A text here and a URL in the settings: clap's error would repeat it with its password.
    #[arg(
        short,
        long,
        global = true,
        help_heading = "Broker",
        value_name = "URL"
    )]
    pub url: Option<String>,

    /// The broker's host name or address; repeated, several, tried in order. A port of its own may
    /// follow each: HOST:PORT [default: localhost]
    #[arg(long, global = true, help_heading = "Broker", value_name = "HOST")]
    pub host: Vec<Host>,

    /// The broker's port [default: 5672]
    #[arg(long, global = true, help_heading = "Broker", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,

    /// The virtual host [default: /]
    #[arg(long, global = true, help_heading = "Broker", value_name = "NAME")]
    pub vhost: Option<VirtualHost>,

    /// The user's name; the password is taken from HELLO_MQ_PASSWORD, a URL or the configuration
    /// file [default: guest]
    #[arg(long, global = true, help_heading = "Broker", value_name = "NAME")]
    pub username: Option<String>,

    /// Give up when the connection is not open by then, such as 500ms or 10s [default: 10s]
    #[arg(long, global = true, help_heading = "Broker", value_name = "DURATION")]
    pub connect_timeout: Option<ConnectTimeout>,

    /// Wait this long for a broker that is not up yet, instead of failing at once
    #[arg(long, global = true, help_heading = "Broker", value_name = "DURATION")]
    pub wait: Option<Span>,

    /// Notice a dead broker after twice this time; 0s turns heartbeats off [default: 10s]
    #[arg(long, global = true, help_heading = "Broker", value_name = "DURATION")]
    pub heartbeat: Option<Heartbeat>,

    /// The queue [env: HELLO_MQ_QUEUE] [default: hello]
    #[arg(
        short,
        long,
        global = true,
        help_heading = "Queue",
        value_name = "NAME"
    )]
    pub queue: Option<QueueName>,

    /// The configuration file [env: HELLO_MQ_CONFIG] [default: hello-mq/config.toml in
    /// $XDG_CONFIG_HOME or ~/.config, else /etc/hello-mq/config.toml]
    #[arg(long, global = true, help_heading = "General", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Say more on standard error: the connection, each step (-vv), each frame (-vvv)
    #[arg(short, long, global = true, help_heading = "General", action = ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,

    /// Print data and errors only
    #[arg(long, global = true, help_heading = "General")]
    pub quiet: bool,
}

/// Options of `declare`.
#[derive(Args, Debug)]
pub struct Declare {
    /// The queue, in place of --queue; with '' the broker makes up a name, which is printed
    #[arg(value_name = "QUEUE")]
    pub name: Option<NewQueueName>,

    /// The queue (and the exchange, if one is declared) survives a restart of the broker
    #[arg(long)]
    pub durable: bool,

    /// The queue is deleted when its last consumer leaves (and the exchange, if one is declared, when
    /// its last binding goes)
    #[arg(long)]
    pub auto_delete: bool,

    /// The queue's arguments.
    #[command(flatten)]
    pub queue: QueueArguments,

    /// The exchange to declare, or to bind the queue to; without QUEUE and --bind, no queue is
    /// declared
    #[arg(short, long, value_name = "NAME", help_heading = "Exchange")]
    pub exchange: Option<Name>,

    /// How the exchange routes: direct, fanout, topic, headers, or a plugin's x-... With --bind and
    /// without a type, the exchange must be there already [default: direct]
    #[arg(
        long,
        value_name = "TYPE",
        help_heading = "Exchange",
        requires = "exchange"
    )]
    pub exchange_type: Option<ExchangeType>,

    /// Nobody can publish to the exchange; messages come from other exchanges
    #[arg(long, help_heading = "Exchange", requires = "exchange")]
    pub internal: bool,

    /// Where messages go that the exchange has no queue for
    #[arg(
        long,
        value_name = "NAME",
        help_heading = "Exchange",
        requires = "exchange"
    )]
    pub alternate_exchange: Option<Name>,

    /// Any other argument of the exchange, written as for --argument; may be repeated
    #[arg(
        long = "exchange-argument",
        value_name = "KEY=VALUE",
        help_heading = "Exchange",
        requires = "exchange"
    )]
    pub exchange_arguments: Vec<Argument>,

    /// Bind the queue to the exchange with this routing key; may be repeated
    #[arg(
        long,
        value_name = "ROUTING_KEY",
        help_heading = "Binding",
        requires = "exchange",
        allow_hyphen_values = true
    )]
    pub bind: Vec<Name>,

    /// Bind this exchange, in place of a queue, to the exchange
    #[arg(long, value_name = "NAME", help_heading = "Binding", requires_all = ["exchange", "bind"], conflicts_with = "name")]
    pub destination_exchange: Option<Name>,

    /// An argument of the bindings, written as for --argument; may be repeated
    #[arg(
        long = "bind-argument",
        value_name = "KEY=VALUE",
        help_heading = "Binding",
        requires = "bind"
    )]
    pub bind_arguments: Vec<Argument>,

    /// Change nothing: 0 if it is there, with the properties that are given if any are, 67 if it is
    /// missing, 76 if it is different
    #[arg(long, conflicts_with = "bind")]
    pub check: bool,

    /// Declare every [[exchanges]], [[queues]] and [[bindings]] of the configuration file
    #[arg(long, conflicts_with_all = ["name", "durable", "auto_delete", "QueueArguments", "exchange", "queue"])]
    pub all: bool,

    /// Only print the operations that would follow; no broker is needed
    #[arg(long)]
    pub explain: bool,

    /// What to print: a line for a person (text), or an object (json), for each thing declared
    #[arg(short, long, value_name = "FORM", default_value = "text")]
    pub output: ListForm,
}

/// Arguments of a queue.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Queue arguments")]
pub struct QueueArguments {
    /// classic, or replicated: quorum or stream, which are durable [default: the virtual host's]
    #[arg(long = "type", value_name = "TYPE", value_parser = words::<QueueType>(QueueType::NAMES))]
    pub kind: Option<QueueType>,

    /// Messages are dropped, or dead-lettered, after so long in the queue, such as 30s
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub message_ttl: Option<Milliseconds>,

    /// The queue is deleted when nobody has used it for so long
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub expires: Option<Milliseconds>,

    /// The most messages that the queue holds
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub max_length: Option<u32>,

    /// The most bytes of messages that the queue holds, such as 10MB or 64KiB
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub max_length_bytes: Option<Size>,

    /// What a full queue does: drop-head, reject-publish or reject-publish-dlx
    #[arg(long, value_name = "WHAT", value_parser = words::<Overflow>(Overflow::NAMES))]
    pub overflow: Option<Overflow>,

    /// Where messages go that are rejected, expire or don't fit; '' is the default exchange
    #[arg(long, value_name = "NAME")]
    pub dead_letter_exchange: Option<Name>,

    /// The routing key that they get [default: the one they have]
    #[arg(long, value_name = "KEY")]
    pub dead_letter_routing_key: Option<Name>,

    /// Messages with a higher priority leave first: 1 to 255, and few are better
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub max_priority: Option<u8>,

    /// A quorum queue drops, or dead-letters, a message that came back so many times
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub delivery_limit: Option<u32>,

    /// Of several consumers only one gets messages, until it leaves
    #[arg(long)]
    pub single_active_consumer: bool,

    /// Any other argument; may be repeated: KEY=VALUE, with a number, true or false taken as such, or
    /// KEY:=JSON for an exact type
    #[arg(long = "argument", value_name = "KEY=VALUE")]
    pub arguments: Vec<Argument>,
}

impl QueueArguments {
    /// Whether one is given.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.kind.is_some()
            || self.message_ttl.is_some()
            || self.expires.is_some()
            || self.max_length.is_some()
            || self.max_length_bytes.is_some()
            || self.overflow.is_some()
            || self.dead_letter_exchange.is_some()
            || self.dead_letter_routing_key.is_some()
            || self.max_priority.is_some()
            || self.delivery_limit.is_some()
            || self.single_active_consumer
            || !self.arguments.is_empty()
    }
}

/// One of these words, which the help and the completions list.
fn words<T>(names: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: std::str::FromStr<Err = String> + Clone + std::marker::Send + Sync + 'static,
{
    PossibleValuesParser::new(names).try_map(|name| name.parse::<T>())
}

/// How the things that are declared are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ListForm {
    /// A line each, for a person
    Text,
    /// An object of JSON each
    Json,
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
}

/// Options of `send`.
#[derive(Args, Debug)]
pub struct Send {
    /// A message each; '-' is standard input, and so is no MESSAGE at all; before one that begins with
    /// '-' put '--'
    #[arg(value_name = "MESSAGE")]
    pub messages: Vec<OsString>,

    /// Send this file's bytes as one message, after the MESSAGEs; '-' is standard input; may be
    /// repeated
    #[arg(short, long = "file", value_name = "FILE", help_heading = "Input")]
    pub files: Vec<PathBuf>,

    /// Each line of standard input, or of the files, is a message
    #[arg(short, long, help_heading = "Input", group = "form")]
    pub lines: bool,

    /// As --lines, with NUL bytes between the messages, as of find -print0
    #[arg(short = '0', long, help_heading = "Input", group = "form")]
    pub null: bool,

    /// As --lines, with these bytes between the messages: \n, \t, \0 and \xNN are understood
    #[arg(
        short = 'D',
        long,
        value_name = "D",
        help_heading = "Input",
        group = "form",
        allow_hyphen_values = true
    )]
    pub delimiter: Option<Delimiter>,

    /// As --lines, each a JSON object with payload, properties, exchange and routing_key, as
    /// 'receive -o json' prints them; options fill in what it leaves out
    #[arg(long, help_heading = "Input", group = "form")]
    pub jsonl: bool,

    /// Send all that N times
    #[arg(short, long, value_name = "N", help_heading = "Input", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,

    /// Send at most so many messages a second
    #[arg(long, value_name = "N", help_heading = "Input")]
    pub rate: Option<Rate>,

    /// The exchange [default: the default exchange]
    #[arg(short, long, value_name = "NAME", help_heading = "Destination")]
    pub exchange: Option<Name>,

    /// The routing key [default: the queue's name for the default exchange, else empty]
    ///
    /// With it, or with --exchange, no queue is declared.
    #[arg(short, long, value_name = "KEY", help_heading = "Destination")]
    pub routing_key: Option<Name>,

    /// It is no error if no queue takes a message
    #[arg(long, help_heading = "Destination")]
    pub allow_unroutable: bool,

    /// The messages' properties.
    #[command(flatten)]
    pub properties: Properties,

    /// The messages are requests: wait so long for the next reply, and print each
    ///
    /// Each request has a reply-to and a correlation-id of its own (RabbitMQ's direct reply-to).
    /// 'hello-mq receive --reply -- COMMAND' answers.
    #[arg(
        long,
        value_name = "DURATION",
        help_heading = "Reply",
        conflicts_with = "reply_to"
    )]
    pub reply_timeout: Option<Span>,

    /// What to print of a reply, as of 'receive': text, body or json [default: text]
    #[arg(
        short,
        long,
        value_name = "FORM",
        help_heading = "Reply",
        requires = "reply_timeout"
    )]
    pub output: Option<OutputForm>,

    /// Print each reply so, as 'receive --format' does
    #[arg(
        long,
        value_name = "TEMPLATE",
        help_heading = "Reply",
        allow_hyphen_values = true,
        requires = "reply_timeout",
        conflicts_with = "output"
    )]
    pub format: Option<Template>,

    /// Don't declare the queue first
    #[arg(long)]
    pub no_declare: bool,

    /// The broker keeps the messages on disk: in a durable queue they survive its restart
    #[arg(long, help_heading = "Properties")]
    pub persistent: bool,

    /// Give up when the broker confirms nothing for so long [default: 60s]
    #[arg(long, value_name = "DURATION")]
    pub confirm_timeout: Option<Span>,

    /// Try so long to get a lost connection back, and then send again what is not confirmed; 0s
    /// for not at all [default: 30s]
    #[arg(long, value_name = "DURATION")]
    pub retry_for: Option<Span>,
}

/// AMQP's properties of a message.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Properties")]
pub struct Properties {
    /// A header: 'KEY: VALUE' is text, 'KEY:=JSON' any other type; may be repeated
    #[arg(short = 'H', long = "header", value_name = "KEY: VALUE")]
    pub headers: Vec<Header>,

    /// The body's MIME type, such as application/json
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<ShortString>,

    /// The body's encoding, such as gzip
    #[arg(long, value_name = "ENCODING")]
    pub content_encoding: Option<ShortString>,

    /// 0 to 255, for a queue with priorities
    #[arg(long, value_name = "N")]
    pub priority: Option<u8>,

    /// Drop the message when it has waited so long in a queue, such as 30s
    #[arg(long, value_name = "DURATION")]
    pub expiration: Option<Expiration>,

    /// What a reply belongs to
    #[arg(long, value_name = "ID")]
    pub correlation_id: Option<ShortString>,

    /// The queue for replies
    #[arg(long, value_name = "QUEUE")]
    pub reply_to: Option<ShortString>,

    /// The message's name [default: one of its own for each]
    #[arg(long, value_name = "ID")]
    pub message_id: Option<ShortString>,

    /// The message's type
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<ShortString>,

    /// The sending user, which the broker checks
    #[arg(long, value_name = "NAME")]
    pub user_id: Option<ShortString>,

    /// The sending application
    #[arg(long, value_name = "NAME")]
    pub app_id: Option<ShortString>,

    /// When the message was made: 'now', seconds since 1970, or like 2025-12-31T23:59:59Z
    #[arg(long, value_name = "TIME")]
    pub timestamp: Option<Timestamp>,
}

/// Options of `receive`.
#[derive(Args, Debug)]
pub struct Receive {
    /// The queue, in place of --queue
    #[arg(value_name = "QUEUE")]
    pub name: Option<QueueName>,

    /// Stop after N messages; exactly N are taken from the queue
    #[arg(short, long, value_name = "N", help_heading = "End", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,

    /// Stop after this time in all
    #[arg(long, value_name = "DURATION", help_heading = "End")]
    pub timeout: Option<Span>,

    /// Stop when no message has come for so long
    #[arg(long, value_name = "DURATION", help_heading = "End")]
    pub idle_timeout: Option<Span>,

    /// Stop when the queue is empty
    #[arg(long, help_heading = "End", conflicts_with = "stream_offset")]
    pub drain: bool,

    /// End when the connection is lost, instead of connecting again
    #[arg(long, help_heading = "End")]
    pub no_reconnect: bool,

    /// What to print of a message: the tutorial's line (text), its body and nothing else (body), or
    /// everything as a line of JSON (json), which 'send --jsonl' takes [default: text]
    #[arg(short, long, value_name = "FORM", help_heading = "Output")]
    pub output: Option<OutputForm>,

    /// Put these bytes behind each body or JSON object: \n, \t, \0 and \xNN are understood, and
    /// '' is nothing [default: \n]
    #[arg(
        short = 'D',
        long,
        value_name = "D",
        help_heading = "Output",
        group = "end",
        allow_hyphen_values = true
    )]
    pub delimiter: Option<Ending>,

    /// Put a NUL byte behind each body or JSON object
    #[arg(short = '0', long, help_heading = "Output", group = "end")]
    pub null: bool,

    /// Print each message so: %s body, %S its size, %x body in hex, %e exchange, %r routing key, %h
    /// headers, %j JSON, %T time of receipt, %{NAME} a property, %{headers.KEY} a header, %% '%';
    /// \n, \t, \0 and \xNN are understood, and nothing is added
    #[arg(long, value_name = "TEMPLATE", help_heading = "Output", allow_hyphen_values = true, conflicts_with_all = ["output", "end"])]
    pub format: Option<Template>,

    /// Save each message as a file of its own in DIR, numbered in the order of arrival, and print
    /// the file's path; its body, unless --output json or --format say otherwise
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub save: Option<PathBuf>,

    /// Publish each message to an exchange with a routing key (':QUEUE' for a queue) instead of
    /// printing it, and acknowledge it when the broker has confirmed it there
    ///
    /// Body, properties and headers stay as they are. A message that no queue takes, or that is
    /// refused for good, ends it and stays where it was.
    #[arg(long, value_name = "EXCHANGE:ROUTING_KEY", help_heading = "Output", conflicts_with_all = ["output", "end", "format", "save", "peek", "auto_ack"])]
    pub forward_to: Option<Target>,

    /// Run this command for each message instead of printing it: the body is its standard input,
    /// properties are in its environment (HELLO_MQ_...). Its exit status decides: 0 acknowledges the
    /// message, 3 rejects it, 4 has it delivered again later, and of anything else --on-failure says
    #[arg(value_name = "COMMAND", last = true, conflicts_with_all = ["output", "end", "format", "save", "peek", "auto_ack", "forward_to"])]
    pub command: Vec<OsString>,

    /// Send what COMMAND prints to the message's reply-to, with its correlation-id, and acknowledge
    /// the message when the broker has confirmed that
    #[arg(long, help_heading = "Command", requires = "command")]
    pub reply: bool,

    /// Run so many commands at a time [default: 1]
    #[arg(long, value_name = "N", help_heading = "Command", requires = "command", value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: Option<u16>,

    /// A command that takes longer has failed, and is ended with all its processes
    #[arg(
        long,
        value_name = "DURATION",
        help_heading = "Command",
        requires = "command"
    )]
    pub command_timeout: Option<Span>,

    /// What becomes of a message whose command fails: it is delivered again later (requeue), is
    /// dead-lettered or dropped (reject), or goes back at once and hello-mq ends with 1 (stop)
    /// [default: requeue]
    #[arg(
        long,
        value_name = "WHAT",
        help_heading = "Command",
        requires = "command"
    )]
    pub on_failure: Option<OnFailure>,

    /// Reject a message that was delivered again so many times [default: 10]
    #[arg(long, value_name = "N", help_heading = "Command", requires = "command")]
    pub max_redeliveries: Option<u32>,

    /// Show the messages that are in the queue, and leave them there
    ///
    /// They are given back when the last is printed; until then no one else gets them, and then
    /// they are marked as redelivered. A quorum queue counts it as an attempt at delivery.
    #[arg(long, help_heading = "Source", conflicts_with_all = ["auto_ack", "drain", "idle_timeout", "exclusive", "priority", "stream_offset", "exchange"])]
    pub peek: bool,

    /// Listen in on this exchange, through a temporary queue, instead of receiving from a queue
    #[arg(short, long, value_name = "NAME", help_heading = "Source")]
    pub exchange: Option<Name>,

    /// With --exchange: messages with this routing key; may be repeated [default: #, which is
    /// everything but for a direct exchange]
    #[arg(
        short,
        long,
        value_name = "KEY",
        help_heading = "Source",
        requires = "exchange"
    )]
    pub routing_key: Vec<Name>,

    /// Fail if the queue has another consumer, and let none come
    #[arg(long, help_heading = "Source")]
    pub exclusive: bool,

    /// Consumers with a higher priority are served first
    #[arg(
        long,
        value_name = "N",
        help_heading = "Source",
        allow_negative_numbers = true
    )]
    pub priority: Option<i32>,

    /// Where to begin in a stream: first, last, next, an offset, or a time like
    /// 2025-12-31T23:59:59Z [default: next]
    #[arg(long, value_name = "OFFSET", help_heading = "Source")]
    pub stream_offset: Option<StreamOffset>,

    /// Let the broker forget each message as soon as it has sent it
    ///
    /// As auto_ack=True in the tutorial. What is on its way when hello-mq or the connection dies
    /// is lost. Without it, a message leaves the queue only when it has been written.
    #[arg(long)]
    pub auto_ack: bool,

    /// How many messages may be on their way, unacknowledged [default: 256]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub prefetch: Option<u16>,

    /// Don't declare the queue first
    #[arg(long)]
    pub no_declare: bool,
}

/// What becomes of a message whose command fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnFailure {
    /// It is delivered again, after a while
    Requeue,
    /// It is dead-lettered, or dropped
    Reject,
    /// It is given back, and hello-mq ends
    Stop,
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
