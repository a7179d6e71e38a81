//! Messages in and out as parts of a pipeline.

use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use amiquip::{
    AmqpProperties, AmqpValue, ExchangeDeclareOptions, ExchangeType, FieldTable, Publish,
    QueueDeclareOptions,
};
use nix::sys::signal::Signal;

use crate::support::{Files, Observer, hello, queue, shell, without_times};

/// What `receive` prints of all that is in a queue.
fn received(queue: &str, options: &[&str]) -> String {
    let mut arguments = vec!["receive", "--drain", queue];
    arguments.extend(options);
    let outcome = hello(arguments).run();
    assert_eq!((outcome.status(), outcome.stderr.as_str()), (0, ""));
    outcome.stdout
}

#[test]
fn each_line_is_a_message() {
    let queue = queue("lines");
    hello(["send", "-q", &queue, "-l"])
        .stdin("one\n\ntwo words\r\nlast")
        .run()
        .printed(" [x] Sent 4 messages\n");
    assert_eq!(
        Observer::new().drain(&queue),
        ["one", "", "two words\r", "last"]
    );
    hello(["send", "-q", &queue, "-l"])
        .run()
        .printed(" [x] Sent 0 messages\n");
}

#[test]
fn any_bytes_may_delimit() {
    let queue = queue("delimiter");
    hello(["send", "-q", &queue, "-0"])
        .stdin(b"a\nb\0c\0".to_vec())
        .run()
        .printed(" [x] Sent 2 messages\n");
    hello(["send", "-q", &queue, "-D", r"-\x2d\t"])
        .stdin("d--\te-")
        .run()
        .printed(" [x] Sent 2 messages\n");
    assert_eq!(Observer::new().drain(&queue), ["a\nb", "c", "d", "e-"]);
    for wrong in ["", r"\q"] {
        hello(["send", "-q", &queue, "-D", wrong])
            .run()
            .failed(64, &["--delimiter"]);
    }
}

#[test]
fn a_long_line_stays_one_message() {
    let queue = queue("long-line");
    let line = "x".repeat(40_000);
    hello(["send", "-q", &queue, "-l"])
        .stdin(format!("{line}\n{line}y\n"))
        .run()
        .printed(" [x] Sent 2 messages\n");
    assert_eq!(Observer::new().drain(&queue), [line.clone(), line + "y"]);
}

#[test]
fn a_line_is_on_its_way_before_the_next_is_read() {
    let queue = queue("stream");
    hello(["declare", &queue]).run();
    let line = format!("(echo first; sleep 3; echo second) | $H send -l -q {queue}");
    let start = Instant::now();
    let sender = shell(&line).spawn();
    let mut observer = Observer::new();
    while observer.messages(&queue) == 0 {
        assert!(
            start.elapsed() < Duration::from_millis(2500),
            "it waits for more"
        );
        thread::sleep(Duration::from_millis(10));
    }
    sender.end().printed(" [x] Sent 2 messages\n");
    assert_eq!(observer.drain(&queue), ["first", "second"]);
}

#[test]
fn ctrl_c_while_input_is_awaited_ends_at_once() {
    let queue = queue("idle-input");
    let mut sender = shell(&format!(
        "exec $H send -l -q {queue} < <(echo a; exec sleep 60 2>/dev/null)"
    ))
    .spawn();
    let mut observer = Observer::new();
    hello(["declare", &queue]).run();
    while observer.messages(&queue) == 0 {
        thread::sleep(Duration::from_millis(10));
    }
    sender.collect();
    let (outcome, time) = sender.stop(Signal::SIGINT);
    outcome.failed(
        130,
        &["interrupted while sending; nothing after line 1 of standard input was sent; 1 confirmed"],
    );
    assert!(time < Duration::from_secs(1), "{time:?}");
}

#[test]
fn files_are_messages_whole_or_in_lines() {
    let queue = queue("files");
    let files = Files::new();
    let first = files.write("a", "one\ntwo\n");
    let second = files.write("b", "\0");
    let (first, second) = (first.to_str().unwrap(), second.to_str().unwrap());
    hello(["send", "-q", &queue, "-f", first, "-f", second, "argument"])
        .run()
        .printed(" [x] Sent 'argument'\n [x] Sent 'one\\ntwo\\n'\n [x] Sent '\\x00'\n [x] Sent 3 messages\n");
    hello(["send", "-q", &queue, "-l", "-f", first, "-c", "2"])
        .run()
        .printed(" [x] Sent 4 messages\n");
    assert_eq!(
        Observer::new().drain(&queue),
        ["argument", "one\ntwo\n", "\0", "one", "two", "one", "two"]
    );
    hello(["send", "-q", &queue, "-f", first, "-f", "/no/such/file"])
        .run()
        .failed(66, &["cannot read /no/such/file: no such file"]);
    assert_eq!(Observer::new().messages(&queue), 0);
}

