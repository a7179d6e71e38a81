//! `hello-mq receive -- COMMAND`: a command for each message, whose exit status decides.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use crossbeam_channel::{at, never, select};
use nix::sys::signal::Signal;

use super::account::Account;
use super::job::{self, Done, Jobs, MERCY};
use super::line::Line;
use super::reply::{Address, Replies};
use super::{End, LULL, Limits, has_come};
use crate::broker::Connector;
use crate::broker::consume::single::{Outcome, SingleConsumer, SingleEvent, Ticket};
use crate::cli::{self, OnFailure};
use crate::cmd::Context;
use crate::error::Error;
use crate::interrupt::Interrupt;
use crate::message::{Message, Value};
use crate::text;
use crate::values::Span;
use crate::waker::{Receiver, Sender, unbounded};

/// How often a message is delivered again, where nothing else is said, before it is rejected.
const MAX_REDELIVERIES: u32 = 10;

/// The first delay before a message is delivered again. It doubles each time.
const FIRST_DELAY: Duration = Duration::from_secs(1);

/// The longest delay.
const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// How many messages may wait for their next delivery beside those that are being handled.
pub const SPARE: u16 = 10;

/// What the exit statuses of a command mean.
const DONE: i32 = 0;
const REJECT: i32 = 3;
const LATER: i32 = 4;

/// The commands of one `receive`.
pub struct Commands<'c> {
    context: &'c Context,
    program: String,
    jobs: Jobs,
    /// How many messages may be with the jobs, running or not.
    most: usize,
    timeout: Option<Duration>,
    on_failure: OnFailure,
    attempts: Attempts,
    /// The messages that are with the jobs.
    running: HashMap<Ticket, Running>,
    /// The messages that go back to the queue at a certain moment.
    delayed: BTreeSet<(Instant, Ticket)>,
    done: Receiver<Done>,
    sender: Sender<Done>,
    /// What sends replies, if there are to be any.
    replies: Option<Replies>,
    /// The messages whose replies are on their way.
    replying: HashSet<Ticket>,
    /// Ends the sending of replies. It outlives the user's interrupt as long as commands are running.
    leave: Interrupt,
    limits: Limits,
    last_message: Instant,
}

struct Running {
    /// What the message is called when something is said of it.
    name: String,
    key: u64,
    address: Option<Address>,
    /// When it is asked to end, and then made to; `None` as long as no job has begun it, too.
    deadline: Option<Instant>,
    is_asked: bool,
}

