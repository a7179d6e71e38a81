//! `hello-mq receive`: receives messages, and acknowledges those that are done.

mod attempts;
mod background_publisher;
mod command;
mod decode;
mod environment;
mod forward;
mod job;
mod limits;
mod peek;
mod plan;
mod print;
mod reconnecting;
mod replay;
mod reply;
mod selection;
mod statistics;
mod tally;

use std::io;
use std::os::fd::AsFd;

use super::{Context, counted};
use crate::broker::consume::ConsumeOptions;
use crate::broker::consume::batches::BatchProgress;
use crate::broker::consume::consumer::{self, ConsumeProgress};
use crate::cli;
use crate::error::Error;
use crate::output::{self, Directory, OutputFormat, Stdout, Writer};
use crate::text;
use command::Commands;
use decode::Decoder;
use forward::Forward;
pub use job::abort;
use limits::ReceiveLimits;
use plan::Handling;
pub(crate) use plan::ReceivePlan;
use print::{Printer, Sink};
use reconnecting::{MessageSource, ReconnectingSession};
use replay::Replay;
use selection::Selection;
use statistics::ReceiveStatistics;
use tally::Tally;

/// The reason why a `receive` ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReceiveEnd {
    Count,
    Stopped,
    TimeIsUp,
    Idle,
    Empty,
    /// No more messages can be held that are not taken.
    Full,
}

impl ReceivePlan {
    /// Receives messages until the count or a limit is reached, the user interrupts, or the reader is gone.
    fn carry_out(self, context: &Context) -> Result<(), Error> {
        let mut statistics = ReceiveStatistics::new(&self.arguments, context);
        let wanted = self.arguments.count;
        let is_peeking = self.arguments.peek || self.arguments.dry_run;
        let end = self.receive(context, &mut statistics);
        let received = statistics.messages();
        statistics.finish();
        let why = match end? {
            ReceiveEnd::Count | ReceiveEnd::Stopped => return Ok(()),
            ReceiveEnd::TimeIsUp => "timed out (--timeout)",
            ReceiveEnd::Idle => "no further message arrived (--idle-timeout)",
            ReceiveEnd::Empty if is_peeking => "the queue has no more messages",
            ReceiveEnd::Empty => "the queue is empty (--drain)",
            ReceiveEnd::Full => return Err(Error::HeldTooMany),
        };
        match wanted {
            Some(wanted) if received < wanted => Err(Error::Short {
                received,
                wanted,
                why,
            }),
            _ => Ok(()),
        }
    }

    /// Removes messages, and returns their number.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the user interrupts it, [`Error::HeldTooMany`] if too many messages stay.
    pub(crate) fn remove(self, context: &Context) -> Result<u64, Error> {
        let mut statistics = ReceiveStatistics::new(&self.arguments, context);
        let end = self.receive(context, &mut statistics)?;
        match (end, statistics.messages()) {
            (ReceiveEnd::Full, removed) => {
                let messages = counted(removed, "message");
                context.messenger.note(&format!("removed {messages}"));
                Err(Error::HeldTooMany)
            }
            (ReceiveEnd::Stopped, removed) => Err(Error::Interrupted(format!(
                "after {} had been removed",
                counted(removed, "message")
            ))),
            (_, removed) => Ok(removed),
        }
    }

