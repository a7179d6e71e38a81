//! Requests and replies.

use std::thread;
use std::time::{Duration, Instant};

use amiquip::{AmqpProperties, ConsumerMessage, ConsumerOptions, Publish};
use nix::sys::signal::Signal;

use crate::support::{Observer, Proxy, hello, queue, shell, url};

#[test]
fn any_program_is_a_server() {
    let queue = queue("rpc");
    let server = hello(["receive", "--reply", &queue, "--", "rev"]).spawn();
    hello(["send", "-q", &queue, "--reply-timeout", "5s", "abc"])
        .run()
        .printed(" [x] Sent 'abc'\n [x] Received 'cba'\n");
    // Where replies are data, standard output has nothing else.
    hello([
        "send",
        "-q",
        &queue,
        "--reply-timeout",
        "5s",
        "--format",
        "%s",
        "abc",
    ])
    .run()
    .printed("cba");
    let outcome = hello([
        "send",
        "-q",
        &queue,
        "--reply-timeout",
        "5s",
        "-o",
        "json",
        "--correlation-id",
        "c",
        "x",
    ])
    .run();
    assert!(
        outcome.stdout.contains("\"correlation_id\":\"c\"")
            && outcome.stdout.contains("\"payload\":\"x\""),
        "{outcome:?}"
    );
    let (outcome, _) = server.stop(Signal::SIGINT);
    assert_eq!((outcome.status(), outcome.stderr.as_str()), (0, ""));
    assert_eq!(Observer::new().messages(&queue), 0);
}

#[test]
fn each_of_many_requests_gets_its_own_reply() {
    let queue = queue("rpc-many");
    let script = "sleep 0.0$((RANDOM % 5)); sed s/^/re:/";
    let _server = hello([
        "receive", "--reply", "--jobs", "4", &queue, "--", "bash", "-c", script,
    ])
    .spawn();
    let lines: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    let outcome = hello([
        "send",
        "-q",
        &queue,
        "-l",
        "--reply-timeout",
        "10s",
        "--format",
        "%s\\n",
    ])
    .stdin(lines.join("\n"))
    .run();
    assert_eq!((outcome.status(), outcome.stderr.as_str()), (0, ""));
    let mut replies: Vec<&str> = outcome.stdout.lines().collect();
    replies.sort_unstable();
    let mut expected: Vec<String> = lines.iter().map(|line| format!("re:{line}")).collect();
    expected.sort_unstable();
    assert_eq!(replies, expected);
}

#[test]
fn a_reply_that_does_not_come_is_named() {
    let queue = queue("rpc-none");
    let start = Instant::now();
    let outcome = hello(["send", "-q", &queue, "--reply-timeout", "500ms", "a", "b"]).run();
    outcome.failed(
        1,
        &["no reply to messages 1 to 2 within 500ms (--reply-timeout); 0 answered"],
    );
    assert!(outcome.stdout.ends_with(" [x] Sent 2 messages\n"));
    assert!(start.elapsed() < Duration::from_secs(3));
    hello([
        "send",
        "--no-declare",
        "-q",
        "no-such-queue",
        "--reply-timeout",
        "5s",
        "a",
    ])
    .run()
    .failed(67, &["NO_ROUTE"]);
    let sender = hello(["send", "-q", &queue, "--reply-timeout", "60s", "a"]).spawn();
    thread::sleep(Duration::from_millis(500));
    let (outcome, time) = sender.stop(Signal::SIGINT);
    outcome.failed(130, &["interrupted", "1 of 1 confirmed"]);
    assert!(time < Duration::from_secs(1), "{time:?}");
    hello(["send", "-q", &queue, "-o", "body", "a"])
        .run()
        .failed(64, &["--reply-timeout"]);
}

