//! The process: parse, run, end.

use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{ExitCode, exit};
use std::sync::{Arc, Mutex};

use hello_mq::error::Status;
use hello_mq::{abort, answer, cli, completion, descriptors, interrupt, report, run};

fn main() -> ExitCode {
    if let Err(error) = descriptors::check() {
        return ExitCode::from(report(&cli::Common::default(), &error).code());
    }
    keep_pages();
    if completion::answer() {
        return ExitCode::SUCCESS;
    }
    let status = match cli::parse(std::env::args_os()) {
        Ok(cli) => supervise(cli),
        Err(early_exit) => answer(&early_exit),
    };
    ExitCode::from(status.code())
}

/// Has the C library keep the memory of big bodies for the next ones.
///
/// glibc gives what was allocated for anything big back to the system when it is freed, and the system
/// clears new pages for the next: half of the work of receiving messages of 1 MiB. It keeps what is no
/// bigger than the biggest that was ever freed (mallopt(3), `M_MMAP_THRESHOLD`). Nothing is written
/// there, so this takes no memory.
fn keep_pages() {
    drop(black_box(Vec::<u8>::with_capacity(16 << 20)));
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
    let interrupt = match interrupt::install(at_once) {
        Ok(interrupt) => interrupt,
        Err(error) => return report(&cli.common, &error),
    };
    // What has panicked has said so.
    let status = catch_unwind(AssertUnwindSafe(|| run(cli, interrupt))).unwrap_or(Status::Bug);
    let _first = ending.lock();
    status
}
