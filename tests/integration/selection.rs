//! `--where` and `--map`: what is chosen is taken, what is not stays as it was, on every series.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{Files, Hello, Observer, Outcome, hello, queue, url};

const MESSAGES: u32 = 10_000;

/// Every seventh message matches.
const MATCHES: &str = ".properties.headers.shop == 0";

fn declare(kind: &str, more: &[&str]) -> String {
    let name = queue("where");
    let declare = ["declare", "--quiet", "--durable", "--type", kind, &name];
    hello(declare).args(more).run().printed("");
    name
}

/// A message with a body, a property and headers.
fn envelope(queue: &str, number: u32) -> Value {
    json!({
        "exchange": "",
        "routing_key": queue,
        "properties": {
            "message_id": format!("m{number}"),
            "delivery_mode": 2,
            "headers": {"shop": number % 7, "of": {"list": [number, "x", null]}},
        },
        "payload_bytes": number.to_string().len(),
        "payload": number.to_string(),
        "payload_encoding": "string",
    })
}

fn fill(queue: &str, messages: u32) {
    let lines = (1..=messages).map(|number| envelope(queue, number).to_string() + "\n");
    hello(["send", "--quiet", "--no-declare", "--jsonl"])
        .stdin(lines.collect::<String>())
        .run()
        .printed("");
}

fn send<'a>(queue: &'a str, bodies: impl IntoIterator<Item = &'a str>) {
    let send = ["send", "--quiet", "--no-declare", "-r", queue];
    hello(send.into_iter().chain(bodies)).run().printed("");
}

fn receive(queue: &str, more: &[&str]) -> Hello {
    hello(["receive", "--no-declare", "-o", "body"]).args([more, &[queue]].concat())
}

/// Takes all messages out of a queue, without what looking at them may change.
fn rest(queue: &str) -> Vec<Value> {
    let drain = [
        "receive",
        "--no-declare",
        "--quiet",
        "--drain",
        "-o",
        "json",
        queue,
    ];
    let outcome = hello(drain).run();
    assert_eq!((outcome.status(), outcome.stderr.as_str()), (0, ""));
    let message = |line: &str| {
        let mut message: Value = serde_json::from_str(line).unwrap();
        let fields = message.as_object_mut().unwrap();
        fields.remove("received_at");
        fields.remove("redelivered");
        if let Some(headers) = message.pointer_mut("/properties/headers") {
            let headers = headers.as_object_mut().unwrap();
            headers.remove("x-delivery-count");
            headers.remove("x-acquired-count");
        }
        message
    };
    outcome.stdout.lines().map(message).collect()
}

fn bodies(queue: &str) -> Vec<String> {
    let body = |message: Value| message["payload"].as_str().unwrap().to_owned();
    rest(queue).into_iter().map(body).collect()
}

fn numbers(printed: &str) -> Vec<u32> {
    let lines = printed.lines();
    lines.map(|line| line.trim().parse().unwrap()).collect()
}

