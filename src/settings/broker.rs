//! The URL of a broker, and the login that fits its settings.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::definitions::{Broker, Origin};
use crate::values::{Host, Mechanism};

/// AMQP's registered port.
pub const AMQP_PORT: u16 = 5672;

/// AMQP's registered port for TLS.
pub const AMQPS_PORT: u16 = 5671;

/// The characters that are percent-encoded in the user and the virtual host of a URL.
const PERCENT_ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

impl Broker {
    /// Returns the URL of the broker at one of the hosts, without the password.
    #[must_use]
    pub fn at(&self, host: &Host) -> String {
        self.with_hosts(std::slice::from_ref(host))
    }

    /// Whether a virtual host of this broker is one of `other`, as far as their hosts and ports tell.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let addresses = |broker: &Self| -> Vec<(String, u16)> {
            let hosts = broker.hosts.value.iter();
            let address = |host: &Host| (host.name().to_ascii_lowercase(), broker.port_of(host));
            hosts.map(address).collect()
        };
        let others = addresses(other);
        self.vhost.value == other.vhost.value
            && addresses(self)
                .iter()
                .any(|address| others.contains(address))
    }

    /// Returns the port of one of the hosts.
    #[must_use]
    pub fn port_of(&self, host: &Host) -> u16 {
        host.port().unwrap_or(self.port.value)
    }

    /// Returns the mechanisms to log in with, in order of preference.
    ///
    /// With a certificate, and neither user nor password, the certificate identifies the user.
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
            // The certificate identifies the user.
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

/// The URL without the password.
impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_hosts(&self.hosts.value))
    }
}
