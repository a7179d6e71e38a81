//! README.md, typed as it stands: each of its commands on a real broker, with what it prints.
//!
//! A block marked `console` is run line by line and must print what is shown, where `…` stands for
//! anything in a line, or alone for any lines; a command must succeed unless `echo $?` asks for its
//! status. One marked `sh` is run as a script that stops at the first failure; one marked `toml` is
//! written to the file that its first line names; one marked `text` tells of commands. What a sentence
//! names as a command of hello-mq is run, too.
//!
//! Comments before a block, which no reader sees, say what else belongs to it:
//!
//! - `before: SCRIPT`: what a reader would already have
//! - `after: SCRIPT`: what must hold then
//! - `until: TEXT`: press Ctrl+C when this has been printed
//! - `background`: let it run until the next block has ended
//! - `without HELLO_MQ_URL`: a profile says where the broker is
//! - `not run: REASON`: only with an entry in `NOT_RUN`

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::support::{Files, PROGRAM};
use crate::tls::Broker;

/// The blocks that are not run: their first line, and the reason that README.md gives, too.
const NOT_RUN: &[(&str, &str)] = &[(
    "cargo install --path . --locked                            # the program alone, into ~/.cargo/bin",
    "it compiles the whole program into the user's own ~/.cargo; the build and the .deb and .rpm have checks of their own",
)];

/// No block takes this long unless it hangs.
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn every_command_of_the_readme_does_what_it_shows() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = fs::read_to_string(path).unwrap();
    let blocks = blocks(&text);
    let skipped: Vec<_> = blocks
        .iter()
        .filter_map(|block| Some((block.lines[0].as_str(), block.note("not run")?)))
        .collect();
    assert_eq!(skipped, NOT_RUN, "the blocks that are not run");
    let reader = Reader::new();
    let mut background: Option<(usize, Session)> = None;
    for block in &blocks {
        if block.note("not run").is_some() {
            continue;
        }
        let running = reader.follow(block);
        if let Some((line, session)) = background.take() {
            session.interrupt();
            session.must_succeed(line);
        }
        background = running.map(|session| (block.line, session));
    }
    assert!(background.is_none(), "nothing follows what is left running");
    for command in commands_in_prose(&text) {
        reader.script(&command, &command);
    }
}

#[test]
fn what_is_shown_is_compared() {
    let is = |shown: &str, printed: &str| {
        matches(
            &shown.lines().collect::<Vec<_>>(),
            &printed.lines().collect::<Vec<_>>(),
        )
    };
    assert!(is("a\nb", "a\nb") && is("", "") && is("…-1 x", "8c4f-1 x") && is("a…", "abc"));
    assert!(is("a\n…", "a\nb\nc") && is("…\nc", "a\nb\nc") && is("…", ""));
    assert!(!is("a\nb", "a") && !is("a", "a\nb") && !is("a", "") && !is("", "a"));
    assert!(!is("…-1 x", "8c4f-2 x") && !is("a…", "ba") && !is("…a", "ab") && !is("…\nc", "c\nd"));
    assert!(!is("ab…bc", "abc") && is("ab…bc", "abbc"));
}

/// A block of README.md that begins behind this line of it.
struct Block {
    line: usize,
    language: String,
    notes: Vec<String>,
    lines: Vec<String>,
}

impl Block {
    /// The note that begins so, without that.
    fn note(&self, name: &str) -> Option<&str> {
        self.notes.iter().find_map(|note| {
            let rest = note.strip_prefix(name)?;
            Some(rest.strip_prefix(':').unwrap_or(rest).trim())
        })
    }
}

/// All blocks; there is no other kind of them, and no other kind of note.
fn blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut notes = Vec::new();
    let mut inside = false;
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        if let Some(language) = line.trim_start().strip_prefix("```") {
            if !inside {
                blocks.push(Block {
                    line: number,
                    language: language.to_owned(),
                    notes: std::mem::take(&mut notes),
                    lines: Vec::new(),
                });
            }
            inside = !inside;
        } else if inside {
            blocks.last_mut().unwrap().lines.push(line.to_owned());
        } else if let Some(note) = line.strip_prefix("<!--") {
            let note = note.strip_suffix("-->").expect("a note is one line").trim();
            let known = ["before:", "after:", "until:", "not run:"];
            assert!(
                known.iter().any(|name| note.starts_with(name))
                    || ["background", "without HELLO_MQ_URL"].contains(&note),
                "README.md:{number}: what is {note:?}?"
            );
            notes.push(note.to_owned());
        } else {
            assert!(
                !line.starts_with("    "),
                "README.md:{number}: a block without ``` is not run"
            );
            assert!(
                notes.is_empty() || line.is_empty(),
                "README.md:{number}: notes without a block"
            );
        }
    }
    assert!(!inside && notes.is_empty());
    blocks
}

