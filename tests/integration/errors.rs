use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::thread;
use std::time::Instant;

use crate::support::{Files, broker_tool, hello, queue, shell, url};

#[test]
fn an_unreachable_broker_is_said_with_address_and_source() {
    hello(["declare", "--port", "1"]).run().failed(
        69,
        &[
            "cannot reach amqp://guest@127.0.0.1:1/: connection refused (127.0.0.1:1)",
            "port from --port",
            "hint: ",
        ],
    );
    hello(["declare", "-u", "amqp://no-such-host.invalid"])
        .run()
        .failed(
            69,
            &[
                "cannot reach amqp://guest@no-such-host.invalid:5672/: unknown host name",
                "host from --url",
            ],
        );
}

#[test]
fn a_wrong_password_is_told_at_once_in_the_brokers_words() {
    let start = Instant::now();
    let outcome = hello(["send", "x"])
        .env("HELLO_MQ_URL", url().replace("guest:guest", "guest:s3cret"))
        .run();
    assert!(start.elapsed().as_secs() < 2);
    outcome.failed(
        77,
        &[
            "refused the connection: ACCESS_REFUSED - Login was refused",
            "HELLO_MQ_PASSWORD",
        ],
    );
    assert!(!outcome.stderr.contains("s3cret"));
}

#[test]
fn an_unknown_virtual_host_is_told_in_the_brokers_words() {
    hello(["receive", "--vhost", "no/pe"]).run().failed(
        77,
        &[
            "/no%2Fpe refused the connection: NOT_ALLOWED - vhost no/pe not found",
            "--vhost",
        ],
    );
}

/// A user with few rights: each verb works with what it needs, and says what it lacks.
#[test]
fn rights_that_are_missing_are_told_and_rights_that_suffice_do() {
    let user = queue("reader");
    let theirs = queue("theirs");
    hello(["declare", &theirs]).run();
    broker_tool(&format!("rabbitmqctl -q add_user {user} s3cret"));
    broker_tool(&format!(
        "rabbitmqctl -q set_permissions {user} ^$ .* ^theirs.*"
    ));
    let as_user = |arguments: &[&str]| {
        hello(arguments)
            .env(
                "HELLO_MQ_URL",
                url().replace("guest:guest", &format!("{user}:s3cret")),
            )
            .run()
    };
    as_user(&["declare", "forbidden"]).failed(
        77,
        &[
            "cannot declare queue 'forbidden'",
            "ACCESS_REFUSED",
            "rabbitmqctl list_user_permissions",
        ],
    );
    as_user(&["send", "-q", "forbidden", "x"])
        .failed(77, &["cannot declare queue 'forbidden'", "ACCESS_REFUSED"]);
    as_user(&["send", "-q", &theirs, "x"]).printed(" [x] Sent 'x'\n");
    as_user(&["receive", "--quiet", &theirs, "-c1"]).printed(" [x] Received 'x'\n");
    hello(["declare", "hers"]).run();
    as_user(&["receive", "hers"])
        .failed(77, &["cannot consume from queue 'hers'", "ACCESS_REFUSED"]);
    // Reserved names can't be declared by anybody, but used if they exist.
    hello(["send", "-q", "amq.x", "x"])
        .run()
        .failed(77, &["contains reserved prefix 'amq.*'"]);
}

