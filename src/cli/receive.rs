//! Options of `receive`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};

use super::{Exchanges, MessageFormat, Selection, encoding_parser};
use crate::definitions::ReceiveOptions;
use crate::expression::Expression;
use crate::message::{ContentEncoding, Part};
use crate::output::Template;
use crate::values::{OutputDelimiter, QueueName, Span, StreamOffset, Target};

/// The options that an option for publishing can't be combined with. It has to name them although they
/// conflict with the option that it requires: clap does not miss that one then.
const NOT_PUBLISHING: [&str; 7] = [
    "output", "end", "format", "save", "peek", "auto_ack", "command",
];

/// The options that an option for COMMAND can't be combined with, which it has to name for the same reason.
const NOT_RUNNING: [&str; 7] = [
    "output",
    "end",
    "format",
    "save",
    "peek",
    "auto_ack",
    "publishing",
];

/// The options with which nothing is printed.
const NOT_PRINTING: [&str; 2] = ["publishing", "command"];

/// Options of `receive`.
#[derive(Args, Debug, Default)]
pub struct Receive {
    /// The queue, instead of --queue
    #[arg(value_name = "QUEUE")]
    pub name: Option<QueueName>,

    /// Stop after N messages, and take exactly N from the queue
    #[arg(short, long, value_name = "N", help_heading = "Ending", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,

    /// Stop when the queue is empty; for a stream, stop after the message that was the last one
    /// at the start
    #[arg(long, help_heading = "Ending")]
    pub drain: bool,

    /// The choice of messages.
    #[command(flatten)]
    pub selection: Selection,

