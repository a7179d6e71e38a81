//! Who logs in, with what, where to, and with which rights; and that the password stays secret.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{Files, Hello, Observer, Proxy, broker_tool, hello, queue, shell, url};

/// `HOST:PORT` of the broker.
fn address() -> String {
    let url = url();
    url.rsplit('@')
        .next()
        .unwrap()
        .trim_end_matches('/')
        .to_owned()
}

/// A user with a password and these rights to configure, write and read.
fn user(name: &str, password: &str, rights: &str) {
    broker_tool(&format!("rabbitmqctl -q add_user {name} {password}"));
    broker_tool(&format!("rabbitmqctl -q set_permissions {name} {rights}"));
}

/// A queue of these tests.
const OURS: &str = "login";

/// hello-mq as this user, who has yet to say the password.
fn as_user(name: &str, words: &[&str]) -> Hello {
    let address = address();
    let (host, port) = address.split_once(':').unwrap();
    hello(words)
        .without_env("HELLO_MQ_URL")
        .env("HELLO_MQ_QUEUE", OURS)
        .args(["--host", host, "--port", port, "--username", name])
}

fn private(files: &Files, name: &str, text: &str) -> String {
    let path = files.write(name, text);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn the_password_comes_from_a_file_or_a_command() {
    let name = queue("keeper");
    user(&name, "s3cret", ".* .* .*");
    let files = Files::new();
    let password = private(&files, "password", "s3cret\nand more\n");
    let sent = " [x] Sent 'x'\n";
    as_user(&name, &["send", "x", "--password-file", &password])
        .run()
        .printed(sent);
    for line in [
        "password_file = 'password'".to_owned(),
        format!("password_file = '{password}'"),
        "password_file = '~/password'".to_owned(),
        "password_command = ['head', '-c', '6', 'password']".to_owned(),
        "password_command = ['sh', '-c', 'cat; echo s3cret; yes']".to_owned(),
        "password_command = ['printf', 's3cret\\r\\n']"
            .to_owned()
            .replace('\'', "\""),
    ] {
        let endless = line.contains("yes");
        let line = if endless {
            line.replace("; yes", "; seq 100000")
        } else {
            line
        };
        let config = private(&files, "config.toml", &line);
        let directory = files.path();
        let line_in = format!(
            "cd '{}' && printf x | \"$H\" send -f - --config '{config}' --username {name} --host \
             127.0.0.1 --port {}",
            Path::new(&directory).display(),
            address().split_once(':').unwrap().1
        );
        // What the command might read is the message.
        shell(&line_in)
            .without_env("HELLO_MQ_URL")
            .env("HELLO_MQ_QUEUE", OURS)
            .env("HOME", &directory)
            .run()
            .printed(sent);
    }
}

#[test]
fn a_password_from_a_pipe_is_read_once_and_outlives_a_lost_connection() {
    let name = queue("piper");
    user(&name, "s3cret", ".* .* .*");
    let address = address();
    let (host, port) = address.split_once(':').unwrap();
    let ours = queue("piped");
    let line = format!(
        "exec \"$H\" receive -c1 {ours} --host {host} --port {port} --username {name} \
         --password-file <(echo s3cret)"
    );
    let mut receiver = shell(&line).without_env("HELLO_MQ_URL").spawn();
    receiver.expect("CTRL+C\n");
    receiver.collect();
    broker_tool(&format!(
        "rabbitmqctl -q close_all_user_connections {name} because"
    ));
    assert!(receiver.has_said("reconnected to", 1));
    hello(["send", "-q", &ours, "x"]).run();
    let outcome = receiver.end();
    assert_eq!(outcome.status(), 0, "{outcome:?}");
    assert_eq!(outcome.stdout, " [x] Received 'x'\n", "{outcome:?}");

    // One that nothing comes from does not keep the user.
    let line = "exec \"$H\" send x --password-file <(exec sleep 60 2>/dev/null)";
    let mut sender = shell(line).spawn();
    assert!(sender.has_said("waiting for the password from /dev/fd/", 1));
    let (outcome, time) = sender.stop(Signal::SIGINT);
    outcome.failed(130, &["while reading the password from /dev/fd/"]);
    assert!(time < Duration::from_secs(2), "{time:?}");
}

#[test]
fn a_password_that_is_gone_later_does_not_hide_what_was_confirmed() {
    let name = queue("rotated");
    user(&name, "s3cret", ".* .* .*");
    let files = Files::new();
    let password = private(&files, "password", "s3cret\n");
    let rotated = queue("rotations");
    hello(["declare", &rotated]).run();
    let mut observer = Observer::new();
    let mut sender = as_user(
        &name,
        &["send", "-q", &rotated, "--rate", "50", "-c", "100000", "x"],
    )
    .args(["--password-file", &password])
    .spawn();
    sender.collect();
    // Some are confirmed, and many are to come.
    observer.reaches(&rotated, 10);
    fs::remove_file(&password).unwrap();
    broker_tool(&format!(
        "rabbitmqctl -q close_all_user_connections {name} because"
    ));
    let outcome = sender.end();
    outcome.failed(
        78,
        &["--password-file: cannot read ", " of 100000 confirmed"],
    );
    assert!(
        !outcome.stderr.contains(" 0 of 100000 confirmed"),
        "{outcome:?}"
    );
}

#[test]
fn what_keeps_the_password_away_is_named() {
    let files = Files::new();
    let empty = private(&files, "empty", "\nx");
    for (line, parts) in [
        (
            "password_file = 'none'",
            &[
                "config.toml:1: password_file: cannot read ",
                "none: no such file",
            ][..],
        ),
        (
            "password_file = 'empty'",
            &["password_file: the first line of ", "empty is empty"],
        ),
        (
            "password_command = ['no-such-program']",
            &["config.toml:1: password_command: cannot run no-such-program: no such file"],
        ),
        (
            "password_command = ['sh', '-c', 'echo s3cret; echo locked >&2; exit 3']",
            &["hello-mq: ", "password_command: sh failed (exit status: 3)"],
        ),
        (
            "password_command = ['true']",
            &["password_command: the first line of true is empty"],
        ),
        (
            "password_command = ['printf', '\\377']",
            &["the password of printf is not UTF-8"],
        ),
    ] {
        let config = private(&files, "config.toml", line);
        let outcome = as_user("u", &["send", "x", "--config", &config]).run();
        assert_eq!(outcome.status(), 78, "{line} {outcome:?}");
        for part in parts {
            assert!(outcome.stderr.contains(part), "{part} {outcome:?}");
        }
        assert!(!outcome.stderr.contains("s3cret"), "{outcome:?}");
        // What the command says of it is seen.
        assert_eq!(outcome.stderr.contains("locked"), line.contains("locked"));
    }
    as_user("u", &["send", "x", "--password-file", &empty])
        .run()
        .failed(78, &["--password-file: the first line of "]);

    // A command that takes its time is announced, and Ctrl+C does not wait for it.
    let config = private(&files, "config.toml", "password_command = ['sleep', '30']");
    let mut sender = as_user("u", &["send", "x", "--config", &config]).spawn();
    assert!(sender.has_said("waiting for sleep to print the password", 1));
    let (outcome, time) = sender.stop(Signal::SIGINT);
    outcome.failed(130, &["while waiting for sleep to print the password"]);
    assert!(time < Duration::from_secs(2), "{time:?}");
}

#[test]
fn the_password_is_asked_for_and_not_shown() {
    let name = queue("typist");
    user(&name, "s3cret", ".* .* .*");
    let (host, port) = (address(), address());
    let (host, _) = host.split_once(':').unwrap();
    let (_, port) = port.split_once(':').unwrap();
    let line = format!("$H send x --username {name} --host {host} --port {port} --password-prompt");
    // A terminal shows what is typed before it is told not to: it is typed when it is asked for.
    let files = Files::new();
    let screen = Path::new(&files.path()).join("screen");
    let screen = screen.to_str().unwrap();
    // Ctrl+C reaches the terminal's shell, too, and not every shell goes on after it.
    let typed = |answer: &str, then: &str| {
        shell(&format!(
            ": >{screen}; (until grep -q 'password for' {screen}; do sleep 0.05; done; \
             printf '{answer}') | script -qefc \"trap : INT; {line}; {then}\" {screen}"
        ))
        .without_env("HELLO_MQ_URL")
        .env("HELLO_MQ_QUEUE", OURS)
        .env("NO_COLOR", "1")
        .run()
    };
    let outcome = typed("s3cret\\n", "stty");
    let asked = format!("hello-mq: password for amqp://{name}@{host}:{port}/: ");
    assert!(outcome.stdout.contains(&asked), "{outcome:?}");
    assert!(outcome.stdout.contains(" [x] Sent 'x'"), "{outcome:?}");
    assert!(!outcome.stdout.contains("s3cret"), "{outcome:?}");
    assert!(!outcome.stdout.contains("-echo "), "{outcome:?}");
    let outcome = typed("wrong\\n", "echo status=$?");
    assert!(outcome.stdout.contains("ACCESS_REFUSED"), "{outcome:?}");
    assert!(!outcome.stdout.contains("wrong"), "{outcome:?}");
    // Ctrl+C while it is asked leaves the terminal as it was.
    let outcome = typed("\\003", "stty");
    assert!(
        outcome
            .stdout
            .contains("interrupted before the password was given"),
        "{outcome:?}"
    );
    assert!(
        outcome.stdout.contains("speed") && !outcome.stdout.contains("-echo "),
        "{outcome:?}"
    );

    shell("exec setsid -w \"$H\" send x --password-prompt")
        .run()
        .failed(64, &["--password-prompt: there is no terminal to ask on"]);
}

#[test]
fn others_who_can_read_a_password_are_warned_of() {
    let files = Files::new();
    let of = |mode: u32, text: &str| {
        let path = files.write("config.toml", text);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        hello(["send", "x", "--quiet"])
            .env("HELLO_MQ_CONFIG", path)
            .env("HELLO_MQ_QUEUE", OURS)
            .run()
    };
    let warning = "config.toml contains a password and is readable by other users; protect it with 'chmod 600'\n";
    for text in [
        "password = 'x'",
        "url = 'amqp://u:p@h'",
        "[profiles.p]\npassword = 'x'",
    ] {
        let outcome = of(0o644, text);
        assert!(outcome.stderr.ends_with(warning), "{text} {outcome:?}");
        assert!(
            outcome.stderr.starts_with("hello-mq: warning: "),
            "{outcome:?}"
        );
        of(0o600, text).printed("");
    }
    of(0o644, "url = 'amqp://u@h'").printed("");
    let password = files.write("password", "guest\n");
    fs::set_permissions(&password, fs::Permissions::from_mode(0o604)).unwrap();
    let outcome = hello(["send", "x", "--password-file", password.to_str().unwrap()])
        .env("HELLO_MQ_URL", format!("amqp://{}", address()))
        .env("HELLO_MQ_QUEUE", OURS)
        .run();
    assert_eq!(outcome.status(), 0, "{outcome:?}");
    assert!(
        outcome
            .stderr
            .contains("password contains a password and is readable by other users"),
        "{outcome:?}"
    );
}

/// Variables of the environment, and options.
type Source<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);

