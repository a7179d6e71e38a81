//! The password: reading it from its source, and warning about files that others can read.

use std::fs::{self, File, Metadata};
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, after, bounded, never, select};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

use crate::error::{Error, reason};
use crate::interrupt::Interrupt;
use crate::messenger::Messenger;
use crate::settings::{Broker, Password, Setting};
use crate::text;
use crate::values::{PasswordCommand, Secret};

/// The maximum run time of a password command. The user may have to touch a key or type a PIN.
const PASSWORD_COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// The time to wait for the password before the user is told.
const ANNOUNCE_PASSWORD_AFTER: Duration = Duration::from_secs(2);

/// The maximum size of a password in bytes.
const MAX_PASSWORD_SIZE: u64 = 64 * 1024;

/// Reads a password that can be read only once: from the terminal, or from a file that is not regular,
/// such as a shell's `<(command)`.
pub(crate) fn settle(
    broker: &mut Broker,
    interrupt: &Interrupt,
    messenger: &Messenger,
) -> Result<(), Error> {
    let known = match &broker.password.value {
        Password::Prompt => ask(&format!("password for {broker}: "), interrupt)?,
        Password::File(path) if !path.is_file() => {
            password(&broker.password, interrupt, messenger)?
        }
        _ => return Ok(()),
    };
    broker.password.value = Password::Known(known);
    Ok(())
}

/// Returns the password. A file and a command are read on each call, because passwords change.
pub(crate) fn password(
    password: &Setting<Password>,
    interrupt: &Interrupt,
    messenger: &Messenger,
) -> Result<Secret, Error> {
    let (key, read) = match &password.value {
        Password::Known(secret) if secret.expose().is_empty() => {
            let problem = "is empty, and RabbitMQ requires a password".to_owned();
            ("password", Err(ReadFailure::Unusable(problem)))
        }
        Password::Known(secret) => return Ok(secret.clone()),
        Password::Prompt => return Err(Error::Bug("nobody was asked".to_owned())),
        Password::File(path) => ("password_file", read_file(path, interrupt, messenger)),
        Password::Command(command) => (
            "password_command",
            run_command(command, PASSWORD_COMMAND_TIMEOUT, interrupt, messenger),
        ),
    };
    read.map_err(|failure| match failure {
        ReadFailure::Unusable(problem) => password.origin.unusable(key, problem),
        ReadFailure::Other(error) => error,
    })
}

/// The reason why there is no password.
#[derive(Debug)]
enum ReadFailure {
    /// The file or the command does not provide one.
    Unusable(String),
    /// The reading was interrupted, or the system has no more threads.
    Other(Error),
}

impl From<String> for ReadFailure {
    fn from(problem: String) -> Self {
        Self::Unusable(problem)
    }
}

impl From<Error> for ReadFailure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// Warns if others can read a file with a secret: a password or a key.
pub(crate) fn warn_if_exposed(path: &Path, what: &str, messenger: &Messenger) {
    if fs::metadata(path).is_ok_and(|file| is_exposed(&file)) {
        let path = text::escape(&path.display().to_string());
        messenger.warn(&format!(
            "{path} contains {what} and is readable by other users; protect it with 'chmod 600'"
        ));
    }
}

/// Whether a file of certificates contains a key. A file that is not regular can be read only once, and
/// is not read.
pub(crate) fn holds_key(path: &Path) -> bool {
    let text = path.is_file().then(|| fs::read(path));
    text.is_some_and(|text| {
        let text = text.unwrap_or_default();
        let mark = b"PRIVATE KEY-----";
        text.windows(mark.len()).any(|window| window == mark)
    })
}

/// Whether others can read a file. Services often have files of root that a group can read.
fn is_exposed(file: &Metadata) -> bool {
    const GROUP_READ: u32 = 0o040;
    const OTHERS_READ: u32 = 0o004;
    let mode = file.mode();
    file.is_file() && (mode & OTHERS_READ != 0 || mode & GROUP_READ != 0 && file.uid() != 0)
}