#[test]
fn a_message_that_no_queue_took_is_named_by_its_line() {
    let queue = queue("line-nowhere");
    hello(["send", "--no-declare", "-q", &queue, "-l"])
        .stdin("a\nb\n")
        .run()
        .failed(
            67,
            &["line 1 of standard input (312 NO_ROUTE); continuing", "returned line 1 of standard input (312 NO_ROUTE), line 2 of standard input (312 NO_ROUTE); 0 confirmed"],
        );
    hello([
        "send",
        "--no-declare",
        "-q",
        &queue,
        "--allow-unroutable",
        "a",
    ])
    .run()
    .printed(" [x] Sent 'a'\n");
}

#[test]
fn a_rate_is_kept() {
    let queue = queue("rate");
    let start = Instant::now();
    hello(["send", "-q", &queue, "-c", "50", "--rate", "50", "x"])
        .run()
        .printed(" [x] Sent 50 messages\n");
    let time = start.elapsed();
    assert!(time > Duration::from_millis(900), "{time:?}");
    // Nothing follows the last message.
    let start = Instant::now();
    hello(["send", "-q", &queue, "--rate", "0.1", "x"])
        .run()
        .printed(" [x] Sent 'x'\n");
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(Observer::new().messages(&queue), 51);
}

#[test]
fn properties_and_headers_arrive() {
    let queue = queue("properties");
    hello([
        "send",
        "-q",
        &queue,
        "--persistent",
        "-H",
        "text: a: b",
        "-H",
        "number:=7",
        "-H",
        "list:=[1.5,null]",
        "--content-type",
        "text/plain",
        "--content-encoding",
        "gzip",
        "--priority",
        "3",
        "--expiration",
        "1m",
        "--correlation-id",
        "c",
        "--reply-to",
        "r",
        "--message-id",
        "m",
        "--type",
        "t",
        "--user-id",
        "guest",
        "--app-id",
        "p",
        "--timestamp",
        "1970-01-02T00:00:00Z",
        "x",
    ])
    .run()
    .printed(" [x] Sent 'x'\n");
    let got = Observer::new()
        .channel()
        .basic_get(&*queue, true)
        .unwrap()
        .unwrap();
    let properties = got.delivery.properties;
    let text = |text: &Option<String>| text.clone().unwrap();
    assert_eq!(
        [
            text(properties.content_type()),
            text(properties.content_encoding()),
            text(properties.expiration()),
            text(properties.correlation_id()),
            text(properties.reply_to()),
            text(properties.message_id()),
            text(properties.type_()),
            text(properties.user_id()),
            text(properties.app_id()),
        ],
        [
            "text/plain",
            "gzip",
            "60000",
            "c",
            "r",
            "m",
            "t",
            "guest",
            "p"
        ]
    );
    assert_eq!(*properties.delivery_mode(), Some(2));
    assert_eq!(*properties.priority(), Some(3));
    assert_eq!(*properties.timestamp(), Some(86_400));
    let headers = properties.headers().clone().unwrap();
    assert_eq!(headers["text"], AmqpValue::LongString("a: b".to_owned()));
    assert_eq!(headers["number"], AmqpValue::LongInt(7));
    assert_eq!(
        headers["list"],
        AmqpValue::FieldArray(vec![AmqpValue::Double(1.5), AmqpValue::Void])
    );
    for (option, value) in [
        ("-H", "no colon"),
        ("-H", "k:={"),
        ("--app-id", &"x".repeat(256)),
        ("-r", &"x".repeat(256)),
        ("--priority", "256"),
        ("--timestamp", "soon"),
    ] {
        let outcome = hello(["send", "-q", &queue, option, value, "x"]).run();
        assert_eq!(outcome.status(), 64, "{option}");
    }
    hello(["send", "-q", &queue, "-H", "k: v", "-H", "k:=1", "x"])
        .run()
        .failed(64, &["--header: 'k' is given twice"]);
    assert_eq!(Observer::new().messages(&queue), 0);
}

#[test]
fn a_message_goes_to_an_exchange_with_its_routing_key() {
    let (queue, exchange) = (queue("bound"), queue("topic"));
    let mut observer = Observer::new();
    let channel = observer.channel();
    channel
        .exchange_declare(
            ExchangeType::Topic,
            &*exchange,
            ExchangeDeclareOptions::default(),
        )
        .unwrap();
    hello(["declare", &queue]).run();
    channel
        .queue_bind(&*queue, &*exchange, "a.*", FieldTable::new())
        .unwrap();
    hello(["send", "-e", &exchange, "-r", "a.b", "x"])
        .run()
        .printed(" [x] Sent 'x'\n");
    hello(["send", "-e", &exchange, "-r", "b", "x"])
        .run()
        .failed(67, &["312 NO_ROUTE", "binding", "--allow-unroutable"]);
    hello(["send", "-r", &queue, "y"])
        .run()
        .printed(" [x] Sent 'y'\n");
    hello(["send", "-e", "no-such-exchange", "x"]).run().failed(
        67,
        &[
            "no exchange 'no-such-exchange'",
            "0 of 1 confirmed",
            "rabbitmqctl list_exchanges",
        ],
    );
    assert_eq!(
        received(&queue, &["--format", r"%e %r %s\n"]),
        format!("{exchange} a.b x\n {queue} y\n")
    );
}

