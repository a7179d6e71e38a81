//! `hello-mq completions`: the script with which a shell completes hello-mq's command line.

use super::write_all;
use crate::cli::Completions;
use crate::completion;
use crate::error::Error;

/// Prints the script.
///
/// # Errors
/// [`Error::Output`].
pub fn run(arguments: &Completions) -> Result<(), Error> {
    write_all(completion::script(arguments.shell), || {
        "the script is incomplete".to_owned()
    })
}
