//! What a command learns of its message: variables of its environment.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use crate::message::{Message, ShortString, Value, envelope};

/// A variable that is longer is left out: the system would not start the command (`MAX_ARG_STRLEN`
/// of Linux is 128 KiB).
const LONGEST: usize = 100_000;

/// The variables of a message: where it was sent to, its properties by the names of the envelope,
/// all headers as JSON, and each header by itself.
///
/// A variable can't hold a NUL byte; what would have one is left out, but for the JSON, in which it
/// is escaped.
pub fn variables(message: &Message, attempt: u64) -> Vec<(OsString, OsString)> {
    let p = &message.properties;
    let text = |text: &Option<ShortString>| text.as_ref().map(|text| text.as_bytes().to_vec());
    let number = |number: Option<u64>| number.map(|number| number.to_string().into_bytes());
    let mut variables = vec![
        ("EXCHANGE", Some(message.exchange.clone().into_bytes())),
        (
            "ROUTING_KEY",
            Some(message.routing_key.clone().into_bytes()),
        ),
        (
            "REDELIVERED",
            Some(message.redelivered.to_string().into_bytes()),
        ),
        ("ATTEMPT", number(Some(attempt))),
        ("CONTENT_TYPE", text(&p.content_type)),
        ("CONTENT_ENCODING", text(&p.content_encoding)),
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
                Value::LongString(text) | Value::Binary(text) => bytes.clone_from(text),
                value => {
                    let _ = envelope::write_value(value, &mut bytes);
                }
            }
            variables.push((format!("HEADER_{}", variable_name(name)), bytes));
        }
    }
    variables
        .into_iter()
        .filter(|(_, value)| !value.contains(&0) && value.len() < LONGEST)
        .map(|(name, value)| (format!("HELLO_MQ_{name}").into(), OsString::from_vec(value)))
        .collect()
}

/// A header's name as a part of a variable's: capital letters, digits and `_`.
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
                        header("x-Shop.no", Value::LongString(b"7 \xff".to_vec())),
                        header("n", Value::SignedInt(1)),
                        header("zero", Value::LongString(vec![0])),
                        header("long", Value::LongString(vec![b'x'; 200_000])),
                    ]
                    .into_iter()
                    .collect(),
                ),
                ..Properties::default()
            },
            ..Message::default()
        };
        let variables = variables(&message, 2);
        let get = |name: &str| {
            let found = variables.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.clone().into_vec())
        };
        assert_eq!(get("HELLO_MQ_EXCHANGE"), Some(Vec::new()));
        assert_eq!(get("HELLO_MQ_ROUTING_KEY"), Some(b"k".to_vec()));
        assert_eq!(get("HELLO_MQ_ATTEMPT"), Some(b"2".to_vec()));
        assert_eq!(get("HELLO_MQ_APP_ID"), Some(b"p".to_vec()));
        assert_eq!(get("HELLO_MQ_HEADER_X_SHOP_NO"), Some(b"7 \xff".to_vec()));
        assert_eq!(get("HELLO_MQ_HEADER_N"), Some(b"1".to_vec()));
        for absent in [
            "MESSAGE_ID",
            "HEADER_ZERO",
            "HEADER_LONG",
            "HEADERS",
            "PRIORITY",
        ] {
            assert_eq!(get(&format!("HELLO_MQ_{absent}")), None, "{absent}");
        }
    }
}
