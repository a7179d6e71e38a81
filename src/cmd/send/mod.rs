//! `hello-mq send`: publish messages, and end when the broker has confirmed each.

mod replies;
mod report;

use std::collections::BTreeSet;

use super::Context;
use super::plan::{Plan, ensure, publish};
use super::sending::{MessageDefaults, RateLimiter, SendRetry, Sending, Supply};
use crate::broker::Retry;
use crate::broker::publish::{PublishOptions, REPLY_TO};
use crate::broker::topology::declare_at_login;
use crate::cli::{self, MessageFormat};
use crate::error::Error;
use crate::input::{self, InputFormat, InputOptions};
use crate::message::{FieldTable, Properties, ShortString};
use crate::output::OutputFormat;
use crate::settings::Settings;
use crate::topology::{Queue, Size};
use crate::values::{Expiration, Header, Name, Rate, Span};
use replies::PendingRequests;
use report::SendReport;

/// The plan of `send`.
pub(crate) struct SendPlan {
    input: InputOptions,
    defaults: MessageDefaults,
    /// The queue to declare for the messages that go to it.
    queue: Option<Queue>,
    options: PublishOptions,
    rate: Option<Rate>,
    retry_for: Span,
    /// The timeout and the format of replies.
    replies: Option<(Span, OutputFormat)>,
}

impl SendPlan {
    pub(crate) fn new(arguments: cli::Send, context: &Context) -> Result<Self, Error> {
        let settings = &context.settings;
        let defaults = defaults(&arguments, settings)?;
        Ok(Self {
            queue: (defaults.is_to_queue() && !settings.send.no_declare.value)
                .then(|| settings.definition.clone()),
            options: PublishOptions {
                allow_unroutable: arguments.allow_unroutable,
                replies: arguments.reply_timeout.is_some(),
                confirm_timeout: settings.send.confirm_timeout.value,
                no_confirm: arguments.no_confirm,
            },
            rate: arguments.rate,
            retry_for: settings.send.retry_for.value,
            replies: replies(&arguments, context)?,
            input: InputOptions {
                format: format(&arguments),
                arguments: arguments.messages,
                files: arguments.files,
                count: arguments.count.unwrap_or(1),
                max_part_size: arguments.max_line.map(Size::bytes),
                pace: arguments.pace,
            },
            defaults,
        })
    }

    /// Whether each message says itself where it goes, and only the defaults are known.
    fn is_addressed_by_input(&self) -> bool {
        self.input.format == InputFormat::JsonLines
    }
}

impl Plan for SendPlan {
    fn operations(&self) -> Vec<String> {
        let mut operations = Vec::new();
        let is_addressed_by_input = self.is_addressed_by_input();
        operations.extend(self.queue.as_ref().map(|queue| {
            let when = if is_addressed_by_input {
                ", if a message goes there"
            } else {
                ""
            };
            format!("{}{when}", ensure(queue))
        }));
        if self.options.replies {
            operations.push(format!(
                "basic.consume '{REPLY_TO}' no_ack=true exclusive=false"
            ));
        }
        if !self.options.no_confirm {
            operations.push("confirm.select".to_owned());
        }
        operations.extend(self.input.pace.map(|pace| {
            format!("wait until each message is due, by its received_at at a pace of {pace}")
        }));
        let example = self.defaults.example();
        let delivery_mode = example.properties.delivery_mode.unwrap_or(TRANSIENT);
        operations.push(format!(
            "{} delivery_mode={delivery_mode}, for each message{}",
            publish(self.options, &example),
            if is_addressed_by_input {
                ", unless its line says otherwise"
            } else {
                ""
            }
        ));
        operations.push(if self.options.no_confirm {
            "basic.qos prefetch_count=0, each time that the broker is to answer when it has read the \
             messages"
                .to_owned()
        } else {
            format!(
                "wait for basic.ack of each, until nothing is confirmed for {}",
                self.options.confirm_timeout
            )
        });
        operations
    }

