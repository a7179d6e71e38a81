//! Exchanges, bindings and whole configuration files; and taking things away.

use crate::support::{Files, Observer, broker_tool, hello, queue, shell, shown_url};

#[test]
fn exchanges_of_every_type_are_declared_and_compared() {
    let names: Vec<_> = (0..5).map(|_| queue("exchange")).collect();
    let rows = [
        ("", "direct\tfalse\tfalse\tfalse\t[]"),
        (
            "--exchange-type fanout --durable",
            "fanout\ttrue\tfalse\tfalse\t[]",
        ),
        (
            "--exchange-type topic --auto-delete",
            "topic\tfalse\ttrue\tfalse\t[]",
        ),
        (
            "--exchange-type headers --internal",
            "headers\tfalse\tfalse\ttrue\t[]",
        ),
        (
            "--alternate-exchange amq.fanout --exchange-argument a=5",
            "direct\tfalse\tfalse\tfalse\t[{\"a\",5},{\"alternate-exchange\",\"amq.fanout\"}]",
        ),
    ];
    let words = |options: &str| -> Vec<String> {
        let options = options.split(' ').filter(|word| !word.is_empty());
        options.map(str::to_owned).collect()
    };
    for (name, (options, _)) in names.iter().zip(rows) {
        let start = ["declare", "-e", name].map(str::to_owned);
        hello(start.into_iter().chain(words(options)))
            .run()
            .printed(&format!(" [x] Declared exchange '{name}'\n"));
        hello(["declare", "--check", "-e", name])
            .run()
            .printed(&format!(" [x] Exchange '{name}' exists\n"));
    }
    let list = broker_tool(
        "rabbitmqctl -q list_exchanges name type durable auto_delete internal arguments",
    );
    for (name, (options, expected)) in names.iter().zip(rows) {
        assert!(
            list.lines()
                .any(|line| line == format!("{name}\t{expected}")),
            "{options}: {list}"
        );
    }

    let mut outcome = hello([
        "declare",
        "-e",
        &names[4],
        "--exchange-type",
        "topic",
        "--durable",
        "--auto-delete",
        "--internal",
        "--alternate-exchange",
        "amq.topic",
    ])
    .run();
    outcome.failed(
        76,
        &[
            "exists with other properties on",
            "--auto-delete: wanted true, existing false\n",
            "--durable: wanted true, existing false\n",
            "--internal: wanted true, existing false\n",
            "--exchange-type: wanted topic, existing direct\n",
            "--alternate-exchange: wanted amq.topic, existing amq.fanout\n",
        ],
    );
    let command = outcome
        .stderr
        .split("to match what exists, write: hello-mq")
        .nth(1)
        .unwrap();
    outcome = shell(&format!("$H{command}")).run();
    outcome.printed(&format!(" [x] Declared exchange '{}'\n", names[4]));
    hello(["declare", "--check", "-e", &names[4], "--durable"])
        .run()
        .failed(76, &["--durable: wanted true, existing false\n"]);
}

