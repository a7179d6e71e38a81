use amiquip::{FieldTable, QueueDeclareOptions};

use crate::support::{Observer, hello, queue, shell, shown_url};

#[test]
fn a_message_is_sent_as_in_the_tutorial() {
    let queue = queue("one");
    hello(["send", "-q", &queue, "Hello World!"])
        .run()
        .printed(" [x] Sent 'Hello World!'\n");
    assert_eq!(Observer::new().drain(&queue), ["Hello World!"]);
}

#[test]
fn each_argument_is_one_message_in_order() {
    let queue = queue("several");
    hello(["send", "-q", &queue, "a b", "", "--", "-1"])
        .run()
        .printed(" [x] Sent 'a b'\n [x] Sent ''\n [x] Sent '-1'\n [x] Sent 3 messages\n");
    assert_eq!(Observer::new().drain(&queue), ["a b", "", "-1"]);
}

#[test]
fn standard_input_is_one_message_byte_for_byte() {
    let queue = queue("stdin");
    let body = b"two\nlines\n\0\xff\xfe".to_vec();
    for arguments in [vec!["send", "-q", &queue], vec!["send", "-q", &queue, "-"]] {
        hello(arguments)
            .stdin(body.clone())
            .run()
            .printed(" [x] Sent b'two\\nlines\\n\\x00\\xff\\xfe'\n");
        let got = Observer::new()
            .channel()
            .basic_get(&*queue, true)
            .unwrap()
            .unwrap();
        assert_eq!(got.delivery.body, body);
    }
}

#[test]
fn standard_input_may_stand_among_arguments_once() {
    let queue = queue("among");
    let outcome = hello(["send", "-q", &queue, "a", "-", "b"])
        .stdin("x")
        .run();
    outcome.printed(" [x] Sent 'a'\n [x] Sent 'x'\n [x] Sent 'b'\n [x] Sent 3 messages\n");
    hello(["send", "-q", &queue, "-", "-"])
        .stdin("x")
        .run()
        .failed(64, &["only once"]);
}

#[test]
fn empty_standard_input_is_an_error_and_nothing_is_sent() {
    let queue = queue("empty");
    hello(["declare", &queue]).run();
    hello(["send", "-q", &queue])
        .run()
        .failed(65, &["standard input is empty", "hello-mq send ''"]);
    assert_eq!(Observer::new().messages(&queue), 0);
}

#[test]
fn bodies_around_the_frame_size_and_far_beyond_arrive_whole() {
    // RabbitMQ's frames are of 131,072 bytes, 8 of which are not the body's.
    let queue = queue("sizes");
    for size in [1, 131_063, 131_064, 131_065, 262_128, 262_129, 10_000_000] {
        let body: Vec<u8> = (0..size)
            .map(|n: u32| n.wrapping_mul(2_654_435_761).to_le_bytes()[3])
            .collect();
        let outcome = hello(["send", "-q", &queue]).stdin(body.clone()).run();
        assert_eq!((outcome.status(), outcome.stderr.as_str()), (0, ""));
        let got = Observer::new()
            .channel()
            .basic_get(&*queue, true)
            .unwrap()
            .unwrap();
        assert!(got.delivery.body == body, "{size}");
    }
}

#[test]
fn a_long_body_is_told_by_its_size() {
    let queue = queue("long");
    let run = |size: usize| hello(["send", "-q", &queue]).stdin(vec![b'x'; size]).run();
    run(4096).printed(&format!(" [x] Sent '{}'\n", "x".repeat(4096)));
    run(4097).printed(" [x] Sent a message of 4097 bytes\n");
}

#[test]
fn an_existing_queue_is_used_as_it_is() {
    let queue = queue("as-it-is");
    let mut observer = Observer::new();
    let mut arguments = FieldTable::new();
    arguments.insert("x-max-length".to_owned(), amiquip::AmqpValue::LongInt(5));
    let options = QueueDeclareOptions {
        durable: true,
        arguments,
        ..QueueDeclareOptions::default()
    };
    observer.channel().queue_declare(&*queue, options).unwrap();
    hello(["send", "-q", &queue, "a"])
        .run()
        .printed(" [x] Sent 'a'\n");
    assert_eq!(observer.drain(&queue), ["a"]);
}

#[test]
fn a_message_that_no_queue_took_is_named() {
    let queue = queue("nowhere");
    hello(["send", "-q", &queue, "--no-declare", "a"])
        .run()
        .failed(
            67,
            &[
                &format!(
                    "{} returned the message (312 NO_ROUTE); 0 of 1 confirmed",
                    shown_url()
                ),
                "hint: ",
            ],
        );
    let outcome = hello(["send", "-q", &queue, "--no-declare", "a", "a"]).run();
    outcome.failed(
        67,
        &["returned message 1 (312 NO_ROUTE), message 2 (312 NO_ROUTE); 0 of 2 confirmed"],
    );
    assert_eq!(outcome.stdout, "");
}