#[test]
fn an_envelope_carries_its_own_properties_and_address() {
    let (queue, other) = (queue("jsonl"), queue("jsonl-other"));
    hello(["declare", &other]).run();
    let lines = format!(
        r#"{{"payload":"a"}}
{{"payload":"/w==","payload_encoding":"base64","properties":{{"priority":9,"headers":{{"k":1}}}}}}

{{"payload":"b","routing_key":"{other}"}}
"#
    );
    hello([
        "send",
        "-q",
        &queue,
        "--jsonl",
        "--priority",
        "1",
        "-H",
        "k: v",
    ])
    .stdin(lines)
    .run()
    .printed(" [x] Sent 3 messages\n");
    assert_eq!(
        received(&queue, &["--format", r"%x %{priority} %h\n"]),
        "61 1 {\"k\":\"v\"}\nff 9 {\"k\":1}\n"
    );
    assert_eq!(Observer::new().drain(&other), ["b"]);
    hello(["send", "-q", &queue, "--jsonl"])
        .stdin("{\"payload\":\"a\"}\n{\"payload\":}\n{\"payload\":\"c\"}\n")
        .run()
        .failed(
            65,
            &[
                "line 2 of standard input: is not JSON: ",
                "nothing after line 1 of standard input was sent; 1 confirmed",
            ],
        );
    assert_eq!(Observer::new().drain(&queue), ["a"]);
}

#[test]
fn an_envelope_with_an_address_declares_no_queue() {
    let (queue, other) = (queue("undeclared"), queue("jsonl-address"));
    hello(["declare", &other]).run();
    hello(["send", "-q", &queue, "--jsonl"])
        .stdin(format!("{{\"payload\":\"b\",\"routing_key\":\"{other}\"}}"))
        .run()
        .printed(" [x] Sent 1 message\n");
    hello(["receive", "--no-declare", "--drain", &queue])
        .run()
        .failed(67, &["no queue"]);
}

#[test]
fn bodies_come_out_byte_for_byte() {
    let queue = queue("body");
    let send = || {
        hello(["send", "-q", &queue, "-D", "|"])
            .stdin(b"a\n|\0\xff|".to_vec())
            .run()
    };
    let bytes = |options: &str| {
        send();
        let line =
            format!("$H receive --drain -o body {options} {queue} | od -An -tx1 | tr -d ' \\n'");
        shell(&line).run().stdout
    };
    assert_eq!(bytes(""), "610a0a00ff0a");
    assert_eq!(bytes("-D ''"), "610a00ff");
    assert_eq!(bytes("-0"), "610a0000ff00");
    assert_eq!(bytes("-D '\\x01,'"), "610a012c00ff012c");
}

#[test]
fn what_json_says_makes_the_same_message_again() {
    let queue = queue("round-trip");
    let mut observer = Observer::new();
    hello(["declare", &queue]).run();
    let mut nested = FieldTable::new();
    nested.insert("!amqp".to_owned(), AmqpValue::LongLongInt(1));
    nested.insert(
        "deep".to_owned(),
        AmqpValue::FieldArray(vec![AmqpValue::ShortInt(-1)]),
    );
    let values = [
        AmqpValue::Boolean(true),
        AmqpValue::ShortShortInt(-1),
        AmqpValue::ShortShortUInt(200),
        AmqpValue::ShortInt(-300),
        AmqpValue::ShortUInt(60_000),
        AmqpValue::LongInt(5),
        AmqpValue::LongUInt(4_000_000_000),
        AmqpValue::LongLongInt(5),
        AmqpValue::LongLongInt(i64::MIN),
        AmqpValue::Float(0.1),
        AmqpValue::Double(0.1),
        AmqpValue::LongString("é\n".to_owned()),
        AmqpValue::Timestamp(1),
        AmqpValue::ByteArray(vec![0, 255]),
        AmqpValue::Void,
        AmqpValue::FieldTable(nested),
    ];
    let headers: FieldTable = values
        .into_iter()
        .enumerate()
        .map(|(index, value)| (format!("h{index:02}"), value))
        .collect();
    let properties = AmqpProperties::default()
        .with_headers(headers)
        .with_content_type("a/b".to_owned())
        .with_message_id("id".to_owned())
        .with_timestamp(7)
        .with_delivery_mode(2);
    for body in [&b"text"[..], b"\xff\0"] {
        let publish = Publish::with_properties(body, &*queue, properties.clone());
        observer.channel().basic_publish("", publish).unwrap();
    }
    let start = SystemTime::now();
    let lines = received(&queue, &["-o", "json"]);
    let time = lines.split("\"received_at\":\"").nth(1).unwrap();
    let time = humantime::parse_rfc3339(time.split('"').next().unwrap()).unwrap();
    // Microseconds are cut off.
    assert!(time + Duration::from_micros(1) > start && time < SystemTime::now());
    hello(["send", "--jsonl"])
        .stdin(lines)
        .run()
        .printed(" [x] Sent 2 messages\n");
    for body in [&b"text"[..], b"\xff\0"] {
        let got = observer
            .channel()
            .basic_get(&*queue, true)
            .unwrap()
            .unwrap();
        assert_eq!(got.delivery.body, body);
        assert_eq!(got.delivery.properties, properties);
    }
}

