//! Options of `send`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::MessageFormat;
use crate::definitions::SendOptions;
use crate::message::ShortString;
use crate::output::Template;
use crate::topology::Size;
use crate::values::{Delimiter, Expiration, Header, Name, Rate, Span, Timestamp};

/// Options of `send`.
#[derive(Args, Debug)]
pub struct Send {
    /// A message each; '-' is standard input, and so is no MESSAGE at all; before one that begins with
    /// '-' put '--'
    #[arg(value_name = "MESSAGE")]
    pub messages: Vec<OsString>,

    /// Send this file's bytes as one message, after the MESSAGEs; '-' is standard input; may be
    /// repeated
    #[arg(short, long = "file", value_name = "FILE", help_heading = "Message")]
    pub files: Vec<PathBuf>,

    /// Each line of standard input, or of the files, is a message
    #[arg(short, long, help_heading = "Message", group = "form")]
    pub lines: bool,

    /// As --lines, with NUL bytes between the messages, as of find -print0
    #[arg(short = '0', long, help_heading = "Message", group = "form")]
    pub null: bool,

    /// As --lines, with these bytes between the messages: \n, \t, \0 and \xNN are understood
    #[arg(
        short = 'D',
        long,
        value_name = "D",
        help_heading = "Message",
        group = "form",
        allow_hyphen_values = true,
        hide_short_help = true
    )]
    pub delimiter: Option<Delimiter>,

    /// As --lines, each a JSON object with payload, properties, exchange and routing_key, as
    /// 'receive -o json' prints them; options fill in what it leaves out
    #[arg(long, help_heading = "Message", group = "form")]
    pub jsonl: bool,

    /// A line, or what else input is split into, that is longer is an error, and is not read to its
    /// end [default: 512MiB, and with --jsonl 1GiB]
    #[arg(
        long,
        value_name = "SIZE",
        help_heading = "Message",
        requires = "form",
        hide_short_help = true
    )]
    pub max_line: Option<Size>,

    /// Send all that N times
    #[arg(short, long, value_name = "N", help_heading = "Message", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,

    /// Send at most so many messages a second
    #[arg(
        long,
        value_name = "N",
        help_heading = "Message",
        hide_short_help = true
    )]
    pub rate: Option<Rate>,

    /// The exchange [default: the default exchange]
    #[arg(short, long, value_name = "NAME", help_heading = "Queue")]
    pub exchange: Option<Name>,

    /// The routing key [default: the queue's name for the default exchange, else empty]
    ///
    /// With it, or with --exchange, no queue is declared.
    #[arg(short, long, value_name = "KEY", help_heading = "Queue")]
    pub routing_key: Option<Name>,

    /// It is no error if no queue takes a message
    #[arg(long, help_heading = "Queue", hide_short_help = true)]
    pub allow_unroutable: bool,

    /// The messages' properties.
    #[command(flatten)]
    pub properties: PropertyOptions,

    /// The messages are requests: wait so long for the next reply, and print each
    ///
    /// Each request has a reply-to and a correlation-id of its own (RabbitMQ's direct reply-to).
    /// 'hello-mq receive --reply -- COMMAND' answers.
    #[arg(
        long,
        value_name = "DURATION",
        help_heading = "Output",
        conflicts_with = "reply_to"
    )]
    pub reply_timeout: Option<Span>,

    /// What to print of a reply, as of 'receive': text, body or json; or with --explain, of the
    /// settings: text or json [default: text]
    #[arg(short, long, value_name = "FORM", help_heading = "Output")]
    pub output: Option<MessageFormat>,

    /// Print each reply so, as 'receive --format' does
    #[arg(
        long,
        value_name = "TEMPLATE",
        help_heading = "Output",
        allow_hyphen_values = true,
        requires = "reply_timeout",
        conflicts_with = "output",
        hide_short_help = true
    )]
    pub format: Option<Template>,

    /// With --format on a terminal, print what a reply says as it is, as 'receive --raw' does
    #[arg(
        long,
        help_heading = "Output",
        requires = "format",
        hide_short_help = true
    )]
    pub raw: bool,

    /// The options that have a default in the configuration file.
    #[command(flatten)]
    pub settings: SendOptions,

    /// Don't have the broker confirm the messages: it is enough that it has read them, and what
    /// becomes of them then (a queue that is full, a crash) is not told
    #[arg(
        long,
        help_heading = "Ending",
        hide_short_help = true,
        conflicts_with = "confirm_timeout"
    )]
    pub no_confirm: bool,
}

/// AMQP's properties of a message.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Properties")]
pub struct PropertyOptions {
    /// A header: 'KEY: VALUE' is text, 'KEY:=JSON' any other type; may be repeated
    #[arg(short = 'H', long = "header", value_name = "KEY: VALUE")]
    pub headers: Vec<Header>,

    /// The body's MIME type, such as application/json
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<ShortString>,

    /// The body's encoding, such as gzip
    #[arg(long, value_name = "ENCODING", hide_short_help = true)]
    pub content_encoding: Option<ShortString>,

    /// 0 to 255, for a queue with priorities
    #[arg(long, value_name = "N", hide_short_help = true)]
    pub priority: Option<u8>,

    /// Drop the message when it has waited so long in a queue, such as 30s
    #[arg(long, value_name = "DURATION", hide_short_help = true)]
    pub expiration: Option<Expiration>,

    /// What a reply belongs to
    #[arg(long, value_name = "ID", hide_short_help = true)]
    pub correlation_id: Option<ShortString>,

    /// The queue for replies
    #[arg(long, value_name = "QUEUE", hide_short_help = true)]
    pub reply_to: Option<ShortString>,

    /// The message's name [default: one of its own for each; with --jsonl none]
    #[arg(long, value_name = "ID", hide_short_help = true)]
    pub message_id: Option<ShortString>,

    /// With --jsonl, too, give each message without a message-id one of its own, by which a message
    /// that had to be sent again can be told from a second one
    #[arg(long, requires = "jsonl", hide_short_help = true)]
    pub add_message_id: bool,

    /// The message's type
    #[arg(long = "type", value_name = "TYPE", hide_short_help = true)]
    pub kind: Option<ShortString>,

    /// The sending user, which the broker checks
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    pub user_id: Option<ShortString>,

    /// The sending application
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    pub app_id: Option<ShortString>,

    /// When the message was made: 'now', seconds since 1970, or like 2025-12-31T23:59:59Z
    #[arg(long, value_name = "TIME", hide_short_help = true)]
    pub timestamp: Option<Timestamp>,
}
