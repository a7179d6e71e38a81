//! A command for each message.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use amiquip::{AmqpValue, FieldTable, QueueDeclareOptions};
use nix::sys::signal::Signal;

use crate::support::{Files, Node, Observer, hello, queue, shell};

/// A queue whose rejected messages go to another, and the other.
fn with_dead_letters(name: &str) -> (String, String) {
    let (queue, dead) = (queue(name), queue(&format!("{name}-dead")));
    let mut observer = Observer::new();
    hello(["declare", &dead]).run();
    let text = |text: &str| AmqpValue::LongString(text.to_owned());
    let mut arguments = FieldTable::new();
    arguments.insert("x-dead-letter-exchange".to_owned(), text(""));
    arguments.insert("x-dead-letter-routing-key".to_owned(), text(&dead));
    let options = QueueDeclareOptions {
        arguments,
        ..QueueDeclareOptions::default()
    };
    observer.channel().queue_declare(&*queue, options).unwrap();
    (queue, dead)
}

#[test]
fn a_command_gets_the_body_and_what_the_message_says() {
    let queue = queue("command");
    hello([
        "send",
        "-q",
        &queue,
        "-H",
        "x-shop: 7",
        "--app-id",
        "p",
        "--type",
        "t",
        "a\nb",
    ])
    .run();
    let script = "cat; echo \"|$HELLO_MQ_APP_ID|$HELLO_MQ_TYPE|$HELLO_MQ_HEADER_X_SHOP|$HELLO_MQ_HEADERS|$HELLO_MQ_ROUTING_KEY|$HELLO_MQ_ATTEMPT|$HELLO_MQ_PRIORITY|\"";
    hello(["receive", "--drain", &queue, "--", "sh", "-c", script])
        .env("HELLO_MQ_PRIORITY", "another message's")
        .run()
        .printed(&format!("a\nb|p|t|7|{{\"x-shop\":\"7\"}}|{queue}|1||\n"));
    assert_eq!(Observer::new().messages(&queue), 0);
}

#[test]
fn its_exit_status_decides() {
    let (queue, dead) = with_dead_letters("status");
    hello(["send", "-q", &queue, "0", "3", "0"]).run();
    let start = Instant::now();
    hello([
        "receive",
        "--drain",
        &queue,
        "--",
        "sh",
        "-c",
        "exit $(cat)",
    ])
    .run()
    .printed("");
    assert!(start.elapsed() < Duration::from_secs(5));
    let mut observer = Observer::new();
    assert_eq!(observer.drain(&dead), ["3"]);
    assert_eq!(observer.messages(&queue), 0);
}

#[test]
fn what_fails_comes_again_later_and_keeps_nobody_waiting() {
    let (queue, dead) = with_dead_letters("poison");
    let files = Files::new();
    let log = files.write("log", "");
    hello(["send", "-q", &queue, "poison", "a", "b", "c"]).run();
    let script = format!(
        "body=$(cat); echo $body $HELLO_MQ_ATTEMPT >>{}; test $body != poison",
        log.display()
    );
    let start = Instant::now();
    let outcome = hello([
        "receive",
        "--drain",
        "--max-redeliveries",
        "2",
        &queue,
        "--",
        "sh",
        "-c",
        &script,
    ])
    .run();
    let time = start.elapsed();
    assert_eq!((outcome.status(), outcome.stdout.as_str()), (0, ""));
    for said in [
        "the command ended with status 1; it returns to the queue in 1s",
        "it returns to the queue in 2s",
        "it was redelivered 2 times and is rejected (--max-redeliveries)",
    ] {
        assert!(outcome.stderr.contains(said), "{}", outcome.stderr);
    }
    assert_eq!(
        fs::read_to_string(log).unwrap(),
        "poison 1\na 1\nb 1\nc 1\npoison 2\npoison 3\n"
    );
    assert!(
        time > Duration::from_secs(3) && time < Duration::from_secs(10),
        "{time:?}"
    );
    assert_eq!(Observer::new().drain(&dead), ["poison"]);
}

