//! Ctrl+C, SIGTERM and SIGHUP in every state.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{Observer, Outcome, hello, queue, shell};

/// Longer than any clean end takes on a noisy machine, shorter than any time-out.
const SOON: Duration = Duration::from_secs(4);

fn silent_server() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("amqp://{}", listener.local_addr().unwrap());
    (listener, url)
}

/// A queue with 20,000 numbers in it: more than a pipe holds.
fn filled_queue(name: &str) -> String {
    let queue = queue(name);
    let numbers: Vec<String> = (0..20_000).map(|n| n.to_string()).collect();
    hello(
        ["send", "--quiet", "-q", &queue]
            .into_iter()
            .chain(numbers.iter().map(String::as_str)),
    )
    .run()
    .printed("");
    queue
}

fn ended_well((outcome, time): (Outcome, Duration)) {
    assert_eq!((outcome.status(), outcome.stderr.as_str()), (0, ""));
    assert!(time < SOON, "{time:?}");
}

#[test]
fn receive_ends_well_while_it_waits() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // The tests themselves may run where SIGHUP is ignored.
        let line = format!(
            "exec env --default-signal=HUP \"$H\" receive {}",
            queue("waits")
        );
        let mut receiver = shell(&line).spawn();
        receiver.expect("CTRL+C\n");
        ended_well(receiver.stop(signal));
    }
}

#[test]
fn receive_ends_well_while_it_connects() {
    let (_listener, url) = silent_server();
    let receiver = hello(["receive", "--url", &url]).spawn();
    thread::sleep(Duration::from_millis(300));
    ended_well(receiver.stop(Signal::SIGINT));
}

#[test]
fn a_long_wait_for_the_connection_is_announced_and_bounded() {
    let (_listener, url) = silent_server();
    let start = Instant::now();
    let outcome = hello(["declare", "--url", &url, "--connect-timeout", "3s"]).run();
    outcome.failed(
        69,
        &[
            "hello-mq: connecting to amqp://guest@127.0.0.1",
            "no answer within 3s while waiting for its greeting",
        ],
    );
    assert!(
        start.elapsed() >= Duration::from_secs(3)
            && start.elapsed() < Duration::from_secs(3) + SOON
    );
}

#[test]
fn receive_ends_well_when_its_reader_takes_nothing() {
    let queue = filled_queue("stalled");
    let mut receiver = hello(["receive", &queue]).spawn();
    let unread = receiver.stop_reading();
    thread::sleep(Duration::from_secs(1));
    ended_well(receiver.stop(Signal::SIGINT));
    // Every number is in the pipe or in the queue.
    let mut seen = printed_numbers(&std::io::read_to_string(unread).unwrap());
    seen.extend(
        Observer::new()
            .drain(&queue)
            .iter()
            .map(|n| n.parse::<u32>().unwrap()),
    );
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>().len(), 20_000);
}

/// The numbers of the whole lines of `receive`.
fn printed_numbers(text: &str) -> Vec<u32> {
    text.split_inclusive('\n')
        .filter_map(|line| {
            line.strip_prefix(" [x] Received '")?
                .strip_suffix("'\n")?
                .parse()
                .ok()
        })
        .collect()
}

#[test]
fn what_ctrl_c_interrupts_in_a_burst_is_neither_lost_nor_printed_twice() {
    let queue = filled_queue("burst");
    let mut seen = Vec::new();
    for round in 0..20 {
        let receiver = hello(["receive", &queue]).spawn();
        // From before the connection is open to the middle of the burst.
        thread::sleep(Duration::from_micros(1500 * round));
        let signal = if round % 2 == 0 {
            Signal::SIGINT
        } else {
            Signal::SIGTERM
        };
        let (outcome, time) = receiver.stop(signal);
        // A signal that comes before hello-mq can catch it ends it as any process; it has done nothing.
        let killed_unprepared = outcome.status() == -1 && outcome.stdout.is_empty();
        assert!(killed_unprepared || outcome.status() == 0, "{outcome:?}");
        assert!(time < SOON, "{time:?}");
        seen.extend(printed_numbers(&outcome.stdout));
    }
    seen.extend(
        Observer::new()
            .drain(&queue)
            .iter()
            .map(|n| n.parse::<u32>().unwrap()),
    );
    assert_eq!(seen.len(), 20_000, "printed twice, or lost");
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>().len(), 20_000);
}

#[test]
fn a_second_ctrl_c_ends_at_once_with_130() {
    // The reader takes nothing, so that a good end takes a moment.
    let queue = filled_queue("second");
    let mut receiver = hello(["receive", &queue]).spawn();
    let _unread = receiver.stop_reading();
    thread::sleep(Duration::from_secs(1));
    receiver.signal(Signal::SIGINT);
    // Two signals at once are one wish, as GNU timeout sends them.
    receiver.signal(Signal::SIGINT);
    thread::sleep(Duration::from_millis(300));
    let (outcome, time) = receiver.stop(Signal::SIGINT);
    assert_eq!(outcome.status(), 130);
    assert!(time < Duration::from_millis(150), "{time:?}");
    Observer::new().messages(&queue);
}

#[test]
fn send_that_is_interrupted_says_what_is_not_done() {
    let (_listener, url) = silent_server();
    let sender = hello(["send", "--url", &url, "x"]).spawn();
    thread::sleep(Duration::from_millis(300));
    let (outcome, time) = sender.stop(Signal::SIGINT);
    outcome.failed(
        130,
        &["interrupted while connecting to amqp://guest@127.0.0.1"],
    );
    assert!(time < SOON);

    let waiting = shell("sleep 5 | (exec $H send)").spawn();
    thread::sleep(Duration::from_millis(500));
    // The shell's child is the one that reads.
    let child = std::process::Command::new("pgrep")
        .args(["-P", &waiting.pid().to_string(), "-f", "hello-mq send"])
        .output()
        .unwrap();
    let child: i32 = String::from_utf8(child.stdout)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), Signal::SIGINT).unwrap();
    waiting.end().failed(
        130,
        &["interrupted while reading standard input; nothing was sent"],
    );
}

#[test]
fn nohup_keeps_its_promise() {
    let mut receiver = shell("trap '' HUP; exec $H receive $Q")
        .env("Q", queue("nohup"))
        .spawn();
    receiver.expect("CTRL+C\n");
    receiver.signal(Signal::SIGHUP);
    thread::sleep(Duration::from_millis(300));
    let (outcome, _) = receiver.stop(Signal::SIGTERM);
    assert_eq!(outcome.exit.code(), Some(0));
}
