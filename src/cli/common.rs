//! Options of every command.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};

use crate::definitions::{BrokerOptions, TlsOptions};
use crate::values::{Host, QueueName};

/// Options of every command.
#[derive(Args, Debug, Default)]
pub struct Common {
    /// The broker: amqp://USER:PASSWORD@HOST:PORT/VHOST, or amqps:// for TLS [env: HELLO_MQ_URL,
    /// AMQP_URL]
    ///
    /// Reserved characters are percent-encoded (a '/' in the virtual host is %2F). A port or
    /// virtual host that the URL omits gets its default; a user or password that it omits may be set
    /// elsewhere. A password given here is visible in the process list; use HELLO_MQ_PASSWORD
    /// instead.
    // This is not a URL yet, because clap's errors repeat invalid values, with the password.
    #[arg(
        short,
        long,
        global = true,
        help_heading = "Broker",
        value_name = "URL"
    )]
    pub url: Option<String>,

    /// The host name or address of the broker, with an optional port: HOST:PORT; repeat it for
    /// several hosts, which are tried in order [default: localhost]
    #[arg(
        long,
        global = true,
        help_heading = "Broker",
        value_name = "HOST",
        hide_short_help = true
    )]
    pub host: Vec<Host>,

    /// The port of the broker [default: 5672, or 5671 for TLS]
    #[arg(long, global = true, help_heading = "Broker", value_parser = clap::value_parser!(u16).range(1..), hide_short_help = true)]
    pub port: Option<u16>,

    /// The options for the login.
    #[command(flatten)]
    pub broker: BrokerOptions,

    /// Read the password from the first line of this file
    #[arg(
        long,
        global = true,
        help_heading = "Broker",
        value_name = "FILE",
        hide_short_help = true
    )]
    pub password_file: Option<PathBuf>,

    /// Ask for the password on the terminal
    #[arg(
        long,
        global = true,
        help_heading = "Broker",
        conflicts_with = "password_file",
        hide_short_help = true
    )]
    pub password_prompt: bool,

    /// Use TLS, like amqps:// in the URL; every option of this group implies it; the default port
    /// is then 5671
    #[arg(long, global = true, help_heading = "TLS", hide_short_help = true)]
    pub tls: bool,

    /// The options for TLS.
    #[command(flatten)]
    pub tls_options: TlsOptions,

    /// The queue [env: HELLO_MQ_QUEUE] [default: hello; none for 'delete' and 'purge']
    #[arg(
        short,
        display_order = 0,
        long,
        global = true,
        help_heading = "Queue",
        value_name = "NAME"
    )]
    pub queue: Option<QueueName>,

    /// The configuration file [env: HELLO_MQ_CONFIG] [default: hello-mq/config.toml in
    /// $XDG_CONFIG_HOME or ~/.config, else /etc/hello-mq/config.toml]
    #[arg(
        long,
        global = true,
        help_heading = "General",
        value_name = "FILE",
        hide_short_help = true
    )]
    pub config: Option<PathBuf>,

    /// Use the settings in [profiles.NAME] of the configuration file, which override its top level
    /// [env: HELLO_MQ_PROFILE]
    #[arg(long, global = true, help_heading = "General", value_name = "NAME")]
    pub profile: Option<String>,

    /// Print each setting with its origin, and the operations that would be done, without a broker
    #[arg(long, global = true, help_heading = "General")]
    pub explain: bool,

    /// Write a log of the connection to standard error; -vv also logs each step, -vvv each frame
    #[arg(short, long, global = true, help_heading = "General", action = ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,

    /// Print only data, errors and warnings
    #[arg(long, global = true, help_heading = "General")]
    pub quiet: bool,

    /// When to use colours: always, never, or on a terminal unless NO_COLOR is set (auto)
    #[arg(
        long,
        global = true,
        help_heading = "General",
        value_name = "WHEN",
        default_value = "auto",
        hide_short_help = true
    )]
    pub color: Color,

    /// Print help: the most used options (-h), or all of them (--help)
    #[arg(short, long, global = true, help_heading = "General", action = ArgAction::Help)]
    pub help: Option<bool>,
}

/// The use of colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal
    #[default]
    Auto,
    /// In a pipe or a file, too
    Always,
    /// Not at all
    Never,
}

impl Color {
    /// Returns whether to use colours; `None` if it depends on the stream.
    #[must_use]
    pub fn wanted(self) -> Option<bool> {
        match self {
            Self::Auto => None,
            Self::Always => Some(true),
            Self::Never => Some(false),
        }
    }
}