#[test]
fn a_message_that_the_broker_refused_is_named() {
    let queue = queue("full");
    let mut observer = Observer::new();
    let mut arguments = FieldTable::new();
    arguments.insert("x-max-length".to_owned(), amiquip::AmqpValue::LongInt(1));
    arguments.insert(
        "x-overflow".to_owned(),
        amiquip::AmqpValue::LongString("reject-publish".to_owned()),
    );
    let options = QueueDeclareOptions {
        arguments,
        ..QueueDeclareOptions::default()
    };
    observer.channel().queue_declare(&*queue, options).unwrap();
    hello(["send", "-q", &queue, "a"])
        .run()
        .printed(" [x] Sent 'a'\n");
    let outcome = hello(["send", "-q", &queue, "--retry-for", "0s", "b"]).run();
    outcome.failed(
        75,
        &["rejected (nack) the message; 0 of 1 confirmed", "try again"],
    );
    assert_eq!(outcome.stdout, "");
    assert!(!outcome.stderr.contains("retrying"));

    let outcome = hello(["send", "-q", &queue, "--retry-for", "1s", "b", "c"]).run();
    outcome.failed(
        75,
        &[
            "rejected (nack) messages 1 to 2; retrying",
            "rejected (nack) messages 1 to 2; 0 of 2 confirmed",
        ],
    );
    let (outcome, time) = {
        let sender = hello(["send", "-q", &queue, "b"]).spawn();
        std::thread::sleep(std::time::Duration::from_secs(1));
        sender.stop(nix::sys::signal::Signal::SIGINT)
    };
    outcome.failed(
        130,
        &["interrupted while sending", "rejected (nack) the message"],
    );
    assert!(time < std::time::Duration::from_secs(1), "{time:?}");
    assert_eq!(observer.drain(&queue), ["a"]);
}

#[test]
fn without_confirms_it_is_enough_that_the_broker_has_read_the_messages() {
    let queue = queue("unconfirmed");
    let lines: Vec<String> = (0..5000).map(|n| n.to_string()).collect();
    hello(["send", "-l", "-q", &queue, "--no-confirm"])
        .stdin(lines.join("\n"))
        .run()
        .printed(" [x] Sent 5000 messages\n");
    assert_eq!(Observer::new().drain(&queue), lines);
    // What has no queue comes back without being confirmed.
    hello(["send", "-l", "-r", &format!("{queue}-not"), "--no-confirm"])
        .stdin("a\nb")
        .run()
        .failed(67, &["NO_ROUTE", "line 1", "line 2"]);
    hello(["send", "-e", &format!("{queue}-not"), "--no-confirm", "a"])
        .run()
        .failed(67, &["NOT_FOUND - no exchange"]);
    // What the queue refuses, only a confirm would tell.
    let full = format!("{queue}-full");
    let of_one = ["--max-length", "1", "--overflow", "reject-publish"];
    hello(["declare", &full]).args(of_one).run();
    hello(["send", "-q", &full, "--no-confirm", "a", "b"])
        .run()
        .printed(" [x] Sent 'a'\n [x] Sent 'b'\n [x] Sent 2 messages\n");
    assert_eq!(Observer::new().drain(&full), ["a"]);
}

#[test]
fn without_confirms_ctrl_c_ends_an_endless_input() {
    let queue = queue("endless");
    // Nobody has to keep what is sent.
    let limit = ["--max-length", "10"];
    hello(["declare", &queue]).args(limit).run();
    let sender = hello(["send", "-l", "-q", &queue, "--no-confirm"])
        .stdin("y\n".repeat(20_000_000))
        .spawn();
    let mut observer = Observer::new();
    while observer.messages(&queue) < 10 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let (outcome, time) = sender.stop(nix::sys::signal::Signal::SIGINT);
    outcome.failed(130, &["interrupted while sending", "nothing after line "]);
    assert!(time < std::time::Duration::from_secs(3), "{time:?}");
}

#[test]
fn what_was_refused_is_sent_again_until_there_is_room() {
    let queue = queue("room");
    let mut observer = Observer::new();
    let mut arguments = FieldTable::new();
    arguments.insert("x-max-length".to_owned(), amiquip::AmqpValue::LongInt(1));
    arguments.insert(
        "x-overflow".to_owned(),
        amiquip::AmqpValue::LongString("reject-publish".to_owned()),
    );
    let options = QueueDeclareOptions {
        arguments,
        ..QueueDeclareOptions::default()
    };
    observer.channel().queue_declare(&*queue, options).unwrap();
    let mut sender = hello(["send", "-q", &queue, "1", "2", "3", "4"]).spawn();
    assert!(sender.has_said("retrying", 1));
    let mut received = Vec::new();
    while received.len() < 4 {
        received.extend(observer.drain(&queue));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let outcome = sender.end();
    assert_eq!(outcome.status(), 0, "{}", outcome.stderr);
    assert!(outcome.stdout.ends_with(" [x] Sent 4 messages\n"));
    assert!(outcome.stderr.contains("accepts messages again"));
    received.sort();
    assert_eq!(received, ["1", "2", "3", "4"]);
}

#[test]
fn every_message_of_many_is_confirmed() {
    let queue = queue("many");
    let numbers: Vec<String> = (0..5000).map(|n| n.to_string()).collect();
    let arguments = ["send", "--quiet", "-q", &queue]
        .into_iter()
        .chain(numbers.iter().map(String::as_str));
    hello(arguments).run().printed("");
    assert_eq!(Observer::new().drain(&queue), numbers);
}

#[test]
fn what_is_confirmed_is_done_whoever_reads_the_result() {
    let queue = queue("results");
    let line = |to: &str| {
        shell(&format!(
            "$H send -q {queue} a b {to}; exit ${{PIPESTATUS[0]}}"
        ))
        .run()
    };
    let outcome = line(">/dev/full");
    outcome.failed(
        74,
        &["cannot write to standard output: no space left on device"],
    );
    let outcome = line("| true");
    assert_eq!((outcome.status(), outcome.stderr.as_str()), (0, ""));
    assert_eq!(Observer::new().drain(&queue), ["a", "b", "a", "b"]);
}

#[test]
fn quiet_leaves_only_errors() {
    let queue = queue("quiet");
    hello(["--quiet", "send", "-q", &queue, "a", "b"])
        .run()
        .printed("");
    hello(["--quiet", "send", "-q", "nowhere", "--no-declare", "a"])
        .run()
        .failed(67, &["NO_ROUTE"]);
}
