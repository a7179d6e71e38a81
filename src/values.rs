//! Values that a user types or writes into the configuration file, checked once and then trusted.

mod message;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use serde::de::{self, Deserialize, Deserializer, Visitor};
use url::Url;

pub use message::{
    Delimiter, Ending, Expiration, Header, Name, Rate, StreamOffset, Target, Timestamp,
};

/// The longest text, in bytes, that AMQP can carry as a name, a routing key or a short property
/// (a "short string": one byte holds its length; AMQP 0-9-1 specification, section 4.2.5.3).
pub const SHORT_STRING_MAX: usize = 255;

/// The name of a queue: not empty, and no longer than [`SHORT_STRING_MAX`] bytes.
///
/// The client library cuts a longer name to its length modulo 256 and so corrupts the frame, which
/// is why it is refused before anything is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueName(String);

impl QueueName {
    /// The queue of RabbitMQ's first tutorial.
    #[must_use]
    pub fn tutorial() -> Self {
        Self("hello".to_owned())
    }

    /// The name as it goes onto the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for QueueName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.len() {
            0 => Err("a queue's name can't be empty".to_owned()),
            // RabbitMQ takes them out of a queue's name without a word, and then the queue has
            // another name than the one that was asked for.
            _ if text.contains(['\r', '\n']) => Err(
                "a queue's name can't contain a line break: RabbitMQ would leave it out".to_owned(),
            ),
            1..=SHORT_STRING_MAX => Ok(Self(text.to_owned())),
            length => Err(format!(
                "a queue's name can't be longer than {SHORT_STRING_MAX} bytes in AMQP, and this one has {length}"
            )),
        }
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}'", crate::text::escape(&self.0))
    }
}

impl<'de> Deserialize<'de> for QueueName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer)
    }
}

/// The name of a queue to declare; an empty one has the broker make up a name.
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
    /// The name as it goes onto the wire.
    #[must_use]
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
                "a virtual host's name can't be longer than {SHORT_STRING_MAX} bytes in AMQP, and this one has {}",
                text.len()
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for VirtualHost {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer)
    }
}

/// A broker's host, and its port where that is not the same for all: `HOST` or `HOST:PORT`. An
/// IPv6 address with a port stands in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    name: String,
    port: Option<u16>,
}

impl Host {
    /// The name or address, without brackets.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The port, if it has one of its own.
    #[must_use]
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
        if name.contains(|c: char| c.is_whitespace() || c.is_control() || "[]/@".contains(c)) {
            return Err(
                "not a host's name or address; write HOST, HOST:PORT or [IPV6]:PORT".to_owned(),
            );
        }
        let port = match port.map(str::parse) {
            None => None,
            Some(Ok(port @ 1..)) => Some(port),
            Some(Ok(0) | Err(_)) => return Err("a port is a number from 1 to 65535".to_owned()),
        };
        Ok(Self {
            name: name.to_owned(),
            port,
        })
    }
}

impl<'de> Deserialize<'de> for Host {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer)
    }
}

/// How long to wait at most for the connection to be opened, from the first look-up of the host's
/// name to the broker's last word of the login: between 1 ms and a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectTimeout(Duration);

impl ConnectTimeout {
    /// The time-out itself.
    #[must_use]
    pub fn get(self) -> Duration {
        self.0
    }
}

impl Default for ConnectTimeout {
    fn default() -> Self {
        Self(Duration::from_secs(10))
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

impl<'de> Deserialize<'de> for ConnectTimeout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer)
    }
}

/// The interval of AMQP's heartbeats in whole seconds; 0 turns them off.
///
/// A peer from which nothing came for two intervals counts as dead. The smaller of what the broker
/// and hello-mq propose is used (<https://www.rabbitmq.com/docs/heartbeats>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat(u16);

