//! What takes too long for every run: `make test-faults`. Each test has nodes of its own, numbers
//! its messages, counts them at the end and prints what it counted.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    missing_docs
)]

#[path = "long/majority.rs"]
mod majority;
#[path = "integration/support.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use amiquip::{AmqpValue, FieldTable, QueueDeclareOptions};
use nix::sys::signal::Signal;
use support::{Files, Node, Observer, Outcome, Proxy, Running, shell};

/// Numbers that follow from a seed (the generator SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % end
    }
}

/// A number below `end`, different in each run.
fn random(end: u64) -> u64 {
    RandomState::new().build_hasher().finish() % end
}

fn numbers(end: u32) -> Vec<String> {
    (0..end).map(|n| n.to_string()).collect()
}

fn send<'a>(queue: &'a str, more: &[&'a str], numbers: &'a [String]) -> Vec<&'a str> {
    let mut arguments = vec!["send", "--persistent", "-q", queue];
    arguments.extend(more);
    arguments.extend(numbers.iter().map(String::as_str));
    arguments
}

/// The numbers of the whole lines that start so.
fn printed(text: &str, start: &str) -> Vec<u32> {
    text.split_inclusive('\n')
        .filter_map(|line| line.strip_prefix(start)?.strip_suffix("'\n")?.parse().ok())
        .collect()
}

/// What became of numbered messages: how many are missing, and how many are there more than once.
struct Count {
    lost: usize,
    twice: usize,
}

fn count(messages: u32, seen: impl IntoIterator<Item = u32>) -> Count {
    let mut times = BTreeMap::<u32, u32>::new();
    for number in seen {
        assert!(number < messages, "{number} was never sent");
        *times.entry(number).or_default() += 1;
    }
    Count {
        lost: messages as usize - times.len(),
        twice: times.values().filter(|&&times| times > 1).count(),
    }
}

fn drained(observer: &mut Observer, queue: &str) -> Vec<u32> {
    observer
        .drain(queue)
        .iter()
        .map(|number| number.parse().unwrap())
        .collect()
}

/// The longest time from a fault to the first line about it.
fn longest_silence(faults: &[Instant], running: &[(Instant, String)]) -> Duration {
    faults
        .iter()
        .filter_map(|fault| {
            running
                .iter()
                .map(|(at, _)| *at)
                .find(|at| at >= fault)
                .map(|at| at - *fault)
        })
        .max()
        .unwrap_or_default()
}

fn row(fault: &str, verb: &str, sent: u32, count: &Count, silence: Duration) {
    println!(
        "| {fault} | {verb} | {sent} | {} | {} | {:.1} s |",
        count.lost,
        count.twice,
        silence.as_secs_f64()
    );
    assert_eq!(count.lost, 0, "{fault}: {verb}");
}

/// Lets `fault` happen again and again while `running` does its work, each time a moment after the
/// connection is back. Returns when each happened.
fn again_and_again(
    running: &mut Running,
    times: usize,
    moment: Duration,
    mut fault: impl FnMut(),
) -> Vec<Instant> {
    let mut happened = Vec::new();
    running.collect();
    for round in 0..times {
        if !running.has_said("reconnected to ", round) {
            break;
        }
        thread::sleep(moment);
        happened.push(Instant::now());
        fault();
    }
    happened
}

const MESSAGES: u32 = 100_000;

/// How often a fault happens whose every time takes long: `all` times, unless `make test-faults` is told
/// fewer.
fn times(all: usize) -> usize {
    match std::env::var("HELLO_MQ_TEST_TIMES").as_deref() {
        Err(_) | Ok("") => all,
        Ok(times) => times.parse().expect("HELLO_MQ_TEST_TIMES is a number"),
    }
}

