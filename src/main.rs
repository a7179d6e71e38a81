//! The process: parses the command line, runs the command, and exits.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{ExitCode, exit};
use std::sync::{Arc, Mutex};

use hello_mq::error::Status;
use hello_mq::{abort, cli, completion, descriptors, exit_early, interrupt, report, run};

fn main() -> ExitCode {
    if let Err(error) = descriptors::check() {
        return ExitCode::from(report(&cli::Common::default(), &error).code());
    }
    if completion::answer() {
        return ExitCode::SUCCESS;
    }
    let status = match cli::parse(std::env::args_os()) {
        Ok(cli) => supervise(cli),
        Err(early_exit) => exit_early(&early_exit),
    };
    ExitCode::from(status.code())
}

/// Runs the command. A second Ctrl+C ends the process whatever the command is waiting for.
fn supervise(cli: cli::Cli) -> Status {
    // The first to lock it determines the status: aborting makes the command end, too.
    let exit_lock = Arc::new(Mutex::new(()));
    let abort_lock = Arc::clone(&exit_lock);
    let exit_at_once = move || {
        let _first = abort_lock.lock();
        abort();
        #[allow(clippy::exit)] // The command may never return.
        exit(Status::Interrupted.code().into());
    };
    let interrupt = match interrupt::install(exit_at_once) {
        Ok(interrupt) => interrupt,
        Err(error) => return report(&cli.common, &error),
    };
    // The panic hook has already printed the message.
    let status = catch_unwind(AssertUnwindSafe(|| run(cli, interrupt))).unwrap_or(Status::Bug);
    let _first = exit_lock.lock();
    status
}
