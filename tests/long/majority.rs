//! A quorum queue without its majority, asked through the node that is left of three.
//!
//! What the broker does then depends on where the queue's leader was:
//!
//! - Where the leader stays, `basic.get`, `basic.consume` and a channel's first `basic.publish` are not
//!   answered for 65 s. Then the broker gives up: it closes the connection (541), or refuses the message
//!   (nack). A consumer that it could not make it may make yet, for nobody, once there is a majority.
//! - Where the leader goes, `basic.get` ends the connection at once, and `basic.consume` and
//!   `basic.cancel` are not answered for 65 s. A message is refused at once by RabbitMQ 3.10, and after
//!   65 s by 4.0. And a passive `queue.declare` counts 0 messages, however many there are.
//!
//! On a channel that has published to the queue before, a message is confirmed when there is a majority
//! again, and there is no word of it until then. A consumer that was accepted before gets nothing, as
//! from a queue that is empty: that is all that it can know. But one that is to drain the queue asks for
//! more, and can tell that it gets nothing although there is something, or no answer.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Read;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use amiquip::QueueDeclareOptions;
use nix::sys::signal::Signal;

use crate::quorum;
use crate::support::{Node, Observer, Outcome, Running};

/// How long nothing may be said.
const SILENCE: Duration = Duration::from_secs(7);

/// How long Ctrl+C may take.
const LEAVING: Duration = Duration::from_secs(4);

/// How long the broker may take to put itself in order once there is a majority.
const SETTLING: Duration = Duration::from_secs(60);

/// How long it may take the broker to give back what a consumer had that is gone.
const COMING_BACK: Duration = Duration::from_secs(20);

/// How many messages are in a queue to begin with: 1, 2 and so on.
const STORED: u32 = 3;

/// The message that comes when the majority is back.
const LATE: u32 = 1;

/// The size of a message of which a pipe takes one, and not two.
const BIG: usize = 50_000;

/// What hello-mq has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Send,
    /// A `send` that was at it when the majority went.
    SendOn,
    Receive,
    /// A `receive` that waited for a message when the majority went.
    ReceiveOn,
    Peek,
    Drain,
    /// A `receive --drain` that was at it when the majority went.
    DrainOn,
    Command,
    /// From a queue without its majority to one that has nothing of the kind.
    ForwardFrom,
    /// The other way round.
    ForwardTo,
}

use Work::{
    Command, Drain, DrainOn, ForwardFrom, ForwardTo, Peek, Receive, ReceiveOn, Send, SendOn,
};

/// What becomes of the queue's leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leader {
    /// It is on the node that is left.
    Stays,
    /// It is on one of the others.
    Goes,
}

impl Leader {
    /// The node on which it is to begin with.
    fn node(self) -> usize {
        match self {
            Self::Stays => 1,
            Self::Goes => 2,
        }
    }
}

/// One run of hello-mq, on queues of its own.
struct Case {
    work: Work,
    leader: Leader,
    is_interrupted: bool,
    /// The queue that loses its majority.
    queue: String,
    /// The queue that has none to lose.
    other: Option<String>,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.is_interrupted { ", Ctrl+C" } else { "" };
        write!(f, "{:?}, leader {:?}{end}", self.work, self.leader)
    }
}

impl Case {
    fn new(work: Work, leader: Leader, is_interrupted: bool, number: usize) -> Self {
        let queue = format!("{work:?}-{number}");
        let other = matches!(work, ForwardFrom | ForwardTo).then(|| format!("{queue}-other"));
        Self {
            work,
            leader,
            is_interrupted,
            queue,
            other,
        }
    }

    /// What is in which queue to begin with.
    fn stored(&self) -> Option<(&str, BTreeSet<u32>)> {
        let queue = match self.work {
            SendOn | ReceiveOn => return None,
            ForwardTo => self.other(),
            _ => &self.queue,
        };
        Some((queue, (1..=STORED).collect()))
    }

