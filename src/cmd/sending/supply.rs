//! The messages to send, in order: those to send again before those from the input.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use crossbeam_channel::TryRecvError;

use super::RateLimiter;
use crate::error::Error;
use crate::input::{Item, MessagePosition};
use crate::message::envelope::Envelope;
use crate::message::{Message, Properties, ShortString};
use crate::waker::Receiver;

/// A message to send, and its position in the input.
#[derive(Debug)]
pub(crate) struct OutgoingMessage<P = MessagePosition> {
    /// The message as it is published, and published again.
    pub(crate) message: Message,
    /// The position in the input.
    pub(crate) position: P,
    /// The number of the message, counted from 1.
    pub(crate) number: u64,
    /// Whether it goes to the queue that `send` declares.
    pub(crate) to_queue: bool,
}

impl<P> AsRef<Message> for OutgoingMessage<P> {
    fn as_ref(&self) -> &Message {
        &self.message
    }
}

/// The parts of a message that its envelope may leave out.
#[derive(Debug, Default)]
pub(crate) struct MessageDefaults {
    /// The exchange.
    pub(crate) exchange: String,
    /// The routing key; `None` for the queue's name.
    pub(crate) routing_key: Option<String>,
    /// The queue for messages to the default exchange without a routing key.
    pub(crate) queue: String,
    /// The properties.
    pub(crate) properties: Properties,
    /// The beginning of each generated id.
    pub(crate) id_prefix: String,
    /// Whether a message without a `message-id` gets one.
    pub(crate) adds_message_id: bool,
    /// Whether a message without a `correlation-id` gets one, so that its reply can be told from others:
    /// its `message-id` if it has one, else a generated id.
    pub(crate) adds_correlation_id: bool,
}

impl MessageDefaults {
    /// Whether a message goes to the declared queue if its envelope does not say otherwise.
    pub(crate) fn is_to_queue(&self) -> bool {
        self.exchange.is_empty() && self.routing_key.is_none()
    }

    /// Returns the first message, for an envelope that has only a body.
    pub(crate) fn example(&self) -> Message {
        self.apply(Vec::new().into(), (), 1).message
    }

    fn apply<P>(&self, envelope: Envelope, position: P, number: u64) -> OutgoingMessage<P> {
        let to_queue =
            envelope.exchange.is_none() && envelope.routing_key.is_none() && self.is_to_queue();
        let exchange = envelope.exchange.unwrap_or_else(|| self.exchange.clone());
        let routing_key = envelope
            .routing_key
            .or_else(|| self.routing_key.clone())
            .unwrap_or_else(|| match exchange.as_str() {
                "" => self.queue.clone(),
                _ => String::new(),
            });
        let mut properties = envelope.properties.or(&self.properties);
        let id = || ShortString::new(format!("{}-{number}", self.id_prefix)).ok();
        if self.adds_message_id {
            properties.message_id = properties.message_id.or_else(id);
        }
        if self.adds_correlation_id && properties.correlation_id.is_none() {
            properties.correlation_id = properties.message_id.clone().or_else(id);
        }
        OutgoingMessage {
            message: Message {
                exchange,
                routing_key,
                properties,
                body: envelope.body,
                ..Message::default()
            },
            position,
            number,
            to_queue,
        }
    }
}

/// The next message to send, if there is one.
// It is taken apart where it is made.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
pub(crate) enum NextMessage<P> {
    /// The next message.
    Message(OutgoingMessage<P>),
    /// One that may be sent at this moment.
    NotBefore(Instant),
    /// None yet: wait for [`Supply::batches`].
    Pending,
    /// None any more.
    End,
}

/// Messages that were read together. The first error is the last that is sent.
pub(crate) type InputBatch<P> = Result<Vec<Item<P>>, Error>;

/// The state of the input.
#[derive(Debug)]
enum InputState {
    Open,
    Complete,
    /// The input ended early, with this error until it is taken.
    Failed(Option<Error>),
}

/// The messages that are to be sent.
#[derive(Debug)]
pub(crate) struct Supply<P = MessagePosition> {
    defaults: MessageDefaults,
    /// The messages to send again, by number.
    resend: BTreeMap<u64, OutgoingMessage<P>>,
    items: VecDeque<Item<P>>,
    batches: Receiver<InputBatch<P>>,
    input: InputState,
    /// The number of messages taken from the input.
    taken: u64,
}

impl<P> Supply<P> {
    /// Creates a supply of the messages in `batches`, completed with `defaults`.
    pub(crate) fn new(batches: Receiver<InputBatch<P>>, defaults: MessageDefaults) -> Self {
        Self {
            defaults,
            resend: BTreeMap::new(),
            items: VecDeque::new(),
            batches,
            input: InputState::Open,
            taken: 0,
        }
    }

    /// Takes the next message, if the limiter permits it now. A message that was sent before was due then.
    pub(super) fn next(&mut self, limiter: &RateLimiter) -> NextMessage<P> {
        if let Some(first) = self.resend.first_entry() {
            return match limiter.wait_until(None) {
                Some(moment) => NextMessage::NotBefore(moment),
                None => NextMessage::Message(first.remove()),
            };
        }
        loop {
            if let Some(item) = self.items.front() {
                if let Some(moment) = limiter.wait_until(item.due) {
                    return NextMessage::NotBefore(moment);
                }
            }
            if let Some(Item {
                envelope, place, ..
            }) = self.items.pop_front()
            {
                self.taken += 1;
                let message = self.defaults.apply(envelope, place, self.taken);
                return NextMessage::Message(message);
            }
            if !matches!(self.input, InputState::Open) {
                return NextMessage::End;
            }
            match self.batches.try_recv() {
                Ok(batch) => self.add(Some(batch)),
                Err(TryRecvError::Disconnected) => self.add(None),
                Err(TryRecvError::Empty) => return NextMessage::Pending,
            }
        }
    }

