//! Finds, reads and checks the configuration file.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use toml::Spanned;

use crate::definitions::{self, Config};
use crate::error::Error;
use crate::text;
use crate::topology::{BindingOptions, Topology, Violation};
use crate::values::BrokerUrl;

/// A configuration file that was read.
#[derive(Debug)]
pub struct File {
    /// The path of the file.
    pub path: PathBuf,
    /// The text of the file. The spans in `config` refer to it.
    pub text: String,
    /// The parsed text.
    pub config: Config,
    /// The queues, exchanges and bindings that it defines.
    pub topology: Topology,
}

/// The places to look for the file in.
#[derive(Debug, PartialEq, Eq)]
pub enum ConfigLocation {
    /// A file that the user named, which must exist.
    Named(PathBuf),
    /// The first of these files that exists, if any.
    Standard(Vec<PathBuf>),
}

/// Returns the location of the configuration file: `--config`, else `$HELLO_MQ_CONFIG`, else
/// `hello-mq/config.toml` in `$XDG_CONFIG_HOME` (or `~/.config`), else in `/etc`.
///
/// `variable` returns the value of an environment variable. An empty one counts as unset. A relative
/// `$XDG_CONFIG_HOME` is ignored (XDG Base Directory Specification).
pub fn place(flag: Option<&Path>, variable: impl Fn(&str) -> Option<OsString>) -> ConfigLocation {
    let variable = |name: &str| {
        variable(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(path) = flag
        .map(Path::to_owned)
        .or_else(|| variable("HELLO_MQ_CONFIG"))
    {
        return ConfigLocation::Named(path);
    }
    let home = variable("XDG_CONFIG_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| variable("HOME").map(|home| home.join(".config")));
    ConfigLocation::Standard(
        home.into_iter()
            .chain([PathBuf::from("/etc")])
            .map(|directory| directory.join("hello-mq/config.toml"))
            .collect(),
    )
}

/// Reads the configuration file, if there is one.
///
/// # Errors
/// [`Error::File`] if it can't be read or a named one is missing, [`Error::Config`] with file, line
/// and key if a key or a value is not valid.
pub fn read(place: ConfigLocation) -> Result<Option<File>, Error> {
    let (paths, named) = match place {
        ConfigLocation::Named(path) => (vec![path], true),
        ConfigLocation::Standard(paths) => (paths, false),
    };
    for path in paths {
        match fs::read_to_string(&path) {
            Ok(text) => {
                return parse(path, text).map(Some);
            }
            Err(error) if !named && is_absent(&error) => {}
            Err(source) => return Err(Error::File { path, source }),
        }
    }
    Ok(None)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

pub(crate) fn parse(path: PathBuf, text: String) -> Result<File, Error> {
    let config = parse_keys(&path, &text)?;
    let wrong = &|at: usize, problem: String| Error::Config {
        place: at_line(&path, line_of(&text, at)),
        problem,
    };
    check(&config, wrong)?;
    for profile in config.profiles.values() {
        let table = profile.get_ref();
        check(table, wrong)?;
        if let Some(at) = top_level_only(table) {
            let problem = "profiles, queues, exchanges and bindings belong at the top level of the file, \
                not in a profile";
            return Err(wrong(at, problem.to_owned()));
        }
    }
    let topology = topology(&config, wrong)?;
    Ok(File {
        path,
        text,
        config,
        topology,
    })
}

/// Rejects keys of one table that contradict each other.
fn check(config: &Config, wrong: impl Fn(usize, String) -> Error) -> Result<(), Error> {
    match (&config.host, &config.hosts) {
        (Some(_), Some(hosts)) => {
            let problem = "hosts: host is set, too; give only one of them";
            return Err(wrong(hosts.span().start, problem.to_owned()));
        }
        (None, Some(hosts)) if hosts.get_ref().is_empty() => {
            return Err(wrong(
                hosts.span().start,
                "hosts: must not be empty".to_owned(),
            ));
        }
        _ => {}
    }
    let mut passwords = [
        config
            .password
            .as_ref()
            .map(|value| ("password", value.span())),
        config
            .password_file
            .as_ref()
            .map(|value| ("password_file", value.span())),
        config
            .password_command
            .as_ref()
            .map(|value| ("password_command", value.span())),
    ]
    .into_iter()
    .flatten();
    if let (Some((first, _)), Some((second, span))) = (passwords.next(), passwords.next()) {
        let problem = format!("{second}: {first} is set, too; give only one of them");
        return Err(wrong(span.start, problem));
    }
    if let (Some(url), Some(tls)) = (&config.url, &config.tls) {
        if !url.get_ref().tls {
            let problem = "tls: the url has no TLS; write amqps://";
            return Err(wrong(tls.span().start, problem.to_owned()));
        }
    }
    Ok(())
}

/// Returns the offset of a key that is not permitted in a profile.
fn top_level_only(profile: &Config) -> Option<usize> {
    let starts = [
        profile
            .profiles
            .values()
            .map(|table| table.span().start)
            .min(),
        profile.queues.first().map(|table| table.span().start),
        profile.exchanges.first().map(|table| table.span().start),
        profile.bindings.first().map(|table| table.span().start),
    ];
    starts.into_iter().flatten().min()
}

/// Returns the topology that the file defines.
fn topology(config: &Config, wrong: impl Fn(usize, String) -> Error) -> Result<Topology, Error> {
    fn define<O: Clone, T>(
        tables: &[Spanned<O>],
        what: &str,
        wrong: impl Fn(usize, String) -> Error,
        define: impl Fn(O) -> Result<T, Violation>,
    ) -> Result<Vec<T>, Error> {
        let entry = |table: &Spanned<O>| {
            define(table.get_ref().clone()).map_err(|Violation { option, rule }| {
                let key = option.replace('-', "_").replace("argument ", "arguments: ");
                wrong(table.span().start, format!("{what}: {key}: {rule}"))
            })
        };
        tables.iter().map(entry).collect()
    }
    let no_name = || Violation {
        option: "name".to_owned(),
        rule: "is missing".to_owned(),
    };
    let twice = |name: String| Violation {
        option: "name".to_owned(),
        rule: format!("{name} is defined twice"),
    };
    let mut names = std::cell::RefCell::new(Vec::new());
    let exchanges = define(&config.exchanges, "[[exchanges]]", &wrong, |options| {
        options.name.as_ref().ok_or_else(no_name)?;
        let exchange = options.define()?;
        let name = exchange.to_string();
        if names.borrow().contains(&name) {
            return Err(twice(name));
        }
        names.borrow_mut().push(name);
        Ok(exchange)
    })?;
    names.get_mut().clear();
    let queues = define(&config.queues, "[[queues]]", &wrong, |options| {
        options.name.as_ref().ok_or_else(no_name)?;
        let queue = options.define()?;
        let name = queue.to_string();
        if names.borrow().contains(&name) {
            return Err(twice(name));
        }
        names.borrow_mut().push(name);
        Ok(queue)
    })?;
    let bindings = define(
        &config.bindings,
        "[[bindings]]",
        &wrong,
        BindingOptions::define,
    )?;
    Ok(Topology {
        exchanges,
        queues,
        bindings: bindings.into_iter().flatten().collect(),
    })
}

/// Returns `FILE:LINE`, escaped for the terminal.
fn at_line(path: &Path, line: usize) -> String {
    format!("{}:{line}", text::escape(&path.display().to_string()))
}

/// Words of the TOML parser, and those that replace them.
const PARSER_WORDING: &[(&str, &str)] = &[
    ("unknown field", "unknown key"),
    (
        "expected a nonzero u16",
        "expected an integer from 1 to 65535",
    ),
    ("expected u8", "expected an integer from 0 to 255"),
    ("expected u32", "expected an integer from 0 to 4294967295"),
    (
        "invalid type: map, expected a sequence",
        "must be a list (topology tables have double brackets: [[queues]])",
    ),
];

fn parse_keys(path: &Path, text: &str) -> Result<Config, Error> {
    // `Display` would show the line, which may contain a password.
    toml::from_str(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        let mut message = text::one_line(error.message());
        for (theirs, ours) in PARSER_WORDING {
            message = message.replace(theirs, ours);
        }
        let meant = meant(&message).unwrap_or_default();
        message += &meant;
        Error::Config {
            place: at_line(path, line_of(text, offset)),
            problem: match key_at(text, offset) {
                Some(key) if !message.contains("unknown key") => format!("{key}: {message}"),
                _ => message,
            },
        }
    })
}

/// Suggests the nearest key for an unknown one. The message quotes the unknown key first, and then all
/// valid ones.
fn meant(message: &str) -> Option<String> {
    let words = message.strip_prefix("unknown key `")?;
    let (unknown, known) = words.split_once("`, expected ")?;
    let known = known.split('`').skip(1).step_by(2);
    Some(format!(
        "; did you mean `{}`?",
        text::nearest(unknown, known)?
    ))
}

impl File {
    /// Returns whether the file itself contains a password.
    #[must_use]
    pub fn holds_password(&self) -> bool {
        fn holds(config: &Config) -> bool {
            let in_url = |url: &Spanned<BrokerUrl>| url.get_ref().password.is_some();
            config.password.is_some() || config.url.as_ref().is_some_and(in_url)
        }
        holds(&self.config)
            || self
                .config
                .profiles
                .values()
                .any(|profile| holds(profile.get_ref()))
    }

    /// Returns the `FILE:LINE` of a value.
    #[must_use]
    pub fn place_of<T>(&self, value: &Spanned<T>) -> String {
        at_line(&self.path, line_of(&self.text, value.span().start))
    }
}

/// Returns the number, from 1, of the line that contains the byte at `offset`.
fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())]
        .iter()
        .filter(|&&byte| byte == b'\n')
        .count()
        + 1
}

/// The keys that are not in [`definitions`]. Errors repeat only known keys of a line, because anything
/// else may be a part of a password.
const KEYS: &[&str] = &[
    "url",
    "host",
    "hosts",
    "port",
    "password",
    "password_file",
    "password_command",
    "queue",
    "tls",
    "profiles",
    "send",
    "receive",
    "name",
    "type",
    "durable",
    "auto_delete",
    "message_ttl",
    "expires",
    "max_length",
    "max_length_bytes",
    "overflow",
    "dead_letter_exchange",
    "dead_letter_routing_key",
    "max_priority",
    "delivery_limit",
    "single_active_consumer",
    "arguments",
    "internal",
    "alternate_exchange",
    "exchange",
    "destination_exchange",
    "routing_key",
    "routing_keys",
];

/// Returns the known key that the line with the byte at `offset` sets, if it does.
fn key_at(text: &str, offset: usize) -> Option<&str> {
    let line = text.lines().nth(line_of(text, offset) - 1)?;
    let key = line.split_once('=')?.0.trim();
    let is_known = KEYS.contains(&key) || definitions::all().any(|setting| setting.key == key);
    is_known.then_some(key)
}

#[cfg(test)]
mod tests;
