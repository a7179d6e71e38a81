//! The log on standard error. It is off by default, and never contains a password.

use std::io::Write;

use env_logger::{Builder, Target};
use log::LevelFilter;

use crate::text;

/// Starts the log: `-v` logs the steps of hello-mq, `-vv` also those of the client library, `-vvv`
/// everything. `RUST_LOG` selects more precisely, and has precedence.
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
            // A peer's text could control the terminal.
            let line = text::one_line(&record.args().to_string());
            match record.target().split("::").next() {
                Some("hello_mq") => writeln!(out, "hello-mq: {line}"),
                _ => writeln!(out, "hello-mq: {}: {line}", record.target()),
            }
        })
        .init();
}
