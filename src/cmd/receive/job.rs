//! The jobs: threads that each run one command at a time, in a process group of its own, with the body
//! of a message on its standard input.

use std::collections::BTreeMap;
use std::convert::identity;
use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::decode::Decoder;
use super::environment::{self, Variables};
use crate::broker::consume::Ticket;
use crate::error::Error;
use crate::message::Message;
use crate::ready::{is_ready, wait_for_any};
use crate::waker;

/// The time that a process group has to end after SIGTERM.
pub(super) const TERMINATION_TIMEOUT: Duration = Duration::from_secs(2);

/// The time that it has when the user does not want to wait.
const HURRIED_TERMINATION_TIMEOUT: Duration = Duration::from_millis(200);

/// The longest reply, in bytes: RabbitMQ can't be told to take a longer message.
const MAX_REPLY_SIZE: u64 = 512 << 20;

/// A command that is running.
#[derive(Clone, Copy, Debug)]
struct RunningCommand {
    group: Pid,
    started: Instant,
}

impl RunningCommand {
    fn signal(self, signal: Signal) {
        // It may just have ended.
        let _ = killpg(self.group, signal);
    }
}

/// All commands that are running, so that they can be ended with this process.
static RUNNING: Mutex<BTreeMap<Ticket, RunningCommand>> = Mutex::new(BTreeMap::new());

/// Notified when a command has ended.
static COMMAND_ENDED: Condvar = Condvar::new();

fn running() -> MutexGuard<'static, BTreeMap<Ticket, RunningCommand>> {
    // A thread that died with the lock held has left nothing half done.
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn remove(ticket: Ticket) {
    running().remove(&ticket);
    COMMAND_ENDED.notify_all();
}

/// Whether no more commands may be started. A thread that starts one holds the lock for reading
/// meanwhile, so that [`abort`] misses none.
static IS_ENDING: RwLock<bool> = RwLock::new(false);

/// Held while a command is started, where a pipe can't be created as one that other commands do not
/// inherit: a command that starts in between would hold it open, and its reader would wait.
#[cfg(target_vendor = "apple")]
static FORK_LOCK: Mutex<()> = Mutex::new(());

/// Ends every command that is running.
pub fn abort() {
    *IS_ENDING.write().unwrap_or_else(PoisonError::into_inner) = true;
    let commands = running();
    commands.values().for_each(|it| it.signal(Signal::SIGTERM));
    let timeout = HURRIED_TERMINATION_TIMEOUT;
    let (commands, _) = COMMAND_ENDED
        .wait_timeout_while(commands, timeout, |commands| !commands.is_empty())
        .unwrap_or_else(PoisonError::into_inner);
    commands.values().for_each(|it| it.signal(Signal::SIGKILL));
}

/// Returns when the command of a message was started, if it is running.
pub(super) fn started(ticket: Ticket) -> Option<Instant> {
    running().get(&ticket).map(|it| it.started)
}

/// Sends a signal to the process group of a message's command. Returns whether it is running.
pub(super) fn signal(ticket: Ticket, signal: Signal) -> bool {
    let running = running();
    let command = running.get(&ticket);
    command.map(|it| it.signal(signal)).is_some()
}

/// An event in the handling of a message.
#[derive(Debug)]
pub(super) enum JobEvent {
    /// Its command has ended.
    Ended {
        ticket: Ticket,
        status: io::Result<ExitStatus>,
        /// The standard output, where it is the reply.
        output: Vec<u8>,
    },
    /// Its command could not be started.
    NotStarted(Ticket, io::Error),
    /// Its reply is confirmed, or was returned with these words of the broker.
    Replied(Ticket, Option<String>),
    /// The publishing of replies has failed.
    ReplyFailed(Error),
}

/// A command that is to be run for a message.
struct Task {
    ticket: Ticket,
    command: Command,
    message: Message,
    attempt: u64,
    decoder: Option<Decoder>,
}