#[test]
fn on_failure_says_what_becomes_of_the_message() {
    let (queue, dead) = with_dead_letters("failure");
    hello(["send", "-q", &queue, "a"]).run();
    hello(["receive", "--on-failure", "stop", &queue, "--", "false"])
        .run()
        .failed(
            1,
            &["the command ended with status 1; it is back in its queue"],
        );
    assert_eq!(Observer::new().messages(&queue), 1);
    let outcome = hello([
        "receive",
        "--drain",
        "--on-failure",
        "reject",
        &queue,
        "--",
        "sh",
        "-c",
        "kill -9 $$",
    ])
    .run();
    assert_eq!(outcome.status(), 0);
    assert!(
        outcome
            .stderr
            .contains("was killed by signal 9; it is rejected"),
        "{}",
        outcome.stderr
    );
    assert_eq!(Observer::new().drain(&dead), ["a"]);
    hello(["send", "-q", &queue, "b"]).run();
    hello(["receive", &queue, "--", "/no/such/command"])
        .run()
        .failed(64, &["cannot run '/no/such/command': no such file"]);
    assert_eq!(Observer::new().drain(&queue), ["b"]);
}

#[test]
fn a_command_that_takes_too_long_is_ended_with_all_its_processes() {
    let (queue, dead) = with_dead_letters("slow");
    let files = Files::new();
    let file = files.write("pid", "");
    hello(["send", "-q", &queue, "a"]).run();
    // Both the shell and what it waits for ignore the polite request.
    let script = format!(
        "trap '' TERM; sleep 60 & echo $! >{}; wait; wait",
        file.display()
    );
    let start = Instant::now();
    let outcome = hello([
        "receive",
        "--drain",
        "--on-failure",
        "reject",
        "--command-timeout",
        "300ms",
        &queue,
        "--",
        "sh",
        "-c",
        &script,
    ])
    .run();
    let time = start.elapsed();
    assert_eq!(outcome.status(), 0);
    assert!(
        outcome
            .stderr
            .contains("took longer than 300ms (--command-timeout); it is rejected"),
        "{}",
        outcome.stderr
    );
    assert!(time < Duration::from_secs(6), "{time:?}");
    let pid = fs::read_to_string(file).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", pid.trim()));
    assert!(
        status.is_err() || status.unwrap().contains("State:\tZ"),
        "it still runs"
    );
    assert_eq!(Observer::new().drain(&dead), ["a"]);
}

#[test]
fn several_jobs_run_at_a_time() {
    let queue = queue("jobs");
    hello(["send", "-q", &queue, "-c", "8", "x"]).run();
    let start = Instant::now();
    hello([
        "receive", "--drain", "--jobs", "8", &queue, "--", "sleep", "1",
    ])
    .run()
    .printed("");
    let time = start.elapsed();
    assert!(
        time > Duration::from_secs(1) && time < Duration::from_secs(4),
        "{time:?}"
    );
}

#[test]
fn exactly_the_count_is_handled() {
    let queue = queue("command-count");
    hello(["send", "-q", &queue, "-c", "10", "x"]).run();
    hello(["receive", "-c", "3", "--jobs", "2", &queue, "--", "cat"])
        .run()
        .printed("xxx");
    assert_eq!(Observer::new().messages(&queue), 7);
    hello([
        "receive",
        "-c",
        "9",
        "--timeout",
        "1s",
        &queue,
        "--",
        "true",
    ])
    .run()
    .failed(1, &["received 7 of 9: timed out (--timeout)"]);
}

#[test]
fn no_more_than_the_count_is_on_its_way() {
    let queue = queue("command-ahead");
    hello(["send", "-q", &queue, "-c", "20", "x"]).run();
    hello(["receive", "-c", "1", &queue, "--", "cat"])
        .run()
        .printed("x");
    // One that goes back would count as delivered before.
    hello(["receive", "--peek", "--format", "%{redelivered} ", &queue])
        .run()
        .printed(&"false ".repeat(19));
}