fn read_file(
    path: &Path,
    interrupt: &Interrupt,
    messenger: &Messenger,
) -> Result<Secret, ReadFailure> {
    let shown = text::escape(&path.display().to_string());
    let (sender, line) = bounded(1);
    let path = path.to_owned();
    // Reading a file that is not regular may block.
    thread::Builder::new()
        .spawn(move || sender.send(File::open(path).and_then(first_line)))
        .map_err(Error::thread)?;
    let announcement = format!("waiting for the password from {shown}");
    match wait_for_line(&line, &never(), &announcement, interrupt, messenger) {
        LineWait::Interrupted => {
            let place = format!("while reading the password from {shown}");
            Err(Error::Interrupted(place).into())
        }
        LineWait::Read(Ok(line)) => Ok(check(line, &shown)?),
        LineWait::Read(Err(error)) => {
            Err(format!("cannot read {shown}: {}", reason(&error)).into())
        }
        LineWait::TimedOut => Err(Error::Bug("a wait without an end ended".to_owned()).into()),
    }
}

/// The end of a wait for the first line of a file or a pipe.
enum LineWait {
    Read(io::Result<Vec<u8>>),
    Interrupted,
    TimedOut,
}

/// Waits for a line, and tells the user if that takes long.
fn wait_for_line(
    line: &Receiver<io::Result<Vec<u8>>>,
    timeout: &Receiver<Instant>,
    announcement: &str,
    interrupt: &Interrupt,
    messenger: &Messenger,
) -> LineWait {
    let mut silence = after(ANNOUNCE_PASSWORD_AFTER);
    loop {
        select! {
            recv(line) -> line => {
                let line = line.unwrap_or_else(|_| Err(io::ErrorKind::UnexpectedEof.into()));
                return LineWait::Read(line);
            }
            recv(interrupt.receiver()) -> _ => return LineWait::Interrupted,
            recv(timeout) -> _ => return LineWait::TimedOut,
            recv(silence) -> _ => {
                messenger.note(announcement);
                silence = never();
            }
        }
    }
}

fn run_command(
    command: &PasswordCommand,
    timeout: Duration,
    interrupt: &Interrupt,
    messenger: &Messenger,
) -> Result<Secret, ReadFailure> {
    let program = text::escape(&command.program);
    let mut child = Command::new(&command.program)
        .args(&command.arguments)
        // Standard input may contain the messages.
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot run {program}: {}", reason(&error)))?;
    let printed = read_output(&mut child, &program, timeout, interrupt, messenger);
    if printed.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let (line, status) = printed?;
    if !status.success() {
        return Err(format!("{program} failed ({status})").into());
    }
    let line = line.map_err(|error| format!("{program}: {}", reason(&error)))?;
    Ok(check(line, &program)?)
}

/// Returns the first line that a command prints, and its exit status.
fn read_output(
    child: &mut Child,
    program: &str,
    timeout: Duration,
    interrupt: &Interrupt,
    messenger: &Messenger,
) -> Result<(io::Result<Vec<u8>>, ExitStatus), ReadFailure> {
    let start = Instant::now();
    let line = spawn_reader(child).map_err(Error::thread)?;
    let announcement = format!("waiting for {program} to print the password");
    let line = match wait_for_line(&line, &after(timeout), &announcement, interrupt, messenger) {
        LineWait::Read(line) => line,
        LineWait::Interrupted => {
            let place = format!("while waiting for {program} to print the password");
            return Err(Error::Interrupted(place).into());
        }
        LineWait::TimedOut => {
            let waited = text::rounded(timeout);
            return Err(format!("{program} printed no password within {waited}").into());
        }
    };
    // It has closed its standard output, and is about to exit.
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok((line, status)),
            Ok(None) if interrupt.happened() => {
                let place = format!("while waiting for {program} to exit");
                return Err(Error::Interrupted(place).into());
            }
            Ok(None) if start.elapsed() < timeout => thread::sleep(Duration::from_millis(1)),
            Ok(None) => return Err(format!("{program} does not exit").into()),
            Err(error) => return Err(format!("{program}: {}", reason(&error)).into()),
        }
    }
}

/// Starts a thread that reads what a command prints. It reads to the end, because a closed pipe would
/// stop the command.
fn spawn_reader(child: &mut Child) -> io::Result<Receiver<io::Result<Vec<u8>>>> {
    let (sender, done) = bounded(1);
    if let Some(mut stdout) = child.stdout.take() {
        thread::Builder::new().spawn(move || {
            let line = first_line(&mut stdout);
            let rest = io::copy(&mut stdout, &mut io::sink());
            let _ = sender.send(rest.and(line));
        })?;
    }
    Ok(done)
}

/// Returns the first line, without the line break.
fn first_line(from: impl Read) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    BufReader::new(from.take(MAX_PASSWORD_SIZE)).read_until(b'\n', &mut line)?;
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    }
    Ok(line)
}

