//! The URL of a broker.

use std::borrow::Cow;
use std::path::PathBuf;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use url::Url;

use super::{
    ConnectTimeout, Heartbeat, Host, Mechanism, ONE_HOST, Secret, ServerName, VirtualHost,
    deserialize_by_parsing,
};

/// The URL of a broker: `amqp://USER:PASSWORD@HOST:PORT/VHOST`, or `amqps://` for TLS.
///
/// Source: <https://www.rabbitmq.com/docs/uri-spec>, except that `amqp://host/` means the
/// virtual host `/` instead of one with an empty name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerUrl {
    /// Whether the scheme is amqps.
    pub tls: bool,
    /// The host; `None` if the URL has none.
    pub host: Option<Host>,
    /// The TCP port, if the URL has one.
    pub port: Option<u16>,
    /// The virtual host; `/` if the URL has none.
    pub vhost: VirtualHost,
    /// The user, if the URL has one.
    pub username: Option<String>,
    /// The password, if the URL has one.
    pub password: Option<Secret>,
    /// The parameters after the `?`.
    pub parameters: Parameters,
}

deserialize_by_parsing!(BrokerUrl);

/// The parameters of a URL that hello-mq knows.
///
/// Source: <https://www.rabbitmq.com/docs/uri-query-parameters>. `connection_timeout` is in
/// milliseconds and `heartbeat` in seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Parameters {
    pub auth_mechanism: Option<Mechanism>,
    pub cacertfile: Option<PathBuf>,
    pub certfile: Option<PathBuf>,
    pub connection_timeout: Option<ConnectTimeout>,
    pub heartbeat: Option<Heartbeat>,
    pub keyfile: Option<PathBuf>,
    pub server_name_indication: Option<ServerName>,
    /// Whether `verify` is `verify_none`.
    pub insecure: Option<bool>,
}

/// Whether a text that is not a URL lists several hosts, as other clients allow.
fn has_several_hosts(text: &str) -> bool {
    let authority = text
        .split_once("://")
        .and_then(|(_, rest)| rest.split(['/', '?', '#']).next());
    let hosts = authority.and_then(|authority| match authority.rsplit_once('@') {
        Some((_, hosts)) => Some(hosts),
        // The comma may be part of the password.
        None => (!text.contains('@')).then_some(authority),
    });
    hosts.is_some_and(|hosts| hosts.contains(','))
}

const URL_FORMAT: &str = "expected amqp://USER:PASSWORD@HOST:PORT/VHOST";

impl FromStr for BrokerUrl {
    type Err = String;

    /// Parses a URL. Errors do not repeat any part that may contain a password.
    fn from_str(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| {
            if has_several_hosts(text) {
                return ONE_HOST.to_owned();
            }
            format!("not a URL: {error}; {URL_FORMAT}, with reserved characters percent-encoded")
        })?;
        let tls = match url.scheme() {
            "amqp" | "amqps" if !text.contains("://") => {
                return Err(format!("not a broker's URL; {URL_FORMAT}"));
            }
            "amqp" => false,
            "amqps" => true,
            _ => return Err(format!("the scheme is not amqp or amqps; {URL_FORMAT}")),
        };
        // The rest may be part of a password with unencoded reserved characters, so no error repeats it.
        if url.fragment().is_some() {
            return Err("a '#' must be written %23".to_owned());
        }
        if url.path().contains('@') || url.query().is_some_and(|query| query.contains('@')) {
            return Err(
                "a '/' in the user or password must be written %2F, a '?' %3F, and a '@' in \
                        the virtual host %40"
                    .to_owned(),
            );
        }
        if url.port() == Some(0) {
            return Err("a port must be a number from 1 to 65535".to_owned());
        }
        let vhost = match url.path().strip_prefix('/').unwrap_or_default() {
            "" => VirtualHost::default(),
            path if path.contains('/') => {
                return Err("a '/' inside the virtual host must be written %2F".to_owned());
            }
            path => decode(path, "virtual host")?.parse()?,
        };
        let host = match url.host_str() {
            None | Some("") => None,
            Some(host) => Some(Host {
                port: None,
                ..decode(host, "host")?.parse()?
            }),
        };
        let username = match url.username() {
            "" => None,
            username => Some(decode(username, "user")?.into_owned()),
        };
        let password = match url.password() {
            None => None,
            Some(password) => Some(Secret::new(decode(password, "password")?.into_owned())),
        };
        if [username.as_deref(), password.as_ref().map(Secret::expose)]
            .into_iter()
            .flatten()
            .any(|text| text.contains('\0'))
        {
            return Err("user and password can't contain a NUL".to_owned());
        }
        let parameters = parameters(&url)?;
        if !tls && parameters.is_about_tls() {
            return Err("it has TLS parameters; write amqps://".to_owned());
        }
        Ok(Self {
            tls,
            host,
            port: url.port(),
            vhost,
            username,
            password,
            parameters,
        })
    }
}

