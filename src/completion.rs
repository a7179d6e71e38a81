//! Completion of the command line: the scripts, and the answers to their requests.
//!
//! A script runs hello-mq with [`VARIABLE`] set to the name of the shell, and the words up to the cursor
//! after `--`. So completion always matches the program and the user's configuration.

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

/// The environment variable by which a script requests completions.
pub const VARIABLE: &str = "_HELLO_MQ_COMPLETE";

/// Candidates that stand for all matching files or directories. The shell lists and quotes them itself.
const FILE_CANDIDATES: &str = "\u{1}files";
const DIRECTORY_CANDIDATES: &str = "\u{1}directories";

/// Returns the script for a shell.
#[allow(clippy::match_same_arms)] // Two files may happen to be equal.
pub fn script(shell: Shell) -> &'static str {
    match shell {
        Shell::Bash => include_str!("../completions/hello-mq.bash"),
        Shell::Zsh => include_str!("../completions/_hello-mq"),
        Shell::Fish => include_str!("../completions/hello-mq.fish"),
        Shell::PowerShell => include_str!("../completions/hello-mq.ps1"),
        Shell::Elvish => include_str!("../completions/hello-mq.elv"),
    }
}

/// Answers a request for completions, and returns whether there was one.
///
/// Errors are ignored, because a message would appear in the middle of what the user types.
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
    let directory = env::current_dir().ok();
    let _ = CompleteEnv::with_factory(|| command(lists_files))
        .var(VARIABLE)
        .shells(Shells(&shells))
        .try_complete(env::args_os(), directory.as_deref());
    true
}

/// A shell for which hello-mq has a script of its own.
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

    /// Writes a line with the kind of the candidates, and for the kind `words` a line for each word, a
    /// tab and its meaning.
    fn write_complete(
        &self,
        command: &mut Command,
        mut words: Vec<OsString>,
        directory: Option<&Path>,
        to: &mut dyn Write,
    ) -> io::Result<()> {
        if let Some(start) = start_of_command(command, &words) {
            return writeln!(to, "command\t{start}");
        }
        let Some(mut index) = words.len().checked_sub(1) else {
            return Ok(());
        };
        // The engine would offer values that do not belong to the option after a blank.
        if index > 0 && requires_equals(command, &words[index - 1]) {
            index -= 1;
            words.remove(index);
        }
        let is_empty = words.last().is_some_and(|word| word.is_empty());
        let mut candidates: Vec<_> = engine::complete(command, words, index, directory)?
            .iter()
            .filter_map(|candidate| {
                let value = candidate.get_value().to_str()?.to_owned();
                let help = candidate.get_help().map(ToString::to_string);
                Some((value, help.unwrap_or_default()))
            })
            .collect();
        for (marker, what) in [
            (FILE_CANDIDATES, "files"),
            (DIRECTORY_CANDIDATES, "directories"),
        ] {
            let marked = |(value, _): &(String, String)| value.strip_suffix(marker).map(str::len);
            if let Some((prefix, (value, _))) = candidates
                .iter()
                .find_map(|candidate| Some((marked(candidate)?, candidate)))
            {
                return writeln!(to, "{what}\t{}", &value[..prefix]);
            }
        }
        // Options are offered after a dash, or if there is nothing else.
        if is_empty && candidates.iter().any(|(value, _)| !value.starts_with('-')) {
            candidates.retain(|(value, _)| !value.starts_with('-'));
        }
        writeln!(to, "words")?;
        for (value, help) in candidates {
            // The shell could not insert such a name.
            if value.chars().any(char::is_control) {
                continue;
            }
            writeln!(to, "{value}\t{}", first_phrase(&help))?;
        }
        Ok(())
    }
}

/// Returns the first phrase of an option's help.
fn first_phrase(help: &str) -> String {
    let line = help.lines().next().unwrap_or_default();
    let ends = ["; ", ". ", " [", ": "].map(|end| line.find(end).unwrap_or(line.len()));
    let end = ends.into_iter().min().unwrap_or(line.len());
    line[..end].replace('\t', " ")
}