/// The jobs of one `receive`. Each is a thread, started when there is a task for it. Tasks are run in the
/// order in which they come.
pub(super) struct Jobs {
    max: usize,
    threads: usize,
    command: Vec<OsString>,
    /// The variables that a command does not inherit, or with another value.
    environment_changes: Vec<(OsString, Option<OsString>)>,
    decoder: Option<Decoder>,
    tasks: Sender<Task>,
    queue: Receiver<Task>,
    events: waker::Sender<JobEvent>,
}

impl Jobs {
    /// Prepares at most `max` jobs. What happens to each message is sent to `events`.
    pub(super) fn new(
        max: usize,
        command: Vec<OsString>,
        decoder: Option<Decoder>,
        events: waker::Sender<JobEvent>,
    ) -> Self {
        let (tasks, queue) = unbounded();
        Self {
            max,
            threads: 0,
            command,
            environment_changes: environment::changes(env::vars_os()),
            decoder,
            tasks,
            queue,
            events,
        }
    }

    /// Runs the command for a message as soon as a job is free. `unfinished` is the number of messages
    /// with the jobs, this one among them. With `is_captured`, the event of its end has its output.
    pub(super) fn run(
        &mut self,
        ticket: Ticket,
        message: Message,
        attempt: u64,
        is_captured: bool,
        unfinished: usize,
    ) {
        if self.threads < unfinished.min(self.max) {
            let (queue, events) = (self.queue.clone(), self.events.clone());
            match thread::Builder::new().spawn(move || work(&queue, &events)) {
                Ok(_) => self.threads += 1,
                Err(error) => {
                    let _ = self.events.send(JobEvent::NotStarted(ticket, error));
                    return;
                }
            }
        }
        let mut words = self.command.iter();
        let mut command = Command::new(words.next().map_or(OsStr::new(""), OsStr::new));
        command.args(words).stdin(Stdio::piped()).process_group(0);
        if is_captured {
            command.stdout(Stdio::piped());
        }
        for (name, value) in &self.environment_changes {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let _ = self.tasks.send(Task {
            ticket,
            command,
            message,
            attempt,
            decoder: self.decoder.clone(),
        });
    }

    /// Takes back the messages that no job has begun.
    pub(super) fn withdraw(&self) -> impl Iterator<Item = Ticket> {
        self.queue.try_iter().map(|task| task.ticket)
    }
}

/// Runs tasks, one after the other.
///
/// If another task is waiting, its command is started before the end of the last one is reported: the
/// report wakes the thread that acts on it, which does so while the command runs.
fn work(queue: &Receiver<Task>, events: &waker::Sender<JobEvent>) {
    while let Ok(task) = queue.recv() {
        let mut started = task.start();
        loop {
            let event = started.map_or_else(identity, StartedCommand::finish);
            let next = queue.try_recv().map(Task::start);
            let _ = events.send(event);
            match next {
                Ok(next) => started = next,
                Err(_) => break,
            }
        }
    }
}

impl Task {
    /// Starts the command, and writes the body to it.
    fn start(mut self) -> Result<StartedCommand, JobEvent> {
        let ticket = self.ticket;
        if let Some(decoder) = &self.decoder {
            decoder.decode(&mut self.message);
        }
        let not_started = |error| JobEvent::NotStarted(ticket, error);
        let (mut child, command) = self.spawn().map_err(not_started)?;
        let output = child.stdout.take().map(CommandOutput::read).transpose();
        let output = output.and_then(|output| {
            if let Some(stdin) = child.stdin.take() {
                feed(stdin, self.message.body)?;
            }
            Ok(output)
        });
        match output {
            Ok(output) => Ok(StartedCommand {
                ticket,
                child,
                output,
            }),
            // It may not act on a part of the body.
            Err(error) => {
                command.signal(Signal::SIGKILL);
                let _ = child.wait();
                remove(ticket);
                Err(not_started(error))
            }
        }
    }