    /// The same, as `send --jsonl` takes it.
    fn lines(&self) -> String {
        let Some((queue, numbers)) = self.stored() else {
            return String::new();
        };
        let rest = match self.work {
            DrainOn => format!(" {}", "x".repeat(BIG)),
            _ => String::new(),
        };
        let line = |number| {
            let properties = "{\"delivery_mode\":2}";
            format!(
                "{{\"routing_key\":\"{queue}\",\"payload\":\"{number}{rest}\",\"properties\":{properties}}}\n"
            )
        };
        numbers.into_iter().map(line).collect()
    }

    /// What is sent while there is no majority.
    fn sent(&self) -> Vec<u32> {
        match self.work {
            Send => vec![STORED + 1],
            // At 5 a second, long enough to be at it still.
            SendOn => (1..=60).collect(),
            _ => Vec::new(),
        }
    }

    fn other(&self) -> &str {
        self.other.as_deref().unwrap()
    }

    fn words(&self) -> Vec<String> {
        let all = STORED.to_string();
        let to = |queue: &str| format!(":{queue}");
        let words = match self.work {
            Send => "send --retry-for 150s --confirm-timeout 0s",
            SendOn => "send --retry-for 150s --rate 5",
            ReceiveOn => "receive -c 1",
            Peek => "receive --peek",
            Drain => "receive --drain",
            DrainOn => "receive --drain --prefetch 1",
            Receive | Command | ForwardFrom | ForwardTo => &format!("receive -c {all}"),
        };
        let mut words: Vec<String> = words.split(' ').map(str::to_owned).collect();
        let source = match self.work {
            ForwardTo => self.other(),
            _ => &self.queue,
        };
        words.extend(["-q".to_owned(), source.to_owned()]);
        words.extend(self.sent().iter().map(u32::to_string));
        match self.work {
            Command => words.extend(["--", "sh", "-c", "cat; echo"].map(str::to_owned)),
            ForwardFrom => words.extend(["--forward-to".to_owned(), to(self.other())]),
            ForwardTo => words.extend(["--forward-to".to_owned(), to(&self.queue)]),
            _ => {}
        }
        words
    }

    fn is_publisher(&self) -> bool {
        matches!(self.work, Send | SendOn | ForwardTo)
    }

    /// Whether it is one that works before the majority goes.
    fn is_before(&self) -> bool {
        matches!(self.work, SendOn | ReceiveOn | DrainOn)
    }

    /// What is wrong with the line that breaks the silence.
    fn mistake(&self, line: &str, broker: &str) -> Option<String> {
        let named = line.contains(&format!("'{}'", self.queue));
        // Messages go to an exchange: that they are not confirmed, or refused, says what there is to say.
        let told = self.is_publisher() && (line.contains("confirm") || line.contains("rejected"));
        let is_right = line.starts_with("hello-mq: ") && line.contains(broker) && (named || told);
        (!is_right).then(|| format!("it says only: {line}"))
    }

    /// The statuses with which it may end. A look into a queue begins with its first message, so it is
    /// not taken up again when the broker ends the connection, which it does at once if the leader is
    /// gone, and otherwise after a while.
    fn statuses(&self, is_long: bool) -> &[i32] {
        match self.work {
            Send | SendOn if self.is_interrupted => &[130],
            Peek if is_long || self.leader == Leader::Goes => &[0, 69],
            _ => &[0],
        }
    }
}

/// One case, as it goes.
struct Run<'c> {
    case: &'c Case,
    /// `None` once it has ended.
    running: Option<Running>,
    /// Reads what a run prints that was stalled to begin with.
    reader: Option<JoinHandle<String>>,
    /// Since when it should have no answer.
    since: Instant,
    /// The line that broke the silence, and after how long.
    line: Option<(Duration, String)>,
    /// How it ended, and how long that took since Ctrl+C or the return of the majority.
    ended: Option<(Outcome, Duration)>,
    problems: Vec<String>,
}