/// Whether a word is an option whose value is only ever behind `=`.
fn requires_equals(command: &Command, word: &OsStr) -> bool {
    let Some(name) = word.to_str().and_then(|word| word.strip_prefix("--")) else {
        return false;
    };
    let mut options = command.get_subcommands().flat_map(Command::get_arguments);
    options.any(|arg| arg.get_long() == Some(name) && arg.is_require_equals_set())
}

/// Returns the position of the command after `receive ... --`, if the last word belongs to it.
fn start_of_command(command: &Command, words: &[OsString]) -> Option<usize> {
    let (_, before) = words.split_last()?;
    let escape = before.iter().position(|word| word == "--")?;
    let verb = before[..escape]
        .iter()
        .skip(1)
        .find_map(|word| command.find_subcommand(word))?;
    (verb.get_name() == "receive").then_some(escape + 1)
}

/// Returns clap's command with the candidates from the configuration.
fn command(lists_files: bool) -> Command {
    let with_candidates = |arg: Arg| with_candidates(arg, lists_files);
    cli::command()
        .mut_args(with_candidates)
        .mut_subcommands(|verb| verb.mut_args(with_candidates))
}

/// Adds candidates to an argument.
fn with_candidates(arg: Arg, lists_files: bool) -> Arg {
    let named = |list: fn(&File) -> Vec<String>| {
        ArgValueCandidates::new(move || candidates(configured(list)))
    };
    let words = |list: &'static [&'static str]| ArgValueCandidates::new(move || candidates(list));
    match arg.get_id().as_str() {
        "profile" | "to_profile" => arg.add(named(profiles)),
        "queue" | "reply_to" => arg.add(named(queues)),
        "name" if arg.is_positional() => arg.add(named(queues)),
        "exchange" | "alternate_exchange" | "dead_letter_exchange" | "destination_exchange" => {
            arg.add(named(exchanges))
        }
        "forward_to" => arg.add(named(targets)),
        "exchange_type" => arg.add(words(&["direct", "fanout", "topic", "headers"])),
        "stream_offset" => arg.add(words(&["first", "last", "next"])),
        "pace" => arg.add(words(&["recorded", "2x", "0.5x"])),
        "timestamp" => arg.add(words(&["now"])),
        "without" => arg.add(words(&Part::NAMES)),
        "keep" => arg.add(words(&["headers.CC", "headers.BCC"])),
        _ => match (arg.get_value_hint(), lists_files) {
            (ValueHint::AnyPath | ValueHint::FilePath, true) => {
                arg.add(ArgValueCompleter::new(PathCompleter::any()))
            }
            (ValueHint::DirPath, true) => arg.add(ArgValueCompleter::new(PathCompleter::dir())),
            (ValueHint::AnyPath | ValueHint::FilePath, false) => arg.add(marker(FILE_CANDIDATES)),
            (ValueHint::DirPath, false) => arg.add(marker(DIRECTORY_CANDIDATES)),
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

/// Returns sorted, unique names from the configuration file; none if it can't be read.
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

/// Returns the configuration file that the command line names.
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

/// Returns the queues that are defined, bound, or a default.
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

/// Returns the exchanges that are defined or bound.
fn exchanges(file: &File) -> Vec<String> {
    let topology = &file.topology;
    let defined = topology.exchanges.iter().map(|exchange| &exchange.name);
    let bound = topology.bindings.iter().map(|binding| &binding.exchange);
    defined
        .chain(bound)
        .map(|name| name.as_str().to_owned())
        .collect()
}

/// Returns targets for forwarding: `:QUEUE`, or `EXCHANGE:` for a routing key to follow.
fn targets(file: &File) -> Vec<String> {
    let queues = queues(file).into_iter().map(|queue| format!(":{queue}"));
    let exchanges = exchanges(file).into_iter().map(|name| format!("{name}:"));
    queues.chain(exchanges).collect()
}
