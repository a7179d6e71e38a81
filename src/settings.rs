//! One merge of everything that can be set: flag, then environment, then file, then default.

use std::ffi::OsString;
use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use toml::Spanned;

use crate::cli::{Command, Common};
use crate::config::File;
use crate::error::Error;
use crate::topology::{Queue, Topology};
use crate::values::{
    AMQP_PORT, BrokerUrl, ConnectTimeout, Heartbeat, Host, QueueName, Secret, Span, VirtualHost,
};

/// Where a value was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// By this option.
    Flag(&'static str),
    /// By this environment variable.
    Environment(&'static str),
    /// In the configuration file, as `FILE:LINE`.
    File(String),
    /// Nowhere.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) | Self::Environment(name) => write!(f, "from {name}"),
            Self::File(place) => write!(f, "from {place}"),
            Self::Default => f.write_str("the default"),
        }
    }
}

/// A value and where it was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting<T> {
    /// The value.
    pub value: T,
    /// Where it was set.
    pub origin: Origin,
}

impl<T> Setting<T> {
    fn new(value: T, origin: Origin) -> Self {
        Self { value, origin }
    }

    fn map<U>(self, to: impl FnOnce(T) -> U) -> Setting<U> {
        Setting::new(to(self.value), self.origin)
    }
}

/// The broker and how to log in to it. `Display` is its URL without the password.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Broker {
    pub hosts: Setting<Vec<Host>>,
    pub port: Setting<u16>,
    pub vhost: Setting<VirtualHost>,
    pub username: Setting<String>,
    pub password: Setting<Secret>,
    pub connect_timeout: Setting<ConnectTimeout>,
    pub wait: Setting<Span>,
    pub heartbeat: Setting<Heartbeat>,
}

/// What has to be percent-encoded in a URL's user and virtual host.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

impl Broker {
    /// The URL, without the password, of the broker at one of the hosts.
    #[must_use]
    pub fn at(&self, host: &Host) -> String {
        self.with_hosts(std::slice::from_ref(host))
    }

    /// The port of one of the hosts.
    #[must_use]
    pub fn port_of(&self, host: &Host) -> u16 {
        host.port().unwrap_or(self.port.value)
    }

    fn with_hosts(&self, hosts: &[Host]) -> String {
        let username = utf8_percent_encode(&self.username.value, RESERVED);
        let hosts: Vec<_> = hosts
            .iter()
            .map(|host| {
                let name = crate::text::escape(host.name());
                let port = self.port_of(host);
                if name.contains(':') {
                    format!("[{name}]:{port}")
                } else {
                    format!("{name}:{port}")
                }
            })
            .collect();
        let vhost = match self.vhost.value.as_str() {
            "/" => String::new(),
            vhost => utf8_percent_encode(vhost, RESERVED).to_string(),
        };
        format!("amqp://{username}@{}/{vhost}", hosts.join(","))
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_hosts(&self.hosts.value))
    }
}

/// Every setting, resolved.
#[derive(Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Settings {
    pub broker: Broker,
    pub queue: Setting<QueueName>,
    /// How the queue is declared where it has to be.
    pub definition: Queue,
    /// What the configuration file defines.
    pub topology: Topology,
    pub no_declare: Setting<bool>,
    pub auto_ack: Setting<bool>,
    pub prefetch: Setting<u16>,
    pub persistent: Setting<bool>,
    pub confirm_timeout: Setting<Span>,
    pub retry_for: Setting<Span>,
    pub no_reconnect: Setting<bool>,
    pub timeout: Setting<Option<Span>>,
    pub idle_timeout: Setting<Option<Span>>,
}

/// What one source sets: each value, or nothing.
#[derive(Debug, Default)]
struct Layer {
    url: Option<Setting<BrokerUrl>>,
    hosts: Option<Setting<Vec<Host>>>,
    port: Option<Setting<u16>>,
    vhost: Option<Setting<VirtualHost>>,
    username: Option<Setting<String>>,
    password: Option<Setting<Secret>>,
    connect_timeout: Option<Setting<ConnectTimeout>>,
    wait: Option<Setting<Span>>,
    heartbeat: Option<Setting<Heartbeat>>,
    queue: Option<Setting<QueueName>>,
    no_declare: Option<Setting<bool>>,
    auto_ack: Option<Setting<bool>>,
    prefetch: Option<Setting<u16>>,
    persistent: Option<Setting<bool>>,
    confirm_timeout: Option<Setting<Span>>,
    retry_for: Option<Setting<Span>>,
    no_reconnect: Option<Setting<bool>>,
    timeout: Option<Setting<Span>>,
    idle_timeout: Option<Setting<Span>>,
}