/// One kind of fault, at its worst moment, while sending and while receiving.
fn survives(fault: &str, times: usize, mut happen: impl FnMut(&mut Node)) {
    let mut node = Node::start();
    let numbers = numbers(MESSAGES);
    node.declare_durable("d");

    // Slow enough for every fault to find it at work.
    let files = Files::new();
    let lines = files.write("lines", &(numbers.join("\n") + "\n"));
    let lines = lines.to_str().unwrap();
    let mut sender = node
        .hello([
            "send",
            "-q",
            "d",
            "--persistent",
            "-l",
            "-f",
            lines,
            "--rate",
            "5000",
            "--retry-for",
            "60s",
        ])
        .spawn();
    let happened = again_and_again(&mut sender, times, Duration::from_millis(80), || {
        happen(&mut node);
    });
    let all_happened = sender.has_said("reconnected to ", times);
    let said = sender.said();
    let outcome = sender.end();
    outcome_is_disturbed(all_happened, &outcome);
    assert_eq!(outcome.stdout, format!(" [x] Sent {MESSAGES} messages\n"));
    let silence = longest_silence(&happened, &said);
    // Received by an independent client, so that what is counted is what the broker has.
    let all = drained(&mut node.observer(), "d");
    row(fault, "send", MESSAGES, &count(MESSAGES, all), silence);

    node.hello([
        "send",
        "-q",
        "d",
        "--persistent",
        "--quiet",
        "-l",
        "-f",
        lines,
    ])
    .run()
    .printed("");
    let mut receiver = node
        .hello(["receive", "--prefetch", "4", "--idle-timeout", "20s", "d"])
        .spawn();
    let happened = again_and_again(&mut receiver, times, Duration::from_millis(80), || {
        happen(&mut node);
    });
    let all_happened = receiver.has_said("reconnected to ", times);
    let said = receiver.said();
    let outcome = receiver.end();
    outcome_is_disturbed(all_happened, &outcome);
    let numbers = printed(&outcome.stdout, " [x] Received '");
    row(
        fault,
        "receive",
        MESSAGES,
        &count(MESSAGES, numbers),
        longest_silence(&happened, &said),
    );
    assert_eq!(node.observer().messages("d"), 0);
}

/// It succeeded, although every fault met it at work: a row of the table that no fault has touched
/// would prove nothing.
fn outcome_is_disturbed(all_happened: bool, outcome: &Outcome) {
    assert_eq!(outcome.status(), 0, "{}", outcome.stderr);
    assert!(
        all_happened,
        "it was over before the last fault:\n{}",
        outcome.stderr
    );
}

#[test]
fn a_broker_that_is_killed_again_and_again() {
    survives("kill -9 of the broker", times(10), |node| {
        node.tool("broker-kill");
        node.tool("broker-start");
    });
}

#[test]
fn a_broker_that_is_restarted_in_good_order() {
    survives("stop and start of the broker", times(5), |node| {
        node.tool("broker-stop");
        node.tool("broker-start");
    });
}

#[test]
fn an_operator_who_closes_all_connections() {
    survives("rabbitmqctl close_all_connections", 10, |node| {
        node.tool("rabbitmqctl -q close_all_connections bye");
    });
}

#[test]
fn a_memory_alarm_that_comes_and_goes() {
    let mut node = Node::start();
    let part = numbers(20_000);
    node.declare_durable("d");
    let mut silence = Duration::ZERO;
    let mut sender = node.hello(send("d", &[], &part)).spawn();
    sender.collect();
    for _ in 0..3 {
        let start = Instant::now();
        node.raise_memory_alarm();
        thread::sleep(Duration::from_secs(2));
        node.clear_memory_alarm();
        silence = silence.max(longest_silence(&[start], &sender.said()));
        thread::sleep(Duration::from_millis(30));
    }
    let outcome = sender.end();
    assert_eq!(outcome.status(), 0, "{}", outcome.stderr);
    row(
        "memory alarm",
        "send",
        20_000,
        &count(20_000, drained(&mut node.observer(), "d")),
        silence,
    );

    // Every way out, while it lasts.
    node.raise_memory_alarm();
    let mut sender = node.hello(send("d", &[], &part)).spawn();
    assert!(sender.has_said("accepts no messages", 1));
    let (outcome, time) = sender.stop(Signal::SIGINT);
    assert_eq!(outcome.status(), 130, "{}", outcome.stderr);
    assert!(time < Duration::from_secs(3), "{time:?}");
    let mut receiver = node.hello(["receive", "d"]).spawn();
    receiver.expect("CTRL+C\n");
    let (outcome, stopped) = receiver.stop(Signal::SIGINT);
    assert_eq!(outcome.status(), 0);
    println!("memory alarm: {time:?} from Ctrl+C to the end of send, {stopped:?} of receive");
}