    fn receive(
        self,
        context: &Context,
        statistics: &mut ReceiveStatistics,
    ) -> Result<ReceiveEnd, Error> {
        let Self {
            source,
            options,
            handling,
            limits,
            rules,
            arguments,
        } = self;
        let mut decoder = Decoder::new(&arguments, &context.messenger);
        let is_selecting = rules.is_some();
        let replay = handling.replay().cloned();
        let replay = replay.map(|options| Replay::new(options, context));
        let mut selection = Selection::new(rules, replay, decoder.clone(), context, &source);
        if is_selecting {
            decoder = decoder.map(Decoder::silent);
        }
        let is_publishing = matches!(handling, Handling::Forward(_));
        let selecting = &mut selection;
        let looking = peek::Limits {
            until: limits.until,
            count: options.count,
        };
        let result = match handling {
            Handling::Write(format) => {
                let consequence = consequence(context, &source, options);
                let writer = writer(&arguments, format, decoder.as_ref(), context, consequence)?;
                let sink = Sink::Writer(writer);
                print(
                    context, sink, source, options, limits, selecting, statistics,
                )
            }
            Handling::Forward(forwarding) => {
                let connector = context.target_connector(if arguments.replay.is_some() {
                    "receive --replay"
                } else {
                    "receive --forward-to"
                });
                let messenger = context.messenger.clone();
                let forward = Forward::spawn(forwarding, connector, messenger);
                let sink = Sink::Forward(forward.map_err(Error::thread)?);
                print(
                    context, sink, source, options, limits, selecting, statistics,
                )
            }
            Handling::Remove => {
                let sink = Sink::nothing(None);
                print(
                    context, sink, source, options, limits, selecting, statistics,
                )
            }
            Handling::Peek(format) => {
                let queue = &context.settings.queue.value;
                let consequence = format!("every message is still in queue {queue}");
                let writer = writer(&arguments, format, decoder.as_ref(), context, consequence)?;
                let mut sink = Sink::Writer(writer);
                let connector = context.connector("receive --peek", limits.until);
                let declared = source.declared();
                peek::run(
                    context, connector, declared, &mut sink, looking, selecting, statistics,
                )
            }
            Handling::DryRun(forwarding) => {
                let tally = Tally::new(forwarding.target().cloned());
                let mut sink = Sink::nothing(Some(tally));
                let connector = context.connector("receive --dry-run", limits.until);
                let declared = source.declared();
                let end = peek::run(
                    context, connector, declared, &mut sink, looking, selecting, statistics,
                )?;
                statistics.end_progress();
                if let Sink::Nothing(Some(tally), _) = sink {
                    tally.print(selecting.left(), context)?;
                }
                Ok(end)
            }
            Handling::Run(replies) => {
                let mut commands = Commands::new(&arguments, decoder.as_ref(), context, limits);
                if let Some(publishing) = replies {
                    commands.reply(publishing).map_err(Error::thread)?;
                }
                command(
                    context, commands, source, options, limits, selecting, statistics,
                )
            }
        };
        statistics.end_progress();
        if let Some(decoder) = decoder {
            decoder.finish();
        }
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
        if is_publishing {
            let verb = match arguments.replay {
                Some(_) => "Replayed",
                None => "Forwarded",
            };
            context.print(&format!(
                " [x] {verb} {}",
                counted(statistics.messages(), "message")
            ))?;
        }
        selection.end()?;
        Ok(end)
    }
}

fn print(
    context: &Context,
    mut sink: Sink,
    source: MessageSource,
    options: ConsumeOptions,
    limits: ReceiveLimits,
    selection: &mut Selection,
    statistics: &mut ReceiveStatistics,
) -> Result<ReceiveEnd, Error> {
    let mut progress = BatchProgress::new(options);
    let connector = context.connector("receive", limits.until);
    statistics.begin();
    let mut printer = Printer::new(context, &mut sink, limits, statistics);
    let end = ReconnectingSession::new(context, connector, source, limits.until).run(
        |reconnecting, session, queue| {
            selection.begin(session)?;
            let mut decide = |message: &mut _| selection.decide(message);
            printer.consume(reconnecting, session, queue, &mut progress, &mut decide)
        },
    );
    sink.close();
    statistics.update(progress.done());
    end
}

fn command(
    context: &Context,
    mut commands: Commands,
    source: MessageSource,
    options: ConsumeOptions,
    limits: ReceiveLimits,
    selection: &mut Selection,
    statistics: &mut ReceiveStatistics,
) -> Result<ReceiveEnd, Error> {
    let mut progress = ConsumeProgress::new(options);
    let connector = context.connector("receive -- COMMAND", None);
    statistics.begin();
    let end = ReconnectingSession::new(context, connector, source, limits.until).run(
        |reconnecting, session, queue| {
            let mut end = ReceiveEnd::Count;
            let mut decide = |message: &mut _| selection.decide(message);
            consumer::consume(session, queue, &mut progress, &mut decide, |consumer| {
                end = commands.work(reconnecting, consumer, statistics)?;
                Ok(())
            })?;
            Ok(end)
        },
    );
    commands.close();
    statistics.update(progress.done());
    end
}

/// Returns what becomes of messages that can't be written.
fn consequence(context: &Context, source: &MessageSource, options: ConsumeOptions) -> String {
    let queue = &context.settings.queue.value;
    match source {
        MessageSource::Exchanges(..) => "unwritten messages are lost".to_owned(),
        MessageSource::Queue { .. } if options.no_ack() => {
            format!("messages in transit from queue {queue} are lost (--auto-ack)")
        }
        MessageSource::Queue { .. } => format!("unwritten messages are back in queue {queue}"),
    }
}

/// Creates the writer of messages, which decodes them first if that is wanted.
fn writer(
    arguments: &cli::Receive,
    format: OutputFormat,
    decoder: Option<&Decoder>,
    context: &Context,
    consequence: String,
) -> Result<Writer, Error> {
    let writer = plain_writer(arguments, format, context, consequence)?;
    Ok(match decoder.cloned() {
        Some(decoder) => writer.changing(move |message| decoder.decode(message)),
        None => writer,
    })
}

fn plain_writer(
    arguments: &cli::Receive,
    format: OutputFormat,
    context: &Context,
    consequence: String,
) -> Result<Writer, Error> {
    let system = |source| Error::System {
        what: "start the writer",
        source,
    };
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
