//! The choice of messages (`--where`), and the changes to them (`--map`).

use super::decode::Decoder;
use super::reconnecting::MessageSource;
use super::replay::Replay;
use crate::broker::Session;
use crate::broker::consume::{Decision, SelectionOptions};
use crate::cli;
use crate::cmd::{Context, counted};
use crate::error::Error;
use crate::expression::{Evaluator, Expression, JsonValue};
use crate::message::{Message, envelope};
use crate::messenger::Messenger;

/// The default of `--max-held`.
const MAX_HELD: u64 = 100_000;

/// The most messages that are named because `--map` fails for them.
const MAX_NAMED: u64 = 10;

/// The rules by which messages are chosen and changed.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    filter: Option<Expression>,
    map: Option<Expression>,
    drops_empty: bool,
    evaluator: Evaluator,
}

impl Rules {
    /// Returns the rules of the command line; `None` if every message is taken as it is.
    ///
    /// # Errors
    /// [`Error::Usage`] if options make no sense together.
    pub(super) fn new(arguments: &cli::Receive) -> Result<Option<Self>, Error> {
        let cli::Selection { filter, max_held } = &arguments.selection;
        if filter.is_none() && arguments.map.is_none() {
            return match max_held {
                Some(_) if arguments.replay.is_none() => Err(Error::Usage(
                    "--max-held requires --where, --map or --replay".to_owned(),
                )),
                _ => Ok(None),
            };
        }
        if arguments.settings.auto_ack == Some(true) {
            return Err(Error::Usage(
                "--auto-ack can't be used with --where or --map: the broker would forget the messages that \
                 stay"
                    .to_owned(),
            ));
        }
        Ok(Some(Self {
            filter: filter.clone(),
            map: arguments.map.clone(),
            drops_empty: arguments.drop_empty,
            evaluator: Evaluator::new(),
        }))
    }
}

/// Returns the options of a consumer whose messages are chosen.
pub(super) fn options(arguments: &cli::Receive, source: &MessageSource) -> SelectionOptions {
    match source {
        MessageSource::Queue { .. } => SelectionOptions::Some {
            max_held: arguments.selection.max_held.unwrap_or(MAX_HELD),
        },
        // Its temporary queue ends with the connection.
        MessageSource::Exchanges(..) => SelectionOptions::Filter,
    }
}

/// Chooses and changes the messages of one `receive`.
pub(super) struct Selection {
    rules: Option<Rules>,
    replay: Option<Replay>,
    decoder: Option<Decoder>,
    messenger: Messenger,
    /// The consequence for a message that is not taken.
    consequence: String,
    /// The number of messages that were received.
    received: u64,
    /// The number of messages that are not taken and stay.
    left: u64,
    /// The number of messages for which `--where` failed.
    filter_failures: u64,
    /// The number of messages for which `--map` failed.
    map_failures: u64,
}

impl Selection {
    pub(super) fn new(
        rules: Option<Rules>,
        replay: Option<Replay>,
        decoder: Option<Decoder>,
        context: &Context,
        source: &MessageSource,
    ) -> Self {
        Self {
            rules,
            replay,
            decoder,
            messenger: context.messenger.clone(),
            consequence: match source {
                MessageSource::Queue { name, .. } => format!("stays in queue {name}"),
                MessageSource::Exchanges(..) => "is skipped".to_owned(),
            },
            received: 0,
            left: 0,
            filter_failures: 0,
            map_failures: 0,
        }
    }

    /// Begins with the first message of the queue, on a new connection.
    pub(super) fn begin(&mut self, session: &mut Session) -> Result<(), Error> {
        match &mut self.replay {
            Some(replay) => replay.begin(session),
            None => Ok(()),
        }
    }

    /// Decides about a message, and changes it.
    pub(super) fn decide(&mut self, message: &mut Message) -> Decision {
        let mut decision = self.select(message);
        if let Some(replay) = &mut self.replay {
            decision = replay.decide(message, decision);
        }
        if matches!(decision, Decision::Leave | Decision::End) {
            self.left += 1;
        }
        decision
    }