impl Parameters {
    fn is_about_tls(&self) -> bool {
        self.cacertfile.is_some()
            || self.certfile.is_some()
            || self.keyfile.is_some()
            || self.server_name_indication.is_some()
            || self.insecure.is_some()
    }
}

fn parameters(url: &Url) -> Result<Parameters, String> {
    let mut parameters = Parameters::default();
    let mut seen = Vec::new();
    for (key, value) in url.query_pairs() {
        let value = value.as_ref();
        match key.as_ref() {
            "auth_mechanism" => parameters.auth_mechanism = Some(known(&key, value.parse())?),
            "cacertfile" => parameters.cacertfile = Some(file(&key, value)?),
            "certfile" => parameters.certfile = Some(file(&key, value)?),
            "connection_timeout" => {
                parameters.connection_timeout = Some(known(
                    &key,
                    number(value, "ms").and_then(|text| text.parse()),
                )?);
            }
            "heartbeat" => {
                parameters.heartbeat = Some(known(
                    &key,
                    number(value, "s").and_then(|text| text.parse()),
                )?);
            }
            "keyfile" => parameters.keyfile = Some(file(&key, value)?),
            "server_name_indication" => {
                parameters.server_name_indication = Some(known(&key, value.parse())?);
            }
            "verify" => {
                parameters.insecure = Some(match value {
                    "verify_peer" => false,
                    "verify_none" => true,
                    _ => return Err("verify: must be verify_peer or verify_none".to_owned()),
                });
            }
            // The parameter may be part of a password, so the error does not repeat it.
            _ => {
                return Err(
                    "unknown parameter; hello-mq supports auth_mechanism, cacertfile, certfile, \
                     connection_timeout, heartbeat, keyfile, server_name_indication and verify; a '?' that \
                     is part of the user or password is written %3F"
                        .to_owned(),
                );
            }
        }
        if seen.contains(&key) {
            return Err(format!("{key}: is given twice"));
        }
        seen.push(key);
    }
    Ok(parameters)
}

fn known<T>(key: &str, value: Result<T, String>) -> Result<T, String> {
    value.map_err(|problem| format!("{key}: {problem}"))
}

fn file(key: &str, value: &str) -> Result<PathBuf, String> {
    match value {
        "" => Err(format!("{key}: is empty")),
        path => Ok(PathBuf::from(path)),
    }
}

fn number(value: &str, unit: &str) -> Result<String, String> {
    match value.parse::<u32>() {
        Ok(number) => Ok(format!("{number}{unit}")),
        Err(_) => Err("is not a number".to_owned()),
    }
}

