//! One command for one message: a process group of its own, with the body on its standard input.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::environment::variables;
use crate::broker::handler::Ticket;
use crate::error::Error;
use crate::message::Message;

/// How long processes that are asked to end have for it.
pub const MERCY: Duration = Duration::from_secs(2);

/// The longest reply, in bytes: RabbitMQ can't be told to take a longer message.
const LONGEST: u64 = 512 << 20;

/// How long they have when the user does not want to wait.
const NO_MERCY: Duration = Duration::from_millis(200);

/// The process groups of all commands that are running, so that the end of this process can be
/// theirs.
static GROUPS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

fn groups() -> MutexGuard<'static, BTreeSet<i32>> {
    // A thread that died with the lock held has left nothing half done.
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends every command that is running.
pub fn abort() {
    let start = Instant::now();
    let signal_all = |signal| groups().iter().for_each(|group| send(*group, signal));
    signal_all(Signal::SIGTERM);
    while !groups().is_empty() && start.elapsed() < NO_MERCY {
        thread::sleep(Duration::from_millis(5));
    }
    signal_all(Signal::SIGKILL);
}

/// The variables that are hello-mq's own settings. All others of its prefix tell of a message, and a
/// command that runs in another one's command must not see that one's.
const SETTINGS: [&str; 5] = [
    "HELLO_MQ_URL",
    "HELLO_MQ_PASSWORD",
    "HELLO_MQ_QUEUE",
    "HELLO_MQ_PROFILE",
    "HELLO_MQ_CONFIG",
];

/// A command that is running.
#[derive(Debug)]
pub struct Job {
    group: i32,
}

/// What has become of a message in the meantime.
#[derive(Debug)]
pub enum Done {
    /// Its command has ended, and printed this where that is wanted.
    Ended(Ticket, io::Result<ExitStatus>, Vec<u8>),
    /// Its reply is confirmed, or (in the broker's words) nobody took it.
    Replied(Ticket, Option<String>),
    /// No more replies can be sent.
    NoReplies(Error),
}

impl Job {
    /// Runs a command for a message. How it ended, and with `captured` what it printed, is sent to
    /// `done`.
    ///
    /// # Errors
    /// Those of the system, so if there is no such command.
    pub fn start(
        command: &[OsString],
        ticket: Ticket,
        message: Message,
        attempt: u64,
        captured: bool,
        done: Sender<Done>,
    ) -> io::Result<Self> {
        let (program, arguments) = command
            .split_first()
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .process_group(0);
        if captured {
            command.stdout(Stdio::piped());
        }
        for (name, _) in env::vars_os() {
            let is_of_message = name
                .to_str()
                .is_some_and(|name| name.starts_with("HELLO_MQ_") && !SETTINGS.contains(&name));
            if is_of_message {
                command.env_remove(name);
            }
        }
        command.envs(variables(&message, attempt));
        // Held until the group is known, so that the end of this process can't miss it.
        let mut groups = groups();
        let mut child = command.spawn()?;
        let group = i32::try_from(child.id()).unwrap_or_default();
        groups.insert(group);
        drop(groups);
        if let Some(mut stdin) = child.stdin.take() {
            let body = message.body;
            // A command that does not read all of it has its reasons.
            thread::spawn(move || stdin.write_all(&body));
        }
        thread::spawn(move || {
            let mut printed = Vec::new();
            let read = match child.stdout.take() {
                Some(stdout) => stdout.take(LONGEST).read_to_end(&mut printed),
                None => Ok(0),
            };
            let status = child.wait();
            self::groups().remove(&group);
            let status = read.and(status);
            let _ = done.send(Done::Ended(ticket, status, printed));
        });
        Ok(Self { group })
    }

    /// Sends a signal to the command and all its processes.
    pub fn signal(&self, signal: Signal) {
        send(self.group, signal);
    }
}

fn send(group: i32, signal: Signal) {
    if group > 0 {
        // It may just have ended.
        let _ = killpg(Pid::from_raw(group), signal);
    }
}
