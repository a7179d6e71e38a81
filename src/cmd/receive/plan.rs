//! The plan of `receive`.

use super::background_publisher::BackgroundOptions;
use super::forward::{Forwarding, Route};
use super::limits::ReceiveLimits;
use super::reconnecting::MessageSource;
use super::replay::ReplayOptions;
use super::selection::{self, Rules};
use crate::broker::consume::{ConsumeOptions, SelectionOptions, last_message_options};
use crate::cli::{self, Death, MessageFormat};
use crate::cmd::Context;
use crate::cmd::plan::{self, Plan, look_up_queue};
use crate::color::Paint;
use crate::error::Error;
use crate::message::{FieldValue, Message};
use crate::output::OutputFormat;
use crate::settings::Settings;
use crate::text;
use crate::topology::{self, Arguments, Binding, Destination, Entity, QueueKind};
use crate::values::{StreamOffset, Target, Timestamp};

/// The plan of `receive`.
pub(crate) struct ReceivePlan {
    pub(super) source: MessageSource,
    pub(super) options: ConsumeOptions,
    pub(super) handling: Handling,
    pub(super) limits: ReceiveLimits,
    /// The choice of messages, and the changes to them.
    pub(super) rules: Option<Rules>,
    /// The options that concern neither the broker nor the format.
    pub(super) arguments: cli::Receive,
}

/// The handling of each message.
pub(super) enum Handling {
    /// Writes it in this format.
    Write(OutputFormat),
    /// Writes it in this format, and leaves it in its queue.
    Peek(OutputFormat),
    /// Publishes it elsewhere.
    Forward(Forwarding),
    /// Counts it by where it would be published, and leaves it in its queue.
    DryRun(Forwarding),
    /// Runs a command for it, and publishes the output as a reply if that is wanted.
    Run(Option<BackgroundOptions>),
    /// Drops it.
    Remove,
}

impl ReceivePlan {
    pub(crate) fn new(arguments: cli::Receive, context: &Context) -> Result<Self, Error> {
        let settings = &context.settings;
        let source = MessageSource::new(&arguments, settings)?;
        let handling = if let Some(forwarding) = Forwarding::new(&arguments, settings)? {
            if arguments.dry_run {
                Handling::DryRun(forwarding)
            } else {
                Handling::Forward(forwarding)
            }
        } else if !arguments.command.is_empty() {
            let options = BackgroundOptions::new(settings);
            Handling::Run(arguments.reply.then_some(options))
        } else if arguments.peek {
            Handling::Peek(format(&arguments, context.paint)?)
        } else {
            Handling::Write(format(&arguments, context.paint)?)
        };
        let rules = Rules::new(&arguments)?;
        if arguments.decode.is_some()
            && rules.is_none()
            && matches!(handling, Handling::Forward(_) | Handling::DryRun(_))
        {
            let option = match arguments.replay {
                Some(_) => "--replay",
                None => "--forward-to",
            };
            return Err(Error::Usage(format!(
                "--decode has no effect with {option}, which publishes bodies as they are, unless --where or \
                 --map is given"
            )));
        }
        let mut options = options(&arguments, settings, &handling);
        if rules.is_some() || arguments.replay.is_some() {
            options.selection = selection::options(&arguments, &source);
            options.auto_ack = false;
        }
        Ok(Self {
            source,
            options,
            handling,
            limits: ReceiveLimits::new(&arguments, settings),
            rules,
            arguments,
        })
    }
}

impl ReceivePlan {
    /// Returns the plan that removes the selected messages of a queue; `None` if none are selected.
    pub(crate) fn removing(
        arguments: &cli::Purge,
        context: &Context,
    ) -> Result<Option<Self>, Error> {
        let selection = &arguments.selection;
        if selection.max_held.is_some() && selection.filter.is_none() {
            return Err(Error::Usage("--max-held requires --where".to_owned()));
        }
        let arguments = cli::Receive {
            selection: selection.clone(),
            decode: arguments.decode,
            drain: true,
            ..cli::Receive::default()
        };
        let Some(rules) = Rules::new(&arguments)? else {
            return Ok(None);
        };
        let settings = &context.settings;
        let source = MessageSource::Queue {
            name: settings.queue.value.clone(),
            declared: None,
            is_exclusive: false,
        };
        let handling = Handling::Remove;
        let mut options = options(&arguments, settings, &handling);
        options.selection = selection::options(&arguments, &source);
        Ok(Some(Self {
            source,
            options,
            handling,
            limits: ReceiveLimits::new(&arguments, settings),
            rules: Some(rules),
            arguments,
        }))
    }
}

