//! The parts of help and manual that are not about options: examples, exit statuses, environment,
//! files.

use std::fmt::Write as _;

use crate::error::Status;

/// The layout of a command's help. Examples and usage precede the options.
pub const TEMPLATE: &str =
    "{about-with-newline}\n{before-help}{usage-heading} {usage}\n\n{all-args}{after-help}";

/// The layout for a command without options.
pub const PLAIN_TEMPLATE: &str =
    "{about-with-newline}\n{before-help}{usage-heading} {usage}\n\n{positionals}{after-help}";

/// Examples of hello-mq as a whole.
pub const EXAMPLES: &str = "\
Examples:
  hello-mq send \"Hello World!\"   send a message to queue hello on localhost
  hello-mq receive               print what arrives there, until Ctrl+C
  hello-mq declare orders        create queue orders";

/// Examples of `declare`.
pub const DECLARE_EXAMPLES: &str = "\
Examples:
  hello-mq declare orders --durable
  hello-mq declare orders --type quorum --dead-letter-exchange dead-letters
  hello-mq declare mails -e events --exchange-type topic --bind 'mail.*'
  hello-mq declare --check orders     does it exist? (status 67 if not)
  hello-mq declare --all              everything in the configuration file";

/// Examples of `send`.
pub const SEND_EXAMPLES: &str = "\
Examples:
  hello-mq send \"Hello World!\"
  hello-mq send -q orders -f order.xml --content-type application/xml
  hello-mq send -e events -r order.created -H 'shop: 7' '{\"order\": 1}'
  tail -F app.log | hello-mq send -l -q log     each line is a message";

/// Examples of `receive`.
pub const RECEIVE_EXAMPLES: &str = "\
Examples:
  hello-mq receive orders                       print messages until Ctrl+C
  hello-mq receive -c 1 -o body orders          take one, and print its body
  hello-mq receive --drain -o json orders >orders.jsonl
  hello-mq receive --drain --where '.payload | test(\"tea\")' --forward-to :teas orders
  hello-mq receive --drain --replay dead-letters
  hello-mq receive orders -- ./handle-order     run a program for each message";

/// Examples of `delete`.
pub const DELETE_EXAMPLES: &str = "\
Examples:
  hello-mq delete orders
  hello-mq delete --if-empty --if-unused orders
  hello-mq delete --exchange events";

/// Examples of `purge`.
pub const PURGE_EXAMPLES: &str = "\
Examples:
  hello-mq purge orders
  hello-mq purge --yes orders     without asking
  hello-mq purge --where '.properties.headers.shop == \"7\"' orders";

/// Examples of `completions`.
pub const COMPLETIONS_EXAMPLES: &str = "\
Examples (packages do this already):
  hello-mq completions bash >~/.local/share/bash-completion/completions/hello-mq
  hello-mq completions zsh  >~/.zfunc/_hello-mq     with ~/.zfunc in $fpath
  hello-mq completions fish >~/.config/fish/completions/hello-mq.fish";

/// Examples of `man`.
pub const MAN_EXAMPLES: &str = "\
Examples:
  hello-mq man                        what hello-mq does, and what all commands share
  hello-mq man send                   the page of a command
  hello-mq man hello-mq.toml          the configuration file
  hello-mq man >~/.local/share/man/man1/hello-mq.1";

/// The environment variables and their meanings.
pub const ENVIRONMENT: &[(&str, &str)] = &[
    (
        "HELLO_MQ_URL",
        "The broker, like --url. A password in it does not appear in the process list.",
    ),
    ("AMQP_URL", "The same, if HELLO_MQ_URL is not set."),
    (
        "HELLO_MQ_PASSWORD",
        "The password. It overrides one in HELLO_MQ_URL or AMQP_URL, but not one from the command line.",
    ),
    ("HELLO_MQ_QUEUE", "The queue, like --queue."),
    ("HELLO_MQ_PROFILE", "The profile, like --profile."),
    ("HELLO_MQ_CONFIG", "The configuration file, like --config."),
    (
        "XDG_CONFIG_HOME",
        "The directory that contains hello-mq/config.toml, instead of ~/.config.",
    ),
    (
        "RUST_LOG",
        "What to log to standard error, such as debug or hello_mq=trace. Passwords are never logged.",
    ),
    (
        "NO_COLOR",
        "If it is not empty, turns colours off, unless --color is always.",
    ),
    (
        "CLICOLOR_FORCE",
        "If it is neither empty nor 0, turns colours on, even without a terminal.",
    ),
];

/// The files and their meanings.
pub const FILES: &[(&str, &str)] = &[
    (
        "~/.config/hello-mq/config.toml",
        "The user's configuration; see hello-mq.toml(5).",
    ),
    (
        "/etc/hello-mq/config.toml",
        "The configuration of users who have no file of their own.",
    ),
];

/// Returns the table at the end of every long help.
#[must_use]
pub fn exit_statuses() -> String {
    let mut table = "Exit status:".to_owned();
    for (status, meaning) in Status::MEANINGS {
        let lines = textwrap(meaning);
        for (number, line) in lines.iter().enumerate() {
            let code = match number {
                0 => status.code().to_string(),
                _ => String::new(),
            };
            // Writing to a string can't fail.
            let _ = write!(table, "\n  {code:>3}  {line}");
        }
    }
    table
}

/// Splits a text into lines that fit into the table.
fn textwrap(text: &str) -> Vec<String> {
    const WIDTH: usize = 93;
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + 1 + word.len() <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
