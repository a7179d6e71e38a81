//! What is lost comes back: connections, and with them every message.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use amiquip::QueueDeleteOptions;
use nix::sys::signal::Signal;

use crate::support::{Node, Observer, Proxy, hello, queue, shell, url};

fn numbers(end: u32) -> Vec<String> {
    (0..end).map(|n| n.to_string()).collect()
}

fn send<'a>(queue: &'a str, numbers: &'a [String]) -> impl Iterator<Item = &'a str> {
    // A busy machine takes its time to start a broker.
    ["send", "--retry-for", "3m", "--persistent", "-q", queue]
        .into_iter()
        .chain(numbers.iter().map(String::as_str))
}

#[test]
fn a_send_goes_on_when_the_broker_is_back_and_loses_nothing() {
    let mut node = Node::start();
    node.declare_durable("d");
    let numbers = numbers(20_000);
    let mut sender = node.hello(send("d", &numbers)).spawn();
    // What never was connected would not be connected again.
    sender.expect("Sent '0'\n");
    sender.collect();
    node.tool("broker-kill");
    node.tool("broker-start");
    let outcome = sender.end();
    assert_eq!(outcome.status(), 0, "{}", outcome.stderr);
    let lines: Vec<_> = outcome.stderr.lines().collect();
    assert_eq!(
        lines.len(),
        2,
        "one line for the loss and one for the return: {lines:?}"
    );
    assert!(lines[0].starts_with("hello-mq: lost the connection to amqp://guest@127.0.0.1:"));
    assert!(lines[0].ends_with("; reconnecting"));
    assert!(
        lines[1].starts_with("hello-mq: reconnected to amqp://guest@127.0.0.1:"),
        "{lines:?}"
    );
    assert!(outcome.stdout.ends_with(" [x] Sent 20000 messages\n"));

    // Each number is there; what is there twice has the same message-id; the order is kept.
    let mut observer = node.observer();
    let channel = observer.channel();
    let mut ids = BTreeMap::<u32, String>::new();
    let mut firsts = Vec::new();
    while let Some(got) = channel.basic_get("d", true).unwrap() {
        let number: u32 = String::from_utf8(got.delivery.body)
            .unwrap()
            .parse()
            .unwrap();
        let id = got
            .delivery
            .properties
            .message_id()
            .clone()
            .expect("a message-id");
        match ids.get(&number) {
            Some(first) => assert_eq!(first, &id),
            None => {
                firsts.push(number);
                ids.insert(number, id);
            }
        }
    }
    assert!(
        firsts.iter().copied().eq(0..20_000),
        "in order, none missing"
    );
    assert_eq!(ids.values().collect::<BTreeSet<_>>().len(), 20_000);
}

#[test]
fn a_receive_goes_on_when_the_broker_is_back_and_loses_nothing() {
    let mut node = Node::start();
    node.declare_durable("d");
    let numbers = numbers(20_000);
    node.hello(send("d", &numbers)).run();
    let mut receiver = node
        .hello(["receive", "--prefetch", "1", "--drain", "d"])
        .spawn();
    let before = receiver.expect("Received '0'\n");
    receiver.collect();
    node.tool("broker-stop");
    node.tool("broker-start");
    let outcome = receiver.end();
    assert_eq!(outcome.status(), 0, "{}", outcome.stderr);
    let lines: Vec<_> = outcome.stderr.lines().collect();
    assert_eq!(
        lines.len(),
        2,
        "one line for the loss and one for the return: {lines:?}"
    );
    assert!(lines[0].contains("CONNECTION_FORCED"), "{lines:?}");
    let stdout = before + &outcome.stdout;
    assert_eq!(stdout.matches("Waiting for messages").count(), 1);
    let numbers: BTreeSet<u32> = stdout
        .lines()
        .filter_map(|line| {
            line.strip_prefix(" [x] Received '")?
                .strip_suffix('\'')?
                .parse()
                .ok()
        })
        .collect();
    assert_eq!(numbers.len(), 20_000);
    assert_eq!(node.observer().messages("d"), 0);
}

