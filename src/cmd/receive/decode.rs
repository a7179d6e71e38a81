//! `hello-mq receive --decode`: decodes compressed bodies.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::cli;
use crate::input::MessagePosition;
use crate::message::{ContentEncoding, DecodeError, Message};
use crate::messenger::Messenger;

/// The most messages that are named because they can't be decoded. The others are only counted.
const MAX_NAMED_FAILURES: u64 = 10;

/// Decodes bodies. Clones share their counts.
#[derive(Clone, Debug)]
pub(super) struct Decoder {
    /// The encoding of a body that begins like one in it, if its content_encoding names none.
    assumed: Option<ContentEncoding>,
    /// Whether the bodies that can't be decoded are counted and reported.
    reports: bool,
    messenger: Messenger,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    messages: AtomicU64,
    failures: AtomicU64,
}

impl Decoder {
    /// Returns the decoder that the user asks for.
    pub(super) fn new(arguments: &cli::Receive, messenger: &Messenger) -> Option<Self> {
        arguments.decode.map(|assumed| Self {
            assumed,
            reports: true,
            messenger: messenger.clone(),
            counts: Arc::default(),
        })
    }

    /// Returns a decoder that reports nothing, for messages that another one has decoded already.
    pub(super) fn silent(self) -> Self {
        Self {
            reports: false,
            ..self
        }
    }

    /// Decodes the body of a message. One that can't be decoded stays as it is, and is reported.
    pub(super) fn decode(&self, message: &mut Message) {
        if let Some((encoding, body)) = self.decoded(message) {
            message.body = body;
            message.decoded = Some(encoding);
        }
    }

    /// Calls `see` with the decoded message, which is as it was afterwards.
    pub(super) fn show<T>(&self, message: &mut Message, see: impl FnOnce(&Message) -> T) -> T {
        let Some((encoding, body)) = self.decoded(message) else {
            return see(message);
        };
        let encoded = mem::replace(&mut message.body, body);
        message.decoded = Some(encoding);
        let seen = see(message);
        message.body = encoded;
        message.decoded = None;
        seen
    }

    /// Returns the encoding of a body and the decoded body, if it can be decoded. Reports it otherwise.
    fn decoded(&self, message: &Message) -> Option<(ContentEncoding, Vec<u8>)> {
        let counted = u64::from(self.reports);
        let number = 1 + self.counts.messages.fetch_add(counted, Ordering::Relaxed);
        let encoding = self.encoding_of(message)?;
        match encoding.decode(&message.body) {
            Ok(body) => Some((encoding, body)),
            Err(problem) => {
                if self.reports {
                    self.report(number, message, &problem);
                }
                None
            }
        }
    }

    fn report(&self, number: u64, message: &Message, problem: &DecodeError) {
        let failures = self.counts.failures.fetch_add(1, Ordering::Relaxed);
        if failures < MAX_NAMED_FAILURES {
            let name = match &message.properties.message_id {
                Some(id) => format!("message {id}"),
                None => MessagePosition::Message(number).to_string(),
            };
            self.messenger.note(&format!(
                "the body of {name} can't be decoded and stays as it is: {problem}"
            ));
        }
    }

    /// Returns the encoding of a body, which a decoded one no longer has.
    fn encoding_of(&self, message: &Message) -> Option<ContentEncoding> {
        if message.decoded.is_some() || message.body.is_empty() {
            return None;
        }
        let named = message.properties.content_encoding.as_ref();
        let named = named.and_then(|name| name.as_str()?.parse().ok());
        named.or(self
            .assumed
            .filter(|encoding| encoding.is_likely(&message.body)))
    }

    /// Reports how many messages could not be decoded, if not all of them were named.
    pub(super) fn finish(&self) {
        let failures = self.counts.failures.load(Ordering::Relaxed);
        if failures > MAX_NAMED_FAILURES {
            self.messenger
                .note(&format!("messages that could not be decoded: {failures}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Properties, ShortString};

    fn decoded(assumed: Option<&str>, name: Option<&str>, body: Vec<u8>) -> Message {
        let decoder = Decoder {
            assumed: assumed.map(|name| name.parse().unwrap()),
            reports: true,
            messenger: Messenger::new(true),
            counts: Arc::default(),
        };
        let mut message = Message {
            properties: Properties {
                content_encoding: name.map(|name| ShortString::new(name).unwrap()),
                ..Properties::default()
            },
            body,
            ..Message::default()
        };
        let before = message.clone();
        let shown = decoder.show(&mut message, Message::clone);
        assert_eq!(message, before);
        decoder.decode(&mut message);
        assert_eq!(message, shown);
        // A second time nothing is decoded.
        decoder.decode(&mut message);
        message
    }

    #[test]
    fn a_body_is_decoded_by_its_property_or_its_first_bytes() {
        let rows = [
            ("gzip", None, Some("gzip"), true),
            ("gzip", None, Some("X-GZIP"), true),
            ("gzip", None, None, false),
            ("gzip", None, Some("utf-8"), false),
            ("gzip", None, Some("gzip, gzip"), false),
            ("gzip", Some("gzip"), None, true),
            ("gzip", Some("gzip"), Some("utf-8"), true),
            ("gzip", Some("zstd"), None, false),
            ("gzip", Some("zstd"), Some("gzip"), true),
            ("gzip", Some("gzip"), Some("zstd"), false),
            ("deflate", None, Some("deflate"), true),
            ("deflate", Some("deflate"), Some("binary"), true),
            ("zstd", Some("zstd"), None, true),
        ];
        for (encoding, assumed, name, is_decoded) in rows {
            let encoding: ContentEncoding = encoding.parse().unwrap();
            // The encoded body is itself decoded only once.
            let body = encoding.encode(&encoding.encode(b"tea").unwrap()).unwrap();
            let message = decoded(assumed, name, body.clone());
            assert_eq!(message.decoded, is_decoded.then_some(encoding));
            let expected = if is_decoded {
                encoding.encode(b"tea").unwrap()
            } else {
                body
            };
            assert_eq!(message.body, expected, "{assumed:?} {name:?}");
        }
        for body in [b"tea".to_vec(), Vec::new()] {
            let message = decoded(Some("gzip"), Some("gzip"), body.clone());
            assert_eq!((message.decoded, message.body), (None, body));
        }
    }
}
