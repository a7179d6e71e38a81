//! The settings that have an option and a key in the configuration file, each defined once.
//!
//! An entry below is the whole definition of a setting: its option with the help, its key, and its
//! default. The completions, the manual, `config.example.toml`, `--explain` and the merge of the sources
//! are made from it. Only settings that several options and keys share (hosts, port, TLS, password,
//! and queue) are merged by hand, in `settings`.

mod macros;
mod setting;

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgAction, Args};
use serde::Deserialize;
use toml::Spanned;

pub use setting::{ConfigSource, Definition, Listed, ListedSetting, Origin, Setting, shown};

use crate::topology::{BindingOptions, ExchangeOptions, QueueOptions};
use crate::values::{
    BrokerUrl, ConnectTimeout, Heartbeat, Host, Mechanism, PasswordCommand, QueueName, Secret,
    ServerName, Span, VirtualHost,
};
use macros::settings;

settings! {
    /// The broker and how to log in to it; and the top level of the configuration file, and each of
    /// its profiles.
    BrokerOptions, Config, BrokerLayer, Broker, ""
    [
        url: Option<Spanned<BrokerUrl>>,
        host: Option<Spanned<Host>>,
        hosts: Option<Spanned<Vec<Host>>>,
        port: Option<Spanned<NonZeroU16>>,
        password: Option<Spanned<Secret>>,
        password_file: Option<Spanned<PathBuf>>,
        password_command: Option<Spanned<PasswordCommand>>,
        queue: Option<Spanned<QueueName>>,
        tls: Option<Spanned<TlsTable>>,
        #[serde(default)]
        send: SendTable,
        #[serde(default)]
        receive: ReceiveTable,
        #[serde(default)]
        profiles: BTreeMap<String, Spanned<Config>>,
        #[serde(default)]
        queues: Vec<Spanned<QueueOptions>>,
        #[serde(default)]
        exchanges: Vec<Spanned<ExchangeOptions>>,
        #[serde(default)]
        bindings: Vec<Spanned<BindingOptions>>,
    ]
    [
        hosts: Setting<Vec<Host>>,
        port: Setting<u16>,
        password: Setting<Password>,
        tls: Tls,
    ]

    /// The virtual host
    #[arg(global = true, help_heading = "Broker", value_name = "NAME", hide_short_help = true)]
    value "vhost" vhost: VirtualHost = (VirtualHost::default());

    /// The name of the user; the password comes from a URL, HELLO_MQ_PASSWORD, a file, a command in
    /// the configuration file, or the terminal
    #[arg(global = true, help_heading = "Broker", value_name = "NAME", hide_short_help = true)]
    value "username" username: String = ("guest".to_owned());

    /// Log in with user and password (plain) or with the client's certificate (external)
    #[arg(global = true, help_heading = "Broker", value_name = "MECHANISM", hide_short_help = true, value_parser = words::<Mechanism>(Mechanism::NAMES))]
    optional "auth" auth: Mechanism = (
        "plain; with a certificate but neither user nor password, external if the broker offers it",
        "\"plain\""
    );

    /// Give up if the connection is not open after this time, such as 500ms or 10s
    #[arg(global = true, help_heading = "Broker", value_name = "DURATION", hide_short_help = true)]
    value "connect-timeout" connect_timeout: ConnectTimeout = (ConnectTimeout::default());

    /// Wait this long for a broker that is not up yet, instead of failing at once
    #[arg(global = true, help_heading = "Broker", value_name = "DURATION", hide_short_help = true)]
    value "wait" wait: Span = (Span::seconds(0));

    /// Send heartbeats at this interval; a dead broker is noticed after two intervals; 0s disables
    /// heartbeats
    #[arg(global = true, help_heading = "Broker", value_name = "DURATION", hide_short_help = true)]
    value "heartbeat" heartbeat: Heartbeat = (Heartbeat::default());
}