#[test]
fn no_output_holds_the_password() {
    let name = queue("secretive");
    user(&name, "s3cret", ".* .* .*");
    let files = Files::new();
    let in_file = private(&files, "config.toml", "password = 's3cret'\n");
    let of_file = private(&files, "file.toml", "password_file = 'password'\n");
    let of_command = private(
        &files,
        "command.toml",
        "password_command = ['sh', '-c', 'echo s3cret']\n",
    );
    let password = private(&files, "password", "s3cret\n");
    let good = format!("amqp://{name}@{}/", address());
    let with_password = format!("amqp://{name}:s3cret@{}/", address());
    let sources: &[Source] = &[
        (&[("HELLO_MQ_URL", &with_password)], &[]),
        (
            &[("HELLO_MQ_URL", &good), ("HELLO_MQ_PASSWORD", "s3cret")],
            &[],
        ),
        (&[("HELLO_MQ_URL", &good)], &["--config", &in_file]),
        (&[("HELLO_MQ_URL", &good)], &["--config", &of_file]),
        (&[("HELLO_MQ_URL", &good)], &["--config", &of_command]),
        (&[("HELLO_MQ_URL", &good)], &["--password-file", &password]),
    ];
    // What succeeds, what fails in each way, and what only tells.
    let commands: &[&[&str]] = &[
        &["send", "x"],
        &["send", "x", "-e", "no-such-exchange"],
        &["send", "x", "--no-declare", "-q", "no-such-queue"],
        &["send", "x", "--vhost", "nowhere"],
        &["send", "x", "--port", "1"],
        &["send", "x", "--host", "no.such.host.invalid"],
        &["send", "x", "--tls", "--connect-timeout", "1s"],
        &["receive", "-c1"],
        &["receive", "--timeout", "100ms"],
        &["receive", "--format", "%q"],
        &["declare", "--type", "quorum", "--auto-delete"],
        &["declare", "--check", "no-such-queue"],
        &["declare", "--queue", "amq.reserved"],
        &["send", "--explain"],
        &["receive", "--explain", "-o", "json"],
        &["declare", "--explain"],
        &["send", "--profile", "none"],
        &["purge", "--yes"],
        &["--help"],
        &["send", "--help"],
    ];
    // The secret, as base64, and as bytes, as a frame would be shown.
    let forms = ["s3cret", "czNjcmV0", "115, 51, 99, 114, 101, 116"];
    let mut seen = 0;
    for (variables, options) in sources {
        for command in commands {
            for (level, flag) in [("", "--quiet"), ("", "-vvv"), ("trace", "-v")] {
                if command.contains(&"--help") && !options.is_empty() {
                    continue;
                }
                // An option wins over a URL of the environment.
                let mut run = hello(command.iter().chain(*options).copied())
                    .args([flag])
                    .env("RUST_LOG", level)
                    .env("HELLO_MQ_QUEUE", OURS)
                    .env("RUST_BACKTRACE", "full");
                for (variable, value) in *variables {
                    run = run.env(variable, value);
                }
                let outcome = run.run();
                for form in forms {
                    assert!(
                        !outcome.stdout.contains(form) && !outcome.stderr.contains(form),
                        "{command:?} {options:?} {level}{flag}: {outcome:?}"
                    );
                }
                seen += outcome.stderr.len();
            }
        }
    }
    assert!(
        seen > 100_000,
        "there was something to look through: {seen}"
    );

    // The process list shows what was typed, and nothing that was not.
    let mut receiver = hello(["receive", OURS])
        .env("HELLO_MQ_URL", &good)
        .args(["--config", &of_command])
        .spawn();
    receiver.expect("CTRL+C\n");
    let lines = broker_tool("ps -eo args");
    let ours = |line: &&str| line.contains(&*of_command);
    let lines: Vec<_> = lines.lines().filter(ours).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(!lines[0].contains("s3cret"), "{lines:?}");
}