/// Resolves every setting of `command`. `variable` gives an environment variable's value.
///
/// # Errors
/// [`Error::Usage`] or [`Error::Config`], naming the option, the variable, or the file and line.
pub fn resolve(
    common: &Common,
    command: &Command,
    variable: impl Fn(&str) -> Option<OsString>,
    file: Option<&File>,
) -> Result<Settings, Error> {
    let layers = [
        flags(common, command)?,
        environment(variable)?,
        file.map(|file| from_file(file, command))
            .unwrap_or_default(),
    ];
    let merged = layers
        .into_iter()
        .map(Layer::with_url_taken_apart)
        .reduce(Layer::or)
        .unwrap_or_default();
    let topology = file.map(|file| file.topology.clone()).unwrap_or_default();
    Ok(merged.or_default(topology))
}

impl Layer {
    /// A URL sets host, port and virtual host, the latter two to their defaults if it leaves them
    /// out; user and password only if it has them. Within one source, a single option wins over
    /// the URL.
    fn with_url_taken_apart(mut self) -> Self {
        let Some(Setting { value: url, origin }) = self.url.take() else {
            return self;
        };
        self.hosts = self.hosts.or(url
            .host
            .map(|host| Setting::new(vec![host], origin.clone())));
        self.port = self.port.or(Some(Setting::new(url.port, origin.clone())));
        self.vhost = self.vhost.or(Some(Setting::new(url.vhost, origin.clone())));
        self.username = self.username.or(url
            .username
            .map(|username| Setting::new(username, origin.clone())));
        self.password = self.password.or(url
            .password
            .map(|password| Setting::new(password, origin.clone())));
        self
    }

    fn or(self, lower: Self) -> Self {
        Self {
            url: self.url.or(lower.url),
            hosts: self.hosts.or(lower.hosts),
            port: self.port.or(lower.port),
            vhost: self.vhost.or(lower.vhost),
            username: self.username.or(lower.username),
            password: self.password.or(lower.password),
            connect_timeout: self.connect_timeout.or(lower.connect_timeout),
            wait: self.wait.or(lower.wait),
            heartbeat: self.heartbeat.or(lower.heartbeat),
            queue: self.queue.or(lower.queue),
            no_declare: self.no_declare.or(lower.no_declare),
            auto_ack: self.auto_ack.or(lower.auto_ack),
            prefetch: self.prefetch.or(lower.prefetch),
            persistent: self.persistent.or(lower.persistent),
            confirm_timeout: self.confirm_timeout.or(lower.confirm_timeout),
            retry_for: self.retry_for.or(lower.retry_for),
            no_reconnect: self.no_reconnect.or(lower.no_reconnect),
            timeout: self.timeout.or(lower.timeout),
            idle_timeout: self.idle_timeout.or(lower.idle_timeout),
        }
    }

    fn or_default(self, topology: Topology) -> Settings {
        fn or<T>(setting: Option<Setting<T>>, default: T) -> Setting<T> {
            setting.unwrap_or(Setting::new(default, Origin::Default))
        }
        let queue = or(self.queue, QueueName::tutorial());
        let definition = topology.queue(&queue.value).cloned();
        Settings {
            broker: Broker {
                hosts: or(self.hosts, vec![Host::default()]),
                port: or(self.port, AMQP_PORT),
                vhost: or(self.vhost, VirtualHost::default()),
                username: or(self.username, "guest".to_owned()),
                password: or(self.password, Secret::new("guest".to_owned())),
                connect_timeout: or(self.connect_timeout, ConnectTimeout::default()),
                wait: or(self.wait, Span::seconds(0)),
                heartbeat: or(self.heartbeat, Heartbeat::default()),
            },
            definition: definition.unwrap_or_else(|| Queue::plain(queue.value.clone())),
            queue,
            topology,
            no_declare: or(self.no_declare, false),
            auto_ack: or(self.auto_ack, false),
            prefetch: or(self.prefetch, 256),
            persistent: or(self.persistent, false),
            confirm_timeout: or(self.confirm_timeout, Span::seconds(60)),
            retry_for: or(self.retry_for, Span::seconds(30)),
            no_reconnect: or(self.no_reconnect, false),
            timeout: or(self.timeout.map(|timeout| timeout.map(Some)), None),
            idle_timeout: or(self.idle_timeout.map(|timeout| timeout.map(Some)), None),
        }
    }
}

