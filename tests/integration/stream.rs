//! A stream is read from where `--stream-offset` says to what was its end, on every series.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{Outcome, hello, queue};

fn drain(stream: &str, more: &str) -> Outcome {
    hello(["receive", "--drain", "--quiet", "-o", "body", stream])
        .args(more.split_whitespace())
        .run()
}

#[test]
fn a_stream_is_drained_from_where_it_is_to_begin() {
    let name = queue("stream");
    hello(["declare", "--quiet", "--type", "stream", &name]).run();
    drain(&name, "").printed("");
    drain(&name, "--no-declare").printed("");
    let bodies: Vec<_> = (0..10).map(|n| n.to_string()).collect();
    hello(["send", "--quiet", "-q", &name]).args(&bodies).run();
    // At once: how many messages it has, the broker says only after a while.
    let from = |start: usize| bodies[start..].iter().map(|body| format!("{body}\n"));
    let all: String = from(0).collect();
    for more in [
        "",
        "",
        "--no-declare",
        "--stream-offset first",
        "--stream-offset 2020-01-01T00:00:00Z",
        "-c 10",
    ] {
        drain(&name, more).printed(&all);
    }
    drain(&name, "--stream-offset 7").printed(&from(7).collect::<String>());
    drain(&name, "--stream-offset 9").printed("9\n");
    drain(&name, "-c 3").printed("0\n1\n2\n");
    for more in ["10", "99", "next", "2999-01-01T00:00:00Z"] {
        drain(&name, &format!("--stream-offset {more}")).printed("");
    }
    // With the last message come those that were stored together with it.
    let last = drain(&name, "--stream-offset last");
    assert!(
        last.status() == 0 && last.stdout.ends_with("9\n"),
        "{last:?}"
    );
    let short = drain(&name, "-c 12");
    short.failed(1, &["received 10 of 12"]);
    assert_eq!(short.stdout, all);
    hello(["receive", "--drain", "--quiet", &name])
        .args(["--", "sh", "-c", "cat; echo"])
        .run()
        .printed(&all);
}

#[test]
fn the_drain_of_a_stream_ends_while_a_producer_goes_on() {
    let name = queue("stream");
    hello(["declare", "--quiet", "--type", "stream", &name]).run();
    let send = [
        "send", "--quiet", "-q", &name, "-c", "1000000", "--rate", "1000", "x",
    ];
    let mut producer = hello(send).spawn();
    producer.collect();
    while drain(&name, "").stdout.is_empty() {}
    for _ in 0..3 {
        let start = Instant::now();
        let outcome = drain(&name, "");
        assert_eq!(outcome.status(), 0, "{outcome:?}");
        assert!(outcome.stdout.starts_with("x\n"), "{outcome:?}");
        assert!(start.elapsed() < Duration::from_secs(15));
    }
    producer.stop(Signal::SIGINT);
}