#[test]
fn names_may_hold_any_character() {
    for (index, odd) in ["a@b:c/d?e#f[g]h%i", "ünï☂", "a b&c=d;e,f'g\"h\\i$j"]
        .iter()
        .enumerate()
    {
        let encoded: String = odd
            .bytes()
            .map(|byte| format!("%{byte:02X}"))
            .collect::<Vec<_>>()
            .concat();
        let (name, vhost, password) = (
            format!("u{index}{odd}"),
            format!("v{index}{odd}"),
            format!("p{odd}"),
        );
        for line in [
            &["add_user", &name, &password][..],
            &["add_vhost", &vhost],
            &["set_permissions", "-p", &vhost, &name, ".*", ".*", ".*"],
        ] {
            let status = Command::new("rabbitmqctl").arg("-q").args(line).status();
            assert!(status.unwrap().success(), "{line:?}");
        }
        let url = format!(
            "amqp://u{index}{encoded}:p{encoded}@{}/v{index}{encoded}",
            address()
        );
        hello(["send", "x", "-u", &url])
            .run()
            .printed(" [x] Sent 'x'\n");
        let address = address();
        let (host, port) = address.split_once(':').unwrap();
        hello([
            "receive", "-c1", "-o", "body", "--host", host, "--port", port,
        ])
        .args(["--username", &name, "--vhost", &vhost])
        .env("HELLO_MQ_PASSWORD", &password)
        .without_env("HELLO_MQ_URL")
        .run()
        .printed("x\n");
        // The URL in an error can be used as it is.
        let outcome = hello(["declare", "--check", "-u", &url, "no-such"]).run();
        let shown = outcome
            .stderr
            .split_whitespace()
            .find(|word| word.starts_with("amqp://"))
            .unwrap();
        hello(["declare", "-u", shown.trim_end_matches(':')])
            .env("HELLO_MQ_PASSWORD", &password)
            .run()
            .printed(" [x] Declared 'hello' (0 messages, 0 consumers)\n");
    }
}