#[test]
fn bindings_route() {
    let (name, audit) = (queue("bound"), queue("audit"));
    let (topic, fanout) = (queue("topic"), queue("fanout"));
    hello(["declare", &name, "-e", &topic, "--exchange-type", "topic"])
        .args(["--bind", "order.*", "--bind", "mail.#"])
        .run()
        .printed(&format!(
            " [x] Declared exchange '{topic}'\n \
             [x] Declared '{name}' (0 messages, 0 consumers)\n \
             [x] Bound queue '{name}' to exchange '{topic}' with 'order.*'\n \
             [x] Bound queue '{name}' to exchange '{topic}' with 'mail.#'\n"
        ));
    hello([
        "declare",
        &audit,
        "-e",
        &fanout,
        "--exchange-type",
        "fanout",
        "--bind",
        "",
    ])
    .run();
    hello(["declare", "-e", &topic, "--bind", "order.#"])
        .args(["--destination-exchange", &fanout])
        .run()
        .printed(&format!(
            " [x] Bound exchange '{fanout}' to exchange '{topic}' with 'order.#'\n"
        ));
    for key in ["order.1", "order.1.2", "mail.1.2", "order.3"] {
        hello(["send", "-e", &topic, "-r", key, key]).run();
    }
    let mut observer = Observer::new();
    assert_eq!(observer.drain(&name), ["order.1", "mail.1.2", "order.3"]);
    assert_eq!(observer.drain(&audit), ["order.1", "order.1.2", "order.3"]);

    let headers = queue("headers");
    hello(["declare", &headers, "-e", "amq.headers", "--bind", ""])
        .args(["--bind-argument", "x-match=all", "--bind-argument", "n=5"])
        .args(["--bind-argument", &format!("q={headers}")])
        .run();
    for n in ["5", "6"] {
        hello(["send", "-e", "amq.headers", "--allow-unroutable", "-H"])
            .args([&format!("n:={n}"), "-H", &format!("q: {headers}"), n])
            .run();
    }
    assert_eq!(observer.drain(&headers), ["5"]);

    hello(["declare", &name, "-e", "no-such-exchange", "--bind", "k"])
        .run()
        .failed(
            67,
            &[
                "cannot bind queue",
                "NOT_FOUND - no exchange 'no-such-exchange'",
            ],
        );
}

/// A topology with dead letters and a retry queue, whose names begin with `name`.
fn topology(name: &str) -> String {
    format!(
        r#"
[[bindings]]
exchange = "{name}"
queue = "{name}-orders"
routing_keys = ["order.*", "invoice.#"]

[[bindings]]
exchange = "{name}-dead"
queue = "{name}-dead"

[[queues]]
name = "{name}-orders"
type = "quorum"
delivery_limit = 5
dead_letter_exchange = "{name}-dead"

[[queues]]
name = "{name}-retry"
durable = true
message_ttl = "200ms"
dead_letter_exchange = ""
dead_letter_routing_key = "{name}-orders"

[[queues]]
name = "{name}-dead"
durable = true
max_length_bytes = "1MiB"
arguments = {{ x-queue-mode = "lazy", a = [1, "b"], t = {{ k = 1.5 }} }}

[[exchanges]]
name = "{name}"
type = "topic"
durable = true

[[exchanges]]
name = "{name}-dead"
type = "fanout"
durable = true
"#
    )
}