/// Commands of hello-mq that are named in a sentence.
fn commands_in_prose(text: &str) -> Vec<String> {
    let mut prose = String::new();
    let mut inside = false;
    for line in text.lines() {
        let fence = line.starts_with("```");
        inside ^= fence;
        if !inside && !fence {
            prose += line;
            prose.push(' ');
        }
    }
    let spans = prose.split('`').skip(1).step_by(2);
    spans
        .filter(|span| span.starts_with("hello-mq "))
        .map(str::to_owned)
        .collect()
}

/// Somebody who reads README.md and types what it says, with a broker and a home of their own.
struct Reader {
    broker: Broker,
    files: Files,
    home: PathBuf,
}

impl Reader {
    fn new() -> Self {
        let mut broker = Broker::start(&[]);
        for line in [
            "add_vhost shop",
            "add_user deploy s3cret",
            "set_permissions -p shop deploy .* .* .*",
        ] {
            broker.node.tool(&format!("rabbitmqctl -q {line}"));
        }
        let files = Files::new();
        let home = PathBuf::from(files.path());
        fs::create_dir_all(home.join("bin")).unwrap();
        symlink(PROGRAM, home.join("bin/hello-mq")).unwrap();
        let reader = Self {
            broker,
            files,
            home,
        };
        reader.script(
            "the password of 'pass'",
            "mkdir -m 700 ~/.gnupg
             gpg --batch --quiet --passphrase '' --quick-generate-key reader future-default default never
             pass init reader
             printf 's3cret\\n' | pass insert --echo rabbitmq/new",
        );
        reader
    }

    /// Names of README.md, and what they are here.
    fn names(&self) -> [(&'static str, String); 3] {
        let plain = self.broker.node.hosts[0].clone();
        let tls = format!("localhost:{}", self.broker.port());
        [
            ("localhost:5672", plain.clone()),
            ("old.example", plain),
            ("new.example", tls),
        ]
    }

    fn here(&self, text: &str) -> String {
        self.names()
            .iter()
            .fold(text.to_owned(), |text, (there, here)| {
                text.replace(there, here)
            })
    }

    fn there(&self, text: &str) -> String {
        self.names()
            .iter()
            .fold(text.to_owned(), |text, (there, here)| {
                text.replace(here, there)
            })
    }

    fn bash(&self, block: Option<&Block>, script: &str) -> Command {
        let mut command = Command::new("bash");
        let path = std::env::var("PATH").unwrap();
        command
            .args(["-c", script])
            .current_dir(&self.home)
            .env_clear()
            .env("PATH", format!("{}/bin:{path}", self.home.display()))
            .env("HOME", &self.home)
            .env("LC_ALL", "C.UTF-8")
            // The system's authorities, to which hello-mq looks.
            .env("SSL_CERT_FILE", self.broker.path("ca.pem"))
            .stdin(Stdio::null());
        if block.is_none_or(|block| block.note("without HELLO_MQ_URL").is_none()) {
            command.env("HELLO_MQ_URL", &self.broker.node.url);
        }
        command
    }

    /// A note's script.
    fn script(&self, what: &str, script: &str) {
        let status = self
            .bash(None, &format!("set -euo pipefail\n{script}"))
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "{what}: {status}");
    }

    /// Does what a block says; returns what is to be left running.
    fn follow(&self, block: &Block) -> Option<Session> {
        let at = format!("README.md:{}", block.line);
        for note in &block.notes {
            if let Some(script) = note.strip_prefix("before:") {
                self.script(&format!("{at}: {note}"), script);
            }
        }
        match block.language.as_str() {
            "console" => self.dialogue(block),
            "sh" => {
                let script = self.here(&block.lines.join("\n"));
                let script = format!("exec 2>&1; set -euo pipefail\n{script}");
                let session = Session::start(self.bash(Some(block), &script));
                if block.note("background").is_some() {
                    return Some(session);
                }
                if let Some(text) = block.note("until") {
                    session.wait(&at, |printed| printed.contains(text));
                    session.interrupt();
                }
                session.must_succeed(block.line);
            }
            "toml" => {
                let path = block.lines[0].strip_prefix("# ").unwrap();
                let path = path.strip_prefix("~/").unwrap_or(path);
                self.files.write(path, &self.here(&block.lines.join("\n")));
            }
            "text" => {
                for line in &block.lines {
                    let words: Vec<_> = line.split_whitespace().take(2).collect();
                    self.script(
                        &format!("{at}: {line}"),
                        &format!("{} --help", words.join(" ")),
                    );
                }
            }
            language => panic!("{at}: {language:?} is not console, sh, toml or text"),
        }
        if let Some(script) = block.note("after") {
            self.script(&format!("{at}: after: {script}"), script);
        }
        None
    }

