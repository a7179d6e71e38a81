//! One merge of everything that can be set: flag, then environment, then profile, then file, then
//! default.

mod broker;
mod layer;
mod listing;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

pub use broker::{AMQP_PORT, AMQPS_PORT, Broker, Password, Tls};
pub use listing::ListedSetting;

use layer::Layer;

use crate::cli::{Common, Verb};
use crate::config::File;
use crate::error::Error;
use crate::text;
use crate::topology::{Queue, Topology};
use crate::values::{
    ConnectTimeout, Heartbeat, Host, Mechanism, QueueName, Secret, Span, VirtualHost,
};

/// Where a value was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// By this option.
    Flag(&'static str),
    /// By this environment variable.
    Environment(&'static str),
    /// In a profile of this name, as `FILE:LINE`.
    Profile(String, String),
    /// In the configuration file, as `FILE:LINE`.
    File(String),
    /// Nowhere.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) | Self::Environment(name) => write!(f, "from {name}"),
            Self::Profile(name, place) => {
                write!(f, "from profile '{}' ({place})", text::escape(name))
            }
            Self::File(place) => write!(f, "from {place}"),
            Self::Default => f.write_str("the default"),
        }
    }
}

impl Origin {
    /// The error of a value that was set here, as this `key` of the file, to something that can't
    /// be.
    #[must_use]
    pub fn wrong(&self, key: &str, problem: impl fmt::Display) -> Error {
        match self {
            Self::Flag(name) => Error::Usage(format!("{name}: {problem}")),
            Self::Environment(name) => Error::Config {
                place: (*name).to_owned(),
                problem: problem.to_string(),
            },
            Self::Profile(_, place) | Self::File(place) => Error::Config {
                place: place.clone(),
                problem: format!("{key}: {problem}"),
            },
            Self::Default => Error::Config {
                place: key.to_owned(),
                problem: problem.to_string(),
            },
        }
    }