fn flags(common: &Common, command: &Command) -> Result<Layer, Error> {
    fn set<T: Clone>(value: Option<&T>, name: &'static str) -> Option<Setting<T>> {
        value.map(|value| Setting::new(value.clone(), Origin::Flag(name)))
    }
    fn yes(value: bool, name: &'static str) -> Option<Setting<bool>> {
        value.then_some(Setting::new(true, Origin::Flag(name)))
    }

    let mut layer = Layer {
        url: common
            .url
            .as_deref()
            .map(|url| {
                parse(url, Origin::Flag("--url"), |problem| {
                    Error::Usage(format!("--url: {problem}"))
                })
            })
            .transpose()?,
        hosts: set(
            Some(&common.host).filter(|hosts| !hosts.is_empty()),
            "--host",
        ),
        port: set(common.port.as_ref(), "--port"),
        vhost: set(common.vhost.as_ref(), "--vhost"),
        username: set(common.username.as_ref(), "--username"),
        connect_timeout: set(common.connect_timeout.as_ref(), "--connect-timeout"),
        wait: set(common.wait.as_ref(), "--wait"),
        heartbeat: set(common.heartbeat.as_ref(), "--heartbeat"),
        queue: set(common.queue.as_ref(), "--queue"),
        ..Layer::default()
    };
    let positional = match command {
        Command::Declare(declare) => declare.name.as_ref().and_then(|name| name.0.as_ref()),
        Command::Delete(delete) => delete.name.as_ref(),
        Command::Purge(purge) => purge.name.as_ref(),
        Command::Send(send) => {
            layer.no_declare = yes(send.no_declare, "--no-declare");
            layer.persistent = yes(send.persistent, "--persistent");
            layer.confirm_timeout = set(send.confirm_timeout.as_ref(), "--confirm-timeout");
            layer.retry_for = set(send.retry_for.as_ref(), "--retry-for");
            None
        }
        Command::Receive(receive) => {
            layer.no_declare = yes(receive.no_declare, "--no-declare");
            layer.auto_ack = yes(receive.auto_ack, "--auto-ack");
            layer.prefetch = set(receive.prefetch.as_ref(), "--prefetch");
            layer.no_reconnect = yes(receive.no_reconnect, "--no-reconnect");
            layer.timeout = set(receive.timeout.as_ref(), "--timeout");
            layer.idle_timeout = set(receive.idle_timeout.as_ref(), "--idle-timeout");
            receive.name.as_ref()
        }
    };
    match (positional, &layer.queue) {
        (Some(name), Some(queue)) if *name != queue.value => {
            return Err(Error::Usage(format!(
                "QUEUE is {name} and --queue is {}; give one of them",
                queue.value
            )));
        }
        (Some(_), _) => layer.queue = set(positional, "QUEUE"),
        (None, _) => {}
    }
    Ok(layer)
}

fn environment(variable: impl Fn(&str) -> Option<OsString>) -> Result<Layer, Error> {
    // A variable that is set to nothing is not set, as everywhere in Unix.
    let text = |name: &'static str| -> Result<Option<String>, Error> {
        match variable(name)
            .filter(|value| !value.is_empty())
            .map(OsString::into_string)
        {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text)),
            Some(Err(_)) => Err(Error::Config {
                place: name.to_owned(),
                problem: "is not UTF-8".to_owned(),
            }),
        }
    };
    let url = match variable_setting(text("HELLO_MQ_URL")?, "HELLO_MQ_URL")? {
        Some(url) => Some(url),
        None => variable_setting(text("AMQP_URL")?, "AMQP_URL")?,
    };
    Ok(Layer {
        url,
        password: text("HELLO_MQ_PASSWORD")?.map(|password| {
            Setting::new(
                Secret::new(password),
                Origin::Environment("HELLO_MQ_PASSWORD"),
            )
        }),
        queue: variable_setting(text("HELLO_MQ_QUEUE")?, "HELLO_MQ_QUEUE")?,
        ..Layer::default()
    })
}