#[test]
fn ctrl_c_lets_commands_finish_and_a_second_one_ends_them() {
    let queue = queue("finish");
    hello(["send", "-q", &queue, "-c", "5", "x"]).run();
    let mut receiver = hello([
        "receive",
        &queue,
        "--",
        "sh",
        "-c",
        "echo begin; sleep 2; echo end",
    ])
    .spawn();
    receiver.expect("begin\n");
    let (outcome, time) = receiver.stop(Signal::SIGINT);
    assert_eq!(
        (
            outcome.status(),
            outcome.stdout.as_str(),
            outcome.stderr.as_str()
        ),
        (0, "end\n", "")
    );
    assert!(
        time > Duration::from_secs(1) && time < Duration::from_secs(4),
        "{time:?}"
    );
    assert_eq!(Observer::new().messages(&queue), 4);

    let mut receiver = hello([
        "receive",
        &queue,
        "--",
        "sh",
        "-c",
        "echo begin $$; exec sleep 30",
    ])
    .spawn();
    receiver.expect("begin ");
    let pid = receiver.expect("\n");
    receiver.signal(Signal::SIGINT);
    thread::sleep(Duration::from_millis(400));
    let (outcome, time) = receiver.stop(Signal::SIGINT);
    assert_eq!(outcome.status(), 130);
    assert!(time < Duration::from_secs(2), "{time:?}");
    assert!(fs::read_to_string(format!("/proc/{}/status", pid.trim())).is_err());
    thread::sleep(Duration::from_millis(200));
    assert_eq!(Observer::new().messages(&queue), 4);
}

#[test]
fn a_lost_connection_is_got_back_and_every_message_handled() {
    let mut node = Node::start();
    let files = Files::new();
    let log = files.write("log", "");
    node.declare_durable("d");
    node.hello(["send", "-q", "d", "--persistent", "-l"])
        .stdin(
            (0..200)
                .map(|n| n.to_string())
                .collect::<Vec<_>>()
                .join("\n"),
        )
        .run();
    let script = format!("n=$(cat); sleep 0.05; echo $n >>{}", log.display());
    let mut receiver = node
        .hello([
            "receive",
            "--jobs",
            "4",
            "--idle-timeout",
            "5s",
            "d",
            "--",
            "sh",
            "-c",
            &script,
        ])
        .spawn();
    thread::sleep(Duration::from_millis(700));
    node.tool("broker-kill");
    node.tool("broker-start");
    assert!(receiver.has_said("reconnected to ", 1));
    let outcome = receiver.end();
    assert_eq!(outcome.status(), 0, "{}", outcome.stderr);
    let mut handled: Vec<u32> = fs::read_to_string(log)
        .unwrap()
        .lines()
        .map(|line| line.parse().unwrap())
        .collect();
    handled.sort_unstable();
    handled.dedup();
    assert_eq!(handled, (0..200).collect::<Vec<_>>());
    assert_eq!(node.observer().messages("d"), 0);
}

#[test]
fn a_command_that_reads_nothing_is_no_failure() {
    let queue = queue("unread");
    for size in [1, 1 << 20] {
        hello(["send", "-q", &queue]).stdin(vec![b'x'; size]).run();
    }
    let line = format!("$H receive --drain {queue} -- true");
    shell(&line).run().printed("");
    assert_eq!(Observer::new().messages(&queue), 0);
}

#[test]
fn who_reads_slowly_gets_all_of_a_body() {
    let queue = queue("slow-reader");
    // An empty pipe of Linux has room for the first two.
    let sizes = [4097, 65_536, 65_537, 1 << 20];
    for size in sizes {
        hello(["send", "-q", &queue]).stdin(vec![b'x'; size]).run();
    }
    let script = "sleep 0.2; head -c 1 | wc -c; sleep 0.2; wc -c";
    hello(["receive", "--drain", &queue, "--", "sh", "-c", script])
        .run()
        .printed(&sizes.map(|size| format!("1\n{}\n", size - 1)).concat());
    // All of it is an answer, too, though the command answers before it has read.
    hello(["send", "-q", &queue, "--reply-to", "no-such-queue"])
        .stdin(vec![b'x'; 1 << 20])
        .run();
    let script = "head -c 1000000 /dev/zero; wc -c >&2";
    let outcome = hello([
        "receive", "--reply", "--drain", &queue, "--", "sh", "-c", script,
    ])
    .run();
    assert!(outcome.stderr.contains("1048576\n"), "{}", outcome.stderr);
    assert_eq!(Observer::new().messages(&queue), 0);
}