    /// The error of a value that was set here, as this `key` of the file, and names something that
    /// is of no use.
    #[must_use]
    pub fn unusable(&self, key: &str, problem: impl fmt::Display) -> Error {
        match self {
            Self::Flag(name) => Error::Config {
                place: (*name).to_owned(),
                problem: problem.to_string(),
            },
            _ => self.wrong(key, problem),
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

/// Every setting, resolved.
#[derive(Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Settings {
    /// The configuration file that was read.
    pub config: Setting<Option<PathBuf>>,
    /// The profile in it.
    pub profile: Setting<Option<String>>,
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

/// Resolves every setting of `command`. `variable` gives an environment variable's value.
///
/// # Errors
/// [`Error::Usage`] or [`Error::Config`], naming the option, the variable, or the file and line.
pub fn resolve(
    common: &Common,
    command: &Verb,
    variable: impl Fn(&str) -> Option<OsString>,
    file: Option<&File>,
) -> Result<Settings, Error> {
    let top = file.map(|file| {
        let home = variable("HOME").map(PathBuf::from);
        layer::ConfigTable {
            file,
            config: &file.config,
            profile: None,
            home,
        }
    });
    let profile = profile(common, &variable, top.as_ref())?;
    let config = Setting::new(
        file.map(|file| file.path.clone()),
        match (&common.config, variable("HELLO_MQ_CONFIG")) {
            (Some(_), _) => Origin::Flag("--config"),
            (None, Some(path)) if !path.is_empty() => Origin::Environment("HELLO_MQ_CONFIG"),
            (None, _) => Origin::Default,
        },
    );
    let profile_name = Setting::new(
        profile
            .as_ref()
            .and_then(|table| table.profile.map(str::to_owned)),
        match common.profile {
            Some(_) => Origin::Flag("--profile"),
            None if profile.is_some() => Origin::Environment("HELLO_MQ_PROFILE"),
            None => Origin::Default,
        },
    );
    let layers = [
        layer::flags(common, command)?,
        layer::environment(&variable)?,
        profile
            .map(|table| table.layer(command))
            .unwrap_or_default(),
        top.map(|table| table.layer(command)).unwrap_or_default(),
    ];
    let merged = layers
        .into_iter()
        .map(Layer::with_url_taken_apart)
        .reduce(Layer::or)
        .unwrap_or_default();
    let topology = file.map(|file| file.topology.clone()).unwrap_or_default();
    let settings = or_default(config, profile_name, merged, topology);
    check(&settings.broker)?;
    Ok(settings)
}

/// The table of the profile that the user asks for.
fn profile<'f>(
    common: &'f Common,
    variable: impl Fn(&str) -> Option<OsString>,
    top: Option<&layer::ConfigTable<'f>>,
) -> Result<Option<layer::ConfigTable<'f>>, Error> {
    let of_variable = layer::variable_text(variable, "HELLO_MQ_PROFILE")?;
    let (name, place) = match (&common.profile, &of_variable) {
        (Some(name), _) => (name, "--profile"),
        (None, Some(name)) => (name, "HELLO_MQ_PROFILE"),
        (None, None) => return Ok(None),
    };
    let wrong = |problem: String| Error::Config {
        place: place.to_owned(),
        problem,
    };
    let shown = text::escape(name);
    let Some(top) = top else {
        return Err(wrong(format!(
            "there is no configuration file, and so no profile '{shown}'"
        )));
    };
    let profiles = &top.config.profiles;
    match profiles.get_key_value(name) {
        Some((name, table)) => Ok(Some(layer::ConfigTable {
            config: table.get_ref(),
            profile: Some(name),
            home: top.home.clone(),
            file: top.file,
        })),
        None => {
            let path = text::escape(&top.file.path.display().to_string());
            let names: Vec<_> = profiles.keys().map(|name| text::escape(name)).collect();
            Err(wrong(match names.as_slice() {
                [] => format!("there is no [profiles.{shown}] in {path}, nor any other profile"),
                names => {
                    let meant = text::nearest(name, profiles.keys().map(String::as_str));
                    format!(
                        "there is no [profiles.{shown}] in {path}; it has: {}{}",
                        names.join(", "),
                        meant.map_or(String::new(), |meant| format!(
                            "; did you mean '{}'?",
                            text::escape(meant)
                        ))
                    )
                }
            }))
        }
    }
}

/// Refuses what can't be together, wherever it was set.
fn check(broker: &Broker) -> Result<(), Error> {
    let tls = &broker.tls;
    let has_certificate = tls.enabled.value && tls.cert_file.value.is_some();
    if tls.key_file.value.is_some() && tls.cert_file.value.is_none() {
        let problem = "a client's key needs its certificate: --tls-cert-file, or tls.cert_file";
        return Err(tls.key_file.origin.wrong("tls.key_file", problem));
    }
    if broker.auth.value == Some(Mechanism::External) && !has_certificate {
        let problem = "external is the login with a client's certificate: it needs TLS and \
                       --tls-cert-file, or tls.cert_file";
        return Err(broker.auth.origin.wrong("auth", problem));
    }
    Ok(())
}

fn or_default(
    config: Setting<Option<PathBuf>>,
    profile: Setting<Option<String>>,
    merged: Layer,
    topology: Topology,
) -> Settings {
    fn or<T>(setting: Option<Setting<T>>, default: T) -> Setting<T> {
        setting.unwrap_or(Setting::new(default, Origin::Default))
    }
    fn or_none<T>(setting: Option<Setting<T>>) -> Setting<Option<T>> {
        or(setting.map(|setting| setting.map(Some)), None)
    }
    let queue = or(merged.queue, QueueName::tutorial());
    let definition = topology.queue(&queue.value).cloned();
    let tls = or(merged.tls, false);
    let port = if tls.value { AMQPS_PORT } else { AMQP_PORT };
    Settings {
        config,
        profile,
        broker: Broker {
            hosts: or(merged.hosts, vec![Host::default()]),
            port: or(merged.port, None).map(|given| given.unwrap_or(port)),
            vhost: or(merged.vhost, VirtualHost::default()),
            tls: Tls {
                enabled: tls,
                ca_file: or_none(merged.ca_file),
                cert_file: or_none(merged.cert_file),
                key_file: or_none(merged.key_file),
                server_name: or_none(merged.server_name),
                insecure: or(merged.insecure, false),
            },
            auth: or_none(merged.auth),
            username: or(merged.username, "guest".to_owned()),
            password: or(
                merged.password,
                Password::Known(Secret::new("guest".to_owned())),
            ),
            connect_timeout: or(merged.connect_timeout, ConnectTimeout::default()),
            wait: or(merged.wait, Span::seconds(0)),
            heartbeat: or(merged.heartbeat, Heartbeat::default()),
        },
        definition: definition.unwrap_or_else(|| Queue::plain(queue.value.clone())),
        queue,
        topology,
        no_declare: or(merged.no_declare, false),
        auto_ack: or(merged.auto_ack, false),
        prefetch: or(merged.prefetch, 256),
        persistent: or(merged.persistent, false),
        confirm_timeout: or(merged.confirm_timeout, Span::seconds(60)),
        retry_for: or(merged.retry_for, Span::seconds(30)),
        no_reconnect: or(merged.no_reconnect, false),
        timeout: or_none(merged.timeout),
        idle_timeout: or_none(merged.idle_timeout),
    }
}

#[cfg(test)]
mod tests;
