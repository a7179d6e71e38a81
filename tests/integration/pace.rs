//! A recording is sent at the pace at which it was received.

use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use nix::sys::signal::Signal;

use crate::support::{Files, Observer, Proxy, Running, hello, queue, shell, url};

/// How much earlier or later a message may come on a busy machine.
const TOLERANCE: Duration = Duration::from_millis(600);

/// The lines of a recording, of which each was received this long after the first.
fn recording(queue: &str, milliseconds: &[u64]) -> String {
    let start = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let line = |(number, milliseconds): (usize, &u64)| {
        let time = humantime::format_rfc3339_micros(start + Duration::from_millis(*milliseconds));
        format!(
            "{{\"routing_key\":\"{queue}\",\"received_at\":\"{time}\",\"payload\":\"{number}\"}}\n"
        )
    };
    milliseconds.iter().enumerate().map(line).collect()
}

/// Receives so many messages, from now on.
fn receive(queue: &str, count: u32, form: [&str; 2]) -> Running {
    hello(["declare", queue]).run();
    let receiver = hello(["receive", "-c", &count.to_string(), queue]);
    let receiver = receiver.args(form).spawn();
    let mut observer = Observer::new();
    let mut consumers = || {
        let channel = observer.channel();
        let state = channel.queue_declare_passive(queue).unwrap();
        state.declared_consumer_count()
    };
    while consumers() != Some(1) {
        thread::sleep(Duration::from_millis(20));
    }
    receiver
}

/// Receives so many messages with their times, from now on.
fn listen(queue: &str, count: u32) -> Running {
    receive(queue, count, ["--format", r"%T %s\n"])
}

/// The messages that came, and how long after the first.
fn times(printed: &str) -> Vec<(&str, Duration)> {
    let mut first = None;
    let lines = printed.lines().map(|line| {
        let (time, body) = line.split_once(' ').unwrap();
        let time = humantime::parse_rfc3339(time).unwrap();
        let since = time.duration_since(*first.get_or_insert(time));
        (body, since.unwrap_or_default())
    });
    lines.collect()
}

/// Checks that messages came this long after the first, in this order.
fn came(receiver: Running, expected: &[(&str, u64)]) {
    let outcome = receiver.end();
    assert_eq!(outcome.status(), 0, "{outcome:?}");
    let times = times(&outcome.stdout);
    let bodies: Vec<_> = times.iter().map(|it| it.0).collect();
    assert_eq!(bodies, expected.iter().map(|it| it.0).collect::<Vec<_>>());
    for ((body, time), (_, milliseconds)) in times.iter().zip(expected) {
        let due = Duration::from_millis(*milliseconds);
        assert!(
            *time + TOLERANCE > due && *time < due + TOLERANCE,
            "{body}: {time:?} instead of {due:?}"
        );
    }
}

#[test]
fn messages_are_sent_at_the_distances_at_which_they_were_received() {
    thread::scope(|scope| {
        for (pace, due) in [
            ("recorded", [0, 2000, 2000, 4000]),
            ("2x", [0, 1000, 1000, 2000]),
            ("0.5x", [0, 4000, 4000, 8000]),
        ] {
            scope.spawn(move || {
                let queue = queue(&format!("pace-{pace}"));
                let receiver = listen(&queue, 4);
                hello(["send", "--jsonl", "--pace", pace])
                    .stdin(recording(&queue, &[0, 2000, 1000, 4000]))
                    .run()
                    .printed(" [x] Sent 4 messages\n");
                let expected = ["0", "1", "2", "3"].into_iter().zip(due);
                came(receiver, &expected.collect::<Vec<_>>());
            });
        }
    });
    // Without a pace the times say nothing.
    let queue = queue("no-pace");
    let receiver = listen(&queue, 2);
    hello(["send", "--jsonl"])
        .stdin(recording(&queue, &[0, 4000]))
        .run();
    came(receiver, &[("0", 0), ("1", 0)]);
}

#[test]
fn each_repetition_and_no_file_begins_the_schedule_anew() {
    let queue = queue("pace-count");
    let files = Files::new();
    let all = recording(&queue, &[0, 1000, 2000]);
    let (begin, end) = all.split_at(all.find('\n').unwrap() + 1);
    let (begin, end) = (files.write("begin", begin), files.write("end", end));
    let receiver = listen(&queue, 6);
    hello(["send", "--jsonl", "--pace", "recorded", "-c", "2", "-f"])
        .args([begin.as_os_str(), "-f".as_ref(), end.as_os_str()])
        .run()
        .printed(" [x] Sent 6 messages\n");
    let due = [0, 1000, 2000, 2000, 3000, 4000];
    let expected = ["0", "1", "2"].into_iter().cycle().zip(due);
    came(receiver, &expected.collect::<Vec<_>>());
}

