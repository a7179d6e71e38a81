use std::collections::HashMap;

use super::*;
use crate::{cli, config};

/// Resolves the settings of a command line, an environment and a file.
fn settings(line: &str, variables: &[(&'static str, &str)], file: &str) -> Result<Settings, Error> {
    let arguments = line.split_whitespace().map(OsString::from);
    let cli = cli::parse([OsString::from("hello-mq")].into_iter().chain(arguments)).unwrap();
    let cli::Command::Verb(verb) = &cli.command else {
        panic!("{line}")
    };
    let variables: HashMap<_, _> = variables.iter().copied().collect();
    let file = (!file.is_empty()).then(|| config::parse("f.toml".into(), file.to_owned()).unwrap());
    resolve(
        &cli.common,
        verb,
        |name| variables.get(name).map(OsString::from),
        file.as_ref(),
    )
}

#[test]
fn the_highest_source_wins_and_is_remembered() {
    type Row<'a> = (
        &'a str,
        &'a [(&'static str, &'a str)],
        &'a str,
        &'a str,
        Origin,
    );
    let file = |line| Origin::File(format!("f.toml:{line}"));
    let rows: &[Row] = &[
        ("send", &[], "", "hello", Origin::Default),
        ("send", &[], "\nqueue = 'f'", "f", file(2)),
        (
            "send",
            &[("HELLO_MQ_QUEUE", "e")],
            "queue = 'f'",
            "e",
            Origin::Environment("HELLO_MQ_QUEUE"),
        ),
        (
            "send",
            &[("HELLO_MQ_QUEUE", "")],
            "queue = 'f'",
            "f",
            file(1),
        ),
        (
            "send -q o",
            &[("HELLO_MQ_QUEUE", "e")],
            "queue = 'f'",
            "o",
            Origin::Flag("--queue"),
        ),
        (
            "receive p",
            &[("HELLO_MQ_QUEUE", "e")],
            "queue = 'f'",
            "p",
            Origin::Flag("QUEUE"),
        ),
        ("declare p -q p", &[], "", "p", Origin::Flag("QUEUE")),
    ];
    for (line, variables, text, value, origin) in rows {
        let queue = settings(line, variables, text).unwrap().queue;
        assert_eq!(
            (queue.value.as_str(), &queue.origin),
            (*value, origin),
            "{line} {variables:?} {text:?}"
        );
    }
}

#[test]
fn a_broker_is_put_together_from_all_sources() {
    type Row<'a> = (
        &'a str,
        &'a [(&'static str, &'a str)],
        &'a str,
        &'a str,
        &'a str,
    );
    let rows: &[Row] = &[
        ("send", &[], "", "amqp://guest@localhost:5672/", "guest"),
        (
            "send --host h --port 1 --vhost v --username u",
            &[],
            "",
            "amqp://u@h:1/v",
            "guest",
        ),
        (
            "send --host a --host b:1 --host [::1]:2",
            &[],
            "hosts=['c']",
            "amqp://guest@a:5672,b:1,[::1]:2/",
            "guest",
        ),
        (
            "send -u amqp://",
            &[],
            "hosts=['c', 'd']",
            "amqp://guest@c:5672,d:5672/",
            "guest",
        ),
        (
            "send --host ::1",
            &[],
            "",
            "amqp://guest@[::1]:5672/",
            "guest",
        ),
        (
            "send --vhost /v/ --username u@x",
            &[],
            "",
            "amqp://u%40x@localhost:5672/%2Fv%2F",
            "guest",
        ),
        // A URL is whole but for user and password.
        (
            "send -u amqp://h",
            &[],
            "host='f'\nport=9\nvhost='f'\nusername='fu'\npassword='fp'",
            "amqp://fu@h:5672/",
            "fp",
        ),
        (
            "send -u amqp://u@h",
            &[("HELLO_MQ_PASSWORD", "ep")],
            "password='fp'",
            "amqp://u@h:5672/",
            "ep",
        ),
        (
            "send -u amqp://u:up@h",
            &[("HELLO_MQ_PASSWORD", "ep")],
            "",
            "amqp://u@h:5672/",
            "up",
        ),
        (
            "send -u amqp://",
            &[],
            "host='f'",
            "amqp://guest@f:5672/",
            "guest",
        ),
        // In one source the single option wins, and a higher source's URL wins over a lower one's.
        (
            "send -u amqp://u@h:7/v --host o",
            &[],
            "",
            "amqp://u@o:7/v",
            "guest",
        ),
        (
            "send --host o",
            &[("HELLO_MQ_URL", "amqp://u@h:7/v")],
            "",
            "amqp://u@o:7/v",
            "guest",
        ),
        (
            "send",
            &[("HELLO_MQ_URL", "amqp://e"), ("AMQP_URL", "amqp://a")],
            "url='amqp://f'",
            "amqp://guest@e:5672/",
            "guest",
        ),
        (
            "send",
            &[("AMQP_URL", "amqp://a")],
            "url='amqp://f'",
            "amqp://guest@a:5672/",
            "guest",
        ),
        (
            "send",
            &[],
            "url='amqp://f'\nport=3",
            "amqp://guest@f:3/",
            "guest",
        ),
    ];
    for (line, variables, text, url, password) in rows {
        let broker = settings(line, variables, text).unwrap().broker;
        assert_eq!(broker.to_string(), *url, "{line} {variables:?} {text:?}");
        assert_eq!(
            broker.password.value,
            Password::Known(Secret::new((*password).to_owned())),
            "{line} {variables:?} {text:?}"
        );
    }
}