#[test]
fn what_a_command_leaves_behind_keeps_nobody_waiting() {
    let queue = queue("behind");
    for _ in 0..2 {
        hello(["send", "-q", &queue])
            .stdin(vec![b'x'; 1 << 20])
            .run();
    }
    // It holds the body's pipe, and never reads.
    let script = "sleep 5 <&0 >/dev/null 2>&1 &";
    let start = Instant::now();
    hello(["receive", "-c", "2", &queue, "--", "bash", "-c", script])
        .run()
        .printed("");
    let time = start.elapsed();
    assert!(time < Duration::from_secs(4), "{time:?}");
    assert_eq!(Observer::new().messages(&queue), 0);
}

#[test]
fn ctrl_c_while_a_big_body_is_read_leaves_nothing_of_it_out() {
    let queue = queue("finish-big");
    for _ in 0..3 {
        hello(["send", "-q", &queue])
            .stdin(vec![b'x'; 1 << 20])
            .run();
    }
    let script = "echo begin; sleep 1; wc -c";
    let mut receiver = hello(["receive", &queue, "--", "sh", "-c", script]).spawn();
    receiver.expect("begin\n");
    let (outcome, _) = receiver.stop(Signal::SIGINT);
    assert_eq!(
        (
            outcome.status(),
            outcome.stdout.as_str(),
            outcome.stderr.as_str()
        ),
        (0, "1048576\n", "")
    );
    assert_eq!(Observer::new().messages(&queue), 2);
}

#[test]
fn nothing_begins_after_the_failure_that_is_the_end() {
    let queue = queue("failure-end");
    hello(["send", "-q", &queue, "0", "1", "0", "0"]).run();
    let outcome = hello([
        "receive",
        "--on-failure",
        "stop",
        &queue,
        "--",
        "sh",
        "-c",
        "status=$(cat); echo $status; exit $status",
    ])
    .run();
    outcome.failed(1, &["the command ended with status 1"]);
    assert_eq!(outcome.stdout, "0\n1\n");
    assert_eq!(Observer::new().messages(&queue), 3);
}

#[test]
fn each_command_has_the_timeout_for_itself() {
    let (queue, dead) = with_dead_letters("slow-all");
    hello(["send", "-q", &queue, "a", "b", "c"]).run();
    let start = Instant::now();
    let outcome = hello([
        "receive",
        "-c",
        "3",
        "--on-failure",
        "reject",
        "--command-timeout",
        "500ms",
        &queue,
        "--",
        "sleep",
        "60",
    ])
    .run();
    let time = start.elapsed();
    assert_eq!(outcome.status(), 0);
    assert!(
        time > Duration::from_millis(1500) && time < Duration::from_secs(5),
        "{time:?}"
    );
    assert_eq!(Observer::new().drain(&dead), ["a", "b", "c"]);
}

