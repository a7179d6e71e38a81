//! hello-mq as its users meet it: the built program against a real broker.
//!
//! `make test` runs these; by hand: `scripts/with-broker cargo test --test integration`.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod ack_timeout;
mod command;
mod counts;
mod declare;
mod decode;
mod descriptors;
mod errors;
mod faults;
mod giving_back;
mod interrupt;
mod limit;
mod login;
mod lossless;
mod mute;
mod other_broker;
mod pace;
mod pika;
mod pipes;
mod plan;
mod readme;
mod receive;
mod recovery;
mod replay;
mod rpc;
mod selection;
mod send;
mod settings;
mod silent;
mod stream;
mod support;
mod terminal;
mod tls;
mod topology;
