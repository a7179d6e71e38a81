//! The log: off by default, on standard error, and never with a password in it.

use std::io::Write;
use std::{panic, thread};

use env_logger::{Builder, Target};
use log::LevelFilter;

use crate::text;

/// Where the client library writes its own login into the log. hello-mq logs in by itself and gives
/// the library no password; what the library would log there is a replay that misleads.
const LIBRARY_LOGIN: &str = "amiquip::io_loop::handshake_state";

/// The name of the client library's thread.
const LIBRARY_THREAD: &str = "amiquip-io";

/// Keeps to itself that the client library's thread panicked, which it does when the connection ends
/// at certain moments: whoever waits for it finds that the connection is lost, and says so.
fn expect_panics_of_the_library() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if thread::current().name() == Some(LIBRARY_THREAD) {
            log::debug!("the client library's thread: {info}");
        } else {
            report(info);
        }
    }));
}

/// Starts the log: `-v` hello-mq's own steps, `-vv` also the client library's, `-vvv` everything.
/// `RUST_LOG` says more exactly what to log, and wins.
pub fn start(verbose: u8) {
    let mut builder = Builder::new();
    match std::env::var("RUST_LOG") {
        Ok(filter) if !filter.is_empty() => builder.parse_filters(&filter),
        _ => match verbose {
            0 => builder.filter_level(LevelFilter::Off),
            1 => builder.filter_module("hello_mq", LevelFilter::Info),
            2 => builder.filter_level(LevelFilter::Debug),
            _ => builder.filter_level(LevelFilter::Trace),
        },
    };
    builder
        .target(Target::Stderr)
        .format(|out, record| {
            if record.target() == LIBRARY_LOGIN {
                return Ok(());
            }
            // What peers send must not reach the terminal as it is.
            let line = text::one_line(&record.args().to_string());
            match record.target().split("::").next() {
                Some("hello_mq") => writeln!(out, "hello-mq: {line}"),
                _ => writeln!(out, "hello-mq: {}: {line}", record.target()),
            }
        })
        .init();
    expect_panics_of_the_library();
}
