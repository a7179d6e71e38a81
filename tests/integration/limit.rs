//! A message at its queue's delivery limit: where giving it back would drop it, it is put at the end of its
//! queue as a new one. Before RabbitMQ 4.3 each look counts.

use crate::support::{Files, Observer, broker_tool, hello, queue, shell, url, without_times};

/// A queue with a limit of its own, and messages in it.
fn limited(more: &[&str], envelopes: &[&str]) -> String {
    let name = queue("limit");
    let limit = ["--type", "quorum", "--delivery-limit", "3"];
    hello(["declare", "--quiet", &name])
        .args(limit)
        .args(more)
        .run()
        .printed("");
    hello(["send", "--quiet", "--jsonl", "-r", &name])
        .stdin(envelopes.join("\n"))
        .run()
        .printed("");
    name
}

/// What is said when so many messages are put at the end.
fn put_at_end(queue: &str, messages: usize) -> String {
    format!(
        "hello-mq: moved messages at the delivery limit of queue '{queue}' to its end as new messages, to keep them from being dropped: {messages}\n"
    )
}

const MESSAGES: [&str; 3] = [
    r#"{"payload":"a","properties":{"message_id":"m","user_id":"guest","delivery_mode":2,"headers":{"n":1,"t":{"!amqp":"timestamp","value":1}}}}"#,
    r#"{"payload":"b","properties":{"type":"t"}}"#,
    r#"{"payload":"c"}"#,
];

/// Whether each look counts.
fn counts() -> bool {
    std::env::var("HELLO_MQ_TEST_SERIES").as_deref() != Ok("43")
}

/// Looks three times, so that all are at their limit where that counts.
fn look_three_times(queue: &str) {
    for _ in 0..3 {
        let shown = hello(["receive", "--peek", "--quiet", queue]).run();
        assert_eq!((shown.status(), shown.stderr.as_str()), (0, ""));
    }
}

#[test]
fn a_message_at_its_limit_stays_in_its_queue_as_it_was() {
    let name = limited(&[], &MESSAGES);
    let dump = || hello(["receive", "--peek", "-o", "json", &name]).run();
    let before = dump();
    for _ in 0..2 {
        hello(["receive", "--peek", "-o", "body", &name])
            .run()
            .printed("a\nb\nc\n");
    }
    let last = hello(["receive", "--peek", "-o", "body", &name]).run();
    let (said, after) = (last.stderr.clone(), dump());
    assert_eq!((last.status(), last.stdout.as_str()), (0, "a\nb\nc\n"));
    if counts() {
        assert_eq!(said, put_at_end(&name, 3));
        assert_eq!(without_times(&after.stdout), without_times(&before.stdout));
    } else {
        assert_eq!(said, "");
    }
    let left = hello(["receive", "--drain", "-o", "body", &name]).run();
    left.printed("a\nb\nc\n");
}

#[test]
fn no_way_out_drops_a_message_at_its_limit() {
    for (line, status) in [
        ("$H receive --drain $Q >/dev/full", 74),
        ("$H receive --peek $Q >/dev/full", 74),
        ("$H receive -c 1 $Q -- $T/nothing", 64),
        ("interrupt_after 1 $H receive $Q | sleep 3", 0),
    ] {
        let body = "x".repeat(100_000);
        let name = limited(&[], &[&format!(r#"{{"payload":"{body}"}}"#)]);
        look_three_times(&name);
        let files = Files::new();
        let line = format!("set -o pipefail; {line}");
        let run = shell(&line).env("Q", &name).env("T", files.path()).run();
        assert_eq!(run.status(), status, "{line}: {run:?}");
        if counts() {
            assert!(
                run.stderr.contains(&put_at_end(&name, 1)),
                "{line}: {run:?}"
            );
        }
        let left = hello(["receive", "--drain", "-o", "body", &name]).run();
        left.printed(&format!("{body}\n"));
    }
}

#[test]
fn two_hundred_messages_at_their_limit_stay() {
    let envelopes: Vec<_> = (100..300)
        .map(|n| format!(r#"{{"payload":"{n}"}}"#))
        .collect();
    let envelopes: Vec<_> = envelopes.iter().map(String::as_str).collect();
    let name = limited(&[], &envelopes);
    look_three_times(&name);
    let look = hello(["receive", "--peek", &name]).run();
    let expected = put_at_end(&name, 200);
    assert_eq!(look.stderr, if counts() { expected.as_str() } else { "" });
    // They go back one by one.
    Observer::new().settles_at(&name, 200);
    let left = hello(["receive", "--drain", "-o", "body", &name]).run();
    let mut left: Vec<_> = left.stdout.lines().collect();
    left.sort_unstable();
    let all: Vec<_> = (100..300).map(|n| n.to_string()).collect();
    assert_eq!(left, all);
}

#[test]
fn a_full_queue_keeps_what_is_at_its_limit() {
    let full = ["--max-length", "3", "--overflow", "reject-publish"];
    let name = limited(&full, &MESSAGES);
    look_three_times(&name);
    let look = hello(["receive", "--peek", "--quiet", &name]).run();
    assert_eq!(look.status(), 0, "{look:?}");
    hello(["receive", "--drain", "-o", "body", &name])
        .run()
        .printed("a\nb\nc\n");
}

#[test]
fn who_may_not_publish_is_told_what_is_dropped() {
    if !counts() {
        return;
    }
    let (name, user) = (limited(&[], &MESSAGES), queue("reader"));
    broker_tool(&format!("rabbitmqctl -q add_user {user} s3cret"));
    broker_tool(&format!("rabbitmqctl -q set_permissions {user} .* ^$ .*"));
    look_three_times(&name);
    let theirs = url().replace("guest:guest", &format!("{user}:s3cret"));
    hello(["receive", "--peek", "--quiet", &name])
        .env("HELLO_MQ_URL", theirs)
        .run()
        .failed(
            76,
            &[
                &format!("queue '{name}' drops or dead-letters messages"),
                "exceed its delivery limit (3), because they could not be moved to its end: ",
                "ACCESS_REFUSED",
            ],
        );
}
