//! How a test runs hello-mq, and how it asks the broker what really happened.
//!
//! Three test programs share it, and none uses all of it.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use amiquip::{Channel, Connection};
use hello_mq::broker::Connector;
use hello_mq::broker::difference::{self, Comparison};
use hello_mq::interrupt::Interrupt;
use hello_mq::messenger::Messenger;
use hello_mq::topology::{ExchangeOptions, QueueOptions};
use hello_mq::{cli, settings};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// No command of a test takes this long unless it hangs.
const LIMIT: Duration = Duration::from_secs(180);

/// The broker's URL, which `scripts/with-broker` provides.
pub fn url() -> String {
    std::env::var("HELLO_MQ_URL")
        .expect("run the tests with `make test`, or by scripts/with-broker")
}

/// The broker's URL as hello-mq shows it.
pub fn shown_url() -> String {
    url().replace(":guest@", "@")
}

/// A queue name that no other test uses.
pub fn queue(name: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!(
        "{name}-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// The hello-mq that was built for this test run.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_hello-mq");

/// `hello-mq` with these arguments, in an environment without any configuration but the broker's URL.
pub fn hello<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Hello {
    let mut command = Command::new(PROGRAM);
    command.args(arguments);
    Hello::new(command)
}

/// Interrupts a command this time after it has a handler for SIGINT, as Linux tells it: before, the
/// signal would just kill it.
const INTERRUPT_AFTER: &str = r#"interrupt_after() {
    "${@:2}" &
    until grep -qs 'SigCgt.*[2367abef]$' /proc/$!/status || ! kill -0 $! 2>/dev/null; do sleep 0.01; done
    sleep "$1"
    kill -INT $! 2>/dev/null
    wait $!
}"#;

/// A shell line in which `$H` is hello-mq, and `interrupt_after SECONDS COMMAND` interrupts a command.
pub fn shell(line: &str) -> Hello {
    let mut command = Command::new("bash");
    let line = format!("{INTERRUPT_AFTER}\n{line}");
    command.args(["-c", &line]).env("H", PROGRAM);
    Hello::new(command)
}

pub struct Hello {
    command: Command,
    input: Option<Vec<u8>>,
}

impl Hello {
    fn new(mut command: Command) -> Self {
        for name in [
            "HELLO_MQ_PASSWORD",
            "HELLO_MQ_QUEUE",
            "HELLO_MQ_CONFIG",
            "HELLO_MQ_PROFILE",
            "AMQP_URL",
            "RUST_LOG",
            "XDG_CONFIG_HOME",
            "NO_COLOR",
            "CLICOLOR_FORCE",
        ] {
            command.env_remove(name);
        }
        command.env("HOME", "/nonexistent");
        // Whatever this is run in.
        command.env("TERM", "xterm");
        Self {
            command,
            input: None,
        }
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn without_env(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    pub fn args<A: AsRef<OsStr>>(mut self, more: impl IntoIterator<Item = A>) -> Self {
        self.command.args(more);
        self
    }

    pub fn stdin(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = Some(input.into());
        self
    }

    /// Runs to the end.
    pub fn run(self) -> Outcome {
        self.spawn().end()
    }

    /// Starts it, with what it prints collected meanwhile.
    pub fn spawn(mut self) -> Running {
        let stdin = if self.input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        };
        let mut child = self
            .command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        if let (Some(input), Some(mut stdin)) = (self.input, child.stdin.take()) {
            thread::spawn(move || stdin.write_all(&input));
        }
        let stderr = child.stderr.take().unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&said);
        Running {
            collected: None,
            said,
            stdout: child.stdout.take(),
            stderr: Some(thread::spawn(move || listen(stderr, &lines))),
            child,
        }
    }
}

/// What each thread of a process is doing, as far as this machine has a debugger.
fn stacks(pid: u32) -> String {
    let debugger = Command::new("gdb")
        .args(["-batch", "-ex", "thread apply all backtrace", "-p"])
        .arg(pid.to_string())
        .output();
    match debugger {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) => format!("unknown: gdb: {error}"),
    }
}

fn collect(mut from: impl Read) -> Vec<u8> {
    let mut all = Vec::new();
    from.read_to_end(&mut all).unwrap();
    all
}