impl Heartbeat {
    /// The interval in seconds, as the protocol carries it.
    #[must_use]
    pub fn seconds(self) -> u16 {
        self.0
    }
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self(10)
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
            .map_err(|_| format!("{text} is longer than AMQP can carry (65535s)"))
    }
}

impl<'de> Deserialize<'de> for Heartbeat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer)
    }
}

/// How long to do something: any duration, written as `500ms`, `5s`, `2m` or `1h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(Duration);

impl Span {
    /// So many seconds.
    #[must_use]
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// The duration itself.
    #[must_use]
    pub fn get(self) -> Duration {
        self.0
    }

    /// The duration as a limit, of which 0s means none.
    #[must_use]
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

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer)
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "not a duration; write it like 500ms, 5s, 2m or 1h".to_owned())
}

/// A text that must not be seen: its `Debug` does not show it, and it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`, which from then on leaves only through [`Secret::expose`].
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself, for the one place that hands it to the broker.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOnly).map(Self)
    }
}

/// Reads a string. Serde's own error for another type repeats the value (``invalid type: integer
/// `1234` ``), which must not happen to a password.
struct TextOnly;

impl<'de> Visitor<'de> for TextOnly {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string in quotes")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<String, E> {
        Ok(text)
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<String, E> {
        Err(E::custom("must be a string in quotes"))
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<String, E> {
        Err(E::custom("must be a string in quotes"))
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<String, E> {
        Err(E::custom("must be a string in quotes"))
    }

    fn visit_i128<E: de::Error>(self, _: i128) -> Result<String, E> {
        Err(E::custom("must be a string in quotes"))
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<String, E> {
        Err(E::custom("must be a string in quotes"))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, _: A) -> Result<String, A::Error> {
        Err(de::Error::custom("must be a string in quotes"))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, _: A) -> Result<String, A::Error> {
        Err(de::Error::custom("must be a string in quotes"))
    }
}

/// A broker's address as one URL: `amqp://USER:PASSWORD@HOST:PORT/VHOST`.
///
/// Source: <https://www.rabbitmq.com/docs/uri-spec>, with one difference: `amqp://host/` means the
/// virtual host `/`, not one with an empty name, since that is what everybody means by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerUrl {
    /// The host; `None` if the URL has none.
    pub host: Option<Host>,
    /// The TCP port; the scheme's (5672) if the URL has none.
    pub port: u16,
    /// The virtual host; `/` if the URL has none.
    pub vhost: VirtualHost,
    /// The user, if the URL has one.
    pub username: Option<String>,
    /// The password, if the URL has one.
    pub password: Option<Secret>,
}

/// AMQP's registered port.
pub const AMQP_PORT: u16 = 5672;

impl FromStr for BrokerUrl {
    type Err = String;

    /// # Errors
    /// Says what is wrong with the URL, without repeating any part that may hold a password.
    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "expected amqp://USER:PASSWORD@HOST:PORT/VHOST";
        let url = Url::parse(text).map_err(|error| {
            format!("not a URL: {error}; {FORM}, with reserved characters percent-encoded")
        })?;
        match url.scheme() {
            "amqp" if text[4..].starts_with("://") => {}
            "amqps" => return Err("this version speaks AMQP without TLS only (amqp://)".to_owned()),
            "amqp" => return Err(format!("not a broker's URL; {FORM}")),
            _ => return Err(format!("the scheme is not amqp; {FORM}")),
        }
        // What follows may be a part of the password whose reserved characters are not encoded: it is
        // never repeated.
        if url.query().is_some() {
            return Err("hello-mq takes no parameters in a URL; a '?' that is part of the user or password \
                        is written %3F"
                .to_owned());
        }
        if url.fragment().is_some() {
            return Err("a '#' must be written %23".to_owned());
        }
        if url.path().contains('@') {
            return Err("a '/' in the user or password must be written %2F, and a '@' in the virtual host %40"
                .to_owned());
        }
        if url.port() == Some(0) {
            return Err("a port is a number from 1 to 65535".to_owned());
        }
        let vhost = match url.path().strip_prefix('/').unwrap_or_default() {
            "" => VirtualHost::default(),
            path if path.contains('/') => {
                return Err("a '/' inside the virtual host must be written %2F".to_owned());
            }
            path => decode(path, "virtual host")?.parse()?,
        };
        let host = match url.host_str() {
            None | Some("") => None,
            Some(host) => Some(Host {
                port: None,
                ..decode(host, "host")?.parse()?
            }),
        };
        let username = match url.username() {
            "" => None,
            username => Some(decode(username, "user")?),
        };
        let password = match url.password() {
            None => None,
            Some(password) => Some(Secret::new(decode(password, "password")?)),
        };
        if [username.as_deref(), password.as_ref().map(Secret::expose)]
            .into_iter()
            .flatten()
            .any(|text| text.contains('\0'))
        {
            return Err("user and password can't contain a NUL".to_owned());
        }
        Ok(Self {
            host,
            port: url.port().unwrap_or(AMQP_PORT),
            vhost,
            username,
            password,
        })
    }
}

impl<'de> Deserialize<'de> for BrokerUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer)
    }
}

