//! Values for the login: secrets, mechanisms, the broker's name, the command that prints a password.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer};

use super::{Host, deserialize_by_parsing, string};

deserialize_by_parsing!(Mechanism, ServerName);

/// A secret text. Its `Debug` does not show it, and it has no `Display`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text, which only [`Secret::expose`] returns.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// Returns the text, to be sent to the broker.
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
        string(deserializer).map(Self)
    }
}

/// A SASL mechanism, by which to log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// User and password (RFC 4616).
    Plain,
    /// The client's certificate (RFC 4422, appendix A).
    External,
}

impl Mechanism {
    /// The names of the mechanisms as options.
    pub const NAMES: &'static [&'static str] = &["plain", "external"];

    /// Returns the name in the protocol.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::External => "EXTERNAL",
        }
    }
}

impl FromStr for Mechanism {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "plain" => Ok(Self::Plain),
            "external" => Ok(Self::External),
            _ => Err(format!("must be one of {}", Self::NAMES.join(", "))),
        }
    }
}

/// The name or the address that the broker's certificate must contain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerName(String);

impl ServerName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServerName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let host: Host = text.parse()?;
        match host.port() {
            None => Ok(Self(host.name().to_owned())),
            Some(_) => Err("a server name can't have a port".to_owned()),
        }
    }
}

/// A program that prints the password, and its arguments. No shell is involved.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordCommand {
    /// The program: a path, or a name that is looked up in `PATH`.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
}

/// Shows the program without its arguments, which may contain secrets.
impl fmt::Debug for PasswordCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ***", self.program)
    }
}

impl<'de> Deserialize<'de> for PasswordCommand {
    /// Reads a list of strings. No error repeats a value, which may be a password.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Ok(toml::Value::Array(values)) = toml::Value::deserialize(deserializer) else {
            return Err(de::Error::custom(
                "must be a list of strings: a program and its arguments",
            ));
        };
        let mut words = Vec::new();
        for value in values {
            match value {
                toml::Value::String(word) if word.contains('\0') => {
                    return Err(de::Error::custom("can't contain a NUL"));
                }
                toml::Value::String(word) => words.push(word),
                _ => return Err(de::Error::custom("must be a string in quotes")),
            }
        }
        let mut words = words.into_iter();
        match words.next() {
            Some(program) if !program.is_empty() => Ok(Self {
                program,
                arguments: words.collect(),
            }),
            _ => Err(de::Error::custom("is empty")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_show_itself() {
        let secret = Secret::new("s3cret".to_owned());
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "*** Some(***)");
    }

    #[test]
    fn a_server_has_a_name_or_an_address_and_no_port() {
        for (text, name) in [
            ("h", "h"),
            ("::1", "::1"),
            ("10.0.0.1", "10.0.0.1"),
            ("bücher.example", "xn--bcher-kva.example"),
        ] {
            assert_eq!(text.parse::<ServerName>().unwrap().as_str(), name);
        }
        assert!("h:1".parse::<ServerName>().is_err());
        assert!("".parse::<ServerName>().is_err());
    }
}
