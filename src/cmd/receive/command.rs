//! `hello-mq receive -- COMMAND`: runs a command for each message, which its exit status settles.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use crossbeam_channel::{at, never, select};
use nix::sys::signal::Signal;

use super::ReceiveEnd;
use super::attempts::{self, Attempts, Key};
use super::background_publisher::{BackgroundOptions, BackgroundPublisher};
use super::decode::Decoder;
use super::job::{self, JobEvent, Jobs, TERMINATION_TIMEOUT};
use super::limits::{Limit, ReceiveLimits};
use super::reconnecting::ReconnectingSession;
use super::reply::{self, Reply};
use super::statistics::ReceiveStatistics;
use crate::broker::Connector;
use crate::broker::consume::Ticket;
use crate::broker::consume::consumer::{ConsumeEvent, Consumer, Delivery, Received, Settlement};
use crate::cli::{self, OnFailure};
use crate::cmd::{Context, counted};
use crate::error::Error;
use crate::interrupt::Interrupt;
use crate::message::Message;
use crate::text;
use crate::values::Span;
use crate::waker::{Receiver, Sender, unbounded};

/// The default of `--max-redeliveries`.
const MAX_REDELIVERIES: u32 = 10;

/// The most messages whose success is remembered until they are redelivered.
const MAX_REMEMBERED_SUCCESSES: usize = 1_000;

/// The consequence for a message that failed more often than its queue permits.
const DELIVERY_LIMIT_REASON: &str =
    "it exceeds its queue's delivery limit, so the queue drops or dead-letters it";

/// The exit statuses of a command.
const EXIT_ACKNOWLEDGE: i32 = 0;
const EXIT_REJECT: i32 = 3;
const EXIT_REQUEUE: i32 = 4;

/// The commands of one `receive`.
pub(super) struct Commands<'c> {
    context: &'c Context,
    program: String,
    jobs: Jobs,
    /// The most messages that may be with the jobs, running or not.
    max_handled: usize,
    timeout: Option<Duration>,
    on_failure: OnFailure,
    max_redeliveries: u32,
    attempts: Attempts,
    /// The messages whose commands succeeded after their connection was lost. They are redelivered.
    succeeded: VecDeque<Key>,
    /// The messages that are with the jobs.
    handled: HashMap<Ticket, HandledMessage>,
    /// The messages that go back to the queue at a certain moment. For a message of a stream, which takes
    /// none back, the command runs again.
    delayed: BTreeMap<(Instant, Ticket), Option<Delivery>>,
    events: Receiver<JobEvent>,
    event_sender: Sender<JobEvent>,
    /// Publishes the replies (`--reply`).
    replies: Option<BackgroundPublisher<Reply>>,
    /// The messages whose replies are not yet confirmed, and the sizes of their bodies.
    replying: HashMap<Ticket, u64>,
    /// Ends the publishing of replies: after the user's interrupt, when no command is running any more.
    reply_interrupt: Interrupt,
    limits: ReceiveLimits,
}

/// A message that is with the jobs.
struct HandledMessage {
    /// The name of the message in what the user is told.
    name: String,
    /// Whether its message-id or its number in a stream tells it from all others.
    has_id: bool,
    key: Key,
    bytes: u64,
    /// The number of times that it has failed before.
    failures: u32,
    /// Whether its queue does not keep it if it fails once more.
    is_at_limit: bool,
    /// The message, if it is one of a stream.
    stream_delivery: Option<Delivery>,
    /// The same message, redelivered after its connection was lost.
    redelivery: Option<Delivery>,
    /// The reply without its body, if the message asks for one.
    reply: Option<Message>,
    /// The moment of the next signal to the command. `None` until its start is known.
    deadline: Option<Instant>,
    /// Whether the command got SIGTERM, so that SIGKILL is next.
    is_terminated: bool,
}

/// The state of handling messages on one connection.
enum WorkState {
    /// Messages are received, and commands started for them.
    Receiving,
    /// Commands are no longer started. When the last has ended, this is the result.
    Finishing(Result<ReceiveEnd, Error>),
}

