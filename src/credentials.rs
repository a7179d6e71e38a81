//! The password, from wherever the settings say it is, and who else can read it.

use std::fs::{self, File, Metadata};
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
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

/// The longest that a command may take: a person may have to touch a key or type a PIN for it.
const PASSWORD_COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// How long to wait for it in silence.
const ANNOUNCE_PASSWORD_AFTER: Duration = Duration::from_secs(2);

/// The longest password, in bytes.
const MAX_PASSWORD_SIZE: u64 = 64 * 1024;

/// Gets hold of a password that can be had only once: from a person, or from what is no regular
/// file, such as a shell's `<(command)`.
///
/// # Errors
/// [`Error::Usage`] if there is no terminal; [`Error::Config`]; [`Error::Interrupted`].
pub fn settle(
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

/// The password. A file and a command are read anew each time, as passwords change.
///
/// # Errors
/// [`Error::Config`], naming the file or the command; [`Error::Interrupted`].
pub fn password(
    password: &Setting<Password>,
    interrupt: &Interrupt,
    messenger: &Messenger,
) -> Result<Secret, Error> {
    let (key, found) = match &password.value {
        Password::Known(secret) if secret.expose().is_empty() => {
            let problem = "is empty, and RabbitMQ requires a password";
            ("password", Err(problem.to_owned()))
        }
        Password::Known(secret) => return Ok(secret.clone()),
        Password::Prompt => return Err(Error::Bug("nobody was asked".to_owned())),
        Password::File(path) => ("password_file", of_file(path, interrupt, messenger)?),
        Password::Command(command) => (
            "password_command",
            of_command(command, PASSWORD_COMMAND_TIMEOUT, interrupt, messenger)?,
        ),
    };
    found.map_err(|problem| password.origin.unusable(key, problem))
}

/// Says so if others can read what is secret: a configuration file with a password, a file with
/// one, or a key.
pub fn warn_if_exposed(path: &Path, what: &str, messenger: &Messenger) {
    if fs::metadata(path).is_ok_and(|file| is_exposed(&file)) {
        let path = text::escape(&path.display().to_string());
        messenger.warn(&format!(
            "{path} contains {what} and is readable by other users; protect it with 'chmod 600'"
        ));
    }
}

/// Whether there is a key in a file of certificates. What is no regular file can be read only once,
/// and is left alone.
pub fn holds_key(path: &Path) -> bool {
    let text = path.is_file().then(|| fs::read(path));
    text.is_some_and(|text| {
        let text = text.unwrap_or_default();
        let mark = b"PRIVATE KEY-----";
        text.windows(mark.len()).any(|window| window == mark)
    })
}

/// A file of root's that a group may read is the way of services.
fn is_exposed(file: &Metadata) -> bool {
    const GROUP_READ: u32 = 0o040;
    const OTHERS_READ: u32 = 0o004;
    let mode = file.mode();
    file.is_file() && (mode & OTHERS_READ != 0 || mode & GROUP_READ != 0 && file.uid() != 0)
}

fn of_file(
    path: &Path,
    interrupt: &Interrupt,
    messenger: &Messenger,
) -> Result<Result<Secret, String>, Error> {
    let shown = text::escape(&path.display().to_string());
    let (sender, done) = bounded(1);
    let path = path.to_owned();
    // What is no regular file may keep its reader waiting.
    thread::Builder::new()
        .spawn(move || sender.send(File::open(path).and_then(first_line)))
        .map_err(Error::thread)?;
    let mut silence = after(ANNOUNCE_PASSWORD_AFTER);
    let read = loop {
        select! {
            recv(done) -> read => {
                break read.unwrap_or_else(|_| Err(io::ErrorKind::UnexpectedEof.into()));
            }
            recv(interrupt.receiver()) -> _ => {
                return Err(Error::Interrupted(format!("while reading the password from {shown}")));
            }
            recv(silence) -> _ => {
                messenger.note(&format!("waiting for the password from {shown}"));
                silence = never();
            }
        }
    };
    Ok(read
        .map_err(|error| format!("cannot read {shown}: {}", reason(&error)))
        .and_then(|line| checked(line, &shown)))
}

fn of_command(
    command: &PasswordCommand,
    patience: Duration,
    interrupt: &Interrupt,
    messenger: &Messenger,
) -> Result<Result<Secret, String>, Error> {
    let program = text::escape(&command.program);
    let spawned = Command::new(&command.program)
        .args(&command.arguments)
        // Standard input may be the messages.
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => return Ok(Err(format!("cannot run {program}: {}", reason(&error)))),
    };
    let done = match watch(&mut child) {
        Ok(done) => done,
        Err(error) => {
            end(child);
            return Err(Error::thread(error));
        }
    };
    let start = Instant::now();
    let give_up = after(patience);
    let mut silence = after(ANNOUNCE_PASSWORD_AFTER);
    let printed = loop {
        select! {
            recv(done) -> printed => {
                break printed.unwrap_or_else(|_| Err(io::ErrorKind::UnexpectedEof.into()));
            }
            recv(interrupt.receiver()) -> _ => {
                end(child);
                return Err(Error::Interrupted(format!("while waiting for {program} to print the password")));
            }
            recv(give_up) -> _ => {
                end(child);
                let waited = text::rounded(patience);
                return Ok(Err(format!("{program} printed no password within {waited}")));
            }
            recv(silence) -> _ => {
                messenger.note(&format!("waiting for {program} to print the password"));
                silence = never();
            }
        }
    };
    // It has closed its standard output; its end is near.
    let status = loop {
        match child.try_wait() {
            Ok(None) if start.elapsed() < patience => thread::sleep(Duration::from_millis(1)),
            Ok(None) => {
                end(child);
                return Ok(Err(format!("{program} does not exit")));
            }
            Ok(Some(status)) => break status,
            Err(error) => return Ok(Err(format!("{program}: {}", reason(&error)))),
        }
        if interrupt.happened() {
            end(child);
            return Err(Error::Interrupted(format!(
                "while waiting for {program} to exit"
            )));
        }
    };
    Ok(if status.success() {
        printed
            .map_err(|error| format!("{program}: {}", reason(&error)))
            .and_then(|line| checked(line, &program))
    } else {
        Err(format!("{program} failed ({status})"))
    })
}

