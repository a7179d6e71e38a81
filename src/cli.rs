//! What can be typed: the source of `--help`, and of nothing else.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::values::{ConnectTimeout, Heartbeat, Host, QueueName, Span, VirtualHost};

/// The table that ends every long help.
macro_rules! exit_statuses {
    () => {
        "\
Exit status:
    0  done; for receive also: stopped by Ctrl+C, SIGTERM or a closed pipe
    1  fewer messages than --count before the timeout or the end of the queue
   64  the command line is wrong
   65  malformed input
   67  no such queue, or a message that no queue took
   69  the broker can't be reached, or was lost
   70  a bug in hello-mq
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
    /// Make sure that a queue exists, with exactly these properties
    #[command(after_long_help = exit_statuses!())]
    Declare(Declare),
    /// Send messages to a queue; done when the broker has confirmed each
    #[command(after_long_help = exit_statuses!())]
    Send(Send),
    /// Print the messages of a queue as they arrive, until Ctrl+C
    #[command(after_long_help = exit_statuses!())]
    Receive(Receive),
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
    /// The queue, in place of --queue
    #[arg(value_name = "QUEUE")]
    pub name: Option<QueueName>,

    /// The queue survives a restart of the broker
    #[arg(long)]
    pub durable: bool,

    /// The queue is deleted when its last consumer leaves
    #[arg(long)]
    pub auto_delete: bool,
}

/// Options of `send`.
#[derive(Args, Debug)]
pub struct Send {
    /// A message each; '-' is standard input, and so is no MESSAGE at all
    #[arg(value_name = "MESSAGE", allow_negative_numbers = true)]
    pub messages: Vec<OsString>,

    /// Don't declare the queue first
    #[arg(long)]
    pub no_declare: bool,

    /// The broker keeps the messages on disk: in a durable queue they survive its restart
    #[arg(long)]
    pub persistent: bool,

    /// Give up when the broker confirms nothing for so long [default: 60s]
    #[arg(long, value_name = "DURATION")]
    pub confirm_timeout: Option<Span>,

    /// Try so long to get a lost connection back, and then send again what is not confirmed; 0s
    /// for not at all [default: 30s]
    #[arg(long, value_name = "DURATION")]
    pub retry_for: Option<Span>,
}

/// Options of `receive`.
#[derive(Args, Debug)]
pub struct Receive {
    /// The queue, in place of --queue
    #[arg(value_name = "QUEUE")]
    pub name: Option<QueueName>,

    /// Stop after N messages; exactly N are taken from the queue
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,

    /// Stop after this time in all
    #[arg(long, value_name = "DURATION")]
    pub timeout: Option<Span>,

    /// Stop when no message has come for so long
    #[arg(long, value_name = "DURATION")]
    pub idle_timeout: Option<Span>,

    /// Stop when the queue is empty
    #[arg(long)]
    pub drain: bool,

    /// End when the connection is lost, instead of connecting again
    #[arg(long)]
    pub no_reconnect: bool,

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