#[test]
fn bad_usage_is_64() {
    for (arguments, part) in [
        (vec!["sned"], "similar subcommand exists: 'send'"),
        (vec!["send", "--qeue", "x"], "--queue"),
        (vec!["receive", "-c", "0"], "--count"),
        (vec!["receive", "-c", "x"], "--count"),
        (vec!["receive", "--prefetch", "65536"], "--prefetch"),
        (vec!["receive", "a", "b"], "unexpected argument 'b'"),
        (
            vec!["send", "--connect-timeout", "5", "x"],
            "not a duration",
        ),
        (vec!["receive", ""], "a queue's name can't be empty"),
        (
            vec!["declare", "a", "-q", "b"],
            "QUEUE is 'a' and --queue is 'b'",
        ),
        (vec!["declare", "-v", "--quiet"], "cannot be used with"),
        (
            vec!["purge", "a", "--max-held", "3"],
            "--max-held requires --where\n",
        ),
        (
            vec!["receive", "--replay", "--decode"],
            "--decode has no effect with --replay",
        ),
        (
            vec!["receive", "--forward-to", ":a", "--dry-run", "--decode"],
            "--decode has no effect with --forward-to",
        ),
        // Options of COMMAND and of printing, without them.
        (
            vec!["receive", "--replay", "--reply"],
            "cannot be used with",
        ),
        (
            vec!["receive", "--forward-to", ":a", "--jobs", "2"],
            "cannot be used with",
        ),
        (
            vec!["receive", "--peek", "--on-failure", "stop"],
            "cannot be used with",
        ),
        (
            vec!["receive", "--save", "a", "--command-timeout", "1s"],
            "cannot be used with",
        ),
        (
            vec!["receive", "-0", "--max-redeliveries", "1"],
            "cannot be used with",
        ),
        (vec!["receive", "--replay", "--raw"], "cannot be used with"),
        (
            vec!["receive", "--decode-amqp10", "--", "cat"],
            "cannot be used with",
        ),
    ] {
        hello(arguments).run().failed(64, &[part]);
    }
    let outcome = hello(["declare", "-u", "amqp://u:s3cret@h/?x=y"]).run();
    outcome.failed(64, &["--url: unknown parameter"]);
    assert!(!outcome.stderr.contains("s3cret"));
    let outcome = hello::<&str>([]).run();
    assert_eq!((outcome.status(), outcome.stdout.as_str()), (64, ""));
    assert!(outcome.stderr.contains("Usage: hello-mq"));
}

#[test]
fn help_and_version_are_data() {
    for arguments in [["--help"], ["-h"], ["--version"]] {
        let outcome = hello(arguments).run();
        assert_eq!((outcome.status(), outcome.stderr.as_str()), (0, ""));
        assert!(outcome.stdout.contains("hello-mq"));
    }
    assert_eq!(
        hello(["--version"]).run().stdout,
        concat!("hello-mq ", env!("CARGO_PKG_VERSION"), "\n")
    );
    for option in ["--help", "--version", "send -h"] {
        let error =
            "cannot write to standard output: no space left on device; the text is incomplete";
        shell(&format!("$H {option} >/dev/full"))
            .run()
            .failed(74, &[error]);
    }
    for (line, start) in [
        ("send --explain", "config"),
        ("send --explain -o json", "{"),
    ] {
        let error = format!(
            "cannot write to standard output: no space left on device; the line was: {start}"
        );
        shell(&format!("$H {line} >/dev/full"))
            .run()
            .failed(74, &[&error]);
    }
}

/// The library logs its login at level debug; whatever is asked for, no password is to be seen.
#[test]
fn no_log_level_shows_the_password() {
    let user = queue("logged");
    broker_tool(&format!("rabbitmqctl -q add_user {user} s3cret"));
    broker_tool(&format!("rabbitmqctl -q set_permissions {user} .* .* .*"));
    let url = url().replace("guest:guest", &format!("{user}:s3cret"));
    let levels = [
        "trace",
        "debug",
        "amiquip::io_loop::handshake_state=trace",
        "hello_mq=trace,amiquip=trace",
    ];
    for (variable, flag) in levels.map(|level| (level, "-v")).into_iter().chain([
        ("", "-v"),
        ("", "-vv"),
        ("", "-vvvv"),
    ]) {
        for queue in ["-q=logged", "-q=amq.reserved"] {
            let outcome = hello(["send", flag, queue, "x"])
                .env("HELLO_MQ_URL", &url)
                .env("RUST_LOG", variable)
                .run();
            assert!(!outcome.stderr.contains("s3cret"), "{variable} {flag}");
            // The secret as bytes, as a frame would be shown.
            assert!(
                !outcome.stderr.contains("115, 51, 99, 114, 101, 116"),
                "{variable} {flag}"
            );
            assert!(
                outcome
                    .stderr
                    .lines()
                    .all(|line| line.starts_with("hello-mq: ")),
                "{}",
                outcome.stderr
            );
        }
    }
    let outcome = hello(["send", "-v", "-q=logged", "x"])
        .env("HELLO_MQ_URL", &url)
        .run();
    assert!(
        outcome.stderr.contains("logged in to amqp://"),
        "{}",
        outcome.stderr
    );
    assert!(
        outcome.stderr.contains("the broker is RabbitMQ "),
        "{}",
        outcome.stderr
    );
}