/// Collects standard error, and when each line of it came.
fn listen(stderr: impl Read, lines: &Mutex<Vec<(Instant, String)>>) -> Vec<u8> {
    let mut stderr = BufReader::new(stderr);
    let mut all = Vec::new();
    loop {
        let start = all.len();
        if stderr.read_until(b'\n', &mut all).unwrap() == 0 {
            return all;
        }
        let line = String::from_utf8_lossy(&all[start..]).trim_end().to_owned();
        lines.lock().unwrap().push((Instant::now(), line));
    }
}

pub struct Running {
    collected: Option<JoinHandle<Vec<u8>>>,
    said: Arc<Mutex<Vec<(Instant, String)>>>,
    child: Child,
    stdout: Option<ChildStdout>,
    stderr: Option<JoinHandle<Vec<u8>>>,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The most memory that it has used so far, in KiB. Linux only.
    pub fn peak_memory(&self) -> u64 {
        self.memory().unwrap()
    }

    /// None if it has ended.
    fn memory(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let mut lines = status.lines();
        let peak = lines.find_map(|line| line.strip_prefix("VmHWM:"))?;
        peak.trim_end_matches("kB").trim().parse().ok()
    }

    /// Waits for the end, and looks all the time at the most memory that it has used, in KiB.
    pub fn end_with_peak(mut self) -> (Outcome, u64) {
        self.collect();
        let start = Instant::now();
        let mut peak = 0;
        while self.child.try_wait().unwrap().is_none() && start.elapsed() < LIMIT {
            peak = self.memory().unwrap_or(peak);
            thread::sleep(Duration::from_millis(1));
        }
        (self.end(), peak)
    }

    pub fn signal(&self, signal: Signal) {
        if matches!(signal, Signal::SIGINT | Signal::SIGTERM) {
            self.wait_until_caught(signal);
        }
        kill(
            Pid::from_raw(i32::try_from(self.child.id()).unwrap()),
            signal,
        )
        .unwrap();
    }