#[test]
fn templates_show_what_they_name_and_nothing_else() {
    let queue = queue("format");
    hello(["send", "-q", &queue, "--app-id", "p", "-H", "k: v", "a b"]).run();
    assert_eq!(
        received(
            &queue,
            &["--format", r"%S:%s:%{app_id}:%{headers.k}:%{headers.x}\0"]
        ),
        "3:a b:p:v:\0"
    );
    hello(["receive", "--format", "%q", &queue])
        .run()
        .failed(64, &["--format", "'%q' is not known"]);
}

#[test]
fn saved_messages_are_files_that_sort() {
    let queue = queue("save");
    let files = Files::new();
    let directory = files.write("kept", "").parent().unwrap().join("new");
    let directory = directory.to_str().unwrap();
    hello(["send", "-q", &queue, "a", "b\n"]).run();
    assert_eq!(
        received(&queue, &["--save", directory]),
        format!("{directory}/000000000001\n{directory}/000000000002\n")
    );
    hello(["send", "-q", &queue, "c"]).run();
    assert_eq!(
        received(&queue, &["--save", directory, "--quiet", "-o", "json"]),
        ""
    );
    let read = |name: &str| fs::read_to_string(format!("{directory}/{name}")).unwrap();
    assert_eq!([read("000000000001"), read("000000000002")], ["a", "b\n"]);
    assert!(read("000000000003").starts_with("{\"exchange\":"));
    assert_eq!(fs::read_dir(directory).unwrap().count(), 3);
    hello(["send", "-q", &queue, "d"]).run();
    hello(["receive", "--drain", "--save", "/proc/no", &queue])
        .run()
        .failed(73, &["cannot save messages in /proc/no"]);
    assert_eq!(Observer::new().drain(&queue), ["d"]);
}

#[test]
fn what_can_not_be_saved_is_told_with_its_directory_and_stays() {
    let queue = queue("save-full");
    let files = Files::new();
    let saved = PathBuf::from(files.path()).join("saved");
    let big = "b".repeat(4096);
    for body in ["a", &big] {
        hello(["send", "-q", &queue, body]).run();
        // A file of more than a KiB is refused, as on a disk that is full.
        let line = "trap '' XFSZ; ulimit -f 1; $H receive --drain --quiet --save $D $Q";
        let outcome = shell(line).env("D", &saved).env("Q", &queue).run();
        if body == "a" {
            outcome.printed("");
        } else {
            let said = format!(
                "cannot save messages in {}: file too large; none was saved; unwritten messages are back in queue '{queue}'",
                saved.display()
            );
            outcome.failed(74, &[&said]);
        }
    }
    assert_eq!(fs::read_dir(&saved).unwrap().count(), 1);
    assert_eq!(Observer::new().drain(&queue), [big]);
}

#[test]
fn what_a_killed_run_left_unfinished_is_removed_and_told() {
    let queue = queue("save-left");
    let files = Files::new();
    let saved = PathBuf::from(files.path()).join("saved");
    let save = || {
        hello([
            "receive",
            "--drain",
            "--save",
            saved.to_str().unwrap(),
            &queue,
        ])
        .run()
    };
    hello(["send", "-q", &queue, "a"]).run();
    save();
    let first = saved.join("000000000001");
    fs::hard_link(&first, saved.join(".hello-mq-0123456789abcdef")).unwrap();
    hello(["send", "-q", &queue, "b"]).run();
    let outcome = save();
    assert_eq!(outcome.status(), 0);
    assert_eq!(
        outcome.stderr,
        format!(
            "hello-mq: {}: removed unfinished files of an earlier run that was killed (files: 1)\n",
            saved.display()
        )
    );
    assert_eq!(fs::read_to_string(first).unwrap(), "a");
    assert_eq!(fs::read_dir(&saved).unwrap().count(), 2);
}

