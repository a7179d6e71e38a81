//! TLS, with a listener of the broker's own and certificates made for the occasion.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};

use crate::support::{Files, Hello, Node, Outcome, Proxy, hello, shell};

/// A certificate and its key, in PEM.
struct Pair {
    certificate: String,
    key: String,
}

/// Somebody who issues certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// A certificate for these names, after `change` has been made.
    fn issue(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Pair {
        self.issue_for(&KeyPair::generate().unwrap(), names, change)
    }

    fn issue_for(
        &self,
        key: &KeyPair,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Pair {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        change(&mut params);
        Pair {
            certificate: params.signed_by(key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

/// The names under which tests reach the broker.
const NAMES: &[&str] = &["localhost", "127.0.0.1", "::1"];

/// A node that speaks TLS, and who has issued its certificate.
pub struct Broker {
    pub node: Node,
    authority: Authority,
    files: Files,
    address: String,
    directory: PathBuf,
}

impl Broker {
    pub fn start(options: &[&str]) -> Self {
        let authority = Authority::new("the authority of these tests");
        let files = Files::new();
        let good = authority.issue(NAMES, |_| {});
        files.write("tls/ca.pem", &authority.pem);
        files.write("tls/server.pem", &good.certificate);
        files.write("tls/server.key", &good.key);
        files.write("ca.pem", &authority.pem);
        let tls = Path::new(&files.path()).join("tls");
        let node = Node::with(["--tls", tls.to_str().unwrap()].iter().chain(options));
        let (address, directory) = node.tls.clone().unwrap();
        Self {
            node,
            authority,
            files,
            address,
            directory,
        }
    }

    /// From now on it shows this certificate.
    fn show(&mut self, pair: &Pair) {
        fs::write(self.directory.join("server.pem"), &pair.certificate).unwrap();
        fs::write(self.directory.join("server.key"), &pair.key).unwrap();
        self.node.tool("rabbitmqctl -q eval ssl:clear_pem_cache().");
    }

    pub fn port(&self) -> &str {
        self.address.rsplit(':').next().unwrap()
    }

    fn url(&self) -> String {
        format!("amqps://localhost:{}/", self.port())
    }

    /// A file of these tests.
    fn file(&self, name: &str, text: &str) -> String {
        let path = self.files.write(name, text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Where such a file is; `ca.pem` is the authority.
    pub fn path(&self, name: &str) -> String {
        let path = Path::new(&self.files.path()).join(name);
        path.to_str().unwrap().to_owned()
    }

    /// hello-mq, which trusts the authority and speaks TLS with this node.
    fn hello(&self, words: &[&str]) -> Hello {
        hello(words)
            .env("HELLO_MQ_URL", self.url())
            .args(["--tls-ca-file", &self.path("ca.pem")])
    }
}

fn distrust(outcome: &Outcome, part: &str) {
    outcome.failed(
        77,
        &[
            "cannot reach amqps://guest@",
            part,
            "hint: trust other authorities with --tls-ca-file",
        ],
    );
    // It is of no use to wait.
    assert!(!outcome.stderr.contains("waiting for it"), "{outcome:?}");
}

#[test]
fn the_brokers_certificate_must_be_good() {
    let mut broker = Broker::start(&[]);
    let sent = " [x] Sent 'x'\n";
    broker.hello(&["send", "x"]).run().printed(sent);
    broker
        .hello(&["receive", "-c1"])
        .run()
        .printed(" [*] Waiting for messages. To exit press CTRL+C\n [x] Received 'x'\n");
    // Single options instead of a URL, an address instead of a name.
    let ca = broker.path("ca.pem");
    for host in ["localhost", "127.0.0.1"] {
        hello(["send", "--host", host, "--port", broker.port()])
            .args(["--tls-ca-file", &ca, "x"])
            .without_env("HELLO_MQ_URL")
            .run()
            .printed(sent);
    }
    let on_ipv6 = Proxy::on("[::1]:0", &format!("amqp://@{}/", broker.address));
    broker
        .hello(&["send", "x", "-u", &on_ipv6.url.replace("amqp:", "amqps:")])
        .run()
        .printed(sent);
    let (host, port) = on_ipv6.url.rsplit_once(':').unwrap();
    let host = host.trim_start_matches("amqp://[").trim_end_matches(']');
    broker
        .hello(&[
            "send", "x", "-u", "amqps://", "--host", host, "--port", port,
        ])
        .run()
        .printed(sent);
    hello(["send", "x", "-u"])
        .args([format!("{}?cacertfile={ca}&heartbeat=5", broker.url())])
        .run()
        .printed(sent);

    // The system does not know the authority.
    let outcome = hello(["send", "x", "--wait", "1m", "-u", &broker.url()]).run();
    distrust(
        &outcome,
        "its certificate was issued by an untrusted authority (trusted: the system's ",
    );
    let stranger = Authority::new("a stranger");
    let other_ca = broker.file("other.pem", &stranger.pem);
    let outcome = hello(["send", "x", "-u", &broker.url(), "--tls-ca-file", &other_ca]).run();
    distrust(&outcome, "issued by an untrusted authority (trusted: ");
    let outcome = broker
        .hello(&["send", "x", "--tls-server-name", "broker.example"])
        .run();
    distrust(
        &outcome,
        "its certificate is valid for 'localhost', '127.0.0.1', '::1', not for 'broker.example'",
    );

    let other = broker
        .authority
        .issue(&["broker.example", "*.example.org"], |_| {});
    broker.show(&other);
    distrust(
        &broker.hello(&["send", "x"]).run(),
        "its certificate is valid for 'broker.example', '*.example.org', not for 'localhost'",
    );
    for name in ["broker.example", "a.example.org"] {
        broker
            .hello(&["send", "x", "--tls-server-name", name])
            .run()
            .printed(sent);
    }
    let expired = broker.authority.issue(NAMES, |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 2, 3);
    });
    let early = broker.authority.issue(NAMES, |params| {
        params.not_before = date_time_ymd(2096, 1, 1);
        params.not_after = date_time_ymd(2097, 1, 1);
    });
    let of_client = broker.authority.issue(NAMES, |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    // As 'openssl req -x509' makes them.
    let of_authority = broker.authority.issue(NAMES, |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    for (certificate, problem) in [
        (
            &expired,
            "its certificate expired on 2021-02-03T00:00:00Z (",
        ),
        (&expired, " days ago) (127.0.0.1:"),
        (
            &early,
            "its certificate is not valid before 2096-01-01T00:00:00Z (in ",
        ),
        (&of_client, "its certificate is not a server certificate"),
        (&of_authority, "its certificate is an authority's (CA:TRUE)"),
    ] {
        broker.show(certificate);
        distrust(&broker.hello(&["send", "x"]).run(), problem);
    }

    // Whoever wants it so is told each time, however quiet it is to be.
    let mut unknown = stranger.issue(&["somewhere.else"], |params| {
        params.not_after = date_time_ymd(2021, 2, 3);
    });
    broker.show(&unknown);
    for options in [&["-k"][..], &["--insecure", "--quiet"]] {
        let outcome = hello(["send", "x", "-u", &broker.url()])
            .args(options)
            .run();
        assert_eq!(outcome.status(), 0, "{outcome:?}");
        assert_eq!(
            outcome.stderr,
            "hello-mq: warning: the broker's certificate is not checked (from --insecure): anyone in between can read and change everything, including the password\n"
        );
    }
    // But the broker must have the certificate's key.
    unknown.key = stranger.issue(NAMES, |_| {}).key;
    broker.show(&unknown);
    hello(["send", "x", "-k", "-u", &broker.url()])
        .run()
        .failed(77, &["its certificate's signature is invalid"]);
}

#[test]
fn a_port_with_tls_is_told_from_one_without() {
    let broker = Broker::start(&[]);
    let plain = broker.node.url.replace("amqp://", "amqps://");
    hello(["send", "x", "-k", "-u", &plain]).run().failed(
        69,
        &[
            "that port uses AMQP without TLS",
            "hint: use amqp:// to connect without TLS",
        ],
    );
    hello(["send", "x", "-u", &broker.url().replace("amqps", "amqp")])
        .run()
        .failed(69, &["that port uses TLS", "hint: use amqps:// in the URL"]);
    for options in [
        &["--tls"][..],
        &["-k"],
        &["--tls-ca-file", "x"],
        &["--tls-server-name", "x"],
    ] {
        hello(["send", "x", "-u", "amqp://localhost:1"])
            .args(options)
            .run()
            .failed(64, &["--url has no TLS; write amqps://"]);
    }
}

/// Options of a node that wants clients to have certificates, and takes their names from there.
const OF_CLIENTS: &[&str] = &[
    "--plugin",
    "rabbitmq_auth_mechanism_ssl",
    "--conf",
    "auth_mechanisms.1 = PLAIN",
    "--conf",
    "auth_mechanisms.2 = EXTERNAL",
    "--conf",
    "ssl_cert_login_from = common_name",
    "--conf",
    "ssl_options.verify = verify_peer",
    "--conf",
    "ssl_options.fail_if_no_peer_cert = true",
];

#[test]
fn a_client_may_show_a_certificate_too() {
    let mut broker = Broker::start(OF_CLIENTS);
    broker.node.tool("rabbitmqctl -q add_user robot s3cret");
    broker
        .node
        .tool("rabbitmqctl -q set_permissions robot .* .* .*");
    let as_robot = |params: &mut CertificateParams| {
        params.distinguished_name.push(DnType::CommonName, "robot");
    };
    let pair = broker.authority.issue(&["robot"], as_robot);
    let certificate = broker.file("robot.pem", &pair.certificate);
    let both = broker.file("both.pem", &(pair.certificate.clone() + &pair.key));
    let pkcs8 = broker.file("robot.key", &pair.key);
    let sec1 = broker.file("sec1.key", &inner(&pair.key, "EC PRIVATE KEY"));
    let rsa_text = include_str!("../data/rsa-key-of-no-one.pem");
    let rsa_pair =
        broker
            .authority
            .issue_for(&KeyPair::from_pem(rsa_text).unwrap(), &["robot"], as_robot);
    let rsa_certificate = broker.file("rsa.pem", &rsa_pair.certificate);
    let rsa = broker.file("rsa.key", rsa_text);
    let pkcs1 = broker.file("pkcs1.key", &inner(rsa_text, "RSA PRIVATE KEY"));

    // The user is who the certificate says, and stamps it on the message.
    for (certificate, key) in [
        (&certificate, &pkcs8),
        (&certificate, &sec1),
        (&rsa_certificate, &rsa),
        (&rsa_certificate, &pkcs1),
    ] {
        broker
            .hello(&["send", "x", "--user-id", "robot"])
            .args(["--tls-cert-file", certificate, "--tls-key-file", key])
            .run()
            .printed(" [x] Sent 'x'\n");
    }
    broker
        .hello(&["send", "x", "--user-id", "robot", "--tls-cert-file", &both])
        .run()
        .printed(" [x] Sent 'x'\n");
    // With user and password, beside the certificate.
    let file = broker.files.write(
        "config.toml",
        "username = 'robot'\npassword_command = ['printf', 's3cret']\n[tls]\n\
         ca_file = 'ca.pem'\ncert_file = 'robot.pem'\nkey_file = 'robot.key'\nserver_name = 'localhost'",
    );
    hello(["send", "x", "--user-id", "robot", "--port", broker.port()])
        .args(["--host", "127.0.0.1"])
        .without_env("HELLO_MQ_URL")
        .env("HELLO_MQ_CONFIG", &file)
        .run()
        .printed(" [x] Sent 'x'\n");
    broker
        .hello(&[
            "send",
            "x",
            "--auth",
            "plain",
            "--user-id",
            "guest",
            "--tls-cert-file",
            &both,
        ])
        .run()
        .printed(" [x] Sent 'x'\n");
}

#[test]
fn a_client_whose_certificate_is_not_good_is_refused() {
    let broker = Broker::start(OF_CLIENTS);
    broker.hello(&["send", "x"]).run().failed(
        77,
        &[
            "it requires a client certificate",
            "hint: set the client certificate and its key with --tls-cert-file",
        ],
    );
    let nobody = broker.authority.issue(&["x"], |params| {
        params.distinguished_name.push(DnType::CommonName, "nobody");
    });
    let nobody = broker.file("nobody.pem", &(nobody.certificate + &nobody.key));
    broker
        .hello(&["send", "x", "--tls-cert-file", &nobody])
        .run()
        .failed(
            77,
            &["ACCESS_REFUSED", "EXTERNAL", "check that this user exists"],
        );
    let stranger = Authority::new("a stranger").issue(&["x"], |_| {});
    let stranger = broker.file("stranger.pem", &(stranger.certificate + &stranger.key));
    broker
        .hello(&["send", "x", "--tls-cert-file", &stranger])
        .run()
        .failed(77, &["it rejected the client certificate: unknown issuer"]);
}

#[test]
fn what_is_wrong_with_a_file_is_seen_before_anything_is_sent() {
    let files = Files::new();
    let file = |name: &str, text: &str| {
        let path = files.write(name, text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let pair = Authority::new("an authority").issue(&["robot"], |_| {});
    let certificate = file("robot.pem", &pair.certificate);
    let both = file("both.pem", &(pair.certificate + &pair.key));
    let key = file("robot.key", &pair.key);
    let other = file("other.key", include_str!("../data/rsa-key-of-no-one.pem"));
    let encrypted = file(
        "encrypted.key",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let garbled = file("garbled.key", "-----BEGIN PRIVATE KEY-----\nAA?A\n");
    let send = || hello(["send", "x", "-u", "amqps://localhost:1"]);
    let with_key = |key| ["--tls-cert-file", &certificate, "--tls-key-file", key];
    let rows: &[(&[&str], &[&str])] = &[
        (
            &["--tls-ca-file", &key],
            &["--tls-ca-file: ", "robot.key contains no certificate (PEM)"],
        ),
        (
            &["--tls-cert-file", &certificate],
            &[
                "--tls-cert-file: ",
                "robot.pem contains no key; name the key's file with",
            ],
        ),
        (
            &["--tls-cert-file", &key],
            &["--tls-cert-file: ", "robot.key contains no certificate"],
        ),
        (
            &["--tls-cert-file", "/nope"],
            &["--tls-cert-file: cannot read /nope: no such file"],
        ),
        (
            &with_key(&certificate),
            &["--tls-key-file: ", "robot.pem contains no key (PEM)"],
        ),
        (&with_key(&other), &["does not match the key"]),
        (
            &with_key(&encrypted),
            &["--tls-key-file: the key in ", "is encrypted"],
        ),
        (
            &with_key(&garbled),
            &["--tls-key-file: ", "is not valid PEM"],
        ),
    ];
    for (options, parts) in rows {
        let outcome = send().args(*options).run();
        outcome.failed(78, parts);
        assert!(!outcome.stderr.contains("confirmed"), "{outcome:?}");
    }
    // In a configuration file it is told with its line, and relative to the file.
    let config = file("config.toml", "[tls]\nca_file = 'none.pem'");
    let outcome = send().env("HELLO_MQ_CONFIG", config).run();
    outcome.failed(
        78,
        &[
            "config.toml:2: tls.ca_file: cannot read ",
            "none.pem: no such file",
        ],
    );
    let path = Path::new(&files.path()).join("none.pem");
    assert!(
        outcome.stderr.contains(path.to_str().unwrap()),
        "{outcome:?}"
    );
    send().args(["--tls-key-file", &key]).run().failed(
        64,
        &["--tls-key-file: a client key requires its certificate"],
    );
    send().args(["--auth", "external"]).run().failed(
        64,
        &["--auth: external login requires TLS and a client certificate"],
    );

    // A key is nobody else's business.
    fs::set_permissions(&both, fs::Permissions::from_mode(0o644)).unwrap();
    let outcome = send().args(["--tls-cert-file", &both]).run();
    outcome.failed(
        69,
        &["both.pem contains a key and is readable by other users; protect it with 'chmod 600'"],
    );
}

/// The key of an algorithm's own form inside one of PKCS #8 (RFC 5208, section 5): version,
/// algorithm, and then the key as an octet string.
fn inner(pkcs8: &str, label: &str) -> String {
    /// The contents of the element at the start, and what comes after it.
    fn element(der: &[u8]) -> (&[u8], &[u8]) {
        let (length, header) = match der[1] {
            long @ 0x81..=0x82 => {
                let bytes = usize::from(long - 0x80);
                let length = der[2..2 + bytes]
                    .iter()
                    .fold(0, |length, byte| length << 8 | usize::from(*byte));
                (length, 2 + bytes)
            }
            short => (usize::from(short), 2),
        };
        der[header..].split_at(length)
    }
    let text: String = pkcs8
        .lines()
        .filter(|line| !line.starts_with('-'))
        .collect();
    let der = STANDARD.decode(text).unwrap();
    let (sequence, _) = element(&der);
    let (_, after_version) = element(sequence);
    let (_, after_algorithm) = element(after_version);
    let (key, _) = element(after_algorithm);
    let body = STANDARD.encode(key);
    let lines: Vec<_> = body
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}

#[test]
fn everything_passes_through_tls_and_survives_what_happens() {
    let mut broker = Broker::start(&["--conf", "ssl_options.versions.1 = tlsv1.2"]);
    // A large body, many small ones, each way.
    // RabbitMQ 4 takes no message of more than 16 MiB.
    let large: String = ('a'..='w').cycle().take(16_000_000).collect();
    broker
        .hello(&["send", "-q", "large", "-"])
        .stdin(large.clone())
        .run()
        .printed(" [x] Sent a message of 16000000 bytes\n");
    let got = broker
        .hello(&["receive", "large", "-c1", "-o", "body", "-D", ""])
        .run();
    assert!(got.stdout == large, "another body: {}", got.stderr);
    let numbers: Vec<_> = (0..20_000).map(|n| n.to_string()).collect();
    let numbers = numbers.join("\n") + "\n";
    broker
        .hello(&["send", "-q", "numbers", "-l"])
        .stdin(numbers.clone())
        .run()
        .printed(" [x] Sent 20000 messages\n");
    broker
        .hello(&["receive", "numbers", "--drain", "-o", "body"])
        .run()
        .printed(&numbers);

    // Ctrl+C, a frozen network and a broker that dies are as they are without TLS.
    let mut receiver = broker.hello(&["receive", "ends"]).spawn();
    receiver.expect("CTRL+C\n");
    let (outcome, time) = receiver.stop(nix::sys::signal::Signal::SIGINT);
    assert_eq!((outcome.status(), outcome.stderr.as_str()), (0, ""));
    assert!(time < Duration::from_secs(2), "{time:?}");

    let proxy = Proxy::start(&format!("amqp://@{}/", broker.address));
    let url = proxy.url.replace("amqp:", "amqps:");
    let mut receiver = broker
        .hello(&[
            "receive",
            "ends",
            "--no-reconnect",
            "--heartbeat",
            "1s",
            "-u",
            &url,
        ])
        .spawn();
    receiver.expect("CTRL+C\n");
    proxy.freeze();
    receiver
        .end()
        .failed(69, &["no data from the broker for 2s (two heartbeats)"]);
    // It takes no more time than it is given, and says in which step it was.
    let start = Instant::now();
    broker
        .hello(&["send", "x", "--connect-timeout", "1s", "-u", &url])
        .run()
        .failed(69, &["no answer within 1s while negotiating TLS"]);
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "{:?}",
        start.elapsed()
    );

    // It has more to send until the connection is lost, however long that takes.
    broker.hello(&["declare", "kept"]).run();
    let lost = broker.path("lost");
    let url = broker.url();
    let ca = broker.path("ca.pem");
    let mut sender = shell(&format!(
        "(seq 500; until [ -e {lost} ]; do sleep 0.05; done; seq 500) | \
         exec \"$H\" send -q kept -l --rate 100 -u {url} --tls-ca-file {ca}"
    ))
    .spawn();
    broker.node.observer().reaches("kept", 1);
    broker
        .node
        .tool("rabbitmqctl -q close_all_connections because");
    broker.file("lost", "");
    assert!(sender.has_said("reconnected to amqps://", 1));
    let outcome = sender.end();
    assert_eq!(
        (outcome.status(), outcome.stdout.as_str()),
        (0, " [x] Sent 1000 messages\n"),
        "{outcome:?}"
    );
    let messages = broker.node.observer().messages("kept");
    assert!((1000..1100).contains(&messages), "{messages}");
}
