//! What differs on RabbitMQ 4, where it no longer permits transient queues.
//!
//! `make test-rabbitmq4` runs these on a broker with
//! `deprecated_features.permit.transient_nonexcl_queues = false`, as RabbitMQ 4.3 is by default.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "integration/support.rs"]
mod support;

use support::{broker_tool, hello, queue, shown_url};

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
            "hello-mq: {} does not permit a queue that is not durable; queue '{queue}' is declared durable\n",
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
        outcome.stderr.contains("is declared durable"),
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
