//! What a person sees on a terminal, and nobody finds in a pipe or a file.

use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::{Files, Hello, Observer, Outcome, hello, queue, shell};

/// A shell line on a terminal, which all its streams are unless it says otherwise.
fn on_terminal(line: &str) -> Hello {
    shell("script -qec \"$LINE\" /dev/null").env("LINE", line)
}

/// What the terminal was given.
fn shown(outcome: &Outcome) -> String {
    outcome.stdout.replace("\r\n", "\n")
}

/// A text without its colours. What else there is of escape sequences stays.
fn without_colors(text: &str) -> String {
    let mut pieces = text.split("\x1b[");
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |all, piece| {
        let end = piece.find(|c: char| !c.is_ascii_digit() && c != ';');
        match end.map(|end| piece.split_at(end)) {
            Some((_, rest)) if rest.starts_with('m') => all + &rest[1..],
            _ => all + "\x1b[" + piece,
        }
    })
}

#[test]
fn colour_is_for_a_terminal_unless_the_user_says_otherwise() {
    let name = queue("colour");
    let plain = format!(" [x] Declared '{name}' (0 messages, 0 consumers)\n");
    let colored = plain.replace("[x]", "\x1b[32m[x]\x1b[0m");
    let line = format!("$H declare {name}");
    for (options, variables, piped, terminal) in [
        ("", "", &plain, &colored),
        ("", "NO_COLOR=1", &plain, &plain),
        ("", "NO_COLOR=", &plain, &colored),
        ("", "TERM=dumb", &plain, &plain),
        ("", "CLICOLOR_FORCE=1", &colored, &colored),
        ("--color=auto", "", &plain, &colored),
        ("--color=always", "NO_COLOR=1", &colored, &colored),
        ("--color=never", "", &plain, &plain),
        ("--color=never", "CLICOLOR_FORCE=1", &plain, &plain),
    ] {
        let line = format!("{variables} {line} {options}");
        shell(&line).run().printed(piped);
        assert_eq!(&shown(&on_terminal(&line).run()), terminal, "{line}");
    }
    // Each stream for itself.
    let outcome = on_terminal(&format!("{line} | cat")).run();
    assert_eq!(shown(&outcome), plain);
    let outcome = on_terminal(&format!("{line} -q 2>/dev/null")).run();
    assert_eq!(shown(&outcome), "");
    let outcome = on_terminal(&format!("{line} 2>/dev/null")).run();
    assert_eq!(shown(&outcome), colored);
}

#[test]
fn of_a_message_only_the_mark_is_coloured() {
    let name = queue("marks");
    let bodies = ["\x1b[31mred", "\u{9b}31m", "[x] [*]"];
    let quoted = ["\\x1b[31mred", "\\u{9b}31m", "[x] [*]"];
    let lines = |verb: &str| {
        quoted
            .map(|body| format!(" \x1b[32m[x]\x1b[0m {verb} '{body}'\n"))
            .concat()
    };
    let sent = lines("Sent") + " \x1b[32m[x]\x1b[0m Sent 3 messages\n";
    let outcome = on_terminal(&format!("$H send -q {name} -- \"$A\" \"$B\" \"$C\""))
        .env("A", bodies[0])
        .env("B", bodies[1])
        .env("C", bodies[2])
        .run();
    assert_eq!(shown(&outcome), sent);
    let waiting = " \x1b[36m[*]\x1b[0m Waiting for messages. To exit press CTRL+C\n";
    let received = waiting.to_owned() + &lines("Received");
    let receive = on_terminal(&format!("$H receive {name} -c 3")).run();
    assert_eq!(shown(&receive), received);

    // The forms that programs read have no colour, even where it is asked for.
    hello(["send", "-q", &name, "a"]).run();
    let files = Files::new();
    for options in ["-o body", "--format '%s\\n'"] {
        let line = format!("$H receive {name} --peek --color=always {options}");
        shell(&line).run().printed("a\n");
    }
    let directory = files.path().into_string().unwrap();
    shell(&format!(
        "$H receive {name} -c1 --quiet --color=always -o text --save {directory}; cat {directory}/*"
    ))
    .run()
    .printed(" [x] Received 'a'\n");
}

