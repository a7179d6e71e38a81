//! `hello-mq receive -- COMMAND`: a command for each message, whose exit status decides.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use crossbeam_channel::{at, never, select};
use nix::sys::signal::Signal;

use super::attempts::{self, Attempts, Key};
use super::job::{self, JobEvent, Jobs, TERMINATION_TIMEOUT};
use super::reconnecting::ReconnectingSession;
use super::reply::{Address, ReplyPublisher};
use super::statistics::ReceiveStatistics;
use super::{EMPTY_CHECK_DELAY, ReceiveEnd, ReceiveLimits, has_come};
use crate::broker::Connector;
use crate::broker::consume::Ticket;
use crate::broker::consume::consumer::{ConsumeEvent, Consumer, Delivery, Settlement};
use crate::cli::{self, OnFailure};
use crate::cmd::Context;
use crate::error::Error;
use crate::interrupt::Interrupt;
use crate::text;
use crate::values::Span;
use crate::waker::{Receiver, Sender, unbounded};

/// How often a message is delivered again, where nothing else is said, before it is rejected.
const MAX_REDELIVERIES: u32 = 10;

/// How many successes are remembered of messages that are to be delivered again.
const MAX_REMEMBERED_SUCCESSES: usize = 1_000;

/// How many messages may wait for their next delivery beside those that are being handled.
pub const MAX_WAITING_MESSAGES: u16 = 10;

/// The fate of a message that failed once more than its queue permits.
const DELIVERY_LIMIT_REASON: &str =
    "it exceeds its queue's delivery limit, so the queue drops or dead-letters it";

/// What the exit statuses of a command mean.
const DONE: i32 = 0;
const EXIT_REJECT: i32 = 3;
const EXIT_REQUEUE: i32 = 4;

/// The commands of one `receive`.
pub struct Commands<'c> {
    context: &'c Context,
    program: String,
    jobs: Jobs,
    /// How many messages may be with the jobs, running or not.
    most: usize,
    timeout: Option<Duration>,
    on_failure: OnFailure,
    max_redeliveries: u32,
    attempts: Attempts,
    /// The messages whose commands did well after their connection was lost. They are delivered again.
    succeeded: VecDeque<Key>,
    /// The messages that are with the jobs.
    running: HashMap<Ticket, HandledMessage>,
    /// The messages that go back to the queue at a certain moment.
    delayed: BTreeSet<(Instant, Ticket)>,
    /// Those of them that their queue does not take back, as it is a stream: their commands run again.
    kept: HashMap<Ticket, Delivery>,
    done: Receiver<JobEvent>,
    sender: Sender<JobEvent>,
    /// What sends replies, if there are to be any.
    replies: Option<ReplyPublisher>,
    /// The messages whose replies are on their way, and the sizes of their bodies.
    replying: HashMap<Ticket, u64>,
    /// Ends the sending of replies. It outlives the user's interrupt as long as commands are running.
    leave: Interrupt,
    limits: ReceiveLimits,
    last_message: Instant,
}

struct HandledMessage {
    /// What the message is called when something is said of it.
    name: String,
    /// Whether its message-id tells it from all others.
    has_id: bool,
    key: Key,
    bytes: u64,
    /// How often it has failed before.
    failures: u32,
    /// Whether its queue keeps it no longer if it fails once more.
    is_at_limit: bool,
    /// The message, if its queue does not take it back.
    kept: Option<Delivery>,
    /// The same message, delivered again as the connection that it came over is lost.
    again: Option<Delivery>,
    address: Option<Address>,
    /// When it is asked to end, and then made to; `None` as long as no job has begun it, too.
    deadline: Option<Instant>,
    is_asked: bool,
}

