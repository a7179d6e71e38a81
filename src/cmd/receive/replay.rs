//! `hello-mq receive --replay`: publishes dead letters to where they were published before they died.
//!
//! RabbitMQ records that in the header x-death
//! (<https://www.rabbitmq.com/docs/dlx#effects>): an entry for each queue and reason, the most recent first.

use std::str;

use crate::broker::Session;
use crate::broker::consume::Decision;
use crate::broker::topology;
use crate::cli::Death;
use crate::cmd::{Context, counted};
use crate::error::Error;
use crate::message::{
    COPY_HEADERS, COUNT_HEADERS, DEATH_HEADERS, FieldTable, FieldValue, Message, Part, Properties,
    ShortString,
};
use crate::messenger::Messenger;
use crate::values::QueueName;

/// The exchange and the routing keys with which a message was published.
#[derive(Debug, PartialEq, Eq)]
struct Destination {
    exchange: String,
    routing_key: String,
    /// The other routing keys, which its sender gave in the header CC.
    copies: Vec<String>,
}

/// Returns where a dead letter was published before it died; `None` if it has no x-death that says so.
fn destination(message: &Message, death: Death) -> Option<Destination> {
    let headers = message.properties.headers.as_ref()?;
    let FieldValue::Array(deaths) = headers.get(b"x-death")? else {
        return None;
    };
    let entry = match death {
        Death::Last => deaths.first(),
        Death::First => {
            let names: [(&[u8], &[u8]); 2] = [
                (b"x-first-death-queue", b"queue"),
                (b"x-first-death-reason", b"reason"),
            ];
            let is_first = |entry: &&FieldValue| {
                let FieldValue::Table(entry) = entry else {
                    return false;
                };
                names.iter().all(|(header, key)| {
                    let first = text(headers, header);
                    first.is_some() && first == text(entry, key)
                })
            };
            deaths.iter().find(is_first).or(deaths.last())
        }
    };
    let FieldValue::Table(entry) = entry? else {
        return None;
    };
    let FieldValue::Array(keys) = entry.get(b"routing-keys")? else {
        return None;
    };
    let keys: Option<Vec<_>> = keys.iter().map(name).collect();
    let mut keys = keys?.into_iter();
    Some(Destination {
        exchange: name(entry.get(b"exchange")?)?,
        routing_key: keys.next()?,
        copies: keys.collect(),
    })
}

/// Returns the text of an entry.
fn text<'t>(table: &'t FieldTable, key: &[u8]) -> Option<&'t str> {
    match table.get(key)? {
        FieldValue::LongString(bytes) => str::from_utf8(bytes).ok(),
        _ => None,
    }
}

/// Returns a value as the name of an exchange or a routing key.
fn name(value: &FieldValue) -> Option<String> {
    let FieldValue::LongString(bytes) = value else {
        return None;
    };
    ShortString::check_length(bytes).ok()?;
    String::from_utf8(bytes.clone()).ok()
}

/// Makes a dead letter the message that was published to this destination.
fn readdress(message: &mut Message, destination: Destination, left_out: &[Part]) {
    let properties = &mut message.properties;
    for part in left_out {
        properties.remove(part);
    }
    // As its sender had it: a queue that is bound with several of the keys gets the message once.
    if let (false, Ok(name)) = (destination.copies.is_empty(), ShortString::new("CC")) {
        let keys = destination.copies.into_iter();
        let keys = keys.map(|key| FieldValue::LongString(key.into())).collect();
        let copies = Properties {
            headers: Some([(name, FieldValue::Array(keys))].into_iter().collect()),
            ..Properties::default()
        };
        *properties = copies.or(properties);
    }
    message.exchange = destination.exchange;
    message.routing_key = destination.routing_key;
}

/// Returns the headers with which a message would go elsewhere, or not be dead-lettered again.
pub(super) fn left_out() -> impl Iterator<Item = &'static [u8]> {
    let headers = COPY_HEADERS.iter().chain(&DEATH_HEADERS);
    headers.chain(&COUNT_HEADERS).copied()
}