/// The connection is cut after every single byte that the broker says until the first message is
/// confirmed: no hang, no panic, no wrong story.
#[test]
fn a_connection_that_is_cut_after_each_byte() {
    let node = Node::start();
    let proxy = Proxy::start(&node.url);
    let mut slowest = Duration::ZERO;
    let (mut failed, mut recovered, mut bytes) = (0, 0, 0);
    loop {
        proxy.cut_after(bytes);
        let start = Instant::now();
        let before = proxy.opened();
        let outcome = node.hello(["send", "-u", &proxy.url, "x"]).run();
        slowest = slowest.max(start.elapsed());
        match outcome.status() {
            0 if proxy.opened() == before + 1 => break,
            0 => recovered += 1,
            69 => {
                failed += 1;
                outcome.failed(69, &["it closed the connection", "0 of 1 confirmed"]);
            }
            _ => panic!("after {bytes} bytes: {outcome:?}"),
        }
        bytes += 1;
    }
    println!(
        "cut after each of {bytes} bytes: {failed} sends ended with 69 before the login was done, \
         {recovered} were sent on a second connection; slowest {slowest:?}"
    );
    assert!(failed > 100 && recovered > 20);
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
}

#[test]
fn a_network_that_freezes_for_good_is_noticed_by_default_within_20_seconds() {
    let node = Node::start();
    for verb in ["receive", "send"] {
        let proxy = Proxy::start(&node.url);
        node.hello(["declare", "f"]).run();
        let running = match verb {
            "send" => {
                proxy.freeze_after_open();
                node.hello([
                    "send",
                    "--no-declare",
                    "-q",
                    "f",
                    "--retry-for",
                    "0s",
                    "-u",
                    &proxy.url,
                    "x",
                ])
                .spawn()
            }
            _ => {
                let mut receiver = node
                    .hello(["receive", "--no-reconnect", "f", "-u", &proxy.url])
                    .spawn();
                receiver.expect("CTRL+C\n");
                proxy.freeze();
                receiver
            }
        };
        let start = Instant::now();
        let outcome = running.end();
        let time = start.elapsed();
        outcome.failed(69, &["no data from the broker for 20s (two heartbeats)"]);
        println!("frozen network: noticed by {verb} after {time:?}");
        // The library looks at its timers every so often; the last byte may be 10 s old.
        assert!(
            time > Duration::from_secs(8) && time < Duration::from_secs(23),
            "{time:?}"
        );
    }
}

#[test]
fn a_disk_that_is_full() {
    let files = Files::new();
    let directory = files.write("mnt/.keep", "").parent().unwrap().to_owned();
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let mount = |line: &str| {
        Command::new("bash")
            .args(["-c", line])
            .status()
            .unwrap()
            .success()
    };
    let mut node = Node::start();
    node.declare_durable("d");
    let part = numbers(20_000);
    node.hello(send("d", &["--quiet"], &part)).run().printed("");
    let mut seen = Vec::new();
    if is_root {
        assert!(mount(&format!(
            "mount -t tmpfs -o size=64k none {}",
            directory.display()
        )));
        let file = directory.join("out");
        let line = format!("$H receive --quiet d >{}", file.display());
        let outcome = shell(&line).env("HELLO_MQ_URL", &node.url).run();
        outcome.failed(74, &["no space left on device", "back in queue 'd'"]);
        seen = printed(&fs::read_to_string(&file).unwrap(), " [x] Received '");
        assert!(mount(&format!("umount {}", directory.display())));
    } else {
        println!("not root: a full tmpfs was not tried, only /dev/full");
        shell("$H receive --quiet d >/dev/full")
            .env("HELLO_MQ_URL", &node.url)
            .run()
            .failed(74, &["no space left"]);
    }
    let written = seen.len();
    seen.extend(drained(&mut node.observer(), "d"));
    row(
        "full disk",
        "receive",
        20_000,
        &count(20_000, seen),
        Duration::ZERO,
    );
    println!("full disk: {written} lines fitted");
}

