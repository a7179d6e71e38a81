//! What a person sees on a terminal, and nobody finds in a pipe or a file.

use crate::support::{Files, Hello, Outcome, hello, queue, shell};

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
        ("", "\x1b[1mhello-mq:\x1b[0m throw away"),
        ("--color never", "hello-mq: throw away"),
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
            "\x1b[1m\x1b[96m--color\x1b[0m",
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