#[test]
fn a_whole_configuration_is_applied_and_applied_again() {
    let name = queue("all");
    let files = Files::new();
    let path = files.write("config.toml", &topology(&name));
    let hello = |words: &[&str]| hello(words).env("HELLO_MQ_CONFIG", &path);
    let lines = |state: &str| {
        format!(
            " [x] Exchange '{name}': {state}\n \
             [x] Exchange '{name}-dead': {state}\n \
             [x] Queue '{name}-orders': {state} (0 messages, 0 consumers)\n \
             [x] Queue '{name}-retry': {state} (0 messages, 0 consumers)\n \
             [x] Queue '{name}-dead': {state} (0 messages, 0 consumers)\n \
             [x] Binding of queue '{name}-orders' to exchange '{name}' with 'order.*': bound\n \
             [x] Binding of queue '{name}-orders' to exchange '{name}' with 'invoice.#': bound\n \
             [x] Binding of queue '{name}-dead' to exchange '{name}-dead' with '': bound\n"
        )
    };
    // A dry run says the operations in their order, and needs no broker.
    let explained = hello(&[
        "declare",
        "--all",
        "--explain",
        "-u",
        "amqp://nobody:secret@localhost:1",
    ])
    .run();
    assert_eq!(explained.status(), 0);
    let (_, operations) = explained.stdout.split_once("\n\n").unwrap();
    let mut said = operations.lines();
    assert_eq!(said.next(), Some("connect to amqp://nobody@localhost:1/"));
    let methods: Vec<_> = said.map(|line| line.split(' ').next().unwrap()).collect();
    let (exchange, declare, bind) = ("exchange.declare", "queue.declare", "queue.bind");
    assert_eq!(
        methods,
        [
            exchange,
            exchange,
            exchange,
            exchange,
            declare,
            declare,
            declare,
            declare,
            declare,
            declare,
            bind,
            bind,
            bind,
            "connection.close"
        ]
    );
    assert!(
        explained.stdout.contains(&format!(
            "queue.declare '{name}-retry' auto_delete=false durable=true x-dead-letter-exchange='' \
             x-dead-letter-routing-key={name}-orders x-message-ttl=200\n"
        )),
        "{}",
        explained.stdout
    );

    let missing = hello(&["declare", "--all", "--check"]).run();
    missing.failed(67, &["NOT_FOUND", "5 of 8 do not match the configuration"]);
    hello(&["declare", "--all"])
        .run()
        .printed(&lines("created"));
    hello(&["declare", "--all"])
        .run()
        .printed(&lines("already there"));
    let check = hello(&["declare", "--all", "--check"]).run();
    assert_eq!(
        (check.status(), check.stdout.matches("[x]").count()),
        (0, 5),
        "{check:?}"
    );

    // It does what it is for: what waits in the retry queue comes back, what is rejected is kept.
    hello(&["send", "-q", &format!("{name}-retry"), "again"]).run();
    hello(&[
        "receive",
        "-c1",
        &format!("{name}-orders"),
        "--",
        "sh",
        "-c",
        "exit 3",
    ])
    .run();
    hello(&["receive", "-c1", "-o", "body", &format!("{name}-dead")])
        .run()
        .printed("again\n");

    // send and receive made sure of these queues with their properties: nothing is different.
    hello(&["delete", &format!("{name}-dead")]).run();
    hello(&["send", "-q", &format!("{name}-dead"), "a"]).run();
    let listed = broker_tool("rabbitmqctl -q list_queues name durable arguments");
    let line = listed
        .lines()
        .find(|line| line.starts_with(&format!("{name}-dead\t")));
    assert_eq!(
        line.unwrap().split_once('\t').unwrap().1,
        "true\t[{\"a\",[1,\"b\"]},{\"t\",[{\"k\",1.5}]},{\"x-max-length-bytes\",1048576},{\"x-queue-mode\",\"lazy\"}]"
    );
    hello(&["delete", &format!("{name}-dead")]).run();
    hello(&["receive", "--drain", &format!("{name}-dead")]).run();
    let listed = broker_tool("rabbitmqctl -q list_queues name durable arguments");
    assert!(listed.lines().any(|other| Some(other) == line), "{listed}");
}

#[test]
fn what_fails_does_not_keep_the_rest_from_being_declared() {
    let name = queue("some");
    let files = Files::new();
    let path = files.write(
        "config.toml",
        &format!(
            "{}\n[[exchanges]]\nname = '{name}-plugin'\ntype = 'x-no-such-type'\n",
            topology(&name)
        ),
    );
    hello(["declare", &format!("{name}-retry"), "--max-priority", "5"]).run();
    let outcome = hello(["declare", "--all"])
        .env("HELLO_MQ_CONFIG", &path)
        .run();
    outcome.failed(
        76,
        &[
            "unknown exchange type 'x-no-such-type'",
            &format!("queue '{name}-retry' exists with other properties"),
            "--durable: wanted true, existing false\n",
            "--message-ttl: wanted 200ms, existing none\n",
            "--max-priority: wanted none, existing 5\n",
            "2 of 9 do not match the configuration",
        ],
    );
    assert_eq!(
        outcome.stdout.matches(" [x] ").count(),
        7,
        "{}",
        outcome.stdout
    );
    assert!(
        outcome
            .stdout
            .contains(&format!(" [ ] Queue '{name}-retry': different\n"))
    );
    assert!(
        outcome
            .stdout
            .contains(&format!(" [ ] Exchange '{name}-plugin': failed\n"))
    );

    // The same as objects.
    let outcome = hello(["declare", "--all", "-o", "json"])
        .env("HELLO_MQ_CONFIG", &path)
        .run();
    assert_eq!(outcome.status(), 76);
    let entries: Vec<serde_json::Value> = outcome
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(entries.len(), 9);
    let different = entries
        .iter()
        .find(|entry| entry["state"] == "different")
        .unwrap();
    assert_eq!(different["name"], format!("{name}-retry"));
    assert_eq!(
        different["differences"].as_array().unwrap().last().unwrap(),
        &serde_json::json!({"property": "x-message-ttl", "wanted": 200, "existing": null})
    );
    assert_eq!(
        different["declare"],
        format!("hello-mq declare {name}-retry --max-priority 5")
    );
    let states: Vec<_> = entries
        .iter()
        .map(|entry| entry["state"].as_str().unwrap())
        .collect();
    assert_eq!(
        states,
        [
            "exists",
            "exists",
            "failed",
            "exists",
            "different",
            "exists",
            "bound",
            "bound",
            "bound"
        ]
    );
}

