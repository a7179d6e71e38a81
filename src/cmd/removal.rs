//! `hello-mq delete` and `hello-mq purge`: remove a queue, an exchange, or the messages of a queue.

use std::fmt;

use serde::Serialize;

use super::plan::{Plan, look_up_exchange, look_up_queue};
use super::receive::ReceivePlan;
use super::{Context, confirm, counted, write};
use crate::broker::{Session, topology};
use crate::cli::{self, ListFormat};
use crate::error::Error;
use crate::settings::{Origin, Settings};
use crate::text;
use crate::values::QueueName;

/// The plan of `delete` or `purge`.
pub(crate) struct RemovalPlan {
    removal: Removal,
    /// The receiving and acknowledging of messages that match, if not all are removed.
    matching: Option<ReceivePlan>,
    /// Whether a user at a terminal is asked before messages are lost.
    asks: bool,
    form: ListFormat,
}

/// A thing to remove, and the conditions.
enum Removal {
    Queue {
        name: QueueName,
        if_empty: bool,
        if_unused: bool,
    },
    Exchange {
        name: String,
        if_unused: bool,
    },
    /// The messages of a queue.
    Messages {
        queue: QueueName,
    },
}

/// An entity and its state after the command, as an object of JSON. The names are those of `declare`.
#[derive(Serialize)]
struct RemovalJson<'a> {
    kind: &'static str,
    name: &'a str,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<u64>,
}

impl RemovalPlan {
    pub(crate) fn delete(arguments: cli::Delete, settings: &Settings) -> Result<Self, Error> {
        let cli::Delete {
            if_empty,
            if_unused,
            yes,
            output,
            exchange,
            ..
        } = arguments;
        let removal = match exchange {
            Some(name) if name.as_str().is_empty() => {
                let problem = "--exchange: the default exchange can't be deleted";
                return Err(Error::Usage(problem.to_owned()));
            }
            Some(name) => Removal::Exchange {
                name: name.as_str().to_owned(),
                if_unused,
            },
            None => Removal::Queue {
                name: named_queue(settings, "delete")?,
                if_empty,
                if_unused,
            },
        };
        Ok(Self {
            removal,
            matching: None,
            asks: !yes && !if_empty,
            form: output,
        })
    }

    pub(crate) fn purge(arguments: &cli::Purge, context: &Context) -> Result<Self, Error> {
        let queue = named_queue(&context.settings, "purge")?;
        Ok(Self {
            removal: Removal::Messages { queue },
            matching: ReceivePlan::removing(arguments, context)?,
            asks: !arguments.yes,
            form: arguments.output,
        })
    }
}

/// Returns the queue that the command line names. Nothing is removed from a queue that is the default.
fn named_queue(settings: &Settings, verb: &str) -> Result<QueueName, Error> {
    match &settings.queue.origin {
        Origin::Flag(_) => Ok(settings.queue.value.clone()),
        _ => Err(Error::Usage(format!(
            "no queue given; write: hello-mq {verb} QUEUE"
        ))),
    }
}

impl Plan for RemovalPlan {
    fn operations(&self) -> Vec<String> {
        let mut operations = vec![self.removal.look_up_operation()];
        match &self.matching {
            None => operations.push(self.removal.operation()),
            Some(plan) => {
                let [connect, close] = ["connect to the same broker", "connection.close"]
                    .map(|operation| vec![operation.to_owned()]);
                let all = [connect, plan.operations(), close].concat();
                operations.extend(all.into_iter().map(|it| {
                    if it.contains(": ") {
                        it
                    } else {
                        format!("removal: {it}")
                    }
                }));
            }
        }
        operations
    }

    /// Removes it. It is no error if it does not exist.
    fn run(mut self: Box<Self>, context: &Context) -> Result<(), Error> {
        let removal = &self.removal;
        let connector = context.connector(removal.verb(), None).declaring(true);
        let mut session = connector.open()?;
        let messages = match removal.look_up(&mut session) {
            Err(Error::Refused { code: 404, .. }) => {
                session.close();
                return self.report_missing(context, &connector.broker());
            }
            found => found?,
        };
        if self.asks && messages > 0 {
            let (mut question, otherwise) = removal.question(messages, &connector.broker());
            if self.matching.is_some() {
                question = question.replacen("remove", "remove those that --where takes of", 1);
            }
            confirm::ask(context, &question, &otherwise)?;
        }
        let removed = match &self.matching {
            None => removal.execute(&mut session)?.map(u64::from),
            Some(_) => None,
        };
        session.close();
        let removed = match self.matching.take() {
            None => removed,
            Some(plan) => Some(plan.remove(context)?),
        };
        self.report(context, removed)
    }
}