impl<'c> Commands<'c> {
    pub fn new(arguments: &cli::Receive, context: &'c Context, limits: Limits) -> Self {
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
            attempts: Attempts::new(arguments.max_redeliveries.unwrap_or(MAX_REDELIVERIES)),
            running: HashMap::new(),
            delayed: BTreeSet::new(),
            done,
            sender,
            replies: None,
            replying: HashSet::new(),
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
        let (settings, talk) = (&self.context.settings, &self.context.talk);
        let connector =
            Connector::new(&settings.broker, "receive --reply", &self.leave, None, talk);
        let replies = Replies::spawn(settings, connector, talk.clone(), self.sender.clone())?;
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
                    Ok(Done::Ended(ticket, ..) | Done::NotStarted(ticket, _)) => {
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
        line: &mut Line,
        consumer: &mut SingleConsumer,
        account: &mut Account,
    ) -> Result<End, Error> {
        self.delayed.retain(|(_, ticket)| consumer.holds(*ticket));
        self.replying.retain(|ticket| consumer.holds(*ticket));
        let end = self.work_on(line, consumer, account);
        self.withdraw();
        end
    }

    fn work_on(
        &mut self,
        line: &mut Line,
        consumer: &mut SingleConsumer,
        account: &mut Account,
    ) -> Result<End, Error> {
        self.last_message = Instant::now();
        let mut end = None;
        let mut look_at = self.limits.drain.then(Instant::now);
        loop {
            self.give_back_what_is_due(consumer);
            self.end_what_is_late();
            account.update(consumer.done());
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
                        return Ok(End::Count);
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
            let may_take = end.is_none() && self.running.len() < self.most;
            let is_interruptible = end.is_none();
            match consumer.wait(may_take, &self.done, is_interruptible, at_most)? {
                SingleEvent::Taken(ticket, message) => {
                    self.last_message = Instant::now();
                    line.alive_since = self.last_message;
                    account.came(self.last_message);
                    look_at = look_at.map(|_| self.last_message + LULL);
                    self.start(ticket, *message)?;
                }
                SingleEvent::Other(Done::Ended(ticket, status, printed)) => {
                    self.last_message = Instant::now();
                    if let Err(error) = self.finish(consumer, ticket, status, printed) {
                        end = Some(Err(error));
                    }
                }
                SingleEvent::Other(Done::NotStarted(ticket, source)) => {
                    self.running.remove(&ticket);
                    let command = self.program.clone();
                    end = Some(Err(Error::Spawn { command, source }));
                }
                SingleEvent::Other(Done::Replied(ticket, returned)) => {
                    self.last_message = Instant::now();
                    self.replying.remove(&ticket);
                    if let Some(said) = returned {
                        self.context
                            .talk
                            .note(&format!("nobody took a reply ({said}): who asked is gone"));
                    }
                    consumer.settle(ticket, Outcome::Acknowledge);
                }
                SingleEvent::Other(Done::NoReplies(error)) => {
                    self.replying.clear();
                    end = Some(Err(error));
                }
                SingleEvent::Interrupted => end = Some(Ok(End::Stopped)),
                SingleEvent::Late if has_come(until) => end = Some(Ok(End::TimeIsUp)),
                SingleEvent::Late if has_come(idle_at) => end = Some(Ok(End::Idle)),
                SingleEvent::Late if has_come(look) => {
                    if consumer.stop_if_empty()? {
                        end = Some(Ok(End::Empty));
                    }
                    look_at = Some(Instant::now() + LULL);
                }
                SingleEvent::Late => {}
            }
        }
    }

    fn start(&mut self, ticket: Ticket, message: Message) -> Result<(), Error> {
        let key = key(&message);
        let name = match &message.properties.message_id {
            Some(id) => format!("message {id}"),
            None => "a message".to_owned(),
        };
        let attempt = 1 + self.attempts.of(key, &message);
        let address = Address::of(&message);
        let captured = self.replies.is_some();
        if captured && address.is_none() {
            self.context.talk.note(&format!(
                "{name} has no reply-to: what the command prints is dropped"
            ));
        }
        let running = Running {
            name,
            key,
            address,
            deadline: None,
            is_asked: false,
        };
        self.running.insert(ticket, running);
        let unfinished = self.running.len();
        self.jobs
            .run(ticket, message, attempt, captured, unfinished)
            .map_err(|error| Error::Bug(format!("cannot start a thread: {error}")))
    }

    /// Leaves to the queue what no job has begun.
    fn withdraw(&mut self) {
        for ticket in self.jobs.withdraw() {
            self.running.remove(&ticket);
        }
    }

    /// Settles the message of a command that has ended.
    ///
    /// # Errors
    /// [`Error::CommandFailed`] if its failure is the end.
    fn finish(
        &mut self,
        consumer: &mut SingleConsumer,
        ticket: Ticket,
        status: io::Result<ExitStatus>,
        printed: Vec<u8>,
    ) -> Result<(), Error> {
        let Some(running) = self.running.remove(&ticket) else {
            return Ok(());
        };
        let Running { name, key, .. } = &running;
        let key = *key;
        if !consumer.holds(ticket) {
            self.context.talk.note(&format!(
                "{name}: the connection was lost before the command had ended; it is delivered again"
            ));
            return Ok(());
        }
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
            (Some(DONE), _) => Outcome::Acknowledge,
            (Some(REJECT), _) => Outcome::Reject,
            (Some(LATER), _) | (_, OnFailure::Requeue) => match self.attempts.delay(key) {
                Some(delay) => {
                    let delay_text = text::rounded(delay);
                    self.context.talk.note(&format!(
                        "{failure}; it goes back to the queue in {delay_text}"
                    ));
                    self.delayed.insert((Instant::now() + delay, ticket));
                    return Ok(());
                }
                None => {
                    let most = self.attempts.max;
                    self.context.talk.note(&format!(
                        "{failure}; it was delivered again {most} times, and is rejected (--max-redeliveries)"
                    ));
                    Outcome::Reject
                }
            },
            (_, OnFailure::Reject) => {
                self.context
                    .talk
                    .note(&format!("{failure}; it is rejected"));
                Outcome::Reject
            }
            (_, OnFailure::Stop) => {
                consumer.settle(ticket, Outcome::Requeue);
                return Err(Error::CommandFailed(failure));
            }
        };
        self.attempts.forget(key);
        if let (Outcome::Acknowledge, Some(replies), Some(address)) =
            (outcome, &self.replies, running.address)
        {
            replies.send(ticket, address, printed);
            self.replying.insert(ticket);
            return Ok(());
        }
        consumer.settle(ticket, outcome);
        Ok(())
    }

