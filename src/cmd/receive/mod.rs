//! `hello-mq receive`: print the messages of a queue, and acknowledge what is printed and flushed.

mod forward;
mod peek;

use std::borrow::Cow;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::{Context, counted};
use crate::broker::consumer::{self, Consumer, Event, Inflow, Options};
use crate::broker::{Backoff, Connector, Session, topology};
use crate::cli;
use crate::cli::OutputForm;
use crate::error::Error;
use crate::message::Message;
use crate::output::{self, Directory, Form, Output, Stdout, Stream, Writer};
use crate::settings::Origin;
use crate::values::{Name, QueueName, Span, Target};
use forward::Forward;

/// How long to wait, once it is time to leave, for a reader that takes nothing.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long nothing must come before it is asked whether the queue is empty.
const LULL: Duration = Duration::from_millis(20);

/// A connection that lasted so long is not one that fails again and again.
const STABLE: Duration = Duration::from_secs(30);

/// Why a `receive` came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Count,
    Stopped,
    TimeIsUp,
    Idle,
    Empty,
}

/// Prints messages until the count is reached, the time is over, the queue is empty, the user
/// interrupts or the reader leaves.
///
/// # Errors
/// Those of the broker; [`Error::Output`] if a message can't be written; [`Error::Short`] if there
/// were fewer messages than were to be counted.
pub fn run(arguments: &cli::Receive, context: &Context) -> Result<(), Error> {
    let source = source(arguments, context)?;
    let mut inflow = Inflow::new(Options {
        count: arguments.count,
        prefetch: context.settings.prefetch.value,
        auto_ack: context.settings.auto_ack.value,
        exclusive: arguments.exclusive,
        priority: arguments.priority,
        stream_offset: arguments.stream_offset,
    });
    let mut receiver = Receiver::new(arguments, source, context)?;
    let (result, number) = if arguments.peek {
        match receiver.peek(arguments.count) {
            Ok((end, shown)) => (Ok(end), shown),
            Err(error) => (Err(error), 0),
        }
    } else {
        let result = receiver.run(&mut inflow);
        (result, inflow.done())
    };
    receiver.sink.close();
    let end = match result {
        // That is how it is meant to end, whatever it was doing.
        Err(Error::Interrupted(_)) => End::Stopped,
        Err(Error::Output { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => {
            End::Stopped
        }
        Err(Error::TimeIsUp) => End::TimeIsUp,
        Err(error) => return Err(error),
        Ok(end) => end,
    };
    if arguments.forward_to.is_some() {
        context.print(&format!(" [x] Forwarded {}", counted(number, "message")))?;
    }
    let why = match end {
        End::Count | End::Stopped => return Ok(()),
        End::TimeIsUp => "the time is up (--timeout)",
        End::Idle => "no more came (--idle-timeout)",
        End::Empty if arguments.peek => "there are no more in the queue",
        End::Empty => "the queue is empty (--drain)",
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

/// What messages are received from.
enum Source {
    /// The queue of the settings.
    Queue,
    /// What an exchange sends to these routing keys.
    Exchange(String, Vec<String>),
}

/// A routing key that matches every other at a topic exchange, and means nothing to a fanout or a
/// headers exchange.
const EVERYTHING: &str = "#";

fn source(arguments: &cli::Receive, context: &Context) -> Result<Source, Error> {
    let Some(exchange) = &arguments.exchange else {
        return Ok(Source::Queue);
    };
    let usage = |problem: &str| Err(Error::Usage(problem.to_owned()));
    if exchange.as_str().is_empty() {
        return usage(
            "--exchange: nobody can listen in on the default exchange; receive from a queue",
        );
    }
    if matches!(context.settings.queue.origin, Origin::Flag(_)) {
        return usage("give either a queue or --exchange");
    }
    if arguments.drain {
        return usage("--drain: the temporary queue of --exchange is empty to begin with");
    }
    let keys = match arguments.routing_key.as_slice() {
        [] => vec![EVERYTHING.to_owned()],
        keys => keys
            .iter()
            .map(|key| Name::as_str(key).to_owned())
            .collect(),
    };
    Ok(Source::Exchange(exchange.as_str().to_owned(), keys))
}

/// What each message is to look like.
fn form(arguments: &cli::Receive) -> Result<Form, Error> {
    if let Some(template) = &arguments.format {
        return Ok(Form::Template(template.clone()));
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
        (Some(OutputForm::Body), _) | (None, Some(_)) => {
            Ok(Form::Body(ending.unwrap_or(default_ending)))
        }
        (Some(OutputForm::Json), _) => Ok(Form::Json(ending.unwrap_or(default_ending))),
        (Some(OutputForm::Text) | None, _) if ending.is_some() => Err(Error::Usage(
            "--delimiter and --null go with --output body or json".to_owned(),
        )),
        (Some(OutputForm::Text) | None, _) => Ok(Form::Text),
    }
}

/// What writes messages as the user wants them.
fn writer(arguments: &cli::Receive, context: &Context) -> Result<Writer, Error> {
    let bug = |error: io::Error| Error::Bug(format!("cannot write in a thread: {error}"));
    let form = form(arguments)?;
    let stdout = Stdout::open().map_err(bug)?;
    let is_quiet = context.talk.is_quiet();
    let output: Box<dyn Output> = match &arguments.save {
        None => Box::new(Stream::new(form, stdout, is_quiet)),
        Some(path) => {
            let directory = Directory::open(path, form, stdout, is_quiet);
            Box::new(directory.map_err(|source| Error::Directory {
                path: path.clone(),
                source,
            })?)
        }
    };
    output::watch(
        io::stdout().as_fd().try_clone_to_owned().map_err(bug)?,
        context.interrupt.clone(),
    )
    .map_err(bug)?;
    Writer::spawn(output).map_err(bug)
}

/// What publishes messages again.
fn forward(target: &Target, context: &Context) -> Result<Forward, Error> {
    let settings = &context.settings;
    if target.exchange.is_empty() && target.routing_key == settings.queue.value.as_str() {
        return Err(Error::Usage(format!(
            "--forward-to: messages from queue {} to itself would go round for ever",
            settings.queue.value
        )));
    }
    let connector = context.connector("receive --forward-to", None);
    Forward::spawn(target.clone(), settings, connector, context.talk)
        .map_err(|error| Error::Bug(format!("cannot start a thread: {error}")))
}

/// Where messages go.
enum Sink {
    Writer(Writer),
    Forward(Forward),
}

impl Sink {
    /// Writes what comes before the first message.
    fn start(&self) {
        if let Self::Writer(writer) = self {
            writer.start();
        }
    }

    fn hand_over(&mut self, batch: Vec<Message>) {
        match self {
            Self::Writer(writer) => writer.hand_over(batch),
            Self::Forward(forward) => forward.hand_over(batch),
        }
    }

    /// A report for each batch, in order.
    fn done(&self) -> &crossbeam_channel::Receiver<io::Result<()>> {
        match self {
            Self::Writer(writer) => writer.written(),
            Self::Forward(forward) => forward.confirmed(),
        }
    }

    fn close(self) {
        match self {
            Self::Writer(_) => {}
            Self::Forward(forward) => forward.close(),
        }
    }
}

struct Receiver<'c> {
    context: &'c Context,
    connector: Connector,
    source: Source,
    sink: Sink,
    drain: bool,
    until: Option<Instant>,
    idle_timeout: Option<Duration>,
    /// Whether what comes before the first message is written.
    started: bool,
    /// When the last message came or was written, or the wait for the first began.
    last_message: Instant,
    /// Since when the connection is open, or has brought its last message.
    alive_since: Instant,
}

impl<'c> Receiver<'c> {
    fn new(arguments: &cli::Receive, source: Source, context: &'c Context) -> Result<Self, Error> {
        let sink = match &arguments.forward_to {
            Some(target) => Sink::Forward(forward(target, context)?),
            None => Sink::Writer(writer(arguments, context)?),
        };

        let now = Instant::now();
        let until = context
            .settings
            .timeout
            .value
            .and_then(Span::if_any)
            .and_then(|timeout| now.checked_add(timeout));
        Ok(Self {
            context,
            connector: context.connector("receive", until),
            source,
            sink,
            drain: arguments.drain,
            until,
            idle_timeout: context.settings.idle_timeout.value.and_then(Span::if_any),
            started: false,
            last_message: now,
            alive_since: now,
        })
    }

    /// Shows what is in the queue, and returns why it ended and how many messages there were.
    fn peek(&mut self, count: Option<u64>) -> Result<(End, u64), Error> {
        peek::run(
            self.context,
            &self.connector,
            &mut self.sink,
            self.until,
            count,
        )
    }

    /// Receives, over as many connections as it takes.
    fn run(&mut self, inflow: &mut Inflow) -> Result<End, Error> {
        let mut backoff = Backoff::default();
        let mut session = self.connector.open()?;
        loop {
            let opened = Instant::now();
            self.alive_since = opened;
            // While there was no connection no message could come.
            self.last_message = opened;
            let error = match self.consume(&mut session, inflow) {
                Ok(end) => {
                    // The channel is closed, and with it all is said that counts.
                    let _ = session.close();
                    return Ok(end);
                }
                Err(error) => error,
            };
            if self.context.settings.no_reconnect.value {
                return Err(error);
            }
            let error = match error {
                Error::Cancelled { .. } if matches!(self.source, Source::Queue) => {
                    match self.resume(&mut session, error) {
                        Ok(()) => continue,
                        Err(error) => error,
                    }
                }
                error => error,
            };
            if !error.is_transient() {
                return Err(error);
            }
            if self.alive_since > opened || opened.elapsed() > STABLE {
                backoff = Backoff::default();
            }
            session = self.connector.reopen(error, self.until, &mut backoff)?;
        }
    }

    /// The broker has ended the consumption. A queue that is still there (its node failed over, or
    /// it was made anew) is consumed from again; one that was deleted is not brought back.
    fn resume(&self, session: &mut Session, cancelled: Error) -> Result<(), Error> {
        let queue = &self.context.settings.queue.value;
        match topology::look_up(session, queue) {
            Ok(_) => {
                self.context.talk.note(&format!(
                    "{cancelled}; it is there, consuming from it again"
                ));
                Ok(())
            }
            Err(error @ Error::Refused { code: 404, .. }) if !error.is_transient() => {
                Err(cancelled)
            }
            Err(error) => Err(error),
        }
    }

    /// Receives on one connection.
    fn consume(&mut self, session: &mut Session, inflow: &mut Inflow) -> Result<End, Error> {
        let queue = self.prepare(session)?;
        let mut end = End::Count;
        consumer::consume(session, &queue, inflow, |consumer| {
            if !self.started {
                self.sink.start();
                self.started = true;
            }
            end = self.print(consumer)?;
            Ok(())
        })?;
        Ok(end)
    }

    /// Makes sure that there is something to receive from.
    fn prepare(&self, session: &mut Session) -> Result<Cow<'c, QueueName>, Error> {
        let settings = &self.context.settings;
        match &self.source {
            Source::Queue => {
                if !settings.no_declare.value {
                    topology::ensure(session, &settings.queue.value)?;
                }
                Ok(Cow::Borrowed(&settings.queue.value))
            }
            Source::Exchange(exchange, routing_keys) => {
                topology::listen(session, exchange, routing_keys).map(Cow::Owned)
            }
        }
    }

    fn print(&mut self, consumer: &mut Consumer) -> Result<End, Error> {
        let mut end = End::Count;
        let mut leave_by = None;
        let mut look_at = self.drain.then(Instant::now);
        while !consumer.is_done() {
            if let Some(batch) = consumer.next_batch() {
                self.sink.hand_over(batch);
                continue;
            }
            // A reader that is slow is not a queue that is idle.
            let idle_at = self
                .idle_timeout
                .filter(|_| consumer.is_idle())
                .and_then(|timeout| self.last_message.checked_add(timeout));
            let look = look_at.filter(|_| consumer.is_idle());
            let at_most = match leave_by {
                Some(moment) => Some(moment),
                None => [self.until, idle_at, look].into_iter().flatten().min(),
            };
            match consumer.wait(self.sink.done(), at_most)? {
                Event::Taken => {
                    self.last_message = Instant::now();
                    self.alive_since = self.last_message;
                    look_at = look_at.map(|_| self.last_message + LULL);
                }
                Event::Written(Ok(())) => {
                    self.last_message = Instant::now();
                    consumer.acknowledge()?;
                }
                Event::Written(Err(source)) => return Err(self.unwritten(source)),
                Event::Interrupted => end = leave(consumer, End::Stopped, &mut leave_by)?,
                Event::Late if leave_by.is_some() => break,
                Event::Late if has_come(self.until) => {
                    end = leave(consumer, End::TimeIsUp, &mut leave_by)?;
                }
                Event::Late if has_come(idle_at) => {
                    end = leave(consumer, End::Idle, &mut leave_by)?;
                }
                Event::Late => {
                    if consumer.stop_if_empty()? {
                        end = End::Empty;
                    }
                    look_at = Some(Instant::now() + LULL);
                }
            }
        }
        Ok(end)
    }

    fn unwritten(&self, source: io::Error) -> Error {
        // What forwards messages fails as a `send` does.
        let source = match source.downcast::<Error>() {
            Ok(error) => return error,
            Err(source) => source,
        };
        let queue = &self.context.settings.queue.value;
        if let Source::Exchange(..) = self.source {
            return Error::Output {
                source,
                consequence: "what was not written is lost".to_owned(),
            };
        }
        Error::Output {
            source,
            consequence: if self.context.settings.auto_ack.value {
                format!("what was on its way from queue {queue} is lost (--auto-ack)")
            } else {
                format!("what was not written is back in queue {queue}")
            },
        }
    }
}

/// Takes no more messages; the reader has a moment for those that it is being given.
fn leave(consumer: &mut Consumer, end: End, leave_by: &mut Option<Instant>) -> Result<End, Error> {
    consumer.stop()?;
    *leave_by = Some(Instant::now() + PATIENCE);
    Ok(end)
}

fn has_come(moment: Option<Instant>) -> bool {
    moment.is_some_and(|moment| Instant::now() >= moment)
}