#[test]
fn a_reader_that_stops_reading_for_a_minute() {
    let mut node = Node::start();
    node.declare_durable("d");
    let lines = numbers(MESSAGES).join("\n");
    node.hello(["send", "-q", "d", "--persistent", "--quiet", "-l"])
        .stdin(lines)
        .run()
        .printed("");
    let mut receiver = node
        .hello(["receive", "--quiet", "--heartbeat", "5s", "d"])
        .spawn();
    let reader = BufReader::new(receiver.stop_reading());
    thread::sleep(Duration::from_secs(1));
    let before = receiver.peak_memory();
    thread::sleep(Duration::from_secs(60));
    let after = receiver.peak_memory();
    println!(
        "a reader that stalls for a minute: peak memory {before} KiB before, {after} KiB after"
    );
    assert!(after < 32 * 1024 && after < before + 1024);
    assert!(
        receiver.said().is_empty(),
        "the connection did not last: {:?}",
        receiver.said()
    );
    let seen: Vec<u32> = reader
        .lines()
        .map_while(Result::ok)
        .take(MESSAGES as usize)
        .map(|line| {
            line.trim_start_matches(" [x] Received '")
                .trim_end_matches('\'')
                .parse()
                .unwrap()
        })
        .collect();
    row(
        "stalled reader",
        "receive",
        MESSAGES,
        &count(MESSAGES, seen),
        Duration::ZERO,
    );
    receiver.stop(Signal::SIGINT);
}

/// What makes a queue a quorum queue.
#[test]
fn a_command_that_takes_longer_than_the_broker_waits_for_what_it_writes() {
    let node = Node::start();
    let files = Files::new();
    let body = files.write("body", &"x".repeat(4 << 20));
    let (queue, file) = ("slow", body.to_str().unwrap());
    let sent = node.hello(["send", "--quiet", "-q", queue, "--count", "16", "-f", file]);
    sent.run().printed("");
    // RabbitMQ's send_timeout is 15 s, and more messages are sent ahead than are held for a reader.
    let mark = files.write("mark", "");
    let script = format!(
        "wc -c; test -e {0} || exit 0; rm {0}; sleep 40",
        mark.display()
    );
    let command = ["receive", "-c", "16", queue, "--", "sh", "-c", &script];
    let outcome = node.hello(command).run();
    assert!(!mark.exists());
    outcome.printed(&format!("{}\n", 4 << 20).repeat(16));
}

fn quorum() -> QueueDeclareOptions {
    let mut arguments = FieldTable::new();
    arguments.insert(
        "x-queue-type".to_owned(),
        AmqpValue::LongString("quorum".to_owned()),
    );
    QueueDeclareOptions {
        durable: true,
        arguments,
        ..QueueDeclareOptions::default()
    }
}

#[test]
fn a_cluster_whose_leader_is_killed() {
    let mut node = Node::cluster(3);
    let mut observer = node.observer();
    let channel = observer.channel();
    channel.queue_declare("quorum", quorum()).unwrap();
    drop(channel);
    drop(observer);
    let hosts: Vec<String> = node
        .hosts
        .iter()
        .flat_map(|host| ["--host".to_owned(), host.clone()])
        .collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let files = Files::new();
    let lines = files.write("lines", &numbers(20_000).join("\n"));
    let mut arguments = vec![
        "send",
        "-q",
        "quorum",
        "--persistent",
        "-l",
        "-f",
        lines.to_str().unwrap(),
        "--rate",
        "5000",
        "--retry-for",
        "60s",
    ];
    arguments.extend(&hosts);
    let mut sender = node.hello(&arguments).spawn();
    sender.collect();
    thread::sleep(Duration::from_millis(300));
    // The first node: it was declared there, so it leads, and it is what the sender talks to.
    let killed = Instant::now();
    node.tool("broker-kill 1");
    let _ = sender.has_said("reconnected to ", 1);
    let said = sender.said();
    let outcome = sender.end();
    let silence = longest_silence(&[killed], &said);
    // While the other nodes elect a leader the broker may refuse messages, which are sent again.
    assert_eq!(outcome.status(), 0, "{}", outcome.stderr);
    assert!(
        said.iter()
            .any(|(_, line)| line.contains("reconnected to ")),
        "it was over before the fault: {said:?}"
    );
    assert_eq!(outcome.stdout, " [x] Sent 20000 messages\n");
    node.tool("broker-start 1");

    let mut receive = vec![
        "receive",
        "--idle-timeout",
        "15s",
        "--prefetch",
        "20",
        "quorum",
    ];
    receive.extend(&hosts);
    let mut receiver = node.hello(&receive).spawn();
    receiver.collect();
    thread::sleep(Duration::from_millis(300));
    let killed = Instant::now();
    // Whoever leads now, and whomever the receiver talks to.
    node.tool("broker-kill 1");
    let _ = receiver.has_said("reconnected to ", 1);
    node.tool("broker-start 1");
    node.tool("broker-kill 2");
    node.tool("broker-start 2");
    let said = receiver.said();
    let outcome = receiver.end();
    assert_eq!(outcome.status(), 0, "{}", outcome.stderr);
    let numbers = printed(&outcome.stdout, " [x] Received '");
    let count = count(20_000, numbers);
    let sent = 20_000;
    row(
        "leader of a quorum queue killed",
        "send",
        sent,
        &count,
        silence,
    );
    let silence = longest_silence(&[killed], &said);
    row(
        "leader of a quorum queue killed",
        "receive",
        sent,
        &count,
        silence,
    );
}

