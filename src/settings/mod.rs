//! Merges the settings of all sources. The order of precedence is: option, environment, profile, file,
//! default.

mod broker;
mod layer;
mod listing;

use std::ffi::OsString;
use std::mem;
use std::num::NonZeroU16;
use std::path::PathBuf;

pub use broker::{AMQP_PORT, AMQPS_PORT};

use layer::Layer;

use crate::cli::{self, Common, Verb};
use crate::config::File;
pub use crate::definitions::{
    Broker, ListedSetting, Origin, Password, ReceiveSettings, SendSettings, Setting, Tls,
};
use crate::error::Error;
use crate::text;
use crate::topology::{Queue, Topology};
use crate::values::{Host, Mechanism, QueueName, Secret};

/// The settings of one command.
#[derive(Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Settings {
    /// The configuration file that was read.
    pub config: Setting<Option<PathBuf>>,
    /// The selected profile of that file.
    pub profile: Setting<Option<String>>,
    pub broker: Broker,
    /// The broker to which `receive` publishes, if it is another one.
    pub target: Option<Broker>,
    pub queue: Setting<QueueName>,
    /// The properties with which a missing queue is declared.
    pub definition: Queue,
    /// The topology that the configuration file defines.
    pub topology: Topology,
    pub send: SendSettings,
    pub receive: ReceiveSettings,
}

/// Returns the settings of `command`. `variable` returns the value of an environment variable.
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
    let profile = selected_profile(common, &variable, top.as_ref())?;
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
    let layer_of = |table: Option<&layer::ConfigTable>| {
        table.map(|table| table.layer(command)).unwrap_or_default()
    };
    let merged = merge([
        layer::flags(common, command)?,
        layer::environment(&variable)?,
        layer_of(profile.as_ref()),
        layer_of(top.as_ref()),
    ]);
    let topology = file.map(|file| file.topology.clone()).unwrap_or_default();
    let mut settings = or_default(config, profile_name, merged, topology);
    if let Verb::Receive(arguments) = command {
        settings.receive.lower_prefetch_for_command(arguments);
        settings.target = target(arguments, top.as_ref(), layer_of)?;
    }
    for broker in [&settings.broker].into_iter().chain(&settings.target) {
        check(broker)?;
    }
    Ok(settings)
}

/// Returns the broker to which `receive` publishes, if it is another one. Neither the options nor the
/// environment concern it.
fn target<'f>(
    arguments: &'f cli::Receive,
    top: Option<&layer::ConfigTable<'f>>,
    layer_of: impl Fn(Option<&layer::ConfigTable>) -> Layer,
) -> Result<Option<Broker>, Error> {
    let mut merged = match (&arguments.to_profile, &arguments.to_url) {
        (Some(name), _) => {
            let profile = profile(name, "--to-profile", top)?;
            merge([layer_of(Some(&profile)), layer_of(top)])
        }
        (None, Some(url)) => merge([layer::of_url(url, "--to-url")?]),
        (None, None) => return Ok(None),
    };
    Ok(Some(broker_or_default(&mut merged)))
}

/// Returns the settings of several sources, of which an earlier one has precedence.
fn merge<const N: usize>(mut layers: [Layer; N]) -> Layer {
    keep_credentials_at_their_broker(&mut layers);
    layers
        .into_iter()
        .map(Layer::with_url_taken_apart)
        .reduce(Layer::or)
        .unwrap_or_default()
}

/// The number of messages that may wait for their redelivery beside those that commands handle.
const MAX_WAITING_MESSAGES: u16 = 10;

impl ReceiveSettings {
    /// Lowers the default for `-- COMMAND`: messages that wait for a command are kept from other
    /// consumers.
    fn lower_prefetch_for_command(&mut self, arguments: &cli::Receive) {
        if !arguments.command.is_empty() && self.prefetch.origin == Origin::Default {
            let jobs = NonZeroU16::new(arguments.jobs.unwrap_or(1)).unwrap_or(NonZeroU16::MIN);
            self.prefetch.value = jobs.saturating_add(MAX_WAITING_MESSAGES);
        }
    }
}

