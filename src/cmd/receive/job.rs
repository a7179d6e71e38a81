//! The jobs: each runs one command at a time, a process group of its own with a message's body on its
//! standard input.

use std::collections::BTreeMap;
use std::convert::identity;
use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::environment::{self, Variables};
use crate::broker::consume::Ticket;
use crate::error::Error;
use crate::message::Message;
use crate::ready::{is_ready, wait_for_any};
use crate::waker;

/// How long processes that are asked to end have for it.
pub const TERMINATION_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest reply, in bytes: RabbitMQ can't be told to take a longer message.
const MAX_REPLY_SIZE: u64 = 512 << 20;

/// How long they have when the user does not want to wait.
const HURRIED_TERMINATION_TIMEOUT: Duration = Duration::from_millis(200);

/// A command that is running.
#[derive(Clone, Copy, Debug)]
struct RunningCommand {
    group: i32,
    since: Instant,
}

/// All commands that are running, so that the end of this process can be theirs.
static RUNNING: Mutex<BTreeMap<Ticket, RunningCommand>> = Mutex::new(BTreeMap::new());

fn running() -> MutexGuard<'static, BTreeMap<Ticket, RunningCommand>> {
    // A thread that died with the lock held has left nothing half done.
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether no more commands are to be started. It is read for as long as it takes to start one, so
/// that the end of this process can't miss it.
static IS_ENDING: RwLock<bool> = RwLock::new(false);

/// Taken to start a command where a pipe can't be made and closed for other commands at once: one that
/// starts in between would hold it open, and its reader wait.
#[cfg(target_vendor = "apple")]
static FORK_LOCK: Mutex<()> = Mutex::new(());

/// Ends every command that is running.
pub fn abort() {
    let start = Instant::now();
    *IS_ENDING.write().unwrap_or_else(PoisonError::into_inner) = true;
    let signal_all = |signal| running().values().for_each(|it| send(it.group, signal));
    signal_all(Signal::SIGTERM);
    while !running().is_empty() && start.elapsed() < HURRIED_TERMINATION_TIMEOUT {
        thread::sleep(Duration::from_millis(5));
    }
    signal_all(Signal::SIGKILL);
}

/// Since when a message's command has been running, if it is.
pub fn since(ticket: Ticket) -> Option<Instant> {
    running().get(&ticket).map(|it| it.since)
}

/// Sends a signal to a message's command and all its processes, if it is still running.
pub fn signal(ticket: Ticket, signal: Signal) -> bool {
    let running = running();
    let it = running.get(&ticket);
    if let Some(it) = it {
        send(it.group, signal);
    }
    it.is_some()
}

fn send(group: i32, signal: Signal) {
    if group > 0 {
        // It may just have ended.
        let _ = killpg(Pid::from_raw(group), signal);
    }
}

/// What has become of a message in the meantime.
#[derive(Debug)]
pub enum JobEvent {
    /// Its command has ended, and printed this where that is wanted.
    ReceiveResult(Ticket, io::Result<ExitStatus>, Vec<u8>),
    /// Its command could not be started.
    NotStarted(Ticket, io::Error),
    /// Its reply is confirmed, or (in the broker's words) nobody took it.
    Replied(Ticket, Option<String>),
    /// No more replies can be sent.
    NoReplies(Error),
}

/// A command that is to be run for a message.
struct Task {
    ticket: Ticket,
    command: Command,
    variables: Variables,
    body: Vec<u8>,
}

/// The jobs of one `receive`. Each is a thread, started when there is something to do for it, and
/// takes what is waiting in the order in which it came.
pub struct Jobs {
    most: usize,
    threads: usize,
    command: Vec<OsString>,
    /// What a command does not inherit, or with another value.
    changes: Vec<(OsString, Option<OsString>)>,
    sender: Sender<Task>,
    waiting: Receiver<Task>,
    done: waker::Sender<JobEvent>,
}

impl Jobs {
    /// At most so many jobs at a time, none of which is started yet. What becomes of each message is
    /// sent to `done`.
    pub fn new(most: usize, command: Vec<OsString>, done: waker::Sender<JobEvent>) -> Self {
        let (sender, waiting) = unbounded();
        Self {
            most,
            threads: 0,
            command,
            changes: environment::changes(env::vars_os()),
            sender,
            waiting,
            done,
        }
    }

