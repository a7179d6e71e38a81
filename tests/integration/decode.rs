//! `receive --decode`: compressed bodies are decoded wherever they go, and what is not decoded is not lost.

use std::io::{self, Read};

use crate::support::{Files, Outcome, hello, queue, shell, without_times};

/// Sends a body that another program makes from `text`.
fn send(queue: &str, encode: &str, text: &str, options: &str) {
    let line = format!(
        "set -o pipefail; printf '{text}' | {encode} | $H send --quiet -q {queue} {options} -"
    );
    assert_eq!(shell(&line).run().status(), 0, "{line}");
}

const ZLIB: &str = "python3 -c 'import sys, zlib; sys.stdout.buffer.write(zlib.compress(sys.stdin.buffer.read()))'";

fn receive(queue: &str, options: &[&str]) -> Outcome {
    let mut arguments = vec!["receive", "--drain", queue];
    arguments.extend(options);
    hello(arguments).run()
}

/// A queue with compressed messages of several senders, and one that is not compressed.
fn filled() -> String {
    let queue = queue("decode");
    send(&queue, "gzip", "1 tea", "--content-encoding gzip");
    send(&queue, ZLIB, "2 buns", "--content-encoding Deflate");
    // As Celery sends it: compressed, with the encoding of the text.
    send(&queue, ZLIB, "3 cups", "--content-encoding utf-8");
    send(&queue, "cat", "4 more", "");
    queue
}

