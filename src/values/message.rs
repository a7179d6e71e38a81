//! Values for messages: targets, delimiters, headers, times, rates and paces.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Span, deserialize_by_parsing};
use crate::message::{FieldValue, SHORT_STRING_MAX, ShortString, envelope};
use crate::text;

/// The name of an exchange, empty for the default one, or a routing key: no longer than
/// [`SHORT_STRING_MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() > SHORT_STRING_MAX {
            return Err(format!(
                "can have at most {SHORT_STRING_MAX} bytes in AMQP; this one has {}",
                text.len()
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

deserialize_by_parsing!(Name);

/// The target of forwarded messages: `EXCHANGE:ROUTING_KEY`, or `:QUEUE` for a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The exchange, empty for the default one.
    pub exchange: String,
    /// The routing key.
    pub routing_key: String,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (exchange, routing_key) = text
            .split_once(':')
            .ok_or("write EXCHANGE:ROUTING_KEY, or :QUEUE for a queue")?;
        if exchange.is_empty() && routing_key.is_empty() {
            return Err("a queue's name can't be empty".to_owned());
        }
        Ok(Self {
            exchange: exchange.parse::<Name>()?.0,
            routing_key: routing_key.parse::<Name>()?.0,
        })
    }
}

/// The bytes between messages, at least one, written with the escapes `\n`, `\r`, `\t`, `\0`, `\\` and
/// `\xNN`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delimiter(Vec<u8>);

impl Delimiter {
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for Delimiter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = text::unescape(text)?;
        if bytes.is_empty() {
            return Err("a delimiter can't be empty".to_owned());
        }
        Ok(Self(bytes))
    }
}

/// The bytes after each message in the output, possibly none; written like a [`Delimiter`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputDelimiter(Vec<u8>);

impl OutputDelimiter {
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for OutputDelimiter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text::unescape(text).map(Self)
    }
}

/// The position in a stream from which to receive (<https://www.rabbitmq.com/docs/streams#consuming>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamOffset {
    /// The first message.
    First,
    /// The last chunk of messages.
    Last,
    /// The next message that arrives.
    Next,
    /// The message with this number, counted from 0.
    Number(u64),
    /// The messages of this moment.
    Moment(Timestamp),
}

impl fmt::Display for StreamOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First => f.write_str("first"),
            Self::Last => f.write_str("last"),
            Self::Next => f.write_str("next"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Moment(Timestamp(seconds)) => {
                // It was parsed from a date, so it can be formatted as one.
                let moment = UNIX_EPOCH + Duration::from_secs(*seconds);
                humantime::format_rfc3339_seconds(moment).fmt(f)
            }
        }
    }
}

impl FromStr for StreamOffset {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "first" => Self::First,
            "last" => Self::Last,
            "next" => Self::Next,
            _ => match text.parse() {
                Ok(number) => Self::Number(number),
                Err(_) => Self::Moment(text.parse().map_err(
                    |_| "write first, last, next, a number, or a time like 2025-12-31T23:59:59Z",
                )?),
            },
        })
    }
}

/// A header: `KEY: VALUE` for a text, `KEY:=JSON` for a value of another type.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// The name.
    pub name: ShortString,
    /// The value.
    pub value: FieldValue,
}

impl FromStr for Header {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text
            .split_once(':')
            .ok_or("write 'KEY: VALUE' for text, or 'KEY:=JSON' for another type")?;
        let name = name.trim();
        if name.is_empty() {
            return Err("a header's name can't be empty".to_owned());
        }
        let value = match value.strip_prefix('=') {
            Some(json) => envelope::parse_value(json.as_bytes())?,
            None => FieldValue::LongString(value.trim_start().as_bytes().to_vec()),
        };
        Ok(Self {
            name: ShortString::new(name)?,
            value,
        })
    }
}

/// The maximum time that a message waits in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiration(Span);

impl Expiration {
    /// Returns the value of AMQP's property, which is a decimal number of milliseconds.
    pub fn milliseconds(self) -> String {
        self.0.get().as_millis().to_string()
    }
}

impl FromStr for Expiration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let span: Span = text.parse()?;
        // The limit is RabbitMQ's (rabbit_misc:check_expiry).
        if span.get().as_millis() > u128::from(u32::MAX) {
            return Err(format!("{text} exceeds RabbitMQ's maximum of 49 days"));
        }
        Ok(Self(span))
    }
}

/// A moment in seconds since 1970: `now`, a number, or a date and time according to RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp(pub u64);