settings! {
    /// The settings of TLS.
    TlsOptions, TlsTable, TlsLayer, Tls, "tls."
    []
    [
        /// Whether TLS is used.
        enabled: Setting<bool>,
    ]

    /// Trust the authorities in this file (PEM), and no others
    #[arg(global = true, help_heading = "TLS", value_name = "FILE", hide_short_help = true)]
    path "tls-ca-file" ca_file: PathBuf = ("the system's", "\"/etc/ssl/private-ca.pem\"");

    /// The client's certificate with its intermediate certificates (PEM)
    #[arg(global = true, help_heading = "TLS", value_name = "FILE", hide_short_help = true)]
    path "tls-cert-file" cert_file: PathBuf = ("none", "\"client.pem\"");

    /// The key of the client's certificate (PEM, not encrypted)
    #[arg(global = true, help_heading = "TLS", value_name = "FILE", hide_short_help = true)]
    path "tls-key-file" key_file: PathBuf = ("the certificate's file", "\"client.key\"");

    /// The name that the broker's certificate must be valid for
    #[arg(global = true, help_heading = "TLS", value_name = "NAME", hide_short_help = true)]
    optional "tls-server-name" server_name: ServerName = ("the host's", "\"rabbit.example\"");

    /// Accept any certificate; anyone between hello-mq and the broker can then read and change
    /// everything
    #[arg(short = 'k', global = true, help_heading = "TLS", action = ArgAction::SetTrue, hide_short_help = true)]
    switch "insecure" insecure: bool = false;
}

settings! {
    /// Defaults of `send`.
    SendOptions, SendTable, SendLayer, SendSettings, ""
    []
    []

    /// Do not declare the queue
    #[arg(help_heading = "Queue", action = ArgAction::SetTrue, hide_short_help = true)]
    switch "no-declare" no_declare: bool = false;

    /// Have the broker keep messages on disk; in a durable queue they survive a restart of the broker
    #[arg(help_heading = "Properties", action = ArgAction::SetTrue)]
    switch "persistent" persistent: bool = false;

    /// Give up if the broker confirms nothing for this time
    #[arg(help_heading = "Ending", value_name = "DURATION", hide_short_help = true)]
    value "confirm-timeout" confirm_timeout: Span = (Span::seconds(60));

    /// Try for this time to reopen a lost connection, then send unconfirmed messages again; 0s
    /// disables it
    #[arg(help_heading = "Ending", value_name = "DURATION", hide_short_help = true)]
    value "retry-for" retry_for: Span = (Span::seconds(30));
}

settings! {
    /// Defaults of `receive`.
    ReceiveOptions, ReceiveTable, ReceiveLayer, ReceiveSettings, ""
    []
    []

    /// Do not declare the queue
    #[arg(help_heading = "Queue", action = ArgAction::SetTrue, hide_short_help = true)]
    switch "no-declare" no_declare: bool = false;

    /// Have the broker forget each message as soon as it is sent
    ///
    /// Like auto_ack=True in the tutorial. Messages in transit are lost if hello-mq or the connection
    /// fails. Without this option, a message leaves the queue only when it has been written.
    #[arg(help_heading = "Queue", action = ArgAction::SetTrue, hide_short_help = true)]
    switch "auto-ack" auto_ack: bool = false;

    /// The maximum number of unacknowledged messages; with a COMMAND, the default is
    /// --jobs plus 10
    #[arg(help_heading = "Queue", value_name = "N", value_parser = at_least_one(), hide_short_help = true)]
    value "prefetch" prefetch: NonZeroU16 = (DEFAULT_PREFETCH);

    /// Stop after this time
    #[arg(help_heading = "Ending", value_name = "DURATION")]
    optional "timeout" timeout: Span = ("none", "\"1h\"");

    /// Stop if no message arrives for this time
    #[arg(help_heading = "Ending", value_name = "DURATION", hide_short_help = true)]
    optional "idle-timeout" idle_timeout: Span = ("none", "\"5m\"");

    /// Exit if the connection is lost, instead of reconnecting
    #[arg(help_heading = "Ending", action = ArgAction::SetTrue, hide_short_help = true)]
    switch "no-reconnect" no_reconnect: bool = false;
}

/// The prefetch of `receive`, unless another is set.
const DEFAULT_PREFETCH: NonZeroU16 = NonZeroU16::MIN.saturating_add(255);

/// The source of the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Password {
    /// A known password.
    Known(Secret),
    /// The first line of this file.
    File(PathBuf),
    /// The first line that this command prints.
    Command(PasswordCommand),
    /// A question on the terminal.
    Prompt,
}

fn at_least_one() -> impl TypedValueParser<Value = NonZeroU16> {
    clap::value_parser!(u16)
        .range(1..)
        .try_map(NonZeroU16::try_from)
}

/// Returns a parser of one of these words, which the help and the completions list.
pub(crate) fn words<T>(names: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: std::str::FromStr<Err = String> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(names).try_map(|name| name.parse::<T>())
}

/// Returns all definitions.
pub fn all() -> impl Iterator<Item = &'static Definition> {
    [
        Broker::DEFINITIONS,
        Tls::DEFINITIONS,
        SendSettings::DEFINITIONS,
        ReceiveSettings::DEFINITIONS,
    ]
    .into_iter()
    .flatten()
}
