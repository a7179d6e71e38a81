//! Types of single values that the user types or writes into the configuration file.

mod login;
mod message;
mod url;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer};

use crate::message::SHORT_STRING_MAX;

pub use login::{Mechanism, PasswordCommand, Secret, ServerName};
pub use message::{
    Delimiter, Expiration, Header, Name, OutputDelimiter, Pace, Rate, StreamOffset, Target,
    Timestamp,
};

pub use url::BrokerUrl;

/// The name of a queue: not empty, and no longer than [`SHORT_STRING_MAX`] bytes.
///
/// The client library truncates the length of a longer name to one byte, which corrupts the frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueName(String);

impl QueueName {
    /// Returns the queue of RabbitMQ's first tutorial.
    pub fn tutorial() -> Self {
        Self("hello".to_owned())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for QueueName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.len() {
            0 => Err("a queue's name can't be empty".to_owned()),
            // RabbitMQ removes them silently, so the queue would have another name.
            _ if text.contains(['\r', '\n']) => Err(
                "a queue's name can't contain a line break: RabbitMQ would remove it".to_owned(),
            ),
            1..=SHORT_STRING_MAX => Ok(Self(text.to_owned())),
            length => Err(format!(
                "a queue's name can have at most {SHORT_STRING_MAX} bytes in AMQP; this one has {length}"
            )),
        }
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}'", crate::text::escape(&self.0))
    }
}

/// The name of a queue to declare; empty if the broker is to choose it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewQueueName(pub Option<QueueName>);

impl FromStr for NewQueueName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(Self(None)),
            name => name.parse().map(Some).map(Self),
        }
    }
}

/// The name of a virtual host: no longer than [`SHORT_STRING_MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualHost(String);

impl VirtualHost {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for VirtualHost {
    fn default() -> Self {
        Self("/".to_owned())
    }
}

impl FromStr for VirtualHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("a virtual host's name can't be empty".to_owned());
        }
        if text.len() > SHORT_STRING_MAX {
            return Err(format!(
                "a virtual host's name can have at most {SHORT_STRING_MAX} bytes in AMQP; this one has {}",
                text.len()
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

/// The host of a broker, and a port if it differs from that of the other hosts: `HOST` or `HOST:PORT`. An
/// IPv6 address with a port is in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    name: String,
    port: Option<u16>,
}

impl Host {
    /// Returns the name or the address, without brackets.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the port of this host, if it has one.
    pub fn port(&self) -> Option<u16> {
        self.port
    }
}

impl Default for Host {
    fn default() -> Self {
        Self {
            name: "localhost".to_owned(),
            port: None,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) if self.name.contains(':') => write!(f, "[{}]:{port}", self.name),
            Some(port) => write!(f, "{}:{port}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// The error for several hosts in place of one.
pub(crate) const ONE_HOST: &str = "more than one host; write each separately: --host H1 --host H2, or hosts \
    = [\"H1\", \"H2\"] in the configuration file";

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, port) = match text.rsplit_once(':') {
            // An IPv6 address in brackets, with or without a port.
            Some((name, port)) if name.ends_with(']') => (name, Some(port)),
            Some((name, port)) if !name.contains(':') => (name, Some(port)),
            // An IPv6 address without brackets has no port.
            _ => (text, None),
        };
        let name = name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'))
            .unwrap_or(name);
        if name.is_empty() {
            return Err("a host's name can't be empty".to_owned());
        }
        if name.contains(',') {
            return Err(ONE_HOST.to_owned());
        }
        let not_a_host =
            || "not a host's name or address; write HOST, HOST:PORT or [IPV6]:PORT".to_owned();
        if name.contains(|c: char| c.is_whitespace() || c.is_control() || "[]/@".contains(c)) {
            return Err(not_a_host());
        }
        // Name servers know only the ASCII form of an international name.
        let name = if name.is_ascii() {
            name.to_owned()
        } else {
            ::url::Host::parse(name)
                .map_err(|_| not_a_host())?
                .to_string()
        };
        let port = match port.map(str::parse) {
            None => None,
            Some(Ok(port @ 1..)) => Some(port),
            Some(Ok(0) | Err(_)) => {
                return Err("a port must be a number from 1 to 65535".to_owned());
            }
        };
        Ok(Self { name, port })
    }
}

/// The maximum time to open a connection, from the look-up of the host's name to the end of the login:
/// between 1 ms and a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectTimeout(Duration);

impl ConnectTimeout {
    pub fn get(self) -> Duration {
        self.0
    }
}

impl Default for ConnectTimeout {
    fn default() -> Self {
        Self(Duration::from_secs(10))
    }
}

impl fmt::Display for ConnectTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_duration(self.0))
    }
}

