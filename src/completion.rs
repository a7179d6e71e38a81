//! Completion of the command line: the scripts, and the answers that they ask for.
//!
//! A script runs hello-mq itself with [`VARIABLE`] set to the shell's name, and behind `--` the words
//! up to the cursor. So it always fits the program, and the user's configuration.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Arg, Command, ValueHint};
use clap_complete::engine::{
    self, ArgValueCandidates, ArgValueCompleter, CompletionCandidate, PathCompleter,
};
use clap_complete::env::{CompleteEnv, Elvish, EnvCompleter, Powershell, Shells};

use crate::cli::{self, Shell};
use crate::config::{self, File};
use crate::definitions::Config;
use crate::message::Part;
use crate::topology::{Binding, Destination};

/// The variable by which a script asks.
pub const VARIABLE: &str = "_HELLO_MQ_COMPLETE";

/// Stands for the files, or the directories, that begin with what is typed: the shell itself lists
/// them, as it does for every command, and knows how to quote them.
const FILE_CANDIDATES: &str = "\u{1}files";
const DIRECTORIES: &str = "\u{1}directories";

/// The script for a shell.
#[allow(clippy::match_same_arms)] // Only as long as two files are equal.
pub fn script(shell: Shell) -> &'static str {
    match shell {
        Shell::Bash => include_str!("../completions/hello-mq.bash"),
        Shell::Zsh => include_str!("../completions/_hello-mq"),
        Shell::Fish => include_str!("../completions/hello-mq.fish"),
        Shell::PowerShell => include_str!("../completions/hello-mq.ps1"),
        Shell::Elvish => include_str!("../completions/hello-mq.elv"),
    }
}

/// Answers a shell that asks how the command line could go on; returns whether one did.
///
/// Whatever is wrong, with the configuration or else, nothing is said: it would stand in the middle of
/// what the user is typing.
pub fn answer() -> bool {
    let Some(shell) = env::var_os(VARIABLE).filter(|shell| !shell.is_empty()) else {
        return false;
    };
    let lists_files = !NativeShell::is_one(&shell);
    let shells: [&dyn EnvCompleter; 5] = [
        &NativeShell(Shell::Bash),
        &NativeShell(Shell::Zsh),
        &NativeShell(Shell::Fish),
        &Elvish,
        &Powershell,
    ];
    let here = env::current_dir().ok();
    let _ = CompleteEnv::with_factory(|| command(lists_files))
        .var(VARIABLE)
        .shells(Shells(&shells))
        .try_complete(env::args_os(), here.as_deref());
    true
}

/// A shell whose script is our own.
struct NativeShell(Shell);

impl NativeShell {
    fn is_one(name: &OsStr) -> bool {
        [Shell::Bash, Shell::Zsh, Shell::Fish]
            .iter()
            .any(|shell| name == Self(*shell).name())
    }
}

impl EnvCompleter for NativeShell {
    fn name(&self) -> &'static str {
        match self.0 {
            Shell::Bash => "bash",
            Shell::Zsh => "zsh",
            Shell::Fish => "fish",
            Shell::PowerShell => "powershell",
            Shell::Elvish => "elvish",
        }
    }

    fn is(&self, name: &str) -> bool {
        name == self.name()
    }

    fn write_registration(
        &self,
        _var: &str,
        _name: &str,
        _bin: &str,
        _completer: &str,
        to: &mut dyn Write,
    ) -> io::Result<()> {
        to.write_all(script(self.0).as_bytes())
    }

    /// Writes a line that says what follows, and, if it is `words`, a line for each: the word, a
    /// tab, and what it means.
    fn write_complete(
        &self,
        command: &mut Command,
        words: Vec<OsString>,
        here: Option<&Path>,
        to: &mut dyn Write,
    ) -> io::Result<()> {
        if let Some(start) = start_of_command(command, &words) {
            return writeln!(to, "command\t{start}");
        }
        let Some(at) = words.len().checked_sub(1) else {
            return Ok(());
        };
        let is_empty = words.last().is_some_and(|word| word.is_empty());
        let mut candidates: Vec<_> = engine::complete(command, words, at, here)?
            .iter()
            .filter_map(|candidate| {
                let value = candidate.get_value().to_str()?.to_owned();
                let help = candidate.get_help().map(ToString::to_string);
                Some((value, help.unwrap_or_default()))
            })
            .collect();
        for (marker, what) in [(FILE_CANDIDATES, "files"), (DIRECTORIES, "directories")] {
            let marked = |(value, _): &(String, String)| value.strip_suffix(marker).map(str::len);
            if let Some((prefix, (value, _))) = candidates
                .iter()
                .find_map(|candidate| Some((marked(candidate)?, candidate)))
            {
                return writeln!(to, "{what}\t{}", &value[..prefix]);
            }
        }
        // Options come when they are asked for by a dash, or when there is nothing else.
        if is_empty && candidates.iter().any(|(value, _)| !value.starts_with('-')) {
            candidates.retain(|(value, _)| !value.starts_with('-'));
        }
        writeln!(to, "words")?;
        for (value, help) in candidates {
            // Such a name can't be typed either.
            if value.chars().any(char::is_control) {
                continue;
            }
            writeln!(to, "{value}\t{}", gist(&help))?;
        }
        Ok(())
    }
}

/// What matters of an option's help beside its name.
fn gist(help: &str) -> String {
    let line = help.lines().next().unwrap_or_default();
    let ends = ["; ", ". ", " [", ": "].map(|end| line.find(end).unwrap_or(line.len()));
    let end = ends.into_iter().min().unwrap_or(line.len());
    line[..end].replace('\t', " ")
}

