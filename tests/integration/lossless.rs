//! A message is sent, forwarded, printed and sent again as it is, or it is said that it can't be.

use std::io::{self, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use amiquip::AmqpValue;

use crate::support::{
    Files, Observer, broker_tool, hello, queue, read_frame, shell, url, without_times,
};

fn received(queue: &str, options: &[&str]) -> String {
    let mut arguments = vec!["receive", "--drain", queue];
    arguments.extend(options);
    let outcome = hello(arguments).run();
    assert_eq!((outcome.status(), outcome.stderr.as_str()), (0, ""));
    without_times(&outcome.stdout)
}

/// A queue that every series permits.
fn declared(name: &str) -> String {
    let queue = queue(name);
    hello(["declare", "--durable", "--quiet", &queue]).run();
    queue
}

fn send(line: String) {
    hello(["send", "--jsonl"])
        .stdin(line)
        .run()
        .printed(" [x] Sent 1 message\n");
}

/// An envelope with these properties.
fn envelope(queue: &str, properties: &str) -> String {
    format!(
        "{{\"exchange\":\"\",\"routing_key\":\"{queue}\",\"redelivered\":false,\"properties\":{properties},\"payload_bytes\":1,\"payload\":\"x\",\"payload_encoding\":\"string\"}}\n"
    )
}

/// Sends a message with these headers, has it forwarded, printed and sent again, and returns the line
/// that it is then.
fn passed_on(name: &str, headers: &str) -> String {
    let (from, to) = (declared(&format!("{name}-from")), declared(name));
    let properties = format!("{{\"app_id\":\"till\",\"headers\":{{{headers}}}}}");
    send(envelope(&from, &properties));
    hello([
        "receive",
        "--drain",
        "--forward-to",
        &format!(":{to}"),
        &from,
    ])
    .run()
    .printed(" [x] Forwarded 1 message\n");
    let line = received(&to, &["-o", "json"]);
    assert!(line.contains(r#""app_id":"till""#), "{line}");
    send(line.clone());
    assert_eq!(received(&to, &["-o", "json"]), line);
    line
}

#[test]
fn headers_that_are_nested_deep_are_passed_on_as_they_are() {
    for levels in [45, 120] {
        let deep = format!("{}1{}", "{\"k\":".repeat(levels), "}".repeat(levels));
        let line = passed_on("deep", &format!("\"deep\":{deep},\"next\":true"));
        assert!(line.contains(r#""next":true"#), "{line}");
        // What is too deep for JSON is there as AMQP carries it. Each level is F, four bytes of length, and
        // the name; the number at the bottom has five bytes.
        let encoded = line.split(r#"{"!amqp":"field","base64":""#).nth(1).unwrap();
        let encoded = encoded.split('"').next().unwrap();
        let bytes = (levels - 40) * 7 + 5;
        assert_eq!(encoded.len(), bytes.div_ceil(3) * 4, "{line}");
    }
}

/// Whether the broker reads properties and writes them anew, and takes bodies up to 16 MiB.
fn is_rabbitmq_4() -> bool {
    broker_tool("rabbitmqctl -q version").starts_with('4')
}

#[test]
fn headers_of_odd_types_are_passed_on_as_they_come() {
    let odd = r#""l":{"!amqp":"longlong","value":-5},"t":{"!amqp":"field","base64":"dAc="}"#;
    let expected = if is_rabbitmq_4() {
        r#""l":{"!amqp":"long","value":-5},"t":true"#
    } else {
        odd
    };
    let line = passed_on("odd", odd);
    assert!(line.contains(expected), "{line}");
}

/// A way to the broker on which the properties of all messages are garbled that come from it. Returns
/// its URL.
fn garbled() -> String {
    let broker = url();
    let broker = broker.rsplit('@').next().unwrap();
    let broker = broker.trim_end_matches('/').to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let broker = TcpStream::connect(&*broker).unwrap();
            let mut to_broker = broker.try_clone().unwrap();
            let mut from_client = client.try_clone().unwrap();
            thread::spawn(move || io::copy(&mut from_client, &mut to_broker));
            thread::spawn(move || garble(broker, client));
        }
    });
    format!("amqp://guest:guest@{address}/")
}

fn garble(broker: impl Read, mut client: impl Write) -> io::Result<()> {
    const HEADER: u8 = 2;
    // Behind the frame's header there are class, weight and size of the body.
    const FLAGS: usize = 7 + 12;
    let mut broker = BufReader::new(broker);
    loop {
        let mut frame = read_frame(&mut broker)?;
        if frame[0] == HEADER {
            // There is a second word of flags, which AMQP 0-9-1 does not have.
            frame[FLAGS + 1] |= 1;
        }
        client.write_all(&frame)?;
    }
}

#[test]
fn a_message_that_is_not_understood_stays_or_is_said_not_to_be_whole() {
    let (from, to) = (declared("garbled-from"), declared("garbled-to"));
    hello(["send", "-q", &from, "--app-id", "till", "a", "b"]).run();
    let through = |arguments: &[&str]| hello(arguments).args(["--url", &garbled()]).run();
    let target = format!(":{to}");
    through(&["receive", "--drain", "--forward-to", &target, &from]).failed(
        65,
        &[
            "message 1: can't be decoded in full, so it is not forwarded and stays in its queue: ",
            ": properties",
        ],
    );
    let mut observer = Observer::new();
    observer.settles_at(&from, 2);
    assert_eq!(observer.messages(&to), 0);
    let outcome = through(&["receive", "-c", "1", "-o", "json", &from]);
    assert_eq!(outcome.status(), 0);
    let line = outcome.stdout;
    assert!(line.starts_with(r#"{"incomplete":"properties: "#), "{line}");
    hello(["send", "--jsonl"])
        .stdin(line)
        .run()
        .failed(65, &["line 1 of standard input: is incomplete: properties"]);
    assert_eq!(observer.messages(&to), 0);
}

#[test]
fn a_forwarded_message_goes_to_one_place() {
    let [from, to, copy] = ["cc-from", "cc-to", "cc-copy"].map(declared);
    let properties = format!("{{\"headers\":{{\"CC\":[\"{copy}\"],\"a\":1}}}}");
    let target = format!(":{to}");
    let mut observer = Observer::new();
    let mut forward = |options: &[&str]| {
        for _ in 0..2 {
            send(envelope(&from, &properties));
        }
        assert_eq!(observer.drain(&copy).len(), 2);
        let outcome = hello(["receive", "--drain", "--forward-to", &target, &from])
            .args(options)
            .run();
        assert_eq!(outcome.stdout, " [x] Forwarded 2 messages\n");
        let headers = received(&to, &["--format", "%h"]);
        (outcome.stderr, headers, observer.drain(&copy).len())
    };
    assert_eq!(
        forward(&[]),
        (
            "hello-mq: left out headers.CC, for which the broker would send copies elsewhere (--keep headers.CC passes it on)\n".to_owned(),
            "{\"a\":1}{\"a\":1}".to_owned(),
            0
        )
    );
    let kept = format!("{{\"CC\":[\"{copy}\"],\"a\":1}}").repeat(2);
    assert_eq!(forward(&["--keep", "headers.CC"]), (String::new(), kept, 2));
    let (_, headers, copies) = forward(&["--without", "headers.a"]);
    assert_eq!((headers.as_str(), copies), ("{}{}", 0));
}

#[test]
fn a_property_that_the_broker_refuses_can_be_left_out() {
    let (from, to) = (declared("user-from"), declared("user-to"));
    let user = queue("alice");
    broker_tool(&format!("rabbitmqctl -q add_user {user} s3cret"));
    broker_tool(&format!("rabbitmqctl -q set_permissions {user} .* .* .*"));
    let theirs = url().replace("guest:guest", &format!("{user}:s3cret"));
    hello([
        "send",
        "-q",
        &from,
        "--user-id",
        &user,
        "--priority",
        "3",
        "x",
    ])
    .args(["--url", &theirs])
    .run()
    .printed(" [x] Sent 'x'\n");
    let target = format!(":{to}");
    let forward = |options: &[&str]| {
        hello(["receive", "--drain", "--forward-to", &target, &from])
            .args(options)
            .run()
    };
    forward(&[]).failed(
        76,
        &[
            "PRECONDITION_FAILED - user_id property set to",
            "hint:",
            "--without user_id",
        ],
    );
    Observer::new().settles_at(&from, 1);
    let id = received_id(&from);
    forward(&["--without", "user_id,message_id,headers.none"])
        .printed(" [x] Forwarded 1 message\n");
    assert_ne!(id, "");
    assert_eq!(
        received(&to, &["--format", "%{user_id}|%{message_id}|%{priority}"]),
        "||3"
    );
    forward(&["--without", "user-id"]).failed(64, &["such as user_id"]);
    hello(["receive", "--without", "user_id"])
        .run()
        .failed(64, &["--forward-to"]);
}

fn received_id(queue: &str) -> String {
    let outcome = hello(["receive", "--peek", "--format", "%{message_id}", queue]).run();
    outcome.stdout
}

#[test]
fn what_came_from_an_envelope_is_sent_with_nothing_added() {
    let queue = declared("as-it-is");
    let lines = envelope(&queue, "{}") + &envelope(&queue, "{\"message_id\":\"own\"}");
    let sent = |options: &[&str]| {
        hello(["send", "--jsonl"])
            .args(options)
            .stdin(lines.clone())
            .run()
            .printed(" [x] Sent 2 messages\n");
        received(&queue, &["-o", "json"])
    };
    assert_eq!(sent(&[]), lines);
    let ids: Vec<_> = sent(&["--add-message-id"])
        .lines()
        .map(|line| line.split("message_id\":\"").nth(1).unwrap().to_owned())
        .collect();
    assert!(
        ids[0].contains("-1\"") && ids[1].starts_with("own\""),
        "{ids:?}"
    );
    hello(["send", "--add-message-id", "x"])
        .run()
        .failed(64, &["--jsonl"]);
}

#[test]
fn a_line_that_no_queue_takes_is_named_even_if_another_has_the_same_id() {
    let (exchange, queue) = (queue("same-id"), declared("same-id-queue"));
    hello(["declare", "-e", &exchange, "--exchange-type", "headers"]).run();
    let wanted = AmqpValue::LongString("a".to_owned());
    Observer::new()
        .channel()
        .queue_bind(&*queue, &*exchange, "", [("k".to_owned(), wanted)].into())
        .unwrap();
    let line = |header: &str| {
        format!(
            "{{\"exchange\":\"{exchange}\",\"routing_key\":\"\",\"payload\":\"x\",\"properties\":{{\"message_id\":\"m\",\"headers\":{{\"z\":1,\"k\":\"{header}\"}}}}}}\n"
        )
    };
    // Whatever the broker makes of their order.
    for (lines, unroutable) in [("ab", 2), ("aaba", 3), ("baaa", 1)] {
        let lines: String = lines.chars().map(|kind| line(&kind.to_string())).collect();
        hello(["send", "--jsonl"]).stdin(lines).run().failed(
            67,
            &[&format!(
                "returned line {unroutable} of standard input (312 NO_ROUTE);"
            )],
        );
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_long_body_is_in_memory_once_and_a_long_line_that_is_wrong_is_not_read_to_its_end() {
    const MIB: usize = 1 << 20;
    let size = if is_rabbitmq_4() { 15 } else { 100 };
    let queue = declared("long");
    let files = Files::new();
    let body = files.write("body", &"x".repeat(size * MIB));
    let numbers = files.write(
        "numbers",
        &format!(
            "{{\"payload\":\"\",\"properties\":{{\"headers\":{{\"a\":[{}",
            "[1,2],".repeat(16 * MIB)
        ),
    );
    let text = files.write(
        "text",
        &format!(
            "{{\"routing_key\":\"{queue}\",\"payload\":\"{}\"}}",
            "x".repeat(size * MIB)
        ),
    );
    let [body, numbers, text] = [&body, &numbers, &text].map(|path| path.to_str().unwrap());
    let peak_of = |arguments: &[&str], status: i32, said: &str| {
        let (outcome, peak) = hello(arguments).spawn().end_with_peak();
        assert_eq!(outcome.status(), status, "{}", outcome.stderr);
        assert!(outcome.stderr.contains(said), "{}", outcome.stderr);
        usize::try_from(peak).unwrap() / 1024
    };
    for arguments in [
        &["send", "-q", &queue, "-f", body][..],
        &["send", "-q", &queue, "-l", "-f", body],
        &["send", "--jsonl", "-f", text],
    ] {
        let peak = peak_of(arguments, 0, "");
        assert!(
            (size..size + 70).contains(&peak),
            "{arguments:?}: {peak} MiB"
        );
    }
    hello(["purge", "--yes", &queue]).run();
    for (arguments, said) in [
        (
            &["send", "--jsonl", "-f", numbers][..],
            "numbers: has more than 1 MiB of properties and headers",
        ),
        (
            &["send", "-q", &queue, "-l", "--max-line", "1MiB", "-f", body],
            "body: is longer than 1048576 bytes (--max-line)",
        ),
        (
            &["send", "--jsonl", "--max-line", "1MiB", "-f", text],
            "text: is longer than 1048576 bytes (--max-line)",
        ),
    ] {
        let peak = peak_of(
            arguments,
            65,
            &format!("line 1 of {}/", files.path().display()),
        );
        let said_so = peak_of(arguments, 65, said);
        assert!(peak.max(said_so) < 64, "{arguments:?}: {peak} MiB");
    }
    hello(["send", "--max-line", "1MiB", "x"])
        .run()
        .failed(64, &["--lines"]);
    let piped = shell(&format!(
        "head -c 3000 /dev/zero | $H send -0 --max-line 3000 -q {queue}; head -c 3001 /dev/zero | tr '\\0' x | $H send -0 --max-line 3000 -q {queue}"
    ))
    .run();
    assert!(
        piped
            .stderr
            .contains("piece 1 of standard input: is longer than 3000 bytes"),
        "{}",
        piped.stderr
    );
}

#[test]
fn a_body_from_amqp_1_0_is_shown_as_what_it_holds() {
    let queue = declared("amqp10");
    let send = |kind: &str, body: &str| {
        shell(&format!(
            "printf '{body}' | $H send -q {queue} --type {kind} --message-id 7"
        ))
        .run();
    };
    for (body, shown, decoded) in [
        (r"\0Sw\xa1\x05hello", "'hello'", Some(r#""hello""#)),
        (
            r"\0Sw\xc1\x05\x02\xa1\x01kA",
            "{'k': true}",
            Some(r#"{"k":true}"#),
        ),
        (
            r"\0Su\xa0\x02hi",
            "'hi'",
            Some(r#"{"!amqp":"binary","base64":"aGk="}"#),
        ),
        (r"\0Swt", r"'\x00Swt'", None),
    ] {
        send("amqp-1.0", body);
        send("other", body);
        let lines = received(&queue, &[]);
        let mut lines = lines.lines().skip(1);
        assert_eq!(lines.next(), Some(&*format!(" [x] Received {shown}")));
        assert_ne!(
            lines.next().filter(|_| decoded.is_some()),
            Some(&*format!(" [x] Received {shown}"))
        );

        send("amqp-1.0", body);
        let line = received(&queue, &["-o", "json", "--decode-amqp10"]);
        let value = decoded.map(|value| format!(r#","amqp10_value":{value},"payload_bytes":"#));
        assert_eq!(
            line.contains(value.as_deref().unwrap_or("amqp10_value")),
            value.is_some(),
            "{line}"
        );
        hello(["send", "--jsonl"]).stdin(line.clone()).run();
        assert_eq!(received(&queue, &["-o", "json", "--decode-amqp10"]), line);
        send("amqp-1.0", body);
        assert!(!received(&queue, &["-o", "json"]).contains("amqp10_value"));
    }
    hello(["receive", "-o", "body", "--decode-amqp10", &queue])
        .run()
        .failed(64, &["--decode-amqp10 requires --output json"]);
}