fn decode(text: &str, part: &str) -> Result<String, String> {
    percent_decode_str(text)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| format!("the {part} is not UTF-8 once its percent-encoding is undone"))
}

/// Reads a string and parses it, so that a value means the same in the file as on the command line.
pub(crate) fn parsed<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err = String>,
{
    deserializer
        .deserialize_any(TextOnly)?
        .parse()
        .map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> BrokerUrl {
        text.parse().unwrap()
    }

    #[test]
    fn a_url_without_path_or_with_an_empty_one_means_the_default_virtual_host() {
        for text in [
            "amqp://host",
            "amqp://host/",
            "amqp://host/%2F",
            "amqp://host/%2f",
        ] {
            assert_eq!(url(text).vhost.as_str(), "/", "{text}");
        }
    }

    #[test]
    fn every_part_of_a_url_is_percent_decoded() {
        let url = url("amqp://a%40b:p%3Aw%2F%C3%A9@h%6fst:1/v%2Fh%23");
        assert_eq!(url.username.as_deref(), Some("a@b"));
        assert_eq!(url.password, Some(Secret::new("p:w/é".to_owned())));
        assert_eq!(url.host.as_ref().map(Host::name), Some("host"));
        assert_eq!((url.port, url.vhost.as_str()), (1, "v/h#"));
    }

    #[test]
    fn a_url_may_hold_an_ipv6_address() {
        assert_eq!(url("amqp://[::1]:7/x").host, Some("::1".parse().unwrap()));
    }

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
            "", "[::1", " h", "a b", ":1", "h:", "h:0", "h:65536", "h:x", "[]:1",
        ] {
            assert!(text.parse::<Host>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_a_url_leaves_out_is_left_out() {
        let url = url("amqp://");
        assert_eq!((url.host, url.username, url.password), (None, None, None));
        assert_eq!(url.port, AMQP_PORT);
    }

    #[test]
    fn a_bad_url_is_refused_without_repeating_its_password() {
        for text in [
            "amqp://u:s3cret@host/a/b",
            "amqp://u:s3cret@host/?heartbeat=1",
            "amqp://u:s3cret@host:99999/",
            "amqp://u:s3cret@host/#x",
            "amqp:u:s3cret@host",
            "http://u:s3cret@host/",
            "amqps://u:s3cret@host/",
            "u:s3cret@host",
            "amqp://u:s3cret%FF@host/",
            "",
        ] {
            let error = text.parse::<BrokerUrl>().unwrap_err();
            assert!(!error.contains("s3cret"), "{text}: {error}");
        }
    }

    #[test]
    fn a_secret_does_not_show_itself() {
        let secret = Secret::new("s3cret".to_owned());
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "*** Some(***)");
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
