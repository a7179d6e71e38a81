use std::io::{BufRead, BufReader};
use std::thread;
use std::time::Duration;

use amiquip::{FieldTable, QueueDeclareOptions};
use nix::sys::signal::Signal;

use crate::support::{Files, Observer, hello, queue, shell};

const WAITING: &str = " [*] Waiting for messages. To exit press CTRL+C\n";

fn send(queue: &str, messages: &[&str]) {
    let outcome = hello(["send", "--quiet", "-q", queue].iter().chain(messages)).run();
    outcome.printed("");
}

#[test]
fn messages_are_printed_as_in_the_tutorial_until_ctrl_c() {
    let queue = queue("tutorial");
    let mut receiver = hello(["receive", &queue]).spawn();
    assert_eq!(receiver.expect("\n"), WAITING);
    send(&queue, &["Hello World!"]);
    assert_eq!(receiver.expect("\n"), " [x] Received 'Hello World!'\n");
    send(&queue, &["it's\n\u{1b}[2J"]);
    assert_eq!(receiver.expect("\n"), " [x] Received 'it\\'s\\n\\x1b[2J'\n");
    let (outcome, _) = receiver.stop(Signal::SIGINT);
    outcome.printed("");
    Observer::new().settles_at(&queue, 0);
}

#[test]
fn exactly_the_count_is_taken() {
    let queue = queue("count");
    send(&queue, &["1", "2", "3", "4", "5"]);
    let received = |text: &str| format!("{WAITING} [x] Received '{text}'\n");
    hello(["receive", &queue, "-c", "1"])
        .run()
        .printed(&received("1"));
    let mut observer = Observer::new();
    observer.settles_at(&queue, 4);
    hello(["receive", "-q", &queue, "--count", "1", "--auto-ack"])
        .run()
        .printed(&received("2"));
    observer.settles_at(&queue, 3);
    hello(["receive", "--quiet", &queue, "-c3"])
        .run()
        .printed(" [x] Received '3'\n [x] Received '4'\n [x] Received '5'\n");
    observer.settles_at(&queue, 0);
}

