//! Options of `send`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::MessageFormat;
use crate::definitions::SendOptions;
use crate::message::ShortString;
use crate::output::Template;
use crate::topology::Size;
use crate::values::{Delimiter, Expiration, Header, Name, Pace, Rate, Span, Timestamp};

/// Options of `send`.
#[derive(Args, Debug)]
pub struct Send {
    /// The messages; without MESSAGE, or for '-', one message is read from standard input; a message
    /// that begins with '-' needs '--' before it
    #[arg(value_name = "MESSAGE")]
    pub messages: Vec<OsString>,

    /// Send the content of this file as one message, after the MESSAGEs; '-' is standard input; may
    /// be repeated
    #[arg(short, long = "file", value_name = "FILE", help_heading = "Message")]
    pub files: Vec<PathBuf>,

    /// Send each line of standard input, or of the files, as a message
    #[arg(short, long, help_heading = "Message", group = "form")]
    pub lines: bool,

    /// Like --lines, with NUL bytes between the messages, as from find -print0
    #[arg(short = '0', long, help_heading = "Message", group = "form")]
    pub null: bool,

    /// Like --lines, with these bytes between the messages; \n, \r, \t, \0, \\ and \xNN are
    /// supported
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

    /// Like --lines, with a JSON object in each line: payload, properties, exchange and
    /// routing_key, as printed by 'receive -o json'; options supply what a line omits
    #[arg(long, help_heading = "Message", group = "form")]
    pub jsonl: bool,

    /// The maximum size of a line, or of a message split by another delimiter; a longer one is an
    /// error [default: 512MiB, and with --jsonl 1GiB]
    #[arg(
        long,
        value_name = "SIZE",
        help_heading = "Message",
        requires = "form",
        hide_short_help = true
    )]
    pub max_line: Option<Size>,

    /// Send all messages N times
    #[arg(short, long, value_name = "N", help_heading = "Message", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,

    /// Send at most N messages per second
    #[arg(
        long,
        value_name = "N",
        help_heading = "Message",
        hide_short_help = true
    )]
    pub rate: Option<Rate>,

    /// With --jsonl, send the messages at the intervals at which they were received, as
    /// received_at in each line says (recorded), or faster or slower by a factor (2x, 0.5x)
    #[arg(
        long,
        value_name = "PACE",
        help_heading = "Message",
        requires = "jsonl",
        conflicts_with_all = ["rate", "lines", "null", "delimiter"],
        hide_short_help = true
    )]
    pub pace: Option<Pace>,

    /// The exchange to publish to [default: the default exchange]
    #[arg(short, long, value_name = "NAME", help_heading = "Queue")]
    pub exchange: Option<Name>,

    /// The routing key [default: the queue's name for the default exchange, otherwise empty]
    ///
    /// With this option or --exchange, no queue is declared.
    #[arg(short, long, value_name = "KEY", help_heading = "Queue")]
    pub routing_key: Option<Name>,

    /// Do not fail if a message can't be routed to a queue
    #[arg(long, help_heading = "Queue", hide_short_help = true)]
    pub allow_unroutable: bool,

    /// The messages' properties.
    #[command(flatten)]
    pub properties: PropertyOptions,

    /// Send the messages as requests and print the replies; give up if no reply arrives for this time
    ///
    /// Each request gets its own correlation-id, and a reply-to for RabbitMQ's direct reply-to.
    /// 'hello-mq receive --reply -- COMMAND' answers requests.
    #[arg(
        long,
        value_name = "DURATION",
        help_heading = "Output",
        conflicts_with = "reply_to"
    )]
    pub reply_timeout: Option<Span>,

    /// The format of replies, as for 'receive': text, body or json; with --explain, the format of
    /// the settings: text or json [default: text]
    #[arg(short, long, value_name = "FORM", help_heading = "Output")]
    pub output: Option<MessageFormat>,

    /// Print each reply with this template, like 'receive --format'
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

    /// With --format on a terminal, print replies without escaping, like 'receive --raw'
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

    /// Do not wait for confirms: a message counts as sent when the broker has read it, and later
    /// losses (a full queue, a crash) are not noticed
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
    /// Add a header: 'KEY: VALUE' for text, 'KEY:=JSON' for any other type; may be repeated
    #[arg(short = 'H', long = "header", value_name = "KEY: VALUE")]
    pub headers: Vec<Header>,

    /// The body's MIME type, such as application/json
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<ShortString>,

    /// The body's encoding, such as gzip
    #[arg(long, value_name = "ENCODING", hide_short_help = true)]
    pub content_encoding: Option<ShortString>,

    /// The message's priority, 0 to 255, for a queue with priorities
    #[arg(long, value_name = "N", hide_short_help = true)]
    pub priority: Option<u8>,

    /// Drop or dead-letter the message after this time in a queue, such as 30s
    #[arg(long, value_name = "DURATION", hide_short_help = true)]
    pub expiration: Option<Expiration>,

    /// The ID that associates a reply with its request
    #[arg(long, value_name = "ID", hide_short_help = true)]
    pub correlation_id: Option<ShortString>,

    /// The queue to send replies to
    #[arg(long, value_name = "QUEUE", hide_short_help = true)]
    pub reply_to: Option<ShortString>,

    /// The ID of the message [default: a generated one for each message; with --jsonl none]
    #[arg(long, value_name = "ID", hide_short_help = true)]
    pub message_id: Option<ShortString>,

    /// With --jsonl, generate a message-id for each message without one, so that receivers can
    /// recognize a message that was sent again
    #[arg(long, requires = "jsonl", hide_short_help = true)]
    pub add_message_id: bool,

    /// The type of the message
    #[arg(long = "type", value_name = "TYPE", hide_short_help = true)]
    pub kind: Option<ShortString>,

    /// The sending user; the broker verifies it
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    pub user_id: Option<ShortString>,

    /// The sending application
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    pub app_id: Option<ShortString>,

    /// The time of the message: 'now', seconds since 1970, or a time like 2025-12-31T23:59:59Z
    #[arg(long, value_name = "TIME", hide_short_help = true)]
    pub timestamp: Option<Timestamp>,
}
