//! What differs on RabbitMQ 4, where it does not permit transient queues.
//!
//! `make test-rabbitmq4` runs these on 4.0 and on 4.3, `HELLO_MQ_TEST_SERIES` says which it is, on a
//! broker with `deprecated_features.permit.transient_nonexcl_queues = false`: both permit such queues
//! unless they are told not to (4.3.0 did not).
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

// From 4.3 on an acknowledgement that is late ends the consumer alone.
#[path = "integration/ack_timeout.rs"]
mod ack_timeout;
#[path = "integration/amqp10.rs"]
mod amqp10;
#[path = "integration/support.rs"]
mod support;
// What the broker counts differs by series.
#[path = "integration/counts.rs"]
mod counts;
// Giving back is told apart by series.
#[path = "integration/giving_back.rs"]
mod giving_back;
#[path = "integration/limit.rs"]
mod limit;
// What RabbitMQ makes of properties.
#[path = "integration/lossless.rs"]
mod lossless;
// What a dead letter looks like.
#[path = "integration/replay.rs"]
mod replay;
// Messages that stay go back in other ways.
#[path = "integration/selection.rs"]
mod selection;
#[path = "integration/stream.rs"]
mod stream;
// What is said of TLS depends on the broker's own.
#[path = "integration/tls.rs"]
mod tls;

use amqp10::{Publisher, binary, described, list, map, string, symbol};
use support::{broker_tool, hello, queue, shell, shown_url, url};

/// Sections of a message of AMQP 1.0.
const APPLICATION_PROPERTIES: u8 = 0x74;
const DATA: u8 = 0x75;

/// The series of the broker: `4` (4.0) or `43` (4.3).
fn series() -> String {
    std::env::var("HELLO_MQ_TEST_SERIES").expect("run these with `make test-rabbitmq4`")
}

#[test]
fn send_declares_a_durable_queue_instead_and_says_so() {
    let queue = queue("send");
    let outcome = hello(["send", "-q", &queue, "a"]).run();
    assert_eq!(
        (outcome.status(), outcome.stdout.as_str()),
        (0, " [x] Sent 'a'\n")
    );
    assert_eq!(
        outcome.stderr,
        format!(
            "hello-mq: {} does not permit non-durable queues; declaring queue '{queue}' durable\n",
            shown_url()
        )
    );
    let listed = broker_tool("rabbitmqctl -q list_queues name durable");
    assert!(
        listed.lines().any(|line| line == format!("{queue}\ttrue")),
        "{listed}"
    );

    // Now that it is there, there is nothing to say but the messages.
    let outcome = hello(["receive", "--quiet", &queue, "-c1"]).run();
    assert_eq!(
        (outcome.status(), outcome.stdout.as_str()),
        (0, " [x] Received 'a'\n")
    );
}

