//! `receive --forward-to` with `--to-profile` or `--to-url`: from one broker to another.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Files, Observer, Proxy, broker_tool, hello, queue, url};

/// A virtual host with a user of its own, which is to hello-mq like another broker.
struct Other {
    /// The name of the virtual host and of the user.
    name: String,
    /// Its URL, without user and password.
    url: String,
}

impl Other {
    const PASSWORD: &str = "0ther";

    fn create() -> Self {
        let name = queue("other");
        for line in [
            format!("add_vhost {name}"),
            format!("add_user {name} {}", Self::PASSWORD),
            format!("set_permissions -p {name} {name} .* .* .*"),
        ] {
            broker_tool(&format!("rabbitmqctl -q {line}"));
        }
        let host = url().rsplit('@').next().unwrap().to_owned();
        let url = format!("amqp://{}/{name}", host.trim_end_matches('/'));
        Self { name, url }
    }

    /// The URL with user and password, perhaps through a proxy.
    fn url(&self, proxy: Option<&Proxy>) -> String {
        let url = proxy.map_or(self.url.clone(), |proxy| {
            format!("{}/{}", proxy.url, self.name)
        });
        let login = format!("amqp://{}:{}@", self.name, Self::PASSWORD);
        url.replace("amqp://", &login)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        broker_tool(&format!("rabbitmqctl -q delete_vhost {}", self.name));
        broker_tool(&format!("rabbitmqctl -q delete_user {}", self.name));
    }
}

fn numbers(end: u32) -> Vec<String> {
    (0..end).map(|number| number.to_string()).collect()
}

#[test]
fn messages_go_to_the_broker_of_a_profile_or_a_url() {
    let (other, files, queue) = (Other::create(), Files::new(), queue("orders"));
    let config = files.write(
        "config.toml",
        &format!(
            "username = 'nobody'\n[profiles.new]\nurl = '{}'\nusername = '{}'\n\
             password_command = ['echo', '{}']\n",
            other.url,
            other.name,
            Other::PASSWORD
        ),
    );
    let there = other.url(None);
    hello(["declare", "--url", &there, &queue]).run();
    hello(["send", "--quiet", "-q", &queue, "-l", "-H", "k: v"])
        .stdin(numbers(1000).join("\n"))
        .run()
        .printed("");
    let target = format!(":{queue}");
    let forward = |options: [&str; 2]| {
        hello(["receive", &queue, "-c", "500", "--forward-to", &target])
            .args(options)
            .env("HELLO_MQ_CONFIG", &config)
            .args(["--url", &url()])
            // It is not for that broker.
            .env("HELLO_MQ_PASSWORD", "wrong")
            .run()
    };
    forward(["--to-profile", "new"]).printed(" [x] Forwarded 500 messages\n");
    forward(["--to-url", &there]).printed(" [x] Forwarded 500 messages\n");
    assert_eq!(Observer::new().messages(&queue), 0);
    hello(["receive", "--url", &there, "-c", "1", "--format", "%s %h"])
        .args([&queue])
        .run()
        .printed("0 {\"k\":\"v\"}");
    assert_eq!(Observer::at(&there).drain(&queue), numbers(1000)[1..]);
}

#[test]
fn what_fails_at_the_other_broker_names_it_and_loses_nothing() {
    let (other, queue) = (Other::create(), queue("stays"));
    hello(["send", "-q", &queue, "-c", "10", "x"]).run();
    let forward = |url: &str| {
        hello(["receive", &queue, "--drain", "--forward-to", ":gone"])
            .args(["--to-url", url])
            .run()
    };
    let there = other.url(None);
    let shown = there.replace(&format!(":{}@", Other::PASSWORD), "@");
    forward(&there).failed(67, &[&shown, "returned message 1, forwarded to ':gone'"]);
    forward(&there.replace(Other::PASSWORD, "wrong")).failed(
        77,
        &[
            &shown,
            "refused the connection: ACCESS_REFUSED",
            "in the URL",
        ],
    );
    forward("amqp://127.0.0.1:1/v").failed(
        69,
        &[
            "cannot reach amqp://guest@127.0.0.1:1/v: ",
            "the address is right (host from --to-url, port from --to-url)",
        ],
    );
    assert_eq!(Observer::new().messages(&queue), 10);

    let receive = |options: &[&str]| hello(["receive", &queue]).args(options).run();
    for options in [
        &["--to-url", &there][..],
        &["--to-profile", "p"],
        &[
            "--to-url",
            &there,
            "--to-profile",
            "p",
            "--forward-to",
            ":q",
        ],
        &["--to-url", &there, "--", "true"],
    ] {
        receive(options).failed(64, &["--to-"]);
    }
    let target = format!(":{queue}");
    receive(&["--forward-to", &target, "--to-url", &url()]).failed(64, &["that would never end"]);
}

#[test]
fn both_connections_come_back_and_no_message_is_lost() {
    let (other, queue) = (Other::create(), queue("cut"));
    let (from, to) = (Proxy::start(&url()), Proxy::start(&url()));
    hello(["declare", "--url", &other.url(None), &queue]).run();
    let all = numbers(20_000);
    hello(["send", "--quiet", "-q", &queue, "-l"])
        .stdin(all.join("\n"))
        .run()
        .printed("");
    let target = format!(":{queue}");
    let mut forwarder = hello([
        "receive",
        &queue,
        "--prefetch",
        "50",
        "--idle-timeout",
        "2s",
    ])
    .args(["--forward-to", &target, "--to-url", &other.url(Some(&to))])
    .env("HELLO_MQ_URL", &from.url)
    .spawn();
    forwarder.collect();
    for round in 0..4 {
        let start = Instant::now();
        let side = if round % 2 == 0 { &from } else { &to };
        side.cut_after(2_000);
        while !forwarder.has_said("reconnected to ", round + 1) {
            assert!(start.elapsed() < Duration::from_secs(20), "round {round}");
            thread::sleep(Duration::from_millis(20));
        }
    }
    let outcome = forwarder.end();
    assert_eq!(outcome.status(), 0, "{outcome:?}");
    for proxy in [&from, &to] {
        let address = proxy.url.trim_start_matches("amqp://");
        let lost = |line: &&str| line.contains("lost the connection") && line.contains(address);
        assert_eq!(
            outcome.stderr.lines().filter(lost).count(),
            2,
            "{outcome:?}"
        );
    }
    assert_eq!(Observer::new().messages(&queue), 0);
    let mut arrived = Observer::at(&other.url(None)).drain(&queue);
    arrived.sort_by_key(|number| number.parse::<u32>().unwrap());
    arrived.dedup();
    assert_eq!(arrived, all);
}