impl Plan for ReceivePlan {
    fn operations(&self) -> Vec<String> {
        let (kind, queue) = (self.source.kind(), self.source.queue());
        let mut operations = self.source.operations();
        if self.is_bounded() {
            let look_up = look_up_queue(&queue);
            operations.push(format!("{look_up}, for the number of messages to replay"));
        }
        if kind.is_none() {
            let when = match self.source {
                MessageSource::Queue { is_exclusive, .. } if is_exclusive || self.options.drain => {
                    "to learn its type"
                }
                _ => "if its type matters for its messages",
            };
            operations.push(format!("{}, {when}", plan::compare("queue", &queue)));
        }
        operations.extend(
            if matches!(self.handling, Handling::Peek(_) | Handling::DryRun(_)) {
                get(&queue, &self.options)
            } else {
                self.consuming(&queue, kind)
            },
        );
        if !self.options.no_ack() {
            operations.extend(give_back(&queue, kind));
        }
        operations
    }

    fn run(self: Box<Self>, context: &Context) -> Result<(), Error> {
        self.carry_out(context)
    }
}

impl ReceivePlan {
    fn consuming(&self, queue: &str, kind: Option<QueueKind>) -> Vec<String> {
        let options = &self.options;
        let is_classic = kind == Some(QueueKind::Classic);
        let mut operations = consume(queue, options, kind);
        if options.drain && matches!(kind, None | Some(QueueKind::Stream)) {
            operations.extend(find_end(queue, kind));
        }
        operations.extend(self.selecting(kind));
        operations.extend(self.handling.operations(options));
        if options.drain {
            // The broker's number of messages lags behind what a stream has.
            let when = match kind {
                Some(QueueKind::Classic | QueueKind::Quorum { .. }) => "until no message is left",
                _ => "if no message comes, until none is left",
            };
            operations.push(format!("{}, {when}", look_up_queue(queue)));
        }
        operations.push(if options.drain {
            "basic.cancel, each time that no message seems to be left".to_owned()
        } else {
            "basic.cancel".to_owned()
        });
        operations.extend((!is_classic).then(|| settle_down(options)));
        operations
    }
}

impl ReceivePlan {
    /// Whether only the messages are replayed that are in the queue at the start.
    fn is_bounded(&self) -> bool {
        let replay = self.handling.replay();
        replay.is_some_and(|replay| replay.is_bounded)
    }

    /// Returns the handling of messages that are not taken.
    fn selecting(&self, kind: Option<QueueKind>) -> Vec<String> {
        match self.options.selection {
            SelectionOptions::All => Vec::new(),
            SelectionOptions::Some { max_held } if kind != Some(QueueKind::Stream) => vec![
                format!(
                    "a message that is not taken stays unacknowledged until the end (at most {max_held})"
                ),
                "another consumer begins when such messages use up the prefetch".to_owned(),
            ],
            SelectionOptions::Some { .. } | SelectionOptions::Filter => {
                vec!["messages that are not taken are acknowledged, too".to_owned()]
            }
        }
    }
}

/// Returns the operations that look into a queue.
fn get(queue: &str, options: &ConsumeOptions) -> Vec<String> {
    let until = match options.count {
        Some(count) => format!("until there are {count} messages, or no more"),
        None => "until there are no more".to_owned(),
    };
    vec![
        format!("basic.get {queue} no_ack=false, {until}"),
        "every message goes back, at the latest when the connection is closed".to_owned(),
    ]
}

/// Returns the operations that give messages back that are not acknowledged.
fn give_back(queue: &str, kind: Option<QueueKind>) -> Vec<String> {
    let mut operations = Vec::new();
    if matches!(kind, None | Some(QueueKind::Quorum { .. })) {
        operations.push(format!(
            "another connection: confirm.select and basic.publish to {queue}, if it is a quorum queue of \
             RabbitMQ before 4.3, of messages that it would drop if they were returned"
        ));
    }
    if kind != Some(QueueKind::Stream) {
        operations.push(
            "basic.nack requeue=true, for the messages that are not acknowledged, if the end of the \
             connection does not return them as well"
                .to_owned(),
        );
    }
    operations
}

/// Returns the operations that find the end of a stream.
fn find_end(queue: &str, kind: Option<QueueKind>) -> impl Iterator<Item = String> {
    let options = last_message_options();
    let mut operations = vec!["connect to the same broker".to_owned()];
    if kind.is_none() {
        operations[0] += ", if the queue is a stream";
    }
    operations.extend(consume(queue, &options, Some(QueueKind::Stream)));
    operations.push(settle_down(&options));
    operations.push("connection.close".to_owned());
    operations
        .into_iter()
        .map(|it| format!("end of the stream: {it}"))
}

