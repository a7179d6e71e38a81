//! The settings and their origins, as `--explain` prints them.

use serde_json::Value;

use super::{Password, Settings};
use crate::cli::Verb;
use crate::definitions::{Listed, ListedSetting};

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
        list.extend(self.of_broker());
        list.push(ListedSetting::new("queue", &self.queue, |name| {
            name.as_str().into()
        }));
        match command {
            Verb::Declare(_) | Verb::Delete(_) | Verb::Purge(_) => {}
            Verb::Send(_) => list.extend(self.send.list()),
            Verb::Receive(_) => list.extend(self.receive.list()),
        }
        list
    }

    fn of_broker(&self) -> Vec<ListedSetting> {
        let broker = &self.broker;
        let tls = &broker.tls;
        let mut list = vec![
            ListedSetting::new("hosts", &broker.hosts, |hosts| {
                hosts.iter().map(ToString::to_string).collect()
            }),
            ListedSetting::new("port", &broker.port, |&port| port.into()),
            ListedSetting::new("tls", &tls.enabled, Listed::listed),
        ];
        if tls.enabled.value {
            list.extend(tls.list());
        }
        list.extend(broker.list());
        for listed in &mut list {
            match listed.key {
                "tls.key_file" if tls.cert_file.value.is_none() => listed.absent = "none",
                // The default depends on the other settings.
                "auth" => listed.value = mechanisms(self).into(),
                _ => {}
            }
        }
        list.push(ListedSetting::new("password", &broker.password, password));
        list
    }
}

fn mechanisms(settings: &Settings) -> String {
    let names: Vec<_> = settings
        .broker
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
