//! The settings and their origins, as `--explain` prints them.

use serde_json::Value;

use super::{Password, Settings};
use crate::cli::Verb;
use crate::definitions::{Broker, Listed, ListedSetting};

impl Settings {
    /// Returns the settings of `command`.
    #[must_use]
    pub fn listing(&self, command: &Verb) -> Vec<ListedSetting> {
        let mut list = vec![ListedSetting::optional(
            "config",
            &self.config,
            "no file",
            Listed::listed,
        )];
        if self.profile.value.is_some() {
            list.push(ListedSetting::optional(
                "profile",
                &self.profile,
                "none",
                Listed::listed,
            ));
        }
        list.extend(self.broker.list_all());
        list.push(ListedSetting::new("queue", &self.queue, |name| {
            name.as_str().into()
        }));
        match command {
            Verb::Declare(_) | Verb::Delete(_) | Verb::Purge(_) => {}
            Verb::Send(_) => list.extend(self.send.list()),
            Verb::Receive(_) => {
                list.extend(self.receive.list());
                list.extend(self.target.iter().flat_map(Broker::list_all).map(|listed| {
                    let key = format!("target.{}", listed.key);
                    ListedSetting { key, ..listed }
                }));
            }
        }
        list
    }
}

impl Broker {
    /// Returns each setting of the broker as `--explain` shows it.
    fn list_all(&self) -> Vec<ListedSetting> {
        let tls = &self.tls;
        let mut list = vec![
            ListedSetting::new("hosts", &self.hosts, |hosts| {
                hosts.iter().map(ToString::to_string).collect()
            }),
            ListedSetting::new("port", &self.port, |&port| port.into()),
            ListedSetting::new("tls", &tls.enabled, Listed::listed),
        ];
        if tls.enabled.value {
            list.extend(tls.list());
        }
        list.extend(self.list());
        for listed in &mut list {
            match listed.key.as_str() {
                "tls.key_file" if tls.cert_file.value.is_none() => listed.absent = "none",
                // The default depends on the other settings.
                "auth" => listed.value = mechanisms(self).into(),
                _ => {}
            }
        }
        list.push(ListedSetting::new("password", &self.password, password));
        list
    }
}

fn mechanisms(broker: &Broker) -> String {
    let names: Vec<_> = broker
        .mechanisms()
        .iter()
        .map(|mechanism| mechanism.as_str().to_lowercase())
        .collect();
    names.join(", else ")
}

fn password(password: &Password) -> Value {
    match password {
        Password::Known(_) => "***".into(),
        Password::File(path) => format!("the first line of {}", path.display()).into(),
        Password::Command(command) => {
            format!("the first line that {} prints", command.program).into()
        }
        Password::Prompt => "asked for on the terminal".into(),
    }
}