impl<'c> Commands<'c> {
    pub(super) fn new(
        arguments: &cli::Receive,
        decoder: Option<&Decoder>,
        context: &'c Context,
        limits: ReceiveLimits,
    ) -> Self {
        let (event_sender, events) = unbounded();
        let jobs = usize::from(arguments.jobs.unwrap_or(1));
        let on_failure = arguments.on_failure.unwrap_or(OnFailure::Requeue);
        let command = arguments.command.clone();
        let program = command.first().map(|program| program.to_string_lossy());
        Self {
            context,
            program: program.unwrap_or_default().into_owned(),
            jobs: Jobs::new(jobs, command, decoder.cloned(), event_sender.clone()),
            max_handled: match on_failure {
                // After a failure no command may begin.
                OnFailure::Stop => jobs,
                // When a job ends, the next message is at hand.
                OnFailure::Requeue | OnFailure::Reject => 2 * jobs,
            },
            timeout: arguments.command_timeout.and_then(Span::if_any),
            on_failure,
            max_redeliveries: arguments.max_redeliveries.unwrap_or(MAX_REDELIVERIES),
            attempts: Attempts::default(),
            succeeded: VecDeque::new(),
            handled: HashMap::new(),
            delayed: BTreeMap::new(),
            events,
            event_sender,
            replies: None,
            replying: HashMap::new(),
            reply_interrupt: Interrupt::default(),
            limits,
        }
    }

    /// Starts to publish replies.
    ///
    /// # Errors
    /// Fails if the system has no more threads.
    pub(super) fn reply(&mut self, options: BackgroundOptions) -> io::Result<()> {
        let (settings, messenger) = (&self.context.settings, &self.context.messenger);
        let connector = Connector::new(
            &settings.broker,
            "receive --reply",
            &self.reply_interrupt,
            None,
            messenger,
        );
        let events = self.event_sender.clone();
        let replies = reply::publisher(options, connector, messenger.clone(), events)?;
        self.replies = Some(replies);
        Ok(())
    }

    /// Waits for commands that are still running although the connection is lost, and ends the publishing
    /// of replies.
    pub(super) fn close(mut self) {
        while !self.handled.is_empty() {
            self.enforce_timeout();
            let deadline = self.next_deadline().map_or_else(never, at);
            select! {
                recv(self.events.inner()) -> event => match event {
                    Ok(JobEvent::Ended { ticket, .. } | JobEvent::NotStarted(ticket, _)) => {
                        self.handled.remove(&ticket);
                    }
                    Ok(_) => {}
                    Err(_) => break,
                },
                recv(deadline) -> _ => {}
            }
        }
        if self.context.interrupt.happened() {
            self.reply_interrupt.trigger();
        }
        if let Some(replies) = self.replies {
            replies.close();
        }
    }

    /// Handles messages on one connection. Commands may still be running when it is lost.
    pub(super) fn work(
        &mut self,
        reconnecting: &mut ReconnectingSession,
        consumer: &mut Consumer,
        statistics: &mut ReceiveStatistics,
    ) -> Result<ReceiveEnd, Error> {
        self.delayed
            .retain(|(_, ticket), _| consumer.holds(*ticket));
        self.replying.retain(|ticket, _| consumer.holds(*ticket));
        // Messages that the last connection redelivered are redelivered once more.
        for message in self.handled.values_mut() {
            message.redelivery = None;
        }
        let end = self.receive(reconnecting, consumer, statistics);
        self.withdraw();
        end
    }