fn decode<'t>(text: &'t str, part: &str) -> Result<Cow<'t, str>, String> {
    percent_decode_str(text)
        .decode_utf8()
        .map_err(|_| format!("the percent-decoded {part} is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> BrokerUrl {
        text.parse().unwrap()
    }

    #[test]
    fn a_url_without_path_or_with_an_empty_one_means_the_default_virtual_host() {
        for text in [
            "amqp://host",
            "amqp://host/",
            "amqp://host/%2F",
            "amqps://host/%2f",
        ] {
            assert_eq!(url(text).vhost.as_str(), "/", "{text}");
        }
    }

    #[test]
    fn the_scheme_says_whether_it_is_tls() {
        assert!(!url("amqp://host").tls);
        assert!(url("amqps://host").tls);
        assert!(url("AMQPS://host").tls);
    }

    #[test]
    fn every_part_of_a_url_is_percent_decoded() {
        let url = url("amqp://a%40b:p%3Aw%2F%C3%A9@h%6fst:1/v%2Fh%23");
        assert_eq!(url.username.as_deref(), Some("a@b"));
        assert_eq!(url.password, Some(Secret::new("p:w/é".to_owned())));
        assert_eq!(url.host.as_ref().map(Host::name), Some("host"));
        assert_eq!((url.port, url.vhost.as_str()), (Some(1), "v/h#"));
    }

    #[test]
    fn a_url_may_hold_an_ipv6_address() {
        assert_eq!(url("amqps://[::1]:7/x").host, Some("::1".parse().unwrap()));
    }

    #[test]
    fn what_a_url_leaves_out_is_left_out() {
        let url = url("amqp://");
        assert_eq!((url.host, url.username, url.password), (None, None, None));
        assert_eq!((url.port, url.parameters), (None, Parameters::default()));
    }

    #[test]
    fn the_parameters_of_rabbitmqs_own_urls_are_understood() {
        let url = url(
            "amqps://h/v?cacertfile=/c%20a&certfile=c&keyfile=k&verify=verify_none&heartbeat=5\
             &connection_timeout=1500&auth_mechanism=external&server_name_indication=n",
        );
        let expected = Parameters {
            auth_mechanism: Some(Mechanism::External),
            cacertfile: Some("/c a".into()),
            certfile: Some("c".into()),
            connection_timeout: Some("1500ms".parse().unwrap()),
            heartbeat: Some("5s".parse().unwrap()),
            keyfile: Some("k".into()),
            server_name_indication: Some("n".parse().unwrap()),
            insecure: Some(true),
        };
        assert_eq!((url.vhost.as_str(), url.parameters), ("v", expected));
        for (text, part) in [
            ("amqp://h/?channel_max=1", "unknown parameter"),
            (
                "amqps://h/?heartbeat=1&heartbeat=2",
                "heartbeat: is given twice",
            ),
            ("amqps://h/?heartbeat=5s", "heartbeat: is not a number"),
            ("amqps://h/?connection_timeout=0", "connection_timeout: 0ms"),
            ("amqps://h/?verify=yes", "verify: must be verify_peer or"),
            ("amqps://h/?cacertfile=", "cacertfile: is empty"),
            ("amqp://h/?cacertfile=x", "write amqps://"),
        ] {
            let error = text.parse::<BrokerUrl>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn several_hosts_are_told_from_one() {
        for text in [
            "amqp://h1,h2/",
            "amqps://h1,h2",
            "amqp://h1:1,h2:2/v",
            "amqp://u:p,w@h1:1,h2?heartbeat=1",
        ] {
            assert_eq!(text.parse::<BrokerUrl>().unwrap_err(), ONE_HOST, "{text}");
        }
        assert!("amqp://u,v:p,w@h/a,b".parse::<BrokerUrl>().is_ok());
        let error = "amqp://u:s3,cret/@h".parse::<BrokerUrl>().unwrap_err();
        assert_ne!(error, ONE_HOST);
    }

    #[test]
    fn a_bad_url_is_refused_without_repeating_its_password() {
        for text in [
            "amqp://u:s3cret@host/a/b",
            "amqp://u:s3cret@host/?x=1",
            "amqp://u:?s3cret@host/",
            "amqp://u:?s3cret=1@host/",
            "amqp://u:a?s3cret",
            "amqp://u:a?verify=s3cret",
            "amqp://u:a?heartbeat=s3cret",
            "amqp://u:s3cret@host:99999/",
            "amqp://u:s3cret@host/#x",
            "amqp:u:s3cret@host",
            "http://u:s3cret@host/",
            "amqps:u:s3cret@host/",
            "u:s3cret@host",
            "amqp://u:s3cret%FF@host/",
            "",
        ] {
            let error = text.parse::<BrokerUrl>().unwrap_err();
            assert!(!error.contains("s3cret"), "{text}: {error}");
        }
    }
}