impl<'c> Run<'c> {
    fn new(case: &'c Case, node: &Node) -> Self {
        Self {
            case,
            running: Some(node.hello(case.words()).spawn()),
            reader: None,
            since: Instant::now(),
            line: None,
            ended: None,
            problems: Vec::new(),
        }
    }

    fn running(&mut self) -> &mut Running {
        self.running.as_mut().unwrap()
    }

    /// Waits until it is at it.
    fn expect_begin(&mut self) {
        let text = match self.case.work {
            SendOn => "Sent '1'\n",
            _ => "CTRL+C\n",
        };
        self.running().expect(text);
    }

    /// From here on the majority is gone.
    fn go_on(&mut self) {
        if self.case.work == DrainOn {
            // What was delivered before is written now, and then there is nothing.
            let mut stdout = self.running().stop_reading();
            self.reader = Some(thread::spawn(move || {
                let mut all = String::new();
                stdout.read_to_string(&mut all).unwrap();
                all
            }));
        } else {
            self.running().collect();
        }
        if self.case.is_before() {
            self.since = Instant::now();
        }
    }

    /// Waits until it says what is going on, and stops it if that is to be.
    fn first_half(&mut self, broker: &str) {
        let since = self.since;
        let line = self.running().says_within(SILENCE, since);
        self.line = line.map(|(at, line)| (at - since, line));
        let mistake = match &self.line {
            // It can't know better.
            _ if self.case.work == ReceiveOn => None,
            Some((_, line)) => self.case.mistake(line, broker),
            None => Some(format!("it says nothing for {SILENCE:?}")),
        };
        self.problems.extend(mistake);
        if self.case.is_interrupted {
            let start = Instant::now();
            self.running().signal(Signal::SIGINT);
            let time = self.end(start, false);
            if time > LEAVING {
                self.problems.push(format!("Ctrl+C took {time:?}"));
            }
        }
    }

    /// Waits for the end, and returns how long that took.
    fn end(&mut self, since: Instant, is_long: bool) -> Duration {
        let mut outcome = self.running.take().unwrap().end();
        let time = since.elapsed();
        if let Some(reader) = self.reader.take() {
            outcome.stdout = reader.join().unwrap();
        }
        if !self.case.statuses(is_long).contains(&outcome.status()) {
            self.problems
                .push(format!("status {}: {}", outcome.status(), outcome.stderr));
        }
        let is_marked = |line: &str| line.starts_with("hello-mq: ");
        if !outcome.stderr.lines().all(is_marked) {
            self.problems
                .push(format!("a line without a mark: {}", outcome.stderr));
        }
        self.ended = Some((outcome, time));
        time
    }

    /// Counts its messages: all that were there, and what was sent and confirmed, are where they belong
    /// or were printed.
    fn count(&mut self, observer: &mut Observer) {
        let case = self.case;
        let (seen, has_succeeded) = match &self.ended {
            Some((outcome, _)) => (numbers(&outcome.stdout), outcome.status() == 0),
            None => (BTreeSet::new(), false),
        };
        let is_done = has_succeeded && !case.is_interrupted;
        let (place, mut wanted) = match case.stored() {
            Some((queue, stored)) => (queue, stored),
            None => (&*case.queue, BTreeSet::new()),
        };
        let lost = match case.work {
            Send | SendOn => {
                let sent = case.sent().into_iter();
                wanted.extend(sent.filter(|number| is_done || seen.contains(number)));
                missing(observer, place, wanted)
            }
            Peek if is_done => {
                let shown = &wanted - &seen;
                &shown | &missing(observer, place, wanted)
            }
            ForwardFrom if is_done => missing(observer, case.other(), wanted),
            ForwardTo if is_done => missing(observer, &case.queue, wanted),
            ReceiveOn if is_done => &BTreeSet::from([LATE]) - &seen,
            Receive | Drain | DrainOn | Command if is_done => &wanted - &seen,
            ForwardFrom => {
                let rest = missing(observer, place, wanted);
                missing(observer, case.other(), rest)
            }
            _ => missing(observer, place, &wanted - &seen),
        };
        if !lost.is_empty() {
            let what = if is_done { "not done" } else { "lost" };
            self.problems.push(format!("{what}: {lost:?}"));
        }
    }

