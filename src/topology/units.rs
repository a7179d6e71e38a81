//! Durations and sizes, as the user writes them and RabbitMQ counts them.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer};

use super::argument::int;
use crate::message::FieldValue;
use crate::values::{Span, deserialize_by_parsing};

deserialize_by_parsing!(Milliseconds);

/// A duration in whole milliseconds, the unit of a queue's arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Milliseconds(pub u64);

impl Milliseconds {
    /// Returns the value of the argument.
    pub fn value(self) -> FieldValue {
        int(i64::try_from(self.0).unwrap_or(i64::MAX))
    }
}

impl FromStr for Milliseconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let duration = text.parse::<Span>()?.get();
        if duration.subsec_nanos() % 1_000_000 != 0 {
            return Err(format!("{text} is not a whole number of milliseconds"));
        }
        // AMQP carries an i64.
        u64::try_from(duration.as_millis())
            .ok()
            .filter(|milliseconds| i64::try_from(*milliseconds).is_ok())
            .map(Self)
            .ok_or(format!("{text} is too long for AMQP"))
    }
}

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let duration = std::time::Duration::from_millis(self.0);
        let text = humantime::format_duration(duration).to_string();
        f.write_str(&text.replace(' ', ""))
    }
}

/// The maximum age of messages in a stream: a whole number and a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    milliseconds: u128,
}

impl Age {
    /// The units, the largest first. RabbitMQ's years have 365 days and its months 30.
    const UNITS: [(char, u128); 6] = [
        ('Y', 365 * 86_400_000),
        ('M', 30 * 86_400_000),
        ('D', 86_400_000),
        ('h', 3_600_000),
        ('m', 60_000),
        ('s', 1000),
    ];

    /// Parses an age as RabbitMQ shows it: as it was declared, or since 4.3 in milliseconds.
    pub fn shown(text: &str) -> Option<Self> {
        text.parse()
            .or_else(|_| text.parse().map(|milliseconds| Self { milliseconds }))
            .ok()
    }
}

impl FromStr for Age {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let milliseconds = Self::UNITS.iter().find_map(|(unit, length)| {
            let number: u64 = text.strip_suffix(*unit)?.parse().ok()?;
            (number > 0).then(|| u128::from(number) * length)
        });
        match milliseconds {
            Some(milliseconds) => Ok(Self { milliseconds }),
            None => Err("must be an integer of at least 1 and one of Y, M, D, h, m, s".to_owned()),
        }
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fitting = Self::UNITS
            .iter()
            .find(|(_, length)| self.milliseconds % length == 0);
        match fitting {
            Some((unit, length)) => write!(f, "{}{unit}", self.milliseconds / length),
            None => write!(f, "{}", self.milliseconds),
        }
    }
}

/// A size in bytes, written as a number or with a unit: `64KiB` is 65536, `10MB` ten million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(u64);

impl Size {
    /// Returns the value of the argument.
    pub fn value(self) -> FieldValue {
        int(i64::try_from(self.0).unwrap_or(i64::MAX))
    }

    /// Returns the number of bytes, or the maximum of `usize`.
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const SIZE_FORMAT: &str = "not a size; write it like 1000, 64KiB or 10MB";
        let end = text
            .find(|character: char| !character.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let number: u64 = number.parse().map_err(|_| SIZE_FORMAT.to_owned())?;
        let factor: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kb" => 1000,
            "mb" => 1000_u64.pow(2),
            "gb" => 1000_u64.pow(3),
            "tb" => 1000_u64.pow(4),
            "kib" => 1024,
            "mib" => 1024_u64.pow(2),
            "gib" => 1024_u64.pow(3),
            "tib" => 1024_u64.pow(4),
            _ => return Err(SIZE_FORMAT.to_owned()),
        };
        number
            .checked_mul(factor)
            .filter(|bytes| i64::try_from(*bytes).is_ok())
            .map(Self)
            .ok_or(format!("{text} is too large for AMQP"))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match toml::Value::deserialize(deserializer)? {
            toml::Value::Integer(bytes) => u64::try_from(bytes)
                .map(Self)
                .map_err(|_| de::Error::custom("must be 0 or more")),
            toml::Value::String(text) => text.parse().map_err(de::Error::custom),
            _ => Err(de::Error::custom(
                "must be a number of bytes, or a size in quotes like \"64KiB\"",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_converted() {
        for (text, bytes) in [
            ("0", 0),
            ("1000", 1000),
            ("64KiB", 65536),
            ("10MB", 10_000_000),
            ("2 gib", 2 << 30),
            ("1b", 1),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "KiB", "-1", "1.5MB", "1K", "10 parsecs", "9999999TiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        assert_eq!("1m30s".parse(), Ok(Milliseconds(90_000)));
        assert_eq!(Milliseconds(90_000).to_string(), "1m30s");
        assert_eq!("1m30s".parse(), Ok(Milliseconds(90_000)));
        assert!("500us".parse::<Milliseconds>().is_err());
        assert!("-5s".parse::<Milliseconds>().is_err());
        for (shown, age) in [
            ("3600000", "1h"),
            ("60m", "1h"),
            ("90000", "90s"),
            ("31536000000", "1Y"),
            ("2592000000", "1M"),
            ("7D", "7D"),
            ("1", "1"),
        ] {
            let age = Some(age.to_owned());
            assert_eq!(Age::shown(shown).map(|age| age.to_string()), age, "{shown}");
        }
        for text in ["", "h", "0s", "-1h", "+1h ", "1d", "1h30m", "3600000"] {
            assert!(text.parse::<Age>().is_err(), "{text}");
        }
        for milliseconds in [0, 1, 999, 86_400_000, 90_061_001, 4_294_967_295] {
            let shown = Milliseconds(milliseconds).to_string();
            assert_eq!(shown.parse(), Ok(Milliseconds(milliseconds)), "{shown}");
        }
    }
}
