//! What is not acknowledged within the broker's `consumer_timeout` comes again, on every series. The tests
//! change that, so they have a node of their own.

use std::fs;
use std::thread;
use std::time::Duration;

use crate::support::{Files, Node, Outcome};

/// Longer than the time-out and the time after which the broker looks for what is over it.
const LONG: Duration = Duration::from_secs(7);

/// A node on which it is two seconds.
fn node() -> Node {
    let mut node = Node::start();
    node.tool("rabbitmqctl -q eval application:set_env(rabbit,consumer_timeout,2000),application:set_env(rabbit,channel_tick_interval,1000).");
    node
}

/// A queue of its own, and whether the node's time-out holds for it.
fn declare(node: &Node, name: &str) {
    let declare = ["declare", "--quiet", "--type", "quorum", name];
    // From RabbitMQ 4.3 on a queue may have a time-out of its own.
    let timeout = ["--argument", "x-consumer-timeout=2000"];
    let is_new = std::env::var("HELLO_MQ_TEST_SERIES").is_ok_and(|series| series == "43");
    let more = if is_new { &timeout[..] } else { &[] };
    node.hello(declare).args(more).run().printed("");
}

/// It went on, and said why it had to.
fn was_ended(outcome: &Outcome, queue: &str) {
    assert_eq!(outcome.status(), 0, "{outcome:?}");
    let said = format!("cancelled the consumer of queue '{queue}'");
    for part in [said.as_str(), "consumer_timeout"] {
        assert!(outcome.stderr.contains(part), "no {part:?}: {outcome:?}");
    }
}

fn a_slow_reader(node: &Node) {
    declare(node, "reader");
    let bodies = ["a", "b", "c"].map(|body| body.repeat(70_000));
    node.hello(["send", "--quiet", "-l", "-q", "reader"])
        .stdin(bodies.join("\n"))
        .run()
        .printed("");
    let receiver = node
        .hello(["receive", "--drain", "-o", "body", "reader"])
        .spawn();
    thread::sleep(LONG);
    let outcome = receiver.end();
    was_ended(&outcome, "reader");
    for body in &bodies {
        assert!(outcome.stdout.contains(body.as_str()), "{}", &body[..1]);
    }
    node.hello(["receive", "--drain", "reader"])
        .run()
        .printed(" [*] Waiting for messages. To exit press CTRL+C\n");
}

/// Notes when it begins and ends, and fails if it runs already.
const SLOW: &str = "mkdir $T/running || echo twice at once >>$T/log; echo begin $HELLO_MQ_MESSAGE_ID >>$T/log; sleep 7; \
     rmdir $T/running; echo end >>$T/log";

fn a_slow_command(node: &Node) {
    declare(node, "command");
    // The second one waits for the first, so that no more can be taken when the time is up.
    let ids = ["one", "two"]
        .map(|id| format!(r#"{{"payload":"x","properties":{{"message_id":"{id}"}}}}"#));
    node.hello(["send", "--quiet", "--jsonl", "-q", "command"])
        .stdin(ids.join("\n"))
        .run()
        .printed("");
    let files = Files::new();
    let outcome = node
        .hello(["receive", "--drain", "command", "--", "sh", "-c", SLOW])
        .env("T", files.path())
        .run();
    was_ended(&outcome, "command");
    let log = fs::read_to_string(files.write("x", "").with_file_name("log")).unwrap();
    assert_eq!(log, "begin one\nend\nbegin two\nend\n", "{outcome:?}");
}

fn a_slow_command_without_an_id(node: &Node) {
    declare(node, "no-id");
    node.hello(["send", "--quiet", "--jsonl", "-q", "no-id"])
        .stdin(r#"{"payload":"x"}"#)
        .run();
    let files = Files::new();
    let log = files.write("log", "");
    // The second time it is in time.
    let script = format!("if [ -s $T/log ]; then echo again >>$T/log; else {SLOW}; fi");
    let outcome = node
        .hello(["receive", "--drain", "no-id", "--", "sh", "-c", &script])
        .env("T", files.path())
        .run();
    was_ended(&outcome, "no-id");
    // It may be another one that looks the same.
    let log = fs::read_to_string(log).unwrap();
    assert_eq!(log, "begin\nend\nagain\n", "{outcome:?}");
}

/// Messages that are not chosen are held for as long.
fn a_chooser(node: &Node) {
    declare(node, "chooser");
    node.hello(["send", "--quiet", "-l", "-q", "chooser"])
        .stdin("a\nb\nc\nb")
        .run()
        .printed("");
    let more = ["--timeout", "9s", "--where", ".payload == \"b\""];
    let receive = ["receive", "-o", "body", "chooser"];
    let outcome = node.hello(receive).args(more).run();
    was_ended(&outcome, "chooser");
    assert_eq!(outcome.stdout, "b\nb\n");
    node.hello(["receive", "--drain", "-o", "body", "chooser"])
        .run()
        .printed("a\nc\n");
}

#[test]
fn what_is_not_acknowledged_in_time_comes_again_and_never_runs_twice_at_once() {
    let node = &node();
    thread::scope(|scope| {
        let cases = [
            a_slow_reader,
            a_slow_command,
            a_slow_command_without_an_id,
            a_chooser,
        ];
        for case in cases {
            scope.spawn(move || case(node));
        }
    });
}