#[test]
fn what_a_sender_writes_cannot_move_the_cursor() {
    let name = queue("escapes");
    let clear = "\x1b[2J";
    hello(["send", "-q", &name, "--message-id", clear, "--type", "it's"])
        .args(["-H", &format!("h: {clear}"), clear])
        .run();
    let format = "%{message_id} %{headers.h} %{type} %h %r";
    let receive = format!("$H receive {name} --peek --format '{format}'");
    let came = format!("{clear} {clear} it's {{\"h\":\"\\u001b[2J\"}} {name}");
    let escaped = came.replace(clear, r"\x1b[2J");
    for (line, expected) in [
        (receive.clone(), &escaped),
        (format!("{receive} --raw"), &came),
        (format!("{receive} | cat"), &came),
    ] {
        assert_eq!(&shown(&on_terminal(&line).run()), expected, "{line}");
    }
    for form in ["-o text", "-o json", "--format %j"] {
        let line = format!("$H receive {name} --color=never --peek {form}");
        let shown = shown(&on_terminal(&line).run());
        assert!(!shown.contains('\x1b'), "{line}: {shown:?}");
    }
    // A body that is asked for is not escaped.
    for form in ["-o body", "--format '%s\n'"] {
        let line = format!("$H receive {name} --peek {form}");
        let outcome = on_terminal(&line).run();
        assert_eq!(shown(&outcome), format!("{clear}\n"), "{line}");
    }
    hello(["receive", "--raw", &name])
        .run()
        .failed(64, &["--format <TEMPLATE>"]);
}

#[test]
fn what_is_said_is_coloured_on_a_terminal_and_plain_in_a_pipe() {
    let name = queue("said");
    hello(["declare", &name]).run();
    let (error, bold, hint) = ("\x1b[1m\x1b[91m", "\x1b[1m", "\x1b[1m\x1b[96m");
    for (line, parts) in [
        // Two details and a hint.
        (
            format!("$H declare {name} --durable --message-ttl 5s"),
            vec![
                format!("{error}hello-mq:\x1b[0m queue '{name}' exists"),
                format!("\n{bold}hello-mq:\x1b[0m --durable: wanted"),
                format!("\n{bold}hello-mq:\x1b[0m {hint}hint:\x1b[0m nothing was changed"),
            ],
        ),
        (
            format!("$H receive {name} --quiet -c 1 --drain"),
            vec![format!("{error}hello-mq:\x1b[0m received 0 of 1")],
        ),
        (
            "$H send x -u amqps://127.0.0.1:1 -k".to_owned(),
            vec![
                format!("{bold}hello-mq:\x1b[0m \x1b[1m\x1b[93mwarning:\x1b[0m the broker's"),
                format!("\n{error}hello-mq:\x1b[0m cannot reach"),
            ],
        ),
        (
            format!("$H receive {name} --no-such"),
            vec![format!("{error}hello-mq:\x1b[0m unexpected argument")],
        ),
        (
            "$H send x --config /nonexistent.toml".to_owned(),
            vec![format!(
                "{error}hello-mq:\x1b[0m cannot read /nonexistent.toml"
            )],
        ),
        (
            format!("$H purge {name}-missing"),
            vec![format!("{bold}hello-mq:\x1b[0m there is no queue")],
        ),
    ] {
        let piped = shell(&line).run();
        assert!(
            !piped.stderr.is_empty() && !piped.stderr.contains('\x1b'),
            "{piped:?}"
        );
        let terminal = on_terminal(&format!("{line} | cat")).run();
        for part in &parts {
            assert!(
                shown(&terminal).contains(&**part),
                "no {part:?}: {terminal:?}"
            );
        }
        assert_eq!(without_colors(&shown(&terminal)), piped.stderr, "{line}");
        let forced = shell(&format!("{line} --color always")).run();
        assert_eq!(forced.stderr, shown(&terminal), "{line}");
        let never = on_terminal(&format!("{line} --color never")).run();
        assert_eq!(shown(&never), piped.stderr, "{line}");
    }
}

#[test]
fn a_question_is_plain_with_color_never() {
    let name = queue("question");
    hello(["send", "-q", &name, "a"]).run();
    for (options, start) in [
        ("", "\x1b[1mhello-mq:\x1b[0m remove"),
        ("--color never", "hello-mq: remove"),
    ] {
        let line = format!("echo n | script -qec \"$H purge {name} {options}\" /dev/null");
        let outcome = shell(&line).run();
        assert!(
            shown(&outcome).contains(&format!("n\n{start} 1 message")),
            "{outcome:?}"
        );
        assert!(outcome.stdout.contains("? [y/N] "), "{outcome:?}");
    }
}