#[test]
fn a_profile_wins_over_the_rest_of_the_file() {
    let files = Files::new();
    let (top, of_profile, other) = (queue("top"), queue("of-profile"), queue("other"));
    let config = private(
        &files,
        "config.toml",
        &format!(
            "url = 'amqp://127.0.0.1:1'\nqueue = '{top}'\n[receive]\nprefetch = 7\n\n\
             [profiles.here]\nurl = '{}'\nqueue = '{of_profile}'\nreceive.prefetch = 9\n\n\
             [profiles.\"two words\"]\nqueue = '{other}'\n",
            url()
        ),
    );
    let hello = |words: &[&str]| {
        hello(words)
            .env("HELLO_MQ_CONFIG", &config)
            .without_env("HELLO_MQ_URL")
    };
    hello(&["send", "x"])
        .run()
        .failed(69, &["amqp://guest@127.0.0.1:1/"]);
    let sent = " [x] Sent 'x'\n";
    hello(&["send", "x", "--profile", "here"])
        .run()
        .printed(sent);
    hello(&["send", "x"])
        .env("HELLO_MQ_PROFILE", "here")
        .run()
        .printed(sent);
    assert_eq!(Observer::new().messages(&of_profile), 2);
    hello(&["send", "x", "--profile", "here", "-q", &other])
        .run()
        .printed(sent);
    // What comes of it, and from where, is told without a broker.
    let explained = hello(&[
        "receive",
        "--explain",
        "--profile",
        "here",
        "--host",
        "a",
        "--host",
        "b",
    ])
    .env("HELLO_MQ_PROFILE", "ignored")
    .run();
    let line = |key: &str| {
        let line = explained
            .stdout
            .lines()
            .find(|line| line.starts_with(&format!("{key} ")));
        line.unwrap_or_else(|| panic!("no {key} in {explained:?}"))
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(
        line("config"),
        format!("config {config} from HELLO_MQ_CONFIG")
    );
    assert_eq!(line("profile"), "profile here from --profile");
    assert_eq!(line("hosts"), "hosts a, b from --host");
    assert_eq!(
        line("queue"),
        format!("queue {of_profile} from profile 'here' ({config}:8)")
    );
    assert_eq!(
        line("prefetch"),
        format!("prefetch 9 from profile 'here' ({config}:9)")
    );
    assert_eq!(line("heartbeat"), "heartbeat 10s the default");
    let json = hello(&["receive", "--explain", "-o", "json"]).run().stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["settings"]["prefetch"]["value"], 7);
    assert_eq!(
        json["settings"]["prefetch"]["origin"],
        format!("from {config}:4")
    );
    assert_eq!(json["settings"]["password"]["value"], "***");
    assert_eq!(
        json["operations"][0],
        "connect to amqp://guest@127.0.0.1:1/"
    );

    let outcome = hello(&["send", "x", "--profile", "nowhere"]).run();
    outcome.failed(
        78,
        &[
            "--profile: there is no [profiles.nowhere] in ",
            "it has: here, two words",
        ],
    );
    crate::support::hello(["send", "x", "--profile", "here"])
        .run()
        .failed(
            78,
            &["--profile: there is no configuration file, and so no profile 'here'"],
        );
}