    /// Sends the messages, and prints each that is confirmed, or how many are.
    fn run(self: Box<Self>, context: &Context) -> Result<(), Error> {
        let is_queue_needed = !self.is_addressed_by_input();
        let replies = self.replies.map(|(timeout, form)| {
            PendingRequests::new(timeout, form).map_err(|source| Error::System {
                what: "write to standard output",
                source,
            })
        });
        let replies = replies.transpose()?;
        let input = input::open(self.input, &context.interrupt, &context.messenger)?;
        let report = SendReport::new(context, &input, replies);
        let mut sending = Sending {
            connector: declare_at_login(
                context.connector("send", None),
                self.queue.as_ref().filter(|_| is_queue_needed),
            ),
            options: self.options,
            queue: self.queue,
            is_queue_needed,
            is_queue_declared: false,
            supply: Supply::new(input.batches, self.defaults),
            rate_limiter: RateLimiter::new(self.rate),
            retry: SendRetry::new(Retry::new(Some(self.retry_for))),
            messenger: context.messenger.clone(),
            observer: report,
        };
        let sent = sending.run();
        let Sending {
            observer: report,
            supply,
            ..
        } = sending;
        match sent {
            Err(error) if !(report.is_complete() && supply.is_exhausted()) => {
                Err(report.fail(error, supply.is_read()))
            }
            // An error that follows the last confirm changes nothing.
            Ok(()) | Err(_) => report.finish(),
        }
    }
}

/// Returns how long to wait for each reply and how to print it, if there are to be any.
fn replies(
    arguments: &cli::Send,
    context: &Context,
) -> Result<Option<(Span, OutputFormat)>, Error> {
    let Some(timeout) = arguments.reply_timeout else {
        return match arguments.output {
            Some(_) => Err(Error::Usage(
                "--output is for replies: it requires --reply-timeout or --explain".to_owned(),
            )),
            None => Ok(None),
        };
    };
    let end = b"\n".to_vec();
    let form = match (&arguments.format, arguments.output) {
        (Some(template), _) => OutputFormat::Template(template.clone().for_stdout(arguments.raw)),
        (None, Some(MessageFormat::Body)) => OutputFormat::Body(end),
        (None, Some(MessageFormat::Json)) => OutputFormat::Json {
            end,
            decodes: false,
        },
        (None, Some(MessageFormat::Text) | None) => OutputFormat::Text(context.paint),
    };
    Ok(Some((timeout, form)))
}

fn format(arguments: &cli::Send) -> InputFormat {
    match &arguments.delimiter {
        _ if arguments.jsonl => InputFormat::JsonLines,
        _ if arguments.lines => InputFormat::Delimited(b"\n".to_vec()),
        _ if arguments.null => InputFormat::Delimited(b"\0".to_vec()),
        Some(delimiter) => InputFormat::Delimited(delimiter.as_bytes().to_vec()),
        None => InputFormat::Whole,
    }
}

/// The `delivery-mode` of a message that survives a restart of the broker.
const PERSISTENT: u8 = 2;

/// The `delivery-mode` of a message that does not, as does one without it.
const TRANSIENT: u8 = 1;

fn defaults(arguments: &cli::Send, settings: &Settings) -> Result<MessageDefaults, Error> {
    let given = arguments.properties.clone();
    let name = |name: &Name| name.as_str().to_owned();
    Ok(MessageDefaults {
        exchange: arguments.exchange.as_ref().map(name).unwrap_or_default(),
        routing_key: arguments.routing_key.as_ref().map(name),
        queue: settings.queue.value.as_str().to_owned(),
        properties: Properties {
            content_type: given.content_type,
            content_encoding: given.content_encoding,
            headers: headers(given.headers)?,
            delivery_mode: settings.send.persistent.value.then_some(PERSISTENT),
            priority: given.priority,
            correlation_id: given.correlation_id,
            reply_to: match arguments.reply_timeout {
                Some(_) => ShortString::new(REPLY_TO).ok(),
                None => given.reply_to,
            },
            expiration: given
                .expiration
                .map(Expiration::milliseconds)
                .and_then(|text| ShortString::new(text).ok()),
            message_id: given.message_id,
            timestamp: given.timestamp.map(|timestamp| timestamp.0),
            kind: given.kind,
            user_id: given.user_id,
            app_id: given.app_id,
            cluster_id: None,
        },
        id_prefix: input::random_id(),
        // An envelope holds the message that was received, and nothing is added to it.
        adds_message_id: !arguments.jsonl || arguments.properties.add_message_id,
        adds_correlation_id: arguments.reply_timeout.is_some(),
    })
}

fn headers(headers: Vec<Header>) -> Result<Option<FieldTable>, Error> {
    let mut names = BTreeSet::new();
    if let Some(header) = headers.iter().find(|header| !names.insert(&header.name)) {
        // RabbitMQ from 4.0 on keeps only the first.
        return Err(Error::Usage(format!(
            "--header: {} is given twice",
            header.name
        )));
    }
    let headers = headers
        .into_iter()
        .map(|header| (header.name, header.value));
    Ok(Some(headers.collect::<FieldTable>()).filter(|table| !table.is_empty()))
}
