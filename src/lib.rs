//! `hello-mq`: declare, send and receive on RabbitMQ from the command line.
//!
//! The library is the program without its process: [`run`] runs a parsed command line and returns the
//! exit status. It is not an interface for other programs.

pub mod broker;
pub mod cli;
mod cmd;
pub mod color;
pub mod completion;
pub mod config;
mod credentials;
pub mod definitions;
pub mod descriptors;
pub mod error;
mod expression;
pub mod input;
pub mod interrupt;
mod logging;
pub mod message;
pub mod messenger;
pub mod output;
mod ready;
pub mod settings;
mod text;
pub mod topology;
mod values;
mod waker;

use std::env;
use std::io::{self, IsTerminal, Write};

use cli::{Cli, Command, Common, EarlyExit, Verb};
use cmd::Context;
pub use cmd::abort;
use color::Paint;
use error::{Error, Status};
use interrupt::Interrupt;
use messenger::Messenger;
use settings::{Broker, Password};

/// Prints the help, the version or the usage error with which parsing ended, and returns the status to
/// exit with.
pub fn exit_early(early_exit: &EarlyExit) -> Status {
    if !early_exit.asked_for {
        let text = early_exit.text(paint(early_exit.color, &io::stderr()));
        let _ = io::stderr().write_all(format!("{}\n", text.trim_end()).as_bytes());
        return Status::Usage;
    }
    let text = early_exit.text(paint(early_exit.color, &io::stdout()));
    let text = format!("{}\n", text.trim_end());
    match cmd::write_all(&text, || "the text is incomplete".to_owned()) {
        Ok(()) => Status::Done,
        Err(error) => {
            let paint = paint(early_exit.color, &io::stderr());
            print_error(&Messenger::new(false).with_paint(paint), &error)
        }
    }
}

/// Prints an error that occurred before the command ran, and returns the status to exit with.
pub fn report(common: &Common, error: &Error) -> Status {
    print_error(&messenger(common), error)
}

fn messenger(common: &Common) -> Messenger {
    Messenger::new(common.quiet).with_paint(paint(common.color, &io::stderr()))
}

/// Runs a command, prints its error, and returns the status to exit with.
pub fn run(cli: Cli, interrupt: Interrupt) -> Status {
    logging::start(cli.common.verbose);
    let messenger = messenger(&cli.common);
    let result = match cli.command {
        Command::Verb(verb) => execute(&cli.common, verb, interrupt, messenger.clone()),
        Command::Completions(arguments) => cmd::completions::run(&arguments),
        Command::Man(arguments) => cmd::man::run(&arguments, &messenger),
    };
    match result {
        Ok(()) => Status::Done,
        Err(error) => print_error(&messenger, &error),
    }
}

fn print_error(messenger: &Messenger, error: &Error) -> Status {
    messenger.error(error);
    error.status()
}

fn execute(
    common: &Common,
    verb: Verb,
    interrupt: Interrupt,
    messenger: Messenger,
) -> Result<(), Error> {
    let variable = |name: &str| env::var_os(name);
    let file = config::read(config::place(common.config.as_deref(), variable))?;
    let mut settings = settings::resolve(common, &verb, variable, file.as_ref())?;
    if !common.explain {
        warn_about_file(file.as_ref(), &messenger);
        for broker in [&mut settings.broker]
            .into_iter()
            .chain(&mut settings.target)
        {
            warn(broker, &messenger);
            credentials::settle(broker, &interrupt, &messenger)?;
        }
    }
    let context = Context {
        settings,
        interrupt,
        messenger,
        paint: paint(common.color, &io::stdout()),
    };
    if common.explain {
        return cmd::explain::run(verb, &context);
    }
    cmd::plan(verb, &context)?.run(&context)
}

/// Returns whether a stream is coloured.
fn paint(color: cli::Color, stream: &impl IsTerminal) -> Paint {
    Paint::new(color.wanted(), stream.is_terminal(), |name| {
        env::var_os(name)
    })
}

/// Prints a warning if others can read passwords in the configuration file.
fn warn_about_file(file: Option<&config::File>, messenger: &Messenger) {
    if let Some(file) = file.filter(|file| file.holds_password()) {
        credentials::warn_if_exposed(&file.path, "a password", messenger);
    }
}

/// Prints warnings about insecure settings of a broker.
fn warn(broker: &Broker, messenger: &Messenger) {
    if let Password::File(path) = &broker.password.value {
        credentials::warn_if_exposed(path, "a password", messenger);
    }
    let tls = &broker.tls;
    if !tls.enabled.value {
        return;
    }
    let keys = tls.key_file.value.as_ref().or(tls.cert_file.value.as_ref());
    if let Some(path) = keys.filter(|path| credentials::holds_key(path)) {
        credentials::warn_if_exposed(path, "a key", messenger);
    }
    if tls.insecure.value {
        messenger.warn(&format!(
            "the broker's certificate is not checked ({}): anyone in between can read and change \
             everything, including the password",
            tls.insecure.origin
        ));
    }
}