#[test]
fn the_credentials_in_a_url_are_for_the_broker_that_it_names() {
    for (line, text, url, password) in [
        (
            "send -u amqp://h",
            "url='amqp://fu:fp@f'",
            "amqp://guest@h:5672/",
            "guest",
        ),
        ("send -u amqp://", "", "amqp://eu@e:5672/", "ep"),
        ("send --host h", "", "amqp://eu@h:5672/", "ep"),
    ] {
        let variables = [("HELLO_MQ_URL", "amqp://eu:ep@e")];
        let broker = settings(line, &variables, text).unwrap().broker;
        assert_eq!(broker.to_string(), url, "{line}");
        assert_eq!(
            broker.password.value,
            Password::Known(Secret::new(password.to_owned())),
            "{line}"
        );
    }
}

#[test]
fn each_command_has_its_own_table() {
    let file = "[send]\nno_declare = true\n[receive]\nprefetch = 7\nauto_ack = true";
    let send = settings("send", &[], file).unwrap();
    assert_eq!(
        (
            send.send.no_declare.value,
            send.receive.auto_ack.value,
            send.receive.prefetch.value.get()
        ),
        (true, false, 256)
    );
    let receive = settings("receive", &[], file).unwrap();
    assert_eq!(
        (
            receive.receive.no_declare.value,
            receive.receive.auto_ack.value,
            receive.receive.prefetch.value.get()
        ),
        (false, true, 7)
    );
    assert_eq!(
        settings("receive --prefetch 9", &[], file)
            .unwrap()
            .receive
            .prefetch
            .value
            .get(),
        9
    );
}

#[test]
fn what_is_wrong_is_named_by_its_source() {
    for (line, variables, status, start) in [
        (
            "send -u http://h",
            [("X", "")],
            64,
            "--url: the scheme is not amqp",
        ),
        (
            "send",
            [("HELLO_MQ_URL", "x")],
            78,
            "HELLO_MQ_URL: not a URL",
        ),
        (
            "receive a -q b",
            [("X", "")],
            64,
            "QUEUE is 'a' and --queue is 'b'",
        ),
    ] {
        let error = settings(line, &variables, "").unwrap_err();
        assert_eq!(error.status().code(), status);
        assert!(error.to_string().starts_with(start), "{error}");
    }
}