#[test]
fn a_count_above_the_prefetch_is_taken_exactly() {
    let queue = queue("prefetch");
    let numbers: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    send(
        &queue,
        &numbers.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    for prefetch in ["1", "2", "7"] {
        let outcome = hello(["receive", &queue, "--prefetch", prefetch, "-c", "11"]).run();
        assert_eq!((outcome.status(), outcome.stdout.lines().count()), (0, 12));
    }
    let mut observer = Observer::new();
    observer.settles_at(&queue, 17);
    assert_eq!(observer.drain(&queue), numbers[33..]);
}

#[test]
fn no_more_than_the_prefetch_is_on_its_way() {
    let queue = queue("ahead");
    send(&queue, &["1", "2", "3", "4", "5"]);
    // A reader that reads nothing of a pipe that is full: nothing is acknowledged.
    let line = "( head -c 65536 /dev/zero; $H receive --quiet $Q --prefetch 2 ) | sleep 3";
    let running = shell(line).env("Q", &queue).spawn();
    Observer::new().settles_at(&queue, 3);
    running.end();
    Observer::new().settles_at(&queue, 5);
}

#[test]
fn a_message_is_acknowledged_only_when_it_is_written() {
    let queue = queue("full-disk");
    send(&queue, &["1", "2", "3"]);
    for prefetch in ["1", "256"] {
        let outcome = shell("$H receive --quiet $Q --prefetch $P >/dev/full")
            .env("Q", &queue)
            .env("P", prefetch)
            .run();
        outcome.failed(
            74,
            &[
                "no space left on device",
                &format!("unwritten messages are back in queue '{queue}'"),
            ],
        );
    }
    let mut observer = Observer::new();
    observer.settles_at(&queue, 3);
    assert_eq!(observer.drain(&queue), ["1", "2", "3"]);
}

#[test]
fn a_full_disk_is_noticed_before_the_first_message() {
    shell("$H receive $Q >/dev/full")
        .env("Q", queue("full"))
        .run()
        .failed(74, &["no space left on device"]);
}

#[test]
fn a_closed_pipe_is_a_good_end_and_loses_nothing() {
    let queue = queue("pipe");
    let numbers: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
    send(
        &queue,
        &numbers.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    let outcome = shell("$H receive --quiet $Q | head -1; exit ${PIPESTATUS[0]}")
        .env("Q", &queue)
        .run();
    assert_eq!((outcome.status(), outcome.stderr.as_str()), (0, ""));
    assert_eq!(outcome.stdout, " [x] Received '0'\n");
    let mut observer = Observer::new();
    thread::sleep(Duration::from_millis(300));
    let left = observer.drain(&queue);
    // What was written into the pipe before it closed counts as written; no gap, no repeat.
    assert_eq!(left, numbers[numbers.len() - left.len()..]);
}

#[test]
fn a_reader_that_leaves_is_noticed_without_a_message() {
    // Nothing is ever sent to this queue.
    let outcome = shell("$H receive $Q | head -1; exit ${PIPESTATUS[0]}")
        .env("Q", queue("leaves"))
        .run();
    assert_eq!(
        (
            outcome.status(),
            outcome.stdout.as_str(),
            outcome.stderr.as_str()
        ),
        (0, WAITING, "")
    );
}

#[test]
fn without_acknowledgements_all_that_was_delivered_is_still_written() {
    let queue = queue("auto-ack");
    let numbers: Vec<String> = (0..5000).map(|n| n.to_string()).collect();
    send(
        &queue,
        &numbers.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    let mut receiver = hello(["receive", "--quiet", "--auto-ack", &queue]).spawn();
    let first = receiver.expect("\n");
    let (outcome, _) = receiver.stop(Signal::SIGINT);
    assert_eq!((outcome.status(), outcome.stderr.as_str()), (0, ""));
    let mut seen: Vec<String> = first
        .lines()
        .chain(outcome.stdout.lines())
        .map(|line| {
            line.trim_start_matches(" [x] Received '")
                .trim_end_matches('\'')
                .to_owned()
        })
        .collect();
    seen.extend(Observer::new().drain(&queue));
    assert_eq!(seen, numbers);
}

/// A queue with so many messages, and who looks at it.
fn filled(name: &str, messages: u32) -> (String, Observer) {
    let queue = queue(name);
    let mut observer = Observer::new();
    let channel = observer.channel();
    channel
        .queue_declare(&*queue, QueueDeclareOptions::default())
        .unwrap();
    for _ in 0..messages {
        channel
            .basic_publish("", amiquip::Publish::new(&[b'x'; 256], &*queue))
            .unwrap();
    }
    observer.settles_at(&queue, messages);
    (queue, observer)
}

#[test]
fn without_acknowledgements_a_slow_reader_pauses_the_broker() {
    let (queue, mut observer) = filled("paused", 200_000);
    let mut receiver = hello(["receive", "--quiet", "--auto-ack", &queue]).spawn();
    receiver.expect("\n");
    let unread = receiver.stop_reading();
    thread::sleep(Duration::from_secs(2));
    let left = observer.messages(&queue);
    assert!(
        left > 100_000,
        "{left} of 200,000 messages are left in the queue"
    );
    // When it is read again, the rest comes.
    let mut lines = BufReader::new(unread).lines();
    let read = lines.by_ref().take(200_000 - 1).map(Result::unwrap).count();
    assert_eq!(read, 200_000 - 1);
    let (outcome, _) = receiver.stop(Signal::SIGINT);
    assert_eq!((outcome.status(), outcome.stderr.as_str()), (0, ""));
    assert!(lines.next().is_none());
}

#[test]
fn big_messages_wait_in_the_broker_for_a_slow_reader() {
    const SIZE: usize = 1 << 20;
    const COUNT: usize = 200;
    let (queue, mut observer) = filled("big", 0);
    let directory = Files::new();
    let body = "x".repeat(SIZE);
    let file = directory.write("body", &body);
    hello(["send", "--quiet", "-q", &queue, "--count"])
        .args([COUNT.to_string().as_str(), "-f", file.to_str().unwrap()])
        .run()
        .printed("");
    // The prefetch allows all of them.
    let mut receiver = hello(["receive", "-o", "body", "--heartbeat", "1s", &queue]).spawn();
    let mut unread = BufReader::new(receiver.stop_reading());
    // Longer than it takes to take a connection for dead on which nothing is read.
    thread::sleep(Duration::from_secs(4));
    let peak = receiver.peak_memory();
    assert!(peak < 64 << 10, "{peak} KiB");
    let mut line = String::new();
    for _ in 0..COUNT {
        line.clear();
        unread.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end().len(), SIZE);
    }
    let peak = receiver.peak_memory();
    assert!(peak < 64 << 10, "{peak} KiB");
    observer.settles_at(&queue, 0);
    let (outcome, _) = receiver.stop(Signal::SIGINT);
    assert_eq!((outcome.status(), outcome.stderr.as_str()), (0, ""));
}

#[test]
fn a_slow_reader_of_big_messages_does_not_keep_the_user_from_leaving() {
    let (queue, mut observer) = filled("big", 0);
    let directory = Files::new();
    let file = directory.write("body", &"x".repeat(1 << 20));
    hello(["send", "--quiet", "-q", &queue, "--count", "100", "-f"])
        .args([file])
        .run()
        .printed("");
    let mut receiver = hello(["receive", "-o", "body", &queue]).spawn();
    let unread = receiver.stop_reading();
    thread::sleep(Duration::from_secs(1));
    let peak = receiver.peak_memory();
    let (outcome, took) = receiver.stop(Signal::SIGINT);
    drop(unread);
    assert_eq!((outcome.status(), outcome.stderr.as_str()), (0, ""));
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert!(peak < 64 << 10, "{peak} KiB");
    observer.settles_at(&queue, 100);
}

#[test]
fn without_acknowledgements_what_nobody_read_is_told() {
    let (queue, mut observer) = filled("unread", 5000);
    let mut receiver = hello(["receive", "--auto-ack", &queue]).spawn();
    receiver.expect(" [x] Received");
    let unread = receiver.stop_reading();
    observer.settles_at(&queue, 0);
    let (outcome, _) = receiver.stop(Signal::SIGINT);
    assert_eq!(outcome.status(), 0);
    drop(unread);
    let lost = outcome
        .stderr
        .strip_prefix("hello-mq: lost messages that were received but not written (--auto-ack): ")
        .unwrap_or_else(|| panic!("{}", outcome.stderr));
    assert!(lost.trim_end().parse::<u32>().unwrap() > 1_000, "{lost}");
}

#[test]
fn an_existing_queue_is_used_as_it_is() {
    let queue = queue("durable");
    hello(["declare", "--durable", &queue]).run();
    send(&queue, &["a"]);
    hello(["receive", "--quiet", &queue, "-c1"])
        .run()
        .printed(" [x] Received 'a'\n");
}

#[test]
fn the_queue_is_made_if_it_is_not_there() {
    let queue = queue("made");
    let mut receiver = hello(["receive", &queue]).spawn();
    receiver.expect(WAITING);
    assert_eq!(Observer::new().messages(&queue), 0);
    hello(["receive", "nowhere", "--no-declare"]).run().failed(
        67,
        &[
            "cannot consume from queue 'nowhere'",
            "NOT_FOUND - no queue 'nowhere' in vhost '/'",
            "hint",
        ],
    );
}

#[test]
fn a_queue_that_is_deleted_ends_it_with_a_word() {
    let queue = queue("deleted");
    let mut receiver = hello(["receive", &queue]).spawn();
    receiver.expect(WAITING);
    let channel = Observer::new().channel();
    drop(channel);
    let mut observer = Observer::new();
    observer
        .channel()
        .queue_delete(&*queue, amiquip::QueueDeleteOptions::default())
        .unwrap();
    receiver.end().failed(
        67,
        &[
            &format!("cancelled the consumer of queue '{queue}'"),
            "the queue was deleted",
        ],
    );
}

#[test]
fn another_connections_own_queue_is_refused_in_the_brokers_words() {
    let queue = queue("locked");
    let mut observer = Observer::new();
    let channel = observer.channel();
    let options = QueueDeclareOptions {
        exclusive: true,
        arguments: FieldTable::new(),
        ..QueueDeclareOptions::default()
    };
    channel.queue_declare(&*queue, options).unwrap();
    hello(["receive", &queue]).run().failed(
        76,
        &[
            "RESOURCE_LOCKED",
            "another connection uses the queue exclusively",
        ],
    );
    // But it can be sent to.
    hello(["send", "-q", &queue, "a"])
        .run()
        .printed(" [x] Sent 'a'\n");
}

#[test]
fn a_slow_reader_is_not_an_idle_queue() {
    let queue = queue("slow");
    let body = "x".repeat(80_000);
    for _ in 0..6 {
        hello(["send", "--quiet", "-q", &queue])
            .stdin(body.clone())
            .run()
            .printed("");
    }
    let line = "$H receive --quiet $Q --prefetch 2 --idle-timeout 600ms | (while read -r line; do sleep 0.5; echo $?; done)";
    let outcome = shell(line).env("Q", &queue).run();
    assert_eq!(outcome.stdout.lines().count(), 6, "{outcome:?}");
    Observer::new().settles_at(&queue, 0);
}

#[test]
fn a_queue_that_another_consumer_has_for_itself_is_told() {
    let queue = queue("exclusive");
    let mut observer = Observer::new();
    let channel = observer.channel();
    channel
        .queue_declare(&*queue, QueueDeclareOptions::default())
        .unwrap();
    let options = amiquip::ConsumerOptions {
        exclusive: true,
        ..amiquip::ConsumerOptions::default()
    };
    let consumer = channel.basic_consume(&*queue, options).unwrap();
    hello(["receive", &queue]).run().failed(
        76,
        &[
            "in exclusive use",
            "another consumer uses the queue exclusively",
        ],
    );
    drop(consumer);
}

#[test]
fn a_body_over_the_brokers_limit_is_refused_in_its_words() {
    // 128 MiB and a byte: more than any series of RabbitMQ takes by default.
    let queue = queue("too-big");
    let outcome = hello(["send", "-q", &queue])
        .stdin(vec![b'x'; (128 << 20) + 1])
        .run();
    outcome.failed(
        76,
        &[
            "cannot publish on",
            "PRECONDITION_FAILED",
            "larger than configured max size",
            "0 of 1 confirmed",
        ],
    );
    assert!(
        !outcome.stderr.contains("to match what exists"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn what_a_type_does_not_have_is_told() {
    crate::support::what_a_type_does_not_have_is_told();
}

#[test]
fn a_look_leaves_what_may_never_go_back() {
    let queue = queue("once");
    hello([
        "declare",
        "--quiet",
        "--type",
        "quorum",
        "--delivery-limit",
        "0",
        &queue,
    ])
    .run();
    hello(["send", "--quiet", "-q", &queue, "a", "b"]).run();
    for _ in 0..2 {
        let outcome = hello(["receive", "--peek", "-o", "body", &queue]).run();
        assert_eq!((outcome.status(), outcome.stdout.as_str()), (0, "a\nb\n"));
        assert!(
            outcome
                .stderr
                .contains("to keep them from being dropped: 2"),
            "{outcome:?}"
        );
    }
}