/// Removes the user and the password of each URL that a source of higher precedence replaces. They
/// would be sent to another broker.
fn keep_credentials_at_their_broker(layers: &mut [Layer]) {
    let mut is_replaced = false;
    for url in layers.iter_mut().filter_map(|layer| layer.url.as_mut()) {
        if is_replaced {
            url.value.username = None;
            url.value.password = None;
        }
        is_replaced |= url.value.host.is_some();
    }
}

/// Returns the table of the selected profile.
fn selected_profile<'f>(
    common: &Common,
    variable: impl Fn(&str) -> Option<OsString>,
    top: Option<&layer::ConfigTable<'f>>,
) -> Result<Option<layer::ConfigTable<'f>>, Error> {
    let of_variable = layer::variable_text(variable, "HELLO_MQ_PROFILE")?;
    match (&common.profile, &of_variable) {
        (Some(name), _) => profile(name, "--profile", top).map(Some),
        (None, Some(name)) => profile(name, "HELLO_MQ_PROFILE", top).map(Some),
        (None, None) => Ok(None),
    }
}

/// Returns the table of the profile that an option or a variable, `place`, names.
fn profile<'f>(
    name: &str,
    place: &str,
    top: Option<&layer::ConfigTable<'f>>,
) -> Result<layer::ConfigTable<'f>, Error> {
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
        Some((name, table)) => Ok(layer::ConfigTable {
            config: table.get_ref(),
            profile: Some(name),
            home: top.home.clone(),
            file: top.file,
        }),
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

/// Rejects settings that contradict each other, whatever their sources are.
fn check(broker: &Broker) -> Result<(), Error> {
    let tls = &broker.tls;
    let has_certificate = tls.enabled.value && tls.cert_file.value.is_some();
    if tls.key_file.value.is_some() && tls.cert_file.value.is_none() {
        let problem = "a client key requires its certificate: --tls-cert-file or tls.cert_file";
        return Err(tls.key_file.origin.wrong("tls.key_file", problem));
    }
    if broker.auth.value == Some(Mechanism::External) && !has_certificate {
        let problem = "external login requires TLS and a client certificate: --tls-cert-file or \
            tls.cert_file";
        return Err(broker.auth.origin.wrong("auth", problem));
    }
    Ok(())
}

fn or_default(
    config: Setting<Option<PathBuf>>,
    profile: Setting<Option<String>>,
    mut merged: Layer,
    topology: Topology,
) -> Settings {
    let broker = broker_or_default(&mut merged);
    let queue = or(merged.queue, QueueName::tutorial());
    let definition = topology.queue(&queue.value).cloned();
    Settings {
        config,
        profile,
        broker,
        target: None,
        definition: definition.unwrap_or_else(|| Queue::plain(queue.value.clone())),
        queue,
        topology,
        send: merged.send.resolve(),
        receive: merged.receive.resolve(),
    }
}

/// Takes the settings of the broker from `merged`, with the default for each that no source sets.
fn broker_or_default(merged: &mut Layer) -> Broker {
    let is_tls = or(merged.is_tls.take(), false);
    let port_of_scheme = if is_tls.value { AMQPS_PORT } else { AMQP_PORT };
    let default_password = Password::Known(Secret::new("guest".to_owned()));
    mem::take(&mut merged.broker).resolve(
        or(merged.hosts.take(), vec![Host::default()]),
        or(merged.port.take(), None).map(|given| given.unwrap_or(port_of_scheme)),
        or(merged.password.take(), default_password),
        mem::take(&mut merged.tls).resolve(is_tls),
    )
}

fn or<T>(setting: Option<Setting<T>>, default: T) -> Setting<T> {
    setting.unwrap_or(Setting::new(default, Origin::Default))
}

#[cfg(test)]
mod tests;