#[test]
fn help_is_coloured_on_a_terminal() {
    for words in ["--help", "send -h", "receive --help"] {
        let plain = shell(&format!("$H {words}")).run();
        assert!(
            plain.status() == 0 && !plain.stdout.contains('\x1b'),
            "{plain:?}"
        );
        let colored = shell(&format!("$H {words} --color always")).run();
        assert_eq!(without_colors(&colored.stdout), plain.stdout);
        for part in [
            "\x1b[1m\x1b[92mUsage:\x1b[0m",
            "\x1b[1m\x1b[92mGeneral:\x1b[0m",
            "\x1b[1m\x1b[96m--quiet\x1b[0m",
        ] {
            assert!(colored.stdout.contains(part), "no {part:?} in {colored:?}");
        }
        assert!(
            on_terminal(&format!("$H {words}"))
                .run()
                .stdout
                .contains("\x1b[1m\x1b[92m")
        );
        for line in [
            format!("$H {words} --color never"),
            format!("NO_COLOR=1 $H {words}"),
            format!("TERM=dumb $H {words}"),
        ] {
            let outcome = on_terminal(&line).run();
            assert!(outcome.stdout.contains("Usage:") && !outcome.stdout.contains('\x1b'));
        }
    }
    // Nothing at all is an error, and its help is said on the other stream.
    let outcome = on_terminal("$H | cat").run();
    assert!(
        outcome.stdout.contains("\x1b[1m\x1b[92mUsage:"),
        "{outcome:?}"
    );
    let outcome = on_terminal("$H 2>&1 | cat").run();
    assert!(!outcome.stdout.contains('\x1b'), "{outcome:?}");
}

/// Receives 20 messages that take two seconds to come, from the queue `$Q`.
fn slow(line: &str) -> Outcome {
    let name = queue("progress");
    // Not before somebody listens, which may take its time on a loaded machine.
    let is_heard = "$H declare --check -o json $Q 2>/dev/null | grep -q '\"consumers\":1'";
    let send = "$H send --quiet -q $Q -c 20 --rate 10 x";
    let send = format!("{{ until {is_heard}; do sleep 0.1; done; {send}; }}");
    let line = format!("Q={name}; {send} & {line}; status=$?; wait; exit $status");
    on_terminal(&line).run()
}

#[test]
fn the_progress_of_receive_is_shown_where_no_messages_are() {
    let files = Files::new();
    let to = |name: &str| files.write(name, "").display().to_string();
    let (file, other, saved) = (to("file"), to("other"), files.path().into_string().unwrap());
    let target = queue("target");
    hello(["declare", &target]).run();
    // Whether there is one, and with which words.
    let rows = [
        (
            format!("$H receive $Q -c 20 -o body >{file}"),
            Some("received "),
        ),
        (format!("$H receive $Q -c 20 >{other}"), Some("received ")),
        (
            format!("$H receive $Q -c 20 --save {saved}/d >/dev/null"),
            Some("received "),
        ),
        (
            format!("$H receive $Q -c 20 --forward-to :{target}"),
            Some("forwarded "),
        ),
        (
            "NO_COLOR=1 $H receive $Q -c 20 >/dev/null".to_owned(),
            Some("received "),
        ),
        ("$H receive $Q -c 20".to_owned(), None),
        ("$H receive $Q -c 20 -o body | cat".to_owned(), None),
        (
            "$H receive $Q -c 20 -o body >/dev/null --quiet".to_owned(),
            None,
        ),
        (
            "$H receive $Q -c 20 -o body >/dev/null 2>&1".to_owned(),
            None,
        ),
        ("$H receive $Q -c 20 -- true >/dev/null".to_owned(), None),
        ("TERM=dumb $H receive $Q -c 20 >/dev/null".to_owned(), None),
        // The log is on the same line.
        ("$H receive $Q -c 20 -v >/dev/null".to_owned(), None),
    ];
    let runs: Vec<_> = rows
        .into_iter()
        .map(|(line, words)| (line.clone(), words, thread::spawn(move || slow(&line))))
        .collect();
    for (line, words, run) in runs {
        let outcome = run.join().unwrap();
        assert_eq!(outcome.status(), 0, "{line} {outcome:?}");
        let text = outcome.stdout;
        let Some(words) = words else {
            assert!(!text.contains("messages/s"), "{line} {text:?}");
            continue;
        };
        // It is redrawn, has all its parts, and is gone in the end.
        let speed = if words == "forwarded " {
            "/s, confirmed "
        } else {
            " messages/s, "
        };
        let parts = [words, " of 20, ", " B, ", speed, "s left"];
        let drawn = text
            .split('\r')
            .filter(|drawn| parts.iter().all(|part| drawn.contains(part)));
        assert!(drawn.count() >= 2, "{line} {text:?}");
        // The cursor stays behind it, where a terminal shows the ^C that is typed.
        assert!(!text.contains("   "), "{line} {text:?}");
        let rest = text.rsplit(words).next().unwrap();
        assert!(rest.contains("\x1b[2K"), "{line} {text:?}");
    }
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    assert_eq!(read(&file), "x\n".repeat(20));
    let lines = " [x] Received 'x'\n".repeat(20);
    assert!(read(&other).ends_with(&lines) && !read(&other).contains('\x1b'));
}