impl<'c> Commands<'c> {
    pub fn new(arguments: &cli::Receive, context: &'c Context, limits: ReceiveLimits) -> Self {
        let (sender, done) = unbounded();
        let jobs = usize::from(arguments.jobs.unwrap_or(1));
        let on_failure = arguments.on_failure.unwrap_or(OnFailure::Requeue);
        let command = arguments.command.clone();
        let program = command.first().map(|program| program.to_string_lossy());
        Self {
            context,
            program: program.unwrap_or_default().into_owned(),
            jobs: Jobs::new(jobs, command, sender.clone()),
            most: match on_failure {
                // After a failure nothing more is to begin.
                OnFailure::Stop => jobs,
                // A job that ends has the next message at hand.
                OnFailure::Requeue | OnFailure::Reject => 2 * jobs,
            },
            timeout: arguments.command_timeout.and_then(Span::if_any),
            on_failure,
            max_redeliveries: arguments.max_redeliveries.unwrap_or(MAX_REDELIVERIES),
            attempts: Attempts::new(),
            succeeded: VecDeque::new(),
            running: HashMap::new(),
            delayed: BTreeSet::new(),
            kept: HashMap::new(),
            done,
            sender,
            replies: None,
            replying: HashMap::new(),
            leave: Interrupt::default(),
            limits,
            last_message: Instant::now(),
        }
    }

    /// Starts what sends replies.
    ///
    /// # Errors
    /// Those of the system, if it has no more threads.
    pub fn reply(&mut self) -> io::Result<()> {
        let (settings, messenger) = (&self.context.settings, &self.context.messenger);
        let connector = Connector::new(
            &settings.broker,
            "receive --reply",
            &self.leave,
            None,
            messenger,
        );
        let replies =
            ReplyPublisher::spawn(settings, connector, messenger.clone(), self.sender.clone())?;
        self.replies = Some(replies);
        Ok(())
    }

    /// Waits for the commands that are still running although the connection is lost, and ends the
    /// sending of replies.
    pub fn close(mut self) {
        while !self.running.is_empty() {
            self.end_what_is_late();
            let next = self.next_moment().map_or_else(never, at);
            select! {
                recv(self.done.inner()) -> done => match done {
                    Ok(JobEvent::ReceiveResult(ticket, ..) | JobEvent::NotStarted(ticket, _)) => {
                        self.running.remove(&ticket);
                    }
                    Ok(_) => {}
                    Err(_) => break,
                },
                recv(next) -> _ => {}
            }
        }
        if self.context.interrupt.happened() {
            self.leave.trigger();
        }
        if let Some(replies) = self.replies {
            replies.close();
        }
    }

    /// Whether something is being done about a message.
    fn is_busy(&self) -> bool {
        !self.running.is_empty() || !self.replying.is_empty()
    }

    /// Handles messages on one connection. Commands may still be running when it is lost.
    pub fn work(
        &mut self,
        line: &mut ReconnectingSession,
        consumer: &mut Consumer,
        statistics: &mut ReceiveStatistics,
    ) -> Result<ReceiveEnd, Error> {
        self.delayed.retain(|(_, ticket)| consumer.holds(*ticket));
        self.replying.retain(|ticket, _| consumer.holds(*ticket));
        self.kept.retain(|ticket, _| consumer.holds(*ticket));
        // Messages that had come again come once more.
        self.running.values_mut().for_each(|it| it.again = None);
        let end = self.work_on(line, consumer, statistics);
        self.withdraw();
        end
    }

