//! The environment of a command: the variables of its message, and those it inherits.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use url::Url;

use crate::message::{FieldValue, Message, ShortString, envelope};

/// The beginning of the names of all variables.
const VARIABLE_PREFIX: &str = "HELLO_MQ_";

/// The variable that names the variables that are left out.
const OMITTED: &str = "HELLO_MQ_OMITTED";

/// The most bytes of names that it holds.
const MAX_OMITTED_SIZE: usize = 4096;

/// The longest variable. With a longer one the system would not start the command (`MAX_ARG_STRLEN` of
/// Linux is 128 KiB), so that one is left out.
const MAX_VARIABLE_SIZE: usize = 100_000;

/// The variables of a message in the environment of a command.
pub(super) struct Variables {
    /// The name of each variable, and the length of its value.
    present: Vec<(OsString, usize)>,
    omitted: Vec<OsString>,
}

impl Variables {
    /// Adds the variables of a message to a command, except for those that no command can have.
    pub(super) fn add_to(command: &mut Command, message: &Message, attempt: u64) -> Self {
        let mut variables = Self {
            present: Vec::new(),
            omitted: Vec::new(),
        };
        for (name, value) in variables_of(message, attempt) {
            let name = OsString::from(format!("{VARIABLE_PREFIX}{name}"));
            // A NUL byte would end the variable.
            if value.len() > MAX_VARIABLE_SIZE || value.contains(&0) {
                variables.omitted.push(name);
            } else {
                command.env(&name, OsStr::from_bytes(&value));
                variables.present.push((name, value.len()));
            }
        }
        variables.list_omitted(command);
        variables
    }

    /// Removes the longest variables until at most half of the bytes are left. Returns whether any were
    /// removed.
    pub(super) fn halve(&mut self, command: &mut Command) -> bool {
        let size = |(name, length): &(OsString, usize)| name.len() + length;
        self.present.sort_by_key(size);
        let half = self.present.iter().map(size).sum::<usize>() / 2;
        let mut total = 0;
        let kept = self.present.iter().take_while(|variable| {
            total += size(variable);
            total <= half
        });
        let longest = self.present.split_off(kept.count());
        let is_shorter = !longest.is_empty();
        for (name, _) in longest.into_iter().rev() {
            command.env_remove(&name);
            self.omitted.push(name);
        }
        self.list_omitted(command);
        is_shorter
    }

    fn list_omitted(&self, command: &mut Command) {
        let mut names = OsString::new();
        for name in &self.omitted {
            if names.len() + name.len() > MAX_OMITTED_SIZE {
                names.push(" ...");
                break;
            }
            if !names.is_empty() {
                names.push(" ");
            }
            names.push(name);
        }
        if !names.is_empty() {
            command.env(OMITTED, names);
        }
    }
}

/// The variables that are settings. All others with the prefix belong to a message: a `receive` that
/// itself runs as a command does not pass on those of its own message.
const SETTINGS: [&str; 4] = [
    "HELLO_MQ_URL",
    "HELLO_MQ_QUEUE",
    "HELLO_MQ_PROFILE",
    "HELLO_MQ_CONFIG",
];

/// The settings that may contain a password.
const URLS: [&str; 2] = ["HELLO_MQ_URL", "AMQP_URL"];

/// Returns the changes to the inherited variables: those of another message and secrets are removed, and
/// a URL loses its password.
pub(super) fn changes(
    inherited: impl Iterator<Item = (OsString, OsString)>,
) -> Vec<(OsString, Option<OsString>)> {
    let mut changes = Vec::new();
    for (name, value) in inherited {
        let Some(text) = name.to_str() else {
            continue;
        };
        if URLS.contains(&text) {
            let url = value.to_str().and_then(|url| Url::parse(url).ok());
            let url = url.filter(Url::has_host);
            if url.as_ref().is_none_or(|url| url.password().is_some()) {
                // Something that is not a URL may contain anything.
                changes.push((name, url.and_then(without_password)));
            }
        } else if text.starts_with(VARIABLE_PREFIX) && !SETTINGS.contains(&text) {
            changes.push((name, None));
        }
    }
    changes
}

fn without_password(mut url: Url) -> Option<OsString> {
    url.set_password(None).ok()?;
    Some(String::from(url).into())
}

/// Returns the variables of a message, without the prefix: its exchange and routing key, its properties by
/// the names of the envelope, all headers as JSON, and each header by itself.
fn variables_of(message: &Message, attempt: u64) -> Vec<(String, Vec<u8>)> {
    let p = &message.properties;
    let own = |text: &dyn ToString| Some(text.to_string().into_bytes());
    let text = |text: &Option<ShortString>| text.as_ref().map(|text| text.as_bytes().to_vec());
    let number = |number: Option<u64>| number.and_then(|number| own(&number));
    let mut variables = vec![
        ("EXCHANGE", own(&message.exchange)),
        ("ROUTING_KEY", own(&message.routing_key)),
        ("REDELIVERED", own(&message.redelivered)),
        ("ATTEMPT", own(&attempt)),
        ("CONTENT_TYPE", text(&p.content_type)),
        ("CONTENT_ENCODING", text(&p.content_encoding)),
        ("DECODED", message.decoded.and_then(|it| own(&it))),
        ("DELIVERY_MODE", number(p.delivery_mode.map(u64::from))),
        ("PRIORITY", number(p.priority.map(u64::from))),
        ("CORRELATION_ID", text(&p.correlation_id)),
        ("REPLY_TO", text(&p.reply_to)),
        ("EXPIRATION", text(&p.expiration)),
        ("MESSAGE_ID", text(&p.message_id)),
        ("TIMESTAMP", number(p.timestamp)),
        ("TYPE", text(&p.kind)),
        ("USER_ID", text(&p.user_id)),
        ("APP_ID", text(&p.app_id)),
        ("CLUSTER_ID", text(&p.cluster_id)),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name.to_owned(), value?)))
    .collect::<Vec<_>>();
    if let Some(headers) = &p.headers {
        let mut json = Vec::new();
        if envelope::write_table(headers, &mut json).is_ok() {
            variables.push(("HEADERS".to_owned(), json));
        }
        for (name, value) in headers.entries() {
            let mut bytes = Vec::new();
            match value {
                FieldValue::LongString(text) | FieldValue::Binary(text) => bytes.clone_from(text),
                value => {
                    let _ = envelope::write_value(value, &mut bytes);
                }
            }
            variables.push((format!("HEADER_{}", variable_name(name)), bytes));
        }
    }
    variables
}