/// The options of replaying.
#[derive(Clone, Debug)]
pub(super) struct ReplayOptions {
    pub(super) death: Death,
    /// The parts of a message that are left out.
    pub(super) left_out: Vec<Part>,
    /// The only user whose name may be the user_id of a message; `None` if any may be.
    pub(super) user: Option<String>,
    /// The queue that is received from, if messages may be published to it.
    pub(super) own_queue: Option<QueueName>,
    /// Whether only the messages are replayed that are in the queue at the start. A message may be
    /// dead-lettered again at once, for ever.
    pub(super) is_bounded: bool,
}

/// Finds the destination of each message.
pub(super) struct Replay {
    options: ReplayOptions,
    messenger: Messenger,
    queue: QueueName,
    /// The number of messages that are still to be replayed; `None` if there is no limit.
    left: Option<u64>,
    is_user_id_announced: bool,
    /// The number of messages that stay because they have no usable x-death.
    without_death: u64,
    /// The number of messages that stay because they would come again.
    circular: u64,
    /// Whether messages stay because they came later.
    is_ended: bool,
}

impl Replay {
    pub(super) fn new(options: ReplayOptions, context: &Context) -> Self {
        Self {
            options,
            messenger: context.messenger.clone(),
            queue: context.settings.queue.value.clone(),
            left: None,
            is_user_id_announced: false,
            without_death: 0,
            circular: 0,
            is_ended: false,
        }
    }

    /// Begins with the first message of the queue, on a new connection.
    pub(super) fn begin(&mut self, session: &mut Session) -> Result<(), Error> {
        (self.without_death, self.circular) = (0, 0);
        if self.options.is_bounded {
            let state = topology::look_up(session, &self.queue)?;
            self.left = Some(state.messages.into());
        }
        Ok(())
    }

    /// Decides about a message that is `selected`, and readdresses it.
    pub(super) fn decide(&mut self, message: &mut Message, selected: Decision) -> Decision {
        // A stream ends where it ended at the start, and its length is not known exactly.
        if self.left == Some(0) && message.stream_offset().is_none() {
            self.is_ended = true;
            return Decision::End;
        }
        self.left = self.left.map(|left| left.saturating_sub(1));
        if selected != Decision::Take {
            return selected;
        }
        let stays = if let Some(destination) = destination(message, self.options.death) {
            if !self.is_circular(&destination) {
                self.check_user_id(message);
                readdress(message, destination, &self.options.left_out);
                return Decision::Take;
            }
            &mut self.circular
        } else {
            &mut self.without_death
        };
        *stays += 1;
        Decision::Leave
    }

    fn is_circular(&self, destination: &Destination) -> bool {
        let mut keys = destination.copies.iter().chain([&destination.routing_key]);
        let own = self.options.own_queue.as_ref();
        own.is_some_and(|own| {
            destination.exchange.is_empty() && keys.any(|key| key.as_str() == own.as_str())
        })
    }

    /// Removes the name of another user, which the broker would not accept.
    fn check_user_id(&mut self, message: &mut Message) {
        let (Some(user), Some(id)) = (&self.options.user, &message.properties.user_id) else {
            return;
        };
        if id.as_bytes() == user.as_bytes() {
            return;
        }
        if !self.is_user_id_announced {
            self.is_user_id_announced = true;
            self.messenger.note(&format!(
                "left out user_id {id}, which the broker accepts only from that user (--keep user_id passes \
                 it on)"
            ));
        }
        message.properties.user_id = None;
    }