#[test]
fn what_a_url_says_is_explained_part_by_part() {
    for (url, options, broker, lines) in [
        (
            "amqp://h",
            &[][..],
            "amqp://guest@h:5672/",
            &[
                "port 5672 from --url",
                "vhost / from --url",
                "username guest the default",
            ][..],
        ),
        (
            "amqp://h/",
            &[],
            "amqp://guest@h:5672/",
            &["vhost / from --url"],
        ),
        (
            "amqps://u%40x:s3cret@[::1]/v%2Fw",
            &[],
            "amqps://u%40x@[::1]:5671/v%2Fw",
            &[
                "hosts ::1 from --url",
                "port 5671 from --url",
                "vhost v/w from --url",
                "tls true from --url",
                "username u@x from --url",
                "password *** from --url",
            ],
        ),
        (
            "amqp://u@h:1/v",
            &[
                "--host",
                "o",
                "--port",
                "2",
                "--vhost",
                "p",
                "--username",
                "q",
            ],
            "amqp://q@o:2/p",
            &[
                "hosts o from --host",
                "port 2 from --port",
                "vhost p from --vhost",
                "username q from --username",
            ],
        ),
        (
            "amqps://h/?heartbeat=5&connection_timeout=1500&server_name_indication=n",
            &["--heartbeat", "7s"],
            "amqps://guest@h:5671/",
            &[
                "heartbeat 7s from --heartbeat",
                "connect_timeout 1s 500ms from --url",
                "tls.server_name n from --url",
            ],
        ),
    ] {
        let outcome = hello(["receive", "--explain", "-u", url])
            .without_env("HELLO_MQ_URL")
            .args(options)
            .run();
        let said: Vec<_> = outcome
            .stdout
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        let connect = format!("connect to {broker}");
        for line in lines.iter().copied().chain([connect.as_str()]) {
            assert!(
                said.iter().any(|said| said == line),
                "{url}: no {line:?} in {said:#?}"
            );
        }
        assert!(!outcome.stdout.contains("s3cret"), "{outcome:?}");
    }
}