/// The numbers of a line of `--stats`: messages, bytes, and where they are told seconds and messages
/// a second.
#[derive(Debug)]
struct Stats {
    messages: u64,
    bytes: Option<u64>,
    seconds: Option<f64>,
    rate: Option<f64>,
}

/// The line of `--stats` among what was said, which is the only one.
#[track_caller]
fn stats(stderr: &str, verb: &str) -> Stats {
    let start = format!("hello-mq: {verb} ");
    let mut lines = stderr.lines().filter_map(|line| {
        let line = line.strip_prefix(&start)?;
        line.contains(" message").then_some(line)
    });
    let line = lines
        .next()
        .unwrap_or_else(|| panic!("no {start:?} in {stderr:?}"));
    assert_eq!(lines.next(), None, "{stderr:?}");
    let between = |before: &str, after: &str| {
        let rest = line.split_once(before)?.1;
        Some(rest.split_once(after)?.0.to_owned())
    };
    Stats {
        messages: line.split(' ').next().unwrap().parse().unwrap(),
        bytes: between(", ", " B in ").map(|bytes| bytes.parse().unwrap()),
        seconds: between(" in ", " s").map(|seconds| seconds.parse().unwrap()),
        rate: between(" s (", "/s, ").map(|rate| rate.parse().unwrap()),
    }
}

