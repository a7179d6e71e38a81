//! Options of `receive`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};

use super::MessageFormat;
use crate::definitions::ReceiveOptions;
use crate::message::Part;
use crate::output::Template;
use crate::values::{Name, OutputDelimiter, QueueName, Span, StreamOffset, Target};

/// Options of `receive`.
#[derive(Args, Debug)]
pub struct Receive {
    /// The queue, in place of --queue
    #[arg(value_name = "QUEUE")]
    pub name: Option<QueueName>,

    /// Stop after N messages; exactly N are taken from the queue
    #[arg(short, long, value_name = "N", help_heading = "Ending", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,

    /// Stop when the queue is empty, or at what is the end of a stream when it begins
    #[arg(long, help_heading = "Ending")]
    pub drain: bool,

    /// What to print of a message: the tutorial's line (text), its body and nothing else (body), or
    /// everything as a line of JSON (json), which 'send --jsonl' takes [default: text]
    #[arg(short, long, value_name = "FORM", help_heading = "Output")]
    pub output: Option<MessageFormat>,

    /// Put these bytes behind each body or JSON object: \n, \t, \0 and \xNN are understood, and
    /// '' is nothing [default: \n]
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

    /// Put a NUL byte behind each body or JSON object
    #[arg(
        short = '0',
        long,
        help_heading = "Output",
        group = "end",
        hide_short_help = true
    )]
    pub null: bool,

    /// Print each message so: %s body, %S its size, %x body in hex, %e exchange, %r routing key, %h
    /// headers, %j JSON, %T time of receipt, %{NAME} a property, %{headers.KEY} a header, %% '%';
    /// \n, \t, \0 and \xNN are understood, and nothing is added
    #[arg(long, value_name = "TEMPLATE", help_heading = "Output", allow_hyphen_values = true, conflicts_with_all = ["output", "end"])]
    pub format: Option<Template>,

    /// With --format on a terminal, print exchange, routing key, properties and headers as they are,
    /// instead of escaping what could move the cursor
    #[arg(
        long,
        help_heading = "Output",
        requires = "format",
        hide_short_help = true
    )]
    pub raw: bool,

    /// With --output json, add what the body of a message from AMQP 1.0 holds (type amqp-1.0), as
    /// amqp10_value
    #[arg(
        long,
        help_heading = "Output",
        requires = "output",
        hide_short_help = true
    )]
    pub decode_amqp10: bool,

    /// Save each message as a file of its own in DIR, numbered in the order of arrival, and print
    /// the file's path; its body, unless --output json or --format say otherwise
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = "Output")]
    pub save: Option<PathBuf>,

    /// Publish each message to an exchange with a routing key (':QUEUE' for a queue) instead of
    /// printing it, and acknowledge it when the broker has confirmed it there
    ///
    /// Body, properties and headers stay as they are, but for the headers CC and BCC, by which the
    /// broker would send copies elsewhere. A message that no queue takes, or that is refused for
    /// good, ends it and stays where it was.
    #[arg(long, value_name = "EXCHANGE:ROUTING_KEY", help_heading = "Output", conflicts_with_all = ["output", "end", "format", "save", "peek", "auto_ack"])]
    pub forward_to: Option<Target>,

    /// Leave these properties out of what is forwarded, by their names in JSON: user_id, for instance,
    /// or headers.KEY for one header; may be repeated
    #[arg(
        long,
        value_name = "PROPERTY,...",
        help_heading = "Output",
        requires = "forward_to",
        value_delimiter = ',',
        hide_short_help = true
    )]
    pub without: Vec<Part>,

    /// Pass these properties on although they would be left out: headers.CC and headers.BCC
    #[arg(
        long,
        value_name = "PROPERTY,...",
        help_heading = "Output",
        requires = "forward_to",
        value_delimiter = ',',
        hide_short_help = true
    )]
    pub keep: Vec<Part>,

    /// Say in the end how many messages there were, how many bytes, and how fast they came
    ///
    /// Only messages count that were written and acknowledged (or confirmed, with --forward-to); the
    /// time is that from the arrival of the first to the acknowledgement of the last.
    #[arg(long, help_heading = "Output")]
    pub stats: bool,

    /// Run this command for each message instead of printing it: the body is its standard input,
    /// properties are in its environment (HELLO_MQ_...). Its exit status decides: 0 acknowledges the
    /// message, 3 rejects it, 4 has it delivered again later, and of anything else --on-failure says
    #[arg(value_name = "COMMAND", last = true, conflicts_with_all = ["output", "end", "format", "save", "peek", "auto_ack", "forward_to"])]
    pub command: Vec<OsString>,

    /// Send what COMMAND prints to the message's reply-to, with its correlation-id, and acknowledge
    /// the message when the broker has confirmed that
    #[arg(
        long,
        help_heading = "Command",
        requires = "command",
        hide_short_help = true
    )]
    pub reply: bool,

    /// Run so many commands at a time [default: 1]
    #[arg(long, value_name = "N", help_heading = "Command", requires = "command", value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: Option<u16>,

    /// A command that takes longer has failed, and is ended with all its processes
    #[arg(
        long,
        value_name = "DURATION",
        help_heading = "Command",
        requires = "command",
        hide_short_help = true
    )]
    pub command_timeout: Option<Span>,

    /// What becomes of a message whose command fails: it is delivered again later (requeue), is
    /// dead-lettered or dropped (reject), or goes back at once and hello-mq ends with 1 (stop)
    /// [default: requeue]
    #[arg(
        long,
        value_name = "WHAT",
        help_heading = "Command",
        requires = "command",
        hide_short_help = true
    )]
    pub on_failure: Option<OnFailure>,

    /// Reject a message that was delivered again so many times [default: 10]
    #[arg(
        long,
        value_name = "N",
        help_heading = "Command",
        requires = "command",
        hide_short_help = true
    )]
    pub max_redeliveries: Option<u32>,

    /// Show the messages that are in the queue, and leave them there
    ///
    /// They are given back when the last is printed; until then no one else gets them, and then
    /// they are marked as redelivered. Up to RabbitMQ 4.2 each look costs a message of a quorum queue
    /// one of its deliveries; one at its limit is put at the end of its queue, as new.
    #[arg(long, help_heading = "Queue", conflicts_with_all = ["auto_ack", "drain", "idle_timeout", "exclusive", "priority", "stream_offset", "exchange"])]
    pub peek: bool,

    /// Listen in on this exchange, through a temporary queue, instead of receiving from a queue
    #[arg(short, long, value_name = "NAME", help_heading = "Queue")]
    pub exchange: Option<Name>,

    /// With --exchange: messages with this routing key; may be repeated, and has to be given for a
    /// direct exchange [default: #, which is everything]
    #[arg(
        short,
        long,
        value_name = "KEY",
        help_heading = "Queue",
        requires = "exchange"
    )]
    pub routing_key: Vec<Name>,

    /// Fail if the queue has another consumer, and let none come; for a classic queue
    #[arg(long, help_heading = "Queue", hide_short_help = true)]
    pub exclusive: bool,

    /// Consumers with a higher priority are served first
    #[arg(
        long,
        value_name = "N",
        help_heading = "Queue",
        allow_negative_numbers = true,
        hide_short_help = true
    )]
    pub priority: Option<i32>,

    /// Where to begin in a stream: first, last, next, an offset, or a time like
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