#[test]
fn each_command_says_what_it_would_do() {
    let explained = |words: &[&str]| {
        let outcome = hello(words).args(["--explain", "-u", "amqp://h"]).run();
        assert_eq!(
            (outcome.status(), outcome.stderr.as_str()),
            (0, ""),
            "{outcome:?}"
        );
        let (_, operations) = outcome.stdout.split_once("\n\n").unwrap();
        let operations = operations
            .strip_prefix("connect to amqp://guest@h:5672/\n")
            .unwrap();
        operations
            .strip_suffix("connection.close\n")
            .unwrap()
            .to_owned()
    };
    let declare = "queue.declare 'q' auto_delete=false durable=false, unless it exists with other properties\n";
    let wait = "wait for basic.ack of each, until nothing is confirmed for 1m\n";
    assert_eq!(
        explained(&["send", "-q", "q", "x", "--persistent"]),
        format!(
            "{declare}confirm.select\nbasic.publish exchange='' routing_key='q' mandatory=true \
             delivery_mode=2, for each message\n{wait}"
        )
    );
    assert_eq!(
        explained(&[
            "send",
            "-e",
            "e",
            "-r",
            "k",
            "--allow-unroutable",
            "--jsonl"
        ]),
        format!(
            "confirm.select\nbasic.publish exchange='e' routing_key='k' mandatory=false \
             delivery_mode=1, for each message, unless its line says otherwise\n{wait}"
        )
    );
    let consumed = "basic.ack, for each message that is written\nbasic.cancel\n\
                    basic.nack requeue=true, for the messages that are not acknowledged, if \
                    the end of the connection does not return them as well\n";
    assert_eq!(
        explained(&[
            "receive",
            "q",
            "--prefetch",
            "5",
            "--exclusive",
            "--priority",
            "3"
        ]),
        format!(
            "{declare}basic.qos prefetch_count=5\nbasic.consume 'q' no_ack=false exclusive=true \
             x-priority=3\n{consumed}"
        )
    );
    assert_eq!(
        explained(&["receive", "-e", "e", "-r", "k"]),
        format!(
            "queue.declare '' auto_delete=true durable=false exclusive=true\nqueue.bind queue '' to \
             exchange 'e' with 'k'\nbasic.qos prefetch_count=256\nbasic.consume '' no_ack=false \
             exclusive=false\n{consumed}"
        )
    );
    assert_eq!(
        explained(&["receive", "q", "--forward-to", ":r"]),
        format!(
            "{declare}basic.qos prefetch_count=256\nbasic.consume 'q' no_ack=false exclusive=false\n\
             publisher: connect to the same broker\npublisher: confirm.select\npublisher: \
             basic.publish exchange='' routing_key='r' mandatory=true, for each message, without \
             headers.CC, headers.BCC\npublisher: connection.close\n{}",
            consumed.replace("written", "confirmed")
        )
    );
    assert_eq!(
        explained(&["receive", "q", "--peek"]),
        format!(
            "{declare}basic.get 'q' no_ack=false, until there are no more\nevery message goes back, at \
             the latest when the connection is closed\nbasic.nack requeue=true, for the messages that are \
             not acknowledged, if the end of the connection does not return them as well\n"
        )
    );
    for offset in ["first", "7", "2025-12-31T23:59:59Z"] {
        let line =
            format!("\nbasic.consume 'q' no_ack=false exclusive=false x-stream-offset={offset}\n");
        let draining = line.replace('\n', "") + ", until no message is left\n";
        for (more, line) in [(&[][..], &line), (&["--drain"], &draining)] {
            let words = [&["receive", "q", "--stream-offset", offset], more].concat();
            assert!(explained(&words).contains(line.as_str()), "{words:?}");
        }
    }
    assert_eq!(
        explained(&["delete", "q", "--if-empty"]),
        "queue.declare 'q' passive=true\nqueue.delete 'q' if_empty=true if_unused=false\n"
    );
    assert_eq!(
        explained(&["purge", "q"]),
        "queue.declare 'q' passive=true\nqueue.purge 'q'\n"
    );
    assert_eq!(
        explained(&["declare", "q", "--check"]),
        "queue.declare 'q' passive=true\n"
    );
}