fn variable_setting<T>(
    text: Option<String>,
    name: &'static str,
) -> Result<Option<Setting<T>>, Error>
where
    T: FromStr<Err = String>,
{
    text.map(|text| {
        parse(&text, Origin::Environment(name), |problem| Error::Config {
            place: name.to_owned(),
            problem,
        })
    })
    .transpose()
}

fn from_file(file: &File, command: &Command) -> Layer {
    let config = &file.config;
    let mut layer = Layer {
        url: file.setting(config.url.as_ref()),
        hosts: file.setting(config.hosts.as_ref()).or(file
            .setting(config.host.as_ref())
            .map(|host| host.map(|host| vec![host]))),
        port: file
            .setting(config.port.as_ref())
            .map(|port| port.map(u16::from)),
        vhost: file.setting(config.vhost.as_ref()),
        username: file.setting(config.username.as_ref()),
        password: file.setting(config.password.as_ref()),
        connect_timeout: file.setting(config.connect_timeout.as_ref()),
        wait: file.setting(config.wait.as_ref()),
        heartbeat: file.setting(config.heartbeat.as_ref()),
        queue: file.setting(config.queue.as_ref()),
        ..Layer::default()
    };
    match command {
        Command::Declare(_) | Command::Delete(_) | Command::Purge(_) => {}
        Command::Send(_) => {
            layer.no_declare = file.setting(config.send.no_declare.as_ref());
            layer.persistent = file.setting(config.send.persistent.as_ref());
            layer.confirm_timeout = file.setting(config.send.confirm_timeout.as_ref());
            layer.retry_for = file.setting(config.send.retry_for.as_ref());
        }
        Command::Receive(_) => {
            layer.no_declare = file.setting(config.receive.no_declare.as_ref());
            layer.auto_ack = file.setting(config.receive.auto_ack.as_ref());
            layer.no_reconnect = file.setting(config.receive.no_reconnect.as_ref());
            layer.timeout = file.setting(config.receive.timeout.as_ref());
            layer.idle_timeout = file.setting(config.receive.idle_timeout.as_ref());
            layer.prefetch = file
                .setting(config.receive.prefetch.as_ref())
                .map(|prefetch| prefetch.map(u16::from));
        }
    }
    layer
}

impl File {
    fn setting<T: Clone>(&self, value: Option<&Spanned<T>>) -> Option<Setting<T>> {
        value.map(|value| Setting::new(value.get_ref().clone(), Origin::File(self.place_of(value))))
    }
}

fn parse<T: FromStr<Err = String>>(
    text: &str,
    origin: Origin,
    error: impl FnOnce(String) -> Error,
) -> Result<Setting<T>, Error> {
    match text.parse() {
        Ok(value) => Ok(Setting::new(value, origin)),
        Err(problem) => Err(error(problem)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::{cli, config};

    /// One row of the table: what is typed, the environment, the file; and what must come of it.
    fn settings(
        line: &str,
        variables: &[(&'static str, &str)],
        file: &str,
    ) -> Result<Settings, Error> {
        let arguments = line.split_whitespace().map(OsString::from);
        let cli = cli::parse([OsString::from("hello-mq")].into_iter().chain(arguments)).unwrap();
        let variables: HashMap<_, _> = variables.iter().copied().collect();
        let file =
            (!file.is_empty()).then(|| config::parse("f.toml".into(), file.to_owned()).unwrap());
        resolve(
            &cli.common,
            &cli.command,
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
                broker.password.value.expose(),
                *password,
                "{line} {variables:?} {text:?}"
            );
        }
    }

    #[test]
    fn each_command_has_its_own_table() {
        let file = "[send]\nno_declare = true\n[receive]\nprefetch = 7\nauto_ack = true";
        let send = settings("send", &[], file).unwrap();
        assert_eq!(
            (
                send.no_declare.value,
                send.auto_ack.value,
                send.prefetch.value
            ),
            (true, false, 256)
        );
        let receive = settings("receive", &[], file).unwrap();
        assert_eq!(
            (
                receive.no_declare.value,
                receive.auto_ack.value,
                receive.prefetch.value
            ),
            (false, true, 7)
        );
        assert_eq!(
            settings("receive --prefetch 9", &[], file)
                .unwrap()
                .prefetch
                .value,
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
}