    /// Change each message by a jq expression over its JSON form, whose result is the message that is
    /// printed, saved, forwarded or given to COMMAND; if it fails or is no message, the message stays in
    /// the queue
    #[arg(
        long,
        value_name = "EXPRESSION",
        help_heading = "Selection",
        allow_hyphen_values = true
    )]
    pub map: Option<Expression>,

    /// Drop a message for which --map has no result, instead of leaving it in the queue
    #[arg(
        long,
        help_heading = "Selection",
        requires = "map",
        hide_short_help = true
    )]
    pub drop_empty: bool,

    /// The output format: the tutorial's line (text), the body alone (body), or the whole message
    /// as a line of JSON for 'send --jsonl' (json) [default: text]
    #[arg(short, long, value_name = "FORM", help_heading = "Output")]
    pub output: Option<MessageFormat>,

    /// Write these bytes after each body or JSON object; \n, \r, \t, \0, \\ and \xNN are supported,
    /// and '' writes nothing [default: \n]
    #[arg(
        short = 'D',
        long,
        value_name = "D",
        help_heading = "Output",
        group = "end",
        allow_hyphen_values = true,
        hide_short_help = true
    )]
    pub delimiter: Option<OutputDelimiter>,

    /// Write a NUL byte after each body or JSON object
    #[arg(
        short = '0',
        long,
        help_heading = "Output",
        group = "end",
        hide_short_help = true
    )]
    pub null: bool,

    /// Print each message with this template: %s body, %S its size, %x body in hex, %e exchange, %r
    /// routing key, %h headers, %j JSON, %T time of receipt, %{NAME} a property, %{headers.KEY} a
    /// header, %% '%'; \n, \r, \t, \0, \\ and \xNN are supported, and no line break is added
    #[arg(long, value_name = "TEMPLATE", help_heading = "Output", allow_hyphen_values = true, conflicts_with_all = ["output", "end"])]
    pub format: Option<Template>,

    /// With --format on a terminal, print exchange, routing key, properties and headers without
    /// escaping control characters
    #[arg(
        long,
        help_heading = "Output",
        requires = "format",
        conflicts_with_all = NOT_PRINTING,
        hide_short_help = true
    )]
    pub raw: bool,

    /// With --output json, add the decoded value of a body that is encoded in AMQP 1.0 (type
    /// amqp-1.0), as amqp10_value
    #[arg(
        long,
        help_heading = "Output",
        requires = "output",
        conflicts_with_all = NOT_PRINTING,
        hide_short_help = true
    )]
    pub decode_amqp10: bool,

    /// Decode a body whose content_encoding is gzip, deflate or zstd; with a value, also any other
    /// body that begins like one in that encoding
    #[arg(
        long,
        value_name = "ENCODING",
        help_heading = "Output",
        num_args = 0..=1,
        require_equals = true,
        value_parser = encoding_parser(),
        hide_short_help = true
    )]
    pub decode: Option<Option<ContentEncoding>>,

    /// Save each message to its own file in DIR, numbered in the order of arrival, and print the
    /// path; the file holds the body, or the output of --output json or --format
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = "Output")]
    pub save: Option<PathBuf>,

    /// Publish each message to an exchange with a routing key (':QUEUE' for a queue) instead of
    /// printing it, and acknowledge it when the broker has confirmed it
    ///
    /// Body, properties and headers are unchanged, except that the headers CC and BCC are left out,
    /// for which the broker would send further copies. A message that can't be routed to a queue or
    /// is rejected permanently ends receive, and stays in its queue.
    #[arg(long, value_name = "EXCHANGE:ROUTING_KEY", help_heading = "Output", group = "publishing", conflicts_with_all = NOT_PUBLISHING)]
    pub forward_to: Option<Target>,

    /// Publish each dead letter to the exchange and the routing keys of its first death (or its last
    /// one: --replay=last) as its header x-death names them, and acknowledge it when the broker has
    /// confirmed it
    ///
    /// Body and properties are unchanged. The headers that RabbitMQ added are left out, so that the
    /// message can be dead-lettered again. A message without x-death stays in its queue. With
    /// --drain, only the messages are replayed that are in the queue at the start.
    #[arg(long, value_name = "DEATH", num_args = 0..=1, require_equals = true, default_missing_value = "first", help_heading = "Output", group = "publishing", conflicts_with_all = NOT_PUBLISHING, conflicts_with = "exchange")]
    pub replay: Option<Death>,

    /// With --forward-to or --replay, print where the messages would go, and how many; publish none
    /// and leave all in the queue
    ///
    /// They are returned at the end, as with --peek, which on a quorum queue may use up one delivery
    /// of each.
    #[arg(long, help_heading = "Output", requires = "publishing", conflicts_with_all = NOT_PUBLISHING, conflicts_with = "exchange")]
    pub dry_run: bool,

    /// Publish to the broker of [profiles.NAME] in the configuration file
    ///
    /// The settings of that broker are those that '--profile NAME' selects. Options and environment
    /// variables concern only the broker from which messages are received.
    #[arg(
        long,
        value_name = "NAME",
        help_heading = "Output",
        requires = "publishing",
        conflicts_with = "to_url",
        conflicts_with_all = NOT_PUBLISHING,
        hide_short_help = true
    )]
    pub to_profile: Option<String>,

    /// Publish to the broker at this URL
    ///
    /// Everything that the URL omits has its default: nothing is taken from the configuration file
    /// or the environment. A password given here is visible in the process list; use --to-profile
    /// instead.
    // This is not a URL yet, because clap's errors repeat invalid values, with the password.
    #[arg(
        long,
        value_name = "URL",
        help_heading = "Output",
        requires = "publishing",
        conflicts_with_all = NOT_PUBLISHING,
        hide_short_help = true
    )]
    pub to_url: Option<String>,

    /// Do not publish these properties, named as in JSON: for example user_id, or headers.KEY for
    /// one header; may be repeated
    #[arg(
        long,
        value_name = "PROPERTY,...",
        help_heading = "Output",
        requires = "publishing",
        conflicts_with_all = NOT_PUBLISHING,
        value_delimiter = ',',
        hide_short_help = true
    )]
    pub without: Vec<Part>,

    /// Publish these properties, which are left out by default: headers.CC and headers.BCC, and with
    /// --replay user_id, headers.x-death and the like
    #[arg(
        long,
        value_name = "PROPERTY,...",
        help_heading = "Output",
        requires = "publishing",
        conflicts_with_all = NOT_PUBLISHING,
        value_delimiter = ',',
        hide_short_help = true
    )]
    pub keep: Vec<Part>,

    /// Print the number of messages, the number of bytes and the rate at the end
    ///
    /// Only messages that were written and acknowledged count (or confirmed, with --forward-to or --replay).
    /// The time runs from the arrival of the first message to the acknowledgement of the last.
    #[arg(long, help_heading = "Output")]
    pub stats: bool,

    /// Run this command for each message instead of printing it, with the body on standard input
    /// and the properties in the environment (HELLO_MQ_...); exit status 0 acknowledges the
    /// message, 3 rejects it, 4 returns it to the queue for later, and any other is a failure (see
    /// --on-failure)
    #[arg(value_name = "COMMAND", last = true, conflicts_with_all = NOT_RUNNING)]
    pub command: Vec<OsString>,

    /// Send the output of COMMAND to the message's reply-to, with its correlation-id, and
    /// acknowledge the message when the broker has confirmed the reply
    #[arg(
        long,
        help_heading = "Command",
        requires = "command",
        conflicts_with_all = NOT_RUNNING,
        hide_short_help = true
    )]
    pub reply: bool,

    /// Run up to N commands at a time [default: 1]
    #[arg(long, value_name = "N", help_heading = "Command", requires = "command", conflicts_with_all = NOT_RUNNING, value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: Option<u16>,

    /// Kill a command and all its processes after this time, and treat it as failed
    #[arg(
        long,
        value_name = "DURATION",
        help_heading = "Command",
        requires = "command",
        conflicts_with_all = NOT_RUNNING,
        hide_short_help = true
    )]
    pub command_timeout: Option<Span>,

    /// The handling of a message whose command fails: deliver it again later (requeue),
    /// dead-letter or drop it (reject), or return it at once and exit with status 1 (stop)
    /// [default: requeue]
    #[arg(
        long,
        value_name = "WHAT",
        help_heading = "Command",
        requires = "command",
        conflicts_with_all = NOT_RUNNING,
        hide_short_help = true
    )]
    pub on_failure: Option<OnFailure>,

    /// Reject a message that has been redelivered N times [default: 10]
    #[arg(
        long,
        value_name = "N",
        help_heading = "Command",
        requires = "command",
        conflicts_with_all = NOT_RUNNING,
        hide_short_help = true
    )]
    pub max_redeliveries: Option<u32>,

    /// Print the messages that are in the queue, and leave them there
    ///
    /// They are returned when the last one is printed. Until then no other consumer gets them;
    /// afterwards they are marked as redelivered. Up to RabbitMQ 4.2, each peek uses up one
    /// delivery of each message in a quorum queue; a message at its delivery limit is moved to the
    /// end of the queue, as a new message.
    #[arg(long, help_heading = "Queue", conflicts_with_all = ["auto_ack", "drain", "idle_timeout", "exclusive", "priority", "stream_offset", "exchange"])]
    pub peek: bool,

    /// The exchanges to listen to, instead of a queue.
    #[command(flatten)]
    pub exchanges: Exchanges,

    /// Fail if the queue has another consumer, and allow no others; for classic queues
    #[arg(long, help_heading = "Queue", hide_short_help = true)]
    pub exclusive: bool,

    /// The priority of this consumer; those with a higher one get messages first
    #[arg(
        long,
        value_name = "N",
        help_heading = "Queue",
        allow_negative_numbers = true,
        hide_short_help = true
    )]
    pub priority: Option<i32>,

    /// Where to start in a stream: first, last, next, an offset, or a time like
    /// 2025-12-31T23:59:59Z [default: next, or first with --drain]
    #[arg(
        long,
        value_name = "OFFSET",
        help_heading = "Queue",
        hide_short_help = true
    )]
    pub stream_offset: Option<StreamOffset>,

    /// The options that have a default in the configuration file.
    #[command(flatten)]
    pub settings: ReceiveOptions,
}

/// The death of a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Death {
    /// The first one
    First,
    /// The most recent one
    Last,
}

/// The ways to deal with a message whose command fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnFailure {
    /// Deliver it again later
    Requeue,
    /// Dead-letter or drop it
    Reject,
    /// Return it to the queue, and exit
    Stop,
}