#[test]
fn every_command_needs_only_the_rights_that_it_uses() {
    let (readable, writable, exchange) = (queue("readable"), queue("writable"), queue("exchange"));
    for name in [&readable, &writable] {
        hello(["declare", name]).run();
    }
    hello([
        "declare",
        &writable,
        "-e",
        &exchange,
        "--exchange-type",
        "fanout",
        "--bind",
        "",
    ])
    .run();
    hello(["send", "-q", &readable, "a", "b"]).run();
    let names = ["writer", "reader", "nobody"].map(queue);
    let [writer, reader, nobody] = &names;
    user(writer, "s3cret", &format!("^$ ^{exchange}$ ^$"));
    user(reader, "s3cret", &format!("^$ ^$ ^{readable}$"));
    user(nobody, "s3cret", "^$ ^$ ^$");
    let of = |name: &str, words: &[&str]| {
        as_user(name, words)
            .env("HELLO_MQ_PASSWORD", "s3cret")
            .run()
    };

    // Who may only write to one exchange can do so.
    of(writer, &["send", "-e", &exchange, "x"]).printed(" [x] Sent 'x'\n");
    of(writer, &["send", "--no-declare", "-e", &exchange, "x"]).printed(" [x] Sent 'x'\n");
    // Who may only read one queue can do so, and look after it.
    of(reader, &["receive", "-c1", "-o", "body", &readable]).printed("a\n");
    of(reader, &["receive", "--peek", "-o", "body", &readable]).printed("b\n");
    of(reader, &["declare", "--check", &readable]).printed(&format!(
        " [x] Queue '{readable}' exists (1 message, 0 consumers)\n"
    ));
    of(reader, &["purge", "--yes", &readable])
        .printed(&format!(" [x] Purged '{readable}' (1 message)\n"));

    // A refusal says which right is missing on what.
    let on_queue = |right: &str, name: &str, queue: &str| {
        format!(
            "hint: user '{name}' needs {right} permission on queue '{queue}' in virtual host '/'"
        )
    };
    let on_exchange = |right: &str, name: &str, exchange: &str| {
        format!(
            "hint: user '{name}' needs {right} permission on exchange '{exchange}' in virtual host '/'"
        )
    };
    let new = queue("new");
    for (name, words, hint) in [
        (
            nobody,
            &["send", "-q", &writable, "x"][..],
            on_exchange("write", nobody, "amq.default"),
        ),
        (
            nobody,
            &["send", "-e", &exchange, "x"],
            on_exchange("write", nobody, &exchange),
        ),
        (
            nobody,
            &["receive", "-c1", &readable],
            on_queue("read", nobody, &readable),
        ),
        (
            nobody,
            &["receive", "--peek", &readable],
            on_queue("read", nobody, &readable),
        ),
        (
            nobody,
            &["purge", "--yes", &readable],
            on_queue("read", nobody, &readable),
        ),
        (
            nobody,
            &["delete", "--yes", &readable],
            on_queue("configure", nobody, &readable),
        ),
        (
            nobody,
            &["declare", &new],
            on_queue("configure", nobody, &new),
        ),
        (
            nobody,
            &["delete", "-e", &exchange],
            on_exchange("configure", nobody, &exchange),
        ),
        (
            nobody,
            &["declare", "-e", &new],
            on_exchange("configure", nobody, &new),
        ),
    ] {
        let outcome = of(name, words);
        outcome.failed(77, &["ACCESS_REFUSED", &hint]);
        assert!(
            outcome
                .stderr
                .contains(&format!("'rabbitmqctl list_user_permissions {name}'")),
            "{outcome:?}"
        );
    }
    // A new queue can't be made, and that there is none is what matters.
    of(reader, &["receive", "-c1", &new]).failed(77, &["ACCESS_REFUSED"]);
}

#[test]
fn to_bind_takes_two_rights_and_to_listen_three() {
    let (writable, exchange) = (queue("writable"), queue("exchange"));
    hello([
        "declare",
        &writable,
        "-e",
        &exchange,
        "--exchange-type",
        "fanout",
        "--bind",
        "",
    ])
    .run();
    let of = |name: &str, words: &[&str]| {
        as_user(name, words)
            .env("HELLO_MQ_PASSWORD", "s3cret")
            .run()
    };
    let missing = |right: &str, name: &str, what: &str| {
        format!("hint: user '{name}' needs {right} permission on {what}' in virtual host '/'")
    };
    let on_queue = |right, name: &str| missing(right, name, &format!("queue '{writable}"));
    let on_exchange = |right, name: &str| missing(right, name, &format!("exchange '{exchange}"));
    let reader = queue("reader");
    user(&reader, "s3cret", "^$ ^$ .*");
    // Binding takes two rights: to write to the queue, and to read the exchange.
    let binder = queue("binder");
    user(&binder, "s3cret", &format!("^$ ^{writable}$ ^$"));
    of(
        &binder,
        &["declare", &writable, "-e", &exchange, "--bind", "k"],
    )
    .failed(77, &[&on_queue("configure", &binder)]);
    broker_tool(&format!(
        "rabbitmqctl -q set_permissions {binder} ^{writable}$ ^{writable}$ ^$"
    ));
    of(
        &binder,
        &["declare", &writable, "-e", &exchange, "--bind", "k"],
    )
    .failed(77, &[&on_exchange("read", &binder)]);
    broker_tool(&format!(
        "rabbitmqctl -q set_permissions {binder} ^{writable}$ ^$ ^{exchange}$"
    ));
    of(
        &binder,
        &["declare", &writable, "-e", &exchange, "--bind", "k"],
    )
    .failed(77, &[&on_queue("write", &binder)]);
    // Listening in on an exchange takes a temporary queue.
    of(&reader, &["receive", "-e", &exchange])
        .failed(77, &["needs configure permission on queue 'amq.gen"]);
    let listener = queue("listener");
    user(&listener, "s3cret", "^amq.gen ^amq.gen ^amq.gen");
    of(&listener, &["receive", "-e", &exchange]).failed(77, &[&on_exchange("read", &listener)]);
}