    /// Tells how many messages stayed, and why.
    pub(super) fn end(&self) {
        let queue = &self.queue;
        for (messages, why) in [
            (
                self.without_death,
                format!("without a usable x-death stayed in queue {queue}"),
            ),
            (
                self.circular,
                format!("whose x-death leads to queue {queue} itself stayed there"),
            ),
        ] {
            if messages > 0 {
                let messages = counted(messages, "message");
                self.messenger.note(&format!("{messages} {why}"));
            }
        }
        if self.is_ended {
            self.messenger.note(&format!(
                "messages came to queue {queue} later, and stayed there (--drain)"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::envelope;

    /// A message with these headers in JSON.
    fn message(headers: &str) -> Message {
        let line = format!("{{\"payload\":\"m\",\"properties\":{{\"headers\":{headers}}}}}");
        let envelope = envelope::parse(line.into_bytes()).unwrap();
        Message {
            routing_key: "dead".to_owned(),
            properties: envelope.properties,
            body: envelope.body,
            ..Message::default()
        }
    }

    fn goes_to(headers: &str, death: Death) -> Option<(String, String, Vec<String>)> {
        let destination = destination(&message(headers), death)?;
        Some((
            destination.exchange,
            destination.routing_key,
            destination.copies,
        ))
    }

    const TWO_DEATHS: &str = r#"
        "x-death": [
            {"queue": "retry", "reason": "expired", "exchange": "", "routing-keys": ["retry"]},
            {"queue": "work", "reason": "rejected", "exchange": "shop", "routing-keys": ["eu", "us"]}
        ]"#;

    #[test]
    fn a_dead_letter_goes_to_where_it_was_before_its_first_or_last_death() {
        let first = Some(("shop".to_owned(), "eu".to_owned(), vec!["us".to_owned()]));
        let last = Some((String::new(), "retry".to_owned(), Vec::new()));
        let headers = format!("{{{TWO_DEATHS}}}");
        assert_eq!(goes_to(&headers, Death::First), first);
        assert_eq!(goes_to(&headers, Death::Last), last);
        // It died in the same queue again, so that its first entry is not the last.
        let named = |queue: &str, reason: &str| {
            format!(
                "{{{TWO_DEATHS},\"x-first-death-queue\":\"{queue}\",\"x-first-death-reason\":\"{reason}\"}}"
            )
        };
        assert_eq!(goes_to(&named("retry", "expired"), Death::First), last);
        assert_eq!(goes_to(&named("retry", "rejected"), Death::First), first);
    }

    #[test]
    fn a_message_without_usable_x_death_goes_nowhere() {
        let long = "k".repeat(256);
        let long = format!(r#"{{"x-death":[{{"exchange":"","routing-keys":["{long}"]}}]}}"#);
        for headers in [
            "{}",
            r#"{"x-death":"x"}"#,
            r#"{"x-death":[]}"#,
            r#"{"x-death":["x"]}"#,
            r#"{"x-death":[{}]}"#,
            r#"{"x-death":[{"exchange":"","routing-keys":[]}]}"#,
            r#"{"x-death":[{"exchange":"","routing-keys":"k"}]}"#,
            r#"{"x-death":[{"exchange":"","routing-keys":["k", 1]}]}"#,
            r#"{"x-death":[{"exchange":1,"routing-keys":["k"]}]}"#,
            r#"{"x-death":[{"routing-keys":["k"]}]}"#,
            &long,
        ] {
            for death in [Death::First, Death::Last] {
                assert_eq!(goes_to(headers, death), None, "{headers}");
            }
        }
    }

    #[test]
    fn a_message_is_as_its_sender_published_it() {
        let mut message = message(&format!(
            r#"{{"k":1,"CC":["x"],"BCC":["y"],"x-last-death-queue":"q","x-delivery-count":2,{TWO_DEATHS}}}"#
        ));
        let destination = destination(&message, Death::First).unwrap();
        let parts: Vec<_> = left_out()
            .map(|name| Part::Header(ShortString::new(name).unwrap()))
            .collect();
        readdress(&mut message, destination, &parts);
        assert_eq!(
            (message.exchange.as_str(), message.routing_key.as_str()),
            ("shop", "eu")
        );
        let headers = message.properties.headers.unwrap();
        let names: Vec<_> = headers
            .entries()
            .iter()
            .map(|(name, _)| name.as_str().unwrap())
            .collect();
        assert_eq!(names, ["CC", "k"]);
        let us = FieldValue::LongString(b"us".to_vec());
        assert_eq!(headers.get(b"CC"), Some(&FieldValue::Array(vec![us])));
    }
}