#[test]
fn processes_of_the_same_id_save_into_one_directory() {
    let queue = queue("save-same");
    let files = Files::new();
    let saved = PathBuf::from(files.path()).join("saved");
    hello(["send", "-q", &queue, "-l"])
        .stdin(
            (0..400)
                .map(|n| n.to_string())
                .collect::<Vec<_>>()
                .join("\n"),
        )
        .run();
    // Each is process 1 of a container of its own; but that takes root.
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let contained = if is_root { "unshare --pid --fork" } else { "" };
    // `wait -n` forgets a job that has ended before it is called, and says 127.
    let line = "run() { $CONTAINED $H receive --drain --quiet --prefetch 7 --save $D $Q; }; \
                run & a=$!; run & b=$!; run & c=$!; wait $a && wait $b && wait $c";
    shell(line)
        .env("CONTAINED", contained)
        .env("D", &saved)
        .env("Q", &queue)
        .run()
        .printed("");
    assert_eq!(Observer::new().messages(&queue), 0);
    let mut bodies: Vec<u32> = fs::read_dir(&saved)
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .map(|body| body.parse().unwrap())
        .collect();
    bodies.sort_unstable();
    assert_eq!(bodies, (0..400).collect::<Vec<_>>());
}

#[test]
fn peeking_leaves_everything_in_its_place() {
    let queue = queue("peek");
    hello(["send", "-q", &queue, "-c", "1000", "x"]).run();
    hello(["send", "-q", &queue, "last"]).run();
    let peek = |options: &[&str]| {
        let mut arguments = vec!["receive", "--peek", "-o", "body", &queue];
        arguments.extend(options);
        hello(arguments).run()
    };
    peek(&[]).printed(&("x\n".repeat(1000) + "last\n"));
    peek(&["-c", "2"]).printed("x\nx\n");
    peek(&["-c", "2000"]).failed(
        1,
        &["received 1001 of 2000: the queue has no more messages"],
    );
    let outcome = shell(&format!("$H receive --peek {queue} | head -1")).run();
    assert_eq!((outcome.status(), outcome.stderr.as_str()), (0, ""));
    let left = Observer::new().drain(&queue);
    assert_eq!((left.len(), left[1000].as_str()), (1001, "last"));
}

#[test]
fn one_can_listen_in_on_an_exchange() {
    let exchange = queue("listen");
    let mut observer = Observer::new();
    observer
        .channel()
        .exchange_declare(
            ExchangeType::Topic,
            &*exchange,
            ExchangeDeclareOptions::default(),
        )
        .unwrap();
    let mut some = hello([
        "receive", "-e", &exchange, "-r", "a.*", "-r", "b", "-c", "2",
    ])
    .spawn();
    let mut all = hello([
        "receive", "-e", &exchange, "-c", "3", "--format", r"%r\n", "-v",
    ])
    .spawn();
    some.expect("CTRL+C\n");
    assert!(all.has_said("the broker is", 1));
    thread::sleep(Duration::from_millis(300));
    for key in ["a.x", "c", "b"] {
        hello(["send", "-e", &exchange, "-r", key, key])
            .run()
            .printed(&format!(" [x] Sent '{key}'\n"));
    }
    let outcome = some.end();
    assert_eq!(outcome.stdout, " [x] Received 'a.x'\n [x] Received 'b'\n");
    assert_eq!(all.end().stdout, "a.x\nc\nb\n");
    hello(["receive", "-e", "no-such-exchange"]).run().failed(
        67,
        &[
            "listen to exchange 'no-such-exchange'",
            "no exchange",
            "'hello-mq declare -e no-such-exchange --exchange-type TYPE'",
        ],
    );
    // Nothing stands for every routing key there.
    hello(["receive", "-e", "amq.direct"])
        .run()
        .failed(64, &["'amq.direct' is a direct exchange", "--routing-key"]);
    let several = ["-e", "amq.fanout", "-e", "amq.direct", "-e", "amq.topic"];
    hello(["receive"])
        .args(several)
        .run()
        .failed(64, &["'amq.direct' is a direct exchange", "--routing-key"]);
    for words in [
        &["amq.direct", "-r", "k"][..],
        &["amq.fanout"],
        &["amq.headers"],
    ] {
        hello(["receive", "--timeout", "1s", "-e"])
            .args(words)
            .run()
            .printed(" [*] Waiting for messages. To exit press CTRL+C\n");
    }
    hello(["receive", "-e", &exchange, "-q", "x"])
        .run()
        .failed(64, &["either a queue or --exchange"]);
}

#[test]
fn an_exclusive_consumer_is_the_only_one() {
    let queue = queue("exclusive");
    let mut first = hello(["receive", "--exclusive", &queue]).spawn();
    first.expect("CTRL+C\n");
    hello(["receive", &queue])
        .run()
        .failed(76, &["in exclusive use", "another consumer uses the queue"]);
    first.stop(Signal::SIGINT).0.printed("");
}