#[test]
fn a_transient_queue_is_declared_again() {
    let mut node = Node::start();
    let mut receiver = node.hello(["receive", "-c1", "t"]).spawn();
    receiver.expect("CTRL+C\n");
    node.tool("broker-stop");
    node.tool("broker-start");
    node.hello(["send", "-q", "t", "after"])
        .run()
        .printed(" [x] Sent 'after'\n");
    let outcome = receiver.end();
    assert_eq!(
        (outcome.status(), outcome.stdout.as_str()),
        (0, " [x] Received 'after'\n"),
        "{outcome:?}"
    );
}

#[test]
fn that_a_queue_is_gone_with_its_broker_is_said() {
    let mut node = Node::start();
    node.hello(["declare", "gone"]).run();
    let mut sender = node
        .hello(["send", "--retry-for", "3m", "-q", "gone"])
        .args(["--rate", "50", "-c", "300", "a"])
        .spawn();
    node.observer().reaches("gone", 10);
    node.tool("broker-kill");
    node.tool("broker-start");
    assert!(sender.has_said("reconnected to", 1));
    let outcome = sender.end();
    assert_eq!(outcome.status(), 0, "{outcome:?}");
    let said = "queue 'gone' and its messages are lost; declaring it again";
    assert_eq!(outcome.stderr.matches(said).count(), 1, "{outcome:?}");

    // A durable one is not gone, and nothing is said. (A broker that is killed may forget even
    // that it was declared a moment ago.)
    node.declare_durable("kept");
    let mut sender = node
        .hello(["send", "--retry-for", "3m", "-q", "kept", "--persistent"])
        .args(["--rate", "50", "-c", "300", "a"])
        .spawn();
    node.observer().reaches("kept", 10);
    node.tool("broker-stop");
    node.tool("broker-start");
    assert!(sender.has_said("reconnected to", 1));
    let outcome = sender.end();
    assert_eq!(outcome.status(), 0, "{outcome:?}");
    assert!(!outcome.stderr.contains("are lost"), "{outcome:?}");
}

