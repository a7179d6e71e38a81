//! Options of `declare`.

use clap::{Args, ValueEnum};

use crate::definitions::words;
use crate::topology::{Argument, ExchangeType, Milliseconds, Overflow, QueueType, Size};
use crate::values::{Name, NewQueueName};

/// Options of `declare`.
#[derive(Args, Debug)]
pub struct Declare {
    /// The queue, instead of --queue; for '' the broker generates a name, which is printed; without
    /// properties, those in the configuration file apply
    #[arg(value_name = "QUEUE")]
    pub name: Option<NewQueueName>,

    /// Make the queue (and the exchange, if one is declared) survive a restart of the broker
    #[arg(long, help_heading = "Queue")]
    pub durable: bool,

    /// Delete the queue when its last consumer leaves (and the exchange, if one is declared, when
    /// its last binding is removed)
    #[arg(long, help_heading = "Queue", hide_short_help = true)]
    pub auto_delete: bool,

    /// The queue's arguments.
    #[command(flatten)]
    pub queue: QueueArguments,

    /// The exchange to declare or to bind the queue to; without QUEUE and --bind, no queue is
    /// declared
    #[arg(short, long, value_name = "NAME", help_heading = "Exchange")]
    pub exchange: Option<Name>,

    /// The type of the exchange: direct, fanout, topic, headers, or a plugin's x-...; with --bind
    /// and without a type, the exchange must already exist [default: direct]
    #[arg(
        long,
        value_name = "TYPE",
        help_heading = "Exchange",
        requires = "exchange"
    )]
    pub exchange_type: Option<ExchangeType>,

    /// Do not let clients publish to the exchange; it gets messages from other exchanges only
    #[arg(
        long,
        help_heading = "Exchange",
        requires = "exchange",
        hide_short_help = true
    )]
    pub internal: bool,

    /// The exchange that gets the messages that this one can't route
    #[arg(
        long,
        value_name = "NAME",
        help_heading = "Exchange",
        requires = "exchange",
        hide_short_help = true
    )]
    pub alternate_exchange: Option<Name>,

    /// Another argument of the exchange, written as for --argument; may be repeated
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

    /// Bind this exchange, instead of a queue, to the exchange
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

    /// Declare nothing, only check: status 0 if it exists with the given properties, 67 if it is
    /// missing, 76 if it is different
    #[arg(long, help_heading = "What to do", conflicts_with = "bind")]
    pub check: bool,

    /// Declare every [[exchanges]], [[queues]] and [[bindings]] of the configuration file
    #[arg(long, help_heading = "What to do", conflicts_with_all = ["name", "durable", "auto_delete", "QueueArguments", "exchange", "queue"])]
    pub all: bool,

    /// The output format: a line of text (text) or a JSON object (json) for each declaration
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
    /// The type of the queue: classic, or quorum or stream, which are replicated and always durable
    /// [default: the virtual host's]
    #[arg(long = "type", value_name = "TYPE", value_parser = words::<QueueType>(QueueType::NAMES))]
    pub kind: Option<QueueType>,

    /// Drop or dead-letter messages after this time in the queue, such as 30s
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub message_ttl: Option<Milliseconds>,

    /// Delete the queue after this time without use
    #[arg(
        long,
        value_name = "DURATION",
        allow_hyphen_values = true,
        hide_short_help = true
    )]
    pub expires: Option<Milliseconds>,

    /// The maximum number of messages in the queue
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub max_length: Option<u32>,

    /// The maximum size of all bodies in the queue, such as 10MB or 64KiB
    #[arg(
        long,
        value_name = "SIZE",
        allow_hyphen_values = true,
        hide_short_help = true
    )]
    pub max_length_bytes: Option<Size>,

    /// The behaviour of a full queue: drop-head, reject-publish or reject-publish-dlx
    #[arg(long, value_name = "WHAT", value_parser = words::<Overflow>(Overflow::NAMES), hide_short_help = true)]
    pub overflow: Option<Overflow>,

    /// The exchange for messages that are rejected, expire or exceed the limits; '' is the default
    /// exchange
    #[arg(long, value_name = "NAME")]
    pub dead_letter_exchange: Option<Name>,

    /// The routing key for dead-lettered messages [default: their own]
    #[arg(long, value_name = "KEY", hide_short_help = true)]
    pub dead_letter_routing_key: Option<Name>,

    /// The highest message priority, 1 to 255; messages of a higher priority are delivered first;
    /// prefer a small number
    #[arg(
        long,
        value_name = "N",
        allow_hyphen_values = true,
        hide_short_help = true
    )]
    pub max_priority: Option<u8>,

    /// Drop or dead-letter a message that is returned more often than N times; for quorum queues
    #[arg(
        long,
        value_name = "N",
        allow_hyphen_values = true,
        hide_short_help = true
    )]
    pub delivery_limit: Option<u32>,

    /// Deliver to one consumer at a time, although there are several
    #[arg(long, hide_short_help = true)]
    pub single_active_consumer: bool,

    /// Another argument; may be repeated: KEY=VALUE, where numbers, true and false have their own
    /// type, or KEY:=JSON for an exact type
    #[arg(long = "argument", value_name = "KEY=VALUE")]
    pub arguments: Vec<Argument>,
}

impl QueueArguments {
    /// Returns whether at least one argument is given.
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

/// The formats of the list of declared entities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    /// A line of text for each
    Text,
    /// A JSON object for each
    Json,
}
