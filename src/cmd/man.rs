//! `hello-mq man`: shows a page of the manual on a terminal, and prints it elsewhere.

use std::io::{self, IsTerminal, Write};
use std::process::{Command, Stdio};

use super::write_all;
use crate::cli::{Man, Page};
use crate::error::Error;
use crate::messenger::Messenger;

/// Shows the page with `man` if standard output is a terminal, and otherwise prints its source.
pub fn run(arguments: &Man, messenger: &Messenger) -> Result<(), Error> {
    let text = text(arguments.page.unwrap_or(Page::HelloMq));
    if io::stdout().is_terminal() {
        match show(text) {
            Ok(()) => return Ok(()),
            Err(error) => messenger.note(&format!(
                "cannot show the page with man ({error}); printing its source"
            )),
        }
    }
    write_all(text, || "the page is incomplete".to_owned())
}

/// Returns the source of a page.
#[allow(clippy::match_same_arms)] // Two files may happen to be equal.
fn text(page: Page) -> &'static str {
    match page {
        Page::HelloMq => include_str!("../../man/hello-mq.1"),
        Page::Declare => include_str!("../../man/hello-mq-declare.1"),
        Page::Send => include_str!("../../man/hello-mq-send.1"),
        Page::Receive => include_str!("../../man/hello-mq-receive.1"),
        Page::Delete => include_str!("../../man/hello-mq-delete.1"),
        Page::Purge => include_str!("../../man/hello-mq-purge.1"),
        Page::Completions => include_str!("../../man/hello-mq-completions.1"),
        Page::Man => include_str!("../../man/hello-mq-man.1"),
        Page::Configuration => include_str!("../../man/hello-mq.toml.5"),
    }
}

/// Shows the page with `man`, which starts the user's pager.
fn show(text: &str) -> io::Result<()> {
    let mut man = Command::new("man")
        .args(["-l", "-"])
        .stdin(Stdio::piped())
        .spawn()?;
    if let Some(mut input) = man.stdin.take() {
        // The user may quit the pager before the end.
        let _ = input.write_all(text.as_bytes());
    }
    let status = man.wait()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(status.to_string()))
    }
}