    fn give_back_what_is_due(&mut self, consumer: &mut SingleConsumer) {
        while let Some((moment, ticket)) = self.delayed.first().copied() {
            if moment > Instant::now() {
                break;
            }
            self.delayed.pop_first();
            consumer.settle(ticket, Outcome::Requeue);
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
                running.deadline = Some(now + MERCY);
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

/// What a message is known by when it comes again: its `message-id`, or else all of it.
fn key(message: &Message) -> u64 {
    let mut hasher = DefaultHasher::new();
    match &message.properties.message_id {
        Some(id) => id.as_bytes().hash(&mut hasher),
        None => (&message.exchange, &message.routing_key, &message.body).hash(&mut hasher),
    }
    hasher.finish()
}

/// How often messages were delivered again. A classic queue does not count that.
struct Attempts {
    max: u32,
    counts: HashMap<u64, u32>,
    /// The order in which they came in, so that the oldest can be forgotten.
    order: VecDeque<u64>,
}

/// How many messages are remembered.
const REMEMBERED: usize = 10_000;

impl Attempts {
    fn new(max: u32) -> Self {
        Self {
            max,
            counts: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// How often a message has come before, as far as is known here or the broker has counted.
    fn of(&mut self, key: u64, message: &Message) -> u64 {
        let headers = message.properties.headers.as_ref();
        let counted = match headers.and_then(|headers| headers.get(b"x-delivery-count")) {
            Some(Value::Long(count)) => u32::try_from(*count).unwrap_or_default(),
            Some(Value::SignedInt(count)) => u32::try_from(*count).unwrap_or_default(),
            _ => 0,
        };
        let known = self.counts.get(&key).copied().unwrap_or_default();
        if counted > known {
            self.remember(key, counted);
        }
        counted.max(known).into()
    }

    /// How long a message waits for its next delivery; `None` if there is to be none.
    fn delay(&mut self, key: u64) -> Option<Duration> {
        let count = self.counts.get(&key).copied().unwrap_or_default();
        if count >= self.max {
            return None;
        }
        self.remember(key, count + 1);
        let factor = 1_u32.checked_shl(count.min(16)).unwrap_or(1);
        Some((FIRST_DELAY * factor).min(LONGEST_DELAY))
    }

    fn remember(&mut self, key: u64, count: u32) {
        if self.counts.insert(key, count).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.counts.remove(&oldest);
            }
        }
    }

    fn forget(&mut self, key: u64) {
        if self.counts.remove(&key).is_some() {
            self.order.retain(|known| *known != key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::ShortString;

    #[test]
    fn delays_double_and_end() {
        let mut attempts = Attempts::new(8);
        let delays: Vec<_> = std::iter::from_fn(|| attempts.delay(1))
            .map(|delay| delay.as_secs())
            .collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(attempts.delay(2), Some(FIRST_DELAY));
        attempts.forget(1);
        assert_eq!(attempts.delay(1), Some(FIRST_DELAY));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut attempts = Attempts::new(8);
        for key in 0..2 * REMEMBERED as u64 {
            attempts.delay(key);
        }
        assert_eq!(
            (attempts.counts.len(), attempts.order.len()),
            (REMEMBERED, REMEMBERED)
        );
        assert_eq!(attempts.counts.get(&0), None);
    }

    #[test]
    fn the_brokers_own_count_is_used() {
        let mut message = Message::default();
        let name = ShortString::new("x-delivery-count").unwrap();
        let headers = [(name, Value::Long(3))].into_iter().collect();
        message.properties.headers = Some(headers);
        let mut attempts = Attempts::new(4);
        assert_eq!(attempts.of(1, &message), 3);
        assert_eq!(attempts.delay(1), Some(FIRST_DELAY * 8));
        assert_eq!(attempts.delay(1), None);
    }
}
