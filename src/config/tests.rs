use super::*;

fn problem(text: &str) -> String {
    parse("f.toml".into(), text.to_owned())
        .unwrap_err()
        .to_string()
}

#[test]
fn the_places_are_tried_in_the_stated_order() {
    let of = |flag: Option<&str>, variables: &[(&str, &str)]| {
        place(flag.map(Path::new), |name| {
            variables
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, value)| value.into())
        })
    };
    let standard =
        |paths: &[&str]| ConfigLocation::Standard(paths.iter().map(PathBuf::from).collect());
    let (xdg, etc) = ("/x/hello-mq/config.toml", "/etc/hello-mq/config.toml");
    let home = "/h/.config/hello-mq/config.toml";

    let all = [
        ("HELLO_MQ_CONFIG", "e"),
        ("XDG_CONFIG_HOME", "/x"),
        ("HOME", "/h"),
    ];
    assert_eq!(of(Some("f"), &all), ConfigLocation::Named("f".into()));
    assert_eq!(of(None, &all), ConfigLocation::Named("e".into()));
    assert_eq!(of(None, &all[1..]), standard(&[xdg, etc]));
    assert_eq!(of(None, &all[2..]), standard(&[home, etc]));
    assert_eq!(of(None, &[]), standard(&[etc]));
    assert_eq!(
        of(None, &[("HELLO_MQ_CONFIG", ""), ("HOME", "/h")]),
        standard(&[home, etc])
    );
    assert_eq!(
        of(None, &[("XDG_CONFIG_HOME", "x"), ("HOME", "/h")]),
        standard(&[home, etc])
    );
}

#[test]
fn an_unknown_key_is_named_with_file_and_line() {
    let problem = problem("# one\nhost = 'a'\nhots = 'b'\n");
    assert!(
        problem.starts_with("f.toml:3: unknown key `hots`, expected one of `url`, `host`"),
        "{problem}"
    );
    let problem = self::problem("[receive]\n\nprefecht = 1\n");
    assert!(
        problem.starts_with("f.toml:3: unknown key `prefecht`"),
        "{problem}"
    );
    assert!(problem.ends_with("; did you mean `prefetch`?"), "{problem}");
    assert!(!self::problem("zzz = 1\n").contains("did you mean"));
}

#[test]
fn a_wrong_value_is_named_with_file_line_and_key() {
    for (text, start) in [
        (
            "\nport = 'x'",
            "f.toml:2: port: invalid type: string \"x\", expected ",
        ),
        (
            "port = 0",
            "f.toml:1: port: invalid value: integer `0`, expected an integer from 1 to 65535",
        ),
        (
            "[[queues]]\nname = 'q'\nmax_priority = 256",
            "f.toml:3: max_priority: invalid value: integer `256`, expected an integer from 0 to 255",
        ),
        (
            "[[queues]]\nname = 'q'\nmax_length = -1",
            "f.toml:3: max_length: invalid value: integer `-1`, expected an integer from 0 to 4294967295",
        ),
        (
            "[queues]\nname = 'q'",
            "f.toml:1: must be a list (topology tables have double brackets: [[queues]])",
        ),
        (
            "queue = ''",
            "f.toml:1: queue: a queue's name can't be empty",
        ),
        (
            "connect_timeout = '5'",
            "f.toml:1: connect_timeout: not a duration",
        ),
        (
            "heartbeat = 10",
            "f.toml:1: heartbeat: must be a string in quotes",
        ),
        (
            "url = 'http://h/'",
            "f.toml:1: url: the scheme is not amqp or amqps",
        ),
        (
            "password = 'a'\npassword_file = 'b'",
            "f.toml:2: password_file: password is set, too",
        ),
        (
            "[profiles.a]\npassword_file = 'a'\npassword_command = ['b']",
            "f.toml:3: password_command: password_file is set, too",
        ),
        (
            "password_command = 'b'",
            "f.toml:1: password_command: must be a list of strings",
        ),
        (
            "password_command = []",
            "f.toml:1: password_command: is empty",
        ),
        (
            "url = 'amqp://h'\ntls = {}",
            "f.toml:2: tls: the url has no TLS",
        ),
        (
            "[tls]\nca = 'x'",
            "f.toml:2: unknown key `ca`, expected one of `ca_file`",
        ),
        (
            "auth = 'x'",
            "f.toml:1: auth: must be one of plain, external",
        ),
        (
            "[profiles.a]\nhots = 'x'",
            "f.toml:2: unknown key `hots`, expected one of `url`",
        ),
        (
            "[[profiles.a.queues]]\nname = 'x'",
            "f.toml:1: profiles, queues, exchanges and bindings belong at the top level",
        ),
        (
            "[profiles.a.profiles.b]\nport = 1",
            "f.toml:1: profiles, queues, exchanges and bindings belong at the top level",
        ),
        (
            "host = 'a'\nhosts = ['b']",
            "f.toml:2: hosts: host is set, too",
        ),
        ("hosts = []", "f.toml:1: hosts: must not be empty"),
        (
            "hosts = ['a', 'b:0']",
            "f.toml:1: hosts: a port must be a number",
        ),
        ("host = 'a'\nhost = 'b'", "f.toml:2: host: duplicate key"),
        (
            "[receive]\nauto_ack = 1",
            "f.toml:2: auto_ack: invalid type: integer `1`, expected a boolean",
        ),
    ] {
        let problem = problem(text);
        assert!(problem.starts_with(start), "{problem}");
    }
}

#[test]
fn no_error_repeats_a_password() {
    for text in [
        "password = s3cret",
        "password = \"\"\"\ns3cret=abc",
        "password = 's3cret",
        "password = ['s3cret']",
        "password = {s3cret = 1}",
        "password = 's3cret' x",
        "password = 5301",
        "password = 53.01",
        "password = true\npassword = 's3cret'",
        "url = 'amqp://u:s3cret@host/a/b'",
        "url = 'amqp://u:s3cret@host/?x=y'",
        "url = ['amqp://u:s3cret@host/']",
        "password_command = 's3cret'",
        "password_command = ['s3cret', 1]",
        "password_command = ['a', ['s3cret']]",
        "password_command = {s3cret = 1}",
        "password_command = 5301",
        "[profiles.p]\npassword = ['s3cret']",
    ] {
        let problem = problem(text);
        assert!(
            !problem.contains("s3cret") && !problem.contains("5301") && !problem.contains("53.01"),
            "{problem}"
        );
    }
}