    fn receive(
        &mut self,
        reconnecting: &mut ReconnectingSession,
        consumer: &mut Consumer,
        statistics: &mut ReceiveStatistics,
    ) -> Result<ReceiveEnd, Error> {
        self.limits.start();
        let mut state = WorkState::Receiving;
        loop {
            self.end_delays(consumer, matches!(state, WorkState::Receiving));
            self.enforce_timeout();
            statistics.update(consumer.done());
            state = match state {
                WorkState::Receiving if self.is_complete(consumer) => {
                    return Ok(if consumer.is_at_end() {
                        ReceiveEnd::Empty
                    } else if consumer.is_full() {
                        ReceiveEnd::Full
                    } else {
                        ReceiveEnd::Count
                    });
                }
                WorkState::Receiving => WorkState::Receiving,
                WorkState::Finishing(result) => {
                    self.withdraw();
                    // Replies have a limited time from now on.
                    if self.handled.is_empty() && self.context.interrupt.happened() {
                        self.reply_interrupt.trigger();
                    }
                    if !self.is_busy() {
                        return result;
                    }
                    WorkState::Finishing(result)
                }
            };
            let is_receiving = matches!(state, WorkState::Receiving);
            let mut limit = None;
            if is_receiving {
                consumer.resume()?;
                limit = self.limits.next(consumer.is_idle() && !self.is_busy());
            }
            let may_take = is_receiving && self.handled.len() < self.max_handled;
            let moments = [limit.map(|(moment, _)| moment), self.next_deadline()];
            let at_most = moments.into_iter().flatten().min();
            // A broker that can't write for long closes the connection, and the message of a command that
            // takes longer would never be done. So everything is read.
            let event = consumer.wait(may_take, None, &self.events, is_receiving, at_most);
            let event = match (event, state) {
                // Another connection would only begin anew what has to end.
                (Err(_), WorkState::Finishing(Err(error))) => return Err(error),
                (Err(lost), _) => return Err(lost),
                (Ok(event), unchanged) => {
                    state = unchanged;
                    event
                }
            };
            match event {
                ConsumeEvent::Arrived => self.take(reconnecting, consumer, statistics)?,
                ConsumeEvent::Other(event) => {
                    if let Err(error) = self.apply(consumer, event) {
                        state = WorkState::Finishing(Err(error));
                    }
                }
                ConsumeEvent::Interrupted => {
                    state = WorkState::Finishing(Ok(ReceiveEnd::Stopped));
                }
                ConsumeEvent::TimedOut => match limit {
                    Some((moment, Limit::End(end))) if moment <= Instant::now() => {
                        state = WorkState::Finishing(Ok(end));
                    }
                    Some((moment, Limit::EmptyCheck)) if moment <= Instant::now() => {
                        if consumer.stop_if_empty()? {
                            state = WorkState::Finishing(Ok(ReceiveEnd::Empty));
                        }
                        self.limits.not_empty();
                    }
                    _ => {}
                },
            }
        }
    }

    /// Whether a message is with the jobs, or its reply is not confirmed.
    fn is_busy(&self) -> bool {
        !self.handled.is_empty() || !self.replying.is_empty()
    }

    /// Whether all messages that were asked for are done.
    fn is_complete(&self, consumer: &Consumer) -> bool {
        consumer.is_complete() && !self.is_busy() && self.delayed.is_empty()
    }

    /// Takes the message that arrived.
    fn take(
        &mut self,
        reconnecting: &mut ReconnectingSession,
        consumer: &mut Consumer,
        statistics: &mut ReceiveStatistics,
    ) -> Result<(), Error> {
        let Some(received) = consumer.take()? else {
            return Ok(());
        };
        let now = Instant::now();
        reconnecting.last_activity = now;
        self.limits.received(now);
        statistics.received(now);
        if let Received::Taken(delivery) = received {
            self.handle(consumer, delivery);
        }
        if consumer.is_complete() {
            // The acknowledgement of the last message must not bring another.
            consumer.stop()?;
        }
        Ok(())
    }

    /// Applies an event of the jobs. An error ends the `receive`.
    fn apply(&mut self, consumer: &mut Consumer, event: JobEvent) -> Result<(), Error> {
        match event {
            JobEvent::Ended {
                ticket,
                status,
                output,
            } => {
                self.limits.done();
                self.finish(consumer, ticket, status, output)
            }
            JobEvent::NotStarted(ticket, source) => {
                self.handled.remove(&ticket);
                let command = self.program.clone();
                Err(Error::Spawn { command, source })
            }
            JobEvent::Replied(ticket, returned) => {
                self.limits.done();
                if let Some(said) = returned {
                    self.note(&format!(
                        "a reply could not be delivered ({said}): the requester is gone"
                    ));
                }
                let bytes = self.replying.remove(&ticket).unwrap_or_default();
                consumer.settle(ticket, Settlement::Acknowledge, bytes);
                Ok(())
            }
            JobEvent::ReplyFailed(error) => {
                self.replying.clear();
                Err(error)
            }
        }
    }

    /// Runs the command for a message, unless it is running for it, or has succeeded, since before the
    /// connection was lost.
    fn handle(&mut self, consumer: &mut Consumer, delivery: Delivery) {
        let key = Key::of(&delivery.message);
        // A stream does not mark a message as redelivered, but each has a number.
        if delivery.message.redelivered || delivery.offset.is_some() {
            let mut handled = self.handled.iter_mut();
            let same = handled.find(|(ticket, it)| {
                it.key == key && it.redelivery.is_none() && !consumer.holds(**ticket)
            });
            if let Some((_, handled)) = same {
                handled.redelivery = Some(delivery);
                return;
            }
            if let Some(at) = self.succeeded.iter().position(|known| *known == key) {
                self.succeeded.remove(at);
                let bytes = delivery.message.body.len() as u64;
                consumer.settle(delivery.ticket, Settlement::Acknowledge, bytes);
                return;
            }
        }
        self.start(key, delivery);
    }