impl FromStr for Timestamp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let moment = match text {
            "now" => SystemTime::now(),
            _ => match text.parse() {
                Ok(seconds) => return Ok(Self(seconds)),
                Err(_) => humantime::parse_rfc3339(text).map_err(|_| {
                    "write now, seconds since 1970, or a time like 2025-12-31T23:59:59Z".to_owned()
                })?,
            },
        };
        moment
            .duration_since(SystemTime::UNIX_EPOCH)
            .map(|since| Self(since.as_secs()))
            .map_err(|_| "is before 1970".to_owned())
    }
}

/// The number of messages to send per second, greater than 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate(f64);

impl Rate {
    /// Returns the time from one message to the next.
    pub fn interval(self) -> Duration {
        Duration::try_from_secs_f64(1.0 / self.0).unwrap_or(Duration::MAX)
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(rate) if rate > 0.0 && f64::is_finite(rate) => Ok(Self(rate)),
            _ => Err("not a number of messages a second, such as 100 or 0.5".to_owned()),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", self.0)
    }
}

/// The pace at which to send a recording: `recorded`, or a factor greater than 0, such as `2x` for twice as
/// fast.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace(f64);

impl Pace {
    /// Returns the time between two messages that were received at this distance.
    pub fn scale(self, distance: Duration) -> Duration {
        Duration::try_from_secs_f64(distance.as_secs_f64() / self.0).unwrap_or(Duration::MAX)
    }
}

impl FromStr for Pace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "recorded" {
            return Ok(Self(1.0));
        }
        match text.strip_suffix('x').map(str::parse) {
            Some(Ok(factor)) if factor > 0.0 && f64::is_finite(factor) => Ok(Self(factor)),
            _ => Err("write recorded, or a factor such as 2x or 0.5x".to_owned()),
        }
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delimiters_are_bytes() {
        let bytes = |text: &str| text.parse::<Delimiter>().map(|delimiter| delimiter.0);
        assert_eq!(bytes("--").unwrap(), b"--");
        assert_eq!(bytes(r"\r\n").unwrap(), b"\r\n");
        assert_eq!(bytes(r"\0\x1F\\t").unwrap(), b"\0\x1f\\t");
        assert_eq!(bytes("é").unwrap(), "é".as_bytes());
        for wrong in ["", "\\", r"\q", r"\x1", r"\x1g"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_target_is_an_exchange_and_a_routing_key() {
        let target = |text: &str| {
            text.parse::<Target>()
                .map(|target| (target.exchange, target.routing_key))
        };
        let pair = |exchange: &str, key: &str| Ok((exchange.to_owned(), key.to_owned()));
        assert_eq!(target(":queue"), pair("", "queue"));
        assert_eq!(target("x:a:b"), pair("x", "a:b"));
        assert_eq!(target("x:"), pair("x", ""));
        for wrong in ["queue", ":", ""] {
            assert!(target(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn headers_are_texts_or_json() {
        let header = |text: &str| {
            text.parse::<Header>()
                .map(|header| (header.name.as_str().unwrap().to_owned(), header.value))
        };
        let text = |text: &str| FieldValue::LongString(text.into());
        assert_eq!(header("a: b: c").unwrap(), ("a".to_owned(), text("b: c")));
        assert_eq!(header("a:b").unwrap(), ("a".to_owned(), text("b")));
        assert_eq!(header("a:").unwrap(), ("a".to_owned(), text("")));
        assert_eq!(
            header("a:=1").unwrap(),
            ("a".to_owned(), FieldValue::SignedInt(1))
        );
        assert_eq!(
            header("a:=true").unwrap(),
            ("a".to_owned(), FieldValue::Bool(true))
        );
        let long = format!("{}: x", "k".repeat(256));
        for wrong in ["a", ": b", "a:=", "a:={", &long] {
            assert!(header(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_and_rates() {
        assert_eq!("1m".parse::<Expiration>().unwrap().milliseconds(), "60000");
        assert!("50days".parse::<Expiration>().is_err());
        assert_eq!("12".parse(), Ok(Timestamp(12)));
        assert_eq!("1970-01-01T00:01:00Z".parse(), Ok(Timestamp(60)));
        assert!("yesterday".parse::<Timestamp>().is_err());
        assert_eq!(
            "0.5".parse::<Rate>().unwrap().interval(),
            Duration::from_secs(2)
        );
        for wrong in ["0", "-1", "inf", "NaN", "x"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
        let scaled = |pace: &str| pace.parse::<Pace>().unwrap().scale(Duration::from_secs(6));
        for (pace, seconds) in [("recorded", 6), ("1x", 6), ("2x", 3), ("0.5x", 12)] {
            assert_eq!(scaled(pace), Duration::from_secs(seconds), "{pace}");
        }
        for wrong in [
            "", "x", "2", "0x", "-1x", "infx", "NaNx", "1e400x", "Recorded",
        ] {
            assert!(wrong.parse::<Pace>().is_err(), "{wrong}");
        }
    }
}
