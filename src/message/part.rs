//! Properties and headers, selected by their names in an envelope.

use std::fmt;
use std::str::FromStr;

use super::{Properties, ShortString};
use crate::text;

/// A property or a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The property with this name; `headers` is the table of all headers.
    Property(&'static str),
    /// The header with this name: `headers.KEY`.
    Header(ShortString),
}

impl Part {
    /// The names of the properties.
    pub const NAMES: [&str; 14] = [
        "content_type",
        "content_encoding",
        "headers",
        "delivery_mode",
        "priority",
        "correlation_id",
        "reply_to",
        "expiration",
        "message_id",
        "timestamp",
        "type",
        "user_id",
        "app_id",
        "cluster_id",
    ];
}

impl FromStr for Part {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        if let Some(key) = name.strip_prefix("headers.").filter(|key| !key.is_empty()) {
            return ShortString::new(key).map(Self::Header);
        }
        if let Some(name) = Self::NAMES.iter().find(|known| **known == name) {
            return Ok(Self::Property(name));
        }
        let meant = text::nearest(name, Self::NAMES).unwrap_or("user_id");
        Err(format!(
            "use the names of '-o json', such as {meant}, or headers.KEY for one header"
        ))
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Property(name) => f.write_str(name),
            Self::Header(name) => {
                let name = String::from_utf8_lossy(name.as_bytes());
                write!(f, "headers.{}", text::escape(&name))
            }
        }
    }
}

impl Part {
    /// Whether it is the property user_id.
    pub(crate) fn is_user_id(&self) -> bool {
        matches!(self, Self::Property("user_id"))
    }
}

impl Properties {
    /// Removes a part, and returns whether it was present.
    pub fn remove(&mut self, part: &Part) -> bool {
        let name = match part {
            Part::Property(name) => *name,
            Part::Header(name) => return self.remove_header(name),
        };
        match name {
            "content_type" => self.content_type.take().is_some(),
            "content_encoding" => self.content_encoding.take().is_some(),
            "headers" => self.headers.take().is_some(),
            "delivery_mode" => self.delivery_mode.take().is_some(),
            "priority" => self.priority.take().is_some(),
            "correlation_id" => self.correlation_id.take().is_some(),
            "reply_to" => self.reply_to.take().is_some(),
            "expiration" => self.expiration.take().is_some(),
            "message_id" => self.message_id.take().is_some(),
            "timestamp" => self.timestamp.take().is_some(),
            "type" => self.kind.take().is_some(),
            "user_id" => self.user_id.take().is_some(),
            "app_id" => self.app_id.take().is_some(),
            "cluster_id" => self.cluster_id.take().is_some(),
            _ => false,
        }
    }

    fn remove_header(&mut self, name: &ShortString) -> bool {
        let Some(headers) = &mut self.headers else {
            return false;
        };
        let was_there = headers.remove(name.as_bytes());
        if was_there && headers.is_empty() {
            self.headers = None;
        }
        was_there
    }
}

#[cfg(test)]
mod tests {
    use super::super::properties::tests::properties;
    use super::super::{FieldTable, FieldValue};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_name_is_that_of_one_property(properties in properties()) {
            let mut rest = properties;
            for name in Part::NAMES {
                let part: Part = name.parse().unwrap();
                prop_assert_eq!(part.to_string(), name);
                let before = rest.clone();
                prop_assert_eq!(rest.remove(&part), rest != before);
                prop_assert!(!rest.remove(&part));
            }
            prop_assert_eq!(rest, Properties::default());
        }
    }

    #[test]
    fn one_header_is_left_out_as_often_as_it_is_there() {
        let header = |name: &str| (ShortString::new(name).unwrap(), FieldValue::Void);
        let with = |names: &[&str]| Properties {
            headers: Some(
                names
                    .iter()
                    .map(|name| header(name))
                    .collect::<FieldTable>(),
            ),
            ..Properties::default()
        };
        let part: Part = "headers.CC".parse().unwrap();
        let mut properties = with(&["a", "CC", "cc", "CC"]);
        assert!(properties.remove(&part) && !properties.remove(&part));
        assert_eq!(properties, with(&["a", "cc"]));
        let mut properties = with(&["CC"]);
        assert!(properties.remove(&part));
        assert_eq!(properties, Properties::default());
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_one_that_may_be_meant() {
        let error = "user-id".parse::<Part>().unwrap_err();
        assert!(error.contains("such as user_id"), "{error}");
        for name in ["", "CC", "headers.", "payload"] {
            assert!(name.parse::<Part>().is_err(), "{name}");
        }
    }
}