    /// Types each command, and compares what it prints with what is shown.
    fn dialogue(&self, block: &Block) {
        let mut status = 0;
        let mut lines = block.lines.iter().enumerate().peekable();
        while let Some((offset, line)) = lines.next() {
            let at = format!("README.md:{}", block.line + 1 + offset);
            let command = line
                .strip_prefix("$ ")
                .unwrap_or_else(|| panic!("{at}: no command"));
            let mut shown = Vec::new();
            let mut interrupted = false;
            while let Some((_, line)) = lines.next_if(|(_, line)| !line.starts_with("$ ")) {
                interrupted |= line == "^C";
                if !interrupted {
                    shown.push(line.as_str());
                }
            }
            let asked = lines.peek().is_some_and(|(_, line)| *line == "$ echo $?");
            let script = format!(
                "exec 2>&1; set -uo pipefail; (exit {status})\n{}",
                self.here(command)
            );
            let session = Session::start(self.bash(Some(block), &script));
            let as_shown =
                |printed: &str| matches(&shown, &self.there(printed).lines().collect::<Vec<_>>());
            if interrupted {
                session.wait(&at, as_shown);
                session.interrupt();
            }
            let (ended, printed) = session.end(&at);
            assert!(
                as_shown(&printed),
                "{at}: {command}\nprinted\n{printed}\nwhere README.md shows\n{}",
                shown.join("\n")
            );
            assert!(ended == 0 || asked, "{at}: {command}: status {ended}");
            status = ended;
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.bash(None, "gpgconf --kill all").status();
    }
}

/// A script that runs, in a process group of its own as on a terminal.
struct Session {
    child: Child,
    printed: Arc<Mutex<Vec<u8>>>,
    listener: JoinHandle<()>,
}

impl Session {
    fn start(mut command: Command) -> Self {
        let mut child = command
            .process_group(0)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let printed = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&printed);
        let listener = thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = stdout.read(&mut piece) {
                all.lock().unwrap().extend_from_slice(&piece[..length]);
            }
        });
        Self {
            child,
            printed,
            listener,
        }
    }

    fn printed(&self) -> String {
        String::from_utf8_lossy(&self.printed.lock().unwrap()).into_owned()
    }

    fn wait(&self, at: &str, enough: impl Fn(&str) -> bool) {
        let start = Instant::now();
        while !enough(&self.printed()) {
            assert!(
                start.elapsed() < LIMIT,
                "{at}: so far it has printed\n{}",
                self.printed()
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ctrl+C.
    fn interrupt(&self) {
        let group = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        killpg(group, Signal::SIGINT).unwrap();
    }

    /// Waits for the end; returns the status and what was printed.
    fn end(mut self, at: &str) -> (i32, String) {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if start.elapsed() > LIMIT {
                let group = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
                let _ = killpg(group, Signal::SIGKILL);
                panic!("{at}: it hangs, and has printed\n{}", self.printed());
            }
            thread::sleep(Duration::from_millis(5));
        };
        self.listener.join().unwrap();
        let printed = String::from_utf8_lossy(&self.printed.lock().unwrap()).into_owned();
        (status.code().unwrap_or(-1), printed)
    }

    fn must_succeed(self, line: usize) {
        let at = format!("README.md:{line}");
        let (status, printed) = self.end(&at);
        assert_eq!(status, 0, "{at}: it printed\n{printed}");
    }
}

/// Whether lines are as shown, where `…` is anything in a line, or alone any lines.
fn matches(shown: &[&str], printed: &[&str]) -> bool {
    match (shown, printed) {
        ([], []) => true,
        (["…", rest @ ..], _) => {
            (0..=printed.len()).any(|skipped| matches(rest, &printed[skipped..]))
        }
        ([shown, more_shown @ ..], [printed, more_printed @ ..]) => {
            line_matches(shown, printed) && matches(more_shown, more_printed)
        }
        _ => false,
    }
}

fn line_matches(shown: &str, printed: &str) -> bool {
    let Some((head, tail)) = shown.split_once('…') else {
        return shown == printed;
    };
    let Some(mut rest) = printed.strip_prefix(head) else {
        return false;
    };
    let mut pieces: Vec<_> = tail.split('…').collect();
    let last = pieces.pop().unwrap();
    for piece in pieces {
        match rest.split_once(piece) {
            Some((_, behind)) => rest = behind,
            None => return false,
        }
    }
    rest.ends_with(last)
}
