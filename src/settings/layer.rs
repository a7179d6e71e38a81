//! What each source sets: the command line, the environment, a profile, the configuration file.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use toml::Spanned;

use super::broker::Password;
use super::{Origin, Setting};
use crate::cli::{Common, Verb};
use crate::config::{Config, File, TlsTable};
use crate::error::Error;
use crate::values::{
    BrokerUrl, ConnectTimeout, Heartbeat, Host, Mechanism, QueueName, Secret, ServerName, Span,
    VirtualHost,
};

macro_rules! layer {
    ($($name:ident: $type:ty,)*) => {
        /// What one source sets: each value, or nothing.
        #[derive(Debug, Default)]
        pub struct Layer {
            $(pub $name: Option<Setting<$type>>,)*
        }

        impl Layer {
            /// What this source sets, and what a lower one sets beside.
            pub fn or(self, lower: Self) -> Self {
                Self {
                    $($name: self.$name.or(lower.$name),)*
                }
            }
        }
    };
}

layer! {
    url: BrokerUrl,
    hosts: Vec<Host>,
    // `None` for that of the scheme.
    port: Option<u16>,
    vhost: VirtualHost,
    tls: bool,
    ca_file: PathBuf,
    cert_file: PathBuf,
    key_file: PathBuf,
    server_name: ServerName,
    insecure: bool,
    auth: Mechanism,
    username: String,
    password: Password,
    connect_timeout: ConnectTimeout,
    wait: Span,
    heartbeat: Heartbeat,
    queue: QueueName,
    no_declare: bool,
    auto_ack: bool,
    prefetch: u16,
    persistent: bool,
    confirm_timeout: Span,
    retry_for: Span,
    no_reconnect: bool,
    timeout: Span,
    idle_timeout: Span,
}

impl Layer {
    /// A URL sets host, scheme, port and virtual host, the latter two to their defaults if it leaves
    /// them out; all else only if it has it. Within one source, a single option wins over the URL.
    pub fn with_url_taken_apart(mut self) -> Self {
        fn of<T>(value: Option<T>, origin: &Origin) -> Option<Setting<T>> {
            value.map(|value| Setting::new(value, origin.clone()))
        }
        let Some(Setting { value: url, origin }) = self.url.take() else {
            return self;
        };
        let parameters = url.parameters;
        self.or(Self {
            hosts: of(url.host.map(|host| vec![host]), &origin),
            port: of(Some(url.port), &origin),
            vhost: of(Some(url.vhost), &origin),
            tls: of(Some(url.tls), &origin),
            ca_file: of(parameters.cacertfile, &origin),
            cert_file: of(parameters.certfile, &origin),
            key_file: of(parameters.keyfile, &origin),
            server_name: of(parameters.server_name_indication, &origin),
            insecure: of(parameters.insecure, &origin),
            auth: of(parameters.auth_mechanism, &origin),
            username: of(url.username, &origin),
            password: of(url.password.map(Password::Known), &origin),
            connect_timeout: of(parameters.connection_timeout, &origin),
            heartbeat: of(parameters.heartbeat, &origin),
            ..Self::default()
        })
    }
}