    /// Has the command run for a message as soon as a job is free: now, if no more than `most` are
    /// `unfinished`, this one among them. With `captured`, what it prints is part of what is told.
    pub fn run(
        &mut self,
        ticket: Ticket,
        message: Message,
        attempt: u64,
        captured: bool,
        unfinished: usize,
    ) {
        if self.threads < unfinished.min(self.most) {
            let (waiting, done) = (self.waiting.clone(), self.done.clone());
            match thread::Builder::new().spawn(move || work(&waiting, &done)) {
                Ok(_) => self.threads += 1,
                Err(error) => {
                    let _ = self.done.send(JobEvent::NotStarted(ticket, error));
                    return;
                }
            }
        }
        let mut words = self.command.iter();
        let mut command = Command::new(words.next().map_or(OsStr::new(""), OsStr::new));
        command.args(words).stdin(Stdio::piped()).process_group(0);
        if captured {
            command.stdout(Stdio::piped());
        }
        for (name, value) in &self.changes {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let variables = Variables::set(&mut command, &message, attempt);
        let body = message.body;
        let _ = self.sender.send(Task {
            ticket,
            command,
            variables,
            body,
        });
    }

    /// Takes back what no job has begun.
    pub fn withdraw(&self) -> impl Iterator<Item = Ticket> {
        self.waiting.try_iter().map(|task| task.ticket)
    }
}

/// Does what is waiting, one after the other.
///
/// Where the next task is at hand, its command begins before word of the last one's end wakes those
/// who have to act on it: they do so while it runs.
fn work(waiting: &Receiver<Task>, done: &waker::Sender<JobEvent>) {
    while let Ok(task) = waiting.recv() {
        let mut started = task.start();
        loop {
            let ended = started.map_or_else(identity, Started::finish);
            let next = waiting.try_recv().map(Task::start);
            let _ = done.send(ended);
            match next {
                Ok(next) => started = next,
                Err(_) => break,
            }
        }
    }
}

impl Task {
    /// Starts the command, and lets it have the body.
    fn start(mut self) -> Result<Started, JobEvent> {
        let ticket = self.ticket;
        let is_over = IS_ENDING.read().unwrap_or_else(PoisonError::into_inner);
        if *is_over {
            let error = io::ErrorKind::Interrupted.into();
            return Err(JobEvent::NotStarted(ticket, error));
        }
        #[cfg(target_vendor = "apple")]
        let _alone = FORK_LOCK.lock().unwrap_or_else(PoisonError::into_inner);
        let mut child = self
            .spawn()
            .map_err(|error| JobEvent::NotStarted(ticket, error))?;
        let it = RunningCommand {
            group: i32::try_from(child.id()).unwrap_or_default(),
            since: Instant::now(),
        };
        running().insert(ticket, it);
        drop(is_over);
        let printed = child.stdout.take().map(CommandOutput::read).transpose();
        let fed = printed.and_then(|printed| {
            if let Some(stdin) = child.stdin.take() {
                feed(stdin, self.body)?;
            }
            Ok(printed)
        });
        match fed {
            Ok(printed) => Ok(Started {
                ticket,
                child,
                printed,
            }),
            // It may not act on a part of the body.
            Err(error) => {
                send(it.group, Signal::SIGKILL);
                let _ = child.wait();
                running().remove(&ticket);
                Err(JobEvent::NotStarted(ticket, error))
            }
        }
    }

    /// Starts the command with as much of what the message says as the system takes.
    fn spawn(&mut self) -> io::Result<Child> {
        loop {
            match self.command.spawn() {
                Err(error)
                    if error.kind() == io::ErrorKind::ArgumentListTooLong
                        && self.variables.halve(&mut self.command) => {}
                child => return child,
            }
        }
    }
}

/// A command that was started.
struct Started {
    ticket: Ticket,
    child: Child,
    printed: Option<CommandOutput>,
}

impl Started {
    /// Waits for the command's end.
    fn finish(mut self) -> JobEvent {
        let status = self.child.wait();
        running().remove(&self.ticket);
        match self.printed.map(CommandOutput::finish).transpose() {
            Ok(printed) => {
                JobEvent::ReceiveResult(self.ticket, status, printed.unwrap_or_default())
            }
            Err(error) => JobEvent::ReceiveResult(self.ticket, Err(error), Vec::new()),
        }
    }
}

/// What a command prints until it ends. What it leaves behind in the background may keep its standard
/// output open for as long as it likes.
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

    /// Returns it, now that the command has ended.
    fn finish(self) -> io::Result<Vec<u8>> {
        // The thread may have come to the pipe's end, and be gone.
        let _ = (&self.end).write(&[0]);
        let died = |_| Err(io::Error::other("the thread that reads its output died"));
        self.thread.join().unwrap_or_else(died)
    }
}

/// Reads a pipe up to its end, or up to what was written into it by the time that it `ended`.
fn read_until(ended: &UnixStream, pipe: ChildStdout) -> io::Result<Vec<u8>> {
    let mut read = Vec::new();
    let mut pipe = pipe.take(MAX_REPLY_SIZE);
    loop {
        // What is written before the end is in the pipe when the end is seen, not the other way round.
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

/// Writes a body into a pipe, and closes it. What the pipe has no room for takes a thread: a command
/// may end, or say what it has to say, before it has read all of it.
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
            // A command that does not read all of it has its reasons.
            Err(_) => break,
        }
    }
    Ok(())
}