#[test]
fn a_message_that_was_refused_before_the_connection_was_lost_is_sent_again() {
    let (full, other) = (queue("full"), queue("other"));
    hello([
        "declare",
        "--max-length",
        "1",
        "--overflow",
        "reject-publish",
    ])
    .args([&full])
    .run();
    hello(["declare", &other]).run();
    hello(["send", "--no-declare", "-q", &full, "first"]).run();
    let proxy = Proxy::start(&url());
    proxy.freeze_after_nack();
    let mut lines = vec![format!(r#"{{"routing_key":"{full}","payload":"refused"}}"#)];
    lines.extend((0..500).map(|n| format!(r#"{{"routing_key":"{other}","payload":"{n}"}}"#)));
    let sender = hello(["send", "--quiet", "--jsonl"])
        .env("HELLO_MQ_URL", &proxy.url)
        .stdin(lines.join("\n"))
        .spawn();
    proxy.wait_until_frozen();
    let mut observer = Observer::new();
    assert_eq!(observer.drain(&full), ["first"]);
    proxy.thaw();
    proxy.cut();
    let outcome = sender.end();
    assert_eq!(outcome.status(), 0, "{outcome:?}");
    assert_eq!(observer.drain(&full), ["refused"], "{outcome:?}");
    let others: BTreeSet<_> = observer.drain(&other).into_iter().collect();
    assert_eq!(others.len(), 500, "{outcome:?}");
}

#[test]
fn retry_for_bounds_the_attempts() {
    let mut node = Node::start();
    let run = |node: &mut Node, retry_for: &str| {
        node.raise_memory_alarm();
        let mut sender = node
            .hello(["send", "--retry-for", retry_for, "a", "b"])
            .spawn();
        // The messages are on their way.
        assert!(sender.has_said("accepts no messages", 1));
        let start = Instant::now();
        node.tool("broker-kill");
        let outcome = sender.end();
        let time = start.elapsed();
        node.tool("broker-start");
        (outcome, time)
    };
    let (outcome, time) = run(&mut node, "2s");
    outcome.failed(
        69,
        &[
            "lost the connection to",
            "could not reconnect within 2s: cannot reach",
            "not confirmed: messages 1 to 2; 0 of 2 confirmed",
        ],
    );
    assert!(
        time > Duration::from_secs(1) && time < Duration::from_secs(6),
        "{time:?}"
    );
    let (outcome, time) = run(&mut node, "0s");
    outcome.failed(
        69,
        &[
            "lost the connection to",
            "not confirmed: messages 1 to 2; 0 of 2 confirmed",
        ],
    );
    assert!(!outcome.stderr.contains("reconnecting"));
    assert!(time < Duration::from_secs(4), "{time:?}");
}

#[test]
fn a_lost_connection_does_not_hide_that_the_input_is_malformed() {
    let mut node = Node::start();
    node.raise_memory_alarm();
    let lines = "{\"payload\":\"a\"}\n{\"payload\":\"b\"}\n{bad\n{\"payload\":\"c\"}\n";
    let mut sender = node.hello(["send", "--jsonl"]).stdin(lines).spawn();
    assert!(sender.has_said("accepts no messages", 1));
    node.tool("rabbitmqctl -q close_all_connections bye");
    assert!(sender.has_said("reconnected", 1));
    node.clear_memory_alarm();
    sender.end().failed(
        65,
        &[
            "line 3 of standard input: is not JSON",
            "nothing after line 2",
            "2 confirmed",
        ],
    );
    assert_eq!(node.observer().drain("hello"), ["a", "b"]);
}

#[test]
fn what_is_refused_for_good_ends_the_attempts() {
    let mut node = Node::start();
    node.tool("rabbitmqctl -q add_user somebody s3cret");
    node.tool("rabbitmqctl -q set_permissions somebody .* .* .*");
    let url = node.url.replace("guest:guest", "somebody:s3cret");
    let mut receiver = node
        .hello(["receive", "q"])
        .env("HELLO_MQ_URL", &url)
        .spawn();
    receiver.expect("CTRL+C\n");
    node.tool("rabbitmqctl -q change_password somebody other");
    node.tool("rabbitmqctl -q close_all_connections bye");
    receiver.end().failed(
        77,
        &[
            "CONNECTION_FORCED - bye",
            "refused the connection: ACCESS_REFUSED",
        ],
    );
}

#[test]
fn wait_waits_for_a_broker_that_is_not_up_yet() {
    let mut node = Node::start();
    node.tool("broker-kill");
    node.hello(["declare"])
        .run()
        .failed(69, &["connection refused"]);
    let start = Instant::now();
    node.hello(["declare", "--wait", "1s"])
        .run()
        .failed(69, &["waiting up to 1s", "connection refused"]);
    assert!(start.elapsed() >= Duration::from_secs(1) && start.elapsed() < Duration::from_secs(5));
    let waiting = [
        node.hello(["declare", "--wait", "1m"]).spawn(),
        node.hello(["send", "--wait", "1m", "x"]).spawn(),
        node.hello(["receive", "--wait", "1m", "-c1"]).spawn(),
    ];
    let (outcome, time) = node
        .hello(["receive", "--wait", "1m"])
        .spawn()
        .stop(Signal::SIGKILL);
    assert!(outcome.status() == -1 && time < Duration::from_secs(1));
    node.tool("broker-start");
    for running in waiting {
        let outcome = running.end();
        assert_eq!(outcome.status(), 0, "{outcome:?}");
    }
    node.hello(["declare", "--wait", "1m", "--vhost", "nope"])
        .run()
        .failed(77, &["vhost nope not found"]);
}

#[test]
fn the_next_host_is_tried() {
    let node = Node::start();
    let (first, second) = (Proxy::start(&node.url), Proxy::start(&node.url));
    let host = |proxy: &Proxy| proxy.url.trim_start_matches("amqp://").to_owned();
    let hosts = [
        "--host",
        "127.0.0.1:1",
        "--host",
        &host(&first),
        "--host",
        &host(&second),
    ];
    node.hello(["send", "x"].iter().chain(&hosts))
        .run()
        .printed(" [x] Sent 'x'\n");
    assert_eq!((first.opened(), second.opened()), (1, 0));

    // The one that is in use is lost, and can't be had again.
    let mut receiver = node
        .hello(
            ["receive", "other", "-c1", "--connect-timeout", "2s"]
                .iter()
                .chain(&hosts),
        )
        .spawn();
    receiver.expect("CTRL+C\n");
    first.freeze();
    first.cut();
    while second.opened() == 0 {
        thread::sleep(Duration::from_millis(20));
    }
    node.hello(["send", "-q", "other", "y"])
        .run()
        .printed(" [x] Sent 'y'\n");
    let outcome = receiver.end();
    assert_eq!(
        (outcome.status(), outcome.stdout.as_str()),
        (0, " [x] Received 'y'\n"),
        "{outcome:?}"
    );
    assert!(outcome.stderr.contains(&format!(
        "reconnected to amqp://guest@{}/ after",
        host(&second)
    )));

    node.hello([
        "declare",
        "--host",
        "127.0.0.1:1",
        "--host",
        "no-such-host.invalid",
    ])
    .run()
    .failed(
        69,
        &[
            "amqp://guest@127.0.0.1:1,no-such-host.invalid:",
            "connection refused (127.0.0.1:1); unknown host name",
        ],
    );
}

#[test]
fn a_connection_that_is_cut_in_the_middle_of_a_frame_comes_back() {
    let proxy = Proxy::start(&url());
    let queue = queue("cut");
    let numbers = numbers(10_000);
    for bytes in [1, 7, 700, 100_001] {
        proxy.cut_after(bytes);
        let outcome = hello(send(&queue, &numbers))
            .env("HELLO_MQ_URL", &proxy.url)
            .run();
        // Cut before the login is done, it is no connection that was lost.
        if proxy.opened() == 1 || bytes < 1000 && outcome.status() != 0 {
            outcome.failed(69, &["it closed the connection while waiting for its"]);
        } else {
            assert_eq!(outcome.status(), 0, "{}", outcome.stderr);
        }
    }
    proxy.cut_after(i64::MAX);
    Observer::new().drain(&queue);
    hello(send(&queue, &numbers)).run();
    proxy.cut_after(100_003);
    let outcome = hello(["receive", "--quiet", "--drain", &queue])
        .env("HELLO_MQ_URL", &proxy.url)
        .run();
    assert_eq!(outcome.status(), 0, "{}", outcome.stderr);
    assert_eq!(
        outcome.stdout.lines().collect::<BTreeSet<_>>().len(),
        10_000
    );
    Observer::new().settles_at(&queue, 0);
}

#[test]
fn a_consumer_that_the_broker_cancels_says_so_and_ends() {
    let queue = queue("deleted");
    let mut receiver = hello(["receive", &queue]).spawn();
    receiver.expect("CTRL+C\n");
    let mut observer = Observer::new();
    observer
        .channel()
        .queue_delete(&*queue, QueueDeleteOptions::default())
        .unwrap();
    let start = Instant::now();
    receiver
        .end()
        .failed(67, &[&format!("cancelled the consumer of queue '{queue}'")]);
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_confirm_that_does_not_come_is_waited_for_only_so_long() {
    let mut node = Node::start();
    node.raise_memory_alarm();
    let node = &node;
    thread::scope(|scope| {
        // Less than the time between two heartbeats, and more.
        for patience in [2, 3, 8] {
            scope.spawn(move || {
                let start = Instant::now();
                let timeout = format!("{patience}s");
                let mut sender = node
                    .hello(["send", "--confirm-timeout", &timeout, "a"])
                    .spawn();
                let patience = Duration::from_secs(patience);
                // It has to start and to connect first.
                let noise = Duration::from_millis(1000 + 1500);
                let has_ended = sender.ends_within(patience + noise);
                let time = start.elapsed();
                let said = sender.said();
                assert!(
                    has_ended && time >= patience,
                    "{timeout}: ended: {has_ended}, after {time:?}; it said {said:?}"
                );
                sender.end().failed(
                    75,
                    &[
                        "accepts no messages at the moment (low on memory)",
                        &format!(
                            "has confirmed nothing for {timeout}; not confirmed: the message; \
                             0 of 1 confirmed"
                        ),
                    ],
                );
            });
        }
    });
}

#[test]
fn a_message_that_ends_each_connection_is_not_sent_for_ever() {
    let proxy = Proxy::start(&url());
    // RabbitMQ 3.10 can't decode it, and takes that for an error of its own.
    let reply_to = "amq.rabbitmq.reply-to.g1h2AA9yZXBseUAxMDIzNDU2NwAAAAAAAAAAAAAAAA==.xx";
    let mut sender = hello(["send", "--retry-for", "2s", "-r", reply_to, "x"])
        .env("HELLO_MQ_URL", &proxy.url)
        .spawn();
    let has_ended = sender.ends_within(Duration::from_secs(10));
    let (opened, last) = (proxy.opened(), sender.said().pop());
    assert!(
        has_ended && opened < 10,
        "ended: {has_ended}; {opened} connections; it said last: {last:?}"
    );
    let outcome = sender.end();
    assert_ne!(outcome.status(), 0, "{outcome:?}");
    assert!(outcome.stderr.contains("INTERNAL_ERROR"), "{outcome:?}");
}

#[test]
fn a_receive_that_was_suspended_goes_on() {
    let queue = queue("suspended");
    let mut receiver = hello(["receive", "-c1", "--heartbeat", "2s", &queue]).spawn();
    receiver.expect("CTRL+C\n");
    receiver.signal(Signal::SIGSTOP);
    // Longer than the broker waits for a sign of life.
    thread::sleep(Duration::from_secs(6));
    receiver.signal(Signal::SIGCONT);
    hello(["send", "-q", &queue, "after"])
        .run()
        .printed(" [x] Sent 'after'\n");
    let has_ended = receiver.ends_within(Duration::from_secs(20));
    let said = receiver.said();
    assert!(has_ended, "it said {said:?}");
    let outcome = receiver.end();
    assert_eq!(
        (outcome.status(), outcome.stdout.as_str()),
        (0, " [x] Received 'after'\n"),
        "{outcome:?}"
    );
    // On the old connection there is nothing to say.
    if !outcome.stderr.is_empty() {
        assert!(
            outcome
                .stderr
                .starts_with("hello-mq: lost the connection to")
                && outcome.stderr.contains("\nhello-mq: reconnected to"),
            "{outcome:?}"
        );
    }
}

#[test]
fn a_heartbeat_is_no_progress_of_a_message() {
    let mut node = Node::start();
    node.raise_memory_alarm();
    let line = "timeout -s INT 10 $H send --heartbeat 1s --confirm-timeout 2s a";
    let outcome = shell(line).env("HELLO_MQ_URL", &node.url).run();
    outcome.failed(75, &["has confirmed nothing for 2s; not confirmed"]);
}

#[test]
fn timeouts_end_a_receive_with_their_status() {
    let queue = queue("timeouts");
    hello(["send", "-q", &queue, "1", "2"]).run();
    let timed = |arguments: &[&str]| {
        let start = Instant::now();
        let outcome = hello(["receive", "--quiet", "-q", &queue].iter().chain(arguments)).run();
        (outcome, start.elapsed())
    };
    let about =
        |time: Duration, seconds: f64| (seconds..seconds + 3.0).contains(&time.as_secs_f64());

    let (outcome, time) = timed(&["--timeout", "1s"]);
    outcome.printed(" [x] Received '1'\n [x] Received '2'\n");
    assert!(about(time, 1.0), "{time:?}");
    let (outcome, time) = timed(&["--idle-timeout", "1s"]);
    outcome.printed("");
    assert!(about(time, 1.0), "{time:?}");
    let (outcome, time) = timed(&["--timeout", "1s", "-c", "1"]);
    outcome.failed(1, &["received 0 of 1: timed out (--timeout)"]);
    assert!(about(time, 1.0), "{time:?}");
    let (outcome, _) = timed(&["--idle-timeout", "500ms", "-c", "1"]);
    outcome.failed(
        1,
        &["received 0 of 1: no further message arrived (--idle-timeout)"],
    );

    let (outcome, time) = timed(&["--drain"]);
    outcome.printed("");
    assert!(about(time, 0.0), "{time:?}");
    let all: Vec<String> = numbers(5000);
    hello(send(&queue, &all)).run();
    let (outcome, _) = timed(&["--drain", "--prefetch", "3", "-c", "2000"]);
    assert_eq!(
        (outcome.status(), outcome.stdout.lines().count()),
        (0, 2000)
    );
    let (outcome, _) = timed(&["--drain", "-c", "5000"]);
    assert_eq!(
        (outcome.status(), outcome.stdout.lines().count()),
        (1, 3000)
    );
    assert!(
        outcome
            .stderr
            .contains("received 3000 of 5000: the queue is empty (--drain)")
    );
    hello(send(&queue, &all)).run();
    let (outcome, _) = timed(&["--drain", "--auto-ack"]);
    assert_eq!(
        (outcome.status(), outcome.stdout.lines().count()),
        (0, 5000)
    );
    Observer::new().settles_at(&queue, 0);
}

#[test]
fn the_time_is_up_whatever_the_broker_does() {
    let proxy = Proxy::start(&url());
    let queue = queue("time");
    let timed = |arguments: &[&str]| {
        let start = Instant::now();
        let outcome = hello(["receive", "-q", &queue].iter().chain(arguments))
            .env("HELLO_MQ_URL", &proxy.url)
            .run();
        (outcome.status(), start.elapsed())
    };
    // It does not answer the login; then, any request; then, a farewell.
    proxy.freeze();
    let (status, time) = timed(&["--timeout", "1s"]);
    assert!(
        status == 0 && time < Duration::from_secs(4),
        "{status} {time:?}"
    );
    proxy.thaw();
    let mut receiver = hello(["receive", "-q", &queue, "--timeout", "2s", "-c1"])
        .env("HELLO_MQ_URL", &proxy.url)
        .spawn();
    receiver.expect("CTRL+C\n");
    proxy.freeze();
    let start = Instant::now();
    receiver
        .end()
        .failed(1, &["received 0 of 1: timed out (--timeout)"]);
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    proxy.cut();
    // It is not there at all.
    let (status, time) = timed(&["--timeout", "1s", "--wait", "1m", "--port", "1"]);
    assert!(
        status == 0 && time < Duration::from_secs(4),
        "{status} {time:?}"
    );
}

#[test]
fn a_frozen_network_is_noticed_while_sending_too() {
    let proxy = Proxy::start(&url());
    let queue = queue("frozen");
    hello(["declare", &queue]).run();
    proxy.freeze_after_open();
    let start = Instant::now();
    hello([
        "send",
        "--no-declare",
        "-q",
        &queue,
        "--heartbeat",
        "1s",
        "--retry-for",
        "0s",
        "x",
    ])
    .env("HELLO_MQ_URL", &proxy.url)
    .run()
    .failed(
        69,
        &[
            "no data from the broker for 2s (two heartbeats)",
            "0 of 1 confirmed",
        ],
    );
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "{:?}",
        start.elapsed()
    );
}