#[test]
fn a_message_too_large_for_the_environment_says_what_is_left_out() {
    let queue = queue("environment");
    let value = "x".repeat(2690);
    let headers = (0..23).flat_map(|n| ["-H".to_owned(), format!("h{n}: {value}")]);
    hello(["send", "-q", &queue, "--type", "t"])
        .args(headers)
        .args(["a"])
        .run();
    hello(["send", "-q", &queue, "b"]).run();
    // Arguments and environment may have a quarter of the stack (execve(2)): 256 KiB, of which 160 are
    // taken, and the message would need 124.
    let script =
        "echo \"$(cat) $HELLO_MQ_TYPE ${#HELLO_MQ_HEADERS} $HELLO_MQ_HEADER_H0|$HELLO_MQ_OMITTED\"";
    let line = format!(
        "ulimit -s 1024; export A=$(head -c 100000 /dev/zero | tr '\\0' a) B=$(head -c 60000 /dev/zero | tr '\\0' b); \
         $H receive --drain {queue} -- sh -c '{script}'"
    );
    let outcome = shell(&line).run();
    assert_eq!((outcome.status(), outcome.stderr.as_str()), (0, ""));
    let lines: Vec<_> = outcome.stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].starts_with("a t 0 xxx") && lines[0].contains("x|HELLO_MQ_HEADERS"),
        "{lines:?}"
    );
    assert_eq!(lines[1], "b  0 |");
    assert_eq!(Observer::new().messages(&queue), 0);
}

#[test]
fn a_system_that_has_no_more_is_no_mistake_of_the_user() {
    let queue = queue("exhausted");
    hello(["send", "-q", &queue, "-c", "60", "x"]).run();
    let files = Files::new();
    let log = files.write("log", "");
    let script = format!("sleep 1; echo done >>{}", log.display());
    let outcome = shell(&format!(
        "ulimit -n 40; $H receive --jobs 60 --reply {queue} -- sh -c '{script}' 2>&1 | grep -v reply-to"
    ))
    .run();
    assert_eq!(
        outcome.stdout,
        "hello-mq: cannot run 'sh': too many open files\nhello-mq: hint: 'ulimit -a' shows the limits of a process; use fewer --jobs\n"
    );
    // Those that were running finished, and their messages are done.
    let done = fs::read_to_string(log).unwrap().lines().count();
    assert!((1..40).contains(&done), "{done}");
    let left = Observer::new().messages(&queue);
    assert_eq!(usize::try_from(left).unwrap(), 60 - done);
    shell(&format!(
        "ulimit -n 40; $H receive --jobs 60 --reply {queue} -- sleep 1"
    ))
    .run()
    .failed(71, &["too many open files"]);
}

#[test]
fn what_a_command_leaves_behind_keeps_no_reply_waiting() {
    let queue = queue("behind-reply");
    let replies = queue.clone() + "-replies";
    hello(["declare", &replies]).run();
    // In a session of its own, where no signal for the command's processes reaches it.
    let script = "setsid sleep 8 2>/dev/null & cat; echo \" and $(printf %070000d 0 | wc -c)\"";
    for end in [&["-c", "1", "--command-timeout", "3s"][..], &[]] {
        hello(["send", "-q", &queue, "--reply-to", &replies, "hi"]).run();
        let start = Instant::now();
        let mut receiver = hello(["receive", "--reply", &queue])
            .args(end)
            .args(["--", "sh", "-c", script])
            .spawn();
        Observer::new().settles_at(&replies, 1);
        if end.is_empty() {
            receiver.signal(Signal::SIGINT);
        }
        assert!(receiver.ends_within(Duration::from_secs(5)));
        let outcome = receiver.end();
        assert_eq!((outcome.status(), outcome.stderr.as_str()), (0, ""));
        assert!(start.elapsed() < Duration::from_secs(5));
        assert_eq!(Observer::new().drain(&replies), ["hi and 70000\n"]);
    }
    assert_eq!(Observer::new().messages(&queue), 0);
}

#[test]
fn a_command_inherits_no_secret() {
    let queue = queue("secrets");
    hello(["send", "-q", &queue, "a"]).run();
    let url = crate::support::url();
    let script = "echo \"$HELLO_MQ_PASSWORD|$HELLO_MQ_URL|$AMQP_URL|$HELLO_MQ_QUEUE\"";
    hello(["receive", "--drain", "--", "sh", "-c", script])
        .env("HELLO_MQ_PASSWORD", "guest")
        .env("AMQP_URL", "amqps://u:s3cret@other.example/v")
        .env("HELLO_MQ_QUEUE", &queue)
        .run()
        .printed(&format!(
            "|{}|amqps://u@other.example/v|{queue}\n",
            url.replace("guest:guest@", "guest@")
        ));
}