#[test]
fn forwarded_messages_stay_as_they_are_and_none_is_lost() {
    let (from, to) = (queue("from"), queue("to"));
    hello(["declare", &to]).run();
    let numbers: Vec<String> = (0..3000).map(|n| n.to_string()).collect();
    hello([
        "send",
        "-q",
        &from,
        "--app-id",
        "p",
        "-H",
        "k:=[1]",
        "--priority",
        "2",
        "-l",
    ])
    .stdin(numbers.join("\n"))
    .run()
    .printed(" [x] Sent 3000 messages\n");
    let target = format!(":{to}");
    hello(["receive", "--forward-to", &target, "-c", "1000", &from])
        .run()
        .printed(" [x] Forwarded 1000 messages\n");
    let mut observer = Observer::new();
    assert_eq!(
        (observer.messages(&from), observer.messages(&to)),
        (2000, 1000)
    );
    hello(["receive", "--forward-to", &target, "--drain", &from])
        .run()
        .printed(" [x] Forwarded 2000 messages\n");
    assert_eq!(
        received(&to, &["-c", "1", "--format", "%s %{app_id} %h %{priority}"]),
        "0 p {\"k\":[1]} 2"
    );
    assert_eq!(observer.drain(&to), numbers[1..]);
}

#[test]
fn what_can_not_be_forwarded_stays_where_it_was() {
    let from = queue("stays");
    hello(["send", "-q", &from, "-c", "10", "x"]).run();
    hello([
        "receive",
        "--forward-to",
        ":no-such-queue",
        "--drain",
        &from,
    ])
    .run()
    .failed(
        67,
        &[
            "returned message 1, forwarded to ':no-such-queue' (312 NO_ROUTE); 0 forwarded",
            "the message stays in its queue; create the target with 'hello-mq declare QUEUE'",
        ],
    );
    hello([
        "receive",
        "--forward-to",
        "no-such-exchange:k",
        "--drain",
        &from,
    ])
    .run()
    .failed(67, &["no exchange 'no-such-exchange'"]);
    hello(["receive", "--forward-to", &format!(":{from}"), &from])
        .run()
        .failed(64, &["that would never end"]);
    hello(["receive", "--forward-to", &from, &from])
        .run()
        .failed(64, &["EXCHANGE:ROUTING_KEY"]);
    assert_eq!(Observer::new().messages(&from), 10);
}

#[test]
fn ctrl_c_while_forwarding_loses_nothing() {
    let (from, to) = (queue("burst-from"), queue("burst-to"));
    hello(["declare", &to]).run();
    let numbers: Vec<String> = (0..20_000).map(|n| n.to_string()).collect();
    hello(["send", "-q", &from, "-l"])
        .stdin(numbers.join("\n"))
        .run();
    let target = format!(":{to}");
    for _ in 0..5 {
        let forwarder = hello([
            "receive",
            "--forward-to",
            &target,
            "--prefetch",
            "10",
            &from,
        ])
        .spawn();
        thread::sleep(Duration::from_millis(150));
        let (outcome, time) = forwarder.stop(Signal::SIGINT);
        assert_eq!((outcome.status(), outcome.stderr.as_str()), (0, ""));
        assert!(time < Duration::from_secs(2), "{time:?}");
    }
    let mut observer = Observer::new();
    let (left, mut all) = (observer.drain(&from), observer.drain(&to));
    assert!(
        !left.is_empty() && !all.is_empty(),
        "it was not interrupted"
    );
    all.extend(left);
    all.sort_by_key(|number| number.parse::<u32>().unwrap());
    all.dedup();
    assert_eq!(all, numbers);
}

#[test]
fn progress_is_shown_on_a_terminal_and_nowhere_else() {
    let queue = queue("progress");
    let send = format!("$H send -q {queue} -c 30 --rate 10 x");
    shell(&send).run().printed(" [x] Sent 30 messages\n");
    let outcome = shell(&format!("script -qec '{send}' /dev/null"))
        .env("NO_COLOR", "1")
        .run();
    assert_eq!(outcome.status(), 0);
    assert!(outcome.stdout.contains(" of 30, confirmed "), "{outcome:?}");
    assert!(outcome.stdout.contains("s left"), "{outcome:?}");
    assert!(
        outcome.stdout.contains(" [x] Sent 30 messages"),
        "{outcome:?}"
    );
    let outcome = shell(&format!("script -qec '{send} --quiet' /dev/null")).run();
    assert_eq!((outcome.status(), outcome.stdout.as_str()), (0, ""));
}

