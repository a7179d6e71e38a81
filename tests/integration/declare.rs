use crate::support::{Observer, hello, queue, shown_url};

#[test]
fn a_queue_is_declared_as_in_the_tutorial() {
    hello(["declare"])
        .run()
        .printed(" [x] Declared 'hello' (0 messages, 0 consumers)\n");
}

#[test]
fn declaring_again_changes_nothing_and_counts() {
    let queue = queue("again");
    hello(["declare", &queue]).run().printed(&format!(
        " [x] Declared '{queue}' (0 messages, 0 consumers)\n"
    ));
    hello(["send", "-q", &queue, "a"]).run();
    hello(["declare", "-q", &queue]).run().printed(&format!(
        " [x] Declared '{queue}' (1 message, 0 consumers)\n"
    ));
    let mut consumer = hello(["receive", &queue]).spawn();
    consumer.expect("'a'\n");
    let shown = hello(["declare", &queue]).run().stdout;
    assert!(
        shown.ends_with("messages, 1 consumer)\n") || shown.ends_with("message, 1 consumer)\n"),
        "{shown}"
    );
}

#[test]
fn properties_reach_the_broker() {
    let (plain, durable, both) = (queue("plain"), queue("durable"), queue("both"));
    hello(["declare", &plain]).run();
    hello(["declare", "--durable", &durable]).run();
    hello(["declare", "--durable", "--auto-delete", &both]).run();
    let listed = crate::support::broker_tool(
        "rabbitmqctl -q list_queues name durable auto_delete exclusive arguments",
    );
    for (queue, properties) in [
        (plain, "false\tfalse"),
        (durable, "true\tfalse"),
        (both, "true\ttrue"),
    ] {
        let line = listed
            .lines()
            .find(|line| line.starts_with(&format!("{queue}\t")))
            .unwrap();
        assert_eq!(line, format!("{queue}\t{properties}\tfalse\t[]"));
    }
}

#[test]
fn other_properties_are_refused_in_the_brokers_words() {
    let queue = queue("strict");
    hello(["declare", &queue]).run();
    hello(["declare", "--durable", &queue]).run().failed(
        76,
        &[
            &format!(
                "hello-mq: cannot declare queue '{queue}' on {}: PRECONDITION_FAILED",
                shown_url()
            ),
            "inequivalent arg 'durable'",
            "received 'true' but current is 'false'",
            "hello-mq: hint: ",
        ],
    );
}

#[test]
fn a_name_of_255_bytes_is_the_longest() {
    let name = "n".repeat(255);
    hello(["declare", &name]).run().printed(&format!(
        " [x] Declared '{name}' (0 messages, 0 consumers)\n"
    ));
    assert_eq!(Observer::new().messages(&name), 0);
    for name in ["n".repeat(256), "é".repeat(128)] {
        hello(["declare", &name])
            .run()
            .failed(64, &["can't be longer than 255 bytes", "256"]);
    }
}

#[test]
fn a_name_is_shown_so_that_it_can_not_move_the_cursor() {
    let name = format!("{}\u{1b}[2J'é", queue("odd"));
    let shown = hello(["declare", &name]).run().stdout;
    assert!(shown.contains("\\x1b[2J\\'é'"), "{shown:?}");
}
