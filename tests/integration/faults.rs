//! A broker that dies, freezes or is cut off. Each test has a node of its own.

use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{Node, Proxy, hello, queue, url};

#[test]
fn a_broker_that_dies_or_closes_the_connection_is_told() {
    let mut node = Node::start();
    let receive = |queue: &str| {
        let mut receiver = hello(["receive", "--no-reconnect", queue])
            .env("HELLO_MQ_URL", &node.url)
            .spawn();
        receiver.expect("CTRL+C\n");
        receiver
    };
    let (first, second) = (receive("first"), receive("second"));
    node.tool("rabbitmqctl -q close_all_connections because-i-say-so");
    for receiver in [first, second] {
        receiver.end().failed(
            69,
            &[
                "lost the connection to amqp://guest@127.0.0.1:",
                "CONNECTION_FORCED - because-i-say-so",
                "while consuming from queue",
            ],
        );
    }

    let mut receiver = hello(["receive", "--no-reconnect", "third"])
        .env("HELLO_MQ_URL", &node.url)
        .spawn();
    receiver.expect("CTRL+C\n");
    let start = Instant::now();
    node.tool("broker-kill");
    receiver.end().failed(
        69,
        &[
            "lost the connection to",
            "while consuming from queue 'third'",
        ],
    );
    assert!(start.elapsed() < Duration::from_secs(5));
    hello(["send", "x"])
        .env("HELLO_MQ_URL", &node.url)
        .run()
        .failed(69, &["connection refused"]);
}

