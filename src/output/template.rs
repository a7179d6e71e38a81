//! `--format`: templates with placeholders for parts of a message.

use std::io::{self, IsTerminal, Write};
use std::str::FromStr;
use std::time::SystemTime;

use crate::message::{FieldValue, Message, Properties, ShortString, envelope};
use crate::text;

/// A template with placeholders for parts of a message.
#[derive(Clone, Debug)]
pub struct Template {
    tokens: Vec<Token>,
    /// Whether characters that could control the terminal are escaped, except in the body.
    is_escaped: bool,
}

#[derive(Clone, Debug)]
enum Token {
    Bytes(Vec<u8>),
    Body,
    Hex,
    Size,
    Decoded,
    Exchange,
    RoutingKey,
    Redelivered,
    Headers,
    Header(String),
    Property(Property),
    Envelope,
    Time,
}

/// A property other than the headers.
#[derive(Clone, Copy, Debug)]
enum Property {
    Text(fn(&Properties) -> Option<&ShortString>),
    Number(fn(&Properties) -> Option<u64>),
}

/// Returns the placeholder with this name, which is a key of the envelope.
fn placeholder(name: &str) -> Option<Token> {
    let text = |get| Some(Token::Property(Property::Text(get)));
    let number = |get| Some(Token::Property(Property::Number(get)));
    match name {
        "content_type" => text(|p| p.content_type.as_ref()),
        "content_encoding" => text(|p| p.content_encoding.as_ref()),
        "delivery_mode" => number(|p| p.delivery_mode.map(u64::from)),
        "priority" => number(|p| p.priority.map(u64::from)),
        "correlation_id" => text(|p| p.correlation_id.as_ref()),
        "reply_to" => text(|p| p.reply_to.as_ref()),
        "expiration" => text(|p| p.expiration.as_ref()),
        "message_id" => text(|p| p.message_id.as_ref()),
        "timestamp" => number(|p| p.timestamp),
        "type" => text(|p| p.kind.as_ref()),
        "user_id" => text(|p| p.user_id.as_ref()),
        "app_id" => text(|p| p.app_id.as_ref()),
        "cluster_id" => text(|p| p.cluster_id.as_ref()),
        "headers" => Some(Token::Headers),
        "payload" => Some(Token::Body),
        "payload_bytes" => Some(Token::Size),
        "decoded" => Some(Token::Decoded),
        "exchange" => Some(Token::Exchange),
        "routing_key" => Some(Token::RoutingKey),
        "redelivered" => Some(Token::Redelivered),
        _ => name
            .strip_prefix("headers.")
            .map(|key| Token::Header(key.to_owned())),
    }
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut tokens = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            let (before, tail) = rest.split_at(at);
            push_bytes(&mut tokens, text::unescape(before)?);
            let mut characters = tail[1..].chars();
            let (token, length) = match characters.next() {
                Some('s') => (Token::Body, 2),
                Some('S') => (Token::Size, 2),
                Some('x') => (Token::Hex, 2),
                Some('e') => (Token::Exchange, 2),
                Some('r') => (Token::RoutingKey, 2),
                Some('h') => (Token::Headers, 2),
                Some('j') => (Token::Envelope, 2),
                Some('T') => (Token::Time, 2),
                Some('%') => (Token::Bytes(b"%".to_vec()), 2),
                Some('{') => {
                    let end = tail.find('}').ok_or("'%{' is not closed with '}'")?;
                    let name = &tail[2..end];
                    let token = placeholder(name).ok_or_else(|| {
                        format!(
                            "'%{{{}}}' is unknown; use the names of '-o json', such as %{{message_id}} or \
                             %{{headers.KEY}}",
                            text::escape(name)
                        )
                    })?;
                    (token, end + 1)
                }
                Some(other) => {
                    return Err(format!(
                        "'%{}' is not known; there are %s, %S, %x, %e, %r, %h, %j, %T, %{{NAME}} and %%",
                        text::escape(&other.to_string())
                    ));
                }
                None => {
                    return Err("a single '%' at the end; write %% for a percent sign".to_owned());
                }
            };
            match token {
                Token::Bytes(bytes) => push_bytes(&mut tokens, bytes),
                token => tokens.push(token),
            }
            rest = &tail[length..];
        }
        push_bytes(&mut tokens, text::unescape(rest)?);
        Ok(Self {
            tokens,
            is_escaped: false,
        })
    }
}