#[test]
fn several_exchanges_are_listened_to_at_once() {
    let [topic, direct, fanout] = ["topic", "direct", "fanout"].map(|kind| {
        let exchange = queue(&format!("several-{kind}"));
        hello(["declare", "-e", &exchange, "--exchange-type", kind]).run();
        exchange
    });
    let mut receiver = hello(["receive", "-c", "5", "-e", &topic, "-r", "app.#"])
        .args(["-r", "db.*", "-e", &direct, "-r", "k", "-e", &fanout])
        .args(["-e", &direct, "-r", "l", "--format", r"%e %r\n", "-v"])
        .spawn();
    assert!(receiver.has_said("the broker is", 1));
    thread::sleep(Duration::from_millis(500));
    let mut expected = Vec::new();
    for (exchange, key, comes) in [
        (&topic, "app.a.b", true),
        (&topic, "k", false),
        (&direct, "k", true),
        (&direct, "app.a", false),
        (&fanout, "any", true),
        (&direct, "l", true),
        (&topic, "db.x", true),
    ] {
        hello(["send", "--quiet", "--allow-unroutable", "-e", exchange])
            .args(["-r", key, key])
            .run()
            .printed("");
        if comes {
            expected.push(format!("{exchange} {key}"));
        }
    }
    let outcome = receiver.end();
    assert_eq!(outcome.stdout.lines().collect::<Vec<_>>(), expected);
    hello(["receive", "-r", "k", "-e", &topic, "-e", &direct])
        .run()
        .failed(64, &["--routing-key 'k' is before the first --exchange"]);
    hello(["receive", "-e", &topic, "-e", "no-such-exchange", "-r", "k"])
        .run()
        .failed(67, &["listen to exchange 'no-such-exchange'"]);
}

#[test]
fn a_stream_is_read_from_any_point_and_keeps_its_messages() {
    let queue = queue("stream-queue");
    let mut observer = Observer::new();
    let mut arguments = FieldTable::new();
    arguments.insert(
        "x-queue-type".to_owned(),
        AmqpValue::LongString("stream".to_owned()),
    );
    let options = QueueDeclareOptions {
        durable: true,
        arguments,
        ..QueueDeclareOptions::default()
    };
    observer.channel().queue_declare(&*queue, options).unwrap();
    let lines = (0..20)
        .map(|n| n.to_string() + "\n")
        .collect::<Vec<_>>()
        .concat();
    hello(["send", "-q", &queue, "-l"])
        .stdin(lines.clone())
        .run()
        .printed(" [x] Sent 20 messages\n");
    let read = |offset: &str, count: &str| {
        hello([
            "receive",
            "-o",
            "body",
            "--stream-offset",
            offset,
            "-c",
            count,
            &queue,
        ])
        .run()
    };
    read("first", "20").printed(&lines);
    read("17", "3").printed("17\n18\n19\n");
    hello(["receive", "--stream-offset", "whenever", &queue])
        .run()
        .failed(64, &["write first, last, next, a number"]);
    observer
        .channel()
        .queue_delete(&*queue, amiquip::QueueDeleteOptions::default())
        .unwrap();
}

#[test]
fn bodies_of_every_size_go_through_unchanged() {
    let queue = queue("every-size");
    // 131,064 bytes is the most of a body that one frame holds; 100 MiB is close to what the broker
    // takes at most.
    for size in [0, 1, 131_063, 131_064, 131_065, 100 << 20] {
        let line = format!(
            "head -c {size} /dev/urandom >$T/in && $H send --quiet -q {queue} -f $T/in && \
             $H receive --drain -o body -D '' {queue} >$T/out && cmp $T/in $T/out"
        );
        let files = Files::new();
        let directory = files.write("in", "").parent().unwrap().to_owned();
        shell(&line).env("T", directory).run().printed("");
    }
}

/// Numbers that are different in each run, and always the same for one seed.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let seed = RandomState::new().build_hasher().finish();
        // Shown if the test fails.
        #[allow(clippy::print_stdout)]
        {
            println!("seed {seed}");
        }
        Self(seed | 1)
    }

    /// A number below `end` (xorshift64).
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % end
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

#[test]
fn every_splitter_gives_back_what_it_was_given() {
    let mut random = Random::new();
    for (sender, receiver, delimiter) in [
        ("-l", "-D '\\n'", &b"\n"[..]),
        ("-0", "-0", b"\0"),
        ("-D -- ", "-D --", b"--"),
        ("-D '\\xff\\n'", "-D '\\xff\\n'", b"\xff\n"),
    ] {
        let queue = queue("splitter");
        // Pieces of every length around a read's boundary, of bytes that delimiters are made of.
        let mut input = Vec::new();
        while input.len() < 300_000 {
            let length = match random.below(50) {
                0 => 65_536 - random.below(4),
                1 => random.below(5000),
                _ => random.below(12),
            };
            input.extend((0..length).map(|_| b"a\n-\0\xff"[random.below(5)]));
            // A piece that ends as the delimiter begins would give up its last byte to it.
            input.push(b'a');
            input.extend(delimiter);
        }
        let files = Files::new();
        let file = files.write("in", "");
        fs::write(&file, &input).unwrap();
        let line = format!(
            "set -o pipefail; cat $IN | $H send --quiet {sender} -q {queue} && \
             $H receive --drain -o body {receiver} {queue} | cmp - $IN"
        );
        shell(&line).env("IN", &file).run().printed("");
    }
}

