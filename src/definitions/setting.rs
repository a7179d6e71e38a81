//! Values with their origins, and their text form.

use std::fmt;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use serde_json::Value;
use toml::Spanned;

use crate::error::Error;
use crate::text;
use crate::values::{ConnectTimeout, Heartbeat, Mechanism, ServerName, Span, VirtualHost};

/// The source of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This option.
    Flag(&'static str),
    /// This environment variable.
    Environment(&'static str),
    /// The profile with this name, and its `FILE:LINE`.
    Profile(String, String),
    /// The top level of the configuration file, and its `FILE:LINE`.
    File(String),
    /// No source.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) | Self::Environment(name) => write!(f, "from {name}"),
            Self::Profile(name, place) => {
                write!(f, "from profile '{}' ({place})", text::escape(name))
            }
            Self::File(place) => write!(f, "from {place}"),
            Self::Default => f.write_str("the default"),
        }
    }
}

impl Origin {
    /// Returns the error of a value that was set here, as this `key` of the file, and is not valid.
    #[must_use]
    pub fn wrong(&self, key: &str, problem: impl fmt::Display) -> Error {
        match self {
            Self::Flag(name) => Error::Usage(format!("{name}: {problem}")),
            Self::Environment(name) => Error::Config {
                place: (*name).to_owned(),
                problem: problem.to_string(),
            },
            Self::Profile(_, place) | Self::File(place) => Error::Config {
                place: place.clone(),
                problem: format!("{key}: {problem}"),
            },
            Self::Default => Error::Config {
                place: key.to_owned(),
                problem: problem.to_string(),
            },
        }
    }

    /// Returns the error of a value that was set here, as this `key` of the file, and names something
    /// that can't be used.
    #[must_use]
    pub fn unusable(&self, key: &str, problem: impl fmt::Display) -> Error {
        match self {
            Self::Flag(name) => Error::Config {
                place: (*name).to_owned(),
                problem: problem.to_string(),
            },
            _ => self.wrong(key, problem),
        }
    }
}

/// A value and its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting<T> {
    /// The value.
    pub value: T,
    /// Its origin.
    pub origin: Origin,
}

impl<T> Setting<T> {
    /// Creates a setting.
    pub const fn new(value: T, origin: Origin) -> Self {
        Self { value, origin }
    }

    /// Returns what `to` makes of the value, with the same origin.
    pub fn map<U>(self, to: impl FnOnce(T) -> U) -> Setting<U> {
        Setting::new(to(self.value), self.origin)
    }
}

/// A table of the configuration file, as far as its values depend on where it is.
pub trait ConfigSource {
    /// Returns the origin of a value of the table.
    fn origin<T>(&self, value: &Spanned<T>) -> Origin;

    /// Returns a path of the table as one that does not depend on the working directory.
    fn absolute(&self, path: &Path) -> PathBuf;
}

/// A setting, as far as the documentation needs it besides its option.
pub struct Definition {
    /// The key in its table, which is clap's id of the option, too.
    pub key: &'static str,
    /// The default as the help shows it, if it shows one.
    pub default: fn() -> Option<String>,
    /// Whether the setting may have no value.
    pub is_optional: bool,
    /// The default as TOML, or an example of a value where there is none.
    pub example: fn() -> String,
}

/// A setting as `--explain` shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedSetting {
    /// Its key in the configuration file; for the broker to which `receive` publishes, after `target.`.
    pub key: String,
    /// Its value, without secrets.
    pub value: Value,
    /// The text that is shown if there is no value.
    pub absent: &'static str,
    /// Its origin.
    pub origin: Origin,
}

impl ListedSetting {
    /// Lists a setting that always has a value.
    pub fn new<T>(key: &str, setting: &Setting<T>, value: fn(&T) -> Value) -> Self {
        Self {
            key: key.to_owned(),
            value: value(&setting.value),
            absent: "",
            origin: setting.origin.clone(),
        }
    }

    /// Lists a setting that may have no value, which is then shown as `absent`.
    pub fn optional<T>(
        key: &str,
        setting: &Setting<Option<T>>,
        absent: &'static str,
        value: fn(&T) -> Value,
    ) -> Self {
        Self {
            key: key.to_owned(),
            value: setting.value.as_ref().map_or(Value::Null, value),
            absent,
            origin: setting.origin.clone(),
        }
    }
}

/// A value that can be listed. No secret is one.
pub trait Listed {
    /// Returns the value in JSON, which is TOML as well.
    fn listed(&self) -> Value;
}

impl Listed for bool {
    fn listed(&self) -> Value {
        (*self).into()
    }
}

impl Listed for NonZeroU16 {
    fn listed(&self) -> Value {
        self.get().into()
    }
}

impl Listed for PathBuf {
    fn listed(&self) -> Value {
        self.display().to_string().into()
    }
}

macro_rules! listed_as_text {
    ($($type:ty: |$value:ident| $text:expr,)*) => {
        $(impl Listed for $type {
            fn listed(&self) -> Value {
                let $value = self;
                $text.into()
            }
        })*
    };
}

listed_as_text! {
    String: |text| text.as_str(),
    VirtualHost: |name| name.as_str(),
    ServerName: |name| name.as_str(),
    Mechanism: |mechanism| mechanism.as_str().to_lowercase(),
    ConnectTimeout: |timeout| timeout.to_string(),
    Heartbeat: |interval| interval.to_string(),
    Span: |span| span.to_string(),
}

/// Returns a value as the help shows it: text without quotes.
pub fn shown(value: &impl Listed) -> String {
    match value.listed() {
        Value::String(text) => text,
        other => other.to_string(),
    }
}
