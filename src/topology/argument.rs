//! Optional arguments, as they are typed and shown.

use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer};

use crate::message::SHORT_STRING_MAX;
use crate::message::{FieldTable, FieldValue, envelope};
use crate::text;

/// An argument: `KEY=VALUE`, in which numbers and booleans are recognized and anything else is a text, or
/// `KEY:=JSON` for an exact type.
#[derive(Clone, Debug, PartialEq)]
pub struct Argument {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: FieldValue,
}

impl Argument {
    /// Returns an argument, or a description of what AMQP can't carry.
    pub fn new(name: &str, value: FieldValue) -> Result<Self, String> {
        if name.is_empty() {
            return Err("an argument's name can't be empty".to_owned());
        }
        if name.len() > SHORT_STRING_MAX {
            return Err(format!(
                "an argument's name can have at most {SHORT_STRING_MAX} bytes in AMQP; this one has {}",
                name.len()
            ));
        }
        check(&value)?;
        Ok(Self {
            name: name.to_owned(),
            value,
        })
    }
}

impl FromStr for Argument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text
            .split_once('=')
            .ok_or("write KEY=VALUE, or KEY:=JSON for an exact type")?;
        match name.strip_suffix(':') {
            Some(name) => Self::new(name, envelope::parse_value(value.as_bytes())?),
            None => Self::new(name, plain(value)?),
        }
    }
}

/// Returns the value of `KEY=VALUE`.
fn plain(text: &str) -> Result<FieldValue, String> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.bytes().all(|byte| byte.is_ascii_digit()) && looks_like_a_number(text) {
        return text
            .parse()
            .map(int)
            .map_err(|_| format!("{text} does not fit in an AMQP integer"));
    }
    if looks_like_a_number(text) || matches!(text, "true" | "false") {
        return envelope::parse_value(text.as_bytes());
    }
    Ok(FieldValue::LongString(text.into()))
}

/// Whether a text is a number in JSON.
fn looks_like_a_number(text: &str) -> bool {
    text.starts_with(|first: char| first == '-' || first.is_ascii_digit())
        && serde_json::from_str::<serde_json::Number>(text).is_ok()
}

/// Checks that RabbitMQ accepts a value: strings must be UTF-8, and decimals are not supported.
fn check(value: &FieldValue) -> Result<(), String> {
    match value {
        FieldValue::LongString(text) if std::str::from_utf8(text).is_err() => {
            Err("an argument's text must be UTF-8".to_owned())
        }
        FieldValue::Decimal { .. } => Err("an argument can't be a decimal".to_owned()),
        FieldValue::Encoded(_) => Err("an argument can't be a field".to_owned()),
        FieldValue::Array(values) => values.iter().try_for_each(check),
        FieldValue::Table(table) => {
            for (name, value) in table.entries() {
                if name.as_str().is_none() {
                    return Err("an argument's names must be UTF-8".to_owned());
                }
                check(value)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Reads a TOML table as arguments of the same types.
pub fn arguments<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Argument>, D::Error> {
    let table = toml::Table::deserialize(deserializer)?;
    table
        .into_iter()
        .map(|(name, value)| {
            let value = from_toml(value)
                .and_then(|value| Argument::new(&name, value))
                .map_err(|problem| format!("'{}': {problem}", text::escape(&name)));
            value.map_err(de::Error::custom)
        })
        .collect()
}

fn from_toml(value: toml::Value) -> Result<FieldValue, String> {
    Ok(match value {
        toml::Value::String(text) => FieldValue::LongString(text.into_bytes()),
        toml::Value::Integer(number) => int(number),
        toml::Value::Float(number) => FieldValue::Double(number),
        toml::Value::Boolean(flag) => FieldValue::Bool(flag),
        toml::Value::Datetime(_) => {
            return Err("RabbitMQ supports no dates as arguments".to_owned());
        }
        toml::Value::Array(values) => FieldValue::Array(
            values
                .into_iter()
                .map(from_toml)
                .collect::<Result<_, _>>()?,
        ),
        toml::Value::Table(entries) => {
            let entry = |(name, value): (String, toml::Value)| {
                let name = crate::message::ShortString::new(name)?;
                Ok::<_, String>((name, from_toml(value)?))
            };
            let table: Result<FieldTable, _> = entries.into_iter().map(entry).collect();
            FieldValue::Table(table?)
        }
    })
}

/// Returns a whole number in the smaller of the two types that all clients use.
pub fn int(number: i64) -> FieldValue {
    i32::try_from(number).map_or(FieldValue::Long(number), FieldValue::SignedInt)
}

/// Returns the whole number in a value of any type.
pub fn integer(value: &FieldValue) -> Option<i64> {
    Some(match *value {
        FieldValue::Byte(number) => number.into(),
        FieldValue::UnsignedByte(number) => number.into(),
        FieldValue::Short(number) => number.into(),
        FieldValue::UnsignedShort(number) => number.into(),
        FieldValue::SignedInt(number) => number.into(),
        FieldValue::UnsignedInt(number) => number.into(),
        FieldValue::Long(number) => number,
        _ => return None,
    })
}

/// Returns a value for the user: a text, in quotes unless it is a plain word, and anything else as JSON.
pub fn render(value: &FieldValue) -> String {
    match value {
        FieldValue::LongString(text) if is_word(text) => String::from_utf8_lossy(text).into_owned(),
        FieldValue::LongString(text) => text::quote(text),
        value => json(value),
    }
}

/// Returns a value as JSON, as in an envelope, but whole numbers without their type, which does not
/// matter to RabbitMQ.
pub fn json(value: &FieldValue) -> String {
    if let Some(number) = integer(value) {
        return number.to_string();
    }
    let mut bytes = Vec::new();
    // Writing to memory does not fail.
    let _ = envelope::write_value(value, &mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn is_word(text: &[u8]) -> bool {
    !text.is_empty()
        && text
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/#*".contains(byte))
        && std::str::from_utf8(text).is_ok_and(|text| {
            !looks_like_a_number(text) && !matches!(text, "true" | "false" | "none")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_taken_for_what_it_looks_like_unless_json_says() {
        let text = |text: &str| FieldValue::LongString(text.as_bytes().to_vec());
        for (typed, value) in [
            ("k=5", FieldValue::SignedInt(5)),
            ("k=-5", FieldValue::SignedInt(-5)),
            ("k=5000000000", FieldValue::Long(5_000_000_000)),
            ("k=1.5", FieldValue::Double(1.5)),
            ("k=true", FieldValue::Bool(true)),
            ("k=True", text("True")),
            ("k=007", text("007")),
            ("k=", text("")),
            ("k=a=b", text("a=b")),
            ("k=lazy", text("lazy")),
            ("k=inf", text("inf")),
            (r#"k:="5""#, text("5")),
            (r#"k:={"!amqp": "short", "value": 5}"#, FieldValue::Short(5)),
            ("k:=[1]", FieldValue::Array(vec![FieldValue::SignedInt(1)])),
        ] {
            let argument: Result<Argument, _> = typed.parse();
            assert_eq!(
                argument.map(|argument| argument.value),
                Ok(value),
                "{typed}"
            );
        }
        for typed in ["k", "=5", ":=5", "k:=", "k:=x", "k=99999999999999999999"] {
            assert!(typed.parse::<Argument>().is_err(), "{typed}");
        }
        assert!(
            format!("{}=1", "k".repeat(256))
                .parse::<Argument>()
                .is_err()
        );
    }
}