    /// Starts the command, unless this process is ending.
    fn spawn(&mut self) -> io::Result<(Child, RunningCommand)> {
        let is_ending = IS_ENDING.read().unwrap_or_else(PoisonError::into_inner);
        if *is_ending {
            return Err(io::ErrorKind::Interrupted.into());
        }
        #[cfg(target_vendor = "apple")]
        let _alone = FORK_LOCK.lock().unwrap_or_else(PoisonError::into_inner);
        let child = self.spawn_with_variables()?;
        let group = i32::try_from(child.id()).map_err(io::Error::other)?;
        let command = RunningCommand {
            group: Pid::from_raw(group),
            started: Instant::now(),
        };
        running().insert(self.ticket, command);
        Ok((child, command))
    }

    /// Starts the command with as many of the message's variables as the system takes.
    fn spawn_with_variables(&mut self) -> io::Result<Child> {
        let mut variables = Variables::add_to(&mut self.command, &self.message, self.attempt);
        loop {
            match self.command.spawn() {
                Err(error)
                    if error.kind() == io::ErrorKind::ArgumentListTooLong
                        && variables.halve(&mut self.command) => {}
                child => return child,
            }
        }
    }
}

/// A command that was started.
struct StartedCommand {
    ticket: Ticket,
    child: Child,
    output: Option<CommandOutput>,
}

impl StartedCommand {
    /// Waits for the end of the command.
    fn finish(mut self) -> JobEvent {
        let ticket = self.ticket;
        let status = self.child.wait();
        remove(ticket);
        let output = self.output.map(CommandOutput::finish).transpose();
        let (status, output) = match output {
            Ok(output) => (status, output.unwrap_or_default()),
            Err(error) => (Err(error), Vec::new()),
        };
        JobEvent::Ended {
            ticket,
            status,
            output,
        }
    }
}

/// The standard output of a command until its end. Processes that it leaves in the background may keep it
/// open for as long as they like.
struct CommandOutput {
    thread: JoinHandle<io::Result<Vec<u8>>>,
    end: UnixStream,
}

impl CommandOutput {
    /// Begins to read, in a thread.
    fn read(stdout: ChildStdout) -> io::Result<Self> {
        let (end, ended) = UnixStream::pair()?;
        fcntl(&stdout, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let thread = thread::Builder::new().spawn(move || read_until(&ended, stdout))?;
        Ok(Self { thread, end })
    }

    /// Returns the output, when the command has ended.
    fn finish(self) -> io::Result<Vec<u8>> {
        // The thread may have reached the end of the pipe, and be gone.
        let _ = (&self.end).write(&[0]);
        let died = |_| Err(io::Error::other("the thread that reads its output died"));
        self.thread.join().unwrap_or_else(died)
    }
}

/// Reads a pipe to its end, or to what was written into it before `ended` became readable.
fn read_until(ended: &UnixStream, pipe: ChildStdout) -> io::Result<Vec<u8>> {
    let mut read = Vec::new();
    let mut pipe = pipe.take(MAX_REPLY_SIZE);
    loop {
        // Asked first: what was written before the end is in the pipe by now.
        let has_ended = is_ready(ended.as_fd(), PollFlags::POLLIN);
        match pipe.read_to_end(&mut read) {
            Ok(_) => return Ok(read),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Err(_) if has_ended => return Ok(read),
            Err(_) => {
                let either = [pipe.get_ref().as_fd(), ended.as_fd()];
                wait_for_any(
                    &mut either.map(|file| PollFd::new(file, PollFlags::POLLIN)),
                    None,
                );
            }
        }
    }
}

/// Writes a body to a pipe, and closes it. If the pipe has too little room, a thread does: a command may
/// end before it has read all of the body.
fn feed(mut pipe: ChildStdin, body: Vec<u8>) -> io::Result<()> {
    fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let mut written = 0;
    while written < body.len() {
        match pipe.write(&body[written..]) {
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                fcntl(&pipe, FcntlArg::F_SETFL(OFlag::empty()))?;
                thread::Builder::new().spawn(move || pipe.write_all(&body[written..]))?;
                break;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The command does not want to read all of it.
            Err(_) => break,
        }
    }
    Ok(())
}