    /// Waits until the process has a handler for this signal, as Linux tells it: before, the signal
    /// would just kill it. The process may have none, so this does not wait for ever.
    fn wait_until_caught(&self, signal: Signal) {
        let status = format!("/proc/{}/status", self.child.id());
        let is_caught = |status: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix("SigCgt:"))
                .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
                .is_some_and(|mask| mask & 1 << (signal as u32 - 1) != 0)
        };
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(5)
            && std::fs::read_to_string(&status).is_ok_and(|status| !is_caught(&status))
        {
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Reads standard output up to and including `text`.
    pub fn expect(&mut self, text: &str) -> String {
        let stdout = self.stdout.as_mut().unwrap();
        let mut seen = Vec::new();
        let mut byte = [0];
        while !seen.ends_with(text.as_bytes()) {
            assert_eq!(
                stdout.read(&mut byte).unwrap(),
                1,
                "no {text:?} in {:?}; it said {:?}",
                String::from_utf8_lossy(&seen),
                {
                    // What it said last may still be on its way.
                    thread::sleep(Duration::from_millis(100));
                    self.said.lock().unwrap()
                }
            );
            seen.push(byte[0]);
        }
        String::from_utf8(seen).unwrap()
    }

    /// Reads what it prints from here on, so that it never waits for its reader.
    pub fn collect(&mut self) {
        let stdout = self.stdout.take().unwrap();
        self.collected = Some(thread::spawn(move || collect(stdout)));
    }

    /// What it has said so far, and when.
    pub fn said(&self) -> Vec<(Instant, String)> {
        self.said.lock().unwrap().clone()
    }

    /// The first line that it says from a moment on, and when; none if it says nothing for so long.
    pub fn says_within(&self, time: Duration, since: Instant) -> Option<(Instant, String)> {
        loop {
            let is_over = since.elapsed() > time;
            let line = self.said().into_iter().find(|(at, _)| *at >= since);
            if line.is_some() || is_over {
                return line;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until it has said so many lines that contain `text`, or has ended; says which.
    pub fn has_said(&mut self, text: &str, times: usize) -> bool {
        let start = Instant::now();
        loop {
            if self
                .said()
                .iter()
                .filter(|(_, line)| line.contains(text))
                .count()
                >= times
            {
                return true;
            }
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            assert!(start.elapsed() < LIMIT, "it does not say {text:?}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether it ends within this time.
    pub fn ends_within(&mut self, limit: Duration) -> bool {
        let start = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            if start.elapsed() > limit {
                return false;
            }
            thread::sleep(Duration::from_millis(2));
        }
        true
    }

    /// Leaves what is still to be printed unread.
    pub fn stop_reading(&mut self) -> ChildStdout {
        self.stdout.take().unwrap()
    }

    /// Sends a signal and returns the outcome, and how long the end took.
    pub fn stop(self, signal: Signal) -> (Outcome, Duration) {
        let start = Instant::now();
        self.signal(signal);
        let outcome = self.end();
        (outcome, start.elapsed())
    }

    /// Waits for the end, and fails if it does not come.
    pub fn end(mut self) -> Outcome {
        if self.stdout.is_some() {
            self.collect();
        }
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if start.elapsed() > LIMIT {
                let stacks = stacks(self.pid());
                let _ = self.child.kill();
                panic!("it hangs; its threads:\n{stacks}");
            }
            thread::sleep(Duration::from_millis(2));
        };
        let text = |thread: JoinHandle<Vec<u8>>| String::from_utf8(thread.join().unwrap()).unwrap();
        Outcome {
            exit: status,
            stdout: self.collected.take().map(text).unwrap_or_default(),
            stderr: self.stderr.take().map(text).unwrap_or_default(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Debug)]
pub struct Outcome {
    pub exit: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    pub fn status(&self) -> i32 {
        self.exit.code().unwrap_or(-1)
    }

    /// It succeeded, printed exactly this, and had nothing to say.
    #[track_caller]
    pub fn printed(&self, stdout: &str) {
        assert_eq!(
            (self.status(), self.stdout.as_str(), self.stderr.as_str()),
            (0, stdout, "")
        );
    }

    /// It succeeded, printed something with this in it, and had nothing to say.
    #[track_caller]
    pub fn printed_what_contains(&self, part: &str) {
        assert_eq!((self.status(), self.stderr.as_str()), (0, ""));
        assert!(self.stdout.contains(part), "no {part:?} in {}", self.stdout);
    }

    /// It ended with this status, and said all of these things, each line marked as its own.
    #[track_caller]
    pub fn failed(&self, status: i32, parts: &[&str]) {
        assert_eq!(self.status(), status, "{self:?}");
        for part in parts {
            assert!(self.stderr.contains(part), "no {part:?} in {}", self.stderr);
        }
        assert!(self.stderr.starts_with("hello-mq: "), "{}", self.stderr);
        if status != 64 {
            assert!(
                self.stderr
                    .lines()
                    .all(|line| line.starts_with("hello-mq: ")),
                "{}",
                self.stderr
            );
        }
    }
}

/// An independent look at the broker.
pub struct Observer {
    connection: Connection,
}

impl Observer {
    pub fn new() -> Self {
        Self::at(&url())
    }

    /// A look at another broker than the common one.
    pub fn at(url: &str) -> Self {
        Self {
            connection: Connection::insecure_open(url).unwrap(),
        }
    }

    pub fn channel(&mut self) -> Channel {
        self.connection.open_channel(None).unwrap()
    }

    /// How many messages are ready in a queue.
    pub fn messages(&mut self, queue: &str) -> u32 {
        let channel = self.channel();
        let found = channel
            .queue_declare_passive(queue)
            .unwrap()
            .declared_message_count();
        found.unwrap()
    }

    /// How many messages are ready in a queue, once there are so many, or after a while.
    pub fn settles_at(&mut self, queue: &str, messages: u32) {
        let start = Instant::now();
        while self.messages(queue) != messages && start.elapsed() < Duration::from_secs(10) {
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(self.messages(queue), messages, "messages in {queue}");
    }

    /// Waits until at least so many messages are ready in a queue.
    pub fn reaches(&mut self, queue: &str, messages: u32) {
        let start = Instant::now();
        while self.messages(queue) < messages {
            assert!(start.elapsed() < LIMIT, "no {messages} messages in {queue}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Takes every message out of a queue.
    pub fn drain(&mut self, queue: &str) -> Vec<String> {
        let channel = self.channel();
        std::iter::from_fn(|| channel.basic_get(queue, true).unwrap())
            .map(|got| String::from_utf8(got.delivery.body).unwrap())
            .collect()
    }
}

/// A directory for one test's files.
pub struct Files(tempfile::TempDir);

impl Files {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn path(&self) -> OsString {
        self.0.path().into()
    }
}

/// Envelopes without their times of receipt, which no two runs have in common.
pub fn without_times(envelopes: &str) -> String {
    let mut parts = envelopes.split(",\"received_at\":\"");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('"').unwrap().1)
}

/// Reads a whole frame of AMQP.
pub fn read_frame(from: &mut impl Read) -> io::Result<Vec<u8>> {
    // Kind, channel and size.
    const FRAME_HEADER: usize = 7;
    let mut frame = vec![0; FRAME_HEADER];
    from.read_exact(&mut frame)?;
    let size = u32::from_be_bytes([frame[3], frame[4], frame[5], frame[6]]);
    // The byte that ends it, too.
    let rest = u64::from(size) + 1;
    // What is not AMQP may name any size.
    if from.take(rest).read_to_end(&mut frame)? as u64 != rest {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(frame)
}

/// Runs rabbitmqctl (or a node's other helper) of `scripts/with-broker`.
pub fn broker_tool(line: &str) -> String {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Compares queues and an exchange that do not exist, and fails if one exists afterwards.
pub fn comparing_makes_nothing() {
    let line = ["hello-mq", "declare", "--url", &url()].map(OsString::from);
    let cli = cli::parse(line).unwrap();
    let cli::Command::Verb(verb) = &cli.command else {
        panic!()
    };
    let settings = settings::resolve(&cli.common, verb, |_| None, None).unwrap();
    let (interrupt, messenger) = (Interrupt::default(), Messenger::new(true));
    let connector = Connector::new(&settings.broker, "test", &interrupt, None, &messenger);
    let mut session = connector.open().unwrap();
    for kind in [None, Some("classic"), Some("quorum"), Some("stream")] {
        for durable in [false, true] {
            let name = queue("poisoned");
            let wanted = QueueOptions {
                name: name.parse().ok(),
                kind: kind.and_then(|kind| kind.parse().ok()),
                durable,
                max_length_bytes: "5MB".parse().ok(),
                ..QueueOptions::default()
            };
            let wanted = wanted.define().unwrap();
            let found = difference::of_queue(&mut session, &name.parse().unwrap(), &wanted);
            assert_eq!(found.unwrap(), Comparison::Missing, "{wanted:?}");
            hello(["declare", "--check", &name])
                .run()
                .failed(67, &["NOT_FOUND"]);
        }
    }
    let name = queue("poisoned");
    let exchange = ExchangeOptions {
        name: name.parse().ok(),
        ..ExchangeOptions::default()
    };
    let found = difference::of_exchange(&mut session, &exchange.define().unwrap());
    assert_eq!(found.unwrap(), Comparison::Missing);
    hello(["declare", "--check", "-e", &name])
        .run()
        .failed(67, &["NOT_FOUND - no exchange"]);
}

/// Declares and compares with what means the same in other words.
pub fn what_means_the_same_is_no_difference() {
    let name = queue("same");
    let declare = |options: &str| {
        let words = options.split(' ').map(str::to_owned);
        let start = ["declare", &name].map(str::to_owned);
        hello(start.into_iter().chain(words)).run()
    };
    let stream = "--type stream --argument x-max-age";
    assert_eq!(declare(&format!("{stream}=1h")).status(), 0);
    for age in ["1h", "60m", "3600s"] {
        for check in ["", " --check"] {
            let outcome = declare(&format!("{stream}={age}{check}"));
            assert_eq!(outcome.status(), 0, "{age}{check}: {outcome:?}");
        }
    }
    // What differs is told in words that can be typed.
    for (options, line) in [
        ("=2h", "--argument x-max-age: wanted 2h, existing 1h\n"),
        (
            "=60m --max-length-bytes 5MB",
            "--max-length-bytes: wanted 5000000, existing none\n",
        ),
    ] {
        declare(&format!("{stream}{options}")).failed(
            76,
            &[
                line,
                &format!("to match what exists, write: hello-mq declare {name} --argument x-max-age=1h --type"),
            ],
        );
    }
    let name = queue("same");
    hello([
        "declare",
        &name,
        "--argument",
        "x-single-active-consumer=false",
        "--durable",
    ])
    .run();
    hello(["declare", &name, "--durable"])
        .run()
        .printed(&format!(
            " [x] Queue '{name}' exists (0 messages, 0 consumers)\n"
        ));
}

/// Asks for what a queue's type does not have.
pub fn what_a_type_does_not_have_is_told() {
    let [quorum, single, stream] = ["quorum", "single", "stream"].map(queue);
    hello(["declare", "--type", "quorum", &quorum]).run();
    hello(["declare", "--type", "stream", &stream]).run();
    hello(["declare", "--type", "quorum", "--single-active-consumer"])
        .args([&single])
        .run();
    // Whatever else the broker names first.
    for name in [&quorum, &single, &stream] {
        let outcome = hello(["receive", "--exclusive", name]).run();
        outcome.failed(
            64,
            &[
                &format!("--exclusive: '{name}' is not a classic queue"),
                "declared with --single-active-consumer",
            ],
        );
    }
    let classic = queue("classic");
    hello(["declare", "--durable", &classic]).run();
    hello(["receive", "--exclusive", "--timeout", "1s", &classic])
        .run()
        .printed(" [*] Waiting for messages. To exit press CTRL+C\n");

    for (words, queue, said, hint) in [
        (
            "--peek",
            &single,
            "single active consumer",
            "receive from it instead",
        ),
        (
            "--peek",
            &stream,
            "basic.get not supported",
            "read a stream with 'hello-mq receive --stream-offset first --drain'",
        ),
        (
            "--stream-offset first",
            &classic,
            "invalid arg 'x-stream-offset'",
            "--stream-offset requires a stream",
        ),
        (
            "--stream-offset first",
            &quorum,
            "invalid arg 'x-stream-offset'",
            "--stream-offset requires a stream",
        ),
        (
            "--auto-ack",
            &stream,
            "prefetch count is not set",
            "streams do not support --auto-ack",
        ),
        (
            "--priority 1",
            &stream,
            "invalid arg 'x-priority'",
            "streams do not support --priority",
        ),
    ] {
        let outcome = hello(["receive", queue]).args(words.split(' ')).run();
        outcome.failed(76, &[said, &format!("\nhello-mq: hint: {hint}")]);
        assert!(!outcome.stderr.contains("connection uses the queue"));
    }

    // Nothing is made of what is no stream.
    let missing = queue("missing");
    hello(["receive", "--stream-offset", "first", &missing])
        .run()
        .failed(
            67,
            &["NOT_FOUND - no queue", "or a stream with --type stream"],
        );
    hello(["declare", "--check", &missing])
        .run()
        .failed(67, &["NOT_FOUND - no queue"]);
}

/// Nodes that a test may kill.
pub struct Node {
    shell: Child,
    pub url: String,
    pub hosts: Vec<String>,
    /// Where it speaks TLS, and the directory of the files that it uses for that.
    pub tls: Option<(String, PathBuf)>,
}

impl Node {
    pub fn start() -> Self {
        Self::cluster(1)
    }

    pub fn cluster(nodes: u32) -> Self {
        Self::with(["--nodes", &nodes.to_string()])
    }

    /// A node with these options of `scripts/with-broker`.
    pub fn with<A: AsRef<OsStr>>(options: impl IntoIterator<Item = A>) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/with-broker");
        let mut command = Command::new(script);
        // The suite of another series runs on that series.
        if let Ok(series) = std::env::var("HELLO_MQ_TEST_SERIES") {
            command.args(["--rabbitmq", &series]);
        }
        let mut shell = command
            .args(options)
            .args(["bash", "-c", "set -f; echo $HELLO_MQ_URL; echo $HELLO_MQ_HOSTS; echo $HELLO_MQ_TLS $HELLO_MQ_TLS_DIR; while read line; do $line; echo done; done"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = [const { String::new() }; 3];
        for line in &mut lines {
            BufReader::with_capacity(1, shell.stdout.as_mut().unwrap())
                .read_line(line)
                .unwrap();
        }
        let [url, hosts, tls] = lines;
        let tls = tls
            .trim()
            .split_once(' ')
            .map(|(address, directory)| (address.to_owned(), directory.into()));
        Self {
            shell,
            url: url.trim().to_owned(),
            hosts: hosts.split_whitespace().map(str::to_owned).collect(),
            tls,
        }
    }

    /// Runs one of the node's tools (`broker-kill`, `rabbitmqctl …`) and returns what it prints.
    pub fn tool(&mut self, line: &str) -> String {
        writeln!(self.shell.stdin.as_mut().unwrap(), "{line}").unwrap();
        let mut reader = BufReader::with_capacity(1, self.shell.stdout.as_mut().unwrap());
        let mut all = String::new();
        while !all.ends_with("done\n") {
            assert_ne!(
                reader.read_line(&mut all).unwrap(),
                0,
                "the node's shell ended"
            );
        }
        all.truncate(all.len() - "done\n".len());
        all
    }

    /// Raises the memory alarm, and waits until a new connection would be told of it: the alarm
    /// spreads after `rabbitmqctl` has returned.
    pub fn raise_memory_alarm(&mut self) {
        self.set_memory_alarm("0.00001", "[]->timer:sleep(9),G(G);_->(ok)");
    }

    /// Clears the memory alarm, and waits until it is gone.
    pub fn clear_memory_alarm(&mut self) {
        self.set_memory_alarm("0.4", "[]->(ok);_->timer:sleep(9),G(G)");
    }

    /// The node's shell splits a line at spaces, so the expression has none.
    fn set_memory_alarm(&mut self, watermark: &str, clauses: &str) {
        let printed = self.tool(&format!(
            "rabbitmqctl -q eval vm_memory_monitor:set_vm_memory_high_watermark({watermark}),\
             F=fun(G)->(case(rabbit_alarm:get_alarms())of{clauses}end)end,F(F)."
        ));
        assert_eq!(printed, "ok\n");
    }

    /// Declares a durable queue, and waits until it is on the disk: a broker that is killed a moment
    /// after it has said that the queue is there may have forgotten it.
    pub fn declare_durable(&mut self, queue: &str) {
        self.hello(["declare", "--durable", queue]).run();
        self.tool("rabbitmqctl -q eval mnesia:sync_log().");
    }

    /// hello-mq, talking to this node.
    pub fn hello<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Hello {
        hello(arguments).env("HELLO_MQ_URL", &self.url)
    }

    pub fn observer(&self) -> Observer {
        Observer::at(&self.url)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// A network between hello-mq and a broker, which can be frozen or cut, for one connection after
/// the other.
pub struct Proxy {
    pub url: String,
    state: Arc<Network>,
}

#[derive(Default)]
struct Network {
    frozen: AtomicBool,
    /// The method of the broker after which it freezes.
    freeze_after: Mutex<Option<[u8; 4]>>,
    /// How many more bytes the broker's side may say before the connection is cut.
    allowance: AtomicI64,
    connections: Mutex<Vec<TcpStream>>,
    opened: AtomicUsize,
    /// The bytes of each client, in the order in which they connected.
    recorded: Mutex<Option<BTreeMap<usize, Vec<u8>>>>,
}

impl Proxy {
    pub fn start(broker: &str) -> Self {
        Self::on("127.0.0.1:0", broker)
    }

    /// One whose clients connect to this address.
    pub fn on(address: &str, broker: &str) -> Self {
        let broker = broker
            .rsplit('@')
            .next()
            .unwrap()
            .trim_end_matches('/')
            .to_owned();
        let listener = TcpListener::bind(address).unwrap();
        let url = format!("amqp://{}", listener.local_addr().unwrap());
        let state = Arc::new(Network {
            allowance: AtomicI64::new(i64::MAX),
            ..Network::default()
        });
        let network = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let number = network.opened.fetch_add(1, Ordering::SeqCst);
                let Ok(server) = TcpStream::connect(&*broker) else {
                    continue;
                };
                for (from, to, client_number) in
                    [(&client, &server, Some(number)), (&server, &client, None)]
                {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let network = Arc::clone(&network);
                    thread::spawn(move || network.pump(from, to, client_number));
                }
                network.connections.lock().unwrap().extend([client, server]);
            }
        });
        Self { url, state }
    }

    /// From now on nothing passes, and nothing is closed.
    pub fn freeze(&self) {
        self.state.frozen.store(true, Ordering::SeqCst);
    }

    /// Freezes once the broker has said its last word of the login: `channel.open-ok`.
    pub fn freeze_after_login(&self) {
        self.freeze_after([0, 20, 0, 11]);
    }

    /// Freezes once the broker has said its last word of the login of a command that declares nothing:
    /// `connection.open-ok`.
    pub fn freeze_after_open(&self) {
        self.freeze_after([0, 10, 0, 41]);
    }

    /// Freezes once the broker has refused a message: `basic.nack`.
    pub fn freeze_after_nack(&self) {
        self.freeze_after([0, 60, 0, 120]);
    }

    /// Waits until it freezes.
    pub fn wait_until_frozen(&self) {
        let start = Instant::now();
        while !self.state.frozen.load(Ordering::SeqCst) {
            assert!(start.elapsed() < LIMIT, "nothing freezes the network");
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn freeze_after(&self, method: [u8; 4]) {
        *self.state.freeze_after.lock().unwrap() = Some(method);
    }

    /// What passes from now on passes again; what was said while it was frozen is gone.
    pub fn thaw(&self) {
        self.state.frozen.store(false, Ordering::SeqCst);
    }

    /// Cuts the connections there are.
    pub fn cut(&self) {
        self.state.cut();
    }

    /// Cuts the connection once the broker has said so many more bytes: in the middle of a frame.
    pub fn cut_after(&self, bytes: i64) {
        self.state.allowance.store(bytes, Ordering::SeqCst);
    }

    /// Records the clients' bytes from now on, and returns those that were recorded before: of each
    /// connection, in the order in which they were opened.
    pub fn record(&self) -> Vec<Vec<u8>> {
        let before = self.state.recorded.lock().unwrap().replace(BTreeMap::new());
        before.unwrap_or_default().into_values().collect()
    }

    /// How many connections there were.
    pub fn opened(&self) -> usize {
        self.state.opened.load(Ordering::SeqCst)
    }
}

impl Network {
    fn cut(&self) {
        for connection in self.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Passes on the bytes of a client, whose number is given, or of the broker.
    fn pump(&self, mut from: TcpStream, mut to: TcpStream, client: Option<usize>) {
        let counted = client.is_none();
        let mut buffer = vec![0; 65536];
        while let Ok(mut length @ 1..) = from.read(&mut buffer) {
            if self.frozen.load(Ordering::SeqCst) {
                continue;
            }
            let last = *self.freeze_after.lock().unwrap();
            if let Some(method) = last.filter(|_| counted) {
                let mut windows = buffer[..length].windows(4);
                if let Some(at) = windows.position(|window| window == method) {
                    self.frozen.store(true, Ordering::SeqCst);
                    // What the broker has said with it does not pass.
                    let size = buffer[at - 4..at].try_into().unwrap();
                    length = at + u32::from_be_bytes(size) as usize + 1;
                }
            }
            if let (Some(client), Some(recorded)) = (client, &mut *self.recorded.lock().unwrap()) {
                let bytes = recorded.entry(client).or_default();
                bytes.extend_from_slice(&buffer[..length]);
            }
            let mut passed = length;
            if counted {
                let left = self.allowance.load(Ordering::SeqCst);
                if left < i64::MAX {
                    passed = length.min(usize::try_from(left.max(0)).unwrap());
                    self.allowance
                        .fetch_sub(i64::try_from(length).unwrap(), Ordering::SeqCst);
                }
            }
            if to.write_all(&buffer[..passed]).is_err() {
                break;
            }
            if passed < length {
                self.allowance.store(i64::MAX, Ordering::SeqCst);
                self.cut();
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    }
}
