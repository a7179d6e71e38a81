//! Whether hello-mq has become slower where no broker is needed to tell: how many instructions each
//! path takes for a message, as valgrind's callgrind counts them, against those recorded.
//!
//! Time would tell how busy the machine is. `BLESS=1 make instructions` records anew.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss
)]

use std::collections::HashMap;
use std::env;
use std::fs;
use std::hint::black_box;
use std::io;
use std::process::{Command, ExitCode};
use std::time::{Duration, UNIX_EPOCH};

use hello_mq::broker::Window;
use hello_mq::color::Paint;
use hello_mq::input::split::Splitter;
use hello_mq::message::{FieldValue, Message, Properties, ShortString, envelope};
use hello_mq::output::{MessageWriter, OutputFormat};

/// How many per cent more fail. One binary comes to the same counts in every run, and most paths to the
/// same when code elsewhere changes; another C library or processor has other routines to copy bytes.
const MARGIN: f64 = 10.0;

const RECORDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/recorded");

/// How many messages a [`Round`] takes along its path.
const MESSAGES: usize = 1000;

type Round = Box<dyn FnMut()>;

/// A path's name, and how to prepare it.
type Path = (&'static str, fn() -> Round);

const PATHS: [Path; 13] = [
    ("split-lines", || split(b"\n")),
    ("split-null", || split(b"\0")),
    ("split-delimiter", || split(b"\n--boundary--\n")),
    ("text", || write(OutputFormat::Text(Paint::default()), text)),
    ("text-bytes", || {
        write(OutputFormat::Text(Paint::default()), bytes)
    }),
    ("json-write", || write(json(), text)),
    ("json-write-bytes", || write(json(), bytes)),
    ("json-read", || read(text)),
    ("json-read-bytes", || read(bytes)),
    ("format", format),
    ("confirms", confirms),
    ("properties-encode", encode),
    ("properties-decode", decode),
];

/// A body such as people send, of some length up to 200 bytes, with a few characters to escape.
fn text(number: usize) -> Vec<u8> {
    let words = "Grüße aus Köln: \"it's 21 °C\"\tand the line goes on, as lines of a log do, ";
    let length = number * 7 % 200;
    let text: String = words.chars().cycle().take(length).collect();
    text.into_bytes()
}

/// A body of the same length that is no text.
fn bytes(number: usize) -> Vec<u8> {
    let text = text(number);
    let noise = (number..).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[2]);
    [0xff]
        .into_iter()
        .chain(noise)
        .take(text.len() + 1)
        .collect()
}

fn messages(body: fn(usize) -> Vec<u8>) -> Vec<Message> {
    let short = |text: &str| ShortString::new(text).expect("it is short");
    let message = |number| Message {
        exchange: "logs".to_owned(),
        routing_key: "berlin.kernel.warning".to_owned(),
        redelivered: false,
        properties: Properties {
            content_type: Some(short("text/plain")),
            headers: Some(
                [
                    (
                        "host",
                        FieldValue::LongString(b"host-7.example.org".to_vec()),
                    ),
                    ("attempt", FieldValue::SignedInt(3)),
                    ("load", FieldValue::Double(0.75)),
                ]
                .map(|(name, value)| (short(name), value))
                .into_iter()
                .collect(),
            ),
            delivery_mode: Some(2),
            message_id: Some(short(&format!("id-{number:08}"))),
            timestamp: Some(1_700_000_000),
            ..Properties::default()
        },
        body: body(number),
        received: Some(UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_456)),
        decoded: None,
        incomplete: None,
    };
    (0..MESSAGES).map(message).collect()
}

fn split(delimiter: &[u8]) -> Round {
    let input: Vec<u8> = (0..MESSAGES)
        .flat_map(|number| [&text(number), delimiter].concat())
        .collect();
    let mut splitter = Splitter::new(delimiter);
    Box::new(move || {
        // As much as is read at a time.
        for chunk in input.chunks(1 << 16) {
            splitter.feed(black_box(chunk), |piece| drop(black_box(piece)));
        }
    })
}

fn write(form: OutputFormat, body: fn(usize) -> Vec<u8>) -> Round {
    let messages = messages(body);
    let mut stream = MessageWriter::new(form, io::sink(), true);
    Box::new(move || {
        for message in &messages {
            let written = stream.write(black_box(message));
            written.expect("a sink takes everything");
        }
    })
}

fn json() -> OutputFormat {
    OutputFormat::Json {
        end: b"\n".to_vec(),
        decodes: false,
    }
}

fn format() -> Round {
    let template = r"%T %e/%r #%{message_id} %{headers.host} %{priority} %S bytes %h: %s\n";
    let template = template.parse().expect("it is a template");
    write(OutputFormat::Template(template), text)
}