impl FromStr for ConnectTimeout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let duration = parse_duration(text)?;
        if duration < Duration::from_millis(1) || duration > Duration::from_secs(24 * 60 * 60) {
            return Err(format!("{text} is not between 1ms and 24h"));
        }
        Ok(Self(duration))
    }
}

/// The interval of AMQP heartbeats in whole seconds; 0 turns them off.
///
/// A peer that sends nothing for two intervals counts as dead. The smaller of the values of the broker and
/// of hello-mq applies (<https://www.rabbitmq.com/docs/heartbeats>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat(u16);

impl Heartbeat {
    pub fn seconds(self) -> u16 {
        self.0
    }
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self(10)
    }
}

impl fmt::Display for Heartbeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.0)
    }
}

impl FromStr for Heartbeat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let duration = parse_duration(text)?;
        if duration.subsec_nanos() != 0 {
            return Err(format!("{text} is not a whole number of seconds"));
        }
        u16::try_from(duration.as_secs())
            .map(Self)
            .map_err(|_| format!("{text} exceeds AMQP's maximum of 65535s"))
    }
}

/// A duration, written as `500ms`, `5s`, `2m` or `1h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(Duration);

impl Span {
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    pub fn get(self) -> Duration {
        self.0
    }

    /// Returns the duration as a limit; 0s means none.
    pub fn if_any(self) -> Option<Duration> {
        Some(self.0).filter(|limit| !limit.is_zero())
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_duration(self.0))
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_duration(text).map(Self)
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "not a duration; write it like 500ms, 5s, 2m or 1h".to_owned())
}

/// Implements `Deserialize` for types by parsing a string, so that a value means the same in the
/// configuration file as on the command line.
macro_rules! deserialize_by_parsing {
    ($($type:ty),+) => {$(
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = crate::values::string(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}
pub(crate) use deserialize_by_parsing;

deserialize_by_parsing!(
    QueueName,
    VirtualHost,
    Host,
    ConnectTimeout,
    Heartbeat,
    Span
);

/// Reads a string. Serde's own errors would repeat a value of another type (``invalid type: integer
/// `1234` ``), which may be a password.
pub(crate) fn string<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    match toml::Value::deserialize(deserializer) {
        Ok(toml::Value::String(text)) => Ok(text),
        _ => Err(de::Error::custom("must be a string in quotes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_may_have_a_port_of_its_own() {
        for (text, name, port) in [
            ("h", "h", None),
            ("h:1", "h", Some(1)),
            ("::1", "::1", None),
            ("[::1]", "::1", None),
            ("[::1]:65535", "::1", Some(65535)),
        ] {
            let host: Host = text.parse().unwrap();
            assert_eq!((host.name(), host.port()), (name, port), "{text}");
        }
        for text in [
            "", "[::1", " h", "a b", ":1", "h:", "h:0", "h:65536", "h:x", "[]:1", "h,i", "h:1,i:2",
        ] {
            assert!(text.parse::<Host>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_queue_name_is_a_short_string() {
        assert!("q".repeat(255).parse::<QueueName>().is_ok());
        assert!("q".repeat(256).parse::<QueueName>().is_err());
        assert!("é".repeat(128).parse::<QueueName>().is_err());
        assert!("".parse::<QueueName>().is_err());
        assert!("a\nb".parse::<QueueName>().is_err());
    }

    #[test]
    fn durations_have_units_and_bounds() {
        assert_eq!(
            "500ms".parse::<ConnectTimeout>().unwrap().get(),
            Duration::from_millis(500)
        );
        for text in ["", "5", "-1s", "0s", "25h", "5 parsecs"] {
            assert!(text.parse::<ConnectTimeout>().is_err(), "{text}");
        }
        assert_eq!("2m".parse::<Heartbeat>().unwrap().seconds(), 120);
        assert_eq!("0s".parse::<Heartbeat>().unwrap().seconds(), 0);
        for text in ["1500ms", "19h", "10"] {
            assert!(text.parse::<Heartbeat>().is_err(), "{text}");
        }
    }
}