    /// Returns the number of messages that were not taken and stay.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Decides about a message by the rules, and changes it.
    fn select(&mut self, message: &mut Message) -> Decision {
        let Some(rules) = &self.rules else {
            return Decision::Take;
        };
        self.received += 1;
        // Unlike jq, jaq fails where it has to set or delete a part of `null`.
        let has_headers = message.properties.headers.is_some();
        message.properties.headers.get_or_insert_default();
        // The message keeps its body: it may go back to its queue, or be forwarded.
        let value = match &self.decoder {
            Some(decoder) => decoder.show(message, JsonValue::of),
            None => JsonValue::of(message),
        };
        if !has_headers {
            message.properties.headers = None;
        }
        let value = match value {
            Ok(value) => value,
            Err(problem) => return self.leave_unfiltered(message, &problem),
        };
        if let Some(filter) = &rules.filter {
            match rules.evaluator.is_true(filter, &value) {
                Ok(true) => {}
                Ok(false) => return Decision::Leave,
                Err(problem) => return self.leave_unfiltered(message, &problem),
            }
        }
        let Some(map) = &rules.map else {
            return Decision::Take;
        };
        match rules.evaluator.result(map, value) {
            Ok(None) if rules.drops_empty => Decision::Remove,
            Ok(None) => self.leave_unmapped(
                message,
                "it has no result (--drop-empty would drop the message)",
            ),
            Ok(Some(result)) => match change(message, &result) {
                Ok(()) => Decision::Take,
                Err(problem) => {
                    self.leave_unmapped(message, &format!("the result is no message: {problem}"))
                }
            },
            Err(problem) => self.leave_unmapped(message, &problem),
        }
    }

    fn leave_unfiltered(&mut self, message: &Message, problem: &str) -> Decision {
        self.filter_failures += 1;
        // The first is enough to see what is wrong; bodies that are no JSON may be many.
        if self.filter_failures == 1 {
            self.note("--where", message, problem);
        }
        Decision::Leave
    }

    fn leave_unmapped(&mut self, message: &Message, problem: &str) -> Decision {
        self.map_failures += 1;
        if self.map_failures <= MAX_NAMED {
            self.note("--map", message, problem);
        }
        Decision::Leave
    }

    fn note(&self, option: &str, message: &Message, problem: &str) {
        let id = match &message.properties.message_id {
            Some(id) => format!(" ({id})"),
            None => String::new(),
        };
        self.messenger.note(&format!(
            "message {}{id} {}, as {option} fails: {problem}",
            self.received, self.consequence
        ));
    }

    /// Tells how often an expression failed.
    ///
    /// # Errors
    /// [`Error::Unmapped`] if messages should have been changed, but could not be.
    pub(super) fn end(self) -> Result<(), Error> {
        if let Some(replay) = &self.replay {
            replay.end();
        }
        let messages = counted(self.filter_failures, "message");
        match self.filter_failures {
            0 => {}
            all if all == self.received => self.messenger.warn(&format!(
                "--where failed for every message ({messages}), so none was taken"
            )),
            1 => {}
            _ => self
                .messenger
                .note(&format!("--where failed for {messages}")),
        }
        match self.map_failures {
            0 => Ok(()),
            messages => Err(Error::Unmapped { messages }),
        }
    }
}

/// Makes a message what `--map` has made of it.
fn change(message: &mut Message, result: &JsonValue) -> Result<(), String> {
    let envelope = envelope::parse(result.to_json())?;
    if let Some(exchange) = envelope.exchange {
        message.exchange = exchange;
    }
    if let Some(routing_key) = envelope.routing_key {
        message.routing_key = routing_key;
    }
    let had_headers = message.properties.headers.is_some();
    message.properties = envelope.properties;
    // An expression sees empty headers where there are none.
    message
        .properties
        .headers
        .take_if(|headers| !had_headers && headers.is_empty());
    message.body = envelope.body;
    Ok(())
}