impl RemovalPlan {
    /// Prints that it is removed, with the number of `messages` of a queue.
    fn report(&self, context: &Context, messages: Option<u64>) -> Result<(), Error> {
        let (state, done) = match self.removal {
            Removal::Messages { .. } => ("purged", "Purged"),
            Removal::Queue { .. } | Removal::Exchange { .. } => ("deleted", "Deleted"),
        };
        if self.form == ListFormat::Json {
            return self.print_json(state, messages);
        }
        context.print(&match (&self.removal, messages) {
            (Removal::Queue { name, .. } | Removal::Messages { queue: name }, Some(messages)) => {
                let messages = counted(messages, "message");
                format!(" [x] {done} {name} ({messages})")
            }
            (removal, _) => format!(" [x] {done} {removal}"),
        })
    }

    /// Says that it does not exist on `broker`.
    fn report_missing(&self, context: &Context, broker: &str) -> Result<(), Error> {
        if self.form == ListFormat::Json {
            return self.print_json("missing", None);
        }
        let (entity, verb) = (&self.removal, self.removal.verb());
        context.messenger.note(&format!(
            "there is no {entity} on {broker}; nothing to {verb}"
        ));
        Ok(())
    }

    fn print_json(&self, state: &'static str, messages: Option<u64>) -> Result<(), Error> {
        let (kind, name) = match &self.removal {
            Removal::Queue { name, .. } | Removal::Messages { queue: name } => {
                ("queue", name.as_str())
            }
            Removal::Exchange { name, .. } => ("exchange", name.as_str()),
        };
        let entry = RemovalJson {
            kind,
            name,
            state,
            messages,
        };
        let line = serde_json::to_string(&entry)
            .map_err(|error| Error::Bug(format!("cannot write JSON: {error}")))?;
        write(&line)
    }
}

impl Removal {
    fn verb(&self) -> &'static str {
        match self {
            Self::Queue { .. } | Self::Exchange { .. } => "delete",
            Self::Messages { .. } => "purge",
        }
    }

    fn look_up_operation(&self) -> String {
        match self {
            Self::Queue { name, .. } | Self::Messages { queue: name } => look_up_queue(name),
            Self::Exchange { name, .. } => look_up_exchange(name),
        }
    }

    /// Returns the number of messages that would be lost.
    fn look_up(&self, session: &mut Session) -> Result<u32, Error> {
        match self {
            Self::Queue { name, .. } | Self::Messages { queue: name } => {
                topology::look_up(session, name).map(|state| state.messages)
            }
            Self::Exchange { name, .. } => topology::look_up_exchange(session, name).map(|()| 0),
        }
    }

    fn operation(&self) -> String {
        match self {
            Self::Queue {
                name,
                if_empty,
                if_unused,
            } => format!("queue.delete {name} if_empty={if_empty} if_unused={if_unused}"),
            Self::Exchange { name, if_unused } => {
                let name = text::escape(name);
                format!("exchange.delete '{name}' if_unused={if_unused}")
            }
            Self::Messages { queue } => format!("queue.purge {queue}"),
        }
    }

    /// Returns the number of messages that a queue had.
    fn execute(&self, session: &mut Session) -> Result<Option<u32>, Error> {
        match self {
            Self::Queue {
                name,
                if_empty,
                if_unused,
            } => topology::delete(session, name, *if_empty, *if_unused).map(Some),
            Self::Exchange { name, if_unused } => {
                topology::delete_exchange(session, name, *if_unused).map(|()| None)
            }
            Self::Messages { queue } => topology::purge(session, queue).map(Some),
        }
    }

    /// Returns the question before `messages` are lost, and the result if the answer is no.
    fn question(&self, messages: u32, broker: &str) -> (String, String) {
        let messages = counted(messages.into(), "message");
        match self {
            Self::Messages { queue } => (
                format!("remove {messages} from queue {queue} on {broker}?"),
                format!("the messages are still in queue {queue}"),
            ),
            entity => (
                format!("{entity} on {broker} has {messages}; delete it and lose them?"),
                format!("{entity} is still there"),
            ),
        }
    }
}

/// Names the queue or the exchange.
impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue { name, .. } | Self::Messages { queue: name } => write!(f, "queue {name}"),
            Self::Exchange { name, .. } => write!(f, "exchange '{}'", text::escape(name)),
        }
    }
}