fn push_bytes(tokens: &mut Vec<Token>, mut bytes: Vec<u8>) {
    match tokens.last_mut() {
        Some(Token::Bytes(last)) => last.append(&mut bytes),
        _ if bytes.is_empty() => {}
        _ => tokens.push(Token::Bytes(bytes)),
    }
}

impl Template {
    /// Returns the template for standard output. On a terminal it escapes everything but the body, unless
    /// `raw` is set.
    pub fn for_stdout(self, raw: bool) -> Self {
        if raw || !io::stdout().is_terminal() {
            self
        } else {
            self.escaped()
        }
    }

    fn escaped(self) -> Self {
        Self {
            is_escaped: true,
            ..self
        }
    }

    /// Writes a message.
    pub fn write(&self, message: &Message, out: &mut impl Write) -> io::Result<()> {
        let properties = &message.properties;
        for token in &self.tokens {
            match token {
                Token::Bytes(bytes) => out.write_all(bytes)?,
                Token::Body => out.write_all(&message.body)?,
                Token::Hex => {
                    for byte in &message.body {
                        write!(out, "{byte:02x}")?;
                    }
                }
                Token::Size => write!(out, "{}", message.body.len())?,
                Token::Decoded => {
                    if let Some(encoding) = message.decoded {
                        write!(out, "{encoding}")?;
                    }
                }
                Token::Exchange => self.write_metadata(message.exchange.as_bytes(), out)?,
                Token::RoutingKey => self.write_metadata(message.routing_key.as_bytes(), out)?,
                Token::Redelivered => write!(out, "{}", message.redelivered)?,
                Token::Headers => match &properties.headers {
                    Some(headers) => envelope::write_table(headers, out)?,
                    None => out.write_all(b"{}")?,
                },
                Token::Header(key) => {
                    let value = properties
                        .headers
                        .as_ref()
                        .and_then(|headers| headers.get(key.as_bytes()));
                    match value {
                        None => {}
                        Some(FieldValue::LongString(bytes) | FieldValue::Binary(bytes)) => {
                            self.write_metadata(bytes, out)?;
                        }
                        Some(value) => envelope::write_value(value, out)?,
                    }
                }
                Token::Property(Property::Text(get)) => {
                    if let Some(text) = get(properties) {
                        self.write_metadata(text.as_bytes(), out)?;
                    }
                }
                Token::Property(Property::Number(get)) => {
                    if let Some(number) = get(properties) {
                        write!(out, "{number}")?;
                    }
                }
                Token::Envelope => envelope::write(message, out)?,
                Token::Time => {
                    let received = message.received.unwrap_or_else(SystemTime::now);
                    text::write_time(received, out)?;
                }
            }
        }
        Ok(())
    }