#[test]
fn tls_is_on_where_somebody_wants_it() {
    type Row<'a> = (&'a str, &'a [(&'static str, &'a str)], &'a str, &'a str);
    let rows: &[Row] = &[
        ("send -u amqps://h", &[], "", "amqps://guest@h:5671/"),
        ("send -u amqps://h:1/v", &[], "", "amqps://guest@h:1/v"),
        ("send --tls", &[], "", "amqps://guest@localhost:5671/"),
        ("send -k --port 1", &[], "", "amqps://guest@localhost:1/"),
        ("send", &[], "[tls]", "amqps://guest@localhost:5671/"),
        (
            "send",
            &[],
            "host = 'f'\ntls.ca_file = 'x'",
            "amqps://guest@f:5671/",
        ),
        // A URL that says otherwise, in a higher source.
        ("send -u amqp://h", &[], "[tls]", "amqp://guest@h:5672/"),
        (
            "send",
            &[("AMQP_URL", "amqp://h")],
            "[tls]",
            "amqp://guest@h:5672/",
        ),
        // And an option over a URL in a lower one, whose port is then the other one.
        (
            "send -k",
            &[("AMQP_URL", "amqp://h")],
            "",
            "amqps://guest@h:5671/",
        ),
        (
            "send -k",
            &[("AMQP_URL", "amqp://h:1")],
            "",
            "amqps://guest@h:1/",
        ),
        (
            "send --port 7",
            &[],
            "url = 'amqps://h'",
            "amqps://guest@h:7/",
        ),
        // A certificate identifies the user.
        ("send --tls-cert-file c", &[], "", "amqps://localhost:5671/"),
        (
            "send --tls-cert-file c --auth plain",
            &[],
            "",
            "amqps://guest@localhost:5671/",
        ),
        (
            "send --tls-cert-file c --username u",
            &[],
            "",
            "amqps://u@localhost:5671/",
        ),
        (
            "send --tls-cert-file c",
            &[("HELLO_MQ_PASSWORD", "p")],
            "",
            "amqps://guest@localhost:5671/",
        ),
        (
            "send --tls-cert-file c",
            &[],
            "username = 'u'\nauth = 'external'",
            "amqps://localhost:5671/",
        ),
    ];
    for (line, variables, text, url) in rows {
        let broker = settings(line, variables, text).unwrap().broker;
        assert_eq!(broker.to_string(), *url, "{line} {variables:?} {text:?}");
    }
}