/// Converts the name of a header to capital letters, digits and `_`.
fn variable_name(name: &ShortString) -> String {
    let letter = |byte: &u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte.to_ascii_uppercase()),
        _ => '_',
    };
    name.as_bytes().iter().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Properties;

    #[test]
    fn a_command_learns_what_the_envelope_says() {
        let header = |name: &str, value| (ShortString::new(name).unwrap(), value);
        let message = Message {
            routing_key: "k".to_owned(),
            properties: Properties {
                app_id: ShortString::new("p").ok(),
                message_id: ShortString::new(*b"n\0").ok(),
                headers: Some(
                    [
                        header("x-Shop.no", FieldValue::LongString(b"7 \xff".to_vec())),
                        header("n", FieldValue::SignedInt(1)),
                        header("zero", FieldValue::LongString(vec![0])),
                        header("long", FieldValue::LongString(vec![b'x'; 200_000])),
                    ]
                    .into_iter()
                    .collect(),
                ),
                ..Properties::default()
            },
            ..Message::default()
        };
        let mut command = Command::new("true");
        let mut variables = Variables::add_to(&mut command, &message, 2);
        let get = |command: &Command, name: &str| {
            let name = format!("{VARIABLE_PREFIX}{name}");
            let found = command.get_envs().find(|(key, _)| *key == &*name);
            found.and_then(|(_, value)| value.map(|value| value.as_bytes().to_vec()))
        };
        for (name, value) in [
            ("EXCHANGE", &b""[..]),
            ("ROUTING_KEY", b"k"),
            ("ATTEMPT", b"2"),
            ("APP_ID", b"p"),
            ("HEADER_X_SHOP_NO", b"7 \xff"),
            ("HEADER_N", b"1"),
            (
                "OMITTED",
                b"HELLO_MQ_MESSAGE_ID HELLO_MQ_HEADERS HELLO_MQ_HEADER_ZERO HELLO_MQ_HEADER_LONG",
            ),
        ] {
            assert_eq!(get(&command, name).as_deref(), Some(value), "{name}");
        }
        for absent in [
            "MESSAGE_ID",
            "HEADER_ZERO",
            "HEADER_LONG",
            "HEADERS",
            "PRIORITY",
        ] {
            assert_eq!(get(&command, absent), None, "{absent}");
        }
        // The longest go first, and in the end all.
        assert!(variables.halve(&mut command));
        assert_eq!(get(&command, "HEADER_X_SHOP_NO"), None);
        assert!(get(&command, "APP_ID").is_some());
        while variables.halve(&mut command) {}
        let left = command.get_envs().filter(|(_, value)| value.is_some());
        assert_eq!(left.count(), 1);
        let omitted = String::from_utf8(get(&command, "OMITTED").unwrap()).unwrap();
        assert_eq!(omitted.split(' ').count(), 11, "{omitted}");
    }

    #[test]
    fn the_note_of_what_is_left_out_is_bounded() {
        let headers = (0..10_000).map(|n| {
            let name = ShortString::new(format!("header-{n}")).unwrap();
            (name, FieldValue::LongString(vec![0]))
        });
        let message = Message {
            properties: Properties {
                headers: Some(headers.collect()),
                ..Properties::default()
            },
            ..Message::default()
        };
        let mut command = Command::new("true");
        Variables::add_to(&mut command, &message, 1);
        let omitted = command.get_envs().find(|(name, _)| *name == OMITTED);
        let omitted = omitted.unwrap().1.unwrap().as_bytes();
        assert!(omitted.len() < MAX_OMITTED_SIZE + 10 && omitted.ends_with(b" ..."));
    }

    #[test]
    fn no_secret_is_inherited_nor_what_another_message_says() {
        let rows = [
            ("HELLO_MQ_PASSWORD", "s3cret", Some(None)),
            ("HELLO_MQ_HEADER_X", "x", Some(None)),
            ("HELLO_MQ_QUEUE", "q", None),
            ("HELLO_MQ_CONFIG", "/c", None),
            ("HELLO_MQ_PROFILE", "p", None),
            ("HOME", "/", None),
            ("HELLO_MQ_URL", "amqp://h:1/v", None),
            (
                "HELLO_MQ_URL",
                "amqp://u:s3cret@h:1/a%2Fb?heartbeat=5",
                Some(Some("amqp://u@h:1/a%2Fb?heartbeat=5")),
            ),
            (
                "AMQP_URL",
                "amqps://:s3cret@[::1]/",
                Some(Some("amqps://[::1]/")),
            ),
            ("AMQP_URL", "u:s3cret@h", Some(None)),
        ];
        for (name, value, change) in rows {
            let expected: Vec<(OsString, _)> = change
                .map(|value: Option<&str>| (name.into(), value.map(OsString::from)))
                .into_iter()
                .collect();
            let inherited = [(name.into(), value.into())];
            assert_eq!(changes(inherited.into_iter()), expected, "{name}={value}");
        }
    }
}