#[test]
fn what_is_wrong_in_a_topology_is_named_with_its_line() {
    let files = Files::new();
    for (text, place) in [
        (
            "\n[[queues]]\nname='a'\n[[queues]]\nname='a'",
            ":4: [[queues]]: name: 'a' is defined twice",
        ),
        (
            "[[queues]]\ndurable=true",
            ":1: [[queues]]: name: is missing",
        ),
        (
            "[[queues]]\nname='a'\ntype='quorum'\nauto_delete=true",
            ":1: [[queues]]: auto_delete: a quorum queue",
        ),
        (
            "[[queues]]\nname='a'\nmessage_ttl=5",
            ":3: message_ttl: must be a string",
        ),
        (
            "[[queues]]\nname='a'\nmax_length=-5",
            ":3: max_length: invalid value: integer `-5`",
        ),
        (
            "[[queues]]\nname='a'\nmax_length_bytes='5x'",
            ":3: max_length_bytes: not a size",
        ),
        (
            "[[queues]]\nname='a'\nmesage_ttl='5s'",
            ":3: unknown key `mesage_ttl`",
        ),
        (
            "[[queues]]\nname='a'\narguments={x-expires=0}",
            ":1: [[queues]]: expires: must be at least 1",
        ),
        (
            "[[queues]]\nname='a'\narguments={x=1979-05-27}",
            ":3: arguments: 'x': RabbitMQ supports no dates",
        ),
        (
            "[[bindings]]\nexchange='a'",
            ":1: [[bindings]]: queue: a binding needs either",
        ),
        (
            "[[bindings]]\nqueue='a'",
            ":1: [[bindings]]: exchange: nothing can be bound",
        ),
        (
            "[[exchanges]]\nname='a'\ntype='topik'",
            ":3: type: must be direct",
        ),
        (
            "[[exchanges]]\ntype='topic'",
            ":1: [[exchanges]]: name: is missing",
        ),
    ] {
        let path = files.write("bad.toml", text);
        hello(["send", "a"])
            .env("HELLO_MQ_CONFIG", path)
            .env("HELLO_MQ_URL", "amqp://localhost:1")
            .run()
            .failed(78, &[place]);
    }
    let path = files.write("empty.toml", "");
    hello(["declare", "--all"])
        .env("HELLO_MQ_CONFIG", path)
        .run()
        .failed(
            78,
            &["--all: there is no configuration file, or it has no [[queues]]"],
        );
}

#[test]
fn a_queue_that_the_configuration_defines_is_declared_so() {
    let files = Files::new();
    let name = queue("defined");
    let text = format!("[[queues]]\nname = '{name}'\ndurable = true\nmax_length = 7");
    let path = files.write("config.toml", &text);
    let declare = |options: &[&str]| {
        hello(["declare", &name])
            .args(options)
            .env("HELLO_MQ_CONFIG", &path)
            .run()
    };
    let declared = format!(" [x] Declared '{name}' (0 messages, 0 consumers)\n");
    declare(&[]).printed(&declared);
    // The configuration's properties, and not the tutorial's, nor a mixture with the command line's.
    hello(["declare", &name, "--durable", "--max-length", "7"])
        .run()
        .printed(&declared);
    declare(&["--durable"]).failed(76, &["--max-length: wanted none, existing 7"]);
    hello(["declare", &name])
        .run()
        .failed(76, &["--durable: wanted false, existing true"]);
}

