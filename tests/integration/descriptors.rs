//! Standard descriptors that are not there, and those that are there though they lead nowhere.

use std::process::{Command, Stdio};

use crate::support::{Observer, PROGRAM, hello, queue, shell};

#[test]
fn nothing_is_taken_for_an_output_that_is_not_there() {
    let queue = queue("closed");
    hello(["send", "-q", &queue, "a", "b"]).run();
    for form in ["-o body", "--save \"$(mktemp -d)\"", "--format %s"] {
        for (closed, said) in [
            (">&-", "standard output is closed: nothing was done"),
            ("<&-", "standard input is closed"),
            ("1</dev/null", "standard output is not open for writing"),
        ] {
            shell(&format!("$H receive --drain {form} {queue} {closed}"))
                .run()
                .failed(74, &[said, "hint: "]);
        }
        for closed in ["2>&-", "<&- >&- 2>&-", "2</dev/null"] {
            let outcome = shell(&format!("$H receive --drain {form} {queue} {closed}")).run();
            assert_eq!((outcome.status(), outcome.stdout.as_str()), (74, ""));
        }
    }
    // Nor was any of them on its way.
    hello(["receive", "--peek", "--format", "%s%{redelivered} ", &queue])
        .run()
        .printed("afalse bfalse ");
}

#[test]
fn no_command_begins_with_a_descriptor_that_is_closed() {
    let queue = queue("closed-all");
    hello(["declare", &queue]).run();
    for command in [
        &format!("send -q {queue} a"),
        &format!("receive {queue} --drain -- true"),
        &format!("receive {queue} --drain --forward-to :other"),
        &format!("declare {queue}-new"),
        &format!("delete --yes {queue}"),
        &format!("purge --yes {queue}"),
        "send --explain",
        "man",
        "completions bash",
        "--version",
        "no-such-command",
    ] {
        for closed in ["<&-", ">&-", "2>&-"] {
            let outcome = shell(&format!("$H {command} {closed}")).run();
            assert_eq!(outcome.status(), 74, "{command} {closed}");
        }
    }
    hello(["declare", "--check", &queue])
        .run()
        .printed_what_contains("(0 messages, 0 consumers)");
    hello(["declare", "--check", &format!("{queue}-new")])
        .run()
        .failed(67, &[]);
}

#[test]
fn dev_null_is_an_output_however_it_was_opened() {
    let queue = queue("null");
    for redirection in [
        "</dev/null >/dev/null 2>/dev/null",
        ">>/dev/null",
        // As daemon(3) and some launchers do.
        "<>/dev/null >&0 2>&0",
        "1<>/dev/null",
        // nohup's standard input.
        "0>/dev/null >/dev/null",
    ] {
        hello(["send", "-q", &queue, "a"]).run();
        shell(&format!("$H receive --drain -o body {queue} {redirection}"))
            .run()
            .printed("");
        assert_eq!(Observer::new().messages(&queue), 0, "{redirection}");
    }
    // The standard library opens it for reading and writing, too.
    hello(["send", "-q", &queue, "a"]).run();
    let status = Command::new(PROGRAM)
        .args(["receive", "--drain", "-o", "body", &queue])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(status.unwrap().success());
    assert_eq!(Observer::new().messages(&queue), 0);
}

#[test]
fn an_input_that_cannot_be_read_is_no_empty_message() {
    let queue = queue("unreadable");
    shell(&format!("$H send -q {queue} 0>/dev/null"))
        .run()
        .failed(74, &["cannot read standard input"]);
}