#[test]
fn a_profile_stands_between_the_environment_and_the_file() {
    let file = "host = 'f'\nqueue = 'f'\nusername = 'f'\nsend.persistent = true\n\
                [profiles.p]\nhost = 'p'\nqueue = 'p'\n[profiles.q]\nurl = 'amqp://q'";
    let of =
        |line: &str, variables: &[(&'static str, &str)]| settings(line, variables, file).unwrap();
    let p = of("send --profile p", &[]);
    assert_eq!(p.broker.to_string(), "amqp://f@p:5672/");
    assert_eq!(
        p.queue.origin,
        Origin::Profile("p".to_owned(), "f.toml:7".to_owned())
    );
    assert!(p.send.persistent.value);
    let q = of(
        "send",
        &[("HELLO_MQ_PROFILE", "q"), ("HELLO_MQ_QUEUE", "e")],
    );
    assert_eq!(
        (q.broker.to_string().as_str(), q.queue.value.as_str()),
        ("amqp://f@q:5672/", "e")
    );
    assert_eq!(of("send --profile p", &[("HELLO_MQ_PROFILE", "q")]), p);
    assert_eq!(
        of("send", &[("HELLO_MQ_PROFILE", "")]).queue.value.as_str(),
        "f"
    );
    let error = settings("send --profile x", &[], file).unwrap_err();
    assert_eq!(
        error.to_string(),
        "--profile: there is no [profiles.x] in f.toml; it has: p, q"
    );
    let error = settings(
        "send --profile stagin",
        &[],
        "[profiles.production]\n[profiles.staging]",
    );
    assert_eq!(
        error.unwrap_err().to_string(),
        "--profile: there is no [profiles.stagin] in f.toml; it has: production, staging; did you \
         mean 'staging'?"
    );
}

#[test]
fn the_other_broker_is_that_of_a_profile_or_a_url_and_nothing_else() {
    let file = "host = 'f'\nusername = 'fu'\npassword = 'fp'\nheartbeat = '7s'\n\
                [profiles.p]\nhost = 'p'\npassword_file = 'x'\n\
                [profiles.u]\nurl = 'amqps://u/v'\n[profiles.s]\n[profiles.s.tls]\nca_file = 'ca'";
    let variables = [
        ("HELLO_MQ_URL", "amqp://eu:ep@e"),
        ("HELLO_MQ_PASSWORD", "ep"),
        ("HELLO_MQ_PROFILE", "s"),
    ];
    let known = |text: &str| Password::Known(Secret::new(text.to_owned()));
    for (option, url, password, heartbeat) in [
        (
            "--to-profile p",
            "amqp://fu@p:5672/",
            Password::File("x".into()),
            "7s",
        ),
        ("--to-profile u", "amqps://fu@u:5671/v", known("fp"), "7s"),
        ("--to-profile s", "amqps://fu@f:5671/", known("fp"), "7s"),
        (
            "--to-url amqps://t",
            "amqps://guest@t:5671/",
            known("guest"),
            "10s",
        ),
        (
            "--to-url amqp://tu:tp@t:1/v?heartbeat=3",
            "amqp://tu@t:1/v",
            known("tp"),
            "3s",
        ),
    ] {
        let line = format!(
            "receive --host h --username u --vhost w --tls-ca-file c --forward-to :q {option}"
        );
        let settings = settings(&line, &variables, file).unwrap();
        assert_eq!(
            settings.broker.to_string(),
            "amqps://u@h:5671/w",
            "{option}"
        );
        let target = settings.target.unwrap();
        assert_eq!(target.to_string(), url, "{option}");
        assert_eq!(target.password.value, password, "{option}");
        assert_eq!(target.heartbeat.value.to_string(), heartbeat, "{option}");
        let is_s = option.ends_with(" s");
        assert_eq!(
            target.tls.ca_file.value,
            is_s.then(|| "ca".into()),
            "{option}"
        );
    }
    for (option, status, start) in [
        (
            "--to-profile pp",
            78,
            "--to-profile: there is no [profiles.pp] in f.toml; it has: p, s, u; did you mean 'p'?",
        ),
        (
            "--to-url http://u:s3cret@h",
            64,
            "--to-url: the scheme is not amqp",
        ),
        (
            "--to-url amqp://h?auth_mechanism=external",
            64,
            "--to-url: external login requires TLS and a client certificate",
        ),
    ] {
        let line = format!("receive --forward-to :q {option}");
        let error = settings(&line, &[], file).unwrap_err();
        assert_eq!(error.status().code(), status, "{option}");
        assert!(error.to_string().starts_with(start), "{error}");
    }
    assert_eq!(settings("receive", &variables, file).unwrap().target, None);
}

#[test]
fn paths_of_the_file_are_relative_to_it() {
    let broker = |text: &str| {
        let cli = cli::parse(["hello-mq", "send"].map(OsString::from)).unwrap();
        let file = config::parse("/etc/x/f.toml".into(), text.to_owned()).unwrap();
        let home = |name: &str| (name == "HOME").then(|| "/home/u".into());
        let cli::Command::Verb(verb) = &cli.command else {
            panic!()
        };
        let settings = resolve(&cli.common, verb, home, Some(&file)).unwrap();
        settings.broker
    };
    let path = |text: &str| broker(text).password.value;
    assert_eq!(
        broker("url = 'amqps://h/?cacertfile=ca.pem'")
            .tls
            .ca_file
            .value,
        Some("/etc/x/ca.pem".into())
    );
    for (text, expected) in [
        ("password_file = 'p'", "/etc/x/p"),
        ("password_file = '/p'", "/p"),
        ("password_file = '~/p'", "/home/u/p"),
        ("password_file = '~p'", "/etc/x/~p"),
    ] {
        assert_eq!(path(text), Password::File(expected.into()));
    }
}

#[test]
fn what_a_panic_might_show_holds_no_password() {
    for (line, variables, text) in [
        ("send -u amqp://u:s3cret@h", [("X", "")], ""),
        ("send", [("HELLO_MQ_PASSWORD", "s3cret")], ""),
        ("send", [("X", "")], "password = 's3cret'"),
        ("send", [("X", "")], "url = 'amqp://u:s3cret@h'"),
        ("send", [("X", "")], "password_command = ['echo', 's3cret']"),
        (
            "receive --forward-to :q --to-url amqp://u:s3cret@h",
            [("X", "")],
            "",
        ),
    ] {
        let settings = settings(line, &variables, text).unwrap();
        assert!(!format!("{settings:?}").contains("s3cret"), "{line} {text}");
    }
}