#[test]
fn send_and_receive_declare_a_queue_as_declare_does() {
    let files = Files::new();
    for (verb, properties) in [
        (
            "send",
            "durable = true\nmax_length = 7\noverflow = 'reject-publish'",
        ),
        (
            "send",
            "durable = true\narguments = { x-max-priority = 3, x-single-active-consumer = true }",
        ),
        ("send", "type = 'quorum'\ndelivery_limit = 7"),
        (
            "receive --peek",
            "auto_delete = true\ndead_letter_exchange = 'amq.fanout'",
        ),
        (
            "receive",
            "type = 'stream'\narguments = { x-max-age = '2D' }",
        ),
        (
            "receive --peek",
            "arguments = { own = [1.5, 'x', { deep = -70000 }] }",
        ),
    ] {
        let name = queue("same");
        let text = format!("[[queues]]\nname = '{name}'\n{properties}");
        let path = files.write("config.toml", &text);
        let with = |line: &str| {
            hello(line.split(' '))
                .env("HELLO_MQ_CONFIG", &path)
                .env("HELLO_MQ_QUEUE", &name)
                .run()
        };
        let _ = match verb {
            "send" => with("send hello"),
            _ => with(&format!("{verb} --timeout 1s")),
        };
        let declared = hello(["declare", &name]).env("HELLO_MQ_CONFIG", &path);
        declared.run().printed_what_contains(&name);
    }
}

#[test]
fn a_queue_is_purged_and_deleted() {
    let name = queue("gone");
    let missing = |verb: &str| {
        format!(
            "hello-mq: there is no queue '{name}' on {}; nothing to {verb}\n",
            shown_url()
        )
    };
    for verb in ["purge", "delete"] {
        let outcome = hello([verb, &name]).run();
        assert_eq!((outcome.status(), outcome.stdout.as_str()), (0, ""));
        assert_eq!(outcome.stderr, missing(verb));
        hello([verb]).run().failed(64, &["no queue given"]);
        hello([verb])
            .env("HELLO_MQ_QUEUE", &name)
            .run()
            .failed(64, &["no queue given"]);
    }
    hello(["send", "-q", &name, "a", "b"]).run();
    hello(["purge", &name])
        .run()
        .printed(&format!(" [x] Purged '{name}' (2 messages)\n"));
    hello(["purge", "-q", &name])
        .run()
        .printed(&format!(" [x] Purged '{name}' (0 messages)\n"));
    hello(["send", "-q", &name, "a"]).run();
    hello(["delete", "--if-empty", &name])
        .run()
        .failed(76, &["not empty", "omit --if-empty"]);
    let mut consumer = hello(["receive", &name]).spawn();
    consumer.expect("'a'\n");
    hello(["delete", "--if-unused", &name])
        .run()
        .failed(76, &["in use", "omit --if-unused"]);
    consumer.stop(nix::sys::signal::Signal::SIGINT);
    hello(["send", "-q", &name, "a"]).run();
    hello(["delete", &name])
        .run()
        .printed(&format!(" [x] Deleted '{name}' (1 message)\n"));
    hello(["declare", "--check", &name])
        .run()
        .failed(67, &["NOT_FOUND"]);

    let exchange = queue("exchange");
    hello([
        "declare",
        &name,
        "-e",
        &exchange,
        "--exchange-type",
        "fanout",
        "--bind",
        "",
    ])
    .run();
    hello(["delete", "--if-unused", "-e", &exchange])
        .run()
        .failed(76, &["in use"]);
    hello(["delete", "-e", &exchange])
        .run()
        .printed(&format!(" [x] Deleted exchange '{exchange}'\n"));
    let outcome = hello(["delete", "-e", &exchange]).run();
    assert_eq!(outcome.status(), 0);
    assert!(
        outcome.stderr.contains("there is no exchange"),
        "{outcome:?}"
    );
    hello(["delete", "-e", "amq.topic"])
        .run()
        .failed(77, &["system exchange", "reserved for the broker"]);
    hello(["delete", "-e", ""])
        .run()
        .failed(64, &["default exchange"]);
}