    fn start(&mut self, key: Key, delivery: Delivery) {
        let stream_delivery = delivery.offset.is_some().then(|| delivery.clone());
        let Delivery {
            ticket,
            message,
            count,
            offset,
        } = delivery;
        let id = &message.properties.message_id;
        let name = match id {
            Some(id) => format!("message {id}"),
            None => "a message".to_owned(),
        };
        let failures = self.attempts.take(key, message.redelivered, count.times);
        let reply = reply::to(&message);
        let is_captured = self.replies.is_some();
        if is_captured && reply.is_none() {
            self.note(&format!(
                "{name} has no reply-to: the command's output is dropped"
            ));
        }
        let handled = HandledMessage {
            name,
            has_id: id.is_some() || offset.is_some(),
            key,
            bytes: message.body.len() as u64,
            failures,
            is_at_limit: count.is_at_limit,
            stream_delivery,
            redelivery: None,
            reply,
            deadline: None,
            is_terminated: false,
        };
        self.handled.insert(ticket, handled);
        let unfinished = self.handled.len();
        let attempt = 1 + u64::from(failures);
        self.jobs
            .run(ticket, *message, attempt, is_captured, unfinished);
    }

    /// Takes back the messages that no job has begun. They go back to the queue.
    fn withdraw(&mut self) {
        for ticket in self.jobs.withdraw() {
            if let Some(handled) = self.handled.remove(&ticket) {
                self.attempts.remember(handled.key, handled.failures);
            }
        }
    }

    /// Settles the message of a command that has ended. A failure may be the end (`--on-failure stop`).
    fn finish(
        &mut self,
        consumer: &mut Consumer,
        ticket: Ticket,
        status: io::Result<ExitStatus>,
        output: Vec<u8>,
    ) -> Result<(), Error> {
        let Some(mut handled) = self.handled.remove(&ticket) else {
            return Ok(());
        };
        let redelivery = handled.redelivery.take();
        let ticket = redelivery.as_ref().map_or(ticket, |it| it.ticket);
        // Without an id it may be another message that looks the same.
        let redelivery = redelivery.filter(|_| !handled.has_id);
        if redelivery.is_some() || !consumer.holds(ticket) {
            self.finish_lost(&handled, &status, redelivery);
            return Ok(());
        }
        let code = status.as_ref().ok().and_then(ExitStatus::code);
        let code = code.filter(|_| !handled.is_terminated);
        if code == Some(EXIT_ACKNOWLEDGE) {
            self.acknowledge(consumer, ticket, handled, output);
            return Ok(());
        }
        let failure = self.describe_failure(&handled, status);
        match (code, self.on_failure) {
            (Some(EXIT_REJECT), _) => {}
            (Some(EXIT_REQUEUE), _) | (_, OnFailure::Requeue) => {
                if handled.failures < self.max_redeliveries {
                    self.delay(ticket, handled, &failure);
                    return Ok(());
                }
                let times = counted(self.max_redeliveries.into(), "time");
                self.note(&format!(
                    "{failure}; it was redelivered {times} and is rejected (--max-redeliveries)"
                ));
            }
            (_, OnFailure::Reject) => self.note(&format!("{failure}; it is rejected")),
            (_, OnFailure::Stop) => {
                // Otherwise it would be redelivered at once.
                consumer.leave();
                consumer.settle(ticket, Settlement::Requeue, 0);
                let end = if handled.is_at_limit {
                    DELIVERY_LIMIT_REASON
                } else {
                    "it is back in its queue"
                };
                return Err(Error::CommandFailed(format!("{failure}; {end}")));
            }
        }
        consumer.settle(ticket, Settlement::Reject, handled.bytes);
        Ok(())
    }

    /// Acknowledges a message, after its reply is confirmed if there is one.
    fn acknowledge(
        &mut self,
        consumer: &mut Consumer,
        ticket: Ticket,
        handled: HandledMessage,
        output: Vec<u8>,
    ) {
        match (&self.replies, handled.reply) {
            (Some(replies), Some(reply)) => {
                let reply = Message {
                    body: output,
                    ..reply
                };
                replies.publish([(Reply(ticket), reply)]);
                self.replying.insert(ticket, handled.bytes);
            }
            _ => consumer.settle(ticket, Settlement::Acknowledge, handled.bytes),
        }
    }

