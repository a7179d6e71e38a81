use crate::support::{Observer, broker_tool, hello, queue, shell, shown_url};

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

/// What there is, as rabbitmqctl lists it: name, then the columns asked for.
fn listed(what: &str) -> impl Fn(&str) -> String {
    let list = broker_tool(&format!("rabbitmqctl -q {what}"));
    move |name| {
        let start = format!("{name}\t");
        let line = list.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_default().to_owned()
    }
}

const QUEUES: &str = "list_queues name durable auto_delete arguments";

/// Every option of a queue: what is typed, and what the broker has then.
const OPTIONS: &[(&str, &str)] = &[
    ("", "false\tfalse\t[]"),
    ("--durable", "true\tfalse\t[]"),
    ("--durable --auto-delete", "true\ttrue\t[]"),
    (
        "--type classic",
        "false\tfalse\t[{\"x-queue-type\",\"classic\"}]",
    ),
    (
        "--type quorum",
        "true\tfalse\t[{\"x-queue-type\",\"quorum\"}]",
    ),
    (
        "--type stream --max-length-bytes 1GiB --argument x-max-age=7D",
        "true\tfalse\t[{\"x-max-age\",\"7D\"},{\"x-max-length-bytes\",1073741824},{\"x-queue-type\",\"stream\"}]",
    ),
    (
        "--message-ttl 1m30s",
        "false\tfalse\t[{\"x-message-ttl\",90000}]",
    ),
    ("--expires 500ms --expires 1h", ""),
    ("--expires 1h", "false\tfalse\t[{\"x-expires\",3600000}]"),
    ("--max-length 0", "false\tfalse\t[{\"x-max-length\",0}]"),
    (
        "--max-length-bytes 10MB",
        "false\tfalse\t[{\"x-max-length-bytes\",10000000}]",
    ),
    (
        "--max-length-bytes 5TiB",
        "false\tfalse\t[{\"x-max-length-bytes\",5497558138880}]",
    ),
    (
        "--overflow reject-publish-dlx",
        "false\tfalse\t[{\"x-overflow\",\"reject-publish-dlx\"}]",
    ),
    (
        "--dead-letter-exchange amq.topic --dead-letter-routing-key dead",
        "false\tfalse\t[{\"x-dead-letter-exchange\",\"amq.topic\"},{\"x-dead-letter-routing-key\",\"dead\"}]",
    ),
    (
        "--dead-letter-exchange=",
        "false\tfalse\t[{\"x-dead-letter-exchange\",[]}]",
    ),
    (
        "--max-priority 255",
        "false\tfalse\t[{\"x-max-priority\",255}]",
    ),
    (
        "--type quorum --delivery-limit 5",
        "true\tfalse\t[{\"x-delivery-limit\",5},{\"x-queue-type\",\"quorum\"}]",
    ),
    (
        "--single-active-consumer",
        "false\tfalse\t[{\"x-single-active-consumer\",true}]",
    ),
    (
        "--argument a=5 --argument b=true --argument c=text --argument d:=\"7\" --argument e=-1.5 --argument f=a=b",
        "false\tfalse\t[{\"a\",5},{\"b\",true},{\"c\",\"text\"},{\"d\",\"7\"},{\"e\",-1.5},{\"f\",\"a=b\"}]",
    ),
    (
        "--argument a:=[1,\"x\"] --argument b:={\"k\":1}",
        "false\tfalse\t[{\"a\",[1,\"x\"]},{\"b\",[{\"k\",1}]}]",
    ),
];

/// The name of a queue, and words that were typed with blanks between.
fn words<'w>(name: &'w str, options: &'w str) -> Vec<&'w str> {
    let options = options.split(' ').filter(|word| !word.is_empty());
    ["declare", name].into_iter().chain(options).collect()
}

#[test]
fn every_option_reaches_the_broker() {
    let names: Vec<_> = OPTIONS.iter().map(|_| queue("option")).collect();
    for ((options, expected), name) in OPTIONS.iter().zip(&names) {
        let outcome = hello(words(name, options)).run();
        if expected.is_empty() {
            outcome.failed(64, &["cannot be used multiple times"]);
        } else {
            outcome.printed(&format!(
                " [x] Declared '{name}' (0 messages, 0 consumers)\n"
            ));
        }
    }
    let of = listed(QUEUES);
    for ((options, expected), name) in OPTIONS.iter().zip(&names) {
        assert_eq!(of(name), *expected, "{options}");
    }
}

