//! The pages of the manual.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command as Process;

use clap::Command;
use hello_mq::cli;
use roff::{bold, roman};

use super::page::Page;
use super::{compare, configuration, project};

#[test]
fn the_pages_are_what_the_options_and_the_prose_say() {
    compare("man", &pages());
}

#[test]
fn the_pages_are_good_roff() {
    for (name, source) in pages() {
        let headings = source.lines().filter(|line| line.starts_with(".SH "));
        let mut seen = BTreeSet::new();
        for heading in headings {
            assert!(seen.insert(heading), "{name}: {heading} twice");
        }
        let path = project("man").join(&name);
        for (program, arguments) in [
            ("groff", ["-man", "-Tutf8", "-ww", "-z"].as_slice()),
            ("mandoc", &["-T", "lint", "-W", "style"]),
        ] {
            let output = Process::new(program)
                .args(arguments)
                .arg(&path)
                .output()
                .unwrap_or_else(|error| panic!("{program}: {error}; scripts/setup manual"));
            let said =
                String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert!(output.status.success() && said.is_empty(), "{said}");
        }
    }
}

#[test]
fn man_shows_every_option_of_every_command() {
    let mut cli = cli::command();
    cli.build();
    for command in cli.get_subcommands() {
        let path = project("man").join(format!("hello-mq-{}.1", command.get_name()));
        let output = Process::new("man")
            .args(["-l", "-P", "cat"])
            .arg(&path)
            .env("MANWIDTH", "200")
            .env("LC_ALL", "C.UTF-8")
            .output()
            .expect("man; scripts/setup manual");
        let text = String::from_utf8(output.stdout).unwrap();
        for heading in [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "OPTIONS",
            "EXIT STATUS",
            "EXAMPLES",
            "SEE ALSO",
        ] {
            let number = text.lines().filter(|line| *line == heading).count();
            assert_eq!(number, 1, "{}: {heading}", path.display());
        }
        for argument in own_and_global(command) {
            let Some(long) = argument.get_long() else {
                continue;
            };
            let shown = match argument.get_short() {
                Some(short) => format!("-{short}, --{long}"),
                None => format!("--{long}"),
            };
            let found = text.lines().any(|line| {
                let rest = line.trim_start().strip_prefix(&shown);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '[']))
            });
            assert!(found, "{}: no {shown}", path.display());
            for value in argument.get_possible_values() {
                let name = value.get_name();
                assert!(
                    text.contains(name),
                    "{}: {shown}: no {name}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn a_terminal_gets_the_page_and_a_pipe_its_source() {
    let program = env!("CARGO_BIN_EXE_hello-mq");
    let on_terminal = |environment: &str| {
        let line = format!("env {environment} {program} man purge");
        let output = Process::new("script")
            .args(["-qec", &line, "/dev/null"])
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let shown = on_terminal("MANPAGER=cat TERM=dumb");
    assert!(
        !shown.contains(".SH") && shown.contains("HELLO-MQ-PURGE(1)"),
        "{shown}"
    );
    let source = on_terminal("PATH=/nowhere");
    assert!(
        source.contains("cannot show the page with man (") && source.contains(".SH NAME"),
        "{source}"
    );
}

/// Each page's file and its source.
fn pages() -> Vec<(String, String)> {
    let mut cli = cli::command();
    cli.build();
    let commands: Vec<_> = cli.get_subcommands().map(name).collect();
    let mut pages = vec![("hello-mq.1".to_owned(), main_page(&cli, &commands))];
    for command in cli.get_subcommands() {
        pages.push((
            format!("{}.1", name(command)),
            command_page(command, &commands),
        ));
    }
    pages.push(("hello-mq.toml.5".to_owned(), configuration::page(&commands)));
    pages
}

fn name(command: &Command) -> String {
    format!("hello-mq-{}", command.get_name())
}

fn prose(name: &str) -> String {
    fs::read_to_string(project("man/prose").join(format!("{name}.txt"))).unwrap()
}

fn start(command: &Command, name: &str) -> Page {
    let mut page = Page::new(name, "1");
    page.heading("NAME");
    let about = command.get_about().unwrap().to_string();
    page.line(vec![roman(format!("{name} - {}", lower_first(&about)))]);
    page
}

/// In a page's NAME a description has no capital.
fn lower_first(text: &str) -> String {
    let (first, rest) = text.split_at(1);
    first.to_lowercase() + rest
}

fn main_page(cli: &Command, commands: &[String]) -> String {
    let mut page = start(cli, "hello-mq");
    page.heading("SYNOPSIS");
    page.line(vec![
        bold("hello-mq"),
        roman(" COMMAND [OPTIONS] [ARGUMENTS]..."),
    ]);
    page.heading("DESCRIPTION");
    let text = prose("hello-mq");
    let (description, sections) = text.split_once("\n\n# ").unwrap();
    page.prose(description);
    page.heading("COMMANDS");
    for command in cli.get_subcommands() {
        let about = command.get_about().unwrap().to_string();
        page.item(&format!("{}(1)", name(command)), &format!("{about}."));
    }
    page.options(cli);
    page.prose(&format!("# {sections}"));
    page.environment();
    page.files();
    page.exit_statuses();
    page.examples(&cli.get_before_help().unwrap().to_string());
    let mut others: Vec<_> = commands.iter().map(|name| (name.clone(), "1")).collect();
    others.push(("hello-mq.toml".to_owned(), "5"));
    others.push(("rabbitmqctl".to_owned(), "8"));
    page.see_also(&others);
    page.finish()
}

/// Whether a command talks to a broker, and so takes the options that all share.
fn talks(command: &Command) -> bool {
    !matches!(command.get_name(), "completions" | "man")
}

fn own_and_global(command: &Command) -> impl Iterator<Item = &clap::Arg> {
    command
        .get_arguments()
        .filter(|argument| talks(command) || !argument.is_global_set())
}

fn command_page(command: &Command, commands: &[String]) -> String {
    let name = name(command);
    let mut page = start(command, &name);
    page.heading("SYNOPSIS");
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let typed = format!("hello-mq {}", command.get_name());
    let rest = usage.strip_prefix(&typed).unwrap().to_owned();
    let rest = if talks(command) {
        rest
    } else {
        rest.replace(" [OPTIONS]", "")
    };
    page.line(vec![bold(typed), roman(rest)]);
    page.heading("DESCRIPTION");
    let text = prose(&name);
    let (description, sections) = text.split_once("\n\n# ").unwrap_or((&text, ""));
    page.prose(description);
    if talks(command) {
        page.options(command);
    } else {
        let own = Command::new("own").disable_help_flag(true);
        page.options(&own.args(own_and_global(command)));
    }
    if !sections.is_empty() {
        page.prose(&format!("# {sections}"));
    }
    if talks(command) {
        page.environment();
        page.files();
    }
    page.exit_statuses();
    page.examples(&command.get_before_help().unwrap().to_string());
    let others = ["hello-mq".to_owned()]
        .into_iter()
        .chain(commands.iter().filter(|other| **other != name).cloned())
        .map(|name| (name, "1"))
        .chain([("hello-mq.toml".to_owned(), "5")]);
    page.see_also(&others.collect::<Vec<_>>());
    page.finish()
}