#[test]
fn bodies_are_printed_decoded() {
    let queue = filled();
    let peek = |options: &[&str]| {
        let mut arguments = vec!["receive", "--peek", "--quiet", &queue];
        arguments.extend(options);
        hello(arguments).run()
    };
    peek(&["--decode=deflate"]).printed(
        " [x] Received '1 tea'\n [x] Received '2 buns'\n [x] Received '3 cups'\n [x] Received '4 more'\n",
    );
    let format = r"%s %S %x %{decoded} %{content_encoding}\n";
    peek(&["--decode=gzip", "--count", "2", "--format", format])
        .printed("1 tea 5 3120746561 gzip gzip\n2 buns 6 322062756e73 deflate Deflate\n");
    // Without a value only the property counts.
    let mixed = peek(&["--decode", "-o", "json"]).stdout;
    let decoded = |line: &str| line.contains(r#""decoded":""#);
    assert_eq!(
        mixed.lines().map(decoded).collect::<Vec<_>>(),
        [true, true, false, false]
    );
    // Nothing was asked for.
    let encoded = peek(&["-o", "json"]).stdout;
    assert!(!encoded.lines().any(decoded), "{encoded}");
    receive(&queue, &["--decode=deflate", "-o", "body"]).printed("1 tea\n2 buns\n3 cups\n4 more\n");
}

#[test]
fn bodies_are_saved_and_given_to_commands_decoded() {
    let queue = filled();
    let files = Files::new();
    let directory = files.path().into_string().unwrap();
    assert_eq!(
        receive(&queue, &["--decode", "--count", "1", "--save", &directory]).status(),
        0
    );
    let saved = std::fs::read(format!("{directory}/000000000001"));
    assert_eq!(saved.unwrap(), b"1 tea");
    let print = r#"echo "$HELLO_MQ_DECODED/$HELLO_MQ_CONTENT_ENCODING: $(cat)""#;
    receive(&queue, &["--decode=deflate", "--", "sh", "-c", print])
        .printed("deflate/Deflate: 2 buns\ndeflate/utf-8: 3 cups\n/: 4 more\n");
}

#[test]
fn a_line_of_json_is_sent_encoded_again() {
    let queue = filled();
    let body = zstd::encode_all(&b"5 \xff"[..], 0).unwrap();
    hello([
        "send",
        "--quiet",
        "-q",
        &queue,
        "--content-encoding",
        "zstd",
        "-",
    ])
    .stdin(body)
    .run()
    .printed("");
    let first = receive(&queue, &["--decode=deflate", "-o", "json"]).stdout;
    assert_eq!(first.matches(r#""decoded":""#).count(), 4, "{first}");
    let sent = hello(["send", "--jsonl"]).stdin(first.clone()).run();
    sent.printed(" [x] Sent 5 messages\n");
    let second = receive(&queue, &["--decode=deflate", "-o", "json"]).stdout;
    assert_eq!(without_times(&second), without_times(&first));
    // What is sent is compressed for another program, too.
    let line = first.lines().next().unwrap().replace("1 tea", "1 mug");
    hello(["send", "--jsonl", "--quiet"]).stdin(line).run();
    shell(&format!(
        "$H receive --drain -o body -D '' {queue} | gzip -d"
    ))
    .run()
    .printed("1 mug");
    let line = format!(
        "{{\"payload\":\"a\"}}\n{}",
        first.replace("\"zstd\",\"p", "\"br\",\"p")
    );
    hello(["send", "--jsonl", "-q", &queue])
        .stdin(line)
        .run()
        .failed(
            65,
            &[
                "line 6 of standard input",
                "decoded is none of gzip, deflate and zstd",
            ],
        );
}

#[test]
fn a_body_that_can_not_be_decoded_is_passed_on() {
    let queue = queue("decode-not");
    let tea = |options: &str| send(&queue, "gzip", "tea", options);
    tea("--content-encoding gzip");
    send(
        &queue,
        "gzip | head -c 15",
        "cut off",
        "--content-encoding gzip --message-id cut",
    );
    // Without a message-id.
    let line = r#"{"properties":{"content_encoding":"zstd"},"payload":"not compressed"}"#;
    hello(["send", "--quiet", "--jsonl", "-q", &queue])
        .stdin(format!("{line}\n").repeat(11))
        .run()
        .printed("");
    tea("--content-encoding gzip");
    let outcome = receive(&queue, &["--decode", "--format", r"%S %{decoded}\n"]);
    let decoded = "3 gzip\n";
    let expected = format!("{decoded}15 \n{}{decoded}", "14 \n".repeat(11));
    assert_eq!((outcome.status(), outcome.stdout), (0, expected));
    let notes: Vec<_> = outcome.stderr.lines().collect();
    assert_eq!(notes.len(), 11, "{notes:?}");
    let cut =
        "hello-mq: the body of message 'cut' can't be decoded and stays as it is: not valid gzip: ";
    assert!(notes[0].starts_with(cut), "{notes:?}");
    let third =
        "hello-mq: the body of message 3 can't be decoded and stays as it is: not valid zstd: ";
    assert!(notes[1].starts_with(third), "{notes:?}");
    assert_eq!(
        notes[10],
        "hello-mq: messages that could not be decoded: 12"
    );
    // Each is acknowledged.
    receive(&queue, &["-o", "body"]).printed("");
}

#[test]
fn a_bomb_takes_no_memory() {
    let queue = queue("decode-bomb");
    let bomb = zstd::encode_all(io::repeat(0).take(200 << 20), 1).unwrap();
    for body in [&bomb, &bomb, &b"plain".to_vec()] {
        hello(["send", "--quiet", "-q", &queue, "-"])
            .stdin(body.clone())
            .run()
            .printed("");
    }
    let arguments = [
        "receive",
        "--drain",
        "--decode=zstd",
        "--format",
        "%S %{decoded},",
        &queue,
    ];
    let (outcome, peak) = hello(arguments).spawn().end_with_peak();
    outcome.failed(0, &["stays as it is: more than 128 MiB when decoded"]);
    assert_eq!(outcome.stderr.lines().count(), 2);
    let size = bomb.len();
    assert_eq!(outcome.stdout, format!("{size} ,{size} ,5 ,"));
    assert!(peak < 64 << 10, "{peak} KiB");
}

#[test]
fn expressions_see_decoded_bodies_and_the_messages_stay_encoded() {
    let (from, to) = (filled(), queue("decode-to"));
    send(&from, "gzip", "extra", "--content-encoding gzip");
    hello(["declare", "--quiet", &to]).run().printed("");
    let all = hello(["receive", "--peek", "-o", "json", &from])
        .run()
        .stdout;
    let forward = |options: &[&str]| {
        receive(
            &from,
            &["--forward-to", &format!(":{to}")]
                .into_iter()
                .chain(options.iter().copied())
                .collect::<Vec<_>>(),
        )
    };
    // Byte for byte, with nothing said of what is not taken.
    forward(&["--decode", "--where", r#".payload == "2 buns""#])
        .printed(" [x] Forwarded 1 message\n");
    let payload = |json: &str| {
        let line = json.split(r#""payload":""#).nth(1).unwrap();
        line.split('"').next().unwrap().to_owned()
    };
    let moved = receive(&to, &["-o", "json"]).stdout;
    assert_eq!(payload(&moved), payload(all.lines().nth(1).unwrap()));
    // A result is encoded again.
    let changed = r#".payload |= sub("tea"; "mug")"#;
    forward(&[
        "--decode",
        "--where",
        r#".payload == "1 tea""#,
        "--map",
        changed,
    ])
    .printed(" [x] Forwarded 1 message\n");
    shell(&format!("$H receive --drain -o body -D '' {to} | gzip -d"))
        .run()
        .printed("1 mug");
    // A purge sees them decoded, too.
    hello([
        "purge",
        "--decode",
        "--where",
        r#".payload == "extra""#,
        &from,
    ])
    .run()
    .printed(&format!(" [x] Purged '{from}' (1 message)\n"));
    // Without its encoding it is sent plain.
    let plain = "del(.decoded, .properties.content_encoding)";
    forward(&["--decode=deflate", "--where", ".decoded", "--map", plain])
        .printed(" [x] Forwarded 1 message\n");
    receive(&to, &["-o", "body"]).printed("3 cups\n");
    // Where it is printed, it is decoded after the choice, and told once that it can't be.
    send(&from, "cat", "no zip", "--content-encoding gzip");
    let outcome = receive(&from, &["--decode", "--where", "true", "-o", "body"]);
    assert_eq!(
        (outcome.status(), &*outcome.stdout),
        (0, "4 more\nno zip\n")
    );
    assert_eq!(outcome.stderr.matches("can't be decoded").count(), 1);
}

#[test]
fn only_known_encodings_can_be_named_and_nothing_is_forwarded_decoded() {
    hello(["receive", "--decode=br"])
        .run()
        .failed(64, &["'br'", "--decode", "gzip, deflate, zstd"]);
    hello(["receive", "--decode", "--forward-to", ":elsewhere"])
        .run()
        .failed(64, &["--decode has no effect with --forward-to"]);
    hello(["purge", "--decode", "orders"])
        .run()
        .failed(64, &["--where <EXPRESSION>"]);
}
