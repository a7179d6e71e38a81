//! The messages to send, in order: those that have to be sent again before those to come.

use std::collections::{BTreeMap, VecDeque};

use crossbeam_channel::TryRecvError;

use crate::error::Error;
use crate::input::{Input, Item, MessagePosition};
use crate::message::envelope::Envelope;
use crate::message::{Message, Properties, ShortString};
use crate::waker::Receiver;

/// A message to send.
#[derive(Debug)]
pub struct OutgoingMessage {
    /// What goes to the broker. It stays the same when it is sent again.
    pub message: Message,
    /// Where it came from.
    pub place: MessagePosition,
    /// Which message it is, from 1.
    pub number: u64,
    /// Whether it goes to the queue that hello-mq declares.
    pub to_queue: bool,
}

impl AsRef<Message> for OutgoingMessage {
    fn as_ref(&self) -> &Message {
        &self.message
    }
}

/// What the command line says of every message.
#[derive(Debug)]
pub struct MessageDefaults {
    /// The exchange, unless an envelope names one.
    pub exchange: String,
    /// The routing key, unless an envelope has one; `None` for the queue's name.
    pub routing_key: Option<String>,
    /// The queue that messages for the default exchange go to where nothing else is said.
    pub queue: String,
    /// The properties, as far as an envelope leaves them out.
    pub properties: Properties,
    /// The beginning of every message-id that is made here.
    pub run: String,
    /// A message without a `message-id` gets one.
    pub is_named: bool,
    /// A message without a `correlation-id` gets its `message-id` for one, or an id of its own, so that
    /// its reply can be told from others.
    pub is_request: bool,
}

impl MessageDefaults {
    /// Whether a message of which no envelope says more goes to the declared queue.
    #[must_use]
    pub fn is_to_queue(&self) -> bool {
        self.exchange.is_empty() && self.routing_key.is_none()
    }

    fn fill(&self, envelope: Envelope, place: MessagePosition, number: u64) -> OutgoingMessage {
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
        let id = || ShortString::new(format!("{}-{number}", self.run)).ok();
        if self.is_named {
            properties.message_id = properties.message_id.or_else(id);
        }
        if self.is_request && properties.correlation_id.is_none() {
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
            place,
            number,
            to_queue,
        }
    }
}

/// What there is to send next.
// It is taken apart where it is made.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
pub enum NextMessage {
    /// This message.
    Message(OutgoingMessage),
    /// Nothing at the moment: [`Supply::batches`] will have it.
    Later,
    /// Nothing any more.
    Nothing,
}

/// The messages that are to be sent.
#[derive(Debug)]
pub struct Supply {
    template: MessageDefaults,
    /// By number.
    again: BTreeMap<u64, OutgoingMessage>,
    read: VecDeque<Item>,
    batches: Receiver<Result<Vec<Item>, Error>>,
    is_over: bool,
    /// Whether the input ended with an error, and which, until it is told.
    is_cut: bool,
    failed: Option<Error>,
    /// How many messages have been taken from the input.
    taken: u64,
}

impl Supply {
    /// The messages of `input`, made complete by `template`.
    #[must_use]
    pub fn new(input: Input, template: MessageDefaults) -> Self {
        Self {
            template,
            again: BTreeMap::new(),
            read: VecDeque::new(),
            batches: input.batches,
            is_over: false,
            is_cut: false,
            failed: None,
            taken: 0,
        }
    }

    /// The next message.
    pub fn next(&mut self) -> NextMessage {
        if let Some((_, message)) = self.again.pop_first() {
            return NextMessage::Message(message);
        }
        loop {
            if let Some(item) = self.read.pop_front() {
                self.taken += 1;
                return NextMessage::Message(self.template.fill(
                    item.envelope,
                    item.place,
                    self.taken,
                ));
            }
            if self.is_over {
                return NextMessage::Nothing;
            }
            match self.batches.try_recv() {
                Ok(batch) => self.add(Some(batch)),
                Err(TryRecvError::Disconnected) => self.add(None),
                Err(TryRecvError::Empty) => return NextMessage::Later,
            }
        }
    }

    /// What is to come; what it gives belongs into [`Supply::add`].
    #[must_use]
    pub fn batches(&self) -> &Receiver<Result<Vec<Item>, Error>> {
        &self.batches
    }

    /// Adds what came from [`Supply::batches`]; `None` is the end.
    pub fn add(&mut self, batch: Option<Result<Vec<Item>, Error>>) {
        match batch {
            Some(Ok(items)) => self.read.extend(items),
            Some(Err(error)) => {
                self.failed = Some(error);
                self.is_cut = true;
                self.is_over = true;
            }
            None => self.is_over = true,
        }
    }

    /// Messages that have to be sent again, each in its place.
    pub fn put_back(&mut self, messages: impl IntoIterator<Item = OutgoingMessage>) {
        self.again.extend(
            messages
                .into_iter()
                .map(|message| (message.number, message)),
        );
    }

    /// Whether everything that was to be sent has been taken.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.again.is_empty() && self.is_read()
    }

    /// Why there is no more input, if it is not for being complete.
    pub fn failure(&mut self) -> Option<Error> {
        self.failed.take()
    }

    /// Whether there is nothing more to read.
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.is_over && self.read.is_empty() && !self.is_cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template() -> MessageDefaults {
        MessageDefaults {
            exchange: String::new(),
            routing_key: None,
            queue: "hello".to_owned(),
            properties: Properties {
                delivery_mode: Some(2),
                priority: Some(1),
                ..Properties::default()
            },
            run: "run".to_owned(),
            is_named: true,
            is_request: false,
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
            let out = template().fill(
                envelope(exchange, routing_key),
                MessagePosition::Argument(1),
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
        for (is_named, is_request, message_id, expected) in [
            (false, false, None, (None, None)),
            (true, false, None, (Some("run-7"), None)),
            (true, false, given.clone(), (Some("given"), None)),
            (false, true, None, (None, Some("run-7"))),
            (true, true, None, (Some("run-7"), Some("run-7"))),
            (false, true, given, (Some("given"), Some("given"))),
        ] {
            let template = MessageDefaults {
                is_named,
                is_request,
                ..template()
            };
            let mut envelope = envelope(None, None);
            envelope.properties.message_id = message_id;
            let out = template.fill(envelope, MessagePosition::Argument(1), 7);
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
                    place: MessagePosition::Argument(n),
                })
                .collect()
        };
        sender.send(Ok(items(1..4))).unwrap();
        let input = Input {
            batches,
            plan: None,
            count: 1,
        };
        let mut supply = Supply::new(input, template());
        let next = |supply: &mut Supply| match supply.next() {
            NextMessage::Message(message) => message,
            other => panic!("{other:?}"),
        };
        let (first, second) = (next(&mut supply), next(&mut supply));
        supply.put_back([second, first]);
        let numbers: Vec<_> = (0..3).map(|_| next(&mut supply).number).collect();
        assert_eq!(numbers, [1, 2, 3]);
        assert!(matches!(supply.next(), NextMessage::Later) && !supply.is_exhausted());
        drop(sender);
        assert!(matches!(supply.next(), NextMessage::Nothing) && supply.is_exhausted());
    }
}
