//! `hello-mq receive`: receives messages, and acknowledges those that are done.

mod attempts;
mod background_publisher;
mod command;
mod environment;
mod forward;
mod job;
mod limits;
mod peek;
mod print;
mod reconnecting;
mod reply;
mod statistics;

use std::io;
use std::os::fd::AsFd;

use super::{Context, counted};
use crate::broker::consume::ConsumeOptions;
use crate::broker::consume::batches::BatchProgress;
use crate::broker::consume::consumer::{self, ConsumeProgress};
use crate::cli::{self, MessageFormat};
use crate::color::Paint;
use crate::error::Error;
use crate::output::{self, Directory, OutputFormat, Stdout, Writer};
use crate::settings::Origin;
use crate::values::Target;
use crate::{text, topology};
use command::{Commands, MAX_WAITING_MESSAGES};
use forward::Forward;
pub use job::abort;
use limits::ReceiveLimits;
use print::{Printer, Sink};
use reconnecting::{MessageSource, ReconnectingSession};
use statistics::ReceiveStatistics;

/// The reason why a `receive` ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReceiveEnd {
    Count,
    Stopped,
    TimeIsUp,
    Idle,
    Empty,
}

/// Receives messages until the count or a limit is reached, the user interrupts, or the reader is gone.
///
/// # Errors
/// Those of the broker; [`Error::Output`] if a message can't be written; [`Error::Short`] if it ended
/// before the count was reached.
pub fn run(arguments: &cli::Receive, context: &Context) -> Result<(), Error> {
    let mut statistics = ReceiveStatistics::new(arguments, context);
    let result = receive(arguments, context, &mut statistics);
    statistics.finish();
    result
}