    fn describe_failure(&self, handled: &HandledMessage, status: io::Result<ExitStatus>) -> String {
        let problem = match status {
            _ if handled.is_terminated => format!(
                "took longer than {} (--command-timeout)",
                text::rounded(self.timeout.unwrap_or_default())
            ),
            Err(error) => format!("can't be waited for: {error}"),
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("ended with status {code}"),
                (None, Some(signal)) => format!("was killed by signal {signal}"),
                (None, None) => "ended".to_owned(),
            },
        };
        format!("{}: the command {problem}", handled.name)
    }

    /// Gives a message back to its queue, or runs its command again, after a while.
    fn delay(&mut self, ticket: Ticket, handled: HandledMessage, failure: &str) {
        let failures = handled.failures + 1;
        self.attempts.remember(handled.key, failures);
        let delay = attempts::delay(failures);
        let delay_text = text::rounded(delay);
        let becomes = if handled.stream_delivery.is_some() {
            format!("it runs again in {delay_text}")
        } else if handled.is_at_limit {
            DELIVERY_LIMIT_REASON.to_owned()
        } else {
            format!("it returns to the queue in {delay_text}")
        };
        self.note(&format!("{failure}; {becomes}"));
        let mut delivery = handled.stream_delivery;
        if let Some(delivery) = &mut delivery {
            delivery.ticket = ticket;
            delivery.message.redelivered = true;
        }
        self.delayed
            .insert((Instant::now() + delay, ticket), delivery);
    }

    /// Records the end of a command whose connection was lost. Its message is redelivered, or has been.
    fn finish_lost(
        &mut self,
        handled: &HandledMessage,
        status: &io::Result<ExitStatus>,
        redelivery: Option<Delivery>,
    ) {
        let code = status.as_ref().ok().and_then(ExitStatus::code);
        let has_succeeded = code == Some(EXIT_ACKNOWLEDGE);
        if has_succeeded && handled.has_id && self.replies.is_none() {
            self.succeeded.push_back(handled.key);
            if self.succeeded.len() > MAX_REMEMBERED_SUCCESSES {
                self.succeeded.pop_front();
            }
            return;
        }
        self.note(&format!(
            "{}: the connection was lost before the command finished; it will be delivered again",
            handled.name
        ));
        let failures = handled.failures + u32::from(!has_succeeded);
        self.attempts.remember(handled.key, failures);
        if let Some(redelivery) = redelivery {
            self.start(handled.key, redelivery);
        }
    }

    /// Gives back the messages whose delay is over, or, if commands `may_start`, starts them again.
    fn end_delays(&mut self, consumer: &mut Consumer, may_start: bool) {
        while let Some(first) = self.delayed.first_entry() {
            let (moment, ticket) = *first.key();
            if moment > Instant::now() {
                break;
            }
            match first.remove() {
                Some(delivery) if may_start => self.start(Key::of(&delivery.message), delivery),
                Some(_) => {}
                None => consumer.settle(ticket, Settlement::Requeue, 0),
            }
        }
    }

    /// Signals the commands that take longer than they may.
    fn enforce_timeout(&mut self) {
        let Some(timeout) = self.timeout else {
            return;
        };
        let now = Instant::now();
        for (ticket, handled) in &mut self.handled {
            if handled.deadline.is_none() {
                let started = job::started(*ticket);
                handled.deadline = started.and_then(|started| started.checked_add(timeout));
            }
            if handled.deadline.is_some_and(|deadline| deadline <= now) {
                let signal = if handled.is_terminated {
                    Signal::SIGKILL
                } else {
                    Signal::SIGTERM
                };
                handled.is_terminated |= job::signal(*ticket, signal);
                handled.deadline = Some(now + TERMINATION_TIMEOUT);
            }
        }
    }

    /// Returns the next moment at which a command is to be signalled or a delay is over.
    fn next_deadline(&self) -> Option<Instant> {
        // A command that is started from now on is late no earlier than this.
        let earliest = self
            .timeout
            .and_then(|timeout| Instant::now().checked_add(timeout));
        let deadlines = self.handled.values();
        let deadlines = deadlines.filter_map(|handled| handled.deadline.or(earliest));
        let delays = self.delayed.keys().map(|(moment, _)| *moment);
        deadlines.chain(delays).min()
    }

    fn note(&self, text: &str) {
        self.context.messenger.note(text);
    }
}