    fn row(&self) {
        let line = self.line.as_ref().map_or("nothing".to_owned(), |line| {
            format!("{:.1} s: {}", line.0.as_secs_f64(), line.1)
        });
        let ended = self.ended.as_ref().map_or("never".to_owned(), |ended| {
            let time = ended.1.as_secs_f64();
            format!("{} after {time:.1} s", ended.0.status())
        });
        println!("| {} | {line} | {ended} |", self.case);
    }
}

/// Does something with each run by itself, so that none waits for another.
fn each(runs: &mut [Run], work: impl Fn(&mut Run) + Sync) {
    let work = &work;
    let died: Vec<bool> = thread::scope(|scope| {
        let threads = runs.iter_mut().map(|run| scope.spawn(move || work(run)));
        let threads: Vec<_> = threads.collect();
        let ends = threads.into_iter().map(|thread| thread.join().is_err());
        ends.collect()
    });
    for (run, _) in runs.iter_mut().zip(died).filter(|(_, died)| *died) {
        run.problems.push("it hangs".to_owned());
    }
}

/// The number in a line or in a body.
fn number(line: &str) -> Option<u32> {
    let line = line
        .trim_start_matches(" [x] Received '")
        .trim_start_matches(" [x] Sent '");
    let end = line.find(|c: char| !c.is_ascii_digit());
    line[..end.unwrap_or(line.len())].parse().ok()
}

fn numbers(text: &str) -> BTreeSet<u32> {
    text.lines().filter_map(number).collect()
}

