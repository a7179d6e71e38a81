//! `hello-mq send`: publish messages, and be done when the broker has confirmed each.

mod replies;
mod report;

use std::collections::BTreeSet;

use super::Context;
use super::sending::{MessageDefaults, RateLimiter, SendRetry, Sending, Supply};
use crate::broker::Retry;
use crate::broker::publish::{PublishOptions, REPLY_TO};
use crate::broker::topology::declare_at_login;
use crate::cli::{self, MessageFormat};
use crate::error::Error;
use crate::input::{self, InputFormat, InputOptions};
use crate::message::{FieldTable, Properties, ShortString};
use crate::output;
use crate::text;
use crate::topology::{self, Size};
use crate::values::{Expiration, Header, Name};
use replies::PendingRequests;
use report::SendReport;

/// Sends the messages and prints each that is confirmed, or how many.
///
/// # Errors
/// Those of the input; those of the broker; [`Error::ConfirmFailure`] with the messages that no queue
/// took, that the broker refused, or of which it said nothing.
pub fn run(arguments: cli::Send, context: &Context) -> Result<(), Error> {
    let template = template(&arguments, context)?;
    let rate_limiter = RateLimiter::new(arguments.rate);
    let replies = replies(&arguments, context)?;
    let form = form(&arguments);
    let options = InputOptions {
        arguments: arguments.messages,
        files: arguments.files,
        format: form.clone(),
        count: arguments.count.unwrap_or(1),
        max_part_size: arguments.max_line.map(Size::bytes),
    };
    let input = input::open(options, &context.interrupt, &context.messenger)?;
    let settings = &context.settings;
    let report = SendReport::new(context, &input, replies);
    // An envelope may send all messages elsewhere.
    let is_queue_needed = template.is_to_queue() && form != InputFormat::JsonLines;
    let is_declaring = is_queue_needed && !settings.send.no_declare.value;
    let mut sending = Sending {
        connector: declare_at_login(
            context.connector("send", None),
            is_declaring.then_some(&settings.definition),
        ),
        options: PublishOptions {
            allow_unroutable: arguments.allow_unroutable,
            replies: arguments.reply_timeout.is_some(),
            confirm_timeout: settings.send.confirm_timeout.value,
            no_confirm: arguments.no_confirm,
        },
        queue: (!settings.send.no_declare.value).then(|| settings.definition.clone()),
        is_queue_needed,
        is_queue_declared: false,
        supply: Supply::new(input.batches, template),
        rate_limiter,
        retry: SendRetry::new(Retry::new(Some(settings.send.retry_for.value))),
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
        // Once the fate of every message is known, the broker's last words add nothing to it.
        Ok(()) | Err(_) => report.finish(),
    }
}

/// What it would do.
///
/// # Errors
/// As [`run`], without the broker's and the input's.
pub fn operations(arguments: &cli::Send, context: &Context) -> Result<Vec<String>, Error> {
    let settings = &context.settings;
    let template = template(arguments, context)?;
    let mut operations = Vec::new();
    let is_to_queue = template.is_to_queue() && form(arguments) != InputFormat::JsonLines;
    if is_to_queue && !settings.send.no_declare.value {
        operations.push(topology::implicit(&settings.definition));
    }
    if !arguments.no_confirm {
        operations.push("confirm.select".to_owned());
    }
    if arguments.reply_timeout.is_some() {
        operations.push(format!("basic.consume '{REPLY_TO}' no_ack=true"));
    }
    let routing_key = match (&template.routing_key, template.exchange.is_empty()) {
        (Some(key), _) => key.as_str(),
        (None, true) => settings.queue.value.as_str(),
        (None, false) => "",
    };
    let delivery_mode = template.properties.delivery_mode.unwrap_or(TRANSIENT);
    operations.push(format!(
        "basic.publish exchange='{}' routing_key='{}' mandatory={} delivery_mode={delivery_mode}, \
         for each message{}",
        text::escape(&template.exchange),
        text::escape(routing_key),
        !arguments.allow_unroutable,
        match form(arguments) {
            InputFormat::JsonLines => ", unless its line says otherwise",
            _ => "",
        }
    ));
    operations.push(if arguments.no_confirm {
        "basic.qos, which the broker answers when it has read them all".to_owned()
    } else {
        format!(
            "wait for basic.ack of each, until nothing is confirmed for {}",
            settings.send.confirm_timeout.value
        )
    });
    Ok(operations)
}

/// What prints the replies, if there are to be any.
fn replies(arguments: &cli::Send, context: &Context) -> Result<Option<PendingRequests>, Error> {
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
        (Some(template), _) => {
            output::OutputFormat::Template(template.clone().for_stdout(arguments.raw))
        }
        (None, Some(MessageFormat::Body)) => output::OutputFormat::Body(end),
        (None, Some(MessageFormat::Json)) => output::OutputFormat::Json {
            end,
            decodes: false,
        },
        (None, Some(MessageFormat::Text) | None) => output::OutputFormat::Text(context.paint),
    };
    PendingRequests::new(timeout, form)
        .map(Some)
        .map_err(|source| Error::System {
            what: "write to standard output",
            source,
        })
}

fn form(arguments: &cli::Send) -> InputFormat {
    match &arguments.delimiter {
        _ if arguments.jsonl => InputFormat::JsonLines,
        _ if arguments.lines => InputFormat::Delimited(b"\n".to_vec()),
        _ if arguments.null => InputFormat::Delimited(b"\0".to_vec()),
        Some(delimiter) => InputFormat::Delimited(delimiter.as_bytes().to_vec()),
        None => InputFormat::Whole,
    }
}

/// AMQP's `delivery-mode` of a message that survives the broker's restart.
const PERSISTENT: u8 = 2;

/// AMQP's `delivery-mode` of one that need not, which is also meant where none is given.
const TRANSIENT: u8 = 1;

fn template(arguments: &cli::Send, context: &Context) -> Result<MessageDefaults, Error> {
    let settings = &context.settings;
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
        // RabbitMQ from 4.0 on keeps the first alone.
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