/// Returns the operations that start a consumer of a queue of this kind, as far as it is known.
fn consume(queue: &str, options: &ConsumeOptions, kind: Option<QueueKind>) -> Vec<String> {
    let no_ack = options.no_ack();
    // A message that was on its way when the queue looked empty has the consumer started again.
    let until = if options.drain {
        ", until no message is left"
    } else {
        ""
    };
    let mut operations = Vec::new();
    if !no_ack {
        let prefetch = options.prefetch(options.needed(options.count));
        operations.push(format!("basic.qos prefetch_count={prefetch}{until}"));
    }
    let consume = |kind| {
        let arguments: Vec<_> = options
            .arguments(None, kind)
            .entries()
            .iter()
            .map(|(name, value)| {
                let value = match value {
                    FieldValue::Timestamp(seconds) => {
                        StreamOffset::Moment(Timestamp(*seconds)).to_string()
                    }
                    value => topology::render(value),
                };
                format!(" {}={value}", String::from_utf8_lossy(name.as_bytes()))
            })
            .collect();
        format!(
            "basic.consume {queue} no_ack={no_ack} exclusive={}{}{until}",
            options.exclusive,
            arguments.concat()
        )
    };
    let (plain, of_stream) = (consume(kind), consume(Some(QueueKind::Stream)));
    if kind.is_none() && plain != of_stream {
        operations.push(format!("{plain}, if it is not a stream"));
        operations.push(format!("{of_stream}, if it is a stream"));
    } else {
        operations.push(plain);
    }
    operations
}

/// Returns the operation that is answered when the broker has sent what it had to send.
fn settle_down(options: &ConsumeOptions) -> String {
    format!(
        "basic.qos prefetch_count={}, if messages may still be on their way",
        options.prefetch
    )
}

impl Handling {
    /// Returns the options of replaying, if that is what is done.
    pub(super) fn replay(&self) -> Option<&ReplayOptions> {
        match self {
            Self::Forward(forwarding) | Self::DryRun(forwarding) => forwarding.replay(),
            Self::Write(_) | Self::Peek(_) | Self::Run(_) | Self::Remove => None,
        }
    }

    /// Returns the operations for each message.
    fn operations(&self, options: &ConsumeOptions) -> Vec<String> {
        let publish = |publishing: &BackgroundOptions,
                       broker: Option<&String>,
                       message: Message,
                       rest: &str| {
            let publish = plan::publish(publishing.publish, &message);
            [
                format!(
                    "connect to {}",
                    broker.map_or("the same broker", String::as_str)
                ),
                "confirm.select".to_owned(),
                format!("{publish}, {rest}"),
                "connection.close".to_owned(),
            ]
            .map(|it| format!("publisher: {it}"))
        };
        let mut operations = Vec::new();
        match self {
            Self::Peek(_) | Self::DryRun(_) => {}
            Self::Remove => {
                operations.push("basic.ack, for each message that is taken".to_owned());
            }
            Self::Write(_) if options.no_ack() => {}
            Self::Write(_) => {
                operations.push("basic.ack, for each message that is written".to_owned());
            }
            Self::Forward(forwarding) => {
                let (target, left_out, which) = match &forwarding.route {
                    Route::Target(target, left_out) => (target.clone(), left_out, "each message"),
                    Route::Replay(replay) => {
                        let target = Target {
                            exchange: "EXCHANGE".to_owned(),
                            routing_key: "ROUTING-KEY".to_owned(),
                        };
                        let which = match replay.death {
                            Death::First => {
                                "each message, with EXCHANGE and ROUTING-KEY of its first death in x-death"
                            }
                            Death::Last => {
                                "each message, with EXCHANGE and ROUTING-KEY of its last death in x-death"
                            }
                        };
                        (target, &replay.left_out, which)
                    }
                };
                let names: Vec<_> = left_out.iter().map(ToString::to_string).collect();
                let without = match names.as_slice() {
                    [] => String::new(),
                    names => format!(", without {}", names.join(", ")),
                };
                let message = Message {
                    exchange: target.exchange,
                    routing_key: target.routing_key,
                    ..Message::default()
                };
                let rest = format!("for {which}{without}");
                let broker = forwarding.broker.as_ref();
                operations.extend(publish(&forwarding.options, broker, message, &rest));
                operations.push("basic.ack, for each message that is confirmed".to_owned());
            }
            Self::Run(replies) => {
                let done = match replies {
                    None => "ends with status 0",
                    Some(publishing) => {
                        let message = Message {
                            routing_key: "REPLY-TO".to_owned(),
                            ..Message::default()
                        };
                        let rest = "for each message that has a reply-to, with what COMMAND prints";
                        operations.extend(publish(publishing, None, message, rest));
                        "ends with status 0, and its reply is confirmed if there is one"
                    }
                };
                operations.push(format!("basic.ack, for each message, if COMMAND {done}"));
                for (requeue, verb) in [(false, "reject"), (true, "requeue")] {
                    operations.push(format!(
                        "basic.reject requeue={requeue}, for each message, if the status of COMMAND and \
                         --on-failure {verb} it"
                    ));
                }
            }
        }
        operations
    }
}