#[test]
fn what_is_taken_away_is_told_in_json_too() {
    let (name, exchange) = (queue("json"), queue("json-exchange"));
    let of = |words: &[&str], expected: &str| {
        let line = format!("{expected}\n");
        hello(words).args(["-o", "json"]).run().printed(&line);
    };
    let of_queue = |rest: &str| format!(r#"{{"kind":"queue","name":"{name}","state":{rest}}}"#);
    of(&["purge", &name], &of_queue(r#""missing""#));
    hello(["send", "-q", &name, "a", "b"]).run();
    of(&["purge", &name], &of_queue(r#""purged","messages":2"#));
    hello(["send", "-q", &name, "a"]).run();
    of(&["delete", &name], &of_queue(r#""deleted","messages":1"#));
    of(&["delete", &name], &of_queue(r#""missing""#));
    hello(["declare", "-e", &exchange]).run();
    for state in ["deleted", "missing"] {
        of(
            &["delete", "-e", &exchange],
            &format!(r#"{{"kind":"exchange","name":"{exchange}","state":"{state}"}}"#),
        );
    }
    let explained = hello(["purge", &name, "-o", "json", "--explain"]).run();
    let explained: serde_json::Value = serde_json::from_str(&explained.stdout).unwrap();
    assert_eq!(explained["settings"]["queue"]["value"], name);
    assert_eq!(explained["operations"][2], format!("queue.purge '{name}'"));
}

#[test]
fn what_the_type_of_a_queue_does_not_allow_is_explained() {
    let (stream, quorum) = (queue("stream"), queue("quorum"));
    hello(["declare", &stream, "--type", "stream"]).run();
    hello(["send", "-q", &stream, "a"]).run();
    hello(["purge", &stream])
        .run()
        .failed(76, &["NOT_IMPLEMENTED", "a stream keeps its messages"]);
    hello(["delete", &stream]).run();
    hello(["declare", &quorum, "--type", "quorum"]).run();
    hello(["delete", "--if-empty", &quorum])
        .run()
        .failed(76, &["NOT_IMPLEMENTED", "supports neither --if-empty nor"]);
    hello(["delete", &quorum]).run();
}

#[test]
fn on_a_terminal_messages_are_not_lost_without_a_yes() {
    let name = queue("asked");
    hello(["send", "-q", &name, "a", "b"]).run();
    // script gives the command a terminal, and types what it reads.
    let asked = |answer: &str, words: &str| {
        shell(&format!(
            "printf '%b' '{answer}' | script -qec \"$H {words}\" /dev/null"
        ))
        .run()
    };
    for verb in ["purge", "delete"] {
        let outcome = asked("n\\n", &format!("{verb} {name}"));
        assert_eq!(outcome.status(), 1, "{outcome:?}");
        assert!(outcome.stdout.contains("2 messages"), "{outcome:?}");
        assert!(outcome.stdout.contains("[y/N]"), "{outcome:?}");
        assert!(outcome.stdout.contains("nothing was done"), "{outcome:?}");
    }
    assert_eq!(Observer::new().messages(&name), 2);
    let outcome = asked("y\\n", &format!("purge {name}"));
    assert_eq!(outcome.status(), 0, "{outcome:?}");
    assert!(outcome.stdout.contains("Purged"), "{outcome:?}");
    hello(["send", "-q", &name, "a"]).run();
    let outcome = asked("", &format!("delete --yes {name}"));
    assert!(!outcome.stdout.contains("[y/N]"), "{outcome:?}");
    assert!(outcome.stdout.contains("Deleted"), "{outcome:?}");
}
