//! `config.example.toml`, made of man/prose/config.example.txt and the definitions of the settings;
//! and the page of the configuration file, made of the example.
//!
//! There a block is a comment and the keys or the table's heading that it explains. A line of a
//! comment begins with `# `, what is commented out with `#` alone.

use std::fs;

use clap::Command;
use hello_mq::cli;
use hello_mq::definitions::{Broker, Definition, ReceiveSettings, SendSettings, Tls};

use super::page::Page;
use super::{compare_file, project};

#[test]
fn the_example_is_what_the_definitions_and_the_prose_say() {
    compare_file("config.example.toml", &example());
}

/// The example. A block of the prose that is `@TABLE` stands for the settings of that table.
fn example() -> String {
    let prose = fs::read_to_string(project("man/prose/config.example.txt")).unwrap();
    let shared = cli::command();
    let of_command = |name| shared.find_subcommand(name).unwrap();
    let blocks: Vec<_> = prose
        .trim()
        .split("\n\n")
        .flat_map(|block| match block {
            "@broker" => settings(&shared, Broker::DEFINITIONS),
            "@tls" => settings(&shared, Tls::DEFINITIONS),
            "@send" => settings(of_command("send"), SendSettings::DEFINITIONS),
            "@receive" => settings(of_command("receive"), ReceiveSettings::DEFINITIONS),
            block => vec![block.to_owned()],
        })
        .collect();
    blocks.join("\n\n") + "\n"
}

/// The block of each setting: the help of its option, and its key.
fn settings(command: &Command, definitions: &[Definition]) -> Vec<String> {
    let block = |definition: &Definition| {
        let option = command
            .get_arguments()
            .find(|argument| argument.get_id() == definition.key)
            .unwrap();
        let help = option.get_long_help().or(option.get_help()).unwrap();
        let help = help.to_string().replace("\n\n", ". ");
        let default = (definition.default)();
        let in_help = default.as_ref().map(|text| format!(" [default: {text}]"));
        let text = help.replace(in_help.as_deref().unwrap_or_default(), "");
        let text = format!("{}.", text.trim_end_matches('.'));
        let text = match (default, definition.is_optional) {
            (Some(default), true) => format!("{text} (Default: {default}.)"),
            (None, true) => format!("{text} (No default.)"),
            (_, false) => text,
        };
        let key = format!("#{} = {}", definition.key, (definition.example)());
        format!("{}\n{key}", comment(&text))
    };
    definitions.iter().map(block).collect()
}

/// A comment of at most 100 columns.
fn comment(text: &str) -> String {
    let mut lines = vec!["#".to_owned()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= 100 => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(format!("# {word}")),
        }
    }
    lines.join("\n")
}

/// The page.
pub fn page(commands: &[String]) -> String {
    let example = example();
    let mut page = Page::new("hello-mq.toml", "5");
    page.heading("NAME");
    page.line(vec![roff::roman(
        "hello-mq.toml - configuration of hello-mq",
    )]);
    page.heading("DESCRIPTION");
    let mut blocks = example.trim().split("\n\n").map(Block::read);
    for block in blocks.by_ref().take_while(|block| block.code.is_empty()) {
        page.paragraph(&block.comment);
    }
    page.heading("KEYS");
    // The block that ended the introduction was taken with it.
    let first = example
        .trim()
        .split("\n\n")
        .map(Block::read)
        .find(|block| !block.code.is_empty());
    for block in first.into_iter().chain(blocks) {
        block.write(&mut page);
    }
    page.files();
    page.heading("EXAMPLES");
    page.paragraph("A profile, and a queue whose dead letters another queue keeps:");
    page.literal(&EXAMPLE.lines().collect::<Vec<_>>());
    let others = ["hello-mq".to_owned()]
        .into_iter()
        .chain(commands.iter().cloned());
    page.see_also(&others.map(|name| (name, "1")).collect::<Vec<_>>());
    page.finish()
}

const EXAMPLE: &str = r#"queue = "orders"

[profiles.staging]
url = "amqps://staging.example/orders"
username = "deploy"
password_command = ["pass", "show", "staging"]

[[exchanges]]
name = "dead-letters"
type = "fanout"
durable = true

[[queues]]
name = "orders"
type = "quorum"
dead_letter_exchange = "dead-letters"

[[queues]]
name = "dead-letters"
durable = true

[[bindings]]
exchange = "dead-letters"
queue = "dead-letters""#;

struct Block {
    comment: String,
    code: Vec<String>,
}

impl Block {
    fn read(block: &str) -> Self {
        let (comment, code): (Vec<_>, Vec<_>) = block
            .lines()
            .partition(|line| line.starts_with("# ") || *line == "#");
        Self {
            comment: comment
                .iter()
                .map(|line| line.trim_start_matches('#').trim())
                .collect::<Vec<_>>()
                .join(" "),
            code: code
                .iter()
                .map(|line| line.trim_start_matches('#').to_owned())
                .collect(),
        }
    }

    fn write(&self, page: &mut Page) {
        let (tables, keys): (Vec<_>, Vec<_>) =
            self.code.iter().partition(|line| line.starts_with('['));
        if let [table] = tables.as_slice() {
            page.subheading(table);
            if !self.comment.is_empty() {
                page.paragraph(&self.comment);
            }
            let keys: Vec<_> = keys.iter().map(|key| key.as_str()).collect();
            if !keys.is_empty() {
                page.literal(&keys);
            }
            return;
        }
        let keys: Vec<_> = keys.iter().map(|key| key.as_str()).collect();
        page.terms(&keys, &self.comment);
    }
}
