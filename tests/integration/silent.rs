//! A broker that answers nothing but heartbeats: every wait for it has an end, or is announced.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::mute::{
    BASIC_CANCEL, BASIC_CONSUME, BASIC_GET, BASIC_PUBLISH, BASIC_QOS, CHANNEL_CLOSE, CHANNEL_OPEN,
    CONNECTION_CLOSE, EXCHANGE_BIND, EXCHANGE_DECLARE, EXCHANGE_DELETE, Method, Moment, Mute,
    QUEUE_BIND, QUEUE_DECLARE, QUEUE_DELETE, QUEUE_PURGE,
};
use crate::support::{Outcome, Running, hello, queue, shell, url};

/// How long nothing need be said of a wait, and what a noisy machine adds to it.
const SILENCE: Duration = Duration::from_secs(5 + 2);

/// Longer than any clean end takes on a noisy machine.
const SOON: Duration = Duration::from_secs(4);

/// How long what is done may wait for the broker's farewell, and what a noisy machine adds to it.
const FAREWELL: Duration = Duration::from_millis(2500);

/// No command takes so long to come to what is not answered.
const LIMIT: Duration = Duration::from_secs(60);

/// A command, and from when on the broker does not answer it.
#[derive(Clone, Copy, Debug)]
struct Case {
    /// Its words. NAME is the name of a queue that has a message, and of an exchange.
    line: &'static str,
    moment: Moment,
    /// What is said of the wait has one of these in it.
    about: &'static [&'static str],
}

impl Case {
    /// A method is not answered, and nothing after it.
    const fn new(line: &'static str, method: Method) -> Self {
        Self {
            line,
            moment: Moment::Asked(method, 1),
            about: &["NAME"],
        }
    }

    /// The broker's n-th method does not come, and nothing after it.
    const fn answer(line: &'static str, time: usize) -> Self {
        Self {
            line,
            moment: Moment::Answer(time),
            about: &["NAME"],
        }
    }

    /// Only the n-th time that it is said.
    const fn time(self, time: usize) -> Self {
        let moment = match self.moment {
            Moment::Asked(method, _) => Moment::Asked(method, time),
            Moment::Answer(_) => Moment::Answer(time),
        };
        Self { moment, ..self }
    }

    const fn about(self, about: &'static [&'static str]) -> Self {
        Self { about, ..self }
    }

    fn name(&self) -> String {
        match self.moment {
            Moment::Asked((class, method), 1) => format!("{} at {class}.{method}", self.line),
            Moment::Asked((class, method), time) => {
                format!("{} at {class}.{method} no. {time}", self.line)
            }
            Moment::Answer(time) => format!("{} at answer no. {time}", self.line),
        }
    }
}

/// Checks each case in a thread of its own, as most of the time is spent waiting.
fn each(cases: &[Case], check: impl Fn(&Case) + Copy + Send) {
    let failed: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = cases
            .iter()
            .map(|case| {
                thread::Builder::new()
                    .name(case.name())
                    .spawn_scoped(scope, move || check(case))
                    .unwrap()
            })
            .collect();
        threads
            .into_iter()
            .zip(cases)
            .filter_map(|(thread, case)| thread.join().err().map(|_| case.name()))
            .collect()
    });
    assert!(failed.is_empty(), "failed: {failed:#?}");
}

/// A running command whose broker is, or will be, silent.
struct Trial<'c> {
    case: &'c Case,
    name: String,
    mute: Mute,
    running: Running,
}

impl<'c> Trial<'c> {
    fn start(case: &'c Case) -> Self {
        let name = queue("silent");
        let made = hello(["declare", &name, "-e", &name, "--bind", ""])
            .args(["--exchange-type", "fanout"])
            .run();
        assert_eq!(made.status(), 0, "{made:?}");
        // Nobody has to take the reply.
        let filled = hello(["send", "-q", &name, "--reply-to", "nobody", "hello"]).run();
        assert_eq!(filled.status(), 0, "{filled:?}");
        let mute = Mute::start(&url(), case.moment);
        let words = case.line.split(' ').map(|word| word.replace("NAME", &name));
        let running = hello(words).env("HELLO_MQ_URL", &mute.url).spawn();
        Self {
            case,
            name,
            mute,
            running,
        }
    }