fn check(line: Vec<u8>, whose: &str) -> Result<Secret, String> {
    match String::from_utf8(line) {
        Ok(line) if line.is_empty() => Err(format!("the first line of {whose} is empty")),
        Ok(line) if line.contains('\0') => Err(format!("the password of {whose} contains a NUL")),
        Ok(line) => Ok(Secret::new(line)),
        Err(_) => Err(format!("the password of {whose} is not UTF-8")),
    }
}

/// Asks for the password on the terminal, which does not show the answer.
fn ask(question: &str, interrupt: &Interrupt) -> Result<Secret, Error> {
    let no_terminal = || {
        Error::Usage(
            "--password-prompt: there is no terminal to ask on; HELLO_MQ_PASSWORD, \
             --password-file and password_command need none"
                .to_owned(),
        )
    };
    let mut terminal = File::options()
        .read(true)
        .write(true)
        .open("/dev/tty")
        .map_err(|_| no_terminal())?;
    if !terminal.is_terminal() {
        return Err(no_terminal());
    }
    let hidden = HiddenInput::new(terminal.try_clone().map_err(|_| no_terminal())?);
    let hidden = hidden.map_err(|_| no_terminal())?;
    let _ = terminal.write_all(format!("hello-mq: {question}").as_bytes());
    let (sender, answer) = bounded(1);
    let reading = terminal.try_clone().map_err(|_| no_terminal())?;
    // The thread ends with the process if nobody answers.
    thread::Builder::new()
        .spawn(move || sender.send(first_line(reading)))
        .map_err(Error::thread)?;
    let line = select! {
        recv(answer) -> line => line.unwrap_or_else(|_| Err(io::ErrorKind::UnexpectedEof.into())),
        recv(interrupt.receiver()) -> _ => {
            Err(io::ErrorKind::Interrupted.into())
        }
    };
    drop(hidden);
    let _ = terminal.write_all(b"\n");
    if interrupt.happened() {
        return Err(Error::Interrupted(
            "before the password was given".to_owned(),
        ));
    }
    let line = line.map_err(Error::Input)?;
    check(line, "the answer")
        .map_err(|problem| Error::Usage(format!("--password-prompt: {problem}")))
}

/// A terminal that does not show what is typed until this is dropped.
struct HiddenInput {
    terminal: File,
    before: Termios,
}

impl HiddenInput {
    fn new(terminal: File) -> nix::Result<Self> {
        let before = tcgetattr(terminal.as_fd())?;
        let mut hidden = before.clone();
        hidden.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(terminal.as_fd(), SetArg::TCSAFLUSH, &hidden)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for HiddenInput {
    fn drop(&mut self) {
        let _ = tcsetattr(self.terminal.as_fd(), SetArg::TCSAFLUSH, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_the_first_line() {
        for (text, password) in [
            ("s3cret", "s3cret"),
            ("s3cret\n", "s3cret"),
            ("s3cret\r\n", "s3cret"),
            (" s3 cret \nuser: x\n", " s3 cret "),
        ] {
            assert_eq!(first_line(text.as_bytes()).unwrap(), password.as_bytes());
        }
        for bad in [&b""[..], b"\n", b"a\0b", b"\xff"] {
            assert!(check(first_line(bad).unwrap(), "f").is_err());
        }
    }

    #[test]
    fn a_command_has_only_so_much_time() {
        let of = |words: &[&str]| {
            let command = PasswordCommand {
                program: words[0].to_owned(),
                arguments: words[1..].iter().map(|word| (*word).to_owned()).collect(),
            };
            let timeout = Duration::from_millis(300);
            let (interrupt, messenger) = (Interrupt::default(), Messenger::new(true));
            match run_command(&command, timeout, &interrupt, &messenger) {
                Err(ReadFailure::Unusable(problem)) => Err(problem),
                read => Ok(read.unwrap()),
            }
        };
        assert_eq!(
            of(&["sleep", "60"]),
            Err("sleep printed no password within 300ms".to_owned())
        );
        // It has printed it, but stays.
        assert_eq!(
            of(&["sh", "-c", "echo s3cret; exec >&-; exec sleep 60"]),
            Err("sh does not exit".to_owned())
        );
        assert_eq!(
            of(&["echo", "s3cret"]),
            Ok(Secret::new("s3cret".to_owned()))
        );
    }
}