impl MessageSource {
    /// Returns the name of the queue, which is empty if the broker makes it up.
    fn queue(&self) -> String {
        match self {
            Self::Queue { name, .. } => name.to_string(),
            Self::Exchanges(..) => "''".to_owned(),
        }
    }

    /// Returns the operations that make sure that it is there.
    fn operations(&self) -> Vec<String> {
        match self {
            Self::Queue { declared, .. } => declared.iter().map(plan::ensure).collect(),
            Self::Exchanges(exchanges) => {
                let unfiltered = exchanges.iter().filter(|it| it.routing_keys.is_empty());
                let mut operations: Vec<_> = unfiltered
                    .map(|exchange| {
                        let name = format!("'{}'", text::escape(&exchange.name));
                        plan::compare("exchange", name) + ", to learn its type"
                    })
                    .collect();
                operations.push(
                    "queue.declare '' auto_delete=true durable=false exclusive=true".to_owned(),
                );
                for exchange in exchanges {
                    operations.extend(exchange.binding_keys().map(|key| {
                        Entity::Binding(Binding {
                            exchange: exchange.name.clone(),
                            destination: Destination::Queue(None),
                            routing_key: key.to_owned(),
                            arguments: Arguments::new(),
                        })
                        .operation()
                    }));
                }
                operations
            }
        }
    }
}

/// Returns the format of messages.
fn format(arguments: &cli::Receive, paint: Paint) -> Result<OutputFormat, Error> {
    if arguments.decode_amqp10 && arguments.output != Some(MessageFormat::Json) {
        return Err(Error::Usage(
            "--decode-amqp10 requires --output json; --output text always decodes".to_owned(),
        ));
    }
    if let Some(template) = &arguments.format {
        return Ok(OutputFormat::Template(match &arguments.save {
            Some(_) => template.clone(),
            None => template.clone().for_stdout(arguments.raw),
        }));
    }
    let ending = match &arguments.delimiter {
        _ if arguments.null => Some(b"\0".to_vec()),
        delimiter => delimiter.as_ref().map(|ending| ending.as_bytes().to_vec()),
    };
    // A file has an end of its own.
    let default_ending = match &arguments.save {
        Some(_) => Vec::new(),
        None => b"\n".to_vec(),
    };
    match (arguments.output, &arguments.save) {
        (Some(MessageFormat::Body), _) | (None, Some(_)) => {
            Ok(OutputFormat::Body(ending.unwrap_or(default_ending)))
        }
        (Some(MessageFormat::Json), _) => Ok(OutputFormat::Json {
            end: ending.unwrap_or(default_ending),
            decodes: arguments.decode_amqp10,
        }),
        (Some(MessageFormat::Text) | None, _) if ending.is_some() => Err(Error::Usage(
            "--delimiter and --null require --output body or json".to_owned(),
        )),
        // A file is a file, whatever standard output is.
        (Some(MessageFormat::Text), Some(_)) => Ok(OutputFormat::Text(Paint::default())),
        (Some(MessageFormat::Text) | None, None) => Ok(OutputFormat::Text(paint)),
    }
}

fn options(arguments: &cli::Receive, settings: &Settings, handling: &Handling) -> ConsumeOptions {
    ConsumeOptions {
        count: arguments.count,
        prefetch: settings.receive.prefetch.value.get(),
        // The others decide later whether a message is acknowledged.
        auto_ack: settings.receive.auto_ack.value && matches!(handling, Handling::Write(_)),
        exclusive: arguments.exclusive,
        priority: arguments.priority,
        stream_offset: arguments.stream_offset,
        drain: arguments.drain,
        selection: SelectionOptions::All,
    }
}