#[test]
fn a_forwarder_that_is_killed_and_whose_broker_is() {
    let mut node = Node::start();
    let files = Files::new();
    let lines = files.write("lines", &numbers(20_000).join("\n"));
    node.declare_durable("to");
    node.declare_durable("from");
    node.hello([
        "send",
        "-q",
        "from",
        "--persistent",
        "--quiet",
        "-l",
        "-f",
        lines.to_str().unwrap(),
    ])
    .run()
    .printed("");
    let forward = |node: &Node, more: &[&str]| {
        let mut arguments = vec!["receive", "--forward-to", ":to", "--prefetch", "8", "from"];
        arguments.extend(more);
        node.hello(&arguments)
    };
    for _ in 0..20 {
        let forwarder = forward(&node, &[]).spawn();
        thread::sleep(Duration::from_millis(random(150)));
        forwarder.stop(Signal::SIGKILL);
    }
    // Two connections are lost and got back each time.
    let mut forwarder = forward(&node, &["--idle-timeout", "10s"]).spawn();
    let happened = again_and_again(&mut forwarder, 6, Duration::from_millis(80), || {
        node.tool("broker-kill");
        node.tool("broker-start");
    });
    let said = forwarder.said();
    let outcome = forwarder.end();
    outcome_is_disturbed(happened.len() > 2, &outcome);
    let mut observer = node.observer();
    assert_eq!(observer.messages("from"), 0);
    row(
        "kill -9 of broker and hello-mq",
        "forward",
        20_000,
        &count(20_000, drained(&mut observer, "to")),
        longest_silence(&happened, &said),
    );
}

#[test]
fn a_forwarder_between_two_brokers_that_are_killed() {
    let (mut old, mut new) = (Node::start(), Node::start());
    let files = Files::new();
    let lines = files.write("lines", &numbers(20_000).join("\n"));
    old.declare_durable("q");
    new.declare_durable("q");
    old.hello(["send", "-q", "q", "--persistent", "--quiet", "-l", "-f"])
        .args([&lines])
        .run()
        .printed("");
    let there = new.url.clone();
    let forward = |old: &Node, more: &[&str]| {
        old.hello(["receive", "--forward-to", ":q", "--to-url", &there])
            .args(["--prefetch", "8", "q"])
            .args(more)
    };
    for _ in 0..20 {
        let forwarder = forward(&old, &[]).spawn();
        thread::sleep(Duration::from_millis(random(150)));
        forwarder.stop(Signal::SIGKILL);
    }
    let mut forwarder = forward(&old, &["--idle-timeout", "10s"]).spawn();
    let mut round = 0;
    let happened = again_and_again(&mut forwarder, 6, Duration::from_millis(80), || {
        let node = if round % 2 == 0 { &mut old } else { &mut new };
        round += 1;
        node.tool("broker-kill");
        node.tool("broker-start");
    });
    let said = forwarder.said();
    let outcome = forwarder.end();
    outcome_is_disturbed(happened.len() > 2, &outcome);
    assert_eq!(old.observer().messages("q"), 0);
    row(
        "kill -9 of both brokers and hello-mq",
        "forward to another broker",
        20_000,
        &count(20_000, drained(&mut new.observer(), "q")),
        longest_silence(&happened, &said),
    );
}