    fn work_on(
        &mut self,
        line: &mut ReconnectingSession,
        consumer: &mut Consumer,
        statistics: &mut ReceiveStatistics,
    ) -> Result<ReceiveEnd, Error> {
        self.last_message = Instant::now();
        let mut end = None;
        let mut look_at = self.limits.drain.then(Instant::now);
        loop {
            self.give_back_what_is_due(consumer);
            self.end_what_is_late();
            statistics.update(consumer.done());
            if end.is_some() {
                self.withdraw();
                // What is still to be replied has its time from here on.
                if self.running.is_empty() && self.context.interrupt.happened() {
                    self.leave.trigger();
                }
            }
            if !self.is_busy() {
                match end {
                    Some(end) => return end,
                    None if consumer.is_complete() && self.delayed.is_empty() => {
                        return Ok(if consumer.is_at_end() {
                            ReceiveEnd::Empty
                        } else {
                            ReceiveEnd::Count
                        });
                    }
                    None => {}
                }
            }
            let is_waiting = consumer.is_idle() && !self.is_busy() && end.is_none();
            let idle_at = self
                .limits
                .idle_timeout
                .filter(|_| is_waiting)
                .and_then(|timeout| self.last_message.checked_add(timeout));
            let look = look_at.filter(|_| is_waiting);
            let until = self.limits.until.filter(|_| end.is_none());
            let at_most = [until, idle_at, look, self.next_moment()];
            let at_most = at_most.into_iter().flatten().min();
            if end.is_none() {
                consumer.resume()?;
            }
            let may_take = end.is_none() && self.running.len() < self.most;
            // A broker that can't write for long closes the connection, and the message of a command that
            // takes longer would never be done. So everything is read.
            match consumer.wait(may_take, None, &self.done, end.is_none(), at_most)? {
                ConsumeEvent::Arrived => {
                    let Some(delivery) = consumer.take()? else {
                        continue;
                    };
                    self.last_message = Instant::now();
                    line.alive_since = self.last_message;
                    statistics.came(self.last_message);
                    look_at = look_at.map(|_| self.last_message + EMPTY_CHECK_DELAY);
                    self.take(consumer, delivery);
                    if consumer.is_complete() {
                        // The last one's acknowledgement must not bring another.
                        consumer.stop()?;
                    }
                }
                ConsumeEvent::Other(JobEvent::ReceiveResult(ticket, status, printed)) => {
                    self.last_message = Instant::now();
                    if let Err(error) = self.finish(consumer, ticket, status, printed) {
                        end = Some(Err(error));
                    }
                }
                ConsumeEvent::Other(JobEvent::NotStarted(ticket, source)) => {
                    self.running.remove(&ticket);
                    let command = self.program.clone();
                    end = Some(Err(Error::Spawn { command, source }));
                }
                ConsumeEvent::Other(JobEvent::Replied(ticket, returned)) => {
                    self.last_message = Instant::now();
                    let bytes = self.replying.remove(&ticket).unwrap_or_default();
                    if let Some(said) = returned {
                        self.context.messenger.note(&format!(
                            "a reply could not be delivered ({said}): the requester is gone"
                        ));
                    }
                    consumer.settle(ticket, Settlement::Acknowledge, bytes);
                }
                ConsumeEvent::Other(JobEvent::NoReplies(error)) => {
                    self.replying.clear();
                    end = Some(Err(error));
                }
                ConsumeEvent::Interrupted => end = Some(Ok(ReceiveEnd::Stopped)),
                ConsumeEvent::Late if has_come(until) => end = Some(Ok(ReceiveEnd::TimeIsUp)),
                ConsumeEvent::Late if has_come(idle_at) => end = Some(Ok(ReceiveEnd::Idle)),
                ConsumeEvent::Late if has_come(look) => {
                    if consumer.stop_if_empty()? {
                        end = Some(Ok(ReceiveEnd::Empty));
                    }
                    look_at = Some(Instant::now() + EMPTY_CHECK_DELAY);
                }
                ConsumeEvent::Late => {}
            }
        }
    }