#[test]
fn a_stream_goes_on_with_what_is_not_done_when_the_connection_comes_back() {
    let mut node = Node::start();
    node.hello(["declare", "--quiet", "s", "--type", "stream"])
        .run();
    let send = |node: &Node, body: &str| {
        node.hello(["send", "--quiet", "-q", "s", body])
            .run()
            .printed("");
    };
    send(&node, "1");
    let mut receiver = node
        .hello(["receive", "s", "-c", "3", "--stream-offset", "first"])
        .args(["--", "sh", "-c", "cat; echo"])
        .spawn();
    receiver.expect("1\n");
    node.tool("rabbitmqctl -q close_all_connections bye");
    send(&node, "2");
    send(&node, "3");
    let outcome = receiver.end();
    assert_eq!((outcome.status(), outcome.stdout.as_str()), (0, "2\n3\n"));
}

#[test]
fn a_lost_connection_does_not_undo_that_a_failure_is_the_end() {
    let mut node = Node::start();
    node.hello(["send", "--quiet", "1", "2", "3"])
        .run()
        .printed("");
    let handle = "read -r x; echo $x; test $x != 1 && sleep 5";
    let mut receiver = node
        .hello(["receive", "--quiet", "--on-failure", "stop", "--jobs", "2"])
        .args(["--", "sh", "-c", handle])
        .spawn();
    receiver.expect("1\n");
    // The message of the failed command is back; the other command runs.
    node.observer().reaches("hello", 1);
    node.tool("rabbitmqctl -q close_all_connections bye");
    let outcome = receiver.end();
    outcome.failed(1, &["the command ended with status 1", "--on-failure stop"]);
    // Neither a second time nor another.
    assert!(!outcome.stdout.contains(['1', '3']), "{outcome:?}");
    node.observer().settles_at("hello", 3);
}

#[test]
fn a_command_that_fails_runs_again_for_a_message_that_a_stream_does_not_take_back() {
    let stream = queue("stream");
    hello(["declare", "--quiet", &stream, "--type", "stream"]).run();
    hello([
        "send", "--quiet", "-q", &stream, "good", "late", "bad", "last",
    ])
    .run();
    let handle = "read -r x; echo $x $HELLO_MQ_ATTEMPT; \
                  test $x != bad && test $x != late -o $HELLO_MQ_ATTEMPT = 2";
    let outcome = hello(["receive", "--drain", "--max-redeliveries", "1", &stream])
        .args(["--", "sh", "-c", handle])
        .run();
    assert_eq!(outcome.status(), 0, "{outcome:?}");
    let mut lines: Vec<_> = outcome.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        ["bad 1", "bad 2", "good 1", "last 1", "late 1", "late 2"]
    );
    for said in ["it runs again in 1s", "is rejected (--max-redeliveries)"] {
        assert!(outcome.stderr.contains(said), "{outcome:?}");
    }
}

#[test]
fn a_command_that_failed_is_not_run_again_after_the_interrupt() {
    let stream = queue("stream");
    hello(["declare", "--quiet", &stream, "--type", "stream"]).run();
    hello(["send", "--quiet", "-q", &stream, "bad", "slow"]).run();
    let handle = "read -r x; echo $x; test $x = slow && sleep 3";
    let mut receiver = hello([
        "receive",
        "--stream-offset",
        "first",
        "--jobs",
        "2",
        &stream,
    ])
    .args(["--", "sh", "-c", handle])
    .spawn();
    let before = receiver.expect("slow\n");
    assert!(receiver.has_said("it runs again in 1s", 1));
    let (outcome, time) = receiver.stop(Signal::SIGINT);
    assert_eq!(outcome.status(), 0, "{outcome:?}");
    assert!(time > Duration::from_secs(1), "{time:?}");
    let printed = before + &outcome.stdout;
    assert_eq!(printed.matches("bad").count(), 1, "{printed}");
}
