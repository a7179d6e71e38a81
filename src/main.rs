//! The process: parse, run, end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{ExitCode, exit};
use std::sync::{Arc, Mutex};

use hello_mq::error::Status;
use hello_mq::{abort, answer, cli, completion, interrupt, run};

fn main() -> ExitCode {
    if completion::answer() {
        return ExitCode::SUCCESS;
    }
    let status = match cli::parse(std::env::args_os()) {
        Ok(cli) => supervise(cli),
        Err(instead) => answer(&instead),
    };
    ExitCode::from(status.code())
}

/// Runs the command. A second Ctrl+C ends the process whatever the command is waiting for.
fn supervise(cli: cli::Cli) -> Status {
    // The first who comes decides the status: what is aborted makes the command end, too.
    let ending = Arc::new(Mutex::new(()));
    let ours = Arc::clone(&ending);
    let at_once = move || {
        let _first = ours.lock();
        abort();
        // The command is in nobody's hands.
        #[allow(clippy::exit)]
        exit(Status::Interrupted.code().into());
    };
    let Ok(interrupt) = interrupt::install(at_once) else {
        return Status::Bug;
    };
    // What has panicked has said so.
    let status = catch_unwind(AssertUnwindSafe(|| run(cli, interrupt))).unwrap_or(Status::Bug);
    let _first = ending.lock();
    status
}
