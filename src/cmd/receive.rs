//! `hello-mq receive`: print the messages of a queue, and acknowledge what is printed and flushed.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::Context;
use crate::broker::consumer::{self, Consumer, Event, Inflow, Options};
use crate::broker::{Backoff, Connector, Session, topology};
use crate::cli;
use crate::error::Error;
use crate::output::{self, Stdout, Text, Writer};
use crate::values::Span;

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
    let mut inflow = Inflow::new(Options {
        count: arguments.count,
        prefetch: context.settings.prefetch.value,
        auto_ack: context.settings.auto_ack.value,
    });
    let end = match Receiver::new(arguments, context)?.run(&mut inflow) {
        // That is how it is meant to end, whatever it was doing.
        Err(Error::Interrupted(_)) => End::Stopped,
        Err(Error::Output { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => {
            End::Stopped
        }
        Err(Error::TimeIsUp) => End::TimeIsUp,
        Err(error) => return Err(error),
        Ok(end) => end,
    };
    let why = match end {
        End::Count | End::Stopped => return Ok(()),
        End::TimeIsUp => "the time is up (--timeout)",
        End::Idle => "no more came (--idle-timeout)",
        End::Empty => "the queue is empty (--drain)",
    };
    match arguments.count {
        Some(wanted) if inflow.done() < wanted => Err(Error::Short {
            received: inflow.done(),
            wanted,
            why,
        }),
        _ => Ok(()),
    }
}

struct Receiver<'c> {
    context: &'c Context,
    connector: Connector,
    writer: Writer,
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
    fn new(arguments: &cli::Receive, context: &'c Context) -> Result<Self, Error> {
        let bug = |error: io::Error| Error::Bug(format!("cannot write in a thread: {error}"));
        let stdout = Stdout::open().map_err(bug)?;
        output::watch(
            io::stdout().as_fd().try_clone_to_owned().map_err(bug)?,
            context.interrupt.clone(),
        )
        .map_err(bug)?;
        let writer = Writer::spawn(Text::new(stdout, context.talk.is_quiet())).map_err(bug)?;

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
            writer,
            drain: arguments.drain,
            until,
            idle_timeout: context.settings.idle_timeout.value.and_then(Span::if_any),
            started: false,
            last_message: now,
            alive_since: now,
        })
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
                Error::Cancelled { .. } => match self.resume(&mut session, error) {
                    Ok(()) => continue,
                    Err(error) => error,
                },
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
        let settings = &self.context.settings;
        let queue = &settings.queue.value;
        if !settings.no_declare.value {
            topology::ensure(session, queue)?;
        }
        let mut end = End::Count;
        consumer::consume(session, queue, inflow, |consumer| {
            if !self.started {
                self.writer.start();
                self.started = true;
            }
            end = self.print(consumer)?;
            Ok(())
        })?;
        Ok(end)
    }

    fn print(&mut self, consumer: &mut Consumer) -> Result<End, Error> {
        let mut end = End::Count;
        let mut leave_by = None;
        let mut look_at = self.drain.then(Instant::now);
        while !consumer.is_done() {
            if let Some(batch) = consumer.next_batch() {
                self.writer.hand_over(batch);
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
            match consumer.wait(self.writer.written(), at_most)? {
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
        let queue = &self.context.settings.queue.value;
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
