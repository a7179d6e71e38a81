use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;

use crate::support::{Files, Observer, hello, queue, url};

#[test]
fn the_file_is_found_where_the_contract_says() {
    let files = Files::new();
    let (xdg, home, named) = (queue("xdg"), queue("home"), queue("named"));
    files.write("xdg/hello-mq/config.toml", &format!("queue = '{xdg}'"));
    files.write(".config/hello-mq/config.toml", &format!("queue = '{home}'"));
    let file = files.write("named.toml", &format!("queue = '{named}'"));
    let declare = || hello(["declare"]).env("HOME", files.path());
    let declared = |queue: &str| format!(" [x] Declared '{queue}' (0 messages, 0 consumers)\n");
    declare().run().printed(&declared(&home));
    let mut in_xdg = files.path();
    in_xdg.push("/xdg");
    declare()
        .env("XDG_CONFIG_HOME", &in_xdg)
        .run()
        .printed(&declared(&xdg));
    declare()
        .env("XDG_CONFIG_HOME", &in_xdg)
        .env("HELLO_MQ_CONFIG", &file)
        .run()
        .printed(&declared(&named));
    hello(["declare", "--config", file.to_str().unwrap()])
        .env("HELLO_MQ_CONFIG", "/nonexistent")
        .run()
        .printed(&declared(&named));
    declare()
        .env("HELLO_MQ_QUEUE", &xdg)
        .run()
        .printed(&declared(&xdg));
}

#[test]
fn the_broker_may_come_from_the_file() {
    let files = Files::new();
    let url = url();
    let port = url.rsplit(':').next().unwrap().trim_end_matches('/');
    let queue = queue("from-file");
    for broker in [
        format!("url = '{url}'"),
        format!(
            "host = '127.0.0.1'\nport = {port}\nusername = 'guest'\npassword = 'guest'\nvhost = '/'"
        ),
    ] {
        let file = files.write(
            "config.toml",
            &format!("{broker}\nconnect_timeout = '5s'\nheartbeat = '5s'\n"),
        );
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let outcome = hello([
            "send",
            "--config",
            file.to_str().unwrap(),
            "-q",
            &queue,
            "a",
        ])
        .without_env("HELLO_MQ_URL")
        .run();
        outcome.printed(" [x] Sent 'a'\n");
    }
    assert_eq!(Observer::new().messages(&queue), 2);
}

#[test]
fn the_tables_set_defaults() {
    let files = Files::new();
    let file = files.write(
        "config.toml",
        "[send]\nno_declare = true\n[receive]\nprefetch = 1\n",
    );
    let config = file.to_str().unwrap();
    hello(["send", "--config", config, "-q", "not-there", "a"])
        .run()
        .failed(67, &["NO_ROUTE"]);
}

#[test]
fn a_bad_file_is_named_with_line_and_key() {
    let files = Files::new();
    for (text, parts) in [
        (
            "host = 'x'\nhots = 'y'",
            ["config.toml:2: ", "unknown key `hots`"],
        ),
        (
            "[receive]\nprefetch = 'many'",
            ["config.toml:2: ", "prefetch: invalid type"],
        ),
        ("queue = hello", ["config.toml:1: ", "queue: "]),
        (
            "password = 12345",
            ["config.toml:1: ", "password: must be a string in quotes"],
        ),
    ] {
        let file = files.write("config.toml", text);
        let outcome = hello(["declare", "--config", file.to_str().unwrap()]).run();
        outcome.failed(78, &parts);
        assert!(!outcome.stderr.contains("12345"));
    }
    hello(["declare", "--config", "/nonexistent/x.toml"])
        .run()
        .failed(
            78,
            &["cannot read /nonexistent/x.toml: no such file or directory"],
        );
    hello(["declare"])
        .env("HELLO_MQ_CONFIG", "/nonexistent/x.toml")
        .run()
        .failed(78, &["/nonexistent/x.toml"]);
}