    /// Returns the channel of the input. What it receives is passed to [`Supply::add`].
    pub(crate) fn batches(&self) -> &Receiver<InputBatch<P>> {
        &self.batches
    }

    /// Adds a batch of the input, or its end (`None`).
    pub(crate) fn add(&mut self, batch: Option<InputBatch<P>>) {
        match batch {
            Some(Ok(items)) => self.items.extend(items),
            Some(Err(error)) => self.input = InputState::Failed(Some(error)),
            None => self.input = InputState::Complete,
        }
    }

    /// Puts messages back in their order, to be sent again.
    pub(crate) fn put_back(&mut self, messages: impl IntoIterator<Item = OutgoingMessage<P>>) {
        let messages = messages.into_iter();
        self.resend
            .extend(messages.map(|message| (message.number, message)));
    }

    /// Whether the whole input was taken, and nothing is to be sent again.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.resend.is_empty() && self.is_read()
    }

    /// Whether an error ended the input early.
    pub(crate) fn has_failed(&self) -> bool {
        matches!(self.input, InputState::Failed(_))
    }

    /// Takes the error that ended the input early.
    pub(crate) fn failure(&mut self) -> Option<Error> {
        match &mut self.input {
            InputState::Failed(error) => error.take(),
            InputState::Open | InputState::Complete => None,
        }
    }

    /// Whether the whole input was taken.
    pub(crate) fn is_read(&self) -> bool {
        matches!(self.input, InputState::Complete) && self.items.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults() -> MessageDefaults {
        MessageDefaults {
            exchange: String::new(),
            routing_key: None,
            queue: "hello".to_owned(),
            properties: Properties {
                delivery_mode: Some(2),
                priority: Some(1),
                ..Properties::default()
            },
            id_prefix: "run".to_owned(),
            adds_message_id: true,
            adds_correlation_id: false,
        }
    }

    fn envelope(exchange: Option<&str>, routing_key: Option<&str>) -> Envelope {
        Envelope {
            exchange: exchange.map(str::to_owned),
            routing_key: routing_key.map(str::to_owned),
            properties: Properties {
                priority: Some(9),
                ..Properties::default()
            },
            body: Vec::new(),
            received_at: None,
        }
    }

    #[test]
    fn an_envelope_wins_over_the_command_line() {
        let rows = [
            (None, None, ("", "hello", true)),
            (Some(""), None, ("", "hello", false)),
            (None, Some("k"), ("", "k", false)),
            (Some("x"), None, ("x", "", false)),
            (Some("x"), Some("k"), ("x", "k", false)),
        ];
        for (exchange, routing_key, expected) in rows {
            let out = defaults().apply(
                envelope(exchange, routing_key),
                MessagePosition::Message(1),
                7,
            );
            let got = (
                out.message.exchange.as_str(),
                out.message.routing_key.as_str(),
                out.to_queue,
            );
            assert_eq!(got, expected);
            let properties = out.message.properties;
            assert_eq!(
                (properties.priority, properties.delivery_mode),
                (Some(9), Some(2))
            );
            assert_eq!(properties.message_id.unwrap().as_bytes(), b"run-7");
        }
    }

    #[test]
    fn ids_are_added_where_they_are_wanted_and_to_requests_what_tells_their_replies() {
        let given = ShortString::new("given").ok();
        for (adds_message_id, adds_correlation_id, message_id, expected) in [
            (false, false, None, (None, None)),
            (true, false, None, (Some("run-7"), None)),
            (true, false, given.clone(), (Some("given"), None)),
            (false, true, None, (None, Some("run-7"))),
            (true, true, None, (Some("run-7"), Some("run-7"))),
            (false, true, given, (Some("given"), Some("given"))),
        ] {
            let defaults = MessageDefaults {
                adds_message_id,
                adds_correlation_id,
                ..defaults()
            };
            let mut envelope = envelope(None, None);
            envelope.properties.message_id = message_id;
            let out = defaults.apply(envelope, MessagePosition::Message(1), 7);
            let text = |id: &Option<ShortString>| id.as_ref().map(ToString::to_string);
            let quoted = |id: Option<&str>| id.map(|id| format!("'{id}'"));
            let properties = &out.message.properties;
            assert_eq!(
                (
                    text(&properties.message_id),
                    text(&properties.correlation_id)
                ),
                (quoted(expected.0), quoted(expected.1))
            );
        }
    }

    #[test]
    fn what_comes_back_goes_first_and_in_order() {
        let (sender, batches) = crate::waker::unbounded();
        let items = |range: std::ops::Range<u64>| {
            range
                .map(|n| Item {
                    envelope: Envelope::default(),
                    place: MessagePosition::Message(n),
                    due: None,
                })
                .collect()
        };
        sender.send(Ok(items(1..4))).unwrap();
        let mut supply = Supply::new(batches, defaults());
        let limiter = RateLimiter::new(None);
        let next = |supply: &mut Supply| match supply.next(&limiter) {
            NextMessage::Message(message) => message,
            other => panic!("{other:?}"),
        };
        let (first, second) = (next(&mut supply), next(&mut supply));
        supply.put_back([second, first]);
        let numbers: Vec<_> = (0..3).map(|_| next(&mut supply).number).collect();
        assert_eq!(numbers, [1, 2, 3]);
        assert!(matches!(supply.next(&limiter), NextMessage::Pending) && !supply.is_exhausted());
        drop(sender);
        assert!(matches!(supply.next(&limiter), NextMessage::End) && supply.is_exhausted());
    }
}