#[test]
fn the_broker_names_a_queue_without_a_name() {
    let shown = hello(["declare", "", "--expires", "1m"]).run();
    let name = shown.stdout.split('\'').nth(1).unwrap().to_owned();
    assert!(name.starts_with("amq.gen-"), "{shown:?}");
    hello(["send", "--no-declare", "-q", &name, "a"])
        .run()
        .printed(" [x] Sent 'a'\n");
    let json = hello([
        "declare",
        "",
        "--expires",
        "1m",
        "-e",
        "amq.topic",
        "--bind",
        "k",
        "-o",
        "json",
    ])
    .run()
    .stdout;
    let other = json.split('"').nth(7).unwrap().to_owned();
    assert!(other.starts_with("amq.gen-") && other != name, "{json}");
    assert!(
        json.contains(&format!(r#""destination":"{other}""#)),
        "{json}"
    );
    hello(["send", "-e", "amq.topic", "-r", "k", "b"])
        .run()
        .printed(" [x] Sent 'b'\n");
    assert_eq!(Observer::new().drain(&other), ["b"]);
}

#[test]
fn a_rule_is_checked_before_anything_is_sent() {
    for (options, parts) in [
        (
            "--type quorum --auto-delete",
            &["--auto-delete: a quorum queue"][..],
        ),
        (
            "--type stream --auto-delete",
            &["--auto-delete: a stream queue"],
        ),
        (
            "--type mirrored",
            &["'--type <TYPE>'", "classic, quorum, stream"],
        ),
        (
            "--message-ttl -5s",
            &["'--message-ttl <DURATION>'", "not a duration"],
        ),
        (
            "--message-ttl 5",
            &["'--message-ttl <DURATION>'", "500ms, 5s"],
        ),
        (
            "--message-ttl 5us",
            &["'--message-ttl <DURATION>'", "whole number of milliseconds"],
        ),
        (
            "--argument x-message-ttl=-1",
            &["--message-ttl: must be at least 0"],
        ),
        ("--expires 0s", &["--expires: must be at least 1"]),
        ("--max-length -1", &["'--max-length <N>'"]),
        (
            "--max-length-bytes 10parsecs",
            &["'--max-length-bytes <SIZE>'", "64KiB"],
        ),
        (
            "--overflow drop-tail",
            &["'--overflow <WHAT>'", "drop-head"],
        ),
        ("--max-priority 256", &["'--max-priority <N>'", "0..=255"]),
        (
            "--argument x-max-priority=256",
            &["--max-priority: must be an integer from 0 to 255"],
        ),
        (
            "--type quorum --max-priority 3",
            &["--max-priority: is for classic queues"],
        ),
        (
            "--type classic --delivery-limit 3",
            &["--delivery-limit: is for quorum queues"],
        ),
        (
            "--type stream --message-ttl 1s",
            &["--message-ttl: is for classic and quorum queues"],
        ),
        (
            "--type stream --single-active-consumer",
            &["--single-active-consumer: is for"],
        ),
        (
            "--type quorum --argument x-max-age=1D",
            &["--argument: x-max-age: is for stream queues"],
        ),
        (
            "--dead-letter-routing-key k",
            &["--dead-letter-routing-key: needs a dead-letter exchange"],
        ),
        (
            "--max-length 1 --argument x-max-length=2",
            &["--argument: x-max-length: is given twice"],
        ),
        ("--argument x", &["'--argument <KEY=VALUE>'", "KEY:=JSON"]),
        ("--argument =x", &["name can't be empty"]),
        ("--argument a:={", &["'--argument <KEY=VALUE>'"]),
        (
            "-e x --exchange-type topik",
            &["'--exchange-type <TYPE>'", "direct, fanout, topic, headers"],
        ),
        (
            "-e= --exchange-type topic",
            &["--exchange: the default exchange always exists"],
        ),
        (
            "-e= --bind k",
            &["--exchange: nothing can be bound to the default exchange"],
        ),
        (
            "-e x --bind k --internal",
            &["--exchange-type: with --bind, the exchange is declared only if"],
        ),
        ("--bind k", &["--exchange <NAME>"]),
        ("--all", &["--all", "QUEUE"]),
    ] {
        // Nobody listens there: whoever would connect ends with 69.
        hello(words("rule", options))
            .env("HELLO_MQ_URL", "amqp://localhost:1")
            .run()
            .failed(64, parts);
    }
}

/// A property alone, or several: how the queue is, how it is wanted, and what is said of it.
const MISMATCHES: &[(&str, &str, &[&str])] = &[
    ("", "--durable", &["--durable: wanted true, existing false"]),
    (
        "--durable",
        "--auto-delete --durable",
        &["--auto-delete: wanted true, existing false"],
    ),
    (
        "--durable",
        "--type quorum",
        &["--type: wanted quorum, existing classic"],
    ),
    (
        "--type quorum",
        "--durable",
        &["--type: wanted none, existing quorum"],
    ),
    (
        "--message-ttl 1m",
        "--message-ttl 30s",
        &["--message-ttl: wanted 30s, existing 1m"],
    ),
    ("--expires 1h", "", &["--expires: wanted none, existing 1h"]),
    (
        "",
        "--max-length 5",
        &["--max-length: wanted 5, existing none"],
    ),
    (
        "--max-length-bytes 5",
        "--max-length-bytes 5KiB",
        &["--max-length-bytes: wanted 5120, existing 5"],
    ),
    (
        "--overflow drop-head",
        "--overflow reject-publish",
        &["--overflow: wanted reject-publish, existing drop-head"],
    ),
    (
        "--dead-letter-exchange=",
        "--dead-letter-exchange x",
        &["--dead-letter-exchange: wanted x, existing ''"],
    ),
    (
        "--dead-letter-exchange x --dead-letter-routing-key it's\u{a0}1",
        "--dead-letter-exchange x",
        &["--dead-letter-routing-key: wanted none, existing 'it\\'s\\u{a0}1'"],
    ),
    (
        "--max-priority 5",
        "--max-priority 9",
        &["--max-priority: wanted 9, existing 5"],
    ),
    (
        "--type quorum --delivery-limit 5",
        "--type quorum",
        &["--delivery-limit: wanted none, existing 5"],
    ),
    (
        "--single-active-consumer",
        "",
        &["--single-active-consumer: wanted none, existing true"],
    ),
    (
        "--argument x-queue-mode=lazy",
        "--argument x-queue-mode=default",
        &["--argument x-queue-mode: wanted default, existing lazy"],
    ),
    (
        "--type stream --argument x-max-age=7D",
        "--type stream --argument x-max-age=1D",
        &["--argument x-max-age: wanted 1D, existing 7D"],
    ),
    (
        "--durable --message-ttl 1m --max-length 10",
        "--type quorum --message-ttl 30s --delivery-limit 5 --max-length 10",
        &[
            "--delivery-limit: wanted 5, existing none",
            "--message-ttl: wanted 30s, existing 1m",
            "--type: wanted quorum, existing classic",
        ],
    ),
    (
        "--durable --max-priority 5 --expires 2h --dead-letter-exchange x",
        "--max-length 5 --overflow reject-publish --message-ttl 1s --single-active-consumer",
        &[
            "--durable: wanted false, existing true",
            "--dead-letter-exchange: wanted none, existing x",
            "--expires: wanted none, existing 2h",
            "--max-length: wanted 5, existing none",
            "--max-priority: wanted none, existing 5",
            "--message-ttl: wanted 1s, existing none",
            "--overflow: wanted reject-publish, existing none",
            "--single-active-consumer: wanted true, existing none",
        ],
    ),
    (
        "--type stream --max-length-bytes 1GB",
        "--max-priority 5 --auto-delete",
        &[
            "--auto-delete: wanted true, existing false",
            "--durable: wanted false, existing true",
            "--max-length-bytes: wanted none, existing 1000000000",
            "--max-priority: wanted 5, existing none",
            "--type: wanted none, existing stream",
        ],
    ),
    (
        "--max-priority 5",
        "--type stream --argument x-max-age=1D",
        &[
            "--durable: wanted true, existing false",
            "--argument x-max-age: wanted 1D, existing none",
            "--max-priority: wanted none, existing 5",
            "--type: wanted stream, existing classic",
        ],
    ),
];

#[test]
fn a_mismatch_is_explained_property_by_property() {
    let names: Vec<_> = MISMATCHES.iter().map(|_| queue("it's different")).collect();
    for ((existing, _, _), name) in MISMATCHES.iter().zip(&names) {
        let outcome = hello(words(name, existing)).run();
        assert_eq!(outcome.status(), 0, "{outcome:?}");
    }
    let before = broker_tool(&format!("rabbitmqctl -q {QUEUES}"));
    for ((existing, wanted, expected), name) in MISMATCHES.iter().zip(&names) {
        let outcome = hello(words(name, wanted)).run();
        outcome.failed(
            76,
            &[
                "exists with other properties on",
                &shown_url(),
                "PRECONDITION_FAILED - inequivalent arg",
            ],
        );
        let said: Vec<_> = outcome
            .stderr
            .lines()
            .filter_map(|line| line.strip_prefix("hello-mq: "))
            .filter(|line| line.starts_with("--"))
            .collect();
        assert_eq!(said, *expected, "{existing} / {wanted}");
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

        // A check finds the same, and a check of what there is finds nothing.
        if !wanted.is_empty() {
            hello(words(name, wanted).into_iter().chain(["--check"]))
                .run()
                .failed(76, expected);
        }
        let same = hello(words(name, existing).into_iter().chain(["--check"])).run();
        same.printed(&format!(
            " [x] Queue '{}' exists (0 messages, 0 consumers)\n",
            name.replace('\'', "\\'")
        ));
    }
    let mut lines: Vec<_> = before.lines().collect();
    let after = broker_tool(&format!("rabbitmqctl -q {QUEUES}"));
    lines.retain(|line| line.starts_with("it's different") && !after.contains(line));
    assert_eq!(lines, Vec::<&str>::new(), "nothing changes");
}

#[test]
fn what_the_broker_cuts_off_is_found_or_said_to_be_missing() {
    // The broker has 255 bytes for its words, and the name takes most of them.
    let name = format!("{}{}", queue("long"), "n".repeat(70));
    hello(words(
        &name,
        "--durable --dead-letter-exchange dead-letters --max-length 7",
    ))
    .run();
    let outcome = hello(words(
        &name,
        &format!("--dead-letter-exchange {}", "x".repeat(100)),
    ))
    .run();
    outcome.failed(
        76,
        &[
            "--durable: wanted false, existing true\n",
            "existing dead-letters\n",
            "--max-length: wanted none, existing 7\n",
            &format!("hello-mq declare {name} --durable --dead-letter-exchange dead-letters --max-length 7\n"),
        ],
    );
    let name = format!("{}{}", queue("longer"), "n".repeat(175));
    hello(words(&name, "--durable --max-length 7")).run();
    hello(words(&name, "--max-length 8")).run().failed(
        76,
        &[
            "--durable: wanted false, existing true\n",
            "--max-length: wanted 8, existing unknown, because the broker's message was truncated\n",
            "the broker did not report everything",
            "rabbitmqctl list_queues name durable auto_delete arguments",
        ],
    );
}

#[test]
fn what_means_the_same_is_no_difference() {
    crate::support::what_means_the_same_is_no_difference();
}

#[test]
fn comparing_makes_nothing() {
    crate::support::comparing_makes_nothing();
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
            .failed(64, &["can have at most 255 bytes", "256"]);
    }
}

#[test]
fn what_only_the_broker_knows_to_be_wrong_gets_a_hint() {
    let name = queue("refused");
    hello(["declare", &name, "--delivery-limit", "5"])
        .run()
        .failed(
            76,
            &["x-delivery-limit", "hint: classic queues do not support it"],
        );
    hello(["declare", &name, "--message-ttl", "9999999h"])
        .run()
        .failed(76, &["x-message-ttl", "hint: use a smaller value"]);
}

#[test]
fn a_name_is_shown_so_that_it_can_not_move_the_cursor() {
    let name = format!("{}\u{1b}[2J'é", queue("odd"));
    let shown = hello(["declare", &name]).run().stdout;
    assert!(shown.contains("\\x1b[2J\\'é'"), "{shown:?}");
}

#[test]
fn a_check_tells_no_more_than_it_knows() {
    let name = queue("known");
    hello(["declare", "--type", "quorum", &name]).run();
    let check = |more: &[&str]| {
        let outcome = hello(["declare", "--check", "-o", "json"]).args(more).run();
        assert_eq!(outcome.status(), 0, "{outcome:?}");
        outcome.stdout
    };
    let counts = "\"state\":\"exists\",\"messages\":0,\"consumers\":0";
    assert_eq!(
        check(&[&name]),
        format!("{{\"kind\":\"queue\",\"name\":\"{name}\",{counts}}}\n")
    );
    assert_eq!(
        check(&[&name, "--type", "quorum"]),
        format!(
            "{{\"kind\":\"queue\",\"name\":\"{name}\",{counts},\"durable\":true,\"auto_delete\":false,\
             \"arguments\":{{\"x-queue-type\":\"quorum\"}}}}\n"
        )
    );
    assert_eq!(
        check(&["-e", "amq.topic"]),
        "{\"kind\":\"exchange\",\"name\":\"amq.topic\",\"state\":\"exists\"}\n"
    );
}

#[test]
fn a_virtual_hosts_default_queue_type_is_for_durable_queues() {
    let (host, plain, durable) = (queue("host"), queue("plain"), queue("durable"));
    for line in [
        format!("rabbitmqctl -q add_vhost --default-queue-type quorum {host}"),
        format!("rabbitmqctl -q set_permissions -p {host} guest .* .* .*"),
    ] {
        broker_tool(&line);
    }
    hello(["send", "--vhost", &host, "-q", &plain, "a"]).run();
    for _ in 0..2 {
        hello(["declare", "--vhost", &host, "--durable", &durable])
            .run()
            .printed(&format!(
                " [x] Declared '{durable}' (0 messages, 0 consumers)\n"
            ));
    }
    let listed = broker_tool(&format!(
        "rabbitmqctl -q list_queues -p {host} name type durable"
    ));
    for line in [
        format!("{plain}\tclassic\tfalse"),
        format!("{durable}\tquorum\ttrue"),
    ] {
        assert!(listed.lines().any(|listed| listed == line), "{listed}");
    }
    broker_tool(&format!("rabbitmqctl -q delete_vhost {host}"));
}