#[test]
fn a_bad_variable_is_named() {
    hello(["declare"])
        .env("HELLO_MQ_URL", "amqp://u:s3cret@h/a/b")
        .run()
        .failed(78, &["HELLO_MQ_URL: a '/' inside"]);
    hello(["declare"])
        .env("HELLO_MQ_QUEUE", "x".repeat(256))
        .run()
        .failed(78, &["HELLO_MQ_QUEUE: ", "255 bytes"]);
    let invalid = std::ffi::OsString::from_vec(vec![0xff]);
    hello(["declare"])
        .env("HELLO_MQ_PASSWORD", invalid)
        .run()
        .failed(78, &["HELLO_MQ_PASSWORD: is not UTF-8"]);
}

#[test]
fn the_password_may_come_from_the_environment() {
    let url = url().replace(":guest@", "@");
    hello(["declare"])
        .env("HELLO_MQ_URL", &url)
        .env("HELLO_MQ_PASSWORD", "guest")
        .run()
        .printed(" [x] Declared 'hello' (0 messages, 0 consumers)\n");
    hello(["declare"])
        .env("HELLO_MQ_URL", &url)
        .env("HELLO_MQ_PASSWORD", "wrong")
        .run()
        .failed(77, &["ACCESS_REFUSED"]);
}

#[test]
fn every_key_of_the_example_works() {
    let example =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config.example.toml"))
            .unwrap();
    // Comments that explain start with "# ", settings that are commented out with "#".
    let active: Vec<&str> = example
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') => setting,
            _ => line,
        })
        .collect();
    let active = active.join("\n");
    toml::from_str::<hello_mq::definitions::Config>(&active).unwrap();
    for line in example.lines().filter(|line| line.starts_with("#[")) {
        let is_example = line.starts_with("#[[") || line.starts_with("#[profiles.");
        // That the table is there says something.
        assert!(is_example || line == "#[tls]", "{line} is commented out");
    }
    // The error for an unknown key tells which there are.
    for table in ["", "tls", "send", "receive"] {
        let text = match table {
            "" => "no_such_key = 1".to_owned(),
            table => format!("[{table}]\nno_such_key = 1"),
        };
        let error = toml::from_str::<hello_mq::definitions::Config>(&text).unwrap_err();
        let keys: Vec<_> = error.message().split('`').skip(3).step_by(2).collect();
        assert!(keys.len() > 3, "{error}");
        let section = match table {
            "" => active.split("\n[").next(),
            table => active
                .split("\n[")
                .find(|part| part.starts_with(&format!("{table}]"))),
        };
        for key in keys {
            let is_table = ["\n[", "\n[["].iter().any(|start| {
                let start = format!("{start}{key}");
                active.contains(&format!("{start}]")) || active.contains(&format!("{start}."))
            });
            assert!(
                section.unwrap().contains(&format!("\n{key} = ")) || is_table,
                "the example's [{table}] lacks {key}"
            );
        }
    }
    // Of the topology, where an example can't have every key in each table, the error for an unknown
    // key tells which there are.
    for table in ["exchanges", "queues", "bindings"] {
        let text = format!("[[{table}]]\nno_such_key = 1");
        let error = toml::from_str::<hello_mq::definitions::Config>(&text).unwrap_err();
        let keys: Vec<_> = error.message().split('`').skip(3).step_by(2).collect();
        assert!(keys.len() > 5, "{error}");
        let start = format!("[[{table}]]");
        let sections: Vec<_> = active
            .split("[[")
            .filter(|part| part.starts_with(&start[2..]))
            .collect();
        for key in keys {
            assert!(
                sections
                    .iter()
                    .any(|part| part.contains(&format!("\n{key} = "))),
                "the example's {start} lacks {key}"
            );
        }
    }
    // And it keeps the rules.
    let files = Files::new();
    let only_one = |line: &&str| {
        !["host = ", "password_file = ", "password_command = "]
            .iter()
            .any(|key| line.starts_with(key))
    };
    let (top, rest) = active.split_once("\n[").unwrap();
    let top: Vec<_> = top.lines().filter(only_one).collect();
    let path = files.write("example.toml", &format!("{}\n[{rest}", top.join("\n")));
    hello(["declare", "--all", "--explain"])
        .env("HELLO_MQ_CONFIG", path)
        .run()
        .printed_what_contains("queue.declare 'orders'");
}