#[test]
fn each_step_of_the_login_is_bounded_and_named() {
    // What the broker says first, and what it says next, before it says nothing more.
    let mut broker = TcpStream::connect(address()).unwrap();
    broker.write_all(b"AMQP\x00\x00\x09\x01").unwrap();
    let mut start = vec![0; 7];
    broker.read_exact(&mut start).unwrap();
    let length = u32::from_be_bytes([start[3], start[4], start[5], start[6]]);
    start.resize(7 + length as usize + 1, 0);
    broker.read_exact(&mut start[7..]).unwrap();
    let tune = b"\x01\0\0\0\0\0\x0c\0\x0a\0\x1e\x07\xff\0\x02\0\0\0\x3c\xce";
    for (answers, step) in [
        (Vec::new(), "waiting for its greeting"),
        (start.clone(), "waiting for its answer to the login"),
        (
            [&start[..], tune].concat(),
            "waiting for it to open the virtual host",
        ),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("amqp://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            client.write_all(&answers).unwrap();
            // Until it gives up.
            let _ = client.read_to_end(&mut Vec::new());
        });
        let begun = Instant::now();
        hello(["declare", "-u", &url, "--connect-timeout", "700ms"])
            .run()
            .failed(
                69,
                &["no answer within ", &format!(" while {step} (127.0.0.1:")],
            );
        let time = begun.elapsed();
        assert!(time < Duration::from_secs(3), "{step}: {time:?}");
    }
}

#[test]
fn an_answer_that_never_comes_is_announced_and_can_be_left() {
    let proxy = Proxy::start(&url());
    proxy.freeze_after_login();
    let queue = queue("silent");
    // Without heartbeats nothing else ends the wait.
    let mut all: Vec<_> = ["declare", "send", "receive"]
        .iter()
        .map(|verb| {
            proxy.thaw();
            let words = [verb, "-q", &queue, "--heartbeat", "0s", "-u", &proxy.url];
            let mut command = hello(words);
            if *verb == "send" {
                command = command.args(["x"]);
            }
            let mut process = command.spawn();
            assert!(process.has_said("waiting for amqp://guest@", 1), "{verb}");
            process
        })
        .collect();
    for (process, status) in all.drain(..).zip([130, 130, 0]) {
        let (outcome, time) = process.stop(Signal::SIGINT);
        assert_eq!(outcome.status(), status, "{outcome:?}");
        assert!(
            outcome.stderr.contains("/ to declare queue '"),
            "{outcome:?}"
        );
        assert!(time < Duration::from_secs(5), "{time:?}");
    }
}

/// A listener whose queue of connections is full: it answers no more.
const FULL: &str = "
import socket, sys, time
server = socket.socket()
server.bind(('127.0.0.1', 0))
server.listen(0)
waiting = [socket.socket() for _ in range(4)]
for client in waiting:
    client.setblocking(False)
    client.connect_ex(server.getsockname())
time.sleep(0.3)
print(server.getsockname()[1], flush=True)
sys.stdin.read()
";

#[test]
fn a_host_that_does_not_even_answer_is_bounded_and_named() {
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/target/pika/bin/python");
    let mut peer = Command::new(python)
        .args(["-c", FULL])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("run scripts/setup python first");
    let mut port = String::new();
    BufReader::new(peer.stdout.take().unwrap())
        .read_line(&mut port)
        .unwrap();
    for scheme in ["amqp", "amqps"] {
        let url = format!("{scheme}://127.0.0.1:{}", port.trim());
        let begun = Instant::now();
        hello(["declare", "-u", &url, "--connect-timeout", "700ms"])
            .run()
            .failed(69, &["no answer within ", " while connecting (127.0.0.1:"]);
        assert!(
            begun.elapsed() < Duration::from_secs(3),
            "{:?}",
            begun.elapsed()
        );
    }
    drop(peer.stdin.take());
    peer.wait().unwrap();
}