#[test]
fn what_is_received_is_sent_as_it_was_received() {
    let (from, to) = (queue("pace-from"), queue("pace-to"));
    let recorder = receive(&from, 3, ["-o", "json"]);
    for body in ["a", "b", "c"] {
        hello(["send", "-q", &from, body]).run();
        thread::sleep(Duration::from_secs(1));
    }
    let lines = recorder.end().stdout.replace(&from, &to);
    let receiver = listen(&to, 3);
    hello(["send", "--jsonl", "--pace", "recorded"])
        .stdin(lines)
        .run()
        .printed(" [x] Sent 3 messages\n");
    came(receiver, &[("a", 0), ("b", 1000), ("c", 2000)]);
}

#[test]
fn a_line_without_a_time_is_malformed() {
    let queue = queue("pace-malformed");
    hello(["declare", &queue]).run();
    let lines = recording(&queue, &[0, 200, 400]);
    let mut lines: Vec<_> = lines.lines().collect();
    lines[2] = r#"{"payload":"c"}"#;
    hello(["send", "--jsonl", "--pace", "recorded"])
        .stdin(lines.join("\n"))
        .run()
        .failed(
            65,
            &[
                "line 3 of standard input: has no received_at, which --pace needs",
                "nothing after line 2 of standard input was sent; 2 confirmed",
            ],
        );
    assert_eq!(Observer::new().drain(&queue), ["0", "1"]);
    for (options, part) in [
        ("--pace 2x a", "--jsonl"),
        ("--pace 2x -l", "--lines"),
        ("--jsonl --pace 2x --rate 5", "--rate <N>"),
        (
            "--jsonl --pace 0x",
            "write recorded, or a factor such as 2x",
        ),
        ("--jsonl --pace 2", "write recorded, or a factor such as 2x"),
    ] {
        let outcome = shell(&format!("$H send {options} </dev/null")).run();
        outcome.failed(64, &[part]);
    }
}

#[test]
fn a_long_pause_is_no_silence_of_the_broker() {
    let queue = queue("pace-pause");
    let receiver = listen(&queue, 2);
    let mut sender = hello(["send", "--jsonl", "--pace", "recorded", "--heartbeat", "1s"])
        .stdin(recording(&queue, &[0, 6500, 60_000]))
        .spawn();
    came(receiver, &[("0", 0), ("1", 6500)]);
    sender.collect();
    let (outcome, time) = sender.stop(Signal::SIGINT);
    assert!(time < Duration::from_secs(3), "{time:?}");
    assert_eq!(
        (outcome.status(), outcome.stderr.as_str()),
        (
            130,
            "hello-mq: interrupted while sending; nothing after line 2 of standard input was sent; 2 \
             confirmed\n"
        )
    );
}

#[test]
fn what_is_late_is_sent_at_once_and_the_rest_in_time() {
    let queue = queue("pace-late");
    let proxy = Proxy::start(&url());
    let mut receiver = listen(&queue, 4);
    let sender = hello(["send", "--jsonl", "--pace", "recorded"])
        .args(["-u", &proxy.url])
        .stdin(recording(&queue, &[0, 1000, 1200, 5000]))
        .spawn();
    let first = receiver.expect(" 0\n");
    // Its confirm passes, too.
    thread::sleep(Duration::from_millis(300));
    proxy.freeze();
    thread::sleep(Duration::from_millis(1500));
    proxy.thaw();
    proxy.cut();
    let outcome = sender.end();
    assert_eq!(outcome.status(), 0, "{outcome:?}");
    assert!(outcome.stderr.contains("reconnected to"), "{outcome:?}");
    let printed = first + &receiver.end().stdout;
    let times = times(&printed);
    let bodies: Vec<_> = times.iter().map(|it| it.0).collect();
    assert_eq!(bodies, ["0", "1", "2", "3"]);
    let [late, next, last] = [1, 2, 3].map(|index| times[index].1);
    assert!(late > Duration::from_millis(1500), "{late:?}");
    assert!(next < late + Duration::from_millis(150), "{next:?}");
    let due = Duration::from_secs(5);
    assert!(last + TOLERANCE > due && last < due + TOLERANCE, "{last:?}");
}