#[test]
fn receive_does_the_same() {
    let queue = queue("receive");
    let mut receiver = hello(["receive", &queue]).spawn();
    receiver.expect("CTRL+C\n");
    let (outcome, _) = receiver.stop(nix::sys::signal::Signal::SIGINT);
    assert_eq!(outcome.status(), 0);
    assert!(
        outcome.stderr.contains("non-durable queues"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn an_existing_queue_of_another_kind_is_used_as_it_is() {
    let queue = queue("durable");
    hello(["declare", "--durable", &queue])
        .run()
        .printed(&format!(
            " [x] Declared '{queue}' (0 messages, 0 consumers)\n"
        ));
    for _ in 0..2 {
        let outcome = hello(["send", "-q", &queue, "a"]).run();
        assert_eq!(
            (outcome.status(), outcome.stdout.as_str()),
            (0, " [x] Sent 'a'\n"),
            "{outcome:?}"
        );
    }
}

#[test]
fn declare_is_strict_and_says_what_to_do_on_one_line() {
    let outcome = hello(["declare", &queue("strict")]).run();
    outcome.failed(
        76,
        &[
            "transient_nonexcl_queues",
            "declare the queue with --durable",
        ],
    );
    assert_eq!(outcome.stderr.lines().count(), 2, "{}", outcome.stderr);
}

#[test]
fn login_errors_are_told_as_on_older_brokers() {
    let wrong = support::url().replace("guest:guest", "guest:wrong");
    hello(["declare"])
        .env("HELLO_MQ_URL", wrong)
        .run()
        .failed(77, &["ACCESS_REFUSED"]);
    hello(["declare", "--vhost", "nope"])
        .run()
        .failed(77, &["NOT_ALLOWED - vhost nope not found"]);
}

#[test]
fn a_mismatch_is_explained_as_on_older_brokers() {
    let rows = [
        (
            "--durable --message-ttl 1m --max-length 10",
            "--type quorum --message-ttl 30s --delivery-limit 5 --max-length 10",
            &[
                "--delivery-limit: wanted 5, existing none",
                "--message-ttl: wanted 30s, existing 1m",
                "--type: wanted quorum, existing classic",
            ][..],
        ),
        (
            "--durable --max-priority 5 --argument x-queue-leader-locator=balanced",
            "--durable --dead-letter-exchange x",
            &[
                "--dead-letter-exchange: wanted x, existing none",
                "--max-priority: wanted none, existing 5",
                "--argument x-queue-leader-locator: wanted none, existing balanced",
            ],
        ),
        (
            "--type stream --max-length-bytes 1GB",
            "--durable --max-priority 5",
            &[
                "--max-length-bytes: wanted none, existing 1000000000",
                "--max-priority: wanted 5, existing none",
                "--type: wanted none, existing stream",
            ],
        ),
        (
            "--type quorum --argument x-delivery-limit=-1",
            "--type stream --argument x-max-age=1D",
            &[
                "--delivery-limit: wanted none, existing -1",
                "--argument x-max-age: wanted 1D, existing none",
                "--type: wanted stream, existing quorum",
            ],
        ),
    ];
    for (existing, wanted, expected) in rows {
        let name = queue("different");
        let declare = |options: &str| {
            let words = options.split(' ').map(str::to_owned);
            let start = ["declare", &name].map(str::to_owned);
            hello(start.into_iter().chain(words)).run()
        };
        let made = declare(existing);
        assert_eq!(made.status(), 0, "{made:?}");
        let outcome = declare(wanted);
        let said: Vec<_> = outcome
            .stderr
            .lines()
            .filter_map(|line| line.strip_prefix("hello-mq: "))
            .filter(|line| line.starts_with("--"))
            .collect();
        assert_eq!(
            (outcome.status(), said),
            (76, expected.to_vec()),
            "{existing} / {wanted}"
        );
        let command = outcome
            .stderr
            .split("to match what exists, write: hello-mq")
            .nth(1)
            .unwrap();
        let again = shell(&format!("$H{command}")).run();
        assert_eq!(
            again.status(),
            0,
            "{existing} / {wanted}: {command} {again:?}"
        );
    }
}

#[test]
fn what_means_the_same_is_no_difference() {
    support::what_means_the_same_is_no_difference();
}

#[test]
fn comparing_makes_nothing() {
    support::comparing_makes_nothing();
}

#[test]
fn an_unknown_type_of_exchange_does_not_end_the_connection() {
    hello(["declare", "-e", "x", "--exchange-type", "x-none"])
        .run()
        .failed(76, &["unknown exchange type 'x-none'"]);
}

#[test]
fn the_broker_says_which_right_is_missing() {
    let (name, user) = (queue("theirs"), queue("nobody"));
    hello(["declare", "--durable", &name]).run();
    broker_tool(&format!("rabbitmqctl -q add_user {user} s3cret"));
    broker_tool(&format!("rabbitmqctl -q set_permissions {user} ^$ ^$ ^$"));
    let theirs = url().replace("guest:guest", &format!("{user}:s3cret"));
    // Both first ask after the queue, which only 4.3 refuses.
    let (purge, delete) = if series() == "43" {
        ["configure, write or read permission on queue"; 2].into()
    } else {
        ("read permission on queue", "configure permission on queue")
    };
    for (words, right) in [
        (&["receive", "-c1", &name][..], "read permission on queue"),
        (&["purge", "--yes", &name], purge),
        (&["delete", "--yes", &name], delete),
        (
            &["send", "-q", &name, "x"],
            "write permission on exchange 'amq.default'",
        ),
    ] {
        hello(words).env("HELLO_MQ_URL", &theirs).run().failed(
            77,
            &[
                "ACCESS_REFUSED",
                &format!("hint: user '{user}' needs {right}"),
            ],
        );
    }
}

#[test]
fn who_may_only_write_sends_to_a_queue_that_is_there() {
    let (name, user) = (queue("theirs"), queue("writer"));
    hello(["declare", "--durable", &name]).run();
    broker_tool(&format!("rabbitmqctl -q add_user {user} s3cret"));
    broker_tool(&format!(
        "rabbitmqctl -q set_permissions {user} ^$ ^amq.default$ ^$"
    ));
    let theirs = url().replace("guest:guest", &format!("{user}:s3cret"));
    hello(["send", "-q", &name, "x"])
        .env("HELLO_MQ_URL", theirs)
        .run()
        .printed(" [x] Sent 'x'\n");
}

#[test]
fn what_a_type_does_not_have_is_told() {
    support::what_a_type_does_not_have_is_told();
}

#[test]
fn a_message_that_the_broker_fails_to_deliver_ends_it_and_keeps_no_other_from_being_received() {
    let queue = queue("poison");
    hello(["declare", "--quiet", "--durable", &queue]).run();
    let send = |body: &str| {
        let send = ["send", "--quiet", "--no-declare", "-r", &queue, body];
        hello(send).run().printed("");
    };
    send("before");
    // A letter has no type in AMQP 0-9-1.
    let letter = map(&[string("letter"), b"\x73\0\0\0A".to_vec()]);
    let sections = [
        described(APPLICATION_PROPERTIES, &letter),
        described(DATA, &binary(b"poison")),
    ];
    Publisher::open(&url(), &queue).publish(&sections.concat());
    send("after");
    hello(["receive", "--peek", &queue])
        .run()
        .failed(69, &["INTERNAL_ERROR", "published over AMQP 1.0"]);
    let outcome = hello(["receive", "--drain", "-o", "body", &queue]).run();
    outcome.failed(
        76,
        &[
            "INTERNAL_ERROR (it closed the connection 3 times in a row)",
            "published over AMQP 1.0",
        ],
    );
    // What came together with it may have come twice.
    assert!(outcome.stdout.starts_with("before\n"), "{outcome:?}");
    assert!(outcome.stdout.len() <= 2 * "before\n".len(), "{outcome:?}");
    let listed = broker_tool("rabbitmqctl -q list_queues name messages");
    assert!(listed.contains(&format!("{queue}\t2")), "{listed}");
}

#[test]
fn a_body_from_amqp_1_0_is_shown_as_what_it_holds() {
    const SEQUENCE: u8 = 0x76;
    const VALUE: u8 = 0x77;
    const FOOTER: u8 = 0x78;
    let queue = queue("amqp10");
    hello(["declare", &queue, "--durable"]).run();
    let mut publisher = Publisher::open(&url(), &queue);
    let value = |value: &[u8]| described(VALUE, value);
    let (yes, number) = (b"\x41".to_vec(), b"\x54\x07".to_vec());
    let messages = [
        (value(&string("it's")), r"'it\'s'"),
        (value(&symbol("sym")), "'sym'"),
        (value(&number), "7"),
        (
            value(&list(&[string("a"), b"\x40".to_vec()])),
            "['a', null]",
        ),
        (value(&map(&[string("k"), yes.clone()])), "{'k': true}"),
        (value(&binary(b"\xff")), r"b'\xff'"),
        (
            [
                described(SEQUENCE, &list(&[string("x")])),
                described(SEQUENCE, &list(&[number])),
            ]
            .concat(),
            "['x', 7]",
        ),
        (
            [
                described(APPLICATION_PROPERTIES, &map(&[string("p"), string("v")])),
                value(&string("all")),
                described(FOOTER, &map(&[symbol("f"), yes])),
            ]
            .concat(),
            "'all'",
        ),
        // RabbitMQ itself hands this over as plain bytes.
        (
            [
                described(DATA, &binary(b"plain ")),
                described(DATA, &binary(b"bytes")),
            ]
            .concat(),
            "'plain bytes'",
        ),
    ];
    for (sections, _) in &messages {
        publisher.publish(sections);
    }
    let shown = messages.map(|(_, shown)| format!(" [x] Received {shown}\n"));
    hello(["receive", "--drain", "--quiet", &queue])
        .run()
        .printed(&shown.concat());
}