#[test]
fn a_chooser_whose_broker_is_killed() {
    let mut node = Node::start();
    let files = Files::new();
    let lines = files.write("lines", &numbers(20_000).join("\n"));
    let is_match = |number: &u32| number % 7 == 0;
    for kind in ["classic", "quorum"] {
        let declare = ["declare", "--quiet", "--durable", "--type", kind, kind];
        node.hello(declare).run().printed("");
        node.hello(["send", "--persistent", "--quiet", "--no-declare", "-l"])
            .args(["-r", kind, "-f", lines.to_str().unwrap()])
            .run()
            .printed("");
    }
    // What a node that was killed soon after has forgotten.
    node.tool("rabbitmqctl -q eval mnesia:sync_log().");
    thread::sleep(Duration::from_secs(6));
    for kind in ["classic", "quorum"] {
        let receive = ["receive", "--no-declare", "--drain", "--where"];
        let mut chooser = node
            .hello(receive)
            .args(["(.payload | tonumber) % 7 == 0", kind])
            .spawn();
        let happened = again_and_again(&mut chooser, times(3), Duration::from_millis(300), || {
            node.tool("broker-kill");
            node.tool("broker-start");
        });
        let said = chooser.said();
        let outcome = chooser.end();
        outcome_is_disturbed(!happened.is_empty(), &outcome);
        let left = drained(&mut node.observer(), kind);
        assert!(!left.iter().any(is_match), "{kind}: a match was left");
        let others = (0..20_000).filter(|number| !is_match(number));
        // A quorum queue may deliver some before it notices that those of the lost connection are back.
        let mut left_in_order = left.clone();
        if kind == "quorum" {
            left_in_order.sort_unstable();
        }
        assert!(left_in_order.into_iter().eq(others), "{kind}: others");
        let all = printed(&outcome.stdout, " [x] Received '");
        assert!(all.iter().all(is_match));
        row(
            "kill -9 of the broker",
            &format!("choose from a {kind} queue"),
            20_000,
            &count(20_000, all.into_iter().chain(left)),
            longest_silence(&happened, &said),
        );
    }
}

#[test]
fn two_hundred_signals_on_each_verb() {
    let node = Node::start();
    let part = numbers(2_000);
    let unprepared = |outcome: &Outcome| outcome.status() == -1 && outcome.stdout.is_empty();
    let signal = || {
        if random(2) == 0 {
            Signal::SIGINT
        } else {
            Signal::SIGTERM
        }
    };
    let mut slowest = Duration::ZERO;

    // A send that is stopped before it has declared its queue leaves nothing to count in.
    node.hello(["declare", "s"]).run();
    let mut ends = BTreeMap::<(&str, i32), u32>::new();
    let (mut confirmed, mut in_queue) = (0, 0);
    for _ in 0..200 {
        let running = node.hello(["declare", "s"]).spawn();
        thread::sleep(Duration::from_micros(random(6_000)));
        let (outcome, time) = running.stop(signal());
        assert!(
            unprepared(&outcome) || matches!(outcome.status(), 0 | 130),
            "{outcome:?}"
        );
        *ends.entry(("declare", outcome.status())).or_default() += 1;
        slowest = slowest.max(time);

        let running = node.hello(send("s", &[], &part)).spawn();
        thread::sleep(Duration::from_micros(random(60_000)));
        let (outcome, time) = running.stop(signal());
        assert!(
            unprepared(&outcome) || matches!(outcome.status(), 0 | 130),
            "{outcome:?}"
        );
        if outcome.status() == 130 {
            assert!(outcome.stderr.contains(" of 2000 confirmed"), "{outcome:?}");
        }
        // What is said to be sent is there.
        let said = printed(&outcome.stdout, " [x] Sent '");
        let there = drained(&mut node.observer(), "s");
        assert!(
            said.iter().all(|number| there.contains(number)),
            "{outcome:?}"
        );
        confirmed += said.len();
        in_queue += there.len();
        *ends.entry(("send", outcome.status())).or_default() += 1;
        slowest = slowest.max(time);
    }
    println!(
        "200 signals each: {ends:?}; {confirmed} messages said to be sent, {in_queue} found; slowest end {slowest:?}"
    );
    assert!(confirmed <= in_queue);
    assert!(slowest < Duration::from_secs(3), "{slowest:?}");
}

