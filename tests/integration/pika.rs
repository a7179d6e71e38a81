//! Both directions with the tutorial's Python programs, whichever declares the queue first.

use std::process::Command;

use crate::support::{hello, queue, url};

fn pika(program: &str, arguments: &[&str]) -> String {
    let root = env!("CARGO_MANIFEST_DIR");
    let output = Command::new(format!("{root}/target/pika/bin/python"))
        .arg(format!("{root}/tests/pika/{program}"))
        .arg(url())
        .args(arguments)
        .output()
        .expect("run scripts/setup python first");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn pika_sends_and_hello_mq_receives() {
    let queue = queue("from-pika");
    pika("send.py", &[&queue, "Hello World!"]);
    hello(["receive", "--quiet", &queue, "-c1"])
        .run()
        .printed(" [x] Received 'Hello World!'\n");
    // The queue is hello-mq's this time.
    let queue = crate::support::queue("from-pika");
    let mut receiver = hello(["receive", &queue, "-c1"]).spawn();
    receiver.expect("CTRL+C\n");
    pika("send.py", &[&queue, "Grüße"]);
    receiver.end().printed(" [x] Received 'Grüße'\n");
}

#[test]
fn hello_mq_sends_and_pika_receives() {
    let queue = queue("to-pika");
    hello(["send", "-q", &queue, "Hello World!"]).run();
    let printed = pika("receive.py", &[&queue, "1"]);
    assert_eq!(
        printed,
        " [*] Waiting for messages. To exit press CTRL+C\n [x] Received Hello World!\n"
    );
    // The queue is pika's this time.
    let other = crate::support::queue("to-pika");
    pika("send.py", &[&other, "first"]);
    hello(["send", "-q", &other, "second", "third"]).run();
    let printed = pika("receive.py", &[&other, "3"]);
    assert!(
        printed.ends_with(" [x] Received first\n [x] Received second\n [x] Received third\n"),
        "{printed}"
    );
}