fn read(body: fn(usize) -> Vec<u8>) -> Round {
    let line = |message: &Message| {
        let mut line = Vec::new();
        envelope::write(message, &mut line).expect("memory takes everything");
        line
    };
    let lines: Vec<_> = messages(body).iter().map(line).collect();
    Box::new(move || {
        for line in &lines {
            let envelope = envelope::parse(black_box(line.clone()));
            drop(black_box(envelope.expect("it was written so")));
        }
    })
}

fn confirms() -> Round {
    // What the broker confirms at a time while it is busy.
    const TOGETHER: usize = 50;
    let mut messages = messages(text);
    let mut window = Window::default();
    let mut tag = 0;
    Box::new(move || {
        for message in messages.drain(..) {
            let bytes = message.body.len();
            window.push(message, bytes);
        }
        for _ in 0..MESSAGES / TOGETHER {
            tag += TOGETHER as u64;
            window.acknowledge(black_box(tag), true);
            while let Some((message, fate)) = window.pop() {
                black_box(fate);
                messages.push(message);
            }
        }
    })
}

fn encode() -> Round {
    let messages = messages(text);
    let mut out = Vec::new();
    Box::new(move || {
        for message in &messages {
            out.clear();
            black_box(&message.properties).encode(&mut out);
            black_box(&out);
        }
    })
}

fn decode() -> Round {
    let encoded = |message: &Message| {
        let mut out = Vec::new();
        message.properties.encode(&mut out);
        out
    };
    let encoded: Vec<_> = messages(text).iter().map(encoded).collect();
    Box::new(move || {
        for bytes in &encoded {
            let properties = Properties::decode(black_box(bytes));
            drop(black_box(properties.expect("it was encoded so")));
        }
    })
}

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let [path, rounds] = arguments.as_slice() {
        let (_, prepare) = PATHS.iter().find(|(name, _)| name == path).expect("a path");
        let mut round = prepare();
        for _ in 0..rounds.parse().expect("a number of rounds") {
            round();
        }
        return ExitCode::SUCCESS;
    }
    if cfg!(target_os = "macos") {
        eprintln!("NOT CHECKED: instructions a message, as there is no valgrind for macOS");
        return ExitCode::SUCCESS;
    }
    let compiler = rustc();
    let counts = PATHS.map(|(name, _)| (name, per_message(name)));
    if env::var_os("BLESS").is_some() {
        let lines = counts.map(|(name, count)| format!("{name} {count}\n"));
        let text = format!(
            "# Instructions a message, as compiled by {compiler}\n{}",
            lines.concat()
        );
        fs::write(RECORDED, text).expect("the record can be written");
        return ExitCode::SUCCESS;
    }
    let recorded = fs::read_to_string(RECORDED).expect("there is a record");
    let then = recorded.lines().next().unwrap_or_default();
    let recorded: HashMap<_, _> = recorded
        .lines()
        .filter_map(|line| line.split_once(' '))
        .collect();
    let mut slower = false;
    for (name, count) in counts {
        let before = recorded
            .get(name)
            .and_then(|count| count.parse::<f64>().ok());
        let Some(before) = before else {
            eprintln!("{name}: not recorded; BLESS=1 make instructions records it");
            slower = true;
            continue;
        };
        let change = 100.0 * (count as f64 / before - 1.0);
        let verdict = if change > MARGIN {
            slower = true;
            "  TOO MANY"
        } else if change < -MARGIN {
            "  fewer: BLESS=1 make instructions records it"
        } else {
            ""
        };
        println!("{name:20} {count:6} instructions a message, {change:+5.1} %{verdict}");
    }
    if slower {
        eprintln!(
            "more than {MARGIN} % more instructions than recorded; {then}; now by {compiler}"
        );
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Another compiler may well come to other counts.
fn rustc() -> String {
    let output = Command::new("rustc").arg("--version").output();
    let said = output.expect("there is a compiler").stdout;
    String::from_utf8_lossy(&said).trim().to_owned()
}

/// How many instructions a path takes for a message. The start of the process and the preparations
/// are in both counts; what only a first message needs, in both as well.
fn per_message(path: &str) -> u64 {
    (count(path, 3) - count(path, 1)) / (2 * MESSAGES as u64)
}

fn count(path: &str, rounds: u64) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe().expect("this program"))
        .args([path, &rounds.to_string()])
        .output()
        .expect("valgrind: scripts/setup instructions installs it");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{path}:\n{said}");
    said.lines()
        .find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok())
        .unwrap_or_else(|| panic!("valgrind counted nothing:\n{said}"))
}