/// Where the command behind `receive ... --` starts, if the last word belongs to it.
fn start_of_command(command: &Command, words: &[OsString]) -> Option<usize> {
    let (_, before) = words.split_last()?;
    let escape = before.iter().position(|word| word == "--")?;
    let verb = before[..escape]
        .iter()
        .skip(1)
        .find_map(|word| command.find_subcommand(word))?;
    (verb.get_name() == "receive").then_some(escape + 1)
}

/// The command line as clap knows it, and what the configuration adds to it.
fn command(lists_files: bool) -> Command {
    let knowing = |arg: Arg| knowing(arg, lists_files);
    cli::command()
        .mut_args(knowing)
        .mut_subcommands(|verb| verb.mut_args(knowing))
}

/// An argument that knows more of its values than it accepts.
fn knowing(arg: Arg, lists_files: bool) -> Arg {
    let named = |list: fn(&File) -> Vec<String>| {
        ArgValueCandidates::new(move || candidates(configured(list)))
    };
    let words = |list: &'static [&'static str]| ArgValueCandidates::new(move || candidates(list));
    match arg.get_id().as_str() {
        "profile" => arg.add(named(profiles)),
        "queue" | "reply_to" => arg.add(named(queues)),
        "name" if arg.is_positional() => arg.add(named(queues)),
        "exchange" | "alternate_exchange" | "dead_letter_exchange" | "destination_exchange" => {
            arg.add(named(exchanges))
        }
        "forward_to" => arg.add(named(targets)),
        "exchange_type" => arg.add(words(&["direct", "fanout", "topic", "headers"])),
        "stream_offset" => arg.add(words(&["first", "last", "next"])),
        "timestamp" => arg.add(words(&["now"])),
        "without" => arg.add(words(&Part::NAMES)),
        "keep" => arg.add(words(&["headers.CC", "headers.BCC"])),
        _ => match (arg.get_value_hint(), lists_files) {
            (ValueHint::AnyPath | ValueHint::FilePath, true) => {
                arg.add(ArgValueCompleter::new(PathCompleter::any()))
            }
            (ValueHint::DirPath, true) => arg.add(ArgValueCompleter::new(PathCompleter::dir())),
            (ValueHint::AnyPath | ValueHint::FilePath, false) => arg.add(marker(FILE_CANDIDATES)),
            (ValueHint::DirPath, false) => arg.add(marker(DIRECTORIES)),
            _ => arg,
        },
    }
}

fn marker(marker: &'static str) -> ArgValueCompleter {
    ArgValueCompleter::new(move |_: &OsStr| candidates([marker]))
}

fn candidates(values: impl IntoIterator<Item = impl Into<OsString>>) -> Vec<CompletionCandidate> {
    values.into_iter().map(CompletionCandidate::new).collect()
}

/// What the configuration file has, each once and in order; nothing if it can't be read.
fn configured(list: fn(&File) -> Vec<String>) -> Vec<String> {
    let place = config::place(named_file().as_deref(), |name| env::var_os(name));
    let mut names = match config::read(place) {
        Ok(Some(file)) => list(&file),
        Ok(None) | Err(_) => Vec::new(),
    };
    names.sort();
    names.dedup();
    names
}

/// The file that the command line names so far.
fn named_file() -> Option<PathBuf> {
    let words: Vec<_> = env::args_os().collect();
    let follows = |pair: &[OsString]| (pair[0] == "--config").then(|| pair[1].clone());
    let holds = |word: &OsString| Some(word.to_str()?.strip_prefix("--config=")?.into());
    words
        .windows(2)
        .find_map(follows)
        .or_else(|| words.iter().find_map(holds))
        .map(PathBuf::from)
}

fn profiles(file: &File) -> Vec<String> {
    file.config.profiles.keys().cloned().collect()
}

/// Queues that are defined, bound, or the default of the file or of a profile.
fn queues(file: &File) -> Vec<String> {
    let default = |config: &Config| Some(config.queue.as_ref()?.get_ref().clone());
    let topology = &file.topology;
    let tables = file.config.profiles.values().map(toml::Spanned::get_ref);
    let bound = |binding: &Binding| match &binding.destination {
        Destination::Queue(name) => name.clone(),
        Destination::Exchange(_) => None,
    };
    tables
        .chain([&file.config])
        .filter_map(default)
        .chain(
            topology
                .queues
                .iter()
                .filter_map(|queue| queue.name.clone()),
        )
        .chain(topology.bindings.iter().filter_map(bound))
        .map(|name| name.as_str().to_owned())
        .collect()
}

/// Exchanges that are defined, or bound.
fn exchanges(file: &File) -> Vec<String> {
    let topology = &file.topology;
    let defined = topology.exchanges.iter().map(|exchange| &exchange.name);
    let bound = topology.bindings.iter().map(|binding| &binding.exchange);
    defined
        .chain(bound)
        .map(|name| name.as_str().to_owned())
        .collect()
}

/// Where messages can be forwarded to: `:QUEUE`, or `EXCHANGE:` and a routing key.
fn targets(file: &File) -> Vec<String> {
    let queues = queues(file).into_iter().map(|queue| format!(":{queue}"));
    let exchanges = exchanges(file).into_iter().map(|name| format!("{name}:"));
    queues.chain(exchanges).collect()
}
