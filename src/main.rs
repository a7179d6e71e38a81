//! The process: parse, run, end.

use std::process::ExitCode;
use std::thread;

use crossbeam_channel::{bounded, select};
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

/// Runs the command in a thread of its own, so that a second Ctrl+C ends the process whatever the
/// command is waiting for.
fn supervise(cli: cli::Cli) -> Status {
    let Ok((first, second)) = interrupt::install() else {
        return Status::Bug;
    };
    let (sender, done) = bounded(1);
    thread::spawn(move || sender.send(run(cli, first)));
    select! {
        recv(done) -> status => status.unwrap_or(Status::Bug),
        recv(second.receiver()) -> _ => {
            abort();
            Status::Interrupted
        }
    }
}