#[test]
fn a_request_whose_command_fails_is_not_answered() {
    let queue = queue("rpc-fails");
    let _server = hello([
        "receive",
        "--reply",
        "--on-failure",
        "reject",
        &queue,
        "--",
        "sh",
        "-c",
        "echo wrong; exit 1",
    ])
    .spawn();
    hello([
        "send",
        "-q",
        &queue,
        "--reply-timeout",
        "1s",
        "-o",
        "body",
        "a",
    ])
    .run()
    .failed(1, &["no reply to the message"]);
}

#[test]
fn what_wants_no_reply_or_whose_sender_is_gone_is_acknowledged() {
    let queue = queue("rpc-gone");
    hello(["send", "-q", &queue, "plain"]).run();
    hello(["send", "-q", &queue, "--reply-to", "no-such-queue", "gone"]).run();
    let outcome = hello(["receive", "--reply", "--drain", &queue, "--", "cat"]).run();
    assert_eq!((outcome.status(), outcome.stdout.as_str()), (0, ""));
    assert!(
        outcome.stderr.contains("has no reply-to"),
        "{}",
        outcome.stderr
    );
    assert!(
        outcome
            .stderr
            .contains("a reply could not be delivered (312 NO_ROUTE)"),
        "{}",
        outcome.stderr
    );
    assert_eq!(Observer::new().messages(&queue), 0);
}

#[test]
fn another_client_is_answered() {
    let queue = queue("rpc-client");
    hello(["declare", &queue]).run();
    let _server = shell(&format!("exec $H receive --reply {queue} -- cat")).spawn();
    let mut observer = Observer::new();
    let channel = observer.channel();
    let replies = channel
        .basic_consume(
            "amq.rabbitmq.reply-to",
            ConsumerOptions {
                no_ack: true,
                ..ConsumerOptions::default()
            },
        )
        .unwrap();
    let properties = AmqpProperties::default()
        .with_reply_to("amq.rabbitmq.reply-to".to_owned())
        .with_correlation_id("7".to_owned());
    channel
        .basic_publish("", Publish::with_properties(b"\0\xff", &*queue, properties))
        .unwrap();
    match replies
        .receiver()
        .recv_timeout(Duration::from_secs(5))
        .unwrap()
    {
        ConsumerMessage::Delivery(delivery) => {
            assert_eq!(delivery.body, b"\0\xff");
            assert_eq!(delivery.properties.correlation_id().as_deref(), Some("7"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn of_a_reply_it_is_said_that_nobody_knows_who_gets_it() {
    let outcome = hello(["send", "-r", "amq.rabbitmq.reply-to.gone", "a", "b"]).run();
    assert_eq!(
        outcome.stdout,
        " [x] Sent 'a'\n [x] Sent 'b'\n [x] Sent 2 messages\n"
    );
    assert_eq!((outcome.status(), outcome.stderr.lines().count()), (0, 1));
    assert!(
        outcome.stderr.contains("even if its requester is gone"),
        "{outcome:?}"
    );
}

#[test]
fn what_a_lost_connection_was_to_do_is_told() {
    let queue = queue("rpc-lost");
    let proxy = Proxy::start(&url());
    let mut sender = hello(["send", "--retry-for", "0s", "--reply-timeout", "60s", "-q"])
        .args([&queue, "a"])
        .env("HELLO_MQ_URL", &proxy.url)
        .spawn();
    sender.expect("Sent 'a'\n");
    proxy.cut();
    sender
        .end()
        .failed(69, &["while waiting for replies: ", "; 1 of 1 confirmed"]);

    let mut observer = Observer::new();
    hello(["purge", "--yes", "--quiet", &queue]).run();
    let sender = shell("(echo a; exec sleep 3) | $H send --retry-for 0s -l -q $QUEUE")
        .env("QUEUE", &queue)
        .env("HELLO_MQ_URL", &proxy.url)
        .spawn();
    observer.reaches(&queue, 1);
    // Its confirm comes, too.
    thread::sleep(Duration::from_millis(300));
    proxy.cut();
    sender
        .end()
        .failed(69, &["while waiting for input: ", "; nothing after line 1"]);
}