    /// Has the command run for a message, unless it runs for it already, or has done so: then the connection
    /// was lost before that could be told to the broker.
    fn take(&mut self, consumer: &mut Consumer, delivery: Delivery) {
        let key = Key::of(&delivery.message);
        // A stream does not mark a message that comes again, but it has its number.
        if delivery.message.redelivered || delivery.offset.is_some() {
            let mut running = self.running.iter_mut();
            let same = running.find(|(ticket, it)| {
                it.key == key && it.again.is_none() && !consumer.holds(**ticket)
            });
            if let Some((_, running)) = same {
                running.again = Some(delivery);
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
        let kept = delivery.offset.is_some().then(|| delivery.clone());
        let Delivery {
            ticket,
            message,
            count,
            offset,
        } = delivery;
        let id = &message.properties.message_id;
        let has_id = id.is_some() || offset.is_some();
        let name = match id {
            Some(id) => format!("message {id}"),
            None => "a message".to_owned(),
        };
        let failures = self.attempts.take(key, message.redelivered, count.times);
        let address = Address::of(&message);
        let captured = self.replies.is_some();
        if captured && address.is_none() {
            self.context.messenger.note(&format!(
                "{name} has no reply-to: the command's output is dropped"
            ));
        }
        let running = HandledMessage {
            name,
            has_id,
            key,
            bytes: message.body.len() as u64,
            failures,
            is_at_limit: count.is_at_limit,
            kept,
            again: None,
            address,
            deadline: None,
            is_asked: false,
        };
        self.running.insert(ticket, running);
        let unfinished = self.running.len();
        let attempt = 1 + u64::from(failures);
        self.jobs
            .run(ticket, *message, attempt, captured, unfinished);
    }

    /// Leaves to the queue what no job has begun.
    fn withdraw(&mut self) {
        for ticket in self.jobs.withdraw() {
            if let Some(running) = self.running.remove(&ticket) {
                self.attempts.remember(running.key, running.failures);
            }
        }
    }

    /// Settles the message of a command that has ended.
    ///
    /// # Errors
    /// [`Error::CommandFailed`] if its failure is the end.
    fn finish(
        &mut self,
        consumer: &mut Consumer,
        ticket: Ticket,
        status: io::Result<ExitStatus>,
        printed: Vec<u8>,
    ) -> Result<(), Error> {
        let Some(mut running) = self.running.remove(&ticket) else {
            return Ok(());
        };
        let again = running.again.take();
        let ticket = again.as_ref().map_or(ticket, |again| again.ticket);
        if !consumer.holds(ticket) {
            self.finish_lost(&running, status, None);
            return Ok(());
        }
        // Without an id it may be another one that looks the same.
        if let Some(again) = again.filter(|_| !running.has_id) {
            self.finish_lost(&running, status, Some(again));
            return Ok(());
        }
        let HandledMessage { name, key, .. } = &running;
        let key = *key;
        let code = status.as_ref().ok().and_then(ExitStatus::code);
        let failure = format!(
            "{name}: the command {}",
            match status {
                _ if running.is_asked => format!(
                    "took longer than {} (--command-timeout)",
                    text::rounded(self.timeout.unwrap_or_default())
                ),
                Err(error) => format!("can't be waited for: {error}"),
                Ok(status) => match (status.code(), status.signal()) {
                    (Some(code), _) => format!("ended with status {code}"),
                    (None, Some(signal)) => format!("was killed by signal {signal}"),
                    (None, None) => "ended".to_owned(),
                },
            }
        );
        let code = code.filter(|_| !running.is_asked);
        let outcome = match (code, self.on_failure) {
            (Some(DONE), _) => Settlement::Acknowledge,
            (Some(EXIT_REJECT), _) => Settlement::Reject,
            (Some(EXIT_REQUEUE), _) | (_, OnFailure::Requeue) => match running.failures {
                failures if failures < self.max_redeliveries => {
                    self.attempts.remember(key, failures + 1);
                    let delay = attempts::delay(failures + 1);
                    let delay_text = text::rounded(delay);
                    let becomes = if running.kept.is_some() {
                        format!("it runs again in {delay_text}")
                    } else if running.is_at_limit {
                        DELIVERY_LIMIT_REASON.to_owned()
                    } else {
                        format!("it returns to the queue in {delay_text}")
                    };
                    self.context
                        .messenger
                        .note(&format!("{failure}; {becomes}"));
                    self.delayed.insert((Instant::now() + delay, ticket));
                    if let Some(mut kept) = running.kept {
                        kept.ticket = ticket;
                        kept.message.redelivered = true;
                        self.kept.insert(ticket, kept);
                    }
                    return Ok(());
                }
                _ => {
                    let most = self.max_redeliveries;
                    self.context.messenger.note(&format!(
                        "{failure}; it was redelivered {most} times and is rejected (--max-redeliveries)"
                    ));
                    Settlement::Reject
                }
            },
            (_, OnFailure::Reject) => {
                self.context
                    .messenger
                    .note(&format!("{failure}; it is rejected"));
                Settlement::Reject
            }
            (_, OnFailure::Stop) => {
                // Or it would come again at once.
                consumer.leave();
                consumer.settle(ticket, Settlement::Requeue, 0);
                return Err(Error::CommandFailed(if running.is_at_limit {
                    format!("{failure}; {DELIVERY_LIMIT_REASON}")
                } else {
                    format!("{failure}; it is back in its queue")
                }));
            }
        };
        if let (Settlement::Acknowledge, Some(replies), Some(address)) =
            (outcome, &self.replies, running.address)
        {
            replies.send(ticket, address, printed);
            self.replying.insert(ticket, running.bytes);
            return Ok(());
        }
        consumer.settle(ticket, outcome, running.bytes);
        Ok(())
    }

    /// Notes how a command ended whose connection was lost. Its message has come `again`, or will.
    fn finish_lost(
        &mut self,
        running: &HandledMessage,
        status: io::Result<ExitStatus>,
        again: Option<Delivery>,
    ) {
        let HandledMessage {
            name,
            key,
            failures,
            ..
        } = running;
        let is_done = status.is_ok_and(|status| status.code() == Some(DONE));
        if is_done && running.has_id && self.replies.is_none() {
            self.succeeded.push_back(*key);
            if self.succeeded.len() > MAX_REMEMBERED_SUCCESSES {
                self.succeeded.pop_front();
            }
            return;
        }
        self.context.messenger.note(&format!(
            "{name}: the connection was lost before the command finished; it will be delivered again"
        ));
        let failures = failures + u32::from(!is_done);
        self.attempts.remember(*key, failures);
        if let Some(again) = again {
            self.start(*key, again);
        }
    }

    fn give_back_what_is_due(&mut self, consumer: &mut Consumer) {
        while let Some((moment, ticket)) = self.delayed.first().copied() {
            if moment > Instant::now() {
                break;
            }
            self.delayed.pop_first();
            match self.kept.remove(&ticket) {
                Some(delivery) => self.start(Key::of(&delivery.message), delivery),
                None => consumer.settle(ticket, Settlement::Requeue, 0),
            }
        }
    }

    fn end_what_is_late(&mut self) {
        let Some(timeout) = self.timeout else {
            return;
        };
        let now = Instant::now();
        for (ticket, running) in &mut self.running {
            if running.deadline.is_none() {
                let since = job::since(*ticket);
                running.deadline = since.and_then(|since| since.checked_add(timeout));
            }
            if running.deadline.is_some_and(|deadline| deadline <= now) {
                let signal = if running.is_asked {
                    Signal::SIGKILL
                } else {
                    Signal::SIGTERM
                };
                running.is_asked |= job::signal(*ticket, signal);
                running.deadline = Some(now + TERMINATION_TIMEOUT);
            }
        }
    }

    /// When there is something to do although nothing comes.
    fn next_moment(&self) -> Option<Instant> {
        // What a job begins from now on is late no earlier than this.
        let earliest = self
            .timeout
            .and_then(|timeout| Instant::now().checked_add(timeout));
        let deadlines = self.running.values();
        let deadlines = deadlines.filter_map(|running| running.deadline.or(earliest));
        let delayed = self.delayed.iter().map(|(moment, _)| *moment);
        deadlines.chain(delayed).min()
    }
}