#[test]
fn stats_are_told_at_each_kind_of_end() {
    let source = queue("stats");
    let target = queue("stats-target");
    hello(["declare", &target]).run();
    let missing = queue("stats-missing");
    for (line, verb, messages, status) in [
        ("$H receive $Q --stats -c 3", "received", 3, 0),
        ("$H receive $Q --stats -c 3 --quiet", "received", 3, 0),
        ("$H receive $Q --stats --drain -o body", "received", 5, 0),
        ("$H receive $Q --stats --timeout 1s", "received", 5, 0),
        (
            "$H receive $Q --stats --idle-timeout 300ms",
            "received",
            5,
            0,
        ),
        ("$H receive $Q --stats --drain -c 9", "received", 5, 1),
        ("$H receive $Q --stats --drain --auto-ack", "received", 5, 0),
        (
            "$H receive $Q --stats --drain --forward-to :$T",
            "forwarded",
            5,
            0,
        ),
        (
            "$H receive $Q --stats -c 2 --forward-to :$T",
            "forwarded",
            2,
            0,
        ),
        ("$H receive $Q --stats --peek", "showed", 5, 0),
        ("$H receive $Q --stats --peek -c 2", "showed", 2, 0),
        ("$H receive $Q --stats --drain -- cat", "received", 5, 0),
        (
            "$H receive $Q --stats -c 2 -- sh -c 'exit 3'",
            "received",
            2,
            0,
        ),
        (
            "$H receive $Q --stats --on-failure stop -- sh -c 'test $(cat) != bbb'",
            "received",
            1,
            1,
        ),
        ("$H receive $Q --stats >/dev/full", "received", 0, 74),
        (
            "$H receive $Q --stats --forward-to no-such:x",
            "forwarded",
            0,
            67,
        ),
        ("$H receive $M --no-declare --stats", "received", 0, 67),
        (
            "$H receive $Q --stats -u amqp://127.0.0.1:1",
            "received",
            0,
            69,
        ),
    ] {
        let bodies = ["a", "bbb", "ccc", "ddddd", "eeeee"];
        hello(["send", "--quiet", "-q", &source]).args(bodies).run();
        let outcome = shell(line)
            .env("Q", &source)
            .env("T", &target)
            .env("M", &missing)
            .run();
        assert_eq!(outcome.status(), status, "{line} {outcome:?}");
        let told = stats(&outcome.stderr, verb);
        assert_eq!(told.messages, messages, "{line} {outcome:?}");
        let bytes: usize = bodies[..usize::try_from(messages).unwrap()]
            .iter()
            .map(|body| body.len())
            .sum();
        assert_eq!(
            told.bytes.unwrap_or_default(),
            bytes as u64,
            "{line} {outcome:?}"
        );
        assert!(!outcome.stdout.contains("hello-mq:"), "{line} {outcome:?}");
        assert_eq!(
            outcome.stderr.contains("(2 rejected)"),
            line.contains("exit 3"),
            "{outcome:?}"
        );
        hello(["purge", "--yes", &source]).run();
    }
    // Nothing was tried, so there is nothing to tell.
    let outcome = hello(["receive", "--stats", "-D", ";"]).run();
    outcome.failed(64, &["--delimiter"]);
    assert!(!outcome.stderr.contains("received"), "{outcome:?}");
}

#[test]
fn stats_are_told_after_an_interrupt() {
    for options in [&["-o", "body"][..], &["--", "cat"]] {
        let name = queue("stats-stopped");
        hello(["send", "-q", &name, "a", "bbb"]).run();
        let mut running = hello(["receive", "--stats", &name]).args(options).spawn();
        running.expect("bbb");
        thread::sleep(Duration::from_millis(300));
        let (outcome, _) = running.stop(Signal::SIGINT);
        let told = stats(&outcome.stderr, "received");
        assert_eq!(
            (outcome.status(), told.messages, told.bytes),
            (0, 2, Some(4)),
            "{outcome:?}"
        );
    }
}

#[test]
fn stats_count_what_has_left_the_queue_and_nothing_else() {
    // A reader that goes away, and a disk that is full: both in the middle of it.
    for (line, status) in [
        (
            "$H receive QUEUE --stats -o body --prefetch 10 | head -n 100 >/dev/null; exit ${PIPESTATUS[0]}",
            0,
        ),
        (
            "trap '' SIGXFSZ; ulimit -f 8; $H receive QUEUE --stats -o body --prefetch 10 >FILE",
            74,
        ),
    ] {
        let name = queue("stats-exact");
        let body = "x".repeat(100);
        hello(["send", "-q", &name, "-c", "3000", &body]).run();
        let files = Files::new();
        let file = files.write("out", "").display().to_string();
        let outcome = shell(&line.replace("QUEUE", &name).replace("FILE", &file)).run();
        assert_eq!(outcome.status(), status, "{outcome:?}");
        let told = stats(&outcome.stderr, "received");
        assert!((10..3000).contains(&told.messages), "{outcome:?}");
        let left = u32::try_from(3000 - told.messages).unwrap();
        Observer::new().settles_at(&name, left);
    }
}

#[test]
fn the_rate_is_that_of_the_messages_and_not_of_the_waiting() {
    let name = queue("stats-rate");
    hello(["declare", &name]).run();
    let line = format!(
        "(sleep 1; $H send --quiet -q {name} -c 20 --rate 10 xx) & \
         $H receive {name} --quiet --stats -o body --idle-timeout 2500ms; wait"
    );
    let told = stats(&shell(&line).run().stderr, "received");
    assert_eq!((told.messages, told.bytes), (20, Some(40)));
    let (seconds, rate) = (told.seconds.unwrap(), told.rate.unwrap());
    assert!((1.5..2.9).contains(&seconds), "{told:?}");
    assert!((rate * seconds - 20.0).abs() < 1.5, "{told:?}");
}
