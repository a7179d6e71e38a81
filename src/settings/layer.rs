//! The settings of a single source: the command line, the environment, a profile, the file.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use toml::Spanned;

use crate::cli::{Common, Verb};
use crate::config::File;
use crate::definitions::{
    BrokerLayer, Config, ConfigSource, Origin, Password, ReceiveLayer, SendLayer, Setting, TlsLayer,
};
use crate::error::Error;
use crate::values::{BrokerUrl, Host, QueueName, Secret};

/// The settings of one source; `None` for those that it does not set.
#[derive(Debug, Default)]
pub struct Layer {
    pub url: Option<Setting<BrokerUrl>>,
    pub hosts: Option<Setting<Vec<Host>>>,
    /// A value of `None` stands for the port of the URL's scheme.
    pub port: Option<Setting<Option<u16>>>,
    pub password: Option<Setting<Password>>,
    pub queue: Option<Setting<QueueName>>,
    pub is_tls: Option<Setting<bool>>,
    pub broker: BrokerLayer,
    pub tls: TlsLayer,
    pub send: SendLayer,
    pub receive: ReceiveLayer,
}

impl Layer {
    /// Returns the settings of this source, completed by those of one of lower precedence.
    pub fn or(self, lower: Self) -> Self {
        Self {
            url: self.url.or(lower.url),
            hosts: self.hosts.or(lower.hosts),
            port: self.port.or(lower.port),
            password: self.password.or(lower.password),
            queue: self.queue.or(lower.queue),
            is_tls: self.is_tls.or(lower.is_tls),
            broker: self.broker.or(lower.broker),
            tls: self.tls.or(lower.tls),
            send: self.send.or(lower.send),
            receive: self.receive.or(lower.receive),
        }
    }

    /// Replaces the URL by its parts. A port or a virtual host that it omits gets its default. Any other
    /// part that it omits is not set. A single option of the same source overrides the URL.
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
            password: of(url.password.map(Password::Known), &origin),
            is_tls: of(Some(url.tls), &origin),
            broker: BrokerLayer {
                vhost: of(Some(url.vhost), &origin),
                username: of(url.username, &origin),
                auth: of(parameters.auth_mechanism, &origin),
                connect_timeout: of(parameters.connection_timeout, &origin),
                heartbeat: of(parameters.heartbeat, &origin),
                ..BrokerLayer::default()
            },
            tls: TlsLayer {
                ca_file: of(parameters.cacertfile, &origin),
                cert_file: of(parameters.certfile, &origin),
                key_file: of(parameters.keyfile, &origin),
                server_name: of(parameters.server_name_indication, &origin),
                insecure: of(parameters.insecure, &origin),
            },
            ..Self::default()
        })
    }
}

/// Returns the settings of the command line.
///
/// # Errors
/// [`Error::Usage`], naming the option.
pub fn flags(common: &Common, command: &Verb) -> Result<Layer, Error> {
    fn set<T>(value: Option<T>, name: &'static str) -> Option<Setting<T>> {
        value.map(|value| Setting::new(value, Origin::Flag(name)))
    }
    let url = match &common.url {
        Some(url) => of_url(url, "--url")?.url,
        None => None,
    };
    let tls = TlsLayer::of_options(&common.tls_options);
    // Each option about TLS implies TLS.
    let asks_for_tls = common.tls.then_some("--tls").or(tls.first_option());
    if let (Some(option), Some(url)) = (asks_for_tls, &url) {
        if !url.value.tls {
            return Err(Error::Usage(format!(
                "{option}: --url has no TLS; write amqps://"
            )));
        }
    }
    let password_file = common.password_file.clone().map(Password::File);
    let prompt = common.password_prompt.then_some(Password::Prompt);
    let mut layer = Layer {
        url,
        hosts: set(
            Some(common.host.clone()).filter(|hosts| !hosts.is_empty()),
            "--host",
        ),
        port: set(common.port.map(Some), "--port"),
        password: set(password_file, "--password-file").or(set(prompt, "--password-prompt")),
        queue: set(common.queue.clone(), "--queue"),
        is_tls: asks_for_tls.and_then(|option| set(Some(true), option)),
        broker: BrokerLayer::of_options(&common.broker),
        tls,
        ..Layer::default()
    };
    let positional = match command {
        Verb::Declare(declare) => declare.name.as_ref().and_then(|name| name.0.as_ref()),
        Verb::Delete(delete) => delete.name.as_ref(),
        Verb::Purge(purge) => purge.name.as_ref(),
        Verb::Send(send) => {
            layer.send = SendLayer::of_options(&send.settings);
            None
        }
        Verb::Receive(receive) => {
            layer.receive = ReceiveLayer::of_options(&receive.settings);
            receive.name.as_ref()
        }
    };
    match (positional, &layer.queue) {
        (Some(name), Some(queue)) if *name != queue.value => {
            return Err(Error::Usage(format!(
                "QUEUE is {name} and --queue is {}; give only one of them",
                queue.value
            )));
        }
        (Some(name), _) => layer.queue = set(Some(name.clone()), "QUEUE"),
        (None, _) => {}
    }
    Ok(layer)
}