#[test]
fn the_password_is_not_in_the_process_list() {
    let mut receiver = hello(["receive", &queue("listed")])
        .env("HELLO_MQ_PASSWORD", "guest")
        .spawn();
    receiver.expect("CTRL+C\n");
    let listed = Command::new("ps")
        .args(["-o", "args=", "-p", &receiver.pid().to_string()])
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(
        listed.contains("receive") && !listed.contains("guest"),
        "{listed}"
    );
}

#[test]
fn the_broker_knows_who_is_connected() {
    let mut receiver = hello(["receive", &queue("known")]).spawn();
    receiver.expect("CTRL+C\n");
    let listed = broker_tool("rabbitmqctl -q list_connections client_properties timeout");
    let pid = format!("pid {}", receiver.pid());
    let line = listed
        .lines()
        .find(|line| line.contains(&pid))
        .unwrap_or_else(|| panic!("{listed}"));
    let name = format!(
        r#""connection_name","hello-mq {} receive, "#,
        env!("CARGO_PKG_VERSION")
    );
    for part in [
        &name,
        r#"{"product","hello-mq"}"#,
        r#"{"information","hello-mq "#,
    ] {
        assert!(line.contains(part), "no {part} in {line}");
    }
    assert!(line.ends_with("\t10"), "the heartbeat: {line}");
}

#[test]
fn a_broker_that_is_none_is_told_by_what_it_answers() {
    use std::io::{Read, Write};
    for (answer, part) in [
        (
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            "it is a web server",
        ),
        (
            b"AMQP\x00\x01\x00\x00",
            "it speaks another version of AMQP (0-1-0-0)",
        ),
        (b"\x15\x03\x03\x00\x02\x02\x46", "that port uses TLS"),
        (
            b"",
            "it closed the connection while waiting for its greeting; does that port use TLS (amqps)?",
        ),
    ] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            peer.read_exact(&mut [0; 8]).unwrap();
            peer.write_all(answer).unwrap();
        });
        let outcome = hello(["declare", "-u", &format!("amqp://{address}")]).run();
        outcome.failed(
            69,
            &[&format!(
                "cannot reach amqp://guest@{address}/: {part} ({address})"
            )],
        );
    }
}

#[test]
fn a_login_that_is_too_long_is_told_from_a_broker_that_is_not_there() {
    let files = Files::new();
    let file = files.write("token", &"t".repeat(9000));
    std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    hello(["declare", "--password-file", file.to_str().unwrap()])
        .run()
        .failed(
            77,
            &[
                "closed the connection without an error after a login of 9",
                "a shorter password or token",
            ],
        );
}

#[test]
fn a_password_that_is_not_there_is_told_from_a_wrong_one() {
    let address = url().rsplit_once('@').unwrap().1.to_owned();
    let declare = |login: &str, words: &[&str]| {
        hello(["declare"])
            .args(words)
            .env("HELLO_MQ_URL", format!("amqp://{login}@{address}"))
            .run()
    };
    let (missing, guest) = ("no password is set for user 'nobody'", "user guest may");
    for login in ["nobody", "nobody:"] {
        let outcome = declare(login, &[]);
        outcome.failed(77, &["ACCESS_REFUSED", missing]);
        assert!(!outcome.stderr.contains(guest), "{outcome:?}");
    }
    let outcome = declare("nobody:s3cret", &[]);
    outcome.failed(77, &["ACCESS_REFUSED", "check --username and the password"]);
    assert!(!outcome.stderr.contains(guest), "{outcome:?}");
    declare("guest:s3cret", &[]).failed(77, &["ACCESS_REFUSED", guest]);
    let files = Files::new();
    let file = files.write("config.toml", "username = \"nobody\"\npassword = \"\"\n");
    let file = file.to_str().unwrap();
    hello(["declare", "--config", file])
        .without_env("HELLO_MQ_URL")
        .run()
        .failed(78, &["config.toml:2: password: is empty"]);
}