    fn write_metadata(&self, bytes: &[u8], out: &mut impl Write) -> io::Result<()> {
        if self.is_escaped {
            out.write_all(text::printable(bytes).as_bytes())
        } else {
            out.write_all(bytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn message() -> Message {
        Message {
            exchange: "x".to_owned(),
            routing_key: "k".to_owned(),
            redelivered: true,
            properties: Properties {
                message_id: ShortString::new("id").ok(),
                delivery_mode: Some(2),
                headers: Some(
                    [
                        ("a", FieldValue::LongString(b"text".to_vec())),
                        ("n", FieldValue::SignedInt(7)),
                    ]
                    .map(|(name, value)| (ShortString::new(name).unwrap(), value))
                    .into_iter()
                    .collect(),
                ),
                ..Properties::default()
            },
            body: b"\xffbody".to_vec(),
            received: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1500)),
            decoded: "zstd".parse().ok(),
            incomplete: None,
        }
    }

    fn written(template: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let template: Template = template.parse().unwrap();
        template.write(&message(), &mut out).unwrap();
        out
    }

    #[test]
    fn every_token_stands_for_its_part() {
        let rows: [(&str, &[u8]); 14] = [
            (r"%s\n", b"\xffbody\n"),
            ("%S", b"5"),
            ("%x", b"ff626f6479"),
            ("[%e|%r]", b"[x|k]"),
            ("%h", br#"{"a":"text","n":7}"#),
            ("%{headers.a} %{headers.n} %{headers.none}", b"text 7 "),
            ("%{message_id},%{app_id},%{delivery_mode}", b"id,,2"),
            ("%{redelivered} %{payload_bytes} %{decoded}", b"true 5 zstd"),
            ("%T", b"1970-01-01T00:00:01.500000Z"),
            ("100%% %%s", b"100% %s"),
            (r"\t\0\x41\\n", b"\t\0A\\n"),
            ("", b""),
            ("plain é", "plain é".as_bytes()),
            ("%s%s", b"\xffbody\xffbody"),
        ];
        for (template, expected) in rows {
            assert_eq!(written(template), expected, "{template}");
        }
        let envelope = String::from_utf8(written("%j")).unwrap();
        assert!(
            envelope.starts_with('{') && envelope.ends_with('}'),
            "{envelope}"
        );
    }

    #[test]
    fn for_a_terminal_everything_but_the_body_is_escaped() {
        const EVIL: &str = "\x1b[2J\u{9b}\n";
        let short = || ShortString::new(EVIL).ok();
        let headers = [
            ("text", FieldValue::LongString(EVIL.into())),
            ("bytes", FieldValue::Binary(b"\xff\x07".to_vec())),
        ];
        let headers = headers.map(|(name, value)| (ShortString::new(name).unwrap(), value));
        let message = Message {
            exchange: EVIL.to_owned(),
            routing_key: EVIL.to_owned(),
            properties: Properties {
                content_type: short(),
                content_encoding: short(),
                correlation_id: short(),
                reply_to: short(),
                expiration: short(),
                message_id: short(),
                kind: short(),
                user_id: short(),
                app_id: short(),
                cluster_id: short(),
                headers: Some(headers.into_iter().collect()),
                ..Properties::default()
            },
            body: EVIL.into(),
            ..Message::default()
        };
        let metadata: Template = "%e%r%{exchange}%{routing_key}%h%{headers}%j%{headers.text}\
            %{headers.bytes}%{content_type}%{content_encoding}%{correlation_id}%{reply_to}\
            %{expiration}%{message_id}%{type}%{user_id}%{app_id}%{cluster_id}%T%S%x"
            .parse()
            .unwrap();
        let written = |template: Template| {
            let mut out = Vec::new();
            template.write(&message, &mut out).unwrap();
            String::from_utf8_lossy(&out).into_owned()
        };
        let shown = written(metadata.clone().escaped());
        assert!(!shown.contains(text::is_invisible), "{shown}");
        assert!(shown.starts_with(r"\x1b[2J\u{9b}\n"), "{shown}");
        assert!(shown.contains(r"\xff\x07"), "{shown}");
        // As it came where that is asked for, and the body always.
        assert!(written(metadata).starts_with(EVIL));
        assert_eq!(written("%s".parse::<Template>().unwrap().escaped()), EVIL);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for wrong in [
            "%",
            "%q",
            "%é",
            "%{nope}",
            "%{message_id",
            "a\\",
            "%{}",
            "\\q",
        ] {
            assert!(wrong.parse::<Template>().is_err(), "{wrong}");
        }
    }
}