/// What does not come to light in a queue. What a consumer had that is gone comes back when the broker
/// has noticed that.
fn missing(observer: &mut Observer, queue: &str, mut wanted: BTreeSet<u32>) -> BTreeSet<u32> {
    let start = Instant::now();
    loop {
        for body in observer.drain(queue) {
            wanted.remove(&number(&body).unwrap());
        }
        if wanted.is_empty() || start.elapsed() > COMING_BACK {
            return wanted;
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// The node of each queue's leader.
fn leaders(node: &mut Node) -> BTreeMap<String, String> {
    let listed = node.tool("rabbitmqctl -q list_queues name leader");
    listed
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(name, leader)| (name.to_owned(), leader.trim().to_owned()))
        .collect()
}

/// Three nodes, on which the queues are led by those that the cases want.
fn cluster(cases: &[Case]) -> Node {
    let mut node = Node::cluster(3);
    for leader in [Leader::Stays, Leader::Goes] {
        // A queue is led by the node on which it was declared.
        let url = format!("amqp://guest:guest@{}/", node.hosts[leader.node() - 1]);
        let mut observer = Observer::at(&url);
        let channel = observer.channel();
        for case in cases.iter().filter(|case| case.leader == leader) {
            channel.queue_declare(&*case.queue, quorum()).unwrap();
        }
    }
    let mut observer = node.observer();
    let channel = observer.channel();
    for case in cases {
        if let Some(other) = &case.other {
            let options = QueueDeclareOptions {
                durable: true,
                ..QueueDeclareOptions::default()
            };
            channel.queue_declare(&**other, options).unwrap();
        }
    }
    let lines: String = cases.iter().map(Case::lines).collect();
    node.hello(["send", "--quiet", "--jsonl"])
        .stdin(lines)
        .run()
        .printed("");
    let leaders = leaders(&mut node);
    for case in cases {
        let wanted = format!("-{}@localhost", case.leader.node());
        let leader = &leaders[&case.queue];
        assert!(leader.ends_with(&wanted), "{case}: {leader} leads it");
    }
    node
}

/// Waits until each queue has a leader again.
fn wait_for_leaders(node: &mut Node, cases: &[Case]) {
    let start = Instant::now();
    loop {
        let leaders = leaders(node);
        let is_led = |case: &Case| leaders.get(&case.queue).is_some_and(|it| !it.is_empty());
        if cases.iter().all(is_led) {
            return;
        }
        assert!(start.elapsed() < SETTLING, "not all are led: {leaders:?}");
        thread::sleep(Duration::from_millis(200));
    }
}

/// Runs the cases while their queues lose their majority and get it back; between the two,
/// `meanwhile` may wait for something.
fn outage(cases: &[Case], is_long: bool, meanwhile: impl FnOnce(&mut [Run])) {
    let mut node = cluster(cases);
    let broker = node.url.replace(":guest@", "@");

    let start = |case| Run::new(case, &node);
    let mut runs: Vec<Run> = cases
        .iter()
        .filter(|it| it.is_before())
        .map(start)
        .collect();
    runs.iter_mut().for_each(Run::expect_begin);
    node.tool("broker-kill 2 3");
    let start = |case| Run::new(case, &node);
    runs.extend(cases.iter().filter(|it| !it.is_before()).map(start));
    runs.iter_mut().for_each(Run::go_on);
    each(&mut runs, |run| run.first_half(&broker));
    meanwhile(&mut runs);

    node.tool("broker-start 2");
    let back = Instant::now();
    wait_for_leaders(&mut node, cases);
    for run in runs.iter().filter(|run| run.running.is_some()) {
        if run.case.work == ReceiveOn {
            let number = LATE.to_string();
            let words = ["send", "-q", &run.case.queue, &number];
            node.hello(words)
                .run()
                .printed(&format!(" [x] Sent '{number}'\n"));
        }
    }
    each(&mut runs, |run| {
        if run.running.is_some() {
            run.end(back, is_long);
        }
    });

    let mut observer = node.observer();
    for run in &mut runs {
        run.count(&mut observer);
        run.row();
    }
    let problems: Vec<String> = runs
        .iter()
        .flat_map(|run| run.problems.iter().map(|it| format!("{}: {it}", run.case)))
        .collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn a_quorum_queue_that_is_without_its_majority_for_a_while() {
    let mut cases = Vec::new();
    for leader in [Leader::Stays, Leader::Goes] {
        for work in [
            Send,
            SendOn,
            Receive,
            ReceiveOn,
            Peek,
            Drain,
            DrainOn,
            Command,
            ForwardFrom,
            ForwardTo,
        ] {
            for is_interrupted in [true, false] {
                cases.push(Case::new(work, leader, is_interrupted, cases.len()));
            }
        }
    }
    outage(&cases, false, |_| {});
}

#[test]
fn a_quorum_queue_that_is_without_its_majority_for_longer_than_its_broker_waits() {
    let works = [Send, Receive, Peek, Command, ForwardFrom, ForwardTo];
    // A consumer that was made for nobody has the messages for a moment. Whether who drains the queue
    // meets with that depends on who is first.
    let stays = works.into_iter().chain([Drain; 5]);
    let goes = works.into_iter().chain([Drain, DrainOn]);
    let works = stays.map(|work| (work, Leader::Stays));
    let works = works.chain(goes.map(|work| (work, Leader::Goes)));
    let cases: Vec<Case> = works
        .enumerate()
        .map(|(number, (work, leader))| Case::new(work, leader, false, number))
        .collect();
    outage(&cases, true, |runs| {
        for run in runs {
            if let Receive | Drain | Command | ForwardFrom = run.case.work {
                run.running().has_said("reconnected to ", 1);
            }
        }
    });
}
