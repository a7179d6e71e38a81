//! The log: off by default, on standard error, and never with a password in it.

use std::io::Write;

use env_logger::{Builder, Target};
use log::LevelFilter;

use crate::text;

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
            // What peers send must not reach the terminal as it is.
            let line = text::one_line(&record.args().to_string());
            match record.target().split("::").next() {
                Some("hello_mq") => writeln!(out, "hello-mq: {line}"),
                _ => writeln!(out, "hello-mq: {}: {line}", record.target()),
            }
        })
        .init();
}
