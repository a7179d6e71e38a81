//! The page of the configuration file, made of config.example.toml.
//!
//! There a block is a comment and the keys or the table's heading that it explains. A line of a
//! comment begins with `# `, what is commented out with `#` alone.

use std::fs;

use super::page::Page;
use super::project;

/// The page.
pub fn page(commands: &[String]) -> String {
    let example = fs::read_to_string(project("config.example.toml")).unwrap();
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
    page.paragraph("A profile, and a queue with a dead-letter exchange:");
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
dead_letter_exchange = "dead-letters""#;

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
