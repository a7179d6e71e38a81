//! Which broker, how to speak with it, and as whom.

use std::fmt;
use std::path::PathBuf;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Origin, Setting};
use crate::values::{
    ConnectTimeout, Heartbeat, Host, Mechanism, PasswordCommand, Secret, ServerName, Span,
    VirtualHost,
};

/// AMQP's registered port.
pub const AMQP_PORT: u16 = 5672;

/// AMQP's registered port for TLS.
pub const AMQPS_PORT: u16 = 5671;

/// The broker and how to log in to it. `Display` is its URL without the password.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Broker {
    pub hosts: Setting<Vec<Host>>,
    pub port: Setting<u16>,
    pub vhost: Setting<VirtualHost>,
    pub tls: Tls,
    /// `None` for what fits the other settings: see [`Broker::mechanisms`].
    pub auth: Setting<Option<Mechanism>>,
    pub username: Setting<String>,
    pub password: Setting<Password>,
    pub connect_timeout: Setting<ConnectTimeout>,
    pub wait: Setting<Span>,
    pub heartbeat: Setting<Heartbeat>,
}

/// How TLS is spoken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Whether it is.
    pub enabled: Setting<bool>,
    /// The authorities to trust, in PEM; `None` for the system's.
    pub ca_file: Setting<Option<PathBuf>>,
    /// The client's certificate, with those that lead from it to an authority, in PEM.
    pub cert_file: Setting<Option<PathBuf>>,
    /// The key of the client's certificate, in PEM; `None` if it stands in the same file.
    pub key_file: Setting<Option<PathBuf>>,
    /// The name that the broker's certificate must be for; `None` for the host's.
    pub server_name: Setting<Option<ServerName>>,
    /// Whether any certificate will do.
    pub insecure: Setting<bool>,
}

/// Where the password comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Password {
    /// It is known.
    Known(Secret),
    /// The first line of this file.
    File(PathBuf),
    /// The first line that this command prints.
    Command(PasswordCommand),
    /// The person at the terminal.
    Prompt,
}

/// What has to be percent-encoded in a URL's user and virtual host.
const PERCENT_ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

impl Broker {
    /// The URL, without the password, of the broker at one of the hosts.
    #[must_use]
    pub fn at(&self, host: &Host) -> String {
        self.with_hosts(std::slice::from_ref(host))
    }

    /// The port of one of the hosts.
    #[must_use]
    pub fn port_of(&self, host: &Host) -> u16 {
        host.port().unwrap_or(self.port.value)
    }

    /// How to log in, the first that the broker offers.
    ///
    /// Who shows a certificate and names neither user nor password is who the certificate says.
    #[must_use]
    pub fn mechanisms(&self) -> &'static [Mechanism] {
        let is_unnamed = [&self.username.origin, &self.password.origin]
            .iter()
            .all(|origin| **origin == Origin::Default);
        let may_be_either =
            self.tls.enabled.value && self.tls.cert_file.value.is_some() && is_unnamed;
        match self.auth.value {
            Some(Mechanism::External) => &[Mechanism::External],
            None if may_be_either => &[Mechanism::External, Mechanism::Plain],
            Some(Mechanism::Plain) | None => &[Mechanism::Plain],
        }
    }

    fn with_hosts(&self, hosts: &[Host]) -> String {
        let scheme = if self.tls.enabled.value {
            "amqps"
        } else {
            "amqp"
        };
        let user = match self.mechanisms() {
            // The broker takes it from the certificate.
            [Mechanism::External, ..] => String::new(),
            _ => format!(
                "{}@",
                utf8_percent_encode(&self.username.value, PERCENT_ENCODED)
            ),
        };
        let hosts: Vec<_> = hosts
            .iter()
            .map(|host| {
                let name = crate::text::escape(host.name());
                let port = self.port_of(host);
                if name.contains(':') {
                    format!("[{name}]:{port}")
                } else {
                    format!("{name}:{port}")
                }
            })
            .collect();
        let vhost = match self.vhost.value.as_str() {
            "/" => String::new(),
            vhost => utf8_percent_encode(vhost, PERCENT_ENCODED).to_string(),
        };
        format!("{scheme}://{user}{}/{vhost}", hosts.join(","))
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_hosts(&self.hosts.value))
    }
}