/// Waits until the broker has noticed the end of a consumer.
fn wait_until_unused(queue: &str) {
    let mut observer = Observer::new();
    let start = Instant::now();
    loop {
        let channel = observer.channel();
        let found = channel.queue_declare_passive(queue).unwrap();
        if found.declared_consumer_count() == Some(0) {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{queue} is used");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Everything but these messages is in a queue, unchanged and in order.
#[track_caller]
fn stays(queue: &str, messages: u32, taken: &[u32]) {
    let taken: BTreeSet<_> = taken.iter().copied().collect();
    let left: Vec<_> = (1..=messages).filter(|it| !taken.contains(it)).collect();
    Observer::new().settles_at(queue, u32::try_from(left.len()).unwrap());
    let left: Vec<_> = left.into_iter().map(|it| envelope(queue, it)).collect();
    assert!(rest(queue) == left, "{queue} has changed");
}

fn drained(kind: &str, prefetch: &str, messages: u32) {
    let name = declare(kind, &[]);
    fill(&name, messages);
    let more = ["--drain", "--where", MATCHES, "--prefetch", prefetch];
    let outcome = receive(&name, &more).run();
    assert_eq!((outcome.status(), outcome.stderr.as_str()), (0, ""));
    let taken: Vec<_> = (1..=messages).filter(|it| it % 7 == 0).collect();
    assert_eq!(numbers(&outcome.stdout), taken);
    stays(&name, messages, &taken);
}

/// Ends a receiver in the middle. Returns what it has printed.
fn ended(name: &str, signal: Signal) -> (Vec<u32>, Outcome) {
    fill(name, MESSAGES);
    // More than a pipe takes, so that it is in the middle as long as nobody reads.
    let padding = " ".repeat(200);
    let line = format!("%s{padding}\\n");
    let mut receiver = hello(["receive", "--no-declare", "--drain", "--where", MATCHES])
        .args(["--format", &line, name])
        .spawn();
    let begin = receiver.expect(&format!("\n350{padding}\n"));
    let (outcome, _) = receiver.stop(signal);
    let mut taken = numbers(&begin);
    // It may be killed within a line.
    let whole = outcome.stdout.rfind('\n').map_or(0, |end| end + 1);
    taken.extend(numbers(&outcome.stdout[..whole]));
    assert!(taken.iter().all(|it| it % 7 == 0), "{taken:?}");
    (taken, outcome)
}

fn interrupted(kind: &str) {
    let name = declare(kind, &[]);
    let (taken, outcome) = ended(&name, Signal::SIGINT);
    assert_eq!((outcome.status(), outcome.stderr.as_str()), (0, ""));
    assert!(taken.len() < 1_400, "it was over");
    stays(&name, MESSAGES, &taken);
}

fn killed(kind: &str) {
    let name = declare(kind, &[]);
    let (taken, _) = ended(&name, Signal::SIGKILL);
    wait_until_unused(&name);
    let left = rest(&name);
    let others = |number: &u32| number % 7 > 0;
    let number = |message: &Value| message["payload"].as_str().unwrap().parse::<u32>().unwrap();
    let found: Vec<_> = left.iter().map(number).collect();
    let all: BTreeSet<_> = found.iter().chain(&taken).copied().collect();
    assert_eq!(all.len(), MESSAGES as usize, "{kind}: some are lost");
    let found: Vec<_> = found.into_iter().filter(others).collect();
    assert!(
        found.into_iter().eq((1..=MESSAGES).filter(others)),
        "{kind}"
    );
    assert!(left.iter().all(|it| *it == envelope(&name, number(it))));
}

#[test]
fn every_seventh_of_ten_thousand_is_taken_and_the_rest_stays_as_it_was() {
    thread::scope(|scope| {
        for kind in ["classic", "quorum"] {
            scope.spawn(move || drained(kind, "256", MESSAGES));
            scope.spawn(move || drained(kind, "1", 500));
            scope.spawn(move || drained(kind, "7", 1_000));
            scope.spawn(move || interrupted(kind));
            scope.spawn(move || killed(kind));
        }
    });
}

#[test]
fn queues_with_other_rules_keep_theirs() {
    let cases = [
        ("classic", "--single-active-consumer", ""),
        ("quorum", "--single-active-consumer", ""),
        ("classic", "--argument=x-queue-mode=lazy", ""),
        ("classic", "--argument=x-expires:=1000", ""),
        ("classic", "--max-length=100000", "--exclusive"),
        ("quorum", "--delivery-limit=5", ""),
    ];
    thread::scope(|scope| {
        for (kind, property, option) in cases {
            scope.spawn(move || {
                let name = declare(kind, &[property]);
                fill(&name, 1_000);
                let more = ["--where", MATCHES, "-c", "100", "--prefetch", "16"];
                let option = option.split_whitespace();
                let outcome = receive(&name, &more).args(option).run();
                let taken: Vec<_> = (1..=100).map(|number| 7 * number).collect();
                assert_eq!(numbers(&outcome.stdout), taken, "{outcome:?}");
                stays(&name, 1_000, &taken);
            });
        }
    });
}

#[test]
fn an_auto_delete_queue_is_never_without_a_consumer_meanwhile() {
    // Only exclusive queues may be like that everywhere.
    let name = queue("where");
    let durable = ["declare", "--quiet", "--durable", "--auto-delete", &name];
    hello(durable).run().printed("");
    fill(&name, 1_000);
    let more = ["--where", MATCHES, "-c", "142", "--prefetch", "16"];
    let outcome = receive(&name, &more).run();
    assert_eq!(outcome.status(), 0, "{outcome:?}");
    assert_eq!(numbers(&outcome.stdout).len(), 142);
}

#[test]
fn messages_of_each_priority_stay_in_order() {
    let name = declare("classic", &["--max-priority", "5"]);
    for number in 1..=9 {
        let (priority, body) = ((number % 3).to_string(), number.to_string());
        let send = ["send", "--quiet", "--no-declare", "-r", &name];
        hello(send)
            .args(["--priority", &priority, &body])
            .run()
            .printed("");
    }
    receive(&name, &["--drain", "--where", ".payload == \"5\""])
        .run()
        .printed("5\n");
    assert_eq!(bodies(&name), ["2", "8", "1", "4", "7", "3", "6", "9"]);
}

#[test]
fn a_number_of_matches_or_a_time_ends_it() {
    let name = declare("quorum", &[]);
    fill(&name, 1_000);
    let matches = ["--where", MATCHES];
    let outcome = receive(&name, &["-c", "3"]).args(matches).run();
    outcome.printed("7\n14\n21\n");
    for (limit, reason) in [
        ("--drain", "the queue is empty (--drain)"),
        ("--idle-timeout=300ms", "--idle-timeout"),
        ("--timeout=1s", "--timeout"),
    ] {
        let more = [limit, "-c", "1", "--where", ".payload == \"1001\""];
        let said = format!("received 0 of 1: {reason}");
        let outcome = receive(&name, &more).run();
        assert_eq!(outcome.status(), 1);
        let reason = said.trim_start_matches("received 0 of 1: ");
        assert!(outcome.stderr.contains("received 0 of 1: "), "{outcome:?}");
        assert!(outcome.stderr.contains(reason), "{outcome:?}");
    }
    receive(&name, &["--no-reconnect", "--timeout=1s"])
        .args(["--where", ".payload == \"1000\""])
        .run()
        .printed("1000\n");
    stays(&name, 1_000, &[7, 14, 21, 1_000]);
}

#[test]
fn what_is_held_takes_no_memory() {
    let peak_of = |messages: u32| {
        let name = declare("classic", &[]);
        let lines: Vec<_> = (0..messages).map(|number| number.to_string()).collect();
        hello(["send", "--quiet", "--no-declare", "-l", "-q", &name])
            .stdin(lines.join("\n"))
            .run()
            .printed("");
        let last = format!(".payload == \"{}\"", messages - 1);
        let (outcome, peak) = receive(&name, &["--drain", "--where", &last])
            .spawn()
            .end_with_peak();
        assert_eq!(outcome.stdout, format!("{}\n", messages - 1));
        peak
    };
    let (few, many) = (peak_of(1_000), peak_of(40_000));
    assert!(many < few + (5 << 10), "{few} KiB and {many} KiB");
}

#[test]
fn as_many_are_held_as_may_be() {
    for kind in ["classic", "quorum"] {
        let name = declare(kind, &[]);
        fill(&name, 1_000);
        let more = ["--drain", "--where", MATCHES, "--max-held", "12"];
        let outcome = receive(&name, &more).run();
        outcome.failed(1, &["--max-held"]);
        assert_eq!(outcome.stdout, "7\n");
        let more = ["-c1", "--where", MATCHES, "--max-held", "3"];
        let outcome = receive(&name, &more).run();
        outcome.failed(1, &["--max-held"]);
        hello(["purge", "--yes", &name])
            .args(["--where", MATCHES, "--max-held", "13"])
            .run()
            .failed(1, &["removed 1 message\n", "--max-held"]);
        stays(&name, 1_000, &[7, 14]);
    }
}

#[test]
fn a_command_gets_only_the_matches_and_what_is_made_of_them() {
    let name = declare("quorum", &[]);
    fill(&name, 100);
    let map = ".payload |= \"no. \" + . + \"\\n\" | .properties.message_id = \"new\"";
    let receive = [
        "receive",
        "--no-declare",
        "--quiet",
        "--drain",
        "--map",
        map,
    ];
    hello(receive)
        .args([
            "--where",
            ".properties.headers.shop == 0 and (.payload | tonumber) < 30",
        ])
        .args(["--prefetch", "5", &name, "--", "sh", "-c"])
        .args(["cat; echo $HELLO_MQ_MESSAGE_ID"])
        .run()
        .printed("no. 7\nnew\nno. 14\nnew\nno. 21\nnew\nno. 28\nnew\n");
    stays(&name, 100, &[7, 14, 21, 28]);
}

#[test]
fn dead_letters_are_repaired_and_forwarded() {
    let (name, target) = (declare("classic", &[]), declare("classic", &[]));
    for (shop, body) in [
        ("7", "{\"id\":1}"),
        ("8", "{\"id\":2}"),
        ("7", "{\"id\":3,\"currency\":\"CHF\"}"),
        ("7", "no JSON"),
    ] {
        let shop = format!("shop: {shop}");
        let send = ["send", "--quiet", "--no-declare", "-r", &name, "-H", &shop];
        hello(send)
            .args(["--type", "order", body])
            .run()
            .printed("");
    }
    let forward = ["receive", "--drain", "--no-declare", "--forward-to"];
    let outcome = hello(forward)
        .args([&format!(":{target}"), "--where"])
        .args([".properties.headers.shop == \"7\"", "--map"])
        .args([
            ".payload |= (fromjson | .currency //= \"EUR\" | tojson)",
            &name,
        ])
        .run();
    outcome.failed(
        65,
        &[
            "message 4 (",
            "stays in queue",
            "--map fails",
            "cannot parse as JSON",
        ],
    );
    assert!(
        outcome.stdout.ends_with(" [x] Forwarded 2 messages\n"),
        "{outcome:?}"
    );
    assert_eq!(bodies(&name), ["{\"id\":2}", "no JSON"]);
    let arrived = rest(&target);
    assert!(arrived.iter().all(
        |it| it["properties"]["type"] == "order" && it["properties"]["headers"]["shop"] == "7"
    ));
    let arrived: Vec<_> = arrived.iter().map(|it| &it["payload"]).collect();
    assert_eq!(
        arrived,
        [
            "{\"id\":1,\"currency\":\"EUR\"}",
            "{\"id\":3,\"currency\":\"CHF\"}"
        ]
    );
}

#[test]
fn matches_are_saved_or_looked_at() {
    let name = declare("classic", &[]);
    fill(&name, 1_000);
    let last = ".properties.headers.shop == 0 and (.payload | tonumber) > 985";
    receive(&name, &["--peek", "--where", last])
        .run()
        .printed("987\n994\n");
    receive(&name, &["--peek", "-c1", "--where", last])
        .run()
        .printed("987\n");
    receive(
        &name,
        &["--peek", "--where", last, "--map", ".payload |= . + \"!\""],
    )
    .run()
    .printed("987!\n994!\n");
    let files = Files::new();
    let path = files.path();
    let save = [
        "receive",
        "--no-declare",
        "--quiet",
        "--drain",
        "--where",
        last,
        "--save",
    ];
    let outcome = hello(save).args([&path]).args([&name]).run();
    assert_eq!(outcome.status(), 0, "{outcome:?}");
    let saved = fs::read_dir(&path).unwrap();
    let mut saved: Vec<_> = saved
        .map(|file| fs::read_to_string(file.unwrap().path()).unwrap())
        .collect();
    saved.sort();
    assert_eq!(saved, ["987", "994"]);
    Observer::new().settles_at(&name, 998);
}

#[test]
fn purge_removes_the_matches() {
    let name = declare("classic", &[]);
    fill(&name, 1_000);
    let purge = |more: &[&str]| {
        hello(["purge", "--yes", "--where", MATCHES])
            .args(more)
            .run()
    };
    purge(&[&name]).printed(&format!(" [x] Purged '{name}' (142 messages)\n"));
    let purged = json!({"kind": "queue", "name": name, "state": "purged", "messages": 0});
    let outcome = purge(&["-o", "json", &name]);
    assert_eq!(
        serde_json::from_str::<Value>(&outcome.stdout).unwrap(),
        purged
    );
    let taken: Vec<_> = (1..=142).map(|number| 7 * number).collect();
    stays(&name, 1_000, &taken);
    let missing = purge(&[&format!("{name}-missing")]);
    assert_eq!((missing.status(), missing.stdout.as_str()), (0, ""));
    assert!(missing.stderr.contains("nothing to purge"), "{missing:?}");
}

#[test]
fn a_stream_is_only_filtered() {
    let name = declare("stream", &[]);
    fill(&name, 1_000);
    let from_first = ["--stream-offset", "first", "--prefetch", "16"];
    let all: Vec<_> = (1..=142).map(|it| format!("{}\n", 7 * it)).collect();
    let all = all.concat();
    for more in [
        &["--drain"][..],
        &["-c", "142"],
        &["--drain", "--max-held", "3"],
    ] {
        receive(&name, more)
            .args(from_first)
            .args(["--where", MATCHES])
            .run()
            .printed(&all);
    }
    // More than the prefetch before the first match.
    receive(&name, &["-c1", "--where", ".payload == \"1000\""])
        .args(from_first)
        .run()
        .printed("1000\n");
}

#[test]
fn what_is_not_chosen_of_an_exchange_does_not_pile_up() {
    let name = queue("where");
    let mut receiver = hello(["receive", "-o", "body", "-c1", "--prefetch", "4"])
        .args([
            "-e",
            "amq.topic",
            "-r",
            &name,
            "--where",
            ".payload == \"match\"",
        ])
        .spawn();
    receiver.collect();
    let start = Instant::now();
    while !receiver.ends_within(Duration::from_millis(100)) {
        assert!(start.elapsed() < Duration::from_secs(10), "it waits");
        let others = ["no"; 20].into_iter().chain(["match"]);
        let send = [
            "send",
            "--quiet",
            "-e",
            "amq.topic",
            "-r",
            &name,
            "--allow-unroutable",
        ];
        hello(send.into_iter().chain(others)).run().printed("");
    }
    let outcome = receiver.end();
    assert_eq!(outcome.status(), 0, "{outcome:?}");
    assert!(outcome.stdout.ends_with("match\n"), "{outcome:?}");
}

#[test]
fn headers_can_be_set_and_deleted_where_there_are_none() {
    let name = declare("classic", &[]);
    for (map, printed) in [
        (".properties.headers.x = 1", "{\"x\":1}\n"),
        ("del(.properties.headers.x)", "null\n"),
        (".", "null\n"),
    ] {
        send(&name, ["tea"]);
        let outcome = hello(["receive", &name, "--no-declare", "--drain"])
            .args(["-o", "json", "--map", map])
            .run();
        let message: Value = serde_json::from_str(&outcome.stdout).unwrap();
        let headers = &message["properties"]["headers"];
        assert_eq!(format!("{headers}\n"), printed, "{map}");
    }
}

#[test]
fn what_fails_stays_and_is_told() {
    let name = declare("classic", &[]);
    let deep = "[".repeat(1_000_000);
    let files = Files::new();
    let deep = files.write("deep", &deep);
    send(&name, ["{\"id\":1}", "x", "y", "{\"id\":2}"]);
    let send_bytes = |body: &[u8]| {
        let send = ["send", "--quiet", "--no-declare", "-r", &name, "-"];
        hello(send).stdin(body).run().printed("");
    };
    send_bytes(b"\0");
    send_bytes(b"\xff\xfe{");
    let send = ["send", "--quiet", "--no-declare", "-r", &name, "-f"];
    hello(send).args([&deep]).run().printed("");
    let header = format!("deep:={}1{}", "[".repeat(60), "]".repeat(60));
    let send = ["send", "--quiet", "--no-declare", "-r", &name, "-H"];
    hello(send).args([&header, "z"]).run().printed("");
    let outcome = receive(
        &name,
        &["--drain", "--where", ".payload | fromjson | .id == 2"],
    )
    .run();
    assert_eq!(
        (outcome.status(), outcome.stdout.as_str()),
        (0, "{\"id\":2}\n")
    );
    let said: Vec<_> = outcome.stderr.lines().collect();
    assert_eq!(said.len(), 2, "{said:?}");
    let first = format!(") stays in queue '{name}', as --where fails: cannot parse as JSON");
    assert!(said[0].starts_with("hello-mq: message 2 ("), "{said:?}");
    assert!(said[0].contains(&first), "{said:?}");
    assert_eq!(said[1], "hello-mq: --where failed for 6 messages");
    Observer::new().settles_at(&name, 7);
    // An expression that never works is told even to those who want to hear nothing.
    let never = ["--quiet", "--drain", "--where", ".payload.id"];
    let said = receive(&name, &never).run().stderr;
    assert!(
        said.ends_with("--where failed for every message (7 messages), so none was taken\n"),
        "{said}"
    );
    Observer::new().settles_at(&name, 7);

    for (map, problem) in [
        ("error(\"no\")", "--map fails: no\n"),
        (".payload, .", "the expression has more than one result"),
        (
            "empty",
            "it has no result (--drop-empty would drop the message)",
        ),
        (
            ".payload = 7",
            "the result is no message: payload is not a string",
        ),
        (
            ".nothing = 7",
            "the result is no message: unknown key 'nothing'",
        ),
        ("halt", "halt is not supported"),
    ] {
        let more = ["--drain", "--where", ".payload == \"x\"", "--map", map];
        let outcome = receive(&name, &more).run();
        outcome.failed(
            65,
            &[
                "message 2 (",
                "stays in queue",
                problem,
                "--map failed for 1 message",
            ],
        );
        assert_eq!(outcome.stdout, "");
        Observer::new().settles_at(&name, 7);
    }
    let some = "if .payload == \"x\" then empty else . end";
    let more = [
        "--drain",
        "--where",
        ".payload == (\"x\", \"y\")",
        "--map",
        some,
    ];
    let outcome = receive(&name, &more).args(["--drop-empty"]).run();
    outcome.printed("y\n");
    Observer::new().settles_at(&name, 5);
}

#[test]
fn bad_input_is_told_before_anything_is_connected() {
    let unreachable = |verb: &str, more: &[&str]| {
        let start = [verb, "--url", "amqp://127.0.0.1:1", "x"];
        hello(start).args(more).run()
    };
    for (wrong, problem) in [
        (
            ".a = = 7",
            "expected term, but there is something else\n\n  .a = = 7\n       ^\n",
        ),
        ("(.a", "( is not closed\n\n  (.a\n  ^\n"),
        ("", "the expression is empty\n"),
        (
            "$nothing",
            "there is no variable $nothing\n\n  $nothing\n  ^\n",
        ),
        (
            ".a | input",
            "there is no function input\n\n  .a | input\n       ^\n",
        ),
        ("inputs", "there is no function inputs"),
        ("import \"a\" as a; .", "modules can't be imported"),
    ] {
        for (verb, option) in [
            ("receive", "--where"),
            ("receive", "--map"),
            ("purge", "--where"),
        ] {
            unreachable(verb, &[option, wrong]).failed(64, &[option, problem]);
        }
    }
    for (more, problem) in [
        (&["--max-held", "3"][..], "--max-held requires --where"),
        (&["--max-held", "0", "--where", "."], "--max-held"),
        (
            &["--auto-ack", "--where", "."],
            "--auto-ack can't be used with --where",
        ),
        (
            &["--auto-ack", "--map", "."],
            "--auto-ack can't be used with --where",
        ),
        (&["--drop-empty"], "--map"),
    ] {
        unreachable("receive", more).failed(64, &[problem]);
    }
}

#[test]
fn the_functions_of_the_language_that_are_there_work() {
    let name = declare("classic", &[]);
    send(&name, ["MTc=", "{\"a\":[1,2]}"]);
    let first = format!("$ENV.HELLO_MQ_URL == {}", json!(url()));
    for (expression, found) in [
        (first.as_str(), 2),
        ("env.HELLO_MQ_URL | startswith(\"amqp\")", 2),
        ("now > 1000000000", 2),
        (".payload | test(\"^M.*=$\")", 1),
        (".payload | @base64d == \"17\"", 1),
        (".payload | fromjson | .a | add == 3", 1),
        ("debug | false", 0),
        ("limit(1; repeat(false))", 0),
        ("halt", 0),
    ] {
        let outcome = receive(&name, &["--peek", "--where", expression]).run();
        assert_eq!(outcome.status(), 0, "{outcome:?}");
        assert_eq!(
            outcome.stdout.lines().count(),
            found,
            "{expression}: {outcome:?}"
        );
    }
}

/// More often than a quorum queue of RabbitMQ 4 allows.
#[test]
fn nothing_is_lost_to_looking() {
    let name = declare("quorum", &[]);
    fill(&name, 100);
    for _ in 0..25 {
        let outcome = receive(&name, &["--drain", "--where", "false"]).run();
        assert_eq!((outcome.status(), outcome.stdout.as_str()), (0, ""));
        Observer::new().settles_at(&name, 100);
    }
    let left: BTreeSet<_> = bodies(&name).into_iter().collect();
    assert_eq!(left.len(), 100);
}
