//! Nothing is lost, however often messages go back to their queue: on every series of RabbitMQ, from a
//! queue of each type.

use std::thread;

use crate::support::{Files, Hello, Outcome, hello, queue, shell};

/// More often than the delivery limit that quorum queues have from RabbitMQ 4.0 on, 20.
const TIMES: usize = 30;

/// The first bytes of each message. The rest is more than a pipe holds.
const MESSAGES: [&str; 5] = ["m1", "m2", "m3", "m4", "m5"];

/// What does not take messages, as a line of the shell, and the status that it ends with.
const CASES: [(&str, i32, &str); 11] = [
    ("peek", 0, "$H receive --peek -o body $Q >/dev/null"),
    (
        "peek, to a full disk",
        74,
        "$H receive --peek -o body $Q >/dev/full",
    ),
    (
        "drain, to a full disk",
        74,
        "$H receive --drain -o body $Q >/dev/full",
    ),
    (
        "interrupt, with a pipe that nobody reads",
        0,
        "interrupt_after 0.2 $H receive -o body $Q | sleep 1",
    ),
    (
        "timeout, with a pipe that nobody reads",
        0,
        "$H receive --timeout 150ms -o body $Q | sleep 0.3",
    ),
    (
        "count, with a pipe that is closed",
        0,
        "$H receive -c 3 -o body $Q | :",
    ),
    (
        "a command that is killed",
        1,
        "$H receive -c 1 --on-failure stop $Q -- sh -c 'kill -9 $$'",
    ),
    (
        "a command that is not there",
        64,
        "$H receive $Q -- $T/nothing",
    ),
    (
        "forward to a queue that is not there",
        67,
        "$H receive --forward-to :nowhere-at-all $Q",
    ),
    (
        "forward to a queue that is full",
        75,
        "$H receive --no-reconnect --forward-to :$Q-full $Q",
    ),
    (
        "save to a full disk",
        74,
        "trap '' XFSZ; ulimit -f 1; $H receive --drain --save $T/saved $Q",
    ),
];

fn run(line: &str, queue: &str, files: &Files) -> Outcome {
    let line = format!("set -o pipefail; {line}");
    shell(&line).env("Q", queue).env("T", files.path()).run()
}

/// The messages of a queue, by their first bytes, in order.
fn messages(receive: Hello) -> Vec<String> {
    let lines = receive.run().stdout;
    let mut found: Vec<_> = lines.lines().map(|line| line[..2].to_owned()).collect();
    found.sort();
    found
}

/// Gives the messages of a queue of this type back in this way again and again.
fn nothing_is_lost(kind: &str, (case, status, line): (&str, i32, &str)) {
    let name = queue("give-back");
    let dead = format!("{name}-dead");
    let files = Files::new();
    let mut declare = vec!["declare", "--quiet", "--type", kind, "--durable"];
    if kind != "stream" {
        // What fails more often than the limit is dead-lettered, as it should be.
        declare.extend([
            "--dead-letter-exchange",
            "",
            "--dead-letter-routing-key",
            &dead,
        ]);
    }
    hello(declare.into_iter().chain([name.as_str()])).run();
    hello(["declare", "--quiet", "--durable", &dead]).run();
    let full = format!("{name}-full");
    let full = ["--max-length", "0", "--overflow", "reject-publish", &full];
    hello(["declare", "--quiet", "--durable"].into_iter().chain(full)).run();
    let bodies = MESSAGES.map(|start| format!("{start}{}", "x".repeat(70_000)));
    hello(["send", "--quiet", "--no-declare", "-l", "-r", &name])
        .stdin(bodies.join("\n"))
        .run();
    let mut said = Vec::new();
    for _ in 0..TIMES {
        let outcome = run(line, &name, &files);
        // Where the pipe is closed before anything is written, the shell may tell of that.
        let is_as_expected = outcome.status() == status || outcome.status() == 141;
        assert!(is_as_expected, "{kind}, {case}: {outcome:?}");
        said.push(outcome.stderr);
    }
    let drain = |queue: &str| {
        let drain = ["receive", "--no-declare", "--drain", "-o", "body", queue];
        messages(hello(drain))
    };
    let mut left = drain(&name);
    let failed = drain(&dead);
    assert!(
        failed.is_empty() || case.starts_with("a command that is killed"),
        "{case}"
    );
    left.extend(failed);
    left.sort();
    assert_eq!(left, MESSAGES, "{kind}, {case}, it said {said:?}");
}

/// Every case at once: each mostly waits.
fn in_every_case(kind: &'static str) {
    let threads = CASES.map(|case| thread::spawn(move || nothing_is_lost(kind, case)));
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn nothing_is_lost_to_giving_back_to_a_classic_queue() {
    in_every_case("classic");
}

#[test]
fn nothing_is_lost_to_giving_back_to_a_quorum_queue() {
    in_every_case("quorum");
}

#[test]
fn nothing_is_lost_to_giving_back_to_a_stream() {
    const FROM_FIRST: &str = "$H receive --stream-offset first";
    let threads = CASES.map(|(case, status, line)| {
        thread::spawn(move || {
            // These a stream does not have: it can't be looked at one by one, nor given back to.
            if case.starts_with("peek") || case.starts_with("a command that is killed") {
                return;
            }
            let line = line.replace("$H receive", FROM_FIRST);
            nothing_is_lost("stream", (case, status, &line));
        })
    });
    for thread in threads {
        thread.join().unwrap();
    }
}

/// Whether every return counts towards a delivery limit.
fn counts() -> bool {
    std::env::var("HELLO_MQ_TEST_SERIES").as_deref() != Ok("43")
}

/// Looks at the first messages of a quorum queue, and at all, and checks that each stays in its place.
fn order_is_kept(declaration: &[&str]) {
    let name = queue("peek-order");
    let declare = ["declare", "--quiet", "--type", "quorum", &name];
    hello(declare).args(declaration).run().printed("");
    let bodies: Vec<_> = (1..=100).map(|n| n.to_string()).collect();
    hello(["send", "--quiet", "--no-declare", "-l", "-r", &name])
        .stdin(bodies.join("\n"))
        .run()
        .printed("");
    // All of these are looked at again by the next.
    for count in [5, 40, 100] {
        let peek = ["receive", "--no-declare", "--peek", "-o", "body", &name];
        let outcome = hello(peek).args(["-c", &count.to_string()]).run();
        let expected = bodies[..count].join("\n") + "\n";
        assert_eq!(outcome.stdout, expected, "{declaration:?}, {count}");
    }
    let drain = ["receive", "--no-declare", "--drain", &name];
    let outcome = hello(drain).args(["--format", "%s%h "]).run();
    let is_counted = outcome.stdout.contains("x-delivery-count");
    assert_eq!(is_counted, counts(), "{outcome:?}");
    let left: Vec<_> = outcome.stdout.split_whitespace().collect();
    let left: Vec<_> = left.iter().filter_map(|it| it.split('{').next()).collect();
    assert_eq!(left, bodies, "{declaration:?}");
}

#[test]
fn peeking_keeps_the_order_of_a_quorum_queue() {
    order_is_kept(&[]);
}

#[test]
fn peeking_keeps_the_order_of_a_quorum_queue_with_a_limit() {
    order_is_kept(&["--delivery-limit", "10"]);
}

#[test]
fn peeking_keeps_the_order_of_a_quorum_queue_without_a_limit() {
    // RabbitMQ 3 has no limit by default, and takes none below 0.
    if std::env::var("HELLO_MQ_TEST_SERIES").is_ok() {
        order_is_kept(&["--argument", "x-delivery-limit:=-1"]);
    }
}