    /// Starts it, and waits until the broker is silent, or it has ended. Returns since when.
    fn silent(case: &'c Case) -> (Self, Instant) {
        let mut trial = Self::start(case);
        trial.running.collect();
        let start = Instant::now();
        loop {
            let has_ended = trial.has_ended();
            if let Some(since) = trial.mute.silent_since() {
                return (trial, since);
            }
            if has_ended {
                return (trial, Instant::now());
            }
            assert!(start.elapsed() < LIMIT, "it asks for nothing");
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn has_ended(&mut self) -> bool {
        self.running.ends_within(Duration::ZERO)
    }

    /// Waits until it says, within the time, that it waits, for whom and for what; or has ended.
    fn is_announced(&mut self, since: Instant) -> bool {
        let url = self.mute.shown_url();
        let about = self.case.about.iter();
        let about: Vec<_> = about
            .map(|about| about.replace("NAME", &self.name))
            .collect();
        loop {
            let is_over = self.has_ended() || since.elapsed() > SILENCE;
            let is_announced = self.running.said().iter().any(|(at, line)| {
                *at < since + SILENCE
                    && line.starts_with("hello-mq: ")
                    && line.contains("waiting for ")
                    && line.contains(&url)
                    && about.iter().any(|about| line.contains(about))
            });
            if is_announced || is_over {
                return is_announced;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for the end, and fails if it does not come soon.
    #[track_caller]
    fn end_within(mut self, limit: Duration, what: &str) -> Outcome {
        let has_ended = self.running.ends_within(limit);
        let said = self.running.said();
        assert!(has_ended, "{what} does not end it; it said {said:?}");
        self.running.end()
    }
}

/// What became of a command that was interrupted when it had said that it waits, or should have.
#[derive(Debug)]
struct Wait {
    is_announced: bool,
    /// Before it was interrupted.
    has_ended: bool,
    outcome: Outcome,
}

impl Wait {
    fn for_nothing(case: &Case) -> Self {
        let (mut trial, since) = Trial::silent(case);
        let is_announced = trial.is_announced(since);
        let has_ended = trial.has_ended();
        if !has_ended {
            trial.running.signal(Signal::SIGINT);
        }
        Self {
            is_announced,
            has_ended,
            outcome: trial.end_within(SOON, &format!("announced: {is_announced}; Ctrl+C")),
        }
    }
}

/// It says that it waits, and Ctrl+C ends it.
fn is_announced(case: &Case) {
    let wait = Wait::for_nothing(case);
    assert!(wait.is_announced && !wait.has_ended, "{wait:?}");
    was_left_well(case, &wait.outcome);
}

/// What it had to do is done: it ends by itself, or says that it waits, and Ctrl+C ends it.
fn ends_or_is_announced(case: &Case) {
    let wait = Wait::for_nothing(case);
    if wait.has_ended {
        return was_done(&wait.outcome);
    }
    assert!(wait.is_announced, "{wait:?}");
    was_left_well(case, &wait.outcome);
}

/// What it had to do is done: it ends by itself within the time.
fn ends_within(case: &Case, limit: Duration) {
    let (trial, since) = Trial::silent(case);
    let left = limit.saturating_sub(since.elapsed());
    was_done(&trial.end_within(left, "that all is done"));
}

fn was_done(outcome: &Outcome) {
    assert_eq!(outcome.status(), 0, "{outcome:?}");
    assert!(!outcome.stdout.is_empty(), "{outcome:?}");
    says_only_its_own(outcome);
}

fn was_left_well(case: &Case, outcome: &Outcome) {
    let is_receive = case.line.starts_with("receive");
    let status = if is_receive { 0 } else { 130 };
    assert_eq!(outcome.status(), status, "{outcome:?}");
    says_only_its_own(outcome);
}

fn says_only_its_own(outcome: &Outcome) {
    let mut lines = outcome.stderr.lines();
    assert!(
        lines.all(|line| line.starts_with("hello-mq: ")),
        "{outcome:?}"
    );
}

#[test]
fn a_login_is_bounded_whatever_is_not_answered() {
    const STAGES: [&str; 4] = [
        "waiting for its greeting",
        "waiting for its answer to the login",
        "waiting for it to open the virtual host",
        // The channel is opened in one go with the virtual host.
        "waiting for it to open",
    ];
    const PATIENCE: Duration = Duration::from_secs(3);
    let mut cases: Vec<_> = (1..=3)
        .flat_map(|time| {
            [
                Case::answer("send -q NAME --connect-timeout 3s hi", time),
                Case::answer("receive NAME --connect-timeout 3s", time),
            ]
        })
        .collect();
    cases.extend((1..=4).map(|time| Case::answer("declare NAME --connect-timeout 3s", time)));
    each(&cases, |case| {
        let Moment::Answer(time) = case.moment else {
            panic!("{case:?}");
        };
        let start = Instant::now();
        let trial = Trial::start(case);
        let connecting = format!("hello-mq: connecting to {}", trial.mute.shown_url());
        let outcome = trial.end_within(PATIENCE + SOON, "--connect-timeout");
        assert!(start.elapsed() >= PATIENCE, "{outcome:?}");
        let parts = [&connecting, "no answer within 3s", STAGES[time - 1]];
        outcome.failed(69, &parts);
    });
}

#[test]
fn a_login_that_is_not_answered_can_be_left() {
    let cases: Vec<_> = (1..=4)
        .map(|time| {
            let line = if time % 2 == 0 {
                "receive NAME"
            } else {
                "declare NAME"
            };
            Case::answer(line, time)
        })
        .collect();
    each(&cases, |case| {
        let (trial, _) = Trial::silent(case);
        trial.running.signal(Signal::SIGINT);
        was_left_well(case, &trial.end_within(SOON, "Ctrl+C"));
    });
}

#[test]
fn what_is_asked_about_queues_and_exchanges_is_announced() {
    const CASES: &[Case] = &[
        Case::new("declare NAME", QUEUE_DECLARE),
        Case::new("declare --check NAME", QUEUE_DECLARE),
        // The first channel is gone with the refusal.
        Case::new("declare --durable NAME", CHANNEL_OPEN)
            .time(2)
            .about(&["channel", "NAME"]),
        Case::new("declare -e NAME --exchange-type fanout", EXCHANGE_DECLARE),
        Case::new("declare NAME -e amq.direct --bind key", QUEUE_BIND),
        Case::new(
            "declare -e amq.direct --bind key --destination-exchange NAME",
            EXCHANGE_BIND,
        ),
        Case::new("purge --yes NAME", QUEUE_DECLARE),
        Case::new("purge --yes NAME", QUEUE_PURGE),
        Case::new("delete --yes NAME", QUEUE_DECLARE),
        Case::new("delete --yes NAME", QUEUE_DELETE),
        Case::new("delete -e NAME", EXCHANGE_DECLARE),
        Case::new("delete -e NAME", EXCHANGE_DELETE),
    ];
    each(CASES, is_announced);
}

#[test]
fn what_send_asks_for_is_announced() {
    const CASES: &[Case] = &[
        // The channel, and the queue: both go with the login.
        Case::answer("send -q NAME hi", 4),
        Case::answer("send -q NAME hi", 5),
        Case::new("send -q NAME hi", BASIC_PUBLISH).about(&["confirm"]),
        Case::new("send -e NAME hi", BASIC_PUBLISH).about(&["confirm"]),
        // More than may be on their way at a time.
        Case::new("send -q NAME -c 5000 hi", BASIC_PUBLISH)
            .time(3000)
            .about(&["confirm"]),
        Case::new("send -q NAME --confirm-timeout 0s hi", BASIC_PUBLISH).about(&["confirm"]),
        Case::new("send -q NAME --no-confirm hi", BASIC_PUBLISH).about(&["read", "publish"]),
        Case::new("send -q NAME --no-confirm hi", BASIC_QOS).about(&["read", "publish"]),
        Case::new("send -q NAME --reply-timeout 1m hi", BASIC_CONSUME).about(&["repl"]),
    ];
    each(CASES, is_announced);
}

#[test]
fn what_receive_asks_for_is_announced() {
    const CASES: &[Case] = &[
        Case::answer("receive NAME", 4),
        Case::answer("receive NAME", 5),
        Case::answer("receive --peek NAME", 5),
        Case::new("receive -e amq.fanout", QUEUE_DECLARE).about(&["a temporary queue"]),
        Case::new("receive -e amq.fanout", QUEUE_BIND).about(&["amq.fanout"]),
        Case::new("receive NAME", BASIC_QOS),
        Case::new("receive NAME", BASIC_CONSUME),
        Case::new("receive --auto-ack NAME", BASIC_CONSUME),
        Case::new("receive NAME -- cat", BASIC_CONSUME),
        // Whether the queue is empty now.
        Case::new("receive --drain NAME", CHANNEL_OPEN)
            .time(2)
            .about(&["channel", "NAME"]),
        Case::new("receive --drain NAME", QUEUE_DECLARE).time(2),
        Case::new("receive --drain NAME", BASIC_CANCEL),
        Case::new("receive --drain NAME -- cat", QUEUE_DECLARE).time(2),
        Case::new("receive --drain NAME -- cat", BASIC_CANCEL),
        Case::new("receive --peek NAME", BASIC_GET),
        Case::new("receive --peek NAME", BASIC_GET).time(2),
        // Over a connection of their own.
        Case::new("receive --forward-to :nobody NAME", BASIC_PUBLISH).about(&["confirm"]),
        Case::new("receive --reply NAME -- cat", BASIC_PUBLISH).about(&["confirm"]),
    ];
    each(CASES, is_announced);
}

#[test]
fn what_is_done_does_not_wait_long_for_a_farewell() {
    const CASES: &[Case] = &[
        Case::new("declare NAME", CONNECTION_CLOSE),
        Case::new("declare --check NAME", CONNECTION_CLOSE),
        Case::new("send -q NAME hi", CONNECTION_CLOSE),
        Case::new("send -q NAME --no-confirm hi", CONNECTION_CLOSE),
        Case::new("purge --yes NAME", CONNECTION_CLOSE),
        Case::new("delete --yes NAME", CONNECTION_CLOSE),
        Case::new("delete -e NAME", CONNECTION_CLOSE),
    ];
    each(CASES, |case| ends_within(case, FAREWELL));
}

#[test]
fn what_is_received_does_not_wait_for_ever_for_a_farewell() {
    const CASES: &[Case] = &[
        Case::new("receive -c 1 NAME", BASIC_CANCEL),
        Case::new("receive -c 1 NAME", CONNECTION_CLOSE),
        Case::new("receive --drain NAME", CONNECTION_CLOSE),
        Case::new("receive -c 1 NAME -- cat", BASIC_CANCEL),
        Case::new("receive -c 1 NAME -- cat", CONNECTION_CLOSE),
        // What was looked at goes back.
        Case::new("receive --peek NAME", CHANNEL_CLOSE),
        Case::new("receive --peek NAME", CONNECTION_CLOSE),
    ];
    each(CASES, ends_or_is_announced);
}

#[test]
fn ctrl_c_ends_a_receive_although_nothing_is_answered_any_more() {
    const CASES: &[Case] = &[
        Case::new("receive NAME", BASIC_CANCEL),
        Case::new("receive --auto-ack NAME", BASIC_CANCEL),
        Case::new("receive -e amq.fanout", BASIC_CANCEL),
        Case::new("receive NAME -- cat", CONNECTION_CLOSE),
    ];
    each(CASES, |case| {
        let mut trial = Trial::start(case);
        // A command's output is all there is.
        let sign = if case.line.ends_with("cat") {
            "hello"
        } else {
            "CTRL+C\n"
        };
        trial.running.expect(sign);
        trial.running.collect();
        trial.running.signal(Signal::SIGINT);
        was_left_well(case, &trial.end_within(SOON, "Ctrl+C"));
    });
}

#[test]
fn heartbeats_are_no_confirms() {
    const CASES: &[Case] = &[
        Case::new("send -q NAME --confirm-timeout 3s hi", BASIC_PUBLISH),
        Case::new("send -q NAME --confirm-timeout 6s hi", BASIC_PUBLISH),
        // Ours go their way, too.
        Case::new(
            "send -q NAME --confirm-timeout 6s --heartbeat 1s hi",
            BASIC_PUBLISH,
        ),
        Case::new(
            "send -q NAME --confirm-timeout 6s -c 5000 hi",
            BASIC_PUBLISH,
        )
        .time(3000),
    ];
    const NOISE: Duration = Duration::from_secs(1);
    each(CASES, |case| {
        let (trial, since) = Trial::silent(case);
        let url = trial.mute.shown_url();
        let outcome = trial.end_within(Duration::from_secs(12), "--confirm-timeout");
        let time = since.elapsed();
        let patience = if case.line.contains("3s") { 3 } else { 6 };
        let said = format!("{url} has confirmed nothing for {patience}s");
        outcome.failed(75, &[&said]);
        let patience = Duration::from_secs(patience);
        assert!(
            time + NOISE >= patience && time <= patience + NOISE,
            "{time:?}: {outcome:?}"
        );
    });
}

#[test]
fn what_waits_for_no_answer_of_the_broker_says_nothing() {
    const IDLE: Duration = Duration::from_secs(7);
    let name = queue("idle");
    // What they wait for: messages, a command, the reader, input.
    let idle = [
        hello(["receive", &format!("{name}-1")]),
        hello(["receive", "--auto-ack", &format!("{name}-2")]),
        hello(["receive", &format!("{name}-3"), "--", "cat"]),
        hello(["receive", "-e", "amq.fanout", "-r", &name]),
        hello(["receive", "-c1", &name, "--", "sleep", "15"]),
        shell("exec $H receive --peek -o body $NAME-5 > >(sleep 15)").env("NAME", &name),
        shell("exec $H send -l -q $NAME-6 < <(echo hello; sleep 15)").env("NAME", &name),
    ];
    hello(["send", "-q", &name, "hello"]).run();
    let big = "x".repeat(100_000);
    hello(["send", "-q", &format!("{name}-5"), "--", &big, &big]).run();
    let mut idle = idle.map(|hello| {
        let mut running = hello.spawn();
        running.collect();
        running
    });
    thread::sleep(IDLE);
    for (number, running) in idle.iter_mut().enumerate() {
        let has_ended = running.ends_within(Duration::ZERO);
        let said = running.said();
        assert!(!has_ended && said.is_empty(), "{number}: {said:?}");
        running.signal(Signal::SIGKILL);
    }
}