#[test]
fn an_alarm_is_announced_and_ctrl_c_works_meanwhile() {
    let mut node = Node::start();
    hello(["declare"]).env("HELLO_MQ_URL", &node.url).run();
    node.raise_memory_alarm();
    let mut sender = node.hello(["send", "x", "y"]).spawn();
    assert!(sender.has_said("accepts no messages", 1));
    let (outcome, time) = sender.stop(Signal::SIGINT);
    outcome.failed(
        130,
        &[
            "accepts no messages at the moment (low on memory); waiting",
            "not confirmed: messages 1 to 2; 0 of 2 confirmed",
        ],
    );
    assert!(time < Duration::from_secs(4), "{time:?}");

    let mut sender = node.hello(["send", "z"]).spawn();
    assert!(sender.has_said("accepts no messages", 1));
    node.clear_memory_alarm();
    let outcome = sender.end();
    assert_eq!(
        (outcome.status(), outcome.stdout.as_str()),
        (0, " [x] Sent 'z'\n"),
        "{outcome:?}"
    );
    assert!(
        outcome.stderr.contains("accepts messages again"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_network_that_freezes_is_noticed_within_two_heartbeats_and_a_bit() {
    let proxy = Proxy::start(&url());
    let mut receiver = hello([
        "receive",
        "--no-reconnect",
        &queue("frozen"),
        "--heartbeat",
        "1s",
        "-u",
        &proxy.url,
    ])
    .spawn();
    receiver.expect("CTRL+C\n");
    proxy.freeze();
    let start = Instant::now();
    receiver
        .end()
        .failed(69, &["no data from the broker for 2s (two heartbeats)"]);
    assert!(
        start.elapsed() < Duration::from_secs(6),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn a_network_that_freezes_does_not_keep_the_user_from_leaving() {
    let proxy = Proxy::start(&url());
    let mut receiver = hello(["receive", &queue("frozen"), "-u", &proxy.url]).spawn();
    receiver.expect("CTRL+C\n");
    proxy.freeze();
    let (outcome, time) = receiver.stop(Signal::SIGINT);
    assert_eq!((outcome.status(), outcome.stderr.as_str()), (0, ""));
    assert!(time < Duration::from_secs(4), "{time:?}");
}

#[test]
fn a_connection_that_is_cut_is_told_at_once() {
    let proxy = Proxy::start(&url());
    let mut receiver =
        hello(["receive", "--no-reconnect", &queue("cut"), "-u", &proxy.url]).spawn();
    receiver.expect("CTRL+C\n");
    let start = Instant::now();
    proxy.cut();
    receiver.end().failed(69, &["lost the connection to"]);
    assert!(start.elapsed() < Duration::from_secs(4));
}

/// What a broker of frames of so many bytes says in a login that succeeds: start, tune, open-ok.
fn greeting(frame_max: u32) -> [Vec<u8>; 3] {
    let frame = |payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[1, 0, 0][..], &length, payload, &[0xce]].concat()
    };
    let start = [
        &[0, 10, 0, 10, 0, 9, 0, 0, 0, 0][..],
        &[0, 0, 0, 5],
        b"PLAIN",
        &[0, 0, 0, 5],
        b"en_US",
    ];
    let tune = [
        &[0, 10, 0, 30, 7, 255][..],
        &frame_max.to_be_bytes(),
        &[0, 60],
    ];
    [
        frame(&start.concat()),
        frame(&tune.concat()),
        frame(&[0, 10, 0, 41, 0]),
    ]
}

#[test]
fn a_connection_that_ends_right_after_the_login_is_no_bug_of_ours() {
    let forced = b"\x01\0\0\0\0\0\x0e\0\x0a\0\x32\x01\x40\x03bye\0\0\0\0\xce";
    for farewell in [&b""[..], forced, b"\x01\0\0garbage garbage"] {
        for delay in (0..4000).step_by(200) {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap().to_string();
            thread::spawn(move || {
                let (mut peer, _) = listener.accept().unwrap();
                for frame in greeting(131_072) {
                    let _ = peer.read(&mut [0; 1024]).unwrap();
                    peer.write_all(&frame).unwrap();
                }
                thread::sleep(Duration::from_micros(delay));
                let _ = peer.write_all(farewell);
            });
            let outcome = hello(["declare", "-u", &format!("amqp://{address}")]).run();
            outcome.failed(69, &[&address]);
            assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
        }
    }
}

#[test]
fn a_broker_of_frames_that_are_too_small_is_refused() {
    const CHANNEL_OPEN_OK: &[u8] = b"\x01\0\x01\0\0\0\x08\0\x14\0\x0b\0\0\0\0\xce";
    for frame_max in [10, 1000] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            while let Ok((mut peer, _)) = listener.accept() {
                for frame in greeting(frame_max) {
                    let _ = peer.read(&mut [0; 1024]);
                    let _ = peer.write_all(&frame);
                }
                let _ = peer.write_all(CHANNEL_OPEN_OK);
                // Nothing more is answered.
                thread::spawn(move || io::copy(&mut peer, &mut io::sink()));
            }
        });
        let url = format!("amqp://{address}");
        for words in [
            &["declare"][..],
            &["send", "--no-declare", "-H", "shop: 7", "hello"],
            &["receive", "--no-declare"],
        ] {
            let mut running = hello(words).args(["-u", &url]).spawn();
            let has_ended = running.ends_within(Duration::from_secs(4));
            let said = running.said();
            assert!(has_ended, "{words:?}, {frame_max}: it said {said:?}");
            let outcome = running.end();
            assert!(!outcome.stderr.contains("panicked"), "{outcome:?}");
            outcome.failed(69, &[&address, "frame", "4096"]);
        }
    }
}

#[test]
fn a_message_that_is_confirmed_is_done_although_the_broker_is_blocked() {
    let mut node = Node::start();
    node.raise_memory_alarm();
    // The broker notices the alarm when a body comes, and an empty message has none.
    let start = Instant::now();
    let outcome = node.hello(["send", ""]).run();
    assert_eq!(
        (outcome.status(), outcome.stdout.as_str()),
        (0, " [x] Sent ''\n"),
        "{outcome:?}"
    );
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn a_network_that_freezes_after_the_login_ends_what_is_asked_of_the_broker() {
    let name = queue("frozen-ask");
    for words in [
        &["declare"][..],
        &["declare", "--check"],
        &["declare", "--durable"],
        &["purge", "--yes"],
        &["delete", "--yes"],
    ] {
        let proxy = Proxy::start(&url());
        proxy.freeze_after_login();
        let start = Instant::now();
        hello(words.iter().copied())
            .args([&name, "--heartbeat", "1s", "-u", &proxy.url])
            .run()
            .failed(69, &["no data from the broker for 2s (two heartbeats)"]);
        let time = start.elapsed();
        assert!(time < Duration::from_secs(8), "{words:?}: {time:?}");
    }
}