/// Reads what a command prints, to its end so that it is not stopped by a closed pipe.
fn watch(child: &mut Child) -> io::Result<Receiver<io::Result<Vec<u8>>>> {
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

fn end(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// The first line, without its end.
fn first_line(from: impl Read) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    // A buffer that ends with the line, but what is behind it is of no interest.
    BufReader::new(from.take(MAX_PASSWORD_SIZE)).read_until(b'\n', &mut line)?;
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    }
    Ok(line)
}

fn checked(line: Vec<u8>, whose: &str) -> Result<Secret, String> {
    match String::from_utf8(line) {
        Ok(line) if line.is_empty() => Err(format!("the first line of {whose} is empty")),
        Ok(line) if line.contains('\0') => Err(format!("the password of {whose} contains a NUL")),
        Ok(line) => Ok(Secret::new(line)),
        Err(_) => Err(format!("the password of {whose} is not UTF-8")),
    }
}

/// Asks on the terminal, where nothing of the answer is seen.
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
    let silent = HiddenInput::new(terminal.try_clone().map_err(|_| no_terminal())?);
    let silent = silent.map_err(|_| no_terminal())?;
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
    drop(silent);
    let _ = terminal.write_all(b"\n");
    if interrupt.happened() {
        return Err(Error::Interrupted(
            "before the password was given".to_owned(),
        ));
    }
    let line = line.map_err(Error::Input)?;
    checked(line, "the answer")
        .map_err(|problem| Error::Usage(format!("--password-prompt: {problem}")))
}

/// A terminal that does not show what is typed, until this is dropped.
struct HiddenInput {
    terminal: File,
    before: Termios,
}

impl HiddenInput {
    fn new(terminal: File) -> nix::Result<Self> {
        let before = tcgetattr(terminal.as_fd())?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(terminal.as_fd(), SetArg::TCSAFLUSH, &silent)?;
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
            assert!(checked(first_line(bad).unwrap(), "f").is_err());
        }
    }

    #[test]
    fn a_command_has_only_so_much_time() {
        let of = |words: &[&str]| {
            let command = PasswordCommand {
                program: words[0].to_owned(),
                arguments: words[1..].iter().map(|word| (*word).to_owned()).collect(),
            };
            let patience = Duration::from_millis(300);
            let (interrupt, messenger) = (Interrupt::default(), Messenger::new(true));
            of_command(&command, patience, &interrupt, &messenger).unwrap()
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