/// Returns the settings of the URL that is the value of an `option`.
///
/// # Errors
/// [`Error::Usage`], naming the option.
pub fn of_url(url: &str, option: &'static str) -> Result<Layer, Error> {
    Ok(Layer {
        url: Some(parse(url, "url", Origin::Flag(option))?),
        ..Layer::default()
    })
}

/// Returns the text of an environment variable. An empty one counts as unset, as is usual in Unix.
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

/// Returns the settings of the environment.
///
/// # Errors
/// [`Error::Config`], naming the variable.
pub fn environment(variable: impl Fn(&str) -> Option<OsString>) -> Result<Layer, Error> {
    fn parsed<T: FromStr<Err = String>>(
        text: Option<String>,
        key: &str,
        name: &'static str,
    ) -> Result<Option<Setting<T>>, Error> {
        text.map(|text| parse(&text, key, Origin::Environment(name)))
            .transpose()
    }
    let text = |name| variable_text(&variable, name);
    let url = match parsed(text("HELLO_MQ_URL")?, "url", "HELLO_MQ_URL")? {
        Some(url) => Some(url),
        None => parsed(text("AMQP_URL")?, "url", "AMQP_URL")?,
    };
    Ok(Layer {
        url,
        password: text("HELLO_MQ_PASSWORD")?.map(|password| {
            Setting::new(
                Password::Known(Secret::new(password)),
                Origin::Environment("HELLO_MQ_PASSWORD"),
            )
        }),
        queue: parsed(text("HELLO_MQ_QUEUE")?, "queue", "HELLO_MQ_QUEUE")?,
        ..Layer::default()
    })
}

fn parse<T: FromStr<Err = String>>(
    text: &str,
    key: &str,
    origin: Origin,
) -> Result<Setting<T>, Error> {
    match text.parse() {
        Ok(value) => Ok(Setting::new(value, origin)),
        Err(problem) => Err(origin.wrong(key, problem)),
    }
}

/// A table of the configuration file: its top level, or a profile.
pub struct ConfigTable<'f> {
    /// The file that contains the table.
    pub file: &'f File,
    /// The content of the table.
    pub config: &'f Config,
    /// The name of the profile; `None` for the top level.
    pub profile: Option<&'f str>,
    /// The home directory, for which `~/` stands at the beginning of a path.
    pub home: Option<PathBuf>,
}

impl ConfigTable<'_> {
    /// Returns the settings of the table.
    pub fn layer(&self, command: &Verb) -> Layer {
        let config = self.config;
        let password = self
            .setting(config.password.as_ref())
            .map(|password| password.map(Password::Known))
            .or_else(|| {
                self.setting(config.password_file.as_ref())
                    .map(|file| file.map(|path| Password::File(self.absolute(&path))))
            })
            .or_else(|| {
                self.setting(config.password_command.as_ref())
                    .map(|command| command.map(Password::Command))
            });
        let mut layer = Layer {
            url: self
                .setting(config.url.as_ref())
                .map(|url| url.map(|url| self.with_absolute_paths(url))),
            hosts: self.setting(config.hosts.as_ref()).or(self
                .setting(config.host.as_ref())
                .map(|host| host.map(|host| vec![host]))),
            port: self
                .setting(config.port.as_ref())
                .map(|port| port.map(|port| Some(port.into()))),
            password,
            queue: self.setting(config.queue.as_ref()),
            is_tls: config
                .tls
                .as_ref()
                .map(|table| Setting::new(true, self.origin(table))),
            broker: BrokerLayer::of_table(config, self),
            tls: config
                .tls
                .as_ref()
                .map(|table| TlsLayer::of_table(table.get_ref(), self))
                .unwrap_or_default(),
            ..Layer::default()
        };
        match command {
            Verb::Declare(_) | Verb::Delete(_) | Verb::Purge(_) => {}
            Verb::Send(_) => layer.send = SendLayer::of_table(&config.send, self),
            Verb::Receive(_) => layer.receive = ReceiveLayer::of_table(&config.receive, self),
        }
        layer
    }

    fn setting<T: Clone>(&self, value: Option<&Spanned<T>>) -> Option<Setting<T>> {
        value.map(|value| Setting::new(value.get_ref().clone(), self.origin(value)))
    }

    fn with_absolute_paths(&self, mut url: BrokerUrl) -> BrokerUrl {
        let parameters = &mut url.parameters;
        for path in [
            &mut parameters.cacertfile,
            &mut parameters.certfile,
            &mut parameters.keyfile,
        ] {
            *path = path.take().map(|path| self.absolute(&path));
        }
        url
    }
}

impl ConfigSource for ConfigTable<'_> {
    fn origin<T>(&self, value: &Spanned<T>) -> Origin {
        let place = self.file.place_of(value);
        match self.profile {
            Some(name) => Origin::Profile(name.to_owned(), place),
            None => Origin::File(place),
        }
    }

    /// Expands `~/`. A relative path is relative to the directory of the file.
    fn absolute(&self, path: &Path) -> PathBuf {
        match (path.strip_prefix("~"), &self.home) {
            (Ok(rest), Some(home)) => home.join(rest),
            _ => self.file.path.parent().unwrap_or(Path::new("")).join(path),
        }
    }
}