/// Sends what is to be interrupted, `messages` numbers from `from` on.
fn refill(node: &Node, queue: &str, from: u32, messages: u32) {
    let numbers: Vec<_> = (from..from + messages).map(|n| n.to_string()).collect();
    node.hello(["send", "--quiet", "-l", "-q", queue])
        .stdin(numbers.join("\n"))
        .run()
        .printed("");
}

#[test]
fn ten_thousand_ctrl_c_in_a_burst_under_load_lose_nothing_and_nothing_hangs() {
    const MESSAGES: u32 = 20_000;
    let interrupts = match times(0) {
        0 => 10_000,
        few => 500 * u32::try_from(few).unwrap(),
    };
    let seed = std::env::var("HELLO_MQ_TEST_SEED").map_or_else(
        |_| RandomState::new().build_hasher().finish(),
        |seed| seed.parse().unwrap(),
    );
    println!("HELLO_MQ_TEST_SEED={seed}");
    let mut random = Random(seed);
    let node = Node::start();
    let queue = "interrupted";
    node.hello(["declare", queue]).run();
    refill(&node, queue, 0, MESSAGES);
    let mut sent = MESSAGES;

    let is_over = Arc::new(AtomicBool::new(false));
    let load = {
        let is_over = Arc::clone(&is_over);
        thread::spawn(move || while !is_over.load(Ordering::Relaxed) {})
    };
    // How long it takes to begin depends on the machine, and on what else it does.
    let begin = (0..5).map(|_| {
        node.hello(["send", "-q", "other", "x"]).run();
        let start = Instant::now();
        node.hello(["receive", "-c", "1", "other"]).run();
        start.elapsed()
    });
    let longest = 2 * u64::try_from(begin.max().unwrap().as_micros()).unwrap();

    let mut lines_seen = Vec::new();
    let mut slowest = Duration::ZERO;
    let (mut unprepared, mut interrupted_in_burst, mut torn) = (0, 0, 0);
    for _ in 0..interrupts {
        if sent - u32::try_from(lines_seen.len()).unwrap() < MESSAGES / 2 {
            refill(&node, queue, sent, MESSAGES);
            sent += MESSAGES;
        }
        // One message at a time makes a burst last; many at a time leave many to be given back.
        let prefetch = match random.below(20) {
            0 => "256",
            1..10 => "2",
            _ => "1",
        };
        let receiver = node
            .hello(["receive", "--prefetch", prefetch, queue])
            .spawn();
        thread::sleep(Duration::from_micros(random.below(longest)));
        let signal = if random.below(2) == 0 {
            Signal::SIGINT
        } else {
            Signal::SIGTERM
        };
        let (outcome, time) = receiver.stop(signal);
        if outcome.status() == -1 && outcome.stdout.is_empty() {
            // It came before hello-mq could catch it: an end like any process's.
            unprepared += 1;
            continue;
        }
        assert_eq!((outcome.status(), outcome.stderr.as_str()), (0, ""));
        slowest = slowest.max(time);
        let lines = printed(&outcome.stdout, " [x] Received '");
        let header = outcome
            .stdout
            .lines()
            .filter(|line| line.starts_with(" [*] Waiting"))
            .count();
        torn += outcome.stdout.lines().count() - header - lines.len();
        interrupted_in_burst += u32::from(!lines.is_empty());
        lines_seen.extend(lines);
    }
    is_over.store(true, Ordering::Relaxed);
    load.join().unwrap();

    let printed = lines_seen.len();
    let in_queue = drained(&mut node.observer(), queue);
    let left = in_queue.len();
    lines_seen.extend(in_queue);
    let count = count(sent, lines_seen);
    println!(
        "{interrupts} interrupts: {interrupted_in_burst} in the middle of a burst, {unprepared} before the program was \
         ready; {printed} lines printed, {left} messages left in the queue, {} lost, {} twice, {torn} torn lines; \
         slowest end {slowest:?}",
        count.lost, count.twice,
    );
    assert_eq!((count.lost, count.twice, torn), (0, 0, 0));
    assert!(
        interrupted_in_burst > interrupts / 4,
        "the interrupts came too early to mean anything"
    );
}