#[test]
fn a_limit_is_told_with_what_shows_it() {
    let (host, user) = (queue("limited"), queue("limited"));
    for line in [
        format!("add_vhost {host}"),
        format!("set_permissions -p {host} guest .* .* .*"),
        format!("set_vhost_limits -p {host} {{\"max-queues\":0}}"),
        format!("add_user {user} s3cret"),
        format!("set_permissions {user} .* .* .*"),
        format!("set_user_limits {user} {{\"max-channels\":0}}"),
    ] {
        broker_tool(&format!("rabbitmqctl -q {line}"));
    }
    for words in [&["declare", "q"][..], &["receive", "-e", "amq.topic"]] {
        hello(words)
            .args(["--vhost", &host])
            .run()
            .failed(76, &["queue limit", "rabbitmqctl list_vhost_limits"]);
    }
    // It needs one.
    hello(["send", "x"])
        .env(
            "HELLO_MQ_URL",
            url().replace("guest:guest", &format!("{user}:s3cret")),
        )
        .run()
        .failed(77, &["number of channels", "list_user_limits"]);
    broker_tool(&format!("rabbitmqctl -q delete_vhost {host}"));
}

/// A frame that is a method.
fn method(channel: u8, class: u8, method: u8, arguments: &[u8]) -> Vec<u8> {
    let length = u8::try_from(arguments.len() + 4).unwrap();
    let head = [1, 0, channel, 0, 0, 0, length, 0, class, 0, method];
    [&head, arguments, b"\xce"].concat()
}

/// What the real one never says, a small fake has to.
#[test]
fn an_answer_that_makes_no_sense_is_the_brokers_fault() {
    const QUEUE_DECLARE: [u8; 4] = [0, 50, 0, 10];
    let login = [
        method(0, 10, 10, b"\0\x09\0\0\0\0\0\0\0\x05PLAIN\0\0\0\x05en_US"),
        method(0, 10, 30, b"\x07\xff\0\x02\0\0\0\0"),
        method(0, 10, 41, b"\0"),
        method(2, 20, 11, b"\0\0\0\0"),
    ]
    .concat();
    for answer in [
        method(2, 60, 11, b"\0"),
        method(2, 99, 99, b"\0"),
        method(2, 20, 41, b""),
        method(2, 50, 11, b"\x01"),
        method(2, 50, 11, b"\x02\xff\xfe\0\0\0\0\0\0\0\0"),
        method(2, 50, 11, b"\0\0\0\0\0\0\0\0\0"),
        method(7, 50, 11, b"\x01q\0\0\0\0\0\0\0\0"),
        b"\x02\0\x02\0\0\0\0\xce".to_vec(),
        b"\x01\0\x02\0\0\0\0\xce".to_vec(),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("amqp://{}", listener.local_addr().unwrap());
        let (login, says) = (login.clone(), answer.clone());
        let broker = thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            client.write_all(&login).unwrap();
            let (mut heard, mut byte) = (Vec::new(), [0]);
            while !heard.ends_with(&QUEUE_DECLARE) {
                client.read_exact(&mut byte).unwrap();
                heard.extend(byte);
            }
            client.write_all(&says).unwrap();
            // It listens until the client leaves.
            let _ = client.read_to_end(&mut Vec::new());
        });
        let outcome = hello(["declare", "-u", &url]).run();
        broker.join().unwrap();
        assert_eq!(outcome.status(), 69, "{answer:?}: {outcome:?}");
        let said = "while declaring queue 'hello': received data that is not AMQP";
        assert!(outcome.stderr.contains(said), "{answer:?}: {outcome:?}");
    }
}

#[test]
fn what_the_system_does_not_give_is_no_bug() {
    let queue = queue("poor");
    for command in [
        format!("declare {queue}"),
        format!("send --no-declare -q {queue} x"),
        format!("receive --drain {queue}"),
    ] {
        for files in 4..12 {
            let outcome = shell(&format!("ulimit -n {files}; $H {command}")).run();
            let status = outcome.status();
            assert!(status == 71 || files > 4 && status == 0, "{outcome:?}");
            if status == 71 {
                outcome.failed(71, &["too many open files", "hint: 'ulimit -a'"]);
            }
        }
    }
}