fn receive(
    arguments: &cli::Receive,
    context: &Context,
    statistics: &mut ReceiveStatistics,
) -> Result<(), Error> {
    let source = MessageSource::new(arguments, context)?;
    let limits = ReceiveLimits::new(arguments, context);
    let result = if !arguments.command.is_empty() {
        command(arguments, context, source, limits, statistics)
    } else if arguments.peek {
        peek(arguments, context, limits, statistics)
    } else {
        print(arguments, context, source, limits, statistics)
    };
    statistics.end_progress();
    let number = statistics.messages();
    let end = match result {
        // It is meant to end like this.
        Err(Error::Interrupted(_)) => ReceiveEnd::Stopped,
        Err(Error::Output { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => {
            ReceiveEnd::Stopped
        }
        Err(Error::TimeIsUp) => ReceiveEnd::TimeIsUp,
        Err(error) => return Err(error),
        Ok(end) => end,
    };
    if arguments.forward_to.is_some() {
        context.print(&format!(" [x] Forwarded {}", counted(number, "message")))?;
    }
    let why = match end {
        ReceiveEnd::Count | ReceiveEnd::Stopped => return Ok(()),
        ReceiveEnd::TimeIsUp => "timed out (--timeout)",
        ReceiveEnd::Idle => "no further message arrived (--idle-timeout)",
        ReceiveEnd::Empty if arguments.peek => "the queue has no more messages",
        ReceiveEnd::Empty => "the queue is empty (--drain)",
    };
    match arguments.count {
        Some(wanted) if number < wanted => Err(Error::Short {
            received: number,
            wanted,
            why,
        }),
        _ => Ok(()),
    }
}

/// What it would do.
///
/// # Errors
/// As [`run`], without the broker's.
pub fn operations(arguments: &cli::Receive, context: &Context) -> Result<Vec<String>, Error> {
    let settings = &context.settings;
    let mut operations = Vec::new();
    let mut queue = Some(&settings.queue.value);
    match MessageSource::new(arguments, context)? {
        MessageSource::Queue {
            is_declared,
            is_exclusive,
        } => {
            if is_declared {
                operations.push(topology::implicit(&settings.definition));
            }
            if is_exclusive {
                operations.push(format!(
                    "queue.declare {} with arguments that make nothing, to learn its type",
                    settings.queue.value
                ));
            }
        }
        MessageSource::Exchange(exchange, routing_keys) => {
            queue = None;
            let name = text::escape(&exchange);
            if routing_keys.is_empty() {
                operations.push(format!(
                    "exchange.declare '{name}' with arguments that make nothing, to learn its type"
                ));
            }
            operations.push("queue.declare '' exclusive=true auto_delete=true".to_owned());
            operations.extend(topology::keys_of(&routing_keys).map(|key| {
                let key = text::escape(key);
                format!("queue.bind queue '' to exchange '{name}' with '{key}'")
            }));
        }
    }
    let queue = queue.map_or("''".to_owned(), ToString::to_string);
    if arguments.peek {
        operations.push(format!("basic.get {queue}, until there are no more"));
        operations.push("basic.nack requeue=true (from RabbitMQ 4.3 on)".to_owned());
        operations.push("connection.close: every message goes back".to_owned());
        return Ok(operations);
    }
    let options = options(arguments, context);
    operations.push(format!("basic.qos prefetch_count={}", options.prefetch));
    let priority = options
        .priority
        .map(|priority| format!(" x-priority={priority}"));
    let offset = options
        .stream_offset
        .map(|offset| format!(" x-stream-offset={offset}"));
    operations.push(format!(
        "basic.consume {queue} no_ack={} exclusive={}{}{}",
        options.auto_ack,
        options.exclusive,
        priority.unwrap_or_default(),
        offset.unwrap_or_default()
    ));
    let then = match &arguments.forward_to {
        Some(target) => format!(
            "basic.publish exchange='{}' routing_key='{}' mandatory=true{}, and basic.ack once it is \
             confirmed, for each message",
            text::escape(&target.exchange),
            text::escape(&target.routing_key),
            match forward::left_out(arguments).as_slice() {
                [] => String::new(),
                parts => {
                    let names: Vec<_> = parts.iter().map(ToString::to_string).collect();
                    format!(" without {}", names.join(", "))
                }
            }
        ),
        None if !arguments.command.is_empty() => {
            "basic.ack, or basic.reject, of each message as COMMAND's exit status says".to_owned()
        }
        None if options.auto_ack => return Ok(operations),
        None => "basic.ack of what is written".to_owned(),
    };
    operations.push(then);
    operations.push("basic.cancel".to_owned());
    Ok(operations)
}

fn options(arguments: &cli::Receive, context: &Context) -> ConsumeOptions {
    let prefetch = &context.settings.receive.prefetch;
    ConsumeOptions {
        count: arguments.count,
        prefetch: match prefetch.origin {
            // What waits for a command is kept from other consumers.
            Origin::Default if !arguments.command.is_empty() => arguments
                .jobs
                .unwrap_or(1)
                .saturating_add(MAX_WAITING_MESSAGES),
            _ => prefetch.value.get(),
        },
        // What does not acknowledge can't wait for a confirm either.
        auto_ack: context.settings.receive.auto_ack.value && arguments.forward_to.is_none(),
        exclusive: arguments.exclusive,
        priority: arguments.priority,
        stream_offset: arguments.stream_offset,
        drain: arguments.drain,
    }
}

fn print(
    arguments: &cli::Receive,
    context: &Context,
    source: MessageSource,
    limits: ReceiveLimits,
    statistics: &mut ReceiveStatistics,
) -> Result<ReceiveEnd, Error> {
    let mut sink = match &arguments.forward_to {
        Some(target) => Sink::Forward(forward(target, arguments, context)?),
        None => Sink::Writer(writer(arguments, context, consequence(context, &source))?),
    };
    let mut progress = BatchProgress::new(options(arguments, context));
    let connector = context.connector("receive", limits.until);
    statistics.begin();
    let mut printer = Printer::new(context, &mut sink, limits, statistics);
    let end = ReconnectingSession::new(context, connector, source, limits.until)
        .run(|line, session, queue| printer.consume(line, session, queue, &mut progress));
    sink.close();
    statistics.update(progress.done());
    end
}

fn peek(
    arguments: &cli::Receive,
    context: &Context,
    limits: ReceiveLimits,
    statistics: &mut ReceiveStatistics,
) -> Result<ReceiveEnd, Error> {
    let queue = &context.settings.queue.value;
    let consequence = format!("every message is still in queue {queue}");
    let mut sink = Sink::Writer(writer(arguments, context, consequence)?);
    let connector = context.connector("receive --peek", limits.until);
    statistics.begin();
    peek::run(
        context,
        &connector,
        &mut sink,
        limits.until,
        arguments.count,
        statistics,
    )
}

fn command(
    arguments: &cli::Receive,
    context: &Context,
    source: MessageSource,
    limits: ReceiveLimits,
    statistics: &mut ReceiveStatistics,
) -> Result<ReceiveEnd, Error> {
    let mut progress = ConsumeProgress::new(options(arguments, context));
    let mut commands = Commands::new(arguments, context, limits);
    if arguments.reply {
        commands.reply().map_err(Error::thread)?;
    }
    let connector = context.connector("receive -- COMMAND", None);
    statistics.begin();
    let end = ReconnectingSession::new(context, connector, source, limits.until).run(
        |line, session, queue| {
            let mut end = ReceiveEnd::Count;
            consumer::consume(session, queue, &mut progress, |consumer| {
                end = commands.work(line, consumer, statistics)?;
                Ok(())
            })?;
            Ok(end)
        },
    );
    commands.close();
    statistics.update(progress.done());
    end
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

/// Returns what becomes of messages that can't be written.
fn consequence(context: &Context, source: &MessageSource) -> String {
    let queue = &context.settings.queue.value;
    match source {
        MessageSource::Exchange(..) => "unwritten messages are lost".to_owned(),
        MessageSource::Queue { .. } if context.settings.receive.auto_ack.value => {
            format!("messages in transit from queue {queue} are lost (--auto-ack)")
        }
        MessageSource::Queue { .. } => format!("unwritten messages are back in queue {queue}"),
    }
}

/// Creates the writer of messages.
fn writer(
    arguments: &cli::Receive,
    context: &Context,
    consequence: String,
) -> Result<Writer, Error> {
    let system = |source| Error::System {
        what: "start the writer",
        source,
    };
    let format = format(arguments, context.paint)?;
    let is_quiet = context.messenger.is_quiet();
    output::watch(
        io::stdout().as_fd().try_clone_to_owned().map_err(system)?,
        context.interrupt.clone(),
    )
    .map_err(system)?;
    let Some(path) = &arguments.save else {
        return Writer::stream(format, is_quiet, consequence).map_err(system);
    };
    let stdout = Stdout::open().map_err(system)?;
    let directory = Directory::open(path, format, stdout, is_quiet);
    let directory = directory.map_err(|source| Error::Directory {
        path: path.clone(),
        source,
    })?;
    if directory.cleared() > 0 {
        context.messenger.note(&format!(
            "{}: removed unfinished files of an earlier run that was killed (files: {})",
            text::escape(&path.display().to_string()),
            directory.cleared()
        ));
    }
    Ok(Writer::new(Box::new(directory), consequence))
}

/// Creates what forwards messages.
fn forward(target: &Target, arguments: &cli::Receive, context: &Context) -> Result<Forward, Error> {
    let settings = &context.settings;
    if target.exchange.is_empty() && target.routing_key == settings.queue.value.as_str() {
        return Err(Error::Usage(format!(
            "--forward-to: queue {} can't be forwarded to itself; that would never end",
            settings.queue.value
        )));
    }
    let connector = context.connector("receive --forward-to", None);
    let (left_out, messenger) = (forward::left_out(arguments), context.messenger.clone());
    Forward::spawn(target.clone(), left_out, settings, connector, messenger).map_err(Error::thread)
}