/// A header's value, as JSON that names its type.
fn any_value(random: &mut Random, depth: usize) -> String {
    let base64 = random.pick(&["", "AA==", "/w==", "w6k=", "AP/+"]);
    let float = random.pick(&["0.5", "-0.0", "1e+300", "5e-324"]);
    let number = 1 + random.below(100);
    match random.below(if depth > 3 { 15 } else { 17 }) {
        0 => random.pick(&["true", "false", "null"]).to_owned(),
        1 => format!("{number}"),
        2 => format!("-{number}000000000000"),
        3 => float.to_owned(),
        4 => random
            .pick(&["\"\"", "\"\\u0000\\u202e\"", "\"é'\\n\""])
            .to_owned(),
        5 => format!("{{\"!amqp\":\"byte\",\"value\":-{number}}}"),
        6 => format!("{{\"!amqp\":\"unsignedbyte\",\"value\":{number}}}"),
        7 => format!("{{\"!amqp\":\"short\",\"value\":-{number}}}"),
        8 => format!("{{\"!amqp\":\"unsignedshort\",\"value\":{number}}}"),
        9 => format!("{{\"!amqp\":\"unsignedint\",\"value\":{number}}}"),
        10 => format!("{{\"!amqp\":\"long\",\"value\":{number}}}"),
        11 => format!("{{\"!amqp\":\"timestamp\",\"value\":{number}}}"),
        12 => format!("{{\"!amqp\":\"decimal\",\"scale\":2,\"value\":{number}}}"),
        13 => format!("{{\"!amqp\":\"binary\",\"base64\":\"{base64}\"}}"),
        14 => random
            .pick(&[
                "{\"!amqp\":\"longstr\",\"base64\":\"/w==\"}",
                "{\"!amqp\":\"float\",\"value\":0.5}",
                "{\"!amqp\":\"float\",\"value\":-0.0}",
            ])
            .to_owned(),
        15 => {
            let values: Vec<_> = (0..random.below(4))
                .map(|_| any_value(random, depth + 1))
                .collect();
            format!("[{}]", values.join(","))
        }
        _ => any_table(random, depth + 1),
    }
}

fn any_table(random: &mut Random, depth: usize) -> String {
    let names = ["\"a\"", "\"é\"", "\"x-b\"", "\"c d\""];
    let names = &names[..random.below(names.len() + 1)];
    if random.below(5) == 0 {
        // What an object can't hold: a name that is not UTF-8, one that is the tag, one that is twice.
        let (first, second) = (any_value(random, depth), any_value(random, depth));
        let name = random.pick(&[
            "{\"!amqp\":\"shortstr\",\"base64\":\"/w==\"}",
            "\"!amqp\"",
            "\"a\"",
        ]);
        return format!("{{\"!amqp\":\"table\",\"value\":[[\"a\",{first}],[{name},{second}]]}}");
    }
    let entries: Vec<_> = names
        .iter()
        .map(|name| format!("{name}:{}", any_value(random, depth)))
        .collect();
    format!("{{{}}}", entries.join(","))
}

#[test]
fn any_message_comes_back_as_it_was_sent() {
    let mut random = Random::new();
    let queue = queue("any");
    let lines: Vec<String> = (0..2000)
        .map(|number| {
            let headers = any_table(&mut random, 0);
            let (payload, encoding, bytes) = match random.below(3) {
                0 => ("é\\u0000\\n", "string", 4),
                1 => ("", "string", 0),
                _ => ("AP//", "base64", 3),
            };
            let text = random.pick(&["\"t\"", "\"\"", "{\"!amqp\":\"shortstr\",\"base64\":\"/w==\"}"]);
            format!(
                "{{\"exchange\":\"\",\"routing_key\":\"{queue}\",\"redelivered\":false,\"properties\":{{\"content_type\":{text},\"correlation_id\":{text},\"message_id\":\"{number}\",\"type\":{text},\"app_id\":{text},\"delivery_mode\":1,\"priority\":{},\"timestamp\":{number},\"headers\":{headers}}},\"payload_bytes\":{bytes},\"payload\":\"{payload}\",\"payload_encoding\":\"{encoding}\"}}",
                random.below(256)
            )
        })
        .collect();
    hello(["declare", &queue]).run();
    hello(["send", "--jsonl"])
        .stdin(lines.join("\n"))
        .run()
        .printed(" [x] Sent 2000 messages\n");
    let received = received(&queue, &["-o", "json"]);
    for (line, received) in lines.iter().zip(received.lines()) {
        assert_eq!(line, &without_times(received));
    }
    assert_eq!(received.lines().count(), lines.len());
}

#[test]
fn a_consumer_with_a_higher_priority_is_served_first() {
    let queue = queue("consumer-priority");
    let mut low = hello(["receive", "--priority", "-1", &queue]).spawn();
    low.expect("CTRL+C\n");
    let mut high = hello(["receive", "--priority", "5", "-c", "3", &queue]).spawn();
    high.expect("CTRL+C\n");
    hello(["send", "-q", &queue, "a", "b", "c"]).run();
    assert_eq!(high.end().stdout.lines().count(), 3);
    low.stop(Signal::SIGINT).0.printed("");
}
