//! Options of `declare`.

use clap::{Args, ValueEnum};

use crate::definitions::words;
use crate::topology::{Argument, ExchangeType, Milliseconds, Overflow, QueueType, Size};
use crate::values::{Name, NewQueueName};

/// Options of `declare`.
#[derive(Args, Debug)]
pub struct Declare {
    /// The queue, in place of --queue; with '' the broker makes up a name, which is printed. Without
    /// any property, it gets those that the configuration file has for it
    #[arg(value_name = "QUEUE")]
    pub name: Option<NewQueueName>,

    /// The queue (and the exchange, if one is declared) survives a restart of the broker
    #[arg(long, help_heading = "Queue")]
    pub durable: bool,

    /// The queue is deleted when its last consumer leaves (and the exchange, if one is declared, when
    /// its last binding goes)
    #[arg(long, help_heading = "Queue", hide_short_help = true)]
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
    #[arg(
        long,
        help_heading = "Exchange",
        requires = "exchange",
        hide_short_help = true
    )]
    pub internal: bool,

    /// Where messages go that the exchange has no queue for
    #[arg(
        long,
        value_name = "NAME",
        help_heading = "Exchange",
        requires = "exchange",
        hide_short_help = true
    )]
    pub alternate_exchange: Option<Name>,

    /// Any other argument of the exchange, written as for --argument; may be repeated
    #[arg(
        long = "exchange-argument",
        value_name = "KEY=VALUE",
        help_heading = "Exchange",
        requires = "exchange",
        hide_short_help = true
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
    #[arg(long, value_name = "NAME", help_heading = "Binding", requires_all = ["exchange", "bind"], conflicts_with = "name", hide_short_help = true)]
    pub destination_exchange: Option<Name>,

    /// An argument of the bindings, written as for --argument; may be repeated
    #[arg(
        long = "bind-argument",
        value_name = "KEY=VALUE",
        help_heading = "Binding",
        requires = "bind",
        hide_short_help = true
    )]
    pub bind_arguments: Vec<Argument>,

    /// Change nothing: 0 if it is there, with the properties that are given if any are, 67 if it is
    /// missing, 76 if it is different
    #[arg(long, help_heading = "What to do", conflicts_with = "bind")]
    pub check: bool,

    /// Declare every [[exchanges]], [[queues]] and [[bindings]] of the configuration file
    #[arg(long, help_heading = "What to do", conflicts_with_all = ["name", "durable", "auto_delete", "QueueArguments", "exchange", "queue"])]
    pub all: bool,

    /// What to print: a line for a person (text), or an object (json), for each thing declared
    #[arg(
        short,
        long,
        help_heading = "Output",
        value_name = "FORM",
        default_value = "text"
    )]
    pub output: ListFormat,
}

/// Arguments of a queue.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Queue")]
pub struct QueueArguments {
    /// classic, or replicated: quorum or stream, which are durable [default: the virtual host's]
    #[arg(long = "type", value_name = "TYPE", value_parser = words::<QueueType>(QueueType::NAMES))]
    pub kind: Option<QueueType>,

    /// Messages are dropped, or dead-lettered, after so long in the queue, such as 30s
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub message_ttl: Option<Milliseconds>,

    /// The queue is deleted when nobody has used it for so long
    #[arg(
        long,
        value_name = "DURATION",
        allow_hyphen_values = true,
        hide_short_help = true
    )]
    pub expires: Option<Milliseconds>,

    /// The most messages that the queue holds
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub max_length: Option<u32>,

    /// The most bytes of messages that the queue holds, such as 10MB or 64KiB
    #[arg(
        long,
        value_name = "SIZE",
        allow_hyphen_values = true,
        hide_short_help = true
    )]
    pub max_length_bytes: Option<Size>,

    /// What a full queue does: drop-head, reject-publish or reject-publish-dlx
    #[arg(long, value_name = "WHAT", value_parser = words::<Overflow>(Overflow::NAMES), hide_short_help = true)]
    pub overflow: Option<Overflow>,

    /// Where messages go that are rejected, expire or don't fit; '' is the default exchange
    #[arg(long, value_name = "NAME")]
    pub dead_letter_exchange: Option<Name>,

    /// The routing key that they get [default: the one they have]
    #[arg(long, value_name = "KEY", hide_short_help = true)]
    pub dead_letter_routing_key: Option<Name>,

    /// Messages with a higher priority leave first: 1 to 255, and few are better
    #[arg(
        long,
        value_name = "N",
        allow_hyphen_values = true,
        hide_short_help = true
    )]
    pub max_priority: Option<u8>,

    /// A quorum queue drops, or dead-letters, a message that came back so many times
    #[arg(
        long,
        value_name = "N",
        allow_hyphen_values = true,
        hide_short_help = true
    )]
    pub delivery_limit: Option<u32>,

    /// Of several consumers only one gets messages, until it leaves
    #[arg(long, hide_short_help = true)]
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

/// How the things that are declared are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    /// A line each, for a person
    Text,
    /// An object of JSON each
    Json,
}
