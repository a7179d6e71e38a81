//! Every setting, with where it came from, as `--explain` shows it.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Origin, Password, Setting, Settings};
use crate::cli::Verb;
use crate::values::Span;

/// One setting.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedSetting {
    /// Its key in the configuration file.
    pub key: &'static str,
    /// Its value; nothing secret is in it.
    pub value: Value,
    /// What it means that there is no value.
    pub otherwise: &'static str,
    /// Where it was set.
    pub origin: Origin,
}

impl Settings {
    /// The settings of `command`.
    #[must_use]
    pub fn listing(&self, command: &Verb) -> Vec<ListedSetting> {
        let path = |path: &PathBuf| path.display().to_string().into();
        let mut list = vec![optional("config", &self.config, "no file", path)];
        if self.profile.value.is_some() {
            list.push(optional("profile", &self.profile, "none", |name| {
                name.as_str().into()
            }));
        }
        list.extend(self.of_broker());
        list.push(line("queue", &self.queue, |name| name.as_str().into()));
        let seconds = |span: &Span| span.to_string().into();
        match command {
            Verb::Declare(_) | Verb::Delete(_) | Verb::Purge(_) => {}
            Verb::Send(_) => list.extend([
                line("no_declare", &self.no_declare, |&is| is.into()),
                line("persistent", &self.persistent, |&is| is.into()),
                line("confirm_timeout", &self.confirm_timeout, seconds),
                line("retry_for", &self.retry_for, seconds),
            ]),
            Verb::Receive(_) => list.extend([
                line("no_declare", &self.no_declare, |&is| is.into()),
                line("auto_ack", &self.auto_ack, |&is| is.into()),
                line("prefetch", &self.prefetch, |&prefetch| prefetch.into()),
                line("no_reconnect", &self.no_reconnect, |&is| is.into()),
                optional("timeout", &self.timeout, "none", seconds),
                optional("idle_timeout", &self.idle_timeout, "none", seconds),
            ]),
        }
        list
    }

    fn of_broker(&self) -> Vec<ListedSetting> {
        let broker = &self.broker;
        let tls = &broker.tls;
        let mut list = vec![
            line("hosts", &broker.hosts, |hosts| {
                hosts.iter().map(ToString::to_string).collect()
            }),
            line("port", &broker.port, |&port| port.into()),
            line("vhost", &broker.vhost, |name| name.as_str().into()),
            line("tls", &tls.enabled, |&is| is.into()),
        ];
        if tls.enabled.value {
            let path = |path: &PathBuf| path.display().to_string().into();
            let name_of_host = "the host's";
            let key = match tls.cert_file.value {
                Some(_) => "in tls.cert_file",
                None => "none",
            };
            list.extend([
                optional("tls.ca_file", &tls.ca_file, "the system's", path),
                optional("tls.cert_file", &tls.cert_file, "none", path),
                optional("tls.key_file", &tls.key_file, key, path),
                optional("tls.server_name", &tls.server_name, name_of_host, |name| {
                    name.as_str().into()
                }),
                line("tls.insecure", &tls.insecure, |&is| is.into()),
            ]);
        }
        let mechanisms: Vec<_> = broker
            .mechanisms()
            .iter()
            .map(|mechanism| mechanism.as_str().to_lowercase())
            .collect();
        let auth = Setting::new(mechanisms.join(", else "), broker.auth.origin.clone());
        list.extend([
            line("auth", &auth, |names| names.as_str().into()),
            line("username", &broker.username, |name| name.as_str().into()),
            line("password", &broker.password, |password| match password {
                Password::Known(_) => "***".into(),
                Password::File(path) => format!("the first line of {}", path.display()).into(),
                Password::Command(command) => {
                    format!("the first line that {} prints", command.program).into()
                }
                Password::Prompt => "asked for on the terminal".into(),
            }),
            line("connect_timeout", &broker.connect_timeout, |timeout| {
                timeout.to_string().into()
            }),
            line("wait", &broker.wait, |span| span.to_string().into()),
            line("heartbeat", &broker.heartbeat, |heartbeat| {
                heartbeat.to_string().into()
            }),
        ]);
        list
    }
}

fn line<T>(
    key: &'static str,
    setting: &Setting<T>,
    value: impl FnOnce(&T) -> Value,
) -> ListedSetting {
    ListedSetting {
        key,
        value: value(&setting.value),
        otherwise: "",
        origin: setting.origin.clone(),
    }
}

fn optional<T>(
    key: &'static str,
    setting: &Setting<Option<T>>,
    otherwise: &'static str,
    value: impl FnOnce(&T) -> Value,
) -> ListedSetting {
    ListedSetting {
        otherwise,
        ..line(key, setting, |set| set.as_ref().map_or(json!(null), value))
    }
}
