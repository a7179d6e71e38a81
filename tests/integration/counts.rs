//! How often a message has failed: what the broker counts, and what a sender only says, on every series.

use std::collections::BTreeMap;

use crate::support::{Outcome, hello, queue};

/// Declares a durable queue of this type, and sends these envelopes to it.
fn filled(kind: &str, envelopes: &[String]) -> String {
    let name = queue("counts");
    hello(["declare", "--quiet", "--durable", "--type", kind, &name]).run();
    hello(["send", "--quiet", "--no-declare", "--jsonl", "-r", &name])
        .stdin(envelopes.join("\n"))
        .run()
        .printed("");
    name
}

/// A message without an id, with one header.
fn envelope(header: &str, value: &str) -> String {
    format!(r#"{{"payload":"same","properties":{{"headers":{{"{header}":{value}}}}}}}"#)
}

/// A number of the type that RabbitMQ's own have.
fn long(number: u32) -> String {
    format!(r#"{{"!amqp":"long","value":{number}}}"#)
}

/// Receives until the queue is empty, with a command that prints something and fails.
fn fails(queue: &str, more: &[&str], prints: &str) -> Outcome {
    let script = format!("echo \"{prints}\"; exit 1");
    hello(["receive", "--quiet", "--drain"])
        .args(more)
        .args([queue, "--", "sh", "-c", &script])
        .run()
}

fn times(lines: &str) -> BTreeMap<&str, u32> {
    let mut times = BTreeMap::new();
    for line in lines.lines() {
        *times.entry(line).or_default() += 1;
    }
    times
}

#[test]
fn each_message_fails_as_often_as_it_may() {
    for kind in ["classic", "quorum"] {
        let different: Vec<_> = (1..=5).map(|n| envelope("n", &n.to_string())).collect();
        let name = filled(kind, &different);
        let outcome = fails(&name, &["--max-redeliveries", "2"], "$HELLO_MQ_HEADER_N");
        let each = ["1", "2", "3", "4", "5"].map(|n| (n, 3));
        assert_eq!(times(&outcome.stdout), BTreeMap::from(each), "{kind}");

        let name = filled(kind, &vec![envelope("n", "7"); 5]);
        let outcome = fails(&name, &["--max-redeliveries", "2"], "$HELLO_MQ_ATTEMPT");
        let each = ["1", "2", "3"].map(|attempt| (attempt, 5));
        assert_eq!(times(&outcome.stdout), BTreeMap::from(each), "{kind}");
    }
}

#[test]
fn what_a_sender_says_of_deliveries_counts_for_nothing() {
    // Its arguments must not have a classic queue taken for another.
    for (kind, more) in [
        ("classic", &[][..]),
        ("classic", &["--max-priority", "5", "--max-length", "9"]),
        ("quorum", &[]),
    ] {
        let name = queue("said");
        hello(["declare", "--quiet", "--durable", "--type", kind, &name])
            .args(more)
            .run();
        hello(["send", "--quiet", "--no-declare", "--jsonl", "-r", &name])
            .stdin(envelope("x-delivery-count", &long(1000)))
            .run();
        for _ in 0..2 {
            let shown = hello(["receive", "--peek", "-o", "body", &name]).run();
            shown.printed("same\n");
        }
        // A quorum queue has counted the looks, up to 4.2.
        let outcome = fails(&name, &["--max-redeliveries", "3"], "$HELLO_MQ_ATTEMPT");
        let last = outcome.stdout.lines().last();
        assert_eq!(last, Some("4"), "{kind} {more:?}: {outcome:?}");
        assert!(!outcome.stderr.contains("limit"), "{kind}: {outcome:?}");
    }
}

#[test]
fn a_quorum_queues_own_count_is_that_of_the_attempts() {
    let name = filled("quorum", &[r#"{"payload":"same"}"#.to_owned()]);
    for attempt in ["1\n", "2\n", "3\n"] {
        let outcome = fails(&name, &["--on-failure", "stop"], "$HELLO_MQ_ATTEMPT");
        assert_eq!((outcome.status(), outcome.stdout.as_str()), (1, attempt));
    }
}

#[test]
fn what_a_sender_says_of_a_streams_offset_counts_for_nothing() {
    for kind in ["classic", "quorum"] {
        let offsets = [9, 3, 0].map(|offset| envelope("x-stream-offset", &long(offset)));
        let name = filled(kind, &offsets);
        hello(["receive", "--drain", "-o", "body", &name])
            .run()
            .printed("same\nsame\nsame\n");
        let name = filled(kind, &offsets);
        let outcome = hello(["receive", "--drain", "--quiet", &name, "--", "cat"]).run();
        outcome.printed("samesamesame");
    }
}

#[test]
fn a_drain_ends_with_nothing_left_of_what_went_back() {
    for _ in 0..5 {
        let name = filled("quorum", &[r#"{"payload":"same"}"#.to_owned()]);
        let outcome = fails(&name, &["--max-redeliveries", "1"], "$HELLO_MQ_ATTEMPT");
        assert_eq!(outcome.stdout, "1\n2\n", "{outcome:?}");
    }
}
