//! `hello-mq completions`: prints a completion script for a shell.

use super::write_all;
use crate::cli::Completions;
use crate::completion;
use crate::error::Error;

/// Prints the script.
pub fn run(arguments: &Completions) -> Result<(), Error> {
    write_all(completion::script(arguments.shell), || {
        "the script is incomplete".to_owned()
    })
}