/// What the command line sets.
///
/// # Errors
/// [`Error::Usage`], naming the option.
pub fn flags(common: &Common, command: &Verb) -> Result<Layer, Error> {
    fn set<T: Clone>(value: Option<&T>, name: &'static str) -> Option<Setting<T>> {
        value.map(|value| Setting::new(value.clone(), Origin::Flag(name)))
    }
    fn yes(value: bool, name: &'static str) -> Option<Setting<bool>> {
        value.then_some(Setting::new(true, Origin::Flag(name)))
    }

    let url = common
        .url
        .as_deref()
        .map(|url| {
            parse::<BrokerUrl>(url, Origin::Flag("--url"), |problem| {
                Error::Usage(format!("--url: {problem}"))
            })
        })
        .transpose()?;
    let password_file = common.password_file.clone().map(Password::File);
    let prompt = common.password_prompt.then_some(Password::Prompt);
    let mut layer = Layer {
        hosts: set(
            Some(&common.host).filter(|hosts| !hosts.is_empty()),
            "--host",
        ),
        port: set(common.port.as_ref(), "--port").map(|port| port.map(Some)),
        vhost: set(common.vhost.as_ref(), "--vhost"),
        tls: yes(common.tls, "--tls"),
        ca_file: set(common.tls_ca_file.as_ref(), "--tls-ca-file"),
        cert_file: set(common.tls_cert_file.as_ref(), "--tls-cert-file"),
        key_file: set(common.tls_key_file.as_ref(), "--tls-key-file"),
        server_name: set(common.tls_server_name.as_ref(), "--tls-server-name"),
        insecure: yes(common.insecure, "--insecure"),
        auth: set(common.auth.as_ref(), "--auth"),
        username: set(common.username.as_ref(), "--username"),
        password: set(password_file.as_ref(), "--password-file")
            .or_else(|| set(prompt.as_ref(), "--password-prompt")),
        connect_timeout: set(common.connect_timeout.as_ref(), "--connect-timeout"),
        wait: set(common.wait.as_ref(), "--wait"),
        heartbeat: set(common.heartbeat.as_ref(), "--heartbeat"),
        queue: set(common.queue.as_ref(), "--queue"),
        ..Layer::default()
    };
    // Who says how TLS is to be spoken wants it spoken.
    let of_tls = [
        layer.tls.as_ref().map(|setting| &setting.origin),
        layer.ca_file.as_ref().map(|setting| &setting.origin),
        layer.cert_file.as_ref().map(|setting| &setting.origin),
        layer.key_file.as_ref().map(|setting| &setting.origin),
        layer.server_name.as_ref().map(|setting| &setting.origin),
        layer.insecure.as_ref().map(|setting| &setting.origin),
    ];
    let first = of_tls.into_iter().flatten().next().cloned();
    if let Some(Origin::Flag(option)) = first {
        if url.as_ref().is_some_and(|url| !url.value.tls) {
            return Err(Error::Usage(format!(
                "{option}: --url is without TLS; write amqps://"
            )));
        }
        layer.tls = yes(true, option);
    }
    layer.url = url;
    let positional = match command {
        Verb::Declare(declare) => declare.name.as_ref().and_then(|name| name.0.as_ref()),
        Verb::Delete(delete) => delete.name.as_ref(),
        Verb::Purge(purge) => purge.name.as_ref(),
        Verb::Send(send) => {
            layer.no_declare = yes(send.no_declare, "--no-declare");
            layer.persistent = yes(send.persistent, "--persistent");
            layer.confirm_timeout = set(send.confirm_timeout.as_ref(), "--confirm-timeout");
            layer.retry_for = set(send.retry_for.as_ref(), "--retry-for");
            None
        }
        Verb::Receive(receive) => {
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

/// The text of an environment variable. One that is set to nothing is not set, as everywhere in
/// Unix.
///
/// # Errors
/// [`Error::Config`] if it is not UTF-8.
pub fn variable_text(
    variable: impl Fn(&str) -> Option<OsString>,
    name: &'static str,
) -> Result<Option<String>, Error> {
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
}

/// What the environment sets.
///
/// # Errors
/// [`Error::Config`], naming the variable.
pub fn environment(variable: impl Fn(&str) -> Option<OsString>) -> Result<Layer, Error> {
    let text = |name| variable_text(&variable, name);
    let url = match variable_setting(text("HELLO_MQ_URL")?, "HELLO_MQ_URL")? {
        Some(url) => Some(url),
        None => variable_setting(text("AMQP_URL")?, "AMQP_URL")?,
    };
    Ok(Layer {
        url,
        password: text("HELLO_MQ_PASSWORD")?.map(|password| {
            Setting::new(
                Password::Known(Secret::new(password)),
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

/// A table of the configuration file: its top level, or a profile.
pub struct ConfigTable<'f> {
    /// The file.
    pub file: &'f File,
    /// What the table says.
    pub config: &'f Config,
    /// The profile's name.
    pub profile: Option<&'f str>,
    /// The user's home, which a path may begin with as `~/`.
    pub home: Option<PathBuf>,
}

impl ConfigTable<'_> {
    /// What the table sets.
    pub fn layer(&self, command: &Verb) -> Layer {
        let config = self.config;
        let no_tls = TlsTable::default();
        let tls = config.tls.as_ref().map_or(&no_tls, Spanned::get_ref);
        let password = self
            .setting(config.password.as_ref())
            .map(|password| password.map(Password::Known))
            .or_else(|| {
                self.path(config.password_file.as_ref())
                    .map(|file| file.map(Password::File))
            })
            .or_else(|| {
                self.setting(config.password_command.as_ref())
                    .map(|command| command.map(Password::Command))
            });
        let mut layer = Layer {
            url: self.setting(config.url.as_ref()).map(|url| {
                url.map(|mut url| {
                    let parameters = &mut url.parameters;
                    for path in [
                        &mut parameters.cacertfile,
                        &mut parameters.certfile,
                        &mut parameters.keyfile,
                    ] {
                        *path = path.take().map(|path| self.absolute(&path));
                    }
                    url
                })
            }),
            hosts: self.setting(config.hosts.as_ref()).or(self
                .setting(config.host.as_ref())
                .map(|host| host.map(|host| vec![host]))),
            port: self
                .setting(config.port.as_ref())
                .map(|port| port.map(|port| Some(port.into()))),
            vhost: self.setting(config.vhost.as_ref()),
            tls: config
                .tls
                .as_ref()
                .map(|table| Setting::new(true, self.origin(table))),
            ca_file: self.path(tls.ca_file.as_ref()),
            cert_file: self.path(tls.cert_file.as_ref()),
            key_file: self.path(tls.key_file.as_ref()),
            server_name: self.setting(tls.server_name.as_ref()),
            insecure: self.setting(tls.insecure.as_ref()),
            auth: self.setting(config.auth.as_ref()),
            username: self.setting(config.username.as_ref()),
            password,
            connect_timeout: self.setting(config.connect_timeout.as_ref()),
            wait: self.setting(config.wait.as_ref()),
            heartbeat: self.setting(config.heartbeat.as_ref()),
            queue: self.setting(config.queue.as_ref()),
            ..Layer::default()
        };
        match command {
            Verb::Declare(_) | Verb::Delete(_) | Verb::Purge(_) => {}
            Verb::Send(_) => {
                layer.no_declare = self.setting(config.send.no_declare.as_ref());
                layer.persistent = self.setting(config.send.persistent.as_ref());
                layer.confirm_timeout = self.setting(config.send.confirm_timeout.as_ref());
                layer.retry_for = self.setting(config.send.retry_for.as_ref());
            }
            Verb::Receive(_) => {
                layer.no_declare = self.setting(config.receive.no_declare.as_ref());
                layer.auto_ack = self.setting(config.receive.auto_ack.as_ref());
                layer.no_reconnect = self.setting(config.receive.no_reconnect.as_ref());
                layer.timeout = self.setting(config.receive.timeout.as_ref());
                layer.idle_timeout = self.setting(config.receive.idle_timeout.as_ref());
                layer.prefetch = self
                    .setting(config.receive.prefetch.as_ref())
                    .map(|prefetch| prefetch.map(u16::from));
            }
        }
        layer
    }

    fn origin<T>(&self, value: &Spanned<T>) -> Origin {
        let place = self.file.place_of(value);
        match self.profile {
            Some(name) => Origin::Profile(name.to_owned(), place),
            None => Origin::File(place),
        }
    }

    fn setting<T: Clone>(&self, value: Option<&Spanned<T>>) -> Option<Setting<T>> {
        value.map(|value| Setting::new(value.get_ref().clone(), self.origin(value)))
    }

    fn path(&self, value: Option<&Spanned<PathBuf>>) -> Option<Setting<PathBuf>> {
        self.setting(value)
            .map(|setting| setting.map(|path| self.absolute(&path)))
    }

    /// A path: `~/` is the user's home, and what is relative is so to the file's directory.
    fn absolute(&self, path: &Path) -> PathBuf {
        match (path.strip_prefix("~"), &self.home) {
            (Ok(rest), Some(home)) => home.join(rest),
            _ => self.file.path.parent().unwrap_or(Path::new("")).join(path),
        }
    }
}
